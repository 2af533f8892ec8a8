//! How the kernel and a worker agree on the way a mount works, once for many workers.
//!
//! The kernel says what it can exactly once (FUSE_INIT), and what was replied holds until the mount
//! ends. The holder takes that message from the device, and shows it to every worker through a pair
//! of sockets that stands for the device while fuser shakes hands. The first worker's reply goes to
//! the kernel; those of later ones only have to suit it. To them the kernel seems to offer what was
//! agreed on, so they never count on more. Then the real device is put where the socket was.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use fuser::{Config, InitFlags, Session, SessionACL};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::net::{AddressFamily, Shutdown, SocketFlags, SocketType};

use super::Fuse;

/// The shortest buffer that the kernel reads a message into (FUSE_MIN_READ_BUFFER).
const READ: usize = 8192;

/// How long the kernel may take to say what it can: it does so while it mounts.
const PATIENCE: Timespec = Timespec {
    tv_sec: 5,
    tv_nsec: 0,
};

/// The number of the message with which the kernel opens.
const INIT: u32 = 26;

/// Where the flags are in the kernel's opening, a low and a high half: behind a header of 40 bytes,
/// two versions and a read-ahead.
const OFFERED: [usize; 2] = [52, 56];

/// Where they are in the reply, behind a header of 16.
const AGREED: [usize; 2] = [28, 48];

/// Where a reply has the versions, which must be the same for all workers.
const VERSIONS: std::ops::Range<usize> = 16..24;

/// What one worker may have agreed on and the next not want, without a difference to anybody:
/// neither is used unless a reply says so.
const AT_WILL: InitFlags = InitFlags::FUSE_READDIRPLUS_AUTO.union(InitFlags::FUSE_PASSTHROUGH);

/// Takes the kernel's opening from the device of a new mount.
pub(crate) fn opening(device: BorrowedFd<'_>) -> io::Result<Vec<u8>> {
    let mut fds = [PollFd::new(&device, PollFlags::IN)];
    poll(&mut fds, Some(&PATIENCE))?;
    if !fds[0].revents().contains(PollFlags::IN) {
        let said = "the kernel does not open the talk: is this the /dev/fuse of a new mount?";
        return Err(io::Error::other(said));
    }
    let mut message = vec![0; READ];
    let length = rustix::io::read(device, &mut message)?;
    message.truncate(length);
    if length < OFFERED[1] + 4 || message[4..8] != INIT.to_ne_bytes() {
        let said = "the kernel's first message is no opening: the mount is in use already";
        return Err(io::Error::other(said));
    }
    Ok(message)
}

/// Returns the opening as a worker is to see it: where a reply was given, with what it agreed on.
pub(crate) fn shown(opening: &[u8], reply: Option<&[u8]>) -> Vec<u8> {
    let mut shown = opening.to_owned();
    if let Some(reply) = reply {
        let mask = flags(reply, AGREED) | InitFlags::FUSE_INIT_EXT.bits();
        let offered = flags(opening, OFFERED) & mask;
        for (at, half) in OFFERED.iter().zip([offered as u32, (offered >> 32) as u32]) {
            shown[*at..*at + 4].copy_from_slice(&half.to_ne_bytes());
        }
    }
    shown
}

/// Makes sure that a worker which replies with `reply` can serve where `agreed` was replied.
pub(crate) fn suits(agreed: &[u8], reply: &[u8]) -> Result<(), String> {
    let missing = flags(agreed, AGREED) & !flags(reply, AGREED) & !AT_WILL.bits();
    if missing != 0 {
        let missing = InitFlags::from_bits_retain(missing);
        return Err(format!(
            "it does not know how the mount works ({missing:?}); unmount and mount anew"
        ));
    }
    if agreed.get(VERSIONS) != reply.get(VERSIONS) {
        return Err("it speaks another version of FUSE; unmount and mount anew".into());
    }
    Ok(())
}

fn flags(message: &[u8], at: [usize; 2]) -> u64 {
    let half = |at: usize| match message.get(at..at + 4) {
        Some([a, b, c, d]) => u32::from_ne_bytes([*a, *b, *c, *d]),
        _ => 0,
    };
    u64::from(half(at[0])) | (u64::from(half(at[1])) << 32)
}

/// Begins a session on `device` for which the kernel's opening was taken already; returns it with
/// what is to be replied.
pub(super) fn begin(
    filesystem: Fuse,
    device: &OwnedFd,
    opening: &[u8],
    acl: SessionACL,
    config: Config,
) -> io::Result<(Session<Fuse>, Vec<u8>)> {
    let (ours, theirs) = rustix::net::socketpair(
        AddressFamily::UNIX,
        SocketType::SEQPACKET,
        SocketFlags::CLOEXEC,
        None,
    )?;
    rustix::io::write(&ours, opening)?;
    // One who wants another message gets an end, and does not wait for ever.
    rustix::net::shutdown(&ours, Shutdown::Write)?;
    let session = Session::from_fd(filesystem, theirs, acl, config)?;
    let mut reply = vec![0; READ];
    let length = rustix::io::read(&ours, &mut reply)?;
    reply.truncate(length);
    let (from, to) = (device.as_raw_fd(), session.as_fd().as_raw_fd());
    // SAFETY: the session's number stays the session's; only what is behind it becomes another.
    match unsafe { libc::dup3(from, to, libc::O_CLOEXEC) } {
        -1 => Err(io::Error::last_os_error()),
        _ => Ok((session, reply)),
    }
}

/// Has the kernel send again what a process took and did not answer, which must be dead: else it
/// would be answered twice. An error before Linux 6.9.
pub(crate) fn resend(device: BorrowedFd<'_>) -> io::Result<()> {
    /// FUSE_NOTIFY_RESEND, as a reply's header to no request: its length, a code, a number.
    const CODE: i32 = 7;
    let mut message = [0; 16];
    message[..4].copy_from_slice(&16_u32.to_ne_bytes());
    message[4..8].copy_from_slice(&CODE.to_ne_bytes());
    rustix::io::write(device, &message)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(at: [usize; 2], flags: InitFlags) -> Vec<u8> {
        let mut message = vec![0; 104];
        message[at[0]..at[0] + 4].copy_from_slice(&(flags.bits() as u32).to_ne_bytes());
        message[at[1]..at[1] + 4].copy_from_slice(&((flags.bits() >> 32) as u32).to_ne_bytes());
        message
    }

    #[test]
    fn a_later_worker_is_offered_what_was_agreed_on() {
        let old = InitFlags::FUSE_ASYNC_READ | InitFlags::FUSE_PASSTHROUGH;
        let offer = message(OFFERED, old | InitFlags::FUSE_MAX_PAGES);
        assert_eq!(shown(&offer, None), offer);
        let seen = shown(&offer, Some(&message(AGREED, old)));
        assert_eq!(flags(&seen, OFFERED), old.bits());
        assert_eq!(seen.len(), offer.len());
    }

    #[test]
    fn a_worker_must_know_what_was_agreed_on() {
        let agreed = message(AGREED, InitFlags::FUSE_MAX_PAGES | AT_WILL);
        let with = |flags| suits(&agreed, &message(AGREED, flags));
        assert_eq!(with(InitFlags::FUSE_MAX_PAGES), Ok(()));
        assert_eq!(with(InitFlags::FUSE_MAX_PAGES | AT_WILL), Ok(()));
        assert!(with(AT_WILL).unwrap_err().contains("MAX_PAGES"));
        assert!(suits(&agreed, &[]).is_err());
    }
}
