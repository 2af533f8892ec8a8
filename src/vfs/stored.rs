//! Files by their place in the volume, without the kernel: for what acts on the cache.

use std::sync::Arc;

use svol_cache::{Object, ObjectKey};
use tokio::sync::Semaphore;

use super::error::{Error, Result};
use super::file::OpenFile;
use super::node::Ino;
use super::{Looked, Vfs, needs_size};
use crate::entry::Entry;
use crate::namespace::Found;
use crate::path::{Name, RelPath};
use crate::source::ErrorKind;

/// A file as the cache has it.
#[derive(Debug, Clone)]
pub struct Stored {
    /// Its key; nothing for a file that is read in place, which the cache never has.
    pub key: Option<ObjectKey>,
    /// Its size in bytes.
    pub size: u64,
    /// Where it comes from, without credentials.
    pub url: String,
}

/// What came of bringing a file.
pub enum Brought {
    /// It is read in place, and needs no bringing.
    Local,
    /// All of it came, or was here.
    Here {
        /// Its place in the cache. While it is held, it is not evicted.
        object: Object,
        /// How many bytes of it were missing before.
        missing: u64,
    },
}

/// Takes a lookup back when dropped.
struct Known<'a>(&'a Vfs, Ino);

impl Drop for Known<'_> {
    fn drop(&mut self) {
        self.0.forget(self.1, 1);
    }
}

impl Vfs {
    /// Returns what is at `path`; nothing for the root, which is a directory.
    pub async fn find(&self, path: &RelPath) -> Result<Option<Found>> {
        Ok(self.namespace.walk(path).await?)
    }

    /// Returns what the cache calls a file of `layer`, which is at `path` of its source. Where its
    /// listing does not tell its size, the source is asked.
    pub async fn stored(&self, layer: usize, path: &RelPath, entry: &Entry) -> Result<Stored> {
        let asked = match (needs_size(entry), path.parent()) {
            (true, Some(dir)) => Some(self.catalogue(layer).resolve(&dir, &entry.name).await?),
            _ => None,
        };
        let entry = asked.as_ref().unwrap_or(entry);
        let source = self.source(layer);
        Ok(Stored {
            key: match source.in_place() {
                Some(_) => None,
                None => Some(self.opener.key(layer, path, entry)),
            },
            size: entry.size.unwrap_or(0),
            url: source.url(path),
        })
    }

    /// Fetches all that is missing of the file at `path`, behind readers; see [`Remote::bring`].
    ///
    /// [`Remote::bring`]: crate::fetch::Remote::bring
    pub async fn bring(
        self: &Arc<Self>,
        path: &RelPath,
        turns: &Semaphore,
        came: impl Fn(u64) + Sync,
    ) -> Result<Brought> {
        let (dir, name) = path.parent().zip(path.file_name()).ok_or(Error::IsDir)?;
        // It may be replaced between its lookup and its opening, as any opener may find.
        for last in [false, true] {
            let looked = self.lookup_in(&dir, &name).await?;
            let known = Known(self, looked.attr.ino);
            let handle = match self.open_quietly(known.1).await {
                Err(Error::Stale) if !last => continue,
                opened => opened?,
            };
            let OpenFile::Remote(file) = &*handle.file else {
                return Ok(Brought::Local);
            };
            let result = file.remote.bring(turns, &came).await;
            self.teach(&handle.node, file.remote.entry());
            return match result {
                Ok(missing) => Ok(Brought::Here {
                    object: file.remote.object().clone(),
                    missing,
                }),
                Err(error) => {
                    let error = Error::from(error);
                    self.look_into(&handle.node, &error).await;
                    Err(error)
                }
            };
        }
        Err(Error::Stale)
    }

    /// Looks `name` up in the directory at `dir`, counted as one of the kernel's lookups.
    pub(super) async fn lookup_in(&self, dir: &RelPath, name: &Name) -> Result<Looked> {
        // Twice: what is listed and not there makes its directory be listed again.
        for _ in 0..2 {
            let found = self.namespace.lookup(dir, name).await?;
            if !needs_size(&found.entry) {
                return Ok(self.looked_up(dir, found));
            }
            match self.namespace.resolve(&found).await {
                Ok(found) => return Ok(self.looked_up(dir, found)),
                Err(error) if error.kind() == ErrorKind::NotFound => {}
                Err(error) => return Err(error.into()),
            }
        }
        // Listed and not there, by a source that answered both: an absence. By an older listing it
        // may as well have become something else.
        match self.namespace.peek_list(dir) {
            Some(Ok(listing)) if listing.stale().next().is_none() => Err(Error::Absent),
            _ => Err(Error::Stale),
        }
    }
}
