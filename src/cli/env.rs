//! The process's surroundings, taken once and as data, so that what is made of them is a function
//! that a test can call.

use std::collections::BTreeMap;
use std::io;
use std::path::PathBuf;

/// What the settings depend on beside the command line and the volume file.
#[derive(Debug, Clone, Default)]
pub struct Env {
    /// The environment variables that are UTF-8.
    pub variables: BTreeMap<String, String>,
    /// The working directory, absolute.
    pub directory: PathBuf,
    /// Whether the effective user is root.
    pub root: bool,
}

impl Env {
    /// Returns the surroundings of this process. Fails where the working directory is gone.
    pub fn of_process() -> io::Result<Self> {
        Ok(Self {
            variables: std::env::vars_os()
                .filter_map(|(name, value)| {
                    Some((name.into_string().ok()?, value.into_string().ok()?))
                })
                .collect(),
            directory: std::env::current_dir()?,
            root: rustix::process::geteuid().is_root(),
        })
    }

    /// Returns a variable that is set and not empty.
    pub(super) fn get(&self, name: &str) -> Option<&str> {
        self.variables
            .get(name)
            .map(String::as_str)
            .filter(|value| !value.is_empty())
    }
}
