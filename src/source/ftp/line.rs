//! Lines of listings: MLSD's, which are specified, and LIST's, which are what `ls` or `dir` print.
//!
//! Pure functions on bytes. A line that is none of these is nothing; names are taken as they stand,
//! blanks at their ends included.

use super::time::{self, Time};
use crate::entry::Timestamp;

/// What a line says of one name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Item {
    pub(super) name: Vec<u8>,
    pub(super) what: What,
    pub(super) size: Option<u64>,
    pub(super) time: Option<Time>,
    pub(super) executable: Option<bool>,
    /// MLSD's `unique`: the same for one file under all of its names.
    pub(super) unique: Option<String>,
}

/// What a name stands for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum What {
    File,
    Dir,
    /// With its target.
    Symlink(Vec<u8>),
    /// A device, a pipe, a link without its target.
    Special,
    /// The directory itself or the one above it.
    Itself,
}

/// The longest `unique` that is taken as it is, in bytes; servers write some 16.
const UNIQUE: usize = 64;

/// Returns what a line of MLSD, or of the reply to MLST, says.
pub(super) fn machine(line: &[u8]) -> Option<Item> {
    // The first blank ends the facts: no fact has one.
    let blank = line.iter().position(|b| *b == b' ')?;
    let (facts, name) = (line.get(..blank)?, line.get(blank + 1..)?);
    let facts = std::str::from_utf8(facts).ok()?;
    let mut item = Item {
        name: name.to_vec(),
        what: What::Special,
        size: None,
        time: None,
        executable: None,
        unique: None,
    };
    let mut any = false;
    for fact in facts.split(';').filter(|f| !f.is_empty()) {
        let (key, value) = fact.split_once('=')?;
        any = true;
        match key.to_ascii_lowercase().as_str() {
            "type" => item.what = kind(value),
            "size" => item.size = value.parse().ok(),
            "modify" => item.time = time::compact(value),
            "unix.mode" => {
                let mode = u32::from_str_radix(value, 8).ok();
                item.executable = mode.map(|mode| mode & 0o111 != 0);
            }
            "unique" if (1..=UNIQUE).contains(&value.len()) => item.unique = Some(value.to_owned()),
            _ => {}
        }
    }
    (any && !item.name.is_empty()).then_some(item)
}

fn kind(value: &str) -> What {
    let lower = value.to_ascii_lowercase();
    match lower.as_str() {
        "file" => What::File,
        "dir" => What::Dir,
        "cdir" | "pdir" => What::Itself,
        _ => match value.get(.."os.unix=slink:".len()) {
            Some(prefix) if prefix.eq_ignore_ascii_case("os.unix=slink:") => {
                let target = value.get(prefix.len()..).unwrap_or_default();
                match target.is_empty() {
                    true => What::Special,
                    false => What::Symlink(target.into()),
                }
            }
            _ => What::Special,
        },
    }
}

/// Returns what a line of LIST says, as seen at `now`.
pub(super) fn listed(line: &[u8], now: Timestamp) -> Option<Item> {
    let mut item = unix(line, now).or_else(|| dos(line))?;
    if matches!(item.name.as_slice(), b"." | b"..") {
        item.what = What::Itself;
    }
    (!item.name.is_empty()).then_some(item)
}

/// A word of a line and where it ends.
struct Word<'a> {
    text: &'a str,
    end: usize,
}

/// Returns the first words of a line. Those that are not UTF-8 (a user's name) are empty.
fn words(line: &[u8]) -> Vec<Word<'_>> {
    /// `ls` has eight before the name; some servers add one or two.
    const MOST: usize = 12;
    let mut words = Vec::with_capacity(MOST);
    let mut from = None;
    for (at, byte) in line.iter().chain(b" ").enumerate() {
        match (from, *byte == b' ' || *byte == b'\t') {
            (None, false) => from = Some(at),
            (Some(start), true) => {
                let text = line.get(start..at).unwrap_or_default();
                let text = std::str::from_utf8(text).unwrap_or_default();
                words.push(Word { text, end: at });
                from = None;
                if words.len() == MOST {
                    break;
                }
            }
            _ => {}
        }
    }
    words
}

