//! Kernel glue: decodes requests, answers hits on the kernel's own thread, spawns the rest.
//!
//! No thread that reads from /dev/fuse ever waits for a source: what cannot be answered from
//! memory and local disk is spawned with the reply moved into it.

use std::cell::RefCell;
use std::ffi::OsStr;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use fuser::{
    Errno, FileAttr, FileHandle, FileType, Filesystem, FopenFlags, Generation, INodeNo, InitFlags,
    KernelConfig, LockOwner, OpenAccMode, OpenFlags, ReplyAttr, ReplyCreate, ReplyData,
    ReplyDirectory, ReplyDirectoryPlus, ReplyEmpty, ReplyEntry, ReplyOpen, ReplyStatfs, ReplyWrite,
    ReplyXattr, Request,
};
use tokio::runtime::Handle as Runtime;
use tracing::{debug, warn};

use crate::entry::Kind;
use crate::vfs::{self, Attr, FOREVER, Vfs};

mod caller;
pub mod device;
mod errno;
mod gate;
pub(crate) mod handshake;
pub mod helper;
pub mod mount;
pub mod mounter;
mod notify;
pub(crate) mod orders;
mod passthrough;
pub mod probe;
pub mod prune;
mod replies;
mod report;
pub mod runner;

pub use gate::Gate;
pub use notify::{Notifications, Pending};
pub use passthrough::{Passthrough, State as PassthroughState};
pub use replies::Replies;
use report::Reporter;

/// Requests that the kernel may have under way in the background, which is where it counts all reads
/// through its page cache (its default is 16). Those that wait for a dead source count too, one or
/// two for each stuck reader, and once all are taken every other reader of the mount stands still:
/// so far more than there are readers. They cost nothing here while they wait.
const MAX_BACKGROUND: u16 = 8192;

/// Inodes that are room for any directory but the largest.
const MANY_INODES: usize = 65_536;

/// The block size of `statfs`, and of attributes.
const BLOCK: u32 = 4096;

/// Set in the number of a request that the kernel sends once more, to a process that took over.
const SENT_AGAIN: u64 = 1 << 63;

/// For how long the kernel may keep a directory's attributes that it asked for by number.
const DIR_ATTR: Duration = Duration::from_secs(1);

/// The filesystem as the kernel talks to it.
pub struct Fuse {
    vfs: Arc<Vfs>,
    runtime: Runtime,
    reporter: Arc<Reporter>,
    passthrough: Arc<Passthrough>,
    replies: Arc<Replies>,
    gate: Gate,
    /// Whether the kernel's cache of directories can be trusted (not on 6.9 to 6.12, whose ignores
    /// its own expiry).
    cache_dirs: bool,
    /// How many requests may be under way in the background.
    max_background: u16,
    /// Whether all entries of all directories come with attributes, and so become inodes.
    plus_always: bool,
}

