//! Listing many directories with one request: all keys below a directory, cut into directories.
//!
//! A source whose keys are sorted and flat lists a thousand files of any number of directories at
//! once. [`Sweep`] reads such pages and hands each directory on as soon as a key says that it is
//! complete. What it hands on is what [`Source::list`](super::Source::list) of that directory gives:
//! the same entries, and the same names hidden.
//!
//! A directory is complete where the keys began before its first one and went on past its last one,
//! in order. Keys out of order, before the place that was asked for or outside the directory prove
//! that the server cannot be relied on for this, and end the sweep with an error; that is no one's
//! absence, as directories that are not handed on are listed one by one.

use std::time::Instant;

use async_trait::async_trait;

use super::{Error, HiddenWhy, ListingBuilder, PackedListing, Result};
use crate::entry::{Entry, Timestamp};
use crate::path::{BadName, Name, PATH_MAX, RelPath};
use crate::rows::Room;

/// Entries from which a directory is not built: it is listed alone by whoever wants it. After as many
/// keys that complete nothing a sweep passes over the directory that it is in, which may have
/// millions.
const LARGE: usize = 4096;

/// A source that can list all below a directory at once, in the order of keys (by bytes).
#[async_trait]
pub trait Recursive: Send + Sync {
    /// Asks for the next page of all keys below `dir`.
    async fn keys(&self, dir: &RelPath, from: &Start) -> Result<Keys>;
}

/// Where a page of keys begins.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Start {
    /// Behind this key, which need not be there; relative to the directory. Empty: at the first.
    Key(String),
    /// Where the page before said that it goes on.
    Token(String),
}

/// A page of keys.
#[derive(Debug, Default)]
pub struct Keys {
    /// In order.
    pub keys: Vec<Key>,
    /// Where the next page begins; nothing if this is the last one.
    pub next: Option<String>,
}

/// A key below a directory, and what is there.
#[derive(Debug)]
pub struct Key {
    /// Relative to the directory; what ends with a slash is a directory's own marker.
    pub key: String,
    /// Its size in bytes.
    pub size: u64,
    /// The entry, or why its last component cannot be shown.
    pub entry: std::result::Result<Entry, BadName>,
}

/// A directory that a sweep saw all of.
#[derive(Debug)]
pub struct Swept {
    /// Where it is, below the source's root.
    pub path: RelPath,
    /// What it holds.
    pub listing: PackedListing,
    /// When the first page with a key of it was asked for.
    pub asked: (Instant, Timestamp),
}

/// A recursive listing under way. See the module.
#[derive(Debug)]
pub struct Sweep {
    root: RelPath,
    room: Room,
    /// Nothing: all is seen.
    next: Option<Start>,
    /// Directories whose keys begin behind this are seen from their beginning.
    start: String,
    last: String,
    /// The directories that `last` is in, the outermost first.
    open: Vec<Open>,
    /// Keys since a directory was handed on.
    barren: usize,
    large: usize,
}

#[derive(Debug)]
struct Open {
    /// How much of `last` leads here, slash included.
    prefix: usize,
    path: RelPath,
    whole: bool,
    asked: (Instant, Timestamp),
    listing: ListingBuilder,
    /// The last component that cannot be shown: its keys come one after the other.
    bad: Option<String>,
}

impl Sweep {
    /// Returns a sweep of all below `root` whose keys are behind `start`. Listings are built in
    /// `room`.
    pub fn new(root: RelPath, start: String, room: Room) -> Sweep {
        Sweep {
            root,
            room,
            next: Some(Start::Key(start.clone())),
            last: start.clone(),
            start,
            open: Vec::new(),
            barren: 0,
            large: LARGE,
        }
    }

    /// Takes a directory of `large` entries for large.
    #[cfg(test)]
    pub(crate) fn with_large(mut self, large: usize) -> Sweep {
        self.large = large;
        self
    }

    /// Returns the directory below which this is.
    pub fn root(&self) -> &RelPath {
        &self.root
    }

    /// Returns where the next page begins; nothing if all was seen.
    pub fn next(&self) -> Option<&Start> {
        self.next.as_ref()
    }

    /// Returns the last key that was seen, or the place where this began; relative to the root.
    pub fn last(&self) -> &str {
        &self.last
    }

    /// Goes on behind `start`, if that is further than what was seen. Directories in between are
    /// not handed on.
    pub fn skip_to(&mut self, start: &str) {
        if self.next.is_some() && *start > *self.last {
            self.open.clear();
            self.barren = 0;
            self.next = Some(Start::Key(start.to_owned()));
            start.clone_into(&mut self.start);
            start.clone_into(&mut self.last);
        }
    }

