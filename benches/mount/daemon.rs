//! Mounts under measurement: ours and rclone's, with what their processes use. Gone when dropped.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use crate::world::{BUCKET, World};

/// How long a mount may take to appear.
const PATIENCE: Duration = Duration::from_secs(30);

/// The program under measurement.
pub const SVOL: &str = env!("CARGO_BIN_EXE_svol");

/// Returns rclone: the one that tests/setup.sh installs, else the machine's.
pub fn rclone() -> PathBuf {
    let own = Path::new(env!("CARGO_MANIFEST_DIR")).join("target/test-env/bin/rclone");
    if own.exists() { own } else { "rclone".into() }
}

/// A mounted file system and the process that serves it.
pub struct Daemon {
    child: Child,
    /// Where it is mounted.
    pub at: PathBuf,
    runtime: PathBuf,
}

/// What a daemon did and used since it started or since [`Daemon::mark`].
#[derive(Debug, Clone, Copy, Default)]
pub struct Usage {
    /// Processor time of all its threads.
    pub cpu: Duration,
    /// The most memory that it held, in bytes.
    pub peak: u64,
    /// Bytes that it fetched and requests that it made; none where it does not say.
    pub wire: Option<(u64, u64)>,
}

impl Daemon {
    /// Mounts the bucket with ours, on the cache at `cache`.
    pub fn svol(world: &World, cache: &Path) -> Daemon {
        Daemon::of_program(world, cache, SVOL.as_ref())
    }

    /// The same with another build of ours.
    pub fn other_svol(world: &World, cache: &Path) -> Daemon {
        let other = world.other.as_deref();
        Daemon::of_program(world, cache, other.unwrap_or(SVOL.as_ref()))
    }

    fn of_program(world: &World, cache: &Path, program: &Path) -> Daemon {
        let at = world.fresh("mount");
        let runtime = world.fresh("run");
        let mut command = Command::new(program);
        command
            .args(["mount", "--foreground", "--no-sign-request"])
            .arg(format!("s3://{BUCKET}"))
            .arg(&at)
            .env("AWS_ENDPOINT_URL", &world.endpoint)
            .env("AWS_REGION", "us-east-1")
            .env("SVOL_CACHE_DIR", cache)
            .env("SVOL_RUNTIME_DIR", &runtime);
        Daemon::start(command, at, runtime)
    }

    /// Mounts the bucket with rclone, as its manual advises for reading: files are kept on disk,
    /// and nothing is asked twice.
    pub fn rclone(world: &World, cache: &Path) -> Daemon {
        let at = world.fresh("mount");
        let mut command = Command::new(rclone());
        command
            .arg("mount")
            .arg(format!(":s3:{BUCKET}"))
            .arg(&at)
            .args(["--config", "/dev/null", "--s3-provider", "Other"])
            .arg("--s3-endpoint")
            .arg(&world.endpoint)
            .args(["--read-only", "--vfs-cache-mode", "full"])
            .args(["--vfs-fast-fingerprint", "--use-server-modtime"])
            .args(["--dir-cache-time", "1h", "--attr-timeout", "1h"])
            .arg("--cache-dir")
            .arg(cache);
        Daemon::start(command, at, PathBuf::new())
    }

    fn start(mut command: Command, at: PathBuf, runtime: PathBuf) -> Daemon {
        fs::create_dir(&at).unwrap();
        let name = command.get_program().to_string_lossy().into_owned();
        // Of the user's own AWS settings none is to count, and rclone fails on some.
        for (variable, _) in std::env::vars_os() {
            let name = variable.to_string_lossy();
            let ours = name == "AWS_ENDPOINT_URL" || name == "AWS_REGION";
            if name.starts_with("AWS_") && !ours {
                command.env_remove(&variable);
            }
        }
        let log = at.with_extension("log");
        command.stderr(fs::File::create(&log).unwrap());
        let child = command.stdin(Stdio::null()).stdout(Stdio::null()).spawn();
        let child = child.unwrap_or_else(|e| panic!("{name}: {e}: run tests/setup.sh bench"));
        let mut daemon = Daemon { child, at, runtime };
        let started = Instant::now();
        while !is_mounted(&daemon.at) {
            if let Some(status) = daemon.child.try_wait().unwrap() {
                let said = fs::read_to_string(&log).unwrap_or_default();
                panic!("{name} mount ended with {status}\n{said}");
            }
            assert!(started.elapsed() < PATIENCE, "{name}: no mount in time");
            std::thread::sleep(Duration::from_millis(5));
        }
        // It can be asked a moment after it serves.
        while daemon.tells() && daemon.wire().is_none() && started.elapsed() < PATIENCE {
            std::thread::sleep(Duration::from_millis(5));
        }
        daemon
    }

