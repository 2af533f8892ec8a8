//! Taking a pack apart as it arrives.
//!
//! The reader is ours: gix-pack's want the whole pack on disk with an index first, and believe what
//! a pack says of its sizes. This one holds one object at a time (and some recent ones, for
//! deltas), each within bounds, and hands it on with the id that its bytes have. What the
//! server calls an object is never believed; so the checksum at the pack's end proves nothing more,
//! and is passed over.

use std::collections::{HashMap, VecDeque};

use gix_hash::ObjectId;
use gix_object::Kind;
use gix_zlib::{Decompress, FlushDecompress, Status};

use super::super::{Error, ErrorKind, Result};

mod delta;
mod feed;
#[cfg(test)]
mod tests;

pub(super) use feed::{Feed, Feeder, feed};

/// How much of recent objects is kept for deltas that build on them, in bytes.
const RECENT: usize = 16 * 1024 * 1024;

/// How much of deltas whose base is yet to come is kept, in bytes. git puts bases first.
const WAITING: usize = 16 * 1024 * 1024;

/// What is inflated at once, in bytes.
const PIECE: usize = 64 * 1024;

/// How large things may be.
#[derive(Debug, Clone, Copy)]
pub(super) struct Limits {
    /// The largest object that is handed on whole, in bytes. Larger blobs come in pieces.
    pub(super) object: u64,
    /// The most objects.
    pub(super) objects: u32,
    /// The most bytes of all objects together, inflated.
    pub(super) total: u64,
}

/// Whether more is wanted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Flow {
    /// Go on.
    On,
    /// It is enough: the rest is not read.
    Enough,
}

/// What objects are handed to.
pub(super) trait Sink {
    /// Returns an object that came earlier or was there before, for a delta that builds on it.
    fn base(&mut self, id: &ObjectId) -> Result<Option<(Kind, Vec<u8>)>>;

    /// Takes a whole object, which has this id.
    fn object(&mut self, kind: Kind, id: ObjectId, bytes: Vec<u8>) -> Result<Flow>;

    /// Hears of a blob that will come in pieces.
    fn begin(&mut self, size: u64) -> Result<Flow>;

    /// Takes a piece of it.
    fn piece(&mut self, bytes: &[u8]) -> Result<()>;

    /// Hears its id.
    fn end(&mut self, id: ObjectId, size: u64) -> Result<Flow>;

    /// Hears that no more comes, be it for a failure.
    fn flush(&mut self) -> Result<()>;
}

/// How reading a pack ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Outcome {
    /// How many objects could not be made: deltas on, or of, what is too large to keep.
    pub(super) unresolved: u32,
    /// Whether all of the pack was read.
    pub(super) complete: bool,
}

/// What comes before an object's bytes.
#[derive(Debug, Clone, Copy)]
enum Head {
    Whole(Kind),
    /// A delta on what is that many bytes before.
    Before(u64),
    /// A delta on that object.
    On(ObjectId),
}

/// Reads a pack to its end, or until the sink has enough.
pub(super) fn read(
    feed: &mut dyn Feed,
    format: gix_hash::Kind,
    limits: Limits,
    sink: &mut dyn Sink,
) -> Result<Outcome> {
    Reader {
        input: Counting { feed, at: 0 },
        format,
        limits,
        sink,
        zlib: Decompress::new(),
        piece: vec![0; PIECE],
        left: limits.total,
        places: HashMap::new(),
        recent: Recent::default(),
        waiting: Vec::new(),
        waiting_bytes: 0,
        unresolved: 0,
    }
    .read()
}

struct Reader<'a> {
    input: Counting<'a>,
    format: gix_hash::Kind,
    limits: Limits,
    sink: &'a mut dyn Sink,
    zlib: Decompress,
    piece: Vec<u8>,
    /// How many more bytes may be inflated.
    left: u64,
    /// Which object began where.
    places: HashMap<u64, ObjectId>,
    recent: Recent,
    /// Deltas whose base has not come yet: the base's id, where they began, the delta.
    waiting: Vec<(ObjectId, u64, Vec<u8>)>,
    waiting_bytes: usize,
    unresolved: u32,
}

