//! The commands and their options, as clap parses them.
//!
//! Nothing here reads the environment or the volume file: [`resolve`](super::resolve) does, so
//! that the order of precedence stands in one place. A help text names the variable.

use std::ffi::OsString;
use std::net::SocketAddr;
use std::path::PathBuf;

use clap::{ArgAction, Args, Parser, Subcommand};

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

mod files;
mod helpers;
mod mounts;

pub use files::*;
pub use helpers::*;
pub use mounts::*;

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
