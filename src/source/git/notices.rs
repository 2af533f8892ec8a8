//! What is said once, and what is cleared away now and then.

use std::collections::HashSet;
use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Mutex, PoisonError};

use gix_hash::ObjectId;

use super::super::Result;
use super::store::Store;
use super::tree::{self, Node, Reach};
use crate::entry::Timestamp;
use crate::path::RelPath;

/// What an LFS pointer begins with.
const LFS: &[u8] = b"version https://git-lfs.github.com/spec/v1\n";

/// The longest LFS pointer, in bytes, by its specification.
const LONGEST_POINTER: usize = 1024;

/// The most pointers that are counted.
const POINTERS: usize = 100_000;

/// How many submodules are told of by name.
const SUBMODULES: usize = 20;

/// How often what is out of reach is looked for, in seconds.
const PRUNE: i64 = 3600;

/// What a source said already.
#[derive(Debug, Default)]
pub(super) struct Notices {
    /// The pointers that were seen, for each once.
    lfs: Mutex<HashSet<ObjectId>>,
    submodules: Mutex<HashSet<Vec<u8>>>,
}

impl Notices {
    /// The longest blob that [`Notices::look_at`] has to see.
    pub(super) const LONGEST: usize = LONGEST_POINTER;

    /// Looks whether a blob is an LFS pointer.
    pub(super) fn look_at(&self, source: &str, id: ObjectId, bytes: &[u8]) {
        if bytes.len() > LONGEST_POINTER || !bytes.starts_with(LFS) {
            return;
        }
        let mut seen = self.lfs.lock().unwrap_or_else(PoisonError::into_inner);
        if seen.len() < POINTERS && seen.insert(id) && seen.len() == 1 {
            tracing::warn!(
                source,
                "files are kept by Git LFS: their pointers are shown as they are; to show what they \
                 point to, mount the place where it is"
            );
        }
    }

    /// Returns how many LFS pointers were seen.
    pub(super) fn lfs_pointers(&self) -> u64 {
        let seen = self.lfs.lock().unwrap_or_else(PoisonError::into_inner);
        seen.len() as u64
    }

    /// Says that a directory is a submodule.
    pub(super) fn submodule(&self, source: &str, dir: &RelPath, node: &Node) {
        let name = String::from_utf8_lossy(&node.name);
        let path = format!("{}/{name}", dir.as_str());
        let mut told = self
            .submodules
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        if told.len() < SUBMODULES && told.insert(path.clone().into_bytes()) {
            let (path, commit) = (path.trim_start_matches('/').escape_debug(), node.id);
            tracing::warn!(
                source, %path, %commit,
                "a submodule is shown as an empty directory; add a layer of its repository to fill it"
            );
        }
    }
}

/// Removes from the store what no commit that is noted reaches, if that was not done lately.
pub(super) fn prune(store: &Store) -> Result<()> {
    static LAST: AtomicI64 = AtomicI64::new(0);
    let now = Timestamp::now().0 / 1_000_000_000;
    let last = LAST.load(Ordering::Relaxed);
    let is_due = (now - last).abs() >= PRUNE;
    let swap = LAST.compare_exchange(last, now, Ordering::Relaxed, Ordering::Relaxed);
    if !is_due || swap.is_err() {
        return Ok(());
    }
    let mut reach = Reach::default();
    for commit in store.commits()? {
        tree::reach(store, &|_| Ok(true), &commit, &mut reach)?;
    }
    let gone = store.sweep(&reach.all)?;
    if gone > 0 {
        tracing::debug!(gone, "objects of older commits are removed");
    }
    Ok(())
}
