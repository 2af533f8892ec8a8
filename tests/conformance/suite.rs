//! The suite, and what its worlds share.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use futures::StreamExt;
use svol::entry::{Entry, Kind, Version};
use svol::path::{Name, RelPath};
use svol::source::guard::{GuardOptions, Guarded, Status};
use svol::source::{Body, Error, ErrorKind, Result, Source};

use crate::common::{noise, s3};

/// A place as a volume file grafts it.
pub struct Grafted {
    /// The source's section, on one line.
    pub yaml: String,
    /// The variables that it refers to.
    pub env: Vec<(&'static str, String)>,
}

impl Grafted {
    pub fn new(yaml: impl Into<String>) -> Grafted {
        Grafted {
            yaml: yaml.into(),
            env: Vec::new(),
        }
    }
}

/// A place that a test may write to, and the source that shows it.
#[async_trait]
pub trait World: Send + Sync {
    fn source(&self) -> Arc<dyn Source>;
    async fn put(&self, path: &str, bytes: &[u8]);
    async fn delete(&self, path: &str);
    async fn put_all(&self, all: Vec<(String, Vec<u8>)>) {
        for (path, bytes) in all {
            self.put(&path, &bytes).await;
        }
    }
    /// Makes the whole place unreachable.
    async fn stop(&self);
    /// Returns where the server listens; nothing if there is none.
    fn address(&self) -> Option<SocketAddr> {
        None
    }
    /// Returns the place as a volume file has it, reached at `server` instead of its own address if
    /// that is given.
    fn grafted(&self, _server: Option<SocketAddr>) -> Grafted {
        panic!("only kinds of a volume of all are grafted")
    }
    /// Kills the server and starts it again; returns whether there is one.
    async fn restart(&self) -> bool {
        false
    }
    /// Returns whether there may be files of this name here.
    fn takes(&self, _: &str) -> bool {
        true
    }
    /// Returns a source for the same place with a wrong password, where there are any.
    fn with_wrong_credentials(&self) -> Option<Arc<dyn Source>> {
        None
    }
}

/// Puts a source behind its guard, as it always is: nginx, for one, says keep-alive with a 412
/// and then closes, so that the next request now and then has to be sent again.
pub fn guarded(source: impl Source) -> Arc<dyn Source> {
    let options = GuardOptions {
        deadline: Duration::from_secs(20),
        ..GuardOptions::default()
    };
    Arc::new(Guarded::new(Arc::new(source), "tested", options))
}

pub async fn blocking<T: Send + 'static>(work: fn() -> T) -> T {
    tokio::task::spawn_blocking(work).await.unwrap()
}

/// Files in a directory, all of them made a while ago unless rewritten.
pub struct OnDisk {
    pub root: PathBuf,
    clock: std::sync::atomic::AtomicU64,
}

impl OnDisk {
    pub fn new(root: &Path) -> OnDisk {
        std::fs::create_dir_all(root).unwrap();
        OnDisk {
            root: root.into(),
            clock: 0.into(),
        }
    }
    pub fn put(&self, path: &str, bytes: &[u8]) {
        let path = self.root.join(path);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(&path, bytes).unwrap();
        // A web server tells times in seconds: each write is minutes after the one before.
        let n = self
            .clock
            .fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        let time = std::time::UNIX_EPOCH + Duration::from_secs(1_600_000_000 + 61 * n);
        let file = std::fs::File::options().write(true).open(&path).unwrap();
        file.set_modified(time).unwrap();
    }
}

pub fn at(path: &str) -> RelPath {
    RelPath::new(path).unwrap()
}

pub async fn read(
    source: &dyn Source,
    path: &str,
    entry: &Entry,
    from: u64,
    to: u64,
) -> Result<Vec<u8>> {
    let body = source.read(&at(path), entry, from..to).await?;
    let (start, end) = (body.range.start, body.range.end);
    let all = collect(body).await?;
    assert_eq!(all.len() as u64, end - start);
    // A server without ranges sends it whole.
    Ok(all[(from - start) as usize..(to - start) as usize].to_vec())
}

pub async fn collect(mut body: Body) -> Result<Vec<u8>> {
    let mut all = Vec::new();
    while let Some(bytes) = body.stream.next().await {
        all.extend_from_slice(&bytes?);
    }
    Ok(all)
}

