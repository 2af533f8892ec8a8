//! What the tests of the cache share.
#![allow(dead_code, missing_docs, unreachable_pub)]

use std::collections::HashMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use svol_cache::{Cache, Config, Object, ObjectKey};

pub const MIB: u64 = 1 << 20;

/// Returns the bytes of a made-up object: the same for the same number, and no two grains alike.
pub fn content(number: u64, size: u64) -> Vec<u8> {
    let mut out = vec![0; size as usize];
    let mut reader = blake3::Hasher::new()
        .update(&number.to_le_bytes())
        .finalize_xof();
    reader.fill(&mut out);
    out
}

pub fn key(number: u64) -> ObjectKey {
    blake3::hash(&number.to_le_bytes()).into()
}

pub fn config(dir: &Path) -> Config {
    Config {
        limit: Some(1 << 30),
        min_free: Some(0),
        ..Config::new(dir)
    }
}

pub fn open(dir: &Path) -> Cache {
    Cache::open(config(dir)).unwrap()
}

/// Brings whatever is missing, in chunks of a size; returns how many bytes that were.
pub fn fill_in(object: &Object, data: &[u8], chunk: usize) -> u64 {
    let mut brought = 0;
    let started = Instant::now();
    loop {
        let missing = object.missing(0..object.size());
        if missing.is_empty() {
            return brought;
        }
        assert!(started.elapsed() < Duration::from_secs(60), "never filled");
        for run in missing {
            match object.try_claim(run) {
                Some(mut fill) => {
                    let range = fill.range();
                    for part in data[range.start as usize..range.end as usize].chunks(chunk) {
                        fill.push(part).unwrap();
                    }
                    fill.finish().unwrap();
                    brought += range.end - range.start;
                }
                None => std::thread::sleep(Duration::from_millis(1)),
            }
        }
    }
}

pub fn fill(object: &Object, data: &[u8]) -> u64 {
    fill_in(object, data, 100_000)
}

/// Reads all of an object; None when something is missing.
pub fn read(object: &Object) -> Option<Vec<u8>> {
    let mut out = vec![0; object.size() as usize];
    for (at, part) in out.chunks_mut(1 << 20).enumerate() {
        let read = object.read_at((at as u64) << 20, part)?;
        assert_eq!(read, part.len());
    }
    Some(out)
}

/// Reads all of an object, and brings what turns out to be missing.
pub fn read_or_fill(object: &Object, data: &[u8]) -> Vec<u8> {
    for _ in 0..100 {
        if let Some(out) = read(object) {
            return out;
        }
        fill(object, data);
    }
    panic!("never readable");
}

/// Waits until something is so.
pub fn wait_for(what: &str, mut is_so: impl FnMut() -> bool) {
    let started = Instant::now();
    while !is_so() {
        assert!(started.elapsed() < Duration::from_secs(30), "no {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// Returns all files below a directory.
pub fn files(dir: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut waiting = vec![dir.to_owned()];
    while let Some(dir) = waiting.pop() {
        let Ok(entries) = fs::read_dir(&dir) else {
            continue;
        };
        for entry in entries.flatten() {
            if entry.file_type().unwrap().is_dir() {
                waiting.push(entry.path());
            } else {
                found.push(entry.path());
            }
        }
    }
    found.sort();
    found
}

/// Returns the files of one kind: `partial`, `blob` or `pack`.
pub fn files_of(dir: &Path, kind: &str) -> Vec<PathBuf> {
    files(&dir.join("v1").join(kind))
}

/// Returns what the data files of a cache and their sidecars really take on disk.
pub fn really_used(dir: &Path) -> u64 {
    use std::os::unix::fs::MetadataExt;
    // By inode: a file that is just being sealed must not count at both its places.
    ["partial", "blob", "pack"]
        .iter()
        .flat_map(|kind| files_of(dir, kind))
        .filter_map(|path| fs::metadata(path).ok())
        .map(|metadata| (metadata.ino(), metadata.blocks() * 512))
        .collect::<HashMap<_, _>>()
        .values()
        .sum()
}

/// Flips one bit of a file, whatever its mode, leaving its times as they were.
pub fn flip(path: &Path, at: u64) {
    use std::os::unix::fs::{FileExt, PermissionsExt};
    let metadata = fs::metadata(path).unwrap();
    let mode = metadata.permissions();
    fs::set_permissions(path, fs::Permissions::from_mode(0o600)).unwrap();
    let file = fs::File::options()
        .read(true)
        .write(true)
        .open(path)
        .unwrap();
    let mut byte = [0];
    file.read_exact_at(&mut byte, at).unwrap();
    byte[0] ^= 1 << (at % 8);
    file.write_all_at(&byte, at).unwrap();
    file.set_modified(metadata.modified().unwrap()).unwrap();
    fs::set_permissions(path, mode).unwrap();
}
