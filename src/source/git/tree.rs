//! Trees, as directories of entries.

use std::collections::HashSet;
use std::sync::Arc;

use gix_hash::ObjectId;
use gix_object::tree::EntryKind;
use gix_object::{CommitRefIter, Kind, TreeRefIter};

use super::super::{Error, ErrorKind, HiddenWhy, ListingBuilder, Result};
use crate::entry::{Entry, Timestamp, Version};
use crate::path::{BadName, Name, PATH_MAX, RelPath};

/// Where objects come from that are on this machine. Blocks on its disk.
pub(super) trait Objects {
    /// Returns a commit, a tree, or what a link points to; nothing if it is not here.
    fn object(&self, id: &ObjectId) -> Result<Option<(Kind, Vec<u8>)>>;
}

/// One entry of a tree.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Node {
    /// As it is in the tree, which may be anything.
    pub(super) name: Vec<u8>,
    pub(super) kind: EntryKind,
    pub(super) id: ObjectId,
}

impl Node {
    pub(super) fn is_file(&self) -> bool {
        matches!(self.kind, EntryKind::Blob | EntryKind::BlobExecutable)
    }
}

/// A tree taken apart: its entries in the order of their names.
#[derive(Debug, Default)]
pub(super) struct Directory(Vec<Node>);

impl Directory {
    /// Returns a directory of one entry.
    pub(super) fn of(node: Node) -> Directory {
        Directory(vec![node])
    }

    /// Takes a tree apart.
    pub(super) fn parse(bytes: &[u8], format: gix_hash::Kind) -> Result<Directory> {
        let mut nodes = Vec::new();
        for entry in TreeRefIter::from_bytes(bytes, format) {
            let entry =
                entry.map_err(|e| Error::lied(format!("a tree that makes no sense: {e}")))?;
            nodes.push(Node {
                name: entry.filename.to_vec(),
                kind: entry.mode.kind(),
                id: entry.oid.to_owned(),
            });
        }
        nodes.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(Directory(nodes))
    }

    /// Returns the entry of a name; the directory, where there are two.
    pub(super) fn find(&self, name: &str) -> Option<&Node> {
        let from = self
            .0
            .partition_point(|n| n.name.as_slice() < name.as_bytes());
        let same = self.0.get(from..)?.iter();
        let same = || same.clone().take_while(|n| n.name == name.as_bytes());
        same()
            .find(|n| matches!(n.kind, EntryKind::Tree | EntryKind::Commit))
            .or_else(|| same().next())
    }

    /// Returns the entries.
    pub(super) fn nodes(&self) -> &[Node] {
        &self.0
    }

    /// Returns the files.
    pub(super) fn files(&self) -> impl Iterator<Item = &Node> {
        self.0.iter().filter(|n| n.is_file())
    }
}

/// A commit whose tree can be listed.
#[derive(Debug)]
pub(super) struct Commit {
    pub(super) id: ObjectId,
    /// The id as text, which is the generation.
    pub(super) text: Arc<str>,
    pub(super) time: Timestamp,
    /// The tree that the source's root shows.
    pub(super) root: ObjectId,
}

/// What looking for something found.
#[derive(Debug)]
pub(super) enum Found<T> {
    /// It is this.
    Here(T),
    /// It does not exist.
    Nowhere,
    /// What it takes to tell is not here.
    Missing(ObjectId),
}

/// Returns the tree and the time of a commit.
pub(super) fn parse_commit(bytes: &[u8], format: gix_hash::Kind) -> Result<(ObjectId, Timestamp)> {
    let bad = |e| Error::lied(format!("a commit that makes no sense: {e}"));
    let tree = CommitRefIter::from_bytes(bytes, format)
        .tree_id()
        .map_err(bad)?;
    let committer = CommitRefIter::from_bytes(bytes, format)
        .committer()
        .map_err(bad)?;
    // What is no time is the epoch: no reason to show no files.
    Ok((tree, Timestamp::from_secs(committer.seconds())))
}

/// Returns the commit `id`, where `below` is the root.
pub(super) fn commit(
    objects: &dyn Objects,
    id: ObjectId,
    below: &RelPath,
) -> Result<Found<Commit>> {
    let Some((kind, bytes)) = objects.object(&id)? else {
        return Ok(Found::Missing(id));
    };
    if kind != Kind::Commit {
        let message = format!("{id} is a {kind}, not a commit");
        return Err(Error::new(ErrorKind::Invalid, message));
    }
    let (tree, time) = parse_commit(&bytes, id.kind())?;
    let root = match descend(objects, tree, below)? {
        Found::Here((EntryKind::Tree, root)) => root,
        Found::Missing(id) => return Ok(Found::Missing(id)),
        Found::Here(_) | Found::Nowhere => {
            let message = format!("the commit {id} has no directory {:?}", below.as_str());
            return Err(Error::new(ErrorKind::Invalid, message));
        }
    };
    Ok(Found::Here(Commit {
        id,
        text: id.to_string().into(),
        time,
        root,
    }))
}

/// Returns what is at `path` below a tree.
pub(super) fn descend(
    objects: &dyn Objects,
    root: ObjectId,
    path: &RelPath,
) -> Result<Found<(EntryKind, ObjectId)>> {
    let mut at = (EntryKind::Tree, root);
    for name in path.components() {
        let (EntryKind::Tree, id) = at else {
            return Ok(Found::Nowhere);
        };
        let Some(tree) = directory(objects, &id)? else {
            return Ok(Found::Missing(id));
        };
        match tree.find(name.as_str()) {
            Some(node) => at = (node.kind, node.id),
            None => return Ok(Found::Nowhere),
        }
    }
    Ok(Found::Here(at))
}

