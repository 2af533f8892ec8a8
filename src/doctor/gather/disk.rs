//! The cache's directory and its disk.

use std::io::ErrorKind;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use super::super::cache::{self, CacheDisk, Owner, Room, Trial};
use super::super::{Finding, mountinfo};
use crate::app;
use crate::cli::CacheSettings;

/// What mountinfo calls file systems of other machines. They, and those that a process serves, are
/// judged by name: to ask one that does not answer is to wait for it.
const ELSEWHERE: [&str; 14] = [
    "nfs", "nfs4", "cifs", "smb3", "smbfs", "9p", "ceph", "afs", "coda", "lustre", "gpfs", "gfs2",
    "ocfs2", "vboxsf",
];

pub(super) async fn look(settings: CacheSettings) -> Vec<Finding> {
    let (dir, entries) = (settings.dir.clone(), super::entries());
    let fs_type = fs_type(&entries, &dir);
    let by_name =
        fs_type == "fuse" || fs_type.starts_with("fuse.") || ELSEWHERE.contains(&fs_type.as_str());
    let untouched = CacheDisk {
        dir,
        network: by_name.then(|| fs_type.clone()),
        fs_type,
        owner: None,
        room: None,
        refused: None,
        trial: None,
    };
    if by_name {
        return cache::judge(&untouched);
    }
    let hangs = CacheDisk {
        trial: Some(Trial::Hangs),
        ..untouched
    };
    let looked = super::bounded("cache", move || touch(&settings, &entries)).await;
    cache::judge(&looked.unwrap_or(hangs))
}

fn fs_type(entries: &[mountinfo::Entry], dir: &Path) -> String {
    let holding = mountinfo::holding(entries, dir);
    holding.map_or_else(|| "an unknown file system".into(), |e| e.fs_type.clone())
}

fn touch(settings: &CacheSettings, entries: &[mountinfo::Entry]) -> CacheDisk {
    let dir = &settings.dir;
    // What of it exists: the rest is made by the first mount.
    let there = dir.ancestors().find_map(|d| d.canonicalize().ok());
    let there = there.unwrap_or_else(|| PathBuf::from("/"));
    let magic = rustix::fs::statfs(&there).map_or(0, |s| s.f_type as u32);
    let network = svol_cache::network_file_system(magic).map(str::to_owned);
    let owner = owner(dir);
    let may_use = network.is_none() && owner.is_none_or(|owner| owner.uid == owner.us);
    let is_made = dir.join("CACHEDIR.TAG").exists() && dir.join("v1/format").exists();
    let opened = (may_use && is_made).then(|| app::open_cache_only(settings));
    let (used, refused) = match &opened {
        Some(Ok(cache)) => (cache.stats().used, None),
        Some(Err(error)) => (0, Some(crate::control::causes(error))),
        None => (0, None),
    };
    CacheDisk {
        dir: dir.clone(),
        fs_type: fs_type(entries, &there),
        network,
        owner,
        room: room(settings, &there, used),
        refused,
        trial: may_use.then(|| trial(&there)),
    }
}

fn owner(dir: &Path) -> Option<Owner> {
    let metadata = dir.metadata().ok()?;
    let is_empty = || {
        dir.read_dir()
            .is_ok_and(|mut entries| entries.next().is_none())
    };
    Some(Owner {
        uid: metadata.uid(),
        us: rustix::process::geteuid().as_raw(),
        mode: metadata.mode(),
        is_cache: dir.join("CACHEDIR.TAG").exists() || is_empty(),
    })
}

fn room(settings: &CacheSettings, there: &Path, used: u64) -> Option<Room> {
    let stat = rustix::fs::statvfs(there).ok()?;
    let total = stat.f_blocks.saturating_mul(stat.f_frsize);
    let free = stat.f_bavail.saturating_mul(stat.f_frsize);
    let asked = settings.size.map(|size| size.bytes_of(total));
    Some(Room {
        free,
        floor: svol_cache::default_floor(total),
        limit: asked.unwrap_or_else(|| svol_cache::default_limit(total, free, used)),
        used,
    })
}

fn trial(there: &Path) -> Trial {
    match svol_cache::try_out(there) {
        Ok(written) => {
            let off = match SystemTime::now().duration_since(written) {
                Ok(behind) => behind,
                Err(ahead) => ahead.duration(),
            };
            Trial::Works {
                clock_off: off.as_secs(),
            }
        }
        Err(error) => Trial::Fails {
            what: error.what.into(),
            why: error.source.to_string(),
            is_read_only: error.source.kind() == ErrorKind::ReadOnlyFilesystem,
        },
    }
}
