//! Trees on FTP servers, in the clear or over TLS.
//!
//! Directories are listed by MLSD where the server has it, else by LIST. Files have weak versions:
//! a size and a time (see `version`), compared before and after each transfer (see `body`).
//! Connections are kept in a bounded pool, and closed rather than used when in doubt (see `pool`).
//!
//! FTP says "550" both to what is not there and to what may not be had; which of the two it is, the
//! parent's listing tells.

use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use async_trait::async_trait;
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};

use super::confidence::Confidences;
use super::{Body, Error, ErrorKind, HiddenWhy, Listing, ListingBuilder, Result, Source};
use crate::entry::{Entry, Timestamp};
use crate::path::RelPath;

mod body;
mod connection;
mod line;
mod pool;
mod reply;
mod settings;
mod time;
mod tls;
mod version;

use body::Reading;
use connection::Command;
use line::{Item, What};
use pool::{Lease, Pool};
use reply::Reply;
use settings::Server;
pub use settings::{ANONYMOUS, CONNECTIONS, FtpSettings, FtpTls};
use tls::Certificates;

/// What stays as it is in a URL's path.
const SEGMENT: &AsciiSet = &NON_ALPHANUMERIC
    .remove(b'-')
    .remove(b'.')
    .remove(b'_')
    .remove(b'~')
    .remove(b'/');

/// A tree on an FTP server.
pub struct FtpSource {
    pool: Arc<Pool>,
    /// As the settings have it, without a slash at its end.
    path: String,
    identity: String,
    url: String,
    /// Whether `LIST -a` is known not to do.
    no_options: AtomicBool,
    /// Whether REST is known not to do.
    no_restart: AtomicBool,
}

/// What the parents' listings say of a path.
enum Presence {
    Absent,
    There(What),
    /// They may not be listed either.
    Unknown,
}

impl FtpSource {
    /// Returns the tree. Nothing is sent yet. [`ErrorKind::Invalid`] for settings that make no sense
    /// or files that cannot be read, and for a password that would be sent in the clear.
    pub fn new(settings: FtpSettings) -> Result<FtpSource> {
        let invalid = |what: &str| Err(Error::new(ErrorKind::Invalid, what));
        if settings.tls == FtpTls::None && settings.password.is_some() && !settings.clear_password {
            return invalid(
                "the password would be sent in the clear: set `encryption: explicit` or \
                 `implicit`, or `clearPassword: true` where the network is trusted",
            );
        }
        let host = settings.host.trim_matches(['[', ']']).to_ascii_lowercase();
        let user = settings.user.clone().unwrap_or_else(|| ANONYMOUS.into());
        for text in [&host, &user, &settings.path] {
            if text.contains(['\r', '\n', '\0']) {
                return invalid("a line break in the host, the user or the path");
            }
        }
        if host.is_empty() || user.is_empty() {
            return invalid("no host or an empty user name");
        }
        let certificates = Certificates::new(settings.certificates)?;
        let port = settings.port.unwrap_or_else(|| settings.tls.port());
        let path = settings.path.trim_end_matches('/').to_owned();
        let path = match settings.path.starts_with('/') && path.is_empty() {
            true => "/".to_owned(),
            false => path,
        };
        let (identity, url) = names(&host, port, settings.tls, &user, &path);
        let server = Server {
            host,
            port,
            tls: settings.tls,
            certificates,
            user,
            secret: settings.password,
            confidences: Confidences::default(),
            prefers_pasv: Arc::new(AtomicBool::new(false)),
        };
        Ok(FtpSource {
            pool: Pool::new(server, settings.connections),
            path,
            identity,
            url,
            no_options: AtomicBool::new(false),
            no_restart: AtomicBool::new(false),
        })
    }

    /// Returns where `path` is for the server: from its root.
    fn absolute(&self, home: &str, path: &RelPath) -> String {
        let mut all = match self.path.starts_with('/') {
            true => String::new(),
            false => home.to_owned(),
        };
        for part in [self.path.trim_matches('/'), path.as_str()] {
            if !part.is_empty() {
                all.push('/');
                all.push_str(part);
            }
        }
        match all.is_empty() {
            true => "/".into(),
            false => all,
        }
    }

