//! Where the objects of a pack go: into the store, to readers, or on as they come.

use std::collections::HashSet;

use bytes::Bytes;
use gix_hash::ObjectId;
use gix_object::Kind;
use tokio::sync::mpsc;

use super::super::{Error, ErrorKind, Result};
use super::notices::Notices;
use super::pack::{Flow, Sink};
use super::store::{Batch, Store};
use crate::path::PATH_MAX;

/// A commit and its trees; and its files, where a server cannot leave them out.
pub(super) struct Snapshot {
    store: Store,
    batch: Batch,
    /// How many bytes of files and trees may still come.
    left: u64,
    most: u64,
}

impl Snapshot {
    /// Returns a sink that takes at most `most` bytes.
    pub(super) fn new(store: Store, most: u64) -> Snapshot {
        Snapshot {
            store,
            batch: Batch::default(),
            left: most,
            most,
        }
    }

    fn take(&mut self, size: u64) -> Result<()> {
        let Some(left) = self.left.checked_sub(size) else {
            let most = self.most / (1024 * 1024);
            let message = format!(
                "the server knows no filters, and a commit of more than {most} MiB is not fetched as \
                 a whole; its owner may set uploadpack.allowFilter"
            );
            return Err(Error::new(ErrorKind::Invalid, message));
        };
        self.left = left;
        Ok(())
    }

    fn write(&mut self) -> Result<()> {
        match self.batch.is_full() {
            true => self.store.write(&mut self.batch),
            false => Ok(()),
        }
    }
}

impl Sink for Snapshot {
    fn base(&mut self, id: &ObjectId) -> Result<Option<(Kind, Vec<u8>)>> {
        base(&self.store, &self.batch, id)
    }

    fn object(&mut self, kind: Kind, id: ObjectId, bytes: Vec<u8>) -> Result<Flow> {
        let size = bytes.len() as u64;
        self.take(size)?;
        match kind {
            Kind::Commit | Kind::Tree => self.batch.object(id, kind, bytes),
            Kind::Blob => {
                self.batch.sizes.push((id, size));
                self.batch.keep(id, bytes);
            }
            Kind::Tag => {}
        }
        self.write()?;
        Ok(Flow::On)
    }

    fn begin(&mut self, size: u64) -> Result<Flow> {
        self.take(size)?;
        Ok(Flow::On)
    }

    fn piece(&mut self, _: &[u8]) -> Result<()> {
        Ok(())
    }

    fn end(&mut self, id: ObjectId, size: u64) -> Result<Flow> {
        self.batch.sizes.push((id, size));
        self.write()?;
        Ok(Flow::On)
    }

    fn flush(&mut self) -> Result<()> {
        self.store.write(&mut self.batch)
    }
}

fn base(store: &Store, batch: &Batch, id: &ObjectId) -> Result<Option<(Kind, Vec<u8>)>> {
    if let Some((_, kind, bytes)) = batch.objects.iter().find(|(i, ..)| i == id) {
        return Ok(Some((*kind, bytes.clone())));
    }
    if let Some((_, bytes)) = batch.kept.iter().find(|(i, _)| i == id) {
        return Ok(Some((Kind::Blob, bytes.clone())));
    }
    if let Some(found) = store.object(id)? {
        return Ok(Some(found));
    }
    Ok(store.kept(id)?.map(|bytes| (Kind::Blob, bytes)))
}

/// What blobs are fetched for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Purpose {
    /// Readers take them as they come.
    Read,
    /// Their sizes; the bytes are kept for the readers who follow.
    Sizes,
    /// What links point to, which is part of the tree.
    Links,
}

/// Blobs that were asked for.
pub(super) struct Blobs {
    store: Store,
    batch: Batch,
    wanted: HashSet<ObjectId>,
    purpose: Purpose,
    take: Box<dyn FnMut(ObjectId, Bytes) + Send>,
}

impl Blobs {
    /// Returns a sink that takes these blobs and hands them to `take`.
    pub(super) fn new(
        store: Store,
        ids: &[ObjectId],
        purpose: Purpose,
        take: Box<dyn FnMut(ObjectId, Bytes) + Send>,
    ) -> Blobs {
        Blobs {
            store,
            batch: Batch::default(),
            wanted: ids.iter().copied().collect(),
            purpose,
            take,
        }
    }

    /// Returns what has not come.
    pub(super) fn missing(&self) -> Vec<ObjectId> {
        self.wanted.iter().copied().collect()
    }

    fn flow(&mut self) -> Result<Flow> {
        if self.batch.is_full() {
            self.flush()?;
        }
        Ok(Flow::On)
    }
}

impl Sink for Blobs {
    fn base(&mut self, id: &ObjectId) -> Result<Option<(Kind, Vec<u8>)>> {
        base(&self.store, &self.batch, id)
    }

