//! The volume's tree: layers merged, later over earlier.
//!
//! Rules, from the last layer to the first:
//!
//! - Directories of one name merge. A file or symbolic link hides what earlier layers have at its
//!   place, a directory with all in it included.
//! - The places where layers are grafted, and the directories that lead there, are always
//!   directories; a file in such a place is hidden and counted.
//! - What a layer's [`Filter`] hides, or a symbolic link that leads out of the volume, is as if it
//!   were not there: an earlier layer shows through.
//! - A layer that cannot say what it has in a directory (*dead* there) takes nothing from the
//!   others: their names are listed and served, for a second at a time. A name that none of them
//!   has is an error then, never an absence. A layer that is [`Layer::required`] fails the
//!   directory instead.
//!
//! Behind the layers may be *retired* ones: of a volume that another took the place of while it was
//! mounted. No name leads to them; who holds a file of theirs reads on.
//!
//! A directory's *parts* are the layers that may have something in it, each with its own path, the
//! last layer first. They follow from the parent's parts and are kept until a catalogue changes
//! ([`Catalogue::changes`]).
//!
//! The rules themselves are in `merge`, without a request or a wait; this module asks the
//! catalogues. No lock is held across an await; the caches' own are leaves.

mod explain;
#[cfg(feature = "failpoints")]
pub(crate) mod fuzzing {
    pub(crate) use super::symlink::stays_inside;
}
mod merge;
mod merged;
mod symlink;
#[cfg(test)]
mod tests;

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;
use futures::stream::FuturesOrdered;

pub use explain::{LayerView, Verdict};
pub use merged::{Merged, MergedEntry};

use crate::catalogue::{Catalogue, FOREVER, Listener, RefreshReport};
use crate::entry::{Entry, Kind};
use crate::filter::Filter;
use crate::path::{Name, RelPath};
use crate::source::{Error, ErrorKind};
use merge::{Decider, Part, Parts, View};
use merged::Core;

/// How long an answer may be relied on that a dead layer could contradict, or that says that
/// something is not there.
const SHORT: Duration = Duration::from_secs(1);

/// Directories whose parts are kept at most, and what each takes in bytes.
const PARTS: u64 = 50_000;
const PART: u64 = 512;

/// Bytes of merged listings that are kept unless said otherwise, with the directories that they
/// refer to.
const MERGED: u64 = 32 * 1024 * 1024;

/// A source's place in the volume.
#[derive(Debug, Clone)]
pub struct Layer {
    /// What users call it.
    pub name: String,
    /// What its source holds.
    pub catalogue: Arc<Catalogue>,
    /// Where in the volume the source's root is.
    pub graft: RelPath,
    /// What of it is shown.
    pub filter: Filter,
    /// Whether a directory fails when this layer cannot list its part of it.
    pub required: bool,
    /// Whether symbolic links are shown that may lead out of the volume.
    pub outward_links: bool,
}

impl Layer {
    /// Returns a layer that shows all of `catalogue` at the volume's root.
    pub fn new(name: impl Into<String>, catalogue: Arc<Catalogue>) -> Layer {
        Layer {
            name: name.into(),
            catalogue,
            graft: RelPath::root(),
            filter: Filter::default(),
            required: false,
            outward_links: false,
        }
    }
}

/// A name of the volume that is there.
#[derive(Debug, Clone)]
pub struct Found {
    /// What it is.
    pub entry: Entry,
    /// The layer that provides it: its position in [`Namespace::layers`]. For a directory that
    /// leads to a graft, a layer that is grafted there.
    pub layer: usize,
    /// Where it is in the layer's source.
    pub path: RelPath,
    /// How long this may be relied on without looking again.
    pub fresh_for: Duration,
    /// Whether a later layer could not be asked and may hide this.
    pub degraded: bool,
    /// Whether the listing that names this is older than it should be.
    pub stale: bool,
}

/// Why a name or directory of the volume is not returned.
#[derive(Debug, Clone, thiserror::Error)]
pub enum LookupError {
    /// No layer has it, and all were asked.
    #[error("no layer has it")]
    Absent {
        /// How long this may be relied on; a second at most.
        fresh_for: Duration,
    },
    /// No layer that could be asked has it, but one could not be asked.
    #[error("layer {layer}: {error}")]
    Failed {
        /// The layer, by its position in [`Namespace::layers`].
        layer: usize,
        /// What went wrong; never of the kind that becomes ENOENT.
        error: Error,
    },
}

/// A directory that leads to grafts.
#[derive(Debug, Default)]
struct Leads {
    /// The next components, sorted.
    children: Vec<Name>,
    /// The last layer that is grafted here or below.
    layer: usize,
}

