//! Real containers and pods: what they see of a mount, and svol in one.

mod common;

use std::io::{Read, Write};
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use common::mount::{Place, is_mounted};
use common::podman::{Podman, SVOL};
use common::process::program;
use common::wait_until;

/// The project's directory.
const HERE: &str = env!("CARGO_MANIFEST_DIR");

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

fn ok(output: Output) -> String {
    assert!(output.status.success(), "{}", text(&output.stderr));
    text(&output.stdout)
}

fn kubectl(args: &[&str]) -> Command {
    let mut command = Command::new(Path::new(HERE).join("target/test-env/bin/kubectl"));
    command.args(args).env_remove("KUBECONFIG").env("HOME", "/");
    command
}

/// Returns what kustomize makes of one of the overlays.
fn kustomize(overlay: &str) -> String {
    let overlay = Path::new(HERE).join("docs/deploy/kubernetes").join(overlay);
    let output = kubectl(&["kustomize"]).arg(&overlay).output().unwrap();
    ok(output)
}

#[test]
fn a_mount_of_the_host_comes_into_containers_and_comes_back_where_it_propagates() {
    let podman = Podman::new();
    let volume = podman.make("volume");
    let at = podman.make("volume/v");
    let source = podman.make("source");
    std::fs::write(source.join("hello"), "hello").unwrap();
    let bind = |path: &Path, how: &str| format!("{}:/data:{how}", path.display());

    // Around the mount point, and at it; before there is a mount, and after.
    podman.idle("slave-before", &bind(&volume, "rslave"));
    podman.idle("private-before", &bind(&volume, "rprivate"));
    let place = Place::new();
    let start = || {
        let at = at.to_str().unwrap();
        let mut command = place.command(["mount", "--allow-other", source.to_str().unwrap(), at]);
        ok(command.output().unwrap());
        assert!(is_mounted(Path::new(at)));
    };
    start();
    podman.idle("slave-after", &bind(&volume, "rslave"));
    podman.idle("private-after", &bind(&volume, "rprivate"));
    podman.idle("at-it", &bind(&at, "rslave"));

    let hello = || Ok("hello".to_owned());
    assert_eq!(podman.cat("slave-before", "/data/v/hello"), hello());
    let missed = podman.cat("private-before", "/data/v/hello").unwrap_err();
    assert!(missed.contains("No such file"), "{missed}");
    assert_eq!(podman.cat("slave-after", "/data/v/hello"), hello());
    assert_eq!(podman.cat("private-after", "/data/v/hello"), hello());
    assert_eq!(podman.cat("at-it", "/data/hello"), hello());

    // Unmounted, it is gone where it propagates; a copy of a container's own is served on.
    let status = place.status();
    let pid = status["mounts"][0]["pid"].as_i64().unwrap() as i32;
    let pid = rustix::process::Pid::from_raw(pid).unwrap();
    let unmounted = place.svol(["unmount", "--timeout", "1s", at.to_str().unwrap()]);
    let said = text(&unmounted.stderr);
    assert!(said.contains("its own copy of the mount"), "{said}");
    let gone = podman.cat("slave-before", "/data/v/hello").unwrap_err();
    assert!(gone.contains("No such file"), "{gone}");
    assert_eq!(podman.cat("private-after", "/data/v/hello"), hello());

    // The daemon ends, and is started again.
    rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
    let process = format!("/proc/{}", pid.as_raw_nonzero());
    wait_until("the daemon's end", || !Path::new(&process).exists());
    start();
    assert_eq!(podman.cat("slave-before", "/data/v/hello"), hello());
    assert_eq!(podman.cat("slave-after", "/data/v/hello"), hello());
    // Those keep the mount that is gone, until they are started again.
    for (container, path) in [("private-after", "/data/v/hello"), ("at-it", "/data/hello")] {
        let gone = podman.cat(container, path).unwrap_err();
        assert!(gone.contains("not connected"), "{container}: {gone}");
        podman.ok(&["restart", "-t", "5", container]);
        assert_eq!(podman.cat(container, path), hello(), "{container}");
    }
    podman.ok(&["rm", "-f", "-a", "-t", "5"]);
    place.ok(["unmount", at.to_str().unwrap()]);
}

