//! The rows: what is measured, and against whom.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use crate::Scale;
use crate::daemon::Daemon;
use crate::load::{self, CHUNK};
use crate::report::{Contestant, Row, Run, Work};
use crate::world::{LARGE, World};

/// Lets each do its run in every turn; every other turn backwards, so that none always follows
/// the same one.
fn take_turns(turns: usize, runs: &mut [(&mut Contestant, &mut dyn FnMut() -> Run)]) {
    for turn in 0..turns {
        for at in 0..runs.len() {
            let at = if turn % 2 == 0 {
                at
            } else {
                runs.len() - 1 - at
            };
            let (contestant, run) = &mut runs[at];
            contestant.runs.push(run());
        }
    }
}

fn plain(took: Duration) -> Run {
    Run { took, usage: None }
}

/// Times something that a mount does.
fn measured(daemon: &Daemon, work: impl FnOnce() -> Duration) -> Run {
    let mark = daemon.mark();
    let took = work();
    Run {
        took,
        usage: Some(daemon.since(mark)),
    }
}

/// Removes what a run made, and lets the disk come to rest.
fn clear(path: &Path) {
    let _ = std::fs::remove_dir_all(path);
    let _ = std::fs::remove_file(path);
    rustix::fs::sync();
}

/// Reading the large file again once it is cached.
pub fn again(world: &World, scale: &Scale) -> Vec<Row> {
    let cache = world.fresh("cache");
    let daemon = Daemon::svol(world, &cache);
    load::read_large(&daemon.at.join(LARGE), &world.large);
    let blob = sealed(&cache, scale.large);
    drop(daemon);
    let work = Work::Bytes((world.large.len() * CHUNK) as u64);
    let row = |title: &str, about: &str, contestants| Row {
        title: title.into(),
        about: about.into(),
        work,
        contestants,
    };

    let (mut ours, mut floor) = (
        Contestant::new("svol"),
        Contestant::new("the cached file itself"),
    );
    take_turns(
        scale.turns,
        &mut [
            (&mut ours, &mut || {
                load::drop_pages(&blob);
                let daemon = Daemon::svol(world, &cache);
                measured(&daemon, || {
                    load::read_large(&daemon.at.join(LARGE), &world.large)
                })
            }),
            (&mut floor, &mut || {
                load::drop_pages(&blob);
                plain(load::read_large(&blob, &world.large))
            }),
        ],
    );
    let remounted = row(
        "Read again after a remount, from the disk",
        "The large file, sequentially, by a new daemon; its cached file is not in the page cache.",
        vec![ours, floor],
    );

    let daemon = Daemon::svol(world, &cache);
    let file = daemon.at.join(LARGE);
    load::read_large(&file, &world.large);
    let (mut ours, mut floor) = (
        Contestant::new("svol"),
        Contestant::new("the cached file itself"),
    );
    take_turns(
        scale.turns,
        &mut [
            (&mut ours, &mut || {
                load::drop_pages(&file);
                measured(&daemon, || load::read_large(&file, &world.large))
            }),
            (&mut floor, &mut || {
                plain(load::read_large(&blob, &world.large))
            }),
        ],
    );
    let through = row(
        "Read again, through the daemon",
        "The same in the same mount, the mount's own pages dropped; the cached file is in the page \
         cache.",
        vec![ours, floor],
    );

    load::read_large(&file, &world.large);
    let (mut ours, mut floor) = (
        Contestant::new("svol"),
        Contestant::new("the cached file itself"),
    );
    take_turns(
        scale.turns,
        &mut [
            (&mut ours, &mut || {
                measured(&daemon, || load::read_large(&file, &world.large))
            }),
            (&mut floor, &mut || {
                plain(load::read_large(&blob, &world.large))
            }),
        ],
    );
    let warm = row(
        "Read again, from the page cache",
        "The same with the mount's pages in the page cache.",
        vec![ours, floor],
    );
    drop(daemon);
    clear(&cache);
    vec![remounted, through, warm]
}

/// Waits until the large file is sealed, and returns its file in the cache.
fn sealed(cache: &Path, size: u64) -> PathBuf {
    let started = Instant::now();
    loop {
        if let Some(blob) = find(cache, size) {
            return blob;
        }
        assert!(
            started.elapsed() < Duration::from_secs(60),
            "no blob of {size} bytes"
        );
        std::thread::sleep(Duration::from_millis(20));
    }
}

fn find(dir: &Path, size: u64) -> Option<PathBuf> {
    std::fs::read_dir(dir).ok()?.flatten().find_map(|entry| {
        let meta = entry.metadata().ok()?;
        match meta.is_dir() {
            true => find(&entry.path(), size),
            // A partial is as long, and elsewhere.
            false => {
                let path = entry.path();
                let is_blob = path.components().any(|part| part.as_os_str() == "blob");
                (is_blob && meta.len() == size).then_some(path)
            }
        }
    })
}

/// Reading the large file for the first time.
pub fn cold(world: &World, scale: &Scale) -> Vec<Row> {
    let mut ours = Contestant::new("svol");
    let mut floor = Contestant::new("download to a file, 8 connections");
    let mut rclone = Contestant::new("rclone mount");
    let read = |mount: fn(&World, &Path) -> Daemon| {
        let cache = world.fresh("cache");
        let daemon = mount(world, &cache);
        let file = daemon.at.join(LARGE);
        let run = measured(&daemon, || load::read_large(&file, &world.large));
        drop(daemon);
        clear(&cache);
        run
    };
    take_turns(
        scale.turns,
        &mut [
            (&mut ours, &mut || read(Daemon::svol)),
            (&mut floor, &mut || {
                let file = world.fresh("download");
                let took = load::download_large(world, &file);
                clear(&file);
                plain(took)
            }),
            (&mut rclone, &mut || read(Daemon::rclone)),
        ],
    );
    vec![Row {
        title: "Read cold".into(),
        about: "The large file, sequentially, by a new daemon with an empty cache.".into(),
        work: Work::Bytes((world.large.len() * CHUNK) as u64),
        contestants: vec![ours, floor, rclone],
    }]
}

/// Opening and reading many small files for the first time.
pub fn small(world: &World, scale: &Scale, readers: usize) -> Vec<Row> {
    let mut ours = Contestant::new("svol");
    let mut rclone = Contestant::new("rclone mount");
    let mut floor = Contestant::new(match readers {
        1 => "download, 1 connection",
        _ => "download, 8 connections",
    });
    let read = |mount: fn(&World, &Path) -> Daemon| {
        let cache = world.fresh("cache");
        let daemon = mount(world, &cache);
        let run = measured(&daemon, || {
            load::read_small(&daemon.at, &world.small, readers)
        });
        drop(daemon);
        clear(&cache);
        run
    };
    take_turns(
        scale.turns,
        &mut [
            (&mut ours, &mut || read(Daemon::svol)),
            (&mut rclone, &mut || read(Daemon::rclone)),
            (&mut floor, &mut || {
                plain(load::download_small(world, readers))
            }),
        ],
    );
    let who = if readers == 1 {
        "one reader"
    } else {
        "eight readers"
    };
    vec![Row {
        title: format!("Small files cold, {who}"),
        about: "Listing the directories, opening and reading each file, with an empty cache. The \
                download knows all names and keeps nothing."
            .into(),
        work: Work::Files(world.small.len()),
        contestants: vec![ours, rclone, floor],
    }]
}
