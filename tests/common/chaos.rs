//! What the tests share that break things at random: dice, files to compare with, accounts.

use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use super::mount::{Mount, Place};
use super::noise;

/// Numbers that are the same for the same seed.
pub struct Dice(pub u64);

impl Dice {
    /// Dice from the environment's seed, or from the clock; says which.
    pub fn seeded(test: &str) -> Dice {
        let clock = std::time::UNIX_EPOCH.elapsed().unwrap().as_nanos() as u64;
        let seed = number("SVOL_CRASH_SEED").unwrap_or(clock % 1_000_000_007);
        println!("{test}: SVOL_CRASH_SEED={seed}");
        Dice(seed)
    }

    pub fn below(&mut self, limit: u64) -> u64 {
        // Splitmix64: no need for better here.
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut x = self.0;
        x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (x ^ (x >> 31)) % limit
    }

    pub fn one_of<'a, T>(&mut self, all: &'a [T]) -> &'a T {
        &all[self.below(all.len() as u64) as usize]
    }
}

/// A number from the environment.
pub fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok()?.parse().ok()
}

/// A file of the volume, as it must be read.
pub struct File {
    pub path: String,
    pub bytes: Vec<u8>,
}

/// Makes files below `top`: of the sizes at which something changes, one of so many MiB, and some
/// in between.
pub fn files(top: &str, mib: usize, dice: &mut Dice) -> Vec<File> {
    let (kib, largest) = (1 << 10, mib << 20);
    let mut sizes = vec![0, 1, largest];
    for edge in [16 * kib, 64 * kib, kib * kib] {
        sizes.extend([edge - 1, edge, edge + 1]);
    }
    sizes.extend((0..40).map(|_| dice.below(200_000) as usize));
    sizes.extend((0..4).map(|_| dice.below(largest as u64 / 4) as usize));
    let file = |(n, size): (usize, usize)| File {
        path: format!("{top}/dir{}/{n}-{size}", n % 5),
        bytes: noise(dice.0 ^ n as u64, size),
    };
    sizes.into_iter().enumerate().map(file).collect()
}

/// What was compared so far.
#[derive(Default)]
pub struct Compared {
    /// Bytes that were read and right.
    pub bytes: AtomicU64,
    /// Reads that failed with an error.
    pub errors: AtomicU64,
}

impl Compared {
    /// Reads every file whole, by several threads, and compares it.
    pub fn all(&self, mount: &Mount, files: &[File]) {
        let next = AtomicUsize::new(0);
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    while let Some(file) = files.get(next.fetch_add(1, Ordering::Relaxed)) {
                        let bytes = mount.read(&file.path);
                        assert!(
                            bytes == file.bytes,
                            "{} is wrong\n{}",
                            file.path,
                            mount.log()
                        );
                        self.bytes.fetch_add(bytes.len() as u64, Ordering::Relaxed);
                    }
                });
            }
        });
    }

    /// Reads what can be had of every file; what comes must be right, and of what does not come,
    /// nothing may be said not to be there.
    pub fn what_there_is(&self, mount: &Mount, files: &[File]) {
        let next = AtomicUsize::new(0);
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    while let Some(file) = files.get(next.fetch_add(1, Ordering::Relaxed)) {
                        self.pieces(mount, file);
                    }
                });
            }
        });
    }

    fn pieces(&self, mount: &Mount, file: &File) {
        let failed = |error: std::io::Error| {
            let kind = error.kind();
            assert!(
                kind != std::io::ErrorKind::NotFound,
                "{}: {error}\n{}",
                file.path,
                mount.log()
            );
            self.errors.fetch_add(1, Ordering::Relaxed);
        };
        let opened = match std::fs::File::open(mount.path(&file.path)) {
            Ok(opened) => opened,
            Err(error) => return failed(error),
        };
        let mut buf = vec![0; 256 << 10];
        let mut at = 0;
        while at < file.bytes.len() {
            let right = &file.bytes[at..file.bytes.len().min(at + buf.len())];
            match opened.read_at(&mut buf[..right.len()], at as u64) {
                Ok(read) => {
                    assert!(read > 0, "{} ends at {at}", file.path);
                    assert!(
                        buf[..read] == right[..read],
                        "{} is wrong at {at}\n{}",
                        file.path,
                        mount.log()
                    );
                    self.bytes.fetch_add(read as u64, Ordering::Relaxed);
                    at += read;
                }
                Err(error) => {
                    failed(error);
                    at += right.len();
                }
            }
        }
    }
}

/// `svol cache`, on a directory.
pub struct CacheCommand<'a> {
    pub place: &'a Place,
    pub dir: &'a Path,
    pub limit: &'a str,
}

impl CacheCommand<'_> {
    fn command(&self, what: &[&str]) -> Command {
        let mut command = self.place.command(["cache"]);
        command.args(what).env("SVOL_CACHE_DIR", self.dir);
        command.env("SVOL_CACHE_SIZE", self.limit);
        command
    }

    /// Verifies; returns whether all was clean, and what was said.
    pub fn verify(&self) -> (bool, String) {
        let output = self.command(&["verify"]).output().unwrap();
        let text = [output.stdout, output.stderr].concat();
        (
            output.status.success(),
            String::from_utf8_lossy(&text).into_owned(),
        )
    }

    pub fn gc(&self) {
        let output = self.command(&["gc"]).output().unwrap();
        assert!(
            output.status.success(),
            "{}",
            String::from_utf8_lossy(&output.stderr)
        );
    }

    /// What the cache says that it uses on disk.
    pub fn used(&self) -> u64 {
        let output = self.command(&["stats", "--json"]).output().unwrap();
        let stats: serde_json::Value = serde_json::from_slice(&output.stdout)
            .unwrap_or_else(|_| panic!("{}", String::from_utf8_lossy(&output.stderr)));
        stats["usedBytes"].as_u64().unwrap()
    }
}

/// What a cache's data files and their sidecars take on disk; without what a process that died
/// left of sidecars, which is let be for an hour, and of which there must not be many.
pub fn disk_usage(cache: &Path) -> u64 {
    let kinds = ["partial", "blob", "pack"];
    let below = |kind| files_below(&cache.join("v1").join(kind));
    let all: Vec<_> = kinds.into_iter().flat_map(below).collect();
    let is_left = |path: &&std::path::PathBuf| match path.extension() {
        Some(extension) => extension == "tmp" || !path.with_extension("").exists(),
        None => false,
    };
    let (left, used): (Vec<_>, Vec<_>) = all.iter().partition(is_left);
    assert!(left.len() <= 16, "{left:?}");
    // A file may go while we look.
    let size = |path: &std::path::PathBuf| std::fs::metadata(path).map_or(0, |m| m.blocks() * 512);
    used.into_iter().map(size).sum()
}

/// All files below a directory.
pub fn files_below(dir: &Path) -> Vec<std::path::PathBuf> {
    let mut found = Vec::new();
    let mut todo = vec![dir.to_owned()];
    while let Some(dir) = todo.pop() {
        for entry in std::fs::read_dir(&dir).into_iter().flatten() {
            let entry = entry.unwrap();
            if entry.file_type().unwrap().is_dir() {
                todo.push(entry.path());
            } else {
                found.push(entry.path());
            }
        }
    }
    found.sort();
    found
}
