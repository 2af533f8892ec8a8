//! The four kinds of sources of the original, each as ours.

use super::convert::{Converter, filled};
use super::document::{Git, Http, Plain, S3, Ssh};
use super::secrets::{Login, without_login};
use crate::config::host::{GitUrl, RemotePath};
use crate::config::names::{BucketName, HttpUrl};
use crate::config::note::NoteKind;
use crate::config::secret::SecretRef;
use crate::config::source::{
    self, BasicAuth, GitSource, HttpAuth, HttpSource, S3Credentials, S3Source, SftpSource,
};

/// The field of Git's that names the Secret of a password.
const BY_SECRET: Option<&str> = Some("passwordFromSecret");

/// What to do about a host's key, which the original never looks at.
const HOST_KEY: &str = "the host's key is checked now, which the original does not do: add the host to \
                        `known_hosts`, or set `knownHosts: FILE` or `hostKeyFingerprints: [SHA256:...]` \
                        (`ssh-keyscan HOST | ssh-keygen -lf -` shows what the host says; compare it \
                        with what its owner says)";

impl Converter<'_> {
    pub(super) fn ssh(&mut self, ssh: Ssh) -> Option<SftpSource> {
        let at = |name| ["spec", "source", "ssh", name];
        let host = self.parse(&at("host"), &ssh.host);
        let port = match ssh.port {
            // To Go, a number that is not there.
            None | Some(0) => Some(None),
            Some(port) => match u16::try_from(port) {
                Ok(port) => Some(Some(port)),
                Err(_) => {
                    self.problem(&at("port"), "not a port; write 1 to 65535");
                    None
                }
            },
        };
        let user = match filled(&ssh.user) {
            Some(user) => self.parse(&at("user"), user).map(Some),
            None => Some(None),
        };
        let path = match filled(&ssh.path) {
            Some(path) => self.parse::<RemotePath>(&at("path"), path),
            None => {
                self.problem(
                    &at("path"),
                    "no path; write the directory, from the server's root",
                );
                None
            }
        };
        let password = self.secret(
            ("ssh", "password"),
            &ssh.password,
            &ssh.password_from_secret,
            &["sftp", "ssh", "password"],
        );
        let private_key = self.secret(
            ("ssh", "privateKey"),
            &ssh.private_key,
            &ssh.private_key_from_secret,
            &["sftp", "ssh", "privateKey"],
        );
        self.layer_note(NoteKind::Decide, &at("host"), &["sftp", "ssh"], HOST_KEY);
        Some(SftpSource {
            host: host?,
            port: port?,
            user: user?,
            path: path?,
            ssh: source::Ssh {
                password,
                private_key,
                ..source::Ssh::default()
            },
        })
    }

    pub(super) fn http(&mut self, http: Http) -> Option<HttpSource> {
        let fields = ["spec", "source", "http", "url"];
        let mut login = without_login(&http.url);
        // Go sends no fragment either.
        if let Some((url, _)) = login.url.split_once('#') {
            login.url = url.to_owned();
        }
        let url: HttpUrl = self.parse(&fields, &login.url)?;
        let mut source = HttpSource::new(url);
        source.auth = self.url_login(&fields, login, None, &["http", "auth"]);
        if source.url.as_url().query().is_some() {
            let what = "its query is kept as it is; where it is a signature, this file is a secret";
            self.layer_note(NoteKind::Decide, &fields, &["http", "url"], what);
        }
        if source.url.as_url().path().ends_with('/') {
            let what = "the original saves the page that this URL answers with; here it is the \
                        directory that the page lists";
            self.layer_note(NoteKind::Differs, &fields, &["http", "url"], what);
        }
        Some(source)
    }

    /// Returns the user and the password that stood in a URL.
    fn url_login(
        &mut self,
        fields: &[&str],
        login: Login,
        by_secret: Option<&str>,
        target: &[&str],
    ) -> Option<HttpAuth> {
        match (login.user, login.password) {
            (None, None) => None,
            (user, Some(password)) => Some(HttpAuth::Basic(BasicAuth {
                username: user.unwrap_or_default(),
                password: self.inline(fields, ("password", by_secret), &password, target),
            })),
            (Some(_), None) => {
                let what = "a user name without a password in a URL; take it out, and where it is a \
                            token, write it as a password";
                self.problem(fields, what);
                None
            }
        }
    }

    pub(super) fn git(&mut self, git: Git) -> Option<GitSource> {
        let at = |name| ["spec", "source", "git", name];
        let login = without_login(&git.url);
        let url: GitUrl = self.parse(&at("url"), &login.url)?;
        let mut source = GitSource::new(url);
        if let Some(branch) = filled(&git.branch) {
            source.reference = Some(self.parse(&at("branch"), branch)?);
        }
        let target: &[&str] = match source.url.scheme() {
            "ssh" => &["git", "ssh"],
            _ => &["git", "auth"],
        };
        let password = self.secret(
            ("git", "password"),
            &git.password,
            &git.password_from_secret,
            target,
        );
        let private_key = self.secret(
            ("git", "privateKey"),
            &git.private_key,
            &git.private_key_from_secret,
            target,
        );
        match source.url.scheme() {
            "ssh" => self.git_ssh(&mut source, filled(&git.user), login, password, private_key),
            "http" | "https" => {
                if private_key.is_some() {
                    self.useless_key();
                }
                source.auth = match (filled(&git.user), password) {
                    (Some(user), Some(password)) => Some(HttpAuth::Basic(BasicAuth {
                        username: user.into(),
                        password,
                    })),
                    (None, Some(_)) => {
                        self.problem(&at("password"), "a password without a `user`; add it");
                        None
                    }
                    (Some(_), None) if login.password.is_none() => {
                        let what =
                            "a user without a password; add `passwordFromSecret`, or take it out";
                        self.problem(&at("user"), what);
                        None
                    }
                    (_, None) => self.url_login(&at("url"), login, BY_SECRET, target),
                };
            }
            _ => {
                if private_key.is_some() {
                    self.useless_key();
                }
                if password.is_some() {
                    let what = "has no equivalent: this kind of URL takes no password";
                    self.note(NoteKind::NoEquivalent, &at("password"), Vec::new(), what);
                }
            }
        }
        Some(source)
    }

    fn useless_key(&mut self) {
        let what =
            "has no equivalent: only an ssh:// URL takes a key; it was of no use before either";
        let fields = ["spec", "source", "git", "privateKey"];
        self.note(NoteKind::NoEquivalent, &fields, Vec::new(), what);
    }

    fn git_ssh(
        &mut self,
        source: &mut GitSource,
        user: Option<&str>,
        login: Login,
        password: Option<SecretRef>,
        private_key: Option<SecretRef>,
    ) {
        let in_url = login.password.filter(|_| password.is_none());
        let fields = ["spec", "source", "git", "url"];
        let password = match in_url {
            Some(text) => {
                Some(self.inline(&fields, ("password", BY_SECRET), &text, &["git", "ssh"]))
            }
            None => password,
        };
        // The original gives Git no user beside a key: only the URL's counts then.
        if let (Some(user), Some(_), None) = (user, &password, &private_key)
            && let Some(url) = source.url.as_url()
            && url.username().is_empty()
        {
            let mut url = url.clone();
            if url.set_username(user).is_ok()
                && let Some(url) = self.parse(&["spec", "source", "git", "user"], url.as_str())
            {
                source.url = url;
            }
        }
        if password.is_some() || private_key.is_some() {
            source.ssh = Some(source::Ssh {
                password,
                private_key,
                ..source::Ssh::default()
            });
        }
        self.layer_note(NoteKind::Decide, &fields, &["git", "ssh"], HOST_KEY);
    }

    pub(super) fn s3(&mut self, s3: S3) -> Option<S3Source> {
        let at = |name| ["spec", "source", "s3", name];
        let bucket: Option<BucketName> = self.parse(&at("bucketName"), &s3.bucket_name);
        let endpoint = self.endpoint(&s3.endpoint_url);
        let mut keys = [None, None];
        let fields = [
            (
                "accessKey",
                &s3.access_key,
                &s3.access_key_from_secret,
                "accessKeyId",
            ),
            (
                "secretKey",
                &s3.secret_key,
                &s3.secret_key_from_secret,
                "secretAccessKey",
            ),
        ];
        for (key, (name, plain, selected, target)) in keys.iter_mut().zip(fields) {
            *key = self.secret(
                ("s3", name),
                plain,
                selected,
                &["s3", "credentials", target],
            );
        }
        let mut source = S3Source::new(bucket?);
        source.credentials = match keys {
            [Some(access_key_id), Some(secret_access_key)] => Some(S3Credentials {
                access_key_id,
                secret_access_key,
                session_token: None,
            }),
            [None, None] => None,
            _ => {
                let what = "one half of the credentials; write `accessKey` and `secretKey`, or the two \
                            with `FromSecret`";
                self.problem(&["spec", "source", "s3"], what);
                None
            }
        };
        source.region = filled(&s3.region).map(str::to_owned);
        source.prefix = self.prefix(filled(&s3.path));
        let (url, path_style) = endpoint?;
        if url
            .as_ref()
            .is_some_and(|url| url.as_url().scheme() == "https")
            && path_style.is_none()
        {
            let what = "the service's certificate is checked now, which the original does not do: where \
                        its authority is your own, set `tls: {caFile: FILE}`";
            self.layer_note(
                NoteKind::Decide,
                &at("endpointUrl"),
                &["s3", "endpointUrl"],
                what,
            );
        }
        source.endpoint_url = url;
        source.path_style = path_style;
        Some(source)
    }

    fn prefix(&mut self, path: Option<&str>) -> Option<String> {
        let path = path?;
        let prefix = path.trim_matches('/');
        let fields = ["spec", "source", "s3", "path"];
        if prefix.split('/').any(|part| part == "..") {
            self.problem(
                &fields,
                "`..` leads nowhere in a bucket; write the path out",
            );
            return None;
        }
        if !path.ends_with('/') && !prefix.is_empty() {
            let what = "is a directory now: keys that only begin alike, such as `a` and `ab/c`, are not \
                        taken along";
            self.layer_note(NoteKind::Differs, &fields, &["s3", "prefix"], what);
        }
        (!prefix.is_empty()).then(|| prefix.to_owned())
    }

    /// Returns the service's URL and whether the bucket is in its path, where that has to be said.
    /// Amazon's own needs no URL: the region says it.
    fn endpoint(&mut self, text: &Plain) -> Option<(Option<HttpUrl>, Option<bool>)> {
        let fields = ["spec", "source", "s3", "endpointUrl"];
        let text = text.expose().trim();
        let whole = match text.contains("://") {
            true => text.to_owned(),
            // As the AWS library for Go has it.
            false => format!("https://{text}"),
        };
        let url: HttpUrl = self.parse(&fields, &whole)?;
        let host = url.as_url().host_str().unwrap_or_default();
        let Some(amazon) = host.strip_suffix(".amazonaws.com") else {
            return Some((Some(url), None));
        };
        let usual = amazon == "s3"
            || ["s3.", "s3-"]
                .iter()
                .filter_map(|begin| amazon.strip_prefix(begin))
                .any(|region| !region.contains('.'));
        match usual {
            true => Some((None, None)),
            false => Some((Some(url), Some(false))),
        }
    }
}
