//! Who asks, in the order of Azure's tools: what the volume names, then a connection string, key or
//! signature in the environment, then an application's secret, a federated token, and at last the
//! managed identity; tokens are fetched by object_store.
//!
//! The Azure CLI is not asked: it is a program, and the daemon runs none.

use std::sync::Arc;

use object_store::azure::{
    AzureAccessKey, AzureConfigKey as Key, AzureCredential, MicrosoftAzureBuilder,
};
use percent_encoding::percent_decode_str;

use super::super::bucket::credentials::{client_options, no_retries};
use super::super::bucket::rotating::{Made, Rotating, file_secret};
use super::super::{Env, Error, ErrorKind, Result, Secret, wire};
use super::place::{CONNECTION_STRING, Connection, Place, account_of, of_environment};
use super::{AzureKeys, AzureSettings, fixed};

/// Where Kubernetes puts the token of a workload's identity.
pub(super) const TOKEN_FILE: &str = "AZURE_FEDERATED_TOKEN_FILE";

/// What to do where there are no credentials.
const HINT: &str = "set AZURE_STORAGE_CONNECTION_STRING, or AZURE_STORAGE_KEY, or \
                    AZURE_STORAGE_SAS_TOKEN, or an application's AZURE_TENANT_ID, AZURE_CLIENT_ID \
                    and AZURE_CLIENT_SECRET, or give --no-sign-request for a public container";

/// Something that has credentials, or knows that none are wanted.
pub(super) struct Credentials(Option<Arc<Rotating<AzureCredential>>>);

impl Credentials {
    /// Chooses by what is set now; looks nothing up yet.
    pub(super) fn choose(
        settings: &AzureSettings,
        env: &Env,
        place: &Place,
    ) -> Result<Credentials> {
        let of = |rotating| Ok(Credentials(Some(Arc::new(rotating))));
        if settings.anonymous {
            return Ok(Credentials(None));
        }
        match &settings.credentials {
            Some(AzureKeys::AccountKey(key)) => {
                return of(Rotating::new("the account key", key.clone(), account_key));
            }
            Some(AzureKeys::SasToken(sas)) => {
                let what = "the shared access signature";
                return of(Rotating::new(what, sas.clone(), signature));
            }
            Some(AzureKeys::ConnectionString(string)) => {
                let what = "the connection string";
                return of(Rotating::new(what, string.clone(), connection));
            }
            Some(AzureKeys::ClientSecret {
                tenant_id,
                client_id,
                client_secret,
            }) => {
                let app = Application::new(tenant_id, client_id, env, place);
                let what = "the application's secret";
                let make = move |secret: &str| app.with_secret(secret);
                return of(Rotating::new(what, client_secret.clone(), make));
            }
            None => {}
        }
        if of_environment(settings, env)?.is_some()
            && let Some(text) = env.get(CONNECTION_STRING)
        {
            let string = Secret::fixed(text);
            return of(Rotating::new(CONNECTION_STRING, string, connection));
        }
        // What the environment has for one account is not shown to another.
        let own = account_of(env).is_none_or(|account| account == place.account);
        let keys = [
            "AZURE_STORAGE_KEY",
            "AZURE_STORAGE_ACCOUNT_KEY",
            "AZURE_STORAGE_ACCESS_KEY",
        ];
        for variable in keys {
            if let Some(key) = env.get(variable).filter(|_| own) {
                return of(Rotating::new(variable, Secret::fixed(key), account_key));
            }
        }
        for variable in ["AZURE_STORAGE_SAS_TOKEN", "AZURE_STORAGE_SAS_KEY"] {
            if let Some(sas) = env.get(variable).filter(|_| own) {
                return of(Rotating::new(variable, Secret::fixed(sas), signature));
            }
        }
        if let (Some(tenant), Some(client)) =
            (env.get("AZURE_TENANT_ID"), env.get("AZURE_CLIENT_ID"))
        {
            let app = Application::new(tenant, client, env, place);
            if let Some(secret) = env.get("AZURE_CLIENT_SECRET") {
                let make = move |secret: &str| app.with_secret(secret);
                let secret = Secret::fixed(secret);
                return of(Rotating::new("AZURE_CLIENT_SECRET", secret, make));
            }
            if let Some(file) = env.get(TOKEN_FILE) {
                let secret = file_secret(TOKEN_FILE, file.into());
                let file = file.to_owned();
                let make = move |token: &str| app.with_token_file(&file, token);
                return of(Rotating::new(TOKEN_FILE, secret, make));
            }
        }
        let account = place.account.clone();
        let endpoint = env.get("IDENTITY_ENDPOINT").map(str::to_owned);
        let client = env.get("AZURE_CLIENT_ID").map(str::to_owned);
        of(Rotating::of_platform("the managed identity", move || {
            let mut builder = builder(&account, true);
            if let Some(endpoint) = &endpoint {
                builder = builder.with_msi_endpoint(endpoint);
            }
            if let Some(client) = &client {
                builder = builder.with_client_id(client);
            }
            made(builder.with_credential_type("managed_identity"), Vec::new())
        }))
    }

    /// Returns the credentials as they are now; nothing where requests are not to be signed.
    pub(super) async fn get(&self) -> Result<Option<Arc<AzureCredential>>> {
        match &self.0 {
            None => Ok(None),
            Some(rotating) => rotating.get(HINT).await.map(Some),
        }
    }

