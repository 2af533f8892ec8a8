//! Where a mount's open /dev/fuse comes from: we mount, or who has mounted gives it to us.
//!
//! To serve a mount takes no privilege, only its descriptor. So a privileged process can open
//! /dev/fuse, mount, and give the descriptor to one that has none: as a file that is inherited, or
//! through a socket. A mount that was given is never unmounted here: its end is the end of all
//! copies of the descriptor.
//!
//! Through the socket it goes as gcs-fuse-csi-driver and meta-fuse-csi-plugin do it: the one that
//! mounts listens on a unix stream socket and sends to whoever connects one message, a JSON object
//! and with it, by SCM_RIGHTS, the descriptor. What the object says of the volume is theirs; we know
//! ours already. Beyond that, a giver of our own ([`super::helper`]) learns from the connection when
//! we serve, and from its end when we do no longer; others may close it.

use std::io::{self, Write};
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::fs::{CWD, Mode, OFlags};
use rustix::io::FdFlags;
use serde::{Deserialize, Serialize};

use super::mount::{self, MountSettings};
use super::orders::receive_raw;

/// The device number of /dev/fuse, on every Linux.
const FUSE: (u32, u32) = (10, 229);

/// How long the one that gives may take: it may start later than we do, and a predecessor of ours
/// may still be ending.
const PATIENCE: Duration = Duration::from_secs(20);

/// How long to sleep between tries to reach it.
const RETRY: Duration = Duration::from_millis(50);

/// The longest message of a giver that is read, in bytes: a name and some options.
const MESSAGE: usize = 16 * 1024;

/// What we tell the giver once we serve.
pub(super) const SERVES: &str = r#"{"serves":true}"#;

/// Where the open /dev/fuse of a mount comes from.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Origin {
    /// It is opened, and mounted, here.
    #[default]
    Mount,
    /// It was inherited under this number, already mounted.
    Inherited(RawFd),
    /// Whoever listens on this socket gives it, already mounted.
    Socket(PathBuf),
}

impl Origin {
    /// Returns whether somebody else mounts, and unmounts.
    pub fn is_given(&self) -> bool {
        *self != Origin::Mount
    }

    /// Returns the number in `/dev/fd/N`, which others write for a mount point when they give a
    /// descriptor.
    pub fn in_place_of_a_directory(mountpoint: &Path) -> Option<RawFd> {
        let name = mountpoint.strip_prefix("/dev/fd").ok()?.to_str()?;
        name.parse().ok()
    }

    /// Makes sure that what was inherited is an open and mounted /dev/fuse.
    pub fn check(&self) -> Result<(), BadDevice> {
        let Origin::Inherited(number) = *self else {
            return Ok(());
        };
        if number <= 2 {
            return Err(BadDevice::Standard(number));
        }
        // By this name of the kernel's: a number alone says nothing of whether it is open.
        let found = std::fs::metadata(format!("/proc/self/fd/{number}"));
        let meta = found.map_err(|_| BadDevice::Closed(number))?;
        let device = meta.rdev();
        if !meta.file_type().is_char_device()
            || (rustix::fs::major(device), rustix::fs::minor(device)) != FUSE
        {
            return Err(BadDevice::Other(number));
        }
        if !is_mounted(number) {
            return Err(BadDevice::Unmounted(number));
        }
        Ok(())
    }

    /// Keeps what was inherited from programs that are started.
    pub(crate) fn keep(&self) -> io::Result<()> {
        let Origin::Inherited(number) = *self else {
            return Ok(());
        };
        // SAFETY: it was checked to be open, and is borrowed for one call.
        let device = unsafe { BorrowedFd::borrow_raw(number) };
        Ok(rustix::io::fcntl_setfd(device, FdFlags::CLOEXEC)?)
    }

    /// Closes what was inherited, which another process has by now. The mount would live as long as
    /// any copy of it does.
    pub(crate) fn let_go(&self) {
        if let Origin::Inherited(number) = self {
            drop(take(*number));
        }
    }
}

/// Why a descriptor that was given cannot be served.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum BadDevice {
    /// It is the standard input or one of the outputs.
    #[error("file {0} is the standard input or output; pass the device as 3 or above")]
    Standard(RawFd),
    /// There is no open file of this number.
    #[error("file {0} is not open here; start svol with the open /dev/fuse as file {0}")]
    Closed(RawFd),
    /// It is something else.
    #[error("file {0} is not /dev/fuse; pass the descriptor that was mounted with")]
    Other(RawFd),
    /// Nothing is mounted with it, or no longer.
    #[error(
        "file {0} is /dev/fuse, but nothing is mounted with it, or no longer; mount with -o fd={0} \
         before svol starts"
    )]
    Unmounted(RawFd),
}

/// A mount's open /dev/fuse.
pub(crate) struct Acquired {
    pub(crate) device: OwnedFd,
    /// Who gave it; to be kept for as long as the device is.
    pub(crate) giver: Option<Giver>,
}

