//! A reader: does whatever programs do with files, and compares all that it gets with the truth.

use std::collections::BTreeSet;
use std::io::Error;
use std::os::fd::AsFd;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use rustix::fs::Advice;
use rustix::io::Errno;
use rustix::mm::{MapFlags, ProtFlags};

use crate::common::faults::Dice;
use crate::report::{Report, Slot, bump};
use crate::world::{File, Layer, MIX, World};

/// What a source's failure may be (DESIGN 4.3).
const ALLOWED: [Errno; 5] = [
    Errno::TIMEDOUT,
    Errno::HOSTUNREACH,
    Errno::ACCESS,
    Errno::STALE,
    Errno::IO,
];

/// How many files a reader holds open for long.
const HELD: usize = 6;

/// A file that was opened, and the versions that it may be of.
struct Held<'a> {
    file: &'a File,
    opened: std::fs::File,
    may_be: Option<Vec<u64>>,
    /// Its size, as `fstat` says.
    size: u64,
}

/// One thread's part.
pub struct Reader<'a> {
    pub world: &'a World,
    pub report: &'a Report,
    pub at: PathBuf,
    pub dice: Dice,
    pub stop: Arc<AtomicBool>,
    slot: Arc<Slot>,
    held: Vec<Held<'a>>,
}

fn errno(error: &Error) -> Errno {
    Errno::from_raw_os_error(error.raw_os_error().unwrap_or(0))
}

