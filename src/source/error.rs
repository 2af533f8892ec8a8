//! What can go wrong at a source, as coarse as its callers act on it.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

/// The result of an operation of a source.
pub type Result<T> = std::result::Result<T, Error>;

/// What a caller must know of a failure. Each variant is acted on differently.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ErrorKind {
    /// The source clearly said that it is not there. The only kind that may become ENOENT.
    NotFound,
    /// The pinned version is gone or changed. ESTALE.
    Changed,
    /// Not authenticated or not authorised. EACCES, never retried.
    Denied,
    /// Archived or otherwise needs an action by its owner first. EACCES with words, never retried.
    NotNow,
    /// No answer by the deadline. ETIMEDOUT.
    Timeout,
    /// The connection was refused, reset, or the host is unknown; or the breaker is open.
    /// EHOSTUNREACH; retried.
    Unreachable,
    /// A body that ended early. Retried from where it ended; EIO at last.
    Interrupted,
    /// 429, 503 SlowDown: retried after a pause (see [`Error::retry_after`]). EIO at last.
    Throttled,
    /// Another 5xx. Retried; EIO at last.
    Server,
    /// A reply that contradicts itself, the request or the protocol. EIO, not retried by itself.
    Lied,
    /// The request or the configuration makes no sense here: no such bucket, a redirect to another
    /// region. EIO, never retried.
    Invalid,
}

impl ErrorKind {
    /// All kinds.
    pub const ALL: [ErrorKind; 11] = [
        ErrorKind::NotFound,
        ErrorKind::Changed,
        ErrorKind::Denied,
        ErrorKind::NotNow,
        ErrorKind::Timeout,
        ErrorKind::Unreachable,
        ErrorKind::Interrupted,
        ErrorKind::Throttled,
        ErrorKind::Server,
        ErrorKind::Lied,
        ErrorKind::Invalid,
    ];

    /// Returns whether the same request may succeed a moment later.
    pub fn is_transient(self) -> bool {
        matches!(
            self,
            ErrorKind::Timeout
                | ErrorKind::Unreachable
                | ErrorKind::Interrupted
                | ErrorKind::Throttled
                | ErrorKind::Server
        )
    }

    /// Returns whether the failure says that the source as a whole is down, not this object.
    pub fn is_outage(self) -> bool {
        matches!(self, ErrorKind::Timeout | ErrorKind::Unreachable)
    }

    /// Returns a CamelCase reason, as in a Kubernetes condition.
    pub fn reason(self) -> &'static str {
        match self {
            ErrorKind::NotFound => "NotFound",
            ErrorKind::Changed => "Changed",
            ErrorKind::Denied => "Denied",
            ErrorKind::NotNow => "NotAvailable",
            ErrorKind::Timeout => "Timeout",
            ErrorKind::Unreachable => "Unreachable",
            ErrorKind::Interrupted => "Interrupted",
            ErrorKind::Throttled => "Throttled",
            ErrorKind::Server => "ServerError",
            ErrorKind::Lied => "BadReply",
            ErrorKind::Invalid => "Invalid",
        }
    }
}

/// A failure of a source. Cheap to clone, since all waiters of one fetch get it.
///
/// The message says what was asked of whom and what came back, and never holds a secret.
#[derive(Clone)]
pub struct Error(Arc<Inner>);

/// How much of a message is kept, in characters: a server's words are in it, and it is logged, shown and
/// cloned.
const MESSAGE: usize = 1024;

/// Returns the message as one line of bounded length, without anything that a terminal obeys.
fn tidied(message: String) -> String {
    let message = match message.char_indices().nth(MESSAGE) {
        Some((end, _)) => format!("{}…", &message[..end]),
        None => message,
    };
    match message.contains(char::is_control) {
        true => message
            .chars()
            .map(|c| match c.is_control() {
                true => c.escape_default().to_string(),
                false => c.to_string(),
            })
            .collect(),
        false => message,
    }
}

struct Inner {
    kind: ErrorKind,
    message: String,
    retry_after: Option<Duration>,
}

impl Error {
    /// Returns an error of `kind` with a message for people.
    pub fn new(kind: ErrorKind, message: impl Into<String>) -> Error {
        Error(Arc::new(Inner {
            kind,
            message: tidied(message.into()),
            retry_after: None,
        }))
    }

    /// Returns an error for a reply that contradicts itself or the request.
    pub fn lied(message: impl Into<String>) -> Error {
        Error::new(ErrorKind::Lied, message)
    }

    /// Returns an error for a version that is no more.
    pub fn changed(message: impl Into<String>) -> Error {
        Error::new(ErrorKind::Changed, message)
    }

    /// Returns the error with the pause that the server asked for.
    pub fn with_retry_after(self, pause: Duration) -> Error {
        Error(Arc::new(Inner {
            kind: self.0.kind,
            message: self.0.message.clone(),
            retry_after: Some(pause),
        }))
    }

    /// Returns the error with `what` put before its message.
    pub fn context(self, what: impl fmt::Display) -> Error {
        Error(Arc::new(Inner {
            kind: self.0.kind,
            message: tidied(format!("{what}: {}", self.0.message)),
            retry_after: self.0.retry_after,
        }))
    }

    /// Returns the error with another message.
    pub(crate) fn in_other_words(self, message: String) -> Error {
        Error(Arc::new(Inner {
            kind: self.0.kind,
            message: tidied(message),
            retry_after: self.0.retry_after,
        }))
    }

    /// Returns what a caller acts on.
    pub fn kind(&self) -> ErrorKind {
        self.0.kind
    }

    /// Returns the pause that the server asked for, if it did.
    pub fn retry_after(&self) -> Option<Duration> {
        self.0.retry_after
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.message)
    }
}

impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}: {}", self.0.kind, self.0.message)
    }
}

impl std::error::Error for Error {}