    pub(super) fn is_anonymous(&self) -> bool {
        self.0.is_none()
    }
}

fn denied(why: &str) -> Error {
    Error::new(ErrorKind::Denied, why)
}

/// What can be used as it is.
fn plain(credential: AzureCredential) -> Result<Made<AzureCredential>> {
    Ok(Made {
        provider: fixed(credential),
        sent: Vec::new(),
    })
}

fn account_key(key: &str) -> Result<Made<AzureCredential>> {
    // The parser's own words may quote it.
    let key = AzureAccessKey::try_new(key);
    let key = key.map_err(|_| denied("the account key is not base64; copy it again"))?;
    plain(AzureCredential::AccessKey(key))
}

fn signature(sas: &str) -> Result<Made<AzureCredential>> {
    let bad = || denied("the shared access signature is not a query of `name=value&` with a `sig`");
    let mut pairs = Vec::new();
    for pair in sas
        .trim_start_matches('?')
        .split('&')
        .filter(|p| !p.is_empty())
    {
        let (name, value) = pair.split_once('=').ok_or_else(bad)?;
        let value = percent_decode_str(value).decode_utf8().map_err(|_| bad())?;
        // What else is asked for is not the signature's to say.
        if ["restype", "comp", "prefix", "delimiter", "marker"].contains(&name) {
            return Err(bad());
        }
        pairs.push((name.to_owned(), value.into_owned()));
    }
    if !pairs.iter().any(|(name, _)| name == "sig") {
        return Err(bad());
    }
    plain(AzureCredential::SASToken(pairs))
}

fn connection(text: &str) -> Result<Made<AzureCredential>> {
    let connection = Connection::parse(text)?;
    match (connection.key, connection.sas) {
        (Some(key), _) => account_key(&key),
        (None, Some(sas)) => signature(&sas),
        (None, None) => Err(denied(
            "the Azure connection string has neither AccountKey nor SharedAccessSignature",
        )),
    }
}

/// An application of Entra ID.
struct Application {
    account: String,
    tenant: String,
    client: String,
    authority: Option<String>,
}

impl Application {
    fn new(tenant: &str, client: &str, env: &Env, place: &Place) -> Application {
        let authority = env.get("AZURE_AUTHORITY_HOST");
        Application {
            account: place.account.clone(),
            tenant: tenant.to_owned(),
            client: client.to_owned(),
            authority: authority.map(|host| host.trim_end_matches('/').to_owned()),
        }
    }

    fn builder(&self) -> MicrosoftAzureBuilder {
        // What is sent there is a secret: in the clear only where a user asks for just that.
        let authority = self.authority.as_deref().unwrap_or_default();
        let mut builder = builder(&self.account, authority.starts_with("http://"))
            .with_config(Key::ClientId, &self.client)
            .with_config(Key::AuthorityId, &self.tenant);
        if let Some(authority) = &self.authority {
            builder = builder.with_config(Key::AuthorityHost, authority);
        }
        builder
    }

    fn with_secret(&self, secret: &str) -> Result<Made<AzureCredential>> {
        let builder = self.builder().with_config(Key::ClientSecret, secret);
        let builder = builder.with_credential_type("client_secret");
        made(builder, vec![secret.to_owned()])
    }

    fn with_token_file(&self, file: &str, token: &str) -> Result<Made<AzureCredential>> {
        let builder = self.builder().with_config(Key::FederatedTokenFile, file);
        let builder = builder.with_credential_type("workload_identity");
        made(builder, vec![token.to_owned()])
    }
}

fn builder(account: &str, http: bool) -> MicrosoftAzureBuilder {
    MicrosoftAzureBuilder::new()
        .with_account(account)
        .with_container_name("unused")
        .with_retry(no_retries())
        .with_client_options(client_options().with_allow_http(http))
}

fn made(builder: MicrosoftAzureBuilder, sent: Vec<String>) -> Result<Made<AzureCredential>> {
    crate::tls::install();
    let store = builder.build().map_err(|e| {
        let message = format!("cannot set up Azure's credentials: {}", wire::causes(&e));
        Error::new(ErrorKind::Invalid, message)
    })?;
    Ok(Made {
        provider: store.credentials().clone(),
        sent,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn signatures_are_read_as_they_are_copied() {
        for text in ["?sv=1&sig=a%2Bb%3D&se=2026", "sv=1&sig=a+b=&se=2026&"] {
            let made = signature(text).unwrap();
            let credential = made.provider.get_credential().await.unwrap();
            let AzureCredential::SASToken(pairs) = &*credential else {
                panic!("another credential");
            };
            assert!(pairs.contains(&("sig".into(), "a+b=".into())), "{text}");
        }
        for text in ["", "hunter2", "sv=1", "sig=%ff", "sig=hunter2&comp=delete"] {
            let Err(error) = signature(text) else {
                panic!("{text} is taken");
            };
            assert!(!error.to_string().contains("hunter2"), "{error}");
        }
    }

    #[test]
    fn a_key_that_is_none_is_not_repeated() {
        for text in ["hunter2!", "AccountName=a;AccountKey=hunter2!"] {
            let made = account_key(text).err().or(connection(text).err());
            let error = made.unwrap().to_string();
            assert!(!error.contains("hunter2"), "{error}");
        }
    }
}
