//! Where a remote place is: hosts, users, containers, repositories and what is asked of them.
//!
//! Nothing here can begin with a `-`, so that it is an option to no program, and nothing holds a
//! character that ends a line or a word of a protocol. No message repeats a URL.

use std::borrow::Cow;
use std::fmt;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Serialize};
use url::Url;

use super::names::{NameError, refuse, text_form, text_newtype};

/// The longest host name, in bytes, says RFC 1035.
const MAX_HOST: usize = 253;

/// The longest name of a user, a container or a ref, in bytes: above what any service takes.
const MAX_NAME: usize = 255;

/// A host's name or address; an IPv6 address without brackets.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct HostName(String);

impl HostName {
    /// Returns the name.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for HostName {
    type Err = NameError;

    fn from_str(text: &str) -> Result<Self, NameError> {
        let bare = text
            .strip_prefix('[')
            .and_then(|text| text.strip_suffix(']'))
            .unwrap_or(text);
        if bare.parse::<std::net::IpAddr>().is_ok() {
            return Ok(Self(bare.into()));
        }
        let fits = |c: char| c.is_ascii_alphanumeric() || "-._".contains(c);
        if text.is_empty()
            || text.len() > MAX_HOST
            || text.starts_with('-')
            || !text.chars().all(fits)
        {
            return refuse(
                "not a host; write its name or address alone, such as files.example.org, with \
                 the port and the user apart",
            );
        }
        Ok(Self(text.to_ascii_lowercase()))
    }
}

text_newtype!(HostName, { "type": "string", "minLength": 1, "maxLength": 255 });

/// Writes `scheme://[user@]host[:port]`.
pub(crate) fn write_authority(
    f: &mut fmt::Formatter<'_>,
    scheme: &str,
    user: Option<&UserName>,
    host: &HostName,
    port: Option<u16>,
) -> fmt::Result {
    write!(f, "{scheme}://")?;
    if let Some(user) = user {
        write!(f, "{user}@")?;
    }
    match host.as_str().contains(':') {
        true => write!(f, "[{host}]")?,
        false => write!(f, "{host}")?,
    }
    match port {
        Some(port) => write!(f, ":{port}"),
        None => Ok(()),
    }
}

/// The name to log in with.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct UserName(String);

impl UserName {
    /// Returns the name.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for UserName {
    type Err = NameError;

    fn from_str(text: &str) -> Result<Self, NameError> {
        if text.contains(':') {
            return refuse("a user name cannot hold `:`; a password is given by reference");
        }
        let odd = |c: char| c.is_control() || c == '/';
        if text.is_empty() || text.len() > MAX_NAME || text.starts_with('-') || text.contains(odd) {
            return refuse("not a user's name; write the name to log in with");
        }
        Ok(Self(text.into()))
    }
}

text_newtype!(UserName, { "type": "string", "minLength": 1, "maxLength": 255 });

/// A directory of another machine, from its root: `/srv/data`, without `.`, `..` and empty parts.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct RemotePath(String);

impl RemotePath {
    /// Returns the path; only the root ends with a slash.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl Default for RemotePath {
    fn default() -> Self {
        Self("/".into())
    }
}

impl FromStr for RemotePath {
    type Err = NameError;

    fn from_str(text: &str) -> Result<Self, NameError> {
        let Some(inside) = text.strip_prefix('/') else {
            return refuse("not a path of the server; begin it with `/`, such as /srv/data");
        };
        let inside = inside.strip_suffix('/').unwrap_or(inside);
        if inside.contains(char::is_control) {
            return refuse("not a path of the server: it holds a control character");
        }
        match crate::path::RelPath::new(inside) {
            Ok(_) => Ok(Self(format!("/{inside}"))),
            Err(why) => refuse(format!("not a path of the server: {why}; write it out")),
        }
    }
}

text_newtype!(RemotePath, { "type": "string", "pattern": "^/" });

/// The name of a container of Azure's or of a bucket of Google's.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct ContainerName(String);

impl ContainerName {
    /// Returns the name.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for ContainerName {
    type Err = NameError;

    fn from_str(text: &str) -> Result<Self, NameError> {
        if text.contains('@') {
            return refuse(
                "a name holds no `@`; credentials do not belong in a URL, where they show in the \
                 process list: give them by the environment, or in a volume file with `fromEnv` \
                 or `fromFile`",
            );
        }
        if text.contains('/') {
            return refuse("write the name alone; what follows it is the `prefix`");
        }
        let fits = |c: char| c.is_ascii_alphanumeric() || "-_.$".contains(c);
        if text.is_empty()
            || text.len() > MAX_NAME
            || text.starts_with('-')
            || !text.chars().all(fits)
            || matches!(text, "." | "..")
        {
            return refuse(
                "not a name of a container or bucket; it has letters, digits, `-`, `_` and `.`",
            );
        }
        Ok(Self(text.into()))
    }
}

