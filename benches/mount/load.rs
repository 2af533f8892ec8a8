//! What is timed: reading through a file system, and plain downloads as its floor.

use std::fs::File;
use std::io::Read;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use futures::{StreamExt, TryStreamExt};

use crate::world::{LARGE, SMALL_SIZE, World};

/// What is read at a time, in bytes; the large file is a multiple of it.
pub const CHUNK: usize = 1 << 20;

/// What the direct download asks for in one request, in bytes, and how many go on at once.
const PART: u64 = 8 << 20;
const CONNECTIONS: usize = 8;

/// Returns a sum of `bytes` in which their order counts. No hash: it has to cost next to nothing,
/// and what it is to find is bytes that are missing, stale or in the wrong place.
pub fn sum(bytes: &[u8]) -> u64 {
    let mut lanes = [1u32; 16];
    let blocks = bytes.chunks_exact(64);
    for byte in blocks.remainder() {
        lanes[0] = lanes[0].wrapping_mul(9).wrapping_add(u32::from(*byte));
    }
    for block in blocks {
        for (lane, word) in lanes.iter_mut().zip(block.chunks_exact(4)) {
            let word = u32::from_le_bytes([word[0], word[1], word[2], word[3]]);
            // Nine times itself, by what vector units have.
            *lane = (*lane << 3).wrapping_add(*lane).wrapping_add(word);
        }
    }
    let fold = |sum: u64, lane: &u32| sum.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ u64::from(*lane);
    lanes.iter().fold(bytes.len() as u64, fold)
}

/// Reads a file from its beginning to its end; returns the time it took.
pub fn read_large(path: &Path, truth: &[u64]) -> Duration {
    let mut chunk = vec![0; CHUNK];
    let mut sums = Vec::with_capacity(truth.len());
    let started = Instant::now();
    let mut file = File::open(path).unwrap();
    loop {
        let mut filled = 0;
        while filled < CHUNK {
            match file.read(&mut chunk[filled..]).unwrap() {
                0 => break,
                n => filled += n,
            }
        }
        if filled == 0 {
            break;
        }
        sums.push(sum(&chunk[..filled]));
    }
    let took = started.elapsed();
    assert!(
        sums == truth,
        "{}: not the bytes of its source",
        path.display()
    );
    took
}

/// Walks the small files below `root` and reads all of them; returns the time it took.
pub fn read_small(root: &Path, truth: &[(String, u64)], readers: usize) -> Duration {
    let started = Instant::now();
    let mut files = Vec::with_capacity(truth.len());
    for dir in sorted(&root.join("small")) {
        files.extend(sorted(&dir));
    }
    let next = AtomicUsize::new(0);
    let work = || {
        let mut bytes = Vec::with_capacity(SMALL_SIZE + 1);
        let mut sums = Vec::new();
        while let Some((n, file)) = {
            let n = next.fetch_add(1, Ordering::Relaxed);
            files.get(n).map(|file| (n, file))
        } {
            bytes.clear();
            File::open(file).unwrap().read_to_end(&mut bytes).unwrap();
            sums.push((n, sum(&bytes)));
        }
        sums
    };
    let mut sums = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..readers).map(|_| scope.spawn(work)).collect();
        let all = threads.into_iter().flat_map(|t| t.join().unwrap());
        all.collect::<Vec<_>>()
    });
    let took = started.elapsed();
    sums.sort_unstable();
    assert_eq!(sums.len(), truth.len());
    for ((file, (_, sum)), (key, truth)) in files.iter().zip(sums).zip(truth) {
        assert!(file.ends_with(key), "{} is not {key}", file.display());
        assert_eq!(sum, *truth, "{key}: not the bytes of its source");
    }
    took
}

fn sorted(dir: &Path) -> Vec<std::path::PathBuf> {
    let entries = std::fs::read_dir(dir).unwrap();
    let mut paths: Vec<_> = entries.map(|entry| entry.unwrap().path()).collect();
    paths.sort_unstable();
    paths
}

/// Drops a file's pages from the page cache.
pub fn drop_pages(path: &Path) {
    let file = File::open(path).unwrap();
    // Dirty pages would stay.
    let _ = file.sync_all();
    rustix::fs::fadvise(&file, 0, None, rustix::fs::Advice::DontNeed).unwrap();
}

fn runtime() -> tokio::runtime::Runtime {
    let mut builder = tokio::runtime::Builder::new_multi_thread();
    builder.enable_all().build().unwrap()
}

/// Downloads the large file by range requests, several at once, into `file`; returns the time.
pub fn download_large(world: &World, file: &Path) -> Duration {
    let size = (world.large.len() * CHUNK) as u64;
    let runtime = runtime();
    let started = Instant::now();
    runtime.block_on(async {
        let out = Arc::new(File::create(file).unwrap());
        let client = reqwest::Client::new();
        let url = world.url(LARGE);
        let parts = futures::stream::iter((0..size.div_ceil(PART)).map(|n| n * PART));
        parts
            .for_each_concurrent(CONNECTIONS, |start| {
                let (client, url, out) = (client.clone(), url.clone(), out.clone());
                async move {
                    let end = (start + PART).min(size);
                    let range = format!("bytes={start}-{}", end - 1);
                    let request = client.get(url).header("range", range);
                    let reply = request.send().await.unwrap();
                    assert_eq!(reply.status(), 206);
                    let mut body = reply.bytes_stream();
                    let mut at = start;
                    while let Some(bytes) = body.try_next().await.unwrap() {
                        out.write_all_at(&bytes, at).unwrap();
                        at += bytes.len() as u64;
                    }
                    assert_eq!(at, end);
                }
            })
            .await;
    });
    let took = started.elapsed();
    read_large(file, &world.large);
    took
}

/// Downloads the small files, so many at once; returns the time it took.
pub fn download_small(world: &World, connections: usize) -> Duration {
    let runtime = runtime();
    let urls: Vec<_> = world.small.iter().map(|(key, _)| world.url(key)).collect();
    let started = Instant::now();
    let sums: Vec<u64> = runtime.block_on(async {
        let client = reqwest::Client::new();
        let gets = futures::stream::iter(urls).map(|url| {
            let client = client.clone();
            async move {
                let reply = client.get(url).send().await.unwrap();
                assert_eq!(reply.status(), 200);
                sum(&reply.bytes().await.unwrap())
            }
        });
        gets.buffered(connections).collect().await
    });
    let took = started.elapsed();
    assert!(sums.iter().eq(world.small.iter().map(|(_, truth)| truth)));
    took
}
