//! Where the keys come from, in the AWS tools' order: what the volume names, the environment, the
//! shared files, then the platform (web identity, container, instance metadata; object_store's).

use std::path::PathBuf;
use std::sync::Arc;

use object_store::aws::{AmazonS3Builder, AmazonS3ConfigKey, AwsCredential};

use super::super::bucket::credentials::{
    METADATA_WAIT, PLATFORM_WAIT, Patient, blocking, client_options, no_retries,
};
use super::super::confidence::Confidences;
use super::super::secret::Secret;
use super::super::wire;
use super::super::{Error, ErrorKind, Result};
use super::Env;
use super::S3Settings;
use super::profile::Files;

/// Keys that a volume names.
#[derive(Debug, Clone)]
pub struct S3Keys {
    /// The access key's id.
    pub access_key_id: Secret,
    /// The access key.
    pub secret_access_key: Secret,
    /// The token of temporary keys.
    pub session_token: Option<Secret>,
}

/// Something that has keys, or knows that none are wanted.
pub(super) enum Credentials {
    Anonymous,
    Named(S3Keys),
    Environment(Arc<AwsCredential>),
    Chain(Box<Chain>),
}

/// The shared files, then the platform.
pub(super) struct Chain {
    files: Arc<Files>,
    platform: Option<Platform>,
}

struct Platform {
    what: &'static str,
    /// The file with the token that the service is sent.
    token: Option<PathBuf>,
    provider: Patient<AwsCredential>,
}

impl Credentials {
    /// Chooses by what is set now; looks nothing up yet.
    pub(super) fn choose(
        settings: &S3Settings,
        env: &Env,
        files: Arc<Files>,
        region: &str,
    ) -> Result<Credentials> {
        if settings.anonymous {
            return Ok(Credentials::Anonymous);
        }
        if let Some(keys) = &settings.credentials {
            return Ok(Credentials::Named(keys.clone()));
        }
        // A profile that the volume names beats the environment; AWS_PROFILE does not.
        if settings.profile.is_none() {
            match (
                env.get("AWS_ACCESS_KEY_ID"),
                env.get("AWS_SECRET_ACCESS_KEY"),
            ) {
                (Some(id), Some(secret)) => {
                    return Ok(Credentials::Environment(Arc::new(AwsCredential {
                        key_id: id.to_owned(),
                        secret_key: secret.to_owned(),
                        token: env.get("AWS_SESSION_TOKEN").map(str::to_owned),
                    })));
                }
                (None, None) => {}
                _ => {
                    return Err(Error::new(
                        ErrorKind::Invalid,
                        "only one of AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY is set",
                    ));
                }
            }
        }
        let platform = Platform::new(env, &files, region)?;
        Ok(Credentials::Chain(Box::new(Chain { files, platform })))
    }

    /// Returns the keys as they are now; nothing where requests are not to be signed.
    pub(super) async fn get(&self) -> Result<Option<Arc<AwsCredential>>> {
        match self {
            Credentials::Anonymous => Ok(None),
            Credentials::Environment(keys) => Ok(Some(keys.clone())),
            Credentials::Named(keys) => {
                let keys = keys.clone();
                blocking(move || {
                    Ok(Some(Arc::new(AwsCredential {
                        key_id: keys.access_key_id.read()?,
                        secret_key: keys.secret_access_key.read()?,
                        token: keys.session_token.map(|t| t.read()).transpose()?,
                    })))
                })
                .await
            }
            Credentials::Chain(chain) => chain.get().await.map(Some),
        }
    }
}

impl Chain {
    async fn get(&self) -> Result<Arc<AwsCredential>> {
        let profile = match self.files.recent() {
            Some(recent) => recent?,
            None => {
                let files = self.files.clone();
                blocking(move || files.load()).await?
            }
        };
        if let Some(keys) = profile.keys(self.files.name())? {
            return Ok(Arc::new(keys));
        }
        let Some(platform) = &self.platform else {
            return Err(none_found(None));
        };
        match platform.provider.get().await {
            Ok(keys) => Ok(keys),
            Err(failure) => {
                let error = none_found(Some((platform.what, &failure.why)));
                Err(platform.conceal(error).await)
            }
        }
    }
}

