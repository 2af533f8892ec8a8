//! A source as the filesystem sees it: what it said is remembered, and sometimes it lies.

use std::collections::{BTreeMap, HashMap};
use std::ops::Range;
use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use futures::StreamExt;
use svol::entry::{Entry, Kind};
use svol::path::RelPath;
use svol::source::memory::MemorySource;
use svol::source::{Body, ErrorKind, Listing, Result, Source};

use super::oracle::{Answer, Heard, Row, What, below, split};

/// Ranges, in the order in which they were asked for, by path and version.
type Given = HashMap<(String, String), Vec<Range<u64>>>;

/// A source that remembers what it said.
pub struct Recorder {
    inner: Arc<MemorySource>,
    heard: Mutex<Heard>,
    /// What it is to say wrongly next.
    lies: Mutex<Vec<Lie>>,
    /// What it handed out, by object.
    given: Mutex<Given>,
}

/// How a reply to a read is wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Lie {
    /// The body ends in the middle.
    Short,
    /// The body has a byte too many.
    Long,
    /// It is another range than was asked for.
    Shifted,
    /// It is of an object of another size.
    Resized,
    /// It is all of the object. That is allowed.
    Whole,
}

impl Recorder {
    pub fn new(inner: Arc<MemorySource>) -> Recorder {
        Recorder {
            inner,
            heard: Mutex::default(),
            lies: Mutex::default(),
            given: Mutex::default(),
        }
    }

    /// Lets the next read be answered wrongly, or none.
    pub fn lie(&self, lie: Option<Lie>) {
        *self.lies.lock().unwrap() = lie.into_iter().collect();
    }

    /// Returns an object and a range of it that was asked for although all of it, its beginning or
    /// its end was handed out before; forgets what was if `anew`.
    pub fn given_twice(&self, anew: bool) -> Option<String> {
        let mut given = self.given.lock().unwrap();
        let twice = given.iter().find_map(|(object, ranges)| {
            let again = (1..ranges.len()).find(|at| is_again(&ranges[*at], &ranges[..*at]));
            again.map(|at| format!("{:?} of {object:?}, after {:?}", ranges[at], &ranges[..at]))
        });
        if anew {
            given.clear();
        }
        twice
    }

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
            *row = Row {
                listed: row.listed.clone(),
                ..row_of(entry)
            };
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
        let lie = self.lies.lock().unwrap().pop();
        let body = match lie {
            Some(Lie::Whole) => {
                let size = entry.size.unwrap_or(range.end);
                self.inner.read(path, entry, 0..size).await?
            }
            Some(Lie::Shifted) if range.start > 0 => {
                let other = range.start - 1..range.end - 1;
                self.inner.read(path, entry, other).await?
            }
            _ => self.inner.read(path, entry, range.clone()).await?,
        };
        match lie {
            None => {
                let object = (path.as_str().to_owned(), entry.version.token.to_string());
                let mut given = self.given.lock().unwrap();
                given.entry(object).or_default().push(range);
                Ok(body)
            }
            Some(lie) => Ok(lie.told_of(body)),
        }
    }
}

/// What may come again in the middle of a request, rather than that there are two.
const GAP: u64 = 64 << 10;

/// Whether a request is for more than was missing, and a little between.
fn is_again(request: &Range<u64>, before: &[Range<u64>]) -> bool {
    let mut before = before.to_vec();
    before.sort_by_key(|range| range.start);
    let mut runs: Vec<Range<u64>> = Vec::new();
    for range in before {
        match runs.last_mut().filter(|run| range.start <= run.end) {
            Some(run) => run.end = run.end.max(range.end),
            None => runs.push(range),
        }
    }
    runs.iter().any(|run| {
        let within = run.start > request.start && run.end < request.end;
        let meets = run.start < request.end && request.start < run.end;
        meets && !(within && run.end - run.start <= GAP)
    })
}

impl Lie {
    fn told_of(self, body: Body) -> Body {
        let stream = body.stream;
        let one = stream.map(move |part| match (part, self) {
            (Ok(bytes), Lie::Short) => Ok(bytes.slice(..bytes.len() / 2)),
            (Ok(bytes), Lie::Long) => Ok([&bytes[..], b"!"].concat().into()),
            (part, _) => part,
        });
        Body {
            range: match self {
                // Of an object asked for from its beginning, only said to be another.
                Lie::Shifted if body.range.start == 0 => 1..body.range.end + 1,
                _ => body.range,
            },
            size: body.size + u64::from(self == Lie::Resized),
            stream: one.boxed(),
            ..body
        }
    }
}
