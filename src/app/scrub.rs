//! The slow scrub: reads the whole cache now and then, to find what rotted on the disk before
//! somebody needs it.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime};

use svol_cache::Cache;
use tracing::{info, warn};

/// How often a cache is read through, by whichever of its processes sees first that it is due.
/// Media rot takes months; a week is early enough, and a disk hardly notices.
const EVERY: Duration = Duration::from_secs(7 * 24 * 3600);

/// How often a process looks whether it is due; also how long it waits before the first look, so
/// that a mount for a moment does not begin what it cannot end.
const LOOK: Duration = Duration::from_secs(3600);

/// Bytes read per second at most: a twentieth of what a slow disk can.
const RATE: u64 = 8 << 20;

/// The file in the cache's directory whose time says when the last scrub began.
const MARK: &str = "scrubbed";

/// Starts scrubbing `cache` in `dir` from time to time, on a thread of its own, for as long as the
/// process lives.
pub(super) fn start(cache: Cache, dir: &Path) {
    let mark = dir.join(MARK);
    let thread = std::thread::Builder::new().name("svol-scrub".into());
    let work = move || {
        loop {
            std::thread::sleep(LOOK);
            if begin_if_due(&mark, SystemTime::now(), EVERY) {
                scrub(&cache, RATE);
            }
        }
    };
    if let Err(error) = thread.spawn(work) {
        warn!(%error, "the cache is not scrubbed");
    }
}

/// Returns whether a scrub is due, and marks it as begun: two processes rarely begin at once, and
/// it is no harm if they do.
fn begin_if_due(mark: &PathBuf, now: SystemTime, every: Duration) -> bool {
    let last = std::fs::metadata(mark).and_then(|m| m.modified());
    // A time in the future is a clock that went back: begin, or it never would.
    let due = last.map_or(true, |at| {
        now.duration_since(at).map_or(true, |d| d >= every)
    });
    due && std::fs::write(mark, "").is_ok()
}

fn scrub(cache: &Cache, rate: u64) {
    let started = Instant::now();
    let report = cache.verify(|progress| {
        let due = Duration::from_secs_f64(progress.done_bytes as f64 / rate as f64);
        std::thread::sleep(due.saturating_sub(started.elapsed()));
    });
    match report {
        Ok(report) if report.is_clean() => info!(bytes = report.bytes, "scrubbed the cache"),
        Ok(report) => warn!(
            bytes = report.bytes,
            blobs = report.bad_blobs,
            grains = report.bad_grains,
            small = report.bad_packed,
            "the cache's disk gave back other bytes than were written; they were dropped and will be fetched again: check the disk"
        ),
        Err(error) => warn!(%error, "could not scrub the cache"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_scrub_begins_once_for_all_processes() {
        let dir = tempfile::tempdir().unwrap();
        let mark = dir.path().join(MARK);
        let now = SystemTime::now();
        assert!(begin_if_due(&mark, now, EVERY));
        assert!(!begin_if_due(&mark, SystemTime::now(), EVERY));
        let later = now + EVERY + Duration::from_secs(60);
        assert!(begin_if_due(&mark, later, EVERY));
        // The clock went back by a year.
        assert!(begin_if_due(&mark, now - 52 * EVERY, EVERY));
    }

    #[test]
    fn a_scrub_keeps_to_its_rate_and_drops_what_rotted() {
        let dir = tempfile::tempdir().unwrap();
        let cache = Cache::open(svol_cache::Config::new(dir.path())).unwrap();
        let size = 4u64 << 20;
        let object = cache.object(svol_cache::ObjectKey::from_bytes([1; 32]), size);
        let mut fill = object.try_claim(0..size).unwrap();
        fill.push(&vec![7; size as usize]).unwrap();
        fill.finish().unwrap();
        while object.digest().is_none() {
            std::thread::sleep(Duration::from_millis(5));
        }
        let blob = find(dir.path(), &object.digest().unwrap().to_hex());
        let started = Instant::now();
        scrub(&cache, 16 << 20);
        assert!(started.elapsed() >= Duration::from_millis(150));
        assert!(blob.exists());
        rot(&blob);
        scrub(&cache, u64::MAX);
        assert!(!blob.exists());
        assert_eq!(object.missing(0..size), [0..size]);
    }

    fn find(dir: &Path, name: &str) -> PathBuf {
        let mut dirs = vec![dir.to_owned()];
        while let Some(dir) = dirs.pop() {
            for item in std::fs::read_dir(dir).unwrap() {
                let path = item.unwrap().path();
                if path.is_dir() {
                    dirs.push(path);
                } else if path.ends_with(name) {
                    return path;
                }
            }
        }
        panic!("no blob {name}");
    }

    fn rot(file: &Path) {
        use std::os::unix::fs::{FileExt, PermissionsExt};
        std::fs::set_permissions(file, std::fs::Permissions::from_mode(0o600)).unwrap();
        let file = std::fs::File::options().write(true).open(file).unwrap();
        file.write_all_at(b"x", 1 << 20).unwrap();
    }
}
