//! What an S3 server means when it says no, in words that say what to do.

use reqwest::StatusCode;
use reqwest::header::HeaderMap;
use serde::Deserialize;

use super::super::wire;
use super::super::{Error, ErrorKind};

/// What the words of an error need to know of whom was asked.
pub(super) struct Asked<'a> {
    pub(super) bucket: &'a str,
    pub(super) endpoint: &'a str,
    pub(super) region: &'a str,
    pub(super) anonymous: bool,
    /// Whether a reply has a body to explain itself: HEAD's have not.
    pub(super) explains: bool,
}

/// S3's error document.
#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
struct Words {
    code: String,
    message: String,
    region: Option<String>,
    endpoint: Option<String>,
}

/// Returns the error that a reply other than 200 and 206 stands for.
pub(super) fn error(asked: &Asked, status: StatusCode, headers: &HeaderMap, page: &str) -> Error {
    let words = match page.contains("<Error") {
        true => quick_xml::de::from_str::<Words>(page).unwrap_or_default(),
        false => Words::default(),
    };
    let bucket = asked.bucket;
    let said = |kind, hint: &str| {
        let message = match words.message.is_empty() {
            true => format!("{status}: {hint}"),
            false => format!("{hint} (the server said {}: {})", words.code, words.message),
        };
        let error = Error::new(kind, message);
        match wire::retry_after(headers) {
            Some(pause) if kind.is_transient() => error.with_retry_after(pause),
            _ => error,
        }
    };
    let denied = |hint: &str| said(ErrorKind::Denied, hint);
    match words.code.as_str() {
        "NoSuchKey" | "NoSuchVersion" => said(ErrorKind::NotFound, "no such object"),
        "NoSuchBucket" => said(
            ErrorKind::Invalid,
            &format!(
                "there is no bucket {bucket} at {}; check its name and the endpoint",
                asked.endpoint
            ),
        ),
        "InvalidObjectState" => said(
            ErrorKind::NotNow,
            "the object is archived; restore it first (aws s3api restore-object), then read it",
        ),
        "PreconditionFailed" | "InvalidRange" => said(
            ErrorKind::Changed,
            "the object is no longer the version that was listed",
        ),
        "InvalidAccessKeyId" => denied("the access key id is unknown here; check the key"),
        "SignatureDoesNotMatch" => {
            denied("the secret access key does not belong to the access key id; check both")
        }
        "ExpiredToken" | "InvalidToken" | "TokenRefreshRequired" => {
            denied("the session token has expired or is not valid; renew the credentials")
        }
        "RequestTimeTooSkewed" => {
            let date = wire::text(headers, reqwest::header::DATE).unwrap_or("unknown");
            denied(&format!(
                "this machine's clock differs too much from the server's ({date}); set the clock"
            ))
        }
        "AccessDenied" | "AllAccessDisabled" | "AccountProblem" | "InvalidPayer" => {
            denied(denied_hint(asked))
        }
        "SlowDown"
        | "Throttling"
        | "ThrottlingException"
        | "TooManyRequests"
        | "RequestLimitExceeded"
        | "ServiceUnavailable"
        | "Busy" => said(ErrorKind::Throttled, "the server asks for a pause"),
        "InternalError" | "RequestTimeout" | "OperationAborted" => {
            said(ErrorKind::Server, "the server failed")
        }
        "PermanentRedirect"
        | "TemporaryRedirect"
        | "AuthorizationHeaderMalformed"
        | "IllegalLocationConstraintException" => elsewhere(asked, &words, headers, &said),
        code => match status {
            s if s.is_redirection() => elsewhere(asked, &words, headers, &said),
            StatusCode::BAD_REQUEST if moved_to(&words, headers, asked).is_some() => {
                elsewhere(asked, &words, headers, &said)
            }
            StatusCode::FORBIDDEN | StatusCode::UNAUTHORIZED => denied(denied_hint(asked)),
            StatusCode::PROXY_AUTHENTICATION_REQUIRED => {
                denied("the proxy does not accept the user name and password, or wants some")
            }
            StatusCode::NOT_FOUND if asked.explains => Error::lied(format!(
                "a 404 without S3's words ({}); does something else answer at {}?",
                if code.is_empty() { "no code" } else { code },
                asked.endpoint
            )),
            _ => wire::status_error(status, headers, &format!("{code} {}", words.message)),
        },
    }
}

