//! `svol doctor` on machines with real troubles: made in mount namespaces, by limits, by servers that
//! refuse or are gone.

mod common;

use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, Output};

use common::mount::{Place, is_mounted};
use common::nobody::Nobody;
use common::process::free_ports;
use common::s3::{ACCESS, SECRET, TestS3};
use serde_json::Value;
use tokio::runtime::Runtime;

/// What it found, and how it ended.
#[derive(Debug)]
struct Report {
    document: Value,
    status: Option<i32>,
}

impl Report {
    fn of(output: &Output) -> Report {
        let text = String::from_utf8_lossy(&output.stdout);
        let document = serde_json::from_str(&text)
            .unwrap_or_else(|e| panic!("{e}: {text}{}", String::from_utf8_lossy(&output.stderr)));
        Report {
            document,
            status: output.status.code(),
        }
    }

    /// The findings of a check.
    fn all(&self, check: &str) -> Vec<&Value> {
        let all = self.document["findings"].as_array().unwrap();
        all.iter().filter(|f| f["check"] == check).collect()
    }

    /// Asserts that a check came out so, once; returns what it saw and what to do.
    fn is(&self, check: &str, level: &str) -> String {
        let [finding] = self.all(check)[..] else {
            panic!("not one {check}: {:#}", self.document);
        };
        assert_eq!(finding["level"], level, "{finding:#}");
        assert_eq!(finding["remedy"].is_string(), level != "ok", "{finding:#}");
        if level == "fail" {
            assert_eq!(self.status, Some(1));
            assert_eq!(self.document["result"], "fail");
        }
        let remedy = finding["remedy"].as_str().unwrap_or_default();
        format!("{}\n{remedy}", finding["saw"].as_str().unwrap())
    }
}

fn doctor(place: &Place, args: &[&str]) -> Report {
    Report::of(&place.svol([&["doctor", "--json"], args].concat()))
}

fn is_root() -> bool {
    let is_root = rustix::process::geteuid().is_root();
    if !is_root {
        eprintln!("not run: only root makes such a machine");
    }
    is_root
}

/// Runs it in a mount namespace of its own, after a script with `$1` the place's directory.
fn doctor_after(place: &Place, script: &str, args: &[&str]) -> Report {
    let script = format!("{script}\nshift; exec \"$@\"");
    let mut command = Command::new("unshare");
    command
        .args(["-m", "--propagation", "private", "sh", "-ec", &script, "sh"])
        .arg(place.path(""))
        .arg(env!("CARGO_BIN_EXE_svol"))
        .args(["doctor", "--json"])
        .args(args)
        .env("SVOL_RUNTIME_DIR", place.path("run"))
        .env("SVOL_CACHE_DIR", place.cache());
    Report::of(&command.output().unwrap())
}

fn dir(place: &Place, name: &str) -> String {
    let dir = place.path(name);
    std::fs::create_dir_all(&dir).unwrap();
    dir.to_str().unwrap().to_owned()
}

fn volume(place: &Place, layers: &str) -> String {
    let file = place.path("volume.yaml");
    let text = format!(
        "apiVersion: sharedvolume.io/v1\nkind: Volume\nmetadata: {{name: v}}\nspec:\n  layers:\n{layers}"
    );
    std::fs::write(&file, text).unwrap();
    file.to_str().unwrap().to_owned()
}

