//! Trouble with the disk: counted always, logged now and then, never a reader's.

use std::fmt::Display;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use crate::stats::Counter;

/// The least time between two log lines: a full disk would write thousands a second.
const QUIET: Duration = Duration::from_secs(10);

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
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    last: Option<Trouble>,
    /// When one was logged last.
    logged: Option<Instant>,
    /// How many were not logged since.
    unlogged: u64,
}

impl Troubles {
    /// Notes that `what` (a verb phrase) failed.
    pub(crate) fn note(&self, what: &str, error: &dyn Display) {
        self.count.add(1);
        let what = format!("the cache cannot {what}: {error}");
        let mut state = self.state();
        state.last = Some(Trouble {
            at: SystemTime::now(),
            what: what.clone(),
        });
        if state.logged.is_some_and(|at| at.elapsed() < QUIET) {
            state.unlogged += 1;
            return;
        }
        state.logged = Some(Instant::now());
        let unlogged = std::mem::take(&mut state.unlogged);
        drop(state);
        tracing::warn!(unlogged, "{what}");
    }

    /// Returns the last one.
    pub(crate) fn last(&self) -> Option<Trouble> {
        self.state().last.clone()
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