    /// Lists a directory, or returns the server's refusal; each line that is an entry goes to `each`.
    async fn lines(
        &self,
        lease: &mut Lease,
        dir: &RelPath,
        mut each: impl FnMut(std::result::Result<Item, &[u8]>) + Send,
        command: Command,
    ) -> Result<std::result::Result<bool, Reply>> {
        let directory = self.absolute(&lease.home, dir);
        let now = Timestamp::now();
        let (mut itself, mut good, mut bad) = (false, false, None);
        let listed = lease.list(&directory, command, |line| {
            let item = match command {
                Command::Mlsd => line::machine(line),
                _ if line.is_empty() || line.starts_with(b"total ") => return,
                _ => line::listed(line, now),
            };
            itself |= item.as_ref().is_some_and(|item| item.what == What::Itself);
            good |= item.is_some();
            if item.is_none() && bad.is_none() {
                let start = line.get(..line.len().min(80)).unwrap_or_default();
                bad = Some(String::from_utf8_lossy(start).into_owned());
            }
            each(item.ok_or(line));
        });
        if let Err(reply) = listed.await? {
            return Ok(Err(reply));
        }
        match bad {
            // Not a name with a line break in it, but a listing of a kind that nobody knows.
            Some(line) if !good => {
                let verb = match command {
                    Command::Mlsd => "MLSD",
                    _ => "LIST",
                };
                Err(Error::lied(format!(
                    "the lines of {verb} make no sense: {line}"
                )))
            }
            _ => Ok(Ok(itself)),
        }
    }

    /// Lists with what the server knows best. `each` may be called for names twice, after `again`.
    async fn items<T: Send>(
        &self,
        lease: &mut Lease,
        dir: &RelPath,
        new: impl Fn() -> T + Send,
        each: impl Fn(&mut T, std::result::Result<Item, &[u8]>) + Send + Sync,
    ) -> Result<std::result::Result<T, Reply>> {
        let mut commands = vec![Command::ListAll, Command::List];
        if lease.machine {
            commands = vec![Command::Mlsd];
        } else if self.no_options.load(Ordering::Relaxed) {
            commands.remove(0);
        }
        for command in commands {
            let mut all = new();
            let listed = self
                .lines(lease, dir, |item| each(&mut all, item), command)
                .await;
            match (command, listed?) {
                // With hidden files, a directory shows itself too. Where it does not, `-a` was
                // taken for a name, or for nothing.
                (Command::ListAll, Ok(false) | Err(_)) => {}
                (_, Err(reply)) => return Ok(Err(reply)),
                (command, Ok(_)) => {
                    if command == Command::List {
                        self.no_options.store(true, Ordering::Relaxed);
                    }
                    return Ok(Ok(all));
                }
            }
        }
        Err(Error::lied("no way to list is left"))
    }

    /// Returns what the parents' listings say of a path that the server refused.
    async fn presence(&self, lease: &mut Lease, path: &RelPath) -> Result<Presence> {
        let mut at = path.clone();
        loop {
            let (Some(parent), Some(name)) = (at.parent(), at.file_name()) else {
                return Ok(Presence::Unknown);
            };
            let found = self.find(lease, &parent, name.as_str()).await?;
            let is_path = at == *path;
            match found {
                Ok(None) => return Ok(Presence::Absent),
                Ok(Some(item)) if is_path => return Ok(Presence::There(item.what)),
                // The path leads through it, and it is none.
                Ok(Some(item)) if item.what == What::File => return Ok(Presence::Absent),
                Ok(Some(_)) => return Ok(Presence::Unknown),
                Err(reply) if !reply.is_about_path() => return Err(reply.error("the listing")),
                Err(_) => at = parent,
            }
        }
    }

    /// Returns what a directory's listing says of a name.
    async fn find(
        &self,
        lease: &mut Lease,
        dir: &RelPath,
        name: &str,
    ) -> Result<std::result::Result<Option<Item>, Reply>> {
        self.items(
            lease,
            dir,
            || None,
            |found: &mut Option<Item>, item| {
                if let Ok(item) = item
                    && item.name == name.as_bytes()
                {
                    *found = Some(item);
                }
            },
        )
        .await
    }

