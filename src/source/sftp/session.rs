//! One SFTP channel: many requests under way at once, each answered by its number.
//!
//! The channel's task alone reads and writes, and packets are whole: whoever drops a request changes
//! nothing for the others, its reply is thrown away when it comes. A handle closes itself when
//! dropped, also one whose opener is gone before it came. A reply that makes no sense ends the
//! session: what is out of step is not used again. One lock, held for a few instructions.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use russh::ChannelReadHalf;
use tokio::io::AsyncWriteExt;
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore, mpsc, oneshot};
use tokio::time::Instant;

use super::wire::{self, Ask, Attrs, Reply};
use crate::source::ssh::{Channel, Connection, Incoming, Writer, next};
use crate::source::{Error, ErrorKind, Result};

/// How many requests of a session may be under way.
const UNDER_WAY: usize = 256;

/// How long a server may take for the first packets.
const GREETING: Duration = Duration::from_secs(15);

/// How long a server may take to take leave.
const LEAVE: Duration = Duration::from_secs(2);

/// The longest read without a server's word that longer ones are fine, in bytes: what every server
/// must be able to.
const SAFE_READ: u32 = 32 * 1024;

/// The longest read that is asked for, in bytes: OpenSSH's limit.
const LONGEST_READ: u32 = 255 * 1024;

/// A channel on which SFTP is spoken. Closed when dropped.
pub(super) struct Session {
    link: Arc<Link>,
    out: mpsc::UnboundedSender<Vec<u8>>,
    room: Arc<Semaphore>,
    longest: u32,
    connection: Arc<Connection>,
}

/// What the session, its task, its handles and those who wait share.
struct Link {
    waiting: Mutex<Waiting>,
    /// The way out; the session holds it open.
    out: mpsc::WeakUnboundedSender<Vec<u8>>,
    /// Tells the task that the session is over.
    over: Notify,
}

struct Waiting {
    replies: HashMap<u32, Waiter>,
    next: u32,
    /// When something came last, or when something was first asked for after a rest.
    alive: Instant,
    ended: Option<Error>,
}

struct Waiter {
    /// Nothing where nobody wants the reply.
    reply: Option<oneshot::Sender<Answer>>,
    _room: Option<OwnedSemaphorePermit>,
}

/// A reply to one who waits.
enum Answer {
    Handle(Handle),
    Other(Reply),
}

/// A file or a directory that the server has open for us. Closed when dropped.
pub(super) struct Handle {
    raw: Bytes,
    link: Arc<Link>,
}

impl Drop for Handle {
    fn drop(&mut self) {
        self.link.tell(Ask::Close(&self.raw));
    }
}

/// A request that is under way.
pub(super) struct Pending {
    reply: oneshot::Receiver<Answer>,
    link: Arc<Link>,
}

impl Link {
    fn waiting(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Puts a request on its way, and its waiter among those who wait.
    fn send(&self, ask: Ask<'_>, waiter: Waiter) {
        let mut waiting = self.waiting();
        let Some(out) = self.out.upgrade().filter(|_| waiting.ended.is_none()) else {
            return;
        };
        while waiting.replies.contains_key(&waiting.next) {
            waiting.next = waiting.next.wrapping_add(1);
        }
        let id = waiting.next;
        waiting.next = id.wrapping_add(1);
        if waiting.replies.is_empty() {
            waiting.alive = Instant::now();
        }
        waiting.replies.insert(id, waiter);
        // Under the lock, so that the order on the wire is that of the numbers. Does not wait: what is
        // under way is bounded, and so is the queue.
        let _ = out.send(ask.packet(id));
    }

    /// Sends a request whose reply nobody wants.
    fn tell(&self, ask: Ask<'_>) {
        let waiter = Waiter {
            reply: None,
            _room: None,
        };
        self.send(ask, waiter);
    }

    /// Ends the session for a reason; the first one stays.
    fn end(&self, why: Error) {
        let replies = {
            let mut waiting = self.waiting();
            waiting.ended.get_or_insert(why);
            std::mem::take(&mut waiting.replies)
        };
        drop(replies);
        self.over.notify_one();
    }

    /// Hands a packet to the one who waits for it.
    fn settle(self: &Arc<Self>, packet: Bytes) -> Result<()> {
        let Some((id, reply)) = wire::reply(packet) else {
            return Err(Error::lied("the server sent a packet that is no reply"));
        };
        let waiter = {
            let mut waiting = self.waiting();
            waiting.alive = Instant::now();
            waiting.replies.remove(&id)
        };
        let Some(waiter) = waiter else {
            return Err(Error::lied("the server replied to what was not asked"));
        };
        let answer = match reply {
            Reply::Handle(raw) => Answer::Handle(Handle {
                raw,
                link: self.clone(),
            }),
            other => Answer::Other(other),
        };
        if let Some(reply) = waiter.reply {
            // One that nobody waits for any more comes back, and closes itself.
            drop(reply.send(answer));
        }
        Ok(())
    }
}

impl Session {
    /// Opens a channel on a connection and greets the server.
    pub(super) async fn open(connection: Arc<Connection>) -> Result<Session> {
        let channel = connection.subsystem("sftp").await?;
        let greeting = greet(channel, connection.place());
        let (talk, has_limits) = match tokio::time::timeout(GREETING, greeting).await {
            Ok(greeted) => greeted?,
            Err(_) => {
                let what = format!("{}: SFTP does not begin", connection.place());
                return Err(Error::new(ErrorKind::Timeout, what));
            }
        };
        let (out, queue) = mpsc::unbounded_channel();
        let link = Arc::new(Link {
            waiting: Mutex::new(Waiting {
                replies: HashMap::new(),
                next: 0,
                alive: Instant::now(),
                ended: None,
            }),
            out: out.downgrade(),
            over: Notify::new(),
        });
        // Ends with the session, with the connection, or when the server hangs up.
        tokio::spawn(talk.run(link.clone(), queue));
        let mut session = Session {
            link,
            out,
            room: Arc::new(Semaphore::new(UNDER_WAY)),
            longest: SAFE_READ,
            connection,
        };
        if has_limits {
            let asked = session.ask(Ask::Limits).await?;
            let reply = tokio::time::timeout(GREETING, asked.wait()).await;
            if let Ok(Ok(Answer::Other(Reply::Extended(limits)))) = reply
                && let Some(longest) = wire::limits(limits)
            {
                let longest = u32::try_from(longest).unwrap_or(u32::MAX);
                session.longest = longest.clamp(SAFE_READ, LONGEST_READ);
            }
        }
        Ok(session)
    }

