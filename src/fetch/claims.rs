//! The part of a request's range that this process alone brings.
//!
//! The cache gives claims on runs of which nothing is here. A request may span several of them,
//! with a little between that is here already: those bytes come along and are let go.

use std::collections::VecDeque;
use std::ops::Range;

use svol_cache::{Fill, FillError, Object};

/// Claims on runs of one object, in order, filled from one stream of bytes.
pub(super) struct Claims {
    fills: VecDeque<Fill>,
    /// Where in the object the next byte of the stream belongs.
    position: u64,
}

impl Claims {
    /// Claims the first of the runs `missing` that nobody has, and those after it up to the next
    /// one that somebody has. `aside`: also what another process has, for this process alone. May
    /// wait for the local disk.
    pub(super) fn next_of(object: &Object, missing: &[Range<u64>], aside: bool) -> Option<Claims> {
        let claim = |run: &Range<u64>| match object.try_claim(run.clone()) {
            None if aside => object.try_claim_aside(run.clone()),
            fill => fill,
        };
        let fills = missing
            .iter()
            .map(claim)
            .skip_while(Option::is_none)
            .map_while(|fill| fill);
        Claims::of(fills.collect())
    }

    /// Claims all of the runs `missing`, or none. May wait for the local disk.
    pub(super) fn all_of(object: &Object, missing: &[Range<u64>]) -> Option<Claims> {
        let fills = missing.iter().map(|run| object.try_claim(run.clone()));
        Claims::of(fills.collect::<Option<_>>()?)
    }

    fn of(fills: VecDeque<Fill>) -> Option<Claims> {
        let position = fills.front()?.range().start;
        Some(Claims { fills, position })
    }

    /// Returns what is still to be fetched, from here on to the end of the last run. Nothing when
    /// all has come.
    pub(super) fn rest(&mut self) -> Option<Range<u64>> {
        let (first, last) = self.fills.front().zip(self.fills.back())?;
        self.position = self.position.max(first.range().start);
        Some(self.position..last.range().end)
    }

    /// Expects a stream that begins with the object.
    pub(super) fn rewound(mut self) -> Claims {
        self.position = 0;
        self
    }

    /// Takes the next bytes of the stream. Blocks for the local disk, as [`Fill::push`] does.
    pub(super) fn push(&mut self, mut bytes: &[u8]) -> Result<(), FillError> {
        while !bytes.is_empty() {
            let Some(fill) = self.fills.front_mut() else {
                // After the last run comes what is here already.
                self.position += bytes.len() as u64;
                return Ok(());
            };
            let run = fill.range();
            let here = run.start.saturating_sub(self.position);
            let n = match here {
                0 => run.end - self.position,
                before => before,
            };
            let n = usize::try_from(n).unwrap_or(usize::MAX).min(bytes.len());
            let (part, rest) = bytes.split_at(n);
            // Bytes of the run that came before (the stream began anew) are not pushed twice.
            let known = fill.position().saturating_sub(self.position);
            if here == 0 && (known as usize) < n {
                fill.push(&part[known as usize..])?;
            }
            self.position += n as u64;
            bytes = rest;
            if self.position >= run.end
                && let Some(done) = self.fills.pop_front()
            {
                done.finish()?;
            }
        }
        Ok(())
    }
}
