//! How a mount ends, what goes from its cache, and what is there in the end.

use std::path::PathBuf;
use std::time::Duration;

use svol::path::RelPath;
use svol::source::ErrorKind;
use svol::vfs::{Error, Vfs};

use super::super::mounted::{Mounted, copy_as_it_is};
use super::super::world::{Origin, REPEATED};
use super::{Check, Handle, Harness, Object, pick, waits};

impl Harness {
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

        // What was evicted, and then served from memory alone, is asked for.
        let all_kept = self.fleeting.is_empty();
        self.remount(false).await;
        for layer in 0..self.origins.len() {
            self.origins[layer].set_down(Some(ErrorKind::Unreachable));
        }
        let before: u64 = self.origins.iter().map(Origin::requests).sum();
        let probed = self.origins.iter().any(|origin| origin.probed);
        self.check_all().await?;
        self.read_all().await?;
        let after: u64 = self.origins.iter().map(Origin::requests).sum();
        let asks_nothing = self.settings.refresh.is_none() && self.settings.quota.is_none();
        if asks_nothing && all_kept && !probed {
            ensure!(
                before == after,
                "{} requests after a remount",
                after - before
            );
        }
        self.mounted.take().unwrap().close().await;
        Ok(())
    }

    pub(super) async fn remount(&mut self, beside: bool) {
        let old = self.mounted.take().unwrap();
        if beside {
            // As when a second process mounts the volume before the first one ends.
            old.flush().await;
            self.mount();
            old.close().await;
        } else {
            old.close().await;
            self.mount();
        }
        self.begin_anew();
    }

    fn home(&self) -> PathBuf {
        self.dir.path().join(self.home.to_string())
    }

    fn mount(&mut self) {
        self.mounts += 1;
        self.start();
    }

    fn start(&mut self) {
        let journal = self.dir.path().join(format!("journal{}", self.mounts));
        self.mounted = Some(Mounted::new(
            &self.home(),
            &journal,
            &self.origins,
            self.settings,
        ));
    }

    /// Takes note that nothing is open, looked up or on its way any more.
    fn begin_anew(&mut self) {
        self.handles.clear();
        self.held.clear();
        self.lookups.clear();
        self.begin_process();
    }

    /// Takes note that only what is written down is known.
    fn begin_process(&mut self) {
        self.remounted = true;
        for object in self.fleeting.drain() {
            self.cached.remove(&object);
        }
        self.told.clear();
        for origin in &mut self.origins {
            origin.recorder.forget_gone();
            origin.shaken = None;
            origin.recorder.given_twice(true);
        }
    }

    /// Another process takes the mount over: what the "kernel" has open and has looked up it has
    /// still, and each is what it was. Where that was not `planned`, what was forgotten last may not
    /// have been written down.
    pub(super) async fn replace(&mut self, planned: bool) -> Check {
        let Some(old) = self.mounted.take() else {
            return Ok(());
        };
        old.flush().await;
        if planned {
            old.vfs.settle();
        }
        let known = |vfs: &Vfs, ino| (vfs.attr(ino), vfs.readlink(ino), vfs.path_of(ino));
        let inodes: Vec<_> = self.lookups.keys().copied().collect();
        let before: Vec<_> = inodes.iter().map(|i| known(&old.vfs, *i)).collect();
        self.start();
        for (ino, before) in inodes.iter().zip(before) {
            let after = known(self.vfs(), *ino);
            let (before, after) = (format!("{before:?}"), format!("{after:?}"));
            ensure!(before == after, "inode {ino} was {before} and is {after}");
        }
        ensure!(
            self.vfs().in_use().1 == self.handles.len(),
            "{} files are open, not {}",
            self.vfs().in_use().1,
            self.handles.len()
        );
        // More lookups than there were are forgotten as soon as the kernel says that it knows none.
        for inode in self.vfs().idle(usize::MAX) {
            let counted = inode.inherited.unwrap_or(0);
            let truly = self.lookups.get(&inode.ino).copied().unwrap_or(0);
            ensure!(
                counted == truly || (counted > truly && !planned),
                "inode {} counts as looked up {counted} times, not {truly}",
                inode.ino
            );
            self.vfs().forget(inode.ino, counted - truly);
        }
        // What a reader finds out of a file is kept only where its directory is in memory, as it was
        // for whoever opened it.
        for handle in self.handles.clone() {
            let path = RelPath::new(&handle.held.path).unwrap();
            let dir = path.parent().unwrap_or_else(RelPath::root);
            let _ = waits(self.vfs().namespace().list(&dir)).await?;
        }
        // In the end, so that nothing that it still did could matter.
        old.close().await;
        self.begin_process();
        Ok(())
    }

    /// Ends as by kill -9: what is on disk at some moment, while a handle is being read and all
    /// that goes on behind the readers' backs goes on, is all that is left.
    pub(super) async fn crash(&mut self, flushed: bool, reading: usize) -> Check {
        // Without it, what was heard last need not be known any more.
        let flushed = flushed || self.origins.iter().any(|o| o.down.is_some());
        let Some(old) = self.mounted.take() else {
            return Ok(());
        };
        if flushed {
            old.flush().await;
        }
        let is_there = |handle: &&Handle| {
            let object = &handle.held.object;
            self.at_origin(object).as_ref() == Some(&object.2)
        };
        let handle = pick(&self.handles, reading).filter(is_there).cloned();
        let reading = handle.map(|handle| {
            let source = self.origins[handle.held.object.0].source.clone();
            source.set_delay(Duration::from_millis(1));
            let vfs = old.vfs.clone();
            tokio::spawn(async move {
                let _ = vfs.read(handle.number, handle.held.ino, 0, 1 << 20).await;
                source.set_delay(Duration::ZERO);
            })
        });
        let from = self.home();
        self.home += 1;
        let to = self.home();
        let copied = tokio::task::spawn_blocking(move || copy_as_it_is(&from, &to));
        copied.await.unwrap().unwrap();
        if let Some(reading) = reading {
            waits(reading).await?.unwrap();
        }
        old.close().await;
        self.mount();
        self.begin_anew();
        if !flushed {
            // Small files are in the index only, which had not to be written yet.
            let sizes: Vec<_> = self
                .cached
                .keys()
                .map(|o| (o.clone(), self.size_of(o)))
                .collect();
            for (object, _) in sizes.iter().filter(|(_, size)| *size <= svol_cache::SMALL) {
                self.cached.remove(object);
            }
            self.refresh_all().await?;
        }
        Ok(())
    }

    /// Evicts what nobody has open down to `target` bytes.
    pub(super) async fn evict(&mut self, target: u64) -> Check {
        self.fetched_once(true)?;
        let cache = self.mounted.as_ref().unwrap().cache.clone();
        let evicting = tokio::task::spawn_blocking(move || cache.gc(Some(target)));
        waits(evicting)
            .await?
            .unwrap()
            .map_err(|e| format!("gc: {e}"))?;
        self.evicted();
        Ok(())
    }

    /// Takes note that only what is open is surely still there.
    pub(super) fn evicted(&mut self) {
        let open = |object: &Object| {
            self.handles
                .iter()
                .any(|handle| handle.held.object == *object)
        };
        let small = |object: &&Object| self.size_of(object) <= svol_cache::SMALL;
        let gone = self.cached.keys().filter(|object| !open(object));
        let fleeting: Vec<Object> = gone.filter(small).cloned().collect();
        self.cached.retain(|object, _| open(object));
        self.fleeting.extend(fleeting);
    }

    /// Opens and reads every file that the volume shows.
    pub(super) async fn read_all(&mut self) -> Check {
        for path in self.shown_files() {
            let open = self.handles.len();
            let refused = self.open(&path).await?;
            ensure!(
                refused || self.handles.len() == open + 1,
                "{path} does not open"
            );
            if refused {
                continue;
            }
            let Some(handle) = self.handles.pop() else {
                continue;
            };
            let size = self.size_of(&handle.held.object);
            let (mut at, mut all) = (0, true);
            while at < size {
                let came = self.read(&handle, at, 1 << 20).await?;
                let up = self.origins[handle.held.object.0].down.is_none();
                ensure!(came || !up, "{path} cannot be read");
                all &= came;
                at += 1 << 20;
            }
            self.check_xattrs(&handle, all)?;
            self.vfs().release(handle.number);
        }
        Ok(())
    }

    fn check_xattrs(&self, handle: &Handle, all: bool) -> Check {
        let object = &handle.held.object;
        let size = self.size_of(object);
        let get = |name: &str| self.vfs().xattr(handle.held.ino, name);
        let cached = get("user.svol.cached").map_err(|e| e.to_string())?;
        let said: Option<(u64, u64)> = cached
            .split_once('/')
            .and_then(|(here, of)| Some((here.parse().ok()?, of.parse().ok()?)));
        let kept = size > svol_cache::SMALL && all && self.keeps_all();
        ensure!(
            said.is_some_and(|(here, of)| of == size && here <= size && (!kept || here == size)),
            "{object:?} of {size} bytes has {cached} cached"
        );
        if let (Ok(digest), false) = (get("user.svol.digest"), object.2.starts_with('w')) {
            let hash = blake3::hash(&self.origins[object.0].bytes[&object.2]);
            ensure!(
                digest == format!("blake3:{}", hash.to_hex()),
                "{object:?} has the digest {digest}"
            );
        }
        if self.clean && !self.origins.iter().any(Origin::may_fail) {
            let stale = get("user.svol.stale");
            ensure!(
                matches!(stale, Err(Error::NoAttribute)),
                "{object:?} is stale: {stale:?}"
            );
        }
        Ok(())
    }
}
