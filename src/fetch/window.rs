//! Read-ahead that grows on proof and shrinks on seeks. Pure: it decides, others fetch.
//!
//! The kernel's own read-ahead sends requests of up to 1 MiB, several at once and not in order, so
//! "sequential" cannot mean "starts where the last one ended". What counts as proof is the bytes
//! read in one forward run; the window is never larger than twice the proof, which bounds what a
//! wrong guess can waste to twice what was read.

use std::ops::Range;

/// The smallest read-ahead worth a request, in bytes.
const MIN_AHEAD: u64 = 256 << 10;

/// How far behind the front of a run a request may arrive and still belong to it: the kernel keeps
/// about this much in flight.
const REORDER: u64 = 2 << 20;

/// One forward run of reads of one open file.
#[derive(Debug)]
pub struct Window {
    /// Where the run's front is: the end of the furthest read.
    front: u64,
    /// Bytes read in this run. The proof.
    run: u64,
    /// The end of what was asked for ahead, if anything was.
    issued: u64,
    /// The start of what was asked for ahead and not yet read.
    unread: u64,
    /// The largest window now, if waste has lowered it: halved by waste, doubled by use.
    ceiling: u64,
    /// The last window.
    window: u64,
}

/// What to do after a read.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Advice {
    /// What to fetch ahead, if anything.
    pub prefetch: Option<Range<u64>>,
    /// Bytes fetched ahead that this read used.
    pub used: u64,
    /// Bytes fetched ahead that will not be used, as the reader went elsewhere.
    pub wasted: u64,
}

impl Default for Window {
    fn default() -> Window {
        Window {
            front: 0,
            run: 0,
            issued: 0,
            unread: 0,
            ceiling: u64::MAX,
            window: MIN_AHEAD,
        }
    }
}

impl Window {
    /// Takes note of a read of `range` (not empty) in an object of `size` bytes. The window is to be
    /// no larger than `most` bytes.
    pub fn on_read(&mut self, range: Range<u64>, size: u64, most: u64) -> Advice {
        let mut advice = Advice::default();
        let len = range.end - range.start;
        let gap_allowed = len.max(self.run / 2).min(REORDER);
        if range.start >= self.front && range.start - self.front <= gap_allowed {
            self.run += len;
            advice.used = self.consume(range.end);
            self.front = range.end;
        } else if range.start < self.front && self.front - range.start <= REORDER && self.run > 0 {
            // A latecomer of this run, or a re-read nearby: no proof, no seek.
            if range.end > self.front {
                self.run += range.end - self.front;
                advice.used = self.consume(range.end);
                self.front = range.end;
            }
        } else {
            advice.wasted = self.abandon();
            self.front = range.end;
            self.run = len;
            self.issued = range.end;
            self.unread = range.end;
            return advice;
        }
        advice.prefetch = self.ahead(len, size, most);
        advice
    }

    /// Takes note that nothing of the last advice had to be fetched: it is no read-ahead of ours,
    /// neither used nor wasted.
    pub fn was_here(&mut self) {
        self.unread = self.issued;
    }

    /// Takes note that of the last advice nothing from `start` on is being fetched: it is advised
    /// again after the next read.
    pub fn refused(&mut self, start: u64) {
        if self.issued > start {
            self.issued = start.max(self.front);
            self.unread = self.unread.min(self.issued);
        }
    }

    /// Ends the run and returns the bytes that were fetched ahead in vain.
    pub fn abandon(&mut self) -> u64 {
        let wasted = self.issued.saturating_sub(self.unread.max(self.front));
        if wasted > 0 {
            self.ceiling = (self.window / 2).max(MIN_AHEAD);
        }
        self.run = 0;
        self.issued = 0;
        self.unread = 0;
        wasted
    }

    fn consume(&mut self, end: u64) -> u64 {
        let upto = end.min(self.issued);
        let used = upto.saturating_sub(self.unread);
        if used > 0 {
            self.unread = upto;
            self.ceiling = self.ceiling.saturating_add(used);
        }
        used
    }

