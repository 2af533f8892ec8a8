//! Fetching files ahead of whoever reads the files of directories one after the other.
//!
//! [`Run`] decides how much; this finds which files come next, by the listings that are in memory,
//! and keeps what was asked for until somebody opens it. Only files that had to be fetched drive it
//! (what is cached costs nothing here), and only what an open would fetch without asking for its
//! version first is fetched. Failures are nobody's: whoever opens the file asks again.
//!
//! Lock order: `state`, then those of objects and their flights. No listing is looked at under it.

use std::collections::{HashMap, VecDeque};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use svol_cache::ObjectKey;
use tokio::time::Instant;

use super::node::dir_ino;
use super::opener::Opener;
use crate::entry::Entry;
use crate::fetch::siblings::{Room, Run};
use crate::fetch::{Ahead as Came, Remote, Turns};
use crate::path::RelPath;

mod search;
#[cfg(test)]
mod tests;

use search::{Candidate, Cursor, is_next, position};

/// Runs that are followed at once: more than programs walk one volume at the same time.
const RUNS: usize = 8;

/// How long after its last file a run may still go on.
const LIFE: Duration = Duration::from_secs(10);

/// How long something that was fetched ahead waits for its reader.
const KEEP: Duration = Duration::from_secs(20);

/// The most files that wait for their readers, over all runs.
const HELD: usize = 512;

/// How many in a row that were asked for and were here already end a run until a file is missed.
const HERE: u32 = 8;

/// How often what gets old is looked after.
const SWEEP: Duration = Duration::from_secs(5);

/// A file that was asked for ahead.
type Key = (usize, ObjectKey);

/// See the module.
pub(super) struct Ahead {
    opener: Arc<Opener>,
    /// One for each layer.
    turns: Vec<Arc<Turns>>,
    /// How many runs there are: while there is none, opening a file takes no lock.
    runs: AtomicUsize,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    walks: Vec<Walk>,
    held: HashMap<Key, Held>,
    /// The keys of what is held, oldest first, each with its number; some are gone.
    order: VecDeque<(Key, u64)>,
    next: u64,
    /// Whether a task looks after what gets old.
    is_swept: bool,
}

/// A run, and where in the tree it is.
struct Walk {
    id: u64,
    run: Run,
    /// The directory that was read in last.
    dir: RelPath,
    /// Where what comes next is looked for.
    cursor: Cursor,
    /// Whether directories are read in the order of their listing, as far as is known.
    is_ordered: bool,
    /// Whether the cursor came to something that is not known.
    is_stuck: bool,
    /// Whether somebody is looking for what comes next.
    is_busy: bool,
    /// How many of the last that were asked for were here.
    here: u32,
    last: Instant,
}

/// A file that was asked for ahead and is not open yet.
struct Held {
    number: u64,
    remote: Arc<Remote>,
    mark: Mark,
    since: Instant,
}

/// Where a file that was asked for ahead belongs.
#[derive(Debug, Clone)]
struct Mark {
    walk: u64,
    layer: usize,
    dir: RelPath,
    position: usize,
    bytes: u64,
}

/// What an open file remembers of how it came: whether it was read, and fetched ahead.
#[derive(Debug, Default)]
pub(super) struct Trace {
    was_read: AtomicBool,
    mark: Option<Mark>,
}

impl Trace {
    /// Returns whether it was fetched ahead.
    pub(super) fn is_marked(&self) -> bool {
        self.mark.is_some()
    }
}

