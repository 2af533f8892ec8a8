//! The section `local`.

use std::sync::Arc;

use crate::config;
use crate::source::local::LocalSource;
use crate::source::{self, Source};

pub(super) fn build(local: &config::LocalSource) -> source::Result<Arc<dyn Source>> {
    Ok(Arc::new(LocalSource::new(&local.path)?))
}
