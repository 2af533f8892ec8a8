//! The daemon's side of the control socket.

use std::collections::BTreeMap;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use axum::body::Body;
use axum::extract::{DefaultBodyLimit, Query, State};
use axum::http::StatusCode;
use axum::routing::{get, post};
use axum::{Json, Router};
use futures::StreamExt;
use serde::Serialize;
use svol_cache::Cache;
use tokio::task::JoinHandle;

use super::registry::Record;
use super::status;
use crate::act;
use crate::app::View;
use crate::catalogue::{Db, Memory, RefreshReport};
use crate::entry::Timestamp;
use crate::fetch::Fetcher;
use crate::fuse::{Notifications, Passthrough};
use crate::memory::{Budget, Ceiling, INODE, resident};
use crate::path::RelPath;
use crate::sandbox;
use crate::source::guard::{Guarded, Status as Healthy};
use crate::vfs::Vfs;

/// What the control socket speaks of.
struct Subject {
    record: Record,
    name: String,
    vfs: Arc<Vfs>,
    notifications: Notifications,
    guards: Vec<Guarded>,
    cache: Cache,
    cache_dir: PathBuf,
    sandbox: sandbox::Report,
    passthrough: Arc<Passthrough>,
    ceiling: Ceiling,
    listings: Memory,
    fetcher: Arc<Fetcher>,
    db: Db,
}

/// The longest request: more paths than a command line may have, in bytes.
const REQUEST: usize = 16 << 20;

type Answer<T> = Result<Json<T>, (StatusCode, String)>;

/// Starts answering on the record's socket, which only this user may open.
pub async fn start(
    record: Record,
    view: &View,
    sandbox: sandbox::Report,
    passthrough: Arc<Passthrough>,
    notifications: Notifications,
) -> std::io::Result<JoinHandle<()>> {
    let listener = tokio::net::UnixListener::bind(&record.socket)?;
    std::fs::set_permissions(&record.socket, std::fs::Permissions::from_mode(0o600))?;
    let subject = Arc::new(Subject {
        record,
        name: view.name.clone(),
        vfs: view.vfs.clone(),
        notifications,
        guards: view.guards.clone(),
        cache: view.cache.clone(),
        cache_dir: view.cache_dir.clone(),
        sandbox,
        passthrough,
        ceiling: view.ceiling.clone(),
        listings: view.listings.clone(),
        fetcher: view.fetcher.clone(),
        db: view.db.clone(),
    });
    let app = Router::new()
        .route("/status", get(status))
        .route("/refresh", post(refresh))
        .route("/act", post(act).layer(DefaultBodyLimit::max(REQUEST)))
        .route("/explain", get(explain));
    #[cfg(feature = "failpoints")]
    let app = app.route("/attempt", post(attempt));
    let app = app.with_state(subject);
    Ok(tokio::spawn(async move {
        if let Err(error) = axum::serve(listener, app).await {
            tracing::warn!(%error, "the control socket closed");
        }
    }))
}

async fn status(State(subject): State<Arc<Subject>>) -> Json<status::Mount> {
    Json(subject.status())
}

async fn refresh(
    State(subject): State<Arc<Subject>>,
    Query(query): Query<BTreeMap<String, String>>,
) -> Answer<serde_json::Value> {
    let path = path_of(&query)?;
    let report = subject.vfs.namespace().refresh(&path, true).await;
    // Whoever asked sees what was found.
    subject.notifications.told().await;
    Ok(Json(described(&report)))
}

/// Acts on the cache, and tells of it as it goes on: an event a line. Ends when the asker goes.
async fn act(State(subject): State<Arc<Subject>>, Json(request): Json<act::Request>) -> Body {
    let mut events = act::start(subject.vfs.clone(), subject.cache.clone(), request);
    let lines = futures::stream::poll_fn(move |context| events.poll_recv(context));
    Body::from_stream(lines.map(|event| {
        let mut line = serde_json::to_vec(&event)?;
        line.push(b'\n');
        Ok::<_, serde_json::Error>(line)
    }))
}

async fn explain(
    State(subject): State<Arc<Subject>>,
    Query(query): Query<BTreeMap<String, String>>,
) -> Answer<serde_json::Value> {
    let path = path_of(&query)?;
    let views = subject.vfs.namespace().explain(&path).await;
    serde_json::to_value(views)
        .map(Json)
        .map_err(|e| (StatusCode::INTERNAL_SERVER_ERROR, e.to_string()))
}

/// Tries what the sandbox has to refuse; answers with the number of the error, or 0.
#[cfg(feature = "failpoints")]
async fn attempt(Query(query): Query<BTreeMap<String, String>>) -> Answer<Option<i32>> {
    let get = |name: &str| query.get(name).cloned().unwrap_or_default();
    let (what, path) = (get("what"), PathBuf::from(get("path")));
    let tried = move || sandbox::trial::attempt(&what, &path);
    tokio::task::spawn_blocking(tried)
        .await
        .map(Json)
        .map_err(|e| (StatusCode::INTERNAL_SERVER_ERROR, e.to_string()))
}

