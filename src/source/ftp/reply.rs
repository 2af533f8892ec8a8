//! A server's replies, and what they mean to a caller.

use suppaftp::types::Response;
use suppaftp::{FtpError, ReplyTooLarge};

use crate::source::{Error, ErrorKind};

/// A reply that was read to its end.
#[derive(Debug, Clone)]
pub(super) struct Reply {
    /// The three digits.
    pub(super) code: u32,
    /// All of it, the digits included.
    pub(super) text: String,
}

/// How much of a reply's text goes into a message, in characters: its first words say why.
const WORDS: usize = 300;

impl From<Response> for Reply {
    fn from(response: Response) -> Reply {
        // The status does not know all codes; the text has them.
        let digits = response.body.get(..3).unwrap_or_default();
        let code = std::str::from_utf8(digits)
            .ok()
            .and_then(|d| d.parse().ok());
        Reply {
            code: code.unwrap_or_else(|| response.status.code()),
            text: String::from_utf8_lossy(&response.body)
                .trim_end()
                .to_owned(),
        }
    }
}

impl Reply {
    /// Returns whether it says yes.
    pub(super) fn is_ok(&self) -> bool {
        (200..300).contains(&self.code)
    }

    /// Returns whether the server does not know the command, or not with these words.
    pub(super) fn is_unknown_command(&self) -> bool {
        matches!(self.code, 500..=504 | 522)
    }

    /// Returns whether it speaks of the path: that it is not there, or may not be had.
    pub(super) fn is_about_path(&self) -> bool {
        matches!(self.code, 450 | 550 | 553)
    }

    /// Returns what follows the code in its first line.
    pub(super) fn words(&self) -> &str {
        let line = self.text.lines().next().unwrap_or_default();
        line.get(4..).unwrap_or_default().trim()
    }

    /// Returns the error for a reply that is not what was hoped for, as the answer to `what`.
    pub(super) fn error(&self, what: &str) -> Error {
        let kind = match self.code {
            _ if self.is_too_many() => ErrorKind::Throttled,
            421 => ErrorKind::Unreachable,
            425 | 426 => ErrorKind::Interrupted,
            430 | 530 | 532 | 550 | 553 => ErrorKind::Denied,
            400..500 => ErrorKind::Server,
            500..600 => ErrorKind::Invalid,
            _ => ErrorKind::Lied,
        };
        let hint = self.hint();
        let text: String = self.text.chars().take(WORDS).collect();
        Error::new(
            kind,
            format!("the server answered {what} with: {text}{hint}"),
        )
    }

    /// Returns whether the server refuses one more connection, not us.
    fn is_too_many(&self) -> bool {
        let text = self.text.to_ascii_lowercase();
        let says = |words: &[&str]| words.iter().any(|w| text.contains(w));
        matches!(self.code, 421 | 430 | 530)
            && says(&["too many", "maximum", "limit"])
            && says(&["connect", "user", "client", "session", "login"])
    }

    fn hint(&self) -> &'static str {
        let text = self.text.to_ascii_lowercase();
        let speaks_of_tls = ["encrypt", "ssl", "tls"].iter().any(|w| text.contains(w));
        match self.code {
            522 if text.contains("reuse") => {
                " (it wants the TLS session of the control connection on data connections)"
            }
            421 | 503 | 521 | 522 | 530 | 533..=536 | 550 if speaks_of_tls => {
                " (it wants TLS: set `encryption: explicit`, or `implicit` for a port of its own)"
            }
            _ => "",
        }
    }
}

/// Returns the error for a connection that broke, or on which no sense can be made of the server's
/// words. It is not used again.
pub(super) fn broken(error: FtpError, what: &str) -> Error {
    match error {
        FtpError::ConnectionError(io) => {
            let is_long = io
                .get_ref()
                .is_some_and(|inner| inner.is::<ReplyTooLarge>());
            let kind = match io.kind() {
                _ if is_long => ErrorKind::Lied,
                std::io::ErrorKind::TimedOut => ErrorKind::Timeout,
                std::io::ErrorKind::InvalidInput => ErrorKind::Invalid,
                _ => ErrorKind::Interrupted,
            };
            Error::new(kind, format!("{what}: {io}"))
        }
        FtpError::SecureError(why) => tls(&why).context(what),
        FtpError::UnexpectedResponse(response) => Reply::from(response).error(what),
        other => Error::lied(format!("{what}: {other}")),
    }
}

/// Returns the error for a TLS handshake that failed. The library hands on its words only.
fn tls(why: &str) -> Error {
    let of_peer = ["certificate", "fatal alert", "corrupt message", "peer "];
    if of_peer.iter().any(|words| why.contains(words)) {
        let hint = "check the server's certificate, or name its authority as CA bundle";
        return Error::new(ErrorKind::Invalid, format!("{why} ({hint})"));
    }
    Error::new(ErrorKind::Interrupted, why)
}

#[cfg(test)]
mod tests {
    use super::*;
    use suppaftp::Status;

    fn reply(text: &str) -> Reply {
        Reply::from(Response::new(Status::Unknown, text.into()))
    }

    #[test]
    fn codes_mean_what_a_caller_does() {
        for (text, kind) in [
            (
                "421 There are too many connected users, please try later.",
                ErrorKind::Throttled,
            ),
            (
                "530 Sorry, the maximum number of clients (5) are already connected",
                ErrorKind::Throttled,
            ),
            ("421 Timeout.", ErrorKind::Unreachable),
            ("530 Login incorrect.", ErrorKind::Denied),
            ("550 Failed to open file.", ErrorKind::Denied),
            ("425 Security: Bad IP connecting.", ErrorKind::Interrupted),
            (
                "426 Failure writing network stream.",
                ErrorKind::Interrupted,
            ),
            ("451 Local error", ErrorKind::Server),
            ("502 Command not implemented", ErrorKind::Invalid),
            ("226 Done", ErrorKind::Lied),
            ("999", ErrorKind::Lied),
            ("", ErrorKind::Lied),
        ] {
            assert_eq!(reply(text).error("X").kind(), kind, "{text}");
        }
        let error = reply("530 Non-anonymous sessions must use encryption.").error("USER");
        assert!(
            error.to_string().contains("encryption: explicit"),
            "{error}"
        );
        let hostile = format!("550 \x1b[2J{}", "x".repeat(100_000));
        let error = reply(&hostile).error("X").to_string();
        assert!(error.len() < 500 && !error.contains('\x1b'), "{error}");
    }
}
