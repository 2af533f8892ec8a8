//! Extended attributes: where a file comes from and how much of it is here. Readable, not listed,
//! so that `cp -a` copies none.

use svol_cache::{Hash, Object};

use super::Vfs;
use super::error::{Error, Result};
use super::file::OpenFile;
use super::node::{Ino, Node, What};
use super::open::{object_key, opened};
use super::troubles::{Operation, Trouble};
use crate::entry::{Kind, Timestamp};
use crate::source;

impl Vfs {
    /// Returns the value of an extended attribute. Never waits for a source.
    pub fn xattr(&self, ino: Ino, name: &str) -> Result<String> {
        let node = self.nodes.get(ino).ok_or(Error::Stale)?;
        let name = name.strip_prefix("user.svol.").ok_or(Error::NoAttribute)?;
        match name {
            "source" => self.source_of(&node),
            "version" => match &node.what {
                What::Leaf { entry, .. } => Ok(entry.version.token.to_string()),
                What::Root | What::Dir { .. } | What::Lost { .. } => Err(Error::NoAttribute),
            },
            "cached" => self.cached(&node).ok_or(Error::NoAttribute),
            "digest" => self
                .digest(&node)
                .map(|hash| format!("blake3:{}", hash.to_hex()))
                .ok_or(Error::NoAttribute),
            "stale" => self.stale(&node).ok_or(Error::NoAttribute),
            "error" => self
                .mistrusted(&node)
                .or_else(|| self.error_of(&node))
                .ok_or(Error::NoAttribute),
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
    /// be or lacks a layer; of a file also why its version could not be confirmed.
    fn stale(&self, node: &Node) -> Option<String> {
        let dir = if node.is_dir() {
            node.path.clone()
        } else {
            node.path.parent()?
        };
        let say = |layer: usize, error: &source::Error| {
            format!("{}: {error}", self.namespace.layers()[layer].name)
        };
        let mut reasons = Vec::new();
        if let (What::Leaf { layer, .. }, Some(error)) = (&node.what, node.unconfirmed()) {
            reasons.push(say(*layer, &error));
        }
        if let Some(Ok(listing)) = self.namespace.peek_list(&dir) {
            let degraded = listing.degraded().iter().map(|(layer, e)| (*layer, e));
            reasons.extend(degraded.chain(listing.stale()).map(|(l, e)| say(l, e)));
        }
        (!reasons.is_empty()).then(|| reasons.join("\n"))
    }

    /// The last failure of a file, or of a directory and what is below it, that nothing has
    /// disproved since: what failed, at which source, since when, and what happens next.
    fn error_of(&self, node: &Node) -> Option<String> {
        let trouble = if node.is_dir() {
            self.troubles.below(&node.path).into_iter().next()?
        } else {
            self.troubles.get(&node.path)?
        };
        if let Some((size, Some(object))) = self.object(node)
            && size == object.present_bytes()
        {
            // All of it came by other ways: it can be read.
            self.troubles.works(&node.path, Operation::Read);
            return None;
        }
        Some(self.in_words(&trouble))
    }

    /// Returns a trouble as a sentence for people.
    pub fn in_words(&self, trouble: &Trouble) -> String {
        let time = |at: Timestamp| humantime::format_rfc3339_seconds(at.into());
        let Trouble {
            path,
            operation,
            message,
            reason,
            times,
            ..
        } = trouble;
        let (since, last) = (time(trouble.since), time(trouble.last));
        let when = match times {
            1 => format!("at {since}"),
            n => format!("{n} times since {since}, last at {last}"),
        };
        let next = self.next_of(trouble);
        let what = operation.name();
        format!("{what} of {path} failed ({reason}) {when}: {message}; next: {next}")
    }

    /// Returns what happens next, for people.
    pub fn next_of(&self, trouble: &Trouble) -> String {
        let layers = match trouble.layer {
            Some(layer) => vec![layer],
            None => (0..self.namespace.active().len()).collect(),
        };
        // Of a directory no layer is to blame for certain: whichever its message names.
        let named = |layer: &usize| {
            let name = &self.namespace.layers()[*layer].name;
            trouble.layer.is_some() || trouble.message.contains(&format!("source {name}:"))
        };
        let pause = layers
            .into_iter()
            .filter(named)
            .filter_map(|layer| self.source(layer).pause())
            .max();
        match pause {
            Some(pause) => {
                let at = humantime::format_rfc3339_seconds(std::time::SystemTime::now() + pause);
                format!("the source is not asked before {at}, then by whoever wants it")
            }
            None => "the source is asked again by whoever wants it".into(),
        }
    }

    /// Why a file's bytes are not served: they were not those that its source promises.
    fn mistrusted(&self, node: &Node) -> Option<String> {
        if let Some(OpenFile::Remote(file)) = opened(node).as_deref() {
            return file.remote.broken_promise().map(|error| error.to_string());
        }
        let key = *self.object(node)?.1?.key();
        Some(self.opener.fetcher.mistrusted(&key)?.to_string())
    }

    /// How much of a file is on this machine, as `bytes/size`.
    fn cached(&self, node: &Node) -> Option<String> {
        let (size, object) = self.object(node)?;
        let here = object.map_or(size, |object| object.present_bytes());
        Some(format!("{here}/{size}"))
    }

    fn digest(&self, node: &Node) -> Option<Hash> {
        self.object(node)?.1?.digest()
    }

    /// Returns a file's size and its place in the cache; a file that is read in place has none.
    fn object(&self, node: &Node) -> Option<(u64, Option<Object>)> {
        let What::Leaf {
            layer,
            source_path,
            entry,
        } = &node.what
        else {
            return None;
        };
        let size = entry.size.filter(|_| entry.kind == Kind::File)?;
        let source = self.source(*layer);
        if source.in_place().is_some() {
            return Some((size, None));
        }
        if let Some(OpenFile::Remote(file)) = opened(node).as_deref() {
            return Some((size, Some(file.remote.object().clone())));
        }
        // A reply may have taught more of it than its lookup knew.
        let (dir, name) = (node.path.parent()?, node.path.file_name()?);
        let now = self.namespace.peek_lookup(&dir, &name);
        let now = now.and_then(|found| Some(found.ok()?.entry));
        let now = now.filter(|now| now.version == entry.version);
        let entry = now.as_ref().unwrap_or(entry);
        let key = object_key(source.identity(), source_path, entry);
        Some((size, Some(self.opener.cache.object(key, size))))
    }
}
