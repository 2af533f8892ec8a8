//! Asking again: on demand, or because what is known was found wrong.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Instant;

use futures::StreamExt;

use super::db::Op;
use super::{Catalogue, FOREVER};
use crate::entry::Timestamp;
use crate::path::RelPath;
use crate::source::{Error, ErrorKind};

/// Directories asked for at once.
const PARALLEL: usize = 16;

/// Errors that a report holds in full; the rest is counted.
const ERRORS: usize = 16;

/// What a refresh found.
#[derive(Debug, Clone, Default)]
pub struct RefreshReport {
    /// Directories that the source listed again.
    pub listed: u64,
    /// Directories that are known but not in memory: they are listed again when next used.
    pub deferred: u64,
    /// Entries that are new.
    pub added: u64,
    /// Entries whose content or kind is another.
    pub changed: u64,
    /// Entries that are no more; a directory that is gone counts as one.
    pub removed: u64,
    /// Directories that could not be listed.
    pub failed: u64,
    /// The first of their errors.
    pub errors: Vec<(RelPath, Error)>,
}

impl RefreshReport {
    /// Adds what another refresh found.
    pub fn merge(&mut self, other: RefreshReport) {
        self.listed += other.listed;
        self.deferred += other.deferred;
        self.added += other.added;
        self.changed += other.changed;
        self.removed += other.removed;
        self.failed += other.failed;
        let room = ERRORS.saturating_sub(self.errors.len());
        self.errors.extend(other.errors.into_iter().take(room));
    }

    fn fail(&mut self, dir: RelPath, error: Error) {
        self.failed += 1;
        if self.errors.len() < ERRORS {
            self.errors.push((dir, error));
        }
    }
}

impl Catalogue {
    /// Lists `dir` again, and if `recursive` all directories below it that are in memory; those
    /// that are only in SQLite are marked, and listed before they are next served.
    ///
    /// What changed is told to the listeners before this returns. A source that cannot be reached
    /// keeps what was known, and is in the report.
    pub async fn refresh(self: &Arc<Self>, dir: &RelPath, recursive: bool) -> RefreshReport {
        let mut report = RefreshReport::default();
        // What is listed ahead lands no more if it was asked for before.
        self.state().refreshed = Some(Instant::now());
        super::lock(&self.walks).clear();
        let mut dirs = vec![dir.clone()];
        dirs.extend(self.look_again().await);
        if recursive {
            dirs.extend(
                self.remembered()
                    .map(|(path, _)| path)
                    .filter(|path| path != dir && path.strip_prefix(dir).is_some()),
            );
        }
        // Parents first: what is below a directory that is gone need not be asked for.
        dirs.sort_unstable();
        dirs.dedup();
        for dir in &dirs {
            self.invalidate_here(dir);
        }
        self.forgive(dir, recursive);
        if let Some(source) = self.row {
            let marked = self
                .db
                .write_and_wait(Op::Invalidate {
                    source,
                    path: dir.clone(),
                    recursive,
                    at: Timestamp::now(),
                })
                .await;
            report.deferred = marked.saturating_sub(dirs.len() as u64);
        }
        let mut answers = futures::stream::iter(dirs.into_iter().map(|dir| {
            let this = self.clone();
            async move {
                let answer = this.fly_for(&dir).await;
                (dir, answer)
            }
        }))
        .buffer_unordered(PARALLEL);
        while let Some((dir, answer)) = answers.next().await {
            match answer {
                Ok(landed) => match landed.dir.stale() {
                    Some(error) => report.fail(dir, error.clone()),
                    None => {
                        report.listed += 1;
                        report.added += landed.delta.added;
                        report.changed += landed.delta.changed;
                        report.removed += landed.delta.removed;
                    }
                },
                // Its parent counts it if it is listed too.
                Err(error) if error.kind() == ErrorKind::NotFound && recursive => {}
                Err(error) => report.fail(dir, error),
            }
        }
        report
    }

    /// Lists again what is in memory and due, for the listeners: as if somebody had looked.
    pub async fn revalidate_due(self: &Arc<Self>) {
        if let Some(whole) = self.source.whole() {
            // What a move makes wrong is listed again by itself. A failure shows where somebody
            // looks.
            let _ = self.look(whole, FOREVER).await;
            return;
        }
        let now = Instant::now();
        let due = { self.remembered() }.filter(|(_, known)| !known.is_fresh(now));
        self.list_again(due.map(|(path, _)| path).collect()).await;
    }

    /// Lists directories again, for the listeners: nobody waits for them.
    pub(super) async fn list_again(self: &Arc<Self>, dirs: Vec<RelPath>) {
        futures::stream::iter(dirs)
            .for_each_concurrent(PARALLEL, |dir| async move {
                // What fails is asked for again by its next reader.
                let _ = self.fly_for(&dir).await;
            })
            .await;
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
        self.doubt();
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
}