fn none_found(tried: Option<(&str, &str)>) -> Error {
    let tried = match tried {
        Some((what, why)) => format!("; {what} was asked last: {why}"),
        None => String::new(),
    };
    Error::new(
        ErrorKind::Denied,
        format!(
            "no AWS credentials were found: set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or a \
             profile of ~/.aws/credentials (AWS_PROFILE), or give --no-sign-request for a public \
             bucket{tried}"
        ),
    )
}

impl Platform {
    /// Returns the error without the token: a service may repeat it, a client may name the URL that
    /// it is in.
    async fn conceal(&self, error: Error) -> Error {
        let Some(file) = self.token.clone() else {
            return error;
        };
        let token = blocking(move || Ok(std::fs::read_to_string(file).unwrap_or_default())).await;
        let confidences = Confidences::default();
        confidences.remember(token.unwrap_or_default().trim().to_owned());
        confidences.conceal(error)
    }

    fn new(env: &Env, files: &Files, region: &str) -> Result<Option<Platform>> {
        use AmazonS3ConfigKey as Key;
        let mut builder = AmazonS3Builder::new()
            .with_bucket_name("unused")
            .with_region(region)
            .with_retry(no_retries())
            .with_client_options(client_options());
        // The files may be broken; whoever asks for keys is told then.
        let profile = files.load().ok();
        let profile = |key: &str| profile.as_ref()?.get(key).map(str::to_owned);
        let var = |name: &str| env.get(name).map(str::to_owned);
        let web = (
            var("AWS_WEB_IDENTITY_TOKEN_FILE").or_else(|| profile("web_identity_token_file")),
            var("AWS_ROLE_ARN").or_else(|| profile("role_arn")),
        );
        let relative = var("AWS_CONTAINER_CREDENTIALS_RELATIVE_URI");
        let full = (
            var("AWS_CONTAINER_CREDENTIALS_FULL_URI"),
            var("AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE"),
        );
        let mut file = None;
        let (what, wait) = if let (Some(token), Some(role)) = web {
            file = Some(PathBuf::from(&token));
            builder = builder
                .with_config(Key::WebIdentityTokenFile, token)
                .with_config(Key::RoleArn, role);
            if let Some(name) =
                var("AWS_ROLE_SESSION_NAME").or_else(|| profile("role_session_name"))
            {
                builder = builder.with_config(Key::RoleSessionName, name);
            }
            if let Some(sts) = var("AWS_ENDPOINT_URL_STS") {
                builder = builder.with_config(Key::StsEndpoint, sts);
            }
            ("web identity (AWS_WEB_IDENTITY_TOKEN_FILE)", PLATFORM_WAIT)
        } else if let Some(uri) = relative {
            builder = builder.with_config(Key::ContainerCredentialsRelativeUri, uri);
            ("the container's credential service", PLATFORM_WAIT)
        } else if let (Some(uri), Some(token)) = full {
            file = Some(PathBuf::from(&token));
            builder = builder
                .with_config(Key::ContainerCredentialsFullUri, uri)
                .with_config(Key::ContainerAuthorizationTokenFile, token);
            ("the container's credential service", PLATFORM_WAIT)
        } else if env.is_true("AWS_EC2_METADATA_DISABLED") {
            return Ok(None);
        } else {
            if let Some(endpoint) = var("AWS_EC2_METADATA_SERVICE_ENDPOINT") {
                builder = builder.with_metadata_endpoint(endpoint);
            }
            ("the instance metadata service", METADATA_WAIT)
        };
        crate::tls::install();
        let store = builder.build().map_err(|e| {
            let message = format!("cannot set up {what}: {}", wire::causes(&e));
            Error::new(ErrorKind::Invalid, message)
        })?;
        Ok(Some(Platform {
            what,
            token: file,
            provider: Patient::new(store.credentials().clone(), wait),
        }))
    }
}
