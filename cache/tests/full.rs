//! Disks that are full, or become read-only: readers get their bytes all the same.
//!
//! Each test mounts a small tmpfs, seen by its own threads alone and gone with them. Where that is
//! not allowed (it takes root), it says so and passes.
#![allow(missing_docs)]

mod common;

use std::fs;
use std::path::Path;

use common::*;
use rustix::mount::{MountFlags, MountPropagationFlags, mount, mount_change, mount_remount};
use svol_cache::{BLOCK, Cache, Config, GRAIN};

/// Mounts a tmpfs of so many bytes, for this thread and those it starts.
fn small_disk(bytes: u64) -> Option<tempfile::TempDir> {
    let dir = tempfile::tempdir().unwrap();
    // SAFETY: takes no pointers, and affects only which mounts this thread sees.
    if unsafe { libc::unshare(libc::CLONE_NEWNS) } != 0 {
        eprintln!(
            "SKIPPED: no mount namespace: {}",
            std::io::Error::last_os_error()
        );
        return None;
    }
    let private = MountPropagationFlags::PRIVATE | MountPropagationFlags::REC;
    let options = format!("size={bytes},mode=0700");
    let options = std::ffi::CString::new(options).unwrap();
    let mounted = mount_change("/", private)
        .and_then(|()| mount("tmpfs", dir.path(), "tmpfs", MountFlags::empty(), &*options));
    if let Err(error) = mounted {
        eprintln!("SKIPPED: no tmpfs: {error}");
        return None;
    }
    Some(dir)
}

fn roomy(dir: &Path) -> Cache {
    open(dir)
}

fn serve(cache: &Cache, numbers: std::ops::Range<u64>) {
    for number in numbers {
        for (key, size) in [(key(number), BLOCK + 99), (key(number + 10_000), 9_000)] {
            let object = cache.object(key, size);
            let data = content(number, size);
            assert!(read_or_fill(&object, &data) == data);
        }
    }
}

#[test]
fn a_disk_that_somebody_else_fills_up() {
    let Some(dir) = small_disk(10 << 20) else {
        return;
    };
    let cache = roomy(dir.path());
    serve(&cache, 0..3);
    let held = cache.object(key(0), BLOCK + 99);
    assert!(read(&held).is_some());
    // Behind the back of the account, to the last byte.
    let hog = dir.path().join("hog");
    let mut written = 0;
    let file = fs::File::create(&hog).unwrap();
    use std::os::unix::fs::FileExt;
    while file.write_all_at(&[1; 4096], written).is_ok() {
        written += 4096;
    }
    serve(&cache, 100..140);
    assert_eq!(read(&held).unwrap(), content(0, BLOCK + 99));
    let stats = cache.stats();
    assert!(stats.unkept_bytes > 20 * BLOCK, "{stats:?}");
    assert!(stats.memory_used <= stats.memory_limit);
    // Room again: kept again.
    drop(file);
    fs::remove_file(&hog).unwrap();
    wait_for("room", || {
        serve(&cache, 200..201);
        cache.object(key(200), BLOCK + 99).present_bytes() > 0 || {
            // What memory holds is not brought again; push it out.
            serve(&cache, 300..370);
            false
        }
    });
    assert_eq!(cache.stats().healed, 0);
    assert!(cache.verify(|_| {}).unwrap().is_clean());
    drop((held, cache));
    let cache = roomy(dir.path());
    serve(&cache, 0..5);
    cache.gc(None).unwrap();
    assert_eq!(cache.stats().used, really_used(dir.path()));
}

#[test]
fn a_disk_smaller_than_the_quota_evicts_to_its_floor() {
    let Some(dir) = small_disk(16 << 20) else {
        return;
    };
    let cache = Cache::open(Config {
        min_free: Some(4 << 20),
        ..config(dir.path())
    })
    .unwrap();
    serve(&cache, 0..40);
    let stats = cache.stats();
    assert!(stats.evicted_bytes > 8 << 20, "{stats:?}");
    // The index is not counted, and takes some too.
    assert!(stats.free + (1 << 20) > 4 << 20, "{stats:?}");
    assert_eq!(stats.troubles, 0);
}

#[test]
fn a_disk_that_becomes_read_only() {
    let Some(dir) = small_disk(64 << 20) else {
        return;
    };
    let cache = roomy(dir.path());
    serve(&cache, 0..3);
    let object = cache.object(key(50), 3 * BLOCK);
    let mut fill = object.try_claim(0..GRAIN).unwrap();
    fill.push(&content(50, GRAIN)).unwrap();
    fill.finish().unwrap();
    cache.flush().unwrap();
    drop(object);
    drop(cache);
    let remounted = mount_remount(dir.path(), MountFlags::RDONLY, "");
    remounted.unwrap();
    // To open one anew is an error that can be told to a user, who may go on in memory.
    assert!(Cache::open(config(dir.path())).is_err());
    mount_remount(dir.path(), MountFlags::empty(), "").unwrap();
    let cache = roomy(dir.path());
    serve(&cache, 0..1);
    wait_for("end of sealing", || cache.flush().is_ok());
    // Writers that have a file open keep a disk from becoming read-only, so its files are made so
    // that nothing can be created.
    let object = cache.object(key(50), 3 * BLOCK);
    let root = dir.path().join("v1");
    for name in ["partial", "blob", "pack"] {
        let target = root.join(name);
        rustix::mount::mount_bind(&target, &target).unwrap();
        rustix::mount::mount_remount(&target, MountFlags::BIND | MountFlags::RDONLY, "").unwrap();
    }
    serve(&cache, 0..20);
    let data = content(50, 3 * BLOCK);
    assert!(read_or_fill(&object, &data) == data);
    assert!(cache.stats().troubles > 0);
    assert!(cache.stats().unkept_bytes > 10 * BLOCK);
}
