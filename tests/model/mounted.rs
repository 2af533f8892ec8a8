//! The filesystem over the sources, without a kernel; and how it goes down.

use std::fs;
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use svol::catalogue::{Catalogue, Db, Memory, Policy};
use svol::fetch::Fetcher;
use svol::filter::Filter;
use svol::namespace::{Layer, Namespace};
use svol::path::RelPath;
use svol::source::Source;
use svol::vfs::{LayerPolicy, Owner, Vfs};
use svol_cache::Cache;

use super::world::Origin;

/// A mounted filesystem without a kernel.
pub struct Mounted {
    pub vfs: Arc<Vfs>,
    pub cache: Cache,
    db: Db,
}

/// The quota of the cache in bytes where nothing is to be evicted.
const DISK: u64 = 1 << 30;

/// The bound of the cache's memory: more than all that readers wait for at once.
const MEMORY: u64 = 24 << 20;

/// What all layers have in common.
#[derive(Debug, Clone, Copy)]
pub struct Settings {
    /// How long a listing is trusted.
    pub refresh: Option<Duration>,
    /// The cache's bound in bytes, where it is to be a narrow one.
    pub quota: Option<u64>,
}

impl Mounted {
    /// Mounts with the cache in `dir`; `journal` is where a process leaves the mount to the next one.
    pub fn new(dir: &Path, journal: &Path, origins: &[Origin], settings: Settings) -> Mounted {
        let mut config = svol_cache::Config::new(dir);
        config.limit = Some(settings.quota.unwrap_or(DISK));
        config.min_free = Some(0);
        config.memory = MEMORY;
        let cache = Cache::open(config).unwrap();
        let db = Db::open(dir).unwrap();
        let memory = Memory::default();
        let layers = origins
            .iter()
            .enumerate()
            .map(|(index, origin)| {
                let policy = Policy {
                    refresh: settings.refresh,
                    patience: Duration::from_secs(1),
                    memory: memory.clone(),
                };
                let source: Arc<dyn Source> = origin.recorder.clone();
                let mut layer = Layer::new(
                    format!("layer{index}"),
                    Catalogue::new(db.clone(), source, policy),
                );
                let rule = &origin.rule;
                layer.graft = RelPath::new(&rule.graft).unwrap();
                layer.filter = Filter::new(rule.include, rule.exclude).unwrap();
                layer.required = rule.required;
                layer
            })
            .collect();
        let policies = origins
            .iter()
            .map(|origin| LayerPolicy {
                strict: origin.strict,
                revalidate: match origin.probed {
                    true => Duration::ZERO,
                    false => Duration::from_secs(3600),
                },
                deadline: Duration::from_secs(10),
            })
            .collect();
        let owner = Owner {
            uid: 1000,
            gid: 1000,
            umask: 0o022,
        };
        let vfs = Arc::new(Vfs::new(
            Arc::new(Namespace::new(layers)),
            cache.clone(),
            Fetcher::new(),
            tokio::runtime::Handle::current(),
            policies,
            owner,
        ));
        fs::create_dir_all(journal).unwrap();
        vfs.keep_in(journal).unwrap();
        // So that all that it knows is found among what it could do without.
        vfs.on_crowd(0, || ());
        Mounted { vfs, cache, db }
    }

    /// Writes down what the next mount is to know.
    pub async fn flush(&self) {
        self.db.flush().await;
        self.cache.flush().unwrap();
        assert_eq!(self.db.lost_writes(), 0);
    }

    pub async fn close(self) {
        self.flush().await;
        let Mounted { vfs, cache, .. } = self;
        drop(vfs);
        cache.close().await;
    }
}

/// Copies a cache directory as it is at this moment, under those who use it: what a process that is
/// killed now leaves behind.
///
/// What comes to be later is copied first, so that of a file that moves at least one end is met, and
/// the databases last, each before its log. By another process, as SQLite loses its locks on a file
/// that is closed in its own.
pub fn copy_as_it_is(from: &Path, to: &Path) -> io::Result<()> {
    fs::DirBuilder::new().mode(0o700).create(to)?;
    fs::DirBuilder::new().mode(0o700).create(to.join("v1"))?;
    for dir in ["v1", ""] {
        let mut paths = Vec::new();
        for kind in ["partial", "blob", "pack"] {
            let path = from.join(dir).join(kind);
            paths.extend(path.exists().then_some(path));
        }
        let mut files = Vec::new();
        for entry in fs::read_dir(from.join(dir))? {
            let entry = entry?;
            let is_shared_memory = entry.file_name().to_string_lossy().ends_with("-shm");
            if entry.file_type()?.is_file() && !is_shared_memory {
                files.push(entry.path());
            }
        }
        files.sort();
        paths.extend(files);
        // What goes away meanwhile is not copied, which `cp` calls a failure.
        let copy = Command::new("cp")
            .args(["-a", "--sparse=always"])
            .args(&paths)
            .arg(to.join(dir))
            .stderr(Stdio::null())
            .status()?;
        if copy.code().is_none() {
            return Err(io::Error::other("the copy was killed"));
        }
    }
    Ok(())
}
