//! From settings to the sandbox: what this mount needs, and nothing else.

use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use tracing::warn;

use super::{Error, prepare, sources};
use crate::cli::MountSettings;
use crate::control::registry;
use crate::control::tcp::Door;
use crate::fuse::mount::MountSettings as KernelSettings;
use crate::fuse::mounter::Mounter;
use crate::sandbox::{self, Errand, Needs, Report};

/// Directories of which root is given a file alone, never all: they hold others' secrets.
const SHARED: [&str; 2] = ["/", "/etc"];

/// A process that has given up what it does not need to serve one mount, and the mounter that does
/// the rest for it.
pub struct Enclosed {
    /// The mount point, absolute and without symbolic links.
    pub(super) mountpoint: PathBuf,
    pub(super) kernel: KernelSettings,
    pub(super) mounter: Mounter,
    pub(super) errand: Errand,
    pub(super) report: Report,
    /// Where the control endpoint listens on TCP: bound here, since the sandbox lets nobody listen.
    pub(super) door: Option<Door>,
}

/// Checks the settings, starts the mounter, enters the sandbox, and there calls `serve` on a thread
/// of its own. Must be called while the process has one thread, since others would stay outside.
pub fn enclose<T: Send>(
    settings: &MountSettings,
    serve: impl FnOnce(Enclosed) -> T + Send,
) -> Result<T, Error> {
    let mountpoint = prepare(settings)?;
    let named = || format!("svol:{}", settings.view.volume.metadata.name);
    let kernel = KernelSettings {
        name: settings.fsname.clone().unwrap_or_else(named),
        allow_other: settings.allow_other,
        noexec: settings.noexec,
    };
    let listen = settings.listen;
    let door = listen.map(|at| Door::open(at, settings.listen_token_file.clone()));
    let door = door.transpose().map_err(|error| {
        let at = listen.map(|at| at.to_string()).unwrap_or_default();
        Error::System(format!("cannot listen at {at}: {error}"))
    })?;
    let mounter = Mounter::start(&mountpoint, &kernel)
        .map_err(|e| Error::System(format!("cannot start the process that mounts: {e}")))?;
    let inside = match settings.sandbox {
        true => sandbox::enter(&needs(settings)?),
        false => sandbox::stay_out(),
    };
    let ended = inside.settle(|report, errand| {
        serve(Enclosed {
            mountpoint,
            kernel,
            mounter,
            errand,
            report,
            door,
        })
    });
    ended.map_err(|e| Error::System(e.to_string()))
}

/// Returns what a mount needs of the file system. Makes the directories that it writes into, since
/// only what is there can be allowed.
fn needs(settings: &MountSettings) -> Result<Needs, Error> {
    let cache = &settings.view.cache.dir;
    let made = std::fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(cache);
    made.map_err(|e| Error::System(format!("cache {}: {e}", cache.display())))?;
    let runtime = registry::runtime_dir().map_err(|e| Error::System(e.to_string()))?;
    let mut needs = Needs {
        write: vec![cache.clone(), runtime],
        ..Needs::default()
    };
    if let Some(token) = &settings.listen_token_file {
        needs.read.extend(file_and_around(token));
    }
    for layer in &settings.view.volume.spec.layers {
        if let Some(directory) = sources::directory(&layer.source) {
            needs.others_files = true;
            needs.read.push(directory.to_owned());
            // Where another directory takes its place, or something is mounted on it, later.
            needs.read.push(around(directory));
        }
        let mut named = layer.source.clone();
        named.each_file(&mut |file| needs.read.extend(file_and_around(file)));
        for file in sources::files(&layer.source) {
            // Most users have none of them.
            if file.exists() {
                needs.read.extend(file_and_around(&file));
            }
        }
    }
    Ok(needs)
}

/// A file, and the directories that lead to it: a secret that is rotated is another file of the same
/// name, or a link that leads to another directory beside it.
fn file_and_around(file: &Path) -> Vec<PathBuf> {
    if !file.exists() {
        let file = file.display();
        warn!(%file, "not there yet; where its directory is not either, it cannot be read later");
    }
    let mut paths = vec![file.to_owned(), around(file)];
    if let Ok(real) = file.canonicalize() {
        paths.push(around(&real));
        paths.push(real);
    }
    paths
}

/// The directory that a path is in, unless everything is; then the path itself.
fn around(path: &Path) -> PathBuf {
    let parent = path.parent().unwrap_or(path);
    let parent = parent.canonicalize().unwrap_or_else(|_| parent.to_owned());
    match SHARED.iter().any(|shared| parent == Path::new(shared)) {
        true => path.to_owned(),
        false => parent,
    }
}
