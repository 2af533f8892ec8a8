//! Files and trees on web servers.
//!
//! A source is one of three things: a tree that the server lists by index pages (or as WebDAV has
//! it), a tree that a manifest lists, or a single file, which then is alone in its directory. Which
//! one, the settings say, or the URL's last slash, or the server when first asked.
//!
//! Replies are pinned by their ETag or Last-Modified (see `validate`), and believed only where
//! they agree with the request. Credentials go to the URL's own origin and to no other.

use std::ops::Range;
use std::sync::Arc;

use async_trait::async_trait;
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, percent_decode_str, utf8_percent_encode};
use reqwest::header::{self, HeaderMap, HeaderName, HeaderValue};
use reqwest::{Method, Response, StatusCode};
use tokio::sync::{Mutex, OnceCell};
use url::Url;

use super::confidence::Confidences;
use super::secret::Secret;
use super::{Body, Error, ErrorKind, Listing, ListingBuilder, Result, Source, Verify, wire};
use crate::entry::Entry;
use crate::path::{Name, RelPath};

#[cfg(feature = "webdav")]
mod dav;
#[cfg(feature = "failpoints")]
pub(super) mod fuzzing;
mod index;
mod manifest;
mod settings;
mod validate;
#[cfg(feature = "webdav")]
mod webdav;

pub use settings::{
    HttpAuth, HttpSettings, IndexFormat, ManifestFormat, ManifestPlace, ManifestSettings,
};

/// How many redirects are followed: a mirror's, a CDN's, a canonical name's, and two to spare.
const REDIRECTS: usize = 5;

/// The largest index page or manifest, in bytes: some 300,000 entries of a page.
const PAGE_LIMIT: usize = 64 * 1024 * 1024;

/// The most bytes that are read only to count those of an object without a length. They are not
/// kept; a stream without an end is told by this, or by the deadline if that is earlier.
const COUNT_LIMIT: u64 = 1 << 30;

/// What stays as it is in a URL's path (RFC 3986's unreserved characters).
const SEGMENT: &AsciiSet = &NON_ALPHANUMERIC
    .remove(b'-')
    .remove(b'.')
    .remove(b'_')
    .remove(b'~');

/// A file or a tree on a web server.
pub struct HttpSource {
    /// As the user wrote it, without credentials.
    url: Url,
    identity: String,
    manifest: Option<ManifestSettings>,
    index: IndexFormat,
    auth: Option<HttpAuth>,
    confidences: Confidences,
    client: wire::Client,
    shape: OnceCell<Shape>,
    loaded: Mutex<Option<Loaded>>,
}

#[derive(Debug, Clone, PartialEq)]
enum Shape {
    Tree,
    Manifest,
    Single(Name),
}

/// A manifest that was read.
#[derive(Clone)]
struct Loaded {
    tree: Arc<manifest::Tree>,
    etag: Option<HeaderValue>,
    modified: Option<HeaderValue>,
}

/// A reply to a request about one object.
struct Described {
    entry: Entry,
    /// The URL that it came from in the end.
    url: Url,
}

impl HttpSource {
    /// Builds the source. Sends no request; fails for settings that can never work.
    pub fn new(settings: HttpSettings) -> Result<HttpSource> {
        let invalid = |why: &str| Err(Error::new(ErrorKind::Invalid, why));
        let mut url = settings.url;
        if !matches!(url.scheme(), "http" | "https") || url.host().is_none() {
            return invalid("the URL is not an http:// or https:// one");
        }
        url.set_fragment(None);
        let mut auth = settings.auth;
        if let Some(password) = url.password() {
            let decode = |text: &str| percent_decode_str(text).decode_utf8_lossy().into_owned();
            auth = auth.or(Some(HttpAuth::Basic {
                username: decode(url.username()),
                password: Secret::fixed(decode(password)),
            }));
        }
        // These fail only for URLs that have no host.
        let _ = url.set_password(None);
        let _ = url.set_username("");
        let is_tree = settings.manifest.is_some() || settings.index != IndexFormat::Auto;
        if url.path().ends_with('/') || is_tree {
            url.set_query(None);
            if !url.path().ends_with('/') {
                let path = format!("{}/", url.path());
                url.set_path(&path);
            }
        }
        let shape = match (&settings.manifest, url.path().ends_with('/')) {
            (Some(_), _) => OnceCell::new_with(Some(Shape::Manifest)),
            (None, true) => OnceCell::new_with(Some(Shape::Tree)),
            (None, false) => OnceCell::new(),
        };
        let client = wire::Client::new(wire::ClientSettings {
            tls: settings.tls,
            proxy: settings.proxy,
            redirects: REDIRECTS,
        })?;
        Ok(HttpSource {
            identity: identity(&url, settings.index, settings.manifest.as_ref()),
            url,
            manifest: settings.manifest,
            index: settings.index,
            auth,
            confidences: Confidences::default(),
            client,
            shape,
            loaded: Mutex::new(None),
        })
    }

