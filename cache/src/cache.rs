//! One opened cache: its parts, its threads, and what can be asked of it as a whole.

use crate::sync::thread::JoinHandle;
use crate::sync::{Arc, Mutex, PoisonError};
use std::fs::File;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use blake3::Hash;

use crate::clock::Clock;
use crate::collect;
use crate::config::Config;
use crate::dir::{self, Dir};
use crate::error::Error;
use crate::evict::{self, Eviction, Evictor};
use crate::files::{self, Opened};
use crate::index::{self, Change, Index, Pin};
use crate::inner::Inner;
use crate::key::ObjectKey;
use crate::memory::Memory;
use crate::object::Object;
use crate::packs::Packs;
use crate::quota::Quota;
use crate::registry::{Descriptors, Registry};
use crate::report::{GcReport, VerifyProgress, VerifyReport};
use crate::scrub;
use crate::seal::{Sealer, lock_blob};
use crate::stats::{Counters, Stats};
use crate::trouble::{Trouble, Troubles};

/// How long closing waits for the threads. They are stopped between two steps of a few
/// milliseconds each, but a disk may be slow.
const CLOSING_PATIENCE: Duration = Duration::from_secs(5);

/// One opened cache directory, or a cache in memory alone. Clones are the same cache.
#[derive(Clone)]
pub struct Cache {
    running: Arc<Running>,
}

/// What is shut down when the last handle of a cache goes, whether or not objects are still held.
struct Running {
    shared: Arc<Shared>,
    threads: Mutex<Vec<JoinHandle<()>>>,
}

/// What all objects of a cache have in common.
pub(crate) struct Shared {
    pub(crate) registry: Registry,
    pub(crate) memory: Memory,
    pub(crate) memory_limit: u64,
    pub(crate) counters: Counters,
    pub(crate) troubles: Arc<Troubles>,
    /// None for a cache in memory alone.
    pub(crate) disk: Option<Disk>,
}

/// What belongs to the cache directory.
pub(crate) struct Disk {
    pub(crate) dir: Arc<Dir>,
    /// The lock file, open once for all small objects, which are told apart in memory.
    pub(crate) locks: Arc<File>,
    pub(crate) index: Index,
    pub(crate) quota: Arc<Quota>,
    pub(crate) packs: Packs,
    pub(crate) descriptors: Descriptors,
    pub(crate) sealer: Arc<Sealer>,
    pub(crate) evictor: Arc<Evictor>,
    pub(crate) clock: Clock,
    pub(crate) troubles: Arc<Troubles>,
}

impl Disk {
    /// Returns whether `bytes` more of an object may be written, after making room if need be.
    pub(crate) fn make_room(&self, inner: &Inner, bytes: u64) -> bool {
        self.quota.could_keep(inner.size) && self.make_room_for_small(bytes)
    }

    /// The same for something that surely is not larger than the quota.
    pub(crate) fn make_room_for_small(&self, bytes: u64) -> bool {
        self.quota.fits(bytes) || self.evictor.make_room(&self.quota, bytes)
    }

    /// Brings the clock and the numbers of the quota up to date.
    pub(crate) fn measure(&self) {
        self.clock.now();
        match self.dir.space() {
            Ok(space) => self.quota.measured_free(space.free),
            Err(error) => self.troubles.note("measure the disk", &error),
        }
        let at = self.quota.reports();
        if let Some(used) = self.index.used() {
            self.quota.found(used, at);
        }
    }

    /// Removes a blob that was found bad, so that its objects are missing, and are brought again.
    /// With `file`, only if that is still it; else only if it still cannot be opened.
    pub(crate) fn quarantine(
        &self,
        counters: &Counters,
        hash: &Hash,
        file: Option<&File>,
        reason: &str,
    ) {
        let is_it = match file {
            Some(file) => file
                .metadata()
                .is_ok_and(|it| dir::still_names(&self.dir.blob(hash), &it)),
            None => {
                let row = self.index.blob(hash);
                let opened = row.map(|row| files::open_blob(&self.dir, hash, row.size));
                matches!(opened, Some(Ok(Opened::Bad(_))))
            }
        };
        if is_it {
            self.remove_blob(counters, hash, reason);
        }
    }

