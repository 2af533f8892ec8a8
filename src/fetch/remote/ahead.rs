//! An object that is fetched ahead as one of many, for a reader who may come to open it.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::super::turns::Turns;
use super::Remote;

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
        let flight = self.announce(0..end);
        let this = self.clone();
        self.runtime.spawn(async move {
            let mut before = 0;
            let turn = async {
                let turn = turns.wait(&this.fetcher, &flight).await;
                before = this.asked.load(Ordering::Relaxed);
                turn
            };
            let came = match this.fly(&flight, turn).await {
                Err(_) => Ahead::Failed,
                Ok(()) if this.asked.load(Ordering::Relaxed) == before => Ahead::WasHere,
                Ok(()) => Ahead::Fetched,
            };
            done(came);
        });
    }
}
