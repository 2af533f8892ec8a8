//! Buckets of Amazon S3 and of whatever speaks its protocol.
//!
//! object_store gives the platform's credentials and the signature (SigV4). The requests are our
//! own: its `Path` cannot hold the odd keys that buckets hold and fails a listing's whole page for
//! one of them, and it does not show `Retry-After` or whether a reply is the one asked for.
//!
//! Each reply's ETag, range and size are compared with the entry's; `If-Match` alone is not relied
//! on. ETags count as strong: S3's change with the bytes.

use std::collections::HashSet;
use std::ops::Range;
use std::sync::Arc;

use async_trait::async_trait;
use object_store::aws::AwsAuthorizer;
use object_store::client::{HttpRequest, HttpRequestBody};
use percent_encoding::{AsciiSet, CONTROLS, NON_ALPHANUMERIC, utf8_percent_encode};
use reqwest::header::{self, HeaderMap, HeaderValue};
use reqwest::{Method, Response, StatusCode};
use tokio::sync::OnceCell;
use url::Url;

use super::confidence::Confidences;
use super::sweep::{Keys, Start};
use super::{
    Body, Error, ErrorKind, Listing, ListingBuilder, ProxySettings, Recursive, Result, Source,
    TlsSettings, progress, wire,
};
use crate::entry::Entry;
use crate::path::{Name, RelPath};

mod credentials;
mod env;
#[cfg(feature = "failpoints")]
pub(super) mod fuzzing;
mod list;
mod profile;
mod reply;
#[cfg(test)]
mod sweep_tests;

use credentials::Credentials;
pub use credentials::S3Keys;
pub use env::Env;

/// The region of requests where nothing names one: what other services than Amazon's expect.
const DEFAULT_REGION: &str = "us-east-1";

/// The most pages that a directory may have: 100 million keys, far over what can be shown.
const MAX_PAGES: usize = 100_000;

/// The most pages in a row that may be empty: S3 may return some while it skips deleted keys.
const MAX_EMPTY_PAGES: usize = 100;

/// The largest page in bytes: 1,000 keys of 1,024 bytes, three times that encoded, and the rest.
const PAGE_LIMIT: usize = 16 * 1024 * 1024;

/// What the names of S3 Express buckets end with.
const DIRECTORY_BUCKET: &str = "--x-s3";

/// What S3 leaves as it is in a URL (RFC 3986's unreserved characters); all else is escaped.
const STRICT: &AsciiSet = &NON_ALPHANUMERIC
    .remove(b'-')
    .remove(b'.')
    .remove(b'_')
    .remove(b'~');

/// The same for a key, whose slashes stay.
const STRICT_KEY: &AsciiSet = &STRICT.remove(b'/');

/// Which bucket, and how it is reached. What is not set comes from where the AWS tools take it.
#[derive(Debug, Clone, Default)]
pub struct S3Settings {
    /// The bucket's name.
    pub bucket: String,
    /// The part of the bucket that is the source's root: a prefix, or a single object's key.
    /// Slashes at its ends do not matter; empty for the whole bucket.
    pub prefix: String,
    /// The bucket's region.
    pub region: Option<String>,
    /// The URL of a service other than Amazon's. `http://` needs no further permission.
    pub endpoint: Option<String>,
    /// Whether the bucket's name goes into the URL's host and not into its path. Without it: the
    /// host at Amazon, the path elsewhere.
    pub virtual_host: Option<bool>,
    /// Whether requests are left unsigned, for public buckets.
    pub anonymous: bool,
    /// The profile of the shared configuration files.
    pub profile: Option<String>,
    /// Whether we agree to pay for requests.
    pub requester_pays: bool,
    /// Keys to use instead of the AWS tools' chain.
    pub credentials: Option<S3Keys>,
    /// Whom to trust, and who asks.
    pub tls: TlsSettings,
    /// The way to the service. Without it, the environment says.
    pub proxy: Option<ProxySettings>,
}

