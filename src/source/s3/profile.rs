//! The shared configuration files of the AWS tools, read anew when they change.
//!
//! object_store knows the environment and the platform's credentials, but not these files.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use object_store::aws::AwsCredential;

use super::super::{Error, ErrorKind, Result};
use super::Env;

/// How long a look at the files' times serves: a rotated key is noticed within these seconds.
const RECHECK: Duration = Duration::from_secs(3);

/// The files and the profile that is wanted of them.
#[derive(Debug)]
pub(super) struct Files {
    config: PathBuf,
    credentials: PathBuf,
    name: String,
    /// Whether the user named the profile: then it must exist.
    named: bool,
    cache: Mutex<Option<Cached>>,
}

#[derive(Debug)]
struct Cached {
    looked: Instant,
    stamps: [Option<Stamp>; 2],
    profile: Result<Arc<Profile>>,
}

type Stamp = (SystemTime, u64);

/// The settings of one profile, from both files.
#[derive(Debug, Default)]
pub(super) struct Profile(HashMap<String, String>);

impl Files {
    /// Finds the files; `name` is the profile that the user's settings name, if they do.
    pub(super) fn new(name: Option<&str>, env: &Env) -> Files {
        let home = PathBuf::from(env.get("HOME").unwrap_or("/nonexistent"));
        let file = |variable: &str, default: &str| match env.get(variable) {
            Some(path) => match path.strip_prefix("~/") {
                Some(rest) => home.join(rest),
                None => path.into(),
            },
            None => home.join(default),
        };
        let name = name.or_else(|| env.get("AWS_PROFILE"));
        Files {
            config: file("AWS_CONFIG_FILE", ".aws/config"),
            credentials: file("AWS_SHARED_CREDENTIALS_FILE", ".aws/credentials"),
            name: name.unwrap_or("default").to_owned(),
            named: name.is_some(),
            cache: Mutex::new(None),
        }
    }

    /// Returns the profile if the files were looked at only just, without looking again.
    pub(super) fn recent(&self) -> Option<Result<Arc<Profile>>> {
        let cache = self.cache.try_lock().ok()?;
        let cached = cache.as_ref()?;
        (cached.looked.elapsed() < RECHECK).then(|| cached.profile.clone())
    }

    /// Returns the profile as the files have it now; empty where nobody named it and it is not
    /// there. Blocks on the disk of the files.
    pub(super) fn load(&self) -> Result<Arc<Profile>> {
        let mut cache = self.cache.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(cached) = cache.as_mut() {
            if cached.looked.elapsed() < RECHECK {
                return cached.profile.clone();
            }
            if cached.stamps == self.stamps() {
                cached.looked = Instant::now();
                return cached.profile.clone();
            }
        }
        // The times are taken first: a change during the reading is seen the next time.
        let stamps = self.stamps();
        let profile = self.read().map(Arc::new);
        *cache = Some(Cached {
            looked: Instant::now(),
            stamps,
            profile: profile.clone(),
        });
        profile
    }

    fn stamps(&self) -> [Option<Stamp>; 2] {
        [&self.config, &self.credentials].map(|path| {
            let meta = std::fs::metadata(path).ok()?;
            Some((meta.modified().ok()?, meta.len()))
        })
    }

    fn read(&self) -> Result<Profile> {
        let mut profile = HashMap::new();
        let mut found = false;
        let in_config = match self.name.as_str() {
            "default" => vec!["default".to_owned(), "profile default".to_owned()],
            name => vec![format!("profile {name}")],
        };
        let in_credentials = vec![self.name.clone()];
        // The credentials file wins where both say something.
        for (path, sections) in [
            (&self.config, in_config),
            (&self.credentials, in_credentials),
        ] {
            let Some(mut ini) = read_ini(path)? else {
                continue;
            };
            for section in sections {
                if let Some(section) = ini.remove(&section) {
                    found = true;
                    let pairs = section.into_iter();
                    profile.extend(pairs.map(|(k, v)| (k.to_lowercase(), v.unwrap_or_default())));
                }
            }
        }
        if self.named && !found {
            return Err(Error::new(
                ErrorKind::Invalid,
                format!(
                    "the AWS profile {} is neither in {} nor in {}",
                    self.name,
                    self.config.display(),
                    self.credentials.display()
                ),
            ));
        }
        Ok(Profile(profile))
    }

    /// Returns where the files are, or would be.
    pub(super) fn paths(&self) -> [&Path; 2] {
        [&self.config, &self.credentials]
    }

    /// Returns the profile's name.
    pub(super) fn name(&self) -> &str {
        &self.name
    }
}

/// The settings of each section.
pub(super) type Sections = HashMap<String, HashMap<String, Option<String>>>;

fn read_ini(path: &Path) -> Result<Option<Sections>> {
    let bad = |why: String| {
        let message = format!("cannot read {}: {why}", path.display());
        Error::new(ErrorKind::Invalid, message)
    };
    let text = match std::fs::read_to_string(path) {
        Ok(text) => text,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(e) => return Err(bad(e.to_string())),
    };
    parse_ini(text, path).map(Some)
}

/// Parses what was in the file at `path`.
pub(super) fn parse_ini(text: String, path: &Path) -> Result<Sections> {
    let bad = |why: String| {
        let message = format!("cannot read {}: {why}", path.display());
        Error::new(ErrorKind::Invalid, message)
    };
    // A key may hold any of the characters that other ini files take for comments.
    let mut syntax = configparser::ini::IniDefault::default();
    syntax.case_sensitive = true;
    syntax.delimiters = vec!['='];
    syntax.inline_comment_symbols = Some(vec![]);
    let mut ini = configparser::ini::Ini::new_from_defaults(syntax);
    // The parser's own message may quote a line, which may hold a key.
    let parsed = ini.read(text);
    parsed.map_err(|_| bad("it is not made of [sections] and `name = value` lines".into()))?;
    Ok(ini.get_map().unwrap_or_default())
}

