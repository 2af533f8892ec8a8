//! Does each step to the filesystem, as the kernel would, and compares with the model.

macro_rules! ensure {
    ($holds:expr, $($said:tt)+) => {
        if !$holds {
            return Err(format!($($said)+));
        }
    };
}

mod allowed;
mod crowd;
mod ends;
mod files;
mod names;

use std::collections::{HashMap, HashSet};
use std::future::Future;
use std::time::{Duration, Instant};

use bytes::Bytes;
use svol::path::RelPath;
use svol::vfs::{Ino, ROOT};

use super::mounted::{Mounted, Settings};
use super::oracle::join;
use super::world::{Item, Origin};
use super::{Shape, Step};

type Check<T = ()> = Result<T, String>;

/// Longer than any operation may take: what takes longer hangs.
const HANG: Duration = Duration::from_secs(20);

/// The cache's unit of presence.
const GRAIN: u64 = svol_cache::GRAIN;

/// A file of a layer at a version.
type Object = (usize, String, String);

/// An inode of a file that the "kernel" looked up.
#[derive(Debug, Clone)]
struct Held {
    ino: Ino,
    /// In the volume.
    path: String,
    object: Object,
}

/// An open file.
#[derive(Debug, Clone)]
struct Handle {
    number: u64,
    held: Held,
}

pub struct Harness {
    dir: tempfile::TempDir,
    /// Where the cache is by now, in `dir`: each crash leaves it for another place.
    home: usize,
    /// How many mounts there were: each has a journal of its own, in `dir`.
    mounts: usize,
    origins: Vec<Origin>,
    settings: Settings,
    mounted: Option<Mounted>,
    handles: Vec<Handle>,
    held: Vec<Held>,
    /// How often the kernel looked each inode up.
    lookups: HashMap<Ino, u64>,
    /// Inodes whose last open was answered with "replaced", with no lookup since.
    told: HashSet<Ino>,
    /// Every file and link that was ever seen: its inode is for good.
    numbers: HashMap<(String, Object), Ino>,
    /// Every directory that was ever seen: its inode is for good, whatever it holds.
    dirs: HashMap<String, Ino>,
    /// Which bytes were read of an object: they are in the cache, unless it is too small.
    cached: HashMap<Object, HashSet<u64>>,
    /// Small objects that were evicted, but may be read from memory until the mount ends.
    fleeting: HashSet<Object>,
    /// What the bytes of an object whose version proves nothing may be, once some were read.
    learnt: HashMap<Object, Vec<Bytes>>,
    /// When a read of an object last timed out, which those that follow are told at once.
    timed_out: HashMap<Object, Instant>,
    /// Objects of which the source said something wrong, which may still be on its way.
    lied: HashSet<Object>,
    /// Whether all was refreshed, with every source up, since anything changed.
    clean: bool,
    /// Whether there was a remount since all was last refreshed.
    remounted: bool,
}

impl Harness {
    pub fn new(shape: &Shape) -> Harness {
        let dir = tempfile::tempdir().unwrap();
        let mut origins: Vec<Origin> = shape
            .layers
            .iter()
            .enumerate()
            .map(|(index, plan)| Origin::new(index, plan))
            .collect();
        for (layer, path, size) in &shape.files {
            let at = layer % origins.len();
            origins[at].put(path, *size, false);
        }
        if let Some((layer, kind)) = shape.down {
            let at = layer % origins.len();
            origins[at].set_down(Some(kind));
        }
        let settings = Settings {
            refresh: shape.eager.then_some(Duration::ZERO),
            quota: shape.quota,
        };
        let (cache, journal) = (dir.path().join("0"), dir.path().join("journal0"));
        let mounted = Some(Mounted::new(&cache, &journal, &origins, settings));
        Harness {
            dir,
            home: 0,
            mounts: 0,
            origins,
            settings,
            mounted,
            handles: Vec::new(),
            held: Vec::new(),
            lookups: HashMap::new(),
            told: HashSet::new(),
            numbers: HashMap::new(),
            dirs: HashMap::new(),
            cached: HashMap::new(),
            fleeting: HashSet::new(),
            learnt: HashMap::new(),
            timed_out: HashMap::new(),
            lied: HashSet::new(),
            clean: shape.down.is_none(),
            remounted: false,
        }
    }

