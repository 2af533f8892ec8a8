//! The mounter: a process beside the daemon that mounts and unmounts for it.
//!
//! The daemon gives up the right to mount, and the right to run fusermount3, before it reads a byte
//! of a source; but it has to unmount at its end. So a second process of this program is started
//! first. It knows one mount point and what is to be mounted there, told once at its start, does
//! one of three things when it is told a byte, and ends with the daemon. It has no secrets: its
//! environment is `PATH` alone.

use std::io::{self, BufRead, BufReader, IoSlice, IoSliceMut, Read, Write};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags,
};
use serde::{Deserialize, Serialize};

use super::mount::{self, MountSettings};

/// Set for the process that is the mounter; its standard input is the socket to the daemon.
const ROLE: &str = "SVOL_MOUNTER";

/// What the mounter is told first.
#[derive(Serialize, Deserialize)]
struct Orders {
    mountpoint: PathBuf,
    settings: MountSettings,
}

/// What it is told after that.
const MOUNT: u8 = b'm';
const READ_AHEAD: u8 = b'r';
const END: u8 = b'e';

/// What it answers: nothing for success.
#[derive(Default, Serialize, Deserialize)]
struct Answer {
    errno: Option<i32>,
    said: Option<String>,
}

/// The daemon's end of a mounter. The process ends when this is dropped, or when the daemon dies;
/// a mount that was not ended stays.
#[derive(Debug)]
pub struct Mounter {
    socket: UnixStream,
    child: Child,
}

impl Mounter {
    /// Starts a mounter for `mountpoint`, which is absolute.
    pub fn start(mountpoint: &Path, settings: &MountSettings) -> io::Result<Mounter> {
        let (mut socket, theirs) = UnixStream::pair()?;
        let child = Command::new(std::env::current_exe()?)
            .arg0("svol-mounter")
            .arg(mountpoint)
            .env_clear()
            .envs(std::env::var_os("PATH").map(|path| ("PATH", path)))
            .env(ROLE, "1")
            .current_dir("/")
            .stdin(Stdio::from(OwnedFd::from(theirs)))
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()?;
        let mut orders = serde_json::to_vec(&Orders {
            mountpoint: mountpoint.to_owned(),
            settings: settings.clone(),
        })?;
        orders.push(b'\n');
        socket.write_all(&orders)?;
        Ok(Mounter { socket, child })
    }

    /// Mounts, and returns the open /dev/fuse of the mount.
    pub fn mount(&mut self) -> io::Result<OwnedFd> {
        let (answer, device) = self.ask(MOUNT)?;
        answer.result()?;
        device.ok_or_else(|| io::Error::other("mounted, but without a device"))
    }

    /// Raises the kernel's read-ahead for the mount, where that is allowed. The session must have
    /// begun, since its beginning sets it too.
    pub fn raise_read_ahead(&mut self) -> io::Result<()> {
        self.ask(READ_AHEAD)?.0.result()
    }

    /// Unmounts what was mounted: politely, then lazily.
    pub fn end(&mut self) -> io::Result<()> {
        self.ask(END)?.0.result()
    }

    fn ask(&mut self, what: u8) -> io::Result<(Answer, Option<OwnedFd>)> {
        self.socket.write_all(&[what])?;
        receive(&self.socket)
    }
}

impl Drop for Mounter {
    fn drop(&mut self) {
        // It ends at the end of what it is told.
        let _ = self.socket.shutdown(std::net::Shutdown::Both);
        let _ = self.child.wait();
    }
}

impl Answer {
    fn of(result: &io::Result<()>) -> Answer {
        match result {
            Ok(()) => Answer::default(),
            Err(error) => Answer {
                errno: error.raw_os_error(),
                said: Some(error.to_string()),
            },
        }
    }

    fn result(self) -> io::Result<()> {
        match (self.errno, self.said) {
            (Some(errno), _) => Err(io::Error::from_raw_os_error(errno)),
            (None, Some(said)) => Err(io::Error::other(said)),
            (None, None) => Ok(()),
        }
    }
}

/// Returns whether this process was started as a mounter.
pub fn is_asked_for() -> bool {
    std::env::var_os(ROLE).is_some()
}