/// Returns the files of this machine that a source with `profile` may read, now or later: those
/// with keys, tokens and certificates. Blocks on the disk of the configuration files.
pub fn local_files(profile: Option<&str>, env: &Env) -> Vec<std::path::PathBuf> {
    const VARIABLES: [&str; 3] = [
        "AWS_WEB_IDENTITY_TOKEN_FILE",
        "AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE",
        "AWS_CA_BUNDLE",
    ];
    let files = profile::Files::new(profile, env);
    let mut all = files.paths().map(std::path::Path::to_owned).to_vec();
    all.extend(VARIABLES.iter().filter_map(|v| env.get(v)).map(Into::into));
    if let Ok(profile) = files.load() {
        let named = ["web_identity_token_file", "ca_bundle"];
        all.extend(named.iter().filter_map(|k| profile.get(k)).map(Into::into));
    }
    all
}

/// A bucket, or a part of one.
pub struct S3Source {
    bucket: String,
    /// Empty, or without slashes at its ends.
    prefix: String,
    identity: String,
    /// The service's URL without a slash at its end, for messages.
    endpoint: String,
    /// The bucket's URL, without a slash at its end.
    base: String,
    region: String,
    requester_pays: bool,
    credentials: Credentials,
    confidences: Confidences,
    client: wire::Client,
    /// Whether the prefix is the key of an object, and the root a directory of it alone.
    single: OnceCell<bool>,
}

impl S3Source {
    /// Builds the source. Sends no request; fails for settings that can never work.
    pub fn new(settings: S3Settings, env: &Env) -> Result<S3Source> {
        let invalid = |why: String| Err(Error::new(ErrorKind::Invalid, why));
        let bucket = settings.bucket.clone();
        let fits = |b: u8| b.is_ascii_alphanumeric() || b"-._".contains(&b);
        if bucket.is_empty() || !bucket.bytes().all(fits) || bucket.starts_with('.') {
            return invalid(format!("{bucket:?} is not the name of a bucket"));
        }
        let prefix = settings.prefix.trim_matches('/').to_owned();
        if prefix.split('/').any(|part| part == "." || part == "..") {
            return invalid(format!("the prefix {prefix:?} has `.` or `..` in it"));
        }
        let files = Arc::new(profile::Files::new(settings.profile.as_deref(), env));
        // A broken file is an error only for whoever needs it; one that names the endpoint does.
        let needs_files = settings.profile.is_some() || env.get("AWS_PROFILE").is_some();
        let profile = match files.load() {
            Err(error) if needs_files && !settings.anonymous => return Err(error),
            other => other.ok(),
        };
        let profile = |key: &str| profile.as_ref()?.get(key).map(str::to_owned);
        let var = |name: &str| env.get(name).map(str::to_owned);

        let region = settings.region.clone();
        let region = region
            .or_else(|| var("AWS_REGION"))
            .or_else(|| var("AWS_DEFAULT_REGION"))
            .or_else(|| profile("region"))
            .unwrap_or_else(|| DEFAULT_REGION.into());
        let from_files = !env.is_true("AWS_IGNORE_CONFIGURED_ENDPOINT_URLS");
        let endpoint = settings.endpoint.clone().or_else(|| {
            let own = || var("AWS_ENDPOINT_URL_S3").or_else(|| var("AWS_ENDPOINT_URL"));
            let own = || own().or_else(|| profile("endpoint_url"));
            from_files.then(own).flatten()
        });
        let virtual_host = settings.virtual_host;
        let virtual_host = virtual_host.or_else(|| match profile("addressing_style")?.as_str() {
            "virtual" => Some(true),
            "path" => Some(false),
            _ => None,
        });
        let place = Place::new(endpoint.as_deref(), &region, &bucket, virtual_host)?;

        let mut tls = settings.tls.clone();
        tls.ca_bundle = { tls.ca_bundle }
            .or_else(|| var("AWS_CA_BUNDLE").map(Into::into))
            .or_else(|| profile("ca_bundle").map(Into::into));
        let client = wire::Client::new(wire::ClientSettings {
            tls,
            proxy: settings.proxy.clone(),
            // A signature holds for one host only, so a redirect cannot be followed.
            redirects: 0,
        })?;
        let payer = env.get("AWS_REQUEST_PAYER") == Some("requester");
        Ok(S3Source {
            confidences: Confidences::default(),
            credentials: Credentials::choose(&settings, env, files, &region)?,
            identity: format!("s3:{}/{bucket}/{prefix}", place.identity),
            endpoint: place.endpoint,
            base: place.base,
            requester_pays: settings.requester_pays || payer,
            bucket,
            prefix,
            region,
            client,
            single: OnceCell::new(),
        })
    }

