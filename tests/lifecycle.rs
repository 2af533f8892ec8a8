//! How mounts begin and end.

mod common;

use std::ffi::OsStr;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::{Duration, Instant};

use common::mount::{Place, is_mounted};
use common::nobody::Nobody;
use common::store::{Mood, Store};
use common::{noise, wait_until};
use rustix::process::Signal;

/// How long the end of a mount may take that nobody uses.
const PROMPT: Duration = Duration::from_secs(8);

/// How long the end may take while a file is open: what the daemon grants its readers, and some.
const BOUND: Duration = Duration::from_secs(20);

/// A directory with a file.
fn source(place: &Place) -> String {
    let dir = place.path("source");
    std::fs::create_dir_all(dir.join("sub")).unwrap();
    std::fs::write(dir.join("hello"), "hello").unwrap();
    std::fs::write(dir.join("sub/x"), "x").unwrap();
    dir.to_str().unwrap().to_owned()
}

/// Ends mounts in the background that a failing test left behind.
struct Cleanup<'a>(&'a Place);

impl Drop for Cleanup<'_> {
    fn drop(&mut self) {
        for record in records(self.0) {
            let at = PathBuf::from(record["mountpoint"].as_str().unwrap());
            while is_mounted(&at) {
                rustix::mount::unmount(&at, rustix::mount::UnmountFlags::DETACH).unwrap();
            }
            let pid = record["pid"].as_i64().unwrap() as i32;
            if runs(pid as u32) {
                let pid = rustix::process::Pid::from_raw(pid).unwrap();
                let _ = rustix::process::kill_process(pid, Signal::KILL);
            }
        }
    }
}

/// The records of mounts, dead ones included.
fn records(place: &Place) -> Vec<serde_json::Value> {
    let Ok(dir) = std::fs::read_dir(place.path("run")) else {
        return Vec::new();
    };
    dir.map(|e| e.unwrap().path())
        .filter(|p| p.extension() == Some(OsStr::new("json")))
        .filter_map(|p| serde_json::from_slice(&std::fs::read(p).ok()?).ok())
        .collect()
}

/// What a mount left in the directory of records, other than logs.
fn leftovers(place: &Place) -> Vec<PathBuf> {
    std::fs::read_dir(place.path("run"))
        .unwrap()
        .map(|e| e.unwrap().path())
        .filter(|p| p.extension() != Some(OsStr::new("log")))
        .collect()
}

/// Whether a process runs, zombies apart.
fn runs(pid: u32) -> bool {
    std::fs::read_to_string(format!("/proc/{pid}/stat"))
        .is_ok_and(|s| !s.rsplit_once(") ").unwrap().1.starts_with('Z'))
}

fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// Asserts that a command fails with a status, saying something, and that nothing is mounted.
fn refused(place: &Place, args: &[&str], status: i32, says: &str) {
    let before = svol::fuse::mount::mounts().unwrap();
    let started = Instant::now();
    let output = place.svol(args);
    let text = stderr(&output);
    assert_eq!(output.status.code(), Some(status), "{args:?}: {text}");
    assert!(text.contains(says), "{args:?}: {text}");
    assert!(started.elapsed() < Duration::from_secs(30), "{args:?}");
    let here = place.path("");
    let ours = |m: &&svol::fuse::mount::MountInfo| m.mountpoint.starts_with(&here);
    let after = svol::fuse::mount::mounts().unwrap();
    assert_eq!(
        before.iter().filter(ours).count(),
        after.iter().filter(ours).count(),
        "{args:?} left a mount"
    );
}

