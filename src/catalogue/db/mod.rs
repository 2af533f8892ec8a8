//! The catalogue's file: what every source was last known to hold, for the next mount.
//!
//! One SQLite file in the cache directory, shared by any number of processes (WAL). It is a record,
//! never a dependency: a file that is corrupt, of an unknown version or on a full disk costs
//! listings, not the mount. It is set aside by a rename then, never deleted.
//!
//! One thread writes, in batches ([`writer`]); readers have a connection each from a small pool.
//! What is queued and not yet written is in [`Pending`], so that a directory that is evicted from
//! memory is never read back older than it was.
//!
//! Lock order: `pending` and `pool` are leaves; nothing is locked while either is held.

mod file;
mod rows;
mod writer;

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use rusqlite::{Connection, OpenFlags, OptionalExtension};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot};

use super::directory::Directory;
use crate::entry::{Entry, Timestamp};
use crate::path::{Name, RelPath};
use crate::rows::{Room, Row};

/// The file in the cache directory.
const FILE: &str = "catalogue.db";

/// Held while the file is opened, so that two processes do not both set it aside.
const LOCK: &str = "catalogue.lock";

/// Left behind by a process that found the file corrupt while using it.
const SUSPECT: &str = "catalogue.suspect";

/// Read connections that are kept open when idle; each costs two descriptors and its cache.
const IDLE_READERS: usize = 4;

/// Writes that may wait. Small ones are dropped beyond it, listings wait.
const QUEUE: usize = 1024;

/// KiB of directories that may wait to be written, unless said otherwise.
const QUEUE_KIB: u32 = 64 * 1024;

/// Why the catalogue's file cannot be used at all. The mount works without it: [`Db::volatile`].
#[derive(Debug, thiserror::Error)]
pub enum DbError {
    /// The directory or the file cannot be used.
    #[error("{path}: {cause}")]
    Io {
        /// What cannot be used.
        path: PathBuf,
        /// Why.
        cause: std::io::Error,
    },
    /// SQLite says no, and not because of what is in the file.
    #[error("{path}: {cause}")]
    Sqlite {
        /// The catalogue's file.
        path: PathBuf,
        /// Why.
        cause: rusqlite::Error,
    },
}

impl DbError {
    fn sqlite(path: &Path, cause: rusqlite::Error) -> DbError {
        let path = path.to_owned();
        DbError::Sqlite { path, cause }
    }
}

/// A handle on the catalogue's file; clones share it.
#[derive(Clone, Debug)]
pub struct Db(Option<Arc<Inner>>);

#[derive(Debug)]
struct Inner {
    path: PathBuf,
    pool: Mutex<Vec<Connection>>,
    pending: Mutex<Pending>,
    queue: mpsc::Sender<Queued>,
    room: Arc<Semaphore>,
    /// How much `room` there is in all.
    kib: u32,
    counters: Arc<Counters>,
}

#[derive(Debug, Default)]
struct Counters {
    sequence: AtomicU64,
    dropped: AtomicU64,
    failed: AtomicU64,
    /// The file was found corrupt: nothing is read from it or written to it any more.
    corrupt: AtomicBool,
}

/// What is queued and not yet in the file.
#[derive(Debug, Default)]
struct Pending {
    dirs: HashMap<(i64, RelPath), (u64, Arc<Directory>)>,
    /// Subtrees to be forgotten.
    gone: Vec<(u64, i64, RelPath)>,
}

/// One write.
#[derive(Debug)]
pub(super) enum Op {
    /// A directory was listed.
    Store {
        source: i64,
        path: RelPath,
        dir: Arc<Directory>,
        /// The generation that the names below refer to; without it all rows are written.
        base: Option<u64>,
        touched: Vec<Name>,
        removed: Vec<Name>,
    },
    /// A directory is gone, and all below it.
    Forget { source: i64, path: RelPath },
    /// One entry is known better, or has changed.
    Patch {
        source: i64,
        dir: RelPath,
        row: Box<Row>,
        old_version: Arc<str>,
        generation: u64,
        /// The old version's content is replaced, not just known better.
        supersedes: bool,
    },
    /// Directories must be listed again before they are served.
    Invalidate {
        source: i64,
        path: RelPath,
        recursive: bool,
        at: Timestamp,
    },
    /// Nothing; its `done` says that all before it is written.
    Flush,
}

