//! The cache directory: who may use it, what is where, and what is done with another format.
//!
//! Everything of one format version lives in a directory of its own, `v1` for this one. A program
//! of another version uses another and leaves this one alone, so two versions can run side by side,
//! or an upgrade be undone, without either losing its cache. What is in `v1` and is not of this
//! format after all is renamed to `set-aside-...`; nothing unknown is ever deleted.

use std::fs::{self, DirBuilder, File, Metadata, Permissions};
use std::io::{self, ErrorKind, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use blake3::Hash;

use crate::clock;
use crate::error::Error;
use crate::key::ObjectKey;
use crate::lock;

/// The directory of this format version.
const VERSION_DIR: &str = "v1";

/// What the file `format` says: all that must be equal for two programs to share the directory.
const FORMAT: &str = "svol-cache format 1\ngrain 16384 blake3\n";

/// What backup tools look for to leave a cache out (https://bford.info/cachedir/).
const TAG: &str = "Signature: 8a477f597d28d172789f06886806bc55\n\
    # This directory is a cache of Shared Volume (svol). It can be deleted when no svol runs.\n";
const TAG_NAME: &str = "CACHEDIR.TAG";

/// How long another process may take to set the directory up before we go ahead beside it.
const SETUP_PATIENCE: Duration = Duration::from_secs(5);

/// File systems whose locks or coherence between machines we do not trust, by `statfs` type.
const NETWORK: &[(u32, &str)] = &[
    (0x6969, "NFS"),
    (0x517b, "SMB"),
    (0xff53_4d42, "CIFS"),
    (0xfe53_4d42, "SMB2"),
    (0x0102_1997, "9p"),
    (0x6573_5546, "FUSE"),
    (0x00c3_6400, "Ceph"),
    (0x5346_414f, "AFS"),
    (0x6b41_4653, "AFS"),
    (0x7375_7245, "Coda"),
    (0x0bd0_0bd0, "Lustre"),
    (0x4750_4653, "GPFS"),
    (0x0116_1970, "GFS2"),
    (0x7461_636f, "OCFS2"),
    (0x786f_4256, "vboxsf"),
];

/// Returns the name of a network file system by its `statfs` type; nothing for what a cache can be on.
pub fn network_file_system(magic: u32) -> Option<&'static str> {
    let found = NETWORK.iter().find(|(known, _)| *known == magic);
    found.map(|(_, name)| *name)
}

/// The three kinds of data files, each in a subdirectory of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Partial,
    Blob,
    Pack,
}

impl Kind {
    pub(crate) const ALL: [Kind; 3] = [Kind::Partial, Kind::Blob, Kind::Pack];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Kind::Partial => "partial",
            Kind::Blob => "blob",
            Kind::Pack => "pack",
        }
    }
}

/// Space on the disk, in bytes.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Space {
    pub(crate) total: u64,
    pub(crate) free: u64,
}

/// An opened cache directory.
pub(crate) struct Dir {
    /// What the user named.
    top: PathBuf,
    /// The directory of this version in it.
    root: PathBuf,
}

impl Dir {
    /// Checks the directory, makes what is not there, and sets aside what is of no known format.
    pub(crate) fn open(top: &Path) -> Result<Self, Error> {
        let refused = |reason: String| Error::Refused {
            dir: top.to_owned(),
            reason,
        };
        let what = || format!("use the directory {}", top.display());
        make_dir(top).map_err(Error::io(what()))?;
        let top_path = top.canonicalize().map_err(Error::io(what()))?;
        let handle = File::open(&top_path).map_err(Error::io(what()))?;
        let metadata = handle.metadata().map_err(Error::io(what()))?;
        if !metadata.is_dir() {
            return Err(refused("it is not a directory".into()));
        }
        let filesystem = rustix::fs::fstatfs(&handle).map_err(|e| Error::io(what())(e.into()))?;
        if let Some(name) = network_file_system(filesystem.f_type as u32) {
            return Err(refused(format!(
                "it is on {name}, and the cache needs a local disk"
            )));
        }
        check_owner(&top_path, &metadata).map_err(refused)?;

        let dir = Self {
            root: top_path.join(VERSION_DIR),
            top: top_path,
        };
        // Whoever else opens the cache just now does the same; one after the other is simpler.
        let deadline = Instant::now() + SETUP_PATIENCE;
        while !lock::hold_alone(&handle).map_err(Error::io(what()))? && Instant::now() < deadline {
            crate::sync::thread::sleep(Duration::from_millis(5));
        }
        let format = dir.root.join("format");
        match fs::read(&format) {
            Ok(content) if content == FORMAT.as_bytes() => {}
            Err(error) if error.kind() == ErrorKind::NotFound => {}
            _ => dir.set_version_aside().map_err(Error::io(what()))?,
        }
        dir.lay_out().map_err(Error::io(what()))?;
        Ok(dir)
    }

    fn set_version_aside(&self) -> io::Result<()> {
        let aside = self.top.join(set_aside_name());
        fs::rename(&self.root, &aside)?;
        tracing::warn!(dir = %aside.display(), "cache of an unknown format set aside");
        Ok(())
    }

    /// Makes what is missing. Also called when the directory was deleted under us.
    pub(crate) fn lay_out(&self) -> io::Result<()> {
        make_dir(&self.top)?;
        write_whole(&self.top.join(TAG_NAME), TAG)?;
        make_dir(&self.root)?;
        for kind in Kind::ALL {
            make_dir(&self.root.join(kind.name()))?;
        }
        write_whole(&self.root.join("format"), FORMAT)
    }

