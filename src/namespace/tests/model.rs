//! The merged tree against a plain model: random layers, changes, outages and remounts.
//!
//! Two models. The *fold* takes whole trees and lays one over the other; it knows nothing of
//! outages. The *views* add what each layer knows of each directory, and so what a dead layer leaves
//! open. Where nothing is dead, all three must agree.

use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;

use super::super::*;
use crate::catalogue::{Db, Memory, Policy};
use crate::source::memory::MemorySource;

/// Few, so that layers clash.
const NAMES: [&str; 4] = ["a", "b", "c", "d.o"];

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum What {
    Dir,
    File,
    /// To a sibling.
    Inside,
    /// Above the root from depth 1, inside from depth 2.
    Up,
    Out,
}

#[derive(Debug, Clone)]
enum Step {
    Put(usize, String, What),
    Remove(usize, String),
    /// Nothing: up again.
    Down(usize, Option<ErrorKind>),
    Break(usize, String),
    Mend(usize),
    Remount,
    Check,
}

#[derive(Debug, Clone)]
struct Plan {
    graft: String,
    filter: usize,
    required: bool,
}

fn filters(index: usize) -> Filter {
    match index {
        1 => Filter::new(&["*.o"], &[]),
        2 => Filter::new(&[], &["b/"]),
        3 => Filter::new(&["a"], &["c", "/b/a"]),
        _ => Ok(Filter::default()),
    }
    .unwrap()
}

fn a_path() -> impl Strategy<Value = String> {
    prop::collection::vec(prop::sample::select(&NAMES[..]), 1..4).prop_map(|names| names.join("/"))
}

fn a_graft() -> impl Strategy<Value = String> {
    prop_oneof![
        3 => Just(String::new()),
        2 => prop::sample::select(vec!["a", "b", "a/b", "a/a", "c/d.o"]).prop_map(String::from),
    ]
}

fn a_plan() -> impl Strategy<Value = Plan> {
    (a_graft(), 0..6usize, prop::bool::weighted(0.15)).prop_map(|(graft, filter, required)| Plan {
        graft,
        filter,
        required,
    })
}

fn a_what() -> impl Strategy<Value = What> {
    prop_oneof![
        3 => Just(What::Dir),
        5 => Just(What::File),
        1 => Just(What::Inside),
        1 => Just(What::Up),
        1 => Just(What::Out),
    ]
}

fn a_step() -> impl Strategy<Value = Step> {
    let layer = 0..4usize;
    prop_oneof![
        8 => (layer.clone(), a_path(), a_what()).prop_map(|(l, p, w)| Step::Put(l, p, w)),
        3 => (layer.clone(), a_path()).prop_map(|(l, p)| Step::Remove(l, p)),
        1 => (layer.clone(), prop::sample::select(vec![
            None, Some(ErrorKind::Timeout), Some(ErrorKind::Unreachable), Some(ErrorKind::Denied),
        ])).prop_map(|(l, k)| Step::Down(l, k)),
        1 => (layer.clone(), prop_oneof![a_path(), Just(String::new())])
            .prop_map(|(l, p)| Step::Break(l, p)),
        1 => layer.prop_map(Step::Mend),
        1 => Just(Step::Remount),
        2 => Just(Step::Check),
    ]
}

/// What a directory of a layer lists: kinds and tags that differ for each version.
type Dir = BTreeMap<String, (What, u64)>;

/// One layer as the model knows it.
struct Model {
    plan: Plan,
    source: Arc<MemorySource>,
    tree: BTreeMap<String, (What, u64)>,
    down: bool,
    broken: BTreeSet<String>,
    known: BTreeMap<String, Dir>,
    /// Known in this mount.
    recent: BTreeSet<String>,
}

#[derive(Debug, Clone, PartialEq)]
enum Seen {
    Known(Dir),
    Nothing,
    Failed,
}

fn parent(path: &str) -> &str {
    path.rfind('/').map_or("", |at| &path[..at])
}

