//! Entries packed: many of them in little memory, and more than that in a file.
//!
//! An entry as a struct takes some 350 bytes with its texts; packed it takes some 50. Entries are
//! packed into chunks of `CHUNK`, sorted by name. A listing that is larger than its [`Room`] keeps
//! its chunks in a *scratch* file of the cache directory, which has no name, is this process's
//! alone and ends with it; in memory stays the first name of each chunk. So a directory may have
//! any number of entries, and finding one takes one read of a few KiB.
//!
//! Knows entries and files; never sources or catalogues.

mod codec;
mod packer;
mod scratch;

use std::path::PathBuf;
use std::sync::Arc;

pub use codec::{Note, Row};
pub(crate) use codec::{Reader, put_entry, put_number, put_text};
pub use packer::Packer;
use scratch::Scratch;

use crate::entry::Kind;

/// Rows in a chunk. A change of one entry copies one chunk; a chunk is some 12 KiB, which a local
/// disk reads as fast as less.
pub(crate) const CHUNK: usize = 256;

/// A listing that was put into a scratch file cannot be read back.
#[derive(Debug, Clone, thiserror::Error)]
#[error("a listing that was put aside on disk cannot be read back: {0}")]
pub struct Lost(pub(crate) String);

/// How much of a listing may be in memory, and where the rest goes.
#[derive(Debug, Clone, Default)]
pub struct Room(Option<(PathBuf, usize)>);

impl Room {
    /// Returns room for `bytes` in memory; what is more goes to scratch files in `dir`, which is on
    /// a local disk. Where none can be made, it stays in memory.
    pub fn new(dir: impl Into<PathBuf>, bytes: usize) -> Room {
        Room(Some((dir.into(), bytes)))
    }

    /// Returns whether it has a bound.
    pub fn is_bounded(&self) -> bool {
        self.0.is_some()
    }
}

/// Rows sorted by name, each name once. Immutable and cheap to clone.
#[derive(Debug, Clone, Default)]
pub struct Rows {
    /// All but the last hold [`CHUNK`] rows.
    chunks: Vec<Chunk>,
    len: usize,
    sums: Sums,
    room: Room,
}

/// What rows sum up to.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Sums {
    /// The files' sizes, as far as they are known.
    pub bytes: u64,
    /// Files.
    pub files: u64,
    /// Symbolic links.
    pub links: u64,
}

impl Sums {
    fn add(&mut self, kind: Kind, size: Option<u64>) {
        match kind {
            Kind::File => {
                self.files += 1;
                self.bytes = self.bytes.saturating_add(size.unwrap_or(0));
            }
            Kind::Symlink => self.links += 1,
            Kind::Dir => {}
        }
    }

    fn remove(&mut self, kind: Kind, size: Option<u64>) {
        match kind {
            Kind::File => {
                self.files = self.files.saturating_sub(1);
                self.bytes = self.bytes.saturating_sub(size.unwrap_or(0));
            }
            Kind::Symlink => self.links = self.links.saturating_sub(1),
            Kind::Dir => {}
        }
    }
}

#[derive(Debug, Clone)]
enum Chunk {
    Memory(Arc<[u8]>),
    Scratch {
        first: Arc<str>,
        file: Arc<Scratch>,
        at: u64,
        len: u32,
    },
}

impl Chunk {
    fn load(&self) -> Result<Arc<[u8]>, Lost> {
        match self {
            Chunk::Memory(bytes) => Ok(bytes.clone()),
            Chunk::Scratch { file, at, len, .. } => file.read(*at, *len as usize),
        }
    }

    fn weight(&self) -> usize {
        /// Two counters and the allocator's own.
        const ARC: usize = 32;
        size_of::<Chunk>()
            + match self {
                Chunk::Memory(bytes) => bytes.len() + ARC,
                Chunk::Scratch { first, .. } => first.len() + ARC,
            }
    }
}

/// One row where it is packed.
#[derive(Debug, Clone)]
pub struct Packed {
    chunk: Arc<[u8]>,
    /// Where it is in the chunk.
    at: std::ops::Range<usize>,
}

impl Packed {
    /// Returns the bytes. Equal rows have equal bytes.
    pub fn bytes(&self) -> &[u8] {
        &self.chunk[self.at.clone()]
    }

    /// Returns the name.
    pub fn name(&self) -> Result<&str, Lost> {
        codec::name(self.bytes())
    }

    /// Returns what kind of thing it is.
    pub fn kind(&self) -> Result<Kind, Lost> {
        Ok(codec::summary(self.bytes())?.0)
    }

    /// Returns the row.
    pub fn row(&self) -> Result<Row, Lost> {
        codec::decode(self.bytes())
    }
}