    /// Returns the URL of what is at `path` of a tree; a directory's ends with a slash.
    fn child(&self, path: &RelPath, is_dir: bool) -> Url {
        let mut url = self.url.clone();
        url.set_query(None);
        let mut text = url.path().trim_end_matches('/').to_owned();
        for name in path.components() {
            text.push('/');
            text.extend(utf8_percent_encode(name.as_str(), SEGMENT));
        }
        if is_dir {
            text.push('/');
        }
        url.set_path(&text);
        url
    }

    async fn shape(&self) -> Result<&Shape> {
        let probe = || async {
            let name = self
                .url
                .path_segments()
                .and_then(|mut parts| parts.next_back());
            let name: Vec<u8> = percent_decode_str(name.unwrap_or_default()).collect();
            let name = Name::from_bytes(&name).map_err(|why| {
                let message = format!("the URL's file cannot be shown: {why}");
                Error::new(ErrorKind::Invalid, message)
            })?;
            match self.describe(&self.url, name.clone()).await {
                Ok(found) if found.url.path().ends_with('/') => Ok(Shape::Tree),
                Ok(_) => Ok(Shape::Single(name)),
                Err(error) => Err(at_root(error)),
            }
        };
        self.shape.get_or_try_init(probe).await
    }

    /// Returns the URL of a file, which must be one that the source has.
    async fn file_url(&self, path: &RelPath) -> Result<Url> {
        let missing = || Error::new(ErrorKind::NotFound, "no such file");
        match self.shape().await? {
            Shape::Single(name) if path.as_str() == name.as_str() => Ok(self.url.clone()),
            Shape::Single(_) => Err(missing()),
            _ if path.is_root() => Err(missing()),
            _ => Ok(self.child(path, false)),
        }
    }

    async fn send(&self, method: Method, url: &Url, headers: HeaderMap) -> Result<Response> {
        self.send_with(method, url, headers, "").await
    }

    async fn send_with(
        &self,
        method: Method,
        url: &Url,
        mut headers: HeaderMap,
        body: &'static str,
    ) -> Result<Response> {
        headers.insert(
            header::ACCEPT_ENCODING,
            HeaderValue::from_static("identity"),
        );
        // reqwest drops them where a redirect leaves the host.
        let auth = { self.auth.as_ref() }.filter(|_| url.origin() == self.url.origin());
        let secret = match auth.cloned() {
            None => String::new(),
            Some(
                HttpAuth::Bearer(secret)
                | HttpAuth::Basic {
                    password: secret, ..
                },
            ) => blocking(move || secret.read()).await?,
        };
        let request = |client: &reqwest::Client| {
            let mut request = client.request(method, url.clone()).headers(headers);
            if !body.is_empty() {
                request = request.body(body);
            }
            match auth {
                None => request,
                Some(HttpAuth::Bearer(_)) => request.bearer_auth(secret.trim()),
                Some(HttpAuth::Basic { username, .. }) => {
                    request.basic_auth(username, Some(secret))
                }
            }
        };
        self.client.send(&self.confidences, request).await
    }