#[test]
fn a_mount_in_the_background_serves_when_it_returns() {
    let place = Place::new();
    let _cleanup = Cleanup(&place);
    source(&place);
    std::fs::create_dir(place.path("mnt")).unwrap();
    // Relative paths, since the daemon works elsewhere; and from a short-lived process group.
    let output = place
        .command(["mount", "./source", "mnt"])
        .current_dir(place.path(""))
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", stderr(&output));
    assert_eq!((stderr(&output).as_str(), output.stdout.len()), ("", 0));
    let at = place.path("mnt");
    assert!(is_mounted(&at));
    assert_eq!(std::fs::read(at.join("hello")).unwrap(), b"hello");

    let record = records(&place).remove(0);
    assert_eq!(record["mountpoint"], at.to_str().unwrap());
    let pid = record["pid"].as_u64().unwrap() as u32;
    assert_ne!(pid, std::process::id());
    let link = |name: &str| std::fs::read_link(format!("/proc/{pid}/{name}")).unwrap();
    assert_eq!(link("cwd"), Path::new("/"));
    for fd in ["fd/0", "fd/1", "fd/2"] {
        assert_eq!(link(fd), Path::new("/dev/null"), "{fd}");
    }
    let mode = |path: &Path| path.metadata().unwrap().permissions().mode() & 0o7777;
    assert_eq!(mode(&place.cache()), 0o700);
    assert_eq!(mode(&place.path("run")), 0o700);
    let logs: Vec<PathBuf> = std::fs::read_dir(place.path("run"))
        .unwrap()
        .map(|e| e.unwrap().path())
        .filter(|p| p.extension() == Some(OsStr::new("log")))
        .collect();
    assert_eq!(logs.len(), 1);
    assert_eq!(mode(&logs[0]), 0o600);
    assert_eq!(mode(Path::new(record["socket"].as_str().unwrap())), 0o600);
    assert!(record["socket"].as_str().unwrap().ends_with(".sock"));

    place.ok(["unmount", at.to_str().unwrap()]);
    assert!(!is_mounted(&at));
    assert!(!runs(pid));
    assert_eq!(leftovers(&place), Vec::<PathBuf>::new());
    assert!(std::fs::read_dir(&at).unwrap().next().is_none());
}

#[test]
fn a_named_log_is_for_its_owner_only_and_appended_to() {
    let place = Place::new();
    let _cleanup = Cleanup(&place);
    let source = source(&place);
    let at = place.path("mnt");
    std::fs::create_dir(&at).unwrap();
    let log = place.path("my.log");
    let (at, log_arg) = (at.to_str().unwrap(), log.to_str().unwrap());
    for _ in 0..2 {
        place.ok([
            "mount",
            "--log-file",
            log_arg,
            "--log-format",
            "json",
            "-v",
            &source,
            at,
        ]);
        place.ok(["unmount", at]);
    }
    assert_eq!(log.metadata().unwrap().permissions().mode() & 0o777, 0o600);
    let text = std::fs::read_to_string(&log).unwrap();
    let serving = text.lines().filter(|l| l.contains("serving")).count();
    assert_eq!(serving, 2, "{text}");
    for line in text.lines() {
        serde_json::from_str::<serde_json::Value>(line).unwrap();
    }
}

#[test]
fn what_cannot_work_is_refused_with_the_reason() {
    let place = Place::new();
    let _cleanup = Cleanup(&place);
    let source = source(&place);
    let path = |name: &str| place.path(name).to_str().unwrap().to_owned();
    let dir = |name: &str| {
        std::fs::create_dir_all(place.path(name)).unwrap();
        path(name)
    };
    std::fs::write(place.path("file"), "").unwrap();
    let mnt = dir("mnt");
    std::fs::write(PathBuf::from(dir("full")).join("x"), "").unwrap();

    refused(&place, &["mount", &source, &path("full")], 2, "not empty");
    refused(
        &place,
        &["mount", &source, &path("file")],
        2,
        "not a directory",
    );
    refused(&place, &["mount", &source, &path("missing")], 2, "mkdir -p");
    let inside = dir("source/empty");
    refused(&place, &["mount", &source, &inside], 2, "the local source");
    refused(
        &place,
        &["mount", &inside, &path("source/sub/../empty")],
        2,
        "read itself",
    );
    let cached = dir("cache2/mnt");
    let cache2 = path("cache2");
    refused(
        &place,
        &["mount", "--cache-dir", &cache2, &source, &cached],
        2,
        "the cache",
    );
    let around = dir("around");
    let within = path("around/cache");
    refused(
        &place,
        &["mount", "--cache-dir", &within, &source, &around],
        2,
        "the cache",
    );
    assert!(!Path::new(&within).exists(), "made before it was refused");
    // Through a symbolic link it is the same place.
    symlink(&around, place.path("link")).unwrap();
    let linked = path("link/cache");
    refused(
        &place,
        &["mount", "--cache-dir", &linked, &source, &around],
        2,
        "the cache",
    );
    let log = path("mnt/svol.log");
    refused(
        &place,
        &["mount", "--log-file", &log, &source, &mnt],
        2,
        "the log file",
    );
    assert!(!Path::new(&log).exists(), "made before it was refused");

    refused(
        &place,
        &["mount", "-o", "rw", &source, &mnt],
        2,
        "read-only",
    );
    refused(
        &place,
        &["mount", "-o", "frobnicate", &source, &mnt],
        2,
        "frobnicate",
    );
    refused(
        &place,
        &["mount", "--frobnicate", &source, &mnt],
        2,
        "frobnicate",
    );
    refused(&place, &["mount", &source], 2, "");
    refused(&place, &["mount", "gopher://x/", &mnt], 2, "gopher");

    let volume = place.path("volume.yaml");
    std::fs::write(
        &volume,
        "apiVersion: sharedvolume.io/v1\nkind: Volume\nmetadata:\n  name: v\nspec:\n  layers:\n\
         \x20   - local:\n        path: /srv\n      refrehs: 5m\n",
    )
    .unwrap();
    let volume = volume.to_str().unwrap();
    let line = format!("{volume}:9");
    refused(&place, &["mount", "-c", volume, &mnt], 2, &line);
    refused(&place, &["mount", "-c", volume, &mnt], 2, "refresh");
    refused(
        &place,
        &["mount", "-c", &path("none.yaml"), &mnt],
        2,
        "none.yaml",
    );

    // Nothing of all that got as far as a record.
    assert_eq!(records(&place).len(), 0);
    refused(&place, &["unmount", &mnt], 1, "no volume");
    refused(&place, &["status", &mnt], 1, "no volume");
    refused(&place, &["refresh", &mnt], 1, "not in a mounted volume");
    refused(&place, &["explain", &mnt], 1, "not in a mounted volume");
}

