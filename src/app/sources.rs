//! From what a volume file says of a source to the source itself.

use std::sync::Arc;

use crate::config::{self, SecretRef};
use crate::source::http::{
    HttpAuth, HttpSettings, HttpSource, IndexFormat, ManifestFormat, ManifestPlace,
    ManifestSettings,
};
use crate::source::local::LocalSource;
use crate::source::s3::{Env, S3Keys, S3Settings, S3Source};
use crate::source::{self, Secret, Source};

/// Builds the source that `spec` describes. Sends no request.
pub(super) fn build(spec: &config::Source) -> source::Result<Arc<dyn Source>> {
    Ok(match spec {
        config::Source::S3(s3) => Arc::new(S3Source::new(s3_settings(s3), &Env::of_process())?),
        config::Source::Http(http) => Arc::new(HttpSource::new(http_settings(http))?),
        config::Source::Local(local) => Arc::new(LocalSource::new(&local.path)?),
    })
}

fn s3_settings(s3: &config::S3Source) -> S3Settings {
    S3Settings {
        bucket: s3.bucket.as_str().to_owned(),
        prefix: s3.prefix.clone().unwrap_or_default(),
        region: s3.region.clone(),
        endpoint: s3.endpoint_url.as_ref().map(|u| u.as_str().to_owned()),
        virtual_host: s3.path_style.map(|path_style| !path_style),
        anonymous: s3.no_sign_request,
        profile: s3.profile.clone(),
        requester_pays: s3.requester_pays,
        credentials: s3.credentials.as_ref().map(|keys| S3Keys {
            access_key_id: secret(&keys.access_key_id),
            secret_access_key: secret(&keys.secret_access_key),
            session_token: keys.session_token.as_ref().map(secret),
        }),
        ca_bundle: None,
    }
}

fn http_settings(http: &config::HttpSource) -> HttpSettings {
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
        ..HttpSettings::new(http.url.as_url().clone())
    }
}

fn secret(reference: &SecretRef) -> Secret {
    let reference = reference.clone();
    Secret::from_fn(move || match reference.read() {
        Ok(secret) => Ok(secret.expose().to_owned()),
        Err(error) => Err(error.to_string()),
    })
}
