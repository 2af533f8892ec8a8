//! Entries as rows of SQLite, and back.

use std::sync::Arc;

use rusqlite::types::ValueRef;
use rusqlite::{Connection, OptionalExtension, Row as SqlRow, params};

use super::Stored;
use crate::catalogue::directory::Directory;
use crate::entry::{Digest, Entry, Kind, Timestamp, Version};
use crate::path::{BadName, Name, RelPath};
use crate::rows::{Note, Packer, Room, Row};
use crate::source::{Hidden, HiddenWhy};

/// Bits 0 and 1: the kind.
const KIND: i64 = 0b11;
/// The version is strong.
const STRONG: i64 = 1 << 2;
/// The validator is the version, and so not written a second time.
const SAME_VALIDATOR: i64 = 1 << 3;
/// It is known whether the file may be executed,
const EXECUTABLE_KNOWN: i64 = 1 << 4;
/// and it may.
const EXECUTABLE: i64 = 1 << 5;
/// The version that the listing gave is strong.
const LISTED_STRONG: i64 = 1 << 6;

/// The first byte of a digest.
const SHA256: u8 = 1;

pub(super) fn load(
    connection: &Connection,
    source: i64,
    path: &RelPath,
    room: &Room,
) -> rusqlite::Result<Option<Stored>> {
    // One snapshot for both queries.
    let snapshot = connection.unchecked_transaction()?;
    load_in(&snapshot, source, path, room)
}

/// As [`load`], in a transaction.
pub(super) fn load_in(
    transaction: &Connection,
    source: i64,
    path: &RelPath,
    room: &Room,
) -> rusqlite::Result<Option<Stored>> {
    let head = transaction
        .prepare_cached(
            "SELECT id, listed_at, generation, invalid_at, hidden, head_check, checks FROM dirs
             WHERE source = ?1 AND path = ?2",
        )?
        .query_row(params![source, path.as_str()], |row| {
            let hidden = row.get_ref(4)?.as_str()?;
            if row.get::<_, i64>(5)? != head_check(path, row.get(1)?, hidden) {
                return Err(damaged());
            }
            Ok((
                row.get::<_, i64>(0)?,
                Timestamp(row.get(1)?),
                row.get::<_, u64>(2)?,
                row.get::<_, Option<i64>>(3)?.map(Timestamp),
                decode_hidden(hidden),
                row.get::<_, i64>(6)?,
            ))
        })
        .optional()?;
    let Some((id, listed_at, generation, invalid_at, hidden, checks)) = head else {
        return Ok(None);
    };
    let mut statement = transaction.prepare_cached(
        "SELECT name, flags, size, mtime, version, validator, target, digest, row_check,
                listed_version, seen
         FROM entries WHERE dir = ?1 ORDER BY name",
    )?;
    let mut found = statement.query([id])?;
    let mut rows = Packer::new(room.clone());
    let mut sum = 0i64;
    while let Some(row) = found.next()? {
        let Ok(name) = Name::new(row.get_ref(0)?.as_str()?) else {
            // Whoever wrote this was not us. Without the row the directory would be wrong.
            return Ok(None);
        };
        if name.as_str() <= rows.last() {
            // SQLite compares as we do; another order is another's.
            return Ok(None);
        }
        let flags: i64 = row.get(1)?;
        let entry = decode_entry(row, name, flags)?;
        sum = sum.wrapping_add(row.get(8)?);
        let listed = text(row, 9)?.map(|token| Version {
            strong: flags & LISTED_STRONG != 0,
            token,
        });
        let seen = row.get::<_, Option<i64>>(10)?.map(Timestamp);
        let note = (listed.is_some() || seen.is_some()).then(|| Box::new(Note { listed, seen }));
        rows.push(&Row { entry, note });
    }
    if sum != checks {
        return Err(damaged());
    }
    let dir = Directory::from_rows(rows.finish(), hidden.into(), listed_at, generation, None);
    Ok(Some(Stored { dir, invalid_at }))
}

/// Returns up to `most` directories below `root` and behind `at`, in the order of paths.
pub(super) fn known_behind(
    connection: &Connection,
    source: i64,
    root: &RelPath,
    at: &RelPath,
    most: usize,
) -> rusqlite::Result<Vec<RelPath>> {
    let (from, to) = below(root);
    connection
        .prepare_cached(
            "SELECT path FROM dirs WHERE source = ?1 AND path >= ?2 AND path < ?3 AND path > ?4
             ORDER BY path LIMIT ?5",
        )?
        .query_map(
            params![
                source,
                from,
                to,
                at.as_str(),
                i64::try_from(most).unwrap_or(i64::MAX)
            ],
            |row| Ok(RelPath::new(row.get_ref(0)?.as_str()?).ok()),
        )?
        .filter_map(Result::transpose)
        .collect()
}

