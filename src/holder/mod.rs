//! The holder: the process that a mount belongs to, so that the one which serves it can be replaced.
//!
//! `svol mount` becomes a holder. It opens /dev/fuse, mounts, keeps the descriptor, and starts a
//! *worker* that serves: the daemon in its sandbox, from the same command line. A worker that dies is
//! followed by another on the same mount, with files open and readers waiting; one that is to be
//! replaced goes on until the next is prepared. The kernel sends again what the dead one had taken
//! and not answered (Linux 6.9 and later).
//!
//! What the holder is: small, and out of reach of what servers send. It reads no source and starts
//! no thread. It never touches the mount: its own request would wait for a worker that it is to
//! start. It does for workers what takes a privilege, as a [mounter](crate::fuse::mounter) does; no
//! order tells it what to run. It keeps its environment, which workers need, with what is secret in
//! it.
//!
//! | when | it |
//! |---|---|
//! | a worker dies | starts another, later and later (`restarts`); gives up, and says why |
//! | a worker does not answer, through the kernel | kills it, and so on |
//! | `svol upgrade`, an order to replace | starts another; when that is prepared, has the old one leave |
//! | a worker ends by itself: unmounted, SIGTERM | ends too |
//! | SIGTERM, SIGINT | passes it on, waits within a bound, unmounts what is left |
//! | SIGHUP | passes it on |
//! | it is killed | its worker sees that and ends; the mount is dead, as if its daemon had been killed |
//!
//! `run` is the loop, `worker` a child, `post` the worker's end of what binds the two, `connection`
//! what the kernel is told, `watch` the questions to the mount, `history` what is told of all this.

mod connection;
mod history;
mod post;
mod program;
mod restarts;
mod run;
mod signals;
mod upgrade;
mod watch;
mod worker;

pub use history::{Change, History, Reason, Refusal};
pub use post::{Baggage, Hello, Leash, ORPHANED, Post, Tell};
pub use run::{Error, Place, hold};
pub use upgrade::{Outcome, upgrade};

/// A test's own figures, from a variable like `SVOL_HOLDER=period=100,well=50`: milliseconds, or
/// numbers. Never in a release.
#[cfg(feature = "failpoints")]
mod knobs {
    use std::time::Duration;

    pub(super) fn get(name: &str) -> Option<u64> {
        let all = std::env::var("SVOL_HOLDER").ok()?;
        let mut each = all.split(',').filter_map(|knob| knob.split_once('='));
        each.find(|(known, _)| *known == name)?.1.parse().ok()
    }

    pub(super) fn time(name: &str, usual: Duration) -> Duration {
        get(name).map_or(usual, Duration::from_millis)
    }
}

#[cfg(not(feature = "failpoints"))]
mod knobs {
    use std::time::Duration;

    pub(super) fn get(_: &str) -> Option<u64> {
        None
    }

    pub(super) fn time(_: &str, usual: Duration) -> Duration {
        usual
    }
}
