//! How a directory is got and revalidated: once for all who ask, and nobody waits without need.
//!
//! A *flight* is the one task that looks a directory up in SQLite or lists it. It runs by itself:
//! who asked may go away, and the next finds what it brought.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use futures::future::BoxFuture;
use tokio::sync::{OwnedSemaphorePermit, watch};

use super::db::Stored;
use super::directory::Directory;
use super::landing::OFFLOAD;
use super::{BACKOFF_MAX, Catalogue, ERROR_MEMORY, State, bump};
use crate::entry::Timestamp;
use crate::path::RelPath;
use crate::source::{Error, ErrorKind, ListingBuilder, PackedListing, Result};

/// How often one missing directory can make its parent be listed again.
pub(super) const BLAME_EVERY: Duration = Duration::from_secs(30);

/// Directories with something under way or wrong before those in order are looked for and dropped.
const CONTROLS: usize = 1024;

/// What is under way for a directory, or went wrong.
#[derive(Default)]
pub(super) struct Control {
    pub(super) flight: Option<Flight>,
    /// Since when what is known is known to be wrong.
    pub(super) invalidated: Option<Instant>,
    pub(super) failure: Option<Failure>,
    /// When the parent was last told to look again because this directory is not there.
    pub(super) blamed: Option<Instant>,
}

pub(super) struct Flight {
    pub(super) id: u64,
    started: Instant,
    pub(super) base: Option<Arc<Directory>>,
    answer: Answer<Landed>,
}

#[derive(Clone)]
pub(super) struct Failure {
    pub(super) error: Error,
    pub(super) retry_at: Instant,
    pub(super) pause: Duration,
    /// Nothing else is known of the directory.
    pub(super) blind: bool,
}

impl Flight {
    pub(super) fn new(
        id: u64,
        started: Instant,
        base: Option<Arc<Directory>>,
        answer: Answer<Landed>,
    ) -> Flight {
        Flight {
            id,
            started,
            base,
            answer,
        }
    }
}

impl Failure {
    /// Returns the failure of a directory of which nothing is known.
    pub(super) fn blind(error: Error, at: Instant) -> Failure {
        Failure {
            error,
            retry_at: at + ERROR_MEMORY,
            pause: ERROR_MEMORY,
            blind: true,
        }
    }
}

/// What a flight brought.
#[derive(Clone)]
pub(super) struct Landed {
    pub(super) dir: Arc<Directory>,
    pub(super) delta: Delta,
}

/// How many entries a listing changed.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Delta {
    pub(super) added: u64,
    pub(super) changed: u64,
    pub(super) removed: u64,
}

/// The receiving end of something that is done once for many.
#[derive(Clone)]
pub(super) struct Answer<T>(watch::Receiver<Option<Result<T>>>);

impl<T: Clone> Answer<T> {
    pub(super) fn new() -> (watch::Sender<Option<Result<T>>>, Answer<T>) {
        let (sender, receiver) = watch::channel(None);
        (sender, Answer(receiver))
    }

    pub(super) async fn get(mut self) -> Result<T> {
        let lost = || Error::new(ErrorKind::Interrupted, "the request was given up");
        match self.0.wait_for(Option::is_some).await {
            Ok(answer) => answer.clone().unwrap_or_else(|| Err(lost())),
            Err(_) => Err(lost()),
        }
    }

    /// Returns whether no answer will ever come.
    pub(super) fn is_lost(&self) -> bool {
        self.0.has_changed().is_err() && self.0.borrow().is_none()
    }
}

enum Step {
    Done(Result<Arc<Directory>>),
    Wait {
        answer: Answer<Landed>,
        id: u64,
        started: Instant,
        until: Option<Instant>,
    },
}

impl Control {
    fn is_idle(&self, now: Instant) -> bool {
        self.flight.is_none()
            && self.invalidated.is_none()
            && self
                .failure
                .as_ref()
                .is_none_or(|failure| failure.retry_at + BACKOFF_MAX < now)
            && self.blamed.is_none_or(|at| at + BLAME_EVERY < now)
    }
}

impl State {
    /// Returns whether anything was dropped that others may have drawn conclusions from.
    fn prune(&mut self, now: Instant) -> bool {
        let mut forgotten = false;
        // The map's own capacity doubles, so this costs each entry a constant share.
        if self.controls.len() >= CONTROLS && self.controls.len() == self.controls.capacity() {
            self.controls.retain(|_, control| {
                let idle = control.is_idle(now);
                forgotten |= idle && control.failure.is_some();
                !idle
            });
        }
        forgotten
    }
}

impl Catalogue {
    /// Gets a directory that is not in memory or not to be relied on.
    pub(super) async fn fly(self: &Arc<Self>, dir: &RelPath) -> Result<Arc<Directory>> {
        self.fly_for(dir).await.map(|landed| landed.dir)
    }

    /// As [`Catalogue::fly_for`], for a flight that needs another (never of its own kind).
    fn fly_boxed<'a>(self: &'a Arc<Self>, dir: &'a RelPath) -> BoxFuture<'a, Result<Landed>> {
        Box::pin(self.fly_for(dir))
    }

