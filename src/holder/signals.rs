//! Signals, taken one after the other by the loop; and children that are nobody's.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, FromRawFd, OwnedFd};

use rustix::process::Signal;

/// What is caught.
const CAUGHT: [Signal; 4] = [Signal::TERM, Signal::INT, Signal::HUP, Signal::CHILD];

/// The signals that came.
#[derive(Debug)]
pub(super) struct Signals(OwnedFd);

impl AsFd for Signals {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

impl Signals {
    /// Catches them from now on, for this process, which has one thread.
    pub(super) fn catch() -> io::Result<Signals> {
        // SAFETY: a set of signals on the stack, filled before it is read.
        let fd = unsafe {
            let mut set = std::mem::zeroed();
            libc::sigemptyset(&mut set);
            for signal in CAUGHT {
                libc::sigaddset(&mut set, signal.as_raw());
            }
            if libc::sigprocmask(libc::SIG_BLOCK, &set, std::ptr::null_mut()) != 0 {
                return Err(io::Error::last_os_error());
            }
            libc::signalfd(-1, &set, libc::SFD_CLOEXEC | libc::SFD_NONBLOCK)
        };
        match fd {
            -1 => Err(io::Error::last_os_error()),
            // SAFETY: just made, and nobody else's.
            fd => Ok(Signals(unsafe { OwnedFd::from_raw_fd(fd) })),
        }
    }

    /// Returns those that came since.
    pub(super) fn caught(&self) -> Vec<Signal> {
        const SIZE: usize = size_of::<libc::signalfd_siginfo>();
        let mut all = Vec::new();
        let mut message = [0; SIZE];
        while let Ok(SIZE) = rustix::io::read(&self.0, &mut message) {
            // It begins with the number.
            let number = u32::from_ne_bytes([message[0], message[1], message[2], message[3]]);
            all.extend(CAUGHT.into_iter().find(|s| s.as_raw() as u32 == number));
        }
        all
    }
}

/// Undoes for this process what [`Signals::catch`] did for the one that started it.
pub(super) fn hear_all() -> io::Result<()> {
    // SAFETY: a set of signals on the stack, filled before it is read.
    let done = unsafe {
        let mut none = std::mem::zeroed();
        libc::sigemptyset(&mut none);
        libc::sigprocmask(libc::SIG_SETMASK, &none, std::ptr::null_mut())
    };
    match done {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// As the first process of a container, takes in those that others left behind; all but `ours`, for
/// whom somebody waits.
pub(super) fn reap_strangers(ours: &[u32]) {
    if std::process::id() != 1 {
        return;
    }
    loop {
        // SAFETY: a plain structure, which the calls fill.
        let pid = unsafe {
            let mut info: libc::siginfo_t = std::mem::zeroed();
            let how = libc::WEXITED | libc::WNOHANG | libc::WNOWAIT;
            match libc::waitid(libc::P_ALL, 0, &mut info, how) {
                0 => info.si_pid(),
                _ => 0,
            }
        };
        // The same is shown again until somebody has waited for it.
        if pid <= 0 || ours.contains(&(pid as u32)) {
            return;
        }
        // SAFETY: the call fills nothing.
        unsafe { libc::waitpid(pid, std::ptr::null_mut(), libc::WNOHANG) };
    }
}
