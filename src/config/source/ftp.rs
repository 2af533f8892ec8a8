//! The section `ftp`.

use std::fmt;
use std::path::PathBuf;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::Problems;
use super::transport::{self, Tls};
use crate::config::host::{HostName, RemotePath, UserName, write_authority};
use crate::config::secret::SecretRef;

/// A directory of an FTP server.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct FtpSource {
    /// The server's name or address.
    pub host: HostName,
    /// Its port; 21 if left out, or 990 with `encryption: implicit`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1))]
    pub port: Option<u16>,
    /// The directory, from where the login leads; that directory, `/`, if left out.
    #[serde(default)]
    pub path: RemotePath,
    /// Whether and how the connection is encrypted.
    #[serde(default, skip_serializing_if = "FtpEncryption::is_none")]
    pub encryption: FtpEncryption,
    /// The user's name; `anonymous` if left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub user: Option<UserName>,
    /// Where the password is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub password: Option<SecretRef>,
    /// Whether the password may be sent without encryption, for anyone on the way to read.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub clear_password: bool,
    /// How many connections there may be at once; 4 if left out. Where the server has no room for
    /// that many, there are fewer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 64))]
    pub connections: Option<u8>,
    /// Certificates.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tls: Option<Tls>,
}

/// How an FTP connection is encrypted.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub enum FtpEncryption {
    /// Not at all: what is read, and a password, can be seen and changed on the way.
    #[default]
    None,
    /// From a first command on (`AUTH TLS`); a server that refuses it is not used.
    Explicit,
    /// From the start, on a port of its own.
    Implicit,
}

impl FtpEncryption {
    fn is_none(&self) -> bool {
        *self == Self::None
    }
}

impl FtpSource {
    /// Returns a source with nothing but its place set.
    pub fn new(host: HostName, path: RemotePath) -> Self {
        Self {
            host,
            port: None,
            path,
            encryption: FtpEncryption::None,
            user: None,
            password: None,
            clear_password: false,
            connections: None,
            tls: None,
        }
    }

    pub(super) fn each_file(&mut self, each: &mut dyn FnMut(&mut PathBuf)) {
        self.password.iter_mut().for_each(|p| p.each_file(each));
        transport::each_file(&mut self.tls, &mut None, each);
    }

    pub(super) fn problems(&self, found: &mut Problems) {
        if self.encryption.is_none() && self.tls.is_some() {
            let what = "certificates without encryption; add `encryption: explicit` or `implicit`";
            found.add(&["tls"], what);
        }
        if self.connections.is_some_and(|n| !(1..=64).contains(&n)) {
            found.add(&["connections"], "write a number from 1 to 64");
        }
        if self.encryption.is_none() && self.password.is_some() && !self.clear_password {
            found.add(
                &["password"],
                "the password would be sent in the clear; add `encryption: explicit` or \
                 `implicit`, or `clearPassword: true` where the network is trusted",
            );
        }
        if self.password.is_some() && self.user.is_none() {
            found.add(
                &["password"],
                "a password without a `user`; add the user's name",
            );
        }
    }
}

/// Writes the source as a URL.
impl fmt::Display for FtpSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let scheme = match self.encryption {
            FtpEncryption::None => "ftp",
            FtpEncryption::Explicit | FtpEncryption::Implicit => "ftps",
        };
        write_authority(f, scheme, self.user.as_ref(), &self.host, self.port)?;
        write!(f, "{}", self.path)
    }
}
