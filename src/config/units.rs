//! Sizes, rates, durations and intervals, written as people write them.
//!
//! Every type here parses from the same text on the command line, in the environment and in the
//! volume file, prints itself in a form that parses back to the same value, and names in its
//! error what is accepted.

use std::borrow::Cow;
use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::de::{self, Deserializer, Visitor};
use serde::{Deserialize, Serialize, Serializer};

/// Says that a text is not the size, rate, duration or interval that was expected. Its message
/// names the text and what is accepted.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct UnitError(String);

/// What a size may look like, for messages.
const SIZE_FORMS: &str = "write a size such as 512MiB (1024-based), 10G (1000-based) or 4096";
/// What a duration may look like, for messages.
const DURATION_FORMS: &str = "write a duration such as 500ms, 30s, 5m or 1h30m";

/// The longest text that a message repeats; anything longer is cut, so that a wrong file cannot
/// flood a terminal.
const MAX_ECHO: usize = 40;

fn echo(text: &str) -> Cow<'_, str> {
    match text.char_indices().nth(MAX_ECHO) {
        None => Cow::Borrowed(text),
        Some((at, _)) => Cow::Owned(format!("{}...", &text[..at])),
    }
}

/// A number of bytes. `512MiB` is 1024-based, `10M` and `10MB` are 1000-based, a bare number is
/// bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ByteSize(pub u64);

impl ByteSize {
    /// Returns the number of bytes.
    pub fn as_u64(self) -> u64 {
        self.0
    }
}

impl FromStr for ByteSize {
    type Err = UnitError;

    fn from_str(text: &str) -> Result<Self, UnitError> {
        let bad = || UnitError(format!("`{}` is not a size; {SIZE_FORMS}", echo(text)));
        let text = text.trim();
        // The crate saturates at the largest u64 instead of failing: a size that high can only
        // be a mistake, so it is refused with the rest.
        match text.parse::<bytesize::ByteSize>() {
            Ok(size) if size.as_u64() < u64::MAX => Ok(Self(size.as_u64())),
            _ => Err(bad()),
        }
    }
}

impl fmt::Display for ByteSize {
    /// Writes the largest 1024-based unit that loses nothing, or plain bytes.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const UNITS: [(&str, u32); 5] = [
            ("PiB", 50),
            ("TiB", 40),
            ("GiB", 30),
            ("MiB", 20),
            ("KiB", 10),
        ];
        for (unit, shift) in UNITS {
            if self.0 != 0 && self.0.trailing_zeros() >= shift {
                return write!(f, "{}{unit}", self.0 >> shift);
            }
        }
        write!(f, "{}", self.0)
    }
}

/// A number of bytes a second, at least 1. Written as a size, with or without `/s`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ByteRate(u64);

impl ByteRate {
    /// Returns the rate in bytes a second, never 0.
    pub fn bytes_per_second(self) -> u64 {
        self.0
    }
}

impl FromStr for ByteRate {
    type Err = UnitError;

    fn from_str(text: &str) -> Result<Self, UnitError> {
        let size = text.trim().strip_suffix("/s").unwrap_or(text);
        match size.parse::<ByteSize>() {
            Ok(ByteSize(rate)) if rate > 0 => Ok(Self(rate)),
            Ok(_) => Err(UnitError(
                "a rate of 0 would let nothing through; leave it out for no limit".into(),
            )),
            Err(_) => Err(UnitError(format!(
                "`{}` is not a rate; write bytes a second such as 10MiB or 500k",
                echo(text)
            ))),
        }
    }
}

impl fmt::Display for ByteRate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/s", ByteSize(self.0))
    }
}

/// How much disk the cache may take: a size, or a share of the file system that holds it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum CacheSize {
    /// An absolute limit.
    Bytes(ByteSize),
    /// A share of the file system's total size, in percent, 1 to 100.
    Percent(u8),
}

impl CacheSize {
    /// Returns the limit in bytes on a file system of `total` bytes.
    pub fn bytes_of(self, total: u64) -> u64 {
        match self {
            Self::Bytes(size) => size.0,
            // Divided first: a share is never exact, and the product could overflow.
            Self::Percent(percent) => total / 100 * u64::from(percent),
        }
    }
}

