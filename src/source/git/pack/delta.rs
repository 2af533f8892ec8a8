//! What one object is made of when it is told by its difference to another.

use super::super::super::{Error, Result};

fn bad() -> Error {
    Error::lied("a delta that makes no sense")
}

/// Takes a number off the front.
fn number(delta: &mut &[u8]) -> Result<u64> {
    let (mut value, mut shift) = (0u64, 0);
    loop {
        let (byte, rest) = delta.split_first().ok_or_else(bad)?;
        *delta = rest;
        if shift > 56 {
            return Err(bad());
        }
        value |= u64::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            return Ok(value);
        }
        shift += 7;
    }
}

/// Returns the size of what `delta` makes, as it says itself.
pub(super) fn result_size(delta: &[u8]) -> Result<u64> {
    let mut delta = delta;
    number(&mut delta)?;
    number(&mut delta)
}

/// Returns what `delta` makes of `base`. The caller has bounded [`result_size`].
pub(super) fn apply(base: &[u8], delta: &[u8]) -> Result<Vec<u8>> {
    let mut delta = delta;
    if number(&mut delta)? != base.len() as u64 {
        return Err(Error::lied("a delta on something else"));
    }
    let size = usize::try_from(number(&mut delta)?).map_err(|_| bad())?;
    let mut made = Vec::with_capacity(size);
    while let Some((op, rest)) = delta.split_first() {
        delta = rest;
        let part = match op {
            0 => return Err(bad()),
            op if op & 0x80 != 0 => {
                let mut field = |bits: std::ops::Range<u32>| -> Result<usize> {
                    let mut value = 0usize;
                    for (i, bit) in bits.enumerate() {
                        if op >> bit & 1 == 1 {
                            let (byte, rest) = delta.split_first().ok_or_else(bad)?;
                            delta = rest;
                            value |= usize::from(*byte) << (8 * i);
                        }
                    }
                    Ok(value)
                };
                let from = field(0..4)?;
                let len = match field(4..7)? {
                    0 => 0x10000,
                    len => len,
                };
                base.get(from..from + len).ok_or_else(bad)?
            }
            len => {
                let len = usize::from(*len);
                let part = delta.get(..len).ok_or_else(bad)?;
                delta = delta.get(len..).unwrap_or_default();
                part
            }
        };
        if made.len() + part.len() > size {
            return Err(bad());
        }
        made.extend_from_slice(part);
    }
    match made.len() == size {
        true => Ok(made),
        false => Err(bad()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn copies_and_inserts() {
        // Base of 10 bytes, result of 7: copy 4 from 2, insert "abc".
        let delta = [10, 7, 0b1001_0001, 2, 4, 3, b'a', b'b', b'c'];
        assert_eq!(apply(b"0123456789", &delta).unwrap(), b"2345abc");
        assert!(apply(b"012345678", &delta).is_err());
        assert!(apply(b"0123456789", &delta[..8]).is_err());
    }

    proptest! {
        #[test]
        fn any_bytes_are_taken(
            base in prop::collection::vec(any::<u8>(), 0..64),
            tail in prop::collection::vec(any::<u8>(), 0..64),
            size in 0u8..127,
        ) {
            let mut delta = vec![base.len() as u8, size];
            delta.extend_from_slice(&tail);
            if let Ok(made) = apply(&base, &delta) {
                prop_assert_eq!(made.len(), usize::from(size));
            }
            let _ = apply(&base, &tail);
        }
    }
}
