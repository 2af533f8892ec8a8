//! Google Cloud Storage, on fake-gcs-server; what that does not do, on a server that follows a
//! script.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use async_trait::async_trait;
use svol::entry::{Entry, Kind, Version};
use svol::path::{Name, RelPath};
use svol::source::gcs::{GcsSettings, GcsSource};
use svol::source::sweep::Start;
use svol::source::{Env, ErrorKind, Secret, Source};

use crate::common::gcs::TestGcs;
use crate::common::s3::no_env;
use crate::common::scripted::{Reply, Request, Scripted, reply};
use crate::suite::*;

suite!(gcs_bucket, InBucket::new(false), InBucket::new(true));

pub struct InBucket {
    own: Option<Box<TestGcs>>,
    bucket: String,
}

impl InBucket {
    pub async fn new(own: bool) -> InBucket {
        let mut world = InBucket {
            own: None,
            bucket: String::new(),
        };
        match own {
            true => world.own = Some(Box::new(blocking(TestGcs::start).await)),
            false => drop(blocking(TestGcs::shared).await),
        }
        world.bucket = world.server().bucket("conformance").await;
        // A neighbour whose name begins alike must never show.
        world.server().put(&world.bucket, "rooted/wrong", "x").await;
        world
    }

    fn server(&self) -> &TestGcs {
        match &self.own {
            Some(server) => server,
            None => TestGcs::shared(),
        }
    }
}

