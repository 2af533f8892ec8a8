//! Which tree, and how it is reached.

use std::path::PathBuf;

use url::Url;

use super::super::{ProxySettings, Secret, TlsSettings, Verify};

/// How a server lists a directory.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum IndexFormat {
    /// Whichever of the others the answer is.
    #[default]
    Auto,
    /// An index page; also one that no server of the known kinds writes.
    Html,
    /// nginx's or Caddy's JSON.
    Json,
    /// As WebDAV has it: replies to PROPFIND, which describe files too.
    #[cfg(feature = "webdav")]
    Webdav,
}

/// How a manifest is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ManifestFormat {
    /// A relative path a line; lines that begin with `#` are comments.
    List,
    /// The lines that `sha256sum` writes.
    Sha256sum,
}

/// Where a manifest is.
#[derive(Debug, Clone)]
pub enum ManifestPlace {
    /// On a web server.
    Url(Url),
    /// In a file of this machine.
    File(PathBuf),
}

/// A list of a tree's files.
#[derive(Debug, Clone)]
pub struct ManifestSettings {
    /// Where it is.
    pub place: ManifestPlace,
    /// How it is written.
    pub format: ManifestFormat,
    /// When files are compared with the digests in it.
    pub verify: Verify,
}

/// Who asks.
#[derive(Debug, Clone)]
pub enum HttpAuth {
    /// `Authorization: Bearer TOKEN`.
    Bearer(Secret),
    /// A user name and a password.
    Basic {
        /// The user's name.
        username: String,
        /// The password.
        password: Secret,
    },
}

/// Which tree or file, and how it is reached.
#[derive(Debug, Clone)]
pub struct HttpSettings {
    /// The URL of a directory or a file. A user name and password in it are used as credentials,
    /// and not shown. A query is kept for a single file only.
    pub url: Url,
    /// A list of the files, for servers that list no directories.
    pub manifest: Option<ManifestSettings>,
    /// How the server lists a directory.
    pub index: IndexFormat,
    /// Who asks.
    pub auth: Option<HttpAuth>,
    /// Whom to trust, and who asks.
    pub tls: TlsSettings,
    /// The way to the server. Without it, the environment says.
    pub proxy: Option<ProxySettings>,
}

impl HttpSettings {
    /// Returns settings with nothing but the URL set.
    pub fn new(url: Url) -> HttpSettings {
        HttpSettings {
            url,
            manifest: None,
            index: IndexFormat::Auto,
            auth: None,
            tls: TlsSettings::default(),
            proxy: None,
        }
    }
}
