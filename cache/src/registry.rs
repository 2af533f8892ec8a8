//! The objects that are held in this process, so that all handles of one share its state; and the
//! descriptors that they keep open, of which there is a bound.
//!
//! Each lock here is a leaf: nothing is locked, dropped or done under it but the maps themselves.

use crate::sync::atomic::Ordering;
use crate::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::collections::{HashMap, VecDeque};

use crate::inner::Inner;
use crate::key::ObjectKey;

/// Spreads the lock.
const SHARDS: usize = 16;

/// The share of the process's descriptors that the cache may use, as a divisor. Each open object
/// takes two.
const DESCRIPTOR_SHARE: u64 = 3;

/// Open objects at most, however many descriptors there are.
const MOST_OPEN: u64 = 512;

/// Objects by key, each with its size.
type Shard = HashMap<ObjectKey, (u64, Weak<Inner>)>;

/// The objects held in this process, by key.
#[derive(Default)]
pub(crate) struct Registry {
    shards: [Mutex<Shard>; SHARDS],
}

impl Registry {
    fn shard(&self, key: &ObjectKey) -> MutexGuard<'_, Shard> {
        self.shards[key.prefix() as usize % SHARDS]
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns the object's state, made by `make` where there is none. (A caller that gives one
    /// key two sizes breaks the promise behind keys; it gets two states, and no wrong bytes.)
    pub(crate) fn get_or_insert(
        &self,
        key: ObjectKey,
        size: u64,
        make: impl FnOnce() -> Inner,
    ) -> Arc<Inner> {
        let held = |shard: &Shard| {
            let (of, weak) = shard.get(&key)?;
            if *of == size { weak.upgrade() } else { None }
        };
        if let Some(inner) = held(&self.shard(&key)) {
            return inner;
        }
        let made = Arc::new(make());
        let mut shard = self.shard(&key);
        match held(&shard) {
            Some(inner) => {
                // Before `made` is dropped, which locks the shard again.
                drop(shard);
                inner
            }
            None => {
                shard.insert(key, (size, Arc::downgrade(&made)));
                made
            }
        }
    }

    /// Returns whether anybody in this process holds an object.
    pub(crate) fn is_held(&self, key: &ObjectKey) -> bool {
        self.shard(key)
            .get(key)
            .is_some_and(|(_, weak)| weak.strong_count() > 0)
    }

    /// Forgets an object whose last handle has gone.
    pub(crate) fn forget(&self, key: &ObjectKey) {
        let mut shard = self.shard(key);
        if shard
            .get(key)
            .is_some_and(|(_, weak)| weak.strong_count() == 0)
        {
            shard.remove(key);
        }
    }

    /// Returns all objects that are held.
    pub(crate) fn held(&self) -> Vec<Arc<Inner>> {
        let mut all = Vec::new();
        for shard in &self.shards {
            let shard = shard.lock().unwrap_or_else(PoisonError::into_inner);
            all.extend(shard.values().filter_map(|(_, weak)| weak.upgrade()));
        }
        all
    }
}

/// Bounds the descriptors of open objects: the one not read for longest is closed, by a clock with
/// a second chance. It is opened again when it is next needed.
pub(crate) struct Descriptors {
    limit: usize,
    open: Mutex<VecDeque<Weak<Inner>>>,
}

impl Descriptors {
    pub(crate) fn new() -> Self {
        let most = rustix::process::getrlimit(rustix::process::Resource::Nofile)
            .current
            .unwrap_or(u64::MAX);
        Self {
            limit: (most / DESCRIPTOR_SHARE / 2).clamp(8, MOST_OPEN) as usize,
            open: Mutex::default(),
        }
    }

    /// Notes that an object was opened; closes others over the bound.
    pub(crate) fn opened(&self, inner: &Arc<Inner>) {
        if inner.listed.swap(true, Ordering::Relaxed) {
            return;
        }
        // Handles are let go of outside the lock: one may be the last of its object.
        let (mut spared, mut close) = (Vec::new(), Vec::new());
        {
            let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
            open.push_back(Arc::downgrade(inner));
            let mut chances = open.len();
            while open.len() > self.limit {
                let Some(weak) = open.pop_front() else { break };
                let Some(first) = weak.upgrade() else {
                    continue;
                };
                let again = Arc::ptr_eq(&first, inner)
                    || first.recently_read.swap(false, Ordering::Relaxed);
                if again && chances > 0 {
                    chances -= 1;
                    open.push_back(weak);
                    spared.push(first);
                } else {
                    first.listed.store(false, Ordering::Relaxed);
                    close.push(first);
                }
            }
        }
        for inner in &close {
            inner.close_any();
        }
    }
}
