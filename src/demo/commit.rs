//! A commit while the volume is mounted: the tree moves at once.

use std::io::{self, Write};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use super::repository::Repository;
use super::{Stop, World};

/// How long the new commit may take to be seen.
const PATIENCE: Duration = Duration::from_secs(10);

/// When the first commit was made: 2026-01-01 00:00:00 UTC.
const CHANGED: u64 = 1_767_225_600;

/// Two files that belong together: each names the release.
const NAMES: [&str; 2] = ["CHANGES.md", "VERSION"];

/// Commits release `release` of the repository's tree.
pub(super) fn release(repository: &mut Repository, release: u64) -> io::Result<String> {
    let [changes, version] = NAMES;
    repository.commit(
        &[
            (changes, format!("# Release {release}\n")),
            (version, format!("{release}\n")),
        ],
        &format!("Release {release}"),
        CHANGED + release * 3600,
    )
}

/// Makes a commit, asks for it, and looks at both files all the while.
pub(super) fn show(world: &mut World, stop: &Stop, out: &mut dyn Write) -> io::Result<()> {
    let dir = world.mnt().join("release");
    let before = read(&dir)?;
    stop.check()?;
    let commit = release(&mut world.repository, 2)?;
    writeln!(
        out,
        "\nA commit in repo.git ({}), while it is mounted:\n\n$ svol refresh mnt\n",
        commit.get(..12).unwrap_or(&commit)
    )?;
    let done = AtomicBool::new(false);
    let (looks, refreshed) = std::thread::scope(|scope| {
        let reader = scope.spawn(|| look(&dir, &done));
        let refreshed = refresh(world, &dir);
        done.store(true, Ordering::Relaxed);
        let looks = reader
            .join()
            .unwrap_or_else(|_| Err(io::Error::other("the reader ended early")));
        (looks, refreshed)
    });
    let took = refreshed?;
    let looks = looks?;
    let after = read(&dir)?;
    for (name, (old, new)) in NAMES.iter().zip(before.iter().zip(&after)) {
        writeln!(
            out,
            "  release/{name:<12} {:<12} -> {}",
            old.trim(),
            new.trim()
        )?;
    }
    writeln!(
        out,
        "  seen after {} ms; {looks} looks at both files meanwhile, none of half a commit",
        took.as_millis()
    )
}

/// Reads both files.
fn read(dir: &Path) -> io::Result<[String; 2]> {
    let [first, second] = NAMES.map(|name| std::fs::read_to_string(dir.join(name)));
    Ok([first?, second?])
}

/// Asks for the commit, and waits until it is seen.
fn refresh(world: &World, dir: &Path) -> io::Result<Duration> {
    let started = Instant::now();
    world.svol(["refresh".as_ref(), world.mnt().as_os_str()])?;
    while !read(dir)?.iter().all(|text| text.contains('2')) {
        if started.elapsed() > PATIENCE {
            return Err(io::Error::other("the new commit was not seen in time"));
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    Ok(started.elapsed())
}

/// Looks at the files, one after the other, until told to stop: after the new one of the first the
/// old one of the second would be half a commit. Returns how often.
fn look(dir: &Path, done: &AtomicBool) -> io::Result<u64> {
    let mut looks = 0;
    while !done.load(Ordering::Relaxed) {
        let [first, second] = read(dir)?;
        if first.contains('2') && !second.contains('2') {
            return Err(io::Error::other("a reader saw half of a commit"));
        }
        looks += 1;
    }
    Ok(looks)
}
