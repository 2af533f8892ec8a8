//! The filesystem's operations on inodes and handles. Knows no FUSE types and no errno.
//!
//! Each operation comes twice: `*_now` answers from memory and local disk, on the caller's thread,
//! or says that it cannot (`None`); its async twin waits for sources, within their deadlines. The
//! FUSE layer tries the first on the kernel's own thread and spawns the second.
//!
//! Invariants: an inode is (layer, path, version) and never changes what it stands for
//! (see `node`); an open file is pinned to its version; a source's failure is never an absence.
//!
//! A process may be followed by another one while the mount goes on: what it tells the kernel it has
//! written down before (see `takeover`).
//!
//! Lock order: shards of nodes, then `Node::opened`, then the journal; handles' windows are leaves. No
//! lock is held while a source is asked.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use svol_cache::Cache;
use tokio::runtime::Handle as Runtime;

use crate::catalogue::Catalogue;
use crate::entry::{Entry, Kind, Timestamp};
use crate::fetch::{Counters, Fetcher};
use crate::namespace::{Found, Merged, Namespace};
use crate::path::{NAME_MAX, Name, RelPath};
use crate::source::{ErrorKind, Source};

mod ahead;
mod attr;
mod cookie;
mod error;
mod file;
mod hidden;
mod journal;
mod node;
mod open;
mod opener;
mod outdated;
mod shards;
mod stored;
mod takeover;
mod troubles;
mod xattr;

pub use attr::{Attr, Owner};
pub use error::{Error, Result};
pub use node::{Idle, Ino, ROOT};
pub use open::{Backing, Caller};
pub use stored::{Brought, Stored};
pub use takeover::OpenInode;
pub use troubles::{Operation, Trouble};

use ahead::Ahead;
use file::Handle;
use hidden::HiddenNames;
use node::{Node, Nodes, What};
use opener::Opener;
use shards::Shards;
use takeover::Inherited;
use troubles::Troubles;

/// For how long the kernel may keep what never changes: an inode's attributes.
pub const FOREVER: Duration = Duration::from_secs(24 * 3600);

/// For how long the kernel may remember that a name is absent: a second at most.
pub const ABSENT: Duration = Duration::from_secs(1);

/// A filesystem: a namespace, read through a cache.
pub struct Vfs {
    namespace: Arc<Namespace>,
    opener: Arc<Opener>,
    ahead: Arc<Ahead>,
    owner: Owner,
    /// The time shown where a source knows none: fixed, so that it is the same after a remount.
    epoch: Timestamp,
    nodes: Nodes,
    handles: Shards<Arc<Handle>>,
    dirs: Shards<Arc<DirHandle>>,
    next_handle: AtomicU64,
    /// Files that an earlier process opened.
    inherited: Inherited,
    /// What the kernel calls the files that it reads open inodes from itself, for a later process.
    backed: Shards<u32>,
    hidden: HiddenNames,
    troubles: Troubles,
}

/// How a layer is read.
#[derive(Debug, Clone, Copy)]
pub struct LayerPolicy {
    /// Whether a file is refused whose weak version cannot be checked.
    pub strict: bool,
    /// For how long a weak version that was seen is believed at open.
    pub revalidate: Duration,
    /// How long a reader waits for its bytes.
    pub deadline: Duration,
}

/// An open directory: one state of its listing, so that offsets into it stay true.
#[derive(Debug)]
struct DirHandle {
    node: Arc<Node>,
    /// Of the listing that it was opened with.
    generation: u64,
    listing: std::sync::RwLock<Merged>,
}

/// What a lookup found.
#[derive(Debug, Clone, Copy)]
pub struct Looked {
    /// Its attributes.
    pub attr: Attr,
    /// For how long the kernel may believe in the name.
    pub name_ttl: Duration,
}

/// An opened directory.
#[derive(Debug, Clone, Copy)]
pub struct OpenedDir {
    /// The handle.
    pub handle: u64,
    /// Whether the listing is the one that the kernel's directory cache was filled with.
    pub unchanged: bool,
}