#[async_trait]
impl World for InBucket {
    fn source(&self) -> Arc<dyn Source> {
        let mut settings = self.server().settings(&self.bucket);
        settings.prefix = "root/".into();
        guarded(GcsSource::new(settings, &no_env()).unwrap())
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
    fn address(&self) -> Option<SocketAddr> {
        let address = self.server().endpoint.strip_prefix("http://")?;
        Some(address.parse().unwrap())
    }
    fn grafted(&self, server: Option<SocketAddr>) -> Grafted {
        let (bucket, at) = (&self.bucket, server.or(self.address()).unwrap());
        Grafted::new(format!(
            "gcs: {{bucket: {bucket}, prefix: root, endpointUrl: 'http://{at}', noSignRequest: true}}"
        ))
    }
    async fn stop(&self) {
        self.server().stop();
    }
    async fn restart(&self) -> bool {
        self.server().restart();
        true
    }
}

fn source(settings: GcsSettings) -> GcsSource {
    GcsSource::new(settings, &no_env()).unwrap()
}

#[tokio::test]
async fn hostile_names_are_hidden_and_counted() {
    let server = blocking(TestGcs::shared).await;
    let bucket = server.bucket("hostile").await;
    let long = format!("k/{}", "x".repeat(1022));
    for key in [
        "k/a",
        "k/a/b",
        "k/m/",
        "k/plain",
        "k/sub/x/y",
        "k//z",
        "k/../x",
        "kk/wrong",
        "k",
        &long,
    ] {
        server
            .put(&bucket, key, if key == "k/m/" { "" } else { "x" })
            .await;
    }
    let mut settings = server.settings(&bucket);
    settings.prefix = "/k/".into();
    let whole = source(settings.clone());
    let listing = whole.list(&RelPath::root()).await.unwrap();
    let shown: Vec<_> = { listing.entries.iter() }
        .map(|e| (e.name.as_str(), e.kind))
        .collect();
    let want = [
        ("a", Kind::Dir),
        ("m", Kind::Dir),
        ("plain", Kind::File),
        ("sub", Kind::Dir),
    ];
    assert_eq!(shown, want);
    let counts: u64 = listing.hidden.iter().map(|h| h.count).sum();
    let what = "`a` beside `a/`, `k//`, `..`, the long name";
    assert_eq!(counts, 4, "{what}: {:?}", listing.hidden);
    assert!(whole.list(&at("m")).await.unwrap().entries.is_empty());

    // The name of an object as prefix: a directory of it alone.
    settings.prefix = "k/plain".into();
    for ask_first in [true, false] {
        let single = source(settings.clone());
        if ask_first {
            let listing = single.list(&RelPath::root()).await.unwrap();
            assert_eq!(listing.entries.len(), 1);
        }
        let entry = single.stat(&at("plain")).await.unwrap();
        assert_eq!(read(&single, "plain", &entry, 0, 1).await.unwrap(), b"x");
    }
    // A prefix that nothing begins with is an empty directory; a bucket that is not there is not.
    settings.prefix = "nothing/here".into();
    let empty = source(settings.clone()).list(&RelPath::root()).await;
    assert!(empty.unwrap().entries.is_empty());
    settings.bucket = "no-such-bucket".into();
    let none = source(settings);
    let ghost = Entry::file(Name::new("f").unwrap(), 1, None, Version::weak("1"));
    for error in [
        none.list(&RelPath::root()).await.map(|_| ()).unwrap_err(),
        none.stat(&at("f")).await.map(|_| ()).unwrap_err(),
        none.read(&at("f"), &ghost, 0..1)
            .await
            .map(|_| ())
            .unwrap_err(),
    ] {
        assert_eq!(error.kind(), ErrorKind::Invalid, "{error}");
        assert!(error.to_string().contains("no-such-bucket"), "{error}");
    }
}

#[tokio::test]
async fn a_walk_lists_many_directories_at_once() {
    let server = blocking(TestGcs::shared).await;
    let bucket = server.bucket("walk").await;
    let files = (0..50).map(|n| (format!("w/d{:02}/f{n:02}", n / 5), vec![1]));
    server.put_all(&bucket, files).await;
    let mut settings = server.settings(&bucket);
    settings.prefix = "w".into();
    let source = source(settings);
    let recursive = source.recursive().unwrap();
    let (root, start) = (RelPath::root(), Start::Key(String::new()));
    let all = recursive.keys(&root, &start).await.unwrap();
    assert_eq!((all.keys.len(), all.next), (50, None));
    // From the middle on, whether the place is there or not.
    for from in ["d04/f22", "d04/f22x"] {
        let start = Start::Key(from.into());
        let rest = recursive.keys(&root, &start).await.unwrap();
        assert_eq!(rest.keys[0].key, "d04/f23");
        assert_eq!(rest.keys.len(), 27);
    }
}

#[tokio::test]
async fn the_emulator_of_the_environment_is_asked() {
    let server = blocking(TestGcs::shared).await;
    let bucket = server.bucket("emulator").await;
    server.put(&bucket, "f", "x").await;
    let bare = server.endpoint.trim_start_matches("http://").to_owned();
    for host in [server.endpoint.clone(), bare] {
        let settings = GcsSettings {
            bucket: bucket.clone(),
            ..GcsSettings::default()
        };
        let env = Env::from_pairs([("STORAGE_EMULATOR_HOST", host)]);
        let source = GcsSource::new(settings, &env).unwrap();
        assert_eq!(known(&source, "f").await.size, Some(1));
    }
}

/// Returns settings that ask a server which follows a script, and that server.
async fn scripted(
    script: impl Fn(&Request) -> Reply + Send + Sync + 'static,
) -> (Scripted, GcsSettings) {
    let server = Scripted::start(script).await;
    let settings = GcsSettings {
        bucket: "b".into(),
        endpoint: Some(server.url.clone()),
        anonymous: true,
        ..GcsSettings::default()
    };
    (server, settings)
}

const LISTING: &[u8] = br#"{"kind":"storage#objects","items":[{"name":"f","size":"4",
    "generation":"1","timeCreated":"2026-11-22T11:20:16Z"}]}"#;
const OBJECT: &[u8] = br#"{"kind":"storage#object","name":"f","size":"4","generation":"2"}"#;
const MISSING: &[u8] = br#"{"error":{"code":404,"message":"No such object: b/f",
    "errors":[{"reason":"notFound"}]}}"#;

#[tokio::test]
async fn a_read_asks_for_its_generation_and_takes_no_other() {
    // A server that heeds no generation: between two requests the object is replaced.
    let reads = AtomicU32::new(0);
    let (server, settings) = scripted(move |request| {
        if !request.target.contains("alt=media") {
            return reply("200 OK", &[], LISTING);
        }
        let generation = (reads.fetch_add(1, Ordering::Relaxed) + 1).to_string();
        let headers = [
            ("Content-Range", "bytes 0-3/4"),
            ("x-goog-generation", generation.as_str()),
        ];
        reply("206 Partial", &headers, b"1234")
    })
    .await;
    let source = source(settings);
    let entry = known(&source, "f").await;
    assert_eq!(read(&source, "f", &entry, 0, 4).await.unwrap(), b"1234");
    assert!(
        server
            .seen()
            .last()
            .unwrap()
            .target
            .contains("generation=1")
    );
    let got = source.read(&at("f"), &entry, 0..4).await;
    assert_eq!(kind(got), ErrorKind::Changed);
}

