//! The one place where failures become error numbers.

use fuser::Errno;

use crate::source::ErrorKind;
use crate::vfs::Error;

/// Returns the error number that a caller of the kernel sees for `error`.
pub(super) fn errno(error: &Error) -> Errno {
    match error {
        Error::Absent => Errno::ENOENT,
        Error::Stale => Errno::ESTALE,
        Error::NotDir => Errno::ENOTDIR,
        Error::IsDir => Errno::EISDIR,
        Error::NotSymlink => Errno::EINVAL,
        Error::NameTooLong => Errno::ENAMETOOLONG,
        Error::NoAttribute => Errno::NO_XATTR,
        Error::Interrupted => Errno::EINTR,
        Error::Disk(_) => Errno::EIO,
        Error::Source(error) => match error.kind() {
            // Of a listing or a lookup it would be an absence; those never get here with it. Of
            // an open file it means that its version is gone.
            ErrorKind::NotFound | ErrorKind::Changed => Errno::ESTALE,
            ErrorKind::Denied | ErrorKind::NotNow => Errno::EACCES,
            ErrorKind::Timeout => Errno::ETIMEDOUT,
            ErrorKind::Unreachable => Errno::EHOSTUNREACH,
            ErrorKind::Interrupted
            | ErrorKind::Throttled
            | ErrorKind::Server
            | ErrorKind::Lied
            | ErrorKind::Invalid => Errno::EIO,
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::source;

    #[test]
    fn only_absence_is_enoent() {
        for kind in ErrorKind::ALL {
            let error = Error::Source(source::Error::new(kind, "x"));
            assert_ne!(errno(&error).code(), Errno::ENOENT.code(), "{kind:?}");
        }
        assert_eq!(errno(&Error::Absent).code(), Errno::ENOENT.code());
    }
}
