//! The quota, what is evicted, and what is not.
#![allow(missing_docs, clippy::single_range_in_vec_init)]

mod common;

use std::path::Path;

use common::*;
use svol_cache::{BLOCK, Cache, Config, Eviction, GRAIN};

fn limited(dir: &Path, limit: u64) -> Cache {
    Cache::open(Config {
        limit: Some(limit),
        ..config(dir)
    })
    .unwrap()
}

fn fill_and_drop(cache: &Cache, number: u64, size: u64) {
    let object = cache.object(key(number), size);
    let data = content(number, size);
    fill(&object, &data);
    assert_eq!(read_or_fill(&object, &data), data);
}

#[test]
fn the_quota_holds_and_the_oldest_goes_first() {
    let dir = tempfile::tempdir().unwrap();
    let limit = 12 * MIB;
    let cache = limited(dir.path(), limit);
    for number in 0..40 {
        let size = [BLOCK, 2 * BLOCK + 9, 70_000][number as usize % 3];
        fill_and_drop(&cache, number, size);
        for small in 0..10 {
            fill_and_drop(&cache, 1_000 + number * 10 + small, 9_000);
        }
        let used = really_used(dir.path());
        assert!(
            used <= limit + limit / 20,
            "{used} after {number}, {:?}, then {:?}",
            (cache.stats(), cache.flush(), cache.stats().used),
            (cache.gc(None), really_used(dir.path())),
        );
    }
    cache.flush().unwrap();
    let stats = cache.stats();
    assert!(stats.evicted_bytes > 10 * MIB, "{stats:?}");
    // To within the blocks of files that are just being made.
    assert!(
        stats.used <= limit + 65_536 && stats.used > limit / 2,
        "{stats:?}"
    );
    let used = cache.gc(None).unwrap().used;
    assert_eq!(used, really_used(dir.path()));
}

#[test]
fn the_least_recently_used_goes_before_the_least_recently_filled() {
    let dir = tempfile::tempdir().unwrap();
    {
        let cache = open(dir.path());
        for number in 0..4 {
            fill_and_drop(&cache, number, BLOCK);
            wait_for("seal", || cache.stats().sealed == number + 1);
        }
    }
    // As if they had been filled an hour apart: a use is noted once in ten minutes.
    let db = rusqlite::Connection::open(dir.path().join("v1/index.db")).unwrap();
    for number in 0..4 {
        let hash = blake3::hash(&content(number, BLOCK));
        let sql = "UPDATE blobs SET last_use = last_use - ?2 WHERE hash = ?1";
        let ago = (4 - number) * 3_600;
        assert_eq!(db.execute(sql, (hash.as_bytes(), ago)).unwrap(), 1);
        let sql = "UPDATE objects SET last_use = last_use - ?2 WHERE hash = ?1";
        assert_eq!(db.execute(sql, (hash.as_bytes(), ago)).unwrap(), 1);
    }
    drop(db);
    let cache = open(dir.path());
    assert!(read(&cache.object(key(0), BLOCK)).is_some());
    cache.flush().unwrap();
    cache.gc(Some(3 * BLOCK)).unwrap();
    let left = |number| cache.object(key(number), BLOCK).missing(0..1).is_empty();
    assert_eq!([0, 1, 2, 3].map(left), [true, false, false, true]);
}

#[test]
fn what_is_open_or_pinned_is_spared() {
    let dir = tempfile::tempdir().unwrap();
    let cache = open(dir.path());
    for (number, size) in [(0, BLOCK), (1, BLOCK), (2, BLOCK), (3, 100), (4, 2 * BLOCK)] {
        fill_and_drop(&cache, number, size);
    }
    let partial = |number: u64| {
        let object = cache.object(key(number), BLOCK);
        let mut fill = object.try_claim(0..GRAIN).unwrap();
        fill.push(&content(number, BLOCK)[..GRAIN as usize])
            .unwrap();
        drop(fill);
        object
    };
    let held_partial = partial(10);
    drop(partial(11));
    drop(partial(12));
    wait_for("seals", || cache.stats().sealed == 4);
    let other = open(dir.path());
    let held_here = cache.object(key(0), BLOCK);
    let held_there = other.object(key(1), BLOCK);
    assert!(read(&held_here).is_some() && read(&held_there).is_some());
    cache.pin(&key(2), BLOCK, "2").unwrap();
    cache.pin(&key(3), 100, "3").unwrap();
    cache.pin(&key(12), BLOCK, "12").unwrap();
    cache.gc(Some(0)).unwrap();
    let left = |number, size| cache.object(key(number), size).present_bytes() > 0;
    assert!(left(0, BLOCK) && left(1, BLOCK) && left(2, BLOCK) && left(3, 100));
    assert!(!left(4, 2 * BLOCK));
    assert!(left(10, BLOCK) && !left(11, BLOCK) && left(12, BLOCK));
    assert_eq!(read(&held_there).unwrap(), content(1, BLOCK));
    // No longer held, no longer pinned: gone.
    drop((held_here, held_there, held_partial));
    for number in [2, 3, 12] {
        cache.unpin(Some(&key(number)), "").unwrap();
    }
    let report = cache.gc(Some(0)).unwrap();
    assert_eq!(report.used, 0);
    assert_eq!(really_used(dir.path()), 0);
}

