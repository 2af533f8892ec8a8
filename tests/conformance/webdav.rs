//! WebDAV, on Apache and nginx; and Apache's and Python's index pages.

use std::net::SocketAddr;
use std::sync::Arc;

use async_trait::async_trait;
use svol::path::RelPath;
use svol::source::http::{HttpAuth, HttpSettings, HttpSource, IndexFormat};
use svol::source::{ErrorKind, Secret, Source};
use url::Url;

use crate::common::apache::{TestApache, TestPython};
use crate::common::scripted::{self, Scripted};
use crate::common::web::{PASSWORD, TestNginx, USER};
use crate::suite::*;

suite!(webdav_apache, on_apache("dav"), on_apache("dav"));
suite!(
    webdav_apache_password,
    on_apache("davauth"),
    on_apache("davauth")
);
suite!(webdav_nginx, on_nginx(), on_nginx());
suite!(http_apache_list, on_apache("list"), on_apache("list"));
suite!(http_apache_fancy, on_apache("fancy"), on_apache("fancy"));
suite!(http_python, on_python(), on_python());

/// A directory that a server shows.
pub struct Shown {
    disk: OnDisk,
    settings: HttpSettings,
    /// Stops the server, or restarts it where asked to.
    control: Box<dyn Fn(bool) + Send + Sync>,
    takes: fn(&str) -> bool,
}

fn webdav(url: &str) -> HttpSettings {
    HttpSettings {
        index: IndexFormat::Webdav,
        ..HttpSettings::new(Url::parse(url).unwrap())
    }
}

pub async fn on_apache(way: &str) -> Shown {
    let apache = blocking(TestApache::start).await;
    let url = format!("{}/{way}/top/", apache.url);
    let mut settings = webdav(&url);
    match way {
        "davauth" => {
            settings.auth = Some(HttpAuth::Basic {
                username: USER.into(),
                password: Secret::fixed(PASSWORD),
            });
        }
        "dav" => {}
        _ => settings.index = IndexFormat::Auto,
    }
    Shown {
        disk: OnDisk::new(&apache.root.join("top")),
        settings,
        control: Box::new(move |again| match again {
            true => apache.restart(),
            false => apache.stop(),
        }),
        takes: |_| true,
    }
}

async fn on_nginx() -> Shown {
    let nginx = blocking(TestNginx::start).await;
    Shown {
        disk: OnDisk::new(&nginx.root.join("top")),
        settings: webdav(&format!("{}/dav/top/", nginx.url)),
        control: Box::new(move |again| match again {
            true => nginx.restart(),
            false => nginx.stop(),
        }),
        // nginx lists no hidden files.
        takes: |name| !name.starts_with('.'),
    }
}

async fn on_python() -> Shown {
    let python = blocking(TestPython::start).await;
    Shown {
        disk: OnDisk::new(&python.root.join("top")),
        settings: HttpSettings::new(Url::parse(&format!("{}/top/", python.url)).unwrap()),
        control: Box::new(move |again| match again {
            true => python.restart(),
            false => python.stop(),
        }),
        takes: |_| true,
    }
}

#[async_trait]
impl World for Shown {
    fn source(&self) -> Arc<dyn Source> {
        guarded(HttpSource::new(self.settings.clone()).unwrap())
    }
    async fn put(&self, path: &str, bytes: &[u8]) {
        self.disk.put(path, bytes);
    }
    async fn delete(&self, path: &str) {
        std::fs::remove_file(self.disk.root.join(path)).unwrap();
    }
    fn address(&self) -> Option<SocketAddr> {
        self.settings.url.socket_addrs(|| None).unwrap().pop()
    }
    fn grafted(&self, server: Option<SocketAddr>) -> Grafted {
        let (path, at) = (self.settings.url.path(), server.or(self.address()).unwrap());
        Grafted::new(format!("webdav: {{url: 'http://{at}{path}'}}"))
    }
    async fn stop(&self) {
        (self.control)(false);
    }
    async fn restart(&self) -> bool {
        (self.control)(true);
        true
    }
    fn takes(&self, name: &str) -> bool {
        (self.takes)(name)
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

#[tokio::test]
async fn a_server_without_webdav_is_told_in_words() {
    let nginx = blocking(TestNginx::start).await;
    std::fs::create_dir(nginx.root.join("root")).unwrap();
    for (way, part) in [
        ("html/root/", "not a WebDAV server"),
        ("dav/none/", "nothing at the URL"),
    ] {
        let source = HttpSource::new(webdav(&format!("{}/{way}", nginx.url))).unwrap();
        let error = source.list(&RelPath::root()).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Invalid, "{error}");
        assert!(error.to_string().contains(part), "{error}");
    }
    // One that takes any method for GET.
    let server = Scripted::start(|_| scripted::reply("200 OK", &[], b"<html></html>")).await;
    let source = HttpSource::new(webdav(&format!("{}/", server.url))).unwrap();
    let error = source.list(&RelPath::root()).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Invalid, "{error}");
}

#[tokio::test]
async fn a_directory_costs_one_request_and_a_file_none() {
    let body = r#"<d:multistatus xmlns:d="DAV:">
        <d:response><d:href>/d/</d:href><d:propstat><d:prop><d:resourcetype><d:collection/></d:resourcetype></d:prop><d:status>HTTP/1.1 200 OK</d:status></d:propstat></d:response>
        <d:response><d:href>/d/f</d:href><d:propstat><d:prop><d:resourcetype/><d:getcontentlength>3</d:getcontentlength><d:getetag>"v1"</d:getetag></d:prop><d:status>HTTP/1.1 200 OK</d:status></d:propstat></d:response>
        </d:multistatus>"#;
    let server = Scripted::start(move |request| match request.method.as_str() {
        "PROPFIND" => scripted::reply("207 Multi-Status", &[], body.as_bytes()),
        _ => scripted::reply(
            "206 Partial Content",
            &[("Content-Range", "bytes 0-2/3"), ("ETag", "\"v1\"")],
            b"abc",
        ),
    })
    .await;
    let source = HttpSource::new(webdav(&format!("{}/d/", server.url))).unwrap();
    let listing = source.list(&RelPath::root()).await.unwrap();
    let entry = &listing.entries[0];
    assert!(entry.version.strong);
    assert_eq!(read(&source, "f", entry, 0, 3).await.unwrap(), b"abc");
    let seen = server.seen();
    let methods: Vec<_> = seen.iter().map(|r| r.method.as_str()).collect();
    assert_eq!(methods, ["PROPFIND", "GET"]);
    assert_eq!(seen[0].header("depth"), Some("1"));
    // The listing's ETag already pins the first bytes.
    assert_eq!(seen[1].header("if-match"), Some("\"v1\""));
    for request in &seen {
        assert_eq!(request.header("accept-encoding"), Some("identity"));
    }
}
