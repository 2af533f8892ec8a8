//! What was done and what went wrong, and who waits for how long.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use rustix::io::Errno;

/// An operation that takes longer hangs. Each is over within a few deadlines, but for how busy the
/// machine is.
pub const HANG: Duration = Duration::from_secs(60);

/// How many problems are told in full.
const TOLD: usize = 20;

/// What a thread is doing, and since when.
#[derive(Default)]
pub struct Slot(Mutex<Option<(String, Instant)>>);

/// All counts of a soak.
#[derive(Default)]
pub struct Report {
    pub opens: AtomicU64,
    pub reads: AtomicU64,
    pub bytes: AtomicU64,
    pub listings: AtomicU64,
    pub stats: AtomicU64,
    pub overwrites: AtomicU64,
    pub rounds: AtomicU64,
    /// Bytes of another content than any version has, or of two.
    pub wrong: AtomicU64,
    pub hangs: AtomicU64,
    /// "No such file" of what is there, where no server said so.
    pub false_absences: AtomicU64,
    /// The same where a server said so, against the truth.
    pub told_absences: AtomicU64,
    /// What should not be, of other kinds.
    pub others: AtomicU64,
    errors: Mutex<BTreeMap<(String, String), u64>>,
    slowest: Mutex<BTreeMap<&'static str, (Duration, String)>>,
    problems: Mutex<Vec<String>>,
    slots: Mutex<Vec<std::sync::Arc<Slot>>>,
}

pub fn bump(counter: &AtomicU64, n: u64) {
    counter.fetch_add(n, Ordering::Relaxed);
}

impl Report {
    /// Returns a place for a thread to say what it does.
    pub fn slot(&self) -> std::sync::Arc<Slot> {
        let slot = std::sync::Arc::new(Slot::default());
        self.slots.lock().unwrap().push(slot.clone());
        slot
    }

    /// Does one system call or a few, watched.
    pub fn timed<T>(
        &self,
        slot: &Slot,
        kind: &'static str,
        path: &str,
        work: impl FnOnce() -> T,
    ) -> T {
        let started = Instant::now();
        *slot.0.lock().unwrap() = Some((format!("{kind} {path}"), started));
        let done = work();
        *slot.0.lock().unwrap() = None;
        let took = started.elapsed();
        let mut slowest = self.slowest.lock().unwrap();
        let known = slowest.entry(kind).or_default();
        if took > known.0 {
            *known = (took, path.to_owned());
        }
        done
    }

    /// Counts an error that may be.
    pub fn error(&self, layer: &str, errno: Errno) {
        let name = match errno {
            Errno::TIMEDOUT => "ETIMEDOUT".to_owned(),
            Errno::HOSTUNREACH => "EHOSTUNREACH".to_owned(),
            Errno::ACCESS => "EACCES".to_owned(),
            Errno::STALE => "ESTALE".to_owned(),
            Errno::IO => "EIO".to_owned(),
            Errno::FAULT => "(fault in a mapping)".to_owned(),
            Errno::NOENT => "ENOENT".to_owned(),
            other => format!("errno {}", other.raw_os_error()),
        };
        let key = (layer.to_owned(), name);
        *self.errors.lock().unwrap().entry(key).or_default() += 1;
    }

    /// Counts what must not be.
    pub fn problem(&self, counter: &AtomicU64, what: String) {
        bump(counter, 1);
        let mut problems = self.problems.lock().unwrap();
        if problems.len() < TOLD {
            eprintln!("soak: {what}");
            problems.push(what);
        }
    }

    /// Notes operations that take too long; called now and then.
    pub fn watch(&self) {
        for slot in self.slots.lock().unwrap().iter() {
            let mut doing = slot.0.lock().unwrap();
            if let Some((what, since)) = &*doing
                && since.elapsed() > HANG
            {
                let what = format!("hangs for {:?}: {what}", since.elapsed());
                self.problem(&self.hangs, what);
                // Once.
                *doing = None;
            }
        }
    }

    /// Returns all that must not be.
    pub fn problems(&self) -> Vec<String> {
        self.problems.lock().unwrap().clone()
    }

    /// Writes it for people.
    pub fn text(&self, head: &str, faults: &BTreeMap<String, u64>) -> String {
        let n = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let mut text = format!("{head}\n");
        let rows = [
            ("rounds", n(&self.rounds)),
            ("opens", n(&self.opens)),
            ("reads", n(&self.reads)),
            ("bytes compared", n(&self.bytes)),
            ("listings compared", n(&self.listings)),
            ("lookups", n(&self.stats)),
            ("files overwritten", n(&self.overwrites)),
            ("faults injected", faults.values().sum()),
            ("wrong bytes", n(&self.wrong)),
            ("hangs", n(&self.hangs)),
            ("false ENOENT", n(&self.false_absences)),
            ("ENOENT that a lying server told", n(&self.told_absences)),
            ("other problems", n(&self.others)),
        ];
        for (name, count) in rows {
            let _ = writeln!(text, "{name:>36} {count}");
        }
        let _ = writeln!(text, "\nerrors by layer");
        for ((layer, name), count) in &*self.errors.lock().unwrap() {
            let _ = writeln!(text, "{:>36} {count}", format!("{layer} {name}"));
        }
        let _ = writeln!(text, "\nfaults by kind");
        for (kind, count) in faults {
            let _ = writeln!(text, "{kind:>36} {count}");
        }
        let _ = writeln!(text, "\nslowest operations");
        for (kind, (took, path)) in &*self.slowest.lock().unwrap() {
            let _ = writeln!(text, "{kind:>36} {:.1} s  {path}", took.as_secs_f64());
        }
        text
    }
}
