//! What all sources that speak HTTP share: the client, and a distrustful reading of replies.
//!
//! A reply is believed only where it agrees with the request: its status, Content-Range,
//! Content-Length, Content-Encoding and validator are checked here, once for every kind.

use std::ops::Range;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use bytes::{Bytes, BytesMut};
use futures::StreamExt;
use reqwest::header::{self, HeaderMap};
use reqwest::{Response, StatusCode};

use super::{Body, Error, ErrorKind, Result};
use crate::entry::Timestamp;

mod client;

pub(crate) use client::{Client, ClientSettings};

/// The longest pause that a `Retry-After` may ask for; a longer one is cut to this.
const MAX_RETRY_AFTER: Duration = Duration::from_secs(3600);

/// How much of an error page is read, in bytes: S3's are a few hundred.
const ERROR_PAGE: usize = 64 * 1024;

/// A redirect that is not followed.
#[derive(Debug, thiserror::Error)]
enum Refused {
    #[error("a redirect from https to http, which would send the data in the clear")]
    Downgrade,
    #[error("too many redirects")]
    TooMany,
}

/// How long a server may take to tell the time.
const CLOCK_TIMEOUT: Duration = Duration::from_secs(5);

/// Asks a server what time it is, by the date of any reply to a request for `url` without
/// credentials; nothing where it says none. Fails where no reply comes.
pub async fn clock(
    url: url::Url,
    tls: super::TlsSettings,
    proxy: Option<super::ProxySettings>,
) -> Result<Option<SystemTime>> {
    let client = Client::new(ClientSettings {
        tls,
        proxy,
        redirects: 0,
    })?;
    let confidences = super::confidence::Confidences::default();
    let asked = client.send(&confidences, |client| {
        client.head(url).timeout(CLOCK_TIMEOUT)
    });
    let reply = asked.await.map_err(|error| confidences.conceal(error))?;
    let date = text(reply.headers(), header::DATE);
    Ok(date.and_then(|date| httpdate::parse_http_date(date).ok()))
}

/// Translates a failure to get a reply. The URL, which may hold a signature, is left out.
pub(crate) fn no_reply(error: reqwest::Error) -> Error {
    let error = error.without_url();
    let message = causes(&error);
    let source = || chain(&error);
    if let Some(refused) = source().find_map(|e| e.downcast_ref::<Refused>()) {
        return Error::new(ErrorKind::Invalid, refused.to_string());
    }
    if source().any(is_tls) {
        let hint = match message.contains("received fatal alert") {
            true => "the server ended it: it may want a client certificate that it trusts",
            false => "check the server's certificate, or name its authority as CA bundle",
        };
        return Error::new(ErrorKind::Invalid, format!("{message} ({hint})"));
    }
    if source().any(|e| e.to_string().contains("proxy authorization required")) {
        let message = "the proxy does not accept the user name and password, or wants some";
        return Error::new(ErrorKind::Denied, message);
    }
    let kind = if error.is_timeout() {
        ErrorKind::Timeout
    } else if error.is_builder() {
        ErrorKind::Invalid
    } else if source().any(is_bad_http) {
        ErrorKind::Lied
    } else if !error.is_connect() {
        // The connection was made, perhaps long ago, and broke: not yet a sign of an outage.
        ErrorKind::Interrupted
    } else {
        // Refused, reset, closed before a reply, unknown host.
        ErrorKind::Unreachable
    };
    Error::new(kind, message)
}

fn is_tls(error: &(dyn std::error::Error + 'static)) -> bool {
    // An I/O error does not count what it wraps among its sources.
    let wrapped = error
        .downcast_ref::<std::io::Error>()
        .and_then(|e| e.get_ref());
    error.is::<rustls::Error>() || wrapped.is_some_and(|inner| is_tls(inner))
}

fn is_bad_http(error: &(dyn std::error::Error + 'static)) -> bool {
    // hyper is not a dependency of ours; its words for a reply that does not parse are stable.
    let text = error.to_string();
    text.starts_with("invalid HTTP") || text.starts_with("message head is too large")
}

/// Returns an error and its causes.
pub(crate) fn chain<'a>(
    error: &'a (dyn std::error::Error + 'static),
) -> impl Iterator<Item = &'a (dyn std::error::Error + 'static)> {
    std::iter::successors(Some(error), |e| e.source())
}

