//! Trouble with the disk: counted always, logged now and then, never a reader's.

use crate::sync::{Mutex, MutexGuard, PoisonError};
use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::fmt::Display;
use std::time::{Duration, Instant, SystemTime};

use crate::stats::Counter;

/// The least time between two log lines of a kind: a full disk would write thousands a second.
const QUIET: Duration = Duration::from_secs(10);

/// How long after trouble the disk is not relied on.
const WARY: Duration = Duration::from_secs(60);

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
    pub(crate) fn note(&self, kind: &'static str, error: &dyn Display) {
        self.count.add(1);
        let what = format!("the cache cannot {kind}: {error}");
        let mut state = self.state();
        state.last = Some(Trouble {
            at: SystemTime::now(),
            what: what.clone(),
        });
        let now = Instant::now();
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

    /// Returns whether there was any within [`WARY`].
    pub(crate) fn lately(&self) -> bool {
        self.count.get() > 0
            && self.last().is_some_and(|last| {
                // A time in the future is a clock that went back.
                last.at.elapsed().is_ok_and(|ago| ago < WARY)
            })
    }

    /// Returns the last one.
    pub(crate) fn last(&self) -> Option<Trouble> {
        self.state().last.clone()
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
