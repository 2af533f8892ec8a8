//! Connections over SSH, for whatever is spoken through them: SFTP, Git.
//!
//! No program is started and no option is ever made of what a user wrote: the protocol is spoken
//! here, by russh. The host's key is always checked (`known_hosts`), before anything is told about
//! who asks (`auth`). Files of keys and host keys are read anew for each connection.
//!
//! A [`Connection`] that is dropped shuts its socket, at once and in whatever state it was, also in
//! the middle of connecting: nothing is left behind, and what was out of step is not used again.

use std::path::PathBuf;
use std::sync::Arc;

use super::{Error, ErrorKind, Result, Secret};

mod auth;
mod channel;
mod connection;
mod exec;
mod host_key;
mod known_hosts;

#[cfg(feature = "sftp")]
pub(crate) use channel::{Channel, Incoming, Writer, next};
pub use connection::Connection;
pub use exec::Exec;

/// The port of an SSH server unless another is said.
pub const PORT: u16 = 22;

/// The names in `~/.ssh` of keys that are tried where no key is given, as OpenSSH has them.
const DEFAULT_KEYS: [&str; 3] = ["id_ed25519", "id_ecdsa", "id_rsa"];

/// The system's list of host keys.
const SYSTEM_KNOWN_HOSTS: &str = "/etc/ssh/ssh_known_hosts";

/// Where a server is, how it is known, and how it is told who asks.
#[derive(Debug, Clone)]
pub struct SshSettings {
    /// The machine's name or address; an IPv6 address without brackets.
    pub host: String,
    /// The port of its SSH server.
    pub port: u16,
    /// The user to log in as.
    pub user: String,
    /// How the server is known.
    pub host_keys: HostKeys,
    /// The keys to offer, in this order.
    pub identities: Vec<Identity>,
    /// The socket of an agent, whose keys are offered too.
    pub agent: Option<PathBuf>,
    /// The password, if the server takes one.
    pub password: Option<Secret>,
}

/// How a server is known. There is no way to let any key pass.
#[derive(Debug, Clone)]
pub enum HostKeys {
    /// By files in the format of `known_hosts`; those that are not there are empty.
    Known(Vec<PathBuf>),
    /// By fingerprints, `SHA256:` and 43 characters of base64.
    Pinned(Vec<String>),
}

/// A private key.
#[derive(Debug, Clone)]
pub struct Identity {
    /// Where it is.
    pub key: KeyPlace,
    /// What it is encrypted with, if it is.
    pub passphrase: Option<Secret>,
}

/// Where a private key is.
#[derive(Debug, Clone)]
pub enum KeyPlace {
    /// Given: an error if it cannot be used.
    Given(Secret),
    /// A file where a key is by custom: passed over if it is not there or cannot be used.
    Usual(PathBuf),
}

/// What SSH uses of a user's surroundings, as data.
#[derive(Debug, Clone, Default)]
pub struct Env {
    /// The user's home directory.
    pub home: Option<PathBuf>,
    /// The user's name.
    pub user: Option<String>,
    /// The socket of the user's agent.
    pub agent: Option<PathBuf>,
}

impl Env {
    /// Returns this process's: HOME, USER (or LOGNAME) and SSH_AUTH_SOCK.
    pub fn of_process() -> Env {
        let path = |name| std::env::var_os(name).filter(|value| !value.is_empty());
        let text = |name| std::env::var(name).ok().filter(|value| !value.is_empty());
        Env {
            home: path("HOME").map(PathBuf::from),
            user: text("USER").or_else(|| text("LOGNAME")),
            agent: path("SSH_AUTH_SOCK").map(PathBuf::from),
        }
    }

    /// Returns the lists of host keys that are read where none is given: the user's, the system's.
    pub fn known_hosts(&self) -> Vec<PathBuf> {
        let own = self.home.as_ref().map(|home| home.join(".ssh/known_hosts"));
        own.into_iter().chain([SYSTEM_KNOWN_HOSTS.into()]).collect()
    }

    /// Returns the keys that are tried where none is given.
    pub fn identities(&self) -> Vec<Identity> {
        self.keys()
            .map(|file| Identity {
                key: KeyPlace::Usual(file),
                passphrase: None,
            })
            .collect()
    }

    fn keys(&self) -> impl Iterator<Item = PathBuf> {
        let home = self.home.iter();
        home.flat_map(|home| DEFAULT_KEYS.map(|name| home.join(".ssh").join(name)))
    }
}

/// Returns the files and the socket of this machine that a connection may use beside those that its
/// user names; there or not.
pub fn local_files(env: &Env) -> Vec<PathBuf> {
    let mut files = env.known_hosts();
    files.extend(env.keys());
    files.extend(env.agent.clone());
    files
}

impl SshSettings {
    /// Returns settings for a host that are as OpenSSH has them where nobody configured anything:
    /// the user's name, keys and agent, the user's and the system's `known_hosts`.
    pub fn new(host: impl Into<String>, env: &Env) -> SshSettings {
        SshSettings {
            host: host.into(),
            port: PORT,
            user: env.user.clone().unwrap_or_default(),
            host_keys: HostKeys::Known(env.known_hosts()),
            identities: env.identities(),
            agent: env.agent.clone(),
            password: None,
        }
    }

    /// Returns `host`, or `[host]:port` where the port is not SSH's own, as messages and
    /// `known_hosts` write it.
    pub fn place(&self) -> String {
        match self.port {
            PORT => self.host.clone(),
            port => format!("[{}]:{port}", self.host),
        }
    }

    /// Refuses what cannot be a user or a host.
    pub fn check(&self) -> Result<()> {
        let odd = |text: &str| {
            text.is_empty() || text.starts_with('-') || text.contains(char::is_control)
        };
        let invalid = |what: &str| Err(Error::new(ErrorKind::Invalid, what));
        if odd(&self.host) || self.host.contains(char::is_whitespace) {
            return invalid("the host of an SSH server must be a name or an address");
        }
        if odd(&self.user) {
            return invalid(
                "no user to log in as: name one in the URL (USER@HOST) or in the volume file; USER \
                 is not set",
            );
        }
        Ok(())
    }
}

/// What became of a connection in the end, told by its task to those who still ask.
type LastWords = Arc<std::sync::Mutex<Option<Error>>>;
