//! What happens on a mount when the source changes.

mod common;

use std::ffi::OsStr;
use std::fs::File;
use std::io::ErrorKind;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant, UNIX_EPOCH};

use common::mount::{Mount, Place, is_mounted};
use common::store::Store;
use common::{noise, wait_until};
use rustix::io::Errno;

/// Larger than what one read and its read-ahead bring.
const BIG: usize = 24 << 20;

/// A source that can be changed, of each kind.
enum Source {
    Tree(Store),
    S3(Store),
    Local(PathBuf),
}

impl Source {
    fn all(place: &Place) -> Vec<(&'static str, Source)> {
        let dir = place.path("source");
        std::fs::create_dir(&dir).unwrap();
        vec![
            ("tree", Source::Tree(Store::start())),
            ("s3", Source::S3(Store::start())),
            ("local", Source::Local(dir)),
        ]
    }

    fn put(&self, key: &str, bytes: &[u8], secs: u64) {
        match self {
            Source::Tree(store) | Source::S3(store) => store.put_at(key, bytes, secs),
            Source::Local(dir) => {
                let path = dir.join(key);
                std::fs::create_dir_all(path.parent().unwrap()).unwrap();
                let aside = dir.join(".aside");
                std::fs::write(&aside, bytes).unwrap();
                let file = File::options().write(true).open(&aside).unwrap();
                file.set_modified(UNIX_EPOCH + Duration::from_secs(secs))
                    .unwrap();
                std::fs::rename(&aside, &path).unwrap();
            }
        }
    }

    fn remove(&self, key: &str) {
        match self {
            Source::Tree(store) | Source::S3(store) => store.remove(key),
            Source::Local(dir) => {
                std::fs::remove_file(dir.join(key)).unwrap();
                // An object store has no empty directories.
                let mut parent = dir.join(key);
                while parent.pop() && parent != *dir && std::fs::remove_dir(&parent).is_ok() {}
            }
        }
    }

    fn mount(&self, place: &Place, name: &str, options: &[&str]) -> Mount {
        let mut args: Vec<String> = options.iter().map(|o| (*o).to_owned()).collect();
        match self {
            Source::Tree(store) => args.push(store.tree()),
            Source::S3(store) => args.extend(store.s3_args()),
            Source::Local(dir) => args.push(dir.to_str().unwrap().to_owned()),
        }
        let args: Vec<&str> = args.iter().map(String::as_str).collect();
        place.mount_with(name, &args, |_| {})
    }
}

fn refresh(place: &Place, path: impl AsRef<OsStr>) -> String {
    place.ok([OsStr::new("refresh"), path.as_ref()])
}

fn ino(mount: &Mount, path: &str) -> u64 {
    mount.path(path).metadata().unwrap().ino()
}

fn is_stale(error: &std::io::Error) -> bool {
    error.raw_os_error() == Some(Errno::STALE.raw_os_error())
}

/// Reads all of an open file from an offset on, as far as it can be read.
fn rest(file: &File, mut at: usize) -> (Vec<u8>, Option<std::io::Error>) {
    let mut all = Vec::new();
    let mut buf = vec![0; 1 << 20];
    loop {
        match file.read_at(&mut buf, at as u64) {
            Ok(0) => return (all, None),
            Ok(n) => {
                all.extend_from_slice(&buf[..n]);
                at += n;
            }
            Err(error) => return (all, Some(error)),
        }
    }
}

