//! The section `http`.

use std::sync::Arc;

use super::{proxy, secret, tls};
use crate::config;
use crate::source::http::{
    HttpAuth, HttpSettings, HttpSource, IndexFormat, ManifestFormat, ManifestPlace,
    ManifestSettings,
};
use crate::source::{self, Source};

pub(super) fn build(http: &config::HttpSource) -> source::Result<Arc<dyn Source>> {
    Ok(Arc::new(HttpSource::new(settings(http))?))
}

fn settings(http: &config::HttpSource) -> HttpSettings {
    HttpSettings {
        manifest: http.manifest.as_ref().map(|manifest| ManifestSettings {
            place: match &manifest.location {
                config::ManifestLocation::Url(url) => ManifestPlace::Url(url.as_url().clone()),
                config::ManifestLocation::File(path) => ManifestPlace::File(path.clone()),
            },
            format: match manifest.format {
                config::ManifestFormat::List => ManifestFormat::List,
                config::ManifestFormat::Sha256sum => ManifestFormat::Sha256sum,
            },
        }),
        index: match http.index {
            config::IndexFormat::Auto => IndexFormat::Auto,
            config::IndexFormat::Html => IndexFormat::Html,
            config::IndexFormat::Json => IndexFormat::Json,
        },
        auth: http.auth.as_ref().map(|auth| match auth {
            config::HttpAuth::Bearer(bearer) => HttpAuth::Bearer(secret(&bearer.token)),
            config::HttpAuth::Basic(basic) => HttpAuth::Basic {
                username: basic.username.clone(),
                password: secret(&basic.password),
            },
        }),
        tls: tls(&http.tls),
        proxy: proxy(&http.proxy),
        ..HttpSettings::new(http.url.as_url().clone())
    }
}
