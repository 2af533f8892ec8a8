//! What command lines come to, without a process: precedence, defaults, refusals.

use std::path::{Path, PathBuf};

use clap::{CommandFactory, Parser};

use super::args::CacheCommand;
use super::*;
use crate::config::{ConfigError, Refresh, S3Source, Source};

fn env(variables: &[(&str, &str)]) -> Env {
    let mut variables: std::collections::BTreeMap<String, String> = variables
        .iter()
        .map(|(name, value)| ((*name).into(), (*value).into()))
        .collect();
    variables.entry("HOME".into()).or_insert("/home/me".into());
    Env {
        variables,
        directory: "/srv/dir".into(),
        root: false,
    }
}

/// Resolves `svol mount` with the words of `line`.
fn mount_with(line: &str, env: &Env) -> Result<MountSettings, ConfigError> {
    let words = ["svol", "mount"].into_iter().chain(line.split_whitespace());
    let cli = Cli::try_parse_from(words).unwrap_or_else(|error| panic!("{line}: {error}"));
    let Command::Mount(args) = &cli.command else {
        panic!("another command")
    };
    resolve_mount(args, &cli.log, env)
}

fn mount(line: &str) -> MountSettings {
    mount_with(line, &env(&[])).unwrap_or_else(|error| panic!("{line}: {error}"))
}

fn refused(line: &str) -> String {
    mount_with(line, &env(&[])).unwrap_err().to_string()
}

fn s3(settings: &MountSettings, layer: usize) -> &S3Source {
    match &settings.view.volume.spec.layers[layer].source {
        Source::S3(s3) => s3,
        other => panic!("{other}"),
    }
}

/// A volume file that sets everything that a flag sets too.
fn file() -> (tempfile::TempDir, String) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("v.yaml");
    let text = "\
apiVersion: sharedvolume.io/v1
kind: Volume
metadata: {name: demo}
spec:
  refresh: 11m
  revalidate: 12s
  timeout: 13s
  cache: {dir: cache, size: 1GiB}
  mount: {uid: 11, gid: 12, umask: '077', allowOther: true, bwlimit: 1MiB, memory: 101MiB}
  layers:
    - s3:
        bucket: b
        endpointUrl: http://file/
        region: file
        profile: file
        credentials: {accessKeyId: {fromEnv: A}, secretAccessKey: {fromEnv: B}}
    - local: {path: site}
      refresh: never
      revalidate: 22s
      timeout: 23s
";
    std::fs::write(&path, text).unwrap();
    let shown = path.to_str().unwrap().to_owned();
    (dir, shown)
}

#[test]
fn the_definitions_are_sound() {
    Cli::command().debug_assert();
}

#[test]
fn one_source_and_the_defaults() {
    let settings = mount("s3://models/llama /mnt/llama");
    assert_eq!(settings.mountpoint, Path::new("/mnt/llama"));
    assert_eq!(settings.view.volume.metadata.name.as_str(), "llama");
    assert_eq!(settings.view.volume.spec.layers.len(), 1);
    assert_eq!(
        settings.view.volume.spec.layers[0].refresh().to_string(),
        "5m"
    );
    assert_eq!(s3(&settings, 0).bucket.as_str(), "models");
    assert_eq!(settings.view.cache.dir, Path::new("/home/me/.cache/svol"));
    assert_eq!(settings.view.cache.size, None);
    assert_eq!(
        (settings.uid, settings.gid, settings.umask),
        (None, None, None)
    );
    assert!(!settings.allow_other && !settings.foreground && !settings.wait && !settings.noexec);
    assert_eq!(
        (settings.view.bwlimit, settings.view.config_file),
        (None, None)
    );
    assert_eq!(settings.log.filter, "warn,svol=info,svol_cache=info");
    assert_eq!(
        (settings.log.file, settings.log.format),
        (None, LogFormat::Text)
    );
}

