//! Who may do what: the files that we make, the mount, and other users.

mod common;

use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};
use std::path::Path;
use std::process::{Command, Output};

use common::mount::Place;
use common::noise;
use common::store::Store;

const NOBODY: u32 = 65534;

/// Whether this is root's run; most of this needs another user beside ours.
fn is_root() -> bool {
    let root = rustix::process::geteuid().is_root();
    if !root {
        eprintln!("not run: it takes root to act as two users");
    }
    root
}

/// Runs a program as a user without privileges.
fn as_nobody(program: &str, args: &[&str]) -> Output {
    let id = NOBODY.to_string();
    let mut command = Command::new("setpriv");
    command.args([
        "--reuid",
        &id,
        "--regid",
        &id,
        "--clear-groups",
        "--",
        program,
    ]);
    command.args(args).output().unwrap()
}

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// Lets everybody walk to the place itself.
fn open_to_all(place: &Place) {
    let mode = std::fs::Permissions::from_mode(0o755);
    std::fs::set_permissions(place.path(""), mode).unwrap();
}

#[test]
fn directories_of_others_are_refused() {
    if !is_root() {
        return;
    }
    let place = Place::new();
    let store = Store::with([("f", noise(1, 100))]);
    std::fs::create_dir(place.path("mnt")).unwrap();
    let at = place.path("mnt");
    let tree = store.tree();
    let refused = |cache: &Path, run: &Path, says: &[&str]| {
        let output = place
            .command(["mount", &tree, text(&at)])
            .env("SVOL_CACHE_DIR", cache)
            .env("SVOL_RUNTIME_DIR", run)
            .output()
            .unwrap();
        assert_eq!(output.status.code(), Some(1), "{}", stderr(&output));
        for word in says {
            assert!(stderr(&output).contains(word), "{}", stderr(&output));
        }
        assert!(!common::mount::is_mounted(&at));
    };
    let (own, run) = (place.path("own"), place.path("run"));
    let other = place.path("other");
    std::fs::create_dir(&other).unwrap();
    chown(&other, Some(NOBODY), Some(NOBODY)).unwrap();
    refused(&other, &run, &["other", "65534"]);
    refused(&own, &other, &["other", "another user"]);
    // One's own, but open, with something in it that others may have put there.
    let open = place.path("open");
    std::fs::create_dir(&open).unwrap();
    std::fs::write(open.join("x"), "").unwrap();
    for mode in [0o777, 0o770, 0o755, 0o701] {
        std::fs::set_permissions(&open, std::fs::Permissions::from_mode(mode)).unwrap();
        refused(&open, &run, &["open", "chmod 700"]);
    }
    // An empty one is made ours; so is one that svol made and somebody opened.
    std::fs::remove_file(open.join("x")).unwrap();
    for round in 0..2 {
        let mount = place.mount_with("mnt2", &["--cache-dir", text(&open), &tree], |_| {});
        assert_eq!(mount.read("f"), noise(1, 100), "{round}");
        assert_eq!(open.metadata().unwrap().mode() & 0o7777, 0o700);
        drop(mount);
        std::fs::set_permissions(&open, std::fs::Permissions::from_mode(0o777)).unwrap();
    }
}

