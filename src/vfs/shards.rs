//! A map cut into shards, so that kernel threads rarely meet at one lock.

use std::collections::HashMap;
use std::sync::{PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

/// Shards. Sixteen are plenty for the two to eight threads that meet here.
const SHARDS: usize = 16;

/// A sharded map from numbers (inodes, handles) to shared values.
#[derive(Debug)]
pub(super) struct Shards<V> {
    shards: [RwLock<HashMap<u64, V>>; SHARDS],
}

impl<V: Clone> Shards<V> {
    /// How many shards there are.
    pub(super) const COUNT: usize = SHARDS;

    /// Returns one shard after the other, locked for reading.
    pub(super) fn nth(&self, n: usize) -> RwLockReadGuard<'_, HashMap<u64, V>> {
        self.shards[n % SHARDS]
            .read()
            .unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn new() -> Shards<V> {
        Shards {
            shards: std::array::from_fn(|_| RwLock::new(HashMap::new())),
        }
    }

    fn shard(&self, key: u64) -> &RwLock<HashMap<u64, V>> {
        &self.shards[(key ^ (key >> 32)) as usize % SHARDS]
    }

    /// Returns the shard of `key`, locked for reading.
    pub(super) fn read(&self, key: u64) -> RwLockReadGuard<'_, HashMap<u64, V>> {
        self.shard(key)
            .read()
            .unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns the shard of `key`, locked for writing.
    pub(super) fn write(&self, key: u64) -> RwLockWriteGuard<'_, HashMap<u64, V>> {
        self.shard(key)
            .write()
            .unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn get(&self, key: u64) -> Option<V> {
        self.read(key).get(&key).cloned()
    }

    pub(super) fn insert(&self, key: u64, value: V) {
        self.write(key).insert(key, value);
    }

    pub(super) fn remove(&self, key: u64) -> Option<V> {
        self.write(key).remove(&key)
    }

    /// Returns what is in one shard after the other.
    pub(super) fn all(&self) -> impl Iterator<Item = Vec<(u64, V)>> {
        let pairs = |(key, value): (&u64, &V)| (*key, value.clone());
        (0..SHARDS).map(move |n| self.nth(n).iter().map(pairs).collect())
    }

    pub(super) fn len(&self) -> usize {
        self.shards
            .iter()
            .map(|s| s.read().unwrap_or_else(PoisonError::into_inner).len())
            .sum()
    }
}
