//! Merges the command line, the environment, the volume file and the defaults into settings.
//!
//! Precedence: an option of its own, `-o`, the environment, the volume file, the default. The
//! functions here touch nothing but the volume file, and report every problem that they find.

use std::ffi::OsString;
use std::fmt::Display;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use tracing_subscriber::EnvFilter;

use super::args::{CacheDirArgs, LogArgs, MountArgs, S3Args, VolumeArgs};
use super::env::Env;
use super::mount_options::MountOptions;
use super::settings::{
    CacheSettings, LogFormat, LogSettings, MountSettings, TlsFiles, VolumeSettings,
};
use crate::config::{
    CacheSize, ConfigError, HttpUrl, Label, Layer, Loaded, NameError, Note, Place, Problem, Source,
    Volume, load::DEFAULT_SECRETS_DIR, source_arg,
};
use crate::fuse::device::Origin;

/// What a command logs where nobody says otherwise.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Quiet {
    /// What a person who looks after a mount wants to know later.
    Daemon,
    /// Only what went wrong: the command's own output says the rest.
    Command,
}

/// Returns the settings of `svol mount`.
pub fn resolve_mount(
    args: &MountArgs,
    log: &LogArgs,
    env: &Env,
) -> Result<MountSettings, ConfigError> {
    resolve_mount_of(args, log, env, None)
}

/// As [`resolve_mount`], with `volume` in the volume file's place if it is given. That was made by
/// one of these functions: its file names are absolute.
pub fn resolve_mount_of(
    args: &MountArgs,
    log: &LogArgs,
    env: &Env,
    volume: Option<Volume>,
) -> Result<MountSettings, ConfigError> {
    let mut problems = Vec::new();
    let options = MountOptions::parse(&args.options, &mut problems);
    let mut merge = Merge {
        env,
        options,
        problems,
        notes: Vec::new(),
        instead: volume,
    };

    // clap sees to it that there is at least one.
    let (mountpoint, sources) = match args.places.split_last() {
        Some((last, sources)) => (merge.mountpoint(last), sources),
        None => (PathBuf::new(), &[][..]),
    };
    let name = Label::nearest(&mountpoint.file_name().unwrap_or_default().to_string_lossy());
    let view = merge.view(&args.volume, sources, name);
    let log = merge.log(log, Quiet::Daemon);
    let spec = view
        .as_ref()
        .map(|view| view.volume.spec.mount.clone())
        .unwrap_or_default();
    let control = view
        .as_ref()
        .map(|view| view.volume.spec.control.clone())
        .unwrap_or_default();
    let listen = merge.pick("listen", args.listen).or(control.listen);
    let listen_token_file = merge
        .path("listen-token-file", args.listen_token_file.clone())
        .or(control.listen_token_file);
    let cert = merge.path("listen-tls-cert", args.listen_tls_cert.clone());
    let key = merge.path("listen-tls-key", args.listen_tls_key.clone());
    let client_ca = merge.path("listen-client-ca", args.listen_client_ca.clone());
    let listen_tls = merge.listen_tls(
        cert.or(control.listen_tls_cert),
        key.or(control.listen_tls_key),
        client_ca.or(control.listen_client_ca),
    );
    let asks_for_certificates = { listen_tls.as_ref() }.is_some_and(|tls| tls.client_ca.is_some());
    if let Some(at) = listen
        && !at.ip().is_loopback()
        && listen_token_file.is_none()
        && !asks_for_certificates
    {
        let what = "others than this machine could ask there; listen at 127.0.0.1, or name a \
                    file with a bearer token by --listen-token-file, or one with the authorities \
                    of those who may by --listen-client-ca";
        merge.problem(Place::Argument(format!("--listen {at}")), what);
    }
    let mut on_change = view
        .as_ref()
        .map(|view| view.volume.spec.on_change.clone())
        .unwrap_or_default();
    if let Some(program) = merge.program("on-change", args.on_change.clone()) {
        on_change.command = vec![program];
    }
    let origin = merge.origin(args, &mountpoint);
    let settings = (|| {
        Some(MountSettings {
            on_change,
            origin,
            listen,
            listen_token_file,
            listen_tls,
            mountpoint,
            fsname: merge.options.get("fsname").map(Into::into),
            uid: merge.pick("uid", args.uid).or(spec.uid),
            gid: merge.pick("gid", args.gid).or(spec.gid),
            umask: merge.pick("umask", args.umask).or(spec.umask),
            allow_other: merge
                .switch("allow-other", args.allow_other)
                .unwrap_or(spec.allow_other),
            noexec: merge.options.noexec,
            passthrough: merge
                .switch("passthrough", args.passthrough)
                .unwrap_or(true),
            foreground: merge
                .switch("foreground", set(args.foreground))
                .unwrap_or(false),
            mkdir: merge.switch("mkdir", set(args.mkdir)).unwrap_or(false),
            wait: merge.switch("wait", set(args.wait)).unwrap_or(false),
            sandbox: !merge
                .switch("no-sandbox", set(args.no_sandbox))
                .unwrap_or(false),
            takeover: !merge
                .switch("no-takeover", set(args.no_takeover))
                .unwrap_or(false),
            view: view?,
            log,
        })
    })();
    merge.finish(settings)
}

