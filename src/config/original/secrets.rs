//! Where the secrets of a document are: in a directory of mounted Secrets, or in its own text.

use std::path::{Path, PathBuf};

use base64::Engine as _;

use super::document::{Plain, SecretKey};
use crate::config::secret::{Secret, SecretRef};

/// What becomes of a secret that stands in the document itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Inline {
    /// It is kept in memory, to mount with.
    Keep,
    /// A file is named that it belongs in, since what comes of it is written down.
    Refer,
}

/// Where secrets are found.
pub(crate) struct Secrets<'a> {
    /// The directory of mounted Secrets.
    pub(crate) dir: &'a Path,
    /// Whether a file is there.
    pub(crate) there: &'a dyn Fn(&Path) -> bool,
    /// What becomes of those that stand in the document.
    pub(crate) inline: Inline,
}

/// The file of one key of a Secret.
pub(super) struct Found {
    pub(super) file: PathBuf,
    /// Where it may be put, where there is none.
    pub(super) places: Vec<PathBuf>,
}

impl Secrets<'_> {
    /// Returns the file of `key` of the Secret `name`: the one below the directory of the
    /// namespace wins where both are there, and is named where neither is. Names have to be checked
    /// before.
    pub(super) fn file(&self, namespace: Option<&str>, name: &str, key: &str) -> Found {
        let plain = self.dir.join(name).join(key);
        let Some(namespace) = namespace else {
            let there = (self.there)(&plain);
            let places = if there {
                Vec::new()
            } else {
                vec![plain.clone()]
            };
            return Found {
                file: plain,
                places,
            };
        };
        let spaced = self.dir.join(namespace).join(name).join(key);
        let places = Vec::new();
        match ((self.there)(&spaced), (self.there)(&plain)) {
            (true, _) => Found {
                file: spaced,
                places,
            },
            (false, true) => Found {
                file: plain,
                places,
            },
            (false, false) => Found {
                file: spaced.clone(),
                places: vec![spaced, plain],
            },
        }
    }
}

impl SecretKey {
    /// Returns what cannot be the name of a Secret, of a namespace or of a key: the field. Such a
    /// name could lead out of the directory.
    pub(super) fn wrong_name(&self) -> Option<&'static str> {
        let name = |text: &str| {
            let fits = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b"-.".contains(&b);
            (1..=253).contains(&text.len()) && !text.starts_with('.') && text.bytes().all(fits)
        };
        let key = |text: &str| {
            let fits = |b: u8| b.is_ascii_alphanumeric() || b"-._".contains(&b);
            (1..=253).contains(&text.len())
                && !text.starts_with("..")
                && text != "."
                && text.bytes().all(fits)
        };
        if !name(&self.name) {
            return Some("name");
        }
        if !self
            .namespace
            .as_deref()
            .is_none_or(|text| text.is_empty() || name(text))
        {
            return Some("namespace");
        }
        (!key(&self.key)).then_some("key")
    }
}

/// Returns a secret of the document's own.
pub(super) fn given(text: &str) -> SecretRef {
    SecretRef::Given(Secret::new(text.to_owned()))
}

/// Returns the private key that stands in a document in base64, as the original wants it, or as it
/// is. Nothing where it is neither.
pub(super) fn private_key(text: &Plain) -> Option<String> {
    const BEGINS: &str = "-----BEGIN ";
    let text = text.expose();
    if text.trim_start().starts_with(BEGINS) {
        return Some(text.trim().to_owned());
    }
    let packed: String = text.split_whitespace().collect();
    let bytes = base64::engine::general_purpose::STANDARD
        .decode(packed)
        .ok()?;
    let key = String::from_utf8(bytes).ok()?;
    let key = key.trim();
    key.starts_with(BEGINS).then(|| key.to_owned())
}

/// A URL without the user name and the password that stood in it.
pub(super) struct Login {
    pub(super) url: String,
    pub(super) user: Option<String>,
    pub(super) password: Option<String>,
}

/// Takes the user name and the password out of a URL; of an SSH one only the password. Returns the
/// text as it is where it is no URL.
pub(super) fn without_login(text: &Plain) -> Login {
    let decoded = |text: &str| {
        let text = percent_encoding::percent_decode_str(text).decode_utf8_lossy();
        (!text.is_empty()).then(|| text.into_owned())
    };
    let whole = text.expose().trim();
    let parsed = whole.contains("://").then(|| url::Url::parse(whole).ok());
    let Some(mut url) = parsed.flatten() else {
        return Login {
            url: whole.into(),
            user: None,
            password: None,
        };
    };
    let password = url.password().and_then(decoded);
    let user = decoded(url.username());
    if user.is_none() && password.is_none() {
        return Login {
            url: whole.into(),
            user,
            password,
        };
    }
    let cleared =
        url.set_password(None).is_ok() && (url.scheme() == "ssh" || url.set_username("").is_ok());
    Login {
        // A URL that cannot be without them has none.
        url: if cleared { url.into() } else { whole.into() },
        user,
        password,
    }
}
