//! Git, on nginx with git-http-backend, on `git daemon`, and in place.
//!
//! A source's tree changes as one, when it is told to look: the worlds' sources look before
//! each operation. What was replaced can still be read by its version.

use std::net::SocketAddr;
use std::ops::Range;
use std::path::Path;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Arc, OnceLock};

use async_trait::async_trait;
use svol::entry::{Entry, Kind};
use svol::path::RelPath;
use svol::source::git::{GitAuth, GitSettings, GitSource};
use svol::source::{Body, ErrorKind, Listing, Result, Secret, Source, Whole};
use url::Url;

use crate::common::git::{Change, EPOCH, PASSWORD, Repo, TestGitDaemon, TestGitHttp, USER};
use crate::common::noise;
use crate::common::sshd::TestSshd;
use crate::suite::*;

suite!(git_http, OnGit::http("git"), OnGit::own_http("git"));
suite!(git_password, OnGit::http("auth"), OnGit::own_http("auth"));
suite!(git_no_filter, OnGit::no_filter(), OnGit::own_http("git"));
suite!(
    git_object_info,
    OnGit::object_info(),
    OnGit::own_http("git")
);
suite!(git_daemon, OnGit::daemon(), OnGit::daemon());
suite!(git_ssh, OnGit::ssh(), OnGit::ssh());
suite!(git_file, OnGit::file(), OnGit::file());

/// A repository on a server, and the directory of its source's store.
pub struct OnGit {
    server: Server,
    repo: Repo,
    url: Url,
    auth: Option<GitAuth>,
    store: tempfile::TempDir,
}

enum Server {
    Shared,
    Http(Box<TestGitHttp>),
    Daemon(Box<TestGitDaemon>),
    Ssh(Box<TestSshd>),
    Files(#[allow(dead_code)] tempfile::TempDir),
}

fn shared() -> &'static TestGitHttp {
    static SHARED: OnceLock<TestGitHttp> = OnceLock::new();
    SHARED.get_or_init(TestGitHttp::start)
}

/// A name that no other repository has.
fn unique() -> String {
    static NEXT: std::sync::atomic::AtomicU32 = std::sync::atomic::AtomicU32::new(0);
    format!("r{}.git", NEXT.fetch_add(1, Relaxed))
}

impl OnGit {
    fn new(server: Server, repo: Repo, url: &str) -> OnGit {
        OnGit {
            server,
            repo,
            url: Url::parse(url).unwrap(),
            auth: None,
            store: tempfile::tempdir().unwrap(),
        }
    }

    async fn http(way: &str) -> OnGit {
        let server = blocking(shared).await;
        let name = unique();
        let repo = server.repo(&name);
        OnGit::new(
            Server::Shared,
            repo,
            &format!("{}/{way}/{name}", server.url),
        )
        .with_auth(way)
    }

    pub async fn own_http(way: &str) -> OnGit {
        let server = blocking(TestGitHttp::start).await;
        let repo = server.repo("own.git");
        let url = format!("{}/{way}/own.git", server.url);
        OnGit::new(Server::Http(Box::new(server)), repo, &url).with_auth(way)
    }

    fn with_auth(mut self, way: &str) -> OnGit {
        self.auth = (way == "auth").then(|| GitAuth::Basic {
            username: USER.into(),
            password: Secret::fixed(PASSWORD),
        });
        self
    }

    /// On a server that knows no filters and permits nothing more than it has to.
    async fn no_filter() -> OnGit {
        let world = OnGit::http("git").await;
        world
            .repo
            .run(&["config", "uploadpack.allowFilter", "false"]);
        world
            .repo
            .run(&["config", "uploadpack.allowAnySHA1InWant", "false"]);
        world
    }

    /// On a server that tells sizes.
    async fn object_info() -> OnGit {
        let world = OnGit::http("git").await;
        world
            .repo
            .run(&["config", "transfer.advertiseObjectInfo", "true"]);
        world
    }

    async fn daemon() -> OnGit {
        let server = blocking(TestGitDaemon::start).await;
        let repo = server.repo("own.git");
        let url = format!("{}/own.git", server.url);
        OnGit::new(Server::Daemon(Box::new(server)), repo, &url)
    }

