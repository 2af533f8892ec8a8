//! Every change there is to the index, and its SQL.

use blake3::Hash;
use rusqlite::{Connection, params};

use super::read::Seal;
use super::schema;
use crate::dir::Dir;
use crate::key::ObjectKey;

/// What a new partial is taken to be until it was measured, in bytes: a block of the disk. Not 0,
/// as that would say that it has no file.
const NEW_PARTIAL: u64 = 4096;

/// Where a small content was put.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Placed {
    pub(crate) pack: u64,
    pub(crate) offset: u64,
    /// What the pack takes on disk with it.
    pub(crate) pack_bytes: u64,
}

/// One change. `now` is the time of the batch it is in.
pub(crate) enum Change {
    /// The object is to have a partial, and no blob.
    AddPartial { key: ObjectKey, size: u64 },
    /// The object has a partial, which takes `bytes` by now; `covered` of them were unreported.
    Measured {
        key: ObjectKey,
        size: u64,
        bytes: u64,
        covered: u64,
    },
    /// The object was used.
    Used { key: ObjectKey },
    /// The partial of the object, which is complete, is about to become the blob `hash`.
    WillSeal {
        key: ObjectKey,
        hash: Hash,
        size: u64,
    },
    /// The blob is there; the object has no partial any more. Without a seal, it is the blob of
    /// somebody else, which is left as it is.
    Sealed {
        key: ObjectKey,
        hash: Hash,
        size: u64,
        seal: Option<Seal>,
        bytes: u64,
        covered: u64,
    },
    /// A small object is in a pack (None: its content was there already, wherever).
    AddSmall {
        key: ObjectKey,
        hash: Hash,
        size: u64,
        place: Option<Placed>,
        covered: u64,
    },
    /// There is to be a pack.
    AddPack { id: u64 },
    /// The pack takes `bytes` after all.
    PackMeasured { id: u64, bytes: u64 },
    /// The blob is there, made for this object, and nobody knew.
    AdoptBlob {
        key: ObjectKey,
        hash: Hash,
        size: u64,
        bytes: u64,
    },
    /// The partial's file takes `bytes` after all; not a use of it.
    PartialMeasured { key: ObjectKey, bytes: u64 },
    /// The object's partial is gone.
    DropPartial { key: ObjectKey },
    /// The blob is gone, whether it had a file of its own or was in a pack.
    DropBlob { hash: Hash },
    /// The pack is gone, and all in it.
    DropPack { id: u64 },
    /// The blob's file takes `bytes` after all.
    BlobMeasured { hash: Hash, bytes: u64 },
    /// The object is gone for whoever names it by this key; its content stays where others have
    /// it.
    DropObject { key: ObjectKey, hash: Hash },
    /// The object is to be spared, instead of whatever was spared under the same note.
    Pin {
        key: ObjectKey,
        size: u64,
        note: String,
    },
    /// The object is no longer to be spared, nor what was spared under the note.
    Unpin {
        key: Option<ObjectKey>,
        note: String,
    },
    /// The sum of all is to be right.
    Recount,
    /// Nothing, but it was committed when it is answered.
    Flush,
    /// The last one.
    Stop,
}

impl Change {
    /// Returns the bytes that are no longer unreported once this is committed.
    pub(crate) fn covered(&self) -> u64 {
        match self {
            Change::Measured { covered, .. }
            | Change::AddSmall { covered, .. }
            | Change::Sealed { covered, .. } => *covered,
            _ => 0,
        }
    }

