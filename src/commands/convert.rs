//! `svol convert`: documents of the original to volume files.

use std::collections::HashSet;
use std::io::Write;
use std::path::{Path, PathBuf};

use super::Failure;
use crate::cli::args::ConvertArgs;
use crate::cli::{Env, ExitStatus, resolve_secrets_dir};
use crate::config::load::{read_text, text_of};
use crate::config::original::{self, Converted, Inline, Secrets};
use crate::config::{ConfigError, NoteKind, Problem};

/// Converts the volumes of a file: YAML to `out` or to files, remarks to `err`. In part if a field
/// has no equivalent. Where anything is wrong nothing is written.
pub fn convert(
    args: &ConvertArgs,
    out: &mut dyn Write,
    err: &mut dyn Write,
) -> Result<ExitStatus, Failure> {
    let env = Env::of_process()?;
    let secrets = resolve_secrets_dir(&args.secrets_dir, &env)?;
    let (shown, text) = match args.file.as_os_str().as_encoded_bytes() {
        b"-" => {
            let shown = Path::new("(standard input)");
            (shown, text_of(std::io::stdin().lock(), shown)?)
        }
        _ => (args.file.as_path(), read_text(&args.file, &args.file)?),
    };
    let documents = original::parse(&text, shown)?.ok_or_else(|| {
        Failure::usage(format!(
            "{}: holds no SharedVolume and no ClusterSharedVolume",
            shown.display()
        ))
    })?;
    let there = |file: &Path| file.exists();
    let secrets = Secrets {
        dir: &secrets,
        there: &there,
        inline: Inline::Refer,
    };
    let mut volumes = Vec::new();
    let mut wrong: Vec<Problem> = Vec::new();
    for document in documents.volumes {
        match document.convert(shown, &secrets) {
            Ok(converted) => volumes.push(converted),
            Err(error) => wrong.extend(error.problems().iter().cloned()),
        }
    }
    if let Err(error) = ConfigError::unless_empty(wrong) {
        writeln!(err, "{error}")?;
        return Ok(ExitStatus::Usage);
    }

    write(args.output.as_deref(), &volumes, out)?;
    if documents.others > 0 {
        writeln!(
            err,
            "{}: objects of other kinds are left out: {}",
            shown.display(),
            documents.others
        )?;
    }
    let mut status = ExitStatus::Done;
    for note in volumes.iter().flat_map(|volume| &volume.notes) {
        writeln!(err, "{note}")?;
        if note.kind == NoteKind::NoEquivalent {
            status = ExitStatus::Partial;
        }
    }
    Ok(status)
}

fn write(output: Option<&Path>, volumes: &[Converted], out: &mut dyn Write) -> Result<(), Failure> {
    let texts = volumes
        .iter()
        .map(|volume| original::write(volume).map_err(Failure::failed))
        .collect::<Result<Vec<String>, Failure>>()?;
    let Some(output) = output else {
        for (at, text) in texts.iter().enumerate() {
            // Each is a file of its own to be; like this they can be told apart.
            let separator = if at == 0 { "" } else { "---\n" };
            write!(out, "{separator}{text}")?;
        }
        return Ok(());
    };
    let several = volumes.len() > 1 || output.as_os_str().as_encoded_bytes().ends_with(b"/");
    if !several && !output.is_dir() {
        return texts.iter().try_for_each(|text| create(output, text));
    }
    std::fs::create_dir_all(output)
        .map_err(|e| Failure::failed(format!("{}: {e}", output.display())))?;
    let mut taken = HashSet::new();
    let mut files: Vec<(PathBuf, &String)> = Vec::new();
    for (volume, text) in volumes.iter().zip(&texts) {
        let name = volume.file_names().find(|name| taken.insert(name.clone()));
        let name = name.ok_or_else(|| {
            Failure::usage(format!(
                "two volumes {}; convert each alone",
                volume.volume.metadata.name
            ))
        })?;
        files.push((output.join(name), text));
    }
    files.iter().try_for_each(|(file, text)| create(file, text))
}

/// Writes a new file.
fn create(file: &Path, text: &str) -> Result<(), Failure> {
    std::fs::File::create_new(file)
        .and_then(|mut file| file.write_all(text.as_bytes()))
        .map_err(|error| match error.kind() {
            std::io::ErrorKind::AlreadyExists => Failure::failed(format!(
                "{}: is there already, and is not overwritten",
                file.display()
            )),
            _ => Failure::failed(format!("{}: {error}", file.display())),
        })
}
