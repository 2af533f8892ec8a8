//! The change hook: tells a command or a web server that files of the volume changed.
//!
//! inotify sees nothing on a remote tree, so whoever wants to act on a change is told here. Changes
//! gather until none came for a second (ten at most); then the command and the webhook run, once
//! each, and what changes meanwhile waits for the next time. What gathers is bounded: of more
//! paths than that, only the layers are told. Nothing that a hook does or fails to do reaches a
//! reader: what went wrong is in the log, in the status and in the figures.

mod program;
mod webhook;

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use serde::Serialize;
use tokio::sync::Notify;
use tokio::time::Instant;
use tracing::{info, warn};

pub use program::Command;
pub use webhook::{Auth, Settings as WebhookSettings, Webhook};

use crate::entry::Timestamp;
use crate::path::{Name, RelPath};

/// How long no change must come before those that came are told.
const QUIET: Duration = Duration::from_secs(1);

/// How long the first of them waits at most.
const LONGEST: Duration = Duration::from_secs(10);

/// Paths that are told by name: what a program can act on one by one.
const PATHS: usize = 1000;

/// Changes that are not told yet. Cheap to clone; never waits.
#[derive(Debug, Clone, Default)]
pub struct Changes(Arc<Gathering>);

#[derive(Debug, Default)]
struct Gathering {
    /// A leaf.
    batch: Mutex<Batch>,
    came: Notify,
}

/// What changed since the last run.
#[derive(Debug, Default)]
struct Batch {
    layers: BTreeSet<String>,
    paths: BTreeSet<String>,
    is_truncated: bool,
    is_reloaded: bool,
}

impl Batch {
    fn is_empty(&self) -> bool {
        self.layers.is_empty() && !self.is_reloaded
    }

    fn add(&mut self, path: String) {
        if self.paths.len() < PATHS {
            self.paths.insert(path);
        } else if !self.paths.contains(&path) {
            self.is_truncated = true;
        }
    }
}

impl Changes {
    /// Takes note that of layer `layer`, `names` in the directory `dir` of the volume changed, came
    /// or went.
    pub fn changed<'a>(
        &self,
        layer: &str,
        dir: &RelPath,
        names: impl IntoIterator<Item = &'a Name>,
    ) {
        let mut names = names.into_iter().peekable();
        if names.peek().is_none() {
            return;
        }
        let mut batch = self.batch();
        if !batch.layers.contains(layer) {
            batch.layers.insert(layer.to_owned());
        }
        for name in names {
            batch.add(format!("/{}", dir.join(name).as_str()));
        }
        drop(batch);
        self.0.came.notify_one();
    }

    /// Takes note that the volume itself is another one, and that with it `names` in the directory
    /// `dir` became others or went.
    pub fn reloaded(&self, dir: &RelPath, names: &[Name]) {
        let mut batch = self.batch();
        batch.is_reloaded = true;
        for name in names {
            batch.add(format!("/{}", dir.join(name).as_str()));
        }
        drop(batch);
        self.0.came.notify_one();
    }

    fn batch(&self) -> MutexGuard<'_, Batch> {
        lock(&self.0.batch)
    }

    /// Waits until there is something to tell and nothing more comes, and takes it.
    async fn gathered(&self) -> Batch {
        while self.batch().is_empty() {
            self.0.came.notified().await;
        }
        let latest = Instant::now() + LONGEST;
        loop {
            let until = (Instant::now() + QUIET).min(latest);
            let came = tokio::time::timeout_at(until, self.0.came.notified()).await;
            if came.is_err() || Instant::now() >= latest {
                return std::mem::take(&mut *self.batch());
            }
        }
    }
}

/// What hooks are told.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Report {
    /// The version of this document. Fields may be added without a new one.
    pub version: u32,
    /// The volume's name.
    pub volume: String,
    /// Where it is mounted.
    pub mountpoint: PathBuf,
    /// The generation of the volume file that is served.
    pub generation: u64,
    /// When, as RFC 3339.
    pub time: String,
    /// Whether the volume file itself is another one.
    pub reloaded: bool,
    /// The layers in which something changed.
    pub layers: Vec<String>,
    /// What changed, came or went, from the volume's root, sorted.
    pub paths: Vec<String>,
    /// Whether there is more than is in `paths`.
    pub truncated: bool,
}

/// Whom the hooks are run for.
#[derive(Debug, Clone)]
pub struct About {
    /// The volume's name.
    pub volume: String,
    /// Where it is mounted.
    pub mountpoint: PathBuf,
    /// The generation of the volume file that is served.
    pub generation: u64,
}

