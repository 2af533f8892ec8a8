//! Serving a mount: from settings to a running daemon, and its end.

use std::io::Write;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use tokio::runtime::Handle as Runtime;
use tokio::signal::unix::{SignalKind, signal};
use tracing::{info, warn};

use super::reload::{self, Legacy, Reloader, Resolve, Succession};
use super::{Enclosed, Error, View, hooks, succession};
use crate::cli::MountSettings;
use crate::config;
use crate::control::registry::Registration;
use crate::control::server;
use crate::fuse::mount;
use crate::fuse::mounter::Mounter;
use crate::fuse::{Fuse, Notifications, Passthrough, prune};
use crate::hook::About;
use crate::memory::{Budget, Ceiling};
use crate::notify::{self, Watch};
use crate::path::RelPath;
use crate::source::Source;
use crate::vfs::Owner;

/// How long reads under way may take once the end was asked for and the mount is detached. What is
/// merely open would wait for ever, so this is short, and leaves most of a pod's 30 s of grace.
const END: Duration = Duration::from_secs(3);

/// The permission bits taken away unless said otherwise: none that the volume has.
const UMASK: u32 = 0o022;

/// Mounts and serves until the mount is gone or a signal ends it. Calls `ready` once it serves.
///
/// The caller's thread must not be one of the runtime's workers.
pub fn serve(
    legacy: Legacy,
    resolve: Resolve,
    enclosed: Enclosed,
    runtime: &Runtime,
    ready: impl FnOnce(),
) -> Result<(), Error> {
    let Enclosed {
        mountpoint,
        kernel,
        mounter,
        bond,
        errand,
        report,
        door,
    } = enclosed;
    let settings = &legacy.settings;
    // Else it is the holder who speaks with a service manager.
    let is_alone = bond.is_none();
    let system = |e: std::io::Error| Error::System(e.to_string());
    let owner = Owner {
        uid: settings.uid.unwrap_or(rustix::process::geteuid().as_raw()),
        gid: settings.gid.unwrap_or(rustix::process::getegid().as_raw()),
        umask: settings.umask.map_or(UMASK, |u| u32::from(u.bits())),
    };
    let view = View::open_after(&settings.view, &legacy.retired, owner, runtime)?;
    // Whoever follows another is not waited for by a user, but by readers.
    if settings.wait && bond.as_ref().is_none_or(|(hello, _)| hello.is_first) {
        runtime.block_on(reach_all(&view))?;
    }
    // Signals are caught before there is anything to clean up.
    let mut signals = runtime.block_on(async { Signals::new() }).map_err(system)?;

    let (notifications, pending) = Notifications::new();
    let names_told = notifications.clone();
    let told = notifications.clone();
    view.vfs
        .namespace()
        .set_listener(Arc::new(move |dir, names| told.changed(dir, names)));
    let passthrough = Arc::new(if settings.passthrough {
        Passthrough::wanted(&view.cache_dir, mounter.clone())
    } else {
        Passthrough::unwanted()
    });
    let budget = Budget::split(view.ceiling.bytes);
    let filesystem = Fuse::new(view.vfs.clone(), runtime.clone(), passthrough.clone())
        .with_requests(budget.request_count())
        .with_inodes(budget.inode_count());
    let replies = filesystem.replies();
    let gate = filesystem.gate();
    let begun = match &bond {
        None => mount::mount(filesystem, &mounter, errand, &kernel),
        Some((hello, _)) => {
            drop(errand);
            let inherit = || {
                let open = view.vfs.keep_in(&hello.kernel_dir())?;
                passthrough.take_over(&open);
                Ok(())
            };
            mount::take_over(filesystem, &mounter, &kernel, inherit)
        }
    };
    let (session, device) = begun.map_err(|e| Error::System(mount_error(&mountpoint, &e)))?;
    // From here on whatever happens, the mount goes; where there is a holder, that is its to say until
    // this worker serves, since another may have more luck.
    let mut mounted = Mounted(&mountpoint, is_alone.then(|| mounter.clone()));
    pending
        .start(&view.vfs, replies, session.notifier())
        .map_err(system)?;
    let inodes = budget.inode_count();
    prune::start(&view.vfs, inodes, device, session.notifier()).map_err(system)?;
    let (record, _registration) = match &bond {
        None => {
            let registration = Registration::new(&mountpoint).map_err(system)?;
            (registration.record().clone(), Some(registration))
        }
        Some((hello, _)) => (hello.record.clone(), None),
    };
    let about = About {
        volume: view.name.clone(),
        mountpoint: mountpoint.clone(),
        generation: legacy.generation(),
    };
    let on_change = &settings.on_change;
    let hooks = hooks::start(on_change, about, &view, &mounter, &notifications, runtime)?;
    let successor = { bond.as_ref() }.map(|(hello, _)| succession::Successor::new(hello, &mounter));
    let reloader = Arc::new(Reloader::new(
        legacy.clone(),
        &mountpoint,
        resolve,
        successor.map(|it| Arc::new(it) as Arc<dyn Succession>),
    ));
    let told_too = hooks.clone();
    let around = server::Around {
        reloader: reloader.clone(),
        hooks,
        sandbox: report,
        passthrough,
        notifications,
        mounter: mounter.clone(),
        door,
    };
    let mut control = runtime
        .block_on(server::start(record, &view, around))
        .map_err(|e| Error::System(format!("control socket: {e}")))?;
    super::scrub::start(view.cache.clone(), &view.cache_dir);
    info!(
        mountpoint = %mountpoint.display(),
        memory = view.ceiling.bytes,
        memory_from = %view.ceiling.origin,
        "serving"
    );
    let mut orphaned = match bond {
        None => None,
        Some((_, leash)) => {
            mounter.serving().map_err(system)?;
            Some(succession::listen(leash, mounter.clone(), gate, &view, runtime).map_err(system)?)
        }
    };
    mounted.1 = Some(mounter.clone());
    reloader.leave();
    let (watching, vfs, is_new) = (reloader.clone(), view.vfs.clone(), legacy.is_new);
    runtime.spawn(async move {
        if is_new {
            reload::tell_outdated(&vfs, &names_told, told_too.as_deref()).await;
        }
        watching.watch().await;
    });
    ready();
    let watch = is_alone.then(|| watch(&mounter)).flatten();

    let (told, mut ended) = tokio::sync::oneshot::channel();
    std::thread::Builder::new()
        .name("svol-session".into())
        .spawn(move || {
            let _ = told.send(session.join());
        })
        .map_err(system)?;
    runtime.block_on(async {
        let mut failed = Ok(());
        tokio::select! {
            result = &mut ended => {
                // Somebody else may have mounted there since.
                mounted.forget();
                match result {
                    // Another worker may have more luck.
                    Ok(Err(error)) if orphaned.is_some() => {
                        failed = Err(Error::System(format!("the session ended: {error}")));
                    }
                    Ok(Err(error)) => warn!(%error, "the session ended"),
                    _ => info!("unmounted"),
                }
            }
            () = succession::lost(&mut orphaned) => {
                // It was the one who could unmount.
                mounted.forget();
                failed = Err(Error::System("the process that holds the mount is gone".into()));
            }
            name = signals.next(|| reloader.ask()) => {
                info!(signal = name, "ending");
                if is_alone {
                    notify::stopping();
                }
                drop(mounted);
                // One that others have mounted stays, and with it the session.
                let ends = !kernel.origin.is_given();
                if ends && tokio::time::timeout(END, &mut ended).await.is_err() {
                    warn!("files are still open; they fail from now on");
                }
            }
        }
        drop(watch);
        control.abort_all();
        view.close().await;
        failed
    })
}

