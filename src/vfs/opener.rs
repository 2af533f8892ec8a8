//! What it takes to read a file of a source: the source, a place in the cache, and rules.

use std::sync::Arc;

use svol_cache::{Cache, ObjectKey};
use tokio::runtime::Handle as Runtime;

use super::LayerPolicy;
use super::open::object_key;
use crate::catalogue::Catalogue;
use crate::entry::{Entry, Timestamp};
use crate::fetch::{Counters, Fetcher, Pin, Remote};
use crate::namespace::Namespace;
use crate::path::RelPath;
use crate::source::Source;

/// Objects up to this size are fetched in one request, so their bytes cannot be of two versions.
pub(super) const ONE_REQUEST: u64 = svol_cache::SMALL;

/// See the module.
pub(super) struct Opener {
    pub(super) namespace: Arc<Namespace>,
    pub(super) cache: Cache,
    pub(super) fetcher: Arc<Fetcher>,
    /// One for each layer.
    pub(super) counters: Vec<Arc<Counters>>,
    /// One for each layer.
    pub(super) policies: Vec<LayerPolicy>,
    pub(super) runtime: Runtime,
}

impl Opener {
    pub(super) fn catalogue(&self, layer: usize) -> &Arc<Catalogue> {
        &self.namespace.layers()[layer].catalogue
    }

    pub(super) fn source(&self, layer: usize) -> &Arc<dyn Source> {
        self.catalogue(layer).source()
    }

    /// Returns whether the version is weak and was last seen too long ago.
    pub(super) fn must_probe(&self, layer: usize, path: &RelPath, entry: &Entry) -> bool {
        if entry.version.strong {
            return false;
        }
        let seen = self.catalogue(layer).last_seen(path);
        // Seen in the future means that the clock went back: nobody knows how long ago it was.
        let age = seen.and_then(|seen| Timestamp::now().since(seen));
        age.is_none_or(|age| age >= self.policies[layer].revalidate)
    }

    /// Returns the cache's key of a file.
    pub(super) fn key(&self, layer: usize, path: &RelPath, entry: &Entry) -> ObjectKey {
        object_key(self.source(layer).identity(), path, entry)
    }

    /// Returns a file of a source that is fetched, `size` bytes of it.
    pub(super) fn remote(
        &self,
        layer: usize,
        path: &RelPath,
        entry: Entry,
        key: ObjectKey,
        size: u64,
    ) -> Arc<Remote> {
        Remote::new(
            self.cache.object(key, size),
            self.source(layer).clone(),
            Pin {
                path: path.clone(),
                entry,
            },
            self.fetcher.clone(),
            self.counters[layer].clone(),
            self.runtime.clone(),
            self.policies[layer].deadline,
        )
    }
}

/// Returns whether replies to several requests for `entry` can be told to be of one version.
pub(super) fn pinned(entry: &Entry) -> bool {
    entry.validator.is_some() || entry.size.is_some_and(|size| size <= ONE_REQUEST)
}