    /// Takes the next page, which was asked for at `asked`, and returns the directories that are
    /// complete now. May wait for the local disk where a listing is large.
    pub fn take(&mut self, page: Keys, asked: (Instant, Timestamp)) -> Result<Vec<Swept>> {
        let page_of = match &self.next {
            Some(Start::Token(token)) => Some(token.clone()),
            _ => None,
        };
        let mut done = Vec::new();
        if self.open.is_empty() {
            self.enter(0, self.root.clone(), asked);
        }
        for key in page.keys {
            if key.key <= self.last && !(key.key.is_empty() && self.last.is_empty()) {
                let what = "a listing that is not in order, or begins before what was asked for";
                return Err(Error::lied(what));
            }
            if key.key.len() > PATH_MAX {
                return Err(Error::lied("a key that is longer than any path"));
            }
            let before = done.len();
            self.leave(&key.key, &mut done)?;
            self.barren = if done.len() > before {
                0
            } else {
                self.barren + 1
            };
            self.add(key, asked);
        }
        match page.next {
            None => {
                self.next = None;
                while let Some(open) = self.open.pop() {
                    close(open, &mut done)?;
                }
            }
            Some(token) if Some(&token) == page_of.as_ref() => {
                return Err(Error::lied("a listing that comes back to the same page"));
            }
            Some(token) => {
                self.next = Some(Start::Token(token));
                self.pass_over_large();
            }
        }
        Ok(done)
    }

    /// Closes the directories that `key` is not in.
    fn leave(&mut self, key: &str, done: &mut Vec<Swept>) -> Result<()> {
        let same = std::iter::zip(self.last.bytes(), key.bytes());
        let common = same.take_while(|(a, b)| a == b).count();
        while self.open.last().is_some_and(|open| open.prefix > common)
            && let Some(open) = self.open.pop()
        {
            close(open, done)?;
        }
        Ok(())
    }

    fn enter(&mut self, prefix: usize, path: RelPath, asked: (Instant, Timestamp)) {
        self.open.push(Open {
            prefix,
            whole: self.last[..prefix] > *self.start || self.start.is_empty(),
            path,
            asked,
            listing: ListingBuilder::within(self.room.clone()),
            bad: None,
        });
    }

    fn add(&mut self, key: Key, asked: (Instant, Timestamp)) {
        self.last = key.key;
        loop {
            // The root stays open as long as there are keys.
            let Some(open) = self.open.last_mut() else {
                return;
            };
            if open.listing.len() >= self.large {
                open.whole = false;
                open.listing = ListingBuilder::default();
            }
            let whole = open.whole;
            let rest = &self.last[open.prefix..];
            let Some(slash) = rest.find('/') else {
                match (rest.is_empty(), key.entry) {
                    _ if !whole => {}
                    (true, _) if key.size > 0 => {
                        open.listing
                            .hide(HiddenWhy::Name(BadName::Empty), &self.last);
                    }
                    // The directory's own marker.
                    (true, _) => {}
                    (false, Ok(entry)) => open.listing.push(entry),
                    (false, Err(why)) => open.listing.hide(HiddenWhy::Name(why), &self.last),
                }
                return;
            };
            let component = &rest[..slash];
            match Name::new(component) {
                Ok(name) => {
                    let path = open.path.join(&name);
                    let prefix = open.prefix + slash + 1;
                    if whole {
                        open.listing.push(Entry::dir(name));
                    }
                    self.enter(prefix, path, asked);
                }
                Err(why) => {
                    if open.bad.as_deref() != Some(component) {
                        open.bad = Some(component.to_owned());
                        open.listing
                            .hide(HiddenWhy::Name(why), &format!("{component}/"));
                    }
                    return;
                }
            }
        }
    }

    /// Goes on behind the directory that it is in, if that seems to have no end.
    fn pass_over_large(&mut self) {
        let Some(open) = self.open.last().filter(|_| self.barren >= self.large) else {
            return;
        };
        match open.prefix.checked_sub(1) {
            // Nothing lies behind it.
            None => self.next = None,
            Some(end) => {
                let behind = behind(&self.last[..end]);
                self.skip_to(&behind);
            }
        }
    }
}

/// Returns the place behind all keys of the directory at `path`, relative to a sweep's root.
pub fn behind(path: &str) -> String {
    // `0` is the character after `/`.
    format!("{path}0")
}

fn close(open: Open, done: &mut Vec<Swept>) -> Result<()> {
    if open.whole {
        done.push(Swept {
            path: open.path,
            listing: open.listing.pack()?,
            asked: open.asked,
        });
    }
    Ok(())
}
