//! Names, paths, patterns and URLs of a volume, validated once, here.
//!
//! No message of this module repeats a URL: a URL that is refused may carry a password.

use std::borrow::Cow;
use std::fmt;
use std::str::FromStr;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Serialize};
use url::Url;

use crate::filter::Filter;
use crate::path::RelPath;

/// Says why a text cannot be the name, path, pattern or URL that it was meant to be, and what to
/// write instead.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct NameError(pub(crate) String);

pub(super) fn refuse<T>(why: impl Into<String>) -> Result<T, NameError> {
    Err(NameError(why.into()))
}

/// Gives a newtype over a text its conversions, its serde form and its JSON Schema; `FromStr` is
/// written by hand and is the only way in.
macro_rules! text_newtype {
    ($type:ident, $schema:tt) => {
        impl fmt::Display for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(self.as_str())
            }
        }

        text_form!($type, $schema);
    };
}

/// The same for a newtype that has its own `Display`.
macro_rules! text_form {
    ($type:ident, $schema:tt) => {
        impl TryFrom<String> for $type {
            type Error = NameError;

            fn try_from(text: String) -> Result<Self, NameError> {
                text.parse()
            }
        }

        impl From<$type> for String {
            fn from(name: $type) -> String {
                name.to_string()
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
                json_schema!($schema)
            }
        }
    };
}

pub(super) use {text_form, text_newtype};

/// The longest RFC 1123 label, in bytes.
const MAX_LABEL: usize = 63;

/// The name of a volume or of a layer: an RFC 1123 label, that is 1 to 63 lower-case letters,
/// digits and `-`, neither first nor last a `-`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Label(String);

impl Label {
    /// Returns the name.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Returns the label nearest to any text, for names that nobody wrote: every character that
    /// a label cannot hold becomes a `-`; a text that leaves nothing becomes `volume`.
    pub fn nearest(text: &str) -> Self {
        let dashed: String = text
            .chars()
            .map(|c| c.to_ascii_lowercase())
            .map(|c| if c.is_ascii_alphanumeric() { c } else { '-' })
            .take(MAX_LABEL)
            .collect();
        match dashed.trim_matches('-') {
            "" => Self("volume".into()),
            label => Self(label.into()),
        }
    }
}

impl FromStr for Label {
    type Err = NameError;

    fn from_str(text: &str) -> Result<Self, NameError> {
        let fits = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
        let ends_well = |b: Option<&u8>| b.is_some_and(|b| *b != b'-');
        let bytes = text.as_bytes();
        if bytes.len() <= MAX_LABEL
            && bytes.iter().all(|b| fits(*b))
            && ends_well(bytes.first())
            && ends_well(bytes.last())
        {
            return Ok(Self(text.into()));
        }
        refuse(format!(
            "not a name; write 1 to {MAX_LABEL} lower-case letters, digits and `-`, beginning and \
             ending with a letter or digit, such as `{}`",
            Self::nearest(text)
        ))
    }
}

text_newtype!(Label, {
    "type": "string", "minLength": 1, "maxLength": 63,
    "pattern": "^[a-z0-9]([a-z0-9-]*[a-z0-9])?$",
});

/// Where a layer is grafted: an absolute path of the volume, `/` or `/a/b`, without `.`, `..` and
/// empty parts. A slash at the end is dropped.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct GraftPath(RelPath);

impl GraftPath {
    /// Returns the path below the volume's root.
    pub fn rel_path(&self) -> &RelPath {
        &self.0
    }

    /// Returns whether the layer covers the whole volume.
    pub fn is_root(&self) -> bool {
        self.0 == RelPath::root()
    }
}

impl Default for GraftPath {
    fn default() -> Self {
        Self(RelPath::root())
    }
}

impl fmt::Display for GraftPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "/{}", self.0.as_str())
    }
}

impl FromStr for GraftPath {
    type Err = NameError;

    fn from_str(text: &str) -> Result<Self, NameError> {
        let Some(inside) = text.strip_prefix('/') else {
            return refuse("not a path of the volume; begin it with `/`, such as /data");
        };
        match RelPath::new(inside.strip_suffix('/').unwrap_or(inside)) {
            // `//` would lose its one empty part with its last slash.
            Ok(path) if path == RelPath::root() && inside == "/" => {
                refuse("not a path of the volume: an empty name; write a single `/`")
            }
            Ok(path) => Ok(Self(path)),
            Err(why) => refuse(format!(
                "not a path of the volume: {why}; write it out, such as /data/v2"
            )),
        }
    }
}

