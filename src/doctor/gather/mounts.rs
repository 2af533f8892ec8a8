//! The mount point that is asked for, and the mounts that there are.

use std::io;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use rustix::io::Errno;

use super::super::mounts::{self, Answer, Daemon, Layer, Mount, Spot, SpotState};
use super::super::{Finding, mountinfo};
use super::Request;
use crate::cli::CacheSettings;
use crate::config::Source;
use crate::control::client::{self, PROMPT};
use crate::control::registry::{self, Record};
use crate::control::status;
use crate::fuse::mount::{FS_TYPE, check_apart};
use crate::fuse::probe::{Prober, within};

/// How long a mount may take to answer through the kernel.
const PROBE: Duration = Duration::from_secs(3);

/// How many mounts are looked at: more are a sign of something else.
const MOST: usize = 64;

pub(super) async fn look(request: &Request) -> Vec<Finding> {
    let entries = super::entries();
    let records = super::bounded("mounts", || registry::list().unwrap_or_default()).await;
    let records = match records {
        Ok(records) => records,
        Err(finding) => return vec![finding],
    };
    let named = match &request.mountpoint {
        None => None,
        Some(path) => match resolve(path).await {
            Ok(at) => Some(at),
            Err(finding) => return vec![*finding],
        },
    };
    let in_container = super::in_container();
    let propagation = |at: &Path| {
        // The mount that ours is, or will be, on.
        let is_below = |e: &&mountinfo::Entry| e.fs_type != FS_TYPE || e.mountpoint != at;
        let below: Vec<_> = entries.iter().filter(is_below).cloned().collect();
        let holding = mountinfo::holding(&below, at);
        holding.map(|entry| mountinfo::judge(at, entry, in_container))
    };
    let served = entries.iter().filter(|e| e.fs_type == FS_TYPE);
    let mut places: Vec<&Path> = served
        .map(|e| e.mountpoint.as_path())
        .chain(records.iter().map(|record| record.mountpoint.as_path()))
        .filter(|at| named.as_deref().is_none_or(|named| named == *at))
        .collect();
    places.sort();
    places.dedup();
    places.truncate(MOST);
    if let (Some(at), true) = (&named, places.is_empty()) {
        let mut findings = spot(request, at).await;
        findings.extend(propagation(at));
        return findings;
    }
    let all = places.iter().map(|at| {
        let record = records.iter().find(|record| record.mountpoint == *at);
        mount(at, record, named.is_some())
    });
    let mut findings = Vec::new();
    for mount in futures::future::join_all(all).await {
        findings.extend(mounts::judge(&mount));
        // Others' mounts are theirs to share.
        findings.extend(propagation(&mount.path).filter(|_| mount.is_own));
    }
    findings
}

/// Returns the cache of the mount at `path`, if it is one of this user's.
pub(super) async fn cache_of(path: &Path) -> Option<CacheSettings> {
    let path = path.to_owned();
    let record = super::bounded("mounts", move || registry::find(&path)).await;
    let record = record.ok()?.ok()??;
    let dir = ask(&record).await.ok()?.cache?.dir;
    Some(CacheSettings { dir, size: None })
}

/// Resolves a mount point without touching it: it may be dead.
async fn resolve(path: &Path) -> Result<PathBuf, Box<Finding>> {
    let asked = path.to_owned();
    let resolved = super::bounded("mount", move || -> io::Result<PathBuf> {
        let absolute = std::path::absolute(&asked)?;
        match (absolute.parent(), absolute.file_name()) {
            (Some(parent), Some(name)) => Ok(parent.canonicalize()?.join(name)),
            _ => Ok(absolute),
        }
    });
    let shown = path.display().to_string();
    match resolved.await {
        Ok(Ok(path)) => Ok(path),
        Ok(Err(error)) => {
            let remedy = format!("run `mkdir -p {shown}`, or name another directory");
            let found = Finding::fail("mount/point", error.to_string(), remedy);
            Err(Box::new(found.of(shown)))
        }
        Err(finding) => Err(Box::new(finding.of(shown))),
    }
}

