//! Measures the mount against floors and peers, in turn, in one run. It states figures and decides
//! nothing; what counts is the ratio, since all share one noisy machine.
//!
//! Every byte read is checked: readers on all sides sum what they read ([`load::sum`], some 20
//! GB/s) and the sums are compared with the truth after the clock has stopped.
//!
//! What is measured is set by the environment, see [`settings`].

// A program has no other crates that its items could be reached from.
#![allow(unreachable_pub)]

mod daemon;
mod data;
mod delay;
mod direct;
mod juicefs;
mod load;
mod machine;
mod mounts;
mod peers;
mod plot;
mod report;
mod rows;
mod settings;
mod sftp;
mod tools;
mod world;

use std::path::{Path, PathBuf};

use report::Report;
use settings::Settings;
use world::World;

fn main() {
    // `cargo test --benches` starts benchmarks too, to see whether they do.
    if !std::env::args().any(|arg| arg == "--bench") {
        return println!("run me by cargo bench");
    }
    let settings = Settings::from_env();
    svol::tls::install();
    let world = World::new(&settings);
    if std::env::var_os("SVOL_BENCH_SERVE").is_some() {
        println!("near {}", world.near);
        println!("far  {}", world.far);
        let _ = std::io::copy(&mut std::io::stdin(), &mut std::io::sink());
        return;
    }
    if settings.has_peer("juicefs") {
        world.juicefs();
    }
    let mut report = Report::new(&settings);
    for (name, measure) in rows::ALL {
        if settings.wants(name) {
            report.show(measure(&world, &settings));
        }
    }
    let out = std::env::var_os("SVOL_BENCH_OUT").map(PathBuf::from);
    let full = || Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/benchmarks");
    if let Some(to) = out.or_else(|| settings.is_full().then(full)) {
        report.write(&to, !settings.is_full());
        println!("\nwritten to {}", to.display());
    }
}