thread_local! {
    /// One buffer for the hits of each kernel thread; a read is at most 1 MiB here.
    static BUFFER: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

impl Fuse {
    /// Wraps a filesystem; what waits runs on `runtime`.
    pub fn new(vfs: Arc<Vfs>, runtime: Runtime, passthrough: Arc<Passthrough>) -> Fuse {
        Fuse {
            vfs,
            runtime,
            reporter: Arc::new(Reporter::default()),
            passthrough,
            replies: Arc::default(),
            gate: Gate::default(),
            max_background: MAX_BACKGROUND,
            plus_always: true,
            cache_dirs: mount::kernel_version().is_none_or(|v| !((6, 9)..=(6, 12)).contains(&v)),
        }
    }

    /// Bounds how many requests the kernel may have under way in the background.
    pub fn with_requests(mut self, most: u16) -> Fuse {
        self.max_background = most.min(MAX_BACKGROUND);
        self
    }

    /// Bounds how many inodes the kernel is to know. Where they are few, it makes no inodes of names
    /// that nobody looks at.
    pub fn with_inodes(mut self, most: usize) -> Fuse {
        self.plus_always = most >= MANY_INODES;
        self
    }

    /// Returns what whoever tells the kernel of changed names has to wait for.
    pub fn replies(&self) -> Arc<Replies> {
        self.replies.clone()
    }

    /// Returns what keeps requests out once this process is to be replaced.
    pub fn gate(&self) -> Gate {
        self.gate.clone()
    }

    /// Runs what has to wait, for as long as its caller wants the answer.
    fn spawn<T: Send + 'static>(
        &self,
        req: &Request,
        what: &'static str,
        ino: INodeNo,
        work: impl Future<Output = vfs::Result<T>> + Send + 'static,
        reply: impl FnOnce(Result<T, Errno>) + Send + 'static,
    ) {
        let pid = req.pid();
        let (reporter, vfs) = (self.reporter.clone(), self.vfs.clone());
        let under_way = self.gate.go_on();
        self.runtime.spawn(async move {
            let result = caller::unless_killed(pid, work).await;
            if let Err(error) = &result {
                reporter.failed(&vfs, what, ino.0, error);
            }
            reply(result.map_err(|e| errno::errno(&e)));
            drop(under_way);
        });
    }

    fn failed(&self, what: &'static str, ino: INodeNo, error: &vfs::Error) -> Errno {
        told(&self.reporter, &self.vfs, what, ino, error)
    }

    /// Reads a directory. One that another process opened is listed first, which may have to wait.
    fn with_dir(
        &self,
        req: &Request,
        ino: INodeNo,
        fh: FileHandle,
        read: impl FnOnce(&Vfs, &Reporter, vfs::Result<()>) + Send + 'static,
    ) {
        if let Some(known) = self.vfs.reopen_dir_now(fh.0, ino.0) {
            return read(&self.vfs, &self.reporter, known);
        }
        let (pid, vfs, reporter) = (req.pid(), self.vfs.clone(), self.reporter.clone());
        let under_way = self.gate.go_on();
        self.runtime.spawn(async move {
            let known = caller::unless_killed(pid, vfs.reopen_dir(fh.0, ino.0)).await;
            read(&vfs, &reporter, known);
            drop(under_way);
        });
    }
}

/// Reports a failure, and returns what the kernel calls it.
fn told(
    reporter: &Reporter,
    vfs: &Vfs,
    what: &'static str,
    ino: INodeNo,
    error: &vfs::Error,
) -> Errno {
    reporter.failed(vfs, what, ino.0, error);
    errno::errno(error)
}

fn file_attr(attr: &Attr) -> FileAttr {
    let time: SystemTime = attr.mtime.into();
    FileAttr {
        ino: INodeNo(attr.ino),
        size: attr.size,
        blocks: attr.size.div_ceil(512),
        atime: time,
        mtime: time,
        ctime: time,
        crtime: time,
        kind: file_type(attr.kind),
        perm: attr.mode,
        nlink: if attr.kind == Kind::Dir { 2 } else { 1 },
        uid: attr.uid,
        gid: attr.gid,
        rdev: 0,
        blksize: BLOCK,
        flags: 0,
    }
}

fn file_type(kind: Kind) -> FileType {
    match kind {
        Kind::Dir => FileType::Directory,
        Kind::File => FileType::RegularFile,
        Kind::Symlink => FileType::Symlink,
    }
}

fn reply_entry(reply: ReplyEntry, looked: &vfs::Looked) {
    let attr = file_attr(&looked.attr);
    let attr_ttl = if looked.attr.kind == Kind::Dir {
        looked.name_ttl
    } else {
        // An inode is a version: what it is never changes.
        FOREVER
    };
    reply.entry_with_ttls(&attr_ttl, &looked.name_ttl, &attr, Generation(0));
}

fn reply_absent(reply: ReplyEntry, ttl: Duration) {
    if ttl.is_zero() {
        return reply.error(Errno::ENOENT);
    }
    // Inode 0 with a time: "not there, and need not be asked for so long".
    let nothing = FileAttr {
        ino: INodeNo(0),
        size: 0,
        blocks: 0,
        atime: SystemTime::UNIX_EPOCH,
        mtime: SystemTime::UNIX_EPOCH,
        ctime: SystemTime::UNIX_EPOCH,
        crtime: SystemTime::UNIX_EPOCH,
        kind: FileType::RegularFile,
        perm: 0,
        nlink: 0,
        uid: 0,
        gid: 0,
        rdev: 0,
        blksize: BLOCK,
        flags: 0,
    };
    reply.entry(&ttl, &nothing, Generation(0));
}

