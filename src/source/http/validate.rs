//! Versions and validators of HTTP objects.
//!
//! Three parties describe an object: an index page (a size, a time of minutes, perhaps in the
//! server's own time zone), the headers of a reply (a size, a time of seconds, an ETag) and a
//! manifest (a digest). An entry's *version* is what its first full description says, and it stays
//! as long as later ones do not contradict it; its *validator* is what a reply's headers say, and
//! each later reply must repeat it.
//!
//! A file that was changed within the resolution of its own time may change again and look the
//! same. Such a description is provisional: it ends in `~` and a number that no other has.

use std::time::Duration;

use reqwest::header::{self, HeaderMap, HeaderName};

use super::super::wire;
use crate::entry::{Digest, Entry, Timestamp, Version};
use crate::path::Name;

/// How old a Last-Modified must be for it to count: its own second, and one for clocks that round.
const YOUNG: Duration = Duration::from_secs(2);

/// What a validator that is made of a Last-Modified begins with.
const BY_TIME: &str = "lm:";

/// What stands before the number of a provisional version or validator.
const PROVISIONAL: char = '~';

/// How exactly a listing knows its times.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Resolution {
    Second,
    Minute,
}

/// Returns an entry of an index page. Without an exact size its version is empty, and `stat`
/// gives it one.
pub(super) fn listed(
    name: Name,
    size: Option<u64>,
    time: Option<(Timestamp, Resolution)>,
) -> Entry {
    let mut entry = Entry::file(name, 0, time.map(|t| t.0), Version::weak(""));
    entry.size = size;
    if let Some(size) = size {
        let token = match time {
            None => size.to_string(),
            Some((t, resolution)) => {
                let secs = t.0.div_euclid(1_000_000_000);
                let unit = match resolution {
                    Resolution::Second => 's',
                    Resolution::Minute => 'm',
                };
                format!("{size}@{secs}{unit}")
            }
        };
        entry.version = Version::weak(token);
    }
    entry
}

/// Returns the entry that a reply's headers describe.
pub(super) fn described(name: Name, size: Option<u64>, headers: &HeaderMap) -> Entry {
    let mtime = wire::last_modified(headers);
    let suffix = match mtime.is_some_and(|t| is_young(t, headers)) {
        true => format!("{PROVISIONAL}{}", Timestamp::now().0),
        false => String::new(),
    };
    let version = match wire::text(headers, header::ETAG).filter(|etag| is_etag(etag)) {
        Some(etag) if !etag.starts_with("W/") && suffix.is_empty() => Version::strong(etag),
        Some(etag) => Version::weak(format!("{etag}{suffix}")),
        None => {
            let secs = mtime.map_or(0, |t| t.0.div_euclid(1_000_000_000));
            let size = size.map_or_else(String::new, |size| size.to_string());
            Version::weak(format!("{size}@{secs}s{suffix}"))
        }
    };
    let mut entry = Entry::file(name, 0, mtime, version);
    entry.size = size;
    entry.validator = validator(headers, &suffix).map(Into::into);
    entry
}

/// Gives an entry the version that its manifest promises.
pub(super) fn promised(mut entry: Entry, digest: Option<Digest>) -> Entry {
    if let Some(Digest::Sha256(bytes)) = digest {
        let hex: String = bytes.iter().map(|b| format!("{b:02x}")).collect();
        entry.version = Version::strong(format!("sha256:{hex}"));
        entry.digest = digest;
    }
    entry
}

fn validator(headers: &HeaderMap, suffix: &str) -> Option<String> {
    if let Some(etag) = wire::text(headers, header::ETAG).filter(|etag| is_etag(etag)) {
        return Some(etag.to_owned());
    }
    let date = wire::text(headers, header::LAST_MODIFIED)?;
    httpdate::parse_http_date(date).ok()?;
    Some(format!("{BY_TIME}{date}{suffix}"))
}

fn is_etag(text: &str) -> bool {
    let quoted = text.strip_prefix("W/").unwrap_or(text);
    quoted.len() >= 2 && quoted.starts_with('"') && quoted.ends_with('"')
}

