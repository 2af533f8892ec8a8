//! Containers of Azure Blob Storage and of whatever speaks its protocol.
//!
//! object_store gives the platform's credentials and the signature (Shared Key). The requests are our
//! own, for S3's reasons: its `Path` cannot hold the odd names that containers hold, and it does not
//! show `Retry-After` or whether a reply is the one asked for.
//!
//! Each reply's ETag, range and size are compared with the entry's; `If-Match` alone is not relied
//! on. ETags count as strong: Azure's change with each write.
//!
//! `Content-Encoding` is a label that the writer chose; Azure sends what is stored whatever it says,
//! so it is not looked at.

use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use async_trait::async_trait;
use object_store::azure::{AzureAuthorizer, AzureCredential};
use object_store::client::{HttpRequest, HttpRequestBody};
use percent_encoding::utf8_percent_encode;
use reqwest::header::{self, HeaderMap, HeaderName, HeaderValue};
use reqwest::{Method, Response, StatusCode};

use super::bucket::page::{Object, Page};
use super::bucket::request::{self, STRICT_KEY, add_query};
use super::bucket::{Ask, Bucket, Store};
use super::confidence::Confidences;
use super::{Body, Env, Error, ErrorKind, ProxySettings, Result, Secret, TlsSettings, wire};
use crate::entry::Entry;

mod credentials;
#[cfg(feature = "failpoints")]
pub(super) mod fuzzing;
mod list;
mod place;
mod reply;

use credentials::Credentials;
use place::Place;

/// The version of the protocol that we speak, which is that of object_store's signatures.
const VERSION: HeaderValue = HeaderValue::from_static("2023-11-03");

/// The most names that a page is asked for, of the 5,000 that Azure gives: with a name of 1,024
/// characters and 8 KiB of metadata each, they stay within [`PAGE_LIMIT`].
const PAGE: u32 = 2000;

/// The largest page in bytes.
const PAGE_LIMIT: usize = 32 * 1024 * 1024;

/// The most pages that are passed over to come to where a recursive listing is to begin: Azure knows
/// no such place but a page's end.
const PASS_OVER: usize = 5;

/// Which container, and how it is reached. What is not set comes from where Azure's tools take it.
#[derive(Debug, Clone, Default)]
pub struct AzureSettings {
    /// The storage account's name.
    pub account: Option<String>,
    /// The container's name.
    pub container: String,
    /// The part of the container that is the source's root: a prefix, or a single blob's name.
    /// Slashes at its ends do not matter; empty for the whole container.
    pub prefix: String,
    /// The URL of a blob service other than Azure's. Where its host is an address, the account is
    /// the first part of its path, and is added where there is no path.
    pub endpoint: Option<String>,
    /// Whether requests are left unsigned, for public containers.
    pub anonymous: bool,
    /// Who asks, instead of the environment and the platform.
    pub credentials: Option<AzureKeys>,
    /// Whom to trust, and who asks, over TLS.
    pub tls: TlsSettings,
    /// The way to the service. Without it, the environment says.
    pub proxy: Option<ProxySettings>,
}

/// Credentials that a volume names.
#[derive(Debug, Clone)]
pub enum AzureKeys {
    /// The account's key, in base64.
    AccountKey(Secret),
    /// A shared access signature: the query of a URL.
    SasToken(Secret),
    /// A connection string, which may name account and endpoint too.
    ConnectionString(Secret),
    /// An application of Entra ID.
    ClientSecret {
        /// The directory's id.
        tenant_id: String,
        /// The application's id.
        client_id: String,
        /// The application's secret.
        client_secret: Secret,
    },
}

/// Returns the files of this machine that a source may read beside those that its settings name.
pub fn local_files(env: &Env) -> Vec<std::path::PathBuf> {
    let named = env.get(credentials::TOKEN_FILE);
    named.map(Into::into).into_iter().collect()
}

/// A container, or a part of one.
pub type AzureSource = Bucket<Azure>;

