//! `svol warm`, `evict`, `pin`, `unpin` and `stats`, on real mounts and on volumes that are not
//! mounted.

mod common;

use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::process::{Child, Output, Stdio};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use common::mount::{Mount, Place};
use common::s3::TestS3;
use common::store::{Mood, Store};
use common::{noise, wait_until};
use serde_json::Value;

const MIB: usize = 1 << 20;

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// Runs a command that ends with `code`; returns both outputs.
fn ends(place: &Place, code: i32, args: &[&str]) -> (String, String) {
    let output = place.svol(args);
    let said = (text(&output.stdout), text(&output.stderr));
    assert_eq!(output.status.code(), Some(code), "{args:?}: {said:?}");
    said
}

/// The same, with `--json`; returns the document.
fn json(place: &Place, code: i32, args: &[&str]) -> Value {
    let (command, rest) = args.split_first().unwrap();
    let (out, err) = ends(place, code, &[&[*command, "--json"], rest].concat());
    serde_json::from_str(&out).unwrap_or_else(|e| panic!("{e}: {out}\n{err}"))
}

fn count(document: &Value, outcome: &str) -> (u64, u64) {
    let count = &document["outcomes"][outcome];
    let number = |key: &str| count[key].as_u64().unwrap_or(0);
    (number("files"), number("bytes"))
}

fn at(mount: &Mount, inside: &str) -> String {
    mount.path(inside).to_str().unwrap().to_owned()
}

fn mount_store(place: &Place, store: &Store, name: &str, more: &[&str]) -> Mount {
    let mut args = more.to_vec();
    let sources = store.s3_args();
    args.extend(sources.iter().map(String::as_str));
    place.mount_with(name, &args, |_| {})
}

/// What stands between a server and who asks it: counts what the server sends.
struct Relay {
    port: u16,
    sent: Arc<AtomicU64>,
    is_cut: Arc<AtomicBool>,
    open: Arc<Mutex<Vec<TcpStream>>>,
}

impl Relay {
    fn to(endpoint: &str) -> Relay {
        let upstream = endpoint.strip_prefix("http://").unwrap().to_owned();
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let relay = Relay {
            port: listener.local_addr().unwrap().port(),
            sent: Arc::default(),
            is_cut: Arc::default(),
            open: Arc::default(),
        };
        let (sent, is_cut, open) = (relay.sent.clone(), relay.is_cut.clone(), relay.open.clone());
        std::thread::spawn(move || {
            for client in listener.incoming() {
                let client = client.unwrap();
                if is_cut.load(Ordering::SeqCst) {
                    continue;
                }
                let Ok(server) = TcpStream::connect(&upstream) else {
                    continue;
                };
                let both = [client.try_clone().unwrap(), server.try_clone().unwrap()];
                open.lock().unwrap().extend(both);
                pump(
                    client.try_clone().unwrap(),
                    server.try_clone().unwrap(),
                    None,
                );
                pump(server, client, Some(sent.clone()));
            }
        });
        relay
    }

