//! What is listed ahead, against a scripted source.

use proptest::prelude::*;

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
    for (n, before) in generations.into_iter().enumerate().skip(2) {
        until("the next is listed", || catalogue.peek(&nth(n)).is_some()).await;
        open(&catalogue, &nth(n)).await;
        let now = catalogue.peek(&nth(n)).unwrap().generation();
        assert_eq!(now == before, n != 20, "{n}");
    }
    assert_eq!(source.lists(), DIRS as u64 + 1 + 3);
}

/// One thing that happens while somebody walks.
#[derive(Debug, Clone)]
enum Step {
    /// The next `0` directories are opened, from `1` on.
    Walk(usize, usize),
    Open(usize),
    Put(usize),
    Remove(usize),
    Hold(bool),
    Down(bool),
    Refresh,
    Remount,
    /// What is under way goes on.
    Wait,
}

fn a_step() -> impl Strategy<Value = Step> {
    let n = 0..DIRS;
    prop_oneof![
        6 => (1..8usize, n.clone()).prop_map(|(count, from)| Step::Walk(count, from)),
        2 => n.clone().prop_map(Step::Open),
        4 => n.clone().prop_map(Step::Put),
        1 => n.prop_map(Step::Remove),
        2 => prop::bool::ANY.prop_map(Step::Hold),
        1 => prop::bool::weighted(0.3).prop_map(Step::Down),
        1 => Just(Step::Refresh),
        1 => Just(Step::Remount),
        3 => Just(Step::Wait),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(96))]

    /// Whatever comes late, and whatever is lost: no directory is ever seen as it was before what
    /// was seen of it already, or before it was asked for anew; none is absent that is there, and
    /// after a refresh all is as it is.
    #[test]
    fn no_directory_goes_back_in_time(steps in prop::collection::vec(a_step(), 1..40)) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(walk_through(steps))?;
    }
}

async fn walk_through(steps: Vec<Step>) -> std::result::Result<(), TestCaseError> {
    let home = tempfile::tempdir().unwrap();
    let mut db = Db::open(home.path()).unwrap();
    let source = tree(SWEEPING);
    let mut known = catalogue(&db, &source);
    // Each directory has a file `new` whose version grows; what is seen of it must grow too.
    let mut truth = vec![0u64; DIRS];
    let mut least = vec![0u64; DIRS];
    let mut asked = vec![0u64; DIRS];
    let mut down = false;
    for step in steps {
        let walk = match step {
            Step::Walk(count, from) => from..(from + count).min(DIRS),
            Step::Open(n) => n..n + 1,
            Step::Put(n) => {
                source.put(&format!("d/{n:02}/new"), "x");
                truth[n] += 1;
                source.put(&format!("d/{n:02}/at-{:04}", truth[n]), "x");
                0..0
            }
            Step::Remove(n) => {
                // It comes back at once, and is not what it was.
                source.remove(&format!("d/{n:02}"));
                truth[n] += 1;
                source.put(&format!("d/{n:02}/at-{:04}", truth[n]), "x");
                0..0
            }
            Step::Hold(held) => {
                source.set_recursive(Some(Sweeping { held, ..SWEEPING }));
                0..0
            }
            Step::Down(now) => {
                down = now;
                source.set_down(now.then_some(ErrorKind::Server));
                0..0
            }
            Step::Refresh => {
                known.refresh(&RelPath::root(), true).await;
                if !down {
                    asked.clone_from(&truth);
                }
                0..0
            }
            Step::Remount => {
                db.flush().await;
                source.set_recursive(Some(SWEEPING));
                until("all is done", || !is_busy(&known)).await;
                db.flush().await;
                db = Db::open(home.path()).unwrap();
                known = catalogue(&db, &source);
                0..0
            }
            Step::Wait => {
                for _ in 0..50 {
                    tokio::task::yield_now().await;
                }
                0..0
            }
        };
        for n in walk {
            if n % 5 == 0 {
                let _ = known.dir(&path("d")).await.map(|dir| {
                    known.opened(&path("d"), &dir, &tokio::runtime::Handle::current());
                });
            }
            let dir = match known.dir(&nth(n)).await {
                Ok(dir) => dir,
                Err(error) => {
                    prop_assert_ne!(error.kind(), ErrorKind::NotFound);
                    // An error is repeated for a second.
                    prop_assert!(down || known.last_error().is_some(), "{}", error);
                    continue;
                }
            };
            known.opened(&nth(n), &dir, &tokio::runtime::Handle::current());
            let names = dir.entries().map(|entry| entry.unwrap().name.to_string());
            let seen = names
                .filter_map(|name| name.strip_prefix("at-")?.parse().ok())
                .max();
            let seen: u64 = seen.unwrap_or(0);
            prop_assert!(
                seen >= least[n],
                "{} of {} is seen after {}",
                seen,
                n,
                least[n]
            );
            // Where the source fails, what was known before is served, and says so.
            let stale = dir.stale().is_some();
            prop_assert!(
                stale || seen >= asked[n],
                "{} of {} is not as asked",
                seen,
                n
            );
            prop_assert!(seen <= truth[n]);
            least[n] = seen;
        }
    }
    Ok(())
}