#[tokio::test]
async fn a_generation_that_is_gone_is_a_change_and_no_absence() {
    for (there, want) in [(true, ErrorKind::Changed), (false, ErrorKind::NotFound)] {
        let (_server, settings) = scripted(move |request| {
            match (
                request.target.contains("alt=media"),
                request.target.contains("/o?"),
            ) {
                // As Google answers a request for bytes: in plain words.
                (true, _) => reply("404 Not Found", &[], b"No such object: b/f"),
                (_, true) => reply("200 OK", &[], LISTING),
                _ if there => reply("200 OK", &[], OBJECT),
                _ => reply("404 Not Found", &[], MISSING),
            }
        })
        .await;
        let source = source(settings);
        let entry = known(&source, "f").await;
        assert_eq!(kind(source.read(&at("f"), &entry, 0..4).await), want);
    }
}

#[tokio::test]
async fn replies_are_compared_with_what_was_asked() {
    // CRC32C of `1234`.
    let (sum, wrong) = ("crc32c=9jr07g==", "crc32c=AAAAAA==,md5=x");
    let (_server, settings) = scripted(move |request| {
        let partial = |headers: &[(&str, &str)], body: &[u8]| {
            let generation = ("x-goog-generation", "1");
            reply("206 Partial", &[&[generation], headers].concat(), body)
        };
        let range = ("Content-Range", "bytes 0-3/4");
        let path = request.target.split('?').next().unwrap();
        match path.rsplit('/').next().unwrap() {
            "o" => reply("200 OK", &[], LISTING),
            "right" => partial(&[range, ("x-goog-hash", sum)], b"1234"),
            "rotten" => partial(&[range, ("x-goog-hash", wrong)], b"1234"),
            "packed" => partial(
                &[
                    range,
                    ("Content-Encoding", "gzip"),
                    ("x-goog-stored-content-encoding", "gzip"),
                ],
                b"1234",
            ),
            "repacked" => partial(&[range, ("Content-Encoding", "gzip")], b"1234"),
            "silent" => reply("206 Partial", &[range], b"1234"),
            "longer" => partial(&[("Content-Range", "bytes 0-3/5")], b"1234"),
            "elsewhere" => partial(&[("Content-Range", "bytes 0-2/4")], b"1234"),
            "page" => reply("404 Not Found", &[], b"<html>nothing</html>"),
            _ => reply("301 Moved", &[("Location", "http://127.0.0.1:1/")], b""),
        }
    })
    .await;
    let source = source(settings);
    let entry = known(&source, "f").await;
    for path in ["right", "packed"] {
        let got = read(&source, path, &entry, 0, 4).await;
        assert_eq!(got.unwrap(), b"1234", "{path}");
    }
    for (path, want) in [
        ("rotten", ErrorKind::Lied),
        ("repacked", ErrorKind::Lied),
        ("silent", ErrorKind::Lied),
        ("longer", ErrorKind::Changed),
        ("elsewhere", ErrorKind::Lied),
        ("page", ErrorKind::Lied),
        ("moved", ErrorKind::Invalid),
    ] {
        let got = read(&source, path, &entry, 0, 4).await;
        assert_eq!(kind(got), want, "{path}");
    }
}

