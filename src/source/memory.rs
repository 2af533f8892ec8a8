//! The reference source: a tree in memory that tests script.
//!
//! It fails, hesitates and changes on demand and counts what it is asked, so that everything above
//! the seam can be tested without a network. It keeps every rule of the [`Source`] trait; where
//! another kind behaves differently, one of the two is wrong.

use std::collections::{BTreeMap, HashMap};
use std::ops::{Bound, Range};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use futures::StreamExt;

use super::sweep::{Key, Keys, Start};
use super::{Body, Error, ErrorKind, Listing, ListingBuilder, Recursive, Result, Source};
use crate::entry::{Entry, Timestamp, Version};
use crate::path::{BadName, Name, RelPath};

/// A tree in memory. Share it in an [`Arc`] and change it while it is in use.
#[derive(Debug, Default)]
pub struct MemorySource {
    identity: String,
    tree: Mutex<Tree>,
    lists: AtomicU64,
    stats: AtomicU64,
    reads: AtomicU64,
    pages: AtomicU64,
}

#[derive(Debug, Default)]
struct Tree {
    nodes: BTreeMap<RelPath, Node>,
    revision: u64,
    down: Option<ErrorKind>,
    broken: HashMap<RelPath, ErrorKind>,
    delay: Duration,
    coarse: bool,
    recursive: Option<Sweeping>,
}

/// How all below a directory is listed at once.
#[derive(Debug, Clone, Copy)]
pub struct Sweeping {
    /// Keys in a page.
    pub page: usize,
    /// Whether pages are made and do not come, until this is set anew.
    pub held: bool,
    /// Whether directories come before what sorts before a slash, as where a file system lists.
    pub unordered: bool,
    /// What pages fail with.
    pub error: Option<ErrorKind>,
}

#[derive(Debug, Clone)]
enum Node {
    Dir,
    File { bytes: Bytes, version: Version },
    Symlink { target: String, version: Version },
}

impl MemorySource {
    /// Returns an empty tree that calls itself `memory:NAME`.
    pub fn new(name: &str) -> Arc<MemorySource> {
        Arc::new(MemorySource {
            identity: format!("memory:{name}"),
            ..MemorySource::default()
        })
    }

    fn tree(&self) -> MutexGuard<'_, Tree> {
        // A test that panicked while it held the lock has failed already.
        self.tree.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Puts a file of a new strong version, and the directories that lead to it. What was in its
    /// way is removed.
    pub fn put(&self, path: &str, bytes: impl Into<Bytes>) {
        let bytes = bytes.into();
        self.tree().place(path, |revision| Node::File {
            bytes,
            version: Version::strong(format!("v{revision}")),
        });
    }

    /// Puts a file whose version is weak: `token` stays what it is when the bytes change.
    pub fn put_weak(&self, path: &str, bytes: impl Into<Bytes>, token: &str) {
        let bytes = bytes.into();
        self.tree().place(path, |_| Node::File {
            bytes,
            version: Version::weak(token),
        });
    }

    /// Puts a symbolic link.
    pub fn symlink(&self, path: &str, target: &str) {
        self.tree().place(path, |revision| Node::Symlink {
            target: target.into(),
            version: Version::strong(format!("v{revision}")),
        });
    }

    /// Makes a directory and those that lead to it.
    pub fn mkdir(&self, path: &str) {
        self.tree().place(path, |_| Node::Dir);
    }

    /// Removes `path` and all below it.
    pub fn remove(&self, path: &str) {
        if let Ok(path) = RelPath::new(path) {
            self.tree().remove(&path);
        }
    }

    /// Lets every request fail with `kind`, or none.
    pub fn set_down(&self, kind: Option<ErrorKind>) {
        self.tree().down = kind;
    }

    /// Lets every request for `path` itself fail with `kind`, or none.
    pub fn set_broken(&self, path: &str, kind: Option<ErrorKind>) {
        if let Ok(path) = RelPath::new(path) {
            match kind {
                Some(kind) => self.tree().broken.insert(path, kind),
                None => self.tree().broken.remove(&path),
            };
        }
    }

