//! Recognising that somebody walks a tree, and how far ahead of them to list. Pure: it decides,
//! others ask.
//!
//! A walk opens directories in the order of names, depth first: down into one of the first
//! directories of where it is, or on to one of the next ones beside it or above. Its *run* is how
//! many it has opened so; that is the proof, and at most twice as many directories are listed ahead
//! of it. Directories opened here and there prove nothing. Listing in vain makes the next proof
//! longer.

use std::collections::HashSet;
use std::time::{Duration, Instant};

use crate::path::RelPath;
use crate::source::sweep::Sweep;

/// Directories opened in a row that are a walk: a parent and two of its children.
const PROOF: u64 = 3;

/// The longest proof that is asked for after many lists in vain.
const LONGEST_PROOF: u64 = 96;

/// Directories that are listed ahead at most.
const AHEAD: usize = 2048;

/// Pages at most that brought no directory since the reader used one.
const BARREN: u64 = 16;

/// Walks that are known at once; the one that stood still longest is forgotten for another.
const WALKS: usize = 4;

/// How long a walk may stand still.
const PAUSE: Duration = Duration::from_secs(20);

/// Those who walk a source's tree now.
#[derive(Debug)]
pub(super) struct Walks {
    walks: Vec<Walk>,
    /// The proof asked for now.
    proof: u64,
    next_id: u64,
    /// Not before this is anything listed ahead; nothing: never again.
    rest: Option<Instant>,
    used: u64,
    wasted: u64,
}

/// One walk.
#[derive(Debug)]
struct Walk {
    id: u64,
    /// All that it opened is this or below it.
    root: RelPath,
    at: RelPath,
    run: u64,
    /// Whether it went from one directory to the next beside it.
    sideways: bool,
    touched: Instant,
    /// Listed ahead and not opened yet.
    waiting: HashSet<RelPath>,
    used: u64,
    barren: u64,
    task: Task,
}

/// What is done for a walk.
#[derive(Debug)]
enum Task {
    Nothing,
    UnderWay,
    /// Enough for now.
    Paused(Box<Sweep>),
}

/// A walk that may be helped.
#[derive(Debug)]
pub(super) struct Go {
    pub(super) id: u64,
    /// Below which it is.
    pub(super) root: RelPath,
    /// Where it is.
    pub(super) at: RelPath,
    /// How many directories may be brought.
    pub(super) most: usize,
    /// Whether something is listed already that it has not come to.
    pub(super) leads: bool,
    /// What goes on.
    pub(super) sweep: Option<Box<Sweep>>,
}

impl Default for Walks {
    fn default() -> Walks {
        Walks {
            walks: Vec::new(),
            proof: PROOF,
            next_id: 1,
            rest: Some(Instant::now()),
            used: 0,
            wasted: 0,
        }
    }
}

impl Walks {
    /// Takes note that `dir` was opened. Returns a walk for which more may be listed now; it is under
    /// way from then on.
    ///
    /// `is_near` tells whether the last of three, a name in the first, a directory, is among the next
    /// few directories behind the second, a name or the beginning.
    pub(super) fn opened(
        &mut self,
        dir: &RelPath,
        now: Instant,
        is_near: impl Fn(&RelPath, &str, &str) -> bool,
    ) -> Option<Go> {
        for walk in &mut self.walks {
            if walk.waiting.remove(dir) {
                walk.used += 1;
                walk.barren = 0;
                self.used += 1;
            }
        }
        let index = self.walks.iter().position(|walk| walk.at == *dir);
        let index = index.or_else(|| {
            self.walks
                .iter_mut()
                .position(|walk| walk.step(dir, &is_near))
        });
        let Some(index) = index else {
            self.begin(dir, now);
            return None;
        };
        // The one that moved last is looked at first.
        let mut walk = self.walks.remove(index);
        walk.touched = now;
        self.walks.insert(0, walk);
        if self.rest.is_none_or(|rest| now < rest) {
            return None;
        }
        let walk = &mut self.walks[0];
        if walk.run < self.proof || !walk.sideways || !walk.has_room() {
            return None;
        }
        let sweep = match std::mem::replace(&mut walk.task, Task::UnderWay) {
            Task::UnderWay => return None,
            Task::Nothing => None,
            Task::Paused(sweep) => Some(sweep),
        };
        Some(Go {
            id: walk.id,
            root: walk.root.clone(),
            at: walk.at.clone(),
            most: walk.room(),
            leads: !walk.waiting.is_empty(),
            sweep,
        })
    }

