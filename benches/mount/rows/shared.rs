//! What mounts and readers owe each other: nothing is fetched twice, and who waits comes first.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use super::{Run, Runner, clear, measured, take_turns};
use crate::daemon::Daemon;
use crate::data::{self, LARGE, MEDIUM};
use crate::load::{self, CHUNK, sum};
use crate::mounts::{self, Mount};
use crate::report::{Goal, Row, Work};
use crate::settings::Settings;
use crate::world::{Place, World};

/// How many mounts share a cache.
const MOUNTS: usize = 4;

/// Several mounts of one volume on one cache, all read the large file at once. Of the peers none
/// promises that its cache may be shared while it is written.
pub fn mounts(world: &World, settings: &Settings) -> Vec<Row> {
    let place = Place::Far;
    let runner = |mount: Mount, count: usize, name, role| {
        Runner::new(name, role, move || {
            let cache = world.fresh("cache");
            let before = world.wire();
            let daemons = (0..count).map(|_| mount.mount(world, place, &cache));
            let daemons: Vec<Daemon> = daemons.collect();
            let started = Instant::now();
            std::thread::scope(|scope| {
                for daemon in &daemons {
                    let file = daemon.at.join(LARGE);
                    scope.spawn(move || load::read_large(&file, &world.truth.large, false));
                }
            });
            let run = Run::plain(started.elapsed());
            drop(daemons);
            let mut run = run.with_wire(world, before);
            let fetched = run.wire.map_or(0, |wire| wire.bytes);
            run.extra = Some((
                "x the file fetched".into(),
                fetched as f64 / settings.large as f64,
            ));
            clear(&cache);
            vec![run]
        })
    };
    let mut runners = Vec::new();
    for mount in mounts::ours(settings) {
        runners.push(runner(mount, MOUNTS, mount.name, mount.role));
    }
    let ours = mounts::ours(settings)[0];
    runners.push(runner(ours, 1, "one mount", mounts::Role::Floor));
    vec![Row {
        id: "mounts".into(),
        title: format!("Large file by {MOUNTS} mounts that share a cache, cold, 20 ms"),
        about:
            "Each reads all of it at the same time; the floor is one mount alone, which reads it \
                once."
                .into(),
        work: Work::Once,
        goals: vec![Goal::Extra("x the file fetched".into(), 1.05)],
        contestants: take_turns(&settings.minor(), runners).remove(0),
    }]
}

/// How many reads the one who waits makes, and after how long it stops.
const READS: usize = 200;
const ENOUGH: Duration = Duration::from_secs(5);

/// Bytes that it reads at a time.
const PIECE: usize = 4096;

/// How long a small read takes while others read so fast that all is fetched ahead for them.
pub fn latency(world: &World, settings: &Settings) -> Vec<Row> {
    let runner = |mount: Mount| {
        Runner::new(mount.name, mount.role, move || {
            let cache = world.fresh("cache");
            let daemon = mount.mount(world, Place::Far, &cache);
            let mut latencies = Vec::new();
            let mut rate = 0.0;
            let usage = measured(&daemon, || {
                (latencies, rate) = read_beside(world, &daemon.at);
                Run::plain(Duration::ZERO)
            })
            .usage;
            drop(daemon);
            clear(&cache);
            latencies.sort_unstable();
            let run = |per_cent: usize| Run {
                usage,
                extra: Some(("MB/s beside it".into(), rate)),
                ..Run::plain(latencies[(latencies.len() * per_cent / 100).min(latencies.len() - 1)])
            };
            vec![run(50), run(99)]
        })
    };
    let runners = mounts::all(settings).into_iter().map(runner).collect();
    let phases = take_turns(&settings.minor(), runners);
    let rows = phases.into_iter().zip(["p50", "p99"]);
    rows.map(|(contestants, which)| Row {
        id: format!("latency-{which}"),
        title: format!("A 4 KiB read while prefetch fills the link, {which}, 20 ms"),
        about: format!(
            "Four readers read the large file in order, each its quarter; beside them one reads \
             4 KiB at a time at random in files that are open and not cached, {READS} times or for \
             {} s. The last column is how fast the four were.",
            ENOUGH.as_secs()
        ),
        work: Work::Once,
        goals: vec![Goal::BestPeer(1.0)],
        contestants,
    })
    .collect()
}

/// Returns how long each small read took, and how fast the others read, in MB/s.
fn read_beside(world: &World, root: &Path) -> (Vec<Duration>, f64) {
    const BESIDE: usize = 4;
    let chunks = world.truth.large.len();
    let ended = AtomicBool::new(false);
    let done = AtomicUsize::new(0);
    let files = (0..MEDIUM).map(|n| File::open(root.join(data::medium(n))).unwrap());
    let files: Vec<File> = files.collect();
    let started = Instant::now();
    let latencies = std::thread::scope(|scope| {
        for n in 0..BESIDE {
            let (ended, done) = (&ended, &done);
            scope.spawn(move || {
                let file = File::open(root.join(LARGE)).unwrap();
                let mut chunk = vec![0; CHUNK];
                for at in chunks * n / BESIDE..chunks * (n + 1) / BESIDE {
                    if ended.load(Ordering::Relaxed) {
                        return;
                    }
                    file.read_exact_at(&mut chunk, (at * CHUNK) as u64).unwrap();
                    assert_eq!(sum(&chunk), world.truth.large[at], "chunk {at}");
                    done.fetch_add(1, Ordering::Relaxed);
                }
            });
        }
        // Until they are under way.
        std::thread::sleep(Duration::from_millis(200));
        let mut latencies = Vec::new();
        let mut number = 1u64;
        for n in 0..READS {
            // All that is read ahead for has come: what is slow then has another reason.
            let over = done.load(Ordering::Relaxed) == chunks;
            if over && !latencies.is_empty() || started.elapsed() > ENOUGH {
                break;
            }
            number = number
                .wrapping_mul(6364136223846793005)
                .wrapping_add(1442695040888963407);
            let file = &files[n % MEDIUM];
            let pieces = world.truth.medium[0].len() * CHUNK / PIECE;
            let at = (number >> 33) % pieces as u64 * PIECE as u64;
            let mut piece = [0; PIECE];
            let asked = Instant::now();
            file.read_exact_at(&mut piece, at).unwrap();
            latencies.push(asked.elapsed());
            let truth = File::open(world.object(&data::medium(n % MEDIUM))).unwrap();
            let mut right = [0; PIECE];
            truth.read_exact_at(&mut right, at).unwrap();
            assert!(piece == right, "not its bytes at {at}");
        }
        ended.store(true, Ordering::Relaxed);
        latencies
    });
    let read = (done.load(Ordering::Relaxed) * CHUNK) as f64;
    (latencies, read / 1e6 / started.elapsed().as_secs_f64())
}