    /// Removes a blob that is bad.
    pub(crate) fn remove_blob(&self, counters: &Counters, hash: &Hash, reason: &str) {
        let path = self.dir.blob(hash);
        let removed = lock_blob(self, hash).and_then(|_guard| {
            dir::remove(&path)?;
            dir::remove(&dir::sidecar(&path))?;
            // Before somebody else can make it anew.
            Ok(self.index.commit(Change::DropBlob { hash: *hash }))
        });
        match removed {
            Ok(_) => {
                counters.healed.add(1);
                tracing::warn!(blob = %hash, reason, "damaged blob dropped");
            }
            Err(error) => self.troubles.note("remove a blob", &error),
        }
    }
}

impl Cache {
    /// Opens a cache directory, and makes it if there is none.
    ///
    /// Blocks for local disk I/O, for a time that does not grow with the cache. Fails where the
    /// directory belongs to somebody else, is open to others and cannot be closed to them, is on
    /// a network file system, or cannot be written; see [`Cache::in_memory`] for going on without.
    pub fn open(config: Config) -> Result<Cache, Error> {
        let dir = Arc::new(Dir::open(&config.dir)?);
        let space = dir.space().map_err(Error::io("measure the disk"))?;
        let locks = dir.create(&dir.locks());
        let locks = Arc::new(locks.map_err(Error::io("make the lock file"))?);
        let (connection, summary) = index::open(&dir)?;
        let quota = Arc::new(Quota::new(&config, space, summary.used));
        let troubles = Arc::new(Troubles::default());
        let threads_failed = || Error::io("start a thread");
        let (index, index_thread) = Index::start(
            connection,
            Arc::clone(&dir),
            Arc::clone(&quota),
            Arc::clone(&troubles),
        )
        .map_err(threads_failed())?;
        let (packs, orders) = Packs::new(quota.limit());
        let shared = Arc::new(Shared {
            registry: Registry::default(),
            memory: Memory::new(config.memory),
            memory_limit: config.memory,
            counters: Counters::default(),
            troubles: Arc::clone(&troubles),
            disk: Some(Disk {
                dir,
                locks,
                index,
                quota,
                packs,
                descriptors: Descriptors::new(),
                sealer: Arc::default(),
                evictor: Arc::default(),
                clock: Clock::new(summary.latest_use),
                troubles,
            }),
        });
        // From here on, an error stops what has been started.
        let cache = Cache {
            running: Arc::new(Running {
                shared: Arc::clone(&shared),
                threads: Mutex::new(vec![index_thread]),
            }),
        };
        if let Some(disk) = &shared.disk {
            let sealer = Arc::clone(&disk.sealer);
            let evictor = Arc::clone(&disk.evictor);
            let weak = Arc::downgrade(&shared);
            let spawn = |name: &str, run: Box<dyn FnOnce() + Send>| {
                let builder = crate::sync::thread::Builder::new().name(name.into());
                builder.spawn(run).map_err(threads_failed())
            };
            let kept = weak.clone();
            let mut threads = cache.running.threads();
            threads.push(spawn(
                "svol-pack",
                Box::new(move || Packs::run(&orders, &kept)),
            )?);
            threads.push(spawn("svol-seal", Box::new(move || sealer.run()))?);
            threads.push(spawn("svol-evict", Box::new(move || evictor.run(&weak)))?);
        }
        Ok(cache)
    }

    /// The same, but a disk that is full, read-only or broken is no reason to fail: it is noted as
    /// a trouble, and the cache is one in memory.
    pub fn open_or_in_memory(config: Config) -> Result<Cache, Error> {
        let memory = config.memory;
        match Cache::open(config) {
            Err(error) if error.is_of_the_disk() => {
                let cache = Cache::in_memory(memory);
                let cause = std::error::Error::source(&error).map(ToString::to_string);
                let why = format!("{error}: {}", cause.unwrap_or_default());
                let troubles = &cache.shared().troubles;
                troubles.note("be kept on disk by this process", &why);
                Ok(cache)
            }
            other => other,
        }
    }

