//! What the administrative commands report.

/// How far a [`Cache::verify`](crate::Cache::verify) has come.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct VerifyProgress {
    /// Bytes read and hashed so far.
    pub done_bytes: u64,
    /// Bytes that the index says there are.
    pub total_bytes: u64,
}

/// What a [`Cache::verify`](crate::Cache::verify) has found.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct VerifyReport {
    /// Bytes read and hashed.
    pub bytes: u64,
    /// Complete contents in files of their own that were checked.
    pub blobs: u64,
    /// Incomplete objects that were checked.
    pub partials: u64,
    /// Packed contents that were checked.
    pub packed: u64,
    /// Blobs that were bad, and were dropped.
    pub bad_blobs: u64,
    /// Grains of incomplete objects that were bad, and were marked absent.
    pub bad_grains: u64,
    /// Packed contents that were bad, and were dropped.
    pub bad_packed: u64,
}

impl VerifyReport {
    /// Returns whether everything was as it should be.
    pub fn is_clean(&self) -> bool {
        self.bad_blobs == 0 && self.bad_grains == 0 && self.bad_packed == 0
    }
}

/// What a [`Cache::gc`](crate::Cache::gc) has done.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct GcReport {
    /// What is used on disk now, in bytes.
    pub used: u64,
    /// Bytes freed by eviction and by removing what nothing refers to.
    pub freed_bytes: u64,
    /// Files evicted.
    pub evicted: u64,
    /// Files that the index did not know and that were removed.
    pub orphans: u64,
    /// Objects that the index did not know and knows again.
    pub adopted: u64,
    /// Entries of the index whose files were gone.
    pub stale: u64,
    /// Bytes in directories of other format versions or set aside as damaged: never deleted here.
    pub foreign_bytes: u64,
    /// Files and entries of the index that were looked at.
    pub looked_at: u64,
}
