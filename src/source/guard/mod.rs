//! What every source needs alike, around any of them: deadlines, retries, limits, a circuit
//! breaker, counters and a state of health.
//!
//! Invariants: no operation waits longer than its deadline, whatever the source does; at most
//! `concurrency` operations and bodies are under way; a source that is down is asked by one probe
//! at a time. Locks are held for a few instructions and never across an await; there are two, the
//! breaker's and the health's, and none is taken while the other is held.

use std::ops::Range;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use futures::StreamExt;
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore};
use tokio::time::Instant;

use super::sweep::{Keys, Start};
use super::{
    Body, Error, ErrorKind, InPlace, Listing, ListingBuilder, Recursive, Result, Source, Whole,
    progress,
};
use crate::entry::{Entry, Timestamp};
use crate::path::RelPath;

mod backoff;
mod bandwidth;
mod breaker;
mod health;

use backoff::Backoff;
pub use bandwidth::Bandwidth;
use breaker::Breaker;
use health::Counting;
pub use health::{ANSWER_BOUNDS, Counters, Health, Status};

/// How many deadlines a listing may take as a whole, as long as each page comes within one.
const LIST_DEADLINES: u32 = 20;

/// The limits of a source.
#[derive(Debug, Clone)]
pub struct GuardOptions {
    /// How long an operation may take, repetitions included: `stat`, a page of a listing, a
    /// read up to its first byte. No more than this passes between two pieces of a body.
    pub deadline: Duration,
    /// How many operations and bodies may be under way at once.
    pub concurrency: usize,
    /// A limit on bytes per second, shared by all sources that are given the same one.
    pub bandwidth: Option<Arc<Bandwidth>>,
}

impl Default for GuardOptions {
    fn default() -> GuardOptions {
        GuardOptions {
            deadline: Duration::from_secs(30),
            concurrency: 64,
            bandwidth: None,
        }
    }
}

/// A source behind its limits.
#[derive(Clone)]
pub struct Guarded(Arc<Inner>);

struct Inner {
    name: String,
    source: Arc<dyn Source>,
    options: GuardOptions,
    permits: Arc<Semaphore>,
    breaker: Mutex<Breaker>,
    health: Mutex<Health>,
    counting: Counting,
}

impl Guarded {
    /// Puts `source` behind limits; `name` is what its errors call it.
    pub fn new(source: Arc<dyn Source>, name: impl Into<String>, options: GuardOptions) -> Guarded {
        Guarded(Arc::new(Inner {
            name: name.into(),
            source,
            permits: Arc::new(Semaphore::new(options.concurrency.max(1))),
            options,
            breaker: Mutex::new(Breaker::new()),
            health: Mutex::new(Health::unknown(Timestamp::now())),
            counting: Counting::default(),
        }))
    }

    /// Returns what errors call the source.
    pub fn name(&self) -> &str {
        &self.0.name
    }

    /// Returns the source's state as of now.
    pub fn health(&self) -> Health {
        self.0.health().clone()
    }

    /// Returns what the source was asked and gave so far.
    pub fn counters(&self) -> Counters {
        self.0.counting.snapshot()
    }

    /// Returns how many operations and bodies are under way.
    pub fn in_flight(&self) -> usize {
        let most = self.0.options.concurrency.max(1);
        most.saturating_sub(self.0.permits.available_permits())
    }

    /// Returns whether the breaker refuses requests now, so that asking would fail at once.
    pub fn is_broken(&self) -> bool {
        self.0.breaker().is_open(Instant::now())
    }
}

impl Inner {
    fn breaker(&self) -> MutexGuard<'_, Breaker> {
        self.breaker.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn health(&self) -> MutexGuard<'_, Health> {
        self.health.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Notes how an attempt ended.
    fn note(&self, error: Option<&Error>) {
        match error {
            Some(error) if error.kind().is_outage() => self.breaker().outage(Instant::now()),
            _ => self.breaker().answered(),
        }
        let now = Timestamp::now();
        match error {
            // These are about one object; the source is well.
            None => self.health().succeeded(now),
            Some(error) => match error.kind() {
                ErrorKind::NotFound | ErrorKind::Changed | ErrorKind::NotNow => {
                    self.health().succeeded(now);
                }
                _ => self.health().failed(error, now),
            },
        }
    }

