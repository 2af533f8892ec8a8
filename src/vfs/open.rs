//! Opening and reading files.

use std::sync::atomic::Ordering;
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use svol_cache::ObjectKey;

use super::error::{Error, Result};
use super::file::{Handle, InPlaceFile, OpenFile};
use super::node::{Ino, Node, What};
use super::Vfs;
use crate::entry::{Entry, Kind};
use crate::fetch::{Counters, Pin, Remote};
use crate::namespace::{Found, LookupError};
use crate::path::RelPath;
use crate::source;

/// How long an open waits to hear whether a weak version is still current (DESIGN 4.9).
const PROBE: Duration = Duration::from_secs(1);

/// Objects up to this size are fetched in one request, so their bytes cannot be of two versions.
const ONE_REQUEST: u64 = 64 << 10;

impl Vfs {
    /// Opens a file if nothing has to be asked for.
    pub fn open_now(&self, ino: Ino) -> Option<Result<u64>> {
        let node = match self.file_node(ino) {
            Ok(node) => node,
            Err(error) => return Some(Err(error)),
        };
        let name = node.path.file_name()?;
        let dir = node.path.parent()?;
        let found = self.namespace.peek_lookup(&dir, &name)?;
        if let Err(error) = self.check_current(&node, found) {
            return Some(Err(error));
        }
        if let Some(file) = opened(&node) {
            return Some(Ok(self.handle(node, file)));
        }
        if !pinned(node.entry()) || self.must_probe(&node) {
            return None;
        }
        let file = self.open_file(&node, node.entry().clone())?;
        Some(file.map(|file| self.handle(node, file)))
    }

    /// Opens a file.
    pub async fn open(self: &Arc<Self>, ino: Ino) -> Result<u64> {
        let node = self.file_node(ino)?;
        if let (Some(dir), Some(name)) = (node.path.parent(), node.path.file_name()) {
            let found = self.namespace.lookup(&dir, &name).await;
            self.check_current(&node, found)?;
        }
        let mut entry = node.entry().clone();
        if self.must_probe(&node) || (!pinned(&entry) && opened(&node).is_none()) {
            entry = self.probe(&node, entry).await?;
        }
        if let Some(file) = opened(&node) {
            return Ok(self.handle(node, file));
        }
        let file = match self.open_file(&node, entry.clone()) {
            Some(file) => file?,
            None => {
                let (this, at) = (self.clone(), node.clone());
                tokio::task::spawn_blocking(move || this.open_in_place(&at, entry))
                    .await
                    .map_err(|e| Error::Disk(e.to_string()))??
            }
        };
        Ok(self.handle(node, file))
    }

    /// Closes a file.
    pub fn release(&self, handle: u64) {
        self.handles.remove(handle);
    }

    /// Fills `buf` if that needs no waiting for a source; returns the bytes read.
    pub fn read_now(&self, handle: u64, offset: u64, buf: &mut [u8]) -> Option<Result<usize>> {
        let handle = self.handles.get(handle)?;
        let result = handle.read_now(offset, buf)?;
        if let (Ok(n), Some(counters)) = (&result, self.counters_of(&handle.node)) {
            counters.hit(*n);
        }
        Some(result)
    }

    /// Reads. Fewer bytes than asked only at the end of the file.
    ///
    /// A handle that this process does not know (another one gave it out) is opened anew by its
    /// inode.
    pub async fn read(
        self: &Arc<Self>,
        handle: u64,
        ino: Ino,
        offset: u64,
        len: usize,
    ) -> Result<Vec<u8>> {
        let handle = match self.handles.get(handle) {
            Some(handle) => handle,
            None => {
                let opened = self.open(ino).await?;
                self.handles.remove(opened).ok_or(Error::Stale)?
            }
        };
        if let Some(counters) = self.counters_of(&handle.node) {
            counters.miss();
        }
        let result = handle.read(offset, len).await;
        if let Err(error) = &result {
            self.note_failure(&handle.node, error);
        }
        if let OpenFile::Remote(remote) = &*handle.file {
            self.teach(&handle.node, remote.entry());
        }
        result
    }