    /// Returns a cache that keeps nothing on disk, and at most `memory` bytes at all.
    pub fn in_memory(memory: u64) -> Cache {
        Cache {
            running: Arc::new(Running {
                shared: Arc::new(Shared {
                    registry: Registry::default(),
                    memory: Memory::new(memory),
                    memory_limit: memory,
                    counters: Counters::default(),
                    troubles: Arc::default(),
                    disk: None,
                }),
                threads: Mutex::default(),
            }),
        }
    }

    fn shared(&self) -> &Arc<Shared> {
        &self.running.shared
    }

    /// Returns the directory on disk, with symbolic links resolved; None for a cache in memory.
    pub fn dir(&self) -> Option<PathBuf> {
        let disk = self.shared().disk.as_ref()?;
        Some(disk.dir.top().to_owned())
    }

    /// Returns the object of `size` bytes named by `key`. Cheap, and does no I/O.
    ///
    /// All handles of an object in this process share their state. While one is held, this process
    /// does not evict the object, so hold one for an open file rather than for a known one.
    pub fn object(&self, key: ObjectKey, size: u64) -> Object {
        let shared = self.shared();
        let make = || Inner::new(Arc::clone(shared), key, size);
        Object {
            inner: shared.registry.get_or_insert(key, size, make),
        }
    }

    /// Returns whether anybody in this process holds the object named by `key`.
    pub fn is_held(&self, key: &ObjectKey) -> bool {
        self.shared().registry.is_held(key)
    }

    /// Returns what the cache holds and what was done with it. Asks the index: milliseconds.
    pub fn stats(&self) -> Stats {
        let shared = self.shared();
        let counters = &shared.counters;
        let mut stats = Stats {
            memory_limit: shared.memory_limit,
            memory_used: shared.memory.used(),
            hits: counters.hits.get(),
            misses: counters.misses.get(),
            read_bytes: counters.read_bytes.get(),
            memory_read_bytes: counters.memory_read_bytes.get(),
            filled_bytes: counters.filled_bytes.get(),
            healed: counters.healed.get(),
            unkept_bytes: counters.unkept_bytes.get(),
            sealed: counters.sealed.get(),
            deduplicated: counters.deduplicated.get(),
            evicted_bytes: counters.evicted_bytes.get(),
            troubles: shared.troubles.count.get(),
            ..Stats::default()
        };
        if let Some(disk) = &shared.disk {
            disk.measure();
            let counts = disk.index.counts().unwrap_or_default();
            stats.limit = disk.quota.limit();
            stats.min_free = disk.quota.min_free();
            stats.used = disk.quota.used();
            stats.free = disk.quota.free();
            stats.objects = counts.objects;
            stats.blobs = counts.blobs;
            stats.packed = counts.packed;
            stats.pinned = counts.pinned;
            stats.pinned_bytes = counts.pinned_bytes;
        }
        stats
    }

    /// Returns what the disk or the index refused last, of what [`Stats::troubles`] counts.
    pub fn last_trouble(&self) -> Option<Trouble> {
        self.shared().troubles.last()
    }

    /// Reads and hashes everything on disk, and drops what is bad. Blocks for as long as that
    /// takes; `progress` is called at least every 64 MiB.
    pub fn verify(&self, mut progress: impl FnMut(VerifyProgress)) -> Result<VerifyReport, Error> {
        match &self.shared().disk {
            Some(disk) => scrub::verify(self.shared(), disk, &mut progress),
            None => Ok(VerifyReport::default()),
        }
    }

    /// Removes what a crash left behind, makes the index agree with the files, and evicts until at
    /// most `target` bytes are used (None: the limit). Blocks; looks at every file.
    pub fn gc(&self, target: Option<u64>) -> Result<GcReport, Error> {
        match &self.shared().disk {
            Some(disk) => collect::collect(self.shared(), disk, target),
            None => Ok(GcReport::default()),
        }
    }

