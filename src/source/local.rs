//! Directories of this machine, read in place.
//!
//! Every path is opened below the root with `openat2(RESOLVE_BENEATH | RESOLVE_NO_SYMLINKS)`, so
//! that neither `..` nor a symbolic link that is put in place at the wrong moment leads out. A
//! version is device, inode, size, mtime and ctime: weak, but it changes with every write.

use std::fs::File;
use std::ops::Range;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};

use async_trait::async_trait;
use bytes::Bytes;
use futures::StreamExt;
use rustix::fs::{AtFlags, FileType, Mode, OFlags, ResolveFlags, Stat};
use rustix::io::Errno;

use super::{Body, Error, ErrorKind, HiddenWhy, InPlace, Listing, ListingBuilder, Result, Source};
use crate::entry::{Entry, Timestamp, Version};
use crate::path::{BadName, Name, RelPath};

/// How many bytes are read at once for [`Source::read`]; readers of a mount read in place instead.
const CHUNK: u64 = 256 * 1024;

/// A directory of this machine, or a single file, which then is alone in the root.
pub struct LocalSource(Arc<Place>);

struct Place {
    root: PathBuf,
    identity: String,
    /// Whether the root is a file. Asked once it is there.
    single: OnceLock<Option<Name>>,
}

/// Where a path of the source is: below a directory that is open.
struct Spot {
    dir: OwnedFd,
    path: RelPath,
}

impl LocalSource {
    /// Returns the source; `root` need not be there yet. A relative path begins at the working
    /// directory.
    pub fn new(root: &Path) -> Result<LocalSource> {
        let invalid = |e: std::io::Error| {
            let message = format!("no absolute path for {}: {e}", root.display());
            Error::new(ErrorKind::Invalid, message)
        };
        let root = match std::fs::canonicalize(root) {
            Ok(root) => root,
            Err(_) => std::path::absolute(root).map_err(invalid)?,
        };
        Ok(LocalSource(Arc::new(Place {
            identity: format!("file:{}", root.display()),
            root,
            single: OnceLock::new(),
        })))
    }

    async fn blocking<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Place) -> Result<T> + Send + 'static,
    ) -> Result<T> {
        let place = self.0.clone();
        let stopped = |_| Error::new(ErrorKind::Unreachable, "the program is ending");
        tokio::task::spawn_blocking(move || work(&place))
            .await
            .map_err(stopped)?
    }
}

