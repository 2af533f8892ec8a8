//! A file without a name, for what is too large for memory.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use rustix::fs::{Mode, OFlags};

use super::Lost;

/// A scratch file. Written by its maker only, then read by all.
#[derive(Debug)]
pub(super) struct Scratch {
    file: File,
    end: AtomicU64,
}

impl Scratch {
    /// Makes one in `dir`.
    pub(super) fn new(dir: &Path) -> io::Result<Scratch> {
        let flags = OFlags::TMPFILE | OFlags::RDWR | OFlags::CLOEXEC;
        let file = match rustix::fs::open(dir, flags, Mode::RUSR | Mode::WUSR) {
            Ok(file) => file.into(),
            // A file system without nameless files: one whose name goes at once.
            Err(rustix::io::Errno::OPNOTSUPP | rustix::io::Errno::ISDIR) => named(dir)?,
            Err(errno) => return Err(errno.into()),
        };
        Ok(Scratch {
            file,
            end: AtomicU64::new(0),
        })
    }

    /// Appends `bytes`; returns where they are.
    pub(super) fn append(&self, bytes: &[u8]) -> io::Result<u64> {
        let at = self.end.fetch_add(bytes.len() as u64, Ordering::Relaxed);
        self.file.write_all_at(bytes, at)?;
        Ok(at)
    }

    pub(super) fn read(&self, at: u64, len: usize) -> Result<Arc<[u8]>, Lost> {
        let mut bytes = vec![0; len];
        self.file
            .read_exact_at(&mut bytes, at)
            .map_err(|error| Lost(error.to_string()))?;
        Ok(bytes.into())
    }
}

fn named(dir: &Path) -> io::Result<File> {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    let n = NEXT.fetch_add(1, Ordering::Relaxed);
    let path = dir.join(format!("scratch-{}-{n}", std::process::id()));
    let file = File::options()
        .read(true)
        .write(true)
        .create_new(true)
        .open(&path)?;
    std::fs::remove_file(&path)?;
    Ok(file)
}
