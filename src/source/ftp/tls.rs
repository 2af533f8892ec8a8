//! What is trusted, and the TLS sessions of a control connection and its data connections.

use std::path::Path;
use std::sync::Arc;

use rustls::ClientConfig;
use rustls::client::Resumption;
use rustls::crypto::ring::default_provider;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls_platform_verifier::Verifier;
use tokio_rustls::TlsConnector;

use super::{ClientCertificate, FtpSettings};
use crate::source::{Error, ErrorKind, Result};

/// How many sessions a control connection keeps: each data connection uses one up and gets another.
const SESSIONS: usize = 16;

/// Returns what makes the TLS connections of one control connection. These share their sessions, with
/// no others: many servers take a data connection only if it resumes its control connection's
/// session, as proof that it is ours, and vsftpd's processes know only their own.
pub(super) fn connector(config: &ClientConfig) -> TlsConnector {
    let mut config = config.clone();
    config.resumption = Resumption::in_memory_sessions(SESSIONS);
    TlsConnector::from(Arc::new(config))
}

/// Returns what is trusted, and who asks.
pub(super) fn config(settings: &FtpSettings) -> Result<ClientConfig> {
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
    let config = match &settings.client_certificate {
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
