//! What docs/SEMANTICS.md says of the tree and of looking inside, on real mounts.

mod common;

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::io::{ErrorKind, Read};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt, symlink};
use std::path::Path;
use std::process::Command;
use std::time::{Duration, UNIX_EPOCH};

use common::mount::{Mount, Place, xattr};
use common::noise;
use common::store::{Mood, Store};
use rustix::fs::{AtFlags, FileType, Mode, OFlags, XattrFlags};
use rustix::io::Errno;

/// Makes files in a directory of a place; returns it as an argument.
fn local(place: &Place, name: &str, files: &[(&str, &str)]) -> String {
    let dir = place.path(name);
    std::fs::create_dir_all(&dir).unwrap();
    for (path, text) in files {
        let path = dir.join(path);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, text).unwrap();
    }
    dir.to_str().unwrap().to_owned()
}

fn names(dir: &Path) -> Vec<String> {
    let mut names: Vec<String> = std::fs::read_dir(dir)
        .unwrap_or_else(|e| panic!("{}: {e}", dir.display()))
        .map(|e| e.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}

/// All paths below a directory, directories with a slash at their end, with the content of files.
fn tree(dir: &Path) -> Vec<(String, String)> {
    let mut found = Vec::new();
    let mut todo = vec![String::new()];
    while let Some(at) = todo.pop() {
        for name in names(&dir.join(&at)) {
            let path = format!("{at}{name}");
            let kind = dir.join(&path).symlink_metadata().unwrap().file_type();
            if kind.is_dir() {
                found.push((format!("{path}/"), String::new()));
                todo.push(format!("{path}/"));
            } else {
                found.push((
                    path.clone(),
                    std::fs::read_to_string(dir.join(&path)).unwrap(),
                ));
            }
        }
    }
    found.sort();
    found
}

fn store_mount(place: &Place, store: &Store) -> Mount {
    place.mount(&[&store.tree()])
}

fn s3_mount(place: &Place, store: &Store) -> Mount {
    let args = store.s3_args();
    place.mount(&args.iter().map(String::as_str).collect::<Vec<_>>())
}

#[test]
fn every_write_is_erofs() {
    let place = Place::new();
    let source = local(
        &place,
        "src",
        &[("file", "x"), ("dir/in", "y"), ("empty/.keep", "")],
    );
    symlink("file", place.path("src/link")).unwrap();
    let store = Store::with([("remote", b"z".to_vec())]);
    let mount = place.mount(&[&source, &format!("{}=/web", store.tree())]);
    let at = |name: &str| mount.path(name);
    let cwd = rustix::fs::CWD;
    let mode = Mode::from_raw_mode(0o644);
    let open = |name: &str, flags| rustix::fs::open(at(name), flags, mode).map(drop);
    let times = rustix::fs::Timestamps {
        last_access: rustix::fs::Timespec {
            tv_sec: 1,
            tv_nsec: 0,
        },
        last_modification: rustix::fs::Timespec {
            tv_sec: 1,
            tv_nsec: 0,
        },
    };
    let no_flags = AtFlags::empty();
    let fifo = FileType::Fifo;
    for file in ["file", "web/remote", "link"] {
        let tries: Vec<(&str, rustix::io::Result<()>)> = vec![
            ("O_WRONLY", open(file, OFlags::WRONLY)),
            ("O_RDWR", open(file, OFlags::RDWR)),
            ("O_APPEND", open(file, OFlags::WRONLY | OFlags::APPEND)),
            ("O_TRUNC", open(file, OFlags::RDONLY | OFlags::TRUNC)),
            (
                "O_CREAT|O_WRONLY",
                open(file, OFlags::CREATE | OFlags::WRONLY),
            ),
            ("chmod", rustix::fs::chmodat(cwd, at(file), mode, no_flags)),
            (
                "chown",
                rustix::fs::chown(at(file), Some(rustix::fs::Uid::ROOT), None),
            ),
            (
                "utimensat",
                rustix::fs::utimensat(cwd, at(file), &times, no_flags),
            ),
            (
                "setxattr",
                rustix::fs::setxattr(at(file), "user.a", b"b", XattrFlags::empty()),
            ),
            (
                "removexattr",
                rustix::fs::removexattr(at(file), "user.svol.source"),
            ),
            (
                "access",
                rustix::fs::access(at(file), rustix::fs::Access::WRITE_OK),
            ),
            ("unlink", rustix::fs::unlink(at(file))),
            ("rename", rustix::fs::rename(at(file), at("dir/new"))),
            ("rename over", rustix::fs::rename(at(file), at("dir/in"))),
            (
                "O_WRONLY|O_TRUNC",
                open(file, OFlags::WRONLY | OFlags::TRUNC),
            ),
        ];
        for (what, result) in tries {
            assert_eq!(result, Err(Errno::ROFS), "{what} {file}");
        }
    }
    let tries: Vec<(&str, rustix::io::Result<()>)> = vec![
        ("O_CREAT", open("dir/new", OFlags::CREATE | OFlags::WRONLY)),
        (
            "O_CREAT|O_EXCL",
            open("new", OFlags::CREATE | OFlags::EXCL | OFlags::RDWR),
        ),
        (
            "O_CREAT|O_RDONLY",
            open("new", OFlags::CREATE | OFlags::RDONLY),
        ),
        ("O_TMPFILE", open("dir", OFlags::TMPFILE | OFlags::RDWR)),
        ("mkdir", rustix::fs::mkdir(at("dir/new"), mode)),
        (
            "mkdir in a remote layer",
            rustix::fs::mkdir(at("web/new"), mode),
        ),
        ("rmdir", rustix::fs::rmdir(at("empty"))),
        ("link", rustix::fs::link(at("file"), at("new"))),
        ("symlink", rustix::fs::symlink("file", at("new"))),
        ("mknod", rustix::fs::mknodat(cwd, at("new"), fifo, mode, 0)),
        (
            "rename a directory",
            rustix::fs::rename(at("dir"), at("new")),
        ),
        (
            "chmod the root",
            rustix::fs::chmodat(cwd, mount.at(), mode, no_flags),
        ),
        ("setxattr of a directory", {
            rustix::fs::setxattr(at("dir"), "user.a", b"b", XattrFlags::empty())
        }),
    ];
    for (what, result) in tries {
        assert_eq!(result, Err(Errno::ROFS), "{what}");
    }
    // Not even through a descriptor.
    let file = std::fs::File::open(at("file")).unwrap();
    assert!(file.set_len(0).is_err());
    assert!(rustix::fs::fallocate(&file, rustix::fs::FallocateFlags::empty(), 0, 10).is_err());
    assert_eq!(rustix::fs::fchmod(&file, mode), Err(Errno::ROFS));
    assert_eq!(
        std::fs::read_to_string(place.path("src/file")).unwrap(),
        "x"
    );
    let mounts = std::fs::read_to_string("/proc/self/mounts").unwrap();
    let line = mounts
        .lines()
        .find(|l| l.contains(mount.at().to_str().unwrap()))
        .unwrap();
    let options: Vec<&str> = line.split(' ').nth(3).unwrap().split(',').collect();
    for option in ["ro", "nosuid", "nodev"] {
        assert!(options.contains(&option), "{line}");
    }
}

#[test]
fn layers_merge_in_order() {
    let place = Place::new();
    let low = local(
        &place,
        "low",
        &[
            ("both", "low"),
            ("low", "1"),
            ("d/both", "low"),
            ("d/low", "1"),
            ("x/y/z", "low"),
            ("f", "low file"),
            ("g/h", "hidden by a graft"),
        ],
    );
    let high = local(
        &place,
        "high",
        &[
            ("both", "high"),
            ("high", "2"),
            ("d/both", "high"),
            ("d/e/high", "2"),
            ("x/y", "file"),
            ("f/in", "high dir"),
        ],
    );
    std::fs::write(place.path("low/h"), "in the way of a graft").unwrap();
    let graft = local(&place, "graft", &[("leaf", "grafted")]);
    let mount = place.mount(&[
        &low,
        &high,
        &format!("{graft}=/h/deep"),
        &format!("{graft}=/g"),
    ]);
    let expected = [
        ("both", "high"),
        ("d/", ""),
        ("d/both", "high"),
        ("d/e/", ""),
        ("d/e/high", "2"),
        ("d/low", "1"),
        ("f/", ""),
        ("f/in", "high dir"),
        ("g/", ""),
        ("g/h", "hidden by a graft"),
        ("g/leaf", "grafted"),
        ("h/", ""),
        ("h/deep/", ""),
        ("h/deep/leaf", "grafted"),
        ("high", "2"),
        ("low", "1"),
        ("x/", ""),
        ("x/y", "file"),
    ];
    let expected: Vec<_> = expected.map(|(p, t)| (p.to_owned(), t.to_owned())).to_vec();
    assert_eq!(tree(mount.at()), expected);
    assert_eq!(
        std::fs::read(mount.path("x/y/z"))
            .unwrap_err()
            .raw_os_error(),
        Some(Errno::NOTDIR.raw_os_error())
    );
    let absent = std::fs::read(mount.path("d/none")).unwrap_err();
    assert_eq!(absent.kind(), ErrorKind::NotFound);
    // Which layer it is: by name, with and without `--json`.
    let both = mount.path("d/both");
    let low_url = format!("file://{low}/d/both");
    let high_url = format!("file://{high}/d/both");
    assert_eq!(xattr(&both, "user.svol.source").unwrap(), high_url);
    let explained = place.ok([OsStr::new("explain"), both.as_os_str()]);
    let lines: Vec<&str> = explained.lines().collect();
    let line = |url: &str| *lines.iter().find(|l| l.contains(url)).expect(&explained);
    assert!(line(&high_url).contains("shown"), "{explained}");
    assert!(line(&low_url).contains("hidden by"), "{explained}");
    let json: serde_json::Value = serde_json::from_str(&place.ok([
        OsStr::new("explain"),
        OsStr::new("--json"),
        both.as_os_str(),
    ]))
    .unwrap();
    assert_eq!(json[1]["verdict"], "shown");
    assert_eq!(json[1]["url"], high_url.as_str());
    assert_eq!(json[0]["verdict"], "hiddenByLaterLayer");
    assert_eq!(json[0]["by"], json[1]["layer"]);
    // The file that the graft hides is counted.
    let status = place.status();
    assert_eq!(status["mounts"][0]["layers"][0]["hidden"], 1, "{status}");
    assert_eq!(mount.log().matches("names are not shown").count(), 1);
    // A directory names all its sources, the last layer first.
    let of_d = xattr(&mount.path("d"), "user.svol.source").unwrap();
    assert_eq!(of_d, format!("file://{high}/d\nfile://{low}/d"));
}

#[test]
fn filters_show_what_they_say() {
    let place = Place::new();
    let source = local(
        &place,
        "src",
        &[
            ("a.txt", ""),
            ("b.bin", ""),
            ("d/c.txt", ""),
            ("d/e.bin", ""),
            ("tmp/f.txt", ""),
        ],
    );
    let below = local(&place, "below", &[("b.bin", "from below")]);
    let volume = format!(
        "apiVersion: sharedvolume.io/v1\nkind: Volume\nmetadata: {{name: v}}\nspec:\n  layers:\n\
         \x20 - local: {{path: {below}}}\n\
         \x20 - local: {{path: {source}}}\n    include: ['**/*.txt']\n    exclude: ['tmp/**']\n"
    );
    std::fs::write(place.path("v.yaml"), volume).unwrap();
    let mount = place.mount(&["-c", place.path("v.yaml").to_str().unwrap()]);
    assert_eq!(mount.read("b.bin"), b"from below");
    assert_eq!(names(&mount.path("d")), ["c.txt"]);
    assert!(!names(mount.at()).contains(&"a.bin".to_owned()));
    assert!(std::fs::metadata(mount.path("d/e.bin")).is_err());
    assert!(std::fs::metadata(mount.path("tmp/f.txt")).is_err());
}

#[test]
fn symlinks_are_shown_where_they_stay_inside() {
    let place = Place::new();
    let source = local(&place, "src", &[("d/file", "text")]);
    let link = |target: &str, name: &str| symlink(target, place.path("src").join(name)).unwrap();
    link("d/file", "inside");
    link("../d/file", "d/up");
    link("missing", "dangling");
    link("d", "dir");
    link("/etc/passwd", "absolute");
    link("../../etc/passwd", "out");
    std::os::unix::net::UnixListener::bind(place.path("src/socket")).unwrap();
    let mount = place.mount(&[&source]);
    assert_eq!(names(mount.at()), ["d", "dangling", "dir", "inside"]);
    assert_eq!(mount.read("inside"), b"text");
    assert_eq!(mount.read("d/up"), b"text");
    assert_eq!(mount.read("dir/file"), b"text");
    assert_eq!(
        std::fs::read_link(mount.path("dangling")).unwrap(),
        Path::new("missing")
    );
    let meta = mount.path("inside").symlink_metadata().unwrap();
    assert!(meta.is_symlink());
    assert_eq!(meta.len(), 6);
    let status = place.status();
    assert_eq!(status["mounts"][0]["layers"][0]["hidden"], 3, "{status}");
    // At another depth what stays inside of the source stays inside of the volume.
    let deep = place.mount_with("deep", &[&format!("{source}=/x/y")], |_| {});
    assert_eq!(deep.read("x/y/d/up"), b"text");
}

#[test]
fn hostile_keys_are_hidden_and_counted_and_odd_ones_shown() {
    let place = Place::new();
    let long = "x".repeat(255);
    let too_long = "y".repeat(256);
    let store = Store::with([
        ("ok", b"ok".to_vec()),
        ("a", b"hidden by a directory".to_vec()),
        ("a/b", b"b".to_vec()),
        ("dir/", Vec::new()),
        ("..", b"up".to_vec()),
        ("../up", b"up".to_vec()),
        (".", b"here".to_vec()),
        ("e//f", b"empty name".to_vec()),
        ("n\0l", b"nul".to_vec()),
        ("line\nbreak", b"1".to_vec()),
        ("trailing\n", b"2".to_vec()),
        (" sp+ace%41&<é>", b"3".to_vec()),
        (long.as_str(), b"4".to_vec()),
        (too_long.as_str(), b"5".to_vec()),
    ]);
    let mount = s3_mount(&place, &store);
    let mut shown = vec![
        " sp+ace%41&<é>",
        "a",
        "dir",
        "e",
        "line\nbreak",
        "ok",
        "trailing\n",
        long.as_str(),
    ];
    shown.sort_unstable();
    assert_eq!(names(mount.at()), shown);
    assert_eq!(names(&mount.path("a")), ["b"]);
    assert_eq!(mount.read("a/b"), b"b");
    assert!(mount.path("a").metadata().unwrap().is_dir());
    assert_eq!(names(&mount.path("dir")), Vec::<String>::new());
    assert_eq!(names(&mount.path("e")), Vec::<String>::new());
    assert_eq!(mount.read("line\nbreak"), b"1");
    assert_eq!(mount.read("trailing\n"), b"2");
    assert_eq!(mount.read(" sp+ace%41&<é>"), b"3");
    assert_eq!(mount.read(&long), b"4");
    // `..` twice, `.`, the NUL, the long name, `a` beside `a/`; and in `e` the empty name.
    let status = place.status();
    assert_eq!(status["mounts"][0]["layers"][0]["hidden"], 7, "{status}");
    let table = place.ok(["status"]);
    assert!(table.contains("7 names cannot be shown"), "{table}");
    let log = mount.log();
    assert_eq!(log.matches("names are not shown").count(), 5, "{log}");
    for name in [too_long.as_str(), "none"] {
        let error = std::fs::metadata(mount.path(name)).unwrap_err();
        assert!(matches!(error.raw_os_error(), Some(2 | 36)), "{error}");
    }
    let not_utf8 = mount.at().join(OsStr::from_bytes(b"\xff"));
    assert_eq!(
        std::fs::metadata(not_utf8).unwrap_err().kind(),
        ErrorKind::NotFound
    );
}

#[test]
fn names_that_are_not_utf8_are_hidden() {
    let place = Place::new();
    let source = local(&place, "src", &[("good", "")]);
    std::fs::write(Path::new(&source).join(OsStr::from_bytes(b"b\xffd")), "").unwrap();
    let mount = place.mount(&[&source]);
    assert_eq!(names(mount.at()), ["good"]);
    assert_eq!(place.status()["mounts"][0]["layers"][0]["hidden"], 1);
}

#[test]
fn a_prefix_is_a_directory_and_not_the_beginning_of_a_name() {
    let place = Place::new();
    let store = Store::with([
        ("foo/in", b"in".to_vec()),
        ("foobar/out", b"out".to_vec()),
        ("foo", b"file".to_vec()),
    ]);
    let mut args = store.s3_args();
    *args.last_mut().unwrap() = "s3://b/foo".into();
    let mount = place.mount(&args.iter().map(String::as_str).collect::<Vec<_>>());
    assert_eq!(names(mount.at()), ["in"]);
    assert_eq!(mount.read("in"), b"in");
}

#[test]
fn modes_and_owners_are_as_said() {
    let place = Place::new();
    let source = local(
        &place,
        "src",
        &[("plain", ""), ("program", ""), ("d/x", "")],
    );
    let set = |name: &str, mode| {
        let path = place.path("src").join(name);
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).unwrap();
    };
    set("program", 0o755);
    set("plain", 0o600);
    let store = Store::with([("f", Vec::new())]);
    let web = format!("{}=/web", store.tree());
    let mode = |mount: &Mount, name: &str| mount.path(name).metadata().unwrap().mode() & 0o7777;

    let usual = place.mount_with("usual", &[&source, &web], |_| {});
    let modes = ["", "d", "web", "program", "plain", "web/f"].map(|n| mode(&usual, n));
    assert_eq!(modes, [0o555, 0o555, 0o555, 0o555, 0o444, 0o555]);
    let me = rustix::process::geteuid().as_raw();
    assert_eq!(usual.path("plain").metadata().unwrap().uid(), me);

    let narrow = place.mount_with(
        "narrow",
        &[
            "--umask", "0133", "--uid", "12", "--gid", "34", &source, &web,
        ],
        |_| {},
    );
    let modes = ["", "d", "web", "program", "plain", "web/f"].map(|n| mode(&narrow, n));
    assert_eq!(modes, [0o555, 0o555, 0o555, 0o444, 0o444, 0o444]);
    for name in ["", "d/x", "web/f"] {
        let meta = narrow.path(name).metadata().unwrap();
        assert_eq!((meta.uid(), meta.gid()), (12, 34), "{name}");
    }
    let options = place.mount_with(
        "options",
        &["-o", "ro,uid=5,gid=6,umask=077", &source],
        |_| {},
    );
    let meta = options.path("d").metadata().unwrap();
    assert_eq!((meta.uid(), meta.gid(), meta.mode() & 0o777), (5, 6, 0o500));
}

