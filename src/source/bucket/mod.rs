//! What all object stores have in common: flat keys shown as directories, paged listings, a prefix
//! that may be a single object, and a distrustful reading of replies.
//!
//! A kind is a [`Store`], which sends one request and says in common terms what came back. Here that
//! becomes a [`Source`]. Words of a store's that may repeat what was sent pass [`Confidences`] on
//! their way out, in one place.

use std::collections::HashSet;
use std::ops::Range;

use async_trait::async_trait;
use percent_encoding::{CONTROLS, utf8_percent_encode};
use tokio::sync::OnceCell;

use super::confidence::Confidences;
use super::sweep::{Keys, Start};
use super::{Body, Error, ErrorKind, Listing, ListingBuilder, Recursive, Result, Source, progress};
use crate::entry::Entry;
use crate::path::{Name, RelPath};

pub(super) mod credentials;
pub(super) mod page;
pub(super) mod request;
#[cfg(any(feature = "azure", feature = "gcs"))]
pub(super) mod rotating;
#[cfg(test)]
mod sweep_tests;

use page::{Object, Page};

/// The most pages that a directory may have: 100 million keys, far over what can be shown.
const MAX_PAGES: usize = 100_000;

/// The most pages in a row that may be empty: stores may return some while they skip deleted keys.
const MAX_EMPTY_PAGES: usize = 100;

/// What a listing is asked for.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Ask<'a> {
    /// What all keys begin with.
    pub(super) prefix: &'a str,
    /// Whether keys are grouped by the slash behind the prefix.
    pub(super) grouped: bool,
    /// Where the page before said that it goes on.
    pub(super) token: Option<&'a str>,
    /// Behind which key to begin, whole. Only without a token, and only where keys are in order.
    pub(super) after: Option<&'a str>,
    /// The most keys that are wanted; what the store likes without it.
    pub(super) most: Option<u32>,
}

/// A kind of object store: one request, one reply, in common terms.
#[async_trait]
pub(super) trait Store: Send + Sync + 'static {
    /// What begins a URL as users write it: `s3`, `az`, `gs`.
    const SCHEME: &'static str;

    /// Whether there are objects that stand for directories, empty ones too, under a key without a
    /// slash at its end.
    const MARKS_DIRECTORIES: bool;

    /// Returns the bucket's name.
    fn bucket(&self) -> &str;

    /// Returns what was sent in confidence.
    fn confidences(&self) -> &Confidences;

    /// Returns whether keys are listed in the order of their bytes.
    fn is_ordered(&self) -> bool;

    /// Asks for a page of a listing. No bucket is [`ErrorKind::Invalid`].
    async fn page(&self, ask: Ask<'_>) -> Result<Page>;

    /// Asks for the description of an object; nothing where there clearly is none.
    async fn head(&self, key: &str) -> Result<Option<Object>>;

    /// Starts a ranged read, as [`Source::read`] does.
    async fn read(&self, key: &str, entry: &Entry, range: Range<u64>) -> Result<Body>;
}

/// A bucket, or a part of one, as a source.
pub struct Bucket<S> {
    pub(super) store: S,
    /// Empty, or without slashes at its ends.
    prefix: String,
    identity: String,
    /// Whether the prefix is the key of an object, and the root a directory of it alone.
    single: OnceCell<bool>,
}

// Stores are kinds of ours: nobody else makes one.
#[allow(private_bounds)]
impl<S: Store> Bucket<S> {
    /// Returns the source for what is under `prefix`, whose slashes at its ends do not matter.
    /// `place` names the service for good.
    pub(super) fn over(store: S, place: &str, prefix: &str) -> Result<Bucket<S>> {
        let prefix = prefix.trim_matches('/').to_owned();
        if prefix.split('/').any(|part| part == "." || part == "..") {
            let what = format!("the prefix {prefix:?} has `.` or `..` in it");
            return Err(Error::new(ErrorKind::Invalid, what));
        }
        Ok(Bucket {
            identity: format!("{place}/{}/{prefix}", store.bucket()),
            store,
            prefix,
            single: OnceCell::new(),
        })
    }

    /// Returns the key at `path`.
    async fn key(&self, path: &RelPath) -> Result<String> {
        if self.may_be_single(path) && self.is_single().await? {
            return Ok(self.prefix.clone());
        }
        Ok(self.join(path))
    }

    fn join(&self, path: &RelPath) -> String {
        match (self.prefix.is_empty(), path.is_root()) {
            (true, _) => path.as_str().to_owned(),
            (_, true) => self.prefix.clone(),
            _ => format!("{}/{}", self.prefix, path.as_str()),
        }
    }

    /// Returns whether `path` is what a single object would be called.
    fn may_be_single(&self, path: &RelPath) -> bool {
        !self.prefix.is_empty() && self.prefix.rsplit('/').next() == Some(path.as_str())
    }

    /// Returns whether the prefix is an object and nothing lies below it. Asked once: a bucket
    /// whose prefix turns from one into the other is another source.
    async fn is_single(&self) -> Result<bool> {
        let probe = || async {
            let below = format!("{}/", self.prefix);
            let ask = Ask {
                prefix: &below,
                most: Some(1),
                ..Ask::default()
            };
            if self.store.page(ask).await?.len() > 0 {
                return Ok(false);
            }
            let object = self.store.head(&self.prefix).await?;
            Ok(object.is_some_and(|object| !object.is_dir))
        };
        self.single.get_or_try_init(probe).await.copied()
    }

