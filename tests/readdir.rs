//! Reading directories: small buffers, seeking, and changes while one reads.

mod common;

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::mem::MaybeUninit;
use std::os::fd::AsFd;

use common::mount::{Mount, Place};
use common::store::Store;
use rustix::fs::RawDir;

fn store_mount(place: &Place, store: &Store) -> Mount {
    place.mount(&[&store.tree()])
}

/// Reads a directory with a buffer of so many bytes; returns names and where the next one is.
fn raw_read(dir: impl AsFd, buffer: usize) -> Vec<(String, u64)> {
    let mut space = vec![MaybeUninit::uninit(); buffer];
    let mut entries = RawDir::new(dir, &mut space);
    let mut found = Vec::new();
    while let Some(entry) = entries.next() {
        let entry = entry.unwrap();
        let name = entry.file_name().to_str().unwrap().to_owned();
        found.push((name, entry.next_entry_cookie()));
    }
    found
}

#[test]
fn directories_read_the_same_whatever_the_buffer_and_where_one_begins() {
    const FILES: usize = 700;
    let place = Place::new();
    let store = Store::start();
    for i in 0..FILES {
        store.put(
            &format!("many/a-rather-long-name-of-a-file-{i:04}"),
            vec![0; i % 7],
        );
    }
    let mount = store_mount(&place, &store);
    let open = || std::fs::File::open(mount.path("many")).unwrap();
    let all = raw_read(open(), 64 << 10);
    assert_eq!(all.len(), FILES + 2);
    let unique: BTreeSet<&String> = all.iter().map(|(name, _)| name).collect();
    assert_eq!(unique.len(), FILES + 2);
    assert_eq!((all[0].0.as_str(), all[1].0.as_str()), (".", ".."));
    for buffer in [80, 200, 1000, 4096] {
        assert_eq!(raw_read(open(), buffer), all, "buffer of {buffer}");
    }
    // seekdir to where an earlier entry said that the next one is, in any order.
    let dir = open();
    for at in [500, 3, 699, 0, 250] {
        let cookie = all[at].1;
        rustix::fs::seek(&dir, rustix::fs::SeekFrom::Start(cookie)).unwrap();
        assert_eq!(raw_read(&dir, 4096), all[at + 1..], "after {at}");
    }
    // A second process's view of the offsets is the same: they are no pointers.
    let other = open();
    rustix::fs::seek(&other, rustix::fs::SeekFrom::Start(all[100].1)).unwrap();
    assert_eq!(raw_read(&other, 300), all[101..]);
    // Half-read, changed meanwhile: nothing twice, nothing lost that was there all the time.
    let half = open();
    let mut space = vec![MaybeUninit::uninit(); 1000];
    let mut begun = BTreeSet::new();
    let mut reading = RawDir::new(&half, &mut space);
    for _ in 0..10 {
        assert!(begun.insert(reading.next().unwrap().unwrap().file_name().to_owned()));
    }
    store.put("many/a-first-of-all", Vec::new());
    store.remove("many/a-rather-long-name-of-a-file-0300");
    place.ok([OsStr::new("refresh"), mount.path("many").as_os_str()]);
    while let Some(entry) = reading.next() {
        let name = entry.unwrap().file_name().to_owned();
        assert!(begun.insert(name.clone()), "{name:?} twice");
    }
    for i in (0..FILES).filter(|i| *i != 300) {
        let name = format!("a-rather-long-name-of-a-file-{i:04}");
        assert!(
            begun.contains(&*std::ffi::CString::new(name.clone()).unwrap()),
            "{name} lost"
        );
    }
    // Rewound, it is read as it is now.
    rustix::fs::seek(&half, rustix::fs::SeekFrom::Start(0)).unwrap();
    let now: Vec<String> = raw_read(&half, 4096).into_iter().map(|e| e.0).collect();
    assert!(now.contains(&"a-first-of-all".to_owned()));
    assert!(!now.contains(&"a-rather-long-name-of-a-file-0300".to_owned()));
    assert_eq!(now.len(), FILES + 2);
}