/// One entry of an open directory.
#[derive(Debug)]
pub struct DirEntry<'a> {
    /// Where the next entry is.
    pub next: u64,
    /// Its name.
    pub name: &'a str,
    /// Its attributes.
    pub attr: Attr,
    /// For how long the kernel may believe name and attributes; zero if it must ask first.
    pub ttl: Duration,
}

/// Sizes of the volume for `statfs`, in bytes.
#[derive(Debug, Clone, Copy)]
pub struct VolumeSize {
    /// Known bytes in the volume.
    pub used: u64,
    /// Room left in the cache.
    pub free: u64,
    /// Known files.
    pub files: u64,
}

impl Vfs {
    /// Assembles a filesystem; `policies` are those of the namespace's layers.
    pub fn new(
        namespace: Arc<Namespace>,
        cache: Cache,
        fetcher: Arc<Fetcher>,
        runtime: Runtime,
        policies: Vec<LayerPolicy>,
        owner: Owner,
    ) -> Vfs {
        let counters = namespace.layers().iter().map(|_| Arc::default()).collect();
        let opener = Arc::new(Opener {
            namespace: namespace.clone(),
            cache,
            fetcher,
            counters,
            policies,
            runtime,
        });
        Vfs {
            namespace,
            ahead: Ahead::new(opener.clone()),
            opener,
            owner,
            epoch: Timestamp(0),
            nodes: Nodes::new(),
            handles: Shards::new(),
            dirs: Shards::new(),
            next_handle: AtomicU64::new(1),
            inherited: Inherited::new(),
            backed: Shards::new(),
            hidden: HiddenNames::default(),
            troubles: Troubles::default(),
        }
    }

    /// Returns the namespace.
    pub fn namespace(&self) -> &Arc<Namespace> {
        &self.namespace
    }

    /// Calls `crowded` whenever the kernel comes to know more than `limit` inodes, so that some of
    /// [`Vfs::idle`] are taken from it. It must not wait.
    pub fn on_crowd(&self, limit: usize, crowded: impl Fn() + Send + Sync + 'static) {
        self.nodes.on_crowd(limit, Box::new(crowded));
    }

    /// Returns up to `most` inodes that the kernel knows and that are not open, with where they
    /// are (the directory's inode and the name) and whether they are directories; nothing while
    /// there are no more of them than fit.
    pub fn idle(&self, most: usize) -> Vec<Idle> {
        self.nodes.idle(most)
    }

    /// Returns how many inodes the kernel knows, and how many files are open.
    pub fn in_use(&self) -> (usize, usize) {
        (self.nodes.len(), self.handles.len() + self.inherited.len())
    }

    /// Returns the counts of the layer at `index`.
    pub fn counters(&self, index: usize) -> Option<&Counters> {
        self.opener.counters.get(index).map(|c| &**c)
    }

    /// Returns how many names of the layer at `index` are not shown, in the directories that were
    /// listed so far.
    pub fn hidden_names(&self, index: usize) -> u64 {
        let known = self.catalogue(index).hidden_names();
        known.max(self.hidden.count(index))
    }

    fn catalogue(&self, layer: usize) -> &Arc<Catalogue> {
        self.opener.catalogue(layer)
    }

    fn source(&self, layer: usize) -> &Arc<dyn Source> {
        self.opener.source(layer)
    }

    fn dir_node(&self, ino: Ino) -> Result<Arc<Node>> {
        let node = self.nodes.get(ino).ok_or(Error::Stale)?;
        if node.is_dir() {
            Ok(node)
        } else {
            Err(Error::NotDir)
        }
    }

    /// Looks `name` up in a directory, from memory.
    pub fn lookup_now(&self, parent: Ino, name: &[u8]) -> Option<Result<Looked>> {
        let result = self.look_up_now(parent, name)?;
        self.note_lookup(parent, name, &result);
        Some(result)
    }