/// Parses `-rw-r--r-- 1 user group 1234 Nov 5 13:46 name`.
fn unix(line: &[u8], now: Timestamp) -> Option<Item> {
    let mode = line.get(..10)?;
    let is_mode = |b: &u8| b"-rwxsStTlL".contains(b);
    if !mode.get(1..)?.iter().all(is_mode) {
        return None;
    }
    let what = match mode.first()? {
        b'-' => What::File,
        b'd' => What::Dir,
        b'l' => What::Symlink(Vec::new()),
        b'b' | b'c' | b'p' | b's' | b'D' => What::Special,
        _ => return None,
    };
    let words = words(line);
    let text = |at: usize| words.get(at).map(|w| w.text);
    // The time is where three words are one; before it stands the size. Servers differ in how many
    // columns come before that.
    let (at, last, time) = (2..words.len()).find_map(|at| {
        let (one, two) = (text(at)?, text(at + 1)?);
        if let Some(time) = text(at + 2).and_then(|three| time::unix(one, two, three, now)) {
            return Some((at, at + 2, time));
        }
        Some((at, at + 1, time::iso(one, two)?))
    })?;
    let size: Option<u64> = text(at - 1).and_then(|size| size.parse().ok());
    if size.is_none() && what == What::File {
        return None;
    }
    let name = line.get(words.get(last)?.end + 1..)?;
    let runs = |at: usize| mode.get(at).is_some_and(|b| b"xst".contains(b));
    let mut item = Item {
        name: name.to_vec(),
        size,
        time: Some(time),
        executable: Some(runs(3) || runs(6) || runs(9)),
        unique: None,
        what,
    };
    if matches!(item.what, What::Symlink(_)) {
        (item.name, item.what) = arrow(name, size);
    }
    Some(item)
}

/// Takes `name -> target` apart. Both may hold an arrow; a link's size is its target's length.
fn arrow(text: &[u8], size: Option<u64>) -> (Vec<u8>, What) {
    const ARROW: &[u8] = b" -> ";
    let splits = || {
        let arrows = text.windows(ARROW.len()).enumerate();
        arrows.filter(|(_, w)| *w == ARROW).filter_map(|(at, _)| {
            let target = text.get(at + ARROW.len()..)?;
            Some((text.get(..at)?, target))
        })
    };
    let fits = splits().find(|(_, target)| Some(target.len() as u64) == size);
    match fits.or_else(|| splits().next()) {
        Some((name, target)) if !target.is_empty() => (name.into(), What::Symlink(target.into())),
        _ => (text.into(), What::Special),
    }
}

