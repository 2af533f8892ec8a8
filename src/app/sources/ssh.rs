//! What the sections `sftp` and `git` say of an SSH server.

use std::path::PathBuf;

use super::secret;
use crate::config;
use crate::source::ssh::{Env, HostKeys, Identity, KeyPlace, SshSettings, local_files};

/// Returns the files of this machine that a connection may use beside those that its section names.
pub(super) fn files(ssh: &config::Ssh) -> Vec<PathBuf> {
    let mut env = Env::of_process();
    if !asks_agent(ssh) {
        env.agent = None;
    }
    // Where a key is given, nothing of the user's is read but what says who the server is.
    match is_given(ssh) {
        true => env.known_hosts().into_iter().chain(env.agent).collect(),
        false => local_files(&env),
    }
}

fn is_given(ssh: &config::Ssh) -> bool {
    ssh.private_key.is_some() || ssh.password.is_some()
}

fn asks_agent(ssh: &config::Ssh) -> bool {
    ssh.agent.unwrap_or(!is_given(ssh))
}

/// Returns what a section says of an SSH server, with what OpenSSH would do where it says nothing.
pub(super) fn settings(
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
    if is_given(ssh) {
        settings.identities = Vec::new();
    }
    if let Some(key) = &ssh.private_key {
        settings.identities.push(Identity {
            key: KeyPlace::Given(secret(key)),
            passphrase: ssh.passphrase.as_ref().map(secret),
        });
    }
    if !asks_agent(ssh) {
        settings.agent = None;
    }
    settings.password = ssh.password.as_ref().map(secret);
    settings
}