    /// Returns the error that a reply's status stands for.
    async fn explained(&self, response: Response) -> Error {
        let hint = match (response.status(), &self.auth) {
            (StatusCode::UNAUTHORIZED, None) => {
                "it wants credentials, and none are set; give them in a volume file (`auth`)"
            }
            (StatusCode::UNAUTHORIZED, Some(HttpAuth::Bearer(_))) => {
                "it does not accept the token; it may have expired: where it is in a file, a new \
                 one there is used from the next request on"
            }
            (StatusCode::UNAUTHORIZED, Some(HttpAuth::Basic { .. })) => {
                "it does not accept the user name and password"
            }
            (StatusCode::FORBIDDEN, None) => "it does not permit that to someone unknown",
            (StatusCode::FORBIDDEN, Some(_)) => "it does not permit that with these credentials",
            (StatusCode::PROXY_AUTHENTICATION_REQUIRED, _) => {
                "the proxy does not accept the user name and password, or wants some (`proxy`)"
            }
            (StatusCode::NOT_FOUND, _) => "it is not there",
            (StatusCode::GONE, _) => "it is not there any more, and will not come back",
            (StatusCode::BAD_REQUEST, _)
                if response.url().scheme() == "https" && !self.client.has_certificate() =>
            {
                "it may want a client certificate (`tls.client`)"
            }
            (StatusCode::BAD_REQUEST, _) if response.url().scheme() == "https" => {
                "it may not trust the client certificate (`tls.client`)"
            }
            _ => "",
        };
        let error = wire::status_error(response.status(), response.headers(), hint);
        // Read to its end, so that the connection serves again; its words are for browsers.
        wire::discard(response).await;
        error
    }

    /// Asks for the headers of an object: by HEAD, or where that is not possible, or does not
    /// tell the size, by a GET of its first byte.
    async fn describe(&self, url: &Url, name: Name) -> Result<Described> {
        let response = self.send(Method::HEAD, url, HeaderMap::new()).await?;
        let status = response.status();
        let no_head = matches!(
            status,
            StatusCode::METHOD_NOT_ALLOWED | StatusCode::NOT_IMPLEMENTED
        );
        let size = wire::content_length(response.headers());
        if status == StatusCode::OK && size.is_some() {
            wire::check_encoding(response.headers())?;
            return Ok(Described {
                entry: validate::described(name, size, response.headers()),
                url: response.url().clone(),
            });
        }
        if status != StatusCode::OK && !no_head {
            return Err(self.explained(response).await);
        }
        if response.url().path().ends_with('/') && !url.path().ends_with('/') {
            // A directory, whose page need not be read for that.
            return Ok(Described {
                entry: Entry::dir(name),
                url: response.url().clone(),
            });
        }
        self.describe_by_get(url, name).await
    }

    async fn describe_by_get(&self, url: &Url, name: Name) -> Result<Described> {
        let mut headers = HeaderMap::new();
        headers.insert(header::RANGE, HeaderValue::from_static("bytes=0-0"));
        let response = self.send(Method::GET, url, headers).await?;
        let headers = response.headers().clone();
        let final_url = response.url().clone();
        let size = match response.status() {
            StatusCode::PARTIAL_CONTENT => wire::content_range(&headers)?.1,
            // An empty object has no first byte.
            StatusCode::RANGE_NOT_SATISFIABLE => 0,
            StatusCode::OK => match wire::content_length(&headers) {
                Some(size) => size,
                None => {
                    wire::check_encoding(&headers)?;
                    wire::count(response, COUNT_LIMIT).await?
                }
            },
            _ => return Err(self.explained(response).await),
        };
        wire::check_encoding(&headers)?;
        Ok(Described {
            entry: validate::described(name, Some(size), &headers),
            url: final_url,
        })
    }

    async fn list_index(&self, dir: &RelPath) -> Result<Listing> {
        let mut headers = HeaderMap::new();
        let accept = match self.index {
            IndexFormat::Html => "text/html, */*;q=0.5",
            // Caddy writes JSON for whoever takes it.
            _ => "application/json, text/html;q=0.9, */*;q=0.5",
        };
        headers.insert(header::ACCEPT, HeaderValue::from_static(accept));
        let response = self
            .send(Method::GET, &self.child(dir, true), headers)
            .await?;
        if response.status() != StatusCode::OK {
            let error = self.explained(response).await;
            return Err(match error.kind() {
                ErrorKind::Denied => error.context("the server does not list the directory"),
                _ if dir.is_root() => at_root(error),
                _ => error,
            });
        }
        wire::check_encoding(response.headers())?;
        let page = response.url().clone();
        let kind = wire::text(response.headers(), header::CONTENT_TYPE).map(str::to_owned);
        let body = wire::read_all(response, PAGE_LIMIT).await?;
        let format = self.index;
        let parse = move || index::parse(&page, kind.as_deref(), &body, format);
        blocking(parse).await
    }

