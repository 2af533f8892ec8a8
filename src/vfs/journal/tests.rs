use std::collections::BTreeMap;
use std::sync::mpsc::Receiver;

use proptest::prelude::*;

use super::record::{Place, Record, put_backed, put_closed, put_dir, put_leaf, put_lookups};
use super::record::{put_began, put_layers, put_opened, read_all};
use super::replay::replay;
use super::*;
use crate::entry::{Entry, Timestamp, Version};
use crate::path::{Name, RelPath};

fn id(name: &str) -> LayerId {
    LayerId {
        name: name.into(),
        identity: format!("memory:{name}").into(),
    }
}

fn open(dir: &Path) -> (Journal, Remembered, Receiver<()>) {
    let (compact, asked) = std::sync::mpsc::sync_channel(1);
    let layers = vec![id("a"), id("b")];
    let (journal, remembered) = Journal::open(dir, |_| layers, compact).unwrap();
    (journal, remembered, asked)
}

fn entry(token: &str) -> Entry {
    let mtime = Some(Timestamp::from_secs(1_700_000_000));
    Entry::file(Name::new("f").unwrap(), 5, mtime, Version::strong(token))
}

fn path(text: &str) -> RelPath {
    RelPath::new(text).unwrap()
}

fn in_file(dir: &Path) -> Remembered {
    let mut remembered = replay(&fs::read(dir.join(FILE)).unwrap()).0;
    remembered.generation = 0;
    remembered
}

/// What a process holds, and how it tells.
#[derive(Debug, Default, Clone)]
struct Living {
    /// Lookups and version.
    inodes: BTreeMap<u64, (u64, u32)>,
    /// Inode and version.
    handles: BTreeMap<u64, (u64, u32)>,
    backed: BTreeMap<u64, u32>,
}

#[derive(Debug, Clone)]
enum Op {
    LookUp(u64, u32),
    Forget(u64),
    Open(u64, u64),
    Close(u64),
    Backed(u64, Option<u32>),
}

impl Living {
    fn put_inode(&self, ino: u64, out: &mut Vec<u8>) {
        let Some((lookups, version)) = self.inodes.get(&ino) else {
            return put_lookups(out, ino, 0);
        };
        let place = format!("dir/{ino}");
        match ino % 3 {
            0 => put_dir(out, ino, *lookups, &path(&place), &entry("")),
            layer => {
                let place = Place {
                    path: &path(&place),
                    layer: layer as usize - 1,
                    source_path: &path(if layer == 1 { &place } else { "other" }),
                    entry: &entry(&version.to_string()),
                };
                put_leaf(out, ino, *lookups, place);
            }
        }
    }

    fn put_handle(&self, handle: u64, out: &mut Vec<u8>) {
        let Some((ino, version)) = self.handles.get(&handle) else {
            return put_closed(out, handle);
        };
        let place = Place {
            path: &path(&format!("dir/{ino}")),
            layer: 1,
            source_path: &path("other"),
            entry: &entry(&version.to_string()),
        };
        put_opened(out, handle, handle * 2, *ino, place);
    }

    /// Does something, then tells the journal.
    fn step(&mut self, op: &Op, journal: &Journal) {
        match *op {
            Op::LookUp(ino, version) => {
                let inode = self.inodes.entry(ino).or_insert((0, version));
                inode.0 += 1;
                if *inode == (inode.0, version) && inode.0 > 1 {
                    let lookups = inode.0;
                    journal.add(|out| put_lookups(out, ino, lookups));
                } else {
                    inode.1 = version;
                    journal.add(|out| self.put_inode(ino, out));
                }
            }
            Op::Forget(ino) => {
                if let Some((lookups, _)) = self.inodes.get_mut(&ino) {
                    *lookups -= 1;
                    let left = *lookups;
                    if left == 0 {
                        self.inodes.remove(&ino);
                    }
                    journal.add(|out| put_lookups(out, ino, left));
                }
            }
            Op::Open(handle, ino) => {
                self.handles.entry(handle).or_insert((ino, 1));
                journal.add(|out| self.put_handle(handle, out));
            }
            Op::Close(handle) => {
                self.handles.remove(&handle);
                journal.add(|out| self.put_handle(handle, out));
            }
            Op::Backed(ino, id) => {
                match id {
                    Some(id) => drop(self.backed.insert(ino, id)),
                    None => drop(self.backed.remove(&ino)),
                }
                journal.add(|out| put_backed(out, ino, id));
            }
        }
        journal.commit();
    }