impl Filesystem for Fuse {
    fn init(&mut self, _req: &Request, config: &mut KernelConfig) -> io::Result<()> {
        // Those who read a whole directory before they look at its files (find, tar, du) would look
        // up each of them if entries came with attributes only where the kernel sees a need.
        if !self.plus_always
            && let Err(missing) = config.add_capabilities(InitFlags::FUSE_READDIRPLUS_AUTO)
        {
            debug!(?missing, "the kernel has no such ability");
        }
        // Each is asked for on its own: an old kernel that lacks one still gets the others.
        for wanted in [
            InitFlags::FUSE_ASYNC_READ,
            InitFlags::FUSE_PARALLEL_DIROPS,
            InitFlags::FUSE_DO_READDIRPLUS,
            InitFlags::FUSE_CACHE_SYMLINKS,
            InitFlags::FUSE_MAX_PAGES,
        ] {
            if config.add_capabilities(wanted).is_err() {
                debug!(?wanted, "the kernel has no such ability");
            }
        }
        if let Err(most) = config.set_max_background(self.max_background) {
            let _ = config.set_max_background(most);
        }
        self.passthrough.init(config);
        Ok(())
    }

    fn lookup(&self, req: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        let _begun = self.gate.enter();
        let answer = |fuse: &Fuse, result: vfs::Result<vfs::Looked>, reply: ReplyEntry| match result
        {
            Ok(looked) => reply_entry(reply, &looked),
            Err(vfs::Error::Absent) => reply_absent(reply, vfs::ABSENT),
            Err(error) => reply.error(fuse.failed("lookup", parent, &error)),
        };
        let under_way = self.replies.begin();
        if let Some(result) = self.vfs.lookup_now(parent.0, name.as_bytes()) {
            return answer(self, result, reply);
        }
        drop(under_way);
        let (vfs, name, replies) = (self.vfs.clone(), name.to_owned(), self.replies.clone());
        let (again, same) = (vfs.clone(), name.clone());
        let work = async move {
            match vfs.lookup(parent.0, name.as_bytes()).await {
                Ok(looked) => Ok(Some(looked)),
                Err(vfs::Error::Absent) => Ok(None),
                Err(error) => Err(error),
            }
        };
        self.spawn(req, "lookup", parent, work, move |result| {
            let looked = match result {
                Ok(looked) => looked,
                Err(errno) => return reply.error(errno),
            };
            // It may have changed since the source answered.
            let _under_way = replies.begin();
            let looked = match again.lookup_now(parent.0, same.as_bytes()) {
                Some(now @ (Ok(_) | Err(vfs::Error::Absent))) => {
                    if let Some(looked) = looked {
                        again.forget(looked.attr.ino, 1);
                    }
                    now.ok()
                }
                _ => looked,
            };
            match looked {
                Some(looked) => reply_entry(reply, &looked),
                None => reply_absent(reply, vfs::ABSENT),
            }
        });
    }

    fn forget(&self, _req: &Request, ino: INodeNo, nlookup: u64) {
        self.vfs.forget(ino.0, nlookup);
    }

    fn getattr(&self, _req: &Request, ino: INodeNo, _fh: Option<FileHandle>, reply: ReplyAttr) {
        let _begun = self.gate.enter();
        #[cfg(feature = "failpoints")]
        wedge::stand();
        match self.vfs.attr(ino.0) {
            // What a directory is can change under its number.
            Ok(attr) if attr.kind == Kind::Dir => reply.attr(&DIR_ATTR, &file_attr(&attr)),
            Ok(attr) => reply.attr(&FOREVER, &file_attr(&attr)),
            Err(error) => reply.error(self.failed("stat", ino, &error)),
        }
    }

    fn readlink(&self, _req: &Request, ino: INodeNo, reply: ReplyData) {
        let _begun = self.gate.enter();
        match self.vfs.readlink(ino.0) {
            Ok(target) => reply.data(target.as_bytes()),
            Err(error) => reply.error(self.failed("readlink", ino, &error)),
        }
    }

