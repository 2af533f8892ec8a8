//! The section `gcs`.

use std::fmt;
use std::path::PathBuf;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::transport::{self, Proxy, Tls};
use super::{Problems, is_false, write_bucket};
use crate::config::host::ContainerName;
use crate::config::names::HttpUrl;
use crate::config::secret::SecretRef;

/// A bucket of Google Cloud Storage. What is left out comes from where Google's tools take it:
/// GOOGLE_APPLICATION_CREDENTIALS, `gcloud`'s default credentials, the platform.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct GcsSource {
    /// The bucket's name.
    pub bucket: ContainerName,
    /// The part of the bucket that the layer shows. Without it, all of it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub prefix: Option<String>,
    /// The URL of a service other than `https://storage.googleapis.com`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub endpoint_url: Option<HttpUrl>,
    /// Sends requests without a token, for public buckets.
    #[serde(default, skip_serializing_if = "is_false")]
    pub no_sign_request: bool,
    /// The key of a service account, in JSON, by reference.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub service_account_key: Option<SecretRef>,
    /// The project that pays for the requests to a bucket whose owner asks for it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub user_project: Option<String>,
    /// Certificates.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tls: Option<Tls>,
    /// The way to the server.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub proxy: Option<Proxy>,
}

impl GcsSource {
    /// Returns a source with nothing but its bucket set.
    pub fn new(bucket: ContainerName) -> Self {
        Self {
            bucket,
            prefix: None,
            endpoint_url: None,
            no_sign_request: false,
            service_account_key: None,
            user_project: None,
            tls: None,
            proxy: None,
        }
    }

    /// Returns the prefix without slashes at its ends; empty for the whole bucket.
    pub fn key_prefix(&self) -> &str {
        self.prefix.as_deref().unwrap_or_default().trim_matches('/')
    }

    pub(super) fn each_file(&mut self, each: &mut dyn FnMut(&mut PathBuf)) {
        self.service_account_key
            .iter_mut()
            .for_each(|key| key.each_file(each));
        transport::each_file(&mut self.tls, &mut self.proxy, each);
    }

    pub(super) fn problems(&self, found: &mut Problems) {
        let given = self
            .service_account_key
            .is_some()
            .then_some("serviceAccountKey");
        found.check_bucket(self.prefix.as_deref(), self.no_sign_request, given);
        transport::problems(&self.proxy, found);
    }
}

/// Writes the source as a URL.
impl fmt::Display for GcsSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write_bucket(f, "gs", self.bucket.as_str(), self.key_prefix())
    }
}
