//! What a directory lists: entries, their kinds and their versions.

use std::sync::Arc;

use crate::path::Name;

/// Nanoseconds since the Unix epoch.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Timestamp(pub i64);

impl Timestamp {
    /// Returns a time of whole seconds since the epoch, saturating at the type's bounds.
    pub fn from_secs(secs: i64) -> Timestamp {
        Timestamp(secs.saturating_mul(1_000_000_000))
    }

    /// Returns the present time.
    pub fn now() -> Timestamp {
        std::time::SystemTime::now().into()
    }

    /// Returns the time from `earlier` to this time; nothing if that lies in the future, as after
    /// a clock went back.
    pub fn since(self, earlier: Timestamp) -> Option<std::time::Duration> {
        let nanos = u64::try_from(self.0.checked_sub(earlier.0)?).ok()?;
        Some(std::time::Duration::from_nanos(nanos))
    }
}

impl From<std::time::SystemTime> for Timestamp {
    fn from(time: std::time::SystemTime) -> Timestamp {
        let nanos = |d: std::time::Duration| i64::try_from(d.as_nanos()).unwrap_or(i64::MAX);
        Timestamp(match time.duration_since(std::time::UNIX_EPOCH) {
            Ok(after) => nanos(after),
            Err(before) => -nanos(before.duration()),
        })
    }
}

impl From<Timestamp> for std::time::SystemTime {
    fn from(time: Timestamp) -> std::time::SystemTime {
        let span = std::time::Duration::from_nanos(time.0.unsigned_abs());
        if time.0 < 0 {
            std::time::UNIX_EPOCH - span
        } else {
            std::time::UNIX_EPOCH + span
        }
    }
}

/// What kind of thing an entry is. Devices, sockets and pipes are never shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Kind {
    /// A directory, or an object store's common prefix.
    Dir,
    /// A regular file.
    File,
    /// A symbolic link; [`Entry::target`] says where to.
    Symlink,
}

/// What identifies the bytes of an object.
///
/// A strong version changes whenever the bytes do (a strong ETag, a version id, a digest); a weak
/// one may not (size and time, `W/` ETags), so it is probed again at open.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Version {
    /// Whether equal versions prove equal bytes.
    pub strong: bool,
    /// An opaque text that the source understands; equal for equal versions.
    pub token: Arc<str>,
}

impl Version {
    /// Returns a version that proves its bytes.
    pub fn strong(token: impl Into<Arc<str>>) -> Version {
        Version {
            strong: true,
            token: token.into(),
        }
    }

    /// Returns a version that only suggests its bytes.
    pub fn weak(token: impl Into<Arc<str>>) -> Version {
        Version {
            strong: false,
            token: token.into(),
        }
    }
}

/// A digest of a whole object that its source promises.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Digest {
    /// SHA-256, as in `sha256sum`'s lists.
    Sha256([u8; 32]),
}

/// One entry of a directory of one source.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// The name inside its directory.
    pub name: Name,
    /// File, directory or symbolic link.
    pub kind: Kind,
    /// Bytes. Nothing where the listing does not say exactly (rounded index pages): ask `stat`.
    pub size: Option<u64>,
    /// The last change, where the source says.
    pub mtime: Option<Timestamp>,
    /// What the entry's inode and the cache's key are made of. For directories: empty and weak.
    pub version: Version,
    /// What each ranged reply is compared with (an ETag, a version id, a Last-Modified), once
    /// known. A listing of an object store knows it; an index page does not, and the first reply
    /// teaches it.
    pub validator: Option<Arc<str>>,
    /// Whether the source says that the file may be executed; nothing where it has no notion.
    pub executable: Option<bool>,
    /// Where a symbolic link points to, verbatim.
    pub target: Option<Arc<str>>,
    /// The digest that the source promises for the bytes.
    pub digest: Option<Digest>,
}

impl Entry {
    /// Returns a directory without a known time.
    pub fn dir(name: Name) -> Entry {
        Entry {
            name,
            kind: Kind::Dir,
            size: None,
            mtime: None,
            version: Version::weak(""),
            validator: None,
            executable: None,
            target: None,
            digest: None,
        }
    }

    /// Returns a file; set what else is known.
    pub fn file(name: Name, size: u64, mtime: Option<Timestamp>, version: Version) -> Entry {
        Entry {
            kind: Kind::File,
            size: Some(size),
            mtime,
            version,
            ..Entry::dir(name)
        }
    }

    /// Returns a symbolic link to `target`.
    pub fn symlink(name: Name, target: &str, mtime: Option<Timestamp>, version: Version) -> Entry {
        Entry {
            kind: Kind::Symlink,
            size: Some(target.len() as u64),
            mtime,
            version,
            target: Some(target.into()),
            ..Entry::dir(name)
        }
    }
}
