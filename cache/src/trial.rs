//! Tries out whether a directory's disk does all that a cache needs, before one is made there.

use std::fs::{self, DirBuilder, File};
use std::io::{self, Write};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use rusqlite::Connection;

use crate::lock::{self, RangeLock};
use crate::sync::Arc;

/// What is written, in bytes: more than a file system keeps in its own structures.
const SIZE: usize = 64 << 10;

/// What a disk cannot do.
#[derive(Debug, thiserror::Error)]
#[error("cannot {what}: {source}")]
pub struct TrialError {
    /// What was tried, as a verb phrase.
    pub what: &'static str,
    /// The system's reason.
    pub source: io::Error,
}

/// Does in `dir` once what a cache does there: writes, renames, locks ranges and whole files, maps
/// memory as SQLite does. Returns when the disk says that the file was written. What is made is
/// removed again. Blocks for as long as the disk does.
pub fn try_out(dir: &Path) -> Result<SystemTime, TrialError> {
    let step = |what| move |source| TrialError { what, source };
    let scratch = Scratch(dir.join(format!(".svol-trial-{:016x}", crate::clock::random())));
    let made = DirBuilder::new().mode(0o700).create(&scratch.0);
    made.map_err(step("make a directory"))?;
    let (first, second) = (scratch.0.join("first"), scratch.0.join("second"));
    let written = write(&first).map_err(step("write a file"))?;
    fs::rename(&first, &second).map_err(step("rename a file"))?;
    lock_ranges(&second).map_err(step("lock parts of a file"))?;
    lock_whole(&second).map_err(step("lock a file"))?;
    map(&scratch.0.join("index.db")).map_err(step("map an index into memory"))?;
    Ok(written)
}

/// A directory that goes with all that is in it.
struct Scratch(PathBuf);

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

fn write(path: &Path) -> io::Result<SystemTime> {
    let mut file = File::options().write(true).create_new(true).open(path)?;
    file.write_all(&[0x5a; SIZE])?;
    file.sync_data()?;
    file.metadata()?.modified()
}

/// Opens a file twice, as two processes do.
fn twice(path: &Path) -> io::Result<(Arc<File>, Arc<File>)> {
    let open = || File::options().read(true).write(true).open(path);
    Ok((Arc::new(open()?), Arc::new(open()?)))
}

fn lock_ranges(path: &Path) -> io::Result<()> {
    let (a, b) = twice(path)?;
    let Some(_held) = RangeLock::try_new(&a, 0..10)? else {
        return Err(io::Error::other("it is locked though nobody locked it"));
    };
    match RangeLock::try_new(&b, 5..15)? {
        None => Ok(()),
        Some(_) => Err(io::Error::other("two had the same lock at once")),
    }
}

fn lock_whole(path: &Path) -> io::Result<()> {
    let (a, b) = twice(path)?;
    if !lock::hold(&a)? {
        return Err(io::Error::other("it is locked though nobody locked it"));
    }
    match lock::hold_alone(&b)? {
        false => Ok(()),
        true => Err(io::Error::other("two had the same lock at once")),
    }
}

/// SQLite's log is shared between processes by memory that is mapped from a file.
fn map(path: &Path) -> io::Result<()> {
    let share = || -> rusqlite::Result<(String, u64)> {
        let one = Connection::open(path)?;
        let mode: String = one.query_row("PRAGMA journal_mode = WAL", [], |row| row.get(0))?;
        one.execute_batch("CREATE TABLE trial (n INTEGER); INSERT INTO trial VALUES (7);")?;
        let other = Connection::open(path)?;
        let n = other.query_row("SELECT n FROM trial", [], |row| row.get(0))?;
        Ok((mode, n))
    };
    match share() {
        Ok((mode, 7)) if mode == "wal" => Ok(()),
        Ok((mode, _)) => Err(io::Error::other(format!("its journal is {mode}, not wal"))),
        Err(error) => Err(io::Error::other(error.to_string())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_good_disk_does_all_of_it_and_nothing_stays() {
        let dir = tempfile::tempdir().unwrap();
        try_out(dir.path()).unwrap();
        assert_eq!(dir.path().read_dir().unwrap().count(), 0);
    }

    #[test]
    fn what_it_cannot_do_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let error = try_out(&dir.path().join("none")).unwrap_err();
        assert_eq!(error.what, "make a directory");
        assert_eq!(error.source.kind(), io::ErrorKind::NotFound);
    }
}
