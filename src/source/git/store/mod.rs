//! What is known of repositories, on disk: one SQLite file, shared by all processes of a cache.
//!
//! Objects are named by what they hold, so whoever brings one brings it for all. Each is checked
//! against its id when it is read; one that does not fit is dropped, and asked for again. A commit is
//! noted for a source only once all of its trees and links are here, so a note is a promise.
//!
//! All of it blocks on the local disk. Where the file cannot be used, memory takes its place.

use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use gix_hash::ObjectId;
use gix_object::Kind;
use rusqlite::{Connection, OptionalExtension, params};

use super::super::{Error, ErrorKind, Result};
use super::pack;
use crate::entry::Timestamp;
use crate::path::PATH_MAX;

mod file;
#[cfg(test)]
mod tests;

/// How many commits of a source keep their trees: readers that were slow, and a branch that goes
/// back to where it was.
const COMMITS: i64 = 3;

/// How old an object must be to be removed, in seconds: a commit that is being brought is not
/// noted yet.
const GRACE: i64 = 24 * 3600;

/// How many bytes of blobs wait for their readers, unless set.
pub(super) const KEPT: u64 = 256 * 1024 * 1024;

/// The largest blob that is kept, in bytes. Larger ones are read by themselves.
pub(super) const LARGEST_KEPT: u64 = 16 * 1024 * 1024;

/// A handle on the store of a cache directory.
#[derive(Clone)]
pub(super) struct Store(Arc<Inner>);

struct Inner {
    dir: PathBuf,
    /// How many bytes of blobs are kept.
    room: u64,
    opened: OnceLock<std::result::Result<Mutex<Connection>, String>>,
}

/// Objects that were taken out of packs, to be written together.
#[derive(Default)]
pub(super) struct Batch {
    /// Commits, trees, and what links point to.
    pub(super) objects: Vec<(ObjectId, Kind, Vec<u8>)>,
    /// Sizes of blobs.
    pub(super) sizes: Vec<(ObjectId, u64)>,
    /// Blobs that somebody will read.
    pub(super) kept: Vec<(ObjectId, Vec<u8>)>,
    bytes: usize,
}

impl Batch {
    /// How many objects, and how many of their bytes, are written together.
    const MOST: (usize, usize) = (1000, 4 * 1024 * 1024);

    pub(super) fn object(&mut self, id: ObjectId, kind: Kind, bytes: Vec<u8>) {
        self.bytes += bytes.len();
        self.objects.push((id, kind, bytes));
    }

    pub(super) fn keep(&mut self, id: ObjectId, bytes: Vec<u8>) {
        self.bytes += bytes.len();
        self.kept.push((id, bytes));
    }

    /// Returns whether it should be written before more is added.
    pub(super) fn is_full(&self) -> bool {
        let (count, bytes) = Batch::MOST;
        self.objects.len() + self.sizes.len() >= count || self.bytes >= bytes
    }
}

impl Store {
    /// Returns the store in `dir`, which need not be there. Touches nothing yet.
    pub(super) fn new(dir: &Path, room: u64) -> Store {
        Store(Arc::new(Inner {
            dir: dir.into(),
            room,
            opened: OnceLock::new(),
        }))
    }

