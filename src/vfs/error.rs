//! Why an operation of the filesystem failed. The FUSE layer maps each to an errno, in one place.

use crate::namespace::LookupError;
use crate::source;

/// The result of an operation of the filesystem.
pub type Result<T> = std::result::Result<T, Error>;

/// A failed operation.
#[derive(Debug, Clone, thiserror::Error)]
pub enum Error {
    /// Every source that could have it clearly said that it is not there.
    #[error("no such file or directory")]
    Absent,
    /// The inode's version is no longer what the name stands for, or no longer to be had.
    #[error("the file was replaced; open it again")]
    Stale,
    /// A source failed.
    #[error("{0}")]
    Source(source::Error),
    /// The inode is not a directory.
    #[error("not a directory")]
    NotDir,
    /// The inode is a directory.
    #[error("is a directory")]
    IsDir,
    /// The operation does not fit the inode.
    #[error("not a symbolic link")]
    NotSymlink,
    /// A name that no file can have.
    #[error("file name too long")]
    NameTooLong,
    /// No such extended attribute.
    #[error("no such attribute")]
    NoAttribute,
    /// The caller was killed or interrupted while it waited.
    #[error("interrupted")]
    Interrupted,
    /// The local disk failed (a source that is read in place).
    #[error("{0}")]
    Disk(String),
}

impl From<source::Error> for Error {
    fn from(error: source::Error) -> Error {
        Error::Source(error)
    }
}

impl From<LookupError> for Error {
    fn from(error: LookupError) -> Error {
        match error {
            LookupError::Absent { .. } => Error::Absent,
            LookupError::Failed { error, .. } => Error::Source(error),
        }
    }
}
