//! The soak: real mounts of real servers behind proxies that damage what passes, by every kind of
//! fault at once, with readers who compare every byte with the truth while files change.
//!
//! A read gives the right bytes, all of one version, or an error of the right kind, in time; a name
//! that is there is never absent unless its server says so; and when the storm is over all is well
//! through the same mount.
//!
//! `make soak`, or `SVOL_SOAK_SECONDS=600 SVOL_SOAK_SEED=7 cargo test --test soak -- --nocapture`.

#![allow(unreachable_pub)]

#[path = "../common/mod.rs"]
mod common;
mod reader;
mod report;
mod world;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use common::faults::tcp::TcpFault;
use common::faults::{Dice, Kind};
use common::mount::{Mount, Place};
use reader::Reader;
use report::{HANG, Report, bump};
use rustix::process::Signal;
use world::{Layer, World};

/// How many threads read.
const READERS: usize = 8;

/// How long a storm lasts, between two calms.
const STORM: Duration = Duration::from_secs(25);

/// How long the storm of the short form lasts.
const SHORT: Duration = Duration::from_secs(10);

/// How much longer the first storm may last until each kind of fault had its turn.
const ALL_KINDS: Duration = Duration::from_secs(120);

/// Within how long all has to be well after a storm: the longest pauses are half a minute.
const RECOVERY: Duration = Duration::from_secs(120);

/// An eighth of what the files hold, so that there is always something to evict.
const CACHE: &str = "12MiB";

/// How long a reader waits. Short, so that there are many errors.
const TIMEOUT: &str = "1s";

fn number(variable: &str) -> Option<u64> {
    let text = std::env::var(variable).ok()?;
    let number = text.parse();
    Some(number.unwrap_or_else(|_| panic!("{variable}={text} is not a number")))
}

/// Lets threads end, also when the test fails.
struct Stop(Arc<AtomicBool>);

impl Drop for Stop {
    fn drop(&mut self) {
        self.0.store(true, Ordering::SeqCst);
    }
}

fn mount(place: &Place, world: &World) -> Mount {
    let volume = place.path("volume.yaml");
    std::fs::write(&volume, world.volume()).unwrap();
    let args = [
        "--timeout",
        TIMEOUT,
        "--refresh",
        "1s",
        "--revalidate",
        "1s",
        "--cache-size",
        CACHE,
        "-c",
        volume.to_str().unwrap(),
    ];
    place.mount_with("mnt", &args, |command| {
        command
            .env("AWS_ACCESS_KEY_ID", common::s3::ACCESS)
            .env("AWS_SECRET_ACCESS_KEY", common::s3::SECRET);
    })
}

/// Returns what was injected, everywhere together.
fn injected(world: &World) -> BTreeMap<String, u64> {
    let mut all = BTreeMap::new();
    for remote in &world.remotes {
        for (kind, count) in remote.tally.counts() {
            *all.entry(kind).or_default() += count;
        }
    }
    all
}

/// Returns the kinds that have not struck yet.
fn not_yet(world: &World) -> Vec<String> {
    let all = injected(world);
    let kinds = Kind::TELLABLE.iter().chain(Kind::LIES);
    let names = kinds.map(|kind| kind.name());
    let names = names.chain(TcpFault::NAMES.map(str::to_owned));
    names.filter(|name| !all.contains_key(name)).collect()
}

/// Keeps a file beside what the build makes, for whoever looks into it.
fn keep(name: &str, text: &str) {
    let path = std::path::Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
    std::fs::write(&path, text).unwrap();
    eprintln!("soak: kept {}", path.display());
}

/// Returns the threads of this process and of the daemon that are in state D.
fn stuck(daemon: u32) -> Vec<String> {
    let mut stuck = Vec::new();
    for pid in [std::process::id(), daemon] {
        let Ok(tasks) = std::fs::read_dir(format!("/proc/{pid}/task")) else {
            continue;
        };
        for task in tasks.flatten() {
            let stat = std::fs::read_to_string(task.path().join("stat")).unwrap_or_default();
            let state = stat.rsplit(") ").next().unwrap_or_default();
            if state.starts_with('D') {
                stuck.push(stat);
            }
        }
    }
    stuck
}

