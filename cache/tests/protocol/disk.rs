//! What processes share: files under names, locks, and the index. Each method is one step that the
//! kernel or SQLite does at once.

/// A process.
pub type Pid = u8;

/// The number of a data file or of a sidecar: names may come to mean another one.
pub type Id = usize;

/// Grains of the one object.
pub const GRAINS: u8 = 1;

/// All grains, a bit each.
pub const ALL: u8 = (1 << GRAINS) - 1;

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct Data {
    pub bytes: u8,
    pub sized: bool,
    /// Who has a shared flock, a bit each.
    pub holds: u8,
    pub alone: Option<Pid>,
    /// Who has the lock on the range.
    pub range: Option<Pid>,
    pub lifecycle: Option<Pid>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct Sidecar {
    pub hashes: u8,
    pub sealed: bool,
}

/// A place for a data file and the sidecar beside it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct Place {
    pub data: Option<Id>,
    pub sidecar: Option<Id>,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
pub struct Disk {
    pub files: Vec<Data>,
    pub sidecars: Vec<Sidecar>,
    pub partial: Place,
    pub blob: Place,
    pub blob_lock: Option<Pid>,
    /// The object's row counts its partial.
    pub partial_counted: bool,
    /// The object's row names its content.
    pub intended: bool,
    /// The blob's row counts its files.
    pub blob_counted: bool,
    /// Who is fetching the range, a bit each.
    pub fetching: u8,
}

impl Disk {
    pub fn is_linked(&self, file: Id) -> bool {
        self.partial.data == Some(file) || self.blob.data == Some(file)
    }

    pub fn create_partial(&mut self) -> Id {
        *self.partial.data.get_or_insert_with(|| {
            self.files.push(Data::default());
            self.files.len() - 1
        })
    }

    pub fn new_sidecar(&mut self) -> Id {
        self.sidecars.push(Sidecar::default());
        self.sidecars.len() - 1
    }

    /// Takes a shared flock.
    pub fn hold(&mut self, file: Id, pid: Pid) -> bool {
        let data = &mut self.files[file];
        let free = data.alone.is_none_or(|other| other == pid);
        if free {
            data.holds |= 1 << pid;
        }
        free
    }

    /// Takes an exclusive flock, by an open file of its own.
    pub fn hold_alone(&mut self, file: Id, pid: Pid) -> bool {
        let data = &mut self.files[file];
        let free = data.holds == 0 && data.alone.is_none();
        if free {
            data.alone = Some(pid);
        }
        free
    }

    /// The kernel closes what a process had open.
    pub fn close(&mut self, file: Id, pid: Pid) {
        let data = &mut self.files[file];
        data.holds &= !(1 << pid);
        for lock in [&mut data.alone, &mut data.range, &mut data.lifecycle] {
            lock.take_if(|owner| *owner == pid);
        }
    }

    /// A process dies.
    pub fn bury(&mut self, pid: Pid) {
        for file in 0..self.files.len() {
            self.close(file, pid);
        }
        self.blob_lock.take_if(|owner| *owner == pid);
        self.fetching &= !(1 << pid);
    }
}

/// Takes a lock if nobody else has it.
pub fn take(lock: &mut Option<Pid>, pid: Pid) -> bool {
    *lock.get_or_insert(pid) == pid
}