    /// Returns the error for a refusal to say or give something of a file.
    async fn refused(&self, lease: &mut Lease, path: &RelPath, reply: Reply, what: &str) -> Error {
        let error = reply.error(what);
        if !reply.is_about_path() {
            return error;
        }
        match self.presence(lease, path).await {
            Ok(Presence::Absent) => Error::new(ErrorKind::NotFound, "no such file"),
            Ok(Presence::There(What::Dir)) => {
                Error::new(ErrorKind::NotFound, "a directory, not a file")
            }
            Ok(_) => error,
            Err(unsure) => unsure.context(error),
        }
    }

    /// Returns what the server says of a file. On a server without SIZE the listing has to do.
    async fn describe(&self, lease: &mut Lease, path: &RelPath) -> Result<Item> {
        let place = self.absolute(&lease.home, path);
        let reply = match lease.describe(&place).await? {
            Ok(item) => return Ok(item),
            Err(reply) => reply,
        };
        if reply.is_unknown_command()
            && let (Some(parent), Some(name)) = (path.parent(), path.file_name())
            && let Ok(found) = self.find(lease, &parent, name.as_str()).await?
        {
            return found.ok_or_else(|| Error::new(ErrorKind::NotFound, "no such file"));
        }
        Err(self
            .refused(lease, path, reply, "a question about the file")
            .await)
    }

    async fn list_all(&self, dir: &RelPath, into: &mut ListingBuilder) -> Result<()> {
        sayable(dir)?;
        let mut lease = self.pool.get().await?;
        let now = Timestamp::now();
        let template = &*into;
        let listed = self.items(
            &mut lease,
            dir,
            || template.another(),
            |listing: &mut ListingBuilder, item| {
                let hidden = match &item {
                    Ok(item) => match version::entry(item, now) {
                        Ok(entry) => return listing.extend(entry),
                        Err(why) => (why, String::from_utf8_lossy(&item.name)),
                    },
                    // A piece of a name with a line break in it.
                    Err(line) => (HiddenWhy::Special, String::from_utf8_lossy(line)),
                };
                listing.hide(hidden.0, &hidden.1);
            },
        );
        let reply = match listed.await? {
            Ok(listing) => {
                *into = listing;
                lease.put_back();
                return Ok(());
            }
            Err(reply) => reply,
        };
        let error = reply.error("the listing");
        let error = match reply.is_about_path() {
            false => error,
            true if dir.is_root() => {
                let what = "there is no directory at the URL that may be listed";
                Error::new(ErrorKind::Invalid, format!("{what}: {error}"))
            }
            true => match self.presence(&mut lease, dir).await? {
                Presence::Absent => Error::new(ErrorKind::NotFound, "no such directory"),
                Presence::There(What::File) => {
                    Error::new(ErrorKind::NotFound, "a file, not a directory")
                }
                _ => error,
            },
        };
        lease.put_back();
        Err(error)
    }

    async fn stat_one(&self, path: &RelPath) -> Result<Entry> {
        sayable(path)?;
        let missing = || Error::new(ErrorKind::NotFound, "a directory, not a file");
        let name = path.file_name().ok_or_else(missing)?;
        let mut lease = self.pool.get().await?;
        let described = self.describe(&mut lease, path).await;
        lease.put_back();
        let mut item = described?;
        item.name = name.as_str().into();
        match version::entry(&item, Timestamp::now()) {
            Ok(Some(entry)) if item.what != What::Dir => Ok(entry),
            Ok(_) => Err(missing()),
            Err(why) => Err(Error::new(ErrorKind::NotFound, why.to_string())),
        }
    }

