//! The section `git`.

use std::path::PathBuf;
use std::sync::Arc;

use super::Surroundings;
use crate::config;
use crate::source::{self, Source};

#[cfg(not(feature = "git"))]
pub(super) fn build(_: &config::GitSource, _: &Surroundings) -> source::Result<Arc<dyn Source>> {
    Err(super::left_out("git"))
}

#[cfg(not(feature = "git"))]
pub(super) fn files(_: &config::GitSource) -> Vec<PathBuf> {
    Vec::new()
}

/// The directory of the store, inside the cache's.
#[cfg(feature = "git")]
const STORE: &str = "git";

#[cfg(feature = "git")]
pub(super) fn build(
    git: &config::GitSource,
    around: &Surroundings,
) -> source::Result<Arc<dyn Source>> {
    use super::{proxy, secret, tls};
    use crate::source::git::{GitAuth, GitSettings, GitSource};
    use crate::source::ssh::Env;
    use crate::source::{Error, ErrorKind};

    let odd = || Error::new(ErrorKind::Invalid, "the URL names no repository");
    let url = match git.url.directory() {
        Some(path) => url::Url::from_file_path(path).map_err(|()| odd())?,
        None => git.url.as_url().ok_or_else(odd)?.clone(),
    };
    let ssh = (url.scheme() == "ssh").then(|| {
        let user = Some(url.username()).filter(|user| !user.is_empty());
        let section = git.ssh.clone().unwrap_or_default();
        let host = url.host_str().unwrap_or_default();
        super::ssh::settings(host, url.port(), user, &section, &Env::of_process())
    });
    let settings = GitSettings {
        ssh,
        reference: git.reference.as_ref().map(|r| r.as_str().to_owned()),
        subdirectory: git.tree_path().to_owned(),
        auth: git.auth.as_ref().map(|auth| match auth {
            config::HttpAuth::Bearer(bearer) => GitAuth::Bearer(secret(&bearer.token)),
            config::HttpAuth::Basic(basic) => GitAuth::Basic {
                username: basic.username.clone(),
                password: secret(&basic.password),
            },
        }),
        tls: tls(&git.tls),
        proxy: proxy(&git.proxy),
        ..GitSettings::new(url, around.cache.join(STORE))
    };
    Ok(Arc::new(GitSource::new(settings)?))
}

#[cfg(feature = "git")]
pub(super) fn files(git: &config::GitSource) -> Vec<PathBuf> {
    match git.url.directory() {
        Some(path) => crate::source::git::elsewhere(path),
        None if git.url.scheme() == "ssh" => {
            super::ssh::files(&git.ssh.clone().unwrap_or_default())
        }
        None => Vec::new(),
    }
}
