//! Opening and reading files.

use std::sync::atomic::Ordering;
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use svol_cache::ObjectKey;

use super::Vfs;
use super::error::{Error, Result};
use super::file::{Handle, InPlaceFile, OpenFile, RemoteFile};
use super::node::{Ino, Node, What};
use super::opener::{ONE_REQUEST, pinned};
use super::troubles::Operation;
use crate::entry::{Entry, Kind};
use crate::fetch::Counters;
use crate::namespace::{Found, LookupError};
use crate::path::RelPath;
use crate::source;

/// How long an open waits to hear whether a weak version is still current.
const PROBE: Duration = Duration::from_secs(1);

/// A local file with all bytes of an open file, and no others.
pub enum Backing {
    /// It never has one: it is small, or read in place.
    Never,
    /// Not all of it is here, or not sealed yet.
    NotYet,
    /// This one.
    File(svol_cache::Sealed),
}

/// Who opens a file.
#[derive(Debug, Clone, Copy, Default)]
pub struct Caller {
    /// The thread; 0 for whoever cannot be told apart.
    pub thread: u32,
    /// The number of the kernel's request, the same if it comes twice; 0 where there is none.
    pub request: u64,
}

impl Vfs {
    /// Opens a file if nothing has to be asked for.
    pub fn open_now(&self, ino: Ino) -> Option<Result<u64>> {
        self.open_now_for(ino, Caller::default())
    }

    /// Opens a file for `caller` if nothing has to be asked for.
    pub fn open_now_for(&self, ino: Ino, caller: Caller) -> Option<Result<u64>> {
        let node = match self.file_node(ino) {
            Ok(node) => node,
            Err(error) => return Some(Err(error)),
        };
        let result = self.open_node_now(&node, caller.thread)?;
        self.note_file(&node, Operation::Open, &result);
        Some(result.map(|file| self.handle(node, file, caller.request)))
    }

    fn open_node_now(&self, node: &Arc<Node>, caller: u32) -> Option<Result<Arc<OpenFile>>> {
        let found = self
            .namespace
            .peek_lookup(&node.path.parent()?, &node.path.file_name()?)?;
        let Current { entry, is_replaced } = match self.current(node, found, caller) {
            Ok(current) => current,
            Err(error) => return Some(Err(error)),
        };
        let leaf = leaf(node).ok()?;
        if !is_replaced && self.opener.must_probe(leaf.layer, leaf.path, &entry) {
            return None;
        }
        self.take_up_inode(node.ino);
        if let Some(file) = opened(node) {
            return Some(Ok(file));
        }
        if !pinned(&entry) {
            return None;
        }
        self.open_file(node, entry)
    }

    /// Opens a file.
    pub async fn open(self: &Arc<Self>, ino: Ino) -> Result<u64> {
        self.open_for(ino, Caller::default()).await
    }

    /// Opens a file for `caller`, as [`Vfs::open_now_for`].
    pub async fn open_for(self: &Arc<Self>, ino: Ino, caller: Caller) -> Result<u64> {
        let (node, file) = self.open_inode(ino, caller.thread).await?;
        Ok(self.handle(node, file, caller.request))
    }

    /// Opens a file that the kernel is told nothing of.
    pub(super) async fn open_quietly(self: &Arc<Self>, ino: Ino) -> Result<Arc<Handle>> {
        let (node, file) = self.open_inode(ino, 0).await?;
        Ok(Arc::new(Handle::new(node, file, 0, true)))
    }

    async fn open_inode(
        self: &Arc<Self>,
        ino: Ino,
        caller: u32,
    ) -> Result<(Arc<Node>, Arc<OpenFile>)> {
        let node = self.file_node(ino)?;
        let result = self.open_node(node.clone(), caller).await;
        self.note_file(&node, Operation::Open, &result);
        Ok((node, result?))
    }

