//! What a worker leaves to the next about the volume: the document that is served, and what was
//! retired with the last one. Secrets are in it by reference only; a document that holds one itself
//! (an original's, or one with a signed URL) is not left, and the next worker reads its file.

use serde::{Deserialize, Serialize};
use serde_json::Value;
use url::Url;

use super::compare::named;
use super::{Known, Resolve};
use crate::cli::MountSettings;
use crate::config::{ConfigError, Layer, Volume};

/// See the module.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Bequest {
    known: Known,
    /// Tells whether the file is another where the document is not left.
    #[serde(default)]
    digest: String,
    #[serde(default)]
    volume: Option<Volume>,
    #[serde(default)]
    layers: Vec<Layer>,
    #[serde(default)]
    retired: Vec<Layer>,
}

/// Returns what differs where two documents do, but for secrets in them.
fn digest(volume: &Volume) -> String {
    blake3::hash(format!("{volume:?}").as_bytes()).to_string()
}

/// Returns whether what was declared may be written to a file. Plain secrets cannot be written at all;
/// the query of a URL may be one.
fn is_without_secrets(declared: &impl Serialize) -> bool {
    fn has_none(value: &Value) -> bool {
        match value {
            Value::String(text) => Url::parse(text).map_or(true, |url| {
                url.query().is_none() && url.password().is_none()
            }),
            Value::Array(values) => values.iter().all(has_none),
            Value::Object(fields) => fields.values().all(has_none),
            _ => true,
        }
    }
    serde_json::to_value(declared).is_ok_and(|value| has_none(&value))
}

/// What a worker serves, and how it came to that.
#[derive(Debug, Clone)]
pub struct Legacy {
    /// The settings to serve by.
    pub settings: MountSettings,
    /// Layers of the document before, for files of theirs that are open. Some may be layers still.
    pub retired: Vec<Layer>,
    /// Whether the document is another than the worker before served.
    pub is_new: bool,
    pub(super) known: Known,
}

impl Bequest {
    /// Returns what to leave of what is served.
    pub(super) fn of(legacy: &Legacy, known: Known) -> Bequest {
        let volume = &legacy.settings.view.volume;
        let writable = |layer: &Layer| is_without_secrets(layer);
        Bequest {
            known,
            digest: digest(volume),
            volume: is_without_secrets(volume).then(|| volume.clone()),
            layers: named(volume).into_iter().filter(writable).collect(),
            retired: { legacy.retired.iter() }
                .filter(|layer| writable(layer))
                .cloned()
                .collect(),
        }
    }
}

impl Legacy {
    /// Returns what to serve where no worker was before.
    pub fn first(settings: MountSettings) -> Legacy {
        Legacy {
            settings,
            retired: Vec::new(),
            is_new: false,
            known: Known::default(),
        }
    }

    /// Returns what to serve after a worker that left `text`: the volume file as it is now, where it
    /// can be taken up, else what was served before.
    pub fn after(text: Option<&str>, resolve: &Resolve) -> Result<Legacy, ConfigError> {
        let left: Option<Bequest> = text.and_then(|text| match serde_json::from_str(text) {
            Ok(left) => Some(left),
            Err(error) => {
                tracing::warn!(%error, "what the process before left is not understood");
                None
            }
        });
        let read = resolve(None);
        let Some(left) = left else {
            return read.map(Legacy::first);
        };
        let before = left
            .volume
            .map(|volume| resolve(Some(volume)))
            .transpose()?;
        let known = left.known;
        let (new, before) = match (read, before) {
            (Ok(new), Some(before)) => (new, before),
            (Ok(new), None) if digest(&new.view.volume) == left.digest => {
                return Ok(Legacy::as_before(new, left.retired, known));
            }
            (Ok(new), None) => {
                return Ok(Legacy {
                    settings: new,
                    retired: left.layers,
                    is_new: true,
                    known: known.reloaded(Vec::new()),
                });
            }
            (Err(_), Some(before)) => {
                return Ok(Legacy::as_before(before, left.retired, known));
            }
            (Err(error), None) => return Err(error),
        };
        if new == before || !super::compare::fixed(&before, &new).is_empty() {
            return Ok(Legacy::as_before(before, left.retired, known));
        }
        let changes = super::compare::changes(&before.view.volume, &new.view.volume);
        Ok(Legacy {
            settings: new,
            retired: left.layers,
            is_new: true,
            known: known.reloaded(changes),
        })
    }

