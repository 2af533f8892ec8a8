//! What is promised of a source that changes as one, against one whose commits a test makes.

use std::ops::Range;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

use async_trait::async_trait;

use super::*;
use crate::catalogue::{Db, Directory, Memory, Policy};
use crate::entry::Entry;
use crate::path::Name;
use crate::source::memory::MemorySource;
use crate::source::{Body, ErrorKind, Listing, Source};

/// A source of commits, each a tree of its own.
#[derive(Default)]
struct Commits {
    all: Mutex<Vec<Arc<MemorySource>>>,
    current: Mutex<Option<usize>>,
    down: Mutex<Option<ErrorKind>>,
    silent: Mutex<bool>,
    looks: AtomicU64,
}

impl Commits {
    fn commit(&self, files: &[(&str, &str)]) {
        let tree = MemorySource::new("tree");
        for (path, content) in files {
            tree.put(path, content.to_string());
        }
        self.all.lock().unwrap().push(tree);
    }

    fn tree(&self) -> Result<Arc<MemorySource>> {
        let current = self.current.lock().unwrap();
        let at = current.ok_or_else(|| Error::new(ErrorKind::Invalid, "no commit"))?;
        Ok(self.all.lock().unwrap()[at].clone())
    }
}

#[async_trait]
impl Source for Commits {
    fn identity(&self) -> &str {
        "commits"
    }
    fn url(&self, path: &RelPath) -> String {
        path.to_string()
    }
    async fn list(&self, dir: &RelPath) -> Result<Listing> {
        self.tree()?.list(dir).await
    }
    async fn stat(&self, path: &RelPath) -> Result<Entry> {
        self.tree()?.stat(path).await
    }
    async fn read(&self, path: &RelPath, entry: &Entry, range: Range<u64>) -> Result<Body> {
        self.tree()?.read(path, entry, range).await
    }
    fn whole(&self) -> Option<&dyn Whole> {
        Some(self)
    }
}

#[async_trait]
impl Whole for Commits {
    fn current(&self) -> Option<Arc<str>> {
        let current = self.current.lock().unwrap();
        current.map(|at| at.to_string().into())
    }
    async fn advance(&self) -> Result<Arc<str>> {
        self.looks.fetch_add(1, Ordering::Relaxed);
        let silent = *self.silent.lock().unwrap();
        if silent {
            std::future::pending::<()>().await;
        }
        if let Some(kind) = *self.down.lock().unwrap() {
            return Err(Error::new(kind, "down"));
        }
        let newest = self.all.lock().unwrap().len() - 1;
        *self.current.lock().unwrap() = Some(newest);
        Ok(newest.to_string().into())
    }
}

fn path(text: &str) -> RelPath {
    RelPath::new(text).unwrap()
}

fn names(dir: &Directory) -> Vec<String> {
    dir.entries().map(|e| e.unwrap().name.to_string()).collect()
}

fn over(source: &Arc<Commits>, db: &Db, refresh: Option<Duration>) -> Arc<Catalogue> {
    let policy = Policy {
        refresh,
        patience: Duration::from_millis(100),
        memory: Memory::new(1 << 20),
    };
    Catalogue::new(db.clone(), source.clone(), policy)
}

const TWO: [(&str, &str); 3] = [("a/one", "1"), ("b/one", "1"), ("top", "1")];

