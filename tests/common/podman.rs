//! Real containers: podman with all that it keeps in a directory of the test's own.

use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::Duration;

use rustix::mount::{MountPropagationFlags, UnmountFlags};

use super::process::program;

/// How long podman's processes may take to end.
const PATIENCE: Duration = Duration::from_secs(20);

/// What containers of others are made from: busybox and nothing else.
pub const BUSYBOX: &str = "localhost/busybox:1.36";

/// The image of the built program.
pub const SVOL: &str = "localhost/svol:latest";

/// Podman's images, containers and volumes, and a directory for the test, below one that is a
/// shared mount, as `/` is where systemd runs. All of it, and what was mounted there, goes with
/// this, even on panic.
pub struct Podman {
    dir: tempfile::TempDir,
}

impl Podman {
    /// With the image of busybox.
    pub fn new() -> Podman {
        let dir = tempfile::Builder::new()
            .prefix("svol-podman")
            .tempdir_in("/tmp")
            .unwrap();
        std::fs::set_permissions(dir.path(), PermissionsExt::from_mode(0o755)).unwrap();
        let podman = Podman { dir };
        let at = podman.dir();
        rustix::mount::mount_bind(at, at).unwrap();
        // Of a group of its own, whatever the machine's is.
        for kind in [
            MountPropagationFlags::PRIVATE,
            MountPropagationFlags::SHARED,
        ] {
            rustix::mount::mount_change(at, kind).unwrap();
        }
        let settings = "[containers]\n\
            default_ulimits = [\"nofile=1024:1024\", \"nproc=1024:1024\"]\n\
            [network]\nnetwork_backend = \"netavark\"\n\
            [engine]\nruntime = \"runc\"\ncgroup_manager = \"cgroupfs\"\n\
            events_logger = \"file\"\nlock_type = \"file\"\n";
        std::fs::write(at.join("containers.conf"), settings).unwrap();
        let script = format!(
            "#!/bin/sh\nCONTAINERS_CONF={at}/containers.conf exec {podman} --root {at}/root \
             --runroot {at}/runroot --tmpdir {at}/tmp --network-config-dir {at}/net \"$@\"\n",
            at = at.display(),
            podman = program("podman").display(),
        );
        std::fs::write(at.join("script"), script).unwrap();
        install(&at.join("script"), &at.join("podman"));
        podman.import_busybox();
        podman
    }

    /// The directory of all of it.
    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// Makes a directory for the test; returns its path.
    pub fn make(&self, name: &str) -> PathBuf {
        let path = self.dir().join(name);
        std::fs::create_dir_all(&path).unwrap();
        path
    }

    pub fn run(&self, args: &[&str]) -> Output {
        Command::new(self.dir().join("podman"))
            .args(args)
            .stdin(Stdio::null())
            .output()
            .unwrap()
    }

    /// Runs podman, which has to succeed; returns what it printed, trimmed.
    pub fn ok(&self, args: &[&str]) -> String {
        let output = self.run(args);
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "podman {args:?}\n{said}");
        String::from_utf8_lossy(&output.stdout).trim().to_owned()
    }

    /// Reads a file in a container.
    pub fn cat(&self, container: &str, path: &str) -> Result<String, String> {
        let output = self.run(&["exec", container, "cat", path]);
        match output.status.success() {
            true => Ok(String::from_utf8_lossy(&output.stdout).into_owned()),
            false => Err(String::from_utf8_lossy(&output.stderr).into_owned()),
        }
    }

    /// Starts a container of busybox that does nothing, with the bind mount.
    pub fn idle(&self, name: &str, volume: &str) {
        let idle = "trap exit TERM; sleep 600 & wait";
        let args = ["run", "-d", "--network", "none", "--name", name];
        self.ok(&[&args[..], &["-v", volume, BUSYBOX, "sh", "-c", idle]].concat());
    }

    /// Builds the image of the built program as the project does.
    pub fn build_svol(&self) {
        let build = Command::new("docs/deploy/image/build.sh")
            .args([env!("CARGO_BIN_EXE_svol"), SVOL])
            .current_dir(env!("CARGO_MANIFEST_DIR"))
            .env("PODMAN", self.dir().join("podman"))
            .output()
            .unwrap();
        let said = String::from_utf8_lossy(&build.stderr);
        assert!(build.status.success(), "{said}");
    }

    /// Returns whether a process of podman's is about.
    fn is_busy(&self) -> bool {
        let ours = self.dir().as_os_str().as_encoded_bytes();
        let processes = std::fs::read_dir("/proc").into_iter().flatten().flatten();
        let mut lines = processes.filter_map(|p| std::fs::read(p.path().join("cmdline")).ok());
        lines.any(|line| line.windows(ours.len()).any(|part| part == ours))
    }

    fn import_busybox(&self) {
        let bin = self.make("busybox/bin");
        self.make("busybox/tmp");
        let busybox = bin.join("busybox");
        install(&program("busybox"), &busybox);
        let applets = Command::new(&busybox).arg("--list").output().unwrap();
        for applet in String::from_utf8(applets.stdout).unwrap().lines() {
            if applet != "busybox" {
                symlink("busybox", bin.join(applet)).unwrap();
            }
        }
        let archive = self.dir().join("busybox.tar");
        let tar = Command::new("tar")
            .arg("-C")
            .arg(self.dir().join("busybox"))
            .arg("-cf")
            .args([&archive, Path::new(".")])
            .status();
        assert!(tar.unwrap().success());
        let archive = archive.to_str().unwrap();
        self.ok(&["import", "-q", "-c", "ENV PATH=/bin", archive, BUSYBOX]);
    }
}

impl Drop for Podman {
    fn drop(&mut self) {
        let _ = self.run(&["pod", "rm", "-f", "-a", "-t", "1"]);
        let _ = self.run(&["rm", "-f", "-a", "-t", "1"]);
        // What looks after an ended container mounts its storage once more.
        let began = std::time::Instant::now();
        while self.is_busy() && began.elapsed() < PATIENCE {
            std::thread::sleep(Duration::from_millis(20));
        }
        for mount in svol::fuse::mount::mounts().unwrap().iter().rev() {
            if mount.mountpoint.starts_with(self.dir()) {
                let _ = rustix::mount::unmount(&mount.mountpoint, UnmountFlags::DETACH);
            }
        }
    }
}

/// Copies a program by another process: had this one the copy open for writing while another test
/// starts a process, which has it open too for a moment, it could not be run ("text file busy").
pub fn install(from: &Path, to: &Path) {
    let mut install = Command::new("install");
    install.args(["-m", "755"]).args([from, to]);
    assert!(install.status().unwrap().success());
}
