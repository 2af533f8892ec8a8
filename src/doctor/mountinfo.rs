//! The mounts of a namespace, and who sees what is mounted below them.

use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};

use super::Finding;
use crate::fuse::mount::unescape;

/// One line of /proc/self/mountinfo.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// Which directory of its file system the mount shows.
    pub root: PathBuf,
    /// Where it is mounted.
    pub mountpoint: PathBuf,
    /// Its file system type, such as `ext4` or `fuse.sshfs`.
    pub fs_type: String,
    /// The group of mounts that see what is mounted here, and the other way round.
    pub shared: Option<u64>,
    /// The group whose mounts come here, but not the other way round.
    pub master: Option<u64>,
}

/// Reads the text of mountinfo, in the order in which the mounts were made. A line that makes no
/// sense is passed over.
pub fn parse(text: &[u8]) -> Vec<Entry> {
    text.split(|b| *b == b'\n').filter_map(parse_line).collect()
}

fn parse_line(line: &[u8]) -> Option<Entry> {
    let mut fields = line.split(|b| *b == b' ').skip(3);
    let (root, mountpoint) = (fields.next()?, fields.next()?);
    let optional: Vec<&[u8]> = fields.by_ref().skip(1).take_while(|f| *f != b"-").collect();
    let group = |name: &str| {
        optional.iter().find_map(|field| {
            let number = std::str::from_utf8(field).ok()?.strip_prefix(name)?;
            number.strip_prefix(':')?.parse().ok()
        })
    };
    let path = |field| PathBuf::from(OsString::from_vec(unescape(field)));
    Some(Entry {
        root: path(root),
        mountpoint: path(mountpoint),
        fs_type: String::from_utf8_lossy(fields.next()?).into_owned(),
        shared: group("shared"),
        master: group("master"),
    })
}

/// Returns the mount that `path`, absolute and without symbolic links, is in: at the path itself or
/// above it; of several at one place, the one on top.
pub fn holding<'a>(entries: &'a [Entry], path: &Path) -> Option<&'a Entry> {
    let above = entries.iter().filter(|e| path.starts_with(&e.mountpoint));
    // The last of equals is on top.
    above.max_by_key(|e| e.mountpoint.as_os_str().len())
}

/// Returns whether this process is in a container: `marked` says that the root directory has a mark
/// of one. A whole disk at / is a machine, be it that its image was a container's once.
pub fn is_container(entries: &[Entry], marked: bool) -> bool {
    let root = holding(entries, Path::new("/"));
    let whole_disk =
        root.is_some_and(|e| e.root == Path::new("/") && !e.fs_type.contains("overlay"));
    marked && !whole_disk
}

/// Judges whether containers see what is mounted at `path`. `below` is the mount that it is, or is to
/// be, mounted on.
pub fn judge(path: &Path, below: &Entry, in_container: bool) -> Finding {
    let check = "mount/propagation";
    let (at, on) = (path.display(), below.mountpoint.display());
    let subject = at.to_string();
    if below.shared.is_some() {
        let saw = format!(
            "{on} is shared: a container that binds {at}, or what is above it, sees mounts made \
             later if it binds with rslave (podman, docker: `-v {at}:{at}:rslave`; Kubernetes: \
             mountPropagation: HostToContainer)"
        );
        return Finding::ok(check, saw).of(subject);
    }
    let takes = match below.master {
        Some(_) => "takes mounts from elsewhere and gives none",
        None => "is private",
    };
    if in_container {
        let saw = format!("{on} {takes}: what is mounted here is seen in this container only");
        let remedy = "for others to see it, bind the directory with rshared (podman, docker: \
                      `-v DIR:DIR:rshared`; Kubernetes: mountPropagation: Bidirectional, in a \
                      privileged container)";
        return Finding::warn(check, saw, remedy).of(subject);
    }
    let saw = format!(
        "{on} {takes}: a container that was started before {at} is mounted, or mounted again, does \
         not see it, not even with rslave"
    );
    let remedy = match (below.mountpoint == Path::new("/"), around(path).display()) {
        // To make all of / shared is for who runs the machine to choose: systemd does so.
        (true, around) => format!(
            "as root, before mounting: `mount --bind {around} {around} && mount --make-rshared \
             {around}` (for the whole machine: `mount --make-rshared /`); then bind {around} with \
             rslave"
        ),
        (false, around) => format!(
            "as root, before mounting: `mount --make-rshared {on}`; then bind {around} with rslave"
        ),
    };
    Finding::warn(check, saw, remedy).of(subject)
}

