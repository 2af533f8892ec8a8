//! Trees on a web server and over SFTP.

use std::path::Path;

use super::{Run, cold_runner, places_minor, take_turns};
use crate::data::LARGE;
use crate::load::{self, CHUNK};
use crate::mounts;
use crate::report::{Goal, Row, Work};
use crate::rows::small;
use crate::settings::Settings;
use crate::tools;
use crate::world::{Place, World};

/// The large file, and the small ones by tar, from a web server's directory.
pub fn http(world: &World, settings: &Settings) -> Vec<Row> {
    places_minor(settings, "http")
        .flat_map(|place| at(world, settings, place))
        .collect()
}

fn at(world: &World, settings: &Settings, place: Place) -> Vec<Row> {
    // Over SFTP 20 ms away, more would take minutes.
    let chunks = world.truth.large.len().min(256);
    let part = (chunks * CHUNK) as u64;
    let truth = &world.truth.large[..chunks];
    let large = |root: &Path| Run::plain(load::read_first(&root.join(LARGE), truth));
    let tar = |root: &Path| tools::tar(&root.join("small"), &world.truth.small, settings.limit);
    let turns = |work: &dyn Fn(&Path) -> Run, floor| {
        let mounts = mounts::over_http(settings);
        let mut runners: Vec<_> = mounts
            .into_iter()
            .map(|m| cold_runner(world, place, m, work))
            .collect();
        runners.push(floor);
        take_turns(&settings.minor(), runners).remove(0)
    };
    let about = "From a web server's directory. ratarmount, which reads archives, reads the same \
                 files in one archive on that server; it has read the archive's table of contents \
                 while it mounted. sshfs reads them over SFTP, for comparison; what it fetches is \
                 not counted.";
    let row = |id: &str, title: &str, work, contestants| Row {
        id: format!("http-{id}@{}", place.name()),
        title: format!("{title} by HTTP, cold, {}", place.distance()),
        about: about.into(),
        work,
        goals: vec![Goal::BestPeer(1.0)],
        contestants,
    };
    vec![
        row(
            "large",
            &format!("First {chunks} MiB of the large file"),
            Work::Bytes(part),
            turns(&large, super::large::floor(world, place, part)),
        ),
        row(
            "tar",
            &format!("{} small files by tar", settings.small),
            Work::Files(settings.small),
            turns(&tar, small::floor(world, place)),
        ),
    ]
}