fn is_young(modified: Timestamp, headers: &HeaderMap) -> bool {
    let date = wire::text(headers, header::DATE);
    let now = date.and_then(|d| httpdate::parse_http_date(d).ok());
    let now = now.map_or_else(Timestamp::now, Timestamp::from);
    now.since(modified).is_none_or(|age| age < YOUNG)
}

/// Returns the header that asks for the version of `validator` only, where there is one: a weak
/// ETag never satisfies `If-Match`.
pub(super) fn condition(validator: &str) -> Option<(HeaderName, &str)> {
    match date_of(validator) {
        Some(date) => Some((header::IF_UNMODIFIED_SINCE, date)),
        None if validator.starts_with('"') => Some((header::IF_MATCH, validator)),
        None => None,
    }
}

/// Returns the Last-Modified that a validator is made of, if it is.
fn date_of(validator: &str) -> Option<&str> {
    let date = validator.strip_prefix(BY_TIME)?;
    Some(date.split(PROVISIONAL).next().unwrap_or(date))
}

/// Returns whether a reply is of the version that `pinned` names; nothing where the reply does
/// not say.
pub(super) fn is_pinned(pinned: &str, headers: &HeaderMap) -> Option<bool> {
    match date_of(pinned) {
        Some(date) => Some(wire::text(headers, header::LAST_MODIFIED)? == date),
        None => Some(plain(pinned) == plain(wire::text(headers, header::ETAG)?)),
    }
}

fn plain(etag: &str) -> &str {
    etag.strip_prefix("W/").unwrap_or(etag)
}

/// Returns whether two descriptions do not contradict each other in anything that both know.
pub(super) fn agree(before: &Entry, now: &Entry) -> bool {
    if let (Some(one), Some(other)) = (before.digest, now.digest) {
        return one == other;
    }
    if let (Some(one), Some(other)) = (before.size, now.size)
        && one != other
    {
        return false;
    }
    if let (Some(one), Some(other)) = (&before.validator, &now.validator) {
        let by_time = (date_of(one), date_of(other));
        let same = match by_time {
            (Some(one), Some(other)) => one == other,
            (None, None) => plain(one) == plain(other),
            // The server began or ceased to send ETags: the times tell.
            _ => times_agree(before, now),
        };
        // Once the time is old enough to count, what was read before that is not trusted.
        return same && (is_provisional(before) <= is_provisional(now));
    }
    times_agree(before, now)
}

fn is_provisional(entry: &Entry) -> bool {
    let token = entry.version.token.rsplit_once(PROVISIONAL);
    token.is_some_and(|(_, n)| !n.is_empty() && n.bytes().all(|b| b.is_ascii_digit()))
}

fn times_agree(before: &Entry, now: &Entry) -> bool {
    let (Some(one), Some(other)) = (before.mtime, now.mtime) else {
        return true;
    };
    match (is_of_minutes(before), is_of_minutes(now)) {
        (false, false) | (true, true) => one == other,
        _ => {
            let minute = |t: Timestamp| t.0.div_euclid(60_000_000_000);
            let apart = (minute(one) - minute(other)).abs();
            // Apache writes its pages in local time and its headers in GMT: whole quarters of an
            // hour apart, and at most 14 hours.
            apart % 15 == 0 && apart <= 14 * 60
        }
    }
}

