//! What the daemon gives up, proven by making it try. (`failpoints` gives it the means.)
#![cfg(feature = "failpoints")]

mod common;

use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::Path;
use std::time::Duration;

use common::mount::{Mount, Place, is_mounted};
use common::store::Store;
use common::{noise, wait_until};
use rustix::io::Errno;

/// Makes the daemon try something; returns the number of the error, 0 for none.
fn attempt(place: &Place, what: &str, path: &Path) -> i32 {
    let status = place.status();
    let socket = status["mounts"][0]["socket"].as_str().unwrap().to_owned();
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let tried: Option<i32> = runtime
        .block_on(svol::control::client::ask(
            Path::new(&socket),
            true,
            "/attempt",
            &[("what", what), ("path", path.to_str().unwrap())],
            Duration::from_secs(60),
        ))
        .unwrap();
    tried.unwrap_or_else(|| panic!("the daemon does not know how to {what}"))
}

fn sandbox(place: &Place) -> serde_json::Value {
    place.status()["mounts"][0]["sandbox"].clone()
}

/// Whether this can be run: the sandbox of a kernel that has none cannot be tried.
fn has_landlock() -> bool {
    let list = std::fs::read_to_string("/sys/kernel/security/lsm").unwrap_or_default();
    let has = list.is_empty() || list.contains("landlock");
    if !has {
        eprintln!("not run: this kernel's Landlock is off ({})", list.trim());
    }
    has
}

/// A place with files that are nobody's business.
fn victims(place: &Place) {
    for dir in ["other", "other/dir", "cwd"] {
        std::fs::create_dir(place.path(dir)).unwrap();
    }
    std::fs::write(place.path("other/precious"), "precious").unwrap();
}

/// What is tried, on which path of the place, and whether a daemon outside of the sandbox (root's)
/// can do it, which shows that the attempt is a real one.
const ATTEMPTS: [(&str, &str, bool); 20] = [
    ("write", "other/new", true),
    ("append", "other/precious", true),
    ("read", "other/precious", true),
    ("read", "/etc/shadow", true),
    ("list", "other", true),
    ("list", "/root", true),
    ("mkdir", "other/made", true),
    ("link", "other/link", true),
    ("execute", "/bin/true", true),
    ("listen", "", true),
    ("packets", "", true),
    ("signal", "", true),
    ("environment", "", true),
    ("bpf", "", false),
    ("mount", "other/dir", true),
    ("unmount", "other/dir", true),
    ("unshare", "", true),
    ("trace", "", false),
    ("truncate", "other/precious", true),
    ("remove", "other/precious", true),
];

#[test]
fn what_the_daemon_does_not_need_is_refused() {
    if !rustix::process::geteuid().is_root() {
        eprintln!("not run: only root has all that is to be refused");
        return;
    }
    if !has_landlock() {
        return;
    }
    for confined in [true, false] {
        let place = Place::new();
        victims(&place);
        let store = Store::with([("f", noise(1, 3 << 20))]);
        let tree = store.tree();
        let args: &[&str] = match confined {
            true => &[&tree],
            false => &["--no-sandbox", &tree],
        };
        let mount = place.mount(args);
        assert_eq!(sandbox(&place)["on"], confined);
        for (what, path, works) in ATTEMPTS {
            // Stopped by a tracer, the tests would wait for ever.
            if what == "trace" && !confined {
                continue;
            }
            let tried = attempt(&place, what, &place.path(path));
            let refused = [Errno::ACCESS, Errno::PERM].map(Errno::raw_os_error);
            if confined {
                assert!(refused.contains(&tried), "{what} {path}: {tried}");
            } else if works {
                assert_eq!(tried, 0, "{what} {path}");
            }
        }
        let left = std::fs::read(place.path("other/precious")).ok();
        assert_eq!(left.as_deref(), confined.then_some(&b"precious"[..]));
        if confined {
            let names = std::fs::read_dir(place.path("other")).unwrap().count();
            assert_eq!(names, 2, "something was made");
            assert_ne!(attempt(&place, "unmount", mount.at()), 0);
            assert_ne!(attempt(&place, "become", mount.at()), 0);
            let inside = place.cache().join("CACHEDIR.TAG");
            assert_ne!(attempt(&place, "chown", &inside), 0);
            assert_ne!(attempt(&place, "execute", &inside), 0);
        }
        // What it does need it can do.
        assert!(is_mounted(mount.at()));
        assert_eq!(mount.read("f"), noise(1, 3 << 20));
        let own = place.cache().join("own");
        for what in ["write", "append", "truncate", "read", "remove"] {
            assert_eq!(attempt(&place, what, &own), 0, "{what} in the cache");
        }
    }
}

