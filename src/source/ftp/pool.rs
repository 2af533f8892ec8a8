//! Connections that are kept for the next operation, and how many there may be.
//!
//! A [`Lease`] that is dropped closes its connection; only [`Lease::put_back`] keeps it, and
//! refuses one whose last reply was not read to its end. So a future that is dropped at any point leaves
//! nothing that is out of step. Connections that lie idle are closed after [`IDLE`].
//!
//! One lock, held for a few instructions and never across an await.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::Instant;

use super::Server;
use super::connection::Connection;
use crate::source::{Error, ErrorKind, Result};

/// How long an idle connection is kept. Servers close theirs after one to five minutes.
const IDLE: Duration = Duration::from_secs(45);

/// After how long a connection is asked for a sign of life before it is used: a firewall or server
/// may have forgotten it without a word. It costs a round trip.
const DOUBTFUL: Duration = Duration::from_secs(5);

/// How long a server that had no room for one more connection is not asked for one.
const SHRUNK: Duration = Duration::from_secs(60);

/// The connections of a source.
pub(super) struct Pool {
    pub(super) server: Server,
    permits: Arc<Semaphore>,
    /// As the settings say.
    most: usize,
    state: Mutex<State>,
}

struct State {
    idle: Vec<(Connection, Instant)>,
    /// How many there may be: fewer than the settings say where the server has no room.
    limit: usize,
    shrunk: Option<Instant>,
    /// Whether somebody closes what lies idle.
    is_swept: bool,
}

/// A connection in use.
pub(super) struct Lease {
    connection: Connection,
    pool: Arc<Pool>,
    permit: OwnedSemaphorePermit,
}

impl std::ops::Deref for Lease {
    type Target = Connection;
    fn deref(&self) -> &Connection {
        &self.connection
    }
}

impl std::ops::DerefMut for Lease {
    fn deref_mut(&mut self) -> &mut Connection {
        &mut self.connection
    }
}

impl Pool {
    pub(super) fn new(server: Server, connections: usize) -> Arc<Pool> {
        let most = connections.max(1);
        Arc::new(Pool {
            server,
            permits: Arc::new(Semaphore::new(most)),
            most,
            state: Mutex::new(State {
                idle: Vec::new(),
                limit: most,
                shrunk: None,
                is_swept: false,
            }),
        })
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns a connection that is alive as far as can be told, waiting for one where all are in
    /// use.
    pub(super) async fn get(self: &Arc<Pool>) -> Result<Lease> {
        loop {
            self.grow();
            let permit = self.permits.clone().acquire_owned().await;
            let ending = |_| Error::new(ErrorKind::Unreachable, "the program is ending");
            let permit = permit.map_err(ending)?;
            let connection = match self.idle().await {
                Some(connection) => Ok(connection),
                None => Connection::open(&self.server).await,
            };
            match connection {
                Ok(connection) => {
                    return Ok(Lease {
                        connection,
                        pool: self.clone(),
                        permit,
                    });
                }
                // Others have connections: one of theirs will do.
                Err(error) if error.kind() == ErrorKind::Throttled && self.shrink() => {
                    permit.forget();
                    tracing::info!(%error, "fewer connections to {}", self.server.host);
                }
                Err(error) => return Err(error),
            }
        }
    }

    /// Returns an idle connection that still answers.
    async fn idle(&self) -> Option<Connection> {
        loop {
            // The lock is not held for what follows.
            let popped = self.state().idle.pop();
            let (mut connection, since) = popped?;
            let age = since.elapsed();
            if age >= IDLE || connection.has_spoken().await {
                continue;
            }
            if age < DOUBTFUL {
                return Some(connection);
            }
            let answer = tokio::time::timeout(DOUBTFUL, connection.ask("NOOP")).await;
            if answer.is_ok_and(|reply| reply.is_ok_and(|reply| reply.is_ok())) {
                return Some(connection);
            }
        }
    }

    /// Lowers the limit by one, if others than the caller have a connection or a turn.
    fn shrink(&self) -> bool {
        let mut state = self.state();
        let others = state
            .limit
            .saturating_sub(self.permits.available_permits() + 1);
        if others == 0 {
            return false;
        }
        state.limit -= 1;
        state.shrunk = Some(Instant::now());
        true
    }

    /// Raises the limit by one, some time after it was lowered.
    fn grow(&self) {
        let mut state = self.state();
        if state.limit < self.most && state.shrunk.is_none_or(|at| at.elapsed() >= SHRUNK) {
            state.limit += 1;
            state.shrunk = Some(Instant::now());
            self.permits.add_permits(1);
        }
    }

    /// Closes what has been idle for long; returns whether anything is left.
    fn sweep(&self) -> bool {
        let mut state = self.state();
        state.idle.retain(|(_, since)| since.elapsed() < IDLE);
        state.is_swept = !state.idle.is_empty();
        state.is_swept
    }
}

impl Lease {
    /// Keeps the connection for the next operation, if its last reply was read to its end.
    pub(super) fn put_back(self) {
        let Lease {
            connection,
            pool,
            permit,
        } = self;
        if !connection.is_in_step() {
            return;
        }
        let mut state = pool.state();
        state.idle.push((connection, Instant::now()));
        let is_swept = std::mem::replace(&mut state.is_swept, true);
        drop(state);
        drop(permit);
        if !is_swept {
            tokio::spawn(sweep(Arc::downgrade(&pool)));
        }
    }
}

/// Closes idle connections until there are none. One for a pool, and it ends with that.
async fn sweep(pool: Weak<Pool>) {
    loop {
        tokio::time::sleep(IDLE / 3).await;
        match pool.upgrade() {
            Some(pool) if pool.sweep() => {}
            _ => return,
        }
    }
}
