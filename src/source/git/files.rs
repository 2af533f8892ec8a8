//! Directories, sizes and files of a commit.

use std::sync::{Arc, PoisonError, Weak};

use bytes::Bytes;
use futures::StreamExt;
use gix_hash::ObjectId;
use gix_object::tree::EntryKind;

use super::super::{Body, Error, ErrorKind, Listing, ListingBuilder, Result};
use super::local::Local;
use super::remote::Remote;
use super::sinks::Purpose;
use super::store::{self, Store};
use super::tree::{self, Commit, Directory, Found, Node, Objects};
use super::{Inner, Repository, blocking, gather, not_found, not_here};
use crate::entry::Entry;
use crate::path::RelPath;

/// How many blobs are fetched at once for their sizes. Their bytes come with them, and a reader
/// waits for the last.
const SIZES_BY_BLOB: usize = 256;

/// How many sizes are asked for at once, where the server tells them.
const SIZES: usize = 4096;

/// How many directories are kept taken apart, for those who ask for their files one by one.
const DIRECTORIES: usize = 8;

impl Inner {
    /// Returns a directory of the current commit, and the id of its tree; nothing for a submodule.
    pub(super) async fn directory(
        self: &Arc<Self>,
        path: &RelPath,
    ) -> Result<(Arc<Commit>, Option<(ObjectId, Arc<Directory>)>)> {
        let (path, inner) = (path.clone(), self.clone());
        self.in_commit(move |objects, commit| {
            let id = match tree::descend(objects, commit.root, &path)? {
                Found::Here((EntryKind::Tree, id)) => id,
                Found::Here((EntryKind::Commit, _)) => return Ok(Found::Here(None)),
                Found::Here(_) | Found::Nowhere => return Ok(Found::Nowhere),
                Found::Missing(id) => return Ok(Found::Missing(id)),
            };
            if let Some(known) = inner.recent(&id) {
                return Ok(Found::Here(Some((id, known))));
            }
            let Some(directory) = tree::directory(objects, &id)? else {
                return Ok(Found::Missing(id));
            };
            let directory = Arc::new(directory);
            inner.remember(id, directory.clone());
            Ok(Found::Here(Some((id, directory))))
        })
        .await
    }

    pub(super) fn recent(&self, id: &ObjectId) -> Option<Arc<Directory>> {
        let all = self
            .directories
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        all.iter().find(|(i, _)| i == id).map(|(_, d)| d.clone())
    }

    pub(super) fn remember(&self, id: ObjectId, directory: Arc<Directory>) {
        let mut all = self
            .directories
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        if all.len() == DIRECTORIES {
            all.remove(0);
        }
        all.push((id, directory));
    }

    /// Returns the sizes of these files, where they are known without asking a server.
    pub(super) async fn known_sizes(&self, ids: Vec<ObjectId>) -> Result<Vec<Option<u64>>> {
        match &self.repository {
            Repository::Remote { .. } => self.store.run(move |store| store.sizes(&ids)).await,
            Repository::Local(local) => {
                let local = local.clone();
                blocking(move || ids.iter().map(|id| local.size(id)).collect()).await
            }
        }
    }

    pub(super) async fn list(self: &Arc<Self>, dir: &RelPath) -> Result<Listing> {
        let (commit, found) = self.directory(dir).await?;
        let Some((_, directory)) = found else {
            return Ok(Listing::default());
        };
        let files: Vec<ObjectId> = directory.files().map(|node| node.id).collect();
        let sizes = self.known_sizes(files).await?;
        let targets = self.targets(&commit, &directory).await?;
        let mut listing = ListingBuilder::default();
        let (mut sizes, mut targets) = (sizes.into_iter(), targets.into_iter());
        for node in directory.nodes() {
            let size = node.is_file().then(|| sizes.next().flatten()).flatten();
            let target = match node.kind {
                EntryKind::Link => targets.next().flatten(),
                _ => None,
            };
            if node.kind == EntryKind::Commit {
                self.notices.submodule(&self.identity, dir, node);
            }
            tree::push(node, commit.time, size, target.as_deref(), &mut listing);
        }
        Ok(listing.finish())
    }

