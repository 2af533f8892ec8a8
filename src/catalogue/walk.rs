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
    /// The highest directory in which it went from one directory to the next; nothing if it only
    /// went down so far. It is not thought to go beyond.
    root: Option<RelPath>,
    at: RelPath,
    run: u64,
    touched: Instant,
    /// Listed ahead and not opened yet.
    waiting: HashSet<RelPath>,
    used: u64,
    /// Directories listed ahead that it went past.
    passed: u64,
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
    /// The highest directory in which it went from one directory to the next.
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
        let root = walk.root.clone()?;
        if walk.run < self.proof || !walk.has_room() {
            return None;
        }
        let sweep = match std::mem::replace(&mut walk.task, Task::UnderWay) {
            Task::UnderWay => return None,
            Task::Nothing => None,
            Task::Paused(sweep) => Some(sweep),
        };
        Some(Go {
            id: walk.id,
            root,
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
            let index = self.walks.iter().rposition(|walk| walk.root.is_none());
            self.end(index.unwrap_or(self.walks.len() - 1));
        }
        let id = self.next_id;
        self.next_id += 1;
        let walk = Walk {
            id,
            root: None,
            at: dir.clone(),
            run: 1,
            touched: now,
            waiting: HashSet::new(),
            used: 0,
            passed: 0,
            barren: 0,
            task: Task::Nothing,
        };
        self.walks.insert(0, walk);
    }

    fn end(&mut self, index: usize) {
        let walk = self.walks.remove(index);
        let wasted = walk.passed + walk.waiting.len() as u64;
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
        self.at = dir.clone();
        let is_higher = |root: &RelPath| root.strip_prefix(&parent).is_some();
        if !from.is_empty() && self.root.as_ref().is_none_or(is_higher) {
            self.root = Some(parent);
        }
        true
    }

    /// Returns how many more directories may be listed ahead.
    fn room(&self) -> usize {
        let most = usize::try_from(2 * self.run).unwrap_or(AHEAD).min(AHEAD);
        most.saturating_sub(self.waiting.len())
    }

    fn has_room(&mut self) -> bool {
        if self.room() == 0 {
            // What it left out, or was hidden from it, is not waited for any more.
            let before = self.waiting.len();
            let at = self.at.clone();
            self.waiting.retain(|dir| comes_after(dir, &at));
            self.passed += (before - self.waiting.len()) as u64;
        }
        self.room() > 0 && self.barren < (2 * self.run).min(BARREN)
    }
}

