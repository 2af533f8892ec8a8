//! Versions of files on FTP servers: a size, a time and, from some, a `unique` id. All weak.
//!
//! Two parties describe a file: a listing, which on servers without MLSD knows minutes or, of files
//! older than half a year, days, perhaps in the server's own time zone; and a question about the
//! file itself (MLST, or SIZE and MDTM), which knows seconds in UTC. An entry's *version* is what
//! its first description says, and stays as long as later ones do not contradict it. Its *validator*
//! is made of a time of seconds, and what every read must find again.
//!
//! A file that was changed within the resolution of its own time may change again and look the
//! same. Such a description is provisional: it ends in `~` and a number that no other has.

use std::time::Duration;

use super::line::{Item, What};
use super::time::{Resolution, Time};
use crate::entry::{Entry, Timestamp, Version};
use crate::path::{BadName, Name, PATH_MAX};
use crate::source::HiddenWhy;

/// How old a time must be for it to count: its own second, and one for clocks that round.
const YOUNG: Duration = Duration::from_secs(2);

/// What stands before the number of a provisional version or validator.
const PROVISIONAL: char = '~';

/// How far a listing's clock may be off UTC, in minutes.
const ZONES: i64 = 14 * 60;

/// Returns the entry that a listing's line stands for; nothing for the directory itself.
pub(super) fn entry(item: &Item, now: Timestamp) -> Result<Option<Entry>, HiddenWhy> {
    if item.what == What::Itself {
        return Ok(None);
    }
    // A bare CR or LF cannot be said in a command.
    if item.name.iter().any(|b| matches!(b, b'\r' | b'\n')) {
        return Err(BadName::Forbidden.into());
    }
    let name = Name::from_bytes(&item.name)?;
    let mtime = item.time.map(|t| t.at);
    Ok(Some(match &item.what {
        What::Dir => Entry {
            mtime,
            ..Entry::dir(name)
        },
        What::Symlink(target) if target.len() > PATH_MAX => Err(BadName::TooLong)?,
        What::Symlink(target) if target.contains(&0) => Err(BadName::Forbidden)?,
        What::Symlink(target) => {
            let target = std::str::from_utf8(target).map_err(|_| BadName::NotUtf8)?;
            Entry::symlink(name, target, mtime, Version::weak(format!("->{target}")))
        }
        What::Special | What::Itself => return Err(HiddenWhy::Special),
        What::File => file(name, item, now),
    }))
}

/// Returns the entry of a file. Without a size its version is empty, and `stat` gives it one.
pub(super) fn file(name: Name, item: &Item, now: Timestamp) -> Entry {
    let mut entry = Entry::file(name, 0, item.time.map(|t| t.at), Version::weak(""));
    entry.size = item.size;
    entry.executable = item.executable;
    let unique = item
        .unique
        .as_ref()
        .map_or_else(String::new, |u| format!("#{u}"));
    let suffix = match item.time {
        Some(time) if is_young(time, now) => format!("{PROVISIONAL}{}", now.0),
        _ => String::new(),
    };
    if let Some(size) = item.size {
        entry.version = Version::weak(match item.time {
            None => format!("{size}{unique}"),
            Some(time) => {
                let unit = match time.resolution {
                    Resolution::Second => 's',
                    Resolution::Minute => 'm',
                    Resolution::Day => 'd',
                };
                format!("{size}@{}{unit}{unique}{suffix}", time.secs())
            }
        });
    }
    if let Some(time) = item.time.filter(|t| t.resolution == Resolution::Second) {
        entry.validator = Some(format!("{}{unique}{suffix}", time.secs()).into());
    }
    entry
}

/// Only seconds are pinned; a time in the future is by a clock that we do not know.
fn is_young(time: Time, now: Timestamp) -> bool {
    time.resolution == Resolution::Second && now.since(time.at).is_none_or(|age| age < YOUNG)
}

/// Returns whether two descriptions do not contradict each other in anything that both know.
pub(super) fn agree(before: &Entry, now: &Entry) -> bool {
    if before.kind != now.kind || before.target != now.target {
        return false;
    }
    if let (Some(one), Some(other)) = (before.size, now.size)
        && one != other
    {
        return false;
    }
    if let (Some(one), Some(other)) = (&before.validator, &now.validator) {
        let (one, other) = (Pin::of(one), Pin::of(other));
        // Once the time is old enough to count, what was read before that is not trusted.
        return one.seconds == other.seconds
            && (one.unique.is_none() || other.unique.is_none() || one.unique == other.unique)
            && one.provisional <= other.provisional;
    }
    let (Some(one), Some(other)) = (before.mtime, now.mtime) else {
        return true;
    };
    let minutes = |t: Timestamp| t.0.div_euclid(60_000_000_000);
    let apart = minutes(other) - minutes(one);
    match (unit(before), unit(now)) {
        ('d', 'd') | ('m', 'm') | ('s', 's') => one == other,
        // A day begins up to a day before a time that is on it.
        ('d', _) => (-ZONES..24 * 60 + ZONES).contains(&apart),
        (_, 'd') => (-ZONES..24 * 60 + ZONES).contains(&-apart),
        // Local time is whole quarters of an hour off.
        _ => apart % 15 == 0 && apart.abs() <= ZONES,
    }
}

