//! The one place that assembles components from settings.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use svol_cache::Cache;
use tokio::runtime::Handle as Runtime;
use tracing::warn;

use crate::catalogue::{Catalogue, Db, Memory, Policy};
use crate::cli::{CacheSettings, VolumeSettings};
use crate::config::Volume;
use crate::fetch::Fetcher;
use crate::memory::{Budget, Ceiling};
use crate::namespace::{Layer, Namespace};
use crate::rows::Room;
use crate::source::Source;
use crate::source::guard::{Bandwidth, GuardOptions, Guarded};
use crate::vfs::{LayerPolicy, Owner, Vfs};

mod enclose;
mod hooks;
mod scrub;
mod serve;
mod sources;

pub use enclose::{Enclosed, enclose};
pub use serve::{READY, detach, prepare, serve};

/// How long a reader waits for a listing that is known to be refreshed, before it gets the one
/// that is here.
const PATIENCE: Duration = Duration::from_secs(1);

/// How long the catalogue may take to write down what is pending at the end.
const CLOSE: Duration = Duration::from_secs(5);

/// Why a volume could not be assembled.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A source's settings make no sense.
    #[error("layer {layer}: {error}")]
    Source {
        /// The layer's name.
        layer: String,
        /// What is wrong.
        error: crate::source::Error,
    },
    /// A layer's filter cannot be used.
    #[error("layer {layer}: {message}")]
    Filter {
        /// The layer's name.
        layer: String,
        /// What is wrong.
        message: String,
    },
    /// The cache cannot be used.
    #[error("cache {}: {error}", dir.display())]
    Cache {
        /// Its directory.
        dir: PathBuf,
        /// What is wrong.
        error: svol_cache::Error,
    },
    /// The mount point cannot be used.
    #[error(transparent)]
    Mountpoint(#[from] crate::fuse::mount::BadMountpoint),
    /// There is too little memory.
    #[error(transparent)]
    Memory(#[from] crate::memory::TooLittle),
    /// Anything else of the system.
    #[error("{0}")]
    System(String),
}

/// A volume that can be looked into, mounted or not.
pub struct View {
    /// The filesystem.
    pub vfs: Arc<Vfs>,
    /// The sources behind their limits, in the order of the layers.
    pub guards: Vec<Guarded>,
    /// The cache.
    pub cache: Cache,
    /// The cache's directory.
    pub cache_dir: PathBuf,
    /// What is known of the sources.
    pub db: Db,
    /// The volume's name.
    pub name: String,
    /// The ceiling on memory.
    pub ceiling: Ceiling,
    /// What is held of sources' listings.
    pub listings: Memory,
    /// Bodies on their way.
    pub fetcher: Arc<Fetcher>,
}

impl View {
    /// Opens the cache and assembles the volume. Asks no source anything.
    pub fn open(settings: &VolumeSettings, owner: Owner, runtime: &Runtime) -> Result<View, Error> {
        crate::tls::install();
        let ceiling = Ceiling::of_process(settings.memory.map(|size| size.0))?;
        crate::memory::let_buffers_stay(ceiling.bytes);
        let budget = Budget::split(ceiling.bytes);
        let (cache, db) = open_cache(&settings.cache, &budget)?;
        let volume = &settings.volume;
        let bandwidth = settings
            .bwlimit
            .map(|rate| Arc::new(Bandwidth::new(rate.bytes_per_second())));
        let memory = Memory::new(budget.listings)
            .with_room(Room::new(&settings.cache.dir, budget.listing()));
        let fetcher = Fetcher::within(&budget);
        let around = sources::Surroundings {
            cache: settings.cache.dir.clone(),
        };
        let mut guards = Vec::new();
        let mut layers = Vec::new();
        for index in 0..volume.spec.layers.len() {
            let shared = Shared {
                bandwidth: &bandwidth,
                db: &db,
                memory: &memory,
                operations: budget.operations(),
                around: &around,
            };
            let (guard, layer) = open_layer(volume, index, &shared)?;
            guards.push(guard);
            layers.push(layer);
        }
        let policies = volume.spec.layers.iter().map(policy).collect();
        let namespace = Arc::new(Namespace::within(layers, budget.merged));
        let vfs = Vfs::new(
            namespace,
            cache.clone(),
            fetcher.clone(),
            runtime.clone(),
            policies,
            owner,
        );
        Ok(View {
            vfs: Arc::new(vfs),
            guards,
            cache,
            cache_dir: settings.cache.dir.clone(),
            db,
            name: volume.metadata.name.to_string(),
            ceiling,
            listings: memory,
            fetcher,
        })
    }
}

impl View {
    /// Writes down what is pending, within a bound.
    pub async fn close(&self) {
        self.cache.close().await;
        let db = self.db.clone();
        let closed = tokio::task::spawn_blocking(move || db.close(CLOSE)).await;
        if !matches!(closed, Ok(true)) {
            warn!("the catalogue lost its last changes");
        }
    }
}

/// Opens the cache alone, for commands that look after it.
pub fn open_cache_only(settings: &CacheSettings) -> Result<Cache, Error> {
    open_with(settings, svol_cache::DEFAULT_MEMORY, Cache::open)
}

fn open_with(
    settings: &CacheSettings,
    memory: u64,
    open: impl FnOnce(svol_cache::Config) -> Result<Cache, svol_cache::Error>,
) -> Result<Cache, Error> {
    let mut config = svol_cache::Config::new(&settings.dir);
    config.memory = memory;
    config.limit = settings
        .size
        .map(|size| size.bytes_of(disk_size(&settings.dir)));
    open(config).map_err(|error| Error::Cache {
        dir: settings.dir.clone(),
        error,
    })
}

fn open_cache(settings: &CacheSettings, budget: &Budget) -> Result<(Cache, Db), Error> {
    let cache = open_with(settings, budget.tier, Cache::open_or_in_memory)?;
    let db = Db::open_within(&settings.dir, budget.queue).unwrap_or_else(|error| {
        warn!(
            error = crate::control::causes(&error),
            "the catalogue cannot be kept; the next mount lists everything anew"
        );
        Db::volatile()
    });
    Ok((cache, db))
}

/// What all layers share.
struct Shared<'a> {
    bandwidth: &'a Option<Arc<Bandwidth>>,
    db: &'a Db,
    memory: &'a Memory,
    /// How many operations of one source may be under way at once.
    operations: usize,
    around: &'a sources::Surroundings,
}

