//! `svol demo`: the main job on a small world of its own, without an account or a network.
//!
//! It drives the program as a user would (the same commands, run as processes) and prints only
//! what it measured.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use bytes::Bytes;
use tokio::signal::unix::{SignalKind, signal};

use crate::control::status::Status;

#[cfg(feature = "git")]
mod commit;
#[cfg(feature = "git")]
mod repository;
mod world;

/// Size of the file that is read cold and warm.
const MODEL_BYTES: usize = 64 << 20;

/// Builds the world, mounts it and shows what happened. With `keep` it stays mounted until SIGINT
/// or SIGTERM; at either it cleans up whatever it was doing.
///
/// The caller's thread must not be one of the runtime's workers.
pub async fn run(keep: bool, out: &mut dyn Write) -> io::Result<()> {
    let mut stop = Stop::new()?;
    #[cfg_attr(not(feature = "git"), allow(unused_mut))]
    let mut world = World::build().await?;
    writeln!(out, "A small world in {}:", world.dir.path().display())?;
    writeln!(out, "  a bucket      http://{} (S3)", world.bucket)?;
    writeln!(out, "  a web server  http://{}", world.web)?;
    #[cfg(feature = "git")]
    writeln!(
        out,
        "  a repository  {} (Git)",
        world.path("repo.git").display()
    )?;
    writeln!(out, "  a directory   {}\n", world.path("site").display())?;
    let volume = world.path("volume.yaml");
    writeln!(
        out,
        "volume.yaml merges them, later layers over earlier ones:\n"
    )?;
    for line in std::fs::read_to_string(&volume)?.lines() {
        writeln!(out, "    {line}")?;
    }

    let started = Instant::now();
    world.svol([
        "mount".as_ref(),
        "-c".as_ref(),
        volume.as_os_str(),
        world.mnt().as_os_str(),
    ])?;
    writeln!(
        out,
        "\n$ svol mount -c volume.yaml mnt        # mounted in {} ms\n",
        started.elapsed().as_millis()
    )?;

    stop.check()?;
    show_tree(&world.mnt(), out)?;
    stop.check()?;
    show_reads(&world, &stop, out)?;
    #[cfg(feature = "git")]
    commit::show(&mut world, &stop, out)?;
    writeln!(out, "\n$ svol status\n")?;
    out.write_all(world.svol(["status"])?.as_bytes())?;
    writeln!(out, "\n$ svol cache stats\n")?;
    out.write_all(
        world
            .svol([
                "cache".as_ref(),
                "stats".as_ref(),
                "--cache-dir".as_ref(),
                world.path("cache").as_os_str(),
            ])?
            .as_bytes(),
    )?;
    if keep {
        writeln!(
            out,
            "\nIt stays mounted at {} until Ctrl-C.",
            world.mnt().display()
        )?;
        out.flush()?;
        stop.asked().await;
    }
    world.svol(["unmount".as_ref(), world.mnt().as_os_str()])?;
    writeln!(
        out,
        "\n$ svol unmount mnt                      # and everything is gone again"
    )?;
    Ok(())
}

/// Whether SIGINT or SIGTERM asked for the end. Caught, so that the mount does not stay.
struct Stop(tokio::sync::watch::Receiver<bool>);

impl Stop {
    fn new() -> io::Result<Stop> {
        let mut int = signal(SignalKind::interrupt())?;
        let mut term = signal(SignalKind::terminate())?;
        let (told, asked) = tokio::sync::watch::channel(false);
        tokio::spawn(async move {
            tokio::select! {
                _ = int.recv() => {}
                _ = term.recv() => {}
            }
            let _ = told.send(true);
        });
        Ok(Stop(asked))
    }

    fn check(&self) -> io::Result<()> {
        if *self.0.borrow() {
            return Err(io::Error::other("interrupted; all is cleaned up"));
        }
        Ok(())
    }

    async fn asked(&mut self) {
        let _ = self.0.wait_for(|asked| *asked).await;
    }
}

/// The world: servers in this process, files in a temporary directory.
struct World {
    dir: TempDir,
    bucket: std::net::SocketAddr,
    web: std::net::SocketAddr,
    #[cfg(feature = "git")]
    repository: repository::Repository,
}

