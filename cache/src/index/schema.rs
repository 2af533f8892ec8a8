//! The tables, and how a connection is opened.

use std::path::Path;
use std::time::{Duration, Instant};

use rusqlite::{Connection, ErrorCode, OpenFlags};

/// How long to wait for another process's commit, which takes milliseconds.
const BUSY_PATIENCE: Duration = Duration::from_secs(5);

/// The version of the tables. Another one is treated as damage: set aside and begun anew, which
/// loses blobs' names but no partial. (The directory's own version changes with the files.)
const VERSION: i64 = 1;

/// `objects.bytes` is what the object's partial takes on disk, 0 without one; `blobs.bytes` the
/// same of a blob's own file, 0 in a pack; `packs.bytes` that of the whole pack.
const TABLES: &str = "
CREATE TABLE objects(
    key BLOB PRIMARY KEY, size INTEGER NOT NULL, hash BLOB,
    bytes INTEGER NOT NULL, last_use INTEGER NOT NULL) WITHOUT ROWID;
CREATE INDEX objects_by_hash ON objects(hash) WHERE hash IS NOT NULL;
CREATE INDEX objects_by_use ON objects(last_use) WHERE bytes > 0;
CREATE TABLE blobs(
    hash BLOB PRIMARY KEY, size INTEGER NOT NULL,
    pack INTEGER, offset INTEGER,
    bytes INTEGER NOT NULL, last_use INTEGER NOT NULL,
    dev INTEGER, ino INTEGER, mtime INTEGER, ctime INTEGER) WITHOUT ROWID;
CREATE INDEX blobs_by_use ON blobs(last_use) WHERE bytes > 0;
CREATE INDEX blobs_by_pack ON blobs(pack) WHERE pack IS NOT NULL;
CREATE TABLE packs(id INTEGER PRIMARY KEY, bytes INTEGER NOT NULL, last_use INTEGER NOT NULL);
CREATE INDEX packs_by_use ON packs(last_use);
CREATE TABLE pins(key BLOB PRIMARY KEY) WITHOUT ROWID;
CREATE TABLE meta(name TEXT PRIMARY KEY, value INTEGER NOT NULL) WITHOUT ROWID;
INSERT INTO meta VALUES('used', 0);
";

/// Made where it is not there yet: an older program of the same version neither reads nor minds it.
/// What it unpins stays here, so a note counts only beside its pin.
const PIN_NOTES: &str = "
CREATE TABLE IF NOT EXISTS pin_notes(
    key BLOB PRIMARY KEY, size INTEGER NOT NULL, note TEXT NOT NULL) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS pin_notes_by_note ON pin_notes(note, key);
";

fn triggers() -> String {
    let mut out = String::new();
    for table in ["objects", "blobs", "packs"] {
        let set =
            |delta: &str| format!("UPDATE meta SET value = value + ({delta}) WHERE name = 'used';");
        out += &format!(
            "CREATE TRIGGER {table}_add AFTER INSERT ON {table} WHEN NEW.bytes <> 0
               BEGIN {} END;
             CREATE TRIGGER {table}_set AFTER UPDATE OF bytes ON {table}
               WHEN NEW.bytes <> OLD.bytes BEGIN {} END;
             CREATE TRIGGER {table}_del AFTER DELETE ON {table} WHEN OLD.bytes <> 0
               BEGIN {} END;",
            set("NEW.bytes"),
            set("NEW.bytes - OLD.bytes"),
            set("-OLD.bytes"),
        );
    }
    out
}

/// The page cache of a connection, in KiB as SQLite writes it. The kernel keeps the pages too.
const CACHE_KIB: i32 = -512;

/// Opens the database for the one writer of this process, and makes the tables if need be.
pub(super) fn open_for_writing(path: &Path) -> rusqlite::Result<Connection> {
    let mut connection = Connection::open(path)?;
    configure(&connection)?;
    connection.busy_timeout(BUSY_PATIENCE)?;
    connection.pragma_update(None, "cache_size", CACHE_KIB)?;
    log_ahead(&connection)?;
    // After a power cut the last commits may be gone, but the database is whole.
    connection.pragma_update(None, "synchronous", "NORMAL")?;
    let version_of = |connection: &Connection| -> rusqlite::Result<i64> {
        connection.pragma_query_value(None, "user_version", |row| row.get(0))
    };
    // Only what must be written waits for whoever else writes: he may be stopped.
    if version_of(&connection)? == 0 {
        let transaction =
            connection.transaction_with_behavior(rusqlite::TransactionBehavior::Immediate)?;
        if version_of(&transaction)? == 0 {
            transaction.execute_batch(TABLES)?;
            transaction.execute_batch(&triggers())?;
            transaction.pragma_update(None, "user_version", VERSION)?;
        }
        transaction.commit()?;
    }
    let version = version_of(&connection)?;
    if version != VERSION {
        return Err(rusqlite::Error::SqliteFailure(
            rusqlite::ffi::Error::new(rusqlite::ffi::SQLITE_NOTADB),
            Some(format!("tables of version {version}")),
        ));
    }
    if !connection.table_exists(None, "pin_notes")? {
        connection.execute_batch(PIN_NOTES)?;
    }
    connection.set_prepared_statement_cache_capacity(64);
    Ok(connection)
}