#[test]
fn what_is_made_is_for_its_owner_alone_whatever_the_umask() {
    let place = Place::new();
    let big = noise(1, 3 << 20);
    let store = Store::with([("f", big.clone()), ("g", noise(2, 100))]);
    let log = place.path("own.log");
    let mount = place.mount_with(
        "mnt",
        &["--log-file", text(&log), &store.tree()],
        |command| {
            use std::os::unix::process::CommandExt;
            // SAFETY: one system call.
            unsafe {
                command.pre_exec(|| {
                    rustix::process::umask(rustix::fs::Mode::empty());
                    Ok(())
                });
            }
        },
    );
    assert_eq!(mount.read("f"), big);
    assert_eq!(mount.read("g"), noise(2, 100));
    assert_eq!(log.metadata().unwrap().mode() & 0o777, 0o600);
    // Nobody gets past these, whatever is below.
    for dir in [place.cache(), place.path("run")] {
        assert_eq!(dir.metadata().unwrap().mode() & 0o777, 0o700);
    }
    let socket = place.status()["mounts"][0]["socket"]
        .as_str()
        .unwrap()
        .to_owned();
    assert_eq!(Path::new(&socket).metadata().unwrap().mode() & 0o777, 0o600);
    if !is_root() {
        return;
    }
    open_to_all(&place);
    let asked = as_nobody(
        "curl",
        &[
            "-sS",
            "--max-time",
            "10",
            "--unix-socket",
            &socket,
            "http://svol/status",
        ],
    );
    assert!(!asked.status.success());
    assert!(asked.stdout.is_empty());
    // Not even where the directory is opened by mistake.
    let mode = std::fs::Permissions::from_mode(0o755);
    std::fs::set_permissions(place.path("run"), mode).unwrap();
    let asked = as_nobody(
        "curl",
        &[
            "-sS",
            "--max-time",
            "10",
            "--unix-socket",
            &socket,
            "http://svol/status",
        ],
    );
    assert!(
        !asked.status.success(),
        "{}",
        String::from_utf8_lossy(&asked.stdout)
    );
    for inside in ["v1", "catalogue.db", "v1/index.db"] {
        let path = place.cache().join(inside);
        assert!(path.exists(), "{inside}");
        let read = as_nobody("ls", &["-d", text(&path)]);
        assert!(
            stderr(&read).contains("Permission denied"),
            "{}",
            stderr(&read)
        );
    }
}

/// The options of a mount, the kernel's and FUSE's.
fn options(at: &Path) -> Vec<String> {
    let all = std::fs::read_to_string("/proc/self/mountinfo").unwrap();
    let line = all
        .lines()
        .find(|l| l.split(' ').nth(4) == at.to_str())
        .unwrap();
    let (first, last) = line.split_once(" - ").unwrap();
    let words = [
        first.split(' ').nth(5).unwrap(),
        last.split(' ').nth(2).unwrap(),
    ];
    words
        .iter()
        .flat_map(|w| w.split(','))
        .map(str::to_owned)
        .collect()
}

#[test]
fn a_mount_is_read_only_without_suid_and_devices_and_checks_permissions() {
    let place = Place::new();
    let dir = place.path("source");
    std::fs::create_dir(&dir).unwrap();
    std::fs::copy("/usr/bin/id", dir.join("suid")).unwrap();
    std::fs::set_permissions(dir.join("suid"), std::fs::Permissions::from_mode(0o6755)).unwrap();
    if rustix::process::geteuid().is_root() {
        let mode = rustix::fs::Mode::from_raw_mode(0o666);
        let kind = rustix::fs::FileType::CharacterDevice;
        let device = rustix::fs::makedev(1, 3);
        rustix::fs::mknodat(rustix::fs::CWD, dir.join("null"), kind, mode, device).unwrap();
    }
    let source = text(&dir).to_owned();
    for extra in [&[][..], &["--no-sandbox"], &["-o", "exec,user,defaults"]] {
        let args: Vec<&str> = extra.iter().copied().chain([source.as_str()]).collect();
        let mount = place.mount(&args);
        let options = options(mount.at());
        for wanted in ["ro", "nosuid", "nodev", "default_permissions"] {
            assert!(
                options.iter().any(|o| o == wanted),
                "no {wanted}: {options:?}"
            );
        }
        assert!(
            !options.iter().any(|o| o == "allow_other" || o == "rw"),
            "{options:?}"
        );
        let suid = mount.path("suid").metadata().unwrap();
        assert_eq!(suid.mode() & 0o7000, 0, "{:o}", suid.mode());
        assert!(
            mount.path("null").symlink_metadata().is_err(),
            "a device is shown"
        );
    }
    for refused in ["suid", "dev", "rw"] {
        let output = place.svol(["mount", "-o", refused, &source, text(&place.path("mnt"))]);
        assert_eq!(
            output.status.code(),
            Some(2),
            "{refused}: {}",
            stderr(&output)
        );
    }
}

