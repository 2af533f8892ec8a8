//! The mounter: a process beside the daemon that does for it what takes a privilege.
//!
//! The daemon gives up the right to mount, and the right to run fusermount3, before it reads a byte
//! of a source; but it has to unmount at its end, and to tell the kernel which file to read itself.
//! So a second process of this program is started first. It knows one mount point and what is to be
//! mounted there, told once at its start, then obeys eight orders, and ends with the daemon. It has
//! no secrets: its environment is `PATH` alone. It keeps no file of the mount open, so that the
//! daemon's death is the mount's at once.

use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Mutex, OnceLock, PoisonError};
use std::time::Duration;

use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, SocketFlags, SocketType,
};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::device;
use super::mount::{self, MountSettings};
use super::probe::{self, Prober};
use super::runner::{Program, Run, Runner};

/// Set for the process that is the mounter; its standard input is the socket to the daemon.
const ROLE: &str = "SVOL_MOUNTER";

/// The longest message, in bytes: two paths of the longest kind and what is around them.
const MESSAGE: usize = 32 * 1024;

/// How long a mount may take to answer before it counts as wedged.
pub const PROBE: Duration = Duration::from_secs(2);

/// The most open files that go with a message.
const FILES: usize = 2;

/// What the mounter is told.
#[derive(Serialize, Deserialize)]
enum Order {
    /// Comes first, and once.
    Begin {
        mountpoint: PathBuf,
        settings: MountSettings,
        hook: Option<Program>,
    },
    Mount,
    RaiseReadAhead,
    /// With the mount's device and the file.
    OpenBacking,
    /// With the mount's device.
    CloseBacking(u32),
    /// Asks the mount whether it serves, or whether it has answered yet; with true, anew.
    Probe(bool),
    /// Runs the program that `Begin` named, with variables; with its standard input and its output.
    RunHook(Vec<(String, String)>),
    /// Asks what became of it.
    Hook,
    End,
}

/// What it answers.
#[derive(Default, Serialize, Deserialize)]
struct Answer {
    /// The number of the system's error, if it was one.
    errno: Option<i32>,
    /// What any other error said.
    said: Option<String>,
    /// What the kernel calls a file that it was told of.
    backing: Option<u32>,
    /// What the mount answered.
    probe: Option<probe::Answer>,
    /// What became of the change hook's program.
    run: Option<Run>,
}

/// The daemon's end of a mounter. The process ends when this is dropped, or when the daemon dies;
/// a mount that was not ended stays.
#[derive(Debug)]
pub struct Mounter {
    /// One order at a time.
    socket: Mutex<OwnedFd>,
    device: OnceLock<OwnedFd>,
    child: Child,
}

impl Mounter {
    /// Starts a mounter for `mountpoint`, which is absolute; `hook` is the only program that it may
    /// run for us later.
    pub fn start(
        mountpoint: &Path,
        settings: &MountSettings,
        hook: Option<Program>,
    ) -> io::Result<Mounter> {
        let (ours, theirs) = rustix::net::socketpair(
            AddressFamily::UNIX,
            SocketType::SEQPACKET,
            SocketFlags::CLOEXEC,
            None,
        )?;
        let child = Command::new(std::env::current_exe()?)
            .arg0("svol-mounter")
            .arg(mountpoint)
            .env_clear()
            .envs(std::env::var_os("PATH").map(|path| ("PATH", path)))
            .env(ROLE, "1")
            .current_dir("/")
            .stdin(Stdio::from(theirs))
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()?;
        let begin = Order::Begin {
            mountpoint: mountpoint.to_owned(),
            settings: settings.clone(),
            hook,
        };
        send(&ours, &begin, &[])?;
        Ok(Mounter {
            socket: Mutex::new(ours),
            device: OnceLock::new(),
            child,
        })
    }

    /// Mounts, and returns the open /dev/fuse of the mount.
    pub fn mount(&self) -> io::Result<OwnedFd> {
        let (_, device) = self.ask(&Order::Mount, &[])?;
        let device = device.ok_or_else(|| io::Error::other("mounted, but without a device"))?;
        let _ = self.device.set(device.try_clone()?);
        Ok(device)
    }

    /// Raises the kernel's read-ahead for the mount, where that is allowed. The session must have
    /// begun, since its beginning sets it too.
    pub fn raise_read_ahead(&self) -> io::Result<()> {
        self.ask(&Order::RaiseReadAhead, &[]).map(drop)
    }