    /// Returns the key at `path`.
    async fn key(&self, path: &RelPath) -> Result<String> {
        if self.may_be_single(path) && self.is_single().await? {
            return Ok(self.prefix.clone());
        }
        Ok(self.join(path))
    }

    fn join(&self, path: &RelPath) -> String {
        match (self.prefix.is_empty(), path.is_root()) {
            (true, _) => path.as_str().to_owned(),
            (_, true) => self.prefix.clone(),
            _ => format!("{}/{}", self.prefix, path.as_str()),
        }
    }

    /// Returns whether `path` is what a single object would be called.
    fn may_be_single(&self, path: &RelPath) -> bool {
        !self.prefix.is_empty() && self.prefix.rsplit('/').next() == Some(path.as_str())
    }

    /// Returns whether the prefix is an object and nothing lies below it. Asked once: a bucket
    /// whose prefix turns from one into the other is another source.
    async fn is_single(&self) -> Result<bool> {
        let probe = || async {
            let below = format!("{}/", self.prefix);
            let query = [("list-type", "2"), ("max-keys", "1"), ("prefix", &below)];
            if self.page(&query).await?.len() > 0 {
                return Ok(false);
            }
            Ok(self.head(&self.prefix).await?.is_some())
        };
        self.single.get_or_try_init(probe).await.copied()
    }

