//! What is listed ahead, against a scripted source.

use super::*;
use crate::catalogue::{Db, Memory, Policy};
use crate::source::memory::{MemorySource, Sweeping};

const LONG: Option<Duration> = Some(Duration::from_secs(3600));

const SWEEPING: Sweeping = Sweeping {
    page: 20,
    held: false,
    unordered: false,
    error: None,
};

/// Directories `d/00` and so on, three files in each.
const DIRS: usize = 50;

fn path(text: &str) -> RelPath {
    RelPath::new(text).unwrap()
}

fn nth(n: usize) -> RelPath {
    path(&format!("d/{n:02}"))
}

fn tree(how: Sweeping) -> Arc<MemorySource> {
    let source = MemorySource::new("a");
    for n in 0..DIRS {
        for file in 0..3 {
            source.put(&format!("d/{n:02}/{file}"), "x");
        }
    }
    source.set_recursive(Some(how));
    source
}

fn catalogue(db: &Db, source: &Arc<MemorySource>) -> Arc<Catalogue> {
    let policy = Policy {
        refresh: LONG,
        patience: Duration::from_millis(100),
        memory: Memory::new(1 << 20),
    };
    Catalogue::new(db.clone(), source.clone(), policy)
}

/// Does as a reader who opens a directory; returns the names in it.
async fn open(catalogue: &Arc<Catalogue>, dir: &RelPath) -> Vec<String> {
    let known = catalogue.dir(dir).await.unwrap();
    catalogue.opened(dir, &known, &tokio::runtime::Handle::current());
    let names = known.entries().map(|entry| entry.unwrap().name.to_string());
    names.collect()
}

async fn until(what: &str, mut done: impl FnMut() -> bool) {
    for _ in 0..1000 {
        if done() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("it never came about: {what}");
}

fn is_busy(catalogue: &Catalogue) -> bool {
    lock(&catalogue.walks).is_busy()
}

/// Opens `d` and its first two directories.
async fn begin(catalogue: &Arc<Catalogue>) {
    open(catalogue, &path("d")).await;
    open(catalogue, &nth(0)).await;
    open(catalogue, &nth(1)).await;
}

#[tokio::test]
async fn a_walk_finds_the_next_directories_listed() {
    let source = tree(SWEEPING);
    let catalogue = catalogue(&Db::volatile(), &source);
    begin(&catalogue).await;
    for n in 2..DIRS {
        until("the next is listed", || catalogue.peek(&nth(n)).is_some()).await;
        assert_eq!(open(&catalogue, &nth(n)).await, ["0", "1", "2"]);
    }
    assert_eq!(source.lists(), 3);
    // Five directories to a page, markers included.
    assert!(
        source.pages() <= DIRS as u64 / 4,
        "{} pages",
        source.pages()
    );
    let counts = catalogue.counts();
    assert_eq!(counts.ahead_used, DIRS as u64 - 2);
    assert_eq!((counts.ahead, counts.ahead_wasted), (counts.ahead_used, 0));

    // Again: all is known.
    let pages = source.pages();
    begin(&catalogue).await;
    for n in 2..DIRS {
        open(&catalogue, &nth(n)).await;
    }
    until("all is done", || !is_busy(&catalogue)).await;
    assert_eq!((source.lists(), source.pages()), (3, pages));
}

#[tokio::test]
async fn no_more_is_listed_than_the_walk_has_proven() {
    let source = tree(SWEEPING);
    let catalogue = catalogue(&Db::volatile(), &source);
    begin(&catalogue).await;
    until("some are listed", || source.pages() > 0).await;
    until("all is done", || !is_busy(&catalogue)).await;
    // Three were opened: six may wait, and a page that was begun brings what it brings.
    let ahead = catalogue.counts().ahead;
    assert!((3..=11).contains(&ahead), "{ahead} listed ahead");
    let pages = source.pages();
    assert!(pages <= 3, "{pages} pages");
    // Another reader elsewhere is no proof.
    open(&catalogue, &RelPath::root()).await;
    until("all is done", || !is_busy(&catalogue)).await;
    assert_eq!(source.pages(), pages);
}

#[tokio::test]
async fn directories_here_and_there_list_nothing_ahead() {
    let source = tree(SWEEPING);
    let catalogue = catalogue(&Db::volatile(), &source);
    open(&catalogue, &path("d")).await;
    for n in [30, 4, 41, 17, 25, 9, 48, 1, 36, 12, 21] {
        open(&catalogue, &nth(n)).await;
    }
    assert!(!is_busy(&catalogue));
    assert_eq!(source.pages(), 0);
}

#[tokio::test]
async fn an_error_ahead_is_nobodys() {
    for kind in [ErrorKind::NotFound, ErrorKind::Unreachable, ErrorKind::Lied] {
        let source = tree(Sweeping {
            error: Some(kind),
            ..SWEEPING
        });
        let catalogue = catalogue(&Db::volatile(), &source);
        begin(&catalogue).await;
        until("it was tried", || {
            source.pages() == 1 && !is_busy(&catalogue)
        })
        .await;
        for n in 2..DIRS {
            assert_eq!(open(&catalogue, &nth(n)).await, ["0", "1", "2"], "{kind:?}");
        }
        assert!(catalogue.last_error().is_none());
        // It rests for a while, and after a lie for good.
        assert_eq!(source.pages(), 1);
    }
}

#[tokio::test]
async fn a_server_that_lists_in_another_order_is_not_relied_on() {
    let source = tree(Sweeping {
        unordered: true,
        page: 1000,
        ..SWEEPING
    });
    // Sorts before the slash, and so between the directory and its files.
    source.put("d/10-x/f", "x");
    source.put("d/10.f", "x");
    let catalogue = catalogue(&Db::volatile(), &source);
    begin(&catalogue).await;
    until("it was tried", || {
        source.pages() == 1 && !is_busy(&catalogue)
    })
    .await;
    for n in 2..DIRS {
        assert_eq!(open(&catalogue, &nth(n)).await, ["0", "1", "2"]);
    }
    assert_eq!(source.pages(), 1);
    assert_eq!(catalogue.counts().ahead, 0);
}

#[tokio::test]
async fn what_comes_late_replaces_nothing_newer() {
    let source = tree(Sweeping {
        held: true,
        ..SWEEPING
    });
    let catalogue = catalogue(&Db::volatile(), &source);
    begin(&catalogue).await;
    until("a page is under way", || source.pages() == 1).await;
    source.put("d/02/new", "x");
    // Nobody waits for the page.
    assert_eq!(open(&catalogue, &nth(2)).await, ["0", "1", "2", "new"]);
    source.set_recursive(Some(SWEEPING));
    until("the page landed", || catalogue.peek(&nth(3)).is_some()).await;
    assert_eq!(open(&catalogue, &nth(2)).await, ["0", "1", "2", "new"]);
    assert_eq!(source.lists(), 4);
}

#[tokio::test]
async fn a_refresh_lets_nothing_land_that_was_asked_for_before() {
    let source = tree(Sweeping {
        held: true,
        ..SWEEPING
    });
    let catalogue = catalogue(&Db::volatile(), &source);
    begin(&catalogue).await;
    until("a page is under way", || source.pages() == 1).await;
    source.put("d/03/new", "x");
    catalogue.refresh(&RelPath::root(), true).await;
    source.set_recursive(Some(SWEEPING));
    until("the page came", || !is_busy(&catalogue)).await;
    assert_eq!(open(&catalogue, &nth(3)).await, ["0", "1", "2", "new"]);
}

#[tokio::test]
async fn what_is_gone_does_not_come_back() {
    let source = tree(Sweeping {
        held: true,
        ..SWEEPING
    });
    let catalogue = catalogue(&Db::volatile(), &source);
    begin(&catalogue).await;
    until("a page is under way", || source.pages() == 1).await;
    source.remove("d/03");
    let error = catalogue.dir(&nth(3)).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotFound);
    source.set_recursive(Some(SWEEPING));
    until("the page landed", || catalogue.peek(&nth(4)).is_some()).await;
    assert!(catalogue.peek(&nth(3)).is_none());
}

