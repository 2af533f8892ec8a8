//! The commands: each takes its parsed arguments, does its work and says how it ended.

use std::fmt::Display;

use tokio::runtime::Runtime;

use crate::cli::{ExitStatus, VolumeSettings};
use crate::config::{Note, NoteKind};

pub mod act;
pub mod cache;
pub mod convert;
pub mod doctor;
pub mod fuse_helper;
pub mod helper;
pub mod look;
pub mod manual;
pub mod mount;
pub mod probe;
pub mod reload;
pub mod status;
pub mod upgrade;

/// Threads that do async work, at least and at most: one that waits for something is another's
/// turn, and more than there are processors only wake each other up. Four do the protocol and TLS
/// of two fast links.
const WORKERS: (usize, usize) = (2, 4);

/// Threads for blocking work (the disk, hashing) at most.
const BLOCKING: usize = 32;

/// Why a command ended early, and with which status.
#[derive(Debug)]
pub struct Failure {
    /// What to say.
    pub message: String,
    /// How to end.
    pub status: ExitStatus,
}

impl Failure {
    /// Returns a failure to do what was asked.
    pub fn failed(message: impl Display) -> Failure {
        Failure {
            message: message.to_string(),
            status: ExitStatus::Failed,
        }
    }

    /// Returns a refusal of what was asked.
    pub fn usage(message: impl Display) -> Failure {
        Failure {
            message: message.to_string(),
            status: ExitStatus::Usage,
        }
    }
}

impl From<crate::app::Error> for Failure {
    fn from(error: crate::app::Error) -> Failure {
        use crate::app::Error;
        match error {
            Error::Mountpoint(_)
            | Error::Filter { .. }
            | Error::Source { .. }
            | Error::Memory(_) => Failure::usage(error),
            _ => Failure::failed(error),
        }
    }
}

impl From<crate::config::ConfigError> for Failure {
    fn from(error: crate::config::ConfigError) -> Failure {
        Failure::usage(error)
    }
}

impl From<std::io::Error> for Failure {
    fn from(error: std::io::Error) -> Failure {
        // Whoever read our output has gone, as `head` does: nobody is left to tell.
        if error.kind() == std::io::ErrorKind::BrokenPipe {
            return Failure::failed("");
        }
        Failure::failed(error)
    }
}

/// What the user of a document of the original has to see to before it is as it should be.
fn decisions(settings: &VolumeSettings) -> impl Iterator<Item = &Note> {
    let notes = settings.notes.iter();
    notes.filter(|note| note.kind == NoteKind::Decide)
}

/// Returns the runtime that a command works on.
pub fn runtime() -> Result<Runtime, Failure> {
    let processors = std::thread::available_parallelism().map_or(WORKERS.1, usize::from);
    let workers = processors.clamp(WORKERS.0, WORKERS.1);
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(workers)
        .max_blocking_threads(BLOCKING)
        .thread_name("svol")
        .enable_all()
        .build()
        .map_err(Failure::from)
}
