//! One control connection: logged in, and asked one thing at a time.
//!
//! The protocol itself (framing of replies, TLS, data connections) is suppaftp's. Here is what it
//! leaves open: which of EPSV and PASV a server knows, what it offers, listings that are read as
//! they come and within bounds. Paths are always absolute, so that a connection has no state that
//! matters beside its login.
//!
//! Whoever drops a future of these drops the connection with it (see `pool`): a reply that nobody
//! read would be taken for the next one's.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use suppaftp::tokio::{
    AsyncRustlsConnector, AsyncRustlsFtpStream, AsyncRustlsStream, TransferStream,
};
use suppaftp::{FtpError, FtpResult, Mode, Status};
use tokio::io::AsyncReadExt;
use tokio::net::TcpStream;

use super::line::{self, Item, What};
use super::reply::{Reply, broken};
use super::time;
use super::{FtpTls, Server};
use crate::source::{Error, ErrorKind, Result, progress};

/// How long a connection may take to be made, as for HTTP.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// The longest line of a listing, in bytes: a path of PATH_MAX as a link's target, a name, facts.
const LINE: usize = 16 * 1024;

/// The largest listing, in bytes: some ten million names.
const LISTING: u64 = 1 << 30;

/// How much of a listing is read at once, in bytes.
const PIECE: usize = 64 * 1024;

/// A data connection.
pub(super) type Transfer = TransferStream<AsyncRustlsStream>;

/// What a listing is asked for with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Command {
    Mlsd,
    /// With hidden files, where the server takes `ls`'s options.
    ListAll,
    List,
}

impl Command {
    fn text(self) -> &'static str {
        match self {
            Command::Mlsd => "MLSD",
            Command::ListAll => "LIST -a",
            Command::List => "LIST",
        }
    }
}

/// A connection that is logged in.
pub(super) struct Connection {
    ftp: AsyncRustlsFtpStream,
    /// The directory after login, without a slash at its end.
    pub(super) home: String,
    /// Whether it speaks MLSD and MLST.
    pub(super) machine: bool,
    /// Whether it may know REST: it says so, or does not say what it knows.
    pub(super) restarts: bool,
    mode: Mode,
    /// Whether a data connection was ever made.
    proven: bool,
    /// What the next connection begins with.
    prefers_pasv: Arc<AtomicBool>,
    /// Whether a reply is still to come, or the server said goodbye.
    is_spent: bool,
}

impl Connection {
    /// Connects and logs in. A server that has no room for us is [`ErrorKind::Throttled`].
    pub(super) async fn open(server: &Server) -> Result<Connection> {
        let ftp = connect(server).await?;
        let ftp = ftp.passive_stream_builder(|address| {
            let connect = TcpStream::connect(address);
            Box::pin(async move {
                let stream = within(connect).await?;
                let _ = stream.set_nodelay(true);
                Ok(stream)
            })
        });
        let mut connection = Connection {
            ftp,
            home: String::new(),
            machine: false,
            restarts: true,
            mode: Mode::ExtendedPassive,
            proven: false,
            prefers_pasv: server.prefers_pasv.clone(),
            is_spent: false,
        };
        if connection.prefers_pasv.load(Ordering::Relaxed) {
            connection.mode = Mode::Passive;
        }
        connection.ftp.set_mode(connection.mode);
        // The address of a reply to PASV is never believed: it would let a server send us anywhere.
        connection.ftp.set_passive_nat_workaround(true);
        connection.log_in(server).await?;
        connection.learn().await?;
        Ok(connection)
    }

    async fn log_in(&mut self, server: &Server) -> Result<()> {
        if server.tls == FtpTls::Implicit {
            for command in ["PBSZ 0", "PROT P"] {
                self.want(command).await?;
            }
        }
        let password = server.password()?;
        let reply = self.ask(&format!("USER {}", server.user)).await?;
        let reply = match reply.code {
            331 => self.ask_secretly(&format!("PASS {password}")).await?,
            _ => reply,
        };
        match reply.code {
            230 | 232 => Ok(()),
            // Another step is wanted: an account, a token.
            331..=336 => {
                let error = reply.error("the login");
                Err(Error::new(ErrorKind::Denied, error.to_string()))
            }
            _ => Err(reply.error("the login")),
        }
    }

