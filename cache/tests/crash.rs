//! A process that dies at each named step of filling, sealing, packing and evicting; then another
//! that finds everything right. Needs the feature `failpoints`.
#![cfg(feature = "failpoints")]
#![allow(missing_docs)]

mod common;

use std::path::Path;
use std::process::{Command, Stdio};

use common::*;
use svol_cache::{BLOCK, Cache};

const LARGE: u64 = 2 * BLOCK + 100;
const SMALL: u64 = 3_000;

/// Every step, and how often to let it pass first: once early in a cache's life, once later.
const STEPS: &[&str] = &[
    "create.row",
    "create.data",
    "create.sidecar",
    "create.sized",
    "fill.data",
    "fill.hashes",
    "seal.verified",
    "seal.intended",
    "seal.synced",
    "seal.flagged",
    "seal.sidecar-renamed",
    "seal.renamed",
    "seal.placed",
    "seal.recorded",
    "pack.row",
    "pack.made",
    "pack.appended",
    "evict.sidecar",
    "evict.unlinked",
    "index.uncommitted",
    "index.committed",
];

/// What is in which object: 3 has the content of 1, so that it is dropped when it is complete.
fn data(number: u64) -> Vec<u8> {
    match number {
        3 => content(1, LARGE),
        1..=4 => content(number, LARGE),
        _ => content(number, SMALL),
    }
}

/// What the child does, and the parent again after it.
fn work(dir: &Path) {
    let cache = open(dir);
    for number in 1..=8 {
        let data = data(number);
        let object = cache.object(key(number), data.len() as u64);
        assert!(read_or_fill(&object, &data) == data);
        if number <= 3 {
            wait_for("seal", || object.sealed_file().is_some());
        } else {
            cache.flush().unwrap();
        }
    }
    cache.gc(Some(LARGE * 2)).unwrap();
}

#[test]
fn child() {
    if let Ok(dir) = std::env::var("SVOL_CACHE_DIR") {
        work(Path::new(&dir));
    }
}

/// Returns whether it died.
fn run_child(dir: &Path, failpoint: &str) -> bool {
    let status = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "child"])
        .env("SVOL_CACHE_DIR", dir)
        .env("SVOL_FAILPOINT", failpoint)
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status()
        .unwrap();
    use std::os::unix::process::ExitStatusExt;
    assert!(status.success() || status.signal() == Some(6), "{status}");
    !status.success()
}

fn present(cache: &Cache, number: u64) -> u64 {
    let size = data(number).len() as u64;
    cache.object(key(number), size).present_bytes()
}

#[test]
fn a_crash_at_any_step_loses_only_what_was_in_flight() {
    for step in STEPS {
        let mut died = 0;
        for skip in [0, 1, 2, 5] {
            let dir = tempfile::tempdir().unwrap();
            died += u32::from(run_child(dir.path(), &format!("{step}:{skip}")));
            let cache = open(dir.path());
            if step.starts_with("seal.") && skip == 0 {
                // All of it had come, so none of it is lost.
                assert_eq!(present(&cache, 1), LARGE, "{step}:{skip}");
                let object = cache.object(key(1), LARGE);
                assert!(read(&object).unwrap() == data(1), "{step}:{skip}");
            }
            for number in 1..=8 {
                let data = data(number);
                let object = cache.object(key(number), data.len() as u64);
                if let Some(read) = read(&object) {
                    assert!(read == data, "{step}:{skip} {number}");
                }
                assert!(read_or_fill(&object, &data) == data);
            }
            for number in 1..=4 {
                let object = cache.object(key(number), LARGE);
                wait_for("seal", || object.sealed_file().is_some());
            }
            wait_for("end to partials", || {
                files_of(dir.path(), "partial").is_empty()
            });
            // A blob whose removal was begun is the only thing that looks like damage.
            let begun = u64::from(*step == "evict.sidecar");
            let healed = cache.stats().healed;
            assert!(healed <= begun, "{step}:{skip} looks like damage");
            for sidecar in files(dir.path()) {
                let data = sidecar.with_extension("");
                let alone = sidecar.extension().is_some_and(|e| e == "grains") && !data.exists();
                assert!(!alone, "{step}:{skip} left {}", sidecar.display());
            }
            cache.flush().unwrap();
            let before = cache.stats().used;
            let report = cache.gc(None).unwrap();
            assert_eq!(report.used, really_used(dir.path()), "{step}:{skip}");
            // A crash may leave the account a little off, but not a file that nobody counts.
            assert!(
                before + (64 << 10) >= report.used,
                "{step}:{skip} {before} {report:?}"
            );
            assert!(report.orphans <= 2, "{step}:{skip} {report:?}");
            assert!(cache.verify(|_| {}).unwrap().is_clean());
        }
        assert!(died > 0, "nothing passes {step}");
    }
}

#[test]
fn crash_upon_crash() {
    let dir = tempfile::tempdir().unwrap();
    for round in 0..3 {
        for step in STEPS {
            run_child(dir.path(), &format!("{step}:{round}"));
        }
    }
    work(dir.path());
    let cache = open(dir.path());
    assert_eq!(cache.gc(None).unwrap().used, really_used(dir.path()));
    assert!(cache.verify(|_| {}).unwrap().is_clean());
    assert_eq!(cache.stats().healed, 0);
}

/// Stores a small object; held up where the parent says.
#[test]
fn slow_packer() {
    if let Ok(dir) = std::env::var("SVOL_CACHE_DIR") {
        let cache = open(Path::new(&dir));
        let object = cache.object(key(9), SMALL);
        fill(&object, &data(9));
        cache.flush().unwrap();
        assert_eq!(object.present_bytes(), SMALL);
        assert_eq!(cache.stats().troubles, 0);
    }
}

#[test]
fn a_pack_that_is_evicted_while_it_is_made_is_made_again() {
    let dir = tempfile::tempdir().unwrap();
    let cache = open(dir.path());
    let mut packer = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "slow_packer", "--nocapture"])
        .env("SVOL_CACHE_DIR", dir.path())
        .env("SVOL_FAILPOINT", "pack.made:0:1000")
        .spawn()
        .unwrap();
    wait_for("pack", || !files_of(dir.path(), "pack").is_empty());
    // What an evictor does.
    std::fs::remove_file(&files_of(dir.path(), "pack")[0]).unwrap();
    assert!(packer.wait().unwrap().success());
    let object = cache.object(key(9), SMALL);
    assert_eq!(read(&object).unwrap(), data(9));
    assert_eq!(cache.stats().healed, 0);
    assert_eq!(cache.gc(None).unwrap().used, really_used(dir.path()));
}
