//! What a volume file says of each kind of source. A new kind is a module here, a variant of
//! [`Source`], a field of `LayerFields` and a scheme of the command line.

use std::fmt;
use std::path::{Path, PathBuf};

mod azure;
mod ftp;
mod gcs;
mod git;
mod http;
mod local;
mod s3;
mod sftp;
mod ssh;
pub(super) mod transport;
mod webdav;

pub use azure::{AzureClientSecret, AzureCredentials, AzureSource};
pub use ftp::{FtpEncryption, FtpSource};
pub use gcs::GcsSource;
pub use git::GitSource;
pub use http::{HttpSource, IndexFormat, Manifest, ManifestFormat, ManifestLocation, Verify};
pub use local::LocalSource;
pub use s3::{S3Credentials, S3Source};
pub use sftp::SftpSource;
pub use ssh::Ssh;
pub use transport::{BasicAuth, BearerAuth, ClientCertificate, HttpAuth, Proxy, Tls};
pub use webdav::WebdavSource;

/// One remote place.
#[derive(Debug, Clone, PartialEq)]
pub enum Source {
    /// A bucket, or a prefix of it.
    S3(S3Source),
    /// A bucket of Google Cloud Storage, or a prefix of it.
    Gcs(GcsSource),
    /// A container of Azure Blob Storage, or a prefix of it.
    Azure(AzureSource),
    /// A file or a tree on a web server.
    Http(HttpSource),
    /// A collection of a WebDAV server.
    Webdav(WebdavSource),
    /// A branch, tag or commit of a Git repository.
    Git(GitSource),
    /// A directory of a machine that speaks SSH.
    Sftp(SftpSource),
    /// A directory of an FTP server.
    Ftp(FtpSource),
    /// A directory of this machine.
    Local(LocalSource),
}

/// Does the same with whichever kind it is.
macro_rules! any {
    ($source:expr, $it:ident => $do:expr) => {
        match $source {
            Source::S3($it) => $do,
            Source::Gcs($it) => $do,
            Source::Azure($it) => $do,
            Source::Http($it) => $do,
            Source::Webdav($it) => $do,
            Source::Git($it) => $do,
            Source::Sftp($it) => $do,
            Source::Ftp($it) => $do,
            Source::Local($it) => $do,
        }
    };
}

impl Source {
    /// Returns the name of the kind, as the volume file writes it.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::S3(_) => "s3",
            Self::Gcs(_) => "gcs",
            Self::Azure(_) => "azure",
            Self::Http(_) => "http",
            Self::Webdav(_) => "webdav",
            Self::Git(_) => "git",
            Self::Sftp(_) => "sftp",
            Self::Ftp(_) => "ftp",
            Self::Local(_) => "local",
        }
    }

    /// Makes relative file names absolute, from `base`.
    pub(crate) fn resolve_paths(&mut self, base: &Path) {
        match self {
            Self::Local(local) => local.resolve_paths(base),
            Self::Git(git) => git.resolve_paths(base),
            _ => {}
        }
        self.each_file(&mut |file| *file = base.join(&*file));
    }

    /// Calls `each` with every file of this machine that the source is told with: secrets,
    /// certificates, host keys, a manifest. Not with the directory that a local one shows.
    pub(crate) fn each_file(&mut self, each: &mut dyn FnMut(&mut PathBuf)) {
        match self {
            Self::S3(it) => it.each_file(each),
            Self::Gcs(it) => it.each_file(each),
            Self::Azure(it) => it.each_file(each),
            Self::Http(it) => it.each_file(each),
            Self::Webdav(it) => it.each_file(each),
            Self::Git(it) => it.each_file(each),
            Self::Sftp(it) => it.each_file(each),
            Self::Ftp(it) => it.each_file(each),
            Self::Local(_) => {}
        }
    }

    /// Returns what is wrong with what the fields say together.
    pub(crate) fn problems(&self) -> Problems {
        let mut found = Problems::default();
        any!(self, it => it.problems(&mut found));
        found
    }
}

/// Writes the source as a URL, without credentials and without a query.
impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        any!(self, it => it.fmt(f))
    }
}

/// What is wrong with a source, each with the way to the field from the source's section.
#[derive(Debug, Default)]
pub(crate) struct Problems(pub(crate) Vec<(Vec<&'static str>, String)>);

impl Problems {
    pub(super) fn add(&mut self, field: &[&'static str], what: impl Into<String>) {
        self.0.push((field.to_vec(), what.into()));
    }

    /// Checks what all buckets have; `credentials` is the field of those that are given.
    fn check_bucket(
        &mut self,
        prefix: Option<&str>,
        unsigned: bool,
        credentials: Option<&'static str>,
    ) {
        if let Some(field) = credentials.filter(|_| unsigned) {
            let what = "noSignRequest sends no credentials; take one of the two out";
            self.add(&[field], what);
        }
        if prefix.is_some_and(|prefix| prefix.split('/').any(|part| part == "..")) {
            let what = "`..` leads nowhere in a bucket; write the prefix out";
            self.add(&["prefix"], what);
        }
    }
}

fn write_bucket(
    f: &mut fmt::Formatter<'_>,
    scheme: &str,
    bucket: &str,
    prefix: &str,
) -> fmt::Result {
    match prefix {
        "" => write!(f, "{scheme}://{bucket}"),
        prefix => write!(f, "{scheme}://{bucket}/{prefix}"),
    }
}

// serde hands over a reference.
pub(crate) fn is_false(value: &bool) -> bool {
    !value
}
