//! Those who mount: ours, and peers with the settings that their manuals advise for reading.

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::daemon::Daemon;
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
    command: fn(&World, Place, &Path, &Path) -> Command,
}

/// What one who does the work is beside the others.
#[derive(Clone, Copy, PartialEq)]
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

/// The peers, by name.
pub const PEERS: &[Mount] = &[Mount {
    name: "rclone",
    role: Role::Peer,
    command: rclone,
}];

impl Mount {
    /// Starts to mount the bucket, on the cache at `cache`.
    pub fn spawn(&self, world: &World, place: Place, cache: &Path) -> Daemon {
        let at = world.fresh("mount");
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
    all.extend(PEERS.iter().filter(|peer| settings.has_peer(peer.name)));
    all
}

/// Returns ours, and another build of it if there is one to compare with.
pub fn ours(settings: &Settings) -> Vec<Mount> {
    let mut all = vec![Mount {
        name: "svol",
        role: Role::Ours,
        command: |world, place, at, cache| svol(SVOL.as_ref(), world, place, at, cache),
    }];
    if settings.other.is_some() {
        all.push(Mount {
            name: "the other svol",
            role: Role::Other,
            command: |world, place, at, cache| {
                let other = world.other.as_deref().unwrap_or(SVOL.as_ref());
                svol(other, world, place, at, cache)
            },
        });
    }
    all
}

fn svol(program: &Path, world: &World, place: Place, at: &Path, cache: &Path) -> Command {
    let mut command = Command::new(program);
    command
        .args(["mount", "--foreground", "--no-sign-request"])
        .arg(format!("s3://{BUCKET}"))
        .arg(at)
        .env("AWS_ENDPOINT_URL", world.at(place))
        .env("AWS_REGION", "us-east-1")
        .env("SVOL_CACHE_DIR", cache)
        .env("SVOL_RUNTIME_DIR", at.with_extension("run"));
    command
}

/// Returns a program that tests/setup.sh installs, else the machine's.
pub fn installed(name: &str) -> PathBuf {
    let own = Path::new(env!("CARGO_MANIFEST_DIR")).join("target/test-env/bin");
    let own = own.join(name);
    if own.exists() { own } else { name.into() }
}

/// rclone, as its manual advises for reading: files are kept on disk, nothing is asked twice, and
/// fast object stores are read by 16 streams of 4 MiB.
fn rclone(world: &World, place: Place, at: &Path, cache: &Path) -> Command {
    let mut command = Command::new(installed("rclone"));
    command
        .arg("mount")
        .arg(format!(":s3:{BUCKET}"))
        .arg(at)
        .args(["--config", "/dev/null", "--s3-provider", "Other"])
        .args(["--s3-endpoint", world.at(place)])
        .args(["--read-only", "--vfs-cache-mode", "full"])
        .args([
            "--vfs-read-chunk-streams",
            "16",
            "--vfs-read-chunk-size",
            "4M",
        ])
        .args(["--vfs-fast-fingerprint", "--use-server-modtime"])
        .args(["--dir-cache-time", "1h", "--attr-timeout", "1h"])
        .arg("--cache-dir")
        .arg(cache);
    command
}
