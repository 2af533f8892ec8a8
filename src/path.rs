//! Names and paths, validated once at the edge and never again.
//!
//! Remote names are hostile (they come from whoever may write to a bucket), so nothing below this
//! module ever handles a raw string: a [`Name`] is one path component that every Linux file system
//! can show, and a [`RelPath`] is a sequence of such names. Neither can hold `.`, `..`, an empty
//! component, a NUL or a name longer than the kernel accepts.

use std::borrow::Borrow;
use std::fmt;
use std::sync::Arc;

/// The longest name in bytes, as `statfs` tells it and programs expect it.
pub const NAME_MAX: usize = 255;

/// The longest path in bytes that we keep; S3 keys end at 1,024, `PATH_MAX` is 4,096.
pub const PATH_MAX: usize = 4096;

/// Why a name or a path cannot be shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, thiserror::Error)]
pub enum BadName {
    /// An empty component, as in `a//b`.
    #[error("an empty name")]
    Empty,
    /// `.` or `..`.
    #[error("`.` or `..` as a name")]
    Dots,
    /// A NUL byte or a `/`.
    #[error("a NUL byte or a slash in a name")]
    Forbidden,
    /// Longer than [`NAME_MAX`], or a path longer than [`PATH_MAX`].
    #[error("a name or path that is too long")]
    TooLong,
    /// Not UTF-8.
    #[error("a name that is not UTF-8")]
    NotUtf8,
}

/// One component of a path: 1 to [`NAME_MAX`] bytes of UTF-8, no `/`, no NUL, not `.` or `..`.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Name(Arc<str>);

impl Name {
    /// Validates `name`.
    pub fn new(name: &str) -> Result<Name, BadName> {
        check(name)?;
        Ok(Name(name.into()))
    }

    /// Validates raw bytes, as they come from the kernel or a directory.
    pub fn from_bytes(name: &[u8]) -> Result<Name, BadName> {
        Name::new(std::str::from_utf8(name).map_err(|_| BadName::NotUtf8)?)
    }

    /// Returns the name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

fn check(name: &str) -> Result<(), BadName> {
    if name.is_empty() {
        Err(BadName::Empty)
    } else if name == "." || name == ".." {
        Err(BadName::Dots)
    } else if name.len() > NAME_MAX {
        Err(BadName::TooLong)
    } else if name.bytes().any(|b| b == 0 || b == b'/') {
        Err(BadName::Forbidden)
    } else {
        Ok(())
    }
}

impl Borrow<str> for Name {
    fn borrow(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", &*self.0)
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A path below some root: zero or more [`Name`]s. The root itself is the empty path.
///
/// Used both for places in a source and for places in a volume; which one is said by the field or
/// parameter that holds it.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RelPath(Arc<str>);

impl RelPath {
    /// Returns the root.
    pub fn root() -> RelPath {
        RelPath("".into())
    }

    /// Validates `path`: names joined by single slashes, without a leading or trailing one.
    pub fn new(path: &str) -> Result<RelPath, BadName> {
        if path.len() > PATH_MAX {
            return Err(BadName::TooLong);
        }
        if !path.is_empty() {
            path.split('/').try_for_each(check)?;
        }
        Ok(RelPath(path.into()))
    }

    /// Returns whether this is the root.
    pub fn is_root(&self) -> bool {
        self.0.is_empty()
    }

    /// Returns the path as text, without a leading slash; the root is "".
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Returns the path with `name` appended.
    pub fn join(&self, name: &Name) -> RelPath {
        if self.is_root() {
            RelPath(name.0.clone())
        } else {
            // For each entry of each listing: without what formatting costs.
            let mut path = String::with_capacity(self.0.len() + 1 + name.0.len());
            path.push_str(&self.0);
            path.push('/');
            path.push_str(&name.0);
            RelPath(path.into())
        }
    }

    /// Returns the path with all of `other` appended.
    pub fn concat(&self, other: &RelPath) -> RelPath {
        match (self.is_root(), other.is_root()) {
            (true, _) => other.clone(),
            (_, true) => self.clone(),
            _ => RelPath(format!("{}/{}", self.0, other.0).into()),
        }
    }

    /// Returns the parent, or nothing for the root.
    pub fn parent(&self) -> Option<RelPath> {
        if self.is_root() {
            return None;
        }
        Some(match self.0.rfind('/') {
            Some(at) => RelPath(self.0[..at].into()),
            None => RelPath::root(),
        })
    }

    /// Returns the last component, or nothing for the root.
    pub fn file_name(&self) -> Option<Name> {
        if self.is_root() {
            return None;
        }
        let at = self.0.rfind('/').map_or(0, |at| at + 1);
        Some(Name(self.0[at..].into()))
    }

    /// Returns the components in order.
    pub fn components(&self) -> impl Iterator<Item = Name> + '_ {
        self.0
            .split('/')
            .filter(|part| !part.is_empty())
            .map(|part| Name(part.into()))
    }

    /// Returns what follows `base`, if this path is `base` or below it.
    pub fn strip_prefix(&self, base: &RelPath) -> Option<RelPath> {
        if base.is_root() {
            return Some(self.clone());
        }
        let rest = self.0.strip_prefix(&*base.0)?;
        if rest.is_empty() {
            Some(RelPath::root())
        } else {
            rest.strip_prefix('/').map(|rest| RelPath(rest.into()))
        }
    }
}

impl Borrow<str> for RelPath {
    fn borrow(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for RelPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "/{}", &*self.0)
    }
}

impl fmt::Display for RelPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "/{}", &*self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_refuse_what_no_file_system_shows() {
        for (name, why) in [
            ("", BadName::Empty),
            (".", BadName::Dots),
            ("..", BadName::Dots),
            ("a/b", BadName::Forbidden),
            ("a\0", BadName::Forbidden),
        ] {
            assert_eq!(Name::new(name), Err(why), "{name:?}");
        }
        assert_eq!(Name::new(&"x".repeat(256)), Err(BadName::TooLong));
        assert_eq!(Name::from_bytes(b"\xff"), Err(BadName::NotUtf8));
        for name in ["a", "...", " ", "\n", "ü", &"x".repeat(255)] {
            assert!(Name::new(name).is_ok(), "{name:?}");
        }
    }

    #[test]
    fn paths_take_apart_and_join() {
        let path = RelPath::new("a/b/c").unwrap();
        assert_eq!(path.parent().unwrap().as_str(), "a/b");
        assert_eq!(path.file_name().unwrap().as_str(), "c");
        assert_eq!(path.components().count(), 3);
        assert_eq!(RelPath::root().components().count(), 0);
        assert_eq!(RelPath::new("a").unwrap().parent(), Some(RelPath::root()));
        for bad in ["/a", "a/", "a//b", "a/../b", "./a"] {
            assert!(RelPath::new(bad).is_err(), "{bad}");
        }
        let base = RelPath::new("a/b").unwrap();
        assert_eq!(path.strip_prefix(&base).unwrap().as_str(), "c");
        assert_eq!(base.strip_prefix(&base).unwrap(), RelPath::root());
        assert_eq!(RelPath::new("a/bc").unwrap().strip_prefix(&base), None);
        assert_eq!(base.concat(&path).as_str(), "a/b/a/b/c");
    }
}