    /// As [`Catalogue::fly`], and tells how many entries changed.
    pub(super) async fn fly_for(self: &Arc<Self>, dir: &RelPath) -> Result<Landed> {
        loop {
            let (answer, id, started, until) = match self.step(dir) {
                Step::Done(result) => {
                    return result.map(|dir| Landed {
                        dir,
                        delta: Delta::default(),
                    });
                }
                Step::Wait {
                    answer,
                    id,
                    started,
                    until,
                } => (answer, id, started, until),
            };
            let outcome = match until {
                None => answer.get().await,
                Some(until) => match tokio::time::timeout_at(until.into(), answer.get()).await {
                    Ok(outcome) => outcome,
                    Err(_) => match self.overdue(dir, id) {
                        Some(dir) => {
                            return Ok(Landed {
                                dir,
                                delta: Delta::default(),
                            });
                        }
                        None => continue,
                    },
                },
            };
            let outdated = outcome.is_ok()
                && self
                    .state()
                    .controls
                    .get(dir)
                    .and_then(|control| control.invalidated)
                    .is_some_and(|at| at > started);
            if !outdated {
                return outcome;
            }
            // It was found wrong while it was being listed; the next listing began after that.
        }
    }

    /// Returns what to do for a reader of `dir`, and starts a flight if need be.
    fn step(self: &Arc<Self>, dir: &RelPath) -> Step {
        let now = Instant::now();
        let mut state = self.state();
        let state = &mut *state;
        let mut known = self.recall(dir);
        if let Some(known) = known.as_ref().filter(|known| known.is_fresh(now)) {
            return Step::Done(Ok(known.clone()));
        }
        if state.prune(now) {
            self.changes.fetch_add(1, Ordering::Release);
        }
        let control = state.controls.entry(dir.clone()).or_default();
        if control.flight.as_ref().is_some_and(|f| f.answer.is_lost()) {
            control.flight = None;
        }
        if let Some(flight) = &control.flight {
            known = known.or_else(|| flight.base.clone());
            // What is known to be wrong is served only if the source has already failed since.
            let may_serve =
                known.is_some() && (control.invalidated.is_none() || control.failure.is_some());
            return Step::Wait {
                answer: flight.answer.clone(),
                id: flight.id,
                started: flight.started,
                until: may_serve.then(|| flight.started + self.policy.patience),
            };
        }
        if let Some(failure) = control.failure.as_ref().filter(|f| now < f.retry_at) {
            match known {
                Some(known) => {
                    bump(&self.counters.stale_served);
                    let error = failure.error.clone();
                    let excused = Arc::new(known.dated(Some(failure.retry_at), Some(error)));
                    self.remember(dir, &excused);
                    return Step::Done(Ok(excused));
                }
                None if failure.blind => return Step::Done(Err(failure.error.clone())),
                // It is in SQLite, only no longer in memory.
                None => {}
            }
        }
        let may_serve =
            known.is_some() && (control.invalidated.is_none() || control.failure.is_some());
        let (answer, id) = self.start(state, dir, known, now, None);
        Step::Wait {
            answer,
            id,
            started: now,
            until: may_serve.then(|| now + self.policy.patience),
        }
    }

    /// Starts a flight. The caller has made sure that there is none.
    fn start(
        self: &Arc<Self>,
        state: &mut State,
        dir: &RelPath,
        base: Option<Arc<Directory>>,
        now: Instant,
        permit: Option<OwnedSemaphorePermit>,
    ) -> (Answer<Landed>, u64) {
        state.flights += 1;
        let id = state.flights;
        let (sender, answer) = Answer::new();
        let flight = Flight::new(id, now, base.clone(), answer.clone());
        state.controls.entry(dir.clone()).or_default().flight = Some(flight);
        let (this, dir) = (self.clone(), dir.clone());
        tokio::spawn(async move {
            let _permit = permit;
            match base {
                Some(base) => this.list(&dir, id, now, Some(base), &sender).await,
                None => this.load(&dir, id, now, &sender).await,
            }
        });
        (answer, id)
    }

    /// The flight for a directory that is not in memory.
    async fn load(
        self: &Arc<Self>,
        dir: &RelPath,
        id: u64,
        started: Instant,
        sender: &watch::Sender<Option<Result<Landed>>>,
    ) {
        let stored = match self.row {
            None => None,
            Some(row) => {
                let (this, dir) = (self.clone(), dir.clone());
                let load = tokio::task::spawn_blocking(move || {
                    this.db.load(row, &dir, &this.policy.memory.room)
                });
                load.await.ok().flatten()
            }
        };
        let Some(stored) = stored else {
            let outage = self.state().outage.clone();
            match outage {
                Some((at, error)) if at.elapsed() < ERROR_MEMORY => {
                    {
                        let mut state = self.state();
                        state.land(dir, id);
                        let control = state.controls.entry(dir.clone()).or_default();
                        control.failure = Some(Failure::blind(error.clone(), at));
                    }
                    sender.send_replace(Some(Err(error)));
                }
                _ => self.list(dir, id, started, None, sender).await,
            }
            return;
        };
        bump(&self.counters.loaded);
        let outcome = match self.loaded(dir, id, stored) {
            Some(found) => Ok(Landed::unchanged(found)),
            None => self.fly_boxed(dir).await,
        };
        sender.send_replace(Some(outcome));
    }

