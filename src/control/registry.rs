//! Which mounts this user has: a small file for each, next to its control socket.
//!
//! The directory is /run/svol for root, `$XDG_RUNTIME_DIR/svol` for others. A record whose process
//! is gone is dead and removed when it is seen.

use std::fs::{self, DirBuilder};
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

/// One mount of this user.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    /// Where it is mounted.
    pub mountpoint: PathBuf,
    /// The process that ends when the mount does: its holder, or the daemon where there is none.
    pub pid: u32,
    /// When that process started, in clock ticks since boot: tells it from a later one that got
    /// its number.
    pub started: u64,
    /// Its control socket.
    pub socket: PathBuf,
    /// The directory in which what belongs to the mount outlives its workers, with the holder's
    /// socket; nothing where there is no holder.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dir: Option<PathBuf>,
}

impl Record {
    /// Returns whether the process still runs.
    pub fn is_alive(&self) -> bool {
        start_time(self.pid) == Some(self.started)
    }

    /// Returns where the holder takes those who want to replace its worker.
    pub fn upgrade_socket(&self) -> Option<PathBuf> {
        Some(self.dir.as_ref()?.join("upgrade.sock"))
    }

    fn remove_files(&self) {
        let _ = fs::remove_file(&self.socket);
        if let Some(dir) = &self.dir {
            let _ = fs::remove_dir_all(dir);
        }
    }
}

/// A registered mount; dropping it removes its record and its socket.
#[derive(Debug)]
pub struct Registration {
    record: Record,
    file: PathBuf,
}

impl Registration {
    /// Registers the mount that this process serves at `mountpoint`.
    pub fn new(mountpoint: &Path) -> io::Result<Registration> {
        let registration = Registration::reserve(mountpoint)?;
        registration.publish()?;
        Ok(registration)
    }

    /// Says what will be registered, and removes what stands in its way.
    fn reserve(mountpoint: &Path) -> io::Result<Registration> {
        let dir = runtime_dir()?;
        let id = blake3::hash(mountpoint.as_os_str().as_encoded_bytes()).to_hex();
        let pid = std::process::id();
        let record = Record {
            mountpoint: mountpoint.to_owned(),
            pid,
            started: start_time(pid).unwrap_or(0),
            socket: dir.join(format!("{}-{pid}.sock", &id[..16])),
            dir: None,
        };
        let file = dir.join(format!("{}-{pid}.json", &id[..16]));
        let _ = fs::remove_file(&record.socket);
        Ok(Registration { record, file })
    }

    /// Prepares to register the mount that this process holds at `mountpoint`, with a directory of
    /// its own; [`publish`](Self::publish) registers it.
    pub fn of_holder(mountpoint: &Path) -> io::Result<Registration> {
        let mut registration = Registration::reserve(mountpoint)?;
        let dir = registration.file.with_extension("d");
        // A process of the same number left it, one that was killed.
        let _ = fs::remove_dir_all(&dir);
        DirBuilder::new().mode(0o700).create(&dir)?;
        registration.record.dir = Some(dir);
        Ok(registration)
    }

    /// Registers the mount.
    pub fn publish(&self) -> io::Result<()> {
        // Written aside and renamed: a reader never sees half of it.
        let aside = self.file.with_extension("new");
        fs::write(&aside, serde_json::to_vec(&self.record)?)?;
        fs::rename(&aside, &self.file)
    }

    /// Returns what was registered.
    pub fn record(&self) -> &Record {
        &self.record
    }
}

impl Drop for Registration {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.file);
        self.record.remove_files();
    }
}

/// Returns the mounts of this user whose processes live, sorted by mount point. Dead records are
/// removed.
pub fn list() -> io::Result<Vec<Record>> {
    let mut records = Vec::new();
    for item in fs::read_dir(runtime_dir()?)? {
        let path = item?.path();
        if path.extension().is_none_or(|e| e != "json") {
            continue;
        }
        let Ok(bytes) = fs::read(&path) else { continue };
        match serde_json::from_slice::<Record>(&bytes) {
            Ok(record) if record.is_alive() => records.push(record),
            Ok(record) => {
                record.remove_files();
                let _ = fs::remove_file(&path);
            }
            // Of another release: none of our business.
            Err(_) => {}
        }
    }
    records.sort_by(|a, b| a.mountpoint.cmp(&b.mountpoint));
    Ok(records)
}

/// Returns the mount that `path` is in: the innermost one. Does not touch the path itself.
pub fn find(path: &Path) -> io::Result<Option<Record>> {
    let path = std::path::absolute(path)?;
    let resolved = path
        .parent()
        .and_then(|p| p.canonicalize().ok())
        .zip(path.file_name())
        .map(|(parent, name)| parent.join(name));
    Ok(list()?
        .into_iter()
        .filter(|r| {
            path.starts_with(&r.mountpoint)
                || resolved
                    .as_ref()
                    .is_some_and(|p| p.starts_with(&r.mountpoint))
        })
        .max_by_key(|r| r.mountpoint.as_os_str().len()))
}

/// Returns the directory of records and sockets, made if need be, for this user alone.
pub fn runtime_dir() -> io::Result<PathBuf> {
    let uid = rustix::process::geteuid();
    let dir = match std::env::var_os("SVOL_RUNTIME_DIR") {
        Some(dir) => PathBuf::from(dir),
        None if uid.is_root() => PathBuf::from("/run/svol"),
        None => match std::env::var_os("XDG_RUNTIME_DIR") {
            Some(base) => Path::new(&base).join("svol"),
            None => std::env::temp_dir().join(format!("svol-{}", uid.as_raw())),
        },
    };
    DirBuilder::new().recursive(true).mode(0o700).create(&dir)?;
    let meta = fs::symlink_metadata(&dir)?;
    // In a shared /tmp somebody else may have made it first.
    if !meta.is_dir() || meta.uid() != uid.as_raw() {
        return Err(io::Error::other(format!(
            "{}: belongs to another user; set SVOL_RUNTIME_DIR to a directory of your own",
            dir.display()
        )));
    }
    if meta.mode() & 0o077 != 0 {
        fs::set_permissions(&dir, fs::Permissions::from_mode(0o700))?;
    }
    Ok(dir)
}

/// Returns when a process started, in clock ticks since boot; nothing if there is none (a zombie
/// counts as none).
fn start_time(pid: u32) -> Option<u64> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The command's name may hold anything, parentheses too: fields count from the last one.
    let mut fields = stat.rsplit_once(") ")?.1.split(' ');
    let state = fields.next()?;
    if state == "Z" || state == "X" {
        return None;
    }
    fields.nth(18)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_is_told_from_its_successor() {
        let pid = std::process::id();
        let started = start_time(pid).unwrap();
        assert!(started > 0);
        let record = |started| Record {
            mountpoint: "/m".into(),
            pid,
            started,
            socket: "/s".into(),
            dir: None,
        };
        assert!(record(started).is_alive());
        assert!(!record(started + 1).is_alive());
        assert_eq!(start_time(0), None);
    }
}
