//! Damages random files of a warm cache at random places, mounts it and reads everything: the right
//! bytes, whatever was damaged; a clean cache afterwards, and an account that is right.
//!
//! `SVOL_ROT_ROUNDS` asks for more; `SVOL_CRASH_SEED` repeats them.

mod common;

use std::os::unix::fs::{FileExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use common::chaos::{CacheCommand, Compared, Dice, File, disk_usage, files, files_below, number};
use common::mount::{Mount, Place};
use common::store::Store;
use rustix::process::Signal;

/// Rounds, unless told otherwise.
const ROUNDS: u64 = 12;

/// How long a mount on a damaged cache may take, on a machine that is busy with other things.
const AT_ONCE: Duration = Duration::from_secs(20);

fn mount(place: &Place, store: &Store, cache: &Path) -> Mount {
    let begun = Instant::now();
    let mount = place.mount_with("mnt", &[&store.tree()], |command| {
        command.env("SVOL_CACHE_DIR", cache);
        command.env("SVOL_CACHE_SIZE", "1GiB");
    });
    let took = begun.elapsed();
    assert!(took < AT_ONCE, "{took:?}");
    mount
}

/// A cache with blobs, packs and partials, left as a daemon that is killed leaves it.
fn warm(place: &Place, store: &Store, all: &[File], cache: &Path) {
    let mut mount = mount(place, store, cache);
    let compared = Compared::default();
    let (whole, parts) = all.split_at(all.len() * 2 / 3);
    compared.all(&mount, whole);
    for file in parts {
        // Somewhere, so that grains before and after are missing.
        let opened = std::fs::File::open(mount.path(&file.path)).unwrap();
        let at = file.bytes.len() as u64 / 3;
        let mut buf = vec![0; (file.bytes.len() / 3).min(30_000)];
        opened.read_exact_at(&mut buf, at).unwrap();
    }
    let cached = CacheCommand {
        place,
        dir: cache,
        limit: "1GiB",
    };
    // What waits for others is written within 50 ms; seals take a little longer.
    common::wait_until("a cache at rest", || {
        std::thread::sleep(Duration::from_millis(500));
        cached.used() == disk_usage(cache)
    });
    mount.kill();
}

/// Does one damage to a file; says what.
fn damage(path: &Path, dice: &mut Dice) -> String {
    let metadata = std::fs::metadata(path).unwrap();
    let len = metadata.len();
    std::fs::set_permissions(path, PermissionsExt::from_mode(0o600)).unwrap();
    let file = std::fs::File::options()
        .read(true)
        .write(true)
        .open(path)
        .unwrap();
    let at = dice.below(len.max(1));
    let what = match dice.below(8) {
        0 => {
            file.set_len(at).unwrap();
            format!("cut to {at} of {len}")
        }
        1 => {
            file.set_len(len + 1 + dice.below(10_000)).unwrap();
            "made longer by zeros".to_owned()
        }
        2 => {
            let at = at / 4096 * 4096;
            let page = vec![0; 4096.min(len - at.min(len)) as usize];
            file.write_all_at(&page, at).unwrap();
            format!("a page of zeros at {at}")
        }
        3 => {
            let junk = common::noise(dice.below(u64::MAX), 512.min(len - at.min(len)) as usize);
            file.write_all_at(&junk, at).unwrap();
            format!("junk at {at}")
        }
        4 if dice.below(3) == 0 => {
            std::fs::remove_file(path).unwrap();
            return "removed".to_owned();
        }
        _ if len > 0 => {
            let mut byte = [0];
            file.read_exact_at(&mut byte, at).unwrap();
            byte[0] ^= 1 << dice.below(8);
            file.write_all_at(&byte, at).unwrap();
            format!("a bit flipped at {at}")
        }
        _ => "nothing".to_owned(),
    };
    // As rot does.
    file.set_modified(metadata.modified().unwrap()).unwrap();
    std::fs::set_permissions(path, metadata.permissions()).unwrap();
    what
}

/// A file to damage: each kind as often, however many there are of it.
fn victim(cache: &Path, dice: &mut Dice) -> PathBuf {
    let all = files_below(cache);
    let kinds: [fn(&str) -> bool; 10] = [
        |p| p.contains("/blob/") && !p.ends_with(".grains"),
        |p| p.contains("/blob/") && p.ends_with(".grains"),
        |p| p.contains("/partial/") && !p.ends_with(".grains"),
        |p| p.contains("/partial/") && p.ends_with(".grains"),
        |p| p.contains("/pack/"),
        |p| p.contains("/index.db"),
        |p| p.ends_with("/index.db"),
        |p| p.contains("/catalogue.db"),
        |p| p.ends_with("/catalogue.db"),
        |_| true,
    ];
    loop {
        let kind = dice.one_of(&kinds);
        let of_it: Vec<_> = all.iter().filter(|p| kind(p.to_str().unwrap())).collect();
        if !of_it.is_empty() {
            return (*dice.one_of(&of_it)).clone();
        }
    }
}

#[test]
fn no_byte_is_wrong_whatever_is_damaged() {
    let rounds = number("SVOL_ROT_ROUNDS").unwrap_or(ROUNDS);
    let mut dice = Dice::seeded("rot");
    let place = Place::new();
    let all = files("d", 2, &mut dice);
    let objects = all.iter().map(|f| (f.path.as_str(), f.bytes.clone()));
    let store = Store::with(objects);
    let template = place.path("template");
    warm(&place, &store, &all, &template);
    let compared = Compared::default();
    let mut done = 0;
    for round in 0..rounds {
        let cache = place.path("cache");
        let copied = std::process::Command::new("cp")
            .args(["-a".as_ref(), template.as_os_str(), cache.as_os_str()])
            .status();
        assert!(copied.unwrap().success());
        // The databases in their logs, as a young cache has them, or in their files.
        if dice.below(3) > 0 {
            for name in ["v1/index.db", "catalogue.db"] {
                let database = rusqlite::Connection::open(cache.join(name)).unwrap();
                let checkpoint = "PRAGMA wal_checkpoint(TRUNCATE)";
                database.query_row(checkpoint, [], |_| Ok(())).unwrap();
            }
        }
        let mut said = Vec::new();
        for _ in 0..=dice.below(3) {
            let victim = victim(&cache, &mut dice);
            let what = damage(&victim, &mut dice);
            let name = victim.strip_prefix(&cache).unwrap().display().to_string();
            said.push(format!("{name}: {what}"));
            done += 1;
        }
        println!("round {round}: {}", said.join("; "));
        let mut daemon = mount(&place, &store, &cache);
        compared.all(&daemon, &all);
        daemon.signal(Signal::TERM);
        drop(daemon);
        let cached = CacheCommand {
            place: &place,
            dir: &cache,
            limit: "1GiB",
        };
        // What was damaged, and nobody had to read, is found by the first.
        cached.verify();
        let (clean, said) = cached.verify();
        assert!(clean, "{said}");
        cached.gc();
        assert_eq!(cached.used(), disk_usage(&cache));
        // And once more, with what there is now.
        let daemon = mount(&place, &store, &cache);
        compared.all(&daemon, &all);
        drop(daemon);
        std::fs::remove_dir_all(&cache).unwrap();
    }
    println!(
        "rot: {rounds} rounds, {done} damages; {} MiB compared, 0 wrong",
        compared.bytes.load(Ordering::Relaxed) >> 20
    );
}