impl World {
    async fn build() -> io::Result<World> {
        let dir = TempDir::new()?;
        let site = dir.path().join("site");
        std::fs::create_dir_all(site.join("conf"))?;
        std::fs::create_dir(dir.path().join("mnt"))?;
        std::fs::write(
            site.join("conf/site.toml"),
            "greeting = \"from the local directory\"\n",
        )?;
        std::fs::write(
            site.join("README.md"),
            "# The local README\n\nIt hides the bucket's.\n",
        )?;
        std::os::unix::fs::symlink("conf/site.toml", site.join("current.toml"))?;
        let bucket = world::serve_bucket("models", bucket_files()).await?;
        let web = world::serve_tree(web_files()).await?;
        let volume = format!(
            "apiVersion: sharedvolume.io/v1\n\
             kind: Volume\n\
             metadata:\n  name: demo\n\
             spec:\n  layers:\n\
             \x20 - name: models\n    s3:\n      bucket: models\n      prefix: llama\n      \
             endpointUrl: http://{bucket}\n      noSignRequest: true\n\
             \x20 - name: data\n    path: /data\n    http:\n      url: http://{web}/data/\n    \
             exclude: [\"*.tmp\"]\n\
             {}\
             \x20 - name: site\n    local:\n      path: {}\n",
            git_layer(&dir.path().join("repo.git")),
            serde_json::Value::from(site.to_string_lossy())
        );
        std::fs::write(dir.path().join("volume.yaml"), volume)?;
        #[cfg(feature = "git")]
        let repository = {
            let mut repository = repository::Repository::new(&dir.path().join("repo.git"))?;
            commit::release(&mut repository, 1)?;
            repository
        };
        Ok(World {
            dir,
            bucket,
            web,
            #[cfg(feature = "git")]
            repository,
        })
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn mnt(&self) -> PathBuf {
        self.path("mnt")
    }

    /// Runs a command of this program on the demonstration's own cache and mounts.
    fn svol<S: AsRef<OsStr>>(&self, args: impl IntoIterator<Item = S>) -> io::Result<String> {
        let run = self.path("run");
        let output = Command::new(std::env::current_exe()?)
            .args(args)
            .env("SVOL_RUNTIME_DIR", &run)
            .env("SVOL_CACHE_DIR", self.path("cache"))
            .env("SVOL_LOG_FILE", self.path("log"))
            .output()?;
        if output.status.success() {
            return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
        }
        Err(io::Error::other(
            String::from_utf8_lossy(&output.stderr).trim().to_owned(),
        ))
    }

    /// Returns the bytes that the layers fetched so far.
    fn fetched(&self) -> io::Result<u64> {
        let status: Status = serde_json::from_str(&self.svol(["status", "--json"])?)?;
        Ok(status
            .mounts
            .iter()
            .flat_map(|m| &m.layers)
            .map(|l| l.bytes_fetched)
            .sum())
    }
}

impl Drop for World {
    fn drop(&mut self) {
        // After a failure half way: what is mounted must not stay.
        let mnt = self.mnt();
        if crate::fuse::mount::is_ours(&mnt).unwrap_or(false)
            && self.svol(["unmount".as_ref(), mnt.as_os_str()]).is_err()
        {
            let _ = crate::fuse::mount::unmount(&mnt, true);
        }
    }
}

/// A directory that goes when it is dropped.
struct TempDir(PathBuf);

impl TempDir {
    fn new() -> io::Result<TempDir> {
        for attempt in 0..100 {
            let name = format!("svol-demo-{}-{attempt}", std::process::id());
            let path = std::env::temp_dir().join(name);
            match std::fs::create_dir(&path) {
                Ok(()) => return Ok(TempDir(path.canonicalize()?)),
                Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {}
                Err(e) => return Err(e),
            }
        }
        Err(io::Error::other("no free name for a temporary directory"))
    }

    fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for TempDir {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// The layer of the repository, where this program knows Git.
fn git_layer(repository: &Path) -> String {
    if !cfg!(feature = "git") {
        return String::new();
    }
    let url = serde_json::Value::from(format!("file://{}", repository.display()));
    format!(
        "\x20 - name: release\n    path: /release\n    git:\n      url: {url}\n      ref: main\n"
    )
}

fn bucket_files() -> world::Files {
    // Not compressible and the same on every run: the extendable output of a hash.
    let mut model = vec![0; MODEL_BYTES];
    blake3::Hasher::new()
        .update(b"svol demo")
        .finalize_xof()
        .fill(&mut model);
    BTreeMap::from([
        ("llama/model.bin".into(), Bytes::from(model)),
        (
            "llama/README.md".into(),
            Bytes::from_static(b"# The bucket's README\n"),
        ),
        (
            "llama/config/tokenizer.json".into(),
            Bytes::from_static(b"{\"vocab\": 32000}\n"),
        ),
        (
            "llama-2/not-ours.txt".into(),
            Bytes::from_static(b"another prefix\n"),
        ),
    ])
}

fn web_files() -> world::Files {
    BTreeMap::from([
        (
            "data/train/part-0.csv".into(),
            Bytes::from("x,y\n".repeat(5000)),
        ),
        (
            "data/train/part-1.csv".into(),
            Bytes::from("y,z\n".repeat(5000)),
        ),
        (
            "data/scratch.tmp".into(),
            Bytes::from_static(b"excluded by a filter\n"),
        ),
    ])
}

fn show_tree(mnt: &Path, out: &mut dyn Write) -> io::Result<()> {
    writeln!(
        out,
        "The merged tree, and where each file comes from (user.svol.source):\n"
    )?;
    let mut dirs = vec![PathBuf::new()];
    let mut files = Vec::new();
    while let Some(dir) = dirs.pop() {
        for item in std::fs::read_dir(mnt.join(&dir))? {
            let item = item?;
            let path = dir.join(item.file_name());
            if item.file_type()?.is_dir() {
                dirs.push(path);
            } else {
                files.push(path);
            }
        }
    }
    files.sort();
    for file in files {
        let meta = std::fs::symlink_metadata(mnt.join(&file))?;
        let source = if meta.is_symlink() {
            // Linux lets symbolic links have no such attributes.
            format!("-> {}", std::fs::read_link(mnt.join(&file))?.display())
        } else {
            source_of(&mnt.join(&file))?
        };
        writeln!(out, "  {:<24}{:>10}  {source}", file.display(), meta.len())?;
    }
    Ok(())
}

fn source_of(path: &Path) -> io::Result<String> {
    let mut value = vec![0; 4096];
    let n = rustix::fs::lgetxattr(path, "user.svol.source", &mut value)?;
    value.truncate(n);
    Ok(String::from_utf8_lossy(&value).into_owned())
}

fn show_reads(world: &World, stop: &Stop, out: &mut dyn Write) -> io::Result<()> {
    let file = world.mnt().join("model.bin");
    writeln!(out, "\nReading model.bin ({} MiB):\n", MODEL_BYTES >> 20)?;
    let mut cold_hash = None;
    for (what, drop_pages) in [
        ("cold", false),
        ("warm", false),
        ("warm, from the disk cache", true),
    ] {
        stop.check()?;
        if drop_pages {
            drop_page_cache(&file);
        }
        let before = world.fetched()?;
        let (time, hash) = read_all(&file)?;
        let fetched = world.fetched()? - before;
        writeln!(
            out,
            "  {what:<26} {:>7.1} ms  {:>6.0} MB/s  {fetched:>9} bytes fetched",
            time.as_secs_f64() * 1e3,
            MODEL_BYTES as f64 / 1e6 / time.as_secs_f64(),
        )?;
        if *cold_hash.get_or_insert(hash) != hash {
            return Err(io::Error::other("two reads of one file differ"));
        }
    }
    Ok(())
}

/// Asks the kernel to drop the file's pages, so that the next read reaches the daemon again.
fn drop_page_cache(file: &Path) {
    if let Ok(file) = std::fs::File::open(file) {
        let _ = rustix::fs::fadvise(&file, 0, None, rustix::fs::Advice::DontNeed);
    }
}

fn read_all(path: &Path) -> io::Result<(Duration, blake3::Hash)> {
    let started = Instant::now();
    let mut file = std::fs::File::open(path)?;
    let mut data = Vec::with_capacity(MODEL_BYTES + 1);
    file.read_to_end(&mut data)?;
    let time = started.elapsed();
    Ok((time, blake3::hash(&data)))
}