    fn asked(&self, explains: bool) -> reply::Asked<'_> {
        reply::Asked {
            bucket: &self.bucket,
            endpoint: &self.endpoint,
            region: &self.region,
            anonymous: matches!(self.credentials, Credentials::Anonymous),
            explains,
        }
    }

    /// Sends a signed request for a key, or for the bucket itself, and returns any reply.
    async fn send(
        &self,
        method: Method,
        key: &str,
        query: &[(&str, &str)],
        headers: HeaderMap,
    ) -> Result<Response> {
        let mut url = format!("{}/{}", self.base, utf8_percent_encode(key, STRICT_KEY));
        if key.is_empty() {
            url.truncate(self.base.len());
        }
        for (i, (name, value)) in query.iter().enumerate() {
            url.push(if i == 0 { '?' } else { '&' });
            url.push_str(name);
            url.push('=');
            url.extend(utf8_percent_encode(value, STRICT));
        }
        let invalid = |why: String| Error::new(ErrorKind::Invalid, why);
        let mut request = HttpRequest::new(HttpRequestBody::empty());
        *request.method_mut() = method;
        *request.headers_mut() = headers;
        *request.uri_mut() = url
            .parse()
            .map_err(|e| invalid(format!("no URL for the key {key:?}: {e}")))?;
        if let Some(keys) = self.credentials.get().await? {
            // The signer puts these into headers, and panics where they do not fit.
            let token = keys.token.as_deref().unwrap_or_default();
            if [keys.key_id.as_str(), token, &self.region]
                .iter()
                .any(|text| HeaderValue::from_str(text).is_err())
            {
                let why = "the AWS keys or the region have characters that no header can hold";
                return Err(Error::new(ErrorKind::Denied, why));
            }
            AwsAuthorizer::new(&keys, "s3", &self.region)
                .with_request_payer(self.requester_pays)
                .try_authorize(&mut request, None)
                .map_err(|e| invalid(format!("cannot sign: {}", wire::causes(&e))))?;
        }
        let (method, headers) = (
            request.method().clone(),
            std::mem::take(request.headers_mut()),
        );
        let request = |client: &reqwest::Client| client.request(method, url).headers(headers);
        self.client.send(&self.confidences, request).await
    }

    /// Lists all pages under `prefix`, which is empty or ends with a slash.
    /// Returns whether there was no key at all, not even a directory's own marker.
    async fn pages(&self, prefix: &str, listing: &mut ListingBuilder) -> Result<bool> {
        let mut nothing = true;
        let mut token: Option<String> = None;
        let mut seen = HashSet::new();
        let mut empty = 0;
        for _ in 0..MAX_PAGES {
            let mut query = vec![];
            if let Some(token) = &token {
                query.push(("continuation-token", token.as_str()));
            }
            query.extend([
                ("delimiter", "/"),
                ("encoding-type", "url"),
                ("list-type", "2"),
                ("prefix", prefix),
            ]);
            let page = self.page(&query).await?;
            page.add_to(prefix, listing)?;
            nothing &= page.len() == 0;
            empty = if page.len() == 0 { empty + 1 } else { 0 };
            let next = page.next()?.map(str::to_owned);
            drop(page);
            progress::note();
            match next {
                None => return Ok(nothing),
                Some(_) if empty >= MAX_EMPTY_PAGES => {
                    return Err(Error::lied("a listing of empty pages that does not end"));
                }
                Some(next) => {
                    // The digest of a token, which may be long, is enough to know it again.
                    if !seen.insert(*blake3::hash(next.as_bytes()).as_bytes()) {
                        return Err(Error::lied("a listing that comes back to an earlier page"));
                    }
                    token = Some(next);
                }
            }
        }
        Err(Error::lied(format!(
            "a directory of more than {MAX_PAGES} pages"
        )))
    }

    /// Lists a page of all keys below `dir`.
    async fn keys_below(&self, dir: &RelPath, from: &Start) -> Result<Keys> {
        let prefix = self.prefix_of(dir);
        let after = match from {
            Start::Key(key) => format!("{prefix}{key}"),
            Start::Token(_) => String::new(),
        };
        let mut query = vec![];
        if let Start::Token(token) = from {
            query.push(("continuation-token", token.as_str()));
        }
        query.extend([
            ("encoding-type", "url"),
            ("list-type", "2"),
            ("prefix", &prefix),
        ]);
        if after.len() > prefix.len() {
            query.push(("start-after", &after));
        }
        self.page(&query).await?.into_keys(&prefix)
    }

    /// Returns what the keys of a directory begin with: nothing, or what ends with a slash.
    fn prefix_of(&self, dir: &RelPath) -> String {
        let key = self.join(dir);
        match key.is_empty() {
            true => String::new(),
            false => format!("{key}/"),
        }
    }

    async fn page(&self, query: &[(&str, &str)]) -> Result<list::Page> {
        let response = self.send(Method::GET, "", query, HeaderMap::new()).await?;
        let response = self.expect(response, &[StatusCode::OK]).await?;
        let body = wire::read_all(response, PAGE_LIMIT).await?;
        list::Page::parse(&body)
    }

    /// Returns the reply if its status is among those wanted, else the error that it stands for.
    async fn expect(&self, response: Response, wanted: &[StatusCode]) -> Result<Response> {
        let status = response.status();
        if wanted.contains(&status) {
            return Ok(response);
        }
        let headers = response.headers().clone();
        let page = wire::read_error_page(response).await;
        Err(reply::error(&self.asked(true), status, &headers, &page))
    }

    /// Returns the headers of an object, or nothing where there is none.
    async fn head(&self, key: &str) -> Result<Option<HeaderMap>> {
        let response = self.send(Method::HEAD, key, &[], HeaderMap::new()).await?;
        match response.status() {
            StatusCode::OK => Ok(Some(response.headers().clone())),
            StatusCode::NOT_FOUND => Ok(None),
            status => {
                let asked = self.asked(false);
                Err(reply::error(&asked, status, response.headers(), ""))
            }
        }
    }

    /// Returns the entry of an object by its headers; nothing where there is none.
    async fn head_entry(&self, key: &str, name: Name) -> Result<Option<Entry>> {
        let Some(headers) = self.head(key).await? else {
            return Ok(None);
        };
        let size = wire::content_length(&headers)
            .ok_or_else(|| Error::lied("an object without a Content-Length"))?;
        let etag = wire::text(&headers, header::ETAG);
        let mtime = wire::last_modified(&headers);
        Ok(Some(list::entry(name, size, mtime, etag)))
    }
}

