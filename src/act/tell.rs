//! Counting what happens, and telling whoever listens.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::mpsc::Sender;

use super::{Event, Outcome, Summary};

/// The time between two tellings of how far it is: also how soon a listener's end is noticed.
const TICK: Duration = Duration::from_millis(200);

/// See the module.
pub(super) struct Teller {
    events: Sender<Event>,
    summary: Mutex<Summary>,
    done: AtomicU64,
    /// Whether all files were looked for.
    is_found: AtomicBool,
}

impl Teller {
    pub(super) fn new(events: Sender<Event>) -> Teller {
        Teller {
            events,
            summary: Mutex::default(),
            done: AtomicU64::new(0),
            is_found: AtomicBool::new(false),
        }
    }

    pub(super) fn summary(&self) -> MutexGuard<'_, Summary> {
        self.summary.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Counts a file that was found.
    pub(super) fn found(&self, size: u64) {
        let mut summary = self.summary();
        summary.files += 1;
        summary.bytes += size;
    }

    /// Takes note that there are no more files to be found.
    pub(super) fn all_found(&self) {
        self.is_found.store(true, Ordering::Release);
    }

    /// Counts bytes that need no more work.
    pub(super) fn passed(&self, bytes: u64) {
        self.done.fetch_add(bytes, Ordering::Relaxed);
    }

    pub(super) async fn file(&self, path: &str, outcome: Outcome, bytes: u64) {
        {
            let mut summary = self.summary();
            let count = summary.outcomes.entry(outcome).or_default();
            count.files += 1;
            count.bytes += bytes;
        }
        let path = path.to_owned();
        self.send(Event::File {
            path,
            outcome,
            bytes,
        })
        .await;
    }

    pub(super) async fn failed(&self, path: &str, message: impl std::fmt::Display) {
        self.summary().failed += 1;
        let (path, message) = (path.to_owned(), message.to_string());
        self.send(Event::Failed { path, message }).await;
    }

    /// Nobody listens: then the whole work is dropped at its next step.
    pub(super) async fn send(&self, event: Event) {
        let _ = self.events.send(event).await;
    }

    /// Tells how far it is, for ever.
    pub(super) async fn tick(&self) {
        loop {
            tokio::time::sleep(TICK).await;
            let event = Event::Progress {
                summary: self.summary().clone(),
                done: self.done.load(Ordering::Relaxed),
            };
            self.send(event).await;
        }
    }

    pub(super) async fn done(&self) {
        if !self.is_found.load(Ordering::Acquire) && self.summary().failed == 0 {
            let why = "not all files were looked for, by a fault of svol; please report it";
            self.failed("/", why).await;
        }
        let summary = self.summary().clone();
        self.send(Event::Done { summary }).await;
    }
}
