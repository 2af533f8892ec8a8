//! Small reads all over the large file.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use super::{Run, Runner, cold_runner, places, take_turns};
use crate::data::LARGE;
use crate::direct;
use crate::mounts::{self, Role};
use crate::report::{Goal, Row, Work};
use crate::settings::Settings;
use crate::world::{Place, World};

/// Bytes read at a time.
const PIECE: usize = 4096;

/// How many read at once, and how often each.
const READERS: usize = 16;
const READS: usize = 100;

/// After how long slow ones are cut; what they did by then counts.
const ENOUGH: Duration = Duration::from_secs(4);

/// 4 KiB reads by 16 readers, each with a handle of its own, nothing cached.
pub fn cold(world: &World, settings: &Settings) -> Vec<Row> {
    let measure = |place: Place| {
        let turn = AtomicU64::new(0);
        let read = |root: &Path| {
            let offsets = offsets(settings.large, turn.fetch_add(1, Ordering::Relaxed));
            read(world, &root.join(LARGE), &offsets)
        };
        let runner = |mount| cold_runner(world, place, mount, &read);
        let mut runners: Vec<_> = mounts::all(settings).into_iter().map(runner).collect();
        runners.push(Runner::new("GETs of 4 KiB", Role::Floor, || {
            let before = world.wire();
            let took = direct::read_pieces(world, place, &offsets(settings.large, 0), PIECE);
            vec![Run::plain(took).with_wire(world, before)]
        }));
        let mut contestants = take_turns(settings, runners).remove(0);
        for run in contestants.iter_mut().flat_map(|c| &mut c.runs) {
            let reads = run
                .extra
                .as_ref()
                .map_or((READERS * READS) as f64, |(_, reads)| *reads);
            let fetched = run.wire.map_or(0, |wire| wire.bytes);
            run.extra = Some(("x asked".into(), fetched as f64 / (reads * PIECE as f64)));
        }
        let mut goals = vec![Goal::Extra("x asked".into(), 4.0)];
        if place == Place::Far {
            let bound = (READS as f64) * 0.020;
            goals.push(Goal::Seconds(bound / 0.9));
        }
        Row {
            id: format!("random@{}", place.name()),
            title: format!("4 KiB random cold, {}, 16 readers", place.distance()),
            about: format!(
                "{READERS} readers, each with its own handle, {READS} reads each all over the \
                 large file, on an empty cache. Who is slower than {} s is stopped, and its time \
                 is what all would have taken. At 20 ms no one can do more than 800 reads a second \
                 without guessing. The last column is bytes on the wire by bytes asked.",
                ENOUGH.as_secs()
            ),
            work: Work::Reads(READERS * READS),
            goals,
            contestants,
        }
    };
    let places = places(settings, "random");
    places
        .filter(|place| *place == Place::Far)
        .map(measure)
        .collect()
}

/// Returns where each reader reads, in order; other places for another `seed`.
fn offsets(size: u64, seed: u64) -> Vec<Vec<u64>> {
    let mut hasher = blake3::Hasher::new();
    hasher.update(&seed.to_le_bytes());
    let mut numbers = hasher.finalize_xof();
    let mut number = || {
        let mut bytes = [0; 8];
        numbers.fill(&mut bytes);
        u64::from_le_bytes(bytes) % (size / PIECE as u64) * PIECE as u64
    };
    let mut reader = |_| (0..READS).map(|_| number()).collect();
    (0..READERS).map(&mut reader).collect()
}

fn read(world: &World, file: &Path, offsets: &[Vec<u64>]) -> Run {
    let done = AtomicUsize::new(0);
    let done = &done;
    let started = Instant::now();
    let reader = |offsets: &'_ Vec<u64>| {
        let file = File::open(file).unwrap();
        let mut pieces = Vec::new();
        for at in offsets {
            if started.elapsed() > ENOUGH {
                break;
            }
            let mut piece = [0; PIECE];
            file.read_exact_at(&mut piece, *at).unwrap();
            done.fetch_add(1, Ordering::Relaxed);
            pieces.push(piece);
        }
        pieces
    };
    let reader = &reader;
    let pieces: Vec<_> = std::thread::scope(|scope| {
        let threads = offsets.iter().map(|o| scope.spawn(move || reader(o)));
        let threads: Vec<_> = threads.collect();
        threads.into_iter().map(|t| t.join().unwrap()).collect()
    });
    let elapsed = started.elapsed();
    let truth = File::open(world.object(LARGE)).unwrap();
    for (offsets, pieces) in offsets.iter().zip(pieces) {
        for (at, piece) in offsets.iter().zip(pieces) {
            let mut right = [0; PIECE];
            truth.read_exact_at(&mut right, *at).unwrap();
            assert!(piece == right, "{}: not its bytes at {at}", file.display());
        }
    }
    let done = done.load(Ordering::Relaxed);
    let all = READERS * READS;
    let mut run = Run::plain(elapsed.mul_f64(all as f64 / done.max(1) as f64));
    run.extra = Some(("reads".into(), done as f64));
    run
}