#[test]
fn times_and_inodes_are_the_same_after_a_remount() {
    let place = Place::new();
    let source = local(&place, "src", &[("old", "1"), ("d/e/f", "2")]);
    symlink("old", place.path("src/link")).unwrap();
    let when = UNIX_EPOCH + Duration::new(1_234_567_890, 123_000_000);
    std::fs::File::options()
        .write(true)
        .open(place.path("src/old"))
        .unwrap()
        .set_modified(when)
        .unwrap();
    let store = Store::start();
    store.put_at("w", noise(1, 1000), 1_500_000_000);
    store.put_at("sub/v", noise(2, 10), 1_500_000_001);
    let paths = [
        "",
        "old",
        "link",
        "d",
        "d/e",
        "d/e/f",
        "web",
        "web/w",
        "web/sub",
        "web/sub/v",
    ];
    let look = |mount: &Mount| {
        paths.map(|path| {
            let meta = mount.path(path).symlink_metadata().unwrap();
            assert_eq!(
                (meta.ctime(), meta.ctime_nsec()),
                (meta.mtime(), meta.mtime_nsec())
            );
            (
                path,
                meta.ino(),
                meta.mtime(),
                meta.mtime_nsec(),
                meta.len(),
                meta.nlink(),
            )
        })
    };
    let args = [source.clone(), format!("{}=/web", store.tree())];
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    let first = {
        let mount = place.mount(&args);
        assert_eq!(mount.read("web/w"), noise(1, 1000));
        look(&mount)
    };
    let inodes: BTreeSet<u64> = first.iter().map(|f| f.1).collect();
    assert_eq!(inodes.len(), paths.len(), "{first:?}");
    assert_eq!((first[1].2, first[1].3), (1_234_567_890, 123_000_000));
    assert_eq!(first[7].2, 1_500_000_000);
    let again = place.mount(&args);
    assert_eq!(look(&again), first);
    // And what readdir says is what stat says.
    let listed: BTreeSet<u64> = std::fs::read_dir(again.at())
        .unwrap()
        .map(|e| {
            use std::os::unix::fs::DirEntryExt;
            e.unwrap().ino()
        })
        .collect();
    for (path, ino, ..) in first {
        if !path.is_empty() && !path.contains('/') {
            assert!(listed.contains(&ino), "{path}");
        }
    }
}

