//! How a database of ours is opened: by several processes at once, some of them confined.

use std::path::Path;
use std::time::Duration;

use rusqlite::config::DbConfig;
use rusqlite::{Connection, OpenFlags};

/// How long another process's write may keep one of ours waiting.
const BUSY: Duration = Duration::from_secs(5);

/// Opens a connection that is used by one thread at a time, with `pages` KiB for the pages that it
/// keeps.
pub(crate) fn connect(path: &Path, flags: OpenFlags, pages: i64) -> rusqlite::Result<Connection> {
    let connection = Connection::open_with_flags(path, flags | OpenFlags::SQLITE_OPEN_NO_MUTEX)?;
    connection.busy_timeout(BUSY)?;
    connection.pragma_update(None, "synchronous", "NORMAL")?;
    // Bound values must not count as reasons to plan anew: SQLite, built with STAT4 as it is here,
    // otherwise parses a prepared statement again for each new value of a key, at 20 us a time.
    connection.set_db_config(DbConfig::SQLITE_DBCONFIG_ENABLE_QPSG, true)?;
    // Closing must not remove the log by its name: where the file was set aside meanwhile, that is
    // the name of another database's log.
    connection.set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, true)?;
    // What a large statement needs in between is little, and a file for it would be made where a
    // confined process may not write.
    connection.pragma_update(None, "temp_store", "MEMORY")?;
    // What a large write leaves of the log on disk, in bytes.
    connection.pragma_update(None, "journal_size_limit", 16 * 1024 * 1024)?;
    connection.pragma_update(None, "cache_size", -pages)?;
    Ok(connection)
}
