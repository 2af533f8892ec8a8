//! Getting missing bytes: which requests, once each, resumed, bounded, and ahead of need.
//!
//! [`plan`], [`window`] and [`siblings`] decide and do no IO. [`Remote`] is one pinned object with its cached
//! part; it knows which of its ranges are in flight in this process (the cache knows it of other
//! processes) and wakes readers as bytes land.
//!
//! Lock order: `Remote::flights` is a leaf; nothing is locked and nothing awaited under it.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

mod claims;
mod flight;
mod pace;
pub mod plan;
mod pour;
mod remote;
mod share;
pub mod siblings;
mod turns;
pub mod window;

pub use remote::{Ahead, Followed, Pin, Remote};
pub use turns::Turns;

use crate::memory::Budget;
use share::{Buffers, Unkept};

/// How long a reader waits for its bytes unless the layer says otherwise.
pub const DEADLINE: Duration = Duration::from_secs(30);

/// Prefetch requests under way at once, over all objects: enough for four full windows.
const PREFETCH_REQUESTS: usize = 16;

/// Prefetch requests that may wait for their turn, over all objects: a full window each for as many
/// readers as can be served at once. More readers than that get theirs when these are done.
const PREFETCH_QUEUE: usize = 4 * PREFETCH_REQUESTS;

/// What all objects share: limits and counters.
#[derive(Debug)]
pub struct Fetcher {
    /// Permits for prefetch requests. Demand never asks for one, so it always overtakes.
    prefetch: Semaphore,
    /// Permits for prefetch requests to exist at all, waiting or not: each costs a task.
    ahead: Arc<Semaphore>,
    /// Requests under way that readers wait for.
    demanded: AtomicUsize,
    /// From how many of those on nothing is fetched ahead: they could use all connections.
    busy: usize,
    buffers: Buffers,
    unkept: Unkept,
}

/// Counts of one layer since the start.
#[derive(Debug, Default)]
pub struct Counters {
    /// Bytes fetched before anybody asked, and then read.
    pub prefetch_used: AtomicU64,
    /// Bytes fetched before anybody asked, and not read before their reader went elsewhere.
    pub prefetch_wasted: AtomicU64,
    /// Bytes read by readers from what was present.
    pub hit_bytes: AtomicU64,
    /// Reads answered from what was present.
    pub hits: AtomicU64,
    /// Reads that had to wait for a source.
    pub misses: AtomicU64,
    /// Bytes that readers got from these.
    pub miss_bytes: AtomicU64,
}

impl Fetcher {
    /// Returns a fetcher with the default limits.
    pub fn new() -> Arc<Fetcher> {
        Fetcher::within(&Budget::default())
    }

    /// Returns a fetcher that keeps to a budget.
    pub fn within(budget: &Budget) -> Arc<Fetcher> {
        let operations = budget.operations();
        Arc::new(Fetcher {
            // Never more than half of a source's connections: the rest is for readers.
            prefetch: Semaphore::new(PREFETCH_REQUESTS.min(operations / 2)),
            ahead: Arc::new(Semaphore::new(PREFETCH_QUEUE)),
            demanded: AtomicUsize::new(0),
            busy: operations,
            buffers: Buffers::new(budget.buffers),
            unkept: Unkept::new(budget.tier),
        })
    }

    /// Returns the bytes of bodies that are in memory now.
    pub fn buffered(&self) -> u64 {
        self.buffers.used()
    }

    /// Returns whether readers wait for requests.
    fn is_demanded(&self) -> bool {
        self.demanded.load(Ordering::Relaxed) > 0
    }

    /// Returns whether nothing is to be fetched ahead now: readers could use all connections, or
    /// the disk keeps nothing and what came for some drives out what came for others.
    pub fn is_busy(&self) -> bool {
        self.demanded.load(Ordering::Relaxed) >= self.busy || self.unkept.is_crowded()
    }

    /// Returns leave for one prefetch request, if readers leave room for it.
    fn leave_ahead(&self) -> Option<OwnedSemaphorePermit> {
        if self.is_busy() {
            return None;
        }
        self.ahead.clone().try_acquire_owned().ok()
    }
}

impl Counters {
    /// Counts a read of `bytes` that needed no source.
    pub fn hit(&self, bytes: usize) {
        add(&self.hits, 1);
        add(&self.hit_bytes, bytes as u64);
    }

    /// Counts bytes that were fetched before anybody asked: `used` of them were read by now, and
    /// `wasted` will not be.
    pub fn prefetched(&self, used: u64, wasted: u64) {
        add(&self.prefetch_used, used);
        add(&self.prefetch_wasted, wasted);
    }

    /// Counts a read that waited for a source.
    pub fn miss(&self) {
        add(&self.misses, 1);
    }

    /// Counts the bytes that came of such a read.
    pub fn missed(&self, bytes: usize) {
        add(&self.miss_bytes, bytes as u64);
    }
}

fn add(counter: &AtomicU64, n: u64) {
    if n > 0 {
        counter.fetch_add(n, Ordering::Relaxed);
    }
}