#[test]
fn an_object_larger_than_the_quota_streams_through() {
    let dir = tempfile::tempdir().unwrap();
    let cache = limited(dir.path(), 4 * MIB);
    fill_and_drop(&cache, 1, BLOCK);
    let size = 8 * MIB;
    let object = cache.object(key(2), size);
    let data = content(2, size);
    let mut buf = vec![0; BLOCK as usize];
    for at in (0..size).step_by(BLOCK as usize) {
        let range = at as usize..(at + BLOCK) as usize;
        let mut fill = object.try_claim(at..at + BLOCK).unwrap();
        fill.push(&data[range.clone()]).unwrap();
        fill.finish().unwrap();
        assert_eq!(object.read_at(at, &mut buf), Some(buf.len()));
        assert_eq!(buf, data[range]);
    }
    let stats = cache.stats();
    assert_eq!(stats.unkept_bytes, size);
    assert_eq!(stats.troubles, 0);
    assert_eq!(cache.object(key(1), BLOCK).missing(0..BLOCK), []);
}

#[test]
fn when_all_is_open_what_comes_is_served_and_not_kept() {
    let dir = tempfile::tempdir().unwrap();
    let cache = limited(dir.path(), 5 * MIB);
    let objects: Vec<_> = (0..9).map(|n| cache.object(key(n), BLOCK)).collect();
    for (number, object) in (0..).zip(&objects) {
        let data = content(number, BLOCK);
        fill(object, &data);
        assert_eq!(read(object).unwrap(), data);
    }
    for (number, object) in (0..).zip(&objects) {
        assert_eq!(read(object).unwrap(), content(number, BLOCK));
    }
    assert!(really_used(dir.path()) <= 5 * MIB);
    assert!(cache.stats().unkept_bytes >= 4 * MIB);
}

#[test]
fn the_floor_of_free_space_is_kept() {
    let dir = tempfile::tempdir().unwrap();
    let cache = Cache::open(Config {
        min_free: Some(u64::MAX / 4),
        ..config(dir.path())
    })
    .unwrap();
    for (number, size) in [(1, 2 * BLOCK), (2, 100)] {
        fill_and_drop(&cache, number, size);
    }
    // Small ones are stored, or not, behind those who bring them.
    cache.flush().unwrap();
    assert_eq!(really_used(dir.path()), 0);
    assert_eq!(cache.stats().unkept_bytes, 2 * BLOCK + 100);
}

#[test]
fn more_objects_than_descriptors_can_be_held() {
    let dir = tempfile::tempdir().unwrap();
    let cache = open(dir.path());
    let size = 70_000;
    let objects: Vec<_> = (0..1_500).map(|n| cache.object(key(n), size)).collect();
    for (number, object) in (0..).zip(&objects) {
        fill(object, &content(number, size));
    }
    for (number, object) in (0..).zip(&objects) {
        assert_eq!(read(object).unwrap(), content(number, size));
    }
    // Two each for 512 objects at most; the other tests of this process have some too.
    let open = std::fs::read_dir("/proc/self/fd").unwrap().count();
    assert!(open < 1_200, "{open} descriptors");
    assert_eq!(cache.stats().troubles, 0);
}

#[test]
fn a_small_object_that_is_held_outlives_an_eviction_at_its_birth() {
    let dir = tempfile::tempdir().unwrap();
    for round in 0..40 {
        let cache = limited(dir.path(), 64 * MIB);
        let data = content(round, 9_000);
        let object = cache.object(key(round), 9_000);
        std::thread::scope(|scope| {
            let evicting = scope.spawn(|| cache.gc(Some(0)).unwrap());
            fill(&object, &data);
            evicting.join().unwrap();
        });
        drop(object);
        drop(cache);
        // Not from the first one's memory.
        let cache = limited(dir.path(), 64 * MIB);
        assert_eq!(read(&cache.object(key(round), 9_000)), Some(data));
    }
}

