//! A file mapped into memory.

use std::fs::File;

/// A read-only mapping; unmapped when dropped.
pub struct Mapping {
    at: *mut std::ffi::c_void,
    len: usize,
}

impl Mapping {
    pub fn new(file: &File, len: usize) -> Mapping {
        use rustix::mm::{MapFlags, ProtFlags};
        // SAFETY: a new mapping at a place of the kernel's choice.
        let at = unsafe {
            let nowhere = std::ptr::null_mut();
            rustix::mm::mmap(nowhere, len, ProtFlags::READ, MapFlags::SHARED, file, 0)
        };
        Mapping {
            at: at.unwrap(),
            len,
        }
    }

    pub fn bytes(&self) -> &[u8] {
        // SAFETY: mapped for as long as `self` lives, and what is mapped never changes.
        unsafe { std::slice::from_raw_parts(self.at.cast(), self.len) }
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: mapped by `new`, and nobody refers to it any more.
        let _ = unsafe { rustix::mm::munmap(self.at, self.len) };
    }
}
