//! A process that reads an object, brings what is missing of it, and seals it.

use super::disk::{ALL, Disk, Id, Pid, take};

/// Where it is in docs/CACHE_FORMAT.md.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum At {
    // Looking for the object.
    Row,
    OpenBlob,
    HoldBlob,
    LinkedBlob,
    SidecarOfBlob,
    OpenPartial,
    HoldPartial,
    LinkedPartial,
    SizeOfPartial,
    SidecarOfPartial,
    StillNamed,
    // Completing an interrupted seal.
    HoldInterrupted,
    LockInterrupted,
    RenameInterrupted,
    // Laying a partial out.
    Count,
    Create,
    HoldNew,
    LockNew,
    NamesNew,
    NewSidecar,
    NewSize,
    DropBadData,
    DropBadSidecar,
    // Reading.
    ReadHash,
    ReadBytes,
    // Filling.
    IsStale,
    Claim,
    LookAgain,
    Fetch,
    WriteBytes,
    WriteHash,
    GiveBack,
    // Sealing.
    LockSeal,
    NamesSeal,
    Verify,
    Intend,
    Flag,
    LockBlob,
    IsThere,
    DropPartialData,
    DropPartialSidecar,
    RenameSidecar,
    RenameData,
    Record,
    /// A blob without a seal is sealed again.
    SealAgain,
    /// Reads once more what it has open.
    Again,
    Done,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct User {
    pub at: At,
    pub file: Option<Id>,
    pub sidecar: Option<Id>,
    pub is_blob: bool,
    pub intended: bool,
    pub verified: u8,
    pub served: bool,
}

impl User {
    pub fn new() -> User {
        User {
            at: At::Row,
            file: None,
            sidecar: None,
            is_blob: false,
            intended: false,
            verified: 0,
            served: false,
        }
    }

    /// Closes what is open and looks for the object anew.
    fn anew(&mut self, disk: &mut Disk, pid: Pid) {
        if let Some(file) = self.file {
            disk.close(file, pid);
        }
        *self = User {
            served: self.served,
            ..User::new()
        };
    }

