//! A real blob service: Azurite, Microsoft's own.

use std::process::Command;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};

use futures::StreamExt;
use object_store::azure::{AzureAccessKey, AzureAuthorizer, AzureCredential};
use object_store::client::{HttpRequest, HttpRequestBody};
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use reqwest::Method;
use reqwest::header::{HeaderMap, HeaderName};
use svol::source::Secret;
use svol::source::azure::{AzureKeys, AzureSettings};

use super::process::{Server, free_ports, listens, program, server_dir};
use super::s3::KEY;
use super::{client, wait_until};

/// The one account.
pub const ACCOUNT: &str = "svoltests";
/// Its key: base64 of `test-secret-hunter2`.
pub const ACCOUNT_KEY: &str = "dGVzdC1zZWNyZXQtaHVudGVyMg==";
/// Another's.
pub const WRONG_KEY: &str = "YW5vdGhlci1zZWNyZXQtaHVudGVyMg==";

/// How many uploads go on at once.
const UPLOADS: usize = 16;

/// Run inside Azurite, which keeps all blobs in one collection and looks through an account's for each
/// request: asked by name first, there is an index. 10,000 uploads then take seconds, not minutes.
const BY_NAME: &str = r#"
const azurite = require('fs').realpathSync(process.argv[1]);
const loki = require(require.resolve('lokijs', { paths: [azurite] }));
const findOne = loki.Collection.prototype.findOne;
loki.Collection.prototype.findOne = function (query) {
    const { name, ...rest } = query ?? {};
    return findOne.call(this, name === undefined ? query : { name, ...rest });
};
"#;

/// A running blob service.
pub struct TestAzure {
    /// Its URL, the account in it, without a slash at its end.
    pub endpoint: String,
    server: Server,
}

