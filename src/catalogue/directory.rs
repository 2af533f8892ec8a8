//! A directory as the catalogue knows it: an immutable snapshot that shares what did not change.

use std::cmp::Ordering;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::{Duration, Instant};

use crate::entry::{Entry, Kind, Timestamp};
use crate::path::Name;
use crate::rows::{Lost, Packer, Row, Rows, Sums};
use crate::source::{Error, Hidden, PackedListing};

/// What [`Directory::fresh_for`] returns for a directory that is never asked for again: a year,
/// short enough for every clock it is added to.
pub const FOREVER: Duration = Duration::from_secs(365 * 86_400);

/// Names that a comparison tells at most: they are in memory, some 64 bytes each.
pub(super) const TOLD: usize = 20_000;

/// One directory of one source: its entries sorted by name, and how far they can be trusted.
///
/// Immutable; a change makes a new one, which shares what it can with the old.
#[derive(Debug, Clone)]
pub struct Directory {
    rows: Arc<Rows>,
    weight: usize,
    listed_at: Timestamp,
    generation: u64,
    revision: u64,
    stale: Option<Error>,
    hidden: Arc<[Hidden]>,
    /// Nothing: fresh for good.
    fresh_until: Option<Instant>,
}

/// How a listing differs from the one before it.
#[derive(Debug, Default)]
pub(super) struct Changes {
    pub(super) added: Names,
    pub(super) changed: Names,
    pub(super) removed: Names,
    /// Of `changed` and `removed`, those that were directories and are none any more.
    pub(super) gone_dirs: Names,
    /// Rows that are to be written though no reader sees a difference.
    pub(super) quiet: Names,
}

/// Names, the first [`TOLD`] of them.
#[derive(Debug, Default)]
pub(super) struct Names {
    pub(super) list: Vec<Name>,
    pub(super) count: u64,
}

impl Names {
    fn push(&mut self, name: &Name) {
        self.count += 1;
        if self.list.len() < TOLD {
            self.list.push(name.clone());
        }
    }
}

impl Changes {
    pub(super) fn is_empty(&self) -> bool {
        self.added.count + self.changed.count + self.removed.count == 0
    }

    /// Returns whether all of them are named.
    pub(super) fn is_complete(&self) -> bool {
        [&self.added, &self.changed, &self.removed, &self.quiet]
            .into_iter()
            .all(|names| names.count == names.list.len() as u64)
    }

    pub(super) fn names(&self) -> Vec<Name> {
        [&self.added, &self.changed, &self.removed]
            .into_iter()
            .flat_map(|names| &names.list)
            .cloned()
            .collect()
    }
}

fn next_revision() -> u64 {
    static REVISION: AtomicU64 = AtomicU64::new(1);
    REVISION.fetch_add(1, std::sync::atomic::Ordering::Relaxed)
}

/// Returns a generation after `previous`: the time in nanoseconds, so that processes that list the
/// same directory at once do not give one number to two contents.
pub(super) fn next_generation(previous: u64, now: Timestamp) -> u64 {
    u64::try_from(now.0).unwrap_or(0).max(previous + 1)
}

impl Directory {
    /// Returns how many entries there are.
    pub fn len(&self) -> usize {
        self.rows.len()
    }