    /// Does the next step; an error is a broken promise. False: it can only wait.
    pub fn step(&mut self, disk: &mut Disk, pid: Pid) -> Result<bool, &'static str> {
        let file = self.file.unwrap_or(usize::MAX);
        let sidecar = self.sidecar.unwrap_or(usize::MAX);
        let then = match self.at {
            At::Row => {
                self.intended = disk.intended;
                if self.intended {
                    At::OpenBlob
                } else {
                    At::OpenPartial
                }
            }
            At::OpenBlob => {
                self.file = disk.blob.data;
                let interrupted = disk.blob.sidecar.is_some_and(|s| disk.sidecars[s].sealed);
                match self.file {
                    Some(_) => At::HoldBlob,
                    None if interrupted && disk.partial.data.is_some() => {
                        self.file = disk.partial.data;
                        At::HoldInterrupted
                    }
                    None => At::OpenPartial,
                }
            }
            At::HoldBlob | At::HoldPartial | At::HoldInterrupted => {
                if !disk.hold(file, pid) {
                    self.anew(disk, pid);
                    return Ok(true);
                }
                match self.at {
                    At::HoldBlob => At::LinkedBlob,
                    At::HoldPartial => At::LinkedPartial,
                    _ => At::LockInterrupted,
                }
            }
            At::LinkedBlob | At::LinkedPartial => {
                if !disk.is_linked(file) {
                    self.anew(disk, pid);
                    return Ok(true);
                }
                if self.at == At::LinkedBlob {
                    At::SidecarOfBlob
                } else {
                    At::SizeOfPartial
                }
            }
            At::SidecarOfBlob => {
                self.sidecar = disk.blob.sidecar.filter(|s| disk.sidecars[*s].sealed);
                self.is_blob = true;
                match self.sidecar {
                    Some(_) => At::StillNamed,
                    None => {
                        // It is given up by its finder, under the blob's lock.
                        if disk.blob_lock.is_some() {
                            return Ok(false);
                        }
                        if disk.blob.data == Some(file) {
                            disk.blob = Default::default();
                            disk.blob_counted = false;
                            disk.intended = false;
                        }
                        self.anew(disk, pid);
                        return Ok(true);
                    }
                }
            }
            At::OpenPartial => {
                self.file = disk.partial.data;
                if self.file.is_some() {
                    At::HoldPartial
                } else {
                    At::Count
                }
            }
            At::SizeOfPartial => {
                if disk.files[file].sized {
                    At::SidecarOfPartial
                } else {
                    disk.close(file, pid);
                    At::Count
                }
            }
            At::SidecarOfPartial => {
                self.sidecar = disk.partial.sidecar;
                if self.sidecar.is_some() {
                    At::StillNamed
                } else {
                    disk.close(file, pid);
                    At::Count
                }
            }
            At::StillNamed => {
                let place = if self.is_blob {
                    disk.blob
                } else {
                    disk.partial
                };
                if place.data != Some(file) {
                    self.anew(disk, pid);
                    return Ok(true);
                }
                At::ReadHash
            }
            At::LockInterrupted => {
                if !take(&mut disk.files[file].lifecycle, pid) {
                    return Ok(false);
                }
                At::RenameInterrupted
            }
            At::RenameInterrupted => {
                let interrupted = disk.partial.data == Some(file)
                    && disk.files[file].sized
                    && disk.partial.sidecar.is_none()
                    && disk.blob.data.is_none();
                if interrupted {
                    disk.blob.data = disk.partial.data.take();
                    self.anew(disk, pid);
                    return Ok(true);
                }
                disk.close(file, pid);
                At::OpenPartial
            }
            At::Count => {
                disk.partial_counted = true;
                disk.intended = false;
                At::Create
            }
            At::Create => {
                self.file = Some(disk.create_partial());
                At::HoldNew
            }
            At::HoldNew => {
                if disk.hold(file, pid) {
                    At::LockNew
                } else {
                    At::Create
                }
            }
            At::LockNew => {
                if !take(&mut disk.files[file].lifecycle, pid) {
                    return Ok(false);
                }
                At::NamesNew
            }
            At::NamesNew => {
                let data = disk.files[file];
                let beside = disk.partial.sidecar;
                if disk.partial.data != Some(file) {
                    self.anew(disk, pid);
                    return Ok(true);
                }
                match (data.sized, beside) {
                    (false, None) => At::NewSidecar,
                    (true, Some(_)) => {
                        disk.files[file].lifecycle = None;
                        At::SidecarOfPartial
                    }
                    _ => At::DropBadSidecar,
                }
            }
            At::NewSidecar => {
                self.sidecar = Some(disk.new_sidecar());
                disk.partial.sidecar = self.sidecar;
                At::NewSize
            }
            At::NewSize => {
                disk.files[file].sized = true;
                disk.files[file].lifecycle = None;
                At::SidecarOfPartial
            }
            At::DropBadSidecar => {
                disk.partial.sidecar = None;
                At::DropBadData
            }
            At::DropBadData => {
                disk.partial.data = None;
                disk.close(file, pid);
                At::Create
            }
            At::ReadHash => {
                if self.verified == ALL || disk.sidecars[sidecar].hashes == ALL {
                    At::ReadBytes
                } else if self.is_blob {
                    return Err("a blob lacks a hash");
                } else {
                    At::IsStale
                }
            }
            At::ReadBytes => {
                if disk.files[file].bytes != ALL {
                    return Err("a hash is there before its bytes, or zeros are served");
                }
                self.verified = ALL;
                self.served = true;
                if self.is_blob {
                    At::SealAgain
                } else {
                    At::LockSeal
                }
            }
            At::IsStale => {
                if !disk.is_linked(file) || disk.sidecars[sidecar].sealed {
                    self.anew(disk, pid);
                    return Ok(true);
                }
                At::Claim
            }
            At::Claim => {
                if take(&mut disk.files[file].range, pid) {
                    At::LookAgain
                } else {
                    At::ReadHash
                }
            }
            At::LookAgain => {
                if disk.sidecars[sidecar].hashes == ALL {
                    disk.files[file].range = None;
                    At::ReadHash
                } else {
                    At::Fetch
                }
            }
            At::Fetch => {
                disk.fetching |= 1 << pid;
                if disk.fetching != 1 << pid {
                    return Err("two live processes fetch one range");
                }
                At::WriteBytes
            }
            At::WriteBytes => {
                disk.files[file].bytes = ALL;
                At::WriteHash
            }
            At::WriteHash => {
                disk.sidecars[sidecar].hashes = ALL;
                self.verified = ALL;
                At::GiveBack
            }
            At::GiveBack => {
                // A row that says that there is no partial any more is newer.
                disk.partial_counted |= !disk.intended;
                disk.fetching &= !(1 << pid);
                disk.files[file].range = None;
                At::ReadBytes
            }
            At::LockSeal => {
                if take(&mut disk.files[file].lifecycle, pid) {
                    At::NamesSeal
                } else {
                    At::Again
                }
            }
            At::NamesSeal => {
                if disk.partial.data == Some(file) {
                    At::Verify
                } else {
                    disk.files[file].lifecycle = None;
                    At::Again
                }
            }
            At::Verify => {
                if disk.sidecars[sidecar].hashes == ALL {
                    At::Intend
                } else {
                    disk.files[file].lifecycle = None;
                    At::Again
                }
            }
            At::Intend => {
                // A row that is made for it counts the partial.
                disk.partial_counted |= !disk.intended;
                disk.intended = true;
                At::Flag
            }
            At::Flag => {
                disk.sidecars[sidecar].sealed = true;
                At::LockBlob
            }
            At::LockBlob => {
                if take(&mut disk.blob_lock, pid) {
                    At::IsThere
                } else {
                    disk.files[file].lifecycle = None;
                    At::Again
                }
            }
            At::IsThere => {
                if disk.blob.data.is_some() {
                    At::DropPartialSidecar
                } else {
                    At::RenameSidecar
                }
            }
            At::DropPartialSidecar => {
                disk.partial.sidecar = None;
                At::DropPartialData
            }
            At::DropPartialData => {
                disk.partial.data = None;
                At::Record
            }
            At::RenameSidecar => {
                disk.blob.sidecar = disk.partial.sidecar.take();
                At::RenameData
            }
            At::RenameData => {
                disk.blob.data = disk.partial.data.take();
                At::Record
            }
            At::Record => {
                disk.intended = true;
                disk.blob_counted = true;
                disk.partial_counted = false;
                disk.blob_lock = None;
                disk.files[file].lifecycle = None;
                At::Again
            }
            At::SealAgain => {
                if !disk.blob_counted {
                    disk.intended = true;
                    disk.blob_counted = true;
                    disk.partial_counted = false;
                }
                At::Again
            }
            At::Again => {
                if disk.files[file].bytes != ALL {
                    return Err("zeros are served from an open file");
                }
                disk.close(file, pid);
                At::Done
            }
            At::Done => return Ok(false),
        };
        self.at = then;
        Ok(true)
    }
}
