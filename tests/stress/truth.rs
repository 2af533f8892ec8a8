//! What the sources hold, held and may be seen to hold: contents that follow from a file's number
//! and version, so that nothing need be kept.

use std::sync::atomic::{AtomicU64, Ordering};

/// The largest changing file.
const LARGEST: u64 = 3 << 20;

/// The bytes of one version of one file.
pub fn bytes(file: usize, version: u64, at: u64, len: usize) -> Vec<u8> {
    let mut bytes = vec![0; len];
    let mut reader = seed(file, version).finalize_xof();
    reader.set_position(at);
    reader.fill(&mut bytes);
    bytes
}

/// The size of one version of one file.
pub fn size(file: usize, version: u64) -> u64 {
    let mut word = [0; 8];
    let mut reader = seed(file, version).finalize_xof();
    reader.set_position(1 << 40);
    reader.fill(&mut word);
    let any = u64::from_le_bytes(word);
    // A third is small, and fetched another way.
    match file % 3 {
        0 => 1 + any % 20_000,
        _ => 70_000 + any % (LARGEST - 70_000),
    }
}

fn seed(file: usize, version: u64) -> blake3::Hasher {
    let mut hasher = blake3::Hasher::new();
    hasher.update(&(file as u64).to_le_bytes());
    hasher.update(&version.to_le_bytes());
    hasher
}

/// A file that is there all the time and changes.
#[derive(Debug, Default)]
pub struct Hot {
    /// The newest version, from before it is stored.
    pub begun: AtomicU64,
    /// The newest version, from when it is stored.
    pub stored: AtomicU64,
    /// By view: the oldest version that a new open may see. What was stored before the last refresh
    /// that has ended.
    pub surely: [AtomicU64; 2],
}

/// A file that comes and goes. Its state is the number of its changes; odd ones mean that it is
/// there.
#[derive(Debug, Default)]
pub struct Fickle {
    /// From before a change.
    pub begun: AtomicU64,
    /// From after a change.
    pub stored: AtomicU64,
    /// By view: the state at the last refresh.
    pub surely: [AtomicU64; 2],
}

impl Fickle {
    /// Returns the state if it was one and the same since before the last refresh of `view`.
    pub fn settled(&self, view: usize) -> Option<u64> {
        let surely = self.surely[view].load(Ordering::SeqCst);
        let now = self.begun.load(Ordering::SeqCst);
        (now == surely).then_some(now)
    }
}

/// The versions that an open file may be, narrowed by each read.
#[derive(Debug)]
pub struct Candidates {
    file: usize,
    versions: Vec<u64>,
}

impl Candidates {
    /// Of a file that was opened when `oldest` was surely visible and whose size was found when
    /// `newest` was the newest.
    pub fn new(file: usize, oldest: u64, newest: u64, len: u64) -> Candidates {
        let versions = (oldest..=newest)
            .filter(|v| size(file, *v) == len)
            .collect();
        Candidates { file, versions }
    }

    /// Returns whether no version is possible.
    pub fn none(&self) -> bool {
        self.versions.is_empty()
    }

    /// Compares what was read with the versions that are left; returns whether one fits.
    pub fn fit(&mut self, at: u64, read: &[u8]) -> bool {
        let file = self.file;
        self.versions.retain(|v| {
            let rest = size(file, *v).saturating_sub(at);
            rest >= read.len() as u64 && bytes(file, *v, at, read.len()) == read
        });
        !self.versions.is_empty()
    }
}
