//! Fetching files before anybody reads them.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use bytesize::ByteSize;
use futures::StreamExt;
use svol_cache::{Cache, Object};
use tokio::sync::Semaphore;

use super::select::{self, Item};
use super::tell::Teller;
use super::{MOST_JOBS, Outcome};
use crate::vfs::{Brought, Vfs};

/// Files that came and may not be on disk yet, before it is waited for that.
const UNSETTLED: usize = 256;

/// A file that came, and may still be on its way to the disk.
struct Came {
    path: String,
    object: Object,
    missing: u64,
}

struct Warming<'a> {
    vfs: &'a Arc<Vfs>,
    cache: &'a Cache,
    tell: &'a Teller,
    turns: Semaphore,
    /// What was selected so far, and what the cache holds at most, in bytes.
    selected: Mutex<u64>,
    capacity: u64,
    is_over: AtomicBool,
    unsettled: Mutex<Vec<Came>>,
}

pub(super) async fn warm(
    vfs: &Arc<Vfs>,
    cache: &Cache,
    paths: Vec<String>,
    jobs: usize,
    tell: &Arc<Teller>,
) {
    let jobs = jobs.clamp(1, MOST_JOBS);
    let warming = Warming {
        vfs,
        cache,
        tell,
        turns: Semaphore::new(jobs),
        selected: Mutex::new(0),
        capacity: cache.capacity(),
        is_over: AtomicBool::new(false),
        unsettled: Mutex::default(),
    };
    if warming.capacity == 0 {
        tell.failed("/", "the cache keeps nothing on disk; see `svol status`")
            .await;
        return;
    }
    let mut items = select::start(vfs, paths, tell);
    let items = futures::stream::poll_fn(move |context| items.poll_recv(context));
    // One more than there are requests: the next file is being opened meanwhile.
    let mut files = items
        .take_while(|_| std::future::ready(!warming.is_over.load(Ordering::Relaxed)))
        .map(|item| warming.one(item))
        .buffer_unordered(jobs + 1);
    while let Some(()) = files.next().await {}
    warming.settle().await;
}

impl Warming<'_> {
    async fn one(&self, item: Item) {
        let path = item.path.as_str();
        let stored = self
            .vfs
            .stored(item.layer, &item.source_path, &item.entry)
            .await;
        let stored = match stored {
            Ok(stored) => stored,
            Err(error) => return self.tell.failed(path, error).await,
        };
        self.tell.found(stored.size);
        if stored.key.is_none() {
            self.tell.passed(stored.size);
            return self.tell.file(path, Outcome::Local, stored.size).await;
        }
        let selected = {
            let mut selected = self.selected.lock().unwrap_or_else(PoisonError::into_inner);
            *selected = selected.saturating_add(stored.size);
            *selected
        };
        if selected > self.capacity {
            if !self.is_over.swap(true, Ordering::Relaxed) {
                let why = format!(
                    "with this file it is {} or more, and the cache keeps {} at most; nothing \
                     further is fetched: allow it more (--cache-size), or name less",
                    size(selected),
                    size(self.capacity)
                );
                self.tell.failed(path, why).await;
            }
            return;
        }
        let came = |bytes| self.tell.passed(bytes);
        match self.vfs.bring(&item.path, &self.turns, came).await {
            Err(error) => self.tell.failed(path, error).await,
            Ok(Brought::Local) => self.tell.file(path, Outcome::Local, stored.size).await,
            Ok(Brought::Here { object, missing }) => {
                self.tell.passed(stored.size.saturating_sub(missing));
                self.unsettled().push(Came {
                    path: path.to_owned(),
                    object,
                    missing,
                });
                // A large one is on disk as it comes, and is told of at once.
                let is_many = self.unsettled().len() >= UNSETTLED;
                if is_many || (missing > 0 && stored.size > svol_cache::SMALL) {
                    self.settle().await;
                }
            }
        }
    }

    fn unsettled(&self) -> std::sync::MutexGuard<'_, Vec<Came>> {
        self.unsettled
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    /// Tells of what came, once it is on disk.
    async fn settle(&self) {
        let came = std::mem::take(&mut *self.unsettled());
        if came.is_empty() {
            return;
        }
        let cache = self.cache.clone();
        let looking = move || {
            let _ = cache.flush();
            let is_kept = |came: &Came| came.object.is_complete();
            came.into_iter()
                .map(|came| (is_kept(&came), came))
                .collect::<Vec<_>>()
        };
        let looked = match tokio::task::spawn_blocking(looking).await {
            Ok(looked) => looked,
            Err(error) => return self.tell.failed("/", error).await,
        };
        for (is_kept, came) in looked {
            let Came {
                path,
                object,
                missing,
            } = came;
            if is_kept {
                let (outcome, bytes) = match missing {
                    0 => (Outcome::Here, object.size()),
                    _ => (Outcome::Fetched, missing),
                };
                self.tell.file(&path, outcome, bytes).await;
            } else {
                let why = "it came, but the cache could not keep it: no room beside what is \
                           pinned or open, or the disk refused (see `svol status`)";
                self.tell.failed(&path, why).await;
            }
        }
    }
}

pub(super) fn size(bytes: u64) -> String {
    ByteSize(bytes).display().iec().to_string()
}
