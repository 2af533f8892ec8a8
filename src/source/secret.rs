//! Secrets as sources need them: read anew for each use, never shown.

use std::fmt;
use std::sync::Arc;

use super::{Error, ErrorKind, Result};

/// A secret that may change while we run (a rotated token in a file), so it is asked for anew
/// each time that it is needed. Prints as `[secret]`.
#[derive(Clone)]
pub struct Secret(Arc<dyn Fn() -> std::result::Result<String, String> + Send + Sync>);

impl Secret {
    /// Returns a secret that never changes.
    pub fn fixed(text: impl Into<String>) -> Secret {
        let text = text.into();
        Secret(Arc::new(move || Ok(text.clone())))
    }

    /// Returns a secret that `read` fetches each time: from a file, the environment. It may block
    /// on the local disk; its error must name the place and not the content.
    pub fn from_fn(
        read: impl Fn() -> std::result::Result<String, String> + Send + Sync + 'static,
    ) -> Secret {
        Secret(Arc::new(read))
    }

    /// Returns the secret as it is now; [`ErrorKind::Denied`] if it cannot be had.
    pub(crate) fn read(&self) -> Result<String> {
        (self.0)().map_err(|why| Error::new(ErrorKind::Denied, why))
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("[secret]")
    }
}
