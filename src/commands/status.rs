//! `svol status`, `svol explain` and `svol refresh`: questions to the daemons.

use std::io::Write;
use std::path::{Path, PathBuf};

use bytesize::ByteSize;
use serde_json::Value;

use super::{Failure, runtime};
use crate::cli::args::{ExplainArgs, RefreshArgs, StatusArgs};
use crate::cli::{Env, ExitStatus, resolve_cache};
use crate::control::client::{self, PATIENT, PROMPT};
use crate::control::registry::{self, Record};
use crate::control::status::{Cache, Layer, Mount, Status, VERSION};

/// Failing paths shown for each mount; the JSON document has more.
const ERRORS: usize = 3;

/// Prints the state of all mounts of this user, or of those named.
pub fn status(
    args: &StatusArgs,
    out: &mut dyn Write,
    err: &mut dyn Write,
) -> Result<ExitStatus, Failure> {
    let mut records = registry::list()?;
    let mut failed = 0;
    if !args.mountpoints.is_empty() {
        let mut wanted = Vec::new();
        for path in &args.mountpoints {
            match registry::find(path)? {
                Some(record) => wanted.push(record.mountpoint),
                None => {
                    writeln!(err, "svol: {}: no volume is mounted there", path.display())?;
                    failed += 1;
                }
            }
        }
        records.retain(|r| wanted.contains(&r.mountpoint));
    }
    let runtime = runtime()?;
    let mut mounts = Vec::new();
    for record in &records {
        let asked = client::ask::<Mount>(&record.socket, false, "/status", &[], PROMPT);
        match runtime.block_on(asked) {
            Ok(mount) => mounts.push(mount),
            Err(error) => {
                let at = record.mountpoint.display();
                writeln!(err, "svol: {at} (process {}): {error}", record.pid)?;
                failed += 1;
            }
        }
    }
    let cache = match mounts.first() {
        Some(mount) => mount.cache.clone(),
        None => default_cache(),
    };
    let status = Status {
        version: VERSION,
        mounts,
        cache,
    };
    if args.json {
        writeln!(out, "{}", crate::control::server::pretty(&status))?;
    } else {
        print(&status, out)?;
    }
    Ok(ExitStatus::of_several(status.mounts.len(), failed))
}

/// Returns the default cache, if there is one; it is not made for a question.
fn default_cache() -> Option<Cache> {
    let env = Env::of_process().ok()?;
    let settings = resolve_cache(&Default::default(), &env).ok()?;
    if !settings.dir.exists() {
        return None;
    }
    let cache = crate::app::open_cache_only(&settings).ok()?;
    Some(Cache::of(&cache, settings.dir))
}

fn print_takeover(mount: &Mount, out: &mut dyn Write) -> std::io::Result<()> {
    let Some(history) = &mount.takeover else {
        return Ok(());
    };
    if let Some(last) = &history.last {
        let count: u64 = history.restarts.values().sum();
        writeln!(
            out,
            "  ! served by another process since {} ({}; {count} so far): {}",
            last.at,
            last.reason.name(),
            last.message
        )?;
    }
    if let Some(refused) = &history.refused {
        let reason = refused.reason.name();
        writeln!(
            out,
            "  ! no {reason} at {}: {}",
            refused.at, refused.message
        )?;
    }
    Ok(())
}

fn size(bytes: u64) -> String {
    ByteSize(bytes).display().iec().to_string()
}

