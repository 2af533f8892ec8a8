//! Complete cached files are read by the kernel itself, and nobody can tell but by the speed.
//!
//! As root on Linux 6.9 or later. Elsewhere files are read through the daemon, which the other
//! tests show; here that would be a failure, as nothing was shown.

mod common;

use std::fs::File;
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use common::mount::{Mount, Place};
use common::store::Store;
use common::{noise, wait_until};
use rustix::process::{Pid, Signal, kill_process};

const SIZE: usize = 3 << 20;

fn opens(place: &Place) -> u64 {
    let status = place.status();
    let passthrough = &status["mounts"][0]["passthrough"];
    assert_eq!(passthrough["on"], true, "{passthrough}");
    passthrough["opens"].as_u64().unwrap()
}

/// Reads a file until it is complete and sealed.
fn warm(place: &Place, mount: &Mount, name: &str, want: &[u8]) {
    wait_until("the file is passed through", || {
        let before = opens(place);
        // What the kernel has in its own pages it does not ask for, and while some of it is lost
        // from the cache (found damaged, after it was read) the file is not complete.
        let file = File::open(mount.path(name)).unwrap();
        rustix::fs::fadvise(&file, 0, None, rustix::fs::Advice::DontNeed).unwrap();
        drop(file);
        assert!(mount.read(name) == want);
        opens(place) > before
    });
}

/// A daemon that does not run: what is read meanwhile is read by the kernel.
struct Stopped(Pid);

impl Stopped {
    fn new(mount: &Mount) -> Stopped {
        let pid = Pid::from_raw(mount.pid() as i32).unwrap();
        kill_process(pid, Signal::STOP).unwrap();
        Stopped(pid)
    }
}

impl Drop for Stopped {
    fn drop(&mut self) {
        let _ = kill_process(self.0, Signal::CONT);
    }
}

/// Tells threads to stop when dropped.
struct Stop<'a>(&'a AtomicBool);

impl Drop for Stop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

fn blobs(dir: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut left = vec![dir.to_owned()];
    while let Some(dir) = left.pop() {
        for entry in dir.read_dir().unwrap().flatten() {
            let meta = entry.metadata().unwrap();
            if meta.is_dir() {
                left.push(entry.path());
            } else if meta.len() == SIZE as u64 && meta.permissions().mode() & 0o777 == 0o400 {
                found.push(entry.path());
            }
        }
    }
    found
}

#[test]
fn what_is_cached_is_read_without_the_daemon() {
    let place = Place::new();
    let bytes = noise(1, SIZE);
    let store = Store::with([("f", bytes.clone()), ("small", noise(2, 1000))]);
    let mount = place.mount(&[&store.tree()]);
    warm(&place, &mount, "f", &bytes);
    drop(mount);

    // By another daemon, from the first open on, and without a request for the bytes.
    let before = store.asked_bytes();
    let mount = place.mount(&[&store.tree()]);
    let file = File::open(mount.path("f")).unwrap();
    assert_eq!(opens(&place), 1);
    {
        let _stopped = Stopped::new(&mount);
        let mut all = vec![0; SIZE];
        file.read_exact_at(&mut all, 0).unwrap();
        assert!(all == bytes);
        let mut odd = vec![0; 5000];
        file.read_exact_at(&mut odd, 1_234_567).unwrap();
        assert!(odd == bytes[1_234_567..][..5000]);
        assert_eq!(file.read_at(&mut odd, SIZE as u64 - 10).unwrap(), 10);
        assert_eq!(file.read_at(&mut odd, SIZE as u64 + 10).unwrap(), 0);
    }
    assert_eq!(store.asked_bytes(), before);
    // Others may open it meanwhile, and small files, which are packed, go another way.
    assert!(mount.read("f") == bytes);
    assert!(mount.read("small") == noise(2, 1000));
    assert_eq!(opens(&place), 2);
}

#[test]
fn a_mapping_outlives_its_descriptor_and_the_daemon() {
    let place = Place::new();
    let bytes = noise(3, SIZE);
    let store = Store::with([("f", bytes.clone())]);
    let mut mount = place.mount(&[&store.tree()]);
    warm(&place, &mount, "f", &bytes);
    let file = File::open(mount.path("f")).unwrap();
    let mapping = common::mapping::Mapping::new(&file, SIZE);
    drop(file);
    // Opened again beside the mapping: the same mode.
    assert!(mount.read("f") == bytes);
    mount.kill();
    assert!(mapping.bytes() == bytes);
}

#[test]
fn an_inode_is_open_in_one_mode_at_a_time() {
    let place = Place::new();
    let bytes = noise(4, SIZE);
    let store = Store::with([("f", bytes.clone())]);
    let mount = place.mount(&[&store.tree()]);
    // Opened before anything of it was here, so read through the daemon, and all others with it.
    let first = File::open(mount.path("f")).unwrap();
    for _ in 0..3 {
        assert!(mount.read("f") == bytes);
        std::thread::sleep(Duration::from_millis(200));
    }
    assert_eq!(opens(&place), 0);
    let mut part = vec![0; 4096];
    first.read_exact_at(&mut part, 77).unwrap();
    assert!(part == bytes[77..][..4096]);
    drop(first);
    warm(&place, &mount, "f", &bytes);
}

