//! Names that are not shown: counted for the status. What the sources' listings hide, the catalogue
//! logs; what the merge hides is logged here, once for each state of a directory.

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
    /// Takes note of a directory's listing.
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
        for (layer, hidden) in listing.hidden_by_merge() {
            warn!(
                dir = %node.path,
                layer = namespace.layers()[*layer].name,
                count = hidden.count,
                example = hidden.example,
                why = %hidden.why,
                "names are not shown"
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