    /// Spares an object of `size` bytes from eviction, now and after a restart, until it is
    /// unpinned. It need not be there yet. What was pinned under the same `note` no longer is: an
    /// older version of the same thing.
    pub fn pin(&self, key: &ObjectKey, size: u64, note: &str) -> Result<(), Error> {
        self.commit(Change::Pin {
            key: *key,
            size,
            note: note.to_owned(),
        })
    }

    /// Undoes [`Cache::pin`] of an object, and of all that was pinned under `note`.
    pub fn unpin(&self, key: Option<&ObjectKey>, note: &str) -> Result<(), Error> {
        self.commit(Change::Unpin {
            key: key.copied(),
            note: note.to_owned(),
        })
    }

    /// Returns whether an object is pinned. Blocks on the local disk.
    pub fn is_pinned(&self, key: &ObjectKey) -> Result<bool, Error> {
        match &self.shared().disk {
            Some(disk) => disk.index.is_pinned(key).ok_or_else(scrub::index_failed),
            None => Ok(false),
        }
    }

    /// Returns at most `limit` pins in the order of their notes, those after `after`. Blocks on
    /// the local disk.
    pub fn pins(&self, after: Option<&Pin>, limit: u64) -> Result<Vec<Pin>, Error> {
        let Some(disk) = &self.shared().disk else {
            return Ok(Vec::new());
        };
        let after = after.map_or(("", &[][..]), |pin| (pin.note.as_str(), pin.key.as_bytes()));
        let page = disk.index.pins(after, limit);
        page.ok_or_else(scrub::index_failed)
    }

    /// Removes what is here of an object, unless it is pinned or in use. What was brought just
    /// before is seen after a [`Cache::flush`]. Blocks on the local disk.
    pub fn evict(&self, key: &ObjectKey) -> Result<Eviction, Error> {
        match &self.shared().disk {
            Some(disk) => evict::evict_one(self.shared(), disk, key),
            None => Ok(Eviction::Absent),
        }
    }

    /// Returns how much the cache holds without evicting any of it, in bytes; 0 where it keeps
    /// nothing on disk.
    pub fn capacity(&self) -> u64 {
        let disk = self.shared().disk.as_ref();
        disk.map_or(0, |disk| disk.quota.capacity())
    }

    /// Commits to the index all that was done so far.
    pub fn flush(&self) -> Result<(), Error> {
        if let Some(disk) = &self.shared().disk {
            disk.packs.flush();
        }
        self.commit(Change::Flush)
    }

    fn commit(&self, change: Change) -> Result<(), Error> {
        match &self.shared().disk {
            Some(disk) if !disk.index.commit(change) => Err(Error::Index(
                "it cannot be written; the log says why".into(),
            )),
            _ => Ok(()),
        }
    }

    /// Writes what is pending and stops the threads, within five seconds. Objects still held go
    /// on being readable; what is filled afterwards is kept in memory only.
    pub async fn close(&self) {
        let running = Arc::clone(&self.running);
        // Only a runtime that is itself shutting down refuses; then dropping does it.
        let _ = tokio::task::spawn_blocking(move || running.stop()).await;
    }
}

impl Running {
    fn threads(&self) -> crate::sync::MutexGuard<'_, Vec<JoinHandle<()>>> {
        self.threads.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Stops the threads, those first that still write to the index.
    fn stop(&self) {
        let Some(disk) = &self.shared.disk else {
            return;
        };
        let deadline = Instant::now() + CLOSING_PATIENCE;
        let mut threads = std::mem::take(&mut *self.threads());
        if threads.is_empty() {
            return;
        }
        disk.sealer.stop();
        disk.evictor.stop();
        disk.packs.stop();
        let index = threads.remove(0);
        crate::sync::join(threads, deadline);
        disk.packs.close();
        disk.index.stop();
        crate::sync::join(vec![index], deadline);
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.stop();
    }
}
