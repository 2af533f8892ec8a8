//! Real mounts for tests: started by the built program, gone when dropped, even on panic.

use std::ffi::OsStr;
use std::io::Read;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

/// How long a mount may take to appear and to go.
const PATIENCE: Duration = Duration::from_secs(30);

/// A place for mounts: a cache, a directory for records and sockets, a log, all temporary.
pub struct Place {
    pub dir: tempfile::TempDir,
}

impl Place {
    pub fn new() -> Place {
        Place {
            dir: tempfile::Builder::new()
                .prefix("svol-test")
                .tempdir()
                .unwrap(),
        }
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().canonicalize().unwrap().join(name)
    }

    pub fn cache(&self) -> PathBuf {
        self.path("cache")
    }

    /// A command of the built program on this place's cache and records.
    pub fn command<S: AsRef<OsStr>>(&self, args: impl IntoIterator<Item = S>) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_svol"));
        command
            .args(args)
            .env("SVOL_RUNTIME_DIR", self.path("run"))
            .env("SVOL_CACHE_DIR", self.cache())
            .env_remove("SVOL_LOG")
            // Nothing outside of this machine is asked for keys.
            .env("AWS_EC2_METADATA_DISABLED", "true")
            .stdin(Stdio::null());
        command
    }

    /// Runs a command of the built program.
    pub fn svol<S: AsRef<OsStr>>(&self, args: impl IntoIterator<Item = S>) -> Output {
        self.command(args).output().unwrap()
    }

    /// Runs a command that has to succeed; returns what it printed.
    pub fn ok<S: AsRef<OsStr>>(&self, args: impl IntoIterator<Item = S>) -> String {
        let output = self.svol(args);
        assert!(
            output.status.success(),
            "{}\n{}",
            output.status,
            String::from_utf8_lossy(&output.stderr)
        );
        String::from_utf8(output.stdout).unwrap()
    }

    /// Mounts in the foreground of a child process: `args` are what stands before the mount point.
    pub fn mount(&self, args: &[&str]) -> Mount {
        self.mount_with("mnt", args, |_| {})
    }

    /// The same at a mount point of another name, with a say on the command.
    pub fn mount_with(
        &self,
        name: &str,
        args: &[&str],
        adjust: impl FnOnce(&mut Command),
    ) -> Mount {
        let at = self.path(name);
        if !is_mounted(&at) {
            std::fs::create_dir_all(&at).unwrap();
        }
        let log = self.path(&format!("{name}.log"));
        let mut command = self.command(["mount", "--foreground", "-v"]);
        command.args(args).arg(&at).stdout(Stdio::null()).stderr(
            std::fs::File::options()
                .create(true)
                .append(true)
                .open(&log)
                .unwrap(),
        );
        adjust(&mut command);
        // SAFETY: one system call, safe between fork and exec. A test that dies takes the daemon
        // with it.
        unsafe {
            command.pre_exec(|| {
                rustix::process::set_parent_process_death_signal(Some(
                    rustix::process::Signal::KILL,
                ))?;
                Ok(())
            });
        }
        let started = Instant::now();
        let mut mount = Mount {
            child: command.spawn().unwrap(),
            at,
            log,
        };
        while !mount.serves() {
            assert!(
                started.elapsed() < PATIENCE,
                "no mount in time\n{}",
                mount.log()
            );
            if let Some(status) = mount.child.try_wait().unwrap() {
                panic!("svol mount ended with {status}\n{}", mount.log());
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        mount
    }

    /// What `svol status --json` says.
    pub fn status(&self) -> serde_json::Value {
        serde_json::from_str(&self.ok(["status", "--json"])).unwrap()
    }

    /// A counter of all layers of all mounts, summed.
    pub fn sum(&self, counter: &str) -> u64 {
        let status = self.status();
        let mounts = status["mounts"].as_array().unwrap();
        mounts
            .iter()
            .flat_map(|m| m["layers"].as_array().unwrap())
            .map(|l| {
                l[counter]
                    .as_u64()
                    .unwrap_or_else(|| panic!("no {counter} in {l}"))
            })
            .sum()
    }
}

/// A mount, served by a child process.
pub struct Mount {
    child: Child,
    at: PathBuf,
    log: PathBuf,
}

impl Mount {
    /// A path in the mount.
    pub fn path(&self, inside: &str) -> PathBuf {
        self.at.join(inside)
    }

    pub fn at(&self) -> &Path {
        &self.at
    }

    pub fn read(&self, inside: &str) -> Vec<u8> {
        std::fs::read(self.path(inside)).unwrap_or_else(|e| panic!("{inside}: {e}\n{}", self.log()))
    }

    /// The process that serves.
    pub fn pid(&self) -> u32 {
        worker_of(self.child.id()).unwrap_or(self.child.id())
    }

    /// The process that was started: the one above, or its holder.
    pub fn holder(&self) -> u32 {
        self.child.id()
    }

    /// What the daemon logged so far.
    pub fn log(&self) -> String {
        let mut text = String::new();
        if let Ok(mut file) = std::fs::File::open(&self.log) {
            let _ = file.read_to_string(&mut text);
        }
        text
    }

    /// Whether it is mounted and answers questions too.
    fn serves(&self) -> bool {
        let ours = format!("-{}.sock", self.child.id());
        let run = self.at.parent().map(|place| place.join("run"));
        let mut sockets = run
            .and_then(|run| run.read_dir().ok())
            .into_iter()
            .flatten();
        is_mounted(&self.at)
            && sockets.any(|s| s.is_ok_and(|s| s.file_name().to_string_lossy().ends_with(&ours)))
    }

    /// Kills the daemon as a crash would, with its holder, and waits for the end of both. The dead
    /// mount stays.
    pub fn kill(&mut self) {
        use rustix::process::{Signal, kill_process};
        // So that it starts no other.
        let _ = kill_process(pid(self.child.id()), Signal::STOP);
        let worker = worker_of(self.child.id());
        if let Some(worker) = worker {
            let _ = kill_process(pid(worker), Signal::KILL);
        }
        let _ = self.child.kill();
        let _ = self.child.wait();
        if let Some(worker) = worker {
            super::wait_until("the end of a worker", || !runs(worker));
        }
    }

    /// Returns whether the daemon ends by itself within `limit`.
    pub fn ends_within(&mut self, limit: Duration) -> bool {
        let started = Instant::now();
        while started.elapsed() < limit {
            if self.child.try_wait().unwrap().is_some() {
                return true;
            }
            std::thread::sleep(Duration::from_millis(1));
        }
        false
    }

    /// Sends a signal and waits for the end; returns how long it took.
    pub fn signal(
        &mut self,
        signal: rustix::process::Signal,
    ) -> (std::process::ExitStatus, Duration) {
        let started = Instant::now();
        let pid = rustix::process::Pid::from_raw(self.child.id() as i32).unwrap();
        rustix::process::kill_process(pid, signal).unwrap();
        (self.wait(), started.elapsed())
    }

    /// Waits for the daemon to end by itself.
    pub fn wait(&mut self) -> std::process::ExitStatus {
        let started = Instant::now();
        loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                return status;
            }
            assert!(
                started.elapsed() < PATIENCE,
                "the daemon does not end\n{}",
                self.log()
            );
            std::thread::sleep(Duration::from_millis(10));
        }
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let log = self.log();
            let lines: Vec<&str> = log.lines().collect();
            let last = lines[lines.len().saturating_sub(30)..].join("\n");
            eprintln!("--- the end of {}\n{last}", self.log.display());
        }
        // A dead or wedged mount must not outlive the test.
        while is_mounted(&self.at) {
            if rustix::mount::unmount(&self.at, rustix::mount::UnmountFlags::DETACH).is_err() {
                let _ = Command::new("fusermount3")
                    .arg("-uz")
                    .arg(&self.at)
                    .status();
            }
        }
        let worker = worker_of(self.child.id());
        let _ = self.child.kill();
        let _ = self.child.wait();
        // It would end by itself, but not at once; and it writes in directories that go next.
        if let Some(worker) = worker {
            let _ = rustix::process::kill_process(pid(worker), rustix::process::Signal::KILL);
            let started = Instant::now();
            while runs(worker) && started.elapsed() < PATIENCE {
                std::thread::sleep(Duration::from_millis(1));
            }
        }
    }
}