impl Ahead {
    pub(super) fn new(opener: Arc<Opener>) -> Arc<Ahead> {
        let layers = opener.policies.iter();
        let turns = layers.map(|_| Arc::new(Turns::new(&opener.fetcher)));
        Arc::new(Ahead {
            turns: turns.collect(),
            opener,
            runs: AtomicUsize::new(0),
            state: Mutex::default(),
        })
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Opens a file of a source that is fetched: what was asked for ahead, or a new one.
    pub(super) fn open(
        &self,
        layer: usize,
        path: &RelPath,
        entry: Entry,
        size: u64,
    ) -> (Arc<Remote>, Trace) {
        let key = self.opener.key(layer, path, &entry);
        if self.runs.load(Ordering::Acquire) == 0 {
            let remote = self.opener.remote(layer, path, entry, key, size);
            return (remote, Trace::default());
        }
        // Under the lock, so that it is not asked for ahead meanwhile.
        let mut state = self.state();
        match state.held.remove(&(layer, key)) {
            Some(held) if *held.remote.pinned_entry() == entry => {
                let trace = Trace {
                    was_read: AtomicBool::new(false),
                    mark: Some(held.mark),
                };
                (held.remote, trace)
            }
            other => {
                if let Some(held) = other {
                    self.waste(&mut state, &[held.mark]);
                }
                let remote = self.opener.remote(layer, path, entry, key, size);
                (remote, Trace::default())
            }
        }
    }

    /// Takes note that some of a file is read, `bytes` of it; `missed` where it has to be waited
    /// for. Only the first read of an open file counts.
    pub(super) fn on_read(
        self: &Arc<Self>,
        path: &RelPath,
        trace: &Trace,
        bytes: u64,
        missed: bool,
    ) {
        if trace.was_read.swap(true, Ordering::Relaxed) || bytes == 0 {
            return;
        }
        match &trace.mark {
            Some(mark) => self.used(mark, bytes),
            None if missed => self.missed(path, bytes),
            None => {}
        }
    }

    /// Takes note that an open file is closed.
    pub(super) fn on_close(&self, trace: &mut Trace) {
        if let Some(mark) = trace.mark.take()
            && !*trace.was_read.get_mut()
        {
            self.waste(&mut self.state(), &[mark]);
        }
    }

    /// Takes note that a directory is read, whose listing is in memory: a walk that waited for that
    /// goes on there.
    pub(super) fn on_list(self: &Arc<Self>, dir: &RelPath) {
        if self.runs.load(Ordering::Acquire) == 0 {
            return;
        }
        let mut state = self.state();
        let goes_on = |walk: &&mut Walk| {
            let is_awaited = walk.is_stuck || !walk.has_passed(dir);
            is_awaited && walk.run.is_proven() && !walk.is_over() && is_next(dir, &walk.dir)
        };
        let Some(walk) = state
            .walks
            .iter_mut()
            .filter(goes_on)
            .max_by_key(|w| w.last)
        else {
            return;
        };
        if !walk.is_stuck {
            // Some programs have an order of their own, also of directories: follow them.
            walk.is_ordered = false;
            walk.run.on_turn();
        }
        walk.move_to(dir, 0);
        self.go_on(walk);
    }

    fn used(self: &Arc<Self>, mark: &Mark, bytes: u64) {
        self.opener.counters[mark.layer].prefetched(mark.bytes, 0);
        let mut state = self.state();
        if let Some(walk) = state.walk(mark.walk) {
            walk.here = 0;
            walk.run.on_use(mark.bytes);
            walk.read(&mark.dir, mark.position, bytes);
            self.go_on(walk);
        }
    }

    fn missed(self: &Arc<Self>, path: &RelPath, bytes: u64) {
        let (Some(dir), Some(name)) = (path.parent(), path.file_name()) else {
            return;
        };
        let Some(Ok(listing)) = self.opener.namespace.peek_list(&dir) else {
            return;
        };
        let Some(position) = position(&listing, name.as_str()) else {
            return;
        };
        let ino = dir_ino(&dir);
        let mut state = self.state();
        let walks = &mut state.walks;
        let near = walks.iter().position(|w| w.run.is_near(ino, position));
        let found = near.or_else(|| {
            // A run that goes on at the beginning of another directory.
            let goes_on = |w: &Walk| w.run.is_proven() && !w.is_over() && is_next(&dir, &w.dir);
            let beginning = Run::new(ino, 0, 0).is_near(ino, position);
            walks.iter().position(|w| beginning && goes_on(w))
        });
        let Some(found) = found else {
            state.begin(&dir, position, bytes);
            self.runs.store(state.walks.len(), Ordering::Release);
            return;
        };
        let walk = &mut walks[found];
        walk.here = 0;
        walk.read(&dir, position, bytes);
        if walk.cursor.dir != dir || walk.cursor.position <= position {
            walk.move_to(&dir, position + 1);
        }
        self.go_on(walk);
    }

    /// Starts to look for what comes next, if there is room for it.
    fn go_on(self: &Arc<Self>, walk: &mut Walk) {
        if walk.is_busy || walk.is_stuck || walk.here >= HERE || self.opener.fetcher.is_busy() {
            return;
        }
        if let Some(room) = walk.run.room() {
            walk.is_busy = true;
            let (this, id, cursor) = (self.clone(), walk.id, walk.cursor.clone());
            let is_walk = walk.run.is_walk() && walk.is_ordered;
            self.opener
                .runtime
                .spawn(async move { this.advance(id, cursor, is_walk, room) });
        }
    }

    /// Asks for the next files of a run.
    fn advance(self: &Arc<Self>, id: u64, mut cursor: Cursor, is_walk: bool, room: Room) {
        let from = cursor.clone();
        let (found, mut is_stuck) = search::find(&self.opener, &mut cursor, is_walk, room.files);
        let mut bytes = room.bytes;
        for candidate in found {
            let mut state = self.state();
            if !self.ask(&mut state, id, &candidate, &mut bytes) {
                // No room for more: here it goes on.
                cursor = Cursor {
                    dir: candidate.dir,
                    position: candidate.position,
                };
                is_stuck = false;
                break;
            }
        }
        let mut state = self.state();
        if let Some(walk) = state.walk(id) {
            walk.is_busy = false;
            // Unless its reader is somewhere else by now.
            if walk.cursor.dir == from.dir && walk.cursor.position == from.position {
                walk.cursor = cursor;
                walk.is_stuck = is_stuck;
            } else {
                self.go_on(walk);
            }
        }
        self.sweep_later(&mut state);
    }

    /// Asks for one file, unless somebody has it; false where there is no room for it.
    fn ask(
        self: &Arc<Self>,
        state: &mut State,
        id: u64,
        candidate: &Candidate,
        room: &mut u64,
    ) -> bool {
        let Candidate {
            layer,
            ref path,
            ref entry,
            size,
            ref dir,
            position,
        } = *candidate;
        let key = self.opener.key(layer, path, entry);
        if self.opener.cache.is_held(&key) {
            return true;
        }
        let Some(walk) = state.walk(id) else {
            return false;
        };
        let piece = walk.run.piece(size);
        if piece > *room {
            return false;
        }
        *room -= piece;
        walk.run.on_issue(piece);
        while state.held.len() >= HELD {
            let Some((key, number)) = state.order.pop_front() else {
                break;
            };
            if let Some(held) = state.take(&key, number) {
                self.waste(state, &[held.mark]);
            }
        }
        let remote = self.opener.remote(layer, path, entry.clone(), key, size);
        let number = state.next;
        state.next += 1;
        let this = self.clone();
        remote.fetch_ahead(piece, self.turns[layer].clone(), move |came| {
            if came != Came::Fetched {
                this.came_to_nothing((layer, key), number, came);
            }
        });
        let mark = Mark {
            walk: id,
            layer,
            dir: dir.clone(),
            position,
            bytes: piece,
        };
        let held = Held {
            number,
            remote,
            mark,
            since: Instant::now(),
        };
        state.held.insert((layer, key), held);
        state.order.push_back(((layer, key), number));
        true
    }
}

impl Ahead {
    /// Takes note that a file that was asked for did not come.
    fn came_to_nothing(&self, key: Key, number: u64, came: Came) {
        let mut state = self.state();
        // Who has opened it meanwhile has it for his own.
        if let Some(held) = state.take(&key, number)
            && let Some(walk) = state.walk(held.mark.walk)
        {
            walk.run.on_nothing(held.mark.bytes);
            walk.here += u32::from(came == Came::WasHere);
        }
    }

