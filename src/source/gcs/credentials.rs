//! Who asks, in the order of Google's tools: what the volume names, the file that
//! GOOGLE_APPLICATION_CREDENTIALS names, what `gcloud auth application-default login` left, and at
//! last the machine's own account; tokens are made or fetched by object_store.

use std::path::PathBuf;
use std::sync::Arc;

use object_store::gcp::{GcpCredential, GoogleCloudStorageBuilder};
use serde::Deserialize;

use super::super::bucket::credentials::{client_options, no_retries};
use super::super::bucket::rotating::{Made, Rotating, file_secret};
use super::super::{Env, Error, ErrorKind, Result, wire};
use super::GcsSettings;

/// Where Google's tools are told of a file with credentials.
const VARIABLE: &str = "GOOGLE_APPLICATION_CREDENTIALS";

/// What `gcloud` leaves in its directory.
const LEFT: &str = "application_default_credentials.json";

/// What to do where there are no credentials.
const HINT: &str = "set GOOGLE_APPLICATION_CREDENTIALS to the file of a service account's key, or \
                    log in (gcloud auth application-default login), or give --no-sign-request for \
                    a public bucket";

/// Something that has credentials, or knows that none are wanted.
pub(super) struct Credentials(Option<Arc<Rotating<GcpCredential>>>);

/// Returns the files of this machine that a source may read beside those that its settings name:
/// those with credentials, there or not.
pub fn local_files(env: &Env) -> Vec<PathBuf> {
    let named = env.get(VARIABLE).map(PathBuf::from);
    named.into_iter().chain(left(env)).collect()
}

/// Returns where `gcloud` leaves credentials.
fn left(env: &Env) -> Option<PathBuf> {
    let own = env.get("CLOUDSDK_CONFIG").map(PathBuf::from);
    let dir = own.or_else(|| Some(PathBuf::from(env.get("HOME")?).join(".config/gcloud")))?;
    Some(dir.join(LEFT))
}

impl Credentials {
    /// Chooses by what is set now. An emulator wants none, unless the settings name some.
    pub(super) fn choose(settings: &GcsSettings, env: &Env, emulator: bool) -> Credentials {
        let of = |rotating| Credentials(Some(Arc::new(rotating)));
        if settings.anonymous {
            return Credentials(None);
        }
        if let Some(key) = &settings.service_account_key {
            let what = "the service account's key";
            return of(Rotating::new(what, key.clone(), service_account));
        }
        if emulator {
            return Credentials(None);
        }
        let in_file = |what, file: PathBuf| {
            let secret = file_secret(what, file.clone());
            of(Rotating::new(what, secret, move |text: &str| {
                from_file(&file, text)
            }))
        };
        if let Some(file) = env.get(VARIABLE) {
            return in_file(VARIABLE, file.into());
        }
        match left(env).filter(|file| file.exists()) {
            Some(file) => in_file("gcloud's default credentials", file),
            None => of(Rotating::of_platform(
                "the machine's metadata service",
                || made(builder(), Vec::new()),
            )),
        }
    }

    /// Returns the credentials as they are now; nothing where requests go without a token.
    pub(super) async fn get(&self) -> Result<Option<Arc<GcpCredential>>> {
        match &self.0 {
            None => Ok(None),
            Some(rotating) => rotating.get(HINT).await.map(Some),
        }
    }

    pub(super) fn is_anonymous(&self) -> bool {
        self.0.is_none()
    }
}

/// What a file of credentials holds, as far as we look at it ourselves.
#[derive(Deserialize)]
struct File {
    #[serde(rename = "type")]
    kind: Option<String>,
    private_key: Option<String>,
    client_secret: Option<String>,
    refresh_token: Option<String>,
}

fn read(text: &str) -> Result<File> {
    // The parser's own words may quote the file.
    serde_json::from_str(text).map_err(|_| {
        let what = "Google's credentials are not the JSON that its tools write; make the key again";
        Error::new(ErrorKind::Denied, what)
    })
}

fn service_account(text: &str) -> Result<Made<GcpCredential>> {
    if read(text)?.private_key.is_none() {
        let what = "the service account's key has no private_key; give the JSON file that the \
                    console or `gcloud iam service-accounts keys create` made";
        return Err(Error::new(ErrorKind::Denied, what));
    }
    // A token is signed here; the key itself is sent to nobody.
    made(builder().with_service_account_key(text), Vec::new())
}

fn from_file(file: &std::path::Path, text: &str) -> Result<Made<GcpCredential>> {
    let content = read(text)?;
    match content.kind.as_deref() {
        Some("service_account") => service_account(text),
        Some("authorized_user") => {
            let sent = [content.client_secret, content.refresh_token];
            let sent = sent.into_iter().flatten().collect();
            made(
                builder().with_application_credentials(file.to_string_lossy()),
                sent,
            )
        }
        other => {
            let other: String = other.unwrap_or("none").chars().take(64).collect();
            let what = format!(
                "credentials of the type {other} are not supported; use a service account's key or \
                 `gcloud auth application-default login`"
            );
            Err(Error::new(ErrorKind::Denied, what))
        }
    }
}

fn builder() -> GoogleCloudStorageBuilder {
    GoogleCloudStorageBuilder::new()
        .with_bucket_name("unused")
        .with_retry(no_retries())
        .with_client_options(client_options())
}

fn made(builder: GoogleCloudStorageBuilder, sent: Vec<String>) -> Result<Made<GcpCredential>> {
    crate::tls::install();
    let store = builder.build().map_err(|e| {
        // Some of its words quote what is in the file.
        let mut why = wire::causes(&e);
        why.truncate(why.find('`').unwrap_or(why.len()));
        let message = format!("cannot set up Google's credentials: {why}");
        Error::new(ErrorKind::Denied, message)
    })?;
    Ok(Made {
        provider: store.credentials().clone(),
        sent,
    })
}