    /// Lets every request take this long.
    pub fn set_delay(&self, delay: Duration) {
        self.tree().delay = delay;
    }

    /// Lists files as a rounded index page does: no size, no validator, a weak version that does
    /// not equal the one that [`Source::stat`] tells.
    pub fn set_coarse(&self, coarse: bool) {
        self.tree().coarse = coarse;
    }

    /// Lets it list many directories at once, or not.
    pub fn set_recursive(&self, how: Option<Sweeping>) {
        self.tree().recursive = how;
    }

    /// Returns how many pages of many directories were asked for.
    pub fn pages(&self) -> u64 {
        self.pages.load(Ordering::SeqCst)
    }

    /// Returns how many listings were asked for.
    pub fn lists(&self) -> u64 {
        self.lists.load(Ordering::SeqCst)
    }

    /// Returns how many entries were asked for one by one.
    pub fn stats(&self) -> u64 {
        self.stats.load(Ordering::SeqCst)
    }

    /// Returns how many reads were started.
    pub fn reads(&self) -> u64 {
        self.reads.load(Ordering::SeqCst)
    }

    async fn answer<T>(&self, path: &RelPath, ask: impl FnOnce(&Tree) -> Result<T>) -> Result<T> {
        let delay = self.tree().delay;
        if !delay.is_zero() {
            tokio::time::sleep(delay).await;
        }
        let tree = self.tree();
        match tree.down.or_else(|| tree.broken.get(path).copied()) {
            Some(kind) => Err(Error::new(
                kind,
                format!("{}{path} was told to fail", self.identity),
            )),
            None => ask(&tree),
        }
    }
}

impl Tree {
    fn place(&mut self, path: &str, node: impl FnOnce(u64) -> Node) {
        let Ok(path) = RelPath::new(path) else { return };
        let mut above = path.parent();
        while let Some(dir) = above.filter(|dir| !dir.is_root()) {
            if !matches!(self.nodes.get(&dir), Some(Node::Dir)) {
                self.nodes.insert(dir.clone(), Node::Dir);
            }
            above = dir.parent();
        }
        self.revision += 1;
        let node = node(self.revision);
        if !matches!(node, Node::Dir) {
            self.remove(&path);
        }
        if !path.is_root() {
            self.nodes.insert(path, node);
        }
    }

    fn remove(&mut self, path: &RelPath) {
        if path.is_root() {
            return;
        }
        self.nodes.remove(path);
        let below: Vec<RelPath> = self.below(path).map(|(at, _)| at.clone()).collect();
        for at in below {
            self.nodes.remove(&at);
        }
    }

    /// Returns all that is below `dir`.
    fn below(&self, dir: &RelPath) -> impl Iterator<Item = (&RelPath, &Node)> {
        let (from, to) = if dir.is_root() {
            (String::new(), None)
        } else {
            // `0` is the character after `/`.
            (
                format!("{}/", dir.as_str()),
                Some(format!("{}0", dir.as_str())),
            )
        };
        let to = to.as_deref().map_or(Bound::Unbounded, Bound::Excluded);
        self.nodes
            .range::<str, _>((Bound::Included(from.as_str()), to))
    }

    fn entry(&self, name: Name, node: &Node, coarse: bool) -> Entry {
        match node {
            Node::Dir => Entry::dir(name),
            Node::File { bytes, version } => {
                let mut entry = Entry::file(
                    name,
                    bytes.len() as u64,
                    Some(Timestamp::from_secs(1_700_000_000)),
                    version.clone(),
                );
                if coarse {
                    entry.size = None;
                    entry.version = Version::weak(format!("about {}", version.token));
                } else if version.strong {
                    entry.validator = Some(version.token.clone());
                }
                entry
            }
            Node::Symlink { target, version } => Entry::symlink(
                name,
                target,
                Some(Timestamp::from_secs(1_700_000_000)),
                version.clone(),
            ),
        }
    }
}

fn not_found(path: &RelPath) -> Error {
    Error::new(ErrorKind::NotFound, format!("{path} is not there"))
}

#[async_trait]
impl Source for MemorySource {
    fn identity(&self) -> &str {
        &self.identity
    }

    fn url(&self, path: &RelPath) -> String {
        format!("{}{path}", self.identity)
    }