/// Joins an error's message with those of its causes, without repetition.
pub(crate) fn causes(error: &(dyn std::error::Error + 'static)) -> String {
    let mut text = String::new();
    for cause in chain(error) {
        let cause = cause.to_string();
        if text.is_empty() {
            text = cause;
        } else if !text.contains(&cause) {
            text.push_str(": ");
            text.push_str(&cause);
        }
    }
    text
}

/// Returns a header's text, if it is there and is text.
pub(crate) fn text(headers: &HeaderMap, name: header::HeaderName) -> Option<&str> {
    headers.get(name)?.to_str().ok().map(str::trim)
}

/// Returns the pause that a reply asks for, in seconds or until a date.
pub(crate) fn retry_after(headers: &HeaderMap) -> Option<Duration> {
    let text = text(headers, header::RETRY_AFTER)?;
    let pause = match text.parse::<u64>() {
        Ok(seconds) => Duration::from_secs(seconds),
        Err(_) => httpdate::parse_http_date(text)
            .ok()?
            .duration_since(SystemTime::now())
            .unwrap_or_default(),
    };
    Some(pause.min(MAX_RETRY_AFTER))
}

/// Returns the error for a status that means the same at every server, with `what` the reply's
/// own words.
pub(crate) fn status_error(status: StatusCode, headers: &HeaderMap, what: &str) -> Error {
    let kind = match status {
        StatusCode::NOT_FOUND | StatusCode::GONE => ErrorKind::NotFound,
        StatusCode::UNAUTHORIZED
        | StatusCode::FORBIDDEN
        | StatusCode::PROXY_AUTHENTICATION_REQUIRED => ErrorKind::Denied,
        StatusCode::PRECONDITION_FAILED | StatusCode::RANGE_NOT_SATISFIABLE => ErrorKind::Changed,
        StatusCode::TOO_MANY_REQUESTS | StatusCode::SERVICE_UNAVAILABLE => ErrorKind::Throttled,
        StatusCode::REQUEST_TIMEOUT => ErrorKind::Server,
        s if s.is_server_error() => ErrorKind::Server,
        s if s.is_success() => ErrorKind::Lied,
        _ => ErrorKind::Invalid,
    };
    let mut message = format!("the server answered {status}");
    if !what.is_empty() {
        message = format!("{message}: {what}");
    }
    let error = Error::new(kind, message);
    match retry_after(headers) {
        Some(pause) if kind.is_transient() => error.with_retry_after(pause),
        _ => error,
    }
}

/// Returns the size that `Content-Length` announces. (hyper has already checked that there is but
/// one, and that it is a number.)
pub(crate) fn content_length(headers: &HeaderMap) -> Option<u64> {
    text(headers, header::CONTENT_LENGTH)?.parse().ok()
}

/// Returns the range and the whole size of a `Content-Range: bytes 0-9/100`.
pub(crate) fn content_range(headers: &HeaderMap) -> Result<(Range<u64>, u64)> {
    let text = text(headers, header::CONTENT_RANGE)
        .ok_or_else(|| Error::lied("a partial reply without a Content-Range"))?;
    parse_content_range(text)
        .ok_or_else(|| Error::lied(format!("a partial reply with Content-Range {text:?}")))
}

fn parse_content_range(text: &str) -> Option<(Range<u64>, u64)> {
    let (range, size) = text.strip_prefix("bytes ")?.split_once('/')?;
    let (first, last) = range.split_once('-')?;
    let (first, last, size): (u64, u64, u64) =
        (first.parse().ok()?, last.parse().ok()?, size.parse().ok()?);
    (first <= last && last < size).then(|| (first..last + 1, size))
}

/// Refuses a body that is not the object's own bytes.
pub(crate) fn check_encoding(headers: &HeaderMap) -> Result<()> {
    match text(headers, header::CONTENT_ENCODING) {
        None | Some("" | "identity" | "aws-chunked") => Ok(()),
        Some(other) => Err(Error::lied(format!(
            "the reply is encoded ({other}) although the plain bytes were asked for"
        ))),
    }
}

/// Returns `Last-Modified`, if it is there and is a date.
pub(crate) fn last_modified(headers: &HeaderMap) -> Option<Timestamp> {
    let text = text(headers, header::LAST_MODIFIED)?;
    Some(httpdate::parse_http_date(text).ok()?.into())
}

/// Returns the reply's body as a stream; a connection that breaks is [`ErrorKind::Interrupted`].
///
/// A Content-Length of another length than `range` is a lie, and told before any byte is taken:
/// where something was put before or in place of the right bytes, each of them is a wrong one.
pub(crate) fn body(
    response: Response,
    range: Range<u64>,
    size: u64,
    validator: Option<Arc<str>>,
) -> Result<Body> {
    let want = range.end - range.start;
    if let Some(announced) = content_length(response.headers()).filter(|n| *n != want) {
        return Err(Error::lied(format!(
            "a Content-Length of {announced} for a range of {want} bytes"
        )));
    }
    let stream = response
        .bytes_stream()
        .map(|chunk| chunk.map_err(interrupted))
        .boxed();
    let body = Body {
        range,
        size,
        validator,
        stream,
    };
    Ok(body.checked())
}

pub(crate) fn interrupted(error: reqwest::Error) -> Error {
    let error = error.without_url();
    let kind = if error.is_timeout() {
        ErrorKind::Timeout
    } else {
        ErrorKind::Interrupted
    };
    Error::new(kind, causes(&error))
}

/// Reads a whole body of at most `limit` bytes; a longer one is [`ErrorKind::Lied`].
pub(crate) async fn read_all(response: Response, limit: usize) -> Result<Bytes> {
    let too_long = || Error::lied(format!("a reply of more than {limit} bytes"));
    let announced = content_length(response.headers()).unwrap_or(0);
    if announced > limit as u64 {
        return Err(too_long());
    }
    let mut stream = response.bytes_stream();
    let mut all = BytesMut::new();
    while let Some(chunk) = stream.next().await {
        let chunk = chunk.map_err(interrupted)?;
        if all.len() + chunk.len() > limit {
            return Err(too_long());
        }
        super::progress::note();
        all.extend_from_slice(&chunk);
    }
    Ok(all.freeze())
}

/// Reads a whole body of at most `limit` bytes and returns how many there were.
pub(crate) async fn count(response: Response, limit: u64) -> Result<u64> {
    let mut stream = response.bytes_stream();
    let mut count = 0;
    while let Some(chunk) = stream.next().await {
        count += chunk.map_err(interrupted)?.len() as u64;
        if count > limit {
            return Err(Error::lied(format!(
                "the server does not tell the file's length, and it has more than {limit} bytes or \
                 no end"
            )));
        }
    }
    Ok(count)
}

/// Reads the beginning of an error page; what cannot be read is left out.
pub(crate) async fn read_error_page(response: Response) -> String {
    let mut stream = response.bytes_stream();
    let mut page = Vec::new();
    while let Some(Ok(chunk)) = stream.next().await {
        page.extend_from_slice(&chunk[..chunk.len().min(ERROR_PAGE - page.len())]);
        if page.len() == ERROR_PAGE {
            break;
        }
    }
    String::from_utf8_lossy(&page).into_owned()
}

/// Reads what is left of a reply that is not wanted, if that is little, so that its connection
/// serves again. One that is dropped half read is closed, and the next request may still be given
/// to it.
pub(crate) async fn discard(response: Response) {
    if content_length(response.headers()).is_some_and(|n| n <= ERROR_PAGE as u64) {
        read_error_page(response).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(name: &'static str, value: &str) -> HeaderMap {
        let mut map = HeaderMap::new();
        map.insert(name, value.parse().unwrap());
        map
    }

    #[test]
    fn content_ranges_that_make_no_sense_are_lies() {
        let parse = |text| content_range(&headers("content-range", text));
        assert_eq!(parse("bytes 0-9/100").unwrap(), (0..10, 100));
        for bad in [
            "bytes 5-4/100",
            "bytes 0-100/100",
            "bytes */100",
            "bytes 0-9/*",
            "items 0-9/100",
            "bytes 0-18446744073709551615/18446744073709551615",
            "",
        ] {
            assert_eq!(parse(bad).unwrap_err().kind(), ErrorKind::Lied, "{bad}");
        }
        assert!(content_range(&HeaderMap::new()).is_err());
    }

    #[test]
    fn retry_after_is_seconds_or_a_date() {
        let parse = |text: &str| retry_after(&headers("retry-after", text));
        assert_eq!(parse("7"), Some(Duration::from_secs(7)));
        assert_eq!(parse("99999999"), Some(MAX_RETRY_AFTER));
        assert_eq!(parse("soon"), None);
        let date = httpdate::fmt_http_date(SystemTime::now() + Duration::from_secs(30));
        let pause = parse(&date).unwrap().as_secs();
        assert!((25..=30).contains(&pause), "{pause}");
        assert_eq!(parse("Sun, 06 Nov 1994 08:49:37 GMT"), Some(Duration::ZERO));
    }

    #[test]
    fn statuses_have_their_kinds() {
        let kind = |code: u16| {
            let status = StatusCode::from_u16(code).unwrap();
            status_error(status, &HeaderMap::new(), "").kind()
        };
        for (code, want) in [
            (404, ErrorKind::NotFound),
            (410, ErrorKind::NotFound),
            (401, ErrorKind::Denied),
            (403, ErrorKind::Denied),
            (412, ErrorKind::Changed),
            (416, ErrorKind::Changed),
            (429, ErrorKind::Throttled),
            (503, ErrorKind::Throttled),
            (500, ErrorKind::Server),
            (502, ErrorKind::Server),
            (400, ErrorKind::Invalid),
            (302, ErrorKind::Invalid),
            (204, ErrorKind::Lied),
        ] {
            assert_eq!(kind(code), want, "{code}");
        }
    }
}
