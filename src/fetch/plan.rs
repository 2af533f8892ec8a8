//! Which requests to make for what is missing. Pure.

use std::ops::Range;

/// Present bytes between two missing runs that are fetched again rather than cost a request of
/// their own: at 100 MB/s a request's 1 ms is worth about this much.
const COALESCE_GAP: u64 = 64 << 10;

/// The largest single request in bytes. Larger ones save nothing (a request costs some 100 us, this
/// many bytes 10 ms of a processor), and fewer than the window holds would not fill a link.
pub const MAX_REQUEST: u64 = 8 << 20;

/// The smallest piece that a large run is cut into, so that several connections share it.
const MIN_PIECE: u64 = 1 << 20;

/// Requests that are aimed at for one large run: a few connections fill a link that one cannot.
const PIECES: u64 = 4;

/// Plans requests for the `missing` runs (sorted, disjoint, grain-aligned), leaving out what
/// `in_flight` (in any order) already covers.
pub fn requests(missing: &[Range<u64>], in_flight: &[Range<u64>]) -> Vec<Range<u64>> {
    let mut gaps: Vec<Range<u64>> = Vec::new();
    for run in missing {
        for gap in subtract(run.clone(), in_flight) {
            match gaps.last_mut() {
                Some(last)
                    if gap.start - last.end <= COALESCE_GAP
                        && !in_flight
                            .iter()
                            .any(|f| f.start < gap.start && f.end > last.end) =>
                {
                    last.end = gap.end;
                }
                _ => gaps.push(gap),
            }
        }
    }
    gaps.into_iter().flat_map(cut).collect()
}

/// Returns what is left of `run` outside of `others`, in order.
fn subtract(run: Range<u64>, others: &[Range<u64>]) -> Vec<Range<u64>> {
    let mut left = vec![run];
    for other in others {
        left = left
            .into_iter()
            .flat_map(|r| {
                [
                    r.start..r.end.min(other.start),
                    r.start.max(other.end)..r.end,
                ]
            })
            .filter(|r| r.start < r.end)
            .collect();
    }
    left.sort_by_key(|r| r.start);
    left
}

/// Cuts a run into pieces that end on multiples of the piece's size.
fn cut(run: Range<u64>) -> Vec<Range<u64>> {
    let len = run.end - run.start;
    let piece = (len / PIECES)
        .next_power_of_two()
        .clamp(MIN_PIECE, MAX_REQUEST);
    let mut pieces = Vec::new();
    let mut at = run.start;
    while at < run.end {
        let end = ((at / piece + 1) * piece).min(run.end);
        pieces.push(at..end);
        at = end;
    }
    pieces
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn neighbours_are_one_request() {
        assert_eq!(requests(&[0..16384, 32768..49152], &[]), vec![0..49152]);
        assert_eq!(
            requests(&[0..16384, 1 << 20..(1 << 20) + 16384], &[]),
            vec![0..16384, 1 << 20..(1 << 20) + 16384]
        );
    }

    #[test]
    fn what_is_in_flight_is_not_asked_for_again() {
        assert_eq!(
            requests(&[0..65536], &[16384..32768]),
            vec![0..16384, 32768..65536]
        );
        assert_eq!(requests(&[0..65536], &[0..65536]), Vec::<Range<u64>>::new());
    }

    #[test]
    fn large_runs_are_shared_out() {
        assert_eq!(requests(&[0..8 << 20], &[]).len(), 4);
        assert_eq!(requests(&[0..64 << 20], &[]).len(), 8);
        assert_eq!(requests(&[0..1 << 20], &[]).len(), 1);
    }

    proptest! {
        #[test]
        fn covers_what_is_missing_and_nothing_in_flight(
            missing in prop::collection::vec(prop::bool::ANY, 1..300),
            flying in prop::collection::vec((0..300u64, 1..40u64), 0..5),
        ) {
            const G: u64 = 16384;
            let mut runs: Vec<Range<u64>> = Vec::new();
            for (i, &m) in missing.iter().enumerate() {
                let i = i as u64;
                if m {
                    match runs.last_mut() {
                        Some(r) if r.end == i * G => r.end = (i + 1) * G,
                        _ => runs.push(i * G..(i + 1) * G),
                    }
                }
            }
            let flying: Vec<_> = flying.into_iter().map(|(s, l)| s * G..(s + l) * G).collect();
            let plan = requests(&runs, &flying);
            for w in plan.windows(2) {
                prop_assert!(w[0].end <= w[1].start);
            }
            let inside = |x: u64, set: &[Range<u64>]| set.iter().any(|r| r.contains(&x));
            for (i, &m) in missing.iter().enumerate() {
                let at = i as u64 * G;
                if m {
                    prop_assert!(inside(at, &plan) != inside(at, &flying));
                }
            }
            for r in &plan {
                prop_assert!(r.end - r.start <= MAX_REQUEST);
                prop_assert!(!flying.iter().any(|f| f.start < r.end && r.start < f.end));
            }
        }
    }
}
