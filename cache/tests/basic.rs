//! Filling, reading, sealing, packing, opening again.
#![allow(missing_docs, clippy::single_range_in_vec_init)]

mod common;

use std::os::unix::fs::PermissionsExt;
use std::time::Duration;

use common::*;
use svol_cache::{BLOCK, Cache, FillError, GRAIN, SMALL};

/// One of each interesting size.
const SIZES: [u64; 12] = [
    0,
    1,
    GRAIN - 1,
    GRAIN,
    GRAIN + 1,
    SMALL,
    SMALL + 1,
    5 * GRAIN,
    BLOCK,
    BLOCK + 1,
    3 * BLOCK - 1,
    4 * BLOCK + 12_345,
];

#[test]
fn what_is_filled_can_be_read_now_and_after_a_restart() {
    let dir = tempfile::tempdir().unwrap();
    let cache = open(dir.path());
    for (number, size) in (0..).zip(SIZES) {
        let data = content(number, size);
        let object = cache.object(key(number), size);
        assert_eq!(fill_in(&object, &data, 10_000), size);
        assert_eq!(read(&object).unwrap(), data, "size {size}");
        wait_for("digest", || object.digest() == Some(blake3::hash(&data)));
        wait_for("all of it on disk", || object.is_complete());
    }
    assert_eq!(cache.stats().troubles, 0);
    drop(cache);

    let cache = open(dir.path());
    for (number, size) in (0..).zip(SIZES) {
        let data = content(number, size);
        let object = cache.object(key(number), size);
        assert_eq!(object.missing(0..size), []);
        assert_eq!(read(&object).unwrap(), data, "size {size}");
        assert_eq!(object.digest(), Some(blake3::hash(&data)));
        assert!(object.try_claim(0..size).is_none());
    }
    assert_eq!(
        files_of(dir.path(), "partial"),
        [] as [std::path::PathBuf; 0]
    );
    assert_eq!(cache.stats().healed, 0);
    let stats = cache.stats();
    assert_eq!(stats.used, really_used(dir.path()));
}

#[test]
fn a_part_can_be_read_as_soon_as_it_is_there() {
    let dir = tempfile::tempdir().unwrap();
    let cache = open(dir.path());
    let size = 4 * BLOCK + 5;
    let data = content(1, size);
    let object = cache.object(key(1), size);
    let mut buf = vec![0; GRAIN as usize];
    assert_eq!(object.read_at(0, &mut buf), None);
    let mut fill = object.try_claim(BLOCK..2 * BLOCK).unwrap();
    assert!(object.try_claim(2 * BLOCK - 1..3 * BLOCK).is_none());
    assert!(object.try_claim(2 * BLOCK..3 * BLOCK).is_some());
    let first = BLOCK as usize;
    fill.push(&data[first..first + 100_000]).unwrap();
    assert_eq!(object.read_at(BLOCK, &mut buf), Some(GRAIN as usize));
    assert_eq!(buf, data[first..first + GRAIN as usize]);
    // Not yet whole: the grain that the next push will complete.
    assert_eq!(object.read_at(BLOCK + 100_000, &mut buf), None);
    assert_eq!(object.present_bytes(), 6 * GRAIN);
    assert_eq!(
        object.missing(BLOCK..BLOCK + 7 * GRAIN),
        [BLOCK + 6 * GRAIN..BLOCK + 7 * GRAIN]
    );
    assert_eq!(
        fill.push(&vec![0; BLOCK as usize]),
        Err(FillError::Overrun { surplus: 100_000 })
    );
    // Given up: what came stays, the rest can be claimed.
    drop(fill);
    assert!(object.try_claim(BLOCK..2 * BLOCK).is_none());
    let rest = object.missing(BLOCK..2 * BLOCK);
    assert_eq!(rest, [BLOCK + 6 * GRAIN..2 * BLOCK]);
    let fill = object.try_claim(rest[0].clone()).unwrap();
    assert_eq!(
        fill.finish(),
        Err(FillError::Short {
            missing: BLOCK - 6 * GRAIN
        })
    );
    // The last grain is short, and can be had alone.
    let mut fill = object.try_claim(size - 1..size).unwrap();
    assert_eq!(fill.range(), 4 * BLOCK..size);
    fill.push(&data[4 * BLOCK as usize..]).unwrap();
    fill.finish().unwrap();
    assert_eq!(object.read_at(size - 3, &mut buf), Some(3));
    assert_eq!(buf[..3], data[size as usize - 3..]);
    assert_eq!(object.read_at(size, &mut buf), Some(0));
    assert_eq!(object.read_at(u64::MAX, &mut buf), Some(0));
}

#[test]
fn a_partial_survives_a_restart_and_is_completed_and_sealed() {
    let dir = tempfile::tempdir().unwrap();
    let size = 3 * BLOCK + 77;
    let data = content(1, size);
    {
        let cache = open(dir.path());
        let object = cache.object(key(1), size);
        let mut fill = object.try_claim(BLOCK..2 * BLOCK).unwrap();
        fill.push(&data[BLOCK as usize..2 * BLOCK as usize])
            .unwrap();
        fill.finish().unwrap();
        assert!(object.digest().is_none() && object.sealed_file().is_none());
    }
    let cache = open(dir.path());
    let object = cache.object(key(1), size);
    assert_eq!(object.missing(0..size), [0..BLOCK, 2 * BLOCK..size]);
    assert_eq!(fill(&object, &data), size - BLOCK);
    wait_for("seal", || object.sealed_file().is_some());
    let sealed = object.sealed_file().unwrap();
    assert_eq!(sealed.digest(), blake3::hash(&data));
    assert_eq!(read(&object).unwrap(), data);
    let blobs = files_of(dir.path(), "blob");
    assert_eq!(blobs.len(), 2);
    let blob = std::fs::metadata(&blobs[0]).unwrap();
    assert_eq!(blob.len(), size);
    assert_eq!(blob.permissions().mode() & 0o777, 0o400);
    assert_eq!(std::fs::read(&blobs[0]).unwrap(), data);

    // Touched from outside: not passed through, until it is sealed again.
    let file = std::fs::File::options()
        .write(true)
        .open(&blobs[0])
        .unwrap();
    file.set_modified(std::time::SystemTime::now()).unwrap();
    drop(sealed);
    assert!(object.sealed_file().is_none());
    wait_for("new seal", || object.sealed_file().is_some());
}