    /// Returns whether it can be asked what it fetched.
    fn tells(&self) -> bool {
        !self.runtime.as_os_str().is_empty()
    }

    /// Returns what was used so far.
    pub fn usage(&self) -> Usage {
        let of = |file: &str| {
            fs::read_to_string(format!("/proc/{}/{file}", self.child.id())).unwrap_or_default()
        };
        // After the name in brackets: the state is field 3, user and system time are 14 and 15.
        let stat = of("stat");
        let fields = stat.rsplit(") ").next().unwrap_or_default();
        let ticks = fields.split(' ').skip(11).take(2);
        let ticks: u64 = ticks.filter_map(|t| t.parse::<u64>().ok()).sum();
        let status = of("status");
        let peak = status.lines().find_map(|l| l.strip_prefix("VmHWM:"));
        let peak = peak.and_then(|l| l.trim().strip_suffix(" kB")?.parse::<u64>().ok());
        Usage {
            // The kernel shows hundredths of seconds whatever its own clock is.
            cpu: Duration::from_millis(ticks * 10),
            peak: peak.unwrap_or(0) << 10,
            wire: self.wire(),
        }
    }

    /// Returns what was used so far, after setting the peak to what is held now: to be handed to
    /// [`Daemon::since`].
    pub fn mark(&self) -> Usage {
        let _ = fs::write(format!("/proc/{}/clear_refs", self.child.id()), "5");
        self.usage()
    }

    /// Returns what was used since a mark.
    pub fn since(&self, mark: Usage) -> Usage {
        let now = self.usage();
        Usage {
            cpu: now.cpu - mark.cpu,
            peak: now.peak,
            wire: now
                .wire
                .zip(mark.wire)
                .map(|(now, then)| (now.0 - then.0, now.1 - then.1)),
        }
    }

    fn wire(&self) -> Option<(u64, u64)> {
        if !self.tells() {
            return None;
        }
        let mut command = Command::new(SVOL);
        command
            .args(["status", "--json"])
            .env("SVOL_RUNTIME_DIR", &self.runtime);
        let output = command.output().ok()?;
        let status: serde_json::Value = serde_json::from_slice(&output.stdout).ok()?;
        let layer = &status["mounts"][0]["layers"][0];
        Some((layer["bytesFetched"].as_u64()?, layer["requests"].as_u64()?))
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        let ended = |child: &mut Child| matches!(child.try_wait(), Ok(Some(_)) | Err(_));
        let pid = rustix::process::Pid::from_child(&self.child);
        let _ = rustix::process::kill_process(pid, rustix::process::Signal::TERM);
        let started = Instant::now();
        while !ended(&mut self.child) && started.elapsed() < PATIENCE {
            std::thread::sleep(Duration::from_millis(5));
        }
        let _ = self.child.kill();
        let _ = self.child.wait();
        while is_mounted(&self.at) {
            let detach = rustix::mount::UnmountFlags::DETACH;
            if rustix::mount::unmount(&self.at, detach).is_err() {
                let _ = Command::new("fusermount3")
                    .arg("-uz")
                    .arg(&self.at)
                    .status();
                std::thread::sleep(Duration::from_millis(100));
            }
        }
    }
}

fn is_mounted(path: &Path) -> bool {
    let mounts = fs::read_to_string("/proc/self/mounts").unwrap_or_default();
    let path = path.to_str().unwrap();
    mounts
        .lines()
        .any(|line| line.split(' ').nth(1) == Some(path))
}
