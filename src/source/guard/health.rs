//! What is known of a source's state: a condition in Kubernetes' sense, counters, and how fast it
//! answers.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use super::super::{Error, ErrorKind};
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
    /// `errors` by kind, in the order of [`ErrorKind::ALL`].
    pub errors_by_kind: [u64; ErrorKind::ALL.len()],
    /// How long attempts took up to the source's answer (of a read: up to its first byte), those
    /// that were answered with an error included. [`ANSWER_BOUNDS`] and one for all above.
    pub answered_within: [u64; ANSWER_BOUNDS.len() + 1],
    /// The sum of these times.
    pub answer_time: Duration,
}

/// The bounds of the times in [`Counters::answered_within`], in milliseconds: from a server beside us
/// to the default deadline.
pub const ANSWER_BOUNDS: [u64; 12] = [
    5, 10, 25, 50, 100, 250, 500, 1_000, 2_500, 5_000, 10_000, 30_000,
];

#[derive(Debug, Default)]
pub(super) struct Counting {
    pub(super) requests: AtomicU64,
    pub(super) bytes: AtomicU64,
    errors: [AtomicU64; ErrorKind::ALL.len()],
    answered_within: [AtomicU64; ANSWER_BOUNDS.len() + 1],
    answer_nanos: AtomicU64,
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

    /// Counts an operation that failed in the end.
    pub(super) fn failed(&self, kind: ErrorKind) {
        if let Some(at) = ErrorKind::ALL.iter().position(|other| *other == kind) {
            Counting::add(&self.errors[at], 1);
        }
    }

    /// Counts an attempt that took `time` up to its answer.
    pub(super) fn answered(&self, time: Duration) {
        let within = |bound: &u64| time <= Duration::from_millis(*bound);
        let at = ANSWER_BOUNDS.iter().position(within);
        Counting::add(&self.answered_within[at.unwrap_or(ANSWER_BOUNDS.len())], 1);
        let nanos = u64::try_from(time.as_nanos()).unwrap_or(u64::MAX);
        Counting::add(&self.answer_nanos, nanos);
    }

    pub(super) fn snapshot(&self) -> Counters {
        let get = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let errors_by_kind = self.errors.each_ref().map(get);
        Counters {
            requests: get(&self.requests),
            bytes: get(&self.bytes),
            errors: errors_by_kind.iter().sum(),
            retries: get(&self.retries),
            errors_by_kind,
            answered_within: self.answered_within.each_ref().map(get),
            answer_time: Duration::from_nanos(get(&self.answer_nanos)),
        }
    }
}
