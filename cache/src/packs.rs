//! Packs: append-only files that many small contents share.
//!
//! One process at a time appends to a pack; the right to is a lock, and a pack that nobody appends
//! to any more is taken over. A content is in the index only after it is in the pack, so what a
//! crash leaves is space that nobody refers to, which goes with the pack. Each load is verified
//! against the content's hash.
//!
//! What comes is stored by a thread behind those who bring it, who have it in memory until then: a
//! hand-over to the disk and back for each would cost more than the write.
//!
//! Lock order: `appender` and `readers` are never held together. `appender` is held over the write
//! of one content (at most 64 KiB); only those who store small objects need it.

use crate::sync::atomic::{AtomicUsize, Ordering};
use crate::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use crate::sync::{Arc, Mutex, PoisonError, Weak};
use std::fs::File;
use std::io::{self, ErrorKind};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::time::{Duration, Instant};

use bytes::Bytes;

use crate::cache::{Disk, Shared};
use crate::clock;
use crate::dir;
use crate::failpoint;
use crate::index::{BlobRow, Change, Place, Placed};
use crate::key::ObjectKey;
use crate::lock::{self, APPEND, RangeLock};
use crate::stats::Counters;

/// The size at which a pack is full, in bytes. It is also what one eviction of small objects
/// frees: a thousand files of 64 KiB.
const FULL: u64 = 64 << 20;

/// In a small cache a pack takes at most this part of the quota, as a divisor,
const PART: u64 = 16;

/// and still at least this much, in bytes.
const LEAST_FULL: u64 = 256 << 10;

/// Packs kept open for reading.
const OPEN: usize = 16;

/// How often to begin a pack anew that was evicted before it was held: a window of microseconds.
const TRIES: u32 = 8;

/// How long a pack stays open, and so spared by evictors, after its last use.
const IDLE: Duration = Duration::from_secs(30);

/// Contents that wait to be stored: 4 MiB at most.
const QUEUE: usize = 64;

/// How long the first of them waits for others to be stored with.
const LINGER: Duration = Duration::from_millis(2);

/// How long one who wants all to be stored waits for those before him.
const FLUSH_PATIENCE: Duration = Duration::from_secs(2);

pub(crate) struct Packs {
    /// The size at which a pack is full, in bytes.
    full: u64,
    queue: SyncSender<Order>,
    /// How many contents are in the queue.
    queued: AtomicUsize,
    appender: Mutex<Option<Appender>>,
    readers: Mutex<Vec<Reader>>,
}

/// What the thread is told that stores.
enum Order {
    Store(Storing),
    /// Tell when all before this is stored.
    Flush(SyncSender<()>),
    Stop,
}

/// A small object to be stored.
struct Storing {
    key: ObjectKey,
    bytes: Bytes,
    guard: RangeLock,
}

/// The thread's end of the queue.
pub(crate) struct Orders(Receiver<Order>);

struct Appender {
    id: u64,
    file: Arc<File>,
    end: u64,
    _guard: RangeLock,
}

struct Reader {
    id: u64,
    file: Arc<File>,
    used: Instant,
}

/// What came of loading a content.
pub(crate) enum Loaded {
    Good(Bytes),
    /// It is not there, or cannot be read at the moment.
    Absent,
    /// It was damaged.
    Bad,
}

impl Packs {
    pub(crate) fn new(limit: u64) -> (Self, Orders) {
        let (queue, orders) = sync_channel(QUEUE);
        let packs = Self {
            full: (limit / PART).clamp(LEAST_FULL, FULL),
            queue,
            queued: AtomicUsize::new(0),
            appender: Mutex::default(),
            readers: Mutex::default(),
        };
        (packs, Orders(orders))
    }

    /// Stores what comes, until it is told to stop or the cache is gone.
    pub(crate) fn run(Orders(orders): &Orders, shared: &Weak<Shared>) {
        while let Ok(first) = orders.recv() {
            // Who brings a file brings more: to wake up for each would cost more than to store it.
            crate::sync::thread::sleep(LINGER);
            let mut next = Some(first);
            while next.is_some() {
                let mut objects = Vec::new();
                while let Some(Order::Store(object)) = next {
                    objects.push(object);
                    next = orders.try_recv().ok();
                }
                if !objects.is_empty() {
                    let Some(shared) = shared.upgrade() else {
                        return;
                    };
                    if let Some(disk) = &shared.disk {
                        let packs = &disk.packs;
                        packs.queued.fetch_sub(objects.len(), Ordering::Relaxed);
                        packs.store_all(disk, &shared.counters, objects);
                    }
                }
                match next.take() {
                    Some(Order::Flush(done)) => {
                        // Who waited may have given up.
                        let _ = done.try_send(());
                    }
                    Some(Order::Stop) => return,
                    Some(Order::Store(_)) | None => {}
                }
                next = orders.try_recv().ok();
            }
        }
    }

    /// Returns whether the next content to be stored may have to wait for the disk.
    pub(crate) fn is_behind(&self) -> bool {
        self.queued.load(Ordering::Relaxed) >= QUEUE * 3 / 4
    }

