//! Taking a mount over from an earlier process, and leaving it to a later one.
//!
//! [`Vfs::keep_in`] is called once, before the kernel asks anything, and when no other process answers
//! for the mount any more: it takes up what the journal in its directory tells, and from then on
//! writes down what the next process must know. What comes back: inodes with their numbers, also those
//! of versions that were replaced; open files, pinned to the version that they were opened at, which are
//! held at once so that what is here of them stays; which of them the kernel reads itself. One that is
//! read in place is opened by its path again, and gone if that is another file by now. An open
//! directory is listed anew, and its offsets tell where its reader was (`cookie`). A layer is found again by its
//! name and source, else by its source alone; what is of none is stale. What may begin anew: how long
//! ago something was asked, what failed, whether the kernel's copy of a directory is current, and who
//! was told that a file was replaced (told once more, its opener looks the name up once more).
//!
//! Handles' numbers begin with the process's generation, so none is given out twice.
//!
//! # Requests that come twice
//!
//! What the kernel had no reply to when the earlier process ended it may send again
//! (FUSE_NOTIFY_RESEND), and nobody knows how far that process was:
//!
//! - LOOKUP, READDIRPLUS: counted in the journal, but the kernel did not hear of it. The count is too
//!   high, and the inode is kept until `fuse::prune` finds that the kernel does not know it.
//! - FORGET: has no reply and is not sent again; the count is too high likewise.
//! - OPEN: the handle of the first reply is found by the request's number, and is the answer again
//!   ([`Vfs::opened_before`]). So nothing is open that the kernel will not close.
//! - RELEASE: of a handle that is not known, it is nothing ([`Vfs::release`]).
//! - OPENDIR: gives another handle. RELEASEDIR: of one that is not known, it is nothing.
//! - READ, READDIR, READLINK, GETATTR, GETXATTR, STATFS and the rest change nothing.

use std::collections::{HashMap, HashSet};
use std::io;
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, sync_channel};
use std::sync::{Arc, PoisonError, RwLock, Weak};
use std::time::Duration;

use tracing::{debug, info, warn};

use super::error::{Error, Result};
use super::file::{Handle, OpenFile};
use super::journal::record::{self, Place};
use super::journal::{self, Journal, LayerId, Opened, Remembered};
use super::node::{Ino, Node, What};
use super::open::opened;
use super::shards::Shards;
use super::{DirHandle, Vfs};
use crate::entry::Entry;
use crate::path::RelPath;

#[cfg(test)]
mod tests;

/// Handles of one process: more than it opens, and few enough that 2^24 processes have their own.
const HANDLES: u32 = 40;

/// The pause before a journal that could not be written is made anew.
const RETRY: Duration = Duration::from_secs(5);

/// An inode that an earlier process left open.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OpenInode {
    /// The inode.
    pub ino: Ino,
    /// How many handles it has.
    pub handles: u64,
    /// What the kernel calls the file that it reads the inode from itself, if it does.
    pub backing: Option<u32>,
}

/// A file that an earlier process opened and this one has not.
#[derive(Debug)]
pub(super) struct Left {
    request: u64,
    ino: Ino,
    path: RelPath,
    /// A number of the journal's; that of a layer, if there is one.
    layer: usize,
    source_path: RelPath,
    entry: Entry,
}

/// What earlier processes opened.
#[derive(Debug)]
pub(super) struct Inherited {
    handles: Shards<Arc<Left>>,
    /// No more than this many are in there.
    count: AtomicUsize,
    found: RwLock<Found>,
}

#[derive(Debug, Default)]
struct Found {
    /// The handles that answered requests.
    requests: HashMap<u64, u64>,
    /// One handle of each inode.
    inodes: HashMap<Ino, u64>,
}

impl Inherited {
    pub(super) fn new() -> Inherited {
        Inherited {
            handles: Shards::new(),
            count: AtomicUsize::new(0),
            found: RwLock::default(),
        }
    }

    /// Returns how many files are open that this process has not opened.
    pub(super) fn len(&self) -> usize {
        self.count.load(Ordering::Relaxed)
    }

    fn get(&self, handle: u64) -> Option<Arc<Left>> {
        match self.len() {
            0 => None,
            _ => self.handles.get(handle),
        }
    }

    fn insert(&self, handle: u64, left: Left) {
        let mut found = self.found.write().unwrap_or_else(PoisonError::into_inner);
        if left.request != 0 {
            found.requests.insert(left.request, handle);
        }
        found.inodes.insert(left.ino, handle);
        self.handles.insert(handle, Arc::new(left));
        self.count.fetch_add(1, Ordering::Relaxed);
    }

