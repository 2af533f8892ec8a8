//! Kills daemons at random points while they fill the cache, mounts again at once over what is left
//! of the mount, and compares every byte.
//!
//! The seed is printed; `SVOL_CRASH_SEED` repeats it (as far as a kill can be repeated) and
//! `SVOL_CRASH_ROUNDS` asks for more. With the feature `failpoints` some daemons die at a named step
//! of the cache's writing instead: `cargo test --features failpoints --test crash`.

mod common;

use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use common::chaos::{CacheCommand, Compared, Dice, File, disk_usage, files, number};
use common::mount::{Mount, Place};
use common::s3::{ACCESS, SECRET, TestS3};
use common::web::TestNginx;

/// Rounds, unless told otherwise.
const ROUNDS: u64 = 15;

/// Readers of each mount, while it lives.
const READERS: usize = 4;

/// The longest that a daemon lives after its first reader began, in milliseconds: by then half
/// of the files are here.
const LIFE: u64 = 700;

/// The most daemons that die one after the other on one cache, before it is looked at.
const DEATHS: u64 = 3;

/// The cache's limit in some rounds: half of what there is to read.
const TIGHT: &str = "40MiB";

/// What the cache's account and the disk may differ by: a tenth, and what a crash may leave
/// unaccounted until `svol cache gc` (a batch of each file that was being written).
const SLACK: u64 = 4 << 20;

/// How long a mount may take to serve in place of a dead one.
const PATIENCE: Duration = Duration::from_secs(30);

/// Steps of the cache at which a daemon may die, if it was built for that.
const STEPS: &[&str] = &[
    "create.row",
    "create.data",
    "create.sidecar",
    "create.sized",
    "fill.data",
    "fill.hashes",
    "seal.verified",
    "seal.intended",
    "seal.synced",
    "seal.flagged",
    "seal.sidecar-renamed",
    "seal.renamed",
    "seal.placed",
    "seal.recorded",
    "pack.row",
    "pack.made",
    "pack.appended",
    "evict.sidecar",
    "evict.unlinked",
    "index.uncommitted",
    "index.committed",
];

#[test]
fn no_byte_is_wrong_after_a_crash() {
    let rounds = number("SVOL_CRASH_ROUNDS").unwrap_or(ROUNDS);
    let mut dice = Dice::seeded("crash");

    let place = Place::new();
    let s3 = TestS3::start();
    let nginx = TestNginx::start();
    let (in_bucket, on_web) = (files("s3", 20, &mut dice), files("web", 20, &mut dice));
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let bucket = runtime.block_on(async {
        let bucket = s3.bucket("crash").await;
        let objects = in_bucket.iter().map(|f| (f.path.clone(), f.bytes.clone()));
        s3.put_all(&bucket, objects.collect::<Vec<_>>()).await;
        bucket
    });
    for File { path, bytes } in &on_web {
        let to = nginx.root.join(path);
        std::fs::create_dir_all(to.parent().unwrap()).unwrap();
        std::fs::write(to, bytes).unwrap();
    }
    let files: Vec<File> = in_bucket.into_iter().chain(on_web).collect();
    let volume = place.path("volume.yaml");
    let text = format!(
        "apiVersion: sharedvolume.io/v1
kind: Volume
metadata: {{name: crash}}
spec:
  layers:
    - s3: {{bucket: {bucket}, endpointUrl: '{}'}}
    - http: {{url: '{}/json/', index: json}}
",
        s3.endpoint, nginx.url
    );
    std::fs::write(&volume, text).unwrap();

    let account = Account::default();
    for round in 0..rounds {
        let cache = place.path(&format!("cache-{round}"));
        let world = World {
            place: &place,
            volume: &volume,
            cache: &cache,
            files: &files,
            account: &account,
            limit: if dice.below(3) == 0 { TIGHT } else { "1GiB" },
        };
        world.round(round, &mut dice);
        std::fs::remove_dir_all(&cache).unwrap();
    }
    let of = |count: &AtomicU64| count.load(Ordering::Relaxed);
    println!(
        "crash: {rounds} rounds, {} daemons killed, {} ended at a named step; {} MiB compared, 0 wrong; slowest mount after a crash {} ms",
        of(&account.killed),
        of(&account.at_step),
        of(&account.compared.bytes) >> 20,
        of(&account.slowest),
    );
}

