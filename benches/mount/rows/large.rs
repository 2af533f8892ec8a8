//! The large file, from its beginning to its end: for the first time, and again.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use super::{Run, Runner, clear, cold_turns, measured, places, take_turns};
use crate::data::LARGE;
use crate::direct;
use crate::load::{self, CHUNK};
use crate::mounts::{self, Role};
use crate::report::{Goal, Row, Work};
use crate::settings::Settings;
use crate::world::{Place, World};

/// A download of its first bytes.
pub fn floor(world: &World, place: Place, part: u64) -> Runner<'_> {
    Runner::floor("download to a file", world, move || {
        let file = world.fresh("download");
        let took = direct::download(world, place, LARGE, part, &file);
        let chunks = part as usize / CHUNK;
        load::read_large(&file, &world.truth.large[..chunks], false);
        clear(&file);
        took
    })
}

/// Reading it for the first time.
pub fn cold(world: &World, settings: &Settings) -> Vec<Row> {
    let measure = |place: Place| {
        let read = |root: &Path| {
            Run::plain(load::read_large(
                &root.join(LARGE),
                &world.truth.large,
                false,
            ))
        };
        let mounts = mounts::all(settings);
        let mut goals = match place {
            Place::Near => vec![Goal::BestPeer(1.3), Goal::Floor(0.8)],
            Place::Far => vec![Goal::BestPeer(1.5)],
        };
        goals.push(Goal::Peak(96.0));
        if place == Place::Near {
            goals.push(Goal::Cpu(
                2.5 * settings.large as f64 / f64::from(1u32 << 31),
            ));
        }
        Row {
            id: format!("large@{}", place.name()),
            title: format!("Large file cold, {}", place.distance()),
            about: format!(
                "{} MiB sequentially, by a new daemon with an empty cache. The floor is a download \
                 by ranges of 8 MiB, eight at once.",
                settings.large >> 20
            ),
            work: Work::Bytes(settings.large),
            goals,
            contestants: cold_turns(
                world,
                settings,
                place,
                mounts,
                &read,
                floor(world, place, settings.large),
            ),
        }
    };
    places(settings, "large").map(measure).collect()
}

/// Reading it again once it is cached: by a new daemon with nothing in the page cache, and with
/// everything there.
pub fn again(world: &World, settings: &Settings) -> Vec<Row> {
    let mut caches = Vec::new();
    let mut runners = Vec::new();
    for mount in mounts::all(settings) {
        let cache = world.fresh("cache");
        let daemon = mount.mount(world, Place::Near, &cache);
        load::read_large(&daemon.at.join(LARGE), &world.truth.large, false);
        if mount.role == Role::Ours {
            let blob = sealed(&cache, settings.large);
            runners.push(Runner::new(
                "the cached file itself",
                Role::Floor,
                move || {
                    load::drop_pages(&blob);
                    let read =
                        |mapped| Run::plain(load::read_large(&blob, &world.truth.large, mapped));
                    vec![read(false), read(false), read(true)]
                },
            ));
        }
        drop(daemon);
        rustix::fs::sync();
        caches.push(cache.clone());
        runners.push(Runner::new(mount.name, mount.role, move || {
            load::drop_pages(&cache);
            let daemon = mount.mount(world, Place::Near, &cache);
            let read = |mapped| {
                let before = world.wire();
                let file = daemon.at.join(LARGE);
                let read = || Run::plain(load::read_large(&file, &world.truth.large, mapped));
                measured(&daemon, read).with_wire(world, before)
            };
            vec![read(false), read(false), read(true)]
        }));
    }
    // Once from the disk untimed: below a virtual one there may be a cache of the host's.
    for cache in &caches {
        load::drop_pages(cache);
        load::touch(cache);
    }
    // Ours first, the floor last.
    let floor = runners.remove(0);
    runners.push(floor);
    let phases = take_turns(settings, runners);
    caches.iter().for_each(|cache| clear(cache));
    let about = [
        (
            "remount",
            "from the disk by a new daemon",
            "The large file sequentially, cached on disk; nothing of it is in the page cache.",
        ),
        (
            "warm",
            "from the page cache",
            "The same in the same mount at once.",
        ),
        (
            "mmap",
            "mapped, from the page cache",
            "The same by mmap, every page touched in order.",
        ),
    ];
    let rows = phases.into_iter().zip(about);
    rows.map(|(contestants, (id, title, about))| Row {
        id: format!("again-{id}"),
        title: format!("{} MiB again, {title}", settings.large >> 20),
        about: about.into(),
        work: Work::Bytes(settings.large),
        goals: vec![Goal::Floor(0.95)],
        contestants,
    })
    .collect()
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
