use super::*;
use crate::rows::Room;

fn aside(dir: &Path) -> usize {
    std::fs::read_dir(dir)
        .unwrap()
        .filter(|e| {
            let name = e.as_ref().unwrap().file_name();
            let name = name.to_string_lossy();
            name.contains("aside") && !name.ends_with("-wal") && !name.ends_with("-shm")
        })
        .count()
}

fn works(db: &Db) {
    let id = db.source("s").unwrap();
    assert_eq!(db.source("s"), Some(id));
    assert_ne!(db.source("t"), Some(id));
    assert!(db.is_persistent());
}

#[test]
fn a_file_that_is_no_database_is_set_aside() {
    let home = tempfile::tempdir().unwrap();
    std::fs::write(home.path().join(FILE), vec![b'x'; 10_000]).unwrap();
    works(&Db::open(home.path()).unwrap());
    assert_eq!(aside(home.path()), 1);
    works(&Db::open(home.path()).unwrap());
    assert_eq!(aside(home.path()), 1, "once");
}

#[test]
fn a_truncated_file_is_set_aside() {
    let home = tempfile::tempdir().unwrap();
    let db = Db::open(home.path()).unwrap();
    works(&db);
    assert!(db.close(Duration::from_secs(10)));
    drop(db);
    let path = home.path().join(FILE);
    Connection::open(&path)
        .unwrap()
        .execute_batch("PRAGMA wal_checkpoint(TRUNCATE)")
        .unwrap();
    let length = std::fs::metadata(&path).unwrap().len();
    assert!(length > 8192);
    std::fs::File::options()
        .write(true)
        .open(&path)
        .unwrap()
        .set_len(5000)
        .unwrap();
    works(&Db::open(home.path()).unwrap());
    assert_eq!(aside(home.path()), 1);
}

#[test]
fn another_version_is_set_aside_and_kept() {
    let home = tempfile::tempdir().unwrap();
    let path = home.path().join(FILE);
    Connection::open(&path)
        .unwrap()
        .execute_batch(
            "CREATE TABLE future (x); INSERT INTO future VALUES (7); PRAGMA user_version = 99",
        )
        .unwrap();
    works(&Db::open(home.path()).unwrap());
    let kept = std::fs::read_dir(home.path())
        .unwrap()
        .map(|e| e.unwrap().path())
        .find(|p| p.to_string_lossy().contains("aside"))
        .unwrap();
    let x: i64 = Connection::open(kept)
        .unwrap()
        .query_row("SELECT x FROM future", [], |row| row.get(0))
        .unwrap();
    assert_eq!(x, 7);
}

#[test]
fn a_file_found_corrupt_in_use_is_set_aside_by_the_next() {
    let home = tempfile::tempdir().unwrap();
    let db = Db::open(home.path()).unwrap();
    works(&db);
    let inner = db.0.as_ref().unwrap();
    let corrupt = rusqlite::Error::SqliteFailure(
        rusqlite::ffi::Error::new(rusqlite::ffi::SQLITE_CORRUPT),
        None,
    );
    inner.counters.note(&inner.path, &corrupt);
    assert!(!db.is_persistent());
    assert!(db.load(1, &RelPath::root(), &Room::default()).is_none());
    drop(db);
    works(&Db::open(home.path()).unwrap());
    assert_eq!(aside(home.path()), 1);
}

#[test]
fn many_open_a_broken_file_at_once() {
    let home = tempfile::tempdir().unwrap();
    std::fs::write(
        home.path().join(FILE),
        b"not a database, and long enough to tell",
    )
    .unwrap();
    std::thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| works(&Db::open(home.path()).unwrap()));
        }
    });
    assert_eq!(aside(home.path()), 1);
}

#[test]
fn no_directory_is_an_error() {
    let home = tempfile::tempdir().unwrap();
    let missing = home.path().join("missing");
    assert!(matches!(Db::open(&missing), Err(DbError::Io { .. })));
    assert!(!Db::volatile().is_persistent());
    assert!(Db::volatile().close(Duration::ZERO));
}

