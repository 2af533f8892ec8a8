//! What the sections `sftp` and `git` say of an SSH server.

use std::path::PathBuf;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::config::secret::SecretRef;

/// How an SSH server is known, and how it is told who asks. What is left out is as OpenSSH has it:
/// the user's and the system's `known_hosts`, the agent, the keys in `~/.ssh`.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Ssh {
    /// The private key, by reference.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub private_key: Option<SecretRef>,
    /// What the private key is encrypted with, by reference.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub passphrase: Option<SecretRef>,
    /// The password, by reference.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub password: Option<SecretRef>,
    /// Whether the agent at SSH_AUTH_SOCK is asked; where nothing is said, if no key and no
    /// password is given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub agent: Option<bool>,
    /// A file of host keys, instead of the user's and the system's `known_hosts`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1))]
    pub known_hosts: Option<PathBuf>,
    /// The fingerprints of the host's keys, such as `SHA256:...`; then no `known_hosts` is read.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub host_key_fingerprints: Vec<String>,
}

impl Ssh {
    pub(super) fn each_file(&mut self, each: &mut dyn FnMut(&mut PathBuf)) {
        for secret in [
            &mut self.private_key,
            &mut self.passphrase,
            &mut self.password,
        ] {
            secret.iter_mut().for_each(|secret| secret.each_file(each));
        }
        self.known_hosts.iter_mut().for_each(each);
    }

    pub(super) fn problems(&self, field: &'static str, found: &mut super::Problems) {
        if self.passphrase.is_some() && self.private_key.is_none() {
            let what = "a passphrase without a `privateKey` opens nothing";
            found.add(&[field, "passphrase"], what);
        }
        if self.known_hosts.is_some() && !self.host_key_fingerprints.is_empty() {
            let what = "pinned fingerprints make `knownHosts` useless; take one of the two out";
            found.add(&[field, "knownHosts"], what);
        }
        let fits = |text: &String| {
            text.strip_prefix("SHA256:")
                .is_some_and(|hash| hash.len() == 43)
        };
        if !self.host_key_fingerprints.iter().all(fits) {
            let what = "not a fingerprint; `ssh-keyscan HOST | ssh-keygen -lf -` shows them: SHA256: and \
                        43 characters";
            found.add(&[field, "hostKeyFingerprints"], what);
        }
    }
}