fn print(status: &Status, out: &mut dyn Write) -> std::io::Result<()> {
    if status.mounts.is_empty() {
        writeln!(out, "No volume is mounted.")?;
    }
    for mount in &status.mounts {
        writeln!(
            out,
            "{}  volume {}, process {}, {} open files, passthrough {}",
            mount.mountpoint.display(),
            mount.name,
            mount.pid,
            mount.open_files,
            match &mount.passthrough.reason {
                Some(why) => format!("off: {why}"),
                None => "on".into(),
            }
        )?;
        print_takeover(mount, out)?;
        print_table(&mount.layers, out)?;
        if let Some(memory) = &mount.memory {
            writeln!(
                out,
                "  Memory: {} of {} ({}), {} at most so far",
                size(memory.resident_bytes),
                size(memory.limit_bytes),
                memory.from,
                size(memory.peak_bytes)
            )?;
            let parts = memory.parts.iter().filter(|part| part.used_bytes > 0);
            let parts: Vec<String> = parts
                .map(|part| {
                    let (used, limit) = (size(part.used_bytes), size(part.limit_bytes));
                    format!("{} {used} of {limit}", part.name)
                })
                .collect();
            if !parts.is_empty() {
                writeln!(out, "  of that: {}", parts.join(", "))?;
            }
        }
        for layer in &mount.layers {
            let failing = layer.conditions.iter().find(|c| c.status == "False");
            if let Some(condition) = failing {
                writeln!(
                    out,
                    "  ! {} since {}: {}",
                    layer.name, condition.last_transition_time, condition.message
                )?;
            } else if let Some(error) = &layer.last_error {
                writeln!(out, "  {}'s last error, {error}", layer.name)?;
            }
            if layer.hidden > 0 {
                writeln!(
                    out,
                    "  ! {}: {} names cannot be shown (see the log)",
                    layer.name, layer.hidden
                )?;
            }
        }
        for condition in mount.conditions.iter().filter(|c| c.status == "False") {
            writeln!(
                out,
                "  ! the volume file is not what is served, since {}: {}",
                condition.last_transition_time, condition.message
            )?;
        }
        for hook in &mount.on_change {
            if let Some(error) = &hook.last_error {
                writeln!(out, "  ! the change hook {}: {error}", hook.target)?;
            }
        }
        for error in mount.path_errors.iter().take(ERRORS) {
            writeln!(
                out,
                "  ! {} of {} failed, last at {}: {}; next: {}",
                error.operation, error.path, error.last, error.message, error.next
            )?;
        }
        writeln!(out)?;
    }
    if let Some(cache) = &status.cache {
        writeln!(
            out,
            "Cache {}: {} of {} used",
            cache.dir.display(),
            size(cache.used_bytes),
            size(cache.limit_bytes)
        )?;
    }
    for mount in &status.mounts {
        let Some(cache) = &mount.cache else { continue };
        let at = mount.mountpoint.display();
        if let Some(last) = &cache.last_trouble {
            let times = cache.troubles;
            writeln!(
                out,
                "  ! {at}: its disk failed it {times} times, last {last}"
            )?;
        }
        if cache.unkept_bytes > 0 {
            let unkept = size(cache.unkept_bytes);
            writeln!(
                out,
                "  {at}: {unkept} served but not kept, for want of room or a disk"
            )?;
        }
    }
    Ok(())
}

fn print_table(layers: &[Layer], out: &mut dyn Write) -> std::io::Result<()> {
    let head = [
        "LAYER",
        "PATH",
        "STATE",
        "LAST REFRESH",
        "FETCHED",
        "REQUESTS",
        "HITS",
        "PREFETCH",
        "SOURCE",
    ];
    let mut rows = vec![head.map(str::to_owned)];
    for layer in layers {
        let ready = layer.conditions.iter().find(|c| c.kind == "Ready");
        let state = match ready {
            Some(c) if c.status == "True" => "ready".to_owned(),
            Some(c) if c.status == "False" => c.reason.clone(),
            _ => "not asked yet".to_owned(),
        };
        let reads = layer.hits + layer.misses;
        let prefetched = layer.prefetch_used + layer.prefetch_wasted;
        let percent = |part: u64, all: u64| match all {
            0 => "-".to_owned(),
            all => format!("{:.0} %", part as f64 * 100.0 / all as f64),
        };
        rows.push([
            layer.name.clone(),
            layer.path.clone(),
            state,
            layer.last_refresh.clone().unwrap_or_else(|| "-".into()),
            size(layer.bytes_fetched),
            layer.requests.to_string(),
            percent(layer.hits, reads),
            match prefetched {
                0 => "-".to_owned(),
                all => format!(
                    "{} used of {}",
                    percent(layer.prefetch_used, all),
                    size(all)
                ),
            },
            layer.source.clone(),
        ]);
    }
    let widths: Vec<usize> = (0..head.len())
        .map(|i| rows.iter().map(|r| r[i].chars().count()).max().unwrap_or(0))
        .collect();
    for row in rows {
        let line: Vec<String> = row
            .iter()
            .zip(&widths)
            .map(|(cell, &width)| format!("{cell:<width$}"))
            .collect();
        writeln!(out, "  {}", line.join("  ").trim_end())?;
    }
    Ok(())
}

