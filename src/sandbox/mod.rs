//! The sandbox: what the daemon gives up before it reads the first byte of a source.
//!
//! A source's replies are read by megabytes of parsers, TLS and SQLite. Should one of them ever be
//! made to run an attacker's code, that code shall find nothing to work with: no files but the
//! cache's and what the volume names (`files`, Landlock), no way to run a program or to trace
//! another process (`calls`, seccomp), no privilege but the named ones (`privileges`), no core dump
//! with keys in it.
//!
//! [`enter`] covers the calling thread and all that it starts: it is called while there is no other.
//! What a kernel does not have is left out, said in the log and in the status.

use std::path::PathBuf;

use rustix::process::DumpableBehavior;
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

/// Gives up all that is not needed, for this thread and those that it starts, for good.
///
/// A part that cannot be had is no error: a kernel without it is not a reason not to serve.
pub fn enter(needs: &Needs) -> Report {
    let failed = |what: &str, error: String| warn!(what, error, "not confined in this respect");
    let dumpable = rustix::process::set_dumpable_behavior(DumpableBehavior::NotDumpable);
    let capabilities = privileges::drop_all_but(&privileges::kept(needs)).unwrap_or_else(|error| {
        failed("capabilities", error.to_string());
        privileges::names()
    });
    let no_new_privs = rustix::thread::set_no_new_privs(true);
    let landlock = files::confine(needs).unwrap_or_else(|error| {
        failed("files (Landlock)", error.to_string());
        None
    });
    let seccomp = calls::refuse().unwrap_or_else(|error| {
        failed("system calls (seccomp)", error);
        false
    });
    let report = Report {
        on: true,
        landlock,
        seccomp,
        capabilities,
        no_new_privs: no_new_privs.is_ok(),
        dumpable: dumpable.is_err(),
    };
    debug!(?report, "confined");
    report
}

/// Returns what is so without a sandbox.
pub fn off() -> Report {
    Report {
        capabilities: privileges::names(),
        dumpable: true,
        ..Report::default()
    }
}
