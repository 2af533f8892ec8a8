//! A user without privileges, for tests that root runs.

use std::ffi::OsStr;
use std::path::Path;
use std::process::{Command, Output, Stdio};

use super::mount::Place;

/// A user without privileges in a mount namespace where /dev/fuse is for all, as where udev runs.
pub struct Nobody {
    namespace: std::process::Child,
}

impl Nobody {
    pub fn start(place: &Place) -> Nobody {
        let script = "mount -t tmpfs none \"$1\" && mknod -m 666 \"$1/fuse\" c 10 229 && \
            mount --bind \"$1/fuse\" /dev/fuse && echo ready && exec sleep 300";
        let mut namespace = Command::new("unshare")
            .args(["-m", "--propagation", "private", "sh", "-c", script, "sh"])
            .arg(place.path("dev"))
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut said = String::new();
        let mut out = std::io::BufReader::new(namespace.stdout.take().unwrap());
        std::io::BufRead::read_line(&mut out, &mut said).unwrap();
        assert_eq!(said, "ready\n");
        Nobody { namespace }
    }

    /// A command of root's in the namespace.
    pub fn inside(&self, program: impl AsRef<OsStr>) -> Command {
        let mut command = Command::new("nsenter");
        command
            .arg(format!("--mount=/proc/{}/ns/mnt", self.namespace.id()))
            .arg("--")
            .arg(program);
        command
    }

    pub fn run(&self, program: &Path, args: &[&str]) -> Output {
        self.command(program, args).output().unwrap()
    }

    /// A command of the user's: `program` is in their directory, where cache and records go.
    pub fn command(&self, program: &Path, args: &[&str]) -> Command {
        let home = program.parent().unwrap();
        let mut command = self.inside("setpriv");
        command
            .args([
                "--reuid",
                "65534",
                "--regid",
                "65534",
                "--clear-groups",
                "--",
            ])
            .arg(program)
            .args(args)
            .env("SVOL_RUNTIME_DIR", home.join("run"))
            .env("SVOL_CACHE_DIR", home.join("cache"))
            .env("HOME", home);
        command
    }
}

impl Drop for Nobody {
    fn drop(&mut self) {
        // With the last process the namespace goes, and with it what is mounted there.
        let _ = self
            .inside("umount")
            .args(["-l", "-a", "-t", "fuse.svol"])
            .status();
        let _ = self.namespace.kill();
        let _ = self.namespace.wait();
    }
}