/// Does what the daemon at the standard input says, until it ends.
pub fn run() -> io::Result<()> {
    // What is sent to all of a terminal's or a service's processes is for the daemon, which needs
    // us to do what it asks.
    for signal in [libc::SIGINT, libc::SIGTERM, libc::SIGHUP, libc::SIGQUIT] {
        // SAFETY: no handler is installed, the signal is only ignored.
        unsafe { libc::signal(signal, libc::SIG_IGN) };
    }
    let socket = UnixStream::from(io::stdin().as_fd().try_clone_to_owned()?);
    let mut told = BufReader::new(socket.try_clone()?);
    let mut orders = String::new();
    told.read_line(&mut orders)?;
    let Orders {
        mountpoint,
        settings,
    } = serde_json::from_str(&orders)?;
    let mut what = [0];
    while told.read(&mut what)? == 1 {
        let mut device = None;
        let done = match what[0] {
            MOUNT => mount::mount_device(&mountpoint, &settings).map(|fd| device = Some(fd)),
            READ_AHEAD => mount::set_read_ahead(&mountpoint),
            END => mount::end(&mountpoint),
            _ => Err(io::ErrorKind::InvalidInput.into()),
        };
        send(&socket, &Answer::of(&done), device.as_ref())?;
    }
    Ok(())
}

/// Sends an answer as a line, with an open file where there is one.
fn send(socket: &UnixStream, answer: &Answer, file: Option<&OwnedFd>) -> io::Result<()> {
    let mut line = serde_json::to_vec(answer)?;
    line.push(b'\n');
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut extra = SendAncillaryBuffer::new(&mut space);
    let files = file.map(|f| [f.as_fd()]);
    if let Some(files) = &files {
        extra.push(SendAncillaryMessage::ScmRights(files));
    }
    let sent = rustix::net::sendmsg(
        socket,
        &[IoSlice::new(&line)],
        &mut extra,
        SendFlags::NOSIGNAL,
    )?;
    // The rest of a long one; the open file went with the first byte.
    (&*socket).write_all(&line[sent..])
}

/// Receives what [`send`], or fusermount3 with one byte, sent.
fn receive_some(socket: &UnixStream, into: &mut [u8]) -> io::Result<(usize, Option<OwnedFd>)> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut extra = RecvAncillaryBuffer::new(&mut space);
    let got = rustix::io::retry_on_intr(|| {
        rustix::net::recvmsg(
            socket,
            &mut [IoSliceMut::new(into)],
            &mut extra,
            RecvFlags::CMSG_CLOEXEC,
        )
    })?;
    let file = extra.drain().find_map(|message| match message {
        RecvAncillaryMessage::ScmRights(mut files) => files.next(),
        _ => None,
    });
    Ok((got.bytes, file))
}

fn receive(socket: &UnixStream) -> io::Result<(Answer, Option<OwnedFd>)> {
    let (mut line, mut file) = (Vec::new(), None);
    while !line.ends_with(b"\n") {
        let mut piece = [0; 4096];
        let (got, with) = receive_some(socket, &mut piece)?;
        if got == 0 {
            return Err(io::Error::other("the process that mounts has ended"));
        }
        line.extend_from_slice(&piece[..got]);
        file = file.or(with);
    }
    Ok((serde_json::from_slice(&line)?, file))
}

/// Mounts through fusermount3, for users without the privilege; returns the open /dev/fuse.
pub(super) fn through_fusermount(mountpoint: &Path, options: &str) -> io::Result<OwnedFd> {
    let (ours, theirs) = UnixStream::pair()?;
    // It answers on the file that this variable has the number of: its standard input.
    let output = Command::new("fusermount3")
        .args(["-o", options, "--"])
        .arg(mountpoint)
        .env("_FUSE_COMMFD", "0")
        .stdin(Stdio::from(OwnedFd::from(theirs)))
        .output()
        .map_err(|e| io::Error::new(e.kind(), format!("fusermount3: {e}; install fuse3")))?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr);
        return Err(io::Error::other(said.trim().to_owned()));
    }
    let (_, device) = receive_some(&ours, &mut [0])?;
    device.ok_or_else(|| io::Error::other("fusermount3 mounted, but gave no device"))
}
