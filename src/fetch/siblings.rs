//! Read-ahead over files: a run of files that are read in about the order of their directories'
//! listings. Pure: it decides how much may be ahead, others find and fetch it.
//!
//! What counts as proof is what was read in the run, in files and in bytes. No more than twice that
//! is ahead and unread, so a wrong guess wastes at most twice what was of use; files that are read
//! in no order prove nothing, and nothing is fetched ahead of them.

use svol_cache::SMALL;

/// The least and the most that is fetched of a larger one, in bytes: as much as the kernel asks for
/// first, and what one request brings.
const PIECE: (u64, u64) = (128 << 10, 1 << 20);

/// Files read in a row before anything is fetched ahead: two may be chance.
const PROOF: u64 = 3;

/// The most files that are ahead: at a round trip of 20 ms, more than 10,000 a second.
const MOST_FILES: u64 = 256;

/// The least window that waste shrinks to: what goes on in order then wins it back.
const LEAST_FILES: u64 = 2;

/// The most bytes that are ahead.
const MOST_BYTES: u64 = 8 << 20;

/// How far ahead of the front the next file of a young run may be: some programs skip files.
const SKIP: usize = 2;

/// How far from the front of a run a file may be at least, and in a run of many files: several
/// readers overtake each other, and some programs have an order of their own.
const NEAR: (usize, usize) = (8, 32);

/// A run of files that are read one after the other.
#[derive(Debug)]
pub struct Run {
    /// The directory that was read in last.
    dir: u64,
    /// The position behind the furthest file that was read there.
    front: usize,
    /// What was read in this run, in all its directories. The proof.
    files: u64,
    bytes: u64,
    /// What was asked for ahead and not read yet.
    ahead_files: u64,
    ahead_bytes: u64,
    /// The largest window now, in files: halved by waste, won back by use.
    ceiling: u64,
    /// Whether it went from one directory on to another: then it is a walk.
    is_walk: bool,
}

/// How much more may be fetched ahead.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Room {
    /// Files.
    pub files: u64,
    /// Bytes.
    pub bytes: u64,
}

impl Run {
    /// Begins a run with a file at `position` in the listing of directory `dir`, of which `bytes`
    /// were read first.
    pub fn new(dir: u64, position: usize, bytes: u64) -> Run {
        Run {
            dir,
            front: position + 1,
            files: 1,
            bytes,
            ahead_files: 0,
            ahead_bytes: 0,
            ceiling: MOST_FILES,
            is_walk: false,
        }
    }

    /// Returns whether a file is about where the run is.
    pub fn is_near(&self, dir: u64, position: usize) -> bool {
        let part = usize::try_from(self.files / 4).unwrap_or(NEAR.1);
        let reach = part.clamp(NEAR.0, NEAR.1);
        let skip = if self.is_proven() { reach } else { SKIP };
        dir == self.dir
            && (self.front.saturating_sub(reach)..=self.front + skip).contains(&position)
    }

    /// Returns whether enough was read to go by.
    pub fn is_proven(&self) -> bool {
        self.files >= PROOF
    }

    /// Returns whether it goes from directory to directory.
    pub fn is_walk(&self) -> bool {
        self.is_walk
    }

    /// Takes note of a file of the run that was read, `bytes` of it at first. One of another
    /// directory takes the run there.
    pub fn on_read(&mut self, dir: u64, position: usize, bytes: u64) {
        if dir != self.dir {
            self.is_walk = true;
            self.dir = dir;
            self.front = 0;
        }
        if position < self.front && !self.is_proven() {
            // Back and forth is no order.
            return;
        }
        self.front = self.front.max(position + 1);
        self.files += 1;
        self.bytes += bytes;
    }

    /// Takes note that something that was asked for ahead was here, or did not come.
    pub fn on_nothing(&mut self, bytes: u64) {
        self.settle(1, bytes);
    }

    /// Takes note that something that was fetched ahead was read.
    pub fn on_use(&mut self, fetched: u64) {
        self.settle(1, fetched);
        self.ceiling = (self.ceiling + 1).min(MOST_FILES);
    }

    /// Takes note that `files` with `bytes` that were fetched ahead will not be read.
    pub fn on_waste(&mut self, files: u64, bytes: u64) {
        self.settle(files, bytes);
        if files > 0 {
            self.ceiling = (self.ceiling / 2).max(LEAST_FILES);
        }
    }

    /// Takes note that the run went elsewhere than was thought: what is ahead counts no longer, and
    /// less is from now on.
    pub fn on_turn(&mut self) {
        self.on_waste(self.ahead_files, self.ahead_bytes);
    }

    /// Takes note that something was asked for ahead.
    pub fn on_issue(&mut self, bytes: u64) {
        self.ahead_files += 1;
        self.ahead_bytes += bytes;
    }

    /// Returns how much may be fetched ahead now; nothing while there is enough: it is asked for
    /// many at a time.
    pub fn room(&self) -> Option<Room> {
        if !self.is_proven() {
            return None;
        }
        let files = (2 * self.files).min(self.ceiling);
        let bytes = (2 * self.bytes).min(MOST_BYTES);
        let is_half_used = self.ahead_files <= files / 2 && self.ahead_bytes <= bytes / 2;
        is_half_used.then(|| Room {
            files: files - self.ahead_files,
            bytes: bytes - self.ahead_bytes,
        })
    }

