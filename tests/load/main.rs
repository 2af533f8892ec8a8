//! Load and memory: millions of entries, thousands of handles, many readers, under one ceiling.
//!
//! The short form runs with all tests. `SVOL_LOAD=full` (or `make load`) runs it with a million
//! entries and 2 GB of files, some minutes. The figures are printed: `--nocapture` shows them.

// The modules are this binary's own.
#![allow(unreachable_pub)]

#[path = "../common/mod.rs"]
mod common;

mod bucket;
mod cgroup;
mod directories;
mod handles;
mod readers;

use std::time::Instant;

const MIB: u64 = 1 << 20;

/// Whether the long form was asked for.
fn full() -> bool {
    std::env::var("SVOL_LOAD").is_ok_and(|form| form == "full")
}

/// What a process has taken of memory: now, and at most, in bytes; and how much of that is files', which
/// is its own program. Of one that is not optimised that is more than half of a small ceiling, and
/// grows with what the program can do; the kernel has one copy of it for all processes.
#[derive(Debug, Clone, Copy)]
struct Taken {
    now: u64,
    most: u64,
    program: u64,
}

fn taken(pid: u32) -> Taken {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).expect("the daemon lives");
    let of = |name: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(name));
        let number = line.and_then(|line| line.split_whitespace().next());
        number.and_then(|n| n.parse::<u64>().ok()).unwrap() * 1024
    };
    Taken {
        now: of("VmRSS:"),
        most: of("VmHWM:"),
        program: of("RssFile:"),
    }
}

/// Prints a figure: what was done, how long it took, and what the daemon takes.
fn report(what: &str, since: Instant, pid: u32) -> Taken {
    let taken = taken(pid);
    println!(
        "{what}: {:.2} s, resident {:.1} MiB, at most {:.1} MiB, of that its program {:.1} MiB",
        since.elapsed().as_secs_f64(),
        taken.now as f64 / MIB as f64,
        taken.most as f64 / MIB as f64,
        taken.program as f64 / MIB as f64,
    );
    taken
}

/// Asserts that a daemon kept to its ceiling: all of it where it is optimised, else without its program,
/// of which an optimised one has some [`PROGRAM`].
fn within(pid: u32, ceiling: u64) {
    /// What the program takes where it is optimised, in bytes.
    const PROGRAM: u64 = 18 * MIB;
    let Taken { most, program, .. } = taken(pid);
    let most = most - program + program.min(PROGRAM);
    assert!(
        most <= ceiling,
        "{:.1} MiB taken of {} MiB",
        most as f64 / MIB as f64,
        ceiling / MIB
    );
}

/// Prints what the parts of the ceiling take, as the daemon tells it.
fn parts(place: &common::mount::Place) {
    let status = place.status();
    let mount = &status["mounts"][0];
    let parts = mount["memory"]["parts"].as_array().unwrap();
    let of =
        |part: &serde_json::Value, what: &str| part[what].as_u64().unwrap() as f64 / MIB as f64;
    let told: Vec<String> = parts
        .iter()
        .map(|part| {
            let name = part["name"].as_str().unwrap();
            let (used, limit) = (of(part, "usedBytes"), of(part, "limitBytes"));
            format!("{name} {used:.1} of {limit:.1}")
        })
        .collect();
    println!("MiB: {}; {} inodes", told.join(", "), mount["inodes"]);
}
