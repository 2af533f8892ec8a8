//! How the servers of any kind that speaks HTTP are reached: certificates and the proxy.

use std::path::PathBuf;

use url::Url;

use super::Secret;

/// Certificates: whom to trust, and who asks. The files are read again when they change: a client
/// looks at them at most every few seconds, and at once after a failure that they may explain.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct TlsSettings {
    /// A file of PEM certificates that are trusted beside the system's.
    pub ca_bundle: Option<PathBuf>,
    /// What is shown to a server that wants to know who asks.
    pub client: Option<ClientCertificate>,
}

/// A certificate of the client's own.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClientCertificate {
    /// A PEM file: the certificate, and those between it and its authority.
    pub certificate: PathBuf,
    /// A PEM file: its private key, without a passphrase. May be the same file.
    pub key: PathBuf,
}

/// A proxy through which all hosts are reached but this machine and those that `NO_PROXY` names.
/// Without one, `HTTPS_PROXY`, `HTTP_PROXY` and `ALL_PROXY` say.
#[derive(Debug, Clone)]
pub struct ProxySettings {
    /// The proxy's URL: http, https, socks5 or socks5h (which resolves names at the proxy).
    pub url: Url,
    /// A user name and a password, where the proxy wants them.
    pub auth: Option<(String, Secret)>,
}
