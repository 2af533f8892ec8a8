//! Which account at which URL: what the volume says, a connection string, the environment.

use super::super::bucket::request::Endpoint;
use super::super::{Env, Error, ErrorKind, Result};
use super::{AzureKeys, AzureSettings};

/// Where the connection string is for Azure's tools.
pub(super) const CONNECTION_STRING: &str = "AZURE_STORAGE_CONNECTION_STRING";

/// What the domain of Azure's public cloud ends with.
const PUBLIC: &str = "core.windows.net";

/// The account and the key of the emulator, which Microsoft has published for everybody.
const EMULATOR: (&str, &str) = (
    "devstoreaccount1",
    "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw==",
);

/// Where the emulator listens.
const EMULATOR_URL: &str = "http://127.0.0.1:10000/devstoreaccount1";

/// A storage account's blob service.
pub(super) struct Place {
    /// The account's name, which signatures need.
    pub(super) account: String,
    /// The service's URL without a slash at its end.
    pub(super) endpoint: String,
    /// What names it for good.
    pub(super) identity: String,
    /// Whether what is sent there cannot be read on the way.
    pub(super) is_private: bool,
}

/// What a connection string says.
#[derive(Default)]
pub(super) struct Connection {
    account: Option<String>,
    endpoint: Option<String>,
    pub(super) key: Option<String>,
    pub(super) sas: Option<String>,
}

impl Connection {
    /// Reads a connection string; nothing of it is in the error.
    pub(super) fn parse(text: &str) -> Result<Connection> {
        let mut all = Connection::default();
        let (mut scheme, mut suffix) = ("https", PUBLIC);
        for part in text
            .split(';')
            .map(str::trim)
            .filter(|part| !part.is_empty())
        {
            let Some((name, value)) = part.split_once('=') else {
                let what = "the Azure connection string is not made of `name=value;` parts";
                return Err(Error::new(ErrorKind::Denied, what));
            };
            let owned = Some(value.to_owned());
            match name.to_ascii_lowercase().as_str() {
                "accountname" => all.account = owned,
                "accountkey" => all.key = owned,
                "sharedaccesssignature" => all.sas = owned,
                "blobendpoint" => all.endpoint = owned,
                "defaultendpointsprotocol" => scheme = value,
                "endpointsuffix" => suffix = value,
                "usedevelopmentstorage" if value.eq_ignore_ascii_case("true") => {
                    all.account = Some(EMULATOR.0.into());
                    all.key = Some(EMULATOR.1.into());
                    all.endpoint = Some(EMULATOR_URL.into());
                }
                // Those of other services.
                _ => {}
            }
        }
        if let (None, Some(account)) = (&all.endpoint, &all.account) {
            all.endpoint = Some(format!("{scheme}://{account}.blob.{suffix}"));
        }
        Ok(all)
    }
}

impl Place {
    pub(super) fn find(settings: &AzureSettings, env: &Env) -> Result<Place> {
        let var = |name: &str| env.get(name).map(str::to_owned);
        let named = match &settings.credentials {
            Some(AzureKeys::ConnectionString(secret)) => Connection::parse(secret.read()?.trim())?,
            Some(_) => Connection::default(),
            None => of_environment(settings, env)?.unwrap_or_default(),
        };
        let endpoint = settings.endpoint.clone();
        let known = settings.account.is_some() && named.account != settings.account;
        let endpoint = endpoint
            .or_else(|| named.endpoint.filter(|_| !known))
            .or_else(|| {
                // Of the environment's account, and no other's.
                let same = settings.account.is_none() || settings.account == account_of(env);
                let own = || var("AZURE_STORAGE_SERVICE_ENDPOINT");
                let own = || own().or_else(|| var("AZURE_STORAGE_ENDPOINT"));
                same.then(own).flatten()
            });
        let account = { settings.account.clone() }
            .or(named.account)
            .or_else(|| account_of(env));
        let (account, url) = match (account, endpoint) {
            (account, Some(endpoint)) => {
                let mut at = Endpoint::parse(&endpoint, "Azure")?;
                if has_no_name(&at) && at.path.is_empty() {
                    at.path = { account.iter() }.map(|name| format!("/{name}")).collect();
                }
                let account = account.or_else(|| account_in(&at));
                (account, at)
            }
            (Some(account), None) => {
                let url = format!("https://{account}.blob.{PUBLIC}");
                (Some(account), Endpoint::parse(&url, "Azure")?)
            }
            (None, None) => (None, Endpoint::parse("https://unknown", "Azure")?),
        };
        let Some(account) = account else {
            let what = "no storage account is named: set `account`, AZURE_STORAGE_ACCOUNT or \
                        AZURE_STORAGE_CONNECTION_STRING";
            return Err(Error::new(ErrorKind::Invalid, what));
        };
        let fits = |b: u8| b.is_ascii_alphanumeric() || b"-._".contains(&b);
        if account.is_empty() || !account.bytes().all(fits) {
            let what = format!("{account:?} is not the name of a storage account");
            return Err(Error::new(ErrorKind::Invalid, what));
        }
        Ok(Place {
            endpoint: url.url(),
            identity: url.place(),
            is_private: url.is_private(),
            account,
        })
    }
}

