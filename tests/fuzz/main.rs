//! Fuzzing: every parser that remote bytes or user files reach, against bytes grown from a kept
//! corpus.
//!
//! Each target runs over all of `tests/fuzz/corpus/TARGET/`, then over inputs made from it by
//! mutation from a fixed seed (`PROPTEST_RNG_SEED`): `FUZZ_RUNS` of them, or for `FUZZ_SECONDS`
//! each (`make fuzz`). `FUZZ_TARGET` takes one alone. What fails is written into the corpus under
//! the name `found-…`, to be kept as a regression once it is mended.
//!
//! Beside what a target itself asserts, an input of N bytes may allocate no more than
//! [`PER_BYTE`] * N + [`FIXED`] at a time and take no longer than [`LIMIT`].
#![cfg(feature = "failpoints")]

mod mutate;

use std::alloc::{GlobalAlloc, Layout, System};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use mutate::Mutator;

/// Bytes that may be held for each byte of an input. An entry is some 200 bytes, its shortest
/// description in a listing some 10.
const PER_BYTE: usize = 512;

/// Bytes that may be held whatever the input: tables of the parsers, a compiled pattern, a cache.
const FIXED: usize = 24 << 20;

/// How long an input may take: hundreds of times what they do, on a busy machine.
const LIMIT: Duration = Duration::from_secs(20);

/// The longest input that is made.
const LONGEST: usize = 16 << 10;

/// Counts what is allocated, and remembers the most.
struct Counting;

static HELD: AtomicUsize = AtomicUsize::new(0);
static MOST: AtomicUsize = AtomicUsize::new(0);

// SAFETY: the system's allocator does all of it.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        let held = HELD.fetch_add(layout.size(), Ordering::Relaxed) + layout.size();
        MOST.fetch_max(held, Ordering::Relaxed);
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, at: *mut u8, layout: Layout) {
        HELD.fetch_sub(layout.size(), Ordering::Relaxed);
        unsafe { System.dealloc(at, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

fn corpus_dir(target: &str) -> PathBuf {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    here.join("tests/fuzz/corpus").join(target)
}

fn corpus(target: &str) -> Vec<(PathBuf, Vec<u8>)> {
    let dir = corpus_dir(target);
    let items = std::fs::read_dir(&dir).unwrap_or_else(|e| panic!("{}: {e}", dir.display()));
    let mut all: Vec<_> = items
        .map(|item| item.unwrap().path())
        .map(|path| (path.clone(), std::fs::read(path).unwrap()))
        .collect();
    all.sort();
    assert!(!all.is_empty(), "{} is empty", dir.display());
    all
}

/// Runs a target on one input; returns what is wrong.
fn run(target: fn(&[u8]), data: &[u8]) -> Result<(), String> {
    let before = HELD.load(Ordering::Relaxed);
    MOST.store(before, Ordering::Relaxed);
    let started = Instant::now();
    catch_unwind(AssertUnwindSafe(|| target(data))).map_err(|panic| {
        let text = panic.downcast_ref::<String>().cloned();
        let text = text.or(panic.downcast_ref::<&str>().map(|s| (*s).to_owned()));
        text.unwrap_or_else(|| "a panic".into())
    })?;
    let (took, held) = (started.elapsed(), MOST.load(Ordering::Relaxed) - before);
    if held > PER_BYTE * data.len() + FIXED {
        return Err(format!(
            "{held} bytes were held for an input of {}",
            data.len()
        ));
    }
    if took > LIMIT {
        return Err(format!("{took:?} for an input of {} bytes", data.len()));
    }
    Ok(())
}

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok()?.parse().ok()
}

/// One test, since what is held is counted for the whole process.
#[test]
fn no_input_is_too_odd() {
    let seed = number("PROPTEST_RNG_SEED").unwrap_or(2026);
    let seconds = number("FUZZ_SECONDS").map(Duration::from_secs);
    let only = std::env::var("FUZZ_TARGET").ok();
    let mut failures = Vec::new();
    for &(name, target) in svol::fuzzing::TARGETS {
        if only.as_deref().is_some_and(|only| only != name) {
            continue;
        }
        let kept = corpus(name);
        for (path, data) in &kept {
            if let Err(why) = run(target, data) {
                failures.push(format!("{}: {why}", path.display()));
            }
        }
        // What works on files, or compiles patterns, does less in the same time.
        let share = match name {
            "cache_directory" => 100,
            "glob" | "volume" | "web_manifest" | "words" => 10,
            _ => 1,
        };
        let runs = number("FUZZ_RUNS").unwrap_or(1_000) / share;
        let seeds: Vec<Vec<u8>> = kept.into_iter().map(|(_, data)| data).collect();
        let mut mutator = Mutator::new(seed, seeds);
        let (started, mut done) = (Instant::now(), 0);
        while seconds.map_or(done < runs, |limit| started.elapsed() < limit) {
            let data = mutator.next(LONGEST);
            done += 1;
            if let Err(why) = run(target, &data) {
                let digest = blake3::hash(&data).to_hex();
                let file = corpus_dir(name).join(format!("found-{}", &digest[..12]));
                std::fs::write(&file, &data).unwrap();
                failures.push(format!("{}: {why}", file.display()));
                break;
            }
        }
        eprintln!("{name}: {done} inputs in {:?}", started.elapsed());
    }
    assert!(failures.is_empty(), "{}", failures.join("\n"));
}
