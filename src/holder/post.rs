//! The worker's end: what it is given by its holder, and what it hears from it.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::control::registry::Record;
use crate::fuse::mounter::Mounter;
use crate::fuse::orders::receive;

/// Set for a process that is a worker; its standard input is the socket to its holder.
pub(super) const ROLE: &str = "SVOL_WORKER";

/// How long a worker may take to end once its holder is gone.
pub const ORPHANED: Duration = Duration::from_secs(10);

/// What a worker is told first, with its leash and, if it shall answer there, the socket that listens
/// for TCP.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Hello {
    /// The mount point, absolute and without symbolic links.
    pub mountpoint: PathBuf,
    /// The mount's record; its socket is this worker's once it serves.
    pub record: Record,
    /// The mount's own directory, for what a worker leaves to the next.
    pub dir: PathBuf,
    /// Whether nothing is mounted yet, so that nothing of an earlier worker counts.
    pub is_first: bool,
}

/// What a worker hears from its holder while it serves.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Tell {
    /// The next worker is prepared: answer what was begun, within so many milliseconds, and end.
    Leave(u64),
}

/// Where a worker hears from its holder.
#[derive(Debug)]
pub struct Leash(OwnedFd);

impl Leash {
    /// Waits for what is told; nothing when the holder is gone.
    pub fn hear(&self) -> Option<Tell> {
        receive(&self.0).ok().flatten().map(|(tell, _)| tell)
    }
}

/// What makes this process a worker.
#[derive(Debug)]
pub struct Post {
    /// What was told.
    pub hello: Hello,
    /// Takes orders.
    pub mounter: Arc<Mounter>,
    /// Where the holder is heard.
    pub leash: Leash,
    /// Listens for TCP.
    pub listener: Option<std::net::TcpListener>,
}

impl Post {
    /// Returns whether this process was started as a worker.
    pub fn is_asked_for() -> bool {
        std::env::var_os(ROLE).is_some()
    }

    /// Takes up the post that this process was started for. To be called once, before anything
    /// reads the standard input, and while there is one thread.
    pub fn take() -> io::Result<Post> {
        super::signals::hear_all()?;
        // So that it is told from its holder in a list of processes.
        let _ = rustix::thread::set_name(c"svol-worker");
        let socket = io::stdin().as_fd().try_clone_to_owned()?;
        rustix::stdio::dup2_stdin(std::fs::File::open("/dev/null")?)?;
        let (hello, files) = receive::<Hello>(&socket)?.ok_or(io::ErrorKind::UnexpectedEof)?;
        let mut files = files.into_iter();
        let leash = files.next().ok_or(io::ErrorKind::InvalidData)?;
        Ok(Post {
            hello,
            mounter: Arc::new(Mounter::of_holder(socket)),
            leash: Leash(leash),
            listener: files.next().map(Into::into),
        })
    }
}

/// See [`Hello::kernel_dir`].
pub(super) fn kernel_dir(dir: &Path) -> PathBuf {
    dir.join("kernel")
}

impl Hello {
    /// Returns the directory for what the kernel was told: it is as old as the mount in the kernel.
    pub fn kernel_dir(&self) -> PathBuf {
        kernel_dir(&self.dir)
    }

    /// Returns what the worker before left.
    pub fn baggage(&self) -> Baggage {
        Baggage(self.dir.join("baggage"))
    }
}

/// What a worker leaves to the next: any text, such as the volume that it serves. It is kept for as
/// long as the mount, in a file for this user alone.
#[derive(Debug, Clone)]
pub struct Baggage(PathBuf);

impl Baggage {
    /// Leaves `text`, in place of what was left before.
    pub fn leave(&self, text: &str) -> io::Result<()> {
        // Written aside and renamed: the next worker finds all of one.
        let aside = self.0.with_extension("new");
        std::fs::write(&aside, text)?;
        std::fs::rename(&aside, &self.0)
    }

    /// Returns what was left, if anything was.
    pub fn read(&self) -> io::Result<Option<String>> {
        match std::fs::read_to_string(&self.0) {
            Ok(text) => Ok(Some(text)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Returns where it is.
    pub fn path(&self) -> &Path {
        &self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_left_is_found() {
        let dir = tempfile::tempdir().unwrap();
        let baggage = Baggage(dir.path().join("baggage"));
        assert_eq!(baggage.read().unwrap(), None);
        baggage.leave("one").unwrap();
        baggage.leave("two").unwrap();
        assert_eq!(baggage.read().unwrap().as_deref(), Some("two"));
    }
}