#[test]
fn an_overwritten_file_is_new_and_whoever_has_it_open_keeps_the_old_one() {
    let place = Place::new();
    for (name, source) in Source::all(&place) {
        // The same size, and older than what it replaces.
        let (old, new) = (noise(1, BIG), noise(2, BIG));
        source.put("d/f", &old, 1_600_000_000);
        let mount = source.mount(&place, name, &[]);
        let held = File::open(mount.path("d/f")).unwrap();
        let mut first = vec![0; 1 << 20];
        held.read_exact_at(&mut first, 0).unwrap();
        assert!(first == old[..1 << 20], "{name}");
        let (dir, before) = (ino(&mount, "d"), ino(&mount, "d/f"));

        source.put("d/f", &new, 1_500_000_000);
        let said = refresh(&place, mount.path("d"));
        assert!(said.contains("1 entries changed"), "{name}: {said}");
        assert_ne!(ino(&mount, "d/f"), before, "{name}");
        assert_eq!(ino(&mount, "d"), dir, "{name}");
        assert_eq!(mount.path("d/f").metadata().unwrap().mtime(), 1_500_000_000);
        assert!(mount.read("d/f") == new, "{name}");

        // Bytes of the old version, or nothing.
        assert_eq!(held.metadata().unwrap().ino(), before, "{name}");
        let (got, end) = rest(&held, 1 << 20);
        assert!(got == old[1 << 20..(1 << 20) + got.len()], "{name}: mixed");
        match end {
            Some(error) => assert!(is_stale(&error), "{name}: {error}"),
            None => assert_eq!(got.len(), BIG - (1 << 20), "{name}"),
        }
        let mut again = vec![0; 1 << 20];
        held.read_exact_at(&mut again, 0).unwrap();
        assert!(again == first, "{name}");
    }
}

#[test]
fn a_change_between_two_reads_without_a_refresh_never_mixes() {
    let place = Place::new();
    for (name, source) in Source::all(&place) {
        let (old, new) = (noise(3, BIG), noise(4, BIG));
        source.put("f", &old, 1_600_000_000);
        let mount = source.mount(&place, name, &[]);
        let held = File::open(mount.path("f")).unwrap();
        let mut first = vec![0; 300_000];
        held.read_exact_at(&mut first, 0).unwrap();
        source.put("f", &new, 1_600_000_000);
        let (got, end) = rest(&held, 300_000);
        assert!(got == old[300_000..300_000 + got.len()], "{name}: mixed");
        match (&source, end) {
            // A descriptor of a local file that was renamed over still has its bytes.
            (Source::Local(_), None) => assert_eq!(got.len(), BIG - 300_000),
            (_, Some(error)) => assert!(is_stale(&error), "{name}: {error}"),
            (_, None) => panic!("{name}: nobody has the old version any more"),
        }
        // Once that was noticed, the next open sees the new one, without a refresh.
        if let Source::Local(_) = source {
            refresh(&place, mount.at());
        }
        wait_until("the new version", || {
            std::fs::read(mount.path("f")).is_ok_and(|bytes| bytes == new)
        });
    }
}

#[test]
fn a_change_between_lookup_and_read_is_noticed() {
    let place = Place::new();
    for (name, source) in Source::all(&place) {
        let (old, new) = (noise(5, 3 << 20), noise(6, 3 << 20));
        source.put("f", &old, 1_600_000_000);
        let mount = source.mount(&place, name, &[]);
        let before = ino(&mount, "f");
        source.put("f", &new, 1_400_000_000);
        // The listing is trusted for minutes. What is read is the new content under a new number,
        // or an error that says why, once.
        let mut stale = 0;
        let file = loop {
            let file = match File::open(mount.path("f")) {
                Ok(file) => file,
                Err(error) => {
                    assert!(is_stale(&error), "{name}: {error}");
                    stale += 1;
                    assert!(stale < 4, "{name}: stale for ever");
                    continue;
                }
            };
            match rest(&file, 0) {
                (got, None) => {
                    assert!(got == new, "{name}");
                    break file;
                }
                (got, Some(error)) => {
                    assert!(got.is_empty() && is_stale(&error), "{name}: {error}");
                    stale += 1;
                    assert!(stale < 4, "{name}: stale for ever");
                }
            }
        };
        assert_ne!(file.metadata().unwrap().ino(), before, "{name}");
    }
}

#[test]
fn a_local_file_that_is_written_to_while_open_is_stale() {
    let place = Place::new();
    let source = Source::Local(place.path("source"));
    let (old, new) = (noise(7, 1 << 20), noise(8, 1 << 20));
    source_dir(&source);
    source.put("f", &old, 1_600_000_000);
    let mount = source.mount(&place, "mnt", &[]);
    let held = File::open(mount.path("f")).unwrap();
    held.read_exact_at(&mut [0; 100], 0).unwrap();
    // In place: the same inode, size and time.
    let file = File::options()
        .write(true)
        .open(place.path("source/f"))
        .unwrap();
    file.write_all_at(&new, 0).unwrap();
    file.set_modified(UNIX_EPOCH + Duration::from_secs(1_600_000_000))
        .unwrap();
    let error = held.read_at(&mut [0; 100], 900_000).unwrap_err();
    assert!(is_stale(&error), "{error}");
    refresh(&place, mount.at());
    assert!(mount.read("f") == new);
}

