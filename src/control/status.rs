//! The status document: stable, versioned, for `svol status --json` and whoever reads it.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

/// The version of the document. Fields may be added without a new one.
pub const VERSION: u32 = 1;

/// All mounts of a user.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Status {
    /// [`VERSION`].
    pub version: u32,
    /// The mounts, sorted by mount point.
    pub mounts: Vec<Mount>,
    /// The cache of the first mount, or the default one.
    pub cache: Option<Cache>,
}

/// One mount.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Mount {
    /// Where it is.
    pub mountpoint: PathBuf,
    /// The volume's name.
    pub name: String,
    /// The process that serves it.
    pub pid: u32,
    /// Its control socket.
    pub socket: PathBuf,
    /// Its layers, in the order of the volume: later ones win.
    pub layers: Vec<Layer>,
    /// The cache it uses.
    pub cache: Option<Cache>,
    /// What it takes of memory.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub memory: Option<Memory>,
    /// What its daemon has given up.
    #[serde(default)]
    pub sandbox: crate::sandbox::Report,
    /// Inodes that the kernel knows.
    pub inodes: u64,
    /// Open files.
    pub open_files: u64,
    /// Whether the kernel reads complete cached files itself.
    #[serde(default)]
    pub passthrough: Passthrough,
}

/// Whether the kernel reads complete cached files itself.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Passthrough {
    /// Whether it does.
    pub on: bool,
    /// Why not, if it does not.
    pub reason: Option<String>,
    /// Opens that were passed through so far; their reads are counted nowhere.
    pub opens: u64,
}

/// What a mount's process takes of memory, in bytes.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Memory {
    /// The ceiling.
    pub limit_bytes: u64,
    /// Where the ceiling comes from, for people.
    pub from: String,
    /// What the process has in memory now.
    pub resident_bytes: u64,
    /// The most that it had.
    pub peak_bytes: u64,
    /// What the parts take that can grow, and may take.
    pub parts: Vec<Part>,
}

/// A part of the ceiling.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Part {
    /// What it is for: `buffers`, `tier`, `listings`, `merged`, `inodes` or `queue`.
    pub name: String,
    /// What it takes.
    pub used_bytes: u64,
    /// What it may take.
    pub limit_bytes: u64,
}

/// One layer of a mount.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Layer {
    /// Its name.
    pub name: String,
    /// Its source's URL, without credentials.
    pub source: String,
    /// Where it is grafted.
    pub path: String,
    /// Its state, in the manner of Kubernetes.
    pub conditions: Vec<Condition>,
    /// Bytes that came from the source.
    pub bytes_fetched: u64,
    /// Requests made to the source.
    pub requests: u64,
    /// Requests that failed.
    pub errors: u64,
    /// Reads answered from the cache.
    pub hits: u64,
    /// Reads that waited for the source.
    pub misses: u64,
    /// Bytes fetched ahead and then read.
    pub prefetch_used: u64,
    /// Bytes fetched ahead in vain.
    pub prefetch_wasted: u64,
    /// Times that a file was found not to be what its source promises. Its bytes are not served.
    #[serde(default)]
    pub quarantined: u64,
    /// Names that cannot be shown, in the directories listed so far.
    pub hidden: u64,
    /// When the layer last answered, as RFC 3339.
    pub last_refresh: Option<String>,
    /// What it last failed with.
    pub last_error: Option<String>,
}

/// A condition of a layer.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Condition {
    /// What it is about; "Ready" is always there.
    #[serde(rename = "type")]
    pub kind: String,
    /// "True", "False" or "Unknown".
    pub status: String,
    /// Why, as one word.
    pub reason: String,
    /// Why, for people.
    pub message: String,
    /// Since when, as RFC 3339.
    pub last_transition_time: String,
}

/// A cache.
///
/// The first group is true of the directory, the second of the process that was asked.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Cache {
    /// Its directory.
    pub dir: PathBuf,
    /// What it may take, in bytes.
    pub limit_bytes: u64,
    /// What it takes, in bytes.
    pub used_bytes: u64,
    /// Operations that its disk or index refused; no reader noticed but by the time it took.
    pub troubles: u64,
    /// The last of them, with its time.
    pub last_trouble: Option<String>,
    /// Bytes that were served without being kept: over the limit, or the disk refused them.
    pub unkept_bytes: u64,
    /// What was found damaged on disk, dropped and fetched again.
    pub healed: u64,
}

impl Cache {
    /// Returns what there is to say of a cache.
    pub fn of(cache: &svol_cache::Cache, dir: PathBuf) -> Cache {
        let stats = cache.stats();
        Cache {
            dir,
            limit_bytes: stats.limit,
            used_bytes: stats.used,
            troubles: stats.troubles,
            last_trouble: cache.last_trouble().map(|trouble| {
                let at = humantime::format_rfc3339_seconds(trouble.at);
                format!("{at}: {}", trouble.what)
            }),
            unkept_bytes: stats.unkept_bytes,
            healed: stats.healed,
        }
    }
}