    /// Sends a request; waits only where too many are under way.
    pub(super) async fn ask(&self, ask: Ask<'_>) -> Result<Pending> {
        let gone = |_| Error::new(ErrorKind::Unreachable, "the session has ended");
        let room = self.room.clone().acquire_owned().await.map_err(gone)?;
        let (reply, pending) = oneshot::channel();
        let waiter = Waiter {
            reply: Some(reply),
            _room: Some(room),
        };
        self.link.send(ask, waiter);
        Ok(Pending {
            reply: pending,
            link: self.link.clone(),
        })
    }

    /// Returns the longest read that the server answers, in bytes.
    pub(super) fn longest_read(&self) -> u32 {
        self.longest
    }

    /// Returns how many requests are under way.
    pub(super) fn load(&self) -> usize {
        self.link.waiting().replies.len()
    }

    /// Returns for how long the server has left all requests without an answer.
    pub(super) fn silence(&self) -> Duration {
        let waiting = self.link.waiting();
        match waiting.replies.is_empty() {
            true => Duration::ZERO,
            false => waiting.alive.elapsed(),
        }
    }

    /// Returns whether the session is of no more use.
    pub(super) fn is_over(&self) -> bool {
        self.link.waiting().ended.is_some() || self.out.is_closed()
    }

    /// Returns the connection that the session is on.
    pub(super) fn connection(&self) -> &Arc<Connection> {
        &self.connection
    }
}

impl Pending {
    async fn wait(self) -> Result<Answer> {
        match self.reply.await {
            Ok(answer) => Ok(answer),
            Err(_) => {
                let ended = self.link.waiting().ended.clone();
                let gone = || Error::new(ErrorKind::Unreachable, "the connection was closed");
                Err(ended.unwrap_or_else(gone))
            }
        }
    }

    /// Waits for anything but a failure, or for the status that the caller knows what to do with.
    async fn not_failed(self) -> Result<(Answer, Arc<Link>)> {
        let link = self.link.clone();
        match self.wait().await? {
            Answer::Other(Reply::Status(code, words)) => Err(super::status::error(code, &words)),
            answer => Ok((answer, link)),
        }
    }

    /// Waits for a handle.
    pub(super) async fn handle(self) -> Result<Handle> {
        match self.not_failed().await? {
            (Answer::Handle(handle), _) => Ok(handle),
            (_, link) => Err(odd(&link)),
        }
    }

    /// Waits for attributes.
    pub(super) async fn attrs(self) -> Result<Attrs> {
        match self.not_failed().await? {
            (Answer::Other(Reply::Attrs(attrs)), _) => Ok(attrs),
            (_, link) => Err(odd(&link)),
        }
    }

