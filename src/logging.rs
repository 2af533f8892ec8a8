//! Sets up the log: `tracing` to the standard error or to a file, as text or as JSON.
//!
//! A log file is readable by its owner only, since it names files and servers, and appended to.

use std::fs::OpenOptions;
use std::io::{self, IsTerminal};
use std::os::unix::fs::OpenOptionsExt;
use std::path::PathBuf;
use std::sync::Arc;

use tracing_subscriber::fmt::writer::BoxMakeWriter;
use tracing_subscriber::{EnvFilter, fmt};

use crate::cli::printable::Lines;
use crate::cli::{LogFormat, LogSettings};

/// Says why the log could not be set up.
#[derive(Debug, thiserror::Error)]
pub enum LogError {
    /// The file could not be opened.
    #[error("cannot open the log file {}: {cause}", path.display())]
    File {
        /// The log file.
        path: PathBuf,
        /// What the system says.
        cause: io::Error,
    },
    /// The filter does not parse.
    #[error("the log filter is wrong: {0}")]
    Filter(#[from] tracing_subscriber::filter::ParseError),
    /// A log was set up before.
    #[error("the log is already set up")]
    Twice,
}

/// Sets the process's log up, once, for all threads.
pub fn init(settings: &LogSettings) -> Result<(), LogError> {
    let subscriber = subscriber(settings)?;
    tracing::subscriber::set_global_default(subscriber).map_err(|_| LogError::Twice)
}

/// Returns what [`init`] installs.
fn subscriber(
    settings: &LogSettings,
) -> Result<Box<dyn tracing::Subscriber + Send + Sync>, LogError> {
    let filter = EnvFilter::try_new(&settings.filter)?;
    let (writer, ansi) = match &settings.file {
        Some(path) => {
            let file = OpenOptions::new()
                .create(true)
                .append(true)
                .mode(0o600)
                .open(path)
                .map_err(|cause| LogError::File {
                    path: path.clone(),
                    cause,
                })?;
            let file = Arc::new(file);
            // Names come from servers, and a log is read on a terminal.
            (BoxMakeWriter::new(move || Lines(file.clone())), false)
        }
        None => {
            let colours = std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
            match colours && io::stderr().is_terminal() {
                // Colours are what a terminal is to obey.
                true => (BoxMakeWriter::new(io::stderr), true),
                false => (BoxMakeWriter::new(|| Lines(io::stderr())), false),
            }
        }
    };
    let builder = fmt()
        .with_env_filter(filter)
        .with_ansi(ansi)
        .with_writer(writer);
    Ok(match settings.format {
        LogFormat::Text => Box::new(builder.finish()),
        LogFormat::Json => Box::new(builder.json().flatten_event(true).finish()),
    })
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    fn settings(file: Option<PathBuf>, format: LogFormat) -> LogSettings {
        LogSettings {
            filter: "info".into(),
            file,
            format,
        }
    }

    #[test]
    fn a_log_file_is_private_and_appended_to() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("log");
        for format in [LogFormat::Text, LogFormat::Json] {
            let subscriber = subscriber(&settings(Some(path.clone()), format)).unwrap();
            tracing::subscriber::with_default(subscriber, || {
                tracing::debug!("hidden");
                tracing::info!(layer = "s3-0", "shown");
            });
        }
        let text = std::fs::read_to_string(&path).unwrap();
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines.len(), 2, "{text}");
        assert!(
            lines[0].contains("shown") && !text.contains('\x1b'),
            "{text}"
        );
        let json: serde_json::Value = serde_json::from_str(lines[1]).unwrap();
        assert_eq!(
            (&json["message"], &json["layer"]),
            (&"shown".into(), &"s3-0".into())
        );
        let mode = std::fs::metadata(&path).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
    }

    #[test]
    fn what_cannot_be_opened_is_named() {
        let missing = settings(Some("/nonexistent/dir/log".into()), LogFormat::Text);
        let Err(error) = subscriber(&missing) else {
            panic!("opened")
        };
        assert!(error.to_string().contains("/nonexistent/dir/log"));
    }
}
