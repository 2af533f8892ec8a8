//! What is done when a worker ends or is late, and at the end.

use std::process::ExitStatus;
use std::time::Instant;

use tracing::{debug, error, warn};

use super::{END, Ended, Error, Holder, PREPARE, Stall, Which};
use crate::holder::connection::Connection;
use crate::holder::history::Reason;
use crate::holder::restarts::Verdict;
use crate::holder::signals::reap_strangers;
use crate::holder::upgrade::Asker;
use crate::holder::watch::Sign;
use crate::holder::worker::{Stage, Worker};
use crate::notify;

impl Holder {
    /// Looks who has ended.
    pub(super) fn reap(&mut self) -> Ended {
        let workers = [Which::Current, Which::Next].map(|which| self.worker(which));
        let ours = workers.into_iter().flatten().map(Worker::pid);
        let others = self.duty.children().into_iter().chain([self.watch.child()]);
        reap_strangers(&ours.chain(others.flatten()).collect::<Vec<_>>());

        if let Some(status) = self.next.as_mut().and_then(|next| next.worker.ended()) {
            // What it said last.
            self.obey(Which::Next);
            if let Some(mut next) = self.next.take() {
                let obituary = next.worker.obituary(status);
                let why = format!("the new worker cannot serve: {obituary}");
                // The old one may be on its way out for it: then that is as a crash.
                let asker = self.stall.as_mut().and_then(|stall| stall.asker.take());
                self.refuse(next.reason, next.asker.take().or(asker), why);
            }
        }
        let status = self.current.as_mut().and_then(Worker::ended)?;
        self.obey(Which::Current);
        let worker = self.current.take()?;
        self.ended(&worker, status)
    }

    /// Goes on after the current worker.
    pub(super) fn ended(&mut self, worker: &Worker, status: ExitStatus) -> Ended {
        let obituary = worker.obituary(status);
        let is_leaving = matches!(worker.stage, Stage::Leaving(_));
        let pid = worker.pid();
        if let Some(mut next) = self.next.take() {
            if is_leaving {
                debug!(pid, obituary, "the old worker left");
            } else {
                warn!(
                    pid,
                    obituary, "the worker died while another prepares to take over"
                );
                self.stalled(worker, &obituary, next.asker.take());
            }
            let is_prepared = next.worker.stage == Stage::Prepared;
            self.current = Some(next.worker);
            if is_prepared {
                self.let_go();
            }
            return None;
        }
        if self.ending.is_some() {
            debug!(pid, obituary, "the worker ended");
            return Some(Ok(()));
        }
        if !self.has_served {
            return Some(Err(match &worker.last_words {
                Some((message, status)) => Error {
                    message: message.clone(),
                    status: *status,
                },
                None => Error::failed(format!("the daemon did not get ready: {obituary}")),
            }));
        }
        if status.success() && !is_leaving {
            return Some(Ok(()));
        }
        if self.connection.as_ref().is_some_and(Connection::is_gone) {
            warn!(pid, obituary, "unmounted, and the worker died");
            return Some(Ok(()));
        }
        self.after_crash(worker, &obituary)
    }

    pub(super) fn after_crash(&mut self, worker: &Worker, obituary: &str) -> Ended {
        let pause = match self.restarts.died(Instant::now(), worker.served()) {
            Verdict::Another(pause) => pause,
            Verdict::GiveUp(count) => {
                let at = self.place.mountpoint.display();
                let message = format!(
                    "{at}: given up and unmounted: its worker died {count} times in a row; the \
                     last time {obituary}"
                );
                error!("{message}");
                return Some(Err(Error::failed(message)));
            }
        };
        error!(pid = worker.pid(), obituary, ?pause, "the worker died");
        notify::status(&format!("the worker died: {obituary}"));
        self.stalled(worker, obituary, None);
        if !self.history.resends && self.place.kernel.origin.is_given() {
            let message = format!(
                "the worker died ({obituary}), and before Linux 6.9 no other can follow it on a \
                 mount that was given"
            );
            error!("{message}");
            return Some(Err(Error::failed(message)));
        }
        if !self.history.resends {
            // Those who wait for a reply that nobody can give would wait for ever.
            warn!("before Linux 6.9 what is open is lost with the worker: mounting anew");
            if let Some(mut connection) = self.connection.take() {
                connection.end();
            }
        }
        self.restart = Some(Instant::now() + pause);
        None
    }

    /// Takes note that nobody serves; of several reasons in a row the first counts.
    pub(super) fn stalled(&mut self, worker: &Worker, message: &str, asker: Option<Asker>) {
        let reason = match worker.is_wedged {
            true => Reason::Wedged,
            false => Reason::Crash,
        };
        let stall = self.stall.get_or_insert_with(|| Stall {
            since: Instant::now(),
            reason,
            message: message.to_owned(),
            asker: None,
            from: worker.described(),
        });
        if asker.is_some() {
            stall.asker = asker;
        }
    }

    /// Does what is due.
    pub(super) fn on_time(&mut self) -> Ended {
        let now = Instant::now();
        let is_due = |at: Option<Instant>| at.is_some_and(|at| at <= now);
        if is_due(self.late_at(Which::Next)) {
            self.drop_next(&format!("the new worker was not ready within {PREPARE:?}"));
        }
        let (is_late, is_over) = (is_due(self.late_at(Which::Current)), is_due(self.ending));
        let is_watched = self.is_watched();
        let Some(worker) = &mut self.current else {
            let is_gone = self.connection.as_ref().is_some_and(Connection::is_gone);
            if self.ending.is_some() || is_gone {
                return Some(Ok(()));
            }
            if is_due(self.restart) {
                self.restart = None;
                match self.start_worker(self.program.clone()) {
                    Ok(worker) => self.current = Some(worker),
                    Err(error) => {
                        let message = format!("a worker cannot be started: {error}");
                        return Some(Err(Error::failed(message)));
                    }
                }
            }
            return None;
        };
        let pid = worker.pid();
        match worker.stage {
            _ if is_late || is_over => {
                warn!(pid, "the worker takes too long, and is killed");
                worker.kill();
                // Once; it is reaped when it is dead.
                worker.since = now;
                self.ending = self.ending.map(|_| now + END);
            }
            Stage::Leaving(until) if until <= now => {
                warn!(pid, "the old worker does not leave, and is killed");
                worker.kill();
                worker.stage = Stage::Leaving(now + END);
            }
            Stage::Serving(_) if is_watched => match self.watch.look() {
                Sign::Wedged => {
                    error!(pid, "the worker does not answer, and is killed");
                    worker.is_wedged = true;
                    worker.kill();
                    self.watch.reset();
                }
                Sign::Alive | Sign::None => {}
            },
            _ => {}
        }
        None
    }

    /// Leaves nothing behind.
    pub(super) fn clean_up(&mut self) {
        self.duty.give_up();
        self.watch.give_up();
        if let Some(worker) = self.current.take() {
            worker.end();
        }
        self.drop_next("the mount has ended");
        if let Some(mut connection) = self.connection.take() {
            connection.end();
        }
        if let Some(asker) = self.stall.take().and_then(|stall| stall.asker) {
            asker.refuse("the mount has ended");
        }
    }
}
