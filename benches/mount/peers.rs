//! The peers, with the settings that their manuals advise for reading.

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::mounts::Mount;
use crate::world::{BUCKET, Place, World};

/// Those who mount the bucket.
pub const S3: &[Mount] = &[
    Mount::peer("rclone", rclone),
    Mount::peer("s3fs", s3fs),
    Mount::peer("juicefs", juicefs),
];

/// Those who mount the same files from a web server's directory, or over SFTP.
pub const HTTP: &[Mount] = &[
    Mount::peer("rclone", rclone_http),
    Mount::peer("ratarmount", ratarmount),
    Mount::peer("sshfs", sshfs),
];

/// Returns the URL of the bucket's files as a web server's directory.
pub fn http_url(world: &World, place: Place) -> String {
    format!("{}/http/", world.at(place))
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
        .args(["--s3-provider", "Other"])
        .args(["--s3-endpoint", world.at(place)]);
    rclone_settings(command, cache)
}

fn rclone_http(world: &World, place: Place, at: &Path, cache: &Path) -> Command {
    let mut command = Command::new(installed("rclone"));
    command
        .args(["mount", ":http:"])
        .arg(at)
        .args(["--http-url", &http_url(world, place)]);
    rclone_settings(command, cache)
}

fn rclone_settings(mut command: Command, cache: &Path) -> Command {
    command
        .args(["--config", "/dev/null"])
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

/// s3fs, as its manual advises for reading: files are kept on disk and pages by the kernel, absent
/// names are remembered, the cache of attributes has room for all, and a file is read by several
/// connections. (2 GiB on this machine: 5, 16 and 32 of them differ by less than two runs do.)
fn s3fs(world: &World, place: Place, at: &Path, cache: &Path) -> Command {
    std::fs::create_dir_all(cache).unwrap();
    let mut command = Command::new("s3fs");
    let url = world.at(place);
    let cache = cache.display();
    command
        .args([BUCKET, at.to_str().unwrap(), "-f", "-o"])
        .arg(format!(
            "url={url},use_path_request_style,public_bucket=1,ro"
        ))
        .args(["-o", "kernel_cache,enable_noobj_cache,listobjectsv2"])
        .args(["-o", "max_stat_cache_size=400000,stat_cache_expire=3600"])
        .args(["-o", "parallel_count=16,multireq_max=32"])
        .args(["-o", &format!("use_cache={cache}")]);
    command
}

/// JuiceFS, as its manual advises for files that nobody writes: the kernel may keep names and
/// attributes and reopen files without asking, and there is buffer for reading ahead. Its metadata
/// is in SQLite on this machine: of a far server it asks for bytes only.
fn juicefs(world: &World, place: Place, at: &Path, cache: &Path) -> Command {
    let mut command = Command::new(installed("juicefs"));
    command
        .arg("mount")
        .arg(world.juicefs())
        .arg(at)
        .args(["--bucket", &format!("{}/jfs", world.at(place))])
        .args(["--read-only", "--no-usage-report", "--backup-meta", "0"])
        .args(["--attr-cache", "1h", "--entry-cache", "1h"])
        .args(["--dir-entry-cache", "1h", "--negative-entry-cache", "1h"])
        .args(["--readdir-cache", "--open-cache", "1h"])
        .args(["--buffer-size", "1024"])
        .arg("--cache-dir")
        .arg(cache);
    command
}

/// ratarmount on an archive of the files, as that is what it is for; it keeps nothing, and has no
/// setting for reading from the web.
fn ratarmount(world: &World, place: Place, at: &Path, _cache: &Path) -> Command {
    let mut command = Command::new(installed("ratarmount"));
    let archive = world.archive();
    command.arg("-f");
    command
        .arg(format!("{}/{archive}", world.at(place)))
        .arg(at);
    command
}

/// sshfs, as its manual advises: the kernel keeps pages, names are kept for long, several
/// connections, no compression, the cheapest cipher.
fn sshfs(world: &World, place: Place, at: &Path, _cache: &Path) -> Command {
    let sftp = world.sftp();
    let mut command = Command::new("sshfs");
    command
        .arg(format!(
            "{}@127.0.0.1:{}",
            sftp.user,
            world.object("").display()
        ))
        .arg(at)
        .args(["-f", "-p", &sftp.port(place).to_string()])
        .args(["-o", "ro,kernel_cache,dir_cache=yes,dcache_max_size=400000"])
        .args([
            "-o",
            "dcache_timeout=3600,entry_timeout=3600,attr_timeout=3600",
        ])
        .args(["-o", "max_conns=8,Compression=no"])
        .args(["-o", "Ciphers=aes128-gcm@openssh.com"])
        .args([
            "-o",
            "StrictHostKeyChecking=no,UserKnownHostsFile=/dev/null",
        ])
        .args(["-o", &format!("IdentityFile={}", sftp.key.display())])
        .args(["-o", "IdentitiesOnly=yes,BatchMode=yes"]);
    command
}
