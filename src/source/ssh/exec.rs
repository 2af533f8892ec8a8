//! A command that runs on a server: its input, its output, and how it ended.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::{Buf, Bytes};
use futures::stream::{BoxStream, StreamExt};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::Connection;
use super::channel::{self, Channel, Incoming, Writer};

/// How much of what a command writes for people is kept, in bytes: the last of it.
const STDERR: usize = 4 * 1024;

/// A running command. Reads give its output, writes go to its input; shutting the writing side tells
/// it that its input has ended.
///
/// Dropped before [`Exec::wait`] saw its end it closes its connection, since what is on the way would
/// come to nobody.
pub struct Exec {
    incoming: BoxStream<'static, Incoming>,
    outgoing: Writer,
    connection: Arc<Connection>,
    left: Bytes,
    stderr: Vec<u8>,
    status: Option<u32>,
    refused: Vec<String>,
    stage: Stage,
}

#[derive(Clone, Copy, PartialEq)]
enum Stage {
    Running,
    /// The output has ended; the status may follow.
    Eof,
    /// The channel is closed.
    Closed,
}

impl Exec {
    pub(super) fn new(channel: Channel, connection: Arc<Connection>, refused: Vec<String>) -> Exec {
        let (incoming, outgoing, end) = channel.split();
        let incoming = futures::stream::unfold((incoming, end), |(mut incoming, end)| async {
            let next = channel::next(&mut incoming).await;
            match next {
                Some(next) => Some((next, (incoming, end))),
                None => {
                    let _ = end.close().await;
                    None
                }
            }
        });
        Exec {
            incoming: incoming.boxed(),
            outgoing,
            connection,
            left: Bytes::new(),
            stderr: Vec::new(),
            status: None,
            refused,
            stage: Stage::Running,
        }
    }

    /// Returns the variables that the server did not set.
    pub fn env_refused(&self) -> &[String] {
        &self.refused
    }

    /// Returns the last 4 KiB of what the command wrote for people so far, without what was told to
    /// the server in confidence.
    pub fn stderr(&self) -> String {
        let text = String::from_utf8_lossy(&self.stderr).trim().to_owned();
        let error = crate::source::Error::new(crate::source::ErrorKind::Server, text);
        self.connection.conceal(error).to_string()
    }

    /// Waits until the command has ended and returns its status; nothing where it was killed, or the
    /// connection broke. Output that was not read is lost.
    pub async fn wait(&mut self) -> Option<u32> {
        while self.stage != Stage::Closed {
            match self.incoming.next().await {
                Some(incoming) => self.take(incoming),
                None => self.stage = Stage::Closed,
            }
        }
        self.status
    }

    fn take(&mut self, incoming: Incoming) {
        match incoming {
            Incoming::Data(data) => self.left = data,
            Incoming::Stderr(data) => {
                self.stderr.extend_from_slice(&data);
                let over = self.stderr.len().saturating_sub(STDERR);
                self.stderr.drain(..over);
            }
            Incoming::Status(status) => self.status = status,
            Incoming::Eof => self.stage = Stage::Eof,
        }
    }
}

impl AsyncRead for Exec {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        loop {
            if !self.left.is_empty() {
                let n = self.left.len().min(buf.remaining());
                buf.put_slice(self.left.get(..n).unwrap_or_default());
                self.left.advance(n);
                return Poll::Ready(Ok(()));
            }
            if self.stage != Stage::Running {
                return Poll::Ready(Ok(()));
            }
            match ready!(self.incoming.poll_next_unpin(context)) {
                Some(incoming) => self.take(incoming),
                // Closed without an end of the output: the connection broke, or it was killed.
                None => {
                    self.stage = Stage::Closed;
                    let why = match self.connection.last_word() {
                        Some(error) => self.connection.conceal(error).to_string(),
                        None if self.status.is_some() => return Poll::Ready(Ok(())),
                        None => "the server closed the channel".to_owned(),
                    };
                    let error = io::Error::new(io::ErrorKind::UnexpectedEof, why);
                    return Poll::Ready(Err(error));
                }
            }
        }
    }
}

impl AsyncWrite for Exec {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.outgoing.as_mut().poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.outgoing.as_mut().poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.outgoing.as_mut().poll_shutdown(context)
    }
}

impl Drop for Exec {
    fn drop(&mut self) {
        if self.stage != Stage::Closed {
            self.connection.close();
        }
    }
}

impl std::fmt::Debug for Exec {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Exec")
            .field("status", &self.status)
            .finish_non_exhaustive()
    }
}
