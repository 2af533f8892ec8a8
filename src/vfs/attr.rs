//! Attributes as `stat` shows them.

use crate::entry::{Entry, Kind, Timestamp};
use crate::vfs::node::{Ino, ROOT};

/// Who owns the files and what may be done with them.
#[derive(Debug, Clone, Copy)]
pub struct Owner {
    /// User id.
    pub uid: u32,
    /// Group id.
    pub gid: u32,
    /// Permission bits that are taken away.
    pub umask: u32,
}

/// The attributes of an inode. The change time is the modification time, or tools that compare it
/// (`git status`) would find every file changed after a remount.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Attr {
    /// The inode number.
    pub ino: Ino,
    /// File, directory or symbolic link.
    pub kind: Kind,
    /// Bytes.
    pub size: u64,
    /// Modification and change time.
    pub mtime: Timestamp,
    /// Permission bits, without any write bit.
    pub mode: u16,
    /// User id.
    pub uid: u32,
    /// Group id.
    pub gid: u32,
}

/// What a directory's size is said to be, as on ext4.
const DIR_SIZE: u64 = 4096;

impl Owner {
    /// Returns the attributes of the volume's root.
    pub fn root_attr(&self, time: Timestamp) -> Attr {
        self.attr_of(ROOT, Kind::Dir, None, DIR_SIZE, time)
    }

    /// Returns the attributes of `entry`; `fallback` is the time where the source knows none.
    pub fn attr(&self, ino: Ino, entry: &Entry, fallback: Timestamp) -> Attr {
        let size = match entry.kind {
            Kind::Dir => DIR_SIZE,
            _ => entry.size.unwrap_or(0),
        };
        let mtime = entry.mtime.unwrap_or(fallback);
        self.attr_of(ino, entry.kind, entry.executable, size, mtime)
    }

    fn attr_of(
        &self,
        ino: Ino,
        kind: Kind,
        executable: Option<bool>,
        size: u64,
        mtime: Timestamp,
    ) -> Attr {
        let mode = match kind {
            Kind::Symlink => 0o777,
            // A source without a notion of it (a bucket, an HTTP tree) may hold programs: nothing
            // is gained by refusing to run what can be copied and run.
            Kind::File if executable.unwrap_or(true) => 0o555 & !self.umask,
            Kind::File => 0o444 & !self.umask,
            // Who may list may enter, or `--umask 0133`, meant for files, would lock all out.
            Kind::Dir => {
                let mode = 0o555 & !self.umask;
                mode | (mode & 0o444) >> 2
            }
        };
        Attr {
            ino,
            kind,
            size,
            mtime,
            mode: mode as u16,
            uid: self.uid,
            gid: self.gid,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::entry::Version;
    use crate::path::Name;

    #[test]
    fn modes_follow_kind_and_umask() {
        let owner = |umask| Owner {
            uid: 1,
            gid: 2,
            umask,
        };
        let mut file = Entry::file(Name::new("f").unwrap(), 5, None, Version::weak("1"));
        let dir = Entry::dir(Name::new("d").unwrap());
        let mode = |o: Owner, e: &Entry| o.attr(9, e, Timestamp(0)).mode;
        assert_eq!(mode(owner(0o022), &file), 0o555);
        assert_eq!(mode(owner(0o133), &file), 0o444);
        assert_eq!(mode(owner(0o077), &file), 0o500);
        assert_eq!(mode(owner(0o133), &dir), 0o555);
        assert_eq!(mode(owner(0o077), &dir), 0o500);
        file.executable = Some(false);
        assert_eq!(mode(owner(0), &file), 0o444);
        let attr = owner(0).attr(9, &file, Timestamp(7));
        assert_eq!(
            (attr.size, attr.mtime, attr.uid, attr.gid),
            (5, Timestamp(7), 1, 2)
        );
    }
}
