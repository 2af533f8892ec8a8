//! The connections of a source, and the sessions on them.
//!
//! A session serves any number of operations at once, so that nobody leases one for himself: an
//! operation is given the least busy one. More are opened, one at a time (servers turn away those who
//! log in in crowds), while all are busy; a few on each connection, since a server has a limit there,
//! and more connections, since a connection's encryption is the work of one processor. A lock, held
//! for a few instructions.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use tokio::sync::Semaphore;
use tokio::time::Instant;

use super::session::Session;
use crate::source::confidence::Confidences;
use crate::source::ssh::{Connection, SshSettings};
use crate::source::{Error, ErrorKind, Result};

/// How many connections there are at most.
const CONNECTIONS: usize = 4;

/// How many sessions a connection has at most. OpenSSH's server allows ten.
const SESSIONS: usize = 4;

/// How many sessions a connection has before another connection is opened.
const EACH: usize = 2;

/// A session with so many requests under way is busy.
const BUSY: usize = 24;

/// A session that is silent for so long is not given to others while there is another.
const SLOW: Duration = Duration::from_secs(5);

/// A session that is silent for so long is ended, and its connection with it: a disk behind the
/// server hangs, or the server does.
const STUCK: Duration = Duration::from_secs(60);

/// For how long nobody tries again to open more than there is, once that failed.
const PAUSE: Duration = Duration::from_secs(10);

/// For how long a refused login is not repeated: a crowd of readers, each of whom is refused, looks
/// like somebody who guesses passwords.
const REFUSED: Duration = Duration::from_secs(2);

pub(super) struct Pool {
    settings: SshSettings,
    confidences: Arc<Confidences>,
    state: Mutex<State>,
    /// Who opens something.
    gate: Semaphore,
}

#[derive(Default)]
struct State {
    lines: Vec<Line>,
    /// Until when nothing is opened as long as there is something.
    enough_until: Option<Instant>,
    refused: Option<(Instant, Error)>,
}

struct Line {
    connection: Weak<Connection>,
    sessions: Vec<Arc<Session>>,
    /// How many sessions the server allows.
    limit: usize,
}

/// What is to be done for an operation.
enum Next {
    Use(Arc<Session>),
    /// Open a session on this connection, or on a new one.
    Open(Option<Arc<Connection>>, Option<Arc<Session>>),
    Fail(Error),
}

impl Pool {
    pub(super) fn new(settings: SshSettings, confidences: Arc<Confidences>) -> Pool {
        Pool {
            settings,
            confidences,
            state: Mutex::default(),
            gate: Semaphore::new(1),
        }
    }

    /// Returns a session for an operation.
    pub(super) async fn session(&self) -> Result<Arc<Session>> {
        match self.state().next() {
            Next::Use(session) => return Ok(session),
            Next::Fail(error) => return Err(error),
            // Somebody opens one already: there is no need to wait for that.
            Next::Open(_, Some(session)) if self.gate.available_permits() == 0 => {
                return Ok(session);
            }
            Next::Open(..) => {}
        }
        let stopped = |_| Error::new(ErrorKind::Unreachable, "the program is ending");
        let _gate = self.gate.acquire().await.map_err(stopped)?;
        // Twice: where the first connection allows no more, on another one.
        for _ in 0..2 {
            let (on, fallback) = match self.state().next() {
                Next::Use(session) => return Ok(session),
                Next::Fail(error) => return Err(error),
                Next::Open(on, fallback) => (on, fallback),
            };
            let error = match self.open(on.clone()).await {
                Ok(session) => return Ok(session),
                Err(error) => error,
            };
            let mut state = self.state();
            if let Some(full) = on.filter(|_| error.kind() == ErrorKind::Throttled) {
                state.is_full(&full);
                continue;
            }
            if let Some(session) = fallback {
                state.enough_until = Some(Instant::now() + PAUSE);
                return Ok(session);
            }
            if error.kind() == ErrorKind::Denied {
                state.refused = Some((Instant::now() + REFUSED, error.clone()));
            }
            return Err(error);
        }
        let what = "the server opens no channel for SFTP (sshd_config: MaxSessions)";
        self.state()
            .any()
            .ok_or_else(|| Error::new(ErrorKind::Throttled, what))
    }

    async fn open(&self, on: Option<Arc<Connection>>) -> Result<Arc<Session>> {
        let connection = match on {
            Some(connection) => connection,
            None => {
                let noted = self.confidences.clone();
                Arc::new(Connection::connect_noting(&self.settings, noted).await?)
            }
        };
        let session = Arc::new(Session::open(connection.clone()).await?);
        let mut state = self.state();
        state.refused = None;
        let is_it = |line: &&mut Line| std::ptr::eq(line.connection.as_ptr(), &*connection);
        match state.lines.iter_mut().find(is_it) {
            Some(line) => line.sessions.push(session.clone()),
            None => state.lines.push(Line {
                connection: Arc::downgrade(&connection),
                sessions: vec![session.clone()],
                limit: SESSIONS,
            }),
        }
        Ok(session)
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn next(&mut self) -> Next {
        self.tidy();
        let now = Instant::now();
        let best = self.any();
        if let Some(session) = &best {
            let is_free = session.load() < BUSY && session.silence() < SLOW;
            if is_free || self.enough_until.is_some_and(|until| now < until) {
                return Next::Use(session.clone());
            }
        } else if let Some((until, error)) = &self.refused
            && now < *until
        {
            return Next::Fail(error.clone());
        }
        let room = |most: usize| {
            let lines = self.lines.iter();
            let with_room = lines.filter(|line| line.sessions.len() < line.limit.min(most));
            let line = with_room.min_by_key(|line| line.sessions.len());
            line.and_then(|line| line.connection.upgrade())
        };
        match (
            room(EACH),
            self.lines.len() < CONNECTIONS,
            room(SESSIONS),
            best,
        ) {
            (Some(connection), _, _, best) => Next::Open(Some(connection), best),
            (None, true, _, best) => Next::Open(None, best),
            (None, false, Some(connection), best) => Next::Open(Some(connection), best),
            (None, false, None, Some(best)) => Next::Use(best),
            // Connections that allow nothing at all.
            (None, false, None, None) => Next::Open(None, None),
        }
    }

    /// Returns the least busy session; of a slow one only where all are.
    fn any(&self) -> Option<Arc<Session>> {
        let all = self.lines.iter().flat_map(|line| &line.sessions);
        let best = all.min_by_key(|session| (session.silence() >= SLOW, session.load()));
        best.cloned()
    }

    /// Lets go of what is over or stuck.
    fn tidy(&mut self) {
        for line in &mut self.lines {
            if line.sessions.iter().any(|s| s.silence() >= STUCK)
                && let Some(connection) = line.connection.upgrade()
            {
                connection.close();
                line.sessions.clear();
            }
            let is_well = |s: &Arc<Session>| !s.is_over() && !s.connection().is_closed();
            line.sessions.retain(is_well);
        }
        // A connection lives by its sessions: those who still use one of them end it with it.
        self.lines.retain(|line| !line.sessions.is_empty());
    }

    fn is_full(&mut self, connection: &Arc<Connection>) {
        let is_it = |line: &&mut Line| std::ptr::eq(line.connection.as_ptr(), &**connection);
        if let Some(line) = self.lines.iter_mut().find(is_it) {
            line.limit = line.sessions.len();
        }
    }
}
