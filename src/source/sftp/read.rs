//! Reading a range of a file, pinned to its version.
//!
//! Several reads are under way at once, each followed by a look at the open file's attributes. A
//! server keeps the order of requests on one handle, and a file's mtime changes before its bytes do:
//! bytes are given on only once the look that came after them shows the version that is pinned.

use std::collections::VecDeque;
use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;
use futures::StreamExt;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::session::{Handle, Pending, Session};
use super::version;
use super::wire::{Ask, Attrs};
use crate::source::{Body, Error, ErrorKind, Result};

/// How much of one body is under way or waits to be taken, in bytes: at 20 ms, 200 MB/s.
const WINDOW: u64 = 4 * 1024 * 1024;

/// How many reads of all bodies of a source are under way beyond the one that each may always have:
/// at 255 KiB, 16 MiB.
pub(super) const AHEAD: usize = 64;

/// A range of an open file.
pub(super) struct Reading {
    session: Arc<Session>,
    handle: Handle,
    pinned: String,
    /// What is asked for next.
    at: u64,
    end: u64,
    queue: VecDeque<Piece>,
    /// Bytes in the queue.
    queued: u64,
    ahead: Arc<Semaphore>,
}

struct Piece {
    at: u64,
    len: u32,
    data: Pending,
    look: Pending,
    _ahead: Option<OwnedSemaphorePermit>,
}

impl Reading {
    pub(super) fn new(
        session: Arc<Session>,
        handle: Handle,
        pinned: String,
        range: Range<u64>,
        ahead: Arc<Semaphore>,
    ) -> Reading {
        Reading {
            session,
            handle,
            pinned,
            at: range.start,
            end: range.end,
            queue: VecDeque::new(),
            queued: 0,
            ahead,
        }
    }

    /// Looks at the file, asks for its first bytes, and returns the body.
    pub(super) async fn start(mut self) -> Result<Body> {
        let look = self.session.ask(Ask::Fstat(self.handle.raw())).await?;
        self.fill().await?;
        let attrs = look.attrs().await?;
        check(&self.pinned, &attrs)?;
        let size = attrs.size.unwrap_or(0);
        let range = self.at_first()..self.end;
        if range.end > size {
            return Err(Error::changed("the file is shorter than what is asked for"));
        }
        let validator = Some(Arc::from(self.pinned.as_str()));
        let stream = futures::stream::try_unfold(self, |mut reading| async {
            let next = reading.next().await?;
            Ok(next.map(|bytes| (bytes, reading)))
        });
        let body = Body {
            range,
            size,
            validator,
            stream: stream.boxed(),
        };
        Ok(body.checked())
    }

    fn at_first(&self) -> u64 {
        self.queue.front().map_or(self.at, |piece| piece.at)
    }

    /// Asks for as much as may be under way.
    async fn fill(&mut self) -> Result<()> {
        while self.at < self.end && self.queued < WINDOW {
            let ahead = match self.queue.is_empty() {
                true => None,
                false => match self.ahead.clone().try_acquire_owned() {
                    Ok(ahead) => Some(ahead),
                    Err(_) => break,
                },
            };
            let longest = u64::from(self.session.longest_read());
            let len = u32::try_from(longest.min(self.end - self.at)).unwrap_or(u32::MAX);
            let piece = self.piece(self.at, len, ahead).await?;
            self.at += u64::from(len);
            self.queued += u64::from(len);
            self.queue.push_back(piece);
        }
        Ok(())
    }

    async fn piece(&self, at: u64, len: u32, ahead: Option<OwnedSemaphorePermit>) -> Result<Piece> {
        let raw = self.handle.raw();
        Ok(Piece {
            at,
            len,
            data: self.session.ask(Ask::Read(raw, at, len)).await?,
            look: self.session.ask(Ask::Fstat(raw)).await?,
            _ahead: ahead,
        })
    }

    /// Returns the next bytes; nothing at the end of the range.
    async fn next(&mut self) -> Result<Option<Bytes>> {
        self.fill().await?;
        let Some(piece) = self.queue.pop_front() else {
            return Ok(None);
        };
        self.queued -= u64::from(piece.len);
        let Piece {
            at,
            len,
            data,
            look,
            _ahead,
        } = piece;
        let data = data.data(len).await?;
        check(&self.pinned, &look.attrs().await?)?;
        let got = u32::try_from(data.len()).unwrap_or(len);
        if got == 0 {
            let what = format!("the server has no bytes at {at}, although the file goes on there");
            return Err(Error::new(ErrorKind::Interrupted, what));
        }
        if got < len {
            // Fewer than asked for is no end: the rest is asked for before what follows.
            let (at, len) = (at + u64::from(got), len - got);
            let rest = self.piece(at, len, _ahead).await?;
            self.queued += u64::from(len);
            self.queue.push_front(rest);
        }
        Ok(Some(data))
    }
}

fn check(pinned: &str, attrs: &Attrs) -> Result<()> {
    if attrs.size.is_none() {
        return Err(Error::lied("the server does not tell an open file's size"));
    }
    match version::pin(attrs) == pinned {
        true => Ok(()),
        false => Err(Error::changed(
            "the file has changed since it was listed (another size or time)",
        )),
    }
}