    /// Runs `work` on a thread that may block.
    pub(super) async fn run<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Store) -> Result<T> + Send + 'static,
    ) -> Result<T> {
        let store = self.clone();
        super::blocking(move || work(&store)).await
    }

    fn db(&self) -> Result<MutexGuard<'_, Connection>> {
        let inner = &self.0;
        let opened = inner.opened.get_or_init(|| {
            let made = std::fs::DirBuilder::new()
                .recursive(true)
                .mode(0o700)
                .create(&inner.dir);
            let opened = made
                .map_err(|e| e.to_string())
                .and_then(|()| file::open(&inner.dir).map_err(|e| e.to_string()));
            let connection = opened.or_else(|why| {
                let dir = inner.dir.display();
                tracing::warn!(%dir, why, "what is known of Git repositories is kept in memory only");
                file::in_memory().map_err(|e| e.to_string())
            });
            connection.map(Mutex::new)
        });
        match opened {
            Ok(db) => Ok(db.lock().unwrap_or_else(PoisonError::into_inner)),
            Err(why) => Err(Error::new(ErrorKind::Server, format!("SQLite: {why}"))),
        }
    }

    /// Returns a commit, a tree or what a link points to, if it is here and sound.
    pub(super) fn object(&self, id: &ObjectId) -> Result<Option<(Kind, Vec<u8>)>> {
        let db = self.db()?;
        let row: Option<(i64, Vec<u8>)> = db
            .prepare_cached("SELECT kind, bytes FROM objects WHERE id = ?1")
            .and_then(|mut s| {
                s.query_row([id.as_slice()], |row| Ok((row.get(0)?, row.get(1)?)))
                    .optional()
            })
            .map_err(trouble)?;
        let Some((kind, bytes)) = row else {
            return Ok(None);
        };
        let kind = kind_of(kind);
        let sound = kind.is_some_and(|k| pack::id_of(id.kind(), k, &bytes).is_ok_and(|i| i == *id));
        match kind {
            Some(kind) if sound => Ok(Some((kind, bytes))),
            _ => {
                tracing::warn!(%id, "a damaged object is dropped, and asked for again");
                db.execute("DELETE FROM objects WHERE id = ?1", [id.as_slice()])
                    .map_err(trouble)?;
                Ok(None)
            }
        }
    }

    /// Returns whether an object is here. It may be damaged.
    pub(super) fn has(&self, id: &ObjectId) -> Result<bool> {
        let db = self.db()?;
        db.prepare_cached("SELECT 1 FROM objects WHERE id = ?1")
            .and_then(|mut s| s.exists([id.as_slice()]))
            .map_err(trouble)
    }

    /// Returns whether what a link points to is here, or is known to be no path.
    pub(super) fn has_link(&self, id: &ObjectId) -> Result<bool> {
        if self.has(id)? || self.is_no_path(id)? {
            return Ok(true);
        }
        // It may have come as a file does.
        let Some(bytes) = self.kept(id)? else {
            return Ok(false);
        };
        let mut batch = Batch::default();
        batch.object(*id, Kind::Blob, bytes);
        self.write(&mut batch)?;
        Ok(true)
    }

    /// Returns whether a blob is known to be longer than any path.
    pub(super) fn is_no_path(&self, id: &ObjectId) -> Result<bool> {
        let size = self.sizes(&[*id])?.pop().flatten();
        Ok(size.is_some_and(|size| size >= PATH_MAX as u64))
    }

    /// Forgets a size that turned out to be wrong.
    pub(super) fn forget_size(&self, id: &ObjectId) -> Result<()> {
        let db = self.db()?;
        db.execute("DELETE FROM sizes WHERE id = ?1", [id.as_slice()])
            .map_err(trouble)?;
        Ok(())
    }

    /// Returns the sizes of blobs, where they are known.
    pub(super) fn sizes(&self, ids: &[ObjectId]) -> Result<Vec<Option<u64>>> {
        let db = self.db()?;
        let mut query = db
            .prepare_cached("SELECT size FROM sizes WHERE id = ?1")
            .map_err(trouble)?;
        ids.iter()
            .map(|id| {
                query
                    .query_row([id.as_slice()], |row| row.get(0))
                    .optional()
                    .map_err(trouble)
            })
            .collect()
    }

    /// Returns a blob that waits for a reader.
    pub(super) fn kept(&self, id: &ObjectId) -> Result<Option<Vec<u8>>> {
        let db = self.db()?;
        let bytes: Option<Vec<u8>> = db
            .prepare_cached("SELECT bytes FROM kept WHERE id = ?1")
            .and_then(|mut s| s.query_row([id.as_slice()], |row| row.get(0)).optional())
            .map_err(trouble)?;
        let Some(bytes) = bytes else { return Ok(None) };
        if pack::id_of(id.kind(), Kind::Blob, &bytes).is_ok_and(|i| i == *id) {
            return Ok(Some(bytes));
        }
        tracing::warn!(%id, "a damaged blob is dropped, and asked for again");
        db.execute("DELETE FROM kept WHERE id = ?1", [id.as_slice()])
            .map_err(trouble)?;
        Ok(None)
    }

    /// Writes a batch, and empties it.
    pub(super) fn write(&self, batch: &mut Batch) -> Result<()> {
        let batch = std::mem::take(batch);
        let mut db = self.db()?;
        self.write_into(&mut db, &batch).map_err(trouble)
    }

    fn write_into(&self, db: &mut Connection, batch: &Batch) -> rusqlite::Result<()> {
        let now = Timestamp::now().0 / 1_000_000_000;
        let tx = db.transaction_with_behavior(rusqlite::TransactionBehavior::Immediate)?;
        {
            let mut object = tx.prepare_cached(
                "INSERT INTO objects (id, kind, bytes, added) VALUES (?1, ?2, ?3, ?4)
                 ON CONFLICT (id) DO UPDATE SET kind = ?2, bytes = ?3, added = ?4",
            )?;
            for (id, kind, bytes) in &batch.objects {
                object.execute(params![id.as_slice(), number_of(*kind), bytes, now])?;
            }
            let mut size =
                tx.prepare_cached("INSERT OR REPLACE INTO sizes (id, size) VALUES (?1, ?2)")?;
            for (id, bytes) in &batch.sizes {
                size.execute(params![id.as_slice(), bytes])?;
            }
            let mut kept = tx.prepare_cached(
                "INSERT OR IGNORE INTO kept (id, size, bytes) VALUES (?1, ?2, ?3)",
            )?;
            let mut more = 0;
            for (id, bytes) in &batch.kept {
                if kept.execute(params![id.as_slice(), bytes.len() as u64, bytes])? > 0 {
                    more += bytes.len() as u64;
                }
            }
            if more > 0 {
                self.make_room(&tx)?;
            }
        }
        tx.commit()
    }

    /// Removes the oldest of the blobs that wait, until the rest fits.
    fn make_room(&self, db: &Connection) -> rusqlite::Result<()> {
        let mut held: u64 = db
            .prepare_cached("SELECT coalesce(sum(size), 0) FROM kept")?
            .query_row([], |row| row.get(0))?;
        if held <= self.0.room {
            return Ok(());
        }
        let mut oldest = db.prepare_cached("SELECT number, size FROM kept ORDER BY number")?;
        let mut gone = Vec::new();
        let mut rows = oldest.query([])?;
        while held > self.0.room
            && let Some(row) = rows.next()?
        {
            gone.push(row.get::<_, i64>(0)?);
            held = held.saturating_sub(row.get(1)?);
        }
        drop(rows);
        let mut remove = db.prepare_cached("DELETE FROM kept WHERE number = ?1")?;
        for number in gone {
            remove.execute([number])?;
        }
        Ok(())
    }

    /// Returns the commit that a source was at last, whose trees are all here.
    pub(super) fn commit(&self, source: &str) -> Result<Option<ObjectId>> {
        let db = self.db()?;
        let id: Option<Vec<u8>> = db
            .prepare_cached("SELECT id FROM commits WHERE source = ?1 ORDER BY number DESC LIMIT 1")
            .and_then(|mut s| s.query_row([source], |row| row.get(0)).optional())
            .map_err(trouble)?;
        Ok(id.and_then(|id| ObjectId::try_from(id.as_slice()).ok()))
    }

    /// Notes that all of a commit is here, and forgets older ones. Returns whether some were.
    pub(super) fn note(&self, source: &str, commit: &ObjectId) -> Result<bool> {
        let mut db = self.db()?;
        let mut note = || {
            let tx = db.transaction_with_behavior(rusqlite::TransactionBehavior::Immediate)?;
            tx.execute(
                "DELETE FROM commits WHERE source = ?1 AND id = ?2",
                params![source, commit.as_slice()],
            )?;
            tx.execute(
                "INSERT INTO commits (source, id) VALUES (?1, ?2)",
                params![source, commit.as_slice()],
            )?;
            let gone = tx.execute(
                "DELETE FROM commits WHERE source = ?1 AND number NOT IN (
                     SELECT number FROM commits WHERE source = ?1 ORDER BY number DESC LIMIT ?2)",
                params![source, COMMITS],
            )?;
            tx.commit()?;
            Ok(gone > 0)
        };
        note().map_err(trouble)
    }

    /// Returns all commits that are noted.
    pub(super) fn commits(&self) -> Result<Vec<ObjectId>> {
        let db = self.db()?;
        let ids = db
            .prepare_cached("SELECT DISTINCT id FROM commits")
            .and_then(|mut s| {
                s.query_map([], |row| row.get::<_, Vec<u8>>(0))?
                    .collect::<rusqlite::Result<Vec<_>>>()
            })
            .map_err(trouble)?;
        let ids = ids.iter().map(|id| ObjectId::try_from(id.as_slice()).ok());
        Ok(ids.flatten().collect())
    }

    /// Removes the objects that are not among `reachable` and were not added lately. Returns how
    /// many.
    pub(super) fn sweep(&self, reachable: &std::collections::HashSet<ObjectId>) -> Result<usize> {
        let db = self.db()?;
        let before = Timestamp::now().0 / 1_000_000_000 - GRACE;
        let sweep = || {
            let mut gone: Vec<i64> = Vec::new();
            let mut all = db.prepare_cached("SELECT rowid, id FROM objects WHERE added < ?1")?;
            let mut rows = all.query([before])?;
            while let Some(row) = rows.next()? {
                let id: Vec<u8> = row.get(1)?;
                if !ObjectId::try_from(id.as_slice()).is_ok_and(|id| reachable.contains(&id)) {
                    gone.push(row.get(0)?);
                }
            }
            drop(rows);
            let tx = db.unchecked_transaction()?;
            {
                let mut remove = tx.prepare_cached("DELETE FROM objects WHERE rowid = ?1")?;
                for row in &gone {
                    remove.execute([row])?;
                }
            }
            tx.commit()?;
            Ok(gone.len())
        };
        sweep().map_err(trouble)
    }
}

/// How kinds are written; part of the format.
fn number_of(kind: Kind) -> i64 {
    match kind {
        Kind::Commit => 1,
        Kind::Tree => 2,
        Kind::Blob => 3,
        Kind::Tag => 4,
    }
}

fn kind_of(number: i64) -> Option<Kind> {
    [Kind::Commit, Kind::Tree, Kind::Blob, Kind::Tag]
        .into_iter()
        .find(|kind| number_of(*kind) == number)
}

fn trouble(error: rusqlite::Error) -> Error {
    let message = format!("what is known of Git repositories cannot be used: {error}");
    Error::new(ErrorKind::Server, message)
}