/// Returns row `index` of a chunk of `count`: their ends stand before the rows, in 32 bits each.
fn packed(chunk: &Arc<[u8]>, count: usize, index: usize) -> Result<Packed, Lost> {
    let base = count * 4;
    let end_of = |index: usize| {
        let bytes = chunk.get(index * 4..index * 4 + 4)?;
        let end = u32::from_le_bytes(bytes.try_into().ok()?);
        Some(base + end as usize)
    };
    let start = match index.checked_sub(1) {
        None => Some(base),
        Some(before) => end_of(before),
    };
    let at = start.zip(end_of(index)).map(|(start, end)| start..end);
    match at.filter(|at| at.start <= at.end && at.end <= chunk.len()) {
        Some(at) if index < count => Ok(Packed {
            chunk: chunk.clone(),
            at,
        }),
        _ => Err(Lost("it is not what was written".into())),
    }
}

impl Rows {
    /// Returns how many there are.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Returns whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Returns what they sum up to.
    pub fn sums(&self) -> Sums {
        self.sums
    }

    /// Returns the room that they were given.
    pub fn room(&self) -> &Room {
        &self.room
    }

    /// Returns about how many bytes of memory they take.
    pub fn weight(&self) -> usize {
        self.chunks.iter().map(Chunk::weight).sum()
    }

    fn count_in(&self, chunk: usize) -> usize {
        (self.len - chunk * CHUNK).min(CHUNK)
    }

    /// Returns the rows from the one at `index` on, in the order of names. Ends after an error.
    pub fn iter_from(&self, index: usize) -> Iter<'_> {
        Iter {
            rows: self,
            next: index,
            loaded: None,
        }
    }

    /// Returns all rows in the order of names. Ends after an error.
    pub fn iter(&self) -> Iter<'_> {
        self.iter_from(0)
    }

    /// Returns the index of `name`, or where it would be.
    pub fn position(&self, name: &str) -> Result<Result<usize, usize>, Lost> {
        // In chunks: the last one that does not begin after the name.
        let (mut low, mut high) = (0, self.chunks.len());
        while low < high {
            let middle = low + (high - low) / 2;
            let begins_after = match &self.chunks[middle] {
                Chunk::Scratch { first, .. } => &**first > name,
                Chunk::Memory(chunk) => packed(chunk, self.count_in(middle), 0)?.name()? > name,
            };
            match begins_after {
                true => high = middle,
                false => low = middle + 1,
            }
        }
        let Some(at) = low.checked_sub(1) else {
            return Ok(Err(0));
        };
        let (chunk, count) = (self.chunks[at].load()?, self.count_in(at));
        let (mut low, mut high) = (0, count);
        while low < high {
            let middle = low + (high - low) / 2;
            let row = packed(&chunk, count, middle)?;
            match row.name()?.cmp(name) {
                std::cmp::Ordering::Equal => return Ok(Ok(at * CHUNK + middle)),
                std::cmp::Ordering::Less => low = middle + 1,
                std::cmp::Ordering::Greater => high = middle,
            }
        }
        Ok(Err(at * CHUNK + low))
    }

    /// Returns the row at `index`.
    pub fn nth(&self, index: usize) -> Result<Option<Row>, Lost> {
        self.iter_from(index)
            .next()
            .map(|row| row?.row())
            .transpose()
    }

    /// Returns the row called `name`.
    pub fn get(&self, name: &str) -> Result<Option<Row>, Lost> {
        match self.position(name)? {
            Ok(index) => self.nth(index),
            Err(_) => Ok(None),
        }
    }

    /// Returns the rows with the one of `row`'s name replaced by it; nothing if there is none. What
    /// is replaced is in memory from then on.
    pub fn patched(&self, row: &Row) -> Result<Option<Rows>, Lost> {
        let Ok(index) = self.position(row.entry.name.as_str())? else {
            return Ok(None);
        };
        let (at, within) = (index / CHUNK, index % CHUNK);
        let (chunk, count) = (self.chunks[at].load()?, self.count_in(at));
        let mut new = self.clone();
        let mut packing = packer::Packing::default();
        for index in 0..count {
            let old = packed(&chunk, count, index)?;
            if index == within {
                let (kind, size) = codec::summary(old.bytes())?;
                new.sums.remove(kind, size);
                new.sums.add(row.entry.kind, row.entry.size);
                packing.push(row);
            } else {
                packing.push_packed(old.bytes());
            }
        }
        new.chunks[at] = Chunk::Memory(packing.take().into());
        Ok(Some(new))
    }
}

/// Rows in the order of names. See [`Rows::iter`].
pub struct Iter<'a> {
    rows: &'a Rows,
    next: usize,
    loaded: Option<(usize, Arc<[u8]>)>,
}

impl Iterator for Iter<'_> {
    type Item = Result<Packed, Lost>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.next >= self.rows.len {
            return None;
        }
        let (at, within) = (self.next / CHUNK, self.next % CHUNK);
        let chunk = match &self.loaded {
            Some((loaded, chunk)) if *loaded == at => chunk.clone(),
            _ => match self.rows.chunks[at].load() {
                Ok(chunk) => {
                    self.loaded = Some((at, chunk.clone()));
                    chunk
                }
                Err(lost) => {
                    self.next = usize::MAX;
                    return Some(Err(lost));
                }
            },
        };
        self.next += 1;
        Some(packed(&chunk, self.rows.count_in(at), within))
    }
}

#[cfg(test)]
mod tests;
