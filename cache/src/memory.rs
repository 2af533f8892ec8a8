//! The memory tier: a bounded store of bytes that are not, or not only, on disk.
//!
//! It holds whole small objects, and the grains of whatever cannot be kept on disk (over the
//! quota, a full or broken disk), so that such bytes can be handed to those who wait for them.
//!
//! Invariants: the weight of all entries never exceeds the limit; an entry that was just inserted
//! is admitted (a frequency-based cache may turn a newcomer away, and a reader that waits for it
//! would wait for ever); the eviction order is "second chance", first in, first out otherwise.
//!
//! Each shard has one lock, taken for a map operation only, never two at a time.

use crate::sync::{Mutex, MutexGuard, PoisonError};
use std::collections::{HashMap, VecDeque};

use bytes::Bytes;

use crate::key::ObjectKey;

/// The grain number under which a small object is stored as a whole.
pub(crate) const WHOLE: u64 = u64::MAX;

/// What an entry costs beside its bytes: two keys of 40 bytes, the slot and the tables' slack.
const OVERHEAD: u64 = 192;

/// The least a shard should hold, in bytes; a smaller one thrashes on a handful of blocks.
const SHARD_BYTES: u64 = 4 << 20;

/// Shards spread the locks; two cores need few.
const MAX_SHARDS: u64 = 16;

type Name = (ObjectKey, u64);

#[derive(Default)]
struct Shard {
    slots: HashMap<Name, Slot>,
    order: VecDeque<Name>,
    weight: u64,
}

struct Slot {
    bytes: Bytes,
    used: bool,
}

/// See the module.
pub(crate) struct Memory {
    shards: Box<[Mutex<Shard>]>,
    shard_limit: u64,
}

impl Memory {
    pub(crate) fn new(limit: u64) -> Self {
        let count = (limit / SHARD_BYTES).clamp(1, MAX_SHARDS);
        Self {
            shards: (0..count).map(|_| Mutex::default()).collect(),
            shard_limit: limit / count,
        }
    }

    fn shard(&self, key: &ObjectKey, grain: u64) -> MutexGuard<'_, Shard> {
        // Consecutive grains go to consecutive shards, so one object uses all of them evenly.
        let index = key.prefix().wrapping_add(grain) % self.shards.len() as u64;
        self.shards[index as usize]
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns the bytes of a grain.
    pub(crate) fn get(&self, key: &ObjectKey, grain: u64) -> Option<Bytes> {
        let mut shard = self.shard(key, grain);
        let slot = shard.slots.get_mut(&(*key, grain))?;
        slot.used = true;
        Some(slot.bytes.clone())
    }

    /// Returns whether a grain is held, without counting as a use of it.
    pub(crate) fn contains(&self, key: &ObjectKey, grain: u64) -> bool {
        self.shard(key, grain).slots.contains_key(&(*key, grain))
    }

    /// Takes the bytes of a grain; others leave for it. An entry over the limit is not taken.
    pub(crate) fn insert(&self, key: &ObjectKey, grain: u64, bytes: Bytes) {
        let weight = bytes.len() as u64 + OVERHEAD;
        if weight > self.shard_limit {
            return;
        }
        let mut guard = self.shard(key, grain);
        let shard = &mut *guard;
        if let Some(old) = shard.slots.get_mut(&(*key, grain)) {
            // Same key, same bytes: the entry keeps its place and its weight.
            old.used = true;
            return;
        }
        while shard.weight + weight > self.shard_limit {
            let Some(name) = shard.order.pop_front() else {
                break;
            };
            match shard.slots.get_mut(&name) {
                Some(slot) if slot.used => {
                    slot.used = false;
                    shard.order.push_back(name);
                }
                Some(slot) => {
                    shard.weight -= slot.bytes.len() as u64 + OVERHEAD;
                    shard.slots.remove(&name);
                }
                None => {}
            }
        }
        shard.weight += weight;
        shard.order.push_back((*key, grain));
        shard
            .slots
            .insert((*key, grain), Slot { bytes, used: false });
    }

    /// Lets go of all grains of an object.
    pub(crate) fn remove_object(&self, key: &ObjectKey) {
        for shard in &self.shards {
            let mut guard = shard.lock().unwrap_or_else(PoisonError::into_inner);
            let Shard { slots, weight, .. } = &mut *guard;
            slots.retain(|(owner, _), slot| {
                let stays = owner != key;
                if !stays {
                    *weight -= slot.bytes.len() as u64 + OVERHEAD;
                }
                stays
            });
        }
    }

    /// Returns the bytes in use, overheads included.
    pub(crate) fn used(&self) -> u64 {
        self.shards
            .iter()
            .map(|shard| shard.lock().unwrap_or_else(PoisonError::into_inner).weight)
            .sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(n: u8) -> ObjectKey {
        ObjectKey::from_bytes([n; 32])
    }

    #[test]
    fn never_holds_more_than_its_limit_and_always_takes_the_newest() {
        for limit in [1_000, 100_000, 9 << 20] {
            let memory = Memory::new(limit);
            for grain in 0..2_000 {
                memory.insert(&key(1), grain, Bytes::from(vec![7; 300]));
                assert!(memory.used() <= limit);
                assert!(memory.contains(&key(1), grain));
            }
        }
    }

    #[test]
    fn what_is_used_outlives_what_is_not() {
        let memory = Memory::new(10 * (100 + OVERHEAD));
        for grain in 0..1_000 {
            memory.insert(&key(1), grain, Bytes::from(vec![1; 100]));
            assert!(memory.get(&key(1), 0).is_some(), "lost after {grain}");
        }
        assert!(memory.get(&key(1), 500).is_none());
    }

    #[test]
    fn an_entry_over_the_limit_is_left_out() {
        let memory = Memory::new(1_000);
        memory.insert(&key(1), 0, Bytes::from(vec![1; 1_001]));
        assert_eq!(memory.used(), 0);
        assert!(Memory::new(0).get(&key(1), 0).is_none());
    }
}