#[test]
fn other_users_are_let_in_only_when_asked_and_then_modes_count() {
    if !is_root() {
        return;
    }
    let place = Place::new();
    open_to_all(&place);
    let store = Store::with([("f", noise(1, 100))]);
    let tree = store.tree();
    let read = |path: &Path| as_nobody("cat", &[text(path)]);

    let mount = place.mount(&[&tree]);
    let denied = read(&mount.path("f"));
    assert!(
        stderr(&denied).contains("Permission denied"),
        "{}",
        stderr(&denied)
    );
    let denied = as_nobody("ls", &[text(mount.at())]);
    assert!(
        stderr(&denied).contains("Permission denied"),
        "{}",
        stderr(&denied)
    );
    drop(mount);

    let mount = place.mount(&["--allow-other", &tree]);
    assert!(options(mount.at()).contains(&"allow_other".to_owned()));
    assert_eq!(read(&mount.path("f")).stdout, noise(1, 100));
    let write = as_nobody("touch", &[text(&mount.path("new"))]);
    assert!(!write.status.success());
    drop(mount);

    // default_permissions: modes, owners and groups are the kernel's to check.
    let mount = place.mount(&["--allow-other", "--umask", "077", &tree]);
    let denied = read(&mount.path("f"));
    assert!(
        stderr(&denied).contains("Permission denied"),
        "{}",
        stderr(&denied)
    );
    drop(mount);
    let id = NOBODY.to_string();
    for owner in [
        ["--uid", &id, "--umask", "077"],
        ["--gid", &id, "--umask", "027"],
    ] {
        let args: Vec<&str> = ["--allow-other"]
            .into_iter()
            .chain(owner)
            .chain([&*tree])
            .collect();
        let mount = place.mount(&args);
        assert_eq!(read(&mount.path("f")).stdout, noise(1, 100), "{owner:?}");
    }
}

#[test]
fn a_terminal_is_shown_no_name_that_it_would_obey() {
    let place = Place::new();
    let evil = "red\x1b[31m\x07\r.txt";
    let store = Store::with([(evil, noise(1, 10)), ("two\nlines", noise(2, 10))]);
    let args = store.s3_args();
    let program = env!("CARGO_BIN_EXE_svol");
    // `script` runs it on a terminal of its own.
    let shown = place.dir.path().join("shown");
    let line = format!("{program} ls {}", args.join(" "));
    let status = Command::new("script")
        .args(["-q", "-e", "-c", &line, text(&shown)])
        .env("SVOL_CACHE_DIR", place.cache())
        .env("SVOL_RUNTIME_DIR", place.path("run"))
        .stdout(std::process::Stdio::null())
        .status()
        .unwrap();
    assert!(status.success());
    let shown = String::from_utf8_lossy(&std::fs::read(shown).unwrap()).into_owned();
    assert!(shown.contains("red\\u{1b}[31m\\u{7}\\r.txt"), "{shown:?}");
    assert!(shown.contains("two\\nlines"), "{shown:?}");
    assert!(
        !shown.contains('\x1b') && !shown.contains('\x07'),
        "{shown:?}"
    );
    // A program gets the names as they are.
    let list: Vec<&str> = ["ls"]
        .into_iter()
        .chain(args.iter().map(String::as_str))
        .collect();
    assert!(place.ok(&list).contains(evil));

    let mount = place.mount(&args.iter().map(String::as_str).collect::<Vec<_>>());
    assert_eq!(mount.read(evil), noise(1, 10));
    store.mood(evil, common::store::Mood::Status(403));
    store.put(evil, noise(3, 10));
    place.ok(["refresh", text(mount.at())]);
    assert!(std::fs::read(mount.path(evil)).is_err());
    let explained = place.ok(["explain", text(&mount.path(evil))]);
    for (what, said) in [
        ("explain", explained),
        ("status", place.ok(["status"])),
        ("log", mount.log()),
    ] {
        assert!(
            !said.contains('\x1b') && !said.contains('\x07'),
            "{what}: {said:?}"
        );
    }
}
