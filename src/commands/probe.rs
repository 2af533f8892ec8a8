//! `svol probe`: whether a mount serves, asked as its readers ask.

use std::fs::File;
use std::io::Write;
use std::path::Path;
use std::process::Stdio;
use std::time::{Duration, Instant};

use rustix::fs::FlockOperation;

use super::{Failure, runtime};
use crate::cli::ExitStatus;
use crate::cli::args::ProbeArgs;
use crate::control::client;
use crate::control::health::Readiness;
use crate::control::registry;
use crate::fuse::probe::{Prober, within};

/// How long it sleeps between tries to have its turn.
const TURN: Duration = Duration::from_millis(20);

/// Asks each mount, and says what it answers.
pub fn probe(
    args: &ProbeArgs,
    out: &mut dyn Write,
    err: &mut dyn Write,
) -> Result<ExitStatus, Failure> {
    let mut status = ExitStatus::Done;
    for mountpoint in &args.mountpoints {
        let at = mountpoint.display();
        match ask(mountpoint, args) {
            Ok(took) => writeln!(out, "{at}: serves ({:.1} ms)", took.as_secs_f64() * 1e3)?,
            Err(why) => {
                writeln!(err, "svol: {at}: {why}")?;
                status = ExitStatus::Failed;
            }
        }
    }
    Ok(status)
}

fn ask(path: &Path, args: &ProbeArgs) -> Result<Duration, String> {
    let began = Instant::now();
    let limit = args.timeout.get();
    let mountpoint = super::mount::real_mountpoint(path).map_err(|e| e.to_string())?;
    let mut prober = Prober::new(&mountpoint);
    let mut turn = None;
    let took = within(limit, |anew| {
        if turn.is_none() {
            turn = Some(wait_for_turn(
                &mountpoint,
                limit.saturating_sub(began.elapsed()),
            )?);
        }
        // Whoever asks holds the turn for as long as it lives, be it that it cannot be killed.
        let held = turn.as_ref().map(File::try_clone).transpose()?;
        prober.step(anew, limit, held.map_or_else(Stdio::null, Stdio::from))
    });
    prober.give_up();
    let took = took?;
    if args.ready {
        ask_ready(&mountpoint, limit.saturating_sub(began.elapsed()))?;
    }
    Ok(took)
}

/// Takes the turn to ask a mount. One who asks a wedged mount may never end, and probes come again
/// and again: there is never a second one.
fn wait_for_turn(mountpoint: &Path, limit: Duration) -> std::io::Result<File> {
    let id = blake3::hash(mountpoint.as_os_str().as_encoded_bytes()).to_hex();
    let file = registry::runtime_dir()?.join(format!("{}.probe", &id[..16]));
    let file = File::options()
        .create(true)
        .truncate(false)
        .write(true)
        .open(file)?;
    let began = Instant::now();
    loop {
        match rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => return Ok(file),
            Err(rustix::io::Errno::WOULDBLOCK) if began.elapsed() < limit => {
                std::thread::sleep(TURN);
            }
            Err(rustix::io::Errno::WOULDBLOCK) => {
                return Err(std::io::Error::other("an earlier probe still waits for it"));
            }
            Err(error) => return Err(error.into()),
        }
    }
}

fn ask_ready(mountpoint: &Path, limit: Duration) -> Result<(), String> {
    let record = registry::list()
        .map_err(|e| e.to_string())?
        .into_iter()
        .find(|record| record.mountpoint == mountpoint)
        .ok_or("served, but not by a daemon of this user")?;
    let runtime = runtime().map_err(|e| e.message)?;
    let asked = client::ask::<Readiness>(&record.socket, false, "/readyz", &[], limit);
    match runtime.block_on(asked) {
        Ok(_) => Ok(()),
        Err(client::Error::Refused(said)) => Err(reasons(&said)),
        Err(error) => Err(error.to_string()),
    }
}

/// Returns what `/readyz` said, for people.
fn reasons(said: &str) -> String {
    let Ok(readiness) = serde_json::from_str::<Readiness>(said) else {
        return said.to_owned();
    };
    let reasons = readiness.reasons.iter().map(|reason| {
        let layer = reason.layer.as_deref().unwrap_or("the mount");
        format!("{layer} ({}): {}", reason.reason, reason.message)
    });
    format!("not ready: {}", reasons.collect::<Vec<_>>().join("; "))
}
