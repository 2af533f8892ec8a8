//! `svol warm`, `evict`, `pin`, `unpin` and `stats`: acting on the cache by files.
//!
//! In a mount the daemon does the work, so that it shares requests with the mount's readers; of a
//! volume that is not mounted this process does.

use std::collections::BTreeMap;
use std::io::{self, IsTerminal, Write};
use std::path::{Path, PathBuf};

use bytesize::ByteSize;
use serde_json::{Value, json};
use tokio::runtime::Runtime;
use tokio::signal::unix::{SignalKind, signal};

use super::status::locate;
use super::{Failure, look, runtime};
use crate::act::{self, Action, Count, Event, Outcome, Request, Summary, pattern};
use crate::app::{View, open_cache_only};
use crate::cli::args::{
    CacheDirArgs, EvictArgs, FilesArgs, PinArgs, StatsArgs, UnpinArgs, WarmArgs,
};
use crate::cli::{Env, ExitStatus, resolve_cache};
use crate::control::client;
use crate::control::registry::Record;

mod show;

use show::Show;

/// Failures that a JSON document has at most; all are counted.
const FAILURES: usize = 1000;

/// Pins that are read together.
const PAGE: u64 = 1024;

/// Fetches files before anybody reads them.
pub fn warm(
    args: &WarmArgs,
    out: &mut dyn Write,
    err: &mut dyn Write,
) -> Result<ExitStatus, Failure> {
    let action = match args.check {
        true => Action::Check,
        false => Action::Warm {
            jobs: usize::from(args.jobs),
        },
    };
    act(action, &args.files, out, err)
}

/// Removes what the cache has of files.
pub fn evict(
    args: &EvictArgs,
    out: &mut dyn Write,
    err: &mut dyn Write,
) -> Result<ExitStatus, Failure> {
    act(Action::Evict, &args.files, out, err)
}

/// Spares files from eviction, or lists those that are.
pub fn pin(
    args: &PinArgs,
    out: &mut dyn Write,
    err: &mut dyn Write,
) -> Result<ExitStatus, Failure> {
    match args.list {
        true => list(&args.files, out),
        false => act(Action::Pin, &args.files, out, err),
    }
}

/// No longer spares files.
pub fn unpin(
    args: &UnpinArgs,
    out: &mut dyn Write,
    err: &mut dyn Write,
) -> Result<ExitStatus, Failure> {
    if args.urls.is_empty() {
        return act(Action::Unpin, &args.files, out, err);
    }
    let cache = cache_of(&args.files)?;
    let (mut done, mut failed) = (0, 0);
    for url in &args.urls {
        let before = cache.stats().pinned;
        cache.unpin(None, url).map_err(Failure::failed)?;
        if cache.stats().pinned < before {
            writeln!(out, "{url}: not pinned any more")?;
            done += 1;
        } else {
            writeln!(
                err,
                "svol: {url}: nothing is pinned by that name (see `svol pin --list`)"
            )?;
            failed += 1;
        }
    }
    Ok(ExitStatus::of_several(done, failed))
}

/// Says how much of files and trees is here.
pub fn stats(
    args: &StatsArgs,
    out: &mut dyn Write,
    err: &mut dyn Write,
) -> Result<ExitStatus, Failure> {
    act(Action::Stats, &args.files, out, err)
}

fn cache_of(files: &FilesArgs) -> Result<svol_cache::Cache, Failure> {
    let args = CacheDirArgs {
        cache_dir: files.volume.cache_dir.clone(),
        cache_size: files.volume.cache_size,
    };
    let settings = resolve_cache(&args, &Env::of_process()?)?;
    if !settings.dir.exists() {
        return Err(Failure::failed(format!(
            "{}: there is no cache yet; the first mount makes it",
            settings.dir.display()
        )));
    }
    Ok(open_cache_only(&settings)?)
}

fn list(files: &FilesArgs, out: &mut dyn Write) -> Result<ExitStatus, Failure> {
    let cache = cache_of(files)?;
    let mut all = Vec::new();
    let mut last = None;
    loop {
        let page = cache.pins(last.as_ref(), PAGE).map_err(Failure::failed)?;
        let Some(end) = page.last().cloned() else {
            break;
        };
        for pin in &page {
            let cached = cache.object(pin.key, pin.size).present_bytes();
            if files.json {
                all.push(json!({"url": pin.note, "bytes": pin.size, "cachedBytes": cached}));
            } else {
                writeln!(
                    out,
                    "{:>11}  {:>11}  {}",
                    size(pin.size),
                    size(cached),
                    pin.note
                )?;
            }
        }
        last = Some(end);
    }
    let stats = cache.stats();
    if files.json {
        let document = json!({"pinned": stats.pinned, "pinnedBytes": stats.pinned_bytes,
            "files": all});
        writeln!(out, "{}", crate::control::server::pretty(&document))?;
    } else {
        let (pinned, capacity) = (size(stats.pinned_bytes), size(cache.capacity()));
        writeln!(
            out,
            "{} files pinned (size, of that here, from where), {pinned} of {capacity} that the cache keeps",
            stats.pinned
        )?;
    }
    Ok(ExitStatus::Done)
}

