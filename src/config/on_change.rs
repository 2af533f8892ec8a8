//! The section `onChange`: who is told when files of the volume changed.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::names::HttpUrl;
use super::secret::SecretRef;
use super::source::{HttpAuth, Problems, Proxy, Tls, transport};
use super::units::HumanDuration;

/// How long a hook may take, where nothing else is said.
const DEFAULT_TIMEOUT: Duration = Duration::from_secs(30);

/// The longest that a hook may be given: what takes longer belongs into a queue of its own.
const MAX_TIMEOUT: Duration = Duration::from_secs(600);

/// The longest command with its arguments, in bytes: what anybody types, and fits one message.
const MAX_COMMAND: usize = 8 * 1024;

/// Who is told when files of the volume changed: a command, a web server, or both. Not for what
/// nobody has looked at since the mount.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct OnChange {
    /// A program and its arguments, run without a shell, with what changed as JSON on its standard
    /// input. `--on-change` names a program alone.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub command: Vec<String>,
    /// A web server that gets what changed as JSON.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub webhook: Option<Webhook>,
    /// How long either may take; `30s` if left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timeout: Option<HumanDuration>,
}

/// A web server that is told of changes, by POST.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Webhook {
    /// The URL to post to. Its path and query are not shown.
    pub url: HttpUrl,
    /// Who posts, where the server wants to know.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub auth: Option<HttpAuth>,
    /// Further headers, each with where its value is.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub headers: BTreeMap<String, SecretRef>,
    /// Certificates.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tls: Option<Tls>,
    /// The way to the server.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub proxy: Option<Proxy>,
}

impl OnChange {
    pub(super) fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// Returns whether there is anybody to tell.
    pub fn is_set(&self) -> bool {
        !self.command.is_empty() || self.webhook.is_some()
    }

    /// Returns how long a hook may take.
    pub fn timeout(&self) -> Duration {
        self.timeout.map_or(DEFAULT_TIMEOUT, HumanDuration::get)
    }

    /// Makes relative file names absolute, from `base`. A program without a slash in its name is
    /// looked for in `PATH`.
    pub(super) fn resolve_paths(&mut self, base: &Path) {
        if let Some(program) = self.command.first_mut()
            && program.contains('/')
            && let Some(absolute) = base.join(&*program).to_str()
        {
            *program = absolute.to_owned();
        }
        self.each_file(&mut |file| *file = base.join(&*file));
    }

    /// Calls `each` with every file that the webhook is told with: secrets and certificates.
    pub(crate) fn each_file(&mut self, each: &mut dyn FnMut(&mut PathBuf)) {
        let Some(hook) = &mut self.webhook else {
            return;
        };
        hook.auth.iter_mut().for_each(|auth| auth.each_file(each));
        for value in hook.headers.values_mut() {
            value.each_file(each);
        }
        transport::each_file(&mut hook.tls, &mut hook.proxy, each);
    }

    /// Returns what is wrong with what the fields say together.
    pub(super) fn problems(&self) -> Vec<(Vec<&'static str>, String)> {
        let mut found = Problems::default();
        if self.timeout.is_some() && !self.is_set() {
            found.add(&[], "tells nobody; write `command` or `webhook`");
        }
        if self.command.first().is_some_and(String::is_empty) {
            found.add(&["command"], "the program has no name");
        }
        if self.command.iter().map(String::len).sum::<usize>() > MAX_COMMAND {
            found.add(&["command"], "too long (8 KiB at most); write a script");
        }
        if self.command.iter().any(|part| part.contains('\0')) {
            found.add(&["command"], "no program takes a NUL in an argument");
        }
        let timeout = self.timeout();
        if timeout < Duration::from_secs(1) || timeout > MAX_TIMEOUT {
            found.add(&["timeout"], "write a time from 1s to 10m");
        }
        let mut found = found.0;
        if let Some(hook) = &self.webhook {
            let mut inside = Problems::default();
            hook.problems(&mut inside);
            found.extend(inside.0.into_iter().map(|(mut field, what)| {
                field.insert(0, "webhook");
                (field, what)
            }));
        }
        found
    }
}

impl Webhook {
    fn problems(&self, found: &mut Problems) {
        if let Some(auth) = &self.auth {
            auth.problems(found);
        }
        transport::problems(&self.proxy, found);
        for name in self.headers.keys() {
            match reqwest::header::HeaderName::from_bytes(name.as_bytes()) {
                Err(_) => found.add(&["headers"], format!("`{name}` is no name of a header")),
                Ok(name) if OURS.contains(&name.as_str()) => {
                    found.add(&["headers"], format!("`{name}` is svol's own; take it out"));
                }
                Ok(name) if name == "authorization" && self.auth.is_some() => {
                    let what = "authorization is what `auth` sends; take one of the two out";
                    found.add(&["headers"], what);
                }
                Ok(_) => {}
            }
        }
    }

    /// Returns the server, for messages: many a webhook's path is its password.
    pub fn shown(&self) -> String {
        self.url.as_url().origin().ascii_serialization()
    }
}

/// Headers that say what is sent.
const OURS: [&str; 4] = [
    "content-type",
    "content-length",
    "host",
    "transfer-encoding",
];
