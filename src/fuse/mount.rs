//! Mounting and unmounting: what may be mounted where, dead mounts, and the kernel's settings.

use std::ffi::OsString;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};
use std::sync::mpsc;
use std::time::Duration;

use fuser::{BackgroundSession, Config, Session, SessionACL};
use rustix::mount::{MountFlags, UnmountFlags};
use tracing::{debug, info};

use super::device::{BadDevice, Origin};
use super::mounter::Mounter;
use super::{Fuse, handshake};
use crate::memory::Hierarchy;
use crate::sandbox::Errand;

/// The file system type that our mounts have in /proc/mounts.
pub const FS_TYPE: &str = "fuse.svol";

/// How long a mount point may take to say what it is: a dead mount says so at once, a wedged one
/// never does.
const LOOK: Duration = Duration::from_secs(2);

/// Read-ahead of the kernel in KiB: requests of 1 MiB, the most that one can carry.
const READ_AHEAD_KB: u32 = 1024;

/// Threads that read from /dev/fuse.
const THREADS: usize = 4;

/// A mount of the machine, from /proc/self/mountinfo.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MountInfo {
    /// Where it is.
    pub mountpoint: PathBuf,
    /// Its file system type.
    pub fs_type: String,
    /// Its device number, as `major:minor`.
    pub device: String,
}

/// Returns the mounts that this process sees, in the order they were made.
pub fn mounts() -> io::Result<Vec<MountInfo>> {
    Ok(parse_mountinfo(&std::fs::read("/proc/self/mountinfo")?))
}

/// Returns the hierarchies of cgroups that can limit memory, from the text of mountinfo.
pub(crate) fn parse_cgroup_mounts(text: &[u8]) -> Vec<Hierarchy> {
    text.split(|b| *b == b'\n')
        .filter_map(|line| {
            let mut fields = line.split(|b| *b == b' ').skip(3);
            let (root, mountpoint) = (fields.next()?, fields.next()?);
            let mut fields = fields.skip_while(|f| *f != b"-").skip(1);
            let (fs_type, _, options) = (fields.next()?, fields.next()?, fields.next()?);
            let memory = || options.split(|b| *b == b',').any(|o| o == b"memory");
            let unified = fs_type == b"cgroup2";
            (unified || (fs_type == b"cgroup" && memory())).then(|| Hierarchy {
                root: OsString::from_vec(unescape(root)).into(),
                mountpoint: OsString::from_vec(unescape(mountpoint)).into(),
                unified,
            })
        })
        .collect()
}

fn parse_mountinfo(text: &[u8]) -> Vec<MountInfo> {
    text.split(|b| *b == b'\n')
        .filter_map(|line| {
            let mut fields = line.split(|b| *b == b' ');
            let device = fields.nth(2)?;
            let mountpoint = fields.nth(1)?;
            let fs_type = fields.skip_while(|f| *f != b"-").nth(1)?;
            Some(MountInfo {
                mountpoint: OsString::from_vec(unescape(mountpoint)).into(),
                fs_type: String::from_utf8_lossy(fs_type).into_owned(),
                device: String::from_utf8_lossy(device).into_owned(),
            })
        })
        .collect()
}

/// Undoes the kernel's escapes: a backslash and three octal digits.
pub(crate) fn unescape(field: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(field.len());
    let mut at = 0;
    while at < field.len() {
        let octal = field
            .get(at + 1..at + 4)
            .filter(|d| field[at] == b'\\' && d.iter().all(|b| (b'0'..b'8').contains(b)));
        match octal {
            Some(digits) => {
                out.push(
                    digits
                        .iter()
                        .fold(0u8, |n, d| n.wrapping_mul(8).wrapping_add(d - b'0')),
                );
                at += 4;
            }
            None => {
                out.push(field[at]);
                at += 1;
            }
        }
    }
    out
}

/// Returns the running kernel's major and minor version.
pub fn kernel_version() -> Option<(u32, u32)> {
    let release = std::fs::read_to_string("/proc/sys/kernel/osrelease").ok()?;
    let mut numbers = release.split(|c: char| !c.is_ascii_digit());
    Some((numbers.next()?.parse().ok()?, numbers.next()?.parse().ok()?))
}