/// Where a bucket is.
struct Place {
    endpoint: String,
    base: String,
    identity: String,
}

impl Place {
    fn new(
        endpoint: Option<&str>,
        region: &str,
        bucket: &str,
        virtual_host: Option<bool>,
    ) -> Result<Place> {
        let (endpoint, at_amazon) = match endpoint {
            Some(endpoint) => (endpoint.to_owned(), false),
            None => {
                let china = if region.starts_with("cn-") { ".cn" } else { "" };
                let host = format!("https://s3.{region}.amazonaws.com{china}");
                (host, true)
            }
        };
        // The endpoint may hold a password by mistake, so it is not repeated.
        let bad = |why: &str| {
            let message = format!("the S3 endpoint {why}; write http(s)://host[:port]");
            Error::new(ErrorKind::Invalid, message)
        };
        let url = Url::parse(&endpoint).map_err(|e| bad(&format!("is not a URL ({e})")))?;
        let host = url.host_str().ok_or_else(|| bad("has no host"))?;
        if !matches!(url.scheme(), "http" | "https") {
            return Err(bad("is neither http:// nor https://"));
        }
        if !url.username().is_empty() || url.password().is_some() || url.query().is_some() {
            return Err(bad("has a user name or a query in it"));
        }
        let port = url.port().map(|p| format!(":{p}")).unwrap_or_default();
        let path = url.path().trim_end_matches('/');
        let endpoint = format!("{}://{host}{port}{path}", url.scheme());
        // A wildcard certificate covers no name with dots, and an address takes no name before it.
        let dns_name = !bucket
            .bytes()
            .any(|b| b == b'.' || b == b'_' || b.is_ascii_uppercase());
        let base = match virtual_host.unwrap_or(at_amazon && dns_name) {
            true => format!("{}://{bucket}.{host}{port}{path}", url.scheme()),
            false => format!("{endpoint}/{bucket}"),
        };
        // A bucket of Amazon's is the same whichever region's door it is reached by.
        let identity = match host.ends_with(".amazonaws.com") {
            true => "amazonaws.com".to_owned(),
            false => format!("{host}{port}{path}"),
        };
        Ok(Place {
            endpoint,
            base,
            identity,
        })
    }
}

/// What the source does, with messages that may repeat what was sent.
impl S3Source {
    async fn list_all(&self, dir: &RelPath, listing: &mut ListingBuilder) -> Result<()> {
        let (key, prefix) = (self.join(dir), self.prefix_of(dir));
        let nothing = self.pages(&prefix, listing).await?;
        if !nothing || prefix.is_empty() {
            return Ok(());
        }
        if !dir.is_root() {
            let what = "no key begins with the directory's name";
            return Err(Error::new(ErrorKind::NotFound, what));
        }
        // The prefix may be the key of a single object.
        let last = key.rsplit('/').next().unwrap_or(&key);
        if let Ok(name) = Name::new(last) {
            let entry = self.head_entry(&key, name).await?;
            let _ = self.single.set(entry.is_some());
            listing.extend(entry);
        }
        Ok(())
    }

    async fn stat_one(&self, path: &RelPath) -> Result<Entry> {
        let missing = || Error::new(ErrorKind::NotFound, "no such object");
        let name = path.file_name().ok_or_else(missing)?;
        let key = self.key(path).await?;
        if let Some(entry) = self.head_entry(&key, name).await? {
            return Ok(entry);
        }
        // A reply to HEAD has no words, so ask whether it is the bucket that is missing.
        let query = [("list-type", "2"), ("max-keys", "1"), ("prefix", &key)];
        self.page(&query).await?;
        Err(missing())
    }