/// Returns the open /dev/fuse of the mount that `settings` ask for at `mountpoint`: mounts, or takes
/// what is given. The descriptor is closed in programs that are started.
///
/// To be called once: a descriptor that was inherited is taken.
pub(crate) fn acquire(mountpoint: &Path, settings: &MountSettings) -> io::Result<Acquired> {
    let device = match &settings.origin {
        Origin::Mount => mount::mount_device(mountpoint, settings)?,
        Origin::Inherited(number) => {
            let device = take(*number);
            rustix::io::fcntl_setfd(&device, FdFlags::CLOEXEC)?;
            device
        }
        Origin::Socket(socket) => return receive(socket),
    };
    let giver = None;
    Ok(Acquired { device, giver })
}

/// The connection to whoever gave the device. Its end tells them ours.
#[derive(Debug)]
pub(crate) struct Giver(UnixStream);

impl Giver {
    /// Says that the mount serves, and can be set up further.
    pub(crate) fn serves(&self) {
        // One that does not listen does not need to know.
        let _ = writeln!(&self.0, "{SERVES}");
    }
}

fn receive(socket: &Path) -> io::Result<Acquired> {
    let at = socket.display();
    let began = Instant::now();
    let stream = loop {
        match connect(socket) {
            Ok(stream) => break stream,
            Err(e)
                if began.elapsed() < PATIENCE
                    && matches!(
                        e.kind(),
                        io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused
                    ) =>
            {
                std::thread::sleep(RETRY);
            }
            Err(e) => {
                let why = format!("{at}: {e}; `svol fuse-helper` or a CSI driver has to listen");
                return Err(io::Error::other(why));
            }
        }
    };
    let left = PATIENCE.saturating_sub(began.elapsed());
    stream.set_read_timeout(Some(left.max(RETRY)))?;
    let mut text = vec![0; MESSAGE];
    let (_, mut files) = receive_raw(&stream, &mut text, rustix::net::RecvFlags::empty())
        .map_err(|e| io::Error::other(format!("{at}: no device in time: {e}")))?;
    let device = match (files.pop(), files.is_empty()) {
        (Some(device), true) => device,
        (None, _) => {
            let why = format!("{at}: closed without a device; its log says why");
            return Err(io::Error::other(why));
        }
        (Some(_), false) => {
            let why = format!("{at}: several files where one /dev/fuse was expected");
            return Err(io::Error::other(why));
        }
    };
    Origin::Inherited(device.as_raw_fd())
        .check()
        .map_err(|bad| io::Error::other(format!("{at}: what was sent cannot be served: {bad}")))?;
    let giver = Some(Giver(stream));
    Ok(Acquired { device, giver })
}

fn connect(socket: &Path) -> io::Result<UnixStream> {
    let short = Short::of(socket)?;
    UnixStream::connect(&short.path)
}

/// A path by way of its open directory: the address of a socket holds 107 bytes only, and those of
/// a cluster's volumes are longer.
pub(super) struct Short {
    /// Valid for as long as this lives.
    pub(super) path: PathBuf,
    _directory: OwnedFd,
}

impl Short {
    /// Opens the directory that `path` is in.
    pub(super) fn of(path: &Path) -> io::Result<Short> {
        let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else {
            return Err(io::ErrorKind::InvalidInput.into());
        };
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let directory = rustix::fs::openat(CWD, parent, flags, Mode::empty())?;
        let path = Path::new("/proc/self/fd")
            .join(directory.as_raw_fd().to_string())
            .join(name);
        Ok(Short {
            path,
            _directory: directory,
        })
    }
}

/// Takes what was inherited.
fn take(number: RawFd) -> OwnedFd {
    // SAFETY: it was checked to be open and none of the standard ones; whoever started us has given
    // it for this purpose, nothing of ours has this number, and each process takes it once.
    unsafe { OwnedFd::from_raw_fd(number) }
}

/// Returns whether a mount is behind an open /dev/fuse.
fn is_mounted(number: RawFd) -> bool {
    let mut polled = libc::pollfd {
        fd: number,
        events: libc::POLLIN,
        revents: 0,
    };
    // SAFETY: the call reads and writes one record, and does not wait.
    let polls = unsafe { libc::poll(&mut polled, 1, 0) };
    polls >= 0 && polled.revents & libc::POLLERR == 0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_an_open_and_mounted_device_is_taken() {
        let check = |number| Origin::Inherited(number).check();
        assert_eq!(check(1), Err(BadDevice::Standard(1)));
        assert_eq!(check(999), Err(BadDevice::Closed(999)));
        let file = std::fs::File::open("/dev/null").unwrap();
        let number = file.as_raw_fd();
        assert_eq!(check(number), Err(BadDevice::Other(number)));
        assert_eq!(Origin::Mount.check(), Ok(()));
    }

    #[test]
    fn a_number_may_stand_for_a_directory() {
        let number = |path: &str| Origin::in_place_of_a_directory(Path::new(path));
        assert_eq!(number("/dev/fd/3"), Some(3));
        assert_eq!(number("/dev/fd"), None);
        assert_eq!(number("/dev/fd/x"), None);
        assert_eq!(number("/mnt/3"), None);
    }
}
