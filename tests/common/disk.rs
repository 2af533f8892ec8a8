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

/// What a daemon's calls on its cache's files are made to fail with, by a library that is preloaded
/// into it. The file is mapped by both.
pub struct Faults {
    library: PathBuf,
    control: PathBuf,
    below: PathBuf,
}

/// Kinds of calls, in the order of the library's.
#[derive(Debug, Clone, Copy)]
pub enum Call {
    Read,
    Write,
    Sync,
    /// Opening, removing, renaming, making directories.
    Name,
}

impl Call {
    pub const ALL: [Call; 4] = [Call::Read, Call::Write, Call::Sync, Call::Name];
}

impl Faults {
    /// Builds the library; nothing fails yet. `below` must be on a file system of its own.
    pub fn new(dir: &Path, below: &Path) -> Faults {
        let (library, control) = (dir.join("faulty_disk.so"), dir.join("faults"));
        let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/common/faulty_disk.c");
        let options = ["-shared", "-fPIC", "-O1", "-Wall", "-Werror", "-o"].map(OsStr::new);
        let files = [library.as_os_str(), source.as_os_str()];
        run("cc", options.into_iter().chain(files));
        std::fs::write(&control, [0; 48]).unwrap();
        Faults {
            library,
            control,
            below: below.to_owned(),
        }
    }

    /// Has the daemon that `command` starts feel it.
    pub fn preload(&self, command: &mut Command) {
        command
            .env("LD_PRELOAD", &self.library)
            .env("FAULTY_CONTROL", &self.control)
            .env("FAULTY_BELOW", &self.below);
    }

    /// From now on one in so many calls of a kind fails (0: none).
    pub fn one_in(&self, call: Call, one_in: u32, error: rustix::io::Errno) {
        use std::os::unix::fs::FileExt;
        let file = std::fs::File::options()
            .write(true)
            .open(&self.control)
            .unwrap();
        let at = call as u64 * 4;
        let errno = error.raw_os_error() as u32;
        file.write_all_at(&errno.to_ne_bytes(), 16 + at).unwrap();
        file.write_all_at(&one_in.to_ne_bytes(), at).unwrap();
    }

    /// How many calls of a kind have failed so far.
    pub fn failed(&self, call: Call) -> u32 {
        let bytes = std::fs::read(&self.control).unwrap();
        let at = 32 + call as usize * 4;
        u32::from_ne_bytes(bytes[at..at + 4].try_into().unwrap())
    }
}
