//! Grains: the arithmetic of presence, and the hashes that merge into a file's b3sum.
//!
//! Every grain but the last is exactly [`GRAIN`] bytes, so it is a complete subtree of the BLAKE3
//! tree, and its chaining value can be computed without the rest of the file. The values merge,
//! pairwise and in order, into the hash of the whole file, which nobody has to read again.

use std::ops::Range;

use blake3::Hash;
use blake3::hazmat::{HasherExt, Mode, merge_subtrees_non_root, merge_subtrees_root};

/// The unit of presence and verification, in bytes.
///
/// 16 KiB are 16 BLAKE3 chunks, one full batch of the widest SIMD there is (AVX-512), so hashing
/// is at full speed; a random read of 4 KiB fetches four times its size, which is less than one
/// TCP window; and the hashes take 0.2 % of the data.
pub const GRAIN: u64 = 16 * 1024;

/// The unit in which sequential data is best fetched, in bytes: 64 grains.
///
/// 1 MiB is the largest request that the kernel sends, and large enough that the cost of a
/// request to a remote disappears in that of its bytes.
pub const BLOCK: u64 = 1024 * 1024;

/// Objects of at most this many bytes are packed, and are present as a whole or not at all.
///
/// A file costs an inode, a sidecar and several system calls; below 64 KiB that is more than the
/// data is worth.
pub const SMALL: u64 = 64 * 1024;

/// The hash of a grain as a subtree: what BLAKE3 calls a chaining value.
pub(crate) type Cv = [u8; 32];

/// Marks a grain as absent. No grain is known to hash to it, and none will ever be found.
pub(crate) const ABSENT: Cv = [0; 32];

/// Returns how many grains an object of `size` bytes has.
pub(crate) fn count(size: u64) -> u64 {
    size.div_ceil(GRAIN)
}

/// Returns the bytes that grain `index` of an object of `size` bytes covers.
pub(crate) fn span(index: u64, size: u64) -> Range<u64> {
    let start = index.saturating_mul(GRAIN).min(size);
    start..start.saturating_add(GRAIN).min(size)
}

/// Returns the indices of the grains that hold any byte of `range`, clipped to the object.
pub(crate) fn covering(range: &Range<u64>, size: u64) -> Range<u64> {
    let end = range.end.min(size);
    if range.start >= end {
        return 0..0;
    }
    range.start / GRAIN..end.div_ceil(GRAIN)
}

/// Widens `range` to whole grains, clipped to the object.
pub(crate) fn align(range: &Range<u64>, size: u64) -> Range<u64> {
    let grains = covering(range, size);
    if grains.is_empty() {
        return 0..0;
    }
    span(grains.start, size).start..span(grains.end - 1, size).end
}

/// Collects the absent ones of consecutive grains into byte ranges, neighbours merged.
pub(crate) struct Runs {
    size: u64,
    runs: Vec<Range<u64>>,
}

impl Runs {
    pub(crate) fn new(size: u64) -> Self {
        Self {
            size,
            runs: Vec::new(),
        }
    }

    /// Returns a single run.
    pub(crate) fn one(run: Range<u64>) -> Vec<Range<u64>> {
        std::iter::once(run).collect()
    }

    /// Adds an absent grain; they must come in ascending order.
    pub(crate) fn absent(&mut self, grain: u64) {
        let span = span(grain, self.size);
        match self.runs.last_mut() {
            Some(last) if last.end == span.start => last.end = span.end,
            _ => self.runs.push(span),
        }
    }

    pub(crate) fn finish(self) -> Vec<Range<u64>> {
        self.runs
    }
}

/// Returns the chaining value of grain `index`, whose bytes are `data`.
///
/// `data` must be the grain's bytes exactly: [`GRAIN`] of them, or fewer, but not none, for the
/// last grain of an object. The value has no meaning for the only grain of an object.
pub(crate) fn chaining_value(index: u64, data: &[u8]) -> Cv {
    debug_assert!(!data.is_empty() && data.len() as u64 <= GRAIN);
    blake3::Hasher::new()
        .set_input_offset(index * GRAIN)
        .update(data)
        .finalize_non_root()
}

/// Merges the chaining values of an object's grains, in order, into the hash of the object.
///
/// Keeps one value per level of the tree, so its memory does not grow with the object. The tree
/// of BLAKE3 is the one that a binary counter builds: a value merges with its neighbour as often
/// as the number of values so far can be halved, and the last value closes whatever is open. So
/// the newest value is held back until it is known whether it is the last.
pub(crate) struct Merger {
    open: Vec<Cv>,
    newest: Option<Cv>,
    count: u64,
}

