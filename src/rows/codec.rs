//! A row as bytes, and back. For memory and scratch files of one process: there is no version.
//! Who keeps packed entries for another process (`vfs::journal`) has one of its own.
//!
//! `name length (1), name, flags (2), size (varint), time, version, validator, target, digest,
//! listed version, seen`, each only where the flags say so. What most listings repeat is short: a
//! time of whole seconds is a varint, and a quoted MD5 as a version, S3's, is its 16 bytes.

use std::sync::Arc;

use super::Lost;
use crate::entry::{Digest, Entry, Kind, Timestamp, Version};
use crate::path::Name;

/// An entry, with what is known of it beyond its source's listing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Row {
    /// The entry.
    pub entry: Entry,
    /// What a `stat` added.
    pub note: Option<Box<Note>>,
}

impl Row {
    /// Returns the row of an entry that was only listed.
    pub fn new(entry: Entry) -> Row {
        Row { entry, note: None }
    }
}

/// What a `stat` added to an entry.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Note {
    /// The version that the listing gave, where the entry's own now comes from a `stat`. As long
    /// as listings repeat it, the entry is unchanged.
    pub listed: Option<Version>,
    /// When a `stat` last confirmed the version.
    pub seen: Option<Timestamp>,
}

const KIND: u16 = 0b11;
const STRONG: u16 = 1 << 2;
const SIZE: u16 = 1 << 3;
const TIME: u16 = 1 << 4;
/// The time is of whole seconds.
const SECONDS: u16 = 1 << 5;
/// The version is a quoted MD5.
const MD5: u16 = 1 << 6;
const VALIDATOR: u16 = 1 << 7;
/// The validator is the version.
const SAME: u16 = 1 << 8;
const EXECUTABLE_KNOWN: u16 = 1 << 9;
const EXECUTABLE: u16 = 1 << 10;
const TARGET: u16 = 1 << 11;
const DIGEST: u16 = 1 << 12;
const LISTED: u16 = 1 << 13;
const LISTED_STRONG: u16 = 1 << 14;
const SEEN: u16 = 1 << 15;

const SECOND: i64 = 1_000_000_000;

/// Appends a number; small ones are short.
pub(crate) fn put_number(out: &mut Vec<u8>, mut number: u64) {
    while number >= 0x80 {
        out.push(number as u8 | 0x80);
        number >>= 7;
    }
    out.push(number as u8);
}

/// Appends a text with its length.
pub(crate) fn put_text(out: &mut Vec<u8>, text: &str) {
    put_number(out, text.len() as u64);
    out.extend_from_slice(text.as_bytes());
}

/// Returns the digest if `text` is one of MD5 in quotes, in lower case.
fn md5(text: &str) -> Option<[u8; 16]> {
    let hex = text.strip_prefix('"')?.strip_suffix('"')?.as_bytes();
    let nibble = |c: u8| match c {
        b'0'..=b'9' => Some(c - b'0'),
        b'a'..=b'f' => Some(c - b'a' + 10),
        _ => None,
    };
    let hex: &[u8; 32] = hex.try_into().ok()?;
    let mut digest = [0; 16];
    for (byte, pair) in digest.iter_mut().zip(hex.chunks_exact(2)) {
        *byte = nibble(pair[0])? << 4 | nibble(pair[1])?;
    }
    Some(digest)
}

fn quoted(digest: &[u8]) -> String {
    const HEX: &[u8; 16] = b"0123456789abcdef";
    let mut text = String::with_capacity(34);
    text.push('"');
    for byte in digest {
        text.push(HEX[usize::from(byte >> 4)].into());
        text.push(HEX[usize::from(byte & 15)].into());
    }
    text.push('"');
    text
}

pub(super) fn encode(row: &Row, out: &mut Vec<u8>) {
    put(&row.entry, row.note.as_deref(), out);
}

/// Appends an entry. What follows it is for [`Reader::entry`] to leave.
pub(crate) fn put_entry(entry: &Entry, out: &mut Vec<u8>) {
    put(entry, None, out);
}

fn put(entry: &Entry, note: Option<&Note>, out: &mut Vec<u8>) {
    let name = entry.name.as_str().as_bytes();
    // A name has 255 bytes at most.
    out.push(name.len() as u8);
    out.extend_from_slice(name);
    let digest = md5(&entry.version.token);
    let same = entry.validator.as_ref() == Some(&entry.version.token);
    let listed = note.and_then(|note| note.listed.as_ref());
    let seen = note.and_then(|note| note.seen);
    let mut flags = match entry.kind {
        Kind::Dir => 0,
        Kind::File => 1,
        Kind::Symlink => 2,
    };
    for (set, flag) in [
        (entry.version.strong, STRONG),
        (entry.size.is_some(), SIZE),
        (entry.mtime.is_some(), TIME),
        (entry.mtime.is_some_and(|t| t.0 % SECOND == 0), SECONDS),
        (digest.is_some(), MD5),
        (entry.validator.is_some(), VALIDATOR),
        (same, SAME),
        (entry.executable.is_some(), EXECUTABLE_KNOWN),
        (entry.executable == Some(true), EXECUTABLE),
        (entry.target.is_some(), TARGET),
        (entry.digest.is_some(), DIGEST),
        (listed.is_some(), LISTED),
        (listed.is_some_and(|v| v.strong), LISTED_STRONG),
        (seen.is_some(), SEEN),
    ] {
        if set {
            flags |= flag;
        }
    }
    out.extend_from_slice(&flags.to_le_bytes());
    if let Some(size) = entry.size {
        put_number(out, size);
    }
    match entry.mtime {
        Some(Timestamp(time)) if flags & SECONDS != 0 => {
            let seconds = time / SECOND;
            put_number(out, (seconds << 1 ^ seconds >> 63) as u64);
        }
        Some(Timestamp(time)) => out.extend_from_slice(&time.to_le_bytes()),
        None => {}
    }
    match digest {
        Some(digest) => out.extend_from_slice(&digest),
        None => put_text(out, &entry.version.token),
    }
    if let Some(validator) = entry.validator.as_ref().filter(|_| !same) {
        put_text(out, validator);
    }
    if let Some(target) = &entry.target {
        put_text(out, target);
    }
    if let Some(Digest::Sha256(digest)) = &entry.digest {
        out.extend_from_slice(digest);
    }
    if let Some(listed) = listed {
        put_text(out, &listed.token);
    }
    if let Some(seen) = seen {
        out.extend_from_slice(&seen.0.to_le_bytes());
    }
    // What says nothing is as good as none: both read back as none.
}