async fn spot(request: &Request, at: &Path) -> Vec<Finding> {
    let nested = nested(request, at);
    let asked = at.to_owned();
    let looked = super::bounded("mount", move || state(&asked)).await;
    match looked {
        Ok(state) => mounts::judge_spot(&Spot {
            path: at.to_owned(),
            state,
            nested,
        }),
        Err(finding) => vec![finding.of(at.display().to_string())],
    }
}

fn state(at: &Path) -> SpotState {
    let metadata = match at.metadata() {
        Ok(metadata) => metadata,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return SpotState::Missing,
        Err(error) => return SpotState::Unknown(error.to_string()),
    };
    if !metadata.is_dir() {
        return SpotState::NotDir;
    }
    match at.read_dir().map(|mut entries| entries.next().is_none()) {
        Err(error) => return SpotState::Unknown(error.to_string()),
        Ok(false) => return SpotState::NotEmpty,
        Ok(true) => {}
    }
    let may_write = rustix::fs::access(at, rustix::fs::Access::WRITE_OK).is_ok();
    match may_write || rustix::process::geteuid().is_root() {
        true => SpotState::Fit,
        false => SpotState::NotOwn,
    }
}

/// Returns what is in the mount point or around it, and may not be.
fn nested(request: &Request, at: &Path) -> Option<String> {
    let mut others = vec![("the cache", request.cache.dir.as_path())];
    let layers = request
        .view
        .iter()
        .flat_map(|view| &view.volume.spec.layers);
    others.extend(layers.filter_map(|layer| match &layer.source {
        Source::Local(local) => Some(("the local source", local.path.as_path())),
        _ => None,
    }));
    let mut refused = others
        .into_iter()
        .filter_map(|(what, other)| check_apart(at, what, other).err());
    refused.next().map(|error| error.to_string())
}

async fn mount(at: &Path, record: Option<&Record>, is_named: bool) -> Mount {
    let daemon = async {
        match record {
            Some(record) => Some(daemon(record).await),
            None => None,
        }
    };
    let (answer, daemon) = tokio::join!(probe(at, record.is_some()), daemon);
    Mount {
        path: at.to_owned(),
        is_own: is_named || record.is_some(),
        daemon,
        answer,
    }
}

async fn daemon(record: &Record) -> Daemon {
    let said = ask(record).await.map(|mount| {
        let layers = mount.layers.into_iter().map(|layer| {
            let ready = layer.ready();
            Layer {
                ready: ready.map(|c| c.status.clone()).unwrap_or_default(),
                message: ready.map(|c| c.message.clone()).unwrap_or_default(),
                name: layer.name,
            }
        });
        layers.collect()
    });
    Daemon {
        pid: record.pid,
        said,
    }
}

async fn ask(record: &Record) -> Result<status::Mount, String> {
    let asked = client::ask(&record.socket, false, "/status", &[], PROMPT);
    asked.await.map_err(|error| error.to_string())
}

/// Asks the mount through the kernel, by a process of its own that may be lost to it.
async fn probe(at: &Path, has_daemon: bool) -> Answer {
    let at = at.to_owned();
    let asked = tokio::task::spawn_blocking(move || {
        let mut prober = Prober::new(&at);
        let answer = within(PROBE, |anew| prober.step(anew, PROBE, Stdio::null()));
        prober.give_up();
        answer
    });
    let said = |errno: Errno| io::Error::from_raw_os_error(errno.raw_os_error()).to_string();
    match asked.await {
        Ok(Ok(took)) => Answer::Serves(took),
        Ok(Err(why)) if why == said(Errno::NOTCONN) => Answer::Dead,
        Ok(Err(why)) if why == said(Errno::ACCESS) && !has_daemon => Answer::NotAllowed,
        Ok(Err(why)) if why.contains("no volume is mounted") => Answer::NotMounted,
        Ok(Err(why)) if why.contains("did not answer") => Answer::Silent(why),
        Ok(Err(why)) => Answer::Fails(why),
        Err(error) => Answer::Fails(error.to_string()),
    }
}