#[tokio::test]
async fn who_may_not_who_pays_and_who_waits_is_said() {
    let (server, mut settings) = scripted(|request| {
        let error = |status: &str, message: &str, reason: &str| {
            let page = format!(
                r#"{{"error":{{"message":"{message}","errors":[{{"reason":"{reason}"}}]}}}}"#
            );
            reply(status, &[("Retry-After", "7")], page.as_bytes())
        };
        match request
            .target
            .split("/b/")
            .nth(1)
            .unwrap()
            .split('/')
            .next()
            .unwrap()
        {
            _ if request.target.contains("userProject=mine") => reply("200 OK", &[], LISTING),
            "denied" => error("401 Unauthorized", "Anonymous caller", "required"),
            "paid" => error("400 Bad", "Bucket is a requester pays bucket", "required"),
            "busy" => error("429 Slow", "later", "rateLimitExceeded"),
            _ => error(
                "404 Not Found",
                "The specified bucket does not exist.",
                "notFound",
            ),
        }
    })
    .await;
    for (bucket, want, words) in [
        ("denied", ErrorKind::Denied, "--no-sign-request"),
        ("paid", ErrorKind::Denied, "userProject"),
        ("busy", ErrorKind::Throttled, "pause"),
        ("gone", ErrorKind::Invalid, "no bucket gone"),
    ] {
        settings.bucket = bucket.into();
        let error = source(settings.clone())
            .list(&RelPath::root())
            .await
            .unwrap_err();
        assert_eq!(error.kind(), want, "{error}");
        assert!(error.to_string().contains(words), "{error}");
        let pause = error.retry_after().map(|pause| pause.as_secs());
        assert_eq!(pause, (bucket == "busy").then_some(7));
    }
    settings.user_project = Some("mine".into());
    source(settings).list(&RelPath::root()).await.unwrap();
    assert!(
        server
            .seen()
            .last()
            .unwrap()
            .target
            .contains("userProject=mine")
    );
}

#[tokio::test]
async fn a_service_account_s_key_signs_and_rotates_and_is_not_shown() {
    let (server, mut settings) =
        scripted(
            |request| match request.header("authorization").unwrap_or_default() {
                token if token.starts_with("Bearer ey") => reply("200 OK", &[], LISTING),
                other => reply(
                    "401 Unauthorized",
                    &[],
                    format!("you sent {other}").as_bytes(),
                ),
            },
        )
        .await;
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("key.json");
    let pem = private_key();
    let write = |id: &str| {
        let key = serde_json::json!({"type": "service_account", "private_key": pem,
            "private_key_id": id, "client_email": "a@b"});
        std::fs::write(&file, key.to_string()).unwrap();
    };
    write("one");
    let path = file.clone();
    let key = Secret::from_fn(move || std::fs::read_to_string(&path).map_err(|e| e.to_string()));
    settings.anonymous = false;
    let by_setting = GcsSettings {
        service_account_key: Some(key),
        ..settings.clone()
    };
    let env = Env::from_pairs([("GOOGLE_APPLICATION_CREDENTIALS", file.to_string_lossy())]);
    let sources = [
        source(by_setting),
        GcsSource::new(settings.clone(), &env).unwrap(),
    ];
    let mut tokens = Vec::new();
    for id in ["one", "two"] {
        write(id);
        for source in &sources {
            source.list(&RelPath::root()).await.unwrap();
            let seen = server.seen();
            let token = seen.last().unwrap().header("authorization").unwrap();
            // The head of the token names its key.
            tokens.push(token.split('.').next().unwrap().to_owned());
        }
    }
    assert_eq!(tokens[0], tokens[1]);
    assert_ne!(tokens[0], tokens[2], "rotated");
    assert_eq!(tokens[2], tokens[3]);
    // What is no key is refused without being shown.
    for text in [
        "hunter2",
        r#"{"type":"service_account","private_key":"hunter2"}"#,
        r#"{"type":"service_account","private_key":"hunter2","private_key_id":"1","client_email":"a"}"#,
        r#"{"type":"external_account","x":"hunter2"}"#,
    ] {
        std::fs::write(&file, text).unwrap();
        for source in &sources {
            let error = source.list(&RelPath::root()).await.unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Denied, "{error}");
            assert!(!error.to_string().contains("hunter2"), "{error}");
        }
    }
}

/// Returns a private key for signing, made by openssl.
fn private_key() -> String {
    let made = std::process::Command::new("openssl")
        .args([
            "genpkey",
            "-algorithm",
            "RSA",
            "-pkeyopt",
            "rsa_keygen_bits:2048",
        ])
        .output()
        .unwrap();
    assert!(made.status.success());
    String::from_utf8(made.stdout).unwrap()
}
