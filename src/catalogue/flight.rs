//! How a directory is got and revalidated: once for all who ask, and nobody waits without need.
//!
//! A *flight* is the one task that looks a directory up in SQLite or lists it. It runs by itself:
//! who asked may go away, and the next finds what it brought.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use futures::future::BoxFuture;
use tokio::sync::{OwnedSemaphorePermit, watch};

use super::db::{Op, Stored};
use super::directory::{Changes, Directory, order};
use super::{BACKOFF_MAX, BACKOFF_MIN, Catalogue, ERROR_MEMORY, State, bump};
use crate::entry::{Kind, Timestamp};
use crate::path::{Name, RelPath};
use crate::source::{Error, ErrorKind, Listing, Result};

/// Entries from which comparing two listings is not done on a worker of the runtime: some
/// milliseconds.
const OFFLOAD: usize = 10_000;

/// How often one missing directory can make its parent be listed again.
const BLAME_EVERY: Duration = Duration::from_secs(30);

/// Directories with something under way or wrong before those in order are looked for and dropped.
const CONTROLS: usize = 1024;

/// What is under way for a directory, or went wrong.
#[derive(Default)]
pub(super) struct Control {
    flight: Option<Flight>,
    /// Since when what is known is known to be wrong.
    invalidated: Option<Instant>,
    failure: Option<Failure>,
    /// When the parent was last told to look again because this directory is not there.
    blamed: Option<Instant>,
}

struct Flight {
    id: u64,
    started: Instant,
    base: Option<Arc<Directory>>,
    answer: Answer<Landed>,
}

#[derive(Clone)]
struct Failure {
    error: Error,
    retry_at: Instant,
    pause: Duration,
    /// Nothing else is known of the directory.
    blind: bool,
}