impl FromStr for CacheSize {
    type Err = UnitError;

    fn from_str(text: &str) -> Result<Self, UnitError> {
        let Some(number) = text.trim().strip_suffix('%') else {
            return text.parse().map(Self::Bytes).map_err(|UnitError(why)| {
                UnitError(format!("{why}, or a share of the disk such as 10%"))
            });
        };
        match number.trim().parse::<u8>() {
            Ok(percent @ 1..=100) => Ok(Self::Percent(percent)),
            _ => Err(UnitError(format!(
                "`{}` is not a share of the disk; write 1% to 100%",
                echo(text)
            ))),
        }
    }
}

impl fmt::Display for CacheSize {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Bytes(size) => size.fmt(f),
            Self::Percent(percent) => write!(f, "{percent}%"),
        }
    }
}

/// A length of time with a unit, such as `30s` or `1h30m`. At most a hundred years, so that
/// adding it to a point in time cannot overflow.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct HumanDuration(Duration);

/// The longest duration that is taken: a hundred years of 365 days, in seconds.
const MAX_DURATION: Duration = Duration::from_secs(100 * 365 * 24 * 3600);

impl HumanDuration {
    /// Builds a duration of whole seconds; more than a hundred years become a hundred.
    pub const fn from_secs(seconds: u64) -> Self {
        if seconds > MAX_DURATION.as_secs() {
            Self(MAX_DURATION)
        } else {
            Self(Duration::from_secs(seconds))
        }
    }

    /// Returns the length of time.
    pub const fn get(self) -> Duration {
        self.0
    }
}

impl FromStr for HumanDuration {
    type Err = UnitError;

    fn from_str(text: &str) -> Result<Self, UnitError> {
        match humantime::parse_duration(text.trim()) {
            Ok(duration) if duration <= MAX_DURATION => Ok(Self(duration)),
            Ok(_) => Err(UnitError(format!(
                "`{}` is longer than a hundred years; {DURATION_FORMS}",
                echo(text)
            ))),
            Err(_) if text.trim().parse::<f64>().is_ok() => Err(UnitError(format!(
                "`{}` has no unit; {DURATION_FORMS}",
                echo(text)
            ))),
            Err(_) => Err(UnitError(format!(
                "`{}` is not a duration; {DURATION_FORMS}",
                echo(text)
            ))),
        }
    }
}

impl fmt::Display for HumanDuration {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let spaced = humantime::format_duration(self.0).to_string();
        f.write_str(&spaced.replace(' ', ""))
    }
}

/// How often a layer looks for changes by itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Refresh {
    /// Only when asked to.
    Never,
    /// Each time this much has passed, at least a second.
    Every(HumanDuration),
}

impl Refresh {
    /// Returns the interval, or nothing for [`Refresh::Never`].
    pub fn interval(self) -> Option<Duration> {
        match self {
            Self::Never => None,
            Self::Every(duration) => Some(duration.get()),
        }
    }
}

impl FromStr for Refresh {
    type Err = UnitError;

    fn from_str(text: &str) -> Result<Self, UnitError> {
        if text.trim() == "never" {
            return Ok(Self::Never);
        }
        match text.parse::<HumanDuration>() {
            // A shorter interval would ask the source without a pause.
            Ok(duration) if duration.get() < Duration::from_secs(1) => Err(UnitError(format!(
                "`{}` is less than a second; write 1s or more, or never",
                echo(text)
            ))),
            Ok(duration) => Ok(Self::Every(duration)),
            Err(UnitError(why)) => Err(UnitError(format!("{why}, or never"))),
        }
    }
}

impl fmt::Display for Refresh {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Never => f.write_str("never"),
            Self::Every(duration) => duration.fmt(f),
        }
    }
}

/// The permission bits that a mount takes away, as `umask` writes them: three or four octal
/// digits such as `022`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Umask(u16);

impl Umask {
    /// Returns the bits, at most 0o777.
    pub fn bits(self) -> u16 {
        self.0
    }
}