impl Merger {
    pub(crate) fn new() -> Self {
        Self {
            open: Vec::new(),
            newest: None,
            count: 0,
        }
    }

    pub(crate) fn push(&mut self, cv: Cv) {
        if let Some(mut held) = self.newest.replace(cv) {
            self.count += 1;
            for _ in 0..self.count.trailing_zeros() {
                if let Some(left) = self.open.pop() {
                    held = merge_subtrees_non_root(&left, &held, Mode::Hash);
                }
            }
            self.open.push(held);
        }
    }

    /// Returns the hash of the object; None when fewer than two values were pushed, as the hash
    /// of an object of one grain cannot be made from its chaining value.
    pub(crate) fn finish(mut self) -> Option<Hash> {
        let mut right = self.newest?;
        let root_left = if self.open.is_empty() {
            return None;
        } else {
            self.open.remove(0)
        };
        while let Some(left) = self.open.pop() {
            right = merge_subtrees_non_root(&left, &right, Mode::Hash);
        }
        Some(merge_subtrees_root(&root_left, &right, Mode::Hash))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bytes(size: u64) -> Vec<u8> {
        (0..size)
            .map(|at| (at.wrapping_mul(2_654_435_761) >> 13) as u8)
            .collect()
    }

    #[test]
    fn merged_grains_are_the_b3sum() {
        let sizes = [
            GRAIN + 1,
            2 * GRAIN - 1,
            2 * GRAIN,
            2 * GRAIN + 1,
            3 * GRAIN,
            5 * GRAIN + 7,
            SMALL + 1,
            BLOCK - 1,
            BLOCK,
            BLOCK + 1,
            3 * BLOCK + 3 * GRAIN + 1023,
            7 * BLOCK + 1024,
        ];
        for size in sizes {
            let data = bytes(size);
            let mut merger = Merger::new();
            for index in 0..count(size) {
                let span = span(index, size);
                let grain = &data[span.start as usize..span.end as usize];
                merger.push(chaining_value(index, grain));
            }
            assert_eq!(merger.finish(), Some(blake3::hash(&data)), "size {size}");
        }
    }

    #[test]
    fn every_count_of_grains_up_to_130_merges_right() {
        let data = bytes(130 * GRAIN);
        for grains in 2..=130u64 {
            let size = grains * GRAIN - grains % 3;
            let mut merger = Merger::new();
            for index in 0..count(size) {
                let span = span(index, size);
                merger.push(chaining_value(
                    index,
                    &data[span.start as usize..span.end as usize],
                ));
            }
            let expected = blake3::hash(&data[..size as usize]);
            assert_eq!(merger.finish(), Some(expected), "{grains} grains");
        }
    }

    #[test]
    fn one_grain_or_none_has_no_merged_hash() {
        assert_eq!(Merger::new().finish(), None);
        let mut one = Merger::new();
        one.push(chaining_value(0, b"x"));
        assert_eq!(one.finish(), None);
    }

    #[test]
    fn spans_and_alignment_are_clipped_to_the_object() {
        assert_eq!(count(0), 0);
        assert_eq!(count(1), 1);
        assert_eq!(count(GRAIN), 1);
        assert_eq!(count(GRAIN + 1), 2);
        assert_eq!(span(1, GRAIN + 5), GRAIN..GRAIN + 5);
        assert_eq!(align(&(5..6), GRAIN + 5), 0..GRAIN);
        assert_eq!(align(&(GRAIN..GRAIN + 1), GRAIN + 5), GRAIN..GRAIN + 5);
        assert_eq!(align(&(7..7), GRAIN), 0..0);
        assert_eq!(align(&(GRAIN * 9..u64::MAX), GRAIN), 0..0);
        assert_eq!(
            covering(&(0..u64::MAX), u64::MAX - 3),
            0..u64::MAX / GRAIN + 1
        );
    }

    #[test]
    fn absent_neighbours_become_one_run() {
        let size = 10 * GRAIN + 1;
        let mut runs = Runs::new(size);
        for grain in [0, 1, 4, 9, 10] {
            runs.absent(grain);
        }
        assert_eq!(
            runs.finish(),
            vec![0..2 * GRAIN, 4 * GRAIN..5 * GRAIN, 9 * GRAIN..size]
        );
    }
}
