//! The mounter: a process beside the daemon that does for it what takes a privilege.
//!
//! The daemon gives up the right to mount, and the right to run fusermount3, before it reads a byte
//! of a source; but it has to unmount at its end, and to tell the kernel which file to read itself.
//! A process outside does that: the holder ([`crate::holder`]) that started the daemon and outlives
//! it, or, where there shall be none, a second process of this program that is started first. That
//! one knows one mount point and what is to be mounted there, told once at its start, then obeys eight
//! orders, and ends with the daemon. It has no secrets: its environment is `PATH` alone. It keeps no
//! file of the mount open, so that the daemon's death is the mount's at once.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::{Mutex, OnceLock, PoisonError};
use std::time::Duration;

use rustix::net::{AddressFamily, RecvFlags, SocketFlags, SocketType};

use super::device;
use super::mount::{self, MountSettings};
use super::orders::{Answer, Duty, Order, receive, receive_raw, send};
use super::probe;
use super::runner::{Program, Run};

/// Set for the process that is the mounter; its standard input is the socket to the daemon.
const ROLE: &str = "SVOL_MOUNTER";

/// How long a mount may take to answer before it counts as wedged.
pub const PROBE: Duration = Duration::from_secs(2);

/// The daemon's end of a mounter, or of its holder. A mounter ends when this is dropped, or when
/// the daemon dies; a mount that was not ended stays.
#[derive(Debug)]
pub struct Mounter {
    /// One order at a time.
    socket: Mutex<OwnedFd>,
    device: OnceLock<OwnedFd>,
    /// Nothing where it is the holder.
    child: Option<Child>,
}

/// The device of a mount, and how the kernel opened the talk there, where somebody took that in.
#[derive(Debug)]
pub(super) struct Opened {
    pub(super) device: OwnedFd,
    pub(super) opening: Option<Vec<u8>>,
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
            child: Some(child),
        })
    }

    /// Returns the end of a holder's socket.
    pub(crate) fn of_holder(socket: OwnedFd) -> Mounter {
        Mounter {
            socket: Mutex::new(socket),
            device: OnceLock::new(),
            child: None,
        }
    }

    /// Mounts, or takes what is mounted already, and returns the open /dev/fuse of the mount.
    pub(super) fn mount(&self) -> io::Result<Opened> {
        let (answer, device) = self.ask(&Order::Mount, &[])?;
        let device = device.ok_or_else(|| io::Error::other("mounted, but without a device"))?;
        let _ = self.device.set(device.try_clone()?);
        let opening = answer.opening;
        Ok(Opened { device, opening })
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

    /// Tells the holder that this worker could serve, replying to the kernel's opening like this,
    /// and waits until it shall.
    pub(super) fn prepared(&self, reply: Vec<u8>) -> io::Result<()> {
        let version = env!("CARGO_PKG_VERSION").into();
        self.ask(&Order::Prepared { reply, version }, &[]).map(drop)
    }

    /// Tells the holder that this worker serves.
    pub fn serving(&self) -> io::Result<()> {
        self.ask(&Order::Serving, &[]).map(drop)
    }

    /// Asks the holder for a new worker, of the same program and arguments, that reads the volume
    /// file anew and takes over once it is prepared. Returns when it is being started. This worker
    /// ends when the other can serve; where it cannot, [`history`](Self::history) says why, and
    /// this one goes on.
    pub fn replace(&self) -> io::Result<()> {
        self.ask(&Order::Replace, &[]).map(drop)
    }

    /// Returns what the holder knows of its workers, as JSON; nothing where there is no holder.
    pub fn history(&self) -> Option<String> {
        if self.child.is_some() {
            return None;
        }
        let (answer, _) = self.ask(&Order::History, &[]).ok()?;
        answer.history
    }

    /// Tells the holder why this worker is about to end, and with which status.
    pub fn last_words(&self, said: &str, status: u8) {
        /// What is more than enough to read, in characters.
        const MOST: usize = 4 * 1024;
        let words = said.chars().take(MOST).collect();
        if self.tell(&Order::LastWords(words, status)).is_err() {
            tracing::error!(said, "the process that holds the mount is gone");
        }
    }

    /// Tells the holder that this worker begins nothing more.
    pub fn leaving(&self) {
        // It may be gone itself.
        let _ = self.tell(&Order::Leaving);
    }

    fn tell(&self, order: &Order) -> io::Result<()> {
        let socket = self.socket.lock().unwrap_or_else(PoisonError::into_inner);
        send(&*socket, order, &[])
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
        let Some(child) = &mut self.child else {
            return;
        };
        // It ends when there is nobody left to tell it anything.
        let socket = self
            .socket
            .get_mut()
            .unwrap_or_else(PoisonError::into_inner);
        let _ = rustix::net::shutdown(socket, rustix::net::Shutdown::Both);
        let _ = child.wait();
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
    let mut duty = Duty::new(&mountpoint, hook);
    // Who gave us the device, if somebody did: our end is to be seen there.
    let mut giver = None;
    while let Some((order, with)) = receive::<Order>(&socket)? {
        let mut device = None;
        let done = match order {
            Order::Mount => device::acquire(&mountpoint, &settings).map(|acquired| {
                device = Some(acquired.device);
                giver = acquired.giver;
                Answer::default()
            }),
            Order::RaiseReadAhead => match &giver {
                Some(giver) => {
                    giver.serves();
                    Ok(Answer::default())
                }
                None => mount::set_read_ahead(&mountpoint).map(|()| Answer::default()),
            },
            // What others have mounted is theirs to unmount.
            Order::End if settings.origin.is_given() => Ok(Answer::default()),
            Order::End => mount::end(&mountpoint).map(|()| Answer::default()),
            order => duty.obey(order, with),
        };
        let answer = done.unwrap_or_else(|error| Answer::of(&error));
        let files: Vec<BorrowedFd<'_>> = device.iter().map(AsFd::as_fd).collect();
        send(&socket, &answer, &files)?;
    }
    duty.give_up();
    Ok(())
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
    let (_, mut device) = receive_raw(&ours, &mut [0], RecvFlags::empty())?;
    let none = || io::Error::other("fusermount3 mounted, but gave no device");
    device.pop().ok_or_else(none)
}
