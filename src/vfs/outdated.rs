//! Names that the kernel knows, and which of them stand for something else now: after the volume
//! itself became another one.

use std::collections::{BTreeMap, HashMap};

use super::node::{dir_ino, leaf_ino};
use super::{Ino, Vfs};
use crate::entry::Kind;
use crate::namespace::LookupError;
use crate::path::{Name, RelPath};

/// Names of one directory with what the kernel knows them as: an inode, and whether it is a
/// directory.
pub(crate) type KnownNames = Vec<(Name, Ino, bool)>;

impl Vfs {
    /// Returns all names that the kernel may know, by directory, parents first.
    pub fn known_names(&self) -> BTreeMap<RelPath, KnownNames> {
        let mut known: BTreeMap<RelPath, KnownNames> = BTreeMap::new();
        for (_, node) in self.nodes.all().flatten() {
            if let (Some(dir), Some(name)) = (node.path.parent(), node.path.file_name()) {
                let names = known.entry(dir).or_default();
                names.push((name, node.ino, node.is_dir()));
            }
        }
        known
    }

    /// Returns which of `names` of the directory `dir` are now absent, or stand for another inode. Of
    /// a directory that cannot be listed, all files: the kernel then asks again.
    pub async fn outdated(&self, dir: &RelPath, names: KnownNames) -> Vec<Name> {
        let listed = self.namespace.list(dir).await;
        let is_gone = matches!(listed, Err(LookupError::Absent { .. }));
        let mut now: HashMap<Name, Ino> = HashMap::new();
        let mut dead = true;
        if let Ok(listing) = &listed {
            // Where a layer does not answer, nothing is known of a name that is not listed.
            dead = !listing.degraded().is_empty();
            for entry in listing.iter() {
                let Ok(entry) = entry else {
                    dead = true;
                    continue;
                };
                let path = dir.join(&entry.entry.name);
                let ino = match entry.entry.kind {
                    Kind::Dir => dir_ino(&path),
                    _ => leaf_ino(&path, self.source(entry.layer).identity(), &entry.entry),
                };
                now.insert(entry.entry.name.clone(), ino);
            }
        }
        let is_outdated = |(name, ino, is_dir): &(Name, Ino, bool)| match now.get(name) {
            Some(known) => known != ino,
            None if *is_dir => is_gone || !dead,
            None => true,
        };
        let outdated = names.into_iter().filter(is_outdated);
        outdated.map(|(name, _, _)| name).collect()
    }
}
