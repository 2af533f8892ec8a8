//! What workers order, and how they get to serve.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::DirBuilderExt;
use std::time::Instant;

use tracing::{info, warn};

use super::{Holder, LEAVE, Stall, Which};
use crate::fuse::orders::{Answer, Order};
use crate::holder::connection::Connection;
use crate::holder::history::{self, Change, Reason};
use crate::holder::post::kernel_dir;
use crate::holder::upgrade::Outcome;
use crate::holder::worker::{Stage, Worker};
use crate::notify;

impl Holder {
    /// Carries out what a worker has ordered.
    pub(super) fn obey(&mut self, which: Which) {
        while let Some((order, with)) = self.worker_mut(which).and_then(Worker::order) {
            let mut device = None;
            let done = match order {
                Order::LastWords(said, status) => {
                    if let Some(worker) = self.worker_mut(which) {
                        worker.last_words = Some((said, status));
                    }
                    continue;
                }
                Order::Leaving => {
                    // Up to now it served.
                    if let Some(stall) = &mut self.stall {
                        stall.since = Instant::now();
                    }
                    continue;
                }
                Order::Prepared { reply, version } => {
                    if let Some(worker) = self.worker_mut(which) {
                        worker.stage = Stage::Prepared;
                        (worker.reply, worker.version) = (reply, version);
                    }
                    // It is answered when it is its turn.
                    self.prepared(which);
                    continue;
                }
                Order::Mount => self.connect().map(|(fd, answer)| {
                    device = Some(fd);
                    answer
                }),
                Order::Serving => {
                    self.serving(which);
                    Ok(Answer::default())
                }
                Order::Replace => self
                    .replace(self.program.clone(), Reason::Reload, None)
                    .map(|()| Answer::default())
                    .map_err(io::Error::other),
                Order::History => Ok(Answer {
                    history: serde_json::to_string(&self.history).ok(),
                    ..Answer::default()
                }),
                Order::End => self.unmount(which).map(|()| Answer::default()),
                order => self.duty.obey(order, with),
            };
            let answer = done.unwrap_or_else(|error| Answer::of(&error));
            if let Some(worker) = self.worker(which) {
                let files: Vec<BorrowedFd<'_>> = device.iter().map(AsFd::as_fd).collect();
                worker.answer(&answer, &files);
            }
        }
    }

    /// Mounts if that was not done, and returns what a worker needs to serve.
    pub(super) fn connect(&mut self) -> io::Result<(OwnedFd, Answer)> {
        if self.connection.is_none()
            && let Some(dir) = &self.registration.record().dir
        {
            // What was left of another mount there is nothing to this one.
            let dir = kernel_dir(dir);
            let _ = std::fs::remove_dir_all(&dir);
            std::fs::DirBuilder::new().mode(0o700).create(&dir)?;
        }
        let connection = match &mut self.connection {
            Some(connection) => connection,
            none => none.insert(Connection::open(
                &self.place.mountpoint,
                &self.place.kernel,
            )?),
        };
        let answer = Answer {
            opening: Some(connection.shown()),
            ..Answer::default()
        };
        Ok((connection.device()?, answer))
    }

    /// The worker that serves unmounts because it ends.
    pub(super) fn unmount(&mut self, which: Which) -> io::Result<()> {
        if which == Which::Next {
            return Err(io::ErrorKind::PermissionDenied.into());
        }
        self.end();
        match &mut self.connection {
            Some(connection) => connection.unmount(),
            None => Ok(()),
        }
    }

    /// Goes on with a worker that could serve.
    pub(super) fn prepared(&mut self, which: Which) {
        let suits = match (&self.connection, self.worker(which)) {
            (Some(connection), Some(worker)) => connection.suits(&worker.reply),
            _ => Err("it has not asked for the mount".into()),
        };
        if let Err(why) = suits {
            if let Some(worker) = self.worker_mut(which) {
                worker.last_words = Some((why, 1));
                worker.kill();
            }
            return;
        }
        if which == Which::Current {
            return self.let_go();
        }
        if let (Some(current), Some(next)) = (&mut self.current, &mut self.next) {
            current.leave(LEAVE);
            self.stall = Some(Stall {
                since: Instant::now(),
                reason: next.reason,
                message: String::new(),
                asker: next.asker.take(),
                from: current.described(),
            });
        }
    }

    /// Lets the current worker serve. Nobody else must live that has served.
    pub(super) fn let_go(&mut self) {
        let (Some(worker), Some(connection)) = (&mut self.current, &mut self.connection) else {
            return;
        };
        let answer = match connection.begin(&worker.reply) {
            Ok(()) => Answer::default(),
            Err(error) => Answer::of(&error),
        };
        if self.history.resends {
            // The volume file may name another by now, as this worker has read it.
            self.duty.set_hook((self.place.hook)());
        }
        self.history.resends = connection.resends();
        if !self.has_served
            && let Err(error) = self.registration.publish()
        {
            warn!(%error, "the mount is not registered: `svol status` does not show it");
        }
        worker.stage = Stage::Beginning;
        worker.answer(&answer, &[]);
    }

    pub(super) fn serving(&mut self, which: Which) {
        let (Which::Current, Some(worker)) = (which, &mut self.current) else {
            return;
        };
        worker.stage = Stage::Serving(Instant::now());
        self.program = worker.program.clone();
        self.has_served = true;
        self.watch.reset();
        let Some(stall) = self.stall.take() else {
            return;
        };
        let stall_seconds = stall.since.elapsed().as_secs_f64();
        let to = worker.described();
        *self.history.restarts.entry(stall.reason).or_default() += 1;
        let message = match stall.message.is_empty() {
            true => format!("{to} took over from {}", stall.from),
            false => stall.message,
        };
        let reason = stall.reason.name();
        info!(reason, stall_seconds, what = message, "a new worker serves");
        notify::status(&format!("serving again ({reason}): {message}"));
        self.history.last = Some(Change {
            reason: stall.reason,
            at: history::now(),
            stall_seconds,
            message,
        });
        if let Some(asker) = stall.asker {
            asker.answer(&Outcome {
                refused: None,
                from: stall.from,
                to,
                stall_seconds,
            });
        }
    }
}
