use std::collections::VecDeque;

use bytes::Bytes;

use super::*;
use crate::entry::Version;
use crate::path::Name;

/// What a scripted source does next.
#[derive(Clone)]
enum Step {
    Fail(ErrorKind),
    FailAfter(ErrorKind, Duration),
    Hang,
    Pages(u32, Duration),
    Body(Vec<Piece>),
    Serve,
}

#[derive(Clone)]
enum Piece {
    Bytes(usize),
    Hang,
}

#[derive(Default)]
struct Scripted(Mutex<VecDeque<Step>>);

impl Scripted {
    fn next(&self) -> Step {
        self.0.lock().unwrap().pop_front().unwrap_or(Step::Serve)
    }

    async fn act(&self) -> Result<()> {
        match self.next() {
            Step::Fail(kind) => Err(Error::new(kind, "scripted")),
            Step::FailAfter(kind, pause) => {
                Err(Error::new(kind, "scripted").with_retry_after(pause))
            }
            Step::Hang => std::future::pending().await,
            Step::Pages(n, each) => {
                for _ in 0..n {
                    tokio::time::sleep(each).await;
                    progress::note();
                }
                Ok(())
            }
            Step::Serve | Step::Body(_) => Ok(()),
        }
    }
}

fn entry() -> Entry {
    Entry::file(Name::new("f").unwrap(), 10, None, Version::strong("v"))
}

#[async_trait]
impl Source for Scripted {
    fn identity(&self) -> &str {
        "scripted"
    }

    fn url(&self, path: &RelPath) -> String {
        format!("scripted:{path}")
    }

    async fn list(&self, _: &RelPath) -> Result<Listing> {
        self.act().await.map(|()| Listing::default())
    }

    async fn stat(&self, _: &RelPath) -> Result<Entry> {
        self.act().await.map(|()| entry())
    }

    async fn read(&self, _: &RelPath, _: &Entry, range: Range<u64>) -> Result<Body> {
        let pieces = match self.next() {
            Step::Body(pieces) => pieces,
            _ => vec![Piece::Bytes((range.end - range.start) as usize)],
        };
        let stream = futures::stream::iter(pieces).then(|piece| async move {
            match piece {
                Piece::Bytes(n) => Ok(Bytes::from(vec![7; n])),
                Piece::Hang => std::future::pending().await,
            }
        });
        Ok(Body {
            range,
            size: 10,
            validator: None,
            stream: stream.boxed(),
        })
    }
}

fn guarded(steps: impl IntoIterator<Item = Step>, options: GuardOptions) -> Guarded {
    let source = Scripted(Mutex::new(steps.into_iter().collect()));
    Guarded::new(Arc::new(source), "scripted", options)
}

fn file() -> RelPath {
    RelPath::new("f").unwrap()
}

async fn all(mut body: Body) -> Result<usize> {
    let mut n = 0;
    while let Some(bytes) = body.stream.next().await {
        n += bytes?.len();
    }
    Ok(n)
}

#[tokio::test(start_paused = true)]
async fn transient_failures_are_retried_and_others_are_not() {
    use ErrorKind::*;
    for kind in [Interrupted, Throttled, Server, Unreachable] {
        let guard = guarded([Step::Fail(kind), Step::Fail(kind)], Default::default());
        assert!(guard.stat(&file()).await.is_ok(), "{kind:?}");
        let counters = guard.counters();
        assert_eq!((counters.requests, counters.retries), (3, 2), "{kind:?}");
        assert_eq!(guard.health().status, Status::Ready);
    }
    // Once: it may be the reply to another request.
    let guard = guarded([Step::Fail(Lied)], Default::default());
    assert!(guard.stat(&file()).await.is_ok());
    let guard = guarded([Step::Fail(Lied), Step::Fail(Lied)], Default::default());
    assert_eq!(guard.stat(&file()).await.unwrap_err().kind(), Lied);
    assert_eq!(guard.counters().requests, 2);
    for kind in [NotFound, Changed, Denied, NotNow, Invalid] {
        let guard = guarded([Step::Fail(kind)], Default::default());
        let error = guard.stat(&file()).await.unwrap_err();
        assert_eq!(error.kind(), kind);
        assert_eq!(guard.counters().requests, 1);
        assert_eq!(error.to_string(), "source scripted: stat /f: scripted");
    }
}

#[tokio::test(start_paused = true)]
async fn silence_ends_at_the_deadline() {
    let guard = guarded([Step::Hang], Default::default());
    let start = Instant::now();
    let error = guard.stat(&file()).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Timeout);
    assert_eq!(start.elapsed(), Duration::from_secs(30));
    assert_eq!(guard.health().reason, "Timeout");
}

#[tokio::test(start_paused = true)]
async fn retries_end_at_the_deadline_too() {
    let guard = guarded(
        vec![Step::Fail(ErrorKind::Server); 1000],
        Default::default(),
    );
    let start = Instant::now();
    let error = guard.stat(&file()).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Server);
    assert!(start.elapsed() <= Duration::from_secs(30));
    assert!(guard.counters().requests < 50, "{:?}", guard.counters());
}

#[tokio::test(start_paused = true)]
async fn a_long_retry_after_fails_at_once_and_a_short_one_is_waited_for() {
    let asks = |secs| Step::FailAfter(ErrorKind::Throttled, Duration::from_secs(secs));
    let start = Instant::now();
    let guard = guarded([asks(3)], Default::default());
    assert!(guard.stat(&file()).await.is_ok());
    assert!(start.elapsed() >= Duration::from_secs(3));
    let start = Instant::now();
    let guard = guarded([asks(300)], Default::default());
    assert!(guard.stat(&file()).await.is_err());
    assert_eq!(start.elapsed(), Duration::ZERO);
}

