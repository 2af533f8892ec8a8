//! How far away an object's source is and how fast its bytes come: what a read-ahead window has to
//! hold so that the link is never idle. Pure.
//!
//! What is on its way at one time is the product of the two (the bandwidth-delay product, RFC 1072).
//! A window is asked for by halves, and what a larger one would bring shows only once it is there,
//! so the largest window is a multiple of what was measured: it grows as long as that helps.

use std::time::{Duration, Instant};

/// The largest window in bytes where the source is near: 800 MB/s at 40 ms.
const NEAR: u64 = 32 << 20;

/// The largest window of all in bytes: 1.6 GB/s at 40 ms.
const FAR: u64 = 64 << 20;

/// How many times the product the largest window is.
const TIMES: f64 = 4.0;

/// For how long bytes are counted before their rate is taken.
const INTERVAL: Duration = Duration::from_millis(50);

/// What was measured of one object's requests.
#[derive(Debug, Default)]
pub(super) struct Pace {
    /// The time from a request to its first bytes: the least, which slowly grows again, as most
    /// waits are for other requests.
    latency: Option<Duration>,
    /// Bytes since when.
    counted: Option<(Instant, u64)>,
    /// Bytes per second.
    rate: f64,
}

impl Pace {
    /// Takes note of how long a request took to be answered.
    pub(super) fn answered(&mut self, took: Duration) {
        self.latency = Some(match self.latency {
            Some(least) => took.min(least + least / 16),
            None => took,
        });
    }

    /// Takes note of bytes that came.
    pub(super) fn arrived(&mut self, bytes: u64, now: Instant) {
        let (since, before) = self.counted.get_or_insert((now, 0));
        *before += bytes;
        let took = now.saturating_duration_since(*since);
        if took >= INTERVAL {
            let rate = *before as f64 / took.as_secs_f64();
            // A pause of the reader is none of the link's.
            self.rate = rate.max((self.rate + rate) / 2.0);
            self.counted = Some((now, 0));
        }
    }

    /// Returns the largest window that is worth while, in bytes.
    pub(super) fn window(&self) -> u64 {
        let product = self.latency.unwrap_or_default().as_secs_f64() * self.rate;
        // Saturates, as conversions do.
        ((TIMES * product) as u64).clamp(NEAR, FAR)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn pace(latency: Duration, rate: u64) -> Pace {
        let (mut pace, start) = (Pace::default(), Instant::now());
        for n in 0..40 {
            pace.answered(latency);
            pace.arrived(rate / 100, start + Duration::from_millis(10 * n));
        }
        pace
    }

    #[test]
    fn a_window_grows_only_where_the_link_is_long_and_fast() {
        let ms = Duration::from_millis;
        assert_eq!(Pace::default().window(), NEAR);
        assert_eq!(pace(ms(1), 800_000_000).window(), NEAR);
        assert_eq!(pace(ms(100), 10_000_000).window(), NEAR);
        assert_eq!(pace(ms(100), 800_000_000).window(), FAR);
        let between = pace(ms(20), 600_000_000).window();
        assert!((48_000_000..60_000_000).contains(&between), "{between}");
    }

    #[test]
    fn one_slow_answer_is_not_taken_for_distance() {
        let mut pace = pace(Duration::from_millis(1), 800_000_000);
        pace.answered(Duration::from_secs(3));
        assert_eq!(pace.window(), NEAR);
    }

    proptest! {
        #[test]
        fn whatever_is_measured_the_window_is_within_bounds(
            notes in prop::collection::vec((0..10_000u64, 0..u64::from(u32::MAX), 0..10_000u64), 0..50),
        ) {
            let (mut pace, mut now) = (Pace::default(), Instant::now());
            for (latency, bytes, later) in notes {
                pace.answered(Duration::from_millis(latency));
                now += Duration::from_millis(later);
                pace.arrived(bytes, now);
                prop_assert!((NEAR..=FAR).contains(&pace.window()));
            }
        }
    }
}
