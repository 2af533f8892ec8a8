//! A record as bytes, and back.
//!
//! Each tells how something is from now on, never by how much it changed: so a record that comes
//! twice, or after one that knew it already, changes nothing.

use std::sync::Arc;

use crate::entry::Entry;
use crate::path::{Name, RelPath};
use crate::rows::{Reader, put_entry, put_number, put_text};

/// A layer as another process finds it again: by its name and by what its source is. Where it is
/// among the others may change.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(in crate::vfs) struct LayerId {
    pub(in crate::vfs) name: Arc<str>,
    /// Of the source, without credentials.
    pub(in crate::vfs) identity: Arc<str>,
}

/// A file or symbolic link of a layer, by its position in the last [`Record::Layers`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::vfs) struct At {
    pub(in crate::vfs) layer: usize,
    pub(in crate::vfs) source_path: RelPath,
    pub(in crate::vfs) entry: Entry,
}

/// What an inode stands for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::vfs) enum Thing {
    Dir(Entry),
    Leaf(At),
}

/// One record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::vfs) enum Record {
    /// A process begins, the `generation`th.
    Began { generation: u64 },
    /// What the layers' numbers mean from now on.
    Layers(Vec<LayerId>),
    /// What an inode stands for, and how often the kernel looked it up.
    Inode {
        ino: u64,
        lookups: u64,
        path: RelPath,
        thing: Thing,
    },
    /// How often the kernel looked an inode up; never, and it is forgotten.
    Lookups { ino: u64, lookups: u64 },
    /// A handle, the request that it answers, and the file as it was opened.
    Opened {
        handle: u64,
        request: u64,
        ino: u64,
        path: RelPath,
        at: At,
    },
    /// A handle that is closed.
    Closed { handle: u64 },
    /// What the kernel calls the file that it reads an open inode from itself, if it does.
    Backed { ino: u64, backing: Option<u32> },
}

const BEGAN: u8 = 1;
const LAYERS: u8 = 2;
const DIR: u8 = 3;
const LEAF: u8 = 4;
const LOOKUPS: u8 = 5;
const OPENED: u8 = 6;
const CLOSED: u8 = 7;
const BACKED: u8 = 8;
const NOT_BACKED: u8 = 9;

fn put_ino(out: &mut Vec<u8>, ino: u64) {
    out.extend_from_slice(&ino.to_le_bytes());
}

pub(in crate::vfs) fn put_began(out: &mut Vec<u8>, generation: u64) {
    out.push(BEGAN);
    put_number(out, generation);
}

pub(in crate::vfs) fn put_layers(out: &mut Vec<u8>, layers: &[LayerId]) {
    out.push(LAYERS);
    put_number(out, layers.len() as u64);
    for layer in layers {
        put_text(out, &layer.name);
        put_text(out, &layer.identity);
    }
}

pub(in crate::vfs) fn put_dir(
    out: &mut Vec<u8>,
    ino: u64,
    lookups: u64,
    path: &RelPath,
    entry: &Entry,
) {
    out.push(DIR);
    put_ino(out, ino);
    put_number(out, lookups);
    put_text(out, path.as_str());
    put_entry(entry, out);
}

/// A file or link as it is written.
#[derive(Clone, Copy)]
pub(in crate::vfs) struct Place<'a> {
    pub(in crate::vfs) path: &'a RelPath,
    pub(in crate::vfs) layer: usize,
    pub(in crate::vfs) source_path: &'a RelPath,
    pub(in crate::vfs) entry: &'a Entry,
}

impl Place<'_> {
    fn put(self, out: &mut Vec<u8>) {
        put_text(out, self.path.as_str());
        put_number(out, self.layer as u64);
        // Mostly the same: a layer that is grafted at the root.
        if self.path == self.source_path {
            put_number(out, 0);
        } else {
            put_number(out, 1);
            put_text(out, self.source_path.as_str());
        }
        put_entry(self.entry, out);
    }
}

pub(in crate::vfs) fn put_leaf(out: &mut Vec<u8>, ino: u64, lookups: u64, place: Place<'_>) {
    out.push(LEAF);
    put_ino(out, ino);
    put_number(out, lookups);
    place.put(out);
}