    fn counters_of(&self, node: &Node) -> Option<&Arc<Counters>> {
        match &node.what {
            What::Leaf { layer, .. } => self.counters.get(*layer),
            What::Dir { .. } => None,
        }
    }

    pub(super) fn file_node(&self, ino: Ino) -> Result<Arc<Node>> {
        let node = self.nodes.get(ino).ok_or(Error::Stale)?;
        match node.entry().kind {
            Kind::File => Ok(node),
            Kind::Dir => Err(Error::IsDir),
            Kind::Symlink => Err(Error::Stale),
        }
    }

    fn handle(&self, node: Arc<Node>, file: Arc<OpenFile>) -> u64 {
        let number = self.next_handle.fetch_add(1, Ordering::Relaxed);
        self.handles
            .insert(number, Arc::new(Handle::new(node, file)));
        number
    }

    /// Answers the first open of a replaced file with `Stale`, so that the kernel looks the name
    /// up again; the second one without a lookup between has no name to look up (a bind mount)
    /// and gets the held version.
    fn check_current(
        &self,
        node: &Node,
        found: std::result::Result<Found, LookupError>,
    ) -> Result<()> {
        let current = match found {
            Ok(found) => self.identify(&node.path, found).0 == node.ino,
            Err(LookupError::Absent { .. }) => false,
            // Nobody knows: the held version is the best there is.
            Err(LookupError::Failed { .. }) => true,
        };
        if !current && !node.told_stale.swap(true, Ordering::Relaxed) {
            return Err(Error::Stale);
        }
        Ok(())
    }

    /// Returns whether the version is weak and was last seen too long ago.
    fn must_probe(&self, node: &Node) -> bool {
        match &node.what {
            What::Leaf { layer, source_path, entry } => {
                !entry.version.strong && self.namespace.is_due(*layer, source_path)
            }
            What::Dir { .. } => false,
        }
    }

    /// Asks the source what the file is now. No answer in time: what is known is used, unless the
    /// layer is strict or nothing of the file could be served anyway.
    async fn probe(&self, node: &Node, entry: Entry) -> Result<Entry> {
        let What::Leaf { layer, source_path, .. } = &node.what else {
            return Err(Error::IsDir);
        };
        let asking = self.namespace.probe(*layer, source_path, &entry);
        if pinned(&entry) && !self.namespace.is_strict(*layer) {
            return match tokio::time::timeout(PROBE, asking).await {
                Ok(Ok(now)) => self.still(node, now),
                Ok(Err(error)) if !error.kind().is_outage() => Err(error.into()),
                Ok(Err(_)) | Err(_) => Ok(entry),
            };
        }
        self.still(node, asking.await?)
    }

    /// Returns `now` if it is what the inode stands for.
    fn still(&self, node: &Node, now: Entry) -> Result<Entry> {
        if now.version == node.entry().version {
            return Ok(now);
        }
        if let What::Leaf { layer, source_path, .. } = &node.what {
            self.namespace.report_changed(*layer, source_path);
        }
        Err(Error::Stale)
    }

    /// Opens a file of a source that is fetched; nothing if the source is read in place, which may
    /// wait for a disk.
    fn open_file(&self, node: &Arc<Node>, entry: Entry) -> Option<Result<Arc<OpenFile>>> {
        let What::Leaf { layer, source_path, .. } = &node.what else {
            return Some(Err(Error::IsDir));
        };
        let source = self.namespace.source(*layer);
        if source.in_place().is_some() {
            return None;
        }
        let Some(size) = entry.size else {
            return Some(Err(source::Error::lied("a file without a size").into()));
        };
        let key = object_key(source.identity(), source_path, &entry);
        let remote = Remote::new(
            self.cache.object(key, size),
            source.clone(),
            Pin {
                path: source_path.clone(),
                entry,
            },
            self.fetcher.clone(),
            self.counters[*layer].clone(),
            self.runtime.clone(),
            self.namespace.deadline(*layer),
        );
        Some(Ok(share(node, OpenFile::Remote(remote))))
    }