impl Place {
    fn open_root(&self) -> Result<OwnedFd> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        rustix::fs::open(&self.root, flags, Mode::empty()).map_err(|errno| {
            let kind = match errno {
                // A directory that is not mounted yet must not look like an empty one.
                Errno::NOENT | Errno::NOTDIR => ErrorKind::Invalid,
                other => kind_of(other),
            };
            Error::new(kind, format!("{}: {errno}", self.root.display()))
        })
    }

    /// Returns the name of the root if it is a file.
    fn single(&self) -> Result<Option<&Name>> {
        if let Some(known) = self.single.get() {
            return Ok(known.as_ref());
        }
        let stat = rustix::fs::stat(&self.root).map_err(|errno| {
            let kind = match errno {
                Errno::NOENT | Errno::NOTDIR => ErrorKind::Invalid,
                other => kind_of(other),
            };
            Error::new(kind, format!("{}: {errno}", self.root.display()))
        })?;
        let name = match FileType::from_raw_mode(stat.st_mode) {
            FileType::RegularFile => {
                let name = self.root.file_name().unwrap_or_default();
                let odd = |why| Error::new(ErrorKind::Invalid, format!("{why}"));
                Some(Name::from_bytes(name.as_encoded_bytes()).map_err(odd)?)
            }
            _ => None,
        };
        Ok(self.single.get_or_init(|| name).as_ref())
    }

    fn spot(&self, path: &RelPath) -> Result<Spot> {
        let dir = match self.single()? {
            None => self.open_root()?,
            Some(name) => {
                if !path.is_root() && path.as_str() != name.as_str() {
                    return Err(Error::new(ErrorKind::NotFound, "no such file"));
                }
                let parent = self.root.parent().unwrap_or(Path::new("/"));
                let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
                rustix::fs::open(parent, flags, Mode::empty()).map_err(failure)?
            }
        };
        let path = path.clone();
        Ok(Spot { dir, path })
    }

    fn list(&self, dir: &RelPath) -> Result<Listing> {
        if let Some(name) = self.single()? {
            let spot = self.spot(&RelPath::root().join(name))?;
            let mut listing = ListingBuilder::default();
            listing.push(spot.entry()?.1);
            return Ok(listing.finish());
        }
        let spot = self.spot(dir)?;
        let fd = spot.open(OFlags::RDONLY | OFlags::DIRECTORY)?;
        let mut listing = ListingBuilder::default();
        let mut names = rustix::fs::Dir::read_from(&fd).map_err(failure)?;
        while let Some(found) = names.read() {
            let found = found.map_err(failure)?;
            let raw = found.file_name().to_bytes();
            if raw == b"." || raw == b".." {
                continue;
            }
            match Name::from_bytes(raw) {
                Ok(name) => match self.add(&fd, name.clone(), &mut listing) {
                    // Such as a dead mount, which must not take its neighbours along.
                    Err(_) if found.file_type() == FileType::Directory => {
                        listing.push(Entry::dir(name));
                    }
                    other => other?,
                },
                Err(why) => listing.hide(why.into(), &String::from_utf8_lossy(raw)),
            }
        }
        Ok(listing.finish())
    }

    fn add(&self, fd: &OwnedFd, name: Name, listing: &mut ListingBuilder) -> Result<()> {
        let flags = AtFlags::SYMLINK_NOFOLLOW | AtFlags::NO_AUTOMOUNT;
        let stat = match rustix::fs::statat(fd, name.as_str(), flags) {
            Ok(stat) => stat,
            // Gone since it was listed.
            Err(Errno::NOENT) => return Ok(()),
            Err(errno) => return Err(failure(errno)),
        };
        match FileType::from_raw_mode(stat.st_mode) {
            FileType::Directory => {
                let mut entry = Entry::dir(name);
                entry.mtime = Some(mtime(&stat));
                listing.push(entry);
            }
            FileType::RegularFile => listing.push(file(name, &stat)),
            FileType::Symlink => {
                let target = match rustix::fs::readlinkat(fd, name.as_str(), Vec::new()) {
                    Ok(target) => target,
                    Err(Errno::NOENT | Errno::INVAL) => return Ok(()),
                    Err(errno) => return Err(failure(errno)),
                };
                // Whether it leads out of the volume is for whoever knows the volume.
                match target.to_str() {
                    Ok(target) => {
                        let version = Version::weak(token(&stat));
                        let mtime = Some(mtime(&stat));
                        listing.push(Entry::symlink(name, target, mtime, version));
                    }
                    Err(_) => listing.hide(BadName::NotUtf8.into(), name.as_str()),
                }
            }
            _ => listing.hide(HiddenWhy::Special, name.as_str()),
        }
        Ok(())
    }

    fn stat(&self, path: &RelPath) -> Result<Entry> {
        let (kind, entry) = self.spot(path)?.entry()?;
        match kind {
            FileType::RegularFile | FileType::Symlink => Ok(entry),
            _ => Err(Error::new(
                ErrorKind::NotFound,
                "neither a file nor a symbolic link",
            )),
        }
    }

    fn open(&self, path: &RelPath, entry: &Entry) -> Result<File> {
        let spot = self.spot(path)?;
        // Not blocking, in case a pipe took the file's place.
        let file = File::from(spot.open(OFlags::RDONLY | OFlags::NONBLOCK)?);
        check(&file, entry)?;
        Ok(file)
    }
}

impl Spot {
    fn open(&self, flags: OFlags) -> Result<OwnedFd> {
        let path = match self.path.is_root() {
            true => ".",
            false => self.path.as_str(),
        };
        let resolve =
            ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
        let flags = flags | OFlags::CLOEXEC | OFlags::NOFOLLOW;
        // EAGAIN: a rename went on meanwhile, so that the kernel could not be sure.
        for _ in 0..16 {
            match rustix::fs::openat2(&self.dir, path, flags, Mode::empty(), resolve) {
                Err(Errno::AGAIN) => {}
                Err(Errno::NOSYS) => return self.open_step_by_step(flags),
                other => return other.map_err(failure),
            }
        }
        Err(failure(Errno::AGAIN))
    }

