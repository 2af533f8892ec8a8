//! `svol cache`: looking after the cache on disk.

use std::io::Write;

use bytesize::ByteSize;

use super::Failure;
use crate::app::open_cache_only;
use crate::cli::args::{CacheArgs, CacheCommand, CacheDirArgs};
use crate::cli::{CacheSettings, Env, ExitStatus, resolve_cache};

/// Runs one of the commands of `svol cache`.
pub fn cache(
    args: &CacheArgs,
    out: &mut dyn Write,
    err: &mut dyn Write,
) -> Result<ExitStatus, Failure> {
    match &args.command {
        CacheCommand::Stats { cache, json } => stats(&settings(cache)?, *json, out),
        CacheCommand::Verify { cache } => verify(&settings(cache)?, out, err),
        CacheCommand::Gc { cache } => gc(&settings(cache)?, out),
    }
}

/// The cache must be there already: looking after one that is not would make it.
fn settings(args: &CacheDirArgs) -> Result<CacheSettings, Failure> {
    let settings = resolve_cache(args, &Env::of_process()?)?;
    if settings.dir.exists() {
        return Ok(settings);
    }
    Err(Failure::failed(format!(
        "{}: there is no cache yet; the first mount makes it",
        settings.dir.display()
    )))
}

fn size(bytes: u64) -> String {
    ByteSize(bytes).display().iec().to_string()
}

fn stats(settings: &CacheSettings, json: bool, out: &mut dyn Write) -> Result<ExitStatus, Failure> {
    let stats = open_cache_only(settings)?.stats();
    if json {
        let document = serde_json::json!({
            "dir": settings.dir,
            "limitBytes": stats.limit,
            "usedBytes": stats.used,
            "objects": stats.objects,
            "blobs": stats.blobs,
            "packed": stats.packed,
            "pinned": stats.pinned,
            "pinnedBytes": stats.pinned_bytes,
        });
        writeln!(out, "{}", crate::control::server::pretty(&document))?;
    } else {
        writeln!(out, "Cache     {}", settings.dir.display())?;
        writeln!(
            out,
            "Used      {} of {}",
            size(stats.used),
            size(stats.limit)
        )?;
        writeln!(out, "Objects   {}", stats.objects)?;
        writeln!(out, "Blobs     {} whole files", stats.blobs)?;
        writeln!(out, "Packed    {} small files", stats.packed)?;
        let pinned = size(stats.pinned_bytes);
        writeln!(out, "Pinned    {} files, {pinned}", stats.pinned)?;
    }
    Ok(ExitStatus::Done)
}

fn verify(
    settings: &CacheSettings,
    out: &mut dyn Write,
    err: &mut dyn Write,
) -> Result<ExitStatus, Failure> {
    let cache = open_cache_only(settings)?;
    let report = cache.verify(|_| {}).map_err(Failure::failed)?;
    writeln!(
        out,
        "{} in {} whole files, {} partial files and {} small files checked: {} blobs, {} grains and {} small files were bad",
        size(report.bytes),
        report.blobs,
        report.partials,
        report.packed,
        report.bad_blobs,
        report.bad_grains,
        report.bad_packed
    )?;
    if report.is_clean() {
        return Ok(ExitStatus::Done);
    }
    writeln!(
        err,
        "svol: what did not match its digest was dropped and will be fetched again; if this repeats, check the disk"
    )?;
    Ok(ExitStatus::Failed)
}

fn gc(settings: &CacheSettings, out: &mut dyn Write) -> Result<ExitStatus, Failure> {
    let cache = open_cache_only(settings)?;
    let report = cache.gc(None).map_err(Failure::failed)?;
    writeln!(
        out,
        "{} freed: {} files evicted, {} orphans and {} leftovers removed; {} used now",
        size(report.freed_bytes),
        report.evicted,
        report.orphans,
        report.stale,
        size(report.used)
    )?;
    Ok(ExitStatus::Done)
}
