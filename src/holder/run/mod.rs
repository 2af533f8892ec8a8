//! The holder's loop: what happens to workers, and what is done about it.

use std::ffi::OsString;
use std::io;
use std::os::fd::BorrowedFd;
use std::os::unix::net::UnixListener;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::process::Signal;
use tracing::{info, warn};

use super::connection::Connection;
use super::history::{self, History, Reason, Refusal};
use super::post::Hello;
use super::program::Program;
use super::restarts::Restarts;
use super::signals::Signals;
use super::upgrade::Asker;
use super::watch::Watch;
use super::worker::{Stage, Start, Worker};
use crate::control::registry::Registration;
use crate::control::tcp::Door;
use crate::fuse::mount::MountSettings;
use crate::fuse::orders::Duty;
use crate::fuse::runner::Program as Runnable;
use crate::notify;

mod endings;
mod orders;

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
}
