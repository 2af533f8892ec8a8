//! What mounts do when sources fail, and when several share a cache.

mod common;

use std::io::Error;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use common::mount::{Mount, Place, xattr};
use common::store::{Mood, Store};
use common::{noise, wait_until};
use rustix::io::Errno;
use rustix::process::Signal;

/// The timeout that the mounts of most tests here are given, as an option and in figures.
const TIMEOUT: [&str; 2] = ["--timeout", "2s"];
const LIMIT: Duration = Duration::from_secs(2);

/// How much longer than said something may take on a busy machine.
const SLACK: Duration = Duration::from_secs(4);

fn errno<T: std::fmt::Debug>(result: Result<T, Error>) -> Errno {
    let error = result.expect_err("it should have failed");
    Errno::from_raw_os_error(error.raw_os_error().unwrap_or_else(|| panic!("{error}")))
}

fn read(mount: &Mount, path: &str) -> Result<Vec<u8>, Error> {
    std::fs::read(mount.path(path))
}

fn list(mount: &Mount, path: &str) -> Result<Vec<String>, Error> {
    let mut names = Vec::new();
    for entry in std::fs::read_dir(mount.path(path))? {
        names.push(entry?.file_name().into_string().unwrap());
    }
    names.sort();
    Ok(names)
}

/// Mounts a tree, with options before it.
fn mount_tree(place: &Place, name: &str, options: &[&str], store: &Store) -> Mount {
    let tree = store.tree();
    let mut args = options.to_vec();
    args.push(&tree);
    place.mount_with(name, &args, |_| {})
}

#[test]
fn each_failure_has_its_error_and_is_never_an_absence() {
    let place = Place::new();
    let cases = [
        ("silent", Mood::Silent, Errno::TIMEDOUT, "Timeout"),
        ("stalled", Mood::Stall(0), Errno::TIMEDOUT, "Timeout"),
        ("forbidden", Mood::Status(403), Errno::ACCESS, "Denied"),
        ("unauthorised", Mood::Status(401), Errno::ACCESS, "Denied"),
        ("broken", Mood::Status(500), Errno::IO, ""),
        ("other", Mood::OtherRange, Errno::IO, ""),
        ("short", Mood::Short, Errno::IO, ""),
    ];
    std::thread::scope(|scope| {
        for (name, mood, expected, reason) in cases {
            let place = &place;
            scope.spawn(move || {
                let file = format!("d/{name}");
                let store = Store::with([
                    (file.as_str(), noise(1, 200_000)),
                    ("d/well", b"well".to_vec()),
                    ("e/f", b"f".to_vec()),
                ]);
                let mount = mount_tree(place, name, &TIMEOUT, &store);
                assert_eq!(list(&mount, "d").unwrap().len(), 2);
                store.mood(&file, mood);
                let started = Instant::now();
                let got = errno(read(&mount, &file));
                assert_eq!(got, expected, "{name}\n{}", mount.log());
                assert!(
                    started.elapsed() < LIMIT + SLACK,
                    "{name}: {:?}",
                    started.elapsed()
                );
                if mood == Mood::Silent {
                    // Once, not once for the kernel's read-ahead and once for its page.
                    assert!(started.elapsed() < 2 * LIMIT, "{:?}", started.elapsed());
                }
                // The file is still there, and its neighbour is well.
                assert_eq!(mount.path(&file).metadata().unwrap().len(), 200_000);
                assert_eq!(list(&mount, "d").unwrap().len(), 2, "{name}");
                wait_until("the neighbour", || {
                    read(&mount, "d/well").is_ok_and(|bytes| bytes == b"well")
                });
                let log = mount.log();
                let line = log
                    .lines()
                    .find(|l| l.contains("WARN") && l.contains(&file));
                let line = line.unwrap_or_else(|| panic!("{name}: no reason in\n{log}"));
                assert!(line.contains(reason), "{name}: {line}");

                // The same of a directory that nobody knows yet.
                if matches!(mood, Mood::Silent | Mood::Status(_)) {
                    store.mood("e/", mood);
                    assert_eq!(
                        errno(list(&mount, "e")),
                        expected,
                        "{name}\n{}",
                        mount.log()
                    );
                    assert_eq!(errno(read(&mount, "e/f")), expected, "{name}");
                    assert_eq!(errno(mount.path("e/none").metadata()), expected, "{name}");
                    store.mood("e/", Mood::Serve);
                }
                store.mood(&file, Mood::Serve);
                // What went wrong is not remembered for long.
                wait_until("recovery", || {
                    read(&mount, &file).is_ok_and(|bytes| bytes == noise(1, 200_000))
                });
                wait_until("recovery", || {
                    read(&mount, "e/f").is_ok_and(|bytes| bytes == b"f")
                });
            });
        }
    });
}

