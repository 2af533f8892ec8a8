//! A pinned object of a source, read through the cache.

use std::cell::RefCell;
use std::ops::Range;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use svol_cache::{Object, Sealed};
use tokio::runtime::Handle;
use tokio::sync::Notify;
use tokio::time::Instant;
use tracing::debug;

use super::flight::Flight;
use super::pace::Pace;
use super::window::Advice;
use super::{Counters, Fetcher, plan};
use crate::entry::Entry;
use crate::path::RelPath;
use crate::source::{Error, ErrorKind, Result, Source, Verify};

mod ahead;
mod bring;
mod carry;
mod promise;
mod small;

pub use ahead::Ahead;

/// For how long a reader's time-out is that of the next one too, unless bytes come. After a failed
/// read-ahead the kernel asks for the first page once more at once, and its caller would wait twice.
const GAVE_UP: Duration = Duration::from_secs(1);

/// What [`Remote::promised`] is before the first comparison.
const NEVER: u64 = u64::MAX;

thread_local! {
    /// What a thread reads into before it hands it on: a read is at most 1 MiB.
    static BUFFER: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

/// What became of what a window advised.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Followed {
    /// All of it is here already.
    Here,
    /// It is on its way, or there was nothing to bring.
    Started,
    /// From this offset on it is not being fetched: readers come first.
    Refused(u64),
}

/// What an object is pinned to.
#[derive(Debug, Clone)]
pub struct Pin {
    /// Where it is in its source.
    pub path: RelPath,
    /// What it was when it was pinned; its size is known.
    pub entry: Entry,
}

/// One object at one version: the cached part of it, and the means to get the rest.
///
/// Shared by all handles of an inode. Cheap reads of what is present are [`Remote::read_at`];
/// everything else waits in [`Remote::read`].
pub struct Remote {
    object: Object,
    source: Arc<dyn Source>,
    pin: Pin,
    /// The pin with the validator that the first reply taught, where the listing knew none.
    learnt: OnceLock<Entry>,
    /// Whether bytes are served before all of it is here and was compared with its digest.
    lazily: bool,
    /// Set once the object was found not to be what its source promises.
    broken_promise: OnceLock<Error>,
    /// How many requests for bytes were sent so far.
    asked: AtomicU64,
    /// The same when the whole object was last compared with the digest that its source promises,
    /// and was well. Only as long as the two are equal, all bytes are those that were compared: some
    /// may be lost (what the disk does not keep), and come again as others.
    promised: AtomicU64,
    flights: Mutex<Vec<Arc<Flight>>>,
    /// When bytes last came. A leaf.
    progress: Mutex<Instant>,
    /// How fast they come. A leaf.
    pace: Mutex<Pace>,
    /// When a reader last waited in vain, and what it was told. A leaf.
    gave_up: Mutex<Option<(Instant, Error)>>,
    /// Set once the server sent all when asked for a part: from then on it is asked by one flight
    /// at a time, who has the turn.
    whole_only: AtomicBool,
    whole_turn: Arc<tokio::sync::Mutex<()>>,
    /// Told whenever bytes land and whenever a flight ends.
    landed: Notify,
    fetcher: Arc<Fetcher>,
    counters: Arc<Counters>,
    runtime: Handle,
    deadline: Duration,
}

impl std::fmt::Debug for Remote {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Remote")
            .field("pin", &self.pin)
            .finish_non_exhaustive()
    }
}

impl Remote {
    /// Returns the object that `pin` describes; `object` is its place in the cache.
    pub fn new(
        object: Object,
        source: Arc<dyn Source>,
        pin: Pin,
        fetcher: Arc<Fetcher>,
        counters: Arc<Counters>,
        runtime: Handle,
        deadline: Duration,
    ) -> Arc<Remote> {
        let lazily = pin.entry.digest.is_some()
            && source.verify() == Verify::Lazy
            && fetcher.mistrusted(object.key()).is_none();
        Arc::new(Remote {
            lazily,
            object,
            source,
            pin,
            learnt: OnceLock::new(),
            broken_promise: OnceLock::new(),
            asked: AtomicU64::new(0),
            promised: AtomicU64::new(NEVER),
            flights: Mutex::new(Vec::new()),
            progress: Mutex::new(Instant::now()),
            pace: Mutex::default(),
            gave_up: Mutex::default(),
            whole_only: AtomicBool::new(false),
            whole_turn: Arc::default(),
            landed: Notify::new(),
            fetcher,
            counters,
            runtime,
            deadline,
        })
    }

