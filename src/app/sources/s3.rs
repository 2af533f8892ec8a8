//! The section `s3`.

use std::path::PathBuf;
use std::sync::Arc;

use super::{proxy, secret, tls};
use crate::config;
use crate::source::s3::{Env, S3Keys, S3Settings, S3Source, local_files};
use crate::source::{self, Source};

pub(super) fn build(s3: &config::S3Source) -> source::Result<Arc<dyn Source>> {
    Ok(Arc::new(S3Source::new(settings(s3), &Env::of_process())?))
}

pub(super) fn files(s3: &config::S3Source) -> Vec<PathBuf> {
    local_files(s3.profile.as_deref(), &Env::of_process())
}

fn settings(s3: &config::S3Source) -> S3Settings {
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
        tls: tls(&s3.tls),
        proxy: proxy(&s3.proxy),
    }
}