impl Reader<'_> {
    fn read(mut self) -> Result<Outcome> {
        let head: [u8; 12] = self.input.array()?;
        let (sign, rest) = head.split_at(4);
        let (version, count) = rest.split_at(4);
        if sign != b"PACK" || !matches!(version, [0, 0, 0, 2 | 3]) {
            return Err(Error::lied("what came is no pack"));
        }
        let count = u32::from_be_bytes(count.try_into().unwrap_or_default());
        if count > self.limits.objects {
            let most = self.limits.objects;
            return Err(Error::lied(format!(
                "a pack of {count} objects, where {most} are the most"
            )));
        }
        for _ in 0..count {
            if self.entry()? == Flow::Enough {
                return Ok(self.outcome(false));
            }
        }
        if self.settle()? == Flow::Enough {
            return Ok(self.outcome(false));
        }
        for _ in 0..self.format.len_in_bytes() {
            self.input.byte()?;
        }
        self.unresolved += self.waiting.len() as u32;
        Ok(self.outcome(true))
    }

    fn outcome(&self, complete: bool) -> Outcome {
        Outcome {
            unresolved: self.unresolved,
            complete,
        }
    }

    /// Reads one object.
    fn entry(&mut self) -> Result<Flow> {
        let place = self.input.at;
        let (head, size) = self.head(place)?;
        match head {
            Head::Whole(Kind::Blob) if size > self.limits.object => self.large(place, size),
            Head::Whole(kind) => {
                if size > self.limits.object {
                    let most = self.limits.object;
                    return Err(Error::lied(format!(
                        "a {kind} of {size} bytes, where {most} are the most"
                    )));
                }
                let bytes = self.inflate(size)?;
                self.whole(place, kind, bytes)
            }
            Head::Before(back) => {
                let base = self.places.get(&(place.wrapping_sub(back))).copied();
                let Some(base) = base else {
                    // Built on what could not be made either.
                    self.skip(size)?;
                    self.unresolved += 1;
                    return Ok(Flow::On);
                };
                self.delta(place, base, size)
            }
            Head::On(base) => self.delta(place, base, size),
        }
    }

    /// Reads what comes before an object's bytes: its kind, its size and its base.
    fn head(&mut self, place: u64) -> Result<(Head, u64)> {
        let first = self.input.byte()?;
        let mut size = u64::from(first & 15);
        let (mut shift, mut byte) = (4, first);
        while byte & 0x80 != 0 {
            byte = self.input.byte()?;
            if shift > 57 {
                return Err(Error::lied("an object of an impossible size"));
            }
            size |= u64::from(byte & 0x7f) << shift;
            shift += 7;
        }
        let head = match first >> 4 & 7 {
            1 => Head::Whole(Kind::Commit),
            2 => Head::Whole(Kind::Tree),
            3 => Head::Whole(Kind::Blob),
            4 => Head::Whole(Kind::Tag),
            6 => {
                let mut byte = self.input.byte()?;
                let mut back = u64::from(byte & 0x7f);
                while byte & 0x80 != 0 {
                    byte = self.input.byte()?;
                    let more = back.checked_add(1).and_then(|b| b.checked_mul(128));
                    let more = more.ok_or_else(|| Error::lied("a delta from nowhere"))?;
                    back = more | u64::from(byte & 0x7f);
                }
                if back == 0 || back > place {
                    return Err(Error::lied("a delta from before the pack"));
                }
                Head::Before(back)
            }
            7 => {
                let mut id = ObjectId::null(self.format);
                for byte in id.as_mut_slice() {
                    *byte = self.input.byte()?;
                }
                Head::On(id)
            }
            _ => return Err(Error::lied("an object of an unknown kind")),
        };
        Ok((head, size))
    }

    /// Hands on a blob in pieces.
    fn large(&mut self, place: u64, size: u64) -> Result<Flow> {
        if self.sink.begin(size)? == Flow::Enough {
            return Ok(Flow::Enough);
        }
        let mut hasher = hasher(self.format, Kind::Blob, size);
        let sink = &mut *self.sink;
        self.input.inflate(
            &mut self.zlib,
            &mut self.piece,
            size,
            &mut self.left,
            |piece| {
                hasher.update(piece);
                sink.piece(piece)
            },
        )?;
        let id = hasher
            .try_finalize()
            .map_err(|e| Error::lied(e.to_string()))?;
        self.places.insert(place, id);
        self.sink.end(id, size)
    }

    /// Hands on an object.
    fn whole(&mut self, place: u64, kind: Kind, bytes: Vec<u8>) -> Result<Flow> {
        let id = id_of(self.format, kind, &bytes)?;
        self.places.insert(place, id);
        self.recent.keep(id, kind, &bytes);
        self.sink.object(kind, id, bytes)
    }

    /// Reads a delta on `base` and hands on what it makes.
    fn delta(&mut self, place: u64, base: ObjectId, size: u64) -> Result<Flow> {
        if size > self.limits.object {
            self.skip(size)?;
            self.unresolved += 1;
            return Ok(Flow::On);
        }
        let delta = self.inflate(size)?;
        match self.base(&base)? {
            Some((kind, base)) => self.apply(place, kind, &base, &delta),
            None if self.places.values().any(|id| *id == base) => {
                // It came, and was too large to keep.
                self.unresolved += 1;
                Ok(Flow::On)
            }
            None => {
                self.waiting_bytes += delta.len();
                if self.waiting_bytes > WAITING {
                    return Err(Error::lied("too many deltas before what they build on"));
                }
                self.waiting.push((base, place, delta));
                Ok(Flow::On)
            }
        }
    }

    fn base(&mut self, id: &ObjectId) -> Result<Option<(Kind, Vec<u8>)>> {
        match self.recent.get(id) {
            Some(found) => Ok(Some(found)),
            None => self.sink.base(id),
        }
    }

    fn apply(&mut self, place: u64, kind: Kind, base: &[u8], delta: &[u8]) -> Result<Flow> {
        let size = delta::result_size(delta)?;
        if size > self.limits.object {
            self.unresolved += 1;
            return Ok(Flow::On);
        }
        self.left = self.left.checked_sub(size).ok_or_else(too_much)?;
        let bytes = delta::apply(base, delta)?;
        self.whole(place, kind, bytes)
    }

    /// Makes what waited for its base, until nothing more can be made.
    fn settle(&mut self) -> Result<Flow> {
        loop {
            let before = self.waiting.len();
            for (id, place, delta) in std::mem::take(&mut self.waiting) {
                match self.base(&id)? {
                    Some((kind, base)) => {
                        if self.apply(place, kind, &base, &delta)? == Flow::Enough {
                            return Ok(Flow::Enough);
                        }
                    }
                    None => self.waiting.push((id, place, delta)),
                }
            }
            if self.waiting.len() == before || self.waiting.is_empty() {
                return Ok(Flow::On);
            }
        }
    }

    fn inflate(&mut self, size: u64) -> Result<Vec<u8>> {
        // No more than what has come, whatever the pack says.
        let mut bytes = Vec::with_capacity((size as usize).min(PIECE));
        self.input.inflate(
            &mut self.zlib,
            &mut self.piece,
            size,
            &mut self.left,
            |piece| {
                bytes.extend_from_slice(piece);
                Ok(())
            },
        )?;
        Ok(bytes)
    }

    fn skip(&mut self, size: u64) -> Result<()> {
        self.input.inflate(
            &mut self.zlib,
            &mut self.piece,
            size,
            &mut self.left,
            |_| Ok(()),
        )
    }
}

