//! Extended attributes: where a file comes from and how much of it is here. Readable, not listed,
//! so that `cp -a` copies none.

use svol_cache::Hash;

use super::Vfs;
use super::error::{Error, Result};
use super::file::OpenFile;
use super::node::{Ino, Node, What};
use super::open::{object_key, opened};
use crate::entry::Kind;

impl Vfs {
    /// Returns the value of an extended attribute. Never waits for a source.
    pub fn xattr(&self, ino: Ino, name: &str) -> Result<String> {
        let node = self.nodes.get(ino).ok_or(Error::Stale)?;
        let name = name.strip_prefix("user.svol.").ok_or(Error::NoAttribute)?;
        match name {
            "source" => self.source_of(&node),
            "version" => match &node.what {
                What::Leaf { entry, .. } => Ok(entry.version.token.to_string()),
                What::Root | What::Dir { .. } => Err(Error::NoAttribute),
            },
            "cached" => self.cached(&node),
            "digest" => self
                .digest(&node)
                .map(|hash| format!("blake3:{}", hash.to_hex()))
                .ok_or(Error::NoAttribute),
            "stale" => self.stale(&node).ok_or(Error::NoAttribute),
            _ => Err(Error::NoAttribute),
        }
    }

    /// Of a directory: all layers' that are merged there, a line each, the last layer first.
    fn source_of(&self, node: &Node) -> Result<String> {
        if let What::Leaf {
            layer, source_path, ..
        } = &node.what
        {
            return Ok(self.source(*layer).url(source_path));
        }
        let urls: Vec<String> = self
            .namespace
            .peek_sources(&node.path)
            .into_iter()
            .map(|(layer, path)| self.source(layer).url(&path))
            .collect();
        if urls.is_empty() {
            return Err(Error::NoAttribute);
        }
        Ok(urls.join("\n"))
    }

    /// Why what is known of a directory, or of the one that a file is in, is older than it should
    /// be or lacks a layer.
    fn stale(&self, node: &Node) -> Option<String> {
        let dir = if node.is_dir() {
            node.path.clone()
        } else {
            node.path.parent()?
        };
        let listing = self.namespace.peek_list(&dir)?.ok()?;
        let degraded = listing.degraded().iter().map(|(layer, e)| (*layer, e));
        let reasons: Vec<String> = degraded
            .chain(listing.stale())
            .map(|(layer, e)| format!("{}: {e}", self.namespace.layers()[layer].name))
            .collect();
        (!reasons.is_empty()).then(|| reasons.join("\n"))
    }

    fn cached(&self, node: &Node) -> Result<String> {
        let What::Leaf {
            layer,
            source_path,
            entry,
        } = &node.what
        else {
            return Err(Error::NoAttribute);
        };
        let size = entry.size.ok_or(Error::NoAttribute)?;
        if entry.kind != Kind::File {
            return Err(Error::NoAttribute);
        }
        let source = self.source(*layer);
        let here = match opened(node).as_deref() {
            Some(OpenFile::Remote(remote)) => remote.object().present_bytes(),
            _ if source.in_place().is_some() => size,
            _ => {
                let key = object_key(source.identity(), source_path, entry);
                self.cache.object(key, size).present_bytes()
            }
        };
        Ok(format!("{here}/{size}"))
    }

    fn digest(&self, node: &Node) -> Option<Hash> {
        let What::Leaf {
            layer,
            source_path,
            entry,
        } = &node.what
        else {
            return None;
        };
        let size = entry.size?;
        let source = self.source(*layer);
        if entry.kind != Kind::File || source.in_place().is_some() {
            return None;
        }
        match opened(node).as_deref() {
            Some(OpenFile::Remote(remote)) => remote.object().digest(),
            _ => {
                let key = object_key(source.identity(), source_path, entry);
                self.cache.object(key, size).digest()
            }
        }
    }
}