    /// Has a small object stored that is in memory; at once where many wait to be. What cannot be
    /// kept is counted. The guard, which keeps other processes from bringing the object too, is
    /// given back when it is in the index for them to see.
    pub(crate) fn store(
        &self,
        disk: &Disk,
        counters: &Counters,
        key: &ObjectKey,
        bytes: &Bytes,
        guard: RangeLock,
    ) {
        let object = Storing {
            key: *key,
            bytes: bytes.clone(),
            guard,
        };
        self.queued.fetch_add(1, Ordering::Relaxed);
        if let Err(TrySendError::Full(order) | TrySendError::Disconnected(order)) =
            self.queue.try_send(Order::Store(object))
        {
            self.queued.fetch_sub(1, Ordering::Relaxed);
            if let Order::Store(object) = order {
                self.store_all(disk, counters, vec![object]);
            }
        }
    }

    /// Waits until what was given to be stored is stored, and queued for the index.
    pub(crate) fn flush(&self) {
        let (done, told) = sync_channel(1);
        if self.send(Order::Flush(done)) {
            let _ = told.recv_timeout(FLUSH_PATIENCE);
        }
    }

    /// Makes the thread store what it has and end. Does not wait for it.
    pub(crate) fn stop(&self) {
        self.send(Order::Stop);
    }

    fn send(&self, mut order: Order) -> bool {
        let deadline = Instant::now() + FLUSH_PATIENCE;
        loop {
            match self.queue.try_send(order) {
                Ok(()) => return true,
                Err(TrySendError::Full(back)) if Instant::now() < deadline => order = back,
                Err(_) => return false,
            }
            crate::sync::thread::sleep(Duration::from_millis(1));
        }
    }

    /// Returns a content, verified; what is damaged is dropped.
    pub(crate) fn load(&self, disk: &Disk, counters: &Counters, row: &BlobRow) -> Loaded {
        let Place::Pack { id, offset } = row.place else {
            return Loaded::Absent;
        };
        let Ok(size) = usize::try_from(row.size) else {
            return Loaded::Absent;
        };
        let mut bytes = vec![0; size];
        let read = self
            .reader(disk, id)
            .and_then(|file| file.read_exact_at(&mut bytes, offset));
        match read {
            Ok(()) if blake3::hash(&bytes) == row.hash => return Loaded::Good(Bytes::from(bytes)),
            Ok(()) => {
                tracing::warn!(blob = %row.hash, "damaged packed content dropped");
            }
            Err(error) if error.kind() == ErrorKind::NotFound => {
                // Evicted since its row was read, most likely.
                let _ = disk.index.commit(Change::DropPack { id });
                return Loaded::Absent;
            }
            Err(error) => {
                disk.troubles.note("read a pack", &error);
                let at_fault = error.kind() == ErrorKind::UnexpectedEof
                    || error.raw_os_error() == Some(libc::EIO);
                if !at_fault {
                    // Too many open files, say: no reason to lose it.
                    return Loaded::Absent;
                }
            }
        }
        let _ = disk.index.commit(Change::DropBlob { hash: row.hash });
        counters.healed.add(1);
        Loaded::Bad
    }

    fn reader(&self, disk: &Disk, id: u64) -> io::Result<Arc<File>> {
        {
            let mut readers = self.readers.lock().unwrap_or_else(PoisonError::into_inner);
            if let Some(reader) = readers.iter_mut().find(|reader| reader.id == id) {
                reader.used = Instant::now();
                return Ok(Arc::clone(&reader.file));
            }
        }
        let file = Arc::new(File::open(disk.dir.pack(id))?);
        // An evictor at it, or done with it, is as good as no pack.
        if !lock::hold(&file)? || file.metadata()?.nlink() == 0 {
            return Err(ErrorKind::NotFound.into());
        }
        let mut readers = self.readers.lock().unwrap_or_else(PoisonError::into_inner);
        if readers.len() >= OPEN
            && let Some(oldest) = (0..readers.len()).min_by_key(|at| readers[*at].used)
        {
            readers.swap_remove(oldest);
        }
        readers.push(Reader {
            id,
            file: Arc::clone(&file),
            used: Instant::now(),
        });
        Ok(file)
    }

    /// Closes packs that were not used for a while, or all; so that they can be evicted.
    pub(crate) fn close_idle(&self, all: bool) {
        let mut readers = self.readers.lock().unwrap_or_else(PoisonError::into_inner);
        readers.retain(|reader| !all && reader.used.elapsed() < IDLE);
    }