/// Returns how exactly an entry's time is known.
fn unit(entry: &Entry) -> char {
    if entry.validator.is_some() {
        return 's';
    }
    let token = entry.version.token.split(['#', PROVISIONAL]).next();
    let last = token.and_then(|t| t.chars().last());
    last.filter(|c| matches!(c, 'd' | 'm' | 's')).unwrap_or('d')
}

/// The parts of a validator.
struct Pin<'a> {
    seconds: &'a str,
    unique: Option<&'a str>,
    provisional: bool,
}

impl Pin<'_> {
    fn of(validator: &str) -> Pin<'_> {
        let (rest, provisional) = match validator.rsplit_once(PROVISIONAL) {
            Some((rest, n)) if !n.is_empty() && n.bytes().all(|b| b.is_ascii_digit()) => {
                (rest, true)
            }
            _ => (validator, false),
        };
        match rest.split_once('#') {
            Some((seconds, unique)) => Pin {
                seconds,
                unique: Some(unique),
                provisional,
            },
            None => Pin {
                seconds: rest,
                unique: None,
                provisional,
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::line::{listed, machine};
    use super::*;

    const NOW: Timestamp = Timestamp(1_795_350_000_000_000_000);

    fn of(item: Item) -> Entry {
        entry(&item, NOW).unwrap().unwrap()
    }

    fn ls(time: &str) -> Entry {
        of(listed(format!("-rw-r--r-- 1 u g 5 {time} f").as_bytes(), NOW).unwrap())
    }

    fn mlsd(facts: &str) -> Entry {
        of(machine(format!("type=file;{facts} f").as_bytes()).unwrap())
    }

    #[test]
    fn descriptions_agree_in_what_both_know() {
        let exact = mlsd("size=5;modify=20261005134630;");
        for time in ["Oct 5 13:46", "Oct 5 15:46", "Oct 5 08:16", "Oct 5 2026"] {
            assert!(agree(&ls(time), &exact), "{time}");
            assert!(agree(&exact, &ls(time)), "{time}");
        }
        for time in ["Oct 5 13:47", "Oct 5 13:45", "Oct 4 13:46", "Oct 7 2026"] {
            assert!(!agree(&ls(time), &exact), "{time}");
            assert!(!agree(&exact, &ls(time)), "{time}");
        }
        // What was listed with its hour is listed with its year half a year later.
        assert!(agree(&ls("Oct 5 13:46"), &ls("Oct 5 2026")));
        assert!(!agree(&ls("Oct 5 13:46"), &ls("Oct 5 14:01")));
        assert!(!agree(&exact, &mlsd("size=6;modify=20261005134630;")));
        assert!(!agree(&exact, &mlsd("size=5;modify=20261005134631;")));
        assert!(agree(
            &exact,
            &mlsd("size=5;modify=20261005134630;unique=a;")
        ));
        let one = mlsd("size=5;modify=20261005134630;unique=a;");
        assert!(!agree(
            &one,
            &mlsd("size=5;modify=20261005134630;unique=b;")
        ));
        assert!(agree(
            &mlsd("size=5;"),
            &mlsd("size=5;modify=20261005134630;")
        ));
        assert!(agree(&mlsd(""), &exact));
    }

    #[test]
    fn what_changed_just_now_is_provisional() {
        let item = machine(b"type=file;size=5;modify=20261005134630;unique=a~1; f").unwrap();
        let time = item.time.unwrap().at;
        let at = |seconds: i64| entry(&item, Timestamp(time.0 + seconds * 1_000_000_000 + 7));
        let at = |seconds| at(seconds).unwrap().unwrap();
        let (young, again, old) = (at(0), at(1), at(60));
        assert_ne!(young.version, again.version);
        assert!(agree(&young, &again), "nothing says that it changed");
        assert!(!agree(&young, &old), "the last word may not have been said");
        assert!(agree(&old, &old));
        assert!(!young.version.strong && !old.version.strong);
        assert_ne!(at(-60).version, old.version, "by a clock that is ahead");
    }

    #[test]
    fn names_that_no_command_can_hold_are_hidden() {
        let hidden = |line: &[u8]| entry(&machine(line).unwrap(), NOW).unwrap_err();
        let forbidden = HiddenWhy::Name(BadName::Forbidden);
        assert_eq!(hidden(b"type=file; a\rDELE b"), forbidden);
        assert_eq!(hidden(b"type=file; a\0b"), forbidden);
        assert_eq!(hidden(b"type=file; a/b"), forbidden);
        assert_eq!(
            hidden(b"type=file; \xff"),
            HiddenWhy::Name(BadName::NotUtf8)
        );
        assert_eq!(hidden(b"type=file; .."), HiddenWhy::Name(BadName::Dots));
        assert_eq!(hidden(b"type=OS.unix=pipe; p"), HiddenWhy::Special);
    }
}
