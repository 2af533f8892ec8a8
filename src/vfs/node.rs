//! Inodes: which number stands for what, for as long as the kernel remembers it.
//!
//! A file's number is made of its layer's source, its place in the volume and its version, a
//! directory's of its place alone. So numbers are the same after a remount and on every host, and a
//! changed file is a new inode.
//!
//! The catalogue does not tell what every number that the kernel knows stands for: a version that was
//! replaced is held for as long as somebody holds it, and of two files whose numbers are the same
//! one has the next. So a process that takes a mount over from another one is told by the `journal`,
//! where each inode is written down before the kernel hears of it.
//!
//! The kernel's forgets are subtracted from its lookups, which the journal counts too: a forget and a
//! lookup that pass each other on their way here must not make an inode vanish. What the journal lost
//! of an earlier process are forgets only, so its counts are too high if anything; `fuse::prune` asks
//! the kernel which of those inodes it does not know.

use std::sync::atomic::{AtomicI64, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError, Weak};

use super::file::OpenFile;
use super::journal::{Journal, record};
use super::shards::Shards;
use crate::entry::{Entry, Kind, Timestamp};
use crate::path::{Name, RelPath};
use crate::source;

/// An inode number. The root's is 1.
pub type Ino = u64;

/// The root's inode number, as the kernel wants it.
pub const ROOT: Ino = 1;

/// What an inode stands for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum What {
    /// The volume's root, which has no name.
    Root,
    /// A directory of the merged tree.
    Dir { entry: Entry },
    /// A file or symbolic link of one layer.
    Leaf {
        layer: usize,
        source_path: RelPath,
        entry: Entry,
    },
    /// The same of a layer that this process does not have: a number of the journal's. Whoever asks
    /// is told that it is stale; but a later process may have the layer again.
    Lost {
        layer: usize,
        source_path: RelPath,
        entry: Entry,
    },
}

/// An inode that the kernel knows and that is not open.
#[derive(Debug, Clone)]
pub struct Idle {
    /// The inode.
    pub ino: Ino,
    /// The directory that it was found in, and its name there.
    pub parent: Ino,
    /// Its name; nothing for the root.
    pub name: Option<Name>,
    /// Whether it is a directory.
    pub is_dir: bool,
    /// How often the kernel looked it up, at most, where an earlier process counted some of it.
    pub inherited: Option<u64>,
}

/// An inode that the kernel may know.
#[derive(Debug)]
pub(super) struct Node {
    pub(super) ino: Ino,
    /// Where it is in the volume.
    pub(super) path: RelPath,
    pub(super) what: What,
    /// How often the kernel looked it up.
    lookups: AtomicU64,
    /// Whether an earlier process counted some of it, which may be too much.
    inherited: bool,
    /// The threads whose open was answered with "replaced, look again" since the last lookup.
    told_stale: Mutex<Vec<u32>>,
    /// When it was last looked into that a read found the version gone from its source: a
    /// `Timestamp`, long ago if never.
    looked_into: AtomicI64,
    /// The file, shared by all its handles.
    pub(super) opened: Mutex<Weak<OpenFile>>,
    /// The generation of the listing that the kernel's directory cache was last filled with.
    pub(super) listed: AtomicU64,
    /// Why its source could not say whether the version is still current, when it was last asked.
    unconfirmed: Mutex<Option<source::Error>>,
}

/// How often a source is asked what became of a version that is gone, in nanoseconds.
const LOOK_EVERY: u64 = 1_000_000_000;

/// Threads that are remembered as told that a file was replaced: more than open it at once.
const TOLD: usize = 64;

impl Node {
    fn new(ino: Ino, path: RelPath, what: What, lookups: u64) -> Node {
        Node {
            ino,
            path,
            what,
            lookups: AtomicU64::new(lookups),
            inherited: false,
            told_stale: Mutex::default(),
            looked_into: AtomicI64::new(i64::MIN),
            opened: Mutex::default(),
            listed: AtomicU64::new(0),
            unconfirmed: Mutex::default(),
        }
    }

    /// Returns one that the kernel is not told of: for a file that stays open while its number
    /// stands for something that differs.
    pub(super) fn detached(ino: Ino, path: RelPath, what: What) -> Arc<Node> {
        Arc::new(Node::new(ino, path, what, 0))
    }

