//! One request on its way: who carries it, how far it is, how it ended.

use std::ops::Range;
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::Notify;

use crate::source::Error;

/// A range being fetched by this process.
#[derive(Debug)]
pub(super) struct Flight {
    /// What it fetches.
    pub(super) range: Range<u64>,
    /// Whether a reader waits for it.
    pub(super) demanded: AtomicBool,
    /// Told when a reader waits for a prefetch, which then no longer waits its turn.
    pub(super) urgent: Notify,
    end: Mutex<Option<Result<(), Error>>>,
}

impl Flight {
    pub(super) fn new(range: Range<u64>, demanded: bool) -> Arc<Flight> {
        Arc::new(Flight {
            range,
            demanded: AtomicBool::new(demanded),
            urgent: Notify::new(),
            end: Mutex::new(None),
        })
    }

    /// Records how it ended.
    pub(super) fn finish(&self, result: Result<(), Error>) {
        *self.end.lock().unwrap_or_else(PoisonError::into_inner) = Some(result);
    }

    /// Returns how it ended, if it did.
    pub(super) fn end(&self) -> Option<Result<(), Error>> {
        self.end
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    /// Returns whether it covers some of `range`.
    pub(super) fn overlaps(&self, range: &Range<u64>) -> bool {
        self.range.start < range.end && range.start < self.range.end
    }
}