/// Why a mount point cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum BadMountpoint {
    /// It is not there or cannot be looked at.
    #[error("{}: {error}{}", path.display(), hint(error))]
    Look {
        /// The mount point.
        path: PathBuf,
        /// What the system said.
        error: io::Error,
    },
    /// It is not a directory.
    #[error("{}: not a directory; mount on an empty directory", .0.display())]
    NotDir(PathBuf),
    /// It holds files, which the mount would hide.
    #[error("{}: not empty; mount on an empty directory", .0.display())]
    NotEmpty(PathBuf),
    /// One of our mounts serves there.
    #[error(
        "{}: a volume is mounted there already; run `svol unmount {}` first",
        .0.display(), .0.display()
    )]
    Mounted(PathBuf),
    /// Something is mounted there and does not answer.
    #[error(
        "{}: what is mounted there does not answer; run `umount -l {}` first",
        .0.display(), .0.display()
    )]
    Wedged(PathBuf),
    /// What was inherited is no mount's device.
    #[error("--fuse-fd: {0}")]
    Device(#[from] BadDevice),
    /// The daemon would read through its own mount.
    #[error(
        "{} is inside {what} {} or the other way round; the mount would hide it or read itself",
        path.display(), other.display()
    )]
    Nested {
        /// The mount point.
        path: PathBuf,
        /// What the other directory is.
        what: &'static str,
        /// The other directory.
        other: PathBuf,
    },
}

fn hint(error: &io::Error) -> &'static str {
    match error.kind() {
        io::ErrorKind::NotFound => "; create it first (mkdir -p, or --mkdir)",
        _ => "",
    }
}

/// Makes a directory to mount on, and those that lead to it, unless it is there. Does not touch what
/// may be mounted there.
pub fn make(path: &Path) -> io::Result<()> {
    let make = || match std::fs::create_dir(path) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        other => other,
    };
    match (make(), path.parent()) {
        (Err(error), Some(parent)) if error.kind() == io::ErrorKind::NotFound => {
            std::fs::create_dir_all(parent)?;
            make()
        }
        (other, _) => other,
    }
}

/// Makes sure that `path` can be mounted on, and returns it absolute. A dead mount of ours there
/// is detached first. With `mkdir` it is made where it is not there.
pub fn prepare(path: &Path, mkdir: bool) -> Result<PathBuf, BadMountpoint> {
    let look = |error| BadMountpoint::Look {
        path: path.to_owned(),
        error,
    };
    if mkdir {
        make(path).map_err(look)?;
    }
    // Without touching the mount point itself, which may be dead: its parent only.
    let absolute = std::path::absolute(path).map_err(look)?;
    let resolved = match (absolute.parent(), absolute.file_name()) {
        (Some(parent), Some(name)) => parent.canonicalize().map_err(look)?.join(name),
        _ => absolute,
    };
    // Dead mounts can be stacked.
    for _ in 0..16 {
        let on_top = mounts()
            .map_err(look)?
            .into_iter()
            .rev()
            .find(|m| m.mountpoint == resolved);
        let Some(mount) = on_top.filter(|m| m.fs_type == FS_TYPE) else {
            break;
        };
        match answers(&mount.mountpoint) {
            Some(Ok(())) => return Err(BadMountpoint::Mounted(resolved)),
            Some(Err(_)) => {
                info!(mountpoint = %resolved.display(), "replacing a dead mount");
                unmount(&resolved, true).map_err(look)?;
            }
            None => return Err(BadMountpoint::Wedged(resolved)),
        }
    }
    let resolved = resolved.canonicalize().map_err(look)?;
    if !resolved.metadata().map_err(look)?.is_dir() {
        return Err(BadMountpoint::NotDir(resolved));
    }
    if resolved.read_dir().map_err(look)?.next().is_some() {
        return Err(BadMountpoint::NotEmpty(resolved));
    }
    Ok(resolved)
}

/// Returns the name of a mount that somebody else has mounted, absolute. It may not be seen from
/// here, and is not touched: until we serve it, whoever looks at it waits.
pub fn name_of_given(path: &Path, origin: &Origin) -> Result<PathBuf, BadMountpoint> {
    origin.check()?;
    let absolute = std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
    if Origin::in_place_of_a_directory(&absolute).is_some() {
        return Ok(absolute);
    }
    let (Some(parent), Some(name)) = (absolute.parent(), absolute.file_name()) else {
        return Ok(absolute);
    };
    Ok(match parent.canonicalize() {
        Ok(parent) => parent.join(name),
        Err(_) => absolute,
    })
}

