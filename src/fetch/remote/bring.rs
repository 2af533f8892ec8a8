//! Bringing all of an object because somebody asked for it, though nobody reads it yet.

use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;
use tokio::sync::Semaphore;
use tokio::time::Instant;

use super::super::plan;
use super::{Remote, blocking};
use crate::source::{Error, Result};

/// How long a piece waits for readers who could use all connections, before it goes anyway.
const YIELD: Duration = Duration::from_secs(10);

/// How often it looks whether they have gone.
const LOOK: Duration = Duration::from_millis(20);

/// Pieces of one object that may wait for their turn at once.
const PIECES: usize = 64;

impl Remote {
    /// Fetches all that is missing, as prefetch does: readers come first, and one who comes to a
    /// piece under way waits for it instead of fetching it again. Returns how many bytes were
    /// missing.
    ///
    /// Each request takes one of `turns`. `came` is called with the bytes of each piece that came.
    /// Dropping this starts nothing more; what is under way comes and is kept.
    pub async fn bring(
        self: &Arc<Self>,
        turns: &Semaphore,
        came: impl Fn(u64) + Sync,
    ) -> Result<u64> {
        let object = self.object.clone();
        let missing = blocking(move || object.missing(0..object.size())).await?;
        let total = missing.iter().map(|run| run.end - run.start).sum();
        let pieces = plan::requests(&missing, &[]);
        let came = &came;
        let bringing = futures::stream::iter(pieces.into_iter().map(|piece| async move {
            let bytes = piece.end - piece.start;
            self.bring_piece(piece, turns).await?;
            came(bytes);
            Ok::<_, Error>(())
        }));
        let mut bringing = bringing.buffer_unordered(PIECES);
        while let Some(result) = bringing.next().await {
            result?;
        }
        // What its source promises of it is looked at now, not when a reader comes.
        self.check_digest(Instant::now()).await?;
        Ok(total)
    }

    async fn bring_piece(self: &Arc<Self>, piece: Range<u64>, turns: &Semaphore) -> Result<()> {
        let _turn = turns.acquire().await.ok();
        let until = Instant::now() + YIELD;
        while self.fetcher.is_busy() && Instant::now() < until {
            tokio::time::sleep(LOOK).await;
        }
        let flight = self.announce(piece);
        let this = self.clone();
        // A task of its own: readers may wait for it when nobody waits here any more.
        let flying = self
            .runtime
            .spawn(async move { this.fly(&flight, this.prefetch_turn(&flight)).await });
        flying.await.map_err(|e| Error::lied(e.to_string()))?
    }
}
