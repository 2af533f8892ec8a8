//! Commands about mounts and volume files.

use std::ffi::OsString;
use std::path::PathBuf;

use clap::Args;

use super::VolumeArgs;
use crate::config::HumanDuration;

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