    async fn ssh() -> OnGit {
        let server = blocking(TestSshd::start).await;
        let repo = Repo::init(&server.root.join("it's own.git"), "sha1");
        repo.run(&["config", "uploadpack.allowFilter", "true"]);
        let user = crate::common::sshd::user();
        let path = Url::from_file_path(&repo.path).unwrap();
        let url = format!("ssh://{user}@127.0.0.1:{}{}", server.port, path.path());
        OnGit::new(Server::Ssh(Box::new(server)), repo, &url)
    }

    async fn file() -> OnGit {
        let dir = tempfile::tempdir().unwrap();
        let repo = Repo::init(&dir.path().join("own.git"), "sha1");
        let url = Url::from_file_path(&repo.path).unwrap();
        OnGit::new(Server::Files(dir), repo, url.as_str())
    }

    fn settings(&self) -> GitSettings {
        let ssh = match &self.server {
            Server::Ssh(server) => Some(server.settings()),
            _ => None,
        };
        GitSettings {
            ssh,
            auth: self.auth.clone(),
            ..GitSettings::new(self.url.clone(), self.store.path().join("git"))
        }
    }

    fn git(&self) -> GitSource {
        GitSource::new(self.settings()).unwrap()
    }

    fn at(&self, reference: &str) -> GitSource {
        let reference = Some(reference.to_owned());
        GitSource::new(GitSettings {
            reference,
            ..self.settings()
        })
        .unwrap()
    }
}

/// A source that looks for a new commit before each operation.
struct Looking(GitSource);

#[async_trait]
impl Source for Looking {
    fn identity(&self) -> &str {
        self.0.identity()
    }
    fn url(&self, path: &RelPath) -> String {
        self.0.url(path)
    }
    async fn list(&self, dir: &RelPath) -> Result<Listing> {
        self.0.advance().await?;
        self.0.list(dir).await
    }
    async fn stat(&self, path: &RelPath) -> Result<Entry> {
        self.0.advance().await?;
        self.0.stat(path).await
    }
    async fn read(&self, path: &RelPath, entry: &Entry, range: Range<u64>) -> Result<Body> {
        self.0.advance().await?;
        self.0.read(path, entry, range).await
    }
    fn same_version(&self, before: &Entry, now: &Entry) -> bool {
        self.0.same_version(before, now)
    }
}

#[async_trait]
impl World for OnGit {
    fn source(&self) -> Arc<dyn Source> {
        guarded(Looking(self.git()))
    }
    async fn put(&self, path: &str, bytes: &[u8]) {
        self.repo.put(path, bytes);
    }
    async fn put_all(&self, all: Vec<(String, Vec<u8>)>) {
        let put = |(path, bytes): &(String, Vec<u8>)| {
            // The borrow ends with the commit.
            (path.clone(), bytes.clone())
        };
        let all: Vec<_> = all.iter().map(put).collect();
        let changes: Vec<_> = all
            .iter()
            .map(|(path, bytes)| Change::Put("100644", path, bytes))
            .collect();
        self.repo.commit("main", &changes);
    }
    async fn delete(&self, path: &str) {
        self.repo.delete(path);
    }
    fn address(&self) -> Option<SocketAddr> {
        self.url.socket_addrs(|| None).ok()?.pop()
    }
    fn grafted(&self, server: Option<SocketAddr>) -> Grafted {
        let mut url = self.url.clone();
        if let Some(server) = server {
            url.set_port(Some(server.port())).unwrap();
        }
        Grafted::new(format!("git: {{url: '{url}', ref: main}}"))
    }
    async fn stop(&self) {
        match &self.server {
            Server::Http(server) => server.stop(),
            Server::Daemon(server) => server.stop(),
            Server::Ssh(server) => server.stop(),
            Server::Files(_) => {
                std::fs::rename(&self.repo.path, self.store.path().join("gone")).unwrap();
            }
            Server::Shared => panic!("others use it"),
        }
    }
    async fn restart(&self) -> bool {
        match &self.server {
            Server::Http(server) => server.restart(),
            Server::Daemon(server) => server.restart(),
            Server::Ssh(server) => {
                server.stop();
                server.start_again();
            }
            Server::Files(_) => return false,
            Server::Shared => panic!("others use it"),
        }
        true
    }
    fn keeps_versions(&self) -> bool {
        true
    }
    fn is_here(&self) -> bool {
        matches!(self.server, Server::Files(_))
    }
    fn with_wrong_credentials(&self) -> Option<Arc<dyn Source>> {
        let mut settings = self.settings();
        match &mut settings.auth {
            Some(GitAuth::Basic { password, .. }) => *password = Secret::fixed("wrong-hunter2"),
            _ => return None,
        }
        Some(Arc::new(Looking(GitSource::new(settings).unwrap())))
    }
}

