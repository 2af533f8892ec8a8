//! Looking at what the cache has of files, removing it, and sparing it from eviction.

use std::sync::Arc;

use svol_cache::{Cache, Eviction};
use tokio::sync::mpsc::Receiver;

use super::select::{self, Item};
use super::tell::Teller;
use super::warm::size;
use super::{Count, Event, Outcome, Summary};
use crate::vfs::{Stored, Vfs};

/// Files that are worked on together, on a thread that may wait for the disk.
const TOGETHER: usize = 64;

type Work = (Item, Stored);

/// The files that were asked for, some at a time.
struct Files<'a> {
    vfs: &'a Vfs,
    tell: &'a Teller,
    items: Receiver<Item>,
}

impl<'a> Files<'a> {
    fn new(vfs: &'a Arc<Vfs>, paths: Vec<String>, tell: &'a Arc<Teller>) -> Files<'a> {
        Files {
            vfs,
            tell,
            items: select::start(vfs, paths, tell),
        }
    }

    async fn next(&mut self) -> Option<Vec<Work>> {
        let mut items = Vec::new();
        if self.items.recv_many(&mut items, TOGETHER).await == 0 {
            return None;
        }
        let mut some = Vec::new();
        for item in items {
            match self
                .vfs
                .stored(item.layer, &item.source_path, &item.entry)
                .await
            {
                Ok(stored) => some.push((item, stored)),
                Err(error) => self.tell.failed(item.path.as_str(), error).await,
            }
        }
        Some(some)
    }
}

/// Does `work` with some files, where it may wait for the disk.
async fn with<T: Send + 'static>(
    tell: &Teller,
    cache: &Cache,
    some: Vec<Work>,
    work: impl Fn(&Cache, &Stored) -> T + Send + 'static,
) -> Vec<(Item, Stored, T)> {
    let cache = cache.clone();
    let working = move || {
        some.into_iter()
            .map(|(item, stored)| {
                let done = work(&cache, &stored);
                (item, stored, done)
            })
            .collect()
    };
    match tokio::task::spawn_blocking(working).await {
        Ok(done) => done,
        // A fault of ours, or a runtime that shuts down: these files are not done.
        Err(error) => {
            tell.failed("/", error).await;
            Vec::new()
        }
    }
}

/// What is stored on disk only now is seen afterwards.
async fn flush(cache: &Cache) {
    let cache = cache.clone();
    let _ = tokio::task::spawn_blocking(move || cache.flush()).await;
}

fn present(cache: &Cache, stored: &Stored) -> u64 {
    match stored.key {
        Some(key) => cache.object(key, stored.size).present_bytes(),
        None => stored.size,
    }
}

pub(super) async fn check(vfs: &Arc<Vfs>, cache: &Cache, paths: Vec<String>, tell: &Arc<Teller>) {
    flush(cache).await;
    let mut files = Files::new(vfs, paths, tell);
    while let Some(some) = files.next().await {
        for (item, stored, present) in with(tell, cache, some, present).await {
            tell.found(stored.size);
            tell.passed(stored.size);
            let missing = stored.size.saturating_sub(present);
            let (outcome, bytes) = match (stored.key, missing) {
                (None, _) => (Outcome::Local, stored.size),
                (_, 0) => (Outcome::Here, stored.size),
                _ => (Outcome::Missing, missing),
            };
            if stored.key.is_some() {
                tell.summary().cached_bytes += present;
            }
            tell.file(item.path.as_str(), outcome, bytes).await;
        }
    }
}

pub(super) async fn stats(vfs: &Arc<Vfs>, cache: &Cache, paths: Vec<String>, tell: &Arc<Teller>) {
    flush(cache).await;
    let mut trees = vec![Summary::default(); paths.len()];
    let mut files = Files::new(vfs, paths.clone(), tell);
    while let Some(some) = files.next().await {
        let look = |cache: &Cache, stored: &Stored| {
            let is_pinned = stored
                .key
                .is_some_and(|k| cache.is_pinned(&k).unwrap_or(false));
            (present(cache, stored), is_pinned)
        };
        for (item, stored, (present, is_pinned)) in with(tell, cache, some, look).await {
            let outcome = match stored.key {
                None => Outcome::Local,
                Some(_) if present >= stored.size => Outcome::Here,
                Some(_) if present == 0 => Outcome::Absent,
                Some(_) => Outcome::Missing,
            };
            let add = |summary: &mut Summary| {
                summary.files += 1;
                summary.bytes += stored.size;
                if stored.key.is_some() {
                    summary.cached_bytes += present;
                }
                if is_pinned {
                    summary.pinned.files += 1;
                    summary.pinned.bytes += stored.size;
                }
                let count: &mut Count = summary.outcomes.entry(outcome).or_default();
                count.files += 1;
                count.bytes += stored.size;
            };
            add(&mut tell.summary());
            if let Some(tree) = trees.get_mut(item.asked) {
                add(tree);
            }
        }
    }
    for (path, summary) in paths.into_iter().zip(trees) {
        tell.send(Event::Tree { path, summary }).await;
    }
}