    /// Returns whether there are none.
    pub fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }

    /// Returns the entries, sorted by name. Ends after an error.
    pub fn entries(&self) -> impl Iterator<Item = Result<Entry, Lost>> + '_ {
        self.entries_from(0)
    }

    /// Returns the entries from the one at `index` on, in the order of names. Ends after an error.
    pub fn entries_from(&self, index: usize) -> impl Iterator<Item = Result<Entry, Lost>> + '_ {
        let rows = self.rows.iter_from(index);
        rows.map(|row| Ok(row?.row()?.entry))
    }

    /// Returns the entry at `index` in the order of names.
    pub fn nth(&self, index: usize) -> Result<Option<Entry>, Lost> {
        Ok(self.rows.nth(index)?.map(|row| row.entry))
    }

    /// Returns the entry called `name`.
    pub fn get(&self, name: &str) -> Result<Option<Entry>, Lost> {
        Ok(self.rows.get(name)?.map(|row| row.entry))
    }

    /// Returns the index of `name` in the order of names, or where it would be.
    pub fn position(&self, name: &str) -> Result<Result<usize, usize>, Lost> {
        self.rows.position(name)
    }

    /// Returns how many symbolic links there are.
    pub fn links(&self) -> u64 {
        self.rows.sums().links
    }

    /// Returns when the source was last asked for this listing.
    pub fn listed_at(&self) -> Timestamp {
        self.listed_at
    }

    /// Returns a number that grows whenever names, kinds or versions change and at no other time;
    /// it survives a remount. Sizes and validators that are learnt later leave it as it is.
    pub fn generation(&self) -> u64 {
        self.generation
    }

    /// Returns a number that differs between any two snapshots whose entries differ in anything,
    /// within one process.
    pub fn revision(&self) -> u64 {
        self.revision
    }

    /// Returns why this listing is older than it should be, if it is.
    pub fn stale(&self) -> Option<&Error> {
        self.stale.as_ref()
    }

    /// Returns what the source holds that cannot be shown.
    pub fn hidden(&self) -> &[Hidden] {
        &self.hidden
    }

    /// Returns for how long this listing may be relied on without asking again; at most
    /// [`FOREVER`].
    pub fn fresh_for(&self) -> Duration {
        match self.fresh_until {
            None => FOREVER,
            Some(until) => until.saturating_duration_since(Instant::now()),
        }
    }

    /// Returns when the entry called `name` was last seen as it is: by this listing, or by a
    /// `stat` since.
    pub fn seen(&self, name: &str) -> Timestamp {
        let row = self.rows.get(name).ok().flatten();
        row.and_then(|row| row.note?.seen)
            .map_or(self.listed_at, |seen| seen.max(self.listed_at))
    }

    /// Returns roughly how many bytes of memory this takes.
    pub fn weight(&self) -> usize {
        self.weight
    }

    pub(super) fn is_fresh(&self, now: Instant) -> bool {
        self.fresh_until.is_none_or(|until| until > now)
    }

    pub(super) fn sums(&self) -> Sums {
        self.rows.sums()
    }

    pub(super) fn rows(&self) -> &Rows {
        &self.rows
    }

    /// Returns a directory of these rows.
    pub(super) fn from_rows(
        rows: Rows,
        hidden: Arc<[Hidden]>,
        listed_at: Timestamp,
        generation: u64,
        fresh_until: Option<Instant>,
    ) -> Directory {
        Directory {
            weight: size_of::<Directory>() + rows.weight(),
            rows: Arc::new(rows),
            listed_at,
            generation,
            revision: next_revision(),
            stale: None,
            hidden,
            fresh_until,
        }
    }

    /// Returns what a directory's first listing makes of it.
    pub(super) fn first(
        listing: impl Into<PackedListing>,
        listed_at: Timestamp,
        fresh_until: Option<Instant>,
    ) -> Directory {
        let PackedListing { rows, hidden } = listing.into();
        let generation = next_generation(0, listed_at);
        Directory::from_rows(rows, hidden.into(), listed_at, generation, fresh_until)
    }

    /// Returns what `listing` makes of this directory, and the difference.
    ///
    /// An entry that the listing repeats keeps what a `stat` or a reply taught of it since; and its
    /// time, if `of_a_generation`: there a time is when the whole was made, not the file.
    pub(super) fn relist(
        &self,
        listing: &PackedListing,
        listed_at: Timestamp,
        fresh_until: Option<Instant>,
        of_a_generation: bool,
    ) -> Result<(Directory, Changes), Lost> {
        let hidden: Arc<[Hidden]> = listing.hidden.as_slice().into();
        let mut changes = Changes::default();
        let mut packer = Packer::new(listing.rows.room().clone());
        let (mut olds, mut news) = (self.rows.iter(), listing.rows.iter());
        let mut old = olds.next().transpose()?;
        let mut new = news.next().transpose()?;
        loop {
            let order = match (&old, &new) {
                (None, None) => break,
                (Some(_), None) => Ordering::Less,
                (None, Some(_)) => Ordering::Greater,
                (Some(old), Some(new)) => old.name()?.cmp(new.name()?),
            };
            if let (Ordering::Less, Some(row)) = (order, &old) {
                let gone = row.row()?.entry;
                changes.removed.push(&gone.name);
                if gone.kind == Kind::Dir {
                    changes.gone_dirs.push(&gone.name);
                }
            }
            if let (Ordering::Greater, Some(row)) = (order, &new) {
                changes.added.push(&row.row()?.entry.name);
                packer.push_packed(row.bytes())?;
            }
            if let (Ordering::Equal, Some(before), Some(now)) = (order, &old, &new) {
                if before.bytes() == now.bytes() {
                    packer.push_packed(before.bytes())?;
                } else {
                    let (row, mut entry) = (before.row()?, now.row()?.entry);
                    if of_a_generation && entry.version == row.entry.version {
                        entry.mtime = row.entry.mtime;
                    }
                    match relist(&row, &entry) {
                        Relisted::Same => packer.push_packed(before.bytes())?,
                        Relisted::Quiet(new) => {
                            changes.quiet.push(&new.entry.name);
                            packer.push(&new);
                        }
                        Relisted::Changed(new) => {
                            if row.entry.kind == Kind::Dir && new.entry.kind != Kind::Dir {
                                changes.gone_dirs.push(&new.entry.name);
                            }
                            changes.changed.push(&new.entry.name);
                            packer.push(&new);
                        }
                    }
                }
            }
            if order != Ordering::Greater {
                old = olds.next().transpose()?;
            }
            if order != Ordering::Less {
                new = news.next().transpose()?;
            }
        }

        if changes.is_empty() && changes.quiet.count == 0 {
            // Nothing but the date is new: share all rows.
            let dir = Directory {
                listed_at,
                stale: None,
                hidden,
                fresh_until,
                ..self.clone()
            };
            return Ok((dir, changes));
        }
        let generation = if changes.is_empty() {
            self.generation
        } else {
            next_generation(self.generation, listed_at)
        };
        let rows = packer.finish();
        let dir = Directory::from_rows(rows, hidden, listed_at, generation, fresh_until);
        Ok((dir, changes))
    }

    /// Returns the same entries, trusted until `fresh_until`.
    pub(super) fn dated(&self, fresh_until: Option<Instant>, stale: Option<Error>) -> Directory {
        Directory {
            fresh_until,
            stale,
            ..self.clone()
        }
    }

    /// Returns the same directory, which is older than it should be if there is an error.
    pub(super) fn behind(self, error: Option<&Error>) -> Directory {
        Directory {
            stale: error.cloned(),
            ..self
        }
    }

    /// Returns the directory with one row replaced, under `generation`; nothing if no entry has
    /// that name.
    pub(super) fn patched(&self, row: &Row, generation: u64) -> Result<Option<Directory>, Lost> {
        let Some(rows) = self.rows.patched(row)? else {
            return Ok(None);
        };
        Ok(Some(Directory {
            weight: size_of::<Directory>() + rows.weight(),
            rows: Arc::new(rows),
            generation,
            revision: next_revision(),
            ..self.clone()
        }))
    }
}

