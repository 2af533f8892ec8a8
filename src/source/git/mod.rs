//! A branch, tag or commit of a Git repository.
//!
//! All of a commit's trees are brought when it is first seen (a shallow clone without blobs), so
//! listing asks nobody; sizes and blobs come when they are asked for, many in one request. The tree
//! changes as one: every answer is of one commit, and a source moves to the next only once all of
//! its trees are here.
//!
//! The protocol is spoken here, version 2 only, and nothing of it through a program: the daemon may
//! run none. gitoxide's crates give the parts: pkt-lines, object ids (with detection of SHA-1
//! collisions), commits and trees, inflating, and reading a repository of this machine. An object
//! is believed once its bytes have the id that was asked for.
//!
//! Locks: `turn` is held while a commit is brought; all others are held for a few instructions.

use std::collections::HashMap;
use std::ops::Range;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError, RwLock, Weak};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use futures::StreamExt;
use gix_hash::ObjectId;
use gix_object::tree::EntryKind;
use url::Url;

use super::ssh::SshSettings;
use super::{
    Body, Error, ErrorKind, Listing, ListingBuilder, ProxySettings, Result, Secret, Source,
    TlsSettings, Whole, progress,
};
use crate::entry::Entry;
use crate::path::RelPath;

mod gather;
mod local;
mod notices;
mod pack;
mod pkt;
mod place;
mod reference;
mod remote;
mod sinks;
mod store;
mod transport;
mod tree;

use gather::Gather;
use local::Local;
pub use local::elsewhere;
use notices::Notices;
use reference::Reference;
pub use remote::Counters;
use remote::Remote;
use sinks::Purpose;
use store::Store;
use tree::{Commit, Directory, Found, Node, Objects};

/// How many blobs are fetched at once for their sizes. Their bytes come with them, and a reader
/// waits for the last.
const SIZES_BY_BLOB: usize = 256;

/// How many sizes are asked for at once, where the server tells them.
const SIZES: usize = 4096;

/// How many directories are kept taken apart, for those who ask for their files one by one.
const DIRECTORIES: usize = 8;

/// The most bytes of a commit, unless set, where a server can give it as a whole only.
const FULL_LIMIT: u64 = 4 * 1024 * 1024 * 1024;

/// How often those who wait for a commit see whether something comes.
const LOOK: Duration = Duration::from_secs(1);

/// Who asks.
#[derive(Debug, Clone)]
pub enum GitAuth {
    /// `Authorization: Bearer TOKEN`.
    Bearer(Secret),
    /// A user name and a password, or a token in its place.
    Basic {
        /// The user's name.
        username: String,
        /// The password.
        password: Secret,
    },
}

/// Which repository and what of it, and how it is reached.
#[derive(Debug, Clone)]
pub struct GitSettings {
    /// The repository: `https`, `http`, `ssh`, `git` or `file`. A user name and password in it
    /// are used as credentials, and not shown.
    pub url: Url,
    /// A branch, a tag, a ref's full name or a commit's whole id; the default branch if nothing.
    pub reference: Option<String>,
    /// The directory that is the source's root. Slashes at its ends do not matter; empty for all.
    pub subdirectory: String,
    /// Who asks a web server.
    pub auth: Option<GitAuth>,
    /// Which web server to trust, and who asks.
    pub tls: TlsSettings,
    /// The way to a web server. Without it, the environment says.
    pub proxy: Option<ProxySettings>,
    /// How an SSH server is known, and how it is told who asks; as OpenSSH has it if nothing. The
    /// host, the port and the user of the URL count for more.
    pub ssh: Option<SshSettings>,
    /// Where what is known of repositories is kept: a directory of its own, made where it is not
    /// there, shared by all sources and processes.
    pub store: PathBuf,
    /// How many bytes of files may wait in the store for their readers.
    pub keep: u64,
    /// The most bytes of a commit with its files, where the server cannot leave them out.
    pub full_limit: u64,
}

impl GitSettings {
    /// Returns settings with nothing but the repository and the store set.
    pub fn new(url: Url, store: impl Into<PathBuf>) -> GitSettings {
        GitSettings {
            url,
            reference: None,
            subdirectory: String::new(),
            auth: None,
            tls: TlsSettings::default(),
            proxy: None,
            ssh: None,
            store: store.into(),
            keep: store::KEPT,
            full_limit: FULL_LIMIT,
        }
    }
}

