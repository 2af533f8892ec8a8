//! A mounted file system and the processes that serve it. Gone when dropped.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use serde::{Deserialize, Serialize};

/// How long a mount may take to appear, and a daemon to end.
const PATIENCE: Duration = Duration::from_secs(30);

/// A mounted file system and the processes that serve it.
pub struct Daemon {
    child: Child,
    /// When it was started.
    pub started: Instant,
    /// Where it is mounted.
    pub at: PathBuf,
    log: PathBuf,
}

/// What a daemon, with all its children, used since it started or since [`Daemon::mark`].
#[derive(Debug, Clone, Copy, Default, Serialize, Deserialize)]
pub struct Usage {
    /// Processor time of all its processes' threads, in user and in kernel mode.
    #[serde(with = "crate::rows::seconds")]
    pub cpu: Duration,
    /// The most memory that they held, in bytes: the sum of each one's most.
    pub peak: u64,
}

impl Daemon {
    /// Starts the program that mounts at `at`, and does not wait.
    pub fn spawn(mut command: Command, at: PathBuf) -> Daemon {
        // A dead mount is not looked at.
        if !is_mounted(&at) {
            fs::create_dir_all(&at).unwrap();
        }
        let name = command.get_program().to_string_lossy().into_owned();
        let log = at.with_extension("log");
        let to = || {
            Stdio::from(
                fs::File::options()
                    .append(true)
                    .create(true)
                    .open(&log)
                    .unwrap(),
            )
        };
        command.stdin(Stdio::null()).stdout(to()).stderr(to());
        let started = Instant::now();
        let child = command.spawn();
        let child = child.unwrap_or_else(|e| panic!("{name}: {e}: run tests/setup.sh bench"));
        Daemon {
            child,
            started,
            at,
            log,
        }
    }

    /// Waits until it is mounted.
    pub fn wait(mut self) -> Daemon {
        while !is_mounted(&self.at) {
            self.check();
            std::thread::sleep(Duration::from_millis(2));
        }
        self
    }

    /// Panics if the mount failed, or did not appear in time.
    pub fn check(&mut self) {
        let said = || fs::read_to_string(&self.log).unwrap_or_default();
        if let Some(status) = self.child.try_wait().unwrap() {
            panic!("{}: ended with {status}\n{}", self.at.display(), said());
        }
        let late = self.started.elapsed() > PATIENCE;
        assert!(!late, "{}: no mount in time\n{}", self.at.display(), said());
    }

    /// Returns what was used so far.
    pub fn usage(&self) -> Usage {
        let mut usage = Usage::default();
        for pid in family(self.child.id()) {
            let of = |file: &str| fs::read_to_string(format!("/proc/{pid}/{file}"));
            usage.cpu += of("stat").map_or(Duration::ZERO, |stat| cpu(&stat));
            let status = of("status").unwrap_or_default();
            usage.peak += memory(&status, "VmHWM:");
        }
        usage
    }

    /// Returns the memory that it and its children hold now, in bytes.
    pub fn held(&self) -> u64 {
        let of = |pid: &u32| {
            let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
            memory(&status, "VmRSS:")
        };
        family(self.child.id()).iter().map(of).sum()
    }

    /// Returns the memory that they hold now, in bytes, with what processes share counted once.
    pub fn proportional(&self) -> u64 {
        let of = |pid: &u32| {
            let file = format!("/proc/{pid}/smaps_rollup");
            memory(&fs::read_to_string(file).unwrap_or_default(), "Pss:")
        };
        family(self.child.id()).iter().map(of).sum()
    }

    /// Kills the process that serves. Returns itself where another one takes its place; else all of it
    /// is gone but the dead mount, whose place is returned.
    pub fn kill_server(mut self) -> Result<Daemon, PathBuf> {
        let serving = serving(&self.at).unwrap_or_else(|| self.child.id());
        let _ = kill_process(Pid::from_raw(serving as i32).unwrap(), Signal::KILL);
        if serving != self.child.id() {
            return Ok(self);
        }
        let _ = self.child.wait();
        let at = self.at.clone();
        // Nothing is unmounted: that is what is measured.
        std::mem::forget(self);
        Err(at)
    }

    /// Returns what was used so far, after setting the peak to what is held now: to be handed to
    /// [`Daemon::since`].
    pub fn mark(&self) -> Usage {
        for pid in family(self.child.id()) {
            let _ = fs::write(format!("/proc/{pid}/clear_refs"), "5");
        }
        self.usage()
    }