    /// Takes note that files of one run were fetched in vain.
    fn waste(&self, state: &mut State, marks: &[Mark]) {
        let Some(first) = marks.first() else { return };
        for mark in marks {
            self.opener.counters[mark.layer].prefetched(0, mark.bytes);
        }
        if let Some(walk) = state.walk(first.walk) {
            let bytes = marks.iter().map(|mark| mark.bytes).sum();
            walk.run.on_waste(marks.len() as u64, bytes);
        }
    }

    /// Sees to it that what nobody comes for is let go of in the end.
    fn sweep_later(self: &Arc<Self>, state: &mut State) {
        if std::mem::replace(&mut state.is_swept, true) {
            return;
        }
        let this = Arc::downgrade(self);
        self.opener.runtime.spawn(async move {
            loop {
                tokio::time::sleep(SWEEP).await;
                let Some(this) = this.upgrade() else { return };
                if !this.sweep() {
                    return;
                }
            }
        });
    }

    /// Lets go of what is old; false when nothing is left.
    fn sweep(&self) -> bool {
        let mut state = self.state();
        let State { walks, held, .. } = &mut *state;
        walks.retain(|walk| walk.last.elapsed() < KEEP);
        let is_old = |held: &Held| {
            held.since.elapsed() >= KEEP || !walks.iter().any(|walk| walk.id == held.mark.walk)
        };
        let old: Vec<Key> = held
            .iter()
            .filter(|(_, held)| is_old(held))
            .map(|(key, _)| *key)
            .collect();
        let old: Vec<Held> = old.iter().filter_map(|key| held.remove(key)).collect();
        let mut marks: Vec<Mark> = old.iter().map(|held| held.mark.clone()).collect();
        marks.sort_by_key(|mark| mark.walk);
        for marks in marks.chunk_by(|a, b| a.walk == b.walk) {
            self.waste(&mut state, marks);
        }
        let State { held, order, .. } = &mut *state;
        order.retain(|(key, number)| held.get(key).is_some_and(|held| held.number == *number));
        self.runs.store(state.walks.len(), Ordering::Release);
        state.is_swept = !state.walks.is_empty() || !state.held.is_empty();
        let goes_on = state.is_swept;
        // What is let go of may close files: not under the lock.
        drop(state);
        drop(old);
        goes_on
    }
}

impl State {
    fn walk(&mut self, id: u64) -> Option<&mut Walk> {
        self.walks.iter_mut().find(|walk| walk.id == id)
    }