/// The merged tree.
#[derive(Debug)]
pub struct Namespace {
    layers: Vec<Layer>,
    /// How many of them are merged; the others, behind them, are retired.
    active: usize,
    /// All directories that lead to a graft or are one, the root among them.
    leads: HashMap<RelPath, Leads>,
    parts: moka::sync::Cache<RelPath, Arc<Parts>>,
    merged: moka::sync::Cache<RelPath, Arc<Core>>,
}

impl Namespace {
    /// Returns the merge of `layers`, later over earlier.
    pub fn new(layers: Vec<Layer>) -> Namespace {
        Namespace::within(layers, MERGED)
    }

    /// As [`Namespace::new`], with about `memory` bytes for what merging found.
    pub fn within(layers: Vec<Layer>, memory: u64) -> Namespace {
        Namespace::with_retired(layers, Vec::new(), memory)
    }

    /// As [`Namespace::within`], with layers that no name leads to, for files of theirs that are
    /// open.
    pub fn with_retired(mut layers: Vec<Layer>, retired: Vec<Layer>, memory: u64) -> Namespace {
        let parts = (memory / 3 / PART).min(PARTS);
        let merged = memory - parts * PART;
        let mut leads: HashMap<RelPath, Leads> = HashMap::new();
        leads.entry(RelPath::root()).or_default();
        for (at, layer) in layers.iter().enumerate() {
            let mut path = layer.graft.clone();
            // In the order of layers, so that the last one stays.
            leads.entry(path.clone()).or_default().layer = at;
            while let (Some(parent), Some(name)) = (path.parent(), path.file_name()) {
                let lead = leads.entry(parent.clone()).or_default();
                lead.layer = at;
                if let Err(place) = lead.children.binary_search(&name) {
                    lead.children.insert(place, name);
                }
                path = parent;
            }
        }
        let active = layers.len();
        layers.extend(retired);
        Namespace {
            layers,
            active,
            leads,
            parts: moka::sync::Cache::builder().max_capacity(parts).build(),
            merged: moka::sync::Cache::builder()
                .max_capacity(merged)
                .weigher(move |path: &RelPath, core: &Arc<Core>| {
                    // One that is larger than half of all counts as half, so that it is kept.
                    let weight = (core.weight() + path.as_str().len()) as u64;
                    u32::try_from(weight.min(merged / 2)).unwrap_or(u32::MAX)
                })
                .build(),
        }
    }

    /// Returns the layers, the first one lowest, and behind them the retired ones.
    pub fn layers(&self) -> &[Layer] {
        &self.layers
    }

    /// Returns the layers that are merged, the first one lowest.
    pub fn active(&self) -> &[Layer] {
        &self.layers[..self.active]
    }

    /// Returns about how many bytes are held of what merging found.
    pub fn memory_used(&self) -> u64 {
        self.merged.weighted_size() + self.parts.entry_count() * PART
    }

    /// Lets `listener` know which names of which directories of the volume have changed, from now
    /// on. It is called on a worker of the runtime with no lock held, and must not block.
    pub fn set_listener(&self, listener: Listener) {
        for layer in self.active() {
            let (graft, listener) = (layer.graft.clone(), listener.clone());
            layer.catalogue.add_listener(Arc::new(move |dir, names| {
                listener(&graft.concat(dir), names);
            }));
        }
    }

    /// As [`Namespace::lookup`], if memory alone can tell. Never waits: for the kernel's threads.
    pub fn peek_lookup(&self, dir: &RelPath, name: &Name) -> Option<Result<Found, LookupError>> {
        if let Some(found) = self.lead(dir, name) {
            return Some(Ok(found));
        }
        let parts = self.peek_parts(dir)?;
        let mut decider = Decider::new(self, dir, name, &parts);
        for part in &parts.list {
            let view = self.peek_view(part)?;
            if let Some(decided) = decider.feed(part, &view) {
                return Some(decided);
            }
        }
        Some(decider.finish())
    }

    /// Returns what `name` of directory `dir` is. Asks the layers at once, and waits for no more of
    /// them than it takes to tell.
    pub async fn lookup(&self, dir: &RelPath, name: &Name) -> Result<Found, LookupError> {
        if let Some(found) = self.lead(dir, name) {
            return Ok(found);
        }
        let parts = self.parts(dir).await;
        let mut decider = Decider::new(self, dir, name, &parts);
        let mut views: FuturesOrdered<_> = parts
            .list
            .iter()
            .map(|part| async move { (part, self.view(part).await) })
            .collect();
        while let Some((part, view)) = views.next().await {
            if let Some(decided) = decider.feed(part, &view) {
                return decided;
            }
        }
        decider.finish()
    }