    /// Returns the manifest's tree; `anew` asks whether it has changed.
    async fn tree(&self, anew: bool) -> Result<Arc<manifest::Tree>> {
        let Some(settings) = &self.manifest else {
            return Err(Error::new(ErrorKind::Invalid, "no manifest"));
        };
        let mut loaded = self.loaded.lock().await;
        if let (Some(loaded), false) = (&*loaded, anew) {
            return Ok(loaded.tree.clone());
        }
        let format = settings.format;
        let fresh = match &settings.place {
            ManifestPlace::File(path) => {
                let path = path.clone();
                let read = move || {
                    let bad = |e: std::io::Error| {
                        let message = format!("the manifest {}: {e}", path.display());
                        Error::new(ErrorKind::Invalid, message)
                    };
                    manifest::Tree::parse(&std::fs::read(&path).map_err(bad)?, format)
                };
                Loaded {
                    tree: Arc::new(blocking(read).await?),
                    etag: None,
                    modified: None,
                }
            }
            ManifestPlace::Url(url) => match self.fetch_manifest(url, loaded.as_ref()).await? {
                Some((body, etag, modified)) => {
                    let parse = move || manifest::Tree::parse(&body, format);
                    Loaded {
                        tree: Arc::new(blocking(parse).await?),
                        etag,
                        modified,
                    }
                }
                None => match &*loaded {
                    Some(loaded) => return Ok(loaded.tree.clone()),
                    None => return Err(Error::lied("304 to a request without a condition")),
                },
            },
        };
        let tree = fresh.tree.clone();
        *loaded = Some(fresh);
        Ok(tree)
    }

    /// Fetches the manifest, or nothing if it is still the one that is known.
    #[allow(clippy::type_complexity)]
    async fn fetch_manifest(
        &self,
        url: &Url,
        known: Option<&Loaded>,
    ) -> Result<Option<(bytes::Bytes, Option<HeaderValue>, Option<HeaderValue>)>> {
        let mut headers = HeaderMap::new();
        if let Some(known) = known {
            let conditions = [
                (header::IF_NONE_MATCH, &known.etag),
                (header::IF_MODIFIED_SINCE, &known.modified),
            ];
            for (name, value) in conditions {
                if let Some(value) = value {
                    headers.insert(name, value.clone());
                }
            }
        }
        let response = self.send(Method::GET, url, headers).await?;
        match response.status() {
            StatusCode::NOT_MODIFIED => return Ok(None),
            StatusCode::OK => {}
            _ => return Err(at_root(self.explained(response).await).context("the manifest")),
        }
        let headers = response.headers();
        wire::check_encoding(headers)?;
        let value = |name: HeaderName| headers.get(name).cloned();
        let (etag, modified) = (value(header::ETAG), value(header::LAST_MODIFIED));
        let body = wire::read_all(response, PAGE_LIMIT).await?;
        Ok(Some((body, etag, modified)))
    }

