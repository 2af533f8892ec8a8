//! The one seam to remote places: a small trait, and a file for each kind that implements it.
//!
//! What every source needs alike (deadlines, retries, concurrency and bandwidth limits, a circuit
//! breaker) is a decorator around the trait (`guard`), never a part of a kind.

use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use futures::stream::BoxStream;

use crate::entry::Entry;
use crate::path::{BadName, RelPath};

#[cfg(feature = "azure")]
pub mod azure;
mod bucket;
pub(crate) mod confidence;
mod env;
mod error;
#[cfg(feature = "ftp")]
pub mod ftp;
#[cfg(feature = "failpoints")]
pub(crate) mod fuzzing;
#[cfg(feature = "gcs")]
pub mod gcs;
#[cfg(feature = "git")]
pub mod git;
pub mod guard;
pub mod http;
mod listing;
pub mod local;
pub mod memory;
pub(crate) mod progress;
pub mod s3;
mod secret;
#[cfg(feature = "sftp")]
pub mod sftp;
#[cfg(feature = "ssh")]
pub mod ssh;
pub mod sweep;
mod transport;
pub(crate) mod wire;

pub use env::Env;
pub use error::{Error, ErrorKind, Result};
pub use listing::{ListingBuilder, PackedListing};
pub use secret::Secret;
pub use sweep::Recursive;
pub use transport::{ClientCertificate, ProxySettings, TlsSettings};
pub use wire::clock as server_clock;

/// One remote place: a bucket prefix, an HTTP tree, a local directory.
///
/// Implementations do one attempt of one operation and translate what came back; they neither
/// retry nor wait longer than their connection's own limits.
#[async_trait]
pub trait Source: Send + Sync + 'static {
    /// Returns what names this place for good, without credentials: part of the cache's keys and
    /// of inode numbers, so two spellings of one place should agree and two places never may.
    fn identity(&self) -> &str;

    /// Returns the URL of `path` that a user would recognise, without credentials.
    fn url(&self, path: &RelPath) -> String;

    /// Lists one directory. [`ErrorKind::NotFound`] only if the source clearly says that it is not
    /// there; an object store's empty root is an empty listing.
    async fn list(&self, dir: &RelPath) -> Result<Listing>;

    /// As [`Source::list`], but hands the entries on as they come: for sources whose directories have
    /// no bound, so that one need not be in memory as a whole. What `into` held before is kept only
    /// by those that fail.
    async fn list_into(&self, dir: &RelPath, into: &mut ListingBuilder) -> Result<()> {
        into.take_all(self.list(dir).await?);
        Ok(())
    }

    /// Returns what is at `path` now, with its size and validator, for a file or symbolic link.
    async fn stat(&self, path: &RelPath) -> Result<Entry>;

    /// Starts reading `range` (never empty, inside the object) of the object that `entry`
    /// describes, pinned to its validator where that is known: other bytes than that version's
    /// are [`ErrorKind::Changed`].
    async fn read(&self, path: &RelPath, entry: &Entry, range: Range<u64>) -> Result<Body>;

    /// Returns whether two descriptions of one path, at two times or from two requests (a listing
    /// and `stat`), are of the same bytes as far as both can tell. Where they are, `before`'s
    /// version stays, so that the inode does.
    ///
    /// Equal versions say so; a source whose listing knows less than its `stat` (minutes instead
    /// of seconds, no ETag) compares what both know.
    fn same_version(&self, before: &Entry, now: &Entry) -> bool {
        let validators_differ = matches!(
            (&before.validator, &now.validator),
            (Some(before), Some(now)) if before != now
        );
        before.version == now.version && !validators_differ
    }

    /// Returns when the digests that entries promise are verified.
    fn verify(&self) -> Verify {
        Verify::Open
    }

    /// Returns the ability to list many directories with one request.
    fn recursive(&self) -> Option<&dyn Recursive> {
        None
    }

    /// Returns the ability to change as one.
    fn whole(&self) -> Option<&dyn Whole> {
        None
    }

    /// Returns the ability to be read in place, without a cache.
    fn in_place(&self) -> Option<&dyn InPlace> {
        None
    }

    /// Returns for how long nothing will be asked of it, as it did not answer lately; nothing where
    /// the next reader's request is sent. Only what stands around a source knows.
    fn pause(&self) -> Option<Duration> {
        None
    }
}

