//! One connection: its socket, its handshake, its channels.

use std::borrow::Cow;
use std::net::SocketAddr;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use russh::client::{self, Config, Handle};
use russh::keys::Algorithm;
use russh::{ChannelOpenFailure, Preferred, SshId, cipher};
use tokio::net::TcpStream;

use super::channel::Channel;
use super::exec::Exec;
use super::host_key::{self, Client, Expected, Failure};
use super::{LastWords, SshSettings, auth};
use crate::source::confidence::Confidences;
use crate::source::{Error, ErrorKind, Result};

/// How long connecting and logging in may take, all in all.
const CONNECT: Duration = Duration::from_secs(25);

/// How long each address of a host may take to answer.
const ADDRESS: Duration = Duration::from_secs(8);

/// How long a server may take to open a channel or to start what it is asked for.
const REQUEST: Duration = Duration::from_secs(15);

/// How long a connection is silent before the server is asked whether it is there, and how often it
/// may leave that without an answer.
const KEEPALIVE: Duration = Duration::from_secs(10);
const KEEPALIVES: usize = 2;

/// How long a server may leave what is written unread. Above what the keepalives take.
const STUCK: Duration = Duration::from_secs(45);

/// How much a server may send on a channel before it is told to go on, in bytes: at 20 ms, 400 MB/s.
pub(super) const WINDOW: u32 = 8 * 1024 * 1024;

/// The largest packet, in bytes. OpenSSH sends no larger ones.
const PACKET: u32 = 32 * 1024;

/// How many messages of a channel may wait for their reader: more than a window holds, so that one
/// channel does not hold the others up.
const WAITING: usize = (WINDOW / PACKET) as usize * 2;

/// What OpenSSH's server says instead of its name where too many are logging in.
const BUSY: [&str; 2] = ["Exceeded MaxStartups", "Not allowed at this time"];

/// A connection to a server that was checked, and that let us in. Dropped, it shuts its socket.
pub struct Connection {
    handle: Handle<Client>,
    last_words: LastWords,
    confidences: Arc<Confidences>,
    place: String,
    hangup: Hangup,
}

/// Shuts a socket when dropped, whoever else holds it: its task then ends.
struct Hangup(OwnedFd);

impl Drop for Hangup {
    fn drop(&mut self) {
        // An error means that it is shut already.
        let _ = rustix::net::shutdown(&self.0, rustix::net::Shutdown::Both);
    }
}

impl Connection {
    /// Connects, checks the server's key and logs in, within 25 s. One attempt.
    pub async fn connect(settings: &SshSettings) -> Result<Connection> {
        Connection::connect_noting(settings, Arc::default()).await
    }

    /// As [`Connection::connect`], and notes what was told in confidence where the caller keeps it.
    pub(crate) async fn connect_noting(
        settings: &SshSettings,
        confidences: Arc<Confidences>,
    ) -> Result<Connection> {
        settings.check()?;
        let noted = confidences.clone();
        let connect = async move {
            let read = settings.clone();
            let stopped = |_| Error::new(ErrorKind::Unreachable, "the program is ending");
            let expected = tokio::task::spawn_blocking(move || Expected::read(&read));
            let expected = expected.await.map_err(stopped)??;
            let mut connection = shake_hands(settings, expected, &confidences).await?;
            let done = auth::log_in(&mut connection.handle, settings, &confidences).await;
            match done {
                Ok(()) => Ok(connection),
                // What the server said when it hung up says more than that it did.
                Err(error) => Err(connection.last_word().unwrap_or(error)),
            }
        };
        match tokio::time::timeout(CONNECT, connect).await {
            Ok(result) => result.map_err(|error| noted.conceal(error)),
            Err(_) => Err(Error::new(
                ErrorKind::Timeout,
                format!("{}: no login within {CONNECT:?}", settings.place()),
            )),
        }
    }

    /// Returns whether the connection is of no more use.
    pub fn is_closed(&self) -> bool {
        self.handle.is_closed()
    }

    /// Shuts the connection at once, whoever uses it.
    pub fn close(&self) {
        let _ = rustix::net::shutdown(&self.hangup.0, rustix::net::Shutdown::Both);
    }

    /// Runs a command on the server. `env` is what is set for it beforehand, which servers may
    /// refuse: [`Exec::env_refused`] tells. The command is a line for the user's shell there: whoever
    /// makes it quotes what came from elsewhere.
    ///
    /// An [`Exec`] that is not read holds up everything else on this connection, and one that is
    /// dropped before its end closes it.
    pub async fn exec(self: &Arc<Self>, command: &str, env: &[(&str, &str)]) -> Result<Exec> {
        let mut channel = self.open().await?;
        let mut refused = Vec::new();
        for (name, value) in env {
            if !self.bounded(channel.set_env(name, value)).await? {
                refused.push((*name).to_owned());
            }
        }
        if !self.bounded(channel.exec(command)).await? {
            let what = format!("{} does not run commands", self.place);
            return Err(Error::new(ErrorKind::Invalid, what));
        }
        Ok(Exec::new(channel, self.clone(), refused))
    }