#[test]
fn an_unreachable_source_is_an_error_at_once_and_comes_back() {
    let place = Place::new();
    let store = Store::with([("d/f", noise(1, 1 << 20)), ("e/g", b"g".to_vec())]);
    let mount = mount_tree(&place, "mnt", &TIMEOUT, &store);
    assert_eq!(list(&mount, "d").unwrap(), ["f"]);
    store.stop();
    let started = Instant::now();
    assert_eq!(
        errno(read(&mount, "d/f")),
        Errno::HOSTUNREACH,
        "{}",
        mount.log()
    );
    assert_eq!(errno(list(&mount, "e")), Errno::HOSTUNREACH);
    assert_eq!(errno(mount.path("e/none").metadata()), Errno::HOSTUNREACH);
    assert!(
        started.elapsed() < 3 * LIMIT + SLACK,
        "{:?}",
        started.elapsed()
    );
    // After that it fails without being asked.
    let started = Instant::now();
    assert_eq!(errno(read(&mount, "d/f")), Errno::HOSTUNREACH);
    assert!(started.elapsed() < LIMIT, "{:?}", started.elapsed());
    let status = place.status();
    let layer = &status["mounts"][0]["layers"][0];
    assert_eq!(layer["conditions"][0]["status"], "False", "{status}");
    assert_eq!(layer["conditions"][0]["reason"], "Unreachable", "{status}");
    assert!(
        layer["lastError"].as_str().unwrap().contains("refused"),
        "{status}"
    );
    let table = place.ok(["status"]);
    assert!(
        table.contains("Unreachable") && table.contains("refused"),
        "{table}"
    );
    store.resume();
    wait_until("recovery", || read(&mount, "d/f").is_ok());
    assert!(read(&mount, "d/f").unwrap() == noise(1, 1 << 20));
    wait_until("recovery", || read(&mount, "e/g").is_ok());
    let status = place.status();
    let condition = &status["mounts"][0]["layers"][0]["conditions"][0];
    assert_eq!(condition["status"], "True", "{status}");
}

#[test]
fn a_source_that_never_answers_does_not_slow_readers_of_another() {
    const DEAD: usize = 100;
    const READERS: usize = 64;
    const SIZE: usize = 1 << 20;
    let place = Place::new();
    let dead = Store::start();
    let live = Store::start();
    for i in 0..DEAD {
        dead.put(&format!("f{i}"), noise(1, 2 << 20));
    }
    for i in 0..READERS {
        live.put(&format!("f{i}"), noise(i as u64, SIZE));
    }
    // S3, whose listing tells versions: so opens need not ask, and it is reads that wait, which the
    // kernel counts and limits together where they are its read-ahead's.
    let mut args = dead.s3_args();
    args.last_mut().unwrap().push_str("=/dead");
    args.push(format!("{}=/live", live.tree()));
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    let mount = place.mount(&args);
    assert_eq!(list(&mount, "dead").unwrap().len(), DEAD);
    dead.mood("", Mood::Silent);
    // Children, so that they can be killed: each waits for half a minute otherwise.
    let mut stuck: Vec<Stuck> = (0..DEAD)
        .map(|i| Stuck::start("cat", &mount.path(&format!("dead/f{i}"))))
        .collect();
    stuck.push(Stuck::start("ls", &mount.path("dead/none/such")));
    std::thread::sleep(Duration::from_secs(2));
    assert!(
        stuck.iter_mut().take(DEAD).all(Stuck::waits),
        "{}",
        mount.log()
    );

    let waiting = place.sum("misses");
    assert!(waiting >= 32, "only {waiting} wait for reads");

    let started = Instant::now();
    std::thread::scope(|scope| {
        for i in 0..READERS {
            let mount = &mount;
            scope.spawn(move || {
                assert!(mount.read(&format!("live/f{i}")) == noise(i as u64, SIZE));
            });
        }
    });
    let took = started.elapsed();
    assert!(took < Duration::from_secs(10), "{took:?} for 64 MiB");
    // And nothing else is held up: metadata, the status, what is in the page cache.
    let started = Instant::now();
    assert_eq!(list(&mount, "live").unwrap().len(), READERS);
    assert_eq!(mount.path("dead/f1").metadata().unwrap().len(), 2 << 20);
    rustix::fs::statvfs(mount.at()).unwrap();
    place.status();
    assert!(started.elapsed() < SLACK, "{:?}", started.elapsed());
    assert!(stuck.iter_mut().take(DEAD).all(Stuck::waits));
}

