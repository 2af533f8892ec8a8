//! The durable index: what is on disk, how large, when last used, what is pinned.
//!
//! SQLite in WAL mode, shared by all processes. One thread of each process writes, in batches; any
//! thread reads, through a few connections that are handed around. The index is not needed to
//! trust bytes (they carry their hashes) but to find blobs, to account for space and to choose
//! what to evict; when it is damaged it is set aside and begun anew.
//!
//! Invariants: a row is committed before its file is made, and goes after its file is gone, so no
//! file is unaccounted for; `meta.used` is the sum of all `bytes`, kept by triggers.
//!
//! Never open the database file by other means than SQLite: closing any descriptor of it drops all
//! the locks that SQLite holds on it.

mod change;
mod read;
mod schema;
mod writer;

use crate::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use crate::sync::mpsc::{RecvTimeoutError, SyncSender, TrySendError, sync_channel};
use crate::sync::thread::JoinHandle;
use crate::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::time::{Duration, Instant};

use rusqlite::Connection;

pub(crate) use change::{Change, Placed};
pub use read::Pin;
pub(crate) use read::{BlobRow, Candidate, ObjectRow, Place, Seal, What};

use crate::dir::Dir;
use crate::error::Error;
use crate::lock::{self, RangeLock};
use crate::quota::Quota;
use crate::trouble::Troubles;

/// Changes waiting to be written; at 1,000 files a second it is four seconds' worth.
const QUEUE: usize = 4096;

/// How long one waits for a change to be committed before going on without the disk. A commit
/// takes milliseconds; longer than this is a process that was stopped while it was writing.
const ACK_PATIENCE: Duration = Duration::from_secs(2);

/// How long after that nobody waits for a commit.
const GIVEN_UP: Duration = Duration::from_secs(2);

/// How long one waits for room in the queue where nobody will wait for the commit.
const QUEUE_PATIENCE: Duration = Duration::from_millis(100);

/// How long another process may take to set a damaged database aside.
const SET_ASIDE_PATIENCE: Duration = Duration::from_secs(5);

/// Read connections kept open: as many as threads that are likely to look things up at once.
const READERS: usize = 4;

/// What is sent to the writer.
pub(crate) struct Request {
    change: Change,
    /// Told whether it was committed.
    ack: Option<SyncSender<bool>>,
    /// Given back once it was committed.
    _guard: Option<RangeLock>,
}

/// The index as one process has it.
pub(crate) struct Index {
    common: Arc<Common>,
    queue: SyncSender<Request>,
    /// When somebody last waited in vain.
    given_up: Mutex<Option<Instant>>,
    /// Connections at rest, each with the epoch it was opened in.
    resting: Mutex<Vec<(u64, Connection)>>,
}

/// What the writer thread and the readers have in common.
struct Common {
    dir: Arc<Dir>,
    quota: Arc<Quota>,
    troubles: Arc<Troubles>,
    /// Grows when the database was replaced: older connections are of no use.
    epoch: AtomicU64,
    /// A reader met damage; the writer is to look into it.
    damaged: AtomicBool,
    /// A reader met what cannot have been written; that is certain.
    nonsense: AtomicBool,
}

impl Index {
    /// Starts the writer on a database opened by [`open`].
    pub(crate) fn start(
        connection: Connection,
        dir: Arc<Dir>,
        quota: Arc<Quota>,
        troubles: Arc<Troubles>,
    ) -> std::io::Result<(Self, JoinHandle<()>)> {
        let common = Arc::new(Common {
            dir,
            quota,
            troubles,
            epoch: AtomicU64::new(0),
            damaged: AtomicBool::new(false),
            nonsense: AtomicBool::new(false),
        });
        let (queue, requests) = sync_channel(QUEUE);
        let writer = writer::Writer::new(Arc::clone(&common), connection);
        let thread = crate::sync::thread::Builder::new()
            .name("svol-index".into())
            .spawn(move || writer.run(&requests))?;
        let index = Self {
            common,
            queue,
            given_up: Mutex::default(),
            resting: Mutex::default(),
        };
        Ok((index, thread))
    }

    /// Queues a change that may be lost, at worst at the cost of a wrong guess at eviction.
    pub(crate) fn hint(&self, change: Change) {
        let request = Request {
            change,
            ack: None,
            _guard: None,
        };
        // Full: the next use of the object says the same again.
        let _ = self.queue.try_send(request);
    }

    /// Queues a change, after a short wait where the queue is full; false when it is lost. The
    /// guard is dropped after the commit.
    pub(crate) fn send(&self, change: Change, guard: Option<RangeLock>) -> bool {
        let request = Request {
            change,
            ack: None,
            _guard: guard,
        };
        let sent = self.enqueue(request, QUEUE_PATIENCE);
        if !sent {
            let troubles = &self.common.troubles;
            troubles.note("index a change", &"the index is stuck or closed");
        }
        sent
    }

