//! The claims behind one request: the missing runs of its range, and nothing between them.

use std::collections::VecDeque;
use std::ops::Range;

use svol_cache::{Fill, FillError, Object};

/// The right to bring what of a range is missing. One request covers all of it; bytes that come
/// for what is present between the missing runs are let pass.
pub(super) struct Claims {
    /// In order; never empty until all bytes have come.
    fills: VecDeque<Fill>,
    /// Where the next byte goes.
    position: u64,
    end: u64,
}

impl Claims {
    /// Claims what of `range` is missing, up to the first run that somebody else has. Nothing if
    /// that is the first one, or if nothing is missing.
    pub(super) fn some(object: &Object, range: Range<u64>) -> Option<Claims> {
        let missing = object.missing(range);
        let fills = missing.into_iter().map_while(|run| object.try_claim(run));
        Claims::of(fills.collect(), None)
    }

    /// Claims all that is missing of the object, for bytes that come from its beginning on.
    pub(super) fn all(object: &Object) -> Option<Claims> {
        let missing = object.missing(0..object.size());
        let fills: Option<VecDeque<Fill>> = missing
            .into_iter()
            .map(|run| object.try_claim(run))
            .collect();
        Claims::of(fills?, Some(0..object.size()))
    }

    fn of(fills: VecDeque<Fill>, range: Option<Range<u64>>) -> Option<Claims> {
        let (first, last) = fills.front().zip(fills.back())?;
        let range = range.unwrap_or(first.range().start..last.range().end);
        Some(Claims {
            fills,
            position: range.start,
            end: range.end,
        })
    }

    /// Returns the range that is yet to come.
    pub(super) fn range(&self) -> Range<u64> {
        self.position..self.end
    }

    /// Takes the next bytes. Blocks on the local disk.
    pub(super) fn push(&mut self, mut bytes: &[u8]) -> Result<(), FillError> {
        while !bytes.is_empty() {
            let Some(fill) = self.fills.front_mut() else {
                // What comes after the last run is present already.
                self.position += bytes.len() as u64;
                return Ok(());
            };
            let (from, to) = (fill.position(), fill.range().end);
            let len = if self.position < from {
                (from - self.position).min(bytes.len() as u64)
            } else {
                (to - from).min(bytes.len() as u64)
            };
            // No larger than the bytes that are here.
            let (now, later) = bytes.split_at(len as usize);
            if self.position >= from {
                fill.push(now)?;
                if fill.position() == to
                    && let Some(done) = self.fills.pop_front()
                {
                    done.finish()?;
                }
            }
            self.position += len;
            bytes = later;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use svol_cache::{Cache, GRAIN, ObjectKey};

    #[test]
    fn what_is_present_between_two_runs_is_let_pass() {
        let cache = Cache::in_memory(16 << 20);
        let size = 20 * GRAIN + 5;
        let object = cache.object(ObjectKey::from_bytes([7; 32]), size);
        let bytes: Vec<u8> = (0..size).map(|i| (i / 7) as u8).collect();
        let part = |r: Range<u64>| &bytes[r.start as usize..r.end as usize];
        let mut first = Claims::some(&object, 3 * GRAIN..4 * GRAIN).unwrap();
        first.push(part(3 * GRAIN..4 * GRAIN)).unwrap();
        drop(first);

        let other = Claims::some(&object, 19 * GRAIN..size).unwrap();
        assert!(Claims::all(&object).is_none());
        let mut claims = Claims::some(&object, 0..size).unwrap();
        assert_eq!(claims.range(), 0..3 * GRAIN, "up to what somebody else has");
        claims.push(part(0..1000)).unwrap();
        assert_eq!(claims.range(), 1000..3 * GRAIN);
        drop((claims, other));

        let mut claims = Claims::all(&object).unwrap();
        for chunk in bytes.chunks(10_000) {
            claims.push(chunk).unwrap();
        }
        assert!(claims.range().is_empty());
        drop(claims);
        let mut read = vec![0; size as usize];
        assert_eq!(object.read_at(0, &mut read), Some(size as usize));
        assert!(read == bytes);
        assert!(
            Claims::some(&object, 0..size).is_none(),
            "nothing is missing"
        );
    }
}
