//! The section `sftp`.

use std::path::PathBuf;
use std::sync::Arc;

use super::secret;
use crate::config;
use crate::source::sftp::{SftpSettings, SftpSource};
use crate::source::ssh::{Env, HostKeys, Identity, KeyPlace, SshSettings, local_files};
use crate::source::{self, Source};

pub(super) fn build(sftp: &config::SftpSource) -> source::Result<Arc<dyn Source>> {
    let user = sftp.user.as_ref().map(|user| user.as_str());
    let ssh = ssh(
        sftp.host.as_str(),
        sftp.port,
        user,
        &sftp.ssh,
        &Env::of_process(),
    );
    let path = sftp.path.as_str().to_owned();
    Ok(Arc::new(SftpSource::new(SftpSettings { ssh, path })?))
}

pub(super) fn files(_: &config::SftpSource) -> Vec<PathBuf> {
    local_files(&Env::of_process())
}

/// Returns what a section says of an SSH server, with what OpenSSH would do where it says nothing.
pub(super) fn ssh(
    host: &str,
    port: Option<u16>,
    user: Option<&str>,
    ssh: &config::Ssh,
    env: &Env,
) -> SshSettings {
    let mut settings = SshSettings::new(host, env);
    if let Some(port) = port {
        settings.port = port;
    }
    if let Some(user) = user {
        settings.user = user.to_owned();
    }
    if let Some(file) = &ssh.known_hosts {
        settings.host_keys = HostKeys::Known(vec![file.clone()]);
    }
    if !ssh.host_key_fingerprints.is_empty() {
        settings.host_keys = HostKeys::Pinned(ssh.host_key_fingerprints.clone());
    }
    let is_given = ssh.private_key.is_some() || ssh.password.is_some();
    if is_given {
        settings.identities = Vec::new();
    }
    if let Some(key) = &ssh.private_key {
        settings.identities.push(Identity {
            key: KeyPlace::Given(secret(key)),
            passphrase: ssh.passphrase.as_ref().map(secret),
        });
    }
    if !ssh.agent.unwrap_or(!is_given) {
        settings.agent = None;
    }
    settings.password = ssh.password.as_ref().map(secret);
    settings
}
