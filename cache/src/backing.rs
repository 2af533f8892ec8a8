//! An object's files as this process has them open, and what it knows of them.

use crate::sync::Arc;
use crate::sync::atomic::AtomicU64;
use std::os::unix::fs::MetadataExt;

use blake3::Hash;

use crate::bitmap::Bitmap;
use crate::dir;
use crate::files::Files;
use crate::index::Seal;
use crate::sidecar::Header;

/// What this process knows of the grains of one file, whichever descriptor it has of it.
pub(crate) struct Progress {
    pub(crate) verified: Bitmap,
    /// All grains before this one were present when last looked at.
    pub(crate) complete_to: AtomicU64,
}

/// What an open data file is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum State {
    Partial,
    Blob { hash: Hash, seal: Option<Seal> },
}

/// An object's files as this process has them open.
pub(crate) struct Backing {
    pub(crate) files: Files,
    pub(crate) state: State,
    pub(crate) progress: Arc<Progress>,
    /// Bytes written here that the index has not been told of.
    pub(crate) unreported: AtomicU64,
}

impl Backing {
    /// Returns what both files take on disk.
    pub(crate) fn allocated(&self) -> u64 {
        [&*self.files.data, &self.files.sidecar]
            .iter()
            .filter_map(|file| file.metadata().ok())
            .map(|metadata| dir::allocated(&metadata))
            .sum()
    }

    /// Returns whether the files are no longer those of the object: removed, or sealed meanwhile.
    pub(crate) fn is_stale(&self) -> bool {
        let removed = self.files.data.metadata().is_ok_and(|m| m.nlink() == 0);
        removed
            || self.state == State::Partial
                && matches!(Header::read(&self.files.sidecar), Ok(Some(header)) if header.sealed.is_some())
    }
}
