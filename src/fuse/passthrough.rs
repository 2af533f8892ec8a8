//! Passthrough: the kernel reads a complete cached file itself, and this process sees no read.
//!
//! An inode is open in one mode at a time, passed through to one file or read through this
//! process: the kernel answers an open in another mode with EIO. So the mode is chosen at the first
//! open and kept until the last release. It is fixed under a lock, and counted before the reply is
//! sent, so that an inode counts as open for at least as long as the kernel believes it is.
//!
//! What the kernel calls a file belongs to the mount, not to a process: one that takes the mount over
//! must go on with it while the inode is open. So it is written down before an open is answered
//! ([`Vfs::backed`]), and that it is no longer used before the kernel is told so: lost in between, a
//! file stays known to the kernel in vain, and never is another one taken for it. The count is that
//! of the handles that are written down ([`Passthrough::take_over`]).

use std::collections::HashMap;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use fuser::{FileHandle, FopenFlags, InitFlags, KernelConfig, ReplyOpen};
use tracing::{debug, info};

use super::mounter::Mounter;
use crate::vfs::{Backing, OpenInode, Vfs};

/// Locks, so that kernel threads rarely meet at one.
const SHARDS: usize = 16;

/// The magic number of overlayfs, as statfs(2) lists it.
const OVERLAYFS: u64 = 0x794c_7630;

/// Which open inodes are passed through, and to what.
#[derive(Debug)]
pub struct Passthrough {
    /// How many filesystems may be stacked below the files; 0 where it was not asked for.
    depth: u32,
    /// Who makes files known to the kernel, for which it takes a privilege.
    mounter: Option<Arc<Mounter>>,
    on: AtomicBool,
    /// Why it is off.
    reason: Mutex<String>,
    opens: AtomicU64,
    inodes: [Mutex<HashMap<u64, Open>>; SHARDS],
}

/// An open inode.
#[derive(Debug)]
struct Open {
    count: u64,
    backing: Option<Arc<Registered>>,
}

/// A file that the kernel knows, until this is dropped.
#[derive(Debug)]
struct Registered {
    id: u32,
    /// Nothing where it was inherited and this process passes nothing through by itself.
    mounter: Option<Arc<Mounter>>,
}

impl Drop for Registered {
    fn drop(&mut self) {
        if let Some(mounter) = &self.mounter {
            // It fails where the mount is gone, and with it what the kernel knew.
            let _ = mounter.close_backing(self.id);
        }
    }
}

/// Whether files are passed through, for the status.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct State {
    /// Whether they are.
    pub on: bool,
    /// Why not, where they are not.
    pub reason: Option<String>,
    /// Opens that were passed through so far.
    pub opens: u64,
}

impl Passthrough {
    /// Asks for it, for cached files below `dir`; `mounter` is the mount's.
    pub fn wanted(dir: &Path, mounter: Arc<Mounter>) -> Passthrough {
        // A file of an overlay is a stack of two. Asking for two where one is enough would keep
        // others from laying an overlay over the mount, as container runtimes do.
        let stacked = rustix::fs::statfs(dir).is_ok_and(|s| s.f_type as u64 == OVERLAYFS);
        Passthrough::new(
            if stacked { 2 } else { 1 },
            Some(mounter),
            "not mounted yet",
        )
    }

    /// Does without it.
    pub fn unwanted() -> Passthrough {
        Passthrough::new(0, None, "turned off")
    }

    fn new(depth: u32, mounter: Option<Arc<Mounter>>, reason: &str) -> Passthrough {
        Passthrough {
            depth,
            mounter,
            on: AtomicBool::new(false),
            reason: Mutex::new(reason.into()),
            opens: AtomicU64::new(0),
            inodes: std::array::from_fn(|_| Mutex::default()),
        }
    }

    /// Takes over the inodes that an earlier process left open: each stays in its mode until it is
    /// closed.
    pub fn take_over(&self, open: &[OpenInode]) {
        for inode in open {
            let mounter = self.mounter.clone();
            let registered = |id| Arc::new(Registered { id, mounter });
            let open = Open {
                count: inode.handles,
                backing: inode.backing.map(registered),
            };
            self.inodes(inode.ino).insert(inode.ino, open);
        }
    }

    /// Returns what the kernel calls the files that it reads open inodes from itself.
    pub fn in_use(&self) -> Vec<u32> {
        let ids = |shard: &Mutex<HashMap<u64, Open>>| {
            let inodes = lock(shard);
            let ids = inodes.values().filter_map(|open| open.backing.as_ref());
            ids.map(|backing| backing.id).collect::<Vec<_>>()
        };
        self.inodes.iter().flat_map(ids).collect()
    }

    /// Returns whether it is on, and why not.
    pub fn state(&self) -> State {
        let on = self.on.load(Ordering::Relaxed);
        State {
            on,
            reason: (!on).then(|| lock(&self.reason).clone()),
            opens: self.opens.load(Ordering::Relaxed),
        }
    }