    /// Waits for a turn. Those before us are bounded each, and as long as the source gives
    /// somebody something, to wait longer is to be slowed: no deadline runs. A source that gives
    /// nobody anything for a deadline has missed ours too.
    async fn permit(&self) -> Result<OwnedSemaphorePermit> {
        /// Looks in a deadline at whether the source is alive.
        const LOOKS: u32 = 4;
        let permit = self.permits.clone().acquire_owned();
        tokio::pin!(permit);
        let mut alive = (Instant::now(), self.counting.given());
        loop {
            let look = Instant::now() + self.options.deadline / LOOKS;
            if let Ok(Ok(permit)) = tokio::time::timeout_at(look, &mut permit).await {
                return Ok(permit);
            }
            let given = self.counting.given();
            if given != alive.1 {
                alive = (Instant::now(), given);
                progress::note();
            } else if alive.0.elapsed() >= self.options.deadline {
                let limit = self.options.concurrency;
                let what = format!("all {limit} connections were busy until the deadline");
                return Err(Error::new(ErrorKind::Timeout, what));
            }
        }
    }

    /// Does an operation until it succeeds, fails for good, or its time is up. Each note of
    /// progress gives it another deadline, up to `deadlines` in all.
    async fn attempt<T, F: Future<Output = Result<T>>>(
        &self,
        deadlines: u32,
        what: impl Fn() -> String,
        operation: impl Fn() -> F,
    ) -> Result<(T, OwnedSemaphorePermit)> {
        let context = |error: Error| {
            self.counting.failed(error.kind());
            error.context(format_args!("source {}: {}", self.name, what()))
        };
        let permit = self.permit().await.map_err(context)?;
        let started = Instant::now();
        let last = started + self.options.deadline * deadlines;
        let mut until = started + self.options.deadline;
        let mut backoff = Backoff::default();
        let mut failed: Option<Error> = None;
        let mut lied = false;
        loop {
            if let Err(pause) = self.breaker().admit(Instant::now()) {
                // Our own attempts may have opened it: what they met says more.
                return Err(context(failed.unwrap_or_else(|| self.refusal(pause))));
            }
            Counting::add(&self.counting.requests, 1);
            let admitted = Admitted(&self.breaker);
            let begun = Instant::now();
            let mut attempt = self.within(&mut until, last, operation()).await;
            std::mem::forget(admitted);
            self.counting.answered(begun.elapsed());
            if let (Err(error), Some(before)) = (&attempt, failed.take())
                && error.kind() == ErrorKind::Timeout
                && !before.kind().is_outage()
                && begun.elapsed() < self.options.deadline / 2
            {
                // It was cut short by our deadline; what the source said before is the reason.
                attempt = Err(before);
            }
            self.note(attempt.as_ref().err());
            let error = match attempt {
                Ok(done) => {
                    Counting::add(&self.counting.answers, 1);
                    return Ok((done, permit));
                }
                Err(error) => error,
            };
            let pause = backoff.next(error.retry_after());
            // A reply that makes no sense may be to another request, on a connection that is out of
            // step and not used again. Once: a server may as well be so.
            let is_misplaced =
                error.kind() == ErrorKind::Lied && !std::mem::replace(&mut lied, true);
            if !(error.kind().is_transient() || is_misplaced) || Instant::now() + pause >= until {
                return Err(context(error));
            }
            Counting::add(&self.counting.retries, 1);
            tracing::debug!(source = %self.name, %error, ?pause, "retrying {}", what());
            failed = Some(error);
            tokio::time::sleep(pause).await;
        }
    }

    async fn within<T>(
        &self,
        until: &mut Instant,
        last: Instant,
        operation: impl Future<Output = Result<T>>,
    ) -> Result<T> {
        let watcher = Arc::new(Notify::new());
        let work = progress::watched(watcher.clone(), operation);
        tokio::pin!(work);
        loop {
            tokio::select! {
                biased;
                done = &mut work => return done,
                () = watcher.notified() => {
                    *until = last.min(Instant::now() + self.options.deadline);
                }
                () = tokio::time::sleep_until(*until) => {
                    let limit = self.options.deadline;
                    let what = format!("no answer within {limit:?}");
                    return Err(Error::new(ErrorKind::Timeout, what));
                }
            }
        }
    }

    /// The error of a request that is not even sent.
    fn refusal(&self, pause: Duration) -> Error {
        let last = self.health().last_error.clone();
        let last = last.map_or_else(String::new, |(_, why)| format!(": {why}"));
        Error::new(
            ErrorKind::Unreachable,
            format!(
                "not asked, as it did not answer lately; next try in {:.1} s{last}",
                pause.as_secs_f64()
            ),
        )
    }

