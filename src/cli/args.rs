//! The commands and their options, as clap parses them.
//!
//! Nothing here reads the environment or the volume file: [`resolve`](super::resolve) does, so
//! that the order of precedence stands in one place. A help text names the variable.

use std::ffi::OsString;
use std::net::SocketAddr;
use std::path::PathBuf;

use clap::{ArgAction, Args, Parser, Subcommand};

use super::settings::LogFormat;
use crate::config::{ByteRate, ByteSize, CacheSize, HumanDuration, Refresh, Umask};

/// One merged, lazy, cached, read-only filesystem over many remote sources.
#[derive(Debug, Parser)]
#[command(name = "svol", version, propagate_version = true, max_term_width = 100)]
#[command(arg_required_else_help = true, subcommand_required = true)]
#[command(after_help = "\
Examples:
  svol mount s3://models/llama /mnt/llama
  svol mount https://host/data/ file:///srv/site=/site /mnt/v
  svol mount -c volume.yaml /mnt/v
  svol status
  svol unmount /mnt/v

Exit status: 0 done, 1 failed, 2 usage or configuration, 3 done in part.")]
pub struct Cli {
    /// Logging, alike for every command.
    #[command(flatten)]
    pub log: LogArgs,
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// The commands.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Mount a volume
    Mount(MountArgs),
    /// Unmount volumes
    #[command(visible_alias = "umount")]
    Unmount(UnmountArgs),
    /// Show mounts, their layers' health and the cache
    Status(StatusArgs),
    /// Ask mounts, through the kernel, whether they serve
    Probe(ProbeArgs),
    /// Have this program serve mounts that another release serves, without unmounting them
    Upgrade(UpgradeArgs),
    /// Find out what is wrong, and what to do about it
    Doctor(DoctorArgs),
    /// Check volume files without mounting them
    Validate(ValidateArgs),
    /// Turn SharedVolume objects into volume files
    Convert(ConvertArgs),
    /// Tell where a file of a mount comes from
    Explain(ExplainArgs),
    /// Look for changes now
    Refresh(RefreshArgs),
    /// Take up a changed volume file
    Reload(ReloadArgs),
    /// Fetch files before anybody reads them
    Warm(WarmArgs),
    /// Remove what the cache has of files
    Evict(EvictArgs),
    /// Spare files from eviction, or list those that are
    Pin(PinArgs),
    /// No longer spare files from eviction
    Unpin(UnpinArgs),
    /// Show how much of files and trees is here
    Stats(StatsArgs),
    /// Print the JSON Schema of the volume file
    Schema(SchemaArgs),
    /// List a directory of a volume without mounting it
    Ls(LsArgs),
    /// Print files of a volume without mounting it
    Cat(CatArgs),
    /// Look after the cache
    Cache(CacheArgs),
    /// Print a script that lets a shell complete commands and options
    Completions(CompletionsArgs),
    /// Write the manual pages
    Man(ManArgs),
    /// Mount for a `svol mount --fuse-socket` that has no privilege
    FuseHelper(FuseHelperArgs),
    /// Show all of it at once, without an account or a network
    Demo(DemoArgs),
}

/// Logging.
#[derive(Debug, Clone, Default, Args)]
#[command(next_help_heading = "Logging")]
pub struct LogArgs {
    /// Log more; twice for everything [variable: SVOL_LOG, with directives such as svol=debug]
    #[arg(short, long, action = ArgAction::Count, global = true)]
    pub verbose: u8,
    /// Append the log to FILE, not to the standard error [variable: SVOL_LOG_FILE]
    #[arg(long, value_name = "FILE", global = true)]
    pub log_file: Option<PathBuf>,
    /// How a line of the log is written [variable: SVOL_LOG_FORMAT] [default: text]
    #[arg(long, value_name = "FORMAT", global = true)]
    pub log_format: Option<LogFormat>,
}

