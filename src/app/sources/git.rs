//! The section `git`.

use std::path::PathBuf;
use std::sync::Arc;

use super::{Surroundings, left_out};
use crate::config;
use crate::source::{self, Source};

pub(super) fn build(_: &config::GitSource, _: &Surroundings) -> source::Result<Arc<dyn Source>> {
    Err(left_out("git"))
}

pub(super) fn files(_: &config::GitSource) -> Vec<PathBuf> {
    Vec::new()
}