#[test]
fn the_image_runs_with_no_more_than_the_device_and_the_right_to_mount() {
    let podman = Podman::new();
    podman.build_svol();
    let said = podman.ok(&[
        "run",
        "--rm",
        "--network",
        "none",
        "--read-only",
        "--cap-drop",
        "all",
        SVOL,
        "--version",
    ]);
    assert!(said.starts_with("svol "), "{said}");
    let what = "{{.Config.User}} {{.Config.Entrypoint}}";
    let settings = podman.ok(&["image", "inspect", "--format", what, SVOL]);
    assert_eq!(settings, "65534:65534 [/usr/bin/svol]");

    let source = podman.make("source");
    std::fs::write(source.join("hello"), "hello").unwrap();
    let source = format!("{}:/source:ro", source.display());
    let mut args = vec![
        "run",
        "-d",
        "--name",
        "svol",
        "--network",
        "none",
        "--user",
        "0",
    ];
    args.extend(["--cap-drop", "all", "--cap-add", "SYS_ADMIN"]);
    args.extend(["--device", "/dev/fuse", "--read-only"]);
    args.extend(["--tmpfs", "/cache:mode=1777", "-v", &source, SVOL]);
    args.extend(["mount", "--foreground", "--mkdir", "/source", "/run/v"]);
    podman.ok(&args);
    let probe = [
        "exec",
        "svol",
        "/usr/bin/svol",
        "probe",
        "--ready",
        "/run/v",
    ];
    wait_until("the mount in the container", || {
        podman.run(&probe).status.success()
    });
    let pid = podman.ok(&["inspect", "--format", "{{.State.Pid}}", "svol"]);
    let inside = PathBuf::from(format!("/proc/{pid}/root/run/v/hello"));
    assert_eq!(std::fs::read(inside).unwrap(), b"hello");
    let status = podman.ok(&["exec", "svol", "/usr/bin/svol", "status", "--json"]);
    let status: serde_json::Value = serde_json::from_str(&status).unwrap();
    let sandbox = &status["mounts"][0]["sandbox"];
    assert_eq!(sandbox["capabilities"], serde_json::json!([]), "{sandbox}");
    assert_eq!(sandbox["seccomp"], true, "{sandbox}");
    // It ends when it is asked to, not when it is killed.
    podman.ok(&["stop", "-t", "60", "svol"]);
    let code = podman.ok(&["inspect", "--format", "{{.State.ExitCode}}", "svol"]);
    assert_eq!(code, "0");
}

#[test]
fn pods_of_both_kinds_are_played_and_leave_nothing() {
    let demo = Command::new("docs/deploy/pod-demo.sh")
        .arg(env!("CARGO_BIN_EXE_svol"))
        .current_dir(HERE)
        .env(
            "KUBECTL",
            Path::new(HERE).join("target/test-env/bin/kubectl"),
        )
        .stdin(Stdio::null())
        .output()
        .unwrap();
    let said = ok(demo);
    println!("{said}");
    for kind in ["sidecar", "unprivileged"] {
        let part = said.split(&format!("== {kind}: the pod starts")).nth(1);
        let part = part.unwrap_or_else(|| panic!("{said}"));
        for line in [
            "hello:of the patch",
            "only:of the base alone",
            "/volume/v: serves",
            "back after",
            "nothing is left mounted",
        ] {
            assert!(part.contains(line), "{kind}: no {line}\n{said}");
        }
    }
    let unprivileged = said.split("== unprivileged").nth(1).unwrap();
    for line in [
        "Uid:\t65534\t65534\t65534\t65534",
        "CapEff:\t0000000000000000",
        "NoNewPrivs:\t1",
        "Seccomp:\t2",
    ] {
        assert!(unprivileged.contains(line), "no {line}\n{said}");
    }
}

#[test]
fn what_a_killed_pod_leaves_is_seen_and_removed() {
    let podman = Podman::new();
    podman.build_svol();
    let file = podman.dir().join("pod.yaml");
    std::fs::write(&file, kustomize("podman/sidecar")).unwrap();
    let file = file.to_str().unwrap();
    podman.ok(&["kube", "play", "--network", "none", file]);
    wait_until("the volume", || {
        podman.cat("demo-app", "/data/v/hello") == Ok("of the patch\n".into())
    });
    // All of it at once, as when a node's memory is out, or by `kube down` of podman 4.3.
    podman.ok(&["pod", "kill", "-s", "KILL", "demo"]);
    let volume = podman.ok(&["volume", "inspect", "--format", "{{.Mountpoint}}", "volume"]);
    let at = Path::new(&volume).join("v");
    assert!(is_mounted(&at), "{}", at.display());
    let gone = std::fs::read(at.join("hello")).unwrap_err();
    assert_eq!(gone.raw_os_error(), Some(libc::ENOTCONN), "{gone}");
    // The next one takes its place; and where none comes, whoever looks after the host removes it.
    podman.ok(&["pod", "start", "demo"]);
    wait_until("the volume again", || {
        podman.cat("demo-app", "/data/v/hello") == Ok("of the patch\n".into())
    });
    podman.ok(&["pod", "kill", "-s", "KILL", "demo"]);
    Place::new().ok(["unmount", at.to_str().unwrap()]);
    assert!(!is_mounted(&at));
    podman.ok(&["kube", "down", file]);
}