/// Which volume, and how it is read. Shared by all commands that look into one.
#[derive(Debug, Clone, Default, Args)]
pub struct VolumeArgs {
    /// The volume file, instead of sources [variable: SVOL_CONFIG]
    #[arg(short, long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// Where a SharedVolume's Secrets are mounted, as NAMESPACE/NAME/KEY or NAME/KEY [variable:
    /// SVOL_SECRETS_DIR] [default: /run/secrets/svol]
    #[arg(long, value_name = "DIR")]
    pub secrets_dir: Option<PathBuf>,
    /// The cache's directory [variable: SVOL_CACHE_DIR] [default: ~/.cache/svol, for root
    /// /var/cache/svol]
    #[arg(long, value_name = "DIR")]
    pub cache_dir: Option<PathBuf>,
    /// How much disk the cache may take, such as 20GiB or 10% [variable: SVOL_CACHE_SIZE]
    /// [default: 10%, at most half of what is free]
    #[arg(long, value_name = "SIZE")]
    pub cache_size: Option<CacheSize>,
    /// How often all layers look for changes: an interval such as 5m, or never [variable:
    /// SVOL_REFRESH] [default: 5m]
    #[arg(long, value_name = "INTERVAL")]
    pub refresh: Option<Refresh>,
    /// For how long a version that is only size and time is believed at open [variable:
    /// SVOL_REVALIDATE] [default: 1m]
    #[arg(long, value_name = "DURATION")]
    pub revalidate: Option<HumanDuration>,
    /// How long a reader waits for a source before it gets an error [variable: SVOL_TIMEOUT]
    /// [default: 30s]
    #[arg(long, value_name = "DURATION")]
    pub timeout: Option<HumanDuration>,
    /// Fetch at most this much a second from all sources together [variable: SVOL_BWLIMIT]
    #[arg(long, value_name = "RATE")]
    pub bwlimit: Option<ByteRate>,
    /// How much memory the process may take, at least 48MiB [variable: SVOL_MEMORY] [default: half
    /// of the cgroup's limit or a quarter of the machine's memory, at most 1GiB]
    #[arg(long, value_name = "SIZE")]
    pub memory: Option<ByteSize>,
    /// Options of all S3 layers.
    #[command(flatten)]
    pub s3: S3Args,
}

/// Options of all S3 layers; what the AWS tools' own variables say holds where these are not set.
#[derive(Debug, Clone, Default, Args)]
pub struct S3Args {
    /// Send requests without a signature, for public buckets [variable: SVOL_NO_SIGN_REQUEST]
    #[arg(long, help_heading = "S3", value_name = "BOOL", num_args = 0..=1, require_equals = true)]
    #[arg(default_missing_value = "true", hide_possible_values = true)]
    pub no_sign_request: Option<bool>,
    /// The URL of a service other than Amazon's [variable: SVOL_ENDPOINT_URL, AWS_ENDPOINT_URL]
    #[arg(long, help_heading = "S3", value_name = "URL")]
    // Text: clap would repeat a URL that is refused, and with it a password.
    pub endpoint_url: Option<String>,
    /// The buckets' region [variable: SVOL_REGION, AWS_REGION]
    #[arg(long, help_heading = "S3", value_name = "REGION")]
    pub region: Option<String>,
    /// The profile of ~/.aws/config to use [variable: SVOL_PROFILE, AWS_PROFILE]
    #[arg(long, help_heading = "S3", value_name = "NAME")]
    pub profile: Option<String>,
}

/// What is said after the sources' arguments of several commands.
macro_rules! sources_help {
    () => {
        "\
Sources:
  s3://BUCKET/PREFIX                 a bucket, or the part of it under a prefix
  https://HOST/DIR/, http://...      a tree listed by the server, or a single file
  file:///DIR, /DIR, ./DIR           a directory of this machine
  SOURCE=/path                       the same, grafted at /path of the volume (split at the last
                                     `=/`; end a source that has `=/` itself with `=/`)
  Where two sources have a file of one name, the later one wins."
    };
}