    fn take(&mut self, key: &Key, number: u64) -> Option<Held> {
        match self.held.get(key) {
            Some(held) if held.number == number => self.held.remove(key),
            _ => None,
        }
    }

    /// Begins a run, in the place of the one that was read in longest ago.
    fn begin(&mut self, dir: &RelPath, position: usize, bytes: u64) {
        if self.walks.len() >= RUNS
            && let Some(oldest) = (0..self.walks.len()).min_by_key(|at| self.walks[*at].last)
        {
            self.walks.swap_remove(oldest);
        }
        self.walks.push(Walk {
            id: self.next,
            run: Run::new(dir_ino(dir), position, bytes),
            dir: dir.clone(),
            cursor: Cursor {
                dir: dir.clone(),
                position: position + 1,
            },
            is_ordered: true,
            is_stuck: false,
            is_busy: false,
            here: 0,
            last: Instant::now(),
        });
        self.next += 1;
    }
}

impl Walk {
    fn read(&mut self, dir: &RelPath, position: usize, bytes: u64) {
        self.run.on_read(dir_ino(dir), position, bytes);
        self.last = Instant::now();
        if self.dir != *dir {
            self.dir = dir.clone();
        }
    }

    fn move_to(&mut self, dir: &RelPath, position: usize) {
        self.is_stuck = false;
        self.cursor = Cursor {
            dir: dir.clone(),
            position,
        };
    }

    /// Returns whether the files of a directory were asked for already, in the order of listings.
    fn has_passed(&self, dir: &RelPath) -> bool {
        self.dir < *dir && *dir <= self.cursor.dir
    }

    /// Returns whether it was left too long ago to go on elsewhere.
    fn is_over(&self) -> bool {
        self.last.elapsed() >= LIFE
    }
}