    /// Returns the range of the reply and the object's size, where the reply fits the request.
    fn check_reply(
        &self,
        entry: &Entry,
        asked: &Range<u64>,
        status: StatusCode,
        headers: &HeaderMap,
    ) -> Result<(Range<u64>, u64)> {
        wire::check_encoding(headers)?;
        if let Some(pinned) = &entry.validator {
            match validate::is_pinned(pinned, headers) {
                Some(true) => {}
                Some(false) => return Err(Error::changed("the file has changed on the server")),
                None => {
                    return Err(Error::lied(
                        "a reply without the ETag or Last-Modified that an earlier one had",
                    ));
                }
            }
        }
        let (range, size) = match status {
            StatusCode::PARTIAL_CONTENT => wire::content_range(headers)?,
            _ => {
                let size = wire::content_length(headers)
                    .or(entry.size)
                    .ok_or_else(|| {
                        Error::lied("a file without a length, although it had one before")
                    })?;
                (0..size, size)
            }
        };
        if let Some(known) = entry.size.filter(|known| *known != size) {
            let what = format!("the file had {known} bytes and now has {size}");
            return Err(Error::changed(what));
        }
        let now = validate::described(entry.name.clone(), Some(size), headers);
        if entry.validator.is_none() && entry.digest.is_none() && !validate::agree(entry, &now) {
            return Err(Error::changed("the file has changed since it was listed"));
        }
        if status == StatusCode::PARTIAL_CONTENT && range != *asked {
            return Err(Error::lied(format!(
                "bytes {}-{} were asked for and {}-{} came",
                asked.start, asked.end, range.start, range.end
            )));
        }
        Ok((range, size))
    }
}

/// Returns what names the place: the URL, with a query only as a digest, since it may be a
/// signature.
fn identity(url: &Url, index: IndexFormat, manifest: Option<&ManifestSettings>) -> String {
    let digest = |text: &str| blake3::hash(text.as_bytes()).to_hex()[..16].to_owned();
    let mut identity = scheme(index).to_owned() + &shown(url);
    if let Some(query) = url.query() {
        identity.push_str(&format!("?{}", digest(query)));
    }
    match manifest.map(|m| &m.place) {
        None => {}
        Some(ManifestPlace::Url(url)) => {
            identity.push_str(&format!("#{}", digest(url.as_str())));
        }
        Some(ManifestPlace::File(path)) => {
            identity.push_str(&format!("#{}", digest(&path.to_string_lossy())));
        }
    }
    identity
}

/// Returns what stands before the URL where it is not read as a plain web server's.
fn scheme(index: IndexFormat) -> &'static str {
    match index {
        #[cfg(feature = "webdav")]
        IndexFormat::Webdav => "dav+",
        _ => "",
    }
}

/// Returns a URL as it may be shown: without credentials and without a query.
fn shown(url: &Url) -> String {
    let mut url = url.clone();
    url.set_query(None);
    url.into()
}

/// Turns "not found" into an error of the settings: a tree that is not there is not an empty one.
fn at_root(error: Error) -> Error {
    match error.kind() {
        ErrorKind::NotFound => {
            let message = format!("there is nothing at the URL: {error}");
            Error::new(ErrorKind::Invalid, message)
        }
        _ => error,
    }
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T> + Send + 'static,
) -> Result<T> {
    let stopped = |_| Error::new(ErrorKind::Unreachable, "the program is ending");
    tokio::task::spawn_blocking(work).await.map_err(stopped)?
}

/// What the source does, with messages that may repeat what was sent.
impl HttpSource {
    async fn list_all(&self, dir: &RelPath) -> Result<Listing> {
        let missing = || Error::new(ErrorKind::NotFound, "no such directory");
        match self.shape().await? {
            #[cfg(feature = "webdav")]
            Shape::Tree if self.index == IndexFormat::Webdav => self.list_webdav(dir).await,
            Shape::Tree => self.list_index(dir).await,
            Shape::Manifest => {
                let tree = self.tree(dir.is_root()).await?;
                tree.dir(dir).cloned().ok_or_else(missing)
            }
            Shape::Single(_) if !dir.is_root() => Err(missing()),
            Shape::Single(name) => {
                let found = self.describe(&self.url, name.clone()).await;
                let mut listing = ListingBuilder::default();
                listing.push(found.map_err(at_root)?.entry);
                Ok(listing.finish())
            }
        }
    }

    async fn stat_one(&self, path: &RelPath) -> Result<Entry> {
        #[cfg(feature = "webdav")]
        if self.index == IndexFormat::Webdav {
            return self.stat_webdav(path).await;
        }
        let missing = || Error::new(ErrorKind::NotFound, "no such file");
        let url = self.file_url(path).await?;
        let name = path.file_name().ok_or_else(missing)?;
        let digest = match self.shape().await? {
            Shape::Manifest => self.tree(false).await?.file(path).ok_or_else(missing)?,
            _ => None,
        };
        let found = self.describe(&url, name).await?;
        if found.url.path().ends_with('/') && !url.path().ends_with('/') {
            return Err(Error::new(ErrorKind::NotFound, "a directory, not a file"));
        }
        Ok(validate::promised(found.entry, digest))
    }

