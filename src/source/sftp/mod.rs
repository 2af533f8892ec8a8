//! A directory of a machine that speaks SSH, by SFTP.
//!
//! russh carries the bytes; the packets are our own (`wire`, `session`), since what the invariants
//! need is in none of the libraries: paths that are not UTF-8, many requests under way on one handle
//! with their order kept, replies checked against requests, handles that close themselves.
//!
//! A path is the server's to resolve, and it follows symbolic links in all of it. So with each
//! request goes another, in the same flight, for what the path really is (REALPATH): one that leads
//! through a link below the root is not found here, as no listing shows it so. The root itself may be
//! a link, or be reached by some.

use std::ops::Range;
use std::sync::{Arc, Mutex, PoisonError};

use async_trait::async_trait;
use bytes::Bytes;
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use tokio::sync::Semaphore;

use super::confidence::Confidences;
use super::ssh::{PORT, SshSettings};
use super::{Body, Error, ErrorKind, Listing, ListingBuilder, Result, Source};
use crate::entry::{Entry, Timestamp};
use crate::path::RelPath;

mod list;
mod pool;
mod read;
mod session;
mod status;
mod version;
mod wire;

use list::Lister;
use pool::Pool;
use read::Reading;
use session::{Pending, Session};
use version::{What, what};
use wire::Ask;

/// What a URL's path shows as it is.
const PATH: &AsciiSet = &NON_ALPHANUMERIC
    .remove(b'/')
    .remove(b'-')
    .remove(b'.')
    .remove(b'_')
    .remove(b'~');

/// Where a directory is.
#[derive(Debug, Clone)]
pub struct SftpSettings {
    /// The machine, and who asks.
    pub ssh: SshSettings,
    /// The directory, from the machine's root: `/srv/data`, without `.`, `..` and empty parts.
    pub path: String,
}

/// A directory of a machine that speaks SSH.
pub struct SftpSource {
    pool: Pool,
    confidences: Arc<Confidences>,
    /// Ends without a slash, and is empty where it is the machine's root.
    root: String,
    identity: String,
    /// What the root really is.
    real: Mutex<Option<Bytes>>,
    ahead: Arc<Semaphore>,
}

impl SftpSource {
    /// Returns the source. Sends no request; [`ErrorKind::Invalid`] for settings that can lead
    /// nowhere.
    ///
    /// The user is no part of its identity: servers that show each user another tree under one name
    /// (chroot) should be given other names, or another port.
    pub fn new(settings: SftpSettings) -> Result<SftpSource> {
        settings.ssh.check()?;
        let path = settings.path.trim_end_matches('/');
        let is_odd = |part: &str| matches!(part, "" | "." | "..") || part.contains('\0');
        if !settings.path.starts_with('/') || path.split('/').skip(1).any(is_odd) {
            let what = format!(
                "{:?} is no path of the server: begin it with `/`, without `.` and `..`",
                settings.path
            );
            return Err(Error::new(ErrorKind::Invalid, what));
        }
        let host = settings.ssh.host.to_ascii_lowercase();
        let host = match host.contains(':') {
            true => format!("[{host}]"),
            false => host,
        };
        let port = match settings.ssh.port {
            PORT => String::new(),
            port => format!(":{port}"),
        };
        let confidences: Arc<Confidences> = Arc::default();
        Ok(SftpSource {
            identity: format!("sftp://{host}{port}{}", utf8_percent_encode(path, PATH)),
            root: path.to_owned(),
            pool: Pool::new(settings.ssh, confidences.clone()),
            confidences,
            real: Mutex::new(None),
            ahead: Arc::new(Semaphore::new(read::AHEAD)),
        })
    }

    /// Returns the path on the server.
    fn at(&self, path: &RelPath) -> Vec<u8> {
        match path.is_root() {
            true if self.root.is_empty() => b"/".to_vec(),
            true => self.root.clone().into_bytes(),
            false => join(self.root.as_bytes(), path.as_str()),
        }
    }