    fn look_up_now(&self, parent: Ino, name: &[u8]) -> Option<Result<Looked>> {
        let (dir, name) = match self.lookup_args(parent, name) {
            Ok(args) => args,
            Err(error) => return Some(Err(error)),
        };
        let found = self.namespace.peek_lookup(&dir.path, &name)?;
        match found {
            // Its size must be asked for first.
            Ok(found) if needs_size(&found.entry) => None,
            Ok(found) => Some(Ok(self.looked_up(&dir.path, found))),
            Err(error) => Some(Err(error.into())),
        }
    }

    /// Looks `name` up in a directory.
    pub async fn lookup(&self, parent: Ino, name: &[u8]) -> Result<Looked> {
        let result = self.look_up(parent, name).await;
        self.note_lookup(parent, name, &result);
        result
    }

    async fn look_up(&self, parent: Ino, name: &[u8]) -> Result<Looked> {
        let (dir, name) = self.lookup_args(parent, name)?;
        self.lookup_in(&dir.path, &name).await
    }

    fn lookup_args(&self, parent: Ino, name: &[u8]) -> Result<(Arc<Node>, Name)> {
        let dir = self.dir_node(parent)?;
        if name.len() > NAME_MAX {
            return Err(Error::NameTooLong);
        }
        // Any other name that cannot be is not there.
        let name = Name::from_bytes(name).map_err(|_| Error::Absent)?;
        Ok((dir, name))
    }

    fn looked_up(&self, dir: &RelPath, found: Found) -> Looked {
        let name_ttl = found.fresh_for.min(FOREVER);
        let node = self.node_for(dir.join(&found.entry.name), found);
        self.settle();
        Looked {
            attr: self.attr_of(&node),
            name_ttl,
        }
    }

    fn node_for(&self, path: RelPath, found: Found) -> Arc<Node> {
        let (ino, what) = self.identify(&path, found.entry, found.layer, found.path);
        self.nodes.look_up(ino, path, what)
    }

    /// Returns the number and the meaning of what is at `path` of the volume.
    fn identify(
        &self,
        path: &RelPath,
        entry: Entry,
        layer: usize,
        source_path: RelPath,
    ) -> (Ino, What) {
        if entry.kind == Kind::Dir {
            return (node::dir_ino(path), What::Dir { entry });
        }
        let ino = node::leaf_ino(path, self.source(layer).identity(), &entry);
        let what = What::Leaf {
            layer,
            source_path,
            entry,
        };
        (ino, what)
    }

    fn attr_of(&self, node: &Node) -> Attr {
        match &node.what {
            What::Root => self.owner.root_attr(self.epoch),
            What::Dir { entry } | What::Leaf { entry, .. } | What::Lost { entry, .. } => {
                self.owner.attr(node.ino, entry, self.epoch)
            }
        }
    }

    /// Takes note that the kernel forgot `count` lookups of an inode.
    pub fn forget(&self, ino: Ino, count: u64) {
        self.nodes.forget(ino, count);
    }

    /// Returns the attributes of an inode.
    pub fn attr(&self, ino: Ino) -> Result<Attr> {
        let node = self.nodes.get(ino).ok_or(Error::Stale)?;
        Ok(self.attr_of(&node))
    }

    /// Returns where a symbolic link points to.
    pub fn readlink(&self, ino: Ino) -> Result<Arc<str>> {
        let node = self.nodes.get(ino).ok_or(Error::Stale)?;
        match &node.what {
            What::Leaf { entry, .. } => entry.target.clone().ok_or(Error::NotSymlink),
            What::Root | What::Dir { .. } | What::Lost { .. } => Err(Error::NotSymlink),
        }
    }

    /// Opens a directory, from memory.
    pub fn opendir_now(&self, ino: Ino) -> Option<Result<OpenedDir>> {
        let node = match self.dir_node(ino) {
            Ok(node) => node,
            Err(error) => return Some(Err(error)),
        };
        let listing = self.namespace.peek_list(&node.path)?;
        let listing = self.listed(&node, listing.map_err(Error::from));
        Some(listing.map(|listing| self.opened_dir(node, listing)))
    }

