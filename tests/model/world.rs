//! The sources of a volume from the side of those who own and change them.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use svol::source::memory::MemorySource;
use svol::source::{ErrorKind, Source};

use super::Plan;
use super::oracle::{Answer, Heard, Row, Rule, What, below, split};
use super::recorder::Recorder;

/// For how long an error may be repeated instead of asking again: a second, and some.
pub const REPEATED: Duration = Duration::from_millis(1500);

/// What a source truly holds at a path.
#[derive(Debug, Clone)]
pub enum Item {
    Dir,
    File(String),
    Link(String, String),
}

/// A layer's source from the other side: the one who owns it and changes it.
pub struct Origin {
    pub source: Arc<MemorySource>,
    pub recorder: Arc<Recorder>,
    pub rule: Rule,
    /// Whether what cannot be checked is refused.
    pub strict: bool,
    /// Whether a version that proves nothing is asked for at each open.
    pub probed: bool,
    pub tree: BTreeMap<String, Item>,
    /// The bytes of every version that there ever was.
    pub bytes: HashMap<String, Bytes>,
    revision: u64,
    coarse: bool,
    pub down: Option<ErrorKind>,
    /// Until when errors of an outage that is over are repeated.
    pub shaken: Option<Instant>,
    /// How it failed before, and until when that may be repeated.
    failed: Vec<(ErrorKind, Instant)>,
}

impl Origin {
    pub fn new(index: usize, plan: &Plan) -> Origin {
        let source = MemorySource::new(&format!("layer{index}"));
        source.set_coarse(plan.coarse);
        Origin {
            recorder: Arc::new(Recorder::new(source.clone())),
            source,
            rule: Rule {
                graft: plan.graft.to_owned(),
                include: plan.include,
                exclude: plan.exclude,
                required: plan.required,
            },
            strict: plan.strict,
            probed: plan.probed,
            tree: BTreeMap::new(),
            bytes: HashMap::new(),
            revision: 0,
            coarse: plan.coarse,
            down: None,
            shaken: None,
            failed: Vec::new(),
        }
    }

    /// Does to the tree what the source does to its own.
    fn place(&mut self, path: &str, item: impl FnOnce(u64) -> Item) {
        let mut dir = split(path).0;
        while !dir.is_empty() {
            if !matches!(self.tree.get(dir), Some(Item::Dir)) {
                self.tree.insert(dir.to_owned(), Item::Dir);
            }
            dir = split(dir).0;
        }
        self.revision += 1;
        let item = item(self.revision);
        if !matches!(item, Item::Dir) {
            self.cut(path);
        }
        self.tree.insert(path.to_owned(), item);
    }

    fn cut(&mut self, path: &str) {
        self.tree
            .retain(|at, _| at != path && below(path, at).is_none());
    }

    /// Puts a file of other bytes than there ever were.
    pub fn put(&mut self, path: &str, len: usize, weak: bool) {
        let seed = format!("{} {}", self.source.identity(), self.revision);
        let bytes = noise(blake3::hash(seed.as_bytes()).as_bytes(), len);
        self.put_bytes(path, bytes, weak);
    }

    pub fn put_bytes(&mut self, path: &str, bytes: Bytes, weak: bool) {
        let mut token = String::new();
        self.place(path, |revision| {
            token = format!("{}{revision}", if weak { "w" } else { "v" });
            Item::File(token.clone())
        });
        self.bytes.insert(token.clone(), bytes.clone());
        if weak {
            self.source.put_weak(path, bytes, &token);
        } else {
            self.source.put(path, bytes);
        }
    }

    pub fn mkdir(&mut self, path: &str) {
        self.place(path, |_| Item::Dir);
        self.source.mkdir(path);
    }

    pub fn link(&mut self, path: &str, target: &str) {
        self.place(path, |revision| {
            Item::Link(format!("v{revision}"), target.into())
        });
        self.source.symlink(path, target);
    }

    pub fn remove(&mut self, path: &str) {
        self.cut(path);
        self.source.remove(path);
    }

    pub fn set_down(&mut self, kind: Option<ErrorKind>) {
        if let Some(before) = self.down {
            let until = Instant::now() + REPEATED;
            self.failed.push((before, until));
            if kind.is_none() {
                self.shaken = Some(until);
            }
        }
        self.down = kind;
        self.source.set_down(kind);
    }

    /// Whether `kind` is how it fails, or how it failed a moment ago.
    pub fn fails_with(&self, kind: ErrorKind) -> bool {
        let now = Instant::now();
        self.down == Some(kind) || self.failed.iter().any(|f| f.0 == kind && now < f.1)
    }

    /// Whether it may be answered for with an error.
    pub fn may_fail(&self) -> bool {
        self.down.is_some() || self.shaken.is_some_and(|until| Instant::now() < until)
    }

    /// What one who asks for everything now would hear.
    pub fn truth(&self) -> Heard {
        let mut all = Heard::from([(String::new(), Answer::Listed(BTreeMap::new()))]);
        for (path, item) in &self.tree {
            if matches!(item, Item::Dir) {
                all.insert(path.clone(), Answer::Listed(BTreeMap::new()));
            }
        }
        for (path, item) in &self.tree {
            let (dir, name) = split(path);
            let (what, token, target) = match item {
                Item::Dir => (What::Dir, "", ""),
                Item::File(token) => (What::File, token.as_str(), ""),
                Item::Link(token, target) => (What::Link, token.as_str(), target.as_str()),
            };
            let row = Row {
                what,
                listed: token.into(),
                token: Some(token.into()),
                target: target.into(),
            };
            let Some(Answer::Listed(rows)) = all.get_mut(dir) else {
                panic!("{path} is in no directory");
            };
            rows.insert(name.to_owned(), row);
        }
        all
    }

    pub fn requests(&self) -> u64 {
        self.source.lists() + self.source.stats() + self.source.reads()
    }

    pub fn is_coarse(&self) -> bool {
        self.coarse
    }
}

fn noise(seed: &[u8; 32], len: usize) -> Bytes {
    let mut bytes = vec![0; len];
    let mut hasher = blake3::Hasher::new_keyed(seed);
    hasher.update(b"bytes");
    hasher.finalize_xof().fill(&mut bytes);
    bytes.into()
}
