//! What is being done, for how long, by whom; and how the daemon fares.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// How long anything may take: twice the sources' deadline, on a machine that is busy.
const HANG: Duration = Duration::from_secs(90);

/// How often the daemon is looked at.
const LOOK: Duration = Duration::from_millis(200);

/// What was done of one kind.
#[derive(Debug, Default, Clone)]
pub struct Tally {
    pub done: u64,
    pub bytes: u64,
    /// Replaced or deleted while in use, which the reader is told.
    pub stale: u64,
    pub longest: Duration,
}

/// All that is being done.
#[derive(Debug, Default)]
pub struct Watch {
    running: Mutex<BTreeMap<u64, (&'static str, Instant)>>,
    next: AtomicU64,
    tallies: Mutex<BTreeMap<&'static str, Tally>>,
    complaints: Mutex<BTreeMap<&'static str, Vec<String>>>,
}

/// Something that is being done, until dropped.
pub struct Doing<'a> {
    watch: &'a Watch,
    id: u64,
    pub kind: &'static str,
    started: Instant,
    pub bytes: u64,
    pub stale: u64,
}

impl Drop for Doing<'_> {
    fn drop(&mut self) {
        self.watch.running.lock().unwrap().remove(&self.id);
        let mut tallies = self.watch.tallies.lock().unwrap();
        let tally = tallies.entry(self.kind).or_default();
        tally.done += 1;
        tally.bytes += self.bytes;
        tally.stale += self.stale;
        tally.longest = tally.longest.max(self.started.elapsed());
    }
}

/// The most that was seen of a daemon.
#[derive(Debug, Default)]
pub struct Peak {
    pub threads: usize,
    pub fds: usize,
    pub memory: u64,
}

impl Watch {
    /// Begins something.
    pub fn begin(&self, kind: &'static str) -> Doing<'_> {
        let id = self.next.fetch_add(1, Ordering::Relaxed);
        let started = Instant::now();
        self.running.lock().unwrap().insert(id, (kind, started));
        Doing {
            watch: self,
            id,
            kind,
            started,
            bytes: 0,
            stale: 0,
        }
    }

    /// Takes note of something that must not be: `sort` is one of those that the report counts.
    pub fn complain(&self, sort: &'static str, what: String) {
        let mut complaints = self.complaints.lock().unwrap();
        let of_sort = complaints.entry(sort).or_default();
        if of_sort.len() < 20 {
            eprintln!("{sort}: {what}");
        }
        of_sort.push(what);
    }

    pub fn tallies(&self) -> BTreeMap<&'static str, Tally> {
        self.tallies.lock().unwrap().clone()
    }

    /// How much there is to complain about, by sort.
    pub fn complaints(&self) -> BTreeMap<&'static str, usize> {
        let complaints = self.complaints.lock().unwrap();
        complaints
            .iter()
            .map(|(sort, all)| (*sort, all.len()))
            .collect()
    }

    /// Looks on for as long as said, or until `stop`; ends the tests if anything hangs.
    pub fn keep(&self, daemon: &Daemon, time: Duration, stop: &AtomicBool, at: &Path) -> Peak {
        let started = Instant::now();
        let mut peak = Peak::default();
        while started.elapsed() < time && !stop.load(Ordering::SeqCst) {
            std::thread::sleep(LOOK);
            peak.threads = peak.threads.max(daemon.threads());
            peak.fds = peak.fds.max(daemon.fds());
            peak.memory = peak.memory.max(daemon.memory());
            self.end_if_hung(daemon, at);
        }
        peak
    }

    /// Waits until nothing is being done.
    pub fn drain(&self, daemon: &Daemon, at: &Path) {
        while !self.running.lock().unwrap().is_empty() {
            std::thread::sleep(Duration::from_millis(20));
            self.end_if_hung(daemon, at);
        }
    }

    fn end_if_hung(&self, daemon: &Daemon, at: &Path) {
        let hung: Vec<_> = {
            let running = self.running.lock().unwrap();
            let old = running.values().filter(|(_, since)| since.elapsed() > HANG);
            old.copied().collect()
        };
        if hung.is_empty() {
            return;
        }
        for (kind, since) in &hung {
            eprintln!("HANG: {kind} for {:?}", since.elapsed());
        }
        for line in self.in_state_d(daemon) {
            eprintln!("{line}");
        }
        for thread in daemon.tasks() {
            eprintln!("daemon: {thread}");
        }
        // The hung threads cannot be ended from here: their requests are, and with them we.
        let _ = rustix::mount::unmount(at, rustix::mount::UnmountFlags::DETACH);
        std::process::exit(101);
    }

    /// Threads of this process, of its children and of the daemon that are in uninterruptible sleep
    /// now and still are a while later.
    pub fn in_state_d(&self, daemon: &Daemon) -> Vec<String> {
        let look = || -> Vec<String> {
            let ours = [std::process::id(), daemon.0];
            let mut found = Vec::new();
            for process in std::fs::read_dir("/proc").unwrap().flatten() {
                let name = process.file_name().to_string_lossy().into_owned();
                let Ok(pid) = name.parse::<u32>() else {
                    continue;
                };
                let tasks = std::fs::read_dir(process.path().join("task"));
                for task in tasks.into_iter().flatten().flatten() {
                    let stat = std::fs::read_to_string(task.path().join("stat"));
                    let Ok(stat) = stat else { continue };
                    let Some((head, rest)) = stat.rsplit_once(") ") else {
                        continue;
                    };
                    let mut fields = rest.split(' ');
                    let (state, parent) = (fields.next(), fields.next());
                    let parent = parent.and_then(|p| p.parse().ok()).unwrap_or(0);
                    if state == Some("D") && (ours.contains(&pid) || ours.contains(&parent)) {
                        let stack = std::fs::read_to_string(task.path().join("stack"));
                        found.push(format!("{head}) {}", stack.unwrap_or_default()));
                    }
                }
            }
            found
        };
        let first = look();
        if first.is_empty() {
            return first;
        }
        std::thread::sleep(Duration::from_secs(5));
        look()
            .into_iter()
            .filter(|task| first.contains(task))
            .collect()
    }
}

/// The process that serves.
pub struct Daemon(pub u32);

impl Daemon {
    pub fn fds(&self) -> usize {
        let fds = std::fs::read_dir(format!("/proc/{}/fd", self.0));
        fds.map_or(0, Iterator::count)
    }

    pub fn threads(&self) -> usize {
        self.number("Threads") as usize
    }

    /// Resident memory in bytes.
    pub fn memory(&self) -> u64 {
        self.number("VmRSS") << 10
    }

    fn number(&self, field: &str) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.0));
        let status = status.unwrap_or_default();
        let line = status
            .lines()
            .find_map(|l| l.strip_prefix(field)?.strip_prefix(':'));
        let number = line.and_then(|l| l.split_whitespace().next()?.parse().ok());
        number.unwrap_or(0)
    }

    fn tasks(&self) -> Vec<String> {
        let tasks = std::fs::read_dir(format!("/proc/{}/task", self.0));
        let tasks = tasks.into_iter().flatten().flatten();
        tasks
            .map(|task| {
                let read = |name: &str| std::fs::read_to_string(task.path().join(name));
                let (comm, stack) = (read("comm"), read("stack"));
                format!(
                    "{} {}",
                    comm.unwrap_or_default().trim(),
                    stack.unwrap_or_default()
                )
            })
            .collect()
    }
}