#[tokio::test]
async fn a_remount_loads_ahead_and_asks_for_nothing() {
    let home = tempfile::tempdir().unwrap();
    let source = tree(SWEEPING);
    {
        let db = Db::open(home.path()).unwrap();
        let catalogue = catalogue(&db, &source);
        open(&catalogue, &path("d")).await;
        for n in 0..DIRS {
            open(&catalogue, &nth(n)).await;
        }
        until("all is done", || !is_busy(&catalogue)).await;
        db.flush().await;
    }
    let asked = (source.lists(), source.pages());
    let db = Db::open(home.path()).unwrap();
    let catalogue = catalogue(&db, &source);
    begin(&catalogue).await;
    for n in 2..DIRS {
        until("the next is loaded", || catalogue.peek(&nth(n)).is_some()).await;
        assert_eq!(open(&catalogue, &nth(n)).await, ["0", "1", "2"]);
    }
    until("all is done", || !is_busy(&catalogue)).await;
    assert_eq!((source.lists(), source.pages()), asked);
    let counts = catalogue.counts();
    assert_eq!((counts.ahead, counts.ahead_used), (0, DIRS as u64 - 2));
}

#[tokio::test]
async fn what_was_known_before_is_compared_with() {
    let home = tempfile::tempdir().unwrap();
    let source = tree(SWEEPING);
    let db = Db::open(home.path()).unwrap();
    let generations: Vec<u64> = {
        let catalogue = catalogue(&db, &source);
        let mut generations = Vec::new();
        for n in 0..DIRS {
            generations.push(catalogue.dir(&nth(n)).await.unwrap().generation());
        }
        catalogue.dir(&path("d")).await.unwrap();
        db.flush().await;
        // For the next one all must be asked again.
        db.write_and_wait(super::super::db::Op::Invalidate {
            source: catalogue.row.unwrap(),
            path: RelPath::root(),
            recursive: true,
            at: Timestamp::now(),
        })
        .await;
        generations
    };
    source.put("d/20/new", "x");
    let catalogue = catalogue(&db, &source);
    begin(&catalogue).await;
    for n in 2..DIRS {
        until("the next is listed", || catalogue.peek(&nth(n)).is_some()).await;
        open(&catalogue, &nth(n)).await;
        let now = catalogue.peek(&nth(n)).unwrap().generation();
        assert_eq!(now == generations[n], n != 20, "{n}");
    }
    assert_eq!(source.lists(), DIRS as u64 + 1 + 3);
}
