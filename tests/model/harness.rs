//! Does each step to the filesystem, as the kernel would, and compares with the model.

use std::collections::{HashMap, HashSet};
use std::future::Future;
use std::time::Duration;

use bytes::Bytes;
use svol::entry::Kind;
use svol::path::RelPath;
use svol::source::ErrorKind;
use svol::vfs::{Attr, Error, Ino, ROOT};

use super::oracle::{Expect, ExpectList, Heard, Oracle, What, join};
use super::world::{Item, Mounted, Origin};
use super::{Shape, Step};

type Check<T = ()> = Result<T, String>;

macro_rules! ensure {
    ($holds:expr, $($said:tt)+) => {
        if !$holds {
            return Err(format!($($said)+));
        }
    };
}

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
        self.origins.iter().any(|origin| match origin.down {
            Some(kind) => kind == error.kind(),
            None => origin.may_fail(),
        })
    }

    /// Looks a name up, and compares.
    async fn lookup(&mut self, parent: Ino, dir: &str, name: &str) -> Check<Option<Attr>> {
        let before = self.settled().await;
        let vfs = self.vfs().clone();
        let answer = match vfs.lookup_now(parent, name.as_bytes()) {
            Some(answer) => answer,
            None => waits(vfs.lookup(parent, name.as_bytes())).await?,
        };
        if let Ok(looked) = &answer {
            *self.lookups.entry(looked.attr.ino).or_default() += 1;
            self.told.remove(&looked.attr.ino);
        }
        let path = join(dir, name);
        let expected = self.expect(&before, |oracle| oracle.lookup(dir, name));
        let attr = match &answer {
            Err(Error::Absent) => {
                ensure!(
                    expected.contains(&Expect::Absent),
                    "{path} is absent, not {expected:?}"
                );
                return Ok(None);
            }
            Err(error) => {
                let unsized_file = |e: &Expect| {
                    matches!(e, Expect::Found { row, .. }
                        if row.what == What::File && row.token.is_none())
                };
                ensure!(
                    self.excused(error)
                        && expected
                            .iter()
                            .any(|e| *e == Expect::Failed || unsized_file(e)),
                    "{path}: {error}, not {expected:?}"
                );
                return Ok(None);
            }
            Ok(looked) => looked.attr,
        };
        let mut why = String::new();
        for expect in &expected {
            match self.agrees(&path, &attr, expect) {
                Ok(None) => return Ok(Some(attr)),
                Ok(Some(held)) => {
                    if !held.object.2.is_empty() && !self.held.iter().any(|h| h.ino == held.ino) {
                        self.held.push(held);
                    }
                    return Ok(Some(attr));
                }
                Err(e) => why = e,
            }
        }
        Err(format!("{path} is {attr:?}, not {expected:?}: {why}"))
    }

    /// Whether an inode is what the model says; returns it if it is a file.
    fn agrees(&mut self, path: &str, attr: &Attr, expect: &Expect) -> Check<Option<Held>> {
        let (layer, inside, row) = match expect {
            Expect::Lead => {
                ensure!(attr.kind == Kind::Dir, "a graft is no directory");
                return Ok(None);
            }
            Expect::Found { layer, path, row } => (*layer, path, row),
            Expect::Absent | Expect::Failed => return Err("it should not be there".into()),
        };
        let kind = match row.what {
            What::Dir => Kind::Dir,
            What::File => Kind::File,
            What::Link => Kind::Symlink,
        };
        ensure!(attr.kind == kind, "a {:?}", attr.kind);
        let Some(token) = row.token.clone().filter(|_| row.what != What::Dir) else {
            ensure!(row.what == What::Dir, "of unknown size, but found");
            return Ok(None);
        };
        let said = self.vfs().xattr(attr.ino, "user.svol.version");
        ensure!(
            said.as_ref().ok() == Some(&token),
            "version {said:?}, not {token}"
        );
        let url = self.vfs().xattr(attr.ino, "user.svol.source").unwrap();
        let want = format!("memory:layer{layer}/{inside}");
        ensure!(url == want, "from {url}, not {want}");
        let object = (layer, inside.clone(), token);
        let number = self
            .numbers
            .entry((path.to_owned(), object.clone()))
            .or_insert(attr.ino);
        ensure!(*number == attr.ino, "inode {} and was {number}", attr.ino);
        let others = self
            .numbers
            .iter()
            .filter(|(_, ino)| **ino == attr.ino)
            .count();
        ensure!(others == 1, "inode {} is {others} files", attr.ino);
        if row.what == What::Link {
            let target = self.vfs().readlink(attr.ino).unwrap();
            ensure!(
                *target == *row.target,
                "leads to {target}, not {}",
                row.target
            );
            return Ok(None);
        }
        let size = self.size_of(&object);
        ensure!(attr.size == size, "{} bytes, not {size}", attr.size);
        Ok(Some(Held {
            ino: attr.ino,
            path: path.to_owned(),
            object,
        }))
    }

    /// Looks up a path component by component; returns what is there.
    async fn walk(&mut self, path: &str) -> Check<Option<Attr>> {
        let (mut parent, mut dir) = (ROOT, String::new());
        let mut found = None;
        for name in path.split('/') {
            let Some(attr) = self.lookup(parent, &dir, name).await? else {
                return Ok(None);
            };
            dir = join(&dir, name);
            found = Some(attr);
            if attr.kind != Kind::Dir && dir != path {
                return Ok(None);
            }
            parent = attr.ino;
        }
        Ok(found)
    }

    async fn dir_ino(&mut self, path: &str) -> Check<Option<Ino>> {
        if path.is_empty() {
            return Ok(Some(ROOT));
        }
        let attr = self.walk(path).await?;
        Ok(attr.filter(|a| a.kind == Kind::Dir).map(|a| a.ino))
    }

    async fn opendir(&mut self, ino: Ino, path: &str) -> Check<Option<u64>> {
        let before = self.settled().await;
        let vfs = self.vfs().clone();
        let answer = match vfs.opendir_now(ino) {
            Some(answer) => answer,
            None => waits(vfs.opendir(ino)).await?,
        };
        let expected = self.expect(&before, |oracle| oracle.list(path));
        match answer {
            Ok(opened) => {
                let there = expected.iter().any(|e| matches!(e, ExpectList::Names(_)));
                ensure!(there, "{path} opens, but should be {expected:?}");
                Ok(Some(opened.handle))
            }
            Err(Error::Absent) => {
                ensure!(
                    expected.contains(&ExpectList::Absent),
                    "{path} is gone: {expected:?}"
                );
                Ok(None)
            }
            Err(error) => {
                ensure!(
                    self.excused(&error) && expected.contains(&ExpectList::Failed),
                    "{path}: {error}, not {expected:?}"
                );
                Ok(None)
            }
        }
    }

    /// Reads up to `most` names from `offset` on, `chunk` at a time; returns where it stopped.
    fn read_names(
        &mut self,
        (handle, ino): (u64, Ino),
        mut offset: u64,
        (chunk, most): (usize, usize),
        count: bool,
        names: &mut Vec<(String, Attr)>,
    ) -> Check<u64> {
        let vfs = self.vfs().clone();
        // Which of them count as looked up is not told for those of unknown size.
        let count = count && !self.origins.iter().any(Origin::is_coarse);
        loop {
            let from = names.len();
            let chunk = chunk.min(most - from);
            let mut next = offset;
            let mut full = false;
            let read = vfs.readdir(handle, ino, offset, count, |entry| {
                let dots = entry.name == "." || entry.name == "..";
                if !dots && names.len() - from == chunk {
                    full = true;
                    return false;
                }
                next = entry.next;
                if !dots {
                    names.push((entry.name.to_owned(), entry.attr));
                }
                true
            });
            read.map_err(|e| format!("readdir: {e}"))?;
            if count {
                for (_, attr) in &names[from..] {
                    *self.lookups.entry(attr.ino).or_default() += 1;
                    self.told.remove(&attr.ino);
                }
            }
            if !full || next == offset || names.len() == most {
                return Ok(next);
            }
            offset = next;
        }
    }

    fn same_names(&self, got: &[(String, Attr)], expected: &ExpectList) -> bool {
        let ExpectList::Names(want) = expected else {
            return false;
        };
        let kind = |what| match what {
            What::Dir => Kind::Dir,
            What::File => Kind::File,
            What::Link => Kind::Symlink,
        };
        got.len() == want.len()
            && got
                .iter()
                .zip(want)
                .all(|(got, want)| got.0 == *want.0 && got.1.kind == kind(want.1.0))
    }

    async fn list(&mut self, path: &str, chunk: usize, count: bool) -> Check {
        let Some(ino) = self.dir_ino(path).await? else {
            return Ok(());
        };
        let before = self.settled().await;
        let Some(handle) = self.opendir(ino, path).await? else {
            return Ok(());
        };
        let mut names = Vec::new();
        self.read_names((handle, ino), 0, (chunk, usize::MAX), count, &mut names)?;
        self.vfs().releasedir(handle);
        let expected = self.expect(&before, |oracle| oracle.list(path));
        ensure!(
            expected.iter().any(|e| self.same_names(&names, e)),
            "{path:?} lists {:?}, not {expected:?}",
            names.iter().map(|n| &n.0).collect::<Vec<_>>()
        );
        Ok(())
    }

    async fn slow_list(&mut self, path: &str, taken: usize, layer: usize) -> Check {
        let Some(ino) = self.dir_ino(path).await? else {
            return Ok(());
        };
        let before = self.settled().await;
        let Some(handle) = self.opendir(ino, path).await? else {
            return Ok(());
        };
        let expected = self.expect(&before, |oracle| oracle.list(path));
        let mut names = Vec::new();
        let next = self.read_names((handle, ino), 0, (taken, taken), false, &mut names)?;
        let origin = self.origin(layer);
        for name in ["0", "b0", "z"] {
            origin.put(&join(path, name), 1, false);
        }
        origin.remove(&join(path, "a"));
        self.clean = false;
        self.refresh_all().await?;
        if names.len() == taken {
            let most = (1, usize::MAX);
            self.read_names((handle, ino), next, most, false, &mut names)?;
        }
        self.vfs().releasedir(handle);
        ensure!(
            expected.iter().any(|e| self.same_names(&names, e)),
            "{path:?} changed under its reader: {:?}, not {expected:?}",
            names.iter().map(|n| &n.0).collect::<Vec<_>>()
        );
        Ok(())
    }

    async fn try_open(&mut self, ino: Ino) -> Check<Result<u64, Error>> {
        let vfs = self.vfs().clone();
        let answer = match vfs.open_now(ino) {
            Some(answer) => answer,
            None => waits(vfs.open(ino)).await?,
        };
        if matches!(answer, Err(Error::Stale)) {
            self.told.insert(ino);
        }
        Ok(answer)
    }

    /// Opens a path as the kernel does: once more with a new lookup where the answer is "stale".
    async fn open(&mut self, path: &str) -> Check {
        for _ in 0..3 {
            let Some(attr) = self.walk(path).await? else {
                return Ok(());
            };
            let held = self.held.iter().find(|h| h.ino == attr.ino).cloned();
            let Some(held) = held.filter(|_| attr.kind == Kind::File) else {
                return Ok(());
            };
            match self.try_open(attr.ino).await? {
                Ok(number) => {
                    self.handles.push(Handle { number, held });
                    return Ok(());
                }
                Err(Error::Stale) => {}
                Err(error) => return Err(format!("{path} does not open: {error}")),
            }
        }
        Err(format!("{path} is stale again and again"))
    }

    async fn open_held(&mut self, inode: usize) -> Check {
        let Some(held) = pick(&self.held, inode).cloned() else {
            return Ok(());
        };
        let before = self.settled().await;
        let told = self.told.contains(&held.ino);
        let answer = self.try_open(held.ino).await?;
        let expected = self.expect(&before, |oracle| oracle.walk(&held.path));
        let is_it = |e: &Expect| match e {
            Expect::Found { layer, path, row } => {
                let same = *layer == held.object.0 && *path == held.object.1;
                // A size that is not known says nothing of the version.
                row.token
                    .as_ref()
                    .map(|token| same && *token == held.object.2)
            }
            Expect::Failed => Some(true),
            Expect::Lead | Expect::Absent => Some(false),
        };
        match answer {
            Ok(number) => {
                ensure!(
                    told || expected.iter().any(|e| is_it(e) != Some(false)),
                    "{held:?} opens although it is {expected:?} by now"
                );
                self.handles.push(Handle { number, held });
            }
            Err(Error::Stale) => {
                ensure!(
                    !told && expected.iter().any(|e| is_it(e) != Some(true)),
                    "{held:?} is stale (told before: {told}): {expected:?}"
                );
            }
            Err(error) => return Err(format!("{held:?} does not open: {error}")),
        }
        Ok(())
    }

    async fn read_whole(&mut self, handle: &Handle) -> Check {
        let size = self.size_of(&handle.held.object);
        let mut at = 0;
        while at < size {
            if !self.read(handle, at, 1 << 20).await? {
                return Ok(());
            }
            at += 1 << 20;
        }
        Ok(())
    }

    /// Reads and compares; returns whether there were bytes.
    async fn read(&mut self, handle: &Handle, at: u64, len: usize) -> Check<bool> {
        let there = self.at_origin(&handle.held.object);
        let vfs = self.vfs().clone();
        let mut buf = vec![0; len];
        let answer = match vfs.read_now(handle.number, at, &mut buf) {
            Some(answer) => answer.map(|n| {
                buf.truncate(n);
                buf
            }),
            None => waits(vfs.read(handle.number, handle.held.ino, at, len)).await?,
        };
        self.compare(handle, at, len, answer, there)
    }

    /// Returns the version that the origin has now of an object's file, if it has any.
    fn at_origin(&self, (layer, path, _): &Object) -> Option<String> {
        match self.origins[*layer].tree.get(path) {
            Some(Item::File(token)) => Some(token.clone()),
            _ => None,
        }
    }

    fn compare(
        &mut self,
        handle: &Handle,
        at: u64,
        len: usize,
        answer: Result<Vec<u8>, Error>,
        there: Option<String>,
    ) -> Check<bool> {
        let object = &handle.held.object;
        let size = self.size_of(object);
        let range = at.min(size)..(at + len as u64).min(size);
        let grains = if size <= svol_cache::SMALL {
            0..size.min(1)
        } else {
            range.start / GRAIN..range.end.div_ceil(GRAIN)
        };
        let what = format!("bytes {range:?} of {size} of {object:?}");
        let cached = self.cached.entry(object.clone()).or_default();
        match answer {
            Ok(bytes) => {
                let want = (range.end - range.start) as usize;
                ensure!(bytes.len() == want, "{what}: {} bytes came", bytes.len());
                if want == 0 {
                    return Ok(true);
                }
                cached.extend(grains);
                let origin = &self.origins[object.0];
                let own = origin.bytes[&object.2].clone();
                let candidates = self.learnt.entry(object.clone()).or_insert_with(|| {
                    let mut all = vec![own];
                    if object.2.starts_with('w') {
                        // Nothing but the size could tell that it was replaced in the meantime.
                        let now = there.as_ref().map(|token| origin.bytes[token].clone());
                        all.extend(now.filter(|now| now.len() as u64 == size));
                    }
                    all
                });
                let part = range.start as usize..range.end as usize;
                candidates.retain(|c| c[part.clone()] == bytes[..]);
                ensure!(!candidates.is_empty(), "{what}: other bytes came");
                Ok(true)
            }
            Err(error) => {
                let has_all = grains.clone().all(|grain| cached.contains(&grain));
                ensure!(!has_all, "{what}: {error}, although all of it is cached");
                let down = self.origins[object.0].down;
                let kind = match &error {
                    Error::Source(error) => Some(error.kind()),
                    _ => None,
                };
                let gone = there.as_deref() != Some(&object.2);
                let says_gone = matches!(kind, Some(ErrorKind::Changed | ErrorKind::NotFound));
                ensure!(
                    (down.is_some() && kind == down) || (down.is_none() && gone && says_gone),
                    "{what}: {error:?}, with the source at {there:?} and down {down:?}"
                );
                Ok(false)
            }
        }
    }

    async fn read_while_overwritten(&mut self, handle: &Handle, after: u64) -> Check {
        let object = handle.held.object.clone();
        let there = self.at_origin(&object);
        if there.as_deref() != Some(&object.2) || object.2.starts_with('w') {
            return Ok(());
        }
        let source = self.origins[object.0].source.clone();
        source.set_delay(Duration::from_millis(1));
        let len = self.size_of(&object) as usize;
        let (vfs, number, ino) = (self.vfs().clone(), handle.number, handle.held.ino);
        let reading = tokio::spawn(async move { vfs.read(number, ino, 0, len).await });
        tokio::time::sleep(Duration::from_micros(after * 400)).await;
        self.overwrite(object.0, &object.1, &object.2);
        let answer = waits(reading)
            .await?
            .map_err(|e| format!("a read panicked: {e}"))?;
        source.set_delay(Duration::ZERO);
        let there = self.at_origin(&object);
        self.compare(handle, 0, len, answer, there)?;
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
