//! A copy of this machine's files in which a test is root: what is installed, mounted and written
//! there is seen nowhere else, and gone with it.

use std::ffi::OsStr;
use std::io::{BufRead, BufReader};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};

/// Made of the machine's files and a layer of memory above them: /tmp, /run, /mnt and /dev are its
/// own and empty but for a few devices. No process of it outlives it, nor does a mount.
pub struct Machine {
    child: Child,
    /// The first process in it, by its number outside.
    first: u32,
    _dir: tempfile::TempDir,
}

/// Namespaces of its own for mounts and processes; the new root; nothing of the old one is left. The
/// first process ignores the end of others, so that the kernel clears away who loses its parent.
const BEGIN: &str = r#"set -e
mount -t tmpfs none "$1"
cd "$1"
mkdir upper work root
mount -t overlay none -o lowerdir=/,upperdir=upper,workdir=work root
cd root
for own in tmp run mnt dev; do mount -t tmpfs -o mode=755 none $own; done
chmod 1777 tmp
mkdir dev/old
for device in null:3 zero:5 full:7 random:8 urandom:9; do
    mknod -m 666 dev/${device%:*} c 1 ${device#*:}
done
mknod -m 666 dev/fuse c 10 229
mount -t proc proc proc
pivot_root . dev/old
exec chroot . sh -ec 'umount -l /dev/old; trap "" CHLD; echo ready; exec sleep 600' <dev/null
"#;

impl Machine {
    pub fn start() -> Machine {
        let dir = tempfile::Builder::new().prefix("svol-host").tempdir();
        let dir = dir.unwrap();
        let mut command = Command::new("unshare");
        command
            .args(["-m", "-p", "-f", "--kill-child", "--propagation", "private"])
            .args(["sh", "-c", BEGIN, "sh"])
            .arg(dir.path())
            .stdin(Stdio::null())
            .stdout(Stdio::piped());
        // SAFETY: one system call, safe between fork and exec.
        unsafe {
            command.pre_exec(|| {
                let signal = rustix::process::Signal::KILL;
                Ok(rustix::process::set_parent_process_death_signal(Some(
                    signal,
                ))?)
            });
        }
        let mut child = command.spawn().unwrap();
        let mut said = String::new();
        let mut out = BufReader::new(child.stdout.take().unwrap());
        out.read_line(&mut said).unwrap();
        assert_eq!(said, "ready\n");
        let id = child.id();
        let children = std::fs::read_to_string(format!("/proc/{id}/task/{id}/children"));
        let first = children.unwrap().trim().parse().unwrap();
        Machine {
            child,
            first,
            _dir: dir,
        }
    }

    /// A command in it, with an environment of its own.
    pub fn command(&self, program: impl AsRef<OsStr>) -> Command {
        let mut command = Command::new("nsenter");
        command
            .args(["-m", "-p", "-t", &self.first.to_string(), "--"])
            .args(["env", "-i", "HOME=/root", "AWS_EC2_METADATA_DISABLED=true"])
            .arg("PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin")
            .arg(program)
            .stdin(Stdio::null());
        command
    }

    /// Runs a shell's script in it.
    pub fn shell(&self, script: &str) -> Output {
        let mut shell = self.command("sh");
        shell.args(["-euc", script]).output().unwrap()
    }

    /// Runs a script that has to succeed; returns all that it said.
    pub fn ok(&self, script: &str) -> String {
        let output = self.shell(script);
        let said = said(&output);
        assert!(output.status.success(), "{script}\n{said}");
        said
    }

    /// Copies a file into it.
    pub fn copy(&self, from: &Path, to: &str) {
        let root = format!("/proc/{}/root", self.first);
        std::fs::copy(from, format!("{root}{to}")).unwrap();
    }
}

/// All that a command said.
pub fn said(output: &Output) -> String {
    let all = [&output.stdout[..], &output.stderr[..]].concat();
    String::from_utf8_lossy(&all).into_owned()
}

impl Drop for Machine {
    fn drop(&mut self) {
        // With its first process all others end, and with the last its mounts.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
