//! Servers that lie, stall and break, each by a script: every one must become an error of the
//! right kind, and never a wrong byte or an absence.

mod common;

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use common::scripted::{Reply, Request, Scripted, reply};
use futures::StreamExt;
use svol::entry::{Entry, Version};
use svol::path::{Name, RelPath};
use svol::source::guard::{GuardOptions, Guarded};
use svol::source::http::{HttpAuth, HttpSettings, HttpSource};
use svol::source::s3::{Env, S3Settings, S3Source};
use svol::source::{Body, ErrorKind, Result, Secret, Source};
use url::Url;

const TRUTH: &[u8] = b"0123456789";

fn at(path: &str) -> RelPath {
    RelPath::new(path).unwrap()
}

/// The file as it was listed, pinned to the ETag `"v"`.
fn pinned() -> Entry {
    Entry {
        validator: Some("\"v\"".into()),
        ..Entry::file(Name::new("f").unwrap(), 10, None, Version::strong("\"v\""))
    }
}

async fn collect(mut body: Body) -> Result<Vec<u8>> {
    let mut all = Vec::new();
    while let Some(bytes) = body.stream.next().await {
        all.extend_from_slice(&bytes?);
    }
    Ok(all)
}

/// Reads bytes 2 to 5 from a source; all of what came, with where it begins.
async fn read(source: &dyn Source) -> Result<(u64, Vec<u8>)> {
    let body = source.read(&at("f"), &pinned(), 2..5).await?;
    let start = body.range.start;
    Ok((start, collect(body).await?))
}

fn http(server: &Scripted) -> HttpSource {
    HttpSource::new(HttpSettings::new(
        Url::parse(&format!("{}/d/", server.url)).unwrap(),
    ))
    .unwrap()
}

fn s3(server: &Scripted) -> S3Source {
    s3_with(server, |settings| settings.anonymous = true, [])
}

fn s3_with<const N: usize>(
    server: &Scripted,
    change: impl FnOnce(&mut S3Settings),
    env: [(&str, &str); N],
) -> S3Source {
    let mut settings = S3Settings {
        bucket: "bucket".into(),
        endpoint: Some(server.url.clone()),
        ..S3Settings::default()
    };
    change(&mut settings);
    S3Source::new(settings, &Env::from_pairs(env)).unwrap()
}

fn guarded(source: impl Source, deadline: Duration) -> Guarded {
    let options = GuardOptions {
        deadline,
        ..GuardOptions::default()
    };
    Guarded::new(Arc::new(source), "scripted", options)
}

/// An honest 206 for bytes 2 to 5, some of its headers replaced (or left out, where empty).
fn partial(changed: &[(&str, &str)], body: &[u8]) -> Reply {
    let mut headers = vec![("ETag", "\"v\""), ("Content-Range", "bytes 2-4/10")];
    headers.retain(|(name, _)| !changed.iter().any(|c| c.0 == *name));
    headers.extend(changed.iter().filter(|c| !c.1.is_empty()));
    reply("206 Partial Content", &headers, body)
}

type Script = fn(&Request) -> Reply;

