//! Reading with verification.
//!
//! A grain that this process has verified, or written, is served as it is. Any other is hashed
//! first, and the very bytes that were hashed are served, so that nothing can change in between.

use crate::sync::Arc;
use crate::sync::atomic::Ordering;
use std::cell::RefCell;
use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::unix::fs::FileExt;

use crate::backing::{Backing, State};
use crate::dir;
use crate::grain::{self, ABSENT, GRAIN};
use crate::index::Change;
use crate::inner::Inner;
use crate::sidecar;

/// Grains looked at together: those of a block, the largest request of the kernel.
const AT_ONCE: usize = 64;

crate::sync::thread_local! {
    /// Holds a grain of which less than all was asked for.
    static SCRATCH: RefCell<Vec<u8>> = RefCell::new(vec![0; GRAIN as usize]);
}

/// What came of verifying one grain.
enum Verdict {
    Good,
    /// It was marked absent, or its whole file dropped.
    Bad,
}

impl Inner {
    /// Fills `buf` with the bytes from `offset` on, which must all be within the object, and not
    /// none; false when some are missing.
    pub(crate) fn read(self: &Arc<Self>, offset: u64, buf: &mut [u8]) -> bool {
        let range = offset..offset + buf.len() as u64;
        let from_memory = &self.shared.counters.memory_read_bytes;
        if self.is_small() {
            let Some((bytes, was_in_memory)) = self.small() else {
                return false;
            };
            if was_in_memory {
                from_memory.add(buf.len() as u64);
            }
            buf.copy_from_slice(&bytes[range.start as usize..range.end as usize]);
            self.note_use();
            return true;
        }
        let grains = grain::covering(&range, self.size);
        let Some(backing) = self.backing() else {
            let all = grains
                .into_iter()
                .all(|index| self.read_memory(index, &range, buf));
            if all {
                from_memory.add(buf.len() as u64);
            }
            return all;
        };
        if !self.recently_read.load(Ordering::Relaxed) {
            self.recently_read.store(true, Ordering::Relaxed);
        }
        self.note_use();
        if backing.progress.verified.all(grains.clone()) {
            match backing.files.data.read_exact_at(buf, offset) {
                Ok(()) => return true,
                Err(error) => self.unreadable(&backing, &error),
            }
            if !has_length(&backing.files.data, self.size) {
                return false;
            }
        }
        let mut at = grains.start;
        while at < grains.end {
            let end = grains.end.min(at + AT_ONCE as u64);
            if !self.read_some(&backing, at..end, &range, buf) {
                return false;
            }
            at = end;
        }
        true
    }

    /// Reads and verifies up to [`AT_ONCE`] grains, `range` being what `buf` is to hold in all.
    fn read_some(
        self: &Arc<Self>,
        backing: &Arc<Backing>,
        grains: Range<u64>,
        range: &Range<u64>,
        buf: &mut [u8],
    ) -> bool {
        // The hashes before the data: who sees a hash sees the data that was written before it.
        let mut cvs = [ABSENT; AT_ONCE];
        let cvs = &mut cvs[..(grains.end - grains.start) as usize];
        if let Err(error) = sidecar::read_cvs(&backing.files.sidecar, grains.start, cvs) {
            self.note_trouble("read a sidecar", &error);
        }
        // What is known of the grains before the read is what counts after it: a grain that comes
        // while we read may have been read as the hole that it was.
        let verified = &backing.progress.verified;
        let mut known = grains
            .clone()
            .filter(|index| verified.get(*index))
            .fold(0u64, |known, index| known | 1 << (index - grains.start));
        let from = grain::span(grains.start, self.size).start.max(range.start);
        let to = grain::span(grains.end - 1, self.size).end.min(range.end);
        let within = |at: u64| (at - range.start) as usize;
        if known != 0 || cvs.iter().any(|cv| *cv != ABSENT) {
            let part = &mut buf[within(from)..within(to)];
            if let Err(error) = backing.files.data.read_exact_at(part, from) {
                self.unreadable(backing, &error);
                // One bad sector must not take its neighbours with it: grain by grain below.
                known = 0;
            }
        }
        for (index, cv) in grains.clone().zip(cvs.iter()) {
            let span = grain::span(index, self.size);
            let good = if known & 1 << (index - grains.start) != 0 {
                true
            } else if *cv == ABSENT {
                if let State::Blob { .. } = backing.state {
                    self.drop_blob(backing, "a hash is missing");
                }
                false
            } else if range.start <= span.start && span.end <= range.end {
                let part = &buf[within(span.start)..within(span.end)];
                if grain::chaining_value(index, part) == *cv {
                    verified.set(index);
                    true
                } else {
                    self.verify_into(backing, index, range, buf)
                }
            } else {
                self.verify_into(backing, index, range, buf)
            };
            if !good && !self.read_memory(index, range, buf) {
                return false;
            }
        }
        true
    }

