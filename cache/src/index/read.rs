//! Questions to the index.

use std::fs::Metadata;
use std::os::unix::fs::MetadataExt;

use blake3::Hash;
use rusqlite::{OptionalExtension, Row, params};

use super::{Index, schema};
use crate::dir::Kind;
use crate::key::ObjectKey;

/// What identifies a sealed file, with its size and its path, as it was when it was sealed. Times
/// are nanoseconds since 1970.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Seal {
    pub(crate) dev: u64,
    pub(crate) ino: u64,
    pub(crate) mtime: i64,
    pub(crate) ctime: i64,
}

impl Seal {
    pub(crate) fn of(metadata: &Metadata) -> Self {
        let nanos = |seconds: i64, nanos: i64| seconds.saturating_mul(1_000_000_000) + nanos;
        Self {
            dev: metadata.dev(),
            ino: metadata.ino(),
            mtime: nanos(metadata.mtime(), metadata.mtime_nsec()),
            ctime: nanos(metadata.ctime(), metadata.ctime_nsec()),
        }
    }
}

/// Where a complete content is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Place {
    /// In a file of its own; the seal, if it was recorded.
    File(Option<Seal>),
    /// In a pack.
    Pack { id: u64, offset: u64 },
}

/// A complete content.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct BlobRow {
    pub(crate) hash: Hash,
    pub(crate) size: u64,
    pub(crate) place: Place,
    /// What its own file takes on disk, with its sidecar; 0 in a pack.
    pub(crate) bytes: u64,
}

/// An object, and its content where it is complete.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct ObjectRow {
    pub(crate) size: u64,
    pub(crate) last_use: u64,
    /// What its partial takes on disk; 0 when it has none.
    pub(crate) partial_bytes: u64,
    pub(crate) blob: Option<BlobRow>,
}

/// Something that could be evicted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Candidate {
    pub(crate) last_use: u64,
    pub(crate) what: What,
    pub(crate) bytes: u64,
}

/// What names a [`Candidate`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum What {
    Partial(ObjectKey),
    Blob(Hash),
    Pack(u64),
}

/// How much there is.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Counts {
    pub(crate) objects: u64,
    pub(crate) blobs: u64,
    pub(crate) packed: u64,
    pub(crate) pinned: u64,
    pub(crate) pinned_bytes: u64,
}

/// A pin, as it is listed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pin {
    /// The object.
    pub key: ObjectKey,
    /// Its size in bytes.
    pub size: u64,
    /// What whoever pinned it called it.
    pub note: String,
}

const BLOB_COLUMNS: &str =
    "b.hash, b.size, b.pack, b.offset, b.dev, b.ino, b.mtime, b.ctime, b.bytes";

fn blob_row(row: &Row<'_>, at: usize) -> rusqlite::Result<Option<BlobRow>> {
    let Some(hash) = row.get::<_, Option<[u8; 32]>>(at)? else {
        return Ok(None);
    };
    let place = match row.get::<_, Option<i64>>(at + 2)? {
        Some(id) => Place::Pack {
            id: id.cast_unsigned(),
            offset: row.get(at + 3)?,
        },
        None => Place::File(match row.get::<_, Option<i64>>(at + 4)? {
            Some(dev) => Some(Seal {
                dev: dev.cast_unsigned(),
                ino: row.get::<_, i64>(at + 5)?.cast_unsigned(),
                mtime: row.get(at + 6)?,
                ctime: row.get(at + 7)?,
            }),
            None => None,
        }),
    };
    Ok(Some(BlobRow {
        hash: Hash::from_bytes(hash),
        size: row.get(at + 1)?,
        place,
        bytes: row.get(at + 8)?,
    }))
}

fn key_at(row: &Row<'_>, at: usize) -> rusqlite::Result<ObjectKey> {
    Ok(ObjectKey::from_bytes(row.get(at)?))
}

impl Index {
    pub(crate) fn object(&self, key: &ObjectKey) -> Option<ObjectRow> {
        self.read(|db| {
            db.prepare_cached(&format!(
                "SELECT o.size, o.last_use, o.bytes, {BLOB_COLUMNS} FROM objects o
                 LEFT JOIN blobs b ON b.hash = o.hash WHERE o.key = ?1"
            ))?
            .query_row(params![key.as_bytes()], |row| {
                Ok(ObjectRow {
                    size: row.get(0)?,
                    last_use: row.get(1)?,
                    partial_bytes: row.get(2)?,
                    blob: blob_row(row, 3)?,
                })
            })
            .optional()
        })?
    }

    pub(crate) fn blob(&self, hash: &Hash) -> Option<BlobRow> {
        self.read(|db| {
            db.prepare_cached(&format!(
                "SELECT {BLOB_COLUMNS} FROM blobs b WHERE b.hash = ?1"
            ))?
            .query_row(params![hash.as_bytes()], |row| blob_row(row, 0))
            .optional()
        })
        .flatten()
        .flatten()
    }

    pub(crate) fn used(&self) -> Option<u64> {
        self.read(schema::used)
    }

    /// Returns whether the sum of all is wrong. Reads the whole index: a second for millions.
    pub(crate) fn is_miscounted(&self) -> bool {
        self.read(schema::miscounted).flatten().is_some()
    }

    pub(crate) fn counts(&self) -> Option<Counts> {
        self.read(|db| {
            db.query_row(
                "SELECT (SELECT count(*) FROM objects),
                        (SELECT count(*) FROM blobs WHERE pack IS NULL),
                        (SELECT count(*) FROM blobs WHERE pack IS NOT NULL),
                        (SELECT count(*) FROM pins),
                        (SELECT coalesce(sum(n.size), 0) FROM pins p
                         JOIN pin_notes n ON n.key = p.key)",
                [],
                |row| {
                    Ok(Counts {
                        objects: row.get(0)?,
                        blobs: row.get(1)?,
                        packed: row.get(2)?,
                        pinned: row.get(3)?,
                        pinned_bytes: row.get(4)?,
                    })
                },
            )
        })
    }

