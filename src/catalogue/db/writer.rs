//! The one thread that writes.

use std::path::Path;
use std::sync::atomic::Ordering;
use std::time::Duration;

use rusqlite::{Connection, OptionalExtension, Transaction, TransactionBehavior, params};
use tokio::sync::mpsc;

use super::{Counters, Op, Queued, rows};
use crate::catalogue::directory::Directory;
use crate::entry::{Timestamp, Version};
use crate::path::{Name, RelPath};
use crate::rows::Lost;

/// Rows after which a batch is committed although more is waiting: some 50 ms of work, during which
/// other processes cannot write.
const BATCH_ROWS: u64 = 20_000;

/// How long a replaced version can still be looked up, for the inode numbers of open files.
const KEEP_SUPERSEDED: Duration = Duration::from_secs(86_400);

/// How often the replaced versions are pruned.
const PRUNE_EVERY: Duration = Duration::from_secs(3_600);

pub(super) fn run(
    mut connection: Connection,
    mut queue: mpsc::Receiver<Queued>,
    counters: &Counters,
    path: &Path,
) {
    let mut pruned: Option<std::time::Instant> = None;
    while let Some(first) = queue.blocking_recv() {
        let mut batch = vec![first];
        let mut touched = Vec::new();
        let result = if counters.corrupt.load(Ordering::Relaxed) {
            // What is waiting is dropped; the queue must not fill up.
            Ok(())
        } else {
            let prune = pruned.is_none_or(|at| at.elapsed() >= PRUNE_EVERY);
            if prune {
                pruned = Some(std::time::Instant::now());
            }
            write(&mut connection, &mut queue, &mut batch, &mut touched, prune)
        };
        if let Err(error) = &result {
            counters.note(path, error);
        }
        touched.resize(batch.len(), 0);
        for (mut written, touched) in batch.into_iter().zip(touched) {
            let done = written.done.take();
            drop(written);
            if let Some(done) = done {
                // Whoever asked may have stopped waiting.
                let _ = done.send(touched);
            }
        }
    }
}

fn write(
    connection: &mut Connection,
    queue: &mut mpsc::Receiver<Queued>,
    batch: &mut Vec<Queued>,
    touched: &mut Vec<u64>,
    prune: bool,
) -> rusqlite::Result<()> {
    let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
    if prune {
        let before = Timestamp::now().0 - KEEP_SUPERSEDED.as_nanos() as i64;
        transaction.execute("DELETE FROM superseded WHERE replaced_at < ?1", [before])?;
    }
    let mut rows = 0;
    while touched.len() < batch.len() {
        let count = apply(&transaction, &batch[touched.len()].op)?;
        touched.push(count);
        rows += count;
        if rows < BATCH_ROWS
            && let Ok(next) = queue.try_recv()
        {
            batch.push(next);
        }
    }
    transaction.commit()
}

