//! The rows: what is measured, and against whom.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use crate::Scale;
use crate::daemon::Daemon;
use crate::load::{self, CHUNK};
use crate::report::{Contestant, Row, Run, Work};
use crate::world::{LARGE, World};

/// One who does the work, and how.
type Runner<'a> = (&'static str, Box<dyn FnMut() -> Run + 'a>);

/// Lets each do its run in every turn; every other turn backwards, so that none always follows
/// the same one.
fn take_turns(turns: usize, mut runners: Vec<Runner<'_>>) -> Vec<Contestant> {
    let mut contestants: Vec<_> = runners
        .iter()
        .map(|(name, _)| Contestant::new(name))
        .collect();
    for turn in 0..turns {
        for at in 0..runners.len() {
            let at = if turn % 2 == 0 {
                at
            } else {
                runners.len() - 1 - at
            };
            contestants[at].runs.push(runners[at].1());
        }
    }
    contestants
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

    let direct = || -> Runner<'_> {
        let read = || plain(load::read_large(&blob, &world.large));
        ("the cached file itself", Box::new(read))
    };
    let new_mount = || {
        load::drop_pages(&blob);
        let daemon = Daemon::svol(world, &cache);
        measured(&daemon, || {
            load::read_large(&daemon.at.join(LARGE), &world.large)
        })
    };
    let direct_from_disk = || {
        load::drop_pages(&blob);
        plain(load::read_large(&blob, &world.large))
    };
    let remounted = row(
        "Read again after a remount, from the disk",
        "The large file, sequentially, by a new daemon; its cached file is not in the page cache.",
        take_turns(
            scale.turns,
            vec![
                ("svol", Box::new(new_mount)),
                ("the cached file itself", Box::new(direct_from_disk)),
            ],
        ),
    );

    let daemon = Daemon::svol(world, &cache);
    let file = daemon.at.join(LARGE);
    load::read_large(&file, &world.large);
    let again = || measured(&daemon, || load::read_large(&file, &world.large));
    let dropped = || {
        load::drop_pages(&file);
        again()
    };
    let through = row(
        "Read again, through the daemon",
        "The same in the same mount, the mount's own pages dropped; the cached file is in the page \
         cache.",
        take_turns(scale.turns, vec![("svol", Box::new(dropped)), direct()]),
    );
    load::read_large(&file, &world.large);
    let warm = row(
        "Read again, from the page cache",
        "The same with the mount's pages in the page cache.",
        take_turns(scale.turns, vec![("svol", Box::new(again)), direct()]),
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

/// Mounts for a run: the world, and an empty cache.
type Mount = fn(&World, &Path) -> Daemon;

/// Those who mount: ours, another build of it if there is one to compare with, and rclone.
fn mounts(world: &World) -> Vec<(&'static str, Mount)> {
    let mut mounts: Vec<(&'static str, Mount)> = vec![("svol", Daemon::svol)];
    if world.other.is_some() {
        mounts.push(("the other svol", Daemon::other_svol));
    }
    mounts.push(("rclone mount", Daemon::rclone));
    mounts
}

/// Lets each mount do `read`, on an empty cache each time, and the `floor` its own.
fn cold_turns(
    world: &World,
    scale: &Scale,
    read: impl Fn(&Path) -> Duration,
    floor: Runner<'_>,
) -> Vec<Contestant> {
    let read = &read;
    let runner = |(name, mount): (&'static str, Mount)| -> Runner<'_> {
        let run = move || {
            let cache = world.fresh("cache");
            let daemon = mount(world, &cache);
            let run = measured(&daemon, || read(&daemon.at));
            drop(daemon);
            clear(&cache);
            run
        };
        (name, Box::new(run))
    };
    let mut runners: Vec<_> = mounts(world).into_iter().map(runner).collect();
    runners.push(floor);
    take_turns(scale.turns, runners)
}

/// Reading the large file for the first time.
pub fn cold(world: &World, scale: &Scale) -> Row {
    let download = || {
        let file = world.fresh("download");
        let took = load::download_large(world, &file);
        clear(&file);
        plain(took)
    };
    let floor: Runner<'_> = ("download to a file, 8 connections", Box::new(download));
    let read = |root: &Path| load::read_large(&root.join(LARGE), &world.large);
    Row {
        title: "Read cold".into(),
        about: "The large file, sequentially, by a new daemon with an empty cache.".into(),
        work: Work::Bytes((world.large.len() * CHUNK) as u64),
        contestants: cold_turns(world, scale, read, floor),
    }
}

/// Opening and reading many small files for the first time.
pub fn small(world: &World, scale: &Scale, readers: usize) -> Row {
    let (who, floor) = match readers {
        1 => ("one reader", "download, 1 connection"),
        _ => ("eight readers", "download, 8 connections"),
    };
    let download = || plain(load::download_small(world, readers));
    let floor: Runner<'_> = (floor, Box::new(download));
    let read = |root: &Path| load::read_small(root, &world.small, readers);
    Row {
        title: format!("Small files cold, {who}"),
        about: "Listing the directories, opening and reading each file, with an empty cache. The \
                download knows all names and keeps nothing."
            .into(),
        work: Work::Files(world.small.len()),
        contestants: cold_turns(world, scale, read, floor),
    }
}