    async fn list(&self, dir: &RelPath) -> Result<Listing> {
        self.lists.fetch_add(1, Ordering::SeqCst);
        self.answer(dir, |tree| {
            if !dir.is_root() && !matches!(tree.nodes.get(dir), Some(Node::Dir)) {
                return Err(not_found(dir));
            }
            let mut listing = ListingBuilder::default();
            for (path, node) in tree.below(dir) {
                if path.parent().as_ref() == Some(dir)
                    && let Some(name) = path.file_name()
                {
                    listing.push(tree.entry(name, node, tree.coarse));
                }
            }
            Ok(listing.finish())
        })
        .await
    }

    fn recursive(&self) -> Option<&dyn Recursive> {
        self.tree().recursive?;
        Some(self)
    }

    async fn stat(&self, path: &RelPath) -> Result<Entry> {
        self.stats.fetch_add(1, Ordering::SeqCst);
        self.answer(path, |tree| {
            match (path.file_name(), tree.nodes.get(path)) {
                (Some(name), Some(node)) if !matches!(node, Node::Dir) => {
                    Ok(tree.entry(name, node, false))
                }
                _ => Err(not_found(path)),
            }
        })
        .await
    }

    async fn read(&self, path: &RelPath, entry: &Entry, range: Range<u64>) -> Result<Body> {
        self.reads.fetch_add(1, Ordering::SeqCst);
        let (bytes, version) = self
            .answer(path, |tree| match tree.nodes.get(path) {
                Some(Node::File { bytes, version }) => Ok((bytes.clone(), version.clone())),
                _ => Err(not_found(path)),
            })
            .await?;
        if let Some(pinned) = &entry.validator
            && *pinned != version.token
        {
            return Err(Error::changed(format!("{path} is no longer {pinned}")));
        }
        let size = bytes.len() as u64;
        if entry.size.is_some_and(|known| known != size) {
            return Err(Error::changed(format!("{path} has {size} bytes now")));
        }
        if range.is_empty() || range.end > size {
            return Err(Error::new(
                ErrorKind::Invalid,
                format!("{range:?} of {path}, which has {size} bytes"),
            ));
        }
        // In memory: the bounds fit, since they are no larger than the buffer.
        let part = bytes.slice(range.start as usize..range.end as usize);
        Ok(Body {
            range,
            size,
            validator: version.strong.then_some(version.token),
            stream: futures::stream::iter([Ok(part)]).boxed(),
        })
    }
}

#[async_trait]
impl Recursive for MemorySource {
    async fn keys(&self, dir: &RelPath, from: &Start) -> Result<Keys> {
        self.pages.fetch_add(1, Ordering::SeqCst);
        let how = self.tree().recursive;
        let Some(how) = how else {
            return Err(Error::new(
                ErrorKind::Invalid,
                "it lists one directory at a time",
            ));
        };
        if let Some(kind) = how.error {
            return Err(Error::new(kind, "a page was told to fail"));
        }
        let page = self.answer(dir, |tree| {
            let mut keys: Vec<Key> = tree
                .below(dir)
                .filter_map(|(path, node)| {
                    let below = path.strip_prefix(dir)?;
                    let entry = tree.entry(path.file_name()?, node, tree.coarse);
                    Some(match node {
                        Node::Dir => Key {
                            key: format!("{}/", below.as_str()),
                            size: 0,
                            entry: Err(BadName::Empty),
                        },
                        _ => Key {
                            key: below.as_str().to_owned(),
                            size: entry.size.unwrap_or(0),
                            entry: Ok(entry),
                        },
                    })
                })
                .collect();
            if !how.unordered {
                keys.sort_by(|a, b| a.key.cmp(&b.key));
            }
            let (Start::Key(start) | Start::Token(start)) = from;
            keys.retain(|key| key.key > *start);
            let more = keys.len() > how.page;
            keys.truncate(how.page);
            let next = keys.last().filter(|_| more).map(|key| key.key.clone());
            Ok(Keys { keys, next })
        });
        let page = page.await;
        while self.tree().recursive.is_some_and(|how| how.held) {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        page
    }
}