    /// Does the same where the kernel (before 5.6) or a container's filter has no openat2: each
    /// directory is opened from the one before, and none of them through a symbolic link.
    fn open_step_by_step(&self, flags: OFlags) -> Result<OwnedFd> {
        let step = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let mut dir = rustix::fs::openat(&self.dir, ".", step, Mode::empty()).map_err(failure)?;
        let names: Vec<Name> = self.path.components().collect();
        let Some((last, parents)) = names.split_last() else {
            return rustix::fs::openat(&dir, ".", flags, Mode::empty()).map_err(failure);
        };
        for name in parents {
            dir = rustix::fs::openat(&dir, name.as_str(), step, Mode::empty()).map_err(failure)?;
        }
        rustix::fs::openat(&dir, last.as_str(), flags, Mode::empty()).map_err(failure)
    }

    fn entry(&self) -> Result<(FileType, Entry)> {
        let missing = || Error::new(ErrorKind::NotFound, "no such file");
        let name = self.path.file_name().ok_or_else(missing)?;
        let fd = self.open(OFlags::PATH)?;
        let stat = rustix::fs::fstat(&fd).map_err(failure)?;
        let kind = FileType::from_raw_mode(stat.st_mode);
        if kind != FileType::Symlink {
            return Ok((kind, file(name, &stat)));
        }
        let target = rustix::fs::readlinkat(&fd, "", Vec::new()).map_err(failure)?;
        let target = target.to_str().map_err(|_| missing())?;
        let version = Version::weak(token(&stat));
        Ok((
            kind,
            Entry::symlink(name, target, Some(mtime(&stat)), version),
        ))
    }
}

fn file(name: Name, stat: &Stat) -> Entry {
    let size = u64::try_from(stat.st_size).unwrap_or(0);
    let token: Arc<str> = token(stat).into();
    Entry {
        executable: Some(stat.st_mode & 0o111 != 0),
        validator: Some(token.clone()),
        ..Entry::file(name, size, Some(mtime(stat)), Version::weak(token))
    }
}

fn mtime(stat: &Stat) -> Timestamp {
    time(stat.st_mtime, stat.st_mtime_nsec as i64)
}

fn time(secs: i64, nanos: i64) -> Timestamp {
    Timestamp(Timestamp::from_secs(secs).0.saturating_add(nanos))
}

fn token(stat: &Stat) -> String {
    let ctime = time(stat.st_ctime, stat.st_ctime_nsec as i64);
    format!("{}:{}", content_token(stat), ctime.0)
}

/// The part of a token that a deletion does not change.
fn content_token(stat: &Stat) -> String {
    let mtime = mtime(stat).0;
    format!("{}:{}:{}:{mtime}", stat.st_dev, stat.st_ino, stat.st_size)
}

fn check(file: &File, entry: &Entry) -> Result<()> {
    let stat = rustix::fs::fstat(file.as_fd()).map_err(failure)?;
    let listed = &*entry.version.token;
    if token(&stat) == listed {
        return Ok(());
    }
    // A deleted or replaced file lives on for those who hold it, its ctime changed by the deletion
    // itself. Nobody new can open it.
    let same_content = listed
        .rsplit_once(':')
        .is_some_and(|(content, _)| content_token(&stat) == content);
    if stat.st_nlink == 0 && same_content {
        return Ok(());
    }
    Err(Error::changed("the file has changed since it was listed"))
}

fn failure(errno: Errno) -> Error {
    Error::new(kind_of(errno), errno.to_string())
}

fn kind_of(errno: Errno) -> ErrorKind {
    match errno {
        Errno::NOENT | Errno::NOTDIR => ErrorKind::NotFound,
        Errno::ACCESS | Errno::PERM => ErrorKind::Denied,
        Errno::STALE => ErrorKind::Changed,
        Errno::TIMEDOUT => ErrorKind::Timeout,
        Errno::HOSTUNREACH | Errno::HOSTDOWN | Errno::NETUNREACH | Errno::NOTCONN => {
            ErrorKind::Unreachable
        }
        Errno::AGAIN | Errno::MFILE | Errno::NFILE | Errno::NOMEM | Errno::INTR => {
            ErrorKind::Server
        }
        // A symbolic link where a directory or a file was: what was listed is gone.
        Errno::LOOP => ErrorKind::NotFound,
        _ => ErrorKind::Invalid,
    }
}