text_form!(GraftPath, { "type": "string", "pattern": "^/" });

/// A glob pattern that compiles, relative to the root of its layer. See
/// [`Filter`] for what it matches.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct GlobPattern(String);

impl GlobPattern {
    /// Returns the pattern as it was written.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl AsRef<str> for GlobPattern {
    fn as_ref(&self) -> &str {
        &self.0
    }
}

impl FromStr for GlobPattern {
    type Err = NameError;

    fn from_str(text: &str) -> Result<Self, NameError> {
        if text.trim_matches('/').is_empty() {
            return refuse(
                "an empty glob matches nothing; write a pattern such as *.csv or docs/**",
            );
        }
        if text.split('/').any(|part| part == "..") {
            return refuse("a glob cannot hold `..`; write it relative to the layer's root");
        }
        match Filter::new(&[text], &[]) {
            Ok(_) => Ok(Self(text.into())),
            Err(error) => refuse(format!(
                "{}; write a pattern such as *.csv, docs/** or {{a,b}}/*.json",
                error.why
            )),
        }
    }
}

text_newtype!(GlobPattern, { "type": "string", "minLength": 1 });

/// The absolute `http://` or `https://` URL of a file, a directory or an endpoint, without user
/// name, password and fragment.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct HttpUrl(Url);

impl HttpUrl {
    /// Returns the URL, with its query: do not show it, use [`redacted`](Self::redacted).
    pub fn as_url(&self) -> &Url {
        &self.0
    }

    /// Returns the URL, with its query.
    pub fn as_str(&self) -> &str {
        self.0.as_str()
    }

    /// Returns the URL without its query, which may be a signature, for messages and logs.
    pub fn redacted(&self) -> String {
        let mut url = self.0.clone();
        url.set_query(None);
        url.into()
    }
}

impl FromStr for HttpUrl {
    type Err = NameError;

    fn from_str(text: &str) -> Result<Self, NameError> {
        let url = match Url::parse(text.trim()) {
            Ok(url) => url,
            Err(url::ParseError::RelativeUrlWithoutBase) => {
                return refuse("not a URL; begin it with https:// or http://");
            }
            Err(error) => return refuse(format!("not a URL: {error}")),
        };
        if !matches!(url.scheme(), "http" | "https") {
            return refuse(format!(
                "a `{}` URL cannot stand here; write one that begins with https:// or http://",
                url.scheme()
            ));
        }
        if !url.username().is_empty() || url.password().is_some() {
            return refuse(
                "a user name or password in a URL shows in the process list and in logs; take it \
                 out, and give it in a volume file by reference: \
                 `auth: {basic: {username: NAME, password: {fromEnv: VARIABLE}}}` (or `fromFile`)",
            );
        }
        if url.fragment().is_some() {
            return refuse("a fragment (`#...`) says nothing to a server; take it out");
        }
        Ok(Self(url))
    }
}

text_newtype!(HttpUrl, { "type": "string", "format": "uri", "pattern": "^https?://[^@#/]+(/[^#]*)?$" });

/// The name of a bucket, or the ARN of an access point.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct BucketName(String);

impl BucketName {
    /// Returns the name.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for BucketName {
    type Err = NameError;

    fn from_str(text: &str) -> Result<Self, NameError> {
        // The rules differ between services and ages of buckets: only what no service takes, or
        // what is clearly another thing, is refused here.
        let odd = |c: char| c.is_whitespace() || c.is_control() || "?#\\%".contains(c);
        if text.is_empty() {
            return refuse("the bucket has no name; write the bucket's name, such as `models`");
        }
        if text.contains('@') {
            return refuse(
                "a bucket's name holds no `@`; credentials do not belong in a URL, where they show \
                 in the process list: set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, name a \
                 profile, or write `credentials` with `fromEnv` or `fromFile` in a volume file",
            );
        }
        if text.contains("://") {
            return refuse("write the bucket's name alone, without `s3://` and without a prefix");
        }
        if text.contains('/') && !text.starts_with("arn:") {
            return refuse("a bucket's name holds no `/`; write what follows it as `prefix`");
        }
        if text.len() > 255 || text.contains(odd) || matches!(text, "." | "..") {
            return refuse("not a bucket's name; it has letters, digits, `-`, `_` and `.`");
        }
        Ok(Self(text.into()))
    }
}