#[test]
fn a_mount_that_is_well_and_one_that_is_dead() {
    let place = Place::new();
    let source = dir(&place, "src");
    std::fs::write(place.path("src/f"), "x").unwrap();

    // Before it is mounted: the place, the cache that is not there yet, the source.
    let at = dir(&place, "mnt");
    let report = doctor(&place, &[&format!("file://{source}"), &at]);
    assert_eq!(report.status, Some(0), "{:#}", report.document);
    assert_eq!(report.document["version"], 1);
    report.is("mount/point", "ok");
    assert!(report.is("source/lists", "ok").contains("1 entry"));
    assert!(report.is("cache/trial", "ok").contains("locking"));
    assert!(!place.cache().exists(), "nothing was made");
    let left = std::fs::read_dir(place.path("")).unwrap().flatten();
    let left: Vec<_> = left.map(|e| e.file_name()).collect();
    assert!(
        !left.iter().any(|n| n.to_string_lossy().contains("trial")),
        "{left:?}"
    );

    let mut mount = place.mount(&[&source]);
    let report = doctor(&place, &[&at]);
    assert_eq!(report.status, Some(0), "{:#}", report.document);
    report.is("mount/serves", "ok");
    report.is("mount/control", "ok");
    report.is("cache/owner", "ok");
    let text = place.ok(["doctor", &at]);
    assert!(text.contains("ok    mount/serves ["), "{text}");
    assert!(
        text.trim_end()
            .lines()
            .last()
            .unwrap()
            .contains("0 failures"),
        "{text}"
    );

    mount.kill();
    assert!(is_mounted(mount.at()));
    let report = doctor(&place, &[&at]);
    assert!(report.is("mount/serves", "fail").contains("umount -l"));
    assert!(is_mounted(mount.at()), "it was left to its owner");

    let report = doctor(&place, &[&format!("{source}/f")]);
    report.is("mount/point", "fail");
    let report = doctor(&place, &[&source]);
    assert!(report.is("mount/point", "fail").contains("not empty"));
}

#[test]
fn a_wrong_key_is_told_from_a_wrong_bucket() {
    let s3 = TestS3::shared();
    let bucket = Runtime::new().unwrap().block_on(async {
        let bucket = s3.bucket("doctor").await;
        s3.put(&bucket, "a", "x").await;
        bucket
    });
    let wrong = "not-the-key-hunter3";
    let place = Place::new();
    let ask = |bucket: &str, secret: &str| {
        let source = format!("s3://{bucket}");
        let mut command = place.command(["doctor", "--json", "--region", "us-east-1"]);
        command.args(["--endpoint-url", &s3.endpoint, &source]);
        command.env("AWS_ACCESS_KEY_ID", ACCESS);
        command.env("AWS_SECRET_ACCESS_KEY", secret);
        let output = command.output().unwrap();
        let said = [&output.stdout[..], &output.stderr].concat();
        let said = String::from_utf8_lossy(&said).into_owned();
        assert!(!said.contains(SECRET) && !said.contains(wrong), "{said}");
        Report::of(&output)
    };
    let report = ask(&bucket, SECRET);
    assert!(report.is("source/lists", "ok").contains("1 entry"));
    report.is("source/clock", "ok");
    let said = ask(&bucket, wrong).is("source/credentials", "fail");
    assert!(said.contains("secret access key"), "{said}");
    let said = ask("no-such-bucket-here", SECRET).is("source/place", "fail");
    assert!(said.contains("there is no bucket"), "{said}");
}

#[test]
fn servers_that_are_gone_or_silent() {
    let place = Place::new();
    let [port] = free_ports();
    let report = doctor(&place, &[&format!("http://127.0.0.1:{port}/")]);
    let said = report.is("source/connects", "fail");
    assert!(said.contains(&format!("127.0.0.1:{port}")), "{said}");

    // It takes connections, as the kernel does for it, and never answers.
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let at = silent.local_addr().unwrap();
    let [gone] = free_ports();
    let file = volume(
        &place,
        &format!(
            "    - {{name: silent, http: {{url: \"http://{at}/\"}}, path: /a, timeout: 1s}}\n    \
             - {{name: gone, sftp: {{host: 127.0.0.1, port: {gone}, user: u, path: /}}, path: /b}}\n"
        ),
    );
    let report = doctor(&place, &["-c", &file]);
    assert!(report.is("source/answers", "fail").contains("--timeout"));
    let gone = report.all("source/connects");
    assert_eq!(gone.len(), 1, "{:#}", report.document);
    assert_eq!(gone[0]["subject"], "gone");
}