#[async_trait]
impl Source for LocalSource {
    fn identity(&self) -> &str {
        &self.0.identity
    }

    fn url(&self, path: &RelPath) -> String {
        let root = self.0.root.display();
        match (path.is_root(), self.0.single.get()) {
            (false, None | Some(None)) => format!("file://{root}/{}", path.as_str()),
            _ => format!("file://{root}"),
        }
    }

    async fn list(&self, dir: &RelPath) -> Result<Listing> {
        let dir = dir.clone();
        self.blocking(move |place| place.list(&dir)).await
    }

    async fn stat(&self, path: &RelPath) -> Result<Entry> {
        let path = path.clone();
        self.blocking(move |place| place.stat(&path)).await
    }

    async fn read(&self, path: &RelPath, entry: &Entry, range: Range<u64>) -> Result<Body> {
        let (path, entry) = (path.clone(), entry.clone());
        let opened = {
            let entry = entry.clone();
            self.blocking(move |place| place.open(&path, &entry))
                .await?
        };
        let size = entry.size.unwrap_or(range.end);
        let validator = entry.validator.clone();
        let file = Arc::new(opened);
        let entry = Arc::new(entry);
        let stream = futures::stream::try_unfold(range.start, move |at| {
            let (file, entry) = (file.clone(), entry.clone());
            async move {
                if at == range.end {
                    return Ok(None);
                }
                let want = CHUNK.min(range.end - at);
                let read = move || -> Result<Bytes> {
                    let mut chunk = vec![0; usize::try_from(want).unwrap_or(usize::MAX)];
                    let got = file.read_exact_at(&mut chunk, at);
                    // First whether it is still the same: a truncated file reads short.
                    check(&file, &entry)?;
                    got.map_err(|e| Error::new(ErrorKind::Server, e.to_string()))?;
                    Ok(chunk.into())
                };
                let stopped = |_| Error::new(ErrorKind::Unreachable, "the program is ending");
                let chunk = tokio::task::spawn_blocking(read).await.map_err(stopped)??;
                Ok(Some((chunk, at + want)))
            }
        });
        let body = Body {
            range,
            size,
            validator,
            stream: stream.boxed(),
        };
        Ok(body.checked())
    }

    fn in_place(&self) -> Option<&dyn InPlace> {
        Some(self)
    }
}

impl InPlace for LocalSource {
    fn open(&self, path: &RelPath, entry: &Entry) -> Result<File> {
        self.0.open(path, entry)
    }

