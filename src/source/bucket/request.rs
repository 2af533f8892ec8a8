//! URLs of objects, and what a reply to a ranged read must say.

use std::ops::Range;
use std::sync::Arc;

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use reqwest::StatusCode;
use reqwest::header::{self, HeaderMap, HeaderValue};
use url::Url;

use super::super::{Error, ErrorKind, Result, wire};
use crate::entry::Entry;

/// What is left as it is in a URL (RFC 3986's unreserved characters); all else is escaped.
pub(crate) const STRICT: &AsciiSet = &NON_ALPHANUMERIC
    .remove(b'-')
    .remove(b'.')
    .remove(b'_')
    .remove(b'~');

/// The same for a key, whose slashes stay.
pub(crate) const STRICT_KEY: &AsciiSet = &STRICT.remove(b'/');

/// Adds parameters to a URL, escaped.
pub(crate) fn add_query(url: &mut String, query: &[(&str, &str)]) {
    for (name, value) in query {
        url.push(if url.contains('?') { '&' } else { '?' });
        url.push_str(name);
        url.push('=');
        url.extend(utf8_percent_encode(value, STRICT));
    }
}

/// Returns the `Range` that asks for `range`, which is not empty.
pub(crate) fn range_header(range: &Range<u64>) -> Result<HeaderValue> {
    let last = range.end.saturating_sub(1);
    HeaderValue::try_from(format!("bytes={}-{last}", range.start))
        .map_err(|_| Error::new(ErrorKind::Invalid, "a range that is no header"))
}

/// A service's URL, taken apart.
pub(crate) struct Endpoint {
    /// `http` or `https`.
    pub(crate) scheme: String,
    /// The host's name or address.
    pub(crate) host: String,
    /// A colon and the port; empty for the scheme's own.
    pub(crate) port: String,
    /// The path without a slash at its end.
    pub(crate) path: String,
}

impl Endpoint {
    /// Takes the URL of a service apart; `of` is whose it is, in messages. The URL itself, which may
    /// hold a password by mistake, is not repeated.
    pub(crate) fn parse(text: &str, of: &str) -> Result<Endpoint> {
        let bad = |why: &str| {
            let message = format!("the {of} endpoint {why}; write http(s)://host[:port]");
            Error::new(ErrorKind::Invalid, message)
        };
        let url = Url::parse(text).map_err(|e| bad(&format!("is not a URL ({e})")))?;
        let host = url.host_str().ok_or_else(|| bad("has no host"))?;
        if !matches!(url.scheme(), "http" | "https") {
            return Err(bad("is neither http:// nor https://"));
        }
        if !url.username().is_empty() || url.password().is_some() || url.query().is_some() {
            return Err(bad("has a user name or a query in it"));
        }
        Ok(Endpoint {
            scheme: url.scheme().to_owned(),
            host: host.to_owned(),
            port: url.port().map(|p| format!(":{p}")).unwrap_or_default(),
            path: url.path().trim_end_matches('/').to_owned(),
        })
    }

    /// Returns host, port and path: what names the place.
    pub(crate) fn place(&self) -> String {
        format!("{}{}{}", self.host, self.port, self.path)
    }

    /// Returns whether what is sent there cannot be read on the way: over TLS, or to this machine.
    #[cfg(any(feature = "azure", feature = "gcs"))]
    pub(crate) fn is_private(&self) -> bool {
        let loopback = { self.address() }.is_some_and(|address| address.is_loopback());
        self.scheme == "https" || self.host == "localhost" || loopback
    }

    /// Returns the host, where it is an address.
    #[cfg(any(feature = "azure", feature = "gcs"))]
    pub(crate) fn address(&self) -> Option<std::net::IpAddr> {
        self.host.trim_matches(['[', ']']).parse().ok()
    }

    /// Returns the URL, without a slash at its end.
    pub(crate) fn url(&self) -> String {
        format!("{}://{}", self.scheme, self.place())
    }
}

/// A range that a reply brings, the object's size, and its tag.
pub(crate) type Brought = (Range<u64>, u64, Option<Arc<str>>);

/// Compares a reply's tag, size and range with what was asked for. `tag` is what the reply says of
/// the object's version; an entry that has one is read by no reply without.
pub(crate) fn check_reply(
    entry: &Entry,
    asked: &Range<u64>,
    status: StatusCode,
    headers: &HeaderMap,
    tag: Option<String>,
) -> Result<Brought> {
    match (&entry.validator, &tag) {
        (Some(pinned), Some(tag)) if **pinned != **tag => {
            return Err(Error::changed(format!(
                "the object was {pinned} and now is {tag}"
            )));
        }
        (Some(_), None) => return Err(Error::lied("a reply that does not tell its version")),
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
    Ok((got, size, tag.map(Into::into)))
}

/// Returns the ETag of a reply.
pub(crate) fn etag_of(headers: &HeaderMap) -> Option<String> {
    super::page::etag(wire::text(headers, header::ETAG)?)
}

#[cfg(any(feature = "azure", feature = "gcs"))]
/// How far two clocks may be apart: signatures and tokens are believed for 15 minutes, some for 5.
const CLOCK_SKEW: std::time::Duration = std::time::Duration::from_secs(5 * 60);

/// Returns what to tell whoever was denied by a server whose clock is far from ours.
#[cfg(any(feature = "azure", feature = "gcs"))]
pub(crate) fn clock_skew(headers: &HeaderMap) -> Option<String> {
    let date = wire::text(headers, header::DATE)?;
    let theirs = httpdate::parse_http_date(date).ok()?;
    let ours = std::time::SystemTime::now();
    let apart = { ours.duration_since(theirs) }.unwrap_or_else(|early| early.duration());
    (apart > CLOCK_SKEW).then(|| {
        format!("this machine's clock differs too much from the server's ({date}); set the clock")
    })
}