/// A process that waits for a dead source.
struct Stuck(Child);

impl Stuck {
    fn start(program: &str, path: &Path) -> Stuck {
        let child = Command::new(program)
            .arg(path)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        Stuck(child)
    }

    fn waits(&mut self) -> bool {
        self.0.try_wait().unwrap().is_none()
    }
}

impl Drop for Stuck {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn a_directory_lists_the_live_names_when_one_layer_is_dead() {
    let place = Place::new();
    for (name, mood) in [("silent", Mood::Silent), ("broken", Mood::Status(500))] {
        let live = Store::with([("live", b"live".to_vec()), ("both", b"live".to_vec())]);
        let dead = Store::with([("dead", b"dead".to_vec()), ("both", b"dead".to_vec())]);
        dead.mood("", mood);
        let (live_tree, dead_tree) = (live.tree(), dead.tree());
        let args = ["--timeout", "1s", &live_tree, &dead_tree];
        let mount = place.mount_with(name, &args, |_| {});
        assert_eq!(list(&mount, "").unwrap(), ["both", "live"], "{name}");
        assert_eq!(mount.read("live"), b"live", "{name}");
        // What the dead layer may hide is served meanwhile.
        assert_eq!(mount.read("both"), b"live", "{name}");
        let expected = match mood {
            Mood::Silent => Errno::TIMEDOUT,
            _ => Errno::IO,
        };
        // Once its source is known to be down, it is not even asked.
        let got = errno(mount.path("none").metadata());
        assert!(
            got == expected || got == Errno::HOSTUNREACH,
            "{name}: {got}"
        );
        let why = xattr(mount.at(), "user.svol.stale").unwrap();
        assert!(why.contains("http-1"), "{name}: {why}");
        let status = place.status();
        let layers = status["mounts"].as_array().unwrap().iter();
        let layers = layers.flat_map(|m| m["layers"].as_array().unwrap());
        let of = |tree: &str| layers.clone().find(|l| l["source"] == tree).unwrap();
        assert_eq!(
            of(&dead_tree)["conditions"][0]["status"],
            "False",
            "{status}"
        );
        assert_eq!(
            of(&live_tree)["conditions"][0]["status"],
            "True",
            "{status}"
        );

        dead.mood("", Mood::Serve);
        wait_until("recovery", || {
            list(&mount, "").unwrap() == ["both", "dead", "live"]
        });
        wait_until("recovery", || mount.read("both") == b"dead");
        wait_until("recovery", || {
            errno(mount.path("none").metadata()) == Errno::NOENT
        });
        assert!(xattr(mount.at(), "user.svol.stale").is_err());
    }
}

#[test]
fn a_directory_of_a_required_layer_fails_with_it() {
    let place = Place::new();
    let live = Store::with([("live", b"live".to_vec()), ("other/x", b"x".to_vec())]);
    let dead = Store::with([("dead", b"dead".to_vec())]);
    dead.mood("", Mood::Status(500));
    let volume = format!(
        "apiVersion: sharedvolume.io/v1\nkind: Volume\nmetadata: {{name: v}}\nspec:\n\
         \x20 timeout: 1s\n  layers:\n  - http: {{url: '{}'}}\n\
         \x20 - path: /sub\n    required: true\n    http: {{url: '{}'}}\n\
         \x20 - path: /sub\n    http: {{url: '{}'}}\n",
        live.tree(),
        dead.tree(),
        live.tree(),
    );
    std::fs::write(place.path("v.yaml"), volume).unwrap();
    let mount = place.mount(&["-c", place.path("v.yaml").to_str().unwrap()]);
    assert_eq!(mount.read("live"), b"live");
    let failed = |got: Errno| got == Errno::IO || got == Errno::HOSTUNREACH;
    assert!(failed(errno(list(&mount, "sub"))));
    assert!(failed(errno(read(&mount, "sub/live"))));
    assert!(failed(errno(mount.path("sub/none").metadata())));
    dead.mood("", Mood::Serve);
    wait_until("recovery", || list(&mount, "sub").is_ok());
    wait_until("recovery", || read(&mount, "sub/live").is_ok());
}

#[test]
fn a_second_mount_needs_no_source() {
    let place = Place::new();
    let store = Store::start();
    for i in 0..20 {
        store.put(&format!("d{}/e/f{i}", i % 3), noise(i, 50_000));
    }
    store.put("big", noise(100, 3 << 20));
    store.put("unread", noise(101, 3 << 20));
    let walk = |mount: &Mount| {
        let output = Command::new("find")
            .args([".", "-printf", "%p %i %s %T@ %m\n"])
            .current_dir(mount.at())
            .output()
            .unwrap();
        assert!(output.status.success(), "{output:?}\n{}", mount.log());
        let text = String::from_utf8(output.stdout).unwrap();
        let mut lines: Vec<String> = text.lines().map(str::to_owned).collect();
        lines.sort();
        lines
    };
    let before = {
        let mut mount = mount_tree(&place, "mnt", &TIMEOUT, &store);
        let before = walk(&mount);
        assert_eq!(mount.read("d1/e/f1"), noise(1, 50_000));
        assert!(mount.read("big") == noise(100, 3 << 20));
        assert!(mount.signal(Signal::TERM).0.success());
        before
    };
    assert_eq!(before.len(), 20 + 2 + 6 + 1);
    let asked = store.requests();
    {
        let mut mount = mount_tree(&place, "mnt", &TIMEOUT, &store);
        assert_eq!(walk(&mount), before);
        assert_eq!(mount.read("d1/e/f1"), noise(1, 50_000));
        assert_eq!(store.requests(), asked, "{:?}", &store.seen()[asked..]);
        assert!(mount.signal(Signal::TERM).0.success());
    }
    store.stop();
    let mount = mount_tree(&place, "mnt", &TIMEOUT, &store);
    assert_eq!(walk(&mount), before);
    let started = Instant::now();
    assert_eq!(mount.read("d1/e/f1"), noise(1, 50_000));
    assert!(mount.read("big") == noise(100, 3 << 20));
    assert!(started.elapsed() < LIMIT, "{:?}", started.elapsed());
    let started = Instant::now();
    assert_eq!(
        errno(read(&mount, "unread")),
        Errno::HOSTUNREACH,
        "{}",
        mount.log()
    );
    assert_eq!(errno(read(&mount, "d0/e/f0")), Errno::HOSTUNREACH);
    assert!(started.elapsed() < LIMIT, "{:?}", started.elapsed());
    assert_eq!(errno(mount.path("d1/none").metadata()), Errno::NOENT);
}

#[test]
fn an_old_listing_is_served_when_the_source_is_down_and_says_so() {
    let place = Place::new();
    let store = Store::with([("d/f", b"f".to_vec()), ("d/g", b"g".to_vec())]);
    let options = ["--timeout", "2s", "--refresh", "1s", "--revalidate", "1s"];
    {
        let mut mount = mount_tree(&place, "mnt", &options, &store);
        assert_eq!(mount.read("d/f"), b"f");
        assert!(mount.signal(Signal::TERM).0.success());
    }
    std::thread::sleep(Duration::from_millis(1500));
    for (name, down) in [("silent", false), ("stopped", true)] {
        if down {
            store.stop();
        } else {
            store.mood("", Mood::Silent);
        }
        let mount = mount_tree(&place, name, &options, &store);
        let started = Instant::now();
        assert_eq!(list(&mount, "d").unwrap(), ["f", "g"], "{name}");
        assert_eq!(mount.read("d/f"), b"f", "{name}");
        assert!(
            started.elapsed() < LIMIT + SLACK,
            "{name}: {:?}",
            started.elapsed()
        );
        wait_until("the reason", || {
            let _ = list(&mount, "d");
            xattr(&mount.path("d"), "user.svol.stale").is_ok()
        });
        let why = xattr(&mount.path("d/f"), "user.svol.stale").unwrap();
        assert!(why.contains("http-0"), "{name}: {why}");
        let failed = errno(read(&mount, "d/g"));
        assert!(
            failed == Errno::TIMEDOUT || failed == Errno::HOSTUNREACH,
            "{name}: {failed}"
        );
    }
    // And all is well again when it comes back.
    store.mood("", Mood::Serve);
    store.resume();
    let mount = mount_tree(&place, "mnt", &options, &store);
    wait_until("recovery", || {
        list(&mount, "d").is_ok() && xattr(&mount.path("d"), "user.svol.stale").is_err()
    });
    assert_eq!(mount.read("d/g"), b"g");
}

#[test]
fn a_version_that_cannot_be_confirmed_is_served_and_says_so_unless_the_layer_is_strict() {
    let place = Place::new();
    let store = Store::start();
    let bytes = noise(7, 200_000);
    store.put_at("f", bytes.clone(), 1_600_000_000);
    let volume = |strict: bool| {
        let yaml = format!(
            "apiVersion: sharedvolume.io/v1\nkind: Volume\nmetadata:\n  name: v\nspec:\n  layers:\n\
             \x20   - name: web\n      strict: {strict}\n      http:\n        url: {}\n",
            store.tree()
        );
        let file = place.path(&format!("strict-{strict}.yaml"));
        std::fs::write(&file, yaml).unwrap();
        file.to_str().unwrap().to_owned()
    };
    let args = [
        "--timeout",
        "2s",
        "--refresh",
        "1h",
        "--revalidate",
        "1s",
        "-c",
    ];
    for (name, mood) in [("silent", Mood::Silent), ("broken", Mood::Status(500))] {
        for strict in [false, true] {
            let file = volume(strict);
            let args: Vec<&str> = args.into_iter().chain([file.as_str()]).collect();
            let mount = place.mount_with(&format!("{name}-{strict}"), &args, |_| {});
            assert!(mount.read("f") == bytes);
            let stale = || xattr(&mount.path("f"), "user.svol.stale");
            assert!(stale().is_err());
            store.mood("f", mood);
            std::thread::sleep(Duration::from_millis(1500));
            if strict {
                let failed = errno(read(&mount, "f"));
                assert!(
                    [Errno::TIMEDOUT, Errno::HOSTUNREACH, Errno::IO].contains(&failed),
                    "{name}: {failed}"
                );
            } else {
                assert!(mount.read("f") == bytes);
                let why = stale().unwrap();
                assert!(why.starts_with("web: "), "{name}: {why}");
            }
            store.mood("f", Mood::Serve);
            wait_until("all is well again", || {
                read(&mount, "f").is_ok_and(|got| got == bytes) && stale().is_err()
            });
        }
    }
}

#[test]
fn the_bandwidth_is_limited() {
    const SIZE: usize = 3 << 20;
    let place = Place::new();
    let store = Store::with([("f", noise(1, SIZE))]);
    let mount = mount_tree(&place, "mnt", &["--bwlimit", "1MiB"], &store);
    let started = Instant::now();
    assert!(mount.read("f") == noise(1, SIZE));
    let took = started.elapsed();
    // A second's worth may come at once.
    assert!(took > Duration::from_millis(1700), "{took:?}");
    assert!(took < Duration::from_secs(12), "{took:?}");
    let started = Instant::now();
    assert!(mount.read("f") == noise(1, SIZE));
    assert!(started.elapsed() < Duration::from_secs(1));
}

#[test]
fn a_slow_source_is_not_a_silent_one() {
    // 64 KiB each 300 ms: a read of a MiB takes longer than the timeout.
    let place = Place::new();
    let store = Store::with([("f", noise(1, 1 << 20))]);
    store.pace(Duration::from_millis(300));
    let mount = mount_tree(&place, "mnt", &TIMEOUT, &store);
    assert!(mount.read("f") == noise(1, 1 << 20));
}

#[test]
fn two_daemons_fetch_each_block_once() {
    const SIZE: usize = 16 << 20;
    let place = Place::new();
    let store = Store::with([("f", noise(1, SIZE)), ("small", noise(2, 1000))]);
    store.pace(Duration::from_millis(3));
    let one = mount_tree(&place, "one", &[], &store);
    let two = mount_tree(&place, "two", &[], &store);
    std::thread::scope(|scope| {
        for mount in [&one, &two, &one, &two] {
            scope.spawn(move || {
                assert!(mount.read("f") == noise(1, SIZE));
                assert!(mount.read("small") == noise(2, 1000));
            });
        }
    });
    assert_eq!(
        place.sum("bytesFetched"),
        SIZE as u64 + 1000,
        "{}",
        place.status()
    );
    // A third finds all of it.
    let three = mount_tree(&place, "three", &[], &store);
    assert!(three.read("f") == noise(1, SIZE));
    assert_eq!(place.sum("bytesFetched"), SIZE as u64 + 1000);
}

#[test]
fn a_daemon_that_is_killed_while_it_fetches_leaves_its_work_to_another() {
    const SIZE: usize = 16 << 20;
    let place = Place::new();
    let store = Store::with([("f", noise(1, SIZE))]);
    store.pace(Duration::from_millis(15));
    let mut one = mount_tree(&place, "one", &[], &store);
    let two = mount_tree(&place, "two", &[], &store);
    std::thread::scope(|scope| {
        let first = one.path("f");
        scope.spawn(move || {
            assert!(std::fs::read(first).is_err(), "it was killed");
        });
        wait_until("the first bytes", || place.sum("bytesFetched") > 2 << 20);
        let second = scope.spawn(|| two.read("f"));
        std::thread::sleep(Duration::from_millis(150));
        one.kill();
        let started = Instant::now();
        assert!(second.join().unwrap() == noise(1, SIZE));
        assert!(
            started.elapsed() < Duration::from_secs(20),
            "{:?}",
            started.elapsed()
        );
    });
    // What the first one had brought was not fetched again, but for what was in flight.
    let fetched = place.sum("bytesFetched");
    assert!(fetched < SIZE as u64, "{fetched}");
    let again = mount_tree(&place, "three", &[], &store);
    assert!(again.read("f") == noise(1, SIZE));
    let verified = place.ok(["cache", "verify"]);
    assert!(
        verified.contains("0 blobs, 0 grains and 0 small files were bad"),
        "{verified}"
    );
}

#[test]
fn a_file_that_is_larger_than_the_cache_streams_through() {
    const SIZE: usize = 24 << 20;
    let place = Place::new();
    let store = Store::with([("f", noise(1, SIZE)), ("g", noise(2, 2 << 20))]);
    let mount = mount_tree(&place, "mnt", &["--cache-size", "8MiB"], &store);
    assert!(mount.read("f") == noise(1, SIZE));
    assert!(mount.read("g") == noise(2, 2 << 20));
    let status = place.status();
    let used = status["cache"]["usedBytes"].as_u64().unwrap();
    assert!(used <= 8 << 20, "{used}");
}
