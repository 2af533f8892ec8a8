//! Getting missing bytes: which requests, once each, resumed, bounded, and ahead of need.
//!
//! [`plan`] and [`window`] decide and do no IO. [`Remote`] is one pinned object with its cached
//! part; it knows which of its ranges are in flight in this process (the cache knows it of other
//! processes) and wakes readers as bytes land.
//!
//! Lock order: `Remote::flights` is a leaf; nothing is locked and nothing awaited under it.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::sync::Semaphore;

mod claims;
mod flight;
pub mod plan;
mod pour;
mod remote;
pub mod window;

pub use remote::{Pin, Remote};

/// How long a reader waits for its bytes unless the layer says otherwise.
pub const DEADLINE: Duration = Duration::from_secs(30);

/// Prefetch requests under way at once, over all objects: enough for four full windows.
const PREFETCH_REQUESTS: usize = 16;

/// Bytes of bodies that may wait in memory between the network and the disk, over all requests.
const BUFFER_BUDGET: usize = 64 << 20;

/// What all objects share: limits and counters.
#[derive(Debug)]
pub struct Fetcher {
    /// Permits for prefetch requests. Demand never asks for one, so it always overtakes.
    prefetch: Semaphore,
    /// A permit a KiB of body in memory.
    buffers: Semaphore,
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
}

impl Fetcher {
    /// Returns a fetcher with the default limits.
    pub fn new() -> Arc<Fetcher> {
        Arc::new(Fetcher {
            prefetch: Semaphore::new(PREFETCH_REQUESTS),
            buffers: Semaphore::new(BUFFER_BUDGET >> 10),
        })
    }
}

impl Counters {
    /// Counts a read of `bytes` that needed no source.
    pub fn hit(&self, bytes: usize) {
        add(&self.hits, 1);
        add(&self.hit_bytes, bytes as u64);
    }

    /// Counts a read that waited for a source.
    pub fn miss(&self) {
        add(&self.misses, 1);
    }
}

fn add(counter: &AtomicU64, n: u64) {
    if n > 0 {
        counter.fetch_add(n, Ordering::Relaxed);
    }
}