/// Whether a process runs, zombies apart; one whose first thread has ended may have others, which
/// keep its files open.
pub fn runs(pid: u32) -> bool {
    let is_dead = std::fs::read_to_string(format!("/proc/{pid}/stat"))
        .map_or(true, |s| s.rsplit_once(") ").unwrap().1.starts_with('Z'));
    let threads = std::fs::read_dir(format!("/proc/{pid}/task"));
    !is_dead || threads.is_ok_and(|threads| threads.count() > 1)
}

/// The worker of a holder, if it has one that lives.
pub fn worker_of(holder: u32) -> Option<u32> {
    let children = format!("/proc/{holder}/task/{holder}/children");
    let children = std::fs::read_to_string(children).ok()?;
    let mut children = children.split_whitespace().filter_map(|c| c.parse().ok());
    children.find(|child| {
        let name = std::fs::read_to_string(format!("/proc/{child}/comm"));
        runs(*child) && name.is_ok_and(|name| name.trim() == "svol-worker")
    })
}

fn pid(number: u32) -> rustix::process::Pid {
    rustix::process::Pid::from_raw(number as i32).unwrap()
}

/// Whether something is mounted at `path`; does not touch it.
pub fn is_mounted(path: &Path) -> bool {
    svol::fuse::mount::is_ours(path).unwrap()
}

/// The value of an extended attribute.
pub fn xattr(path: &Path, name: &str) -> std::io::Result<String> {
    let mut value = vec![0; 4096];
    let n = rustix::fs::lgetxattr(path, name, &mut value)?;
    value.truncate(n);
    Ok(String::from_utf8(value).unwrap())
}
