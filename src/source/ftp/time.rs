//! Times as FTP servers write them, to what they know: seconds (MLSD, MDTM), minutes or days (LIST).

use crate::entry::Timestamp;

/// How exactly a time is known.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Resolution {
    Second,
    Minute,
    Day,
}

/// A time and how exactly it is known.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Time {
    pub(super) at: Timestamp,
    pub(super) resolution: Resolution,
}

/// How far the clock that a listing is written by may be ahead of UTC, in seconds: 14 hours at the
/// most, and clocks are wrong.
const AHEAD: i64 = 15 * 3600;

/// Seconds of a day.
const DAY: i64 = 86_400;

impl Time {
    fn new(secs: i64, resolution: Resolution) -> Time {
        Time {
            at: Timestamp::from_secs(secs),
            resolution,
        }
    }

    /// Returns the time in whole seconds since the epoch.
    pub(super) fn secs(self) -> i64 {
        self.at.0.div_euclid(1_000_000_000)
    }
}

/// Parses `20261122112016` and `20261122112016.123`, in UTC, as MDTM and MLSD write it.
pub(super) fn compact(text: &str) -> Option<Time> {
    let digits = text.split('.').next()?;
    if digits.len() != 14 || !digits.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    let part = |range: std::ops::Range<usize>| digits.get(range)?.parse::<i64>().ok();
    let days = days(part(0..4)?, part(4..6)?, part(6..8)?)?;
    let secs = clock(part(8..10)?, part(10..12)?)? + second(part(12..14)?)?;
    Some(Time::new(days * DAY + secs, Resolution::Second))
}

/// Parses the three words of `ls`: `Nov`, `22` and `11:20` (of the last months) or `2025`.
pub(super) fn unix(month: &str, day: &str, last: &str, now: Timestamp) -> Option<Time> {
    let months = "janfebmaraprmayjunjulaugsepoctnovdec";
    let at = months.find(&month.to_ascii_lowercase())?;
    if month.len() != 3 || at % 3 != 0 {
        return None;
    }
    let month = i64::try_from(at / 3).ok()? + 1;
    let day = number(day)?;
    if let Some(time) = hours_and_minutes(last) {
        // The year is not said: the time is the last one that is not in the future.
        let now = now.0.div_euclid(1_000_000_000);
        let this_year = 1970 + now.div_euclid(31_556_952);
        let secs = [this_year + 1, this_year, this_year - 1]
            .into_iter()
            .filter_map(|year| Some(days(year, month, day)? * DAY + time))
            .find(|secs| *secs <= now.saturating_add(AHEAD))?;
        return Some(Time::new(secs, Resolution::Minute));
    }
    let year = number(last).filter(|_| last.len() == 4)?;
    Some(Time::new(days(year, month, day)? * DAY, Resolution::Day))
}

/// Parses `2026-11-22` and `11:20`.
pub(super) fn iso(date: &str, time: &str) -> Option<Time> {
    let mut parts = date.split('-').map(number);
    let (year, month, day) = (parts.next()??, parts.next()??, parts.next()??);
    if parts.next().is_some() {
        return None;
    }
    let secs = days(year, month, day)? * DAY + hours_and_minutes(time)?;
    Some(Time::new(secs, Resolution::Minute))
}

/// Parses `11-22-26` or `11-22-2026`, and `01:20PM` or `13:20`, as DOS writes them.
pub(super) fn dos(date: &str, time: &str) -> Option<Time> {
    let mut parts = date.split('-').map(number);
    let (month, day, year) = (parts.next()??, parts.next()??, parts.next()??);
    if parts.next().is_some() {
        return None;
    }
    let year = match year {
        0..70 => 2000 + year,
        70..100 => 1900 + year,
        _ => year,
    };
    let lower = time.to_ascii_lowercase();
    let secs = match (lower.strip_suffix("am"), lower.strip_suffix("pm")) {
        (Some(time), _) => hours_and_minutes(time)? % (12 * 3600),
        (_, Some(time)) => hours_and_minutes(time)? % (12 * 3600) + 12 * 3600,
        _ => hours_and_minutes(time)?,
    };
    Some(Time::new(
        days(year, month, day)? * DAY + secs,
        Resolution::Minute,
    ))
}

fn hours_and_minutes(text: &str) -> Option<i64> {
    let (hour, minute) = text.split_once(':')?;
    clock(number(hour)?, number(minute)?)
}

fn clock(hour: i64, minute: i64) -> Option<i64> {
    ((0..24).contains(&hour) && (0..60).contains(&minute)).then_some(hour * 3600 + minute * 60)
}

fn second(second: i64) -> Option<i64> {
    // A leap second counts as the one before.
    (0..=60).contains(&second).then_some(second.min(59))
}

