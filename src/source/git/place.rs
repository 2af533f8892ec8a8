//! Where a repository is.

use std::path::PathBuf;

use percent_encoding::percent_decode_str;

use super::super::ssh::{Env, SshSettings};
use super::super::{Error, ErrorKind, Result, Secret};
use super::transport::{Http, Pipes, Ssh, Tcp, Transport};
use super::{GitAuth, GitSettings};

/// A repository's place.
pub(super) struct Place {
    pub(super) way: Way,
    /// What names it for good.
    pub(super) identity: String,
    /// What is shown to users.
    pub(super) shown: String,
}

/// How a repository is reached.
pub(super) enum Way {
    /// By Git's protocol.
    Remote(Transport),
    /// In place.
    Local(PathBuf),
}

impl Place {
    /// Returns where the settings lead. Connects to nothing.
    pub(super) fn new(settings: &GitSettings) -> Result<Place> {
        let invalid = |why: String| Error::new(ErrorKind::Invalid, why);
        let mut url = settings.url.clone();
        url.set_fragment(None);
        url.set_query(None);
        let decode = |text: &str| percent_decode_str(text).decode_utf8_lossy().into_owned();
        let (username, password) = (decode(url.username()), url.password().map(decode));
        // These fail only for URLs that have no host.
        let _ = url.set_password(None);
        let _ = url.set_username("");
        let path = url.path().trim_end_matches('/').to_owned();
        if path.is_empty() {
            return Err(invalid("the URL names no repository".into()));
        }
        url.set_path(&path);
        // The same place, however it is written.
        let named = path.strip_suffix(".git").unwrap_or(&path);
        let host = url.host_str().unwrap_or_default().to_owned();
        let port = url.port().map(|p| format!(":{p}")).unwrap_or_default();
        let identity = format!("{}://{host}{port}{named}", url.scheme());
        let shown = format!("git+{url}");
        let way = match url.scheme() {
            "http" | "https" if !host.is_empty() => {
                let auth = settings.auth.clone();
                let auth = auth.or_else(|| {
                    let password = Secret::fixed(password?);
                    Some(GitAuth::Basic { username, password })
                });
                let http = Http::new(url, auth, settings.tls.clone(), settings.proxy.clone())?;
                Way::Remote(Transport::Http(Box::new(http)))
            }
            "git" if !host.is_empty() => {
                let tcp = Tcp::new(&host, url.port(), &decode(&path))?;
                let pipes = Pipes::new(Box::new(tcp));
                return Ok(Place {
                    way: Way::Remote(Transport::Pipes(pipes)),
                    identity,
                    shown: url.into(),
                });
            }
            "ssh" if !host.is_empty() => {
                let mut ssh = match settings.ssh.clone() {
                    Some(ssh) => ssh,
                    None => SshSettings::new(host.as_str(), &Env::of_process()),
                };
                ssh.host = host.trim_start_matches('[').trim_end_matches(']').into();
                ssh.port = url.port().unwrap_or(ssh.port);
                if !username.is_empty() {
                    ssh.user = username;
                }
                let pipes = Pipes::new(Box::new(Ssh::new(ssh, &decode(&path))?));
                Way::Remote(Transport::Pipes(pipes))
            }
            "file" => {
                let path = url.to_file_path();
                let path = path.map_err(|()| invalid(format!("{url} names no file")))?;
                let real = std::fs::canonicalize(&path).unwrap_or(path);
                return Ok(Place {
                    identity: format!("file:{}", real.display()),
                    shown,
                    way: Way::Local(real),
                });
            }
            other => {
                let message = format!("a Git repository is not reached by {other}://");
                return Err(invalid(message));
            }
        };
        Ok(Place {
            way,
            identity,
            shown,
        })
    }
}