    /// What another process is to know.
    fn expected(&self) -> Remembered {
        let mut all = Vec::new();
        put_layers(&mut all, &[id("a"), id("b")]);
        self.inodes
            .keys()
            .for_each(|i| self.put_inode(*i, &mut all));
        self.handles
            .keys()
            .for_each(|h| self.put_handle(*h, &mut all));
        let backed = self.backed.iter();
        backed.for_each(|(ino, id)| put_backed(&mut all, *ino, Some(*id)));
        let mut file = MAGIC.to_vec();
        file.extend_from_slice(&VERSION.to_le_bytes());
        file.extend_from_slice(&frame(&all));
        let mut remembered = replay(&file).0;
        remembered.generation = 0;
        remembered
    }

    /// Gives a compaction all that lives, some of it before and some after the steps in between.
    fn compact(&mut self, journal: &Journal, between: &[Op], finish: bool) {
        let mut compaction = journal.begin().unwrap();
        let before: Vec<u64> = self.inodes.keys().copied().collect();
        for (at, ino) in before.iter().enumerate() {
            if at == before.len() / 2 {
                for op in between {
                    self.step(op, journal);
                }
            }
            if self.inodes.contains_key(ino) {
                compaction.add(|out| self.put_inode(*ino, out)).unwrap();
            }
        }
        for handle in self.handles.keys() {
            compaction.add(|out| self.put_handle(*handle, out)).unwrap();
        }
        for (ino, id) in &self.backed {
            compaction
                .add(|out| put_backed(out, *ino, Some(*id)))
                .unwrap();
        }
        // Killed here, all is as in the old file.
        assert_eq!(in_file(&journal.dir), self.expected());
        if finish {
            compaction.finish().unwrap();
        }
    }
}

fn op() -> impl Strategy<Value = Op> {
    let ino = || 2..12_u64;
    let handle = || 1..6_u64;
    prop_oneof![
        4 => (ino(), 0..3_u32).prop_map(|(ino, version)| Op::LookUp(ino, version)),
        3 => ino().prop_map(Op::Forget),
        2 => (handle(), ino()).prop_map(|(handle, ino)| Op::Open(handle, ino)),
        2 => handle().prop_map(Op::Close),
        1 => (ino(), prop::option::of(1..9_u32)).prop_map(|(ino, id)| Op::Backed(ino, id)),
    ]
}

fn ops(most: usize) -> impl Strategy<Value = Vec<Op>> {
    prop::collection::vec(op(), 0..most)
}

fn text() -> impl Strategy<Value = String> {
    "[a-zé][a-z0-9.]{0,9}"
}

