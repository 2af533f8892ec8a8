//! Taking up a changed volume file while it is mounted.
//!
//! The daemon's sandbox is made for the files that its volume names, so a new document is not taken
//! up in place: it is checked here as a whole, and if it is good, another worker is asked for, which
//! reads it, makes its own sandbox, and takes the mount over once it could serve. Until then, and
//! where anything is wrong, the old one serves on, and status, figures and log say what is wrong.
//!
//! A change is noticed by looking at the file, by SIGHUP and by `svol reload`.

mod bequest;
mod compare;
mod names;
mod notice;

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};
use tokio::sync::{Notify, OwnedMutexGuard};
use tracing::{info, warn};

pub use bequest::Legacy;
pub(in crate::app) use names::tell_outdated;

use super::serve::check;
use crate::cli::MountSettings;
use crate::config::{ConfigError, Volume};
use crate::control::status::Condition;
use crate::entry::Timestamp;
use bequest::Bequest;
use notice::Seal;

/// Returns the settings of this mount: with the volume file as it is now, or with this volume in its
/// place.
pub type Resolve = Arc<dyn Fn(Option<Volume>) -> Result<MountSettings, ConfigError> + Send + Sync>;

/// How long a new worker may take to get ready, or to be given up.
const PATIENCE: Duration = Duration::from_secs(120);

/// Between looks at what became of it.
const LOOK: Duration = Duration::from_millis(100);

/// Who can have another worker take this one's place.
pub trait Succession: Send + Sync {
    /// Leaves `text` to the next worker. Blocks on the local disk.
    fn leave(&self, text: &str) -> std::io::Result<()>;

    /// Asks for one. Returns once that begins; what comes of it, this process sees by being ended, or
    /// by [`Succession::refused`].
    fn replace(&self) -> std::io::Result<()>;

    /// Returns when the last replacement came to nothing, if any did, and why.
    fn refused(&self) -> Option<(String, String)>;
}

/// What is told of reloads, from worker to worker.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Known {
    generation: u64,
    applied: u64,
    rejected: u64,
    /// What became another with what is served, for people.
    #[serde(default)]
    changes: Vec<String>,
    /// When what is served was taken up.
    #[serde(with = "nanos")]
    taken_up: Timestamp,
    /// Why the file is not what is served, if it is not.
    rejection: Option<(String, String)>,
    #[serde(with = "nanos")]
    since: Timestamp,
}

/// A time as a number: nanoseconds since the epoch.
mod nanos {
    use serde::{Deserialize, Deserializer, Serializer};

    use crate::entry::Timestamp;

    pub(super) fn serialize<S: Serializer>(at: &Timestamp, into: S) -> Result<S::Ok, S::Error> {
        into.serialize_i64(at.0)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Timestamp, D::Error> {
        i64::deserialize(from).map(Timestamp)
    }
}

impl Default for Known {
    fn default() -> Known {
        let now = Timestamp::now();
        Known {
            generation: 1,
            applied: 0,
            rejected: 0,
            changes: Vec::new(),
            taken_up: now,
            rejection: None,
            since: now,
        }
    }
}

impl Known {
    fn reloaded(mut self, changes: Vec<String>) -> Known {
        self.changes = changes;
        self.generation += 1;
        self.applied += 1;
        self.taken_up = Timestamp::now();
        self.accept();
        self
    }

    /// Takes note that the file is what is served.
    fn accept(&mut self) {
        if self.rejection.take().is_some() {
            self.since = Timestamp::now();
        }
    }

    fn reject(&mut self, reason: &str, message: &str) {
        self.rejected += 1;
        if self.rejection.is_none() {
            self.since = Timestamp::now();
        }
        self.rejection = Some((reason.to_owned(), message.to_owned()));
    }
}

/// What came of looking at the volume file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Answer {
    /// `unchanged`, `rejected`, or `replacing`: then a worker with the new file is on its way.
    pub result: String,
    /// The generation that is served; with `replacing`, the one that will be.
    pub generation: u64,
    /// What is another, or what is wrong, one a line.
    pub message: String,
}

/// Looks after one mount's volume file.
pub struct Reloader {
    legacy: Legacy,
    file: Option<PathBuf>,
    mountpoint: PathBuf,
    resolve: Resolve,
    succession: Option<Arc<dyn Succession>>,
    /// A leaf.
    known: Mutex<Known>,
    /// One look at a time.
    looking: Arc<tokio::sync::Mutex<()>>,
    asked: Notify,
}

impl Reloader {
    /// Returns one for what is served. Without `succession` what is good is refused too.
    pub fn new(
        legacy: Legacy,
        mountpoint: &Path,
        resolve: Resolve,
        succession: Option<Arc<dyn Succession>>,
    ) -> Reloader {
        Reloader {
            file: legacy.settings.view.config_file.clone(),
            mountpoint: mountpoint.to_owned(),
            resolve,
            succession,
            known: Mutex::new(legacy.known.clone()),
            looking: Arc::default(),
            asked: Notify::new(),
            legacy,
        }
    }

    /// Returns the generation of the volume file that is served.
    pub fn generation(&self) -> u64 {
        self.known().generation
    }

    /// Returns how many files were taken up since the mount, and how many were rejected.
    pub fn counts(&self) -> (u64, u64) {
        let known = self.known();
        (known.applied, known.rejected)
    }

