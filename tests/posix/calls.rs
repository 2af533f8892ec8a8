//! A table of calls on a mount, and what POSIX or Linux wants of them.

use std::ffi::CString;
use std::fs::File;
use std::os::unix::fs::{FileExt, FileTypeExt, MetadataExt, symlink};
use std::path::Path;

use rustix::fs::{Access, AtFlags, CWD, FlockOperation, Mode, OFlags, SeekFrom};
use rustix::io::Errno;
use rustix::mm::{MapFlags, ProtFlags};

use crate::common::mount::{Mount, Place};
use crate::common::noise;

const SIZE: usize = 300_000;

/// What a call came to.
type Outcome = Result<(), Errno>;

/// A call, as docs/POSIX.md names it, and its result there.
pub const TABLE: &[(&str, &str)] = &[
    ("open, stat of a name that is not there", "ENOENT"),
    ("open, stat below a file", "ENOTDIR"),
    ("stat of `file/`", "ENOTDIR"),
    ("open of a name of 256 bytes", "ENAMETOOLONG"),
    ("open of a path of 4,096 bytes", "ENAMETOOLONG"),
    ("stat of a name of 255 bytes", "ENOENT"),
    ("open through a symbolic link to itself", "ELOOP"),
    ("open of a symbolic link with O_NOFOLLOW", "ELOOP"),
    (
        "open of a symbolic link with O_PATH and O_NOFOLLOW",
        "success",
    ),
    ("open of a dangling symbolic link", "ENOENT"),
    ("open of a file with O_DIRECTORY", "ENOTDIR"),
    ("open of a directory for writing", "EISDIR"),
    ("open of a file with O_CREAT for reading", "success"),
    ("open of a file with O_CREAT and O_EXCL", "EEXIST"),
    ("open of a new name with O_CREAT", "EROFS"),
    ("open of a file for writing", "EROFS"),
    ("read of a directory", "EISDIR"),
    ("write to a descriptor for reading", "EBADF"),
    ("pread at a negative offset", "EINVAL"),
    ("pread behind the end", "0 bytes"),
    ("lseek to before the beginning", "EINVAL"),
    ("lseek with SEEK_END, SEEK_DATA, SEEK_HOLE", "success"),
    ("lseek with SEEK_DATA behind the end", "ENXIO"),
    ("readlink of a file", "EINVAL"),
    ("readlink into a short buffer", "truncated"),
    ("access for writing", "EROFS"),
    ("access for reading and searching", "success"),
    ("mmap, shared, for writing", "EACCES"),
    ("mmap, private, for writing", "success"),
    ("flock, shared and exclusive", "success"),
    ("fsync, fdatasync, syncfs", "success"),
    ("fallocate, ftruncate of a descriptor for reading", "error"),
    ("sendfile from a file", "success"),
    ("ioctl FS_IOC_GETFLAGS", "ENOTTY"),
    ("fstat of a descriptor and stat of its name", "the same"),
    ("`.` and `..` of a directory", "itself and its parent"),
    ("rename, link, copy_file_range out of the mount", "EXDEV"),
];

struct World {
    mount: Mount,
    place: Place,
}

impl World {
    fn new() -> World {
        let place = Place::new();
        let source = place.path("source");
        std::fs::create_dir_all(source.join("dir/sub")).unwrap();
        std::fs::write(source.join("file"), noise(1, SIZE)).unwrap();
        std::fs::write(source.join("dir/x"), "x").unwrap();
        symlink("file", source.join("link")).unwrap();
        symlink("loop", source.join("loop")).unwrap();
        symlink("nothing", source.join("dangling")).unwrap();
        let mount = place.mount(&[source.to_str().unwrap()]);
        World { mount, place }
    }

    fn open(&self, path: impl AsRef<Path>, flags: OFlags) -> Result<File, Errno> {
        let path = self.mount.at().join(path);
        rustix::fs::open(path, flags, Mode::from_raw_mode(0o644)).map(File::from)
    }

    fn opens(&self, path: impl AsRef<Path>, flags: OFlags) -> Outcome {
        self.open(path, flags).map(drop)
    }

    fn stat(&self, path: impl AsRef<Path>) -> Outcome {
        rustix::fs::stat(self.mount.at().join(path)).map(drop)
    }

    fn file(&self) -> File {
        self.open("file", OFlags::RDONLY).unwrap()
    }

