//! `svol doctor`: what may be wrong, and what to do about it.

use std::ffi::{OsStr, OsString};
use std::io::Write;
use std::path::PathBuf;

use super::{Failure, runtime};
use crate::cli::args::{CacheDirArgs, DoctorArgs};
use crate::cli::{Env, ExitStatus, resolve_cache, resolve_view};
use crate::doctor::gather::{self, Request};
use crate::doctor::{Finding, Level, Report};

/// Looks at everything, and prints what was found. Fails where any check did.
pub fn doctor(args: &DoctorArgs, out: &mut dyn Write) -> Result<ExitStatus, Failure> {
    let request = request(args, &Env::of_process()?)?;
    let runtime = runtime()?;
    let findings = runtime.block_on(gather::look(&request));
    // A look that hangs must not keep us.
    runtime.shutdown_background();
    let report = Report::of(findings);
    match args.json {
        true => writeln!(out, "{}", crate::control::server::pretty(&report))?,
        false => print(&report, out)?,
    }
    Ok(match report.result {
        Level::Fail => ExitStatus::Failed,
        Level::Ok | Level::Warn => ExitStatus::Done,
    })
}

fn request(args: &DoctorArgs, env: &Env) -> Result<Request, Failure> {
    let places = args.places.iter().cloned();
    let (sources, mountpoints): (Vec<OsString>, Vec<OsString>) =
        places.partition(|place| is_source(place));
    if mountpoints.len() > 1 {
        return Err(Failure::usage(
            "more than one mount point; name one, and write a directory that is a source as \
             file:///DIR or DIR=/",
        ));
    }
    let by_variable = env.variables.get("SVOL_CONFIG");
    let names_volume = !sources.is_empty()
        || args.volume.config.is_some()
        || by_variable.is_some_and(|file| !file.is_empty());
    let view = match names_volume {
        true => Some(resolve_view(&args.volume, &sources, env)?),
        false => None,
    };
    let cache = match &view {
        Some(view) => view.cache.clone(),
        None => resolve_cache(
            &CacheDirArgs {
                cache_dir: args.volume.cache_dir.clone(),
                cache_size: args.volume.cache_size,
            },
            env,
        )?,
    };
    let memory = view.as_ref().map_or(args.volume.memory, |view| view.memory);
    Ok(Request {
        view,
        cache,
        memory: memory.map(|size| size.0),
        mountpoint: mountpoints.into_iter().next().map(PathBuf::from),
    })
}

/// Returns whether an argument names a source: a URL, a directory with where it goes, or what Git
/// writes for a repository behind SSH (`user@host:path`).
fn is_source(place: &OsStr) -> bool {
    let text = place.to_string_lossy();
    let is_ssh = text
        .split_once(':')
        .is_some_and(|(host, _)| host.contains('@') && !host.contains('/'));
    text.contains("://") || text.contains("=/") || is_ssh
}

fn print(report: &Report, out: &mut dyn Write) -> std::io::Result<()> {
    let named = |finding: &Finding| match &finding.subject {
        Some(subject) => format!("{} [{subject}]", finding.check),
        None => finding.check.clone(),
    };
    for finding in &report.findings {
        let level = match finding.level {
            Level::Ok => "ok  ",
            Level::Warn => "WARN",
            Level::Fail => "FAIL",
        };
        writeln!(out, "{level}  {}: {}", named(finding), finding.saw)?;
        if let Some(remedy) = &finding.remedy {
            writeln!(out, "      -> {remedy}")?;
        }
    }
    let count = |n: usize, what: &str| match n {
        1 => format!("1 {what}"),
        n => format!("{n} {what}s"),
    };
    writeln!(
        out,
        "\n{}, {}, {}",
        count(report.findings.len(), "check"),
        count(report.failures, "failure"),
        count(report.warnings, "warning")
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sources_are_told_from_mount_points() {
        for source in ["s3://b", "https://h/d/=/x", "/srv/d=/", "git@h:r.git"] {
            assert!(is_source(OsStr::new(source)), "{source}");
        }
        for place in ["/mnt/v", "mnt", "./a:b", "a/b@c:d"] {
            assert!(!is_source(OsStr::new(place)), "{place}");
        }
    }

    #[test]
    fn a_report_is_short_and_ends_with_its_sum() {
        let report = Report::of(vec![
            Finding::ok("kernel/version", "Linux 6.18"),
            Finding::warn("cache/disk", "on tmpfs", "move it"),
            Finding::fail("mount/serves", "dead", "umount -l /m").of("/m"),
        ]);
        let mut out = Vec::new();
        print(&report, &mut out).unwrap();
        assert_eq!(
            String::from_utf8(out).unwrap(),
            "ok    kernel/version: Linux 6.18\nWARN  cache/disk: on tmpfs\n      -> move it\n\
             FAIL  mount/serves [/m]: dead\n      -> umount -l /m\n\n3 checks, 1 failure, 1 warning\n"
        );
    }
}
