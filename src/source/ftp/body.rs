//! A range of a file as it comes over a data connection.
//!
//! FTP pins nothing: a path is opened anew for each transfer. So what the server says of the file
//! is compared with the pinned version before the transfer and after it, and the last piece is
//! handed out only then. A transfer that is not wanted to its end is stopped by closing its data
//! connection, to which a server has one answer; ABOR has several.

use bytes::{Bytes, BytesMut};
use futures::StreamExt;
use futures::stream::BoxStream;
use tokio::io::AsyncReadExt;

use super::connection::Transfer;
use super::pool::Lease;
use super::version;
use crate::entry::{Entry, Timestamp};
use crate::source::{Error, ErrorKind, Result};

/// The most that is handed out at once, in bytes.
const PIECE: usize = 128 * 1024;

/// A transfer under way.
pub(super) struct Reading {
    pub(super) lease: Lease,
    pub(super) transfer: Transfer,
    /// Where the file is, for the server.
    pub(super) path: String,
    /// The version that is pinned.
    pub(super) entry: Entry,
    /// Bytes that are still to come.
    pub(super) left: u64,
    /// Whether the file ends with them.
    pub(super) to_end: bool,
}

impl Reading {
    /// Returns the bytes. Dropped before its end, it closes both connections.
    pub(super) fn into_stream(self) -> BoxStream<'static, Result<Bytes>> {
        futures::stream::unfold(Some(self), |reading| async move {
            let mut reading = reading?;
            let piece = match reading.piece().await {
                Ok(piece) => piece,
                Err(error) => return Some((Err(error), None)),
            };
            let last = match reading.left {
                // It ended too early.
                left if left > 0 && !piece.is_empty() => return Some((Ok(piece), Some(reading))),
                left => reading.end(left).await,
            };
            Some((last.map(|()| piece), None))
        })
        .boxed()
    }

    /// Returns what comes next; nothing at the end of the transfer.
    async fn piece(&mut self) -> Result<Bytes> {
        let room = usize::try_from(self.left).unwrap_or(PIECE).min(PIECE);
        let mut piece = BytesMut::with_capacity(room);
        let mut limited = (&mut self.transfer).take(room as u64);
        let read = limited.read_buf(&mut piece).await.map_err(|error| {
            let what = format!("the transfer broke: {error}");
            Error::new(ErrorKind::Interrupted, what)
        })?;
        self.left = self.left.saturating_sub(read as u64);
        Ok(piece.freeze())
    }

    /// Ends the transfer and makes sure that the file still is the one that was read.
    async fn end(mut self, missing: u64) -> Result<()> {
        let mut byte = [0];
        // Some servers end a TLS connection without saying so; all that was wanted is here.
        let is_longer =
            missing == 0 && self.to_end && matches!(self.transfer.read(&mut byte).await, Ok(1));
        let reply = self.lease.finish(self.transfer).await?;
        match self.lease.describe(&self.path).await? {
            Ok(now) => {
                let now = version::file(self.entry.name.clone(), &now, Timestamp::now());
                if !version::agree(&self.entry, &now) {
                    return Err(Error::changed("the file changed while it was read"));
                }
            }
            Err(reply) if reply.is_about_path() => {
                return Err(Error::changed("the file went away while it was read"));
            }
            // It never told more than its listing did, by which the file was found.
            Err(reply) if reply.is_unknown_command() => {}
            Err(reply) => return Err(reply.error("a question about the file")),
        }
        if is_longer {
            return Err(Error::lied("more bytes came than the file has"));
        }
        self.lease.put_back();
        if missing > 0 {
            let what = format!(
                "the transfer ended {missing} bytes too early: {}",
                reply.words()
            );
            return Err(Error::new(ErrorKind::Interrupted, what));
        }
        Ok(())
    }
}
