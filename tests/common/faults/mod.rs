//! The fault laboratory: proxies on loopback that stand between a client and a real server, and
//! damage what passes.
//!
//! [`tcp`] knows nothing of the protocol, so it serves any. [`http`] takes requests and replies
//! apart and lies in their terms. Both are switched on and off while they run, choose by a seed and
//! count what they did: the n-th choice is a function of the seed and n, so two runs differ only
//! where the client's own requests come in another order.

pub mod http;
mod lie;
pub mod tcp;
mod wire;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

#[allow(unused_imports)]
pub use lie::{Kind, Server};

/// What was injected, by kind. Clones share the counts.
#[derive(Debug, Clone, Default)]
pub struct Tally(Arc<Mutex<BTreeMap<String, u64>>>);

impl Tally {
    /// Counts one.
    pub fn add(&self, kind: impl Into<String>) {
        *self.0.lock().unwrap().entry(kind.into()).or_default() += 1;
    }

    /// Returns all counts.
    pub fn counts(&self) -> BTreeMap<String, u64> {
        self.0.lock().unwrap().clone()
    }

    /// Returns how often `kind` was injected.
    pub fn of(&self, kind: &str) -> u64 {
        self.0.lock().unwrap().get(kind).copied().unwrap_or(0)
    }
}

/// Random numbers that are the same for the same seed (SplitMix64).
#[derive(Debug, Clone)]
pub struct Dice(u64);

impl Dice {
    /// Returns the dice of a seed, and of whatever else tells them apart.
    pub fn new(seed: u64, of: &[u64]) -> Dice {
        let mut dice = Dice(seed);
        for part in of {
            dice.0 = dice.next() ^ part;
        }
        dice
    }

    /// Returns the next number.
    #[allow(clippy::should_implement_trait)]
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// Returns a number below `n`.
    pub fn below(&mut self, n: u64) -> u64 {
        self.next() % n.max(1)
    }

    /// Returns whether something happens that does in so many of 1,000 cases.
    pub fn permille(&mut self, n: u64) -> bool {
        self.below(1000) < n
    }

    /// Returns one of several.
    pub fn pick<'a, T>(&mut self, of: &'a [T]) -> &'a T {
        &of[self.below(of.len() as u64) as usize]
    }

    /// Puts a list into another order.
    pub fn shuffle<T>(&mut self, list: &mut [T]) {
        for i in (1..list.len()).rev() {
            list.swap(i, self.below(i as u64 + 1) as usize);
        }
    }
}

/// A runtime of a proxy's own: it runs whatever its test's threads do.
struct Runtime(Option<tokio::runtime::Runtime>);

impl Runtime {
    fn new() -> Runtime {
        let mut builder = tokio::runtime::Builder::new_multi_thread();
        let runtime = builder.worker_threads(2).enable_all().build().unwrap();
        Runtime(Some(runtime))
    }

    fn get(&self) -> &tokio::runtime::Runtime {
        self.0.as_ref().unwrap()
    }
}

impl Drop for Runtime {
    fn drop(&mut self) {
        // Does not wait, so that it may be dropped in another runtime.
        if let Some(runtime) = self.0.take() {
            runtime.shutdown_background();
        }
    }
}