/// Where the work is done.
enum Target {
    Mount(Record),
    View(Box<View>),
}

/// Some paths of one volume.
struct Asked {
    target: Target,
    paths: Vec<String>,
}

impl Asked {
    /// Returns a path of the volume as the user knows it.
    fn shown(&self, path: &str) -> String {
        let path = path.trim_start_matches('/');
        match &self.target {
            Target::Mount(record) if path.is_empty() => record.mountpoint.display().to_string(),
            Target::Mount(record) => record.mountpoint.join(path).display().to_string(),
            Target::View(_) => format!("/{path}"),
        }
    }
}

fn act(
    action: Action,
    files: &FilesArgs,
    out: &mut dyn Write,
    err: &mut dyn Write,
) -> Result<ExitStatus, Failure> {
    let runtime = runtime()?;
    let mut show = Show::new(action, files.json, out, err);
    let asked = ask(files, &runtime, &mut show)?;
    let mut is_interrupted = false;
    for asked in asked {
        let paths = asked.paths.clone();
        let request = Request { action, paths };
        let mut problem = None;
        let mut take = |event: Event| {
            let shown = show.take(event, |path| asked.shown(path));
            problem = shown.err();
            problem.is_none()
        };
        let ended = runtime.block_on(async {
            let mut term = signal(SignalKind::terminate())?;
            tokio::select! {
                result = drive(&asked.target, request, &mut take) => Ok(Some(result)),
                _ = tokio::signal::ctrl_c() => Ok(None),
                _ = term.recv() => Ok::<_, io::Error>(None),
            }
        })?;
        if let Some(problem) = problem {
            return Err(problem.into());
        }
        match ended {
            Some(Ok(())) => {}
            Some(Err(why)) => show.failed(&asked.shown(""), &why)?,
            None => is_interrupted = true,
        }
        if let Target::View(view) = asked.target {
            runtime.block_on(view.close());
        }
        if is_interrupted {
            break;
        }
    }
    let status = show.end(is_interrupted)?;
    // What is under way is not waited for.
    runtime.shutdown_background();
    Ok(status)
}

async fn drive(
    target: &Target,
    request: Request,
    take: &mut dyn FnMut(Event) -> bool,
) -> Result<(), String> {
    let mut is_done = false;
    let mut take = |event: Event| {
        is_done = matches!(event, Event::Done { .. });
        take(event)
    };
    match target {
        Target::Mount(record) => client::follow(&record.socket, "/act", &request, take)
            .await
            .map_err(|e| e.to_string())?,
        Target::View(view) => {
            let mut events = act::start(view.vfs.clone(), view.cache.clone(), request);
            while let Some(event) = events.recv().await {
                if !take(event) {
                    break;
                }
            }
        }
    }
    match is_done {
        true => Ok(()),
        false => Err("it ended before all was done; the same command goes on from there".into()),
    }
}

/// Returns what is asked for, volume by volume.
fn ask(files: &FilesArgs, runtime: &Runtime, show: &mut Show<'_>) -> Result<Vec<Asked>, Failure> {
    let is_url = |place: &std::ffi::OsString| place.to_str().is_some_and(|p| p.contains("://"));
    let is_view =
        files.volume.config.is_some() || !files.paths.is_empty() || files.places.iter().any(is_url);
    if is_view {
        let view = look::open(&files.volume, &files.places, runtime)?;
        let paths = match files.paths.is_empty() {
            true => vec!["/".to_owned()],
            false => files.paths.clone(),
        };
        let target = Target::View(Box::new(view));
        return Ok(vec![Asked { target, paths }]);
    }
    if files.places.is_empty() {
        return Err(Failure::usage(
            "name files, directories or patterns in a mount; or, of a volume that is not mounted, \
             -c FILE or its sources",
        ));
    }
    let mut mounts: BTreeMap<PathBuf, Asked> = BTreeMap::new();
    for place in &files.places {
        match locate_pattern(Path::new(place)) {
            Ok((record, inside)) => mounts
                .entry(record.socket.clone())
                .or_insert_with(|| Asked {
                    target: Target::Mount(record),
                    paths: Vec::new(),
                })
                .paths
                .push(inside),
            Err(why) => show.failed("", &why)?,
        }
    }
    Ok(mounts.into_values().collect())
}

/// Returns the mount that a path or pattern is in, and where in it; the mount is not touched.
fn locate_pattern(path: &Path) -> Result<(Record, String), String> {
    let text = path
        .to_str()
        .ok_or_else(|| format!("{}: not UTF-8, so no name of a volume", path.display()))?;
    let (base, rest) = pattern::split(text);
    if rest.is_empty() || !pattern::is_pattern(rest) {
        return locate(path);
    }
    let base = if base.is_empty() { "." } else { base };
    let (record, inside) = locate(Path::new(base)).map_err(|_| {
        format!(
            "{text}: {base} is not in a mounted volume (see `svol status`), and a pattern is of one"
        )
    })?;
    Ok((record, format!("{inside}/{rest}")))
}

fn size(bytes: u64) -> String {
    ByteSize(bytes).display().iec().to_string()
}