    /// Copies what `range` asks of a grain from the memory tier.
    fn read_memory(&self, index: u64, range: &Range<u64>, buf: &mut [u8]) -> bool {
        match self.shared.memory.get(&self.key, index) {
            Some(bytes) => {
                copy_part(&bytes, grain::span(index, self.size), range, buf);
                true
            }
            None => false,
        }
    }

    /// Verifies one grain by itself and copies what `range` asks of it.
    fn verify_into(
        self: &Arc<Self>,
        backing: &Arc<Backing>,
        index: u64,
        range: &Range<u64>,
        buf: &mut [u8],
    ) -> bool {
        let span = grain::span(index, self.size);
        SCRATCH.with(|scratch| {
            let mut scratch = scratch.borrow_mut();
            let bytes = &mut scratch[..(span.end - span.start) as usize];
            match self.verify_grain(backing, index, bytes) {
                Verdict::Good => {
                    copy_part(bytes, span, range, buf);
                    true
                }
                Verdict::Bad => false,
            }
        })
    }

    /// Reads a grain whole into `bytes` and verifies it. What is bad is dropped, but only after a
    /// second look: another process may have been writing its hash just then.
    fn verify_grain(
        self: &Arc<Self>,
        backing: &Arc<Backing>,
        index: u64,
        bytes: &mut [u8],
    ) -> Verdict {
        let files = &backing.files;
        let mut trouble = None;
        for _ in 0..2 {
            let mut cv = [ABSENT];
            let read = sidecar::read_cvs(&files.sidecar, index, &mut cv)
                .and_then(|()| files.data.read_exact_at(bytes, index * GRAIN));
            match read {
                Ok(()) if cv[0] == ABSENT => return Verdict::Bad,
                Ok(()) if grain::chaining_value(index, bytes) == cv[0] => {
                    backing.progress.verified.set(index);
                    return Verdict::Good;
                }
                Ok(()) => trouble = None,
                Err(error) => trouble = Some(error),
            }
        }
        if let Some(error) = trouble {
            self.unreadable(backing, &error);
        }
        self.drop_grain(backing, index);
        Verdict::Bad
    }

    /// Verifies a grain that is not yet known to be good; for those who go through whole files.
    pub(crate) fn check_grain(self: &Arc<Self>, backing: &Arc<Backing>, index: u64) -> bool {
        let span = grain::span(index, self.size);
        SCRATCH.with(|scratch| {
            let mut scratch = scratch.borrow_mut();
            let bytes = &mut scratch[..(span.end - span.start) as usize];
            matches!(self.verify_grain(backing, index, bytes), Verdict::Good)
        })
    }

    /// Marks a grain absent that is not what its hash says; a blob goes as a whole.
    fn drop_grain(self: &Arc<Self>, backing: &Arc<Backing>, index: u64) {
        backing.progress.verified.clear(index);
        if let State::Blob { .. } = backing.state {
            self.drop_blob(backing, "a grain does not match its hash");
            return;
        }
        self.shared.counters.healed.add(1);
        tracing::warn!(object = %self.key, grain = index, "damaged grain dropped");
        if let Err(error) = sidecar::write_cvs(&backing.files.sidecar, index, &[ABSENT]) {
            self.note_trouble("write a sidecar", &error);
        }
        let progress = &backing.progress;
        progress.complete_to.fetch_min(index, Ordering::Relaxed);
        self.changed();
    }

