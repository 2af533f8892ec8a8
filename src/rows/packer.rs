//! Packing rows that come in the order of names.

use std::sync::Arc;

use super::codec;
use super::scratch::Scratch;
use super::{CHUNK, Chunk, Lost, Room, Row, Rows, Sums};

/// One chunk that is being packed.
#[derive(Debug, Default)]
pub(super) struct Packing {
    /// Where each row ends.
    ends: Vec<u32>,
    rows: Vec<u8>,
}

impl Packing {
    pub(super) fn push(&mut self, row: &Row) {
        codec::encode(row, &mut self.rows);
        self.ended();
    }

    pub(super) fn push_packed(&mut self, row: &[u8]) {
        self.rows.extend_from_slice(row);
        self.ended();
    }

    fn ended(&mut self) {
        // A row is some 20 KiB at the very most, a chunk 256 of them.
        self.ends
            .push(u32::try_from(self.rows.len()).unwrap_or(u32::MAX));
    }

    /// Returns the chunk, and begins a new one.
    pub(super) fn take(&mut self) -> Vec<u8> {
        let mut chunk = Vec::with_capacity(self.ends.len() * 4 + self.rows.len());
        for end in &self.ends {
            chunk.extend_from_slice(&end.to_le_bytes());
        }
        chunk.append(&mut self.rows);
        self.ends.clear();
        chunk
    }
}

/// Packs rows that come sorted by name, each name once.
#[derive(Debug)]
pub struct Packer {
    room: Room,
    packing: Packing,
    /// The first name of the chunk that is being packed, and the last name that came.
    first: String,
    last: String,
    chunks: Vec<Chunk>,
    file: Option<Arc<Scratch>>,
    in_memory: usize,
    len: usize,
    sums: Sums,
}

impl Packer {
    /// Begins.
    pub fn new(room: Room) -> Packer {
        Packer {
            room,
            packing: Packing::default(),
            first: String::new(),
            last: String::new(),
            chunks: Vec::new(),
            file: None,
            in_memory: 0,
            len: 0,
            sums: Sums::default(),
        }
    }

    /// Returns the last name that came; empty before the first.
    pub fn last(&self) -> &str {
        &self.last
    }

    /// Adds a row. Blocks for the local disk where there is no more room in memory.
    pub fn push(&mut self, row: &Row) {
        self.sums.add(row.entry.kind, row.entry.size);
        self.begins(row.entry.name.as_str());
        self.packing.push(row);
        self.added();
    }

    /// Adds a row as it was packed elsewhere.
    pub fn push_packed(&mut self, row: &[u8]) -> Result<(), Lost> {
        let (kind, size) = codec::summary(row)?;
        self.sums.add(kind, size);
        let name = codec::name(row)?.to_owned();
        self.begins(&name);
        self.packing.push_packed(row);
        self.added();
        Ok(())
    }

    fn begins(&mut self, name: &str) {
        if self.len.is_multiple_of(CHUNK) {
            name.clone_into(&mut self.first);
        }
        name.clone_into(&mut self.last);
    }

    fn added(&mut self) {
        self.len += 1;
        if self.len.is_multiple_of(CHUNK) {
            self.end_chunk();
        }
    }

    fn end_chunk(&mut self) {
        let bytes = self.packing.take();
        if let Some(chunk) = self.aside(&bytes, &self.first) {
            self.chunks.push(chunk);
            return;
        }
        self.in_memory += bytes.len();
        self.chunks.push(Chunk::Memory(bytes.into()));
        let Some((dir, most)) = &self.room.0 else {
            return;
        };
        if self.in_memory <= *most || self.file.is_some() {
            return;
        }
        match Scratch::new(dir) {
            Ok(file) => self.file = Some(Arc::new(file)),
            Err(error) => {
                tracing::warn!(dir = %dir.display(), %error, "a large listing stays in memory");
                self.room = Room::default();
                return;
            }
        }
        let before = std::mem::take(&mut self.chunks);
        self.in_memory = 0;
        for (at, chunk) in before.into_iter().enumerate() {
            let moved = match &chunk {
                Chunk::Memory(bytes) => {
                    let count = (self.len - at * CHUNK).min(CHUNK);
                    let first = super::packed(bytes, count, 0);
                    first.ok().and_then(|first| {
                        let first = first.name().ok()?.to_owned();
                        self.aside(bytes, &first)
                    })
                }
                Chunk::Scratch { .. } => None,
            };
            self.chunks.push(moved.unwrap_or(chunk));
        }
    }

    /// Puts a chunk into the scratch file, if there is one and it takes it.
    fn aside(&self, bytes: &[u8], first: &str) -> Option<Chunk> {
        let file = self.file.as_ref()?;
        let len = u32::try_from(bytes.len()).ok()?;
        match file.append(bytes) {
            Ok(at) => Some(Chunk::Scratch {
                first: first.into(),
                file: file.clone(),
                at,
                len,
            }),
            Err(error) => {
                tracing::debug!(%error, "a part of a large listing stays in memory");
                None
            }
        }
    }

    /// Returns all rows.
    pub fn finish(mut self) -> Rows {
        if !self.len.is_multiple_of(CHUNK) {
            self.end_chunk();
        }
        self.chunks.shrink_to_fit();
        Rows {
            chunks: self.chunks,
            len: self.len,
            sums: self.sums,
            room: self.room,
        }
    }
}
