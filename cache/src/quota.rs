//! How much may be on disk: the quota, and the space left to others.
//!
//! What is used is a number in the index, kept by all processes; `unreported` is what this process
//! has written since it last told the index. Both are read without a lock, so the bound is kept to
//! within what the processes write in the 50 ms between two reports.

use crate::sync::atomic::{AtomicU64, Ordering};
use crate::sync::{Mutex, MutexGuard, PoisonError};

use crate::config::Config;
use crate::dir::Space;

/// The least free space to leave, in bytes, on a disk large enough: less hurts everybody else.
const MIN_FREE: u64 = 1 << 30;

/// Eviction starts at 98 % of the limit, so that there is room before it is needed,
const START: u64 = 98;

/// and goes on to 95 %, so that it does not start again at once.
const STOP: u64 = 95;

/// Returns what a cache may take by default of a disk of `total` bytes, of which `free` are free and
/// it has `used`.
pub fn default_limit(total: u64, free: u64, used: u64) -> u64 {
    (total / 10).min(free.saturating_add(used) / 2)
}

/// Returns the space that a cache leaves free by default on a disk of `total` bytes.
pub fn default_floor(total: u64) -> u64 {
    MIN_FREE.max(total / 50).min(total / 10)
}

pub(crate) struct Quota {
    limit: u64,
    min_free: u64,
    used: AtomicU64,
    unreported: AtomicU64,
    free: AtomicU64,
    /// Orders those who bring a new `used`.
    reports: Mutex<u64>,
}

impl Quota {
    pub(crate) fn new(config: &Config, space: Space, used: u64) -> Self {
        let limit = default_limit(space.total, space.free, used);
        Self {
            limit: config.limit.unwrap_or(limit),
            min_free: config.min_free.unwrap_or(default_floor(space.total)),
            used: AtomicU64::new(used),
            unreported: AtomicU64::new(0),
            free: AtomicU64::new(space.free),
            reports: Mutex::default(),
        }
    }

    pub(crate) fn limit(&self) -> u64 {
        self.limit
    }

    pub(crate) fn min_free(&self) -> u64 {
        self.min_free
    }

    pub(crate) fn free(&self) -> u64 {
        self.free.load(Ordering::Relaxed)
    }

    pub(crate) fn used(&self) -> u64 {
        let unreported = self.unreported.load(Ordering::Relaxed);
        self.used.load(Ordering::Relaxed).saturating_add(unreported)
    }

    /// Returns a number that changes with every report.
    pub(crate) fn reports(&self) -> u64 {
        *self.lock()
    }

    /// Notes what the index was found to say by somebody who asked when the number of reports was
    /// `at`. If there was one meanwhile, which is newer, the finding is dropped.
    pub(crate) fn found(&self, used: u64, at: u64) {
        let reports = self.lock();
        if *reports == at {
            self.used.store(used, Ordering::Relaxed);
        }
    }

    fn lock(&self) -> MutexGuard<'_, u64> {
        self.reports.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Notes what the index says after a commit of this process; `covered` bytes that were
    /// unreported are in it by now.
    pub(crate) fn reported(&self, used: u64, covered: u64) {
        let mut reports = self.lock();
        *reports += 1;
        self.used.store(used, Ordering::Relaxed);
        let _ = self
            .unreported
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |unreported| {
                Some(unreported.saturating_sub(covered))
            });
    }

    /// Notes that the index will not be told of `bytes` that were written.
    pub(crate) fn forget(&self, bytes: u64) {
        self.reported(self.used.load(Ordering::Relaxed), bytes);
    }

    pub(crate) fn measured_free(&self, free: u64) {
        self.free.store(free, Ordering::Relaxed);
    }

    /// Notes that `bytes` were written that the index does not know of yet.
    pub(crate) fn wrote(&self, bytes: u64) {
        self.unreported.fetch_add(bytes, Ordering::Relaxed);
        let _ = self
            .free
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |free| {
                Some(free.saturating_sub(bytes))
            });
    }

    /// Returns whether `bytes` more may be written now.
    pub(crate) fn fits(&self, bytes: u64) -> bool {
        self.used().saturating_add(bytes) <= self.limit
            && self.free() >= self.min_free.saturating_add(bytes)
    }

    /// Returns how much can be kept at rest: eviction goes down to that.
    pub(crate) fn capacity(&self) -> u64 {
        self.limit / 100 * STOP
    }

    /// Returns whether an object of `size` bytes could ever be kept.
    pub(crate) fn could_keep(&self, size: u64) -> bool {
        size <= self.limit
    }

    /// Returns what is to be freed to have room for `wanted` bytes; 0 when there is enough.
    pub(crate) fn excess(&self, wanted: u64) -> u64 {
        let used = self.used();
        let start = (self.limit / 100 * START).min(self.limit.saturating_sub(wanted));
        let stop = (self.limit / 100 * STOP).min(self.limit.saturating_sub(wanted));
        let over_quota = if used > start { used - stop } else { 0 };
        let floor = self.min_free.saturating_add(wanted);
        over_quota.max(floor.saturating_sub(self.free()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn quota(limit: Option<u64>, min_free: Option<u64>, space: Space, used: u64) -> Quota {
        let config = Config {
            limit,
            min_free,
            ..Config::new("unused")
        };
        Quota::new(&config, space, used)
    }

    #[test]
    fn defaults_are_sane_on_disks_of_any_size() {
        let gib = 1 << 30;
        let large = Space {
            total: 1000 * gib,
            free: 500 * gib,
        };
        let quota1 = quota(None, None, large, 0);
        assert_eq!((quota1.limit(), quota1.min_free()), (100 * gib, 20 * gib));
        let full = Space {
            total: 1000 * gib,
            free: 10 * gib,
        };
        assert_eq!(quota(None, None, full, 6 * gib).limit(), 8 * gib);
        let tiny = Space {
            total: 16 << 20,
            free: 16 << 20,
        };
        assert_eq!(quota(None, None, tiny, 0).min_free(), (16 << 20) / 10);
    }

    #[test]
    fn what_was_written_counts_before_and_after_it_is_reported_but_once() {
        let space = Space {
            total: 10_000,
            free: 10_000,
        };
        let quota = quota(Some(1_000), Some(0), space, 100);
        assert!(quota.fits(900) && !quota.fits(901));
        quota.wrote(300);
        assert_eq!(quota.used(), 400);
        quota.reported(350, 250);
        assert_eq!(quota.used(), 400);
        assert_eq!(quota.free(), 9_700);
        // Asked before a report, answered after it: too late.
        let at = quota.reports();
        quota.reported(500, 50);
        quota.found(100, at);
        assert_eq!(quota.used(), 500);
        quota.found(600, quota.reports());
        assert_eq!(quota.used(), 600);
    }

    #[test]
    fn excess_frees_to_below_the_mark_or_down_to_the_floor() {
        let space = Space {
            total: 100_000,
            free: 50_000,
        };
        let at = |used| quota(Some(10_000), Some(1_000), space, used).excess(0);
        assert_eq!(at(9_800), 0);
        assert_eq!(at(9_801), 301);
        let wanting = quota(Some(10_000), Some(1_000), space, 9_000);
        assert_eq!(wanting.excess(2_000), 1_000);
        wanting.measured_free(400);
        assert_eq!(wanting.excess(0), 600);
    }
}
