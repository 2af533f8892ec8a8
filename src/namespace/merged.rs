//! A directory of the volume as it is listed.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::merge::Part;
use crate::catalogue::Directory;
use crate::entry::Entry;
use crate::path::RelPath;
use crate::source::{Error, Hidden};

/// A directory of the volume. Cheap to clone; what it lists never changes.
#[derive(Debug, Clone)]
pub struct Merged {
    pub(super) core: Arc<Core>,
    pub(super) fresh_until: Instant,
    pub(super) degraded: Arc<[(usize, Error)]>,
    /// Of the present, where `core` may be of a time when all was well.
    pub(super) stale: Arc<[(usize, Error)]>,
}

/// What a merge made of some directories. Refers to their entries instead of copying them.
#[derive(Debug)]
pub(super) struct Core {
    pub(super) known: Vec<(Part, Arc<Directory>)>,
    pub(super) dead: Vec<usize>,
    pub(super) grafts: Vec<MergedGraft>,
    pub(super) slots: Vec<Slot>,
    pub(super) hidden: Vec<(usize, Hidden)>,
    /// How many of `hidden`, from the first on, the merge hides and not a source.
    pub(super) hidden_here: usize,
    pub(super) generation: u64,
}

#[derive(Debug)]
pub(super) struct MergedGraft {
    pub(super) entry: Entry,
    pub(super) layer: usize,
}

/// Where an entry is: in which of the known directories, at which index.
#[derive(Debug, Clone, Copy)]
pub(super) struct Slot {
    part: u32,
    index: u32,
}

impl Slot {
    /// The part of those that only lead to grafts.
    const GRAFT: u32 = u32::MAX;

    pub(super) fn entry(part: usize, index: u32) -> Slot {
        // No volume has four billion layers.
        let part = u32::try_from(part).unwrap_or(Slot::GRAFT - 1);
        Slot { part, index }
    }

    pub(super) fn graft(index: usize) -> Slot {
        let index = u32::try_from(index).unwrap_or(u32::MAX);
        Slot {
            part: Slot::GRAFT,
            index,
        }
    }
}

impl Core {
    /// Returns about how many bytes this keeps in memory.
    pub(super) fn weight(&self) -> usize {
        /// What the struct, the path and the map take.
        const HEAD: usize = 512;
        let dirs: usize = self.known.iter().map(|(_, dir)| dir.weight()).sum();
        HEAD + dirs + self.slots.len() * size_of::<Slot>()
    }

    pub(super) fn is_of(&self, known: &[(Part, Arc<Directory>)], dead: &[usize]) -> bool {
        self.dead == dead
            && self.known.len() == known.len()
            && self
                .known
                .iter()
                .zip(known)
                .all(|(ours, other)| ours.0 == other.0 && ours.1.revision() == other.1.revision())
    }

    fn at(&self, slot: Slot) -> Option<MergedEntry<'_>> {
        if slot.part == Slot::GRAFT {
            let graft = self.grafts.get(slot.index as usize)?;
            return Some(MergedEntry {
                entry: &graft.entry,
                layer: graft.layer,
                dir: None,
            });
        }
        let (part, dir) = self.known.get(slot.part as usize)?;
        Some(MergedEntry {
            entry: dir.nth(slot.index as usize)?,
            layer: part.layer,
            dir: Some(&part.path),
        })
    }
}

/// A name in a merged directory.
#[derive(Debug, Clone, Copy)]
pub struct MergedEntry<'a> {
    /// What it is.
    pub entry: &'a Entry,
    /// The layer that provides it, by its position.
    pub layer: usize,
    /// The directory in the layer's source; nothing for a directory that leads to a graft.
    dir: Option<&'a RelPath>,
}

impl MergedEntry<'_> {
    /// Returns where the entry is in its layer's source.
    pub fn path(&self) -> RelPath {
        match self.dir {
            Some(dir) => dir.join(&self.entry.name),
            None => RelPath::root(),
        }
    }
}

impl Merged {
    /// Returns how many names there are.
    pub fn len(&self) -> usize {
        self.core.slots.len()
    }

    /// Returns whether there are none.
    pub fn is_empty(&self) -> bool {
        self.core.slots.is_empty()
    }

    /// Returns the entry at `index` in the order of names.
    pub fn get(&self, index: usize) -> Option<MergedEntry<'_>> {
        self.core.at(*self.core.slots.get(index)?)
    }

    /// Returns the entries, sorted by name.
    pub fn iter(&self) -> impl Iterator<Item = MergedEntry<'_>> + '_ {
        self.core
            .slots
            .iter()
            .filter_map(|slot| self.core.at(*slot))
    }

    /// Returns the index of `name`, or where it would be.
    pub fn position(&self, name: &str) -> Result<usize, usize> {
        self.core.slots.binary_search_by(|slot| {
            let entry = self.core.at(*slot);
            entry.map_or(std::cmp::Ordering::Less, |e| {
                e.entry.name.as_str().cmp(name)
            })
        })
    }

    /// Returns the entry called `name`.
    pub fn find(&self, name: &str) -> Option<MergedEntry<'_>> {
        self.get(self.position(name).ok()?)
    }

    /// Returns a number that is equal for equal names, kinds and versions, from mount to mount.
    pub fn generation(&self) -> u64 {
        self.core.generation
    }

    /// Returns the layers that could not say what they have here, and why.
    pub fn degraded(&self) -> &[(usize, Error)] {
        &self.degraded
    }

    /// Returns the layers whose listing is older than it should be, and why.
    pub fn stale(&self) -> impl Iterator<Item = (usize, &Error)> + '_ {
        self.stale.iter().map(|(layer, error)| (*layer, error))
    }

    /// Returns what is not shown, by layer; without what filters hide.
    pub fn hidden(&self) -> &[(usize, Hidden)] {
        &self.core.hidden
    }

    /// Returns what of [`Merged::hidden`] the sources do show, each for itself.
    pub fn hidden_by_merge(&self) -> &[(usize, Hidden)] {
        &self.core.hidden[..self.core.hidden_here]
    }

    /// Returns how long this may be relied on without looking again.
    pub fn fresh_for(&self) -> Duration {
        self.fresh_until.saturating_duration_since(Instant::now())
    }
}