    async fn read_range(&self, path: &RelPath, entry: &Entry, range: Range<u64>) -> Result<Body> {
        sayable(path)?;
        let mut lease = self.pool.get().await?;
        let described = self.describe(&mut lease, path).await;
        let now = match described {
            Ok(item) => version::file(entry.name.clone(), &item, Timestamp::now()),
            Err(error) => {
                lease.put_back();
                return Err(error);
            }
        };
        let checked = self.check(entry, &now, &range);
        let size = match checked {
            Ok(size) => size,
            Err(error) => {
                lease.put_back();
                return Err(error);
            }
        };
        let place = self.absolute(&lease.home, path);
        let mut range = range;
        if range.start > 0 && (!lease.restarts || self.no_restart.load(Ordering::Relaxed)) {
            range = 0..size;
        }
        let transfer = loop {
            let reply = match lease.retrieve(&place, range.start).await? {
                Ok(transfer) => break transfer,
                Err(reply) => reply,
            };
            if range.start > 0 && matches!(reply.code, 500..=504) {
                self.no_restart.store(true, Ordering::Relaxed);
                range = 0..size;
                continue;
            }
            let error = self.refused(&mut lease, path, reply, "RETR").await;
            lease.put_back();
            return Err(error);
        };
        // The one that is pinned stays, so that it is the same throughout.
        let validator = entry.validator.clone().or(now.validator);
        let reading = Reading {
            lease,
            transfer,
            path: place,
            entry: Entry {
                validator: validator.clone(),
                ..entry.clone()
            },
            left: range.end - range.start,
            to_end: range.end == size,
        };
        let body = Body {
            range,
            size,
            validator,
            stream: reading.into_stream(),
        };
        Ok(body.checked())
    }

    /// Returns the size, if the file is the one that is pinned and has the range.
    fn check(&self, entry: &Entry, now: &Entry, range: &Range<u64>) -> Result<u64> {
        if !version::agree(entry, now) {
            return Err(Error::changed("the file has changed on the server"));
        }
        let size = now.size.or(entry.size);
        let size = size.ok_or_else(|| Error::lied("the server tells no size of the file"))?;
        if range.end > size || range.start >= range.end {
            return Err(Error::changed(format!("the file has {size} bytes only")));
        }
        Ok(size)
    }
}

/// Refuses a path that no command can hold: nothing that the server has is called that, for us.
fn sayable(path: &RelPath) -> Result<()> {
    match path.as_str().contains(['\r', '\n']) {
        true => Err(Error::new(ErrorKind::NotFound, "a name with a line break")),
        false => Ok(()),
    }
}

/// Returns the identity and the URL. The user is part of the one, since many servers show each user
/// another tree; not of the other.
fn names(host: &str, port: u16, tls: FtpTls, user: &str, path: &str) -> (String, String) {
    let host = match host.contains(':') {
        true => format!("[{host}]"),
        false => host.to_owned(),
    };
    let scheme = match tls {
        FtpTls::None => "ftp",
        FtpTls::Explicit | FtpTls::Implicit => "ftps",
    };
    let shown = match port == tls.port() {
        true => host.clone(),
        false => format!("{host}:{port}"),
    };
    let absolute = match path.strip_prefix('/') {
        Some(rest) => format!("%2F{}", utf8_percent_encode(rest, SEGMENT)),
        None => utf8_percent_encode(path, SEGMENT).to_string(),
    };
    let who = match user {
        ANONYMOUS => String::new(),
        user => format!("{}@", utf8_percent_encode(user, SEGMENT)),
    };
    (
        format!("ftp://{who}{host}:{port}/{absolute}"),
        format!("{scheme}://{shown}/{absolute}"),
    )
}

#[async_trait]
impl Source for FtpSource {
    fn identity(&self) -> &str {
        &self.identity
    }

    fn url(&self, path: &RelPath) -> String {
        if path.is_root() {
            return self.url.clone();
        }
        let url = self.url.trim_end_matches('/');
        format!("{url}/{}", utf8_percent_encode(path.as_str(), SEGMENT))
    }

    async fn list(&self, dir: &RelPath) -> Result<Listing> {
        let mut listing = ListingBuilder::default();
        self.list_into(dir, &mut listing).await?;
        Ok(listing.finish())
    }

    async fn list_into(&self, dir: &RelPath, into: &mut ListingBuilder) -> Result<()> {
        let conceal = |error| self.pool.server.confidences.conceal(error);
        self.list_all(dir, into).await.map_err(conceal)
    }

    async fn stat(&self, path: &RelPath) -> Result<Entry> {
        let conceal = |error| self.pool.server.confidences.conceal(error);
        self.stat_one(path).await.map_err(conceal)
    }

    async fn read(&self, path: &RelPath, entry: &Entry, range: Range<u64>) -> Result<Body> {
        let conceal = |error| self.pool.server.confidences.conceal(error);
        self.read_range(path, entry, range).await.map_err(conceal)
    }

    fn same_version(&self, before: &Entry, now: &Entry) -> bool {
        version::agree(before, now)
    }
}

#[cfg(test)]
mod tests;