/// A commit of a repository, and those that its branch moves to.
pub struct GitSource(Arc<Inner>);

struct Inner {
    identity: String,
    /// The URL without credentials.
    shown: String,
    reference: Reference,
    below: RelPath,
    repository: Repository,
    store: Store,
    current: RwLock<Option<Arc<Commit>>>,
    turn: tokio::sync::Mutex<()>,
    /// Directories whose sizes are being asked for, by their tree.
    sizing: Mutex<HashMap<ObjectId, Weak<tokio::sync::Mutex<()>>>>,
    directories: Mutex<Vec<(ObjectId, Arc<Directory>)>>,
    notices: Arc<Notices>,
    counters: Arc<Counters>,
}

enum Repository {
    Remote {
        remote: Arc<Remote>,
        gather: Arc<Gather>,
    },
    Local(Arc<Local>),
}

impl Objects for Store {
    fn object(&self, id: &ObjectId) -> Result<Option<(gix_object::Kind, Vec<u8>)>> {
        Store::object(self, id)
    }
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T> + Send + 'static,
) -> Result<T> {
    let stopped = |_| Error::new(ErrorKind::Unreachable, "the program is ending");
    tokio::task::spawn_blocking(work).await.map_err(stopped)?
}

fn not_found() -> Error {
    Error::new(ErrorKind::NotFound, "the commit has no such file")
}

impl GitSource {
    /// Builds the source. Sends no request; fails for settings that can never work.
    pub fn new(settings: GitSettings) -> Result<GitSource> {
        let reference = Reference::parse(settings.reference.as_deref())?;
        let below = settings.subdirectory.trim_matches('/');
        let below = RelPath::new(below).map_err(|why| {
            let message = format!("{below:?} is no directory of a tree: {why}");
            Error::new(ErrorKind::Invalid, message)
        })?;
        let counters = Arc::<Counters>::default();
        let store = Store::new(&settings.store, settings.keep);
        let place = place::Place::new(&settings)?;
        let repository = match place.way {
            place::Way::Local(path) => Repository::Local(Arc::new(Local::new(path))),
            place::Way::Remote(transport) => {
                let remote = Arc::new(Remote {
                    transport,
                    store: store.clone(),
                    full_limit: settings.full_limit,
                    counters: counters.clone(),
                });
                let gather = Arc::new(Gather::new(remote.clone()));
                Repository::Remote { remote, gather }
            }
        };
        let named = settings.reference.as_deref().unwrap_or("HEAD");
        Ok(GitSource(Arc::new(Inner {
            identity: format!("git:{}#{named}:{}", place.identity, below.as_str()),
            shown: format!("{}#{named}:", place.shown),
            reference,
            below,
            repository,
            store,
            current: RwLock::default(),
            turn: tokio::sync::Mutex::default(),
            sizing: Mutex::default(),
            directories: Mutex::default(),
            notices: Arc::default(),
            counters,
        })))
    }

    /// Returns what was asked of the server so far.
    pub fn counters(&self) -> &Counters {
        &self.0.counters
    }

    /// Returns how many files turned out to be LFS pointers.
    pub fn lfs_pointers(&self) -> u64 {
        self.0.notices.lfs_pointers()
    }
}

impl Inner {
    fn known(&self) -> Option<Arc<Commit>> {
        let current = self.current.read().unwrap_or_else(PoisonError::into_inner);
        current.clone()
    }

    fn move_to(&self, commit: Arc<Commit>) {
        let mut current = self.current.write().unwrap_or_else(PoisonError::into_inner);
        *current = Some(commit);
    }