/// A service that speaks Azure Blob Storage's protocol.
pub struct Azure {
    container: String,
    place: Place,
    credentials: Credentials,
    confidences: Confidences,
    client: wire::Client,
    /// Whether the account was seen to have true directories, whose listings are in no simple order.
    hierarchical: AtomicBool,
}

impl AzureSource {
    /// Builds the source. Sends no request, but reads a connection string; fails for settings that
    /// can never work.
    pub fn new(settings: AzureSettings, env: &Env) -> Result<AzureSource> {
        let container = settings.container.clone();
        let fits = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b"-$".contains(&b);
        if container.is_empty() || !container.bytes().all(fits) {
            let what = format!("{container:?} is not the name of a container");
            return Err(Error::new(ErrorKind::Invalid, what));
        }
        let place = Place::find(&settings, env)?;
        let identity = format!("azure:{}", place.identity);
        let store = Azure {
            credentials: Credentials::choose(&settings, env, &place)?,
            client: wire::Client::new(wire::ClientSettings {
                tls: settings.tls.clone(),
                proxy: settings.proxy.clone(),
                // A signature holds for one host only, so a redirect cannot be followed.
                redirects: 0,
            })?,
            confidences: Confidences::default(),
            hierarchical: AtomicBool::new(false),
            container,
            place,
        };
        Bucket::over(store, &identity, &settings.prefix)
    }
}

impl Azure {
    fn asked(&self, explains: bool, expired: Option<String>) -> reply::Asked<'_> {
        reply::Asked {
            container: &self.container,
            endpoint: &self.place.endpoint,
            anonymous: self.credentials.is_anonymous(),
            explains,
            expired,
        }
    }

    /// Sends a request for a blob, or for the container itself, and returns the reply if its status
    /// is among those wanted, else the error that it stands for.
    async fn send(
        &self,
        method: Method,
        key: &str,
        query: &[(&str, &str)],
        mut headers: HeaderMap,
        wanted: &[StatusCode],
    ) -> Result<Response> {
        let (base, container) = (&self.place.endpoint, &self.container);
        let mut url = format!("{base}/{container}");
        if !key.is_empty() {
            url.push('/');
            url.extend(utf8_percent_encode(key, STRICT_KEY));
        }
        add_query(&mut url, query);
        headers.insert(HeaderName::from_static("x-ms-version"), VERSION);
        let credential = self.credentials.get().await?;
        let mut expired = None;
        match credential.as_deref() {
            None => {}
            Some(AzureCredential::SASToken(pairs)) => {
                let value = |name| pairs.iter().find(|(n, _)| n == name).map(|(_, v)| v);
                if let Some(sig) = value("sig") {
                    self.confidences.remember(sig.clone());
                }
                expired = value("se").filter(|end| reply::is_over(end)).cloned();
                for (name, value) in pairs {
                    add_query(&mut url, &[(name, value)]);
                }
            }
            Some(credential) => headers = self.authorize(credential, &method, &url, headers)?,
        }
        let explains = method != Method::HEAD;
        let request = |client: &reqwest::Client| client.request(method, url).headers(headers);
        let response = self.client.send(&self.confidences, request).await?;
        let status = response.status();
        if wanted.contains(&status) {
            return Ok(response);
        }
        let headers = response.headers().clone();
        let page = wire::read_error_page(response).await;
        Err(reply::error(
            &self.asked(explains, expired),
            status,
            &headers,
            &page,
        ))
    }

    /// Returns the headers with what proves who asks.
    fn authorize(
        &self,
        credential: &AzureCredential,
        method: &Method,
        url: &str,
        headers: HeaderMap,
    ) -> Result<HeaderMap> {
        let invalid = |why: String| Error::new(ErrorKind::Invalid, why);
        if let AzureCredential::BearerToken(token) = credential {
            // The signer panics where it does not fit.
            if HeaderValue::from_str(token).is_err() {
                let why = "the token has characters that no header can hold";
                return Err(Error::new(ErrorKind::Denied, why));
            }
            if !self.place.is_private {
                let why = "a token would be sent in the clear; give an https:// endpoint";
                return Err(invalid(why.into()));
            }
        }
        let mut request = HttpRequest::new(HttpRequestBody::empty());
        *request.method_mut() = method.clone();
        *request.headers_mut() = headers;
        *request.uri_mut() = url.parse().map_err(|e| invalid(format!("no URL: {e}")))?;
        AzureAuthorizer::new(credential, &self.place.account)
            .try_authorize(&mut request)
            .map_err(|e| invalid(format!("cannot sign: {}", wire::causes(&e))))?;
        Ok(std::mem::take(request.headers_mut()))
    }

    async fn one_page(&self, ask: Ask<'_>) -> Result<Page> {
        let most = ask.most.unwrap_or(PAGE).to_string();
        let pairs = [
            ("restype", Some("container")),
            ("comp", Some("list")),
            ("delimiter", ask.grouped.then_some("/")),
            // Which blobs stand for directories is written there.
            ("include", Some("metadata")),
            ("marker", ask.token),
            ("maxresults", Some(most.as_str())),
            (
                "prefix",
                Some(ask.prefix).filter(|prefix| !prefix.is_empty()),
            ),
        ];
        let query: Vec<_> = { pairs.into_iter() }
            .filter_map(|(name, value)| Some((name, value?)))
            .collect();
        let wanted = [StatusCode::OK];
        let response = self.send(Method::GET, "", &query, HeaderMap::new(), &wanted);
        let body = wire::read_all(response.await?, PAGE_LIMIT).await?;
        let (page, hierarchical) = list::parse(&body)?;
        if hierarchical {
            self.hierarchical.store(true, Ordering::Relaxed);
        }
        Ok(page)
    }
}