    /// Asks what the server offers, and sets what all transfers share.
    async fn learn(&mut self) -> Result<()> {
        let features = self.ask("FEAT").await?;
        if features.is_ok() {
            let lines = || features.text.lines().map(str::trim);
            let has = |name: &str| lines().any(|line| line.eq_ignore_ascii_case(name));
            self.restarts = has("REST STREAM");
            // A client must not ask before it knows; most need not be asked.
            if has("UTF8") {
                self.ask("OPTS UTF8 ON").await?;
            }
            let facts = lines().find_map(|line| {
                let (name, facts) = line.split_once(' ').unwrap_or((line, ""));
                name.eq_ignore_ascii_case("MLST").then_some(facts)
            });
            if let Some(facts) = facts {
                self.machine = true;
                if let Some(wanted) = wanted_facts(facts) {
                    self.ask(&format!("OPTS MLST {wanted}")).await?;
                }
            }
        }
        self.want("TYPE I").await?;
        let reply = self.want("PWD").await?;
        let home = quoted(&reply.text).filter(|home| home.starts_with('/'));
        let home = home.ok_or_else(|| {
            let what = "a server whose paths do not begin with a slash is not supported";
            Error::new(ErrorKind::Invalid, format!("{what}: {}", reply.words()))
        })?;
        self.home = home.trim_end_matches('/').to_owned();
        Ok(())
    }

    /// Returns whether the server says a reply to nothing: then it is closing, or out of step.
    pub(super) async fn has_spoken(&self) -> bool {
        let socket = self.ftp.get_ref().await;
        let mut byte = [0];
        tokio::time::timeout(Duration::ZERO, socket.peek(&mut byte))
            .await
            .is_ok()
    }

    /// Sends a command and reads its reply, whatever it is.
    pub(super) async fn ask(&mut self, command: &str) -> Result<Reply> {
        // The verb alone: what follows may be long, and the guard's words name the path.
        let verb = command.split(' ').next().unwrap_or_default();
        self.send(command, verb).await
    }

    async fn ask_secretly(&mut self, command: &str) -> Result<Reply> {
        self.send(command, "the password").await
    }

    async fn send(&mut self, command: &str, what: &str) -> Result<Reply> {
        self.is_spent = true;
        // No reply is expected, so that each comes back as one that is not.
        match self.ftp.custom_command(command, &[]).await {
            Err(FtpError::UnexpectedResponse(response)) => self.heard(response.into()),
            Err(error) => Err(broken(error, what)),
            Ok(_) => Err(Error::lied(format!("{what}: a reply that is none"))),
        }
    }

    /// Takes note of a reply that answers all that was asked.
    fn heard(&mut self, reply: Reply) -> Result<Reply> {
        if reply.code < 200 {
            let what = "another reply is to follow where none should";
            return Err(Error::lied(format!("{what}: {}", reply.words())));
        }
        self.is_spent = reply.code == 421;
        Ok(reply)
    }

    /// Returns whether the next reply will be to the next command.
    pub(super) fn is_in_step(&self) -> bool {
        !self.is_spent
    }

    async fn want(&mut self, command: &str) -> Result<Reply> {
        let reply = self.ask(command).await?;
        match reply.is_ok() {
            true => Ok(reply),
            false => Err(reply.error(command)),
        }
    }

    /// Returns what the server says of one file, or its refusal. A server that knows no SIZE
    /// refuses with that.
    pub(super) async fn describe(
        &mut self,
        path: &str,
    ) -> Result<std::result::Result<Item, Reply>> {
        if self.machine {
            let reply = self.ask(&format!("MLST {path}")).await?;
            if reply.is_ok() {
                // The facts are on the second line, behind a blank.
                let line = reply.text.lines().nth(1).unwrap_or_default();
                let line = line.strip_prefix(' ').unwrap_or(line);
                let item = line::machine(line.as_bytes());
                return match item {
                    Some(item) => Ok(Ok(item)),
                    None => Err(Error::lied(format!(
                        "the reply to MLST has no facts: {line}"
                    ))),
                };
            }
            if !reply.is_unknown_command() {
                return Ok(Err(reply));
            }
            self.machine = false;
        }
        let size = self.ask(&format!("SIZE {path}")).await?;
        if size.code != 213 {
            return Ok(Err(size));
        }
        let bytes = size.words().parse();
        let bytes = bytes.map_err(|_| Error::lied(format!("no size: {}", size.text)))?;
        let time = self.ask(&format!("MDTM {path}")).await?;
        let time = match time.code {
            213 => time::compact(time.words()),
            _ if time.is_unknown_command() => None,
            _ => return Ok(Err(time)),
        };
        Ok(Ok(Item {
            name: Vec::new(),
            what: What::File,
            size: Some(bytes),
            time,
            executable: None,
            unique: None,
        }))
    }