#[test]
fn without_wait_a_mount_does_not_ask_and_with_it_an_unreachable_source_is_a_failure() {
    let place = Place::new();
    let _cleanup = Cleanup(&place);
    std::fs::create_dir(place.path("mnt")).unwrap();
    let mnt = place.path("mnt");
    let mnt = mnt.to_str().unwrap();
    let store = Store::with([("f", b"f".to_vec())]);
    store.mood("", Mood::Silent);
    let tree = store.tree();

    let started = Instant::now();
    place.ok(["mount", &tree, mnt]);
    assert!(started.elapsed() < PROMPT, "{:?}", started.elapsed());
    assert_eq!(store.requests(), 0);
    place.ok(["unmount", mnt]);

    let started = Instant::now();
    refused(
        &place,
        &["mount", "--wait", "--timeout", "1s", &tree, mnt],
        1,
        "no answer",
    );
    assert!(started.elapsed() < PROMPT, "{:?}", started.elapsed());
    store.stop();
    refused(
        &place,
        &["mount", "--wait", "--timeout", "1s", &tree, mnt],
        1,
        "refused",
    );
    store.mood("", Mood::Serve);
    store.resume();
    place.ok(["mount", "--wait", &tree, mnt]);
    assert!(store.requests() > 0);
    place.ok(["unmount", mnt]);
}

#[test]
fn every_way_to_end_a_mount_leaves_nothing() {
    type Way = fn(&Path, u32);
    let ways: [(&str, Way); 5] = [
        ("svol unmount", |_, _| {}),
        ("umount", |at, _| run("umount", at)),
        ("fusermount3 -u", |at, _| {
            let done = Command::new("fusermount3")
                .arg("-u")
                .arg(at)
                .status()
                .unwrap();
            assert!(done.success());
        }),
        ("SIGTERM", |_, pid| signal(pid, Signal::TERM)),
        ("SIGINT", |_, pid| signal(pid, Signal::INT)),
    ];
    std::thread::scope(|scope| {
        for (name, way) in ways {
            scope.spawn(move || {
                let place = Place::new();
                let source = source(&place);
                let mut mount = place.mount(&[&source]);
                assert_eq!(mount.read("hello"), b"hello", "{name}");
                assert_eq!(leftovers(&place).len(), 3, "{name}");
                let started = Instant::now();
                if name == "svol unmount" {
                    place.ok([OsStr::new("unmount"), mount.at().as_os_str()]);
                    assert!(!is_mounted(mount.at()));
                } else {
                    way(mount.at(), mount.pid());
                }
                let status = mount.wait();
                assert!(
                    started.elapsed() < PROMPT,
                    "{name}: {:?}",
                    started.elapsed()
                );
                assert!(status.success(), "{name}: {status}\n{}", mount.log());
                assert!(!is_mounted(mount.at()), "{name}");
                assert_eq!(leftovers(&place), Vec::<PathBuf>::new(), "{name}");
                // And it can be mounted again at once.
                let again = place.mount(&[&source]);
                assert_eq!(again.read("sub/x"), b"x", "{name}");
            });
        }
    });
}

fn run(program: &str, at: &Path) {
    assert!(
        Command::new(program).arg(at).status().unwrap().success(),
        "{program}"
    );
}