/// `svol mount`.
#[derive(Debug, Clone, Args)]
#[command(
    override_usage = "svol mount [OPTIONS] SOURCE[=/path]... MOUNTPOINT\n       \
                      svol mount [OPTIONS] -c FILE MOUNTPOINT"
)]
#[command(after_help = concat!(sources_help!(), "\n
Examples:
  svol mount s3://models/llama /mnt/llama
  svol mount https://host/data/ file:///srv/site=/site /mnt/v
  svol mount -c volume.yaml --cache-size 20GiB /mnt/v
  svol mount --no-sign-request --region us-east-1 s3://a-public-bucket /mnt/p --foreground -v
  svol mount s3://models /mnt/m -o allow_other,uid=1000,umask=022"))]
pub struct MountArgs {
    /// The volume.
    #[command(flatten)]
    pub volume: VolumeArgs,
    /// Stay in the foreground [variable: SVOL_FOREGROUND]
    #[arg(short, long)]
    pub foreground: bool,
    /// Make the mount point if it is not there [variable: SVOL_MKDIR]
    #[arg(long)]
    pub mkdir: bool,
    /// Return only when each layer was reached once [variable: SVOL_WAIT]
    #[arg(long)]
    pub wait: bool,
    /// The user that owns all files, as a number [variable: SVOL_UID]
    #[arg(long)]
    pub uid: Option<u32>,
    /// The group that owns all files, as a number [variable: SVOL_GID]
    #[arg(long)]
    pub gid: Option<u32>,
    /// The permission bits to take away, such as 022 [variable: SVOL_UMASK]
    #[arg(long, value_name = "OCTAL")]
    pub umask: Option<Umask>,
    /// Let other users in [variable: SVOL_ALLOW_OTHER]
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true)]
    #[arg(default_missing_value = "true", hide_possible_values = true)]
    pub allow_other: Option<bool>,
    /// Whether the kernel reads complete cached files itself, where it can [variable:
    /// SVOL_PASSTHROUGH] [default: true]
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true)]
    #[arg(default_missing_value = "true", hide_possible_values = true)]
    pub passthrough: Option<bool>,
    /// Tell health and figures at this TCP address too, such as 127.0.0.1:9465 [variable:
    /// SVOL_LISTEN]
    #[arg(long, value_name = "ADDR:PORT")]
    pub listen: Option<SocketAddr>,
    /// The file with the bearer token that is asked for there; it, or --listen-client-ca, is a must
    /// beyond this machine [variable: SVOL_LISTEN_TOKEN_FILE]
    #[arg(long, value_name = "FILE")]
    pub listen_token_file: Option<PathBuf>,
    /// The file with the certificate to show there, in PEM: then it is HTTPS [variable:
    /// SVOL_LISTEN_TLS_CERT]
    #[arg(long, value_name = "FILE")]
    pub listen_tls_cert: Option<PathBuf>,
    /// The file with that certificate's private key, in PEM [variable: SVOL_LISTEN_TLS_KEY]
    #[arg(long, value_name = "FILE")]
    pub listen_tls_key: Option<PathBuf>,
    /// The file with the authorities, in PEM, of which whoever asks there must have a certificate
    /// [variable: SVOL_LISTEN_CLIENT_CA]
    #[arg(long, value_name = "FILE")]
    pub listen_client_ca: Option<PathBuf>,
    /// Run PROGRAM when files changed, with what changed as JSON on its standard input [variable:
    /// SVOL_ON_CHANGE]
    #[arg(long, value_name = "PROGRAM")]
    pub on_change: Option<String>,
    /// Serve the mount of this open /dev/fuse, which was inherited; MOUNTPOINT is then its name only,
    /// and somebody else unmounts it [variable: SVOL_FUSE_FD]
    #[arg(long, value_name = "N")]
    pub fuse_fd: Option<i32>,
    /// The same with what `svol fuse-helper` or a CSI driver sends over this socket [variable:
    /// SVOL_FUSE_SOCKET]
    #[arg(long, value_name = "PATH")]
    pub fuse_socket: Option<PathBuf>,
    /// Keep all privileges and core dumps, to look for a fault [variable: SVOL_NO_SANDBOX]
    #[arg(long)]
    pub no_sandbox: bool,
    /// Serve from one process, whose end is the mount's: no other follows one that died, and none can
    /// take over [variable: SVOL_NO_TAKEOVER]
    #[arg(long)]
    pub no_takeover: bool,
    /// Mount options as mount(8) writes them: ro, noexec, allow_other, uid=N, gid=N, umask=N and
    /// the long options above; weaker than an option of its own
    #[arg(short = 'o', value_name = "OPTIONS")]
    pub options: Vec<String>,
    /// The sources, each with a path if wanted, in order; then the directory to mount at
    #[arg(value_name = "SOURCE[=/path]", required = true)]
    pub places: Vec<OsString>,
}

