//! The cache's own code under a scheduler that tries the orders in which its threads may go on: at
//! each lock, atomic, channel and condition variable. Several caches opened on one directory stand
//! for as many processes, as their locks belong to open files.
//!
//! Each test runs `SHUTTLE_ITERATIONS` random orders (60 unless set). A failure prints the order,
//! but file systems and clocks make that no exact recipe; run it again, longer.
//!
//!     cargo test -p svol-cache --features shuttle --test shuttle
#![allow(missing_docs, clippy::single_range_in_vec_init)]

mod common;

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use common::{config, content, key, really_used};
use shuttle::scheduler::{PctScheduler, RandomScheduler};
use shuttle::thread;
use svol_cache::{Cache, Config, GRAIN, Object};

/// The smallest sizes that are a partial of several grains, and a small object.
const LARGE: u64 = 65_537;
const LITTLE: u64 = 300;

/// Looks of a waiter before it counts as stuck. Others have as many turns on average.
const PATIENCE: u32 = 200_000;

/// Runs `test` in many orders: half of them random at each step, half of them with few changes
/// from one thread to another, at random places, which finds what needs a long pause of one.
fn explore(test: impl Fn() + Send + Sync + 'static) {
    let iterations = std::env::var("SHUTTLE_ITERATIONS").map_or(60, |n| n.parse().unwrap());
    let test = Arc::new(test);
    let config = || {
        let mut config = shuttle::Config::new();
        config.stack_size = 1 << 20;
        config.max_steps = shuttle::MaxSteps::FailAfter(3_000_000);
        config
    };
    let seed = std::env::var("SHUTTLE_SEED").map_or(2026, |n| n.parse().unwrap());
    let random = RandomScheduler::new_from_seed(seed, iterations / 2);
    let again = Arc::clone(&test);
    shuttle::Runner::new(random, config()).run(move || again());
    let pct = PctScheduler::new_from_seed(seed, 3, iterations - iterations / 2);
    shuttle::Runner::new(pct, config()).run(move || test());
}

fn directory() -> tempfile::TempDir {
    // In memory where there is such a place: every order makes a cache of its own.
    tempfile::tempdir_in("/dev/shm").unwrap_or_else(|_| tempfile::tempdir().unwrap())
}

fn limited(dir: &Path, limit: u64) -> Cache {
    let config = Config {
        limit: Some(limit),
        ..config(dir)
    };
    Cache::open(config).unwrap()
}

/// Reads all of an object as the layer above does: fetches what nobody fetches, waits for others.
/// Returns how many bytes it fetched.
fn get(object: &Object, data: &[u8]) -> u64 {
    let mut buf = vec![0; data.len()];
    let mut fetched = 0;
    for _ in 0..PATIENCE {
        if let Some(read) = object.read_at(0, &mut buf) {
            assert_eq!(read, data.len());
            assert!(buf == data, "wrong bytes");
            return fetched;
        }
        for run in object.missing(0..object.size()) {
            let Some(mut fill) = object.try_claim(run) else {
                continue;
            };
            let range = fill.range();
            fetched += range.end - range.start;
            for part in data[range.start as usize..range.end as usize].chunks(2 * GRAIN as usize) {
                fill.push(part).unwrap();
                thread::yield_now();
            }
            fill.finish().unwrap();
        }
        thread::yield_now();
    }
    panic!("stuck");
}

/// Whether the cache kept all that it was given.
fn kept_all(caches: &[Cache]) -> bool {
    let stats = caches.iter().map(Cache::stats);
    stats
        .inspect(|stats| assert_eq!(stats.healed, 0, "{stats:?}"))
        .all(|stats| stats.unkept_bytes == 0 && stats.troubles == 0)
}

/// Readers in two processes, each with two threads.
fn once(size: u64) {
    explore(move || {
        let dir = directory();
        let data = Arc::new(content(1, size));
        let caches = [limited(dir.path(), 1 << 30), limited(dir.path(), 1 << 30)];
        let readers: Vec<_> = [0, 0, 1, 1]
            .into_iter()
            .map(|at| {
                let (cache, data) = (caches[at].clone(), Arc::clone(&data));
                thread::spawn(move || get(&cache.object(key(1), size), &data))
            })
            .collect();
        let fetched: u64 = readers.into_iter().map(|r| r.join().unwrap()).sum();
        if kept_all(&caches) {
            assert_eq!(fetched, size, "fetched more than once");
        }
    });
}

#[test]
fn of_many_readers_one_fetches_a_partial() {
    once(LARGE);
}

