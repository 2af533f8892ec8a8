//! A server that speaks Google Cloud Storage's JSON API: fake-gcs-server.

use std::process::Command;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};

use futures::StreamExt;
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use reqwest::Method;
use svol::source::gcs::GcsSettings;

use super::process::{Server, free_ports, listens, program, server_dir};
use super::{client, wait_until};

/// How many uploads go on at once.
const UPLOADS: usize = 16;

/// A running server.
pub struct TestGcs {
    /// Its URL, without a slash at its end.
    pub endpoint: String,
    server: Server,
}

impl TestGcs {
    /// Returns the server that all tests of this process share.
    pub fn shared() -> &'static TestGcs {
        static SHARED: OnceLock<TestGcs> = OnceLock::new();
        SHARED.get_or_init(|| TestGcs::with_backend("memory"))
    }

    /// Starts another server, for a test that stops it or starts it again. It keeps objects as
    /// files, and so none beside a directory of its name.
    pub fn start() -> TestGcs {
        TestGcs::with_backend("filesystem")
    }

    fn with_backend(backend: &str) -> TestGcs {
        // Somebody else may take a port between our look and the server's.
        for _ in 0..3 {
            if let Some(server) = TestGcs::try_start(backend) {
                return server;
            }
        }
        panic!("fake-gcs-server does not start");
    }

    fn try_start(backend: &str) -> Option<TestGcs> {
        let dir = server_dir("gcs");
        let [port] = free_ports();
        let mut command = Command::new(program("fake-gcs-server"));
        command.current_dir(&dir).args([
            "-scheme=http",
            "-host=127.0.0.1",
            &format!("-backend={backend}"),
            "-filesystem-root=objects",
            "-log-level=error",
            &format!("-port={port}"),
            &format!("-public-host=127.0.0.1:{port}"),
        ]);
        let server = Server::start(command, dir);
        wait_until("fake-gcs-server", || listens(port) || server.has_ended());
        if server.has_ended() {
            eprintln!("{}", server.output());
            return None;
        }
        Some(TestGcs {
            endpoint: format!("http://127.0.0.1:{port}"),
            server,
        })
    }

    /// Stops the server; connections are then refused.
    pub fn stop(&self) {
        self.server.stop();
    }

    /// Kills the server and starts it again.
    pub fn restart(&self) {
        self.server.restart();
        let port = self.endpoint.rsplit(':').next().unwrap().parse().unwrap();
        wait_until("fake-gcs-server", || listens(port));
    }

    /// Makes a bucket of its own for a test, its name beginning with `name`.
    pub async fn bucket(&self, name: &str) -> String {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let n = NEXT.fetch_add(1, Ordering::Relaxed);
        let bucket = format!("{name}-{n}-{}", std::process::id());
        let body = format!(r#"{{"name":"{bucket}"}}"#);
        self.expect(Method::POST, "/storage/v1/b?project=p", body.into())
            .await;
        bucket
    }

    /// Stores an object. Any name goes, however odd.
    pub async fn put(&self, bucket: &str, key: &str, bytes: impl Into<Vec<u8>>) {
        let name = utf8_percent_encode(key, NON_ALPHANUMERIC);
        let path = format!("/upload/storage/v1/b/{bucket}/o?uploadType=media&name={name}");
        self.expect(Method::POST, &path, bytes.into()).await;
    }

    /// Stores many objects, several at once.
    pub async fn put_all(&self, bucket: &str, all: impl IntoIterator<Item = (String, Vec<u8>)>) {
        let puts = futures::stream::iter(all);
        puts.for_each_concurrent(UPLOADS, |(key, bytes)| async move {
            self.put(bucket, &key, bytes).await;
        })
        .await;
    }

    /// Removes an object.
    pub async fn delete(&self, bucket: &str, key: &str) {
        let name = utf8_percent_encode(key, NON_ALPHANUMERIC);
        let path = format!("/storage/v1/b/{bucket}/o/{name}");
        self.expect(Method::DELETE, &path, Vec::new()).await;
    }

    async fn expect(&self, method: Method, path: &str, body: Vec<u8>) {
        let url = format!("{}{path}", self.endpoint);
        let response = client().request(method.clone(), url).body(body).send();
        let response = response.await.unwrap();
        let status = response.status();
        let page = response.text().await.unwrap_or_default();
        assert!(status.is_success(), "{method} {path}: {status} {page}");
    }

    /// Returns settings that reach a bucket of this server.
    pub fn settings(&self, bucket: &str) -> GcsSettings {
        GcsSettings {
            bucket: bucket.into(),
            endpoint: Some(self.endpoint.clone()),
            anonymous: true,
            ..GcsSettings::default()
        }
    }
}