#[test]
fn equal_content_is_kept_once() {
    let dir = tempfile::tempdir().unwrap();
    let cache = open(dir.path());
    for size in [1_000, 2 * BLOCK] {
        let data = content(size, size);
        let objects: Vec<_> = (0..3)
            .map(|number| cache.object(key(size + number), size))
            .collect();
        for object in &objects {
            fill(object, &data);
            wait_for("digest", || object.digest().is_some());
            cache.flush().unwrap();
        }
        for object in &objects {
            assert_eq!(read(object).unwrap(), data);
        }
    }
    // The last one's partial goes a moment after its blob was found to be there.
    wait_for("right account", || {
        cache.stats().used == really_used(dir.path())
    });
    let stats = cache.stats();
    assert_eq!((stats.blobs, stats.packed, stats.objects), (1, 1, 6));
    assert_eq!(stats.deduplicated, 2);
    assert_eq!(files_of(dir.path(), "partial").len(), 0);
}

#[test]
fn many_small_objects_share_a_pack() {
    let dir = tempfile::tempdir().unwrap();
    let cache = open(dir.path());
    for number in 0..500 {
        let object = cache.object(key(number), 1_000 + number);
        fill(&object, &content(number, 1_000 + number));
    }
    cache.flush().unwrap();
    assert_eq!(files_of(dir.path(), "pack").len(), 1);
    drop(cache);
    let cache = open(dir.path());
    for number in 0..500 {
        let object = cache.object(key(number), 1_000 + number);
        assert_eq!(read(&object).unwrap(), content(number, 1_000 + number));
    }
    // The pack is gone on with.
    let object = cache.object(key(1_000), 10);
    fill(&object, &content(1_000, 10));
    cache.flush().unwrap();
    assert_eq!(files_of(dir.path(), "pack").len(), 1);
}

#[test]
fn a_cache_in_memory_serves_and_forgets() {
    let cache = Cache::in_memory(8 * MIB);
    let data = content(1, 2 * MIB);
    let object = cache.object(key(1), 2 * MIB);
    fill(&object, &data);
    assert_eq!(read(&object).unwrap(), data);
    assert_eq!(object.present_bytes(), 0);
    for number in 2..8 {
        let other = cache.object(key(number), 2 * MIB);
        fill_in(&other, &content(number, 2 * MIB), 1 << 20);
        assert!(cache.stats().memory_used <= 8 * MIB);
    }
    assert!(read(&object).is_none());
    assert_eq!(cache.stats().unkept_bytes, 14 * MIB);
}

#[test]
fn waiters_are_woken_by_bytes_and_do_not_wait_for_ever() {
    let dir = tempfile::tempdir().unwrap();
    let cache = open(dir.path());
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .build()
        .unwrap();
    let object = cache.object(key(1), BLOCK);
    let data = content(1, BLOCK);
    let mut watch = object.watch();
    fill(&object, &data);
    runtime.block_on(async {
        // Overlooked by nobody, though it happened before the wait.
        tokio::time::timeout(Duration::from_micros(900), watch.changed())
            .await
            .unwrap();
        // Nothing more happens: a bounded pause.
        tokio::time::timeout(Duration::from_secs(1), watch.changed())
            .await
            .unwrap();
    });
}

#[test]
fn close_stops_writing_but_not_reading() {
    let dir = tempfile::tempdir().unwrap();
    let cache = open(dir.path());
    let object = cache.object(key(1), 3 * BLOCK);
    let data = content(1, 3 * BLOCK);
    fill(&object, &data);
    let runtime = tokio::runtime::Builder::new_current_thread()
        .build()
        .unwrap();
    runtime.block_on(cache.close());
    assert_eq!(read(&object).unwrap(), data);
    let late = cache.object(key(2), BLOCK);
    let data = content(2, BLOCK);
    fill(&late, &data);
    assert_eq!(read(&late).unwrap(), data);
}

#[test]
fn what_is_discarded_is_missing_again_and_can_be_brought_anew() {
    let dir = tempfile::tempdir().unwrap();
    let cache = open(dir.path());
    for (number, size) in (0..).zip(SIZES).filter(|(_, size)| *size > 0) {
        let object = cache.object(key(number), size);
        fill_in(&object, &content(number, size), 10_000);
        wait_for("digest", || object.digest().is_some());
        object.discard();
        assert_eq!(object.missing(0..size), [0..size], "size {size}");
        assert!(read(&object).is_none());
        // In part, not yet sealed.
        let right = content(number + 100, size);
        if size > SMALL {
            let mut fill = object.try_claim(0..GRAIN).unwrap();
            fill.push(&right[..GRAIN as usize]).unwrap();
            fill.finish().unwrap();
            object.discard();
            assert_eq!(object.missing(0..size), [0..size], "size {size}");
        }
        fill_in(&object, &right, 10_000);
        assert_eq!(read(&object).unwrap(), right);
        wait_for("digest", || object.digest() == Some(blake3::hash(&right)));
    }
}
