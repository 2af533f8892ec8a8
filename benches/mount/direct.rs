//! The floors: plain downloads, with nothing between the network and the reader.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures::{StreamExt, TryStreamExt};

use crate::data::LARGE;
use crate::load::sum;
use crate::world::{BUCKET, Place, World};

/// What the direct download asks for in one request, in bytes, and how many go on at once: the
/// best here of 4, 8 and 16 MiB by 8 and 16. Far away, what fills 20 ms at 2 GB/s must be asked for.
const PART: u64 = 8 << 20;
const CONNECTIONS: usize = 8;

fn runtime() -> tokio::runtime::Runtime {
    let mut builder = tokio::runtime::Builder::new_multi_thread();
    builder.enable_all().build().unwrap()
}

/// Downloads the first bytes of an object by range requests, several at once, into `file`; returns
/// the time it took.
pub fn download(world: &World, place: Place, key: &str, size: u64, file: &Path) -> Duration {
    let runtime = runtime();
    let started = Instant::now();
    runtime.block_on(async {
        let out = Arc::new(File::create(file).unwrap());
        let client = reqwest::Client::new();
        let url = world.url(place, key);
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
    started.elapsed()
}

/// Downloads the small files, so many at once; returns the time it took.
pub fn download_small(world: &World, place: Place, connections: usize) -> Duration {
    let runtime = runtime();
    let urls = world
        .truth
        .small
        .iter()
        .map(|(key, _)| world.url(place, key));
    let urls: Vec<String> = urls.collect();
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
    assert!(
        sums.iter()
            .eq(world.truth.small.iter().map(|(_, truth)| truth))
    );
    took
}

/// Lists a prefix, one page after the other; returns the time it took.
pub fn list(world: &World, place: Place, prefix: &str, count: usize) -> Duration {
    let runtime = runtime();
    let started = Instant::now();
    let found = runtime.block_on(async {
        let client = reqwest::Client::new();
        let mut token = String::new();
        let mut found = 0;
        loop {
            let query = format!("?list-type=2&prefix={prefix}&continuation-token={token}");
            let url = format!("{}/{BUCKET}/{query}", world.at(place));
            let reply = client.get(url).send().await.unwrap();
            assert_eq!(reply.status(), 200);
            let page = reply.text().await.unwrap();
            found += page.matches("<Key>").count();
            let next = page.split_once("<NextContinuationToken>");
            let Some((next, _)) = next.and_then(|(_, rest)| rest.split_once('<')) else {
                return found;
            };
            token = next.to_owned();
        }
    });
    assert_eq!(found, count);
    started.elapsed()
}

/// Reads pieces of the large file, `readers` at once; returns how long all of them took.
pub fn read_pieces(world: &World, place: Place, at: &[Vec<u64>], size: usize) -> Duration {
    let runtime = runtime();
    let started = Instant::now();
    runtime.block_on(async {
        let client = reqwest::Client::new();
        let reader = |offsets: &Vec<u64>| {
            let (client, url, offsets) = (client.clone(), world.url(place, LARGE), offsets.clone());
            tokio::spawn(async move {
                for at in offsets {
                    let range = format!("bytes={at}-{}", at + size as u64 - 1);
                    let request = client.get(&url).header("range", range);
                    let reply = request.send().await.unwrap();
                    assert_eq!(reply.bytes().await.unwrap().len(), size);
                }
            })
        };
        futures::future::join_all(at.iter().map(reader)).await;
    });
    started.elapsed()
}

/// Gets an object.
pub fn get(world: &World, place: Place, key: &str) {
    runtime().block_on(async {
        let reply = reqwest::get(world.url(place, key)).await.unwrap();
        assert_eq!(reply.status(), 200);
        reply.bytes().await.unwrap();
    });
}