    /// As [`Namespace::list`], if memory alone can tell. Never waits for a source, but merges if
    /// that was not done yet: for large directories, milliseconds.
    pub fn peek_list(&self, dir: &RelPath) -> Option<Result<Merged, LookupError>> {
        let parts = self.peek_parts(dir)?;
        let views: Option<Vec<View>> = parts.list.iter().map(|p| self.peek_view(p)).collect();
        Some(self.merge(dir, &parts, views?))
    }

    /// Returns what directory `dir` of the volume holds. Fails if no layer can tell, or if a
    /// required one cannot.
    pub async fn list(&self, dir: &RelPath) -> Result<Merged, LookupError> {
        let parts = self.parts(dir).await;
        let views = self.views(&parts).await;
        self.merge(dir, &parts, views)
    }

    /// Takes note that a reader opened a directory and got `listing`: whoever walks the tree finds
    /// what comes next listed. Never waits; what has to be asked runs on `runtime`.
    pub fn opened(&self, listing: &Merged, runtime: &tokio::runtime::Handle) {
        for (part, known) in &listing.core.known {
            let catalogue = &self.layers[part.layer].catalogue;
            catalogue.opened(&part.path, known, runtime);
        }
    }

    /// Returns the layers that have something in directory `dir` and where, the last layer first,
    /// as far as memory can tell.
    pub fn peek_sources(&self, dir: &RelPath) -> Vec<(usize, RelPath)> {
        let Some(parts) = self.peek_parts(dir) else {
            return Vec::new();
        };
        parts
            .list
            .iter()
            .filter(|part| matches!(self.peek_view(part), Some(View::Known(_))))
            .map(|part| (part.layer, part.path.clone()))
            .collect()
    }

    /// Returns what is at `path`, component by component; nothing for the root, which has no name
    /// and is always there.
    pub async fn walk(&self, path: &RelPath) -> Result<Option<Found>, LookupError> {
        let mut dir = RelPath::root();
        let mut found: Option<Found> = None;
        for name in path.components() {
            if let Some(above) = found.filter(|found| found.entry.kind != Kind::Dir) {
                return Err(LookupError::Absent {
                    fresh_for: above.fresh_for.min(SHORT),
                });
            }
            found = Some(match self.peek_lookup(&dir, &name) {
                Some(result) => result?,
                None => self.lookup(&dir, &name).await?,
            });
            dir = dir.join(&name);
        }
        Ok(found)
    }

    /// Returns `found` with the exact size, asking its source if the listing did not say.
    pub async fn resolve(&self, found: &Found) -> Result<Found, Error> {
        let (Some(layer), Some(dir)) = (self.layers.get(found.layer), found.path.parent()) else {
            return Ok(found.clone());
        };
        if found.entry.size.is_some() || found.entry.kind == Kind::Dir {
            return Ok(found.clone());
        }
        let entry = layer.catalogue.resolve(&dir, &found.entry.name).await?;
        Ok(Found {
            entry,
            ..found.clone()
        })
    }

    /// Lists the directory at `path` again in every layer that has it, and if `recursive` all that
    /// is known below it. A file's directory is listed in its stead; and where nothing is at
    /// `path` yet, first the directories that lead there.
    pub async fn refresh(&self, path: &RelPath, recursive: bool) -> RefreshReport {
        let mut report = RefreshReport::default();
        let mut dir = RelPath::root();
        for name in path.components() {
            let mut found = self.lookup(&dir, &name).await;
            if matches!(found, Err(LookupError::Absent { .. })) {
                report.merge(self.refresh_dir(&dir, false).await);
                found = self.lookup(&dir, &name).await;
            }
            match found {
                Ok(found) if found.entry.kind == Kind::Dir => dir = dir.join(&name),
                _ => return report_or(report, self.refresh_dir(&dir, false)).await,
            }
        }
        report.merge(self.refresh_dir(&dir, recursive).await);
        report
    }

    async fn refresh_dir(&self, dir: &RelPath, recursive: bool) -> RefreshReport {
        let parts = self.parts(dir).await;
        let mut places: Vec<(usize, RelPath)> = parts
            .list
            .iter()
            .map(|part| (part.layer, part.path.clone()))
            .collect();
        if recursive {
            let below = self.active().iter().enumerate().filter(|(_, layer)| {
                layer.graft != *dir && layer.graft.strip_prefix(dir).is_some()
            });
            places.extend(below.map(|(at, _)| (at, RelPath::root())));
        }
        let reports = places.iter().map(|(layer, path)| {
            let catalogue = &self.layers[*layer].catalogue;
            catalogue.refresh(path, recursive)
        });
        let mut sum = RefreshReport::default();
        for report in futures::future::join_all(reports).await {
            sum.merge(report);
        }
        sum
    }