    fn open(&self, req: &Request, ino: INodeNo, flags: OpenFlags, reply: ReplyOpen) {
        let _begun = self.gate.enter();
        if flags.acc_mode() != OpenAccMode::O_RDONLY {
            return reply.error(Errno::EROFS);
        }
        // An inode is a version, so its pages are right for as long as the kernel keeps them; and
        // there is nothing to flush.
        let how = FopenFlags::FOPEN_KEEP_CACHE | FopenFlags::FOPEN_NOFLUSH;
        let caller = vfs::Caller {
            thread: req.pid(),
            request: req.unique().0 & !SENT_AGAIN,
        };
        if let Some(fh) = self.vfs.opened_before(caller.request, ino.0) {
            return self.passthrough.repeat(ino.0, fh, reply, how);
        }
        match self.vfs.open_now_for(ino.0, caller) {
            Some(Ok(fh)) => self.passthrough.answer(&self.vfs, ino.0, fh, reply, how),
            Some(Err(error)) => reply.error(self.failed("open", ino, &error)),
            None => {
                let (vfs, passthrough) = (self.vfs.clone(), self.passthrough.clone());
                let opening = self.vfs.clone();
                let work = async move { opening.open_for(ino.0, caller).await };
                self.spawn(req, "open", ino, work, move |result| match result {
                    Ok(fh) => passthrough.answer(&vfs, ino.0, fh, reply, how),
                    Err(errno) => reply.error(errno),
                });
            }
        }
    }

    fn read(
        &self,
        req: &Request,
        ino: INodeNo,
        fh: FileHandle,
        offset: u64,
        size: u32,
        _flags: OpenFlags,
        _lock_owner: Option<LockOwner>,
        reply: ReplyData,
    ) {
        let _begun = self.gate.enter();
        let size = size as usize;
        let mut reply = Some(reply);
        BUFFER.with_borrow_mut(|buffer| {
            if buffer.len() < size {
                buffer.resize(size, 0);
            }
            match self.vfs.read_now(fh.0, offset, &mut buffer[..size]) {
                Some(Ok(n)) => {
                    if let Some(reply) = reply.take() {
                        reply.data(&buffer[..n]);
                    }
                }
                Some(Err(error)) => {
                    if let Some(reply) = reply.take() {
                        reply.error(self.failed("read", ino, &error));
                    }
                }
                None => {}
            }
        });
        if reply.is_some() {
            let (pid, vfs, reporter) = (req.pid(), self.vfs.clone(), self.reporter.clone());
            let under_way = self.gate.go_on();
            self.runtime.spawn(async move {
                let work = vfs.read_with(fh.0, ino.0, offset, size, |bytes| {
                    if let Some(reply) = reply.take() {
                        reply.data(bytes);
                    }
                });
                if let Err(error) = caller::unless_killed(pid, work).await {
                    reporter.failed(&vfs, "read", ino.0, &error);
                    if let Some(reply) = reply {
                        reply.error(errno::errno(&error));
                    }
                }
                drop(under_way);
            });
        }
    }

    fn flush(&self, _: &Request, _: INodeNo, _: FileHandle, _: LockOwner, reply: ReplyEmpty) {
        reply.ok();
    }

    fn fsync(&self, _: &Request, _: INodeNo, _: FileHandle, _: bool, reply: ReplyEmpty) {
        reply.ok();
    }

    fn fsyncdir(&self, _: &Request, _: INodeNo, _: FileHandle, _: bool, reply: ReplyEmpty) {
        reply.ok();
    }

    fn release(
        &self,
        _req: &Request,
        ino: INodeNo,
        fh: FileHandle,
        _flags: OpenFlags,
        _lock_owner: Option<LockOwner>,
        _flush: bool,
        reply: ReplyEmpty,
    ) {
        let _begun = self.gate.enter();
        if self.vfs.release(fh.0) {
            self.passthrough.released(&self.vfs, ino.0);
        }
        reply.ok();
    }

    fn opendir(&self, req: &Request, ino: INodeNo, _flags: OpenFlags, reply: ReplyOpen) {
        let _begun = self.gate.enter();
        let (cache_dirs, vfs) = (self.cache_dirs, self.vfs.clone());
        let opened = move |reply: ReplyOpen, dir: vfs::OpenedDir| {
            let how = match (cache_dirs, dir.unchanged) {
                (true, true) => FopenFlags::FOPEN_CACHE_DIR | FopenFlags::FOPEN_KEEP_CACHE,
                (true, false) => FopenFlags::FOPEN_CACHE_DIR,
                (false, _) => FopenFlags::empty(),
            };
            reply.opened(FileHandle(dir.handle), how);
            vfs.told_opened(dir.handle);
        };
        match self.vfs.opendir_now(ino.0) {
            Some(Ok(dir)) => opened(reply, dir),
            Some(Err(error)) => reply.error(self.failed("opendir", ino, &error)),
            None => {
                let vfs = self.vfs.clone();
                let work = async move { vfs.opendir(ino.0).await };
                self.spawn(req, "opendir", ino, work, move |result| match result {
                    Ok(dir) => opened(reply, dir),
                    Err(errno) => reply.error(errno),
                });
            }
        }
    }