text_newtype!(ContainerName, {
    "type": "string", "minLength": 1, "maxLength": 255, "pattern": "^[A-Za-z0-9_.$][A-Za-z0-9_.$-]*$",
});

/// A branch, a tag, a full ref (`refs/...`) or the id of a commit.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct GitRef(String);

impl GitRef {
    /// Returns the name or the id.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for GitRef {
    type Err = NameError;

    /// As `git check-ref-format` has it, with one level allowed.
    fn from_str(text: &str) -> Result<Self, NameError> {
        let odd = |c: char| c.is_control() || " ~^:?*[\\".contains(c);
        let bad_part =
            |part: &str| part.is_empty() || part.starts_with('.') || part.ends_with(".lock");
        if text.is_empty()
            || text.len() > MAX_NAME
            || text.starts_with('-')
            || text.ends_with('.')
            || text.contains(odd)
            || text.contains("..")
            || text.contains("@{")
            || text.split('/').any(bad_part)
        {
            return refuse(
                "not a branch, tag or commit; write its name alone, such as main or v1.2",
            );
        }
        Ok(Self(text.into()))
    }
}

text_newtype!(GitRef, { "type": "string", "minLength": 1, "maxLength": 255 });

/// Where a Git repository is: an `https`, `http`, `ssh`, `git` or `file` URL without a password;
/// only `ssh` may have a user name. `user@host:path` is taken as `git clone` takes it.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct GitUrl(Place);

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
enum Place {
    Url(Url),
    /// A directory of this machine, relative until the volume file's own is known.
    Directory(PathBuf),
}

impl GitUrl {
    /// Returns the scheme: `https`, `http`, `ssh`, `git` or `file`.
    pub fn scheme(&self) -> &str {
        match &self.0 {
            Place::Url(url) => url.scheme(),
            Place::Directory(_) => "file",
        }
    }

    /// Returns the URL, where the repository is not on this machine.
    pub fn as_url(&self) -> Option<&Url> {
        match &self.0 {
            Place::Url(url) => Some(url),
            Place::Directory(_) => None,
        }
    }

    /// Returns the directory, where the repository is on this machine.
    pub fn directory(&self) -> Option<&Path> {
        match &self.0 {
            Place::Url(_) => None,
            Place::Directory(path) => Some(path),
        }
    }

    pub(crate) fn resolve_paths(&mut self, base: &Path) {
        if let Place::Directory(path) = &mut self.0 {
            *path = base.join(&*path).components().collect();
        }
    }
}

/// Writes the URL without a query.
impl fmt::Display for GitUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0 {
            Place::Url(url) => {
                let mut url = url.clone();
                url.set_query(None);
                f.write_str(url.as_str())
            }
            Place::Directory(path) => write!(f, "file://{}", path.display()),
        }
    }
}

impl FromStr for GitUrl {
    type Err = NameError;

    fn from_str(text: &str) -> Result<Self, NameError> {
        let text = text.trim();
        let url = match text.split_once("://") {
            Some(("file", path)) => return directory(path),
            Some(_) => text.to_owned(),
            None => match text.split_once(':') {
                // `git clone` has no slash before this colon either.
                Some((_, path)) if path.starts_with(':') => {
                    return refuse("Git's `helper::address` form is not known here; write a URL");
                }
                Some((host, path)) if !host.contains('/') && !host.is_empty() => {
                    let slash = if path.starts_with('/') { "" } else { "/" };
                    format!("ssh://{host}{slash}{path}")
                }
                _ => return directory(text),
            },
        };
        let Ok(url) = Url::parse(&url) else {
            return refuse(
                "not a URL of a repository; write one such as https://host/team/repo.git",
            );
        };
        let scheme = url.scheme();
        if !matches!(scheme, "https" | "http" | "ssh" | "git") {
            return refuse("write an https://, http://, ssh://, git:// or file:// URL");
        }
        if url.password().is_some() || (scheme != "ssh" && !url.username().is_empty()) {
            return refuse(
                "a user name or password in a URL shows in the process list and in logs; take it \
                 out, and give it in a volume file by reference (`auth` or `ssh`, with `fromEnv` or \
                 `fromFile`)",
            );
        }
        if url.fragment().is_some() || (url.query().is_some() && !scheme.starts_with("http")) {
            return refuse(
                "take out what follows `#` or `?`; the branch or tag is the field `ref`",
            );
        }
        match url.host_str() {
            Some(host) => host.parse::<HostName>()?,
            None => return refuse("the URL names no host"),
        };
        if !url.username().is_empty() {
            url.username().parse::<UserName>()?;
        }
        let path = percent_encoding::percent_decode_str(url.path()).decode_utf8_lossy();
        if path.contains(char::is_control) {
            return refuse("the repository's path holds a control character");
        }
        if path.trim_matches('/').is_empty() {
            return refuse("the URL names no repository; add its path");
        }
        if path.trim_start_matches('/').starts_with('-') {
            return refuse(
                "the repository's path begins with `-`, which programs take for an option",
            );
        }
        Ok(Self(Place::Url(url)))
    }
}

