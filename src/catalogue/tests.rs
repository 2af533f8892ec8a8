//! What a catalogue promises, against a scripted source.

use std::sync::Mutex as StdMutex;

use super::*;
use crate::entry::Version;
use crate::rows::Room;
use crate::source::ErrorKind;
use crate::source::memory::MemorySource;

/// Long enough that nothing expires while a test runs.
const LONG: Option<Duration> = Some(Duration::from_secs(3600));

/// Everything is too old at once.
const AT_ONCE: Option<Duration> = Some(Duration::ZERO);

const PATIENCE: Duration = Duration::from_millis(100);

fn path(text: &str) -> RelPath {
    RelPath::new(text).unwrap()
}

fn name(text: &str) -> Name {
    Name::new(text).unwrap()
}

fn catalogue(db: &Db, source: &Arc<MemorySource>, refresh: Option<Duration>) -> Arc<Catalogue> {
    let policy = Policy {
        refresh,
        patience: PATIENCE,
        memory: Memory::new(1 << 20),
    };
    Catalogue::new(db.clone(), source.clone(), policy)
}

fn names(dir: &Directory) -> Vec<String> {
    dir.entries().map(|e| e.unwrap().name.to_string()).collect()
}

fn kind<T: std::fmt::Debug>(result: Result<T>) -> ErrorKind {
    result.unwrap_err().kind()
}

