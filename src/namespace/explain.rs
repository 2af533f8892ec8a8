//! Where a path of the volume comes from, layer by layer, for people.

use serde::Serialize;

use super::Namespace;
use super::merge::{Fate, Part, View};
use crate::entry::{Entry, Kind};
use crate::path::RelPath;

/// What a layer has to do with a path.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(tag = "verdict", rename_all = "camelCase")]
pub enum Verdict {
    /// This layer's is what is shown; of a directory, a part of it.
    Shown,
    /// The layer has it, but a later one hides it.
    HiddenByLaterLayer {
        /// The later layer's name.
        by: String,
    },
    /// The layer has it, but its filter hides it or a directory above.
    HiddenByFilter,
    /// The layer has a symbolic link that may lead out of the volume.
    HiddenForLeadingOut,
    /// The layer has a file where another layer is grafted.
    HiddenByGraft,
    /// The path leads to where the layer is grafted.
    GraftPoint,
    /// The layer has nothing there.
    Absent,
    /// The layer cannot say.
    Failed {
        /// The kind of error, as in a condition.
        reason: String,
        /// What went wrong.
        message: String,
    },
}

/// One layer's view of a path.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct LayerView {
    /// The layer's name.
    pub layer: String,
    /// What becomes of what it has.
    #[serde(flatten)]
    pub verdict: Verdict,
    /// Where it is in the layer's source, without credentials; nothing if the path lies outside.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub url: Option<String>,
    /// The version of what it has.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub version: Option<String>,
    /// Its size in bytes, where the listing says.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub size: Option<u64>,
}

/// What a layer has at a path, by itself.
enum Own {
    Outside,
    Leads,
    Has(Entry, Fate),
    Root,
    Filtered,
    Absent,
    Failed(crate::source::Error),
}

impl Namespace {
    /// Returns what each layer has to do with `path`, in the order of layers.
    pub async fn explain(&self, path: &RelPath) -> Vec<LayerView> {
        let owns = (0..self.active).map(|layer| self.own(layer, path));
        let owns = futures::future::join_all(owns).await;
        let parts = self.parts(path).await;
        let winner = self.walk(path).await.unwrap_or_default();
        let is_dir = path.is_root()
            || winner
                .as_ref()
                .is_some_and(|found| found.entry.kind == Kind::Dir);
        let mut views = Vec::new();
        for (at, own) in owns.into_iter().enumerate() {
            let layer = &self.layers[at];
            let within = path.strip_prefix(&layer.graft);
            let shown = if is_dir {
                parts.list.iter().any(|part| part.layer == at)
            } else {
                winner.as_ref().is_some_and(|found| found.layer == at)
            };
            let entry = match &own {
                Own::Has(entry, _) => Some(entry.clone()),
                _ => None,
            };
            let verdict = match own {
                Own::Outside | Own::Absent => Verdict::Absent,
                Own::Leads => Verdict::GraftPoint,
                Own::Root => Verdict::Shown,
                Own::Filtered | Own::Has(_, Fate::Filtered) => Verdict::HiddenByFilter,
                Own::Has(_, Fate::Escapes) => Verdict::HiddenForLeadingOut,
                Own::Has(_, Fate::InTheWayOfAGraft) => Verdict::HiddenByGraft,
                Own::Has(_, Fate::Shown) if shown => Verdict::Shown,
                Own::Has(_, Fate::Shown) => Verdict::HiddenByLaterLayer {
                    by: self.hider(path, at).await,
                },
                Own::Failed(error) => Verdict::Failed {
                    reason: error.kind().reason().to_owned(),
                    message: error.to_string(),
                },
            };
            views.push(LayerView {
                layer: layer.name.clone(),
                verdict,
                url: within.map(|path| layer.catalogue.source().url(&path)),
                version: entry
                    .as_ref()
                    .filter(|entry| entry.kind != Kind::Dir)
                    .map(|entry| entry.version.token.to_string()),
                size: entry.and_then(|entry| entry.size),
            });
        }
        views
    }

    /// Returns the name of the layer that hides what layer `at` has at `path`: the provider of the
    /// path, or of the file that stands where a directory above it would be.
    async fn hider(&self, path: &RelPath, at: usize) -> String {
        let mut dir = RelPath::root();
        let mut last = String::new();
        for name in path.components() {
            let found = match self.lookup(&dir, &name).await {
                Ok(found) => found,
                Err(_) => break,
            };
            if found.layer != at {
                last.clone_from(&self.layers[found.layer].name);
            }
            dir = dir.join(&name);
            if found.entry.kind != Kind::Dir {
                break;
            }
            let parts = self.parts(&dir).await;
            if !parts.list.iter().any(|part| part.layer == at) {
                // A file of a layer in between cut this one off; who that was, its neighbours tell.
                if let Some(part) = parts.list.first() {
                    last.clone_from(&self.layers[part.layer].name);
                }
                break;
            }
        }
        last
    }

    /// Returns what `layer` has at `path` as if it were alone.
    async fn own(&self, layer: usize, path: &RelPath) -> Own {
        let graft = &self.layers[layer].graft;
        let Some(within) = path.strip_prefix(graft) else {
            return match graft.strip_prefix(path) {
                Some(_) => Own::Leads,
                None => Own::Outside,
            };
        };
        let mut at = Part {
            layer,
            path: RelPath::root(),
        };
        let mut dir = graft.clone();
        let mut own = Own::Root;
        for name in within.components() {
            match own {
                Own::Root => {}
                Own::Has(entry, Fate::Shown) if entry.kind == Kind::Dir => {}
                Own::Has(_, Fate::Filtered) => return Own::Filtered,
                Own::Has(..) => return Own::Absent,
                other => return other,
            }
            own = match self.view(&at).await {
                View::Nothing => Own::Absent,
                View::Failed(error) => Own::Failed(error),
                View::Known(known) => match known.get(name.as_str()) {
                    Ok(None) => Own::Absent,
                    Ok(Some(entry)) => {
                        let fate = self.fate(&dir, &at, &entry);
                        Own::Has(entry, fate)
                    }
                    Err(lost) => Own::Failed(lost.into()),
                },
            };
            at.path = at.path.join(&name);
            dir = dir.join(&name);
        }
        own
    }
}
