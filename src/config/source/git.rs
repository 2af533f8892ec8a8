//! The section `git`.

use std::fmt;
use std::path::{Path, PathBuf};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::Problems;
use super::ssh::Ssh;
use super::transport::{self, HttpAuth, Proxy, Tls};
use crate::config::host::{GitRef, GitUrl};

/// A branch, tag or commit of a Git repository.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct GitSource {
    /// The repository: an `https://`, `http://`, `ssh://`, `git://` or `file://` URL, or what
    /// `git clone` takes as `user@host:path`.
    pub url: GitUrl,
    /// The branch, tag or commit; the repository's own default branch if left out.
    #[serde(default, rename = "ref", skip_serializing_if = "Option::is_none")]
    pub reference: Option<GitRef>,
    /// The directory of the tree that the layer shows. Without it, all of it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub subdirectory: Option<String>,
    /// Who asks, where the repository is on a web server that wants to know.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub auth: Option<HttpAuth>,
    /// How an SSH server is known, and how it is told who asks.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ssh: Option<Ssh>,
    /// Certificates.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tls: Option<Tls>,
    /// The way to the server.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub proxy: Option<Proxy>,
}

impl GitSource {
    /// Returns a source with nothing but its URL set.
    pub fn new(url: GitUrl) -> Self {
        Self {
            url,
            reference: None,
            subdirectory: None,
            auth: None,
            ssh: None,
            tls: None,
            proxy: None,
        }
    }

    /// Returns the directory of the tree without slashes at its ends; empty for all of it.
    pub fn tree_path(&self) -> &str {
        self.subdirectory
            .as_deref()
            .unwrap_or_default()
            .trim_matches('/')
    }

    pub(in crate::config) fn resolve_paths(&mut self, base: &Path) {
        self.url.resolve_paths(base);
    }

    pub(super) fn each_file(&mut self, each: &mut dyn FnMut(&mut PathBuf)) {
        self.auth.iter_mut().for_each(|auth| auth.each_file(each));
        self.ssh.iter_mut().for_each(|ssh| ssh.each_file(each));
        transport::each_file(&mut self.tls, &mut self.proxy, each);
    }

    pub(super) fn problems(&self, found: &mut Problems) {
        if let Some(auth) = &self.auth {
            auth.problems(found);
        }
        if let Some(ssh) = &self.ssh {
            ssh.problems("ssh", found);
        }
        let path = self.tree_path();
        if !path.is_empty() && crate::path::RelPath::new(path).is_err() {
            let what = "not a directory of a tree; write it without `.`, `..` and empty parts";
            found.add(&["subdirectory"], what);
        }
        let scheme = self.url.scheme();
        if self.auth.is_some() && !matches!(scheme, "http" | "https") {
            found.add(
                &["auth"],
                "only https:// and http:// take it; an SSH server's is `ssh`",
            );
        }
        if self.ssh.is_some() && scheme != "ssh" {
            found.add(&["ssh"], "only ssh:// takes it; a web server's is `auth`");
        }
        transport::problems(&self.proxy, found);
    }
}

/// Writes the source as a URL of the command line.
impl fmt::Display for GitSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.url.scheme() {
            "git" => write!(f, "{}", self.url)?,
            _ => write!(f, "git+{}", self.url)?,
        }
        match (&self.reference, self.tree_path()) {
            (None, "") => Ok(()),
            (Some(reference), "") => write!(f, "#{reference}"),
            (None, path) => write!(f, "#:{path}"),
            (Some(reference), path) => write!(f, "#{reference}:{path}"),
        }
    }
}