impl FromStr for Umask {
    type Err = UnitError;

    fn from_str(text: &str) -> Result<Self, UnitError> {
        let text = text.trim();
        match u16::from_str_radix(text, 8) {
            Ok(bits)
                if bits <= 0o777 && (3..=4).contains(&text.len()) && !text.starts_with('+') =>
            {
                Ok(Self(bits))
            }
            _ => Err(UnitError(format!(
                "`{}` is not a umask; write three or four octal digits such as 022 or 0077",
                echo(text)
            ))),
        }
    }
}

impl fmt::Display for Umask {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:04o}", self.0)
    }
}

/// Implements serde and the JSON Schema for a type by its text form. `numbers` says whether a bare
/// number stands for its decimal text, or what to write instead.
macro_rules! text_form {
    ($type:ident, $pattern:literal, $about:literal, numbers: $numbers:expr) => {
        impl Serialize for $type {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_str(self)
            }
        }

        impl<'de> Deserialize<'de> for $type {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                struct Text;
                impl Visitor<'_> for Text {
                    type Value = $type;

                    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                        f.write_str($about)
                    }

                    fn visit_str<E: de::Error>(self, text: &str) -> Result<$type, E> {
                        text.parse().map_err(E::custom)
                    }

                    fn visit_u64<E: de::Error>(self, number: u64) -> Result<$type, E> {
                        let numbers: Option<&str> = $numbers;
                        match numbers {
                            None => self.visit_str(&number.to_string()),
                            Some(instead) => Err(E::custom(instead)),
                        }
                    }
                }
                deserializer.deserialize_any(Text)
            }
        }

        impl JsonSchema for $type {
            fn inline_schema() -> bool {
                true
            }

            fn schema_name() -> Cow<'static, str> {
                stringify!($type).into()
            }

            fn json_schema(_: &mut SchemaGenerator) -> Schema {
                let numbers: Option<&str> = $numbers;
                match numbers {
                    None => json_schema!({
                        "type": ["string", "integer"], "minimum": 0, "pattern": $pattern,
                    }),
                    Some(_) => json_schema!({ "type": "string", "pattern": $pattern }),
                }
            }
        }
    };
}