impl Failure {
    /// Returns the failure of a directory of which nothing is known.
    fn blind(error: Error, at: Instant) -> Failure {
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
        state.controls.entry(dir.clone()).or_default().flight = Some(Flight {
            id,
            started: now,
            base: base.clone(),
            answer: answer.clone(),
        });
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
                let load = tokio::task::spawn_blocking(move || this.db.load(row, &dir));
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
        let age = Timestamp::now().0.checked_sub(found.listed_at().0);
        // A date in the future is a clock that went back: nobody knows how old the listing is.
        let age = age.and_then(|age| u64::try_from(age).ok());
        let left = self.policy.refresh.map(|refresh| {
            age.map_or(Duration::ZERO, |age| {
                refresh.saturating_sub(Duration::from_nanos(age))
            })
        });
        let of_this_mount = age.is_some() && found.listed_at() >= self.started;

        let mut state = self.state();
        state.land(dir, id);
        let control = state.controls.entry(dir.clone()).or_default();
        if invalid_at.is_some_and(|at| at >= self.started) {
            control.invalidated.get_or_insert(now);
        }
        if invalid_at.is_some() || control.invalidated.is_some() {
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
        match self.source.list(dir).await {
            Ok(mut listing) => {
                order(&mut listing);
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

    #[allow(clippy::too_many_arguments, reason = "all of one flight")]
    async fn arrived(
        self: &Arc<Self>,
        dir: &RelPath,
        id: u64,
        started: Instant,
        listed_at: Timestamp,
        base: Option<Arc<Directory>>,
        listing: Listing,
        sender: &watch::Sender<Option<Result<Landed>>>,
    ) {
        let trusted = self.trusted_until(started);
        let mut base = self.recall(dir).or(base);
        let (new, changes, base) = match base.take() {
            None => {
                let new = Arc::new(Directory::first(listing, listed_at, trusted));
                self.commit(dir, id, started, &new, false);
                (new, Changes::default(), None)
            }
            Some(mut base) => {
                let listing = Arc::new(listing);
                loop {
                    let (new, changes) =
                        compare(base.clone(), listing.clone(), listed_at, trusted).await;
                    let new = Arc::new(new);
                    // An entry may have been learnt in the meantime; then once more.
                    let mut state = self.state();
                    match self.recall(dir) {
                        Some(other) if other.revision() != base.revision() => base = other,
                        _ => {
                            self.commit_in(&mut state, dir, id, started, &new, !changes.is_empty());
                            break (new, changes, Some(base));
                        }
                    }
                }
            }
        };

        let mut waiting = self.forget_below(dir, &changes.gone_dirs);
        self.log_hidden(dir, base.as_deref(), &new);
        let names = changes.names();
        self.tell(dir, &names);
        let delta = Delta {
            added: match base {
                Some(_) => changes.added.len() as u64,
                None => new.len() as u64,
            },
            changed: changes.changed.len() as u64,
            removed: changes.removed.len() as u64,
        };
        let store = self.row.map(|source| {
            let mut touched = changes.added;
            touched.extend(changes.changed);
            touched.extend(changes.quiet);
            Op::Store {
                source,
                path: dir.clone(),
                dir: new.clone(),
                base: base.map(|base| base.generation()),
                touched,
                removed: changes.removed,
            }
        });
        let landed = Ok(Landed { dir: new, delta });
        // Queued before the answer if there is room, so that a flush after the answer finds it;
        // nobody waits for room.
        waiting.extend(store.and_then(|op| self.db.offer(op).err()));
        sender.send_replace(Some(landed));
        for op in waiting {
            self.db.write(op).await;
        }
    }

    /// Logs names that cannot be shown, once for each state of a directory.
    fn log_hidden(&self, dir: &RelPath, old: Option<&Directory>, new: &Directory) {
        if old.is_some_and(|old| old.hidden() == new.hidden()) {
            return;
        }
        for hidden in new.hidden() {
            tracing::warn!(
                source = self.source.identity(), %dir, count = hidden.count,
                example = hidden.example, why = %hidden.why, "names are not shown"
            );
        }
    }

    fn commit(&self, dir: &RelPath, id: u64, started: Instant, new: &Arc<Directory>, news: bool) {
        self.commit_in(&mut self.state(), dir, id, started, new, news);
    }

    fn commit_in(
        &self,
        state: &mut State,
        dir: &RelPath,
        id: u64,
        started: Instant,
        new: &Arc<Directory>,
        news: bool,
    ) {
        state.land(dir, id);
        state.outage = None;
        state.last_success = Some(new.listed_at());
        let mut recovered = false;
        let mut invalid = false;
        if let Some(control) = state.controls.get_mut(dir) {
            recovered = control.failure.take().is_some();
            control.invalidated = control.invalidated.filter(|at| *at > started);
            control.blamed = None;
            invalid = control.invalidated.is_some();
            if !invalid {
                state.controls.remove(dir);
            }
        }
        if invalid {
            let wrong = new.dated(Some(Instant::now()), None);
            self.remember(dir, &Arc::new(wrong));
        } else {
            self.remember(dir, new);
        }
        // A directory that was not there a moment ago may be there now.
        for (path, control) in &mut state.controls {
            if control
                .failure
                .as_ref()
                .is_some_and(|failure| failure.error.kind() == ErrorKind::NotFound)
                && path.parent().as_ref() == Some(dir)
            {
                control.failure = None;
            }
        }
        if news || recovered {
            self.changes.fetch_add(1, Ordering::Release);
        }
    }

    /// A listing failed, and not because the directory is not there.
    fn failed(
        &self,
        dir: &RelPath,
        id: u64,
        base: Option<Arc<Directory>>,
        error: Error,
    ) -> Result<Arc<Directory>> {
        let now = Instant::now();
        let mut state = self.state();
        state.land(dir, id);
        state.last_error = Some((Timestamp::now(), error.clone()));
        let known = self.recall(dir).or(base);
        // The parent may have been listed in the meantime, without this directory.
        let known = known.filter(|_| !self.is_unlisted(dir));
        if known.is_none() && error.kind() == ErrorKind::Unreachable {
            state.outage = Some((now, error.clone()));
        }
        let control = state.controls.entry(dir.clone()).or_default();
        let pause = match &known {
            None => ERROR_MEMORY,
            Some(_) => control
                .failure
                .as_ref()
                .filter(|failure| !failure.blind)
                .map_or(BACKOFF_MIN, |failure| failure.pause * 2)
                .max(error.retry_after().unwrap_or_default())
                .min(BACKOFF_MAX),
        };
        let retry_at = now + pause;
        control.failure = Some(Failure {
            error: error.clone(),
            retry_at,
            pause,
            blind: known.is_none(),
        });
        let Some(known) = known else {
            self.unremember(dir);
            return Err(error);
        };
        bump(&self.counters.stale_served);
        tracing::debug!(source = self.source.identity(), %dir, %error, "serving the listing known before");
        let known = Arc::new(known.dated(Some(retry_at), Some(error)));
        self.remember(dir, &known);
        Ok(known)
    }

    /// Returns whether the parent's listing in memory is trusted and has no such directory.
    fn is_unlisted(&self, dir: &RelPath) -> bool {
        let (Some(parent), Some(name)) = (dir.parent(), dir.file_name()) else {
            return false;
        };
        self.peek(&parent).is_some_and(|parent| {
            parent.stale().is_none()
                && parent
                    .get(name.as_str())
                    .is_none_or(|entry| entry.kind != Kind::Dir)
        })
    }

    /// The source clearly says that the directory is not there.
    /// Returns the writes for which there is no room yet.
    fn gone(&self, dir: &RelPath, id: u64, base: Option<Arc<Directory>>, error: &Error) -> Vec<Op> {
        let mut waiting = Vec::new();
        let now = Instant::now();
        let known = self.recall(dir).or(base);
        let parent = dir.parent();
        let blame = {
            let mut state = self.state();
            state.land(dir, id);
            self.unremember(dir);
            let control = state.controls.entry(dir.clone()).or_default();
            control.failure = Some(Failure::blind(error.clone(), now));
            control.invalidated = None;
            // A parent that was listed no longer ago than a reader would wait has just named it:
            // its source contradicts itself, and asking again would not end.
            let parent_is_new = parent
                .as_ref()
                .and_then(|parent| self.recall(parent))
                .is_some_and(|parent| {
                    let age = Timestamp::now().0.saturating_sub(parent.listed_at().0);
                    u128::try_from(age).is_ok_and(|age| age < self.policy.patience.as_nanos())
                });
            let blame = !parent_is_new && control.blamed.is_none_or(|at| at + BLAME_EVERY < now);
            if blame {
                control.blamed = Some(now);
            }
            blame
        };
        if known.is_some() || blame {
            self.changes.fetch_add(1, Ordering::Release);
        }
        if let Some(known) = known {
            if let (Some(parent), Some(name)) = (&parent, dir.file_name()) {
                waiting = self.forget_below(parent, std::slice::from_ref(&name));
                self.tell(parent, &[name]);
            }
            let names: Vec<Name> = known.entries().map(|e| e.name.clone()).collect();
            self.tell(dir, &names);
        }
        if let Some(parent) = parent.filter(|_| blame) {
            self.invalidate(&parent);
        }
        waiting
    }

    /// The source hesitates: returns what is known, if flight `id` is still under way.
    fn overdue(&self, dir: &RelPath, id: u64) -> Option<Arc<Directory>> {
        let state = self.state();
        let flight = state.controls.get(dir)?.flight.as_ref()?;
        if flight.id != id {
            return None;
        }
        let known = self.recall(dir).or_else(|| flight.base.clone())?;
        bump(&self.counters.stale_served);
        let waited = self.policy.patience;
        let error = known.stale().cloned().unwrap_or_else(|| {
            Error::new(
                ErrorKind::Timeout,
                format!("the source has not listed {dir} within {waited:?}"),
            )
        });
        let again = Instant::now() + ERROR_MEMORY;
        let known = Arc::new(known.dated(Some(again), Some(error)));
        self.remember(dir, &known);
        Some(known)
    }

    /// Makes sure that this process lists `dir` again before it next serves it.
    pub(super) fn invalidate_here(&self, dir: &RelPath) {
        let now = Instant::now();
        let mut state = self.state();
        state.controls.entry(dir.clone()).or_default().invalidated = Some(now);
        if let Some(known) = self.recall(dir) {
            let wrong = known.dated(Some(now), known.stale().cloned());
            self.remember(dir, &Arc::new(wrong));
        }
    }

    /// Makes sure that `dir` is listed again before it is next served, by a later mount too.
    pub(super) fn invalidate(&self, dir: &RelPath) {
        self.invalidate_here(dir);
        if let Some(source) = self.row {
            self.db.try_write(Op::Invalidate {
                source,
                path: dir.clone(),
                recursive: false,
                at: Timestamp::now(),
            });
        }
    }

    /// Asks again for `dir`, and if `recursive` for all below it, even if that has just failed.
    pub(super) fn forgive(&self, dir: &RelPath, recursive: bool) {
        let mut state = self.state();
        state.outage = None;
        let mut forgiven = false;
        for (path, control) in &mut state.controls {
            if path == dir || (recursive && path.strip_prefix(dir).is_some()) {
                forgiven |= control.failure.take().is_some();
            }
        }
        if forgiven {
            self.changes.fetch_add(1, Ordering::Release);
        }
    }

    /// Returns the error that is repeated for `dir` at present, if nothing else is known of it.
    pub(super) fn failing(&self, dir: &RelPath) -> Option<Error> {
        let state = self.state();
        let failure = state.controls.get(dir)?.failure.as_ref()?;
        (failure.blind && Instant::now() < failure.retry_at).then(|| failure.error.clone())
    }

    /// Forgets the directories `names` of `dir` and all below them. Returns the writes for which
    /// there is no room yet.
    fn forget_below(&self, dir: &RelPath, names: &[Name]) -> Vec<Op> {
        if names.is_empty() {
            return Vec::new();
        }
        let roots: std::collections::HashSet<RelPath> =
            names.iter().map(|name| dir.join(name)).collect();
        let is_below = |path: &RelPath| {
            let mut at = Some(path.clone());
            while let Some(path) = at {
                if roots.contains(&path) {
                    return true;
                }
                at = path.parent();
            }
            false
        };
        let known: Vec<RelPath> = self
            .remembered()
            .map(|(path, _)| path)
            .filter(is_below)
            .collect();
        for path in known {
            self.unremember(&path);
        }
        let Some(source) = self.row else {
            return Vec::new();
        };
        roots
            .into_iter()
            .filter_map(|path| self.db.offer(Op::Forget { source, path }).err())
            .collect()
    }
}

impl Landed {
    fn unchanged(dir: Arc<Directory>) -> Landed {
        Landed {
            dir,
            delta: Delta::default(),
        }
    }
}

impl State {
    /// Ends flight `id`.
    fn land(&mut self, dir: &RelPath, id: u64) {
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

async fn compare(
    base: Arc<Directory>,
    listing: Arc<Listing>,
    listed_at: Timestamp,
    trusted: Option<Instant>,
) -> (Directory, Changes) {
    if base.len() + listing.entries.len() < OFFLOAD {
        return base.relist(&listing, listed_at, trusted);
    }
    let (old, new) = (base.clone(), listing.clone());
    match tokio::task::spawn_blocking(move || old.relist(&new, listed_at, trusted)).await {
        Ok(compared) => compared,
        // Only when the runtime shuts down.
        Err(_) => base.relist(&listing, listed_at, trusted),
    }
}
