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

/// The names of a directory, as [`ExpectList`] has them.
pub type Rows = BTreeMap<String, (What, Option<(usize, String)>)>;

/// What the model says of a directory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ExpectList {
    /// Names, their kind, and the layer and version of files and links where known.
    Names(Rows),
    Absent,
    Failed,
}

enum View<'a> {
    Known(&'a BTreeMap<String, Row>),
    Nothing,
    Unknown,
}

/// What a user wrote of a layer.
#[derive(Debug, Clone)]
pub struct Rule {
    pub graft: String,
    pub include: &'static [&'static str],
    pub exclude: &'static [&'static str],
    pub required: bool,
}

impl Rule {
    /// Whether the filters let through what is at `path` of the layer, where its parent is shown.
    fn passes(&self, path: &str, is_dir: bool) -> bool {
        let any = |globs: &[&str]| globs.iter().any(|glob| covers(glob, path, is_dir));
        !any(self.exclude) && (is_dir || self.include.is_empty() || any(self.include))
    }
}

/// Whether `glob` matches `path` or a directory that it is in.
fn covers(glob: &str, path: &str, is_dir: bool) -> bool {
    let (body, dirs_only) = match glob.strip_suffix('/') {
        Some(body) => (body, true),
        None => (glob, false),
    };
    let wanted: Vec<&str> = body.trim_start_matches('/').split('/').collect();
    let names: Vec<&str> = path.split('/').collect();
    (1..=names.len()).any(|len| {
        let of_dirs = is_dir || len < names.len();
        let from = if body.contains('/') {
            0
        } else {
            len.saturating_sub(wanted.len())
        };
        let same = |(want, name): (&&str, &&str)| *want == "*" || want == name;
        len - from == wanted.len()
            && (of_dirs || !dirs_only)
            && wanted.iter().zip(&names[from..len]).all(same)
    })
}

/// The model of a volume at one moment.
pub struct Oracle<'a> {
    pub layers: &'a [Rule],
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
        let grafts = self.layers.iter().map(|layer| &layer.graft);
        grafts.filter_map(below).collect()
    }

    /// Whether `name` of directory `dir` of the volume, which is at `path` of a layer, is shown.
    fn shown(&self, layer: usize, path: &str, (dir, name): (&str, &str), row: &Row) -> bool {
        if !self.layers[layer].passes(&join(path, name), row.what == What::Dir) {
            return false;
        }
        match row.what {
            What::Dir => true,
            What::Link if escapes(dir, &row.target) => false,
            _ => !self.leads(dir).contains(name),
        }
    }

    /// The layers that have a share in `dir`, the last one first, and where in their source.
    fn parts(&self, dir: &str) -> Vec<(usize, String)> {
        let mut parts: Vec<(usize, String)> = (0..self.layers.len())
            .rev()
            .filter(|l| self.layers[*l].graft.is_empty())
            .map(|l| (l, String::new()))
            .collect();
        let mut at = String::new();
        for name in dir.split('/').filter(|n| !n.is_empty()) {
            let child = join(&at, name);
            let mut next = Vec::new();
            for layer in (0..self.layers.len()).rev() {
                if self.layers[layer].graft == child {
                    next.push((layer, String::new()));
                    continue;
                }
                let Some((_, path)) = parts.iter().find(|(l, _)| *l == layer) else {
                    continue;
                };
                match self.view(layer, path) {
                    View::Nothing => {}
                    View::Unknown => {
                        if self.layers[layer].passes(&join(path, name), true) {
                            next.push((layer, join(path, name)));
                        }
                    }
                    View::Known(rows) => match rows.get(name) {
                        Some(row) if !self.shown(layer, path, (&at, name), row) => {}
                        Some(row) if row.what == What::Dir => next.push((layer, join(path, name))),
                        // A file hides all that earlier layers have there.
                        Some(_) => break,
                        None => {}
                    },
                }
            }
            parts = next;
            at = child;
        }
        parts
    }

    /// Whether a layer cannot say what it has here that the volume is not to be shown without.
    fn lacks_required(&self, parts: &[(usize, String)]) -> bool {
        parts.iter().any(|(layer, path)| {
            self.layers[*layer].required && matches!(self.view(*layer, path), View::Unknown)
        })
    }

    /// What `name` of `dir` is.
    pub fn lookup(&self, dir: &str, name: &str) -> Expect {
        if self.leads(dir).contains(name) {
            return Expect::Lead;
        }
        let parts = self.parts(dir);
        if self.lacks_required(&parts) {
            return Expect::Failed;
        }
        let mut failed = false;
        for (layer, path) in parts {
            match self.view(layer, &path) {
                View::Nothing => {}
                View::Unknown => failed = true,
                View::Known(rows) => {
                    let row = rows.get(name);
                    if let Some(row) = row.filter(|r| self.shown(layer, &path, (dir, name), r)) {
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
        let here = self.layers.iter().any(|layer| layer.graft == dir);
        let graft = here || dir.is_empty() || !leads.is_empty();
        let mut names = Rows::new();
        for name in &leads {
            names.insert(name.clone(), (What::Dir, None));
        }
        let parts = self.parts(dir);
        if self.lacks_required(&parts) {
            return ExpectList::Failed;
        }
        let (mut known, mut failed) = (false, false);
        for (layer, path) in parts {
            match self.view(layer, &path) {
                View::Nothing => {}
                View::Unknown => failed = true,
                View::Known(rows) => {
                    known = true;
                    for (name, row) in rows {
                        let shown = self.shown(layer, &path, (dir, name), row);
                        if shown && !names.contains_key(name) {
                            let token = row.token.clone().filter(|_| row.what != What::Dir);
                            names.insert(name.clone(), (row.what, token.map(|t| (layer, t))));
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

/// The first component of `path` below `dir`, if it is below it.
pub fn below<'a>(dir: &str, path: &'a str) -> Option<&'a str> {
    let rest = match dir {
        "" => path,
        _ => path.strip_prefix(dir)?.strip_prefix('/')?,
    };
    rest.split('/').next().filter(|name| !name.is_empty())
}