fn join(dir: &str, name: &str) -> String {
    if dir.is_empty() {
        name.into()
    } else {
        format!("{dir}/{name}")
    }
}

fn below(path: &str, root: &str) -> bool {
    root.is_empty() || path == root || path.starts_with(&format!("{root}/"))
}

impl Model {
    fn put(&mut self, path: &str, what: What, tag: u64) {
        let mut at = parent(path).to_owned();
        while !at.is_empty() {
            if self
                .tree
                .get(&at)
                .is_none_or(|(what, _)| *what != What::Dir)
            {
                self.tree.insert(at.clone(), (What::Dir, 0));
            }
            at = parent(&at).to_owned();
        }
        if what == What::Dir {
            if self
                .tree
                .get(path)
                .is_none_or(|(what, _)| *what != What::Dir)
            {
                self.tree.insert(path.into(), (What::Dir, 0));
            }
        } else {
            self.tree.retain(|p, _| !below(p, path));
            self.tree.insert(path.into(), (what, tag));
        }
        match what {
            What::Dir => self.source.mkdir(path),
            // The size is the tag, so that versions can be told apart.
            What::File => self.source.put(path, vec![0; tag as usize]),
            What::Inside => self.source.symlink(path, "a"),
            What::Up => self.source.symlink(path, "../a"),
            What::Out => self.source.symlink(path, "/a"),
        }
    }

    fn remove(&mut self, path: &str) {
        self.tree.retain(|p, _| !below(p, path));
        self.source.remove(path);
    }

    fn lists(&self, dir: &str) -> Option<Dir> {
        let is_dir = dir.is_empty() || matches!(self.tree.get(dir), Some((What::Dir, _)));
        is_dir.then(|| {
            self.tree
                .iter()
                .filter(|(path, _)| parent(path) == dir)
                .map(|(path, what)| {
                    let name = path.rsplit('/').next().unwrap();
                    (name.to_owned(), *what)
                })
                .collect()
        })
    }

    fn forget(&mut self, root: &str) {
        self.known.retain(|path, _| !below(path, root));
        self.recent.retain(|path| !below(path, root));
    }

    /// Looks at a directory, after a refresh.
    fn see(&mut self, dir: &str) -> Seen {
        if self.down || self.broken.contains(dir) {
            return match self.known.get(dir) {
                Some(known) => {
                    self.recent.insert(dir.into());
                    Seen::Known(known.clone())
                }
                None => Seen::Failed,
            };
        }
        let Some(now) = self.lists(dir) else {
            self.forget(dir);
            return Seen::Nothing;
        };
        let before = self.known.insert(dir.into(), now.clone());
        self.recent.insert(dir.into());
        for (name, (what, _)) in before.unwrap_or_default() {
            let still = matches!(now.get(&name), Some((What::Dir, _)));
            if what == What::Dir && !still {
                self.forget(&join(dir, &name));
            }
        }
        Seen::Known(now)
    }

