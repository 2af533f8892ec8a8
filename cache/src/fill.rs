//! Bringing the bytes of one claimed range.
//!
//! Order of writing: data, then its hashes, then the bit in memory, then the wake-up. So whoever
//! sees a grain as present, in whichever process, finds its bytes.

use crate::sync::atomic::Ordering;
use crate::sync::{Arc, PoisonError};
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::time::{Duration, Instant};

use bytes::Bytes;

use crate::backing::{Backing, State};
use crate::cache::Disk;
use crate::error::FillError;
use crate::failpoint;
use crate::grain::{self, Cv, GRAIN};
use crate::index::Change;
use crate::inner::Inner;
use crate::lock::{self, RangeLock};
use crate::memory::WHOLE;
use crate::reading::has_length;
use crate::sidecar;

/// Bytes that are written together where they come fast: a write of 64 KiB costs little more than
/// one of 16.
const BATCH: usize = 64 * 1024;

/// How long a whole grain may wait for others to be written with. A reader may wait for it.
const LINGER: Duration = Duration::from_millis(2);

/// The right and the duty to bring one range of an object, which nobody else has meanwhile.
///
/// Push the bytes in order, then [`finish`](Fill::finish). Dropping it gives the claim back; the
/// whole grains that have come stay.
pub struct Fill {
    inner: Arc<Inner>,
    range: Range<u64>,
    /// Where the next byte from the caller goes.
    position: u64,
    /// Bytes before `position` that are not stored yet.
    pending: Vec<u8>,
    last_store: Instant,
    target: Target,
}

/// Where the bytes go.
enum Target {
    /// The files of a large object, and the lock on the range.
    Files(Arc<Backing>, RangeLock),
    /// A pack, and the lock on the small object.
    Pack(RangeLock),
    /// The memory tier.
    Memory,
}

impl Fill {
    /// Makes a claim that holds in this process one of all processes. None: somebody has it, or
    /// some of the range is here.
    /// Where it is to be aside, other processes do not count, and the bytes go to memory.
    pub(crate) fn start(inner: Arc<Inner>, range: Range<u64>, aside: bool) -> Option<Fill> {
        // Made first: from here on, dropping it gives the claim in this process back.
        let mut fill = Fill {
            position: range.start,
            inner,
            range,
            pending: Vec::new(),
            last_store: Instant::now(),
            target: Target::Memory,
        };
        let inner = Arc::clone(&fill.inner);
        let disk = inner
            .disk()
            .filter(|disk| !aside && disk.quota.could_keep(inner.size));
        if let Some(disk) = disk {
            fill.target = if inner.is_small() {
                claim_small(&inner, disk)?
            } else {
                claim_range(&inner, disk, &fill.range)?
            };
        }
        // Only now, under the lock, is it certain what is here.
        let missing = match &fill.target {
            Target::Files(backing, _) => inner.missing_of(Some(backing), &fill.range),
            _ => inner.missing(&fill.range),
        };
        (missing.len() == 1 && missing[0] == fill.range).then_some(fill)
    }

    /// Returns the claimed range: whole grains, clipped to the object.
    pub fn range(&self) -> Range<u64> {
        self.range.clone()
    }

    /// Returns the offset in the object of the next byte to push.
    pub fn position(&self) -> u64 {
        self.position
    }