    fn known_real(&self) -> Option<Bytes> {
        let real = self.real.lock();
        real.unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Compares what a path below the root really is with what it must be: the root, and below it no
    /// link. A root that leads elsewhere by now is looked at once more.
    async fn is_straight(&self, session: &Session, path: &RelPath, real: Pending) -> Result<()> {
        if path.is_root() {
            return Ok(());
        }
        let real = match real.name().await {
            Ok(real) => real,
            // A server that cannot tell.
            Err(error) if error.kind() == ErrorKind::Invalid => return Ok(()),
            Err(error) => return Err(error),
        };
        let fits = |root: &[u8]| {
            let root = root.strip_suffix(b"/").unwrap_or(root);
            join(root, path.as_str()) == real
        };
        if self.known_real().is_some_and(|root| fits(&root)) {
            return Ok(());
        }
        let asked = session.ask(Ask::Realpath(&self.at(&RelPath::root()))).await;
        let root = asked?.name().await?;
        *self.real.lock().unwrap_or_else(PoisonError::into_inner) = Some(root.clone());
        match fits(&root) {
            true => Ok(()),
            false => Err(Error::new(
                ErrorKind::NotFound,
                "the path leads through a symbolic link of the server, which is not followed",
            )),
        }
    }

    /// Looks closer at a failure: a missing root is no absence of what is in it, and a file in the
    /// place of a directory is an absence of what would be below.
    async fn explain(&self, session: &Session, path: &RelPath, error: Error) -> Error {
        match error.kind() {
            ErrorKind::NotFound => match self.look_at_root(session).await {
                Ok(()) if !path.is_root() => error,
                Ok(()) => Error::new(ErrorKind::Server, "the root was not there for a moment"),
                Err(why) => why,
            },
            ErrorKind::Server if !path.is_root() => match self.is_below_file(session, path).await {
                Ok(true) => Error::new(ErrorKind::NotFound, "a file is where a directory would be"),
                _ => error,
            },
            ErrorKind::Server => match self.look_at_root(session).await {
                Ok(()) => error,
                Err(why) => why,
            },
            _ => error,
        }
    }

    /// Returns an error unless the root is a directory.
    async fn look_at_root(&self, session: &Session) -> Result<()> {
        let root = self.at(&RelPath::root());
        let shown = String::from_utf8_lossy(&root).into_owned();
        let invalid = |what: String| Error::new(ErrorKind::Invalid, what);
        match session.ask(Ask::Stat(&root)).await?.attrs().await {
            Ok(attrs) if matches!(what(&attrs), What::Dir | What::Unknown) => Ok(()),
            Ok(_) => Err(invalid(format!(
                "{shown} of the server is no directory; name the one that it is in"
            ))),
            Err(error) if error.kind() == ErrorKind::NotFound => Err(invalid(format!(
                "the server has no directory {shown}; check the path, and whether it is mounted there"
            ))),
            Err(error) => Err(error),
        }
    }

    /// Returns whether one of the directories that lead to a path is none.
    async fn is_below_file(&self, session: &Session, path: &RelPath) -> Result<bool> {
        /// Directories that are looked at, from below.
        const MOST: usize = 32;
        let mut asked = Vec::new();
        let mut dir = path.parent();
        while let Some(above) = dir.filter(|dir| !dir.is_root()) {
            if asked.len() == MOST {
                break;
            }
            asked.push(session.ask(Ask::Lstat(&self.at(&above))).await?);
            dir = above.parent();
        }
        for reply in asked {
            match reply.attrs().await {
                Ok(attrs) => return Ok(matches!(what(&attrs), What::File | What::Special)),
                Err(error) if error.kind() == ErrorKind::NotFound => return Ok(true),
                // Further above.
                Err(error) if error.kind() == ErrorKind::Server => {}
                Err(error) => return Err(error),
            }
        }
        Ok(false)
    }

    async fn list_on(
        &self,
        session: &Session,
        dir: &RelPath,
        into: &mut ListingBuilder,
    ) -> Result<()> {
        let path = self.at(dir);
        let opened = session.ask(Ask::Opendir(&path)).await?;
        let real = session.ask(Ask::Realpath(&path)).await?;
        let handle = opened.handle().await?;
        self.is_straight(session, dir, real).await?;
        Lister::new(session, &path, into).run(&handle).await
    }

    async fn stat_on(&self, session: &Session, path: &RelPath) -> Result<Entry> {
        let missing = |what| Error::new(ErrorKind::NotFound, what);
        let none = "neither a file nor a symbolic link";
        let (Some(name), Some(parent)) = (path.file_name(), path.parent()) else {
            return Err(missing(none));
        };
        let at = self.at(path);
        let attrs = session.ask(Ask::Lstat(&at)).await?;
        let real = session.ask(Ask::Realpath(&self.at(&parent))).await?;
        let attrs = attrs.attrs().await?;
        self.is_straight(session, &parent, real).await?;
        match what(&attrs) {
            What::File if attrs.size.is_some() => Ok(version::file(name, &attrs, Timestamp::now())),
            What::Symlink => {
                let target = session.ask(Ask::Readlink(&at)).await?.name().await?;
                let target = std::str::from_utf8(&target);
                let target = target.map_err(|_| missing("a link to a name that is not UTF-8"))?;
                Ok(version::symlink(name, &attrs, target))
            }
            What::Dir | What::Special => Err(missing(none)),
            What::File | What::Unknown => {
                Err(Error::lied("the server does not tell what its files are"))
            }
        }
    }

    async fn read_on(
        &self,
        session: &Arc<Session>,
        path: &RelPath,
        entry: &Entry,
        range: Range<u64>,
    ) -> Result<Body> {
        let at = self.at(path);
        let opened = session.ask(Ask::Open(&at)).await?;
        let real = session.ask(Ask::Realpath(&at)).await?;
        let handle = opened.handle().await?;
        self.is_straight(session, path, real).await?;
        let pinned = version::pinned(entry).to_owned();
        let reading = Reading::new(session.clone(), handle, pinned, range, self.ahead.clone());
        reading.start().await
    }

    async fn finish<T>(&self, session: &Session, path: &RelPath, done: Result<T>) -> Result<T> {
        match done {
            Ok(done) => Ok(done),
            Err(error) => {
                let error = match session.is_over() {
                    true => session.connection().last_word().unwrap_or(error),
                    false => self.explain(session, path, error).await,
                };
                Err(self.confidences.conceal(error))
            }
        }
    }
}

/// Returns a path below a directory, which ends without a slash.
fn join(dir: &[u8], below: &str) -> Vec<u8> {
    let dir = dir.strip_suffix(b"/").unwrap_or(dir);
    [dir, b"/", below.as_bytes()].concat()
}

#[async_trait]
impl Source for SftpSource {
    fn identity(&self) -> &str {
        &self.identity
    }

    fn url(&self, path: &RelPath) -> String {
        match path.is_root() {
            true => self.identity.clone(),
            false => format!(
                "{}/{}",
                self.identity,
                utf8_percent_encode(path.as_str(), PATH)
            ),
        }
    }

    async fn list(&self, dir: &RelPath) -> Result<Listing> {
        let mut listing = ListingBuilder::default();
        self.list_into(dir, &mut listing).await?;
        Ok(listing.finish())
    }

    async fn list_into(&self, dir: &RelPath, into: &mut ListingBuilder) -> Result<()> {
        let session = self.pool.session().await?;
        let done = self.list_on(&session, dir, into).await;
        self.finish(&session, dir, done).await
    }

    async fn stat(&self, path: &RelPath) -> Result<Entry> {
        let session = self.pool.session().await?;
        let done = self.stat_on(&session, path).await;
        self.finish(&session, path, done).await
    }

    async fn read(&self, path: &RelPath, entry: &Entry, range: Range<u64>) -> Result<Body> {
        let session = self.pool.session().await?;
        let done = self.read_on(&session, path, entry, range).await;
        self.finish(&session, path, done).await
    }

    fn same_version(&self, before: &Entry, now: &Entry) -> bool {
        version::agree(before, now)
    }
}
