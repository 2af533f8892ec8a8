//! Sealing: a complete partial becomes a blob, named by its hash, fit for passthrough.
//!
//! One thread, off every reader's path; whoever has the object open goes on reading through the
//! descriptor it has. The steps, each of which a crash may follow:
//!
//! 1. every grain is verified, unless this process has before, and the hashes are merged;
//! 2. the intention is committed to the index;
//! 3. the data is synced, the sidecar flagged as sealed and synced;
//! 4. the sidecar and then the data are renamed to the blob's name, or removed where that exists;
//! 5. the data is made read-only, and its identity and times are committed as the seal.
//!
//! After a crash the next to look for the object finds the partial, or completes the renaming, or
//! finds the blob without a seal, which is sealed again.

use crate::sync::atomic::{AtomicBool, Ordering};
use crate::sync::{Arc, Condvar, Mutex, PoisonError};
use std::collections::{HashSet, VecDeque};
use std::fs::Permissions;
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::time::{Duration, Instant};

use blake3::Hash;

use crate::backing::{Backing, State};
use crate::cache::Disk;
use crate::dir;
use crate::evict::{Removal, remove_alone};
use crate::failpoint;
use crate::files::{self, Opened};
use crate::grain::{self, ABSENT, Merger};
use crate::index::{Change, Seal};
use crate::inner::{Inner, is_as_sealed};
use crate::key::{ObjectKey, prefix};
use crate::lock::{self, LIFECYCLE, RangeLock};
use crate::sidecar::{self, Header};

/// Objects waiting to be sealed. One that finds no place is sealed when it is next opened.
const QUEUE: usize = 1024;

/// Grains verified between two looks whether to stop.
const AT_ONCE: u64 = 64;

/// How long another process may take to finish with the same content.
const PATIENCE: Duration = Duration::from_secs(2);

#[derive(Default)]
struct Queue {
    waiting: VecDeque<Arc<Inner>>,
    keys: HashSet<ObjectKey>,
}

/// The queue of the sealing thread.
#[derive(Default)]
pub(crate) struct Sealer {
    queue: Mutex<Queue>,
    wake: Condvar,
    stopped: AtomicBool,
}

impl Sealer {
    /// Has an object looked at, and sealed if it is complete.
    pub(crate) fn enqueue(&self, inner: &Arc<Inner>) {
        let mut queue = self.queue.lock().unwrap_or_else(PoisonError::into_inner);
        if !self.stopped.load(Ordering::Relaxed)
            && queue.waiting.len() < QUEUE
            && queue.keys.insert(inner.key)
        {
            queue.waiting.push_back(Arc::clone(inner));
            self.wake.notify_one();
        }
    }

    /// Takes an object off the queue that nobody holds but the queue: it is to be evicted, and a
    /// slow disk must not keep all that waits to be synced in the cache. Returns whether it did.
    pub(crate) fn give_up(&self, key: &ObjectKey) -> bool {
        let mut queue = self.queue.lock().unwrap_or_else(PoisonError::into_inner);
        let unheld = |inner: &Arc<Inner>| inner.key == *key && Arc::strong_count(inner) == 1;
        let Some(at) = queue.waiting.iter().position(unheld) else {
            return false;
        };
        let inner = queue.waiting.remove(at);
        queue.keys.remove(key);
        drop(queue);
        drop(inner);
        true
    }

    pub(crate) fn stop(&self) {
        self.stopped.store(true, Ordering::Relaxed);
        // Dropped outside the lock: the last handle of an object takes other locks.
        let waiting = {
            let mut queue = self.queue.lock().unwrap_or_else(PoisonError::into_inner);
            queue.keys.clear();
            std::mem::take(&mut queue.waiting)
        };
        drop(waiting);
        self.wake.notify_all();
    }