#[tokio::test]
async fn lies_about_a_range() {
    let cases: &[(&str, Script, Option<ErrorKind>)] = &[
        ("honest", |_| partial(&[], b"234"), None),
        (
            "another range",
            |_| partial(&[("Content-Range", "bytes 3-5/10")], b"345"),
            Some(ErrorKind::Lied),
        ),
        (
            "a part of the range",
            |_| partial(&[("Content-Range", "bytes 2-3/10")], b"23"),
            Some(ErrorKind::Lied),
        ),
        (
            "no range",
            |_| partial(&[("Content-Range", "")], b"234"),
            Some(ErrorKind::Lied),
        ),
        (
            "nonsense",
            |_| partial(&[("Content-Range", "bytes 4-2/10")], b"234"),
            Some(ErrorKind::Lied),
        ),
        (
            "another size",
            |_| partial(&[("Content-Range", "bytes 2-4/11")], b"234"),
            Some(ErrorKind::Changed),
        ),
        (
            "multipart",
            |_| {
                let kind = ("Content-Type", "multipart/byteranges; boundary=x");
                partial(&[("Content-Range", ""), kind], b"--x\r\n\r\n234\r\n--x--")
            },
            Some(ErrorKind::Lied),
        ),
        (
            "short by its own length",
            |_| partial(&[("Content-Length", "2")], b"23"),
            Some(ErrorKind::Lied),
        ),
        (
            "cut",
            |_| partial(&[("Content-Length", "3")], b"2"),
            Some(ErrorKind::Interrupted),
        ),
        ("long", |_| partial(&[], b"23456"), Some(ErrorKind::Lied)),
        (
            "long, and nothing says so",
            |_| {
                let chunked = ("Transfer-Encoding", "chunked");
                partial(&[chunked], b"5\r\n23456\r\n0\r\n\r\n")
            },
            Some(ErrorKind::Lied),
        ),
        (
            "compressed",
            |_| partial(&[("Content-Encoding", "gzip")], b"234"),
            Some(ErrorKind::Lied),
        ),
        (
            "another version",
            |_| partial(&[("ETag", "\"w\"")], b"234"),
            Some(ErrorKind::Changed),
        ),
        (
            "no version",
            |_| partial(&[("ETag", "")], b"234"),
            Some(ErrorKind::Lied),
        ),
        (
            "empty, with no content",
            |_| reply("204 No Content", &[], b""),
            Some(ErrorKind::Lied),
        ),
        (
            "precondition",
            |_| reply("412 Precondition Failed", &[], b""),
            Some(ErrorKind::Changed),
        ),
        (
            "unsatisfiable",
            |_| reply("416 Range Not Satisfiable", &[], b""),
            Some(ErrorKind::Changed),
        ),
        (
            "forbidden",
            |_| reply("403 Forbidden", &[], b""),
            Some(ErrorKind::Denied),
        ),
        (
            "failed",
            |_| reply("500 Oops", &[], b""),
            Some(ErrorKind::Server),
        ),
        (
            "busy",
            |_| reply("429 Slow", &[("Retry-After", "7")], b""),
            Some(ErrorKind::Throttled),
        ),
        ("closed", |_| Reply::Close, Some(ErrorKind::Interrupted)),
        (
            "not HTTP",
            |_| Reply::Raw(b"220 FTP ready\r\n\r\n".to_vec()),
            Some(ErrorKind::Lied),
        ),
    ];
    for (what, script, want) in cases {
        let server = Scripted::start(*script).await;
        let sources: [Box<dyn Source>; 2] = [Box::new(http(&server)), Box::new(s3(&server))];
        for source in sources {
            match (read(&*source).await, want) {
                (Ok(got), None) => assert_eq!(got, (2, TRUTH[2..5].to_vec()), "{what}"),
                (got, want) => assert_eq!(
                    got.as_ref().map_err(|e| e.kind()).err(),
                    *want,
                    "{what}: {} {got:?}",
                    source.identity()
                ),
            }
        }
    }
}

#[tokio::test]
async fn a_whole_object_instead_of_a_range() {
    let server = Scripted::start(|_| reply("200 OK", &[("ETag", "\"v\"")], TRUTH)).await;
    // A plain web server may know no ranges; S3 does.
    assert_eq!(read(&http(&server)).await.unwrap(), (0, TRUTH.to_vec()));
    let error = read(&s3(&server)).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Lied);
    // An error page in place of a file is another version, at least another size.
    let server = Scripted::start(|_| reply("200 OK", &[], b"<html>We are sorry</html>")).await;
    let error = read(&http(&server)).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Lied);
    let server = Scripted::start(|_| reply("200 OK", &[("ETag", "\"v\"")], b"<html>")).await;
    let error = read(&http(&server)).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Changed);
}

#[tokio::test]
async fn silence_ends_at_the_deadline() {
    let head = b"HTTP/1.1 206 Partial\r\nETag: \"v\"\r\nContent-Range: bytes 2-4/10\r\n\
                 Content-Length: 3\r\n\r\n2";
    for said in [&b""[..], b"HTTP/1.1 206 Par", head] {
        let server = Scripted::start(|_| Reply::Stall(said.to_vec())).await;
        let deadline = Duration::from_millis(500);
        for source in [
            guarded(http(&server), deadline),
            guarded(s3(&server), deadline),
        ] {
            let start = Instant::now();
            let error = read(&source).await.unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Timeout);
            assert!(start.elapsed() < Duration::from_secs(3));
        }
    }
}

#[tokio::test]
async fn a_pause_is_kept_and_then_all_is_well() {
    for status in ["503 Slow Down", "429 Too Many"] {
        let count = AtomicUsize::new(0);
        let server = Scripted::start(move |_| match count.fetch_add(1, Ordering::SeqCst) {
            0 => reply(status, &[("Retry-After", "1")], b""),
            1 => Reply::Close,
            _ => partial(&[], b"234"),
        })
        .await;
        let source = guarded(http(&server), Duration::from_secs(20));
        let start = Instant::now();
        assert_eq!(read(&source).await.unwrap().1, b"234");
        assert!(start.elapsed() >= Duration::from_secs(1));
        assert_eq!(source.counters().retries, 2);
    }
    let server = Scripted::start(|_| reply("503 Slow Down", &[("Retry-After", "9")], b"")).await;
    let error = read(&s3(&server)).await.unwrap_err();
    assert_eq!(error.retry_after(), Some(Duration::from_secs(9)));
}