pub(in crate::vfs) fn put_lookups(out: &mut Vec<u8>, ino: u64, lookups: u64) {
    out.push(LOOKUPS);
    put_ino(out, ino);
    put_number(out, lookups);
}

pub(in crate::vfs) fn put_opened(
    out: &mut Vec<u8>,
    handle: u64,
    request: u64,
    ino: u64,
    place: Place<'_>,
) {
    out.push(OPENED);
    put_number(out, handle);
    put_number(out, request);
    put_ino(out, ino);
    place.put(out);
}

pub(in crate::vfs) fn put_closed(out: &mut Vec<u8>, handle: u64) {
    out.push(CLOSED);
    put_number(out, handle);
}

pub(in crate::vfs) fn put_backed(out: &mut Vec<u8>, ino: u64, backing: Option<u32>) {
    out.push(match backing {
        Some(_) => BACKED,
        None => NOT_BACKED,
    });
    put_ino(out, ino);
    if let Some(id) = backing {
        put_number(out, id.into());
    }
}

/// Reads records and hands each to `take`; returns nothing where what follows is not one.
pub(in crate::vfs) fn read_all(bytes: &[u8], mut take: impl FnMut(Record)) -> Option<()> {
    let mut reader = Reader(bytes);
    while let Some(tag) = reader.byte() {
        take(read(tag, &mut reader)?);
    }
    Some(())
}

fn read(tag: u8, reader: &mut Reader<'_>) -> Option<Record> {
    Some(match tag {
        BEGAN => Record::Began {
            generation: reader.number()?,
        },
        LAYERS => {
            let mut layers = Vec::new();
            for _ in 0..reader.number()? {
                layers.push(LayerId {
                    name: reader.text()?.into(),
                    identity: reader.text()?.into(),
                });
            }
            Record::Layers(layers)
        }
        DIR => Record::Inode {
            ino: ino_of(reader)?,
            lookups: reader.number()?,
            path: path_of(reader)?,
            thing: Thing::Dir(reader.entry()?),
        },
        LEAF => {
            let (ino, lookups) = (ino_of(reader)?, reader.number()?);
            let (path, at) = place_of(reader)?;
            let thing = Thing::Leaf(at);
            Record::Inode {
                ino,
                lookups,
                path,
                thing,
            }
        }
        LOOKUPS => Record::Lookups {
            ino: ino_of(reader)?,
            lookups: reader.number()?,
        },
        OPENED => {
            let (handle, request) = (reader.number()?, reader.number()?);
            let ino = ino_of(reader)?;
            let (path, at) = place_of(reader)?;
            Record::Opened {
                handle,
                request,
                ino,
                path,
                at,
            }
        }
        CLOSED => Record::Closed {
            handle: reader.number()?,
        },
        BACKED => Record::Backed {
            ino: ino_of(reader)?,
            backing: Some(u32::try_from(reader.number()?).ok()?),
        },
        NOT_BACKED => Record::Backed {
            ino: ino_of(reader)?,
            backing: None,
        },
        _ => return None,
    })
}

fn ino_of(reader: &mut Reader<'_>) -> Option<u64> {
    Some(u64::from_le_bytes(reader.take(8)?.try_into().ok()?))
}

fn path_of(reader: &mut Reader<'_>) -> Option<RelPath> {
    let text = reader.text()?;
    // One that was joined may be longer than one that is read.
    RelPath::new(text).ok().or_else(|| {
        text.split('/').try_fold(RelPath::root(), |dir, name| {
            Some(dir.join(&Name::new(name).ok()?))
        })
    })
}

fn place_of(reader: &mut Reader<'_>) -> Option<(RelPath, At)> {
    let path = path_of(reader)?;
    let layer = usize::try_from(reader.number()?).ok()?;
    let source_path = match reader.number()? {
        0 => path.clone(),
        1 => path_of(reader)?,
        _ => return None,
    };
    let entry = reader.entry()?;
    let at = At {
        layer,
        source_path,
        entry,
    };
    Some((path, at))
}