#[test]
fn listing_costs_one_request_a_directory_and_none_a_file() {
    let place = Place::new();
    let store = Store::start();
    for dir in 0..5 {
        for file in 0..50 {
            store.put(&format!("d{dir}/f{file}"), vec![1; file]);
        }
    }
    let mount = store_mount(&place, &store);
    let run = |args: &[&str]| {
        let output = Command::new(args[0])
            .args(&args[1..])
            .arg(mount.at())
            .output()
            .unwrap();
        assert!(output.status.success(), "{args:?}: {output:?}");
        String::from_utf8(output.stdout).unwrap()
    };
    let listed = run(&["ls", "-laR"]);
    assert_eq!(
        listed
            .lines()
            .filter(|l| l.starts_with("-r-xr-xr-x"))
            .count(),
        250
    );
    assert_eq!(store.requests(), 6, "{:?}", store.seen());
    // And the second time none.
    run(&["ls", "-laR"]);
    assert_eq!(run(&["find"]).lines().count(), 256);
    run(&["du", "-s", "--apparent-size"]);
    assert_eq!(store.requests(), 6);
    assert_eq!(place.sum("requests"), 6);
    assert_eq!(place.sum("bytesFetched"), 0);
}

#[test]
fn df_shows_the_known_size_and_the_room_in_the_cache() {
    let place = Place::new();
    let store = Store::with([("a", noise(1, 1 << 20)), ("d/b", noise(2, 2 << 20))]);
    let mount = place.mount(&["--cache-size", "64MiB", &store.tree()]);
    tree_of_names(mount.at());
    // Totals may be some seconds old.
    let known = || {
        let fs = rustix::fs::statvfs(mount.at()).unwrap();
        (fs.f_blocks - fs.f_bfree) * fs.f_frsize
    };
    common::wait_until("the size", || known() == 3 << 20);
    let fs = rustix::fs::statvfs(mount.at()).unwrap();
    let free = fs.f_bavail * fs.f_frsize;
    assert!(free > 0 && free <= 64 << 20, "{free}");
    assert_eq!((fs.f_files, fs.f_namemax), (2, 255));
    assert!(fs.f_flag.contains(rustix::fs::StatVfsMountFlags::RDONLY));
    let df = Command::new("df").arg(mount.at()).output().unwrap();
    assert!(df.status.success());
    assert!(
        String::from_utf8_lossy(&df.stdout).contains("svol"),
        "{df:?}"
    );
}