    async fn read_range(&self, path: &RelPath, entry: &Entry, range: Range<u64>) -> Result<Body> {
        let url = self.file_url(path).await?;
        let mut headers = HeaderMap::new();
        let value = |text: &str| {
            HeaderValue::try_from(text).map_err(|_| Error::changed("a validator that is no header"))
        };
        let last = range.end.saturating_sub(1);
        let bytes = format!("bytes={}-{last}", range.start);
        headers.insert(header::RANGE, value(&bytes)?);
        let condition = entry.validator.as_deref().and_then(validate::condition);
        if let Some((name, text)) = condition {
            headers.insert(name, value(text)?);
        }
        let response = self.send(Method::GET, &url, headers).await?;
        let status = response.status();
        if !matches!(status, StatusCode::OK | StatusCode::PARTIAL_CONTENT) {
            return Err(self.explained(response).await);
        }
        let headers = response.headers();
        let (got, size) = match self.check_reply(entry, &range, status, headers) {
            Ok(checked) => checked,
            Err(error) => {
                wire::discard(response).await;
                return Err(error);
            }
        };
        let now = validate::described(entry.name.clone(), Some(size), headers);
        // The one that is pinned stays, so that it is the same throughout.
        let validator = entry.validator.clone().or(now.validator);
        wire::body(response, got, size, validator)
    }
}

#[async_trait]
impl Source for HttpSource {
    fn identity(&self) -> &str {
        &self.identity
    }

    fn url(&self, path: &RelPath) -> String {
        let url = match self.shape.get() {
            _ if path.is_root() => shown(&self.url),
            Some(Shape::Single(_)) => shown(&self.url),
            _ => shown(&self.child(path, false)),
        };
        scheme(self.index).to_owned() + &url
    }

    async fn list(&self, dir: &RelPath) -> Result<Listing> {
        let conceal = |error| self.confidences.conceal(error);
        self.list_all(dir).await.map_err(conceal)
    }

    async fn stat(&self, path: &RelPath) -> Result<Entry> {
        let conceal = |error| self.confidences.conceal(error);
        self.stat_one(path).await.map_err(conceal)
    }

    async fn read(&self, path: &RelPath, entry: &Entry, range: Range<u64>) -> Result<Body> {
        let conceal = |error| self.confidences.conceal(error);
        self.read_range(path, entry, range).await.map_err(conceal)
    }

    fn verify(&self) -> Verify {
        let manifest = self.manifest.as_ref();
        manifest.map_or(Verify::Open, |manifest| manifest.verify)
    }

    fn same_version(&self, before: &Entry, now: &Entry) -> bool {
        validate::agree(before, now)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn source(url: &str) -> HttpSource {
        HttpSource::new(HttpSettings::new(Url::parse(url).unwrap())).unwrap()
    }

    #[test]
    fn urls_show_no_credentials() {
        let path = RelPath::new("a b/c%/ü?").unwrap();
        let tree = source("http://user:hunter2@host:8080/d/?token=hunter2#x");
        assert_eq!(tree.url(&path), "http://host:8080/d/a%20b/c%25/%C3%BC%3F");
        let file = source("http://user:hunter2@host/f.bin?sig=hunter2");
        for text in [
            tree.identity(),
            &tree.url(&RelPath::root()),
            file.identity(),
            &file.url(&RelPath::root()),
        ] {
            assert!(
                !text.contains("hunter2") && !text.contains("user"),
                "{text}"
            );
        }
        let other = source("http://host/f.bin?sig=other");
        assert_ne!(file.identity(), other.identity());
    }

    #[test]
    fn only_web_urls() {
        for bad in ["ftp://host/", "file:///x", "data:,x"] {
            let url = Url::parse(bad).unwrap();
            assert!(HttpSource::new(HttpSettings::new(url)).is_err(), "{bad}");
        }
    }
}