    /// Returns the directory `name` of `dir` if it leads to a graft: it is there whatever the
    /// layers say, and so none is asked.
    fn lead(&self, dir: &RelPath, name: &Name) -> Option<Found> {
        self.leads.get(dir)?.children.binary_search(name).ok()?;
        let lead = self.leads.get(&dir.join(name))?;
        Some(Found {
            entry: Entry::dir(name.clone()),
            layer: lead.layer,
            path: RelPath::root(),
            fresh_for: FOREVER,
            degraded: false,
            stale: false,
        })
    }

    /// Returns a number that grows whenever a layer's content is found changed.
    fn stamp(&self) -> u64 {
        self.active().iter().map(|l| l.catalogue.changes()).sum()
    }

    fn known_parts(&self, dir: &RelPath, stamp: u64) -> Option<Arc<Parts>> {
        self.parts.get(dir).filter(|parts| parts.stamp == stamp)
    }

    fn peek_parts(&self, dir: &RelPath) -> Option<Arc<Parts>> {
        let stamp = self.stamp();
        if let Some(parts) = self.known_parts(dir, stamp) {
            return Some(parts);
        }
        let list = match (dir.parent(), dir.file_name()) {
            (Some(parent), Some(name)) => {
                let above = self.peek_parts(&parent)?;
                let views: Option<Vec<View>> =
                    above.list.iter().map(|p| self.peek_view(p)).collect();
                self.descend(&above, &views?, &parent, &name, dir)
            }
            _ => self.at_root(),
        };
        Some(self.keep_parts(dir, stamp, list))
    }

    async fn parts(&self, dir: &RelPath) -> Arc<Parts> {
        // Before anything is read, so that a change in the meantime makes the result void.
        let stamp = self.stamp();
        let mut todo = Vec::new();
        let mut at = dir.clone();
        let mut parts = loop {
            if let Some(parts) = self.known_parts(&at, stamp) {
                break parts;
            }
            match (at.parent(), at.file_name()) {
                (Some(parent), Some(name)) => {
                    todo.push(name);
                    at = parent;
                }
                _ => break self.keep_parts(&at, stamp, self.at_root()),
            }
        };
        while let Some(name) = todo.pop() {
            let views = self.views(&parts).await;
            let child = at.join(&name);
            let list = self.descend(&parts, &views, &at, &name, &child);
            parts = self.keep_parts(&child, stamp, list);
            at = child;
        }
        parts
    }

    fn keep_parts(&self, dir: &RelPath, stamp: u64, list: Vec<Part>) -> Arc<Parts> {
        let parts = Arc::new(Parts { list, stamp });
        self.parts.insert(dir.clone(), parts.clone());
        parts
    }

    fn at_root(&self) -> Vec<Part> {
        (0..self.active)
            .rev()
            .filter(|at| self.layers[*at].graft.is_root())
            .map(|layer| Part {
                layer,
                path: RelPath::root(),
            })
            .collect()
    }

    fn peek_view(&self, part: &Part) -> Option<View> {
        let answer = self.layers[part.layer].catalogue.peek_result(&part.path)?;
        Some(View::of(part, answer))
    }

    async fn view(&self, part: &Part) -> View {
        let answer = self.layers[part.layer].catalogue.dir(&part.path).await;
        View::of(part, answer)
    }

    async fn views(&self, parts: &Parts) -> Vec<View> {
        futures::future::join_all(parts.list.iter().map(|part| self.view(part))).await
    }
}

async fn report_or(
    mut report: RefreshReport,
    more: impl Future<Output = RefreshReport>,
) -> RefreshReport {
    report.merge(more.await);
    report
}

impl View {
    fn of(part: &Part, answer: crate::source::Result<Arc<crate::catalogue::Directory>>) -> View {
        match answer {
            Ok(dir) => View::Known(dir),
            Err(error) if error.kind() != ErrorKind::NotFound => View::Failed(error),
            // A source without a root is no absence of whatever name is looked for.
            Err(error) if part.path.is_root() => View::Failed(Error::new(
                ErrorKind::Invalid,
                format!("the source's root is not there: {error}"),
            )),
            Err(_) => View::Nothing,
        }
    }
}