fn source_dir(source: &Source) {
    if let Source::Local(dir) = source {
        std::fs::create_dir_all(dir).unwrap();
    }
}

#[test]
fn a_deleted_file_stays_with_whoever_has_it_open() {
    let place = Place::new();
    for (name, source) in Source::all(&place) {
        let bytes = noise(9, BIG);
        source.put("f", &bytes, 1_600_000_000);
        source.put("other", b"other", 1_600_000_000);
        let mount = source.mount(&place, name, &[]);
        let held = File::open(mount.path("f")).unwrap();
        held.read_exact_at(&mut vec![0; 500_000], 0).unwrap();
        source.remove("f");
        let said = refresh(&place, mount.at());
        assert!(said.contains("1 gone"), "{name}: {said}");
        let gone = File::open(mount.path("f")).unwrap_err();
        assert_eq!(gone.kind(), ErrorKind::NotFound, "{name}");
        assert_eq!(held.metadata().unwrap().len(), BIG as u64, "{name}");
        let (got, end) = rest(&held, 0);
        assert!(got.len() >= 500_000 && got == bytes[..got.len()], "{name}");
        if let Some(error) = end {
            assert!(is_stale(&error), "{name}: {error}");
        }
        assert_eq!(mount.read("other"), b"other", "{name}");
    }
}

#[test]
fn a_file_that_is_gone_from_the_source_before_a_refresh_is_stale_then_absent() {
    let place = Place::new();
    for (name, source) in Source::all(&place) {
        source.put("f", &noise(1, 2 << 20), 1_600_000_000);
        source.put("g", b"g", 1_600_000_000);
        let mount = source.mount(&place, name, &[]);
        assert_eq!(std::fs::read_dir(mount.at()).unwrap().count(), 2, "{name}");
        source.remove("f");
        let first = std::fs::read(mount.path("f")).unwrap_err();
        assert!(
            is_stale(&first) || first.kind() == ErrorKind::NotFound,
            "{name}: {first}"
        );
        wait_until("the absence", || {
            File::open(mount.path("f")).is_err_and(|e| e.kind() == ErrorKind::NotFound)
        });
        assert_eq!(mount.read("g"), b"g");
    }
}