    fn remove(&self, handle: u64) -> bool {
        let is_gone = self.len() > 0 && self.handles.remove(handle).is_some();
        if is_gone {
            self.count.fetch_sub(1, Ordering::Relaxed);
        }
        is_gone
    }

    fn find<T>(&self, look: impl FnOnce(&Found) -> T) -> T {
        look(&self.found.read().unwrap_or_else(PoisonError::into_inner))
    }
}

impl Vfs {
    /// Takes over what earlier processes left in `dir`, which exists and belongs to one mount, and
    /// writes down there what a later one must know. Returns the inodes that are open.
    ///
    /// To be called once, before anything is asked, and after the process before has ended. Fails
    /// where the directory cannot be read and written; then nothing is known and nothing is kept.
    pub fn keep_in(self: &Arc<Self>, dir: &Path) -> io::Result<Vec<OpenInode>> {
        let (compact, asked) = sync_channel(1);
        let here: Vec<LayerId> = self
            .namespace
            .layers()
            .iter()
            .map(|layer| LayerId {
                name: layer.name.as_str().into(),
                identity: layer.catalogue.source().identity().into(),
            })
            .collect();
        let (journal, remembered) = Journal::open(dir, |left| table(here, left), compact)?;
        let journal = Arc::new(journal);
        if !self.nodes.keep_in(journal.clone()) {
            return Err(io::ErrorKind::AlreadyExists.into());
        }
        let first = (remembered.generation & 0xff_ffff) << HANDLES | 1;
        self.next_handle.store(first, Ordering::Relaxed);
        let open = self.inherit(remembered, journal.layers());
        let vfs = Arc::downgrade(self);
        std::thread::Builder::new()
            .name("svol-journal".into())
            .spawn(move || {
                hold(&vfs);
                compact_when(&asked, &vfs);
            })?;
        Ok(open)
    }

    fn inherit(&self, left: Remembered, table: &[LayerId]) -> Vec<OpenInode> {
        let count = self.namespace.layers().len();
        let mut numbers: HashMap<Arc<LayerId>, usize> = HashMap::new();
        // All that are remembered are in the table.
        let mut number = |id: &Arc<LayerId>| match numbers.get(id) {
            Some(number) => *number,
            None => {
                let number = number(table, count, id).unwrap_or(usize::MAX);
                numbers.insert(id.clone(), number);
                number
            }
        };
        let (inodes, handles) = (left.inodes.len(), left.handles.len());
        let mut lost = 0;
        for (ino, inode) in left.inodes {
            let what = match inode.what {
                journal::What::Dir(entry) => What::Dir { entry },
                journal::What::Leaf(leaf) => {
                    let layer = number(&leaf.layer);
                    let (source_path, entry) = (leaf.source_path, leaf.entry);
                    if layer < count {
                        What::Leaf {
                            layer,
                            source_path,
                            entry,
                        }
                    } else {
                        lost += 1;
                        What::Lost {
                            layer,
                            source_path,
                            entry,
                        }
                    }
                }
            };
            self.nodes.inherit(ino, inode.path, what, inode.lookups);
        }
        let mut open: HashMap<Ino, OpenInode> = HashMap::new();
        for (
            handle,
            Opened {
                request,
                ino,
                path,
                leaf,
            },
        ) in left.handles
        {
            let inode = open.entry(ino).or_insert(OpenInode {
                ino,
                handles: 0,
                backing: left.backed.get(&ino).copied(),
            });
            inode.handles += 1;
            let left = Left {
                request,
                ino,
                path,
                layer: number(&leaf.layer),
                source_path: leaf.source_path,
                entry: leaf.entry,
            };
            self.inherited.insert(handle, left);
            // Without any I/O: held, this process does not evict it.
            drop(self.take_up_now(handle));
        }
        for (ino, backing) in left.backed {
            self.backed.insert(ino, backing);
        }
        if inodes > 0 {
            info!(inodes, handles, lost, "took over what the kernel knows");
        }
        open.into_values().collect()
    }

    /// Returns once all that a later process must know is written down, if it is at all: before the
    /// kernel is told what follows from it, and before this process leaves the mount to another one.
    pub fn settle(&self) {
        if let Some(journal) = self.nodes.journal() {
            journal.commit();
        }
    }

    /// Returns the handle that an earlier process gave out for this very request, whose answer did
    /// not arrive: it is the answer still.
    pub fn opened_before(&self, request: u64, ino: Ino) -> Option<u64> {
        let handle = self
            .inherited
            .find(|found| found.requests.get(&request).copied())?;
        let taken = self.handles.get(handle).map(|handle| handle.node.ino);
        let at = taken.or_else(|| Some(self.inherited.get(handle)?.ino))?;
        (at == ino).then_some(handle)
    }