#[test]
fn secrets_for_all_to_read_and_none() {
    let place = Place::new();
    let open = std::fs::Permissions::from_mode(0o755);
    std::fs::set_permissions(place.dir.path(), open).unwrap();
    let token = place.path("token");
    std::fs::write(&token, "hunter2").unwrap();
    let [port] = free_ports();
    let file = volume(
        &place,
        &format!(
            "    - {{name: a, http: {{url: \"http://127.0.0.1:{port}/\", auth: {{bearer: {{token: \
             {{fromFile: token}}}}}}}}, path: /a}}\n    - {{name: b, http: {{url: \
             \"http://127.0.0.1:{port}/\", auth: {{bearer: {{token: {{fromEnv: \
             SVOL_TEST_NEVER_SET}}}}}}}}, path: /b}}\n"
        ),
    );
    let look = |mode| {
        std::fs::set_permissions(&token, std::fs::Permissions::from_mode(mode)).unwrap();
        let output = place.svol(["doctor", "--json", "-c", &file]);
        assert!(!String::from_utf8_lossy(&output.stdout).contains("hunter2"));
        Report::of(&output)
    };
    let of = |report: &Report, layer: &str| {
        let all = report.all("volume/secret");
        let subject = format!("{layer}.http.auth.bearer.token");
        let found = all.into_iter().find(|f| f["subject"] == subject);
        found
            .unwrap_or_else(|| panic!("{:#}", report.document))
            .clone()
    };
    let report = look(0o644);
    let warned = of(&report, "a");
    assert_eq!(warned["level"], "warn");
    assert!(warned["remedy"].as_str().unwrap().contains("chmod o="));
    let missing = of(&report, "b");
    assert_eq!(missing["level"], "fail");
    assert!(
        missing["saw"]
            .as_str()
            .unwrap()
            .contains("SVOL_TEST_NEVER_SET")
    );
    assert_eq!(of(&look(0o600), "a")["level"], "ok");
    std::fs::remove_file(&token).unwrap();
    let report = doctor(&place, &["-c", &file]);
    assert_eq!(of(&report, "a")["level"], "fail");
}

#[test]
fn propagation_decides_who_sees_a_mount() {
    if !is_root() {
        return;
    }
    let place = Place::new();
    let host = dir(&place, "host");
    let at = format!("{host}/mnt");
    let mounted = "mount -t tmpfs none \"$1/host\"; mkdir \"$1/host/mnt\"";
    let said = doctor_after(&place, mounted, &[&at]).is("mount/propagation", "warn");
    // In a container it is for the container's settings.
    let remedy = format!("mount --make-rshared {host}");
    assert!(
        said.contains(&remedy) || said.contains("Bidirectional"),
        "{said}"
    );
    let shared = format!("{mounted}; mount --make-rshared \"$1/host\"");
    let said = doctor_after(&place, &shared, &[&at]).is("mount/propagation", "ok");
    assert!(
        said.contains("rslave") && said.contains("HostToContainer"),
        "{said}"
    );
}

#[test]
fn disks_that_are_no_place_for_a_cache() {
    if !is_root() {
        return;
    }
    let place = Place::new();
    let at = dir(&place, "mnt");
    for name in ["disk", "upper", "work", "lower"] {
        dir(&place, name);
    }
    let cache = place.path("disk/cache");
    let look = |script: &str| {
        doctor_after(
            &place,
            script,
            &["--cache-dir", cache.to_str().unwrap(), &at],
        )
    };
    let report = look("mount -t tmpfs none \"$1/disk\"");
    assert!(report.is("cache/disk", "warn").contains("in memory"));
    report.is("cache/trial", "ok");
    // An overlay cannot be laid over every file system.
    let overlay = "mount -t tmpfs none \"$1/work\"; mkdir \"$1/work/u\" \"$1/work/w\"; mount -t \
                   overlay -o lowerdir=\"$1/lower\",upperdir=\"$1/work/u\",workdir=\"$1/work/w\" \
                   none \"$1/disk\"";
    let report = look(overlay);
    assert!(report.is("cache/disk", "warn").contains("passed through"));
    let report = look("mount -t tmpfs -o ro none \"$1/disk\"");
    let said = report.is("cache/trial", "fail");
    assert!(said.contains("cannot make a directory"), "{said}");
    let report = look("mkdir \"$1/disk/cache\"; chown 12345 \"$1/disk/cache\"");
    assert!(report.is("cache/owner", "fail").contains("chown -R 0"));
    assert!(
        report.all("cache/trial").is_empty(),
        "others' are left alone"
    );
}

