//! What the user asks for, as data: the volume document and the values in it.
//!
//! This module parses and checks; it opens no source and keeps no state. Everything below the
//! application gets these types already validated: a [`Layer`] has exactly one source, a graft
//! path without `..`, globs that compile, and URLs without credentials.

mod decode;
pub mod error;
pub mod names;
mod node;
pub mod secret;
pub mod source;
pub mod source_arg;
pub mod units;
mod validate;
pub mod volume;

pub use error::{ConfigError, Place, Problem};
pub use names::{BucketName, GlobPattern, GraftPath, HttpUrl, Label, NameError};
pub use secret::{Secret, SecretError, SecretRef};
pub use source::{
    BasicAuth, BearerAuth, HttpAuth, HttpSource, IndexFormat, LocalSource, Manifest,
    ManifestFormat, ManifestLocation, S3Credentials, S3Source, Source,
};
pub use units::{ByteRate, ByteSize, CacheSize, HumanDuration, Refresh, Umask};
pub use volume::{Layer, Volume};

#[cfg(test)]
mod schema_tests;
#[cfg(test)]
mod tests;
