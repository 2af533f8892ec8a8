//! Secrets and other files that a volume names: whether they can be read, and by whom else.

use std::path::PathBuf;

use serde::Deserialize;
use serde_json::Value;

use super::Finding;
use crate::config::SecretRef;

/// What a volume file names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Named {
    /// The way to it in the volume file, such as `data.s3.credentials.secretAccessKey`.
    pub field: String,
    /// Where it is.
    pub place: Place,
}

/// Where something is that a volume file names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Place {
    /// A secret in an environment variable.
    Variable(String),
    /// A secret in a file: one by reference, or a private key.
    Secret(PathBuf),
    /// A file that is no secret.
    File(PathBuf),
    /// The volume file itself, which only one of another format may hold.
    Inline,
}

/// What was found at a place.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Looked {
    /// What was looked for.
    pub named: Named,
    /// That it could be read, and by whom; or why not, without what is in it.
    pub read: Result<Exposure, String>,
}

/// Who can read a file beside this user.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Exposure {
    /// Not everybody, as far as can be told.
    Closed,
    /// Everybody on the machine.
    Everybody,
}

/// Returns what a part of the volume refers to, as the volume file writes it. `name` is a layer's, or a
/// field's.
pub fn of_section(name: &str, layer: &Value) -> Vec<Named> {
    let mut found = Vec::new();
    walk(name, layer, &mut found);
    found
}

fn walk(field: &str, value: &Value, found: &mut Vec<Named>) {
    let fields = match value {
        Value::Object(fields) => fields,
        Value::Array(values) => {
            values.iter().for_each(|value| walk(field, value, found));
            return;
        }
        _ => return,
    };
    if let Ok(secret) = SecretRef::deserialize(value) {
        let place = match secret {
            SecretRef::FromEnv(name) => Place::Variable(name),
            SecretRef::FromFile(path) => Place::Secret(path),
            SecretRef::Given(_) => Place::Inline,
        };
        let field = field.to_owned();
        found.push(Named { field, place });
        return;
    }
    for (name, value) in fields {
        let field = format!("{field}.{name}");
        match (name.as_str(), value) {
            ("keyFile", Value::String(path)) => found.push(Named {
                field,
                place: Place::Secret(path.into()),
            }),
            ("caFile" | "certFile" | "knownHosts", Value::String(path)) => found.push(Named {
                field,
                place: Place::File(path.into()),
            }),
            _ => walk(&field, value, found),
        }
    }
}

/// Judges what was found.
pub fn judge(looked: &Looked) -> Finding {
    let Named { field, place } = &looked.named;
    let check = match place {
        Place::File(_) => "volume/file",
        _ => "volume/secret",
    };
    let there = "make the file, or let this user read it; in a pod, see that the Secret is mounted";
    let finding = match (place, &looked.read) {
        (Place::Variable(name), Err(why)) => Finding::fail(
            check,
            why,
            format!("set {name} for the process that mounts (here it is not)"),
        ),
        (_, Err(why)) => Finding::fail(check, why, there),
        (Place::Inline, Ok(_)) => Finding::warn(
            check,
            "the volume file itself holds it",
            "write it as a reference (`svol convert` does), and let nobody else read the file",
        ),
        (Place::Variable(name), Ok(_)) => Finding::ok(check, format!("{name} is set")),
        (Place::Secret(path), Ok(Exposure::Everybody)) => {
            let path = path.display();
            Finding::warn(
                check,
                format!("everybody on this machine can read {path}"),
                format!("run `chmod o= {path}` (Kubernetes: defaultMode: 0400 of its volume)"),
            )
        }
        (Place::Secret(path) | Place::File(path), Ok(_)) => {
            Finding::ok(check, format!("{} can be read", path.display()))
        }
    };
    finding.of(field.as_str())
}

#[cfg(test)]
mod tests {
    use super::super::Level;
    use super::*;

    #[test]
    fn references_are_found_wherever_they_are() {
        let layer = serde_json::json!({
            "s3": {
                "bucket": "b",
                "credentials": {
                    "accessKeyId": {"fromEnv": "ID"},
                    "secretAccessKey": {"fromFile": "/s/key"},
                },
                "tls": {"caFile": "/s/ca", "client": {"certFile": "/s/c", "keyFile": "/s/k"}},
                "proxy": {"url": "http://p", "auth": {"password": {"fromFile": "/s/p"}}},
            },
            "include": ["fromFile"],
        });
        let found = of_section("data", &layer);
        let place = |field: &str| {
            let named = found.iter().find(|n| n.field == format!("data.s3.{field}"));
            named
                .unwrap_or_else(|| panic!("{field}: {found:?}"))
                .place
                .clone()
        };
        assert_eq!(
            place("credentials.accessKeyId"),
            Place::Variable("ID".into())
        );
        for (field, path) in [
            ("credentials.secretAccessKey", "/s/key"),
            ("tls.client.keyFile", "/s/k"),
            ("proxy.auth.password", "/s/p"),
        ] {
            assert_eq!(place(field), Place::Secret(path.into()));
        }
        assert_eq!(place("tls.caFile"), Place::File("/s/ca".into()));
        assert_eq!(place("tls.client.certFile"), Place::File("/s/c".into()));
        assert_eq!(found.len(), 6);
        assert!(of_section("x", &Value::Null).is_empty());
    }

    fn looked(place: Place, read: Result<Exposure, String>) -> Finding {
        judge(&Looked {
            named: Named {
                field: "data.s3".into(),
                place,
            },
            read,
        })
    }

    #[test]
    fn secrets_that_all_can_read_are_warned_of() {
        let file = || Place::Secret("/s/key".into());
        let variable = || Place::Variable("KEY".into());
        let cert = || Place::File("/s/cert".into());
        for (place, exposure, expected) in [
            (file(), Exposure::Closed, Level::Ok),
            (file(), Exposure::Everybody, Level::Warn),
            (cert(), Exposure::Everybody, Level::Ok),
            (variable(), Exposure::Closed, Level::Ok),
            (Place::Inline, Exposure::Closed, Level::Warn),
        ] {
            let found = looked(place.clone(), Ok(exposure));
            assert_eq!(found.level, expected, "{place:?}");
            assert_eq!(found.subject.as_deref(), Some("data.s3"));
        }
        for place in [file(), variable(), cert()] {
            assert_eq!(looked(place, Err("gone".into())).level, Level::Fail);
        }
        let remedy = looked(variable(), Err("not set".into())).remedy.unwrap();
        assert!(remedy.contains("set KEY"), "{remedy}");
        let remedy = looked(file(), Ok(Exposure::Everybody)).remedy.unwrap();
        assert!(remedy.contains("chmod o= /s/key"), "{remedy}");
    }
}
