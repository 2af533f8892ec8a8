//! Says why a caller got an error, once, then not too often.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use tracing::{debug, warn};

use crate::source::ErrorKind;
use crate::vfs::{Error, Ino, Vfs};

/// How long the same failure is not logged again.
const QUIET: Duration = Duration::from_secs(30);

/// How many different failures are remembered at most.
const REMEMBERED: usize = 256;

/// An operation, a reason and a directory.
type Trouble = (&'static str, &'static str, String);

/// Logs failures, rate limited.
#[derive(Debug, Default)]
pub(super) struct Reporter {
    seen: Mutex<HashMap<Trouble, (Instant, u64)>>,
}

impl Reporter {
    /// Takes note that `what` on `ino` failed; logs it at its first occurrence.
    pub(super) fn failed(&self, vfs: &Vfs, what: &'static str, ino: Ino, error: &Error) {
        let reason = match error {
            Error::Source(error) if error.kind() == ErrorKind::NotFound => return,
            Error::Source(error) => error.kind().reason(),
            Error::Disk(_) => "Disk",
            _ => return debug!(what, ino, %error, "refused"),
        };
        let path = vfs.path_of(ino);
        // The same trouble of one directory's files is one trouble.
        let place = path.as_deref().unwrap_or("?");
        let place = place.rsplit_once('/').map_or(place, |(dir, _)| dir);
        let key = (what, reason, place.to_owned());
        let now = Instant::now();
        let suppressed = {
            let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
            if seen.len() >= REMEMBERED && !seen.contains_key(&key) {
                seen.clear();
            }
            match seen.get_mut(&key) {
                Some((last, count)) if now.duration_since(*last) < QUIET => {
                    *count += 1;
                    return;
                }
                Some(known) => std::mem::replace(known, (now, 0)).1,
                None => {
                    seen.insert(key, (now, 0));
                    0
                }
            }
        };
        warn!(
            operation = what,
            path = path.as_deref(),
            reason,
            suppressed,
            "{error}"
        );
    }
}