#[tokio::test(start_paused = true)]
async fn a_long_listing_lives_on_its_progress() {
    let second = Duration::from_secs(1);
    let guard = guarded([Step::Pages(300, second)], Default::default());
    assert!(guard.list(&RelPath::root()).await.is_ok());
    let guard = guarded([Step::Pages(10_000, second)], Default::default());
    let start = Instant::now();
    assert!(
        guard.list(&RelPath::root()).await.is_err(),
        "yet not for ever"
    );
    assert!(start.elapsed() <= Duration::from_secs(601));
    let guard = guarded([Step::Pages(2, second * 31)], Default::default());
    assert!(guard.list(&RelPath::root()).await.is_err());
}

#[tokio::test(start_paused = true)]
async fn a_dead_source_fails_fast_until_it_is_back() {
    let guard = guarded(vec![Step::Hang; 3], Default::default());
    for _ in 0..3 {
        assert!(guard.stat(&file()).await.is_err());
    }
    assert!(guard.is_broken());
    let start = Instant::now();
    let error = guard.stat(&file()).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unreachable);
    assert_eq!(start.elapsed(), Duration::ZERO);
    tokio::time::sleep(Duration::from_secs(2)).await;
    assert!(guard.stat(&file()).await.is_ok());
    assert!(!guard.is_broken());
    assert_eq!(guard.health().status, Status::Ready);
}

#[tokio::test(start_paused = true)]
async fn bodies_are_watched() {
    use Piece::*;
    let bodies = [
        (vec![Bytes(4), Bytes(6)], None),
        (vec![Bytes(4), Hang], Some(ErrorKind::Timeout)),
        (vec![Bytes(4)], Some(ErrorKind::Interrupted)),
        (vec![Bytes(4), Bytes(7)], Some(ErrorKind::Lied)),
    ];
    for (pieces, want) in bodies {
        let guard = guarded([Step::Body(pieces)], Default::default());
        let body = guard.read(&file(), &entry(), 0..10).await.unwrap();
        let got = all(body).await;
        assert_eq!(got.as_ref().err().map(Error::kind), want);
        if want.is_none() {
            assert_eq!(guard.counters().bytes, 10);
        } else if want != Some(ErrorKind::Timeout) {
            assert!(guard.counters().bytes >= 4);
        }
    }
}

#[tokio::test(start_paused = true)]
async fn no_more_than_the_limit_at_once() {
    let options = GuardOptions {
        concurrency: 2,
        ..Default::default()
    };
    let guard = guarded([], options);
    let one = guard.read(&file(), &entry(), 0..10).await.unwrap();
    let two = guard.read(&file(), &entry(), 0..10).await.unwrap();
    let error = guard.read(&file(), &entry(), 0..10).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Timeout);
    assert!(error.to_string().contains("busy"), "{error}");
    drop(one);
    assert_eq!(all(two).await.unwrap(), 10);
    assert!(guard.read(&file(), &entry(), 0..10).await.is_ok());
    assert!(guard.read(&file(), &entry(), 0..10).await.is_ok());
}

#[tokio::test(start_paused = true)]
async fn bandwidth_is_limited() {
    let options = GuardOptions {
        bandwidth: Some(Arc::new(Bandwidth::new(10))),
        ..Default::default()
    };
    let guard = guarded([], options);
    let start = Instant::now();
    for _ in 0..5 {
        let body = guard.read(&file(), &entry(), 0..10).await.unwrap();
        all(body).await.unwrap();
    }
    let took = start.elapsed().as_secs_f64();
    assert!((4.8..=5.1).contains(&took), "{took}");
}

#[tokio::test(start_paused = true)]
async fn a_probe_that_nobody_waits_for_blocks_no_other() {
    let guard = guarded(vec![Step::Hang; 4], Default::default());
    for _ in 0..3 {
        assert!(guard.stat(&file()).await.is_err());
    }
    tokio::time::sleep(Duration::from_secs(2)).await;
    let path = file();
    let probe = tokio::time::timeout(Duration::from_secs(1), guard.stat(&path));
    assert!(probe.await.is_err());
    assert!(guard.stat(&file()).await.is_ok());
}

#[tokio::test(start_paused = true)]
async fn a_last_attempt_that_is_cut_short_does_not_hide_the_reason() {
    let after = |pause| {
        let first = Step::FailAfter(ErrorKind::Server, Duration::from_secs(pause));
        guarded([first, Step::Hang], GuardOptions::default())
    };
    let error = after(20).stat(&file()).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Server);
    // With time enough for an answer, its absence is the reason.
    let error = after(1).stat(&file()).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Timeout);
}

#[tokio::test(start_paused = true)]
async fn a_turn_comes_late_while_others_are_served_and_never_while_nobody_is() {
    let options = || GuardOptions {
        deadline: Duration::from_secs(30),
        concurrency: 1,
        ..GuardOptions::default()
    };
    // Ten listings of four pages, six seconds each: the last one's turn comes after 216 s.
    let pages = std::iter::repeat_n(Step::Pages(4, Duration::from_secs(6)), 10);
    let slow = guarded(pages, options());
    let root = RelPath::root();
    let lists = (0..10).map(|_| slow.list(&root));
    for listed in futures::future::join_all(lists).await {
        listed.unwrap();
    }
    // One that never answers has nobody wait for longer than each for itself.
    let stuck = guarded(std::iter::repeat_n(Step::Hang, 10), options());
    let started = Instant::now();
    let (one, two) = tokio::join!(stuck.stat(&root), stuck.stat(&root));
    assert_eq!(one.unwrap_err().kind(), ErrorKind::Timeout);
    assert!(two.is_err());
    assert!(
        started.elapsed() < Duration::from_secs(70),
        "{:?}",
        started.elapsed()
    );
}
