//! The one thread of a process that writes to the index.

use crate::sync::Arc;
use crate::sync::atomic::Ordering;
use crate::sync::mpsc::{Receiver, RecvTimeoutError};
use std::time::{Duration, Instant};

use rusqlite::{Connection, TransactionBehavior};

use super::{Change, Common, Request, identity, schema, set_aside};
use crate::clock::Clock;
use crate::dir::Dir;
use crate::failpoint;
use crate::sync::receive_within;

/// Changes in one transaction: enough to make its cost disappear in theirs.
const BATCH: usize = 512;

/// How long a change that nobody waits for may gather company.
const GATHER: Duration = Duration::from_millis(50);

/// How often to look whether the database is still where it was.
const CHECK: Duration = Duration::from_secs(2);

pub(super) struct Writer {
    common: Arc<Common>,
    connection: Option<Connection>,
    /// The file that the connection is to.
    identity: Option<(u64, u64)>,
    clock: Clock,
    checked: Instant,
}

impl Writer {
    pub(super) fn new(common: Arc<Common>, connection: Connection) -> Self {
        let latest = schema::latest_use(&connection).unwrap_or(0);
        Self {
            identity: identity(&common.dir),
            common,
            connection: Some(connection),
            clock: Clock::new(latest),
            checked: Instant::now(),
        }
    }

    pub(super) fn run(mut self, requests: &Receiver<Request>) {
        loop {
            let first = match requests.recv_timeout(CHECK) {
                Ok(request) => request,
                Err(RecvTimeoutError::Timeout) => {
                    self.check();
                    continue;
                }
                Err(RecvTimeoutError::Disconnected) => return,
            };
            let batch = gather(first, requests);
            let last = batch
                .iter()
                .any(|request| matches!(request.change, Change::Stop));
            if self.checked.elapsed() >= CHECK {
                self.check();
            }
            let committed = self.write(&batch);
            for request in batch {
                if let Some(ack) = request.ack {
                    // Who waited may have given up.
                    let _ = ack.try_send(committed);
                }
            }
            if last {
                return;
            }
        }
    }

    fn write(&mut self, batch: &[Request]) -> bool {
        // A second try is for a database that had to be replaced.
        for _ in 0..2 {
            if self.connection.is_none() {
                self.reopen();
            }
            let now = self.clock.now();
            let Some(connection) = &mut self.connection else {
                break;
            };
            match write_batch(connection, &self.common.dir, batch, now) {
                Ok(used) => {
                    let covered = batch.iter().map(|request| request.change.covered()).sum();
                    self.common.quota.reported(used, covered);
                    return true;
                }
                Err(error) => {
                    self.common.troubles.note("write the index", &error);
                    if !schema::is_damage(&error) {
                        break;
                    }
                    self.replace();
                }
            }
        }
        let covered = batch.iter().map(|request| request.change.covered()).sum();
        self.common.quota.forget(covered);
        false
    }

    /// Sees to a database that was deleted, replaced or found damaged.
    fn check(&mut self) {
        self.checked = Instant::now();
        let nonsense = self.common.nonsense.swap(false, Ordering::Relaxed);
        if nonsense || self.common.damaged.swap(false, Ordering::Relaxed) && self.is_damaged() {
            self.replace();
        } else if self.connection.is_none() || identity(&self.common.dir) != self.identity {
            let troubles = &self.common.troubles;
            troubles.note(
                "find its index",
                &"it was removed or replaced; a new one is begun",
            );
            self.reopen();
        }
    }

    fn is_damaged(&self) -> bool {
        let Some(connection) = &self.connection else {
            return false;
        };
        let verdict: rusqlite::Result<String> =
            connection.query_row("PRAGMA quick_check(1)", [], |row| row.get(0));
        match verdict {
            Ok(verdict) => verdict != "ok",
            Err(error) => schema::is_damage(&error),
        }
    }

    /// Sets a damaged database aside and begins anew.
    fn replace(&mut self) {
        self.connection = None;
        if let Err(error) = set_aside(&self.common.dir, self.identity) {
            self.common.troubles.note("set the index aside", &error);
        }
        self.reopen();
    }

    fn reopen(&mut self) {
        self.connection = None;
        let dir = &self.common.dir;
        let opened = schema::open_for_writing(&dir.index()).or_else(|_| {
            // The directory itself may be gone.
            let _ = dir.lay_out();
            schema::open_for_writing(&dir.index())
        });
        match opened {
            Ok(connection) => {
                self.connection = Some(connection);
                self.identity = identity(dir);
                self.common.epoch.fetch_add(1, Ordering::Release);
            }
            Err(error) => self.common.troubles.note("open the index", &error),
        }
    }
}

/// Collects what comes within a short time; at once when somebody waits.
fn gather(first: Request, requests: &Receiver<Request>) -> Vec<Request> {
    let deadline = Instant::now() + GATHER;
    let mut urgent = first.is_urgent();
    let mut batch = vec![first];
    while batch.len() < BATCH {
        let next = if urgent {
            requests.try_recv().ok()
        } else {
            let left = deadline.saturating_duration_since(Instant::now());
            receive_within(requests, left)
        };
        let Some(next) = next else { break };
        urgent |= next.is_urgent();
        batch.push(next);
    }
    batch
}

impl Request {
    fn is_urgent(&self) -> bool {
        self.ack.is_some() || matches!(self.change, Change::Stop)
    }
}

fn write_batch(
    db: &mut Connection,
    dir: &Dir,
    batch: &[Request],
    now: u64,
) -> rusqlite::Result<u64> {
    let transaction = db.transaction_with_behavior(TransactionBehavior::Immediate)?;
    for request in batch {
        request.change.apply(&transaction, dir, now)?;
    }
    let used = schema::used(&transaction)?;
    failpoint::pass("index.uncommitted");
    transaction.commit()?;
    failpoint::pass("index.committed");
    Ok(used)
}