fn names(listing: &Listing) -> Vec<&str> {
    listing.entries.iter().map(|e| e.name.as_str()).collect()
}

async fn list(source: &GitSource, dir: &str) -> Listing {
    source.list(&at(dir)).await.unwrap()
}

#[tokio::test]
async fn a_large_repository_costs_its_trees_only() {
    for way in ["git", "daemon"] {
        let world = match way {
            "git" => OnGit::own_http("git").await,
            _ => OnGit::daemon().await,
        };
        // 24 MiB in 48 files, and an old version of each.
        for version in 0..2 {
            let all: Vec<_> = (0..48u64)
                .map(|i| {
                    (
                        format!("d{}/f{i}", i % 4),
                        noise(100 * version + i, 256 * 1024),
                    )
                })
                .collect();
            world.put_all(all).await;
        }
        let source = world.git();
        for dir in ["d0", "d1", "d2", "d3"] {
            let listing = list(&source, dir).await;
            assert_eq!(listing.entries.len(), 12);
            assert!(listing.entries.iter().all(|e| e.size.is_none()));
        }
        let counters = source.counters();
        assert_eq!(
            (counters.refs.load(Relaxed), counters.fetches.load(Relaxed)),
            (1, 1)
        );
        assert!(counters.bytes.load(Relaxed) < 16 * 1024);
        if let Server::Http(server) = &world.server {
            let sent = server.sent();
            assert!(sent < 16 * 1024, "{sent} bytes");
        }
        // One file's size brings its directory's, in one request, and the bytes with them.
        let entry = source.stat(&at("d1/f1")).await.unwrap();
        assert_eq!(entry.size, Some(256 * 1024));
        assert_eq!(counters.fetches.load(Relaxed), 2);
        assert!(
            list(&source, "d1")
                .await
                .entries
                .iter()
                .all(|e| e.size.is_some())
        );
        assert!(
            list(&source, "d2")
                .await
                .entries
                .iter()
                .all(|e| e.size.is_none())
        );
        let bytes = read(&source, "d1/f1", &entry, 0, 256 * 1024).await.unwrap();
        assert!(bytes == noise(101, 256 * 1024));
        assert_eq!(counters.fetches.load(Relaxed), 2);
        // Known for good.
        let again = world.git();
        assert!(
            list(&again, "d1")
                .await
                .entries
                .iter()
                .all(|e| e.size.is_some())
        );
        assert_eq!(again.counters().refs.load(Relaxed), 0);
    }
}

#[tokio::test]
async fn a_server_that_tells_sizes_sends_no_files_for_them() {
    let world = OnGit::object_info().await;
    let all: Vec<_> = (0..500u64)
        .map(|i| (format!("d/f{i}"), noise(i, i as usize)))
        .collect();
    world.put_all(all).await;
    let source = world.git();
    for i in [7, 400] {
        let entry = source.stat(&at(&format!("d/f{i}"))).await.unwrap();
        assert_eq!(entry.size, Some(i));
    }
    let counters = source.counters();
    assert_eq!(
        (counters.infos.load(Relaxed), counters.fetches.load(Relaxed)),
        (1, 1)
    );
    assert!(
        list(&source, "d")
            .await
            .entries
            .iter()
            .all(|e| e.size.is_some())
    );
}

#[tokio::test]
async fn reads_at_one_time_are_one_request() {
    let world = OnGit::object_info().await;
    let all: Vec<_> = (0..100u64)
        .map(|i| (format!("f{i}"), noise(i, 1000)))
        .collect();
    world.put_all(all).await;
    let source = world.git();
    source.stat(&at("f0")).await.unwrap();
    let listing = list(&source, "").await;
    let counters = source.counters();
    let before = counters.fetches.load(Relaxed);
    let reads = listing.entries.iter().map(|entry| {
        let source = &source;
        async move {
            let bytes = read(source, entry.name.as_str(), entry, 0, 1000)
                .await
                .unwrap();
            let i: u64 = entry.name.as_str()[1..].parse().unwrap();
            assert!(bytes == noise(i, 1000));
        }
    });
    futures::future::join_all(reads).await;
    // All hundred are asked for within a moment; a busy machine may make two or three of it.
    let made = counters.fetches.load(Relaxed) - before;
    assert!(made <= 4, "{made} requests");
}

