//! What is asked of a WebDAV server; `dav` reads its answers.

use reqwest::header::{self, HeaderMap, HeaderValue};
use reqwest::{Method, StatusCode};
use url::Url;

use super::super::{Error, ErrorKind, Listing, Result, wire};
use super::{HttpSource, PAGE_LIMIT, at_root, blocking, dav};
use crate::entry::Entry;
use crate::path::RelPath;

/// A reply to PROPFIND.
struct Told {
    /// The URL that it came from in the end.
    page: Url,
    date: Option<HeaderValue>,
    body: bytes::Bytes,
}

impl HttpSource {
    /// Asks a WebDAV server for what is at `url`, and beneath it where `depth` is 1.
    async fn propfind(&self, url: &Url, depth: &'static str) -> Result<Told> {
        let mut headers = HeaderMap::new();
        let xml = HeaderValue::from_static("application/xml; charset=utf-8");
        headers.insert(header::CONTENT_TYPE, xml);
        headers.insert("depth", HeaderValue::from_static(depth));
        let method = Method::from_bytes(b"PROPFIND").map_err(|_| Error::lied("no such method"))?;
        let response = self.send_with(method, url, headers, dav::QUESTION).await?;
        let status = response.status();
        let redirected = response.url() != url;
        match status {
            StatusCode::MULTI_STATUS => {}
            StatusCode::METHOD_NOT_ALLOWED | StatusCode::NOT_IMPLEMENTED => {
                wire::discard(response).await;
                let message = format!(
                    "the server answered {status} to PROPFIND: not a WebDAV server, or not at this \
                     URL; try it as http:// instead of dav+http://"
                );
                return Err(Error::new(ErrorKind::Invalid, message));
            }
            s if s.is_success() => {
                let message = format!(
                    "the server answered {status} to PROPFIND and not 207: not a WebDAV server, or \
                     not at this URL; try it as http:// instead of dav+http://"
                );
                return Err(Error::new(ErrorKind::Invalid, message));
            }
            _ => return Err(self.explained(response).await),
        }
        wire::check_encoding(response.headers())?;
        if redirected && response.url().host() != url.host() {
            return Err(Error::lied("a redirect of PROPFIND to another host"));
        }
        Ok(Told {
            page: response.url().clone(),
            date: response.headers().get(header::DATE).cloned(),
            body: wire::read_all(response, PAGE_LIMIT).await?,
        })
    }

    /// Lists a collection.
    pub(super) async fn list_webdav(&self, dir: &RelPath) -> Result<Listing> {
        let told = self.propfind(&self.child(dir, true), "1").await;
        let told = match dir.is_root() {
            true => told.map_err(at_root)?,
            false => told?,
        };
        let listing = blocking(move || dav::listing(&told.page, told.date.as_ref(), &told.body));
        let listing = listing.await;
        match dir.is_root() {
            true => listing.map_err(at_root),
            false => listing,
        }
    }

    /// Describes a file.
    pub(super) async fn stat_webdav(&self, path: &RelPath) -> Result<Entry> {
        let missing = || Error::new(ErrorKind::NotFound, "no such file");
        let name = path.file_name().ok_or_else(missing)?;
        let url = self.child(path, false);
        let told = match self.propfind(&url, "0").await {
            // Apache has no words of WebDAV's for what would be below a file.
            Err(error) if error.kind() == ErrorKind::Invalid => {
                return match self.describe(&url, name).await {
                    Err(found) if found.kind() == ErrorKind::NotFound => Err(found),
                    _ => Err(error),
                };
            }
            told => told?,
        };
        let entry = dav::file(&told.page, name.clone(), told.date.as_ref(), &told.body)?;
        match entry.size {
            Some(_) => Ok(entry),
            None => Ok(self.describe(&url, name).await?.entry),
        }
    }
}