/// What was done in all rounds.
#[derive(Default)]
struct Account {
    killed: AtomicU64,
    at_step: AtomicU64,
    compared: Compared,
    /// In milliseconds.
    slowest: AtomicU64,
}

struct World<'a> {
    place: &'a Place,
    volume: &'a Path,
    cache: &'a Path,
    files: &'a [File],
    account: &'a Account,
    limit: &'static str,
}

impl World<'_> {
    fn round(&self, round: u64, dice: &mut Dice) {
        let started = Instant::now();
        let mut lives = Vec::new();
        let mut survivor = None;
        for death in 0..=dice.below(DEATHS) {
            if death == 0 && dice.below(2) == 0 {
                survivor = Some(self.mount("b", None));
            }
            lives.push(self.live_and_die(survivor.as_ref(), dice));
        }
        let again = self.mount("a", None);
        self.account.compared.all(&again, self.files);
        if let Some(survivor) = &survivor {
            self.account.compared.all(survivor, self.files);
        }
        let beside = survivor.is_some();
        drop((again, survivor));
        let cached = CacheCommand {
            place: self.place,
            dir: self.cache,
            limit: self.limit,
        };
        let (used, on_disk) = (cached.used(), disk_usage(self.cache));
        assert!(
            used.abs_diff(on_disk) <= SLACK + on_disk / 10,
            "the cache says {used}, the disk {on_disk}"
        );
        let (clean, said) = cached.verify();
        assert!(clean, "{said}");
        cached.gc();
        assert_eq!(cached.used(), disk_usage(self.cache), "after gc");
        println!(
            "round {round}: lived {}{}; cache {} of {}, on disk {} KiB; {:.1} s",
            lives.join(", "),
            if beside { ", beside another" } else { "" },
            used >> 10,
            self.limit,
            on_disk >> 10,
            started.elapsed().as_secs_f64()
        );
    }

    /// One daemon begins over the dead mount of another, is read from, and dies.
    fn live_and_die(&self, survivor: Option<&Mount>, dice: &mut Dice) -> String {
        let life = Duration::from_millis(dice.below(LIFE));
        let step = self.step(dice);
        let mut dying = self.mount("a", step.as_deref());
        let first = dice.below(self.files.len() as u64) as usize;
        let over = &AtomicBool::new(false);
        let (read, by_itself) = std::thread::scope(|scope| {
            let of = |mount: &Mount, spared: bool| {
                let at = mount.at().to_owned();
                (0..READERS)
                    .map(|reader| {
                        let (at, from) = (at.clone(), first + reader * 7);
                        scope.spawn(move || self.read_until(&at, from, over, spared))
                    })
                    .collect::<Vec<_>>()
            };
            let of_dying = of(&dying, false);
            let of_survivor = survivor.map(|mount| of(mount, true));
            // One that is to die by itself gets longer; not all come by their step.
            let patience = if step.is_some() { life * 3 } else { life };
            let by_itself = dying.ends_within(patience);
            dying.kill();
            let how = if by_itself {
                &self.account.at_step
            } else {
                &self.account.killed
            };
            how.fetch_add(1, Ordering::Relaxed);
            // The other one reads on for a while: what the dead one had claimed is free again.
            if survivor.is_some() {
                std::thread::sleep(Duration::from_millis(200));
            }
            over.store(true, Ordering::Relaxed);
            let all = of_dying
                .into_iter()
                .chain(of_survivor.into_iter().flatten());
            let read: u64 = all.map(|reader| reader.join().unwrap()).sum();
            (read, by_itself)
        });
        // The dead mount stays, for the next one to take its place.
        std::mem::forget(dying);
        let step = match (step, by_itself) {
            (Some(step), true) => format!(" until {step}"),
            _ => String::new(),
        };
        format!("{life:?}{step} ({} KiB read)", read >> 10)
    }

    /// The step at which a daemon is to die, if it can.
    fn step(&self, dice: &mut Dice) -> Option<String> {
        let step = STEPS[dice.below(STEPS.len() as u64) as usize];
        let (by_step, skip) = (dice.below(3) > 0, dice.below(4) * dice.below(20));
        (cfg!(feature = "failpoints") && by_step).then(|| format!("{step}:{skip}"))
    }

    fn mount(&self, name: &str, step: Option<&str>) -> Mount {
        let args = ["-c", self.volume.to_str().unwrap()];
        let begun = Instant::now();
        let mount = self.place.mount_with(name, &args, |command| {
            command
                .env("SVOL_CACHE_DIR", self.cache)
                .env("SVOL_CACHE_SIZE", self.limit)
                .env("AWS_ACCESS_KEY_ID", ACCESS)
                .env("AWS_SECRET_ACCESS_KEY", SECRET)
                .env("AWS_REGION", "us-east-1");
            if let Some(step) = step {
                // No other follows one that came by its step.
                command
                    .env("SVOL_FAILPOINT", step)
                    .env("SVOL_NO_TAKEOVER", "true");
            }
        });
        // First the dead mount is there (whose attributes the kernel may remember), then none, then
        // the new one.
        let below = std::fs::metadata(self.place.dir.path()).unwrap().dev();
        let serves = || {
            rustix::fs::statvfs(mount.at()).is_ok()
                && std::fs::metadata(mount.at()).is_ok_and(|now| now.dev() != below)
        };
        let started = Instant::now();
        while !serves() {
            assert!(
                started.elapsed() < PATIENCE,
                "{name} does not serve\n{}",
                mount.log()
            );
            std::thread::sleep(Duration::from_millis(5));
        }
        let took = begun.elapsed().as_millis() as u64;
        self.account.slowest.fetch_max(took, Ordering::Relaxed);
        mount
    }

    /// Reads pieces of files until told to end or until the mount dies. What is read must be right;
    /// and of a mount that is `spared`, everything must be read. Returns the bytes read.
    fn read_until(&self, at: &Path, from: usize, over: &AtomicBool, spared: bool) -> u64 {
        let mut dice = Dice(from as u64);
        let mut read = 0;
        let mut buf = vec![0; 1 << 20];
        for n in 0.. {
            let file = &self.files[(from + n) % self.files.len()];
            let opened = match std::fs::File::open(at.join(&file.path)) {
                Ok(opened) => opened,
                Err(error) if spared => panic!("{}: {error}", file.path),
                Err(_) => return read,
            };
            // From the beginning, or from somewhere.
            let mut offset = dice.below(2) * dice.below(file.bytes.len() as u64 + 1);
            loop {
                if over.load(Ordering::Relaxed) {
                    return read;
                }
                let len = 1 + dice.below(buf.len() as u64) as usize;
                match opened.read_at(&mut buf[..len], offset) {
                    Ok(0) => break,
                    Ok(n) => {
                        let range = offset as usize..offset as usize + n;
                        assert!(
                            buf[..n] == file.bytes[range.clone()],
                            "{}: {range:?}",
                            file.path
                        );
                        offset += n as u64;
                        read += n as u64;
                        let compared = &self.account.compared.bytes;
                        compared.fetch_add(n as u64, Ordering::Relaxed);
                    }
                    Err(error) if spared => panic!("{} at {offset}: {error}", file.path),
                    Err(_) => return read,
                }
            }
            let size = file.bytes.len() as u64;
            assert!(offset >= size, "{}: ends at {offset}", file.path);
        }
        read
    }
}