    /// Waits for one name.
    pub(super) async fn name(self) -> Result<Bytes> {
        match self.not_failed().await? {
            (Answer::Other(Reply::Names(names)), link) => match <[_; 1]>::try_from(names) {
                Ok([(name, _)]) => Ok(name),
                Err(_) => Err(odd(&link)),
            },
            (_, link) => Err(odd(&link)),
        }
    }

    /// Waits for names; nothing at their end.
    pub(super) async fn names(self) -> Result<Option<Vec<(Bytes, Attrs)>>> {
        let link = self.link.clone();
        match self.wait().await? {
            Answer::Other(Reply::Names(names)) => Ok(Some(names)),
            Answer::Other(Reply::Status(super::status::EOF, _)) => Ok(None),
            Answer::Other(Reply::Status(code, words)) => Err(super::status::error(code, &words)),
            _ => Err(odd(&link)),
        }
    }

    /// Waits for bytes, of which there are at most `most`; nothing at the end of the file.
    pub(super) async fn data(self, most: u32) -> Result<Bytes> {
        let link = self.link.clone();
        match self.wait().await? {
            Answer::Other(Reply::Data(data)) if data.len() <= most as usize => Ok(data),
            Answer::Other(Reply::Status(super::status::EOF, _)) => Ok(Bytes::new()),
            Answer::Other(Reply::Status(code, words)) => Err(super::status::error(code, &words)),
            _ => Err(odd(&link)),
        }
    }
}

impl Handle {
    /// Returns what the server calls it.
    pub(super) fn raw(&self) -> &[u8] {
        &self.raw
    }
}

/// A reply of another kind than was asked for: the session is out of step.
fn odd(link: &Link) -> Error {
    let error = Error::lied("the server replied with something else than was asked for");
    link.end(error.clone());
    error
}

/// Both ways of a channel.
struct Talk {
    incoming: ChannelReadHalf,
    writer: Writer,
    end: russh::ChannelWriteHalf<russh::client::Msg>,
    buffer: BytesMut,
}

/// Exchanges the first packets.
async fn greet(channel: Channel, place: &str) -> Result<(Talk, bool)> {
    let (incoming, writer, end) = channel.split();
    let mut talk = Talk {
        incoming,
        writer,
        end,
        buffer: BytesMut::new(),
    };
    let sent = talk.writer.write_all(&wire::init()).await;
    sent.map_err(|e| broken(&e.to_string()))?;
    let first = read(&mut talk.incoming, &mut talk.buffer).await;
    let first = first.map_err(|error| error.context(place))?;
    match wire::version(first) {
        Some((wire::VERSION, has_limits)) => Ok((talk, has_limits)),
        Some((other, _)) => Err(Error::new(
            ErrorKind::Invalid,
            format!("{place} speaks SFTP {other}, and only version 3 is understood"),
        )),
        None => Err(Error::lied(format!(
            "{place}: SFTP does not begin as it must"
        ))),
    }
}

fn broken(why: &str) -> Error {
    Error::new(
        ErrorKind::Unreachable,
        format!("the connection broke: {why}"),
    )
}

/// Reads until a packet is whole.
async fn read(incoming: &mut ChannelReadHalf, buffer: &mut BytesMut) -> Result<Bytes> {
    loop {
        match wire::split(buffer) {
            Ok(Some(packet)) => return Ok(packet),
            Ok(None) => {}
            Err(len) => {
                return Err(Error::lied(format!(
                    "what the server sends is not SFTP (a packet of {len} bytes); a login script \
                     that prints something does this"
                )));
            }
        }
        match next(incoming).await {
            Some(Incoming::Data(data)) => buffer.extend_from_slice(&data),
            Some(Incoming::Eof) | None => return Err(broken("the server closed the channel")),
            Some(Incoming::Stderr(_) | Incoming::Status(_)) => {}
        }
    }
}

impl Talk {
    async fn run(self, link: Arc<Link>, mut queue: mpsc::UnboundedReceiver<Vec<u8>>) {
        let Talk {
            mut incoming,
            mut writer,
            end,
            mut buffer,
        } = self;
        let reading = async {
            loop {
                match read(&mut incoming, &mut buffer).await {
                    Ok(packet) => {
                        if let Err(error) = link.settle(packet) {
                            break error;
                        }
                    }
                    Err(error) => break error,
                }
            }
        };
        let writing = async {
            while let Some(packet) = queue.recv().await {
                if let Err(e) = writer.write_all(&packet).await {
                    return broken(&e.to_string());
                }
            }
            Error::new(ErrorKind::Unreachable, "the session was closed")
        };
        let why = tokio::select! {
            why = reading => why,
            why = writing => why,
            () = link.over.notified() => Error::new(ErrorKind::Unreachable, "the session is over"),
        };
        link.end(why);
        let _ = tokio::time::timeout(LEAVE, end.close()).await;
    }
}