#[test]
fn a_blob_that_was_touched_is_not_trusted() {
    let place = Place::new();
    let bytes = noise(5, SIZE);
    let store = Store::with([("f", bytes.clone())]);
    let mount = place.mount(&[&store.tree()]);
    warm(&place, &mount, "f", &bytes);
    drop(mount);
    let blobs = blobs(&place.cache());
    let [blob] = &blobs[..] else {
        panic!("not one blob: {blobs:?}")
    };
    std::fs::set_permissions(blob, std::fs::Permissions::from_mode(0o600)).unwrap();
    let damaged = File::options().write(true).open(blob).unwrap();
    damaged
        .write_all_at(&[!bytes[SIZE / 2]], SIZE as u64 / 2)
        .unwrap();
    drop(damaged);
    let mount = place.mount(&[&store.tree()]);
    assert!(mount.read("f") == bytes);
    assert_eq!(opens(&place), 0, "only what was verified is passed through");
    // It was brought anew, and sealed again.
    warm(&place, &mount, "f", &bytes);
}

#[test]
fn what_is_passed_through_is_not_evicted() {
    let place = Place::new();
    let files: Vec<(String, Vec<u8>)> = (0..8)
        .map(|i| (format!("f{i}"), noise(10 + i, SIZE)))
        .collect();
    let store = Store::with(files.iter().map(|(n, b)| (n.as_str(), b.clone())));
    let mount = place.mount(&["--cache-size", "12MiB", &store.tree()]);
    warm(&place, &mount, "f0", &files[0].1);
    let file = File::open(mount.path("f0")).unwrap();
    assert_eq!(file.metadata().unwrap().len(), SIZE as u64);
    // More than fits passes by.
    for (name, bytes) in &files[1..] {
        assert!(mount.read(name) == *bytes, "{name}");
    }
    place.ok(["cache", "gc"]);
    let _stopped = Stopped::new(&mount);
    let mut all = vec![0; SIZE];
    file.read_exact_at(&mut all, 0).unwrap();
    assert!(all == files[0].1);
}

#[test]
fn a_changed_file_is_another_inode_and_holders_keep_the_old_one() {
    let place = Place::new();
    let (old, new) = (noise(6, SIZE), noise(7, SIZE));
    let store = Store::with([("f", old.clone())]);
    let mount = place.mount(&["--refresh", "1s", &store.tree()]);
    warm(&place, &mount, "f", &old);
    let held = File::open(mount.path("f")).unwrap();
    store.put("f", new.clone());
    wait_until("the new content shows", || mount.read("f") == new);
    warm(&place, &mount, "f", &new);
    let mut all = vec![0; SIZE];
    held.read_exact_at(&mut all, 0).unwrap();
    assert!(all == old);
    let now = std::fs::metadata(mount.path("f")).unwrap();
    assert_ne!(held.metadata().unwrap().ino(), now.ino());
}

#[test]
fn opens_and_closes_at_once_never_fail() {
    let place = Place::new();
    let files: Vec<(String, Vec<u8>)> = (0..4)
        .map(|i| (format!("f{i}"), noise(20 + i, SIZE)))
        .collect();
    let store = Store::with(files.iter().map(|(n, b)| (n.as_str(), b.clone())));
    // Little room, so that files become complete, are sealed and go again all the time.
    let mount = place.mount(&["--cache-size", "8MiB", &store.tree()]);
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        for t in 0..6_usize {
            let (files, mount, stop) = (&files, &mount, &stop);
            scope.spawn(move || {
                let mut at = t;
                let mut held = Vec::new();
                while !stop.load(Ordering::Relaxed) {
                    at = (at * 7 + 3) % 64;
                    let (name, bytes) = &files[at % files.len()];
                    let file = File::open(mount.path(name)).unwrap();
                    if at % 4 == 1 {
                        assert!(mount.read(name) == *bytes, "{name}");
                    }
                    let mut part = vec![0; 100_000];
                    let offset = at * 45_000;
                    file.read_exact_at(&mut part, offset as u64).unwrap();
                    assert!(part == bytes[offset..][..100_000], "{name} at {offset}");
                    if at % 3 == 0 {
                        let mapping = common::mapping::Mapping::new(&file, SIZE);
                        assert!(mapping.bytes()[..4096] == bytes[..4096]);
                        held.push(mapping);
                    }
                    if held.len() > 3 {
                        held.clear();
                    }
                }
            });
        }
        std::thread::sleep(Duration::from_secs(3));
        // Told to stop even if the wait panics, or the others would go on for ever.
        let _stop = Stop(&stop);
        wait_until("some are passed through", || opens(&place) > 20);
    });
}

#[test]
fn it_can_be_turned_off() {
    let place = Place::new();
    let bytes = noise(8, SIZE);
    let store = Store::with([("f", bytes.clone())]);
    let mount = place.mount(&["--passthrough=false", &store.tree()]);
    for _ in 0..3 {
        assert!(mount.read("f") == bytes);
        std::thread::sleep(Duration::from_millis(200));
    }
    let status = place.status();
    let passthrough = &status["mounts"][0]["passthrough"];
    assert_eq!(passthrough["on"], false);
    assert_eq!(passthrough["opens"], 0);
    assert_eq!(passthrough["reason"], "turned off");
    let text = place.ok(["status"]);
    assert!(text.contains("passthrough off: turned off"), "{text}");
}