/// Returns the bounds between which all paths below `path` lie: from the first, to before the last.
pub(super) fn below(path: &RelPath) -> (String, String) {
    if path.is_root() {
        // No path is empty but the root's, and none sorts after the last character.
        ("\u{1}".into(), "\u{10ffff}\u{10ffff}".into())
    } else {
        // `0` is the character after `/`.
        (
            format!("{path}/")[1..].into(),
            format!("{path}0")[1..].into(),
        )
    }
}

/// The error for a row that is not as it was written.
fn damaged() -> rusqlite::Error {
    let code = rusqlite::ffi::Error::new(rusqlite::ffi::SQLITE_CORRUPT);
    rusqlite::Error::SqliteFailure(code, Some("a row is not as it was written".into()))
}

/// Returns the check of what a directory says of itself.
pub(super) fn head_check(path: &RelPath, listed_at: i64, hidden: &str) -> i64 {
    let mut hasher = blake3::Hasher::new();
    hasher.update(path.as_str().as_bytes());
    hasher.update(&[0]);
    hasher.update(&listed_at.to_le_bytes());
    hasher.update(hidden.as_bytes());
    first_bytes(&hasher)
}

/// Returns the check of an entry, and of its flags as they are in its row.
fn row_check(entry: &Entry, flags: i64) -> i64 {
    let mut bytes = Vec::with_capacity(256);
    let mut text = |text: Option<&str>| {
        // No text is as long as this.
        let len = text.map_or(u32::MAX, |text| text.len() as u32);
        bytes.extend_from_slice(&len.to_le_bytes());
        bytes.extend_from_slice(text.unwrap_or_default().as_bytes());
    };
    text(Some(entry.name.as_str()));
    text(Some(&entry.version.token));
    text(entry.validator.as_deref());
    text(entry.target.as_deref());
    let size = entry.size.and_then(|size| i64::try_from(size).ok());
    for number in [size, entry.mtime.map(|t| t.0), Some(flags)] {
        bytes.push(number.is_some().into());
        bytes.extend_from_slice(&number.unwrap_or(0).to_le_bytes());
    }
    if let Some(digest) = entry.digest {
        bytes.extend_from_slice(&encode_digest(digest));
    }
    first_bytes(blake3::Hasher::new().update(&bytes))
}

fn first_bytes(hasher: &blake3::Hasher) -> i64 {
    let mut first = [0; 8];
    hasher.finalize_xof().fill(&mut first);
    i64::from_le_bytes(first)
}

/// Decodes what `load` and `superseded` select alike: columns 2 to 8 after name and flags.
fn decode_entry(row: &SqlRow<'_>, name: Name, flags: i64) -> rusqlite::Result<Entry> {
    let token: Arc<str> = row.get_ref(4)?.as_str()?.into();
    let validator = if flags & SAME_VALIDATOR != 0 {
        Some(token.clone())
    } else {
        text(row, 5)?
    };
    let entry = Entry {
        name,
        kind: match flags & KIND {
            0 => Kind::Dir,
            1 => Kind::File,
            _ => Kind::Symlink,
        },
        size: row.get(2)?,
        mtime: row.get::<_, Option<i64>>(3)?.map(Timestamp),
        version: Version {
            strong: flags & STRONG != 0,
            token,
        },
        validator,
        executable: (flags & EXECUTABLE_KNOWN != 0).then_some(flags & EXECUTABLE != 0),
        target: text(row, 6)?,
        digest: decode_digest(row.get_ref(7)?),
    };
    if row.get::<_, i64>(8)? != row_check(&entry, flags) {
        return Err(damaged());
    }
    Ok(entry)
}

fn text(row: &SqlRow<'_>, column: usize) -> rusqlite::Result<Option<Arc<str>>> {
    Ok(row.get_ref(column)?.as_str_or_null()?.map(Arc::from))
}

fn decode_digest(value: ValueRef<'_>) -> Option<Digest> {
    let bytes = value.as_blob_or_null().ok()??;
    match bytes.split_first()? {
        (&SHA256, digest) => Some(Digest::Sha256(digest.try_into().ok()?)),
        _ => None,
    }
}

fn encode_digest(digest: Digest) -> Vec<u8> {
    let Digest::Sha256(bytes) = digest;
    let mut blob = vec![SHA256];
    blob.extend_from_slice(&bytes);
    blob
}

/// Adds to the sum of a directory's checks.
pub(super) fn add_checks(connection: &Connection, dir: i64, delta: i64) -> rusqlite::Result<()> {
    // Not in SQL, where a sum that overflows is no integer any more.
    let old: i64 = connection
        .prepare_cached("SELECT checks FROM dirs WHERE id = ?1")?
        .query_row([dir], |row| row.get(0))?;
    connection
        .prepare_cached("UPDATE dirs SET checks = ?2 WHERE id = ?1")?
        .execute([dir, old.wrapping_add(delta)])
        .map(drop)
}

/// Returns the check of a row that is there; 0 where there is none.
pub(super) fn check_of(connection: &Connection, dir: i64, name: &Name) -> rusqlite::Result<i64> {
    connection
        .prepare_cached("SELECT row_check FROM entries WHERE dir = ?1 AND name = ?2")?
        .query_row(params![dir, name.as_str()], |row| row.get(0))
        .optional()
        .map(|check| check.unwrap_or(0))
}

