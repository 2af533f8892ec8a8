//! Mounts that end, or lose their daemon, while they are in use.

mod common;

use std::ffi::OsStr;
use std::fs::File;
use std::io::{Error, Read};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use common::mount::{Mount, Place, is_mounted};
use common::store::{Mood, Store};
use common::{noise, wait_until};
use rustix::io::Errno;
use rustix::mount::{UnmountFlags, unmount};
use rustix::process::Signal;

/// Within what anything has to end. It is a second or two on an idle machine.
const LIMIT: Duration = Duration::from_secs(30);

const FILES: usize = 8;
const SIZE: usize = 3 << 20;

fn store() -> Store {
    let store = Store::start();
    for i in 0..FILES {
        store.put(&format!("d/f{i}"), noise(i as u64, SIZE));
        store.put(&format!("dead/f{i}"), noise(i as u64, SIZE));
    }
    store.put("dead/sub/x", b"x".to_vec());
    store
}

fn errno(error: &Error) -> Option<Errno> {
    error.raw_os_error().map(Errno::from_raw_os_error)
}

/// Whether a reader may get this from a mount that has lost its daemon.
fn is_end(error: &Error) -> bool {
    let ends = [
        // The daemon is gone; it went while it answered; what was open is.
        Errno::NOTCONN,
        Errno::CONNABORTED,
        Errno::IO,
        // The path leads past the mount.
        Errno::NOENT,
        Errno::NODEV,
        // It was interrupted as its wait had no more sense.
        Errno::INTR,
    ];
    errno(error).is_some_and(|e| ends.contains(&e))
}

/// What readers of one mount got.
#[derive(Default)]
struct Readers {
    stop: AtomicBool,
    reads: AtomicU64,
    ended: AtomicU64,
    wrong: Mutex<Vec<String>>,
}

impl Readers {
    /// Reads everything again and again, and lists it, until told to stop; what it gets is right, or
    /// the error of a mount that ended if it may.
    fn read(&self, root: &Path, number: usize, may_end: &AtomicBool) {
        let dir = root.join("d");
        while !self.stop.load(Ordering::SeqCst) {
            let i = (number + self.reads.load(Ordering::SeqCst) as usize) % FILES;
            let path = dir.join(format!("f{i}"));
            let got = match number % 4 {
                0 => std::fs::read_dir(&dir).and_then(|all| {
                    let names: Result<Vec<_>, Error> = all.collect();
                    Ok(names?.len() == FILES)
                }),
                1 => path.metadata().map(|m| m.len() == SIZE as u64),
                2 => {
                    let mut part = vec![0; 10_000];
                    let at = (number * 7919) % (SIZE - part.len());
                    File::open(&path)
                        .and_then(|f| {
                            // What the kernel has it need not ask for.
                            let _ = rustix::fs::fadvise(&f, 0, None, rustix::fs::Advice::DontNeed);
                            f.read_exact_at(&mut part, at as u64)
                        })
                        .map(|()| part == noise(i as u64, SIZE)[at..at + part.len()])
                }
                _ => std::fs::read(&path).map(|bytes| bytes == noise(i as u64, SIZE)),
            };
            let may_end = may_end.load(Ordering::SeqCst);
            match got {
                Ok(true) => {
                    self.reads.fetch_add(1, Ordering::SeqCst);
                }
                Ok(false) => self.complain(format!("wrong content of {}", path.display())),
                Err(error) if may_end && is_end(&error) => {
                    self.ended.fetch_add(1, Ordering::SeqCst);
                    std::thread::sleep(Duration::from_millis(5));
                }
                Err(error) => self.complain(format!("{}: {error}", path.display())),
            }
        }
    }

    /// Stops them when dropped, so that a failing test does not wait for ever.
    fn stopper(&self) -> Stopper<'_> {
        Stopper(&self.stop)
    }

    fn complain(&self, what: String) {
        self.wrong.lock().unwrap().push(what);
    }

    fn judge(&self) {
        assert_eq!(*self.wrong.lock().unwrap(), Vec::<String>::new());
    }
}

struct Stopper<'a>(&'a AtomicBool);

