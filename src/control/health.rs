//! Whether the mount serves, and whether its layers do.
//!
//! The daemon never touches its own mount: a thread of it that waited there for a reply which only
//! this process can give would keep the process, and the mount, from ever ending. The mounter has the
//! mount asked by a process of its own ([`crate::fuse::probe`]); here that is waited for, by one
//! thread at a time and within a bound, however many ask.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};
use tokio::sync::Mutex;

use super::status::Layer;
use crate::fuse::mounter::{Mounter, PROBE};
use crate::path::RelPath;
use crate::source::Source;
use crate::source::guard::{Guarded, Status};

/// How much longer than the mount itself its questioner may take.
const SLACK: Duration = Duration::from_millis(500);

/// How long whoever asks waits for layers that were not asked yet, or failed.
const LAYERS: Duration = Duration::from_secs(1);

/// Whether the mount serves, as `/healthz` says it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Health {
    /// Whether it answers through the kernel.
    pub healthy: bool,
    /// How long the answer took, in seconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub seconds: Option<f64>,
    /// Why not, for people.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub message: Option<String>,
}

/// Whether the mount is ready for readers, as `/readyz` says it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Readiness {
    /// Whether it serves, and all layers that are required do.
    pub ready: bool,
    /// Why not.
    pub reasons: Vec<Reason>,
}

/// Why a mount is not ready.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Reason {
    /// The layer; nothing for the mount itself.
    pub layer: Option<String>,
    /// Why, as one word.
    pub reason: String,
    /// Why, for people.
    pub message: String,
}

/// When the mount was last asked, and what came of it.
type Last = Option<(Instant, Result<Duration, String>)>;

/// Asks the mount whether it serves.
pub(super) struct Pulse {
    mounter: Weak<Mounter>,
    last: Arc<Mutex<Last>>,
}

impl Pulse {
    /// Returns one that has `mounter` ask.
    pub(super) fn new(mounter: &Arc<Mounter>) -> Pulse {
        Pulse {
            mounter: Arc::downgrade(mounter),
            last: Arc::default(),
        }
    }

    /// Asks, or waits for what another who asks is told.
    pub(super) async fn feel(&self) -> Health {
        let limit = PROBE + SLACK;
        let asked = tokio::time::timeout(limit, self.ask()).await;
        let silent = || Err(format!("the mount did not answer within {limit:?}"));
        match asked.unwrap_or_else(|_| silent()) {
            Ok(took) => Health {
                healthy: true,
                seconds: Some(took.as_secs_f64()),
                message: None,
            },
            Err(why) => Health {
                healthy: false,
                seconds: None,
                message: Some(why),
            },
        }
    }

    async fn ask(&self) -> Result<Duration, String> {
        let asked = Instant::now();
        // Held until the thread below has ended: there is never a second one.
        let mut last = self.last.clone().lock_owned().await;
        if let Some((when, answer)) = &*last
            && *when >= asked
        {
            return answer.clone();
        }
        let mounter = self.mounter.clone();
        let asking = tokio::task::spawn_blocking(move || {
            let answer = match mounter.upgrade() {
                Some(mounter) => mounter.probe(),
                None => Err("the mount is ending".into()),
            };
            *last = Some((Instant::now(), answer.clone()));
            answer
        });
        asking.await.unwrap_or_else(|e| Err(e.to_string()))
    }
}

/// Asks layers that nobody has asked, so that a mount which nobody reads gets ready too.
pub(super) struct Waker {
    /// The layers that are required.
    layers: Vec<(Guarded, Arc<AtomicBool>)>,
}

impl Waker {
    /// Returns one for these sources.
    pub(super) fn new(required: impl Iterator<Item = Guarded>) -> Waker {
        Waker {
            layers: required.map(|guard| (guard, Arc::default())).collect(),
        }
    }

    /// Lists the root of each that did not answer its last request, one request at a time; returns
    /// when all have answered or failed, or a little later.
    pub(super) async fn wake(&self) {
        let asleep = self.layers.iter().filter_map(|(guard, is_asked)| {
            let well = guard.health().status == Status::Ready;
            if well || is_asked.swap(true, Ordering::Relaxed) {
                return None;
            }
            let (guard, is_asked) = (guard.clone(), is_asked.clone());
            // Of its own: whoever asks may leave.
            Some(tokio::spawn(async move {
                let listed = guard.list(&RelPath::root()).await;
                if let Err(error) = listed {
                    tracing::debug!(%error, "a required layer is not ready");
                }
                is_asked.store(false, Ordering::Relaxed);
            }))
        });
        let all = futures::future::join_all(asleep.collect::<Vec<_>>());
        let _ = tokio::time::timeout(LAYERS, all).await;
    }
}

/// Returns whether a mount is ready.
pub(super) fn readiness(health: &Health, layers: &[Layer]) -> Readiness {
    let mut reasons = Vec::new();
    if !health.healthy {
        reasons.push(Reason {
            layer: None,
            reason: "Wedged".into(),
            message: health.message.clone().unwrap_or_default(),
        });
    }
    let missing = layers.iter().filter(|l| l.required && !l.is_ready());
    reasons.extend(missing.map(|layer| {
        let ready = layer.ready();
        Reason {
            layer: Some(layer.name.clone()),
            reason: ready.map(|c| c.reason.clone()).unwrap_or_default(),
            message: ready.map(|c| c.message.clone()).unwrap_or_default(),
        }
    }));
    Readiness {
        ready: reasons.is_empty(),
        reasons,
    }
}
