//! The section `webdav`.

use std::sync::Arc;

use crate::config;
use crate::source::{self, Source};

#[cfg(feature = "webdav")]
pub(super) fn build(webdav: &config::WebdavSource) -> source::Result<Arc<dyn Source>> {
    use super::{http, proxy, tls};
    use crate::source::http::{HttpSettings, HttpSource, IndexFormat};

    let settings = HttpSettings {
        index: IndexFormat::Webdav,
        auth: webdav.auth.as_ref().map(http::auth),
        tls: tls(&webdav.tls),
        proxy: proxy(&webdav.proxy),
        ..HttpSettings::new(webdav.url.as_url().clone())
    };
    Ok(Arc::new(HttpSource::new(settings)?))
}

#[cfg(not(feature = "webdav"))]
pub(super) fn build(_: &config::WebdavSource) -> source::Result<Arc<dyn Source>> {
    Err(super::left_out("webdav"))
}
