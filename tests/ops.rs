//! Operating a mount: figures that equal what was done, probes that are not fooled, errors in words.

mod common;

use std::io::Write;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use common::mount::{Mount, Place, is_mounted, xattr};
use common::noise;
use common::process::program;
use common::s3::{ACCESS, SECRET, TestS3};
use common::scripted::{Scripted, reply};
use common::store::{Mood, Store};
use common::wait_until;
use rustix::process::{Pid, Signal, kill_process};
use tokio::runtime::Runtime;

/// The control socket that the status names.
fn socket(place: &Place) -> PathBuf {
    let status = place.status();
    let socket = status["mounts"][0]["controlSocket"].as_str().unwrap();
    assert!(socket.ends_with(".sock"), "{socket}");
    socket.into()
}

/// The TCP address that the status names.
fn address(place: &Place) -> SocketAddr {
    let status = place.status();
    let address = status["mounts"][0]["listen"].as_str();
    address
        .unwrap_or_else(|| panic!("{status}"))
        .parse()
        .unwrap()
}

async fn told(request: reqwest::RequestBuilder) -> (u16, String) {
    let response = request.send().await.unwrap();
    let status = response.status().as_u16();
    (status, response.text().await.unwrap())
}

/// Asks over the control socket.
fn ask(place: &Place, path: &str) -> (u16, String) {
    let socket = socket(place);
    Runtime::new().unwrap().block_on(async {
        svol::tls::install();
        let client = reqwest::Client::builder().unix_socket(socket);
        let client = client.build().unwrap();
        told(client.get(format!("http://svol{path}"))).await
    })
}

/// Asks over TCP.
fn ask_at(at: SocketAddr, path: &str, headers: &[(&str, &str)]) -> (u16, String) {
    Runtime::new().unwrap().block_on(async {
        svol::tls::install();
        let client = reqwest::Client::builder().no_proxy().build().unwrap();
        let mut request = client.get(format!("http://{at}{path}"));
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        told(request).await
    })
}

fn json(text: &str) -> serde_json::Value {
    serde_json::from_str(text).unwrap_or_else(|e| panic!("{e}: {text}"))
}

/// The sum of a figure's samples that have all of these labels.
fn figure(page: &str, name: &str, labels: &[&str]) -> f64 {
    let samples = page.lines().filter(|line| {
        let rest = line.strip_prefix(name);
        rest.is_some_and(|rest| rest.starts_with([' ', '{']))
            && labels.iter().all(|label| line.contains(label))
    });
    let values: Vec<f64> = samples
        .map(|line| line.rsplit_once(' ').unwrap().1.parse().unwrap())
        .collect();
    assert!(!values.is_empty(), "no {name} {labels:?} in\n{page}");
    values.iter().sum()
}

fn figures(place: &Place) -> String {
    let (status, page) = ask(place, "/metrics");
    assert_eq!(status, 200, "{page}");
    page
}