    /// Lists a directory, a line at a time, or returns the server's refusal.
    pub(super) async fn list(
        &mut self,
        directory: &str,
        command: Command,
        mut each: impl FnMut(&[u8]) + Send,
    ) -> Result<std::result::Result<(), Reply>> {
        // Not as an argument: LIST takes options and patterns there, and an empty listing of what
        // is not there is common.
        let reply = self.ask(&format!("CWD {directory}")).await?;
        if !reply.is_ok() {
            return Ok(Err(reply));
        }
        let mut transfer = match self.transfer(command.text(), 0).await? {
            Ok(transfer) => transfer,
            Err(reply) => return Ok(Err(reply)),
        };
        let interrupted = |e: std::io::Error| {
            Error::new(ErrorKind::Interrupted, format!("the listing broke: {e}"))
        };
        let mut rest = bytes::BytesMut::with_capacity(PIECE);
        let mut total = 0;
        loop {
            rest.reserve(PIECE);
            let read = transfer.read_buf(&mut rest).await.map_err(interrupted)?;
            total += read as u64;
            while let Some(at) = rest.iter().position(|b| *b == b'\n') {
                let line = rest.split_to(at + 1);
                each(without_end(&line));
            }
            if rest.len() > LINE || total > LISTING {
                return Err(Error::lied(
                    "a listing without an end, or with a line without one",
                ));
            }
            if read == 0 {
                break;
            }
            progress::note();
        }
        if !rest.is_empty() {
            each(without_end(&rest));
        }
        match self.finish(transfer).await? {
            reply if reply.is_ok() => Ok(Ok(())),
            reply => Ok(Err(reply)),
        }
    }

    /// Starts to read a file from `offset`, or returns the server's refusal.
    pub(super) async fn retrieve(
        &mut self,
        path: &str,
        offset: u64,
    ) -> Result<std::result::Result<Transfer, Reply>> {
        let offset = usize::try_from(offset)
            .map_err(|_| Error::new(ErrorKind::Invalid, "an offset beyond this machine's"))?;
        self.transfer(&format!("RETR {path}"), offset).await
    }

    async fn transfer(
        &mut self,
        command: &str,
        offset: usize,
    ) -> Result<std::result::Result<Transfer, Reply>> {
        let verb = command.split(' ').next().unwrap_or_default();
        self.is_spent = true;
        loop {
            // Sent right before the command, as it must be.
            let restart = self.ftp.resume_transfer(offset).await;
            restart.map_err(|e| broken(e, verb))?;
            let opened = [Status::AboutToSend, Status::AlreadyOpen];
            let error = match self.ftp.custom_data_command(command, &opened).await {
                Ok((_, transfer)) => {
                    self.proven = true;
                    return Ok(Ok(transfer));
                }
                Err(error) => error,
            };
            let FtpError::UnexpectedResponse(response) = error else {
                if !self.proven {
                    // A firewall may follow one of the two and not the other: the next
                    // connection tries that.
                    self.prefers_pasv.fetch_xor(true, Ordering::Relaxed);
                }
                return Err(broken(error, verb));
            };
            let reply = self.heard(response.into())?;
            // Perhaps it was EPSV that it does not know.
            let retry = reply.is_unknown_command() && self.mode == Mode::ExtendedPassive;
            if !retry || self.proven || self.is_v6().await {
                return Ok(Err(reply));
            }
            self.is_spent = true;
            self.mode = Mode::Passive;
            self.ftp.set_mode(Mode::Passive);
            self.prefers_pasv.store(true, Ordering::Relaxed);
        }
    }

    async fn is_v6(&self) -> bool {
        let peer = self.ftp.get_ref().await.peer_addr();
        peer.is_ok_and(|peer| peer.ip().to_canonical().is_ipv6())
    }

    /// Closes a data connection, at its end or before, and returns the server's last word on it.
    /// After that the connection is in step.
    pub(super) async fn finish(&mut self, transfer: Transfer) -> Result<Reply> {
        match transfer.finish().await {
            Ok(()) => self.heard(Reply {
                code: 226,
                text: "226".into(),
            }),
            Err(FtpError::UnexpectedResponse(response)) => self.heard(response.into()),
            Err(error) => Err(broken(error, "the end of a transfer")),
        }
    }
}