    /// Makes the change. That something is gone is believed only if it still is: it may have been
    /// made anew since, by somebody whose row came before this.
    pub(super) fn apply(&self, db: &Connection, dir: &Dir, now: u64) -> rusqlite::Result<()> {
        let run = |sql: &str, params: &[&dyn rusqlite::ToSql]| {
            db.prepare_cached(sql)?.execute(params).map(drop)
        };
        match self {
            Change::AddPartial { key, size } => run(
                "INSERT INTO objects(key, size, hash, bytes, last_use) VALUES(?1, ?2, NULL, ?3, ?4)
                 ON CONFLICT(key) DO UPDATE SET
                   size = excluded.size, hash = NULL, bytes = max(bytes, excluded.bytes),
                   last_use = max(last_use, excluded.last_use)",
                params![key.as_bytes(), size, NEW_PARTIAL, now],
            ),
            // A row that says that there is no partial any more is newer than this.
            Change::Measured {
                key, size, bytes, ..
            } => run(
                "INSERT INTO objects(key, size, hash, bytes, last_use)
                 VALUES(?1, ?2, NULL, max(?3, 1), ?4)
                 ON CONFLICT(key) DO UPDATE SET
                   bytes = excluded.bytes, last_use = max(last_use, excluded.last_use)
                 WHERE bytes > 0",
                params![key.as_bytes(), size, bytes, now],
            ),
            Change::Used { key } => {
                let key = key.as_bytes();
                run(
                    "UPDATE objects SET last_use = max(last_use, ?2) WHERE key = ?1",
                    params![key, now],
                )?;
                run(
                    "UPDATE blobs SET last_use = max(last_use, ?2)
                     WHERE hash = (SELECT hash FROM objects WHERE key = ?1)",
                    params![key, now],
                )?;
                run(
                    "UPDATE packs SET last_use = max(last_use, ?2) WHERE id =
                       (SELECT pack FROM blobs WHERE hash =
                         (SELECT hash FROM objects WHERE key = ?1))",
                    params![key, now],
                )
            }
            Change::WillSeal { key, hash, size } => {
                run(
                    "INSERT INTO objects(key, size, hash, bytes, last_use) VALUES(?1, ?2, ?3, ?4, ?5)
                     ON CONFLICT(key) DO UPDATE SET hash = excluded.hash",
                    params![key.as_bytes(), size, hash.as_bytes(), NEW_PARTIAL, now],
                )?;
                run(
                    "INSERT INTO blobs(hash, size, bytes, last_use) VALUES(?1, ?2, 0, ?3)
                     ON CONFLICT(hash) DO NOTHING",
                    params![hash.as_bytes(), size, now],
                )
            }
            Change::Sealed {
                key,
                hash,
                size,
                seal,
                bytes,
                ..
            } => {
                run(
                    "INSERT INTO objects(key, size, hash, bytes, last_use) VALUES(?1, ?2, ?3, 0, ?4)
                     ON CONFLICT(key) DO UPDATE SET hash = excluded.hash, bytes = 0",
                    params![key.as_bytes(), size, hash.as_bytes(), now],
                )?;
                match seal {
                    Some(seal) => run(
                        "INSERT INTO blobs(hash, size, bytes, last_use, dev, ino, mtime, ctime)
                         VALUES(?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8)
                         ON CONFLICT(hash) DO UPDATE SET
                           bytes = excluded.bytes, pack = NULL, offset = NULL,
                           dev = excluded.dev, ino = excluded.ino,
                           mtime = excluded.mtime, ctime = excluded.ctime",
                        params![
                            hash.as_bytes(),
                            size,
                            bytes,
                            now,
                            seal.dev.cast_signed(),
                            seal.ino.cast_signed(),
                            seal.mtime,
                            seal.ctime
                        ],
                    ),
                    None => run(
                        "INSERT INTO blobs(hash, size, bytes, last_use) VALUES(?1, ?2, ?3, ?4)
                         ON CONFLICT(hash) DO UPDATE SET
                           bytes = max(bytes, excluded.bytes), last_use = excluded.last_use",
                        params![hash.as_bytes(), size, bytes, now],
                    ),
                }
            }
            Change::AddSmall {
                key,
                hash,
                size,
                place,
                ..
            } => {
                if let Some(placed) = place {
                    let pack = placed.pack.cast_signed();
                    run(
                        "INSERT INTO blobs(hash, size, pack, offset, bytes, last_use)
                         VALUES(?1, ?2, ?3, ?4, 0, ?5)
                         ON CONFLICT(hash) DO UPDATE SET
                           pack = excluded.pack, offset = excluded.offset",
                        params![hash.as_bytes(), size, pack, placed.offset, now],
                    )?;
                    run(
                        "INSERT INTO packs(id, bytes, last_use) VALUES(?1, ?2, ?3)
                         ON CONFLICT(id) DO UPDATE SET
                           bytes = max(bytes, excluded.bytes),
                           last_use = max(last_use, excluded.last_use)",
                        params![pack, placed.pack_bytes, now],
                    )?;
                }
                run(
                    "INSERT INTO objects(key, size, hash, bytes, last_use)
                     VALUES(?1, ?2, ?3, 0, ?4)
                     ON CONFLICT(key) DO UPDATE SET
                       size = excluded.size, hash = excluded.hash, last_use = excluded.last_use",
                    params![key.as_bytes(), size, hash.as_bytes(), now],
                )
            }
            Change::AddPack { id } => run(
                "INSERT INTO packs(id, bytes, last_use) VALUES(?1, ?2, ?3)
                 ON CONFLICT(id) DO NOTHING",
                params![id.cast_signed(), NEW_PARTIAL, now],
            ),
            Change::PackMeasured { id, bytes } => run(
                "UPDATE packs SET bytes = ?2 WHERE id = ?1 AND bytes <> ?2",
                params![id.cast_signed(), bytes],
            ),
            Change::AdoptBlob { hash, .. } if !dir.blob(hash).exists() => Ok(()),
            Change::AdoptBlob {
                key,
                hash,
                size,
                bytes,
            } => {
                run(
                    "INSERT INTO blobs(hash, size, bytes, last_use) VALUES(?1, ?2, ?3, ?4)
                     ON CONFLICT(hash) DO NOTHING",
                    params![hash.as_bytes(), size, bytes, now],
                )?;
                // An object that is just being brought anew goes on with that.
                run(
                    "INSERT INTO objects(key, size, hash, bytes, last_use)
                     VALUES(?1, ?2, ?3, 0, ?4) ON CONFLICT(key) DO NOTHING",
                    params![key.as_bytes(), size, hash.as_bytes(), now],
                )
            }
            Change::PartialMeasured { key, bytes } => run(
                "UPDATE objects SET bytes = max(?2, 1) WHERE key = ?1 AND bytes > 0",
                params![key.as_bytes(), bytes],
            ),
            Change::DropPartial { key } if dir.partial(key).exists() => Ok(()),
            Change::DropPartial { key } => {
                let key = key.as_bytes();
                run("UPDATE objects SET bytes = 0 WHERE key = ?1", params![key])?;
                run(
                    "DELETE FROM objects WHERE key = ?1 AND hash IS NULL",
                    params![key],
                )
            }
            Change::DropBlob { hash } if dir.blob(hash).exists() => Ok(()),
            Change::DropBlob { hash } => {
                let hash = hash.as_bytes();
                run(
                    "DELETE FROM objects WHERE hash = ?1 AND bytes = 0",
                    params![hash],
                )?;
                run(
                    "UPDATE objects SET hash = NULL WHERE hash = ?1",
                    params![hash],
                )?;
                run("DELETE FROM blobs WHERE hash = ?1", params![hash])
            }
            Change::DropPack { id } if dir.pack(*id).exists() => Ok(()),
            Change::DropPack { id } => {
                let id = id.cast_signed();
                run(
                    "DELETE FROM objects WHERE bytes = 0
                       AND hash IN (SELECT hash FROM blobs WHERE pack = ?1)",
                    params![id],
                )?;
                run("DELETE FROM blobs WHERE pack = ?1", params![id])?;
                run("DELETE FROM packs WHERE id = ?1", params![id])
            }
            Change::BlobMeasured { hash, bytes } => run(
                "UPDATE blobs SET bytes = ?2 WHERE hash = ?1 AND pack IS NULL AND bytes <> ?2",
                params![hash.as_bytes(), bytes],
            ),
            Change::DropObject { key, hash } => {
                run(
                    "DELETE FROM objects WHERE key = ?1 AND bytes = 0 AND hash = ?2",
                    params![key.as_bytes(), hash.as_bytes()],
                )?;
                // What is in a pack has no file that says that it is there.
                run(
                    "DELETE FROM blobs WHERE hash = ?1 AND pack IS NOT NULL
                       AND NOT EXISTS (SELECT 1 FROM objects o WHERE o.hash = ?1)",
                    params![hash.as_bytes()],
                )
            }
            Change::Pin { key, size, note } => {
                let key = key.as_bytes();
                run(
                    "DELETE FROM pins WHERE key <> ?1
                       AND key IN (SELECT key FROM pin_notes WHERE note = ?2)",
                    params![key, note],
                )?;
                run(
                    "DELETE FROM pin_notes WHERE note = ?2 AND key <> ?1",
                    params![key, note],
                )?;
                run(
                    "INSERT INTO pins(key) VALUES(?1) ON CONFLICT(key) DO NOTHING",
                    params![key],
                )?;
                run(
                    "INSERT INTO pin_notes(key, size, note) VALUES(?1, ?2, ?3)
                     ON CONFLICT(key) DO UPDATE SET size = excluded.size, note = excluded.note",
                    params![key, size, note],
                )
            }
            Change::Unpin { key, note } => {
                let key = key.as_ref().map(|key| key.as_bytes());
                run(
                    "DELETE FROM pins WHERE key = ?1
                       OR key IN (SELECT key FROM pin_notes WHERE note = ?2)",
                    params![key, note],
                )?;
                run(
                    "DELETE FROM pin_notes WHERE key = ?1 OR note = ?2",
                    params![key, note],
                )
            }
            Change::Recount => match schema::miscounted(db)? {
                Some(used) => run(
                    "UPDATE meta SET value = ?1 WHERE name = 'used'",
                    params![used],
                ),
                None => Ok(()),
            },
            Change::Flush | Change::Stop => Ok(()),
        }
    }
}