/// Returns the hasher of an object, which has been fed what comes before the object's bytes.
fn hasher(format: gix_hash::Kind, kind: Kind, size: u64) -> gix_hash::Hasher {
    let mut hasher = gix_hash::hasher(format);
    hasher.update(&gix_object::encode::loose_header(kind, size));
    hasher
}

/// Returns the id that an object has.
pub(super) fn id_of(format: gix_hash::Kind, kind: Kind, bytes: &[u8]) -> Result<ObjectId> {
    let mut hasher = hasher(format, kind, bytes.len() as u64);
    hasher.update(bytes);
    hasher
        .try_finalize()
        .map_err(|e| Error::lied(e.to_string()))
}

fn too_much() -> Error {
    Error::lied("a pack with more in it than there may be")
}

/// Objects that came lately, the oldest out first.
#[derive(Default)]
struct Recent {
    objects: HashMap<ObjectId, (Kind, Vec<u8>)>,
    order: VecDeque<ObjectId>,
    bytes: usize,
}

impl Recent {
    fn keep(&mut self, id: ObjectId, kind: Kind, bytes: &[u8]) {
        if bytes.len() > RECENT / 4 || self.objects.contains_key(&id) {
            return;
        }
        self.bytes += bytes.len();
        self.objects.insert(id, (kind, bytes.to_vec()));
        self.order.push_back(id);
        while self.bytes > RECENT {
            let Some(oldest) = self.order.pop_front() else {
                break;
            };
            if let Some((_, bytes)) = self.objects.remove(&oldest) {
                self.bytes -= bytes.len();
            }
        }
    }