    async fn open_node(self: &Arc<Self>, node: Arc<Node>, caller: u32) -> Result<Arc<OpenFile>> {
        let Leaf { layer, path, entry } = leaf(&node)?;
        let mut entry = entry.clone();
        let mut is_known = false;
        if let (Some(dir), Some(name)) = (node.path.parent(), node.path.file_name()) {
            let found = self.namespace.lookup(&dir, &name).await;
            let current = self.current(&node, found, caller)?;
            (entry, is_known) = (current.entry, current.is_replaced);
        }
        let due = !is_known && self.opener.must_probe(layer, path, &entry);
        self.take_up_inode(node.ino);
        if due || (!pinned(&entry) && opened(&node).is_none()) {
            entry = match self.probe(&node, layer, path, &entry).await {
                // Told before, as in `current`.
                Err(Error::Stale) if pinned(&entry) && !node.must_tell_stale(caller) => entry,
                answer => answer?,
            };
        }
        if let Some(file) = opened(&node) {
            return Ok(file);
        }
        match self.open_file(&node, entry.clone()) {
            Some(file) => file,
            None => {
                let this = self.clone();
                tokio::task::spawn_blocking(move || this.open_in_place(&node, entry))
                    .await
                    .map_err(|e| Error::Disk(e.to_string()))?
            }
        }
    }

    /// Returns the local file that holds all bytes of an open file.
    pub fn backing(&self, handle: u64) -> Backing {
        let handle = self.handles.get(handle);
        match handle.as_ref().map(|handle| &*handle.file) {
            Some(OpenFile::Remote(file)) if file.remote.size() > svol_cache::SMALL => {
                let sealed = file.remote.sealed_file();
                sealed.map_or(Backing::NotYet, Backing::File)
            }
            _ => Backing::Never,
        }
    }

    /// Returns whether what the kernel may have kept of a file is not to be used: it may be of
    /// bytes that were not those promised.
    pub fn is_mistrusted(&self, handle: u64) -> bool {
        let handle = self.handles.get(handle);
        match handle.as_ref().map(|handle| &*handle.file) {
            Some(OpenFile::Remote(file)) => {
                let fetcher = &self.opener.fetcher;
                file.remote.broken_promise().is_some()
                    || fetcher.mistrusted(file.remote.object().key()).is_some()
            }
            _ => false,
        }
    }

    /// Closes a file. Returns whether it was open: the kernel may say it twice, if another process
    /// answers for it in between.
    pub fn release(&self, handle: u64) -> bool {
        let is_closed = self.handles.remove(handle).is_some() | self.release_inherited(handle);
        if is_closed {
            self.note_closed(handle);
        }
        is_closed
    }

    /// Fills `buf` if that needs no waiting for a source; returns the bytes read.
    pub fn read_now(&self, handle: u64, offset: u64, buf: &mut [u8]) -> Option<Result<usize>> {
        let handle = match self.handles.get(handle) {
            Some(handle) => handle,
            None => match self.take_up_now(handle)? {
                Ok(handle) => handle,
                Err(error) => return Some(Err(error)),
            },
        };
        let result = handle.read_now(offset, buf)?;
        self.note_file(&handle.node, Operation::Read, &result);
        if let (Ok(n), Some(counters)) = (&result, self.counters_of(&handle.node)) {
            counters.hit(*n);
        }
        Some(result)
    }

    /// Reads. Fewer bytes than asked only at the end of the file.
    pub async fn read(
        self: &Arc<Self>,
        handle: u64,
        ino: Ino,
        offset: u64,
        len: usize,
    ) -> Result<Vec<u8>> {
        let reading = self.read_with(handle, ino, offset, len, <[u8]>::to_vec);
        reading.await
    }

