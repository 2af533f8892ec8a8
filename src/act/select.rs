//! Finding the files that paths and patterns stand for, each once.

use std::collections::{HashSet, VecDeque};
use std::sync::Arc;

use tokio::sync::mpsc::{Receiver, Sender, channel};

use super::pattern::{Pattern, is_pattern};
use super::tell::Teller;
use crate::entry::{Entry, Kind};
use crate::namespace::{Merged, Namespace};
use crate::path::RelPath;
use crate::vfs::Vfs;

/// Files that wait for whoever works on them.
const WAITING: usize = 256;

/// Entries of a listing that are looked at together.
const BATCH: usize = 256;

/// How deep it goes. Links are not followed, so nothing real is deeper; a server may make it up.
const DEPTH: usize = 256;

/// A file that was selected.
#[derive(Debug, Clone)]
pub(super) struct Item {
    /// Where in the volume.
    pub(super) path: RelPath,
    pub(super) layer: usize,
    /// Where in the layer's source.
    pub(super) source_path: RelPath,
    pub(super) entry: Entry,
    /// Which of what was asked for it belongs to.
    pub(super) asked: usize,
}

/// What was asked for before; what it covers is not selected again.
#[derive(Default)]
struct Before {
    paths: HashSet<RelPath>,
    patterns: Vec<Pattern>,
}

impl Before {
    fn covers(&self, path: &RelPath) -> bool {
        if self.paths.contains(&RelPath::root()) {
            return true;
        }
        let mut at = Some(path.clone());
        while let Some(path) = at {
            if self.paths.contains(&path) {
                return true;
            }
            at = path.parent();
        }
        self.patterns.iter().any(|p| p.covers(path))
    }
}

/// Starts looking for the files; what cannot be looked at is told of. Ends early when the receiver
/// is dropped.
pub(super) fn start(vfs: &Arc<Vfs>, asked: Vec<String>, tell: &Arc<Teller>) -> Receiver<Item> {
    let (items, receiver) = channel(WAITING);
    let (vfs, tell) = (vfs.clone(), tell.clone());
    tokio::spawn(async move {
        let gone = items.clone();
        let mut search = Search {
            vfs: &vfs,
            tell: &tell,
            items,
            before: Before::default(),
            number: 0,
        };
        tokio::select! {
            () = search.all(&asked) => tell.all_found(),
            () = gone.closed() => {}
        }
    });
    receiver
}

struct Search<'a> {
    vfs: &'a Arc<Vfs>,
    tell: &'a Teller,
    items: Sender<Item>,
    before: Before,
    number: usize,
}

/// A directory that is being looked through.
struct Frame {
    dir: RelPath,
    listing: Merged,
    next: usize,
    batch: VecDeque<(RelPath, usize, RelPath, Entry)>,
}