/// Parses `10-19-20  03:19PM  <DIR>  pub` and `10-19-20  03:19PM  403 readme.txt`.
fn dos(line: &[u8]) -> Option<Item> {
    let words = words(line);
    let text = |at: usize| words.get(at).map(|w| w.text);
    let (date, clock, third) = (text(0)?, text(1)?, text(2)?);
    let time = time::dos(date, clock).or_else(|| time::iso(date, clock))?;
    let rest = line.get(words.get(2)?.end + 1..)?;
    let (what, size) = match third {
        "<DIR>" => (What::Dir, None),
        _ if third.starts_with('<') => (What::Special, None),
        _ => (What::File, Some(third.replace(',', "").parse().ok()?)),
    };
    let name = match what {
        What::File => rest,
        _ => rest.trim_ascii_start(),
    };
    Some(Item {
        name: name.to_vec(),
        what,
        size,
        time: Some(time),
        executable: None,
        unique: None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::source::ftp::time::Resolution;
    use proptest::prelude::*;

    const NOW: Timestamp = Timestamp(1_795_350_000_000_000_000);

    fn ls(line: &str) -> Item {
        listed(line.as_bytes(), NOW).unwrap_or_else(|| panic!("{line}"))
    }

    #[test]
    fn lines_of_mlsd() {
        let item =
            machine(b"type=file;size=5;modify=20201019151930.1;UNIX.mode=0755;unique=8g1; a b ");
        let item = item.unwrap();
        assert_eq!((item.what, item.size), (What::File, Some(5)));
        assert_eq!(item.name, b"a b ");
        assert_eq!(
            (item.executable, item.unique.as_deref()),
            (Some(true), Some("8g1"))
        );
        assert_eq!(item.time.unwrap().secs(), 1_603_120_770);
        let what = |line: &str| machine(line.as_bytes()).map(|item| item.what);
        assert_eq!(what("Type=Dir; ; "), Some(What::Dir));
        assert_eq!(what("type=cdir; ."), Some(What::Itself));
        assert_eq!(
            what("type=OS.unix=slink:/a/b; n"),
            Some(What::Symlink(b"/a/b".to_vec()))
        );
        assert_eq!(what("type=OS.UNIX=slink:; n"), Some(What::Special));
        assert_eq!(what("type=OS.unix=symlink; n"), Some(What::Special));
        assert_eq!(what("type=OS.unix=chr-1/3; n"), Some(What::Special));
        let odd = machine(b"type=file;size=-5;modify=yesterday; n").unwrap();
        assert_eq!((odd.size, odd.time), (None, None));
        for bad in [
            "",
            " name",
            "type=file;",
            "type=file; ",
            "second line of a name",
            "total 5",
        ] {
            assert_eq!(what(bad), None, "{bad}");
        }
    }

    #[test]
    fn lines_of_ls() {
        let item = ls("-rw-r--r--    1 1000     1000         1234 Nov 05 13:46  two  blanks ");
        assert_eq!(item.name, b" two  blanks ");
        assert_eq!((item.what, item.size), (What::File, Some(1234)));
        assert_eq!(item.executable, Some(false));
        assert_eq!(item.time.unwrap().resolution, Resolution::Minute);
        let item = ls("drwxr-xr-x 2 u g 4096 Sep 13  2020 Nov 5 2018");
        assert_eq!(
            (item.name.as_slice(), item.what),
            (&b"Nov 5 2018"[..], What::Dir)
        );
        assert_eq!(
            ls("-rwxr-x--- 1 owner 17 Jan 1 1999 no-group").size,
            Some(17)
        );
        assert_eq!(ls("-rw-r--r-- 1 u g 5 2020-10-19 15:19 iso").name, b"iso");
        assert_eq!(ls("-rw-r--r--+ 1 u g 5 Jan 1 2020 acl").name, b"acl");
        let link = ls("lrwxrwxrwx 1 u g 3 Jan 1 2020 a -> b -> c/d");
        assert_eq!(link.what, What::Symlink(b"c/d".to_vec()));
        assert_eq!(link.name, b"a -> b");
        let link = ls("lrwxrwxrwx 1 u g 99 Jan 1 2020 a -> b");
        assert_eq!(
            (link.name.as_slice(), link.what),
            (&b"a"[..], What::Symlink(b"b".to_vec()))
        );
        assert_eq!(ls("lrwxrwxrwx 1 u g 99 Jan 1 2020 a").what, What::Special);
        assert_eq!(
            ls("crw-rw-rw- 1 root root 1, 3 Jan 1 2020 null").what,
            What::Special
        );
        assert_eq!(
            ls("drwxr-xr-x 2 u g 4096 Sep 13  2020 ..").what,
            What::Itself
        );
    }

    #[test]
    fn lines_of_dos() {
        let item = ls("10-19-20  03:19PM       <DIR>          pub docs");
        assert_eq!(
            (item.name.as_slice(), item.what),
            (&b"pub docs"[..], What::Dir)
        );
        let item = ls("04-08-2014  15:09                1,403  readme.txt");
        assert_eq!(
            (item.name.as_slice(), item.size),
            (&b" readme.txt"[..], Some(1403))
        );
        assert_eq!(ls("10-19-20  03:19PM <JUNCTION> x").what, What::Special);
    }

    #[test]
    fn what_is_no_entry_is_none() {
        for line in [
            "",
            "total 12",
            "-rw-r--r--",
            "-rw-r--r-- 1 u g x Jan 1 2020 n",
            "hello world 1 2 3",
            "-rw-r--r-- 1 u g 5 Jan 1 2020",
            "-rw-r--r-- 1 u g 5 Jan 1 2020 ",
            "\u{fffd}\u{fffd}",
            "drwxr-xr-x 1 u g 4 Jan 32 2020 n",
            "10-19-20  03:19PM  -4 n",
        ] {
            assert_eq!(listed(line.as_bytes(), NOW), None, "{line:?}");
        }
    }

    proptest! {
        #[test]
        fn no_bytes_panic(bytes in prop::collection::vec(any::<u8>(), 0..200), now: i64) {
            let _ = machine(&bytes);
            let _ = listed(&bytes, Timestamp(now));
        }

        #[test]
        fn nearly_right_lines_do_not_panic(
            line in "[-dlbc]([-rwxst]{9}) {1,3}[0-9]{0,3} [a-zü]{0,5} {0,2}[0-9]{0,22} \
                     (Jan|Feb|[A-Z]{1,4}) [0-9]{1,3} [0-9]{0,3}:?[0-9]{0,3} ?.{0,9}( -> )?.{0,3}",
            now: i64,
        ) {
            let _ = listed(line.as_bytes(), Timestamp(now));
        }

        #[test]
        fn names_come_back_as_they_are(name in "[^\r\n\0/]{1,40}", size: u64) {
            prop_assume!(name != "." && name != "..");
            let line = format!("type=file;size={size};modify=20201019151930; {name}");
            let item = machine(line.as_bytes()).unwrap();
            prop_assert_eq!((item.name, item.size), (name.clone().into_bytes(), Some(size)));
            let line = format!("-rw-r--r--    1 0        0        {size} Sep 13  2020 {name}");
            let item = listed(line.as_bytes(), NOW).unwrap();
            prop_assert_eq!((item.name, item.size), (name.into_bytes(), Some(size)));
        }
    }
}
