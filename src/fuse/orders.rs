//! What the daemon has done for it by the process that may mount, and how the two talk.
//!
//! Messages are JSON on a SEQPACKET socket, one order and one answer at a time, with open files
//! beside them. Orders come from a process that reads what servers sent: none of them says which
//! program to run, which path to mount at, or whom to signal.

use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::process::Stdio;

use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags,
};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::mount::MountSettings;
use super::mounter::PROBE;
use super::probe::{self, Prober};
use super::runner::{Program, Run, Runner};

/// The longest message, in bytes: two paths of the longest kind, an error's words and what is
/// around them.
const MESSAGE: usize = 32 * 1024;

/// The most open files that go with a message.
const FILES: usize = 2;

/// What is ordered.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum Order {
    /// Comes first, and once; not to a holder, which knows.
    Begin {
        mountpoint: PathBuf,
        settings: MountSettings,
        hook: Option<Program>,
    },
    /// Answered with the mount's device; by a holder also with the kernel's opening, see
    /// [`handshake`](super::handshake), and as often as it is asked.
    Mount,
    RaiseReadAhead,
    /// With the mount's device and the file.
    OpenBacking,
    /// With the mount's device.
    CloseBacking(u32),
    /// Asks the mount whether it serves, or whether it has answered yet; with true, anew.
    Probe(bool),
    /// Runs the program that was named, with variables; with its standard input and its output.
    RunHook(Vec<(String, String)>),
    /// Asks what became of it.
    Hook,
    End,
    /// To a holder: a worker could serve. Answered when it shall, which may take a while.
    Prepared {
        /// What it would reply to the kernel's opening.
        reply: Vec<u8>,
        /// The release that it is of.
        version: String,
    },
    /// To a holder: the worker serves.
    Serving,
    /// To a holder: a new worker shall take over, of the same program. Answered once that begins.
    Replace,
    /// To a holder: what it knows of its workers.
    History,
    /// To a holder: the worker that was told to leave begins nothing more. Not answered.
    Leaving,
    /// To a holder: why the worker ends, for people, and with which status. Not answered.
    LastWords(String, u8),
}

/// What is answered.
#[derive(Debug, Default, Serialize, Deserialize)]
pub(crate) struct Answer {
    /// The number of the system's error, if it was one.
    pub(crate) errno: Option<i32>,
    /// What any other error said.
    pub(crate) said: Option<String>,
    /// What the kernel calls a file that it was told of.
    pub(crate) backing: Option<u32>,
    /// What the mount answered.
    pub(crate) probe: Option<probe::Answer>,
    /// What became of the change hook's program.
    pub(crate) run: Option<Run>,
    /// What the kernel offers.
    pub(crate) opening: Option<Vec<u8>>,
    /// What a holder knows of its workers, as JSON.
    pub(crate) history: Option<String>,
}

impl Answer {
    /// Returns one that says what failed.
    pub(crate) fn of(error: &io::Error) -> Answer {
        Answer {
            errno: error.raw_os_error(),
            said: Some(error.to_string()),
            ..Answer::default()
        }
    }
}

/// Who carries out what the daemon orders for one mount.
pub(crate) struct Duty {
    prober: Prober,
    runner: Runner,
}

impl Duty {
    /// Returns one for the mount at `mountpoint`, which is absolute; `hook` is the only program that
    /// it runs when it is told to.
    pub(crate) fn new(mountpoint: &Path, hook: Option<Program>) -> Duty {
        Duty {
            prober: Prober::new(mountpoint),
            runner: Runner::new(hook),
        }
    }

    /// Has another program run from now on; one that runs is ended.
    pub(crate) fn set_hook(&mut self, hook: Option<Program>) {
        self.runner.give_up();
        self.runner = Runner::new(hook);
    }

    /// Carries out an order that is the same whoever is asked; the others are refused. The files
    /// are closed when it returns: who ordered may be gone once it has the answer.
    pub(crate) fn obey(&mut self, order: Order, mut with: Vec<OwnedFd>) -> io::Result<Answer> {
        let mut answer = Answer::default();
        match (order, with.as_slice()) {
            (Order::OpenBacking, [device, file]) => {
                answer.backing = Some(fuser::BackingId::create_raw(device, file)?);
            }
            (Order::CloseBacking(id), [device]) => close_backing(device, id)?,
            (Order::Probe(anew), []) => {
                answer.probe = Some(self.prober.step(anew, PROBE, Stdio::null())?);
            }
            (Order::RunHook(variables), [_, _]) => match (with.pop(), with.pop()) {
                (Some(output), Some(input)) => self.runner.start(variables, input, output)?,
                _ => return Err(io::ErrorKind::InvalidInput.into()),
            },
            (Order::Hook, []) => answer.run = Some(self.runner.step()?),
            _ => return Err(io::ErrorKind::InvalidInput.into()),
        }
        Ok(answer)
    }

    /// Returns the numbers of the processes that it started and did not wait for yet.
    pub(crate) fn children(&self) -> [Option<u32>; 2] {
        [self.prober.pid(), self.runner.pid()]
    }

    /// Ends what still asks the mount.
    pub(crate) fn give_up(&mut self) {
        self.prober.give_up();
        self.runner.give_up();
    }
}

/// FUSE_DEV_IOC_BACKING_CLOSE, which fuser has for itself alone.
fn close_backing(device: &OwnedFd, id: u32) -> io::Result<()> {
    use std::os::fd::AsRawFd;
    const CLOSE: libc::Ioctl = libc::_IOW::<u32>(229, 2);
    // SAFETY: the call reads one number.
    match unsafe { libc::ioctl(device.as_raw_fd(), CLOSE, &id) } {
        -1 => Err(io::Error::last_os_error()),
        _ => Ok(()),
    }
}

/// Takes bytes for an order and for an answer, for a fuzzer.
#[cfg(feature = "failpoints")]
pub(crate) fn understand(data: &[u8]) {
    let _ = serde_json::from_slice::<Order>(data);
    let _ = serde_json::from_slice::<Answer>(data);
}

/// Sends a message, with open files where there are some.
pub(crate) fn send(
    socket: impl AsFd,
    message: &impl Serialize,
    files: &[BorrowedFd<'_>],
) -> io::Result<()> {
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
pub(crate) fn receive<T: DeserializeOwned>(
    socket: impl AsFd,
) -> io::Result<Option<(T, Vec<OwnedFd>)>> {
    receive_with(socket, RecvFlags::empty())
}

/// The same if it is there already, else the error of the kind `WouldBlock`.
pub(crate) fn receive_now<T: DeserializeOwned>(
    socket: impl AsFd,
) -> io::Result<Option<(T, Vec<OwnedFd>)>> {
    receive_with(socket, RecvFlags::DONTWAIT)
}

fn receive_with<T: DeserializeOwned>(
    socket: impl AsFd,
    flags: RecvFlags,
) -> io::Result<Option<(T, Vec<OwnedFd>)>> {
    let mut text = vec![0; MESSAGE];
    let (length, files) = receive_raw(socket, &mut text, flags)?;
    if length == 0 {
        return Ok(None);
    }
    Ok(Some((serde_json::from_slice(&text[..length])?, files)))
}

/// Receives bytes, and the files that came with them.
pub(super) fn receive_raw(
    socket: impl AsFd,
    into: &mut [u8],
    flags: RecvFlags,
) -> io::Result<(usize, Vec<OwnedFd>)> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(FILES))];
    let mut extra = RecvAncillaryBuffer::new(&mut space);
    let flags = flags | RecvFlags::CMSG_CLOEXEC;
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
