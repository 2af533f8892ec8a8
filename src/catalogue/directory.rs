//! A directory as the catalogue knows it: an immutable snapshot that shares what did not change.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use crate::entry::{Entry, Kind, Timestamp, Version};
use crate::path::Name;
use crate::source::{Error, Hidden, Listing};

/// What [`Directory::fresh_for`] returns for a directory that is never asked for again: a year,
/// short enough for every clock it is added to.
pub const FOREVER: Duration = Duration::from_secs(365 * 86_400);

/// Rows in a chunk. A change of one entry copies one chunk and a pointer for each other: at 100,000
/// entries, 256 rows and 400 pointers.
const CHUNK: usize = 256;

/// One directory of one source: its entries sorted by name, and how far they can be trusted.
///
/// Immutable; a change makes a new one, which shares what it can with the old.
#[derive(Debug, Clone)]
pub struct Directory {
    /// All chunks but the last hold [`CHUNK`] rows.
    chunks: Vec<Arc<Vec<Row>>>,
    len: usize,
    listed_at: Timestamp,
    generation: u64,
    revision: u64,
    stale: Option<Error>,
    hidden: Arc<[Hidden]>,
    /// Nothing: fresh for good.
    fresh_until: Option<Instant>,
    totals: Totals,
}

/// An entry, with what is known of it beyond its source's listing.
#[derive(Debug, Clone)]
pub(super) struct Row {
    pub(super) entry: Entry,
    pub(super) note: Option<Box<Note>>,
}

/// What a `stat` added to an entry.
#[derive(Debug, Clone, Default)]
pub(super) struct Note {
    /// The version that the listing gave, where the entry's own now comes from a `stat`. As long
    /// as listings repeat it, the entry is unchanged.
    pub(super) listed: Option<Version>,
    /// When a `stat` last confirmed the version.
    pub(super) seen: Option<Timestamp>,
}

/// What the files of a directory sum up to.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Totals {
    pub(super) bytes: u64,
    pub(super) files: u64,
    weight: usize,
}

/// How a listing differs from the one before it.
#[derive(Debug, Default)]
pub(super) struct Changes {
    pub(super) added: Vec<Name>,
    pub(super) changed: Vec<Name>,
    pub(super) removed: Vec<Name>,
    /// Of `changed` and `removed`, those that were directories and are none any more.
    pub(super) gone_dirs: Vec<Name>,
    /// Rows that are to be written though no reader sees a difference.
    pub(super) quiet: Vec<Name>,
}

impl Changes {
    pub(super) fn is_empty(&self) -> bool {
        self.added.is_empty() && self.changed.is_empty() && self.removed.is_empty()
    }

    pub(super) fn names(&self) -> Vec<Name> {
        [&self.added, &self.changed, &self.removed]
            .into_iter()
            .flatten()
            .cloned()
            .collect()
    }
}

fn next_revision() -> u64 {
    static REVISION: AtomicU64 = AtomicU64::new(1);
    REVISION.fetch_add(1, Ordering::Relaxed)
}

/// Returns a generation after `previous`: the time in nanoseconds, so that processes that list the
/// same directory at once do not give one number to two contents.
pub(super) fn next_generation(previous: u64, now: Timestamp) -> u64 {
    u64::try_from(now.0).unwrap_or(0).max(previous + 1)
}

/// Puts a listing into the order that everything here relies on. No source should need this; one
/// that does must not break the searches.
pub(super) fn order(listing: &mut Listing) {
    let entries = &mut listing.entries;
    if !entries.is_sorted_by(|a, b| a.name < b.name) {
        entries.sort_by(|a, b| a.name.cmp(&b.name));
        entries.dedup_by(|b, a| a.name == b.name);
    }
}

