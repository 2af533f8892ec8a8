//! The sources of a volume, what they were heard to say, and the filesystem over them.

use std::collections::{BTreeMap, HashMap};
use std::ops::Range;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use async_trait::async_trait;
use bytes::Bytes;
use svol::catalogue::{Catalogue, Db, Memory, Policy};
use svol::entry::{Entry, Kind};
use svol::fetch::Fetcher;
use svol::namespace::{Layer, Namespace};
use svol::path::RelPath;
use svol::source::memory::MemorySource;
use svol::source::{Body, ErrorKind, Listing, Result, Source};
use svol::vfs::{LayerPolicy, Owner, Vfs};
use svol_cache::Cache;

use super::oracle::{Answer, Heard, Row, What, split};

/// A source that remembers what it said.
pub struct Recorder {
    inner: Arc<MemorySource>,
    heard: Mutex<Heard>,
}

impl Recorder {
    fn listed(&self, dir: &str, entries: &[Entry]) {
        let mut heard = self.heard.lock().unwrap();
        let old = match heard.get(dir) {
            Some(Answer::Listed(rows)) => rows.clone(),
            _ => BTreeMap::new(),
        };
        let rows: BTreeMap<String, Row> = entries
            .iter()
            .map(|entry| {
                let mut row = row_of(entry);
                // What was asked for one by one is kept while the listing stays the same.
                if let Some(old) = old.get(entry.name.as_str())
                    && old.listed == row.listed
                    && old.what == row.what
                {
                    row.token = old.token.clone();
                }
                (entry.name.as_str().to_owned(), row)
            })
            .collect();
        heard.retain(|path, _| match below(dir, path) {
            Some(child) => rows.get(child).is_some_and(|r| r.what == What::Dir),
            None => true,
        });
        heard.insert(dir.to_owned(), Answer::Listed(rows));
    }

    fn gone(&self, dir: &str) {
        let mut heard = self.heard.lock().unwrap();
        heard.retain(|path, _| below(dir, path).is_none());
        heard.insert(dir.to_owned(), Answer::Gone);
    }

    fn told(&self, path: &str, entry: &Entry) {
        let (dir, name) = split(path);
        if let Some(Answer::Listed(rows)) = self.heard.lock().unwrap().get_mut(dir)
            && let Some(row) = rows.get_mut(name)
        {
            row.token = Some(entry.version.token.to_string());
        }
    }

    pub fn heard(&self) -> Heard {
        self.heard.lock().unwrap().clone()
    }

    /// "There is no such directory" is not kept from mount to mount.
    pub fn forget_gone(&self) {
        let mut heard = self.heard.lock().unwrap();
        heard.retain(|_, answer| *answer != Answer::Gone);
    }
}

/// The first component of `path` below `dir`, if it is below it.
fn below<'a>(dir: &str, path: &'a str) -> Option<&'a str> {
    let rest = match dir {
        "" => path,
        _ => path.strip_prefix(dir)?.strip_prefix('/')?,
    };
    rest.split('/').next().filter(|name| !name.is_empty())
}

fn row_of(entry: &Entry) -> Row {
    let token = entry.version.token.to_string();
    Row {
        what: match entry.kind {
            Kind::Dir => What::Dir,
            Kind::File => What::File,
            Kind::Symlink => What::Link,
        },
        token: (entry.kind != Kind::File || entry.size.is_some()).then(|| token.clone()),
        listed: token,
        target: entry.target.as_deref().unwrap_or_default().to_owned(),
    }
}

#[async_trait]
impl Source for Recorder {
    fn identity(&self) -> &str {
        self.inner.identity()
    }

    fn url(&self, path: &RelPath) -> String {
        self.inner.url(path)
    }

    async fn list(&self, dir: &RelPath) -> Result<Listing> {
        let result = self.inner.list(dir).await;
        match &result {
            Ok(listing) => self.listed(dir.as_str(), &listing.entries),
            Err(e) if e.kind() == ErrorKind::NotFound => self.gone(dir.as_str()),
            Err(_) => {}
        }
        result
    }

    async fn stat(&self, path: &RelPath) -> Result<Entry> {
        let result = self.inner.stat(path).await;
        if let Ok(entry) = &result {
            self.told(path.as_str(), entry);
        }
        result
    }

    async fn read(&self, path: &RelPath, entry: &Entry, range: Range<u64>) -> Result<Body> {
        self.inner.read(path, entry, range).await
    }
}

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
    pub graft: String,
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
    pub fn new(index: usize, graft: &str, coarse: bool) -> Origin {
        let source = MemorySource::new(&format!("layer{index}"));
        source.set_coarse(coarse);
        Origin {
            recorder: Arc::new(Recorder {
                inner: source.clone(),
                heard: Mutex::default(),
            }),
            source,
            graft: graft.to_owned(),
            tree: BTreeMap::new(),
            bytes: HashMap::new(),
            revision: 0,
            coarse,
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

    pub fn put(&mut self, path: &str, len: usize, weak: bool) {
        let mut token = String::new();
        self.place(path, |revision| {
            token = if weak {
                format!("w{revision}")
            } else {
                format!("v{revision}")
            };
            Item::File(token.clone())
        });
        let seed = blake3::hash(format!("{} {token}", self.source.identity()).as_bytes());
        let bytes = noise(seed.as_bytes(), len);
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

/// A mounted filesystem without a kernel.
pub struct Mounted {
    pub vfs: Arc<Vfs>,
    cache: Cache,
    db: Db,
}

/// The quota of the cache in bytes: nothing is evicted.
const DISK: u64 = 1 << 30;

impl Mounted {
    pub fn new(dir: &Path, origins: &[Origin], refresh: Option<Duration>) -> Mounted {
        let mut config = svol_cache::Config::new(dir.join("cache"));
        config.limit = Some(DISK);
        config.min_free = Some(0);
        let cache = Cache::open(config).unwrap();
        let db = Db::open(&dir.join("cache")).unwrap();
        let memory = Memory::default();
        let layers = origins
            .iter()
            .enumerate()
            .map(|(index, origin)| {
                let policy = Policy {
                    refresh,
                    patience: Duration::from_secs(1),
                    memory: memory.clone(),
                };
                let source: Arc<dyn Source> = origin.recorder.clone();
                let mut layer = Layer::new(
                    format!("layer{index}"),
                    Catalogue::new(db.clone(), source, policy),
                );
                layer.graft = RelPath::new(&origin.graft).unwrap();
                layer
            })
            .collect();
        let policies = origins
            .iter()
            .map(|_| LayerPolicy {
                strict: false,
                revalidate: Duration::from_secs(3600),
                deadline: Duration::from_secs(10),
            })
            .collect();
        let owner = Owner {
            uid: 1000,
            gid: 1000,
            umask: 0o022,
        };
        let vfs = Vfs::new(
            Arc::new(Namespace::new(layers)),
            cache.clone(),
            Fetcher::new(),
            tokio::runtime::Handle::current(),
            policies,
            owner,
        );
        Mounted {
            vfs: Arc::new(vfs),
            cache,
            db,
        }
    }

    /// Writes down what the next mount is to know.
    pub async fn flush(&self) {
        self.db.flush().await;
        self.cache.flush().unwrap();
        assert_eq!(self.db.lost_writes(), 0);
    }

    pub async fn close(self) {
        self.flush().await;
        let Mounted { vfs, cache, .. } = self;
        drop(vfs);
        cache.close().await;
    }
}
