//! When a worker that died is followed by another, and when no more.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use super::knobs;

/// The pauses before the workers that follow one that died, in order. The first follows at once:
/// readers wait.
const PAUSES: [Duration; 5] = [
    Duration::ZERO,
    Duration::from_millis(100),
    Duration::from_millis(500),
    Duration::from_secs(2),
    Duration::from_secs(5),
];

/// In what time so many may die, and no more.
const WITHIN: Duration = Duration::from_secs(120);

/// A worker that served for so long died of something new.
const WELL: Duration = Duration::from_secs(10);

/// What follows a death.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// Another worker, after this pause.
    Another(Duration),
    /// None: so many died in a row.
    GiveUp(usize),
}

/// The deaths of workers, one after the other.
#[derive(Debug, Default)]
pub(super) struct Restarts(VecDeque<Instant>);

impl Restarts {
    /// Takes note of the death of a worker at `now` that had `served` for so long, if it had.
    pub(super) fn died(&mut self, now: Instant, served: Option<Duration>) -> Verdict {
        if served.is_some_and(|served| served >= knobs::time("well", WELL)) {
            self.0.clear();
        }
        while let Some(first) = self.0.front()
            && now.saturating_duration_since(*first) > WITHIN
        {
            self.0.pop_front();
        }
        self.0.push_back(now);
        let count = self.0.len();
        match PAUSES.get(count - 1) {
            Some(pause) => Verdict::Another(*pause),
            None => Verdict::GiveUp(count),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_after_the_other_is_given_up() {
        let mut restarts = Restarts::default();
        let now = Instant::now();
        for pause in PAUSES {
            assert_eq!(restarts.died(now, None), Verdict::Another(pause));
        }
        assert_eq!(restarts.died(now, None), Verdict::GiveUp(6));
    }

    #[test]
    fn who_served_well_begins_anew() {
        let mut restarts = Restarts::default();
        let now = Instant::now();
        for _ in 0..100 {
            assert_eq!(restarts.died(now, Some(WELL)), Verdict::Another(PAUSES[0]));
        }
        let short = Some(WELL - Duration::from_millis(1));
        assert_eq!(restarts.died(now, short), Verdict::Another(PAUSES[1]));
    }

    #[test]
    fn old_deaths_are_forgotten() {
        let mut restarts = Restarts::default();
        let now = Instant::now();
        restarts.died(now, None);
        restarts.died(now, None);
        let later = now + WITHIN + Duration::from_secs(1);
        assert_eq!(restarts.died(later, None), Verdict::Another(PAUSES[0]));
    }
}
