//! The commands that only read files: `svol validate` and `svol schema`.

use std::io::{self, Write};

use super::args::ValidateArgs;
use super::env::Env;
use super::exit::ExitStatus;
use super::resolve::resolve_secrets_dir;
use crate::config::{Loaded, Volume};

/// Checks each file: `FILE: ok` to `out`, or what is wrong with it to `err`. Usage if any is
/// wrong. Fails where `out` or `err` cannot be written.
pub fn validate(
    args: &ValidateArgs,
    env: &Env,
    out: &mut dyn Write,
    err: &mut dyn Write,
) -> io::Result<ExitStatus> {
    let mut status = ExitStatus::Done;
    let secrets = match resolve_secrets_dir(&args.secrets_dir, env) {
        Ok(secrets) => secrets,
        Err(error) => {
            writeln!(err, "{error}")?;
            return Ok(ExitStatus::Usage);
        }
    };
    for file in &args.files {
        match Loaded::read(&env.directory.join(file), file, &secrets) {
            Ok(loaded) => {
                for note in loaded.notes {
                    writeln!(err, "{note}")?;
                }
                writeln!(out, "{}: ok", file.display())?;
            }
            Err(error) => {
                writeln!(err, "{error}")?;
                status = ExitStatus::Usage;
            }
        }
    }
    Ok(status)
}

/// Prints the JSON Schema of the volume file. Fails where `out` cannot be written.
pub fn schema(out: &mut dyn Write) -> io::Result<ExitStatus> {
    serde_json::to_writer_pretty(&mut *out, &Volume::json_schema_document())?;
    writeln!(out)?;
    Ok(ExitStatus::Done)
}
