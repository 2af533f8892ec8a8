//! One object: what of it is here, and reading it.

use std::fs::File;
use std::ops::Range;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use blake3::Hash;
use tokio::sync::Notify;

use crate::cache::Shared;
use crate::fill::Fill;
use crate::grain::{self, Runs, SMALL};
use crate::key::ObjectKey;
use crate::memory::WHOLE;

/// The first pause before a look at what another process may have done.
const FIRST_PAUSE: Duration = Duration::from_millis(1);

/// The longest such pause: what a reader may lose on a block that another process fetches.
const LONGEST_PAUSE: Duration = Duration::from_millis(20);

/// One object of the cache: an immutable sequence of bytes, of which some are here.
///
/// Clones are the same object. All methods are safe to call from any thread at once.
#[derive(Clone)]
pub struct Object {
    pub(crate) inner: Arc<Inner>,
}

pub(crate) struct Inner {
    pub(crate) shared: Arc<Shared>,
    pub(crate) key: ObjectKey,
    pub(crate) size: u64,
    /// The ranges being filled by this process.
    pub(crate) claims: Mutex<Vec<Range<u64>>>,
    /// Counts what happened to this object, so that no wake-up is lost.
    generation: AtomicU64,
    notify: Notify,
}

impl Inner {
    /// Wakes all who wait for a change.
    pub(crate) fn notify(&self) {
        self.generation.fetch_add(1, Ordering::Release);
        self.notify.notify_waiters();
    }

    pub(crate) fn is_small(&self) -> bool {
        self.size <= SMALL
    }
}

impl Object {
    pub(crate) fn new(shared: Arc<Shared>, key: ObjectKey, size: u64) -> Self {
        Self {
            inner: Arc::new(Inner {
                shared,
                key,
                size,
                claims: Mutex::default(),
                generation: AtomicU64::new(0),
                notify: Notify::new(),
            }),
        }
    }

    /// Returns the object's key.
    pub fn key(&self) -> &ObjectKey {
        &self.inner.key
    }

    /// Returns the object's size in bytes.
    pub fn size(&self) -> u64 {
        self.inner.size
    }

    /// Copies the bytes from `offset` on into `buf`, if they are all here and verified, and
    /// returns how many: as many as `buf` holds, fewer only at the end of the object.
    ///
    /// None: something is missing, or was found damaged and dropped. Never waits for anything but
    /// the local disk, and allocates nothing where the bytes were verified before.
    pub fn read_at(&self, offset: u64, buf: &mut [u8]) -> Option<usize> {
        let inner = &*self.inner;
        if offset >= inner.size || buf.is_empty() {
            return Some(0);
        }
        let len = (inner.size - offset).min(buf.len() as u64);
        let range = offset..offset + len;
        let found = self.read_memory(&range, buf);
        let counters = &inner.shared.counters;
        match found {
            Some(()) => counters.hits.add(1),
            None => counters.misses.add(1),
        }
        found.map(|()| len as usize)
    }

    fn read_memory(&self, range: &Range<u64>, buf: &mut [u8]) -> Option<()> {
        let inner = &*self.inner;
        if inner.is_small() {
            let bytes = inner.shared.memory.get(&inner.key, WHOLE)?;
            let part = bytes.get(range.start as usize..range.end as usize)?;
            buf[..part.len()].copy_from_slice(part);
            return Some(());
        }
        for index in grain::covering(range, inner.size) {
            let bytes = inner.shared.memory.get(&inner.key, index)?;
            let span = grain::span(index, inner.size);
            let from = range.start.max(span.start);
            let to = range.end.min(span.end);
            let part = bytes.get((from - span.start) as usize..(to - span.start) as usize)?;
            buf[(from - range.start) as usize..(to - range.start) as usize].copy_from_slice(part);
        }
        Some(())
    }

