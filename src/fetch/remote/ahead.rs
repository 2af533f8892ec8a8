//! An object that is fetched ahead as one of many, for a reader who may come to open it.

use std::sync::atomic::Ordering;
use std::sync::{Arc, PoisonError};

use tracing::debug;

use super::super::flight::Flight;
use super::super::turns::Turns;
use super::{Ending, Remote};

/// What came of fetching an object ahead.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ahead {
    /// It was here already.
    WasHere,
    /// It came.
    Fetched,
    /// It did not come. Whoever opens it asks again.
    Failed,
}

impl Remote {
    /// Starts fetching what is missing before `end`, in the background, and calls `done` with what
    /// came of it. A reader who comes meanwhile waits for this, which then waits for no turn.
    pub fn fetch_ahead(
        self: &Arc<Self>,
        end: u64,
        turns: Arc<Turns>,
        done: impl FnOnce(Ahead) + Send + 'static,
    ) {
        let flight = Flight::new(0..end, false);
        self.flights
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .push(flight.clone());
        let this = self.clone();
        self.runtime.spawn(async move {
            let mut ending = Ending {
                remote: &this,
                flight: &flight,
                result: None,
            };
            let _turn = turns.wait(&this.fetcher, &flight).await;
            let before = this.asked.load(Ordering::Relaxed);
            let result = this.carry(&flight).await;
            let came = match &result {
                Err(error) => {
                    debug!(url = %this.url(), %error, "fetching ahead failed");
                    Ahead::Failed
                }
                Ok(()) if this.asked.load(Ordering::Relaxed) == before => Ahead::WasHere,
                Ok(()) => Ahead::Fetched,
            };
            ending.result = Some(result);
            drop(ending);
            done(came);
        });
    }
}
