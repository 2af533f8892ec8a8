//! What a cache is opened with.

use std::path::PathBuf;

/// The memory tier's bound when nothing else is asked for, in bytes: enough for 64 blocks that
/// cannot be kept on disk to wait for their readers.
pub const DEFAULT_MEMORY: u64 = 64 << 20;

/// The settings of a cache. Processes that share a directory should agree on them; where they do
/// not, each keeps to its own.
#[derive(Debug, Clone)]
pub struct Config {
    /// The cache directory, made if absent, on a local disk, for this user alone.
    pub dir: PathBuf,
    /// The most to use on disk, in bytes. None: a tenth of the disk, but never more than half of
    /// what is free (counting what the cache uses already as free).
    pub limit: Option<u64>,
    /// The space to leave free on the disk, in bytes. None: 2 % of it or 1 GiB, whichever is
    /// more, but never more than a tenth of the disk.
    pub min_free: Option<u64>,
    /// The bound of the memory tier, in bytes. Bytes that cannot be kept on disk live here until
    /// their readers have come for them, so it should be twice what is in flight at once.
    pub memory: u64,
}

impl Config {
    /// Returns the default settings for a directory.
    pub fn new(dir: impl Into<PathBuf>) -> Self {
        Self {
            dir: dir.into(),
            limit: None,
            min_free: None,
            memory: DEFAULT_MEMORY,
        }
    }
}
