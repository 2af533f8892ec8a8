//! Several readers at once, of one file and of many.

use std::fs::File;
use std::io::Read;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

use super::{Run, cold_turns, large};
use crate::data::{self, LARGE, MEDIUM};
use crate::load::{CHUNK, Map, sum};
use crate::mounts;
use crate::report::{Goal, Row, Work};
use crate::settings::Settings;
use crate::world::{Place, World};

/// How many read at once.
fn counts(settings: &Settings) -> &'static [usize] {
    match settings.quick {
        true => &[1, 16],
        false => &[1, 4, 16, 64],
    }
}

/// How many chunks of the large file are read here.
fn chunks(world: &World) -> usize {
    world.truth.large.len().min(512)
}

/// Returns what one of `of` readers reads, in chunks.
fn share(chunks: usize, of: usize, reader: usize) -> Range<usize> {
    chunks * reader / of..chunks * (reader + 1) / of
}

/// Runs `work` in so many threads, each with its number.
fn in_threads(threads: usize, work: impl Fn(usize) + Sync) -> Run {
    let started = Instant::now();
    let work = &work;
    std::thread::scope(|scope| {
        for n in 0..threads {
            scope.spawn(move || work(n));
        }
    });
    Run::plain(started.elapsed())
}

/// Many readers of one file: each has a handle, and reads its share in order.
pub fn of_one(world: &World, settings: &Settings) -> Vec<Row> {
    let part = (chunks(world) * CHUNK) as u64;
    let measure = |&readers: &usize| {
        let read = |root: &Path| {
            in_threads(readers, |n| {
                let file = File::open(root.join(LARGE)).unwrap();
                let mut chunk = vec![0; CHUNK];
                for at in share(chunks(world), readers, n) {
                    file.read_exact_at(&mut chunk, (at * CHUNK) as u64).unwrap();
                    assert_eq!(sum(&chunk), world.truth.large[at], "chunk {at}");
                }
            })
        };
        let mounts = mounts::all(settings);
        let place = Place::Near;
        let floor = large::floor(world, place, part);
        Row {
            id: format!("one-by-{readers}"),
            title: format!("One file by {readers} readers, cold, 0 ms"),
            about: format!(
                "The first {} MiB of the large file; each reader has a handle and reads its share \
                 in order.",
                part >> 20
            ),
            work: Work::Bytes(part),
            goals: vec![Goal::BestPeer(1.0)],
            contestants: cold_turns(world, &settings.minor(), place, mounts, &read, floor),
        }
    };
    counts(settings).iter().map(measure).collect()
}

/// Many readers of many files: each takes the next file.
pub fn of_many(world: &World, settings: &Settings) -> Vec<Row> {
    let all = MEDIUM as u64 * settings.medium;
    let measure = |&readers: &usize| {
        let read = |root: &Path| {
            let next = AtomicUsize::new(0);
            in_threads(readers, |_| {
                let mut chunk = vec![0; CHUNK];
                loop {
                    let n = next.fetch_add(1, Ordering::Relaxed);
                    let Some(truth) = world.truth.medium.get(n) else {
                        return;
                    };
                    let mut file = File::open(root.join(data::medium(n))).unwrap();
                    for truth in truth {
                        file.read_exact(&mut chunk).unwrap();
                        assert_eq!(sum(&chunk), *truth, "file {n}");
                    }
                }
            })
        };
        let mounts = mounts::all(settings);
        let place = Place::Near;
        let floor = large::floor(world, place, all.min(settings.large));
        Row {
            id: format!("many-by-{readers}"),
            title: format!("{MEDIUM} files by {readers} readers, cold, 0 ms"),
            about: format!(
                "Files of {} MiB; each reader takes the next one. The floor is a download of as \
                 much in one file.",
                settings.medium >> 20
            ),
            work: Work::Bytes(all),
            goals: vec![Goal::BestPeer(1.0)],
            contestants: cold_turns(world, &settings.minor(), place, mounts, &read, floor),
        }
    };
    counts(settings).iter().map(measure).collect()
}

/// A file of tensors, mapped: each thread takes the next tensor.
pub fn mapped(world: &World, settings: &Settings) -> Vec<Row> {
    const THREADS: usize = 4;
    const TENSOR: usize = 8;
    let part = (chunks(world) * CHUNK) as u64;
    let read = |root: &Path| {
        let next = AtomicUsize::new(0);
        let started = Instant::now();
        let file = File::open(root.join(LARGE)).unwrap();
        let map = Map::new(&file, settings.large as usize);
        let mut run = in_threads(THREADS, |_| {
            loop {
                let from = next.fetch_add(TENSOR, Ordering::Relaxed);
                if from >= chunks(world) {
                    return;
                }
                for at in from..(from + TENSOR).min(chunks(world)) {
                    let chunk = &map.bytes()[at * CHUNK..(at + 1) * CHUNK];
                    assert_eq!(sum(chunk), world.truth.large[at], "chunk {at}");
                }
            }
        });
        run.took = started.elapsed();
        run
    };
    let place = Place::Near;
    let floor = large::floor(world, place, part);
    let mounts = mounts::all(settings);
    vec![Row {
        id: "tensors".into(),
        title: "A file of tensors, mapped, by 4 threads, cold, 0 ms".into(),
        about: format!(
            "The first {} MiB of the large file, mapped into memory as safetensors are: each \
             thread takes the next tensor of 8 MiB.",
            part >> 20
        ),
        work: Work::Bytes(part),
        goals: vec![Goal::BestPeer(1.0)],
        contestants: cold_turns(world, &settings.minor(), place, mounts, &read, floor),
    }]
}
