//! The one place that assembles components from settings.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use svol_cache::Cache;
use tokio::runtime::Handle as Runtime;
use tracing::warn;

use crate::catalogue::{Catalogue, Db, Memory, Policy};
use crate::cli::{CacheSettings, VolumeSettings};
use crate::config;
use crate::fetch::Fetcher;
use crate::memory::{Budget, Ceiling};
use crate::namespace::{Layer, Namespace};
use crate::rows::Room;
use crate::source::Source;
use crate::source::guard::{Bandwidth, GuardOptions, Guarded};
use crate::vfs::{LayerPolicy, Owner, Vfs};

mod enclose;
mod hooks;
pub mod reload;
mod scrub;
mod serve;
mod sources;
mod succession;

pub use enclose::{Enclosed, enclose, hook, place};
pub use serve::{READY, detach, let_go, prepare, serve};

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
        View::open_after(settings, &[], owner, runtime)
    }

    /// As [`View::open`], with layers of the volume before, for files of theirs that are open.
    pub fn open_after(
        settings: &VolumeSettings,
        before: &[config::Layer],
        owner: Owner,
        runtime: &Runtime,
    ) -> Result<View, Error> {
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
        let shared = Shared {
            bandwidth: &bandwidth,
            db: &db,
            memory: &memory,
            operations: budget.operations(),
            around: &around,
        };
        for (index, spec) in volume.spec.layers.iter().enumerate() {
            let (guard, layer) = open_layer(spec, volume.layer_name(index), &shared)?;
            guards.push(guard);
            layers.push(layer);
        }
        let mut policies: Vec<LayerPolicy> = volume.spec.layers.iter().map(policy).collect();
        let mut retired = Vec::new();
        for spec in before {
            let name = spec.name.as_ref().map(ToString::to_string);
            match open_layer(spec, name.unwrap_or_default(), &shared) {
                Ok((_, layer)) if layers.iter().any(|known| is_same(known, &layer)) => {}
                Ok((_, layer)) => {
                    retired.push(layer);
                    policies.push(policy(spec));
                }
                Err(error) => warn!(%error, "open files of a layer that is gone cannot be read on"),
            }
        }
        let namespace = Arc::new(Namespace::with_retired(layers, retired, budget.merged));
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

/// Returns whether two layers show one source, so that the open files of either are the other's.
fn is_same(one: &Layer, other: &Layer) -> bool {
    one.catalogue.source().identity() == other.catalogue.source().identity()
}

/// Builds one layer's source behind its limits, alone, for who asks it something without a volume.
/// Sources keep what they know in `dir`. Sends no request.
pub fn open_source(volume: &config::Volume, index: usize, dir: &Path) -> Result<Guarded, Error> {
    crate::tls::install();
    let around = sources::Surroundings {
        cache: dir.to_owned(),
    };
    let usual = GuardOptions::default();
    let (spec, name) = (&volume.spec.layers[index], volume.layer_name(index));
    guard_source(spec, name, &around, usual)
}

/// Asks the server of a layer's source, whose root is `url`, what time it is; nothing where it does
/// not say. Fails where no reply comes.
pub async fn server_clock(
    layer: &crate::config::Layer,
    url: url::Url,
) -> crate::source::Result<Option<std::time::SystemTime>> {
    let (tls, proxy) = sources::transport(&layer.source);
    crate::source::server_clock(url, tls, proxy).await
}

/// Builds a layer's source behind the limits `most`, tightened to what the layer says.
fn guard_source(
    spec: &config::Layer,
    name: String,
    around: &sources::Surroundings,
    most: GuardOptions,
) -> Result<Guarded, Error> {
    let source = sources::build(&spec.source, around).map_err(|error| Error::Source {
        layer: name.clone(),
        error,
    })?;
    let options = GuardOptions {
        deadline: spec.timeout(),
        concurrency: sources::concurrency(&spec.source)
            .map_or(most.concurrency, |n| n.min(most.concurrency)),
        ..most
    };
    Ok(Guarded::new(source, name, options))
}

fn open_layer(
    spec: &config::Layer,
    name: String,
    shared: &Shared<'_>,
) -> Result<(Guarded, Layer), Error> {
    let most = GuardOptions {
        bandwidth: shared.bandwidth.clone(),
        concurrency: shared.operations,
        ..GuardOptions::default()
    };
    let guard = guard_source(spec, name.clone(), shared.around, most)?;
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
