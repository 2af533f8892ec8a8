//! One object, as the layers above see it.

use crate::sync::{Arc, PoisonError};
use std::fs::File;
use std::ops::Range;
use std::os::fd::{AsFd, BorrowedFd};
use std::time::Duration;

use blake3::Hash;

use crate::fill::Fill;
use crate::grain;
use crate::inner::Inner;
use crate::key::ObjectKey;

/// The first pause before a look at what another process may have done.
const FIRST_PAUSE: Duration = Duration::from_millis(1);

/// The longest such pause: what a reader may lose on a block that another process fetches.
const LONGEST_PAUSE: Duration = Duration::from_millis(20);

/// One object of the cache: an immutable sequence of bytes, of which some are here.
///
/// Clones are the same object. All methods are safe to call from any thread at once. None of them
/// waits for anything but the local disk.
#[derive(Clone)]
pub struct Object {
    pub(crate) inner: Arc<Inner>,
}

impl Object {
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
    /// None: something is missing, or was found damaged and dropped; what `buf` holds is then
    /// undefined. Allocates nothing where the bytes were verified before.
    pub fn read_at(&self, offset: u64, buf: &mut [u8]) -> Option<usize> {
        let inner = &self.inner;
        let len = inner.size.saturating_sub(offset).min(buf.len() as u64);
        if len == 0 {
            return Some(0);
        }
        let len = usize::try_from(len).ok()?;
        let counters = &inner.shared.counters;
        if inner.read(offset, &mut buf[..len]) {
            counters.hits.add(1);
            counters.read_bytes.add(len as u64);
            Some(len)
        } else {
            counters.misses.add(1);
            None
        }
    }

    /// Returns what of `range` is not here: whole grains (clipped to the object), neighbours
    /// merged, ascending. Of a small object it is all or nothing.
    ///
    /// What is here may still be found damaged when it is first read.
    pub fn missing(&self, range: Range<u64>) -> Vec<Range<u64>> {
        self.inner.missing(&range)
    }

    /// Returns how many bytes of the object are on disk, whichever process brought them. Exact up
    /// to 32 GiB, beyond that to within what the file system can tell.
    pub fn present_bytes(&self) -> u64 {
        self.inner.present_bytes()
    }

    /// Returns whether all of the object is on disk.
    pub fn is_complete(&self) -> bool {
        self.present_bytes() == self.inner.size
    }

    /// Returns the object's BLAKE3 hash, its b3sum; None before it is complete and sealed, which
    /// happens in the background shortly after the last byte came.
    pub fn digest(&self) -> Option<Hash> {
        self.inner.digest()
    }

    /// Returns the file that holds exactly the object's bytes, all verified and synced, for
    /// passing reads through to it; None while there is no such file, or it was touched since, or
    /// the disk failed within the last minute.
    ///
    /// Small objects never have one. While it is kept, no process evicts the file.
    pub fn sealed_file(&self) -> Option<Sealed> {
        self.inner.sealed_file()
    }

    /// Tries to become the one, among all processes, to bring `range`, widened to whole grains.
    ///
    /// None: some of it is being brought by another, or is here by now. Then wait with
    /// [`Watch::changed`] and ask [`Object::missing`] again. Where nothing can be kept on disk,
    /// the claim holds in this process only, and the bytes go to the memory tier.
    ///
    /// Blocks for local disk I/O; making an object's files waits for a commit, a millisecond.
    pub fn try_claim(&self, range: Range<u64>) -> Option<Fill> {
        self.claim(range, false)
    }

    /// Tries to become the one in this process to bring `range` into the memory tier, whatever
    /// other processes do: for a reader that has waited long for one that was stopped, or is slow.
    ///
    /// None: some of it is being brought by this process, or is here by now.
    pub fn try_claim_aside(&self, range: Range<u64>) -> Option<Fill> {
        self.claim(range, true)
    }

    fn claim(&self, range: Range<u64>, aside: bool) -> Option<Fill> {
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
        Fill::start(Arc::clone(inner), range, aside)
    }

    /// Returns whether bringing the last bytes of a small object may have to wait for the disk:
    /// many are waiting to be stored.
    pub fn is_behind(&self) -> bool {
        self.inner.disk().is_some_and(|disk| disk.packs.is_behind())
    }

    /// Forgets all that is here of the object, since its owner found that it is not what was
    /// promised: all of it is missing again, for every process. Equal content of other objects
    /// goes with it. Blocks on the local disk.
    pub fn discard(&self) {
        self.inner.discard();
    }

    /// Starts to watch for changes. Make it *before* asking what is missing, and no change is
    /// overlooked.
    pub fn watch(&self) -> Watch {
        Watch {
            seen: self.inner.generation(),
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
        // From here on a wake-up counts; one before shows in the generation.
        notified.as_mut().enable();
        if inner.generation() == self.seen {
            // Whether the time is up or a wake-up came, the caller looks again.
            let _ = tokio::time::timeout(self.pause, notified).await;
            self.pause = (self.pause * 2).min(LONGEST_PAUSE);
        }
        self.seen = self.object.inner.generation();
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
