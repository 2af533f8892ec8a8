//! An index that is behind its files, as a power cut leaves it: what is on disk is accounted for
//! soon, without anybody's asking, and what was complete need not be fetched again.
#![allow(missing_docs)]

mod common;

use std::fs;
use std::path::Path;

use common::*;
use svol_cache::{BLOCK, Cache, Config};

const SIZE: u64 = BLOCK + 5_000;

/// Fills some objects, half of them complete, after the index was remembered; then puts the index
/// back.
fn leave_behind(dir: &Path) {
    drop(open(dir));
    let index = |name: &str| dir.join("v1").join(name);
    let names = ["index.db", "index.db-wal"];
    let old = names.map(|name| fs::read(index(name)).ok());
    {
        let cache = open(dir);
        for number in 0..10 {
            let object = cache.object(key(number), SIZE);
            let data = content(number, SIZE);
            if number % 2 == 0 {
                fill(&object, &data);
                wait_for("seal", || object.sealed_file().is_some());
            } else {
                let mut half = object.try_claim(0..BLOCK).unwrap();
                half.push(&data[..BLOCK as usize]).unwrap();
            }
        }
        fill(&cache.object(key(50), 3_000), &content(50, 3_000));
        cache.flush().unwrap();
    }
    for (name, old) in names.iter().zip(old) {
        match old {
            Some(old) => fs::write(index(name), old).unwrap(),
            None => fs::remove_file(index(name)).unwrap(),
        }
    }
    let _ = fs::remove_file(index("index.db-shm"));
}

#[test]
fn what_the_index_does_not_know_is_taken_in_again() {
    let dir = tempfile::tempdir().unwrap();
    leave_behind(dir.path());
    let cache = open(dir.path());
    wait_for("account", || {
        let used = cache.stats().used;
        used > 5 * SIZE && used == really_used(dir.path())
    });
    for number in 0..10 {
        let object = cache.object(key(number), SIZE);
        let here = if number % 2 == 0 { SIZE } else { BLOCK };
        assert_eq!(object.present_bytes(), here, "object {number}");
        assert_eq!(
            read_or_fill(&object, &content(number, SIZE)),
            content(number, SIZE)
        );
        wait_for("seal", || object.sealed_file().is_some());
    }
    // Whose a packed content is, only the index knew.
    assert_eq!(files_of(dir.path(), "pack"), [] as [&Path; 0]);
    let small = cache.object(key(50), 3_000);
    assert_eq!(
        read_or_fill(&small, &content(50, 3_000)),
        content(50, 3_000)
    );
    cache.flush().unwrap();
    assert!(cache.verify(|_| {}).unwrap().is_clean());
    assert_eq!(cache.stats().healed, 0);
    assert_eq!(cache.gc(None).unwrap().used, really_used(dir.path()));
}

#[test]
fn what_the_index_does_not_know_is_evicted_too() {
    let dir = tempfile::tempdir().unwrap();
    leave_behind(dir.path());
    let limit = 4 * SIZE;
    let _cache = Cache::open(Config {
        limit: Some(limit),
        ..config(dir.path())
    })
    .unwrap();
    wait_for("eviction", || really_used(dir.path()) <= limit);
}

#[test]
fn a_seal_that_was_interrupted_is_completed_by_gc() {
    let dir = tempfile::tempdir().unwrap();
    let data = content(1, SIZE);
    let name = {
        let cache = open(dir.path());
        let object = cache.object(key(1), SIZE);
        fill(&object, &data);
        wait_for("seal", || object.sealed_file().is_some());
        object.digest().unwrap().to_hex().to_string()
    };
    // As between the two renames.
    let blob = dir.path().join("v1/blob").join(&name[..2]).join(name);
    let key_name = key(1).to_string();
    let partial = dir.path().join("v1/partial").join(&key_name[..2]);
    fs::rename(&blob, partial.join(&key_name)).unwrap();
    let cache = open(dir.path());
    cache.gc(None).unwrap();
    assert!(blob.exists());
    assert_eq!(read(&cache.object(key(1), SIZE)).unwrap(), data);
}