    /// Opens a directory.
    pub async fn opendir(&self, ino: Ino) -> Result<OpenedDir> {
        let node = self.dir_node(ino)?;
        let listing = self.namespace.list(&node.path).await;
        let listing = self.listed(&node, listing.map_err(Error::from))?;
        Ok(self.opened_dir(node, listing))
    }

    fn listed(&self, node: &Node, listing: Result<Merged>) -> Result<Merged> {
        match listing {
            Ok(listing) => {
                // One that lacks a layer proves nothing of the names that are not in it.
                if listing.degraded().is_empty() {
                    self.troubles.works(&node.path, Operation::List);
                }
                self.hidden.note(node, &listing, &self.namespace);
                self.namespace.opened(&listing, &self.opener.runtime);
                self.ahead.on_list(&node.path);
                Ok(listing)
            }
            Err(error) => {
                let layer = None;
                self.troubles
                    .failed(&node.path, Operation::List, layer, &error);
                Err(error)
            }
        }
    }

    fn opened_dir(&self, node: Arc<Node>, listing: Merged) -> OpenedDir {
        // Zero is "never listed".
        let generation = listing.generation().max(1);
        let unchanged =
            node.listed.load(Ordering::Relaxed) == generation && listing.degraded().is_empty();
        let handle = self.next_handle.fetch_add(1, Ordering::Relaxed);
        let dir = DirHandle {
            node,
            generation,
            listing: std::sync::RwLock::new(listing),
        };
        self.dirs.insert(handle, Arc::new(dir));
        OpenedDir { handle, unchanged }
    }

    /// Takes note that the kernel was told of an opened directory: if it had to forget another
    /// listing, it has by now, and may keep this one.
    pub fn told_opened(&self, handle: u64) {
        if let Some(dir) = self.dirs.get(handle) {
            dir.node.listed.store(dir.generation, Ordering::Relaxed);
        }
    }

    /// Closes a directory.
    pub fn releasedir(&self, handle: u64) {
        self.dirs.remove(handle);
    }