    /// Reads, and hands `take` the bytes where they are, without a copy. It must not wait.
    ///
    /// A handle that another process gave out is of the version that was open there; one of which
    /// nothing is known is opened anew by its inode.
    pub async fn read_with<T>(
        self: &Arc<Self>,
        handle: u64,
        ino: Ino,
        offset: u64,
        len: usize,
        take: impl FnOnce(&[u8]) -> T,
    ) -> Result<T> {
        let number = handle;
        let handle = match self.handles.get(number) {
            Some(handle) => handle,
            None => match self.take_up(number).await {
                Some(handle) => handle?,
                None => self.open_quietly(ino).await?,
            },
        };
        let counters = self.counters_of(&handle.node);
        if let Some(counters) = counters {
            counters.miss();
        }
        // Before the reader has its bytes: who then looks at the figures finds them there.
        let noted = |bytes: &[u8]| {
            self.note_file(&handle.node, Operation::Read, &Ok(()));
            if let Some(counters) = counters {
                counters.missed(bytes.len());
            }
            // What follows must be of the same version, whoever reads it.
            if handle.learnt() {
                self.note_opened(number, &handle);
            }
            take(bytes)
        };
        let result = handle.read(offset, len, noted).await;
        if let Err(error) = &result {
            self.note_file(&handle.node, Operation::Read, &result);
            self.look_into(&handle.node, error).await;
        }
        if let OpenFile::Remote(file) = &*handle.file {
            self.teach(&handle.node, file.remote.entry());
        }
        result
    }

    fn counters_of(&self, node: &Node) -> Option<&Arc<Counters>> {
        self.opener.counters.get(leaf(node).ok()?.layer)
    }

    fn file_node(&self, ino: Ino) -> Result<Arc<Node>> {
        let node = self.nodes.get(ino).ok_or(Error::Stale)?;
        leaf(&node)?;
        Ok(node)
    }

    fn handle(&self, node: Arc<Node>, file: Arc<OpenFile>, request: u64) -> u64 {
        let number = self.next_handle.fetch_add(1, Ordering::Relaxed);
        let is_known = file.entry().validator.is_some();
        let handle = Arc::new(Handle::new(node, file, request, is_known));
        self.handles.insert(number, handle.clone());
        self.note_opened(number, &handle);
        number
    }

    /// Returns what is known now of the file that the inode stands for: perhaps more than at its
    /// lookup.
    ///
    /// A thread's first open of a replaced file is answered with `Stale`, so that the kernel looks
    /// the name up again; its second one without a lookup between has no name to look up (a bind
    /// mount) and gets the held version.
    fn current(
        &self,
        node: &Node,
        found: std::result::Result<Found, LookupError>,
        caller: u32,
    ) -> Result<Current> {
        let held = leaf(node)?.entry;
        match found {
            Ok(found) => {
                let at = self.identify(&node.path, found.entry.clone(), found.layer, found.path);
                if at.0 == node.ino {
                    return Ok(Current {
                        entry: found.entry,
                        is_replaced: false,
                    });
                }
            }
            Err(LookupError::Absent { .. }) => {}
            // Nobody knows: the held version is the best there is.
            Err(LookupError::Failed { .. }) => {
                return Ok(Current {
                    entry: held.clone(),
                    is_replaced: false,
                });
            }
        }
        if node.must_tell_stale(caller) {
            return Err(Error::Stale);
        }
        Ok(Current {
            entry: held.clone(),
            is_replaced: true,
        })
    }

    /// Asks the source what the file is now. No answer in time, or none for now: what is known is
    /// used, and said to be stale, unless the layer is strict or nothing of the file could be served
    /// anyway.
    async fn probe(
        &self,
        node: &Node,
        layer: usize,
        path: &RelPath,
        entry: &Entry,
    ) -> Result<Entry> {
        let asking = self.catalogue(layer).probe(path, entry);
        let unconfirmed = |error| {
            node.confirmed(Some(error));
            Ok(entry.clone())
        };
        let now = if pinned(entry) && !self.opener.policies[layer].strict {
            match tokio::time::timeout(PROBE, asking).await {
                Ok(Err(error)) if error.kind().is_transient() => return unconfirmed(error),
                Ok(answer) => answer,
                Err(_) => {
                    let what = format!("no answer within {PROBE:?} to whether it has changed");
                    return unconfirmed(source::Error::new(source::ErrorKind::Timeout, what));
                }
            }
        } else {
            asking.await
        };
        node.confirmed(None);
        match now {
            Ok(now) if now.version == entry.version => Ok(now),
            Ok(_) => Err(Error::Stale),
            Err(error) if error.kind() == source::ErrorKind::NotFound => {
                self.catalogue(layer).report_changed(path);
                Err(Error::Stale)
            }
            Err(error) => Err(error.into()),
        }
    }