/// Returns whether a walk comes to `dir` after `at`.
fn comes_after(dir: &RelPath, at: &RelPath) -> bool {
    // No name has a NUL in it: all below a directory comes before what has a longer name.
    let order = |path: &RelPath| {
        let bytes = path.as_str().as_bytes().to_vec();
        bytes.into_iter().map(|b| if b == b'/' { 0 } else { b })
    };
    order(dir).gt(order(at))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// A tree of ten directories in each of ten, whose names are digits.
    fn is_near(_: &RelPath, from: &str, to: &str) -> bool {
        let digit = |name: &str| name.parse::<i64>().unwrap_or(-1);
        (1..=3).contains(&(digit(to) - digit(from)))
    }

    fn path(text: &str) -> RelPath {
        RelPath::new(text).unwrap()
    }

    fn open(walks: &mut Walks, dir: &str) -> Option<Go> {
        walks.opened(&path(dir), Instant::now(), is_near)
    }

    fn all() -> Vec<String> {
        let below = |a: usize| (0..10).map(move |b| format!("{a}/{b}"));
        (0..10)
            .flat_map(|a| std::iter::once(a.to_string()).chain(below(a)))
            .collect()
    }

    #[test]
    fn a_parent_and_two_children_are_a_walk_and_it_climbs() {
        let mut walks = Walks::default();
        assert!(open(&mut walks, "3").is_none());
        assert!(open(&mut walks, "3/0").is_none());
        let go = open(&mut walks, "3/1").unwrap();
        assert_eq!((go.root, go.at, go.most), (path("3"), path("3/1"), 6));
        assert!(open(&mut walks, "3/2").is_none(), "it is under way");
        walks.pause(go.id, None);
        // One that a filter hides is passed over; another reader a little behind counts too.
        assert!(open(&mut walks, "3/4").is_some());
        walks.pause(go.id, None);
        assert_eq!(open(&mut walks, "3/3").unwrap().at, path("3/4"));
        walks.pause(go.id, None);
        let go = open(&mut walks, "4").unwrap();
        assert_eq!((go.root, go.at), (RelPath::root(), path("4")));
        // Going down is no reason to look further up.
        let mut walks = Walks::default();
        for dir in ["", "0", "0/0", "0/0/0"] {
            assert!(open(&mut walks, dir).is_none());
        }
        assert_eq!(open(&mut walks, "0/0/1").unwrap().root, path("0/0"));
    }

    #[test]
    fn going_down_alone_or_here_and_there_is_none() {
        let mut walks = Walks::default();
        for dir in [
            "0", "0/0", "0/0/0", "0/0/0/0", "7", "5", "9/9", "5/1", "0/8", "4/4",
        ] {
            assert!(open(&mut walks, dir).is_none(), "{dir}");
        }
    }

    #[test]
    fn what_a_walk_leaves_out_does_not_stop_it() {
        let mut walks = Walks::default();
        open(&mut walks, "0");
        for n in 0..10 {
            let go = open(&mut walks, &format!("0/{n}"));
            assert_eq!(go.is_some(), n > 0, "{n}");
            let Some(go) = go else { continue };
            // None of these is ever opened.
            for k in 0..go.most {
                walks.expect(go.id, path(&format!("0/{n}/x{k}")));
            }
            walks.pause(go.id, None);
        }
        let order = ["a", "a/b", "a/b/c", "a/c", "a-", "a-/b", "a0"];
        for pair in order.windows(2) {
            assert!(comes_after(&path(pair[1]), &path(pair[0])), "{pair:?}");
            assert!(!comes_after(&path(pair[0]), &path(pair[1])), "{pair:?}");
        }
    }

    #[test]
    fn two_who_walk_do_not_disturb_each_other() {
        let mut walks = Walks::default();
        let mut gone = [0, 0];
        for n in 0..10 {
            for (who, top) in [1, 6].into_iter().enumerate() {
                if n == 0 {
                    open(&mut walks, &top.to_string());
                }
                if let Some(go) = open(&mut walks, &format!("{top}/{n}")) {
                    assert_eq!(go.root, path(&top.to_string()));
                    gone[who] += 1;
                    walks.pause(go.id, None);
                }
            }
        }
        assert_eq!(gone, [9, 9]);
    }

    #[test]
    fn lists_in_vain_ask_for_more_proof() {
        let mut walks = Walks::default();
        let mut now = Instant::now();
        let mut proofs = Vec::new();
        for _ in 0..2 {
            // Nobody opened what was listed ahead.
            now += 2 * PAUSE;
            let mut open = |dir: &str| walks.opened(&path(dir), now, is_near);
            open("0");
            let (proof, go) = (0..10)
                .find_map(|n| Some((n, open(&format!("0/{n}"))?)))
                .unwrap();
            proofs.push(proof);
            for k in 0..3 {
                walks.expect(go.id, path(&format!("0/9/x{k}")));
            }
            walks.pause(go.id, None);
        }
        assert_eq!(proofs, [1, 4]);
        assert_eq!(walks.counts(), (0, 3));
    }

    proptest! {
        /// However somebody goes about: never do more wait than twice what was opened in a row.
        #[test]
        fn what_waits_is_bounded_by_the_proof(
            dirs in prop::collection::vec(prop::sample::select(all()), 0..60),
            bring in 0..20usize,
        ) {
            let mut walks = Walks::default();
            let mut brought = 0;
            for dir in dirs {
                let Some(go) = open(&mut walks, &dir) else { continue };
                prop_assert!(go.most > 0);
                for _ in 0..bring.min(go.most) {
                    walks.expect(go.id, path(&format!("ahead/{brought}")));
                    brought += 1;
                }
                walks.pause(go.id, None);
                for walk in &walks.walks {
                    prop_assert!(walk.waiting.len() as u64 <= 2 * walk.run);
                }
            }
        }
    }
}