fn apply(t: &Transaction<'_>, op: &Op) -> rusqlite::Result<u64> {
    match op {
        Op::Store {
            source,
            path,
            dir,
            base,
            touched,
            removed,
        } => store(t, *source, path, dir, *base, touched, removed),
        Op::Forget { source, path } => forget(t, *source, path),
        Op::Patch {
            source,
            dir,
            row,
            old_version,
            generation,
            supersedes,
        } => {
            let name = &row.entry.name;
            let known: Option<(i64, i64)> = t
                .prepare_cached(
                    "SELECT id, coalesce(size, 0) FROM dirs JOIN entries ON dir = id
                     WHERE source = ?1 AND path = ?2 AND name = ?3 AND version = ?4",
                )?
                .query_row(
                    params![source, dir.as_str(), name.as_str(), &**old_version],
                    |row| Ok((row.get(0)?, row.get(1)?)),
                )
                .optional()?;
            // Another process knows another version: it is newer.
            let Some((id, old_size)) = known else {
                return Ok(0);
            };
            if *supersedes {
                supersede(t, id, name)?;
            }
            let before = rows::check_of(t, id, name)?;
            let check = rows::store_row(t, id, row)?;
            rows::add_checks(t, id, check.wrapping_sub(before))?;
            let size = i64::try_from(row.entry.size.unwrap_or(0)).unwrap_or(i64::MAX);
            t.prepare_cached(
                "UPDATE dirs SET generation = max(generation, ?2), bytes = max(0, bytes + ?3)
                 WHERE id = ?1",
            )?
            .execute(params![id, generation, size.saturating_sub(old_size)])?;
            Ok(1)
        }
        Op::Invalidate {
            source,
            path,
            recursive,
            at,
        } => {
            let (from, to) = rows::below(path);
            let count = t
                .prepare_cached(
                    "UPDATE dirs SET invalid_at = ?5
                     WHERE source = ?1 AND listed_at < ?5
                       AND (path = ?2 OR (?6 AND path >= ?3 AND path < ?4))",
                )?
                .execute(params![source, path.as_str(), from, to, at.0, recursive])?;
            Ok(count as u64)
        }
        Op::Flush => Ok(0),
    }
}

fn store(
    t: &Transaction<'_>,
    source: i64,
    path: &RelPath,
    dir: &Directory,
    base: Option<u64>,
    touched: &[Name],
    removed: &[Name],
) -> rusqlite::Result<u64> {
    let known: Option<(i64, i64, u64)> = t
        .prepare_cached(
            "SELECT id, listed_at, generation FROM dirs WHERE source = ?1 AND path = ?2",
        )?
        .query_row(params![source, path.as_str()], |row| {
            Ok((row.get(0)?, row.get(1)?, row.get(2)?))
        })
        .optional()?;
    let listed_at = dir.listed_at().0;
    if let Some((_, theirs, _)) = known
        && theirs > listed_at
        && theirs <= Timestamp::now().0
    {
        // Another process has listed it since. A date in the future is a clock that went back.
        return Ok(0);
    }
    let totals = dir.sums();
    let hidden = rows::encode_hidden(dir.hidden());
    let id: i64 = t
        .prepare_cached(
            "INSERT INTO dirs
                 (source, path, listed_at, generation, bytes, files, hidden, head_check, checks)
             VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, 0)
             ON CONFLICT (source, path) DO UPDATE SET
                 listed_at = excluded.listed_at, generation = excluded.generation,
                 bytes = excluded.bytes, files = excluded.files, hidden = excluded.hidden,
                 head_check = excluded.head_check,
                 invalid_at = CASE WHEN invalid_at > excluded.listed_at THEN invalid_at END
             RETURNING id",
        )?
        .query_row(
            params![
                source,
                path.as_str(),
                listed_at,
                dir.generation(),
                i64::try_from(totals.bytes).unwrap_or(i64::MAX),
                totals.files,
                hidden,
                rows::head_check(path, listed_at, &hidden),
            ],
            |row| row.get(0),
        )?;
    let mut count = 1;
    let mut delta = 0i64;
    match known {
        Some((_, _, theirs)) if base == Some(theirs) => {
            for name in touched.iter().chain(removed) {
                supersede(t, id, name)?;
            }
            let mut delete =
                t.prepare_cached("DELETE FROM entries WHERE dir = ?1 AND name = ?2")?;
            for name in removed {
                delta = delta.wrapping_sub(rows::check_of(t, id, name)?);
                delete.execute(params![id, name.as_str()])?;
            }
            for name in touched {
                if let Some(row) = dir.rows().get(name.as_str()).map_err(lost)? {
                    delta = delta.wrapping_sub(rows::check_of(t, id, name)?);
                    delta = delta.wrapping_add(rows::store_row(t, id, &row)?);
                }
            }
            count += (touched.len() + removed.len()) as u64;
        }
        other => {
            if other.is_some() {
                supersede_all(t, id, dir)?;
                t.prepare_cached("DELETE FROM entries WHERE dir = ?1")?
                    .execute([id])?;
                t.prepare_cached("UPDATE dirs SET checks = 0 WHERE id = ?1")?
                    .execute([id])?;
            }
            for row in dir.rows().iter() {
                let row = row.and_then(|row| row.row()).map_err(lost)?;
                delta = delta.wrapping_add(rows::store_row(t, id, &row)?);
            }
            count += dir.len() as u64;
        }
    }
    rows::add_checks(t, id, delta)?;
    Ok(count)
}