impl Profile {
    /// Returns a setting, if it is there and not empty.
    pub(super) fn get(&self, key: &str) -> Option<&str> {
        self.0
            .get(key)
            .map(String::as_str)
            .filter(|v| !v.is_empty())
    }

    /// Returns the static keys, if the profile has them. A profile whose keys come in a way that
    /// is not supported is [`ErrorKind::Denied`], rather than silently passed over.
    pub(super) fn keys(&self, name: &str) -> Result<Option<AwsCredential>> {
        let denied = |why: String| Err(Error::new(ErrorKind::Denied, why));
        match (
            self.get("aws_access_key_id"),
            self.get("aws_secret_access_key"),
        ) {
            (Some(id), Some(secret)) => Ok(Some(AwsCredential {
                key_id: id.to_owned(),
                secret_key: secret.to_owned(),
                token: self.get("aws_session_token").map(str::to_owned),
            })),
            (Some(_), None) | (None, Some(_)) => denied(format!(
                "the AWS profile {name} has only one of aws_access_key_id and \
                 aws_secret_access_key"
            )),
            (None, None) => {
                let unsupported = [
                    "credential_process",
                    "sso_session",
                    "sso_start_url",
                    "source_profile",
                    "credential_source",
                ];
                match unsupported.into_iter().find(|key| self.get(key).is_some()) {
                    Some(key) => denied(format!(
                        "the AWS profile {name} takes its keys from {key}, which is not \
                         supported; put them into the environment instead: eval \"$(aws \
                         configure export-credentials --profile {name} --format env)\""
                    )),
                    None => Ok(None),
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn files(dir: &Path, name: Option<&str>) -> Files {
        let path = |file: &str| dir.join(file).to_string_lossy().into_owned();
        let env = Env::from_pairs([
            ("AWS_CONFIG_FILE", path("config")),
            ("AWS_SHARED_CREDENTIALS_FILE", path("credentials")),
        ]);
        Files::new(name, &env)
    }

    #[test]
    fn profiles_are_merged_from_both_files() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(
            dir.path().join("config"),
            "[default]\nregion = eu-west-1\n# a comment\n[profile work]\nregion=us-west-2\n\
             endpoint_url = http://127.0.0.1:9000\ns3 =\n  addressing_style = virtual\n",
        )
        .unwrap();
        std::fs::write(
            dir.path().join("credentials"),
            "[work]\naws_access_key_id = AK\naws_secret_access_key = a\\b\"c'd#e/f+g=\n\
             aws_session_token=T==\n",
        )
        .unwrap();
        let work = files(dir.path(), Some("work")).load().unwrap();
        assert_eq!(work.get("region"), Some("us-west-2"));
        assert_eq!(work.get("endpoint_url"), Some("http://127.0.0.1:9000"));
        assert_eq!(work.get("addressing_style"), Some("virtual"));
        let keys = work.keys("work").unwrap().unwrap();
        assert_eq!(keys.secret_key, "a\\b\"c'd#e/f+g=");
        assert_eq!(keys.token.as_deref(), Some("T=="));
        let default = files(dir.path(), None).load().unwrap();
        assert_eq!(default.get("region"), Some("eu-west-1"));
        assert!(default.keys("default").unwrap().is_none());
        let missing = files(dir.path(), Some("none")).load().unwrap_err();
        assert!(missing.to_string().contains("profile none"), "{missing}");
    }

    #[test]
    fn no_files_are_no_error_unless_named() {
        let dir = tempfile::tempdir().unwrap();
        assert!(files(dir.path(), None).load().is_ok());
        assert!(files(dir.path(), Some("x")).load().is_err());
    }

    #[test]
    fn unsupported_ways_to_keys_are_named() {
        let dir = tempfile::tempdir().unwrap();
        let text = "[default]\ncredential_process = /bin/secret-tool --token hunter2\n";
        std::fs::write(dir.path().join("config"), text).unwrap();
        let error = files(dir.path(), None).load().unwrap().keys("default");
        let error = error.unwrap_err().to_string();
        assert!(error.contains("credential_process") && !error.contains("hunter2"));
    }

    #[test]
    fn a_broken_file_is_named_without_its_content() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("config"), "[default\nhunter2").unwrap();
        let error = files(dir.path(), None).load().unwrap_err().to_string();
        assert!(
            error.contains("config") && !error.contains("hunter2"),
            "{error}"
        );
    }

    #[test]
    fn rotated_keys_are_read_again() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("credentials");
        let write = |id: &str| {
            let text = format!("[default]\naws_access_key_id={id}\naws_secret_access_key=s\n");
            std::fs::write(&path, text).unwrap();
        };
        write("one");
        let files = files(dir.path(), None);
        let id = || {
            files
                .load()
                .unwrap()
                .keys("default")
                .unwrap()
                .unwrap()
                .key_id
        };
        assert_eq!(id(), "one");
        write("another");
        // Before the next look the old ones serve; then the new ones.
        let mut cache = files.cache.lock().unwrap();
        let cached = cache.as_mut().unwrap();
        cached.looked = Instant::now().checked_sub(RECHECK).unwrap();
        drop(cache);
        assert_eq!(id(), "another");
    }
}
