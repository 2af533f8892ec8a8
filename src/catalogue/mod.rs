//! What a source holds, one directory at a time: asked for once, remembered, revalidated.
//!
//! A [`Catalogue`] knows one source and merges nothing. Its directories live in three places:
//! memory (bounded, [`Memory`]), SQLite ([`Db`]) and the source itself. What it promises:
//!
//! - Only the source's own "not found" is an absence. Any other failure serves what was known
//!   before, flagged ([`Directory::stale`]), or is an error; it is never remembered as absence.
//! - However many ask for a directory, its source is asked once.
//! - What an earlier mount knew is served at once, without a request, and revalidated behind the
//!   readers' backs when it is older than the refresh interval.
//! - Whoever walks the tree finds the next directories listed already, where many can be listed at
//!   once (`ahead`).
//! - No reader waits longer than [`Policy::patience`] where an older listing is at hand, unless
//!   that listing is known to be wrong.
//!
//! Lock order: `state`, then `walks` or `look`, then nothing. No lock is held while a listener is called, a query runs or
//! anything is awaited.

mod ahead;
mod db;
mod directory;
mod entries;
mod flight;
#[cfg(feature = "failpoints")]
pub(crate) mod fuzzing;
mod landing;
mod refresh;
#[cfg(test)]
mod tests;
mod walk;
mod whole;

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};
use std::time::{Duration, Instant};

use tokio::sync::Semaphore;

pub use db::{Db, DbError};
pub use directory::{Directory, FOREVER};
pub use refresh::RefreshReport;

use crate::entry::{Entry, Timestamp};
use crate::path::{Name, RelPath};
use crate::rows::Room;
use crate::source::{Error, Result, Source};
use flight::Control;
use walk::Walks;
use whole::Look;

/// How long an error of a directory of which nothing is known is repeated instead of asking again.
const ERROR_MEMORY: Duration = Duration::from_secs(1);

/// The first pause after a failed revalidation; it doubles up to [`BACKOFF_MAX`].
const BACKOFF_MIN: Duration = Duration::from_secs(1);

/// The longest pause between attempts to revalidate: how late a recovered source is noticed.
const BACKOFF_MAX: Duration = Duration::from_secs(30);

/// Revalidations under way that nobody waits for. More are not queued: a later reader starts them.
const BACKGROUND: usize = 8;

/// Single entries asked for at once.
const STATS: usize = 64;

/// How long a sum of sizes is repeated before SQLite is asked again.
const TOTALS_FOR: Duration = Duration::from_secs(10);

/// How a catalogue decides that it must ask again.
#[derive(Debug, Clone)]
pub struct Policy {
    /// How long a listing is trusted; nothing: for good, until [`Catalogue::refresh`].
    pub refresh: Option<Duration>,
    /// How long a reader waits for a listing to be revalidated before the older one is served.
    pub patience: Duration,
    /// Where directories are kept; share it between catalogues.
    pub memory: Memory,
}

impl Default for Policy {
    fn default() -> Policy {
        Policy {
            refresh: Some(Duration::from_secs(60)),
            patience: Duration::from_secs(1),
            memory: Memory::default(),
        }
    }
}

/// The directories that are held in memory, for all catalogues that share it; the least recently
/// used ones leave first. Clones share it.
#[derive(Debug, Clone)]
pub struct Memory {
    dirs: moka::sync::Cache<(u64, RelPath), Arc<Directory>>,
    room: Room,
}

impl Memory {
    /// Returns memory for about `bytes` of directories. A directory larger than half of that
    /// counts as half, so that it can be held at all.
    pub fn new(bytes: u64) -> Memory {
        let most = bytes / 2;
        Memory {
            room: Room::default(),
            dirs: moka::sync::Cache::builder()
                .max_capacity(bytes)
                .weigher(move |(_, path): &(u64, RelPath), dir: &Arc<Directory>| {
                    // What the map and the snapshot take beside the rows.
                    const HEAD: usize = 512;
                    let weight = (dir.weight() + path.as_str().len() + HEAD) as u64;
                    u32::try_from(weight.min(most)).unwrap_or(u32::MAX)
                })
                // The default policy refuses newcomers while others are more popular; a walk would
                // then load every directory from SQLite at each step.
                .eviction_policy(moka::policy::EvictionPolicy::lru())
                .build(),
        }
    }

    /// Puts what of a directory does not fit into `room` aside on disk.
    pub fn with_room(mut self, room: Room) -> Memory {
        self.room = room;
        self
    }

    /// Returns about how many bytes are held.
    pub fn used(&self) -> u64 {
        self.dirs.weighted_size()
    }
}

impl Default for Memory {
    /// 64 MiB: some 250,000 entries.
    fn default() -> Memory {
        Memory::new(64 * 1024 * 1024)
    }
}

/// Is told which names of a directory were added, changed or removed. Called on a worker of the
/// runtime, with no lock held; must not block.
pub type Listener = Arc<dyn Fn(&RelPath, &[Name]) + Send + Sync>;

