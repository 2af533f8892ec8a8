//! Trouble with the disk: counted always, logged now and then, never a reader's.

use crate::sync::atomic::{AtomicBool, Ordering};
use crate::sync::{Mutex, MutexGuard, PoisonError};
use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::fmt::Display;
use std::time::{Duration, Instant, SystemTime};

use crate::stats::Counter;

/// The least time between two log lines of a kind: a full disk would write thousands a second.
const QUIET: Duration = Duration::from_secs(10);

/// How long after an I/O error the disk is not relied on.
const WARY: Duration = Duration::from_secs(60);

/// What trouble comes from.
pub(crate) trait Cause: Display {
    /// Returns whether the disk itself fails: not full, not forbidden, not damaged content.
    fn is_io_error(&self) -> bool {
        false
    }
}

impl Cause for std::io::Error {
    fn is_io_error(&self) -> bool {
        self.raw_os_error() == Some(rustix::io::Errno::IO.raw_os_error())
    }
}

impl Cause for rusqlite::Error {
    fn is_io_error(&self) -> bool {
        self.sqlite_error_code() == Some(rusqlite::ErrorCode::SystemIoFailure)
    }
}

impl Cause for crate::error::Error {}
impl Cause for &str {}
impl Cause for String {}

/// Something that the disk or the index refused.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Trouble {
    /// When.
    pub at: SystemTime,
    /// What could not be done and why, in words for a user.
    pub what: String,
}

#[derive(Default)]
pub(crate) struct Troubles {
    pub(crate) count: Counter,
    /// Whether there ever was an I/O error.
    failed: AtomicBool,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    last: Option<Trouble>,
    /// When the disk last failed.
    failed: Option<Instant>,
    kinds: HashMap<&'static str, Kind>,
}

/// What is known of one kind of trouble, of which there are as many as calls of [`Troubles::note`].
struct Kind {
    logged: Instant,
    /// How many were not logged since.
    unlogged: u64,
}

impl Troubles {
    /// Notes that `kind` (a verb phrase) failed.
    pub(crate) fn note(&self, kind: &'static str, error: &dyn Cause) {
        self.count.add(1);
        let what = format!("the cache cannot {kind}: {error}");
        let mut state = self.state();
        state.last = Some(Trouble {
            at: SystemTime::now(),
            what: what.clone(),
        });
        let now = Instant::now();
        if error.is_io_error() {
            state.failed = Some(now);
            self.failed.store(true, Ordering::Relaxed);
        }
        let mut unlogged = 0;
        match state.kinds.entry(kind) {
            Entry::Vacant(new) => {
                new.insert(Kind {
                    logged: now,
                    unlogged,
                });
            }
            Entry::Occupied(mut old) => {
                let old = old.get_mut();
                if now.duration_since(old.logged) < QUIET {
                    old.unlogged += 1;
                    return;
                }
                old.logged = now;
                unlogged = std::mem::take(&mut old.unlogged);
            }
        }
        drop(state);
        tracing::warn!(unlogged, "{what}");
    }

    /// Returns whether the disk failed within [`WARY`].
    pub(crate) fn is_failing(&self) -> bool {
        self.failed.load(Ordering::Relaxed)
            && self.state().failed.is_some_and(|at| at.elapsed() < WARY)
    }

    /// Returns the last one.
    pub(crate) fn last(&self) -> Option<Trouble> {
        self.state().last.clone()
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
