//! The demonstration's small world: a bucket and an HTTP tree, served on loopback from memory.
//!
//! Just enough of S3 (ListObjectsV2, GetObject, HeadObject) and of a web server with index pages
//! for this program's own client; not a server for anybody else.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::net::SocketAddr;
use std::sync::Arc;

use axum::Router;
use axum::body::Body;
use axum::extract::{Path, Query, State};
use axum::http::{HeaderMap, HeaderValue, Method, Response, StatusCode, header};
use axum::routing::get;
use bytes::Bytes;

/// Files by path.
pub(super) type Files = BTreeMap<String, Bytes>;

/// The same as they are served.
type Served = BTreeMap<String, Object>;

struct Object {
    bytes: Bytes,
    /// Without quotes. Made once: hashing a large file takes longer than sending a part of it.
    etag: String,
}

fn served(files: Files) -> Served {
    let object = |bytes: Bytes| Object {
        etag: blake3::hash(&bytes).to_hex()[..32].to_owned(),
        bytes,
    };
    files.into_iter().map(|(k, v)| (k, object(v))).collect()
}

/// When all files of the world were last changed: 2026-01-01 00:00:00 UTC.
const CHANGED: &str = "Thu, 01 Jan 2026 00:00:00 GMT";

/// The most keys on a page, as at S3.
const PAGE: usize = 1000;

struct Bucket {
    name: String,
    files: Served,
}

/// Serves `files` as the bucket `name` on a free port of loopback, for as long as the runtime lives.
pub(super) async fn serve_bucket(name: &str, files: Files) -> std::io::Result<SocketAddr> {
    let bucket = Arc::new(Bucket {
        name: name.to_owned(),
        files: served(files),
    });
    let app = Router::new()
        .route("/{bucket}", get(list_bucket))
        .route("/{bucket}/", get(list_bucket))
        .route("/{bucket}/{*key}", get(get_object))
        .with_state(bucket);
    serve(app).await
}

/// Serves `files` as a tree with index pages on a free port of loopback.
pub(super) async fn serve_tree(files: Files) -> std::io::Result<SocketAddr> {
    let app = Router::new()
        .fallback(get(get_page))
        .with_state(Arc::new(served(files)));
    serve(app).await
}

async fn serve(app: Router) -> std::io::Result<SocketAddr> {
    let listener = tokio::net::TcpListener::bind(("127.0.0.1", 0)).await?;
    let address = listener.local_addr()?;
    tokio::spawn(async move { axum::serve(listener, app).await });
    Ok(address)
}

