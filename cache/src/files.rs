//! Opening and making the pair of files that holds a large object: its data and its sidecar.
//!
//! Invariants: whoever has a data file open holds it (see `lock`); a partial has its exact size
//! from the moment its sidecar is in place; a data file that is found shorter than its object is
//! never made longer again, but replaced by a new file: somebody may have verified grains of it
//! that would now read as zeros.

use crate::sync::Arc;
use std::fs::File;
use std::io::{self, ErrorKind};
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::time::{Duration, Instant};

use blake3::Hash;

use crate::clock;
use crate::dir::{self, Dir};
use crate::failpoint;
use crate::key::ObjectKey;
use crate::lock::{self, LIFECYCLE, RangeLock};
use crate::sidecar::{self, Header};

/// How long another process may take to lay a partial out, which is a few system calls.
const LAYOUT_PATIENCE: Duration = Duration::from_secs(1);

/// How often to begin again because the file was removed or replaced just then.
const TRIES: u32 = 8;

/// Tells a file from all others, those before it at the same place included.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Identity {
    dev: u64,
    ino: u64,
    nonce: u64,
}

/// An object's two files, open and held.
pub(crate) struct Files {
    pub(crate) data: Arc<File>,
    pub(crate) sidecar: File,
    pub(crate) identity: Identity,
}

/// What came of opening an object's files.
pub(crate) enum Opened {
    Ready(Files),
    /// There are none.
    Absent,
    /// They are just being removed or moved. Look again in a moment.
    Busy,
    /// They are not what they should be.
    Bad(&'static str),
}

/// Opens the blob `hash`, which must have `size` bytes, for reading.
pub(crate) fn open_blob(dir: &Dir, hash: &Hash, size: u64) -> io::Result<Opened> {
    let path = dir.blob(hash);
    let mut options = File::options();
    options.read(true);
    let data = match options.open(&path) {
        Ok(data) => data,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Opened::Absent),
        Err(error) => return Err(error),
    };
    let opened = finish_opening(data, &path, size, &options)?;
    Ok(match opened {
        (Opened::Ready(_), Some(header)) if header.sealed != Some(*hash) => {
            Opened::Bad("its sidecar is of another content")
        }
        (opened, _) => opened,
    })
}

/// Opens the partial of an object for reading and writing.
pub(crate) fn open_partial(dir: &Dir, key: &ObjectKey, size: u64) -> io::Result<Opened> {
    let path = dir.partial(key);
    let mut options = File::options();
    options.read(true).write(true);
    let data = match options.open(&path) {
        Ok(data) => data,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Opened::Absent),
        Err(error) => return Err(error),
    };
    // What is ahead of a reader is brought by requests. The kernel's own read-ahead would fill the
    // page cache with holes, which cost as much as what then takes their place.
    let _ = rustix::fs::fadvise(&data, 0, None, rustix::fs::Advice::Random);
    let opened = finish_opening(data, &path, size, &options)?;
    Ok(match opened {
        (Opened::Ready(_), Some(header)) if header.key != *key => {
            Opened::Bad("its sidecar is of another object")
        }
        (opened, _) => opened,
    })
}

fn finish_opening(
    data: File,
    path: &Path,
    size: u64,
    options: &std::fs::OpenOptions,
) -> io::Result<(Opened, Option<Header>)> {
    if !lock::hold(&data)? {
        return Ok((Opened::Busy, None));
    }
    let metadata = data.metadata()?;
    if metadata.nlink() == 0 {
        return Ok((Opened::Busy, None));
    }
    if !metadata.is_file() || metadata.len() != size {
        return Ok((Opened::Bad("its length is wrong"), None));
    }
    let sidecar = match options.open(dir::sidecar(path)) {
        Ok(sidecar) => sidecar,
        Err(error) if error.kind() == ErrorKind::NotFound => {
            return Ok((Opened::Bad("its sidecar is missing"), None));
        }
        Err(error) => return Err(error),
    };
    let Some(header) = Header::read(&sidecar)?.filter(|header| header.size == size) else {
        return Ok((Opened::Bad("its sidecar is damaged"), None));
    };
    // The sidecar was found by name: it is this file's if the file still had its own by then.
    if !dir::still_names(path, &metadata) {
        return Ok((Opened::Busy, None));
    }
    let files = Files {
        identity: Identity {
            dev: metadata.dev(),
            ino: metadata.ino(),
            nonce: header.nonce,
        },
        data: Arc::new(data),
        sidecar,
    };
    Ok((Opened::Ready(files), Some(header)))
}

