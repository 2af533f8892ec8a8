//! Trouble with the disk: counted always, logged now and then, never a reader's.

use crate::sync::{Mutex, PoisonError};
use std::fmt::Display;
use std::time::{Duration, Instant};

use crate::stats::Counter;

/// The least time between two log lines: a full disk would write thousands a second.
const QUIET: Duration = Duration::from_secs(10);

#[derive(Default)]
pub(crate) struct Troubles {
    pub(crate) count: Counter,
    last: Mutex<Option<(Instant, u64)>>,
}

impl Troubles {
    /// Notes that `what` (a verb phrase) failed.
    pub(crate) fn note(&self, what: &str, error: &dyn Display) {
        self.count.add(1);
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        match &mut *last {
            Some((at, unlogged)) if at.elapsed() < QUIET => *unlogged += 1,
            _ => {
                let unlogged = last.map_or(0, |(_, unlogged)| unlogged);
                *last = Some((Instant::now(), 0));
                drop(last);
                tracing::warn!(unlogged, "the cache cannot {what}: {error}");
            }
        }
    }
}
