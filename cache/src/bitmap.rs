//! Which grains this process has verified: a bit each, set once, read without a lock.

use crate::sync::OnceLock;
use crate::sync::atomic::{AtomicU64, Ordering};
use std::ops::Range;

/// Bits per segment. A segment is made when its first bit is set: 4 KiB of memory for 512 MiB of
/// data, so that an object of terabytes of which little is read costs little.
const SEGMENT: u64 = 32_768;

type Segment = Box<[AtomicU64]>;

/// A bitmap of fixed length, all clear at first.
pub(crate) struct Bitmap {
    segments: Box<[OnceLock<Segment>]>,
}

impl Bitmap {
    pub(crate) fn new(bits: u64) -> Self {
        Self {
            segments: (0..bits.div_ceil(SEGMENT))
                .map(|_| OnceLock::new())
                .collect(),
        }
    }

    fn word(&self, bit: u64) -> Option<&AtomicU64> {
        let segment = self.segments.get((bit / SEGMENT) as usize)?.get()?;
        segment.get((bit % SEGMENT / 64) as usize)
    }

    pub(crate) fn get(&self, bit: u64) -> bool {
        // Acquire pairs with the release in `set`: who sees the bit sees what was written before.
        self.word(bit)
            .is_some_and(|word| word.load(Ordering::Acquire) & (1 << (bit % 64)) != 0)
    }

    pub(crate) fn set(&self, bit: u64) {
        if let Some(segment) = self.segments.get((bit / SEGMENT) as usize) {
            segment.get_or_init(|| (0..SEGMENT / 64).map(|_| AtomicU64::new(0)).collect());
        }
        if let Some(word) = self.word(bit) {
            word.fetch_or(1 << (bit % 64), Ordering::Release);
        }
    }

    pub(crate) fn clear(&self, bit: u64) {
        if let Some(word) = self.word(bit) {
            word.fetch_and(!(1 << (bit % 64)), Ordering::AcqRel);
        }
    }

    pub(crate) fn clear_all(&self) {
        for segment in self.segments.iter().filter_map(OnceLock::get) {
            for word in segment {
                word.store(0, Ordering::Release);
            }
        }
    }

    /// Returns whether all bits of a range are set. An empty range is.
    pub(crate) fn all(&self, bits: Range<u64>) -> bool {
        let mut at = bits.start;
        while at < bits.end {
            let Some(word) = self.word(at) else {
                return false;
            };
            let end = bits.end.min((at / 64 + 1) * 64);
            let mask = u64::MAX >> (64 - (end - at)) << (at % 64);
            if word.load(Ordering::Acquire) & mask != mask {
                return false;
            }
            at = end;
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_are_checked_to_the_bit() {
        let bits = 2 * SEGMENT + 100;
        let map = Bitmap::new(bits);
        for range in [
            0..1,
            63..65,
            60..200,
            SEGMENT - 3..SEGMENT + 70,
            bits - 1..bits,
        ] {
            map.clear_all();
            for bit in range.clone() {
                assert!(!map.all(range.clone()));
                map.set(bit);
                assert!(map.get(bit));
            }
            assert!(map.all(range.clone()));
            assert!(!map.all(range.start..range.end + 1));
            assert!(range.start == 0 || !map.all(range.start - 1..range.end));
            map.clear(range.start);
            assert!(!map.get(range.start) && !map.all(range));
        }
        assert!(map.all(5..5));
        assert!(!map.get(bits * 9));
    }
}
