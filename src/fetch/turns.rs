//! Turns for what is fetched ahead of readers from one source, file by file.
//!
//! Many small files are brought at once, so these take more of a source's connections than
//! read-ahead inside of files does. Some are left to readers always, and half as long as readers
//! wait.

use tokio::sync::{Semaphore, SemaphorePermit};

use super::flight::Flight;
use super::{Fetcher, PREFETCH_REQUESTS};

/// The turns of one source.
#[derive(Debug)]
pub struct Turns {
    /// With read-ahead inside of files, half of the connections.
    always: Semaphore,
    /// Only while no reader waits.
    idle: Semaphore,
}

/// A turn, until it is dropped.
pub(super) type Turn<'a> = SemaphorePermit<'a>;

impl Turns {
    /// Returns turns for a source that `fetcher`'s readers share.
    pub fn new(fetcher: &Fetcher) -> Turns {
        // Of 64 connections 16, and 23 more, beside the 16 of read-ahead inside of files.
        let half = fetcher.busy / 2;
        let always = half.saturating_sub(PREFETCH_REQUESTS).max(1);
        Turns {
            always: Semaphore::new(always),
            idle: Semaphore::new((half - 1).saturating_sub(fetcher.busy / 8)),
        }
    }

    /// Waits for a turn, or until a reader waits for the flight: it then goes without one.
    pub(super) async fn wait(&self, fetcher: &Fetcher, flight: &Flight) -> Option<Turn<'_>> {
        if let Ok(turn) = self.always.try_acquire() {
            return Some(turn);
        }
        let idle = async {
            match self.idle.acquire().await {
                Ok(turn) if !fetcher.is_demanded() => Some(turn),
                _ => std::future::pending().await,
            }
        };
        tokio::select! {
            biased;
            () = flight.urgent.notified() => None,
            turn = self.always.acquire() => turn.ok(),
            turn = idle => turn,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::Ordering;
    use std::time::Duration;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn half_of_the_connections_are_not_used_while_readers_wait_and_some_never() {
        let fetcher = Fetcher::new();
        let turns = Turns::new(&fetcher);
        let soon = Duration::from_millis(10);
        let take = async |flight: &Flight| {
            let turn = turns.wait(&fetcher, flight);
            tokio::time::timeout(soon, turn).await
        };
        let flight = Flight::new(0..1, false);
        let mut taken = Vec::new();
        fetcher.demanded.store(1, Ordering::Relaxed);
        while let Ok(turn) = take(&flight).await {
            taken.push(turn.unwrap());
        }
        assert_eq!(taken.len() + PREFETCH_REQUESTS, fetcher.busy / 2);
        fetcher.demanded.store(0, Ordering::Relaxed);
        while let Ok(turn) = take(&flight).await {
            taken.push(turn.unwrap());
        }
        assert_eq!(taken.len() + PREFETCH_REQUESTS, 55);
        // One that a reader waits for goes without.
        flight.urgent.notify_one();
        assert!(take(&flight).await.unwrap().is_none());
        taken.pop();
        assert!(take(&flight).await.unwrap().is_some());
    }
}
