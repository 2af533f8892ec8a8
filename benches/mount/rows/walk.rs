//! Walking a tree of many objects.

use super::{Runner, clear, measured, places, take_turns};
use crate::daemon::Daemon;
use crate::data::{EACH, Tree};
use crate::direct;
use crate::mounts::{self, Mount};
use crate::report::{Goal, Row, Work};
use crate::settings::Settings;
use crate::tools;
use crate::world::{Place, World};

/// `find -ls`: for the first time, again, and after a remount.
pub fn find(world: &World, settings: &Settings) -> Vec<Row> {
    let tree = Tree::new(1);
    places(settings, "find")
        .flat_map(|place| find_at(world, settings, place, &tree))
        .collect()
}

/// The same with more objects; and how much memory is held for them afterwards.
pub fn growth(world: &World, settings: &Settings) -> Vec<Row> {
    let trees = settings.growth.iter().map(|times| Tree::new(*times));
    let minor = settings.minor();
    trees
        .flat_map(|tree| find_at(world, &minor, Place::Near, &tree))
        .collect()
}

fn find_at(world: &World, settings: &Settings, place: Place, tree: &Tree) -> Vec<Row> {
    let count = tree.count();
    let grown = tree.prefixes > Tree::new(1).prefixes;
    let runner = |mount: Mount| {
        Runner::new(mount.name, mount.role, move || {
            let cache = world.fresh("cache");
            let find = |daemon: &Daemon| {
                let held = daemon.held();
                let mut run = measured(daemon, || tools::find(&daemon.at, tree, settings.limit));
                let held = daemon.held().saturating_sub(held) as f64 / (1 << 20) as f64;
                if grown {
                    run.extra = Some(("MiB kept a million".into(), held * 1e6 / count as f64));
                }
                run
            };
            let before = world.wire();
            let daemon = mount.mount(world, place, &cache);
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
    // Of many times as many there is no copy in JuiceFS, and s3fs asks for each.
    let able = |mount: &Mount| !grown || !matches!(mount.name, "juicefs" | "s3fs");
    let mounts = mounts::all(settings).into_iter().filter(able);
    let mut runners: Vec<_> = mounts.map(runner).collect();
    let prefix = format!("{}/", tree.name);
    let list = move || direct::list(world, place, &prefix, count);
    // It is the floor of the first time only.
    runners.push(Runner::floor("one recursive listing", world, list));
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
        id: format!("find-{id}-{count}@{}", place.name()),
        title: format!("find -ls of {count} objects {when}, {}", place.distance()),
        about: format!(
            "`find -ls` over {} prefixes of {EACH} objects each; each line is compared.{}",
            tree.prefixes,
            if grown {
                " The last column is by how much the daemon's memory grew, by a million of entries."
            } else {
                ""
            }
        ),
        work: Work::Entries(count),
        goals: match grown {
            true => Vec::new(),
            false => vec![Goal::Seconds(goal)],
        },
        contestants,
    })
    .collect()
}
