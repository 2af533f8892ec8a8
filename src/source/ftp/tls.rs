//! What is trusted, and the TLS sessions of a control connection and its data connections.

use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use rustls::ClientConfig;
use rustls::client::Resumption;
use rustls::crypto::ring::default_provider;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls_platform_verifier::Verifier;
use tokio_rustls::TlsConnector;

use crate::source::{ClientCertificate, Error, ErrorKind, Result, TlsSettings};

/// How many sessions a control connection keeps: each data connection uses one up and gets another.
const SESSIONS: usize = 16;

/// What a file looked like: its time, size and inode; nothing where it cannot be told.
type Look = Option<(std::time::SystemTime, u64, u64)>;

/// What is trusted, and who asks. Files that have changed are read again for the next connection.
pub(super) struct Certificates {
    settings: TlsSettings,
    /// Held for the disk only, never across an await.
    read: Mutex<(Vec<Look>, ClientConfig)>,
}

impl Certificates {
    /// Reads the files. [`ErrorKind::Invalid`] for those that cannot be used.
    pub(super) fn new(settings: TlsSettings) -> Result<Arc<Certificates>> {
        let read = Mutex::new((looks(&settings), config(&settings)?));
        Ok(Arc::new(Certificates { settings, read }))
    }

    /// Returns what makes the TLS connections of one control connection. These share their
    /// sessions, with no others: many servers take a data connection only if it resumes its control
    /// connection's session, as proof that it is ours, and vsftpd's processes know only their own.
    pub(super) async fn connector(self: &Arc<Self>) -> Result<TlsConnector> {
        let own = self.clone();
        let config = tokio::task::spawn_blocking(move || own.current()).await;
        let ending = |_| Error::new(ErrorKind::Unreachable, "the program is ending");
        let mut config = config.map_err(ending)?;
        config.resumption = Resumption::in_memory_sessions(SESSIONS);
        Ok(TlsConnector::from(Arc::new(config)))
    }

    fn current(&self) -> ClientConfig {
        let mut read = self.read.lock().unwrap_or_else(PoisonError::into_inner);
        let looks = looks(&self.settings);
        if looks != read.0 {
            match config(&self.settings) {
                Ok(config) => *read = (looks, config),
                // Half written, perhaps: what was read before has to do.
                Err(error) => tracing::warn!(%error, "certificates for FTP are not read again"),
            }
        }
        read.1.clone()
    }
}

fn looks(settings: &TlsSettings) -> Vec<Look> {
    let client = settings
        .client
        .iter()
        .flat_map(|c| [&c.certificate, &c.key]);
    let look = |path: &PathBuf| {
        let found = std::fs::metadata(path).ok()?;
        Some((found.modified().ok()?, found.len(), found.ino()))
    };
    settings.ca_bundle.iter().chain(client).map(look).collect()
}

fn config(settings: &TlsSettings) -> Result<ClientConfig> {
    let invalid = |what: String| Error::new(ErrorKind::Invalid, what);
    let roots = match &settings.ca_bundle {
        Some(path) => certificates(path, "the CA bundle")?,
        None => Vec::new(),
    };
    let provider = Arc::new(default_provider());
    let verifier = Verifier::new_with_extra_roots(roots, provider.clone())
        .map_err(|e| invalid(format!("cannot set up TLS: {e}")))?;
    let builder = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|e| invalid(format!("cannot set up TLS: {e}")))?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(verifier));
    let config = match &settings.client {
        None => builder.with_no_client_auth(),
        Some(ClientCertificate { certificate, key }) => {
            let chain = certificates(certificate, "the client certificate")?;
            let bad = |e: &dyn std::fmt::Display| {
                invalid(format!(
                    "the client certificate's key {}: {e}",
                    key.display()
                ))
            };
            let key = PrivateKeyDer::from_pem_file(key).map_err(|e| bad(&e))?;
            builder
                .with_client_auth_cert(chain, key)
                .map_err(|e| bad(&e))?
        }
    };
    Ok(config)
}

fn certificates(path: &Path, what: &str) -> Result<Vec<CertificateDer<'static>>> {
    let bad = |why: &dyn std::fmt::Display| {
        let message = format!("{what} {}: {why}", path.display());
        Error::new(ErrorKind::Invalid, message)
    };
    let certificates: Vec<_> = CertificateDer::pem_file_iter(path)
        .map_err(|e| bad(&e))?
        .collect::<std::result::Result<_, _>>()
        .map_err(|e| bad(&e))?;
    if certificates.is_empty() {
        return Err(bad(&"holds no PEM certificate"));
    }
    Ok(certificates)
}
