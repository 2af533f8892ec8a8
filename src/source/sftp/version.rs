//! What a server's attributes say of a file: its entry and its version.
//!
//! A version is size and mtime: weak. The protocol tells times in seconds, so that a file which was
//! changed within the last two may change again and look the same. Such a version is provisional: it
//! ends in `~` and a number that no other has, and once the time is old enough to count, what was
//! read before that is not trusted.

use std::time::Duration;

use super::wire::Attrs;
use crate::entry::{Entry, Timestamp, Version};
use crate::path::Name;

/// How old an mtime must be for it to count: its own second, and one for clocks that differ.
const YOUNG: Duration = Duration::from_secs(2);

/// An mtime so far ahead of our clock is no clock that differs, but somebody's choice.
const AHEAD: Duration = Duration::from_secs(24 * 3600);

/// What stands before the number of a provisional version.
const PROVISIONAL: char = '~';

const TYPE: u32 = 0o170_000;

/// What a path is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum What {
    File,
    Dir,
    Symlink,
    Special,
    /// The server does not say.
    Unknown,
}

pub(super) fn what(attrs: &Attrs) -> What {
    match attrs.mode.map(|mode| mode & TYPE) {
        None | Some(0) => What::Unknown,
        Some(0o100_000) => What::File,
        Some(0o040_000) => What::Dir,
        Some(0o120_000) => What::Symlink,
        Some(_) => What::Special,
    }
}

/// Returns what is compared around each read.
pub(super) fn pin(attrs: &Attrs) -> String {
    let size = attrs.size.unwrap_or(0);
    match attrs.mtime {
        Some(mtime) => format!("{size}@{mtime}"),
        None => format!("{size}@"),
    }
}

/// Returns the part of a version that [`pin`] repeats.
pub(super) fn pinned(entry: &Entry) -> &str {
    let text = entry.validator.as_deref();
    let text = text.unwrap_or(&entry.version.token);
    text.split(PROVISIONAL).next().unwrap_or(text)
}

pub(super) fn file(name: Name, attrs: &Attrs, now: Timestamp) -> Entry {
    let pin = pin(attrs);
    let mtime = time(attrs);
    let token = match mtime.is_some_and(|mtime| is_young(mtime, now)) {
        true => format!("{pin}{PROVISIONAL}{}", now.0),
        false => pin.clone(),
    };
    let size = attrs.size.unwrap_or(0);
    let mut entry = Entry::file(name, size, mtime, Version::weak(token));
    entry.validator = Some(pin.into());
    entry.executable = attrs.mode.map(|mode| mode & 0o111 != 0);
    entry
}

pub(super) fn dir(name: Name, attrs: &Attrs) -> Entry {
    let mut entry = Entry::dir(name);
    entry.mtime = time(attrs);
    entry
}

/// A link's version has its target in it: links are made anew, not changed.
pub(super) fn symlink(name: Name, attrs: &Attrs, target: &str) -> Entry {
    let hash = blake3::hash(target.as_bytes()).to_hex();
    let short = hash.get(..16).unwrap_or_default();
    let version = Version::weak(format!("{}>{short}", pin(attrs)));
    Entry::symlink(name, target, time(attrs), version)
}

fn time(attrs: &Attrs) -> Option<Timestamp> {
    attrs.mtime.map(|secs| Timestamp::from_secs(secs.into()))
}

fn is_young(mtime: Timestamp, now: Timestamp) -> bool {
    match now.since(mtime) {
        Some(age) => age < YOUNG,
        None => mtime.since(now).is_some_and(|ahead| ahead < AHEAD),
    }
}

fn is_provisional(entry: &Entry) -> bool {
    entry.version.token.contains(PROVISIONAL)
}

/// Returns whether two descriptions of a path are of the same bytes as far as both can tell.
pub(super) fn agree(before: &Entry, now: &Entry) -> bool {
    let same = match before.kind == now.kind && before.target == now.target {
        true if before.validator.is_some() => pinned(before) == pinned(now),
        true => before.version == now.version,
        false => false,
    };
    same && is_provisional(before) <= is_provisional(now)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(size: u64, mtime: u32, now: i64) -> Entry {
        let attrs = Attrs {
            size: Some(size),
            mode: Some(0o100_755),
            mtime: Some(mtime),
        };
        file(Name::new("f").unwrap(), &attrs, Timestamp(now))
    }

    const SEC: i64 = 1_000_000_000;

    #[test]
    fn young_files_are_provisional() {
        let old = entry(5, 100, 103 * SEC);
        assert_eq!(&*old.version.token, "5@100");
        assert_eq!(old.executable, Some(true));
        assert_eq!(old, entry(5, 100, 104 * SEC));
        let (one, other) = (entry(5, 100, 101 * SEC), entry(5, 100, 101 * SEC + 1));
        assert_ne!(one.version, other.version);
        assert!(agree(&one, &other));
        assert_eq!(pinned(&one), "5@100");
        assert!(!agree(&one, &old), "read again once it is certain");
        assert!(is_provisional(&entry(5, 100, 90 * SEC)), "a clock ahead");
        assert!(
            !is_provisional(&entry(5, 1_000_000, 90 * SEC)),
            "the future"
        );
    }

    #[test]
    fn what_differs_is_another_version() {
        let now = 1_000 * SEC;
        assert!(agree(&entry(5, 100, now), &entry(5, 100, now)));
        assert!(!agree(&entry(5, 100, now), &entry(6, 100, now)));
        assert!(!agree(&entry(5, 100, now), &entry(5, 101, now)));
        let name = || Name::new("f").unwrap();
        let attrs = Attrs::default();
        let link = |target| symlink(name(), &attrs, target);
        assert!(agree(&link("a"), &link("a")));
        assert!(!agree(&link("a"), &link("b")));
        assert!(!agree(&link("a"), &entry(0, 0, now)));
    }

    #[test]
    fn kinds_come_from_the_mode() {
        let of = |mode| {
            what(&Attrs {
                mode,
                ..Attrs::default()
            })
        };
        assert_eq!(of(None), What::Unknown);
        assert_eq!(of(Some(0o644)), What::Unknown);
        assert_eq!(of(Some(0o100_644)), What::File);
        assert_eq!(of(Some(0o040_755)), What::Dir);
        assert_eq!(of(Some(0o120_777)), What::Symlink);
        for special in [0o010_644, 0o020_644, 0o060_644, 0o140_644] {
            assert_eq!(of(Some(special)), What::Special);
        }
    }
}
