//! The state of one object in this process, and finding its files.
//!
//! Lock order: `claims`, `slot` and `known` are leaves, held for a few instructions and never over
//! I/O; `creating` is held over the making of files, by those who claim only, and the leaves are
//! taken under it.

use crate::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use crate::sync::{Arc, Mutex, PoisonError, RwLock};
use std::fs::File;
use std::ops::Range;
use std::os::unix::fs::MetadataExt;
use std::time::Duration;

use blake3::Hash;
use bytes::Bytes;
use tokio::sync::Notify;

use crate::backing::{Backing, Progress, State};
use crate::bitmap::Bitmap;
use crate::cache::{Disk, Shared};
use crate::dir;
use crate::failpoint;
use crate::files::{self, Files, Identity, Opened};
use crate::grain::{self, ABSENT, Cv, Runs, SMALL};
use crate::index::{BlobRow, Change, ObjectRow, Place, Seal};
use crate::key::ObjectKey;
use crate::memory::WHOLE;
use crate::object::Sealed;
use crate::packs::Loaded;
use crate::sidecar;

/// The largest object that is kept on disk, in bytes: the largest file of ext4.
const LARGEST: u64 = 16 << 40;

/// Up to this size presence is counted exactly, from a sidecar of 64 MiB at most.
const COUNTED: u64 = 32 << 30;

/// Chaining values read at once where many are looked through.
const CVS_AT_ONCE: usize = 1024;

/// How often to look for files that are just being moved, with a millisecond between.
const FIND_TRIES: u32 = 20;

/// The least time between two notes of an object's use, by whichever process, in seconds. What was
/// used within ten minutes is equally far from being evicted; finer would cost a write a read.
const USE_RESOLUTION: u64 = 600;

/// See the module.
pub(crate) struct Inner {
    pub(crate) shared: Arc<Shared>,
    pub(crate) key: ObjectKey,
    pub(crate) size: u64,
    /// The ranges being filled by this process.
    pub(crate) claims: Mutex<Vec<Range<u64>>>,
    slot: RwLock<Option<Arc<Backing>>>,
    /// What is known of a file survives its descriptor's being closed to save descriptors.
    known: Mutex<Option<(Identity, Arc<Progress>)>>,
    creating: Mutex<()>,
    /// Set by a read; cleared by the hand of the clock that closes descriptors.
    pub(crate) recently_read: AtomicBool,
    /// Whether the descriptors of this object are counted.
    pub(crate) listed: AtomicBool,
    /// When a use was last noted.
    noted_use: AtomicU64,
    /// Counts what happened to this object, so that no wake-up is lost.
    generation: AtomicU64,
    pub(crate) notify: Notify,
}

impl Inner {
    pub(crate) fn new(shared: Arc<Shared>, key: ObjectKey, size: u64) -> Self {
        Self {
            shared,
            key,
            size,
            claims: Mutex::default(),
            slot: RwLock::default(),
            known: Mutex::default(),
            creating: Mutex::default(),
            recently_read: AtomicBool::new(false),
            listed: AtomicBool::new(false),
            noted_use: AtomicU64::new(0),
            generation: AtomicU64::new(0),
            notify: Notify::new(),
        }
    }

    pub(crate) fn generation(&self) -> u64 {
        self.generation.load(Ordering::Acquire)
    }

    /// Wakes all who wait for a change.
    pub(crate) fn changed(&self) {
        self.generation.fetch_add(1, Ordering::Release);
        self.notify.notify_waiters();
    }

    pub(crate) fn is_small(&self) -> bool {
        self.size <= SMALL
    }

    /// Returns the disk, for an object that may be on it.
    pub(crate) fn disk(&self) -> Option<&Disk> {
        self.shared
            .disk
            .as_ref()
            .filter(|_| self.size <= LARGEST && self.size > 0)
    }

    /// Notes a use, now and then.
    pub(crate) fn note_use(&self) {
        let Some(disk) = self.disk() else { return };
        let now = disk.clock.coarse();
        let noted = self.noted_use.load(Ordering::Relaxed);
        if now >= noted + USE_RESOLUTION
            && self
                .noted_use
                .compare_exchange(noted, now, Ordering::Relaxed, Ordering::Relaxed)
                .is_ok()
        {
            disk.index.hint(Change::Used { key: self.key });
        }
    }