    /// Takes note that `dir` is about to be known.
    pub(super) fn expect(&mut self, id: u64, dir: RelPath) {
        if let Some(walk) = self.walks.iter_mut().find(|walk| walk.id == id) {
            walk.waiting.insert(dir);
        }
    }

    /// Takes note of what a page brought, and returns where the walk is if more may be listed.
    pub(super) fn brought(&mut self, id: u64, dirs: usize) -> Option<RelPath> {
        let walk = self.walks.iter_mut().find(|walk| walk.id == id)?;
        walk.barren = if dirs == 0 { walk.barren + 1 } else { 0 };
        walk.has_room().then(|| walk.at.clone())
    }

    /// Ends what is under way, for now or for good.
    pub(super) fn pause(&mut self, id: u64, sweep: Option<Box<Sweep>>) {
        if let Some(walk) = self.walks.iter_mut().find(|walk| walk.id == id) {
            walk.task = sweep.map_or(Task::Nothing, Task::Paused);
        }
    }

    /// Lists nothing ahead before `until`; nothing: never again.
    pub(super) fn rest(&mut self, until: Option<Instant>) {
        self.rest = self.rest.and(until);
    }

    /// Forgets what goes on, as all is to be asked again.
    pub(super) fn clear(&mut self) {
        for walk in &mut self.walks {
            walk.waiting.clear();
            if !matches!(walk.task, Task::UnderWay) {
                walk.task = Task::Nothing;
            }
        }
    }

    /// Returns whether anything is under way.
    #[cfg(test)]
    pub(super) fn is_busy(&self) -> bool {
        let mut tasks = self.walks.iter().map(|walk| &walk.task);
        tasks.any(|task| matches!(task, Task::UnderWay))
    }

    /// Returns how many directories were listed ahead and then opened, and how many in vain.
    pub(super) fn counts(&self) -> (u64, u64) {
        (self.used, self.wasted)
    }

    fn begin(&mut self, dir: &RelPath, now: Instant) {
        let old = |walk: &Walk| now.saturating_duration_since(walk.touched) > PAUSE;
        while let Some(index) = self.walks.iter().position(old) {
            self.end(index);
        }
        if self.walks.len() >= WALKS {
            // One that was never a walk goes first.
            let index = self.walks.iter().rposition(|walk| !walk.sideways);
            self.end(index.unwrap_or(self.walks.len() - 1));
        }
        let id = self.next_id;
        self.next_id += 1;
        let walk = Walk {
            id,
            root: dir.clone(),
            at: dir.clone(),
            run: 1,
            sideways: false,
            touched: now,
            waiting: HashSet::new(),
            used: 0,
            barren: 0,
            task: Task::Nothing,
        };
        self.walks.insert(0, walk);
    }

    fn end(&mut self, index: usize) {
        let walk = self.walks.remove(index);
        let wasted = walk.waiting.len() as u64;
        self.wasted += wasted;
        if wasted > walk.used {
            self.proof = (self.proof * 2).min(LONGEST_PROOF);
        } else if walk.used > 0 {
            self.proof = (self.proof / 2).max(PROOF);
        }
    }
}

impl Walk {
    /// Goes to `dir`, if it is a step of this walk.
    fn step(&mut self, dir: &RelPath, is_near: impl Fn(&RelPath, &str, &str) -> bool) -> bool {
        let (Some(parent), Some(name)) = (dir.parent(), dir.file_name()) else {
            return false;
        };
        let Some(below) = self.at.strip_prefix(&parent) else {
            return false;
        };
        let from = below.components().next();
        let from = from.as_ref().map_or("", |name| name.as_str());
        let name = name.as_str();
        if from > name {
            // Several walk together: one that comes a little later.
            let late = is_near(&parent, name, from);
            self.run += u64::from(late);
            return late;
        }
        if !is_near(&parent, from, name) {
            return false;
        }
        self.run += 1;
        self.sideways |= !from.is_empty();
        self.at = dir.clone();
        if self.root.strip_prefix(&parent).is_some() {
            self.root = parent;
        }
        true
    }

    /// Returns how many more directories may be listed ahead.
    fn room(&self) -> usize {
        let most = usize::try_from(2 * self.run).unwrap_or(AHEAD).min(AHEAD);
        most.saturating_sub(self.waiting.len())
    }

    fn has_room(&self) -> bool {
        self.room() > 0 && self.barren < (2 * self.run).min(BARREN)
    }
}
