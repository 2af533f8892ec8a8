//! Eviction: whole files, least recently used first, sparing what is open or pinned.
//!
//! A file is removed under an exclusive flock, which nobody gets while anybody has it open; who
//! opens it in between finds it unlinked and looks again. Files go before their rows, so that a
//! crash leaves a row that says too much, never a file that nobody counts.
//!
//! One thread does it, when told or once a second; it also keeps the coarse clock, and the numbers
//! of the quota, up to date, and sweeps (see `collect`).

use crate::sync::atomic::{AtomicBool, Ordering};
use crate::sync::{Condvar, Mutex, PoisonError, Weak};
use std::collections::VecDeque;
use std::fs::File;
use std::io::{self, ErrorKind};
use std::path::Path;
use std::time::{Duration, Instant};

use crate::cache::{Disk, Shared};
use crate::collect::Sweep;
use crate::dir::{self, Kind};
use crate::error::Error;
use crate::failpoint;
use crate::index::{Candidate, Change, Place, What};
use crate::key::ObjectKey;
use crate::lock;
use crate::quota::Quota;
use crate::scrub::index_failed;
use crate::seal::lock_blob;

/// How often to look at the disk without being told.
const TICK: Duration = Duration::from_secs(1);

/// How long a writer waits for room, before it goes on without keeping what it writes.
const PATIENCE: Duration = Duration::from_millis(20);

/// How long to take it that there is nothing more to evict.
const EXHAUSTED: Duration = Duration::from_millis(250);

/// Candidates asked for at once.
const PAGE: u64 = 64;

/// Spared files of a kind after which to take it that the rest is open or pinned too, for now.
const MOST_SPARED: u64 = 4096;

#[derive(Default)]
struct State {
    /// The most that anybody wants room for.
    wanted: u64,
    told: bool,
    rounds: u64,
    exhausted: Option<Instant>,
}

/// How others talk to the evicting thread.
#[derive(Default)]
pub(crate) struct Evictor {
    state: Mutex<State>,
    wake: Condvar,
    done: Condvar,
    stopped: AtomicBool,
}

impl Evictor {
    /// Has room made for `bytes`; waits for it a little. Returns whether there is room.
    pub(crate) fn make_room(&self, quota: &Quota, bytes: u64) -> bool {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let exhausted = state.exhausted.is_some_and(|at| at.elapsed() < EXHAUSTED);
        if exhausted || self.stopped.load(Ordering::Relaxed) {
            return quota.fits(bytes);
        }
        state.wanted = state.wanted.max(bytes);
        state.told = true;
        self.wake.notify_one();
        let round = state.rounds;
        let waiting = |state: &mut State| state.rounds == round && !quota.fits(bytes);
        let _ = self.done.wait_timeout_while(state, PATIENCE, waiting);
        quota.fits(bytes)
    }

    pub(crate) fn stop(&self) {
        self.stopped.store(true, Ordering::Relaxed);
        let _state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        self.wake.notify_all();
    }

    /// Evicts until stopped, or until the cache is gone.
    pub(crate) fn run(&self, cache: &Weak<Shared>) {
        let mut sweep = Sweep::default();
        while !self.stopped.load(Ordering::Relaxed) {
            let wanted = {
                let state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
                let idle = |state: &mut State| !state.told && !self.stopped.load(Ordering::Relaxed);
                let (mut state, _) = self
                    .wake
                    .wait_timeout_while(state, TICK, idle)
                    .unwrap_or_else(PoisonError::into_inner);
                state.told = false;
                std::mem::take(&mut state.wanted)
            };
            let Some(shared) = cache.upgrade() else {
                return;
            };
            let Some(disk) = &shared.disk else { return };
            disk.measure();
            disk.packs.close_idle(false);
            let excess = disk.quota.excess(wanted);
            let freed = if excess > 0 {
                evict(&shared, disk, excess, &self.stopped).bytes
            } else {
                0
            };
            let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
            state.rounds += 1;
            state.exhausted = (freed < excess).then(Instant::now);
            self.done.notify_all();
            drop(state);
            sweep.step(disk);
        }
    }
}