impl About {
    fn report(&self, batch: Batch) -> Report {
        Report {
            version: 1,
            volume: self.volume.clone(),
            mountpoint: self.mountpoint.clone(),
            generation: self.generation,
            time: now(),
            reloaded: batch.is_reloaded,
            layers: batch.layers.into_iter().collect(),
            paths: batch.paths.into_iter().collect(),
            truncated: batch.is_truncated,
        }
    }
}

fn now() -> String {
    humantime::format_rfc3339_seconds(Timestamp::now().into()).to_string()
}

/// Runs and failures of one hook.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Tally {
    /// Runs that succeeded.
    pub done: u64,
    /// Runs that failed.
    pub failed: u64,
    /// When it last succeeded, as RFC 3339.
    pub last_success: Option<String>,
    /// When and why it last failed.
    pub last_error: Option<String>,
}

/// Those who are told, and how that went.
#[derive(Debug)]
pub struct Hooks {
    about: About,
    changes: Changes,
    command: Option<(Command, Mutex<Tally>)>,
    webhook: Option<(Webhook, Mutex<Tally>)>,
}

impl Hooks {
    /// Returns hooks for `about` that are told what `changes` gathers.
    pub fn new(
        about: About,
        changes: Changes,
        command: Option<Command>,
        webhook: Option<Webhook>,
    ) -> Hooks {
        Hooks {
            about,
            changes,
            command: command.map(|it| (it, Mutex::default())),
            webhook: webhook.map(|it| (it, Mutex::default())),
        }
    }

    /// Returns where changes are told.
    pub fn changes(&self) -> &Changes {
        &self.changes
    }

    /// Returns each hook's kind, what it is for people, and how it went so far.
    pub fn tallies(&self) -> Vec<(&'static str, String, Tally)> {
        let read = |tally: &Mutex<Tally>| lock(tally).clone();
        let command = { self.command.iter() }
            .map(|(command, tally)| ("command", command.shown().to_owned(), read(tally)));
        let webhook = { self.webhook.iter() }
            .map(|(webhook, tally)| ("webhook", webhook.shown().to_owned(), read(tally)));
        command.chain(webhook).collect()
    }

    /// Tells of changes as they come, for ever; before each time waits for `settled`, after which
    /// whoever looks into the mount sees what changed.
    pub async fn run<F: Future<Output = ()>>(&self, settled: impl Fn() -> F) {
        loop {
            let report = self.about.report(self.changes.gathered().await);
            settled().await;
            self.tell(&report).await;
        }
    }

    async fn tell(&self, report: &Report) {
        let body = match serde_json::to_vec(report) {
            Ok(body) => body,
            Err(error) => return warn!(%error, "a change cannot be told"),
        };
        let command = async {
            if let Some((command, tally)) = &self.command {
                note("command", tally, command.run(report, &body).await);
            }
        };
        let webhook = async {
            if let Some((webhook, tally)) = &self.webhook {
                note("webhook", tally, webhook.send(&body).await);
            }
        };
        tokio::join!(command, webhook);
    }
}

fn note(hook: &str, tally: &Mutex<Tally>, outcome: Result<(), String>) {
    let mut tally = lock(tally);
    match outcome {
        Ok(()) => {
            tally.done += 1;
            tally.last_success = Some(now());
            info!(hook, "told of a change");
        }
        Err(why) => {
            warn!(hook, why, "the change hook failed");
            tally.failed += 1;
            tally.last_error = Some(format!("{}: {why}", now()));
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(text: &str) -> Name {
        Name::new(text).unwrap()
    }

    #[tokio::test]
    async fn changes_gather_until_none_comes() {
        let changes = Changes::default();
        let dir = RelPath::new("a/b").unwrap();
        changes.changed("x", &dir, &[name("one")]);
        changes.changed("x", &dir, &[]);
        let gathered = tokio::spawn({
            let changes = changes.clone();
            async move { changes.gathered().await }
        });
        tokio::task::yield_now().await;
        changes.changed("y", &RelPath::root(), &[name("two"), name("two")]);
        let batch = gathered.await.unwrap();
        assert_eq!(Vec::from_iter(batch.paths), ["/a/b/one", "/two"]);
        assert_eq!(Vec::from_iter(batch.layers), ["x", "y"]);
        assert!(!batch.is_truncated);
        // All was taken.
        assert!(changes.batch().layers.is_empty());
    }

    #[test]
    fn what_gathers_is_bounded() {
        let changes = Changes::default();
        let names: Vec<Name> = (0..=PATHS).map(|n| name(&n.to_string())).collect();
        changes.changed("x", &RelPath::root(), &names[..PATHS]);
        changes.changed("x", &RelPath::root(), &names[..1]);
        assert!(!changes.batch().is_truncated);
        changes.changed("x", &RelPath::root(), &names);
        assert!(changes.batch().is_truncated);
        assert_eq!(changes.batch().paths.len(), PATHS);
    }
}
