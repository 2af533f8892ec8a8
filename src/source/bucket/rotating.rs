//! Credentials made of a secret, and made anew when it changes.

use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use super::super::confidence::Confidences;
use super::super::{Error, ErrorKind, Result, Secret};
use super::credentials::{METADATA_WAIT, PLATFORM_WAIT, Patient, Provider, blocking};

/// What a secret was made into.
pub(crate) struct Made<C> {
    pub(crate) provider: Provider<C>,
    /// What of the secret others are sent, and may repeat.
    pub(crate) sent: Vec<String>,
}

type Make<C> = Box<dyn Fn(&str) -> Result<Made<C>> + Send + Sync>;
type Cached<C> = (blake3::Hash, Arc<(Patient<C>, Confidences)>);

/// Credentials made of a secret, which is read anew each time: when it changed, so do they.
pub(crate) struct Rotating<C> {
    what: &'static str,
    secret: Secret,
    wait: Duration,
    /// Whether somebody set this up, so that no answer is an outage and not a lack of credentials.
    wanted: bool,
    make: Make<C>,
    cached: Mutex<Option<Cached<C>>>,
}

impl<C: Send + Sync + 'static> Rotating<C> {
    /// Returns credentials made of `secret` by `make`, which may block on the local disk. `what` is
    /// where they come from, for messages.
    pub(crate) fn new(
        what: &'static str,
        secret: Secret,
        make: impl Fn(&str) -> Result<Made<C>> + Send + Sync + 'static,
    ) -> Rotating<C> {
        Rotating {
            what,
            secret,
            wait: PLATFORM_WAIT,
            wanted: true,
            make: Box::new(make),
            cached: Mutex::new(None),
        }
    }

    /// Returns credentials of the platform, if there are any: what is asked last.
    pub(crate) fn of_platform(
        what: &'static str,
        make: impl Fn() -> Result<Made<C>> + Send + Sync + 'static,
    ) -> Rotating<C> {
        Rotating {
            wait: METADATA_WAIT,
            wanted: false,
            ..Rotating::new(what, Secret::fixed(""), move |_| make())
        }
    }

    /// Returns the credentials as they are now. `hint` says how to give some.
    pub(crate) async fn get(self: &Arc<Self>, hint: &str) -> Result<Arc<C>> {
        let this = self.clone();
        let current = blocking(move || this.current()).await?;
        let (patient, sent) = &*current;
        let what = self.what;
        patient.get().await.map_err(|failure| {
            let why = failure.why;
            let error = match failure.outage {
                Some(kind) if self.wanted => {
                    Error::new(kind, format!("no token from {what}: {why}"))
                }
                _ => Error::new(
                    ErrorKind::Denied,
                    format!("no credentials from {what}: {why}; {hint}"),
                ),
            };
            sent.conceal(error)
        })
    }

    fn current(&self) -> Result<Arc<(Patient<C>, Confidences)>> {
        let text = self.secret.read()?;
        let text = text.trim();
        let hash = blake3::hash(text.as_bytes());
        let mut cached = self.cached.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((of, made)) = &*cached
            && *of == hash
        {
            return Ok(made.clone());
        }
        let made = (self.make)(text)?;
        let sent = Confidences::default();
        made.sent.into_iter().for_each(|part| sent.remember(part));
        let current = Arc::new((Patient::new(made.provider, self.wait), sent));
        *cached = Some((hash, current.clone()));
        Ok(current)
    }
}

/// Returns the content of a file as a secret, named by `variable`.
pub(crate) fn file_secret(variable: &'static str, path: PathBuf) -> Secret {
    Secret::from_fn(move || {
        let read = std::fs::read_to_string(&path);
        read.map_err(|e| format!("{variable}: cannot read {}: {e}", path.display()))
    })
}