#[async_trait]
impl Store for Azure {
    const SCHEME: &'static str = "az";
    const MARKS_DIRECTORIES: bool = true;

    fn bucket(&self) -> &str {
        &self.container
    }

    fn confidences(&self) -> &Confidences {
        &self.confidences
    }

    fn is_ordered(&self) -> bool {
        !self.hierarchical.load(Ordering::Relaxed)
    }

    async fn page(&self, ask: Ask<'_>) -> Result<Page> {
        let Some(after) = ask.after else {
            return self.one_page(ask).await;
        };
        let mut token: Option<String> = None;
        for _ in 0..PASS_OVER {
            let token_of = token.as_deref();
            let mut page = self
                .one_page(Ask {
                    token: token_of,
                    ..ask
                })
                .await?;
            page.objects.retain(|object| *object.key > *after);
            if page.len() > 0 || page.next.is_none() {
                return Ok(page);
            }
            token = page.next;
        }
        // Too far behind: nothing is said of what is there.
        Ok(Page::default())
    }

    async fn head(&self, key: &str) -> Result<Option<Object>> {
        let wanted = [StatusCode::OK];
        let sent = self.send(Method::HEAD, key, &[], HeaderMap::new(), &wanted);
        match sent.await {
            Ok(response) => reply::described(key, response.headers()).map(Some),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
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
        let wanted = [StatusCode::PARTIAL_CONTENT, StatusCode::OK];
        let sent = self.send(Method::GET, key, &[], headers, &wanted).await;
        if let Err(error) = &sent
            && error.kind() == ErrorKind::Changed
            && self.head(key).await?.is_none()
        {
            // Where there is no blob at all, it is not what If-Match asks for either.
            return Err(Error::new(ErrorKind::NotFound, "no such blob"));
        }
        let response = sent?;
        let headers = response.headers();
        let etag = request::etag_of(headers);
        match request::check_reply(entry, &range, response.status(), headers, etag) {
            Ok((got, size, etag)) => wire::body(response, got, size, etag),
            Err(error) => {
                wire::discard(response).await;
                Err(error)
            }
        }
    }
}

/// Returns object_store's credentials for good, of what a secret said.
fn fixed(
    credential: AzureCredential,
) -> Arc<object_store::StaticCredentialProvider<AzureCredential>> {
    Arc::new(object_store::StaticCredentialProvider::new(credential))
}
