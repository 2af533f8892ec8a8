//! Connections on which requests follow one another: TCP's, and the channels of SSH.
//!
//! Invariant: a connection is used again only after a reply was read to its last byte. One whose
//! reader went away, or that broke, is closed.

use std::sync::{Arc, Mutex, OnceLock, PoisonError, Weak};
use std::time::{Duration, Instant};

use async_trait::async_trait;
use bytes::{Bytes, BytesMut};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

use super::super::super::{Error, ErrorKind, Result};
use super::{Capabilities, Reply, SILENCE};

/// How long an idle connection is kept. Servers close theirs after some minutes, or at once when a
/// limit of processes is near.
const IDLE: Duration = Duration::from_secs(15);

/// How many idle connections are kept: each is a process at the server.
const MAX_IDLE: usize = 4;

/// How much is read at once, in bytes: the longest line.
const PIECE: usize = 65_536;

/// A connection to `git-upload-pack`.
#[async_trait]
pub(in super::super) trait Duplex: AsyncRead + AsyncWrite + Send + Unpin {
    /// Returns what the server says about an end that came too early, if it says something.
    async fn last_words(&mut self) -> Option<String> {
        None
    }
}

/// Makes connections.
#[async_trait]
pub(in super::super) trait Dial: Send + Sync {
    /// Returns a new connection, on which the server is about to say what it can do.
    async fn dial(&self) -> Result<Box<dyn Duplex>>;
}

/// Connections to one repository.
pub(in super::super) struct Pipes {
    dial: Box<dyn Dial>,
    idle: Arc<Idle>,
    capabilities: OnceLock<Arc<Capabilities>>,
}

type Idle = Mutex<Vec<(Box<dyn Duplex>, Instant)>>;

/// A connection that a reply is read from.
pub(super) struct Lent {
    connection: Box<dyn Duplex>,
    home: Weak<Idle>,
}

impl Lent {
    /// Reads more; returns false at the end.
    pub(super) async fn read(&mut self, buffer: &mut BytesMut) -> Result<bool> {
        buffer.reserve(PIECE);
        match self.connection.read_buf(buffer).await {
            Ok(0) => match self.connection.last_words().await {
                Some(words) => Err(super::refused(&words)),
                None => Ok(false),
            },
            Ok(_) => Ok(true),
            Err(error) => Err(broken(error)),
        }
    }

    /// Puts the connection back.
    pub(super) fn give_back(self) {
        let Some(home) = self.home.upgrade() else {
            return;
        };
        let mut idle = home.lock().unwrap_or_else(PoisonError::into_inner);
        if idle.len() < MAX_IDLE {
            idle.push((self.connection, Instant::now()));
        }
    }
}

impl Pipes {
    /// Returns the connections that `dial` makes; makes none yet.
    pub(in super::super) fn new(dial: Box<dyn Dial>) -> Pipes {
        Pipes {
            dial,
            idle: Arc::default(),
            capabilities: OnceLock::new(),
        }
    }

    pub(super) async fn capabilities(&self) -> Result<Arc<Capabilities>> {
        if let Some(known) = self.capabilities.get() {
            return Ok(known.clone());
        }
        let lent = self.open().await?;
        lent.give_back();
        match self.capabilities.get() {
            Some(known) => Ok(known.clone()),
            None => Err(Error::lied("a server without capabilities")),
        }
    }

    /// Makes a connection and hears what the server can do.
    async fn open(&self) -> Result<Lent> {
        let lent = Lent {
            connection: self.dial.dial().await?,
            home: Arc::downgrade(&self.idle),
        };
        let mut reply = Reply::of_pipe(lent, BytesMut::new());
        let capabilities = Capabilities::read(&mut reply).await?;
        let _ = self.capabilities.set(Arc::new(capabilities));
        match reply.input {
            super::Input::Pipe(lent) if reply.buffer.is_empty() => Ok(lent),
            _ => Err(Error::lied("more than was asked for")),
        }
    }

    fn idle(&self) -> Option<Lent> {
        let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        idle.retain(|(_, since)| since.elapsed() < IDLE);
        let (connection, _) = idle.pop()?;
        Some(Lent {
            connection,
            home: Arc::downgrade(&self.idle),
        })
    }

    pub(super) async fn send(&self, request: Bytes) -> Result<Reply> {
        if let Some(lent) = self.idle() {
            // It may have been closed meanwhile, which shows only now.
            if let Ok(reply) = send_on(lent, &request).await {
                return Ok(reply);
            }
        }
        self.send_anew(request).await
    }

    pub(super) async fn send_anew(&self, request: Bytes) -> Result<Reply> {
        send_on(self.open().await?, &request).await
    }
}

/// Sends a request and waits for the first of its reply.
async fn send_on(mut lent: Lent, request: &Bytes) -> Result<Reply> {
    let exchange = async {
        lent.connection.write_all(request).await.map_err(broken)?;
        lent.connection.flush().await.map_err(broken)?;
        let mut buffer = BytesMut::new();
        match lent.read(&mut buffer).await? {
            true => Ok(buffer),
            false => {
                let message = "the server closed the connection";
                Err(Error::new(ErrorKind::Interrupted, message))
            }
        }
    };
    let silent = |_| Error::new(ErrorKind::Timeout, "the server does not answer");
    let buffer = tokio::time::timeout(SILENCE, exchange)
        .await
        .map_err(silent)??;
    Ok(Reply::of_pipe(lent, buffer))
}

fn broken(error: std::io::Error) -> Error {
    let kind = match error.kind() {
        std::io::ErrorKind::TimedOut => ErrorKind::Timeout,
        _ => ErrorKind::Interrupted,
    };
    Error::new(kind, format!("the connection broke: {error}"))
}