    /// Returns what the links of a directory point to; nothing where that is no path.
    pub(super) async fn targets(
        &self,
        commit: &Commit,
        of: &Arc<Directory>,
    ) -> Result<Vec<Option<Vec<u8>>>> {
        let links: Vec<ObjectId> = of
            .nodes()
            .iter()
            .filter(|node| node.kind == EntryKind::Link)
            .map(|node| node.id)
            .collect();
        if links.is_empty() {
            return Ok(Vec::new());
        }
        let mut healed = false;
        loop {
            let (store, links) = (self.store.clone(), links.clone());
            let is_remote = matches!(self.repository, Repository::Remote { .. });
            let read = move |objects: &dyn Objects| {
                let mut targets = Vec::new();
                for id in &links {
                    targets.push(match objects.object(id)? {
                        Some((_, bytes)) => Some(bytes),
                        None if is_remote && store.is_no_path(id)? => None,
                        None => return Ok(Err(*id)),
                    });
                }
                Ok(Ok(targets))
            };
            match self.with_objects(read).await? {
                Ok(targets) => return Ok(targets),
                Err(id) if healed => {
                    return Err(Error::lied(format!("{id} is missing of {}", commit.text)));
                }
                Err(id) => self.heal(commit, id).await?,
            }
            healed = true;
        }
    }

    pub(super) async fn stat(self: &Arc<Self>, path: &RelPath) -> Result<Entry> {
        let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else {
            return Err(not_found());
        };
        let (commit, found) = self.directory(&parent).await?;
        let (tree, directory) = found.ok_or_else(not_found)?;
        let node = directory.find(name.as_str()).ok_or_else(not_found)?;
        let (mut size, mut target) = (None, None);
        match node.kind {
            EntryKind::Blob | EntryKind::BlobExecutable => {
                size = Some(self.size(tree, &directory, node).await?);
            }
            EntryKind::Link => {
                let alone = Arc::new(Directory::of(node.clone()));
                target = self.targets(&commit, &alone).await?.pop().flatten();
            }
            EntryKind::Tree | EntryKind::Commit => return Err(not_found()),
        }
        tree::entry(node, commit.time, size, target.as_deref()).map_err(|why| {
            let message = format!("it cannot be shown: {why}");
            Error::new(ErrorKind::NotFound, message)
        })
    }

    /// Returns a file's size, and asks for those of its neighbours with it.
    pub(super) async fn size(
        &self,
        tree: ObjectId,
        directory: &Directory,
        node: &Node,
    ) -> Result<u64> {
        let known = |sizes: Vec<Option<u64>>| sizes.into_iter().next().flatten();
        if let Some(size) = known(self.known_sizes(vec![node.id]).await?) {
            return Ok(size);
        }
        let Repository::Remote { remote, .. } = &self.repository else {
            return Err(not_here(&node.id));
        };
        // Many ask for the files of one directory at once; the first asks for all.
        let sizing = self.sizing(tree);
        let _sizing = sizing.lock().await;
        if let Some(size) = known(self.known_sizes(vec![node.id]).await?) {
            return Ok(size);
        }
        // This one and what comes after it, then what came before.
        let nodes = directory.nodes();
        let at = nodes.partition_point(|n| n.name < node.name);
        let (before, after) = nodes.split_at(at);
        let files = after.iter().chain(before).filter(|n| n.is_file());
        let mut ids: Vec<ObjectId> = vec![node.id];
        ids.extend(files.map(|n| n.id).filter(|id| *id != node.id));
        let sizes = self.known_sizes(ids.clone()).await?;
        let mut unknown: Vec<ObjectId> = ids
            .into_iter()
            .zip(sizes)
            .filter_map(|(id, size)| size.is_none().then_some(id))
            .collect();
        let mut seen = std::collections::HashSet::new();
        unknown.retain(|id| seen.insert(*id));
        self.ask_sizes(remote, unknown).await?;
        let size = known(self.known_sizes(vec![node.id]).await?);
        size.ok_or_else(|| not_here(&node.id))
    }

