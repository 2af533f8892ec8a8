//! A web server as a change hook.

use std::time::Duration;

use reqwest::header::{CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue};
use url::Url;

use crate::source::confidence::Confidences;
use crate::source::wire::{Client, ClientSettings, status_error};
use crate::source::{Error, ErrorKind, ProxySettings, Result, Secret, TlsSettings};

/// How often a change is sent: a server that restarts is back by the third time.
const TIMES: u32 = 3;

/// The pause after the first time; it doubles.
const PAUSE: Duration = Duration::from_secs(1);

/// Who posts.
#[derive(Debug, Clone)]
pub enum Auth {
    /// `Authorization: Bearer TOKEN`.
    Bearer(Secret),
    /// A user name and a password.
    Basic(String, Secret),
}

/// Where to post, and how.
#[derive(Debug, Clone)]
pub struct Settings {
    /// The URL. It is not shown.
    pub url: Url,
    /// What messages call it.
    pub shown: String,
    /// Who posts.
    pub auth: Option<Auth>,
    /// Further headers.
    pub headers: Vec<(HeaderName, Secret)>,
    /// Whom to trust, and who asks.
    pub tls: TlsSettings,
    /// The way to the server. Without it, the environment says.
    pub proxy: Option<ProxySettings>,
    /// How long all times together may take.
    pub limit: Duration,
}

/// A web server that is told of changes.
pub struct Webhook {
    settings: Settings,
    client: Client,
    confidences: Confidences,
}

impl std::fmt::Debug for Webhook {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Webhook")
            .field(&self.settings.shown)
            .finish()
    }
}

impl Webhook {
    /// Returns one. Reads files of certificates, which must be there and make sense.
    pub fn new(settings: Settings) -> Result<Webhook> {
        let client = Client::new(ClientSettings {
            tls: settings.tls.clone(),
            proxy: settings.proxy.clone(),
            // Whoever is told is named in the volume file.
            redirects: 0,
        })?;
        Ok(Webhook {
            settings,
            client,
            confidences: Confidences::default(),
        })
    }

    pub(super) fn shown(&self) -> &str {
        &self.settings.shown
    }

    /// Posts `body`, some times over where the server does not answer or says that it cannot now.
    pub(super) async fn send(&self, body: &[u8]) -> std::result::Result<(), String> {
        let limit = self.settings.limit;
        let mut last = None;
        let sent = tokio::time::timeout(limit, async {
            let mut pause = PAUSE;
            for time in 1..=TIMES {
                match self.send_once(body).await {
                    Ok(()) => return Ok(()),
                    Err(error) if time == TIMES || !error.kind().is_transient() => {
                        return Err(error);
                    }
                    Err(error) => {
                        let wait = error.retry_after().unwrap_or_default().max(pause);
                        last = Some(error);
                        tokio::time::sleep(wait).await;
                        pause *= 2;
                    }
                }
            }
            Ok(())
        })
        .await;
        let error = match (sent, last) {
            (Ok(Ok(())), _) => return Ok(()),
            (Ok(Err(error)), _) => error,
            (Err(_), Some(error)) => error.context(format!("no success within {limit:?}")),
            (Err(_), None) => Error::new(ErrorKind::Timeout, format!("no answer within {limit:?}")),
        };
        let error = self.confidences.conceal(error);
        Err(format!("{}: {error}", self.settings.shown))
    }

    async fn send_once(&self, body: &[u8]) -> Result<()> {
        let settings = self.settings.clone();
        let read = tokio::task::spawn_blocking(move || Sent::read(&settings));
        let stopped = |_| Error::new(ErrorKind::Unreachable, "the program is ending");
        let sent = read.await.map_err(stopped)??;
        for secret in sent.secrets {
            self.confidences.remember(secret);
        }
        let (url, headers) = (self.settings.url.clone(), sent.headers);
        let body = body.to_vec();
        let response = self
            .client
            .send(&self.confidences, |client| {
                let request = client.post(url).headers(headers).body(body);
                match sent.auth {
                    Some((None, token)) => request.bearer_auth(token.trim()),
                    Some((Some(user), password)) => request.basic_auth(user, Some(password)),
                    None => request,
                }
            })
            .await?;
        match response.status() {
            status if status.is_success() => Ok(()),
            // Its page may quote the URL, or more.
            status => Err(status_error(status, response.headers(), "")),
        }
    }
}

/// What is sent beside the body, secrets read. Not shown.
struct Sent {
    headers: HeaderMap,
    /// The user's name, where there is one, and the secret.
    auth: Option<(Option<String>, String)>,
    secrets: Vec<String>,
}

impl Sent {
    /// Blocks on the local disk.
    fn read(settings: &Settings) -> Result<Sent> {
        let mut headers = HeaderMap::new();
        let mut secrets = Vec::new();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        for (name, value) in &settings.headers {
            let value = value.read()?;
            let mut held = HeaderValue::from_str(&value).map_err(|_| {
                let what = format!("the value of the header {name} holds what no header can");
                Error::new(ErrorKind::Invalid, what)
            })?;
            held.set_sensitive(true);
            headers.insert(name.clone(), held);
            secrets.push(value);
        }
        let auth = match &settings.auth {
            None => None,
            Some(Auth::Bearer(token)) => Some((None, token.read()?)),
            Some(Auth::Basic(user, password)) => Some((Some(user.clone()), password.read()?)),
        };
        Ok(Sent {
            headers,
            auth,
            secrets,
        })
    }
}