    /// Lists all pages under `prefix`, which is empty or ends with a slash.
    /// Returns whether there was no key at all, not even a directory's own marker.
    async fn pages(&self, prefix: &str, listing: &mut ListingBuilder) -> Result<bool> {
        let mut nothing = true;
        let mut token: Option<String> = None;
        let mut seen = HashSet::new();
        let mut empty = 0;
        for _ in 0..MAX_PAGES {
            let ask = Ask {
                prefix,
                grouped: true,
                token: token.as_deref(),
                ..Ask::default()
            };
            let mut page = self.store.page(ask).await?;
            page.add_to(prefix, listing)?;
            nothing &= page.len() == 0;
            empty = if page.len() == 0 { empty + 1 } else { 0 };
            let next = page.next.take();
            drop(page);
            progress::note();
            match next {
                None => return Ok(nothing),
                Some(_) if empty >= MAX_EMPTY_PAGES => {
                    return Err(Error::lied("a listing of empty pages that does not end"));
                }
                Some(next) => {
                    // The digest of a token, which may be long, is enough to know it again.
                    if !seen.insert(*blake3::hash(next.as_bytes()).as_bytes()) {
                        return Err(Error::lied("a listing that comes back to an earlier page"));
                    }
                    token = Some(next);
                }
            }
        }
        Err(Error::lied(format!(
            "a directory of more than {MAX_PAGES} pages"
        )))
    }

    /// Returns what the keys of a directory begin with: nothing, or what ends with a slash.
    fn prefix_of(&self, dir: &RelPath) -> String {
        let key = self.join(dir);
        match key.is_empty() {
            true => String::new(),
            false => format!("{key}/"),
        }
    }

    async fn list_all(&self, dir: &RelPath, listing: &mut ListingBuilder) -> Result<()> {
        let (key, prefix) = (self.join(dir), self.prefix_of(dir));
        let nothing = self.pages(&prefix, listing).await?;
        if !nothing || prefix.is_empty() {
            return Ok(());
        }
        if !dir.is_root() {
            if S::MARKS_DIRECTORIES && self.store.head(&key).await?.is_some_and(|o| o.is_dir) {
                return Ok(());
            }
            let what = "no key begins with the directory's name";
            return Err(Error::new(ErrorKind::NotFound, what));
        }
        // The prefix may be the key of a single object.
        let last = key.rsplit('/').next().unwrap_or(&key);
        if let Ok(name) = Name::new(last) {
            let object = self.store.head(&key).await?.filter(|o| !o.is_dir);
            let _ = self.single.set(object.is_some());
            listing.extend(object.map(|object| object.entry(name)));
        }
        Ok(())
    }

    async fn stat_one(&self, path: &RelPath) -> Result<Entry> {
        let missing = || Error::new(ErrorKind::NotFound, "no such object");
        let name = path.file_name().ok_or_else(missing)?;
        let key = self.key(path).await?;
        let object = self.store.head(&key).await?.filter(|o| !o.is_dir);
        Ok(object.ok_or_else(missing)?.entry(name))
    }

    /// Lists a page of all keys below `dir`.
    async fn keys_below(&self, dir: &RelPath, from: &Start) -> Result<Keys> {
        let prefix = self.prefix_of(dir);
        let mut ask = Ask {
            prefix: &prefix,
            ..Ask::default()
        };
        let after = match from {
            Start::Key(key) => format!("{prefix}{key}"),
            Start::Token(_) => String::new(),
        };
        if let Start::Token(token) = from {
            ask.token = Some(token);
        }
        ask.after = (after.len() > prefix.len()).then_some(after.as_str());
        self.store.page(ask).await?.into_keys(&prefix)
    }

    fn conceal(&self, error: Error) -> Error {
        self.store.confidences().conceal(error)
    }
}

#[async_trait]
impl<S: Store> Source for Bucket<S> {
    fn identity(&self) -> &str {
        &self.identity
    }

    fn url(&self, path: &RelPath) -> String {
        let single = self.single.get() == Some(&true) && self.may_be_single(path);
        let key = if single {
            self.prefix.clone()
        } else {
            self.join(path)
        };
        // Only what a terminal would obey is escaped: it is the key's name as the store's own tools
        // write it.
        let key = utf8_percent_encode(&key, CONTROLS);
        format!("{}://{}/{key}", S::SCHEME, self.store.bucket())
    }

    async fn list(&self, dir: &RelPath) -> Result<Listing> {
        let mut listing = ListingBuilder::default();
        self.list_into(dir, &mut listing).await?;
        Ok(listing.finish())
    }

    async fn list_into(&self, dir: &RelPath, listing: &mut ListingBuilder) -> Result<()> {
        let done = self.list_all(dir, listing).await;
        done.map_err(|error| self.conceal(error))
    }

    async fn stat(&self, path: &RelPath) -> Result<Entry> {
        let done = self.stat_one(path).await;
        done.map_err(|error| self.conceal(error))
    }

    async fn read(&self, path: &RelPath, entry: &Entry, range: Range<u64>) -> Result<Body> {
        let read = async {
            let key = self.key(path).await?;
            self.store.read(&key, entry, range).await
        };
        read.await.map_err(|error| self.conceal(error))
    }

    fn recursive(&self) -> Option<&dyn Recursive> {
        let ordered = self.store.is_ordered();
        ordered.then_some(self as &dyn Recursive)
    }
}

#[async_trait]
impl<S: Store> Recursive for Bucket<S> {
    async fn keys(&self, dir: &RelPath, from: &Start) -> Result<Keys> {
        let done = self.keys_below(dir, from).await;
        done.map_err(|error| self.conceal(error))
    }
}
