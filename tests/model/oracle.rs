//! The plain model: what a volume shows, computed from what its sources were heard to say.
//!
//! Written from the rules in docs/SEMANTICS.md, not from the code: maps of strings, no cache, no
//! sharing, no laziness.

use std::collections::{BTreeMap, BTreeSet};

/// What an entry is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum What {
    Dir,
    File,
    Link,
}

/// An entry as its source told of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Row {
    pub what: What,
    /// The version that the listing gave.
    pub listed: String,
    /// The version that the bytes have; nothing if the listing was too coarse to tell.
    pub token: Option<String>,
    /// A link's target.
    pub target: String,
}

/// What a source said of a directory when it was last asked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Answer {
    Gone,
    Listed(BTreeMap<String, Row>),
}

/// What one source was heard to say, by directory.
pub type Heard = BTreeMap<String, Answer>;

/// What the model says of a name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Expect {
    /// It leads to a graft.
    Lead,
    Found {
        layer: usize,
        path: String,
        row: Row,
    },
    Absent,
    /// Nobody can know while this layer is away.
    Failed,
}

/// What the model says of a directory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ExpectList {
    /// Names, their kind, and the version of files and links where known.
    Names(BTreeMap<String, (What, Option<String>)>),
    Absent,
    Failed,
}

enum View<'a> {
    Known(&'a BTreeMap<String, Row>),
    Nothing,
    Unknown,
}

/// The model of a volume at one moment.
pub struct Oracle<'a> {
    /// Where each layer is grafted.
    pub grafts: &'a [String],
    pub heard: &'a [Heard],
    /// Layers whose "there is no such directory" may have been forgotten again.
    pub doubt_gone: &'a [bool],
}

impl Oracle<'_> {
    fn view(&self, layer: usize, dir: &str) -> View<'_> {
        match self.heard[layer].get(dir) {
            Some(Answer::Listed(rows)) => View::Known(rows),
            Some(Answer::Gone) if !self.doubt_gone[layer] => View::Nothing,
            _ => View::Unknown,
        }
    }

    /// The names in `dir` that lead to grafts.
    fn leads(&self, dir: &str) -> BTreeSet<String> {
        let below = |graft: &String| {
            let rest = match dir {
                "" => graft.as_str(),
                _ => graft.strip_prefix(dir)?.strip_prefix('/')?,
            };
            let first = rest.split('/').next()?;
            (!first.is_empty()).then(|| first.to_owned())
        };
        self.grafts.iter().filter_map(below).collect()
    }

    fn shown(&self, dir: &str, name: &str, row: &Row) -> bool {
        match row.what {
            What::Dir => true,
            What::Link if escapes(dir, &row.target) => false,
            _ => !self.leads(dir).contains(name),
        }
    }

    /// The layers that have a share in `dir`, the last one first, and where in their source.
    fn parts(&self, dir: &str) -> Vec<(usize, String)> {
        let mut parts: Vec<(usize, String)> = (0..self.grafts.len())
            .rev()
            .filter(|l| self.grafts[*l].is_empty())
            .map(|l| (l, String::new()))
            .collect();
        let mut at = String::new();
        for name in dir.split('/').filter(|n| !n.is_empty()) {
            let child = join(&at, name);
            let mut next = Vec::new();
            for layer in (0..self.grafts.len()).rev() {
                if self.grafts[layer] == child {
                    next.push((layer, String::new()));
                    continue;
                }
                let Some((_, path)) = parts.iter().find(|(l, _)| *l == layer) else {
                    continue;
                };
                match self.view(layer, path) {
                    View::Nothing => {}
                    View::Unknown => next.push((layer, join(path, name))),
                    View::Known(rows) => match rows.get(name) {
                        Some(row) if row.what == What::Dir => next.push((layer, join(path, name))),
                        // A file hides all that earlier layers have there.
                        Some(row) if self.shown(&at, name, row) => break,
                        _ => {}
                    },
                }
            }
            parts = next;
            at = child;
        }
        parts
    }

    /// What `name` of `dir` is.
    pub fn lookup(&self, dir: &str, name: &str) -> Expect {
        if self.leads(dir).contains(name) {
            return Expect::Lead;
        }
        let mut failed = false;
        for (layer, path) in self.parts(dir) {
            match self.view(layer, &path) {
                View::Nothing => {}
                View::Unknown => failed = true,
                View::Known(rows) => {
                    if let Some(row) = rows.get(name).filter(|r| self.shown(dir, name, r)) {
                        return Expect::Found {
                            layer,
                            path: join(&path, name),
                            row: row.clone(),
                        };
                    }
                }
            }
        }
        if failed {
            Expect::Failed
        } else {
            Expect::Absent
        }
    }

    /// What is at `path`, component by component.
    pub fn walk(&self, path: &str) -> Expect {
        let mut dir = String::new();
        let mut at = Expect::Lead;
        for name in path.split('/').filter(|n| !n.is_empty()) {
            if let Expect::Found { row, .. } = &at
                && row.what != What::Dir
            {
                return Expect::Absent;
            }
            at = self.lookup(&dir, name);
            if matches!(at, Expect::Absent | Expect::Failed) {
                return at;
            }
            dir = join(&dir, name);
        }
        at
    }

    /// What `dir` lists.
    pub fn list(&self, dir: &str) -> ExpectList {
        let leads = self.leads(dir);
        let graft = self.grafts.iter().any(|g| g == dir) || dir.is_empty() || !leads.is_empty();
        let mut names: BTreeMap<String, (What, Option<String>)> = BTreeMap::new();
        for name in &leads {
            names.insert(name.clone(), (What::Dir, None));
        }
        let (mut known, mut failed) = (false, false);
        for (layer, path) in self.parts(dir) {
            match self.view(layer, &path) {
                View::Nothing => {}
                View::Unknown => failed = true,
                View::Known(rows) => {
                    known = true;
                    for (name, row) in rows {
                        if self.shown(dir, name, row) && !names.contains_key(name) {
                            let token = row.token.clone().filter(|_| row.what != What::Dir);
                            names.insert(name.clone(), (row.what, token));
                        }
                    }
                }
            }
        }
        if !known && leads.is_empty() {
            if failed {
                return ExpectList::Failed;
            }
            if !graft {
                return ExpectList::Absent;
            }
        }
        ExpectList::Names(names)
    }

    /// All directories of the volume.
    pub fn dirs(&self) -> Vec<String> {
        let mut todo = vec![String::new()];
        let mut all = Vec::new();
        while let Some(dir) = todo.pop() {
            if let ExpectList::Names(names) = self.list(&dir) {
                let below = names.iter().filter(|(_, (what, _))| *what == What::Dir);
                todo.extend(below.map(|(name, _)| join(&dir, name)));
                all.push(dir);
            }
        }
        all
    }
}

fn escapes(dir: &str, target: &str) -> bool {
    let depth = dir.split('/').filter(|n| !n.is_empty()).count();
    target.starts_with('/') || target.split('/').filter(|n| *n == "..").count() > depth
}

pub fn join(dir: &str, name: &str) -> String {
    match dir {
        "" => name.to_owned(),
        _ => format!("{dir}/{name}"),
    }
}

pub fn split(path: &str) -> (&str, &str) {
    path.rsplit_once('/').unwrap_or(("", path))
}
