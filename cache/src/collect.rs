//! Making the index and the files agree: all at once for a user who asks (`gc`), and little by
//! little in the background, so that what a power cut has made of them is put right without
//! anybody's waiting for it.
//!
//! After a power cut the index is whole, but lacks its last commits, while the files that they
//! told of may well be on disk. Such partials and blobs are taken in again.

use crate::sync::atomic::AtomicBool;
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use blake3::Hash;

use crate::cache::{Disk, Shared};
use crate::dir::{self, Kind};
use crate::error::Error;
use crate::evict::{Removal, evict, remove_alone};
use crate::files;
use crate::index::{Change, Place};
use crate::key::ObjectKey;
use crate::report::GcReport;
use crate::scrub::index_failed;
use crate::seal::lock_blob;
use crate::sidecar::Header;

/// Rows looked at together.
const PAGE: u64 = 256;

/// Files of which nothing is known are left for this long to whoever may be making them.
const GRACE: Duration = Duration::from_secs(3600);

/// Files looked at in one step of the sweep: some milliseconds.
const STEP: u64 = 512;

/// The least time between two steps.
const PAUSE: Duration = Duration::from_secs(1);

/// The time between two sweeps. The first begins when the cache is opened.
const EVERY: Duration = Duration::from_secs(3600);