    /// Tells the kernel of a file that it may read itself; returns what it calls it.
    pub fn open_backing(&self, file: BorrowedFd<'_>) -> io::Result<u32> {
        let (answer, _) = self.ask(&Order::OpenBacking, &[self.device()?, file])?;
        let none = || io::Error::other("the file was made known, but has no number");
        answer.backing.ok_or_else(none)
    }

    /// Tells the kernel that no further open is for this file.
    pub fn close_backing(&self, id: u32) -> io::Result<()> {
        self.ask(&Order::CloseBacking(id), &[self.device()?])
            .map(drop)
    }

    /// Asks the mount, through the kernel, whether it serves; returns how long that took, or why it
    /// does not. Blocks for up to [`PROBE`], and leaves other orders through meanwhile.
    pub fn probe(&self) -> Result<Duration, String> {
        probe::within(PROBE, |anew| {
            let (answer, _) = self.ask(&Order::Probe(anew), &[])?;
            answer
                .probe
                .ok_or_else(|| io::ErrorKind::InvalidData.into())
        })
    }

    /// Starts the change hook's program with `variables`, `input` as its standard input, and
    /// `output` for what it writes. Fails where the last run has not ended.
    pub fn run_hook(
        &self,
        variables: Vec<(String, String)>,
        input: BorrowedFd<'_>,
        output: BorrowedFd<'_>,
    ) -> io::Result<()> {
        let order = Order::RunHook(variables);
        self.ask(&order, &[input, output]).map(drop)
    }

    /// Returns what became of the change hook's program; ends it where its time is up.
    pub fn hook(&self) -> io::Result<Run> {
        let (answer, _) = self.ask(&Order::Hook, &[])?;
        answer.run.ok_or_else(|| io::ErrorKind::InvalidData.into())
    }

    /// Unmounts what was mounted: politely, then lazily.
    pub fn end(&self) -> io::Result<()> {
        self.ask(&Order::End, &[]).map(drop)
    }

    fn device(&self) -> io::Result<BorrowedFd<'_>> {
        let device = self.device.get();
        Ok(device.ok_or(io::ErrorKind::NotConnected)?.as_fd())
    }

    fn ask(
        &self,
        order: &Order,
        files: &[BorrowedFd<'_>],
    ) -> io::Result<(Answer, Option<OwnedFd>)> {
        let socket = self.socket.lock().unwrap_or_else(PoisonError::into_inner);
        send(&*socket, order, files)?;
        let gone = || io::Error::other("the process that mounts has ended");
        let (answer, mut with) = receive::<Answer>(&*socket)?.ok_or_else(gone)?;
        match (answer.errno, &answer.said) {
            (Some(errno), _) => Err(io::Error::from_raw_os_error(errno)),
            (None, Some(said)) => Err(io::Error::other(said.clone())),
            (None, None) => Ok((answer, with.pop())),
        }
    }
}