/// Returns the settings of a command that looks into a volume without mounting it.
pub fn resolve_view(
    args: &VolumeArgs,
    sources: &[OsString],
    env: &Env,
) -> Result<VolumeSettings, ConfigError> {
    let mut merge = Merge::new(env);
    let view = merge.view(args, sources, Label::nearest("volume"));
    merge.finish(view)
}

/// Returns which cache a command of `svol cache` looks after.
pub fn resolve_cache(args: &CacheDirArgs, env: &Env) -> Result<CacheSettings, ConfigError> {
    let mut merge = Merge::new(env);
    let cache = merge.cache(args.cache_dir.clone(), args.cache_size, None, None);
    merge.finish(cache)
}

/// Returns the directory of mounted Secrets, absolute.
pub fn resolve_secrets_dir(flag: &Option<PathBuf>, env: &Env) -> Result<PathBuf, ConfigError> {
    let mut merge = Merge::new(env);
    let dir = merge.secrets_dir(flag.clone());
    merge.finish(Some(dir))
}

/// Returns what a command logs.
pub fn resolve_log(args: &LogArgs, quiet: Quiet, env: &Env) -> Result<LogSettings, ConfigError> {
    let mut merge = Merge::new(env);
    let log = merge.log(args, quiet);
    merge.finish(Some(log))
}

/// A flag without a value: given, or nothing said.
fn set(flag: bool) -> Option<bool> {
    flag.then_some(true)
}

/// What is merged, and what was found wrong on the way.
struct Merge<'a> {
    env: &'a Env,
    options: MountOptions,
    problems: Vec<Problem>,
    notes: Vec<Note>,
    /// What the volume file holds, where it is not to be read.
    instead: Option<Volume>,
}

impl<'a> Merge<'a> {
    fn new(env: &'a Env) -> Self {
        Self {
            env,
            options: MountOptions::default(),
            problems: Vec::new(),
            notes: Vec::new(),
            instead: None,
        }
    }

    fn finish<T>(self, settings: Option<T>) -> Result<T, ConfigError> {
        ConfigError::unless_empty(self.problems)?;
        settings.ok_or_else(|| {
            ConfigError::new(
                Place::Argument("svol".into()),
                "these arguments ask for nothing",
            )
        })
    }

    fn problem(&mut self, place: Place, what: impl Into<String>) {
        self.problems.push(Problem {
            place,
            field: String::new(),
            what: what.into(),
        });
    }

    /// Returns the value of the setting whose flag is `--name`: the flag's, that of `-o`, or that
    /// of the environment, which is called `SVOL_NAME`.
    fn pick<T: FromStr<Err: Display>>(&mut self, name: &str, flag: Option<T>) -> Option<T> {
        self.pick_by(name, flag, |text| {
            text.parse::<T>().map_err(|error| error.to_string())
        })
    }