#[test]
fn new_entries_appear_and_others_change_their_kind() {
    let place = Place::new();
    for (name, source) in Source::all(&place) {
        source.put("stays/x", b"x", 1_600_000_000);
        source.put("file", b"file", 1_600_000_000);
        source.put("dir/in", b"in", 1_600_000_000);
        let mount = source.mount(&place, name, &[]);
        let look = |path: &str| std::fs::metadata(mount.path(path));
        assert_eq!(mount.read("dir/in"), b"in");
        assert_eq!(mount.read("file"), b"file");
        assert_eq!(mount.read("stays/x"), b"x");
        // The kernel remembers that these are absent.
        for path in ["new", "stays/new", "fresh"] {
            assert_eq!(
                look(path).unwrap_err().kind(),
                ErrorKind::NotFound,
                "{name} {path}"
            );
        }
        source.remove("file");
        source.remove("dir/in");
        source.put("file/now/a/dir", b"1", 1_600_000_001);
        source.put("dir", b"now a file", 1_600_000_001);
        source.put("new", b"2", 1_600_000_001);
        source.put("stays/new", b"3", 1_600_000_001);
        source.put("fresh/and/deep", b"4", 1_600_000_001);
        refresh(&place, mount.at());
        assert_eq!(mount.read("file/now/a/dir"), b"1", "{name}");
        assert_eq!(mount.read("dir"), b"now a file", "{name}");
        assert_eq!(mount.read("new"), b"2", "{name}");
        assert_eq!(mount.read("stays/new"), b"3", "{name}");
        assert_eq!(mount.read("fresh/and/deep"), b"4", "{name}");
        assert_eq!(mount.read("stays/x"), b"x", "{name}");
        let mut names: Vec<String> = std::fs::read_dir(mount.at())
            .unwrap()
            .map(|e| e.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        assert_eq!(names, ["dir", "file", "fresh", "new", "stays"], "{name}");
    }
}

#[test]
fn changes_are_found_by_the_interval() {
    let place = Place::new();
    for (name, source) in Source::all(&place) {
        source.put("d/f", b"old", 1_600_000_000);
        source.put("d/gone", b"gone", 1_600_000_000);
        let mount = source.mount(&place, name, &["--refresh", "1s"]);
        assert_eq!(mount.read("d/f"), b"old");
        assert_eq!(mount.read("d/gone"), b"gone");
        let before = ino(&mount, "d/f");
        source.put("d/f", b"new", 1_500_000_000);
        source.put("d/more", b"more", 1_600_000_000);
        source.remove("d/gone");
        let started = Instant::now();
        wait_until("the change", || {
            std::fs::read(mount.path("d/f")).is_ok_and(|bytes| bytes == b"new")
                && mount.path("d/more").exists()
                && !mount.path("d/gone").exists()
        });
        assert!(
            started.elapsed() < Duration::from_secs(10),
            "{name}: {:?}",
            started.elapsed()
        );
        assert_ne!(ino(&mount, "d/f"), before, "{name}");
    }
}

#[test]
fn with_refresh_never_only_a_refresh_looks() {
    let place = Place::new();
    let store = Store::with([("d/f", b"old".to_vec())]);
    let args = store.s3_args();
    let mut args: Vec<&str> = args.iter().map(String::as_str).collect();
    args.splice(0..0, ["--refresh", "never"]);
    let mount = place.mount(&args);
    assert_eq!(mount.read("d/f"), b"old");
    let asked = store.requests();
    store.put("d/f", b"new".to_vec());
    std::thread::sleep(Duration::from_millis(1500));
    assert_eq!(mount.read("d/f"), b"old");
    assert_eq!(store.requests(), asked);
    refresh(&place, mount.at());
    assert_eq!(mount.read("d/f"), b"new");
}

#[test]
fn a_changing_name_is_never_absent() {
    const CHANGES: u64 = 40;
    let place = Place::new();
    let store = Store::start();
    let content = |i: u64| format!("content number {i:08}").into_bytes();
    store.put("d/f", content(0));
    store.put("d/g", b"stays".to_vec());
    let mount = place.mount(&[&store.tree()]);
    assert_eq!(mount.read("d/f"), content(0));
    let done = AtomicBool::new(false);
    let looks = AtomicU64::new(0);
    let newest = AtomicU64::new(0);
    std::thread::scope(|scope| {
        for thread in 0..4 {
            let (mount, done, looks, newest) = (&mount, &done, &looks, &newest);
            scope.spawn(move || {
                let mut seen = 0;
                while !done.load(Ordering::Relaxed) {
                    looks.fetch_add(1, Ordering::Relaxed);
                    match thread {
                        0 => {
                            mount
                                .path("d/f")
                                .metadata()
                                .expect("stat of a changing file");
                        }
                        1 => {
                            let names: Vec<_> = std::fs::read_dir(mount.path("d"))
                                .unwrap()
                                .map(|e| e.unwrap().file_name())
                                .collect();
                            assert_eq!(names.len(), 2, "{names:?}");
                        }
                        _ => {
                            let at_least = newest.load(Ordering::Relaxed);
                            // Replaced between open and read it may be stale, but never absent.
                            match std::fs::read(mount.path("d/f")) {
                                Ok(text) => {
                                    let text = String::from_utf8(text).unwrap();
                                    let n: u64 = text.rsplit(' ').next().unwrap().parse().unwrap();
                                    assert!(n >= at_least, "went back from {at_least} to {n}");
                                    assert!(n >= seen, "went back from {seen} to {n}");
                                    seen = n;
                                }
                                Err(error) => assert!(is_stale(&error), "{error}"),
                            }
                        }
                    }
                }
            });
        }
        for i in 1..=CHANGES {
            store.put("d/f", content(i));
            refresh(&place, mount.path("d"));
            newest.store(i, Ordering::Relaxed);
        }
        done.store(true, Ordering::Relaxed);
    });
    assert_eq!(mount.read("d/f"), content(CHANGES));
    assert!(
        looks.load(Ordering::Relaxed) > CHANGES,
        "too slow to have looked"
    );
}

#[test]
fn a_working_directory_survives_changes() {
    let place = Place::new();
    let store = Store::with([("d/e/f", b"1".to_vec()), ("top", b"t".to_vec())]);
    let mount = place.mount(&[&store.tree()]);
    let mut shell = Command::new("sh")
        .args(["-c", "while read path; do cat $path; echo; done"])
        .current_dir(mount.path("d/e"))
        .stdin(std::process::Stdio::piped())
        .stdout(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    use std::io::{BufRead, BufReader, Write};
    let mut out = BufReader::new(shell.stdout.take().unwrap()).lines();
    let mut ask = |path: &str| {
        writeln!(shell.stdin.as_mut().unwrap(), "{path}").unwrap();
        out.next().unwrap().unwrap()
    };
    assert_eq!(ask("f"), "1");
    store.put("d/e/f", b"2".to_vec());
    store.put("d/e/g", b"new".to_vec());
    store.put("d/h", b"up".to_vec());
    refresh(&place, mount.at());
    assert_eq!(ask("f"), "2");
    assert_eq!(ask("g"), "new");
    assert_eq!(ask("../h"), "up");
    drop(shell.stdin.take());
    assert!(shell.wait().unwrap().success());
}

/// Undoes a bind mount.
struct Bound(PathBuf);

impl Drop for Bound {
    fn drop(&mut self) {
        let _ = rustix::mount::unmount(&self.0, rustix::mount::UnmountFlags::DETACH);
    }
}

#[test]
fn a_bind_mounted_file_that_was_replaced_keeps_its_version() {
    if !rustix::process::geteuid().is_root() {
        // Only root can bind.
        return;
    }
    let place = Place::new();
    let store = Store::with([("f", b"old version".to_vec())]);
    let mount = place.mount(&[&store.tree()]);
    assert_eq!(mount.read("f"), b"old version");
    let target = place.path("bound");
    std::fs::write(&target, "").unwrap();
    rustix::mount::mount_bind(mount.path("f"), &target).unwrap();
    let _bound = Bound(target.clone());
    assert_eq!(std::fs::read(&target).unwrap(), b"old version");
    store.put("f", b"new version".to_vec());
    refresh(&place, mount.at());
    assert_eq!(mount.read("f"), b"new version");
    // It has no name that could be looked up again.
    for _ in 0..3 {
        assert_eq!(std::fs::read(&target).unwrap(), b"old version");
    }
    assert!(is_mounted(mount.at()));
}

#[test]
fn a_refresh_of_a_place_looks_there_only() {
    let place = Place::new();
    let store = Store::with([("a/f", b"1".to_vec()), ("b/f", b"1".to_vec())]);
    let mount = place.mount(&[&store.tree()]);
    assert_eq!(
        (mount.read("a/f"), mount.read("b/f")),
        (b"1".to_vec(), b"1".to_vec())
    );
    store.put("a/f", b"2".to_vec());
    store.put("b/f", b"2".to_vec());
    let asked = store.requests();
    refresh(&place, mount.path("a"));
    let listed: Vec<String> = store.seen()[asked..]
        .iter()
        .map(|s| s.target.clone())
        .collect();
    assert_eq!(listed, ["/t/a/"]);
    assert_eq!(mount.read("a/f"), b"2");
    // Of a file: its directory. And what is not there is told.
    let said = refresh(&place, mount.path("b/f"));
    assert!(said.contains("1 entries changed"), "{said}");
    assert_eq!(mount.read("b/f"), b"2");
    let outside = place.svol([OsStr::new("refresh"), Path::new("/tmp").as_os_str()]);
    assert_eq!(outside.status.code(), Some(1));
    store.stop();
    let failed = place.svol([OsStr::new("refresh"), mount.path("a").as_os_str()]);
    assert_eq!(failed.status.code(), Some(1));
    let said = String::from_utf8_lossy(&failed.stdout).into_owned();
    assert!(said.contains('!'), "{said}");
    assert_eq!(mount.read("a/f"), b"2");
}

#[test]
fn a_weak_version_is_asked_again_at_open_once_in_a_while() {
    let place = Place::new();
    let store = Store::start();
    let (old, new) = (noise(1, 200_000), noise(2, 200_000));
    // An index page knows sizes and times, and neither changes.
    store.put_at("f", old.clone(), 1_600_000_000);
    let mount = place.mount(&["--revalidate", "2s", &store.tree()]);
    assert!(mount.read("f") == old);
    let asked = |store: &Store| store.seen().iter().filter(|s| s.method == "HEAD").count();
    let before = asked(&store);
    std::thread::sleep(Duration::from_millis(3200));
    for _ in 0..5 {
        assert!(mount.read("f") == old);
    }
    assert_eq!(asked(&store), before + 1);
    store.put_at("f", new.clone(), 1_600_000_000);
    std::thread::sleep(Duration::from_millis(3200));
    assert!(mount.read("f") == new);
    assert!(mount.read("f") == new);
}

/// Processes that are ended when dropped.
struct Waiting(Vec<std::process::Child>);

impl Drop for Waiting {
    fn drop(&mut self) {
        for child in &mut self.0 {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

#[test]
fn telling_the_kernel_of_files_that_are_being_read_blocks_nobody() {
    const FILES: usize = 8;
    const PROMPT: Duration = Duration::from_secs(20);
    const MAPS: &str = "import mmap, sys
f = open(sys.argv[1], 'rb')
print(mmap.mmap(f.fileno(), 0, prot=mmap.PROT_READ)[9])";
    let place = Place::new();
    let store = Store::start();
    for i in 0..FILES {
        store.put(&format!("d/f{i}"), noise(i as u64, BIG));
    }
    store.put("d/other", b"old".to_vec());
    // A bucket, whose listing goes on while its objects hang.
    let args = store.s3_args();
    let mut args: Vec<&str> = args.iter().map(String::as_str).collect();
    args.splice(0..0, ["--timeout", "120s"]);
    let mut mount = place.mount(&args);
    assert_eq!(mount.read("d/other"), b"old");
    store.mood("d/f", common::store::Mood::Silent);
    let mut waiting = Waiting(Vec::new());
    for i in 0..FILES {
        let path = mount.path(&format!("d/f{i}"));
        let mut command = match i % 2 {
            0 => Command::new("cat"),
            _ => Command::new("python3"),
        };
        if i % 2 == 1 {
            command.args(["-c", MAPS]);
        }
        let null = std::process::Stdio::null;
        command.arg(path).stdout(null()).stderr(null());
        waiting.0.push(command.spawn().unwrap());
    }
    let asked = |i: usize| {
        store
            .seen()
            .iter()
            .any(|s| s.target.ends_with(&format!("/f{i}")))
    };
    wait_until("waiting readers", || (0..FILES).all(asked));
    for round in 0..5 {
        let started = Instant::now();
        for i in 0..FILES {
            store.put(&format!("d/f{i}"), noise(100 + i as u64, 1000 + round));
        }
        store.put("d/other", format!("new {round}"));
        refresh(&place, mount.path("d"));
        assert_eq!(mount.read("d/other"), format!("new {round}").into_bytes());
        for i in 0..FILES {
            let len = mount.path(&format!("d/f{i}")).metadata().unwrap().len();
            assert_eq!(len, 1000 + round as u64);
        }
        assert!(started.elapsed() < PROMPT, "{:?}", started.elapsed());
    }
    // They were disturbed by nothing, and hold nothing up.
    let waits = |child: &mut std::process::Child| child.try_wait().unwrap().is_none();
    assert!(waiting.0.iter_mut().all(waits), "{}", mount.log());
    let started = Instant::now();
    drop(waiting);
    assert!(started.elapsed() < PROMPT, "{:?}", started.elapsed());
    let (status, took) = mount.signal(rustix::process::Signal::TERM);
    assert!(status.success() && took < PROMPT, "{status} {took:?}");
}
