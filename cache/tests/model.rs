//! A cache against a plain model of it: random objects, fills, reads, restarts, damage, eviction.
//!
//! The model knows what every byte must be, so any answer is checkable: what is read is right or
//! is missing, and what was filled is there unless damage or eviction took it.
#![allow(missing_docs)]

mod common;

use std::fs;

use common::*;
use proptest::prelude::*;
use svol_cache::{Cache, Config, Object};

#[derive(Debug, Clone)]
enum Step {
    /// Claims around a place, pushes a part of it in chunks, and gives up or finishes.
    Fill {
        object: usize,
        at: u32,
        len: u32,
        chunk: usize,
        part: u8,
    },
    Read {
        object: usize,
        at: u32,
        len: u32,
    },
    Missing {
        object: usize,
    },
    FillAll {
        object: usize,
    },
    Hold {
        object: usize,
    },
    LetGo {
        object: usize,
    },
    Reopen,
    Gc {
        target: u32,
    },
    Verify,
    /// Flips a bit of the n-th data file or sidecar, while nobody has it open.
    Damage {
        file: u16,
        at: u32,
    },
}

const OBJECTS: usize = 8;

fn step() -> impl Strategy<Value = Step> {
    let object = 0..OBJECTS;
    prop_oneof![
        6 => (object.clone(), any::<u32>(), 1..600_000u32, 1..300_000usize, any::<u8>()).prop_map(
            |(object, at, len, chunk, part)| Step::Fill { object, at, len, chunk, part }),
        8 => (object.clone(), any::<u32>(), 0..300_000u32)
            .prop_map(|(object, at, len)| Step::Read { object, at, len }),
        2 => object.clone().prop_map(|object| Step::Missing { object }),
        2 => object.clone().prop_map(|object| Step::FillAll { object }),
        2 => object.clone().prop_map(|object| Step::Hold { object }),
        2 => object.prop_map(|object| Step::LetGo { object }),
        1 => Just(Step::Reopen),
        1 => (0..4_000_000u32).prop_map(|target| Step::Gc { target }),
        1 => Just(Step::Verify),
        2 => (any::<u16>(), any::<u32>()).prop_map(|(file, at)| Step::Damage { file, at }),
    ]
}

fn size() -> impl Strategy<Value = u64> {
    prop_oneof![
        0..100u64,
        60_000..70_000u64,
        65_537..2_500_000u64,
        (4..40u64).prop_map(|grains| grains * 16_384),
    ]
}

struct World {
    dir: tempfile::TempDir,
    limit: u64,
    cache: Option<Cache>,
    data: Vec<Vec<u8>>,
    held: Vec<Option<Object>>,
}

impl World {
    fn open(&mut self) {
        let config = Config {
            limit: Some(self.limit),
            ..config(self.dir.path())
        };
        self.cache = Some(Cache::open(config).unwrap());
    }

    fn object(&self, number: usize) -> Object {
        let size = self.data[number].len() as u64;
        let cache = self.cache.as_ref().unwrap();
        cache.object(key(number as u64), size)
    }