    /// Takes the next bytes of the range; grains that they complete can be read at once, or after
    /// a few milliseconds where they come fast and are written together.
    ///
    /// Blocks for local disk I/O, and up to 20 ms where room has to be made first. Trouble with
    /// the disk is not an error: the bytes are then held in memory for those who wait. Fails, and
    /// takes nothing, when there are more bytes than the range holds.
    pub fn push(&mut self, mut bytes: &[u8]) -> Result<(), FillError> {
        let room = self.range.end - self.position;
        if bytes.len() as u64 > room {
            return Err(FillError::Overrun {
                surplus: bytes.len() as u64 - room,
            });
        }
        self.position += bytes.len() as u64;
        let counters = &self.inner.shared.counters;
        counters.filled_bytes.add(bytes.len() as u64);
        let at_end = self.position == self.range.end;
        if self.inner.is_small() {
            self.pending.extend_from_slice(bytes);
            if at_end {
                self.store_small();
            }
            return Ok(());
        }
        if bytes.len() >= BATCH || at_end {
            // The common case of large chunks: no copy, but of the grain that was begun.
            let mut start = self.position - bytes.len() as u64;
            let begun = self.pending.len() % GRAIN as usize;
            if begun > 0 {
                let (head, rest) = bytes.split_at(bytes.len().min(GRAIN as usize - begun));
                self.pending.extend_from_slice(head);
                (bytes, start) = (rest, start + head.len() as u64);
            }
            if !self.pending.is_empty() {
                let pending = std::mem::take(&mut self.pending);
                self.store(start - pending.len() as u64, &pending);
            }
            let (whole, rest) = bytes.split_at(self.whole_grains(start, bytes.len()));
            self.store(start, whole);
            bytes = rest;
        }
        self.pending.extend_from_slice(bytes);
        let start = self.position - self.pending.len() as u64;
        let whole = self.whole_grains(start, self.pending.len());
        if whole >= BATCH || whole > 0 && (at_end || self.last_store.elapsed() >= LINGER) {
            let mut pending = std::mem::take(&mut self.pending);
            self.store(start, &pending[..whole]);
            pending.drain(..whole);
            self.pending = pending;
        }
        Ok(())
    }

    /// Returns how many of `len` bytes from `start` on are of whole grains.
    fn whole_grains(&self, start: u64, len: usize) -> usize {
        if start + len as u64 == self.range.end {
            len
        } else {
            len - len % GRAIN as usize
        }
    }

    /// Stores whole grains, on disk if they can be kept, else in memory.
    fn store(&mut self, start: u64, bytes: &[u8]) {
        if bytes.is_empty() {
            return;
        }
        self.last_store = Instant::now();
        if self.write(start, bytes) {
            self.inner.changed();
            return;
        }
        let memory = &self.inner.shared.memory;
        for (index, part) in (start / GRAIN..).zip(bytes.chunks(GRAIN as usize)) {
            memory.insert(&self.inner.key, index, Bytes::copy_from_slice(part));
        }
        let counters = &self.inner.shared.counters;
        counters.unkept_bytes.add(bytes.len() as u64);
        self.inner.changed();
    }

    /// Writes whole grains to the object's files; false when they are not to be kept.
    fn write(&mut self, start: u64, bytes: &[u8]) -> bool {
        let inner = Arc::clone(&self.inner);
        let Some(disk) = inner.disk() else {
            return false;
        };
        // A second try is for a file that had to be given up.
        for _ in 0..2 {
            let Target::Files(backing, _) = &self.target else {
                return false;
            };
            let written = write(&inner, disk, backing, start, bytes);
            if let Written::Yes = written {
                return true;
            }
            // No room, or trouble: what is left of this range is not kept either, and others may
            // now try it.
            self.report();
            self.target = Target::Memory;
            if let Written::NewFile = written
                && let Some(target) = claim_range(&inner, disk, &self.range)
            {
                self.target = target;
            }
        }
        false
    }

    /// Stores a small object, all of which has come.
    fn store_small(&mut self) {
        let bytes = Bytes::from(std::mem::take(&mut self.pending));
        let shared = &self.inner.shared;
        shared.memory.insert(&self.inner.key, WHOLE, bytes.clone());
        self.inner.changed();
        let target = std::mem::replace(&mut self.target, Target::Memory);
        let counters = &shared.counters;
        match (target, self.inner.disk()) {
            (Target::Pack(guard), Some(disk)) => {
                let packs = &disk.packs;
                packs.store(disk, counters, &self.inner.key, &bytes, guard);
            }
            _ => counters.unkept_bytes.add(bytes.len() as u64),
        }
    }

    /// Tells the index what the files take by now.
    fn report(&self) {
        if let (Target::Files(backing, _), Some(disk)) = (&self.target, self.inner.disk()) {
            report(&self.inner, disk, backing);
        }
    }