    fn ahead(&mut self, len: u64, size: u64, most: u64) -> Option<Range<u64>> {
        // One read proves nothing: a header is read just so.
        if self.run <= len {
            return None;
        }
        let most = self.ceiling.min(most).max(MIN_AHEAD);
        let window = (2 * self.run).clamp(MIN_AHEAD, most);
        self.window = window;
        let start = self.issued.max(self.front);
        let end = (self.front + window).min(size);
        // Wait until half the window is used up, so that requests stay large.
        let worth = (window / 2).min(size.saturating_sub(start));
        if start >= end || end - start < worth.max(1) {
            return None;
        }
        if self.issued <= self.front {
            self.unread = start;
        }
        self.issued = end;
        Some(start..end)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const SIZE: u64 = 1 << 30;
    const MOST: u64 = 16 << 20;

    #[test]
    fn one_read_proves_nothing() {
        assert_eq!(
            Window::default().on_read(0..131_072, SIZE, MOST),
            Advice::default()
        );
        assert_eq!(
            Window::default().on_read(9_000_000..9_004_096, SIZE, MOST),
            Advice::default()
        );
    }

    #[test]
    fn a_sequential_run_grows_to_the_maximum() {
        let mut window = Window::default();
        let mut ahead = 0;
        for i in 0..1024u64 {
            let advice = window.on_read(i * 131_072..(i + 1) * 131_072, SIZE, MOST);
            if let Some(range) = advice.prefetch {
                assert!(range.start >= (i + 1) * 131_072 || range.start >= ahead);
                ahead = range.end;
            }
        }
        assert!(ahead >= 1024 * 131_072 + MOST / 2);
    }

    #[test]
    fn requests_out_of_order_are_still_a_run() {
        let mut window = Window::default();
        let mut fetched = false;
        for i in [1u64, 0, 3, 2, 5, 4, 7, 6, 9, 8] {
            let advice = window.on_read(i * 131_072..(i + 1) * 131_072, SIZE, MOST);
            assert_eq!(advice.wasted, 0);
            fetched |= advice.prefetch.is_some();
        }
        assert!(fetched);
    }

    #[test]
    fn what_was_refused_is_advised_again_and_no_waste() {
        let mut window = Window::default();
        window.on_read(0..131_072, SIZE, MOST);
        let first = window
            .on_read(131_072..262_144, SIZE, MOST)
            .prefetch
            .unwrap();
        window.refused(first.start);
        let next = window
            .on_read(262_144..393_216, SIZE, MOST)
            .prefetch
            .unwrap();
        assert_eq!(next.start, 393_216);
        window.refused(next.start + 100_000);
        assert_eq!(window.abandon(), 100_000);
    }

    #[test]
    fn a_seek_ends_the_run_and_counts_waste() {
        let mut window = Window::default();
        let mut end = 0;
        for i in 0..8u64 {
            if let Some(p) = window
                .on_read(i * 131_072..(i + 1) * 131_072, SIZE, MOST)
                .prefetch
            {
                end = p.end;
            }
        }
        let advice = window.on_read(700_000_000..700_004_096, SIZE, MOST);
        assert_eq!(advice.wasted, end - 8 * 131_072);
        assert_eq!(advice.prefetch, None);
    }

    proptest! {
        #[test]
        fn random_reads_fetch_nothing_ahead(offsets in prop::collection::vec(0..250_000u64, 1..200)) {
            let mut window = Window::default();
            let mut last: Option<u64> = None;
            for block in offsets {
                // Far apart, as random reads in a large file are.
                let at = block * 4096;
                if last.is_some_and(|l| at.abs_diff(l) <= 2 * REORDER) { continue; }
                last = Some(at);
                prop_assert_eq!(window.on_read(at..at + 4096, SIZE, MOST).prefetch, None);
            }
        }

        #[test]
        fn never_beyond_the_end_and_never_more_than_twice_the_proof(
            reads in prop::collection::vec((0..4_000_000u64, 1..300_000u64), 1..100),
        ) {
            let size = 4_000_000;
            let mut window = Window::default();
            let mut read = 0;
            for (at, len) in reads {
                let end = (at + len).min(size);
                read += end - at;
                if let Some(range) = window.on_read(at..end, size, MOST).prefetch {
                    prop_assert!(range.start < range.end && range.end <= size);
                    prop_assert!(range.end - range.start <= (2 * read).max(MIN_AHEAD));
                }
            }
        }
    }
}
