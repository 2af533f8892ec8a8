//! What every source must do, shown on a real server of its kind.
//!
//! The suite is a set of functions over a [`World`]: a place that can be written to, and the
//! source that reads it. A new kind of source is a new world and one line of `suite!`.

mod common;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use common::s3::TestS3;
use common::web::{PASSWORD, TestNginx, USER};
use common::{noise, s3};
use futures::StreamExt;
use svol::entry::{Entry, Kind, Version};
use svol::path::{Name, RelPath};
use svol::source::guard::{GuardOptions, Guarded, Status};
use svol::source::http::{
    HttpAuth, HttpSettings, HttpSource, ManifestFormat, ManifestPlace, ManifestSettings,
};
use svol::source::local::LocalSource;
use svol::source::s3::S3Source;
use svol::source::{Body, Error, ErrorKind, Result, Secret, Source};

/// A place that a test may write to, and the source that shows it.
#[async_trait]
trait World: Send + Sync {
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
fn guarded(source: impl Source) -> Arc<dyn Source> {
    let options = GuardOptions {
        deadline: Duration::from_secs(20),
        ..GuardOptions::default()
    };
    Arc::new(Guarded::new(Arc::new(source), "tested", options))
}

struct InBucket {
    server: TestS3Ref,
    bucket: String,
}

/// A server that is shared, or this world's own, to be stopped.
enum TestS3Ref {
    Shared(&'static TestS3),
    Own(Box<TestS3>),
}

impl InBucket {
    async fn new(own: bool) -> InBucket {
        let server = match own {
            true => TestS3Ref::Own(Box::new(blocking(TestS3::start).await)),
            false => TestS3Ref::Shared(blocking(TestS3::shared).await),
        };
        let mut world = InBucket {
            server,
            bucket: String::new(),
        };
        world.bucket = world.server().bucket("conformance").await;
        // A neighbour whose name begins alike must never show.
        world.server().put(&world.bucket, "rooted/wrong", "x").await;
        world
    }

    fn server(&self) -> &TestS3 {
        match &self.server {
            TestS3Ref::Shared(server) => server,
            TestS3Ref::Own(server) => server,
        }
    }