async fn until(mut done: impl FnMut() -> bool) {
    for _ in 0..500 {
        if done() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("it never came about");
}

#[tokio::test]
async fn many_readers_make_one_request_and_share_its_error() {
    let source = MemorySource::new("a");
    source.put("d/f", "x");
    source.set_delay(Duration::from_millis(50));
    let catalogue = catalogue(&Db::volatile(), &source, LONG);
    let dir = path("d");
    let all = futures::future::join_all((0..64).map(|_| catalogue.dir(&dir))).await;
    assert!(all.iter().all(|d| names(d.as_ref().unwrap()) == ["f"]));
    assert_eq!(source.lists(), 1);
    assert_eq!(names(&catalogue.peek(&dir).unwrap()), ["f"]);

    source.set_down(Some(ErrorKind::Server));
    let root = RelPath::root();
    let all = futures::future::join_all((0..64).map(|_| catalogue.dir(&root))).await;
    assert!(all.into_iter().all(|d| kind(d) == ErrorKind::Server));
    assert_eq!(source.lists(), 2);
    // And repeats it for a moment.
    assert_eq!(kind(catalogue.dir(&root).await), ErrorKind::Server);
    assert!(catalogue.peek_result(&root).unwrap().is_err());
    assert_eq!(source.lists(), 2);
}

#[tokio::test]
async fn a_reader_that_goes_away_does_not_stop_the_listing() {
    let source = MemorySource::new("a");
    source.put("f", "x");
    source.set_delay(Duration::from_millis(100));
    let catalogue = catalogue(&Db::volatile(), &source, LONG);
    let root = RelPath::root();
    let short = Duration::from_millis(20);
    assert!(
        tokio::time::timeout(short, catalogue.dir(&root))
            .await
            .is_err()
    );
    until(|| catalogue.peek(&root).is_some()).await;
    assert_eq!(source.lists(), 1);
}

#[tokio::test]
async fn an_error_of_a_directory_is_no_absence_and_is_soon_forgotten() {
    let source = MemorySource::new("a");
    source.put("d/f", "x");
    source.set_broken("d", Some(ErrorKind::Timeout));
    let catalogue = catalogue(&Db::volatile(), &source, LONG);
    assert_eq!(kind(catalogue.dir(&path("d")).await), ErrorKind::Timeout);
    // One directory that times out says nothing of others.
    assert!(catalogue.dir(&RelPath::root()).await.is_ok());
    source.set_broken("d", None);
    let before = catalogue.changes();
    tokio::time::sleep(ERROR_MEMORY).await;
    assert!(catalogue.dir(&path("d")).await.is_ok());
    assert!(catalogue.changes() > before, "a recovery is a change");
}

#[tokio::test]
async fn an_unreachable_source_is_asked_once_for_all_directories() {
    let source = MemorySource::new("a");
    source.put("d/f", "x");
    source.set_down(Some(ErrorKind::Unreachable));
    let catalogue = catalogue(&Db::volatile(), &source, LONG);
    for dir in ["", "d", "e"] {
        assert_eq!(
            kind(catalogue.dir(&path(dir)).await),
            ErrorKind::Unreachable
        );
    }
    assert_eq!(source.lists(), 1);
}

#[tokio::test]
async fn a_remount_asks_for_nothing() {
    let home = tempfile::tempdir().unwrap();
    let source = MemorySource::new("a");
    for i in 0..300 {
        source.put(&format!("d/f{i}"), "x");
    }
    source.symlink("d/link", "f1");
    let before = {
        let db = Db::open(home.path()).unwrap();
        let catalogue = catalogue(&db, &source, LONG);
        catalogue.dir(&RelPath::root()).await.unwrap();
        let before = catalogue.dir(&path("d")).await.unwrap();
        db.flush().await;
        before
    };
    assert_eq!(source.lists(), 2);
    source.set_down(Some(ErrorKind::Unreachable));
    let db = Db::open(home.path()).unwrap();
    let catalogue = catalogue(&db, &source, LONG);
    let after = catalogue.dir(&path("d")).await.unwrap();
    catalogue.dir(&RelPath::root()).await.unwrap();
    assert_eq!(source.lists(), 2);
    let all = |dir: &Directory| dir.entries().map(|e| e.unwrap()).collect::<Vec<_>>();
    assert_eq!(all(&before), all(&after));
    assert_eq!(before.generation(), after.generation());
    assert_eq!(before.listed_at(), after.listed_at());
    assert!(after.stale().is_none());
    assert_eq!(catalogue.known_size().await, (300, 300));
}

#[tokio::test]
async fn never_means_never() {
    let home = tempfile::tempdir().unwrap();
    let db = Db::open(home.path()).unwrap();
    let source = MemorySource::new("a");
    source.put("f", "x");
    catalogue(&db, &source, None)
        .dir(&RelPath::root())
        .await
        .unwrap();
    let again = catalogue(&db, &source, None);
    let root = again.dir(&RelPath::root()).await.unwrap();
    assert_eq!(root.fresh_for(), FOREVER);
    assert_eq!(source.lists(), 1);
}

#[tokio::test]
async fn an_old_listing_is_served_at_once_and_revalidated_behind_the_readers_back() {
    let home = tempfile::tempdir().unwrap();
    let db = Db::open(home.path()).unwrap();
    let source = MemorySource::new("a");
    source.put("old", "x");
    let root = RelPath::root();
    catalogue(&db, &source, LONG).dir(&root).await.unwrap();
    db.flush().await;

    source.put("new", "x");
    source.set_delay(Duration::from_millis(300));
    let catalogue = catalogue(&db, &source, AT_ONCE);
    let heard = Arc::new(StdMutex::new(Vec::new()));
    let ear = heard.clone();
    catalogue.add_listener(Arc::new(move |dir, names| {
        ear.lock().unwrap().push((dir.clone(), names.to_vec()));
    }));
    let begun = Instant::now();
    let first = catalogue.dir(&root).await.unwrap();
    assert_eq!(names(&first), ["old"]);
    assert!(begun.elapsed() < Duration::from_millis(200), "at once");
    until(|| !heard.lock().unwrap().is_empty()).await;
    assert_eq!(*heard.lock().unwrap(), [(root.clone(), vec![name("new")])]);
    source.set_delay(Duration::ZERO);
    assert_eq!(names(&catalogue.dir(&root).await.unwrap()), ["new", "old"]);
}

#[tokio::test]
async fn a_source_that_hesitates_costs_patience_once() {
    let source = MemorySource::new("a");
    source.put("old", "x");
    let catalogue = catalogue(&Db::volatile(), &source, AT_ONCE);
    let root = RelPath::root();
    catalogue.dir(&root).await.unwrap();
    source.put("new", "x");
    source.set_delay(Duration::from_secs(2));
    let begun = Instant::now();
    let stale = catalogue.dir(&root).await.unwrap();
    assert_eq!(names(&stale), ["old"]);
    assert_eq!(stale.stale().unwrap().kind(), ErrorKind::Timeout);
    assert!(begun.elapsed() >= PATIENCE);
    let begun = Instant::now();
    for _ in 0..20 {
        catalogue.dir(&root).await.unwrap();
    }
    assert!(begun.elapsed() < Duration::from_millis(500), "not again");
    assert_eq!(source.lists(), 2);
    until(|| catalogue.recall(&root).unwrap().len() == 2).await;
}

#[tokio::test]
async fn a_failed_revalidation_serves_what_was_known_and_backs_off() {
    let source = MemorySource::new("a");
    source.put("f", "x");
    let catalogue = catalogue(&Db::volatile(), &source, AT_ONCE);
    let root = RelPath::root();
    let before = catalogue.dir(&root).await.unwrap();
    source.set_down(Some(ErrorKind::Denied));
    for _ in 0..10 {
        let stale = catalogue.dir(&root).await.unwrap();
        assert_eq!(names(&stale), ["f"]);
        assert_eq!(stale.stale().unwrap().kind(), ErrorKind::Denied);
        assert_eq!(stale.generation(), before.generation());
        assert!(stale.fresh_for() <= BACKOFF_MIN);
    }
    assert_eq!(source.lists(), 2);
    source.set_down(None);
    tokio::time::sleep(BACKOFF_MIN).await;
    assert!(catalogue.dir(&root).await.unwrap().stale().is_none());
    assert_eq!(source.lists(), 3);
}

#[tokio::test]
async fn an_outage_after_eviction_serves_what_sqlite_holds() {
    let home = tempfile::tempdir().unwrap();
    let db = Db::open(home.path()).unwrap();
    let source = MemorySource::new("a");
    source.put("f", "x");
    let catalogue = catalogue(&db, &source, AT_ONCE);
    let root = RelPath::root();
    catalogue.dir(&root).await.unwrap();
    source.set_down(Some(ErrorKind::Unreachable));
    for _ in 0..3 {
        catalogue.unremember(&root);
        let stale = catalogue.dir(&root).await.unwrap();
        assert_eq!(names(&stale), ["f"]);
        assert_eq!(stale.stale().unwrap().kind(), ErrorKind::Unreachable);
    }
    assert_eq!(source.lists(), 2, "the pause holds for evicted ones");
}

#[tokio::test]
async fn a_directory_that_is_gone_is_absent_and_its_parent_looks_again() {
    let home = tempfile::tempdir().unwrap();
    let db = Db::open(home.path()).unwrap();
    let source = MemorySource::new("a");
    source.put("d/e/f", "x");
    source.put("g", "x");
    let catalogue = catalogue(&db, &source, LONG);
    let (root, d, e) = (RelPath::root(), path("d"), path("d/e"));
    for dir in [&root, &d, &e] {
        catalogue.dir(dir).await.unwrap();
    }
    tokio::time::sleep(PATIENCE).await;
    source.remove("d");
    catalogue.report_changed(&path("d/e"));
    assert_eq!(kind(catalogue.dir(&d).await), ErrorKind::NotFound);
    assert_eq!(names(&catalogue.dir(&root).await.unwrap()), ["g"]);
    assert_eq!(
        kind(catalogue.dir(&e).await),
        ErrorKind::NotFound,
        "all below is gone"
    );
    let lists = source.lists();
    for _ in 0..10 {
        catalogue.dir(&root).await.unwrap();
        assert_eq!(kind(catalogue.dir(&d).await), ErrorKind::NotFound);
    }
    assert!(
        source.lists() - lists <= 1,
        "an absence is remembered for a moment"
    );

    source.put("d/new", "x");
    catalogue.refresh(&root, false).await;
    assert_eq!(names(&catalogue.dir(&d).await.unwrap()), ["new"], "at once");
    db.flush().await;
    assert_eq!(catalogue.superseded(&path("d/e/f")).await.len(), 1);
}

#[tokio::test]
async fn a_root_that_is_gone_is_an_outage() {
    let source = MemorySource::new("a");
    source.put("f", "x");
    let catalogue = catalogue(&Db::volatile(), &source, AT_ONCE);
    let root = RelPath::root();
    catalogue.dir(&root).await.unwrap();
    source.set_broken("", Some(ErrorKind::NotFound));
    let stale = catalogue.dir(&root).await.unwrap();
    assert_eq!(stale.stale().unwrap().kind(), ErrorKind::NotFound);
}

#[tokio::test]
async fn what_is_known_to_be_wrong_waits_for_the_source() {
    let source = MemorySource::new("a");
    source.put("old", "x");
    let catalogue = catalogue(&Db::volatile(), &source, LONG);
    let root = RelPath::root();
    catalogue.dir(&root).await.unwrap();
    source.remove("old");
    source.set_delay(PATIENCE * 3);
    catalogue.report_changed(&path("old"));
    assert!(catalogue.peek(&root).is_none());
    assert!(catalogue.dir(&root).await.unwrap().is_empty());

    // A listing under way when the report comes does not count.
    source.put("newer", "x");
    catalogue.report_changed(&path("newer"));
    let (this, at) = (catalogue.clone(), root.clone());
    let reader = tokio::spawn(async move { this.dir(&at).await });
    tokio::time::sleep(PATIENCE).await;
    let lists = source.lists();
    catalogue.report_changed(&path("newer"));
    reader.await.unwrap().unwrap();
    assert_eq!(source.lists(), lists + 1);

    // An unreachable source is not waited for twice.
    source.set_delay(Duration::ZERO);
    source.set_down(Some(ErrorKind::Unreachable));
    catalogue.report_changed(&path("newer"));
    let stale = catalogue.dir(&root).await.unwrap();
    assert_eq!(names(&stale), ["newer"]);
    assert!(stale.stale().is_some());
}

#[tokio::test]
async fn a_report_outlives_its_process() {
    let home = tempfile::tempdir().unwrap();
    let source = MemorySource::new("a");
    source.put("old", "x");
    let root = RelPath::root();
    {
        let db = Db::open(home.path()).unwrap();
        let catalogue = catalogue(&db, &source, LONG);
        catalogue.dir(&root).await.unwrap();
        catalogue.report_changed(&path("old"));
        assert!(db.close(Duration::from_secs(10)));
    }
    source.put("new", "x");
    let db = Db::open(home.path()).unwrap();
    let catalogue = catalogue(&db, &source, LONG);
    assert_eq!(catalogue.dir(&root).await.unwrap().len(), 2);
}

#[tokio::test]
async fn an_exact_size_costs_one_request_for_each_version() {
    let home = tempfile::tempdir().unwrap();
    let source = MemorySource::new("a");
    source.put("f", "four");
    source.set_coarse(true);
    let (root, f) = (RelPath::root(), name("f"));
    {
        let db = Db::open(home.path()).unwrap();
        let catalogue = catalogue(&db, &source, LONG);
        let listed = catalogue.dir(&root).await.unwrap();
        assert_eq!(listed.get("f").unwrap().unwrap().size, None);
        source.set_delay(Duration::from_millis(50));
        let all = futures::future::join_all((0..32).map(|_| catalogue.resolve(&root, &f))).await;
        assert!(all.iter().all(|e| e.as_ref().unwrap().size == Some(4)));
        assert_eq!(source.stats(), 1);
        assert_eq!(
            catalogue
                .peek(&root)
                .unwrap()
                .get("f")
                .unwrap()
                .unwrap()
                .size,
            Some(4)
        );
        assert_eq!(
            catalogue.peek(&root).unwrap().generation(),
            listed.generation()
        );
        source.set_delay(Duration::ZERO);
        catalogue.refresh(&root, false).await;
        assert_eq!(catalogue.resolve(&root, &f).await.unwrap().size, Some(4));
        assert_eq!(source.stats(), 1, "the same listing changes nothing");
        db.flush().await;
    }
    let db = Db::open(home.path()).unwrap();
    let catalogue = catalogue(&db, &source, LONG);
    let entry = catalogue.resolve(&root, &f).await.unwrap();
    assert_eq!(
        (entry.size, source.stats()),
        (Some(4), 1),
        "nor does a remount"
    );
    source.put("f", "seven 7");
    let report = catalogue.refresh(&root, false).await;
    assert_eq!(report.changed, 1);
    assert_eq!(catalogue.resolve(&root, &f).await.unwrap().size, Some(7));
    assert_eq!(source.stats(), 2);

    source.remove("f");
    source.put("g", "x");
    catalogue.refresh(&root, false).await;
    source.remove("g");
    assert_eq!(
        kind(catalogue.resolve(&root, &name("g")).await),
        ErrorKind::NotFound
    );
    assert!(
        catalogue.dir(&root).await.unwrap().is_empty(),
        "the listing follows"
    );
}

#[tokio::test]
async fn learnt_validators_stay_with_their_version() {
    let home = tempfile::tempdir().unwrap();
    let db = Db::open(home.path()).unwrap();
    let source = MemorySource::new("a");
    source.put_weak("f", "one", "1");
    let root = RelPath::root();
    let first = catalogue(&db, &source, LONG);
    let validator = |catalogue: &Arc<Catalogue>| {
        let dir = catalogue.peek(&RelPath::root()).unwrap();
        dir.get("f").unwrap().unwrap().validator.clone()
    };
    first.dir(&root).await.unwrap();
    first.learn(&path("f"), &Version::weak("other"), "no".into());
    assert_eq!(validator(&first), None);
    first.learn(&path("f"), &Version::weak("1"), "etag".into());
    first.learn(&path("f"), &Version::weak("1"), "too late".into());
    assert_eq!(validator(&first).as_deref(), Some("etag"));
    first.refresh(&root, false).await;
    assert_eq!(
        validator(&first).as_deref(),
        Some("etag"),
        "the same version"
    );
    db.flush().await;
    let second = catalogue(&db, &source, LONG);
    second.dir(&root).await.unwrap();
    assert_eq!(validator(&second).as_deref(), Some("etag"));
    source.put_weak("f", "two", "2");
    second.refresh(&root, false).await;
    assert_eq!(validator(&second), None, "another version");
}

#[tokio::test]
async fn a_probe_finds_what_the_listing_hides() {
    let source = MemorySource::new("a");
    source.put_weak("f", "one", "1");
    let catalogue = catalogue(&Db::volatile(), &source, LONG);
    let root = RelPath::root();
    let heard = Arc::new(AtomicU64::new(0));
    let ear = heard.clone();
    catalogue.add_listener(Arc::new(move |_, _| bump(&ear)));
    let held = catalogue.dir(&root).await.unwrap();
    let entry = held.get("f").unwrap().unwrap();
    assert_eq!(catalogue.last_seen(&path("f")), Some(held.listed_at()));
    let same = catalogue.probe(&path("f"), &entry).await.unwrap();
    assert_eq!(same, entry);
    assert!(catalogue.last_seen(&path("f")) > Some(held.listed_at()));
    assert_eq!(heard.load(Ordering::Relaxed), 0);

    source.put_weak("f", "longer", "2");
    let now = catalogue.probe(&path("f"), &entry).await.unwrap();
    assert_eq!(now.size, Some(6));
    let dir = catalogue.peek(&root).unwrap();
    assert_eq!(dir.get("f").unwrap().unwrap().version, Version::weak("2"));
    assert!(dir.generation() > held.generation());
    assert_eq!(heard.load(Ordering::Relaxed), 1);

    source.remove("f");
    assert_eq!(
        kind(catalogue.probe(&path("f"), &entry).await),
        ErrorKind::NotFound
    );
    assert!(catalogue.dir(&root).await.unwrap().is_empty());
}

#[tokio::test]
async fn a_refresh_counts_and_tells_what_changed() {
    let home = tempfile::tempdir().unwrap();
    let db = Db::open(home.path()).unwrap();
    let source = MemorySource::new("a");
    for file in ["keep", "change", "drop", "sub/a", "deep/er/a", "away/a"] {
        source.put(file, "1");
    }
    let catalogue = catalogue(&db, &source, LONG);
    for dir in ["", "sub", "deep", "deep/er", "away"] {
        catalogue.dir(&path(dir)).await.unwrap();
    }
    db.flush().await;
    catalogue.unremember(&path("deep/er"));
    let heard = Arc::new(StdMutex::new(Vec::new()));
    let ear = heard.clone();
    catalogue.add_listener(Arc::new(move |dir, names| {
        ear.lock().unwrap().push((dir.to_string(), names.len()));
    }));
    source.put("change", "2");
    source.put("new", "1");
    source.remove("drop");
    source.remove("away");
    source.put("sub/b", "1");
    source.put("deep/er/b", "1");
    let report = catalogue.refresh(&RelPath::root(), true).await;
    assert_eq!((report.added, report.changed, report.removed), (2, 1, 2));
    assert_eq!((report.failed, report.deferred), (0, 1));
    let heard = heard.lock().unwrap().clone();
    assert!(heard.contains(&("/".into(), 4)), "{heard:?}");
    assert!(heard.contains(&("/sub".into(), 1)), "{heard:?}");
    assert_eq!(
        names(&catalogue.dir(&path("deep/er")).await.unwrap()),
        ["a", "b"]
    );

    source.set_down(Some(ErrorKind::Timeout));
    let report = catalogue.refresh(&RelPath::root(), false).await;
    assert_eq!((report.listed, report.failed), (0, 1));
    assert_eq!(report.errors[0].1.kind(), ErrorKind::Timeout);
    source.set_down(None);
    let report = catalogue.refresh(&RelPath::root(), false).await;
    assert_eq!(
        (report.listed, report.failed),
        (1, 0),
        "no pause for those who insist"
    );
}

#[tokio::test]
async fn replaced_versions_can_be_looked_up() {
    let home = tempfile::tempdir().unwrap();
    let db = Db::open(home.path()).unwrap();
    let source = MemorySource::new("a");
    source.put("d/f", "one");
    let catalogue = catalogue(&db, &source, LONG);
    let old = catalogue.dir(&path("d")).await.unwrap();
    source.put("d/f", "two two");
    catalogue.refresh(&path("d"), false).await;
    db.flush().await;
    let past = catalogue.superseded(&path("d/f")).await;
    assert_eq!(past, [old.get("f").unwrap().unwrap()]);
    assert!(catalogue.superseded(&path("d/g")).await.is_empty());
}

#[tokio::test]
async fn memory_is_bounded() {
    let source = MemorySource::new("a");
    for dir in 0..200 {
        for file in 0..20 {
            source.put(&format!("d{dir}/f{file}"), "x");
        }
    }
    let memory = Memory::new(100_000);
    let policy = Policy {
        memory: memory.clone(),
        ..Policy::default()
    };
    let catalogue = Catalogue::new(Db::volatile(), source.clone(), policy);
    for dir in 0..200 {
        catalogue.dir(&path(&format!("d{dir}"))).await.unwrap();
    }
    memory.dirs.run_pending_tasks();
    assert!(memory.used() <= 100_000, "{}", memory.used());
    assert!(catalogue.peek(&path("d199")).is_some());
    drop(catalogue);
    memory.dirs.run_pending_tasks();
    assert_eq!(memory.used(), 0, "a catalogue leaves nothing behind");
}

#[tokio::test]
async fn two_processes_share_one_file() {
    let home = tempfile::tempdir().unwrap();
    let (one, two) = (
        Db::open(home.path()).unwrap(),
        Db::open(home.path()).unwrap(),
    );
    let source = MemorySource::new("a");
    source.put("f", "1");
    let (a, b) = (
        catalogue(&one, &source, LONG),
        catalogue(&two, &source, LONG),
    );
    let root = RelPath::root();
    a.dir(&root).await.unwrap();
    one.flush().await;
    b.dir(&root).await.unwrap();
    assert_eq!(source.lists(), 1);
    for round in 0..20 {
        source.put(&format!("g{round}"), "1");
        let which = if round % 2 == 0 { &a } else { &b };
        which.refresh(&root, false).await;
        one.flush().await;
        two.flush().await;
    }
    let third = catalogue(&one, &source, LONG);
    assert_eq!(third.dir(&root).await.unwrap().len(), 21);
    assert_eq!((one.lost_writes(), two.lost_writes()), (0, 0));
}

/// A source that panics once.
struct Panics(std::sync::atomic::AtomicBool, Arc<MemorySource>);

#[async_trait::async_trait]
impl Source for Panics {
    fn identity(&self) -> &str {
        "panics"
    }

    fn url(&self, path: &RelPath) -> String {
        self.1.url(path)
    }

    async fn list(&self, dir: &RelPath) -> Result<crate::source::Listing> {
        assert!(self.0.swap(true, Ordering::Relaxed), "told to panic");
        self.1.list(dir).await
    }

    async fn stat(&self, path: &RelPath) -> Result<Entry> {
        self.1.stat(path).await
    }

    async fn read(
        &self,
        path: &RelPath,
        entry: &Entry,
        range: std::ops::Range<u64>,
    ) -> Result<crate::source::Body> {
        self.1.read(path, entry, range).await
    }
}

#[tokio::test]
async fn a_flight_that_panics_wedges_nobody() {
    let source = Arc::new(Panics(Default::default(), MemorySource::new("a")));
    let catalogue = Catalogue::new(Db::volatile(), source, Policy::default());
    let root = RelPath::root();
    assert_eq!(kind(catalogue.dir(&root).await), ErrorKind::Interrupted);
    assert!(catalogue.dir(&root).await.is_ok());
}

#[tokio::test]
async fn a_huge_directory_is_quick() {
    const FILES: usize = 50_000;
    let home = tempfile::tempdir().unwrap();
    let db = Db::open(home.path()).unwrap();
    let listing = crate::source::Listing {
        entries: (0..FILES)
            .map(|i| {
                Entry::file(
                    name(&format!("file-{i:08}")),
                    i as u64,
                    None,
                    Version::strong(format!("etag-{i}")),
                )
            })
            .collect(),
        hidden: Vec::new(),
    };
    let dir = Arc::new(Directory::first(listing, Timestamp::now(), None));
    let row = db.source("memory:a").unwrap();
    let begun = Instant::now();
    db.write_and_wait(db::Op::Store {
        source: row,
        path: path("d"),
        dir: dir.clone(),
        base: None,
        touched: Vec::new(),
        removed: Vec::new(),
    })
    .await;
    let written = begun.elapsed();
    let begun = Instant::now();
    let loaded = db.load(row, &path("d"), &Room::default()).unwrap().dir;
    let read = begun.elapsed();
    assert_eq!(loaded.len(), FILES);
    println!("{FILES} entries: written in {written:?}, read in {read:?}");
    // Generous, for debug builds on busy machines: it is about the order of growth.
    assert!(written < Duration::from_secs(20) && read < Duration::from_secs(10));
    let begun = Instant::now();
    let mut patched = loaded;
    for i in 0..1000 {
        let row = patched
            .rows()
            .get(&format!("file-{:08}", i * 7))
            .unwrap()
            .unwrap();
        patched = patched.patched(&row, 1).unwrap().unwrap();
    }
    assert!(
        begun.elapsed() < Duration::from_secs(5),
        "{:?}",
        begun.elapsed()
    );
}
