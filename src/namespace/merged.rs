//! A directory of the volume as it is listed.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::LookupError;
use super::merge::Part;
use crate::catalogue::Directory;
use crate::entry::Entry;
use crate::path::RelPath;
use crate::rows::Lost;
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
    pub(super) slots: Slots,
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

/// Slots in the order of names, as runs of neighbours: a directory that one layer has alone is one
/// run, however large.
#[derive(Debug, Default)]
pub(super) struct Slots {
    runs: Vec<Run>,
    len: u32,
}

/// Neighbours of one part.
#[derive(Debug, Clone, Copy)]
struct Run {
    /// Which of all slots the first of them is.
    at: u32,
    first: Slot,
}

impl Slots {
    /// Returns the slots of all entries of the only part.
    pub(super) fn all_of(len: usize) -> Slots {
        let first = Slot::entry(0, 0);
        Slots {
            runs: vec![Run { at: 0, first }],
            // As many as a listing can have: it is counted in 32 bits.
            len: u32::try_from(len).unwrap_or(u32::MAX),
        }
    }

    pub(super) fn push(&mut self, slot: Slot) {
        let goes_on = self.runs.last().is_some_and(|run| {
            run.first.part == slot.part && run.first.index + (self.len - run.at) == slot.index
        });
        if !goes_on {
            self.runs.push(Run {
                at: self.len,
                first: slot,
            });
        }
        self.len += 1;
    }

    fn len(&self) -> usize {
        self.len as usize
    }

    /// Returns the slots from `index` on: each run's first one, and how many there are.
    fn runs_from(&self, index: usize) -> impl Iterator<Item = (Slot, usize)> + '_ {
        let index = u32::try_from(index).unwrap_or(u32::MAX).min(self.len);
        let run = self.runs.partition_point(|run| run.at <= index);
        let from = run.saturating_sub(1);
        self.runs[from..].iter().enumerate().map(move |(n, run)| {
            let end = self.runs.get(from + n + 1).map_or(self.len, |next| next.at);
            let skipped = index.saturating_sub(run.at);
            let first = Slot {
                part: run.first.part,
                index: run.first.index + skipped,
            };
            (first, (end - run.at - skipped) as usize)
        })
    }
}

impl Core {
    /// Returns about how many bytes this keeps in memory.
    pub(super) fn weight(&self) -> usize {
        /// What the struct, the path and the map take.
        const HEAD: usize = 512;
        let dirs: usize = self.known.iter().map(|(_, dir)| dir.weight()).sum();
        HEAD + dirs + self.slots.runs.len() * size_of::<Run>()
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

    /// Returns the entries of `count` neighbouring slots.
    fn run(&self, first: Slot, count: usize) -> Entries<'_> {
        if first.part == Slot::GRAFT {
            let grafts = self.grafts.iter().skip(first.index as usize);
            let entries = grafts.take(count).map(|graft| {
                Ok(MergedEntry {
                    entry: graft.entry.clone(),
                    layer: graft.layer,
                    dir: None,
                })
            });
            return Box::new(entries);
        }
        let Some((part, dir)) = self.known.get(first.part as usize) else {
            return Box::new(std::iter::empty());
        };
        let entries = dir.entries_from(first.index as usize).take(count);
        Box::new(entries.map(|entry| match entry {
            Ok(entry) => Ok(MergedEntry {
                entry,
                layer: part.layer,
                dir: Some(&part.path),
            }),
            Err(lost) => Err((part.layer, lost)),
        }))
    }
}

type Entries<'a> = Box<dyn Iterator<Item = Result<MergedEntry<'a>, (usize, Lost)>> + 'a>;

/// A name in a merged directory.
#[derive(Debug, Clone)]
pub struct MergedEntry<'a> {
    /// What it is.
    pub entry: Entry,
    /// The layer that provides it, by its position.
    pub layer: usize,
    /// The directory in the layer's source; nothing for a directory that leads to a graft.
    dir: Option<&'a RelPath>,
}

impl MergedEntry<'_> {
    /// As [`MergedEntry::path`]. `dir` is the directory's place in the volume and `path` the entry's,
    /// whose memory is shared where the source has it there too.
    pub fn path_at(&self, dir: &RelPath, path: &RelPath) -> RelPath {
        match self.dir {
            Some(there) if there == dir => path.clone(),
            _ => self.path(),
        }
    }

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
        self.core.slots.len() == 0
    }

    /// Returns the entries from the one at `index` on, in the order of names. An error, with the
    /// layer whose listing cannot be read back, is the last.
    pub fn iter_from(
        &self,
        index: usize,
    ) -> impl Iterator<Item = Result<MergedEntry<'_>, LookupError>> + '_ {
        let runs = self.core.slots.runs_from(index);
        runs.flat_map(|(first, count)| self.core.run(first, count))
            .map(|entry| {
                entry.map_err(|(layer, lost)| LookupError::Failed {
                    layer,
                    error: lost.into(),
                })
            })
    }

    /// Returns the entries in the order of names, as [`Merged::iter_from`].
    pub fn iter(&self) -> impl Iterator<Item = Result<MergedEntry<'_>, LookupError>> + '_ {
        self.iter_from(0)
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