fn tree_of_names(dir: &Path) {
    for entry in std::fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            tree_of_names(&path);
        }
    }
}

#[test]
fn attributes_tell_and_are_not_listed() {
    let place = Place::new();
    let bytes = noise(7, 3 << 20);
    let store = Store::with([("big file", bytes.clone()), ("small", b"small".to_vec())]);
    let mount = s3_mount(&place, &store);
    let file = mount.path("big file");
    let get = |name: &str| xattr(&file, &format!("user.svol.{name}"));
    let source = get("source").unwrap();
    assert!(
        source.ends_with("b/big%20file") || source.ends_with("b/big file"),
        "{source}"
    );
    assert_eq!(get("version").unwrap(), "\"v1\"");
    assert_eq!(get("cached").unwrap(), format!("0/{}", bytes.len()));
    let absent = Some(Errno::NODATA.raw_os_error());
    assert_eq!(get("digest").unwrap_err().raw_os_error(), absent);
    assert_eq!(get("stale").unwrap_err().raw_os_error(), absent);
    assert_eq!(get("nonsense").unwrap_err().raw_os_error(), absent);
    assert_eq!(
        xattr(&file, "user.other").unwrap_err().raw_os_error(),
        absent
    );
    assert_eq!(
        xattr(&file, "security.selinux").unwrap_err().raw_os_error(),
        Some(Errno::OPNOTSUPP.raw_os_error())
    );

    let mut part = vec![0; 4096];
    std::fs::File::open(&file)
        .unwrap()
        .read_exact_at(&mut part, 2 << 20)
        .unwrap();
    let cached: u64 = get("cached")
        .unwrap()
        .split_once('/')
        .unwrap()
        .0
        .parse()
        .unwrap();
    assert!((4096..bytes.len() as u64).contains(&cached), "{cached}");
    assert_eq!(mount.read("big file"), bytes);
    assert_eq!(get("cached").unwrap(), format!("{0}/{0}", bytes.len()));
    let digest = format!("blake3:{}", blake3::hash(&bytes).to_hex());
    common::wait_until("the digest", || get("digest").is_ok_and(|d| d == digest));

    let mut list = [0; 100];
    for path in [&file, &mount.path("small"), mount.at()] {
        // Which the kernel says by itself from then on.
        assert_eq!(
            rustix::fs::listxattr(path, &mut list),
            Err(rustix::io::Errno::OPNOTSUPP)
        );
    }
    // So a copy that keeps all it can copies none.
    let copy = place.path("copy");
    let copied = Command::new("cp")
        .arg("-a")
        .arg(mount.at())
        .arg(&copy)
        .output()
        .unwrap();
    assert!(
        copied.status.success() && copied.stderr.is_empty(),
        "{copied:?}"
    );
    for name in ["", "big file", "small"] {
        assert_eq!(
            rustix::fs::listxattr(copy.join(name), &mut list).unwrap(),
            0
        );
    }
    assert_eq!(std::fs::read(copy.join("big file")).unwrap(), bytes);
    // A buffer that is too small is told so.
    let mut tiny = [0; 2];
    assert_eq!(
        rustix::fs::getxattr(&file, "user.svol.source", &mut tiny),
        Err(Errno::RANGE)
    );
    assert_eq!(
        rustix::fs::getxattr_query(&file, "user.svol.source").unwrap(),
        source.len()
    );
}

