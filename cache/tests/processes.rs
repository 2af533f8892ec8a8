//! Several processes on one cache at once, some of which die. Each is this test binary, started
//! again to run the test `child` alone.
#![allow(missing_docs)]

mod common;

use std::fs::{self, File};
use std::io::Write;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use common::*;
use svol_cache::{BLOCK, Cache, Object};

/// The objects that all processes fill: large, medium, and small.
fn sizes() -> Vec<u64> {
    let mut sizes = vec![6 * BLOCK + 5, 3 * BLOCK, 200_000, 70_000];
    sizes.extend((0..30).map(|n| n * 1_000));
    sizes
}

fn start(dir: &Path, number: u64) -> Child {
    Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "child", "--nocapture"])
        .env("SVOL_CACHE_CHILD", number.to_string())
        .env("SVOL_CACHE_DIR", dir)
        .stdout(Stdio::null())
        .spawn()
        .unwrap()
}

/// What a child does: reads every object, block by block, bringing what is missing, slowly.
#[test]
fn child() {
    let Ok(number) = std::env::var("SVOL_CACHE_CHILD") else {
        return;
    };
    let number: u64 = number.parse().unwrap();
    let dir = std::env::var("SVOL_CACHE_DIR").unwrap();
    let dir = Path::new(&dir);
    let cache = open(&dir.join("cache"));
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .build()
        .unwrap();
    // Says what it has fetched: "object offset length" a line, one write each.
    let mut fetched = File::create(dir.join(format!("fetched-{number}"))).unwrap();
    let sizes = sizes();
    for turn in 0..sizes.len() as u64 {
        let which = if number.is_multiple_of(2) {
            turn
        } else {
            (turn * 7 + number) % sizes.len() as u64
        };
        let size = sizes[which as usize];
        let data = content(which, size);
        let object = cache.object(key(which), size);
        for at in (0..size).step_by(BLOCK as usize) {
            let end = size.min(at + BLOCK);
            let mut buf = vec![0; (end - at) as usize];
            runtime.block_on(get(&object, at, &mut buf, &data, &mut fetched, which));
            assert!(buf == data[at as usize..end as usize], "wrong bytes");
        }
    }
    drop(cache);
    fs::write(dir.join(format!("done-{number}")), "").unwrap();
}

async fn get(
    object: &Object,
    at: u64,
    buf: &mut [u8],
    data: &[u8],
    fetched: &mut File,
    which: u64,
) {
    let started = Instant::now();
    let mut watch = object.watch();
    loop {
        assert!(started.elapsed() < Duration::from_secs(60), "stuck");
        if object.read_at(at, buf).is_some() {
            return;
        }
        let mut claimed = false;
        for run in object.missing(at..at + buf.len() as u64) {
            if let Some(mut fill) = object.try_claim(run) {
                claimed = true;
                let range = fill.range();
                for part in data[range.start as usize..range.end as usize].chunks(60_000) {
                    tokio::time::sleep(Duration::from_micros(500)).await;
                    fill.push(part).unwrap();
                }
                let line = format!("{which} {} {}\n", range.start, range.end - range.start);
                fetched.write_all(line.as_bytes()).unwrap();
                fill.finish().unwrap();
            }
        }
        if !claimed {
            watch.changed().await;
        }
    }
}

/// Returns the sum of all bytes fetched by anybody.
fn fetched(dir: &Path) -> u64 {
    files(dir)
        .iter()
        .filter(|path| {
            path.file_name()
                .unwrap()
                .to_string_lossy()
                .starts_with("fetched-")
        })
        .flat_map(|path| {
            let text = fs::read_to_string(path).unwrap();
            text.lines()
                .map(|line| line.rsplit(' ').next().unwrap().parse::<u64>().unwrap())
                .collect::<Vec<_>>()
        })
        .sum()
}

fn expect_all(cache: &Cache) {
    for (number, size) in (0..).zip(sizes()) {
        let object = cache.object(key(number), size);
        assert!(read(&object).unwrap() == content(number, size), "{number}");
        wait_for("digest", || {
            object.digest() == Some(blake3::hash(&content(number, size)))
        });
    }
}

#[test]
fn each_byte_is_fetched_once_by_all_processes_together() {
    let dir = tempfile::tempdir().unwrap();
    let mut children: Vec<_> = (0..5).map(|number| start(dir.path(), number)).collect();
    for child in &mut children {
        assert!(child.wait().unwrap().success());
    }
    for number in 0..5 {
        assert!(dir.path().join(format!("done-{number}")).exists());
    }
    assert_eq!(fetched(dir.path()), sizes().iter().sum::<u64>());
    let cache = open(&dir.path().join("cache"));
    expect_all(&cache);
    assert_eq!(cache.stats().healed, 0);
    assert_eq!(cache.stats().used, really_used(&dir.path().join("cache")));
    let report = cache.gc(None).unwrap();
    assert_eq!((report.orphans, report.stale, report.adopted), (0, 0, 0));
}

#[test]
fn killed_processes_cost_what_they_had_in_flight() {
    let dir = tempfile::tempdir().unwrap();
    let mut survivors: Vec<_> = (0..2).map(|number| start(dir.path(), number)).collect();
    let mut killed = 0;
    for round in 0..12 {
        let mut victims: Vec<_> = (0..2)
            .map(|n| start(dir.path(), 100 + round * 2 + n))
            .collect();
        std::thread::sleep(Duration::from_millis(15 + round * 9 % 60));
        for victim in &mut victims {
            victim.kill().unwrap();
            killed += u32::from(!victim.wait().unwrap().success());
        }
    }
    for child in &mut survivors {
        assert!(child.wait().unwrap().success());
    }
    assert!(killed > 0);
    let cache = open(&dir.path().join("cache"));
    for (number, size) in (0..).zip(sizes()) {
        let object = cache.object(key(number), size);
        let data = content(number, size);
        assert!(read_or_fill(&object, &data) == data);
    }
    expect_all(&cache);
    assert_eq!(cache.stats().healed, 0, "a kill must not look like damage");
    cache.gc(None).unwrap();
    assert_eq!(cache.stats().used, really_used(&dir.path().join("cache")));
    assert!(cache.verify(|_| {}).unwrap().is_clean());
}