fn described(report: &RefreshReport) -> serde_json::Value {
    let errors: Vec<String> = report
        .errors
        .iter()
        .map(|(dir, error)| format!("{dir}: {error}"))
        .collect();
    serde_json::json!({
        "directories": report.listed,
        "deferred": report.deferred,
        "changed": report.changed,
        "added": report.added,
        "removed": report.removed,
        "failed": report.failed,
        "errors": errors,
    })
}

fn path_of(query: &BTreeMap<String, String>) -> Result<RelPath, (StatusCode, String)> {
    let path = query.get("path").map_or("", String::as_str);
    RelPath::new(path.trim_matches('/'))
        .map_err(|why| (StatusCode::BAD_REQUEST, format!("{path:?}: {why}")))
}

impl Subject {
    fn status(&self) -> status::Mount {
        let (inodes, open_files) = self.vfs.in_use();
        status::Mount {
            mountpoint: self.record.mountpoint.clone(),
            name: self.name.clone(),
            pid: self.record.pid,
            socket: self.record.socket.clone(),
            layers: (0..self.guards.len()).map(|i| self.layer(i)).collect(),
            cache: Some(status::Cache::of(&self.cache, self.cache_dir.clone())),
            memory: Some(self.memory(self.cache.stats().memory_used, inodes as u64)),
            sandbox: self.sandbox.clone(),
            inodes: inodes as u64,
            open_files: open_files as u64,
            passthrough: self.passed(),
        }
    }

    fn passed(&self) -> status::Passthrough {
        let state = self.passthrough.state();
        status::Passthrough {
            on: state.on,
            reason: state.reason,
            opens: state.opens,
        }
    }

    fn memory(&self, tier: u64, inodes: u64) -> status::Memory {
        let budget = Budget::split(self.ceiling.bytes);
        let (resident_bytes, peak_bytes) = resident().unwrap_or_default();
        let part = |name: &str, used_bytes, limit_bytes| status::Part {
            name: name.to_owned(),
            used_bytes,
            limit_bytes,
        };
        status::Memory {
            limit_bytes: self.ceiling.bytes,
            from: self.ceiling.origin.to_string(),
            resident_bytes,
            peak_bytes,
            parts: vec![
                part("buffers", self.fetcher.buffered(), budget.buffers),
                part("tier", tier, budget.tier),
                part("listings", self.listings.used(), budget.listings),
                part("merged", self.vfs.namespace().memory_used(), budget.merged),
                part("inodes", inodes * INODE, budget.inodes),
                part("queue", self.db.queued(), budget.queue),
            ],
        }
    }

    fn layer(&self, index: usize) -> status::Layer {
        use crate::source::Source;
        let guard = &self.guards[index];
        let layer = &self.vfs.namespace().layers()[index];
        let (health, counts) = (guard.health(), guard.counters());
        let reads = |pick: fn(&crate::fetch::Counters) -> &std::sync::atomic::AtomicU64| {
            self.vfs
                .counters(index)
                .map_or(0, |c| pick(c).load(Ordering::Relaxed))
        };
        let ready = status::Condition {
            kind: "Ready".into(),
            status: match health.status {
                Healthy::Ready => "True",
                Healthy::NotReady => "False",
                Healthy::Unknown => "Unknown",
            }
            .into(),
            reason: health.reason.to_owned(),
            message: health.message.clone(),
            last_transition_time: rfc3339(health.last_transition),
        };
        status::Layer {
            name: layer.name.clone(),
            source: guard.url(&RelPath::root()),
            path: layer.graft.to_string(),
            conditions: vec![ready],
            bytes_fetched: counts.bytes,
            requests: counts.requests,
            errors: counts.errors,
            hits: reads(|c| &c.hits),
            misses: reads(|c| &c.misses),
            prefetch_used: reads(|c| &c.prefetch_used),
            prefetch_wasted: reads(|c| &c.prefetch_wasted),
            hidden: self.vfs.hidden_names(index),
            last_refresh: health.last_success.map(rfc3339),
            last_error: health
                .last_error
                .as_ref()
                .map(|(when, what)| format!("{}: {what}", rfc3339(*when))),
        }
    }
}

fn rfc3339(time: Timestamp) -> String {
    humantime::format_rfc3339_seconds(time.into()).to_string()
}

/// Returns a value as JSON for a person or a program.
pub fn pretty(value: &impl Serialize) -> String {
    serde_json::to_string_pretty(value)
        .unwrap_or_else(|e| format!("{{\"error\": {:?}}}", e.to_string()))
}