/// Makes sure that none of `others` (each with what it is) is inside `mountpoint` or around it.
/// `mountpoint` is absolute and without symbolic links.
pub fn check_apart(
    mountpoint: &Path,
    what: &'static str,
    other: &Path,
) -> Result<(), BadMountpoint> {
    // By name first: what is mounted there already may not answer yet.
    let other = match other.starts_with(mountpoint) {
        true => other.to_owned(),
        false => resolve_existing(other),
    };
    if mountpoint.starts_with(&other) || other.starts_with(mountpoint) {
        return Err(BadMountpoint::Nested {
            path: mountpoint.to_owned(),
            what,
            other,
        });
    }
    Ok(())
}

/// Makes sure that `file` is not inside `mountpoint`, which is absolute and without symbolic links.
pub fn check_outside(
    mountpoint: &Path,
    what: &'static str,
    file: &Path,
) -> Result<(), BadMountpoint> {
    let other = match file.starts_with(mountpoint) {
        true => file.to_owned(),
        false => resolve_existing(file),
    };
    if other.starts_with(mountpoint) {
        return Err(BadMountpoint::Nested {
            path: mountpoint.to_owned(),
            what,
            other,
        });
    }
    Ok(())
}

/// Resolves the part of a path that exists.
fn resolve_existing(path: &Path) -> PathBuf {
    let absolute = std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
    let mut rest = Vec::new();
    let mut at = absolute.as_path();
    loop {
        if let Ok(resolved) = at.canonicalize() {
            return rest.iter().rev().fold(resolved, |p: PathBuf, n| p.join(n));
        }
        match (at.parent(), at.file_name()) {
            (Some(parent), Some(name)) => {
                rest.push(name.to_owned());
                at = parent;
            }
            _ => return absolute,
        }
    }
}

/// Asks a mount point how full it is, on a thread that may be lost to it: the one question that the
/// kernel never answers from memory for a daemon that is dead. Nothing if no answer comes in time.
pub fn answers(path: &Path) -> Option<io::Result<()>> {
    let (told, hear) = mpsc::sync_channel(1);
    let path = path.to_owned();
    std::thread::Builder::new()
        .name("svol-look".into())
        .spawn(move || {
            let _ = told.send(
                rustix::fs::statvfs(&path)
                    .map(drop)
                    .map_err(io::Error::from),
            );
        })
        .ok()?;
    hear.recv_timeout(LOOK).ok()
}

/// How to mount.
#[derive(Debug, Clone, serde::Serialize, serde::Deserialize)]
pub struct MountSettings {
    /// What `df` and /proc/mounts name as the mounted thing.
    pub name: String,
    /// Whether other users may enter.
    pub allow_other: bool,
    /// Whether programs on it may not be run.
    pub noexec: bool,
    /// Whether it is mounted here, or given by somebody who has.
    pub origin: Origin,
}

/// Mounts `filesystem` through `mounter` and starts serving it, on threads of its own; `errand` is
/// the agreement with the kernel, for which privileges count. After an error nothing is mounted.
///
/// Also returns a second descriptor of the device: for what fuser cannot say to the kernel.
pub fn mount(
    filesystem: Fuse,
    mounter: &Mounter,
    errand: Errand,
    settings: &MountSettings,
) -> io::Result<(BackgroundSession, Option<OwnedFd>)> {
    let config = config(settings);
    let acl = config.acl;
    let device = mounter.mount()?.device;
    let second = device.try_clone().ok();
    let session = errand
        .run(move || Session::from_fd(filesystem, device, acl, config))
        .and_then(Session::spawn);
    if session.is_err() {
        let _ = mounter.end();
    } else if let Err(error) = mounter.raise_read_ahead() {
        debug!(%error, "the kernel's read-ahead stays as it is");
    }
    Ok((session?, second))
}