    /// Makes a call; returns one result for each way of it, which all have to be the same.
    fn call(&self, what: &str) -> Vec<Outcome> {
        let ro = OFlags::RDONLY;
        let file = self.file();
        match what {
            "open, stat of a name that is not there" => vec![self.opens("no", ro), self.stat("no")],
            "open, stat below a file" => vec![self.opens("file/x", ro), self.stat("file/x")],
            "stat of `file/`" => vec![self.stat("file/"), self.stat("file/.")],
            "open of a name of 256 bytes" => vec![self.opens("n".repeat(256), ro)],
            "open of a path of 4,096 bytes" => {
                let path = CString::new("./".repeat(2048)).unwrap();
                vec![rustix::fs::open(path, ro, Mode::empty()).map(drop)]
            }
            "stat of a name of 255 bytes" => vec![self.stat("n".repeat(255))],
            "open through a symbolic link to itself" => vec![self.opens("loop", ro)],
            "open of a symbolic link with O_NOFOLLOW" => {
                vec![self.opens("link", ro | OFlags::NOFOLLOW)]
            }
            "open of a symbolic link with O_PATH and O_NOFOLLOW" => {
                vec![self.opens("link", OFlags::PATH | OFlags::NOFOLLOW)]
            }
            "open of a dangling symbolic link" => vec![self.opens("dangling", ro)],
            "open of a file with O_DIRECTORY" => vec![self.opens("file", ro | OFlags::DIRECTORY)],
            "open of a directory for writing" => vec![
                self.opens("dir", OFlags::WRONLY),
                self.opens("dir", OFlags::RDWR),
            ],
            "open of a file with O_CREAT for reading" => {
                vec![self.opens("file", ro | OFlags::CREATE)]
            }
            "open of a file with O_CREAT and O_EXCL" => {
                vec![self.opens("file", ro | OFlags::CREATE | OFlags::EXCL)]
            }
            "open of a new name with O_CREAT" => vec![self.opens("new", ro | OFlags::CREATE)],
            "open of a file for writing" => vec![
                self.opens("file", OFlags::WRONLY),
                self.opens("link", OFlags::RDWR),
            ],
            "read of a directory" => {
                let dir = self.open("dir", ro).unwrap();
                vec![rustix::io::read(&dir, &mut [0; 10]).map(drop)]
            }
            "write to a descriptor for reading" => vec![rustix::io::write(&file, b"x").map(drop)],
            "pread at a negative offset" => {
                vec![rustix::io::pread(&file, &mut [0; 10], u64::MAX).map(drop)]
            }
            "lseek to before the beginning" => {
                vec![rustix::fs::seek(&file, SeekFrom::Current(-1)).map(drop)]
            }
            "lseek with SEEK_END, SEEK_DATA, SEEK_HOLE" => {
                let seek = |to, expected: usize| {
                    let at = rustix::fs::seek(&file, to)?;
                    assert_eq!(at, expected as u64);
                    Ok(())
                };
                vec![
                    seek(SeekFrom::End(-5), SIZE - 5),
                    seek(SeekFrom::Data(1000), 1000),
                    seek(SeekFrom::Hole(1000), SIZE),
                ]
            }
            "lseek with SEEK_DATA behind the end" => {
                vec![rustix::fs::seek(&file, SeekFrom::Data(SIZE as u64)).map(drop)]
            }
            "readlink of a file" => {
                let path = self.mount.path("file");
                vec![rustix::fs::readlink(path, Vec::new()).map(drop)]
            }
            "access for writing" => vec![
                rustix::fs::access(self.mount.path("file"), Access::WRITE_OK),
                rustix::fs::access(self.mount.path("dir"), Access::WRITE_OK),
            ],
            "access for reading and searching" => vec![
                rustix::fs::access(self.mount.path("file"), Access::READ_OK),
                rustix::fs::access(self.mount.path("dir"), Access::EXEC_OK | Access::READ_OK),
                rustix::fs::accessat(CWD, self.mount.at(), Access::EXISTS, AtFlags::EACCESS),
            ],
            "mmap, shared, for writing" => vec![map(&file, MapFlags::SHARED)],
            "mmap, private, for writing" => vec![map(&file, MapFlags::PRIVATE)],
            "flock, shared and exclusive" => vec![
                rustix::fs::flock(&file, FlockOperation::LockShared),
                rustix::fs::flock(&file, FlockOperation::LockExclusive),
                rustix::fs::flock(&file, FlockOperation::Unlock),
            ],
            "fsync, fdatasync, syncfs" => vec![
                rustix::fs::fsync(&file),
                rustix::fs::fdatasync(&file),
                rustix::fs::syncfs(&file),
            ],
            "sendfile from a file" => {
                let to = self.place.path("sent");
                let out = File::create(&to).unwrap();
                let sent = copy_all(|left| rustix::fs::sendfile(&out, &file, None, left));
                assert!(std::fs::read(to).unwrap() == noise(1, SIZE));
                vec![sent]
            }
            "ioctl FS_IOC_GETFLAGS" => vec![rustix::fs::ioctl_getflags(&file).map(drop)],
            "rename, link, copy_file_range out of the mount" => {
                let (from, to) = (self.mount.path("file"), self.place.path("to"));
                let out = File::create(self.place.path("copy")).unwrap();
                let copy = rustix::fs::copy_file_range(&file, None, &out, None, SIZE);
                vec![
                    rustix::fs::rename(&from, &to),
                    rustix::fs::link(&from, &to),
                    // Programs fall back to reading.
                    copy.map(drop),
                ]
            }
            _ => panic!("no call for {what:?}"),
        }
    }