    /// Opens a file that an earlier process opened; nothing if there is none, or if it is read in
    /// place, which may wait.
    pub(super) fn take_up_now(&self, handle: u64) -> Option<Result<Arc<Handle>>> {
        let left = self.inherited.get(handle)?;
        let node = match self.node_of(&left) {
            Ok(node) => node,
            Err(error) => return Some(Err(error)),
        };
        let file = match opened(&node) {
            Some(file) => Ok(file),
            None => self.open_file(&node, left.entry.clone())?,
        };
        Some(file.map(|file| self.taken_up(handle, &left, node, file)))
    }

    /// As [`Vfs::take_up_now`], and waits for what is read in place.
    pub(super) async fn take_up(self: &Arc<Self>, handle: u64) -> Option<Result<Arc<Handle>>> {
        if let Some(taken) = self.take_up_now(handle) {
            return Some(taken);
        }
        let left = self.inherited.get(handle)?;
        let this = self.clone();
        let opening = tokio::task::spawn_blocking(move || this.take_up_in_place(handle, &left));
        let taken = opening.await;
        Some(taken.unwrap_or_else(|error| Err(Error::Disk(error.to_string()))))
    }

    fn take_up_in_place(&self, handle: u64, left: &Left) -> Result<Arc<Handle>> {
        let node = self.node_of(left)?;
        let file = match opened(&node) {
            Some(file) => file,
            None => self.open_in_place(&node, left.entry.clone())?,
        };
        Ok(self.taken_up(handle, left, node, file))
    }

    /// Takes up the open file of an inode, if an earlier process left one: what is opened now is the
    /// same.
    pub(super) fn take_up_inode(&self, ino: Ino) {
        if self.inherited.len() > 0
            && let Some(handle) = self.inherited.find(|found| found.inodes.get(&ino).copied())
        {
            drop(self.take_up_now(handle));
        }
    }

    fn node_of(&self, left: &Left) -> Result<Arc<Node>> {
        if left.layer >= self.namespace.layers().len() {
            return Err(Error::Stale);
        }
        if let Some(node) = self.nodes.get(left.ino)
            && let What::Leaf {
                layer, source_path, ..
            } = &node.what
            && (*layer, source_path) == (left.layer, &left.source_path)
        {
            return Ok(node);
        }
        let what = What::Leaf {
            layer: left.layer,
            source_path: left.source_path.clone(),
            entry: left.entry.clone(),
        };
        Ok(Node::detached(left.ino, left.path.clone(), what))
    }

    fn taken_up(
        &self,
        number: u64,
        left: &Left,
        node: Arc<Node>,
        file: Arc<OpenFile>,
    ) -> Arc<Handle> {
        let known = left.entry.validator.is_some();
        let handle = Arc::new(Handle::new(node, file, left.request, known));
        // Two may read it first at once.
        let handle = self
            .handles
            .write(number)
            .entry(number)
            .or_insert(handle)
            .clone();
        // In this order, so that a compaction, which looks the other way round, finds it.
        self.inherited.remove(number);
        handle
    }

    /// Closes a file that an earlier process opened; returns whether there was one.
    pub(super) fn release_inherited(&self, handle: u64) -> bool {
        self.inherited.remove(handle)
    }

    /// Writes down a file that is open from now on, or about which more is known now.
    pub(super) fn note_opened(&self, number: u64, handle: &Handle) {
        if let Some(journal) = self.nodes.journal() {
            journal.add(|out| handle.put(number, out));
            journal.commit();
        }
    }

    /// Writes down that a file is closed.
    pub(super) fn note_closed(&self, number: u64) {
        if let Some(journal) = self.nodes.journal() {
            journal.add(|out| record::put_closed(out, number));
            journal.commit();
        }
    }

    /// Takes note that the kernel is to read an open inode from the file that it calls `backing`, or
    /// from none any more. Calls for one inode must not overlap. Sure after
    /// [`Vfs::settle`].
    pub fn backed(&self, ino: Ino, backing: Option<u32>) {
        let Some(journal) = self.nodes.journal() else {
            return;
        };
        match backing {
            Some(id) => self.backed.insert(ino, id),
            None => drop(self.backed.remove(ino)),
        }
        journal.add(|out| record::put_backed(out, ino, backing));
    }

    /// Makes sure of a directory that an earlier process opened, if memory can; nothing if its
    /// layers have to be asked.
    pub fn reopen_dir_now(&self, handle: u64, ino: Ino) -> Option<Result<()>> {
        if self.dirs.get(handle).is_some() {
            return Some(Ok(()));
        }
        let node = match self.dir_node(ino) {
            Ok(node) => node,
            Err(error) => return Some(Err(error)),
        };
        let listing = self.namespace.peek_list(&node.path)?;
        Some(self.reopened(handle, node, listing.map_err(Error::from)))
    }