#[test]
fn one_object_is_evicted_and_who_shares_its_content_keeps_it() {
    let dir = tempfile::tempdir().unwrap();
    let cache = open(dir.path());
    let data = content(1, BLOCK);
    let object = |number: u64| cache.object(key(number), BLOCK);
    for number in [1, 2] {
        fill(&object(number), &data);
    }
    wait_for("seals", || cache.stats().blobs == 1);
    wait_for("both", || cache.stats().deduplicated == 1);
    cache.flush().unwrap();
    assert_eq!(cache.evict(&key(9)).unwrap(), Eviction::Absent);

    // Open here, and open elsewhere.
    let held = object(1);
    assert!(read(&held).is_some());
    assert_eq!(cache.evict(&key(1)).unwrap(), Eviction::InUse);
    drop(held);
    cache.pin(&key(1), BLOCK, "one").unwrap();
    assert_eq!(cache.evict(&key(1)).unwrap(), Eviction::Pinned);
    // The other one goes, and the content stays.
    assert_eq!(cache.evict(&key(2)).unwrap(), Eviction::Shared);
    assert_eq!(object(2).present_bytes(), 0);
    assert_eq!(read(&object(1)).unwrap(), data);
    cache.unpin(Some(&key(1)), "").unwrap();
    let other = open(dir.path());
    let held = other.object(key(1), BLOCK);
    assert!(read(&held).is_some());
    assert_eq!(cache.evict(&key(1)).unwrap(), Eviction::InUse);
    drop((held, other));
    assert!(matches!(cache.evict(&key(1)).unwrap(), Eviction::Freed(bytes) if bytes >= BLOCK));
    assert_eq!(cache.evict(&key(1)).unwrap(), Eviction::Absent);

    // A partial, and small ones, whose pack goes with the last of them.
    let partial = object(3);
    let mut claim = partial.try_claim(0..GRAIN).unwrap();
    claim.push(&content(3, BLOCK)[..GRAIN as usize]).unwrap();
    drop((claim, partial));
    for number in [4, 5] {
        fill_and_drop(&cache, number, 100);
    }
    cache.flush().unwrap();
    assert!(matches!(cache.evict(&key(3)).unwrap(), Eviction::Freed(_)));
    assert_eq!(cache.evict(&key(4)).unwrap(), Eviction::Shared);
    assert_eq!(cache.object(key(4), 100).present_bytes(), 0);
    assert!(
        cache
            .object(key(4), 100)
            .read_at(0, &mut [0; 100])
            .is_none()
    );
    assert_eq!(read(&cache.object(key(5), 100)).unwrap(), content(5, 100));
    assert!(matches!(cache.evict(&key(5)).unwrap(), Eviction::Freed(_)));
    assert_eq!((cache.stats().used, really_used(dir.path())), (0, 0));
    // And back.
    fill(&object(1), &data);
    assert_eq!(read(&object(1)).unwrap(), data);
}

#[test]
fn pins_are_listed_counted_and_replaced_under_their_note() {
    let dir = tempfile::tempdir().unwrap();
    {
        let cache = open(dir.path());
        cache.pin(&key(1), 10, "a").unwrap();
        cache.pin(&key(2), 20, "b").unwrap();
        cache.pin(&key(3), 30, "b").unwrap();
    }
    let cache = open(dir.path());
    let stats = cache.stats();
    assert_eq!((stats.pinned, stats.pinned_bytes), (2, 40));
    assert!(cache.is_pinned(&key(3)).unwrap() && !cache.is_pinned(&key(2)).unwrap());
    let first = cache.pins(None, 1).unwrap();
    assert_eq!((first[0].note.as_str(), first[0].size), ("a", 10));
    let second = cache.pins(first.first(), 1).unwrap();
    assert_eq!((second[0].key, second[0].note.as_str()), (key(3), "b"));
    assert!(cache.pins(second.first(), 1).unwrap().is_empty());
    cache.unpin(None, "b").unwrap();
    cache.unpin(Some(&key(1)), "of a newer version").unwrap();
    assert_eq!(cache.stats().pinned, 0);
}
