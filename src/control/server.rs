//! The daemon's side of the control socket, and of the same over TCP.

use std::collections::BTreeMap;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Weak};
use std::time::Instant;

use axum::body::Body;
use axum::extract::{DefaultBodyLimit, Query, State};
use axum::http::{StatusCode, header};
use axum::middleware::from_fn_with_state;
use axum::response::IntoResponse;
use axum::routing::{get, post};
use axum::{Json, Router};
use futures::StreamExt;
use serde::Serialize;
use svol_cache::Cache;
use tokio::task::JoinSet;

use super::health::{self, Pulse, Readiness, Waker};
use super::registry::Record;
use super::tcp::{self, Door};
use super::{metrics, status};
use crate::act;
use crate::app::View;
use crate::app::reload::{Answer as Reloaded, Reloader};
use crate::catalogue::{Db, Memory, RefreshReport};
use crate::entry::Timestamp;
use crate::fetch::Fetcher;
use crate::fuse::mounter::Mounter;
use crate::fuse::{Notifications, Passthrough};
use crate::holder::History;
use crate::hook::Hooks;
use crate::memory::{Budget, Ceiling, INODE, resident};
use crate::path::RelPath;
use crate::sandbox;
use crate::source::ErrorKind;
use crate::source::guard::{ANSWER_BOUNDS, Counters, Guarded, Status as Healthy};
use crate::vfs::{Trouble, Vfs};

/// How many failing paths the status tells of: what a person reads.
const PATHS: usize = 20;

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
    pulse: Pulse,
    mounter: Weak<Mounter>,
    waker: Waker,
    listen: Option<String>,
    hooks: Option<Arc<Hooks>>,
    reloader: Arc<Reloader>,
    started: Instant,
}

/// What the daemon has that the volume has not.
pub struct Around {
    /// What was given up.
    pub sandbox: sandbox::Report,
    /// Whether files are passed through.
    pub passthrough: Arc<Passthrough>,
    /// Tells the kernel of changed names.
    pub notifications: Notifications,
    /// Asks the mount.
    pub mounter: Arc<Mounter>,
    /// Looks after the volume file.
    pub reloader: Arc<Reloader>,
    /// Who is told of changes.
    pub hooks: Option<Arc<Hooks>>,
    /// Where to listen beside the socket.
    pub door: Option<Door>,
}

/// The longest request: more paths than a command line may have, in bytes.
const REQUEST: usize = 16 << 20;

type Answer<T> = Result<Json<T>, (StatusCode, String)>;

/// Starts answering on the record's socket, which only this user may open, and over TCP where that
/// was asked for; until what is returned is dropped.
pub async fn start(record: Record, view: &View, around: Around) -> std::io::Result<JoinSet<()>> {
    // Bound aside and renamed: there is always somebody behind the name, if only the one before.
    let aside = record.socket.with_extension("next");
    let _ = std::fs::remove_file(&aside);
    let listener = tokio::net::UnixListener::bind(&aside)?;
    std::fs::set_permissions(&aside, std::fs::Permissions::from_mode(0o600))?;
    std::fs::rename(&aside, &record.socket)?;
    let address = around.door.as_ref().map(|door| door.socket.local_addr());
    let listen = address.transpose()?.map(|address| address.to_string());
    let layers = view.vfs.namespace().active();
    let required = view.guards.iter().zip(layers).filter(|(_, l)| l.required);
    let subject = Arc::new(Subject {
        record,
        name: view.name.clone(),
        vfs: view.vfs.clone(),
        notifications: around.notifications,
        guards: view.guards.clone(),
        cache: view.cache.clone(),
        cache_dir: view.cache_dir.clone(),
        sandbox: around.sandbox,
        passthrough: around.passthrough,
        ceiling: view.ceiling.clone(),
        listings: view.listings.clone(),
        fetcher: view.fetcher.clone(),
        db: view.db.clone(),
        pulse: Pulse::new(&around.mounter),
        mounter: Arc::downgrade(&around.mounter),
        waker: Waker::new(required.map(|(guard, _)| guard.clone())),
        listen,
        hooks: around.hooks,
        reloader: around.reloader,
        started: Instant::now(),
    });
    // What only tells; the rest is for whoever may open the socket.
    let telling = Router::new()
        .route("/status", get(status))
        .route("/metrics", get(figures))
        .route("/healthz", get(healthz))
        .route("/readyz", get(readyz));
    let app = telling
        .clone()
        .route("/refresh", post(refresh))
        .route("/reload", post(reload))
        .route("/act", post(act).layer(DefaultBodyLimit::max(REQUEST)))
        .route("/explain", get(explain));
    #[cfg(feature = "failpoints")]
    let app = app.route("/attempt", post(attempt));
    let app = app.with_state(subject.clone());
    let mut serving = JoinSet::new();
    serving.spawn(async move {
        if let Err(error) = axum::serve(listener, app).await {
            tracing::warn!(%error, "the control socket closed");
        }
    });
    if let Some(Door { socket, rules }) = around.door {
        let listener = tcp::Bounded::new(socket, rules.tls.clone())?;
        let app = telling
            .layer(from_fn_with_state(rules, tcp::admit))
            .with_state(subject);
        serving.spawn(async move {
            if let Err(error) = axum::serve(listener, app).await {
                tracing::warn!(%error, "the control address closed");
            }
        });
    }
    Ok(serving)
}