#[test]
fn several_sources_keep_their_order_wherever_options_stand() {
    for line in [
        "--wait -f s3://a file:///srv/site=/site ./d=/d mnt",
        "s3://a file:///srv/site=/site --wait ./d=/d mnt -f",
        "s3://a -f file:///srv/site=/site ./d=/d --wait mnt",
        "s3://a file:///srv/site=/site ./d=/d mnt --foreground --wait",
    ] {
        let settings = mount(line);
        let layers: Vec<String> = settings
            .view
            .volume
            .spec
            .layers
            .iter()
            .map(|layer| format!("{}={}", layer.source, layer.path))
            .collect();
        assert_eq!(
            layers,
            ["s3://a=/", "file:///srv/site=/site", "file:///srv/dir/d=/d"],
            "{line}"
        );
        assert_eq!(settings.mountpoint, Path::new("/srv/dir/mnt"), "{line}");
        assert!(settings.wait && settings.foreground, "{line}");
    }
}

#[test]
fn places_that_cannot_be() {
    for (line, message) in [
        ("/mnt/v", "SOURCE: no source; write at least one"),
        (
            "s3://a s3://b",
            "MOUNTPOINT: the last argument is the directory to mount at",
        ),
        (
            "gopher://x /mnt",
            "SOURCE 1: `gopher://` is not a kind of source",
        ),
        ("/a s3://k:hunter2@b /mnt", "SOURCE 2: credentials in a URL"),
        ("/a=/../b /mnt", "SOURCE 1: not a path of the volume"),
        (
            "-c v.yaml /a /mnt",
            "-c: a volume file and sources together",
        ),
        (
            "-c missing.yaml /mnt",
            "missing.yaml: cannot read the volume file",
        ),
        (
            "-o rw /a /mnt",
            "-o: rw is refused: svol mounts are read-only",
        ),
        ("-o uid=me /a /mnt", "-o uid: invalid digit"),
    ] {
        let refused = refused(line);
        assert!(refused.starts_with(message), "{line}: {refused}");
        assert!(!refused.contains("hunter2"));
    }
    // All of it at once.
    assert_eq!(
        refused("-o rw,uid=x gopher://x data s3://b")
            .lines()
            .count(),
        5
    );
}

