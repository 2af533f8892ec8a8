//! What the next process must know of this one: the inodes that the kernel knows, the open files,
//! and what the kernel reads by itself. A file in a directory that belongs to one mount.
//!
//! The daemon may be replaced under a live mount, planned or after kill -9, and what the kernel holds
//! then is asked of another process. Not all of it can be found again by hashing what the catalogue
//! knows (a version that was replaced and is still held, a number that was taken), so each inode and
//! handle is written down *before the reply that tells the kernel of it*. Only the page cache has to
//! take it: a process may die at any point, a machine takes its mounts with it.
//!
//! The file: `svoljrnl`, a version, then frames of a length, a checksum and records (`record`). A
//! frame is one write(2); what is torn at the end is not there. A file of another version counts as
//! empty: what the kernel held is stale then, and told so. What was forgotten is written lazily: where
//! it is lost the next process knows too much, which harms nobody.
//!
//! Once the file is more than twice what lived when it was last compacted, all that lives is written
//! to another file, behind readers' backs ([`Journal::begin`]). Meanwhile each frame goes to the old
//! file, and to a list that ends the new one before it is renamed over the old. Records tell how
//! things are, so one that is in both what lives and the list is no harm; each is added after what it
//! tells was done, so none is in neither. A file that cannot be written (a full disk) is made anew
//! like that, as soon as it can be.
//!
//! Lock order: the shards of nodes and handles, then this one.

use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::mpsc::SyncSender;
use std::sync::{Mutex, MutexGuard, PoisonError};

use tracing::warn;

pub(super) mod record;
mod replay;
#[cfg(test)]
mod tests;

pub(super) use record::LayerId;
pub(super) use replay::{Opened, Remembered, What};

/// Part of the format: it changes with the records, and with how entries are packed.
const VERSION: u32 = 1;

const MAGIC: &[u8; 8] = b"svoljrnl";
const HEADER: usize = 12;

/// A length and a checksum.
const FRAME: usize = 8;

/// Bytes below which nothing is compacted.
const FLOOR: u64 = 1 << 20;

/// Bytes of what need not be written at once that are kept back.
const LAZY: usize = 16 << 10;

/// What is left of the list is written while others wait, once it is no more than this.
const LAST: usize = 256 << 10;

const FILE: &str = "journal";
const NEW: &str = "journal.new";

/// See the module.
#[derive(Debug)]
pub(super) struct Journal {
    dir: PathBuf,
    generation: u64,
    /// What leaves' layers are by their numbers.
    layers: Vec<LayerId>,
    /// Told when it is time for [`Journal::begin`].
    compact: SyncSender<()>,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    file: File,
    /// Records that are not written yet.
    pending: Vec<u8>,
    /// Bytes of whole frames in the file.
    length: u64,
    compact_at: u64,
    /// Frames since a compaction began.
    since: Option<Vec<u8>>,
    /// Whether the file lacks something.
    broken: bool,
}