/// Asserts that Prometheus' own tool has nothing to say against it.
fn assert_clean(page: &str) {
    let mut tool = Command::new(program("promtool"))
        .args(["check", "metrics"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    tool.stdin
        .take()
        .unwrap()
        .write_all(page.as_bytes())
        .unwrap();
    let said = tool.wait_with_output().unwrap();
    let text = [said.stdout, said.stderr].concat();
    let text = String::from_utf8_lossy(&text);
    assert!(said.status.success() && text.is_empty(), "{text}\n{page}");
}

#[test]
fn figures_equal_what_was_done() {
    let s3 = TestS3::shared();
    let files = [("a", 1_000_000), ("d/b", 10_000), ("d/c", 300_001)];
    let total = 1_310_001.0;
    let bucket = Runtime::new().unwrap().block_on(async {
        let bucket = s3.bucket("ops").await;
        for (at, (key, size)) in files.iter().enumerate() {
            s3.put(&bucket, key, noise(at as u64, *size)).await;
        }
        bucket
    });
    let place = Place::new();
    let source = format!("s3://{bucket}");
    let args = [
        "--passthrough=false",
        "--region",
        "us-east-1",
        "--endpoint-url",
        &s3.endpoint,
        &source,
    ];
    let mount = || {
        place.mount_with("mnt", &args, |command| {
            command.env("AWS_ACCESS_KEY_ID", ACCESS);
            command.env("AWS_SECRET_ACCESS_KEY", SECRET);
        })
    };
    let read_all = |mount: &Mount| {
        for (at, (key, size)) in files.iter().enumerate() {
            assert!(mount.read(key) == noise(at as u64, *size), "{key}");
        }
    };
    let mut first = mount();
    let page = figures(&place);
    assert_eq!(figure(&page, "svol_layer_ready", &[]), 0.0, "nobody asked");
    assert_eq!(figure(&page, "svol_reads_total", &[]), 0.0);
    read_all(&first);
    let page = figures(&place);
    assert_clean(&page);
    assert_eq!(figure(&page, "svol_source_fetched_bytes_total", &[]), total);
    assert_eq!(figure(&page, "svol_read_bytes_total", &[]), total);
    assert!(figure(&page, "svol_read_bytes_total", &["from=\"source\""]) > 0.0);
    assert_eq!(
        figure(&page, "svol_read_bytes_total", &["from=\"local\""]),
        0.0
    );
    assert_eq!(figure(&page, "svol_layer_ready", &[]), 1.0);
    assert_eq!(figure(&page, "svol_source_errors_total", &[]), 0.0);
    assert_eq!(figure(&page, "svol_source_retries_total", &[]), 0.0);
    assert_eq!(figure(&page, "svol_source_breaker_open", &[]), 0.0);
    assert_eq!(figure(&page, "svol_failing_paths", &[]), 0.0);
    assert_eq!(figure(&page, "svol_catalogue_listings_total", &[]), 2.0);
    let requests = figure(&page, "svol_source_requests_total", &[]);
    assert_eq!(
        figure(&page, "svol_source_answer_seconds_count", &[]),
        requests
    );
    let all = figure(&page, "svol_source_answer_seconds_bucket", &["+Inf"]);
    assert_eq!(all, requests);
    // The status says the same.
    assert_eq!(place.sum("requests") as f64, requests);
    assert_eq!(place.sum("bytesFetched") as f64, total);
    // Probes are not reads.
    let reads = figure(&page, "svol_reads_total", &[]);
    assert_eq!(ask(&place, "/healthz").0, 200);
    assert_eq!(figure(&figures(&place), "svol_reads_total", &[]), reads);
    first.signal(Signal::TERM);
    drop(first);

    // Another process: all of it from the cache.
    let second = mount();
    read_all(&second);
    let page = figures(&place);
    assert_clean(&page);
    assert_eq!(figure(&page, "svol_source_fetched_bytes_total", &[]), 0.0);
    assert_eq!(figure(&page, "svol_read_bytes_total", &[]), total);
    assert_eq!(figure(&page, "svol_cache_read_bytes_total", &[]), total);
    let prefetched = figure(&page, "svol_prefetch_bytes_total", &["wasted"]);
    assert_eq!(prefetched, 0.0);
}

#[test]
fn requests_are_those_that_the_server_saw_and_errors_have_kinds() {
    let store = Store::with([("f", noise(1, 100_000)), ("g", noise(2, 1_000))]);
    let place = Place::new();
    let mount = place.mount(&["--timeout", "1s", &store.tree()]);
    mount.read("f");
    store.mood("g", Mood::Status(403));
    assert!(std::fs::read(mount.path("g")).is_err());
    let page = figures(&place);
    assert_clean(&page);
    let requests = figure(&page, "svol_source_requests_total", &[]);
    assert_eq!(requests as usize, store.requests());
    assert!(figure(&page, "svol_source_errors_total", &["reason=\"Denied\""]) >= 1.0);
    assert_eq!(
        figure(&page, "svol_source_errors_total", &["reason=\"Timeout\""]),
        0.0
    );
    assert_eq!(figure(&page, "svol_failing_paths", &[]), 1.0);
}

#[test]
fn tcp_is_for_those_who_may() {
    let place = Place::new();
    let dir = place.path("src");
    std::fs::create_dir(&dir).unwrap();
    std::fs::write(dir.join("f"), "x").unwrap();
    let source = dir.to_str().unwrap().to_owned();

    let at = place.path("refused");
    let refused = place.svol([
        "mount",
        "--listen",
        "0.0.0.0:0",
        &source,
        at.to_str().unwrap(),
    ]);
    assert_eq!(refused.status.code(), Some(2));
    let said = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(said.contains("--listen-token-file"), "{said}");

    let mount = place.mount(&["--listen", "127.0.0.1:0", &source]);
    let at = address(&place);
    let (status, page) = ask_at(at, "/metrics", &[]);
    assert_eq!(status, 200);
    assert_clean(&page);
    assert_eq!(ask_at(at, "/healthz", &[]).0, 200);
    assert_eq!(ask_at(at, "/readyz", &[]).0, 200);
    let (_, status) = ask_at(at, "/status", &[]);
    assert_eq!(json(&status)["pid"], mount.pid());
    // A page of the web whose name stands for this machine all at once.
    assert_eq!(ask_at(at, "/status", &[("host", "evil.example")]).0, 403);
    // It takes no orders.
    for order in ["/refresh", "/explain", "/attempt"] {
        assert_eq!(ask_at(at, order, &[]).0, 404, "{order}");
    }
    drop(mount);

    let token = place.path("token");
    std::fs::write(&token, "hunter2\n").unwrap();
    let file = token.to_str().unwrap();
    let args = [
        "--listen",
        "0.0.0.0:0",
        "--listen-token-file",
        file,
        &source,
    ];
    let mount = place.mount(&args);
    let at = SocketAddr::from(([127, 0, 0, 1], address(&place).port()));
    let with = |token: &str| ask_at(at, "/metrics", &[("authorization", token)]);
    assert_eq!(ask_at(at, "/metrics", &[]).0, 401);
    assert_eq!(with("Bearer hunter").0, 401);
    assert_eq!(with("Basic hunter2").0, 401);
    assert_eq!(with("Bearer hunter2").0, 200);
    // By any name.
    let both = [
        ("authorization", "Bearer hunter2"),
        ("host", "svol.example"),
    ];
    assert_eq!(ask_at(at, "/metrics", &both).0, 200);
    std::fs::write(&token, "another\n").unwrap();
    assert_eq!(with("Bearer hunter2").0, 401, "it was rotated");
    assert_eq!(with("Bearer another").0, 200);
    assert!(!mount.log().contains("another"), "{}", mount.log());
}

/// The processes that ask this mount whether it serves.
fn askers(mount: &Mount) -> usize {
    let at = mount.at().as_os_str().as_encoded_bytes();
    let processes = std::fs::read_dir("/proc").unwrap().flatten();
    let asks = |line: Vec<u8>| {
        let mut words = line.split(|byte| *byte == 0);
        words.next() == Some(b"svol-probe") && words.next() == Some(at)
    };
    let lines = processes.filter_map(|p| std::fs::read(p.path().join("cmdline")).ok());
    lines.filter(|line| asks(line.clone())).count()
}

fn local_mount(place: &Place) -> Mount {
    let dir = place.path("src");
    std::fs::create_dir(&dir).unwrap();
    std::fs::write(dir.join("f"), "x").unwrap();
    place.mount(&[dir.to_str().unwrap()])
}

/// `svol probe`'s status and what it said.
fn probe(place: &Place, mount: &Mount, more: &[&str]) -> (Option<i32>, String) {
    let mut args = vec!["probe"];
    args.extend(more);
    args.push(mount.at().to_str().unwrap());
    let output = place.svol(args);
    let said = [output.stdout, output.stderr].concat();
    (output.status.code(), String::from_utf8(said).unwrap())
}

#[test]
fn a_stopped_daemon_fools_no_probe() {
    let place = Place::new();
    let mut mount = local_mount(&place);
    let (code, said) = probe(&place, &mount, &["--ready"]);
    assert_eq!(code, Some(0), "{said}");
    let pid = Pid::from_raw(mount.pid() as i32).unwrap();
    kill_process(pid, Signal::STOP).unwrap();
    for _ in 0..3 {
        // It lives, and is mounted.
        let (code, said) = probe(&place, &mount, &["--timeout", "500ms"]);
        assert_eq!(code, Some(1), "{said}");
        assert!(said.contains("did not answer within"), "{said}");
        // The holder asks for itself, too.
        assert!(askers(&mount) <= 2);
    }
    kill_process(pid, Signal::CONT).unwrap();
    wait_until("the mount", || probe(&place, &mount, &[]).0 == Some(0));
    mount.kill();
    let (code, said) = probe(&place, &mount, &[]);
    assert_eq!(code, Some(1), "{said}");
    let nowhere = place.svol(["probe", "/proc"]);
    assert_eq!(nowhere.status.code(), Some(1));
    let said = String::from_utf8_lossy(&nowhere.stderr).into_owned();
    assert!(said.contains("no volume is mounted there"), "{said}");
}

#[cfg(feature = "failpoints")]
#[test]
fn a_wedged_mount_is_found_and_can_still_be_ended() {
    let place = Place::new();
    let mut mount = local_mount(&place);
    let tell = |what: &str| {
        let socket = socket(&place);
        let query = [("what", what), ("path", "")];
        let told = svol::control::client::ask::<Option<i32>>(
            &socket,
            true,
            "/attempt",
            &query,
            svol::control::client::PROMPT,
        );
        let told = Runtime::new().unwrap().block_on(told).unwrap();
        assert_eq!(told, Some(0));
    };
    assert_eq!(ask(&place, "/healthz").0, 200);
    tell("wedge");
    // The process is well and answers; the mount does not.
    std::thread::scope(|scope| {
        for _ in 0..5 {
            scope.spawn(|| {
                let (status, said) = ask(&place, "/healthz");
                assert_eq!(status, 503, "{said}");
                assert_eq!(json(&said)["healthy"], false);
            });
        }
    });
    assert!(askers(&mount) <= 1, "they pile up");
    let (status, said) = ask(&place, "/readyz");
    assert_eq!(status, 503);
    assert_eq!(json(&said)["reasons"][0]["reason"], "Wedged");
    // These ask by themselves, one at a time.
    for _ in 0..3 {
        let (code, said) = probe(&place, &mount, &["--timeout", "300ms"]);
        assert_eq!(code, Some(1), "{said}");
    }
    assert!(askers(&mount) <= 2, "they pile up");
    tell("free");
    wait_until("the mount", || ask(&place, "/healthz").0 == 200);
    wait_until("a probe", || probe(&place, &mount, &[]).0 == Some(0));
    // Whoever asks keeps neither the daemon nor the mount.
    tell("wedge");
    assert_eq!(ask(&place, "/healthz").0, 503);
    mount.signal(Signal::TERM);
    assert!(!is_mounted(mount.at()));
    wait_until("the last who asks", || askers(&mount) == 0);
}

#[test]
fn a_mount_is_ready_when_its_required_layers_are() {
    let needed = Store::with([("f", noise(1, 1_000))]);
    let other = Store::with([("g", noise(2, 1_000))]);
    let place = Place::new();
    let file = place.path("volume.yaml");
    let text = format!(
        "apiVersion: sharedvolume.io/v1\nkind: Volume\nmetadata: {{name: v}}\nspec:\n  \
         timeout: 1s\n  control: {{listen: \"127.0.0.1:0\"}}\n  layers:\n    \
         - name: needed\n      http: {{url: \"{}\"}}\n      required: true\n    \
         - name: other\n      http: {{url: \"{}\"}}\n      path: /other\n",
        needed.tree(),
        other.tree()
    );
    std::fs::write(&file, text).unwrap();
    needed.mood("", Mood::Status(403));
    other.mood("", Mood::Status(403));
    let mount = place.mount(&["-c", file.to_str().unwrap()]);
    let at = address(&place);
    assert_eq!(ask_at(at, "/healthz", &[]).0, 200, "it serves what it can");
    // Nobody has read anything yet.
    let (status, said) = ask_at(at, "/readyz", &[]);
    assert_eq!(status, 503, "{said}");
    let reasons = json(&said)["reasons"].clone();
    assert_eq!(reasons.as_array().unwrap().len(), 1, "{said}");
    assert_eq!(reasons[0]["layer"], "needed");
    assert_eq!(reasons[0]["reason"], "Denied");
    let (code, said) = probe(&place, &mount, &["--ready"]);
    assert_eq!(code, Some(1));
    assert!(said.contains("needed (Denied)"), "{said}");
    assert_eq!(probe(&place, &mount, &[]).0, Some(0));
    let condition = |layer: usize| {
        let status = place.status();
        status["mounts"][0]["layers"][layer]["conditions"][0].clone()
    };
    let failing = condition(0);
    assert_eq!(failing["type"], "Ready");
    assert_eq!(failing["status"], "False");
    assert_eq!(failing["observedGeneration"], 1);
    assert_eq!(condition(1)["status"], "Unknown");
    needed.mood("", Mood::Serve);
    wait_until("the layer", || ask_at(at, "/readyz", &[]).0 == 200);
    assert_eq!(condition(0)["status"], "True");
    assert_eq!(probe(&place, &mount, &["--ready"]).0, Some(0));
}

#[test]
fn an_error_is_said_in_words_until_it_is_over() {
    let well = Arc::new(AtomicBool::new(false));
    let is_well = well.clone();
    let runtime = Runtime::new().unwrap();
    // A server that repeats what it was told, secrets included.
    let server = runtime.block_on(Scripted::start(move |request| {
        let token = request.header("authorization").unwrap_or("none").to_owned();
        let date = ("Last-Modified", "Wed, 01 Jan 2020 00:00:00 GMT");
        let etag = ("ETag", "\"1\"");
        if request.target == "/" {
            let page =
                br#"[{"name":"f","type":"file","mtime":"Wed, 01 Jan 2020 00:00:00 GMT","size":5}]"#;
            return reply("200 OK", &[("Content-Type", "application/json")], page);
        }
        if !is_well.load(Ordering::Relaxed) {
            let said = format!("who are you, {token}?");
            let reason = format!("403 Forbidden {token}");
            return reply(&reason, &[("X-Token", &token)], said.as_bytes());
        }
        match request.header("range") {
            Some(_) => reply(
                "206 Partial Content",
                &[date, etag, ("Content-Range", "bytes 0-4/5")],
                b"hello",
            ),
            None => reply("200 OK", &[date, etag], b"hello"),
        }
    }));
    let place = Place::new();
    std::fs::write(place.path("token"), "hunter2-and-more").unwrap();
    let file = place.path("volume.yaml");
    let text = format!(
        "apiVersion: sharedvolume.io/v1\nkind: Volume\nmetadata: {{name: v}}\nspec:\n  layers:\n    \
         - name: web\n      http:\n        url: {}/\n        index: json\n        \
         auth: {{bearer: {{token: {{fromFile: token}}}}}}\n      path: /dir\n",
        server.url
    );
    std::fs::write(&file, text).unwrap();
    let mount = place.mount(&["-c", file.to_str().unwrap()]);
    let said = |inside: &str| xattr(&mount.path(inside), "user.svol.error");
    let absent = Some(rustix::io::Errno::NODATA.raw_os_error());
    assert_eq!(said("dir/f").unwrap_err().raw_os_error(), absent);

    let error = std::fs::read(mount.path("dir/f")).unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::PermissionDenied);
    let why = said("dir/f").unwrap();
    for part in [
        "/dir/f failed (Denied)",
        "source web:",
        "403",
        "next: ",
        "20",
    ] {
        assert!(why.contains(part), "no {part:?} in {why:?}");
    }
    // Where somebody looks who sees only an error number: at the directory, or the mount.
    assert_eq!(said("dir").unwrap(), why);
    assert!(said("").unwrap().contains("/dir/f failed"));
    let status = place.status();
    let told = &status["mounts"][0]["pathErrors"][0];
    assert_eq!(told["path"], "/dir/f", "{status}");
    assert_eq!(told["layer"], "web");
    assert_eq!(told["reason"], "Denied");
    assert!(place.ok(["status"]).contains("/dir/f failed"));
    assert!(mount.log().contains("/dir/f"), "{}", mount.log());
    let page = figures(&place);
    for text in [&why, &status.to_string(), &mount.log(), &page] {
        assert!(!text.contains("hunter2"), "{text}");
    }
    let _ = std::fs::read(mount.path("dir/f"));
    assert!(said("dir/f").unwrap().contains("times since"), "{why}");

    well.store(true, Ordering::Relaxed);
    assert_eq!(mount.read("dir/f"), b"hello");
    for place in ["dir/f", "dir", ""] {
        assert_eq!(said(place).unwrap_err().raw_os_error(), absent, "{place}");
    }
    assert_eq!(place.status()["mounts"][0]["failingPaths"], 0);
}

#[test]
fn a_source_that_is_down_says_when_it_is_asked_again() {
    let store = Store::with([("f", noise(1, 1_000)), ("d/g", noise(2, 1_000))]);
    let place = Place::new();
    let mount = place.mount(&["--timeout", "300ms", &store.tree()]);
    assert!(mount.path("f").exists());
    store.mood("", Mood::Silent);
    // Until the breaker opens.
    wait_until("the breaker", || {
        assert!(std::fs::read(mount.path("f")).is_err());
        place.status()["mounts"][0]["layers"][0]["breakerOpen"] == true
            && xattr(&mount.path("f"), "user.svol.error")
                .unwrap()
                .contains("not asked before 20")
    });
    // A name that cannot be looked up: its directory says why.
    assert!(std::fs::metadata(mount.path("d/g")).is_err());
    let why = xattr(&mount.path("d"), "user.svol.error").unwrap();
    assert!(
        why.contains("/d/g failed") || why.contains("/d failed"),
        "{why}"
    );
    store.mood("", Mood::Serve);
    wait_until("the source", || std::fs::read(mount.path("d/g")).is_ok());
    wait_until("the file", || std::fs::read(mount.path("f")).is_ok());
    assert!(xattr(mount.at(), "user.svol.error").is_err());
}

/// Runs what docs/OPERATIONS.md shows, on a real mount.
#[test]
fn what_the_documentation_shows_works() {
    let docs = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/OPERATIONS.md");
    let docs = std::fs::read_to_string(docs).unwrap();
    let place = Place::new();
    let dir = place.path("src");
    std::fs::create_dir(&dir).unwrap();
    std::fs::write(dir.join("f"), "x").unwrap();
    let mount = place.mount(&["--listen", "127.0.0.1:0", dir.to_str().unwrap()]);
    let at = address(&place).to_string();
    let program = Path::new(env!("CARGO_BIN_EXE_svol")).parent().unwrap();
    let path = std::env::var("PATH").unwrap();
    let mut shown = 0;
    for block in docs.split("```sh\n").skip(1) {
        let script = block.split("```").next().unwrap();
        let script = script.replace("/mnt/v", mount.at().to_str().unwrap());
        let script = script.replace("127.0.0.1:9465", &at);
        let output = Command::new("sh")
            .args(["-euc", &script])
            .env("PATH", format!("{}:{path}", program.display()))
            .env("SVOL_RUNTIME_DIR", place.path("run"))
            .output()
            .unwrap();
        let said = [output.stdout, output.stderr].concat();
        let said = String::from_utf8_lossy(&said);
        assert!(output.status.success(), "{script}\n{said}");
        shown += 1;
    }
    assert!(shown >= 4, "{shown} blocks");
    // Each figure is in the table, and nothing else.
    let (_, page) = ask(&place, "/metrics");
    let named = page.lines().filter_map(|l| l.strip_prefix("# TYPE "));
    let mut named: Vec<&str> = named.filter_map(|l| l.split(' ').next()).collect();
    let rows = docs.lines().filter_map(|l| l.strip_prefix("| `svol_"));
    let rows: Vec<String> = rows
        .filter_map(|row| Some(format!("svol_{}", row.split('`').next()?)))
        .collect();
    let mut rows: Vec<&str> = rows.iter().map(String::as_str).collect();
    named.sort_unstable();
    rows.sort_unstable();
    assert_eq!(named, rows);
}
