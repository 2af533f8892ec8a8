//! Cuts the power of the cache's disk at random moments, and mounts what the disk would then hold.
//!
//! The cache is on an ext4 in an image file, behind a loop device. The image file is on an XFS,
//! which clones files in one atomic step: a clone is the disk as it is after a power cut at that
//! moment, with all that was not yet written back missing, and its journal to be replayed. Beside
//! the readers somebody syncs at random, so that a clone holds some of what was written and not
//! the rest.
//!
//! A disk's own cache is taken to be kept (no write that the disk has acknowledged is dropped).
//! `SVOL_POWER_LIVES` asks for more; `SVOL_CRASH_SEED` repeats the choices.

mod common;

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use common::chaos::{CacheCommand, Compared, Dice, File, disk_usage, files, files_below, number};
use common::disk::{Disk, in_own_mounts, make_image};
use common::mount::{Mount, Place};
use common::store::Store;

/// Lives of a disk, unless told otherwise.
const LIVES: u64 = 2;

/// Power cuts in each.
const CUTS: u64 = 3;

/// The longest between two cuts, in milliseconds.
const LIFE: u64 = 900;

/// Bytes of the disk that holds the cache.
const DISK: u64 = 160 << 20;

/// The cache's limit: in some lives half of what there is to read.
const LIMITS: &[&str] = &["1GiB", "1GiB", "12MiB"];

/// How the journal goes about data.
const JOURNAL: &[&str] = &[
    "data=ordered",
    "data=ordered,commit=1",
    "data=writeback,commit=1",
];

/// What the account may be off soon after: blocks of files that are just being written.
const SLACK: u64 = 256 << 10;

/// How long it may take until all is accounted for.
const PATIENCE: Duration = Duration::from_secs(60);

/// How long a mount after a power cut may take, on a machine that is busy with other things.
const AT_ONCE: Duration = Duration::from_secs(20);

struct World<'a> {
    place: &'a Place,
    store: &'a Store,
    files: &'a [File],
    outer: &'a Path,
    compared: Compared,
    slowest: AtomicU64,
    most_lost: AtomicU64,
    unclean: AtomicU64,
}

#[test]
fn no_byte_is_wrong_after_a_power_cut() {
    if !in_own_mounts("no_byte_is_wrong_after_a_power_cut") {
        return;
    }
    let mut dice = Dice::seeded("power");
    let lives = number("SVOL_POWER_LIVES").unwrap_or(LIVES);
    let place = Place::new();
    let files = files("d", 6, &mut dice);
    let objects = files.iter().map(|f| (f.path.as_str(), f.bytes.clone()));
    let store = Store::with(objects);

    // The smallest that mkfs.xfs makes is 300 MB.
    let image = place.path("outer.img");
    make_image(&image, 4 << 30, &["mkfs.xfs", "-q", "-m", "reflink=1"]);
    let outer = Disk::image(&image, &place.path("outer"), "noatime");
    let world = World {
        place: &place,
        store: &store,
        files: &files,
        outer: outer.at(),
        compared: Compared::default(),
        slowest: Default::default(),
        most_lost: Default::default(),
        unclean: Default::default(),
    };
    let mut cuts = 0;
    let mut before = None;
    for life in 0..lives {
        let limit = dice.one_of(LIMITS);
        let images = world.live(life, before.take(), limit, &mut dice);
        cuts += images.len();
        for image in &images {
            world.check(image, limit);
        }
        // The next life begins new, or where this one's last power cut left it.
        before = images
            .into_iter()
            .next_back()
            .filter(|_| dice.below(2) == 0);
        for old in files_below(outer.at()) {
            if Some(&old) != before.as_ref() {
                std::fs::remove_file(old).unwrap();
            }
        }
    }
    println!(
        "power: {lives} disks, {cuts} power cuts; {} MiB compared, 0 wrong; {} reads not to be had offline; slowest mount {} ms; at most {} KiB not accounted for at first, then all; {} disks held bytes that verify dropped",
        world.compared.bytes.load(Ordering::Relaxed) >> 20,
        world.compared.errors.load(Ordering::Relaxed),
        world.slowest.load(Ordering::Relaxed),
        world.most_lost.load(Ordering::Relaxed) >> 10,
        world.unclean.load(Ordering::Relaxed),
    );
    assert!(cuts > 0 && world.compared.bytes.load(Ordering::Relaxed) > 1 << 20);
}