impl Journal {
    /// Opens the journal in `dir`, which must exist, and returns it with what earlier processes left
    /// there. `layers` gives the numbers that layers have from now on, those remembered included;
    /// `compact` is told when it is time for [`Journal::begin`].
    pub(super) fn open(
        dir: &Path,
        layers: impl FnOnce(&Remembered) -> Vec<LayerId>,
        compact: SyncSender<()>,
    ) -> io::Result<(Journal, Remembered)> {
        let _ = fs::remove_file(dir.join(NEW));
        let path = dir.join(FILE);
        let mut bytes = Vec::new();
        match File::open(&path) {
            Ok(mut file) => drop(file.read_to_end(&mut bytes)?),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
        let (remembered, whole) = replay::replay(&bytes);
        if whole == 0 && !bytes.is_empty() {
            warn!(path = %path.display(), "of another version; what was open before is stale");
        }
        let file = if whole == 0 {
            let file = create(dir)?;
            fs::rename(dir.join(NEW), &path)?;
            file
        } else {
            let file = File::options().append(true).open(&path)?;
            file.set_len(whole as u64)?;
            file
        };
        let length = file.metadata()?.len();
        let journal = Journal {
            dir: dir.to_owned(),
            generation: remembered.generation,
            layers: layers(&remembered),
            compact,
            state: Mutex::new(State {
                file,
                pending: Vec::new(),
                length,
                compact_at: FLOOR.max(length),
                since: None,
                broken: false,
            }),
        };
        let mut state = journal.state();
        journal.put_head(&mut state.pending);
        state.write()?;
        drop(state);
        Ok((journal, remembered))
    }

    /// Returns what the layers' numbers mean.
    pub(super) fn layers(&self) -> &[LayerId] {
        &self.layers
    }

    fn put_head(&self, out: &mut Vec<u8>) {
        record::put_began(out, self.generation);
        record::put_layers(out, &self.layers);
    }

    /// Takes a record, to be written soon: to be called after what it tells was done, so that a
    /// compaction finds it there or here. [`Journal::commit`] makes it safe.
    pub(super) fn add(&self, put: impl FnOnce(&mut Vec<u8>)) {
        let mut state = self.state();
        put(&mut state.pending);
        if state.pending.len() >= LAZY {
            self.flush(state);
        }
    }

    /// Returns once all that was added can be read by another process; or was lost to a full disk,
    /// which is logged, and made good as soon as there is room.
    pub(super) fn commit(&self) {
        let state = self.state();
        if !state.pending.is_empty() {
            self.flush(state);
        }
    }

    fn flush(&self, mut state: MutexGuard<'_, State>) {
        let written = state.write();
        let wanted = state.broken || state.length > state.compact_at;
        let compact = wanted && state.since.is_none();
        drop(state);
        if let Err(error) = written {
            warn!(
                dir = %self.dir.display(), %error,
                "open files cannot be written down for a process that replaces this one; \
                 tried again every few seconds"
            );
        }
        if compact {
            // One is enough, whoever it was.
            let _ = self.compact.try_send(());
        }
    }

    /// Returns whether the file lacks something that only a compaction can give back.
    pub(super) fn is_broken(&self) -> bool {
        self.state().broken
    }

    /// Begins a compaction. Give it all that lives, then [`Compaction::finish`] it; dropped before,
    /// it never was. One at a time.
    pub(super) fn begin(&self) -> io::Result<Compaction<'_>> {
        let mut file = create(&self.dir)?;
        let mut head = Vec::new();
        self.put_head(&mut head);
        let head = frame(&head);
        file.write_all(&head)?;
        let mut state = self.state();
        // What is pending was done before, and so is found alive; but the old file needs it still.
        let _ = state.write();
        state.since = Some(Vec::new());
        drop(state);
        Ok(Compaction {
            journal: self,
            file: Some(file),
            records: Vec::new(),
            length: (HEADER + head.len()) as u64,
        })
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    /// Writes what is pending as one frame; on failure it is dropped and the file is as before.
    fn write(&mut self) -> io::Result<()> {
        if self.pending.is_empty() {
            return Ok(());
        }
        let frame = frame(&self.pending);
        self.pending.clear();
        if let Some(since) = &mut self.since {
            since.extend_from_slice(&frame);
        }
        if self.broken {
            return Ok(());
        }
        let written = self.file.write_all(&frame);
        match &written {
            Ok(()) => self.length += frame.len() as u64,
            Err(_) => {
                self.broken = true;
                // Half a frame would hide what comes behind it.
                let _ = self.file.set_len(self.length);
            }
        }
        written
    }
}

fn frame(records: &[u8]) -> Vec<u8> {
    let mut frame = Vec::with_capacity(FRAME + records.len());
    // Of a few replies' entries.
    frame.extend_from_slice(&(records.len() as u32).to_le_bytes());
    frame.extend_from_slice(&checksum(records));
    frame.extend_from_slice(records);
    frame
}

fn checksum(records: &[u8]) -> [u8; 4] {
    let hash = blake3::hash(records);
    let [a, b, c, d, ..] = *hash.as_bytes();
    [a, b, c, d]
}

/// Makes an empty journal beside the one in `dir`.
fn create(dir: &Path) -> io::Result<File> {
    let path = dir.join(NEW);
    let _ = fs::remove_file(&path);
    let mut file = File::options()
        .append(true)
        .create_new(true)
        .mode(0o600)
        .open(path)?;
    let mut header = [0; HEADER];
    header[..8].copy_from_slice(MAGIC);
    header[8..].copy_from_slice(&VERSION.to_le_bytes());
    file.write_all(&header)?;
    Ok(file)
}

/// A compaction under way.
#[derive(Debug)]
pub(super) struct Compaction<'a> {
    journal: &'a Journal,
    /// Nothing once it took the old one's place.
    file: Option<File>,
    records: Vec<u8>,
    length: u64,
}

impl Compaction<'_> {
    /// Takes a record of something that lives.
    pub(super) fn add(&mut self, put: impl FnOnce(&mut Vec<u8>)) -> io::Result<()> {
        put(&mut self.records);
        if self.records.len() >= LAST {
            self.write()?;
        }
        Ok(())
    }

    fn write(&mut self) -> io::Result<()> {
        if self.records.is_empty() {
            return Ok(());
        }
        let frame = frame(&self.records);
        self.records.clear();
        self.append(&frame)
    }

    fn append(&mut self, bytes: &[u8]) -> io::Result<()> {
        if let Some(file) = &mut self.file {
            file.write_all(bytes)?;
        }
        self.length += bytes.len() as u64;
        Ok(())
    }

    /// Puts the new file in the old one's place.
    pub(super) fn finish(mut self) -> io::Result<()> {
        self.write()?;
        let journal = self.journal;
        loop {
            let mut state = journal.state();
            let since = state.since.as_mut().map(std::mem::take).unwrap_or_default();
            if since.len() > LAST {
                // Others go on meanwhile; what they add is less each time.
                drop(state);
                self.append(&since)?;
                continue;
            }
            self.append(&since)?;
            fs::rename(journal.dir.join(NEW), journal.dir.join(FILE))?;
            if let Some(file) = self.file.take() {
                state.file = file;
            }
            state.since = None;
            state.broken = false;
            state.length = self.length;
            state.compact_at = FLOOR.max(2 * self.length);
            return Ok(());
        }
    }
}

impl Drop for Compaction<'_> {
    fn drop(&mut self) {
        if self.file.is_none() {
            return;
        }
        let mut state = self.journal.state();
        state.since = None;
        // Not at once again.
        state.compact_at = FLOOR.max(2 * state.length);
        drop(state);
        let _ = fs::remove_file(self.journal.dir.join(NEW));
    }
}