    /// Returns what of `range` is not here: whole grains (clipped to the object), neighbours
    /// merged, ascending. Of a small object it is all or nothing.
    ///
    /// What is here may still be found damaged when it is first read.
    pub fn missing(&self, range: Range<u64>) -> Vec<Range<u64>> {
        let inner = &*self.inner;
        let grains = grain::covering(&range, inner.size);
        if grains.is_empty() {
            return Vec::new();
        }
        if inner.is_small() {
            if inner.shared.memory.contains(&inner.key, WHOLE) {
                return Vec::new();
            }
            return Runs::one(0..inner.size);
        }
        let mut runs = Runs::new(inner.size);
        for index in grains {
            if !inner.shared.memory.contains(&inner.key, index) {
                runs.absent(index);
            }
        }
        runs.finish()
    }

    /// Returns how many bytes of the object are on disk, whichever process brought them.
    pub fn present_bytes(&self) -> u64 {
        self.inner.size
            - self
                .missing(0..self.inner.size)
                .iter()
                .map(|run| run.end - run.start)
                .sum::<u64>()
    }

    /// Returns whether all of the object is on disk.
    pub fn is_complete(&self) -> bool {
        self.present_bytes() == self.inner.size
    }

    /// Returns the object's BLAKE3 hash, its b3sum; None before it is complete and sealed, which
    /// happens in the background shortly after the last byte came.
    pub fn digest(&self) -> Option<Hash> {
        (self.inner.size == 0).then(|| blake3::hash(b""))
    }

    /// Returns the file that holds exactly the object's bytes, all verified and synced, for
    /// passing reads through to it; None while there is no such file, or it was touched since.
    ///
    /// Small objects never have one.
    pub fn sealed_file(&self) -> Option<Sealed> {
        None
    }

    /// Tries to become the one, among all processes, to bring `range`, widened to whole grains.
    ///
    /// None: some of it is being brought by another, or is here by now. Then wait with
    /// [`Watch::changed`] and ask [`Object::missing`] again.
    pub fn try_claim(&self, range: Range<u64>) -> Option<Fill> {
        let inner = &self.inner;
        let range = if inner.is_small() {
            0..inner.size
        } else {
            grain::align(&range, inner.size)
        };
        if range.is_empty() {
            return None;
        }
        {
            let mut claims = inner.claims.lock().unwrap_or_else(PoisonError::into_inner);
            if claims
                .iter()
                .any(|other| other.start < range.end && range.start < other.end)
            {
                return None;
            }
            claims.push(range.clone());
        }
        Some(Fill::new(Arc::clone(inner), range))
    }

    /// Starts to watch for changes. Make it *before* asking what is missing, and no change is
    /// overlooked.
    pub fn watch(&self) -> Watch {
        Watch {
            seen: self.inner.generation.load(Ordering::Acquire),
            object: self.clone(),
            pause: FIRST_PAUSE,
        }
    }
}

/// Waits for anything to happen to an object.
pub struct Watch {
    object: Object,
    seen: u64,
    pause: Duration,
}

impl Watch {
    /// Returns when bytes were added or a claim was given up in this process since the watch was
    /// made or last returned, or else after a short pause, as other processes cannot notify: 1 ms
    /// at first, doubled each time up to 20 ms.
    ///
    /// May be dropped at any time. Needs a tokio runtime with timers.
    pub async fn changed(&mut self) {
        let inner = &self.object.inner;
        let mut notified = std::pin::pin!(inner.notify.notified());
        notified.as_mut().enable();
        if inner.generation.load(Ordering::Acquire) == self.seen {
            // Whether the time is up or a wake-up came, the caller looks again.
            let _ = tokio::time::timeout(self.pause, notified).await;
            self.pause = (self.pause * 2).min(LONGEST_PAUSE);
        }
        self.seen = self.object.inner.generation.load(Ordering::Acquire);
    }
}

/// A complete object's file, fit for passthrough: every byte verified, synced, read-only.
pub struct Sealed {
    pub(crate) file: Arc<File>,
    pub(crate) digest: Hash,
}

impl Sealed {
    /// Returns the hash of the content.
    pub fn digest(&self) -> Hash {
        self.digest
    }
}

impl AsFd for Sealed {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}
