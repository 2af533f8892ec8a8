//! What a flight brings, and what becomes of what was known before.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Instant;

use tokio::sync::watch;

use super::db::Op;
use super::directory::{Changes, Directory, TOLD};
use super::flight::{BLAME_EVERY, Delta, Failure, Landed};
use super::{BACKOFF_MAX, BACKOFF_MIN, Catalogue, ERROR_MEMORY, State, bump};
use crate::entry::{Kind, Timestamp};
use crate::path::{Name, RelPath};
use crate::rows::Lost;
use crate::source::{Error, ErrorKind, PackedListing, Result};

/// Entries from which comparing two listings is not done on a worker of the runtime: some
/// milliseconds.
pub(super) const OFFLOAD: usize = 10_000;

impl Catalogue {
    #[allow(clippy::too_many_arguments, reason = "all of one flight")]
    pub(super) async fn arrived(
        self: &Arc<Self>,
        dir: &RelPath,
        id: u64,
        started: Instant,
        listed_at: Timestamp,
        base: Option<Arc<Directory>>,
        listing: PackedListing,
        sender: &watch::Sender<Option<Result<Landed>>>,
    ) {
        let generation = self.generation_trust();
        let (trusted, behind) = generation.unwrap_or_else(|| (self.trusted_until(started), None));
        let behind = behind.as_ref();
        let is_whole = self.source.whole().is_some();
        let mut base = self.recall(dir).or(base);
        let (new, changes, base) = match base.take() {
            None => {
                let new = Directory::first(listing, listed_at, trusted);
                let new = Arc::new(new.behind(behind));
                self.commit(dir, id, started, &new, false);
                (new, Changes::default(), None)
            }
            Some(mut base) => {
                let listing = Arc::new(listing);
                loop {
                    let (new, changes) =
                        match compare(base.clone(), listing.clone(), listed_at, trusted, is_whole)
                            .await
                        {
                            Ok(compared) => compared,
                            Err(lost) => {
                                // What was known cannot be read back: begin anew, and write all.
                                tracing::warn!(%dir, %lost, "a listing is taken as new");
                                let new = PackedListing::clone(&listing);
                                let new = Directory::first(new, listed_at, trusted);
                                let new = Arc::new(new.behind(behind));
                                self.commit(dir, id, started, &new, true);
                                break (new, Changes::default(), None);
                            }
                        };
                    let new = Arc::new(new.behind(behind));
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

        let mut waiting = self.forget_below(dir, &changes.gone_dirs.list);
        self.log_hidden(dir, base.as_deref(), &new);
        let names = changes.names();
        self.tell(dir, &names);
        let delta = Delta {
            added: match base {
                Some(_) => changes.added.count,
                None => new.len() as u64,
            },
            changed: changes.changed.count,
            removed: changes.removed.count,
        };
        let store = self.row.map(|source| {
            // More than can be named: all rows are written.
            let base = base.filter(|_| changes.is_complete());
            let mut touched = changes.added.list;
            touched.extend(changes.changed.list);
            touched.extend(changes.quiet.list);
            Op::Store {
                source,
                path: dir.clone(),
                dir: new.clone(),
                base: base.map(|base| base.generation()),
                touched,
                removed: changes.removed.list,
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
    pub(super) fn failed(
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
    pub(super) fn is_unlisted(&self, dir: &RelPath) -> bool {
        let (Some(parent), Some(name)) = (dir.parent(), dir.file_name()) else {
            return false;
        };
        self.peek(&parent).is_some_and(|parent| {
            parent.stale().is_none()
                && parent
                    .get(name.as_str())
                    .is_ok_and(|entry| entry.is_none_or(|entry| entry.kind != Kind::Dir))
        })
    }

    /// The source clearly says that the directory is not there.
    /// Returns the writes for which there is no room yet.
    pub(super) fn gone(
        &self,
        dir: &RelPath,
        id: u64,
        base: Option<Arc<Directory>>,
        error: &Error,
    ) -> Vec<Op> {
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
            let names = known.entries().take(TOLD).map_while(|entry| entry.ok());
            let names: Vec<Name> = names.map(|entry| entry.name).collect();
            self.tell(dir, &names);
        }
        if let Some(parent) = parent.filter(|_| blame) {
            self.invalidate(&parent);
        }
        waiting
    }

    /// The source hesitates: returns what is known, if flight `id` is still under way.
    pub(super) fn overdue(&self, dir: &RelPath, id: u64) -> Option<Arc<Directory>> {
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
async fn compare(
    base: Arc<Directory>,
    listing: Arc<PackedListing>,
    listed_at: Timestamp,
    trusted: Option<Instant>,
    is_whole: bool,
) -> std::result::Result<(Directory, Changes), Lost> {
    if base.len() + listing.rows.len() < OFFLOAD {
        return base.relist(&listing, listed_at, trusted, is_whole);
    }
    let (old, new) = (base.clone(), listing.clone());
    match tokio::task::spawn_blocking(move || old.relist(&new, listed_at, trusted, is_whole)).await
    {
        Ok(compared) => compared,
        // Only when the runtime shuts down.
        Err(_) => base.relist(&listing, listed_at, trusted, is_whole),
    }
}