/// Has the database keep a write-ahead log. Of several who ask that of a new one, SQLite tells all but
/// one at once that it is busy, however patient they said they are.
fn log_ahead(connection: &Connection) -> rusqlite::Result<()> {
    let deadline = Instant::now() + BUSY_PATIENCE;
    loop {
        match connection.pragma_update(None, "journal_mode", "WAL") {
            Err(error)
                if error.sqlite_error_code() == Some(ErrorCode::DatabaseBusy)
                    && Instant::now() < deadline =>
            {
                crate::sync::thread::sleep(Duration::from_millis(2));
            }
            other => return other,
        }
    }
}

fn configure(connection: &Connection) -> rusqlite::Result<()> {
    use rusqlite::config::DbConfig;
    // Keeps prepared statements prepared: SQLite, built with STAT4 as it is here, otherwise parses
    // one anew for each new value that is bound to a key, which took a sixth of the time of small
    // files.
    connection.set_db_config(DbConfig::SQLITE_DBCONFIG_ENABLE_QPSG, true)?;
    // Closing must not remove the log by its name: where the file was set aside meanwhile, that is
    // the name of another database's log.
    connection.set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, true)?;
    // What a large statement needs in between. It is little, and a file for it would be made where a
    // confined process may not write.
    connection.pragma_update(None, "temp_store", "MEMORY")?;
    Ok(())
}

pub(super) fn open_for_reading(path: &Path) -> rusqlite::Result<Connection> {
    // Read-write, as a reader of a WAL may have to make the shared memory file; but never create.
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let connection = Connection::open_with_flags(path, flags)?;
    configure(&connection)?;
    connection.busy_timeout(BUSY_PATIENCE)?;
    connection.pragma_update(None, "cache_size", CACHE_KIB)?;
    connection.pragma_update(None, "query_only", true)?;
    Ok(connection)
}

/// Returns whether an error means that the database itself is bad.
pub(super) fn is_damage(error: &rusqlite::Error) -> bool {
    is_nonsense(error)
        || matches!(
            error.sqlite_error_code(),
            Some(ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase)
        )
}

/// Returns whether an error means that what is in the database cannot have been written by us: a
/// table or a row that is not there, or a value of another kind. SQLite sees nothing wrong with
/// such a database, as its pages have no checksums.
pub(super) fn is_nonsense(error: &rusqlite::Error) -> bool {
    use rusqlite::Error::{
        FromSqlConversionFailure, IntegralValueOutOfRange, InvalidColumnType, QueryReturnedNoRows,
        Utf8Error,
    };
    // Our SQL is always the same: if it is in error, its tables are not.
    error.sqlite_extended_error_code() == Some(rusqlite::ffi::SQLITE_ERROR)
        || matches!(
            error,
            FromSqlConversionFailure(..)
                | IntegralValueOutOfRange(..)
                | InvalidColumnType(..)
                | QueryReturnedNoRows
                | Utf8Error(..)
        )
}

pub(super) fn used(connection: &Connection) -> rusqlite::Result<u64> {
    connection
        .prepare_cached("SELECT max(value, 0) FROM meta WHERE name = 'used'")?
        .query_row([], |row| row.get(0))
}

/// Returns what `meta.used` should be, if it is not: triggers keep it, but cannot know when it was
/// damaged itself.
pub(super) fn miscounted(connection: &Connection) -> rusqlite::Result<Option<i64>> {
    connection
        .query_row(
            "SELECT value, (SELECT total(bytes) FROM objects) + (SELECT total(bytes) FROM blobs)
                           + (SELECT total(bytes) FROM packs)
             FROM meta WHERE name = 'used'",
            [],
            |row| Ok((row.get::<_, i64>(0)?, row.get::<_, f64>(1)? as i64)),
        )
        .map(|(says, is)| (says != is).then_some(is))
}

pub(super) fn latest_use(connection: &Connection) -> rusqlite::Result<u64> {
    connection.query_row(
        "SELECT max(
            coalesce((SELECT last_use FROM objects WHERE bytes > 0 ORDER BY last_use DESC LIMIT 1), 0),
            coalesce((SELECT last_use FROM blobs WHERE bytes > 0 ORDER BY last_use DESC LIMIT 1), 0),
            coalesce((SELECT max(last_use) FROM packs), 0))",
        [],
        |row| row.get(0),
    )
}
