//! The section `s3`.

use std::fmt;
use std::path::PathBuf;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::transport::{self, Proxy, Tls};
use super::{Problems, is_false, write_bucket};
use crate::config::names::{BucketName, HttpUrl};
use crate::config::secret::SecretRef;

/// A bucket of Amazon S3 or of anything that speaks its protocol. What is left out comes from
/// where the AWS tools take it: environment, shared configuration files, the platform.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct S3Source {
    /// The bucket's name, or the ARN of an access point.
    pub bucket: BucketName,
    /// The part of the bucket that the layer shows: `data/v2` is the directory of that name.
    /// Without it, the whole bucket. Slashes at both ends do not matter.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub prefix: Option<String>,
    /// The bucket's region, such as `eu-central-1`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub region: Option<String>,
    /// The URL of a service other than Amazon's; `http://` is allowed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub endpoint_url: Option<HttpUrl>,
    /// `true` puts the bucket into the URL's path, `false` into its host. Without it: the path
    /// where `endpointUrl` is set, the host at Amazon.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub path_style: Option<bool>,
    /// Sends requests without a signature, for public buckets.
    #[serde(default, skip_serializing_if = "is_false")]
    pub no_sign_request: bool,
    /// The profile of the shared configuration files (`~/.aws/config`).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub profile: Option<String>,
    /// Agrees to pay for the requests to a bucket whose owner asks for it.
    #[serde(default, skip_serializing_if = "is_false")]
    pub requester_pays: bool,
    /// Static keys, by reference. Without them: the AWS tools' own chain.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub credentials: Option<S3Credentials>,
    /// Certificates.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tls: Option<Tls>,
    /// The way to the service.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub proxy: Option<Proxy>,
}

impl S3Source {
    /// Returns a source with nothing but its bucket set.
    pub fn new(bucket: BucketName) -> Self {
        Self {
            bucket,
            prefix: None,
            region: None,
            endpoint_url: None,
            path_style: None,
            no_sign_request: false,
            profile: None,
            requester_pays: false,
            credentials: None,
            tls: None,
            proxy: None,
        }
    }

    /// Returns the prefix without slashes at its ends; empty for the whole bucket.
    pub fn key_prefix(&self) -> &str {
        self.prefix.as_deref().unwrap_or_default().trim_matches('/')
    }

    pub(super) fn each_file(&mut self, each: &mut dyn FnMut(&mut PathBuf)) {
        if let Some(keys) = &mut self.credentials {
            keys.access_key_id.each_file(each);
            keys.secret_access_key.each_file(each);
            keys.session_token
                .iter_mut()
                .for_each(|t| t.each_file(each));
        }
        transport::each_file(&mut self.tls, &mut self.proxy, each);
    }

    pub(super) fn problems(&self, found: &mut Problems) {
        let given = self.credentials.is_some().then_some("credentials");
        found.check_bucket(self.prefix.as_deref(), self.no_sign_request, given);
        transport::problems(&self.proxy, found);
    }
}

/// Writes the source as a URL.
impl fmt::Display for S3Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write_bucket(f, "s3", self.bucket.as_str(), self.key_prefix())
    }
}

/// Where the keys of an S3 account are.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct S3Credentials {
    /// The access key's id.
    pub access_key_id: SecretRef,
    /// The access key.
    pub secret_access_key: SecretRef,
    /// The token of temporary keys.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub session_token: Option<SecretRef>,
}