#[tokio::test]
async fn the_tree_moves_as_one() {
    for world in [
        OnGit::http("git").await,
        OnGit::daemon().await,
        OnGit::file().await,
    ] {
        let put = |text: &'static str| {
            let changes =
                ["a/f", "b/f", "c/d/f"].map(|path| Change::Put("100644", path, text.as_bytes()));
            world.repo.commit("main", &changes)
        };
        let first = put("one");
        let source = world.git();
        assert_eq!(source.current(), None);
        let a = list(&source, "a").await;
        assert_eq!(source.current().as_deref(), Some(&*first));
        let second = put("two");
        // Nothing of the second is seen before the first is left.
        let b = list(&source, "b").await;
        assert_eq!(a.entries[0].version, b.entries[0].version);
        assert_eq!(&*source.advance().await.unwrap(), second);
        let (a2, c2) = (list(&source, "a").await, list(&source, "c/d").await);
        assert_eq!(a2.entries[0].version, c2.entries[0].version);
        assert_ne!(a2.entries[0].version, a.entries[0].version);
        // What was open stays what it was.
        assert_eq!(
            read(&source, "a/f", &a.entries[0], 0, 3).await.unwrap(),
            b"one"
        );
        assert_eq!(
            read(&source, "a/f", &a2.entries[0], 0, 3).await.unwrap(),
            b"two"
        );
        let fetches = source.counters().fetches.load(Relaxed);
        assert_eq!(&*source.advance().await.unwrap(), second);
        assert_eq!(source.counters().fetches.load(Relaxed), fetches);
    }
}

#[tokio::test]
async fn only_what_changed_comes_again() {
    let world = OnGit::http("git").await;
    let all: Vec<_> = (0..400)
        .map(|i| (format!("d{i}/sub/f"), Vec::from(format!("{i}"))))
        .collect();
    world.put_all(all).await;
    let source = world.git();
    source.advance().await.unwrap();
    let first = source.counters().bytes.load(Relaxed);
    world.put("d7/sub/f", b"new").await;
    source.advance().await.unwrap();
    let second = source.counters().bytes.load(Relaxed) - first;
    assert!(
        first > 8_000 && second < 2_000,
        "{first}, then {second} bytes"
    );
    assert_eq!(source.counters().fetches.load(Relaxed), 2);
    for dir in ["d7/sub", "d8/sub"] {
        assert_eq!(list(&source, dir).await.entries.len(), 1);
    }
}

#[tokio::test]
async fn it_starts_without_its_server() {
    let world = OnGit::own_http("git").await;
    world.put("d/f", b"content").await;
    world
        .repo
        .commit("main", &[Change::Put("120000", "d/link", b"f")]);
    let commit = world.git().advance().await.unwrap();
    world.stop().await;
    let source = world.git();
    let listing = list(&source, "d").await;
    assert_eq!(names(&listing), ["f", "link"]);
    assert_eq!(listing.entries[1].target.as_deref(), Some("f"));
    assert_eq!(source.current(), Some(commit.clone()));
    assert_eq!(kind(source.advance().await), ErrorKind::Unreachable);
    assert_eq!(source.current(), Some(commit));
    // What is not here is not absent.
    let got = source.stat(&at("d/f")).await;
    assert_eq!(kind(got), ErrorKind::Unreachable);
    assert_eq!(kind(source.stat(&at("d/ghost")).await), ErrorKind::NotFound);
}

