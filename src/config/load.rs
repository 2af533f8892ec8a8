//! Reads a file that declares a volume: our own kind, or a document of the original.

use std::io::Read;
use std::path::Path;

use super::error::ConfigError;
use super::node::MAX_FILE;
use super::note::Note;
use super::original::{self, Inline, Secrets};
use super::validate::whole;
use super::volume::Volume;

/// Where mounted Secrets are looked for where nobody says: each Secret a directory of it, below
/// one of its namespace or not.
pub const DEFAULT_SECRETS_DIR: &str = "/run/secrets/svol";

/// A volume, and what there is to say of the file that it came from.
#[derive(Debug, Clone, PartialEq)]
pub struct Loaded {
    /// The volume. Its file names are absolute.
    pub volume: Volume,
    /// Remarks, where the file was a document of the original.
    pub notes: Vec<Note>,
}

impl Loaded {
    /// Reads and checks the volume file at `path`, which is absolute; messages call it `shown`.
    /// File names in it are relative to its directory. A document of the original finds its
    /// Secrets in `secrets`. Blocks on the disk.
    pub fn read(path: &Path, shown: &Path, secrets: &Path) -> Result<Self, ConfigError> {
        let text = read_text(path, shown)?;
        let mut loaded = match original::parse(&text, shown)? {
            None => Self {
                volume: Volume::parse(&text, shown)?,
                notes: Vec::new(),
            },
            Some(documents) => {
                let there = |file: &Path| file.exists();
                let secrets = Secrets {
                    dir: secrets,
                    there: &there,
                    inline: Inline::Keep,
                };
                let one = documents.into_only(shown)?.convert(shown, &secrets)?;
                Self {
                    volume: one.volume,
                    notes: one.notes,
                }
            }
        };
        let base = path.parent().unwrap_or(Path::new("/"));
        loaded.volume.resolve_paths(base);
        Ok(loaded)
    }
}

/// Returns the text of the file at `path`, which messages call `shown`.
pub(crate) fn read_text(path: &Path, shown: &Path) -> Result<String, ConfigError> {
    let file = std::fs::File::open(path)
        .map_err(|error| whole(shown, format!("cannot read the volume file: {error}")))?;
    text_of(file, shown)
}

/// Returns the text that `input` holds, which messages call `shown`.
pub(crate) fn text_of(input: impl Read, shown: &Path) -> Result<String, ConfigError> {
    let mut bytes = Vec::new();
    input
        .take(MAX_FILE as u64 + 1)
        .read_to_end(&mut bytes)
        .map_err(|error| whole(shown, format!("cannot read the volume file: {error}")))?;
    if bytes.len() > MAX_FILE {
        return Err(whole(shown, "too large for a volume file (1 MiB at most)"));
    }
    String::from_utf8(bytes)
        .map_err(|_| whole(shown, "not UTF-8 text; write the volume file in UTF-8"))
}