/// Returns a file's entry as a mount knows it: listed, then described where the listing does not
/// tell the size.
pub async fn known(source: &dyn Source, path: &str) -> Entry {
    let path = at(path);
    let listing = source.list(&path.parent().unwrap()).await.unwrap();
    let name = path.file_name().unwrap();
    let listed = listing.entries.into_iter().find(|e| e.name == name);
    let listed = listed.unwrap_or_else(|| panic!("{path} is not listed"));
    match listed.size {
        Some(_) => listed,
        None => source.stat(&path).await.unwrap(),
    }
}

pub fn kind<T: std::fmt::Debug>(result: Result<T>) -> ErrorKind {
    result.map_err(|e: Error| e.kind()).unwrap_err()
}

pub const ODD_NAMES: &[&str] = &[
    "plain.txt",
    "with space",
    " leading and trailing ",
    "per%cent",
    "per%41cent",
    "plus+sign",
    "ü-名前-🙂",
    "quo\"te's",
    "amp&amp;<b>",
    "semi;colon:x",
    "hash#tag",
    "question?mark=1",
    "back\\slash",
    "tilde~",
    "new\nline",
    "trailing newline\n",
    "tab\tbed",
    ".hidden",
    "...",
    "-dash",
    "star*[x]{y}^`|",
    "a=b,c@d!e$f(g)",
];

pub async fn names_are_exact(world: &dyn World) {
    let long = "x".repeat(255);
    let names: Vec<&str> = ODD_NAMES.iter().copied().chain([long.as_str()]).collect();
    let names: Vec<&str> = { names }
        .into_iter()
        .filter(|name| world.takes(name))
        .collect();
    for (i, name) in names.iter().enumerate() {
        world
            .put(&format!("odd/{name}"), &noise(i as u64, 100 + i))
            .await;
        world.put(&format!("dirs/{name}/file"), b"x").await;
    }
    let source = world.source();
    for (dir, want) in [("odd", Kind::File), ("dirs", Kind::Dir)] {
        let listing = source.list(&at(dir)).await.unwrap();
        let mut shown: Vec<_> = listing.entries.iter().map(|e| e.name.as_str()).collect();
        let mut wanted = names.clone();
        shown.sort_unstable();
        wanted.sort_unstable();
        assert_eq!(shown, wanted);
        assert!(listing.entries.iter().all(|e| e.kind == want));
        assert!(listing.hidden.is_empty(), "{:?}", listing.hidden);
    }
    for (i, name) in names.iter().enumerate() {
        let path = format!("odd/{name}");
        let entry = known(&*source, &path).await;
        let size = 100 + i as u64;
        assert_eq!(entry.size, Some(size), "{name:?}");
        let bytes = read(&*source, &path, &entry, 0, size).await.unwrap();
        assert_eq!(bytes, noise(i as u64, 100 + i), "{name:?}");
        let inside = source.list(&at(&format!("dirs/{name}"))).await.unwrap();
        assert_eq!(inside.entries.len(), 1, "{name:?}");
    }
}

pub async fn every_range_is_right(world: &dyn World) {
    let len = 3 * 1024 * 1024 + 17;
    let truth = noise(7, len);
    world.put("big", &truth).await;
    world.put("one", b"1").await;
    world.put("empty", b"").await;
    let source = world.source();
    let entry = known(&*source, "big").await;
    let len = len as u64;
    assert_eq!(entry.size, Some(len));
    let mib = 1024 * 1024;
    for (from, to) in [
        (0, 1),
        (0, len),
        (len - 1, len),
        (1, len - 1),
        (mib - 1, mib + 1),
        (mib, 2 * mib),
        (len - 17, len),
    ] {
        let bytes = read(&*source, "big", &entry, from, to).await.unwrap();
        assert!(bytes == truth[from as usize..to as usize], "{from}-{to}");
    }
    let one = known(&*source, "one").await;
    assert_eq!(read(&*source, "one", &one, 0, 1).await.unwrap(), b"1");
    assert_eq!(known(&*source, "empty").await.size, Some(0));
}

