//! The section `local`.

use std::fmt;
use std::path::{Path, PathBuf};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::Problems;

/// A directory of this machine, read in place and never cached.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct LocalSource {
    /// The directory. In a volume file, a relative path starts at that file.
    #[schemars(length(min = 1))]
    pub path: PathBuf,
}

impl LocalSource {
    /// Makes the path absolute, without `.`: it is the source's identity.
    pub(super) fn resolve_paths(&mut self, base: &Path) {
        self.path = base.join(&self.path).components().collect();
    }

    pub(super) fn problems(&self, found: &mut Problems) {
        if self.path.as_os_str().is_empty() {
            found.add(&["path"], "the path is empty; write that of a directory");
        }
    }
}

/// Writes the source as a URL.
impl fmt::Display for LocalSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "file://{}", self.path.display())
    }
}