#[test]
fn an_option_beats_o_beats_the_environment_beats_the_file() {
    let (dir, file) = file();
    let from_file = mount(&format!("-c {file} /mnt"));
    let view = &from_file.view;
    assert_eq!(view.config_file.as_deref(), Some(Path::new(&file)));
    assert_eq!(view.cache.dir, dir.path().join("cache"));
    assert_eq!(view.cache.size.unwrap().to_string(), "1GiB");
    assert_eq!(view.bwlimit.unwrap().to_string(), "1MiB/s");
    assert_eq!(view.memory.unwrap().to_string(), "101MiB");
    assert_eq!((from_file.uid, from_file.gid), (Some(11), Some(12)));
    assert_eq!(from_file.umask.unwrap().bits(), 0o077);
    assert!(from_file.allow_other);
    let [bucket, local] = view.volume.spec.layers.as_slice() else {
        panic!()
    };
    assert_eq!(bucket.refresh().to_string(), "11m");
    assert_eq!(bucket.revalidate().as_secs(), 12);
    assert_eq!(bucket.timeout().as_secs(), 13);
    assert_eq!(local.refresh(), Refresh::Never);
    assert_eq!(local.revalidate().as_secs(), 22);
    assert_eq!(local.timeout().as_secs(), 23);
    assert_eq!(
        local.source.to_string(),
        format!("file://{}/site", dir.path().display())
    );

    let env = env(&[
        ("SVOL_CONFIG", file.as_str()),
        ("SVOL_CACHE_DIR", "envcache"),
        ("SVOL_CACHE_SIZE", "2GiB"),
        ("SVOL_BWLIMIT", "2MiB"),
        ("SVOL_MEMORY", "102MiB"),
        ("SVOL_UID", "21"),
        ("SVOL_GID", "22"),
        ("SVOL_UMASK", "027"),
        ("SVOL_ALLOW_OTHER", "0"),
        ("SVOL_FOREGROUND", "yes"),
        ("SVOL_WAIT", "on"),
        ("SVOL_REFRESH", "2m"),
        ("SVOL_REVALIDATE", "2s"),
        ("SVOL_TIMEOUT", "3s"),
        ("SVOL_ENDPOINT_URL", "http://env/"),
        ("SVOL_REGION", "env"),
        ("SVOL_PROFILE", "env"),
        ("SVOL_NO_SIGN_REQUEST", "false"),
        ("SVOL_LOG", "svol=debug"),
        ("SVOL_LOG_FILE", "env.log"),
        ("SVOL_LOG_FORMAT", "json"),
    ]);
    let from_env = mount_with("/mnt", &env).unwrap();
    assert_eq!(from_env.view.cache.dir, Path::new("/srv/dir/envcache"));
    assert_eq!(from_env.view.cache.size.unwrap().to_string(), "2GiB");
    assert_eq!(from_env.view.bwlimit.unwrap().to_string(), "2MiB/s");
    assert_eq!(from_env.view.memory.unwrap().to_string(), "102MiB");
    assert_eq!((from_env.uid, from_env.gid), (Some(21), Some(22)));
    assert_eq!(from_env.umask.unwrap().bits(), 0o027);
    assert!(!from_env.allow_other && from_env.foreground && from_env.wait);
    for layer in &from_env.view.volume.spec.layers {
        assert_eq!(layer.refresh().to_string(), "2m");
        assert_eq!(layer.revalidate().as_secs(), 2);
        assert_eq!(layer.timeout().as_secs(), 3);
    }
    let bucket = s3(&from_env, 0);
    assert_eq!(
        bucket.endpoint_url.as_ref().unwrap().as_str(),
        "http://env/"
    );
    assert_eq!(
        (bucket.region.as_deref(), bucket.profile.as_deref()),
        (Some("env"), Some("env"))
    );
    assert_eq!(
        bucket.credentials, None,
        "a profile that is asked for beats the file's keys"
    );
    assert_eq!(from_env.log.filter, "svol=debug");
    assert_eq!(from_env.log.file, Some(PathBuf::from("/srv/dir/env.log")));
    assert_eq!(from_env.log.format, LogFormat::Json);

    let line =
        "/mnt -o cache_dir=/o,uid=31,memory=103MiB,allow_other,refresh=3m,region=o,no_sign_request";
    let from_o = mount_with(line, &env).unwrap();
    assert_eq!(from_o.view.cache.dir, Path::new("/o"));
    assert_eq!(from_o.view.memory.unwrap().to_string(), "103MiB");
    assert_eq!((from_o.uid, from_o.gid), (Some(31), Some(22)));
    assert!(from_o.allow_other && s3(&from_o, 0).no_sign_request);
    assert_eq!(
        from_o.view.volume.spec.layers[1].refresh().to_string(),
        "3m"
    );
    assert_eq!(s3(&from_o, 0).region.as_deref(), Some("o"));

    let line = format!(
        "{line} --cache-dir /flag --cache-size 10% --uid 41 --gid 42 --umask 007 \
         --allow-other=false --refresh never --revalidate 4s --timeout 5s --bwlimit 4k --memory 104MiB \
         --region flag --endpoint-url http://flag/ --profile flag --no-sign-request=false \
         --log-file /flag.log --log-format text -vv"
    );
    let from_flags = mount_with(&line, &env).unwrap();
    assert_eq!(from_flags.view.cache.dir, Path::new("/flag"));
    assert_eq!(from_flags.view.cache.size.unwrap().to_string(), "10%");
    assert_eq!((from_flags.uid, from_flags.gid), (Some(41), Some(42)));
    assert_eq!(from_flags.umask.unwrap().bits(), 0o007);
    assert!(!from_flags.allow_other && !s3(&from_flags, 0).no_sign_request);
    assert_eq!(
        from_flags.view.volume.spec.layers[0].refresh(),
        Refresh::Never
    );
    assert_eq!(from_flags.view.volume.spec.layers[1].timeout().as_secs(), 5);
    assert_eq!(from_flags.view.bwlimit.unwrap().bytes_per_second(), 4000);
    assert_eq!(from_flags.view.memory.unwrap().to_string(), "104MiB");
    assert_eq!(s3(&from_flags, 0).region.as_deref(), Some("flag"));
    assert_eq!(s3(&from_flags, 0).profile.as_deref(), Some("flag"));
    assert_eq!(from_flags.log.filter, "info,svol=trace,svol_cache=trace");
    assert_eq!(from_flags.log.file, Some(PathBuf::from("/flag.log")));
    assert_eq!(from_flags.log.format, LogFormat::Text);
}