/// What an eviction has done.
#[derive(Default)]
pub(crate) struct Evicted {
    pub(crate) files: u64,
    pub(crate) bytes: u64,
}

/// The candidates of one kind, page by page.
struct Queue {
    kind: Kind,
    page: VecDeque<Candidate>,
    spared: u64,
    done: bool,
}

/// Evicts at least `excess` bytes if it can.
pub(crate) fn evict(shared: &Shared, disk: &Disk, excess: u64, stopped: &AtomicBool) -> Evicted {
    let mut evicted = Evicted::default();
    let mut queues = Kind::ALL.map(|kind| Queue {
        kind,
        page: VecDeque::new(),
        spared: 0,
        done: false,
    });
    while evicted.bytes < excess && !stopped.load(Ordering::Relaxed) {
        for queue in &mut queues {
            queue.done |= queue.spared >= MOST_SPARED;
            if queue.page.is_empty() && !queue.done {
                let page = disk.index.oldest(queue.kind, queue.spared, PAGE);
                queue.page = page.unwrap_or_default().into();
                queue.done = queue.page.is_empty();
            }
        }
        let oldest = queues
            .iter_mut()
            .filter(|queue| !queue.page.is_empty())
            .min_by_key(|queue| queue.page.front().map(|candidate| candidate.last_use));
        let Some(queue) = oldest else { break };
        let Some(candidate) = queue.page.pop_front() else {
            break;
        };
        match remove(shared, disk, &candidate) {
            Ok(Some(bytes)) => {
                evicted.files += 1;
                evicted.bytes += bytes;
                shared.counters.evicted_bytes.add(bytes);
            }
            Ok(None) => queue.spared += 1,
            Err(error) => {
                disk.troubles.note("evict a file", &error);
                queue.spared += 1;
            }
        }
    }
    if evicted.files > 0 {
        disk.measure();
    }
    evicted
}

/// What came of evicting one object.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Eviction {
    /// Nothing of it was on disk.
    Absent,
    /// It was removed, and so many bytes of the disk are free.
    Freed(u64),
    /// It is no longer here, but nothing is free yet: its content is also that of other objects,
    /// or in a file that small objects share.
    Shared,
    /// It is pinned, and stays.
    Pinned,
    /// Somebody has it open, in this process or another; it stays.
    InUse,
}

/// Evicts one object, whenever it was last used.
pub(crate) fn evict_one(shared: &Shared, disk: &Disk, key: &ObjectKey) -> Result<Eviction, Error> {
    let failed = || Error::io("evict an object");
    if shared.registry.is_held(key) && !disk.sealer.give_up(key) {
        return Ok(Eviction::InUse);
    }
    if disk.index.is_pinned(key).ok_or_else(index_failed)? {
        return Ok(Eviction::Pinned);
    }
    shared.memory.remove_object(key);
    let Some(row) = disk.index.object(key) else {
        return Ok(Eviction::Absent);
    };
    let remove = |what, bytes| {
        let candidate = Candidate {
            last_use: row.last_use,
            what,
            bytes,
        };
        let removed = remove(shared, disk, &candidate).map_err(failed())?;
        if let Some(bytes) = removed {
            shared.counters.evicted_bytes.add(bytes);
            disk.measure();
        }
        Ok(removed.map_or(Eviction::InUse, Eviction::Freed))
    };
    let Some(blob) = row.blob else {
        return remove(What::Partial(*key), row.partial_bytes);
    };
    if row.partial_bytes > 0
        && let Eviction::InUse = remove(What::Partial(*key), row.partial_bytes)?
    {
        return Ok(Eviction::InUse);
    }
    let hash = blob.hash;
    let sharers = disk.index.objects_of_blob(&hash).ok_or_else(index_failed)?;
    let is_shared = sharers.iter().any(|other| other != key);
    if let (Place::File(_), false) = (blob.place, is_shared) {
        return remove(What::Blob(hash), blob.bytes);
    }
    if !disk.index.commit(Change::DropObject { key: *key, hash }) {
        return Err(index_failed());
    }
    if let Place::Pack { id, .. } = blob.place
        && disk
            .index
            .objects_of_pack(id)
            .ok_or_else(index_failed)?
            .is_empty()
        && let Eviction::Freed(bytes) = remove(What::Pack(id), 0)?
    {
        return Ok(Eviction::Freed(bytes));
    }
    Ok(Eviction::Shared)
}

