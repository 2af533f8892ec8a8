//! A pinned object of a source, read through the cache.

use std::ops::Range;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use futures::StreamExt;
use svol_cache::{Fill, Object};
use tokio::runtime::Handle;
use tokio::sync::Notify;
use tokio::time::Instant;
use tracing::debug;

use super::flight::Flight;
use super::window::Advice;
use super::{Counters, Fetcher, add, plan};
use crate::entry::{Digest, Entry};
use crate::path::RelPath;
use crate::source::{Error, ErrorKind, Result, Source};

/// Bytes gathered from a body before they are handed to a blocking thread to be hashed and
/// written: large enough that the hand-over (some 10 us) is lost in the work (some 100 us).
const BATCH: usize = 512 << 10;

/// How often a body that broke off is taken up again where it ended, within one flight.
const RESUMES: u32 = 4;

/// The first and the longest pause between looks at what another process fetches; it cannot wake
/// us.
const POLL: (Duration, Duration) = (Duration::from_millis(1), Duration::from_millis(20));

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
    /// Set once the whole object was compared with the digest that its source promises.
    digest_checked: OnceLock<Result<()>>,
    /// Set once the server sent all where a range was asked: from then on it is asked for all.
    whole_only: AtomicBool,
    flights: Mutex<Vec<Arc<Flight>>>,
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
        Arc::new(Remote {
            object,
            source,
            pin,
            learnt: OnceLock::new(),
            digest_checked: OnceLock::new(),
            whole_only: AtomicBool::new(false),
            flights: Mutex::new(Vec::new()),
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

    /// Fills `buf` from `offset` on if all of it is here and verified; never waits for a source.
    /// Returns the bytes read, fewer than asked only at the end of the object.
    pub fn read_at(&self, offset: u64, buf: &mut [u8]) -> Option<usize> {
        if self.pin.entry.digest.is_some() && !matches!(self.digest_checked.get(), Some(Ok(()))) {
            return None;
        }
        self.object.read_at(offset, buf)
    }

    /// Reads `len` bytes at `offset`, fetching what is missing. Fewer only at the end.
    pub async fn read(self: &Arc<Self>, offset: u64, len: usize) -> Result<Vec<u8>> {
        let end = self.size().min(offset.saturating_add(len as u64));
        if offset >= end {
            return Ok(Vec::new());
        }
        let deadline = Instant::now() + self.deadline;
        if self.pin.entry.digest.is_some() {
            self.check_digest(deadline).await?;
        }
        let range = offset..end;
        // What was found present can be gone again: evicted, or found corrupt. Then it is fetched
        // again, but not for ever.
        for _ in 0..3 {
            self.ensure(range.clone(), deadline).await?;
            let this = self.clone();
            let read = tokio::task::spawn_blocking(move || {
                let mut buf = vec![0; (end - offset) as usize];
                this.object.read_at(offset, &mut buf).map(|n| {
                    buf.truncate(n);
                    buf
                })
            });
            if let Some(bytes) = read.await.map_err(|e| Error::lied(e.to_string()))? {
                return Ok(bytes);
            }
        }
        Err(Error::new(
            ErrorKind::Server,
            format!(
                "{}: bytes {range:?} arrived but could not be kept or read back",
                self.url()
            ),
        ))
    }

    /// Starts what a window advises, in the background. Returns whether all of it is here already.
    pub fn follow(self: &Arc<Self>, advice: &Advice) -> bool {
        add(&self.counters.prefetch_used, advice.used);
        add(&self.counters.prefetch_wasted, advice.wasted);
        let Some(range) = &advice.prefetch else {
            return false;
        };
        let missing = self.object.missing(range.clone());
        self.launch(&missing, false);
        missing.is_empty()
    }

    fn url(&self) -> String {
        self.source.url(&self.pin.path)
    }

    /// Waits until all of `range` is present, fetching what nobody fetches yet.
    async fn ensure(self: &Arc<Self>, range: Range<u64>, deadline: Instant) -> Result<()> {
        loop {
            let landed = self.landed.notified();
            tokio::pin!(landed);
            landed.as_mut().enable();
            let missing = self.object.missing(range.clone());
            let Some((first, last)) = missing.first().zip(missing.last()) else {
                return Ok(());
            };
            let span = first.start..last.end;
            let flights = self.launch(&missing, true);
            tokio::select! {
                () = landed => {}
                () = tokio::time::sleep_until(deadline) => {
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

    /// Starts requests for what of `missing` is not in flight; returns the flights that concern it.
    fn launch(self: &Arc<Self>, missing: &[Range<u64>], demand: bool) -> Vec<Arc<Flight>> {
        let mut concerned = Vec::new();
        let mut fresh = Vec::new();
        {
            let mut flights = self.flights.lock().unwrap_or_else(PoisonError::into_inner);
            for flight in flights.iter() {
                let whole_only = self.whole_only.load(Ordering::Relaxed);
                if whole_only || missing.iter().any(|m| flight.overlaps(m)) {
                    concerned.push(flight.clone());
                }
            }
            let flying: Vec<_> = flights.iter().map(|f| f.range.clone()).collect();
            let requests = match self.whole_only.load(Ordering::Relaxed) {
                true if !flying.is_empty() || missing.is_empty() => Vec::new(),
                true => Vec::from([0..self.size()]),
                false => plan::requests(missing, &flying),
            };
            for range in requests {
                let flight = Flight::new(range);
                flights.push(flight.clone());
                fresh.push(flight);
            }
        }
        if demand {
            for flight in &concerned {
                flight.urgent.notify_one();
            }
        }
        for flight in &fresh {
            let (this, flight) = (self.clone(), flight.clone());
            self.runtime.spawn(async move {
                // The guard ends the flight even if its task panics or is dropped.
                let ending = Ending {
                    remote: &this,
                    flight: &flight,
                    result: None,
                };
                this.fly(&flight, demand, ending).await;
            });
        }
        concerned.extend(fresh);
        concerned
    }

    async fn fly(self: &Arc<Self>, flight: &Flight, demand: bool, mut ending: Ending<'_>) {
        let _turn = if demand {
            None
        } else {
            tokio::select! {
                turn = self.fetcher.prefetch.acquire() => turn.ok(),
                () = flight.urgent.notified() => None,
            }
        };
        let result = self.carry(flight.range.clone()).await;
        if let Err(error) = &result {
            debug!(url = %self.url(), range = ?flight.range, %error, "fetch failed");
        }
        ending.result = Some(result);
    }

    /// Fetches `range`, after whoever else fetches some of it in another process.
    async fn carry(self: &Arc<Self>, range: Range<u64>) -> Result<()> {
        let deadline = Instant::now() + self.deadline;
        let mut pause = POLL.0;
        loop {
            let missing = self.object.missing(range.clone());
            let Some((first, last)) = missing.first().zip(missing.last()) else {
                return Ok(());
            };
            let span = first.start..last.end;
            if let Some(fill) = self.object.try_claim(span.clone()) {
                // It may have landed between the look and the claim.
                if self.object.missing(span).is_empty() {
                    return Ok(());
                }
                return self.stream(fill, deadline).await;
            }
            if Instant::now() >= deadline {
                return Err(Error::new(
                    ErrorKind::Timeout,
                    format!(
                        "{}: another process has been fetching it for too long",
                        self.url()
                    ),
                ));
            }
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(POLL.1);
            self.landed.notify_waiters();
        }
    }

    /// Streams the claimed range into the cache, taking up broken bodies where they ended.
    async fn stream(self: &Arc<Self>, fill: Fill, deadline: Instant) -> Result<()> {
        let mut range = fill.range();
        let mut fill = Some(fill);
        let mut resumes = 0;
        loop {
            let body = self
                .source
                .read(&self.pin.path, self.entry(), range.clone())
                .await?;
            self.learn(&body)?;
            if body.range != range {
                // A server without ranges sent the whole object: keep all of it, so that it is
                // asked only once.
                let whole = 0..self.size();
                if body.range != whole {
                    return Err(Error::lied(format!(
                        "{}: asked for bytes {range:?}, got {:?}",
                        self.url(),
                        body.range
                    )));
                }
                self.whole_only.store(true, Ordering::Relaxed);
                drop(fill.take());
                fill = Some(self.claim_whole(deadline).await?);
                if self.object.missing(range).is_empty() {
                    return Ok(());
                }
                range = whole;
            }
            let Some(filling) = fill.take() else {
                return Err(Error::lied("a fetch lost its claim"));
            };
            match self.pour(body.checked().stream, filling).await {
                Ok(()) => return Ok(()),
                Err((error, filling, written)) => {
                    range.start += written;
                    resumes += 1;
                    if !error.kind().is_transient()
                        || resumes > RESUMES
                        || Instant::now() >= deadline
                    {
                        return Err(error);
                    }
                    debug!(url = %self.url(), %error, from = range.start, "taking up a broken body");
                    fill = filling;
                    if range.start >= range.end || fill.is_none() {
                        return Err(error);
                    }
                }
            }
        }
    }

    /// Writes a body into the cache in batches, on blocking threads, while the next one arrives.
    /// On failure returns the claim and the bytes that were taken in, to go on from there.
    async fn pour(
        self: &Arc<Self>,
        mut stream: futures::stream::BoxStream<'static, Result<Bytes>>,
        fill: Fill,
    ) -> std::result::Result<(), (Error, Option<Fill>, u64)> {
        let mut fill = Some(fill);
        let mut writing: Option<tokio::task::JoinHandle<std::result::Result<Fill, Error>>> = None;
        let mut batch: Vec<Bytes> = Vec::new();
        let mut gathered = 0usize;
        let mut written = 0u64;
        let mut ended: Option<Option<Error>> = None;
        // The share of the memory budget of the batch that is being written.
        let mut held = None;
        loop {
            // Gather a batch; the previous one is being written meanwhile.
            let mut permits = None;
            while ended.is_none() && gathered < BATCH {
                match stream.next().await {
                    Some(Ok(bytes)) => {
                        gathered += bytes.len();
                        let need = u32::try_from(bytes.len() >> 10).unwrap_or(u32::MAX);
                        batch.push(bytes);
                        // Over the budget the batch goes to the disk as it is: slower, but nobody
                        // waits for memory while holding some.
                        match (self.fetcher.buffers.try_acquire_many(need), &mut permits) {
                            (Ok(permit), None) => permits = Some(permit),
                            (Ok(permit), Some(all)) => all.merge(permit),
                            (Err(_), _) => break,
                        }
                    }
                    Some(Err(error)) => ended = Some(Some(error)),
                    None => ended = Some(None),
                }
            }
            if let Some(task) = writing.take() {
                match task.await {
                    Ok(Ok(back)) => fill = Some(back),
                    Ok(Err(error)) => return Err((error, None, written)),
                    Err(panic) => return Err((Error::lied(panic.to_string()), None, written)),
                }
                drop(held.take());
                self.landed.notify_waiters();
            }
            if gathered > 0 {
                let Some(mut filling) = fill.take() else {
                    return Err((Error::lied("a fetch lost its claim"), None, written));
                };
                let chunks = std::mem::take(&mut batch);
                written += gathered as u64;
                gathered = 0;
                let task = tokio::task::spawn_blocking(move || {
                    for chunk in chunks {
                        filling
                            .push(&chunk)
                            .map_err(|e| Error::lied(format!("the cache refused bytes: {e}")))?;
                    }
                    Ok(filling)
                });
                held = permits;
                writing = Some(task);
            } else if let Some(end) = ended {
                return match end {
                    Some(error) => Err((error, fill, written)),
                    None => {
                        if let Some(fill) = fill {
                            let done = tokio::task::spawn_blocking(move || fill.finish());
                            if let Err(panic) = done.await {
                                return Err((Error::lied(panic.to_string()), None, written));
                            }
                        }
                        Ok(())
                    }
                };
            }
        }
    }

    async fn claim_whole(&self, deadline: Instant) -> Result<Fill> {
        let mut pause = POLL.0;
        loop {
            if let Some(fill) = self.object.try_claim(0..self.size()) {
                return Ok(fill);
            }
            if Instant::now() >= deadline {
                return Err(Error::new(
                    ErrorKind::Timeout,
                    format!("{}: another fetch of it does not end", self.url()),
                ));
            }
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(POLL.1);
        }
    }

    /// Compares a reply with the pin, and pins to its validator if there was none.
    fn learn(&self, body: &crate::source::Body) -> Result<()> {
        if body.size != self.size() {
            return Err(Error::changed(format!(
                "{}: its size is {} now and was {} when it was opened",
                self.url(),
                body.size,
                self.size()
            )));
        }
        if self.pin.entry.validator.is_none()
            && let Some(validator) = &body.validator
        {
            let learnt = self.learnt.get_or_init(|| Entry {
                validator: Some(validator.clone()),
                ..self.pin.entry.clone()
            });
            if learnt.validator.as_ref() != Some(validator) {
                return Err(Error::changed(format!(
                    "{}: it changed while being read",
                    self.url()
                )));
            }
        }
        Ok(())
    }

    /// Reads the whole object once and compares it with the digest that its source promises.
    async fn check_digest(self: &Arc<Self>, deadline: Instant) -> Result<()> {
        let Some(Digest::Sha256(want)) = self.pin.entry.digest else {
            return Ok(());
        };
        if let Some(known) = self.digest_checked.get() {
            return known.clone();
        }
        self.ensure(0..self.size(), deadline).await?;
        let this = self.clone();
        let got = tokio::task::spawn_blocking(move || {
            let mut hash = ring::digest::Context::new(&ring::digest::SHA256);
            let mut buf = vec![0; BATCH];
            let mut at = 0;
            while at < this.size() {
                let n = this.object.read_at(at, &mut buf)?;
                hash.update(&buf[..n]);
                at += n as u64;
            }
            Some(hash.finish())
        });
        let Some(got) = got.await.map_err(|e| Error::lied(e.to_string()))? else {
            return Err(Error::new(
                ErrorKind::Server,
                format!(
                    "{}: could not be kept whole, so its digest cannot be checked",
                    self.url()
                ),
            ));
        };
        let verdict = if got.as_ref() == want {
            Ok(())
        } else {
            Err(Error::lied(format!(
                "{}: its SHA-256 is not the one that the manifest promises",
                self.url()
            )))
        };
        self.digest_checked.get_or_init(|| verdict).clone()
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