/// What is left to be read.
pub(crate) struct Reader<'a>(pub(crate) &'a [u8]);

impl<'a> Reader<'a> {
    pub(crate) fn take(&mut self, len: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(len)?;
        self.0 = rest;
        Some(taken)
    }

    pub(crate) fn byte(&mut self) -> Option<u8> {
        self.take(1).map(|byte| byte[0])
    }

    pub(crate) fn number(&mut self) -> Option<u64> {
        let mut number = 0;
        for shift in (0..64).step_by(7) {
            let byte = self.byte()?;
            number |= u64::from(byte & 0x7f) << shift;
            if byte < 0x80 {
                return Some(number);
            }
        }
        None
    }

    fn long(&mut self) -> Option<i64> {
        Some(i64::from_le_bytes(self.take(8)?.try_into().ok()?))
    }

    fn flags(&mut self) -> Option<u16> {
        Some(u16::from_le_bytes(self.take(2)?.try_into().ok()?))
    }

    pub(crate) fn text(&mut self) -> Option<&'a str> {
        let len = usize::try_from(self.number()?).ok()?;
        std::str::from_utf8(self.take(len)?).ok()
    }

    fn name(&mut self) -> Option<&'a str> {
        let len = self.byte()?;
        std::str::from_utf8(self.take(len.into())?).ok()
    }

    /// Reads what [`put_entry`] wrote.
    pub(crate) fn entry(&mut self) -> Option<Entry> {
        read(self).map(|row| row.entry)
    }
}

fn odd() -> Lost {
    Lost("it is not what was written".into())
}

fn kind(flags: u16) -> Kind {
    match flags & KIND {
        0 => Kind::Dir,
        1 => Kind::File,
        _ => Kind::Symlink,
    }
}

/// Returns the name of a row.
pub(super) fn name(bytes: &[u8]) -> Result<&str, Lost> {
    Reader(bytes).name().ok_or_else(odd)
}

/// Returns the kind and size of a row.
pub(super) fn summary(bytes: &[u8]) -> Result<(Kind, Option<u64>), Lost> {
    let mut reader = Reader(bytes);
    let mut read = || {
        reader.name()?;
        let flags = reader.flags()?;
        let size = match flags & SIZE {
            0 => None,
            _ => Some(reader.number()?),
        };
        Some((kind(flags), size))
    };
    read().ok_or_else(odd)
}

pub(super) fn decode(bytes: &[u8]) -> Result<Row, Lost> {
    read(&mut Reader(bytes)).ok_or_else(odd)
}

fn read(reader: &mut Reader<'_>) -> Option<Row> {
    let name = Name::new(reader.name()?).ok()?;
    let flags = reader.flags()?;
    let is = |flag: u16| flags & flag != 0;
    let size = if is(SIZE) {
        Some(reader.number()?)
    } else {
        None
    };
    let mtime = if is(SECONDS) {
        let number = reader.number()?;
        let seconds = (number >> 1) as i64 ^ -((number & 1) as i64);
        Some(Timestamp(seconds.checked_mul(SECOND)?))
    } else if is(TIME) {
        Some(Timestamp(reader.long()?))
    } else {
        None
    };
    let token: Arc<str> = if is(MD5) {
        quoted(reader.take(16)?).into()
    } else {
        reader.text()?.into()
    };
    let validator = if is(SAME) {
        Some(token.clone())
    } else if is(VALIDATOR) {
        Some(reader.text()?.into())
    } else {
        None
    };
    let target = if is(TARGET) {
        Some(reader.text()?.into())
    } else {
        None
    };
    let digest = if is(DIGEST) {
        Some(Digest::Sha256(reader.take(32)?.try_into().ok()?))
    } else {
        None
    };
    let listed = if is(LISTED) {
        Some(Version {
            strong: is(LISTED_STRONG),
            token: reader.text()?.into(),
        })
    } else {
        None
    };
    let seen = if is(SEEN) {
        Some(Timestamp(reader.long()?))
    } else {
        None
    };
    let note = (listed.is_some() || seen.is_some()).then(|| Box::new(Note { listed, seen }));
    Some(Row {
        entry: Entry {
            name,
            kind: kind(flags),
            size,
            mtime,
            version: Version {
                strong: is(STRONG),
                token,
            },
            validator,
            executable: is(EXECUTABLE_KNOWN).then_some(is(EXECUTABLE)),
            target,
            digest,
        },
        note,
    })
}
