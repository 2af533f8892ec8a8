//! Smart HTTP.
//!
//! The first request finds out where the repository is (a redirect is followed, and credentials
//! stay with the host that they are for) and what the server can do; all others are POSTs to that
//! place, whose redirects are refused.

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures::StreamExt;
use reqwest::header::{self, HeaderValue};
use reqwest::{Response, StatusCode};
use tokio::sync::Mutex;
use url::Url;

use super::super::super::confidence::Confidences;
use super::super::super::{Error, ErrorKind, ProxySettings, Result, TlsSettings, wire};
use super::super::GitAuth;
use super::{Capabilities, Reply};

/// How many redirects the first request may take: a canonical name's, https, and some to spare.
const REDIRECTS: usize = 5;

/// How long what a server can do is believed without asking again.
const BELIEVED: Duration = Duration::from_secs(3600);

/// The service, as part of URLs and media types.
const SERVICE: &str = "git-upload-pack";

/// A repository on a web server.
pub(in super::super) struct Http {
    /// Without credentials, query and a slash at its end.
    url: Url,
    auth: Option<GitAuth>,
    confidences: Confidences,
    /// For the first request.
    finder: wire::Client,
    /// For all others.
    client: wire::Client,
    found: Mutex<Option<Arc<Found>>>,
}

struct Found {
    /// Where requests go.
    place: Url,
    capabilities: Arc<Capabilities>,
    at: Instant,
}

impl Http {
    /// Builds the way to a repository. Sends no request.
    pub(in super::super) fn new(
        url: Url,
        auth: Option<GitAuth>,
        tls: TlsSettings,
        proxy: Option<ProxySettings>,
    ) -> Result<Http> {
        let client = |redirects| {
            wire::Client::new(wire::ClientSettings {
                tls: tls.clone(),
                proxy: proxy.clone(),
                redirects,
            })
        };
        Ok(Http {
            finder: client(REDIRECTS)?,
            client: client(0)?,
            url,
            auth,
            confidences: Confidences::default(),
            found: Mutex::new(None),
        })
    }

    pub(super) fn conceal(&self, error: Error) -> Error {
        self.confidences.conceal(error)
    }

    pub(super) async fn capabilities(&self) -> Result<Arc<Capabilities>> {
        Ok(self.found().await?.capabilities.clone())
    }

    async fn found(&self) -> Result<Arc<Found>> {
        if let Some(found) = self.known().await {
            return Ok(found);
        }
        // Two that ask at once cost a request more, and wait for nobody's.
        let found = Arc::new(self.find().await?);
        *self.found.lock().await = Some(found.clone());
        Ok(found)
    }

    async fn known(&self) -> Option<Arc<Found>> {
        let found = self.found.lock().await;
        found
            .as_ref()
            .filter(|found| found.at.elapsed() < BELIEVED)
            .cloned()
    }

    async fn find(&self) -> Result<Found> {
        let mut url = self.url.clone();
        url.set_path(&format!("{}/info/refs", url.path()));
        url.set_query(Some(&format!("service={SERVICE}")));
        let response = self.execute(&url, None).await?;
        if response.status() != StatusCode::OK {
            return Err(self.explained(response).await);
        }
        let kind = wire::text(response.headers(), header::CONTENT_TYPE).unwrap_or_default();
        if kind != format!("application/x-{SERVICE}-advertisement") {
            let message = match kind.starts_with("text/plain") {
                true => {
                    "the server is a plain web server (\"dumb HTTP\"): it must run git-http-backend"
                        .into()
                }
                false => {
                    format!("there is no Git repository at the URL (a reply of type {kind:?})")
                }
            };
            return Err(Error::new(ErrorKind::Invalid, message));
        }
        let place = place(response.url())?;
        let mut reply = reply(response)?;
        let capabilities = Arc::new(Capabilities::read(&mut reply).await?);
        reply.finish().await;
        Ok(Found {
            place,
            capabilities,
            at: Instant::now(),
        })
    }

