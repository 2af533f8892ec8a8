//! Many small files.

use std::path::Path;

use super::{Run, Runner, cold_turns, places};
use crate::direct;
use crate::load;
use crate::mounts;
use crate::report::{Goal, Row, Work};
use crate::settings::Settings;
use crate::tools;
use crate::world::{Place, World};

/// Downloads at once for the floor.
fn connections(place: Place) -> usize {
    match place {
        Place::Near => 8,
        Place::Far => 64,
    }
}

/// A download of them.
pub fn floor(world: &World, place: Place) -> Runner<'_> {
    let name = match place {
        Place::Near => "download, 8 connections",
        Place::Far => "download, 64 connections",
    };
    let download = move || direct::download_small(world, place, connections(place));
    Runner::floor(name, world, download)
}

/// All of them by tar, for the first time.
pub fn tar(world: &World, settings: &Settings) -> Vec<Row> {
    let measure = |place: Place| {
        let tar = |root: &Path| tools::tar(&root.join("small"), &world.truth.small, settings.limit);
        let all = 2000.0 / world.truth.small.len() as f64;
        let goal = match place {
            Place::Near => 0.5,
            Place::Far => 3.0,
        };
        let mounts = mounts::all(settings);
        Row {
            id: format!("tar@{}", place.name()),
            title: format!(
                "{} small files by tar, cold, {}",
                world.truth.small.len(),
                place.distance()
            ),
            about: "`tar -cf -` of a tree of files of 16 KiB, 100 a directory, on an empty cache. \
                    The download knows all names and keeps nothing."
                .into(),
            work: Work::Files(world.truth.small.len()),
            goals: vec![Goal::Seconds(goal / all)],
            contestants: cold_turns(world, settings, place, mounts, &tar, floor(world, place)),
        }
    };
    places(settings, "tar").map(measure).collect()
}

/// All of them by eight readers, for the first time.
pub fn readers(world: &World, settings: &Settings) -> Vec<Row> {
    let place = Place::Near;
    let read = |root: &Path| Run::plain(load::read_small(root, &world.truth.small, 8));
    let mounts = mounts::all(settings);
    vec![Row {
        id: "small".into(),
        title: format!(
            "{} small files by 8 readers, cold, 0 ms",
            world.truth.small.len()
        ),
        about: "Listing the directories, then eight threads that open and read, on an empty cache."
            .into(),
        work: Work::Files(world.truth.small.len()),
        goals: vec![Goal::BestPeer(1.0)],
        contestants: cold_turns(world, settings, place, mounts, &read, floor(world, place)),
    }]
}