    /// Puts a body behind the idle limit, the bandwidth limit and the counters. The permit is
    /// held until the body ends or is dropped.
    fn watch(self: &Arc<Self>, body: Body, what: String, permit: OwnedSemaphorePermit) -> Body {
        let inner = self.clone();
        let range = body.range.clone();
        let stream = futures::stream::unfold(
            (body.stream, Some((permit, what))),
            move |(mut stream, held)| {
                let inner = inner.clone();
                async move {
                    let (permit, what) = held?;
                    let idle = inner.options.deadline;
                    let next = tokio::time::timeout(idle, stream.next()).await;
                    let next = next.unwrap_or_else(|_| {
                        let what = format!("nothing came for {idle:?} in the middle of a body");
                        Some(Err(Error::new(ErrorKind::Timeout, what)))
                    });
                    match next? {
                        Ok(bytes) => {
                            Counting::add(&inner.counting.bytes, bytes.len() as u64);
                            if let Some(limit) = &inner.options.bandwidth {
                                limit.pay(bytes.len()).await;
                            }
                            Some((Ok(bytes), (stream, Some((permit, what)))))
                        }
                        Err(error) => {
                            inner.note(Some(&error));
                            inner.counting.failed(error.kind());
                            let name = &inner.name;
                            let error = error.context(format_args!("source {name}: {what}"));
                            Some((Err(error), (stream, None)))
                        }
                    }
                }
            },
        );
        let body = Body {
            range,
            size: body.size,
            validator: body.validator,
            stream: stream.boxed(),
        };
        body.checked()
    }
}

/// Tells the breaker of a request whose future is dropped before its end.
struct Admitted<'a>(&'a Mutex<Breaker>);

impl Drop for Admitted<'_> {
    fn drop(&mut self) {
        let mut breaker = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        breaker.abandoned(Instant::now());
    }
}

#[async_trait]
impl Source for Guarded {
    fn identity(&self) -> &str {
        self.0.source.identity()
    }

    fn url(&self, path: &RelPath) -> String {
        self.0.source.url(path)
    }

    async fn list(&self, dir: &RelPath) -> Result<Listing> {
        let what = || format!("list {dir}");
        let source = &self.0.source;
        let listed = self.0.attempt(LIST_DEADLINES, what, || source.list(dir));
        Ok(listed.await?.0)
    }

    async fn list_into(&self, dir: &RelPath, into: &mut ListingBuilder) -> Result<()> {
        let what = || format!("list {dir}");
        let source = &self.0.source;
        let template = &*into;
        let list = || async {
            // Of an attempt that failed, nothing is kept.
            let mut listing = template.another();
            source.list_into(dir, &mut listing).await?;
            Ok(listing)
        };
        let (listing, _) = self.0.attempt(LIST_DEADLINES, what, list).await?;
        *into = listing;
        Ok(())
    }

    async fn stat(&self, path: &RelPath) -> Result<Entry> {
        let what = || format!("stat {path}");
        let source = &self.0.source;
        Ok(self.0.attempt(1, what, || source.stat(path)).await?.0)
    }

    async fn read(&self, path: &RelPath, entry: &Entry, range: Range<u64>) -> Result<Body> {
        let what = || format!("read {path} from {} to {}", range.start, range.end);
        let read = || self.0.source.read(path, entry, range.clone());
        let (body, permit) = self.0.attempt(1, what, read).await?;
        Ok(self.0.watch(body, what(), permit))
    }

    fn same_version(&self, before: &Entry, now: &Entry) -> bool {
        self.0.source.same_version(before, now)
    }

    fn recursive(&self) -> Option<&dyn Recursive> {
        self.0.source.recursive()?;
        Some(self)
    }

    fn whole(&self) -> Option<&dyn Whole> {
        self.0.source.whole()?;
        Some(self)
    }

    fn in_place(&self) -> Option<&dyn InPlace> {
        self.0.source.in_place()
    }

    fn pause(&self) -> Option<Duration> {
        self.0.breaker().pause(Instant::now())
    }
}

#[async_trait]
impl Whole for Guarded {
    fn current(&self) -> Option<Arc<str>> {
        self.0.source.whole()?.current()
    }

    async fn advance(&self) -> Result<Arc<str>> {
        let what = || "look for a new generation".to_owned();
        let source = &self.0.source;
        let advance = || async {
            match source.whole() {
                Some(whole) => whole.advance().await,
                None => Err(Error::new(
                    ErrorKind::Invalid,
                    "its files change one by one",
                )),
            }
        };
        Ok(self.0.attempt(LIST_DEADLINES, what, advance).await?.0)
    }
}

#[async_trait]
impl Recursive for Guarded {
    async fn keys(&self, dir: &RelPath, from: &Start) -> Result<Keys> {
        let what = || format!("list all below {dir}");
        let source = &self.0.source;
        let keys = || async {
            match source.recursive() {
                Some(recursive) => recursive.keys(dir, from).await,
                None => Err(Error::new(
                    ErrorKind::Invalid,
                    "it lists one directory at a time",
                )),
            }
        };
        Ok(self.0.attempt(1, what, keys).await?.0)
    }
}

#[cfg(test)]
mod tests;
