//! The holder's loop: what happens to workers, and what is done about it.

use std::ffi::OsString;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::DirBuilderExt;
use std::os::unix::net::UnixListener;
use std::path::PathBuf;
use std::process::ExitStatus;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::process::Signal;
use tracing::{debug, error, info, warn};

use super::connection::Connection;
use super::history::{self, Change, History, Reason, Refusal};
use super::post::{Hello, kernel_dir};
use super::program::Program;
use super::restarts::{Restarts, Verdict};
use super::signals::{Signals, reap_strangers};
use super::upgrade::{Asker, Outcome};
use super::watch::{Sign, Watch};
use super::worker::{Stage, Start, Worker};
use crate::control::registry::Registration;
use crate::control::tcp::Door;
use crate::fuse::mount::MountSettings;
use crate::fuse::orders::{Answer, Duty, Order};
use crate::fuse::runner::Program as Runnable;
use crate::notify;

/// How long a worker that is to take over may take until it is prepared: it opens a cache that
/// others use. The first has no such limit: `--wait` may wait for sources.
const PREPARE: Duration = Duration::from_secs(60);

/// How long a worker that is to leave may take to answer what it has begun. What is left is sent
/// to the next one.
const LEAVE: Duration = Duration::from_secs(1);

/// How long a worker may take to end once it was told to, before it is killed: more than it takes
/// itself for all that it does then, less than what a pod is given.
const END: Duration = Duration::from_secs(15);

/// What a holder is to hold, and how its workers are started.
pub struct Place {
    /// The mount point, absolute and without symbolic links, fit to be mounted on.
    pub mountpoint: PathBuf,
    /// How to mount.
    pub kernel: MountSettings,
    /// Where workers answer over TCP, if they shall.
    pub door: Option<Door>,
    /// The directory in which the command line was given: its relative paths are of there.
    pub origin: PathBuf,
    /// The log file of workers whose command line names none.
    pub log_file: Option<PathBuf>,
    /// Finds out which program is the change hook's: asked at the start, and for each worker.
    pub hook: Box<dyn Fn() -> Option<Runnable>>,
}

/// Why a holder ended early.
#[derive(Debug)]
pub struct Error {
    /// What to say.
    pub message: String,
    /// With which status to end.
    pub status: u8,
}

impl Error {
    fn failed(message: impl ToString) -> Error {
        Error {
            message: message.to_string(),
            status: 1,
        }
    }
}

/// Mounts at `place` and has workers serve there, started like this process, until one ends by
/// itself or a signal ends it. Calls `ready` once the first serves.
///
/// To be called while this process has one thread.
pub fn hold(place: Place, ready: impl FnOnce()) -> Result<(), Error> {
    place.kernel.origin.keep().map_err(Error::failed)?;
    let signals = Signals::catch().map_err(Error::failed)?;
    let registration = Registration::of_holder(&place.mountpoint).map_err(Error::failed)?;
    let socket = registration.record().upgrade_socket();
    let socket = socket.ok_or_else(|| Error::failed("there is no place for a socket"))?;
    let askers = UnixListener::bind(socket).map_err(Error::failed)?;
    askers.set_nonblocking(true).map_err(Error::failed)?;
    let mut holder = Holder {
        duty: Duty::new(&place.mountpoint, (place.hook)()),
        watch: Watch::new(&place.mountpoint),
        arguments: std::env::args_os().collect(),
        program: Arc::new(Program::own().map_err(Error::failed)?),
        history: History {
            holder: std::process::id(),
            started: history::now(),
            restarts: Reason::ALL.into_iter().map(|reason| (reason, 0)).collect(),
            ..History::default()
        },
        place,
        registration,
        signals,
        askers,
        connection: None,
        current: None,
        next: None,
        restarts: Restarts::default(),
        restart: None,
        stall: None,
        has_served: false,
        ending: None,
    };
    let ended = holder.run(ready);
    holder.clean_up();
    ended
}

/// A worker that is to take over.
struct Next {
    worker: Worker,
    reason: Reason,
    asker: Option<Asker>,
}

/// A time in which nobody serves.
struct Stall {
    since: Instant,
    reason: Reason,
    message: String,
    /// Who wants to know.
    asker: Option<Asker>,
    /// Who served before.
    from: String,
}

