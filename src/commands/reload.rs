//! `svol reload`.

use std::io::Write;
use std::path::Path;
use std::time::{Duration, Instant};

use tokio::runtime::Runtime;

use super::mount::real_mountpoint;
use super::{Failure, runtime};
use crate::app::reload::Answer;
use crate::cli::ExitStatus;
use crate::cli::args::ReloadArgs;
use crate::control::client::{self, PATIENT, PROMPT};
use crate::control::registry::{self, Record};
use crate::control::status::Mount;

/// How long the next process may take to serve, or to be given up.
const PATIENCE: Duration = Duration::from_secs(120);

/// Between questions whether it does.
const LOOK: Duration = Duration::from_millis(50);

/// Has mounts look at their volume files, and says what came of it.
pub fn reload(
    args: &ReloadArgs,
    out: &mut dyn Write,
    err: &mut dyn Write,
) -> Result<ExitStatus, Failure> {
    let runtime = runtime()?;
    let (mut done, mut failed) = (0, 0);
    for mountpoint in &args.mountpoints {
        let at = mountpoint.display();
        match one(mountpoint, &runtime) {
            Ok(said) => {
                writeln!(out, "{at}: {said}")?;
                done += 1;
            }
            Err(why) => {
                writeln!(err, "svol: {at}: {why}")?;
                failed += 1;
            }
        }
    }
    Ok(ExitStatus::of_several(done, failed))
}

fn one(path: &Path, runtime: &Runtime) -> Result<String, String> {
    let mountpoint = real_mountpoint(path).map_err(|e| e.to_string())?;
    let record = registry::find(&mountpoint).map_err(|e| e.to_string())?;
    let record = record.filter(|r| r.mountpoint == mountpoint);
    let record = record.ok_or("no volume is mounted there")?;
    let before = patiently(&record, runtime).map_err(|e| e.to_string())?;
    let asked = client::ask::<Answer>(&record.socket, true, "/reload", &[], PATIENT);
    let answer = match runtime.block_on(asked) {
        Ok(answer) => answer,
        // The process that was asked may have made way already.
        Err(client::Error::Silent { .. }) => Answer {
            result: "replacing".into(),
            generation: before.generation + 1,
            message: String::new(),
        },
        Err(error) => return Err(error.to_string()),
    };
    match answer.result.as_str() {
        "unchanged" => Ok("the volume file is what is served".into()),
        "replacing" => taken_up(&record, &before, &answer, runtime),
        _ => Err(refused(&answer.message)),
    }
}

/// Waits for the next process, or for why there is none.
fn taken_up(
    record: &Record,
    before: &Mount,
    answer: &Answer,
    runtime: &Runtime,
) -> Result<String, String> {
    let began = Instant::now();
    while began.elapsed() < PATIENCE {
        if let Ok(mount) = state(record, runtime) {
            if mount.generation >= answer.generation || mount.pid != before.pid {
                let what = mount.reloads.changes.join(", ");
                return Ok(format!("generation {} serves: {what}", mount.generation));
            }
            let rejection = mount.conditions.iter().find(|c| c.status == "False");
            if let Some(rejection) = rejection
                && mount.reloads.rejected > before.reloads.rejected
            {
                return Err(refused(&rejection.message));
            }
        }
        std::thread::sleep(LOOK);
    }
    Err(format!(
        "nothing came of it within {PATIENCE:?}; see `svol status`"
    ))
}

fn refused(why: &str) -> String {
    format!("not taken up, it serves as before: {why}")
}

/// As [`state`]; while one process takes over from another, nobody answers for a moment.
fn patiently(record: &Record, runtime: &Runtime) -> Result<Mount, client::Error> {
    let began = Instant::now();
    loop {
        match state(record, runtime) {
            Err(_) if began.elapsed() < PROMPT => std::thread::sleep(LOOK),
            answer => return answer,
        }
    }
}

fn state(record: &Record, runtime: &Runtime) -> Result<Mount, client::Error> {
    let asked = client::ask::<Mount>(&record.socket, false, "/status", &[], PROMPT);
    runtime.block_on(asked)
}
