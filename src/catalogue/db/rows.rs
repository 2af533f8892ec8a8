//! Entries as rows of SQLite, and back.

use std::sync::Arc;

use rusqlite::types::ValueRef;
use rusqlite::{Connection, OptionalExtension, Row as SqlRow, params};

use super::Stored;
use crate::catalogue::directory::{Directory, Note, Row};
use crate::entry::{Digest, Entry, Kind, Timestamp, Version};
use crate::path::{BadName, Name, RelPath};
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
) -> rusqlite::Result<Option<Stored>> {
    // One snapshot for both queries.
    let transaction = connection.unchecked_transaction()?;
    let head = transaction
        .prepare_cached(
            "SELECT id, listed_at, generation, invalid_at, hidden FROM dirs
             WHERE source = ?1 AND path = ?2",
        )?
        .query_row(params![source, path.as_str()], |row| {
            Ok((
                row.get::<_, i64>(0)?,
                Timestamp(row.get(1)?),
                row.get::<_, u64>(2)?,
                row.get::<_, Option<i64>>(3)?.map(Timestamp),
                decode_hidden(row.get_ref(4)?.as_str()?),
            ))
        })
        .optional()?;
    let Some((id, listed_at, generation, invalid_at, hidden)) = head else {
        return Ok(None);
    };
    let mut statement = transaction.prepare_cached(
        "SELECT name, flags, size, mtime, version, validator, target, digest, listed_version, seen
         FROM entries WHERE dir = ?1 ORDER BY name",
    )?;
    let mut found = statement.query([id])?;
    let mut rows = Vec::new();
    while let Some(row) = found.next()? {
        let Ok(name) = Name::new(row.get_ref(0)?.as_str()?) else {
            // Whoever wrote this was not us. Without the row the directory would be wrong.
            return Ok(None);
        };
        let flags: i64 = row.get(1)?;
        let entry = decode_entry(row, name, flags)?;
        let listed = text(row, 8)?.map(|token| Version {
            strong: flags & LISTED_STRONG != 0,
            token,
        });
        let seen = row.get::<_, Option<i64>>(9)?.map(Timestamp);
        let note = (listed.is_some() || seen.is_some()).then(|| Box::new(Note { listed, seen }));
        rows.push(Row { entry, note });
    }
    let dir = Directory::from_rows(rows, hidden.into(), listed_at, generation, None);
    Ok(Some(Stored { dir, invalid_at }))
}

/// Decodes what `load` and `superseded` select alike: columns 2 to 7 after name and flags.
fn decode_entry(row: &SqlRow<'_>, name: Name, flags: i64) -> rusqlite::Result<Entry> {
    let token: Arc<str> = row.get_ref(4)?.as_str()?.into();
    let validator = if flags & SAME_VALIDATOR != 0 {
        Some(token.clone())
    } else {
        text(row, 5)?
    };
    Ok(Entry {
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
    })
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

/// Writes one row, new or over an old one.
pub(super) fn store_row(connection: &Connection, dir: i64, row: &Row) -> rusqlite::Result<()> {
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
    connection
        .prepare_cached(
            "INSERT OR REPLACE INTO entries
             (dir, name, flags, size, mtime, version, validator, target, digest, listed_version,
              seen)
             VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11)",
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
        ])?;
    Ok(())
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
            "SELECT path, flags, size, mtime, version, validator, target, digest FROM superseded
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
