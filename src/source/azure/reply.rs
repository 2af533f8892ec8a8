//! What Azure means when it says no, in words that say what to do; and what it says of a blob.

use reqwest::StatusCode;
use reqwest::header::{HeaderMap, HeaderName};
use serde::Deserialize;

use super::super::bucket::page::Object;
use super::super::bucket::request;
use super::super::wire;
use super::super::{Error, ErrorKind, Result};

/// What the words of an error need to know of whom was asked.
pub(super) struct Asked<'a> {
    pub(super) container: &'a str,
    pub(super) endpoint: &'a str,
    pub(super) anonymous: bool,
    /// Whether a reply has a body to explain itself: HEAD's have not.
    pub(super) explains: bool,
    /// When the shared access signature ended, if it has.
    pub(super) expired: Option<String>,
}

/// Azure's error document.
#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
struct Words {
    code: String,
    message: String,
}

/// Returns the error that a reply other than 200 and 206 stands for.
pub(super) fn error(asked: &Asked, status: StatusCode, headers: &HeaderMap, page: &str) -> Error {
    let page = page.trim_start_matches('\u{feff}');
    let mut words = match page.contains("<Error") {
        true => quick_xml::de::from_str::<Words>(page).unwrap_or_default(),
        false => Words::default(),
    };
    let header = |name| wire::text(headers, HeaderName::from_static(name));
    if words.code.is_empty() {
        words.code = header("x-ms-error-code").unwrap_or_default().to_owned();
    }
    // The lines after the first name the request and the time.
    let message = words.message.lines().next().unwrap_or_default();
    let (container, endpoint) = (asked.container, asked.endpoint);
    let said = |kind: ErrorKind, hint: &str| {
        let message = match (words.code.is_empty(), message.is_empty()) {
            (true, _) => format!("{status}: {hint}"),
            (_, true) => format!("{hint} (the server said {})", words.code),
            _ => format!("{hint} (the server said {}: {message})", words.code),
        };
        let error = Error::new(kind, message);
        match wire::retry_after(headers) {
            Some(pause) if kind.is_transient() => error.with_retry_after(pause),
            _ => error,
        }
    };
    let denied = |hint: &str| said(ErrorKind::Denied, hint);
    let no_container = || match asked.anonymous {
        true => denied(&format!(
            "there is no public container {container} at {endpoint}; give credentials instead of \
             --no-sign-request, or check its name"
        )),
        false => said(
            ErrorKind::Invalid,
            &format!(
                "there is no container {container} at {endpoint}; check its name, the account and \
                 the endpoint"
            ),
        ),
    };
    match words.code.as_str() {
        "BlobNotFound" => said(ErrorKind::NotFound, "no such blob"),
        "ContainerNotFound"
        | "ContainerBeingDeleted"
        | "ContainerDisabled"
        | "ResourceNotFound" => no_container(),
        "BlobArchived" => said(
            ErrorKind::NotNow,
            "the blob is in the archive tier; rehydrate it first (az storage blob set-tier --tier \
             Hot), then read it",
        ),
        "BlobBeingRehydrated" => said(
            ErrorKind::NotNow,
            "the blob is on its way out of the archive tier, which takes hours",
        ),
        "ConditionNotMet" | "InvalidRange" => said(
            ErrorKind::Changed,
            "the blob is no longer the version that was listed",
        ),
        "ServerBusy" | "OperationTimedOut" | "TooManyRequests" => {
            said(ErrorKind::Throttled, "the server asks for a pause")
        }
        "InternalError" => said(ErrorKind::Server, "the server failed"),
        "KeyBasedAuthenticationNotPermitted" => denied(
            "the account takes no account keys; use an application of Entra ID (AZURE_CLIENT_ID, \
             AZURE_TENANT_ID, AZURE_CLIENT_SECRET) or a managed identity",
        ),
        "UnsupportedHeader" | "InvalidHeaderValue" | "InvalidQueryParameterValue" => said(
            ErrorKind::Invalid,
            "the server does not understand the request; does it know x-ms-version 2023-11-03?",
        ),
        _ if matches!(status, StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN) => {
            denied(&denied_hint(asked, &words.code, headers))
        }
        "PublicAccessNotPermitted" => denied(&denied_hint(asked, &words.code, headers)),
        code => match status {
            StatusCode::NOT_FOUND if asked.anonymous && !code.is_empty() => no_container(),
            StatusCode::NOT_FOUND => Error::lied(format!(
                "a 404 without Azure's words ({}); does something else answer at {endpoint}?",
                if code.is_empty() { "no code" } else { code },
            )),
            s if s.is_redirection() => said(
                ErrorKind::Invalid,
                "the server redirects elsewhere, where the credentials do not belong; check the \
                 endpoint",
            ),
            _ if asked.explains || !code.is_empty() => {
                wire::status_error(status, headers, &format!("{code} {message}"))
            }
            _ => wire::status_error(status, headers, ""),
        },
    }
}

