//! Listing ahead of somebody who walks the tree (see `walk`): from SQLite, or from a source that
//! lists many directories at once ([`Recursive`](crate::source::Recursive)).
//!
//! What is listed ahead is as if it had been listed when its page was asked for: it lands as any
//! listing does, is compared with what was known, told and stored. It never replaces what was listed
//! later, waits for no reader's own request and no reader waits for it. Errors end it and are
//! nobody's.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use super::directory::Directory;
use super::flight::{Answer, Flight};
use super::walk::Go;
use super::{Catalogue, bump, lock};
use crate::entry::{Kind, Timestamp};
use crate::path::RelPath;
use crate::source::sweep::{self, Sweep, Swept};
use crate::source::{ErrorKind, Result};

/// How many directories may be passed over from one step of a walk to the next: what a filter hides
/// or another reader takes.
const NEAR: usize = 3;

/// Entries that are looked through for the next directories, at most.
const LOOK: usize = 256;

/// Directories that are loaded from SQLite at once, at most.
const LOAD: usize = 128;

/// Where listings are trusted for less than this, none is made ahead.
const WORTH: Duration = Duration::from_secs(1);

/// How long nothing is listed ahead after an error.
const REST: Duration = Duration::from_secs(5);

impl Catalogue {
    /// Takes note that a reader opened `dir`, which is `known`: whoever walks the tree finds what
    /// comes next listed. Never waits.
    pub fn opened(
        self: &Arc<Self>,
        dir: &RelPath,
        known: &Directory,
        runtime: &tokio::runtime::Handle,
    ) {
        // A source that changes as one lists from what it has here.
        let is_whole = self.source.whole().is_some();
        if is_whole || self.policy.refresh.is_some_and(|refresh| refresh < WORTH) {
            return;
        }
        let now = Instant::now();
        let is_near = |parent: &RelPath, from: &str, to: &str| {
            let known = self.recall(parent);
            known.is_some_and(|known| next_dirs(&known, from, NEAR).any(|name| name == to))
        };
        let Some(mut go) = lock(&self.walks).opened(dir, now, is_near) else {
            return;
        };
        // It may have climbed out of what was swept.
        go.sweep = go
            .sweep
            .filter(|sweep| place(sweep.root(), &go.at, false).is_some());
        let goes_on = go.leads && go.sweep.is_some();
        if !goes_on && !self.lacks_next(&go, known, now) {
            lock(&self.walks).pause(go.id, None);
            return;
        }
        let sums = known.sums();
        let is_leaf = known.len() as u64 == sums.files + sums.links;
        runtime.spawn(self.clone().go_ahead(go, is_leaf));
    }

    /// Returns whether the directory that comes next in a walk must be asked for.
    fn lacks_next(&self, go: &Go, known: &Directory, now: Instant) -> bool {
        let (mut at, mut next) = (go.at.clone(), next_dirs(known, "", 1).next());
        loop {
            if let Some(name) = next {
                let Ok(name) = crate::path::Name::new(&name) else {
                    return false;
                };
                return self
                    .recall(&at.join(&name))
                    .is_none_or(|dir| !dir.is_fresh(now));
            }
            let (Some(parent), Some(name)) = (at.parent(), at.file_name()) else {
                return false;
            };
            if parent.strip_prefix(&go.root).is_none() {
                return false;
            }
            let Some(listing) = self.recall(&parent) else {
                return false;
            };
            next = next_dirs(&listing, name.as_str(), 1).next();
            at = parent;
        }
    }

    async fn go_ahead(self: Arc<Self>, go: Go, is_leaf: bool) {
        let Go {
            id,
            root,
            at,
            most,
            mut sweep,
            ..
        } = go;
        if sweep.is_none() {
            let found = self.load_ahead(id, &root, &at, most.min(LOAD)).await;
            if found || self.source.recursive().is_none() {
                return lock(&self.walks).pause(id, None);
            }
            let Some(start) = place(&root, &at, is_leaf) else {
                return lock(&self.walks).pause(id, None);
            };
            let room = self.policy.memory.room.clone();
            sweep = Some(Box::new(Sweep::new(root, start, room)));
        }
        let Some(mut sweep) = sweep else { return };
        if let Some(start) = place(sweep.root(), &at, false) {
            sweep.skip_to(&start);
        }
        loop {
            let swept = match self.sweep(&mut sweep).await {
                Ok(swept) => swept,
                Err(error) => {
                    tracing::debug!(source = self.source.identity(), %error, "listing ahead ends");
                    // What lies once lies again.
                    let lies = error.kind() == ErrorKind::Lied;
                    let mut walks = lock(&self.walks);
                    walks.rest((!lies).then(|| Instant::now() + REST));
                    return walks.pause(id, None);
                }
            };
            let seen = swept.len();
            let landed = self.land_all(id, swept).await;
            // All is known already: somebody walked here.
            let known = seen > 0 && landed == 0;
            let mut walks = lock(&self.walks);
            let more = walks.brought(id, landed);
            if known || sweep.next().is_none() {
                return walks.pause(id, None);
            }
            let Some(at) = more else {
                return walks.pause(id, Some(sweep));
            };
            drop(walks);
            match place(sweep.root(), &at, false) {
                Some(start) => sweep.skip_to(&start),
                None => return lock(&self.walks).pause(id, None),
            }
        }
    }