/// Opens the partial of an object, and makes it if there is none or it is of no use.
///
/// None: it has just been sealed or is otherwise in motion; look for the object anew.
pub(crate) fn create_partial(dir: &Dir, key: &ObjectKey, size: u64) -> io::Result<Option<Files>> {
    let path = dir.partial(key);
    let sidecar_path = dir::sidecar(&path);
    for _ in 0..TRIES {
        let data = Arc::new(dir.create(&path)?);
        failpoint::pass("create.data");
        if !lock::hold(&data)? {
            crate::sync::thread::sleep(Duration::from_millis(1));
            continue;
        }
        let Some(_guard) = lock_lifecycle(&data, LAYOUT_PATIENCE)? else {
            return Ok(None);
        };
        let metadata = data.metadata()?;
        if !dir::still_names(&path, &metadata) {
            return Ok(None);
        }
        if metadata.len() == 0
            && !sidecar_path.exists()
            && let Err(error) = lay_out(dir, &data, &sidecar_path, key, size)
        {
            // Nobody can have got anything from it: leave nothing behind.
            dir::remove(&sidecar_path)?;
            dir::remove(&path)?;
            return Err(error);
        }
        match open_partial(dir, key, size)? {
            Opened::Ready(files) => return Ok(Some(files)),
            Opened::Busy => {}
            Opened::Absent => return Ok(None),
            Opened::Bad(reason) => {
                tracing::warn!(object = %key, reason, "partial dropped");
                // In this order: see `remove_alone`.
                dir::remove(&sidecar_path)?;
                dir::remove(&path)?;
            }
        }
    }
    Ok(None)
}

/// Gives a new, empty data file its sidecar and its size, in this order.
fn lay_out(
    dir: &Dir,
    data: &File,
    sidecar_path: &Path,
    key: &ObjectKey,
    size: u64,
) -> io::Result<()> {
    let mut temporary = sidecar_path.as_os_str().to_owned();
    temporary.push(format!(".{:016x}.tmp", clock::random()));
    let temporary = Path::new(&temporary);
    let made = (|| {
        let sidecar = dir.create(temporary)?;
        sidecar.set_len(sidecar::len(size))?;
        let header = Header {
            size,
            nonce: clock::random(),
            key: *key,
            sealed: None,
        };
        header.write(&sidecar)?;
        std::fs::rename(temporary, sidecar_path)
    })();
    if made.is_err() {
        dir::remove(temporary)?;
    }
    made?;
    failpoint::pass("create.sidecar");
    data.set_len(size)?;
    failpoint::pass("create.sized");
    Ok(())
}

/// Takes the right to lay out or seal a file; None when another keeps it for longer than that.
pub(crate) fn lock_lifecycle(
    data: &Arc<File>,
    patience: Duration,
) -> io::Result<Option<RangeLock>> {
    let deadline = Instant::now() + patience;
    loop {
        match RangeLock::try_new(data, LIFECYCLE)? {
            None if Instant::now() < deadline => {
                crate::sync::thread::sleep(Duration::from_millis(1))
            }
            other => return Ok(other),
        }
    }
}

/// Completes a seal that a crash interrupted between its two renames: the sidecar is at the blob's
/// place, and the data, complete and synced, still at the partial's. Returns whether it did.
pub(crate) fn finish_interrupted_seal(
    dir: &Dir,
    key: &ObjectKey,
    hash: &Hash,
    size: u64,
) -> io::Result<bool> {
    let (partial, blob) = (dir.partial(key), dir.blob(hash));
    let Ok(sidecar) = File::open(dir::sidecar(&blob)) else {
        return Ok(false);
    };
    let header = Header::read(&sidecar)?;
    let Some(header) = header.filter(|header| header.sealed == Some(*hash)) else {
        return Ok(false);
    };
    let Ok(data) = File::options().read(true).write(true).open(&partial) else {
        return Ok(false);
    };
    let data = Arc::new(data);
    if !lock::hold(&data)? {
        return Ok(false);
    }
    let Some(_guard) = lock_lifecycle(&data, LAYOUT_PATIENCE)? else {
        return Ok(false);
    };
    let metadata = data.metadata()?;
    let interrupted = header.key == *key
        && header.size == size
        && metadata.len() == size
        && dir::still_names(&partial, &metadata)
        && !dir::sidecar(&partial).exists()
        && !blob.exists();
    if interrupted {
        dir.rename(&partial, &blob)?;
        tracing::info!(object = %key, blob = %hash, "interrupted seal completed");
    }
    Ok(interrupted)
}