impl Directory {
    /// Returns how many entries there are.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Returns whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Returns the entries, sorted by name.
    pub fn entries(&self) -> impl Iterator<Item = &Entry> + '_ {
        self.rows().map(|row| &row.entry)
    }

    /// Returns the entry at `index` in the order of names.
    pub fn nth(&self, index: usize) -> Option<&Entry> {
        let row = self.chunks.get(index / CHUNK)?.get(index % CHUNK)?;
        Some(&row.entry)
    }

    /// Returns the entry called `name`.
    pub fn get(&self, name: &str) -> Option<&Entry> {
        self.row(name).map(|row| &row.entry)
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
        self.row(name)
            .and_then(|row| row.note.as_ref()?.seen)
            .map_or(self.listed_at, |seen| seen.max(self.listed_at))
    }

    /// Returns roughly how many bytes of memory this takes.
    pub fn weight(&self) -> usize {
        self.totals.weight
    }

    pub(super) fn is_fresh(&self, now: Instant) -> bool {
        self.fresh_until.is_none_or(|until| until > now)
    }

    pub(super) fn totals(&self) -> Totals {
        self.totals
    }

    pub(super) fn rows(&self) -> impl Iterator<Item = &Row> + '_ {
        self.chunks.iter().flat_map(|chunk| chunk.iter())
    }

    fn position(&self, name: &str) -> Option<(usize, usize)> {
        let after = self
            .chunks
            .partition_point(|chunk| chunk.first().is_some_and(|r| r.entry.name.as_str() <= name));
        let chunk = after.checked_sub(1)?;
        let row = self.chunks[chunk]
            .binary_search_by(|row| row.entry.name.as_str().cmp(name))
            .ok()?;
        Some((chunk, row))
    }

    pub(super) fn row(&self, name: &str) -> Option<&Row> {
        self.position(name)
            .map(|(chunk, row)| &self.chunks[chunk][row])
    }

    /// Returns a directory of these rows, which must be sorted by name, each name once.
    pub(super) fn from_rows(
        rows: Vec<Row>,
        hidden: Arc<[Hidden]>,
        listed_at: Timestamp,
        generation: u64,
        fresh_until: Option<Instant>,
    ) -> Directory {
        let mut totals = Totals::default();
        for row in &rows {
            totals.add(row);
        }
        let len = rows.len();
        let mut chunks = Vec::with_capacity(len.div_ceil(CHUNK));
        let mut rows = rows.into_iter();
        loop {
            let chunk: Vec<Row> = rows.by_ref().take(CHUNK).collect();
            if chunk.is_empty() {
                break;
            }
            chunks.push(Arc::new(chunk));
        }
        Directory {
            chunks,
            len,
            listed_at,
            generation,
            revision: next_revision(),
            stale: None,
            hidden,
            fresh_until,
            totals,
        }
    }

    /// Returns what a directory's first listing makes of it.
    pub(super) fn first(
        listing: Listing,
        listed_at: Timestamp,
        fresh_until: Option<Instant>,
    ) -> Directory {
        Directory::from_rows(
            listing.entries.into_iter().map(Row::new).collect(),
            listing.hidden.into(),
            listed_at,
            next_generation(0, listed_at),
            fresh_until,
        )
    }

    /// Returns what `listing`, which must be in [`order`], makes of this directory, and the
    /// difference.
    ///
    /// An entry that the listing repeats keeps what a `stat` or a reply taught of it since.
    pub(super) fn relist(
        &self,
        listing: &Listing,
        listed_at: Timestamp,
        fresh_until: Option<Instant>,
    ) -> (Directory, Changes) {
        let old = self;
        let entries = &listing.entries;
        let hidden: Arc<[Hidden]> = listing.hidden.as_slice().into();
        let mut changes = Changes::default();
        let mut rows = Vec::with_capacity(entries.len());
        let mut before = old.rows().peekable();
        let removed = |row: &Row, changes: &mut Changes| {
            changes.removed.push(row.entry.name.clone());
            if row.entry.kind == Kind::Dir {
                changes.gone_dirs.push(row.entry.name.clone());
            }
        };
        for entry in entries {
            while let Some(row) = before.next_if(|row| row.entry.name < entry.name) {
                removed(row, &mut changes);
            }
            match before.next_if(|row| row.entry.name == entry.name) {
                None => {
                    changes.added.push(entry.name.clone());
                    rows.push(Row::new(entry.clone()));
                }
                Some(row) => match row.relist(entry) {
                    Relisted::Same => rows.push(row.clone()),
                    Relisted::Quiet(new) => {
                        changes.quiet.push(new.entry.name.clone());
                        rows.push(new);
                    }
                    Relisted::Changed(new) => {
                        let name = new.entry.name.clone();
                        if row.entry.kind == Kind::Dir && new.entry.kind != Kind::Dir {
                            changes.gone_dirs.push(name.clone());
                        }
                        changes.changed.push(name);
                        rows.push(new);
                    }
                },
            }
        }
        for row in before {
            removed(row, &mut changes);
        }

        if changes.is_empty() && changes.quiet.is_empty() {
            // Nothing but the date is new: share all rows.
            let dir = Directory {
                listed_at,
                stale: None,
                hidden,
                fresh_until,
                ..old.clone()
            };
            return (dir, changes);
        }
        let generation = if changes.is_empty() {
            old.generation
        } else {
            next_generation(old.generation, listed_at)
        };
        let dir = Directory::from_rows(rows, hidden, listed_at, generation, fresh_until);
        (dir, changes)
    }

    /// Returns the same entries, trusted until `fresh_until`.
    pub(super) fn dated(&self, fresh_until: Option<Instant>, stale: Option<Error>) -> Directory {
        Directory {
            fresh_until,
            stale,
            ..self.clone()
        }
    }

    /// Returns the directory with one row replaced, under `generation`; nothing if no entry has
    /// that name.
    pub(super) fn patched(&self, row: Row, generation: u64) -> Option<Directory> {
        let (chunk, at) = self.position(row.entry.name.as_str())?;
        let mut new = self.clone();
        new.totals.remove(&self.chunks[chunk][at]);
        new.totals.add(&row);
        Arc::make_mut(&mut new.chunks[chunk])[at] = row;
        new.generation = generation;
        new.revision = next_revision();
        Some(new)
    }
}

