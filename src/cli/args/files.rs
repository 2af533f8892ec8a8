//! Commands about files and the cache.

use std::ffi::OsString;
use std::path::PathBuf;

use clap::{Args, Subcommand};

use super::VolumeArgs;
use crate::config::CacheSize;

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
