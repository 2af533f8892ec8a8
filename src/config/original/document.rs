//! The fields of `SharedVolume` and `ClusterSharedVolume`, `sv.sharedvolume.io/v1alpha1`.
//!
//! Names and meanings are those of the original's `api/v1alpha1/volume_common_types.go`. To it, a
//! text that is empty is one that is not there. Of the source every field has to be known, since it
//! says what is shown; what else is unknown is reported from the tree.

use std::collections::BTreeMap;
use std::fmt;

use serde::Deserialize;

use crate::config::secret::Secret;

/// The fields of `spec` that are used; the report says why each other one is not.
pub(super) const USED: [&str; 5] = [
    "mountPath",
    "source",
    "storage",
    "syncInterval",
    "syncTimeout",
];

#[derive(Debug, Deserialize)]
pub(super) struct Document {
    pub(super) metadata: Metadata,
    pub(super) spec: Spec,
}

/// Kubernetes adds many fields here that are its own.
#[derive(Debug, Deserialize)]
pub(super) struct Metadata {
    pub(super) name: String,
    #[serde(default)]
    pub(super) namespace: Option<String>,
    #[serde(default)]
    pub(super) labels: Option<BTreeMap<String, String>>,
    #[serde(default)]
    pub(super) annotations: Option<BTreeMap<String, String>>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Spec {
    #[serde(default)]
    pub(super) mount_path: Option<String>,
    #[serde(default)]
    pub(super) sync_interval: Option<String>,
    #[serde(default)]
    pub(super) sync_timeout: Option<String>,
    #[serde(default)]
    pub(super) storage: Option<Storage>,
    #[serde(default)]
    pub(super) source: Option<Source>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Storage {
    #[serde(default)]
    pub(super) access_mode: Option<String>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Source {
    #[serde(default)]
    pub(super) ssh: Option<Ssh>,
    #[serde(default)]
    pub(super) http: Option<Http>,
    #[serde(default)]
    pub(super) git: Option<Git>,
    #[serde(default)]
    pub(super) s3: Option<S3>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct Ssh {
    pub(super) host: String,
    #[serde(default)]
    pub(super) port: Option<u32>,
    #[serde(default)]
    pub(super) user: Option<String>,
    #[serde(default)]
    pub(super) password: Option<Plain>,
    #[serde(default)]
    pub(super) password_from_secret: Option<SecretKey>,
    #[serde(default)]
    pub(super) private_key: Option<Plain>,
    #[serde(default)]
    pub(super) private_key_from_secret: Option<SecretKey>,
    #[serde(default)]
    pub(super) path: Option<String>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Http {
    pub(super) url: Plain,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct Git {
    pub(super) url: Plain,
    #[serde(default)]
    pub(super) user: Option<String>,
    #[serde(default)]
    pub(super) password: Option<Plain>,
    #[serde(default)]
    pub(super) password_from_secret: Option<SecretKey>,
    #[serde(default)]
    pub(super) private_key: Option<Plain>,
    #[serde(default)]
    pub(super) private_key_from_secret: Option<SecretKey>,
    #[serde(default)]
    pub(super) branch: Option<String>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct S3 {
    pub(super) endpoint_url: Plain,
    pub(super) bucket_name: String,
    #[serde(default)]
    pub(super) path: Option<String>,
    #[serde(default)]
    pub(super) access_key: Option<Plain>,
    #[serde(default)]
    pub(super) access_key_from_secret: Option<SecretKey>,
    #[serde(default)]
    pub(super) secret_key: Option<Plain>,
    #[serde(default)]
    pub(super) secret_key_from_secret: Option<SecretKey>,
    #[serde(default)]
    pub(super) region: Option<String>,
}

/// One key of a Kubernetes Secret.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct SecretKey {
    pub(super) name: String,
    pub(super) key: String,
    #[serde(default)]
    pub(super) namespace: Option<String>,
}

/// A text that is, or may hold, a secret. It prints as `[secret]`.
#[derive(Deserialize)]
#[serde(from = "String")]
pub(super) struct Plain(Secret);

impl Plain {
    pub(super) fn expose(&self) -> &str {
        self.0.expose()
    }
}

impl From<String> for Plain {
    fn from(text: String) -> Self {
        Self(Secret::new(text))
    }
}

impl fmt::Debug for Plain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}