    /// Returns what became another with what is served, for people; nothing at the mount.
    pub fn changes(&self) -> Vec<String> {
        self.known().changes.clone()
    }

    /// Returns when what is served was taken up.
    pub fn taken_up(&self) -> Timestamp {
        self.known().taken_up
    }

    /// Returns whether the volume file is what is served; nothing where there is no file.
    pub fn condition(&self) -> Option<Condition> {
        self.file.as_ref()?;
        let known = self.known();
        let (status, reason, message) = match &known.rejection {
            None => ("True", "Served".to_owned(), String::new()),
            Some((reason, message)) => ("False", reason.clone(), message.clone()),
        };
        Some(Condition {
            kind: "VolumeAccepted".into(),
            status: status.into(),
            reason,
            message,
            last_transition_time: humantime::format_rfc3339_seconds(known.since.into()).to_string(),
            observed_generation: known.generation,
        })
    }

    /// Has the file looked at soon: for a signal.
    pub fn ask(&self) {
        match self.file {
            Some(_) => self.asked.notify_one(),
            None => info!("SIGHUP: mounted without a volume file, so there is nothing to reload"),
        }
    }

    /// Leaves to the next worker what is served here, from now on. Blocks on the local disk.
    pub fn leave(&self) {
        let Some(succession) = &self.succession else {
            return;
        };
        let bequest = Bequest::of(&self.legacy, self.known().clone());
        let left = serde_json::to_string(&bequest).map_err(std::io::Error::from);
        if let Err(error) = left.and_then(|text| succession.leave(&text)) {
            warn!(%error, "what is served cannot be left to the next process");
        }
    }

    /// Looks at the file whenever it is another one or somebody asks, for ever.
    pub async fn watch(self: &Arc<Self>) {
        let Some(file) = &self.file else {
            return;
        };
        // It may have changed since it was read.
        let mut seen = None;
        loop {
            let now = Seal::of(file);
            if now != seen {
                seen = now;
                self.look().await;
            }
            tokio::select! {
                () = tokio::time::sleep(notice::EVERY) => {}
                () = self.asked.notified() => seen = None,
            }
        }
    }

    /// Looks at the file, and has it taken up where it is good and another one.
    pub async fn look(self: &Arc<Self>) -> Answer {
        let one = self.looking.clone().lock_owned().await;
        let Some(file) = self.file.clone() else {
            let what = "mounted without a volume file, so there is nothing to reload; mount with \
                        -c FILE";
            return self.answer("rejected", what);
        };
        let resolve = self.resolve.clone();
        let read = move || notice::settled(&file, || resolve(None));
        match tokio::task::spawn_blocking(read).await {
            Ok(Ok(new)) => self.take_up(new, one).await,
            Ok(Err(error)) => self.reject("Invalid", &error.to_string()),
            Err(_) => self.answer("rejected", "the daemon is ending"),
        }
    }

    async fn take_up(self: &Arc<Self>, new: MountSettings, one: OwnedMutexGuard<()>) -> Answer {
        let served = &self.legacy.settings;
        if new == *served {
            self.known().accept();
            return self.answer("unchanged", "");
        }
        let fixed = compare::fixed(served, &new);
        if !fixed.is_empty() {
            let what = format!(
                "{}: cannot change while it is mounted; unmount and mount again, or put the old \
                 value back",
                fixed.join(", ")
            );
            return self.reject("NeedsNewMount", &what);
        }
        if let Err(error) = check(&new, &self.mountpoint) {
            return self.reject("Invalid", &error.to_string());
        }
        let changes = compare::changes(&served.view.volume, &new.view.volume).join("\n");
        let Some(succession) = self.succession.clone() else {
            let what = "the volume file is good, but nothing can take it up in this mount (mounted \
                        with --no-takeover); unmount and mount again";
            return self.reject("NoTakeover", what);
        };
        let asked = tokio::task::spawn_blocking(move || {
            let before = succession.refused();
            succession.replace().map(|()| (succession, before))
        });
        let (succession, before) = match asked.await {
            Ok(Ok(asked)) => asked,
            Ok(Err(error)) => return self.reject("NotPrepared", &error.to_string()),
            Err(_) => return self.answer("rejected", "the daemon is ending"),
        };
        info!(changes, "another process takes up the volume file");
        let this = self.clone();
        tokio::task::spawn_blocking(move || {
            let began = Instant::now();
            // This process ends meanwhile, or hears why not.
            while began.elapsed() < PATIENCE {
                std::thread::sleep(LOOK);
                let refused = succession.refused();
                if refused != before {
                    let (_, why) = refused.unwrap_or_default();
                    this.reject("NotPrepared", &why);
                    break;
                }
            }
            drop(one);
        });
        Answer {
            generation: self.generation() + 1,
            ..self.answer("replacing", &changes)
        }
    }

    fn reject(&self, reason: &str, message: &str) -> Answer {
        warn!(
            reason,
            message, "the volume file is not taken up; what was served before is"
        );
        self.known().reject(reason, message);
        // A later process is to tell of it too.
        self.leave();
        self.answer("rejected", message)
    }

    fn answer(&self, result: &str, message: &str) -> Answer {
        Answer {
            result: result.to_owned(),
            generation: self.generation(),
            message: message.to_owned(),
        }
    }

    fn known(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