/// `svol unmount`.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  svol unmount /mnt/v
  svol unmount --timeout 30s /mnt/a /mnt/b")]
pub struct UnmountArgs {
    /// How long to wait for the mount to be gone
    #[arg(long, value_name = "DURATION", default_value = "10s")]
    pub timeout: HumanDuration,
    /// The mounts
    #[arg(value_name = "MOUNTPOINT", required = true)]
    pub mountpoints: Vec<PathBuf>,
}

/// `svol status`.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  svol status
  svol status /mnt/v
  svol status --json | jq '.mounts[].layers[].conditions'")]
pub struct StatusArgs {
    /// Print one JSON document instead of a table
    #[arg(long)]
    pub json: bool,
    /// Only these mounts
    #[arg(value_name = "MOUNTPOINT")]
    pub mountpoints: Vec<PathBuf>,
}

/// `svol probe`.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  svol probe /mnt/v
  svol probe --ready --timeout 5s /mnt/v

Exit status: 0 if all serve, 1 if any does not, within the time given.")]
pub struct ProbeArgs {
    /// Ask too whether all layers are ready that the volume requires
    #[arg(long)]
    pub ready: bool,
    /// How long a mount may take
    #[arg(long, value_name = "DURATION", default_value = "2s")]
    pub timeout: HumanDuration,
    /// The mounts
    #[arg(value_name = "MOUNTPOINT", required = true)]
    pub mountpoints: Vec<PathBuf>,
}

/// `svol upgrade`.
#[derive(Debug, Args)]
#[command(after_help = "\
The new program reads the settings anew, prepares beside the old one, and takes over with files open
and readers waiting; where it cannot, the old one goes on. Takes Linux 6.9.

Examples:
  svol upgrade /mnt/v
  svol upgrade --binary /opt/svol-next/svol /mnt/v /mnt/w

Exit status: 0 if it serves all of them, 1 if none, 3 if some.")]
pub struct UpgradeArgs {
    /// Another program than the one that runs this command
    #[arg(long, value_name = "PATH")]
    pub binary: Option<PathBuf>,
    /// The mounts
    #[arg(value_name = "MOUNTPOINT", required = true)]
    pub mountpoints: Vec<PathBuf>,
}

/// `svol doctor`.
#[derive(Debug, Args)]
#[command(override_usage = "svol doctor [OPTIONS] [SOURCE[=/path]...|-c FILE] [MOUNTPOINT]")]
#[command(after_help = "\
Looks at the kernel, FUSE, limits and the cache's disk; with a volume, at its secrets and whether each
source can be reached and lets us in; at the mount point, or without one at all mounts. Changes nothing.
A directory alone is a mount point: as a source it is written file:///DIR.

Examples:
  svol doctor
  svol doctor /mnt/v
  svol doctor -c volume.yaml /mnt/v
  svol doctor --json s3://models/llama | jq '.findings[] | select(.level != \"ok\")'

Exit status: 0 all is well or only warned of, 1 a check failed.")]
pub struct DoctorArgs {
    /// The volume.
    #[command(flatten)]
    pub volume: VolumeArgs,
    /// Print one JSON document instead of lines
    #[arg(long)]
    pub json: bool,
    /// The sources, and the directory that a volume is mounted at or to be mounted at
    #[arg(value_name = "SOURCE[=/path]|MOUNTPOINT")]
    pub places: Vec<OsString>,
}

