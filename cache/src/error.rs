//! What can go wrong, as far as a caller acts differently on it.
//!
//! Trouble with the cache's disk after it was opened is not here: it is logged, counted in
//! [`Stats`](crate::Stats) and costs a reader nothing but speed.

use std::io;
use std::path::PathBuf;

/// Why the cache could not be opened, or an administrative command not be done.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The directory must not be used as a cache. Somebody has to choose another or change it.
    #[error("{} cannot be a cache directory: {reason}", dir.display())]
    Refused {
        /// The directory asked for.
        dir: PathBuf,
        /// What is wrong with it, in words for a user.
        reason: String,
    },
    /// The operating system refused something.
    #[error("cache: cannot {what}")]
    Io {
        /// What was tried, as a verb phrase.
        what: String,
        /// The system's reason.
        source: io::Error,
    },
    /// The index did not take or give what was asked.
    #[error("cache index: {0}")]
    Index(String),
}

impl Error {
    /// Returns whether the disk is full, read-only or broken, which nobody chose.
    pub(crate) fn is_of_the_disk(&self) -> bool {
        let Error::Io { source, .. } = self else {
            return false;
        };
        matches!(
            source.raw_os_error(),
            Some(libc::ENOSPC | libc::EDQUOT | libc::EROFS | libc::EIO)
        )
    }

    /// Wraps SQLite's error at opening the index; what is the disk's is told apart.
    pub(crate) fn of_index(error: rusqlite::Error) -> Error {
        use rusqlite::ErrorCode::{CannotOpen, DiskFull, ReadOnly, SystemIoFailure};
        let errno = match error.sqlite_error_code() {
            Some(DiskFull) => libc::ENOSPC,
            Some(ReadOnly) => libc::EROFS,
            Some(SystemIoFailure | CannotOpen) => libc::EIO,
            _ => return Error::Index(error.to_string()),
        };
        let what = format!("open its index ({error})");
        Error::io(what)(io::Error::from_raw_os_error(errno))
    }

    /// Wraps a system error together with what was tried.
    pub(crate) fn io(what: impl Into<String>) -> impl FnOnce(io::Error) -> Error {
        let what = what.into();
        move |source| Error::Io { what, source }
    }
}

/// How a caller misused a [`Fill`](crate::Fill).
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum FillError {
    /// More bytes were pushed than the claimed range holds. None of the surplus was kept.
    #[error("{surplus} bytes more than the claimed range holds")]
    Overrun {
        /// How many bytes too many.
        surplus: u64,
    },
    /// The fill was finished before all of its range had arrived.
    #[error("{missing} bytes of the claimed range never arrived")]
    Short {
        /// How many bytes are missing.
        missing: u64,
    },
}
