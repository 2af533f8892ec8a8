//! The file itself: opened, begun, or set aside.

use std::path::{Path, PathBuf};

use rusqlite::{Connection, OpenFlags};

use super::DbError;
use crate::entry::Timestamp;

/// The version of the schema, in SQLite's `user_version`.
const SCHEMA_VERSION: i64 = 2;

/// "SVOL", in SQLite's `application_id`.
const APPLICATION_ID: i64 = 0x5356_4f4c;

/// Directories are read and written in the order of their rows, which needs few pages. In KiB.
const PAGES: i64 = 512;

/// SQLite's pages have no checksums, so the rows have. `row_check` is that of an entry, `head_check`
/// that of what a directory itself says; `checks` is the sum of its entries', so that none of them
/// can be lost.
const SCHEMA: &str = "
    CREATE TABLE sources (
        id       INTEGER PRIMARY KEY,
        identity TEXT NOT NULL UNIQUE
    ) STRICT;
    CREATE TABLE dirs (
        id         INTEGER PRIMARY KEY,
        source     INTEGER NOT NULL REFERENCES sources(id),
        path       TEXT NOT NULL,
        listed_at  INTEGER NOT NULL,
        generation INTEGER NOT NULL,
        invalid_at INTEGER,
        bytes      INTEGER NOT NULL,
        files      INTEGER NOT NULL,
        hidden     TEXT NOT NULL,
        head_check INTEGER NOT NULL,
        checks     INTEGER NOT NULL,
        UNIQUE (source, path)
    ) STRICT;
    CREATE TABLE entries (
        dir            INTEGER NOT NULL REFERENCES dirs(id),
        name           TEXT NOT NULL,
        flags          INTEGER NOT NULL,
        size           INTEGER,
        mtime          INTEGER,
        version        TEXT NOT NULL,
        validator      TEXT,
        target         TEXT,
        digest         BLOB,
        listed_version TEXT,
        seen           INTEGER,
        row_check      INTEGER NOT NULL,
        PRIMARY KEY (dir, name)
    ) STRICT, WITHOUT ROWID;
    CREATE TABLE superseded (
        source      INTEGER NOT NULL REFERENCES sources(id),
        path        TEXT NOT NULL,
        version     TEXT NOT NULL,
        flags       INTEGER NOT NULL,
        size        INTEGER,
        mtime       INTEGER,
        validator   TEXT,
        target      TEXT,
        digest      BLOB,
        replaced_at INTEGER NOT NULL,
        row_check   INTEGER NOT NULL,
        PRIMARY KEY (source, path, version)
    ) STRICT, WITHOUT ROWID;
    CREATE INDEX superseded_by_age ON superseded (replaced_at);
";

/// Opens the file, or sets it aside and begins a new one. The caller holds the lock.
pub(super) fn open(path: &Path) -> Result<Connection, DbError> {
    let why = match prepare(path) {
        Ok(Prepared::Ready(connection)) => return Ok(connection),
        Ok(Prepared::Foreign(why)) => why,
        Err(error) if is_corrupt(&error) => error.to_string(),
        Err(cause) => return Err(DbError::sqlite(path, cause)),
    };
    set_aside(path, &why).map_err(|cause| DbError::Io {
        path: path.to_owned(),
        cause,
    })?;
    begin_anew(path).map_err(|cause| DbError::sqlite(path, cause))
}

enum Prepared {
    Ready(Connection),
    Foreign(String),
}

pub(super) fn connect(path: &Path, flags: OpenFlags) -> rusqlite::Result<Connection> {
    crate::sqlite::connect(path, flags, PAGES)
}

fn prepare(path: &Path) -> rusqlite::Result<Prepared> {
    let connection = connect(
        path,
        OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_CREATE,
    )?;
    let pragma = |name| connection.pragma_query_value(None, name, |row| row.get::<_, i64>(0));
    let (version, application) = (pragma("user_version")?, pragma("application_id")?);
    let tables: i64 =
        connection.query_row("SELECT count(*) FROM sqlite_master", [], |row| row.get(0))?;
    if tables == 0 && version == 0 {
        return create(connection).map(Prepared::Ready);
    }
    if application != APPLICATION_ID || version != SCHEMA_VERSION {
        return Ok(Prepared::Foreign(format!(
            "it has version {version}, not {SCHEMA_VERSION}"
        )));
    }
    // Touches the root page of each table.
    connection.query_row(
        "SELECT (SELECT count(*) FROM sources), EXISTS (SELECT 1 FROM dirs),
                EXISTS (SELECT 1 FROM entries), EXISTS (SELECT 1 FROM superseded)",
        [],
        |_| Ok(()),
    )?;
    Ok(Prepared::Ready(connection))
}

fn begin_anew(path: &Path) -> rusqlite::Result<Connection> {
    create(connect(
        path,
        OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_CREATE,
    )?)
}

fn create(mut connection: Connection) -> rusqlite::Result<Connection> {
    connection.pragma_update(None, "journal_mode", "WAL")?;
    let transaction = connection.transaction()?;
    transaction.execute_batch(SCHEMA)?;
    transaction.pragma_update(None, "application_id", APPLICATION_ID)?;
    transaction.pragma_update(None, "user_version", SCHEMA_VERSION)?;
    transaction.commit()?;
    Ok(connection)
}

/// Returns whether an error means that the file is damaged; also where SQLite sees nothing wrong
/// with it, but a table or a value in it cannot be ours.
pub(super) fn is_corrupt(error: &rusqlite::Error) -> bool {
    use rusqlite::Error::{
        FromSqlConversionFailure, IntegralValueOutOfRange, InvalidColumnType, Utf8Error,
    };
    use rusqlite::ErrorCode::{DatabaseCorrupt, NotADatabase};
    matches!(
        error.sqlite_error_code(),
        Some(DatabaseCorrupt | NotADatabase)
    ) || error.sqlite_extended_error_code() == Some(rusqlite::ffi::SQLITE_ERROR)
        || matches!(
            error,
            FromSqlConversionFailure(..)
                | IntegralValueOutOfRange(..)
                | InvalidColumnType(..)
                | Utf8Error(..)
        )
}

/// Renames the file and SQLite's companions out of the way.
pub(super) fn set_aside(path: &Path, why: &str) -> std::io::Result<()> {
    let stamp = format!("aside-{}-{}", Timestamp::now().0, std::process::id());
    let named = |suffix: &str, more: &str| {
        let mut name = path.as_os_str().to_owned();
        name.push(suffix);
        name.push(more);
        PathBuf::from(name)
    };
    for suffix in ["", "-wal", "-shm"] {
        let from = named(suffix, "");
        // SQLite would take `X-wal` for the log of `X`, so the stamp goes before the suffix.
        let to = named(&format!(".{stamp}"), suffix);
        match std::fs::rename(&from, &to) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
            other => other?,
        }
    }
    tracing::warn!(path = %path.display(), why, "the catalogue is set aside; a new one begins");
    Ok(())
}
