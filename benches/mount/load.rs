//! What is timed: reading through a file system.

use std::fs::File;
use std::io::Read;
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use crate::data::SMALL_SIZE;

/// What is read at a time, in bytes; the large file is a multiple of it.
pub const CHUNK: usize = 1 << 20;

/// Returns a sum of `bytes` in which their order counts. No hash: it has to cost next to nothing,
/// and what it is to find is bytes that are missing, stale or in the wrong place.
pub fn sum(bytes: &[u8]) -> u64 {
    let mut lanes = [1u32; 16];
    let blocks = bytes.chunks_exact(64);
    for byte in blocks.remainder() {
        lanes[0] = lanes[0].wrapping_mul(9).wrapping_add(u32::from(*byte));
    }
    for block in blocks {
        for (lane, word) in lanes.iter_mut().zip(block.chunks_exact(4)) {
            let word = u32::from_le_bytes([word[0], word[1], word[2], word[3]]);
            // Nine times itself, by what vector units have.
            *lane = (*lane << 3).wrapping_add(*lane).wrapping_add(word);
        }
    }
    let fold = |sum: u64, lane: &u32| sum.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ u64::from(*lane);
    lanes.iter().fold(bytes.len() as u64, fold)
}

/// Reads a file from its beginning to its end, by read or `mapped` into memory; returns the time it
/// took.
pub fn read_large(path: &Path, truth: &[u64], mapped: bool) -> Duration {
    let started = Instant::now();
    let file = File::open(path).unwrap();
    let sums = match mapped {
        true => sums_of_map(&file, truth.len() * CHUNK),
        false => sums_of_reads(file, usize::MAX),
    };
    let took = started.elapsed();
    assert!(
        sums == truth,
        "{}: not the bytes of its source",
        path.display()
    );
    took
}

/// Reads the first chunks of a file, as many as `truth` has; returns the time it took.
pub fn read_first(path: &Path, truth: &[u64]) -> Duration {
    let started = Instant::now();
    let sums = sums_of_reads(File::open(path).unwrap(), truth.len());
    let took = started.elapsed();
    let right = sums == truth;
    assert!(right, "{}: not the bytes of its source", path.display());
    took
}

/// Reads to the end of a file, or so many chunks.
fn sums_of_reads(mut file: File, most: usize) -> Vec<u64> {
    let mut chunk = vec![0; CHUNK];
    let mut sums = Vec::new();
    while sums.len() < most {
        let mut filled = 0;
        while filled < CHUNK {
            match file.read(&mut chunk[filled..]).unwrap() {
                0 => break,
                n => filled += n,
            }
        }
        if filled == 0 {
            break;
        }
        sums.push(sum(&chunk[..filled]));
    }
    sums
}

fn sums_of_map(file: &File, size: usize) -> Vec<u64> {
    let map = Map::new(file, size);
    map.bytes().chunks(CHUNK).map(sum).collect()
}

/// A file mapped into memory, to be read.
pub struct Map {
    at: *mut std::ffi::c_void,
    size: usize,
}

// Nobody writes to it.
unsafe impl Sync for Map {}

impl Map {
    /// Maps the first `size` bytes of a file.
    pub fn new(file: &File, size: usize) -> Map {
        use rustix::mm::{MapFlags, ProtFlags, mmap};
        assert_eq!(file.metadata().unwrap().len(), size as u64);
        let null = std::ptr::null_mut();
        // SAFETY: a new mapping, at a place of the kernel's choice.
        let at = unsafe { mmap(null, size, ProtFlags::READ, MapFlags::SHARED, file, 0) };
        Map {
            at: at.unwrap(),
            size,
        }
    }

    /// Returns its bytes.
    pub fn bytes(&self) -> &[u8] {
        // SAFETY: it is mapped for as long as this lives, and the file never changes.
        unsafe { std::slice::from_raw_parts(self.at.cast(), self.size) }
    }
}

impl Drop for Map {
    fn drop(&mut self) {
        // SAFETY: mapped by `new`, and no borrow is left.
        unsafe { rustix::mm::munmap(self.at, self.size) }.unwrap();
    }
}

/// Walks the small files below `root` and reads all of them; returns the time it took.
pub fn read_small(root: &Path, truth: &[(String, u64)], readers: usize) -> Duration {
    let started = Instant::now();
    let mut files = Vec::with_capacity(truth.len());
    for dir in sorted(&root.join("small")) {
        files.extend(sorted(&dir));
    }
    let next = AtomicUsize::new(0);
    let work = || {
        let mut bytes = Vec::with_capacity(SMALL_SIZE + 1);
        let mut sums = Vec::new();
        while let Some((n, file)) = {
            let n = next.fetch_add(1, Ordering::Relaxed);
            files.get(n).map(|file| (n, file))
        } {
            bytes.clear();
            File::open(file).unwrap().read_to_end(&mut bytes).unwrap();
            sums.push((n, sum(&bytes)));
        }
        sums
    };
    let mut sums = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..readers).map(|_| scope.spawn(work)).collect();
        let all = threads.into_iter().flat_map(|t| t.join().unwrap());
        all.collect::<Vec<_>>()
    });
    let took = started.elapsed();
    sums.sort_unstable();
    assert_eq!(sums.len(), truth.len());
    for ((file, (_, sum)), (key, truth)) in files.iter().zip(sums).zip(truth) {
        assert!(file.ends_with(key), "{} is not {key}", file.display());
        assert_eq!(sum, *truth, "{key}: not the bytes of its source");
    }
    took
}

fn sorted(dir: &Path) -> Vec<std::path::PathBuf> {
    let entries = std::fs::read_dir(dir).unwrap();
    let mut paths: Vec<_> = entries.map(|entry| entry.unwrap().path()).collect();
    paths.sort_unstable();
    paths
}

/// Reads a file, or all files below a directory.
pub fn touch(path: &Path) {
    if path.is_dir() {
        for entry in std::fs::read_dir(path).unwrap() {
            touch(&entry.unwrap().path());
        }
    } else if path.is_file() {
        let mut file = File::open(path).unwrap();
        std::io::copy(&mut file, &mut std::io::sink()).unwrap();
    }
}

/// Drops the pages of a file, or of all files below a directory, from the page cache.
pub fn drop_pages(path: &Path) {
    if path.is_dir() {
        for entry in std::fs::read_dir(path).unwrap() {
            drop_pages(&entry.unwrap().path());
        }
        return;
    }
    // A socket has no pages.
    if !path.is_file() {
        return;
    }
    let file = File::open(path).unwrap();
    // Dirty pages would stay.
    let _ = file.sync_all();
    rustix::fs::fadvise(&file, 0, None, rustix::fs::Advice::DontNeed).unwrap();
}
