//! What went wrong at which path, until it works again: the words behind an error number.
//!
//! Bounded; over the bound the trouble that was met longest ago is forgotten. Costs one atomic load
//! where all is well.

use std::collections::HashMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{PoisonError, RwLock, RwLockWriteGuard};

use super::error::Error;
use crate::entry::Timestamp;
use crate::path::RelPath;
use crate::source::ErrorKind;

/// How many paths are remembered at most: a screen or two for a person, and no more than a few
/// hundred KiB, since a message is bounded.
const REMEMBERED: usize = 256;

/// What a caller wanted of a path.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Operation {
    /// To know what is there.
    Lookup,
    /// To list it.
    List,
    /// To open it.
    Open,
    /// To read it.
    Read,
}

impl Operation {
    /// Returns what it is called.
    pub fn name(self) -> &'static str {
        match self {
            Operation::Lookup => "lookup",
            Operation::List => "list",
            Operation::Open => "open",
            Operation::Read => "read",
        }
    }
}

/// A path's last failure, which nothing has disproved yet.
#[derive(Debug, Clone)]
pub struct Trouble {
    /// Where in the volume.
    pub path: RelPath,
    /// What failed.
    pub operation: Operation,
    /// Why, as one word: an error's [`ErrorKind::reason`] or `Disk`.
    pub reason: &'static str,
    /// Why, for people: which source, what was asked, what it said. Never a secret.
    pub message: String,
    /// The layer, where one is to blame.
    pub layer: Option<usize>,
    /// When the path failed first since it last worked.
    pub since: Timestamp,
    /// When it failed last.
    pub last: Timestamp,
    /// How often it failed since then.
    pub times: u64,
}

/// The troubles of a volume.
#[derive(Debug, Default)]
pub(super) struct Troubles {
    held: RwLock<HashMap<RelPath, Trouble>>,
    count: AtomicUsize,
}

impl Troubles {
    /// Returns whether nothing is known to fail.
    pub(super) fn is_empty(&self) -> bool {
        self.count.load(Ordering::Relaxed) == 0
    }

    /// Takes note of a failure that a caller saw; an absence, an interruption and a wrong use are
    /// none.
    pub(super) fn failed(
        &self,
        path: &RelPath,
        operation: Operation,
        layer: Option<usize>,
        error: &Error,
    ) {
        let (reason, message) = match error {
            Error::Source(error) if error.kind() == ErrorKind::NotFound => return,
            Error::Source(error) => (error.kind().reason(), error.to_string()),
            Error::Disk(message) => ("Disk", message.clone()),
            _ => return,
        };
        let now = Timestamp::now();
        let mut held = self.write();
        let known = held.get(path);
        let (since, times) = known.map_or((now, 0), |known| (known.since, known.times));
        if known.is_none() && held.len() >= REMEMBERED {
            let oldest = held.values().min_by_key(|t| t.last.0);
            if let Some(oldest) = oldest.map(|trouble| trouble.path.clone()) {
                held.remove(&oldest);
            }
        }
        let trouble = Trouble {
            path: path.clone(),
            operation,
            reason,
            message,
            layer,
            since,
            last: now,
            times: times + 1,
        };
        held.insert(path.clone(), trouble);
        self.count.store(held.len(), Ordering::Relaxed);
    }

    /// Takes note that something works: what failed there before it, or likewise, is over. A listing
    /// that is complete also ends the failed lookups of what is in it.
    pub(super) fn works(&self, path: &RelPath, operation: Operation) {
        if self.is_empty() || (operation != Operation::List && self.get(path).is_none()) {
            return;
        }
        let mut held = self.write();
        held.retain(|_, trouble| {
            let here = trouble.path == *path && trouble.operation as u8 <= operation as u8;
            let listed = operation == Operation::List
                && trouble.operation == Operation::Lookup
                && trouble.path.parent().as_ref() == Some(path);
            !here && !listed
        });
        self.count.store(held.len(), Ordering::Relaxed);
    }

    /// Returns the trouble of exactly this path.
    pub(super) fn get(&self, path: &RelPath) -> Option<Trouble> {
        if self.is_empty() {
            return None;
        }
        let held = self.held.read().unwrap_or_else(PoisonError::into_inner);
        held.get(path).cloned()
    }

    /// Returns the troubles of a directory and of all that is below it, the latest first.
    pub(super) fn below(&self, dir: &RelPath) -> Vec<Trouble> {
        if self.is_empty() {
            return Vec::new();
        }
        let held = self.held.read().unwrap_or_else(PoisonError::into_inner);
        let inside = held
            .values()
            .filter(|trouble| trouble.path.strip_prefix(dir).is_some());
        let mut found: Vec<Trouble> = inside.cloned().collect();
        found.sort_by_key(|trouble| std::cmp::Reverse(trouble.last.0));
        found
    }

    fn write(&self) -> RwLockWriteGuard<'_, HashMap<RelPath, Trouble>> {
        self.held.write().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::source;

    fn path(text: &str) -> RelPath {
        RelPath::new(text).unwrap()
    }

    fn error(kind: ErrorKind) -> Error {
        Error::Source(source::Error::new(kind, "no"))
    }

    #[test]
    fn what_works_again_is_forgotten_and_nothing_else() {
        let troubles = Troubles::default();
        let down = error(ErrorKind::Unreachable);
        troubles.failed(&path("d/f"), Operation::Read, Some(0), &down);
        troubles.failed(&path("d/f"), Operation::Read, Some(0), &down);
        assert_eq!(troubles.get(&path("d/f")).unwrap().times, 2);
        assert_eq!(troubles.below(&RelPath::root()).len(), 1);
        assert_eq!(troubles.below(&path("d")).len(), 1);
        assert!(troubles.below(&path("e")).is_empty());
        // That it opens does not say that it can be read.
        troubles.works(&path("d/f"), Operation::Open);
        troubles.works(&path("d"), Operation::List);
        assert!(troubles.get(&path("d/f")).is_some());
        troubles.works(&path("d/f"), Operation::Read);
        assert!(troubles.is_empty());
        // A name that could not be looked up, in a directory that can be listed now.
        troubles.failed(&path("d/g"), Operation::Lookup, None, &down);
        troubles.works(&path("e"), Operation::List);
        assert!(!troubles.is_empty());
        troubles.works(&path("d"), Operation::List);
        assert!(troubles.is_empty());
    }

    #[test]
    fn absences_are_none_and_the_oldest_goes() {
        let troubles = Troubles::default();
        troubles.failed(&path("a"), Operation::Lookup, None, &Error::Absent);
        troubles.failed(
            &path("a"),
            Operation::Read,
            None,
            &error(ErrorKind::NotFound),
        );
        assert!(troubles.is_empty());
        for n in 0..REMEMBERED + 10 {
            let at = path(&format!("f{n}"));
            troubles.failed(&at, Operation::Read, None, &error(ErrorKind::Server));
        }
        assert_eq!(troubles.below(&RelPath::root()).len(), REMEMBERED);
        assert!(
            troubles
                .get(&path(&format!("f{}", REMEMBERED + 9)))
                .is_some()
        );
    }
}
