//! A channel of a connection: messages in, bytes out.

use std::pin::Pin;

use bytes::Bytes;
use russh::client::Msg;
use russh::{ChannelMsg, ChannelReadHalf, ChannelWriteHalf};
use tokio::io::AsyncWrite;

use super::connection::protocol;
use crate::source::{Error, Result};

/// A channel that is open.
pub(crate) struct Channel {
    incoming: ChannelReadHalf,
    outgoing: ChannelWriteHalf<Msg>,
}

/// What comes in on a channel.
#[derive(Debug)]
pub(crate) enum Incoming {
    /// Bytes of the stream.
    Data(Bytes),
    /// Bytes of its messages for people.
    Stderr(Bytes),
    /// How the command ended; nothing where a signal ended it.
    Status(Option<u32>),
    /// The stream has ended; other messages may follow.
    Eof,
}

/// The way out of a channel.
pub(crate) type Writer = Pin<Box<dyn AsyncWrite + Send>>;

/// Returns what comes in next of what matters; nothing after the channel's end.
pub(crate) async fn next(incoming: &mut ChannelReadHalf) -> Option<Incoming> {
    /// SSH_EXTENDED_DATA_STDERR.
    const STDERR: u32 = 1;
    loop {
        match incoming.wait().await? {
            ChannelMsg::Data { data } => return Some(Incoming::Data(data)),
            ChannelMsg::ExtendedData { data, ext: STDERR } => return Some(Incoming::Stderr(data)),
            ChannelMsg::ExitStatus { exit_status } => {
                return Some(Incoming::Status(Some(exit_status)));
            }
            ChannelMsg::ExitSignal { .. } => return Some(Incoming::Status(None)),
            ChannelMsg::Eof => return Some(Incoming::Eof),
            ChannelMsg::Close => return None,
            _ => {}
        }
    }
}

impl Channel {
    pub(super) fn new(channel: russh::Channel<Msg>) -> Channel {
        let (incoming, outgoing) = channel.split();
        Channel { incoming, outgoing }
    }

    /// Returns the way in, the way out, and the channel's end to close it by.
    pub(crate) fn split(self) -> (ChannelReadHalf, Writer, ChannelWriteHalf<Msg>) {
        let writer = Box::pin(self.outgoing.make_writer());
        (self.incoming, writer, self.outgoing)
    }

    /// Sets a variable of the environment; returns whether the server takes it.
    pub(super) async fn set_env(&mut self, name: &str, value: &str) -> Result<bool> {
        let asked = self.outgoing.set_env(true, name, value).await;
        asked.map_err(protocol)?;
        self.answer().await
    }

    /// Starts a command; returns whether the server does.
    pub(super) async fn exec(&mut self, command: &str) -> Result<bool> {
        let asked = self.outgoing.exec(true, command).await;
        asked.map_err(protocol)?;
        self.answer().await
    }

    /// Starts a subsystem; returns whether the server has it.
    #[cfg(feature = "sftp")]
    pub(super) async fn subsystem(&mut self, name: &str) -> Result<bool> {
        let asked = self.outgoing.request_subsystem(true, name).await;
        asked.map_err(protocol)?;
        self.answer().await
    }

    /// Waits for the answer to a request. Nothing else comes before the first command is started,
    /// but for what is of no interest.
    async fn answer(&mut self) -> Result<bool> {
        loop {
            match self.incoming.wait().await {
                Some(ChannelMsg::Success) => return Ok(true),
                Some(ChannelMsg::Failure) => return Ok(false),
                Some(ChannelMsg::Data { .. }) => {
                    return Err(Error::lied("data before anything was started"));
                }
                Some(ChannelMsg::Close) | None => return Err(protocol(russh::Error::HUP)),
                Some(_) => {}
            }
        }
    }
}