/// Parses a few digits, without a sign.
fn number(text: &str) -> Option<i64> {
    let fits = (1..=4).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_digit());
    fits.then(|| text.parse().ok())?
}

/// Returns the days from 1970-01-01 to a date that there is.
fn days(year: i64, month: i64, day: i64) -> Option<i64> {
    let leap = year % 4 == 0 && (year % 100 != 0 || year % 400 == 0);
    let most = match month {
        2 if leap => 29,
        2 => 28,
        4 | 6 | 9 | 11 => 30,
        1..=12 => 31,
        _ => return None,
    };
    if !(1..=most).contains(&day) || !(1900..10_000).contains(&year) {
        return None;
    }
    // Years begin in March, so that the leap day is the last.
    let year = if month <= 2 { year - 1 } else { year };
    let era = year.div_euclid(400);
    let of_era = year.rem_euclid(400);
    let of_year = (153 * ((month + 9) % 12) + 2) / 5 + day - 1;
    let of_days = of_era * 365 + of_era / 4 - of_era / 100 + of_year;
    Some(era * 146_097 + of_days - 719_468)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn utc(text: &str) -> i64 {
        let time = humantime::parse_rfc3339_weak(text).unwrap();
        Timestamp::from(time).0 / 1_000_000_000
    }

    #[test]
    fn compact_times() {
        assert_eq!(
            compact("20261122112016.5").unwrap().secs(),
            utc("2026-11-22T11:20:16Z")
        );
        assert_eq!(compact("19700101000000").unwrap().secs(), 0);
        for bad in [
            "20261122",
            "20261322112016",
            "20260229112016",
            "20261122242016",
            "",
            "2026112211201é",
            "+0261122112016",
        ] {
            assert_eq!(compact(bad), None, "{bad}");
        }
    }

    #[test]
    fn the_year_of_a_listing_is_the_last_that_fits() {
        let now = |text| Timestamp::from_secs(utc(text));
        for (month, day, time, at, want) in [
            (
                "Nov",
                "22",
                "11:20",
                "2026-11-22T12:00:00Z",
                "2026-11-22T11:20:00Z",
            ),
            // A server that is ahead of us.
            (
                "Nov",
                "22",
                "23:00",
                "2026-11-22T12:00:00Z",
                "2026-11-22T23:00:00Z",
            ),
            (
                "Jan",
                "1",
                "05:00",
                "2026-12-31T20:00:00Z",
                "2027-01-01T05:00:00Z",
            ),
            (
                "Dec",
                "31",
                "23:59",
                "2026-01-01T00:10:00Z",
                "2025-12-31T23:59:00Z",
            ),
            (
                "Nov",
                "30",
                "11:20",
                "2026-11-22T12:00:00Z",
                "2025-11-30T11:20:00Z",
            ),
            (
                "Feb",
                "29",
                "11:20",
                "2025-01-02T12:00:00Z",
                "2024-02-29T11:20:00Z",
            ),
        ] {
            let got = unix(month, day, time, now(at)).unwrap();
            assert_eq!(got.secs(), utc(want), "{month} {day} {time} at {at}");
            assert_eq!(got.resolution, Resolution::Minute);
        }
        let old = unix("Sep", "13", "2020", now("2026-11-22T12:00:00Z")).unwrap();
        assert_eq!(old.secs(), utc("2020-09-13T00:00:00Z"));
        assert_eq!(old.resolution, Resolution::Day);
        for (month, day, last) in [
            ("anf", "1", "2020"),
            ("Feb", "30", "2020"),
            ("Feb", "3", "99"),
        ] {
            assert_eq!(unix(month, day, last, Timestamp(0)), None);
        }
    }

    #[test]
    fn dos_times() {
        for (date, time, want) in [
            ("10-19-20", "03:19PM", "2020-10-19T15:19:00Z"),
            ("10-19-2020", "12:05AM", "2020-10-19T00:05:00Z"),
            ("10-19-97", "12:05pm", "1997-10-19T12:05:00Z"),
            ("10-19-20", "15:19", "2020-10-19T15:19:00Z"),
        ] {
            assert_eq!(dos(date, time).unwrap().secs(), utc(want), "{date} {time}");
        }
        assert_eq!(dos("13-19-20", "03:19PM"), None);
        assert_eq!(
            iso("2020-10-19", "15:19").unwrap().secs(),
            utc("2020-10-19T15:19:00Z")
        );
    }

    proptest! {
        #[test]
        fn nothing_panics(a in ".{0,16}", b in ".{0,9}", c in ".{0,9}", now: i64) {
            let _ = compact(&a);
            let _ = unix(&a, &b, &c, Timestamp(now));
            let _ = unix("Feb", "29", "11:20", Timestamp(now));
            let _ = (dos(&a, &b), iso(&a, &b));
        }
    }
}
