//! Those who mount: ours and the peers.

use std::path::{Path, PathBuf};
use std::process::Command;

use serde::{Deserialize, Serialize};

use crate::daemon::Daemon;
use crate::peers;
use crate::settings::Settings;
use crate::world::{BUCKET, Place, World};

/// The program under measurement.
pub const SVOL: &str = env!("CARGO_BIN_EXE_svol");

/// One who mounts.
#[derive(Clone, Copy)]
pub struct Mount {
    /// Its name.
    pub name: &'static str,
    /// What it is beside the others.
    pub role: Role,
    command: MountCommand,
}

/// Returns the command that mounts at the first path, on a cache at the second.
pub type MountCommand = fn(&World, Place, &Path, &Path) -> Command;

/// What one who does the work is beside the others.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// This program.
    Ours,
    /// Another build of it.
    Other,
    /// Another program for the same purpose.
    Peer,
    /// The same work with nothing between.
    Floor,
}

impl Mount {
    /// Returns a peer.
    pub const fn peer(name: &'static str, command: MountCommand) -> Mount {
        Mount {
            name,
            role: Role::Peer,
            command,
        }
    }

    /// Starts to mount the bucket, on the cache at `cache`.
    pub fn spawn(&self, world: &World, place: Place, cache: &Path) -> Daemon {
        self.spawn_at(world, place, world.fresh("mount"), cache)
    }

    /// The same at a place where it was mounted before.
    pub fn spawn_at(&self, world: &World, place: Place, at: PathBuf, cache: &Path) -> Daemon {
        let mut command = (self.command)(world, place, &at, cache);
        // Of the user's own AWS settings none is to count, and rclone fails on some.
        let set: Vec<_> = command
            .get_envs()
            .map(|(name, _)| name.to_owned())
            .collect();
        for (name, _) in std::env::vars_os() {
            if name.to_string_lossy().starts_with("AWS_") && !set.contains(&name) {
                command.env_remove(&name);
            }
        }
        command.env("AWS_EC2_METADATA_DISABLED", "true");
        Daemon::spawn(command, at)
    }

    /// Mounts the bucket.
    pub fn mount(&self, world: &World, place: Place, cache: &Path) -> Daemon {
        self.spawn(world, place, cache).wait()
    }
}

/// Returns those who take part: ours, another build of it if there is one to compare with, and
/// the peers that are wanted.
pub fn all(settings: &Settings) -> Vec<Mount> {
    let mut all = ours(settings);
    all.extend(peers::S3.iter().filter(|peer| settings.has_peer(peer.name)));
    all
}

/// Returns those who mount the same files from a web server's directory: ours, and the peers that
/// can. sshfs does it over SFTP.
pub fn over_http(settings: &Settings) -> Vec<Mount> {
    let mut all = builds(settings, [svol_http, other_svol_http]);
    let peers = peers::HTTP
        .iter()
        .filter(|peer| settings.has_peer(peer.name));
    all.extend(peers);
    all
}

/// Returns ours, and another build of it if there is one to compare with.
pub fn ours(settings: &Settings) -> Vec<Mount> {
    builds(settings, [svol_s3, other_svol_s3])
}

fn builds(settings: &Settings, [ours, other]: [MountCommand; 2]) -> Vec<Mount> {
    let ours = Mount {
        name: "svol",
        role: Role::Ours,
        command: ours,
    };
    let other = settings.other.is_some().then_some(Mount {
        name: "the other svol",
        role: Role::Other,
        command: other,
    });
    [ours].into_iter().chain(other).collect()
}

fn svol_s3(world: &World, place: Place, at: &Path, cache: &Path) -> Command {
    s3(svol(SVOL.as_ref(), at, cache), world, place, at)
}

fn other_svol_s3(world: &World, place: Place, at: &Path, cache: &Path) -> Command {
    s3(svol(other(world), at, cache), world, place, at)
}

fn svol_http(world: &World, place: Place, at: &Path, cache: &Path) -> Command {
    let mut command = svol(SVOL.as_ref(), at, cache);
    command.arg(peers::http_url(world, place)).arg(at);
    command
}

fn other_svol_http(world: &World, place: Place, at: &Path, cache: &Path) -> Command {
    let mut command = svol(other(world), at, cache);
    command.arg(peers::http_url(world, place)).arg(at);
    command
}

fn other(world: &World) -> &Path {
    world.other.as_deref().unwrap_or(SVOL.as_ref())
}

/// As it is without any setting: what is measured is what one gets.
fn svol(program: &Path, at: &Path, cache: &Path) -> Command {
    let mut command = Command::new(program);
    command
        .args(["mount", "--foreground"])
        .env("SVOL_CACHE_DIR", cache)
        .env("SVOL_RUNTIME_DIR", at.with_extension("run"));
    command
}

fn s3(mut command: Command, world: &World, place: Place, at: &Path) -> Command {
    command
        .arg("--no-sign-request")
        .arg(format!("s3://{BUCKET}"))
        .arg(at)
        .env("AWS_ENDPOINT_URL", world.at(place))
        .env("AWS_REGION", "us-east-1");
    command
}