    /// Returns what was used since a mark.
    pub fn since(&self, mark: Usage) -> Usage {
        let now = self.usage();
        Usage {
            cpu: now.cpu.saturating_sub(mark.cpu),
            peak: now.peak,
        }
    }
}

/// Returns the process that serves our mount at a place, by its record.
fn serving(at: &Path) -> Option<u32> {
    let records = fs::read_dir(at.with_extension("run")).ok()?.flatten();
    records
        .filter_map(|record| fs::read(record.path()).ok())
        .find_map(|text| {
            let record: serde_json::Value = serde_json::from_slice(&text).ok()?;
            let is_its = record["mountpoint"].as_str() == at.to_str();
            let pid = record["pid"].as_u64().filter(|_| is_its)?;
            u32::try_from(pid).ok()
        })
}

/// Returns what a line of /proc/PID/status tells, in bytes.
fn memory(status: &str, name: &str) -> u64 {
    let line = status.lines().find_map(|l| l.strip_prefix(name));
    let kib = line.and_then(|l| l.trim().strip_suffix(" kB")?.parse::<u64>().ok());
    kib.unwrap_or(0) << 10
}

/// Returns a process and all that descend from it.
fn family(first: u32) -> Vec<u32> {
    let mut of_parent = Vec::new();
    for entry in fs::read_dir("/proc").into_iter().flatten().flatten() {
        let Some(pid) = entry
            .file_name()
            .to_str()
            .and_then(|n| n.parse::<u32>().ok())
        else {
            continue;
        };
        let stat = fs::read_to_string(entry.path().join("stat")).unwrap_or_default();
        let after = stat.rsplit(") ").next().unwrap_or_default();
        if let Some(parent) = after.split(' ').nth(1).and_then(|n| n.parse::<u32>().ok()) {
            of_parent.push((parent, pid));
        }
    }
    let mut all = vec![first];
    let mut at = 0;
    while at < all.len() {
        let children = of_parent.iter().filter(|(parent, _)| *parent == all[at]);
        let children: Vec<u32> = children.map(|(_, pid)| *pid).collect();
        all.extend(children);
        at += 1;
    }
    all
}

/// Returns the processor time in a line of /proc/PID/stat, with that of children that ended.
fn cpu(stat: &str) -> Duration {
    // After the name in brackets: the state is field 3, the times are 14 to 17.
    let fields = stat.rsplit(") ").next().unwrap_or_default();
    let ticks = fields.split(' ').skip(11).take(4);
    let ticks: u64 = ticks.filter_map(|t| t.parse::<u64>().ok()).sum();
    // The kernel shows hundredths of seconds whatever its own clock is.
    Duration::from_millis(ticks * 10)
}

impl Drop for Daemon {
    fn drop(&mut self) {
        let family = family(self.child.id());
        // All of them unmount at SIGTERM; a supervisor passes it on.
        let _ = kill_process(Pid::from_child(&self.child), Signal::TERM);
        let started = Instant::now();
        while !matches!(self.child.try_wait(), Ok(Some(_)) | Err(_)) {
            let waited = started.elapsed();
            if waited > PATIENCE {
                break;
            }
            // Some are deaf to the signal, or miss it while they start.
            if waited > Duration::from_secs(2) {
                detach(&self.at);
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        for pid in family {
            if self.child.try_wait().is_ok_and(|status| status.is_none()) {
                let pid = Pid::from_raw(pid as i32).unwrap();
                let _ = kill_process(pid, Signal::KILL);
            }
        }
        let _ = self.child.wait();
        while is_mounted(&self.at) {
            detach(&self.at);
        }
        let _ = fs::remove_dir(&self.at);
    }
}

/// Detaches what is mounted at a place, dead or not.
pub fn detach(at: &Path) {
    let detach = rustix::mount::UnmountFlags::DETACH;
    if is_mounted(at) && rustix::mount::unmount(at, detach).is_err() {
        let mut command = Command::new("fusermount3");
        let _ = command.arg("-uz").arg(at).status();
        std::thread::sleep(Duration::from_millis(100));
    }
}

fn is_mounted(path: &Path) -> bool {
    let mounts = fs::read_to_string("/proc/self/mounts").unwrap_or_default();
    let path = path.to_str().unwrap();
    mounts
        .lines()
        .any(|line| line.split(' ').nth(1) == Some(path))
}
