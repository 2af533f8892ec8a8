//! Measures the mount against floors and peers, in turn, in one run. It states figures and decides
//! nothing; what counts is the ratio, since all share one noisy machine.
//!
//! Every byte read is checked: readers on all sides sum what they read ([`load::sum`], some 20
//! GB/s) and the sums are compared with the truth after the clock has stopped.
//!
//! `SVOL_BENCH_QUICK=1` measures less, and leaves docs/benchmarks alone. `SVOL_BENCH_SIZE` sets the
//! large file's size in MiB, `SVOL_BENCH_TURNS` how often each is measured, `SVOL_BENCH_ROWS` which
//! (of `again`, `cold`, `small`; all). `SVOL_BENCH_OTHER` names another build of svol, which takes
//! turns with this one: before and after, in one run. `SVOL_BENCH_SERVE=1` measures nothing: it
//! serves the world until its input ends, for experiments by hand.

// A program has no other crates that its items could be reached from.
#![allow(unreachable_pub)]

mod daemon;
mod delay;
mod load;
mod report;
mod rows;
mod world;

use std::path::Path;

use report::Report;
use world::World;

/// How much is measured.
pub struct Scale {
    /// The large file's size in bytes.
    pub large: u64,
    /// How many small files there are.
    pub small: usize,
    /// How often everything is measured.
    pub turns: usize,
    /// Whether this is the short form.
    pub quick: bool,
}

fn main() {
    // `cargo test --benches` starts benchmarks too, to see whether they do.
    if !std::env::args().any(|arg| arg == "--bench") {
        return println!("run me by cargo bench");
    }
    let number = |name: &str| std::env::var(name).ok().and_then(|text| text.parse().ok());
    let quick = std::env::var("SVOL_BENCH_QUICK").is_ok_and(|value| value != "0");
    let (large, small, turns) = if quick { (256, 500, 3) } else { (512, 2000, 5) };
    let scale = Scale {
        large: number("SVOL_BENCH_SIZE").unwrap_or(large) << 20,
        small,
        turns: number("SVOL_BENCH_TURNS").map_or(turns, |n| n.max(1) as usize),
        quick,
    };
    let wanted = std::env::var("SVOL_BENCH_ROWS").unwrap_or_default();
    let wants = |row: &str| wanted.is_empty() || wanted.split(',').any(|name| name == row);

    svol::tls::install();
    let world = World::new(&scale);
    if std::env::var_os("SVOL_BENCH_SERVE").is_some() {
        println!("near {}", world.endpoint);
        println!("far  {}", world.far);
        let _ = std::io::copy(&mut std::io::stdin(), &mut std::io::sink());
        return;
    }
    let mut report = Report::new(&scale);
    if wants("again") {
        report.show(rows::again(&world, &scale));
    }
    if wants("cold") {
        report.show(vec![rows::cold(&world, &scale)]);
    }
    for readers in [1, 8] {
        if wants("small") {
            report.show(vec![rows::small(&world, &scale, readers)]);
        }
    }
    if !quick && wanted.is_empty() && world.other.is_none() {
        let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/benchmarks/latest.md");
        report.write(&file);
        println!("\nwritten to {}", file.display());
    }
}
