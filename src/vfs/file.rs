//! Open files: an immutable object each, shared by all handles of an inode.

use std::os::fd::AsFd;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use super::ahead::{Ahead, Trace};
use super::error::{Error, Result};
use super::journal::record::{self, Place};
use super::node::{Node, What};
use crate::entry::Entry;
use crate::fetch::window::{Advice, Window};
use crate::fetch::{Followed, Remote};
use crate::path::RelPath;
use crate::source::{self, Source};

/// The bytes behind an inode.
#[derive(Debug)]
pub(super) enum OpenFile {
    /// Fetched block by block into the cache.
    Remote(RemoteFile),
    /// On this machine already: read in place.
    InPlace(InPlaceFile),
}

impl OpenFile {
    /// Returns what it is pinned to.
    pub(super) fn entry(&self) -> &Entry {
        match self {
            OpenFile::Remote(file) => file.remote.entry(),
            OpenFile::InPlace(file) => &file.entry,
        }
    }
}

/// A file that is fetched.
pub(super) struct RemoteFile {
    pub(super) remote: Arc<Remote>,
    trace: Trace,
    ahead: Arc<Ahead>,
}

impl std::fmt::Debug for RemoteFile {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.remote.fmt(f)
    }
}

impl RemoteFile {
    pub(super) fn new(remote: Arc<Remote>, trace: Trace, ahead: Arc<Ahead>) -> RemoteFile {
        RemoteFile {
            remote,
            trace,
            ahead,
        }
    }
}

impl Drop for RemoteFile {
    fn drop(&mut self) {
        self.ahead.on_close(&mut self.trace);
    }
}

/// A file of a local directory.
pub(super) struct InPlaceFile {
    pub(super) file: std::fs::File,
    pub(super) source: Arc<dyn Source>,
    pub(super) path: RelPath,
    pub(super) entry: Entry,
}

impl std::fmt::Debug for InPlaceFile {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("InPlaceFile")
            .field("path", &self.path)
            .finish_non_exhaustive()
    }
}

impl InPlaceFile {
    /// Reads without waiting for a disk: only what the page cache holds. Nothing if it does not
    /// hold all of it.
    fn read_cached(&self, offset: u64, buf: &mut [u8]) -> Option<Result<usize>> {
        let len = buf.len();
        let flags = rustix::io::ReadWriteFlags::NOWAIT;
        let mut iov = [std::io::IoSliceMut::new(buf)];
        match rustix::io::preadv2(self.file.as_fd(), &mut iov, offset, flags) {
            Ok(n) if n == len || offset + n as u64 >= self.entry.size.unwrap_or(0) => {
                Some(self.unchanged().map(|()| n))
            }
            _ => None,
        }
    }

    /// Reads, waiting for the disk.
    pub(super) fn read(&self, offset: u64, buf: &mut [u8]) -> Result<usize> {
        use std::os::unix::fs::FileExt;
        let size = self.entry.size.unwrap_or(0);
        let mut done = 0;
        while done < buf.len() && offset + (done as u64) < size {
            match self.file.read_at(&mut buf[done..], offset + done as u64) {
                Ok(0) => break,
                Ok(n) => done += n,
                Err(e) if e.kind() == std::io::ErrorKind::Interrupted => {}
                Err(e) => return Err(Error::Disk(format!("{}: {e}", self.source.url(&self.path)))),
            }
        }
        // After the read: what was read is this version's only if the file still is it.
        self.unchanged()?;
        Ok(done)
    }

    fn unchanged(&self) -> Result<()> {
        match self.source.in_place() {
            Some(ability) => Ok(ability.check(&self.path, &self.file, &self.entry)?),
            None => Err(source::Error::lied("a local source lost its ability").into()),
        }
    }
}

/// An open file as one opener sees it.
#[derive(Debug)]
pub(super) struct Handle {
    pub(super) node: Arc<Node>,
    pub(super) file: Arc<OpenFile>,
    /// The kernel's request that it answered; 0 where there was none.
    request: u64,
    /// Whether the validator was written down that its reads are compared with.
    is_known: AtomicBool,
    window: Mutex<Window>,
}