pub async fn many_entries(world: &dyn World) {
    let files = (0..10_000).map(|i| (format!("many/f{i:05}"), Vec::from(format!("{i}"))));
    world.put_all(files.collect()).await;
    let source = world.source();
    let listing = source.list(&at("many")).await.unwrap();
    assert_eq!(listing.entries.len(), 10_000);
    let sorted = listing.entries.is_sorted_by(|a, b| a.name < b.name);
    assert!(sorted, "sorted, and each name once");
    let entry = known(&*source, "many/f09999").await;
    let bytes = read(&*source, "many/f09999", &entry, 0, 4).await.unwrap();
    assert_eq!(bytes, b"9999");
}

pub async fn stat_agrees_with_the_listing(world: &dyn World) {
    world.put("dir/file", b"content").await;
    let source = world.source();
    let listing = source.list(&at("dir")).await.unwrap();
    let listed = &listing.entries[0];
    let stat = source.stat(&at("dir/file")).await.unwrap();
    assert_eq!(stat.name, listed.name);
    assert_eq!((stat.kind, stat.size), (Kind::File, Some(7)));
    assert!(stat.mtime.is_some());
    assert!(source.same_version(listed, &stat));
    assert!(source.same_version(&stat, listed));
    let again = world.source().stat(&at("dir/file")).await.unwrap();
    assert_eq!(again.version, stat.version, "the same after a remount");
    let relisted = world.source().list(&at("dir")).await.unwrap();
    assert_eq!(relisted.entries[0].version, listed.version);

    world.put("dir/file", b"CONTENT").await;
    let changed = source.stat(&at("dir/file")).await.unwrap();
    assert!(!source.same_version(&stat, &changed));
    assert!(!source.same_version(listed, &changed));
    let relisted = source.list(&at("dir")).await.unwrap();
    if relisted.entries[0].size.is_some() {
        assert!(!source.same_version(listed, &relisted.entries[0]));
    }
}

pub async fn what_is_not_there_is_not_found(world: &dyn World) {
    world.put("dir/file", b"x").await;
    let source = world.source();
    let ghost = Entry::file(Name::new("ghost").unwrap(), 10, None, Version::weak("10"));
    for path in ["ghost", "dir/ghost", "ghost/file", "dir/file/below"] {
        assert_eq!(
            kind(source.stat(&at(path)).await),
            ErrorKind::NotFound,
            "{path}"
        );
        let got = source.read(&at(path), &ghost, 0..10).await;
        assert_eq!(kind(got), ErrorKind::NotFound, "{path}");
    }
    for path in ["ghost", "dir/ghost", "ghost/dir", "fil"] {
        assert_eq!(
            kind(source.list(&at(path)).await),
            ErrorKind::NotFound,
            "{path}"
        );
    }
}

pub async fn changes_are_noticed(world: &dyn World) {
    let source = world.source();
    for (new, what) in [
        (&b"NEW"[..], "same size"),
        (b"longer", "longer"),
        (b"", "empty"),
    ] {
        world.put("d/f", b"old").await;
        let listed = known(&*source, "d/f").await;
        let stat = source.stat(&at("d/f")).await.unwrap();
        world.put("d/f", new).await;
        for entry in [listed, stat] {
            let got = read(&*source, "d/f", &entry, 0, 3).await;
            assert_eq!(kind(got), ErrorKind::Changed, "{what}");
        }
    }
    world.put("d/f", b"old").await;
    let entry = known(&*source, "d/f").await;
    world.delete("d/f").await;
    let got = read(&*source, "d/f", &entry, 0, 3).await;
    assert_eq!(kind(got), ErrorKind::NotFound);
}

pub async fn a_reader_gets_one_version_or_an_error(world: &dyn World) {
    let len = 8 * 1024 * 1024;
    let old = noise(1, len);
    for delete in [true, false] {
        world.put("busy/file", &old).await;
        let source = world.source();
        let entry = known(&*source, "busy/file").await;
        let range = 0..len as u64;
        let mut body = source.read(&at("busy/file"), &entry, range).await.unwrap();
        let mut all = Vec::new();
        all.extend_from_slice(&body.stream.next().await.unwrap().unwrap());
        match delete {
            true => world.delete("busy/file").await,
            false => {
                // Renamed over, as careful writers do: the server has the old one open.
                world.delete("busy/file").await;
                world.put("busy/file", &noise(2, len)).await;
            }
        }
        match collect(body).await {
            Ok(rest) => {
                all.extend_from_slice(&rest);
                assert!(all == old, "bytes of another version");
            }
            Err(error) => assert_ne!(error.kind(), ErrorKind::NotFound),
        }
    }
}