fn any_path() -> impl Strategy<Value = RelPath> {
    prop::collection::vec(text(), 1..4).prop_map(|names| path(&names.join("/")))
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: 64,
        failure_persistence: None,
        ..ProptestConfig::default()
    })]

    #[test]
    fn it_tells_what_lives_at_every_moment(
        first in ops(40),
        rounds in prop::collection::vec((ops(30), ops(20), any::<bool>(), any::<bool>()), 0..4),
    ) {
        let dir = tempfile::tempdir().unwrap();
        let (mut journal, _, _asked) = open(dir.path());
        let mut living = Living::default();
        for op in &first {
            living.step(op, &journal);
        }
        prop_assert_eq!(in_file(dir.path()), living.expected());
        for (between, after, finish, replaced) in &rounds {
            living.compact(&journal, between, *finish);
            prop_assert_eq!(in_file(dir.path()), living.expected());
            if *replaced {
                drop(journal);
                let mut left;
                (journal, left, _) = open(dir.path());
                left.generation = 0;
                prop_assert_eq!(left, living.expected());
            }
            for op in after {
                living.step(op, &journal);
                prop_assert_eq!(in_file(dir.path()), living.expected());
            }
        }
    }

    #[test]
    fn records_read_back(
        ino in any::<u64>(),
        numbers in (any::<u64>(), any::<u64>(), any::<u64>(), any::<u32>()),
        paths in (any_path(), any_path(), any::<bool>()),
        texts in (text(), ".{0,20}", prop::option::of(".{0,20}"), any::<bool>()),
        layers in prop::collection::vec((text(), ".{0,30}"), 0..4),
        time in prop::option::of(any::<i64>()),
        size in prop::option::of(any::<u64>()),
    ) {
        let (lookups, handle, request, id) = numbers;
        let (path, source_path, same) = paths;
        let source_path = if same { path.clone() } else { source_path };
        let (name, token, validator, strong) = texts;
        let entry = Entry {
            size,
            validator: validator.map(Into::into),
            version: Version { strong, token: token.as_str().into() },
            ..Entry::file(Name::new(&name).unwrap(), 0, time.map(Timestamp), Version::weak(""))
        };
        let layers: Vec<LayerId> = layers
            .iter()
            .map(|(name, identity)| LayerId {
                name: name.as_str().into(),
                identity: identity.as_str().into(),
            })
            .collect();
        let layer = layers.len();
        let place = Place { path: &path, layer, source_path: &source_path, entry: &entry };
        let mut out = Vec::new();
        put_began(&mut out, lookups);
        put_layers(&mut out, &layers);
        put_dir(&mut out, ino, lookups, &path, &entry);
        put_leaf(&mut out, ino, lookups, place);
        put_lookups(&mut out, ino, lookups);
        put_opened(&mut out, handle, request, ino, place);
        put_closed(&mut out, handle);
        put_backed(&mut out, ino, Some(id));
        put_backed(&mut out, ino, None);
        let at = || record::At {
            layer,
            source_path: source_path.clone(),
            entry: entry.clone(),
        };
        let (dir, leaf) = (record::Thing::Dir(entry.clone()), record::Thing::Leaf(at()));
        let inode = |thing| Record::Inode { ino, lookups, path: path.clone(), thing };
        let expected = vec![
            Record::Began { generation: lookups },
            Record::Layers(layers.clone()),
            inode(dir),
            inode(leaf),
            Record::Lookups { ino, lookups },
            Record::Opened { handle, request, ino, path: path.clone(), at: at() },
            Record::Closed { handle },
            Record::Backed { ino, backing: Some(id) },
            Record::Backed { ino, backing: None },
        ];
        let mut read = Vec::new();
        prop_assert_eq!(read_all(&out, |record| read.push(record)), Some(()));
        prop_assert_eq!(&read, &expected);
        // Cut anywhere, what is whole is read, and nothing else.
        for cut in 0..out.len() {
            let mut some = Vec::new();
            let _ = read_all(&out[..cut], |record| some.push(record));
            prop_assert!(some.len() < expected.len() && expected.starts_with(&some));
        }
    }

    #[test]
    fn no_bytes_are_too_odd(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
        let _ = read_all(&bytes, drop);
        let mut file = MAGIC.to_vec();
        file.extend_from_slice(&VERSION.to_le_bytes());
        file.extend_from_slice(&frame(&bytes));
        prop_assert_eq!(replay(&file).1, file.len());
        file.extend_from_slice(&bytes);
        let _ = replay(&file);
    }
}

#[test]
fn what_is_torn_at_the_end_is_not_there_and_is_written_over() {
    let dir = tempfile::tempdir().unwrap();
    let (journal, _, _asked) = open(dir.path());
    let mut living = Living::default();
    let mut states = vec![(
        fs::metadata(dir.path().join(FILE)).unwrap().len(),
        living.expected(),
    )];
    for op in [
        Op::LookUp(4, 1),
        Op::Open(1, 4),
        Op::LookUp(5, 1),
        Op::Close(1),
    ] {
        living.step(&op, &journal);
        states.push((journal.state().length, living.expected()));
    }
    drop(journal);
    let whole = fs::read(dir.path().join(FILE)).unwrap();
    for cut in states[0].0 as usize..=whole.len() {
        let there = states
            .iter()
            .rev()
            .find(|(length, _)| *length as usize <= cut);
        let other = tempfile::tempdir().unwrap();
        // Half a frame, and one whose end was never written.
        for zeros in [0, 100] {
            let mut torn = whole[..cut].to_vec();
            torn.resize(cut + zeros, 0);
            fs::write(other.path().join(FILE), &torn).unwrap();
            let (journal, mut left, _asked) = open(other.path());
            left.generation = 0;
            assert_eq!(left, there.unwrap().1, "cut at {cut}");
            // And what is written from then on is read.
            journal.add(|out| put_dir(out, 9, 1, &path("d"), &entry("")));
            journal.commit();
            assert!(in_file(other.path()).inodes.contains_key(&9));
        }
    }
}

