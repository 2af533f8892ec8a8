//! The rules of merging, as functions of what is known: nothing here asks or waits.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::merged::{Core, Merged, MergedGraft, Slot, Slots};
use super::{Found, LookupError, Namespace, SHORT, symlink};
use crate::catalogue::{Directory, FOREVER};
use crate::entry::{Entry, Kind};
use crate::path::{Name, RelPath};
use crate::rows::Lost;
use crate::source::{Error, Hidden, HiddenWhy};

/// A layer's share in a directory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Part {
    pub(super) layer: usize,
    /// In the layer's source.
    pub(super) path: RelPath,
}

/// The layers that may have something in a directory, the last layer first.
#[derive(Debug)]
pub(super) struct Parts {
    pub(super) list: Vec<Part>,
    /// What the catalogues' changes added up to when this was found.
    pub(super) stamp: u64,
}

/// What a part holds.
#[derive(Debug)]
pub(super) enum View {
    /// This.
    Known(Arc<Directory>),
    /// The layer clearly has no such directory.
    Nothing,
    /// The layer cannot say.
    Failed(Error),
}

/// Whether an entry of a layer counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fate {
    Shown,
    Filtered,
    Escapes,
    InTheWayOfAGraft,
}

impl Namespace {
    /// Returns whether `entry`, in `part` of directory `dir`, counts.
    pub(super) fn fate(&self, dir: &RelPath, part: &Part, entry: &Entry) -> Fate {
        let layer = &self.layers[part.layer];
        if !layer.filter.is_empty()
            && !layer
                .filter
                .shows(part.path.join(&entry.name).as_str(), entry.kind)
        {
            return Fate::Filtered;
        }
        if entry.kind == Kind::Dir {
            return Fate::Shown;
        }
        if entry.kind == Kind::Symlink
            && !layer.outward_links
            && !entry
                .target
                .as_ref()
                .is_some_and(|target| symlink::stays_inside(dir, target))
        {
            return Fate::Escapes;
        }
        let leads = self
            .leads
            .get(dir)
            .is_some_and(|lead| lead.children.binary_search(&entry.name).is_ok());
        if leads {
            return Fate::InTheWayOfAGraft;
        }
        Fate::Shown
    }

    /// Returns the parts of `child`, which is `name` of `parent`, from the parent's parts and what
    /// these hold.
    pub(super) fn descend(
        &self,
        above: &Parts,
        views: &[View],
        parent: &RelPath,
        name: &Name,
        child: &RelPath,
    ) -> Vec<Part> {
        let mut list = Vec::new();
        for (at, layer) in self.active().iter().enumerate().rev() {
            if layer.graft == *child {
                list.push(Part {
                    layer: at,
                    path: RelPath::root(),
                });
                continue;
            }
            let Some((part, view)) = above
                .list
                .iter()
                .zip(views)
                .find(|(part, _)| part.layer == at)
            else {
                continue;
            };
            let below = || Part {
                layer: at,
                path: part.path.join(name),
            };
            match view {
                View::Nothing => {}
                // Whether it has this directory is not known; it is asked for the directory itself.
                View::Failed(_) => {
                    let hidden = !layer.filter.shows(below().path.as_str(), Kind::Dir);
                    if !hidden {
                        list.push(below());
                    }
                }
                View::Known(dir) => match dir.get(name.as_str()) {
                    Ok(Some(entry)) if self.fate(parent, part, &entry) == Fate::Shown => {
                        if entry.kind != Kind::Dir {
                            break;
                        }
                        list.push(below());
                    }
                    Ok(_) => {}
                    // As a layer that cannot say.
                    Err(_) => list.push(below()),
                },
            }
        }
        list
    }

    /// Returns whether `dir` is there even if no layer says so.
    fn always_there(&self, dir: &RelPath) -> bool {
        self.leads.contains_key(dir)
    }

    /// Returns whether `listing` is how directory `dir` would be listed now, as far as memory can
    /// tell.
    pub fn is_current(&self, dir: &RelPath, listing: &Merged) -> bool {
        let Some(parts) = self.peek_parts(dir) else {
            return false;
        };
        let (mut known, mut dead) = (Vec::new(), Vec::new());
        for part in parts.list.iter() {
            match self.peek_view(part) {
                Some(View::Known(found)) => known.push((part.clone(), found)),
                Some(View::Failed(_)) => dead.push(part.layer),
                Some(View::Nothing) => {}
                None => return false,
            }
        }
        listing.core.is_of(&known, &dead)
    }