#[test]
fn manifests_are_what_kubernetes_knows() {
    let dir = tempfile::tempdir().unwrap();
    let discovery = Discovery::start();
    for overlay in ["sidecar", "unprivileged", "job"] {
        let manifest = kustomize(overlay);
        let file = dir.path().join("manifest.yaml");
        std::fs::write(&file, &manifest).unwrap();
        let validate = Command::new(program("kubernetes-validate"))
            .arg("--strict")
            .arg(&file)
            .output()
            .unwrap();
        assert!(
            validate.status.success(),
            "{overlay}: {}",
            text(&validate.stdout) + &text(&validate.stderr)
        );
        // Not even a dry run of the client's own does without a server that says which kinds of
        // objects there are; here one says that, and nothing else.
        let server = format!("--server=http://127.0.0.1:{}", discovery.port);
        let args = [
            &server,
            "create",
            "--dry-run=client",
            "--validate=false",
            "-f",
        ];
        let created = ok(kubectl(&args).arg(&file).output().unwrap());
        let kind = if overlay == "job" { "job.batch" } else { "pod" };
        for object in ["configmap/volume", "secret/login", &format!("{kind}/demo")] {
            let line = format!("{object} created (dry run)");
            assert!(created.contains(&line), "{overlay}: {created}");
        }
        // Sidecars start in this order.
        let spec = manifest.split("initContainers:").nth(1).unwrap();
        let order: Vec<usize> = ["name: web\n", "name: fuse-helper\n", "name: svol\n"]
            .iter()
            .filter_map(|name| spec.find(name))
            .collect();
        assert!(order.is_sorted(), "{overlay}: {manifest}");
        assert_eq!(order.len(), if overlay == "unprivileged" { 3 } else { 2 });
        assert_eq!(spec.matches("restartPolicy: Always").count(), order.len());
    }
    // A wrong field is found, or the above says nothing.
    let wrong = kustomize("sidecar").replace("mountPropagation: Bidir", "mountPropagated: Bidir");
    let file = dir.path().join("wrong.yaml");
    std::fs::write(&file, wrong).unwrap();
    let validate = Command::new(program("kubernetes-validate"))
        .arg("--strict")
        .arg(&file)
        .output()
        .unwrap();
    assert!(!validate.status.success(), "{}", text(&validate.stdout));
}

