//! The change hook: a command and a web server are told what changed, once, and harm nobody.

mod common;

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use common::mount::{Mount, Place};
use common::store::Store;
use common::wait_until;
use serde_json::{Value, json};

/// A program that keeps what it is told: each time as a file of its own in `told/`.
fn teller(place: &Place, more: &str) -> PathBuf {
    let told = place.path("told");
    std::fs::create_dir_all(&told).unwrap();
    let script = place.path("teller");
    let text = format!(
        "#!/bin/sh\nf={told}/$$\ncat >$f.new; env >$f.env; cat \"$SVOL_MOUNTPOINT/d/a\" >$f.seen\n\
         mv $f.new $f.json\n{more}\n",
        told = told.display()
    );
    std::fs::write(&script, text).unwrap();
    std::fs::set_permissions(&script, PermissionsExt::from_mode(0o755)).unwrap();
    script
}

/// What the program was told so far.
fn told(place: &Place) -> Vec<Value> {
    let mut files: Vec<PathBuf> = std::fs::read_dir(place.path("told"))
        .unwrap()
        .map(|item| item.unwrap().path())
        .filter(|path| path.extension().is_some_and(|e| e == "json"))
        .collect();
    files.sort_by_key(|path| path.metadata().unwrap().modified().unwrap());
    files.iter().map(|path| json_of(path)).collect()
}

fn json_of(path: &Path) -> Value {
    serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap()
}

/// The first hook of the first mount, as the status has it.
fn hook(place: &Place, at: usize) -> Value {
    place.status()["mounts"][0]["onChange"][at].clone()
}

fn volume(place: &Place, store: &Store, more: &str) -> String {
    let file = place.path("volume.yaml");
    let text = format!(
        "apiVersion: sharedvolume.io/v1\nkind: Volume\nmetadata: {{name: demo}}\nspec:\n{more}\n  \
         layers:\n    - name: web\n      http: {{url: '{}'}}\n      exclude: ['*.tmp']\n",
        store.tree()
    );
    std::fs::write(&file, text).unwrap();
    file.to_str().unwrap().to_owned()
}

/// A web server that keeps what it is posted, and answers with the statuses given, then with 204.
struct Posted {
    url: String,
    seen: Arc<Mutex<Vec<(String, Value)>>>,
}

impl Posted {
    fn start(statuses: &[u16]) -> Posted {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}/in/secret-path", listener.local_addr().unwrap());
        let seen = Arc::new(Mutex::new(Vec::new()));
        let (keep, mut statuses) = (seen.clone(), Vec::from(statuses).into_iter());
        // Ends with the test's process.
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let mut stream = BufReader::new(stream.unwrap());
                let mut head = String::new();
                while !head.ends_with("\r\n\r\n") {
                    if stream.read_line(&mut head).unwrap() == 0 {
                        break;
                    }
                }
                let length = { head.lines() }
                    .filter_map(|line| {
                        line.to_ascii_lowercase()
                            .strip_prefix("content-length: ")?
                            .parse()
                            .ok()
                    })
                    .next();
                let mut body = vec![0; length.unwrap_or(0)];
                stream.read_exact(&mut body).unwrap();
                let body = serde_json::from_slice(&body).unwrap();
                keep.lock().unwrap().push((head, body));
                let status = statuses.next().unwrap_or(204);
                let reply = format!(
                    "HTTP/1.1 {status} x\r\nConnection: close\r\nContent-Length: 0\r\n\r\n"
                );
                stream.get_mut().write_all(reply.as_bytes()).unwrap();
            }
        });
        Posted { url, seen }
    }

    fn seen(&self) -> Vec<(String, Value)> {
        self.seen.lock().unwrap().clone()
    }
}

/// Looks at everything once, so that it is known.
fn look(mount: &Mount) {
    for dir in ["", "d"] {
        assert!(std::fs::read_dir(mount.path(dir)).unwrap().count() > 0);
    }
}