impl Handle {
    /// `is_known` tells whether its validator is written down already.
    pub(super) fn new(
        node: Arc<Node>,
        file: Arc<OpenFile>,
        request: u64,
        is_known: bool,
    ) -> Handle {
        Handle {
            node,
            file,
            request,
            is_known: AtomicBool::new(is_known),
            window: Mutex::new(Window::default()),
        }
    }

    /// Returns whether a reply taught a validator that is not written down yet; says so once.
    pub(super) fn learnt(&self) -> bool {
        !self.is_known.load(Ordering::Relaxed)
            && self.file.entry().validator.is_some()
            && !self.is_known.swap(true, Ordering::Relaxed)
    }

    /// Appends what another process must know of it.
    pub(super) fn put(&self, number: u64, out: &mut Vec<u8>) {
        if let What::Leaf {
            layer, source_path, ..
        } = &self.node.what
        {
            let place = Place {
                path: &self.node.path,
                layer: *layer,
                source_path,
                entry: self.file.entry(),
            };
            record::put_opened(out, number, self.request, self.node.ino, place);
        }
    }

    /// Fills `buf` if that needs no waiting for a source or a cold local disk of one.
    pub(super) fn read_now(&self, offset: u64, buf: &mut [u8]) -> Option<Result<usize>> {
        match &*self.file {
            OpenFile::Remote(file) => {
                let n = file.remote.read_at(offset, buf)?;
                self.follow(file, offset, n, false);
                Some(Ok(n))
            }
            OpenFile::InPlace(file) => file.read_cached(offset, buf),
        }
    }

    /// Reads, waiting as long as it takes, and hands the bytes to `take`, which must not wait.
    pub(super) async fn read<T>(
        &self,
        offset: u64,
        len: usize,
        take: impl FnOnce(&[u8]) -> T,
    ) -> Result<T> {
        match &*self.file {
            OpenFile::Remote(file) => {
                let remote = &file.remote;
                // Ahead first: the reader's own request then starts beside it, not after it.
                let n = remote.size().saturating_sub(offset).min(len as u64) as usize;
                self.follow(file, offset, n, true);
                Ok(remote.read(offset, len, take).await?)
            }
            OpenFile::InPlace(_) => {
                let file = self.file.clone();
                let bytes = tokio::task::spawn_blocking(move || match &*file {
                    OpenFile::InPlace(file) => {
                        let mut buf = vec![0; len];
                        let n = file.read(offset, &mut buf)?;
                        buf.truncate(n);
                        Ok(buf)
                    }
                    OpenFile::Remote(_) => Err(Error::Stale),
                });
                let bytes = bytes.await.map_err(|e| Error::Disk(e.to_string()))??;
                Ok(take(&bytes))
            }
        }
    }

    fn follow(&self, file: &RemoteFile, offset: u64, len: usize, missed: bool) {
        let RemoteFile {
            remote,
            trace,
            ahead,
        } = file;
        if missed || trace.is_marked() {
            ahead.on_read(&self.node.path, trace, len as u64, missed);
        }
        if len == 0 || remote.size() <= svol_cache::SMALL {
            // Its first read fetched it whole: nothing is ahead of it.
            return;
        }
        let window = || self.window.lock().unwrap_or_else(PoisonError::into_inner);
        let advice = window().on_read(offset..offset + len as u64, remote.size(), remote.window());
        if advice == Advice::default() {
            return;
        }
        match remote.follow(&advice) {
            Followed::Here => window().was_here(),
            Followed::Started => {}
            Followed::Refused(from) => window().refused(from),
        }
    }
}

impl Drop for Handle {
    fn drop(&mut self) {
        if let OpenFile::Remote(RemoteFile { remote, .. }) = &*self.file {
            let wasted = self
                .window
                .get_mut()
                .unwrap_or_else(PoisonError::into_inner)
                .abandon();
            if wasted > 0 {
                remote.follow(&Advice {
                    wasted,
                    ..Default::default()
                });
            }
        }
    }
}