    fn run(&mut self, step: &Step) {
        match *step {
            Step::Fill {
                object: number,
                at,
                len,
                chunk,
                part,
            } => {
                let object = self.object(number);
                let data = &self.data[number];
                if data.is_empty() {
                    return;
                }
                let at = u64::from(at) % object.size();
                let Some(run) = object.missing(at..at + u64::from(len)).first().cloned() else {
                    return;
                };
                let Some(mut fill) = object.try_claim(run.clone()) else {
                    panic!("{run:?} is missing and nobody's");
                };
                assert!(object.try_claim(run).is_none());
                let range = fill.range();
                let range = range.start as usize..range.end as usize;
                let cut = range.start + range.len() * usize::from(part.saturating_mul(2)) / 255;
                for piece in data[range.start..cut].chunks(chunk) {
                    fill.push(piece).unwrap();
                }
                assert_eq!(fill.finish().is_ok(), cut == range.end);
                if cut == range.end {
                    let mut buf = vec![0; range.len()];
                    let read = object.read_at(range.start as u64, &mut buf);
                    assert_eq!(read, Some(buf.len()));
                    assert_eq!(buf, data[range]);
                }
            }
            Step::Read {
                object: number,
                at,
                len,
            } => {
                let object = self.object(number);
                let data = &self.data[number];
                let at = at as usize % (data.len() + 10);
                let mut buf = vec![0xee; len as usize];
                if let Some(read) = object.read_at(at as u64, &mut buf) {
                    let end = data.len().min(at + len as usize);
                    let expected = data.get(at..end).unwrap_or(&[]);
                    assert_eq!(read, expected.len());
                    assert!(buf[..read] == *expected, "wrong bytes of {number} at {at}");
                }
            }
            Step::Missing { object: number } => {
                let object = self.object(number);
                let size = object.size();
                let missing = object.missing(0..size);
                let mut before = None;
                for run in &missing {
                    assert!(run.start < run.end && run.end <= size);
                    assert!(size <= svol_cache::SMALL || run.start % svol_cache::GRAIN == 0);
                    assert!(before.is_none_or(|before| before < run.start));
                    before = Some(run.end);
                }
            }
            Step::FillAll { object: number } => {
                let object = self.object(number);
                assert_eq!(read_or_fill(&object, &self.data[number]), self.data[number]);
                if let Some(digest) = object.digest() {
                    assert_eq!(digest, blake3::hash(&self.data[number]));
                }
            }
            Step::Hold { object } => self.held[object] = Some(self.object(object)),
            Step::LetGo { object } => self.held[object] = None,
            Step::Reopen => {
                self.held.fill(None);
                self.cache = None;
                self.open();
            }
            Step::Gc { target } => {
                let cache = self.cache.as_ref().unwrap();
                cache.gc(Some(target.into())).unwrap();
            }
            Step::Verify => {
                let cache = self.cache.as_ref().unwrap();
                cache.verify(|_| {}).unwrap();
                assert!(cache.verify(|_| {}).unwrap().is_clean());
            }
            Step::Damage { file, at } => {
                self.held.fill(None);
                self.cache = None;
                let mut files: Vec<_> = ["partial", "blob", "pack"]
                    .iter()
                    .flat_map(|kind| files_of(self.dir.path(), kind))
                    .collect();
                files.retain(|path| fs::metadata(path).unwrap().len() > 0);
                if !files.is_empty() {
                    let path = &files[usize::from(file) % files.len()];
                    let len = fs::metadata(path).unwrap().len();
                    flip(path, u64::from(at) % len);
                }
                self.open();
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: std::env::var("PROPTEST_CASES").ok().and_then(|n| n.parse().ok()).unwrap_or(48),
        failure_persistence: None,
        ..ProptestConfig::default()
    })]

    #[test]
    fn never_a_wrong_byte(
        sizes in proptest::collection::vec(size(), OBJECTS),
        limit in prop_oneof![Just(1u64 << 30), 0..6_000_000u64],
        steps in proptest::collection::vec(step(), 1..60),
    ) {
        let data = (0..).zip(&sizes).map(|(number, size)| content(number, *size)).collect();
        let mut world = World {
            dir: tempfile::tempdir().unwrap(),
            limit,
            cache: None,
            data,
            held: vec![None; OBJECTS],
        };
        world.open();
        for step in &steps {
            world.run(step);
        }
        // In the end everything can be had, and the account is right.
        for number in 0..OBJECTS {
            world.run(&Step::FillAll { object: number });
        }
        world.held.fill(None);
        world.cache = None;
        world.open();
        let cache = world.cache.as_ref().unwrap();
        let used = cache.gc(None).unwrap().used;
        prop_assert_eq!(used, really_used(world.dir.path()));
        prop_assert!(used <= limit + (64 << 10));
    }
}
