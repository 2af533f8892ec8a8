//! Building a listing from names in any order, hostile or twice, as a whole or in little memory.

use super::{Error, ErrorKind, Hidden, HiddenWhy, Listing, Result};
use crate::entry::{Entry, Kind};
use crate::rows::{Lost, Packer, Room, Row, Rows};

/// Entries that are sorted together before they are packed, where there is a bound on memory: some
/// 400 KiB.
const BATCH: usize = 1024;

/// A directory as its source lists it, packed.
#[derive(Debug, Clone, Default)]
pub struct PackedListing {
    /// The entries; none has a note.
    pub rows: Rows,
    /// How many names could not be shown, and why.
    pub hidden: Vec<Hidden>,
}

impl From<Listing> for PackedListing {
    fn from(mut listing: Listing) -> PackedListing {
        let entries = &mut listing.entries;
        // No source should need this; one that does must not break the searches.
        if !entries.is_sorted_by(|a, b| a.name < b.name) {
            entries.sort_by(|a, b| a.name.cmp(&b.name));
            entries.dedup_by(|b, a| a.name == b.name);
        }
        let mut packer = Packer::new(Room::default());
        for entry in listing.entries {
            packer.push(&Row::new(entry));
        }
        PackedListing {
            rows: packer.finish(),
            hidden: listing.hidden,
        }
    }
}

/// Builds a [`Listing`] or a [`PackedListing`].
#[derive(Debug, Default)]
pub struct ListingBuilder {
    /// Not sorted, nor aside yet.
    entries: Vec<Entry>,
    /// Each sorted; what came in order is one run.
    runs: Vec<Packer>,
    /// Entries in runs.
    aside: usize,
    hidden: Vec<Hidden>,
    room: Room,
}

impl ListingBuilder {
    /// Returns one that keeps at most `room` in memory, for [`ListingBuilder::pack`].
    pub fn within(room: Room) -> ListingBuilder {
        ListingBuilder {
            room,
            ..ListingBuilder::default()
        }
    }

    /// Returns an empty one with the same room.
    pub(super) fn another(&self) -> ListingBuilder {
        ListingBuilder::within(self.room.clone())
    }

    /// Adds an entry. May wait for the local disk, where it has a bound.
    pub fn push(&mut self, entry: Entry) {
        self.entries.push(entry);
        if self.room.is_bounded() && self.entries.len() >= BATCH {
            self.put_aside();
        }
    }

    /// Adds entries.
    pub fn extend(&mut self, entries: impl IntoIterator<Item = Entry>) {
        for entry in entries {
            self.push(entry);
        }
    }

    /// Adds all of a listing.
    pub fn take_all(&mut self, listing: Listing) {
        self.extend(listing.entries);
        for hidden in listing.hidden {
            self.hide_many(hidden.why, hidden.count, || hidden.example);
        }
    }

    /// Counts a name that is not shown.
    pub fn hide(&mut self, why: HiddenWhy, name: &str) {
        self.hide_many(why, 1, || name.escape_debug().to_string());
    }

    fn hide_many(&mut self, why: HiddenWhy, count: u64, example: impl FnOnce() -> String) {
        match self.hidden.iter_mut().find(|h| h.why == why) {
            Some(hidden) => hidden.count += count,
            None => self.hidden.push(Hidden {
                why,
                count,
                example: example(),
            }),
        }
    }

    /// Returns how many entries were added so far.
    pub fn len(&self) -> usize {
        self.aside + self.entries.len()
    }

    /// Returns whether nothing was added so far.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Sorts what is not aside, and lets a directory win over a file of its name.
    fn tidy(&mut self) -> Vec<Entry> {
        let mut entries = std::mem::take(&mut self.entries);
        entries.sort_by(|a, b| {
            let rank = |e: &Entry| e.kind != Kind::Dir;
            a.name.cmp(&b.name).then(rank(a).cmp(&rank(b)))
        });
        let hide = &mut *self;
        entries.dedup_by(|entry, kept| {
            let twice = kept.name == entry.name;
            if twice && entry.kind != Kind::Dir {
                hide.hide(HiddenWhy::Shadowed, entry.name.as_str());
            }
            twice
        });
        entries
    }