#[tokio::test]
async fn what_is_queued_is_visible_and_what_is_forgotten_is_not() {
    let home = tempfile::tempdir().unwrap();
    let db = Db::open(home.path()).unwrap();
    let source = db.source("s").unwrap();
    // Another process writes for a while.
    let mut other = Connection::open(home.path().join(FILE)).unwrap();
    let blocking = other
        .transaction_with_behavior(rusqlite::TransactionBehavior::Immediate)
        .unwrap();
    let path = RelPath::new("a/b").unwrap();
    let listing = crate::source::Listing::default();
    let dir = Arc::new(Directory::first(listing, Timestamp::now(), None));
    let store = || Op::Store {
        source,
        path: path.clone(),
        dir: dir.clone(),
        base: None,
        touched: Vec::new(),
        removed: Vec::new(),
    };
    db.write(store()).await;
    assert!(db.load(source, &path, &Room::default()).is_some());
    let root = RelPath::new("a").unwrap();
    db.write(Op::Forget { source, path: root }).await;
    assert!(db.load(source, &path, &Room::default()).is_none());
    db.write(store()).await;
    assert!(db.load(source, &path, &Room::default()).is_some());
    blocking.commit().unwrap();
    db.flush().await;
    assert!(db.load(source, &path, &Room::default()).is_some());
    assert_eq!(db.lost_writes(), 0);
    let inner = db.0.as_ref().unwrap();
    assert!(lock(&inner.pending).dirs.is_empty());
    assert!(lock(&inner.pending).gone.is_empty());
}

#[tokio::test]
async fn paths_that_only_begin_alike_are_not_below() {
    let home = tempfile::tempdir().unwrap();
    let db = Db::open(home.path()).unwrap();
    let source = db.source("s").unwrap();
    for path in ["", "a", "a/b", "a/b/c", "a.x", "a0", "b"] {
        let listing = crate::source::Listing::default();
        db.write(Op::Store {
            source,
            path: RelPath::new(path).unwrap(),
            dir: Arc::new(Directory::first(listing, Timestamp::now(), None)),
            base: None,
            touched: Vec::new(),
            removed: Vec::new(),
        })
        .await;
    }
    let a = RelPath::new("a").unwrap();
    db.write_and_wait(Op::Forget { source, path: a }).await;
    let known = |path: &str| {
        db.load(source, &RelPath::new(path).unwrap(), &Room::default())
            .is_some()
    };
    for (path, there) in [
        ("", true),
        ("a", false),
        ("a/b", false),
        ("a/b/c", false),
        ("a.x", true),
        ("a0", true),
        ("b", true),
    ] {
        assert_eq!(known(path), there, "{path}");
    }
    let marked = db
        .write_and_wait(Op::Invalidate {
            source,
            path: RelPath::root(),
            recursive: true,
            at: Timestamp::now(),
        })
        .await;
    assert_eq!(marked, 4);
}

#[tokio::test]
async fn a_row_that_was_changed_is_not_believed() {
    use crate::entry::{Entry, Kind, Version};
    for sql in [
        "UPDATE entries SET size = size + 1",
        "UPDATE entries SET name = 'g' WHERE name = 'f1'",
        "UPDATE entries SET version = 'w'",
        "UPDATE entries SET flags = flags | 32",
        "UPDATE entries SET dir = 99 WHERE name = 'f1'",
        "DELETE FROM entries WHERE name = 'f2'",
        "UPDATE dirs SET listed_at = listed_at | (1 << 62)",
        "UPDATE entries SET row_check = 0",
        "ALTER TABLE entries RENAME TO entrails",
    ] {
        let home = tempfile::tempdir().unwrap();
        let db = Db::open(home.path()).unwrap();
        let source = db.source("s").unwrap();
        let path = RelPath::new("a").unwrap();
        let entry = |n: u64| Entry {
            kind: Kind::File,
            size: Some(n),
            version: Version::strong("v"),
            ..Entry::dir(Name::new(&format!("f{n}")).unwrap())
        };
        let listing = crate::source::Listing {
            entries: (0..5).map(entry).collect(),
            ..Default::default()
        };
        let dir = Arc::new(Directory::first(listing, Timestamp::now(), None));
        db.write_and_wait(Op::Store {
            source,
            path: path.clone(),
            dir,
            base: None,
            touched: Vec::new(),
            removed: Vec::new(),
        })
        .await;
        assert!(db.load(source, &path, &Room::default()).is_some());
        let other = Connection::open(home.path().join(FILE)).unwrap();
        other.execute_batch("PRAGMA foreign_keys = OFF").unwrap();
        other.execute_batch(sql).unwrap();
        assert!(db.load(source, &path, &Room::default()).is_none(), "{sql}");
        assert!(!db.is_persistent(), "{sql}");
        drop((db, other));
        let db = Db::open(home.path()).unwrap();
        works(&db);
        assert_eq!(aside(home.path()), 1, "{sql}");
    }
}
