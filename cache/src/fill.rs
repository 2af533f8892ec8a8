//! Bringing the bytes of one claimed range.

use std::ops::Range;
use std::sync::{Arc, PoisonError};

use bytes::Bytes;

use crate::error::FillError;
use crate::grain;
use crate::memory::WHOLE;
use crate::object::Inner;

/// The right and the duty to bring one range of an object, which nobody else has meanwhile.
///
/// Push the bytes in order, then [`finish`](Fill::finish). Dropping it gives the claim back; the
/// whole grains that have come stay.
pub struct Fill {
    inner: Arc<Inner>,
    range: Range<u64>,
    /// Where the next byte goes.
    position: u64,
    pending: Vec<u8>,
}

impl Fill {
    pub(crate) fn new(inner: Arc<Inner>, range: Range<u64>) -> Self {
        Self {
            position: range.start,
            inner,
            range,
            pending: Vec::new(),
        }
    }

    /// Returns the claimed range: whole grains, clipped to the object.
    pub fn range(&self) -> Range<u64> {
        self.range.clone()
    }

    /// Returns the offset in the object of the next byte to push.
    pub fn position(&self) -> u64 {
        self.position
    }

    /// Takes the next bytes of the range; grains that they complete can be read at once, or after
    /// a few milliseconds where they come fast and are written together.
    ///
    /// Blocks for local disk I/O, bounded. Trouble with the disk is not an error: the bytes are
    /// then held in memory for those who wait. Fails, and takes nothing, when there are more bytes
    /// than the range holds.
    pub fn push(&mut self, bytes: &[u8]) -> Result<(), FillError> {
        let room = self.range.end - self.position;
        if bytes.len() as u64 > room {
            return Err(FillError::Overrun {
                surplus: bytes.len() as u64 - room,
            });
        }
        self.pending.extend_from_slice(bytes);
        self.position += bytes.len() as u64;
        let inner = &*self.inner;
        inner.shared.counters.filled_bytes.add(bytes.len() as u64);
        if inner.is_small() {
            if self.position == self.range.end {
                let whole = Bytes::from(std::mem::take(&mut self.pending));
                inner.shared.memory.insert(&inner.key, WHOLE, whole);
                inner.notify();
            }
            return Ok(());
        }
        let mut start = self.position - self.pending.len() as u64;
        let mut taken = 0;
        while start < self.position {
            let span = grain::span(start / grain::GRAIN, inner.size);
            if span.end > self.position {
                break;
            }
            let len = (span.end - span.start) as usize;
            let grain = Bytes::copy_from_slice(&self.pending[taken..taken + len]);
            inner
                .shared
                .memory
                .insert(&inner.key, start / grain::GRAIN, grain);
            taken += len;
            start = span.end;
        }
        self.pending.drain(..taken);
        if taken > 0 {
            inner.notify();
        }
        Ok(())
    }

    /// Gives the claim back, after all bytes were pushed. Fails when some were not; whole grains
    /// that came stay.
    pub fn finish(self) -> Result<(), FillError> {
        match self.range.end - self.position {
            0 => Ok(()),
            missing => Err(FillError::Short { missing }),
        }
    }
}

impl Drop for Fill {
    fn drop(&mut self) {
        self.inner
            .claims
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .retain(|claim| *claim != self.range);
        self.inner.notify();
    }
}
