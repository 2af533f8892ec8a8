//! Secrets, which a volume file never holds: it names where they are.
//!
//! A message of this module names the variable or the file, never what is in it.

use std::borrow::Cow;
use std::fmt;
use std::io::Read;
use std::path::{Path, PathBuf};

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::de::{self, Deserializer, MapAccess, Visitor};
use serde::{Deserialize, Serialize};

/// The longest secret that is read from a file, in bytes: a token or a key, not a data file named
/// by mistake.
const MAX_SECRET: u64 = 64 * 1024;

/// Where a secret is to be found.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub enum SecretRef {
    /// An environment variable of the process that mounts.
    FromEnv(String),
    /// A file, whose content without a final line break is the secret. Read anew each time that
    /// the secret is needed, so that a rotated secret needs no restart.
    FromFile(PathBuf),
    /// The secret itself, out of a document of another format that held it. It is nowhere but in
    /// memory: a volume with it cannot be written.
    #[serde(skip_serializing)]
    Given(Secret),
}

/// A secret's text. It prints as `[secret]`.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

impl Secret {
    pub(crate) fn new(text: String) -> Self {
        Self(text)
    }

    /// Returns the secret itself, for the one place that sends it.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("[secret]")
    }
}

/// Says why a secret could not be had.
#[derive(Debug, thiserror::Error)]
pub enum SecretError {
    /// The variable is not set, or empty.
    #[error("the environment variable {0} is not set")]
    NoVariable(String),
    /// The file could not be read.
    #[error("cannot read the secret in {}: {cause}", path.display())]
    NoFile {
        /// The file that the volume names.
        path: PathBuf,
        /// What the system says.
        cause: std::io::Error,
    },
    /// The file's content cannot be a secret.
    #[error("{}: {why}", path.display())]
    BadFile {
        /// The file that the volume names.
        path: PathBuf,
        /// What is wrong with its content.
        why: &'static str,
    },
}

impl SecretRef {
    /// Returns the secret as it is now. Blocks on the file's disk for up to 64 KiB.
    pub fn read(&self) -> Result<Secret, SecretError> {
        match self {
            Self::FromEnv(name) => match std::env::var(name) {
                Ok(value) if !value.is_empty() => Ok(Secret(value)),
                _ => Err(SecretError::NoVariable(name.clone())),
            },
            Self::FromFile(path) => read_file(path),
            Self::Given(secret) => Ok(secret.clone()),
        }
    }

    /// Calls `each` with the file that the secret is in, if it is in one.
    pub(crate) fn each_file(&mut self, each: &mut dyn FnMut(&mut PathBuf)) {
        if let Self::FromFile(path) = self {
            each(path);
        }
    }
}

fn read_file(path: &Path) -> Result<Secret, SecretError> {
    let bad = |why| SecretError::BadFile {
        path: path.into(),
        why,
    };
    let mut bytes = Vec::new();
    std::fs::File::open(path)
        .and_then(|file| file.take(MAX_SECRET + 1).read_to_end(&mut bytes))
        .map_err(|cause| SecretError::NoFile {
            path: path.into(),
            cause,
        })?;
    if bytes.len() as u64 > MAX_SECRET {
        return Err(bad("the file is too large for a secret (64 KiB at most)"));
    }
    let mut text = String::from_utf8(bytes).map_err(|_| bad("the file is not UTF-8 text"))?;
    text.truncate(text.trim_end_matches(['\r', '\n']).len());
    if text.is_empty() {
        return Err(bad("the file is empty"));
    }
    Ok(Secret(text))
}

/// What to write where a secret was found in plain text.
const BY_REFERENCE: &str = "a secret in plain text does not belong in a volume file; write where \
                            it is: `{fromEnv: VARIABLE}` or `{fromFile: /path/to/file}`";

impl<'de> Deserialize<'de> for SecretRef {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(RefVisitor)
    }
}

/// Takes the map; anything else is refused without being repeated.
struct RefVisitor;