impl Drop for Stopper<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::SeqCst);
    }
}

/// A process that is ended when dropped.
struct Held(Child);

impl Held {
    fn start(command: &mut Command) -> Held {
        let command = command.stdin(Stdio::null()).stderr(Stdio::null());
        Held(command.stdout(Stdio::null()).spawn().unwrap())
    }

    fn ends_within(&mut self, limit: Duration) -> bool {
        let started = Instant::now();
        while started.elapsed() < limit {
            if self.0.try_wait().unwrap().is_some() {
                return true;
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        false
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Nothing of the place is mounted, and none of its processes is in uninterruptible sleep.
fn assert_nothing_left(place: &Place) {
    let root = place.path("");
    let left: Vec<_> = svol::fuse::mount::mounts()
        .unwrap()
        .into_iter()
        .filter(|m| m.mountpoint.starts_with(&root))
        .collect();
    assert_eq!(left, []);
    let stuck = || -> Vec<String> {
        let tasks = std::fs::read_dir("/proc/self/task").unwrap().flatten();
        tasks
            .filter_map(|task| std::fs::read_to_string(task.path().join("stat")).ok())
            .filter(|stat| stat.contains(") D "))
            .collect()
    };
    wait_until("an end of state D", || stuck().is_empty());
}

#[test]
fn a_busy_mount_is_not_unmounted_and_nothing_breaks() {
    let place = Place::new();
    let store = store();
    let mut mount = place.mount(&[&store.tree()]);
    let at = mount.at().to_owned();
    assert_eq!(mount.read("d/f0"), noise(0, SIZE));
    const MAPS: &str = "import mmap, sys, time
f = open(sys.argv[1], 'rb')
m = mmap.mmap(f.fileno(), 0, prot=mmap.PROT_READ)
print(m[1], flush=True)
time.sleep(300)";
    let readers = Readers::default();
    let never = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let _stopper = readers.stopper();
        for number in 0..8 {
            let (readers, at, never) = (&readers, &at, &never);
            scope.spawn(move || readers.read(at, number, never));
        }
        // By an open file, a working directory, memory that is mapped, a program that runs.
        let file = File::open(at.join("d/f1")).unwrap();
        refuse(&place, &at);
        let shell = Held::start(Command::new("sleep").arg("300").current_dir(at.join("d")));
        drop(file);
        refuse(&place, &at);
        let mut maps = Command::new("python3");
        maps.args(["-c", MAPS]).arg(at.join("d/f2"));
        let mut maps = maps.stdout(Stdio::piped()).spawn().unwrap();
        let mut byte = [0];
        maps.stdout.as_mut().unwrap().read_exact(&mut byte).unwrap();
        let maps = Held(maps);
        drop(shell);
        for _ in 0..20 {
            refuse(&place, &at);
        }
        drop(maps);
    });
    readers.judge();
    assert!(readers.reads.load(Ordering::SeqCst) > 0);
    // Closes reach the daemon a moment after they returned.
    wait_until("an idle mount", || {
        unmount(&at, UnmountFlags::empty()).is_ok()
    });
    assert!(mount.wait().success());
    assert_nothing_left(&place);
}

fn refuse(place: &Place, at: &Path) {
    assert_eq!(unmount(at, UnmountFlags::empty()), Err(Errno::BUSY));
    let said = place.svol([OsStr::new("unmount"), at.as_os_str()]);
    assert_eq!(said.status.code(), Some(1));
    let text = String::from_utf8_lossy(&said.stderr).into_owned();
    assert!(text.contains("in use"), "{text}");
    assert!(is_mounted(at));
}

#[test]
fn a_lazy_unmount_serves_what_is_open_to_its_end() {
    let place = Place::new();
    let store = store();
    let mut mount = place.mount(&[&store.tree()]);
    let at = mount.at().to_owned();
    let (file, dir) = (
        File::open(at.join("d/f0")).unwrap(),
        File::open(at.join("d")).unwrap(),
    );
    unmount(&at, UnmountFlags::DETACH).unwrap();
    assert!(!is_mounted(&at));
    assert_eq!(std::fs::read_dir(&at).unwrap().count(), 0);
    // What was never read comes from the source still; so do names below an open directory.
    let mut all = vec![0; SIZE];
    file.read_exact_at(&mut all, 0).unwrap();
    assert!(all == noise(0, SIZE));
    let flags = rustix::fs::OFlags::RDONLY;
    let below = rustix::fs::openat(&dir, "f1", flags, rustix::fs::Mode::empty()).unwrap();
    let mut bytes = Vec::new();
    File::from(below).read_to_end(&mut bytes).unwrap();
    assert!(bytes == noise(1, SIZE));
    // Meanwhile the place can be used for another mount.
    let mut second = place.mount(&[&store.tree()]);
    assert!(second.read("d/f2") == noise(2, SIZE));
    assert!(!mount.ends_within(Duration::from_millis(500)));
    drop((file, dir));
    assert!(mount.ends_within(LIMIT), "{}", mount.log());
    assert!(second.read("d/f3") == noise(3, SIZE));
    assert!(second.signal(Signal::TERM).0.success());
    assert_nothing_left(&place);
}

/// A reader of each kind that waits for a dead source.
fn waiters(at: &Path) -> Vec<Held> {
    const MAPS: &str = "import mmap, sys
f = open(sys.argv[1], 'rb')
m = mmap.mmap(f.fileno(), 0, prot=mmap.PROT_READ)
print(m[len(m) // 2])";
    let path = |name: &str| -> PathBuf { at.join("dead").join(name) };
    vec![
        Held::start(Command::new("cat").arg(path("f0"))),
        Held::start(Command::new("cat").arg(path("f1"))),
        Held::start(Command::new("python3").args(["-c", MAPS]).arg(path("f2"))),
        Held::start(Command::new("ls").arg(path("sub"))),
    ]
}

#[test]
fn a_daemon_that_is_killed_under_readers_leaves_errors_and_no_hangs_again_and_again() {
    const ROUNDS: usize = 4;
    const READERS: usize = 12;
    let place = Place::new();
    let store = store();
    let options = ["--timeout", "120s", &store.tree()];
    let mut mount = place.mount(&options);
    let at = mount.at().to_owned();
    assert_eq!(
        std::fs::read_dir(at.join("dead")).unwrap().count(),
        FILES + 1
    );
    store.mood("dead", Mood::Silent);
    for round in 0..ROUNDS {
        let readers = Readers::default();
        let may_end = AtomicBool::new(false);
        let mut waiting = waiters(&at);
        std::thread::scope(|scope| {
            let _stopper = readers.stopper();
            for number in 0..READERS {
                let (readers, at, may_end) = (&readers, &at, &may_end);
                scope.spawn(move || readers.read(at, number, may_end));
            }
            wait_until("readers", || {
                readers.reads.load(Ordering::SeqCst) > 2 * READERS as u64
            });
            assert!(
                waiting
                    .iter_mut()
                    .all(|w| w.0.try_wait().unwrap().is_none())
            );
            may_end.store(true, Ordering::SeqCst);
            mount.kill();
            let killed = Instant::now();
            for waiter in &mut waiting {
                assert!(waiter.ends_within(LIMIT), "round {round}: it hangs");
            }
            wait_until("an error each", || {
                readers.ended.load(Ordering::SeqCst) > READERS as u64
            });
            // What could touch the dead mount is told at once that it is dead.
            let dead = rustix::fs::statvfs(&at).map(drop).unwrap_err();
            assert_eq!(dead, Errno::NOTCONN);
            assert!(
                !Command::new("df")
                    .arg(&at)
                    .output()
                    .unwrap()
                    .status
                    .success()
            );
            assert_eq!(place.status()["mounts"].as_array().unwrap().len(), 0);
            assert!(killed.elapsed() < LIMIT, "{:?}", killed.elapsed());
            assert!(is_mounted(&at));
            // A new daemon takes the place of the dead one, under the readers, who recover.
            let dead = std::mem::replace(&mut mount, place.mount(&options));
            // Dropped, it would unmount what is there now.
            std::mem::forget(dead);
            may_end.store(false, Ordering::SeqCst);
            let before = readers.reads.load(Ordering::SeqCst);
            // An error that was under way may still come.
            std::thread::sleep(Duration::from_millis(200));
            readers.wrong.lock().unwrap().clear();
            wait_until("readers of the new mount", || {
                readers.reads.load(Ordering::SeqCst) > before + READERS as u64
            });
        });
        readers.judge();
        let here = svol::fuse::mount::mounts().unwrap();
        let here = here.iter().filter(|m| m.mountpoint == at).count();
        assert_eq!(here, 1, "round {round}: a dead mount is below");
    }
    wait_until("an idle mount", || {
        unmount(&at, UnmountFlags::empty()).is_ok()
    });
    assert!(mount.wait().success());
    assert_nothing_left(&place);
}

#[test]
fn sigterm_under_load_ends_within_its_bound() {
    // What the daemon grants its readers, and a busy machine.
    let place = Place::new();
    let store = store();
    store.pace(Duration::from_millis(20));
    let mut mount = place.mount(&["--timeout", "120s", &store.tree()]);
    let at = mount.at().to_owned();
    assert_eq!(
        std::fs::read_dir(at.join("dead")).unwrap().count(),
        FILES + 1
    );
    store.mood("dead", Mood::Silent);
    let readers = Readers::default();
    let may_end = AtomicBool::new(false);
    let mut waiting = waiters(&at);
    let (status, took) = std::thread::scope(|scope| {
        let _stopper = readers.stopper();
        for number in 0..12 {
            let (readers, at, may_end) = (&readers, &at, &may_end);
            scope.spawn(move || readers.read(at, number, may_end));
        }
        wait_until("readers", || readers.reads.load(Ordering::SeqCst) > 12);
        may_end.store(true, Ordering::SeqCst);
        mount.signal(Signal::TERM)
    });
    println!("ended after {took:?}");
    assert!(status.success(), "{status}\n{}", mount.log());
    assert!(took < Duration::from_secs(25), "{took:?}");
    readers.judge();
    for waiter in &mut waiting {
        assert!(waiter.ends_within(LIMIT), "it hangs");
    }
    assert_nothing_left(&place);
    let left: Vec<_> = std::fs::read_dir(place.path("run"))
        .unwrap()
        .flatten()
        .collect();
    assert!(left.is_empty(), "{left:?}");
}

/// A daemon that stands still until dropped.
struct Stopped<'a>(&'a Mount);

impl<'a> Stopped<'a> {
    fn new(mount: &'a Mount) -> Stopped<'a> {
        send(mount.pid(), Signal::STOP);
        Stopped(mount)
    }
}

impl Drop for Stopped<'_> {
    fn drop(&mut self) {
        send(self.0.pid(), Signal::CONT);
    }
}

fn send(pid: u32, signal: Signal) {
    let pid = rustix::process::Pid::from_raw(pid as i32).unwrap();
    rustix::process::kill_process(pid, signal).unwrap();
}

#[test]
fn a_daemon_that_stands_still_hangs_no_command_of_ours() {
    let place = Place::new();
    let store = store();
    let mut mount = place.mount(&[&store.tree()]);
    let at = mount.at().to_str().unwrap().to_owned();
    {
        let _stopped = Stopped::new(&mount);
        let started = Instant::now();
        let status = place.svol(["status"]);
        assert!(started.elapsed() < LIMIT, "{:?}", started.elapsed());
        println!("status: {}", String::from_utf8_lossy(&status.stderr));
        let again = place.svol(["mount", &store.tree(), &at]);
        assert!(!again.status.success());
        assert!(started.elapsed() < LIMIT, "{:?}", started.elapsed());
        // Another mount is not harmed by it.
        let other = place.mount_with("other", &[&store.tree()], |_| {});
        assert!(other.read("d/f0") == noise(0, SIZE));
        drop(other);
        unmount(mount.at(), UnmountFlags::DETACH).unwrap();
    }
    assert!(mount.ends_within(LIMIT));
    assert_nothing_left(&place);
}
