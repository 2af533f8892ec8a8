//! What the sections share: certificates, the proxy, who asks.

use std::path::PathBuf;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::Problems;
use crate::config::names::HttpUrl;
use crate::config::secret::SecretRef;

/// Certificates: whom to trust, and who asks.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Tls {
    /// A file of PEM certificates of authorities that are trusted beside the system's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1))]
    pub ca_file: Option<PathBuf>,
    /// The certificate that is shown to a server which wants one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub client: Option<ClientCertificate>,
}

/// A certificate of the client's own.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ClientCertificate {
    /// A file with the certificate and those between it and its authority, in PEM.
    #[schemars(length(min = 1))]
    pub cert_file: PathBuf,
    /// A file with its private key, in PEM, without a passphrase.
    #[schemars(length(min = 1))]
    pub key_file: PathBuf,
}

/// A proxy. Without this section, HTTPS_PROXY, HTTP_PROXY and NO_PROXY say.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Proxy {
    /// The proxy's URL.
    pub url: HttpUrl,
    /// Who asks, where the proxy wants to know.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub auth: Option<BasicAuth>,
}

pub(in crate::config) fn each_file(
    tls: &mut Option<Tls>,
    proxy: &mut Option<Proxy>,
    each: &mut dyn FnMut(&mut PathBuf),
) {
    if let Some(tls) = tls {
        tls.ca_file.iter_mut().for_each(&mut *each);
        if let Some(client) = &mut tls.client {
            each(&mut client.cert_file);
            each(&mut client.key_file);
        }
    }
    if let Some(auth) = proxy.as_mut().and_then(|proxy| proxy.auth.as_mut()) {
        auth.password.each_file(each);
    }
}

pub(in crate::config) fn problems(proxy: &Option<Proxy>, found: &mut Problems) {
    if let Some(auth) = proxy.as_ref().and_then(|proxy| proxy.auth.as_ref())
        && auth.username.contains(':')
    {
        found.add(
            &["proxy", "auth", "username"],
            "a user name cannot hold `:`",
        );
    }
}

/// How a web server is told who asks.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub enum HttpAuth {
    /// `Authorization: Bearer TOKEN`.
    Bearer(BearerAuth),
    /// A user name and a password.
    Basic(BasicAuth),
}

impl HttpAuth {
    pub(in crate::config) fn each_file(&mut self, each: &mut dyn FnMut(&mut PathBuf)) {
        match self {
            Self::Bearer(bearer) => bearer.token.each_file(each),
            Self::Basic(basic) => basic.password.each_file(each),
        }
    }

    pub(in crate::config) fn problems(&self, found: &mut Problems) {
        if let Self::Basic(basic) = self
            && basic.username.contains(':')
        {
            let what =
                "a user name cannot hold `:`; the password belongs in `password`, by reference";
            found.add(&["auth", "basic", "username"], what);
        }
    }
}

/// A token.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct BearerAuth {
    /// Where the token is.
    pub token: SecretRef,
}

/// A user name and a password.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct BasicAuth {
    /// The user's name.
    pub username: String,
    /// Where the password is.
    pub password: SecretRef,
}
