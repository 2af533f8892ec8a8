//! A world, and those who read it in many ways, compare every byte, and measure how long they wait.

use std::collections::BTreeMap;
use std::fs::File;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::Scope;
use std::time::{Duration, Instant};

use super::common::mapping::Mapping;
use super::common::mount::Mount;
use super::common::store::Store;
use super::common::{noise, wait_until};

/// Files that are read again and again, and how large they are.
const LARGE: u64 = 6;
const SIZE: usize = 3 << 20;

/// Files that nobody has read yet, and how large they are.
const COLD: u64 = 4_000;
const SMALL: usize = 20_000;

/// Directories of files that are only walked through.
const DIRS: u64 = 12;
const NAMES: u64 = 15;

/// What a read at random reads.
const PIECE: usize = 16 << 10;

/// Numbers that are the same each time.
pub(super) struct Dice(u64);

impl Dice {
    pub(super) fn new(seed: u64) -> Dice {
        Dice(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    pub(super) fn below(&mut self, end: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % end
    }
}

/// What is mounted.
pub(super) struct World {
    pub(super) store: Store,
    large: Vec<Vec<u8>>,
}

impl World {
    pub(super) fn new() -> World {
        let store = Store::start();
        let large: Vec<Vec<u8>> = (0..LARGE).map(|seed| noise(seed, SIZE)).collect();
        for (i, bytes) in large.iter().enumerate() {
            store.put(&format!("large{i}"), bytes.clone());
        }
        for i in 0..COLD {
            store.put(&format!("cold/{i:04}"), cold(i));
        }
        for dir in 0..DIRS {
            for name in 0..NAMES {
                store.put(&format!("walk/{dir}/sub/{name}"), vec![b'x'; name as usize]);
            }
        }
        World { store, large }
    }

    /// Has half of the large files passed through from now on.
    pub(super) fn warm(&self, mount: &Mount) {
        for (i, bytes) in self.large.iter().enumerate().skip(LARGE as usize / 2) {
            assert!(&mount.read(&format!("large{i}")) == bytes);
        }
    }
}

/// Small, and made in no time.
fn cold(number: u64) -> Vec<u8> {
    let mut bytes = number.to_le_bytes().repeat(SMALL / 8);
    bytes.truncate(SMALL);
    bytes
}

/// The kinds of readers.
const KINDS: [&str; 6] = ["random", "sequential", "mapped", "walk", "cold", "stat"];

/// What one kind did: operations, and the longest in microseconds.
#[derive(Default)]
struct Count {
    done: AtomicU64,
    longest: AtomicU64,
}

/// Those who read, until told to stop.
pub(super) struct Readers<'a> {
    world: &'a World,
    at: PathBuf,
    over: AtomicBool,
    failed: Mutex<Vec<String>>,
    counts: [Count; KINDS.len()],
    next_cold: AtomicU64,
}

/// Reads in one way until told to stop, and tells when each operation began that is done; fails with
/// what went wrong.
type Work<'a> = fn(&Readers<'a>, &dyn Fn(Instant)) -> Result<(), String>;

/// Tells readers to stop when dropped.
pub(super) struct Stopper<'a>(&'a AtomicBool);

impl Drop for Stopper<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::SeqCst);
    }
}

impl<'a> Readers<'a> {
    pub(super) fn new(world: &'a World, at: &Path) -> Readers<'a> {
        Readers {
            world,
            at: at.to_owned(),
            over: AtomicBool::new(false),
            failed: Mutex::default(),
            counts: Default::default(),
            next_cold: AtomicU64::new(0),
        }
    }

    pub(super) fn stopper(&self) -> Stopper<'_> {
        Stopper(&self.over)
    }

