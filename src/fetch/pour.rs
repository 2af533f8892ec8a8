//! From a body on the network to the cache, without holding back what has come.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bytes::Bytes;
use futures::StreamExt;
use futures::stream::BoxStream;
use tokio::sync::SemaphorePermit;
use tokio::task::JoinHandle;
use tokio::time::Instant;

use super::claims::Claims;
use super::share::Buffers;
use crate::source::{Error, Result};

/// Bytes gathered from a body at most before they are handed to a blocking thread to be hashed
/// and written: large enough that the hand-over (some 10 us) is lost in the work (some 200 us).
pub(super) const BATCH: usize = 1 << 20;

/// How long a batch waits to become full, counted from its first bytes: each hand-over costs two
/// switches of threads, and a body comes in pieces of a few KiB at first. First while a reader may
/// wait for it, and then while none does.
const LINGER: (Duration, Duration) = (Duration::from_millis(1), Duration::from_millis(8));

/// A body that ended too early.
pub(super) struct Broken {
    pub(super) error: Error,
    /// What was still to come; nothing if it cannot go on.
    pub(super) claims: Option<Claims>,
    /// Bytes of this body that were taken in.
    pub(super) written: usize,
}

impl Broken {
    fn for_good(error: Error) -> Broken {
        Broken {
            error,
            claims: None,
            written: 0,
        }
    }
}

/// What was gathered and not handed over yet, with its share of the memory budget.
#[derive(Default)]
struct Batch<'a> {
    chunks: Vec<Bytes>,
    bytes: usize,
    /// When the first of it came.
    since: Option<Instant>,
    share: Option<SemaphorePermit<'a>>,
    /// Whether the budget is used up: the batch then goes as it is. Slower, but nobody waits for
    /// memory while holding some.
    over_budget: bool,
}

impl<'a> Batch<'a> {
    fn take(&mut self, chunk: Bytes, budget: &'a Buffers, demanded: &AtomicBool) {
        let room = budget.take(chunk.len(), demanded.load(Ordering::Relaxed));
        self.bytes += chunk.len();
        self.since.get_or_insert_with(Instant::now);
        self.chunks.push(chunk);
        match (room, &mut self.share) {
            (Some(more), None) => self.share = Some(more),
            (Some(more), Some(share)) => share.merge(more),
            (None, _) => self.over_budget = true,
        }
    }

    fn is_full(&self) -> bool {
        self.bytes >= BATCH || self.over_budget
    }
}

/// A batch that is being written.
struct Writing<'a> {
    task: JoinHandle<Result<Claims>>,
    bytes: usize,
    _share: Option<SemaphorePermit<'a>>,
}

/// Writes a body into the claimed runs, on blocking threads, while more of it arrives: what has
/// come is written as soon as what came before is and [`LINGER`] is over, in batches of up to
/// [`BATCH`]. `demanded` says whether a reader waits for it; `landed` is told whenever bytes can be
/// read, and how many.
pub(super) async fn pour(
    mut body: BoxStream<'static, Result<Bytes>>,
    claims: Claims,
    budget: &Buffers,
    demanded: &AtomicBool,
    landed: impl Fn(usize),
) -> std::result::Result<(), Broken> {
    let mut claims = Some(claims);
    let mut writing: Option<Writing<'_>> = None;
    let mut batch = Batch::default();
    let mut written = 0;
    let mut ended: Option<Option<Error>> = None;
    loop {
        if let Some(Writing { task, bytes, .. }) = &mut writing {
            tokio::select! {
                result = task => {
                    let bytes = *bytes;
                    writing = None;
                    match result.unwrap_or_else(|e| Err(Error::lied(e.to_string()))) {
                        Ok(back) => claims = Some(back),
                        Err(error) => return Err(Broken::for_good(error)),
                    }
                    landed(bytes);
                }
                next = body.next(), if ended.is_none() && !batch.is_full() => match next {
                    Some(Ok(chunk)) => batch.take(chunk, budget, demanded),
                    end => ended = Some(end.and_then(Result::err)),
                },
            }
            continue;
        }
        if batch.bytes == 0 {
            match ended {
                Some(None) => return Ok(()),
                Some(Some(error)) => {
                    return Err(Broken {
                        error,
                        claims,
                        written,
                    });
                }
                None => match body.next().await {
                    Some(Ok(chunk)) => batch.take(chunk, budget, demanded),
                    end => ended = Some(end.and_then(Result::err)),
                },
            }
            continue;
        }
        if ended.is_none() && !batch.is_full() {
            let linger = match demanded.load(Ordering::Relaxed) {
                true => LINGER.0,
                false => LINGER.1,
            };
            let until = batch.since.unwrap_or_else(Instant::now) + linger;
            match tokio::time::timeout_at(until, body.next()).await {
                Ok(Some(Ok(chunk))) => {
                    batch.take(chunk, budget, demanded);
                    continue;
                }
                Ok(end) => ended = Some(end.and_then(Result::err)),
                Err(_) => {}
            }
        }
        let Some(mut filling) = claims.take() else {
            return Err(Broken::for_good(Error::lied("a fetch lost its claim")));
        };
        let full = std::mem::take(&mut batch);
        written += full.bytes;
        let task = tokio::task::spawn_blocking(move || {
            for chunk in full.chunks {
                filling
                    .push(&chunk)
                    .map_err(|e| Error::lied(format!("the cache refused bytes: {e}")))?;
            }
            Ok(filling)
        });
        writing = Some(Writing {
            task,
            bytes: full.bytes,
            _share: full.share,
        });
    }
}
