//! What a journal's records come to.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use super::record::{At, LayerId, Record, Thing, read_all};
use super::{FRAME, HEADER, MAGIC, VERSION, checksum};
use crate::entry::{Entry, Timestamp};
use crate::path::RelPath;

/// What earlier processes left.
#[derive(Debug, Default, PartialEq, Eq)]
pub(in crate::vfs) struct Remembered {
    /// How many processes there were, this one included: their handles' numbers differ by it.
    pub(in crate::vfs) generation: u64,
    pub(in crate::vfs) inodes: HashMap<u64, Inode>,
    pub(in crate::vfs) handles: HashMap<u64, Opened>,
    /// What the kernel calls the files that it reads open inodes from itself.
    pub(in crate::vfs) backed: HashMap<u64, u32>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::vfs) struct Inode {
    pub(in crate::vfs) lookups: u64,
    pub(in crate::vfs) path: RelPath,
    pub(in crate::vfs) what: What,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::vfs) enum What {
    Dir(Entry),
    Leaf(Leaf),
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::vfs) struct Leaf {
    pub(in crate::vfs) layer: Arc<LayerId>,
    pub(in crate::vfs) source_path: RelPath,
    pub(in crate::vfs) entry: Entry,
}

/// An open file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::vfs) struct Opened {
    /// The kernel's request that it answered.
    pub(in crate::vfs) request: u64,
    pub(in crate::vfs) ino: u64,
    pub(in crate::vfs) path: RelPath,
    pub(in crate::vfs) leaf: Leaf,
}

/// Returns what the file `bytes` tells, and how much of it is whole frames; none of it if it is not
/// a journal of this version.
pub(super) fn replay(bytes: &[u8]) -> (Remembered, usize) {
    let mut state = Replay::default();
    let whole = frames(bytes, |records| {
        // A record that makes no sense, which a checksum rules out, ends its frame.
        let _ = read_all(records, |record| state.take(record));
    });
    let mut known = state.known;
    known.generation = match whole {
        // Nobody can tell which handles there were: none of this moment's, in all likelihood.
        0 => 0x80_0000 | ((Timestamp::now().0 as u64 >> 20) & 0x7f_ffff),
        _ => known.generation + 1,
    };
    let open: HashSet<u64> = known.handles.values().map(|open| open.ino).collect();
    known.backed.retain(|ino, _| open.contains(ino));
    teach(&mut known.handles);
    (known, whole)
}

/// What one handle's reader was taught of a version holds for all of them.
fn teach(handles: &mut HashMap<u64, Opened>) {
    let mut taught: HashMap<u64, Entry> = HashMap::new();
    for open in handles.values() {
        if open.leaf.entry.validator.is_some() {
            taught.insert(open.ino, open.leaf.entry.clone());
        }
    }
    for open in handles.values_mut() {
        let entry = &mut open.leaf.entry;
        if entry.validator.is_none()
            && let Some(known) = taught.get(&open.ino)
            && known.version == entry.version
        {
            entry.validator = known.validator.clone();
        }
    }
}

/// Hands on what each whole frame holds; returns where the last one ends, 0 where there is no
/// header of this version.
fn frames(bytes: &[u8], mut take: impl FnMut(&[u8])) -> usize {
    let Some((header, mut rest)) = bytes.split_at_checked(HEADER) else {
        return 0;
    };
    if header[..8] != MAGIC[..] || header[8..] != VERSION.to_le_bytes() {
        return 0;
    }
    let number = |bytes: &[u8]| bytes.iter().rev().fold(0, |n, b| n << 8 | usize::from(*b));
    while let Some((head, behind)) = rest.split_at_checked(FRAME) {
        let Some((records, next)) = behind.split_at_checked(number(&head[..4])) else {
            break;
        };
        if head[4..] != checksum(records) {
            break;
        }
        take(records);
        rest = next;
    }
    bytes.len() - rest.len()
}

#[derive(Default)]
struct Replay {
    known: Remembered,
    layers: Vec<Arc<LayerId>>,
}

impl Replay {
    fn take(&mut self, record: Record) {
        let known = &mut self.known;
        match record {
            Record::Began { generation } => known.generation = known.generation.max(generation),
            Record::Layers(layers) => {
                self.layers = layers.into_iter().map(Arc::new).collect();
            }
            Record::Inode {
                ino,
                lookups,
                path,
                thing,
            } => {
                let what = match thing {
                    Thing::Dir(entry) => What::Dir(entry),
                    Thing::Leaf(at) => match self.leaf(at) {
                        Some(leaf) => What::Leaf(leaf),
                        None => return,
                    },
                };
                let inode = Inode {
                    lookups,
                    path,
                    what,
                };
                self.known.inodes.insert(ino, inode);
            }
            Record::Lookups { ino, lookups: 0 } => drop(known.inodes.remove(&ino)),
            Record::Lookups { ino, lookups } => {
                if let Some(inode) = known.inodes.get_mut(&ino) {
                    inode.lookups = lookups;
                }
            }
            Record::Opened {
                handle,
                request,
                ino,
                path,
                at,
            } => {
                if let Some(leaf) = self.leaf(at) {
                    let opened = Opened {
                        request,
                        ino,
                        path,
                        leaf,
                    };
                    self.known.handles.insert(handle, opened);
                }
            }
            Record::Closed { handle } => drop(known.handles.remove(&handle)),
            Record::Backed { ino, backing } => match backing {
                Some(id) => drop(known.backed.insert(ino, id)),
                None => drop(known.backed.remove(&ino)),
            },
        }
    }

    fn leaf(&self, at: At) -> Option<Leaf> {
        let At {
            layer,
            source_path,
            entry,
        } = at;
        Some(Leaf {
            layer: self.layers.get(layer)?.clone(),
            source_path,
            entry,
        })
    }
}
