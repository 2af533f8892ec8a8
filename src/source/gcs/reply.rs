//! What Google Cloud Storage means when it says no, in words that say what to do.

use reqwest::StatusCode;
use reqwest::header::HeaderMap;
use serde::Deserialize;

use super::super::bucket::request;
use super::super::wire;
use super::super::{Error, ErrorKind};

/// What the words of an error need to know of whom was asked.
pub(super) struct Asked<'a> {
    pub(super) bucket: &'a str,
    pub(super) endpoint: &'a str,
    pub(super) anonymous: bool,
}

#[derive(Debug, Default, Deserialize)]
struct Document {
    error: Words,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Words {
    message: String,
    errors: Vec<Reason>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Reason {
    reason: String,
}

/// Returns the error that a reply other than 200 and 206 stands for. A 404 is
/// [`ErrorKind::NotFound`] only in Google's own words, and may be the bucket's.
pub(super) fn error(asked: &Asked, status: StatusCode, headers: &HeaderMap, page: &str) -> Error {
    let document = serde_json::from_str::<Document>(page);
    let explained = document.is_ok();
    let words = document.unwrap_or_default().error;
    let reason = { words.errors.first() }
        .map(|error| error.reason.as_str())
        .unwrap_or_default();
    let message = words.message.trim();
    let said = |kind: ErrorKind, hint: &str| {
        let text = match message.is_empty() {
            true => format!("{status}: {hint}"),
            false => format!("{hint} (the server said {} {message})", status.as_u16()),
        };
        let error = Error::new(kind, text);
        match wire::retry_after(headers) {
            Some(pause) if kind.is_transient() => error.with_retry_after(pause),
            _ => error,
        }
    };
    let payer = "the bucket's owner wants requesters to pay; set `userProject` to the project that \
                 is to pay";
    match reason {
        "rateLimitExceeded" | "userRateLimitExceeded" | "quotaExceeded" => {
            return said(ErrorKind::Throttled, "the server asks for a pause");
        }
        "userProjectMissing" | "requesterPays" => return said(ErrorKind::Denied, payer),
        "userProjectAccountProblem" | "userProjectInvalid" | "userProjectInconsistent" => {
            return said(
                ErrorKind::Denied,
                "the project of `userProject` cannot pay; check it",
            );
        }
        _ => {}
    }
    match status {
        StatusCode::BAD_REQUEST if message.contains("requester pays") => {
            said(ErrorKind::Denied, payer)
        }
        StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => {
            said(ErrorKind::Denied, &denied_hint(asked, status, headers))
        }
        StatusCode::NOT_FOUND if explained && message.contains("bucket does not exist") => {
            no_bucket(asked)
        }
        StatusCode::NOT_FOUND if explained => said(ErrorKind::NotFound, "no such object"),
        StatusCode::NOT_FOUND => Error::lied(format!(
            "a 404 without Google's words; does something else answer at {}?",
            asked.endpoint
        )),
        s if s.is_redirection() => said(
            ErrorKind::Invalid,
            "the server redirects elsewhere, where the token does not belong; check the endpoint",
        ),
        StatusCode::REQUEST_TIMEOUT => said(ErrorKind::Throttled, "the server was too slow"),
        _ => wire::status_error(status, headers, message),
    }
}

/// Returns the error of a bucket that is not there.
pub(super) fn no_bucket(asked: &Asked) -> Error {
    Error::new(
        ErrorKind::Invalid,
        format!(
            "there is no bucket {} at {}; check its name and the endpoint",
            asked.bucket, asked.endpoint
        ),
    )
}

fn denied_hint(asked: &Asked, status: StatusCode, headers: &HeaderMap) -> String {
    if asked.anonymous {
        let what = "access denied to a request without a token; give credentials instead of \
                    --no-sign-request";
        return what.into();
    }
    if let Some(skew) = request::clock_skew(headers) {
        return skew;
    }
    match status {
        StatusCode::UNAUTHORIZED => {
            "the token is not valid; check the service account's key, or log in again (gcloud auth \
             application-default login)"
        }
        _ => {
            "access denied; check that the credentials may storage.objects.list and \
             storage.objects.get here (Storage Object Viewer)"
        }
    }
    .into()
}

#[cfg(test)]
mod tests {
    use super::*;

    const ASKED: Asked = Asked {
        bucket: "b",
        endpoint: "https://gcs.example",
        anonymous: false,
    };

    fn said(status: u16, reason: &str, message: &str) -> Error {
        let page = serde_json::json!({"error": {"code": status, "message": message,
            "errors": [{"reason": reason, "domain": "global"}]}});
        let status = StatusCode::from_u16(status).unwrap();
        error(&ASKED, status, &HeaderMap::new(), &page.to_string())
    }

    #[test]
    fn replies_have_their_kinds() {
        for (status, reason, message, kind) in [
            (404, "notFound", "No such object: b/o", ErrorKind::NotFound),
            (
                404,
                "notFound",
                "The specified bucket does not exist.",
                ErrorKind::Invalid,
            ),
            (401, "authError", "Invalid Credentials", ErrorKind::Denied),
            (
                403,
                "forbidden",
                "x does not have storage.objects.get",
                ErrorKind::Denied,
            ),
            (
                403,
                "userRateLimitExceeded",
                "slow down",
                ErrorKind::Throttled,
            ),
            (
                400,
                "required",
                "Bucket is a requester pays bucket but no user project provided.",
                ErrorKind::Denied,
            ),
            (400, "invalid", "Invalid argument.", ErrorKind::Invalid),
            (408, "", "", ErrorKind::Throttled),
            (
                412,
                "conditionNotMet",
                "At least one of the pre-conditions",
                ErrorKind::Changed,
            ),
            (416, "requestedRangeNotSatisfiable", "", ErrorKind::Changed),
            (429, "rateLimitExceeded", "", ErrorKind::Throttled),
            (500, "backendError", "", ErrorKind::Server),
            (503, "backendError", "", ErrorKind::Throttled),
            (307, "", "", ErrorKind::Invalid),
        ] {
            assert_eq!(
                said(status, reason, message).kind(),
                kind,
                "{status} {message}"
            );
        }
        let pays = said(400, "required", "Bucket is a requester pays bucket");
        assert!(pays.to_string().contains("userProject"), "{pays}");
    }

    #[test]
    fn only_google_s_own_words_mean_not_found() {
        for page in ["", "<html>404 page not found</html>", "Not Found", "{}"] {
            let error = error(&ASKED, StatusCode::NOT_FOUND, &HeaderMap::new(), page);
            assert_eq!(error.kind(), ErrorKind::Lied, "{page}");
        }
    }

    #[test]
    fn a_wrong_clock_is_named() {
        let mut headers = HeaderMap::new();
        headers.insert("date", "Sun, 06 Nov 1994 08:49:37 GMT".parse().unwrap());
        let error = error(&ASKED, StatusCode::UNAUTHORIZED, &headers, "");
        assert!(error.to_string().contains("06 Nov 1994"), "{error}");
    }
}
