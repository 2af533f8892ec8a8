//! S3, on SeaweedFS.

use std::net::SocketAddr;
use std::sync::Arc;

use async_trait::async_trait;
use svol::entry::Kind;
use svol::path::RelPath;
use svol::source::s3::S3Source;
use svol::source::{ErrorKind, Secret, Source};

use crate::common::s3::{self, TestS3};
use crate::suite::*;

suite!(s3_bucket, InBucket::new(false), InBucket::new(true));

pub struct InBucket {
    server: TestS3Ref,
    bucket: String,
}

/// A server that is shared, or this world's own, to be stopped.
enum TestS3Ref {
    Shared(&'static TestS3),
    Own(Box<TestS3>),
}

impl InBucket {
    pub async fn new(own: bool) -> InBucket {
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
    fn address(&self) -> Option<SocketAddr> {
        let endpoint = self.server().endpoint.strip_prefix("http://")?;
        Some(endpoint.parse().unwrap())
    }
    fn grafted(&self, server: Option<SocketAddr>) -> Grafted {
        let (bucket, at) = (&self.bucket, server.or(self.address()).unwrap());
        Grafted {
            yaml: format!(
                "s3: {{bucket: {bucket}, prefix: root, region: us-east-1, endpointUrl: 'http://{at}', \
                 credentials: {{accessKeyId: {{fromEnv: S3_ID}}, secretAccessKey: {{fromEnv: S3_KEY}}}}}}"
            ),
            env: vec![("S3_ID", s3::ACCESS.into()), ("S3_KEY", s3::SECRET.into())],
        }
    }
    async fn stop(&self) {
        self.server().stop();
    }
    async fn restart(&self) -> bool {
        self.server().restart().await;
        true
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
