//! The sidecar: which grains of an object's file are here, and what they hash to.
//!
//! A header of [`HEADER`] bytes, then a chaining value of 32 bytes for each grain, all zeros where
//! the grain is absent. docs/CACHE_FORMAT.md has the fields, and a golden test holds them.
//!
//! It is read and written with pread and pwrite, not mapped: between processes the page cache
//! shows a write at once either way, and a truncated file or a full disk is an error here, where
//! it would be a SIGBUS there. A value that is torn, lost or wrong fails the verification of its
//! grain, which costs a fetch and nothing else.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

use blake3::Hash;

use crate::grain::{self, Cv, GRAIN};
use crate::key::ObjectKey;

/// The length of the header in bytes: a multiple of 32, so that no value straddles a page.
pub(crate) const HEADER: u64 = 128;

const MAGIC: &[u8; 8] = b"svolgrn1";
const CV_LEN: u64 = 32;
const SEALED: u32 = 1;

/// What a sidecar says of its object.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Header {
    pub(crate) size: u64,
    /// Random, made with the file. With device and inode it tells two files apart even where the
    /// file system gives an inode number to a new file at once.
    pub(crate) nonce: u64,
    pub(crate) key: ObjectKey,
    /// The hash of the whole, once every grain was verified and the file is to be a blob.
    pub(crate) sealed: Option<Hash>,
}

impl Header {
    pub(crate) fn encode(&self) -> [u8; HEADER as usize] {
        let mut out = [0; HEADER as usize];
        out[0..8].copy_from_slice(MAGIC);
        out[8..16].copy_from_slice(&self.size.to_le_bytes());
        out[16..20].copy_from_slice(&(GRAIN as u32).to_le_bytes());
        let flags = if self.sealed.is_some() { SEALED } else { 0 };
        out[20..24].copy_from_slice(&flags.to_le_bytes());
        out[24..32].copy_from_slice(&self.nonce.to_le_bytes());
        out[32..64].copy_from_slice(self.key.as_bytes());
        if let Some(hash) = self.sealed {
            out[64..96].copy_from_slice(hash.as_bytes());
        }
        let checksum = blake3::hash(&out[..96]);
        out[96..128].copy_from_slice(checksum.as_bytes());
        out
    }

    /// Returns None for anything that is not a whole header of this format.
    pub(crate) fn decode(bytes: &[u8; HEADER as usize]) -> Option<Self> {
        let u64_at = |at: usize| {
            let mut field = [0; 8];
            field.copy_from_slice(&bytes[at..at + 8]);
            u64::from_le_bytes(field)
        };
        let hash_at = |at: usize| {
            let mut field = [0; 32];
            field.copy_from_slice(&bytes[at..at + 32]);
            field
        };
        let grain_and_flags = u64_at(16);
        if &bytes[0..8] != MAGIC
            || grain_and_flags & 0xffff_ffff != GRAIN
            || blake3::hash(&bytes[..96]) != Hash::from_bytes(hash_at(96))
        {
            return None;
        }
        let sealed = (grain_and_flags >> 32) as u32 & SEALED != 0;
        Some(Self {
            size: u64_at(8),
            nonce: u64_at(24),
            key: ObjectKey::from_bytes(hash_at(32)),
            sealed: sealed.then(|| Hash::from_bytes(hash_at(64))),
        })
    }

    pub(crate) fn read(file: &File) -> io::Result<Option<Self>> {
        let mut bytes = [0; HEADER as usize];
        match file.read_exact_at(&mut bytes, 0) {
            Ok(()) => Ok(Self::decode(&bytes)),
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Ok(None),
            Err(error) => Err(error),
        }
    }

    pub(crate) fn write(&self, file: &File) -> io::Result<()> {
        file.write_all_at(&self.encode(), 0)
    }
}

/// Returns the exact length of the sidecar of an object of `size` bytes.
pub(crate) fn len(size: u64) -> u64 {
    HEADER + grain::count(size) * CV_LEN
}

/// Reads the chaining values from grain `first` on; those beyond the file's end are absent.
pub(crate) fn read_cvs(file: &File, first: u64, cvs: &mut [Cv]) -> io::Result<()> {
    let bytes = cvs.as_flattened_mut();
    let mut filled = 0;
    while filled < bytes.len() {
        let at = HEADER + first * CV_LEN + filled as u64;
        match file.read_at(&mut bytes[filled..], at) {
            Ok(0) => break,
            Ok(read) => filled += read,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    bytes[filled..].fill(0);
    Ok(())
}

/// Writes consecutive chaining values from grain `first` on.
pub(crate) fn write_cvs(file: &File, first: u64, cvs: &[Cv]) -> io::Result<()> {
    file.write_all_at(cvs.as_flattened(), HEADER + first * CV_LEN)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn header() -> Header {
        Header {
            size: 0x0102_0304_0506,
            nonce: 0x1122_3344_5566_7788,
            key: ObjectKey::from_bytes([0xab; 32]),
            sealed: Some(blake3::hash(b"content")),
        }
    }

    #[test]
    fn a_header_survives_and_one_flipped_bit_does_not() {
        for sealed in [None, header().sealed] {
            let header = Header { sealed, ..header() };
            let bytes = header.encode();
            assert_eq!(Header::decode(&bytes), Some(header));
            for bit in 0..HEADER as usize * 8 {
                let mut flipped = bytes;
                flipped[bit / 8] ^= 1 << (bit % 8);
                assert_eq!(Header::decode(&flipped), None, "bit {bit}");
            }
        }
    }

    #[test]
    fn golden_header() {
        let bytes = header().encode();
        assert_eq!(&bytes[0..8], b"svolgrn1");
        assert_eq!(bytes[8..16], [6, 5, 4, 3, 2, 1, 0, 0]);
        assert_eq!(bytes[16..24], [0, 0x40, 0, 0, 1, 0, 0, 0]);
        assert_eq!(
            bytes[24..32],
            [0x88, 0x77, 0x66, 0x55, 0x44, 0x33, 0x22, 0x11]
        );
        assert_eq!(bytes[32..64], [0xab; 32]);
        assert_eq!(bytes[64..96], *blake3::hash(b"content").as_bytes());
        assert_eq!(bytes[96..], *blake3::hash(&bytes[..96]).as_bytes());
    }

    #[test]
    fn values_past_the_end_are_absent() {
        let file = tempfile::tempfile().unwrap();
        write_cvs(&file, 1, &[[1; 32], [2; 32]]).unwrap();
        let mut cvs = [[9; 32]; 4];
        read_cvs(&file, 0, &mut cvs).unwrap();
        assert_eq!(cvs, [grain::ABSENT, [1; 32], [2; 32], grain::ABSENT]);
    }
}