#[test]
fn a_pod_gets_a_volume_from_a_configmap_and_a_secret_as_documented() {
    let readme = std::fs::read_to_string(Path::new(HERE).join("docs/deploy/README.md")).unwrap();
    let part = readme
        .split("### A volume from a ConfigMap")
        .nth(1)
        .unwrap();
    let block = |kind: &str| {
        let from = part.split(&format!("```{kind}\n")).nth(1).unwrap();
        from.split("```").next().unwrap().to_owned()
    };
    let podman = Podman::new();
    podman.build_svol();

    // A server that asks for the password.
    let web = podman.make("web");
    std::fs::write(web.join("hello"), "hello").unwrap();
    let rules = podman.dir().join("httpd.conf");
    // Podman 4.3 gives a Secret's values as they are encoded; a kubelet decodes them.
    std::fs::write(&rules, "/:reader:aGlkZGVu\n").unwrap();
    let [port] = common::process::free_ports();
    let mut server = Command::new(program("busybox"));
    server.args(["httpd", "-f", "-p", &format!("127.0.0.1:{port}"), "-h"]);
    server.arg(&web).arg("-c").arg(&rules);
    let _server = common::process::Server::start(server, podman.make("server"));
    wait_until("the web server", || common::process::listens(port));

    let work = podman.make("work");
    std::fs::write(work.join("password"), "hidden").unwrap();
    let volume = format!(
        "apiVersion: sharedvolume.io/v1\nkind: Volume\nmetadata: {{name: demo}}\nspec:\n  layers:\n\
         {}- http:\n{}url: http://127.0.0.1:{port}/hello\n{}auth: {{basic: {{username: reader, \
         password: {{fromFile: /secrets/password}}}}}}\n",
        "    ", "        ", "        "
    );
    std::fs::write(work.join("volume.yaml"), volume).unwrap();
    // The commands as they stand there, but to a file and not to a cluster.
    let mut manifest = String::new();
    for line in block("sh").lines() {
        let words: Vec<&str> = line.split_whitespace().collect();
        assert_eq!(words[0], "kubectl");
        let mut command = kubectl(&words[1..]);
        command.args(["--dry-run=client", "-o", "yaml"]);
        manifest += &ok(command.current_dir(&work).output().unwrap());
        manifest += "---\n";
    }
    manifest += "apiVersion: v1\nkind: Pod\nmetadata: {name: reader}\nspec:\n";
    for line in block("yaml").lines() {
        manifest += &format!("  {line}\n");
    }
    let file = podman.dir().join("pod.yaml");
    std::fs::write(&file, &manifest).unwrap();
    podman.ok(&["kube", "play", "--network", "host", file.to_str().unwrap()]);
    let pid = podman.ok(&["inspect", "--format", "{{.State.Pid}}", "reader-svol"]);
    let hello = PathBuf::from(format!("/proc/{pid}/root/volume/hello"));
    let mut read = String::new();
    let started = std::time::Instant::now();
    while read != "hello" && started.elapsed() < common::START {
        let output = Command::new("timeout")
            .arg("20")
            .arg("cat")
            .arg(&hello)
            .output();
        let output = output.unwrap();
        read = text(&output.stdout) + &text(&output.stderr);
    }
    let log = podman.run(&["logs", "reader-svol"]);
    assert_eq!(read, "hello", "{manifest}\n{}", text(&log.stderr));
    podman.ok(&["pod", "stop", "-t", "60", "reader"]);
}

/// Says which kinds of objects there are, as an API server does.
struct Discovery {
    port: u16,
}

impl Discovery {
    fn start() -> Discovery {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                std::thread::spawn(move || answer(stream));
            }
        });
        Discovery { port }
    }
}

/// Answers the requests of one connection.
fn answer(mut stream: std::net::TcpStream) {
    let mut asked = Vec::new();
    let mut chunk = [0; 4096];
    while let Ok(n @ 1..) = stream.read(&mut chunk) {
        asked.extend_from_slice(&chunk[..n]);
        while let Some(end) = asked.windows(4).position(|w| w == b"\r\n\r\n") {
            let head = text(&asked.drain(..end + 4).collect::<Vec<_>>());
            let path = head.split(' ').nth(1).unwrap_or_default();
            let path = path.split('?').next().unwrap_or_default();
            let kind = |name: &str, kind: &str| {
                serde_json::json!({"name": name, "singularName": "", "namespaced": true,
                    "kind": kind, "verbs": ["create", "get"]})
            };
            let (status, body) = match path {
                "/api" => (
                    "200 OK",
                    serde_json::json!({"kind": "APIVersions", "versions": ["v1"]}),
                ),
                "/apis" => (
                    "200 OK",
                    serde_json::json!({"kind": "APIGroupList",
                    "apiVersion": "v1", "groups": [{"name": "batch",
                    "versions": [{"groupVersion": "batch/v1", "version": "v1"}],
                    "preferredVersion": {"groupVersion": "batch/v1", "version": "v1"}}]}),
                ),
                "/api/v1" => (
                    "200 OK",
                    serde_json::json!({"kind": "APIResourceList",
                    "apiVersion": "v1", "groupVersion": "v1", "resources": [kind("pods", "Pod"),
                    kind("configmaps", "ConfigMap"), kind("secrets", "Secret")]}),
                ),
                "/apis/batch/v1" => (
                    "200 OK",
                    serde_json::json!({"kind": "APIResourceList",
                    "apiVersion": "v1", "groupVersion": "batch/v1",
                    "resources": [kind("jobs", "Job")]}),
                ),
                _ => (
                    "404 Not Found",
                    serde_json::json!({"kind": "Status", "code": 404}),
                ),
            };
            let body = body.to_string();
            let reply = format!(
                "HTTP/1.1 {status}\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
                body.len()
            );
            if stream.write_all(reply.as_bytes()).is_err() {
                return;
            }
        }
    }
}
