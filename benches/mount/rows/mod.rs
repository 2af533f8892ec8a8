//! The rows: what is measured, and against whom.

mod http;
mod large;
mod life;
mod programs;
mod random;
mod readers;
mod shared;
mod small;
mod start;
mod walk;

use std::borrow::Cow;
use std::path::Path;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use crate::daemon::{Daemon, Usage};
use crate::mounts::{Mount, Role};
use crate::report::{Contestant, Row};
use crate::settings::Settings;
use crate::world::{Place, Wire, World};

/// Measures some rows.
pub type Measure = fn(&World, &Settings) -> Vec<Row>;

/// All rows, by the names that `SVOL_BENCH_ROWS` knows.
pub const ALL: &[(&str, Measure)] = &[
    ("large", large::cold),
    ("again", large::again),
    ("random", random::cold),
    ("tar", small::tar),
    ("small", small::readers),
    ("find", walk::find),
    ("start", start::first_bytes),
    ("life", life::life),
    ("idle", life::idle),
    ("one", readers::of_one),
    ("many", readers::of_many),
    ("tensors", readers::mapped),
    ("git", programs::git),
    ("grep", programs::grep),
    ("python", programs::python),
    ("binary", programs::binary),
    ("mounts", shared::mounts),
    ("latency", shared::latency),
    ("http", http::http),
    ("growth", walk::growth),
];

/// One run.
#[derive(Clone, Serialize, Deserialize)]
pub struct Run {
    /// What it took.
    #[serde(with = "seconds")]
    pub took: Duration,
    /// Whether it was ended before it was done.
    pub cut: bool,
    /// What its daemon used, if it has one.
    pub usage: Option<Usage>,
    /// What the server sent for it.
    pub wire: Option<Wire>,
    /// What else is told of it: its name, and how much.
    pub extra: Option<(Cow<'static, str>, f64)>,
}

/// Durations as figures show them.
pub mod seconds {
    use std::time::Duration;

    use serde::{Deserialize, Deserializer, Serializer};

    /// Writes one.
    pub fn serialize<S: Serializer>(time: &Duration, to: S) -> Result<S::Ok, S::Error> {
        to.serialize_f64(time.as_secs_f64())
    }

    /// Reads one.
    pub fn deserialize<'a, D: Deserializer<'a>>(from: D) -> Result<Duration, D::Error> {
        f64::deserialize(from).map(Duration::from_secs_f64)
    }
}

impl Run {
    /// Returns one of which only the time is known.
    pub fn plain(took: Duration) -> Run {
        Run {
            took,
            cut: false,
            usage: None,
            wire: None,
            extra: None,
        }
    }

    /// Returns the same, and what it made the server send.
    fn with_wire(mut self, world: &World, before: Wire) -> Run {
        // A reply that nobody waits for any more is counted when the server notices.
        std::thread::sleep(Duration::from_millis(30));
        self.wire = Some(world.wire().since(before));
        self
    }
}

/// One who does the work, and how: a run of each phase.
struct Runner<'a> {
    name: &'static str,
    role: Role,
    run: Box<dyn FnMut() -> Vec<Run> + 'a>,
}

impl<'a> Runner<'a> {
    fn new(name: &'static str, role: Role, run: impl FnMut() -> Vec<Run> + 'a) -> Runner<'a> {
        let run = Box::new(run);
        Runner { name, role, run }
    }

    /// Returns a floor that does the work in one phase, and counts what the server sends.
    fn floor(name: &'static str, world: &'a World, work: impl Fn() -> Duration + 'a) -> Runner<'a> {
        Runner::new(name, Role::Floor, move || {
            let before = world.wire();
            vec![Run::plain(work()).with_wire(world, before)]
        })
    }
}