#[test]
fn another_version_counts_as_empty() {
    let dir = tempfile::tempdir().unwrap();
    let (journal, first, _asked) = open(dir.path());
    Living::default().step(&Op::LookUp(4, 1), &journal);
    drop(journal);
    let file = dir.path().join(FILE);
    let good = fs::read(&file).unwrap();
    let mut other = good.clone();
    other[8] += 1;
    for (bytes, known) in [
        (&good, 1),
        (&other, 0),
        (&b"something else".to_vec(), 0),
        (&vec![], 0),
    ] {
        fs::write(&file, bytes).unwrap();
        let (_, left, _asked) = open(dir.path());
        assert_eq!(left.inodes.len(), known);
        // Its handles are no others'.
        assert!(left.generation > 0);
        if known == 1 {
            assert_eq!(left.generation, first.generation + 1);
        }
        assert!(left.generation < 1 << 24);
    }
}

#[test]
fn a_file_that_cannot_be_written_is_made_anew() {
    let dir = tempfile::tempdir().unwrap();
    let (journal, _, asked) = open(dir.path());
    let mut living = Living::default();
    living.step(&Op::LookUp(4, 1), &journal);
    // As on a full disk.
    journal.state().file = File::open(dir.path().join(FILE)).unwrap();
    living.step(&Op::LookUp(5, 1), &journal);
    assert!(journal.is_broken());
    asked.try_recv().unwrap();
    living.step(&Op::Open(1, 5), &journal);
    asked.try_recv().unwrap();
    assert_ne!(in_file(dir.path()), living.expected());
    let mut compaction = journal.begin().unwrap();
    living.step(&Op::LookUp(7, 1), &journal);
    for ino in [4, 5] {
        compaction.add(|out| living.put_inode(ino, out)).unwrap();
    }
    compaction.add(|out| living.put_handle(1, out)).unwrap();
    compaction.finish().unwrap();
    assert!(!journal.is_broken());
    living.step(&Op::LookUp(8, 1), &journal);
    assert_eq!(in_file(dir.path()), living.expected());
}

#[test]
fn it_is_compacted_when_half_of_it_is_dead_and_stays_within_a_bound() {
    let dir = tempfile::tempdir().unwrap();
    let (journal, _, asked) = open(dir.path());
    let mut living = Living::default();
    let (mut compacted, mut longest) = (0, 0);
    for round in 0..100_000_u64 {
        let ino = 2 + round % 9;
        living.inodes.insert(ino, (1, 1));
        journal.add(|out| living.put_inode(ino, out));
        if round % 8 == 0 {
            journal.commit();
        }
        longest = longest.max(journal.state().length);
        if asked.try_recv().is_ok() {
            living.compact(&journal, &[], true);
            compacted += 1;
            assert!(journal.state().length < 2000);
        }
    }
    assert!(compacted > 2);
    assert!(longest < FLOOR + (LAZY + 100) as u64, "{longest} bytes");
}

#[test]
fn the_format_does_not_change_by_accident() {
    let mut out = Vec::new();
    put_began(&mut out, 3);
    put_layers(&mut out, &[id("a")]);
    put_dir(
        &mut out,
        5,
        2,
        &path("d"),
        &Entry::dir(Name::new("d").unwrap()),
    );
    let entry = entry("v1");
    let place = Place {
        path: &path("d/f"),
        layer: 0,
        source_path: &path("f"),
        entry: &entry,
    };
    put_leaf(&mut out, 6, 1, place);
    put_lookups(&mut out, 6, 300);
    put_opened(&mut out, 1 << 40, 2, 6, place);
    put_backed(&mut out, 6, Some(1));
    // Whoever changes this changes `VERSION`: another release may have written the file.
    assert_eq!(blake3::hash(&out).to_hex()[..16], *GOLDEN);
}

const GOLDEN: &str = "73292d069cee056f";
