//! Takes inodes from the kernel that nobody uses, when it knows more than fit into our memory.
//!
//! The kernel keeps what it has looked up for as long as it likes, a million inodes after a walk,
//! and we keep what each stands for. It is asked to let go: by number (Linux 6.18 and later), which
//! only takes what is unused; before that by name, and then of files only, since invalidating the
//! name of a directory would take from it what is mounted below.
//!
//! A process that takes a mount over knows inodes that the kernel has forgotten, if the one before
//! ended before it took note of that. The kernel lets go of none of them, so it is asked whether it
//! knows them, and they are forgotten here.
//!
//! From a thread of its own that holds no lock, as all that is told to the kernel is.

use std::collections::HashMap;
use std::ffi::OsStr;
use std::os::fd::OwnedFd;
use std::sync::mpsc::sync_channel;
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use fuser::{INodeNo, Notifier};
use rustix::io::Errno;
use tracing::{debug, info};

use crate::vfs::{Idle, Ino, Vfs};

/// Inodes that are asked for at once: what the kernel takes in one go.
const BATCH: usize = 512;

/// The pause after a batch, in which the kernel forgets what it let go. More than that many a
/// second cannot be looked up either.
const PAUSE: Duration = Duration::from_millis(2);

/// The longest pause where nothing was gained. The first is short: on a busy machine what the kernel
/// let go of takes a while to get here, and who lists meanwhile goes on.
const IN_VAIN: Duration = Duration::from_secs(1);

/// For how long nothing may be heard of an inode that the kernel does not know before it is forgotten:
/// far longer than a lookup or a forget is on its way.
const SILENCE: Duration = Duration::from_secs(5);

/// Inodes that are watched so at once.
const WATCHED: usize = 16_384;

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
    let mut asking = Asking {
        by_number: device.is_some(),
        device,
        notifier,
        unknown: Unknown::default(),
    };
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
                    asking.forget_unknown(&known, &idle);
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
    device: Option<OwnedFd>,
    /// Whether the kernel can be asked for an inode by number.
    by_number: bool,
    notifier: Notifier,
    unknown: Unknown,
}

/// Inodes that the kernel did not know when it was asked, with the lookups that were counted then.
#[derive(Debug, Default)]
struct Unknown(HashMap<Ino, (u64, Instant)>);

impl Unknown {
    /// Takes note that the kernel does not know an inode; returns whether it may be forgotten.
    fn note(&mut self, ino: Ino, lookups: u64, now: Instant) -> bool {
        match self.0.get(&ino) {
            Some((before, since)) if *before == lookups => {
                let is_silent = now.duration_since(*since) >= SILENCE;
                if is_silent {
                    self.0.remove(&ino);
                }
                is_silent
            }
            // A lookup or a forget came.
            _ => {
                if self.0.len() >= WATCHED {
                    self.0.clear();
                }
                self.0.insert(ino, (lookups, now));
                false
            }
        }
    }
}

impl Asking {
    fn forget_unknown(&mut self, vfs: &Vfs, idle: &[Idle]) {
        let Some(device) = &self.device else { return };
        for inode in idle {
            let Some(lookups) = inode.inherited else {
                continue;
            };
            let is_unknown = rustix::io::write(device, &known_message(inode.ino))
                .is_err_and(|error| error == Errno::NOENT);
            if is_unknown && self.unknown.note(inode.ino, lookups, Instant::now()) {
                vfs.forget(inode.ino, lookups);
            }
        }
    }

    fn let_go(&mut self, idle: &[Idle]) {
        if let (Some(device), true) = (&self.device, self.by_number) {
            match rustix::io::write(device, &prune_message(idle)) {
                Ok(_) => return,
                Err(Errno::INVAL) => {
                    info!("this kernel lets go of inodes by name only");
                    self.by_number = false;
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

/// FUSE_NOTIFY_INVAL_INODE, of no pages at all, only for the answer: not there, if the kernel does not
/// know the inode. The notifier of the library keeps that to itself.
fn known_message(ino: Ino) -> [u8; 40] {
    const CODE: i32 = 2;
    let mut message = [0; 40];
    message[..4].copy_from_slice(&40_u32.to_ne_bytes());
    message[4..8].copy_from_slice(&CODE.to_ne_bytes());
    message[16..24].copy_from_slice(&ino.to_ne_bytes());
    message[24..32].copy_from_slice(&(-1_i64).to_ne_bytes());
    message
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
    fn an_inode_is_forgotten_once_nothing_was_heard_of_it() {
        let mut unknown = Unknown::default();
        let start = Instant::now();
        let later = |secs| start + Duration::from_secs(secs);
        assert!(!unknown.note(7, 2, start));
        assert!(!unknown.note(7, 2, later(4)));
        // Somebody looked it up meanwhile.
        assert!(!unknown.note(7, 3, later(6)));
        assert!(!unknown.note(7, 3, later(9)));
        assert!(unknown.note(7, 3, later(11)));
        assert!(!unknown.note(7, 3, later(12)));
    }

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
        let message = known_message(7);
        assert_eq!(message[..8], [40_u32, 2].map(u32::to_ne_bytes).concat());
        assert_eq!(message[16..24], 7_u64.to_ne_bytes());
        assert_eq!(message[24..32], (-1_i64).to_ne_bytes());
    }
}