#[test]
fn the_status_document_has_its_shape() {
    let place = Place::new();
    let store = Store::with([("f", noise(1, 100_000))]);
    let source = local(&place, "src", &[("x", "")]);
    let mount = place.mount(&[
        "--cache-size",
        "100MiB",
        &source,
        &format!("{}=/w/eb", store.tree()),
    ]);
    let before = place.status();
    assert_eq!(
        before["mounts"][0]["layers"][1]["conditions"][0]["status"],
        "Unknown"
    );
    mount.read("w/eb/f");
    mount.read("w/eb/f");
    let status = place.status();
    let keys = |value: &serde_json::Value| -> BTreeSet<String> {
        value.as_object().unwrap().keys().cloned().collect()
    };
    let set = |names: &str| -> BTreeSet<String> { names.split(' ').map(str::to_owned).collect() };
    assert_eq!(keys(&status), set("version mounts cache"));
    assert_eq!(status["version"], 1);
    let of_mount = &status["mounts"][0];
    assert!(
        keys(of_mount).is_superset(&set("mountpoint pid socket layers")),
        "{status}"
    );
    assert_eq!(of_mount["mountpoint"], mount.at().to_str().unwrap());
    assert_eq!(of_mount["pid"], mount.pid());
    let socket = of_mount["socket"].as_str().unwrap();
    assert!(
        socket.ends_with(".sock") && Path::new(socket).exists(),
        "{socket}"
    );
    let layer = &of_mount["layers"][1];
    let wanted = set("name source path conditions bytesFetched requests hits misses");
    assert!(keys(layer).is_superset(&wanted), "{layer}");
    assert_eq!(layer["source"], store.tree());
    assert_eq!(layer["path"], "/w/eb");
    assert_eq!(of_mount["layers"][0]["path"], "/");
    assert_eq!(layer["bytesFetched"], 100_000);
    assert_eq!(
        layer["requests"].as_u64().unwrap() as usize,
        store.requests()
    );
    assert!(layer["misses"].as_u64().unwrap() >= 1);
    let condition = &layer["conditions"][0];
    assert_eq!(
        keys(condition),
        set("type status reason message lastTransitionTime observedGeneration")
    );
    assert_eq!(
        (&condition["type"], &condition["status"]),
        (&"Ready".into(), &"True".into())
    );
    let time = condition["lastTransitionTime"].as_str().unwrap();
    assert!(humantime::parse_rfc3339(time).is_ok(), "{time}");
    let cache = &status["cache"];
    assert_eq!(
        keys(cache),
        set(
            "dir limitBytes usedBytes troubles lastTrouble unkeptBytes healed evictedBytes readBytes \
             memoryReadBytes"
        )
    );
    assert_eq!(cache["dir"], place.cache().to_str().unwrap());
    assert_eq!(cache["limitBytes"], 100 << 20);
    assert!(cache["usedBytes"].as_u64().unwrap() >= 100_000, "{cache}");
    let table = place.ok(["status"]);
    for text in [
        mount.at().to_str().unwrap(),
        "ready",
        &store.tree(),
        "97.7 KiB",
    ] {
        assert!(table.contains(text), "no {text} in\n{table}");
    }
}