/// Makes files and index agree, and evicts down to a bound.
pub(crate) fn collect(
    shared: &Shared,
    disk: &Disk,
    target: Option<u64>,
) -> Result<GcReport, Error> {
    let _ = disk.index.commit(Change::Flush);
    let mut report = GcReport::default();
    let failed = || Error::io("look through the cache directory");
    let mut at = Position::default();
    while at.area < AREAS {
        at = advance(disk, at, &mut report)?;
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

/// The sweep in the background.
#[derive(Default)]
pub(crate) struct Sweep {
    at: Position,
    not_before: Option<Instant>,
}

impl Sweep {
    /// Goes on a little, if it is time to.
    pub(crate) fn step(&mut self, disk: &Disk) {
        if self.not_before.is_some_and(|then| Instant::now() < then) {
            return;
        }
        let mut report = GcReport::default();
        while report.looked_at < STEP && self.at.area < AREAS {
            match advance(disk, std::mem::take(&mut self.at), &mut report) {
                Ok(at) => self.at = at,
                Err(error) => {
                    disk.troubles.note("look through its files", &error);
                    self.at.area = AREAS;
                }
            }
        }
        let mut pause = PAUSE;
        if self.at.area >= AREAS {
            self.at = Position::default();
            pause = EVERY;
        }
        self.not_before = Some(Instant::now() + pause);
        if report.adopted + report.orphans + report.stale > 0 {
            tracing::info!(
                adopted = report.adopted,
                orphans = report.orphans,
                stale = report.stale,
                "the cache's index was behind its files"
            );
        }
    }
}

/// How far a sweep has come.
#[derive(Default)]
struct Position {
    area: usize,
    /// Within the areas that are rows: the last key seen.
    after: Vec<u8>,
}

/// Rows of packs, blobs and partials; then the directories of partials, blobs and packs, of which
/// the first two kinds have 256 each; then the sum.
const AREAS: usize = 3 + 256 + 256 + 1 + 1;

/// Looks at a page of rows or at a directory of files. Returns what comes next.
fn advance(disk: &Disk, at: Position, report: &mut GcReport) -> Result<Position, Error> {
    let next_area = || Position {
        area: at.area + 1,
        after: Vec::new(),
    };
    let (kind, below) = match at.area {
        0 => {
            for (id, _) in disk.index.packs().ok_or_else(index_failed)? {
                report.looked_at += 1;
                if !disk.dir.pack(id).exists() {
                    drop_row(disk, Change::DropPack { id }, report);
                }
            }
            return Ok(next_area());
        }
        1 => {
            let page = disk.index.blobs(&at.after, PAGE);
            let page = page.ok_or_else(index_failed)?;
            for row in &page {
                report.looked_at += 1;
                let is_file = matches!(row.place, Place::File(_));
                let path = disk.dir.blob(&row.hash);
                if is_file && !path.exists() && !finish_seal(disk, &row.hash, &path) {
                    drop_row(disk, Change::DropBlob { hash: row.hash }, report);
                }
            }
            return Ok(page.last().map_or_else(next_area, |last| Position {
                after: last.hash.as_bytes().to_vec(),
                ..at
            }));
        }
        2 => {
            let page = disk.index.partials(&at.after, PAGE);
            let page = page.ok_or_else(index_failed)?;
            for (key, _) in &page {
                report.looked_at += 1;
                if !disk.dir.partial(key).exists() {
                    drop_row(disk, Change::DropPartial { key: *key }, report);
                }
            }
            return Ok(page.last().map_or_else(next_area, |(last, _)| Position {
                after: last.as_bytes().to_vec(),
                ..at
            }));
        }
        area @ 3..259 => (Kind::Partial, Some(area - 3)),
        area @ 259..515 => (Kind::Blob, Some(area - 259)),
        515 => (Kind::Pack, None),
        _ => {
            report.looked_at += STEP;
            if disk.index.is_miscounted() {
                tracing::warn!("the cache's sum of what it uses was wrong");
                disk.index.send(Change::Recount, None);
            }
            return Ok(next_area());
        }
    };
    let mut dir = disk.dir.kind(kind);
    if let Some(below) = below {
        dir.push(format!("{below:02x}"));
    }
    each_file(&dir, &mut |path| {
        report.looked_at += 1;
        collect_file(disk, kind, path, report)
    })
    .map_err(Error::io("look through the cache directory"))?;
    Ok(next_area())
}

/// Completes a seal that a crash interrupted; returns whether the blob is there now.
fn finish_seal(disk: &Disk, hash: &Hash, path: &Path) -> bool {
    let Some(header) = header(path) else {
        return false;
    };
    let finished = files::finish_interrupted_seal(&disk.dir, &header.key, hash, header.size);
    match finished {
        Ok(finished) => finished || path.exists(),
        Err(error) => {
            disk.troubles.note("complete a seal", &error);
            true
        }
    }
}

/// Drops a row whose file is gone.
fn drop_row(disk: &Disk, change: Change, report: &mut GcReport) {
    report.stale += 1;
    disk.index.send(change, None);
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
            Some(hash) => collect_blob(disk, hash, path, size, report)?,
            None => remove_if_old(path, report)?,
        },
        Kind::Pack => match u64::from_str_radix(name, 16).ok() {
            Some(id) => {
                let packs = disk.index.packs().unwrap_or_default();
                match packs.iter().find(|(known, _)| *known == id) {
                    Some((_, bytes)) if *bytes == size => {}
                    Some(_) => {
                        let change = Change::PackMeasured { id, bytes: size };
                        disk.index.send(change, None);
                    }
                    None => {
                        if let Removal::Spared = remove_orphan(path, report)? {
                            // Somebody appends to it still, to an index that is no more.
                            disk.index.send(Change::AddPack { id }, None);
                            let change = Change::PackMeasured { id, bytes: size };
                            disk.index.send(change, None);
                        }
                    }
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
    if let Some(row) = row
        && row.partial_bytes > 0
    {
        if row.partial_bytes != bytes {
            let change = Change::PartialMeasured { key, bytes };
            disk.index.send(change, None);
        }
        return Ok(());
    }
    let complete_elsewhere = row.is_some_and(|row| row.blob.is_some());
    let header = header(path).filter(|header| header.key == key);
    match header {
        Some(header) if !complete_elsewhere => {
            report.adopted += 1;
            // Nothing where it has been sealed meanwhile.
            let change = Change::Measured {
                key,
                size: header.size,
                bytes,
                covered: 0,
            };
            disk.index.send(change, None);
        }
        _ => {
            remove_orphan(path, report)?;
            disk.index.send(Change::DropPartial { key }, None);
        }
    }
    Ok(())
}

fn collect_blob(
    disk: &Disk,
    hash: Hash,
    path: &Path,
    bytes: u64,
    report: &mut GcReport,
) -> io::Result<()> {
    match disk.index.blob(&hash) {
        Some(row) if row.bytes == bytes => return Ok(()),
        Some(_) => {
            let change = Change::BlobMeasured { hash, bytes };
            disk.index.send(change, None);
            return Ok(());
        }
        None => {}
    }
    // Held against who makes it just then; who has since, has recorded it.
    let Some(_guard) = lock_blob(disk, &hash)? else {
        return Ok(());
    };
    if disk.index.blob(&hash).is_some() {
        return Ok(());
    }
    // Its sidecar was flagged after all of it was verified and synced, and tells whose it is.
    let header = header(path).filter(|header| header.sealed == Some(hash));
    match header {
        Some(header) if fs::metadata(path).is_ok_and(|data| data.len() == header.size) => {
            report.adopted += 1;
            let change = Change::AdoptBlob {
                key: header.key,
                hash,
                size: header.size,
                bytes,
            };
            disk.index.send(change, None);
            Ok(())
        }
        _ => remove_orphan(path, report).map(drop),
    }
}

/// Returns what the sidecar of a data file says.
fn header(path: &Path) -> Option<Header> {
    let sidecar = File::open(dir::sidecar(path)).ok()?;
    Header::read(&sidecar).ok()?
}

fn remove_orphan(path: &Path, report: &mut GcReport) -> io::Result<Removal> {
    let removal = remove_alone(path)?;
    if let Removal::Done(bytes) = removal {
        report.orphans += 1;
        report.freed_bytes += bytes;
    }
    Ok(removal)
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
