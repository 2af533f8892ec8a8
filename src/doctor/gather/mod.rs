//! Looks up what the doctor judges. Every look has a deadline, and all are under way at once; nothing
//! that is made stays.

use std::path::{Path, PathBuf};
use std::time::Duration;

use super::{Finding, mountinfo};
use crate::cli::{CacheSettings, VolumeSettings};

mod disk;
mod host;
mod mounts;
mod secrets;
mod source;

/// How long a look at this machine may take: what is well answers in milliseconds.
const LOOK: Duration = Duration::from_secs(5);

/// What to look at.
#[derive(Debug, Clone)]
pub struct Request {
    /// The volume, where one is named.
    pub view: Option<VolumeSettings>,
    /// The cache.
    pub cache: CacheSettings,
    /// The most memory to take, where that was asked for.
    pub memory: Option<u64>,
    /// The mount point: one that is to be, or of a mount that is there. Without it, all mounts.
    pub mountpoint: Option<PathBuf>,
}

/// Looks at everything, and returns what was found.
pub async fn look(request: &Request) -> Vec<Finding> {
    let volume = request.view.as_ref().map(|view| &view.volume);
    let memory = request.memory;
    let wants_allow_other = volume.is_some_and(|volume| volume.spec.mount.allow_other);
    let host = bounded("host", move || host::look(memory, wants_allow_other));
    let named = async {
        match volume {
            Some(volume) => secrets::look(volume).await,
            None => Vec::new(),
        }
    };
    let sources = async {
        match volume {
            Some(volume) => source::look_all(volume, &request.cache.dir).await,
            None => Vec::new(),
        }
    };
    let cache = async {
        // A mount's own cache is the one that counts.
        let own = match (volume, &request.mountpoint) {
            (None, Some(at)) => mounts::cache_of(at).await,
            _ => None,
        };
        disk::look(own.unwrap_or_else(|| request.cache.clone())).await
    };
    let mounts = mounts::look(request);
    let (host, cache, named, sources, mounts) = tokio::join!(host, cache, named, sources, mounts);
    let mut findings = host.unwrap_or_else(|finding| vec![finding]);
    for more in [cache, named, sources, mounts] {
        findings.extend(more);
    }
    findings
}

/// Does `look`, which blocks, on a thread that may be lost to it; a finding that it did not end in
/// time otherwise.
async fn bounded<T: Send + 'static>(
    what: &str,
    look: impl FnOnce() -> T + Send + 'static,
) -> Result<T, Finding> {
    let done = tokio::time::timeout(LOOK, tokio::task::spawn_blocking(look)).await;
    let check = format!("{what}/look");
    match done {
        Ok(Ok(found)) => Ok(found),
        Ok(Err(_)) => Err(Finding::fail(
            &check,
            "the look at it went wrong",
            "run it again",
        )),
        Err(_) => Err(Finding::fail(
            &check,
            format!("no answer within {LOOK:?}"),
            "see what hangs (`dmesg`, `cat /proc/mounts`)",
        )),
    }
}

/// Returns the mounts that this process sees; none where that cannot be told.
fn entries() -> Vec<mountinfo::Entry> {
    let text = std::fs::read("/proc/self/mountinfo");
    mountinfo::parse(&text.unwrap_or_default())
}

/// Returns whether this process is in a container.
fn in_container() -> bool {
    let marks = [
        "/.dockerenv",
        "/run/.containerenv",
        "/run/systemd/container",
    ];
    let marked = marks.iter().any(|mark| Path::new(mark).exists())
        || variable("container").is_some()
        || variable("KUBERNETES_SERVICE_HOST").is_some();
    mountinfo::is_container(&entries(), marked)
}

/// Returns a variable that is set and not empty.
fn variable(name: &str) -> Option<String> {
    std::env::var(name).ok().filter(|value| !value.is_empty())
}