    fn pick_by<T>(
        &mut self,
        name: &str,
        flag: Option<T>,
        parse: impl Fn(&str) -> Result<T, String>,
    ) -> Option<T> {
        if flag.is_some() {
            return flag;
        }
        let variable = variable(name);
        let (place, text) = match (self.options.get(name), self.env.get(&variable)) {
            (Some(text), _) => (
                Place::Argument(format!("-o {}", name.replace('-', "_"))),
                text,
            ),
            (None, Some(text)) => (Place::Variable(variable), text),
            (None, None) => return None,
        };
        match parse(text) {
            Ok(value) => Some(value),
            Err(what) => {
                self.problem(place, what);
                None
            }
        }
    }

    fn switch(&mut self, name: &str, flag: Option<bool>) -> Option<bool> {
        self.pick_by(name, flag, |text| {
            match text.to_ascii_lowercase().as_str() {
                "1" | "true" | "yes" | "on" => Ok(true),
                "0" | "false" | "no" | "off" => Ok(false),
                _ => Err("neither true nor false; write true or false".into()),
            }
        })
    }

    /// Returns a path setting, absolute.
    fn path(&mut self, name: &str, flag: Option<PathBuf>) -> Option<PathBuf> {
        let path = self.pick(name, flag)?;
        if path.as_os_str().is_empty() {
            self.problem(Place::Argument(format!("--{name}")), "the path is empty");
            return None;
        }
        Some(self.absolute(&path))
    }

    /// Returns a program, absolute unless it is a mere name, which is looked for in `PATH`.
    fn program(&mut self, name: &str, flag: Option<String>) -> Option<String> {
        let program = self.pick(name, flag)?;
        if program.is_empty() {
            self.problem(
                Place::Argument(format!("--{name}")),
                "the program has no name",
            );
            return None;
        }
        if !program.contains('/') {
            return Some(program);
        }
        let absolute = self.absolute(Path::new(&program));
        Some(absolute.to_string_lossy().into_owned())
    }

    /// Returns `path` from the working directory, without `.` but with `..`, which only the file
    /// system can resolve where symlinks are.
    fn absolute(&self, path: &Path) -> PathBuf {
        self.env.directory.join(path).components().collect()
    }

    /// Returns the files of TLS at the control address: a certificate and its key, and with them
    /// perhaps the authorities of those who ask.
    fn listen_tls(
        &mut self,
        cert: Option<PathBuf>,
        key: Option<PathBuf>,
        client_ca: Option<PathBuf>,
    ) -> Option<TlsFiles> {
        let what = match (cert, key, client_ca) {
            (Some(cert), Some(key), client_ca) => {
                return Some(TlsFiles {
                    cert,
                    key,
                    client_ca,
                });
            }
            (None, None, None) => return None,
            (None, None, Some(_)) => {
                "certificates are asked for over TLS only; name the certificate to show by \
                 --listen-tls-cert and its key by --listen-tls-key"
            }
            _ => {
                "a certificate and its key belong together; name both, by --listen-tls-cert and \
                 --listen-tls-key"
            }
        };
        self.problem(Place::Argument("--listen-tls-cert".into()), what);
        None
    }

    fn mountpoint(&mut self, argument: &OsString) -> PathBuf {
        let text = argument.to_string_lossy();
        if text.is_empty() {
            self.problem(
                Place::Argument("MOUNTPOINT".into()),
                "the mount point is empty",
            );
        } else if text.contains("://") {
            self.problem(
                Place::Argument("MOUNTPOINT".into()),
                "the last argument is the directory to mount at, and this is a URL; add the \
                 directory, as in `svol mount SOURCE /mnt/v`",
            );
        }
        self.absolute(Path::new(argument))
    }

    /// Returns whether we mount, or who gives us what is mounted.
    fn origin(&mut self, args: &MountArgs, mountpoint: &Path) -> Origin {
        let inherited = self
            .pick("fuse-fd", args.fuse_fd)
            .or_else(|| Origin::in_place_of_a_directory(mountpoint));
        let socket = self.path("fuse-socket", args.fuse_socket.clone());
        match (inherited, socket) {
            (Some(_), Some(_)) => {
                let what = "a descriptor and a socket together; give one of --fuse-fd and \
                            --fuse-socket";
                self.problem(Place::Argument("--fuse-socket".into()), what);
                Origin::Mount
            }
            (Some(number), None) => Origin::Inherited(number),
            (None, Some(socket)) => Origin::Socket(socket),
            (None, None) => Origin::Mount,
        }
    }