struct Holder {
    place: Place,
    registration: Registration,
    signals: Signals,
    askers: UnixListener,
    arguments: Vec<OsString>,
    /// What a worker is of that follows one which died.
    program: Arc<Program>,
    connection: Option<Connection>,
    current: Option<Worker>,
    next: Option<Next>,
    restarts: Restarts,
    /// When to start a worker after one that died.
    restart: Option<Instant>,
    stall: Option<Stall>,
    duty: Duty,
    watch: Watch,
    history: History,
    has_served: bool,
    /// When what is left is killed; set once the mount ends.
    ending: Option<Instant>,
}

/// Which worker.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Which {
    Current,
    Next,
}

/// What the loop ends with, when it does.
type Ended = Option<Result<(), Error>>;

impl Holder {
    fn run(&mut self, ready: impl FnOnce()) -> Result<(), Error> {
        let mut ready = Some(ready);
        let first = self.start_worker(self.program.clone());
        self.current = Some(first.map_err(Error::failed)?);
        loop {
            let waited = self.wait();
            waited.map_err(|e| Error::failed(format!("the holder cannot wait: {e}")))?;
            for signal in self.signals.caught() {
                self.signal(signal);
            }
            self.obey(Which::Next);
            self.obey(Which::Current);
            if let Some(ended) = self.reap().or_else(|| self.on_time()) {
                return ended;
            }
            self.accept();
            if self.has_served
                && let Some(ready) = ready.take()
            {
                ready();
            }
        }
    }