/// The value of a field of each thread's status.
fn of_all_threads(mount: &Mount, field: &str) -> Vec<String> {
    let tasks = std::fs::read_dir(format!("/proc/{}/task", mount.pid())).unwrap();
    tasks
        .filter_map(|task| std::fs::read_to_string(task.unwrap().path().join("status")).ok())
        .map(|status| {
            let lines = &mut status.lines();
            let line = lines.find_map(|l| l.strip_prefix(field)?.strip_prefix(":\t"));
            line.unwrap_or_else(|| panic!("no {field}")).to_owned()
        })
        .collect()
}

#[test]
fn every_thread_is_confined() {
    let place = Place::new();
    let store = Store::with([("f", noise(1, 3 << 20))]);
    let mount = place.mount(&[&store.tree()]);
    assert_eq!(mount.read("f").len(), 3 << 20);
    let all = |field: &str, wanted: &[&str]| {
        let values = of_all_threads(&mount, field);
        assert!(values.len() > 8, "{} threads", values.len());
        assert!(
            values.iter().all(|v| wanted.contains(&v.as_str())),
            "{field}: {values:?}"
        );
    };
    all("NoNewPrivs", &["1"]);
    all("Seccomp", &["2"]);
    for field in ["CapPrm", "CapEff", "CapInh", "CapAmb"] {
        all(field, &["0000000000000000"]);
    }
    if rustix::process::geteuid().is_root() {
        all("CapBnd", &["0000000000000000"]);
    }
    let report = sandbox(&place);
    assert_eq!(report["on"], true);
    assert_eq!(report["seccomp"], true);
    assert_eq!(report["noNewPrivs"], true);
    assert_eq!(report["capabilities"], serde_json::json!([]));
    assert_eq!(report["dumpable"], false);
    assert_eq!(report["landlock"].is_u64(), has_landlock());
}

/// Mounts with core dumps allowed as far as the limit goes, and lets the daemon crash.
fn crash(args: &[&str]) -> std::process::ExitStatus {
    let place = Place::new();
    victims(&place);
    let cwd = place.path("cwd");
    let store = Store::with([("f", noise(1, 10))]);
    let tree = store.tree();
    let args: Vec<&str> = args.iter().copied().chain([tree.as_str()]).collect();
    let mut mount = place.mount_with("mnt", &args, |command| {
        command.current_dir(&cwd);
        // SAFETY: one system call.
        unsafe {
            command.pre_exec(|| {
                let limit = rustix::process::Rlimit {
                    current: Some(1 << 30),
                    maximum: Some(1 << 30),
                };
                Ok(rustix::process::setrlimit(
                    rustix::process::Resource::Core,
                    limit,
                )?)
            });
        }
    });
    let (status, _) = mount.signal(rustix::process::Signal::ABORT);
    assert_eq!(status.signal(), Some(6));
    let cores = std::fs::read_dir(&cwd).unwrap().count();
    assert!(status.core_dumped() || cores == 0);
    status
}

#[test]
fn a_crash_leaves_no_core() {
    assert!(!crash(&[]).core_dumped());
    // Where the machine makes any.
    let pattern = std::fs::read_to_string("/proc/sys/kernel/core_pattern").unwrap();
    if pattern.starts_with("core") && rustix::process::geteuid().is_root() {
        assert!(crash(&["--no-sandbox"]).core_dumped(), "{pattern}");
    } else {
        eprintln!("not shown that there would be one: core_pattern is {pattern}");
    }
}

