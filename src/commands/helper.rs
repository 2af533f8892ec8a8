//! `mount.svol`: what mount(8), and so /etc/fstab and systemd, run for the type `svol` or
//! `fuse.svol`.
//!
//! It is this program under another name. It turns what mount(8) says into a command line of
//! `svol mount`, which it starts and waits for, and the status into one of mount(8)'s.

use std::ffi::OsString;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use clap::Parser;

use crate::cli::args::HelperArgs;
use crate::cli::mount_options;
use crate::cli::{Cli, Env, resolve_mount};

/// The names by which mount(8) calls its helper.
const NAMES: [&str; 2] = ["mount.svol", "mount.fuse.svol"];

/// mount(8)'s statuses: what was asked for is wrong, the mount failed.
const USAGE: u8 = 1;
const FAILED: u8 = 32;

/// Returns whether this process was started under one of the helper's names.
pub fn is_asked_for() -> bool {
    let name = std::env::args_os().next().unwrap_or_default();
    let name = Path::new(&name).file_name().unwrap_or_default();
    NAMES.iter().any(|helper| name == *helper)
}

/// Mounts as mount(8) asks for it, and returns the status for it.
pub fn run() -> u8 {
    let args = match HelperArgs::try_parse() {
        Ok(args) => args,
        Err(error) => {
            let _ = error.print();
            return if error.use_stderr() { USAGE } else { 0 };
        }
    };
    match mount(&args) {
        Ok(status) => status,
        Err(why) => {
            eprintln!("mount.svol: {why}");
            FAILED
        }
    }
}

fn mount(args: &HelperArgs) -> Result<u8, String> {
    let Some(command) = translate(args) else {
        eprintln!("mount.svol: -N is not for helpers; run mount with --namespace, or nsenter");
        return Ok(USAGE);
    };
    if args.verbose {
        let shown: Vec<_> = command.words.iter().map(|w| w.to_string_lossy()).collect();
        eprintln!("mount.svol: svol {}", shown.join(" "));
    }
    if args.fake {
        return Ok(check(&command.words));
    }
    let program = std::env::current_exe().map_err(|e| format!("this program: {e}"))?;
    let mut svol = Command::new(program);
    svol.envs(surroundings());
    let status = svol
        .args(&command.words)
        // Whoever asks for a mount waits for its end, not for that of what serves it.
        .env_remove("SVOL_FOREGROUND")
        .status()
        .map_err(|e| format!("svol mount: {e}"))?;
    match status.code() {
        Some(0) => {
            // mount(8) says `rw` where nobody wrote anything: no reason to refuse, but not so.
            if command.is_rw {
                let at = args.directory.display();
                eprintln!("mount.svol: {at}: mounted read-only, as all volumes are (write ro)");
            }
            Ok(0)
        }
        Some(2) => Ok(USAGE),
        _ => Ok(FAILED),
    }
}

/// Returns what mount(8) takes from the environment where a user runs it: their home, where the cache
/// is, and their directory for sockets, where `svol status` looks.
fn surroundings() -> Vec<(&'static str, PathBuf)> {
    let uid = rustix::process::geteuid();
    let sockets = (!uid.is_root()).then(|| PathBuf::from(format!("/run/user/{}", uid.as_raw())));
    let found = [
        ("HOME", std::env::home_dir()),
        ("XDG_RUNTIME_DIR", sockets.filter(|dir| dir.is_dir())),
    ];
    let lacking = found
        .into_iter()
        .filter(|(name, _)| std::env::var_os(name).is_none());
    lacking
        .filter_map(|(name, dir)| Some((name, dir?)))
        .collect()
}