    fn readdir(
        &self,
        req: &Request,
        ino: INodeNo,
        fh: FileHandle,
        offset: u64,
        mut reply: ReplyDirectory,
    ) {
        let _begun = self.gate.enter();
        self.with_dir(req, ino, fh, move |vfs, reporter, known| {
            let result = known.and_then(|()| {
                vfs.readdir(fh.0, ino.0, offset, false, |e| {
                    !reply.add(INodeNo(e.attr.ino), e.next, file_type(e.attr.kind), e.name)
                })
            });
            match result {
                Ok(()) => reply.ok(),
                Err(error) => reply.error(told(reporter, vfs, "readdir", ino, &error)),
            }
        });
    }

    fn readdirplus(
        &self,
        req: &Request,
        ino: INodeNo,
        fh: FileHandle,
        offset: u64,
        mut reply: ReplyDirectoryPlus,
    ) {
        let _begun = self.gate.enter();
        let replies = self.replies.clone();
        self.with_dir(req, ino, fh, move |vfs, reporter, known| {
            let _under_way = replies.begin();
            let result = known.and_then(|()| {
                vfs.readdir(fh.0, ino.0, offset, true, |e| {
                    let attr = file_attr(&e.attr);
                    !reply.add(attr.ino, e.next, e.name, &e.ttl, &attr, Generation(0))
                })
            });
            match result {
                Ok(()) => reply.ok(),
                Err(error) => reply.error(told(reporter, vfs, "readdir", ino, &error)),
            }
        });
    }

    fn releasedir(
        &self,
        _req: &Request,
        _ino: INodeNo,
        fh: FileHandle,
        _flags: OpenFlags,
        reply: ReplyEmpty,
    ) {
        let _begun = self.gate.enter();
        self.vfs.releasedir(fh.0);
        reply.ok();
    }

    fn statfs(&self, req: &Request, ino: INodeNo, reply: ReplyStatfs) {
        let _begun = self.gate.enter();
        let vfs = self.vfs.clone();
        let work = async move { Ok(vfs.size().await) };
        self.spawn(req, "statfs", ino, work, |result| match result {
            Ok(size) => {
                let block = u64::from(BLOCK);
                let (used, free) = (size.used.div_ceil(block), size.free / block);
                reply.statfs(used + free, free, free, size.files, 0, BLOCK, 255, BLOCK);
            }
            Err(errno) => reply.error(errno),
        });
    }

    fn getxattr(&self, _req: &Request, ino: INodeNo, name: &OsStr, size: u32, reply: ReplyXattr) {
        let _begun = self.gate.enter();
        // There are no labels and no capabilities: said like this, `ls -l` asks for one file only.
        if name.as_bytes().starts_with(b"security.") {
            return reply.error(Errno::EOPNOTSUPP);
        }
        let value = match name.to_str() {
            Some(name) => self.vfs.xattr(ino.0, name),
            None => Err(vfs::Error::NoAttribute),
        };
        match value {
            Ok(value) if size == 0 => reply.size(value.len() as u32),
            Ok(value) if value.len() <= size as usize => reply.data(value.as_bytes()),
            Ok(_) => reply.error(Errno::ERANGE),
            Err(error) => reply.error(errno::errno(&error)),
        }
    }

    fn listxattr(&self, _req: &Request, _ino: INodeNo, _size: u32, reply: ReplyXattr) {
        // Readable but not listed, so that `cp -a` copies none of them. Said like this, the kernel
        // does not ask again: `ls -l` and `cp -a` list those of each file.
        reply.error(Errno::ENOSYS);
    }

    // The kernel refuses writes on a read-only mount by itself; these are for what still gets here.