/// Finds the mount that each path is in, asks its daemon, and prints with `show`.
fn ask_each(
    paths: &[PathBuf],
    post: bool,
    endpoint: &str,
    out: &mut dyn Write,
    err: &mut dyn Write,
    show: impl Fn(&Path, &Value, &mut dyn Write) -> std::io::Result<bool>,
) -> Result<ExitStatus, Failure> {
    let runtime = runtime()?;
    let (mut done, mut failed) = (0, 0);
    for path in paths {
        let answer = locate(path).and_then(|(record, inside)| {
            let within = if post { PATIENT } else { 2 * PATIENT / 10 };
            let query = [("path", inside.as_str())];
            runtime
                .block_on(client::ask::<Value>(
                    &record.socket,
                    post,
                    endpoint,
                    &query,
                    within,
                ))
                .map_err(|e| format!("{}: {e}", path.display()))
        });
        match answer {
            Ok(answer) if show(path, &answer, out)? => done += 1,
            Ok(_) => failed += 1,
            Err(message) => {
                writeln!(err, "svol: {message}")?;
                failed += 1;
            }
        }
    }
    Ok(ExitStatus::of_several(done, failed))
}

/// Returns the mount that `path` is in, and where in it; the mount itself is not touched.
pub(super) fn locate(path: &Path) -> Result<(Record, String), String> {
    let at = path.display();
    let record = registry::find(path)
        .map_err(|e| e.to_string())?
        .ok_or_else(|| format!("{at}: not in a mounted volume (see `svol status`)"))?;
    let absolute = std::path::absolute(path).map_err(|e| e.to_string())?;
    let inside = match absolute.strip_prefix(&record.mountpoint) {
        Ok(inside) => inside.to_owned(),
        // Through a symbolic link outside of the mount.
        Err(_) => {
            let parent = absolute.parent().and_then(|p| p.canonicalize().ok());
            let resolved = parent.zip(absolute.file_name()).map(|(p, n)| p.join(n));
            resolved
                .and_then(|p| p.strip_prefix(&record.mountpoint).map(Path::to_owned).ok())
                .ok_or_else(|| format!("{at}: not in a mounted volume"))?
        }
    };
    let inside = inside
        .to_str()
        .ok_or_else(|| format!("{at}: not UTF-8, so no name of a volume"))?;
    Ok((record, inside.to_owned()))
}

/// Tells where files of mounts come from, layer by layer.
pub fn explain(
    args: &ExplainArgs,
    out: &mut dyn Write,
    err: &mut dyn Write,
) -> Result<ExitStatus, Failure> {
    let json = args.json;
    ask_each(
        &args.paths,
        false,
        "/explain",
        out,
        err,
        |path, answer, out| {
            if json {
                writeln!(out, "{}", crate::control::server::pretty(answer))?;
                return Ok(true);
            }
            writeln!(out, "{}", path.display())?;
            for layer in answer.as_array().into_iter().flatten() {
                let text = |key: &str| layer[key].as_str().unwrap_or("").to_owned();
                let mut line = format!("  {:<16} {}", text("layer"), said(layer));
                for key in ["url", "version"] {
                    if !text(key).is_empty() {
                        line += &format!("  {key} {}", text(key));
                    }
                }
                writeln!(out, "{line}")?;
            }
            Ok(true)
        },
    )
}

/// Returns a layer's verdict in words; see [`crate::namespace::Verdict`].
fn said(layer: &Value) -> String {
    let text = |key: &str| layer[key].as_str().unwrap_or("?");
    match text("verdict") {
        "shown" => "shown".into(),
        "hiddenByLaterLayer" => format!("hidden by layer {}", text("by")),
        "hiddenByFilter" => "hidden by include or exclude".into(),
        "hiddenForLeadingOut" => "hidden: a symbolic link that leads out of the volume".into(),
        "hiddenByGraft" => "hidden: another layer is grafted there".into(),
        "graftPoint" => "leads to where it is grafted".into(),
        "absent" => "has nothing there".into(),
        "failed" => format!("cannot say ({}): {}", text("reason"), text("message")),
        // Of a daemon that is newer than this command.
        other => other.into(),
    }
}

/// Looks for changes now.
pub fn refresh(
    args: &RefreshArgs,
    out: &mut dyn Write,
    err: &mut dyn Write,
) -> Result<ExitStatus, Failure> {
    ask_each(
        &args.paths,
        true,
        "/refresh",
        out,
        err,
        |path, answer, out| {
            let count = |key: &str| answer[key].as_u64().unwrap_or(0);
            let errors: Vec<&str> = answer["errors"]
                .as_array()
                .into_iter()
                .flatten()
                .filter_map(Value::as_str)
                .collect();
            writeln!(
                out,
                "{}: {} directories looked at, {} entries changed, {} new, {} gone",
                path.display(),
                count("directories"),
                count("changed"),
                count("added"),
                count("removed")
            )?;
            for error in &errors {
                writeln!(out, "  ! {error}")?;
            }
            Ok(errors.is_empty())
        },
    )
}
