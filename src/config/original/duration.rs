//! Durations as Go writes them: `1m30s`, `1.5h`, `300ms`.

use std::time::Duration;

/// Units, the longer names first where one begins with another. Go knows no day; the original's own
/// comments promise it.
const UNITS: [(&str, f64); 9] = [
    ("ns", 1e-9),
    ("us", 1e-6),
    ("µs", 1e-6),
    ("μs", 1e-6),
    ("ms", 1e-3),
    ("s", 1.0),
    ("m", 60.0),
    ("h", 3600.0),
    ("d", 86400.0),
];

/// Returns the duration that `text` is, rounded to milliseconds; nothing where it is none, is
/// negative or is longer than a hundred years.
pub(super) fn parse(text: &str) -> Option<Duration> {
    const LONGEST: f64 = 100.0 * 365.0 * 86400.0;
    let mut rest = text.trim();
    rest = rest.strip_prefix('+').unwrap_or(rest);
    if rest == "0" {
        return Some(Duration::ZERO);
    }
    if rest.is_empty() {
        return None;
    }
    let mut seconds = 0.0;
    while !rest.is_empty() {
        let end = rest.find(|c: char| !c.is_ascii_digit() && c != '.')?;
        let (number, after) = rest.split_at(end);
        // Longer first: `ms` is not `m`.
        let (unit, factor) = UNITS.iter().find(|(unit, _)| after.starts_with(unit))?;
        seconds += number.parse::<f64>().ok()? * factor;
        rest = after.get(unit.len()..)?;
    }
    let fits = (0.0..=LONGEST).contains(&seconds);
    fits.then(|| Duration::from_millis((seconds * 1e3).round() as u64))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::parse;

    #[test]
    fn go_durations() {
        for (text, millis) in [
            ("60s", 60_000),
            ("1m", 60_000),
            ("1h30m", 5_400_000),
            ("1.5h", 5_400_000),
            ("300ms", 300),
            (".5s", 500),
            ("1m0.25s", 60_250),
            ("2d", 172_800_000),
            ("0", 0),
            ("0s", 0),
            ("1500us", 2),
        ] {
            let parsed = parse(text).unwrap_or_else(|| panic!("{text}"));
            assert_eq!(parsed.as_millis(), millis, "{text}");
        }
        for text in [
            "", "5", "-1s", "s", "1x", "1.2.3s", ".s", "1 m", "9999999h", "1sm", "NaNs",
        ] {
            assert_eq!(parse(text), None, "{text}");
        }
    }

    proptest! {
        #[test]
        fn any_text_is_a_duration_or_none(text in "[0-9.hmsuµ+ -]{0,12}|.{0,12}") {
            let _ = parse(&text);
        }
    }
}