    /// Gives the claim back, after all bytes were pushed. Fails when some were not; whole grains
    /// that came stay.
    pub fn finish(self) -> Result<(), FillError> {
        match self.range.end - self.position {
            0 => Ok(()),
            missing => Err(FillError::Short { missing }),
        }
    }
}

impl Drop for Fill {
    fn drop(&mut self) {
        let start = self.position - self.pending.len() as u64;
        let whole = self.whole_grains(start, self.pending.len());
        if whole > 0 && !self.inner.is_small() {
            let pending = std::mem::take(&mut self.pending);
            self.store(start, &pending[..whole]);
        }
        self.report();
        // The lock between processes first: who takes the claim in this process needs it next.
        let target = std::mem::replace(&mut self.target, Target::Memory);
        if let Target::Files(backing, guard) = target {
            drop(guard);
            if let Some(disk) = self.inner.disk()
                && self.inner.may_be_complete(&backing)
            {
                disk.sealer.enqueue(&self.inner);
            }
        }
        self.inner
            .claims
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .retain(|claim| *claim != self.range);
        self.inner.changed();
    }
}

/// Returns None when another process has it.
fn claim_range(inner: &Arc<Inner>, disk: &Disk, range: &Range<u64>) -> Option<Target> {
    if !disk.make_room(inner, range.end - range.start) {
        return Some(Target::Memory);
    }
    let Some(backing) = inner.find_or_create(disk) else {
        return Some(Target::Memory);
    };
    if let State::Blob { .. } = backing.state {
        // Complete: nothing to claim.
        return None;
    }
    match RangeLock::try_new(&backing.files.data, range.clone()) {
        Ok(Some(guard)) => Some(Target::Files(backing, guard)),
        Ok(None) => None,
        Err(error) => {
            disk.troubles.note("lock a range", &error);
            Some(Target::Memory)
        }
    }
}

fn claim_small(inner: &Arc<Inner>, disk: &Disk) -> Option<Target> {
    let range = lock::small_object(inner.key.prefix());
    match RangeLock::try_new(&disk.locks, range) {
        Ok(Some(guard)) => Some(Target::Pack(guard)),
        Ok(None) => None,
        Err(error) => {
            disk.troubles.note("lock an object", &error);
            Some(Target::Memory)
        }
    }
}

/// What came of writing.
enum Written {
    Yes,
    No,
    /// The file was given up; there is to be a new one.
    NewFile,
}

/// Writes whole grains to the object's files.
fn write(
    inner: &Arc<Inner>,
    disk: &Disk,
    backing: &Arc<Backing>,
    start: u64,
    bytes: &[u8],
) -> Written {
    if !disk.make_room(inner, bytes.len() as u64) {
        return Written::No;
    }
    let files = &backing.files;
    if !has_length(&files.data, inner.size) {
        inner.abandon(backing);
        return Written::NewFile;
    }
    let first = start / GRAIN;
    let cvs: Vec<Cv> = (first..)
        .zip(bytes.chunks(GRAIN as usize))
        .map(|(index, grain)| grain::chaining_value(index, grain))
        .collect();
    let written = files.data.write_all_at(bytes, start).and_then(|()| {
        failpoint::pass("fill.data");
        sidecar::write_cvs(&files.sidecar, first, &cvs)
    });
    if let Err(error) = written {
        disk.troubles.note("write a file", &error);
        return Written::No;
    }
    failpoint::pass("fill.hashes");
    for index in (first..).take(cvs.len()) {
        backing.progress.verified.set(index);
    }
    let bytes = (bytes.len() + cvs.as_flattened().len()) as u64;
    disk.quota.wrote(bytes);
    backing.unreported.fetch_add(bytes, Ordering::Relaxed);
    Written::Yes
}

/// Tells the index what an object's partial takes by now.
fn report(inner: &Inner, disk: &Disk, backing: &Backing) {
    let covered = backing.unreported.swap(0, Ordering::Relaxed);
    if covered > 0 {
        let change = Change::Measured {
            key: inner.key,
            size: inner.size,
            bytes: backing.allocated(),
            covered,
        };
        if !disk.index.send(change, None) {
            backing.unreported.fetch_add(covered, Ordering::Relaxed);
        }
    }
}
