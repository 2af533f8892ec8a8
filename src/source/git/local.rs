//! A repository of this machine, read in place: bare or with a work tree, its packs, loose objects
//! and alternates, by gitoxide's object database. Nothing of its configuration is obeyed.
//!
//! All of it blocks on the local disk.

use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};

use bytes::Bytes;
use gix_hash::ObjectId;
use gix_object::{Exists, Find, Kind};
use gix_odb::Header;
use gix_ref::file::ReferenceExt;

use super::super::{Error, ErrorKind, Result};
use super::reference::Reference;
use super::tree::Objects;

/// The largest object that is read, in bytes: it is in memory as a whole.
const LARGEST: usize = 1024 * 1024 * 1024;

/// The largest file of git's own that is read: configurations, and where a work tree's
/// repository is.
const SMALL_FILE: u64 = 1024 * 1024;

/// A repository's directory.
pub(super) struct Local {
    path: PathBuf,
    opened: OnceLock<Opened>,
}

/// A repository that was there.
struct Opened {
    objects: Arc<gix_odb::Store>,
    git_dir: PathBuf,
    common: PathBuf,
    format: gix_hash::Kind,
}

impl Local {
    /// Returns the repository at `path`, which need not be there yet.
    pub(super) fn new(path: PathBuf) -> Local {
        Local {
            path,
            opened: OnceLock::new(),
        }
    }

    fn opened(&self) -> Result<&Opened> {
        // Where it was may be nothing by now, which is no reason to find its files gone.
        let git_dir = git_dir(&self.path)?;
        if let Some(opened) = self.opened.get() {
            return Ok(opened);
        }
        let common = common_dir(&git_dir);
        let format = format(&common)?;
        let broken = |e: std::io::Error| {
            let message = format!("{}: its objects cannot be read: {e}", self.path.display());
            Error::new(ErrorKind::Invalid, message)
        };
        let options = gix_odb::store::init::Options {
            alloc_limit_bytes: Some(LARGEST),
            current_dir: Some("/".into()),
            ..Default::default()
        };
        let objects = gix_odb::Store::at_opts(
            common.join("objects"),
            format,
            &mut None.into_iter(),
            options,
        )
        .map_err(broken)?;
        Ok(self.opened.get_or_init(|| Opened {
            objects: Arc::new(objects),
            git_dir,
            common,
            format,
        }))
    }

    /// Returns the commit that a ref stands for now.
    pub(super) fn tip(&self, reference: &Reference) -> Result<ObjectId> {
        let opened = self.opened()?;
        let objects = opened.objects.to_cache_arc();
        if let Reference::Commit(id) = reference {
            if id.kind() != opened.format || !objects.exists(id) {
                let message = format!("the repository has no commit {id}");
                return Err(Error::new(ErrorKind::Invalid, message));
            }
            return Ok(*id);
        }
        let refs = opened.refs();
        for name in reference.names() {
            let found = refs.try_find(name.as_str());
            let found =
                found.map_err(|e| invalid(format!("the ref {name} cannot be read: {e}")))?;
            let Some(mut found) = found.filter(|found| found.name.as_bstr() == name.as_str())
            else {
                continue;
            };
            match found.peel_to_id(&refs, &objects) {
                Ok(id) => return Ok(id),
                // A branch without a commit yet, as HEAD of an empty repository.
                Err(_) if *reference == Reference::Head => break,
                Err(e) => return Err(invalid(format!("the ref {name} leads nowhere: {e}"))),
            }
        }
        let mut there = Vec::new();
        if let Ok(all) = refs.iter()
            && let Ok(all) = all.all()
        {
            there.extend(all.flatten().map(|found| found.name.as_bstr().to_string()));
        }
        there.retain(|name| name.starts_with("refs/heads/") || name.starts_with("refs/tags/"));
        Err(reference.missing(&there))
    }

    /// Returns a file's size.
    pub(super) fn size(&self, id: &ObjectId) -> Result<Option<u64>> {
        let objects = self.opened()?.objects.to_cache_arc();
        let header = objects.try_header(id).map_err(|e| unreadable(id, &e))?;
        Ok(header.map(|header| header.size()))
    }

