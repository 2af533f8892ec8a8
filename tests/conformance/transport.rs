//! Certificates and proxies, which all kinds that speak HTTP have alike. On nginx.

use std::path::Path;

use svol::path::RelPath;
use svol::source::http::{HttpSettings, HttpSource};
use svol::source::s3::{S3Settings, S3Source};
use svol::source::{ErrorKind, ProxySettings, Secret, Source};
use url::Url;

use crate::common::proxy::TestProxy;
use crate::common::s3::no_env;
use crate::common::web::TestNginx;
use crate::suite::*;

fn at_url(url: &str) -> HttpSettings {
    HttpSettings::new(Url::parse(url).unwrap())
}

async fn nginx() -> TestNginx {
    let nginx = blocking(TestNginx::start).await;
    std::fs::create_dir(nginx.root.join("d")).unwrap();
    std::fs::write(nginx.root.join("d/f"), b"content").unwrap();
    nginx
}

/// Reads the file of [`nginx`].
async fn reads(source: &dyn Source) -> svol::source::Result<Vec<u8>> {
    let entry = source.stat(&at("f")).await?;
    read(source, "f", &entry, 0, 7).await
}

#[tokio::test]
async fn a_client_certificate_is_shown_to_who_wants_one() {
    let nginx = nginx().await;
    let mut settings = at_url(&format!("{}/d/", nginx.mutual));
    settings.tls.ca_bundle = Some(nginx.ca());
    let source = HttpSource::new(settings.clone()).unwrap();
    let error = source.list(&RelPath::root()).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Invalid, "{error}");
    assert!(error.to_string().contains("client certificate"), "{error}");

    settings.tls.client = Some(nginx.stranger());
    let source = HttpSource::new(settings.clone()).unwrap();
    let error = source.list(&RelPath::root()).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Invalid, "{error}");

    settings.tls.client = Some(nginx.client());
    let source = HttpSource::new(settings.clone()).unwrap();
    assert_eq!(reads(&source).await.unwrap(), b"content");

    // S3 by the same settings: what answers is no S3, but it does.
    let s3 = S3Settings {
        bucket: "d".into(),
        endpoint: Some(nginx.mutual.clone()),
        anonymous: true,
        tls: settings.tls.clone(),
        ..S3Settings::default()
    };
    let s3 = S3Source::new(s3, &no_env()).unwrap();
    let entry = s3.stat(&at("f")).await.unwrap();
    assert_eq!(read(&s3, "f", &entry, 0, 7).await.unwrap(), b"content");
}

/// Puts the certificate of another in the place of `own`, as rotation does.
fn replace(own: &Path, other: &Path) {
    let new = own.with_extension("new");
    std::fs::copy(other, &new).unwrap();
    std::fs::rename(&new, own).unwrap();
}

#[tokio::test]
async fn certificates_are_read_again_when_they_change() {
    let nginx = nginx().await;
    let (own, right) = (nginx.stranger(), nginx.client());
    let mut settings = at_url(&format!("{}/d/", nginx.mutual));
    settings.tls.ca_bundle = Some(nginx.ca());
    settings.tls.client = Some(own.clone());
    let source = HttpSource::new(settings).unwrap();
    assert!(reads(&source).await.is_err());
    replace(&own.certificate, &right.certificate);
    replace(&own.key, &right.key);
    // The failure before is reason enough to look again at once.
    assert_eq!(reads(&source).await.unwrap(), b"content");

    // Whom to trust, too.
    let mut settings = at_url(&format!("{}/html/d/", nginx.https));
    let authorities = own.certificate.with_file_name("authorities.pem");
    std::fs::copy(&right.certificate, &authorities).unwrap();
    settings.tls.ca_bundle = Some(authorities.clone());
    let source = HttpSource::new(settings).unwrap();
    assert!(reads(&source).await.is_err());
    replace(&authorities, &nginx.ca());
    assert_eq!(reads(&source).await.unwrap(), b"content");
}

fn port(url: &str) -> &str {
    url.rsplit(':').next().unwrap()
}

#[tokio::test]
async fn a_proxy_leads_to_other_hosts_and_never_to_this_one() {
    let nginx = nginx().await;
    let proxy = TestProxy::start().await;
    let set = Some(ProxySettings {
        url: Url::parse(&proxy.url).unwrap(),
        auth: None,
    });
    let (plain, tls) = (port(&nginx.url), port(&nginx.https));
    for url in [
        format!("http://files.test:{plain}/html/d/"),
        format!("https://files.test:{tls}/html/d/"),
    ] {
        let mut settings = at_url(&url);
        settings.proxy = set.clone();
        settings.tls.ca_bundle = Some(nginx.ca());
        let source = HttpSource::new(settings).unwrap();
        assert_eq!(reads(&source).await.unwrap(), b"content", "{url}");
    }
    let seen = proxy.seen();
    assert!(
        seen.contains(&format!("CONNECT files.test:{tls} HTTP/1.1")),
        "{seen:?}"
    );
    assert!(
        seen.iter()
            .any(|line| line.starts_with("HEAD http://files.test")),
        "{seen:?}"
    );

    for host in ["127.0.0.1", "localhost"] {
        let mut settings = at_url(&format!("http://{host}:{plain}/html/d/"));
        settings.proxy = set.clone();
        let source = HttpSource::new(settings).unwrap();
        assert_eq!(reads(&source).await.unwrap(), b"content");
    }
    assert_eq!(proxy.seen(), seen, "nothing of this machine went there");
}

#[tokio::test]
async fn the_proxys_password_is_read_again_and_never_shown() {
    let nginx = nginx().await;
    let proxy = TestProxy::start().await;
    // tester:right-hunter2
    proxy.want("Basic dGVzdGVyOnJpZ2h0LWh1bnRlcjI=");
    let file = nginx.root.join("password");
    std::fs::write(&file, "wrong-hunter2").unwrap();
    let secret = file.clone();
    let password = Secret::from_fn(move || {
        std::fs::read_to_string(&secret).map_err(|_| "cannot read the password".into())
    });
    let set = Some(ProxySettings {
        url: Url::parse(&proxy.url).unwrap(),
        auth: Some(("tester".into(), password)),
    });
    for url in [
        format!("http://files.test:{}/html/d/", port(&nginx.url)),
        format!("https://files.test:{}/html/d/", port(&nginx.https)),
    ] {
        std::fs::write(&file, "wrong-hunter2").unwrap();
        let mut settings = at_url(&url);
        settings.proxy = set.clone();
        settings.tls.ca_bundle = Some(nginx.ca());
        let source = HttpSource::new(settings).unwrap();
        let error = reads(&source).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Denied, "{error}");
        let text = format!("{error} {error:?}");
        assert!(text.contains("proxy"), "{text}");
        assert!(
            !text.contains("hunter2") && !text.contains("dGVzdGVy"),
            "{text}"
        );
        std::fs::write(&file, "right-hunter2").unwrap();
        assert_eq!(reads(&source).await.unwrap(), b"content", "{url}");
    }
    // S3 shows what the answer says, so there it matters most.
    std::fs::write(&file, "wrong-hunter2").unwrap();
    let s3 = S3Settings {
        bucket: "d".into(),
        endpoint: Some(format!("http://files.test:{}", port(&nginx.url))),
        anonymous: true,
        proxy: set,
        ..S3Settings::default()
    };
    let s3 = S3Source::new(s3, &no_env()).unwrap();
    let error = s3.list(&RelPath::root()).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Denied, "{error}");
    assert!(!error.to_string().contains("hunter2"), "{error}");
}