    pub(super) fn start<'scope>(&'scope self, scope: &'scope Scope<'scope, '_>) {
        let works: [Work<'a>; KINDS.len()] = [
            Self::random,
            Self::sequential,
            Self::mapped,
            Self::walk,
            Self::cold,
            Self::stat,
        ];
        for (kind, work) in works.into_iter().enumerate() {
            scope.spawn(move || {
                let count = &self.counts[kind];
                let done = |began: Instant| {
                    let took = began.elapsed().as_micros() as u64;
                    count.longest.fetch_max(took, Ordering::SeqCst);
                    count.done.fetch_add(1, Ordering::SeqCst);
                };
                if let Err(error) = work(self, &done) {
                    let failure = format!("{}: {error}", KINDS[kind]);
                    self.failed.lock().unwrap().push(failure);
                }
            });
        }
    }

    /// Waits until each kind has done something more; none may have failed.
    pub(super) fn go_on(&self) {
        let done = || {
            self.counts
                .each_ref()
                .map(|c| c.done.load(Ordering::SeqCst))
        };
        let before = done();
        wait_until("all readers", || {
            let failed = self.failed.lock().unwrap();
            assert!(failed.is_empty(), "{failed:?}");
            done().iter().zip(before).all(|(now, before)| *now > before)
        });
    }

    /// Prints what each kind did.
    pub(super) fn report(&self) {
        for (kind, count) in KINDS.iter().zip(&self.counts) {
            println!(
                "{kind}: {} operations, none failed, no wrong byte, the longest {:?}",
                count.done.load(Ordering::SeqCst),
                Duration::from_micros(count.longest.load(Ordering::SeqCst))
            );
        }
    }

    fn is_over(&self) -> bool {
        self.over.load(Ordering::SeqCst)
    }

    fn large(&self, number: u64) -> Result<File, String> {
        File::open(self.at.join(format!("large{number}"))).map_err(|e| format!("open: {e}"))
    }

    /// Reads here and there in files that are open all the time, past the kernel's pages.
    fn random(&self, done: &dyn Fn(Instant)) -> Result<(), String> {
        let files = (0..LARGE).map(|n| self.large(n));
        let files: Vec<File> = files.collect::<Result<_, _>>()?;
        let (mut dice, mut piece) = (Dice::new(1), vec![0; PIECE]);
        while !self.is_over() {
            let number = dice.below(LARGE) as usize;
            let at = dice.below((SIZE - PIECE) as u64) as usize;
            let began = Instant::now();
            let file = &files[number];
            let _ = rustix::fs::fadvise(file, 0, None, rustix::fs::Advice::DontNeed);
            let read = file.read_exact_at(&mut piece, at as u64);
            read.map_err(|e| format!("large{number} at {at}: {e}"))?;
            if piece != self.world.large[number][at..at + PIECE] {
                return Err(format!("wrong bytes in large{number} at {at}"));
            }
            done(began);
        }
        Ok(())
    }

    /// Opens files and reads them from one end to the other.
    fn sequential(&self, done: &dyn Fn(Instant)) -> Result<(), String> {
        let mut dice = Dice::new(2);
        while !self.is_over() {
            let number = dice.below(LARGE);
            let file = self.large(number)?;
            let _ = rustix::fs::fadvise(&file, 0, None, rustix::fs::Advice::DontNeed);
            let (mut piece, mut at) = (vec![0; 128 << 10], 0);
            while at < SIZE {
                let began = Instant::now();
                let read = file.read_at(&mut piece, at as u64);
                let n = read.map_err(|e| format!("large{number} at {at}: {e}"))?;
                if n == 0 || piece[..n] != self.world.large[number as usize][at..at + n] {
                    return Err(format!("wrong bytes in large{number} at {at}, {n} of them"));
                }
                at += n;
                done(began);
            }
        }
        Ok(())
    }

    /// Touches pages of mapped files, whose descriptors are closed.
    fn mapped(&self, done: &dyn Fn(Instant)) -> Result<(), String> {
        let mut dice = Dice::new(3);
        while !self.is_over() {
            let number = dice.below(LARGE);
            let file = self.large(number)?;
            let _ = rustix::fs::fadvise(&file, 0, None, rustix::fs::Advice::DontNeed);
            let mapping = Mapping::new(&file, SIZE);
            drop(file);
            for _ in 0..40 {
                let at = dice.below((SIZE - PIECE) as u64) as usize;
                let began = Instant::now();
                let want = &self.world.large[number as usize][at..at + PIECE];
                if &mapping.bytes()[at..at + PIECE] != want {
                    return Err(format!("wrong bytes mapped of large{number} at {at}"));
                }
                done(began);
                if self.is_over() {
                    break;
                }
            }
        }
        Ok(())
    }

    /// Walks through a tree, in which names and numbers stay.
    fn walk(&self, done: &dyn Fn(Instant)) -> Result<(), String> {
        let mut first = None;
        while !self.is_over() {
            let mut seen = BTreeMap::new();
            let began = Instant::now();
            walk(&self.at.join("walk"), &mut seen)?;
            done(began);
            let count = (DIRS * (NAMES + 2)) as usize;
            if seen.len() != count {
                return Err(format!("{} names of {count}", seen.len()));
            }
            if *first.get_or_insert_with(|| seen.clone()) != seen {
                return Err("numbers or sizes changed".into());
            }
        }
        Ok(())
    }

    /// Reads files for the first time.
    fn cold(&self, done: &dyn Fn(Instant)) -> Result<(), String> {
        while !self.is_over() {
            let number = self.next_cold.fetch_add(1, Ordering::SeqCst) % COLD;
            let began = Instant::now();
            let name = format!("cold/{number:04}");
            let bytes = std::fs::read(self.at.join(&name)).map_err(|e| format!("{name}: {e}"))?;
            if bytes != cold(number) {
                return Err(format!("wrong bytes in {name}"));
            }
            done(began);
        }
        Ok(())
    }

    /// Asks for names that are there and for some that are not.
    fn stat(&self, done: &dyn Fn(Instant)) -> Result<(), String> {
        let mut dice = Dice::new(4);
        while !self.is_over() {
            let number = dice.below(COLD);
            let began = Instant::now();
            let name = format!("cold/{number:04}");
            let meta = std::fs::metadata(self.at.join(&name));
            let meta = meta.map_err(|e| format!("stat {name}: {e}"))?;
            if meta.len() != SMALL as u64 {
                return Err(format!("{name} has {} bytes", meta.len()));
            }
            let absent = std::fs::metadata(self.at.join(format!("cold/none{number}")));
            match absent {
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
                other => return Err(format!("a name that is not there: {other:?}")),
            }
            done(began);
        }
        Ok(())
    }
}

fn walk(dir: &Path, seen: &mut BTreeMap<PathBuf, (u64, u64)>) -> Result<(), String> {
    let failed = |e: std::io::Error| format!("{}: {e}", dir.display());
    for item in std::fs::read_dir(dir).map_err(failed)? {
        let path = item.map_err(failed)?.path();
        let meta = std::fs::symlink_metadata(&path).map_err(failed)?;
        let size = if meta.is_dir() { 0 } else { meta.len() };
        seen.insert(path.clone(), (meta.ino(), size));
        if meta.is_dir() {
            walk(&path, seen)?;
        }
    }
    Ok(())
}