impl Totals {
    fn add(&mut self, row: &Row) {
        self.weight += row.weight();
        if row.entry.kind == Kind::File {
            self.files += 1;
            self.bytes = self.bytes.saturating_add(row.entry.size.unwrap_or(0));
        }
    }

    fn remove(&mut self, row: &Row) {
        self.weight = self.weight.saturating_sub(row.weight());
        if row.entry.kind == Kind::File {
            self.files = self.files.saturating_sub(1);
            self.bytes = self.bytes.saturating_sub(row.entry.size.unwrap_or(0));
        }
    }
}

enum Relisted {
    Same,
    Quiet(Row),
    Changed(Row),
}

impl Row {
    pub(super) fn new(entry: Entry) -> Row {
        Row { entry, note: None }
    }

    fn weight(&self) -> usize {
        /// What an `Arc<str>` takes beyond its text: two counters and the allocator's own.
        const ARC: usize = 24;
        let text = |text: &Option<Arc<str>>| text.as_ref().map_or(0, |t| t.len() + ARC);
        let note = self.note.as_ref().map_or(0, |_| size_of::<Note>() + ARC);
        // A validator is most often the version itself and shares its text.
        size_of::<Row>()
            + self.entry.name.as_str().len()
            + self.entry.version.token.len()
            + 2 * ARC
            + text(&self.entry.target)
            + note
    }

    /// Returns the version that listings give.
    fn listed(&self) -> &Version {
        self.note
            .as_ref()
            .and_then(|note| note.listed.as_ref())
            .unwrap_or(&self.entry.version)
    }

    fn relist(&self, new: &Entry) -> Relisted {
        let old = &self.entry;
        let known_better = self.note.as_ref().is_some_and(|n| n.listed.is_some());
        if known_better {
            let same = new.kind == old.kind
                && new.version == *self.listed()
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
}

#[cfg(test)]
mod tests {
    use super::*;

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
        old.relist(&listing(entries), Timestamp::now(), None)
    }

    #[test]
    fn finds_every_name_across_chunks() {
        let names: Vec<String> = (0..1000).map(|i| format!("f{i:04}")).collect();
        let entries = names.iter().map(|n| file(n, "1")).collect();
        let dir = first(entries);
        assert_eq!(dir.len(), 1000);
        for (i, n) in names.iter().enumerate() {
            assert_eq!(dir.get(n).unwrap().name.as_str(), n);
            assert_eq!(dir.nth(i).unwrap().name.as_str(), n);
        }
        for absent in ["", "a", "f0000x", "z"] {
            assert!(dir.get(absent).is_none(), "{absent}");
        }
        assert!(dir.nth(1000).is_none());
        let empty = first(Vec::new());
        assert!(empty.get("a").is_none());
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
        assert_eq!(changes.added, [name("c")]);
        assert_eq!(changes.changed, [name("a")]);
        assert_eq!(changes.removed, [name("b")]);
    }

    #[test]
    fn a_directory_that_became_a_file_is_gone() {
        let one = first(vec![Entry::dir(name("a")), Entry::dir(name("b"))]);
        let (_, changes) = relist(&one, vec![file("a", "1")]);
        assert_eq!(changes.gone_dirs, [name("a"), name("b")]);
    }

    #[test]
    fn unsorted_listings_are_put_right() {
        let mut listing = listing(vec![file("b", "1"), file("a", "1"), file("b", "2")]);
        order(&mut listing);
        let dir = Directory::first(listing, Timestamp::now(), None);
        assert_eq!(dir.len(), 2);
        assert!(dir.get("a").is_some() && dir.get("b").is_some());
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
        let two = one.patched(row, one.generation()).unwrap();
        assert_eq!(two.get("a").unwrap().size, Some(3));
        assert_ne!(one.revision(), two.revision());
        assert_eq!(one.get("a").unwrap().size, None, "snapshots are immutable");
        let (three, changes) = relist(&two, vec![coarse.clone()]);
        assert!(changes.is_empty());
        assert_eq!(three.get("a").unwrap().version, Version::strong("etag"));
        coarse.version = Version::strong("other");
        let (four, changes) = relist(&three, vec![coarse]);
        assert_eq!(changes.changed.len(), 1);
        assert_eq!(four.get("a").unwrap().size, None);
    }
}