#[derive(Debug)]
struct Queued {
    op: Op,
    sequence: u64,
    done: Option<oneshot::Sender<u64>>,
    _room: Option<OwnedSemaphorePermit>,
    inner: std::sync::Weak<Inner>,
}

/// A directory as it was found in the file.
#[derive(Debug)]
pub(super) struct Stored {
    pub(super) dir: Directory,
    /// Since when it must be listed again before it is served.
    pub(super) invalid_at: Option<Timestamp>,
}

/// Reads the text of what was hidden, and writes it again.
#[cfg(feature = "failpoints")]
pub(super) fn hidden_again(text: &str) -> String {
    rows::encode_hidden(&rows::decode_hidden(text))
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // What the locks guard is consistent between any two statements.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Db {
    /// Opens the catalogue in `dir`, which must exist and be on a local disk. Blocks on the disk.
    ///
    /// A file that is corrupt or of another version is renamed to `catalogue.db.aside-…` and a new
    /// one begun.
    pub fn open(dir: &Path) -> Result<Db, DbError> {
        Db::open_within(dir, u64::from(QUEUE_KIB) * 1024)
    }

    /// As [`Db::open`], with at most `queue` bytes of directories that wait to be written.
    pub fn open_within(dir: &Path, queue: u64) -> Result<Db, DbError> {
        let kib = u32::try_from(queue / 1024)
            .unwrap_or(QUEUE_KIB)
            .clamp(1, QUEUE_KIB);
        let path = dir.join(FILE);
        let io = |path: &Path| {
            let path = path.to_owned();
            move |cause| DbError::Io { path, cause }
        };
        let lock_path = dir.join(LOCK);
        let lock = std::fs::File::options()
            .create(true)
            .truncate(false)
            .write(true)
            .open(&lock_path)
            .map_err(io(&lock_path))?;
        rustix::fs::flock(&lock, rustix::fs::FlockOperation::LockExclusive)
            .map_err(|e| io(&lock_path)(e.into()))?;
        let suspect = dir.join(SUSPECT);
        if suspect.exists() {
            file::set_aside(&path, "an earlier process found it corrupt").map_err(io(&path))?;
            std::fs::remove_file(&suspect).map_err(io(&suspect))?;
        }
        let connection = file::open(&path)?;
        drop(lock);

        let counters = Arc::new(Counters::default());
        let (queue, receiver) = mpsc::channel(QUEUE);
        let inner = Arc::new(Inner {
            path: path.clone(),
            pool: Mutex::new(Vec::new()),
            pending: Mutex::new(Pending::default()),
            queue,
            room: Arc::new(Semaphore::new(kib as usize)),
            kib,
            counters: counters.clone(),
        });
        std::thread::Builder::new()
            .name("svol-catalogue".into())
            .spawn(move || writer::run(connection, receiver, &counters, &path))
            .map_err(io(&inner.path))?;
        Ok(Db(Some(inner)))
    }

    /// Returns a catalogue that remembers nothing beyond this process: for when [`Db::open`]
    /// fails, and for looking into a volume once.
    pub fn volatile() -> Db {
        Db(None)
    }

    /// Returns whether anything is remembered for the next mount.
    pub fn is_persistent(&self) -> bool {
        self.0
            .as_ref()
            .is_some_and(|inner| !inner.counters.corrupt.load(Ordering::Relaxed))
    }

    /// Returns how many writes failed or were dropped; each costs a listing in a later mount.
    pub fn lost_writes(&self) -> u64 {
        self.0.as_ref().map_or(0, |inner| {
            inner.counters.failed.load(Ordering::Relaxed)
                + inner.counters.dropped.load(Ordering::Relaxed)
        })
    }

    /// Returns about how many bytes of directories wait to be written.
    pub fn queued(&self) -> u64 {
        self.0.as_ref().map_or(0, |inner| {
            let left = inner.room.available_permits() as u64;
            u64::from(inner.kib).saturating_sub(left) * 1024
        })
    }

    /// Waits until all that was queued before is in the file, or was given up.
    pub async fn flush(&self) {
        self.write_and_wait(Op::Flush).await;
    }

    /// As [`Db::flush`], for a thread that may block, for `limit` at most. Returns whether all was
    /// written in time. The last thing to do before a process ends.
    pub fn close(&self, limit: Duration) -> bool {
        let Some(inner) = &self.0 else { return true };
        let deadline = Instant::now() + limit;
        let (done, mut written) = oneshot::channel();
        let slot = loop {
            match inner.queue.try_reserve() {
                Ok(slot) => break slot,
                Err(mpsc::error::TrySendError::Full(())) if Instant::now() < deadline => {
                    std::thread::sleep(Duration::from_millis(5));
                }
                Err(_) => return false,
            }
        };
        slot.send(inner.queued(Op::Flush, Some(done), None));
        loop {
            match written.try_recv() {
                Ok(_) => return true,
                Err(oneshot::error::TryRecvError::Closed) => return false,
                Err(oneshot::error::TryRecvError::Empty) if Instant::now() >= deadline => {
                    return false;
                }
                Err(oneshot::error::TryRecvError::Empty) => {
                    std::thread::sleep(Duration::from_millis(2));
                }
            }
        }
    }

    /// Returns the number of the source called `identity`, new if need be. Blocks on the disk.
    pub(super) fn source(&self, identity: &str) -> Option<i64> {
        let inner = self.0.as_ref()?;
        let find = |c: &Connection| {
            c.query_row(
                "SELECT id FROM sources WHERE identity = ?1",
                [identity],
                |row| row.get(0),
            )
            .optional()
        };
        if let Some(id) = inner.read(find).flatten() {
            return Some(id);
        }
        let made = file::connect(&inner.path, OpenFlags::SQLITE_OPEN_READ_WRITE).and_then(|c| {
            c.execute(
                "INSERT INTO sources (identity) VALUES (?1) ON CONFLICT DO NOTHING",
                [identity],
            )?;
            find(&c)
        });
        match made {
            Ok(id) => id,
            Err(error) => {
                inner.counters.note(&inner.path, &error);
                None
            }
        }
    }

    /// Returns what is known of `path`. Blocks on the disk.
    pub(super) fn load(&self, source: i64, path: &RelPath, room: &Room) -> Option<Stored> {
        let inner = self.0.as_ref()?;
        if let Some(known) = lock(&inner.pending).look(source, path) {
            return known.map(|dir| Stored {
                dir: Directory::clone(&dir),
                invalid_at: None,
            });
        }
        inner.read(|c| rows::load(c, source, path, room)).flatten()
    }

    /// Returns what is known of `paths`, in their order, without those of which nothing is. Blocks on
    /// the disk.
    pub(super) fn load_all(
        &self,
        source: i64,
        paths: Vec<RelPath>,
        room: &Room,
    ) -> Vec<(RelPath, Stored)> {
        let Some(inner) = self.0.as_ref() else {
            return Vec::new();
        };
        let queued: Vec<_> = {
            let pending = lock(&inner.pending);
            paths
                .iter()
                .map(|path| pending.look(source, path))
                .collect()
        };
        let asked = inner.read(|c| {
            // One snapshot for all.
            let snapshot = c.unchecked_transaction()?;
            let mut found = Vec::new();
            for (path, queued) in std::iter::zip(paths, queued) {
                let stored = match queued {
                    None => rows::load_in(&snapshot, source, &path, room)?,
                    Some(known) => known.map(|dir| Stored {
                        dir: Directory::clone(&dir),
                        invalid_at: None,
                    }),
                };
                found.extend(stored.map(|stored| (path, stored)));
            }
            Ok(found)
        });
        asked.unwrap_or_default()
    }

    /// Returns up to `most` directories below `root` that something is known of, behind `at` in the
    /// order of paths. Blocks on the disk.
    pub(super) fn known_behind(
        &self,
        source: i64,
        root: &RelPath,
        at: &RelPath,
        most: usize,
    ) -> Vec<RelPath> {
        let Some(inner) = self.0.as_ref() else {
            return Vec::new();
        };
        let found = inner.read(|c| rows::known_behind(c, source, root, at, most));
        found.unwrap_or_default()
    }

    /// Returns the versions of `path` that were replaced in the last day, newest first. Blocks on
    /// the disk.
    pub(super) fn superseded(&self, source: i64, path: &RelPath) -> Vec<Entry> {
        let Some(inner) = self.0.as_ref() else {
            return Vec::new();
        };
        inner
            .read(|c| rows::superseded(c, source, path))
            .unwrap_or_default()
    }

    /// Returns the bytes and files of all directories known of a source. Blocks on the disk.
    pub(super) fn totals(&self, source: i64) -> Option<(u64, u64)> {
        self.0.as_ref()?.read(|c| {
            c.query_row(
                "SELECT coalesce(sum(bytes), 0), coalesce(sum(files), 0) FROM dirs
                 WHERE source = ?1",
                [source],
                |row| Ok((row.get(0)?, row.get(1)?)),
            )
        })
    }

    /// Queues a write if there is room, and gives it back otherwise.
    pub(super) fn offer(&self, op: Op) -> Result<(), Op> {
        let Some(inner) = self.0.as_ref() else {
            return Ok(());
        };
        let Ok(slot) = inner.queue.try_reserve() else {
            return Err(op);
        };
        let room = match need(&op, inner.kib) {
            0 => None,
            kib => match inner.room.clone().try_acquire_many_owned(kib) {
                Ok(room) => Some(room),
                Err(_) => return Err(op),
            },
        };
        slot.send(inner.queued(op, None, room));
        Ok(())
    }

    /// Queues a write, waiting while there is no room.
    pub(super) async fn write(&self, op: Op) {
        let Some(inner) = self.0.as_ref() else { return };
        // Fails only when the writer is gone, which it has logged.
        let room = match need(&op, inner.kib) {
            0 => None,
            kib => inner.room.clone().acquire_many_owned(kib).await.ok(),
        };
        if let Ok(slot) = inner.queue.reserve().await {
            slot.send(inner.queued(op, None, room));
        }
    }

    /// Queues a write that is dropped, and counted, when there is no room.
    pub(super) fn try_write(&self, op: Op) {
        if self.offer(op).is_err()
            && let Some(inner) = self.0.as_ref()
        {
            inner.counters.dropped.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Queues a write and waits for it; returns how many rows it touched.
    pub(super) async fn write_and_wait(&self, op: Op) -> u64 {
        let Some(inner) = self.0.as_ref() else {
            return 0;
        };
        let (done, written) = oneshot::channel();
        let Ok(slot) = inner.queue.reserve().await else {
            return 0;
        };
        slot.send(inner.queued(op, Some(done), None));
        written.await.unwrap_or(0)
    }
}

/// Returns the KiB that a write takes while it waits, for those that can be large; never more than
/// there are.
fn need(op: &Op, most: u32) -> u32 {
    match op {
        Op::Store { dir, .. } => u32::try_from(dir.weight() / 1024)
            .unwrap_or(most)
            .clamp(1, most),
        _ => 0,
    }
}

impl Inner {
    /// Prepares a write for the queue and makes it visible to readers from now on.
    fn queued(
        self: &Arc<Self>,
        op: Op,
        done: Option<oneshot::Sender<u64>>,
        room: Option<OwnedSemaphorePermit>,
    ) -> Queued {
        let mut pending = lock(&self.pending);
        let sequence = self.counters.sequence.fetch_add(1, Ordering::Relaxed);
        match &op {
            Op::Store {
                source, path, dir, ..
            } => {
                pending
                    .dirs
                    .insert((*source, path.clone()), (sequence, dir.clone()));
            }
            Op::Forget { source, path } => {
                pending.gone.push((sequence, *source, path.clone()));
            }
            Op::Patch {
                source,
                dir,
                row,
                generation,
                ..
            } => {
                if let Some((_, waiting)) = pending.dirs.get_mut(&(*source, dir.clone()))
                    && let Ok(Some(new)) = waiting.patched(row, *generation)
                {
                    *waiting = Arc::new(new);
                }
            }
            Op::Invalidate { .. } | Op::Flush => {}
        }
        Queued {
            op,
            sequence,
            done,
            _room: room,
            inner: Arc::downgrade(self),
        }
    }

    fn read<T>(&self, ask: impl FnOnce(&Connection) -> rusqlite::Result<T>) -> Option<T> {
        if self.counters.corrupt.load(Ordering::Relaxed) {
            return None;
        }
        let pooled = lock(&self.pool).pop();
        let answer = match pooled {
            Some(connection) => Ok(connection),
            None => file::connect(&self.path, OpenFlags::SQLITE_OPEN_READ_WRITE),
        }
        .and_then(|connection| {
            let answer = ask(&connection)?;
            let mut pool = lock(&self.pool);
            if pool.len() < IDLE_READERS {
                pool.push(connection);
            }
            Ok(answer)
        });
        answer
            .inspect_err(|error| self.counters.note(&self.path, error))
            .ok()
    }
}

impl Drop for Queued {
    fn drop(&mut self) {
        // Written, failed or dropped: from here on the file is what counts.
        let Some(inner) = self.inner.upgrade() else {
            return;
        };
        let mut pending = lock(&inner.pending);
        match &self.op {
            Op::Store { source, path, .. } => {
                let key = (*source, path.clone());
                if pending.dirs.get(&key).is_some_and(|p| p.0 == self.sequence) {
                    pending.dirs.remove(&key);
                }
            }
            Op::Forget { .. } => pending.gone.retain(|gone| gone.0 != self.sequence),
            _ => {}
        }
    }
}

impl Pending {
    /// Returns what the file will say of `path`: nothing if the file itself is to be asked.
    fn look(&self, source: i64, path: &RelPath) -> Option<Option<Arc<Directory>>> {
        let gone = self
            .gone
            .iter()
            .filter(|(_, of, root)| *of == source && path.strip_prefix(root).is_some())
            .map(|gone| gone.0)
            .max();
        match (self.dirs.get(&(source, path.clone())), gone) {
            (Some((stored, dir)), gone) if gone.is_none_or(|gone| gone < *stored) => {
                Some(Some(dir.clone()))
            }
            (_, Some(_)) => Some(None),
            (_, None) => None,
        }
    }
}

impl Counters {
    /// Counts a failure, and logs the first.
    fn note(&self, path: &Path, error: &rusqlite::Error) {
        if file::is_corrupt(error) && !self.corrupt.swap(true, Ordering::Relaxed) {
            tracing::error!(path = %path.display(), %error, "the catalogue is corrupt; it is not used any more, and set aside at the next start");
            if let Err(error) = std::fs::write(path.with_file_name(SUSPECT), b"") {
                tracing::warn!(%error, "cannot mark the catalogue as corrupt");
            }
        }
        if self.failed.fetch_add(1, Ordering::Relaxed) == 0 {
            tracing::warn!(path = %path.display(), %error, "the catalogue cannot be used; listings are not remembered");
        }
    }
}

#[cfg(test)]
mod tests;