    /// Takes over what SQLite holds of a directory; returns it if it may be served now.
    fn loaded(self: &Arc<Self>, dir: &RelPath, id: u64, stored: Stored) -> Option<Arc<Directory>> {
        let Stored {
            dir: found,
            invalid_at,
        } = stored;
        let now = Instant::now();
        let left = self.left_of(found.listed_at());
        let in_the_past = Timestamp::now().since(found.listed_at()).is_some();
        let of_this_mount = in_the_past && found.listed_at() >= self.started;

        let mut state = self.state();
        state.land(dir, id);
        let control = state.controls.entry(dir.clone()).or_default();
        if invalid_at.is_some_and(|at| at >= self.started) {
            control.invalidated.get_or_insert(now);
        }
        // Another process may be at another generation: what this one lists is cheap, and fits.
        let is_whole = self.source.whole().is_some();
        if is_whole || invalid_at.is_some() || control.invalidated.is_some() {
            self.remember(dir, &Arc::new(found.dated(Some(now), None)));
            return None;
        }
        if left.is_none_or(|left| !left.is_zero()) {
            let found = Arc::new(found.dated(left.map(|left| now + left), None));
            self.remember(dir, &found);
            if control.is_idle(now) {
                state.controls.remove(dir);
            }
            return Some(found);
        }
        if of_this_mount {
            self.remember(dir, &Arc::new(found.dated(Some(now), None)));
            return None;
        }
        // Known from an earlier mount: served at once, and trusted until it is revalidated, or for
        // as long as a reader would have waited for that.
        let found = Arc::new(found.dated(Some(now + self.policy.patience), None));
        self.remember(dir, &found);
        bump(&self.counters.stale_served);
        let pausing = control.failure.as_ref().is_some_and(|f| now < f.retry_at);
        if !pausing && let Ok(permit) = self.background.clone().try_acquire_owned() {
            self.start(&mut state, dir, Some(found.clone()), now, Some(permit));
        }
        Some(found)
    }

    /// Returns for how long a listing of `listed_at` is still trusted; nothing: for good.
    pub(super) fn left_of(&self, listed_at: Timestamp) -> Option<Duration> {
        // A date in the future is a clock that went back: nobody knows how old the listing is.
        let age = Timestamp::now().since(listed_at);
        let left = |refresh: Duration| age.map(|age| refresh.saturating_sub(age));
        Some(left(self.policy.refresh?).unwrap_or_default())
    }

    /// The flight that asks the source.
    async fn list(
        self: &Arc<Self>,
        dir: &RelPath,
        id: u64,
        started: Instant,
        base: Option<Arc<Directory>>,
        sender: &watch::Sender<Option<Result<Landed>>>,
    ) {
        let listed_at = Timestamp::now();
        bump(&self.counters.listings);
        if base.is_some() {
            bump(&self.counters.revalidations);
        }
        match self.listing(dir).await {
            Ok(listing) => {
                self.arrived(dir, id, started, listed_at, base, listing, sender)
                    .await;
            }
            Err(error) if error.kind() == ErrorKind::NotFound && !dir.is_root() => {
                let waiting = self.gone(dir, id, base, &error);
                sender.send_replace(Some(Err(error)));
                for op in waiting {
                    self.db.write(op).await;
                }
            }
            Err(error) => {
                bump(&self.counters.failures);
                let outcome = self.failed(dir, id, base, error);
                sender.send_replace(Some(outcome.map(Landed::unchanged)));
            }
        }
    }
}

impl Catalogue {
    /// Asks the source, and packs what comes in no more memory than there is room for.
    async fn listing(self: &Arc<Self>, dir: &RelPath) -> Result<PackedListing> {
        if let Some(whole) = self.source.whole() {
            self.look(whole, self.policy.patience).await?;
        }
        let mut listing = ListingBuilder::within(self.policy.memory.room.clone());
        self.source.list_into(dir, &mut listing).await?;
        if listing.len() < OFFLOAD {
            return listing.pack();
        }
        let packing = tokio::task::spawn_blocking(move || listing.pack());
        packing
            .await
            .unwrap_or_else(|e| Err(Error::new(ErrorKind::Interrupted, e.to_string())))
    }
}

impl Landed {
    pub(super) fn unchanged(dir: Arc<Directory>) -> Landed {
        Landed {
            dir,
            delta: Delta::default(),
        }
    }
}

impl State {
    /// Ends flight `id`.
    pub(super) fn land(&mut self, dir: &RelPath, id: u64) {
        if let Some(control) = self.controls.get_mut(dir)
            && control
                .flight
                .as_ref()
                .is_some_and(|flight| flight.id == id)
        {
            control.flight = None;
        }
    }
}