#[tokio::test]
async fn branches_are_pushed_over_and_deleted() {
    let world = OnGit::http("git").await;
    world.put("f", b"one").await;
    let old = world.repo.put("g", b"two");
    let source = world.git();
    source.advance().await.unwrap();
    let entry = known(&source, "g").await;
    // A history of its own.
    let forced = world
        .repo
        .commit_on("main", None, &[Change::Put("100644", "h", b"three")]);
    assert_eq!(&*source.advance().await.unwrap(), forced);
    assert_eq!(names(&list(&source, "").await), ["h"]);
    assert_eq!(read(&source, "g", &entry, 0, 3).await.unwrap(), b"two");
    // And back again.
    world.repo.run(&["update-ref", "refs/heads/main", &old]);
    assert_eq!(&*source.advance().await.unwrap(), old);
    let branch = world.at("side");
    let error = branch.list(&RelPath::root()).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Invalid, "{error}");
    assert!(error.to_string().contains("main"), "{error}");
    world
        .repo
        .commit("side", &[Change::Put("100644", "s", b"s")]);
    assert_eq!(names(&list(&branch, "").await), ["s"]);
    world.repo.run(&["branch", "-D", "side"]);
    let error = branch.advance().await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Invalid, "{error}");
    // The tree stays as it was.
    assert_eq!(names(&list(&branch, "").await), ["s"]);
}

#[tokio::test]
async fn tags_and_commits_are_shown() {
    for world in [
        OnGit::http("git").await,
        OnGit::daemon().await,
        OnGit::ssh().await,
        OnGit::file().await,
    ] {
        let first = world.repo.put("f", b"one");
        world.repo.run(&[
            "-c",
            "user.name=t",
            "-c",
            "user.email=t@t",
            "tag",
            "-a",
            "-m",
            "x",
            "v1",
            &first,
        ]);
        let second = world.repo.put("f", b"two");
        for (reference, commit, text) in [
            ("v1", &first, b"one"),
            ("refs/tags/v1", &first, b"one"),
            ("main", &second, b"two"),
            ("HEAD", &second, b"two"),
            (first.as_str(), &first, b"one"),
        ] {
            let source = world.at(reference);
            assert_eq!(&*source.advance().await.unwrap(), commit, "{reference}");
            let entry = known(&source, "f").await;
            assert_eq!(read(&source, "f", &entry, 0, 3).await.unwrap(), text);
        }
        let tag = world.at("v1");
        tag.advance().await.unwrap();
        world.repo.run(&["tag", "-f", "v1", &second]);
        assert_eq!(&*tag.advance().await.unwrap(), second, "{}", world.url);
        let none = world.at(&"0123456789".repeat(4));
        let error = none.advance().await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Invalid, "{error}");
    }
}

#[tokio::test]
async fn what_trees_hold_is_shown() {
    for world in [
        OnGit::http("git").await,
        OnGit::no_filter().await,
        OnGit::file().await,
    ] {
        let pointer = b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 12345\n";
        let long = vec![b'x'; 5000];
        world.repo.commit(
            "main",
            &[
                Change::Put("100644", "plain", b"text"),
                Change::Put("100755", "run", b"#!/bin/sh\n"),
                Change::Put("120000", "inside", b"sub/file"),
                Change::Put("120000", "outside", b"../../etc/passwd"),
                Change::Put("120000", "too long", &long),
                Change::Put("100644", "sub/file", b"below"),
                Change::Put("100644", "large.bin", pointer),
                Change::Module("module", "0123456789012345678901234567890123456789"),
            ],
        );
        let source = world.git();
        let root = list(&source, "").await;
        assert_eq!(
            names(&root),
            [
                "inside",
                "large.bin",
                "module",
                "outside",
                "plain",
                "run",
                "sub"
            ]
        );
        assert_eq!(root.hidden.len(), 1, "{:?}", root.hidden);
        let find = |name: &str| {
            root.entries
                .iter()
                .find(|e| e.name.as_str() == name)
                .unwrap()
        };
        assert_eq!(find("run").executable, Some(true));
        assert_eq!(find("plain").executable, Some(false));
        assert_eq!(find("inside").kind, Kind::Symlink);
        assert_eq!(find("inside").target.as_deref(), Some("sub/file"));
        assert_eq!(
            source.stat(&at("inside")).await.unwrap().target.as_deref(),
            Some("sub/file")
        );
        // Whether it leads out is for whoever knows the volume.
        assert_eq!(find("outside").target.as_deref(), Some("../../etc/passwd"));
        let time = svol::entry::Timestamp::from_secs(EPOCH as i64);
        assert!(root.entries.iter().all(|e| e.mtime == Some(time)));
        assert_eq!(find("module").kind, Kind::Dir);
        assert!(list(&source, "module").await.entries.is_empty());
        let below = source.list(&at("module/x")).await;
        assert_eq!(kind(below), ErrorKind::NotFound);
        let entry = known(&source, "large.bin").await;
        let size = entry.size.unwrap();
        assert_eq!(
            read(&source, "large.bin", &entry, 0, size).await.unwrap(),
            pointer
        );
        assert_eq!(source.lfs_pointers(), 1);
        let blob = world.repo.run(&["rev-parse", "main:plain"]);
        assert_eq!(&*find("plain").version.token, blob);
        // A part of the tree.
        let settings = GitSettings {
            subdirectory: "/sub/".into(),
            ..world.settings()
        };
        let part = GitSource::new(settings).unwrap();
        assert_eq!(names(&list(&part, "").await), ["file"]);
        assert!(part.url(&at("file")).ends_with("#HEAD:sub/file"));
        let settings = GitSettings {
            subdirectory: "none".into(),
            ..world.settings()
        };
        let none = GitSource::new(settings).unwrap();
        let error = none.list(&RelPath::root()).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Invalid);
        assert!(error.to_string().contains("none"), "{error}");
    }
}

