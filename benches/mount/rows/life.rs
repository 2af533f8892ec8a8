//! A mount's life: until it is there, while nobody reads, and after its daemon was killed.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::time::{Duration, Instant};

use super::{Run, Runner, clear, take_turns};
use crate::load::sum;
use crate::mounts::{self, Mount, Role};
use crate::report::{Row, Work};
use crate::settings::Settings;
use crate::world::{Place, World};

/// Bytes read to see that it serves.
const FIRST: usize = 4096;

/// How long the file is tried for.
const PATIENCE: Duration = Duration::from_secs(60);

/// The kernel tells processor time in steps of this.
const TICK: Duration = Duration::from_millis(10);

/// From the command until it is mounted; and from `kill -9` of what serves until a file that was read
/// before is read again.
pub fn life(world: &World, settings: &Settings) -> Vec<Row> {
    let place = Place::Near;
    let (key, _) = &world.truth.small[0];
    let truth = std::fs::read(world.object(key)).unwrap();
    let truth = sum(&truth[..FIRST]);
    let runner = |mount: Mount| {
        Runner::new(mount.name, mount.role, move || {
            let cache = world.fresh("cache");
            let daemon = mount.mount(world, place, &cache);
            let ready = Run::plain(daemon.started.elapsed());
            let file = daemon.at.join(key);
            assert_eq!(wait_for(&file), truth, "{key}: not the bytes of its source");

            let killed = Instant::now();
            let daemon = match daemon.kill_server() {
                // Another process serves the same mount.
                Ok(daemon) => daemon,
                // What is left is a dead mount, for whoever looks after it to mount again: ours takes
                // its place, others want it gone first.
                Err(at) => {
                    if mount.role == Role::Peer {
                        crate::daemon::detach(&at);
                    }
                    mount.spawn_at(world, place, at, &cache)
                }
            };
            assert_eq!(wait_for(&file), truth, "{key}: not the bytes of its source");
            let back = Run::plain(killed.elapsed());
            drop(daemon);
            clear(&cache);
            vec![ready, back]
        })
    };
    let runners = mounts::all(settings).into_iter().map(runner).collect();
    let phases = take_turns(&settings.minor(), runners);
    let told = [
        (
            "ready",
            "Mount command until it is mounted",
            "On an empty cache, until the mount point is in /proc/mounts; looked at every 2 ms.",
        ),
        (
            "killed",
            "kill -9 of what serves, until a file is read again",
            "The file is in the cache. Where the mount died with its daemon it is mounted again at \
             once, as a supervisor would; peers' dead mounts are detached before. Tried every 0.2 ms.",
        ),
    ];
    let rows = phases.into_iter().zip(told);
    rows.map(|(contestants, (id, title, about))| Row {
        id: id.into(),
        title: title.into(),
        about: about.into(),
        work: Work::Once,
        goals: Vec::new(),
        contestants,
    })
    .collect()
}

/// Reads until it works; returns the sum of the first bytes.
fn wait_for(file: &Path) -> u64 {
    let began = Instant::now();
    let mut bytes = [0; FIRST];
    let read = |bytes: &mut [u8]| File::open(file)?.read_exact_at(bytes, 0);
    while let Err(error) = read(&mut bytes) {
        let late = began.elapsed() > PATIENCE;
        assert!(!late, "{}: {error}", file.display());
        std::thread::sleep(Duration::from_micros(200));
    }
    sum(&bytes)
}

/// What a mount takes while nobody reads.
pub fn idle(world: &World, settings: &Settings) -> Vec<Row> {
    let length = Duration::from_secs(if settings.quick { 5 } else { 30 });
    let runner = |mount: Mount| {
        Runner::new(mount.name, mount.role, move || {
            let cache = world.fresh("cache");
            let daemon = mount.mount(world, Place::Near, &cache);
            wait_for(&daemon.at.join(&world.truth.small[0].0));
            // What it does behind the first reads is not what it does idle.
            std::thread::sleep(Duration::from_secs(3));
            let mark = daemon.mark();
            std::thread::sleep(length);
            let usage = daemon.since(mark);
            let held = daemon.proportional() as f64 / f64::from(1 << 20);
            drop(daemon);
            clear(&cache);
            vec![Run {
                usage: Some(usage),
                extra: Some(("MiB held (PSS)".into(), held)),
                ..Run::plain(usage.cpu.max(TICK))
            }]
        })
    };
    let runners = mounts::all(settings).into_iter().map(runner).collect();
    let mut once = settings.clone();
    once.turns = 1;
    vec![Row {
        id: "idle".into(),
        title: format!(
            "Processor time and memory of an idle mount, {} s",
            length.as_secs()
        ),
        about:
            "After one small file was read. The time is the processor's, of all its processes, 10 \
                ms at least; the memory is what they hold in the end, with what is shared between \
                processes counted once (PSS)."
                .into(),
        work: Work::Once,
        goals: Vec::new(),
        contestants: take_turns(&once, runners).remove(0),
    }]
}
