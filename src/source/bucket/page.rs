//! What an object store's listing holds, whatever its protocol: keys, put into directories.
//!
//! object_store's listing puts each key into its `Path`, which refuses `a//b`, `../x` and control
//! characters, and one such key fails its whole page. Here a hostile key is hidden and counted.

use super::super::sweep::{Key, Keys};
use super::super::{Error, HiddenWhy, ListingBuilder, Result};
use crate::entry::{Entry, Kind, Timestamp, Version};
use crate::path::{BadName, Name};

/// A page of a listing.
#[derive(Debug, Default)]
pub(crate) struct Page {
    pub(crate) objects: Vec<Object>,
    /// What keys have in common up to the next slash, which is part of it.
    pub(crate) prefixes: Vec<String>,
    /// Where the next page begins; nothing if this is the last one.
    pub(crate) next: Option<String>,
}

/// An object, as a listing or a reply's headers describe it.
#[derive(Debug)]
pub(crate) struct Object {
    pub(crate) key: String,
    pub(crate) size: u64,
    pub(crate) mtime: Option<Timestamp>,
    /// What changes with the bytes and is compared in each reply: a quoted ETag, a generation.
    pub(crate) tag: Option<String>,
    /// Whether it stands for a directory by the store's own word.
    pub(crate) is_dir: bool,
}

impl Page {
    /// Returns how many keys and prefixes the page holds.
    pub(crate) fn len(&self) -> usize {
        self.objects.len() + self.prefixes.len()
    }

    /// Adds the page's entries, which all begin with `prefix` (empty, or ending in a slash).
    pub(crate) fn add_to(&self, prefix: &str, listing: &mut ListingBuilder) -> Result<()> {
        for common in &self.prefixes {
            add_dir(listing, below(common, prefix)?);
        }
        for object in &self.objects {
            let rest = below(&object.key, prefix)?;
            if rest.is_empty() {
                // The directory's own marker.
                if object.size > 0 {
                    listing.hide(HiddenWhy::Name(BadName::Empty), &object.key);
                }
            } else if rest.contains('/') {
                // A server that does not group by the delimiter.
                add_dir(listing, rest);
            } else {
                match Name::new(rest) {
                    Ok(name) => listing.push(object.entry(name)),
                    Err(why) => listing.hide(HiddenWhy::Name(why), &object.key),
                }
            }
        }
        Ok(())
    }

    /// Returns the keys of a page without a delimiter, which all begin with `prefix`.
    pub(crate) fn into_keys(self, prefix: &str) -> Result<Keys> {
        if !self.prefixes.is_empty() {
            return Err(Error::lied("a recursive listing with common prefixes"));
        }
        let key = |object: &Object| {
            let key = below(&object.key, prefix)?.to_owned();
            let last = key.rsplit('/').next().unwrap_or_default();
            Ok(Key {
                size: object.size,
                entry: Name::new(last).map(|name| object.entry(name)),
                key,
            })
        };
        Ok(Keys {
            keys: self.objects.iter().map(key).collect::<Result<_>>()?,
            next: self.next,
        })
    }
}

fn below<'a>(key: &'a str, prefix: &str) -> Result<&'a str> {
    key.strip_prefix(prefix).ok_or_else(|| {
        Error::lied(format!(
            "a listing of {prefix:?} that names {key:?}, which is elsewhere"
        ))
    })
}

fn add_dir(listing: &mut ListingBuilder, rest: &str) {
    let first = rest.split('/').next().unwrap_or(rest);
    match Name::new(first) {
        Ok(name) => listing.push(Entry::dir(name)),
        Err(why) => listing.hide(HiddenWhy::Name(why), rest),
    }
}

impl Object {
    /// Returns the object's entry under `name`.
    pub(crate) fn entry(&self, name: Name) -> Entry {
        if self.is_dir {
            return Entry::dir(name);
        }
        let version = match &self.tag {
            Some(tag) => Version::strong(tag.as_str()),
            None => Version::weak(format!("{}@{}", self.size, self.mtime.map_or(0, |t| t.0))),
        };
        let entry = Entry {
            validator: self.tag.as_deref().map(Into::into),
            ..Entry::file(name, self.size, self.mtime, version)
        };
        debug_assert_eq!(entry.kind, Kind::File);
        entry
    }
}

/// Returns an RFC 3339 time without its fraction: listings know milliseconds at some servers, HEAD
/// never does, and the two must agree.
pub(crate) fn rfc3339(text: &str) -> Option<Timestamp> {
    let time: Timestamp = humantime::parse_rfc3339_weak(text).ok()?.into();
    Some(Timestamp::from_secs(time.0.div_euclid(1_000_000_000)))
}

/// Returns an ETag in the quotes that belong around it and that some servers leave out; nothing for
/// an empty one.
pub(crate) fn etag(etag: &str) -> Option<String> {
    let bare = etag.trim().trim_matches('"');
    (!bare.is_empty()).then(|| format!("\"{bare}\""))
}
