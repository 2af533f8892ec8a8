//! A real mount under all kinds of use at once, while its sources change and its cache is emptied.
//!
//! Readers, mappers, walkers, executors, holders of replaced and deleted files, readers that are
//! killed and bind mounts; rewriters of the sources, refreshers and evictors. Every byte is compared
//! with the truth, every name that is there all the time has to be found, and nothing may hang.
//!
//! Runs for `SVOL_STRESS_SECONDS` (12 unless set) and prints what was done.

// Its own names are for the other modules here only.
#![allow(unreachable_pub)]

#[path = "../common/mod.rs"]
mod common;

mod actors;
mod truth;
mod watch;
mod world;

use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use common::mount::{Place, is_mounted};
use common::wait_until;

use watch::Daemon;
use world::World;

/// How long it runs unless told.
const SECONDS: u64 = 12;

/// What the cache may hold: less than a tenth of what is read.
const QUOTA: &str = "24MiB";

/// Threads that a daemon may have: those at /dev/fuse, the runtime's with the blocking ones, and the
/// cache's.
const MOST_THREADS: usize = 100;

/// Files that a daemon may have open: a few for each file that the test has open, and connections.
const MOST_FDS: usize = 600;

fn main_seconds() -> u64 {
    match std::env::var("SVOL_STRESS_SECONDS") {
        Ok(text) => text.parse().expect("SVOL_STRESS_SECONDS is a number"),
        Err(_) => SECONDS,
    }
}

#[test]
fn everything_at_once_reads_right_and_never_hangs() {
    let seconds = main_seconds();
    let place = Place::new();
    let world = World::new(&place);
    let args = world.mount_args();
    let mut args: Vec<&str> = args.iter().map(String::as_str).collect();
    args.splice(0..0, ["--cache-size", QUOTA, "--refresh", "5m"]);
    // Debug messages of minutes would be gigabytes.
    let mut mount = place.mount_with("mnt", &args, |command| {
        command.env("SVOL_LOG", "warn");
    });
    let daemon = Daemon(mount.pid());
    let world = world.mounted(mount.at());
    world.warm_up();
    let at_rest = daemon.fds();

    let started = Instant::now();
    let peak = std::thread::scope(|scope| {
        let world = &world;
        actors::start(scope, world, &place);
        let peak = world.watch.keep(
            &daemon,
            Duration::from_secs(seconds),
            &world.stop,
            mount.at(),
        );
        world.stop.store(true, Ordering::SeqCst);
        // The actors finish what they are at: a hang is told from slowness by the watchdog's limit.
        world.watch.drain(&daemon, mount.at());
        peak
    });
    let took = started.elapsed();

    world.report(took, &peak);
    assert_eq!(world.watch.in_state_d(&daemon), Vec::<String>::new());
    assert!(peak.threads <= MOST_THREADS, "{} threads", peak.threads);
    assert!(peak.fds <= MOST_FDS, "{} open files", peak.fds);
    // What was open is closed, but for connections that are kept and files of the cache.
    let mut fds = 0;
    wait_until("closed files", || {
        fds = daemon.fds();
        fds <= at_rest + 80
    });
    println!(
        "open files: {at_rest} at rest before, {} at most, {fds} after",
        peak.fds
    );
    world.judge();

    let at = mount.at().to_str().unwrap().to_owned();
    wait_until("an idle mount", || {
        place.svol(["unmount", &at]).status.success()
    });
    let status = mount.wait();
    assert!(status.success(), "{status}\n{}", mount.log());
    assert!(!is_mounted(mount.at()));
    let left: Vec<_> = svol::fuse::mount::mounts()
        .unwrap()
        .into_iter()
        .filter(|m| m.mountpoint.starts_with(place.path("")))
        .collect();
    assert_eq!(left, []);
    let verified = place.ok(["cache", "verify"]);
    assert!(
        verified.contains("0 blobs, 0 grains and 0 small files were bad"),
        "{verified}"
    );
}