fn signal(pid: u32, signal: Signal) {
    let pid = rustix::process::Pid::from_raw(pid as i32).unwrap();
    rustix::process::kill_process(pid, signal).unwrap();
}

#[test]
fn unmounting_what_is_in_use_says_so() {
    let place = Place::new();
    let source = source(&place);
    let mut mount = place.mount(&[&source]);
    let at = mount.at().to_str().unwrap().to_owned();
    let held = std::fs::File::open(mount.path("hello")).unwrap();
    refused(&place, &["unmount", &at], 1, "in use");
    assert_eq!(mount.read("hello"), b"hello");
    drop(held);
    // A close reaches the daemon a moment after it returned.
    wait_until("an idle mount", || {
        place.svol(["unmount", &at]).status.success()
    });
    assert!(mount.wait().success());
}

#[test]
fn sigterm_ends_a_mount_whose_file_is_open() {
    use std::os::unix::fs::FileExt;
    let place = Place::new();
    let store = Store::with([("f", noise(1, 3 << 20))]);
    let mut mount = place.mount(&[&store.tree()]);
    let held = std::fs::File::open(mount.path("f")).unwrap();
    held.read_exact_at(&mut [0; 100], 0).unwrap();
    let (status, took) = mount.signal(Signal::TERM);
    assert!(took < BOUND, "{took:?}");
    assert!(status.success(), "{status}\n{}", mount.log());
    assert!(!is_mounted(mount.at()));
    assert_eq!(leftovers(&place), Vec::<PathBuf>::new());
    assert!(held.read_at(&mut [0; 100], 2 << 20).is_err());
}

#[test]
fn sigterm_ends_a_mount_whose_reader_waits_for_a_dead_source() {
    let place = Place::new();
    let store = Store::with([("f", noise(1, 3 << 20))]);
    let mut mount = place.mount(&[&store.tree()]);
    assert_eq!(std::fs::read_dir(mount.at()).unwrap().count(), 1);
    store.mood("f", Mood::Silent);
    let file = mount.path("f");
    let reader = std::thread::spawn(move || std::fs::read(file));
    wait_until("a waiting reader", || {
        store.seen().iter().any(|s| s.target == "/t/f")
    });
    let (status, took) = mount.signal(Signal::TERM);
    assert!(took < BOUND, "{took:?}");
    assert!(status.success(), "{status}\n{}", mount.log());
    assert!(!is_mounted(mount.at()));
    assert!(reader.join().unwrap().is_err());
}

#[test]
fn a_dead_mount_is_replaced() {
    let place = Place::new();
    let source = source(&place);
    let mut mount = place.mount(&[&source]);
    mount.kill();
    assert!(is_mounted(mount.at()));
    let dead = std::fs::metadata(mount.at()).unwrap_err();
    assert_eq!(
        dead.raw_os_error(),
        Some(rustix::io::Errno::NOTCONN.raw_os_error())
    );
    // Its record is seen to be one of the dead, and does not come between.
    assert_eq!(place.status()["mounts"].as_array().unwrap().len(), 0);

    let at = mount.at().to_str().unwrap().to_owned();
    let _cleanup = Cleanup(&place);
    place.ok(["mount", &source, &at]);
    assert_eq!(mount.read("hello"), b"hello");
    assert_eq!(place.status()["mounts"][0]["mountpoint"], at.as_str());
    place.ok(["unmount", &at]);
    assert!(!is_mounted(mount.at()), "the dead one is still below");
}

#[test]
fn a_dead_mount_can_be_unmounted() {
    let place = Place::new();
    let source = source(&place);
    let mut mount = place.mount(&[&source]);
    mount.kill();
    place.ok([OsStr::new("unmount"), mount.at().as_os_str()]);
    assert!(!is_mounted(mount.at()));
    assert_eq!(place.status()["mounts"].as_array().unwrap().len(), 0);
}

#[test]
fn a_second_mount_at_a_live_one_is_refused() {
    let place = Place::new();
    let source = source(&place);
    let mount = place.mount(&[&source]);
    let at = mount.at().to_str().unwrap();
    refused(&place, &["mount", &source, at], 2, "mounted there already");
    assert_eq!(mount.read("hello"), b"hello");
    // Inside of one neither: the inner mount point is a directory of a volume.
    let inner = mount.path("sub");
    refused(
        &place,
        &["mount", &source, inner.to_str().unwrap()],
        2,
        "not empty",
    );
}

