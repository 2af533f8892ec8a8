//! Going through everything: `verify`, which hashes it all again, and `gc`, which makes the index
//! and the files agree. Both are for a user who asks; nothing at start depends on them.

use crate::sync::atomic::AtomicBool;
use std::fs::{self, File};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use blake3::Hash;

use crate::backing::State;
use crate::cache::{Disk, Shared};
use crate::dir::{self, Kind};
use crate::error::Error;
use crate::evict::{Removal, Sidecar, evict, remove_alone};
use crate::files::{self, Files, Opened};
use crate::grain::{self, ABSENT, GRAIN, Merger};
use crate::index::{BlobRow, Change, Place};
use crate::key::ObjectKey;
use crate::report::{GcReport, VerifyProgress, VerifyReport};
use crate::sidecar;

/// Rows looked at together.
const PAGE: u64 = 256;

/// Bytes between two reports of progress.
const PROGRESS: u64 = 4 << 20;

/// Files of which nothing is known are left for this long to whoever may be making them.
const GRACE: Duration = Duration::from_secs(3600);

fn index_failed() -> Error {
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
        if self.disk.packs.load(self.disk, counters, row).is_none() {
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

/// Makes files and index agree, and evicts down to a bound.
pub(crate) fn collect(
    shared: &Shared,
    disk: &Disk,
    target: Option<u64>,
) -> Result<GcReport, Error> {
    let _ = disk.index.commit(Change::Flush);
    let mut report = GcReport::default();
    drop_stale_rows(disk, &mut report)?;
    let failed = || Error::io("look through the cache directory");
    for kind in Kind::ALL {
        each_file(&disk.dir.kind(kind), &mut |path| {
            collect_file(disk, kind, path, &mut report)
        })
        .map_err(failed())?;
    }
    if !disk.index.commit(Change::Flush) {
        return Err(index_failed());
    }
    disk.measure();
    let target = target.unwrap_or(disk.quota.limit());
    let excess = disk
        .quota
        .used()
        .saturating_sub(target)
        .max(disk.quota.excess(0));
    if excess > 0 {
        let evicted = evict(shared, disk, excess, &AtomicBool::new(false));
        report.evicted += evicted.files;
        report.freed_bytes += evicted.bytes;
    }
    report.foreign_bytes = foreign(&disk.dir).map_err(failed())?;
    report.used = disk.quota.used();
    Ok(report)
}

/// Drops rows whose files are gone.
fn drop_stale_rows(disk: &Disk, report: &mut GcReport) -> Result<(), Error> {
    let mut drop_row = |change: Change| {
        report.stale += 1;
        disk.index.send(change, None);
    };
    for (id, _) in disk.index.packs().ok_or_else(index_failed)? {
        if !disk.dir.pack(id).exists() {
            drop_row(Change::DropPack { id });
        }
    }
    let mut after = Vec::new();
    loop {
        let page = disk.index.blobs(&after, PAGE).ok_or_else(index_failed)?;
        let Some(last) = page.last() else { break };
        after = last.hash.as_bytes().to_vec();
        for row in page {
            let is_file = matches!(row.place, Place::File(_));
            if is_file && !disk.dir.blob(&row.hash).exists() {
                drop_row(Change::DropBlob { hash: row.hash });
            }
        }
    }
    let mut after = Vec::new();
    loop {
        let page = disk.index.partials(&after, PAGE).ok_or_else(index_failed)?;
        let Some((last, _)) = page.last() else { break };
        after = last.as_bytes().to_vec();
        for (key, _) in page {
            if !disk.dir.partial(&key).exists() {
                drop_row(Change::DropPartial { key });
            }
        }
    }
    Ok(())
}

/// Accounts for one file: adopts it, corrects what the index says of it, or removes it.
fn collect_file(disk: &Disk, kind: Kind, path: &Path, report: &mut GcReport) -> io::Result<()> {
    let Some(name) = path.file_name().and_then(|name| name.to_str()) else {
        return Ok(());
    };
    let size = measure(path);
    if let Some(data) = name.strip_suffix(".grains") {
        // A sidecar goes with its data. Alone, it may be a seal that was interrupted.
        if !path.with_file_name(data).exists() && is_old(path) {
            remove_orphan(path, report)?;
        }
        return Ok(());
    }
    match kind {
        Kind::Partial => match Hash::from_hex(name).ok().map(ObjectKey::from) {
            Some(key) => collect_partial(disk, key, path, size, report)?,
            None => remove_if_old(path, report)?,
        },
        Kind::Blob => match Hash::from_hex(name).ok() {
            Some(hash) => {
                if disk.index.blob(&hash).is_some() {
                    let change = Change::BlobMeasured { hash, bytes: size };
                    disk.index.send(change, None);
                } else {
                    remove_orphan(path, report)?;
                }
            }
            None => remove_if_old(path, report)?,
        },
        Kind::Pack => match u64::from_str_radix(name, 16).ok() {
            Some(id) => {
                let packs = disk.index.packs().unwrap_or_default();
                if packs.iter().any(|(known, _)| *known == id) {
                    let change = Change::PackMeasured { id, bytes: size };
                    disk.index.send(change, None);
                } else {
                    remove_orphan(path, report)?;
                }
            }
            None => remove_if_old(path, report)?,
        },
    }
    Ok(())
}

fn collect_partial(
    disk: &Disk,
    key: ObjectKey,
    path: &Path,
    bytes: u64,
    report: &mut GcReport,
) -> io::Result<()> {
    let row = disk.index.object(&key);
    if row.is_some_and(|row| row.partial_bytes > 0) {
        disk.index
            .send(Change::PartialMeasured { key, bytes }, None);
        return Ok(());
    }
    let complete_elsewhere = row.is_some_and(|row| row.blob.is_some());
    let header = File::open(dir::sidecar(path))
        .and_then(|sidecar| sidecar::Header::read(&sidecar))
        .unwrap_or(None)
        .filter(|header| header.key == key);
    match header {
        Some(header) if !complete_elsewhere => {
            report.adopted += 1;
            let size = header.size;
            disk.index.send(Change::AddPartial { key, size }, None);
            disk.index
                .send(Change::PartialMeasured { key, bytes }, None);
            Ok(())
        }
        _ => {
            remove_orphan(path, report)?;
            disk.index.send(Change::DropPartial { key }, None);
            Ok(())
        }
    }
}

fn remove_orphan(path: &Path, report: &mut GcReport) -> io::Result<()> {
    if let Removal::Done(bytes) = remove_alone(path, Sidecar::First)? {
        report.orphans += 1;
        report.freed_bytes += bytes;
    }
    Ok(())
}

fn remove_if_old(path: &Path, report: &mut GcReport) -> io::Result<()> {
    if is_old(path) {
        remove_orphan(path, report)?;
    }
    Ok(())
}

fn is_old(path: &Path) -> bool {
    fs::metadata(path)
        .and_then(|metadata| metadata.modified())
        .is_ok_and(|modified| modified.elapsed().is_ok_and(|age| age > GRACE))
}

/// Returns what a data file and its sidecar take on disk.
fn measure(path: &Path) -> u64 {
    [path, &dir::sidecar(path)]
        .iter()
        .filter_map(|path| fs::metadata(path).ok())
        .map(|metadata| dir::allocated(&metadata))
        .sum()
}

/// Calls `visit` with every file below a directory of this cache. What vanishes meanwhile is not
/// an error.
fn each_file(dir: &Path, visit: &mut dyn FnMut(&Path) -> io::Result<()>) -> io::Result<()> {
    let mut waiting: Vec<PathBuf> = vec![dir.to_owned()];
    while let Some(dir) = waiting.pop() {
        let entries = match fs::read_dir(&dir) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            other => other?,
        };
        for entry in entries {
            let entry = entry?;
            match entry.file_type() {
                Ok(kind) if kind.is_dir() => waiting.push(entry.path()),
                Ok(kind) if kind.is_file() => visit(&entry.path())?,
                _ => {}
            }
        }
    }
    Ok(())
}

/// Returns the bytes of what is in the cache directory and not of this format version.
fn foreign(dir: &dir::Dir) -> io::Result<u64> {
    let mut bytes = 0;
    for entry in fs::read_dir(dir.top())? {
        let entry = entry?;
        if entry.path() != dir.root() && entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            each_file(&entry.path(), &mut |path| {
                bytes += fs::metadata(path).map_or(0, |metadata| dir::allocated(&metadata));
                Ok(())
            })?;
        }
    }
    Ok(bytes)
}