    fn as_before(settings: MountSettings, retired: Vec<Layer>, known: Known) -> Legacy {
        Legacy {
            settings,
            retired,
            is_new: false,
            known,
        }
    }

    /// Returns the generation of the volume file that is served.
    pub fn generation(&self) -> u64 {
        self.known.generation
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;
    use std::sync::Arc;

    use clap::Parser;

    use super::*;
    use crate::cli::{Cli, Command, Env, resolve_mount_of};

    /// Reads the settings of a mount of the volume file `file`.
    fn resolve(file: &Path) -> Resolve {
        let line = ["svol", "mount", "-c", file.to_str().unwrap(), "/mnt/v"];
        let cli = Cli::try_parse_from(line).unwrap();
        Arc::new(move |volume| {
            let Command::Mount(args) = &cli.command else {
                panic!("another command")
            };
            let env = Env {
                directory: "/".into(),
                root: true,
                ..Env::default()
            };
            resolve_mount_of(args, &cli.log, &env, volume)
        })
    }

    fn write(file: &Path, layers: &str) {
        let head = "apiVersion: sharedvolume.io/v1\nkind: Volume\nmetadata: {name: v}\nspec:\n";
        std::fs::write(file, format!("{head}  layers: [{layers}]\n")).unwrap();
    }

    fn left(legacy: &Legacy) -> String {
        serde_json::to_string(&Bequest::of(legacy, legacy.known.clone())).unwrap()
    }

    #[test]
    fn what_is_left_is_served_or_followed_by_a_good_file() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("v.yaml");
        let resolve = resolve(&file);
        write(
            &file,
            "{name: a, local: {path: a}}, {name: b, local: {path: b}}",
        );
        let first = Legacy::after(None, &resolve).unwrap();
        assert!((first.generation(), first.is_new) == (1, false));
        // Another worker, the same file.
        let same = Legacy::after(Some(&left(&first)), &resolve).unwrap();
        assert!(same.settings == first.settings && !same.is_new && same.retired.is_empty());
        // Another file.
        write(&file, "{name: a, local: {path: a}}");
        let second = Legacy::after(Some(&left(&same)), &resolve).unwrap();
        assert!(second.is_new);
        assert_eq!(second.generation(), 2);
        assert_eq!(second.known.changes, ["layer b is gone"]);
        assert_eq!(second.retired.len(), 2);
        // A bad one, or one for a new mount: as before, retired layers too.
        for bad in ["{name: a}", "{local: {path: a}}], mount: {uid: 7"] {
            write(&file, bad);
            let third = Legacy::after(Some(&left(&second)), &resolve).unwrap();
            assert!(third.settings == second.settings, "{bad}");
            assert_eq!((third.generation(), third.retired.len()), (2, 2));
        }
        // A secret of the document's own is not left.
        write(&file, "{name: a, http: {url: 'https://h/f?signed=word'}}");
        let signed = Legacy::after(None, &resolve).unwrap();
        assert!(!left(&signed).contains("word"));
        assert!(Legacy::after(Some(&left(&signed)), &resolve).is_ok());
        // What is not understood counts as nothing.
        write(&file, "{name: a, local: {path: a}}");
        assert_eq!(Legacy::after(Some("{"), &resolve).unwrap().generation(), 1);
        std::fs::remove_file(&file).unwrap();
        assert!(Legacy::after(None, &resolve).is_err());
    }
}
