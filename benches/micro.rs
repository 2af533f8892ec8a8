//! The hot path's parts, each alone. `make bench-micro`, or `cargo bench --bench micro -- NAME`.
//!
//! With divan: an attribute a benchmark, threads and throughput built in, and four small crates
//! where criterion brings plots and statistics that ratios on one noisy machine do not need.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use divan::counter::{BytesCount, ItemsCount};
use divan::{Bencher, black_box};
use svol::catalogue::{Catalogue, Db, Memory, Policy};
use svol::entry::{Entry, Timestamp, Version};
use svol::fetch::window::Window;
use svol::fetch::{Fetcher, plan};
use svol::namespace::{Layer, Namespace};
use svol::path::Name;
use svol::rows::{Packer, Room, Row, Rows};
use svol::source::memory::MemorySource;
use svol::vfs::{LayerPolicy, Owner, ROOT, Vfs};
use svol_cache::{Cache, Config, Object, ObjectKey};

fn main() {
    // `cargo test --benches` starts benchmarks too, to see whether they do.
    if std::env::args().any(|arg| arg == "--bench") {
        divan::main();
    }
}

const MIB: u64 = 1 << 20;

/// A new cache in a directory of its own.
fn cache(dir: &Path) -> Cache {
    let mut config = Config::new(dir);
    config.limit = Some(64 << 30);
    config.min_free = Some(0);
    Cache::open(config).unwrap()
}

/// A directory on the disk that caches are on, not in memory.
fn directory() -> tempfile::TempDir {
    tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap()
}

/// Brings all of an object.
fn fill(object: &Object, bytes: &[u8]) {
    let mut claim = object.try_claim(0..object.size()).unwrap();
    claim.push(bytes).unwrap();
    claim.finish().unwrap();
}

fn key(n: u64) -> ObjectKey {
    ObjectKey::from(blake3::hash(&n.to_le_bytes()))
}

/// A hit: bytes of a complete object, by as many threads as ask the kernel's queue.
#[divan::bench(args = [4 << 10, 128 << 10, 1 << 20], threads = [1, 2])]
fn hit_read_at(bencher: Bencher<'_, '_>, size: usize) {
    let dir = directory();
    let cache = cache(dir.path());
    let object = cache.object(key(0), 64 * MIB);
    fill(&object, &vec![7; 64 << 20]);
    let at = AtomicU64::new(0);
    bencher
        .counter(BytesCount::new(size))
        .with_inputs(|| vec![0; size])
        .bench_refs(|buf| {
            let at = at.fetch_add(size as u64, Ordering::Relaxed) % (64 * MIB);
            black_box(object.read_at(at, buf).unwrap())
        });
}

/// What of a range is missing, of an object of which every other block is here.
#[divan::bench]
fn missing_of_1_mib(bencher: Bencher<'_, '_>) {
    let dir = directory();
    let cache = cache(dir.path());
    let object = cache.object(key(0), 64 * MIB);
    for block in (0..64).step_by(2) {
        let range = block * MIB..(block + 1) * MIB;
        let mut claim = object.try_claim(range).unwrap();
        claim.push(&[7; 1 << 20]).unwrap();
        claim.finish().unwrap();
    }
    bencher.bench(|| object.missing(black_box(MIB / 2..3 * MIB / 2)));
}

/// Which requests to make for a window of which some is on its way.
#[divan::bench]
fn plan_requests() -> Vec<std::ops::Range<u64>> {
    let missing = [MIB..9 * MIB, 10 * MIB..18 * MIB];
    let in_flight = [2 * MIB..3 * MIB, 12 * MIB..16 * MIB];
    plan::requests(black_box(&missing), black_box(&in_flight))
}

/// What to fetch ahead, read after read of a file of 1 GiB.
#[divan::bench(args = [128 << 10, 1 << 20])]
fn window_on_read(bencher: Bencher<'_, '_>, size: u64) {
    let reads = 1024 * MIB / size;
    bencher.counter(ItemsCount::new(reads)).bench(|| {
        let mut window = Window::default();
        for n in 0..reads {
            black_box(window.on_read(n * size..(n + 1) * size, 1024 * MIB, 64 * MIB));
        }
    });
}

/// Hashing a grain, a batch of them, a block.
#[divan::bench(args = [16 << 10, 64 << 10, 1 << 20])]
fn hash(bencher: Bencher<'_, '_>, size: usize) {
    let bytes = vec![7; size];
    let hash = || blake3::hash(black_box(&bytes));
    bencher.counter(BytesCount::new(size)).bench(hash);
}

