//! Kills daemons at random points while they fill the cache, mounts again at once over what is left
//! of the mount, and compares every byte.
//!
//! The seed is printed; `SVOL_CRASH_SEED` repeats it (as far as a kill can be repeated) and
//! `SVOL_CRASH_ROUNDS` asks for more. With the feature `failpoints` some daemons die at a named step
//! of the cache's writing instead: `cargo test --features failpoints --test crash`.

mod common;

use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use common::mount::{Mount, Place};
use common::noise;
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
    "pack.appended",
    "index.uncommitted",
    "index.committed",
];

/// A file of the volume.
struct File {
    path: String,
    bytes: Vec<u8>,
}

/// Numbers that are the same for the same seed.
struct Dice(u64);

impl Dice {
    fn below(&mut self, limit: u64) -> u64 {
        // Splitmix64: no need for better here.
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut x = self.0;
        x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (x ^ (x >> 31)) % limit
    }
}

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok()?.parse().ok()
}

/// The files of one source: the sizes at which something changes, and some in between.
fn files(source: &str, dice: &mut Dice) -> Vec<(String, Vec<u8>)> {
    let (kib, mib) = (1 << 10, 1 << 20);
    let mut sizes = vec![0, 1, 20 * mib];
    for edge in [16 * kib, 64 * kib, mib] {
        sizes.extend([edge - 1, edge, edge + 1]);
    }
    sizes.extend((0..40).map(|_| dice.below(200_000) as usize));
    sizes.extend((0..4).map(|_| dice.below(5 << 20) as usize));
    let name = |(n, size): (usize, usize)| {
        let bytes = noise(dice.0 ^ n as u64, size);
        (format!("{source}/dir{}/{n}-{size}", n % 5), bytes)
    };
    sizes.into_iter().enumerate().map(name).collect()
}

#[test]
fn no_byte_is_wrong_after_a_crash() {
    let clock = std::time::UNIX_EPOCH.elapsed().unwrap().as_nanos() as u64;
    let seed = number("SVOL_CRASH_SEED").unwrap_or(clock % 1_000_000_007);
    let rounds = number("SVOL_CRASH_ROUNDS").unwrap_or(ROUNDS);
    println!("SVOL_CRASH_SEED={seed} SVOL_CRASH_ROUNDS={rounds}");
    let mut dice = Dice(seed);

    let place = Place::new();
    let s3 = TestS3::start();
    let nginx = TestNginx::start();
    let (in_bucket, on_web) = (files("s3", &mut dice), files("web", &mut dice));
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let bucket = runtime.block_on(async {
        let bucket = s3.bucket("crash").await;
        s3.put_all(&bucket, in_bucket.clone()).await;
        bucket
    });
    for (path, bytes) in &on_web {
        let to = nginx.root.join(path);
        std::fs::create_dir_all(to.parent().unwrap()).unwrap();
        std::fs::write(to, bytes).unwrap();
    }
    let all = in_bucket.into_iter().chain(on_web);
    let files: Vec<File> = all.map(|(path, bytes)| File { path, bytes }).collect();
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

    for round in 0..rounds {
        let cache = place.path(&format!("cache-{round}"));
        let world = World {
            place: &place,
            volume: &volume,
            cache: &cache,
            files: &files,
            limit: if dice.below(3) == 0 { TIGHT } else { "1GiB" },
        };
        world.round(round, &mut dice);
        std::fs::remove_dir_all(&cache).unwrap();
    }
}

struct World<'a> {
    place: &'a Place,
    volume: &'a Path,
    cache: &'a Path,
    files: &'a [File],
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
        self.read_all(&again);
        if let Some(survivor) = &survivor {
            self.read_all(survivor);
        }
        let beside = survivor.is_some();
        drop((again, survivor));
        let (used, on_disk) = (self.used(), disk_usage(&self.cache.join("v1")));
        assert!(
            used.abs_diff(on_disk) <= SLACK + on_disk / 10,
            "the cache says {used}, the disk {on_disk}"
        );
        self.ok("verify");
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
        let mount = self.place.mount_with(name, &args, |command| {
            command
                .env("SVOL_CACHE_DIR", self.cache)
                .env("SVOL_CACHE_SIZE", self.limit)
                .env("AWS_ACCESS_KEY_ID", ACCESS)
                .env("AWS_SECRET_ACCESS_KEY", SECRET)
                .env("AWS_REGION", "us-east-1");
            if let Some(step) = step {
                command.env("SVOL_FAILPOINT", step);
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

    /// Reads every file and compares it.
    fn read_all(&self, mount: &Mount) {
        let next = AtomicUsize::new(0);
        std::thread::scope(|scope| {
            for _ in 0..READERS {
                scope.spawn(|| {
                    while let Some(file) = self.files.get(next.fetch_add(1, Ordering::Relaxed)) {
                        let bytes = mount.read(&file.path);
                        assert!(bytes == file.bytes, "{} is wrong after a crash", file.path);
                    }
                });
            }
        });
    }

    fn cache_command(&self, what: &[&str]) -> Command {
        let mut command = self.place.command(["cache"]);
        command.args(what).env("SVOL_CACHE_DIR", self.cache);
        command.env("SVOL_CACHE_SIZE", self.limit);
        command
    }

    fn ok(&self, what: &str) {
        let output = self.cache_command(&[what]).output().unwrap();
        assert!(
            output.status.success(),
            "svol cache {what}: {}{}",
            String::from_utf8_lossy(&output.stdout),
            String::from_utf8_lossy(&output.stderr)
        );
    }

    /// What the cache says that it uses on disk.
    fn used(&self) -> u64 {
        let output = self.cache_command(&["stats", "--json"]).output().unwrap();
        let stats: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
        stats["usedBytes"].as_u64().unwrap()
    }
}

/// What the files below `dir` take on disk, without the index.
fn disk_usage(dir: &Path) -> u64 {
    let mut sum = 0;
    let mut todo = vec![dir.to_owned()];
    while let Some(dir) = todo.pop() {
        for entry in std::fs::read_dir(&dir).unwrap() {
            let entry = entry.unwrap();
            let metadata = entry.metadata().unwrap();
            if metadata.is_dir() {
                todo.push(entry.path());
            } else if !entry.file_name().to_string_lossy().starts_with("index.db") {
                sum += metadata.blocks() * 512;
            }
        }
    }
    sum
}
