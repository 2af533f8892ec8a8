//! From the command to the first bytes.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::time::{Duration, Instant};

use super::{Run, Runner, clear, places, take_turns};
use crate::direct;
use crate::load::sum;
use crate::mounts::{self, Mount};
use crate::report::{Goal, Row, Work};
use crate::settings::Settings;
use crate::world::{Place, World};

/// Bytes read.
const FIRST: usize = 4096;

/// Mounting, and reading the first 4 KiB of a file.
pub fn first_bytes(world: &World, settings: &Settings) -> Vec<Row> {
    let measure = |place: Place| {
        let (key, _) = &world.truth.small[0];
        let truth = std::fs::read(world.object(key)).unwrap();
        let truth = sum(&truth[..FIRST]);
        let runner = |mount: Mount| {
            Runner::new(mount.name, mount.role, move || {
                let cache = world.fresh("cache");
                let before = world.wire();
                let mut daemon = mount.spawn(world, place, &cache);
                let file = daemon.at.join(key);
                let mut bytes = [0; FIRST];
                let mut tries = 0u32;
                let read = |bytes: &mut [u8]| File::open(&file)?.read_exact_at(bytes, 0);
                while read(&mut bytes).is_err() {
                    tries += 1;
                    // Now and then, as it costs time.
                    if tries.is_multiple_of(1000) {
                        daemon.check();
                    }
                    std::thread::sleep(Duration::from_micros(200));
                }
                let took = daemon.started.elapsed();
                assert_eq!(sum(&bytes), truth, "{key}: not the bytes of its source");
                let mut run = Run::plain(took);
                run.usage = Some(daemon.usage());
                drop(daemon);
                let run = run.with_wire(world, before);
                clear(&cache);
                vec![run]
            })
        };
        let mut runners: Vec<_> = mounts::all(settings).into_iter().map(runner).collect();
        runners.push(Runner::floor("one GET", world, move || {
            let started = Instant::now();
            direct::get(world, place, key);
            started.elapsed()
        }));
        let goal = match place {
            Place::Near => 0.025,
            Place::Far => 0.120,
        };
        Row {
            id: format!("start@{}", place.name()),
            title: format!("Mount command to first 4 KiB, {}", place.distance()),
            about: "From starting the command, with an empty cache, until the first bytes of a \
                    small file two directories down are there; tried every 0.2 ms."
                .into(),
            work: Work::Once,
            goals: vec![Goal::Seconds(goal)],
            contestants: take_turns(settings, runners).remove(0),
        }
    };
    places(settings, "start").map(measure).collect()
}
