//! A worker, as its holder sees it.

use std::ffi::OsString;
use std::io;
use std::net::TcpListener;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustix::net::{AddressFamily, SocketFlags, SocketType};
use rustix::process::{Pid, Signal};

use super::post::{Hello, ROLE, Tell};
use super::program::Program;
use crate::fuse::orders::{Answer, Order, receive_now, send};

/// How far a worker is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Stage {
    /// It reads its settings, opens the cache and so on.
    Starting,
    /// It could serve, and waits for its turn.
    Prepared,
    /// It was let go.
    Beginning,
    /// It serves, since then.
    Serving(Instant),
    /// It was told to leave, and has until then.
    Leaving(Instant),
}

/// A worker.
#[derive(Debug)]
pub(super) struct Worker {
    child: Child,
    /// Nothing once it has closed its end.
    orders: Option<OwnedFd>,
    leash: OwnedFd,
    pub(super) stage: Stage,
    pub(super) since: Instant,
    pub(super) program: Arc<Program>,
    /// The release that it says it is of.
    pub(super) version: String,
    /// What it would reply to the kernel's opening.
    pub(super) reply: Vec<u8>,
    /// Why it ends, and with which status, if it said so.
    pub(super) last_words: Option<(String, u8)>,
    /// Whether it is killed since it did not answer.
    pub(super) is_wedged: bool,
}

/// What a worker is started with.
#[derive(Debug)]
pub(super) struct Start<'a> {
    pub(super) arguments: &'a [OsString],
    pub(super) origin: &'a Path,
    pub(super) log_file: Option<&'a Path>,
    pub(super) hello: Hello,
    pub(super) listener: Option<&'a TcpListener>,
}

impl Worker {
    /// Starts one.
    pub(super) fn start(program: Arc<Program>, start: &Start<'_>) -> io::Result<Worker> {
        let pair = || {
            let (kind, flags) = (SocketType::SEQPACKET, SocketFlags::CLOEXEC);
            rustix::net::socketpair(AddressFamily::UNIX, kind, flags, None)
        };
        let (orders, theirs) = pair()?;
        let (leash, their_leash) = pair()?;
        let (name, arguments) = match start.arguments.split_first() {
            Some((name, arguments)) => (name.clone(), arguments),
            None => ("svol".into(), &[][..]),
        };
        let mut command = Command::new(program.path());
        command
            .arg0(name)
            .args(arguments)
            .env(ROLE, "1")
            .stdin(Stdio::from(theirs))
            .stdout(Stdio::null());
        if let Some(file) = start.log_file {
            command.env("SVOL_LOG_FILE", file);
        }
        // Where it is gone, only relative paths are lost.
        command.current_dir(match start.origin.is_dir() {
            true => start.origin,
            false => Path::new("/"),
        });
        let child = command.spawn()?;
        let worker = Worker {
            child,
            orders: Some(orders),
            leash,
            stage: Stage::Starting,
            since: Instant::now(),
            program,
            version: String::new(),
            reply: Vec::new(),
            last_words: None,
            is_wedged: false,
        };
        let mut files = vec![their_leash.as_fd()];
        files.extend(start.listener.map(AsFd::as_fd));
        if let Some(orders) = &worker.orders {
            // One that is dead already is found so.
            let _ = send(orders, &start.hello, &files);
        }
        Ok(worker)
    }

    /// Returns the number of its process.
    pub(super) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Returns where its orders come, unless it has closed that.
    pub(super) fn orders(&self) -> Option<BorrowedFd<'_>> {
        self.orders.as_ref().map(AsFd::as_fd)
    }

    /// Returns the next order, if one is there.
    pub(super) fn order(&mut self) -> Option<(Order, Vec<OwnedFd>)> {
        match receive_now(self.orders.as_ref()?) {
            Ok(Some(order)) => return Some(order),
            Ok(None) => {}
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return None,
            // It speaks nonsense.
            Err(_) => self.kill(),
        }
        self.orders = None;
        None
    }

    /// Answers its last order.
    pub(super) fn answer(&self, answer: &Answer, files: &[BorrowedFd<'_>]) {
        if let Some(orders) = &self.orders {
            let _ = send(orders, answer, files);
        }
    }

    /// Tells it to answer what it has begun, for which it has `limit`, and to end; it is to be
    /// killed some time later.
    pub(super) fn leave(&mut self, limit: Duration) {
        /// How much longer ending may take than what precedes it.
        const SLACK: Duration = Duration::from_secs(4);
        let _ = send(&self.leash, &Tell::Leave(limit.as_millis() as u64), &[]);
        self.stage = Stage::Leaving(Instant::now() + limit + SLACK);
    }

    /// Passes a signal on.
    pub(super) fn signal(&self, signal: Signal) {
        if let Some(pid) = Pid::from_raw(self.pid() as i32) {
            // Not reaped yet, so the number is still its own.
            let _ = rustix::process::kill_process(pid, signal);
        }
    }

    /// Kills it.
    pub(super) fn kill(&mut self) {
        let _ = self.child.kill();
    }

    /// Kills it, and waits for its end.
    pub(super) fn end(mut self) {
        self.kill();
        let _ = self.child.wait();
    }

    /// Returns how it ended, if it has.
    pub(super) fn ended(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().ok().flatten()
    }

    /// Returns how long it has served, if it does.
    pub(super) fn served(&self) -> Option<Duration> {
        match self.stage {
            Stage::Serving(since) => Some(since.elapsed()),
            _ => None,
        }
    }

    /// Returns how it came to its end, for people.
    pub(super) fn obituary(&self, status: ExitStatus) -> String {
        let how = match (status.signal(), status.code()) {
            _ if self.is_wedged => "it did not answer and was killed".to_owned(),
            (Some(signal), _) => format!("it was ended by signal {signal}"),
            (None, code) => format!("it ended with status {}", code.unwrap_or(-1)),
        };
        match &self.last_words {
            Some((words, _)) => format!("{how}: {words}"),
            None => how,
        }
    }

    /// Returns what it is of, for people.
    pub(super) fn described(&self) -> String {
        format!("svol {} ({})", self.version, self.program.name)
    }
}
