//! Does each step to the filesystem, as the kernel would, and compares with the model.

macro_rules! ensure {
    ($holds:expr, $($said:tt)+) => {
        if !$holds {
            return Err(format!($($said)+));
        }
    };
}

mod files;
mod names;

use std::collections::{HashMap, HashSet};
use std::future::Future;
use std::time::{Duration, Instant};

use bytes::Bytes;
use svol::path::RelPath;
use svol::source::ErrorKind;
use svol::vfs::{Error, Ino, ROOT};

use super::oracle::{ExpectList, Heard, Oracle, What, join};
use super::world::{Item, Mounted, Origin, REPEATED};
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
    origins: Vec<Origin>,
    refresh: Option<Duration>,
    mounted: Option<Mounted>,
    handles: Vec<Handle>,
    held: Vec<Held>,
    /// How often the kernel looked each inode up.
    lookups: HashMap<Ino, u64>,
    /// Inodes whose last open was answered with "replaced", with no lookup since.
    told: HashSet<Ino>,
    /// Every file and link that was ever seen: its inode is for good.
    numbers: HashMap<(String, Object), Ino>,
    /// Which bytes were read of an object: they are in the cache.
    cached: HashMap<Object, HashSet<u64>>,
    /// What the bytes of an object whose version proves nothing may be, once some were read.
    learnt: HashMap<Object, Vec<Bytes>>,
    /// When a read of an object last timed out, which those that follow are told at once.
    timed_out: HashMap<Object, Instant>,
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
            .map(|(index, (graft, coarse))| Origin::new(index, graft, *coarse))
            .collect();
        for (layer, path, size) in &shape.files {
            let at = layer % origins.len();
            origins[at].put(path, *size, false);
        }
        let refresh = shape.eager.then_some(Duration::ZERO);
        let mounted = Some(Mounted::new(dir.path(), &origins, refresh));
        Harness {
            dir,
            origins,
            refresh,
            mounted,
            handles: Vec::new(),
            held: Vec::new(),
            lookups: HashMap::new(),
            told: HashSet::new(),
            numbers: HashMap::new(),
            cached: HashMap::new(),
            learnt: HashMap::new(),
            timed_out: HashMap::new(),
            clean: true,
            remounted: false,
        }
    }

    fn vfs(&self) -> &std::sync::Arc<svol::vfs::Vfs> {
        &self.mounted.as_ref().unwrap().vfs
    }

    pub async fn step(&mut self, step: &Step) -> Check {
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
            Step::Open { path } => self.open(path).await?,
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
            Step::Down { layer, kind } => {
                self.origin(*layer).set_down(Some(*kind));
                self.clean = false;
            }
            Step::Up { layer } => self.origin(*layer).set_down(None),
            Step::Walk => self.check_all().await?,
        }
        Ok(())
    }

    /// Whatever happened before: with all sources up and refreshed, the volume is what they hold,
    /// byte for byte; and after a remount it still is, with all of them down and none asked.
    pub async fn finish(&mut self) -> Check {
        for layer in 0..self.origins.len() {
            self.origins[layer].set_down(None);
        }
        self.refresh_all().await?;
        self.check_all().await?;
        if self.timed_out.values().any(|at| at.elapsed() < REPEATED) {
            tokio::time::sleep(REPEATED).await;
        }
        self.read_all().await?;
        for handle in std::mem::take(&mut self.handles) {
            self.vfs().release(handle.number);
        }
        for ino in self.lookups.keys().copied().collect::<Vec<_>>() {
            self.forget(ino)?;
        }
        let in_use = self.vfs().in_use();
        ensure!(
            in_use == (0, 0),
            "{in_use:?} inodes and handles are left over"
        );

        self.remount(false).await;
        for layer in 0..self.origins.len() {
            self.origins[layer].set_down(Some(ErrorKind::Unreachable));
        }
        let before: u64 = self.origins.iter().map(Origin::requests).sum();
        self.check_all().await?;
        self.read_all().await?;
        let after: u64 = self.origins.iter().map(Origin::requests).sum();
        if self.refresh.is_none() {
            ensure!(
                before == after,
                "{} requests after a remount",
                after - before
            );
        }
        self.mounted.take().unwrap().close().await;
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

    async fn remount(&mut self, beside: bool) {
        let old = self.mounted.take().unwrap();
        if beside {
            // As when a second process mounts the volume before the first one ends.
            old.flush().await;
            self.mounted = Some(Mounted::new(self.dir.path(), &self.origins, self.refresh));
            old.close().await;
        } else {
            old.close().await;
            self.mounted = Some(Mounted::new(self.dir.path(), &self.origins, self.refresh));
        }
        self.remounted = true;
        self.handles.clear();
        self.held.clear();
        self.lookups.clear();
        self.told.clear();
        for origin in &mut self.origins {
            origin.recorder.forget_gone();
            origin.shaken = None;
        }
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

    fn heard(&self) -> Vec<Heard> {
        self.origins.iter().map(|o| o.recorder.heard()).collect()
    }

    /// What was heard, once it counts: directories of an earlier mount are asked for behind the
    /// readers' backs.
    async fn settled(&self) -> Vec<Heard> {
        if self.refresh.is_some() && self.remounted {
            tokio::time::sleep(Duration::from_millis(3)).await;
        }
        self.heard()
    }

    fn truth(&self) -> Vec<Heard> {
        self.origins.iter().map(Origin::truth).collect()
    }

    /// What the model says, by what was heard before and after an operation. Where a source is
    /// down, it may have forgotten that a directory is not there, which never lasts.
    fn expect<T: PartialEq>(
        &self,
        before: &[Heard],
        mut ask: impl FnMut(&Oracle<'_>) -> T,
    ) -> Vec<T> {
        let grafts: Vec<String> = self.origins.iter().map(|o| o.graft.clone()).collect();
        let sure = vec![false; grafts.len()];
        let doubt: Vec<bool> = self.origins.iter().map(Origin::may_fail).collect();
        let after = self.heard();
        let mut all = Vec::new();
        if self.clean {
            let heard = self.truth();
            all.push(ask(&Oracle {
                grafts: &grafts,
                heard: &heard,
                doubt_gone: &sure,
            }));
            return all;
        }
        // A source that is asked behind the readers' backs is heard before what it said counts, and
        // where it said it of a directory that was known; so each layer is as before, as after, or
        // as before where that was known at all.
        let choices: Vec<Vec<Heard>> = before
            .iter()
            .zip(&after)
            .map(|(before, after)| {
                if before == after {
                    return vec![after.clone()];
                }
                let mut both = after.clone();
                both.extend(before.clone());
                vec![before.clone(), after.clone(), both]
            })
            .collect();
        let many: usize = choices.iter().map(Vec::len).product();
        for choice in 0..many {
            let mut rest = choice;
            let heard: Vec<Heard> = choices
                .iter()
                .map(|of_layer| {
                    let at = rest % of_layer.len();
                    rest /= of_layer.len();
                    of_layer[at].clone()
                })
                .collect();
            for doubt_gone in [&sure, &doubt] {
                let (grafts, heard) = (&grafts, &heard);
                let oracle = Oracle {
                    grafts,
                    heard,
                    doubt_gone,
                };
                let answer = ask(&oracle);
                if !all.contains(&answer) {
                    all.push(answer);
                }
            }
        }
        all
    }

    /// Whether `error` is of a kind that a source has been failing with.
    fn excused(&self, error: &Error) -> bool {
        let Error::Source(error) = error else {
            return false;
        };
        self.origins
            .iter()
            .any(|origin| origin.may_fail() && origin.fails_with(error.kind()))
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

    /// All directories that the model knows of now.
    fn known_dirs(&self) -> Vec<String> {
        let heard = if self.clean {
            self.truth()
        } else {
            self.heard()
        };
        let grafts: Vec<String> = self.origins.iter().map(|o| o.graft.clone()).collect();
        let doubt_gone = vec![false; grafts.len()];
        let oracle = Oracle {
            grafts: &grafts,
            heard: &heard,
            doubt_gone: &doubt_gone,
        };
        oracle.dirs()
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
                files.map(|(path, _)| match origin.graft.as_str() {
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
            for name in ["a", "b", "c", "g", "h", "0", "absent"] {
                self.lookup(ino, &dir, name).await?;
            }
        }
        Ok(())
    }

    /// Opens and reads every file that the volume shows.
    async fn read_all(&mut self) -> Check {
        let mut files = Vec::new();
        let truth = self.truth();
        let grafts: Vec<String> = self.origins.iter().map(|o| o.graft.clone()).collect();
        let doubt_gone = vec![false; grafts.len()];
        let oracle = Oracle {
            grafts: &grafts,
            heard: &truth,
            doubt_gone: &doubt_gone,
        };
        for dir in oracle.dirs() {
            if let ExpectList::Names(names) = oracle.list(&dir) {
                let shown = names.iter().filter(|(_, (what, _))| *what == What::File);
                files.extend(shown.map(|(name, _)| join(&dir, name)));
            }
        }
        for path in files {
            let open = self.handles.len();
            self.open(&path).await?;
            ensure!(self.handles.len() == open + 1, "{path} does not open");
            let Some(handle) = self.handles.pop() else {
                continue;
            };
            let size = self.size_of(&handle.held.object);
            let mut at = 0;
            while at < size {
                let came = self.read(&handle, at, 1 << 20).await?;
                ensure!(came, "{path} cannot be read");
                at += 1 << 20;
            }
            self.vfs().release(handle.number);
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