    fn view(
        &mut self,
        args: &VolumeArgs,
        sources: &[OsString],
        name: Label,
    ) -> Option<VolumeSettings> {
        let (volume, config_file) = self.volume(args, sources, name);
        let spec = volume.as_ref().map(|volume| volume.spec.clone());
        let (file_cache, bwlimit, memory) = spec
            .map(|spec| (spec.cache, spec.mount.bwlimit, spec.mount.memory))
            .unwrap_or_default();
        let cache = self.cache(
            args.cache_dir.clone(),
            args.cache_size,
            file_cache.dir,
            file_cache.size,
        );
        let bwlimit = self.pick("bwlimit", args.bwlimit).or(bwlimit);
        let memory = self.pick("memory", args.memory).or(memory);
        let refresh = self.pick("refresh", args.refresh);
        let revalidate = self.pick("revalidate", args.revalidate);
        let timeout = self.pick("timeout", args.timeout);
        let s3 = self.s3(&args.s3);

        let mut volume = volume?;
        let spec = &mut volume.spec;
        for layer in &mut spec.layers {
            layer.refresh = Some(
                refresh
                    .or(layer.refresh.or(spec.refresh))
                    .unwrap_or(layer.refresh()),
            );
            layer.revalidate = revalidate.or(layer.revalidate).or(spec.revalidate);
            layer.timeout = timeout.or(layer.timeout).or(spec.timeout);
            s3.apply(layer);
        }
        Some(VolumeSettings {
            volume,
            config_file,
            notes: std::mem::take(&mut self.notes),
            cache: cache?,
            bwlimit,
            memory,
        })
    }

    /// Returns the volume that the command line asks for, by file or by sources, and the file.
    fn volume(
        &mut self,
        args: &VolumeArgs,
        sources: &[OsString],
        name: Label,
    ) -> (Option<Volume>, Option<PathBuf>) {
        if args.config.is_some() && !sources.is_empty() {
            self.problem(
                Place::Argument("-c".into()),
                "a volume file and sources together; write the sources into the file as layers, \
                 or leave -c out",
            );
            return (None, None);
        }
        if sources.is_empty() {
            let Some(file) = self.pick("config", args.config.clone()) else {
                self.problem(
                    Place::Argument("SOURCE".into()),
                    "no source; write at least one, such as s3://BUCKET/PREFIX, or -c FILE",
                );
                return (None, None);
            };
            let absolute = self.absolute(&file);
            let secrets = self.secrets_dir(args.secrets_dir.clone());
            if let Some(volume) = self.instead.take() {
                return (Some(volume), Some(absolute));
            }
            return match Loaded::read(&absolute, &file, &secrets) {
                Ok(loaded) => {
                    self.notes = loaded.notes;
                    (Some(loaded.volume), Some(absolute))
                }
                Err(error) => {
                    self.problems.extend(error.problems().iter().cloned());
                    (None, None)
                }
            };
        }
        let layers: Vec<Layer> = sources
            .iter()
            .enumerate()
            .filter_map(|(at, text)| self.source(at, text))
            .collect();
        (Some(Volume::new(name, layers)), None)
    }

    fn secrets_dir(&mut self, flag: Option<PathBuf>) -> PathBuf {
        self.path("secrets-dir", flag)
            .unwrap_or_else(|| DEFAULT_SECRETS_DIR.into())
    }

    fn source(&mut self, at: usize, argument: &OsString) -> Option<Layer> {
        // The argument itself is not repeated: it may hold a password.
        let place = Place::Argument(format!("SOURCE {}", at + 1));
        let Some(text) = argument.to_str() else {
            self.problem(place, "not UTF-8; name the directory in a way that is");
            return None;
        };
        match source_arg::parse(text, &self.env.directory) {
            Ok(layer) => Some(layer),
            Err(why) => {
                self.problem(place, why.to_string());
                None
            }
        }
    }