    /// Stores small objects. Those that cannot be kept are counted.
    fn store_all(&self, disk: &Disk, counters: &Counters, objects: Vec<Storing>) {
        let mut new_bytes = 0;
        let mut found = Vec::with_capacity(objects.len());
        for object in objects {
            let hash = blake3::hash(&object.bytes);
            let size = object.bytes.len() as u64;
            let is_known = disk.index.blob(&hash).is_some_and(|row| row.size == size);
            if !is_known {
                if !disk.make_room_for_small(new_bytes + size) {
                    counters.unkept_bytes.add(size);
                    continue;
                }
                new_bytes += size;
            }
            found.push((object, hash, is_known));
        }
        // Held until the changes are queued, so that who takes the pack away can wait for them.
        let mut appender = self.appender.lock().unwrap_or_else(PoisonError::into_inner);
        let mut changes = Vec::with_capacity(found.len());
        for (Storing { key, bytes, guard }, hash, is_known) in found {
            let size = bytes.len() as u64;
            let place = match is_known {
                true => None,
                false => match append(disk, &mut appender, self.full, &bytes) {
                    Ok(place) => Some(place),
                    Err(error) => {
                        disk.troubles.note("write a pack", &error);
                        counters.unkept_bytes.add(size);
                        continue;
                    }
                },
            };
            failpoint::pass("pack.appended");
            let change = Change::AddSmall {
                key,
                hash,
                size,
                place,
                covered: if place.is_some() { size } else { 0 },
            };
            changes.push((change, guard, size));
        }
        for (change, guard, size) in changes {
            let covered = change.covered();
            if !disk.index.send(change, Some(guard)) {
                disk.quota.forget(covered);
                counters.unkept_bytes.add(size);
            }
        }
    }

    /// Closes a pack that is to be evicted; what was stored in it is in the index by then.
    pub(crate) fn release(&self, disk: &Disk, id: u64) {
        let appended = {
            let mut appender = self.appender.lock().unwrap_or_else(PoisonError::into_inner);
            appender.take_if(|appender| appender.id == id).is_some()
        };
        if appended {
            // If this fails, so did what was queued before it.
            let _ = disk.index.commit(Change::Flush);
        }
        let mut readers = self.readers.lock().unwrap_or_else(PoisonError::into_inner);
        readers.retain(|reader| reader.id != id);
    }

    /// Stops appending, so that another process can go on.
    pub(crate) fn close(&self) {
        *self.appender.lock().unwrap_or_else(PoisonError::into_inner) = None;
        self.close_idle(true);
    }
}

/// Appends a content to the pack that this process has, or to another.
fn append(disk: &Disk, slot: &mut Option<Appender>, full: u64, bytes: &[u8]) -> io::Result<Placed> {
    let fits = |appender: &Appender| {
        appender.end + bytes.len() as u64 <= full
            && appender.file.metadata().is_ok_and(|m| m.nlink() > 0)
    };
    if !slot.as_ref().is_some_and(fits) {
        *slot = None;
        *slot = Some(take_over(disk, full).map_or_else(|| begin(disk), Ok)?);
    }
    let Some(appender) = slot else {
        return Err(ErrorKind::NotFound.into());
    };
    let offset = appender.end;
    if let Err(error) = appender.file.write_all_at(bytes, offset) {
        // What was written of it is covered by the next, or by the next process.
        *slot = None;
        return Err(error);
    }
    appender.end += bytes.len() as u64;
    disk.quota.wrote(bytes.len() as u64);
    let metadata = appender.file.metadata();
    Ok(Placed {
        pack: appender.id,
        offset,
        pack_bytes: metadata.map_or(appender.end, |now| dir::allocated(&now)),
    })
}

/// Takes over a pack that is at most half full and that nobody appends to.
fn take_over(disk: &Disk, full: u64) -> Option<Appender> {
    let packs = disk.index.packs()?;
    let candidates = packs.iter().filter(|(_, bytes)| *bytes <= full / 2);
    for (id, _) in candidates.take(8) {
        let opened = File::options()
            .read(true)
            .write(true)
            .open(disk.dir.pack(*id));
        if let Ok(file) = opened
            && let Ok(Some(appender)) = append_to(*id, file)
            && appender.end <= full / 2
        {
            return Some(appender);
        }
    }
    None
}

/// Begins a new pack.
fn begin(disk: &Disk) -> io::Result<Appender> {
    for _ in 0..TRIES {
        let id = clock::random();
        if !disk.index.commit(Change::AddPack { id }) {
            return Err(io::Error::other("the index is not available"));
        }
        failpoint::pass("pack.row");
        let file = disk.dir.create(&disk.dir.pack(id))?;
        failpoint::pass("pack.made");
        // None: an evictor of another process came by before we held it, and took it for one that
        // nobody uses.
        if let Some(appender) = append_to(id, file)? {
            return Ok(appender);
        }
    }
    Err(io::Error::other("new packs are evicted at once"))
}

fn append_to(id: u64, file: File) -> io::Result<Option<Appender>> {
    let file = Arc::new(file);
    if !lock::hold(&file)? {
        return Ok(None);
    }
    let Some(guard) = RangeLock::try_new(&file, APPEND)? else {
        return Ok(None);
    };
    let metadata = file.metadata()?;
    Ok((metadata.nlink() > 0).then(|| Appender {
        id,
        file,
        end: metadata.len(),
        _guard: guard,
    }))
}
