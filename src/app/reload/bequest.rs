//! What a worker leaves to the next about the volume: the document that is served, and what was
//! retired with the last one. Secrets are in it by reference only; a document that holds one itself
//! (an original's) is not left, and the next worker reads its file.

use serde::{Deserialize, Serialize};

use super::compare::named;
use super::{Known, Resolve};
use crate::cli::MountSettings;
use crate::config::{ConfigError, Layer, Volume};

/// See the module.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Bequest {
    known: Known,
    #[serde(default)]
    volume: Option<Volume>,
    #[serde(default)]
    layers: Vec<Layer>,
    #[serde(default)]
    retired: Vec<Layer>,
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
        let writable = |layer: &Layer| serde_json::to_value(layer).is_ok();
        Bequest {
            known,
            volume: serde_json::to_value(volume).is_ok().then(|| volume.clone()),
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
            // Nothing to compare it with; and after a crash, nothing else to serve.
            (Ok(new), None) => {
                return Ok(Legacy {
                    settings: new,
                    retired: left.layers,
                    is_new: false,
                    known,
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
        Ok(Legacy {
            settings: new,
            retired: left.layers,
            is_new: true,
            known: known.reloaded(),
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