    pub(super) fn sizing(&self, tree: ObjectId) -> Arc<tokio::sync::Mutex<()>> {
        let mut all = self.sizing.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = all.get(&tree).and_then(Weak::upgrade) {
            return known;
        }
        all.retain(|_, lock| lock.strong_count() > 0);
        let lock = Arc::<tokio::sync::Mutex<()>>::default();
        all.insert(tree, Arc::downgrade(&lock));
        lock
    }

    /// Brings the sizes of the first of these into the store.
    pub(super) async fn ask_sizes(
        &self,
        remote: &Arc<Remote>,
        mut ids: Vec<ObjectId>,
    ) -> Result<()> {
        ids.truncate(SIZES);
        if let Some(sizes) = remote.sizes(&ids).await? {
            let write = move |store: &Store| {
                let mut batch = store::Batch::default();
                batch.sizes = sizes;
                store.write(&mut batch)
            };
            return self.store.run(write).await;
        }
        ids.truncate(SIZES_BY_BLOB);
        let notices = self.notices.clone();
        let identity = self.identity.clone();
        let look = move |id, bytes: Bytes| notices.look_at(&identity, id, &bytes);
        let missing = remote.blobs(&ids, Purpose::Sizes, look).await?;
        // What is told by its difference to what was too large to keep.
        for id in missing {
            remote.blobs(&[id], Purpose::Sizes, |_, _| {}).await?;
        }
        Ok(())
    }

    pub(super) async fn read(self: &Arc<Self>, path: &RelPath, entry: &Entry) -> Result<Body> {
        let Ok(id) = ObjectId::from_hex(entry.version.token.as_bytes()) else {
            // Not an entry of ours: of a place that was something else before.
            let is_there = self.stat(path).await;
            return Err(match is_there {
                Ok(_) => Error::changed("the file has changed since it was listed"),
                Err(error) => error,
            });
        };
        let (remote, gather) = match &self.repository {
            Repository::Remote { remote, gather } => (remote, gather),
            Repository::Local(local) => {
                let bytes = Local::read(local, id).await?;
                return self.whole(id, entry, bytes).await;
            }
        };
        if let Some(bytes) = self.store.run(move |store| store.kept(&id)).await? {
            return self.whole(id, entry, bytes.into()).await;
        }
        if let Some(size) = entry.size.filter(|size| *size <= gather::SMALL)
            && let Some(bytes) = gather.read(id, size).await?
        {
            return self.whole(id, entry, bytes).await;
        }
        let body = gather::stream(remote, id).await?;
        self.check_size(id, entry, body.size).await?;
        Ok(body)
    }

    /// Returns a blob that is in memory, as a body.
    pub(super) async fn whole(&self, id: ObjectId, entry: &Entry, bytes: Bytes) -> Result<Body> {
        self.notices.look_at(&self.identity, id, &bytes);
        let size = bytes.len() as u64;
        self.check_size(id, entry, size).await?;
        Ok(in_memory(id, bytes))
    }

    /// Refuses a blob of another size than was told.
    pub(super) async fn check_size(&self, id: ObjectId, entry: &Entry, size: u64) -> Result<()> {
        let Some(told) = entry.size.filter(|told| *told != size) else {
            return Ok(());
        };
        // Asked for again by the next.
        self.store.run(move |store| store.forget_size(&id)).await?;
        Err(Error::lied(format!(
            "the server told a size of {told} bytes, and gave {size}"
        )))
    }
}

/// Returns a blob that is in memory as a body.
fn in_memory(id: ObjectId, bytes: Bytes) -> Body {
    let size = bytes.len() as u64;
    let some = (size > 0).then_some(Ok(bytes));
    Body {
        range: 0..size,
        size,
        validator: Some(id.to_string().into()),
        stream: futures::stream::iter(some).boxed(),
    }
}