enum Relisted {
    Same,
    Quiet(Row),
    Changed(Row),
}

/// Returns what a listing that gives `new` makes of a row.
fn relist(row: &Row, new: &Entry) -> Relisted {
    let old = &row.entry;
    let listed = row.note.as_ref().and_then(|note| note.listed.as_ref());
    if let Some(listed) = listed {
        let same = new.kind == old.kind
            && new.version == *listed
            && new.size.is_none_or(|size| Some(size) == old.size)
            && (new.target.is_none() || new.target == old.target)
            && new.digest.is_none_or(|d| Some(d) == old.digest);
        if same {
            return Relisted::Same;
        }
        return Relisted::Changed(Row::new(new.clone()));
    }
    let same = new.kind == old.kind
        && new.version == old.version
        && new.size == old.size
        && new.mtime == old.mtime
        && new.executable == old.executable
        && new.target == old.target
        && new.digest == old.digest;
    if !same {
        Relisted::Changed(Row::new(new.clone()))
    } else if new.validator.is_some() && new.validator != old.validator {
        Relisted::Quiet(Row::new(new.clone()))
    } else {
        Relisted::Same
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::entry::Version;
    use crate::rows::Note;
    use crate::source::Listing;

    fn name(text: &str) -> Name {
        Name::new(text).unwrap()
    }

    fn file(text: &str, version: &str) -> Entry {
        Entry::file(name(text), 3, None, Version::strong(version))
    }

    fn listing(entries: Vec<Entry>) -> Listing {
        Listing {
            entries,
            hidden: Vec::new(),
        }
    }

    fn first(entries: Vec<Entry>) -> Directory {
        Directory::first(listing(entries), Timestamp::now(), None)
    }

    fn relist(old: &Directory, entries: Vec<Entry>) -> (Directory, Changes) {
        old.relist(&listing(entries).into(), Timestamp::now(), None, false)
            .unwrap()
    }

    #[test]
    fn finds_every_name_across_chunks() {
        let names: Vec<String> = (0..1000).map(|i| format!("f{i:04}")).collect();
        let entries = names.iter().map(|n| file(n, "1")).collect();
        let dir = first(entries);
        assert_eq!(dir.len(), 1000);
        for (i, n) in names.iter().enumerate() {
            assert_eq!(dir.get(n).unwrap().unwrap().name.as_str(), n);
            assert_eq!(dir.nth(i).unwrap().unwrap().name.as_str(), n);
        }
        for absent in ["", "a", "f0000x", "z"] {
            assert!(dir.get(absent).unwrap().is_none(), "{absent}");
        }
        assert!(dir.nth(1000).unwrap().is_none());
        let empty = first(Vec::new());
        assert!(empty.get("a").unwrap().is_none());
    }

    #[test]
    fn a_generation_changes_iff_the_content_does() {
        let one = first(vec![file("a", "1"), file("b", "1")]);
        let (two, changes) = relist(&one, vec![file("a", "1"), file("b", "1")]);
        assert_eq!(one.generation(), two.generation());
        assert_eq!(one.revision(), two.revision());
        assert!(changes.is_empty());
        let (three, changes) = relist(&two, vec![file("a", "2"), file("c", "1")]);
        assert!(three.generation() > two.generation());
        assert_eq!(changes.added.list, [name("c")]);
        assert_eq!(changes.changed.list, [name("a")]);
        assert_eq!(changes.removed.list, [name("b")]);
    }

    #[test]
    fn what_stays_from_one_generation_to_the_next_keeps_its_time() {
        let at = |text: &str, version: &str, secs: i64| Entry {
            mtime: Some(Timestamp::from_secs(secs)),
            ..file(text, version)
        };
        let one = first(vec![at("a", "1", 10), at("b", "1", 10)]);
        let next = PackedListing::from(listing(vec![at("a", "1", 20), at("b", "2", 20)]));
        let (two, changes) = one.relist(&next, Timestamp::now(), None, true).unwrap();
        assert_eq!(changes.names(), [name("b")]);
        let time = |name: &str| two.get(name).unwrap().unwrap().mtime;
        assert_eq!(time("a"), Some(Timestamp::from_secs(10)));
        assert_eq!(time("b"), Some(Timestamp::from_secs(20)));
        let (_, changes) = one.relist(&next, Timestamp::now(), None, false).unwrap();
        assert_eq!(changes.names(), [name("a"), name("b")]);
    }

    #[test]
    fn a_directory_that_became_a_file_is_gone() {
        let one = first(vec![Entry::dir(name("a")), Entry::dir(name("b"))]);
        let (_, changes) = relist(&one, vec![file("a", "1")]);
        assert_eq!(changes.gone_dirs.list, [name("a"), name("b")]);
    }

    #[test]
    fn unsorted_listings_are_put_right() {
        let listing = listing(vec![file("b", "1"), file("a", "1"), file("b", "2")]);
        let dir = Directory::first(listing, Timestamp::now(), None);
        assert_eq!(dir.len(), 2);
        assert!(dir.get("a").unwrap().is_some() && dir.get("b").unwrap().is_some());
    }

    #[test]
    fn what_a_stat_taught_survives_the_same_listing() {
        let mut coarse = file("a", "about");
        coarse.size = None;
        let one = first(vec![coarse.clone()]);
        let row = Row {
            entry: file("a", "etag"),
            note: Some(Box::new(Note {
                listed: Some(coarse.version.clone()),
                seen: None,
            })),
        };
        let two = one.patched(&row, one.generation()).unwrap().unwrap();
        assert_eq!(two.get("a").unwrap().unwrap().size, Some(3));
        assert_ne!(one.revision(), two.revision());
        assert_eq!(
            one.get("a").unwrap().unwrap().size,
            None,
            "snapshots are immutable"
        );
        let (three, changes) = relist(&two, vec![coarse.clone()]);
        assert!(changes.is_empty());
        assert_eq!(
            three.get("a").unwrap().unwrap().version,
            Version::strong("etag")
        );
        coarse.version = Version::strong("other");
        let (four, changes) = relist(&three, vec![coarse]);
        assert_eq!(changes.changed.count, 1);
        assert_eq!(four.get("a").unwrap().unwrap().size, None);
    }
}