impl TestAzure {
    /// Returns the server that all tests of this process share.
    pub fn shared() -> &'static TestAzure {
        static SHARED: OnceLock<TestAzure> = OnceLock::new();
        SHARED.get_or_init(TestAzure::start)
    }

    /// Starts another server, for a test that stops it.
    pub fn start() -> TestAzure {
        // Somebody else may take a port between our look and the server's.
        for _ in 0..3 {
            if let Some(server) = TestAzure::try_start() {
                return server;
            }
        }
        panic!("Azurite does not start");
    }

    fn try_start() -> Option<TestAzure> {
        let dir = server_dir("azure");
        let [port] = free_ports();
        let mut command = Command::new(program("azurite-blob"));
        command.current_dir(&dir).args([
            "--blobHost=127.0.0.1",
            &format!("--blobPort={port}"),
            "--blobKeepAliveTimeout=60",
            "--location=.",
            "--skipApiVersionCheck",
            "--disableTelemetry",
            "--silent",
        ]);
        std::fs::write(dir.join("by-name.js"), BY_NAME).unwrap();
        let require = format!("--require={}", dir.join("by-name.js").display());
        command.env("NODE_OPTIONS", require);
        command.env("AZURITE_ACCOUNTS", format!("{ACCOUNT}:{ACCOUNT_KEY}"));
        let server = Server::start(command, dir);
        wait_until("Azurite", || listens(port) || server.has_ended());
        if server.has_ended() {
            eprintln!("{}", server.output());
            return None;
        }
        Some(TestAzure {
            endpoint: format!("http://127.0.0.1:{port}/{ACCOUNT}"),
            server,
        })
    }

    /// Stops the server; connections are then refused.
    pub fn stop(&self) {
        self.server.stop();
    }

    /// Waits until all that was put is on the server's disk: it writes what it knows down every few
    /// seconds.
    pub async fn save(&self) {
        let before = std::time::SystemTime::now();
        let marker = self.container("marker").await;
        self.put(&marker, "marker", "x").await;
        let saved = |file: &str, what: &str| {
            let file = self.server.dir().join(file);
            let time = file.metadata().and_then(|meta| meta.modified());
            let text = std::fs::read(file).unwrap_or_default();
            time.is_ok_and(|time| time > before) && String::from_utf8_lossy(&text).contains(what)
        };
        let start = std::time::Instant::now();
        while !saved(
            "__azurite_db_blob__.json",
            &format!("\"{marker}\",\"name\":\"marker\""),
        ) || !saved("__azurite_db_blob_extent__.json", "")
        {
            assert!(
                start.elapsed() < super::START,
                "Azurite writes nothing down"
            );
            tokio::time::sleep(std::time::Duration::from_millis(50)).await;
        }
    }

    fn port(&self) -> u16 {
        let at = self.endpoint.rsplit('/').nth(1).unwrap();
        at.rsplit(':').next().unwrap().parse().unwrap()
    }

    /// Kills the server and starts it again, with what it had saved.
    pub async fn restart(&self) {
        let port = self.port();
        if listens(port) {
            self.save().await;
        }
        self.server.restart();
        tokio::task::spawn_blocking(move || wait_until("Azurite", || listens(port)))
            .await
            .unwrap();
    }

    /// Makes a container of its own for a test, its name beginning with `name`; one that everybody
    /// may read and list where that is `public`.
    pub async fn container(&self, name: &str) -> String {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let n = NEXT.fetch_add(1, Ordering::Relaxed);
        let container = format!("{name}-{n}-{}", std::process::id());
        let access = [("x-ms-blob-public-access", "container")];
        let headers = &access[..usize::from(name == "public")];
        let path = format!("/{container}?restype=container");
        self.expect(Method::PUT, &path, headers, Vec::new()).await;
        container
    }

    /// Stores a blob.
    pub async fn put(&self, container: &str, key: &str, bytes: impl Into<Vec<u8>>) {
        self.put_with(container, key, bytes, &[]).await;
    }

    /// Stores a blob with headers of its own.
    pub async fn put_with(
        &self,
        container: &str,
        key: &str,
        bytes: impl Into<Vec<u8>>,
        headers: &[(&'static str, &str)],
    ) {
        let path = format!("/{container}/{}", utf8_percent_encode(key, KEY));
        let headers = [&[("x-ms-blob-type", "BlockBlob")], headers].concat();
        self.expect(Method::PUT, &path, &headers, bytes.into())
            .await;
    }

    /// Moves a blob to another tier.
    pub async fn set_tier(&self, container: &str, key: &str, tier: &str) {
        let path = format!("/{container}/{}?comp=tier", utf8_percent_encode(key, KEY));
        let headers = [("x-ms-access-tier", tier)];
        self.expect(Method::PUT, &path, &headers, Vec::new()).await;
    }

    /// Stores many blobs, several at once.
    pub async fn put_all(&self, container: &str, all: impl IntoIterator<Item = (String, Vec<u8>)>) {
        let puts = futures::stream::iter(all);
        puts.for_each_concurrent(UPLOADS, |(key, bytes)| async move {
            self.put(container, &key, bytes).await;
        })
        .await;
    }

    /// Removes a blob.
    pub async fn delete(&self, container: &str, key: &str) {
        let path = format!("/{container}/{}", utf8_percent_encode(key, KEY));
        self.expect(Method::DELETE, &path, &[], Vec::new()).await;
    }

    async fn expect(
        &self,
        method: Method,
        path: &str,
        more: &[(&'static str, &str)],
        body: Vec<u8>,
    ) {
        let url = format!("{}{path}", self.endpoint);
        let mut request = HttpRequest::new(HttpRequestBody::empty());
        *request.method_mut() = method.clone();
        *request.uri_mut() = url.parse().unwrap();
        let mut headers = HeaderMap::new();
        headers.insert("content-length", body.len().into());
        for (name, value) in more {
            headers.insert(HeaderName::from_static(name), value.parse().unwrap());
        }
        *request.headers_mut() = headers;
        let key = AzureAccessKey::try_new(ACCOUNT_KEY).unwrap();
        AzureAuthorizer::new(&AzureCredential::AccessKey(key), ACCOUNT)
            .try_authorize(&mut request)
            .unwrap();
        let headers = std::mem::take(request.headers_mut());
        let request = client()
            .request(method.clone(), url)
            .headers(headers)
            .body(body);
        let response = request.send().await.unwrap();
        let status = response.status();
        let page = response.text().await.unwrap_or_default();
        assert!(status.is_success(), "{method} {path}: {status} {page}");
    }

    /// Returns settings that reach a container of this server.
    pub fn settings(&self, container: &str) -> AzureSettings {
        AzureSettings {
            account: Some(ACCOUNT.into()),
            container: container.into(),
            endpoint: Some(self.endpoint.clone()),
            credentials: Some(AzureKeys::AccountKey(Secret::fixed(ACCOUNT_KEY))),
            ..AzureSettings::default()
        }
    }

    /// Returns a connection string, as Azure shows it.
    pub fn connection_string(&self) -> String {
        format!(
            "DefaultEndpointsProtocol=http;AccountName={ACCOUNT};AccountKey={ACCOUNT_KEY};\
             BlobEndpoint={};",
            self.endpoint
        )
    }
}

/// Returns a shared access signature of the account, for reading and listing until `end`.
pub fn signature(end: &str) -> String {
    let (permissions, services, types, version) = ("rl", "b", "sco", "2020-12-06");
    let text = format!("{ACCOUNT}\n{permissions}\n{services}\n{types}\n\n{end}\n\n\n{version}\n\n");
    let key = ring::hmac::Key::new(ring::hmac::HMAC_SHA256, b"test-secret-hunter2");
    let sig = base64(ring::hmac::sign(&key, text.as_bytes()).as_ref());
    let escape = |text: &str| utf8_percent_encode(text, NON_ALPHANUMERIC).to_string();
    format!(
        "?sv={version}&ss={services}&srt={types}&sp={permissions}&se={}&sig={}",
        escape(end),
        escape(&sig)
    )
}

fn base64(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::new();
    for three in bytes.chunks(3) {
        let mut bits = 0u32;
        for i in 0..3 {
            bits = bits << 8 | u32::from(*three.get(i).unwrap_or(&0));
        }
        for i in 0..4 {
            match i <= three.len() {
                true => text.push(char::from(DIGITS[(bits >> (18 - 6 * i) & 63) as usize])),
                false => text.push('='),
            }
        }
    }
    text
}