/// Names in the order of their listing.
fn name(i: usize) -> String {
    format!("a-rather-long-name-of-a-file-{i:04}")
}

#[test]
fn a_half_read_directory_that_another_reads_anew_loses_and_repeats_nothing() {
    const FILES: usize = 700;
    type Change = fn(&Store);
    let changes: [(&str, Change); 4] = [
        ("one less before", |s| {
            s.remove(&format!("many/{}", name(3)))
        }),
        ("one more before", |s| {
            s.put("many/a-first-of-all", Vec::new())
        }),
        ("many less before", |s| {
            for i in 0..50 {
                s.remove(&format!("many/{}", name(i)));
            }
        }),
        ("the last read and others", |s| {
            for i in 80..120 {
                s.remove(&format!("many/{}", name(i)));
            }
            for i in 0..20 {
                s.put(&format!("many/a-new-{i}"), Vec::new());
            }
        }),
    ];
    for (what, change) in changes {
        let place = Place::new();
        let store = Store::start();
        for i in 0..FILES {
            store.put(&format!("many/{}", name(i)), vec![0; i % 7]);
        }
        let mount = store_mount(&place, &store);
        let open = || std::fs::File::open(mount.path("many")).unwrap();
        // The kernel now keeps the listing.
        assert_eq!(raw_read(open(), 64 << 10).len(), FILES + 2);
        let half = open();
        let mut space = vec![MaybeUninit::uninit(); 1000];
        let mut reading = RawDir::new(&half, &mut space);
        let mut found: Vec<String> = Vec::new();
        let next = |reading: &mut RawDir<'_, &std::fs::File>| {
            let entry = reading.next()?.unwrap();
            Some(entry.file_name().to_str().unwrap().to_owned())
        };
        while found.len() < 102 {
            found.push(next(&mut reading).unwrap());
        }
        change(&store);
        place.ok([OsStr::new("refresh"), mount.path("many").as_os_str()]);
        // And now it keeps another one, which the first reader is not to get into.
        let now: BTreeSet<String> = raw_read(open(), 64 << 10)
            .into_iter()
            .map(|e| e.0)
            .collect();
        while let Some(name) = next(&mut reading) {
            found.push(name);
        }
        let unique: BTreeSet<String> = found.iter().cloned().collect();
        assert_eq!(unique.len(), found.len(), "{what}: something came twice");
        let stayed = (0..FILES).map(name).filter(|n| now.contains(n));
        for name in stayed {
            assert!(unique.contains(&name), "{what}: {name} lost");
        }
        assert_eq!(raw_read(open(), 300).len(), now.len(), "{what}");
    }
}

#[test]
fn a_reader_of_an_older_listing_brings_no_old_names_back() {
    const FILES: usize = 700;
    let place = Place::new();
    let store = Store::start();
    for i in 0..FILES {
        store.put(&format!("many/{}", name(i)), vec![0; 10]);
    }
    let mount = store_mount(&place, &store);
    let path = |i: usize| mount.path("many").join(name(i));
    let half = std::fs::File::open(mount.path("many")).unwrap();
    let mut space = vec![MaybeUninit::uninit(); 1000];
    let mut reading = RawDir::new(&half, &mut space);
    for _ in 0..20 {
        reading.next().unwrap().unwrap();
    }
    for i in (100..FILES).step_by(2) {
        store.remove(&format!("many/{}", name(i)));
        store.put(&format!("many/{}", name(i + 1)), vec![0; 20]);
    }
    place.ok([OsStr::new("refresh"), mount.path("many").as_os_str()]);
    // Looking at names as they come makes the kernel ask for their attributes with the rest.
    let mut i = 0;
    while let Some(entry) = reading.next() {
        entry.unwrap();
        i = (i + 1) % 100;
        assert_eq!(path(i).metadata().unwrap().len(), 10);
    }
    for i in (100..FILES).step_by(2) {
        let gone = path(i).metadata().map(|m| m.len()).map_err(|e| e.kind());
        assert_eq!(gone, Err(std::io::ErrorKind::NotFound), "{i}");
        assert_eq!(path(i + 1).metadata().unwrap().len(), 20, "{i}");
    }
}