fn denied_hint(asked: &Asked, code: &str, headers: &HeaderMap) -> String {
    if asked.anonymous {
        let what = "access denied to an unsigned request; give credentials instead of \
                    --no-sign-request";
        return what.into();
    }
    if let Some(end) = &asked.expired {
        return format!("the shared access signature expired at {end}; make another one");
    }
    if let Some(skew) = request::clock_skew(headers) {
        return skew;
    }
    match code {
        "AuthenticationFailed" => {
            "the key, signature or token is not right for this account; check it".into()
        }
        "InvalidAuthenticationInfo" => "the token has expired or is not valid here".into(),
        _ => {
            "access denied; check that the credentials may list and read blobs here (Storage Blob \
              Data Reader; of a signature the permissions r and l)"
                .into()
        }
    }
}

/// Returns whether the end of a shared access signature is past.
pub(super) fn is_over(end: &str) -> bool {
    let midnight = format!("{end}T00:00:00Z");
    let time =
        humantime::parse_rfc3339_weak(end).or_else(|_| humantime::parse_rfc3339_weak(&midnight));
    time.is_ok_and(|time| time < std::time::SystemTime::now())
}

/// Returns what the headers of a reply say of a blob.
pub(super) fn described(key: &str, headers: &HeaderMap) -> Result<Object> {
    let header = |name| wire::text(headers, HeaderName::from_static(name));
    let size = wire::content_length(headers)
        .ok_or_else(|| Error::lied("a blob without a Content-Length"))?;
    let is_dir = header("x-ms-resource-type") == Some("directory")
        || header("x-ms-meta-hdi_isfolder") == Some("true");
    Ok(Object {
        key: key.to_owned(),
        size,
        mtime: wire::last_modified(headers),
        tag: request::etag_of(headers),
        is_dir: is_dir && size == 0,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asked() -> Asked<'static> {
        Asked {
            container: "c",
            endpoint: "https://acc.example",
            anonymous: false,
            explains: true,
            expired: None,
        }
    }

    fn said(status: u16, code: &str, asked: &Asked) -> Error {
        let page = format!(
            "\u{feff}<?xml version=\"1.0\" encoding=\"utf-8\"?><Error><Code>{code}</Code><Message>m\n\
             RequestId:1\nTime:2026-11-22T00:00:00Z</Message><Detail>x</Detail></Error>"
        );
        let status = StatusCode::from_u16(status).unwrap();
        let error = error(asked, status, &HeaderMap::new(), &page);
        // Of a reply to HEAD the code is in a header.
        let mut headers = HeaderMap::new();
        headers.insert("x-ms-error-code", code.parse().unwrap());
        let head = super::error(asked, status, &headers, "");
        assert_eq!(head.kind(), error.kind(), "{code}");
        error
    }

    #[test]
    fn codes_have_their_kinds() {
        for (status, code, kind) in [
            (404, "BlobNotFound", ErrorKind::NotFound),
            (404, "ContainerNotFound", ErrorKind::Invalid),
            (404, "SomethingNew", ErrorKind::Lied),
            (409, "ContainerBeingDeleted", ErrorKind::Invalid),
            (409, "BlobArchived", ErrorKind::NotNow),
            (409, "BlobBeingRehydrated", ErrorKind::NotNow),
            (409, "PublicAccessNotPermitted", ErrorKind::Denied),
            (403, "AuthenticationFailed", ErrorKind::Denied),
            (403, "AuthorizationPermissionMismatch", ErrorKind::Denied),
            (401, "InvalidAuthenticationInfo", ErrorKind::Denied),
            (412, "ConditionNotMet", ErrorKind::Changed),
            (416, "InvalidRange", ErrorKind::Changed),
            (503, "ServerBusy", ErrorKind::Throttled),
            (500, "OperationTimedOut", ErrorKind::Throttled),
            (500, "InternalError", ErrorKind::Server),
            (307, "SomethingNew", ErrorKind::Invalid),
            (400, "InvalidHeaderValue", ErrorKind::Invalid),
        ] {
            let error = said(status, code, &asked());
            assert_eq!(error.kind(), kind, "{code}");
            assert!(!error.to_string().contains("RequestId"), "{error}");
        }
        let public = Asked {
            anonymous: true,
            ..asked()
        };
        // To an unsigned request Azure does not say whether there is such a container.
        let error = said(404, "ResourceNotFound", &public);
        assert_eq!(error.kind(), ErrorKind::Denied);
        assert!(error.to_string().contains("--no-sign-request"), "{error}");
    }

    #[test]
    fn only_azure_s_own_words_mean_not_found() {
        for page in ["", "<html>404 page not found</html>"] {
            let error = error(&asked(), StatusCode::NOT_FOUND, &HeaderMap::new(), page);
            assert_eq!(error.kind(), ErrorKind::Lied);
        }
    }

    #[test]
    fn what_is_over_is_said() {
        assert!(is_over("2020-01-01T00:00:00Z") && is_over("2020-01-01"));
        assert!(!is_over("2999-01-01T00:00:00Z") && !is_over("soon"));
        let over = Asked {
            expired: Some("2020-01-01".into()),
            ..asked()
        };
        let error = said(403, "AuthenticationFailed", &over);
        assert!(
            error.to_string().contains("expired at 2020-01-01"),
            "{error}"
        );
        let mut headers = HeaderMap::new();
        headers.insert("date", "Sun, 06 Nov 1994 08:49:37 GMT".parse().unwrap());
        let error = super::error(&asked(), StatusCode::FORBIDDEN, &headers, "");
        assert!(error.to_string().contains("clock"), "{error}");
        assert!(error.to_string().contains("06 Nov 1994"), "{error}");
    }
}