    /// Checks a result that is no error number.
    fn check(&self, what: &str) {
        let file = self.file();
        match what {
            "pread behind the end" => {
                for at in [SIZE as u64, SIZE as u64 + 1, i64::MAX as u64 - 4096] {
                    assert_eq!(file.read_at(&mut [0; 10], at).unwrap(), 0, "at {at}");
                }
            }
            "readlink into a short buffer" => {
                let mut buf = [0; 3];
                let path = self.mount.path("link");
                let n = rustix::fs::readlinkat_raw(CWD, path, &mut buf).unwrap();
                assert_eq!((n, &buf), (3, b"fil"));
            }
            "fallocate, ftruncate of a descriptor for reading" => {
                let flags = rustix::fs::FallocateFlags::empty();
                assert_eq!(rustix::fs::fallocate(&file, flags, 0, 10), Err(Errno::BADF));
                assert_eq!(rustix::fs::ftruncate(&file, 10), Err(Errno::INVAL));
            }
            "fstat of a descriptor and stat of its name" => {
                let (held, named) = (file.metadata(), self.mount.path("link").metadata());
                let all = |m: std::io::Result<std::fs::Metadata>| {
                    let m = m.unwrap();
                    assert!(!m.file_type().is_socket());
                    let times = (m.mtime(), m.mtime_nsec(), m.ctime(), m.ctime_nsec());
                    (
                        (m.dev(), m.ino(), m.mode(), m.nlink()),
                        (m.size(), m.blocks()),
                        times,
                    )
                };
                assert_eq!(all(held), all(named));
            }
            "`.` and `..` of a directory" => {
                let ino = |path: &str| self.mount.path(path).metadata().unwrap().ino();
                assert_eq!(ino("dir/sub/."), ino("dir/sub"));
                assert_eq!(ino("dir/sub/.."), ino("dir"));
                assert_eq!(ino("dir/sub/../../dir"), ino("dir"));
                let dir = File::open(self.mount.path("dir/sub")).unwrap();
                let mut space = [std::mem::MaybeUninit::uninit(); 1000];
                let mut found = rustix::fs::RawDir::new(&dir, &mut space);
                let first = found.next().unwrap().unwrap();
                assert_eq!((first.file_name(), first.ino()), (c".", ino("dir/sub")));
                let second = found.next().unwrap().unwrap();
                assert_eq!((second.file_name(), second.ino()), (c"..", ino("dir")));
            }
            _ => panic!("no check for {what:?}"),
        }
    }
}

fn copy_all(mut some: impl FnMut(usize) -> Result<usize, Errno>) -> Outcome {
    let mut left = SIZE;
    while left > 0 {
        match some(left)? {
            0 => panic!("it ends {left} bytes early"),
            n => left -= n,
        }
    }
    Ok(())
}

fn map(file: &File, flags: MapFlags) -> Outcome {
    let prot = ProtFlags::READ | ProtFlags::WRITE;
    // SAFETY: a new mapping of the file's size, unmapped below; only its own first byte is written.
    unsafe {
        let at = rustix::mm::mmap(std::ptr::null_mut(), SIZE, prot, flags, file, 0)?;
        at.cast::<u8>().write(7);
        rustix::mm::munmap(at, SIZE)
    }
}

#[test]
fn calls_come_to_what_posix_wants() {
    let world = World::new();
    for (what, result) in TABLE {
        let expected = match *result {
            "success" => Ok(()),
            "ENOENT" => Err(Errno::NOENT),
            "ENOTDIR" => Err(Errno::NOTDIR),
            "ENAMETOOLONG" => Err(Errno::NAMETOOLONG),
            "ELOOP" => Err(Errno::LOOP),
            "EISDIR" => Err(Errno::ISDIR),
            "EEXIST" => Err(Errno::EXIST),
            "EROFS" => Err(Errno::ROFS),
            "EBADF" => Err(Errno::BADF),
            "EINVAL" => Err(Errno::INVAL),
            "ENXIO" => Err(Errno::NXIO),
            "EACCES" => Err(Errno::ACCESS),
            "ENOTTY" => Err(Errno::NOTTY),
            "EXDEV" => Err(Errno::XDEV),
            _ => {
                world.check(what);
                continue;
            }
        };
        for (way, outcome) in world.call(what).into_iter().enumerate() {
            assert_eq!(outcome, expected, "{what}, way {way}");
        }
    }
    assert!(world.mount.read("file") == noise(1, SIZE));
}