/// Returns a tree taken apart; nothing if it is not here.
pub(super) fn directory(objects: &dyn Objects, id: &ObjectId) -> Result<Option<Directory>> {
    match objects.object(id)? {
        Some((Kind::Tree, bytes)) => Directory::parse(&bytes, id.kind()).map(Some),
        Some((kind, _)) => Err(Error::lied(format!("{id} is a {kind}, not a tree"))),
        None => Ok(None),
    }
}

/// What a commit consists of, without its files.
#[derive(Debug, Default)]
pub(super) struct Reach {
    /// All that is reachable: the commit, its trees and the links in them.
    pub(super) all: HashSet<ObjectId>,
    /// Those of them that are not here.
    pub(super) missing: Vec<ObjectId>,
    /// The links that are not here.
    pub(super) links: Vec<ObjectId>,
}

/// Goes through a commit's trees.
pub(super) fn reach(
    objects: &dyn Objects,
    has: &dyn Fn(&ObjectId) -> Result<bool>,
    commit: &ObjectId,
    into: &mut Reach,
) -> Result<()> {
    if !into.all.insert(*commit) {
        return Ok(());
    }
    let Some((Kind::Commit, bytes)) = objects.object(commit)? else {
        into.missing.push(*commit);
        return Ok(());
    };
    let (root, _) = parse_commit(&bytes, commit.kind())?;
    let mut trees = vec![root];
    while let Some(id) = trees.pop() {
        if !into.all.insert(id) {
            continue;
        }
        let Some(tree) = directory(objects, &id)? else {
            into.missing.push(id);
            continue;
        };
        for node in tree.nodes() {
            match node.kind {
                EntryKind::Tree => trees.push(node.id),
                EntryKind::Link if into.all.insert(node.id) && !has(&node.id)? => {
                    into.links.push(node.id);
                }
                _ => {}
            }
        }
    }
    Ok(())
}

/// Adds a tree's entry to a listing. `size` is a file's, `target` a link's.
pub(super) fn push(
    node: &Node,
    time: Timestamp,
    size: Option<u64>,
    target: Option<&[u8]>,
    listing: &mut ListingBuilder,
) {
    let shown = String::from_utf8_lossy(&node.name);
    match entry(node, time, size, target) {
        Ok(entry) => listing.push(entry),
        Err(why) => listing.hide(why, &shown),
    }
}

/// Returns what a tree's entry is shown as.
pub(super) fn entry(
    node: &Node,
    time: Timestamp,
    size: Option<u64>,
    target: Option<&[u8]>,
) -> std::result::Result<Entry, HiddenWhy> {
    let name = Name::from_bytes(&node.name)?;
    let token: Arc<str> = node.id.to_string().into();
    let version = Version::strong(token.clone());
    Ok(match node.kind {
        EntryKind::Tree | EntryKind::Commit => Entry {
            mtime: Some(time),
            ..Entry::dir(name)
        },
        EntryKind::Link => {
            let target = target.ok_or(BadName::TooLong)?;
            let target = std::str::from_utf8(target).map_err(|_| BadName::NotUtf8)?;
            if target.is_empty() {
                return Err(BadName::Empty.into());
            }
            if target.contains('\0') {
                return Err(BadName::Forbidden.into());
            }
            if target.len() >= PATH_MAX {
                return Err(BadName::TooLong.into());
            }
            Entry::symlink(name, target, Some(time), version)
        }
        EntryKind::Blob | EntryKind::BlobExecutable => Entry {
            size,
            executable: Some(node.kind == EntryKind::BlobExecutable),
            validator: Some(token),
            ..Entry::file(name, 0, Some(time), version)
        },
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn tree(entries: &[(&str, &[u8])]) -> Vec<u8> {
        let mut bytes = Vec::new();
        for (i, (mode, name)) in entries.iter().enumerate() {
            bytes.extend_from_slice(mode.as_bytes());
            bytes.push(b' ');
            bytes.extend_from_slice(name);
            bytes.push(0);
            bytes.extend_from_slice(&[i as u8; 20]);
        }
        bytes
    }

    #[test]
    fn hostile_names_are_hidden_and_counted() {
        let long = vec![b'x'; 300];
        let bytes = tree(&[
            ("100644", b".."),
            ("100644", b"."),
            ("40000", b"a/b"),
            ("100644", b"\xff"),
            ("100644", &long),
            ("100755", b"run"),
            ("100644", b"twice"),
            ("40000", b"twice"),
            ("160000", b"module"),
            ("120000", b"link"),
            ("100644", b".git"),
        ]);
        let directory = Directory::parse(&bytes, gix_hash::Kind::Sha1).unwrap();
        let mut listing = ListingBuilder::default();
        for node in directory.nodes() {
            push(node, Timestamp(0), Some(1), Some(b"run"), &mut listing);
        }
        let listing = listing.finish();
        let names: Vec<_> = listing.entries.iter().map(|e| e.name.as_str()).collect();
        assert_eq!(names, [".git", "link", "module", "run", "twice"]);
        assert_eq!(listing.hidden.iter().map(|h| h.count).sum::<u64>(), 6);
        assert_eq!(directory.find("twice").unwrap().kind, EntryKind::Tree);
        assert!(directory.find("absent").is_none());
        assert_eq!(listing.entries[3].executable, Some(true));
    }

    proptest! {
        #[test]
        fn any_bytes_are_taken(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            if let Ok(directory) = Directory::parse(&bytes, gix_hash::Kind::Sha1) {
                let mut listing = ListingBuilder::default();
                for node in directory.nodes() {
                    push(node, Timestamp(0), None, Some(&bytes), &mut listing);
                }
            }
            let _ = parse_commit(&bytes, gix_hash::Kind::Sha1);
        }
    }
}