    fn put_aside(&mut self) {
        let entries = self.tidy();
        let Some(first) = entries.first() else { return };
        let fits = |run: &Packer| run.last() < first.name.as_str();
        let at = self.runs.iter().position(fits).unwrap_or_else(|| {
            self.runs.push(Packer::new(self.room.clone()));
            self.runs.len() - 1
        });
        self.aside += entries.len();
        for entry in entries {
            self.runs[at].push(&Row::new(entry));
        }
    }

    /// Returns the listing. For one without a bound.
    pub fn finish(mut self) -> Listing {
        Listing {
            entries: self.tidy(),
            hidden: self.hidden,
        }
    }

    /// Returns the listing, packed. May wait for the local disk.
    pub fn pack(mut self) -> Result<PackedListing> {
        self.put_aside();
        let mut runs: Vec<Rows> = std::mem::take(&mut self.runs)
            .into_iter()
            .map(Packer::finish)
            .collect();
        let rows = match runs.len() {
            0 => Rows::default(),
            1 => runs.remove(0),
            _ => self.merge(&runs)?,
        };
        Ok(PackedListing {
            rows,
            hidden: self.hidden,
        })
    }

    fn merge(&mut self, runs: &[Rows]) -> std::result::Result<Rows, Lost> {
        let mut packer = Packer::new(self.room.clone());
        let mut iters: Vec<_> = runs.iter().map(Rows::iter).collect();
        let mut heads = Vec::with_capacity(iters.len());
        for iter in &mut iters {
            heads.push(iter.next().transpose()?);
        }
        loop {
            // A directory before a file of its name. A handful of runs: looking at each beats a heap.
            let mut best: Option<(usize, &str, bool)> = None;
            for (at, head) in heads.iter().enumerate() {
                let Some(head) = head else { continue };
                let (name, is_file) = (head.name()?, head.kind()? != Kind::Dir);
                if best.is_none_or(|(_, than, file)| (name, is_file) < (than, file)) {
                    best = Some((at, name, is_file));
                }
            }
            let Some((at, name, is_file)) = best else {
                return Ok(packer.finish());
            };
            if packer.last() != name {
                if let Some(head) = &heads[at] {
                    packer.push_packed(head.bytes())?;
                }
            } else if is_file {
                let name = name.to_owned();
                self.hide(HiddenWhy::Shadowed, &name);
            }
            heads[at] = iters[at].next().transpose()?;
        }
    }
}

impl From<Lost> for Error {
    fn from(lost: Lost) -> Error {
        Error::new(ErrorKind::Server, lost.to_string())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::path::Name;
    use proptest::prelude::*;

    fn entry(name: &str, dir: bool) -> Entry {
        let name = Name::new(name).unwrap();
        match dir {
            true => Entry::dir(name),
            false => Entry::file(name, 1, None, crate::entry::Version::strong("v")),
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        /// Names in any order, some twice, some as both kinds: packed or not, it is one listing.
        #[test]
        fn packed_and_whole_agree(
            names in prop::collection::vec((0..6000u32, prop::bool::weighted(0.2)), 0..5000),
            in_order in prop::bool::ANY,
        ) {
            let mut names = names;
            if in_order {
                names.sort();
            }
            let home = tempfile::tempdir().unwrap();
            let mut whole = ListingBuilder::default();
            let mut packed = ListingBuilder::within(Room::new(home.path(), 10_000));
            for (name, dir) in names {
                let entry = entry(&format!("n{name:05}"), dir);
                whole.push(entry.clone());
                packed.push(entry);
            }
            let (whole, packed) = (whole.finish(), packed.pack().unwrap());
            let entries: Vec<Entry> = packed
                .rows
                .iter()
                .map(|row| row.unwrap().row().unwrap().entry)
                .collect();
            prop_assert_eq!(&entries, &whole.entries);
            let counts = |hidden: &[Hidden]| hidden.iter().map(|h| h.count).sum::<u64>();
            // Which of two files of a name is the one that is hidden may differ, how many may not.
            prop_assert_eq!(counts(&packed.hidden), counts(&whole.hidden));
            prop_assert_eq!(home.path().read_dir().unwrap().count(), 0);
        }
    }
}
