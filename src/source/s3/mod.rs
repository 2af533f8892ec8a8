//! Buckets of Amazon S3 and of whatever speaks its protocol.
//!
//! object_store gives the platform's credentials and the signature (SigV4). The requests are our
//! own: its `Path` cannot hold the odd keys that buckets hold and fails a listing's whole page for
//! one of them, and it does not show `Retry-After` or whether a reply is the one asked for.
//!
//! Each reply's ETag, range and size are compared with the entry's; `If-Match` alone is not relied
//! on. ETags count as strong: S3's change with the bytes.

use std::ops::Range;
use std::sync::Arc;

use async_trait::async_trait;
use object_store::aws::AwsAuthorizer;
use object_store::client::{HttpRequest, HttpRequestBody};
use percent_encoding::utf8_percent_encode;
use reqwest::header::{self, HeaderMap, HeaderValue};
use reqwest::{Method, Response, StatusCode};

use super::bucket::page::{Object, Page};
use super::bucket::request::{self, Endpoint, STRICT_KEY, add_query};
use super::bucket::{Ask, Bucket, Store};
use super::confidence::Confidences;
use super::{Body, Error, ErrorKind, ProxySettings, Result, TlsSettings, wire};
use crate::entry::Entry;

mod credentials;
#[cfg(feature = "failpoints")]
pub(super) mod fuzzing;
mod list;
mod profile;
mod reply;

pub use super::env::Env;
use credentials::Credentials;
pub use credentials::S3Keys;

/// The region of requests where nothing names one: what other services than Amazon's expect.
const DEFAULT_REGION: &str = "us-east-1";

/// The largest page in bytes: 1,000 keys of 1,024 bytes, three times that encoded, and the rest.
const PAGE_LIMIT: usize = 16 * 1024 * 1024;

/// What the names of S3 Express buckets end with.
const DIRECTORY_BUCKET: &str = "--x-s3";

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
pub type S3Source = Bucket<S3>;

/// A service that speaks S3's protocol.
pub struct S3 {
    bucket: String,
    /// The service's URL without a slash at its end, for messages.
    endpoint: String,
    /// The bucket's URL, without a slash at its end.
    base: String,
    region: String,
    requester_pays: bool,
    credentials: Credentials,
    confidences: Confidences,
    client: wire::Client,
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
        let store = S3 {
            confidences: Confidences::default(),
            credentials: Credentials::choose(&settings, env, files, &region)?,
            endpoint: place.endpoint,
            base: place.base,
            requester_pays: settings.requester_pays || payer,
            bucket,
            region,
            client,
        };
        Bucket::over(store, &format!("s3:{}", place.identity), &settings.prefix)
    }
}

impl S3 {
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
        add_query(&mut url, query);
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
        let at = Endpoint::parse(&endpoint, "S3")?;
        let Endpoint {
            scheme, host, port, ..
        } = &at;
        let path = &at.path;
        let endpoint = at.url();
        // A wildcard certificate covers no name with dots, and an address takes no name before it.
        let dns_name = !bucket
            .bytes()
            .any(|b| b == b'.' || b == b'_' || b.is_ascii_uppercase());
        let base = match virtual_host.unwrap_or(at_amazon && dns_name) {
            true => format!("{scheme}://{bucket}.{host}{port}{path}"),
            false => format!("{endpoint}/{bucket}"),
        };
        // A bucket of Amazon's is the same whichever region's door it is reached by.
        let identity = match host.ends_with(".amazonaws.com") {
            true => "amazonaws.com".to_owned(),
            false => at.place(),
        };
        Ok(Place {
            endpoint,
            base,
            identity,
        })
    }
}

#[async_trait]
impl Store for S3 {
    const SCHEME: &'static str = "s3";
    const MARKS_DIRECTORIES: bool = false;

    fn bucket(&self) -> &str {
        &self.bucket
    }

    fn confidences(&self) -> &Confidences {
        &self.confidences
    }

    fn is_ordered(&self) -> bool {
        // Directory buckets list in no order.
        !self.bucket.ends_with(DIRECTORY_BUCKET)
    }

    async fn page(&self, ask: Ask<'_>) -> Result<Page> {
        let most = ask.most.map(|most| most.to_string());
        let pairs = [
            ("continuation-token", ask.token),
            ("delimiter", ask.grouped.then_some("/")),
            ("encoding-type", Some("url")),
            ("list-type", Some("2")),
            ("max-keys", most.as_deref()),
            ("prefix", Some(ask.prefix)),
            ("start-after", ask.after),
        ];
        let query: Vec<_> = pairs
            .into_iter()
            .filter_map(|(name, value)| Some((name, value?)))
            .collect();
        let response = self.send(Method::GET, "", &query, HeaderMap::new()).await?;
        let response = self.expect(response, &[StatusCode::OK]).await?;
        let body = wire::read_all(response, PAGE_LIMIT).await?;
        list::parse(&body)
    }

    async fn head(&self, key: &str) -> Result<Option<Object>> {
        let response = self.send(Method::HEAD, key, &[], HeaderMap::new()).await?;
        let headers = response.headers();
        match response.status() {
            StatusCode::OK => Ok(Some(Object {
                key: key.to_owned(),
                size: wire::content_length(headers)
                    .ok_or_else(|| Error::lied("an object without a Content-Length"))?,
                mtime: wire::last_modified(headers),
                tag: request::etag_of(headers),
                is_dir: false,
            })),
            StatusCode::NOT_FOUND => {
                // A reply to HEAD has no words, so ask whether it is the bucket that is missing.
                let ask = Ask {
                    prefix: key,
                    most: Some(1),
                    ..Ask::default()
                };
                self.page(ask).await?;
                Ok(None)
            }
            status => Err(reply::error(&self.asked(false), status, headers, "")),
        }
    }

    async fn read(&self, key: &str, entry: &Entry, range: Range<u64>) -> Result<Body> {
        let mut headers = HeaderMap::new();
        headers.insert(header::RANGE, request::range_header(&range)?);
        if let Some(pinned) = &entry.validator {
            let pinned = HeaderValue::try_from(&**pinned);
            let pinned = pinned.map_err(|_| Error::changed("an ETag that is no header"))?;
            headers.insert(header::IF_MATCH, pinned);
        }
        let response = self.send(Method::GET, key, &[], headers).await?;
        let wanted = [StatusCode::PARTIAL_CONTENT, StatusCode::OK];
        let response = self.expect(response, &wanted).await?;
        let headers = response.headers();
        let checked = wire::check_encoding(headers).and_then(|()| {
            let etag = request::etag_of(headers);
            request::check_reply(entry, &range, response.status(), headers, etag)
        });
        match checked {
            Ok((got, size, etag)) => wire::body(response, got, size, etag),
            Err(error) => {
                wire::discard(response).await;
                Err(error)
            }
        }
    }
}
