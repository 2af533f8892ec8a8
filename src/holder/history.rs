//! What a holder knows of its workers, as status and figures tell it.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// Why a worker was followed by another.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Reason {
    /// It died.
    Crash,
    /// It did not answer, and was killed.
    Wedged,
    /// Another program took over.
    Upgrade,
    /// Another took over with the volume file as it was then.
    Reload,
}

impl Reason {
    /// All of them.
    pub const ALL: [Reason; 4] = [
        Reason::Crash,
        Reason::Wedged,
        Reason::Upgrade,
        Reason::Reload,
    ];

    /// Returns it as one word.
    pub fn name(self) -> &'static str {
        match self {
            Reason::Crash => "crash",
            Reason::Wedged => "wedged",
            Reason::Upgrade => "upgrade",
            Reason::Reload => "reload",
        }
    }
}

/// The workers of a mount.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct History {
    /// The holder's process.
    pub holder: u32,
    /// When the holder started, as RFC 3339.
    pub started: String,
    /// How often a worker was followed by another, by reason.
    pub restarts: BTreeMap<Reason, u64>,
    /// The last time.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last: Option<Change>,
    /// The last replacement that came to nothing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub refused: Option<Refusal>,
    /// Whether requests under way survive the death of a worker (Linux 6.9).
    pub resends: bool,
}

/// A change of workers.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Change {
    /// Why.
    pub reason: Reason,
    /// When the new one served, as RFC 3339.
    pub at: String,
    /// For how long nobody served, in seconds.
    pub stall_seconds: f64,
    /// What happened, for people.
    pub message: String,
}

/// A replacement that came to nothing.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Refusal {
    /// What was wanted.
    pub reason: Reason,
    /// When, as RFC 3339.
    pub at: String,
    /// Why not, for people.
    pub message: String,
}

/// Returns the time now, as RFC 3339.
pub(super) fn now() -> String {
    humantime::format_rfc3339_millis(std::time::SystemTime::now()).to_string()
}