/// Keeps the service manager's watchdog quiet, if it has one, while the mount answers.
fn watch(mounter: &Arc<Mounter>) -> Option<Watch> {
    let mounter = Arc::downgrade(mounter);
    let probe = move || match mounter.upgrade() {
        Some(mounter) => mounter.probe(),
        None => Err("the mount has ended".into()),
    };
    Watch::start(probe).unwrap_or_else(|error| {
        warn!(%error, "the watchdog cannot be told");
        None
    })
}

/// Checks everything that can be checked without making anything, and returns the mount point,
/// absolute and without symbolic links. A dead mount of ours is detached there.
pub fn prepare(settings: &MountSettings) -> Result<std::path::PathBuf, Error> {
    Ceiling::of_process(settings.view.memory.map(|size| size.0))?;
    let mountpoint = match settings.origin.is_given() {
        true => mount::name_of_given(&settings.mountpoint, &settings.origin)?,
        false => mount::prepare(&settings.mountpoint, settings.mkdir)?,
    };
    check(settings, &mountpoint)?;
    Ok(mountpoint)
}

/// Checks what can be while something is mounted at `mountpoint`, which is absolute and without
/// symbolic links; does not touch it.
pub(super) fn check(settings: &MountSettings, mountpoint: &Path) -> Result<(), Error> {
    mount::check_apart(mountpoint, "the cache", &settings.view.cache.dir)?;
    for layer in &settings.view.volume.spec.layers {
        if let config::Source::Local(local) = &layer.source {
            mount::check_apart(mountpoint, "the local source", &local.path)?;
        }
    }
    if let Some(file) = &settings.log.file {
        mount::check_outside(mountpoint, "the log file", file)?;
    }
    if let Some(file) = &settings.view.config_file {
        mount::check_outside(mountpoint, "the volume file", file)?;
    }
    Ok(())
}

