//! From a reply, which arrives on an async task, to a reader that may block and compute.

use bytes::{Buf, Bytes};
use tokio::sync::mpsc;

use super::super::super::{Error, ErrorKind, Result};

/// How many lines of a reply (64 KiB each at most) may wait for the reader.
const WAITING: usize = 8;

/// Bytes in order.
pub(in super::super) trait Feed {
    /// Returns what is there, waiting for it if need be; nothing at the end.
    fn fill(&mut self) -> Result<&[u8]>;
    /// Takes `n` bytes off the front of that.
    fn consume(&mut self, n: usize);
}

impl Feed for &[u8] {
    fn fill(&mut self) -> Result<&[u8]> {
        Ok(self)
    }

    fn consume(&mut self, n: usize) {
        *self = self.get(n..).unwrap_or_default();
    }
}

/// The end that is filled. To drop it without [`Feeder::end`] is an end too early.
pub(in super::super) struct Feeder(mpsc::Sender<Option<Bytes>>);

/// The end that is read, on a thread that may block.
pub(in super::super) struct Channel {
    receiver: mpsc::Receiver<Option<Bytes>>,
    piece: Bytes,
    ended: bool,
}

/// Returns both ends.
pub(in super::super) fn feed() -> (Feeder, Channel) {
    let (sender, receiver) = mpsc::channel(WAITING);
    let channel = Channel {
        receiver,
        piece: Bytes::new(),
        ended: false,
    };
    (Feeder(sender), channel)
}

impl Feeder {
    /// Hands on some bytes, waiting while the reader is behind. Returns false once it has gone.
    pub(in super::super) async fn push(&self, bytes: Bytes) -> bool {
        self.0.send(Some(bytes)).await.is_ok()
    }

    /// Says that this was all.
    pub(in super::super) async fn end(self) {
        let _ = self.0.send(None).await;
    }
}

impl Feed for Channel {
    fn fill(&mut self) -> Result<&[u8]> {
        while self.piece.is_empty() && !self.ended {
            match self.receiver.blocking_recv() {
                Some(Some(piece)) => self.piece = piece,
                Some(None) => self.ended = true,
                None => {
                    let message = "the pack ended early";
                    return Err(Error::new(ErrorKind::Interrupted, message));
                }
            }
        }
        Ok(&self.piece)
    }

    fn consume(&mut self, n: usize) {
        self.piece.advance(n.min(self.piece.len()));
    }
}
