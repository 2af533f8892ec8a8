//! Locks between processes. The kernel gives each back when its holder dies, however it dies.
//!
//! - A *range lock* (open file description lock) is the claim to fill a range, to seal, or to
//!   append to a pack. It belongs to the open file, so within one process, which has one open file
//!   for all its claims on an object, claims are told apart in memory instead.
//! - A *hold* (shared flock) is kept on every data file that is open. An evictor needs it
//!   exclusively.

use crate::sync::Arc;
use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::fd::AsRawFd;

use rustix::fs::{FlockOperation, flock};
use rustix::io::Errno;

/// Lock offsets above every object's bytes: no file system takes files this large.
const ABOVE: u64 = i64::MAX as u64 - 64;

/// On a partial: the right to lay it out or to seal it.
pub(crate) const LIFECYCLE: Range<u64> = ABOVE..ABOVE + 1;

/// On a pack: the right to append to it.
pub(crate) const APPEND: Range<u64> = ABOVE + 1..ABOVE + 2;

/// On the lock file: the right to set a damaged index aside.
pub(crate) const SET_ASIDE: Range<u64> = ABOVE + 2..ABOVE + 3;

/// Returns where on the lock file the lock of a small object is.
pub(crate) fn small_object(prefix: u64) -> Range<u64> {
    let start = prefix >> 2;
    start..start + 1
}

/// Returns where on the lock file the lock of a blob that comes to be is.
pub(crate) fn blob(prefix: u64) -> Range<u64> {
    let start = (1 << 62) + (prefix >> 3);
    start..start + 1
}

/// A range lock, given back on drop.
pub(crate) struct RangeLock {
    file: Arc<File>,
    range: Range<u64>,
}

impl RangeLock {
    /// Tries to lock a range; None when another process has any of it. Needs a writable file.
    pub(crate) fn try_new(file: &Arc<File>, range: Range<u64>) -> io::Result<Option<Self>> {
        if range_operation(file, libc::F_WRLCK, &range)? {
            Ok(Some(Self {
                file: Arc::clone(file),
                range,
            }))
        } else {
            Ok(None)
        }
    }
}

impl Drop for RangeLock {
    fn drop(&mut self) {
        // Unlocking can only fail for lack of kernel memory to split a range; the lock then goes
        // when the file is closed.
        let _ = range_operation(&self.file, libc::F_UNLCK, &self.range);
    }
}

fn range_operation(file: &File, kind: libc::c_int, range: &Range<u64>) -> io::Result<bool> {
    let to_offset = |n: u64| {
        libc::off_t::try_from(n).map_err(|_| io::Error::from_raw_os_error(libc::EOVERFLOW))
    };
    let lock = libc::flock {
        l_type: kind as libc::c_short,
        l_whence: libc::SEEK_SET as libc::c_short,
        l_start: to_offset(range.start)?,
        l_len: to_offset(range.end - range.start)?,
        l_pid: 0,
    };
    // SAFETY: the descriptor is open for the length of the call, and the structure that the
    // kernel reads lives on this stack.
    let result = unsafe { libc::fcntl(file.as_raw_fd(), libc::F_OFD_SETLK, &raw const lock) };
    if result == 0 {
        return Ok(true);
    }
    let error = io::Error::last_os_error();
    match error.raw_os_error() {
        Some(libc::EAGAIN | libc::EACCES) => Ok(false),
        _ => Err(error),
    }
}

/// Takes a hold on an open file; false when an evictor is at it. It lasts until the file is closed.
pub(crate) fn hold(file: &File) -> io::Result<bool> {
    try_flock(file, FlockOperation::NonBlockingLockShared)
}

/// Tries to be the only one who has a file open; false when somebody holds it.
pub(crate) fn hold_alone(file: &File) -> io::Result<bool> {
    try_flock(file, FlockOperation::NonBlockingLockExclusive)
}

fn try_flock(file: &File, operation: FlockOperation) -> io::Result<bool> {
    loop {
        match flock(file, operation) {
            Ok(()) => return Ok(true),
            Err(Errno::WOULDBLOCK) => return Ok(false),
            Err(Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn opened(path: &std::path::Path) -> Arc<File> {
        let file = File::options()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(path);
        Arc::new(file.unwrap())
    }

    #[test]
    fn ranges_exclude_each_other_where_they_overlap_until_dropped() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("file");
        let (a, b) = (opened(&path), opened(&path));
        let first = RangeLock::try_new(&a, 0..10).unwrap().unwrap();
        let second = RangeLock::try_new(&a, 10..20).unwrap().unwrap();
        assert!(RangeLock::try_new(&b, 9..11).unwrap().is_none());
        drop(first);
        assert!(RangeLock::try_new(&b, 0..10).unwrap().is_some());
        assert!(RangeLock::try_new(&b, 9..11).unwrap().is_none());
        drop(second);
        assert!(RangeLock::try_new(&b, 9..11).unwrap().is_some());
        assert!(RangeLock::try_new(&a, LIFECYCLE).unwrap().is_some());
    }

    #[test]
    fn a_held_file_cannot_be_had_alone() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("file");
        let (a, b) = (opened(&path), opened(&path));
        assert!(hold(&a).unwrap());
        assert!(!hold_alone(&b).unwrap());
        drop(a);
        assert!(hold_alone(&b).unwrap());
        assert!(!hold(&opened(&path)).unwrap());
    }

    #[test]
    fn lock_offsets_fit_a_signed_offset_and_keep_apart() {
        for prefix in [0, 1, u64::MAX] {
            assert!(small_object(prefix).end <= 1 << 62);
            assert!(blob(prefix).start >= 1 << 62);
            assert!(blob(prefix).end < LIFECYCLE.start);
        }
    }
}
