//! A process that evicts.

use super::disk::{Disk, Id, Pid, take};

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum At {
    Choose,
    LockBlob,
    Open,
    Beside,
    Alone,
    Names,
    First,
    Second,
    DropRow,
    /// Counts a blob that came of a partial whose sealer did not live to say so.
    Count,
    Done,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Evictor {
    pub at: At,
    pub of_blob: bool,
    pub file: Option<Id>,
    /// Files still to be looked at.
    pub left: u8,
    pub order: Order,
}

/// In which order it removes a data file and its sidecar.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Order {
    /// The sidecar while nobody can open the data, and nothing of a partial that is not there.
    SidecarFirst,
    /// As it once was.
    DataFirst,
}

impl Evictor {
    pub fn new(left: u8, order: Order) -> Evictor {
        Evictor {
            at: At::Choose,
            of_blob: false,
            file: None,
            left,
            order,
        }
    }

    /// Ends with one file.
    fn next(&mut self, disk: &mut Disk, pid: Pid) {
        if let Some(file) = self.file {
            disk.close(file, pid);
        }
        disk.blob_lock.take_if(|owner| *owner == pid);
        *self = Evictor::new(self.left, self.order);
    }

    /// Does the next step on a blob, or on the partial, where there is a choice.
    pub fn step(&mut self, disk: &mut Disk, pid: Pid, of_blob: bool) -> Result<bool, &'static str> {
        let file = self.file.unwrap_or(usize::MAX);
        let place = if self.of_blob {
            disk.blob
        } else {
            disk.partial
        };
        let then = match self.at {
            At::Choose => {
                let counted = if of_blob {
                    disk.blob_counted
                } else {
                    disk.partial_counted
                };
                if self.left == 0 || !counted {
                    if of_blob {
                        return Ok(false);
                    }
                    if self.left == 0 || !disk.blob_counted {
                        self.at = At::Done;
                        return Ok(true);
                    }
                    return Ok(false);
                }
                self.left -= 1;
                self.of_blob = of_blob;
                if of_blob { At::LockBlob } else { At::Open }
            }
            At::LockBlob => {
                if !take(&mut disk.blob_lock, pid) {
                    self.next(disk, pid);
                    return Ok(true);
                }
                At::Open
            }
            At::Open => {
                self.file = place.data;
                match self.file {
                    Some(_) => At::Alone,
                    None if self.is_data_first() => At::Beside,
                    None => At::DropRow,
                }
            }
            At::Beside => {
                self.unlink_sidecar(disk);
                At::DropRow
            }
            At::Alone => {
                if !disk.hold_alone(file, pid) {
                    self.next(disk, pid);
                    return Ok(true);
                }
                At::Names
            }
            At::Names => {
                if place.data != Some(file) {
                    self.next(disk, pid);
                    return Ok(true);
                }
                At::First
            }
            At::First => {
                match self.is_data_first() {
                    false => self.unlink_sidecar(disk),
                    true => self.unlink(disk, file)?,
                }
                At::Second
            }
            At::Second => {
                match self.is_data_first() {
                    false => self.unlink(disk, file)?,
                    true => self.unlink_sidecar(disk),
                }
                At::DropRow
            }
            At::DropRow => {
                // In a transaction that sees that the file is not there.
                if self.of_blob {
                    if disk.blob.data.is_none() {
                        disk.blob_counted = false;
                        disk.intended = false;
                    }
                    self.next(disk, pid);
                    return Ok(true);
                }
                if disk.partial.data.is_none() {
                    disk.partial_counted = false;
                }
                At::Count
            }
            At::Count => {
                if disk.intended && disk.blob.data.is_some() {
                    disk.blob_counted = true;
                }
                self.next(disk, pid);
                return Ok(true);
            }
            At::Done => return Ok(false),
        };
        self.at = then;
        Ok(true)
    }

    fn is_data_first(&self) -> bool {
        self.order == Order::DataFirst
    }

    fn unlink(&self, disk: &mut Disk, file: Id) -> Result<(), &'static str> {
        if disk.files[file].holds != 0 {
            return Err("what somebody has open is evicted");
        }
        let place = if self.of_blob {
            &mut disk.blob
        } else {
            &mut disk.partial
        };
        place.data = None;
        Ok(())
    }

    fn unlink_sidecar(&self, disk: &mut Disk) {
        let place = if self.of_blob {
            &mut disk.blob
        } else {
            &mut disk.partial
        };
        place.sidecar = None;
    }
}
