//! From settings to the sandbox: what this mount needs, and nothing else.

use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use tracing::warn;

use super::{Error, hooks, prepare, sources};
use crate::cli::MountSettings;
use crate::config::Layer;
use crate::control::registry;
use crate::control::tcp::{Door, Rules};
use crate::control::tls::Tls;
use crate::fuse::mount::MountSettings as KernelSettings;
use crate::fuse::mounter::Mounter;
use crate::fuse::runner::Program;
use crate::holder::{Hello, Leash, Place, Post};
use crate::sandbox::{self, Errand, Needs, Report};

/// Directories of which root is given a file alone, never all: they hold others' secrets.
const SHARED: [&str; 2] = ["/", "/etc"];

/// A process that has given up what it does not need to serve one mount, and the mounter that does
/// the rest for it.
pub struct Enclosed {
    /// The mount point, absolute and without symbolic links.
    pub(super) mountpoint: PathBuf,
    pub(super) kernel: KernelSettings,
    pub(super) mounter: Arc<Mounter>,
    /// What binds it to its holder, where it has one.
    pub(super) bond: Option<(Hello, Leash)>,
    pub(super) errand: Errand,
    pub(super) report: Report,
    /// Where the control endpoint listens on TCP: bound here, since the sandbox lets nobody listen.
    pub(super) door: Option<Door>,
}

/// Checks the settings, starts the mounter unless `post` has one, enters the sandbox, and there calls
/// `serve` on a thread of its own. Must be called while the process has one thread, since others
/// would stay outside.
///
/// `retired` are layers of the volume before, for files of theirs that are open.
pub fn enclose<T: Send>(
    settings: &MountSettings,
    retired: &[Layer],
    post: Option<Post>,
    serve: impl FnOnce(Enclosed) -> T + Send,
) -> Result<T, Error> {
    let kernel = kernel(settings);
    let (mountpoint, door, mounter, bond) = match post {
        None => {
            let mountpoint = prepare(settings)?;
            let door = door(settings)?;
            let mounter = Mounter::start(&mountpoint, &kernel, hooks::program(&settings.on_change))
                .map_err(|e| Error::System(format!("cannot start the process that mounts: {e}")))?;
            // It has its own by now, and gives us the device when it is asked for it.
            kernel.origin.let_go();
            (mountpoint, door, Arc::new(mounter), None)
        }
        Some(post) => {
            let mountpoint = post.hello.mountpoint.clone();
            super::serve::check(settings, &mountpoint)?;
            let door = post
                .listener
                .map(|socket| Door::at(socket, rules(settings)?));
            // Files of TLS that are being exchanged are no reason to lose the mount.
            let door = door.transpose().unwrap_or_else(|error| {
                warn!(%error, "nobody is served over TCP until the next change of process");
                None
            });
            (
                mountpoint,
                door,
                post.mounter,
                Some((post.hello, post.leash)),
            )
        }
    };
    let inside = match settings.sandbox {
        true => sandbox::enter(&needs(settings, retired)?),
        false => sandbox::stay_out(),
    };
    let ended = inside.settle(|report, errand| {
        serve(Enclosed {
            mountpoint,
            kernel,
            mounter,
            bond,
            errand,
            report,
            door,
        })
    });
    ended.map_err(|e| Error::System(e.to_string()))
}

/// Returns the program that the change hook runs, if the volume names one.
pub fn hook(settings: &MountSettings) -> Option<Program> {
    hooks::program(&settings.on_change)
}

/// Checks the settings, and returns what a holder needs to know of them. `origin` is the directory
/// that the command line was given in; `hook` finds out again which program is the change hook's.
pub fn place(
    settings: &MountSettings,
    origin: PathBuf,
    log_file: Option<PathBuf>,
    hook: impl Fn() -> Option<Program> + 'static,
) -> Result<Place, Error> {
    let mountpoint = prepare(settings)?;
    let mut door = door(settings)?;
    if let Some(door) = &mut door {
        // Each worker reads them for itself: a holder keeps the socket, and no key.
        door.rules = Rules::default();
    }
    Ok(Place {
        mountpoint,
        kernel: kernel(settings),
        door,
        origin,
        log_file,
        hook: Box::new(hook),
    })
}

fn kernel(settings: &MountSettings) -> KernelSettings {
    let named = || format!("svol:{}", settings.view.volume.metadata.name);
    KernelSettings {
        name: settings.fsname.clone().unwrap_or_else(named),
        allow_other: settings.allow_other,
        noexec: settings.noexec,
        origin: settings.origin.clone(),
    }
}

fn door(settings: &MountSettings) -> Result<Option<Door>, Error> {
    let Some(at) = settings.listen else {
        return Ok(None);
    };
    rules(settings)
        .and_then(|rules| Door::open(at, rules))
        .map(Some)
        .map_err(|error| Error::System(format!("cannot listen at {at}: {error}")))
}

/// Returns who may ask over TCP. The files of TLS are read, so that a wrong one is said now.
fn rules(settings: &MountSettings) -> std::io::Result<Rules> {
    let tls = settings.listen_tls.clone().map(Tls::open);
    Ok(Rules {
        token: settings.listen_token_file.clone(),
        tls: tls.transpose()?.map(Arc::new),
    })
}

/// Returns what a mount needs of the file system. Makes the directories that it writes into, since
/// only what is there can be allowed.
fn needs(settings: &MountSettings, retired: &[Layer]) -> Result<Needs, Error> {
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
    if let Some(tls) = &settings.listen_tls {
        for file in [&tls.cert, &tls.key].into_iter().chain(&tls.client_ca) {
            needs.read.extend(file_and_around(file));
        }
    }
    let mut on_change = settings.on_change.clone();
    on_change.each_file(&mut |file| needs.read.extend(file_and_around(file)));
    if let Some(file) = &settings.view.config_file {
        // It is read again when it changes.
        needs.read.extend(file_and_around(file));
    }
    for layer in settings.view.volume.spec.layers.iter().chain(retired) {
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