text_form!(
    ByteSize,
    r"^[0-9]+(\.[0-9]+)? ?([kKmMgGtTpPeE]([iI]?[bB]?)|[bB])?$",
    "a size such as 512MiB",
    numbers: None
);
text_form!(
    ByteRate,
    r"^[0-9]+(\.[0-9]+)? ?([kKmMgGtTpPeE]([iI]?[bB]?)|[bB])?(/s)?$",
    "bytes a second such as 10MiB",
    numbers: None
);
text_form!(
    CacheSize,
    r"^([0-9]+(\.[0-9]+)? ?([kKmMgGtTpPeE]([iI]?[bB]?)|[bB])?|[0-9]{1,3}%)$",
    "a size such as 20GiB, or a share of the disk such as 10%",
    numbers: None
);
text_form!(
    HumanDuration,
    r"^([0-9]+ *[a-zA-Z]+ *)+$",
    "a duration such as 30s",
    numbers: Some("a duration needs a unit; write it as 500ms, 30s, 5m or 1h30m")
);
text_form!(
    Refresh,
    r"^(never|([0-9]+ *[a-zA-Z]+ *)+)$",
    "an interval such as 5m, or never",
    numbers: Some("an interval needs a unit; write it as 30s, 5m or 1h30m, or never")
);
text_form!(
    Umask,
    r"^[0-7]{3,4}$",
    "a umask such as \"022\"",
    numbers: Some("a umask is octal; write all its digits in quotes, such as \"022\"")
);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_parse_as_people_write_them() {
        for (text, bytes) in [
            ("0", 0),
            ("4096", 4096),
            ("64k", 64_000),
            ("64KiB", 65_536),
            ("512MiB", 512 << 20),
            ("1.5 GiB", 3 << 29),
            ("10G", 10_000_000_000),
            ("10GB", 10_000_000_000),
            (" 1Ti ", 1 << 40),
            ("9007199254740993", 9_007_199_254_740_993),
        ] {
            assert_eq!(text.parse(), Ok(ByteSize(bytes)), "{text}");
        }
        for text in ["", "MiB", "-1", "12Q", "1.2.3M", "99999999EiB", "ten"] {
            let error = text.parse::<ByteSize>().unwrap_err().to_string();
            assert!(error.contains("512MiB"), "{text}: {error}");
        }
    }

    #[test]
    fn a_printed_size_is_exact() {
        for (bytes, text) in [
            (0, "0"),
            (1, "1"),
            (1000, "1000"),
            (1024, "1KiB"),
            (512 << 20, "512MiB"),
        ] {
            assert_eq!(ByteSize(bytes).to_string(), text);
            assert_eq!(text.parse(), Ok(ByteSize(bytes)));
        }
    }

    #[test]
    fn rates_take_an_optional_per_second() {
        assert_eq!(
            "10MiB/s".parse::<ByteRate>().unwrap().bytes_per_second(),
            10 << 20
        );
        assert_eq!("10MiB".parse::<ByteRate>(), "10MiB/s".parse());
        assert!(
            "0".parse::<ByteRate>()
                .unwrap_err()
                .to_string()
                .contains("leave it out")
        );
        assert!(
            "fast"
                .parse::<ByteRate>()
                .unwrap_err()
                .to_string()
                .contains("10MiB")
        );
    }

    #[test]
    fn cache_sizes_may_be_a_share() {
        assert_eq!("10%".parse(), Ok(CacheSize::Percent(10)));
        assert_eq!("1GiB".parse(), Ok(CacheSize::Bytes(ByteSize(1 << 30))));
        assert_eq!(CacheSize::Percent(10).bytes_of(1000), 100);
        assert_eq!(
            CacheSize::Percent(100).bytes_of(u64::MAX),
            u64::MAX / 100 * 100
        );
        for text in ["0%", "101%", "%", "ten%"] {
            let error = text.parse::<CacheSize>().unwrap_err().to_string();
            assert!(error.contains("1% to 100%"), "{error}");
        }
        assert!(
            "x".parse::<CacheSize>()
                .unwrap_err()
                .to_string()
                .contains("such as 10%")
        );
    }

    #[test]
    fn durations_need_a_unit_and_round_trip() {
        let ninety = "1h30m".parse::<HumanDuration>().unwrap();
        assert_eq!(ninety.get(), Duration::from_secs(5400));
        assert_eq!(ninety.to_string(), "1h30m");
        assert!(
            "30".parse::<HumanDuration>()
                .unwrap_err()
                .to_string()
                .contains("has no unit")
        );
        assert!(
            "soon"
                .parse::<HumanDuration>()
                .unwrap_err()
                .to_string()
                .contains("30s")
        );
        assert!(
            "200years"
                .parse::<HumanDuration>()
                .unwrap_err()
                .to_string()
                .contains("hundred")
        );
    }

    #[test]
    fn refresh_is_an_interval_or_never() {
        assert_eq!("never".parse(), Ok(Refresh::Never));
        assert_eq!(
            "5m".parse::<Refresh>().unwrap().interval(),
            Some(Duration::from_secs(300))
        );
        assert!(
            "0s".parse::<Refresh>()
                .unwrap_err()
                .to_string()
                .contains("1s or more")
        );
        assert!(
            "often"
                .parse::<Refresh>()
                .unwrap_err()
                .to_string()
                .ends_with("or never")
        );
    }

    #[test]
    fn a_umask_is_octal() {
        assert_eq!("022".parse::<Umask>().unwrap().bits(), 0o022);
        assert_eq!("0077".parse::<Umask>().unwrap().to_string(), "0077");
        for text in ["22", "888", "01777", "+22", ""] {
            assert!(text.parse::<Umask>().is_err(), "{text}");
        }
    }

    #[test]
    fn a_long_text_is_cut_in_a_message() {
        let error = "ü"
            .repeat(10_000)
            .parse::<ByteSize>()
            .unwrap_err()
            .to_string();
        assert!(error.len() < 200, "{}", error.len());
    }
}
