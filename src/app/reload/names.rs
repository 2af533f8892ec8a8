//! After a reload: what the kernel remembers of names is made true.

use std::sync::Arc;

use futures::StreamExt;
use tracing::info;

use crate::fuse::Notifications;
use crate::hook::Hooks;
use crate::path::RelPath;
use crate::vfs::Vfs;

/// Directories that are compared at once.
const PARALLEL: usize = 16;

/// Directories after which the kernel is waited for, so that all that is told finds room.
const BATCH: usize = 1000;

/// Tells the kernel which of the names that it knows are now something else, or nothing. A directory
/// that still is one is left alone: what is mounted on it, or works in it, stays.
pub(in crate::app) async fn tell_outdated(
    vfs: &Arc<Vfs>,
    notifications: &Notifications,
    hooks: Option<&Hooks>,
) {
    if let Some(hooks) = hooks {
        hooks.changes().reloaded(&RelPath::root(), &[]);
    }
    let known = vfs.known_names();
    let mut compared = futures::stream::iter(known)
        .map(|(dir, names)| async move { (vfs.outdated(&dir, names).await, dir) })
        .buffer_unordered(PARALLEL);
    let (mut names, mut dirs) = (0, 0);
    while let Some((outdated, dir)) = compared.next().await {
        if outdated.is_empty() {
            continue;
        }
        names += outdated.len();
        dirs += 1;
        notifications.changed(&dir, &outdated);
        if let Some(hooks) = hooks {
            hooks.changes().reloaded(&dir, &outdated);
        }
        if dirs % BATCH == 0 {
            notifications.told().await;
        }
    }
    notifications.told().await;
    info!(names, dirs, "names of the volume before are told");
}
