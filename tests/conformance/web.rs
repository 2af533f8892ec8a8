//! HTTP, on nginx.

use std::net::SocketAddr;
use std::sync::Arc;

use async_trait::async_trait;
use svol::path::RelPath;
use svol::source::http::{
    HttpAuth, HttpSettings, HttpSource, ManifestFormat, ManifestPlace, ManifestSettings,
};
use svol::source::{ErrorKind, Secret, Source};

use crate::common::web::{PASSWORD, TestNginx, USER};
use crate::suite::*;

suite!(http_index, OnWeb::new("html"), OnWeb::new("html"));
suite!(http_json, OnWeb::new("json"), OnWeb::new("json"));
suite!(
    http_no_ranges,
    OnWeb::new("noranges"),
    OnWeb::new("noranges")
);
suite!(http_password, OnWeb::new("auth"), OnWeb::new("auth"));

pub struct OnWeb {
    nginx: TestNginx,
    disk: OnDisk,
    settings: HttpSettings,
}

impl OnWeb {
    pub async fn new(way: &str) -> OnWeb {
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
    fn address(&self) -> Option<SocketAddr> {
        self.settings.url.socket_addrs(|| None).unwrap().pop()
    }
    fn grafted(&self, server: Option<SocketAddr>) -> Grafted {
        let (path, at) = (self.settings.url.path(), server.or(self.address()).unwrap());
        Grafted::new(format!("http: {{url: 'http://{at}{path}'}}"))
    }
    async fn stop(&self) {
        self.nginx.stop();
    }
    async fn restart(&self) -> bool {
        self.nginx.restart();
        true
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

    settings.tls.ca_bundle = Some(world.nginx.ca());
    let source = HttpSource::new(settings.clone()).unwrap();
    let entry = known(&source, "f").await;
    assert_eq!(read(&source, "f", &entry, 0, 8).await.unwrap(), b"over TLS");

    settings.url = url("down/");
    let source = HttpSource::new(settings.clone()).unwrap();
    let error = source.list(&RelPath::root()).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Invalid, "{error}");
    assert!(error.to_string().contains("from https to http"), "{error}");

    settings.tls.ca_bundle = Some(world.disk.root.join("f"));
    let error = HttpSource::new(settings).map(|_| ()).unwrap_err();
    assert!(error.to_string().contains("CA bundle"), "{error}");
}
