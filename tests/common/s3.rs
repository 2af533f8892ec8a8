//! A real S3 server: SeaweedFS.

use std::process::Command;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};

use futures::StreamExt;
use object_store::aws::{AwsAuthorizer, AwsCredential};
use object_store::client::{HttpRequest, HttpRequestBody};
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use reqwest::Method;
use svol::source::Secret;
use svol::source::s3::{Env, S3Keys, S3Settings};

use super::process::{Server, free_ports, listens, program, server_dir};
use super::wait_until;

/// The keys of the one user, who may do everything.
pub const ACCESS: &str = "test-access";
/// The secret of [`ACCESS`].
pub const SECRET: &str = "test-secret-hunter2";

/// How many uploads go on at once.
const UPLOADS: usize = 16;

const KEY: &AsciiSet = &NON_ALPHANUMERIC
    .remove(b'-')
    .remove(b'.')
    .remove(b'_')
    .remove(b'~')
    .remove(b'/');

/// A running S3 server.
pub struct TestS3 {
    /// Its URL, without a slash at its end.
    pub endpoint: String,
    server: Server,
}

impl TestS3 {
    /// Returns the server that all tests of this process share.
    pub fn shared() -> &'static TestS3 {
        static SHARED: OnceLock<TestS3> = OnceLock::new();
        SHARED.get_or_init(TestS3::start)
    }

    /// Starts another server, for a test that stops it. Buckets whose name begins with `public`
    /// may be read by anyone.
    pub fn start() -> TestS3 {
        // Somebody else may take a port between our look and the server's.
        for _ in 0..3 {
            if let Some(server) = TestS3::try_start() {
                return server;
            }
        }
        panic!("the S3 server does not start");
    }

    fn try_start() -> Option<TestS3> {
        let dir = server_dir("s3");
        let config = format!(
            r#"{{"identities":[
                {{"name":"admin","actions":["Admin","Read","Write","List","Tagging"],
                  "credentials":[{{"accessKey":"{ACCESS}","secretKey":"{SECRET}"}}]}},
                {{"name":"anonymous","actions":["Read:public*","List:public*"]}}]}}"#
        );
        std::fs::write(dir.join("s3.json"), config).unwrap();
        std::fs::create_dir(dir.join("data")).unwrap();
        let [
            s3,
            s3_grpc,
            master,
            master_grpc,
            volume,
            volume_grpc,
            filer,
            filer_grpc,
        ] = free_ports();
        let mut command = Command::new(program("weed"));
        command.current_dir(&dir).args([
            "server",
            "-ip=127.0.0.1",
            "-ip.bind=127.0.0.1",
            "-dir=data",
            "-filer",
            "-s3",
            "-s3.config=s3.json",
            "-s3.port.iceberg=0",
            "-s3.port.lance=0",
            "-volume.max=400",
            "-master.volumeSizeLimitMB=128",
            "-master.telemetry=false",
        ]);
        // Each bucket is a collection of its own, which grows by seven volumes unless told.
        command.env("WEED_MASTER_VOLUME_GROWTH_COPY_1", "1");
        for (name, port) in [
            ("s3.port", s3),
            ("s3.port.grpc", s3_grpc),
            ("master.port", master),
            ("master.port.grpc", master_grpc),
            ("volume.port", volume),
            ("volume.port.grpc", volume_grpc),
            ("filer.port", filer),
            ("filer.port.grpc", filer_grpc),
        ] {
            command.arg(format!("-{name}={port}"));
        }
        let parts = [
            ("s3", s3),
            ("s3-grpc", s3_grpc),
            ("master-grpc", master_grpc),
            ("volume-grpc", volume_grpc),
            ("filer", filer),
            ("filer-grpc", filer_grpc),
        ];
        let sockets = parts.map(|(part, port)| format!("/tmp/seaweedfs-{part}-{port}.sock\n"));
        std::fs::write(dir.join("elsewhere"), sockets.concat()).unwrap();
        let server = Server::start(command, dir);
        wait_until("the S3 server", || listens(s3) || server.has_ended());
        let s3 = TestS3 {
            endpoint: format!("http://127.0.0.1:{s3}"),
            server,
        };
        // It listens before it can store; and another one may listen there.
        let ready = std::thread::scope(|scope| {
            let probe = scope.spawn(|| {
                let runtime = tokio::runtime::Builder::new_current_thread();
                let runtime = { runtime }.enable_all().build().unwrap();
                runtime.block_on(s3.becomes_ready())
            });
            probe.join().unwrap()
        });
        if !ready {
            eprintln!("{}", s3.server.output());
        }
        ready.then_some(s3)
    }

    async fn becomes_ready(&self) -> bool {
        let start = std::time::Instant::now();
        while start.elapsed() < super::START && !self.server.has_ended() {
            let made = self.send(Method::PUT, "/ready", Vec::new()).await;
            if matches!(made, Ok(200 | 409)) {
                let put = self.send(Method::PUT, "/ready/probe", b"x".to_vec()).await;
                if put == Ok(200) {
                    return true;
                }
            }
            tokio::time::sleep(std::time::Duration::from_millis(100)).await;
        }
        false
    }

    /// Stops the server; connections are then refused.
    pub fn stop(&self) {
        self.server.stop();
    }

    /// Kills the server and starts it again.
    pub async fn restart(&self) {
        self.server.restart();
        assert!(self.becomes_ready().await, "{}", self.server.output());
    }

    /// Makes a bucket of its own for a test, its name beginning with `name`.
    pub async fn bucket(&self, name: &str) -> String {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let n = NEXT.fetch_add(1, Ordering::Relaxed);
        let bucket = format!("{name}-{n}-{}", std::process::id());
        self.expect(Method::PUT, &format!("/{bucket}"), Vec::new())
            .await;
        bucket
    }

    /// Makes a bucket of this name.
    pub async fn make_bucket(&self, bucket: &str) {
        self.expect(Method::PUT, &format!("/{bucket}"), Vec::new())
            .await;
    }

    /// Stores an object. Any key goes, however odd.
    pub async fn put(&self, bucket: &str, key: &str, bytes: impl Into<Vec<u8>>) {
        let path = format!("/{bucket}/{}", utf8_percent_encode(key, KEY));
        self.expect(Method::PUT, &path, bytes.into()).await;
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
        let path = format!("/{bucket}/{}", utf8_percent_encode(key, KEY));
        self.expect(Method::DELETE, &path, Vec::new()).await;
    }

    async fn expect(&self, method: Method, path: &str, body: Vec<u8>) {
        for attempt in 0.. {
            match self.send(method.clone(), path, body.clone()).await {
                Ok(200..300) => return,
                Ok(500..600) | Err(_) if attempt < 5 => {
                    tokio::time::sleep(std::time::Duration::from_millis(100)).await;
                }
                other => panic!("{method} {path}: {other:?}"),
            }
        }
    }

    async fn send(&self, method: Method, path: &str, body: Vec<u8>) -> Result<u16, String> {
        let url = format!("{}{path}", self.endpoint);
        let mut request = HttpRequest::new(HttpRequestBody::empty());
        *request.method_mut() = method.clone();
        *request.uri_mut() = url.parse().unwrap();
        let keys = AwsCredential {
            key_id: ACCESS.into(),
            secret_key: SECRET.into(),
            token: None,
        };
        AwsAuthorizer::new(&keys, "s3", "us-east-1")
            .with_sign_payload(false)
            .try_authorize(&mut request, None)
            .unwrap();
        let headers = std::mem::take(request.headers_mut());
        let request = client().request(method, url).headers(headers).body(body);
        match request.send().await {
            Ok(response) => Ok(response.status().as_u16()),
            Err(e) => Err(e.to_string()),
        }
    }

    /// Returns settings that reach a bucket of this server.
    pub fn settings(&self, bucket: &str) -> S3Settings {
        S3Settings {
            bucket: bucket.into(),
            endpoint: Some(self.endpoint.clone()),
            credentials: Some(S3Keys {
                access_key_id: Secret::fixed(ACCESS),
                secret_access_key: Secret::fixed(SECRET),
                session_token: None,
            }),
            ..S3Settings::default()
        }
    }
}

/// Returns an environment without anything in it.
pub fn no_env() -> Env {
    Env::from_pairs(std::iter::empty::<(String, String)>())
}

/// A client for each thread: connections belong to the runtime of the test that made them.
fn client() -> reqwest::Client {
    thread_local! {
        static CLIENT: reqwest::Client = {
            svol::tls::install();
            reqwest::Client::new()
        };
    }
    CLIENT.with(Clone::clone)
}
