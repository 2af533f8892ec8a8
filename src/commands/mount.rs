//! `svol mount` and `svol unmount`.

use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustix::process::DumpableBehavior;
use tracing::warn;

use super::{Failure, decisions, runtime};

use crate::app;
use crate::app::reload::{Legacy, Resolve};
use crate::cli::args::{LogArgs, MountArgs, UnmountArgs};
use crate::cli::{Env, ExitStatus, resolve_mount, resolve_mount_of};
use crate::control::registry;
use crate::fuse::mount;
use crate::holder::{self, Post};
use crate::notify;

/// Set for the process that serves in the background: it tells its parent when it serves, and
/// lets go of the terminal.
const BACKGROUND: &str = "SVOL_BACKGROUND";

/// Mounts, and serves until the mount ends (in the foreground) or returns as soon as it serves.
pub fn mount(args: &MountArgs, log: &LogArgs) -> Result<ExitStatus, Failure> {
    if Post::is_asked_for() {
        return work(args, log);
    }
    let mut settings = resolve_mount(args, log, &Env::of_process()?)?;
    // Before a log is opened or a process started: neither may get into the mount point's way.
    app::prepare(&settings)?;
    let background = std::env::var_os(BACKGROUND).is_some();
    if !settings.foreground && !background {
        for note in decisions(&settings.view) {
            eprintln!("svol: {note}");
        }
        return start_background();
    }
    let origin = std::env::current_dir()?;
    let again = again(args, log)?;
    let mut log_file = None;
    if background {
        // Of its own session: no terminal's signals, and no directory kept busy.
        let _ = rustix::process::setsid();
        std::env::set_current_dir("/")?;
        if settings.log.file.is_none() {
            log_file = Some(default_log(&settings.mountpoint)?);
            settings.log.file = log_file.clone();
        }
    }
    // Errors up to the moment it serves come out on the terminal, whatever is logged where.
    crate::logging::init(&settings.log).map_err(Failure::usage)?;
    for note in decisions(&settings.view) {
        warn!("{note}");
    }
    let at = settings.mountpoint.clone();
    let ready = move || match background {
        true => app::detach(),
        false => notify::ready(&format!("serving {}", at.display())),
    };
    if !settings.takeover {
        serve(Legacy::first(settings), again, None, ready)?;
        return Ok(ExitStatus::Done);
    }
    if settings.sandbox {
        // Its environment may hold secrets; what it reads of itself, it still can.
        let _ = rustix::process::set_dumpable_behavior(DumpableBehavior::NotDumpable);
    }
    let (again, logs) = (args.clone(), log.clone());
    let from = origin.clone();
    let hook = move || {
        let mut env = Env::of_process().ok()?;
        env.directory = from.clone();
        app::hook(&resolve_mount(&again, &logs, &env).ok()?)
    };
    let place = app::place(&settings, origin, log_file, hook)?;
    // What of it counts later, workers read anew.
    drop(settings);
    holder::hold(place, ready).map_err(|error| Failure {
        message: error.message,
        status: match error.status {
            2 => ExitStatus::Usage,
            _ => ExitStatus::Failed,
        },
    })?;
    Ok(ExitStatus::Done)
}

/// Serves the mount of the holder that started this process.
fn work(args: &MountArgs, log: &LogArgs) -> Result<ExitStatus, Failure> {
    let post = Post::take()?;
    let holder = post.mounter.clone();
    let background = std::env::var_os(BACKGROUND).is_some();
    let worked = (|| {
        let again = again(args, log)?;
        let left = post.hello.baggage().read()?;
        let legacy = Legacy::after(left.as_deref(), &again)?;
        if background {
            std::env::set_current_dir("/")?;
        }
        crate::logging::init(&legacy.settings.log).map_err(Failure::usage)?;
        serve(legacy, again, Some(post), || {
            if background {
                app::let_go();
            }
        })
    })();
    match worked {
        Ok(()) => Ok(ExitStatus::Done),
        Err(Failure { message, status }) => {
            // It is the holder who speaks to the user.
            holder.last_words(&message, status.code());
            let message = String::new();
            Err(Failure { message, status })
        }
    }
}

/// Returns what reads the settings of this very mount anew.
fn again(args: &MountArgs, log: &LogArgs) -> Result<Resolve, Failure> {
    let (args, log, env) = (args.clone(), log.clone(), Env::of_process()?);
    Ok(Arc::new(move |volume| {
        resolve_mount_of(&args, &log, &env, volume)
    }))
}