/// Resolves what would be mounted, and says what is wrong with it.
fn check(words: &[OsString]) -> u8 {
    let all = std::iter::once(OsString::from("svol")).chain(words.iter().cloned());
    let cli = match Cli::try_parse_from(all) {
        Ok(cli) => cli,
        Err(error) => {
            let _ = error.print();
            return USAGE;
        }
    };
    let crate::cli::Command::Mount(args) = &cli.command else {
        return USAGE;
    };
    let resolved = Env::of_process()
        .map_err(|e| e.to_string())
        .and_then(|env| resolve_mount(args, &cli.log, &env).map_err(|e| e.to_string()));
    match resolved {
        Ok(_) => 0,
        Err(why) => {
            eprintln!("mount.svol: {why}");
            USAGE
        }
    }
}

/// A command line of `svol`, without its name.
#[derive(Debug, PartialEq, Eq)]
struct Translated {
    words: Vec<OsString>,
    is_rw: bool,
}

/// Returns what to run; nothing where another namespace is meant.
fn translate(args: &HelperArgs) -> Option<Translated> {
    if args.namespace.is_some() {
        return None;
    }
    let asked = mount_options::of_mount(&args.options, args.sloppy);
    let mut options = asked.options;
    // As the source is in fstab, so that `mount -a` finds it mounted. A list cannot hold a comma.
    let source = args.source.as_bytes();
    let is_listable = !source.iter().any(|b| b",\\ \t\n".contains(b));
    if let (true, Some(name)) = (is_listable, args.source.to_str())
        && !options.iter().any(|option| option.starts_with("fsname="))
    {
        options.push(format!("fsname={name}"));
    }
    let mut words: Vec<OsString> = vec!["mount".into()];
    if !options.is_empty() {
        words.extend(["-o".into(), options.join(",").into()]);
    }
    if is_volume_file(Path::new(&args.source)) {
        let mut file = OsString::from("--config=");
        file.push(&args.source);
        words.extend([file, "--".into()]);
    } else {
        words.extend(["--".into(), args.source.clone()]);
    }
    words.push(args.directory.clone().into());
    Some(Translated {
        words,
        is_rw: asked.is_rw,
    })
}

/// A volume file is a file that is there, or that is called like one.
fn is_volume_file(path: &Path) -> bool {
    let called = path.extension().is_some_and(|e| e == "yaml" || e == "yml");
    path.is_file() || (called && !path.as_os_str().as_bytes().windows(3).any(|w| w == b"://"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(line: &[&str]) -> (Vec<String>, bool) {
        let all = ["mount.svol"].iter().chain(line);
        let done = translate(&HelperArgs::try_parse_from(all).unwrap()).unwrap();
        let words = done.words.iter().map(|w| w.to_str().unwrap().to_owned());
        (words.collect(), done.is_rw)
    }

    #[test]
    fn what_mount_says_becomes_a_command() {
        let (said, is_rw) = words(&["s3://b/p=/x", "/mnt", "-o", "rw,noexec,user"]);
        let options = "noexec,user,fsname=s3://b/p=/x";
        assert_eq!(said, ["mount", "-o", options, "--", "s3://b/p=/x", "/mnt"]);
        assert!(is_rw);
        let line = ["/v.yaml", "/mnt", "-n", "-v", "-t", "fuse.svol", "-o", "ro"];
        let (said, is_rw) = words(&line);
        let options = "ro,fsname=/v.yaml";
        assert_eq!(
            said,
            ["mount", "-o", options, "--config=/v.yaml", "--", "/mnt"]
        );
        assert!(!is_rw);
        // What a list cannot hold is not put into one.
        let (said, _) = words(&["https://h/a,b.yaml", "/mnt"]);
        assert_eq!(said, ["mount", "--", "https://h/a,b.yaml", "/mnt"]);
        let (said, _) = words(&["-s", "/", "/mnt", "-o", "nonempty,uid=5"]);
        assert_eq!(said, ["mount", "-o", "uid=5,fsname=/", "--", "/", "/mnt"]);
        let namespace = ["mount.svol", "a", "/mnt", "-N", "/proc/1/ns/mnt"];
        assert!(translate(&HelperArgs::try_parse_from(namespace).unwrap()).is_none());
    }
}