/// A listing that cannot be read back is not written: what is in the file stays.
fn lost(lost: Lost) -> rusqlite::Error {
    rusqlite::Error::ToSqlConversionFailure(Box::new(lost))
}

const SUPERSEDE: &str = "
    INSERT OR REPLACE INTO superseded
        (source, path, version, flags, size, mtime, validator, target, digest, replaced_at,
         row_check)
    SELECT d.source, CASE d.path WHEN '' THEN e.name ELSE d.path || '/' || e.name END,
           e.version, e.flags, e.size, e.mtime, e.validator, e.target, e.digest, ?1,
           e.row_check
    FROM dirs d JOIN entries e ON e.dir = d.id
    WHERE e.flags & 3 <> 0 AND ";

/// Remembers one row that is about to be replaced.
fn supersede(t: &Transaction<'_>, id: i64, name: &Name) -> rusqlite::Result<()> {
    t.prepare_cached(&format!("{SUPERSEDE} d.id = ?2 AND e.name = ?3"))?
        .execute(params![Timestamp::now().0, id, name.as_str()])?;
    Ok(())
}

/// Remembers all rows of a directory that `new` does not repeat.
fn supersede_all(t: &Transaction<'_>, id: i64, new: &Directory) -> rusqlite::Result<()> {
    // Both in the order of names.
    let mut statement =
        t.prepare_cached("SELECT name, version, flags FROM entries WHERE dir = ?1 ORDER BY name")?;
    let mut rows = statement.query([id])?;
    let mut news = new.entries().peekable();
    while let Some(row) = rows.next()? {
        let name = row.get_ref(0)?.as_str()?;
        let version = Version {
            strong: row.get::<_, i64>(2)? & 4 != 0,
            token: row.get_ref(1)?.as_str()?.into(),
        };
        while let Some(Ok(_)) =
            news.next_if(|new| new.as_ref().is_ok_and(|new| new.name.as_str() < name))
        {}
        let repeated = match news.peek() {
            Some(Err(error)) => return Err(lost(error.clone())),
            Some(Ok(new)) => new.name.as_str() == name && new.version == version,
            None => false,
        };
        if !repeated && let Ok(name) = Name::new(name) {
            // Written to another table than the one that is being read.
            supersede(t, id, &name)?;
        }
    }
    Ok(())
}

fn forget(t: &Transaction<'_>, source: i64, path: &RelPath) -> rusqlite::Result<u64> {
    let (from, to) = rows::below(path);
    let which = "source = ?2 AND (path = ?3 OR (path >= ?4 AND path < ?5))";
    let bounds = params![Timestamp::now().0, source, path.as_str(), from, to];
    t.prepare_cached(&format!(
        "{SUPERSEDE} d.source = ?2 AND (d.path = ?3 OR (d.path >= ?4 AND d.path < ?5))"
    ))?
    .execute(bounds)?;
    // `?1` is used so that all three statements take the same parameters.
    let rows = t
        .prepare_cached(&format!(
            "DELETE FROM entries WHERE ?1 AND dir IN (SELECT id FROM dirs WHERE {which})"
        ))?
        .execute(bounds)?;
    t.prepare_cached(&format!("DELETE FROM dirs WHERE ?1 AND {which}"))?
        .execute(bounds)?;
    Ok(rows as u64 + 1)
}