    /// Returns whether an object is pinned; nothing if that cannot be told.
    pub(crate) fn is_pinned(&self, key: &ObjectKey) -> Option<bool> {
        self.read(|db| {
            db.prepare_cached("SELECT 1 FROM pins WHERE key = ?1")?
                .exists(params![key.as_bytes()])
        })
    }

    /// Returns a page of the pins, by note and key, after those.
    pub(crate) fn pins(&self, after: (&str, &[u8]), limit: u64) -> Option<Vec<Pin>> {
        self.read(|db| {
            db.prepare_cached(
                "SELECT n.key, n.size, n.note FROM pin_notes n
                 WHERE (n.note, n.key) > (?1, ?2)
                   AND EXISTS (SELECT 1 FROM pins p WHERE p.key = n.key)
                 ORDER BY n.note, n.key LIMIT ?3",
            )?
            .query_map(params![after.0, after.1, limit], |row| {
                Ok(Pin {
                    key: key_at(row, 0)?,
                    size: row.get(1)?,
                    note: row.get(2)?,
                })
            })?
            .collect()
        })
    }

    /// Returns the least recently used files of a kind that are not pinned, oldest first, after
    /// leaving out the first `skip`.
    pub(crate) fn oldest(&self, kind: Kind, skip: u64, limit: u64) -> Option<Vec<Candidate>> {
        let sql = match kind {
            Kind::Partial => {
                "SELECT key, bytes, last_use FROM objects o WHERE bytes > 0
                   AND NOT EXISTS (SELECT 1 FROM pins WHERE pins.key = o.key)
                 ORDER BY last_use LIMIT ?2 OFFSET ?1"
            }
            Kind::Blob => {
                "SELECT hash, bytes, last_use FROM blobs b WHERE bytes > 0
                   AND NOT EXISTS (SELECT 1 FROM pins JOIN objects o ON o.key = pins.key
                                   WHERE o.hash = b.hash)
                 ORDER BY last_use LIMIT ?2 OFFSET ?1"
            }
            Kind::Pack => {
                "SELECT id, bytes, last_use FROM packs p
                 WHERE NOT EXISTS (SELECT 1 FROM pins JOIN objects o ON o.key = pins.key
                                   JOIN blobs b ON b.hash = o.hash WHERE b.pack = p.id)
                 ORDER BY last_use LIMIT ?2 OFFSET ?1"
            }
        };
        self.read(|db| {
            db.prepare_cached(sql)?
                .query_map(params![skip, limit], |row| {
                    Ok(Candidate {
                        what: match kind {
                            Kind::Partial => What::Partial(key_at(row, 0)?),
                            Kind::Blob => What::Blob(Hash::from_bytes(row.get(0)?)),
                            Kind::Pack => What::Pack(row.get::<_, i64>(0)?.cast_unsigned()),
                        },
                        bytes: row.get(1)?,
                        last_use: row.get(2)?,
                    })
                })?
                .collect()
        })
    }

    /// Returns a page of the objects that have a partial, by key, after `after`.
    pub(crate) fn partials(&self, after: &[u8], limit: u64) -> Option<Vec<(ObjectKey, u64)>> {
        self.read(|db| {
            db.prepare_cached(
                "SELECT key, size FROM objects WHERE key > ?1 AND bytes > 0 ORDER BY key LIMIT ?2",
            )?
            .query_map(params![after, limit], |row| {
                Ok((key_at(row, 0)?, row.get(1)?))
            })?
            .collect()
        })
    }

    /// Returns a page of the complete contents, by hash, after `after`.
    pub(crate) fn blobs(&self, after: &[u8], limit: u64) -> Option<Vec<BlobRow>> {
        self.read(|db| {
            db.prepare_cached(&format!(
                "SELECT {BLOB_COLUMNS} FROM blobs b WHERE b.hash > ?1 ORDER BY b.hash LIMIT ?2"
            ))?
            .query_map(params![after, limit], |row| blob_row(row, 0))?
            .filter_map(Result::transpose)
            .collect()
        })
    }

    /// Returns the packs and their recorded sizes: at most one for each 64 MiB of the cache.
    pub(crate) fn packs(&self) -> Option<Vec<(u64, u64)>> {
        self.read(|db| {
            db.prepare_cached("SELECT id, bytes FROM packs ORDER BY last_use DESC")?
                .query_map([], |row| {
                    Ok((row.get::<_, i64>(0)?.cast_unsigned(), row.get(1)?))
                })?
                .collect()
        })
    }

    /// Returns the objects that have a content.
    pub(crate) fn objects_of_blob(&self, hash: &Hash) -> Option<Vec<ObjectKey>> {
        self.read(|db| {
            db.prepare_cached("SELECT key FROM objects WHERE hash = ?1")?
                .query_map(params![hash.as_bytes()], |row| key_at(row, 0))?
                .collect()
        })
    }

    /// Returns the objects whose content is in a pack.
    pub(crate) fn objects_of_pack(&self, id: u64) -> Option<Vec<ObjectKey>> {
        self.read(|db| {
            db.prepare_cached(
                "SELECT o.key FROM blobs b JOIN objects o ON o.hash = b.hash WHERE b.pack = ?1",
            )?
            .query_map(params![id.cast_signed()], |row| key_at(row, 0))?
            .collect()
        })
    }
}