/// One storm with one daemon, and the calm after it.
fn round(place: &Place, world: &World, report: &Report, seed: u64, lasts: Duration, crash: bool) {
    let stop = Stop(Arc::new(AtomicBool::new(false)));
    std::thread::scope(|scope| {
        // In this order, so that at a failure the mount goes before the threads are waited for.
        let stopping = Stop(stop.0.clone());
        let mut mount = mount(place, world);
        for remote in &world.remotes {
            remote.storm(seed ^ blake3::hash(remote.name.as_bytes()).as_bytes()[0] as u64);
        }
        let mut threads = Vec::new();
        for n in 0..READERS {
            let dice = Dice::new(seed, &[1, n as u64]);
            let at = mount.at().to_owned();
            let reader = Reader::new(world, report, at, dice, stop.0.clone());
            threads.push(scope.spawn(|| reader.run()));
        }
        let stopped = stop.0.clone();
        threads.push(scope.spawn(move || {
            let mut dice = Dice::new(seed, &[2]);
            let changing: Vec<&world::File> = world.files.iter().filter(|f| f.changes).collect();
            while !stopped.load(Ordering::SeqCst) {
                let at = dice.below(changing.len() as u64) as usize;
                world.overwrite(changing[at]);
                bump(&report.overwrites, 1);
                std::thread::sleep(Duration::from_millis(50 + dice.below(300)));
            }
        }));

        let started = Instant::now();
        let mut dice = Dice::new(seed, &[3]);
        let first = report.rounds.load(Ordering::Relaxed) == 0;
        loop {
            // At first each kind has its turn, then there are silences too.
            let busy = first && !not_yet(world).is_empty();
            for remote in &world.remotes {
                remote.weather(&mut dice, busy);
            }
            std::thread::sleep(Duration::from_millis(500 + dice.below(1500)));
            report.watch();
            // Whatever the weather, the daemon says how it is.
            place.status();
            let over = started.elapsed() > lasts;
            let more = first && !not_yet(world).is_empty() && started.elapsed() < lasts + ALL_KINDS;
            if over && !more || !report.problems().is_empty() {
                break;
            }
        }
        drop(stopping);
        for remote in &world.remotes {
            remote.calm();
        }
        let waiting = Instant::now();
        while !threads.iter().all(|thread| thread.is_finished()) {
            report.watch();
            if waiting.elapsed() > HANG + Duration::from_secs(5) {
                // Dropping the mount ends them.
                report.problem(&report.hangs, "readers do not end".into());
                return;
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        bump(&report.rounds, 1);
        all_is_well(place, world, report, &mount);
        if !report.problems().is_empty() {
            keep("soak-daemon.log", &mount.log());
        }
        if crash {
            mount.kill();
        } else {
            assert!(mount.signal(Signal::TERM).0.success(), "{}", mount.log());
        }
    });
}

/// Checks that after a storm the same mount has every file in its newest version, every name, and
/// all sources.
fn all_is_well(place: &Place, world: &World, report: &Report, mount: &Mount) {
    let slot = report.slot();
    let started = Instant::now();
    let read = |path: &str| {
        report.timed(&slot, "read after the storm", path, || {
            std::fs::read(mount.path(path))
        })
    };
    for file in &world.files {
        let newest = file.bytes(file.stored(), 0, usize::MAX);
        loop {
            let got = read(&file.path);
            let why = match &got {
                Ok(bytes) if *bytes == newest => break,
                Ok(bytes) => {
                    let fits = |v: &u64| file.bytes(*v, 0, usize::MAX) == *bytes;
                    match (0..file.stored()).rfind(fits) {
                        Some(old) => format!("still version {old} of {}", file.stored()),
                        None => {
                            let what = format!("wrong bytes after the storm: {}", file.path);
                            return report.problem(&report.wrong, what);
                        }
                    }
                }
                Err(error) => error.to_string(),
            };
            if started.elapsed() > RECOVERY {
                let what = format!("not well after the storm: {}: {why}", file.path);
                return report.problem(&report.others, what);
            }
            std::thread::sleep(Duration::from_millis(50));
        }
    }
    for (dir, names) in &world.dirs {
        let list = || -> std::io::Result<std::collections::BTreeSet<String>> {
            let entries = std::fs::read_dir(mount.path(dir))?;
            entries
                .map(|entry| Ok(entry?.file_name().into_string().unwrap()))
                .collect()
        };
        while list().ok().as_ref() != Some(names) {
            if started.elapsed() > RECOVERY {
                let what = format!("not well after the storm: {dir:?} lists {:?}", list());
                return report.problem(&report.others, what);
            }
            std::thread::sleep(Duration::from_millis(50));
        }
    }
    loop {
        let status = place.status();
        let layers = status["mounts"][0]["layers"].as_array().unwrap().clone();
        let ready = |layer: &serde_json::Value| layer["conditions"][0]["status"] == "True";
        let stuck = stuck(mount.pid());
        if layers.iter().all(ready) && stuck.is_empty() {
            break;
        }
        if started.elapsed() > RECOVERY {
            let what = format!("not well after the storm: {status}, in state D: {stuck:?}");
            return report.problem(&report.others, what);
        }
        std::thread::sleep(Duration::from_millis(200));
        // A source's state is that of its last answer, so it is asked something.
        for file in &world.files {
            let _ = read(&file.path);
        }
    }
    report.timed(&slot, "recovery", "", || ());
    eprintln!(
        "soak: all is well {:.1?} after the storm",
        started.elapsed()
    );
}

#[test]
fn right_bytes_or_the_right_error_whatever_the_network_does() {
    let long = number("SVOL_SOAK_SECONDS").map(Duration::from_secs);
    let seed = number("SVOL_SOAK_SEED").unwrap_or(2026);
    let place = Place::new();
    let local = tempfile::tempdir().unwrap();
    let world = World::new(seed, local.path());
    assert!(world.files.iter().any(|f| f.layer == Layer::Local));
    let report = Report::default();
    let started = Instant::now();
    for n in 0.. {
        let left = long.unwrap_or(SHORT).saturating_sub(started.elapsed());
        if (n > 0 && left < SHORT) || !report.problems().is_empty() {
            break;
        }
        round(
            &place,
            &world,
            &report,
            seed + n,
            left.min(STORM),
            n % 2 == 1,
        );
    }
    let head = format!(
        "soak of {:.0} s, seed {seed}, readers {READERS}, deadline {TIMEOUT}, cache {CACHE}",
        started.elapsed().as_secs_f64()
    );
    let text = report.text(&head, &injected(&world));
    println!("{text}");
    keep("soak-report.txt", &text);

    let problems = report.problems();
    assert!(problems.is_empty(), "{}", problems.join("\n"));
    assert_eq!(not_yet(&world), Vec::<String>::new(), "not injected");
    let count = |counter: &std::sync::atomic::AtomicU64| counter.load(Ordering::Relaxed);
    assert!(count(&report.reads) > 0 && count(&report.overwrites) > 0);
    let verified = place.ok(["cache", "verify"]);
    assert!(
        verified.contains("0 blobs, 0 grains and 0 small files were bad"),
        "{verified}"
    );
}
