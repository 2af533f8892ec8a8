//! `svol upgrade`.

use std::io::Write;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Command;

use super::Failure;
use super::mount::real_mountpoint;
use crate::cli::ExitStatus;
use crate::cli::args::UpgradeArgs;
use crate::control::registry;
use crate::holder;

/// Has this program, or the one that is named, serve mounts that another serves.
pub fn upgrade(
    args: &UpgradeArgs,
    out: &mut dyn Write,
    err: &mut dyn Write,
) -> Result<ExitStatus, Failure> {
    if let Some(binary) = &args.binary {
        // It asks by itself: a holder runs nothing that it is merely told the name of.
        return Err(become_it(binary, args));
    }
    let (mut done, mut failed) = (0, 0);
    for mountpoint in &args.mountpoints {
        match one(mountpoint) {
            Ok(said) => {
                writeln!(out, "{}: {said}", mountpoint.display())?;
                done += 1;
            }
            Err(why) => {
                writeln!(err, "svol: {}: {why}", mountpoint.display())?;
                failed += 1;
            }
        }
    }
    Ok(ExitStatus::of_several(done, failed))
}

/// Runs another program in place of this one; returns why it could not.
fn become_it(binary: &Path, args: &UpgradeArgs) -> Failure {
    let at = binary.display();
    let said = match Command::new(binary).arg("--version").output() {
        Ok(output) => output.stdout,
        Err(error) => return Failure::failed(format!("{at}: {error}")),
    };
    if !said.starts_with(b"svol ") {
        return Failure::failed(format!("{at}: it does not say that it is svol"));
    }
    let error = Command::new(binary)
        .arg("upgrade")
        .arg("--")
        .args(&args.mountpoints)
        .exec();
    Failure::failed(format!("{at}: {error}"))
}

fn one(path: &Path) -> Result<String, String> {
    let mountpoint = real_mountpoint(path).map_err(|e| e.to_string())?;
    let record = registry::find(&mountpoint).map_err(|e| e.to_string())?;
    let record = record.filter(|r| r.mountpoint == mountpoint);
    let record = record.ok_or("no volume is mounted there")?;
    let socket = record.upgrade_socket().ok_or(
        "it was mounted with --no-takeover, or by a release before it; unmount and mount anew",
    )?;
    let outcome = holder::upgrade(&socket).map_err(|e| e.to_string())?;
    match outcome.refused {
        Some(why) => Err(format!("not upgraded, it serves as before: {why}")),
        None => Ok(format!(
            "{} took over from {}, nobody served for {:.0} ms",
            outcome.to,
            outcome.from,
            outcome.stall_seconds * 1000.0
        )),
    }
}