/// The directory around a mount point, which containers bind so that they see it mounted again too.
fn around(path: &Path) -> &Path {
    match path.parent() {
        Some(parent) if parent != Path::new("/") => parent,
        _ => path,
    }
}

#[cfg(test)]
mod tests {
    use super::super::Level;
    use super::*;

    const TEXT: &[u8] = b"27 1 254:0 / / rw,relatime shared:1 - ext4 /dev/vda rw\n\
        28 27 0:50 / /mnt/a\\040b rw master:4 propagate_from:2 - tmpfs tmpfs rw\n\
        29 27 0:51 / /mnt rw - overlay overlay rw\n\
        30 27 0:52 / /mnt ro shared:7 master:3 - fuse.svol svol:v ro\n\
        nonsense\n";

    #[test]
    fn optional_fields_are_read() {
        let entries = parse(TEXT);
        assert_eq!(entries.len(), 4);
        let groups: Vec<_> = entries.iter().map(|e| (e.shared, e.master)).collect();
        assert_eq!(groups[..2], [(Some(1), None), (None, Some(4))]);
        assert_eq!(groups[2..], [(None, None), (Some(7), Some(3))]);
        assert_eq!(entries[1].mountpoint, Path::new("/mnt/a b"));
        assert_eq!(entries[3].fs_type, "fuse.svol");
    }

    #[test]
    fn the_innermost_and_uppermost_mount_holds_a_path() {
        let entries = parse(TEXT);
        for (path, fs_type) in [
            ("/", "ext4"),
            ("/mntx", "ext4"),
            ("/mnt", "fuse.svol"),
            ("/mnt/x", "fuse.svol"),
            ("/mnt/a b/c", "tmpfs"),
        ] {
            let found = holding(&entries, Path::new(path)).unwrap();
            assert_eq!(found.fs_type, fs_type, "{path}");
        }
        assert_eq!(holding(&[], Path::new("/")), None);
    }

    #[test]
    fn a_machine_is_told_from_a_container() {
        let root = |line: &str| parse(line.as_bytes());
        let disk = root("27 1 254:0 / / rw - ext4 /dev/vda rw");
        let overlay = root("27 1 0:50 / / rw - overlay overlay rw");
        let bound = root("27 1 254:0 /var/lib/containers/x / rw - ext4 /dev/vda rw");
        assert!(!is_container(&disk, true));
        assert!(is_container(&overlay, true) && is_container(&bound, true));
        assert!(!is_container(&overlay, false));
    }

    #[test]
    fn propagation_is_explained_with_the_command() {
        let entry = |mountpoint: &str, shared, master| Entry {
            root: "/".into(),
            mountpoint: mountpoint.into(),
            fs_type: "ext4".into(),
            shared,
            master,
        };
        let bound = "`mount --bind /mnt /mnt && mount --make-rshared /mnt`";
        let made = "`mount --make-rshared /mnt`";
        let (ok, warn) = (Level::Ok, Level::Warn);
        for (below, in_container, level, remedy) in [
            (entry("/", Some(1), None), false, ok, ""),
            (entry("/", Some(1), Some(2)), true, ok, ""),
            (entry("/", None, None), false, warn, bound),
            (entry("/mnt", None, None), false, warn, made),
            (entry("/mnt", None, Some(3)), false, warn, made),
            (entry("/mnt", None, Some(3)), true, warn, "Bidirectional"),
            (entry("/mnt", None, None), true, warn, "Bidirectional"),
        ] {
            let found = judge(Path::new("/mnt/v"), &below, in_container);
            assert_eq!(found.level, level, "{below:?}");
            assert_eq!(found.subject.as_deref(), Some("/mnt/v"));
            let said = found.remedy.unwrap_or_default();
            assert!(said.contains(remedy), "{below:?}: {said}");
        }
        let shared = judge(Path::new("/mnt/v"), &entry("/", Some(1), None), false).saw;
        assert!(shared.contains("rslave") && shared.contains("HostToContainer"));
    }
}
