//! The section `ftp`.

use std::sync::Arc;

use super::left_out;
use crate::config;
use crate::source::{self, Source};

pub(super) fn build(_: &config::FtpSource) -> source::Result<Arc<dyn Source>> {
    Err(left_out("ftp"))
}