    fn vfs(&self) -> &std::sync::Arc<svol::vfs::Vfs> {
        &self.mounted.as_ref().unwrap().vfs
    }

    pub async fn step(&mut self, step: &Step) -> Check {
        self.act(step).await?;
        self.fetched_once(false)
    }

    async fn act(&mut self, step: &Step) -> Check {
        match step {
            Step::Put {
                layer,
                path,
                size,
                weak,
            } => {
                let origin = self.origin(*layer);
                // Where nothing but a size tells versions apart, only what comes in one reply
                // cannot be mixed.
                let weak = *weak && *size <= 64 << 10 && !origin.is_coarse();
                origin.put(path, *size, weak);
                self.clean = false;
            }
            Step::Overwrite { layer, file } => {
                if let Some((path, token)) = self.origin(*layer).nth_file(*file) {
                    self.overwrite(*layer, &path, &token);
                }
            }
            Step::Mkdir { layer, path } => {
                self.origin(*layer).mkdir(path);
                self.clean = false;
            }
            Step::Link {
                layer,
                path,
                outward,
            } => {
                let target = if *outward { "../../../../../etc" } else { "a" };
                self.origin(*layer).link(path, target);
                self.clean = false;
            }
            Step::Remove { layer, path } => {
                self.origin(*layer).remove(path);
                self.clean = false;
            }
            Step::RemoveKnown { layer, file } => {
                if let Some((path, _)) = self.origin(*layer).nth_file(*file) {
                    self.origin(*layer).remove(&path);
                    self.clean = false;
                }
            }
            Step::Refresh { path, recursive } => {
                let path = RelPath::new(path).unwrap();
                waits(self.vfs().namespace().refresh(&path, *recursive)).await?;
            }
            Step::RefreshAll => self.refresh_all().await?,
            Step::Lookup { path } => {
                self.walk(path).await?;
            }
            Step::List { path, chunk, count } => self.list(path, *chunk, *count).await?,
            Step::SlowList { path, taken, layer } => {
                self.slow_list(path, *taken, *layer).await?;
            }
            Step::Open { path } => {
                self.open(path).await?;
            }
            Step::OpenKnown { file } => {
                if let Some(path) = self.nth_shown(*file) {
                    self.open(&path).await?;
                }
            }
            Step::OpenHeld { inode } => self.open_held(*inode).await?,
            Step::Read { handle, at, len } => {
                if let Some(handle) = pick(&self.handles, *handle).cloned() {
                    let size = self.size_of(&handle.held.object);
                    // Sometimes beyond the end.
                    let at = u64::from(*at) % (size + size / 16 + 2);
                    self.read(&handle, at, *len).await?;
                }
            }
            Step::ReadWhole { handle } => {
                if let Some(handle) = pick(&self.handles, *handle).cloned() {
                    self.read_whole(&handle).await?;
                }
            }
            Step::ReadWhileOverwritten { handle, after } => {
                if let Some(handle) = pick(&self.handles, *handle).cloned() {
                    self.read_while_overwritten(&handle, *after).await?;
                }
            }
            Step::Crowd { reads, meanwhile } => self.crowd(reads, meanwhile).await?,
            Step::ReadLied { handle, at, lie } => {
                if let Some(handle) = pick(&self.handles, *handle).cloned() {
                    self.read_lied(&handle, *at, *lie).await?;
                }
            }
            Step::Rename { layer, file, path } => {
                let origin = self.origin(*layer);
                if let Some((from, token)) = origin.nth_file(*file)
                    && !from.starts_with(path.as_str())
                {
                    let bytes = origin.bytes[&token].clone();
                    origin.remove(&from);
                    origin.put_bytes(path, bytes, false);
                    self.clean = false;
                }
            }
            Step::Evict { target } => self.evict(u64::from(*target)).await?,
            Step::Crash { flushed, reading } => self.crash(*flushed, *reading).await?,
            Step::Close { handle } => {
                if !self.handles.is_empty() {
                    let at = handle % self.handles.len();
                    let handle = self.handles.swap_remove(at);
                    self.vfs().release(handle.number);
                }
            }
            Step::Forget { inode } => {
                if let Some(held) = pick(&self.held, *inode).cloned() {
                    self.forget(held.ino)?;
                }
            }
            Step::Remount { beside } => self.remount(*beside).await,
            Step::Replace { planned } => self.replace(*planned).await?,
            Step::Down { layer, kind } => {
                self.origin(*layer).set_down(Some(*kind));
                self.clean = false;
            }
            Step::Up { layer } => self.origin(*layer).set_down(None),
            Step::Walk => self.check_all().await?,
        }
        Ok(())
    }

