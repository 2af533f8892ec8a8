//! Takes inodes from the kernel that nobody uses, when it knows more than fit into our memory.
//!
//! The kernel keeps what it has looked up for as long as it likes, a million inodes after a walk,
//! and we keep what each stands for. It is asked to let go: by number (Linux 6.18 and later), which
//! only takes what is unused; before that by name, and then of files only, since invalidating the
//! name of a directory would take from it what is mounted below.
//!
//! From a thread of its own that holds no lock, as all that is told to the kernel is.

use std::ffi::OsStr;
use std::os::fd::OwnedFd;
use std::sync::mpsc::sync_channel;
use std::sync::{Arc, Weak};
use std::time::Duration;

use fuser::{INodeNo, Notifier};
use rustix::io::Errno;
use tracing::{debug, info};

use crate::vfs::{Idle, Vfs};

/// Inodes that are asked for at once: what the kernel takes in one go.
const BATCH: usize = 512;

/// The pause after a batch, in which the kernel forgets what it let go. More than that many a
/// second cannot be looked up either.
const PAUSE: Duration = Duration::from_millis(2);

/// The longest pause where nothing was gained. The first is short: on a busy machine what the kernel
/// let go of takes a while to get here, and who lists meanwhile goes on.
const IN_VAIN: Duration = Duration::from_secs(1);

/// Starts to keep the kernel at about `limit` inodes. The thread ends with the filesystem.
pub fn start(
    vfs: &Arc<Vfs>,
    limit: usize,
    device: Option<OwnedFd>,
    notifier: Notifier,
) -> std::io::Result<()> {
    let (wake, woken) = sync_channel(1);
    vfs.on_crowd(limit, move || {
        // One is enough, whoever it was.
        let _ = wake.try_send(());
    });
    let vfs: Weak<Vfs> = Arc::downgrade(vfs);
    let mut asking = Asking { device, notifier };
    std::thread::Builder::new()
        .name("svol-prune".into())
        .spawn(move || {
            while woken.recv().is_ok() {
                let mut pause = PAUSE;
                loop {
                    let Some(known) = vfs.upgrade() else { return };
                    let idle = known.idle(BATCH);
                    drop(known);
                    if idle.is_empty() {
                        break;
                    }
                    asking.let_go(&idle);
                    std::thread::sleep(pause);
                    let Some(known) = vfs.upgrade() else { return };
                    // Others may come faster than these go. Where none goes, all may be in use.
                    let in_vain = idle.iter().all(|inode| known.attr(inode.ino).is_ok());
                    pause = if in_vain {
                        (pause * 2).min(IN_VAIN)
                    } else {
                        PAUSE
                    };
                }
            }
        })
        .map(drop)
}

struct Asking {
    /// Nothing where the kernel cannot be asked by number.
    device: Option<OwnedFd>,
    notifier: Notifier,
}

impl Asking {
    fn let_go(&mut self, idle: &[Idle]) {
        if let Some(device) = &self.device {
            match rustix::io::write(device, &prune_message(idle)) {
                Ok(_) => return,
                Err(Errno::INVAL) => {
                    info!("this kernel lets go of inodes by name only");
                    self.device = None;
                }
                // The mount ends, say.
                Err(error) => {
                    debug!(%error, "the kernel did not let go of inodes");
                    return;
                }
            }
        }
        for file in idle.iter().filter(|inode| !inode.is_dir) {
            let Some(name) = &file.name else { continue };
            let name = OsStr::new(name.as_str());
            if let Err(error) = self.notifier.inval_entry(INodeNo(file.parent), name) {
                debug!(%error, "the kernel did not let go of a name");
            }
        }
    }
}

/// FUSE_NOTIFY_PRUNE, of protocol 7.45: a reply's header (length, code, no request), then how many
/// inodes, 12 bytes of nothing, and their numbers.
fn prune_message(idle: &[Idle]) -> Vec<u8> {
    const CODE: i32 = 9;
    const HEADS: usize = 32;
    let length = HEADS + 8 * idle.len();
    let mut message = Vec::with_capacity(length);
    // BATCH inodes at most.
    message.extend_from_slice(&(length as u32).to_ne_bytes());
    message.extend_from_slice(&CODE.to_ne_bytes());
    message.extend_from_slice(&[0; 8]);
    message.extend_from_slice(&(idle.len() as u32).to_ne_bytes());
    message.extend_from_slice(&[0; 12]);
    for inode in idle {
        message.extend_from_slice(&inode.ino.to_ne_bytes());
    }
    message
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_message_is_as_the_kernel_reads_it() {
        let inode = |ino| Idle {
            ino,
            parent: 1,
            name: None,
            is_dir: false,
            inherited: None,
        };
        let message = prune_message(&[inode(7), inode(8)]);
        let words: Vec<u32> = message
            .chunks(4)
            .map(|word| u32::from_ne_bytes(word.try_into().unwrap()))
            .collect();
        assert_eq!(words[..5], [48, 9, 0, 0, 2]);
        assert_eq!(words[5..8], [0; 3]);
        assert_eq!(message[32..40], 7_u64.to_ne_bytes());
        assert_eq!(message[40..], 8_u64.to_ne_bytes());
    }
}