    /// Agrees on it with the kernel.
    pub(super) fn init(&self, config: &mut KernelConfig) {
        if self.depth == 0 {
            return;
        }
        let able = config.add_capabilities(InitFlags::FUSE_PASSTHROUGH).is_ok()
            && config.set_max_stack_depth(self.depth).is_ok();
        if able {
            self.on.store(true, Ordering::Relaxed);
        } else {
            self.give_up("the kernel has no passthrough (Linux 6.9 has)");
        }
    }

    /// Answers an open: passed through to the handle's file if it is complete, sealed and not open
    /// in the other mode, else with the flags `how`.
    pub(super) fn answer(
        &self,
        vfs: &Vfs,
        ino: u64,
        handle: u64,
        reply: ReplyOpen,
        how: FopenFlags,
    ) {
        match self.choose(vfs, ino, handle) {
            Some(backing) => {
                self.opens.fetch_add(1, Ordering::Relaxed);
                pass_through(handle, reply, how, backing.id);
            }
            None if vfs.is_mistrusted(handle) => {
                let how = how & !FopenFlags::FOPEN_KEEP_CACHE;
                reply.opened(FileHandle(handle), how);
            }
            None => reply.opened(FileHandle(handle), how),
        }
    }

    /// Answers an open as an earlier process did, whose answer did not arrive. It is counted.
    pub(super) fn repeat(&self, ino: u64, handle: u64, reply: ReplyOpen, how: FopenFlags) {
        let open = |inodes: MutexGuard<'_, HashMap<u64, Open>>| inodes.get(&ino)?.backing.clone();
        match open(self.inodes(ino)) {
            Some(backing) => pass_through(handle, reply, how, backing.id),
            None => reply.opened(FileHandle(handle), how),
        }
    }

    fn choose(&self, vfs: &Vfs, ino: u64, handle: u64) -> Option<Arc<Registered>> {
        if let Some(open) = self.inodes(ino).get_mut(&ino) {
            open.count += 1;
            return open.backing.clone();
        }
        if self.depth == 0 {
            return None;
        }
        let file = match vfs.backing(handle) {
            // Whatever happens to it, it is never passed through.
            Backing::Never => return None,
            Backing::File(file) if self.on.load(Ordering::Relaxed) => Some(file),
            Backing::File(_) | Backing::NotYet => None,
        };
        let backing = file.and_then(|file| self.register(file.as_fd()));
        let mut inodes = self.inodes(ino);
        // Another open may have been faster: then its choice holds.
        let open = inodes.entry(ino).or_insert_with(|| {
            if let Some(backing) = &backing {
                vfs.backed(ino, Some(backing.id));
            }
            Open {
                count: 0,
                backing: backing.clone(),
            }
        });
        open.count += 1;
        let chosen = open.backing.clone();
        drop(inodes);
        vfs.settle();
        chosen
    }

    /// Makes a file known to the kernel, which from then on holds it open, and with it the lock
    /// that keeps it from being evicted.
    fn register(&self, file: BorrowedFd<'_>) -> Option<Arc<Registered>> {
        let mounter = self.mounter.clone()?;
        match mounter.open_backing(file) {
            Ok(id) => Some(Arc::new(Registered {
                id,
                mounter: Some(mounter),
            })),
            Err(error) => {
                self.refused(&error);
                None
            }
        }
    }

    fn refused(&self, error: &io::Error) {
        use rustix::io::Errno;
        let lasting = match Errno::from_io_error(error) {
            Some(Errno::PERM) => "it takes CAP_SYS_ADMIN",
            Some(Errno::LOOP) => "the cache is on a stack of filesystems that is too high",
            Some(Errno::OPNOTSUPP | Errno::NOTTY | Errno::INVAL) => {
                "the kernel, or the cache's filesystem, cannot"
            }
            _ => return debug!(%error, "a file is not passed through"),
        };
        self.give_up(lasting);
    }

    fn give_up(&self, reason: &str) {
        self.on.store(false, Ordering::Relaxed);
        *lock(&self.reason) = reason.into();
        info!(
            reason,
            "files are not passed through: all reads go through this process"
        );
    }

    /// Takes note of a release.
    pub(super) fn released(&self, vfs: &Vfs, ino: u64) {
        let mut inodes = self.inodes(ino);
        let Some(open) = inodes.get_mut(&ino) else {
            return;
        };
        open.count = open.count.saturating_sub(1);
        if open.count == 0 {
            let gone = inodes.remove(&ino).and_then(|open| open.backing);
            if gone.is_some() {
                vfs.backed(ino, None);
            }
            // What it drops is a system call: not under the lock.
            drop(inodes);
            if gone.is_some() {
                vfs.settle();
            }
            drop(gone);
        }
    }

    fn inodes(&self, ino: u64) -> MutexGuard<'_, HashMap<u64, Open>> {
        lock(&self.inodes[ino as usize % SHARDS])
    }
}

fn pass_through(handle: u64, reply: ReplyOpen, how: FopenFlags, id: u32) {
    // The kernel's own pages of this inode are not used: there is none to keep.
    let how = how & !FopenFlags::FOPEN_KEEP_CACHE;
    // SAFETY: the id is the kernel's, of a file that stays known for longer than this.
    let id = unsafe { reply.wrap_backing(id) };
    reply.opened_passthrough(FileHandle(handle), how, &id);
    // Dropped, it would be closed.
    let _ = id.into_raw();
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