    /// Learns when the object was last used by anybody.
    fn learn_use(&self, row: &ObjectRow) {
        self.noted_use.fetch_max(row.last_use, Ordering::Relaxed);
    }

    /// Returns the object's files where this process has them open.
    pub(crate) fn open_files(&self) -> Option<Arc<Backing>> {
        self.slot
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    /// Returns the object's files, if it has any.
    pub(crate) fn backing(self: &Arc<Self>) -> Option<Arc<Backing>> {
        if self.is_small() {
            return None;
        }
        self.open_files().or_else(|| self.find(self.disk()?))
    }

    /// The same, after a look whether they are still the right ones.
    pub(crate) fn fresh_backing(self: &Arc<Self>) -> Option<Arc<Backing>> {
        let backing = self.backing()?;
        if !backing.is_stale() {
            return Some(backing);
        }
        self.close(&backing);
        self.find(self.disk()?)
    }

    /// Closes files, unless others have taken their place.
    pub(crate) fn close(&self, backing: &Arc<Backing>) {
        let mut slot = self.slot.write().unwrap_or_else(PoisonError::into_inner);
        if slot.as_ref().is_some_and(|now| Arc::ptr_eq(now, backing)) {
            *slot = None;
        }
    }

    /// Closes whatever is open.
    pub(crate) fn close_any(&self) {
        *self.slot.write().unwrap_or_else(PoisonError::into_inner) = None;
    }

    /// Looks for the object's files on disk.
    pub(crate) fn find(self: &Arc<Self>, disk: &Disk) -> Option<Arc<Backing>> {
        for attempt in 0..FIND_TRIES {
            let row = disk
                .index
                .object(&self.key)
                .filter(|row| row.size == self.size);
            if let Some(row) = &row {
                self.learn_use(row);
            }
            let mut moving = false;
            if let Some(blob) = row.and_then(|row| row.blob) {
                match self.find_blob(disk, &blob) {
                    Ok(Found::Ready(backing)) => {
                        if row.is_some_and(|row| row.partial_bytes > 0) {
                            disk.sealer.enqueue(self);
                        }
                        return Some(backing);
                    }
                    Ok(Found::Again) => moving = true,
                    // It may be on its way from one place to the other.
                    Ok(Found::No) => moving = attempt == 0,
                    Err(error) => disk.troubles.note("open a blob", &error),
                }
            }
            match files::open_partial(&disk.dir, &self.key, self.size) {
                Ok(Opened::Ready(files)) => {
                    let backing = self.install(disk, files, State::Partial);
                    if row.is_none() {
                        disk.index.hint(Change::Measured {
                            key: self.key,
                            size: self.size,
                            bytes: backing.allocated(),
                            covered: 0,
                        });
                    }
                    return Some(backing);
                }
                Ok(Opened::Busy) => moving = true,
                // A claimer will see to it.
                Ok(Opened::Bad(_) | Opened::Absent) => {}
                Err(error) => disk.troubles.note("open a partial", &error),
            }
            if !moving {
                return None;
            }
            if attempt > 0 {
                crate::sync::thread::sleep(Duration::from_millis(1));
            }
        }
        None
    }

    fn find_blob(self: &Arc<Self>, disk: &Disk, row: &BlobRow) -> std::io::Result<Found> {
        let Place::File(seal) = row.place else {
            return Ok(Found::No);
        };
        let hash = row.hash;
        match files::open_blob(&disk.dir, &hash, self.size)? {
            Opened::Ready(files) => {
                let state = State::Blob { hash, seal };
                Ok(Found::Ready(self.install(disk, files, state)))
            }
            Opened::Busy => Ok(Found::Again),
            Opened::Absent => {
                if files::finish_interrupted_seal(&disk.dir, &self.key, &hash, self.size)? {
                    Ok(Found::Again)
                } else {
                    Ok(Found::No)
                }
            }
            Opened::Bad(reason) => {
                disk.quarantine(&self.shared.counters, &hash, None, reason);
                Ok(Found::No)
            }
        }
    }

    /// Opens the object's files, and makes a partial if there are none. None: for now it cannot
    /// be kept on disk.
    pub(crate) fn find_or_create(self: &Arc<Self>, disk: &Disk) -> Option<Arc<Backing>> {
        if let Some(backing) = self.fresh_backing() {
            return Some(backing);
        }
        let _guard = self.creating.lock().unwrap_or_else(PoisonError::into_inner);
        for _ in 0..FIND_TRIES {
            if let Some(backing) = self.fresh_backing() {
                return Some(backing);
            }
            // The row first: a file without one would be space that nobody accounts for.
            let row = Change::AddPartial {
                key: self.key,
                size: self.size,
            };
            if !disk.index.commit(row) {
                return None;
            }
            failpoint::pass("create.row");
            match files::create_partial(&disk.dir, &self.key, self.size) {
                Ok(Some(files)) => return Some(self.install(disk, files, State::Partial)),
                Ok(None) => {}
                Err(error) => {
                    disk.troubles.note("make a file", &error);
                    disk.index.hint(Change::DropPartial { key: self.key });
                    return None;
                }
            }
        }
        None
    }

    fn install(self: &Arc<Self>, disk: &Disk, files: Files, state: State) -> Arc<Backing> {
        let progress = {
            let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
            match &*known {
                Some((identity, progress)) if *identity == files.identity => Arc::clone(progress),
                _ => {
                    let progress = Arc::new(Progress {
                        verified: Bitmap::new(grain::count(self.size)),
                        complete_to: AtomicU64::new(0),
                    });
                    *known = Some((files.identity, Arc::clone(&progress)));
                    progress
                }
            }
        };
        let backing = Arc::new(Backing {
            files,
            state,
            progress,
            unreported: AtomicU64::new(0),
        });
        {
            let mut slot = self.slot.write().unwrap_or_else(PoisonError::into_inner);
            if let Some(other) = &*slot
                && other.files.identity == backing.files.identity
                && other.state == backing.state
            {
                // Another thread was faster.
                return Arc::clone(other);
            }
            *slot = Some(Arc::clone(&backing));
        }
        disk.descriptors.opened(self);
        if self.may_need_seal(&backing) {
            disk.sealer.enqueue(self);
        }
        backing
    }

    /// Returns whether there may be something to do for the sealer: a partial that may be complete,
    /// or a blob without a seal.
    fn may_need_seal(&self, backing: &Backing) -> bool {
        match backing.state {
            State::Partial => self.may_be_complete(backing),
            State::Blob { seal, .. } => seal.is_none(),
        }
    }

    /// Returns the bytes of a small object, verified.
    pub(crate) fn small(&self) -> Option<(Bytes, bool)> {
        if self.size == 0 {
            return Some((Bytes::new(), true));
        }
        let memory = &self.shared.memory;
        if let Some(bytes) = memory.get(&self.key, WHOLE) {
            return Some((bytes, true));
        }
        let disk = self.disk()?;
        let row = disk.index.object(&self.key)?;
        self.learn_use(&row);
        let blob = row.blob.filter(|blob| blob.size == self.size)?;
        let loaded = disk.packs.load(disk, &self.shared.counters, &blob);
        let Loaded::Good(bytes) = loaded else {
            return None;
        };
        memory.insert(&self.key, WHOLE, bytes.clone());
        Some((bytes, false))
    }

    pub(crate) fn missing(self: &Arc<Self>, range: &Range<u64>) -> Vec<Range<u64>> {
        let grains = grain::covering(range, self.size);
        if grains.is_empty() {
            return Vec::new();
        }
        if self.is_small() {
            return match self.small() {
                Some(_) => Vec::new(),
                None => Runs::one(0..self.size),
            };
        }
        self.missing_of(self.backing().as_deref(), range)
    }

    /// Returns the missing runs of a large object, given its files.
    pub(crate) fn missing_of(
        &self,
        backing: Option<&Backing>,
        range: &Range<u64>,
    ) -> Vec<Range<u64>> {
        let grains = grain::covering(range, self.size);
        let mut runs = Runs::new(self.size);
        if backing.is_some_and(|backing| backing.progress.verified.all(grains.clone())) {
            return runs.finish();
        }
        let mut cvs = [ABSENT; 64];
        let mut at = grains.start;
        while at < grains.end {
            let count = (grains.end - at).min(cvs.len() as u64);
            let cvs = &mut cvs[..count as usize];
            let read = backing.map(|backing| sidecar::read_cvs(&backing.files.sidecar, at, cvs));
            if !matches!(read, Some(Ok(()))) {
                cvs.fill(ABSENT);
            }
            for (index, cv) in (at..).zip(cvs) {
                let on_disk = *cv != ABSENT
                    || backing.is_some_and(|backing| backing.progress.verified.get(index));
                if !on_disk && !self.shared.memory.contains(&self.key, index) {
                    runs.absent(index);
                }
            }
            at += count;
        }
        runs.finish()
    }

    pub(crate) fn present_bytes(self: &Arc<Self>) -> u64 {
        if self.size == 0 {
            return 0;
        }
        let Some(disk) = self.disk() else { return 0 };
        if self.is_small() {
            let row = disk.index.object(&self.key);
            let blob = row.and_then(|row| row.blob);
            return blob
                .filter(|blob| blob.size == self.size)
                .map_or(0, |_| self.size);
        }
        let Some(backing) = self.backing() else {
            return 0;
        };
        if let State::Blob { .. } = backing.state {
            return self.size;
        }
        if self.size > COUNTED {
            let blocks = backing.files.data.metadata().map(|m| dir::allocated(&m));
            return blocks.unwrap_or(0).min(self.size);
        }
        let mut cvs: Vec<Cv> = vec![ABSENT; CVS_AT_ONCE];
        let mut present = 0;
        let count = grain::count(self.size);
        let mut at = 0;
        while at < count {
            let cvs = &mut cvs[..(count - at).min(CVS_AT_ONCE as u64) as usize];
            if sidecar::read_cvs(&backing.files.sidecar, at, cvs).is_err() {
                break;
            }
            for (index, cv) in (at..).zip(&*cvs) {
                if *cv != ABSENT {
                    let span = grain::span(index, self.size);
                    present += span.end - span.start;
                }
            }
            at += cvs.len() as u64;
        }
        present
    }

    pub(crate) fn digest(self: &Arc<Self>) -> Option<Hash> {
        if self.is_small() {
            return self.small().map(|(bytes, _)| blake3::hash(&bytes));
        }
        match self.fresh_backing()?.state {
            State::Blob { hash, .. } => Some(hash),
            State::Partial => None,
        }
    }

    pub(crate) fn sealed_file(self: &Arc<Self>) -> Option<Sealed> {
        // What others read from the file themselves, nobody mends for them.
        if self.disk().is_some_and(|disk| disk.troubles.is_failing()) {
            return None;
        }
        let backing = self.fresh_backing()?;
        let State::Blob { hash, seal } = backing.state else {
            return None;
        };
        if seal.is_some_and(|seal| is_as_sealed(&backing.files.data, self.size, &seal)) {
            self.note_use();
            return Some(Sealed {
                file: Arc::clone(&backing.files.data),
                digest: hash,
            });
        }
        // Touched since, or sealed by one who did not live to say so: to be sealed again. The
        // next look finds the new seal.
        if let Some(disk) = self.disk() {
            disk.sealer.enqueue(self);
        }
        None
    }
}

enum Found {
    Ready(Arc<Backing>),
    Again,
    No,
}

/// Returns whether a file is as it was when it was sealed.
pub(crate) fn is_as_sealed(file: &File, size: u64, seal: &Seal) -> bool {
    file.metadata()
        .is_ok_and(|now| now.len() == size && now.nlink() > 0 && Seal::of(&now) == *seal)
}

impl Drop for Inner {
    fn drop(&mut self) {
        self.shared.registry.forget(&self.key);
    }
}