/// Returns whether an entry's time is an index page's, which knows no seconds.
fn is_of_minutes(entry: &Entry) -> bool {
    match entry.size {
        Some(_) => entry.version.token.ends_with('m') && entry.validator.is_none(),
        None => entry.version.token.is_empty(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(pairs: &[(&'static str, &str)]) -> HeaderMap {
        let mut map = HeaderMap::new();
        for (name, value) in pairs {
            map.insert(*name, value.parse().unwrap());
        }
        map
    }

    fn name() -> Name {
        Name::new("f").unwrap()
    }

    const OLD: &str = "Sun, 06 Nov 1994 08:49:37 GMT";
    const OLD_SECS: i64 = 784_111_777;

    #[test]
    fn strong_and_weak() {
        let strong = described(name(), Some(5), &headers(&[("etag", "\"a\"")]));
        assert_eq!(strong.version, Version::strong("\"a\""));
        assert_eq!(strong.validator.as_deref(), Some("\"a\""));
        let weak = described(name(), Some(5), &headers(&[("etag", "W/\"a\"")]));
        assert!(!weak.version.strong);
        assert_eq!(condition("W/\"a\""), None);
        assert_eq!(
            is_pinned("W/\"a\"", &headers(&[("etag", "\"a\"")])),
            Some(true)
        );
        assert_eq!(
            is_pinned("\"a\"", &headers(&[("etag", "\"b\"")])),
            Some(false)
        );
        assert_eq!(is_pinned("\"a\"", &HeaderMap::new()), None);
        let timed = described(name(), Some(5), &headers(&[("last-modified", OLD)]));
        assert_eq!(timed.version, Version::weak(format!("5@{OLD_SECS}s")));
        assert_eq!(timed.validator.as_deref(), Some(&*format!("lm:{OLD}")));
    }

    #[test]
    fn young_times_are_provisional() {
        let young = &[
            ("last-modified", OLD),
            ("date", "Sun, 06 Nov 1994 08:49:38 GMT"),
        ];
        let one = described(name(), Some(5), &headers(young));
        std::thread::sleep(std::time::Duration::from_millis(1));
        let other = described(name(), Some(5), &headers(young));
        assert_ne!(one.version, other.version);
        assert!(agree(&one, &other));
        let pinned = one.validator.as_deref().unwrap();
        assert_eq!(condition(pinned), Some((header::IF_UNMODIFIED_SINCE, OLD)));
        assert_eq!(is_pinned(pinned, &headers(young)), Some(true));
        let grown = described(name(), Some(5), &headers(&[("last-modified", OLD)]));
        assert!(!agree(&one, &grown), "read again once it is certain");
        let etag = &[young[0], young[1], ("etag", "\"a\"")];
        let etag = described(name(), Some(5), &headers(etag));
        assert!(!etag.version.strong, "nginx's are made of the time");
        assert_eq!(etag.validator.as_deref(), Some("\"a\""));
    }

    #[test]
    fn listings_and_headers_agree_where_they_can() {
        let at = |secs, resolution| Some((Timestamp::from_secs(secs), resolution));
        let now = described(
            name(),
            Some(5),
            &headers(&[("last-modified", OLD), ("etag", "\"a\"")]),
        );
        let minute = OLD_SECS - 37;
        let page = |size, secs| listed(name(), size, at(secs, Resolution::Minute));
        assert!(agree(&page(Some(5), minute), &now));
        assert!(agree(&now, &page(Some(5), minute)), "both ways");
        assert!(agree(&page(Some(5), minute + 2 * 3600), &now), "local time");
        assert!(!agree(&page(Some(5), minute + 60), &now));
        assert!(!agree(&page(Some(6), minute), &now));
        assert!(agree(&page(None, minute), &now));
        assert!(!agree(
            &page(Some(5), minute),
            &page(Some(5), minute + 7200)
        ));
        let json = listed(name(), Some(5), at(OLD_SECS, Resolution::Second));
        assert!(agree(&json, &now));
        let json = listed(name(), Some(5), at(OLD_SECS + 1, Resolution::Second));
        assert!(!agree(&json, &now));
        assert!(agree(&listed(name(), None, None), &now), "nothing is known");
        assert_eq!(&*listed(name(), None, None).version.token, "");
    }

    #[test]
    fn digests_decide() {
        let with = |byte| promised(listed(name(), None, None), Some(Digest::Sha256([byte; 32])));
        assert!(with(1).version.strong);
        assert!(agree(&with(1), &with(1)));
        assert!(!agree(&with(1), &with(2)));
    }
}
