//! A limit on bytes per second that all sources of a mount share.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

/// How much may come at once after a pause, as a time at the full rate: long enough that small
/// reads do not wait, short enough that the limit is one.
const BURST: Duration = Duration::from_millis(100);

/// A token bucket without tokens: it keeps the time at which all that was let through will have
/// been paid for.
#[derive(Debug)]
pub struct Bandwidth {
    bytes_per_second: u64,
    paid_at: Mutex<Instant>,
}

impl Bandwidth {
    /// Returns a limit; 0 is taken as 1 byte per second.
    pub fn new(bytes_per_second: u64) -> Bandwidth {
        Bandwidth {
            bytes_per_second: bytes_per_second.max(1),
            paid_at: Mutex::new(Instant::now()),
        }
    }

    /// Waits until `bytes` that have come are paid for; the connection's own flow control then
    /// slows the sender.
    pub(super) async fn pay(&self, bytes: usize) {
        let cost = Duration::from_secs_f64(bytes as f64 / self.bytes_per_second as f64);
        let now = Instant::now();
        let due = {
            let mut paid_at = self.paid_at.lock().unwrap_or_else(PoisonError::into_inner);
            *paid_at = (*paid_at).max(now) + cost;
            *paid_at
        };
        if due > now + BURST {
            tokio::time::sleep_until(due - BURST).await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn the_rate_holds_over_all_who_share_it() {
        let limit = Bandwidth::new(1_000_000);
        let start = Instant::now();
        let one = async {
            for _ in 0..50 {
                limit.pay(100_000).await;
            }
        };
        let two = async {
            for _ in 0..50 {
                limit.pay(100_000).await;
            }
        };
        tokio::join!(one, two);
        // 10 MB at 1 MB/s.
        let took = start.elapsed().as_secs_f64();
        assert!((9.8..=10.1).contains(&took), "{took}");
    }

    #[tokio::test(start_paused = true)]
    async fn a_little_after_a_pause_is_free() {
        let limit = Bandwidth::new(1_000_000);
        tokio::time::advance(Duration::from_secs(10)).await;
        let start = Instant::now();
        limit.pay(50_000).await;
        assert_eq!(start.elapsed(), Duration::ZERO);
        limit.pay(1_000_000).await;
        assert!(
            start.elapsed() >= Duration::from_millis(900),
            "no saving up"
        );
    }
}