impl<'de> Visitor<'de> for RefVisitor {
    type Value = SecretRef;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("where a secret is: `{fromEnv: VARIABLE}` or `{fromFile: /path/to/file}`")
    }

    fn visit_str<E: de::Error>(self, _: &str) -> Result<SecretRef, E> {
        Err(E::custom(BY_REFERENCE))
    }

    fn visit_u64<E: de::Error>(self, _: u64) -> Result<SecretRef, E> {
        Err(E::custom(BY_REFERENCE))
    }

    fn visit_i64<E: de::Error>(self, _: i64) -> Result<SecretRef, E> {
        Err(E::custom(BY_REFERENCE))
    }

    fn visit_f64<E: de::Error>(self, _: f64) -> Result<SecretRef, E> {
        Err(E::custom(BY_REFERENCE))
    }

    fn visit_bool<E: de::Error>(self, _: bool) -> Result<SecretRef, E> {
        Err(E::custom(BY_REFERENCE))
    }

    fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<SecretRef, A::Error> {
        let fields = Fields::deserialize(de::value::MapAccessDeserializer::new(map))?;
        match (fields.from_env, fields.from_file) {
            (Some(name), None) if is_variable(&name) => Ok(SecretRef::FromEnv(name)),
            (Some(_), None) => Err(de::Error::custom(
                "`fromEnv` takes the name of an environment variable (letters, digits and `_`), \
                 not its value",
            )),
            (None, Some(path)) if !path.as_os_str().is_empty() => Ok(SecretRef::FromFile(path)),
            (None, Some(_)) => Err(de::Error::custom("`fromFile` takes the path of a file")),
            (None, None) => Err(de::Error::custom(
                "names no place; write fromEnv or fromFile",
            )),
            (Some(_), Some(_)) => Err(de::Error::custom(
                "two places (fromEnv and fromFile); write exactly one",
            )),
        }
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Fields {
    from_env: Option<String>,
    from_file: Option<PathBuf>,
}

fn is_variable(name: &str) -> bool {
    !name.is_empty()
        && !name.starts_with(|c: char| c.is_ascii_digit())
        && name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_')
}

impl JsonSchema for SecretRef {
    fn schema_name() -> Cow<'static, str> {
        "SecretRef".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "description": "Where a secret is; never the secret itself.",
            "type": "object",
            "properties": {
                "fromEnv": {
                    "description": "The name of an environment variable.",
                    "type": "string",
                    "pattern": "^[A-Za-z_][A-Za-z0-9_]*$",
                },
                "fromFile": {
                    "description": "The path of a file whose content is the secret.",
                    "type": "string",
                    "minLength": 1,
                },
            },
            "oneOf": [{ "required": ["fromEnv"] }, { "required": ["fromFile"] }],
            "additionalProperties": false,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_loses_its_last_line_break_only() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("token");
        std::fs::write(&path, " a b \r\n\n").unwrap();
        assert_eq!(SecretRef::FromFile(path).read().unwrap().expose(), " a b ");
    }

    #[test]
    fn files_that_hold_no_secret_are_refused_without_being_shown() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("token");
        for content in [&b"\n"[..], b"", b"hunter2\xff", &b"hunter2".repeat(20_000)] {
            std::fs::write(&path, content).unwrap();
            let error = SecretRef::FromFile(path.clone()).read().unwrap_err();
            assert!(!format!("{error} {error:?}").contains("hunter2"));
            assert!(error.to_string().contains("token"));
        }
        let error = SecretRef::FromFile(dir.path().join("none"))
            .read()
            .unwrap_err();
        assert!(matches!(error, SecretError::NoFile { .. }));
    }

    #[test]
    fn an_unset_variable_is_named() {
        let error = SecretRef::FromEnv("SVOL_TEST_NEVER_SET".into())
            .read()
            .unwrap_err();
        assert_eq!(
            error.to_string(),
            "the environment variable SVOL_TEST_NEVER_SET is not set"
        );
    }

    #[test]
    fn a_secret_does_not_print() {
        let secret = Secret("hunter2".into());
        assert_eq!(format!("{secret:?}"), "[secret]");
        let given = SecretRef::Given(secret);
        assert_eq!(format!("{given:?}"), "Given([secret])");
        assert_eq!(given.read().unwrap().expose(), "hunter2");
        let why = serde_json::to_string(&given).unwrap_err().to_string();
        assert!(!why.contains("hunter2"), "{why}");
    }
}