    /// Opens a channel to a subsystem of the server, such as `sftp`.
    #[cfg(feature = "sftp")]
    pub(crate) async fn subsystem(&self, name: &str) -> Result<Channel> {
        let mut channel = self.open().await?;
        match self.bounded(channel.subsystem(name)).await? {
            true => Ok(channel),
            false => Err(Error::new(
                ErrorKind::Invalid,
                format!(
                    "{} has no subsystem {name:?}: who runs it must allow it (sshd_config: \
                     Subsystem {name})",
                    self.place
                ),
            )),
        }
    }

    async fn open(&self) -> Result<Channel> {
        let opened = tokio::time::timeout(REQUEST, self.handle.channel_open_session()).await;
        match opened.unwrap_or(Err(russh::Error::ConnectionTimeout)) {
            Ok(channel) => Ok(Channel::new(channel)),
            Err(russh::Error::ChannelOpenFailure(
                ChannelOpenFailure::AdministrativelyProhibited
                | ChannelOpenFailure::ResourceShortage
                | ChannelOpenFailure::ConnectFailed,
            )) => Err(Error::new(
                ErrorKind::Throttled,
                format!(
                    "{} opens no more channels on this connection (sshd_config: MaxSessions)",
                    self.place
                ),
            )),
            Err(error) => Err(self.explain(protocol(error))),
        }
    }

    async fn bounded<T>(&self, request: impl Future<Output = Result<T>>) -> Result<T> {
        match tokio::time::timeout(REQUEST, request).await {
            Ok(result) => result.map_err(|error| self.explain(error)),
            Err(_) => {
                let what = format!("{}: no answer within {REQUEST:?}", self.place);
                Err(Error::new(ErrorKind::Timeout, what))
            }
        }
    }

    /// Returns why the connection ended, if it has.
    pub(crate) fn last_word(&self) -> Option<Error> {
        let last = self.last_words.lock();
        last.unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Returns the reason for which the connection ended where an error only says that it did.
    fn explain(&self, error: Error) -> Error {
        let error = self.last_word().unwrap_or(error);
        self.confidences.conceal(error)
    }

    /// Returns the error without what was told to the server in confidence.
    pub(crate) fn conceal(&self, error: Error) -> Error {
        self.confidences.conceal(error)
    }
}

impl std::fmt::Debug for Connection {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Connection")
            .field("place", &self.place)
            .finish_non_exhaustive()
    }
}

/// Connects and exchanges keys. A server has a key of several kinds, and which of them a fingerprint
/// is of cannot be told: where the first does not fit, the others are asked for one by one.
async fn shake_hands(
    settings: &SshSettings,
    expected: Expected,
    confidences: &Arc<Confidences>,
) -> Result<Connection> {
    let all = expected.algorithms();
    let several = matches!(expected, Expected::Pinned(_));
    let first = attempt(settings, expected.clone(), all, confidences).await;
    let Err(Stop::Stranger(stranger)) = first else {
        return first.map_err(Stop::into_error);
    };
    if several {
        for kinds in host_key::kinds() {
            match attempt(settings, expected.clone(), kinds, confidences).await {
                Ok(connection) => return Ok(connection),
                Err(Stop::Stranger(_) | Stop::NoSuchKind(_)) => {}
                Err(Stop::Other(error)) => return Err(error),
            }
        }
    }
    Err(stranger)
}

enum Stop {
    Stranger(Error),
    NoSuchKind(Error),
    Other(Error),
}

impl Stop {
    fn into_error(self) -> Error {
        match self {
            Stop::Stranger(error) | Stop::NoSuchKind(error) | Stop::Other(error) => error,
        }
    }
}

async fn attempt(
    settings: &SshSettings,
    expected: Expected,
    algorithms: Vec<Algorithm>,
    confidences: &Arc<Confidences>,
) -> std::result::Result<Connection, Stop> {
    let socket = dial(settings).await.map_err(Stop::Other)?;
    let hangup = socket.as_fd().try_clone_to_owned().map(Hangup);
    let no_copy = |e: std::io::Error| Error::new(ErrorKind::Server, e.to_string());
    let hangup = hangup.map_err(|e| Stop::Other(no_copy(e)))?;
    is_ssh(&socket, settings).await.map_err(Stop::Other)?;
    let last_words = LastWords::default();
    let client = Client {
        settings: settings.clone(),
        expected,
        last_words: last_words.clone(),
    };
    let shaken = client::connect_stream(Arc::new(config(algorithms)), socket, client).await;
    let handle = shaken.map_err(|failed| match failed {
        Failure::Stranger(error) => Stop::Stranger(error),
        Failure::Protocol(russh::Error::NoCommonAlgo { .. }) => {
            Stop::NoSuchKind(failure(failed).context(settings.place()))
        }
        failed => Stop::Other(failure(failed).context(settings.place())),
    })?;
    Ok(Connection {
        handle,
        last_words,
        confidences: confidences.clone(),
        place: settings.place(),
        hangup,
    })
}

