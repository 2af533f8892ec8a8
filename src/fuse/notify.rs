//! Tells the kernel which names changed.
//!
//! Names only, from a thread of its own that holds no lock, never at teardown: invalidating pages
//! under a reader deadlocks, and is never needed, since a changed file is a new inode.

use std::ffi::OsStr;
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::sync::{Arc, Weak};
use std::time::Duration;

use fuser::{INodeNo, Notifier};
use tokio::sync::oneshot;
use tracing::{debug, warn};

use super::replies::Replies;
use crate::path::{Name, RelPath};
use crate::vfs::Vfs;

/// Changed directories that may wait to be told. What does not fit expires by its time instead.
const QUEUE: usize = 4096;

/// How long [`Notifications::told`] waits: the kernel takes no change of a directory while a lookup
/// in it waits for a source.
const TELL: Duration = Duration::from_secs(2);

/// What the kernel is told, in order.
#[derive(Debug)]
enum Message {
    /// Names in a directory changed, came or went.
    Changed(RelPath, Vec<Name>),
    /// Somebody wants to know when all before this was told.
    Told(oneshot::Sender<()>),
}

/// Accepts changes of the volume, to be told to the kernel. Cheap to clone, never waits.
#[derive(Debug, Clone)]
pub struct Notifications {
    queue: SyncSender<Message>,
}

/// The receiving end, until a mount exists to be told.
#[derive(Debug)]
pub struct Pending(Receiver<Message>);

impl Notifications {
    /// Returns both ends.
    pub fn new() -> (Notifications, Pending) {
        let (queue, pending) = sync_channel(QUEUE);
        (Notifications { queue }, Pending(pending))
    }

    /// Takes note that `names` in the directory `dir` of the volume changed, came or went.
    pub fn changed(&self, dir: &RelPath, names: &[Name]) {
        let message = Message::Changed(dir.clone(), names.to_vec());
        match self.queue.try_send(message) {
            Ok(()) | Err(TrySendError::Disconnected(_)) => {}
            Err(TrySendError::Full(_)) => {
                warn!(%dir, "too many changes at once; the kernel learns of some when they expire");
            }
        }
    }

    /// Waits until the kernel was told of every change so far, two seconds at most.
    pub async fn told(&self) {
        let (tell, told) = oneshot::channel();
        if self.queue.try_send(Message::Told(tell)).is_ok() {
            let _ = tokio::time::timeout(TELL, told).await;
        }
    }
}

impl Pending {
    /// Starts telling the kernel. The thread ends when the last [`Notifications`] or the
    /// filesystem is gone.
    pub fn start(
        self,
        vfs: &Arc<Vfs>,
        replies: Arc<Replies>,
        notifier: Notifier,
    ) -> std::io::Result<()> {
        let vfs: Weak<Vfs> = Arc::downgrade(vfs);
        std::thread::Builder::new()
            .name("svol-notify".into())
            .spawn(move || {
                while let Ok(message) = self.0.recv() {
                    let (dir, names) = match message {
                        Message::Changed(dir, names) => (dir, names),
                        Message::Told(tell) => {
                            let _ = tell.send(());
                            continue;
                        }
                    };
                    let Some(vfs) = vfs.upgrade() else { return };
                    let Some(parent) = vfs.known_dir(&dir) else {
                        continue;
                    };
                    drop(vfs);
                    replies.wait();
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
