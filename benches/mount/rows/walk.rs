//! Walking a tree of many objects.

use super::{Runner, clear, measured, places, take_turns};
use crate::direct;
use crate::mounts;
use crate::report::{Goal, Row, Work};
use crate::settings::Settings;
use crate::tools;
use crate::world::{MANY, Place, World};

/// `find -ls`: for the first time, again, and after a remount.
pub fn find(world: &World, settings: &Settings) -> Vec<Row> {
    places(settings, "find")
        .flat_map(|place| find_at(world, settings, place))
        .collect()
}

fn find_at(world: &World, settings: &Settings, place: Place) -> Vec<Row> {
    let count = MANY.0 * MANY.1;
    let runner = |mount: mounts::Mount| {
        Runner::new(mount.name, mount.role, move || {
            let cache = world.fresh("cache");
            let before = world.wire();
            let daemon = mount.mount(world, place, &cache);
            let find = |daemon: &crate::daemon::Daemon| {
                let root = daemon.at.join("many");
                measured(daemon, || tools::find(&root, settings.limit))
            };
            let cold = find(&daemon).with_wire(world, before);
            if cold.cut {
                drop(daemon);
                clear(&cache);
                return vec![cold];
            }
            let before = world.wire();
            let second = find(&daemon).with_wire(world, before);
            drop(daemon);
            let before = world.wire();
            let daemon = mount.mount(world, place, &cache);
            let remount = find(&daemon).with_wire(world, before);
            drop(daemon);
            clear(&cache);
            vec![cold, second, remount]
        })
    };
    let mut runners: Vec<_> = mounts::all(settings).into_iter().map(runner).collect();
    let floor = move || direct::list(world, place, "many/", count);
    runners.push(Runner::floor("one recursive listing", world, floor));
    let phases = take_turns(settings, runners);
    let seconds = |near: f64, far: f64| match place {
        Place::Near => near,
        Place::Far => far,
    };
    let about = [
        ("cold", "cold", seconds(0.5, 1.0)),
        ("second", "the second time", 0.15),
        ("remount", "after a remount", 0.15),
    ];
    let rows = phases.into_iter().zip(about);
    rows.map(|(contestants, (id, when, goal))| Row {
        id: format!("find-{id}@{}", place.name()),
        title: format!("find -ls of {count} objects {when}, {}", place.distance()),
        about: format!(
            "`find -ls` over {} prefixes of {} objects each; each line is compared.",
            MANY.0, MANY.1
        ),
        work: Work::Entries(count),
        goals: vec![Goal::Seconds(goal)],
        contestants,
    })
    .collect()
}
