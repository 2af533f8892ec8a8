//! The section `sftp`.

use std::fmt;
use std::path::PathBuf;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::Problems;
use super::ssh::Ssh;
use crate::config::host::{HostName, RemotePath, UserName, write_authority};

/// A directory of a machine that speaks SSH.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct SftpSource {
    /// The machine's name or address.
    pub host: HostName,
    /// The port of its SSH server; 22 if left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1))]
    pub port: Option<u16>,
    /// The user to log in as; who mounts, if left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub user: Option<UserName>,
    /// The directory, from the machine's root.
    pub path: RemotePath,
    /// How the machine is known, and how it is told who asks.
    #[serde(default, skip_serializing_if = "is_default")]
    pub ssh: Ssh,
}

fn is_default(ssh: &Ssh) -> bool {
    *ssh == Ssh::default()
}

impl SftpSource {
    pub(super) fn each_file(&mut self, each: &mut dyn FnMut(&mut PathBuf)) {
        self.ssh.each_file(each);
    }

    pub(super) fn problems(&self, found: &mut Problems) {
        self.ssh.problems("ssh", found);
    }
}

/// Writes the source as a URL.
impl fmt::Display for SftpSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write_authority(f, "sftp", self.user.as_ref(), &self.host, self.port)?;
        write!(f, "{}", self.path)
    }
}