async fn connect(server: &Server) -> Result<AsyncRustlsFtpStream> {
    let address = (server.host.as_str(), server.port);
    let unreachable = |error: FtpError| {
        let error = broken(error, "cannot connect");
        match error.kind() {
            // Closed before a word: nothing that speaks FTP is there, or it has no room.
            ErrorKind::Interrupted => Error::new(ErrorKind::Unreachable, error.to_string()),
            _ => error,
        }
    };
    if server.tls == FtpTls::Implicit {
        let connector: AsyncRustlsConnector = server.certificates.connector().await?.into();
        let connect =
            AsyncRustlsFtpStream::connect_secure_implicit(address, connector, &server.host);
        return connect.await.map_err(unreachable);
    }
    let stream = within(TcpStream::connect(address))
        .await
        .map_err(unreachable)?;
    let _ = stream.set_nodelay(true);
    let ftp = AsyncRustlsFtpStream::connect_with_stream(stream)
        .await
        .map_err(unreachable)?;
    if server.tls == FtpTls::None {
        return Ok(ftp);
    }
    let connector: AsyncRustlsConnector = server.certificates.connector().await?.into();
    match ftp.into_secure(connector, &server.host).await {
        Ok(ftp) => Ok(ftp),
        Err(FtpError::UnexpectedResponse(response)) => {
            let error = Reply::from(response).error("AUTH TLS");
            let kind = match error.kind() {
                ErrorKind::Throttled | ErrorKind::Unreachable => error.kind(),
                _ => ErrorKind::Invalid,
            };
            let what = "the server does not do TLS here, and without it nothing is sent";
            Err(Error::new(kind, format!("{what}: {error}")))
        }
        Err(error) => Err(unreachable(error)),
    }
}

/// Bounds how long a TCP connection may take.
async fn within(connect: impl Future<Output = std::io::Result<TcpStream>>) -> FtpResult<TcpStream> {
    let connected = tokio::time::timeout(CONNECT_TIMEOUT, connect).await;
    let connected = connected.unwrap_or_else(|_| {
        let what = format!("no connection within {CONNECT_TIMEOUT:?}");
        // Not the kind TimedOut: nothing answered, as with a refusal.
        Err(std::io::Error::new(
            std::io::ErrorKind::HostUnreachable,
            what,
        ))
    });
    connected.map_err(FtpError::ConnectionError)
}

/// Returns which facts to ask for, if the server would not tell all that it can by itself.
fn wanted_facts(offered: &str) -> Option<String> {
    let ours = ["type", "size", "modify", "unique", "unix.mode"];
    let mut wanted = String::new();
    let mut is_off = false;
    for fact in offered.split(';') {
        let name = fact.trim_end_matches('*').trim();
        if ours.iter().any(|own| own.eq_ignore_ascii_case(name)) {
            is_off |= !fact.ends_with('*');
            wanted.push_str(name);
            wanted.push(';');
        }
    }
    is_off.then_some(wanted)
}

/// Returns what stands between the quotes of a reply to PWD.
fn quoted(text: &str) -> Option<String> {
    let (from, to) = (text.find('"')?, text.rfind('"')?);
    let inside = text.get(from + 1..to)?;
    let is_path = !inside.contains(char::is_control);
    is_path.then(|| inside.replace("\"\"", "\""))
}

fn without_end(line: &[u8]) -> &[u8] {
    let line = line.strip_suffix(b"\n").unwrap_or(line);
    line.strip_suffix(b"\r").unwrap_or(line)
}

/// So that a pool can hold connections of any future.
const _: fn() = || {
    fn is_send<T: Send>() {}
    is_send::<Connection>();
    is_send::<Pin<Box<Transfer>>>();
};

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn facts_that_are_off_are_asked_for() {
        let all = "type*;perm*;size*;modify*;unique*;unix.mode*;";
        assert_eq!(wanted_facts(all), None);
        let some = "Type*;Size*;Modify;UNIX.mode;X.y*;";
        assert_eq!(
            wanted_facts(some).as_deref(),
            Some("Type;Size;Modify;UNIX.mode;")
        );
        assert_eq!(wanted_facts(""), None);
    }

    #[test]
    fn the_directory_after_login() {
        assert_eq!(
            quoted("257 \"/a \"\"b\"\"\" is it").as_deref(),
            Some("/a \"b\"")
        );
        assert_eq!(quoted("257 \"/\"").as_deref(), Some("/"));
        for bad in ["257 /a", "257 \"", "", "257 \"/a\r\nDELE x\""] {
            assert_eq!(quoted(bad), None, "{bad}");
        }
    }
}