    async fn read_range(&self, path: &RelPath, entry: &Entry, range: Range<u64>) -> Result<Body> {
        let key = self.key(path).await?;
        let mut headers = HeaderMap::new();
        let value = |text: String| {
            HeaderValue::try_from(text).map_err(|_| Error::changed("an ETag that is no header"))
        };
        let last = range.end.saturating_sub(1);
        headers.insert(
            header::RANGE,
            value(format!("bytes={}-{last}", range.start))?,
        );
        if let Some(pinned) = &entry.validator {
            headers.insert(header::IF_MATCH, value(pinned.to_string())?);
        }
        let response = self.send(Method::GET, &key, &[], headers).await?;
        let wanted = [StatusCode::PARTIAL_CONTENT, StatusCode::OK];
        let response = self.expect(response, &wanted).await?;

        match check_reply(entry, &range, response.status(), response.headers()) {
            Ok((got, size, etag)) => wire::body(response, got, size, etag),
            Err(error) => {
                wire::discard(response).await;
                Err(error)
            }
        }
    }
}

#[async_trait]
impl Source for S3Source {
    fn identity(&self) -> &str {
        &self.identity
    }

    fn url(&self, path: &RelPath) -> String {
        let single = self.single.get() == Some(&true) && self.may_be_single(path);
        let key = if single {
            self.prefix.clone()
        } else {
            self.join(path)
        };
        // Only what a terminal would obey is escaped: it is the key's name as the AWS tools write it.
        let key = utf8_percent_encode(&key, CONTROLS);
        format!("s3://{}/{key}", self.bucket)
    }

    async fn list(&self, dir: &RelPath) -> Result<Listing> {
        let mut listing = ListingBuilder::default();
        self.list_into(dir, &mut listing).await?;
        Ok(listing.finish())
    }

    async fn list_into(&self, dir: &RelPath, listing: &mut ListingBuilder) -> Result<()> {
        let conceal = |error| self.confidences.conceal(error);
        self.list_all(dir, listing).await.map_err(conceal)
    }

    async fn stat(&self, path: &RelPath) -> Result<Entry> {
        let conceal = |error| self.confidences.conceal(error);
        self.stat_one(path).await.map_err(conceal)
    }

    async fn read(&self, path: &RelPath, entry: &Entry, range: Range<u64>) -> Result<Body> {
        let conceal = |error| self.confidences.conceal(error);
        self.read_range(path, entry, range).await.map_err(conceal)
    }

    fn recursive(&self) -> Option<&dyn Recursive> {
        // Directory buckets list in no order.
        let ordered = !self.bucket.ends_with(DIRECTORY_BUCKET);
        ordered.then_some(self as &dyn Recursive)
    }
}

#[async_trait]
impl Recursive for S3Source {
    async fn keys(&self, dir: &RelPath, from: &Start) -> Result<Keys> {
        let conceal = |error| self.confidences.conceal(error);
        self.keys_below(dir, from).await.map_err(conceal)
    }
}

/// Returns the range of a reply, the object's size and its ETag, where the reply fits the request.
fn check_reply(
    entry: &Entry,
    asked: &Range<u64>,
    status: StatusCode,
    headers: &HeaderMap,
) -> Result<(Range<u64>, u64, Option<Arc<str>>)> {
    wire::check_encoding(headers)?;
    let etag = wire::text(headers, header::ETAG).map(list::quoted);
    match (&entry.validator, &etag) {
        (Some(pinned), Some(etag)) if **pinned != **etag => {
            return Err(Error::changed(format!(
                "the object was {pinned} and now is {etag}"
            )));
        }
        (Some(_), None) => return Err(Error::lied("a reply without an ETag")),
        _ => {}
    }
    let (got, size) = match status {
        StatusCode::PARTIAL_CONTENT => wire::content_range(headers)?,
        _ => {
            let size = wire::content_length(headers)
                .ok_or_else(|| Error::lied("an object without a Content-Length"))?;
            (0..size, size)
        }
    };
    if entry.size.is_some_and(|known| known != size) {
        let known = entry.size.unwrap_or_default();
        let what = format!("the object had {known} bytes and now has {size}");
        return Err(Error::changed(what));
    }
    if got != *asked {
        return Err(Error::lied(format!(
            "bytes {}-{} were asked for and {}-{} came",
            asked.start, asked.end, got.start, got.end
        )));
    }
    Ok((got, size, etag.map(Into::into)))
}