fn config(algorithms: Vec<Algorithm>) -> Config {
    Config {
        client_id: SshId::Standard(Cow::Borrowed(concat!(
            "SSH-2.0-svol_",
            env!("CARGO_PKG_VERSION")
        ))),
        window_size: WINDOW,
        maximum_packet_size: PACKET,
        channel_buffer_size: WAITING,
        inactivity_timeout: Some(STUCK),
        keepalive_interval: Some(KEEPALIVE),
        keepalive_max: KEEPALIVES,
        nodelay: true,
        preferred: Preferred {
            key: algorithms.into(),
            // Processors do AES themselves, several times as fast as ChaCha20.
            cipher: Cow::Borrowed(&[
                cipher::AES_256_GCM,
                cipher::CHACHA20_POLY1305,
                cipher::AES_256_CTR,
                cipher::AES_192_CTR,
                cipher::AES_128_CTR,
            ]),
            ..Preferred::DEFAULT
        },
        ..Config::default()
    }
}

async fn dial(settings: &SshSettings) -> Result<TcpStream> {
    let place = settings.place();
    let unreachable = |why: String| Error::new(ErrorKind::Unreachable, why);
    let host = (settings.host.as_str(), settings.port);
    let found = tokio::net::lookup_host(host).await;
    let addresses: Vec<SocketAddr> = found
        .map_err(|e| unreachable(format!("{place}: no such host, or no name server: {e}")))?
        .collect();
    let mut last = format!("{place}: the name has no address");
    for address in addresses {
        match tokio::time::timeout(ADDRESS, TcpStream::connect(address)).await {
            Ok(Ok(socket)) => {
                // Without it each small request waits for the answer to the one before.
                let _ = socket.set_nodelay(true);
                return Ok(socket);
            }
            Ok(Err(e)) => last = format!("{place}: {e}"),
            Err(_) => last = format!("{place}: no connection within {ADDRESS:?}"),
        }
    }
    Err(unreachable(last))
}

/// Looks at the first bytes of a server without taking them: one that has too many visitors says so
/// instead of its name.
async fn is_ssh(socket: &TcpStream, settings: &SshSettings) -> Result<()> {
    let place = settings.place();
    let unreachable = |why| Error::new(ErrorKind::Unreachable, format!("{place}: {why}"));
    let mut first = [0; 32];
    let got = socket.peek(&mut first).await;
    let got = got.map_err(|e| unreachable(format!("the connection broke at its begin: {e}")))?;
    let said = String::from_utf8_lossy(first.get(..got).unwrap_or_default());
    if got == 0 {
        let why = "the server closed the connection before it said anything (too many log in at once, \
                   or it does not want this address)";
        return Err(unreachable(why.to_owned()));
    }
    if BUSY.iter().any(|busy| said.starts_with(busy)) {
        let what = format!("{place}: too many log in at once (sshd_config: MaxStartups)");
        return Err(Error::new(ErrorKind::Throttled, what));
    }
    Ok(())
}

/// Translates a failure of a connection's task.
pub(super) fn failure(failure: Failure) -> Error {
    match failure {
        Failure::Stranger(error) => error,
        Failure::Protocol(error) => protocol(error),
    }
}

/// Translates a failure of the protocol.
pub(super) fn protocol(error: russh::Error) -> Error {
    use russh::Error as E;
    let kind = match &error {
        E::NoCommonAlgo { .. } | E::UnknownAlgo | E::RequestDenied => ErrorKind::Invalid,
        E::Disconnect | E::HUP | E::IO(_) | E::SendError | E::RecvError | E::Pending => {
            ErrorKind::Unreachable
        }
        E::KeepaliveTimeout | E::InactivityTimeout | E::ConnectionTimeout | E::Elapsed(_) => {
            ErrorKind::Timeout
        }
        E::ChannelOpenFailure(_) => ErrorKind::Throttled,
        _ => ErrorKind::Lied,
    };
    let words = match &error {
        E::Disconnect | E::HUP | E::SendError | E::RecvError => {
            "the connection was closed".to_owned()
        }
        E::Version => "this is no SSH server".to_owned(),
        E::KeepaliveTimeout | E::InactivityTimeout => {
            "the server did not answer any more".to_owned()
        }
        other => format!("SSH: {other}"),
    };
    Error::new(kind, words)
}

impl Connection {
    /// Returns where the connection leads, for messages.
    #[cfg(feature = "sftp")]
    pub(crate) fn place(&self) -> &str {
        &self.place
    }
}