pub async fn a_restart_is_got_over(world: &dyn World) {
    let len = 16 << 20;
    let truth = noise(3, len);
    world.put("d/big", &truth).await;
    let source = world.source();
    let entry = known(&*source, "d/big").await;
    let range = 0..len as u64;
    let mut body = source.read(&at("d/big"), &entry, range).await.unwrap();
    let mut all = body.stream.next().await.unwrap().unwrap().to_vec();
    let restarted = world.restart().await;
    assert!(restarted || source.in_place().is_some(), "has a server");
    match collect(body).await {
        Ok(rest) => {
            all.extend_from_slice(&rest);
            assert!(all == truth, "bytes of nothing");
        }
        Err(error) => assert!(error.kind().is_transient(), "{error:?}"),
    }
    // The same source, with whatever connections it held.
    let again = known(&*source, "d/big").await;
    assert_eq!(again.version, entry.version);
    let bytes = read(&*source, "d/big", &again, 0, len as u64).await;
    assert!(bytes.unwrap() == truth);
    assert_eq!(source.list(&at("d")).await.unwrap().entries.len(), 1);
}

pub async fn nothing_shows_credentials(world: &dyn World) {
    world.put("d/f", b"x").await;
    let source = world.source();
    let mut texts = vec![source.identity().to_owned(), source.url(&at("d/f"))];
    assert!(texts[1].ends_with("d/f"));
    if let Some(wrong) = world.with_wrong_credentials() {
        assert_eq!(wrong.identity(), source.identity());
        let entry = source.stat(&at("d/f")).await.unwrap();
        let errors = [
            wrong.list(&at("d")).await.unwrap_err(),
            wrong.stat(&at("d/f")).await.unwrap_err(),
            wrong.read(&at("d/f"), &entry, 0..1).await.unwrap_err(),
        ];
        for error in errors {
            assert_eq!(error.kind(), ErrorKind::Denied, "{error}");
            texts.push(format!("{error} {error:?}"));
        }
    }
    for text in texts {
        assert!(
            !text.contains("hunter2") && !text.contains(s3::ACCESS),
            "{text}"
        );
    }
}

pub async fn a_dead_server_is_never_an_absence(world: &dyn World) {
    world.put("d/f", b"x").await;
    let source = world.source();
    let entry = source.stat(&at("d/f")).await.unwrap();
    let options = GuardOptions {
        deadline: Duration::from_secs(2),
        ..GuardOptions::default()
    };
    let guard = Guarded::new(source, "dead", options);
    world.stop().await;
    let is_local = guard.in_place().is_some();
    let want = match is_local {
        true => ErrorKind::Invalid,
        false => ErrorKind::Unreachable,
    };
    assert_eq!(kind(guard.list(&RelPath::root()).await), want);
    assert_eq!(kind(guard.list(&at("d")).await), want);
    assert_eq!(kind(guard.stat(&at("d/f")).await), want);
    assert_eq!(kind(guard.read(&at("d/f"), &entry, 0..1).await), want);
    assert_eq!(kind(guard.stat(&at("ghost")).await), want);
    assert_eq!(guard.health().status, Status::NotReady);
    assert_eq!(guard.is_broken(), !is_local);
}

/// Runs all of the suite that needs no server of its own, over one world for each test.
macro_rules! suite {
    ($world:ident, $make:expr, $make_own:expr) => {
        mod $world {
            use super::*;

            suite!(@tests $make,
                names_are_exact, every_range_is_right, many_entries,
                stat_agrees_with_the_listing, what_is_not_there_is_not_found,
                changes_are_noticed, a_reader_gets_one_version_or_an_error,
                nothing_shows_credentials);
            suite!(@tests $make_own, a_restart_is_got_over, a_dead_server_is_never_an_absence);
        }
    };
    (@tests $make:expr, $($test:ident),*) => {
        $(
            #[tokio::test]
            async fn $test() {
                $crate::suite::$test(&$make.await).await;
            }
        )*
    };
}
