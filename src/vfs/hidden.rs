//! Names that are not shown: counted for the status, logged when they are first seen.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};

use tracing::warn;

use super::node::{Ino, Node};
use crate::namespace::{Merged, Namespace};
use crate::source::Hidden;

/// Directories with hidden names that are remembered at most.
const REMEMBERED: usize = 10_000;

/// What is hidden in the directories that were opened.
#[derive(Debug, Default)]
pub(super) struct HiddenNames {
    dirs: Mutex<HashMap<Ino, Vec<(usize, Hidden)>>>,
}

impl HiddenNames {
    /// Takes note of a directory's listing; logs what is hidden there unless it was before.
    pub(super) fn note(&self, node: &Node, listing: &Merged, namespace: &Namespace) {
        let now = listing.hidden();
        {
            let mut dirs = self.dirs.lock().unwrap_or_else(PoisonError::into_inner);
            if dirs.get(&node.ino).map_or(&[][..], Vec::as_slice) == now {
                return;
            }
            if now.is_empty() {
                dirs.remove(&node.ino);
            } else if dirs.len() < REMEMBERED || dirs.contains_key(&node.ino) {
                dirs.insert(node.ino, now.to_vec());
            }
        }
        for (layer, hidden) in now {
            warn!(
                dir = %node.path,
                layer = namespace.layers()[*layer].name,
                count = hidden.count,
                example = hidden.example,
                "names cannot be shown: {}",
                hidden.why
            );
        }
    }

    /// Returns how many names of a layer are hidden.
    pub(super) fn count(&self, layer: usize) -> u64 {
        let dirs = self.dirs.lock().unwrap_or_else(PoisonError::into_inner);
        let all = dirs.values().flatten();
        all.filter(|(of, _)| *of == layer)
            .map(|(_, h)| h.count)
            .sum()
    }
}
