//! From what a volume file says of a source to the source itself: a file for each kind.
//!
//! A kind that this svol was built without is still understood in a volume file, and refused here.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::config::{self, SecretRef};
use crate::source::{self, ClientCertificate, ProxySettings, Secret, Source, TlsSettings};

mod azure;
mod ftp;
mod gcs;
mod git;
mod http;
mod local;
mod s3;
mod sftp;
#[cfg(feature = "ssh")]
mod ssh;
mod webdav;

/// What a source may use of this machine.
pub(super) struct Surroundings {
    #[allow(dead_code)]
    /// The directory of the cache: sources keep what they know in one of their own inside.
    pub(super) cache: PathBuf,
}

/// Builds the source that `spec` describes. Sends no request.
pub(super) fn build(
    spec: &config::Source,
    around: &Surroundings,
) -> source::Result<Arc<dyn Source>> {
    match spec {
        config::Source::S3(s3) => s3::build(s3),
        config::Source::Gcs(gcs) => gcs::build(gcs),
        config::Source::Azure(azure) => azure::build(azure),
        config::Source::Http(http) => http::build(http),
        config::Source::Webdav(webdav) => webdav::build(webdav),
        config::Source::Git(git) => git::build(git, around),
        config::Source::Sftp(sftp) => sftp::build(sftp),
        config::Source::Ftp(ftp) => ftp::build(ftp),
        config::Source::Local(local) => local::build(local),
    }
}

/// Returns how many operations the source can do at once, where that is few.
pub(super) fn concurrency(spec: &config::Source) -> Option<usize> {
    match spec {
        config::Source::Ftp(ftp) => Some(ftp::connections(ftp)),
        _ => None,
    }
}

/// Returns what the source reads of this machine beside the files that the volume file names:
/// files and sockets, there or not.
pub(super) fn files(spec: &config::Source) -> Vec<PathBuf> {
    match spec {
        config::Source::S3(s3) => s3::files(s3),
        config::Source::Gcs(gcs) => gcs::files(gcs),
        config::Source::Azure(azure) => azure::files(azure),
        config::Source::Git(git) => git::files(git),
        config::Source::Sftp(sftp) => sftp::files(sftp),
        config::Source::Http(_)
        | config::Source::Webdav(_)
        | config::Source::Ftp(_)
        | config::Source::Local(_) => Vec::new(),
    }
}

/// Returns the directory that the source shows or reads in place, if it is on this machine.
pub(super) fn directory(spec: &config::Source) -> Option<&Path> {
    match spec {
        config::Source::Local(local) => Some(&local.path),
        config::Source::Git(git) => git.url.directory(),
        _ => None,
    }
}

/// Says that a kind was left out when svol was built.
#[allow(dead_code)]
fn left_out(kind: &str) -> source::Error {
    source::Error::new(
        source::ErrorKind::Invalid,
        format!("this svol was built without {kind} (cargo feature `{kind}`)"),
    )
}

pub(super) fn secret(reference: &SecretRef) -> Secret {
    let reference = reference.clone();
    Secret::from_fn(move || match reference.read() {
        Ok(secret) => Ok(secret.expose().to_owned()),
        Err(error) => Err(error.to_string()),
    })
}

pub(super) fn tls(section: &Option<config::Tls>) -> TlsSettings {
    let Some(tls) = section else {
        return TlsSettings::default();
    };
    TlsSettings {
        ca_bundle: tls.ca_file.clone(),
        client: tls.client.as_ref().map(|client| ClientCertificate {
            certificate: client.cert_file.clone(),
            key: client.key_file.clone(),
        }),
    }
}

pub(super) fn proxy(section: &Option<config::Proxy>) -> Option<ProxySettings> {
    let proxy = section.as_ref()?;
    Some(ProxySettings {
        url: proxy.url.as_url().clone(),
        auth: proxy
            .auth
            .as_ref()
            .map(|auth| (auth.username.clone(), secret(&auth.password))),
    })
}

/// Returns how a server that speaks HTTP is reached: whom to trust, and by way of which proxy.
pub(super) fn transport(spec: &config::Source) -> (TlsSettings, Option<ProxySettings>) {
    match spec {
        config::Source::S3(it) => (tls(&it.tls), proxy(&it.proxy)),
        config::Source::Gcs(it) => (tls(&it.tls), proxy(&it.proxy)),
        config::Source::Azure(it) => (tls(&it.tls), proxy(&it.proxy)),
        config::Source::Http(it) => (tls(&it.tls), proxy(&it.proxy)),
        config::Source::Webdav(it) => (tls(&it.tls), proxy(&it.proxy)),
        config::Source::Git(it) => (tls(&it.tls), proxy(&it.proxy)),
        config::Source::Sftp(_) | config::Source::Ftp(_) | config::Source::Local(_) => {
            (TlsSettings::default(), None)
        }
    }
}