/// A generator of numbers that are the same in each run.
struct Numbers(u64);

impl Numbers {
    fn below(&mut self, limit: u64) -> u64 {
        self.0 = self
            .0
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % limit
    }
}

#[test]
fn any_range_reads_as_it_is() {
    const SIZE: usize = (5 << 20) + 1234;
    let place = Place::new();
    let bytes = noise(3, SIZE);
    let store = Store::with([
        ("f", bytes.clone()),
        ("empty", Vec::new()),
        ("one", vec![7]),
    ]);
    let mount = store_mount(&place, &store);
    let file = std::fs::File::open(mount.path("f")).unwrap();
    let mut numbers = Numbers(1);
    for _ in 0..300 {
        let offset = numbers.below(SIZE as u64 + 5000);
        let len = [1, 100, 4096, 20_000, 300_000, 2 << 20][numbers.below(6) as usize];
        let mut buf = vec![0; len];
        let mut got = 0;
        // read(2) may return less only where the file ends; std's read_at is one pread.
        while got < len {
            match file.read_at(&mut buf[got..], offset + got as u64).unwrap() {
                0 => break,
                n => got += n,
            }
        }
        let from = (offset as usize).min(SIZE);
        let to = (offset as usize + len).min(SIZE);
        assert_eq!(got, to - from, "{len} at {offset}");
        assert!(buf[..got] == bytes[from..to], "{len} at {offset}");
    }
    assert_eq!(mount.read("empty"), b"");
    assert_eq!(mount.read("one"), [7]);
    assert_eq!(file.read_at(&mut [0; 10], u64::MAX / 4).unwrap(), 0);
}