#[test]
fn a_command_and_a_server_are_told_after_a_refresh() {
    let store = Store::with([("d/a", b"one".to_vec()), ("d/b", b"b".to_vec())]);
    let place = Place::new();
    let script = teller(&place, "");
    let posted = Posted::start(&[503]);
    std::fs::write(place.path("key"), "hunter2\n").unwrap();
    let more = format!(
        "  refresh: never\n  onChange:\n    command: ['{}', '--word']\n    webhook:\n      url: {}\n      \
         auth: {{bearer: {{token: {{fromFile: key}}}}}}\n      headers: {{X-Key: {{fromEnv: HOOK_KEY}}}}",
        script.display(),
        posted.url
    );
    let file = volume(&place, &store, &more);
    let mount = place.mount_with("mnt", &["-c", &file], |command| {
        command.env("HOOK_KEY", "hunter3");
    });
    look(&mount);
    let at = mount.at().to_str().unwrap();

    // Nothing changed: nobody is told, of the first look neither.
    place.ok(["refresh", at]);
    // What the globs hide is nobody's business.
    store.put("d/x.tmp", "t");
    place.ok(["refresh", at]);

    store.put("d/a", "two!");
    store.remove("d/b");
    store.put("d/c", "c");
    place.ok(["refresh", at]);
    wait_until("the command", || told(&place).len() == 1);
    wait_until("the server", || posted.seen().len() == 2);
    let report = told(&place).remove(0);
    let mut known = report.clone();
    known.as_object_mut().unwrap().remove("time");
    let expected = json!({
        "version": 1, "volume": "demo", "mountpoint": at, "generation": 1, "reloaded": false, "layers": ["web"],
        "paths": ["/d/a", "/d/b", "/d/c"], "truncated": false,
    });
    assert_eq!(known, expected);
    // The refusal was for the moment: the same was posted again.
    let seen = posted.seen();
    assert_eq!(seen[0].1["paths"], seen[1].1["paths"]);
    assert_eq!(seen[1].1["paths"], expected["paths"]);
    let head = seen[1].0.to_ascii_lowercase();
    assert!(head.starts_with("post /in/secret-path "), "{head}");
    assert!(
        head.contains("\r\nauthorization: bearer hunter2\r\n"),
        "{head}"
    );
    assert!(head.contains("\r\nx-key: hunter3\r\n"), "{head}");

    // The command saw the new content, and no variables but its own.
    let of = |what: &str| {
        let mut items = std::fs::read_dir(place.path("told")).unwrap();
        let path = items.find_map(|item| {
            let path = item.unwrap().path();
            path.extension().is_some_and(|e| e == what).then_some(path)
        });
        std::fs::read_to_string(path.unwrap()).unwrap()
    };
    assert_eq!(of("seen"), "two!");
    let variables = of("env");
    assert!(
        variables.contains(&format!("SVOL_MOUNTPOINT={at}\n")),
        "{variables}"
    );
    assert!(!variables.contains("hunter3"), "{variables}");

    wait_until("the status", || {
        hook(&place, 0)["runs"] == 1 && hook(&place, 1)["runs"] == 1
    });
    assert_eq!(hook(&place, 0)["failures"], 0);
    assert_eq!(hook(&place, 1)["failures"], 0);
    let status = place.status().to_string() + &mount.log();
    for secret in ["hunter", "secret-path"] {
        assert!(!status.contains(secret), "{secret} is shown: {status}");
    }
    // One more refresh finds nothing, and nobody was told since.
    place.ok(["refresh", at]);
    assert_eq!((told(&place).len(), posted.seen().len()), (1, 2));
}

#[test]
fn a_scheduled_look_tells_though_nobody_reads() {
    let store = Store::with([("d/a", b"one".to_vec())]);
    let place = Place::new();
    let script = teller(&place, "");
    let at = script.to_str().unwrap();
    let tree = store.tree();
    let mount = place.mount(&["--refresh", "1s", "--on-change", at, &tree]);
    look(&mount);
    store.put("d/a", "two!");
    wait_until("the command", || told(&place).len() == 1);
    assert_eq!(told(&place)[0]["paths"], json!(["/d/a"]));
    store.put("e", "e");
    wait_until("the command again", || told(&place).len() == 2);
    assert_eq!(told(&place)[1]["paths"], json!(["/e"]));
}

#[test]
fn a_hook_that_hangs_or_fails_harms_nobody() {
    let store = Store::with([("d/a", b"one".to_vec())]);
    let place = Place::new();
    // Ignores what asks it politely, and leaves a child behind that does too.
    let script = teller(&place, "trap '' TERM INT HUP; (sleep 600) & sleep 600");
    let posted = Posted::start(&[401]);
    let more = format!(
        "  refresh: never\n  onChange:\n    command: ['{}']\n    webhook: {{url: '{}'}}\n    timeout: 2s",
        script.display(),
        posted.url
    );
    let file = volume(&place, &store, &more);
    let mut mount = place.mount(&["-c", &file]);
    look(&mount);
    let at = mount.at().to_str().unwrap().to_owned();
    store.put("d/a", "two!");
    place.ok(["refresh", &at]);
    wait_until("the command", || told(&place).len() == 1);
    // While it hangs: reads go on, and what changes is told together.
    for n in 0..5 {
        store.put(&format!("d/{n}"), "n");
        place.ok(["refresh", &at]);
        assert_eq!(mount.read(&format!("d/{n}")), b"n");
    }
    wait_until("the second run", || told(&place).len() == 2);
    let paths = told(&place)[1]["paths"].as_array().unwrap().len();
    assert_eq!(paths, 5, "{:?}", told(&place));
    wait_until("the failures", || hook(&place, 0)["failures"] == 2);
    let error = hook(&place, 0)["lastError"].to_string();
    assert!(
        error.contains("did not end within 2s and was killed"),
        "{error}"
    );
    let error = hook(&place, 1)["lastError"].to_string();
    assert!(error.contains("401"), "{error}");
    let status = place.ok(["status"]);
    assert!(status.contains("the change hook"), "{status}");
    let (ended, took) = mount.signal(rustix::process::Signal::TERM);
    assert!(ended.success(), "{ended}");
    assert!(took < Duration::from_secs(20), "{took:?}");
    // What was started is gone with it.
    let began = Instant::now();
    while runs(&script) {
        assert!(
            began.elapsed() < common::START,
            "the hook's command still runs"
        );
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// Whether a process runs this script.
fn runs(script: &Path) -> bool {
    let name = script.to_str().unwrap();
    let mut all = std::fs::read_dir("/proc").unwrap().flatten();
    all.any(|process| {
        std::fs::read_to_string(process.path().join("cmdline"))
            .is_ok_and(|line| line.split('\0').any(|word| word == name))
    })
}