    fn check(&self, _: &RelPath, file: &File, entry: &Entry) -> Result<()> {
        check(file, entry)
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{PermissionsExt, symlink};

    use super::*;
    use crate::entry::Kind;

    fn path(text: &str) -> RelPath {
        RelPath::new(text).unwrap()
    }

    fn names(listing: &Listing) -> Vec<&str> {
        listing.entries.iter().map(|e| e.name.as_str()).collect()
    }

    #[tokio::test]
    async fn links_are_shown_verbatim_and_special_files_are_hidden() {
        let top = tempfile::tempdir().unwrap();
        let root = top.path().join("root");
        std::fs::create_dir_all(root.join("d")).unwrap();
        std::fs::write(top.path().join("secret"), "s").unwrap();
        std::fs::write(root.join("f"), "f").unwrap();
        symlink("f", root.join("ok")).unwrap();
        symlink("missing/thing", root.join("dangling")).unwrap();
        symlink("../secret", root.join("out")).unwrap();
        symlink("..", root.join("d/up")).unwrap();
        let fifo = (FileType::Fifo, Mode::RUSR);
        rustix::fs::mknodat(rustix::fs::CWD, root.join("pipe"), fifo.0, fifo.1, 0).unwrap();
        use std::os::unix::ffi::OsStrExt;
        std::fs::write(root.join(std::ffi::OsStr::from_bytes(b"\xff")), "").unwrap();
        symlink(std::ffi::OsStr::from_bytes(b"\xff"), root.join("odd")).unwrap();

        let source = LocalSource::new(&root).unwrap();
        let listing = source.list(&RelPath::root()).await.unwrap();
        assert_eq!(names(&listing), ["d", "dangling", "f", "ok", "out"]);
        let hidden = |why| {
            let mut all = listing.hidden.iter();
            all.find(|h| h.why == why).map_or(0, |h| h.count)
        };
        assert_eq!(hidden(HiddenWhy::Special), 1);
        assert_eq!(hidden(HiddenWhy::Name(crate::path::BadName::NotUtf8)), 2);

        // Whether they lead out of the volume is for the namespace; nothing is read through them.
        for (link, target) in [("ok", "f"), ("out", "../secret"), ("d/up", "..")] {
            let entry = source.stat(&path(link)).await.unwrap();
            assert_eq!(entry.target.as_deref(), Some(target));
            assert!(source.open(&path(link), &entry).is_err());
        }
        for bad in ["none", "f/x", "d", "d/up/f", "odd"] {
            let error = source.stat(&path(bad)).await.unwrap_err();
            assert_eq!(error.kind(), ErrorKind::NotFound, "{bad}");
        }
    }

    #[tokio::test]
    async fn in_place_files_are_checked() {
        let dir = tempfile::tempdir().unwrap();
        let at = dir.path().join("f");
        std::fs::write(&at, "one").unwrap();
        std::fs::set_permissions(&at, std::fs::Permissions::from_mode(0o755)).unwrap();
        let source = LocalSource::new(dir.path()).unwrap();
        let entry = source.stat(&path("f")).await.unwrap();
        assert_eq!(entry.executable, Some(true));
        let file = source.open(&path("f"), &entry).unwrap();
        source.check(&path("f"), &file, &entry).unwrap();

        // Replaced: the old one is still whole for its holder, and gone for the next.
        let other = dir.path().join("g");
        std::fs::write(&other, "two").unwrap();
        std::fs::rename(&other, &at).unwrap();
        source.check(&path("f"), &file, &entry).unwrap();
        let error = source.open(&path("f"), &entry).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Changed);

        // Written to in place: no longer that version, for anyone.
        let entry = source.stat(&path("f")).await.unwrap();
        let file = source.open(&path("f"), &entry).unwrap();
        std::fs::write(&at, "three").unwrap();
        let error = source.check(&path("f"), &file, &entry).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Changed);
    }

    #[tokio::test]
    async fn a_missing_root_is_an_error_and_a_file_is_a_directory_of_itself() {
        let dir = tempfile::tempdir().unwrap();
        let source = LocalSource::new(&dir.path().join("later")).unwrap();
        let error = source.list(&RelPath::root()).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Invalid);
        std::fs::write(dir.path().join("later"), "x").unwrap();
        let listing = source.list(&RelPath::root()).await.unwrap();
        assert_eq!(names(&listing), ["later"]);
        assert!(source.stat(&path("later")).await.is_ok());
        assert!(source.stat(&path("other")).await.is_err());
    }

    #[test]
    fn both_ways_to_open_refuse_links() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join("d")).unwrap();
        std::fs::write(dir.path().join("d/f"), "x").unwrap();
        symlink("d", dir.path().join("l")).unwrap();
        symlink("f", dir.path().join("d/l")).unwrap();
        let source = LocalSource::new(dir.path()).unwrap();
        for (at, opens) in [("d/f", true), ("l/f", false), ("d/l", false)] {
            let spot = source.0.spot(&path(at)).unwrap();
            let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            assert_eq!(spot.open(flags).is_ok(), opens, "{at}");
            assert_eq!(spot.open_step_by_step(flags).is_ok(), opens, "{at}");
        }
    }

    #[test]
    fn a_directory_s_kind_is_shown() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join("d")).unwrap();
        let source = LocalSource::new(dir.path()).unwrap();
        let listing = source.0.list(&RelPath::root()).unwrap();
        assert_eq!(listing.entries[0].kind, Kind::Dir);
        assert!(listing.entries[0].mtime.is_some());
    }
}