/// `svol validate`.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  svol validate volume.yaml
  svol validate volumes/*.yaml")]
pub struct ValidateArgs {
    /// Where a SharedVolume's Secrets are mounted, as NAMESPACE/NAME/KEY or NAME/KEY [variable:
    /// SVOL_SECRETS_DIR] [default: /run/secrets/svol]
    #[arg(long, value_name = "DIR")]
    pub secrets_dir: Option<PathBuf>,
    /// The volume files, or files with one SharedVolume
    #[arg(value_name = "FILE", required = true)]
    pub files: Vec<PathBuf>,
}

/// `svol convert`.
#[derive(Debug, Args)]
#[command(after_help = "\
Prints the volume file, and on the standard error what has no equivalent (then the exit status is 3)
and what is left to decide. A field's secret is never written: the volume file names the file to put it into.

Examples:
  svol convert sharedvolume.yaml -o volume.yaml
  svol convert sharedvolumes.yaml -o volumes/
  kubectl get sharedvolumes -A -o yaml | svol convert - -o volumes/")]
pub struct ConvertArgs {
    /// Where to write it; with several volumes a directory, which gets a file for each. What is
    /// there is not overwritten
    #[arg(short, long, value_name = "OUT")]
    pub output: Option<PathBuf>,
    /// The directory that the volume file takes Secrets from, as NAMESPACE/NAME/KEY or NAME/KEY
    /// [variable: SVOL_SECRETS_DIR] [default: /run/secrets/svol]
    #[arg(long, value_name = "DIR")]
    pub secrets_dir: Option<PathBuf>,
    /// The file with SharedVolume and ClusterSharedVolume objects; - for the standard input
    #[arg(value_name = "FILE", required = true)]
    pub file: PathBuf,
}

/// `svol explain`.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  svol explain /mnt/v/some/file")]
pub struct ExplainArgs {
    /// Print one JSON document
    #[arg(long)]
    pub json: bool,
    /// The files or directories, in a mount
    #[arg(value_name = "PATH", required = true)]
    pub paths: Vec<PathBuf>,
}

/// `svol refresh`.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  svol refresh /mnt/v
  svol refresh /mnt/v/some/dir")]
pub struct RefreshArgs {
    /// The mounts, or directories in them
    #[arg(value_name = "PATH", required = true)]
    pub paths: Vec<PathBuf>,
}

/// `svol reload`.
#[derive(Debug, Args)]
#[command(after_help = "\
A changed file is noticed by itself within seconds; this does not wait, and says what came of it.
Exit status: 0 taken up, or the file is what is served; 1 not taken up, it serves as before.

Examples:
  svol reload /mnt/v")]
pub struct ReloadArgs {
    /// The mounts
    #[arg(value_name = "MOUNTPOINT", required = true)]
    pub mountpoints: Vec<PathBuf>,
}

/// Which files a command acts on.
#[derive(Debug, Clone, Default, Args)]
pub struct FilesArgs {
    /// The volume, where it is not mounted.
    #[command(flatten)]
    pub volume: VolumeArgs,
    /// A file, directory or pattern of a volume that is not mounted; once for each [default: all]
    #[arg(long = "path", value_name = "PATH")]
    pub paths: Vec<String>,
    /// Print one JSON document at the end
    #[arg(long)]
    pub json: bool,
    /// Files, directories or quoted patterns (*, ?, [a-z], {a,b}, ** for any depth) in mounts; with
    /// -c or --path, or where they are URLs, the sources of a volume that is not mounted
    #[arg(value_name = "PATH|SOURCE[=/path]")]
    pub places: Vec<OsString>,
}

/// `svol warm`.
#[derive(Debug, Args)]
#[command(override_usage = "svol warm [OPTIONS] PATH...\n       \
                      svol warm [OPTIONS] [--path PATH]... SOURCE[=/path]...\n       \
                      svol warm [OPTIONS] [--path PATH]... -c FILE")]
#[command(after_help = "\
What is here is not fetched again, so the same command goes on where it was interrupted. Readers of
the mount come first. Exit status: 0 all of it is here, 3 some of it failed (or, with --check, is
missing).

Examples:
  svol warm /mnt/v/models
  svol warm --check '/mnt/v/**/*.safetensors'
  svol warm --jobs 4 --path '/train/*.csv' https://host/data/
  svol warm -c volume.yaml")]
