//! What is known of a source's state: a condition in Kubernetes' sense, and counters.

use std::sync::atomic::{AtomicU64, Ordering};

use super::super::Error;
use crate::entry::Timestamp;

/// Whether a source serves.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Status {
    /// It answered the last request.
    Ready,
    /// It did not, or answered that it cannot.
    NotReady,
    /// It was not asked yet.
    Unknown,
}

/// The condition of a source.
#[derive(Debug, Clone, PartialEq)]
pub struct Health {
    /// Whether it serves.
    pub status: Status,
    /// Why, in CamelCase: `Serving`, `NotAsked`, or an error's [`super::super::ErrorKind::reason`].
    pub reason: &'static str,
    /// The same for people; the last error's message where it does not serve.
    pub message: String,
    /// When the status last changed.
    pub last_transition: Timestamp,
    /// When it last answered.
    pub last_success: Option<Timestamp>,
    /// The last failure that was the source's own (not a missing or changed file), and when.
    pub last_error: Option<(Timestamp, String)>,
}

impl Health {
    pub(super) fn unknown(now: Timestamp) -> Health {
        Health {
            status: Status::Unknown,
            reason: "NotAsked",
            message: "the source was not asked yet".into(),
            last_transition: now,
            last_success: None,
            last_error: None,
        }
    }

    pub(super) fn succeeded(&mut self, now: Timestamp) {
        self.last_success = Some(now);
        if self.status != Status::Ready {
            self.status = Status::Ready;
            self.reason = "Serving";
            self.message = "the source answers".into();
            self.last_transition = now;
        }
    }

    pub(super) fn failed(&mut self, error: &Error, now: Timestamp) {
        self.last_error = Some((now, error.to_string()));
        self.reason = error.kind().reason();
        self.message = error.to_string();
        if self.status != Status::NotReady {
            self.status = Status::NotReady;
            self.last_transition = now;
        }
    }
}

/// What a source was asked and gave since it was opened.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counters {
    /// Attempts of any operation, repetitions included.
    pub requests: u64,
    /// Bytes of objects that came, whether or not they were used.
    pub bytes: u64,
    /// Operations that failed in the end, bodies that broke included.
    pub errors: u64,
    /// Repetitions.
    pub retries: u64,
}

#[derive(Debug, Default)]
pub(super) struct Counting {
    pub(super) requests: AtomicU64,
    pub(super) bytes: AtomicU64,
    pub(super) errors: AtomicU64,
    pub(super) retries: AtomicU64,
    /// Operations that succeeded.
    pub(super) answers: AtomicU64,
}

impl Counting {
    /// Returns a number that grows whenever the source gives anybody anything.
    pub(super) fn given(&self) -> u64 {
        let get = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        get(&self.answers) + get(&self.bytes)
    }

    pub(super) fn add(counter: &AtomicU64, n: u64) {
        // Nothing is ordered by the counters.
        counter.fetch_add(n, Ordering::Relaxed);
    }

    pub(super) fn snapshot(&self) -> Counters {
        let get = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        Counters {
            requests: get(&self.requests),
            bytes: get(&self.bytes),
            errors: get(&self.errors),
            retries: get(&self.retries),
        }
    }
}