    fn object(&mut self, kind: Kind, id: ObjectId, bytes: Vec<u8>) -> Result<Flow> {
        // What nobody asked for is no lie: other blobs may be what these are told by.
        if kind != Kind::Blob || !self.wanted.remove(&id) {
            return Ok(Flow::On);
        }
        self.batch.sizes.push((id, bytes.len() as u64));
        match self.purpose {
            Purpose::Read => (self.take)(id, bytes.into()),
            Purpose::Sizes => {
                if bytes.len() <= Notices::LONGEST {
                    (self.take)(id, Bytes::copy_from_slice(&bytes));
                }
                self.batch.keep(id, bytes);
            }
            Purpose::Links if bytes.len() < PATH_MAX => self.batch.object(id, kind, bytes),
            Purpose::Links => {}
        }
        self.flow()
    }

    fn begin(&mut self, size: u64) -> Result<Flow> {
        // The only one left: its size is all that was wanted, and the bytes are many.
        if self.purpose == Purpose::Sizes
            && self.wanted.len() == 1
            && let Some(id) = self.wanted.drain().next()
        {
            self.batch.sizes.push((id, size));
            return Ok(Flow::Enough);
        }
        Ok(Flow::On)
    }

    fn piece(&mut self, _: &[u8]) -> Result<()> {
        Ok(())
    }

    fn end(&mut self, id: ObjectId, size: u64) -> Result<Flow> {
        // One that a reader wanted together with others, and that is too large for it.
        let wanted = match self.purpose {
            Purpose::Read => self.wanted.contains(&id),
            Purpose::Sizes | Purpose::Links => self.wanted.remove(&id),
        };
        if wanted {
            self.batch.sizes.push((id, size));
        }
        self.flow()
    }

    fn flush(&mut self) -> Result<()> {
        let written = self.store.write(&mut self.batch);
        match (self.purpose, written) {
            // Whoever reads gets the bytes, kept or not.
            (Purpose::Read, Err(error)) => {
                tracing::warn!(%error, "sizes are not kept");
                Ok(())
            }
            (_, written) => written,
        }
    }
}

/// One blob, handed on as it comes.
pub(super) struct Stream {
    id: ObjectId,
    out: mpsc::Sender<Part>,
    /// What came last: it is held back until all of it is known to be right.
    last: Option<Bytes>,
    seen: bool,
}

/// What a reader of one blob is told.
#[derive(Debug)]
pub(super) enum Part {
    /// How many bytes there will be.
    Size(u64),
    /// Some of them.
    Piece(Bytes),
}

impl Stream {
    /// Returns a sink for `id` that hands it to `out`.
    pub(super) fn new(id: ObjectId, out: mpsc::Sender<Part>) -> Stream {
        Stream {
            id,
            out,
            last: None,
            seen: false,
        }
    }

    /// Returns what is to come.
    pub(super) fn id(&self) -> ObjectId {
        self.id
    }

    fn send(&self, part: Part) -> Result<()> {
        let gone = |_| Error::new(ErrorKind::Interrupted, "nobody reads any more");
        self.out.blocking_send(part).map_err(gone)
    }
}

impl Sink for Stream {
    fn base(&mut self, _: &ObjectId) -> Result<Option<(Kind, Vec<u8>)>> {
        // A pack of one object has nothing to build on.
        Ok(None)
    }

    fn object(&mut self, kind: Kind, id: ObjectId, bytes: Vec<u8>) -> Result<Flow> {
        if kind != Kind::Blob {
            return Ok(Flow::On);
        }
        let size = bytes.len() as u64;
        self.begin(size)?;
        self.piece(&bytes)?;
        self.end(id, size)
    }

    fn begin(&mut self, size: u64) -> Result<Flow> {
        if std::mem::replace(&mut self.seen, true) {
            return Err(Error::lied("more than the one object that was asked for"));
        }
        self.send(Part::Size(size))?;
        Ok(Flow::On)
    }

    fn piece(&mut self, bytes: &[u8]) -> Result<()> {
        match self.last.replace(Bytes::copy_from_slice(bytes)) {
            Some(before) => self.send(Part::Piece(before)),
            None => Ok(()),
        }
    }

    fn end(&mut self, id: ObjectId, _: u64) -> Result<Flow> {
        if id != self.id {
            let message = format!("{} was asked for, and {id} came", self.id);
            return Err(Error::lied(message));
        }
        if let Some(last) = self.last.take() {
            self.send(Part::Piece(last))?;
        }
        Ok(Flow::On)
    }

    fn flush(&mut self) -> Result<()> {
        match self.seen {
            true => Ok(()),
            false => Err(Error::lied(format!("the server did not give {}", self.id))),
        }
    }
}