fn denied_hint(asked: &Asked) -> &'static str {
    if asked.anonymous {
        "access denied to an unsigned request; give credentials instead of --no-sign-request"
    } else {
        "access denied; check that the credentials may s3:ListBucket and s3:GetObject here"
    }
}

fn moved_to(words: &Words, headers: &HeaderMap, asked: &Asked) -> Option<String> {
    let header = headers
        .get("x-amz-bucket-region")
        .and_then(|v| v.to_str().ok());
    let region = words.region.as_deref().or(header)?;
    (region != asked.region).then(|| region.to_owned())
}

fn elsewhere(
    asked: &Asked,
    words: &Words,
    headers: &HeaderMap,
    said: &dyn Fn(ErrorKind, &str) -> Error,
) -> Error {
    let bucket = asked.bucket;
    let hint = match (moved_to(words, headers, asked), &words.endpoint) {
        (Some(region), _) => format!(
            "the bucket {bucket} is in the region {region}, not {}; set AWS_REGION={region}, or \
             the layer's region",
            asked.region
        ),
        (None, Some(endpoint)) => {
            format!("the bucket {bucket} is served at {endpoint}; set the endpoint or the region")
        }
        (None, None) => format!(
            "the bucket {bucket} is not in the region {}; set its region",
            asked.region
        ),
    };
    said(ErrorKind::Invalid, &hint)
}

#[cfg(test)]
mod tests {
    use super::*;

    const ASKED: Asked = Asked {
        bucket: "b",
        endpoint: "https://s3.example",
        region: "us-east-1",
        anonymous: false,
        explains: true,
    };

    fn said(status: u16, code: &str, more: &str) -> Error {
        let page = format!(
            "<?xml version=\"1.0\"?><Error><Code>{code}</Code><Message>m</Message>{more}</Error>"
        );
        let status = StatusCode::from_u16(status).unwrap();
        error(&ASKED, status, &HeaderMap::new(), &page)
    }

    #[test]
    fn codes_have_their_kinds() {
        for (status, code, kind) in [
            (404, "NoSuchKey", ErrorKind::NotFound),
            (404, "NoSuchBucket", ErrorKind::Invalid),
            (403, "InvalidObjectState", ErrorKind::NotNow),
            (403, "AccessDenied", ErrorKind::Denied),
            (403, "RequestTimeTooSkewed", ErrorKind::Denied),
            (400, "ExpiredToken", ErrorKind::Denied),
            (412, "PreconditionFailed", ErrorKind::Changed),
            (416, "InvalidRange", ErrorKind::Changed),
            (503, "SlowDown", ErrorKind::Throttled),
            (500, "InternalError", ErrorKind::Server),
            (500, "SomethingNew", ErrorKind::Server),
            (301, "PermanentRedirect", ErrorKind::Invalid),
            (404, "SomethingNew", ErrorKind::Lied),
        ] {
            assert_eq!(said(status, code, "").kind(), kind, "{code}");
        }
    }

    #[test]
    fn a_redirect_names_the_region() {
        let error = said(
            400,
            "AuthorizationHeaderMalformed",
            "<Region>eu-west-1</Region>",
        );
        assert!(
            error.to_string().contains("AWS_REGION=eu-west-1"),
            "{error}"
        );
        let mut headers = HeaderMap::new();
        headers.insert("x-amz-bucket-region", "eu-west-1".parse().unwrap());
        let head = super::error(&ASKED, StatusCode::BAD_REQUEST, &headers, "");
        assert!(head.to_string().contains("eu-west-1"), "{head}");
    }

    #[test]
    fn only_s3_s_own_words_mean_not_found() {
        let page = "<html>404 page not found</html>";
        let error = error(&ASKED, StatusCode::NOT_FOUND, &HeaderMap::new(), page);
        assert_eq!(error.kind(), ErrorKind::Lied);
    }
}
