//! The section `ftp`.

use std::sync::Arc;

use crate::config;
use crate::source::{self, Source};

/// How many connections a source makes unless told: many servers permit each client five or so.
const CONNECTIONS: usize = 4;

/// Returns how many connections there may be: each does one thing at a time.
pub(super) fn connections(ftp: &config::FtpSource) -> usize {
    ftp.connections.map_or(CONNECTIONS, usize::from)
}

#[cfg(not(feature = "ftp"))]
pub(super) fn build(_: &config::FtpSource) -> source::Result<Arc<dyn Source>> {
    Err(super::left_out("ftp"))
}

#[cfg(feature = "ftp")]
pub(super) fn build(ftp: &config::FtpSource) -> source::Result<Arc<dyn Source>> {
    use crate::source::ftp::{FtpSettings, FtpSource, FtpTls};

    let settings = FtpSettings {
        port: ftp.port,
        // A URL's path begins where the login leads.
        path: ftp.path.as_str().trim_start_matches('/').to_owned(),
        tls: match ftp.encryption {
            config::FtpEncryption::None => FtpTls::None,
            config::FtpEncryption::Explicit => FtpTls::Explicit,
            config::FtpEncryption::Implicit => FtpTls::Implicit,
        },
        user: ftp.user.as_ref().map(|user| user.as_str().to_owned()),
        password: ftp.password.as_ref().map(super::secret),
        clear_password: ftp.clear_password,
        certificates: super::tls(&ftp.tls),
        connections: connections(ftp),
        ..FtpSettings::new(ftp.host.as_str())
    };
    Ok(Arc::new(FtpSource::new(settings)?))
}