    /// Waits until something happens, or until it is time for something.
    fn wait(&self) -> io::Result<()> {
        let mut fds = vec![
            PollFd::new(&self.signals, PollFlags::IN),
            PollFd::new(&self.askers, PollFlags::IN),
        ];
        let workers = [Which::Current, Which::Next].map(|which| self.worker(which));
        let orders = workers.into_iter().flatten().filter_map(Worker::orders);
        let orders: Vec<BorrowedFd<'_>> = orders.collect();
        fds.extend(orders.iter().map(|fd| PollFd::new(fd, PollFlags::IN)));
        // Between workers nobody else sees that it is unmounted.
        if self.current.is_none()
            && let Some(connection) = &self.connection
        {
            fds.push(PollFd::new(connection, PollFlags::empty()));
        }
        let timeout = self.due().map(|due| {
            // Rounded up: waking up too early is waking up twice.
            let left = due.saturating_duration_since(Instant::now()) + Duration::from_millis(1);
            Timespec {
                tv_sec: left.as_secs() as i64,
                tv_nsec: left.subsec_nanos().into(),
            }
        });
        match rustix::event::poll(&mut fds, timeout.as_ref()) {
            Ok(_) | Err(rustix::io::Errno::INTR) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    /// Returns when something is to be done that nothing else wakes us for.
    fn due(&self) -> Option<Instant> {
        let worker = self.current.as_ref().and_then(|worker| match worker.stage {
            Stage::Leaving(until) => Some(until),
            Stage::Serving(_) if self.is_watched() => Some(self.watch.next()),
            _ => None,
        });
        let late = [Which::Current, Which::Next].map(|which| self.late_at(which));
        let times = [self.restart, self.ending, worker].into_iter().chain(late);
        times.flatten().min()
    }

    /// Returns when a worker will have taken too long to get ready.
    fn late_at(&self, which: Which) -> Option<Instant> {
        let worker = self.worker(which)?;
        let counts = matches!(worker.stage, Stage::Starting | Stage::Beginning);
        (counts && self.has_served).then(|| worker.since + PREPARE)
    }

    fn is_watched(&self) -> bool {
        self.next.is_none() && self.ending.is_none()
    }

    fn worker(&self, which: Which) -> Option<&Worker> {
        match which {
            Which::Current => self.current.as_ref(),
            Which::Next => self.next.as_ref().map(|next| &next.worker),
        }
    }

    fn worker_mut(&mut self, which: Which) -> Option<&mut Worker> {
        match which {
            Which::Current => self.current.as_mut(),
            Which::Next => self.next.as_mut().map(|next| &mut next.worker),
        }
    }

    fn start_worker(&self, program: Arc<Program>) -> io::Result<Worker> {
        let record = self.registration.record().clone();
        let start = Start {
            arguments: &self.arguments,
            origin: &self.place.origin,
            log_file: self.place.log_file.as_deref(),
            listener: self.place.door.as_ref().map(|door| &door.socket),
            hello: Hello {
                mountpoint: self.place.mountpoint.clone(),
                dir: record.dir.clone().unwrap_or_default(),
                record,
                is_first: self.connection.is_none(),
            },
        };
        Worker::start(program, &start)
    }

    fn signal(&mut self, signal: Signal) {
        if signal == Signal::CHILD {
            // Children are looked after each time.
            return;
        }
        if signal != Signal::HUP {
            info!(?signal, "ending");
            self.end();
        }
        if let Some(worker) = &self.current {
            worker.signal(signal);
        }
    }

    /// From now on the mount ends.
    fn end(&mut self) {
        if self.ending.is_none() {
            notify::stopping();
        }
        self.ending.get_or_insert_with(|| Instant::now() + END);
        self.restart = None;
        self.drop_next("the mount is ending");
    }

    /// Carries out what a worker has ordered.
    fn obey(&mut self, which: Which) {
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
    fn connect(&mut self) -> io::Result<(OwnedFd, Answer)> {
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
    fn unmount(&mut self, which: Which) -> io::Result<()> {
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
    fn prepared(&mut self, which: Which) {
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
    fn let_go(&mut self) {
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

    fn serving(&mut self, which: Which) {
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

    /// Begins to replace the current worker; whoever asked is told if that cannot be.
    fn replace(
        &mut self,
        program: Arc<Program>,
        reason: Reason,
        asker: Option<Asker>,
    ) -> Result<(), String> {
        let serves = self.current.as_ref().is_some_and(|w| w.served().is_some());
        let why = if self.ending.is_some() {
            Some("the mount is ending")
        } else if self.next.is_some() {
            Some("another worker is taking over already; try again")
        } else if !serves {
            Some("no worker serves at the moment; try again")
        } else if !self.history.resends {
            Some("it takes Linux 6.9 to take over a mount; unmount and mount anew")
        } else {
            None
        };
        let started = match why {
            Some(why) => Err(why.to_owned()),
            None => self.start_worker(program).map_err(|e| e.to_string()),
        };
        match started {
            Ok(worker) => {
                info!(
                    reason = reason.name(),
                    "a worker starts that is to take over"
                );
                self.next = Some(Next {
                    worker,
                    reason,
                    asker,
                });
                Ok(())
            }
            Err(why) => {
                if let Some(asker) = asker {
                    asker.refuse(why.clone());
                }
                Err(why)
            }
        }
    }

    fn accept(&mut self) {
        while let Some((asker, program)) = Asker::accept(&self.askers) {
            match program {
                Ok(program) => {
                    // Who asked is told by that itself.
                    let _ = self.replace(Arc::new(program), Reason::Upgrade, Some(asker));
                }
                Err(error) => asker.refuse(format!(
                    "the holder cannot see which program asks ({error}); run it where the holder \
                     runs, in its container say"
                )),
            }
        }
    }

    /// Gives up the worker that was to take over.
    fn drop_next(&mut self, why: &str) {
        if let Some(next) = self.next.take() {
            next.worker.end();
            self.refuse(next.reason, next.asker, why.to_owned());
        }
    }

    fn refuse(&mut self, reason: Reason, asker: Option<Asker>, why: String) {
        warn!(reason = reason.name(), why, "nobody takes over");
        self.history.refused = Some(Refusal {
            reason,
            at: history::now(),
            message: why.clone(),
        });
        if let Some(asker) = asker {
            asker.refuse(why);
        }
    }

    /// Looks who has ended.
    fn reap(&mut self) -> Ended {
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
    fn ended(&mut self, worker: &Worker, status: ExitStatus) -> Ended {
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

    fn after_crash(&mut self, worker: &Worker, obituary: &str) -> Ended {
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
    fn stalled(&mut self, worker: &Worker, message: &str, asker: Option<Asker>) {
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
    fn on_time(&mut self) -> Ended {
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
    fn clean_up(&mut self) {
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
