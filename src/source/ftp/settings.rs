//! Which tree is meant, how it is reached, and what a connection is made with.

use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use super::tls::Certificates;
use crate::source::confidence::Confidences;
use crate::source::{Error, ErrorKind, Result, Secret, TlsSettings};

/// How many connections a source makes unless told: many servers permit each client five or so.
pub const CONNECTIONS: usize = 4;

/// Whoever logs in without a name.
pub const ANONYMOUS: &str = "anonymous";

/// The password of those, by custom an address.
const ANONYMOUS_PASSWORD: &str = "svol@";

/// Whether a connection is encrypted.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum FtpTls {
    /// Not at all.
    #[default]
    None,
    /// From `AUTH TLS` on, before the login; without it nothing is sent. Port 21.
    Explicit,
    /// From its first byte. Port 990.
    Implicit,
}

impl FtpTls {
    /// Returns the port that is meant where none is named.
    pub fn port(self) -> u16 {
        match self {
            FtpTls::None | FtpTls::Explicit => 21,
            FtpTls::Implicit => 990,
        }
    }
}

/// Which tree, and how it is reached.
#[derive(Debug, Clone)]
pub struct FtpSettings {
    /// The server's name or address.
    pub host: String,
    /// Its port; [`FtpTls::port`] if not set.
    pub port: Option<u16>,
    /// The tree's directory: from the server's root if it begins with a slash, else from where the
    /// login leads. Empty is that directory.
    pub path: String,
    /// Whether connections are encrypted, those for data too.
    pub tls: FtpTls,
    /// Who asks; [`ANONYMOUS`] if not set.
    pub user: Option<String>,
    /// The password.
    pub password: Option<Secret>,
    /// Whether a password may be sent without TLS, for anyone on the way to read.
    pub clear_password: bool,
    /// Whom to trust, and who asks, where connections are encrypted.
    pub certificates: TlsSettings,
    /// How many connections there may be at once; at least one. Where the server has no room for
    /// that many, there are fewer.
    pub connections: usize,
}

impl FtpSettings {
    /// Returns settings with nothing but the host set.
    pub fn new(host: impl Into<String>) -> FtpSettings {
        FtpSettings {
            host: host.into(),
            port: None,
            path: String::new(),
            tls: FtpTls::None,
            user: None,
            password: None,
            clear_password: false,
            certificates: TlsSettings::default(),
            connections: CONNECTIONS,
        }
    }
}

/// What a connection is made with.
pub(super) struct Server {
    pub(super) host: String,
    pub(super) port: u16,
    pub(super) tls: FtpTls,
    pub(super) certificates: Arc<Certificates>,
    pub(super) user: String,
    pub(super) secret: Option<Secret>,
    pub(super) confidences: Confidences,
    /// Whether data connections begin with PASV, since EPSV did not do.
    pub(super) prefers_pasv: Arc<AtomicBool>,
}

impl Server {
    /// Returns the password as it is now.
    pub(super) fn password(&self) -> Result<String> {
        let Some(secret) = &self.secret else {
            return Ok(ANONYMOUS_PASSWORD.into());
        };
        let password = secret.read()?;
        if password.contains(['\r', '\n', '\0']) {
            let what = "the password has a line break in it, which FTP cannot send";
            return Err(Error::new(ErrorKind::Denied, what));
        }
        self.confidences.remember(password.clone());
        Ok(password)
    }
}
