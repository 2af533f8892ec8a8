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
use std::sync::{Arc, Mutex, RwLock, Weak};

use async_trait::async_trait;
use gix_hash::ObjectId;
use url::Url;

use super::ssh::SshSettings;
use super::{
    Body, Error, ErrorKind, Listing, ProxySettings, Result, Secret, Source, TlsSettings, Whole,
};
use crate::entry::Entry;
use crate::path::RelPath;

mod files;
mod gather;
mod generation;
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
use store::Store;
use tree::{Commit, Directory, Objects};

/// The most bytes of a commit, unless set, where a server can give it as a whole only.
const FULL_LIMIT: u64 = 4 * 1024 * 1024 * 1024;

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
            shown: format!("{}#{named}", place.shown),
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

#[async_trait]
impl Source for GitSource {
    fn identity(&self) -> &str {
        &self.0.identity
    }

    fn url(&self, path: &RelPath) -> String {
        let (shown, path) = (&self.0.shown, self.0.below.concat(path));
        match path.is_root() {
            true => shown.clone(),
            false => format!("{shown}:{}", path.as_str()),
        }
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