/// What a catalogue did so far.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counts {
    /// Directories listed by the source.
    pub listings: u64,
    /// Of these, directories that were known before.
    pub revalidations: u64,
    /// Listings that failed.
    pub failures: u64,
    /// Times that a listing was served although it was older than it should be.
    pub stale_served: u64,
    /// Single entries asked for.
    pub stats: u64,
    /// Directories found in SQLite.
    pub loaded: u64,
    /// Of `listings`, directories that nobody had asked for yet.
    pub ahead: u64,
    /// Times that a source which changes as one was asked for its newest generation.
    pub looks: u64,
    /// Directories that were listed or loaded ahead and then opened.
    pub ahead_used: u64,
    /// Directories that were listed or loaded ahead in vain.
    pub ahead_wasted: u64,
}

#[derive(Default)]
struct Counters {
    listings: AtomicU64,
    revalidations: AtomicU64,
    failures: AtomicU64,
    stale_served: AtomicU64,
    stats: AtomicU64,
    loaded: AtomicU64,
    ahead: AtomicU64,
    looks: AtomicU64,
}

fn bump(counter: &AtomicU64) {
    counter.fetch_add(1, Ordering::Relaxed);
}

/// What is known of one source. See the module.
pub struct Catalogue {
    /// Tells this catalogue's directories from others' in the shared memory.
    id: u64,
    source: Arc<dyn Source>,
    policy: Policy,
    db: Db,
    /// The source's number in SQLite; nothing if it cannot be used.
    row: Option<i64>,
    started: Timestamp,
    state: Mutex<State>,
    background: Arc<Semaphore>,
    asking: Semaphore,
    listeners: RwLock<Vec<Listener>>,
    /// Counts changes to what is known; see [`Catalogue::changes`].
    changes: AtomicU64,
    counters: Counters,
    totals: Mutex<Option<(Instant, (u64, u64))>>,
    walks: Mutex<Walks>,
    look: Mutex<Look>,
    /// Held while somebody looks for a new generation who will list what it made wrong.
    telling: tokio::sync::Mutex<()>,
}

/// What is under way or went wrong. Directories in good order have no entry here.
#[derive(Default)]
struct State {
    controls: HashMap<RelPath, Control>,
    stats: HashMap<RelPath, flight::Answer<Entry>>,
    outage: Option<(Instant, Error)>,
    flights: u64,
    last_success: Option<Timestamp>,
    last_error: Option<(Timestamp, Error)>,
    /// When it was last said that all is to be asked again.
    refreshed: Option<Instant>,
}

impl Catalogue {
    /// Returns the catalogue of `source`. Blocks on the local disk for a moment, asks the source
    /// for nothing.
    pub fn new(db: Db, source: Arc<dyn Source>, policy: Policy) -> Arc<Catalogue> {
        static NEXT: AtomicU64 = AtomicU64::new(1);
        Arc::new(Catalogue {
            id: NEXT.fetch_add(1, Ordering::Relaxed),
            row: db.source(source.identity()),
            source,
            policy,
            db,
            started: Timestamp::now(),
            state: Mutex::default(),
            background: Arc::new(Semaphore::new(BACKGROUND)),
            asking: Semaphore::new(STATS),
            listeners: RwLock::default(),
            changes: AtomicU64::new(0),
            counters: Counters::default(),
            totals: Mutex::default(),
            walks: Mutex::default(),
            look: Mutex::default(),
            telling: tokio::sync::Mutex::default(),
        })
    }

    /// Returns the source.
    pub fn source(&self) -> &Arc<dyn Source> {
        &self.source
    }

    /// Returns the policy.
    pub fn policy(&self) -> &Policy {
        &self.policy
    }

    /// Lets `listener` know of every change that is found from now on. A directory's first listing
    /// is none.
    pub fn add_listener(&self, listener: Listener) {
        self.listeners
            .write()
            .unwrap_or_else(PoisonError::into_inner)
            .push(listener);
    }

    /// Returns a number that grows whenever anything known changes its content or a directory that
    /// could not be listed can be: as long as it stays, conclusions from directories' contents
    /// hold.
    pub fn changes(&self) -> u64 {
        self.changes.load(Ordering::Acquire)
    }

    /// Returns what happened so far.
    pub fn counts(&self) -> Counts {
        let get = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let Counters {
            listings,
            revalidations,
            failures,
            stale_served,
            stats,
            loaded,
            ahead,
            looks,
        } = &self.counters;
        let (ahead_used, ahead_wasted) = lock(&self.walks).counts();
        Counts {
            listings: get(listings),
            revalidations: get(revalidations),
            failures: get(failures),
            stale_served: get(stale_served),
            stats: get(stats),
            loaded: get(loaded),
            ahead: get(ahead),
            looks: get(looks),
            ahead_used,
            ahead_wasted,
        }
    }

    /// Returns when the source last listed a directory, in this process.
    pub fn last_success(&self) -> Option<Timestamp> {
        self.state().last_success
    }