    /// Reads a file.
    pub(super) async fn read(local: &Arc<Local>, id: ObjectId) -> Result<Bytes> {
        let local = local.clone();
        super::blocking(move || {
            let found = Objects::object(&*local, &id)?;
            let bytes = found.map(|(_, bytes)| Bytes::from(bytes));
            bytes.ok_or_else(|| super::not_here(&id))
        })
        .await
    }
}

impl Opened {
    /// Returns the refs as they are now.
    fn refs(&self) -> gix_ref::file::Store {
        let (git_dir, common) = (self.git_dir.clone(), self.common.clone());
        match common == git_dir {
            true => gix_ref::file::Store::at(git_dir, self.format),
            false => gix_ref::file::Store::for_linked_worktree(git_dir, common, self.format),
        }
    }
}

impl Objects for Local {
    fn object(&self, id: &ObjectId) -> Result<Option<(Kind, Vec<u8>)>> {
        let objects = self.opened()?.objects.to_cache_arc();
        let mut bytes = Vec::new();
        let found = objects
            .try_find(id, &mut bytes)
            .map_err(|e| unreadable(id, &e))?;
        let Some(kind) = found.map(|found| found.kind) else {
            return Ok(None);
        };
        match super::pack::id_of(id.kind(), kind, &bytes)? == *id {
            true => Ok(Some((kind, bytes))),
            false => Err(Error::lied(format!(
                "the object {id} is damaged; see `git fsck`"
            ))),
        }
    }
}

fn invalid(message: String) -> Error {
    Error::new(ErrorKind::Invalid, message)
}

fn unreadable(id: &ObjectId, error: &dyn std::fmt::Display) -> Error {
    Error::new(
        ErrorKind::Server,
        format!("the object {id} cannot be read: {error}"),
    )
}

/// Returns the directory of git's files for what a user calls the repository.
fn git_dir(path: &Path) -> Result<PathBuf> {
    let inside = path.join(".git");
    if inside.is_dir() {
        return Ok(inside);
    }
    if inside.is_file()
        && let Some(text) = read(&inside)
        && let Some(to) = text.trim().strip_prefix("gitdir:")
    {
        return Ok(path.join(to.trim()));
    }
    if path.join("HEAD").is_file() || path.join("objects").is_dir() {
        return Ok(path.to_owned());
    }
    // As with a directory that is not mounted yet: not an empty repository.
    Err(invalid(format!("{} is no Git repository", path.display())))
}

/// Returns the directory that a work tree shares with others.
fn common_dir(git_dir: &Path) -> PathBuf {
    match read(&git_dir.join("commondir")) {
        Some(to) => {
            let common = git_dir.join(to.trim());
            common.canonicalize().unwrap_or(common)
        }
        None => git_dir.to_owned(),
    }
}

/// Returns how objects are named.
fn format(common: &Path) -> Result<gix_hash::Kind> {
    let config = read(&common.join("config")).unwrap_or_default();
    let mut format = gix_hash::Kind::Sha1;
    let mut section = String::new();
    for line in config.lines().map(|line| line.trim().to_ascii_lowercase()) {
        if line.starts_with('[') {
            section = line;
        } else if let Some((key, value)) = line.split_once('=')
            && section.starts_with("[extensions]")
        {
            match (key.trim(), value.trim()) {
                ("objectformat", "sha256") => format = gix_hash::Kind::Sha256,
                ("objectformat", "sha1") | ("refstorage", "files") => {}
                ("objectformat" | "refstorage", other) => {
                    let what = format!("a repository of the format {other:?} is not read in place");
                    return Err(invalid(what));
                }
                _ => {}
            }
        }
    }
    Ok(format)
}

fn read(path: &Path) -> Option<String> {
    use std::io::Read;
    let mut text = String::new();
    let file = std::fs::File::open(path).ok()?;
    file.take(SMALL_FILE).read_to_string(&mut text).ok()?;
    Some(text)
}

/// Returns the directories that a repository's files are in beside its own: those of a work
/// tree's repository, and of its alternates. For the sandbox.
pub fn elsewhere(path: &Path) -> Vec<PathBuf> {
    let Ok(git_dir) = git_dir(path) else {
        return Vec::new();
    };
    let common = common_dir(&git_dir);
    let mut all = vec![git_dir, common.clone()];
    if let Ok(alternates) = gix_odb::alternate::resolve(common.join("objects"), Path::new("/")) {
        all.extend(alternates);
    }
    all
}
