//! Counters of one process, and the numbers shown to a user.

use crate::sync::atomic::{AtomicU64, Ordering};

/// What the cache holds, and what this process has done with it.
///
/// All sizes are in bytes. The first group is true of the directory, whoever filled it; the second
/// counts what this process did since it opened the cache.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Stats {
    /// The most that may be used on disk; 0 when nothing is kept on disk.
    pub limit: u64,
    /// The space on the disk that is left to others.
    pub min_free: u64,
    /// What is used on disk, sidecars included.
    pub used: u64,
    /// What the disk has free.
    pub free: u64,
    /// How many objects are known, complete or not.
    pub objects: u64,
    /// How many complete contents have a file of their own.
    pub blobs: u64,
    /// How many complete contents share pack files.
    pub packed: u64,
    /// How many objects are pinned.
    pub pinned: u64,
    /// The sizes of the pinned objects, here or not; what shares its content counts each time.
    pub pinned_bytes: u64,

    /// The most that the memory tier may hold.
    pub memory_limit: u64,
    /// What the memory tier holds.
    pub memory_used: u64,
    /// Reads answered from the cache.
    pub hits: u64,
    /// Reads of which something was missing.
    pub misses: u64,
    /// Bytes read from the cache, wherever in it they were.
    pub read_bytes: u64,
    /// Of these, bytes that were in the memory tier.
    pub memory_read_bytes: u64,
    /// Bytes taken in.
    pub filled_bytes: u64,
    /// Grains, blobs or packed objects that failed verification and were dropped to be fetched
    /// again.
    pub healed: u64,
    /// Bytes served without being kept: over the quota, or the disk refused them.
    pub unkept_bytes: u64,
    /// Objects sealed as blobs.
    pub sealed: u64,
    /// Objects dropped on completion as their content was there already.
    pub deduplicated: u64,
    /// Bytes freed by eviction.
    pub evicted_bytes: u64,
    /// Operations of the disk or the index that failed; the log says which.
    pub troubles: u64,
}

/// A counter that costs one relaxed addition.
#[derive(Default)]
pub(crate) struct Counter(AtomicU64);

impl Counter {
    pub(crate) fn add(&self, n: u64) {
        self.0.fetch_add(n, Ordering::Relaxed);
    }

    pub(crate) fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// The counters behind the second half of [`Stats`].
#[derive(Default)]
pub(crate) struct Counters {
    pub(crate) hits: Counter,
    pub(crate) misses: Counter,
    pub(crate) read_bytes: Counter,
    pub(crate) memory_read_bytes: Counter,
    pub(crate) filled_bytes: Counter,
    pub(crate) healed: Counter,
    pub(crate) unkept_bytes: Counter,
    pub(crate) sealed: Counter,
    pub(crate) deduplicated: Counter,
    pub(crate) evicted_bytes: Counter,
}