/// Returns the account that the environment names.
pub(super) fn account_of(env: &Env) -> Option<String> {
    let name = env.get("AZURE_STORAGE_ACCOUNT");
    name.or_else(|| env.get("AZURE_STORAGE_ACCOUNT_NAME"))
        .map(str::to_owned)
}

/// Returns what the environment's connection string says, unless it is for another account than the
/// one that the settings name.
pub(super) fn of_environment(settings: &AzureSettings, env: &Env) -> Result<Option<Connection>> {
    let Some(text) = env.get(CONNECTION_STRING).filter(|_| !settings.anonymous) else {
        return Ok(None);
    };
    let connection = Connection::parse(text.trim())?;
    let other = match (&settings.account, &connection.account) {
        (Some(wanted), Some(named)) => wanted != named,
        _ => false,
    };
    Ok(Some(connection).filter(|_| !other))
}

/// Returns the account that is part of a URL.
fn account_in(at: &Endpoint) -> Option<String> {
    let first = match has_no_name(at) {
        true => at.path.trim_start_matches('/').split('/').next(),
        false => at.host.split('.').next(),
    };
    first.filter(|name| !name.is_empty()).map(str::to_owned)
}

/// Returns whether a URL's host has no room for the account before it.
fn has_no_name(at: &Endpoint) -> bool {
    at.host == "localhost" || at.address().is_some()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::source::Secret;

    fn find(settings: AzureSettings, env: &[(&str, &str)]) -> Result<Place> {
        Place::find(&settings, &Env::from_pairs(env.iter().copied()))
    }

    fn at(place: Result<Place>) -> (String, String) {
        let place = place.unwrap_or_else(|e| panic!("{e}"));
        (place.account, place.endpoint)
    }

    fn of(account: &str, endpoint: &str) -> (String, String) {
        (account.into(), endpoint.into())
    }

    #[test]
    fn the_account_and_its_url_are_found_where_the_tools_find_them() {
        let none = AzureSettings::default;
        let public = "https://acc.blob.core.windows.net";
        assert_eq!(
            at(find(none(), &[("AZURE_STORAGE_ACCOUNT", "acc")])),
            of("acc", public)
        );
        let string = "AccountName=acc;AccountKey=aGk=;EndpointSuffix=core.chinacloudapi.cn";
        assert_eq!(
            at(find(none(), &[(CONNECTION_STRING, string)])),
            of("acc", "https://acc.blob.core.chinacloudapi.cn")
        );
        assert_eq!(
            at(find(
                none(),
                &[(CONNECTION_STRING, "UseDevelopmentStorage=true")]
            )),
            of(EMULATOR.0, EMULATOR_URL)
        );
        let sas = "BlobEndpoint=https://acc.blob.core.windows.net/;SharedAccessSignature=sig=x";
        assert_eq!(
            at(find(none(), &[(CONNECTION_STRING, sas)])),
            of("acc", public)
        );
        // Settings beat the environment, whose account and endpoint go together.
        let other = AzureSettings {
            account: Some("mine".into()),
            ..none()
        };
        let mine = of("mine", "https://mine.blob.core.windows.net");
        for env in [
            ("AZURE_STORAGE_ACCOUNT", "acc"),
            (CONNECTION_STRING, string),
            ("AZURE_STORAGE_SERVICE_ENDPOINT", "https://acc.example"),
        ] {
            assert_eq!(at(find(other.clone(), &[env])), mine, "{env:?}");
        }
        let emulator = AzureSettings {
            endpoint: Some("http://127.0.0.1:1".into()),
            ..other
        };
        let path = of("mine", "http://127.0.0.1:1/mine");
        assert_eq!(at(find(emulator, &[])), path);
        let named = AzureSettings {
            endpoint: Some("http://127.0.0.1:1/mine/".into()),
            ..none()
        };
        assert_eq!(at(find(named, &[])), path);
    }

    #[test]
    fn what_cannot_work_is_said_without_secrets() {
        let secret = |text: &str| AzureSettings {
            credentials: Some(AzureKeys::ConnectionString(Secret::fixed(text))),
            ..AzureSettings::default()
        };
        for settings in [
            AzureSettings::default(),
            secret("hunter2"),
            secret("AccountKey=hunter2"),
            secret("AccountName=a/b;AccountKey=hunter2"),
            secret("BlobEndpoint=https://me:hunter2@host/;SharedAccessSignature=hunter2"),
        ] {
            let Err(error) = find(settings, &[]) else {
                panic!("taken");
            };
            assert!(!error.to_string().contains("hunter2"), "{error}");
        }
    }
}