    /// Returns the size in bytes.
    pub fn size(&self) -> u64 {
        self.object.size()
    }

    /// Returns the cached object.
    pub fn object(&self) -> &Object {
        &self.object
    }

    /// Returns what it is pinned to, with its validator as soon as one is known.
    pub fn entry(&self) -> &Entry {
        self.learnt.get().unwrap_or(&self.pin.entry)
    }

    /// Returns what it was pinned to when it was made.
    pub fn pinned_entry(&self) -> &Entry {
        &self.pin.entry
    }

    /// Fills `buf` from `offset` on if all of it is here and verified; never waits for a source.
    /// Returns the bytes read, fewer than asked only at the end of the object.
    pub fn read_at(&self, offset: u64, buf: &mut [u8]) -> Option<usize> {
        if !self.may_serve() {
            return None;
        }
        self.object.read_at(offset, buf)
    }

    /// Returns the file that holds all of it, verified; nothing while there is none.
    pub fn sealed_file(&self) -> Option<Sealed> {
        if !self.is_as_promised() {
            return None;
        }
        self.object.sealed_file()
    }

    /// Returns whether what is here may be served now.
    fn may_serve(&self) -> bool {
        self.is_as_promised()
            || (self.lazily && self.broken_promise.get().is_none() && !self.object.is_complete())
    }

    /// Returns why none of its bytes is served any more, if they were not those promised.
    pub fn broken_promise(&self) -> Option<&Error> {
        self.broken_promise.get()
    }

    /// Returns whether the bytes need not be compared with a digest first.
    fn is_as_promised(&self) -> bool {
        self.pin.entry.digest.is_none()
            || self.promised.load(Ordering::Acquire) == self.asked.load(Ordering::Acquire)
    }

    /// Hands `take` the bytes of `len` at `offset`, after fetching what is missing. Fewer only at
    /// the end.
    ///
    /// What has just come is in the page cache and verified, so it is read on this thread, as hits
    /// are: another one would cost more than the copy. `take` must not wait.
    pub async fn read<T>(
        self: &Arc<Self>,
        offset: u64,
        len: usize,
        take: impl FnOnce(&[u8]) -> T,
    ) -> Result<T> {
        let end = self.size().min(offset.saturating_add(len as u64));
        if offset >= end {
            return Ok(take(&[]));
        }
        let mut began = Instant::now();
        let range = offset..end;
        let mut take = Some(take);
        let unkept = &self.fetcher.unkept;
        let mut turn = None;
        let mut tries = 0;
        // What was found present can be gone again: evicted, found corrupt, or driven out of memory
        // by others where the disk keeps nothing. Then it is fetched again, with few others beside
        // it, but not for ever.
        while tries < 3 {
            if turn.is_none() && unkept.is_crowded() {
                turn = Some(unkept.turn(len as u64, self.deadline).await?);
                // Waiting for us was not waiting for the source.
                began = Instant::now();
                tries = 0;
            }
            if !self.lazily {
                self.check_digest(began).await?;
            }
            self.ensure(range.clone(), began).await?;
            if self.lazily {
                self.check_if_complete(began).await?;
            }
            let taken = BUFFER.with_borrow_mut(|buffer| {
                let len = (end - offset) as usize;
                if buffer.len() < len {
                    buffer.resize(len, 0);
                }
                let n = self.object.read_at(offset, &mut buffer[..len])?;
                // Some of it may have come again since it was compared.
                let sound = self.may_serve();
                sound.then(|| Some(take.take()?(&buffer[..n])))?
            });
            if let Some(taken) = taken {
                return Ok(taken);
            }
            unkept.crowded();
            tries += 1;
        }
        Err(Error::new(
            ErrorKind::Server,
            format!(
                "{}: bytes {range:?} arrived but could not be kept or read back",
                self.url()
            ),
        ))
    }