pub struct WarmArgs {
    /// Fetch nothing, and say what is missing
    #[arg(long)]
    pub check: bool,
    /// Requests at once, 16 at most
    #[arg(short, long, value_name = "N", default_value_t = 8)]
    #[arg(value_parser = clap::value_parser!(u16).range(1..=16))]
    pub jobs: u16,
    /// Which files.
    #[command(flatten)]
    pub files: FilesArgs,
}

/// `svol evict`.
#[derive(Debug, Args)]
#[command(override_usage = "svol evict [OPTIONS] PATH...\n       \
                      svol evict [OPTIONS] [--path PATH]... SOURCE[=/path]...|-c FILE")]
#[command(after_help = "\
What is open or pinned stays, and is said. Content that other files have too stays for them; the
room of small files is free when all that share theirs are gone. Exit status: 0 all of it is gone, 3
some of it stays.

Examples:
  svol evict /mnt/v/old
  svol evict '/mnt/v/**/*.tmp'")]
pub struct EvictArgs {
    /// Which files.
    #[command(flatten)]
    pub files: FilesArgs,
}

/// `svol pin`.
#[derive(Debug, Args)]
#[command(override_usage = "svol pin [OPTIONS] PATH...\n       \
                      svol pin [OPTIONS] [--path PATH]... SOURCE[=/path]...|-c FILE\n       \
                      svol pin --list [--json]")]
#[command(after_help = "\
A pin is of the present version of a file, and lasts until it is undone or a newer version is pinned.
It fetches nothing: `svol warm` does. Pins that the cache could not hold all at once are refused.

Examples:
  svol pin /mnt/v/models/base
  svol pin --list
  svol warm /mnt/v/models/base && svol pin /mnt/v/models/base")]
pub struct PinArgs {
    /// List the pinned files of the cache
    #[arg(long, conflicts_with_all = ["places", "paths"])]
    pub list: bool,
    /// Which files.
    #[command(flatten)]
    pub files: FilesArgs,
}

/// `svol unpin`.
#[derive(Debug, Args)]
#[command(override_usage = "svol unpin [OPTIONS] PATH...\n       \
                      svol unpin [OPTIONS] [--path PATH]... SOURCE[=/path]...|-c FILE\n       \
                      svol unpin --url URL")]
#[command(after_help = "\
Examples:
  svol unpin /mnt/v/models/base
  svol unpin --url s3://models/gone.bin    # of a file that is gone, as `svol pin --list` has it")]
pub struct UnpinArgs {
    /// A pinned file's URL, as `svol pin --list` prints it; once for each
    #[arg(long = "url", value_name = "URL", conflicts_with_all = ["places", "paths"])]
    pub urls: Vec<String>,
    /// Which files.
    #[command(flatten)]
    pub files: FilesArgs,
}

/// `svol stats`.
#[derive(Debug, Args)]
#[command(override_usage = "svol stats [OPTIONS] PATH...\n       \
                      svol stats [OPTIONS] [--path PATH]... SOURCE[=/path]...|-c FILE")]
#[command(after_help = "\
Examples:
  svol stats /mnt/v
  svol stats --json '/mnt/v/*' | jq '.trees[] | .cachedBytes / .bytes'")]
pub struct StatsArgs {
    /// Which files.
    #[command(flatten)]
    pub files: FilesArgs,
}

/// `svol schema`.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  svol schema > volume.schema.json")]
pub struct SchemaArgs {}

/// `svol ls`.
#[derive(Debug, Args)]
#[command(override_usage = "svol ls [OPTIONS] SOURCE[=/path]...\n       svol ls [OPTIONS] -c FILE")]
#[command(after_help = concat!(sources_help!(), "\n
Examples:
  svol ls s3://models/llama
  svol ls -l --path /data https://host/data/=/data file:///srv/site
  svol ls -R -c volume.yaml"))]
