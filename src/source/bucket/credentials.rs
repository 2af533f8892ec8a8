//! Credentials that object_store finds, asked for within bounds.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use object_store::client::{HttpError, HttpErrorKind};
use object_store::{ClientOptions, CredentialProvider, RetryConfig};

use super::super::wire;
use super::super::{Error, ErrorKind, Result};

/// How long the instance's metadata service may take. It is on the same host; where there is none
/// the address often swallows packets, and the user is to learn soon that there are no keys.
pub(crate) const METADATA_WAIT: Duration = Duration::from_secs(2);

/// How long another platform service (a token service, the container agent) may take.
pub(crate) const PLATFORM_WAIT: Duration = Duration::from_secs(10);

/// How long a failure to find keys is remembered, so that not each request waits for it anew.
const REMEMBER_FAILURE: Duration = Duration::from_secs(10);

/// Something of object_store's that has credentials.
pub(crate) type Provider<C> = Arc<dyn CredentialProvider<Credential = C>>;

/// A provider that is asked with a deadline, and not again soon after it failed.
pub(crate) struct Patient<C> {
    provider: Provider<C>,
    wait: Duration,
    failure: Mutex<Option<(Instant, Failure)>>,
}

/// Why there are no credentials.
#[derive(Debug, Clone)]
pub(crate) struct Failure {
    /// Whether nobody answered, rather than refused.
    #[cfg_attr(not(any(feature = "azure", feature = "gcs")), allow(dead_code))]
    pub(crate) outage: Option<ErrorKind>,
    pub(crate) why: String,
}

impl<C> Patient<C> {
    pub(crate) fn new(provider: Provider<C>, wait: Duration) -> Patient<C> {
        Patient {
            provider,
            wait,
            failure: Mutex::new(None),
        }
    }

    /// Returns the credentials as they are now.
    pub(crate) async fn get(&self) -> std::result::Result<Arc<C>, Failure> {
        if let Some((when, failure)) = &*self.failure()
            && when.elapsed() < REMEMBER_FAILURE
        {
            return Err(failure.clone());
        }
        let asked = self.provider.get_credential();
        let failure = match tokio::time::timeout(self.wait, asked).await {
            Ok(Ok(keys)) => {
                *self.failure() = None;
                return Ok(keys);
            }
            Ok(Err(error)) => Failure {
                outage: outage(&error),
                why: wire::causes(&error),
            },
            Err(_) => Failure {
                outage: Some(ErrorKind::Timeout),
                why: format!("no answer within {} s", self.wait.as_secs()),
            },
        };
        *self.failure() = Some((Instant::now(), failure.clone()));
        Err(failure)
    }

    fn failure(&self) -> MutexGuard<'_, Option<(Instant, Failure)>> {
        self.failure.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Returns what kept a token service from answering, if it is that.
fn outage(error: &(dyn std::error::Error + 'static)) -> Option<ErrorKind> {
    let http = wire::chain(error).find_map(|e| e.downcast_ref::<HttpError>())?;
    match http.kind() {
        HttpErrorKind::Timeout => Some(ErrorKind::Timeout),
        HttpErrorKind::Connect | HttpErrorKind::Interrupted => Some(ErrorKind::Unreachable),
        _ => None,
    }
}

/// Returns how the platform's services are asked: once, and not for long.
pub(crate) fn client_options() -> ClientOptions {
    ClientOptions::new()
        .with_timeout(PLATFORM_WAIT)
        .with_connect_timeout(METADATA_WAIT)
}

/// Returns what keeps object_store from asking again: that is the guard's.
pub(crate) fn no_retries() -> RetryConfig {
    RetryConfig {
        max_retries: 0,
        ..Default::default()
    }
}

/// Does what blocks on the local disk away from those who must not wait.
pub(crate) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T> + Send + 'static,
) -> Result<T> {
    let stopped = |_| Error::new(ErrorKind::Unreachable, "the program is ending");
    tokio::task::spawn_blocking(work).await.map_err(stopped)?
}