impl<'a> Reader<'a> {
    pub fn new(
        world: &'a World,
        report: &'a Report,
        at: PathBuf,
        dice: Dice,
        stop: Arc<AtomicBool>,
    ) -> Reader<'a> {
        Reader {
            world,
            report,
            at,
            dice,
            stop,
            slot: report.slot(),
            held: Vec::new(),
        }
    }

    /// Reads until told to stop.
    pub fn run(mut self) {
        while !self.stop.load(Ordering::Relaxed) {
            let file = self.dice.pick(&self.world.files);
            match self.dice.below(20) {
                0..=7 => self.some(file),
                8..=9 => self.all(file),
                10..=11 => self.map(file),
                12..=13 => self.list(),
                14..=15 => self.look(file),
                16 => self.look_for_none(file),
                17 => self.hold(file),
                _ => self.again(),
            }
        }
    }

    /// Takes note of a failure.
    fn failed(&self, what: &str, layer: Layer, path: &str, error: &Error) {
        let got = errno(error);
        let in_mix = path.starts_with(MIX);
        if layer == Layer::Local {
            let what = format!("the control failed: {what} {path}: {error}");
            return self.report.problem(&self.report.others, what);
        }
        let name = if in_mix { MIX } else { layer.graft() };
        self.report.error(name, got);
        if got == Errno::NOENT {
            if layer == Layer::Told {
                return bump(&self.report.told_absences, 1);
            }
            let what = format!("false ENOENT: {what} {path}");
            self.report.problem(&self.report.false_absences, what);
        } else if !(ALLOWED.contains(&got) || (got == Errno::FAULT && what == "map")) {
            let what = format!("an error of the wrong kind: {what} {path}: {error}");
            self.report.problem(&self.report.others, what);
        }
    }

    fn open(&self, file: &'a File) -> Option<Held<'a>> {
        bump(&self.report.opens, 1);
        let path = self.at.join(&file.path);
        let opened = self.report.timed(&self.slot, "open", &file.path, || {
            let opened = std::fs::File::open(path)?;
            let size = opened.metadata()?.len();
            Ok((opened, size))
        });
        match opened {
            Ok((opened, size)) => Some(Held {
                file,
                opened,
                may_be: None,
                size,
            }),
            Err(error) => {
                self.failed("open", file.layer, &file.path, &error);
                None
            }
        }
    }

    /// Compares what was read with all versions that it may be of.
    fn compare(&self, held: &mut Held<'_>, how: &str, offset: u64, asked: usize, got: &[u8]) {
        bump(&self.report.reads, 1);
        bump(&self.report.bytes, got.len() as u64);
        let (file, size) = (held.file, held.size);
        let newest = file.newest();
        let may_be = held.may_be.take();
        let before = may_be.unwrap_or_else(|| (0..=newest).rev().collect());
        let fits = |version: &u64| {
            // The beginning tells most versions apart.
            let few = got.len().min(32);
            file.size(*version) == size
                && file.bytes(*version, offset, few) == got[..few]
                && file.bytes(*version, offset, asked) == got
        };
        let after: Vec<u64> = before.iter().copied().filter(fits).collect();
        if after.is_empty() {
            let of = |version: u64| file.bytes(version, offset, asked) == got;
            let what = format!(
                "wrong bytes: {how} {} at {offset}: asked for {asked}, got {} (size {size}); could \
                 be of versions {before:?}; newest {newest}; is of {:?}",
                file.path,
                got.len(),
                (0..=newest).rfind(|v| of(*v)),
            );
            self.report.problem(&self.report.wrong, what);
        } else {
            held.may_be = Some(after);
        }
    }

    /// Reads a range; lets the kernel forget its pages before, every third time.
    fn pread(&self, held: &mut Held<'_>, offset: u64, len: usize) -> bool {
        if self.dice.clone().below(3) == 0 {
            let _ = rustix::fs::fadvise(&held.opened, 0, None, Advice::DontNeed);
        }
        let mut bytes = vec![0; len];
        let opened = &held.opened;
        let path = &held.file.path;
        let got = self.report.timed(&self.slot, "read", path, || {
            let mut done = 0;
            while done < len {
                match opened.read_at(&mut bytes[done..], offset + done as u64) {
                    Ok(0) => break,
                    Ok(n) => done += n,
                    Err(error) => return Err(error),
                }
            }
            Ok(done)
        });
        match got {
            Ok(n) => {
                self.compare(held, "read", offset, len, &bytes[..n]);
                true
            }
            Err(error) => {
                self.failed("read", held.file.layer, path, &error);
                false
            }
        }
    }

    /// Returns a place in a file and how much to read there.
    fn range(&mut self, size: u64) -> (u64, usize) {
        let len = match self.dice.below(4) {
            0 => 1 + self.dice.below(100),
            1 => 4096,
            2 => 1 + self.dice.below(200_000),
            _ => 1 + self.dice.below(1 << 20),
        };
        (self.dice.below(size + 10), len as usize)
    }

    fn some(&mut self, file: &'a File) {
        let Some(mut held) = self.open(file) else {
            return;
        };
        for _ in 0..1 + self.dice.below(5) {
            let (offset, len) = self.range(held.size);
            self.pread(&mut held, offset, len);
        }
    }

    fn all(&mut self, file: &'a File) {
        let Some(mut held) = self.open(file) else {
            return;
        };
        let step = *self.dice.pick(&[10_000, 128 << 10, 1 << 20]);
        // Once beyond the end, where nothing is.
        let mut at = 0;
        while at <= held.size {
            if self.stop.load(Ordering::Relaxed) || !self.pread(&mut held, at, step) {
                return;
            }
            at += step as u64;
        }
    }

    /// Reads through a mapping. The kernel copies from it into memory, and so answers with an error
    /// where this process would get a SIGBUS.
    fn map(&mut self, file: &'a File) {
        const PAGE: u64 = 4096;
        let Some(mut held) = self.open(file) else {
            return;
        };
        if held.size == 0 {
            return;
        }
        let offset = self.dice.below(held.size) / PAGE * PAGE;
        let left = (held.size - offset) as usize;
        let len = left.min(1 + self.dice.below(600_000) as usize);
        let opened = &held.opened;
        let copied = self.report.timed(&self.slot, "map", &file.path, || {
            let memory = rustix::fs::memfd_create("soak", rustix::fs::MemfdFlags::CLOEXEC)?;
            // SAFETY: a new mapping, used below and unmapped before it goes out of scope; only the
            // kernel reads from it.
            unsafe {
                let fd = opened.as_fd();
                let map = rustix::mm::mmap(
                    std::ptr::null_mut(),
                    len,
                    ProtFlags::READ,
                    MapFlags::SHARED,
                    fd,
                    offset,
                )?;
                let bytes = std::slice::from_raw_parts(map.cast::<u8>(), len);
                let mut done = 0;
                let result = loop {
                    match rustix::io::pwrite(&memory, &bytes[done..], done as u64) {
                        _ if done == len => break Ok(()),
                        Ok(n) => done += n,
                        Err(error) => break Err(Error::from(error)),
                    }
                };
                rustix::mm::munmap(map, len)?;
                result?;
            }
            let mut bytes = vec![0; len];
            std::fs::File::from(memory).read_exact_at(&mut bytes, 0)?;
            Ok::<_, Error>(bytes)
        });
        match copied {
            Ok(bytes) => self.compare(&mut held, "map", offset, len, &bytes),
            Err(error) => self.failed("map", file.layer, &file.path, &error),
        }
    }

    fn hold(&mut self, file: &'a File) {
        if self.held.len() >= HELD {
            let gone = self.dice.below(HELD as u64) as usize;
            self.held.swap_remove(gone);
        }
        let held = self.open(file);
        self.held.extend(held);
    }

    /// Reads on in a file that has been open for a while.
    fn again(&mut self) {
        if self.held.is_empty() {
            return;
        }
        let at = self.dice.below(self.held.len() as u64) as usize;
        let mut held = self.held.swap_remove(at);
        let (offset, len) = self.range(held.size);
        self.pread(&mut held, offset, len);
        self.held.push(held);
    }

    fn list(&mut self) {
        let dirs: Vec<_> = self.world.dirs.iter().collect();
        let (dir, names) = *self.dice.pick(&dirs);
        let at = self.at.join(dir);
        let got = self.report.timed(&self.slot, "list", dir, || {
            let entries = std::fs::read_dir(at)?;
            entries
                .map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned()))
                .collect::<Result<BTreeSet<String>, Error>>()
        });
        let graft = dir.split('/').next().unwrap_or_default();
        let layer = match graft {
            "s3" => Layer::S3,
            "web" => Layer::Web,
            "sums" => Layer::Sums,
            "told" => Layer::Told,
            // The local layer of the two always answers.
            _ => Layer::Local,
        };
        let got = match got {
            Ok(got) => got,
            Err(error) => return self.failed("list", layer, dir, &error),
        };
        bump(&self.report.listings, 1);
        let missing: Vec<_> = names.difference(&got).collect();
        let ghosts: Vec<_> = got.difference(names).collect();
        let may_miss = |name: &&&String| match graft {
            "told" => true,
            MIX => name.starts_with("s3"),
            _ => false,
        };
        let missed = missing.iter().filter(|name| !may_miss(name)).count();
        if missed > 0 {
            let what = format!("false ENOENT: {dir} lists without {missing:?}");
            self.report.problem(&self.report.false_absences, what);
        } else if !missing.is_empty() && graft == "told" {
            bump(&self.report.told_absences, 1);
        }
        if !ghosts.is_empty() {
            let what = format!("{dir} lists what is not there: {ghosts:?}");
            self.report.problem(&self.report.others, what);
        }
    }

    fn look(&mut self, file: &File) {
        bump(&self.report.stats, 1);
        let path = self.at.join(&file.path);
        let got = self
            .report
            .timed(&self.slot, "stat", &file.path, || path.metadata());
        match got {
            Ok(meta) => {
                let size = meta.len();
                if !(0..=file.newest()).any(|version| file.size(version) == size) {
                    let what = format!("a size that no version has: {}: {size}", file.path);
                    self.report.problem(&self.report.wrong, what);
                }
            }
            Err(error) => self.failed("stat", file.layer, &file.path, &error),
        }
    }

    fn look_for_none(&mut self, file: &File) {
        bump(&self.report.stats, 1);
        let none = format!("{}.none-{}", file.path, self.dice.below(50));
        let path = self.at.join(&none);
        let got = self
            .report
            .timed(&self.slot, "stat", &none, || path.metadata());
        match got {
            Ok(_) => {
                let what = format!("{none} is there");
                self.report.problem(&self.report.others, what);
            }
            Err(error) if errno(&error) == Errno::NOENT => {}
            // Where a dead layer may have it, nobody knows.
            Err(error) if file.path.starts_with(MIX) => {
                self.failed("stat", Layer::S3, &none, &error);
            }
            Err(error) => self.failed("stat", file.layer, &none, &error),
        }
    }
}
