//! The section `azure`.

use std::fmt;
use std::path::PathBuf;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::transport::{self, Proxy, Tls};
use super::{Problems, is_false, write_bucket};
use crate::config::host::ContainerName;
use crate::config::names::HttpUrl;
use crate::config::secret::SecretRef;

/// A container of Azure Blob Storage. What is left out comes from where Azure's tools take it:
/// environment, the platform.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct AzureSource {
    /// The storage account's name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub account: Option<String>,
    /// The container's name.
    pub container: ContainerName,
    /// The part of the container that the layer shows. Without it, all of it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub prefix: Option<String>,
    /// The URL of a service other than `https://ACCOUNT.blob.core.windows.net`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub endpoint_url: Option<HttpUrl>,
    /// Sends requests without a signature, for public containers.
    #[serde(default, skip_serializing_if = "is_false")]
    pub no_sign_request: bool,
    /// Who asks, by reference. Without it: environment and platform.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub credentials: Option<AzureCredentials>,
    /// Certificates.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tls: Option<Tls>,
    /// The way to the server.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub proxy: Option<Proxy>,
}

/// How an Azure account is told who asks.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub enum AzureCredentials {
    /// The account's key.
    AccountKey(SecretRef),
    /// A shared access signature, as Azure's tools write it.
    SasToken(SecretRef),
    /// A connection string, which names account and endpoint too.
    ConnectionString(SecretRef),
    /// An application of Entra ID.
    ClientSecret(AzureClientSecret),
}

/// An application of Entra ID and its secret.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct AzureClientSecret {
    /// The directory's id.
    pub tenant_id: String,
    /// The application's id.
    pub client_id: String,
    /// The application's secret.
    pub client_secret: SecretRef,
}

impl AzureSource {
    /// Returns a source with nothing but its container set.
    pub fn new(container: ContainerName) -> Self {
        Self {
            account: None,
            container,
            prefix: None,
            endpoint_url: None,
            no_sign_request: false,
            credentials: None,
            tls: None,
            proxy: None,
        }
    }

    /// Returns the prefix without slashes at its ends; empty for the whole container.
    pub fn key_prefix(&self) -> &str {
        self.prefix.as_deref().unwrap_or_default().trim_matches('/')
    }

    pub(super) fn each_file(&mut self, each: &mut dyn FnMut(&mut PathBuf)) {
        match &mut self.credentials {
            Some(
                AzureCredentials::AccountKey(secret)
                | AzureCredentials::SasToken(secret)
                | AzureCredentials::ConnectionString(secret),
            ) => secret.each_file(each),
            Some(AzureCredentials::ClientSecret(client)) => client.client_secret.each_file(each),
            None => {}
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
impl fmt::Display for AzureSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write_bucket(f, "az", self.container.as_str(), self.key_prefix())
    }
}
