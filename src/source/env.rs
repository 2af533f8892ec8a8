//! Environment variables, as data: those by which the clouds' own tools are set up.

use std::collections::HashMap;

/// Environment variables, of this process or made up for a test.
#[derive(Clone, Default)]
pub struct Env(HashMap<String, String>);

impl Env {
    /// Returns this process's variables. Those that are not UTF-8 are left out.
    pub fn of_process() -> Env {
        let text = |(k, v): (std::ffi::OsString, std::ffi::OsString)| {
            Some((k.into_string().ok()?, v.into_string().ok()?))
        };
        Env(std::env::vars_os().filter_map(text).collect())
    }

    /// Returns the given variables and no others.
    pub fn from_pairs<K: Into<String>, V: Into<String>>(
        pairs: impl IntoIterator<Item = (K, V)>,
    ) -> Env {
        let pairs = pairs.into_iter();
        Env(pairs.map(|(k, v)| (k.into(), v.into())).collect())
    }

    /// Returns a variable that is set and not empty.
    pub(crate) fn get(&self, name: &str) -> Option<&str> {
        self.0
            .get(name)
            .map(String::as_str)
            .filter(|v| !v.is_empty())
    }

    /// Returns whether a variable is set to a word that means yes.
    pub(crate) fn is_true(&self, name: &str) -> bool {
        self.get(name)
            .is_some_and(|v| v.eq_ignore_ascii_case("true") || v == "1")
    }
}

impl std::fmt::Debug for Env {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // The values hold secrets.
        f.debug_set().entries(self.0.keys()).finish()
    }
}