#[test]
fn sources_beat_a_volume_file_of_the_environment() {
    let settings = mount_with("s3://a /mnt", &env(&[("SVOL_CONFIG", "missing.yaml")])).unwrap();
    assert_eq!(settings.view.config_file, None);
}

#[test]
fn a_wrong_variable_is_named() {
    for (name, value) in [
        ("SVOL_CACHE_SIZE", "lots"),
        ("SVOL_UID", "me"),
        ("SVOL_ALLOW_OTHER", "maybe"),
        ("SVOL_REFRESH", "5"),
        ("SVOL_LOG", "svol=loud"),
        ("SVOL_LOG_FORMAT", "xml"),
    ] {
        let error = mount_with("s3://a /mnt", &env(&[(name, value)]))
            .unwrap_err()
            .to_string();
        assert!(error.starts_with(&format!("{name}: ")), "{error}");
        // Nothing said is nothing said.
        assert!(
            mount_with("s3://a /mnt", &env(&[(name, "")])).is_ok(),
            "{name}"
        );
    }
}

#[test]
fn problems_of_the_file_come_with_those_of_the_command_line() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("v.yaml");
    std::fs::write(&path, "kind: Pod\n").unwrap();
    let refused = refused(&format!("-o rw -c {} /mnt", path.display()));
    assert_eq!(refused.lines().count(), 2, "{refused}");
    assert!(
        refused.contains("v.yaml:1:7: kind: `Pod` is not supported"),
        "{refused}"
    );
}

#[test]
fn the_cache_is_where_the_system_wants_it() {
    let dir = |env: &Env| mount_with("s3://a /mnt", env).unwrap().view.cache.dir;
    assert_eq!(dir(&env(&[("XDG_CACHE_HOME", "/x")])), Path::new("/x/svol"));
    assert_eq!(
        dir(&env(&[("XDG_CACHE_HOME", "rel")])),
        Path::new("/home/me/.cache/svol")
    );
    assert_eq!(
        dir(&Env {
            root: true,
            ..env(&[])
        }),
        Path::new("/var/cache/svol")
    );
    let homeless = mount_with("s3://a /mnt", &env(&[("HOME", "")]))
        .unwrap_err()
        .to_string();
    assert_eq!(
        homeless,
        "--cache-dir: no place for the cache, since HOME is not set; write --cache-dir DIR"
    );
}

#[test]
fn commands_that_do_not_mount() {
    let line = [
        "svol", "ls", "-l", "s3://a", "--path", "/x", "/b=/x", "--region", "r", "-v",
    ];
    let cli = Cli::try_parse_from(line).unwrap();
    let Command::Ls(args) = &cli.command else {
        panic!()
    };
    let view = resolve_view(&args.volume, &args.sources, &env(&[])).unwrap();
    assert_eq!(
        (args.path.as_str(), args.long, view.volume.spec.layers.len()),
        ("/x", true, 2)
    );
    let log = resolve_log(&cli.log, Quiet::Command, &env(&[])).unwrap();
    assert_eq!(log.filter, "warn,svol=debug,svol_cache=debug");

    let (_dir, file) = file();
    let cli = Cli::try_parse_from(["svol", "cat", "-c", &file, "--path", "/a", "--path", "/b"]);
    let Ok(Cli {
        command: Command::Cat(args),
        log,
    }) = cli
    else {
        panic!()
    };
    assert_eq!(args.paths, ["/a", "/b"]);
    assert!(resolve_view(&args.volume, &args.sources, &env(&[])).is_ok());
    assert_eq!(
        resolve_log(&log, Quiet::Command, &env(&[])).unwrap().filter,
        "warn"
    );

    let cli = Cli::try_parse_from(["svol", "cache", "gc", "--cache-size", "1GiB"]).unwrap();
    let Command::Cache(args) = &cli.command else {
        panic!()
    };
    let CacheCommand::Gc { cache } = &args.command else {
        panic!()
    };
    let cache = resolve_cache(cache, &env(&[("SVOL_CACHE_DIR", "/c")])).unwrap();
    assert_eq!(
        (cache.dir, cache.size.unwrap().to_string()),
        ("/c".into(), "1GiB".into())
    );
}