    fn setattr(
        &self,
        _req: &Request,
        _ino: INodeNo,
        _mode: Option<u32>,
        _uid: Option<u32>,
        _gid: Option<u32>,
        _size: Option<u64>,
        _atime: Option<fuser::TimeOrNow>,
        _mtime: Option<fuser::TimeOrNow>,
        _ctime: Option<SystemTime>,
        _fh: Option<FileHandle>,
        _crtime: Option<SystemTime>,
        _chgtime: Option<SystemTime>,
        _bkuptime: Option<SystemTime>,
        _flags: Option<fuser::BsdFileFlags>,
        reply: ReplyAttr,
    ) {
        reply.error(Errno::EROFS);
    }

    fn mknod(
        &self,
        _req: &Request,
        _parent: INodeNo,
        _name: &OsStr,
        _mode: u32,
        _umask: u32,
        _rdev: u32,
        reply: ReplyEntry,
    ) {
        reply.error(Errno::EROFS);
    }

    fn mkdir(&self, _: &Request, _: INodeNo, _: &OsStr, _: u32, _: u32, reply: ReplyEntry) {
        reply.error(Errno::EROFS);
    }

    fn unlink(&self, _: &Request, _: INodeNo, _: &OsStr, reply: ReplyEmpty) {
        reply.error(Errno::EROFS);
    }

    fn rmdir(&self, _: &Request, _: INodeNo, _: &OsStr, reply: ReplyEmpty) {
        reply.error(Errno::EROFS);
    }

    fn symlink(
        &self,
        _req: &Request,
        _parent: INodeNo,
        _name: &OsStr,
        _target: &std::path::Path,
        reply: ReplyEntry,
    ) {
        reply.error(Errno::EROFS);
    }

    fn rename(
        &self,
        _req: &Request,
        _parent: INodeNo,
        _name: &OsStr,
        _newparent: INodeNo,
        _newname: &OsStr,
        _flags: fuser::RenameFlags,
        reply: ReplyEmpty,
    ) {
        reply.error(Errno::EROFS);
    }

    fn link(&self, _: &Request, _: INodeNo, _: INodeNo, _: &OsStr, reply: ReplyEntry) {
        reply.error(Errno::EROFS);
    }

    fn write(
        &self,
        _req: &Request,
        _ino: INodeNo,
        _fh: FileHandle,
        _offset: u64,
        _data: &[u8],
        _write_flags: fuser::WriteFlags,
        _flags: OpenFlags,
        _lock_owner: Option<LockOwner>,
        reply: ReplyWrite,
    ) {
        reply.error(Errno::EROFS);
    }

    fn create(
        &self,
        _req: &Request,
        _parent: INodeNo,
        _name: &OsStr,
        _mode: u32,
        _umask: u32,
        _flags: i32,
        reply: ReplyCreate,
    ) {
        reply.error(Errno::EROFS);
    }

    fn fallocate(
        &self,
        _req: &Request,
        _ino: INodeNo,
        _fh: FileHandle,
        _offset: u64,
        _length: u64,
        _mode: i32,
        reply: ReplyEmpty,
    ) {
        reply.error(Errno::EROFS);
    }

    fn setxattr(
        &self,
        _req: &Request,
        _ino: INodeNo,
        _name: &OsStr,
        _value: &[u8],
        _flags: i32,
        _position: u32,
        reply: ReplyEmpty,
    ) {
        reply.error(Errno::EROFS);
    }

    fn removexattr(&self, _: &Request, _: INodeNo, _: &OsStr, reply: ReplyEmpty) {
        reply.error(Errno::EROFS);
    }

    fn destroy(&mut self) {
        warn_if_busy(&self.vfs);
    }
}

/// Lets a test wedge the mount: whatever thread asks for attributes stands still until told to go on.
#[cfg(feature = "failpoints")]
pub mod wedge {
    use std::sync::{Condvar, Mutex, PoisonError};

    static WEDGED: Mutex<bool> = Mutex::new(false);
    static FREED: Condvar = Condvar::new();

    /// Wedges the mount, or frees it.
    pub fn set(wedged: bool) {
        *WEDGED.lock().unwrap_or_else(PoisonError::into_inner) = wedged;
        FREED.notify_all();
    }

    pub(super) fn stand() {
        let wedged = WEDGED.lock().unwrap_or_else(PoisonError::into_inner);
        drop(FREED.wait_while(wedged, |wedged| *wedged));
    }
}

fn warn_if_busy(vfs: &Vfs) {
    let (_, open) = vfs.in_use();
    if open > 0 {
        warn!(open, "unmounted while files were open");
    }
}
