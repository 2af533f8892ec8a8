//! Asks a mount, through the kernel, whether it still serves.
//!
//! Whoever asks a wedged mount may never come back, not even when killed: once the daemon has taken a
//! request and does not answer, its caller waits until the mount ends. Were that caller a thread of
//! the daemon, the daemon could not end either, and with it the mount. So a process of its own asks,
//! which holds nothing that anybody needs, is killed when its time is up, and is not waited for. It
//! is a child of the mounter, or of `svol probe`.

use std::io;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use rustix::fs::{AtFlags, CWD, StatxFlags};
use serde::{Deserialize, Serialize};

use super::mount;
use crate::vfs::ROOT;

/// Set for the process that asks.
const ROLE: &str = "SVOL_PROBE";

/// How it ends where no mount of ours is. Any other number but 0 is an error's.
const NOT_MOUNTED: i32 = 254;

/// How long it sleeps between looks at whether the asking process has ended: a wait of a few
/// milliseconds is what starting one takes anyway.
const LOOK: Duration = Duration::from_millis(5);

/// What is known of a mount.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Answer {
    /// It was asked, and has not answered yet.
    Waiting,
    /// It answers.
    Serves,
    /// It does not serve, for this reason.
    Fails(String),
}

/// Asks one mount, one question at a time.
#[derive(Debug)]
pub struct Prober {
    mountpoint: PathBuf,
    asking: Option<Asking>,
}

/// A process that asks.
#[derive(Debug)]
struct Asking {
    child: Child,
    since: Instant,
    is_killed: bool,
}

impl Prober {
    /// Returns one for the mount at `mountpoint`, which is absolute.
    pub fn new(mountpoint: &Path) -> Prober {
        Prober {
            mountpoint: mountpoint.to_owned(),
            asking: None,
        }
    }

    /// Asks the mount unless it was asked already and has not answered. With `anew`, an answer to an
    /// earlier question is thrown away.
    pub fn step(&mut self, anew: bool, limit: Duration, stdin: Stdio) -> io::Result<Answer> {
        if let Some(mut asking) = self.asking.take() {
            match asking.child.try_wait()? {
                Some(status) if !anew && !asking.is_killed => return Ok(answer(status)),
                Some(_) => {}
                None => {
                    if asking.since.elapsed() > limit {
                        let _ = asking.child.kill();
                        asking.is_killed = true;
                    }
                    self.asking = Some(asking);
                    return Ok(Answer::Waiting);
                }
            }
        }
        // By this name it is found even where another file has taken the program's place.
        let child = Command::new("/proc/self/exe")
            .arg0("svol-probe")
            .arg(&self.mountpoint)
            .env_clear()
            .env(ROLE, "1")
            .current_dir("/")
            .stdin(stdin)
            // Nobody who waits for the end of our output shall wait for its end.
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()?;
        self.asking = Some(Asking {
            child,
            since: Instant::now(),
            is_killed: false,
        });
        Ok(Answer::Waiting)
    }

    /// Returns the number of the process that asks, dead or alive, until its answer was taken.
    pub fn pid(&self) -> Option<u32> {
        self.asking.as_ref().map(|asking| asking.child.id())
    }

    /// Ends what still asks, without waiting for its end.
    pub fn give_up(&mut self) {
        if let Some(asking) = &mut self.asking {
            let _ = asking.child.kill();
        }
    }
}

/// Repeats `step` until it has an answer or `limit` is over.
pub fn within(
    limit: Duration,
    mut step: impl FnMut(bool) -> io::Result<Answer>,
) -> Result<Duration, String> {
    let began = Instant::now();
    let mut anew = true;
    while began.elapsed() < limit {
        match step(anew) {
            Ok(Answer::Waiting) => std::thread::sleep(LOOK),
            Ok(Answer::Serves) => return Ok(began.elapsed()),
            Ok(Answer::Fails(why)) => return Err(why),
            Err(error) => return Err(format!("the mount could not be asked: {error}")),
        }
        anew = false;
    }
    Err(format!("the mount did not answer within {limit:?}"))
}

fn answer(status: ExitStatus) -> Answer {
    match (status.code(), status.signal()) {
        (Some(0), _) => Answer::Serves,
        (Some(NOT_MOUNTED), _) => Answer::Fails("no volume is mounted there".into()),
        (Some(errno), _) => Answer::Fails(io::Error::from_raw_os_error(errno).to_string()),
        (None, signal) => Answer::Fails(format!(
            "the process that asks was ended by signal {}",
            signal.unwrap_or(0)
        )),
    }
}

/// Returns whether this process was started to ask.
pub fn is_asked_for() -> bool {
    std::env::var_os(ROLE).is_some()
}

/// Asks the mount that the first argument names, and returns the number to end with.
pub fn run() -> i32 {
    let Some(mountpoint) = std::env::args_os().nth(1) else {
        return NOT_MOUNTED;
    };
    match ask(Path::new(&mountpoint)) {
        Ok(true) => 0,
        Ok(false) => NOT_MOUNTED,
        Err(error) => error
            .raw_os_error()
            .unwrap_or(rustix::io::Errno::IO.raw_os_error()),
    }
}

/// Returns whether our filesystem answers at `mountpoint`; waits for ever where it does not.
fn ask(mountpoint: &Path) -> io::Result<bool> {
    if !mount::is_ours(mountpoint)? {
        return Ok(false);
    }
    // What the kernel remembers of the root would be no answer: the daemon is asked each time.
    let flags = AtFlags::STATX_FORCE_SYNC | AtFlags::SYMLINK_NOFOLLOW | AtFlags::NO_AUTOMOUNT;
    let root = rustix::fs::statx(CWD, mountpoint, flags, StatxFlags::BASIC_STATS)?;
    // Something else may be mounted on top of it.
    Ok(root.stx_ino == ROOT)
}
