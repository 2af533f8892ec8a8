//! The clock behind "last use": seconds that never go back.
//!
//! It starts at the wall clock or at the latest use on record, whichever is later, and goes on by
//! the monotonic clock. So a wall clock that jumps, before or while we run, cannot make what is
//! used now look older than what was used before.

use crate::sync::atomic::{AtomicU64, Ordering};
use std::time::{Instant, SystemTime, UNIX_EPOCH};

pub(crate) struct Clock {
    base: u64,
    start: Instant,
    /// The time of the last tick: good to a second, and free to read.
    coarse: AtomicU64,
}

impl Clock {
    pub(crate) fn new(latest_use: u64) -> Self {
        let wall = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .map_or(0, |since| since.as_secs());
        let base = wall.max(latest_use);
        Self {
            base,
            start: Instant::now(),
            coarse: AtomicU64::new(base),
        }
    }

    pub(crate) fn now(&self) -> u64 {
        let now = self.base + self.start.elapsed().as_secs();
        self.coarse.store(now, Ordering::Relaxed);
        now
    }

    pub(crate) fn coarse(&self) -> u64 {
        self.coarse.load(Ordering::Relaxed)
    }
}

/// Returns 64 random bits: good enough for names, not for secrets.
pub(crate) fn random() -> u64 {
    use std::hash::{BuildHasher, Hasher};
    std::collections::hash_map::RandomState::new()
        .build_hasher()
        .finish()
        ^ u64::from(std::process::id()).rotate_left(40)
}