    /// Hands the entries from `offset` on to `take` until it returns false ("full").
    ///
    /// With `count`, each entry taken counts as looked up, as in readdirplus; `.`, `..` and entries
    /// whose size is not known yet never do.
    pub fn readdir(
        &self,
        handle: u64,
        ino: Ino,
        offset: u64,
        count: bool,
        mut take: impl FnMut(&DirEntry<'_>) -> bool,
    ) -> Result<()> {
        let dir = self.dirs.get(handle).ok_or(Error::Stale)?;
        debug_assert_eq!(dir.node.ino, ino);
        let (listing, from) = {
            let mut held = dir.listing.write().unwrap_or_else(PoisonError::into_inner);
            let mut from = cookie::resume(&held, offset)?;
            // Rewound: POSIX wants the present state. Of another listing: that which the kernel's
            // cache has by now.
            if (offset == 0 || from.is_none())
                && let Some(Ok(now)) = self.namespace.peek_list(&dir.node.path)
                && let Some(at) = cookie::resume(&now, offset)?
            {
                *held = now;
                from = Some(at);
            }
            (held.clone(), from.unwrap_or_else(|| cookie::guess(offset)))
        };
        let node = &dir.node;
        for at in offset..cookie::FIRST {
            let path = match at {
                0 => node.path.clone(),
                _ => node.path.parent().unwrap_or_else(RelPath::root),
            };
            let entry = DirEntry {
                next: at + 1,
                name: if at == 0 { "." } else { ".." },
                attr: Attr {
                    ino: node::dir_ino(&path),
                    ..self.attr_of(node)
                },
                ttl: Duration::ZERO,
            };
            if !take(&entry) {
                return Ok(());
            }
        }
        // A reader of an older listing must bring no old names back into the kernel's memory.
        let fresh_for = if count && self.namespace.is_current(&node.path, &listing) {
            listing.fresh_for()
        } else {
            Duration::ZERO
        };
        for (at, found) in (from..).zip(listing.iter_from(from)) {
            // What was taken goes first; who asks for more then gets the error.
            let found = match found {
                Err(_) if at > from => break,
                found => found?,
            };
            let path = node.path.join(&found.entry.name);
            let unsized_file = needs_size(&found.entry);
            let name = &found.entry.name;
            let there = found.path_at(&node.path, &path);
            let (ino, what) = self.identify(&path, found.entry.clone(), found.layer, there);
            let (attr, ttl) = if count && !unsized_file {
                let attr = self.attr_of(&self.nodes.look_up(ino, path, what));
                (attr, fresh_for.min(FOREVER))
            } else {
                (
                    self.owner.attr(ino, &found.entry, self.epoch),
                    Duration::ZERO,
                )
            };
            let entry = DirEntry {
                next: cookie::behind(at, name.as_str()),
                name: name.as_str(),
                attr,
                ttl,
            };
            if !take(&entry) {
                if count && !unsized_file {
                    self.nodes.forget(attr.ino, 1);
                }
                break;
            }
        }
        if count {
            self.settle();
        }
        Ok(())
    }

    /// Returns the sizes of the volume.
    pub async fn size(&self) -> VolumeSize {
        let (mut used, mut files) = (0u64, 0u64);
        for layer in self.namespace.active() {
            let (bytes, count) = layer.catalogue.known_size().await;
            used = used.saturating_add(bytes);
            files = files.saturating_add(count);
        }
        let stats = self.opener.cache.stats();
        VolumeSize {
            used,
            free: stats.limit.saturating_sub(stats.used),
            files,
        }
    }

    /// Returns the inode of the directory at `path` of the volume if the kernel knows it, for the
    /// invalidation of names in it.
    pub fn known_dir(&self, path: &RelPath) -> Option<Ino> {
        self.nodes.dir(path).map(|n| n.ino)
    }

    /// Returns where in the volume an inode is, with a leading slash.
    pub fn path_of(&self, ino: Ino) -> Option<String> {
        self.nodes.get(ino).map(|n| n.path.to_string())
    }

    /// Returns what failed in the volume and has not worked since, the latest first; of the last few
    /// hundred paths.
    pub fn troubles(&self) -> Vec<Trouble> {
        self.troubles.below(&RelPath::root())
    }

    fn note_lookup<T>(&self, parent: Ino, name: &[u8], result: &Result<T>) {
        let failed = matches!(result, Err(Error::Source(_)));
        if !failed && self.troubles.is_empty() {
            return;
        }
        let Ok((dir, name)) = self.lookup_args(parent, name) else {
            return;
        };
        let path = dir.path.join(&name);
        match result {
            Err(error @ Error::Source(_)) => {
                self.troubles.failed(&path, Operation::Lookup, None, error);
            }
            // That it is clearly not there is an answer too.
            _ => self.troubles.works(&path, Operation::Lookup),
        }
    }

    /// Takes note of what came of opening or reading a file.
    fn note_file<T>(&self, node: &Node, operation: Operation, result: &Result<T>) {
        match (result, &node.what) {
            (Ok(_), _) => self.troubles.works(&node.path, operation),
            (Err(error), What::Leaf { layer, .. }) => {
                let layer = Some(*layer);
                self.troubles.failed(&node.path, operation, layer, error);
            }
            (Err(_), What::Root | What::Dir { .. } | What::Lost { .. }) => {}
        }
    }

    /// Takes note of a failed read: what a source says is gone or changed is looked at again.
    fn note_failure(&self, node: &Node, error: &Error) {
        if let (
            Error::Source(error),
            What::Leaf {
                layer, source_path, ..
            },
        ) = (error, &node.what)
            && matches!(error.kind(), ErrorKind::Changed | ErrorKind::NotFound)
        {
            self.catalogue(*layer).report_changed(source_path);
        }
    }
}

impl std::fmt::Debug for Vfs {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Vfs").finish_non_exhaustive()
    }
}

fn needs_size(entry: &Entry) -> bool {
    entry.kind == Kind::File && entry.size.is_none()
}
