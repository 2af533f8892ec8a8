//! The sandbox: what the daemon gives up before it reads the first byte of a source.
//!
//! A source's replies are read by megabytes of parsers, TLS and SQLite. Should one of them ever be
//! made to run an attacker's code, that code shall find nothing to work with: no files but the
//! cache's and what the volume names (`files`, Landlock), no way to run a program or to trace
//! another process (`calls`, seccomp), no privilege but the named ones (`privileges`), no core dump
//! with keys in it.
//!
//! [`enter`] covers the calling thread and all that it starts: it is called while there is no other.
//! One privilege is needed once more, when the kernel and we agree on how the mount works; it stays
//! with a thread that does only that ([`Inside::settle`]).
//! What a kernel does not have is left out, said in the log and in the status.

use std::io;
use std::path::PathBuf;
use std::sync::mpsc;

use rustix::process::DumpableBehavior;
use rustix::thread::CapabilitySet;
use serde::{Deserialize, Serialize};
use tracing::{debug, warn};

mod calls;
mod files;
mod privileges;
#[cfg(feature = "failpoints")]
pub mod trial;

/// What the daemon needs of the file system once it is in the sandbox.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Needs {
    /// Directories in which it makes, changes and removes files: the cache, the records of mounts.
    pub write: Vec<PathBuf>,
    /// Files and directories that it reads beside those of the system.
    pub read: Vec<PathBuf>,
    /// Whether `read` has directories whose files may belong to anybody: those of local layers.
    pub others_files: bool,
}

/// What is in force, as the status tells it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Report {
    /// Whether the sandbox was asked for at all.
    pub on: bool,
    /// The version of Landlock's interface that confines the files; nothing where the kernel has
    /// none.
    pub landlock: Option<u32>,
    /// Whether seccomp refuses the calls that the daemon never makes.
    pub seccomp: bool,
    /// The capabilities that are left, such as "CAP_SYS_ADMIN".
    pub capabilities: Vec<String>,
    /// Whether nothing that is run could gain a privilege.
    pub no_new_privs: bool,
    /// Whether the memory may be dumped or traced by others of the same user.
    pub dumpable: bool,
}

/// Gives up all that is not needed, for this thread and those that it starts, for good; all but
/// what [`Inside::settle`] and [`Errand::run`] say.
///
/// A part that cannot be had is no error: a kernel without it is not a reason not to serve.
pub fn enter(needs: &Needs) -> Inside {
    let failed = |what: &str, error: String| warn!(what, error, "not confined in this respect");
    let dumpable = rustix::process::set_dumpable_behavior(DumpableBehavior::NotDumpable);
    let keep = privileges::kept(needs);
    if let Err(error) = privileges::drop_all_but(keep | privileges::KEEP_TO_BEGIN) {
        failed("capabilities", error.to_string());
    }
    let no_new_privs = rustix::thread::set_no_new_privs(true);
    let landlock = files::confine(needs).unwrap_or_else(|error| {
        failed("files (Landlock)", error.to_string());
        None
    });
    let seccomp = calls::refuse().unwrap_or_else(|error| {
        failed("system calls (seccomp)", error);
        false
    });
    Inside {
        keep: Some(keep),
        report: Report {
            on: true,
            landlock,
            seccomp,
            capabilities: Vec::new(),
            no_new_privs: no_new_privs.is_ok(),
            dumpable: dumpable.is_err(),
        },
    }
}

/// Stays outside of the sandbox.
pub fn stay_out() -> Inside {
    let report = Report {
        dumpable: true,
        ..Report::default()
    };
    Inside { keep: None, report }
}

/// A thread that is in the sandbox, but for its last privilege.
pub struct Inside {
    /// What is kept in the end; nothing outside of the sandbox, where all is.
    keep: Option<CapabilitySet>,
    report: Report,
}

impl Inside {
    /// Runs `main` on a thread that gives up the last privilege first, with what is in force; this
    /// one keeps it for one errand of that thread's, and no longer.
    pub fn settle<T: Send>(self, main: impl FnOnce(Report, Errand) -> T + Send) -> io::Result<T> {
        let Inside { keep, mut report } = self;
        let give_up = move || {
            if let Some(Err(error)) = keep.map(privileges::drop_all_but) {
                warn!(%error, "a privilege is left");
            }
        };
        let (errand, asked) = mpsc::channel::<Work>();
        std::thread::scope(|scope| {
            let main = std::thread::Builder::new()
                .name("svol-main".into())
                .spawn_scoped(scope, move || {
                    give_up();
                    report.capabilities = privileges::names();
                    debug!(?report, "confined");
                    main(report, Errand(errand))
                })?;
            if let Ok(work) = asked.recv() {
                work();
            }
            give_up();
            drop(asked);
            main.join()
                .or_else(|panic| std::panic::resume_unwind(panic))
        })
    }
}

type Work = Box<dyn FnOnce() + Send>;

/// One piece of work that the thread with the last privilege does.
pub struct Errand(mpsc::Sender<Work>);

impl Errand {
    /// Has `work` done there, and waits for what comes of it.
    pub fn run<T: Send + 'static>(
        self,
        work: impl FnOnce() -> io::Result<T> + Send + 'static,
    ) -> io::Result<T> {
        let lost = || io::Error::other("the thread with the privilege to mount is gone");
        let (told, result) = mpsc::channel();
        let work = move || drop(told.send(work()));
        self.0.send(Box::new(work)).map_err(|_| lost())?;
        result.recv().map_err(|_| lost())?
    }
}