    /// Returns the directory that the user named.
    pub(crate) fn top(&self) -> &Path {
        &self.top
    }

    /// Returns the directory of this format version in it.
    pub(crate) fn root(&self) -> &Path {
        &self.root
    }

    pub(crate) fn index(&self) -> PathBuf {
        self.root.join("index.db")
    }

    pub(crate) fn locks(&self) -> PathBuf {
        self.root.join("locks")
    }

    pub(crate) fn kind(&self, kind: Kind) -> PathBuf {
        self.root.join(kind.name())
    }

    pub(crate) fn partial(&self, key: &ObjectKey) -> PathBuf {
        self.hashed(Kind::Partial, &key.to_string())
    }

    pub(crate) fn blob(&self, hash: &Hash) -> PathBuf {
        self.hashed(Kind::Blob, hash.to_hex().as_str())
    }

    pub(crate) fn pack(&self, id: u64) -> PathBuf {
        self.kind(Kind::Pack).join(format!("{id:016x}"))
    }

    fn hashed(&self, kind: Kind, hex: &str) -> PathBuf {
        let mut path = self.kind(kind);
        path.push(&hex[..2]);
        path.push(hex);
        path
    }

    /// Opens a file for creation; makes the directories above where they are missing.
    pub(crate) fn create(&self, path: &Path) -> io::Result<File> {
        let open = || {
            File::options()
                .read(true)
                .write(true)
                .create(true)
                .truncate(false)
                .open(path)
        };
        match open() {
            Err(error) if error.kind() == ErrorKind::NotFound => {
                self.lay_out()?;
                if let Some(parent) = path.parent() {
                    make_dir(parent)?;
                }
                open()
            }
            other => other,
        }
    }

    /// Renames a file into a place whose directory may be missing.
    pub(crate) fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        match fs::rename(from, to) {
            Err(error) if error.kind() == ErrorKind::NotFound => {
                if let Some(parent) = to.parent() {
                    make_dir(parent)?;
                }
                fs::rename(from, to)
            }
            other => other,
        }
    }

    /// Renames the index and its companions out of the way, into a directory of their own. The
    /// database last: who finds its name free begins a new one, whose log is not to be moved too.
    pub(crate) fn set_index_aside(&self) -> io::Result<PathBuf> {
        let aside = self.top.join(set_aside_name());
        make_dir(&aside)?;
        for suffix in ["-wal", "-shm", ""] {
            let name = format!("index.db{suffix}");
            match fs::rename(self.root.join(&name), aside.join(&name)) {
                Err(error) if error.kind() != ErrorKind::NotFound => return Err(error),
                _ => {}
            }
        }
        Ok(aside)
    }

    /// Returns the size of the disk and what of it this user can still have.
    pub(crate) fn space(&self) -> io::Result<Space> {
        let stat = rustix::fs::statvfs(&self.top)?;
        Ok(Space {
            total: stat.f_blocks.saturating_mul(stat.f_frsize),
            free: stat.f_bavail.saturating_mul(stat.f_frsize),
        })
    }
}

/// Returns the path of the sidecar of a data file.
pub(crate) fn sidecar(data: &Path) -> PathBuf {
    let mut name = data.as_os_str().to_owned();
    name.push(".grains");
    name.into()
}

/// Returns what a file really takes on disk, in bytes.
pub(crate) fn allocated(metadata: &Metadata) -> u64 {
    metadata.blocks().saturating_mul(512)
}

/// Returns whether `path` still names the file that `metadata` is of.
pub(crate) fn still_names(path: &Path, metadata: &Metadata) -> bool {
    fs::symlink_metadata(path)
        .is_ok_and(|now| now.dev() == metadata.dev() && now.ino() == metadata.ino())
}

/// Removes a file; one that is gone already is as good.
pub(crate) fn remove(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

fn make_dir(path: &Path) -> io::Result<()> {
    match DirBuilder::new().recursive(true).mode(0o700).create(path) {
        Err(error) if error.kind() != ErrorKind::AlreadyExists => Err(error),
        _ => Ok(()),
    }
}

/// Writes a small file in one step, so that nobody sees half of it.
fn write_whole(path: &Path, content: &str) -> io::Result<()> {
    if fs::read(path).is_ok_and(|old| old == content.as_bytes()) {
        return Ok(());
    }
    let temporary = path.with_extension(format!("{:016x}.tmp", clock::random()));
    let mut file = File::create(&temporary)?;
    file.write_all(content.as_bytes())?;
    file.sync_data()?;
    fs::rename(&temporary, path)
}

/// Makes sure that nobody else can read or change what will be in the directory.
fn check_owner(path: &Path, metadata: &Metadata) -> Result<(), String> {
    let user = rustix::process::geteuid().as_raw();
    if metadata.uid() != user {
        return Err(format!(
            "it belongs to user {}, and this is user {user}",
            metadata.uid()
        ));
    }
    if metadata.mode() & 0o077 == 0 {
        return Ok(());
    }
    let ours = path.join(TAG_NAME).exists() && path.join(VERSION_DIR).exists();
    let empty = || fs::read_dir(path).is_ok_and(|mut entries| entries.next().is_none());
    if !ours && !empty() {
        return Err("others can look into it (chmod 700 it if it is to be the cache)".into());
    }
    fs::set_permissions(path, Permissions::from_mode(0o700))
        .map_err(|error| format!("others can look into it, and chmod failed: {error}"))
}

fn set_aside_name() -> String {
    let seconds = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |since| since.as_secs());
    format!(
        "set-aside-{VERSION_DIR}-{seconds}-{:08x}",
        clock::random() as u32
    )
}