pub struct LsArgs {
    /// The volume.
    #[command(flatten)]
    pub volume: VolumeArgs,
    /// Show kind, size, time and source too
    #[arg(short, long)]
    pub long: bool,
    /// Go down into directories
    #[arg(short = 'R', long)]
    pub recursive: bool,
    /// The directory of the volume to list
    #[arg(long, value_name = "PATH", default_value = "/")]
    pub path: String,
    /// The sources, in order
    #[arg(value_name = "SOURCE[=/path]")]
    pub sources: Vec<OsString>,
}

/// `svol cat`.
#[derive(Debug, Args)]
#[command(
    override_usage = "svol cat [OPTIONS] --path PATH SOURCE[=/path]...\n       \
                            svol cat [OPTIONS] --path PATH -c FILE"
)]
#[command(after_help = concat!(sources_help!(), "\n
Examples:
  svol cat --path /config.json s3://models/llama
  svol cat -c volume.yaml --path /a.csv --path /b.csv"))]
pub struct CatArgs {
    /// The volume.
    #[command(flatten)]
    pub volume: VolumeArgs,
    /// The file of the volume to print; once for each file
    #[arg(long = "path", value_name = "PATH", required = true)]
    pub paths: Vec<String>,
    /// The sources, in order
    #[arg(value_name = "SOURCE[=/path]")]
    pub sources: Vec<OsString>,
}

/// `svol cache`.
#[derive(Debug, Args)]
#[command(arg_required_else_help = true, subcommand_required = true)]
#[command(after_help = "\
Examples:
  svol cache stats
  svol cache verify
  svol cache gc --cache-size 5GiB")]
pub struct CacheArgs {
    /// What to do with the cache.
    #[command(subcommand)]
    pub command: CacheCommand,
}

/// The commands of `svol cache`.
#[derive(Debug, Subcommand)]
pub enum CacheCommand {
    /// Show what the cache holds
    #[command(after_help = "Examples:\n  svol cache stats\n  svol cache stats --json")]
    Stats {
        /// The cache.
        #[command(flatten)]
        cache: CacheDirArgs,
        /// Print one JSON document instead of a table
        #[arg(long)]
        json: bool,
    },
    /// Read everything in the cache and drop what does not match its digest
    #[command(after_help = "Examples:\n  svol cache verify --cache-dir /var/cache/svol")]
    Verify {
        /// The cache.
        #[command(flatten)]
        cache: CacheDirArgs,
    },
    /// Remove what was used least recently until the cache fits its limit
    #[command(after_help = "Examples:\n  svol cache gc\n  svol cache gc --cache-size 5GiB")]
    Gc {
        /// The cache.
        #[command(flatten)]
        cache: CacheDirArgs,
    },
}

/// Which cache.
#[derive(Debug, Clone, Default, Args)]
pub struct CacheDirArgs {
    /// The cache's directory [variable: SVOL_CACHE_DIR] [default: ~/.cache/svol, for root
    /// /var/cache/svol]
    #[arg(long, value_name = "DIR")]
    pub cache_dir: Option<PathBuf>,
    /// How much disk it may take, such as 20GiB or 10% [variable: SVOL_CACHE_SIZE]
    #[arg(long, value_name = "SIZE")]
    pub cache_size: Option<CacheSize>,
}

/// `svol demo`.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  svol demo
  svol demo --keep")]
pub struct DemoArgs {
    /// Stay mounted until Ctrl-C
    #[arg(long)]
    pub keep: bool,
}

/// `svol completions`.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  svol completions bash > ~/.local/share/bash-completion/completions/svol
  svol completions zsh > ~/.zfunc/_svol
  svol completions fish > ~/.config/fish/completions/svol.fish")]
pub struct CompletionsArgs {
    /// The shell
    #[arg(value_name = "SHELL")]
    pub shell: clap_complete::Shell,
}

/// `svol man`.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  svol man | man -l -
  svol man ~/.local/share/man/man1")]
pub struct ManArgs {
    /// The directory to write the pages of all commands into; without it the first is printed
    #[arg(value_name = "DIR")]
    pub directory: Option<PathBuf>,
}