    fn endpoint(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    fn sent(&self) -> u64 {
        self.sent.load(Ordering::SeqCst)
    }

    fn cut(&self) {
        self.is_cut.store(true, Ordering::SeqCst);
        for stream in self.open.lock().unwrap().drain(..) {
            let _ = stream.shutdown(Shutdown::Both);
        }
    }
}

fn pump(mut from: TcpStream, mut to: TcpStream, count: Option<Arc<AtomicU64>>) {
    std::thread::spawn(move || {
        let mut buf = vec![0; 64 << 10];
        while let Ok(n @ 1..) = from.read(&mut buf) {
            if let Some(count) = &count {
                count.fetch_add(n as u64, Ordering::SeqCst);
            }
            if to.write_all(&buf[..n]).is_err() {
                break;
            }
        }
        let _ = to.shutdown(Shutdown::Both);
    });
}

#[test]
fn each_byte_is_fetched_once_from_a_real_server_and_read_without_it() {
    let place = Place::new();
    let s3 = TestS3::shared();
    let files = [
        ("models/a.safetensors", noise(1, 20 * MIB)),
        ("models/b.safetensors", noise(2, 5 * MIB)),
        ("models/deep/er/c.safetensors", noise(3, 100_000)),
        ("models/readme.md", noise(4, 1000)),
        ("other/x.bin", noise(5, 3 * MIB)),
        ("other/empty", Vec::new()),
    ];
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let bucket = runtime.block_on(async {
        let bucket = s3.bucket("public-warm").await;
        let all = files
            .iter()
            .map(|(key, bytes)| (key.to_string(), bytes.clone()));
        s3.put_all(&bucket, all).await;
        bucket
    });
    let relay = Relay::to(&s3.endpoint);
    let (endpoint, source) = (relay.endpoint(), format!("s3://{bucket}"));
    let args = [
        "--no-sign-request",
        "--region",
        "us-east-1",
        "--endpoint-url",
    ];
    let args = [&args[..], &[&endpoint, &source]].concat();
    let mount = place.mount(&args);
    let root = at(&mount, "");
    let tensors: u64 = files[..3].iter().map(|(_, bytes)| bytes.len() as u64).sum();
    let all: u64 = files.iter().map(|(_, bytes)| bytes.len() as u64).sum();

    let missing = json(&place, 3, &["warm", "--check", &root]);
    assert_eq!(count(&missing, "missing"), (5, all));
    assert_eq!(place.sum("bytesFetched"), 0);

    let before = relay.sent();
    let glob = at(&mount, "**/*.safetensors");
    let warmed = json(&place, 0, &["warm", &glob]);
    assert_eq!(count(&warmed, "fetched"), (3, tensors));
    let sent = relay.sent() - before;
    // What the server sent is these bytes and the headers, each once.
    assert!(
        (tensors..tensors + (128 << 10)).contains(&sent),
        "{sent} of {tensors}"
    );
    assert_eq!(place.sum("bytesFetched"), tensors);

    let before = relay.sent();
    let again = json(&place, 0, &["warm", &glob]);
    assert_eq!(
        (count(&again, "fetched"), count(&again, "here")),
        ((0, 0), (3, tensors))
    );
    assert_eq!((relay.sent(), place.sum("bytesFetched")), (before, tensors));

    // Overlapping paths count once. Lines, not a bar, where nobody looks on.
    let (out, _) = ends(&place, 0, &["warm", &root, &glob, &at(&mount, "models")]);
    assert!(out.contains("x.bin: 3.0 MiB fetched"), "{out}");
    assert!(out.contains("6 files: 2 ("), "{out}");
    assert_eq!(place.sum("bytesFetched"), all);
    ends(&place, 0, &["warm", "--check", &root]);

    let stats = json(&place, 0, &["stats", &root, &at(&mount, "models/*.md")]);
    let trees = stats["trees"].as_array().unwrap();
    assert_eq!(trees[0]["files"], 6);
    assert_eq!(
        (&trees[0]["bytes"], &trees[0]["cachedBytes"]),
        (&all.into(), &all.into())
    );
    let (out, _) = ends(&place, 0, &["stats", &at(&mount, "models")]);
    assert!(
        out.contains("Files   4, ") && out.contains("(100 %)"),
        "{out}"
    );

    relay.cut();
    for (path, bytes) in &files {
        assert!(mount.read(path) == *bytes, "{path}");
    }
    // And after a remount.
    drop(mount);
    let mount = place.mount(&args);
    for (path, bytes) in &files {
        assert!(mount.read(path) == *bytes, "{path}");
    }
    ends(&place, 0, &["warm", &at(&mount, "")]);
}

fn spawn(place: &Place, args: &[&str]) -> Child {
    let mut command = place.command(args);
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    command.spawn().unwrap()
}

fn interrupt(child: Child) -> Output {
    let pid = rustix::process::Pid::from_raw(child.id() as i32).unwrap();
    rustix::process::kill_process(pid, rustix::process::Signal::INT).unwrap();
    child.wait_with_output().unwrap()
}

#[test]
fn an_interrupted_one_is_taken_up_where_it_ended_and_readers_are_served_meanwhile() {
    let place = Place::new();
    let files = ["a", "b", "c"].map(|name| (name, noise(7, 24 * MIB)[name.len()..].to_vec()));
    let store = Store::with(files.clone());
    store.put("small", b"small".to_vec());
    let all: u64 = files
        .iter()
        .map(|(_, bytes)| bytes.len() as u64)
        .sum::<u64>()
        + 5;
    let mount = mount_store(&place, &store, "mnt", &[]);
    let root = at(&mount, "");
    store.pace(Duration::from_millis(60));
    let mut child = spawn(&place, &["warm", "--jobs", "3", &root]);
    wait_until("some of it", || store.asked_bytes() > 0);
    // A whole small file, and a part of one that is being fetched.
    assert_eq!(mount.read("small"), b"small");
    let mut start = vec![0; 100_000];
    let file = std::fs::File::open(mount.path("c")).unwrap();
    (&file).read_exact(&mut start).unwrap();
    assert!(start == files[2].1[..100_000]);
    assert!(child.try_wait().unwrap().is_none(), "it was over too soon");
    let output = interrupt(child);
    drop(file);
    assert_eq!(output.status.code(), Some(3));
    assert!(text(&output.stderr).contains("interrupted"), "{output:?}");

    // What was under way comes; nothing more is asked for.
    store.pace(Duration::ZERO);
    let cached = || {
        json(&place, 0, &["stats", &root])["cachedBytes"]
            .as_u64()
            .unwrap()
    };
    let mut last = (0, 0);
    wait_until("quiet", || {
        let before = std::mem::replace(&mut last, (store.asked_bytes(), cached()));
        std::thread::sleep(Duration::from_millis(300));
        before == last
    });
    let here = last.1;
    assert!(0 < here && here < all, "{here} of {all}");
    let asked = store.asked_bytes();
    let done = json(&place, 0, &["warm", &root]);
    assert_eq!(count(&done, "fetched").1, all - here);
    assert_eq!(store.asked_bytes() - asked, all - here);
    // Readers and both runs together: each byte once.
    assert_eq!(place.sum("bytesFetched"), all);
    for (path, bytes) in &files {
        assert!(mount.read(path) == *bytes, "{path}");
    }
}

#[test]
fn what_is_evicted_is_gone_for_whoever_was_named_and_fetched_again() {
    let place = Place::new();
    let twin = noise(1, 2 * MIB);
    let store = Store::with([
        ("one", twin.clone()),
        ("two", twin.clone()),
        ("other", noise(2, 3 * MIB)),
        ("s/1", noise(3, 100)),
        ("s/2", noise(4, 100)),
    ]);
    let mount = mount_store(&place, &store, "mnt", &[]);
    let root = at(&mount, "");
    let cached = |path: &str| json(&place, 0, &["stats", &at(&mount, path)])["cachedBytes"].clone();
    ends(&place, 0, &["warm", &root]);
    // One content on the disk, and both files sealed.
    wait_until("the twins", || {
        let blobs = ["--json"].map(|json| place.ok(["cache", "stats", json]));
        serde_json::from_str::<Value>(&blobs[0]).unwrap()["blobs"] == 2
    });

    // Open: it stays, and is said to.
    let mut held = std::fs::File::open(mount.path("other")).unwrap();
    held.read_exact(&mut [0; 10]).unwrap();
    let (out, _) = ends(&place, 3, &["evict", &at(&mount, "other")]);
    assert!(
        out.contains("other: stays, since somebody has it open"),
        "{out}"
    );
    drop(held);
    let mut gone = Value::Null;
    // The kernel tells of the last close a moment later.
    wait_until("the eviction", || {
        let output = place.svol(["evict", "--json", &at(&mount, "other")]);
        gone = serde_json::from_str(&text(&output.stdout)).unwrap();
        output.status.success()
    });
    let (files, bytes) = count(&gone, "evicted");
    assert!(files == 1 && bytes >= 3 * MIB as u64, "{gone}");
    assert_eq!(cached("other"), 0);
    let (out, _) = ends(&place, 0, &["evict", &at(&mount, "other")]);
    assert_eq!(out, "1 files\n");

    // Of two files with one content, the other one keeps it.
    let (out, _) = ends(&place, 0, &["evict", &at(&mount, "one")]);
    assert!(out.contains("one: gone, but its room"), "{out}");
    assert_eq!((cached("one"), cached("two")), (0.into(), (2 * MIB).into()));
    let fetched = place.sum("bytesFetched");
    assert!(mount.read("two") == twin);
    assert_eq!(place.sum("bytesFetched"), fetched);
    assert!(mount.read("one") == twin);
    assert_eq!(place.sum("bytesFetched"), fetched + 2 * MIB as u64);

    ends(&place, 0, &["evict", &at(&mount, "s/1")]);
    assert_eq!((cached("s/1"), cached("s/2")), (0.into(), 100.into()));
    assert_eq!(mount.read("s/1"), noise(3, 100));

    // All of it, and again.
    wait_until("nothing to be open", || {
        place.svol(["evict", &root]).status.success()
    });
    assert_eq!(cached(""), 0);
    ends(&place, 0, &["warm", &root]);
    assert!(mount.read("other") == noise(2, 3 * MIB));
}

#[test]
fn pins_outlive_pressure_and_a_remount_and_are_bounded() {
    let place = Place::new();
    let store = Store::start();
    for n in 0..12 {
        store.put(&format!("f{n}"), noise(n, 4 * MIB));
    }
    let limit = ["--cache-size", "24MiB"];
    let mount = mount_store(&place, &store, "mnt", &limit);
    ends(&place, 0, &["warm", &at(&mount, "f0"), &at(&mount, "f1")]);
    let (out, _) = ends(&place, 0, &["pin", &at(&mount, "f0"), &at(&mount, "f2")]);
    assert!(
        out.contains("2 (8.0 MiB) pinned, 4.0 MiB of it here (svol warm"),
        "{out}"
    );

    // More than fits: none of it.
    let (_, err) = ends(&place, 1, &["pin", &at(&mount, "")]);
    assert!(
        err.contains("nothing is pinned") && err.contains("48.0 MiB would be"),
        "{err}"
    );
    let (_, err) = ends(&place, 3, &["warm", &at(&mount, "")]);
    assert!(err.contains("keeps 22.8 MiB at most"), "{err}");
    let cache = || serde_json::from_str::<Value>(&place.ok(["cache", "stats", "--json"])).unwrap();
    assert_eq!(
        (&cache()["pinned"], &cache()["pinnedBytes"]),
        (&2.into(), &(8 * MIB).into())
    );

    // Pinned before it came; a remount; twice the cache is read.
    drop(mount);
    let mount = mount_store(&place, &store, "mnt", &limit);
    assert!(mount.read("f2") == noise(2, 4 * MIB));
    for n in (3..12).chain(3..12) {
        assert!(mount.read(&format!("f{n}")) == noise(n, 4 * MIB));
    }
    let pinned = [at(&mount, "f0"), at(&mount, "f2")];
    ends(&place, 0, &["warm", "--check", &pinned[0], &pinned[1]]);
    ends(&place, 3, &["warm", "--check", &at(&mount, "f1")]);
    assert!(cache()["usedBytes"].as_u64().unwrap() <= 24 * MIB as u64);
    let (out, _) = ends(&place, 3, &["evict", &pinned[0]]);
    assert!(out.contains("f0: stays, since it is pinned"), "{out}");
    let stats = json(&place, 0, &["stats", &at(&mount, "")]);
    assert_eq!(stats["trees"][0]["pinned"]["files"], 2);

    // A newer version takes the pin over when it is pinned; what is gone is unpinned by its URL.
    let (out, _) = ends(&place, 0, &["pin", "--list"]);
    assert!(
        out.contains("s3://b/f0") && out.contains("2 files pinned"),
        "{out}"
    );
    store.put("f0", noise(100, MIB));
    store.remove("f2");
    ends(&place, 0, &["refresh", &at(&mount, "")]);
    ends(&place, 0, &["pin", &pinned[0]]);
    let list = json(&place, 0, &["pin", "--list"]);
    assert_eq!(list["files"].as_array().unwrap().len(), 2, "{list}");
    assert_eq!(list["pinnedBytes"], 5 * MIB);
    let (_, err) = ends(&place, 1, &["unpin", &pinned[1]]);
    assert!(err.contains("no such file"), "{err}");
    ends(&place, 0, &["unpin", "--url", "s3://b/f2"]);
    ends(&place, 1, &["unpin", "--url", "s3://b/f2"]);
    let (out, _) = ends(&place, 0, &["unpin", &pinned[0]]);
    assert!(out.contains("1 (1.0 MiB) not pinned any more"), "{out}");
    assert_eq!(cache()["pinned"], 0);
}

#[test]
fn a_volume_that_is_not_mounted_is_warmed_too() {
    let place = Place::new();
    let local = place.path("local");
    std::fs::create_dir(&local).unwrap();
    std::fs::write(local.join("near"), "near").unwrap();
    let store = Store::with([
        ("d/a", noise(1, 3 * MIB)),
        ("d/e/b", noise(2, 1000)),
        ("c", noise(3, 1000)),
    ]);
    let volume = place.path("volume.yaml");
    let document = format!(
        "apiVersion: sharedvolume.io/v1\nkind: Volume\nmetadata: {{name: w}}\nspec:\n  layers:\n    \
         - s3: {{bucket: b, endpointUrl: '{}', region: us-east-1, noSignRequest: true}}\n    \
         - local: {{path: '{}'}}\n",
        store.endpoint(),
        local.display()
    );
    std::fs::write(&volume, document).unwrap();
    let volume = volume.to_str().unwrap();
    let some = ["--path", "/d", "--path", "/near", "-c", volume];
    let missing = json(&place, 3, &[&["warm", "--check"], &some[..]].concat());
    assert_eq!(
        (count(&missing, "missing").0, count(&missing, "local").0),
        (2, 1)
    );
    let warmed = json(&place, 0, &[&["warm"], &some[..]].concat());
    assert_eq!(count(&warmed, "fetched"), (2, 3 * MIB as u64 + 1000));
    assert_eq!(store.asked_bytes(), 3 * MIB as u64 + 1000);
    ends(&place, 0, &[&["warm"], &some[..]].concat());
    assert_eq!(store.asked_bytes(), 3 * MIB as u64 + 1000);
    let mut sources = store.s3_args();
    let bucket = sources.pop().unwrap();
    let mut url = vec!["pin", "--path", "/**/b"];
    url.extend(sources.iter().map(String::as_str));
    url.push(&bucket);
    let pinned = json(&place, 0, &url);
    assert_eq!(count(&pinned, "pinned"), (1, 1000));
    let (out, _) = ends(&place, 3, &["evict", "-c", volume]);
    assert!(
        out.contains("/d/e/b: stays") && out.contains("1 (4 B) local"),
        "{out}"
    );
    let mount = place.mount(&["-c", volume]);
    let (out, _) = ends(&place, 0, &["stats", &at(&mount, "d")]);
    assert!(out.contains("1 whole, 0 in part, 1 not at all"), "{out}");
}

#[test]
fn two_mounts_with_one_cache_fetch_each_byte_once_together() {
    let place = Place::new();
    let store = Store::with([("a", noise(1, 16 * MIB)), ("b", noise(2, 9 * MIB))]);
    let mounts = ["m1", "m2"].map(|name| mount_store(&place, &store, name, &[]));
    store.pace(Duration::from_millis(2));
    let roots = mounts.each_ref().map(|mount| at(mount, ""));
    let both = roots.each_ref().map(|root| spawn(&place, &["warm", root]));
    for child in both {
        let output = child.wait_with_output().unwrap();
        assert!(output.status.success(), "{output:?}");
    }
    assert_eq!(store.asked_bytes(), 25 * MIB as u64);
    assert_eq!(place.sum("bytesFetched"), 25 * MIB as u64);
    // And in one command, of both.
    let done = json(&place, 0, &["warm", &roots[0], &roots[1]]);
    assert_eq!(count(&done, "here"), (4, 50 * MIB as u64));
    // Open in the one, it is not evicted through the other.
    let mut held = std::fs::File::open(mounts[0].path("a")).unwrap();
    held.read_exact(&mut [0; 10]).unwrap();
    let (out, _) = ends(&place, 3, &["evict", &at(&mounts[1], "a")]);
    assert!(out.contains("stays, since somebody has it open"), "{out}");
}

#[test]
fn odd_names_hostile_patterns_and_failures_are_told_path_by_path() {
    let place = Place::new();
    let store = Store::with([
        ("[1]{x}.bin", noise(1, 1000)),
        ("good", noise(2, 1000)),
        ("bad/one", noise(3, 1000)),
        ("bad/big", noise(4, 3 * MIB)),
    ]);
    let mount = mount_store(&place, &store, "mnt", &[]);
    store.mood("bad/one", Mood::Status(403));
    let (out, err) = ends(&place, 3, &["warm", &at(&mount, "")]);
    assert!(
        err.contains(&at(&mount, "bad/one")) && err.contains("403"),
        "{err}"
    );
    assert!(
        out.contains("3 (3.0 MiB) fetched") && out.contains("1 failed"),
        "{out}"
    );
    let document = json(&place, 1, &["warm", &at(&mount, "bad/one")]);
    assert_eq!(document["failures"][0]["path"], at(&mount, "bad/one"));
    // A name that looks like a pattern.
    ends(&place, 0, &["warm", "--check", &at(&mount, "[1]{x}.bin")]);
    ends(&place, 0, &["warm", "--check", &at(&mount, "*x[}].bin")]);

    let long = "*a".repeat(4000);
    let nested = format!("{}a{}", "{".repeat(200), "}".repeat(200));
    for (pattern, code, words) in [
        ("nothing*", 1, "nothing matches"),
        ("none", 1, "no such file or directory"),
        ("*/../x", 1, "component"),
        ("x[", 1, "pattern"),
        (&long, 1, "at most 4096 bytes"),
        (&nested, 1, "svol: "),
        ("**/**/**/**/**/**/*o*o*", 0, ""),
    ] {
        let asked = format!("{}/{pattern}", mount.at().display());
        let (_, err) = ends(&place, code, &["warm", "--check", &asked]);
        assert!(err.contains(words), "{pattern}: {err}");
    }
    let (_, err) = ends(&place, 1, &["warm", "/no/mount/*"]);
    assert!(err.contains("not in a mounted volume"), "{err}");
    let (_, err) = ends(&place, 2, &["warm"]);
    assert!(err.contains("-c FILE"), "{err}");
    ends(&place, 2, &["warm", "--jobs", "0", &at(&mount, "")]);
}