    /// Returns when and why a directory could last not be listed, in this process. What is merely
    /// not there is no error.
    pub fn last_error(&self) -> Option<(Timestamp, Error)> {
        self.state().last_error.clone()
    }

    /// Returns `dir` if it is in memory and may be relied on without asking anyone. Never waits:
    /// for the kernel's own threads.
    pub fn peek(&self, dir: &RelPath) -> Option<Arc<Directory>> {
        self.recall(dir).filter(|dir| dir.is_fresh(Instant::now()))
    }

    /// As [`Catalogue::peek`], but also tells the error that [`Catalogue::dir`] would return at
    /// once.
    pub fn peek_result(&self, dir: &RelPath) -> Option<Result<Arc<Directory>>> {
        if let Some(dir) = self.peek(dir) {
            return Some(Ok(dir));
        }
        self.failing(dir).map(Err)
    }

    /// Returns `dir`: from memory, from SQLite, or from the source.
    ///
    /// An error of kind [`NotFound`](crate::source::ErrorKind::NotFound) says that the source
    /// clearly has no such directory; any other kind says that nothing is known of it. Waits as
    /// long as the source lets it where nothing, or nothing right, is known.
    pub async fn dir(self: &Arc<Self>, dir: &RelPath) -> Result<Arc<Directory>> {
        match self.peek(dir) {
            Some(known) => Ok(known),
            None => self.fly(dir).await,
        }
    }

    /// Returns the versions of `path` that were replaced within the last day, newest first, for
    /// those who still hold them.
    pub async fn superseded(self: &Arc<Self>, path: &RelPath) -> Vec<Entry> {
        let (this, path) = (self.clone(), path.clone());
        let Some(row) = self.row else {
            return Vec::new();
        };
        tokio::task::spawn_blocking(move || this.db.superseded(row, &path))
            .await
            .unwrap_or_default()
    }

    /// Returns how many names are hidden in the directories that are in memory.
    pub fn hidden_names(&self) -> u64 {
        let ours = self.policy.memory.dirs.iter();
        ours.filter(|(key, _)| key.0 == self.id)
            .flat_map(|(_, dir)| dir.hidden().iter().map(|h| h.count).collect::<Vec<_>>())
            .sum()
    }

    /// Returns the bytes and the number of all files known of the source; up to ten seconds old.
    pub async fn known_size(self: &Arc<Self>) -> (u64, u64) {
        let recent = *lock(&self.totals);
        if let Some((at, totals)) = recent
            && at.elapsed() < TOTALS_FOR
        {
            return totals;
        }
        let this = self.clone();
        let stored = match self.row {
            Some(row) => tokio::task::spawn_blocking(move || this.db.totals(row))
                .await
                .ok()
                .flatten(),
            None => None,
        };
        let totals = stored.unwrap_or_else(|| {
            self.remembered().fold((0, 0), |(bytes, files), (_, dir)| {
                let sums = dir.sums();
                (bytes + sums.bytes, files + sums.files)
            })
        });
        *lock(&self.totals) = Some((Instant::now(), totals));
        totals
    }

    fn state(&self) -> MutexGuard<'_, State> {
        lock(&self.state)
    }

    fn recall(&self, dir: &RelPath) -> Option<Arc<Directory>> {
        self.policy.memory.dirs.get(&(self.id, dir.clone()))
    }

    /// Returns whether `dir` is in memory, fresh or not: then what changes in it is told by itself.
    pub fn remembers(&self, dir: &RelPath) -> bool {
        self.recall(dir).is_some()
    }

    fn remember(&self, dir: &RelPath, known: &Arc<Directory>) {
        self.policy
            .memory
            .dirs
            .insert((self.id, dir.clone()), known.clone());
    }

    fn unremember(&self, dir: &RelPath) {
        self.policy.memory.dirs.invalidate(&(self.id, dir.clone()));
    }

    /// Returns all directories in memory.
    fn remembered(&self) -> impl Iterator<Item = (RelPath, Arc<Directory>)> + '_ {
        self.policy
            .memory
            .dirs
            .iter()
            .filter(|(key, _)| key.0 == self.id)
            .map(|(key, dir)| (key.1.clone(), dir))
    }

    /// Returns until when a listing made at `now` is trusted.
    fn trusted_until(&self, now: Instant) -> Option<Instant> {
        self.policy.refresh.map(|refresh| now + refresh)
    }

    /// Tells everybody that `names` of `dir` are not what they were.
    fn tell(&self, dir: &RelPath, names: &[Name]) {
        if names.is_empty() {
            return;
        }
        let listeners = self
            .listeners
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .clone();
        for listener in listeners {
            listener(dir, names);
        }
    }
}

impl Drop for Catalogue {
    fn drop(&mut self) {
        let dirs: Vec<RelPath> = self.remembered().map(|(dir, _)| dir).collect();
        for dir in dirs {
            self.unremember(&dir);
        }
    }
}

impl std::fmt::Debug for Catalogue {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Catalogue")
            .field("source", &self.source.identity())
            .field("counts", &self.counts())
            .finish_non_exhaustive()
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // What the locks guard is consistent between any two statements.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