#[test]
fn several_mounts_are_told_apart() {
    let place = Place::new();
    let source = source(&place);
    let one = place.mount_with("one", &[&source], |_| {});
    let two = place.mount_with("two", &[&format!("{source}=/deep/in")], |_| {});
    assert_eq!(two.read("deep/in/hello"), b"hello");
    let status = place.status();
    let at = |i: usize| {
        status["mounts"][i]["mountpoint"]
            .as_str()
            .unwrap()
            .to_owned()
    };
    assert_eq!(Path::new(&at(0)), one.at());
    assert_eq!(Path::new(&at(1)), two.at());
    let only: serde_json::Value =
        serde_json::from_str(&place.ok(["status", "--json", &at(1)])).unwrap();
    assert_eq!(only["mounts"].as_array().unwrap().len(), 1);
    assert_eq!(only["mounts"][0]["pid"], two.pid());
    let both = place.svol(["unmount", &at(0), "/nowhere/at/all"]);
    assert_eq!(both.status.code(), Some(3), "{}", stderr(&both));
    assert!(!is_mounted(one.at()));
    assert!(is_mounted(two.at()));
}

#[test]
fn a_user_without_privileges_mounts_through_fusermount3() {
    if !rustix::process::geteuid().is_root() {
        // Then every other test is this one.
        return;
    }
    let place = Place::new();
    source(&place);
    let program = place.path("svol");
    std::fs::copy(env!("CARGO_BIN_EXE_svol"), &program).unwrap();
    std::fs::create_dir(place.path("mnt")).unwrap();
    std::fs::create_dir(place.path("dev")).unwrap();
    let chown = Command::new("chown")
        .args(["-R", "65534:65534"])
        .arg(place.path(""))
        .status();
    assert!(chown.unwrap().success());
    let user = Nobody::start(&place);
    let svol = |args: &[&str]| user.run(&program, args);
    let at = place.path("mnt");
    let source = place.path("source");
    let (source, at_text) = (source.to_str().unwrap(), at.to_str().unwrap());
    let inside = |name: &str| at.join(name).to_str().unwrap().to_owned();
    let text = |output: &Output| String::from_utf8_lossy(&output.stdout).into_owned();

    let mounted = svol(&["mount", source, at_text]);
    assert!(mounted.status.success(), "{}", stderr(&mounted));
    let hello = user.run(Path::new("cat"), &[&inside("hello")]);
    assert_eq!(hello.stdout, b"hello", "{}", stderr(&hello));
    let owner = user.run(Path::new("stat"), &["-c", "%u:%g", at_text]);
    assert_eq!(text(&owner).trim(), "65534:65534");
    let mounts = user.run(Path::new("cat"), &["/proc/self/mountinfo"]);
    let line = format!(" {at_text} ");
    assert!(
        text(&mounts)
            .lines()
            .any(|l| l.contains(&line) && l.contains("fuse.svol"))
    );
    let write = user.run(Path::new("touch"), &[&inside("new")]);
    assert!(stderr(&write).contains("Read-only"), "{}", stderr(&write));
    // Others, root included, may not look in unless told.
    let denied = user.inside("cat").arg(inside("hello")).output().unwrap();
    assert!(
        stderr(&denied).contains("Permission denied"),
        "{}",
        stderr(&denied)
    );
    let status = svol(&["status"]);
    assert!(text(&status).contains(at_text), "{}", stderr(&status));
    let status: serde_json::Value =
        serde_json::from_slice(&svol(&["status", "--json"]).stdout).unwrap();
    let sandbox = &status["mounts"][0]["sandbox"];
    assert_eq!(
        (&sandbox["on"], &sandbox["seccomp"], &sandbox["noNewPrivs"]),
        (&true.into(), &true.into(), &true.into()),
        "{sandbox}"
    );
    let others = svol(&["mount", "--allow-other", source, &format!("{at_text}/sub")]);
    assert_eq!(others.status.code(), Some(2), "{}", stderr(&others));
    let ended = svol(&["unmount", at_text]);
    assert!(ended.status.success(), "{}", stderr(&ended));
    let mounts = user.run(Path::new("cat"), &["/proc/self/mountinfo"]);
    assert!(!text(&mounts).contains(&line));
    assert_eq!(leftovers(&place), Vec::<PathBuf>::new());

    // What is not allowed here has its reason told.
    let others = svol(&["mount", "--allow-other", source, at_text]);
    assert_eq!(others.status.code(), Some(1));
    assert!(
        stderr(&others).contains("user_allow_other"),
        "{}",
        stderr(&others)
    );
}