pub(super) async fn evict(vfs: &Arc<Vfs>, cache: &Cache, paths: Vec<String>, tell: &Arc<Teller>) {
    flush(cache).await;
    let mut files = Files::new(vfs, paths, tell);
    while let Some(some) = files.next().await {
        let evict = |cache: &Cache, stored: &Stored| stored.key.map(|key| cache.evict(&key));
        for (item, stored, done) in with(tell, cache, some, evict).await {
            tell.found(stored.size);
            let path = item.path.as_str();
            let (outcome, bytes) = match done {
                None => (Outcome::Local, stored.size),
                Some(Ok(Eviction::Absent)) => (Outcome::Absent, 0),
                Some(Ok(Eviction::Freed(bytes))) => (Outcome::Evicted, bytes),
                Some(Ok(Eviction::Shared)) => (Outcome::Shared, 0),
                Some(Ok(Eviction::Pinned)) => (Outcome::KeptPinned, stored.size),
                Some(Ok(Eviction::InUse)) => (Outcome::KeptOpen, stored.size),
                Some(Err(error)) => {
                    tell.failed(path, error).await;
                    continue;
                }
            };
            tell.file(path, outcome, bytes).await;
        }
    }
}

pub(super) async fn pin(vfs: &Arc<Vfs>, cache: &Cache, paths: Vec<String>, tell: &Arc<Teller>) {
    // All of it fits, or none of it is pinned.
    let counting = cache.clone();
    let before = tokio::task::spawn_blocking(move || counting.stats().pinned_bytes).await;
    let mut wanted = before.unwrap_or(0);
    let (mut count, capacity) = (0u64, cache.capacity());
    let mut files = Files::new(vfs, paths.clone(), tell);
    while let Some(some) = files.next().await {
        for (_, stored, is_pinned) in with(tell, cache, some, is_pinned).await {
            if stored.key.is_some() && !is_pinned {
                wanted = wanted.saturating_add(stored.size);
                count += 1;
            }
        }
    }
    if wanted > capacity {
        let why = format!(
            "with these {count} files {} would be pinned, and the cache keeps {} at most; nothing \
             is pinned: allow it more (--cache-size), unpin something, or name less",
            size(wanted),
            size(capacity)
        );
        return tell.failed("/", why).await;
    }
    if tell.summary().failed > 0 {
        let why = "nothing is pinned, since not all that was asked for could be looked at";
        return tell.failed("/", why).await;
    }
    tell.summary().links = 0;
    let mut files = Files::new(vfs, paths, tell);
    while let Some(some) = files.next().await {
        let pin = |cache: &Cache, stored: &Stored| {
            let pin = |key| cache.pin(&key, stored.size, &stored.url);
            stored.key.map(|key| (pin(key), present(cache, stored)))
        };
        for (item, stored, done) in with(tell, cache, some, pin).await {
            tell.found(stored.size);
            let path = item.path.as_str();
            match done {
                None => tell.file(path, Outcome::Local, stored.size).await,
                Some((Ok(()), present)) => {
                    tell.summary().cached_bytes += present;
                    tell.file(path, Outcome::Pinned, stored.size).await;
                }
                Some((Err(error), _)) => tell.failed(path, error).await,
            }
        }
    }
}

fn is_pinned(cache: &Cache, stored: &Stored) -> bool {
    stored
        .key
        .is_some_and(|key| cache.is_pinned(&key).unwrap_or(false))
}

pub(super) async fn unpin(vfs: &Arc<Vfs>, cache: &Cache, paths: Vec<String>, tell: &Arc<Teller>) {
    let mut files = Files::new(vfs, paths, tell);
    while let Some(some) = files.next().await {
        // Older versions of it too, which have its note.
        let unpin = |cache: &Cache, stored: &Stored| {
            let key = stored.key?;
            Some((
                is_pinned(cache, stored),
                cache.unpin(Some(&key), &stored.url),
            ))
        };
        for (item, stored, done) in with(tell, cache, some, unpin).await {
            tell.found(stored.size);
            let path = item.path.as_str();
            match done {
                None => tell.file(path, Outcome::Local, stored.size).await,
                Some((true, Ok(()))) => tell.file(path, Outcome::Unpinned, stored.size).await,
                Some((false, Ok(()))) => tell.file(path, Outcome::Absent, 0).await,
                Some((_, Err(error))) => tell.failed(path, error).await,
            }
        }
    }
}