#[test]
fn a_kernel_without_it_serves_all_the_same() {
    use seccompiler::{SeccompAction, SeccompFilter, TargetArch};
    let Ok(arch) = TargetArch::try_from(std::env::consts::ARCH) else {
        eprintln!("not run: no seccomp on this kind of machine");
        return;
    };
    // As a kernel before Landlock answers.
    let call = std::collections::BTreeMap::from([(libc::SYS_landlock_create_ruleset, vec![])]);
    let unknown = SeccompAction::Errno(libc::ENOSYS as u32);
    let filter = SeccompFilter::new(call, SeccompAction::Allow, unknown, arch).unwrap();
    let program: seccompiler::BpfProgram = filter.try_into().unwrap();
    let place = Place::new();
    let store = Store::with([("f", noise(1, 3 << 20))]);
    let mount = place.mount_with("mnt", &[&store.tree()], |command| {
        // SAFETY: two system calls; the program is made before.
        unsafe {
            command.pre_exec(move || {
                seccompiler::apply_filter(&program).map_err(|_| std::io::ErrorKind::Other.into())
            });
        }
    });
    assert_eq!(mount.read("f"), noise(1, 3 << 20));
    let report = sandbox(&place);
    assert_eq!(report["landlock"], serde_json::Value::Null);
    assert_eq!(report["seccomp"], true);
}

#[test]
fn a_local_layer_may_be_replaced_or_mounted_upon_later() {
    let place = Place::new();
    let dir = place.path("data/now");
    std::fs::create_dir_all(&dir).unwrap();
    std::fs::write(dir.join("f"), "one").unwrap();
    let mount = place.mount(&["--refresh", "1s", dir.to_str().unwrap()]);
    assert_eq!(mount.read("f"), b"one");
    std::fs::rename(&dir, place.path("data/old")).unwrap();
    std::fs::create_dir(&dir).unwrap();
    std::fs::write(dir.join("g"), "two").unwrap();
    wait_until("the other directory", || {
        std::fs::read(mount.path("g")).is_ok_and(|b| b == b"two")
    });
    if !rustix::process::geteuid().is_root() {
        eprintln!("not run: only root can mount upon it");
        return;
    }
    let flags = rustix::mount::MountFlags::empty();
    rustix::mount::mount("none", &dir, "tmpfs", flags, None).unwrap();
    struct Unmount<'a>(&'a Path);
    impl Drop for Unmount<'_> {
        fn drop(&mut self) {
            let _ = rustix::mount::unmount(self.0, rustix::mount::UnmountFlags::DETACH);
        }
    }
    let _unmount = Unmount(&dir);
    std::fs::write(dir.join("h"), "three").unwrap();
    wait_until("what is mounted upon it", || {
        std::fs::read(mount.path("h")).is_ok_and(|b| b == b"three")
    });
}

#[test]
fn the_mounter_ends_with_its_daemon() {
    let place = Place::new();
    let store = Store::with([("f", noise(1, 10))]);
    let mut mount = place.mount(&["--no-takeover", &store.tree()]);
    let children = format!("/proc/{0}/task/{0}/children", mount.pid());
    let mounter = std::fs::read_to_string(children).unwrap();
    let mounter = Path::new("/proc").join(mounter.trim());
    let environment = std::fs::read(mounter.join("environ")).unwrap();
    let names: Vec<&[u8]> = environment
        .split(|b| *b == 0)
        .filter_map(|pair| pair.split(|b| *b == b'=').next())
        .filter(|name| !name.is_empty())
        .collect();
    assert_eq!(names.len(), 2, "more than PATH and its role");
    // It does not listen to what ends the daemon.
    let pid = mounter
        .file_name()
        .unwrap()
        .to_str()
        .unwrap()
        .parse()
        .unwrap();
    let pid = rustix::process::Pid::from_raw(pid).unwrap();
    for signal in [rustix::process::Signal::TERM, rustix::process::Signal::INT] {
        rustix::process::kill_process(pid, signal).unwrap();
    }
    assert_eq!(mount.read("f"), noise(1, 10));
    mount.kill();
    wait_until("the end of the mounter", || !mounter.exists());
    assert!(
        is_mounted(mount.at()),
        "a dead mount says so; it does not vanish"
    );
}