    /// Appends what another process must know of it; nothing if it is forgotten already.
    pub(super) fn put(&self, out: &mut Vec<u8>) {
        let (ino, path) = (self.ino, &self.path);
        match (&self.what, self.lookups.load(Ordering::Relaxed)) {
            (What::Root, _) | (_, 0) => {}
            (What::Dir { entry }, lookups) => record::put_dir(out, ino, lookups, path, entry),
            (
                What::Leaf {
                    layer,
                    source_path,
                    entry,
                }
                | What::Lost {
                    layer,
                    source_path,
                    entry,
                },
                lookups,
            ) => {
                let place = record::Place {
                    path,
                    layer: *layer,
                    source_path,
                    entry,
                };
                record::put_leaf(out, ino, lookups, place);
            }
        }
    }

    /// Returns whether the thread `caller` is to be told that the file was replaced. Each is told
    /// once, and looks the name up again. One that comes again without that has no name to look up
    /// (a bind mount); another one that comes meanwhile has.
    pub(super) fn must_tell_stale(&self, caller: u32) -> bool {
        let mut told = self
            .told_stale
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        if told.contains(&caller) {
            return false;
        }
        if told.len() >= TOLD {
            told.remove(0);
        }
        told.push(caller);
        true
    }

    /// Returns whether the source is to be asked what became of the version: not again within
    /// [`LOOK_EVERY`]. The answer to one question may not come, or be wrong.
    pub(super) fn may_look_into(&self) -> bool {
        let now = Timestamp::now().0;
        let last = self.looked_into.load(Ordering::Relaxed);
        // Of those who ask at once, one does; and a clock that went back stops nobody for long.
        now.abs_diff(last) >= LOOK_EVERY
            && self
                .looked_into
                .compare_exchange(last, now, Ordering::Relaxed, Ordering::Relaxed)
                .is_ok()
    }

    /// Takes note of what became of asking whether the version is still current.
    pub(super) fn confirmed(&self, failure: Option<source::Error>) {
        *self
            .unconfirmed
            .lock()
            .unwrap_or_else(PoisonError::into_inner) = failure;
    }

    /// Returns why that could not be told, if it could not.
    pub(super) fn unconfirmed(&self) -> Option<source::Error> {
        let failure = self.unconfirmed.lock();
        failure.unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(super) fn is_dir(&self) -> bool {
        matches!(self.what, What::Root | What::Dir { .. })
    }
}

/// Returns the inode number of a directory of the volume.
pub(super) fn dir_ino(path: &RelPath) -> Ino {
    if path.is_root() {
        return ROOT;
    }
    number(&["dir", path.as_str()])
}

/// Returns the inode number of a file or symbolic link.
pub(super) fn leaf_ino(path: &RelPath, source: &str, entry: &Entry) -> Ino {
    let kind = match entry.kind {
        Kind::File if entry.size.is_none() => "unsized",
        Kind::File => "file",
        Kind::Symlink => "symlink",
        Kind::Dir => "dir",
    };
    number(&[kind, path.as_str(), source, &entry.version.token])
}

fn number(parts: &[&str]) -> Ino {
    let mut hash = blake3::Hasher::new();
    for part in parts {
        hash.update(&(part.len() as u64).to_le_bytes());
        hash.update(part.as_bytes());
    }
    let mut bytes = [0; 8];
    bytes.copy_from_slice(&hash.finalize().as_bytes()[..8]);
    // 63 bits, so that no tool sees a negative number; 0 and 1 are taken.
    (u64::from_le_bytes(bytes) >> 1).max(2)
}

/// The inodes that the kernel knows.
pub(super) struct Nodes {
    nodes: Shards<Arc<Node>>,
    /// How many there are.
    count: AtomicUsize,
    crowd: OnceLock<(usize, Box<dyn Fn() + Send + Sync>)>,
    /// Where the next look for idle ones begins.
    hand: AtomicUsize,
    root: Arc<Node>,
    journal: OnceLock<Arc<Journal>>,
}

impl Nodes {
    pub(super) fn new() -> Nodes {
        Nodes {
            nodes: Shards::new(),
            count: AtomicUsize::new(0),
            crowd: OnceLock::new(),
            hand: AtomicUsize::new(0),
            root: Arc::new(Node::new(ROOT, RelPath::root(), What::Root, 1)),
            journal: OnceLock::new(),
        }
    }

    /// Returns where inodes are written down, if they are.
    pub(super) fn journal(&self) -> Option<&Arc<Journal>> {
        self.journal.get()
    }

    /// Writes down all inodes from now on; those that the kernel knows already have to be
    /// [inherited](Nodes::inherit). Returns false if they are written down elsewhere.
    pub(super) fn keep_in(&self, journal: Arc<Journal>) -> bool {
        self.journal.set(journal).is_ok()
    }