#[test]
fn one_read_is_short_only_at_the_end() {
    let place = Place::new();
    let bytes = noise(4, 3 << 20);
    let store = Store::with([("f", bytes.clone())]);
    let mount = store_mount(&place, &store);
    let file = std::fs::File::open(mount.path("f")).unwrap();
    let mut buf = vec![0; 1 << 20];
    for offset in [0, 777_777, 2 << 20, (2 << 20) + 5] {
        let n = file.read_at(&mut buf, offset).unwrap();
        assert_eq!(n, buf.len().min((3 << 20) - offset as usize), "at {offset}");
    }
}

#[test]
fn direct_reads_and_mappings_see_the_same_bytes() {
    let place = Place::new();
    let bytes = noise(5, (2 << 20) + 100);
    let store = Store::with([("f", bytes.clone()), ("g", bytes.clone())]);
    let mount = store_mount(&place, &store);
    let direct = rustix::fs::open(
        mount.path("f"),
        OFlags::RDONLY | OFlags::DIRECT,
        Mode::empty(),
    );
    let direct = std::fs::File::from(direct.unwrap());
    let mut got = Vec::new();
    (&direct).read_to_end(&mut got).unwrap();
    assert!(got == bytes);

    // Mapped while nothing of it is here, and touched from several threads.
    let file = std::fs::File::open(mount.path("g")).unwrap();
    let (read, private) = (rustix::mm::ProtFlags::READ, rustix::mm::MapFlags::PRIVATE);
    // SAFETY: a new mapping, unmapped below after its last use.
    let map =
        unsafe { rustix::mm::mmap(std::ptr::null_mut(), bytes.len(), read, private, &file, 0) };
    let map = map.unwrap();
    // SAFETY: `len` bytes are mapped, and the file does not shrink: an inode is one version.
    let mapped = unsafe { std::slice::from_raw_parts(map.cast::<u8>(), bytes.len()) };
    std::thread::scope(|scope| {
        for part in 0..4 {
            let bytes = &bytes;
            scope.spawn(move || {
                let (from, to) = (part * bytes.len() / 4, (part + 1) * bytes.len() / 4);
                assert!(mapped[from..to] == bytes[from..to], "part {part}");
            });
        }
    });
    // SAFETY: mapped above, not used any more.
    unsafe { rustix::mm::munmap(map, bytes.len()) }.unwrap();
}

#[test]
fn programs_run_from_the_mount() {
    let place = Place::new();
    let store = Store::with([
        ("bin/echo", std::fs::read("/bin/echo").unwrap()),
        ("bin/script", b"#!/bin/sh\necho from $0\n".to_vec()),
    ]);
    let mount = store_mount(&place, &store);
    let echo = Command::new(mount.path("bin/echo"))
        .arg("hi")
        .output()
        .unwrap();
    assert_eq!(echo.stdout, b"hi\n");
    let script = Command::new(mount.path("bin/script")).output().unwrap();
    assert!(
        String::from_utf8_lossy(&script.stdout).starts_with("from "),
        "{script:?}"
    );
    let noexec = place.mount_with("noexec", &["-o", "noexec", &store.tree()], |_| {});
    let denied = Command::new(noexec.path("bin/echo")).output().unwrap_err();
    assert_eq!(denied.kind(), ErrorKind::PermissionDenied);
}