/// Writes one row, new or over an old one; returns its check.
pub(super) fn store_row(connection: &Connection, dir: i64, row: &Row) -> rusqlite::Result<i64> {
    let entry = &row.entry;
    let listed = row.note.as_ref().and_then(|note| note.listed.as_ref());
    let same_validator = entry.validator.as_ref() == Some(&entry.version.token);
    let mut flags = match entry.kind {
        Kind::Dir => 0,
        Kind::File => 1,
        Kind::Symlink => 2,
    };
    for (set, flag) in [
        (entry.version.strong, STRONG),
        (same_validator, SAME_VALIDATOR),
        (entry.executable.is_some(), EXECUTABLE_KNOWN),
        (entry.executable == Some(true), EXECUTABLE),
        (listed.is_some_and(|v| v.strong), LISTED_STRONG),
    ] {
        if set {
            flags |= flag;
        }
    }
    let check = row_check(entry, flags);
    connection
        .prepare_cached(
            "INSERT OR REPLACE INTO entries
             (dir, name, flags, size, mtime, version, validator, target, digest, listed_version,
              seen, row_check)
             VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12)",
        )?
        .execute(params![
            dir,
            entry.name.as_str(),
            flags,
            // A size that SQLite cannot hold is a size that no file system can show.
            entry.size.and_then(|size| i64::try_from(size).ok()),
            entry.mtime.map(|t| t.0),
            &*entry.version.token,
            entry.validator.as_deref().filter(|_| !same_validator),
            entry.target.as_deref(),
            entry.digest.map(encode_digest),
            listed.map(|v| &*v.token),
            row.note.as_ref().and_then(|n| n.seen).map(|t| t.0),
            check,
        ])?;
    Ok(check)
}

pub(super) fn superseded(
    connection: &Connection,
    source: i64,
    path: &RelPath,
) -> rusqlite::Result<Vec<Entry>> {
    let Some(name) = path.file_name() else {
        return Ok(Vec::new());
    };
    connection
        .prepare_cached(
            "SELECT path, flags, size, mtime, version, validator, target, digest, row_check
             FROM superseded
             WHERE source = ?1 AND path = ?2 ORDER BY replaced_at DESC",
        )?
        .query_map(params![source, path.as_str()], |row| {
            decode_entry(row, name.clone(), row.get(1)?)
        })?
        .collect()
}

fn why_code(why: HiddenWhy) -> &'static str {
    match why {
        HiddenWhy::Name(BadName::Empty) => "empty",
        HiddenWhy::Name(BadName::Dots) => "dots",
        HiddenWhy::Name(BadName::Forbidden) => "forbidden",
        HiddenWhy::Name(BadName::TooLong) => "too-long",
        HiddenWhy::Name(BadName::NotUtf8) => "not-utf8",
        HiddenWhy::Shadowed => "shadowed",
        HiddenWhy::Special => "special",
        HiddenWhy::Escapes => "escapes",
    }
}

const ALL_WHYS: [HiddenWhy; 8] = [
    HiddenWhy::Name(BadName::Empty),
    HiddenWhy::Name(BadName::Dots),
    HiddenWhy::Name(BadName::Forbidden),
    HiddenWhy::Name(BadName::TooLong),
    HiddenWhy::Name(BadName::NotUtf8),
    HiddenWhy::Shadowed,
    HiddenWhy::Special,
    HiddenWhy::Escapes,
];

/// One line each: reason, count, example. Examples are escaped and so hold no line break.
pub(super) fn encode_hidden(hidden: &[Hidden]) -> String {
    use std::fmt::Write;
    let mut text = String::new();
    for Hidden {
        why,
        count,
        example,
    } in hidden
    {
        let example = example.replace(['\n', '\r'], " ");
        // Writing to a String cannot fail.
        let _ = writeln!(text, "{} {count} {example}", why_code(*why));
    }
    text
}

pub(super) fn decode_hidden(text: &str) -> Vec<Hidden> {
    text.lines()
        .filter_map(|line| {
            let mut parts = line.splitn(3, ' ');
            let code = parts.next()?;
            let count = parts.next()?.parse().ok()?;
            Some(Hidden {
                why: ALL_WHYS.into_iter().find(|why| why_code(*why) == code)?,
                count,
                example: parts.next().unwrap_or_default().to_owned(),
            })
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_reason_for_hiding_survives() {
        let hidden: Vec<Hidden> = ALL_WHYS
            .into_iter()
            .enumerate()
            .map(|(i, why)| Hidden {
                why,
                count: i as u64 + 1,
                example: format!("a name\\n{i}"),
            })
            .collect();
        assert_eq!(decode_hidden(&encode_hidden(&hidden)), hidden);
        assert_eq!(decode_hidden("nonsense\n\nspecial x y\n"), Vec::new());
    }
}
