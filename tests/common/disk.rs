//! Disks of a test's own: image files behind loop devices, and small file systems in memory.
//!
//! A test that needs them runs in a process of its own with a mount namespace of its own, so that
//! however it ends, its mounts go with it, and the loop devices with them.

use std::ffi::OsStr;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use rustix::mount::{MountFlags, MountPropagationFlags, UnmountFlags};

use super::process::program;

/// Tells the process that has the namespace from the one that started it.
const INSIDE: &str = "SVOL_TEST_NAMESPACE";

/// Returns whether this is the process with mounts of its own, in which the test `name` is to do
/// its work; if not, runs that process to its end, and passes or fails with it.
pub fn in_own_mounts(name: &str) -> bool {
    if std::env::var_os(INSIDE).is_some_and(|inside| inside == name) {
        return true;
    }
    if !rustix::process::geteuid().is_root() {
        eprintln!("NOT RUN: {name} mounts disks, which takes root");
        return false;
    }
    let mut command = Command::new(std::env::current_exe().unwrap());
    command
        .args(["--exact", name, "--nocapture"])
        .env(INSIDE, name);
    // SAFETY: system calls alone, between fork and exec.
    unsafe {
        command.pre_exec(|| {
            rustix::process::set_parent_process_death_signal(Some(rustix::process::Signal::KILL))?;
            rustix::thread::unshare_unsafe(rustix::thread::UnshareFlags::NEWNS)?;
            let private = MountPropagationFlags::PRIVATE | MountPropagationFlags::REC;
            rustix::mount::mount_change("/", private)?;
            Ok(())
        });
    }
    let status = command.status().unwrap();
    assert!(status.success(), "{name}: {status}");
    false
}

/// Runs a program that has to succeed; returns what it printed.
pub fn run<S: AsRef<OsStr>>(name: &str, args: impl IntoIterator<Item = S>) -> String {
    let output = Command::new(program(name)).args(args).output().unwrap();
    assert!(
        output.status.success(),
        "{name}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    String::from_utf8(output.stdout).unwrap()
}

/// Makes an image file of so many bytes, all holes, with a file system in it.
pub fn make_image(path: &Path, bytes: u64, mkfs: &[&str]) {
    let file = std::fs::File::create(path).unwrap();
    file.set_len(bytes).unwrap();
    drop(file);
    let args = mkfs[1..].iter().map(OsStr::new);
    run(mkfs[0], args.chain([path.as_os_str()]));
}

/// A mounted file system; unmounted, lazily, when dropped.
pub struct Disk {
    at: PathBuf,
}

impl Disk {
    /// Mounts an image file through a loop device, which goes with the mount.
    pub fn image(image: &Path, at: &Path, options: &str) -> Disk {
        std::fs::create_dir_all(at).unwrap();
        let options = format!("loop,{options}");
        let args = [OsStr::new("-o"), OsStr::new(&options)];
        run(
            "mount",
            args.into_iter().chain([image.as_os_str(), at.as_os_str()]),
        );
        Disk { at: at.to_owned() }
    }

    /// Mounts a file system in memory of so many bytes.
    pub fn memory(at: &Path, bytes: u64) -> Disk {
        std::fs::create_dir_all(at).unwrap();
        let options = std::ffi::CString::new(format!("size={bytes},mode=0700")).unwrap();
        rustix::mount::mount("tmpfs", at, "tmpfs", MountFlags::empty(), &*options).unwrap();
        Disk { at: at.to_owned() }
    }

    pub fn at(&self) -> &Path {
        &self.at
    }

    /// Makes the mount read-only, or writable again, whoever has files of it open.
    pub fn read_only(&self, so: bool) {
        let flags = if so {
            MountFlags::BIND | MountFlags::RDONLY
        } else {
            MountFlags::BIND
        };
        rustix::mount::mount_remount(&self.at, flags, "").unwrap();
    }

    /// Takes the mount away from its place; who has files of it open keeps them.
    pub fn detach(&self) {
        rustix::mount::unmount(&self.at, UnmountFlags::DETACH).unwrap();
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        // Gone already: as good.
        let _ = rustix::mount::unmount(&self.at, UnmountFlags::DETACH);
    }
}