    fn cache(
        &mut self,
        dir: Option<PathBuf>,
        size: Option<CacheSize>,
        file_dir: Option<PathBuf>,
        file_size: Option<CacheSize>,
    ) -> Option<CacheSettings> {
        let size = self.pick("cache-size", size).or(file_size);
        let before = self.problems.len();
        let dir = self
            .path("cache-dir", dir)
            .or(file_dir)
            .or_else(|| default_cache(self.env));
        if dir.is_none() && self.problems.len() == before {
            self.problem(
                Place::Argument("--cache-dir".into()),
                "no place for the cache, since HOME is not set; write --cache-dir DIR",
            );
        }
        Some(CacheSettings { dir: dir?, size })
    }

    fn s3(&mut self, args: &S3Args) -> S3Overrides {
        S3Overrides {
            no_sign_request: self.switch("no-sign-request", args.no_sign_request),
            endpoint_url: self.endpoint_url(args.endpoint_url.as_deref()),
            region: self.pick("region", args.region.clone()),
            profile: self.pick("profile", args.profile.clone()),
        }
    }

    fn endpoint_url(&mut self, flag: Option<&str>) -> Option<HttpUrl> {
        match flag.map(str::parse) {
            Some(Ok(url)) => Some(url),
            Some(Err(why)) => {
                let why: NameError = why;
                self.problem(Place::Argument("--endpoint-url".into()), why.to_string());
                None
            }
            None => self.pick("endpoint-url", None),
        }
    }

    fn log(&mut self, args: &LogArgs, quiet: Quiet) -> LogSettings {
        let filter = match (args.verbose, quiet) {
            (0, Quiet::Daemon) => "warn,svol=info,svol_cache=info",
            (0, Quiet::Command) => "warn",
            (1, _) => "warn,svol=debug,svol_cache=debug",
            (_, _) => "info,svol=trace,svol_cache=trace",
        };
        let filter = match self.env.get("SVOL_LOG") {
            Some(directives) if args.verbose == 0 => {
                if let Err(error) = EnvFilter::try_new(directives) {
                    let what = format!("{error}; write directives such as info or svol=debug");
                    self.problem(Place::Variable("SVOL_LOG".into()), what);
                }
                directives
            }
            _ => filter,
        };
        LogSettings {
            filter: filter.into(),
            file: self.path("log-file", args.log_file.clone()),
            format: self
                .pick::<LogFormat>("log-format", args.log_format)
                .unwrap_or_default(),
        }
    }
}

/// Returns the variable of the setting whose flag is `--name`.
fn variable(name: &str) -> String {
    format!("SVOL_{}", name.replace('-', "_").to_ascii_uppercase())
}

/// Returns where the cache is by default: for root a place of the system's, for others their own.
fn default_cache(env: &Env) -> Option<PathBuf> {
    if env.root {
        return Some("/var/cache/svol".into());
    }
    // A relative XDG_CACHE_HOME is invalid and to be ignored, says its specification.
    let absolute = |name| {
        env.get(name)
            .map(PathBuf::from)
            .filter(|path| path.is_absolute())
    };
    absolute("XDG_CACHE_HOME")
        .or_else(|| absolute("HOME").map(|home| home.join(".cache")))
        .map(|cache| cache.join("svol"))
}

/// What the command line and the environment say of all S3 layers.
struct S3Overrides {
    no_sign_request: Option<bool>,
    endpoint_url: Option<HttpUrl>,
    region: Option<String>,
    profile: Option<String>,
}

impl S3Overrides {
    fn apply(&self, layer: &mut Layer) {
        let Source::S3(s3) = &mut layer.source else {
            return;
        };
        if let Some(unsigned) = self.no_sign_request {
            s3.no_sign_request = unsigned;
            if unsigned {
                s3.credentials = None;
            }
        }
        if let Some(url) = &self.endpoint_url {
            s3.endpoint_url = Some(url.clone());
        }
        if let Some(region) = &self.region {
            s3.region = Some(region.clone());
        }
        if let Some(profile) = &self.profile {
            s3.profile = Some(profile.clone());
            // Keys of the file would win over the profile that was asked for.
            s3.credentials = None;
        }
    }
}