#[tokio::test]
async fn large_files_stream() {
    for world in [
        OnGit::http("git").await,
        OnGit::daemon().await,
        OnGit::no_filter().await,
    ] {
        let large = noise(1, 20 * 1024 * 1024);
        world.put("large", &large).await;
        let source = world.git();
        let entry = known(&source, "large").await;
        assert_eq!(entry.size, Some(large.len() as u64));
        // Its size did not cost its bytes, where the server leaves them out.
        let before = source.counters().bytes.load(Relaxed);
        if world.repo.run(&["config", "uploadpack.allowFilter"]) != "false" {
            assert!(before < 10 * 1024 * 1024, "{before}");
        }
        let bytes = read(&source, "large", &entry, 0, large.len() as u64)
            .await
            .unwrap();
        assert!(bytes == large);
        // One who goes away in the middle harms nobody.
        let body = source.read(&at("large"), &entry, 0..1).await.unwrap();
        drop(body);
        let bytes = read(&source, "large", &entry, 5, 10).await.unwrap();
        assert_eq!(bytes, large[5..10]);
    }
}

#[tokio::test]
async fn other_servers_are_told_apart() {
    let world = OnGit::http("git").await;
    world.put("f", b"x").await;
    let name = world.url.path().rsplit('/').next().unwrap().to_owned();
    let base = &shared().url;
    for (path, kind, words) in [
        (format!("old/{name}"), ErrorKind::Invalid, "GIT_PROTOCOL"),
        (
            format!("dumb/{name}"),
            ErrorKind::Invalid,
            "git-http-backend",
        ),
        (
            "git/none.git".into(),
            ErrorKind::Invalid,
            "no such repository",
        ),
        (format!("auth/{name}"), ErrorKind::Denied, "none are set"),
    ] {
        world.repo.run(&["update-server-info"]);
        let mut settings = world.settings();
        settings.url = Url::parse(&format!("{base}/{path}")).unwrap();
        let source = GitSource::new(settings).unwrap();
        let error = source.list(&RelPath::root()).await.unwrap_err();
        assert_eq!(error.kind(), kind, "{path}: {error}");
        assert!(error.to_string().contains(words), "{path}: {error}");
    }
    let mut settings = world.settings();
    settings.url = Url::parse(&format!("{base}/moved/{name}")).unwrap();
    let moved = GitSource::new(settings).unwrap();
    assert_eq!(names(&list(&moved, "").await), ["f"]);

    let daemon = OnGit::daemon().await;
    let mut settings = daemon.settings();
    settings.url.set_path("/none.git");
    let none = GitSource::new(settings).unwrap();
    let error = none.list(&RelPath::root()).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Denied, "{error}");
    let ssh = OnGit::ssh().await;
    let mut settings = ssh.settings();
    settings.url.set_path("/no/such.git");
    let error = GitSource::new(settings)
        .unwrap()
        .list(&RelPath::root())
        .await
        .unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Invalid, "{error}");
    assert!(error.to_string().contains("no/such.git"), "{error}");
    // An empty repository is no empty directory.
    let error = daemon.git().list(&RelPath::root()).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Invalid, "{error}");
    assert!(error.to_string().contains("empty"), "{error}");
}

