//! A wall clock that jumps under the daemon, and between two daemons of one cache.

mod common;

use std::path::{Path, PathBuf};
use std::time::Duration;

use common::mount::{Mount, Place};
use common::store::Store;
use common::{noise, wait_until};

/// The library that shows another time to one process. It reads what to show from a file.
fn library() -> PathBuf {
    let base = Path::new("/usr/lib");
    let mut places: Vec<PathBuf> = base
        .read_dir()
        .unwrap()
        .map(|dir| dir.unwrap().path().join("faketime/libfaketimeMT.so.1"))
        .collect();
    places.retain(|path| path.exists());
    places
        .pop()
        .expect("no libfaketimeMT.so.1 (Debian's package faketime): tests/setup.sh installs it")
}

/// A mount whose daemon's clock is off by what `set` says.
struct Clock {
    file: PathBuf,
}

impl Clock {
    fn new(place: &Place) -> Clock {
        let clock = Clock {
            file: place.path("clock"),
        };
        clock.set("+0");
        clock
    }

    fn set(&self, offset: &str) {
        let aside = self.file.with_extension("aside");
        std::fs::write(&aside, offset).unwrap();
        std::fs::rename(&aside, &self.file).unwrap();
    }

    fn mount(&self, place: &Place, args: &[&str]) -> Mount {
        place.mount_with("mnt", args, |command| {
            command
                .env("LD_PRELOAD", library())
                .env("FAKETIME_TIMESTAMP_FILE", &self.file)
                .env("FAKETIME_NO_CACHE", "1")
                .env("FAKETIME_DONT_FAKE_MONOTONIC", "1");
        })
    }
}

const LONG_AGO: u64 = 1_500_000_000;

#[test]
fn a_clock_that_jumps_hides_no_change() {
    let place = Place::new();
    let store = Store::start();
    // Without ETags each version stays a weak one, and an open asks for it again.
    store.without_etags();
    let version = |n: u64| noise(n, 100_000 + n as usize);
    store.put_at("f", version(1), LONG_AGO);
    let clock = Clock::new(&place);
    let mount = clock.mount(&place, &["--revalidate", "1s", &store.tree()]);
    assert!(mount.read("f") == version(1));

    for (n, jump) in (2..).zip(["-400d", "+400d", "-1h", "+0"]) {
        clock.set(jump);
        store.put_at("f", version(n), LONG_AGO);
        std::thread::sleep(Duration::from_millis(2200));
        assert!(mount.read("f") == version(n), "after a jump to {jump}");
        assert!(mount.read("f") == version(n), "again, after {jump}");
    }
}

#[test]
fn what_was_listed_in_the_future_is_listed_again() {
    let place = Place::new();
    let store = Store::start();
    store.put_at("old", noise(1, 10), LONG_AGO);
    let clock = Clock::new(&place);
    clock.set("+400d");
    let tree = store.tree();
    let args = ["--refresh", "1s", &tree];
    let mount = clock.mount(&place, &args);
    assert!(mount.read("old") == noise(1, 10));
    drop(mount);

    // The same cache, with the clock put right.
    clock.set("+0");
    let mount = clock.mount(&place, &args);
    assert!(mount.read("old") == noise(1, 10));
    store.put_at("new", noise(2, 10), LONG_AGO);
    wait_until("the new file shows", || mount.path("new").exists());
    assert!(mount.read("new") == noise(2, 10));
}
