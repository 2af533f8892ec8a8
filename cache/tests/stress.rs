//! Many threads, two caches on one directory, a quota that is too small, and somebody who verifies
//! and collects all the while: nobody reads a wrong byte, and nobody is stuck.
#![allow(missing_docs)]

mod common;

use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use common::*;
use svol_cache::{BLOCK, Cache, Config, Object};

const OBJECTS: u64 = 24;

fn size(number: u64) -> u64 {
    [2 * BLOCK + 77, 300_000, 66_000, 5_000][number as usize % 4]
}

fn limited(dir: &Path) -> Cache {
    Cache::open(Config {
        limit: Some(9 * MIB),
        memory: 32 * MIB,
        ..config(dir)
    })
    .unwrap()
}

/// Reads a place of an object as the layer above would: claim what is missing, wait for others.
async fn get(object: &Object, data: &[u8], at: u64, len: u64) {
    let started = Instant::now();
    let mut buf = vec![0; len.min(object.size() - at) as usize];
    let mut watch = object.watch();
    loop {
        assert!(started.elapsed() < Duration::from_secs(60), "stuck");
        if let Some(read) = object.read_at(at, &mut buf) {
            assert_eq!(read, buf.len());
            assert!(buf == data[at as usize..at as usize + read], "wrong bytes");
            return;
        }
        let mut claimed = false;
        for run in object.missing(at..at + len) {
            if let Some(mut fill) = object.try_claim(run) {
                claimed = true;
                let range = fill.range();
                let bytes = &data[range.start as usize..range.end as usize];
                for part in bytes.chunks(40_000) {
                    fill.push(part).unwrap();
                    tokio::task::yield_now().await;
                }
                // Sometimes the source breaks off; never all the time.
                if range.start % 5 == 3 && started.elapsed() < Duration::from_millis(5) {
                    continue;
                }
                fill.finish().unwrap();
            }
        }
        if !claimed {
            watch.changed().await;
        }
    }
}

#[test]
fn all_at_once() {
    let dir = tempfile::tempdir().unwrap();
    let caches = [limited(dir.path()), limited(dir.path())];
    let contents: Vec<_> = (0..OBJECTS).map(|n| content(n, size(n))).collect();
    let stop = AtomicBool::new(false);
    let reads = AtomicU64::new(0);
    std::thread::scope(|scope| {
        for thread in 0..6u64 {
            let (caches, contents, stop, reads) = (&caches, &contents, &stop, &reads);
            scope.spawn(move || {
                let runtime = tokio::runtime::Builder::new_current_thread()
                    .enable_time()
                    .build()
                    .unwrap();
                let mut random = thread + 1;
                let mut next = |bound: u64| {
                    random ^= random << 13;
                    random ^= random >> 7;
                    random ^= random << 17;
                    random % bound
                };
                while !stop.load(Ordering::Relaxed) {
                    let number = next(OBJECTS);
                    let cache = &caches[next(2) as usize];
                    let object = cache.object(key(number), size(number));
                    for _ in 0..next(4) + 1 {
                        let at = next(object.size());
                        let len = next(400_000) + 1;
                        runtime.block_on(get(&object, &contents[number as usize], at, len));
                        reads.fetch_add(1, Ordering::Relaxed);
                    }
                }
            });
        }
        let (caches, stop) = (&caches, &stop);
        scope.spawn(move || {
            while !stop.load(Ordering::Relaxed) {
                assert!(caches[0].verify(|_| {}).unwrap().is_clean());
                caches[1].gc(Some(4 * MIB)).unwrap();
                std::thread::sleep(Duration::from_millis(20));
            }
        });
        let seconds = std::env::var("STRESS_SECONDS").map_or(6, |n| n.parse().unwrap());
        std::thread::sleep(Duration::from_secs(seconds));
        stop.store(true, Ordering::Relaxed);
    });
    assert!(reads.load(Ordering::Relaxed) > 100);
    for cache in &caches {
        let stats = cache.stats();
        assert_eq!((stats.healed, stats.troubles), (0, 0), "{stats:?}");
        assert!(stats.memory_used <= stats.memory_limit);
    }
    let [first, second] = caches;
    drop(first);
    // What waits to be sealed is spared until it is.
    wait_for("empty cache", || second.gc(Some(0)).unwrap().used == 0);
    assert_eq!(really_used(dir.path()), 0, "{:?}", files(dir.path()));
}

#[test]
fn a_reader_need_not_wait_for_a_process_that_was_stopped() {
    let dir = tempfile::tempdir().unwrap();
    let (ours, theirs) = (open(dir.path()), open(dir.path()));
    for size in [BLOCK, 1_000] {
        let data = content(size, size);
        let object = ours.object(key(size), size);
        // They hold the claim, and do nothing.
        let stuck = theirs.object(key(size), size).try_claim(0..size).unwrap();
        assert!(object.try_claim(0..size).is_none());
        let mut fill = object.try_claim_aside(0..size).unwrap();
        assert!(object.try_claim_aside(0..size).is_none());
        fill.push(&data).unwrap();
        fill.finish().unwrap();
        assert_eq!(read(&object).unwrap(), data);
        assert_eq!(object.present_bytes(), 0);
        drop(stuck);
    }
}

#[test]
fn a_writer_of_the_index_that_was_stopped_slows_but_fails_nobody() {
    let dir = tempfile::tempdir().unwrap();
    let cache = open(dir.path());
    let data = content(1, BLOCK);
    fill(&cache.object(key(1), BLOCK), &data);
    wait_for("seal", || cache.stats().sealed == 1);
    let other = rusqlite::Connection::open(dir.path().join("v1/index.db")).unwrap();
    other.execute_batch("BEGIN IMMEDIATE").unwrap();
    let started = Instant::now();
    for number in 1..30 {
        let data = content(number, BLOCK);
        let object = cache.object(key(number), BLOCK);
        assert!(read_or_fill(&object, &data) == data);
    }
    assert!(started.elapsed() < Duration::from_secs(20));
    // Nor does it keep others from opening the cache.
    let opened = Instant::now();
    let another = open(dir.path());
    assert!(opened.elapsed() < Duration::from_secs(3));
    assert!(read(&another.object(key(1), BLOCK)).is_some());
    other.execute_batch("COMMIT").unwrap();
    drop(other);
    wait_for("commit", || cache.flush().is_ok());
}
