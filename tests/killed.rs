//! Readers that are killed or interrupted while the network is dead.
//!
//! The kernel leaves a killed reader in uninterruptible sleep until its request is answered, so it
//! is the daemon that has to notice. Each case here waits for a source that never answers, with a
//! deadline of a minute, and has to end far sooner.

mod common;

use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use common::mount::{Place, is_mounted};
use common::store::{Mood, Store};
use common::{noise, wait_until};
use rustix::process::Signal;

/// The deadline of the sources: what an unnoticed reader would wait for.
const TIMEOUT: &str = "60s";

/// Within what a reader has to end. It takes one to two seconds on an idle machine.
const LIMIT: Duration = Duration::from_secs(15);

/// How long a reader waits before it is killed.
const WAITS: Duration = Duration::from_secs(1);

/// Touches a page of a mapped file. A program that catches a signal goes on waiting for its memory
/// after the handler ran, on any file system; this one does not.
const MAPS: &str = "import mmap, signal, sys
signal.signal(signal.SIGINT, signal.SIG_DFL)
f = open(sys.argv[1], 'rb')
m = mmap.mmap(f.fileno(), 0, prot=mmap.PROT_READ)
print(m[len(m) // 2])";

/// Reads a file in 24 places at once, from threads that nobody waits for.
const THREADS: &str = "import os, sys, threading, time
fd = os.open(sys.argv[1], os.O_RDONLY)
for i in range(24):
    threading.Thread(target=os.pread, args=(fd, 4096, i << 20), daemon=True).start()
time.sleep(300)";

/// Catches SIGTERM to end in order, as servers do.
const CATCHES: &str = "import signal, sys
signal.signal(signal.SIGTERM, lambda *_: sys.exit(7))
open(sys.argv[1], 'rb').read()";

/// A process that waits for a dead source.
struct Stuck(Child);

impl Stuck {
    fn start(mut command: Command) -> Stuck {
        command.stdout(Stdio::null()).stderr(Stdio::null());
        defaults(&mut command);
        Stuck(command.spawn().unwrap())
    }

    fn waits(&mut self) -> bool {
        self.0.try_wait().unwrap().is_none()
    }

    /// Sends a signal; returns how the process ended and how long that took.
    fn end(&mut self, signal: Signal) -> (ExitStatus, Duration) {
        let started = Instant::now();
        send(self.0.id(), signal);
        let status = self.0.wait().unwrap();
        (status, started.elapsed())
    }
}

impl Drop for Stuck {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Has a program take signals as one does that was started from a terminal, whatever started us: below
/// nohup it would ignore a hang-up.
fn defaults(command: &mut Command) {
    // SAFETY: system calls that may be made between fork and exec.
    unsafe {
        command.pre_exec(|| {
            for signal in [libc::SIGHUP, libc::SIGINT, libc::SIGQUIT, libc::SIGTERM] {
                libc::signal(signal, libc::SIG_DFL);
            }
            Ok(())
        });
    }
}

fn send(pid: u32, signal: Signal) {
    let pid = rustix::process::Pid::from_raw(pid as i32).unwrap();
    rustix::process::kill_process(pid, signal).unwrap();
}

fn program(name: &str, args: &[&str], path: &Path) -> Command {
    let mut command = Command::new(name);
    command.args(args).arg(path);
    command
}

/// A command for one kind of wait on `path`.
fn waiting(kind: &str, path: &Path) -> Command {
    match kind {
        "read" | "open" => program("cat", &[], path),
        "map" => program("python3", &["-c", MAPS], path),
        "readdir" => program("ls", &[], path),
        "stat" => program("stat", &[], path),
        // Started by a shell that it then replaces: a `spawn` would wait for it here.
        "exec" => program("sh", &["-c", "exec \"$0\""], path),
        "threads" => program("python3", &["-c", THREADS], path),
        "catches" => program("python3", &["-c", CATCHES], path),
        _ => panic!("{kind}"),
    }
}

#[test]
fn whatever_a_reader_waits_for_it_can_be_killed_and_interrupted() {
    const SIZE: usize = 25 << 20;
    const KINDS: [(&str, &[Signal]); 8] = [
        ("read", &[Signal::KILL, Signal::INT, Signal::TERM]),
        ("open", &[Signal::KILL, Signal::INT, Signal::HUP]),
        ("map", &[Signal::KILL, Signal::INT, Signal::QUIT]),
        ("readdir", &[Signal::KILL, Signal::INT]),
        ("stat", &[Signal::KILL, Signal::INT, Signal::QUIT]),
        ("exec", &[Signal::KILL, Signal::INT]),
        ("threads", &[Signal::KILL, Signal::INT]),
        ("catches", &[Signal::KILL, Signal::TERM]),
    ];
    let place = Place::new();
    let store = Store::start();
    let key = |kind: &str, signal: Signal| format!("{kind}-{}", signal.as_raw());
    let big = noise(1, SIZE);
    for (kind, signals) in KINDS {
        for signal in signals {
            let key = key(kind, *signal);
            match kind {
                "readdir" | "stat" => store.put(&format!("{key}/name"), b"x".to_vec()),
                "threads" => store.put(&key, big.clone()),
                _ => store.put(&key, noise(2, 300_000)),
            }
        }
    }
    // As a tree, whose listing tells no versions: an open has to ask. As a bucket, whose listing
    // does: an open returns at once, and it is the read that waits.
    let mut args = vec!["--timeout".to_owned(), TIMEOUT.to_owned()];
    args.extend(store.s3_args());
    args.last_mut().unwrap().push_str("=/bucket");
    args.push(format!("{}=/tree", store.tree()));
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    let mount = place.mount(&args);
    for part in ["bucket", "tree"] {
        assert!(std::fs::read_dir(mount.path(part)).unwrap().count() > 0);
    }
    store.mood("", Mood::Silent);
    let longest = std::sync::Mutex::new((Duration::ZERO, String::new()));
    std::thread::scope(|scope| {
        for (kind, signals) in KINDS {
            for &signal in signals {
                let (mount, key, longest) = (&mount, key(kind, signal), &longest);
                scope.spawn(move || {
                    let path = match kind {
                        "stat" => format!("bucket/{key}/name"),
                        "open" => format!("tree/{key}"),
                        _ => format!("bucket/{key}"),
                    };
                    let mut stuck = Stuck::start(waiting(kind, &mount.path(&path)));
                    std::thread::sleep(WAITS);
                    // Python takes a while to get there on a busy machine.
                    if ["map", "threads", "catches"].contains(&kind) {
                        std::thread::sleep(2 * WAITS);
                    }
                    assert!(stuck.waits(), "{kind} {signal:?}\n{}", mount.log());
                    let (status, took) = stuck.end(signal);
                    assert!(took < LIMIT, "{kind} {signal:?}: {took:?}");
                    match (kind, signal) {
                        // Its handler ran: the read was interrupted, not merely given up.
                        ("catches", Signal::TERM) => {
                            assert_eq!(status.code(), Some(7), "{kind} {signal:?}")
                        }
                        // Python makes it an exception, and lets its threads go.
                        ("threads", Signal::INT) => {
                            assert!(!status.success(), "{kind} {signal:?}")
                        }
                        _ => assert_eq!(status.signal(), Some(signal.as_raw()), "{kind}"),
                    }
                    let mut longest = longest.lock().unwrap();
                    if took > longest.0 {
                        *longest = (took, format!("{kind} {signal:?}"));
                    }
                });
            }
        }
    });
    let (took, which) = longest.into_inner().unwrap();
    println!("longest: {which}, {took:?}");
    // Nothing that waited holds the mount up.
    store.mood("", Mood::Serve);
    drop(mount);
}

#[test]
fn a_reader_in_a_pid_namespace_of_its_own_can_be_killed() {
    if !rustix::process::geteuid().is_root() {
        println!("NOT RUN: only root makes PID namespaces");
        return;
    }
    let place = Place::new();
    let store = Store::with([("f", noise(1, 3 << 20)), ("g", noise(2, 3 << 20))]);
    let mount = place.mount(&["--timeout", TIMEOUT, &store.tree()]);
    assert_eq!(std::fs::read_dir(mount.at()).unwrap().count(), 2);
    store.mood("", Mood::Silent);
    for (file, signal) in [("f", Signal::KILL), ("g", Signal::INT)] {
        // A first process that waits for `cat`, as a container has, and so `cat` is none of those
        // that ignore what they do not catch.
        let script = "cat \"$0\"; exit 9";
        let mut outer = Stuck::start(program(
            "unshare",
            &["-pf", "--kill-child", "--mount-proc", "sh", "-c", script],
            &mount.path(file),
        ));
        let mut cat = 0;
        wait_until("a reader in a namespace", || {
            let Some(shell) = child(outer.0.id()) else {
                return false;
            };
            cat = child(shell).unwrap_or(0);
            cat != 0
        });
        std::thread::sleep(WAITS);
        assert!(outer.waits());
        let started = Instant::now();
        send(cat, signal);
        wait_until("the end of a reader", || {
            outer.0.try_wait().unwrap().is_some()
        });
        assert!(started.elapsed() < LIMIT, "{:?}", started.elapsed());
    }
}

/// The only child of a process.
fn child(pid: u32) -> Option<u32> {
    let children = std::fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).ok()?;
    children.split_whitespace().next()?.parse().ok()
}

/// A daemon in a PID namespace below the readers'.
struct Below {
    outer: Child,
    at: PathBuf,
}

impl Below {
    fn mount(place: &Place, args: &[&str]) -> Below {
        let at = place.path("mnt");
        std::fs::create_dir(&at).unwrap();
        let svol = place.command(["mount", "--foreground", "-v"]);
        let mut command = Command::new("unshare");
        command
            .args(["-pf", "--kill-child"])
            .arg(svol.get_program());
        command.args(svol.get_args()).args(args).arg(&at);
        for (name, value) in svol.get_envs() {
            if let Some(value) = value {
                command.env(name, value);
            }
        }
        let log = std::fs::File::create(place.path("mnt.log")).unwrap();
        command
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log);
        let below = Below {
            outer: command.spawn().unwrap(),
            at,
        };
        wait_until("a mount", || is_mounted(&below.at));
        below
    }
}

impl Drop for Below {
    fn drop(&mut self) {
        while is_mounted(&self.at) {
            rustix::mount::unmount(&self.at, rustix::mount::UnmountFlags::DETACH).unwrap();
        }
        let _ = self.outer.kill();
        let _ = self.outer.wait();
    }
}

#[test]
fn a_reader_that_the_daemon_cannot_see_ends_with_its_request() {
    if !rustix::process::geteuid().is_root() {
        println!("NOT RUN: only root makes PID namespaces");
        return;
    }
    let place = Place::new();
    let store = Store::with([("f", noise(1, 3 << 20)), ("d/x", b"x".to_vec())]);
    let mount = Below::mount(&place, &["--timeout", "3s", &store.tree()]);
    assert_eq!(std::fs::read_dir(&mount.at).unwrap().count(), 2);
    store.mood("", Mood::Silent);
    let mut reader = Stuck::start(program("cat", &[], &mount.at.join("f")));
    let mut lister = Stuck::start(program("ls", &[], &mount.at.join("d")));
    std::thread::sleep(WAITS);
    assert!(reader.waits() && lister.waits());
    assert!(reader.end(Signal::KILL).1 < LIMIT);
    assert!(lister.end(Signal::KILL).1 < LIMIT);
    // The daemon, whose /proc is another namespace's, has asked nobody for a wrong process.
    store.mood("", Mood::Serve);
    wait_until("recovery", || {
        std::fs::read(mount.at.join("f")).is_ok_and(|bytes| bytes == noise(1, 3 << 20))
    });
}

#[test]
fn who_waits_for_anothers_lookup_ends_with_it() {
    // The kernel lets the second one wait for the first without any way out, and without a request
    // that the daemon could know of: the deadline is what bounds it.
    let place = Place::new();
    let store = Store::with([("d/x", b"x".to_vec())]);
    let mount = place.mount(&["--timeout", "4s", &store.tree()]);
    assert_eq!(std::fs::read_dir(mount.at()).unwrap().count(), 1);
    store.mood("", Mood::Silent);
    let path = mount.path("d/x");
    let mut first = Stuck::start(program("stat", &[], &path));
    std::thread::sleep(WAITS);
    let mut second = Stuck::start(program("stat", &[], &path));
    std::thread::sleep(WAITS / 2);
    assert!(first.waits() && second.waits());
    let (_, took) = second.end(Signal::KILL);
    assert!(took < LIMIT, "{took:?}");
    wait_until("the end of the first", || !first.waits());
}

#[test]
fn a_handled_signal_does_no_harm_to_mapped_memory() {
    // Interrupting an access to memory would kill the program with SIGBUS.
    const CAREFUL: &str = "import mmap, os, signal, sys, threading
caught = []
signal.signal(signal.SIGHUP, lambda *_: caught.append(1))
signal.signal(signal.SIGTERM, lambda *_: caught.append(2))
f = open(sys.argv[1], 'rb')
m = mmap.mmap(f.fileno(), 0, prot=mmap.PROT_READ)
print(m[50_000], flush=True)
print(sorted(caught), flush=True)";
    let place = Place::new();
    let bytes = noise(1, 60_000);
    let store = Store::with([("f", bytes.clone())]);
    store.pace(Duration::from_secs(5));
    let mount = place.mount(&["--timeout", TIMEOUT, &store.tree()]);
    assert_eq!(std::fs::read_dir(mount.at()).unwrap().count(), 1);
    let mut reader = program("python3", &["-c", CAREFUL], &mount.path("f"))
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    wait_until("a request", || {
        store
            .seen()
            .iter()
            .any(|s| s.target == "/t/f" && s.method == "GET")
    });
    std::thread::sleep(WAITS);
    send(reader.id(), Signal::HUP);
    send(reader.id(), Signal::TERM);
    let output = {
        assert!(reader.try_wait().unwrap().is_none());
        reader.wait_with_output().unwrap()
    };
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    assert_eq!(said, format!("{}\n[1, 2]\n", bytes[50_000]), "{output:?}");
}

#[test]
fn many_killed_readers_leave_nothing_behind() {
    const READERS: usize = 48;
    let place = Place::new();
    let store = Store::start();
    for i in 0..READERS {
        store.put(&format!("f{i}"), noise(i as u64, 2 << 20));
    }
    // Fetches that nobody waits for any more end by the deadline.
    let mount = place.mount(&["--timeout", "5s", &store.tree()]);
    assert_eq!(std::fs::read_dir(mount.at()).unwrap().count(), READERS);
    let open_files = || {
        let fds = std::fs::read_dir(format!("/proc/{}/fd", mount.pid())).unwrap();
        fds.count()
    };
    let before = open_files();
    store.mood("", Mood::Stall(100_000));
    let mut stuck: Vec<Stuck> = (0..READERS)
        .map(|i| Stuck::start(program("cat", &[], &mount.path(&format!("f{i}")))))
        .collect();
    std::thread::sleep(2 * WAITS);
    let started = Instant::now();
    for reader in &stuck {
        send(reader.0.id(), Signal::KILL);
    }
    for reader in &mut stuck {
        reader.0.wait().unwrap();
    }
    assert!(started.elapsed() < LIMIT, "{:?}", started.elapsed());
    store.mood("", Mood::Serve);
    wait_until("recovery", || {
        (0..READERS).all(|i| {
            std::fs::read(mount.path(&format!("f{i}")))
                .is_ok_and(|bytes| bytes == noise(i as u64, 2 << 20))
        })
    });
    // What stays open are connections that are kept, and files of the cache that readers just had.
    wait_until("fewer open files", || open_files() < before + 16);
}
