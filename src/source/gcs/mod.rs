//! Buckets of Google Cloud Storage and of whatever speaks its JSON API.
//!
//! object_store gives the tokens. The requests are our own, for S3's reasons: its `Path` cannot hold
//! the odd names that buckets hold, and it does not show `Retry-After` or whether a reply is the one
//! asked for.
//!
//! An object's version is its generation, which changes with each write and with nothing else. A read
//! asks for just that generation, and the one that each reply names is compared: not all servers heed
//! what they are asked for. Where all of an object comes in one reply, its CRC32C is compared too.
//!
//! Objects that are stored compressed come as they are stored (`Accept-Encoding: gzip`): unpacked on
//! the way they would have no ranges and another size than their listing says.

use std::ops::Range;

use async_trait::async_trait;
use object_store::gcp::GcpCredential;
use percent_encoding::utf8_percent_encode;
use reqwest::header::{self, HeaderMap, HeaderName, HeaderValue};
use reqwest::{Response, StatusCode};

use super::bucket::page::{Object, Page};
use super::bucket::request::{self, Endpoint, STRICT, add_query};
use super::bucket::{Ask, Bucket, Store};
use super::confidence::Confidences;
use super::{Body, Env, Error, ErrorKind, ProxySettings, Result, Secret, TlsSettings, wire};
use crate::entry::Entry;

mod checksum;
mod credentials;
#[cfg(feature = "failpoints")]
pub(super) mod fuzzing;
mod list;
mod reply;

use credentials::Credentials;
pub use credentials::local_files;

/// The service where nothing names another.
const GOOGLE: &str = "https://storage.googleapis.com";

/// The largest page in bytes: 1,000 names of 1,024 bytes, each of which JSON may write as six, and
/// the rest.
const PAGE_LIMIT: usize = 16 * 1024 * 1024;

/// What is wanted to know of an object.
const FIELDS: &str = "kind,name,size,generation,timeCreated,updated";

/// What is wanted to know of a page.
const PAGE_FIELDS: &str =
    "kind,nextPageToken,prefixes,items(name,size,generation,timeCreated,updated)";

/// Which bucket, and how it is reached. What is not set comes from where Google's tools take it.
#[derive(Debug, Clone, Default)]
pub struct GcsSettings {
    /// The bucket's name.
    pub bucket: String,
    /// The part of the bucket that is the source's root: a prefix, or a single object's name.
    /// Slashes at its ends do not matter; empty for the whole bucket.
    pub prefix: String,
    /// The URL of a service other than Google's.
    pub endpoint: Option<String>,
    /// Whether requests are sent without a token, for public buckets.
    pub anonymous: bool,
    /// The key of a service account, in JSON, instead of the environment and the platform.
    pub service_account_key: Option<Secret>,
    /// The project that pays for requests to a bucket whose owner asks for it.
    pub user_project: Option<String>,
    /// Whom to trust, and who asks, over TLS.
    pub tls: TlsSettings,
    /// The way to the service. Without it, the environment says.
    pub proxy: Option<ProxySettings>,
}

/// A bucket, or a part of one.
pub type GcsSource = Bucket<Gcs>;

/// A service that speaks Google Cloud Storage's JSON API.
pub struct Gcs {
    bucket: String,
    /// The service's URL without a slash at its end.
    endpoint: String,
    /// Whether what is sent there cannot be read on the way.
    is_private: bool,
    user_project: Option<String>,
    credentials: Credentials,
    confidences: Confidences,
    client: wire::Client,
}