impl Drop for Mounter {
    fn drop(&mut self) {
        // It ends when there is nobody left to tell it anything.
        let socket = self
            .socket
            .get_mut()
            .unwrap_or_else(PoisonError::into_inner);
        let _ = rustix::net::shutdown(socket, rustix::net::Shutdown::Both);
        let _ = self.child.wait();
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
    let socket = io::stdin().as_fd().try_clone_to_owned()?;
    let Some((
        Order::Begin {
            mountpoint,
            settings,
            hook,
        },
        _,
    )) = receive(&socket)?
    else {
        return Err(io::ErrorKind::InvalidInput.into());
    };
    let mut prober = Prober::new(&mountpoint);
    let mut runner = Runner::new(hook);
    // Who gave us the device, if somebody did: our end is to be seen there.
    let mut giver = None;
    while let Some((order, mut with)) = receive::<Order>(&socket)? {
        let mut answer = Answer::default();
        let mut device = None;
        let done = match (order, with.as_slice()) {
            (Order::Mount, []) => device::acquire(&mountpoint, &settings).map(|acquired| {
                device = Some(acquired.device);
                giver = acquired.giver;
            }),
            (Order::RaiseReadAhead, []) => match &giver {
                Some(giver) => {
                    giver.serves();
                    Ok(())
                }
                None => mount::set_read_ahead(&mountpoint),
            },
            (Order::OpenBacking, [device, file]) => {
                fuser::BackingId::create_raw(device, file).map(|id| answer.backing = Some(id))
            }
            (Order::CloseBacking(id), [device]) => close_backing(device, id),
            (Order::Probe(anew), []) => prober
                .step(anew, PROBE, Stdio::null())
                .map(|said| answer.probe = Some(said)),
            (Order::RunHook(variables), [_, _]) => match (with.pop(), with.pop()) {
                (Some(output), Some(input)) => runner.start(variables, input, output),
                _ => Err(io::ErrorKind::InvalidInput.into()),
            },
            (Order::Hook, []) => runner.step().map(|run| answer.run = Some(run)),
            // What others have mounted is theirs to unmount.
            (Order::End, []) if settings.origin.is_given() => Ok(()),
            (Order::End, []) => mount::end(&mountpoint),
            _ => Err(io::ErrorKind::InvalidInput.into()),
        };
        if let Err(error) = done {
            answer.errno = error.raw_os_error();
            answer.said = Some(error.to_string());
        }
        // Before the answer: the daemon may be gone once it has it.
        drop(with);
        let files: Vec<BorrowedFd<'_>> = device.iter().map(AsFd::as_fd).collect();
        send(&socket, &answer, &files)?;
    }
    prober.give_up();
    runner.give_up();
    Ok(())
}

/// Takes bytes for an order and for an answer, for a fuzzer.
#[cfg(feature = "failpoints")]
pub(crate) fn understand(data: &[u8]) {
    let _ = serde_json::from_slice::<Order>(data);
    let _ = serde_json::from_slice::<Answer>(data);
}

/// FUSE_DEV_IOC_BACKING_CLOSE, which fuser has for itself alone.
fn close_backing(device: &OwnedFd, id: u32) -> io::Result<()> {
    const CLOSE: libc::Ioctl = libc::_IOW::<u32>(229, 2);
    // SAFETY: the call reads one number.
    match unsafe { libc::ioctl(device.as_raw_fd(), CLOSE, &id) } {
        -1 => Err(io::Error::last_os_error()),
        _ => Ok(()),
    }
}

/// Sends a message, with open files where there are some.
fn send(socket: impl AsFd, message: &impl Serialize, files: &[BorrowedFd<'_>]) -> io::Result<()> {
    let text = serde_json::to_vec(message)?;
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(FILES))];
    let mut extra = SendAncillaryBuffer::new(&mut space);
    if !files.is_empty() {
        extra.push(SendAncillaryMessage::ScmRights(files));
    }
    let text = [IoSlice::new(&text)];
    rustix::io::retry_on_intr(|| {
        rustix::net::sendmsg(&socket, &text, &mut extra, SendFlags::NOSIGNAL)
    })?;
    Ok(())
}

/// Receives what [`send`] sent; nothing at the other side's end.
fn receive<T: DeserializeOwned>(socket: impl AsFd) -> io::Result<Option<(T, Vec<OwnedFd>)>> {
    let mut text = vec![0; MESSAGE];
    let (length, files) = receive_raw(socket, &mut text)?;
    if length == 0 {
        return Ok(None);
    }
    Ok(Some((serde_json::from_slice(&text[..length])?, files)))
}

pub(super) fn receive_raw(socket: impl AsFd, into: &mut [u8]) -> io::Result<(usize, Vec<OwnedFd>)> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(FILES))];
    let mut extra = RecvAncillaryBuffer::new(&mut space);
    let flags = RecvFlags::CMSG_CLOEXEC;
    let got = rustix::io::retry_on_intr(|| {
        rustix::net::recvmsg(&socket, &mut [IoSliceMut::new(into)], &mut extra, flags)
    })?;
    let mut files = Vec::new();
    for message in extra.drain() {
        if let RecvAncillaryMessage::ScmRights(more) = message {
            files.extend(more);
        }
    }
    Ok((got.bytes, files))
}

/// Mounts through fusermount3, for users without the privilege; returns the open /dev/fuse.
pub(super) fn through_fusermount(mountpoint: &Path, options: &str) -> io::Result<OwnedFd> {
    let (ours, theirs) = std::os::unix::net::UnixStream::pair()?;
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
    let (_, mut device) = receive_raw(&ours, &mut [0])?;
    let none = || io::Error::other("fusermount3 mounted, but gave no device");
    device.pop().ok_or_else(none)
}