/// Removes a candidate and returns the bytes freed; None when it is spared.
fn remove(shared: &Shared, disk: &Disk, candidate: &Candidate) -> io::Result<Option<u64>> {
    let is_held = |keys: Option<Vec<_>>| {
        keys.is_none_or(|keys| keys.iter().any(|key| shared.registry.is_held(key)))
    };
    let (path, change) = match candidate.what {
        What::Partial(key) => {
            if shared.registry.is_held(&key) && !disk.sealer.give_up(&key) {
                return Ok(None);
            }
            (disk.dir.partial(&key), Change::DropPartial { key })
        }
        What::Blob(hash) => {
            if is_held(disk.index.objects_of_blob(&hash)) {
                return Ok(None);
            }
            (disk.dir.blob(&hash), Change::DropBlob { hash })
        }
        What::Pack(id) => {
            if is_held(disk.index.objects_of_pack(id)) {
                return Ok(None);
            }
            disk.packs.release(disk, id);
            // What was stored in it just before that is in the index only now.
            if is_held(disk.index.objects_of_pack(id)) {
                return Ok(None);
            }
            (disk.dir.pack(id), Change::DropPack { id })
        }
    };
    let _guard = match candidate.what {
        What::Blob(hash) => match lock_blob(disk, &hash)? {
            None => return Ok(None),
            guard => guard,
        },
        _ => None,
    };
    let freed = match remove_alone(&path)? {
        Removal::Spared => return Ok(None),
        Removal::Gone => candidate.bytes,
        Removal::Done(bytes) => bytes,
    };
    failpoint::pass("evict.unlinked");
    // Before somebody else can make it anew.
    if !disk.index.commit(change) {
        return Err(io::Error::other("the index is not available"));
    }
    if let What::Partial(key) = candidate.what {
        account_for_blob(disk, &key);
    }
    Ok(Some(freed))
}

/// A partial that is gone may have become a blob by somebody who did not live to say so. From now
/// on the blob is counted, and can be evicted.
fn account_for_blob(disk: &Disk, key: &ObjectKey) {
    let row = disk.index.object(key).and_then(|row| row.blob);
    if let Some(row) = row
        && let Ok(data) = std::fs::metadata(disk.dir.blob(&row.hash))
    {
        let sidecar = std::fs::metadata(dir::sidecar(&disk.dir.blob(&row.hash)));
        let bytes = dir::allocated(&data) + sidecar.map_or(0, |beside| dir::allocated(&beside));
        let hash = row.hash;
        disk.index.send(Change::BlobMeasured { hash, bytes }, None);
    }
}

/// What came of removing a file.
pub(crate) enum Removal {
    /// Somebody has it open.
    Spared,
    /// It was not there.
    Gone,
    /// It was removed, and took so many bytes.
    Done(u64),
}

/// Removes a data file and its sidecar, unless somebody has it open.
///
/// The sidecar goes first: once the data's name is free, somebody else may make the pair anew, and
/// the sidecar that is then beside it would be theirs. What is left by a crash in between is data
/// that nobody uses and that can be evicted.
pub(crate) fn remove_alone(path: &Path) -> io::Result<Removal> {
    let sidecar = dir::sidecar(path);
    let file = match File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Removal::Gone),
        Err(error) => return Err(error),
    };
    if !lock::hold_alone(&file)? {
        return Ok(Removal::Spared);
    }
    let metadata = file.metadata()?;
    if !dir::still_names(path, &metadata) {
        return Ok(Removal::Spared);
    }
    let beside = std::fs::metadata(&sidecar).map_or(0, |metadata| dir::allocated(&metadata));
    dir::remove(&sidecar)?;
    failpoint::pass("evict.sidecar");
    dir::remove(path)?;
    Ok(Removal::Done(dir::allocated(&metadata) + beside))
}