#[tokio::test]
async fn redirects_take_no_credentials_along() {
    let there = Scripted::start(|_| partial(&[], b"234")).await;
    let target = format!("{}/elsewhere", there.url);
    let here = Scripted::start(move |_| reply("302 Found", &[("Location", &target)], b"")).await;
    let mut settings = HttpSettings::new(Url::parse(&format!("{}/d/", here.url)).unwrap());
    settings.auth = Some(HttpAuth::Bearer(Secret::fixed("hunter2")));
    let source = HttpSource::new(settings).unwrap();
    assert_eq!(read(&source).await.unwrap().1, b"234");
    assert_eq!(
        here.seen()[0].header("authorization"),
        Some("Bearer hunter2")
    );
    assert_eq!(there.seen()[0].header("authorization"), None);
    assert_eq!(there.seen()[0].header("if-match"), Some("\"v\""));
    assert_eq!(there.seen()[0].header("accept-encoding"), Some("identity"));

    let around = Scripted::start(|_| reply("302 Found", &[("Location", "/again")], b"")).await;
    let error = read(&http(&around)).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Invalid, "{error}");
    assert_eq!(around.seen().len(), 6);
    // S3's signature is for one host.
    let error = read(&s3(&here)).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Invalid, "{error}");
}

#[tokio::test]
async fn files_without_head_or_length() {
    // No HEAD: the first byte tells.
    let server = Scripted::start(|request| match request.method.as_str() {
        "HEAD" => reply("405 No", &[], b""),
        _ => reply(
            "206 Partial",
            &[("Content-Range", "bytes 0-0/10"), ("ETag", "\"v\"")],
            b"0",
        ),
    })
    .await;
    let entry = http(&server).stat(&at("f")).await.unwrap();
    assert_eq!(entry.size, Some(10));
    // No length: it is counted, and read whole.
    let server = Scripted::start(|request| {
        let body: &[u8] = match request.method.as_str() {
            "HEAD" => b"",
            _ => b"4\r\n0123\r\n6\r\n456789\r\n0\r\n\r\n",
        };
        let headers = [("Transfer-Encoding", "chunked"), ("ETag", "\"v\"")];
        reply("200 OK", &headers, body)
    })
    .await;
    let source = http(&server);
    let entry = source.stat(&at("f")).await.unwrap();
    assert_eq!(entry.size, Some(10));
    assert_eq!(read(&source).await.unwrap(), (0, TRUTH.to_vec()));
}

fn page(inner: &str, next: Option<&str>) -> Reply {
    let next = match next {
        None => "<IsTruncated>false</IsTruncated>".to_owned(),
        Some(token) => format!(
            "<IsTruncated>true</IsTruncated><NextContinuationToken>{token}\
             </NextContinuationToken>"
        ),
    };
    let body = format!("<?xml version=\"1.0\"?><ListBucketResult>{next}{inner}</ListBucketResult>");
    reply(
        "200 OK",
        &[("Content-Type", "application/xml")],
        body.as_bytes(),
    )
}

fn key(key: &str) -> String {
    format!("<Contents><Key>{key}</Key><Size>1</Size><ETag>\"e\"</ETag></Contents>")
}

#[tokio::test]
async fn listings_that_never_end_do() {
    let looping = Scripted::start(|r| match r.target.contains("token=two") {
        true => page(&key("b"), Some("one")),
        false => page(
            &key("a"),
            Some(if r.target.contains("one") {
                "two"
            } else {
                "one"
            }),
        ),
    })
    .await;
    let count = AtomicUsize::new(0);
    let empty = Scripted::start(move |_| {
        let n = count.fetch_add(1, Ordering::SeqCst).to_string();
        page("", Some(&n))
    })
    .await;
    for server in [looping, empty] {
        let error = s3(&server).list(&RelPath::root()).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Lied, "{error}");
        assert!(server.seen().len() <= 101);
    }
}

#[tokio::test]
async fn hostile_listings_hide_what_cannot_be_shown() {
    let server = Scripted::start(|r| match r.target.contains("continuation-token=t%2F%2B") {
        false => {
            let dirs = "<CommonPrefixes><Prefix>../</Prefix></CommonPrefixes>\
                        <CommonPrefixes><Prefix>//</Prefix></CommonPrefixes>\
                        <CommonPrefixes><Prefix>d/</Prefix></CommonPrefixes>";
            page(&format!("{}{}{dirs}", key("."), key("a")), Some("t/+"))
        }
        true => page(&format!("{}{}", key("z"), key("nul&#x1;")), None),
    })
    .await;
    let listing = s3(&server).list(&RelPath::root()).await;
    let listing = listing.unwrap();
    let names: Vec<_> = listing.entries.iter().map(|e| e.name.as_str()).collect();
    assert_eq!(names, ["a", "d", "nul\u{1}", "z"]);
    assert_eq!(listing.hidden.iter().map(|h| h.count).sum::<u64>(), 3);
}

