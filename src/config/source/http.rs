//! The section `http`.

use std::fmt;
use std::path::PathBuf;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::Problems;
use super::transport::{self, HttpAuth, Proxy, Tls};
use crate::config::names::HttpUrl;

/// A web server's file or directory tree.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct HttpSource {
    /// The URL of a directory, or of one file, which then is alone in the layer's root. A URL
    /// that ends with `/` is a directory; of any other the server tells.
    pub url: HttpUrl,
    /// A list of the files, for servers that list no directories.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub manifest: Option<Manifest>,
    /// How the server lists a directory.
    #[serde(default, skip_serializing_if = "IndexFormat::is_auto")]
    pub index: IndexFormat,
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

impl HttpSource {
    /// Returns a source with nothing but its URL set.
    pub fn new(url: HttpUrl) -> Self {
        Self {
            url,
            manifest: None,
            index: IndexFormat::Auto,
            auth: None,
            tls: None,
            proxy: None,
        }
    }

    pub(super) fn each_file(&mut self, each: &mut dyn FnMut(&mut PathBuf)) {
        if let Some(Manifest {
            location: ManifestLocation::File(path),
            ..
        }) = &mut self.manifest
        {
            each(path);
        }
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
impl fmt::Display for HttpSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.url.redacted())
    }
}

/// How a web server lists a directory.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub enum IndexFormat {
    /// Whichever of the others the answer is.
    #[default]
    Auto,
    /// The index page of nginx, Apache, Caddy and their like.
    Html,
    /// The JSON form of nginx (`autoindex_format json`) and Caddy.
    Json,
}

impl IndexFormat {
    fn is_auto(&self) -> bool {
        *self == Self::Auto
    }
}

/// A list of a tree's files.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(try_from = "ManifestFields", into = "ManifestFields")]
pub struct Manifest {
    /// Where the list is.
    pub location: ManifestLocation,
    /// How it is written.
    pub format: ManifestFormat,
}

/// Where a manifest is.
#[derive(Debug, Clone, PartialEq)]
pub enum ManifestLocation {
    /// On a web server.
    Url(HttpUrl),
    /// In a file of this machine.
    File(PathBuf),
}

/// How a manifest is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub enum ManifestFormat {
    /// One path a line, relative to the source's URL.
    List,
    /// The lines that `sha256sum` writes. The digests are verified.
    Sha256sum,
}

/// A list of a tree's files: `url` or `file`, and its `format`.
#[derive(Clone, Serialize, Deserialize, JsonSchema)]
#[serde(rename = "Manifest", rename_all = "camelCase", deny_unknown_fields)]
#[schemars(extend("oneOf" = [{ "required": ["url"] }, { "required": ["file"] }]))]
pub(crate) struct ManifestFields {
    /// The URL of the list.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    url: Option<HttpUrl>,
    /// The path of the list on this machine.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1))]
    file: Option<PathBuf>,
    /// How the list is written.
    format: ManifestFormat,
}

impl TryFrom<ManifestFields> for Manifest {
    type Error = &'static str;

    fn try_from(fields: ManifestFields) -> Result<Self, Self::Error> {
        let location = match (fields.url, fields.file) {
            (Some(url), None) => ManifestLocation::Url(url),
            (None, Some(file)) if !file.as_os_str().is_empty() => ManifestLocation::File(file),
            (None, Some(_)) => return Err("`file` is empty; write the path of the manifest"),
            (None, None) => return Err("the manifest has no place; write `url` or `file`"),
            (Some(_), Some(_)) => {
                return Err("the manifest has two places (url and file); write exactly one");
            }
        };
        Ok(Self {
            location,
            format: fields.format,
        })
    }
}

impl From<Manifest> for ManifestFields {
    fn from(manifest: Manifest) -> Self {
        let (url, file) = match manifest.location {
            ManifestLocation::Url(url) => (Some(url), None),
            ManifestLocation::File(file) => (None, Some(file)),
        };
        Self {
            url,
            file,
            format: manifest.format,
        }
    }
}

impl JsonSchema for Manifest {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        ManifestFields::schema_name()
    }

    fn json_schema(generator: &mut schemars::SchemaGenerator) -> schemars::Schema {
        ManifestFields::json_schema(generator)
    }
}
