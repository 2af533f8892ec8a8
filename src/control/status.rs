//! The status document: stable, versioned, for `svol status --json` and whoever reads it.

use std::collections::BTreeMap;
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
    /// What its holder knows of this process and those before; nothing where there is none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub takeover: Option<crate::holder::History>,
    /// Its control socket.
    pub socket: PathBuf,
    /// The same, by the name that the documentation uses.
    #[serde(default)]
    pub control_socket: PathBuf,
    /// The TCP address at which it answers too, if it was asked to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub listen: Option<String>,
    /// How long it has been served, in seconds.
    #[serde(default)]
    pub uptime_seconds: f64,
    /// The generation of the volume that is served: 1 for the one that was mounted.
    #[serde(default)]
    pub generation: u64,
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
    /// Paths that failed and have not worked since, of the last few hundred.
    #[serde(default)]
    pub failing_paths: u64,
    /// The latest of them.
    #[serde(default)]
    pub path_errors: Vec<PathError>,
    /// Whether the kernel reads complete cached files itself.
    #[serde(default)]
    pub passthrough: Passthrough,
    /// Whether the volume file is what is served (`VolumeAccepted`), where there is one.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub conditions: Vec<Condition>,
    /// How often the volume file was taken up.
    #[serde(default)]
    pub reloads: Reloads,
    /// Who is told of changes, and how that went.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub on_change: Vec<Hook>,
}

/// How often the volume file was another one since the mount.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Reloads {
    /// And was taken up.
    pub applied: u64,
    /// And was not.
    pub rejected: u64,
    /// What became another with what is served, for people.
    #[serde(default)]
    pub changes: Vec<String>,
    /// When what is served was taken up, as RFC 3339.
    pub taken_up: String,
    /// The same in seconds since 1970.
    pub taken_up_seconds: f64,
}

/// A command or a web server that is told of changes.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Hook {
    /// `command` or `webhook`.
    #[serde(rename = "type")]
    pub kind: String,
    /// The program, or the server without the URL's path.
    pub target: String,
    /// How often it was told.
    pub runs: u64,
    /// How often that failed.
    pub failures: u64,
    /// When it last succeeded, as RFC 3339.
    pub last_success: Option<String>,
    /// When and why it last failed.
    pub last_error: Option<String>,
}

/// A path's last failure.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PathError {
    /// Where in the volume, with a leading slash.
    pub path: String,
    /// What failed: `lookup`, `list`, `open` or `read`.
    pub operation: String,
    /// The layer, where one is to blame.
    pub layer: Option<String>,
    /// Why, as one word.
    pub reason: String,
    /// Why, for people.
    pub message: String,
    /// When it failed first since it last worked, as RFC 3339.
    pub since: String,
    /// When it failed last, as RFC 3339.
    pub last: String,
    /// How often it failed since then.
    pub times: u64,
    /// What happens next, for people.
    pub next: String,
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
    /// Whether the mount is ready only if this layer is.
    #[serde(default)]
    pub required: bool,
    /// Whether its files are read in place, on this machine.
    #[serde(default)]
    pub in_place: bool,
    /// Its state, in the manner of Kubernetes.
    pub conditions: Vec<Condition>,
    /// Bytes that came from the source.
    pub bytes_fetched: u64,
    /// Requests made to the source.
    pub requests: u64,
    /// Operations that failed in the end.
    pub errors: u64,
    /// The same by reason.
    #[serde(default)]
    pub errors_by_reason: BTreeMap<String, u64>,
    /// Requests that were sent again.
    #[serde(default)]
    pub retries: u64,
    /// Whether nothing is asked of the source for now, as it did not answer lately.
    #[serde(default)]
    pub breaker_open: bool,
    /// Operations and bodies under way.
    #[serde(default)]
    pub in_flight: u64,
    /// How long the source takes to answer.
    #[serde(default)]
    pub answers: Answers,
    /// Directories listed by the source.
    #[serde(default)]
    pub listings: u64,
    /// Listings that failed.
    #[serde(default)]
    pub listing_failures: u64,
    /// Listings served although they were older than they should be.
    #[serde(default)]
    pub stale_served: u64,
    /// Reads answered from the cache.
    pub hits: u64,
    /// Bytes that readers got so.
    #[serde(default)]
    pub hit_bytes: u64,
    /// Reads that waited for the source.
    pub misses: u64,
    /// Bytes that readers got so.
    #[serde(default)]
    pub miss_bytes: u64,
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

impl Layer {
    /// Returns the condition `Ready`.
    pub fn ready(&self) -> Option<&Condition> {
        self.conditions.iter().find(|c| c.kind == "Ready")
    }

    /// Returns whether the source answered the last request.
    pub fn is_ready(&self) -> bool {
        self.ready().is_some_and(|c| c.status == "True")
    }
}

/// How long a source takes to answer; for a read, up to its first byte.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Answers {
    /// Answers by the time that they took, the fastest first.
    pub buckets: Vec<Bucket>,
    /// The sum of all times.
    pub sum_seconds: f64,
}

/// Answers that took about as long.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Bucket {
    /// At most so long, and longer than those of the bucket before; nothing for all that took longer.
    pub within_millis: Option<u64>,
    /// How many.
    pub count: u64,
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
    /// The volume's generation that this is about.
    #[serde(default)]
    pub observed_generation: u64,
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
    /// Bytes that were evicted.
    #[serde(default)]
    pub evicted_bytes: u64,
    /// Bytes read from the cache, wherever in it they were.
    #[serde(default)]
    pub read_bytes: u64,
    /// Of these, bytes that were in memory.
    #[serde(default)]
    pub memory_read_bytes: u64,
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
            evicted_bytes: stats.evicted_bytes,
            read_bytes: stats.read_bytes,
            memory_read_bytes: stats.memory_read_bytes,
        }
    }
}