impl GcsSource {
    /// Builds the source. Sends no request; fails for settings that can never work.
    pub fn new(settings: GcsSettings, env: &Env) -> Result<GcsSource> {
        let invalid = |why: String| Err(Error::new(ErrorKind::Invalid, why));
        let bucket = settings.bucket.clone();
        let fits = |b: u8| b.is_ascii_alphanumeric() || b"-._".contains(&b);
        if bucket.is_empty() || !bucket.bytes().all(fits) || bucket.starts_with('.') {
            return invalid(format!("{bucket:?} is not the name of a bucket"));
        }
        let emulator = env.get("STORAGE_EMULATOR_HOST");
        let emulator = emulator.filter(|_| settings.endpoint.is_none());
        let endpoint = match (&settings.endpoint, emulator) {
            (Some(endpoint), _) => endpoint.clone(),
            // Some write it with a scheme, and some do not.
            (None, Some(host)) if host.contains("://") => host.to_owned(),
            (None, Some(host)) => format!("http://{host}"),
            (None, None) => GOOGLE.to_owned(),
        };
        let endpoint = Endpoint::parse(&endpoint, "Google Cloud Storage")?;
        // A bucket's name is its own whichever of Google's doors it is reached by.
        let place = match endpoint.host.ends_with(".googleapis.com") {
            true => "googleapis.com".to_owned(),
            false => endpoint.place(),
        };
        let store = Gcs {
            credentials: Credentials::choose(&settings, env, emulator.is_some()),
            client: wire::Client::new(wire::ClientSettings {
                tls: settings.tls.clone(),
                proxy: settings.proxy.clone(),
                // A token is for one host only, so a redirect is not followed.
                redirects: 0,
            })?,
            confidences: Confidences::default(),
            user_project: settings.user_project.clone(),
            is_private: endpoint.is_private(),
            endpoint: endpoint.url(),
            bucket,
        };
        Bucket::over(store, &format!("gcs:{place}"), &settings.prefix)
    }
}

impl Gcs {
    fn asked(&self) -> reply::Asked<'_> {
        reply::Asked {
            bucket: &self.bucket,
            endpoint: &self.endpoint,
            anonymous: self.credentials.is_anonymous(),
        }
    }

    /// Sends a request for an object, or for the list of them, and returns any reply.
    async fn send(
        &self,
        key: Option<&str>,
        query: &[(&str, &str)],
        mut headers: HeaderMap,
    ) -> Result<Response> {
        let (endpoint, bucket) = (&self.endpoint, &self.bucket);
        let mut url = format!("{endpoint}/storage/v1/b/{bucket}/o");
        if let Some(key) = key {
            url.push('/');
            url.extend(utf8_percent_encode(key, STRICT));
        }
        add_query(&mut url, query);
        if let Some(project) = &self.user_project {
            add_query(&mut url, &[("userProject", project)]);
        }
        if let Some(credential) = self.credentials.get().await? {
            self.authorize(&credential, &mut headers)?;
        }
        let request = |client: &reqwest::Client| client.get(url).headers(headers);
        self.client.send(&self.confidences, request).await
    }

    fn authorize(&self, credential: &GcpCredential, headers: &mut HeaderMap) -> Result<()> {
        if credential.bearer.is_empty() {
            return Ok(());
        }
        if !self.is_private {
            let why = "a token would be sent in the clear; give an https:// endpoint";
            return Err(Error::new(ErrorKind::Invalid, why));
        }
        let value = HeaderValue::try_from(format!("Bearer {}", credential.bearer));
        let mut value = value.map_err(|_| {
            let why = "the token has characters that no header can hold";
            Error::new(ErrorKind::Denied, why)
        })?;
        value.set_sensitive(true);
        headers.insert(header::AUTHORIZATION, value);
        Ok(())
    }

    async fn failed(&self, response: Response) -> Error {
        let (status, headers) = (response.status(), response.headers().clone());
        let page = wire::read_error_page(response).await;
        reply::error(&self.asked(), status, &headers, &page)
    }
}

#[async_trait]
impl Store for Gcs {
    const SCHEME: &'static str = "gs";
    const MARKS_DIRECTORIES: bool = false;

    fn bucket(&self) -> &str {
        &self.bucket
    }

    fn confidences(&self) -> &Confidences {
        &self.confidences
    }

    fn is_ordered(&self) -> bool {
        true
    }

