//! What a volume file says of each kind of source. A new kind is a struct here, a variant of
//! [`Source`], a field of `LayerFields` and a scheme of the command line.

use std::fmt;
use std::path::{Path, PathBuf};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::names::{BucketName, HttpUrl};
use super::secret::SecretRef;

/// One remote place.
#[derive(Debug, Clone, PartialEq)]
pub enum Source {
    /// A bucket, or a prefix of it.
    S3(S3Source),
    /// A file or a tree on a web server.
    Http(HttpSource),
    /// A directory of this machine.
    Local(LocalSource),
}

impl Source {
    /// Returns the name of the kind, as the volume file writes it.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::S3(_) => "s3",
            Self::Http(_) => "http",
            Self::Local(_) => "local",
        }
    }

    /// Makes relative file names absolute, from `base`.
    pub(crate) fn resolve_paths(&mut self, base: &Path) {
        match self {
            Self::S3(s3) => {
                if let Some(keys) = &mut s3.credentials {
                    keys.access_key_id.resolve_paths(base);
                    keys.secret_access_key.resolve_paths(base);
                    if let Some(token) = &mut keys.session_token {
                        token.resolve_paths(base);
                    }
                }
            }
            Self::Http(http) => {
                if let Some(Manifest {
                    location: ManifestLocation::File(path),
                    ..
                }) = &mut http.manifest
                {
                    *path = base.join(&*path);
                }
                match &mut http.auth {
                    Some(HttpAuth::Bearer(bearer)) => bearer.token.resolve_paths(base),
                    Some(HttpAuth::Basic(basic)) => basic.password.resolve_paths(base),
                    None => {}
                }
            }
            // Without `.`: the path is the source's identity.
            Self::Local(local) => local.path = base.join(&local.path).components().collect(),
        }
    }
}

/// Writes the source as a URL, without credentials and without a query.
impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::S3(s3) => match s3.key_prefix() {
                "" => write!(f, "s3://{}", s3.bucket),
                prefix => write!(f, "s3://{}/{prefix}", s3.bucket),
            },
            Self::Http(http) => f.write_str(&http.url.redacted()),
            Self::Local(local) => write!(f, "file://{}", local.path.display()),
        }
    }
}

/// A bucket of Amazon S3 or of anything that speaks its protocol. What is left out comes from
/// where the AWS tools take it: environment, shared configuration files, the platform.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct S3Source {
    /// The bucket's name, or the ARN of an access point.
    pub bucket: BucketName,
    /// The part of the bucket that the layer shows: `data/v2` is the directory of that name.
    /// Without it, the whole bucket. Slashes at both ends do not matter.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub prefix: Option<String>,
    /// The bucket's region, such as `eu-central-1`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub region: Option<String>,
    /// The URL of a service other than Amazon's; `http://` is allowed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub endpoint_url: Option<HttpUrl>,
    /// `true` puts the bucket into the URL's path, `false` into its host. Without it: the path
    /// where `endpointUrl` is set, the host at Amazon.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub path_style: Option<bool>,
    /// Sends requests without a signature, for public buckets.
    #[serde(default, skip_serializing_if = "is_false")]
    pub no_sign_request: bool,
    /// The profile of the shared configuration files (`~/.aws/config`).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub profile: Option<String>,
    /// Agrees to pay for the requests to a bucket whose owner asks for it.
    #[serde(default, skip_serializing_if = "is_false")]
    pub requester_pays: bool,
    /// Static keys, by reference. Without them: the AWS tools' own chain.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub credentials: Option<S3Credentials>,
}

impl S3Source {
    /// Returns a source with nothing but its bucket set.
    pub fn new(bucket: BucketName) -> Self {
        Self {
            bucket,
            prefix: None,
            region: None,
            endpoint_url: None,
            path_style: None,
            no_sign_request: false,
            profile: None,
            requester_pays: false,
            credentials: None,
        }
    }

    /// Returns the prefix without slashes at its ends; empty for the whole bucket.
    pub fn key_prefix(&self) -> &str {
        self.prefix.as_deref().unwrap_or_default().trim_matches('/')
    }
}

/// Where the keys of an S3 account are.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct S3Credentials {
    /// The access key's id.
    pub access_key_id: SecretRef,
    /// The access key.
    pub secret_access_key: SecretRef,
    /// The token of temporary keys.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub session_token: Option<SecretRef>,
}

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
}

impl HttpSource {
    /// Returns a source with nothing but its URL set.
    pub fn new(url: HttpUrl) -> Self {
        Self {
            url,
            manifest: None,
            index: IndexFormat::Auto,
            auth: None,
        }
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

/// How a web server is told who asks.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub enum HttpAuth {
    /// `Authorization: Bearer TOKEN`.
    Bearer(BearerAuth),
    /// A user name and a password.
    Basic(BasicAuth),
}

/// A token.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct BearerAuth {
    /// Where the token is.
    pub token: SecretRef,
}

/// A user name and a password.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct BasicAuth {
    /// The user's name.
    pub username: String,
    /// Where the password is.
    pub password: SecretRef,
}

/// A directory of this machine, read in place and never cached.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct LocalSource {
    /// The directory. In a volume file, a relative path starts at that file.
    #[schemars(length(min = 1))]
    pub path: PathBuf,
}

// serde hands over a reference.
pub(crate) fn is_false(value: &bool) -> bool {
    !value
}
