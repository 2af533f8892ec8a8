//! A memory cgroup for a daemon, of version 1 or 2, gone when dropped.

use std::fs::File;
use std::os::fd::AsRawFd;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;

/// See the module.
pub struct Cgroup {
    dir: PathBuf,
    unified: bool,
}

impl Cgroup {
    /// Makes one with a limit in bytes; nothing, and says why, where this process may not.
    pub fn new(limit: u64) -> Option<Cgroup> {
        let made = parents().into_iter().find_map(|(parent, unified)| {
            let dir = parent.join(format!("svol-load-{}", std::process::id()));
            std::fs::create_dir(&dir).ok()?;
            let cgroup = Cgroup { dir, unified };
            let (file, most) = match unified {
                true => ("memory.max", limit.to_string()),
                false => ("memory.limit_in_bytes", limit.to_string()),
            };
            std::fs::write(cgroup.dir.join(file), most).ok()?;
            if unified {
                let _ = std::fs::write(cgroup.dir.join("memory.swap.max"), "0");
            } else {
                let _ = std::fs::write(cgroup.dir.join("memory.swappiness"), "0");
            }
            Some(cgroup)
        });
        if made.is_none() {
            eprintln!(
                "NOT RUN in a memory cgroup: none can be made here (it takes root and a mounted \
                 memory controller); only the daemon's own ceiling is tested"
            );
        }
        made
    }

    pub fn path(&self) -> &Path {
        &self.dir
    }

    /// Lets `command` start inside.
    pub fn hold(&self, command: &mut Command) {
        let procs = File::options()
            .write(true)
            .open(self.dir.join("cgroup.procs"))
            .unwrap();
        // SAFETY: one system call, safe between fork and exec; the file is open until then, as the
        // closure owns it.
        unsafe {
            command.pre_exec(move || {
                let fd = rustix::fd::BorrowedFd::borrow_raw(procs.as_raw_fd());
                rustix::io::write(fd, b"0")?;
                Ok(())
            });
        }
    }

    fn read(&self, file: &str) -> String {
        std::fs::read_to_string(self.dir.join(file)).unwrap()
    }

    /// How many processes the kernel has killed in it.
    pub fn killed(&self) -> u64 {
        let file = match self.unified {
            true => "memory.events",
            false => "memory.oom_control",
        };
        let text = self.read(file);
        let line = text.lines().find_map(|l| l.strip_prefix("oom_kill "));
        line.expect("the kernel counts").trim().parse().unwrap()
    }

    /// The most that was charged to it, page cache included; what the kernel knows.
    pub fn most(&self) -> u64 {
        let file = match self.unified {
            true => "memory.peak",
            false => "memory.max_usage_in_bytes",
        };
        let text = std::fs::read_to_string(self.dir.join(file)).unwrap_or_default();
        text.trim().parse().unwrap_or(0)
    }

    /// Whether it is still as it was made: other processes have not moved in.
    pub fn holds(&self, pid: u32) -> bool {
        let pid = pid.to_string();
        self.read("cgroup.procs").lines().any(|line| line == pid)
    }
}

impl Drop for Cgroup {
    fn drop(&mut self) {
        // Its processes are gone (the mount is dropped first); the kernel may need a moment.
        for _ in 0..200 {
            match std::fs::remove_dir(&self.dir) {
                Ok(()) => return,
                Err(e) if e.kind() == std::io::ErrorKind::NotFound => return,
                Err(_) => std::thread::sleep(std::time::Duration::from_millis(20)),
            }
        }
        eprintln!("{} could not be removed", self.dir.display());
    }
}

/// Where a memory cgroup can be made: inside our own of version 1; of version 2 beside it, since
/// one that has processes may have no children with limits.
fn parents() -> Vec<(PathBuf, bool)> {
    let text = std::fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    let own = std::fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
    let own_v1 = own.lines().find_map(|line| {
        let mut fields = line.splitn(3, ':').skip(1);
        let is_memory = fields.next()?.split(',').any(|c| c == "memory");
        fields.next().filter(|_| is_memory)
    });
    let mut parents = Vec::new();
    for line in text.lines() {
        let Some((left, right)) = line.split_once(" - ") else {
            continue;
        };
        let Some(at) = left.split(' ').nth(4) else {
            continue;
        };
        let memory = right
            .rsplit(' ')
            .next()
            .is_some_and(|o| o.split(',').any(|o| o == "memory"));
        if right.starts_with("cgroup2 ") {
            let active = Path::new(at).join("cgroup.subtree_control");
            let active = std::fs::read_to_string(active).unwrap_or_default();
            if active.split_whitespace().any(|c| c == "memory") {
                parents.push((at.into(), true));
            }
        } else if right.starts_with("cgroup ") && memory {
            let inside = own_v1.unwrap_or("/").trim_start_matches('/');
            parents.push((Path::new(at).join(inside), false));
            parents.push((at.into(), false));
        }
    }
    parents
}
