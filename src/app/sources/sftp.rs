//! The section `sftp`.

use std::path::PathBuf;
use std::sync::Arc;

use super::left_out;
use crate::config;
use crate::source::{self, Source};

pub(super) fn build(_: &config::SftpSource) -> source::Result<Arc<dyn Source>> {
    Err(left_out("sftp"))
}

pub(super) fn files(_: &config::SftpSource) -> Vec<PathBuf> {
    Vec::new()
}