#[tokio::test]
async fn a_commit_too_large_for_a_server_without_filters_is_refused() {
    let world = OnGit::no_filter().await;
    world.put("f", &noise(1, 3 * 1024 * 1024)).await;
    let settings = GitSettings {
        full_limit: 1024 * 1024,
        ..world.settings()
    };
    let source = GitSource::new(settings).unwrap();
    let error = source.list(&RelPath::root()).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Invalid, "{error}");
    assert!(error.to_string().contains("allowFilter"), "{error}");
}

#[tokio::test]
async fn objects_may_be_named_by_sha256() {
    let server = blocking(shared).await;
    let name = unique();
    let repo = Repo::init(&server.root.join(&name), "sha256");
    repo.run(&["config", "uploadpack.allowFilter", "true"]);
    repo.run(&["config", "transfer.advertiseObjectInfo", "true"]);
    repo.commit(
        "main",
        &[
            Change::Put("100644", "d/f", b"text"),
            Change::Put("120000", "l", b"d/f"),
        ],
    );
    let files = Url::from_file_path(&repo.path).unwrap();
    let world = OnGit::new(Server::Shared, repo, &format!("{}/git/{name}", server.url));
    for url in [world.url.clone(), files] {
        let source = GitSource::new(GitSettings {
            url,
            ..world.settings()
        })
        .unwrap();
        let entry = known(&source, "d/f").await;
        assert_eq!(entry.version.token.len(), 64);
        assert_eq!(read(&source, "d/f", &entry, 0, 4).await.unwrap(), b"text");
        assert_eq!(
            list(&source, "").await.entries[1].target.as_deref(),
            Some("d/f")
        );
    }
}

#[tokio::test]
async fn a_damaged_store_heals() {
    let world = OnGit::http("git").await;
    world.put("d/f", b"text").await;
    world.git().advance().await.unwrap();
    // Each tree and commit of it is damaged in turn, and then all at once.
    for which in ["kind = 2", "kind = 1", "1"] {
        let file = world.store.path().join("git/objects.db");
        let db = rusqlite::Connection::open(file).unwrap();
        let damage = format!("UPDATE objects SET bytes = x'00' WHERE {which}");
        assert!(db.execute(&damage, []).unwrap() > 0);
        drop(db);
        assert_eq!(names(&list(&world.git(), "d").await), ["f"]);
    }
}

#[tokio::test]
async fn a_work_tree_packs_and_alternates_are_read_in_place() {
    let world = OnGit::file().await;
    world.put("f", b"one").await;
    world.put("g", b"two").await;
    world.repo.run(&["gc", "-q"]);
    world.repo.run(&["pack-refs", "--all"]);
    let dir = world.store.path();
    let bare = world.repo.path.to_str().unwrap();
    let clone = |args: &[&str], to: &str| {
        let all = [&["clone", "-q"], args, &[bare, to]].concat();
        let made = crate::common::git::git(dir).args(all).output().unwrap();
        assert!(made.status.success(), "{made:?}");
    };
    clone(&["--shared"], "borrows");
    let tree = dir.join("borrows");
    let made = crate::common::git::git(&tree)
        .args(["worktree", "add", "-q", "-b", "side", "../linked"])
        .output()
        .unwrap();
    assert!(made.status.success(), "{made:?}");
    for path in [Path::new(bare), &tree, &dir.join("linked")] {
        let url = Url::from_file_path(path).unwrap();
        let source = GitSource::new(GitSettings::new(url, dir.join("store"))).unwrap();
        assert_eq!(
            names(&list(&source, "").await),
            ["f", "g"],
            "{}",
            path.display()
        );
        let entry = known(&source, "g").await;
        assert_eq!(read(&source, "g", &entry, 0, 3).await.unwrap(), b"two");
    }
    let elsewhere = svol::source::git::elsewhere(&tree);
    assert!(
        elsewhere.contains(&world.repo.path.join("objects")),
        "{elsewhere:?}"
    );
    assert!(!dir.join("store").exists(), "nothing is copied");
}