    /// Returns how much of a file of `size` bytes is worth fetching ahead.
    pub fn piece(&self, size: u64) -> u64 {
        if size <= SMALL {
            return size;
        }
        let usual = 2 * self.bytes / self.files;
        usual.clamp(PIECE.0, PIECE.1).min(size)
    }

    fn settle(&mut self, files: u64, bytes: u64) {
        self.ahead_files = self.ahead_files.saturating_sub(files);
        self.ahead_bytes = self.ahead_bytes.saturating_sub(bytes);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    const FILE: u64 = 16 << 10;

    #[test]
    fn two_files_prove_nothing_and_the_third_does() {
        let mut run = Run::new(1, 0, FILE);
        assert_eq!(run.room(), None);
        run.on_read(1, 1, FILE);
        assert_eq!(run.room(), None);
        run.on_read(1, 2, FILE);
        let room = Room {
            files: 6,
            bytes: 6 * FILE,
        };
        assert_eq!(run.room(), Some(room));
    }

    #[test]
    fn a_walk_keeps_its_proof_from_directory_to_directory() {
        let mut run = Run::new(1, 0, FILE);
        (1..100).for_each(|at| run.on_read(1, at, FILE));
        assert!(!run.is_walk());
        assert!(!run.is_near(2, 0));
        run.on_read(2, 0, FILE);
        assert!(run.is_walk() && run.is_near(2, 1));
        assert_eq!(run.room().unwrap().files, 202);
    }

    #[test]
    fn waste_shrinks_the_window_and_use_wins_it_back() {
        let mut run = Run::new(1, 0, FILE);
        (1..1000).for_each(|at| run.on_read(1, at, FILE));
        assert_eq!(run.room().unwrap().files, MOST_FILES);
        for n in 0..20 {
            run.on_issue(FILE);
            run.on_waste(1, FILE);
            assert_eq!(run.room().unwrap().files, (MOST_FILES >> (n + 1)).max(2));
        }
        for _ in 0..100 {
            run.on_issue(FILE);
            run.on_use(FILE);
        }
        assert_eq!(run.room().unwrap().files, 102);
    }

    #[test]
    fn of_large_files_about_as_much_comes_as_was_read_of_those_before() {
        let mut run = Run::new(1, 0, FILE);
        assert_eq!(run.piece(SMALL), SMALL);
        assert_eq!(run.piece(SMALL + 1), SMALL + 1);
        assert_eq!(run.piece(1 << 30), PIECE.0);
        (1..100).for_each(|at| run.on_read(1, at, 1 << 20));
        assert_eq!(run.piece(1 << 30), PIECE.1);
    }

    /// Reads the files of one directory in the order of `positions`, fetching ahead in the order of
    /// the listing; returns how many had to be waited for and how many were fetched in vain.
    fn read(positions: &[usize], count: usize) -> (usize, usize) {
        let mut run: Option<Run> = None;
        let (mut ahead, mut done) = (BTreeSet::new(), BTreeSet::new());
        let (mut waited, mut next) = (0, 0);
        for &at in positions.iter().filter(|at| done.insert(**at)) {
            let was_ahead = ahead.remove(&at);
            waited += usize::from(!was_ahead);
            match &mut run {
                Some(run) if was_ahead || run.is_near(1, at) => {
                    if was_ahead {
                        run.on_use(FILE);
                    }
                    run.on_read(1, at, FILE);
                    next = next.max(at + 1);
                }
                other => {
                    *other = Some(Run::new(1, at, FILE));
                    next = at + 1;
                }
            }
            let Some(run) = &mut run else { continue };
            for _ in 0..run.room().map_or(0, |room| room.files) {
                if next < count {
                    ahead.insert(next);
                    run.on_issue(FILE);
                    next += 1;
                }
            }
            assert!(run.ahead_files <= 2 * run.files && run.ahead_bytes <= 2 * run.bytes);
        }
        (waited, ahead.len())
    }

    #[test]
    fn of_a_directory_that_is_read_in_order_few_files_are_waited_for() {
        let all: Vec<usize> = (0..2000).collect();
        assert_eq!(read(&all, 2000), (3, 0));
        // Two readers that overtake each other.
        let swapped: Vec<usize> = (0..2000).map(|at| at ^ 1).collect();
        assert!(read(&swapped, 2000).0 < 10);
    }

    proptest! {
        #[test]
        fn files_read_in_no_order_bring_no_others(
            positions in prop::collection::vec(0..100_000usize, 1..300),
        ) {
            // Far from each other, as those of a large directory are.
            let apart = |at: &usize| at * 10;
            let positions: Vec<usize> = positions.iter().map(apart).collect();
            prop_assert_eq!(read(&positions, 1_000_000).1, 0);
        }

        #[test]
        fn no_more_than_twice_what_was_read_is_fetched_in_vain(
            positions in prop::collection::vec(0..60usize, 1..300),
        ) {
            let distinct: BTreeSet<_> = positions.iter().collect();
            let (waited, vain) = read(&positions, 60);
            prop_assert!(waited <= distinct.len());
            prop_assert!(vain <= 2 * distinct.len());
        }
    }
}