    fn origin(&mut self, layer: usize) -> &mut Origin {
        let at = layer % self.origins.len();
        &mut self.origins[at]
    }

    fn size_of(&self, (layer, _, token): &Object) -> u64 {
        self.origins[*layer].bytes[token].len() as u64
    }

    fn overwrite(&mut self, layer: usize, path: &str, token: &str) {
        let origin = self.origin(layer);
        let len = origin.bytes[token].len();
        origin.put(path, len, token.starts_with('w'));
        self.clean = false;
    }

    async fn refresh_all(&mut self) -> Check {
        let namespace = self.vfs().namespace().clone();
        let report = waits(namespace.refresh(&RelPath::root(), true)).await?;
        if self.origins.iter().any(|o| o.down.is_some()) {
            return Ok(());
        }
        ensure!(
            report.failed == 0,
            "a refresh failed with all up: {report:?}"
        );
        self.clean = true;
        self.remounted = false;
        for origin in &mut self.origins {
            // Who asks for a refresh wants to know how it is now.
            origin.shaken = None;
        }
        Ok(())
    }

    fn forget(&mut self, ino: Ino) -> Check {
        let count = self.lookups.remove(&ino).unwrap_or(0);
        self.vfs().forget(ino, count);
        self.held.retain(|held| held.ino != ino);
        self.told.remove(&ino);
        let known = ino != ROOT && self.vfs().attr(ino).is_ok();
        ensure!(
            !known,
            "inode {ino} is known although it was forgotten {count} times"
        );
        Ok(())
    }

    /// All files, by their layers' truth; shown or not.
    fn nth_shown(&self, n: usize) -> Option<String> {
        let paths: Vec<String> = self
            .origins
            .iter()
            .flat_map(|origin| {
                let files = origin
                    .tree
                    .iter()
                    .filter(|(_, i)| matches!(i, Item::File(_)));
                files.map(|(path, _)| match origin.rule.graft.as_str() {
                    "" => path.clone(),
                    graft => join(graft, path),
                })
            })
            .collect();
        pick(&paths, n).cloned()
    }

    /// Lists every directory, and looks up every name in it and one that is not.
    async fn check_all(&mut self) -> Check {
        for dir in self.known_dirs() {
            self.list(&dir, usize::MAX, true).await?;
            let Some(ino) = self.dir_ino(&dir).await? else {
                continue;
            };
            for name in names::NAMES {
                self.lookup(ino, &dir, name).await?;
            }
        }
        Ok(())
    }
}

impl Origin {
    fn nth_file(&self, n: usize) -> Option<(String, String)> {
        let files: Vec<_> = self
            .tree
            .iter()
            .filter_map(|(path, item)| match item {
                Item::File(token) => Some((path.clone(), token.clone())),
                _ => None,
            })
            .collect();
        pick(&files, n).cloned()
    }
}

fn pick<T>(from: &[T], n: usize) -> Option<&T> {
    from.get(n.checked_rem(from.len())?)
}

async fn waits<T>(future: impl Future<Output = T>) -> Check<T> {
    tokio::time::timeout(HANG, future)
        .await
        .map_err(|_| format!("no answer within {HANG:?}"))
}
