//! The commands that only read files: `svol validate` and `svol schema`.

use std::io::{self, Write};

use super::args::ValidateArgs;
use super::exit::ExitStatus;
use crate::config::Volume;

/// Checks each file: `FILE: ok` to `out`, or what is wrong with it to `err`. Usage if any is
/// wrong. Fails where `out` or `err` cannot be written.
pub fn validate(
    args: &ValidateArgs,
    out: &mut dyn Write,
    err: &mut dyn Write,
) -> io::Result<ExitStatus> {
    let mut status = ExitStatus::Done;
    for file in &args.files {
        match Volume::load(file) {
            Ok(_) => writeln!(out, "{}: ok", file.display())?,
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