/// Prepares `filesystem` for the mount that the holder behind `mounter` has or makes, waits until it
/// is this worker's turn, takes up by `inherit` what the one before left, and starts serving, as
/// [`mount`] does. What the holder mounted stays, also after an error.
pub fn take_over(
    filesystem: Fuse,
    mounter: &Mounter,
    settings: &MountSettings,
    inherit: impl FnOnce() -> io::Result<()>,
) -> io::Result<(BackgroundSession, Option<OwnedFd>)> {
    let config = config(settings);
    let opened = mounter.mount()?;
    let opening = opened.opening.ok_or(io::ErrorKind::InvalidData)?;
    let second = opened.device.try_clone().ok();
    let acl = config.acl;
    let (session, reply) = handshake::begin(filesystem, &opened.device, &opening, acl, config)?;
    mounter.prepared(reply)?;
    inherit()?;
    Ok((session.spawn()?, second))
}

fn config(settings: &MountSettings) -> Config {
    let mut config = Config::default();
    // Who may enter a mount that is given was said, to the kernel, when it was mounted.
    config.acl = if settings.allow_other || settings.origin.is_given() {
        SessionACL::All
    } else {
        SessionACL::Owner
    };
    config.n_threads = Some(THREADS);
    config
}

/// Mounts, and returns the open /dev/fuse of the mount.
pub(crate) fn mount_device(mountpoint: &Path, settings: &MountSettings) -> io::Result<OwnedFd> {
    match mount_as_root(mountpoint, settings)? {
        Some(device) => Ok(device),
        None => super::mounter::through_fusermount(mountpoint, &options(settings)),
    }
}

/// What fusermount3 is told.
fn options(settings: &MountSettings) -> String {
    let mut options = format!(
        "fsname={},subtype=svol,ro,nosuid,nodev,noatime,default_permissions",
        device_name(settings)
    );
    if settings.noexec {
        options.push_str(",noexec");
    }
    if settings.allow_other {
        options.push_str(",allow_other");
    }
    options
}

/// What is mounted, as /proc/mounts names it. fusermount3 splits its options at commas.
fn device_name(settings: &MountSettings) -> String {
    settings.name.replace([',', '\\', '\n', ' '], "_")
}

/// Mounts with the system call, which only root may; nothing if we may not.
///
/// fuser would do it too, but as the type "fuse", which no tool could tell from others' mounts.
fn mount_as_root(mountpoint: &Path, settings: &MountSettings) -> io::Result<Option<OwnedFd>> {
    use std::os::fd::AsRawFd;
    if !rustix::process::geteuid().is_root() {
        return Ok(None);
    }
    let device = std::fs::File::options()
        .read(true)
        .write(true)
        .open("/dev/fuse")?;
    let mut data = format!(
        "fd={},rootmode=40000,user_id=0,group_id=0,default_permissions",
        device.as_raw_fd()
    );
    if settings.allow_other {
        data.push_str(",allow_other");
    }
    let mut flags =
        MountFlags::RDONLY | MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOATIME;
    if settings.noexec {
        flags |= MountFlags::NOEXEC;
    }
    let data = std::ffi::CString::new(data)?;
    match rustix::mount::mount(
        device_name(settings),
        mountpoint,
        FS_TYPE,
        flags,
        Some(data.as_c_str()),
    ) {
        Ok(()) => Ok(Some(device.into())),
        // Root of a user namespace, say: fusermount3 may be able to.
        Err(rustix::io::Errno::PERM) => Ok(None),
        Err(errno) => Err(errno.into()),
    }
}

/// Raises the kernel's read-ahead for the mount, which only root may.
pub(crate) fn set_read_ahead(mountpoint: &Path) -> io::Result<()> {
    let all = mounts()?;
    let mount = all.iter().rev().find(|m| m.mountpoint == mountpoint);
    let device = &mount.ok_or(io::ErrorKind::NotFound)?.device;
    let file = format!("/sys/class/bdi/{device}/read_ahead_kb");
    std::fs::write(&file, READ_AHEAD_KB.to_string())
}

