//! Settings as data: what the command line, the environment, the volume file and the defaults
//! come to. Built once by [`resolve`](super::resolve), then only read.

use std::net::SocketAddr;
use std::path::PathBuf;

use crate::config::{ByteRate, ByteSize, CacheSize, Note, OnChange, Umask, Volume};
use crate::fuse::device::Origin;

/// What every command that looks into a volume needs.
#[derive(Debug, Clone, PartialEq)]
pub struct VolumeSettings {
    /// The volume. Its file names are absolute, each layer's `refresh` is set, and the flags for
    /// S3 are in its layers. Its `cache` and `mount` sections are already merged into the fields
    /// of these settings: read those, not the sections.
    pub volume: Volume,
    /// The volume file, absolute, where there was one; what a reload reads again.
    pub config_file: Option<PathBuf>,
    /// What there is to say of the volume file, where it is a document of the original.
    pub notes: Vec<Note>,
    /// The cache on disk.
    pub cache: CacheSettings,
    /// The most that is fetched from all sources together; nothing for no limit.
    pub bwlimit: Option<ByteRate>,
    /// The most memory to take; nothing for what fits the cgroup or the machine.
    pub memory: Option<ByteSize>,
}

/// Where the cache is and how large it may become.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CacheSettings {
    /// The cache's directory, absolute; it need not exist yet.
    pub dir: PathBuf,
    /// Its limit; nothing for the cache's own default.
    pub size: Option<CacheSize>,
}

/// What `svol mount` needs.
#[derive(Debug, Clone, PartialEq)]
pub struct MountSettings {
    /// The volume, its cache and its limits.
    pub view: VolumeSettings,
    /// Where to mount, absolute but not canonical; it need not exist.
    pub mountpoint: PathBuf,
    /// What `df` and /proc/mounts name as the mounted thing; nothing for the volume's name.
    pub fsname: Option<String>,
    /// The owner of all files; nothing for the user that mounts.
    pub uid: Option<u32>,
    /// The group of all files; nothing for the group of the user that mounts.
    pub gid: Option<u32>,
    /// The permission bits to take away; nothing for the mount's own default.
    pub umask: Option<Umask>,
    /// Whether other users may look in.
    pub allow_other: bool,
    /// Whether running programs from the mount is refused.
    pub noexec: bool,
    /// Whether the kernel may read complete cached files itself.
    pub passthrough: bool,
    /// Whether the process stays in the foreground.
    pub foreground: bool,
    /// Whether the mount point is made where it is not there.
    pub mkdir: bool,
    /// Whether to wait until every layer was reached once before saying that the mount serves.
    pub wait: bool,
    /// The TCP address at which figures and health are told beside the control socket.
    pub listen: Option<SocketAddr>,
    /// The file with the token that whoever asks there must have, absolute.
    pub listen_token_file: Option<PathBuf>,
    /// The files of TLS there; nothing for plain HTTP. Absolute.
    pub listen_tls: Option<TlsFiles>,
    /// Who is told when files changed.
    pub on_change: OnChange,
    /// Whether the mount is made here, or given by somebody who has made it.
    pub origin: Origin,
    /// Whether the daemon gives up what it does not need.
    pub sandbox: bool,
    /// Whether a holder keeps the mount, so that the daemon can be followed by another.
    pub takeover: bool,
    /// Logging.
    pub log: LogSettings,
}

/// The files of TLS at the control address.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TlsFiles {
    /// The certificate that is shown, and those between it and its authority.
    pub cert: PathBuf,
    /// Its private key.
    pub key: PathBuf,
    /// The authorities of which whoever asks must have a certificate; nothing where nobody is asked
    /// for one.
    pub client_ca: Option<PathBuf>,
}

/// What is logged, where, and how.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogSettings {
    /// What is logged: directives of `tracing_subscriber::EnvFilter`, already checked.
    pub filter: String,
    /// The file to append to, absolute; nothing for the standard error.
    pub file: Option<PathBuf>,
    /// How a line is written.
    pub format: LogFormat,
}

/// How a line of the log is written.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum LogFormat {
    /// For people.
    #[default]
    Text,
    /// One JSON object a line.
    Json,
}

impl std::str::FromStr for LogFormat {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "text" => Ok(Self::Text),
            "json" => Ok(Self::Json),
            _ => Err("not a format of the log; write text or json"),
        }
    }
}