    /// Merges what the parts of `dir` hold.
    pub(super) fn merge(
        &self,
        dir: &RelPath,
        parts: &Parts,
        views: Vec<View>,
    ) -> Result<Merged, LookupError> {
        let mut degraded = Vec::new();
        let mut stale = Vec::new();
        let mut known = Vec::new();
        let mut fresh_for = FOREVER;
        for (part, view) in parts.list.iter().zip(views) {
            match view {
                View::Known(found) => {
                    fresh_for = fresh_for.min(found.fresh_for());
                    stale.extend(found.stale().map(|error| (part.layer, error.clone())));
                    known.push((part.clone(), found));
                }
                View::Nothing => fresh_for = fresh_for.min(SHORT),
                View::Failed(error) => {
                    fresh_for = fresh_for.min(SHORT);
                    if self.layers[part.layer].required {
                        return Err(LookupError::Failed {
                            layer: part.layer,
                            error,
                        });
                    }
                    degraded.push((part.layer, error));
                }
            }
        }
        let children = self.leads.get(dir).map_or(&[][..], |lead| &lead.children);
        if known.is_empty() && children.is_empty() {
            if let Some((layer, error)) = degraded.into_iter().next() {
                return Err(LookupError::Failed { layer, error });
            }
            if !self.always_there(dir) {
                return Err(LookupError::Absent { fresh_for: SHORT });
            }
            degraded = Vec::new();
        }
        let dead: Vec<usize> = degraded.iter().map(|(layer, _)| *layer).collect();
        let core = match self
            .merged
            .get(dir)
            .filter(|core| core.is_of(&known, &dead))
        {
            Some(core) => core,
            None => {
                let built = self.build(dir, known, dead, children);
                let core = Arc::new(built.map_err(|(layer, lost)| LookupError::Failed {
                    layer,
                    error: lost.into(),
                })?);
                self.merged.insert(dir.clone(), core.clone());
                core
            }
        };
        Ok(Merged {
            core,
            fresh_until: Instant::now() + fresh_for,
            degraded: degraded.into(),
            stale: stale.into(),
        })
    }

    /// Fails where a layer's listing cannot be read back.
    fn build(
        &self,
        dir: &RelPath,
        known: Vec<(Part, Arc<Directory>)>,
        dead: Vec<usize>,
        children: &[Name],
    ) -> Result<Core, (usize, Lost)> {
        let grafts: Vec<MergedGraft> = children
            .iter()
            .map(|name| MergedGraft {
                entry: Entry::dir(name.clone()),
                layer: self.leads.get(&dir.join(name)).map_or(0, |l| l.layer),
            })
            .collect();
        let mut hidden = Vec::new();
        let slots = match known.as_slice() {
            [(part, found)] if grafts.is_empty() && self.shows_all(part, found) => {
                Slots::all_of(found.len())
            }
            _ => self.merge_slots(dir, &known, &grafts, &mut hidden)?,
        };
        let hidden_here = hidden.len();
        for (part, found) in &known {
            hidden.extend(found.hidden().iter().map(|h| (part.layer, h.clone())));
        }
        Ok(Core {
            generation: self.generation(&known, &dead, children),
            known,
            dead,
            grafts,
            slots,
            hidden,
            hidden_here,
        })
    }

    /// Returns whether all that a layer has in a directory that leads to no graft counts.
    fn shows_all(&self, part: &Part, found: &Directory) -> bool {
        let layer = &self.layers[part.layer];
        layer.filter.is_empty() && (layer.outward_links || found.links() == 0)
    }

    fn merge_slots(
        &self,
        dir: &RelPath,
        known: &[(Part, Arc<Directory>)],
        grafts: &[MergedGraft],
        hidden: &mut Vec<(usize, Hidden)>,
    ) -> Result<Slots, (usize, Lost)> {
        let lost = |at: usize| move |lost| (known[at].0.layer, lost);
        let mut slots = Slots::default();
        let mut cursors = Vec::with_capacity(known.len());
        for (at, (_, found)) in known.iter().enumerate() {
            let mut entries = found.entries();
            let head = entries.next().transpose().map_err(lost(at))?;
            cursors.push((0_u32, head, entries));
        }
        let mut graft = 0;
        loop {
            // A handful of layers: looking at each beats a heap.
            let next = cursors
                .iter()
                .filter_map(|(_, head, _)| head.as_ref().map(|entry| &entry.name))
                .chain(grafts.get(graft).map(|g| &g.entry.name))
                .min();
            let Some(name) = next.cloned() else {
                return Ok(slots);
            };
            let mut slot = None;
            if grafts.get(graft).is_some_and(|g| g.entry.name == name) {
                slot = Some(Slot::graft(graft));
                graft += 1;
            }
            for (at, (index, head, entries)) in cursors.iter_mut().enumerate() {
                let Some(entry) = head.take_if(|entry| entry.name == name) else {
                    continue;
                };
                let part = &known[at].0;
                match self.fate(dir, part, &entry) {
                    Fate::Shown => {
                        slot.get_or_insert(Slot::entry(at, *index));
                    }
                    Fate::Filtered => {}
                    Fate::Escapes => hide(hidden, part, HiddenWhy::Escapes, &entry),
                    Fate::InTheWayOfAGraft => {
                        hide(hidden, part, HiddenWhy::Shadowed, &entry);
                    }
                }
                *index += 1;
                *head = entries.next().transpose().map_err(lost(at))?;
            }
            if let Some(slot) = slot {
                slots.push(slot);
            }
        }
    }