async fn status(State(subject): State<Arc<Subject>>) -> Json<status::Mount> {
    Json(subject.status())
}

async fn figures(State(subject): State<Arc<Subject>>) -> impl IntoResponse {
    let kind = [(header::CONTENT_TYPE, metrics::CONTENT_TYPE)];
    (kind, metrics::render(&subject.status()))
}

async fn healthz(State(subject): State<Arc<Subject>>) -> (StatusCode, Json<health::Health>) {
    let health = subject.pulse.feel().await;
    (code(health.healthy), Json(health))
}

async fn readyz(State(subject): State<Arc<Subject>>) -> (StatusCode, Json<Readiness>) {
    let (health, ()) = tokio::join!(subject.pulse.feel(), subject.waker.wake());
    let readiness = health::readiness(&health, &subject.layers());
    (code(readiness.ready), Json(readiness))
}

fn code(well: bool) -> StatusCode {
    match well {
        true => StatusCode::OK,
        false => StatusCode::SERVICE_UNAVAILABLE,
    }
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

/// Looks at the volume file, and has it taken up where it is another one.
async fn reload(State(subject): State<Arc<Subject>>) -> Json<Reloaded> {
    Json(subject.reloader.look().await)
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

/// Tries what the sandbox has to refuse; answers with the number of the error, or 0. Or wedges the
/// mount, or frees it.
#[cfg(feature = "failpoints")]
async fn attempt(Query(query): Query<BTreeMap<String, String>>) -> Answer<Option<i32>> {
    let get = |name: &str| query.get(name).cloned().unwrap_or_default();
    let (what, path) = (get("what"), PathBuf::from(get("path")));
    if let "wedge" | "free" = what.as_str() {
        crate::fuse::wedge::set(what == "wedge");
        return Ok(Json(Some(0)));
    }
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
        let troubles = self.vfs.troubles();
        let cache = status::Cache::of(&self.cache, self.cache_dir.clone());
        status::Mount {
            mountpoint: self.record.mountpoint.clone(),
            name: self.name.clone(),
            pid: std::process::id(),
            takeover: self.history(),
            socket: self.record.socket.clone(),
            control_socket: self.record.socket.clone(),
            listen: self.listen.clone(),
            uptime_seconds: self.started.elapsed().as_secs_f64(),
            generation: self.reloader.generation(),
            layers: self.layers(),
            cache: Some(cache),
            memory: Some(self.memory(self.cache.stats().memory_used, inodes as u64)),
            sandbox: self.sandbox.clone(),
            inodes: inodes as u64,
            open_files: open_files as u64,
            failing_paths: troubles.len() as u64,
            path_errors: troubles.iter().take(PATHS).map(|t| self.told(t)).collect(),
            passthrough: self.passed(),
            on_change: self.hooks(),
            conditions: self.reloader.condition().into_iter().collect(),
            reloads: self.reloads(),
        }
    }

    fn reloads(&self) -> status::Reloads {
        let (applied, rejected) = self.reloader.counts();
        status::Reloads {
            applied,
            rejected,
            changes: self.reloader.changes(),
            taken_up: rfc3339(self.reloader.taken_up()),
            taken_up_seconds: self.reloader.taken_up().0 as f64 / 1e9,
        }
    }

    fn hooks(&self) -> Vec<status::Hook> {
        let tallies = self.hooks.iter().flat_map(|hooks| hooks.tallies());
        tallies
            .map(|(kind, target, tally)| status::Hook {
                kind: kind.to_owned(),
                target,
                runs: tally.done + tally.failed,
                failures: tally.failed,
                last_success: tally.last_success,
                last_error: tally.last_error,
            })
            .collect()
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

    /// Asks the holder, which answers at once.
    fn history(&self) -> Option<History> {
        serde_json::from_str(&self.mounter.upgrade()?.history()?).ok()
    }

    fn told(&self, trouble: &Trouble) -> status::PathError {
        let layers = self.vfs.namespace().layers();
        let layer = trouble.layer.and_then(|index| layers.get(index));
        status::PathError {
            path: trouble.path.to_string(),
            operation: trouble.operation.name().into(),
            layer: layer.map(|layer| layer.name.clone()),
            reason: trouble.reason.into(),
            message: trouble.message.clone(),
            since: rfc3339(trouble.since),
            last: rfc3339(trouble.last),
            times: trouble.times,
            next: self.vfs.next_of(trouble),
        }
    }

    fn layers(&self) -> Vec<status::Layer> {
        (0..self.guards.len()).map(|i| self.layer(i)).collect()
    }

    fn layer(&self, index: usize) -> status::Layer {
        use crate::source::Source;
        let guard = &self.guards[index];
        let layer = &self.vfs.namespace().layers()[index];
        let (health, counts) = (guard.health(), guard.counters());
        let listed = layer.catalogue.counts();
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
            observed_generation: self.reloader.generation(),
        };
        status::Layer {
            name: layer.name.clone(),
            source: guard.url(&RelPath::root()),
            path: layer.graft.to_string(),
            required: layer.required,
            in_place: guard.in_place().is_some(),
            conditions: vec![ready],
            bytes_fetched: counts.bytes,
            requests: counts.requests,
            errors: counts.errors,
            errors_by_reason: ErrorKind::ALL
                .iter()
                .zip(counts.errors_by_kind)
                .map(|(kind, count)| (kind.reason().to_owned(), count))
                .collect(),
            retries: counts.retries,
            breaker_open: guard.is_broken(),
            in_flight: guard.in_flight() as u64,
            answers: answers(&counts),
            listings: listed.listings,
            listing_failures: listed.failures,
            stale_served: listed.stale_served,
            hits: reads(|c| &c.hits),
            hit_bytes: reads(|c| &c.hit_bytes),
            misses: reads(|c| &c.misses),
            miss_bytes: reads(|c| &c.miss_bytes),
            prefetch_used: reads(|c| &c.prefetch_used),
            prefetch_wasted: reads(|c| &c.prefetch_wasted),
            quarantined: reads(|c| &c.quarantined),
            hidden: self.vfs.hidden_names(index),
            last_refresh: health.last_success.map(rfc3339),
            last_error: health
                .last_error
                .as_ref()
                .map(|(when, what)| format!("{}: {what}", rfc3339(*when))),
        }
    }
}

fn answers(counts: &Counters) -> status::Answers {
    let bounds = ANSWER_BOUNDS.iter().copied().map(Some).chain([None]);
    let buckets = bounds.zip(counts.answered_within);
    status::Answers {
        buckets: buckets
            .map(|(within_millis, count)| status::Bucket {
                within_millis,
                count,
            })
            .collect(),
        sum_seconds: counts.answer_time.as_secs_f64(),
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