    /// Takes note of a failed read. A version that is gone from its source is asked for, so that
    /// the next open finds what is there now: a listing need not tell that anything changed.
    pub(super) async fn look_into(&self, node: &Node, error: &Error) {
        self.note_failure(node, error);
        let Error::Source(error) = error else { return };
        if let Ok(Leaf { layer, path, entry }) = leaf(node)
            && matches!(
                error.kind(),
                source::ErrorKind::Changed | source::ErrorKind::NotFound
            )
            && node.may_look_into()
        {
            let asking = self.catalogue(layer).probe(path, entry);
            // What comes of it is in the catalogue, whether or not it comes in time.
            let _ = tokio::time::timeout(PROBE, asking).await;
        }
    }

    /// Opens a file of a source that is fetched; nothing if the source is read in place, which may
    /// wait for a disk.
    pub(super) fn open_file(
        &self,
        node: &Arc<Node>,
        entry: Entry,
    ) -> Option<Result<Arc<OpenFile>>> {
        let Leaf { layer, path, .. } = match leaf(node) {
            Ok(leaf) => leaf,
            Err(error) => return Some(Err(error)),
        };
        let source = self.source(layer);
        if source.in_place().is_some() {
            return None;
        }
        let Some(size) = entry.size else {
            return Some(Err(source::Error::lied("a file without a size").into()));
        };
        let (remote, trace) = self.ahead.open(layer, path, entry, size);
        let file = RemoteFile::new(remote, trace, self.ahead.clone());
        Some(Ok(share(node, OpenFile::Remote(file))))
    }

    pub(super) fn open_in_place(&self, node: &Arc<Node>, entry: Entry) -> Result<Arc<OpenFile>> {
        let Leaf { layer, path, .. } = leaf(node)?;
        let source = self.source(layer);
        let Some(ability) = source.in_place() else {
            return Err(Error::Stale);
        };
        let file = ability.open(path, &entry).inspect_err(|e| {
            self.note_failure(node, &Error::Source(e.clone()));
        })?;
        let file = InPlaceFile {
            file,
            source: source.clone(),
            path: path.clone(),
            entry,
        };
        Ok(share(node, OpenFile::InPlace(file)))
    }

    /// Lets the catalogue keep what the first reply taught.
    pub(super) fn teach(&self, node: &Node, learnt: &Entry) {
        if let Ok(Leaf { layer, path, entry }) = leaf(node)
            && entry.validator.is_none()
            && let Some(validator) = &learnt.validator
        {
            self.catalogue(layer)
                .learn(path, &entry.version, validator.clone());
        }
    }
}

/// What is known at open of the version that an inode stands for.
struct Current {
    entry: Entry,
    /// Its name stands for another version by now, which the opener was told.
    is_replaced: bool,
}

/// A file of a layer.
#[derive(Clone, Copy)]
struct Leaf<'a> {
    layer: usize,
    path: &'a RelPath,
    entry: &'a Entry,
}

fn leaf(node: &Node) -> Result<Leaf<'_>> {
    match &node.what {
        What::Leaf {
            layer,
            source_path,
            entry,
        } if entry.kind == Kind::File => Ok(Leaf {
            layer: *layer,
            path: source_path,
            entry,
        }),
        What::Leaf { .. } | What::Lost { .. } => Err(Error::Stale),
        What::Root | What::Dir { .. } => Err(Error::IsDir),
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
    ObjectKey::from_bytes(*hash.finalize().as_bytes())
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
        assert_ne!(
            key(&entry(big, strong("1"), None)),
            key(&entry(big, strong("2"), None))
        );
        assert_eq!(
            key(&entry(big, strong("1"), None)),
            key(&entry(big, strong("1"), Some("x")))
        );
        assert_ne!(
            key(&entry(big, weak("1"), Some("y"))),
            key(&entry(big, weak("1"), Some("x")))
        );
        assert_eq!(
            key(&entry(9, weak("1"), None)),
            key(&entry(9, weak("1"), Some("x")))
        );
    }
}
