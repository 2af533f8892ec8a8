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
        // Of 64 connections 16, and 24 more, beside the 16 of read-ahead inside of files.
        let always = (fetcher.busy / 2).saturating_sub(PREFETCH_REQUESTS.min(fetcher.busy / 4));
        Turns {
            always: Semaphore::new(always.max(1)),
            idle: Semaphore::new(fetcher.busy * 3 / 8),
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