fn open_layer(
    volume: &Volume,
    index: usize,
    shared: &Shared<'_>,
) -> Result<(Guarded, Layer), Error> {
    let spec = &volume.spec.layers[index];
    let name = volume.layer_name(index);
    let source = sources::build(&spec.source, shared.around).map_err(|error| Error::Source {
        layer: name.clone(),
        error,
    })?;
    let options = GuardOptions {
        deadline: spec.timeout(),
        bandwidth: shared.bandwidth.clone(),
        concurrency: sources::concurrency(&spec.source)
            .map_or(shared.operations, |most| most.min(shared.operations)),
    };
    let guard = Guarded::new(source, name.clone(), options);
    let policy = Policy {
        refresh: spec.refresh().interval(),
        patience: PATIENCE,
        memory: shared.memory.clone(),
    };
    let guarded: Arc<dyn Source> = Arc::new(guard.clone());
    let catalogue = Catalogue::new(shared.db.clone(), guarded, policy);
    let filter = spec.filter().map_err(|error| Error::Filter {
        layer: name.clone(),
        message: error.to_string(),
    })?;
    let layer = Layer {
        name,
        catalogue,
        graft: spec.path.rel_path().clone(),
        filter,
        required: spec.required,
        outward_links: false,
    };
    Ok((guard, layer))
}

fn policy(layer: &crate::config::Layer) -> LayerPolicy {
    LayerPolicy {
        strict: layer.strict,
        revalidate: layer.revalidate(),
        deadline: layer.timeout(),
    }
}

/// Returns the size of the disk that `dir`, or what of it exists, is on, in bytes.
fn disk_size(dir: &Path) -> u64 {
    dir.ancestors()
        .find_map(|d| rustix::fs::statvfs(d).ok())
        .map_or(0, |s| s.f_blocks.saturating_mul(s.f_frsize))
}
