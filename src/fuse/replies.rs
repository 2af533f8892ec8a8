//! Replies that tell the kernel names, and who has to wait for them.
//!
//! The kernel may be told that a name changed while a reply of the older state is still on its way;
//! it would then keep that for as long as the reply says. So replies are made, from what memory
//! says, and sent under a shared lock, and whoever tells of a change waits first until those under
//! way are there. The lock covers no wait for a source, and is not held while the kernel is told.

use std::sync::{PoisonError, RwLock, RwLockReadGuard};

/// Replies under way.
#[derive(Debug, Default)]
pub struct Replies(RwLock<()>);

impl Replies {
    /// Begins a reply: to be called before memory is asked, and held until the reply was sent.
    pub(super) fn begin(&self) -> RwLockReadGuard<'_, ()> {
        self.0.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits until every reply that has begun was sent.
    pub(super) fn wait(&self) {
        drop(self.0.write().unwrap_or_else(PoisonError::into_inner));
    }
}
