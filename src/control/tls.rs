//! TLS at the control address: who we are, and who may ask.
//!
//! The files are read for each connection, which are few, so what is rotated holds from the next
//! connection on. While they make no sense (one may be half written, or not yet belong to the other),
//! what was there before stays.

use std::fmt::Display;
use std::io::{self, Read};
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;
use rustls::{RootCertStore, ServerConfig};
use tokio::net::TcpStream;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;
use tracing::{info, warn};

use crate::cli::TlsFiles;

/// The largest file that is read, in bytes: a system's own bundle of authorities has 220 KiB.
const MAX_PEM: u64 = 4 << 20;

/// What connections are secured with.
#[derive(Debug)]
pub struct Tls {
    files: TlsFiles,
    /// A leaf.
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    made_of: Materials,
    config: Arc<ServerConfig>,
}

impl Tls {
    /// Reads the files, which must be there and belong together. Blocks on their disk.
    pub fn open(files: TlsFiles) -> io::Result<Tls> {
        crate::tls::install();
        let made_of = Materials::read(&files)?;
        let config = made_of.build(&files)?;
        let state = Mutex::new(State { made_of, config });
        Ok(Tls { files, state })
    }

    /// Secures a connection: shows our certificate, and sees theirs where that is asked for.
    pub(super) async fn accept(
        self: Arc<Self>,
        stream: TcpStream,
    ) -> io::Result<TlsStream<TcpStream>> {
        let reading = tokio::task::spawn_blocking(move || self.current());
        let config = reading.await.map_err(io::Error::other)?;
        TlsAcceptor::from(config).accept(stream).await
    }

    /// Returns what the files hold now, if it makes sense.
    fn current(&self) -> Arc<ServerConfig> {
        let now = Materials::read(&self.files);
        let mut state = self.state();
        match now {
            Ok(now) if now == state.made_of => {}
            Ok(now) => match now.build(&self.files) {
                Ok(config) => {
                    info!("the control address has new certificates");
                    *state = State {
                        made_of: now,
                        config,
                    };
                }
                Err(error) => warn!(%error, "new certificates cannot be used; those before stay"),
            },
            Err(error) => warn!(%error, "certificates cannot be read; those before stay"),
        }
        state.config.clone()
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What the files hold.
#[derive(PartialEq, Eq)]
struct Materials {
    cert: Vec<u8>,
    key: Vec<u8>,
    client_ca: Option<Vec<u8>>,
}

impl std::fmt::Debug for Materials {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("[certificates and key]")
    }
}

impl Materials {
    fn read(files: &TlsFiles) -> io::Result<Materials> {
        Ok(Materials {
            cert: read(&files.cert)?,
            key: read(&files.key)?,
            client_ca: files.client_ca.as_deref().map(read).transpose()?,
        })
    }

    fn build(&self, files: &TlsFiles) -> io::Result<Arc<ServerConfig>> {
        let chain = certificates(&self.cert, &files.cert)?;
        // The error's words never repeat the key.
        let key = PrivateKeyDer::from_pem_slice(&self.key).map_err(|e| {
            wrong(
                &files.key,
                format!("no private key in PEM without a passphrase ({e})"),
            )
        })?;
        let builder = match (&self.client_ca, &files.client_ca) {
            (Some(pem), Some(file)) => {
                let mut roots = RootCertStore::empty();
                for authority in certificates(pem, file)? {
                    roots.add(authority).map_err(|e| wrong(file, e))?;
                }
                let verifier = WebPkiClientVerifier::builder(Arc::new(roots)).build();
                let verifier = verifier.map_err(|e| wrong(file, e))?;
                ServerConfig::builder().with_client_cert_verifier(verifier)
            }
            _ => ServerConfig::builder().with_no_client_auth(),
        };
        let mut config = builder
            .with_single_cert(chain, key)
            .map_err(|e| wrong(&files.cert, format!("cannot be used with its key: {e}")))?;
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        Ok(Arc::new(config))
    }
}

fn certificates(pem: &[u8], file: &Path) -> io::Result<Vec<CertificateDer<'static>>> {
    let all: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem).collect();
    match all {
        Ok(all) if all.is_empty() => Err(wrong(file, "no certificate in PEM")),
        Ok(all) => Ok(all),
        Err(error) => Err(wrong(file, error)),
    }
}

fn read(file: &Path) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    std::fs::File::open(file)
        .and_then(|opened| opened.take(MAX_PEM + 1).read_to_end(&mut bytes))
        .map_err(|error| io::Error::new(error.kind(), format!("{}: {error}", file.display())))?;
    match bytes.len() as u64 > MAX_PEM {
        true => Err(wrong(file, "too large for certificates (4 MiB at most)")),
        false => Ok(bytes),
    }
}

fn wrong(file: &Path, why: impl Display) -> io::Error {
    let what = format!("{}: {why}", file.display());
    io::Error::new(io::ErrorKind::InvalidData, what)
}
