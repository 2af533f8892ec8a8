//! `verify`: going through everything and hashing it all again, for a user who asks.

use std::os::unix::fs::FileExt;

use crate::backing::State;
use crate::cache::{Disk, Shared};
use crate::error::Error;
use crate::files::{self, Files, Opened};
use crate::grain::{self, ABSENT, GRAIN, Merger};
use crate::index::{BlobRow, Change, Place};
use crate::key::ObjectKey;
use crate::packs::Loaded;
use crate::report::{VerifyProgress, VerifyReport};
use crate::sidecar;

/// Rows looked at together.
const PAGE: u64 = 256;

/// Bytes between two reports of progress.
const PROGRESS: u64 = 4 << 20;

/// What is said when the index does not answer.
pub(crate) fn index_failed() -> Error {
    Error::Index("it cannot be read; the log says why".into())
}

struct Verifier<'a> {
    shared: &'a Shared,
    disk: &'a Disk,
    report: VerifyReport,
    progress: &'a mut dyn FnMut(VerifyProgress),
    total: u64,
    told: u64,
}

/// Reads and hashes everything on disk.
pub(crate) fn verify(
    shared: &Shared,
    disk: &Disk,
    progress: &mut dyn FnMut(VerifyProgress),
) -> Result<VerifyReport, Error> {
    // What is queued is to be looked at too.
    let _ = disk.index.commit(Change::Flush);
    let mut verifier = Verifier {
        shared,
        disk,
        report: VerifyReport::default(),
        progress,
        total: disk.index.used().ok_or_else(index_failed)?,
        told: 0,
    };
    verifier.blobs()?;
    verifier.partials()?;
    verifier.tell(true);
    Ok(verifier.report)
}

impl Verifier<'_> {
    fn tell(&mut self, now: bool) {
        if now || self.report.bytes >= self.told + PROGRESS {
            self.told = self.report.bytes;
            (self.progress)(VerifyProgress {
                done_bytes: self.report.bytes,
                total_bytes: self.total,
            });
        }
    }

    fn blobs(&mut self) -> Result<(), Error> {
        let mut after = Vec::new();
        loop {
            let page = self.disk.index.blobs(&after, PAGE);
            let page = page.ok_or_else(index_failed)?;
            let Some(last) = page.last() else {
                return Ok(());
            };
            after = last.hash.as_bytes().to_vec();
            for row in page {
                match row.place {
                    Place::File(_) => self.blob(&row),
                    Place::Pack { .. } => self.packed(&row),
                }
            }
        }
    }

    fn packed(&mut self, row: &BlobRow) {
        self.report.packed += 1;
        self.report.bytes += row.size;
        let counters = &self.shared.counters;
        if let Loaded::Bad = self.disk.packs.load(self.disk, counters, row) {
            self.report.bad_packed += 1;
        }
        self.tell(false);
    }

    fn blob(&mut self, row: &BlobRow) {
        let reason = match files::open_blob(&self.disk.dir, &row.hash, row.size) {
            Ok(Opened::Ready(files)) => {
                self.report.blobs += 1;
                let mut merger = Merger::new();
                let bad = self.grains(&files, row.size, Some(&mut merger));
                if bad.is_empty() && merger.finish() == Some(row.hash) {
                    return;
                }
                "its content does not match its hash"
            }
            Ok(Opened::Bad(reason)) => reason,
            // On its way, or gone: nothing to verify.
            Ok(Opened::Absent | Opened::Busy) => return,
            Err(error) => {
                self.disk.troubles.note("open a blob", &error);
                "it cannot be opened"
            }
        };
        self.report.bad_blobs += 1;
        let (counters, disk) = (&self.shared.counters, self.disk);
        // Whoever has it open in this process is not to go on with it.
        for inner in self.shared.registry.held() {
            if let Some(backing) = inner.open_files()
                && matches!(backing.state, State::Blob { hash, .. } if hash == row.hash)
            {
                backing.progress.verified.clear_all();
                inner.close(&backing);
            }
        }
        disk.remove_blob(counters, &row.hash, reason);
    }

    fn partials(&mut self) -> Result<(), Error> {
        let mut after = Vec::new();
        loop {
            let page = self.disk.index.partials(&after, PAGE);
            let page = page.ok_or_else(index_failed)?;
            let Some((last, _)) = page.last() else {
                return Ok(());
            };
            after = last.as_bytes().to_vec();
            for (key, size) in page {
                self.partial(&key, size);
            }
        }
    }

    fn partial(&mut self, key: &ObjectKey, size: u64) {
        let Ok(Opened::Ready(files)) = files::open_partial(&self.disk.dir, key, size) else {
            return;
        };
        self.report.partials += 1;
        let bad = self.grains(&files, size, None);
        if bad.is_empty() {
            return;
        }
        self.report.bad_grains += bad.len() as u64;
        self.shared.counters.healed.add(bad.len() as u64);
        for index in &bad {
            if let Err(error) = sidecar::write_cvs(&files.sidecar, *index, &[ABSENT]) {
                self.disk.troubles.note("write a sidecar", &error);
            }
        }
        for inner in self.shared.registry.held() {
            if inner.key == *key
                && let Some(backing) = inner.open_files()
            {
                backing.progress.verified.clear_all();
            }
        }
    }

    /// Hashes the grains that are present, and returns those that are bad.
    fn grains(&mut self, files: &Files, size: u64, mut merger: Option<&mut Merger>) -> Vec<u64> {
        let mut bad = Vec::new();
        let mut bytes = vec![0; GRAIN as usize];
        let mut cvs = [ABSENT; 64];
        let mut at = 0;
        let count = grain::count(size);
        while at < count {
            let cvs = &mut cvs[..(count - at).min(64) as usize];
            if sidecar::read_cvs(&files.sidecar, at, cvs).is_err() {
                cvs.fill(ABSENT);
            }
            for (index, cv) in (at..).zip(&*cvs) {
                let span = grain::span(index, size);
                let bytes = &mut bytes[..(span.end - span.start) as usize];
                if let Some(merger) = &mut merger {
                    merger.push(*cv);
                    if *cv == ABSENT {
                        bad.push(index);
                    }
                }
                if *cv == ABSENT {
                    continue;
                }
                self.report.bytes += span.end - span.start;
                let mut is_good = || {
                    files.data.read_exact_at(bytes, span.start).is_ok()
                        && grain::chaining_value(index, bytes) == *cv
                };
                // A second look, as a grain may be in the middle of being brought again.
                if !is_good() && !is_good() {
                    bad.push(index);
                }
            }
            at += cvs.len() as u64;
            self.tell(false);
        }
        bad
    }
}