/// Unmounts. `lazy` detaches it at once, even while it is in use or dead.
///
/// Without the privilege, fusermount3 does it.
pub fn unmount(mountpoint: &Path, lazy: bool) -> io::Result<()> {
    let flags = if lazy {
        UnmountFlags::DETACH
    } else {
        UnmountFlags::empty()
    };
    match rustix::mount::unmount(mountpoint, flags) {
        Ok(()) => Ok(()),
        Err(rustix::io::Errno::PERM) => fusermount(mountpoint, lazy),
        Err(errno) => Err(errno.into()),
    }
}

fn fusermount(mountpoint: &Path, lazy: bool) -> io::Result<()> {
    let flags = if lazy { "-uz" } else { "-u" };
    let output = std::process::Command::new("fusermount3")
        .arg(flags)
        .arg("--")
        .arg(mountpoint)
        .output()
        .map_err(|e| io::Error::new(e.kind(), format!("fusermount3: {e}; install fuse3")))?;
    if output.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&output.stderr);
    if said.contains("busy") {
        return Err(rustix::io::Errno::BUSY.into());
    }
    Err(io::Error::other(said.trim().to_owned()))
}

/// Unmounts for good, as at the end of the daemon: politely, then lazily.
pub(crate) fn end(mountpoint: &Path) -> io::Result<()> {
    match unmount(mountpoint, false).or_else(|_| unmount(mountpoint, true)) {
        // Somebody else was faster.
        Err(error) if error.raw_os_error() == Some(rustix::io::Errno::INVAL.raw_os_error()) => {
            Ok(())
        }
        other => other,
    }
}

/// Returns the device number, as `major:minor`, of the uppermost of our mounts at `mountpoint`.
pub(crate) fn device_at(mountpoint: &Path) -> io::Result<Option<String>> {
    let all = mounts()?.into_iter().rev();
    let mut here = all.filter(|m| m.mountpoint == mountpoint && m.fs_type == FS_TYPE);
    Ok(here.next().map(|m| m.device))
}

/// Returns whether one of our mounts is at `mountpoint`.
pub fn is_ours(mountpoint: &Path) -> io::Result<bool> {
    Ok(mounts()?.iter().any(|m| {
        m.mountpoint.as_os_str().as_bytes() == mountpoint.as_os_str().as_bytes()
            && m.fs_type == FS_TYPE
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mountinfo_is_taken_apart() {
        let text = b"36 35 98:0 /mnt1 /mnt\\0402 rw,noatime master:1 - fuse.svol svol:x rw\n\
            nonsense\n37 35 0:5 / /proc rw - proc proc rw\n";
        let mounts = parse_mountinfo(text);
        assert_eq!(mounts.len(), 2);
        assert_eq!(mounts[0].mountpoint, Path::new("/mnt 2"));
        assert_eq!(mounts[0].fs_type, FS_TYPE);
        assert_eq!(mounts[0].device, "98:0");
        assert_eq!(mounts[1].fs_type, "proc");
    }

    #[test]
    fn nested_directories_are_refused() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().canonicalize().unwrap();
        let mountpoint = root.join("mnt");
        assert!(check_apart(&mountpoint, "the cache", &root.join("mnt/cache")).is_err());
        assert!(check_apart(&mountpoint, "the cache", &root).is_err());
        assert!(check_apart(&mountpoint, "the cache", &root.join("mnt2")).is_ok());
        std::fs::create_dir(&mountpoint).unwrap();
        std::os::unix::fs::symlink(&mountpoint, root.join("link")).unwrap();
        assert!(check_apart(&mountpoint, "the cache", &root.join("link/x")).is_err());
    }

    #[test]
    fn mountpoints_are_checked() {
        let dir = tempfile::tempdir().unwrap();
        assert!(prepare(dir.path(), false).is_ok());
        let message = |p: &Path| prepare(p, false).unwrap_err().to_string();
        assert!(message(&dir.path().join("no")).contains("create it first"));
        let made = tempfile::tempdir().unwrap();
        let made = made.path().join("a/b");
        assert!(prepare(&made, true).is_ok() && prepare(&made, true).is_ok());
        std::fs::write(dir.path().join("file"), "").unwrap();
        assert!(message(dir.path()).contains("not empty"));
        assert!(message(&dir.path().join("file")).contains("not a directory"));
    }

    #[test]
    fn the_kernel_has_a_version() {
        assert!(kernel_version().unwrap() >= (3, 0));
    }
}
