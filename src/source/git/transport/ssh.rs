//! `ssh://`: `git-upload-pack` on a server that is logged in to.
//!
//! A connection for each process at the server: they share nothing that could hold one up for
//! another, and end together.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use async_trait::async_trait;

use super::super::super::ssh::{Connection, Exec, SshSettings};
use super::super::super::{Error, ErrorKind, Result};
use super::{Dial, Duplex};

/// How long a command that has no more to say may take to end.
const END: Duration = Duration::from_secs(5);

/// What asks the command for version 2 of the protocol.
const PROTOCOL: (&str, &str) = ("GIT_PROTOCOL", "version=2");

/// A repository on a server that is reached over SSH.
pub(in super::super) struct Ssh {
    settings: SshSettings,
    command: String,
    /// Whether the server sets no variables, so that the command has to.
    in_command: AtomicBool,
}

impl Ssh {
    /// Returns the place; connects to nothing. `path` is that of an URL, where `/~` leads to a home
    /// directory.
    pub(in super::super) fn new(settings: SshSettings, path: &str) -> Result<Ssh> {
        let path = match path.starts_with("/~") {
            true => path.get(1..).unwrap_or_default(),
            false => path,
        };
        if path.is_empty() || path.starts_with('-') || path.contains(char::is_control) {
            let message = format!("{path:?} cannot be the path of a repository");
            return Err(Error::new(ErrorKind::Invalid, message));
        }
        settings.check()?;
        Ok(Ssh {
            settings,
            command: format!("git-upload-pack {}", quoted(path)),
            in_command: AtomicBool::new(false),
        })
    }

    async fn run(&self) -> Result<Exec> {
        let connection = Arc::new(Connection::connect(&self.settings).await?);
        match self.in_command.load(Ordering::Relaxed) {
            false => connection.exec(&self.command, &[PROTOCOL]).await,
            true => {
                let (name, value) = PROTOCOL;
                let command = format!("env {name}={value} {}", self.command);
                connection.exec(&command, &[]).await
            }
        }
    }
}

/// Quotes a path for a shell.
fn quoted(path: &str) -> String {
    format!("'{}'", path.replace('\'', r"'\''"))
}

#[async_trait]
impl Dial for Ssh {
    async fn dial(&self) -> Result<Box<dyn Duplex>> {
        let exec = self.run().await?;
        if exec.env_refused().is_empty() {
            return Ok(Box::new(exec));
        }
        // An account with a shell can be told in the command; one without answers that in its own
        // words, and what it lacks is told then (see `too_old`).
        drop(exec);
        self.in_command.store(true, Ordering::Relaxed);
        Ok(Box::new(self.run().await?))
    }
}

#[async_trait]
impl Duplex for Exec {
    async fn last_words(&mut self) -> Option<String> {
        let status = tokio::time::timeout(END, self.wait()).await.ok().flatten();
        let said = self.stderr();
        match (status, said.is_empty()) {
            (Some(0), _) => None,
            (_, false) => Some(said),
            (Some(status), true) => Some(format!("git-upload-pack ended with status {status}")),
            (None, true) => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::super::super::ssh::Env;
    use super::*;

    fn command(path: &str) -> Result<String> {
        let mut settings = SshSettings::new("host", &Env::default());
        settings.user = "git".into();
        Ok(Ssh::new(settings, path)?.command)
    }

    #[test]
    fn paths_are_never_options_or_commands() {
        assert_eq!(
            command("/srv/a b.git").unwrap(),
            "git-upload-pack '/srv/a b.git'"
        );
        assert_eq!(command("/~me/x").unwrap(), "git-upload-pack '~me/x'");
        assert_eq!(
            command("/x'; rm -rf $HOME; '").unwrap(),
            r"git-upload-pack '/x'\''; rm -rf $HOME; '\'''"
        );
        for bad in ["--upload-pack=x", "", "/a\nb"] {
            assert!(command(bad).is_err(), "{bad}");
        }
    }
}