    /// Makes a change and returns once it is committed; false when it was not.
    #[must_use]
    pub(crate) fn commit(&self, change: Change) -> bool {
        if self
            .lock_given_up()
            .is_some_and(|at| at.elapsed() < GIVEN_UP)
        {
            return false;
        }
        let (ack, answer) = sync_channel(1);
        let request = Request {
            change,
            ack: Some(ack),
            _guard: None,
        };
        if !self.enqueue(request, ACK_PATIENCE) {
            return false;
        }
        match answer.recv_timeout(ACK_PATIENCE) {
            Ok(committed) => committed,
            Err(RecvTimeoutError::Disconnected) => false,
            Err(RecvTimeoutError::Timeout) => {
                *self.lock_given_up() = Some(Instant::now());
                let troubles = &self.common.troubles;
                troubles.note("write the index", &"another process does not let go of it");
                false
            }
        }
    }

    fn enqueue(&self, mut request: Request, patience: Duration) -> bool {
        let deadline = Instant::now() + patience;
        loop {
            match self.queue.try_send(request) {
                Ok(()) => return true,
                Err(TrySendError::Full(back)) if Instant::now() < deadline => request = back,
                Err(TrySendError::Full(_) | TrySendError::Disconnected(_)) => return false,
            }
            crate::sync::thread::sleep(Duration::from_millis(1));
        }
    }

    fn lock_given_up(&self) -> MutexGuard<'_, Option<Instant>> {
        self.given_up.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Makes the writer write what it has and end. Does not wait.
    pub(crate) fn stop(&self) {
        let request = Request {
            change: Change::Stop,
            ack: None,
            _guard: None,
        };
        let _ = self.enqueue(request, ACK_PATIENCE);
    }

    /// Runs a query. An error is noted, and answered with None: an index that cannot be read is as
    /// good as an empty one.
    fn read<T>(&self, query: impl FnOnce(&Connection) -> rusqlite::Result<T>) -> Option<T> {
        let epoch = self.common.epoch.load(Ordering::Acquire);
        let resting = {
            let mut pool = self.pool();
            pool.retain(|(of, _)| *of == epoch);
            pool.pop()
        };
        let connection = match resting {
            Some((_, connection)) => connection,
            None => match schema::open_for_reading(&self.common.dir.index()) {
                Ok(connection) => connection,
                Err(error) => {
                    self.common.note_read_error(&error);
                    return None;
                }
            },
        };
        match query(&connection) {
            Ok(answer) => {
                let mut pool = self.pool();
                if pool.len() < READERS {
                    pool.push((epoch, connection));
                }
                Some(answer)
            }
            Err(error) => {
                self.common.note_read_error(&error);
                None
            }
        }
    }

    fn pool(&self) -> MutexGuard<'_, Vec<(u64, Connection)>> {
        self.resting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Common {
    fn note_read_error(&self, error: &rusqlite::Error) {
        self.troubles.note("read the index", error);
        if schema::is_nonsense(error) {
            self.nonsense.store(true, Ordering::Relaxed);
        } else if schema::is_damage(error) {
            self.damaged.store(true, Ordering::Relaxed);
        }
    }
}

/// What the index says of the cache as a whole.
#[derive(Clone, Copy)]
pub(crate) struct Summary {
    pub(crate) used: u64,
    pub(crate) latest_use: u64,
}

/// Opens the database for writing, after setting it aside where it is damaged.
pub(crate) fn open(dir: &Dir) -> Result<(Connection, Summary), Error> {
    let open = || {
        let connection = schema::open_for_writing(&dir.index())?;
        let summary = Summary {
            used: schema::used(&connection)?,
            latest_use: schema::latest_use(&connection)?,
        };
        Ok((connection, summary))
    };
    let mut tries = 0;
    loop {
        let opened = identity(dir);
        tries += 1;
        match open() {
            Err(error) if schema::is_damage(&error) && tries < OPEN_TRIES => {
                set_aside(dir, opened).map_err(Error::io("set the damaged index aside"))?;
            }
            // Another process has put another in its place while it was being opened.
            Err(_) if identity(dir) != opened && tries < OPEN_TRIES => {}
            other => return other.map_err(Error::of_index),
        }
    }
}

/// How often an index is opened that is damaged or replaced each time.
const OPEN_TRIES: u32 = 5;

/// Sets the database aside that was found damaged, unless another process has, or does not let go
/// of the right to.
fn set_aside(dir: &Dir, damaged: Option<(u64, u64)>) -> std::io::Result<()> {
    let locks = Arc::new(dir.create(&dir.locks())?);
    let deadline = Instant::now() + SET_ASIDE_PATIENCE;
    let _guard = loop {
        match RangeLock::try_new(&locks, lock::SET_ASIDE)? {
            Some(guard) => break guard,
            None if Instant::now() >= deadline => return Ok(()),
            None => crate::sync::thread::sleep(Duration::from_millis(5)),
        }
    };
    if identity(dir) == damaged {
        let aside = dir.set_index_aside()?;
        tracing::warn!(dir = %aside.display(), "cache index damaged, set aside");
    }
    Ok(())
}

/// Returns which file the path of the index names at the moment.
fn identity(dir: &Dir) -> Option<(u64, u64)> {
    let metadata = fs::metadata(dir.index()).ok()?;
    Some((metadata.dev(), metadata.ino()))
}