    fn get(&self, id: &ObjectId) -> Option<(Kind, Vec<u8>)> {
        self.objects.get(id).cloned()
    }
}

/// A feed, and how much was taken from it.
struct Counting<'a> {
    feed: &'a mut dyn Feed,
    at: u64,
}

impl Counting<'_> {
    fn byte(&mut self) -> Result<u8> {
        let Some(byte) = self.feed.fill()?.first().copied() else {
            return Err(ended());
        };
        self.take(1);
        Ok(byte)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N]> {
        let mut array = [0; N];
        for byte in &mut array {
            *byte = self.byte()?;
        }
        Ok(array)
    }

    fn take(&mut self, n: usize) {
        self.feed.consume(n);
        self.at += n as u64;
    }

    /// Inflates an object of exactly `size` bytes, piece by piece.
    fn inflate(
        &mut self,
        zlib: &mut Decompress,
        piece: &mut [u8],
        size: u64,
        left: &mut u64,
        mut into: impl FnMut(&[u8]) -> Result<()>,
    ) -> Result<()> {
        *left = left.checked_sub(size).ok_or_else(too_much)?;
        zlib.reset();
        let mut done = 0;
        loop {
            let input = self.feed.fill()?;
            let (before_in, before_out) = (zlib.total_in(), zlib.total_out());
            let at_end = input.is_empty();
            let status = zlib
                .decompress(input, piece, FlushDecompress::None)
                .map_err(|e| Error::lied(format!("an object that does not inflate: {e}")))?;
            let taken = (zlib.total_in() - before_in) as usize;
            let made = (zlib.total_out() - before_out) as usize;
            self.take(taken);
            done += made as u64;
            if done > size {
                return Err(Error::lied(format!(
                    "an object of more than its {size} bytes"
                )));
            }
            into(piece.get(..made).unwrap_or_default())?;
            match status {
                Status::StreamEnd => break,
                _ if taken == 0 && made == 0 && at_end => return Err(ended()),
                _ if taken == 0 && made == 0 => {
                    return Err(Error::lied("an object that does not inflate"));
                }
                _ => {}
            }
        }
        match done == size {
            true => Ok(()),
            false => Err(Error::lied(format!(
                "an object of {done} of its {size} bytes"
            ))),
        }
    }
}

fn ended() -> Error {
    Error::new(ErrorKind::Interrupted, "the pack ended early")
}
