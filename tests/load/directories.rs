//! A million entries in one directory, and in 100,000 directories.

use std::collections::HashSet;
use std::os::unix::ffi::OsStrExt;
use std::process::Command;
use std::time::Instant;

use crate::bucket::{Bucket, Shape, content, flat_name, small_size};
use crate::common::mount::{Mount, Place};
use crate::{MIB, full, parts, report, within};

/// Entries of the flat directory; directories of the tree; the ceiling.
fn scale() -> (u64, u64, u64) {
    match full() {
        true => (1_000_000, 100_000, 128 * MIB),
        false => (100_000, 2_000, 64 * MIB),
    }
}

const FILES: u64 = 10;

fn bucket() -> Bucket {
    let (flat, dirs, _) = scale();
    Bucket::start(Shape {
        flat,
        dirs,
        files: FILES,
        big: 0,
        big_size: 0,
    })
}

fn mount(place: &Place, bucket: &Bucket, more: &[&str]) -> Mount {
    let ceiling = scale().2.to_string();
    let mut args = bucket.args("");
    args.splice(0..0, ["--memory", &ceiling].map(str::to_owned));
    args.splice(0..0, more.iter().map(|a| (*a).to_owned()));
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    place.mount(&args)
}

/// Lists a directory to its end; returns how many names there are and that each is there once.
fn list_flat(mount: &Mount, count: u64, what: &str) {
    let started = Instant::now();
    let mut names = std::fs::read_dir(mount.path("flat")).unwrap();
    let first = names.next().unwrap().unwrap();
    println!(
        "{what}, first entry: {:.2} s",
        started.elapsed().as_secs_f64()
    );
    let mut seen = vec![false; count as usize];
    for entry in std::iter::once(Ok(first)).chain(names) {
        let name = entry.unwrap().file_name();
        let n = std::str::from_utf8(&name.as_bytes()[1..]).unwrap();
        let n: usize = n.parse().unwrap();
        assert!(!std::mem::replace(&mut seen[n], true), "{name:?} twice");
    }
    let missing = seen.iter().filter(|seen| !**seen).count();
    assert_eq!(missing, 0, "entries are missing");
    report(&format!("{what}, all {count}"), started, mount.pid());
}

#[test]
fn one_huge_directory() {
    let (count, _, ceiling) = scale();
    let place = Place::new();
    let bucket = bucket();
    {
        let mount = mount(&place, &bucket, &["--refresh", "2h"]);
        report("mounted", Instant::now(), mount.pid());
        list_flat(&mount, count, "cold ls -f");
        // The pages, the root, and nothing a file.
        assert!(
            bucket.listings() <= count.div_ceil(1000) + 2,
            "{}",
            bucket.listings()
        );
        let listings = bucket.listings();

        // Names are found without listing again, and without looking at all of them.
        let started = Instant::now();
        let step = (count / 2_000).max(1);
        for n in (0..count).step_by(step as usize) {
            let meta = std::fs::metadata(mount.path(&format!("flat/{}", flat_name(n)))).unwrap();
            assert_eq!(meta.len(), small_size(n));
        }
        report("stat of 2,000 of them", started, mount.pid());
        for n in [1, count / 2 + 1, count - 1] {
            let bytes = mount.read(&format!("flat/{}", flat_name(n)));
            assert!(bytes == content(n, 0..small_size(n)), "{n}");
        }
        for absent in ["f", "f00000000", "g", "a"] {
            let error = std::fs::metadata(mount.path(&format!("flat/{absent}"))).unwrap_err();
            assert_eq!(error.kind(), std::io::ErrorKind::NotFound, "{absent}");
        }
        list_flat(&mount, count, "warm ls -f");
        assert_eq!(bucket.listings(), listings, "nothing is listed twice");

        // What changed is found, beside the listing that is there.
        bucket.change();
        let started = Instant::now();
        place.ok(["refresh".as_ref(), mount.path("flat").as_os_str()]);
        report("refresh", started, mount.pid());
        let changed = mount.read(&format!("flat/{}", flat_name(1000)));
        assert!(changed == content(1000 + (1 << 32), 0..small_size(1000)));
        list_flat(&mount, count, "ls -f after it");
        println!("{} pages in all", bucket.listings());
        parts(&place);
        within(mount.pid(), ceiling);
        let log = mount.log();
        assert!(
            !log.contains("stays in memory"),
            "nothing was put aside\n{log}"
        );
    }

    // What an earlier mount knew is there without a request, in as little memory.
    let listings = bucket.listings();
    let mount = mount(&place, &bucket, &["--refresh", "2h"]);
    list_flat(&mount, count, "ls -f after a remount");
    assert_eq!(bucket.listings(), listings);
    within(mount.pid(), ceiling);
}

#[test]
fn a_huge_directory_in_full() {
    // A part of it where it is a million: the kernel's own memory for all would be a gigabyte.
    let (count, _, ceiling) = scale();
    let shown = count.min(100_000);
    let place = Place::new();
    let bucket = Bucket::start(Shape {
        flat: shown,
        dirs: 1,
        files: 1,
        big: 0,
        big_size: 0,
    });
    let mount = mount(&place, &bucket, &[]);
    let started = Instant::now();
    let output = Command::new("ls")
        .args(["-l", "--time-style=+%s"])
        .arg(mount.path("flat"))
        .output()
        .unwrap();
    assert!(output.status.success());
    let lines = output.stdout.iter().filter(|b| **b == b'\n').count() as u64;
    assert_eq!(lines, shown + 1);
    report(&format!("ls -l of {shown}"), started, mount.pid());
    parts(&place);
    within(mount.pid(), ceiling);
}

#[test]
fn very_many_directories() {
    let (_, dirs, ceiling) = scale();
    let place = Place::new();
    let bucket = bucket();
    let mount = mount(&place, &bucket, &["--refresh", "2h"]);
    for what in ["cold find", "find again"] {
        let started = Instant::now();
        let output = Command::new("find")
            .arg(mount.path("tree"))
            .output()
            .unwrap();
        assert!(output.status.success(), "{}", mount.log());
        let text = String::from_utf8(output.stdout).unwrap();
        let names: HashSet<&str> = text.lines().collect();
        assert_eq!(names.len() as u64, 1 + dirs + dirs * FILES);
        assert_eq!(text.lines().count(), names.len());
        report(
            &format!("{what}, {} names", names.len()),
            started,
            mount.pid(),
        );
        println!("{} pages listed", bucket.listings());
    }
    // One request a directory, however often it is walked.
    assert!(
        bucket.listings() <= 2 + dirs.div_ceil(1000) + dirs,
        "{}",
        bucket.listings()
    );
    let started = Instant::now();
    for dir in (0..dirs).step_by((dirs / 100) as usize) {
        let n = dir * FILES + 3;
        let bytes = mount.read(&format!("tree/d{dir:06}/f3"));
        assert!(bytes == content(n | 1 << 60, 0..small_size(n)));
    }
    report("cat of 100", started, mount.pid());
    parts(&place);
    within(mount.pid(), ceiling);
}