/// Lets each do its run in every turn; every other turn backwards, so that none always follows
/// the same one. Returns the contestants of each phase.
///
/// Who takes long is asked once only, and a row that takes long has fewer turns.
fn take_turns(settings: &Settings, mut runners: Vec<Runner<'_>>) -> Vec<Vec<Contestant>> {
    let mut phases: Vec<Vec<Contestant>> = Vec::new();
    let mut slow = vec![false; runners.len()];
    let started = Instant::now();
    for turn in 0..settings.turns {
        if turn > 1 && started.elapsed() > settings.budget {
            break;
        }
        for at in 0..runners.len() {
            let at = if turn % 2 == 0 {
                at
            } else {
                runners.len() - 1 - at
            };
            if slow[at] {
                continue;
            }
            let began = Instant::now();
            let runs = match attempt(&mut runners[at]) {
                Ok(runs) => runs,
                Err(why) => {
                    slow[at] = true;
                    phases
                        .iter_mut()
                        .for_each(|p| p[at].failed = Some(why.clone()));
                    continue;
                }
            };
            slow[at] = began.elapsed() > settings.limit / 4;
            for (phase, run) in runs.into_iter().enumerate() {
                if phases.len() == phase {
                    let new = |r: &Runner<'_>| Contestant::new(r.name, r.role);
                    phases.push(runners.iter().map(new).collect());
                }
                phases[phase][at].runs.push(run);
            }
        }
    }
    phases
}

/// Lets one do its run. A peer may fail: what it said is returned, and the others go on.
fn attempt(runner: &mut Runner<'_>) -> Result<Vec<Run>, String> {
    if runner.role != Role::Peer {
        return Ok((runner.run)());
    }
    let run = std::panic::AssertUnwindSafe(|| (runner.run)());
    std::panic::catch_unwind(run).map_err(|why| {
        let why = why.downcast_ref::<String>().map_or("", String::as_str);
        let why: Vec<_> = why.split_whitespace().collect();
        why.join(" ").chars().take(300).collect()
    })
}

/// Times something that a mount does.
fn measured(daemon: &Daemon, work: impl FnOnce() -> Run) -> Run {
    let mark = daemon.mark();
    let mut run = work();
    run.usage = Some(daemon.since(mark));
    run
}

/// Returns one who mounts on an empty cache, does `work` there, and unmounts.
fn cold_runner<'a>(
    world: &'a World,
    place: Place,
    mount: Mount,
    work: &'a dyn Fn(&Path) -> Run,
) -> Runner<'a> {
    Runner::new(mount.name, mount.role, move || {
        let cache = world.fresh("cache");
        let before = world.wire();
        let daemon = mount.mount(world, place, &cache);
        let run = measured(&daemon, || work(&daemon.at));
        drop(daemon);
        let run = run.with_wire(world, before);
        clear(&cache);
        vec![run]
    })
}

/// Lets each of `mounts` do `work` on an empty cache each time, and the `floor` its own.
fn cold_turns(
    world: &World,
    settings: &Settings,
    place: Place,
    mounts: Vec<Mount>,
    work: &dyn Fn(&Path) -> Run,
    floor: Runner<'_>,
) -> Vec<Contestant> {
    let runners = mounts.into_iter();
    let mut runners: Vec<_> = runners
        .map(|m| cold_runner(world, place, m, work))
        .collect();
    runners.push(floor);
    take_turns(settings, runners).remove(0)
}

/// Removes what a run made, and lets the disk come to rest.
fn clear(path: &Path) {
    let _ = std::fs::remove_dir_all(path);
    let _ = std::fs::remove_file(path);
    rustix::fs::sync();
}

/// Returns the places where a row is wanted that no goal is set for: near only in the short form.
fn places_minor(settings: &Settings, row: &str) -> impl Iterator<Item = Place> {
    let near_only = settings.quick && !settings.names(row);
    places(settings, row).filter(move |place| !near_only || *place == Place::Near)
}

/// Returns the places where a row is wanted.
fn places(settings: &Settings, row: &str) -> impl Iterator<Item = Place> {
    let wanted = |place: &Place| settings.wants_at(row, place.name());
    let places: Vec<_> = Place::ALL.into_iter().filter(wanted).collect();
    places.into_iter()
}