#[test]
fn of_many_readers_one_fetches_a_small_object() {
    once(LITTLE);
}

/// A reader holds an object open while `evictors` of the two processes, its own first, evict all
/// they can; and in the end nothing is left that nobody counts.
fn held(size: u64, evictors: usize) {
    explore(move || {
        let dir = directory();
        let data = Arc::new(content(1, size));
        let caches = [limited(dir.path(), 1 << 30), limited(dir.path(), 1 << 30)];
        let evictors: Vec<_> = caches[..evictors]
            .iter()
            .map(|cache| {
                let cache = cache.clone();
                thread::spawn(move || {
                    for _ in 0..4 {
                        cache.gc(Some(0)).unwrap();
                        thread::yield_now();
                    }
                })
            })
            .collect();
        let reader = {
            let (cache, data) = (caches[0].clone(), Arc::clone(&data));
            thread::spawn(move || {
                let object = cache.object(key(1), size);
                get(&object, &data);
                // Evicted before it was open, perhaps; but not any more.
                for _ in 0..4 {
                    thread::yield_now();
                    let mut buf = vec![0; data.len()];
                    assert_eq!(object.read_at(0, &mut buf), Some(data.len()));
                    assert!(buf == *data, "wrong bytes");
                }
                object
            })
        };
        let other = {
            let (cache, data) = (caches[1].clone(), Arc::clone(&data));
            thread::spawn(move || get(&cache.object(key(1), size), &data))
        };
        for thread in evictors {
            thread.join().unwrap();
        }
        let object = reader.join().unwrap();
        other.join().unwrap();
        if kept_all(&caches) {
            // On disk, not only in somebody's memory.
            caches[0].flush().unwrap();
            let third = limited(dir.path(), 1 << 30);
            assert_eq!(get(&third.object(key(1), size), &data), 0, "evicted");
        }
        drop(object);
        let [first, second] = caches;
        drop(first);
        for _ in 0.. {
            // What waits to be sealed is spared until it is.
            if second.gc(Some(0)).unwrap().used == 0 {
                break;
            }
            thread::yield_now();
        }
        assert_eq!(really_used(dir.path()), 0);
    });
}

#[test]
fn what_is_open_is_not_evicted() {
    held(LARGE, 2);
}

#[test]
fn a_small_object_that_is_open_is_not_evicted() {
    // Others do not see what of a pack is open.
    held(LITTLE, 1);
}

/// Two objects of one content are sealed as one blob, whoever is first, while both are read.
#[test]
fn of_equal_contents_one_is_kept() {
    explore(|| {
        let dir = directory();
        let data = Arc::new(content(1, LARGE));
        let caches = [limited(dir.path(), 1 << 30), limited(dir.path(), 1 << 30)];
        let readers: Vec<_> = [(0, 1), (1, 2), (1, 1)]
            .into_iter()
            .map(|(at, number)| {
                let (cache, data) = (caches[at].clone(), Arc::clone(&data));
                thread::spawn(move || {
                    let object = cache.object(key(number), LARGE);
                    get(&object, &data);
                    for _ in 0..PATIENCE {
                        if let Some(digest) = object.digest() {
                            assert_eq!(digest, blake3::hash(&data));
                            break;
                        }
                        thread::yield_now();
                    }
                    get(&object, &data);
                })
            })
            .collect();
        for reader in readers {
            reader.join().unwrap();
        }
        kept_all(&caches);
        let stats = caches[0].stats();
        assert_eq!(stats.blobs, 1, "{stats:?}");
    });
}

/// More is read at once than may be kept: it passes through memory, and every reader gets it.
#[test]
fn what_does_not_fit_is_read_all_the_same() {
    explore(|| {
        let dir = directory();
        let cache = limited(dir.path(), 120_000);
        let reads = Arc::new(AtomicU64::new(0));
        let readers: Vec<_> = (0..3)
            .map(|number| {
                let (cache, reads) = (cache.clone(), Arc::clone(&reads));
                thread::spawn(move || {
                    let data = content(number % 2, LARGE);
                    get(&cache.object(key(number % 2), LARGE), &data);
                    reads.fetch_add(1, Ordering::Relaxed);
                })
            })
            .collect();
        for reader in readers {
            reader.join().unwrap();
        }
        assert_eq!(reads.load(Ordering::Relaxed), 3);
        cache.flush().unwrap();
        let used = cache.gc(None).unwrap().used;
        assert_eq!(used, really_used(dir.path()));
    });
}