/// Bringing blocks into the cache: hashing, writing, telling the index.
#[divan::bench(args = [1 << 20, 8 << 20], sample_count = 30)]
fn fill_large(bencher: Bencher<'_, '_>, size: u64) {
    let dir = directory();
    let cache = cache(dir.path());
    let bytes = vec![7; size as usize];
    let mut n = 0;
    bencher
        .counter(BytesCount::new(size))
        .with_inputs(|| {
            n += 1;
            cache.object(key(n), size)
        })
        .bench_local_refs(|object| fill(object, &bytes));
}

/// Small objects that come and are told to the index, to the end of the index's transaction.
#[divan::bench(args = [1000], sample_count = 20)]
fn index_insert(bencher: Bencher<'_, '_>, count: u64) {
    let dir = directory();
    let cache = cache(dir.path());
    let mut n = 0;
    bencher.counter(ItemsCount::new(count)).bench_local(|| {
        for _ in 0..count {
            n += 1;
            // Other bytes each, as equal ones are kept once.
            let mut bytes = vec![7; 4096];
            bytes[..8].copy_from_slice(&u64::to_le_bytes(n));
            fill(&cache.object(key(n), 4096), &bytes);
        }
        cache.flush().unwrap();
    });
}

/// A listing of so many files.
fn listing(count: usize, room: Room) -> Rows {
    let mut packer = Packer::new(room);
    for n in 0..count {
        let name = Name::new(&name(n)).unwrap();
        let version = Version::strong(format!("\"{n:032x}\""));
        let time = Some(Timestamp::from_secs(1_700_000_000));
        packer.push(&Row::new(Entry::file(name, 4096, time, version)));
    }
    packer.finish()
}

fn name(n: usize) -> String {
    format!("file-{n:06}.bin")
}

/// Packing a listing.
#[divan::bench(args = [10_000])]
fn listing_pack(bencher: Bencher<'_, '_>, count: usize) {
    let items = bencher.counter(ItemsCount::new(count));
    items.bench(|| listing(count, Room::default()));
}

/// A name looked up in a listing, in memory and put aside on disk.
#[divan::bench(args = [100, 10_000, 100_000], consts = [false, true])]
fn listing_lookup<const ASIDE: bool>(bencher: Bencher<'_, '_>, count: usize) {
    let dir = directory();
    let room = match ASIDE {
        true => Room::new(dir.path(), 4096),
        false => Room::default(),
    };
    let rows = listing(count, room);
    let mut n = 0;
    bencher
        .with_inputs(|| {
            n = (n + 7919) % count;
            name(n)
        })
        .bench_local_refs(|name| rows.get(name).unwrap().unwrap());
}

/// Reading a directory with attributes, as readdirplus does, in replies of so many bytes.
#[divan::bench(args = [4 << 10, 128 << 10])]
fn readdir(bencher: Bencher<'_, '_>, reply: usize) {
    const COUNT: usize = 10_000;
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let dir = directory();
    let source = MemorySource::new("bench");
    for n in 0..COUNT {
        source.put(&name(n), vec![7; 16]);
    }
    let policy = Policy {
        refresh: Some(Duration::from_secs(3600)),
        patience: Duration::from_secs(1),
        memory: Memory::default(),
    };
    let catalogue = Catalogue::new(Db::volatile(), source, policy);
    let layers = vec![Layer::new("bench", catalogue)];
    let policies = vec![LayerPolicy {
        strict: false,
        revalidate: Duration::from_secs(3600),
        deadline: Duration::from_secs(10),
    }];
    let owner = Owner {
        uid: 0,
        gid: 0,
        umask: 0o022,
    };
    let _guard = runtime.enter();
    let vfs = Vfs::new(
        Arc::new(Namespace::new(layers)),
        cache(dir.path()),
        Fetcher::new(),
        runtime.handle().clone(),
        policies,
        owner,
    );
    let opened = runtime.block_on(vfs.opendir(ROOT)).unwrap();
    bencher.counter(ItemsCount::new(COUNT)).bench_local(|| {
        let (mut offset, mut found) = (0, 0);
        loop {
            let (before, from, mut room) = (found, offset, reply);
            let take = |entry: &svol::vfs::DirEntry<'_>| {
                // What a reply spends on it: a head, attributes, the name, padded.
                let cost = (152 + entry.name.len()).next_multiple_of(8);
                if cost > room {
                    return false;
                }
                room -= cost;
                offset = entry.next;
                found += 1;
                black_box(entry.attr.ino);
                true
            };
            vfs.readdir(opened.handle, ROOT, from, false, take).unwrap();
            if found == before {
                break;
            }
        }
        assert_eq!(found, COUNT + 2);
    });
    vfs.releasedir(opened.handle);
}
