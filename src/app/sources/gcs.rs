//! The section `gcs`.

use std::path::PathBuf;
use std::sync::Arc;

use crate::config;
use crate::source::{self, Source};

#[cfg(feature = "gcs")]
pub(super) fn build(gcs: &config::GcsSource) -> source::Result<Arc<dyn Source>> {
    use crate::source::Env;
    use crate::source::gcs::{GcsSettings, GcsSource};
    let settings = GcsSettings {
        bucket: gcs.bucket.as_str().to_owned(),
        prefix: gcs.prefix.clone().unwrap_or_default(),
        endpoint: { gcs.endpoint_url.as_ref() }.map(|u| u.as_str().to_owned()),
        anonymous: gcs.no_sign_request,
        service_account_key: gcs.service_account_key.as_ref().map(super::secret),
        user_project: gcs.user_project.clone(),
        tls: super::tls(&gcs.tls),
        proxy: super::proxy(&gcs.proxy),
    };
    Ok(Arc::new(GcsSource::new(settings, &Env::of_process())?))
}

#[cfg(feature = "gcs")]
pub(super) fn files(_: &config::GcsSource) -> Vec<PathBuf> {
    crate::source::gcs::local_files(&crate::source::Env::of_process())
}

#[cfg(not(feature = "gcs"))]
pub(super) fn build(_: &config::GcsSource) -> source::Result<Arc<dyn Source>> {
    Err(super::left_out("gcs"))
}

#[cfg(not(feature = "gcs"))]
pub(super) fn files(_: &config::GcsSource) -> Vec<PathBuf> {
    Vec::new()
}
