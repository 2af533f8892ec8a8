//! What the user asks for, as data: the volume document and the values in it.
//!
//! This module parses and checks; it opens no source and keeps no state. Everything below the
//! application gets these types already validated: a [`Layer`] has exactly one source, a graft
//! path without `..`, globs that compile, and URLs without credentials.

mod decode;
pub mod error;
pub mod host;
pub mod load;
pub mod names;
mod node;
pub mod note;
mod on_change;
pub(crate) mod original;
pub mod secret;
pub mod source;
pub mod source_arg;
pub mod units;
mod validate;
pub mod volume;

pub use error::{ConfigError, Place, Problem};
pub use host::{ContainerName, GitRef, GitUrl, HostName, RemotePath, UserName};
pub use load::Loaded;
pub use names::{BucketName, GlobPattern, GraftPath, HttpUrl, Label, NameError};
pub use note::{Note, NoteKind};
pub use on_change::{OnChange, Webhook};
pub use secret::{Secret, SecretError, SecretRef};
pub use source::{
    AzureClientSecret, AzureCredentials, AzureSource, BasicAuth, BearerAuth, ClientCertificate,
    FtpEncryption, FtpSource, GcsSource, GitSource, HttpAuth, HttpSource, IndexFormat, LocalSource,
    Manifest, ManifestFormat, ManifestLocation, Proxy, S3Credentials, S3Source, SftpSource, Source,
    Ssh, Tls, Verify, WebdavSource,
};
pub use units::{ByteRate, ByteSize, CacheSize, HumanDuration, Refresh, Umask};
pub use volume::{Layer, Volume};

#[cfg(test)]
mod schema_tests;
#[cfg(test)]
mod tests;