    fn refresh(&mut self) {
        let mut dirs = self.recent.clone();
        dirs.insert(String::new());
        for dir in dirs {
            // What a parent dropped is not asked for in vain, but it may not come back either.
            if dir.is_empty() || self.recent.contains(&dir) {
                self.see(&dir);
            }
        }
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Answer {
    Found { layer: usize, what: What, tag: u64 },
    Lead,
    Absent,
    Failed,
}

struct World {
    layers: Vec<Model>,
    leads: BTreeSet<String>,
}

impl World {
    fn shows(&self, layer: usize, vdir: &str, path: &str, what: What) -> bool {
        let kind = match what {
            What::Dir => Kind::Dir,
            What::File => Kind::File,
            _ => Kind::Symlink,
        };
        if !filters(self.layers[layer].plan.filter).shows(path, kind) {
            return false;
        }
        match what {
            What::Dir => return true,
            What::Out => return false,
            What::Up if vdir.is_empty() => return false,
            _ => {}
        }
        let name = path.rsplit('/').next().unwrap();
        !self.leads.contains(&join(vdir, name))
    }

    /// Returns the parts of a directory of the volume, the last layer first.
    fn parts(&mut self, vdir: &str) -> Vec<(usize, String)> {
        let count = self.layers.len();
        if vdir.is_empty() {
            return (0..count)
                .rev()
                .filter(|l| self.layers[*l].plan.graft.is_empty())
                .map(|l| (l, String::new()))
                .collect();
        }
        let (up, name) = (parent(vdir), vdir.rsplit('/').next().unwrap());
        let above = self.parts(up);
        let mut parts = Vec::new();
        for layer in (0..count).rev() {
            if self.layers[layer].plan.graft == vdir {
                parts.push((layer, String::new()));
            } else if let Some((_, dir)) = above.iter().find(|(l, _)| *l == layer) {
                let path = join(dir, name);
                match self.layers[layer].see(dir) {
                    Seen::Nothing => {}
                    Seen::Failed => {
                        if self.shows(layer, up, &path, What::Dir) {
                            parts.push((layer, path));
                        }
                    }
                    Seen::Known(entries) => match entries.get(name) {
                        Some((what, _)) if self.shows(layer, up, &path, *what) => {
                            if *what != What::Dir {
                                break;
                            }
                            parts.push((layer, path));
                        }
                        _ => {}
                    },
                }
            }
        }
        parts
    }

    fn lookup(&mut self, vdir: &str, name: &str) -> Answer {
        if self.leads.contains(&join(vdir, name)) {
            return Answer::Lead;
        }
        let mut answer = Answer::Absent;
        for (layer, dir) in self.parts(vdir) {
            let seen = match self.layers[layer].see(&dir) {
                // A root that is not there is an error, but here roots always are.
                Seen::Failed if self.layers[layer].plan.required => return Answer::Failed,
                seen => seen,
            };
            match (seen, &answer) {
                (_, Answer::Found { .. }) | (Seen::Nothing, _) => {}
                (Seen::Failed, _) => answer = Answer::Failed,
                (Seen::Known(entries), _) => {
                    if let Some((what, tag)) = entries.get(name)
                        && self.shows(layer, vdir, &join(&dir, name), *what)
                    {
                        answer = Answer::Found {
                            layer,
                            what: *what,
                            tag: *tag,
                        };
                    }
                }
            }
        }
        answer
    }

    /// Returns the names of a directory, or nothing if it cannot be listed.
    fn list(&mut self, vdir: &str) -> Option<Vec<String>> {
        let mut names = BTreeSet::new();
        let mut known = 0;
        for (layer, dir) in self.parts(vdir) {
            match self.layers[layer].see(&dir) {
                Seen::Nothing => {}
                Seen::Failed if self.layers[layer].plan.required => return None,
                Seen::Failed => {}
                Seen::Known(entries) => {
                    known += 1;
                    for (name, (what, _)) in entries {
                        if self.shows(layer, vdir, &join(&dir, &name), what) {
                            names.insert(name);
                        }
                    }
                }
            }
        }
        for lead in &self.leads {
            if parent(lead) == vdir && !lead.is_empty() {
                names.insert(lead.rsplit('/').next().unwrap().to_owned());
                known += 1;
            }
        }
        let failed = |world: &mut World| {
            let parts = world.parts(vdir);
            parts
                .into_iter()
                .any(|(layer, dir)| world.layers[layer].see(&dir) == Seen::Failed)
        };
        if known == 0 && (failed(self) || !self.leads.contains(vdir)) {
            return None;
        }
        Some(names.into_iter().collect())
    }

    /// Lays whole trees over each other: what the volume is where nothing fails.
    fn fold(&self) -> BTreeMap<String, (usize, What, u64)> {
        let mut merged: BTreeMap<String, (usize, What, u64)> = BTreeMap::new();
        for (at, layer) in self.layers.iter().enumerate() {
            let graft = &layer.plan.graft;
            let mut hidden: Vec<String> = Vec::new();
            // Parents come before what is in them.
            for (path, (what, tag)) in &layer.tree {
                let place = if graft.is_empty() {
                    path.clone()
                } else {
                    format!("{graft}/{path}")
                };
                if hidden.iter().any(|root| below(path, root)) {
                    continue;
                }
                if !self.shows(at, parent(&place), path, *what) {
                    hidden.push(path.clone());
                    continue;
                }
                if *what != What::Dir || merged.get(&place).is_some_and(|m| m.1 != What::Dir) {
                    merged.retain(|p, _| {
                        !below(p, &place)
                            || self
                                .leads
                                .iter()
                                .any(|lead| below(p, lead) && below(lead, &place) && lead != &place)
                    });
                }
                merged.insert(place, (at, *what, *tag));
            }
        }
        merged
    }
}

fn mount(db: &Db, world: &World) -> Namespace {
    let memory = Memory::default();
    Namespace::new(
        world
            .layers
            .iter()
            .enumerate()
            .map(|(at, model)| {
                let policy = Policy {
                    refresh: Some(Duration::from_secs(3600)),
                    patience: Duration::from_secs(60),
                    memory: memory.clone(),
                };
                Layer {
                    graft: RelPath::new(&model.plan.graft).unwrap(),
                    filter: filters(model.plan.filter),
                    required: model.plan.required,
                    ..Layer::new(
                        format!("layer {at}"),
                        Catalogue::new(db.clone(), model.source.clone(), policy),
                    )
                }
            })
            .collect(),
    )
}

fn answer(world: &World, vpath: &str, result: Result<Found, LookupError>) -> Answer {
    match result {
        Err(LookupError::Absent { fresh_for }) => {
            assert!(fresh_for <= SHORT);
            Answer::Absent
        }
        Err(LookupError::Failed { error, .. }) => {
            assert_ne!(error.kind(), ErrorKind::NotFound);
            Answer::Failed
        }
        Ok(_) if world.leads.contains(vpath) => Answer::Lead,
        Ok(found) => {
            let (what, tag) = match found.entry.kind {
                Kind::Dir => (What::Dir, 0),
                Kind::File => (What::File, found.entry.size.unwrap()),
                Kind::Symlink => match found.entry.target.as_deref().unwrap() {
                    "a" => (What::Inside, 0),
                    "../a" => (What::Up, 0),
                    _ => (What::Out, 0),
                },
            };
            Answer::Found {
                layer: found.layer,
                what,
                tag,
            }
        }
    }
}

/// Symbolic links have no tag to be told apart by.
fn plain(answer: Answer) -> Answer {
    match answer {
        Answer::Found { layer, what, .. } if what != What::File => Answer::Found {
            layer,
            what,
            tag: 0,
        },
        other => other,
    }
}

async fn check(world: &mut World, namespace: &Namespace) {
    namespace.refresh(&RelPath::root(), true).await;
    for layer in &mut world.layers {
        layer.refresh();
    }
    let healthy = world
        .layers
        .iter()
        .all(|layer| !layer.down && layer.broken.is_empty());
    let fold = world.fold();
    let mut todo = vec![String::new()];
    while let Some(dir) = todo.pop() {
        let at = RelPath::new(&dir).unwrap();
        let list = namespace.list(&at).await.ok();
        let names: Option<Vec<String>> = list.as_ref().map(|m| {
            m.iter()
                .map(|e| e.unwrap().entry.name.to_string())
                .collect()
        });
        assert_eq!(names, world.list(&dir), "the list of /{dir}");
        if let Some(peeked) = namespace.peek_list(&at) {
            let generation = peeked.ok().map(|merged| merged.generation());
            assert_eq!(generation, list.as_ref().map(Merged::generation));
        }
        for name in NAMES {
            let path = join(&dir, name);
            let expected = plain(world.lookup(&dir, name));
            let name = Name::new(name).unwrap();
            let peeked = namespace.peek_lookup(&at, &name);
            let looked = namespace.lookup(&at, &name).await;
            let fresh = looked.as_ref().ok().cloned();
            assert_eq!(plain(answer(world, &path, looked)), expected, "/{path}");
            if let Some(peeked) = peeked {
                assert_eq!(
                    plain(answer(world, &path, peeked)),
                    expected,
                    "peeked /{path}"
                );
            }
            if let Some(names) = &names {
                let there = matches!(expected, Answer::Found { .. } | Answer::Lead);
                assert_eq!(names.iter().any(|n| n == name.as_str()), there, "/{path}");
            }
            if healthy {
                let folded = match fold.get(&path) {
                    _ if world.leads.contains(&path) => Answer::Lead,
                    None => Answer::Absent,
                    Some((layer, what, tag)) => plain(Answer::Found {
                        layer: *layer,
                        what: *what,
                        tag: *tag,
                    }),
                };
                assert_eq!(folded, expected, "folded /{path}");
            }
            if let (Some(list), Some(found)) = (&list, fresh) {
                let mut listed = list.iter().map(|entry| entry.unwrap());
                let entry = listed.find(|entry| entry.entry.name == name).unwrap();
                assert_eq!(entry.entry, found.entry);
                assert_eq!((entry.layer, entry.path()), (found.layer, found.path));
                if found.entry.kind == Kind::Dir {
                    todo.push(path);
                }
            }
        }
    }
}

async fn run(plans: Vec<Plan>, steps: Vec<Step>) {
    let home = tempfile::tempdir().unwrap();
    let mut db = Db::open(home.path()).unwrap();
    let mut leads = BTreeSet::from([String::new()]);
    for plan in &plans {
        let mut at = plan.graft.clone();
        while !at.is_empty() {
            leads.insert(at.clone());
            at = parent(&at).to_owned();
        }
    }
    let layers = plans
        .into_iter()
        .enumerate()
        .map(|(at, plan)| Model {
            plan,
            source: MemorySource::new(&at.to_string()),
            tree: BTreeMap::new(),
            down: false,
            broken: BTreeSet::new(),
            known: BTreeMap::new(),
            recent: BTreeSet::new(),
        })
        .collect();
    let mut world = World { layers, leads };
    let mut namespace = mount(&db, &world);
    let count = world.layers.len();
    for (tag, step) in steps.into_iter().chain([Step::Check]).enumerate() {
        match step {
            Step::Put(layer, path, what) => {
                world.layers[layer % count].put(&path, what, tag as u64 + 1);
            }
            Step::Remove(layer, path) => world.layers[layer % count].remove(&path),
            Step::Down(layer, kind) => {
                let layer = &mut world.layers[layer % count];
                layer.down = kind.is_some();
                layer.source.set_down(kind);
            }
            Step::Break(layer, path) => {
                let layer = &mut world.layers[layer % count];
                layer.source.set_broken(&path, Some(ErrorKind::Server));
                layer.broken.insert(path);
            }
            Step::Mend(layer) => {
                let layer = &mut world.layers[layer % count];
                for path in std::mem::take(&mut layer.broken) {
                    layer.source.set_broken(&path, None);
                }
            }
            Step::Remount => {
                drop(namespace);
                if tag % 2 == 0 {
                    db.flush().await;
                    assert_eq!(db.lost_writes(), 0);
                    db = Db::open(home.path()).unwrap();
                }
                for layer in &mut world.layers {
                    layer.recent.clear();
                }
                namespace = mount(&db, &world);
            }
            Step::Check => check(&mut world, &namespace).await,
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, max_shrink_iters: 500, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn the_merged_tree_is_what_the_model_says(
        plans in prop::collection::vec(a_plan(), 1..5),
        steps in prop::collection::vec(a_step(), 1..60),
    ) {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .enable_all()
            .build()
            .unwrap();
        runtime.block_on(run(plans, steps));
    }
}
