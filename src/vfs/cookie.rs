//! Where a reader of a directory is: the offsets that readdir gives out.
//!
//! The kernel fills one cache for all readers of a directory, finds a reader's place in it by the
//! offset alone, and asks us where the cache does not have it. So an offset must not be a mere
//! position: in the listing as it is now another name may be there, and a reader who began with an
//! older one would lose a name or meet one twice. An offset tells after which name it is. Found in
//! the newer listing, reading goes on after that name, and names are sorted; not found, the reader
//! is given the rest of the listing that it began with. And a new process can answer for an old one.

use crate::namespace::{LookupError, Merged};

/// The offset of the first name: `.` is at 0 and `..` at 1.
pub(super) const FIRST: u64 = 2;

/// An offset is a position in its low half and a hash of the name before it in the high one, whose
/// uppermost bit is the sign.
const HALF: u32 = 32;

/// Returns the offset behind the name at `index`.
pub(super) fn behind(index: usize, name: &str) -> u64 {
    let position = index as u64 + 1 + FIRST;
    u64::from(hash(name)) << HALF | (position & u64::from(u32::MAX))
}

/// Returns the index of the first name that a reader who is at `offset` has not seen; nothing if the
/// offset is of another listing, which had a name that this one has not.
pub(super) fn resume(listing: &Merged, offset: u64) -> Result<Option<usize>, LookupError> {
    let Some(index) = index_before(offset) else {
        return Ok(Some(0));
    };
    let hash_before = offset >> HALF;
    let is_it = |name: &str| u64::from(hash(name)) == hash_before;
    if let Some(entry) = listing.iter_from(index).next()
        && is_it(entry?.entry.name.as_str())
    {
        return Ok(Some(index + 1));
    }
    for (at, entry) in listing.iter().enumerate() {
        if is_it(entry?.entry.name.as_str()) {
            return Ok(Some(at + 1));
        }
    }
    Ok(None)
}

/// Returns the best guess where no listing has the name before `offset` any more: rather one name
/// twice than one lost.
pub(super) fn guess(offset: u64) -> usize {
    index_before(offset).unwrap_or(0)
}

/// Returns the index that the name before `offset` had; nothing if there is none before it.
fn index_before(offset: u64) -> Option<usize> {
    let position = offset & u64::from(u32::MAX);
    // No directory has four billion names.
    Some(usize::try_from(position.checked_sub(FIRST + 1)?).unwrap_or(usize::MAX))
}

/// Returns 31 bits of FNV-1a: the same in every process.
fn hash(name: &str) -> u32 {
    const OFFSET: u64 = 0xcbf2_9ce4_8422_2325;
    const PRIME: u64 = 0x0000_0100_0000_01b3;
    let hash = name.bytes().fold(OFFSET, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(PRIME)
    });
    ((hash >> 33) ^ (hash & 0x7fff_ffff)) as u32
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn offsets_are_positive_and_tell_names_and_positions_apart() {
        let a = behind(0, "a");
        assert_ne!(a, behind(0, "b"));
        assert_ne!(a, behind(1, "a"));
        assert!(a > FIRST);
        for i in 0..10_000 {
            assert!(i64::try_from(behind(i, &format!("name-{i}"))).is_ok());
        }
        // Fixed: a new process goes on where an old one stopped.
        assert_eq!(behind(0, "a"), BEHIND_A);
    }

    const BEHIND_A: u64 = 0x51b0_02aa_0000_0003;
}