    /// Takes an inode over from an earlier process.
    pub(super) fn inherit(&self, ino: Ino, path: RelPath, what: What, lookups: u64) {
        let node = Node {
            inherited: true,
            ..Node::new(ino, path, what, lookups)
        };
        if self.nodes.write(ino).insert(ino, Arc::new(node)).is_none() {
            self.count.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Returns all of them, a shard at a time.
    pub(super) fn all(&self) -> impl Iterator<Item = Vec<(Ino, Arc<Node>)>> {
        self.nodes.all()
    }

    /// Returns an inode that can be answered for.
    pub(super) fn get(&self, ino: Ino) -> Option<Arc<Node>> {
        if ino == ROOT {
            return Some(self.root.clone());
        }
        let node = self.nodes.get(ino)?;
        (!matches!(node.what, What::Lost { .. })).then_some(node)
    }

    /// Writes down how often the kernel looked an inode up; under its shard's lock, so that this
    /// comes in the order of the counts.
    fn note_lookups(&self, ino: Ino, lookups: u64) {
        if let Some(journal) = self.journal.get() {
            journal.add(|out| record::put_lookups(out, ino, lookups));
        }
    }

    /// Returns the inode for a lookup, counted.
    pub(super) fn look_up(&self, mut ino: Ino, path: RelPath, what: What) -> Arc<Node> {
        loop {
            let mut shard = self.nodes.write(ino);
            match shard.get(&ino) {
                Some(node) if same(node, &path, &what) => {
                    let before = node.lookups.fetch_add(1, Ordering::Relaxed);
                    self.note_lookups(ino, before + 1);
                    node.told_stale
                        .lock()
                        .unwrap_or_else(std::sync::PoisonError::into_inner)
                        .clear();
                    return node.clone();
                }
                // Two of 2^63 numbers are the same: take the next. Rare enough (one volume of a
                // million files in twenty million) that the number may differ after a remount.
                Some(node) if node.path != path => ino = ino.wrapping_add(1).max(2),
                // The same thing with news: a time, a validator, a layer that moved. Holders keep
                // the old one.
                old => {
                    if old.is_none() {
                        self.count.fetch_add(1, Ordering::Relaxed);
                    }
                    let lookups = old.map_or(0, |n| n.lookups.load(Ordering::Relaxed));
                    let listed = old.map_or(0, |n| n.listed.load(Ordering::Relaxed));
                    let opened = old.map(|n| {
                        n.opened
                            .lock()
                            .unwrap_or_else(std::sync::PoisonError::into_inner)
                            .clone()
                    });
                    let node = Arc::new(Node {
                        inherited: old.is_some_and(|n| n.inherited),
                        opened: Mutex::new(opened.unwrap_or_default()),
                        listed: AtomicU64::new(listed),
                        ..Node::new(ino, path, what, lookups + 1)
                    });
                    shard.insert(ino, node.clone());
                    if let Some(journal) = self.journal.get() {
                        journal.add(|out| node.put(out));
                    }
                    drop(shard);
                    if let Some((limit, crowded)) = self.crowd.get()
                        && self.len() > *limit
                    {
                        crowded();
                    }
                    return node;
                }
            }
        }
    }

    /// Forgets `count` lookups.
    pub(super) fn forget(&self, ino: Ino, count: u64) {
        if ino == ROOT {
            return;
        }
        let mut shard = self.nodes.write(ino);
        if let Some(node) = shard.get(&ino) {
            let left = node.lookups.load(Ordering::Relaxed).saturating_sub(count);
            node.lookups.store(left, Ordering::Relaxed);
            self.note_lookups(ino, left);
            if left == 0 {
                shard.remove(&ino);
                self.count.fetch_sub(1, Ordering::Relaxed);
            }
        }
    }

    pub(super) fn on_crowd(&self, limit: usize, crowded: Box<dyn Fn() + Send + Sync>) {
        // Set once; whoever comes second is another mount's and has its own.
        let _ = self.crowd.set((limit, crowded));
    }

    /// Returns up to `most` inodes that are not open, a shard at a time; nothing unless there are
    /// more than fit, an eighth of them excepted so that there is something to gain.
    pub(super) fn idle(&self, most: usize) -> Vec<Idle> {
        let Some((limit, _)) = self.crowd.get() else {
            return Vec::new();
        };
        let surplus = self.len().saturating_sub(limit - limit / 8);
        let mut found = Vec::new();
        for _ in 0..Shards::<Arc<Node>>::COUNT {
            let shard = self.nodes.nth(self.hand.fetch_add(1, Ordering::Relaxed));
            let idle = shard.values().filter_map(|node| {
                let opened = node.opened.lock();
                let opened = opened.unwrap_or_else(std::sync::PoisonError::into_inner);
                (opened.strong_count() == 0).then(|| Idle {
                    ino: node.ino,
                    parent: node.path.parent().map_or(ROOT, |dir| dir_ino(&dir)),
                    name: node.path.file_name(),
                    is_dir: node.is_dir(),
                    inherited: node.inherited.then(|| node.lookups.load(Ordering::Relaxed)),
                })
            });
            found.extend(idle.take(most.min(surplus) - found.len()));
            if found.len() >= most.min(surplus) {
                break;
            }
        }
        found
    }

    /// Returns the directory at `path` if the kernel knows it.
    pub(super) fn dir(&self, path: &RelPath) -> Option<Arc<Node>> {
        self.get(dir_ino(path)).filter(|n| n.path == *path)
    }

    pub(super) fn len(&self) -> usize {
        self.count.load(Ordering::Relaxed)
    }
}

fn same(node: &Node, path: &RelPath, what: &What) -> bool {
    node.path == *path && node.what == *what
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::entry::Version;
    use crate::path::Name;

    fn file(token: &str) -> Entry {
        Entry::file(Name::new("f").unwrap(), 1, None, Version::strong(token))
    }

    #[test]
    fn numbers_follow_place_and_version() {
        let path = RelPath::new("a/f").unwrap();
        let one = leaf_ino(&path, "s", &file("1"));
        assert_eq!(one, leaf_ino(&path, "s", &file("1")));
        assert_ne!(one, leaf_ino(&path, "s", &file("2")));
        assert_ne!(one, leaf_ino(&path, "t", &file("1")));
        assert_ne!(
            one,
            leaf_ino(&RelPath::new("b/f").unwrap(), "s", &file("1"))
        );
        assert_eq!(dir_ino(&RelPath::root()), ROOT);
        // Part of the promise that numbers never change between releases.
        assert_eq!(
            dir_ino(&RelPath::new("a").unwrap()),
            4_791_933_641_484_670_954
        );
    }

    #[test]
    fn a_crowd_is_told_of_and_only_the_surplus_is_idle() {
        let nodes = Nodes::new();
        let look_up = |ino: Ino| {
            let path = RelPath::new(&format!("f{ino}")).unwrap();
            let what = What::Leaf {
                layer: 0,
                source_path: path.clone(),
                entry: file("1"),
            };
            nodes.look_up(ino, path, what)
        };
        let told = Arc::new(AtomicUsize::new(0));
        let tell = told.clone();
        nodes.on_crowd(
            16,
            Box::new(move || {
                let _ = tell.fetch_add(1, Ordering::Relaxed);
            }),
        );
        (2..18).for_each(|ino| drop(look_up(ino)));
        assert_eq!(told.load(Ordering::Relaxed), 0);
        (18..38).for_each(|ino| drop(look_up(ino)));
        assert_eq!(told.load(Ordering::Relaxed), 20);
        assert_eq!(nodes.idle(5).len(), 5);
        // 36 of them, and 14 may stay.
        let idle = nodes.idle(100);
        assert_eq!(idle.len(), 22);
        assert_eq!(idle[0].parent, ROOT);
        for inode in idle {
            nodes.forget(inode.ino, 1);
        }
        assert_eq!(nodes.len(), 14);
        assert!(nodes.idle(100).is_empty());
    }

    #[test]
    fn forgotten_nodes_go_and_known_ones_stay() {
        let nodes = Nodes::new();
        let path = RelPath::new("f").unwrap();
        let what = What::Leaf {
            layer: 0,
            source_path: path.clone(),
            entry: file("1"),
        };
        let a = nodes.look_up(7, path.clone(), what.clone());
        let b = nodes.look_up(7, path.clone(), what.clone());
        assert!(Arc::ptr_eq(&a, &b));
        nodes.forget(7, 1);
        assert!(nodes.get(7).is_some());
        nodes.forget(7, 1);
        assert!(nodes.get(7).is_none());
        nodes.forget(ROOT, 100);
        assert!(nodes.get(ROOT).is_some());
        // Another thing with the same number gets the next one.
        nodes.look_up(7, path, what);
        let other = RelPath::new("g").unwrap();
        let what = What::Leaf {
            layer: 0,
            source_path: other.clone(),
            entry: file("1"),
        };
        assert_eq!(nodes.look_up(7, other, what).ino, 8);
    }
}