impl Search<'_> {
    async fn all(&mut self, asked: &[String]) {
        for (number, text) in asked.iter().enumerate() {
            self.number = number;
            self.one(text).await;
        }
    }

    async fn one(&mut self, text: &str) {
        let literal = RelPath::new(text.trim_matches('/'));
        let found = match &literal {
            Ok(path) => self.literal(path).await,
            Err(why) => Err(why.to_string()),
        };
        match (found, literal) {
            (Ok(()), Ok(path)) => {
                self.before.paths.insert(path);
            }
            // A name may have brackets in it; what is not there by that name is a pattern.
            (Err(_), _) if is_pattern(text) => match Pattern::new(text) {
                Ok(pattern) => {
                    self.pattern(text, &pattern).await;
                    self.before.patterns.push(pattern);
                }
                Err(why) => self.tell.failed(text, format!("no pattern: {why}")).await,
            },
            (Err(why), _) => self.tell.failed(text, why).await,
            (Ok(()), Err(_)) => {}
        }
    }

    async fn literal(&mut self, path: &RelPath) -> Result<(), String> {
        let found = self.vfs.find(path).await.map_err(|e| e.to_string())?;
        match found {
            Some(found) if found.entry.kind == Kind::File => {
                self.take(path.clone(), found.layer, found.path, found.entry)
                    .await;
                Ok(())
            }
            Some(found) if found.entry.kind == Kind::Symlink => {
                let target = found.entry.target.as_deref().unwrap_or("?").to_owned();
                Err(format!(
                    "is a symbolic link to {target}; name what it leads to"
                ))
            }
            _ => {
                self.walk(path, None).await;
                Ok(())
            }
        }
    }

    async fn pattern(&mut self, text: &str, pattern: &Pattern) {
        match self.vfs.find(pattern.base()).await {
            Err(error) => self.tell.failed(text, error).await,
            Ok(_) => {
                if !self.walk(pattern.base(), Some(pattern)).await {
                    self.tell.failed(text, "nothing matches").await;
                }
            }
        }
    }

    /// Goes through a directory and all below it, or what of it matches. Returns whether there was
    /// something, or that cannot be told.
    async fn walk(&mut self, top: &RelPath, pattern: Option<&Pattern>) -> bool {
        let namespace: &Namespace = self.vfs.namespace();
        let mut is_something = false;
        let mut frames: Vec<Frame> = Vec::new();
        let mut enter = Some(top.clone());
        loop {
            if let Some(dir) = enter.take() {
                match namespace.list(&dir).await {
                    Ok(listing) => {
                        for (layer, error) in listing.degraded() {
                            is_something = true;
                            let layer = &namespace.layers()[*layer].name;
                            let why =
                                format!("layer {layer} cannot say what it has there: {error}");
                            self.tell.failed(&shown(&dir), why).await;
                        }
                        frames.push(Frame {
                            dir,
                            listing,
                            next: 0,
                            batch: VecDeque::new(),
                        });
                    }
                    Err(error) => {
                        is_something = true;
                        self.tell.failed(&shown(&dir), error).await;
                    }
                }
            }
            let depth = frames.len();
            let Some(frame) = frames.last_mut() else {
                return is_something;
            };
            if let Err(error) = frame.fill() {
                is_something = true;
                self.tell.failed(&shown(&frame.dir), error).await;
            }
            let Some((path, layer, source_path, entry)) = frame.batch.pop_front() else {
                frames.pop();
                continue;
            };
            let is_wanted = pattern.is_none_or(|p| p.covers(&path));
            match entry.kind {
                Kind::Dir if is_wanted || pattern.is_some_and(|p| p.leads_into(&path)) => {
                    is_something |= is_wanted;
                    if depth < DEPTH {
                        enter = Some(path);
                    } else {
                        self.tell.failed(&shown(&path), "too deep").await;
                    }
                }
                Kind::File if is_wanted => {
                    is_something = true;
                    self.take(path, layer, source_path, entry).await;
                }
                Kind::Symlink if is_wanted => {
                    is_something = true;
                    self.tell.summary().links += 1;
                }
                _ => {}
            }
        }
    }

    async fn take(&mut self, path: RelPath, layer: usize, source_path: RelPath, entry: Entry) {
        if self.before.covers(&path) {
            return;
        }
        let asked = self.number;
        let item = Item {
            path,
            layer,
            source_path,
            entry,
            asked,
        };
        // Whoever takes them has gone: this is dropped soon.
        let _ = self.items.send(item).await;
    }
}

impl Frame {
    /// Takes the next entries out of the listing, if none is left. After an error there are none.
    fn fill(&mut self) -> Result<(), String> {
        if !self.batch.is_empty() {
            return Ok(());
        }
        for merged in self.listing.iter_from(self.next).take(BATCH) {
            self.next += 1;
            match merged {
                Ok(merged) => {
                    let path = self.dir.join(&merged.entry.name);
                    let there = merged.path_at(&self.dir, &path);
                    self.batch
                        .push_back((path, merged.layer, there, merged.entry));
                }
                Err(error) => {
                    self.next = usize::MAX;
                    return Err(error.to_string());
                }
            }
        }
        Ok(())
    }
}

/// A directory as it is told of; the root too.
fn shown(path: &RelPath) -> String {
    match path.is_root() {
        true => "/".into(),
        false => path.as_str().to_owned(),
    }
}