    pub(super) async fn send(&self, request: Bytes) -> Result<Reply> {
        let found = self.found().await?;
        let response = self.execute(&found.place, Some(request)).await?;
        if response.status() != StatusCode::OK {
            // It may have moved.
            *self.found.lock().await = None;
            return Err(self.explained(response).await);
        }
        reply(response)
    }

    /// Sends a request to `url`: a POST if it has a body.
    async fn execute(&self, url: &Url, body: Option<Bytes>) -> Result<Response> {
        // reqwest drops them where a redirect leaves the host.
        let auth = { self.auth.as_ref() }.filter(|_| url.origin() == self.url.origin());
        let secret = match auth.cloned() {
            None => String::new(),
            Some(
                GitAuth::Bearer(secret)
                | GitAuth::Basic {
                    password: secret, ..
                },
            ) => super::super::blocking(move || secret.read()).await?,
        };
        let client = match body {
            None => &self.finder,
            Some(_) => &self.client,
        };
        let request = |client: &reqwest::Client| {
            let request = match body {
                None => client.get(url.clone()),
                Some(body) => client
                    .post(url.clone())
                    .header(
                        header::CONTENT_TYPE,
                        format!("application/x-{SERVICE}-request"),
                    )
                    .header(header::ACCEPT, format!("application/x-{SERVICE}-result"))
                    .body(body),
            };
            let request = request.header("Git-Protocol", "version=2").header(
                header::ACCEPT_ENCODING,
                HeaderValue::from_static("identity"),
            );
            match auth {
                None => request,
                Some(GitAuth::Bearer(_)) => request.bearer_auth(secret.trim()),
                Some(GitAuth::Basic { username, .. }) => {
                    request.basic_auth(username, Some(secret.trim_end_matches('\n')))
                }
            }
        };
        client.send(&self.confidences, request).await
    }

    async fn explained(&self, response: Response) -> Error {
        let status = response.status();
        let hint = match (status, &self.auth) {
            (StatusCode::UNAUTHORIZED, None) => {
                "it wants credentials, and none are set (many say so of a repository that is not there)"
            }
            (StatusCode::UNAUTHORIZED, Some(_)) => "it does not accept the credentials",
            (StatusCode::FORBIDDEN, _) => "it does not permit that",
            (StatusCode::NOT_FOUND | StatusCode::GONE, None) => {
                "no such repository, or one that needs credentials"
            }
            (StatusCode::NOT_FOUND | StatusCode::GONE, Some(_)) => {
                "no such repository, or not for this user"
            }
            (s, _) if s.is_redirection() => "a redirect where none may be",
            _ => "",
        };
        let error = wire::status_error(status, response.headers(), hint);
        wire::discard(response).await;
        match error.kind() {
            // A repository that is not there is not an empty one.
            ErrorKind::NotFound | ErrorKind::Changed => {
                Error::new(ErrorKind::Invalid, error.to_string())
            }
            _ => error,
        }
    }
}

/// Returns where requests go, where the first one's reply came from `url`.
fn place(url: &Url) -> Result<Url> {
    let mut url = url.clone();
    url.set_query(None);
    let Some(base) = url.path().strip_suffix("/info/refs").map(str::to_owned) else {
        let message = format!("a redirect to another kind of place: {url}");
        return Err(Error::new(ErrorKind::Invalid, message));
    };
    url.set_path(&format!("{base}/{SERVICE}"));
    Ok(url)
}

fn reply(response: Response) -> Result<Reply> {
    wire::check_encoding(response.headers())?;
    let body = response
        .bytes_stream()
        .map(|chunk| chunk.map_err(wire::interrupted))
        .boxed();
    Ok(Reply::of_body(body))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_go_where_the_first_reply_came_from() {
        let of = |text: &str| place(&Url::parse(text).unwrap()).map(String::from);
        assert_eq!(
            of("https://h/a/b.git/info/refs?service=git-upload-pack").unwrap(),
            "https://h/a/b.git/git-upload-pack"
        );
        assert!(of("https://h/login?next=/info/refs").is_err());
    }
}
