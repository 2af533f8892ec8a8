//! The memory limit of the cgroups around this process, of both versions.
//!
//! A process sees its cgroups as paths (/proc/self/cgroup) in hierarchies that are mounted
//! somewhere (/proc/self/mountinfo), perhaps only from some cgroup down: in a container, the mount
//! shows the container's own cgroup as the root, while the path may be the host's or `/`. The
//! limit that counts is the smallest of the cgroup's own and its ancestors', as far as they are
//! visible.

use std::path::{Component, Path, PathBuf};

use crate::fuse::mount::parse_cgroup_mounts;

/// The tightest limit around this process.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Limit {
    /// Bytes.
    pub bytes: u64,
    /// Whose limit it is, as a directory of the hierarchy.
    pub cgroup: PathBuf,
}

/// A mounted hierarchy that can limit memory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Hierarchy {
    /// Which cgroup the mount shows at its root.
    pub(crate) root: PathBuf,
    /// Where it is mounted.
    pub(crate) mountpoint: PathBuf,
    /// Of version 2.
    pub(crate) unified: bool,
}

/// Returns the tightest memory limit around this process; nothing where there is none.
pub fn tightest() -> Option<Limit> {
    let cgroups = std::fs::read_to_string("/proc/self/cgroup").ok()?;
    let mounts = std::fs::read("/proc/self/mountinfo").ok()?;
    tightest_of(&cgroups, &parse_cgroup_mounts(&mounts), &|file| {
        std::fs::read_to_string(file).ok()
    })
}

/// As [`tightest`]; `read` returns what a file holds.
fn tightest_of(
    cgroups: &str,
    hierarchies: &[Hierarchy],
    read: &dyn Fn(&Path) -> Option<String>,
) -> Option<Limit> {
    hierarchies
        .iter()
        .filter_map(|hierarchy| {
            let own = own_cgroup(cgroups, hierarchy.unified)?;
            limit_in(hierarchy, Path::new(own), read)
        })
        .min_by_key(|limit| limit.bytes)
}

/// Returns the process's cgroup in the memory hierarchy of one version: a line is
/// `NUMBER:CONTROLLERS:PATH`, without controllers for version 2.
fn own_cgroup(cgroups: &str, unified: bool) -> Option<&str> {
    cgroups.lines().find_map(|line| {
        let mut fields = line.splitn(3, ':').skip(1);
        let (controllers, path) = (fields.next()?, fields.next()?);
        let ours = match unified {
            true => controllers.is_empty(),
            false => controllers.split(',').any(|name| name == "memory"),
        };
        ours.then_some(path)
    })
}

fn limit_in(
    hierarchy: &Hierarchy,
    own: &Path,
    read: &dyn Fn(&Path) -> Option<String>,
) -> Option<Limit> {
    let file = match hierarchy.unified {
        true => "memory.max",
        false => "memory.limit_in_bytes",
    };
    // What the mount does not show (a path of the host's, or one that leads up) cannot be found
    // below it: then its root is what is nearest.
    let below = own
        .strip_prefix(&hierarchy.root)
        .ok()
        .filter(|below| {
            below
                .components()
                .all(|c| matches!(c, Component::Normal(_)))
        })
        .filter(|below| read(&hierarchy.mountpoint.join(below).join(file)).is_some())
        .unwrap_or(Path::new(""));
    below
        .ancestors()
        .filter_map(|at| {
            let cgroup = match at.as_os_str().is_empty() {
                true => hierarchy.mountpoint.clone(),
                false => hierarchy.mountpoint.join(at),
            };
            let bytes = parse_limit(&read(&cgroup.join(file))?)?;
            Some(Limit { bytes, cgroup })
        })
        .min_by_key(|limit| limit.bytes)
}

