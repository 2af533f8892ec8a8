//! The kernel, the right to mount, the limits.

use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::Path;

use rustix::thread::CapabilitySet;

use super::super::Finding;
use super::super::fuse::{self, Device, Fuse, Helper};
use super::super::kernel::{self, Kernel};
use super::super::limits::{self, Limits};
use crate::control::registry;
use crate::fuse::mount::kernel_version;
use crate::memory::Ceiling;

/// The FUSE device's numbers.
const FUSE: (u32, u32) = (10, 229);

pub(super) fn look(memory: Option<u64>, wants_allow_other: bool) -> Vec<Finding> {
    let device = device();
    let in_namespace = in_user_namespace();
    let privileged = rustix::thread::capabilities(None)
        .is_ok_and(|sets| sets.effective.contains(CapabilitySet::SYS_ADMIN));
    let kernel = Kernel {
        release: read("/proc/sys/kernel/osrelease"),
        version: kernel_version(),
        has_fuse: any_line("/proc/filesystems", |line| {
            line.split_whitespace().next_back() == Some("fuse")
        }),
        opens_fuse: device == Device::Usable,
        may_pass_through: privileged && !in_namespace,
        landlock: landlock_version(),
        has_seccomp: any_line("/proc/self/status", |line| line.starts_with("Seccomp:")),
    };
    let fuse = Fuse {
        device,
        in_container: super::in_container(),
        may_mount: privileged && rustix::process::geteuid().is_root(),
        helper: helper(),
        no_new_privs: any_line("/proc/self/status", |line| {
            line.split_whitespace().eq(["NoNewPrivs:", "1"])
        }),
        user_allow_other: any_line("/etc/fuse.conf", |line| line.trim() == "user_allow_other"),
        wants_allow_other,
        in_namespace,
        has_namespaces: has_namespaces(),
    };
    let files = rustix::process::getrlimit(rustix::process::Resource::Nofile);
    let limits = Limits {
        open_files: files.current,
        open_files_most: files.maximum,
        memory: Ceiling::of_process(memory)
            .map(|ceiling| (ceiling.bytes, ceiling.origin.to_string()))
            .map_err(|error| error.to_string()),
        runtime: registry::runtime_dir().map_err(|error| error.to_string()),
    };
    let mut findings = kernel::judge(&kernel);
    findings.extend(fuse::judge(&fuse));
    findings.extend(limits::judge(&limits));
    findings
}

fn read(path: &str) -> String {
    let text = std::fs::read_to_string(path).unwrap_or_default();
    text.trim_end().to_owned()
}

fn any_line(path: &str, is_it: impl Fn(&str) -> bool) -> bool {
    read(path).lines().any(is_it)
}

fn device() -> Device {
    let path = Path::new("/dev/fuse");
    let Ok(metadata) = path.metadata() else {
        return Device::Missing;
    };
    let number = metadata.rdev();
    let numbers = (rustix::fs::major(number), rustix::fs::minor(number));
    if !metadata.file_type().is_char_device() || numbers != FUSE {
        return Device::Other;
    }
    let opened = std::fs::File::options().read(true).write(true).open(path);
    match opened {
        Ok(_) => Device::Usable,
        Err(error) => Device::Refused {
            errno: error.raw_os_error().unwrap_or_default(),
            mode: metadata.mode(),
        },
    }
}

fn helper() -> Option<Helper> {
    let path = std::env::var_os("PATH")?;
    let found = std::env::split_paths(&path).map(|dir| dir.join("fusermount3"));
    let (path, metadata) = found
        .filter_map(|file| Some((file.clone(), file.metadata().ok()?)))
        .find(|(_, metadata)| metadata.is_file() && metadata.mode() & 0o111 != 0)?;
    let is_setuid_root = metadata.mode() & 0o4000 != 0 && metadata.uid() == 0;
    Some(Helper {
        path,
        is_setuid_root,
    })
}

fn in_user_namespace() -> bool {
    // The first namespace maps all users to themselves.
    let map = read("/proc/self/uid_map");
    let fields: Vec<&str> = map.split_whitespace().collect();
    !map.is_empty() && fields != ["0", "0", "4294967295"]
}

fn has_namespaces() -> bool {
    let says = |path: &str, no: &str| read(path) == no;
    !(says("/proc/sys/user/max_user_namespaces", "0")
        || says("/proc/sys/kernel/unprivileged_userns_clone", "0")
        || says(
            "/proc/sys/kernel/apparmor_restrict_unprivileged_userns",
            "1",
        ))
}

fn landlock_version() -> Option<u32> {
    /// Asks for the version and makes nothing.
    const VERSION: libc::c_ulong = 1;
    let nothing = std::ptr::null::<libc::c_void>();
    // SAFETY: with this flag the call takes no memory of ours and only returns a number.
    let version =
        unsafe { libc::syscall(libc::SYS_landlock_create_ruleset, nothing, 0usize, VERSION) };
    u32::try_from(version).ok().filter(|version| *version > 0)
}
