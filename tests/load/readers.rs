//! Many readers of one file, in one daemon and in two that share a cache.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::sync::Barrier;

use crate::MIB;
use crate::bucket::{Bucket, Shape, big_content};
use crate::common::mount::{Mount, Place};

const READERS: u64 = 64;

fn bucket(size: u64) -> Bucket {
    Bucket::start(Shape {
        flat: 0,
        dirs: 0,
        files: 0,
        big: 1,
        big_size: size,
    })
}

/// Lets 64 readers, shared out among the mounts, read all of the file at once, each from a place of
/// its own.
fn read_from_everywhere(mounts: &[&Mount], size: u64) {
    let barrier = Barrier::new(READERS as usize);
    std::thread::scope(|scope| {
        for reader in 0..READERS {
            let (barrier, mount) = (&barrier, mounts[reader as usize % mounts.len()]);
            scope.spawn(move || {
                let file = File::open(mount.path("b00000")).unwrap();
                barrier.wait();
                let start = reader * size / READERS;
                for range in [start..size, 0..start] {
                    let mut buf = vec![0; (range.end - range.start) as usize];
                    file.read_exact_at(&mut buf, range.start).unwrap();
                    assert!(buf == big_content(0, range.clone()), "{range:?}");
                }
            });
        }
    });
}

#[test]
fn sixty_four_readers_fetch_a_file_once() {
    let size = 8 * MIB;
    let (place, bucket) = (Place::new(), bucket(size));
    let args = bucket.args("big");
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    let mount = place.mount(&args);
    read_from_everywhere(&[&mount], size);
    assert_eq!(bucket.bytes(), size, "in {} requests", bucket.gets());
}

#[test]
fn sixty_four_readers_of_two_daemons_fetch_a_file_once() {
    let size = 8 * MIB;
    let (place, bucket) = (Place::new(), bucket(size));
    let args = bucket.args("big");
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    let (one, two) = (
        place.mount_with("one", &args, |_| {}),
        place.mount_with("two", &args, |_| {}),
    );
    read_from_everywhere(&[&one, &two], size);
    assert_eq!(bucket.bytes(), size, "in {} requests", bucket.gets());
}