/// Returns a limit in bytes; nothing for none, which is `max`, or a number of nearly 2^63 bytes.
fn parse_limit(text: &str) -> Option<u64> {
    const NONE: u64 = 1 << 60;
    text.trim().parse().ok().filter(|bytes| *bytes < NONE)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashMap;

    fn tightest_with(cgroups: &str, mounts: &str, files: &[(&str, &str)]) -> Option<(u64, String)> {
        let files: HashMap<PathBuf, String> = files
            .iter()
            .map(|(path, text)| ((*path).into(), (*text).into()))
            .collect();
        tightest_of(cgroups, &parse_cgroup_mounts(mounts.as_bytes()), &|file| {
            files.get(file).cloned()
        })
        .map(|limit| (limit.bytes, limit.cgroup.display().to_string()))
    }

    const V2: &str = "30 23 0:26 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw,nsdelegate\n";
    const V1: &str = "35 31 0:32 / /cg/memory rw - cgroup cgroup rw,memory\n\
                      32 31 0:29 / /cg/cpu rw - cgroup cgroup rw,cpu\n";

    #[test]
    fn version_2_takes_the_tightest_ancestor() {
        let files = [
            ("/sys/fs/cgroup/a/b/memory.max", "max\n"),
            ("/sys/fs/cgroup/a/memory.max", "134217728\n"),
        ];
        let found = tightest_with("0::/a/b\n", V2, &files);
        assert_eq!(found, Some((134_217_728, "/sys/fs/cgroup/a".into())));
        assert_eq!(tightest_with("0::/a/b\n", V2, &files[..1]), None);
    }

    #[test]
    fn version_1_knows_a_huge_number_for_no_limit() {
        let cgroups = "5:cpu:/x\n4:memory:/a/b\n0::/\n";
        let own = ("/cg/memory/a/b/memory.limit_in_bytes", "268435456\n");
        let none = "9223372036854771712\n";
        let above = ("/cg/memory/a/memory.limit_in_bytes", none);
        let root = ("/cg/memory/memory.limit_in_bytes", none);
        let found = tightest_with(cgroups, V1, &[own, above, root]);
        assert_eq!(found, Some((268_435_456, "/cg/memory/a/b".into())));
        let unlimited = ("/cg/memory/a/b/memory.limit_in_bytes", none);
        assert_eq!(tightest_with(cgroups, V1, &[unlimited, above, root]), None);
    }

    #[test]
    fn a_container_sees_its_own_cgroup_as_the_root() {
        // With a cgroup namespace, the path is `/`; without one, it is the host's, and the mount
        // begins at it.
        let limit = [("/sys/fs/cgroup/memory.max", "104857600")];
        let want = Some((104_857_600, "/sys/fs/cgroup".to_owned()));
        assert_eq!(tightest_with("0::/\n", V2, &limit), want);
        let bound = "30 23 0:26 /kubepods/pod1 /sys/fs/cgroup ro - cgroup2 cgroup rw\n";
        assert_eq!(tightest_with("0::/kubepods/pod1\n", bound, &limit), want);
        // A path that the mount does not show.
        assert_eq!(tightest_with("0::/../other\n", V2, &limit), want);
        assert_eq!(tightest_with("0::/kubepods/pod2\n", bound, &limit), want);
    }

    #[test]
    fn both_versions_at_once_and_none_at_all() {
        let mounts = format!("{V1}{V2}");
        let files = [
            ("/cg/memory/a/memory.limit_in_bytes", "300000000"),
            ("/sys/fs/cgroup/memory.max", "200000000"),
        ];
        let found = tightest_with("4:memory:/a\n0::/\n", &mounts, &files);
        assert_eq!(found.unwrap().0, 200_000_000);
        assert_eq!(tightest_with("4:memory:/a\n0::/\n", "", &files), None);
        assert_eq!(tightest_with("", &mounts, &files), None);
    }

    #[test]
    fn this_process_can_be_asked() {
        // Whatever it finds, it must be a limit that somebody could have set.
        assert!(tightest().is_none_or(|limit| limit.bytes >= 4096));
    }
}
