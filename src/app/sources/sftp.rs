//! The section `sftp`.

use std::path::PathBuf;
use std::sync::Arc;

use crate::config;
use crate::source::{self, Source};

#[cfg(not(feature = "sftp"))]
pub(super) fn build(_: &config::SftpSource) -> source::Result<Arc<dyn Source>> {
    Err(super::left_out("sftp"))
}

#[cfg(not(feature = "sftp"))]
pub(super) fn files(_: &config::SftpSource) -> Vec<PathBuf> {
    Vec::new()
}

#[cfg(feature = "sftp")]
pub(super) fn build(sftp: &config::SftpSource) -> source::Result<Arc<dyn Source>> {
    use crate::source::sftp::{SftpSettings, SftpSource};
    use crate::source::ssh::Env;

    let user = sftp.user.as_ref().map(|user| user.as_str());
    let env = Env::of_process();
    let ssh = super::ssh::settings(sftp.host.as_str(), sftp.port, user, &sftp.ssh, &env);
    let path = sftp.path.as_str().to_owned();
    Ok(Arc::new(SftpSource::new(SftpSettings { ssh, path })?))
}

#[cfg(feature = "sftp")]
pub(super) fn files(sftp: &config::SftpSource) -> Vec<PathBuf> {
    super::ssh::files(&sftp.ssh)
}