    /// Waits until no commit is being brought, as long as something comes.
    async fn turn(&self) -> tokio::sync::MutexGuard<'_, ()> {
        let mut seen = 0;
        loop {
            tokio::select! {
                turn = self.turn.lock() => return turn,
                () = tokio::time::sleep(LOOK) => {
                    let bytes = self.counters.bytes.load(std::sync::atomic::Ordering::Relaxed);
                    if std::mem::replace(&mut seen, bytes) != bytes {
                        progress::note();
                    }
                }
            }
        }
    }

    /// Returns the commit that answers come from: the one from before, the last that the store
    /// has, or the first that the server gives.
    async fn commit(&self) -> Result<Arc<Commit>> {
        if let Some(known) = self.known() {
            return Ok(known);
        }
        let _turn = self.turn().await;
        if let Some(known) = self.known() {
            return Ok(known);
        }
        if let Some(stored) = self.stored().await? {
            self.move_to(stored.clone());
            return Ok(stored);
        }
        self.advance_in_turn().await
    }

    /// Returns the last commit that all is here of.
    async fn stored(&self) -> Result<Option<Arc<Commit>>> {
        let Repository::Remote { .. } = self.repository else {
            return Ok(None);
        };
        let identity = self.identity.clone();
        let id = self.store.run(move |s| s.commit(&identity)).await?;
        let Some(id) = id else { return Ok(None) };
        Ok(match self.load(id).await? {
            Found::Here(commit) => Some(Arc::new(commit)),
            Found::Nowhere | Found::Missing(_) => None,
        })
    }

    async fn load(&self, id: ObjectId) -> Result<Found<Commit>> {
        let below = self.below.clone();
        self.with_objects(move |objects| tree::commit(objects, id, &below))
            .await
    }

    async fn with_objects<T: Send + 'static>(
        &self,
        work: impl FnOnce(&dyn Objects) -> Result<T> + Send + 'static,
    ) -> Result<T> {
        match &self.repository {
            Repository::Remote { .. } => self.store.run(move |store| work(store)).await,
            Repository::Local(local) => {
                let local = local.clone();
                blocking(move || work(&*local)).await
            }
        }
    }

    async fn advance_in_turn(&self) -> Result<Arc<Commit>> {
        let tip = match &self.repository {
            Repository::Remote { remote, .. } => remote.tip(&self.reference).await,
            Repository::Local(local) => {
                let (local, reference) = (local.clone(), self.reference.clone());
                blocking(move || local.tip(&reference)).await
            }
        };
        let tip = tip?;
        if let Some(known) = self.known().filter(|known| known.id == tip) {
            return Ok(known);
        }
        if let Repository::Remote { remote, .. } = &self.repository {
            let have = match self.known() {
                Some(known) => Some(known.id),
                None => {
                    let identity = self.identity.clone();
                    self.store.run(move |s| s.commit(&identity)).await?
                }
            };
            remote.bring(tip, have.filter(|have| *have != tip)).await?;
        }
        let commit = match self.load(tip).await? {
            Found::Here(commit) => Arc::new(commit),
            Found::Nowhere | Found::Missing(_) => {
                return Err(Error::lied(format!("the commit {tip} is not whole")));
            }
        };
        if let Repository::Remote { .. } = self.repository {
            let identity = self.identity.clone();
            let note = move |store: &Store| match store.note(&identity, &tip)? {
                true => notices::prune(store),
                false => Ok(()),
            };
            self.store.run(note).await?;
        }
        self.move_to(commit.clone());
        Ok(commit)
    }

    /// Brings a commit again of which something is missing or damaged.
    async fn heal(&self, commit: &Commit, missing: ObjectId) -> Result<()> {
        let Repository::Remote { remote, .. } = &self.repository else {
            return Err(Error::changed(format!(
                "the repository does not have {missing} any more"
            )));
        };
        let _turn = self.turn().await;
        tracing::warn!(commit = %commit.text, %missing, "part of a commit is brought again");
        remote.bring(commit.id, None).await
    }

    /// Runs `work` over the objects of the current commit, once again if something was missing.
    async fn in_commit<T: Send + 'static>(
        &self,
        work: impl Fn(&dyn Objects, &Commit) -> Result<Found<T>> + Clone + Send + 'static,
    ) -> Result<(Arc<Commit>, T)> {
        let commit = self.commit().await?;
        let mut healed = false;
        loop {
            let (work, of) = (work.clone(), commit.clone());
            let found = self.with_objects(move |objects| work(objects, &of)).await?;
            match found {
                Found::Here(found) => return Ok((commit, found)),
                Found::Nowhere => return Err(not_found()),
                Found::Missing(id) if healed => {
                    return Err(Error::lied(format!("{id} is missing of {}", commit.text)));
                }
                Found::Missing(id) => self.heal(&commit, id).await?,
            }
            healed = true;
        }
    }

    /// Returns a directory of the current commit, and the id of its tree; nothing for a submodule.
    async fn directory(
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

    fn recent(&self, id: &ObjectId) -> Option<Arc<Directory>> {
        let all = self
            .directories
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        all.iter().find(|(i, _)| i == id).map(|(_, d)| d.clone())
    }

    fn remember(&self, id: ObjectId, directory: Arc<Directory>) {
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
    async fn known_sizes(&self, ids: Vec<ObjectId>) -> Result<Vec<Option<u64>>> {
        match &self.repository {
            Repository::Remote { .. } => self.store.run(move |store| store.sizes(&ids)).await,
            Repository::Local(local) => {
                let local = local.clone();
                blocking(move || ids.iter().map(|id| local.size(id)).collect()).await
            }
        }
    }

    async fn list(self: &Arc<Self>, dir: &RelPath) -> Result<Listing> {
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
    async fn targets(&self, commit: &Commit, of: &Arc<Directory>) -> Result<Vec<Option<Vec<u8>>>> {
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

    async fn stat(self: &Arc<Self>, path: &RelPath) -> Result<Entry> {
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
    async fn size(&self, tree: ObjectId, directory: &Directory, node: &Node) -> Result<u64> {
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

    fn sizing(&self, tree: ObjectId) -> Arc<tokio::sync::Mutex<()>> {
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
    async fn ask_sizes(&self, remote: &Arc<Remote>, mut ids: Vec<ObjectId>) -> Result<()> {
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

    async fn read(self: &Arc<Self>, path: &RelPath, entry: &Entry) -> Result<Body> {
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
    async fn whole(&self, id: ObjectId, entry: &Entry, bytes: Bytes) -> Result<Body> {
        self.notices.look_at(&self.identity, id, &bytes);
        let size = bytes.len() as u64;
        self.check_size(id, entry, size).await?;
        Ok(in_memory(id, bytes))
    }

    /// Refuses a blob of another size than was told.
    async fn check_size(&self, id: ObjectId, entry: &Entry, size: u64) -> Result<()> {
        let Some(told) = entry.size.filter(|told| *told != size) else {
            return Ok(());
        };
        // Asked for again by the next.
        self.store.run(move |store| store.forget_size(&id)).await?;
        Err(Error::lied(format!(
            "the server told a size of {told} bytes, and gave {size}"
        )))
    }

    fn conceal(&self, error: Error) -> Error {
        match &self.repository {
            Repository::Remote { remote, .. } => remote.transport.conceal(error),
            Repository::Local(_) => error,
        }
    }
}

fn not_here(id: &ObjectId) -> Error {
    Error::changed(format!(
        "the repository does not have the file's object {id}"
    ))
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

#[async_trait]
impl Source for GitSource {
    fn identity(&self) -> &str {
        &self.0.identity
    }

    fn url(&self, path: &RelPath) -> String {
        let path = self.0.below.concat(path);
        format!("{}{}", self.0.shown, path.as_str())
    }

    async fn list(&self, dir: &RelPath) -> Result<Listing> {
        self.0
            .list(dir)
            .await
            .map_err(|error| self.0.conceal(error))
    }

    async fn stat(&self, path: &RelPath) -> Result<Entry> {
        self.0
            .stat(path)
            .await
            .map_err(|error| self.0.conceal(error))
    }

    async fn read(&self, path: &RelPath, entry: &Entry, _: Range<u64>) -> Result<Body> {
        let body = self.0.read(path, entry).await;
        body.map_err(|error| self.0.conceal(error))
    }

    fn same_version(&self, before: &Entry, now: &Entry) -> bool {
        before.version == now.version
    }

    fn whole(&self) -> Option<&dyn Whole> {
        Some(self)
    }
}

#[async_trait]
impl Whole for GitSource {
    fn current(&self) -> Option<Arc<str>> {
        Some(self.0.known()?.text.clone())
    }

    async fn advance(&self) -> Result<Arc<str>> {
        let _turn = self.0.turn().await;
        let commit = self.0.advance_in_turn().await;
        let commit = commit.map_err(|error| self.0.conceal(error))?;
        Ok(commit.text.clone())
    }
}