/// Waits until every layer answered once.
async fn reach_all(view: &View) -> Result<(), Error> {
    for guard in &view.guards {
        guard
            .list(&RelPath::root())
            .await
            .map_err(|error| Error::System(error.to_string()))?;
    }
    Ok(())
}

fn mount_error(mountpoint: &Path, error: &std::io::Error) -> String {
    let at = mountpoint.display();
    let said = error.to_string();
    let hint = if said.contains("user_allow_other") {
        "; add user_allow_other to /etc/fuse.conf, or mount as root"
    } else if error.kind() == std::io::ErrorKind::NotFound {
        "; /dev/fuse or fusermount3 is missing (apt install fuse3, modprobe fuse)"
    } else if error.kind() == std::io::ErrorKind::PermissionDenied {
        match std::fs::File::options()
            .read(true)
            .write(true)
            .open("/dev/fuse")
        {
            Err(_) => {
                "; /dev/fuse is not for this user (it usually has mode 0666), or mount as root"
            }
            Ok(_) => "; the mount point must be yours, or mount as root",
        }
    } else {
        ""
    };
    format!("cannot mount at {at}: {}{hint}", said.trim())
}

/// Unmounts when dropped.
struct Mounted<'a>(&'a Path, Option<Arc<Mounter>>);

impl Mounted<'_> {
    /// Leaves what is mounted there alone.
    fn forget(&mut self) {
        self.1 = None;
    }
}

impl Drop for Mounted<'_> {
    fn drop(&mut self) {
        let Some(mounter) = self.1.take() else {
            return;
        };
        if mount::is_ours(self.0).unwrap_or(false)
            && let Err(error) = mounter.end()
        {
            warn!(mountpoint = %self.0.display(), %error, "could not unmount");
        }
    }
}

/// The signals that end a mount.
struct Signals {
    term: tokio::signal::unix::Signal,
    int: tokio::signal::unix::Signal,
    hup: tokio::signal::unix::Signal,
}

impl Signals {
    fn new() -> std::io::Result<Signals> {
        Ok(Signals {
            term: signal(SignalKind::terminate())?,
            int: signal(SignalKind::interrupt())?,
            hup: signal(SignalKind::hangup())?,
        })
    }

    async fn next(&mut self, reload: impl Fn()) -> &'static str {
        loop {
            tokio::select! {
                _ = self.term.recv() => return "SIGTERM",
                _ = self.int.recv() => return "SIGINT",
                // Of a terminal that closes too: it must not take a mount with it.
                _ = self.hup.recv() => reload(),
            }
        }
    }
}

/// What the daemon says on its standard output once it serves.
pub const READY: &str = "ready";

/// Tells whoever started us that the mount serves, and lets go of the terminal.
pub fn detach() {
    let mut out = std::io::stdout();
    let _ = writeln!(out, "{READY}").and_then(|()| out.flush());
    let_go();
}

/// Lets go of the terminal.
pub fn let_go() {
    let Ok(null) = std::fs::File::options()
        .read(true)
        .write(true)
        .open("/dev/null")
    else {
        return;
    };
    let _ = rustix::stdio::dup2_stdin(&null);
    let _ = rustix::stdio::dup2_stdout(&null);
    let _ = rustix::stdio::dup2_stderr(&null);
}
