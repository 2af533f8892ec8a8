//! Tells the kernel which names changed.
//!
//! Names only, from a thread of its own that holds no lock, never at teardown: invalidating pages
//! under a reader deadlocks, and is never needed, since a changed file is a new inode.

use std::ffi::OsStr;
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::sync::{Arc, Weak};

use fuser::{INodeNo, Notifier};
use tracing::{debug, warn};

use crate::path::{Name, RelPath};
use crate::vfs::Vfs;

/// Changed directories that may wait to be told. What does not fit expires by its time instead.
const QUEUE: usize = 4096;

/// Accepts changes of the volume, to be told to the kernel. Cheap to clone, never waits.
#[derive(Debug, Clone)]
pub struct Notifications {
    queue: SyncSender<(RelPath, Vec<Name>)>,
}

/// The receiving end, until a mount exists to be told.
#[derive(Debug)]
pub struct Pending(Receiver<(RelPath, Vec<Name>)>);

impl Notifications {
    /// Returns both ends.
    pub fn new() -> (Notifications, Pending) {
        let (queue, pending) = sync_channel(QUEUE);
        (Notifications { queue }, Pending(pending))
    }

    /// Takes note that `names` in the directory `dir` of the volume changed, came or went.
    pub fn changed(&self, dir: &RelPath, names: &[Name]) {
        match self.queue.try_send((dir.clone(), names.to_vec())) {
            Ok(()) | Err(TrySendError::Disconnected(_)) => {}
            Err(TrySendError::Full(_)) => {
                warn!(%dir, "too many changes at once; the kernel learns of some when they expire");
            }
        }
    }
}

impl Pending {
    /// Starts telling the kernel. The thread ends when the last [`Notifications`] or the
    /// filesystem is gone.
    pub fn start(self, vfs: &Arc<Vfs>, notifier: Notifier) -> std::io::Result<()> {
        let vfs: Weak<Vfs> = Arc::downgrade(vfs);
        std::thread::Builder::new()
            .name("svol-notify".into())
            .spawn(move || {
                while let Ok((dir, names)) = self.0.recv() {
                    let Some(vfs) = vfs.upgrade() else { return };
                    let Some(parent) = vfs.known_dir(&dir) else {
                        continue;
                    };
                    drop(vfs);
                    for name in names {
                        if let Err(error) =
                            notifier.inval_entry(INodeNo(parent), OsStr::new(name.as_str()))
                        {
                            debug!(%dir, %name, %error, "could not tell the kernel of a change");
                        }
                    }
                }
            })
            .map(drop)
    }
}