    /// Hashes all that the content follows from.
    fn generation(
        &self,
        known: &[(Part, Arc<Directory>)],
        dead: &[usize],
        children: &[Name],
    ) -> u64 {
        let mut hasher = blake3::Hasher::new();
        let mut text = |text: &str| {
            hasher.update(&(text.len() as u64).to_le_bytes());
            hasher.update(text.as_bytes());
        };
        for (part, dir) in known {
            let layer = &self.layers[part.layer];
            text("layer");
            text(layer.catalogue.source().identity());
            text(part.path.as_str());
            text(&dir.generation().to_string());
            text(if layer.outward_links { "all" } else { "inside" });
            for pattern in layer.filter.text() {
                text(pattern);
            }
        }
        for layer in dead {
            text("dead");
            text(self.layers[*layer].catalogue.source().identity());
        }
        for name in children {
            text("graft");
            text(name.as_str());
        }
        let hash = hasher.finalize();
        let mut bytes = [0; 8];
        bytes.copy_from_slice(&hash.as_bytes()[..8]);
        u64::from_le_bytes(bytes)
    }
}

fn hide(hidden: &mut Vec<(usize, Hidden)>, part: &Part, why: HiddenWhy, entry: &Entry) {
    let known = hidden
        .iter_mut()
        .find(|(layer, h)| *layer == part.layer && h.why == why);
    match known {
        Some((_, hidden)) => hidden.count += 1,
        None => hidden.push((
            part.layer,
            Hidden {
                why,
                count: 1,
                example: entry.name.as_str().escape_debug().to_string(),
            },
        )),
    }
}

/// Decides a lookup from what the parts hold, one after the other, the last layer first.
pub(super) struct Decider<'a> {
    namespace: &'a Namespace,
    dir: &'a RelPath,
    name: &'a Name,
    fresh_for: Duration,
    failed: Option<(usize, Error)>,
    found: Option<Found>,
    /// Required layers that have not answered yet.
    required: usize,
}

impl<'a> Decider<'a> {
    pub(super) fn new(
        namespace: &'a Namespace,
        dir: &'a RelPath,
        name: &'a Name,
        parts: &Parts,
    ) -> Decider<'a> {
        let required = |part: &&Part| namespace.layers[part.layer].required;
        Decider {
            namespace,
            dir,
            name,
            fresh_for: FOREVER,
            failed: None,
            found: None,
            required: parts.list.iter().filter(required).count(),
        }
    }

    /// Takes the next part into account; returns the answer once the rest cannot change it.
    pub(super) fn feed(&mut self, part: &Part, view: &View) -> Option<Result<Found, LookupError>> {
        let required = self.namespace.layers[part.layer].required;
        self.required -= usize::from(required);
        match view {
            View::Failed(error) if required => {
                return Some(Err(LookupError::Failed {
                    layer: part.layer,
                    error: error.clone(),
                }));
            }
            // Earlier layers are only asked whether the directory stands.
            _ if self.found.is_some() => {}
            View::Failed(error) => {
                self.fresh_for = self.fresh_for.min(SHORT);
                self.failed.get_or_insert((part.layer, error.clone()));
            }
            View::Nothing => self.fresh_for = self.fresh_for.min(SHORT),
            View::Known(dir) => match dir.get(self.name.as_str()) {
                Ok(Some(entry)) => {
                    self.fresh_for = self.fresh_for.min(dir.fresh_for());
                    if self.namespace.fate(self.dir, part, &entry) == Fate::Shown {
                        self.found = Some(Found {
                            entry,
                            layer: part.layer,
                            path: part.path.join(self.name),
                            fresh_for: self.fresh_for,
                            degraded: self.failed.is_some(),
                            stale: dir.stale().is_some(),
                        });
                    }
                }
                Ok(None) => self.fresh_for = self.fresh_for.min(dir.fresh_for()),
                Err(lost) => {
                    self.fresh_for = self.fresh_for.min(SHORT);
                    self.failed.get_or_insert((part.layer, lost.into()));
                }
            },
        }
        if self.required == 0 {
            return self.found.take().map(Ok);
        }
        None
    }

    /// Returns the answer after all parts.
    pub(super) fn finish(self) -> Result<Found, LookupError> {
        match (self.found, self.failed) {
            (Some(found), _) => Ok(found),
            (None, Some((layer, error))) => Err(LookupError::Failed { layer, error }),
            (None, None) => Err(LookupError::Absent {
                fresh_for: self.fresh_for.min(SHORT),
            }),
        }
    }
}
