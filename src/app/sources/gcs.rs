//! The section `gcs`.

use std::path::PathBuf;
use std::sync::Arc;

use super::left_out;
use crate::config;
use crate::source::{self, Source};

pub(super) fn build(_: &config::GcsSource) -> source::Result<Arc<dyn Source>> {
    Err(left_out("gcs"))
}

pub(super) fn files(_: &config::GcsSource) -> Vec<PathBuf> {
    Vec::new()
}
