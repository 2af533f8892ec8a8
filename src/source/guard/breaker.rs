//! A circuit breaker: a source that is down is not asked for a while, so that its readers fail at
//! once instead of each waiting for a deadline.
//!
//! Pure logic: the present time comes in as an argument.

use std::time::Duration;

use tokio::time::Instant;

/// How many outages in a row open the circuit. One may be a lost packet.
const TRIP: u32 = 3;

/// How long the circuit is open the first time.
const FIRST_PAUSE: Duration = Duration::from_secs(1);

/// How long it is open at most: a source that came back is noticed within this time.
const LONGEST_PAUSE: Duration = Duration::from_secs(30);

#[derive(Debug)]
enum State {
    /// All goes through; so many outages in a row were seen.
    Closed { outages: u32 },
    /// Nothing goes through until then.
    Open { until: Instant, pause: Duration },
    /// One attempt is under way to see whether the source is back.
    Probing { pause: Duration },
}

/// The breaker of one source.
#[derive(Debug)]
pub(super) struct Breaker {
    state: State,
}

impl Breaker {
    pub(super) fn new() -> Breaker {
        Breaker {
            state: State::Closed { outages: 0 },
        }
    }

    /// Returns whether a request may be sent now; otherwise how long to wait.
    pub(super) fn admit(&mut self, now: Instant) -> Result<(), Duration> {
        match self.state {
            State::Closed { .. } => Ok(()),
            State::Open { until, .. } if now < until => Err(until - now),
            State::Open { pause, .. } => {
                self.state = State::Probing { pause };
                Ok(())
            }
            State::Probing { pause } => Err(pause),
        }
    }

    /// Notes that the source answered, be it with an error of its own.
    pub(super) fn answered(&mut self) {
        self.state = State::Closed { outages: 0 };
    }

    /// Notes that no answer came.
    pub(super) fn outage(&mut self, now: Instant) {
        self.state = match self.state {
            State::Closed { outages } if outages + 1 < TRIP => State::Closed {
                outages: outages + 1,
            },
            State::Closed { .. } => State::Open {
                until: now + FIRST_PAUSE,
                pause: FIRST_PAUSE,
            },
            State::Probing { pause } => {
                let pause = (pause * 2).min(LONGEST_PAUSE);
                State::Open {
                    until: now + pause,
                    pause,
                }
            }
            // A request that was sent before the circuit opened.
            State::Open { until, pause } => State::Open { until, pause },
        };
    }

    /// Notes that nobody waits for a request any more that was admitted. If it was the probe,
    /// the next request is.
    pub(super) fn abandoned(&mut self, now: Instant) {
        if let State::Probing { pause } = self.state {
            self.state = State::Open { until: now, pause };
        }
    }

    /// Returns whether requests are refused now.
    pub(super) fn is_open(&self, now: Instant) -> bool {
        self.pause(now).is_some()
    }

    /// Returns for how long requests are refused from now on, about; nothing if they are not.
    pub(super) fn pause(&self, now: Instant) -> Option<Duration> {
        match self.state {
            State::Closed { .. } => None,
            State::Open { until, .. } => (now < until).then(|| until - now),
            State::Probing { pause } => Some(pause),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn opens_after_three_probes_once_and_closes() {
        let mut breaker = Breaker::new();
        for _ in 0..TRIP {
            assert!(breaker.admit(Instant::now()).is_ok());
            breaker.outage(Instant::now());
        }
        assert!(breaker.is_open(Instant::now()));
        assert!(breaker.admit(Instant::now()).is_err());

        tokio::time::advance(FIRST_PAUSE).await;
        assert!(breaker.admit(Instant::now()).is_ok(), "one probe");
        assert!(breaker.admit(Instant::now()).is_err(), "and no other");
        breaker.outage(Instant::now());
        tokio::time::advance(FIRST_PAUSE).await;
        assert!(breaker.admit(Instant::now()).is_err(), "twice as long now");
        tokio::time::advance(FIRST_PAUSE).await;
        assert!(breaker.admit(Instant::now()).is_ok());
        breaker.answered();
        assert!(breaker.admit(Instant::now()).is_ok());
        assert!(breaker.admit(Instant::now()).is_ok());
    }

    #[tokio::test(start_paused = true)]
    async fn pauses_end_at_the_longest_and_abandoned_probes_are_replaced() {
        let mut breaker = Breaker::new();
        for _ in 0..TRIP {
            breaker.outage(Instant::now());
        }
        for _ in 0..10 {
            tokio::time::advance(LONGEST_PAUSE).await;
            assert!(breaker.admit(Instant::now()).is_ok());
            breaker.outage(Instant::now());
        }
        tokio::time::advance(LONGEST_PAUSE).await;
        assert!(breaker.admit(Instant::now()).is_ok());
        assert!(breaker.admit(Instant::now()).is_err());
        breaker.abandoned(Instant::now());
        assert!(breaker.admit(Instant::now()).is_ok());
    }

    #[test]
    fn an_answer_starts_the_count_anew() {
        let mut breaker = Breaker::new();
        let now = Instant::now();
        for _ in 0..10 {
            breaker.outage(now);
            breaker.outage(now);
            breaker.answered();
        }
        assert!(!breaker.is_open(now));
    }
}