    fn open_in_place(&self, node: &Arc<Node>, entry: Entry) -> Result<Arc<OpenFile>> {
        let What::Leaf { layer, source_path, .. } = &node.what else {
            return Err(Error::IsDir);
        };
        let source = self.namespace.source(*layer);
        let Some(ability) = source.in_place() else {
            return Err(Error::Stale);
        };
        let file = ability.open(source_path, &entry).inspect_err(|e| {
            self.note_failure(node, &Error::Source(e.clone()));
        })?;
        let file = InPlaceFile {
            file,
            source: source.clone(),
            path: source_path.clone(),
            entry,
        };
        Ok(share(node, OpenFile::InPlace(file)))
    }

    /// Lets the catalogue keep what the first reply taught.
    fn teach(&self, node: &Node, learnt: &Entry) {
        if let What::Leaf { layer, source_path, entry } = &node.what
            && entry.validator.is_none()
            && let Some(validator) = &learnt.validator
        {
            self.namespace
                .learn(*layer, source_path, &entry.version, validator);
        }
    }
}

/// Returns the file that is already open behind an inode.
pub(super) fn opened(node: &Node) -> Option<Arc<OpenFile>> {
    node.opened
        .lock()
        .unwrap_or_else(PoisonError::into_inner)
        .upgrade()
}

/// Makes `file` the inode's open file, unless another thread was faster.
fn share(node: &Node, file: OpenFile) -> Arc<OpenFile> {
    let mut opened = node.opened.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(first) = opened.upgrade() {
        return first;
    }
    let file = Arc::new(file);
    *opened = Arc::downgrade(&file);
    file
}

/// Returns whether replies to several requests for `entry` can be told to be of one version.
fn pinned(entry: &Entry) -> bool {
    entry.validator.is_some() || entry.size.is_some_and(|size| size <= ONE_REQUEST)
}

/// Returns the cache's key of an object: its source without credentials, its path and version.
///
/// The validator of a weak version is part of it, since two contents may share a size and a time.
/// Not for small objects, which are fetched before it is known, and whole.
pub(super) fn object_key(identity: &str, path: &RelPath, entry: &Entry) -> ObjectKey {
    let validator = match &entry.validator {
        Some(v) if !entry.version.strong && entry.size.is_some_and(|s| s > ONE_REQUEST) => v,
        _ => "",
    };
    let mut hash = blake3::Hasher::new_derive_key("sharedvolume.io 2026-11 object key v1");
    for part in [identity, path.as_str(), &entry.version.token, validator] {
        hash.update(&(part.len() as u64).to_le_bytes());
        hash.update(part.as_bytes());
    }
    ObjectKey::new(*hash.finalize().as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::entry::Version;
    use crate::path::Name;

    #[test]
    fn keys_tell_versions_apart_and_validators_of_weak_ones() {
        let path = RelPath::new("f").unwrap();
        let entry = |size, version, validator: Option<&str>| Entry {
            validator: validator.map(Into::into),
            ..Entry::file(Name::new("f").unwrap(), size, None, version)
        };
        let key = |e: &Entry| object_key("s", &path, e);
        let big = 1 << 20;
        let strong = |v: &str| Version::strong(v);
        let weak = |v: &str| Version::weak(v);
        assert_ne!(key(&entry(big, strong("1"), None)), key(&entry(big, strong("2"), None)));
        assert_eq!(key(&entry(big, strong("1"), None)), key(&entry(big, strong("1"), Some("x"))));
        assert_ne!(key(&entry(big, weak("1"), Some("y"))), key(&entry(big, weak("1"), Some("x"))));
        assert_eq!(key(&entry(9, weak("1"), None)), key(&entry(9, weak("1"), Some("x"))));
    }
}