fn serve(
    legacy: Legacy,
    again: Resolve,
    post: Option<Post>,
    ready: impl FnOnce() + Send,
) -> Result<(), Failure> {
    // Before the first thread: the sandbox is a thread's and of those that it starts.
    let (settings, retired) = (legacy.settings.clone(), legacy.retired.clone());
    app::enclose(&settings, &retired, post, |enclosed| {
        let runtime = runtime()?;
        app::serve(legacy, again, enclosed, runtime.handle(), ready)?;
        // What still waits for a source does not keep us.
        runtime.shutdown_timeout(Duration::from_secs(1));
        Ok(())
    })?
}

/// Starts this very command again in the background and waits until it serves or ends.
fn start_background() -> Result<ExitStatus, Failure> {
    let mut child = Command::new(std::env::current_exe()?)
        .args(std::env::args_os().skip(1))
        .env(BACKGROUND, "1")
        // A service manager waits for whom it started, not for what that leaves behind.
        .env_remove("NOTIFY_SOCKET")
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()?;
    let said = match child.stdout.take() {
        Some(out) => BufReader::new(out).lines().next(),
        None => None,
    };
    if matches!(said, Some(Ok(line)) if line == app::READY) {
        return Ok(ExitStatus::Done);
    }
    // It ended, and has said why on our terminal.
    let status = child.wait()?;
    match status.code() {
        Some(2) => Ok(ExitStatus::Usage),
        Some(0 | 1 | 3) => Ok(ExitStatus::Failed),
        _ => Err(Failure::failed(format!("the daemon ended with {status}"))),
    }
}

/// The log of a mount in the background that names none: with the mount's records.
fn default_log(mountpoint: &Path) -> std::io::Result<PathBuf> {
    /// A log that has grown this large is started anew.
    const LARGE: u64 = 10 << 20;
    let id = blake3::hash(mountpoint.as_os_str().as_encoded_bytes()).to_hex();
    let file = registry::runtime_dir()?.join(format!("{}.log", &id[..16]));
    if file.metadata().is_ok_and(|m| m.len() > LARGE) {
        std::fs::rename(&file, file.with_extension("log.old"))?;
    }
    Ok(file)
}

/// Unmounts, each within the time given.
pub fn unmount(args: &UnmountArgs, err: &mut dyn Write) -> Result<ExitStatus, Failure> {
    let (mut done, mut failed) = (0, 0);
    for mountpoint in &args.mountpoints {
        match unmount_one(mountpoint, args.timeout.get()) {
            Ok(()) => done += 1,
            Err(message) => {
                writeln!(err, "svol: {message}")?;
                failed += 1;
            }
        }
    }
    Ok(ExitStatus::of_several(done, failed))
}

fn unmount_one(path: &Path, timeout: Duration) -> Result<(), String> {
    let at = path.display();
    let mountpoint = real_mountpoint(path).map_err(|e| format!("{at}: {e}"))?;
    if !mount::is_ours(&mountpoint).map_err(|e| e.to_string())? {
        return Err(format!("{at}: no volume of ours is mounted there"));
    }
    let record = registry::find(&mountpoint)
        .map_err(|e| e.to_string())?
        .filter(|r| r.mountpoint == mountpoint);
    mount::unmount(&mountpoint, false).map_err(|e| {
        if e.raw_os_error() == Some(rustix::io::Errno::BUSY.raw_os_error()) {
            format!("{at}: in use; end what uses it (fuser -vm {at}), or run `umount -l {at}`")
        } else {
            format!("{at}: {e}")
        }
    })?;
    // The daemon still writes its index; whoever mounts again at once shall not meet it.
    let started = Instant::now();
    while record.as_ref().is_some_and(|r| r.is_alive()) {
        if started.elapsed() > timeout {
            let pid = record.as_ref().map_or(0, |r| r.pid);
            return Err(format!(
                "{at}: unmounted, but its daemon is still busy ending, or serves a container that \
                 has its own copy of the mount; `kill {pid}` ends it there too"
            ));
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    Ok(())
}

/// Resolves a mount point without touching it: it may be dead.
pub(super) fn real_mountpoint(path: &Path) -> std::io::Result<PathBuf> {
    let absolute = std::path::absolute(path)?;
    match (absolute.parent(), absolute.file_name()) {
        (Some(parent), Some(name)) => Ok(parent.canonicalize()?.join(name)),
        _ => Ok(absolute),
    }
}