#[test]
fn many_readers_fetch_a_file_once() {
    const SIZE: usize = 8 << 20;
    let place = Place::new();
    let bytes = noise(6, SIZE);
    let store = Store::with([("f", bytes.clone())]);
    store.pace(Duration::from_millis(2));
    let mount = store_mount(&place, &store);
    std::thread::scope(|scope| {
        for reader in 0..16 {
            let (mount, bytes) = (&mount, &bytes);
            scope.spawn(move || {
                let file = std::fs::File::open(mount.path("f")).unwrap();
                // From different places, so that they meet.
                let start = reader * SIZE / 16;
                let mut buf = vec![0; SIZE - start];
                file.read_exact_at(&mut buf, start as u64).unwrap();
                assert!(buf == bytes[start..]);
                let mut buf = vec![0; start];
                file.read_exact_at(&mut buf, 0).unwrap();
                assert!(buf == bytes[..start]);
            });
        }
    });
    assert_eq!(place.sum("bytesFetched"), SIZE as u64);
    assert_eq!(store.asked_bytes(), SIZE as u64, "{:?}", store.seen());
}

#[test]
fn a_server_without_ranges_is_asked_once_for_all() {
    const SIZE: usize = 6 << 20;
    let place = Place::new();
    let bytes = noise(10, SIZE);
    let store = Store::with([("f", bytes.clone())]);
    store.mood("f", Mood::NoRanges);
    store.pace(Duration::from_millis(1));
    let mount = store_mount(&place, &store);
    std::thread::scope(|scope| {
        for reader in 0..4 {
            let (mount, bytes) = (&mount, &bytes);
            scope.spawn(move || {
                let file = std::fs::File::open(mount.path("f")).unwrap();
                let start = reader * SIZE / 4;
                let mut buf = vec![0; SIZE / 4];
                file.read_exact_at(&mut buf, start as u64).unwrap();
                assert!(buf == bytes[start..start + SIZE / 4]);
            });
        }
    });
    assert!(mount.read("f") == bytes);
    // What had been asked for when the first answer came may have begun to come too.
    let fetched = place.sum("bytesFetched");
    assert!(
        fetched < 3 * SIZE as u64 / 2,
        "{fetched} bytes fetched of {SIZE}"
    );
}

#[test]
fn small_random_reads_fetch_little() {
    const SIZE: u64 = 32 << 20;
    const READS: u64 = 100;
    let place = Place::new();
    let bytes = noise(8, SIZE as usize);
    let store = Store::with([("f", bytes.clone())]);
    let mount = store_mount(&place, &store);
    let file = std::fs::File::open(mount.path("f")).unwrap();
    let mut numbers = Numbers(2);
    let mut buf = vec![0; 4096];
    let mut touched = BTreeSet::new();
    for _ in 0..READS {
        let block = numbers.below(SIZE / 4096);
        touched.insert(block);
        file.read_exact_at(&mut buf, block * 4096).unwrap();
        assert!(buf[..] == bytes[block as usize * 4096..][..4096]);
    }
    // Let what was started ahead in vain be counted too.
    std::thread::sleep(Duration::from_millis(500));
    let fetched = place.sum("bytesFetched");
    let useful = touched.len() as u64 * 4096;
    assert!(
        fetched <= 4 * useful + (256 << 10),
        "{fetched} bytes fetched for {useful}"
    );
}

#[test]
fn a_volume_is_looked_into_without_a_mount() {
    let place = Place::new();
    let bytes = noise(9, (2 << 20) + 3);
    let store = Store::with([("d/f", bytes.clone()), ("d/e/g", b"g".to_vec())]);
    let tree = store.tree();
    let listed = place.ok(["ls", "-R", &tree]);
    let mut lines: Vec<&str> = listed.lines().collect();
    lines.sort_unstable();
    assert_eq!(lines, ["d/", "d/e/", "d/e/g", "d/f"]);
    let long = place.ok(["ls", "-l", "--path", "/d", &tree]);
    assert!(
        long.contains("2097155") && long.contains(&format!("{tree}d/f")),
        "{long}"
    );
    let cat = place.svol(["cat", "--path", "/d/f", "--path", "d/e/g", &tree]);
    assert!(cat.status.success());
    assert!(cat.stdout == [&bytes[..], b"g"].concat());
    let part = place.svol(["cat", "--path", "/d/e/g", "--path", "/none", &tree]);
    assert_eq!((part.status.code(), &part.stdout[..]), (Some(3), &b"g"[..]));
    assert!(
        String::from_utf8_lossy(&part.stderr).contains("/none"),
        "{part:?}"
    );
    // The cache is one: the mount need not fetch what `cat` did.
    let mount = place.mount(&[&tree]);
    assert!(mount.read("d/f") == bytes);
    assert_eq!(place.sum("bytesFetched"), 0);
}