#[test]
fn machines_without_a_usable_device() {
    if !is_root() {
        return;
    }
    let place = Place::new();
    let at = dir(&place, "mnt");
    let report = doctor_after(&place, "mount --bind /dev/null /dev/fuse", &[&at]);
    let said = report.is("fuse/device", "fail");
    assert!(said.contains("not the FUSE device"), "{said}");
    let report = doctor_after(&place, "mount -t tmpfs none /dev", &[&at]);
    let said = report.is("fuse/device", "fail");
    assert!(said.contains("there is no /dev/fuse"), "{said}");
}

#[test]
fn users_without_fusermount3() {
    if !is_root() {
        return;
    }
    let place = Place::new();
    let home = dir(&place, "home");
    let open = |path: &Path, mode| {
        let mode = std::fs::Permissions::from_mode(mode);
        std::fs::set_permissions(path, mode).unwrap();
    };
    open(place.dir.path(), 0o755);
    open(Path::new(&home), 0o777);
    let program = place.path("home/svol");
    std::fs::copy(env!("CARGO_BIN_EXE_svol"), &program).unwrap();
    dir(&place, "dev");
    let nobody = Nobody::start(&place);
    let at = dir(&place, "home/mnt");
    std::os::unix::fs::chown(&at, Some(65534), Some(65534)).unwrap();
    let look = |path: &str| {
        let mut command = nobody.command(Path::new("/usr/bin/env"), &[path]);
        command
            .arg(&program)
            .args(["doctor", "--json", &at])
            .env("SVOL_RUNTIME_DIR", place.path("home/run"))
            .env("SVOL_CACHE_DIR", place.path("home/cache"))
            .env("HOME", &home);
        Report::of(&command.output().unwrap())
    };
    let said = look("PATH=/nonexistent").is("fuse/fusermount3", "fail");
    assert!(said.contains("apt install fuse3"), "{said}");
    let well = look("PATH=/usr/bin:/bin");
    well.is("fuse/fusermount3", "ok");
    well.is("fuse/device", "ok");
    well.is("mount/point", "ok");
    // One that gives nobody root.
    let bare = place.path("home/bin");
    std::fs::create_dir(&bare).unwrap();
    std::fs::write(bare.join("fusermount3"), "").unwrap();
    open(&bare.join("fusermount3"), 0o755);
    let said = look(&format!("PATH={}", bare.display())).is("fuse/fusermount3", "fail");
    assert!(said.contains("chmod u+s"), "{said}");
}

#[test]
fn few_open_files_and_little_memory() {
    let place = Place::new();
    let at = dir(&place, "mnt");
    let look = |limit: &str, more: &[&str]| {
        let script = format!("ulimit -n {limit}; exec \"$@\"");
        let svol = place.command([&["doctor", "--json", &at], more].concat());
        let mut command = Command::new("sh");
        command.args(["-c", &script, "sh"]).arg(svol.get_program());
        command.args(svol.get_args());
        for (name, value) in svol.get_envs() {
            command.envs(value.map(|value| (name, value)));
        }
        Report::of(&command.output().unwrap())
    };
    assert!(
        look("100", &[])
            .is("limits/open-files", "fail")
            .contains("1024")
    );
    assert!(
        look("512", &[])
            .is("limits/open-files", "warn")
            .contains("1024")
    );
    look("1024", &[]).is("limits/open-files", "ok");
    look("1024", &["--memory", "1MiB"]).is("limits/memory", "fail");
}

#[test]
fn the_reference_names_every_check() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let reference = std::fs::read_to_string(root.join("docs/DOCTOR.md")).unwrap();
    let parts = [
        "kernel", "fuse", "limits", "cache", "volume", "source", "mount",
    ];
    let mut checks = 0;
    for file in std::fs::read_dir(root.join("src/doctor"))
        .unwrap()
        .flatten()
    {
        let Ok(text) = std::fs::read_to_string(file.path()) else {
            continue;
        };
        let text = text.split("#[cfg(test)]").next().unwrap().to_owned();
        for word in text.split('"') {
            let is_check = word.split_once('/').is_some_and(|(part, what)| {
                let plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
                parts.contains(&part) && what.chars().all(plain)
            });
            if is_check {
                checks += 1;
                assert!(reference.contains(&format!("| `{word}` |")), "{word}");
            }
        }
    }
    assert!(checks >= 30, "{checks} checks");
}