/// Mount a volume, as mount(8) asks for it.
///
/// The helper of mount(8) for the types svol and fuse.svol: /etc/fstab, systemd's mount units and
/// automounts mount volumes through it. It is svol under another name.
#[derive(Debug, Parser)]
#[command(name = "mount.svol", version, max_term_width = 100)]
#[command(override_usage = "mount -t svol [-o OPTIONS] SOURCE DIR\n       \
                      mount.svol SOURCE DIR [-sfnv] [-o OPTIONS]")]
#[command(after_help = "\
SOURCE is a volume file (a file, or a name that ends with .yaml or .yml), or one source as
`svol mount` takes it: a URL or a directory, with =/path where it is to be grafted. Several are a
volume file's.

Examples:
  mount -t svol /etc/svol/models.yaml /mnt/models
  mount -t svol -o ro,allow_other,cache_size=20GiB s3://models/llama /mnt/llama

In /etc/fstab:
  /etc/svol/models.yaml  /mnt/models  svol  ro,_netdev,nofail,allow_other  0 0
  s3://models/llama  /mnt/llama  svol  ro,noauto,_netdev,x-systemd.automount  0 0

Exit status: 0 mounted, 1 wrong usage or configuration, 32 failed.")]
pub struct HelperArgs {
    /// The volume file or the source
    #[arg(value_name = "SOURCE")]
    pub source: OsString,
    /// Where to mount
    #[arg(value_name = "DIR")]
    pub directory: PathBuf,
    /// Options with commas between: those of `svol mount -o`. Volumes are read-only; rw, which
    /// mount(8) says by itself, is taken and not obeyed
    #[arg(short = 'o', value_name = "OPTIONS")]
    pub options: Vec<String>,
    /// Pass over options that are not known
    #[arg(short = 's')]
    pub sloppy: bool,
    /// Check everything that needs no mount, and mount nothing
    #[arg(short = 'f')]
    pub fake: bool,
    /// Write no /etc/mtab: never done
    #[arg(short = 'n')]
    pub no_mtab: bool,
    /// Say what is run
    #[arg(short = 'v')]
    pub verbose: bool,
    /// The type, where it has two parts
    #[arg(short = 't', value_name = "TYPE", hide = true)]
    pub fs_type: Option<String>,
    /// Another mount namespace: refused
    #[arg(short = 'N', value_name = "NAMESPACE", hide = true)]
    pub namespace: Option<OsString>,
}

/// `svol fuse-helper`.
#[derive(Debug, Args)]
#[command(after_help = "\
Opens /dev/fuse, mounts, and gives it to whoever may connect to the socket: again to each, with a new
mount, once the one before is gone. Unmounts at its end.

Examples:
  svol fuse-helper --socket /run/fuse/socket /volume/v
  svol mount --fuse-socket /run/fuse/socket -c volume.yaml /volume/v --foreground")]
pub struct FuseHelperArgs {
    /// Where to listen
    #[arg(long, value_name = "PATH")]
    pub socket: PathBuf,
    /// The user, as numbers, that serves the mount
    #[arg(long, value_name = "UID[:GID]", default_value = "65534:65534")]
    pub owner: Owner,
    /// What the mount is called in /proc/mounts and by df
    #[arg(long, value_name = "NAME", default_value = "volume")]
    pub name: String,
    /// Programs on it may not be run
    #[arg(long)]
    pub noexec: bool,
    /// The directory to mount at; made if it is not there
    #[arg(value_name = "MOUNTPOINT")]
    pub mountpoint: PathBuf,
}

/// A user and a group, as numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Owner {
    /// The user.
    pub uid: u32,
    /// The group.
    pub gid: u32,
}

impl std::str::FromStr for Owner {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (uid, gid) = text.split_once(':').unwrap_or((text, text));
        match (uid.parse(), gid.parse()) {
            (Ok(uid), Ok(gid)) => Ok(Owner { uid, gid }),
            _ => Err("not a user and a group as numbers; write one as in 65534:65534"),
        }
    }
}
