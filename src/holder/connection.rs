//! The connection with the kernel, which outlives workers.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::event::{PollFd, PollFlags, Timespec};
use tracing::{debug, info, warn};

use super::knobs;
use crate::fuse::device::{self, Giver};
use crate::fuse::handshake;
use crate::fuse::mount::{self, MountSettings};

/// A mount, and the device through which the kernel asks.
#[derive(Debug)]
pub(super) struct Connection {
    mountpoint: PathBuf,
    device: OwnedFd,
    /// Who gave it, where somebody did: our end is to be seen there.
    giver: Option<Giver>,
    /// The mount's number, by which it is told from what others mount at the same place; nothing
    /// where others have mounted it, and are to unmount it.
    number: Option<String>,
    /// What the kernel said first.
    opening: Vec<u8>,
    /// What it was replied, once.
    reply: Option<Vec<u8>>,
    resends: bool,
    is_ended: bool,
}

impl AsFd for Connection {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.device.as_fd()
    }
}

impl Connection {
    /// Mounts at `mountpoint`, or takes the mount that is given.
    pub(super) fn open(mountpoint: &Path, settings: &MountSettings) -> io::Result<Connection> {
        let acquired = device::acquire(mountpoint, settings)?;
        let is_ours = !settings.origin.is_given();
        let opening = handshake::opening(acquired.device.as_fd());
        if opening.is_err() && is_ours {
            let _ = mount::end(mountpoint);
        }
        let number = match is_ours {
            true => mount::device_at(mountpoint).unwrap_or_default(),
            false => None,
        };
        Ok(Connection {
            mountpoint: mountpoint.to_owned(),
            number,
            opening: opening?,
            device: acquired.device,
            giver: acquired.giver,
            reply: None,
            resends: false,
            is_ended: false,
        })
    }

    /// Returns another descriptor of the device.
    pub(super) fn device(&self) -> io::Result<OwnedFd> {
        self.device.try_clone()
    }

    /// Returns the kernel's opening as the next worker is to see it.
    pub(super) fn shown(&self) -> Vec<u8> {
        handshake::shown(&self.opening, self.reply.as_deref())
    }

    /// Makes sure that a worker which would reply like this can serve.
    pub(super) fn suits(&self, reply: &[u8]) -> Result<(), String> {
        match &self.reply {
            None => Ok(()),
            Some(agreed) => handshake::suits(agreed, reply),
        }
    }

    /// Gives the mount to a worker that would reply like this: the first one's reply is the
    /// kernel's; for others it sends again what is under way.
    pub(super) fn begin(&mut self, reply: &[u8]) -> io::Result<()> {
        if self.reply.is_none() {
            rustix::io::write(&self.device, reply)?;
            self.reply = Some(reply.to_owned());
            // The reply sets the read-ahead too.
            if let Some(giver) = &self.giver {
                giver.serves();
            } else if let Err(error) = mount::set_read_ahead(&self.mountpoint) {
                debug!(%error, "the kernel's read-ahead stays as it is");
            }
            // Nothing is under way yet: a trial.
            self.resends = knobs::get("resends") != Some(0);
            if let Err(error) = handshake::resend(self.device.as_fd()) {
                info!(%error, "the kernel cannot send requests again (Linux 6.9 can)");
                self.resends = false;
            }
        } else if self.resends
            && let Err(error) = handshake::resend(self.device.as_fd())
        {
            warn!(%error, "the kernel does not send again what was under way");
        }
        Ok(())
    }

    /// Returns whether requests outlive the worker that took them.
    pub(super) fn resends(&self) -> bool {
        self.resends
    }

    /// Returns whether nobody can ask any more: it is unmounted, and nothing of it open.
    pub(super) fn is_gone(&self) -> bool {
        let mut fds = [PollFd::new(&self.device, PollFlags::empty())];
        let now = Timespec {
            tv_sec: 0,
            tv_nsec: 0,
        };
        matches!(rustix::event::poll(&mut fds, Some(&now)), Ok(1))
            && fds[0].revents().contains(PollFlags::ERR)
    }

    /// Unmounts, politely, then lazily.
    pub(super) fn unmount(&mut self) -> io::Result<()> {
        // Somebody else may have mounted there since, and been given our number: it is free as soon
        // as our mount is gone.
        let is_there = self.number.is_some() && mount::device_at(&self.mountpoint)? == self.number;
        if is_there && !self.is_gone() {
            mount::end(&self.mountpoint)?;
        }
        self.is_ended = true;
        Ok(())
    }

    /// Unmounts where that was not done.
    pub(super) fn end(&mut self) {
        if !self.is_ended
            && let Err(error) = self.unmount()
        {
            warn!(mountpoint = %self.mountpoint.display(), %error, "could not unmount");
        }
    }
}
