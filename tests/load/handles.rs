//! Thousands of open handles in a cgroup of 128 MiB, and ceilings that cannot be.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::time::Instant;

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use crate::bucket::{Bucket, Shape, big_content};
use crate::cgroup::Cgroup;
use crate::common::mount::Place;
use crate::{MIB, full, parts, report, within};

const HANDLES: u64 = 2_000;

/// Threads that read; each has its part of the handles.
const READERS: u64 = 16;

/// Bytes of a read: several make a run, so that read-ahead is proven right.
const STEP: u64 = 64 << 10;

#[test]
fn two_thousand_handles_in_128_mib() {
    // In the long form a file each; in the short one eight handles share one.
    let (files, size) = match full() {
        true => (HANDLES, MIB),
        false => (HANDLES / 8, MIB),
    };
    let limit = getrlimit(Resource::Nofile);
    let _ = setrlimit(
        Resource::Nofile,
        Rlimit {
            current: limit.maximum,
            ..limit
        },
    );
    let bucket = Bucket::start(Shape {
        flat: 0,
        dirs: 0,
        files: 0,
        big: files,
        big_size: size,
    });
    let place = Place::new();
    let cgroup = Cgroup::new(128 * MIB);
    let mut args = bucket.args("big");
    if cgroup.is_none() {
        args.splice(0..0, ["--memory", "64MiB"].map(str::to_owned));
    }
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    let mount = place.mount_with("mnt", &args, |command| {
        if let Some(cgroup) = &cgroup {
            cgroup.hold(command);
        }
    });
    if let Some(cgroup) = &cgroup {
        assert!(cgroup.holds(mount.pid()));
        // Half of the cgroup's limit is the ceiling, and it says so.
        let memory = &place.status()["mounts"][0]["memory"];
        assert_eq!(memory["limitBytes"], 64 * MIB, "{memory}");
        let from = memory["from"].as_str().unwrap();
        let name = cgroup.path().file_name().unwrap().to_str().unwrap();
        assert!(from.contains(name), "{from}");
    }
    let started = Instant::now();
    let handles: Vec<(u64, File)> = (0..HANDLES)
        .map(|n| {
            let file = n % files;
            (
                file,
                File::open(mount.path(&format!("b{file:05}"))).unwrap(),
            )
        })
        .collect();
    report("2,000 handles opened", started, mount.pid());
    let started = Instant::now();
    std::thread::scope(|scope| {
        for part in handles.chunks((HANDLES / READERS) as usize) {
            scope.spawn(move || {
                let mut buf = vec![0; STEP as usize];
                // Each handle from its start to its end, and all of them by turns.
                for at in (0..size).step_by(STEP as usize) {
                    for (n, file) in part {
                        file.read_exact_at(&mut buf, at).unwrap();
                        assert!(buf == big_content(*n, at..at + STEP), "b{n:05} at {at}");
                    }
                }
            });
        }
    });
    report(
        &format!("all of {files} files read through {HANDLES} handles"),
        started,
        mount.pid(),
    );
    parts(&place);
    println!(
        "{} MiB fetched in {} requests",
        bucket.bytes() / MIB,
        bucket.gets()
    );
    if let Some(cgroup) = &cgroup {
        assert_eq!(cgroup.killed(), 0, "the kernel killed in the cgroup");
        assert!(cgroup.holds(mount.pid()), "the daemon is gone");
        println!("at most {} MiB charged to the cgroup", cgroup.most() / MIB);
    }
    // Of its own memory; the cache's pages are charged to the cgroup too, and come and go.
    within(mount.pid(), 64 * MIB);
    // It still serves.
    let file = File::open(mount.path("b00000")).unwrap();
    let mut buf = vec![0; STEP as usize];
    file.read_exact_at(&mut buf, 0).unwrap();
    assert!(buf == big_content(0, 0..STEP));
    drop(mount);
}

#[test]
fn a_ceiling_that_cannot_be_is_refused_at_once() {
    let place = Place::new();
    let at = place.path("mnt");
    std::fs::create_dir(&at).unwrap();
    let source = place.path("source");
    std::fs::create_dir(&source).unwrap();
    let refused = |args: &[&str], cgroup: Option<&Cgroup>| {
        let mut command = place.command(["mount"]);
        command.args(args).arg(&source).arg(&at);
        if let Some(cgroup) = cgroup {
            cgroup.hold(&mut command);
        }
        let output = command.output().unwrap();
        assert_eq!(output.status.code(), Some(2), "{output:?}");
        assert!(!crate::common::mount::is_mounted(&at));
        String::from_utf8(output.stderr).unwrap()
    };
    let why = refused(&["--memory", "20MiB"], None);
    assert!(
        why.contains("20MiB") && why.contains("at least 48MiB"),
        "{why}"
    );
    let why = refused(&["--memory", "lots"], None);
    assert!(why.contains("not a size"), "{why}");
    if let Some(cgroup) = Cgroup::new(40 * MIB) {
        let why = refused(&[], Some(&cgroup));
        assert!(why.contains("40MiB") && why.contains("64MiB"), "{why}");
    }
}