    fn settings(&self) -> svol::source::s3::S3Settings {
        let mut settings = self.server().settings(&self.bucket);
        settings.prefix = "root/".into();
        settings
    }
}

async fn blocking<T: Send + 'static>(work: fn() -> T) -> T {
    tokio::task::spawn_blocking(work).await.unwrap()
}

#[async_trait]
impl World for InBucket {
    fn source(&self) -> Arc<dyn Source> {
        guarded(S3Source::new(self.settings(), &s3::no_env()).unwrap())
    }
    async fn put(&self, path: &str, bytes: &[u8]) {
        let key = format!("root/{path}");
        self.server().put(&self.bucket, &key, bytes).await;
    }
    async fn put_all(&self, all: Vec<(String, Vec<u8>)>) {
        let all = all.into_iter().map(|(p, b)| (format!("root/{p}"), b));
        self.server().put_all(&self.bucket, all).await;
    }
    async fn delete(&self, path: &str) {
        let key = format!("root/{path}");
        self.server().delete(&self.bucket, &key).await;
    }
    async fn stop(&self) {
        self.server().stop();
    }
    fn takes(&self, name: &str) -> bool {
        // SeaweedFS stores a backslash as a slash.
        !name.contains('\\')
    }
    fn with_wrong_credentials(&self) -> Option<Arc<dyn Source>> {
        let mut settings = self.settings();
        if let Some(keys) = &mut settings.credentials {
            keys.secret_access_key = Secret::fixed("wrong-hunter2");
        }
        Some(Arc::new(S3Source::new(settings, &s3::no_env()).unwrap()))
    }
}

/// Files in a directory, all of them made a while ago unless rewritten.
struct OnDisk {
    root: PathBuf,
    clock: std::sync::atomic::AtomicU64,
}

impl OnDisk {
    fn new(root: &Path) -> OnDisk {
        std::fs::create_dir_all(root).unwrap();
        OnDisk {
            root: root.into(),
            clock: 0.into(),
        }
    }
    fn put(&self, path: &str, bytes: &[u8]) {
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

struct Local {
    dir: tempfile::TempDir,
    disk: OnDisk,
}

impl Local {
    async fn new(_: bool) -> Local {
        let dir = tempfile::tempdir().unwrap();
        let disk = OnDisk::new(&dir.path().join("root"));
        Local { dir, disk }
    }
}

#[async_trait]
impl World for Local {
    fn source(&self) -> Arc<dyn Source> {
        guarded(LocalSource::new(&self.disk.root).unwrap())
    }
    async fn put(&self, path: &str, bytes: &[u8]) {
        self.disk.put(path, bytes);
    }
    async fn delete(&self, path: &str) {
        std::fs::remove_file(self.disk.root.join(path)).unwrap();
    }
    async fn stop(&self) {
        std::fs::rename(&self.disk.root, self.dir.path().join("gone")).unwrap();
    }
}

struct OnWeb {
    nginx: TestNginx,
    disk: OnDisk,
    settings: HttpSettings,
}

impl OnWeb {
    async fn new(way: &str) -> OnWeb {
        let nginx = blocking(TestNginx::start).await;
        let mut settings = nginx.settings(&format!("{way}/root/"));
        if way == "auth" {
            settings.auth = Some(HttpAuth::Basic {
                username: USER.into(),
                password: Secret::fixed(PASSWORD),
            });
        }
        let disk = OnDisk::new(&nginx.root.join("root"));
        OnWeb {
            nginx,
            disk,
            settings,
        }
    }
}

#[async_trait]
impl World for OnWeb {
    fn source(&self) -> Arc<dyn Source> {
        guarded(HttpSource::new(self.settings.clone()).unwrap())
    }
    async fn put(&self, path: &str, bytes: &[u8]) {
        self.disk.put(path, bytes);
    }
    async fn delete(&self, path: &str) {
        std::fs::remove_file(self.disk.root.join(path)).unwrap();
    }
    async fn stop(&self) {
        self.nginx.stop();
    }
    fn takes(&self, name: &str) -> bool {
        // nginx lists no hidden files.
        !name.starts_with('.')
    }
    fn with_wrong_credentials(&self) -> Option<Arc<dyn Source>> {
        let mut settings = self.settings.clone();
        match &mut settings.auth {
            Some(HttpAuth::Basic { password, .. }) => *password = Secret::fixed("wrong-hunter2"),
            _ => return None,
        }
        Some(Arc::new(HttpSource::new(settings).unwrap()))
    }
}

fn at(path: &str) -> RelPath {
    RelPath::new(path).unwrap()
}

async fn read(
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

async fn collect(mut body: Body) -> Result<Vec<u8>> {
    let mut all = Vec::new();
    while let Some(bytes) = body.stream.next().await {
        all.extend_from_slice(&bytes?);
    }
    Ok(all)
}

/// Returns a file's entry as a mount knows it: listed, then described where the listing does not
/// tell the size.
async fn known(source: &dyn Source, path: &str) -> Entry {
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

fn kind<T: std::fmt::Debug>(result: Result<T>) -> ErrorKind {
    result.map_err(|e: Error| e.kind()).unwrap_err()
}

const ODD_NAMES: &[&str] = &[
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

async fn names_are_exact(world: &dyn World) {
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

async fn every_range_is_right(world: &dyn World) {
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

async fn many_entries(world: &dyn World) {
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

async fn stat_agrees_with_the_listing(world: &dyn World) {
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

async fn what_is_not_there_is_not_found(world: &dyn World) {
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

async fn changes_are_noticed(world: &dyn World) {
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

async fn a_reader_gets_one_version_or_an_error(world: &dyn World) {
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

async fn nothing_shows_credentials(world: &dyn World) {
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

async fn a_dead_server_is_never_an_absence(world: &dyn World) {
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
            suite!(@tests $make_own, a_dead_server_is_never_an_absence);
        }
    };
    (@tests $make:expr, $($test:ident),*) => {
        $(
            #[tokio::test]
            async fn $test() {
                super::$test(&$make.await).await;
            }
        )*
    };
}

suite!(local, Local::new(false), Local::new(true));
suite!(s3_bucket, InBucket::new(false), InBucket::new(true));
suite!(http_index, OnWeb::new("html"), OnWeb::new("html"));
suite!(http_json, OnWeb::new("json"), OnWeb::new("json"));
suite!(
    http_no_ranges,
    OnWeb::new("noranges"),
    OnWeb::new("noranges")
);
suite!(http_password, OnWeb::new("auth"), OnWeb::new("auth"));

#[tokio::test]
async fn hostile_keys_are_hidden_and_counted() {
    let world = InBucket::new(false).await;
    let (server, bucket) = (world.server(), world.bucket.clone());
    for key in [
        "k/a",
        "k/a/b",
        "k/m/",
        "k/plain",
        "k/sub/x/y",
        "kk/wrong",
        "k",
    ] {
        server.put(&bucket, key, "x").await;
    }
    let mut settings = server.settings(&bucket);
    settings.prefix = "/k/".into();
    let source = S3Source::new(settings.clone(), &s3::no_env()).unwrap();
    let listing = source.list(&RelPath::root()).await.unwrap();
    let shown: Vec<_> = listing
        .entries
        .iter()
        .map(|e| (e.name.as_str(), e.kind))
        .collect();
    let want = [
        ("a", Kind::Dir),
        ("m", Kind::Dir),
        ("plain", Kind::File),
        ("sub", Kind::Dir),
    ];
    assert_eq!(shown, want);
    assert_eq!(
        listing.hidden.len(),
        1,
        "`a` beside `a/`: {:?}",
        listing.hidden
    );
    assert!(source.list(&at("m")).await.unwrap().entries.is_empty());

    // The key of an object as prefix: a directory of it alone.
    settings.prefix = "k/plain".into();
    for ask_first in [true, false] {
        let single = S3Source::new(settings.clone(), &s3::no_env()).unwrap();
        if ask_first {
            let listing = single.list(&RelPath::root()).await.unwrap();
            assert_eq!(listing.entries.len(), 1);
            assert_eq!(listing.entries[0].name.as_str(), "plain");
        }
        let entry = single.stat(&at("plain")).await.unwrap();
        assert_eq!(read(&single, "plain", &entry, 0, 1).await.unwrap(), b"x");
    }
    // A prefix that nothing begins with is an empty directory; a bucket that is not there is not.
    settings.prefix = "nothing/here".into();
    let empty = S3Source::new(settings.clone(), &s3::no_env()).unwrap();
    assert!(
        empty
            .list(&RelPath::root())
            .await
            .unwrap()
            .entries
            .is_empty()
    );
    settings.bucket = "no-such-bucket".into();
    let none = S3Source::new(settings, &s3::no_env()).unwrap();
    for error in [
        none.list(&RelPath::root()).await.map(|_| ()).unwrap_err(),
        none.stat(&at("f")).await.map(|_| ()).unwrap_err(),
    ] {
        assert_eq!(error.kind(), ErrorKind::Invalid, "{error}");
        assert!(error.to_string().contains("no-such-bucket"), "{error}");
    }
}

#[tokio::test]
async fn a_public_bucket_needs_no_keys() {
    let server = blocking(TestS3::shared).await;
    let bucket = server.bucket("public").await;
    server.put(&bucket, "f", "x").await;
    let mut settings = server.settings(&bucket);
    settings.credentials = None;
    settings.anonymous = true;
    let source = S3Source::new(settings.clone(), &s3::no_env()).unwrap();
    assert_eq!(
        source.list(&RelPath::root()).await.unwrap().entries.len(),
        1
    );
    settings.bucket = server.bucket("private").await;
    let source = S3Source::new(settings, &s3::no_env()).unwrap();
    let error = source.list(&RelPath::root()).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Denied);
    assert!(error.to_string().contains("--no-sign-request"), "{error}");
}

#[tokio::test]
async fn a_manifest_is_a_tree() {
    let world = OnWeb::new("plain").await;
    world.put("a/b.bin", b"abc").await;
    world.put("c", b"ccc").await;
    world.put("not listed", b"").await;
    let digest = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
    let manifest = format!("{digest}  ./a/b.bin\n{digest} *c\n{digest}  missing\n");
    world.put("SHA256SUMS", manifest.as_bytes()).await;
    let mut settings = world.settings.clone();
    let place = settings.url.join("SHA256SUMS").unwrap();
    for place in [
        ManifestPlace::Url(place),
        ManifestPlace::File(world.disk.root.join("SHA256SUMS")),
    ] {
        settings.manifest = Some(ManifestSettings {
            place,
            format: ManifestFormat::Sha256sum,
        });
        let source = HttpSource::new(settings.clone()).unwrap();
        let root = source.list(&RelPath::root()).await.unwrap();
        let names: Vec<_> = root.entries.iter().map(|e| e.name.as_str()).collect();
        assert_eq!(names, ["a", "c", "missing"]);
        let listed = source.list(&at("a")).await.unwrap().entries.remove(0);
        assert!(listed.version.strong && listed.digest.is_some() && listed.size.is_none());
        let stat = source.stat(&at("a/b.bin")).await.unwrap();
        assert_eq!(stat.version, listed.version);
        assert_eq!(stat.size, Some(3));
        assert!(source.same_version(&listed, &stat));
        assert_eq!(read(&source, "a/b.bin", &stat, 1, 3).await.unwrap(), b"bc");
        for path in ["not listed", "missing"] {
            assert_eq!(kind(source.stat(&at(path)).await), ErrorKind::NotFound);
        }
        assert_eq!(kind(source.list(&at("x")).await), ErrorKind::NotFound);
        // The list grows: the next look at the root shows it.
        let longer = format!("{manifest}{digest}  new\n");
        world.put("SHA256SUMS", longer.as_bytes()).await;
        assert_eq!(
            source.list(&RelPath::root()).await.unwrap().entries.len(),
            4
        );
        world.put("SHA256SUMS", manifest.as_bytes()).await;
    }
}

#[tokio::test]
async fn a_url_without_a_slash_is_what_the_server_says() {
    let world = OnWeb::new("html").await;
    world.put("dir/page.html", b"<html>no index</html>").await;
    let settings = |path: &str| world.nginx.settings(path);
    let file = HttpSource::new(settings("html/root/dir/page.html?x=1")).unwrap();
    let listing = file.list(&RelPath::root()).await.unwrap();
    assert_eq!(listing.entries.len(), 1);
    assert_eq!(listing.entries[0].size, Some(21));
    let entry = file.stat(&at("page.html")).await.unwrap();
    assert_eq!(
        read(&file, "page.html", &entry, 1, 5).await.unwrap(),
        b"html"
    );
    assert_eq!(kind(file.stat(&at("other")).await), ErrorKind::NotFound);

    let tree = HttpSource::new(settings("html/root/dir")).unwrap();
    let listing = tree.list(&RelPath::root()).await.unwrap();
    assert_eq!(listing.entries[0].name.as_str(), "page.html");

    for (path, want) in [
        ("html/root/none", ErrorKind::Invalid),
        ("html/root/none/", ErrorKind::Invalid),
        ("odd/", ErrorKind::Lied),
        ("plain/root/dir/", ErrorKind::Denied),
    ] {
        let source = HttpSource::new(settings(path)).unwrap();
        assert_eq!(kind(source.list(&RelPath::root()).await), want, "{path}");
    }
}

#[tokio::test]
async fn https_wants_a_certificate_that_is_trusted() {
    let world = OnWeb::new("html").await;
    world.put("f", b"over TLS").await;
    let url = |path: &str| url::Url::parse(&format!("{}/{path}", world.nginx.https)).unwrap();
    let mut settings = HttpSettings::new(url("html/root/"));
    let source = HttpSource::new(settings.clone()).unwrap();
    let error = source.list(&RelPath::root()).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Invalid, "{error}");
    assert!(error.to_string().contains("certificate"), "{error}");

    settings.ca_bundle = Some(world.nginx.ca());
    let source = HttpSource::new(settings.clone()).unwrap();
    let entry = known(&source, "f").await;
    assert_eq!(read(&source, "f", &entry, 0, 8).await.unwrap(), b"over TLS");

    settings.url = url("down/");
    let source = HttpSource::new(settings.clone()).unwrap();
    let error = source.list(&RelPath::root()).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Invalid, "{error}");
    assert!(error.to_string().contains("from https to http"), "{error}");

    settings.ca_bundle = Some(world.disk.root.join("f"));
    let error = HttpSource::new(settings).map(|_| ()).unwrap_err();
    assert!(error.to_string().contains("CA bundle"), "{error}");
}