impl World<'_> {
    /// A disk is used by one or two daemons; returns what it held at each power cut.
    fn live(
        &self,
        life: u64,
        before: Option<PathBuf>,
        limit: &str,
        dice: &mut Dice,
    ) -> Vec<PathBuf> {
        let image = self.outer.join("disk.img");
        match before {
            Some(before) => std::fs::rename(before, &image).unwrap(),
            None => make_image(
                &image,
                DISK,
                &["mkfs.ext4", "-q", "-E", "lazy_itable_init=0"],
            ),
        }
        let journal = *dice.one_of(JOURNAL);
        let disk = Disk::image(&image, &self.place.path("disk"), journal);
        let cache = disk.at().join("cache");
        let mut daemons = vec![self.mount("a", &cache, limit)];
        if dice.below(2) == 0 {
            daemons.push(self.mount("b", &cache, limit));
        }
        let over = &AtomicBool::new(false);
        let mut images = Vec::new();
        // So slow that the cache fills for most of the life.
        self.store.pace(Duration::from_millis(dice.below(12)));
        std::thread::scope(|scope| {
            for daemon in &daemons {
                for seed in [dice.below(u64::MAX), dice.below(u64::MAX)] {
                    scope.spawn(move || self.read_until(daemon, seed, over));
                }
            }
            let (seed, at) = (dice.below(u64::MAX), disk.at());
            scope.spawn(move || sync_at_random(at, seed, over));
            for cut in 0..CUTS {
                std::thread::sleep(Duration::from_millis(dice.below(LIFE)));
                let clone = self.outer.join(format!("cut-{life}-{cut}.img"));
                let from = std::fs::File::open(&image).unwrap();
                let to = std::fs::File::create(&clone).unwrap();
                rustix::fs::ioctl_ficlone(&to, &from).unwrap();
                images.push(clone);
            }
            over.store(true, Ordering::Relaxed);
        });
        for daemon in &mut daemons {
            daemon.kill();
        }
        self.store.pace(Duration::ZERO);
        images
    }

    /// What is on the disk after the power is back: serves at once, offline and online, and never
    /// a wrong byte.
    fn check(&self, image: &Path, limit: &str) {
        let started = Instant::now();
        let disk = Disk::image(image, &self.place.path("disk"), "data=ordered");
        let cache = disk.at().join("cache");
        let replayed = started.elapsed();
        self.store.stop();
        let begun = Instant::now();
        let mount = self.mount("a", &cache, limit);
        let took = begun.elapsed();
        assert!(took < AT_ONCE, "{took:?}\n{}", mount.log());
        self.slowest
            .fetch_max(took.as_millis() as u64, Ordering::Relaxed);
        let cached = CacheCommand {
            place: self.place,
            dir: &cache,
            limit,
        };
        let lost = cached.used().abs_diff(disk_usage(&cache));
        self.most_lost.fetch_max(lost, Ordering::Relaxed);
        self.compared.what_there_is(&mount, self.files);
        drop(mount);
        self.store.resume();

        // Bytes that never came to the disk may have left their hashes there. (What the index does
        // not know yet is not verified either.)
        let (clean, first) = cached.verify();
        self.unclean.fetch_add(u64::from(!clean), Ordering::Relaxed);

        let mut mount = self.mount("a", &cache, limit);
        self.compared.all(&mount, self.files);
        // The index lacks its last commits. Nobody asks for it, and soon all is accounted for.
        let in_use = Instant::now();
        loop {
            let (used, on_disk) = (cached.used(), disk_usage(&cache));
            if used.abs_diff(on_disk) <= SLACK {
                break;
            }
            assert!(
                in_use.elapsed() < PATIENCE,
                "the cache says {used}, the disk {on_disk}\n{}",
                mount.log()
            );
            std::thread::sleep(Duration::from_millis(100));
        }
        mount.signal(rustix::process::Signal::TERM);
        drop(mount);
        let (clean, said) = cached.verify();
        assert!(clean, "{said}");
        cached.gc();
        let (used, on_disk) = (cached.used(), disk_usage(&cache));
        assert_eq!(used, on_disk, "after gc");
        println!(
            "{}: journal replayed in {replayed:?}, mounted in {took:?}, {lost} bytes not accounted for at first; {}",
            image.file_name().unwrap().to_string_lossy(),
            first.lines().next().unwrap_or_default()
        );
    }

    fn mount(&self, name: &str, cache: &Path, limit: &str) -> Mount {
        let tree = self.store.tree();
        self.place
            .mount_with(name, &["--timeout", "2s", &tree], |command| {
                command.env("SVOL_CACHE_DIR", cache);
                command.env("SVOL_CACHE_SIZE", limit);
            })
    }

    fn read_until(&self, mount: &Mount, seed: u64, over: &AtomicBool) {
        let mut dice = Dice(seed);
        while !over.load(Ordering::Relaxed) {
            let file = dice.one_of(self.files);
            let bytes = mount.read(&file.path);
            assert!(bytes == file.bytes, "{} is wrong", file.path);
            let bytes = bytes.len() as u64;
            self.compared.bytes.fetch_add(bytes, Ordering::Relaxed);
        }
    }
}

/// Has now this and now that written back, so that the disk lags behind by different amounts.
fn sync_at_random(disk: &Path, seed: u64, over: &AtomicBool) {
    let mut dice = Dice(seed);
    while !over.load(Ordering::Relaxed) {
        std::thread::sleep(Duration::from_millis(dice.below(60)));
        match dice.below(4) {
            0 => {
                let top = std::fs::File::open(disk).unwrap();
                rustix::fs::syncfs(top).unwrap();
            }
            1 => {
                // Ends a transaction of the journal, and with it all names and sizes.
                let top = std::fs::File::open(disk).unwrap();
                top.sync_all().unwrap();
            }
            _ => {
                let all = files_below(&disk.join("cache"));
                if !all.is_empty()
                    && let Ok(file) = std::fs::File::open(dice.one_of(&all))
                {
                    let _ = file.sync_data();
                }
            }
        }
    }
}