    fn next(&self) -> Option<Arc<Inner>> {
        let mut queue = self.queue.lock().unwrap_or_else(PoisonError::into_inner);
        loop {
            if self.stopped.load(Ordering::Relaxed) {
                return None;
            }
            if let Some(inner) = queue.waiting.pop_front() {
                queue.keys.remove(&inner.key);
                return Some(inner);
            }
            queue = self
                .wake
                .wait(queue)
                .unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// Seals what comes until stopped.
    pub(crate) fn run(self: &Arc<Self>) {
        while let Some(inner) = self.next() {
            if let Some(disk) = inner.disk()
                && let Err(error) = seal(&inner, disk, &self.stopped)
            {
                disk.troubles.note("seal an object", &error);
            }
        }
    }
}

impl Inner {
    /// Returns whether a partial may have all its grains, by a bounded look.
    pub(crate) fn may_be_complete(&self, backing: &Backing) -> bool {
        let count = grain::count(self.size);
        let progress = &backing.progress;
        let mut at = progress.complete_to.load(Ordering::Relaxed);
        while at < count && progress.verified.get(at) {
            at += 1;
        }
        let mut cvs = [ABSENT; AT_ONCE as usize];
        for _ in 0..16 {
            let cvs = &mut cvs[..(count - at).min(AT_ONCE) as usize];
            if cvs.is_empty() || sidecar::read_cvs(&backing.files.sidecar, at, cvs).is_err() {
                break;
            }
            let present = cvs.iter().take_while(|cv| **cv != ABSENT).count();
            at += present as u64;
            if present < cvs.len() {
                progress.complete_to.store(at, Ordering::Relaxed);
                return false;
            }
        }
        progress.complete_to.store(at, Ordering::Relaxed);
        true
    }
}

fn seal(inner: &Arc<Inner>, disk: &Disk, stopped: &AtomicBool) -> io::Result<()> {
    let Some(backing) = inner.fresh_backing() else {
        return Ok(());
    };
    match backing.state {
        State::Partial => {
            while !stopped.load(Ordering::Relaxed) {
                if !inner.may_be_complete(&backing) {
                    return Ok(());
                }
                if backing.progress.complete_to.load(Ordering::Relaxed) >= grain::count(inner.size)
                {
                    return seal_partial(inner, disk, &backing, stopped);
                }
            }
            Ok(())
        }
        State::Blob { hash, seal } => {
            let good = |seal: Seal| is_as_sealed(&backing.files.data, inner.size, &seal);
            drop_left_over(inner, disk)?;
            if seal.is_some_and(good) {
                return Ok(());
            }
            seal_again(inner, disk, &backing, hash, stopped)
        }
    }
}

fn seal_partial(
    inner: &Arc<Inner>,
    disk: &Disk,
    backing: &Arc<Backing>,
    stopped: &AtomicBool,
) -> io::Result<()> {
    let files = &backing.files;
    let Some(_lifecycle) = RangeLock::try_new(&files.data, LIFECYCLE)? else {
        // Another process is at it.
        return Ok(());
    };
    let partial = disk.dir.partial(&inner.key);
    if !dir::still_names(&partial, &files.data.metadata()?) {
        inner.close(backing);
        return Ok(());
    }
    let Some(hash) = verify_and_merge(inner, backing, stopped)? else {
        return Ok(());
    };
    failpoint::pass("seal.verified");
    let intention = Change::WillSeal {
        key: inner.key,
        hash,
        size: inner.size,
    };
    if !disk.index.commit(intention) {
        return Ok(());
    }
    failpoint::pass("seal.intended");
    rustix::fs::fdatasync(&files.data)?;
    failpoint::pass("seal.synced");
    let Some(header) = Header::read(&files.sidecar)? else {
        // Damaged since it was opened. The next to open it begins anew.
        inner.close(backing);
        return Ok(());
    };
    let sealed = Header {
        sealed: Some(hash),
        ..header
    };
    sealed.write(&files.sidecar)?;
    rustix::fs::fdatasync(&files.sidecar)?;
    failpoint::pass("seal.flagged");

    let Some(_blob_guard) = lock_blob(disk, &hash)? else {
        return Ok(());
    };
    let blob = disk.dir.blob(&hash);
    let deadline = Instant::now() + PATIENCE;
    let existing = loop {
        match files::open_blob(&disk.dir, &hash, inner.size)? {
            Opened::Ready(files) => break Some(files),
            Opened::Absent => break None,
            Opened::Bad(reason) => {
                tracing::warn!(blob = %hash, reason, "blob replaced");
                break None;
            }
            Opened::Busy if Instant::now() < deadline => {
                crate::sync::thread::sleep(Duration::from_millis(2));
            }
            Opened::Busy => return Ok(()),
        }
    };
    let counters = &inner.shared.counters;
    let (seal, bytes) = if let Some(existing) = &existing {
        // In this order: see `remove_alone`.
        dir::remove(&dir::sidecar(&partial))?;
        dir::remove(&partial)?;
        counters.deduplicated.add(1);
        let metadata = [existing.data.metadata()?, existing.sidecar.metadata()?];
        (None, metadata.iter().map(dir::allocated).sum())
    } else {
        disk.dir
            .rename(&dir::sidecar(&partial), &dir::sidecar(&blob))?;
        failpoint::pass("seal.sidecar-renamed");
        disk.dir.rename(&partial, &blob)?;
        failpoint::pass("seal.renamed");
        files.data.set_permissions(Permissions::from_mode(0o400))?;
        counters.sealed.add(1);
        let seal = Seal::of(&files.data.metadata()?);
        (Some(seal), backing.allocated())
    };
    failpoint::pass("seal.placed");
    let covered = backing.unreported.swap(0, Ordering::Relaxed);
    let done = Change::Sealed {
        key: inner.key,
        hash,
        size: inner.size,
        seal,
        bytes,
        covered,
    };
    if !disk.index.commit(done) {
        return Err(io::Error::other("the seal was not recorded"));
    }
    failpoint::pass("seal.recorded");
    // What is looked for finds the blob, and with the same file all that was verified of it: at once,
    // since an evictor may take what nobody holds, and the old hold ends with this function.
    inner.close(backing);
    inner.find(disk);
    inner.changed();
    Ok(())
}

/// Takes the right to make or remove a blob; None when another process keeps it.
pub(crate) fn lock_blob(disk: &Disk, hash: &Hash) -> io::Result<Option<RangeLock>> {
    // An open file of its own, so that threads of one process exclude each other too.
    let locks = Arc::new(disk.dir.create(&disk.dir.locks())?);
    let range = lock::blob(prefix(hash.as_bytes()));
    let deadline = Instant::now() + PATIENCE;
    loop {
        match RangeLock::try_new(&locks, range.clone())? {
            None if Instant::now() < deadline => {
                crate::sync::thread::sleep(Duration::from_millis(2))
            }
            other => return Ok(other),
        }
    }
}

/// Verifies what this process has not, and returns the hash of the whole; None when something is
/// missing or bad after all, or it is to stop.
fn verify_and_merge(
    inner: &Arc<Inner>,
    backing: &Arc<Backing>,
    stopped: &AtomicBool,
) -> io::Result<Option<Hash>> {
    let count = grain::count(inner.size);
    let mut merger = Merger::new();
    let mut cvs = [ABSENT; AT_ONCE as usize];
    let mut at = 0;
    while at < count {
        if stopped.load(Ordering::Relaxed) {
            return Ok(None);
        }
        let cvs = &mut cvs[..(count - at).min(AT_ONCE) as usize];
        sidecar::read_cvs(&backing.files.sidecar, at, cvs)?;
        for (index, cv) in (at..).zip(&*cvs) {
            let verified = backing.progress.verified.get(index);
            if *cv == ABSENT || !verified && !inner.check_grain(backing, index) {
                let progress = &backing.progress;
                progress.complete_to.fetch_min(index, Ordering::Relaxed);
                backing.progress.verified.clear(index);
                return Ok(None);
            }
            merger.push(*cv);
        }
        at += cvs.len() as u64;
    }
    Ok(merger.finish())
}

/// Removes the partial of an object whose content is a blob: left by a crash after the intention,
/// where the blob was there already.
fn drop_left_over(inner: &Inner, disk: &Disk) -> io::Result<()> {
    let row = disk.index.object(&inner.key);
    if row.is_some_and(|row| row.partial_bytes > 0 && row.blob.is_some()) {
        // Spared is what another process is at.
        if let Removal::Done(_) | Removal::Gone = remove_alone(&disk.dir.partial(&inner.key))? {
            let _ = disk.index.commit(Change::DropPartial { key: inner.key });
        }
    }
    Ok(())
}

/// Seals a blob that is at its place but has no seal, or another than its file.
fn seal_again(
    inner: &Arc<Inner>,
    disk: &Disk,
    backing: &Arc<Backing>,
    hash: Hash,
    stopped: &AtomicBool,
) -> io::Result<()> {
    let files = &backing.files;
    // Its file was touched: what was verified before says nothing of it any more.
    backing.progress.verified.clear_all();
    match verify_and_merge(inner, backing, stopped)? {
        Some(found) if found == hash => {}
        Some(_) => {
            let counters = &inner.shared.counters;
            disk.quarantine(counters, &hash, Some(&files.data), "its hash is another");
            inner.close(backing);
            return Ok(());
        }
        None => return Ok(()),
    }
    rustix::fs::fdatasync(&files.data)?;
    files.data.set_permissions(Permissions::from_mode(0o400))?;
    let done = Change::Sealed {
        key: inner.key,
        hash,
        size: inner.size,
        seal: Some(Seal::of(&files.data.metadata()?)),
        bytes: backing.allocated(),
        covered: 0,
    };
    let _ = disk.index.commit(done);
    // As above: the next look knows the seal, and holds the file from now on.
    inner.close(backing);
    inner.find(disk);
    Ok(())
}