    /// Starts what a window advises, in the background, as far as readers leave room for it.
    pub fn follow(self: &Arc<Self>, advice: &Advice) -> Followed {
        self.counters.prefetched(advice.used, advice.wasted);
        let Some(range) = &advice.prefetch else {
            return Followed::Started;
        };
        let missing = self.object.missing(range.clone());
        match self.launch(&missing, false) {
            _ if missing.is_empty() => Followed::Here,
            (_, None) => Followed::Started,
            (_, Some(refused)) => Followed::Refused(refused),
        }
    }

    /// Returns how far ahead of a reader it is worth fetching, in bytes.
    pub fn window(&self) -> u64 {
        self.pace().window()
    }

    fn pace(&self) -> MutexGuard<'_, Pace> {
        self.pace.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn url(&self) -> String {
        self.source.url(&self.pin.path)
    }

    fn progressed(&self) {
        *self.progress.lock().unwrap_or_else(PoisonError::into_inner) = Instant::now();
        self.landed.notify_waiters();
    }

    /// Returns until when to wait, given when the wait began: as long as bytes come, the time has
    /// not begun to run out.
    fn deadline_from(&self, began: Instant) -> Instant {
        let progress = *self.progress.lock().unwrap_or_else(PoisonError::into_inner);
        began.max(progress) + self.deadline
    }

    fn gave_up(&self) -> Option<Error> {
        let progress = *self.progress.lock().unwrap_or_else(PoisonError::into_inner);
        let known = self.gave_up.lock().unwrap_or_else(PoisonError::into_inner);
        let (when, error) = known.as_ref()?;
        (*when > progress && when.elapsed() < GAVE_UP).then(|| error.clone())
    }

    /// Waits until all of `range` is present, fetching what nobody fetches yet.
    async fn ensure(self: &Arc<Self>, range: Range<u64>, began: Instant) -> Result<()> {
        if let Some(error) = self.gave_up()
            && !self.object.missing(range.clone()).is_empty()
        {
            return Err(error);
        }
        let result = self.wait_for(range, began).await;
        if let Err(error) = &result
            && error.kind() == ErrorKind::Timeout
        {
            let mut known = self.gave_up.lock().unwrap_or_else(PoisonError::into_inner);
            *known = Some((Instant::now(), error.clone()));
        }
        result
    }

    async fn wait_for(self: &Arc<Self>, range: Range<u64>, began: Instant) -> Result<()> {
        loop {
            let landed = self.landed.notified();
            tokio::pin!(landed);
            landed.as_mut().enable();
            let missing = self.object.missing(range.clone());
            let Some((first, last)) = missing.first().zip(missing.last()) else {
                return Ok(());
            };
            let span = first.start..last.end;
            let (flights, _) = self.launch(&missing, true);
            tokio::select! {
                () = landed => {}
                () = tokio::time::sleep_until(self.deadline_from(began)) => {
                    if Instant::now() < self.deadline_from(began) {
                        continue;
                    }
                    return Err(Error::new(
                        ErrorKind::Timeout,
                        format!(
                            "{}: no answer for bytes {}..{} within {:?}",
                            self.url(), span.start, span.end, self.deadline
                        ),
                    ));
                }
            }
            // A flight that failed and left some of ours missing is our failure too.
            for flight in flights {
                if let Some(Err(error)) = flight.end() {
                    let needed =
                        flight.range.start.max(range.start)..flight.range.end.min(range.end);
                    if needed.start < needed.end && !self.object.missing(needed).is_empty() {
                        return Err(error);
                    }
                }
            }
        }
    }