#[tokio::test]
async fn all_directories_are_of_one_generation_and_one_request() {
    let source = Arc::new(Commits::default());
    source.commit(&TWO);
    let catalogue = over(&source, &Db::volatile(), None);
    for dir in ["", "a", "b"] {
        catalogue.dir(&path(dir)).await.unwrap();
    }
    assert_eq!(source.looks.load(Ordering::Relaxed), 1);
    let told = Arc::new(Mutex::new(Vec::new()));
    let heard = told.clone();
    catalogue.add_listener(Arc::new(move |dir: &RelPath, names: &[Name]| {
        let mut heard = heard.lock().unwrap();
        heard.extend(names.iter().map(|name| dir.join(name).to_string()));
    }));

    // Each tree counts its versions by itself: another order, so that this one is new.
    source.commit(&[("top", "2"), ("a/two", "2"), ("b/two", "2")]);
    // Nobody looks until somebody has to.
    assert_eq!(names(&catalogue.dir(&path("a")).await.unwrap()), ["one"]);
    let report = catalogue.refresh(&path("a"), false).await;
    let found = (report.listed, report.added, report.changed, report.removed);
    assert_eq!(found, (3, 2, 1, 2), "{report:?}");
    assert_eq!(report.failed, 0);
    assert_eq!(source.looks.load(Ordering::Relaxed), 2);
    // What nobody asked to refresh has moved too.
    assert!(
        catalogue
            .peek(&path("b"))
            .is_none_or(|b| names(&b) == ["two"])
    );
    assert_eq!(names(&catalogue.dir(&path("b")).await.unwrap()), ["two"]);
    assert_eq!(names(&catalogue.dir(&path("a")).await.unwrap()), ["two"]);
    for _ in 0..500 {
        if told.lock().unwrap().len() == 5 {
            break;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let mut told = told.lock().unwrap().clone();
    told.sort();
    assert_eq!(told, ["/a/one", "/a/two", "/b/one", "/b/two", "/top"]);
    assert_eq!(source.looks.load(Ordering::Relaxed), 2);
}

#[tokio::test]
async fn a_reader_never_sees_the_old_after_the_new() {
    let source = Arc::new(Commits::default());
    source.commit(&[("a/0", ""), ("b/0", "")]);
    let catalogue = over(&source, &Db::volatile(), None);
    let (a, b) = (path("a"), path("b"));
    catalogue.dir(&a).await.unwrap();
    let number = |dir: &Directory| names(dir)[0].parse::<u64>().unwrap();
    let reader = {
        let catalogue = catalogue.clone();
        tokio::spawn(async move {
            let mut newest = 0;
            while newest < 50 {
                for dir in [&a, &b] {
                    let seen = number(&catalogue.dir(dir).await.unwrap());
                    assert!(seen >= newest, "{seen} after {newest}");
                    newest = seen;
                }
                tokio::task::yield_now().await;
            }
        })
    };
    for n in 1..=50 {
        let (a, b) = (format!("a/{n}"), format!("b/{n}"));
        source.commit(&[(&a, ""), (&b, "")]);
        catalogue.refresh(&RelPath::root(), false).await;
    }
    tokio::time::timeout(Duration::from_secs(20), reader)
        .await
        .expect("the newest is seen")
        .unwrap();
}

#[tokio::test]
async fn who_cannot_be_asked_serves_what_is_known() {
    let dir = tempfile::tempdir().unwrap();
    let db = Db::open(dir.path()).unwrap();
    let source = Arc::new(Commits::default());
    source.commit(&TWO);
    over(&source, &db, None).dir(&path("a")).await.unwrap();

    // A new mount, offline: also of what nobody has listed before.
    *source.down.lock().unwrap() = Some(ErrorKind::Unreachable);
    let catalogue = over(&source, &db, None);
    for dir in ["a", "b"] {
        let known = catalogue.dir(&path(dir)).await.unwrap();
        assert_eq!(names(&known), ["one"]);
        assert_eq!(known.stale().unwrap().kind(), ErrorKind::Unreachable);
    }
    assert_eq!(
        catalogue.last_error().unwrap().1.kind(),
        ErrorKind::Unreachable
    );
    // Nothing known at all is no absence.
    *source.current.lock().unwrap() = None;
    let blank = over(&source, &Db::volatile(), None);
    let error = blank.dir(&path("a")).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unreachable);

    // It is back.
    *source.down.lock().unwrap() = None;
    let known = catalogue.refresh(&path("a"), false).await;
    assert_eq!((known.listed, known.failed), (1, 0));
    assert!(catalogue.dir(&path("a")).await.unwrap().stale().is_none());
}

#[tokio::test]
async fn who_never_answers_delays_nobody_for_long() {
    let source = Arc::new(Commits::default());
    source.commit(&TWO);
    *source.current.lock().unwrap() = Some(0);
    *source.silent.lock().unwrap() = true;
    let catalogue = over(&source, &Db::volatile(), None);
    let a = path("a");
    let known = tokio::time::timeout(Duration::from_secs(20), catalogue.dir(&a));
    assert_eq!(names(&known.await.unwrap().unwrap()), ["one"]);
    assert_eq!(source.looks.load(Ordering::Relaxed), 1);
}

#[tokio::test]
async fn what_another_process_stored_is_not_served() {
    let dir = tempfile::tempdir().unwrap();
    let db = Db::open(dir.path()).unwrap();
    let (here, there) = (Arc::new(Commits::default()), Arc::new(Commits::default()));
    for source in [&here, &there] {
        source.commit(&TWO);
    }
    there.commit(&[("a/two", "2"), ("b/two", "2")]);
    let catalogue = over(&here, &db, None);
    assert_eq!(names(&catalogue.dir(&path("a")).await.unwrap()), ["one"]);
    let other = over(&there, &db, None);
    assert_eq!(names(&other.dir(&path("b")).await.unwrap()), ["two"]);
    db.flush().await;
    assert_eq!(names(&catalogue.dir(&path("b")).await.unwrap()), ["one"]);
}
