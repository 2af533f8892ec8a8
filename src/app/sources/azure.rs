//! The section `azure`.

use std::path::PathBuf;
use std::sync::Arc;

use crate::config;
use crate::source::{self, Source};

#[cfg(feature = "azure")]
pub(super) fn build(azure: &config::AzureSource) -> source::Result<Arc<dyn Source>> {
    use crate::source::Env;
    use crate::source::azure::AzureSource;
    Ok(Arc::new(AzureSource::new(
        settings(azure),
        &Env::of_process(),
    )?))
}

#[cfg(feature = "azure")]
pub(super) fn files(_: &config::AzureSource) -> Vec<PathBuf> {
    crate::source::azure::local_files(&crate::source::Env::of_process())
}

#[cfg(feature = "azure")]
fn settings(azure: &config::AzureSource) -> crate::source::azure::AzureSettings {
    use super::{proxy, secret, tls};
    use crate::config::AzureCredentials as Config;
    use crate::source::azure::{AzureKeys, AzureSettings};
    AzureSettings {
        account: azure.account.clone(),
        container: azure.container.as_str().to_owned(),
        prefix: azure.prefix.clone().unwrap_or_default(),
        endpoint: { azure.endpoint_url.as_ref() }.map(|u| u.as_str().to_owned()),
        anonymous: azure.no_sign_request,
        credentials: azure
            .credentials
            .as_ref()
            .map(|credentials| match credentials {
                Config::AccountKey(key) => AzureKeys::AccountKey(secret(key)),
                Config::SasToken(sas) => AzureKeys::SasToken(secret(sas)),
                Config::ConnectionString(string) => AzureKeys::ConnectionString(secret(string)),
                Config::ClientSecret(client) => AzureKeys::ClientSecret {
                    tenant_id: client.tenant_id.clone(),
                    client_id: client.client_id.clone(),
                    client_secret: secret(&client.client_secret),
                },
            }),
        tls: tls(&azure.tls),
        proxy: proxy(&azure.proxy),
    }
}

#[cfg(not(feature = "azure"))]
pub(super) fn build(_: &config::AzureSource) -> source::Result<Arc<dyn Source>> {
    Err(super::left_out("azure"))
}

#[cfg(not(feature = "azure"))]
pub(super) fn files(_: &config::AzureSource) -> Vec<PathBuf> {
    Vec::new()
}