    async fn page(&self, ask: Ask<'_>) -> Result<Page> {
        let most = ask.most.map(|most| most.to_string());
        let pairs = [
            (
                "prefix",
                Some(ask.prefix).filter(|prefix| !prefix.is_empty()),
            ),
            ("delimiter", ask.grouped.then_some("/")),
            ("maxResults", most.as_deref()),
            ("pageToken", ask.token),
            // What is there itself is taken out below.
            ("startOffset", ask.after),
            ("fields", Some(PAGE_FIELDS)),
        ];
        let query: Vec<_> = { pairs.into_iter() }
            .filter_map(|(name, value)| Some((name, value?)))
            .collect();
        let response = self.send(None, &query, HeaderMap::new()).await?;
        let status = response.status();
        if status != StatusCode::OK {
            let error = self.failed(response).await;
            return Err(match error.kind() {
                ErrorKind::NotFound => reply::no_bucket(&self.asked()),
                _ => error,
            });
        }
        let body = wire::read_all(response, PAGE_LIMIT).await?;
        let mut page = list::parse(&body)?;
        if let Some(after) = ask.after {
            page.objects.retain(|object| object.key != after);
        }
        Ok(page)
    }

    async fn head(&self, key: &str) -> Result<Option<Object>> {
        let response = self
            .send(Some(key), &[("fields", FIELDS)], HeaderMap::new())
            .await?;
        if response.status() == StatusCode::OK {
            let body = wire::read_all(response, PAGE_LIMIT).await?;
            return list::parse_object(&body, key).map(Some);
        }
        let error = self.failed(response).await;
        if error.kind() != ErrorKind::NotFound {
            return Err(error);
        }
        // It may be the bucket that is missing: not all servers say which.
        let ask = Ask {
            prefix: key,
            most: Some(1),
            ..Ask::default()
        };
        self.page(ask).await?;
        Ok(None)
    }

    async fn read(&self, key: &str, entry: &Entry, range: Range<u64>) -> Result<Body> {
        let mut headers = HeaderMap::new();
        headers.insert(header::RANGE, request::range_header(&range)?);
        headers.insert(header::ACCEPT_ENCODING, HeaderValue::from_static("gzip"));
        let mut query = vec![("alt", "media")];
        if let Some(pinned) = &entry.validator {
            query.push(("generation", pinned));
        }
        let response = self.send(Some(key), &query, headers).await?;
        let wanted = [StatusCode::PARTIAL_CONTENT, StatusCode::OK];
        if !wanted.contains(&response.status()) {
            let error = self.failed(response).await;
            // To a request for bytes the words are not JSON: asked for its description, the server
            // says whether there is the object, another version of it, or not even the bucket.
            return Err(match error.kind() {
                ErrorKind::NotFound | ErrorKind::Lied => match self.head(key).await? {
                    None => error_without(key),
                    Some(_) if entry.validator.is_some() => {
                        Error::changed("the object is no longer the generation that was listed")
                    }
                    Some(_) => error,
                },
                _ => error,
            });
        }
        let checked = check_encoding(response.headers()).and_then(|()| {
            let generation = HeaderName::from_static("x-goog-generation");
            let generation = wire::text(response.headers(), generation).map(str::to_owned);
            let (status, headers) = (response.status(), response.headers());
            request::check_reply(entry, &range, status, headers, generation)
        });
        match checked {
            Ok((got, size, generation)) => {
                let whole = got == (0..size);
                let sum = whole
                    .then(|| checksum::promised(response.headers()))
                    .flatten();
                let body = wire::body(response, got, size, generation)?;
                Ok(match sum {
                    Some(sum) => checksum::checked(body, sum),
                    None => body,
                })
            }
            Err(error) => {
                wire::discard(response).await;
                Err(error)
            }
        }
    }
}

fn error_without(key: &str) -> Error {
    Error::new(ErrorKind::NotFound, format!("no such object: {key}"))
}

/// Refuses a body that is not what is stored.
fn check_encoding(headers: &HeaderMap) -> Result<()> {
    let stored = HeaderName::from_static("x-goog-stored-content-encoding");
    let (sent, stored) = (
        wire::text(headers, header::CONTENT_ENCODING).unwrap_or_default(),
        wire::text(headers, stored).unwrap_or_default(),
    );
    match sent.eq_ignore_ascii_case(stored) {
        true => Ok(()),
        false => wire::check_encoding(headers),
    }
}