fn directory(text: &str) -> Result<GitUrl, NameError> {
    let path = percent_encoding::percent_decode_str(text).decode_utf8_lossy();
    if path.is_empty() || path.contains('\0') {
        return refuse("the repository's directory has no name; write file:///srv/repo.git");
    }
    Ok(GitUrl(Place::Directory(PathBuf::from(path.as_ref()))))
}

text_form!(GitUrl, { "type": "string", "minLength": 1 });

#[cfg(test)]
mod tests {
    use super::*;

    fn why<T: FromStr<Err = NameError> + fmt::Debug>(text: &str) -> String {
        text.parse::<T>().unwrap_err().to_string()
    }

    #[test]
    fn hosts_are_names_or_addresses() {
        for (text, host) in [
            ("Files.Example.org", "files.example.org"),
            ("::1", "::1"),
            ("[::1]", "::1"),
            ("127.0.0.1", "127.0.0.1"),
        ] {
            assert_eq!(text.parse::<HostName>().unwrap().as_str(), host);
        }
        for text in [
            "",
            "-oProxyCommand=x",
            "a b",
            "a:22",
            "joe@h",
            "a/b",
            "a\nb",
        ] {
            assert!(why::<HostName>(text).contains("not a host"), "{text}");
        }
    }

    #[test]
    fn nothing_is_an_option_or_two_lines() {
        for text in ["-x", "", "a\nb", "a/b"] {
            assert!(text.parse::<UserName>().is_err(), "{text:?}");
        }
        for text in [
            "--upload-pack=x",
            "a..b",
            "a b",
            "a\nb",
            "x.lock",
            "a@{1}",
            "a:b",
            "/a",
            "a//b",
            "",
        ] {
            assert!(text.parse::<GitRef>().is_err(), "{text:?}");
        }
        for text in ["main", "v1.2", "refs/heads/feature/x", "0123abc"] {
            assert!(text.parse::<GitRef>().is_ok(), "{text:?}");
        }
        for text in ["srv", "/a/../b", "/a//b", "/a\r\nDELE x", ""] {
            assert!(text.parse::<RemotePath>().is_err(), "{text:?}");
        }
        assert_eq!(
            "/srv/data/".parse::<RemotePath>().unwrap().as_str(),
            "/srv/data"
        );
        assert_eq!("/".parse::<RemotePath>().unwrap(), RemotePath::default());
    }

    #[test]
    fn repositories_are_urls_or_what_git_clone_takes() {
        for (text, url) in [
            ("https://host/team/repo.git", "https://host/team/repo.git"),
            ("git@host:team/repo.git", "ssh://git@host/team/repo.git"),
            ("ssh://git@host:2222/repo", "ssh://git@host:2222/repo"),
            ("git://host/repo", "git://host/repo"),
            ("file:///srv/repo.git", "file:///srv/repo.git"),
            ("./repo", "file://./repo"),
        ] {
            assert_eq!(text.parse::<GitUrl>().unwrap().to_string(), url);
        }
        for text in [
            "https://joe:hunter2@h/r",
            "https://hunter2@h/r",
            "ssh://joe:hunter2@h/r",
            "ssh://-oProxyCommand=hunter2/r",
            "ssh://h/-hunter2",
            "git://h/a%0Ahunter2",
            "https://h/r#hunter2",
            "ext::sh -c hunter2",
            "https://h",
            "file://",
        ] {
            let why = why::<GitUrl>(text);
            assert!(!why.contains("hunter2"), "{why}");
        }
    }
}
