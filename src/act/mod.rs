//! Acting on the cache by files: fetching them before anybody reads them, evicting them, sparing
//! them from eviction, and saying how much of them is here.
//!
//! `run` does what a [`Request`] asks and tells of it in [`Event`]s, in the daemon of a mount as
//! in a process that looks into a volume without mounting it. It ends when nobody listens any more.
//! `select` finds the files, a few at a time: a tree of millions is never in memory.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use svol_cache::Cache;
use tokio::sync::mpsc::{Receiver, Sender, channel};

use crate::vfs::Vfs;

mod keep;
pub mod pattern;
mod select;
mod tell;
mod warm;

use tell::Teller;

/// Events that wait for whoever listens. A listener who stops holds the work up.
const EVENTS: usize = 256;

/// What is to be done with files.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Action {
    /// Fetch what is missing, with so many requests at once.
    Warm {
        /// At least 1, at most [`MOST_JOBS`].
        jobs: usize,
    },
    /// Say what is missing, and fetch nothing.
    Check,
    /// Remove what the cache has of them.
    Evict,
    /// Spare them from eviction.
    Pin,
    /// No longer spare them.
    Unpin,
    /// Say how much of them is here.
    Stats,
}

/// The most requests at once that make a difference: as many as prefetch may have under way.
pub const MOST_JOBS: usize = 16;

/// What is asked for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Request {
    /// What is to be done.
    pub action: Action,
    /// With what: paths of the volume, or patterns of such.
    pub paths: Vec<String>,
}

/// What became of a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Outcome {
    /// All of it was here. Its bytes are those of the file.
    Here,
    /// It came. Its bytes are those that were missing.
    Fetched,
    /// Some of it is missing. Its bytes are those.
    Missing,
    /// It is a local directory's, read in place: the cache has no part in it.
    Local,
    /// It was removed. Its bytes are those of the disk that are free now.
    Evicted,
    /// It was removed, and its content or the file that it is in serves others. Nothing is free.
    Shared,
    /// It is pinned, and stays.
    KeptPinned,
    /// Somebody has it open, and it stays.
    KeptOpen,
    /// The cache has nothing of it.
    Absent,
    /// It is pinned now. Its bytes are those of the file.
    Pinned,
    /// It is not pinned any more.
    Unpinned,
}

/// Files that had the same outcome.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Count {
    /// How many.
    pub files: u64,
    /// Their bytes, of which [`Outcome`] says what they are.
    pub bytes: u64,
}

/// How far it is, or what it came to.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Summary {
    /// Files that were found so far.
    pub files: u64,
    /// Their sizes together.
    pub bytes: u64,
    /// Bytes of them that are here; where it was looked.
    pub cached_bytes: u64,
    /// Those that are pinned, where it was looked; with the sizes of the files.
    pub pinned: Count,
    /// Symbolic links that were not followed.
    pub links: u64,
    /// What failed: files, directories, patterns.
    pub failed: u64,
    /// What became of the files.
    pub outcomes: BTreeMap<Outcome, Count>,
}

impl Summary {
    /// Returns the files with an outcome.
    pub fn of(&self, outcome: Outcome) -> Count {
        self.outcomes.get(&outcome).copied().unwrap_or_default()
    }
}

/// What happened.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", tag = "event")]
pub enum Event {
    /// It goes on, a few times a second.
    Progress {
        /// How far it is.
        summary: Summary,
        /// Bytes done of `summary.bytes`: here, fetched or passed over.
        done: u64,
    },
    /// A file is done.
    File {
        /// Where in the volume.
        path: String,
        /// What became of it.
        outcome: Outcome,
        /// Its bytes; see [`Outcome`].
        bytes: u64,
    },
    /// What a path asked for holds (for [`Action::Stats`]).
    Tree {
        /// What was asked for.
        path: String,
        /// What it holds.
        summary: Summary,
    },
    /// Something failed.
    Failed {
        /// Where in the volume, or the pattern.
        path: String,
        /// Why, in words.
        message: String,
    },
    /// All is done.
    Done {
        /// What it came to.
        summary: Summary,
    },
}

/// Starts doing what is asked for, and returns what happens. It ends soon after the receiver is
/// dropped.
pub fn start(vfs: Arc<Vfs>, cache: Cache, request: Request) -> Receiver<Event> {
    let (events, receiver) = channel(EVENTS);
    tokio::spawn(async move {
        let gone = events.clone();
        tokio::select! {
            () = run(vfs, cache, request, events) => {}
            () = gone.closed() => {}
        }
    });
    receiver
}

async fn run(vfs: Arc<Vfs>, cache: Cache, request: Request, events: Sender<Event>) {
    let tell = Arc::new(Teller::new(events));
    let Request { action, paths } = request;
    let work = async {
        match action {
            Action::Warm { jobs } => warm::warm(&vfs, &cache, paths, jobs, &tell).await,
            Action::Check => keep::check(&vfs, &cache, paths, &tell).await,
            Action::Evict => keep::evict(&vfs, &cache, paths, &tell).await,
            Action::Pin => keep::pin(&vfs, &cache, paths, &tell).await,
            Action::Unpin => keep::unpin(&vfs, &cache, paths, &tell).await,
            Action::Stats => keep::stats(&vfs, &cache, paths, &tell).await,
        }
    };
    tokio::select! {
        () = work => {}
        () = tell.tick() => {}
    }
    tell.done().await;
}