/// When a file is compared with the digest that its source promises.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Verify {
    /// As a whole, before its first byte is served: nobody ever reads a wrong one.
    #[default]
    Open,
    /// Once all of it is here: bytes are served before, and after a mismatch none is.
    Lazy,
}

/// A source whose tree changes as one, as a Git branch does from commit to commit: it lists and
/// describes what one generation holds until it is told to look for another.
#[async_trait]
pub trait Whole: Send + Sync {
    /// Returns the generation that is listed and described now; nothing before the first is known.
    /// Does no IO.
    fn current(&self) -> Option<Arc<str>>;

    /// Asks for the newest generation, brings what listing it takes, and then moves to it at once;
    /// returns it. After a failure the generation is the one before.
    async fn advance(&self) -> Result<Arc<str>>;
}

/// A source whose files are on this machine: they are read in place, never cached.
pub trait InPlace: Send + Sync {
    /// Opens the file that `entry` describes, without following a symbolic link out of the source.
    /// [`ErrorKind::Changed`] if it is no longer that version. Blocks on the local disk only.
    fn open(&self, path: &RelPath, entry: &Entry) -> Result<std::fs::File>;

    /// Checks that `file` still is the version that `entry` describes; [`ErrorKind::Changed`] if
    /// not. Called around each read.
    fn check(&self, path: &RelPath, file: &std::fs::File, entry: &Entry) -> Result<()>;
}

/// A directory as its source lists it.
#[derive(Debug, Clone, Default)]
pub struct Listing {
    /// The entries, sorted by name, each name once (a directory wins over a file of its name).
    pub entries: Vec<Entry>,
    /// How many names could not be shown, and why; an example of each for the log.
    pub hidden: Vec<Hidden>,
}

/// Names of a listing that cannot be shown.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Hidden {
    /// Why.
    pub why: HiddenWhy,
    /// How many.
    pub count: u64,
    /// The first of them, escaped.
    pub example: String,
}

/// Why a name is hidden.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, thiserror::Error)]
pub enum HiddenWhy {
    /// The name cannot be a file name.
    #[error(transparent)]
    Name(#[from] BadName),
    /// A file has the name of a directory.
    #[error("a file with the name of a directory")]
    Shadowed,
    /// A device, socket or pipe.
    #[error("neither a file, a directory nor a symbolic link")]
    Special,
    /// A symbolic link that leads out of the volume.
    #[error("a symbolic link that leads out of the volume")]
    Escapes,
}

/// The bytes of a ranged read, as they arrive.
pub struct Body {
    /// What the bytes are of the object: the range asked, or from 0 to its end where the server
    /// knows no ranges.
    pub range: Range<u64>,
    /// The object's whole size, as the reply says.
    pub size: u64,
    /// The reply's validator, to be kept for the next request; equal to the one asked for, if any.
    pub validator: Option<Arc<str>>,
    /// The bytes. [`Body::checked`] makes sure that they are as many as `range` says.
    pub stream: BoxStream<'static, Result<Bytes>>,
}

impl Body {
    /// Returns the body with its length checked: a short or a long one ends in an error.
    pub fn checked(self) -> Body {
        use futures::StreamExt;
        let want = self.range.end - self.range.start;
        let stream = self.stream;
        let stream = futures::stream::unfold(
            (stream, 0u64, false),
            move |(mut stream, got, over)| async move {
                if over {
                    return None;
                }
                match stream.next().await {
                    Some(Ok(bytes)) => {
                        let got = got + bytes.len() as u64;
                        if got > want {
                            let error = Error::lied(format!(
                                "the body is longer than the {want} bytes announced"
                            ));
                            Some((Err(error), (stream, got, true)))
                        } else {
                            Some((Ok(bytes), (stream, got, false)))
                        }
                    }
                    Some(Err(error)) => Some((Err(error), (stream, got, true))),
                    None if got < want => {
                        let error = Error::new(
                            ErrorKind::Interrupted,
                            format!("the body ended after {got} of {want} bytes"),
                        );
                        Some((Err(error), (stream, got, true)))
                    }
                    None => None,
                }
            },
        );
        Body {
            stream: stream.boxed(),
            ..self
        }
    }
}

impl std::fmt::Debug for Body {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Body")
            .field("range", &self.range)
            .field("size", &self.size)
            .field("validator", &self.validator)
            .finish_non_exhaustive()
    }
}
