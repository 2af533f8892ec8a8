//! The section `webdav`.

use std::fmt;
use std::path::PathBuf;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::Problems;
use super::transport::{self, HttpAuth, Proxy, Tls};
use crate::config::names::HttpUrl;

/// A collection of a WebDAV server, such as Nextcloud's files.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct WebdavSource {
    /// The URL of the collection.
    pub url: HttpUrl,
    /// Who asks, where the server wants to know.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub auth: Option<HttpAuth>,
    /// Certificates.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tls: Option<Tls>,
    /// The way to the server.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub proxy: Option<Proxy>,
}

impl WebdavSource {
    /// Returns a source with nothing but its URL set.
    pub fn new(url: HttpUrl) -> Self {
        Self {
            url,
            auth: None,
            tls: None,
            proxy: None,
        }
    }

    pub(super) fn each_file(&mut self, each: &mut dyn FnMut(&mut PathBuf)) {
        self.auth.iter_mut().for_each(|auth| auth.each_file(each));
        transport::each_file(&mut self.tls, &mut self.proxy, each);
    }

    pub(super) fn problems(&self, found: &mut Problems) {
        if let Some(auth) = &self.auth {
            auth.problems(found);
        }
        transport::problems(&self.proxy, found);
    }
}

/// Writes the source as a URL, without its query.
impl fmt::Display for WebdavSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "dav+{}", self.url.redacted())
    }
}