text_newtype!(BucketName, {
    "type": "string", "minLength": 1, "maxLength": 255,
    "pattern": "^(arn:[^@?#%\\s]+|[^/@:?#%\\s]+)$",
});

#[cfg(test)]
mod tests {
    use super::*;

    fn why<T: FromStr<Err = NameError> + fmt::Debug>(text: &str) -> String {
        text.parse::<T>().unwrap_err().to_string()
    }

    #[test]
    fn labels_are_rfc_1123() {
        for good in ["a", "llama-3", "0", &"x".repeat(63)] {
            assert_eq!(good.parse::<Label>().unwrap().as_str(), good);
        }
        for bad in ["", "-a", "a-", "A", "a_b", "a.b", "ü", &"x".repeat(64)] {
            assert!(why::<Label>(bad).contains("lower-case"), "{bad}");
        }
        assert!(why::<Label>("My Models").ends_with("such as `my-models`"));
        assert_eq!(Label::nearest("..").as_str(), "volume");
        assert!(
            Label::nearest(&"-Ü9".repeat(99))
                .as_str()
                .parse::<Label>()
                .is_ok()
        );
    }

    #[test]
    fn graft_paths_are_absolute_and_plain() {
        for (text, path) in [
            ("/", "/"),
            ("/a", "/a"),
            ("/a/b/", "/a/b"),
            ("/...", "/..."),
        ] {
            assert_eq!(text.parse::<GraftPath>().unwrap().to_string(), path);
        }
        assert!("/".parse::<GraftPath>().unwrap().is_root());
        assert!(why::<GraftPath>("a").contains("begin it with `/`"));
        assert!(why::<GraftPath>("").contains("begin it with `/`"));
        assert!(why::<GraftPath>("/a/../b").contains("`..`"));
        for empty in ["/a//b", "//", "///"] {
            assert!(why::<GraftPath>(empty).contains("an empty name"), "{empty}");
        }
        assert!(why::<GraftPath>("/a\0").contains("NUL"));
        assert!(why::<GraftPath>(&format!("/{}", "x".repeat(256))).contains("too long"));
    }

    #[test]
    fn globs_compile_or_say_why() {
        for good in ["*.csv", "docs/**", "/top", "{a,b}/*", "[a-z]?", "dir/"] {
            assert!(good.parse::<GlobPattern>().is_ok(), "{good}");
        }
        assert!(why::<GlobPattern>("a[").contains("not a glob"));
        assert!(why::<GlobPattern>("{a").contains("not a glob"));
        assert!(why::<GlobPattern>("").contains("empty"));
        assert!(why::<GlobPattern>("a/../b").contains("`..`"));
    }

    #[test]
    fn urls_hold_no_credentials_and_messages_no_urls() {
        assert!("https://h/d/".parse::<HttpUrl>().is_ok());
        for url in [
            "https://joe:hunter2@h/d",
            "http://hunter2@h/",
            "https://:hunter2@h:99999/",
        ] {
            let why = why::<HttpUrl>(url);
            assert!(!why.contains("hunter2"), "{why}");
        }
        assert!(why::<HttpUrl>("https://joe:hunter2@h/d").contains("fromEnv"));
        assert!(why::<HttpUrl>("host/dir").contains("begin it with https://"));
        assert!(why::<HttpUrl>("ftp://host/dir").contains("`ftp`"));
        assert!(why::<HttpUrl>("https://h/#x").contains("fragment"));
        let signed = "https://h/f?sig=abc".parse::<HttpUrl>().unwrap();
        assert_eq!(signed.redacted(), "https://h/f");
    }

    #[test]
    fn buckets_are_checked_loosely() {
        for good in [
            "models",
            "My_Bucket.1",
            "arn:aws:s3:eu-west-1:123:accesspoint/x",
        ] {
            assert!(good.parse::<BucketName>().is_ok(), "{good}");
        }
        assert!(why::<BucketName>("").contains("no name"));
        assert!(why::<BucketName>("a/b").contains("`prefix`"));
        assert!(why::<BucketName>("s3://a").contains("alone"));
        let leak = why::<BucketName>("key:hunter2@a");
        assert!(
            leak.contains("AWS_ACCESS_KEY_ID") && !leak.contains("hunter2"),
            "{leak}"
        );
        assert!(why::<BucketName>("a b").contains("letters"));
    }
}
