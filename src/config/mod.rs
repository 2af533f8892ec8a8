//! What the user asks for, as data: the volume document and the values in it.
//!
//! This module parses and checks; it opens no source and keeps no state. Everything below the
//! application gets these types already validated: a [`Layer`] has exactly one source, a graft
//! path without `..`, globs that compile, and URLs without credentials.

pub mod filter;
pub mod names;
pub mod secret;
pub mod source;
pub mod units;
pub mod volume;

pub use filter::PathFilter;
pub use names::{BucketName, GlobPattern, GraftPath, HttpUrl, Label};
pub use secret::{Secret, SecretError, SecretRef};
pub use source::{
    BasicAuth, BearerAuth, HttpAuth, HttpSource, IndexFormat, LocalSource, Manifest,
    ManifestFormat, ManifestLocation, S3Credentials, S3Source, Source,
};
pub use units::{ByteRate, ByteSize, CacheSize, HumanDuration, Refresh, Umask};
pub use volume::{Layer, MountSpec, Volume};