    /// Makes sure of a directory that an earlier process opened.
    pub async fn reopen_dir(&self, handle: u64, ino: Ino) -> Result<()> {
        if let Some(done) = self.reopen_dir_now(handle, ino) {
            return done;
        }
        let node = self.dir_node(ino)?;
        let listing = self.namespace.list(&node.path).await;
        self.reopened(handle, node, listing.map_err(Error::from))
    }

    fn reopened(
        &self,
        handle: u64,
        node: Arc<Node>,
        listing: Result<crate::namespace::Merged>,
    ) -> Result<()> {
        let listing = self.listed(&node, listing)?;
        let dir = Arc::new(DirHandle {
            node,
            generation: listing.generation().max(1),
            listing: RwLock::new(listing),
        });
        self.dirs.write(handle).entry(handle).or_insert(dir);
        Ok(())
    }

    fn compact(&self) -> io::Result<()> {
        let Some(journal) = self.nodes.journal() else {
            return Ok(());
        };
        let mut compaction = journal.begin()?;
        for (_, node) in self.nodes.all().flatten() {
            compaction.add(|out| node.put(out))?;
        }
        // Before the others, of which it becomes one: see `taken_up`.
        for (handle, left) in self.inherited.handles.all().flatten() {
            let place = Place {
                path: &left.path,
                layer: left.layer,
                source_path: &left.source_path,
                entry: &left.entry,
            };
            compaction.add(|out| record::put_opened(out, handle, left.request, left.ino, place))?;
        }
        for (number, handle) in self.handles.all().flatten() {
            compaction.add(|out| handle.put(number, out))?;
        }
        for (ino, backing) in self.backed.all().flatten() {
            compaction.add(|out| record::put_backed(out, ino, Some(backing)))?;
        }
        compaction.finish()
    }
}

/// Opens what was left open, so that no other process evicts what is here of it, and nothing of what
/// is read in place has to be looked for once it is moved away.
fn hold(vfs: &Weak<Vfs>) {
    let Some(vfs) = vfs.upgrade() else { return };
    let taken: Vec<_> = vfs.handles.all().flatten().collect();
    let (here, left) = (Arc::downgrade(&vfs), vfs.inherited.handles.all().flatten());
    let left: Vec<_> = left.collect();
    // A disk of somebody else's may not answer: not on this thread.
    vfs.opener.runtime.spawn_blocking(move || {
        for (handle, left) in left {
            let Some(vfs) = here.upgrade() else { return };
            // Its reader is told of what fails.
            drop(vfs.take_up_in_place(handle, &left));
        }
    });
    drop(vfs);
    for (_, handle) in taken {
        if let OpenFile::Remote(file) = &*handle.file {
            file.remote.object().present_bytes();
        }
    }
}

/// Compacts when it is asked to, until the filesystem is gone.
fn compact_when(asked: &Receiver<()>, vfs: &Weak<Vfs>) {
    while asked.recv().is_ok() {
        loop {
            let Some(vfs) = vfs.upgrade() else { return };
            let done = vfs.compact();
            let is_broken = vfs.nodes.journal().is_some_and(|j| j.is_broken());
            drop(vfs);
            match done {
                Ok(()) => debug!("the journal was compacted"),
                Err(error) => warn!(%error, "the journal could not be compacted"),
            }
            if !is_broken {
                break;
            }
            std::thread::sleep(RETRY);
        }
    }
}

/// Returns the number of a layer in a journal's table, of which the first `here` are layers that this
/// process has: it has that name and source; else that source, where it has another name by now.
fn number(table: &[LayerId], here: usize, id: &LayerId) -> Option<usize> {
    let renamed = || table[..here].iter().position(|l| l.identity == id.identity);
    let gone = || table[here..].iter().position(|l| l == id);
    table[..here]
        .iter()
        .position(|l| l == id)
        .or_else(renamed)
        .or_else(|| Some(here + gone()?))
}

/// Returns the layers that are here, and behind them those that only something remembered is of.
fn table(layers: Vec<LayerId>, left: &Remembered) -> Vec<LayerId> {
    let here = layers.len();
    let of_inodes = left.inodes.values().filter_map(|inode| match &inode.what {
        journal::What::Leaf(leaf) => Some(&leaf.layer),
        journal::What::Dir(_) => None,
    });
    let of_handles = left.handles.values().map(|open| &open.leaf.layer);
    // Few layers, but many that are of them: each is looked for once.
    let all: HashSet<&Arc<LayerId>> = of_inodes.chain(of_handles).collect();
    let mut table = layers;
    for id in all {
        if number(&table, here, id).is_none() {
            table.push(LayerId::clone(id));
        }
    }
    table
}
