//! The file itself: opened, begun, or begun anew.

use std::path::Path;

use rusqlite::{Connection, OpenFlags};
use rustix::fs::FlockOperation;

/// The version of the schema, in SQLite's `user_version`.
const SCHEMA_VERSION: i64 = 1;

/// "SVOG", in SQLite's `application_id`.
const APPLICATION_ID: i64 = 0x5356_4f47;

/// What is kept of its pages, in KiB: objects are found by hashes, all over the file.
const PAGES: i64 = 2048;

/// Where the file is, below the store's directory.
const NAME: &str = "objects.db";

/// `number` grows with each row, so that the newest and the oldest are known.
const SCHEMA: &str = "
    CREATE TABLE objects (
        id    BLOB NOT NULL UNIQUE,
        kind  INTEGER NOT NULL,
        bytes BLOB NOT NULL,
        added INTEGER NOT NULL
    ) STRICT;
    CREATE TABLE commits (
        number INTEGER PRIMARY KEY AUTOINCREMENT,
        source TEXT NOT NULL,
        id     BLOB NOT NULL,
        UNIQUE (source, id)
    ) STRICT;
    CREATE TABLE sizes (
        id   BLOB PRIMARY KEY NOT NULL,
        size INTEGER NOT NULL
    ) STRICT, WITHOUT ROWID;
    CREATE TABLE kept (
        number INTEGER PRIMARY KEY AUTOINCREMENT,
        id     BLOB NOT NULL UNIQUE,
        size   INTEGER NOT NULL,
        bytes  BLOB NOT NULL
    ) STRICT;
";

/// Opens the file in `dir`. One that is damaged or of another version is renamed out of the way: all
/// that is in it can be had again.
pub(super) fn open(dir: &Path) -> rusqlite::Result<Connection> {
    let path = dir.join(NAME);
    // Two that begin at once would find each other's half of it.
    let lock = std::fs::File::create(dir.join("lock")).ok();
    if let Some(lock) = &lock {
        let _ = rustix::fs::flock(lock, FlockOperation::LockExclusive);
    }
    match prepare(&path) {
        Ok(Some(connection)) => return Ok(connection),
        Ok(None) => {}
        Err(error) => {
            use rusqlite::ErrorCode::{DatabaseCorrupt, NotADatabase};
            let code = error.sqlite_error_code();
            if !matches!(code, Some(DatabaseCorrupt | NotADatabase)) {
                return Err(error);
            }
        }
    }
    for suffix in ["", "-wal", "-shm"] {
        let from = dir.join(format!("{NAME}{suffix}"));
        let aside = dir.join(format!("aside-{NAME}{suffix}"));
        let _ = std::fs::rename(from, aside);
    }
    tracing::warn!(path = %path.display(), "damaged or of another version: set aside, and begun anew");
    match prepare(&path)? {
        Some(connection) => Ok(connection),
        None => Err(rusqlite::Error::InvalidQuery),
    }
}

/// Returns a store that is gone with the process.
pub(super) fn in_memory() -> rusqlite::Result<Connection> {
    let connection = Connection::open_in_memory()?;
    connection.execute_batch(SCHEMA)?;
    Ok(connection)
}

/// Opens the file, and begins it if it is empty; nothing if it is of another version.
fn prepare(path: &Path) -> rusqlite::Result<Option<Connection>> {
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_CREATE;
    let connection = crate::sqlite::connect(path, flags, PAGES)?;
    let pragma = |name| connection.pragma_query_value(None, name, |row| row.get::<_, i64>(0));
    let (version, application) = (pragma("user_version")?, pragma("application_id")?);
    let tables: i64 =
        connection.query_row("SELECT count(*) FROM sqlite_master", [], |row| row.get(0))?;
    if tables == 0 && version == 0 {
        connection.pragma_update(None, "journal_mode", "WAL")?;
        let tx = connection.unchecked_transaction()?;
        tx.execute_batch(SCHEMA)?;
        tx.pragma_update(None, "application_id", APPLICATION_ID)?;
        tx.pragma_update(None, "user_version", SCHEMA_VERSION)?;
        tx.commit()?;
        return Ok(Some(connection));
    }
    let ours = version == SCHEMA_VERSION && application == APPLICATION_ID;
    Ok(ours.then_some(connection))
}
