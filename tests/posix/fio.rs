//! fio's verify: what it wrote where the source is, it reads on a mount, in every way that it knows.

use std::path::Path;
use std::process::{Command, Output};

use crate::common::mount::Place;
use crate::common::process::program;
use crate::common::web::TestNginx;

/// Engine, pattern, and whether past the page cache.
pub const RUNS: &[(&str, &str, bool)] = &[
    ("psync", "read", false),
    ("psync", "randread", false),
    ("psync", "randread", true),
    ("pvsync2", "randread", false),
    ("mmap", "read", false),
    ("mmap", "randread", false),
    ("libaio", "randread", true),
    ("io_uring", "read", false),
    ("io_uring", "randread", true),
];

const SIZE: &str = "--size=4m";

fn fio(file: &Path, dir: &Path, args: &[&str]) -> Output {
    Command::new(program("fio"))
        .args([
            "--name=verify",
            SIZE,
            "--bs=4k",
            "--verify=crc32c",
            "--verify_fatal=1",
        ])
        .arg(format!("--filename={}", file.display()))
        .args(args)
        // Where it leaves its own notes.
        .current_dir(dir)
        .output()
        .unwrap()
}

fn verify(file: &Path, dir: &Path, run: &(&str, &str, bool)) -> Output {
    let (engine, pattern, direct) = run;
    let mut args = vec![
        "--readonly".to_owned(),
        format!("--ioengine={engine}"),
        format!("--rw={pattern}"),
        format!("--direct={}", u8::from(*direct)),
        "--iodepth=16".to_owned(),
    ];
    // More than one process where they share the page cache.
    if !direct {
        args.push("--numjobs=2".to_owned());
    }
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    fio(file, dir, &args)
}

#[test]
fn fio_verifies_what_it_wrote_at_the_source() {
    let place = Place::new();
    let nginx = TestNginx::start();
    let notes = place.path("notes");
    std::fs::create_dir(&notes).unwrap();
    let written = nginx.root.join("good");
    let wrote = fio(
        &written,
        &notes,
        &["--rw=write", "--do_verify=0", "--ioengine=psync"],
    );
    assert!(wrote.status.success(), "{wrote:?}");
    // One file for each run, so that each begins with nothing in any cache; and one that is wrong.
    for i in 0..RUNS.len() {
        std::fs::copy(&written, nginx.root.join(format!("f{i}"))).unwrap();
    }
    let mut bad = std::fs::read(&written).unwrap();
    bad[2_500_000] ^= 1;
    std::fs::write(nginx.root.join("bad"), bad).unwrap();

    let mount = place.mount(&[&format!("{}/json/", nginx.url)]);
    for (i, run) in RUNS.iter().enumerate() {
        let output = verify(&mount.path(&format!("f{i}")), &notes, run);
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.success(), "{run:?}: {said}\n{}", mount.log());
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(text.contains("err= 0"), "{run:?}: {text}");
    }
    // It would have said so.
    for run in RUNS {
        assert!(
            !verify(&mount.path("bad"), &notes, run).status.success(),
            "{run:?}"
        );
    }
}
