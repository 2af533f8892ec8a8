//! The section `azure`.

use std::path::PathBuf;
use std::sync::Arc;

use super::left_out;
use crate::config;
use crate::source::{self, Source};

pub(super) fn build(_: &config::AzureSource) -> source::Result<Arc<dyn Source>> {
    Err(left_out("azure"))
}

pub(super) fn files(_: &config::AzureSource) -> Vec<PathBuf> {
    Vec::new()
}