    async fn sweep(&self, sweep: &mut Sweep) -> Result<Vec<Swept>> {
        let (Some(recursive), Some(from)) = (self.source.recursive(), sweep.next()) else {
            return Ok(Vec::new());
        };
        let asked = (Instant::now(), Timestamp::now());
        let keys = recursive.keys(sweep.root(), from).await?;
        sweep.take(keys, asked)
    }

    /// Lands directories for a walk; returns how many of them nobody had listed meanwhile.
    async fn land_all(self: &Arc<Self>, walk: u64, swept: Vec<Swept>) -> usize {
        let paths: Vec<RelPath> = swept
            .iter()
            .map(|swept| swept.path.clone())
            .filter(|path| self.recall(path).is_none())
            .collect();
        let mut stored = self.stored(paths).await.into_iter().peekable();
        let mut landed = 0;
        for swept in swept {
            let base = stored.next_if(|(path, _)| *path == swept.path);
            let base = base.map(|(_, dir)| Arc::new(dir));
            landed += usize::from(self.land(walk, swept, base).await);
        }
        landed
    }

    /// Returns what SQLite knows of directories, in their order, whether or not it is to be relied
    /// on.
    async fn stored(self: &Arc<Self>, paths: Vec<RelPath>) -> Vec<(RelPath, Directory)> {
        let Some(row) = self.row.filter(|_| !paths.is_empty()) else {
            return Vec::new();
        };
        let this = self.clone();
        let load = tokio::task::spawn_blocking(move || {
            let stored = this.db.load_all(row, paths, &this.policy.memory.room);
            stored.into_iter().map(|(path, s)| (path, s.dir)).collect()
        });
        load.await.unwrap_or_default()
    }

    /// Lands a directory as if it had been listed alone when its page was asked for. Returns whether
    /// nothing newer was known or under way.
    async fn land(self: &Arc<Self>, walk: u64, swept: Swept, base: Option<Arc<Directory>>) -> bool {
        let Swept {
            path,
            listing,
            asked: (started, listed_at),
        } = swept;
        let (sender, answer) = Answer::new();
        let id = {
            let mut state = self.state();
            let state = &mut *state;
            let busy = state
                .controls
                .get(&path)
                .is_some_and(|c| c.flight.is_some() || c.failure.is_some());
            let known = self.recall(&path);
            let newer = known.is_some_and(|known| known.listed_at() >= listed_at);
            let outdated = state.refreshed.is_some_and(|at| at >= started);
            if busy || newer || outdated || self.is_unlisted(&path) {
                return false;
            }
            state.flights += 1;
            let control = state.controls.entry(path.clone()).or_default();
            control.flight = Some(Flight::new(state.flights, started, base.clone(), answer));
            state.flights
        };
        bump(&self.counters.listings);
        bump(&self.counters.ahead);
        // Before anybody can open it.
        lock(&self.walks).expect(walk, path.clone());
        self.arrived(&path, id, started, listed_at, base, listing, &sender)
            .await;
        true
    }

    /// Brings up to `most` directories below `root` and behind `at` from SQLite into memory, where
    /// they may be served as they are. Returns whether there were any.
    async fn load_ahead(
        self: &Arc<Self>,
        walk: u64,
        root: &RelPath,
        at: &RelPath,
        most: usize,
    ) -> bool {
        let Some(row) = self.row else {
            return false;
        };
        let (this, root, at) = (self.clone(), root.clone(), at.clone());
        let load = tokio::task::spawn_blocking(move || {
            let paths = this.db.known_behind(row, &root, &at, most);
            let stored = this.db.load_all(row, paths, &this.policy.memory.room);
            let mut loaded = false;
            for (path, stored) in stored {
                let now = Instant::now();
                let left = this.left_of(stored.dir.listed_at());
                let usable = stored.invalid_at.is_none() && left.is_none_or(|left| !left.is_zero());
                let state = this.state();
                let idle = !state.controls.contains_key(&path);
                if usable && idle && this.recall(&path).is_none() {
                    let dir = stored.dir.dated(left.map(|left| now + left), None);
                    lock(&this.walks).expect(walk, path.clone());
                    this.remember(&path, &Arc::new(dir));
                    this.counters.loaded.fetch_add(1, Ordering::Relaxed);
                    loaded = true;
                }
            }
            loaded
        });
        load.await.unwrap_or_default()
    }
}

/// Returns the names of the first `most` directories behind `from` that are found soon.
fn next_dirs(dir: &Directory, from: &str, most: usize) -> impl Iterator<Item = String> {
    let start = match dir.position(from) {
        Ok(Ok(at)) => at + 1,
        Ok(Err(at)) => at,
        Err(_) => dir.len(),
    };
    dir.entries_from(start)
        .take(LOOK)
        .map_while(|entry| entry.ok())
        .filter(|entry| entry.kind == Kind::Dir)
        .take(most)
        .map(|entry| entry.name.to_string())
        .collect::<Vec<_>>()
        .into_iter()
}

/// Returns the place behind the files of directory `at`, or, if nothing but files is in it, behind
/// all of it; relative to `root`, and nothing if it is not below that.
fn place(root: &RelPath, at: &RelPath, is_leaf: bool) -> Option<String> {
    let below = at.strip_prefix(root).filter(|below| !below.is_root())?;
    Some(match is_leaf {
        true => sweep::behind(below.as_str()),
        false => format!("{}/", below.as_str()),
    })
}

#[cfg(test)]
mod tests;