async fn list_bucket(
    State(bucket): State<Arc<Bucket>>,
    Path(name): Path<String>,
    Query(query): Query<BTreeMap<String, String>>,
) -> Response<Body> {
    if name != bucket.name {
        return error(StatusCode::NOT_FOUND, "NoSuchBucket");
    }
    let word = |key: &str| query.get(key).map_or("", String::as_str);
    let (prefix, delimiter) = (word("prefix"), word("delimiter"));
    let after = match word("continuation-token") {
        "" => word("start-after"),
        token => token,
    };
    let mut xml = String::from(r#"<?xml version="1.0" encoding="UTF-8"?><ListBucketResult>"#);
    let (mut count, mut last, mut more) = (0, String::new(), false);
    for (key, object) in &bucket.files {
        let Some(rest) = key.strip_prefix(prefix) else {
            continue;
        };
        let common = match rest.find(delimiter) {
            Some(at) if !delimiter.is_empty() => Some(&key[..prefix.len() + at + delimiter.len()]),
            _ => None,
        };
        let shown = common.unwrap_or(key);
        if shown <= after || shown == last {
            continue;
        }
        if count == PAGE {
            more = true;
            break;
        }
        count += 1;
        shown.clone_into(&mut last);
        let escaped = quick_xml::escape::escape(shown);
        let _ = match common {
            Some(_) => write!(
                xml,
                "<CommonPrefixes><Prefix>{escaped}</Prefix></CommonPrefixes>"
            ),
            None => write!(
                xml,
                "<Contents><Key>{escaped}</Key><LastModified>2026-01-01T00:00:00.000Z</LastModified>\
                 <ETag>&quot;{}&quot;</ETag><Size>{}</Size></Contents>",
                object.etag,
                object.bytes.len()
            ),
        };
    }
    let _ = write!(
        xml,
        "<KeyCount>{count}</KeyCount><IsTruncated>{more}</IsTruncated>"
    );
    if more {
        let token = quick_xml::escape::escape(&last);
        let _ = write!(
            xml,
            "<NextContinuationToken>{token}</NextContinuationToken>"
        );
    }
    xml.push_str("</ListBucketResult>");
    respond(StatusCode::OK, "application/xml", xml.into())
}

async fn get_object(
    State(bucket): State<Arc<Bucket>>,
    Path((name, key)): Path<(String, String)>,
    method: Method,
    headers: HeaderMap,
) -> Response<Body> {
    match bucket.files.get(&key) {
        Some(found) if name == bucket.name => object(found, &method, &headers),
        _ => error(StatusCode::NOT_FOUND, "NoSuchKey"),
    }
}

async fn get_page(
    State(files): State<Arc<Served>>,
    uri: axum::http::Uri,
    method: Method,
    headers: HeaderMap,
) -> Response<Body> {
    let path = percent_encoding::percent_decode_str(uri.path()).decode_utf8_lossy();
    let path = path.trim_start_matches('/');
    if let Some(found) = files.get(path) {
        return object(found, &method, &headers);
    }
    if !path.is_empty() && !path.ends_with('/') {
        return error(StatusCode::NOT_FOUND, "no such file");
    }
    let mut names: BTreeMap<String, Option<usize>> = BTreeMap::new();
    for (key, found) in files.iter() {
        if let Some(rest) = key.strip_prefix(path) {
            match rest.split_once('/') {
                Some((dir, _)) => names.insert(format!("{dir}/"), None),
                None => names.insert(rest.to_owned(), Some(found.bytes.len())),
            };
        }
    }
    if names.is_empty() {
        return error(StatusCode::NOT_FOUND, "no such directory");
    }
    // The layout of nginx's autoindex.
    let title = format!("Index of /{path}");
    let mut page = format!(
        "<html>\r\n<head><title>{title}</title></head>\r\n<body>\r\n<h1>{title}</h1><hr><pre><a href=\"../\">../</a>\r\n"
    );
    for (name, size) in names {
        let size = size.map_or("-".to_owned(), |s| s.to_string());
        let pad = 51usize.saturating_sub(name.len());
        let _ = write!(
            page,
            "<a href=\"{name}\">{name}</a>{:pad$}01-Jan-2026 00:00{size:>20}\r\n",
            ""
        );
    }
    page.push_str("</pre><hr></body>\r\n</html>\r\n");
    respond(StatusCode::OK, "text/html", page.into())
}

fn object(found: &Object, method: &Method, headers: &HeaderMap) -> Response<Body> {
    let bytes = &found.bytes;
    let tag = format!("\"{}\"", found.etag);
    if let Some(wanted) = headers.get(header::IF_MATCH)
        && wanted.as_bytes() != tag.as_bytes()
    {
        return error(StatusCode::PRECONDITION_FAILED, "PreconditionFailed");
    }
    let range = headers
        .get(header::RANGE)
        .and_then(|r| r.to_str().ok())
        .and_then(|r| r.strip_prefix("bytes=")?.split_once('-'))
        .and_then(|(from, to)| {
            let from: usize = from.parse().ok()?;
            let to = to.parse().map_or(bytes.len(), |to: usize| to + 1);
            Some(from..to.min(bytes.len()))
        });
    let (status, part) = match &range {
        Some(r) if r.start >= r.end => {
            return error(StatusCode::RANGE_NOT_SATISFIABLE, "InvalidRange");
        }
        Some(r) => (StatusCode::PARTIAL_CONTENT, bytes.slice(r.clone())),
        None => (StatusCode::OK, bytes.clone()),
    };
    let length = part.len();
    let body = if method == Method::HEAD {
        Bytes::new()
    } else {
        part
    };
    let mut response = respond(status, "application/octet-stream", body);
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_LENGTH, length.into());
    headers.insert(header::ACCEPT_RANGES, HeaderValue::from_static("bytes"));
    headers.insert(header::LAST_MODIFIED, HeaderValue::from_static(CHANGED));
    if let Ok(tag) = HeaderValue::from_str(&tag) {
        headers.insert(header::ETAG, tag);
    }
    if let Some(r) = range
        && let Ok(value) =
            HeaderValue::from_str(&format!("bytes {}-{}/{}", r.start, r.end - 1, bytes.len()))
    {
        headers.insert(header::CONTENT_RANGE, value);
    }
    response
}

fn respond(status: StatusCode, kind: &'static str, body: Bytes) -> Response<Body> {
    let mut response = Response::new(Body::from(body));
    *response.status_mut() = status;
    response
        .headers_mut()
        .insert(header::CONTENT_TYPE, HeaderValue::from_static(kind));
    response
}

fn error(status: StatusCode, code: &str) -> Response<Body> {
    let xml = format!("<?xml version=\"1.0\"?><Error><Code>{code}</Code></Error>");
    respond(status, "application/xml", xml.into())
}