#[tokio::test]
async fn pages_that_are_no_listings() {
    let cases: &[(Script, ErrorKind)] = &[
        (
            |_| reply("200 OK", &[], b"<html>Welcome</html>"),
            ErrorKind::Lied,
        ),
        (|_| reply("200 OK", &[], b""), ErrorKind::Lied),
        (
            |_| {
                reply(
                    "200 OK",
                    &[("Content-Length", "500")],
                    b"<ListBucketResult>",
                )
            },
            ErrorKind::Interrupted,
        ),
        (|_| reply("500 Oops", &[], b""), ErrorKind::Server),
        (|_| Reply::Close, ErrorKind::Interrupted),
        (|_| reply("401 No", &[], b""), ErrorKind::Denied),
    ];
    for (script, want) in cases {
        let server = Scripted::start(*script).await;
        let sources: [Box<dyn Source>; 2] = [Box::new(http(&server)), Box::new(s3(&server))];
        for source in sources {
            for dir in [RelPath::root(), at("d")] {
                let error = source.list(&dir).await.unwrap_err();
                assert_eq!(error.kind(), *want, "{error}");
            }
        }
    }
    // A 404 that is not S3's own says nothing of a bucket or a key.
    let server = Scripted::start(|_| reply("404 Not Found", &[], b"<html>nginx</html>")).await;
    let error = s3(&server).list(&at("d")).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Lied);
    assert_eq!(
        read(&s3(&server)).await.unwrap_err().kind(),
        ErrorKind::Lied
    );
}

#[tokio::test]
async fn keys_come_from_where_the_aws_tools_take_them() {
    let server = Scripted::start(|_| page("", None)).await;
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("credentials");
    let keys = |id: &str| format!("[default]\naws_access_key_id={id}\naws_secret_access_key=s\n");
    std::fs::write(
        &file,
        format!(
            "{}[p]\naws_access_key_id=PROF\naws_secret_access_key=s\n",
            keys("FILE")
        ),
    )
    .unwrap();
    let file = file.to_str().unwrap();
    let files = ("AWS_SHARED_CREDENTIALS_FILE", file);
    let env = [
        ("AWS_ACCESS_KEY_ID", "ENV"),
        ("AWS_SECRET_ACCESS_KEY", "s"),
        ("AWS_SESSION_TOKEN", "TOKEN"),
        ("AWS_REGION", "mars-1"),
        ("AWS_PROFILE", "p"),
        files,
    ];
    let as_it_is = |_: &mut S3Settings| {};
    let sources = [
        (s3_with(&server, as_it_is, [files]), "=FILE/"),
        (
            s3_with(&server, as_it_is, [files, ("AWS_PROFILE", "p")]),
            "=PROF/",
        ),
        (s3_with(&server, as_it_is, env), "=ENV/"),
        (
            s3_with(&server, |s| s.profile = Some("p".into()), env),
            "=PROF/",
        ),
    ];
    for (source, want) in sources {
        source.list(&RelPath::root()).await.unwrap();
        let seen = server.seen().pop().unwrap();
        let signed = seen.header("authorization").unwrap().to_owned();
        assert!(signed.contains(want), "{signed}");
        if want == "=ENV/" {
            assert!(signed.contains("/mars-1/s3/"), "{signed}");
            assert_eq!(seen.header("x-amz-security-token"), Some("TOKEN"));
        }
    }
    let payer = s3_with(&server, |s| s.requester_pays = true, [files]);
    payer.list(&RelPath::root()).await.unwrap();
    let seen = server.seen().pop().unwrap();
    assert_eq!(seen.header("x-amz-request-payer"), Some("requester"));
    s3(&server).list(&RelPath::root()).await.unwrap();
    assert_eq!(server.seen().pop().unwrap().header("authorization"), None);
}

#[tokio::test]
async fn no_keys_anywhere_is_said_soon() {
    let server = Scripted::start(|_| page("", None)).await;
    let silent = Scripted::start(|_| Reply::Stall(Vec::new())).await;
    for (variable, value) in [
        ("AWS_EC2_METADATA_DISABLED", "true"),
        ("AWS_EC2_METADATA_SERVICE_ENDPOINT", silent.url.as_str()),
    ] {
        let source = s3_with(&server, |_| {}, [(variable, value)]);
        let start = Instant::now();
        for _ in 0..3 {
            let error = source.list(&RelPath::root()).await.unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Denied);
            for word in ["--no-sign-request", "AWS_ACCESS_KEY_ID", "AWS_PROFILE"] {
                assert!(error.to_string().contains(word), "{error}");
            }
        }
        assert!(start.elapsed() < Duration::from_secs(4), "{variable}");
    }
    assert!(server.seen().is_empty(), "nothing was sent unsigned");
}
