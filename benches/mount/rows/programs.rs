//! Programs that people run on a mount. What they say must be what they say on the disk.

use std::path::Path;
use std::process::Command;

use super::{Runner, clear, measured, places_minor, take_turns};
use crate::mounts::{self, Mount, Role};
use crate::report::{Goal, Row, Work};
use crate::settings::Settings;
use crate::tools;
use crate::world::{Place, World};

/// A program, and on what it runs.
struct Program {
    id: &'static str,
    title: &'static str,
    command: fn(&Path) -> Command,
}

/// `git status` in a work tree of a thousand files.
pub fn git(world: &World, settings: &Settings) -> Vec<Row> {
    let command = |root: &Path| {
        let mut command = Command::new("git");
        command
            .arg("-C")
            .arg(root.join("repo"))
            .args(["status", "--porcelain"])
            .env("GIT_OPTIONAL_LOCKS", "0")
            .env("GIT_CONFIG_SYSTEM", "/dev/null")
            .env("GIT_CONFIG_GLOBAL", "/dev/null")
            // Who serves files as another user's is to be measured too.
            .env("GIT_CONFIG_COUNT", "1")
            .env("GIT_CONFIG_KEY_0", "safe.directory")
            .env("GIT_CONFIG_VALUE_0", "*");
        command
    };
    let title = "git status, 1,000 files";
    let program = Program {
        id: "git",
        title,
        command,
    };
    run(world, settings, &program)
}

/// `grep -r` in the same.
pub fn grep(world: &World, settings: &Settings) -> Vec<Row> {
    let command = |root: &Path| {
        let mut command = Command::new("sh");
        let script = "cd \"$0\" && grep -r needle src | sort";
        command.args(["-c", script]).arg(root.join("repo"));
        command
    };
    let title = "grep -r, 1,000 files";
    let program = Program {
        id: "grep",
        title,
        command,
    };
    run(world, settings, &program)
}

/// Importing a package of five hundred modules.
pub fn python(world: &World, settings: &Settings) -> Vec<Row> {
    let command = |root: &Path| {
        let mut command = Command::new("python3");
        command
            .args(["-B", "-S", "-c", "import large; print(large.TOTAL)"])
            .env("PYTHONPATH", root.join("python"))
            .env_remove("PYTHONHOME");
        command
    };
    let title = "Importing a Python package of 500 modules";
    let program = Program {
        id: "python",
        title,
        command,
    };
    run(world, settings, &program)
}

/// Running a large program.
pub fn binary(world: &World, settings: &Settings) -> Vec<Row> {
    let command = |root: &Path| {
        // The loader is named, as an object store keeps no mode that says what is a program.
        let mut command = Command::new("/lib64/ld-linux-x86-64.so.2");
        command.arg(root.join("bin/svol")).arg("--help");
        command
    };
    let title = "Running a program of some 20 MB";
    let program = Program {
        id: "binary",
        title,
        command,
    };
    run(world, settings, &program)
}

fn run(world: &World, settings: &Settings, program: &Program) -> Vec<Row> {
    places_minor(settings, program.id)
        .flat_map(|place| run_at(world, settings, program, place))
        .collect()
}

fn run_at(world: &World, settings: &Settings, program: &Program, place: Place) -> Vec<Row> {
    let source = world.object("");
    let (truth, _) = tools::output((program.command)(&source), settings.limit);
    let truth = &truth;
    let output = |root: &Path| {
        let (said, run) = tools::output((program.command)(root), settings.limit);
        let told = || String::from_utf8_lossy(&said[..said.len().min(400)]).into_owned();
        assert!(run.cut || said == *truth, "{}: {}", program.id, told());
        run
    };
    let output = &output;
    let runner = |mount: Mount| {
        Runner::new(mount.name, mount.role, move || {
            let cache = world.fresh("cache");
            let before = world.wire();
            let daemon = mount.mount(world, place, &cache);
            let cold = measured(&daemon, || output(&daemon.at)).with_wire(world, before);
            let before = world.wire();
            let mut runs = vec![cold];
            if !runs[0].cut {
                let again = measured(&daemon, || output(&daemon.at));
                runs.push(again.with_wire(world, before));
            }
            drop(daemon);
            clear(&cache);
            runs
        })
    };
    let mut runners: Vec<_> = mounts::all(settings).into_iter().map(runner).collect();
    runners.push(Runner::new("on the disk", Role::Floor, || {
        vec![output(&source), output(&source)]
    }));
    let phases = take_turns(&settings.minor(), runners);
    let rows = phases.into_iter().zip(["cold", "again"]);
    rows.map(|(contestants, when)| Row {
        id: format!("{}-{when}@{}", program.id, place.name()),
        title: format!("{}, {when}, {}", program.title, place.distance()),
        about: "The floor is the same on the disk, with all in the page cache.".into(),
        work: Work::Once,
        goals: match when {
            "cold" => vec![Goal::BestPeer(1.0)],
            _ => Vec::new(),
        },
        contestants,
    })
    .collect()
}