    /// Starts requests for what of `missing` is not in flight; returns the flights that concern it,
    /// and from where on nothing was started, where nobody waits for it and readers come first.
    fn launch(
        self: &Arc<Self>,
        missing: &[Range<u64>],
        demand: bool,
    ) -> (Vec<Arc<Flight>>, Option<u64>) {
        let mut concerned = Vec::new();
        let mut fresh = Vec::new();
        let mut refused = None;
        {
            let mut flights = self.flights.lock().unwrap_or_else(PoisonError::into_inner);
            for flight in flights.iter() {
                if missing.iter().any(|m| flight.overlaps(m)) {
                    concerned.push(flight.clone());
                }
            }
            let flying: Vec<_> = flights.iter().map(|f| f.range.clone()).collect();
            for range in plan::requests(missing, &flying) {
                let leave = match demand {
                    true => None,
                    false => match self.fetcher.leave_ahead() {
                        None => {
                            refused = Some(range.start);
                            break;
                        }
                        leave => leave,
                    },
                };
                let flight = Flight::new(range, demand);
                flights.push(flight.clone());
                fresh.push((flight, leave));
            }
        }
        if demand {
            for flight in &concerned {
                flight.demanded.store(true, Ordering::Relaxed);
                flight.urgent.notify_one();
            }
        }
        for (flight, leave) in fresh {
            concerned.push(flight.clone());
            let this = self.clone();
            self.runtime.spawn(async move {
                let _leave = leave;
                let _counted = demand.then(|| Demanded::new(&this.fetcher.demanded));
                let turn = async {
                    match demand {
                        true => None,
                        false => this.prefetch_turn(&flight).await,
                    }
                };
                // Whoever waits hears of it by the flight.
                let _ = this.fly(&flight, turn).await;
            });
        }
        (concerned, refused)
    }

    async fn fly<T>(
        self: &Arc<Self>,
        flight: &Flight,
        turn: impl Future<Output = T>,
    ) -> Result<()> {
        // The guard ends the flight even if its task panics or is dropped.
        let mut ending = Ending {
            remote: self,
            flight,
            result: None,
        };
        let _turn = turn.await;
        let result = self.carry(flight).await;
        if let Err(error) = &result {
            debug!(url = %self.url(), range = ?flight.range, %error, "fetch failed");
        }
        ending.result = Some(result.clone());
        result
    }

    /// Waits for prefetch's turn, or until a reader wants what is fetched.
    async fn prefetch_turn(&self, flight: &Flight) -> Option<tokio::sync::SemaphorePermit<'_>> {
        tokio::select! {
            turn = self.fetcher.prefetch.acquire() => turn.ok(),
            () = flight.urgent.notified() => None,
        }
    }

    /// Lets readers know of a flight.
    fn announce(&self, range: Range<u64>) -> Arc<Flight> {
        let flight = Flight::new(range, false);
        self.flights
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .push(flight.clone());
        flight
    }
}

/// Does what may wait for the local disk on a thread where that is no harm.
async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Result<T> {
    let done = tokio::task::spawn_blocking(work).await;
    done.map_err(|panic| Error::lied(panic.to_string()))
}

/// Counts a request that a reader waits for, until it is dropped.
struct Demanded<'a>(&'a AtomicUsize);

impl<'a> Demanded<'a> {
    fn new(count: &'a AtomicUsize) -> Demanded<'a> {
        count.fetch_add(1, Ordering::Relaxed);
        Demanded(count)
    }
}

impl Drop for Demanded<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Ends a flight when dropped, whatever happened to its task.
struct Ending<'a> {
    remote: &'a Remote,
    flight: &'a Flight,
    result: Option<Result<()>>,
}

impl Drop for Ending<'_> {
    fn drop(&mut self) {
        let result = self.result.take().unwrap_or_else(|| {
            Err(Error::lied(
                "a fetch was given up by its own fault; please report it",
            ))
        });
        self.flight.finish(result);
        self.remote
            .flights
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .retain(|f| !std::ptr::eq(&**f, self.flight));
        self.remote.landed.notify_waiters();
    }
}
