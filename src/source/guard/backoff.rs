//! How long to wait before another attempt.
//!
//! `backon` was looked at: its loop takes the decision from a closure over the error, but ours also
//! asks the breaker, the deadline and the counters at each turn, and what is left is this file.

use std::hash::{BuildHasher, RandomState};
use std::time::Duration;

/// The pause before the first repetition. Most hiccups of a network are over by then.
const FIRST: Duration = Duration::from_millis(100);

/// The longest pause of our own choice; beyond it a reader only waits longer for nothing.
const LONGEST: Duration = Duration::from_secs(5);

/// Pauses that double and are jittered, so that many clients do not come back all at once.
#[derive(Debug, Default)]
pub(super) struct Backoff {
    attempts: u32,
}

impl Backoff {
    /// Returns the next pause: at least what the server asked for, else between half of the
    /// doubled pause and the whole of it.
    pub(super) fn next(&mut self, retry_after: Option<Duration>) -> Duration {
        let full = FIRST
            .saturating_mul(1 << self.attempts.min(16))
            .min(LONGEST);
        self.attempts += 1;
        let own = full.mul_f64(0.5 + 0.5 * random());
        match retry_after {
            // A little later than asked: all who were told the same would come at once.
            Some(asked) => asked + own.min(asked / 4),
            None => own,
        }
    }
}

/// Returns a number from 0 to 1, random enough to spread clients.
fn random() -> f64 {
    // The standard library's hasher is keyed at random; a crate would bring no more.
    let bits = RandomState::new().hash_one(0) >> 11;
    bits as f64 / (1u64 << 53) as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_double_up_to_a_bound() {
        let mut backoff = Backoff::default();
        let pauses: Vec<_> = (0..40).map(|_| backoff.next(None)).collect();
        assert!(pauses[0] >= FIRST / 2 && pauses[0] <= FIRST, "{pauses:?}");
        assert!(
            pauses[3] >= FIRST * 4 && pauses[3] <= FIRST * 8,
            "{pauses:?}"
        );
        assert!(pauses.iter().all(|p| *p <= LONGEST));
        assert!(pauses[39] >= LONGEST / 2);
    }

    #[test]
    fn a_server_s_wish_is_honoured() {
        let asked = Duration::from_secs(20);
        let pause = Backoff::default().next(Some(asked));
        assert!(
            pause >= asked && pause <= asked + Duration::from_secs(1),
            "{pause:?}"
        );
        assert_eq!(
            Backoff::default().next(Some(Duration::ZERO)),
            Duration::ZERO
        );
    }

    #[test]
    fn random_numbers_differ() {
        let numbers: Vec<_> = (0..8).map(|_| random()).collect();
        assert!(numbers.iter().all(|n| (0.0..1.0).contains(n)));
        assert!(numbers.windows(2).any(|w| w[0] != w[1]));
    }
}