    fn drop_blob(self: &Arc<Self>, backing: &Arc<Backing>, reason: &'static str) {
        let (State::Blob { hash, .. }, Some(disk)) = (backing.state, self.disk()) else {
            return;
        };
        let counters = &self.shared.counters;
        disk.quarantine(counters, &hash, Some(&backing.files.data), reason);
        self.close(backing);
        self.changed();
    }

    /// Sees to a file that cannot be read. One that has become shorter is given up altogether.
    pub(crate) fn unreadable(self: &Arc<Self>, backing: &Arc<Backing>, error: &io::Error) {
        self.note_trouble("read a file", error);
        backing.progress.verified.clear_all();
        backing.progress.complete_to.store(0, Ordering::Relaxed);
        if has_length(&backing.files.data, self.size) {
            return;
        }
        match backing.state {
            State::Blob { .. } => self.drop_blob(backing, "its length is wrong"),
            State::Partial => self.abandon(backing),
        }
    }

    /// Removes all that is here of the object. See [`Object::discard`](crate::Object::discard).
    pub(crate) fn discard(self: &Arc<Self>) {
        self.shared.memory.remove_object(&self.key);
        if let Some(disk) = self.disk() {
            if self.is_small() {
                // It may be on its way there.
                disk.packs.flush();
                let _ = disk.index.commit(Change::Flush);
                let blob = disk.index.object(&self.key).and_then(|row| row.blob);
                if let Some(blob) = blob {
                    let _ = disk.index.commit(Change::DropBlob { hash: blob.hash });
                }
            } else {
                // Twice: it may be sealed between the look and the removal.
                for _ in 0..2 {
                    let Some(backing) = self.fresh_backing() else {
                        break;
                    };
                    match backing.state {
                        State::Blob { hash, .. } => {
                            let counters = &self.shared.counters;
                            disk.remove_blob(counters, &hash, "it is not what was promised");
                            self.close(&backing);
                        }
                        State::Partial => self.abandon(&backing),
                    }
                }
            }
        }
        self.changed();
    }

    /// Removes a partial that is of no use, so that the next claim makes a new one.
    pub(crate) fn abandon(self: &Arc<Self>, backing: &Arc<Backing>) {
        let Some(disk) = self.disk() else { return };
        let path = disk.dir.partial(&self.key);
        let ours = backing.files.data.metadata();
        if ours.is_ok_and(|ours| dir::still_names(&path, &ours)) {
            self.shared.counters.healed.add(1);
            tracing::warn!(object = %self.key, "partial dropped that is of no use");
            // In this order: see `remove_alone`.
            for path in [&dir::sidecar(&path), &path] {
                if let Err(error) = dir::remove(path) {
                    self.note_trouble("remove a file", &error);
                }
            }
            disk.index.hint(Change::DropPartial { key: self.key });
        }
        self.close(backing);
        self.changed();
    }

    pub(crate) fn note_trouble(&self, what: &'static str, error: &io::Error) {
        if let Some(disk) = self.disk() {
            disk.troubles.note(what, error);
        }
    }
}

/// Returns whether a file has its right length; one that cannot even be asked has.
pub(crate) fn has_length(file: &File, size: u64) -> bool {
    file.metadata().map_or(true, |now| now.len() == size)
}

/// Copies the part of a grain that `range` asks for to its place in `buf`.
fn copy_part(bytes: &[u8], span: Range<u64>, range: &Range<u64>, buf: &mut [u8]) {
    let from = range.start.max(span.start);
    let to = range.end.min(span.end);
    let part = &bytes[(from - span.start) as usize..(to - span.start) as usize];
    buf[(from - range.start) as usize..(to - range.start) as usize].copy_from_slice(part);
}
