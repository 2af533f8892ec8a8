//! The client: its certificates and proxy, and following them when they change.

use std::path::Path;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use reqwest::{NoProxy, Proxy, RequestBuilder, Response, StatusCode};
use tracing::{info, warn};
use url::Url;

use super::super::confidence::Confidences;
use super::super::transport::{ProxySettings, TlsSettings};
use super::super::{Error, ErrorKind, Result};
use super::{Refused, causes, no_reply};

/// How long a connection may take to be made. A server that is there answers a SYN in well under
/// a second; one lost SYN costs a second, two cost three.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// How long an idle connection is kept. Under the 60 s and more of common servers, so that we
/// rarely send into a connection that the server is just closing.
const POOL_IDLE: Duration = Duration::from_secs(45);

/// How often certificates and the proxy's password are read again, at most. A rotated certificate
/// and its predecessor are valid together for far longer.
const LOOK: Duration = Duration::from_secs(5);

/// The largest file of certificates or keys that is read, in bytes: the system's own bundle has
/// 220 KiB.
const MAX_PEM: u64 = 4 << 20;

/// Hosts that no proxy is asked for: this machine, and the link's own addresses, at which clouds
/// keep their metadata.
const NEVER_BY_PROXY: &str = "localhost,127.0.0.0/8,::1,169.254.0.0/16,fe80::/10";

/// How a client differs from the default one.
#[derive(Debug, Clone, Default)]
pub(crate) struct ClientSettings {
    /// Whom to trust, and who asks.
    pub(crate) tls: TlsSettings,
    /// The way to the servers. Without it, the environment says.
    pub(crate) proxy: Option<ProxySettings>,
    /// How many redirects are followed.
    pub(crate) redirects: usize,
}

/// A client that follows changes of the files that it was made of. Requests under way end with what
/// they began with; idle connections are closed when something changed.
pub(crate) struct Client {
    settings: ClientSettings,
    /// A leaf.
    state: Mutex<State>,
}

struct State {
    client: reqwest::Client,
    made_of: Materials,
    /// When the files were last looked at; nothing where they are to be looked at next.
    looked: Option<Instant>,
}

impl Client {
    /// Builds one. Reads the files, which must be there and make sense.
    pub(crate) fn new(settings: ClientSettings) -> Result<Client> {
        let made_of = Materials::read(&settings)?;
        let state = Mutex::new(State {
            client: build(&settings, &made_of)?,
            made_of,
            looked: Some(Instant::now()),
        });
        Ok(Client { settings, state })
    }

    /// Returns the client to send the next request with, made of what the files hold now, and tells
    /// `confidences` the proxy's password. What was there before stays while a file makes no sense:
    /// it may be half written.
    pub(crate) async fn get(&self, confidences: &Confidences) -> Result<reqwest::Client> {
        if !self.is_time_to_look() {
            return Ok(self.known(confidences));
        }
        let settings = self.settings.clone();
        let read = tokio::task::spawn_blocking(move || Materials::read(&settings));
        let stopped = |_| Error::new(ErrorKind::Unreachable, "the program is ending");
        match read.await.map_err(stopped)? {
            Ok(materials) if materials == self.state().made_of => {}
            Ok(materials) => match build(&self.settings, &materials) {
                Ok(client) => {
                    let mut state = self.state();
                    state.client = client;
                    state.made_of = materials;
                    info!("certificates or the proxy's password have changed");
                }
                Err(error) => {
                    warn!(%error, "certificates changed and cannot be used; the ones before stay")
                }
            },
            Err(error) => warn!(%error, "certificates cannot be read again; the ones before stay"),
        }
        Ok(self.known(confidences))
    }

    /// Sends one request and returns any reply; what it holds in confidence is told to
    /// `confidences`.
    pub(crate) async fn send(
        &self,
        confidences: &Confidences,
        request: impl FnOnce(&reqwest::Client) -> RequestBuilder,
    ) -> Result<Response> {
        let client = self.get(confidences).await?;
        let request = request(&client).build().map_err(no_reply)?;
        confidences.note(request.headers());
        let result = client.execute(request).await.map_err(no_reply);
        // What the files may explain is reason to look at them before the next request: a
        // handshake that failed, a proxy's refusal, and the 400 of servers that want another
        // certificate.
        let doubtful = match &result {
            Ok(reply) => matches!(
                reply.status(),
                StatusCode::BAD_REQUEST | StatusCode::PROXY_AUTHENTICATION_REQUIRED
            ),
            Err(error) => matches!(error.kind(), ErrorKind::Invalid | ErrorKind::Denied),
        };
        if doubtful {
            self.state().looked = None;
        }
        result
    }

    /// Returns whether it shows a certificate of its own.
    pub(crate) fn has_certificate(&self) -> bool {
        self.settings.tls.client.is_some()
    }

    /// Says yes to one of those who ask at once.
    fn is_time_to_look(&self) -> bool {
        let tls = &self.settings.tls;
        let auth = self.settings.proxy.as_ref().and_then(|p| p.auth.as_ref());
        if tls.ca_bundle.is_none() && tls.client.is_none() && auth.is_none() {
            return false;
        }
        let mut state = self.state();
        let due = state.looked.is_none_or(|then| then.elapsed() >= LOOK);
        if due {
            state.looked = Some(Instant::now());
        }
        due
    }

    fn known(&self, confidences: &Confidences) -> reqwest::Client {
        let state = self.state();
        for password in &state.made_of.passwords {
            confidences.remember(password.clone());
        }
        state.client.clone()
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What the files and secrets hold. Not shown.
#[derive(PartialEq)]
struct Materials {
    authorities: Option<Vec<u8>>,
    /// Certificate and key, one after the other.
    identity: Option<Vec<u8>>,
    /// The proxies' passwords: the one that is set, or those in the environment's URLs.
    passwords: Vec<String>,
}

impl Materials {
    /// Blocks on the local disk.
    fn read(settings: &ClientSettings) -> Result<Materials> {
        let authorities = settings.tls.ca_bundle.as_deref();
        let authorities = authorities.map(|path| read_file(path, "the CA bundle"));
        let identity = settings.tls.client.as_ref().map(|client| {
            let mut pem = read_file(&client.certificate, "the client certificate")?;
            if client.key != client.certificate {
                pem.push(b'\n');
                pem.extend(read_file(&client.key, "the client certificate's key")?);
            }
            Ok::<_, Error>(pem)
        });
        let passwords = match &settings.proxy {
            None => env_proxies()
                .into_iter()
                .filter_map(|(_, url)| Some(url.password()?.to_owned()))
                .collect(),
            Some(ProxySettings { auth: None, .. }) => Vec::new(),
            Some(ProxySettings {
                auth: Some((_, password)),
                ..
            }) => vec![password.read().map_err(|e| e.context("the proxy"))?],
        };
        Ok(Materials {
            authorities: authorities.transpose()?,
            identity: identity.transpose()?,
            passwords,
        })
    }
}

fn read_file(path: &Path, what: &str) -> Result<Vec<u8>> {
    use std::io::Read;
    let bad = |why: &dyn std::fmt::Display| invalid(format!("{what} {}: {why}", path.display()));
    let mut bytes = Vec::new();
    let file = std::fs::File::open(path).map_err(|e| bad(&e))?;
    let mut file = file.take(MAX_PEM + 1);
    file.read_to_end(&mut bytes).map_err(|e| bad(&e))?;
    match bytes.len() as u64 > MAX_PEM {
        true => Err(bad(&"too large for a file of certificates (4 MiB at most)")),
        false => Ok(bytes),
    }
}

fn invalid(what: String) -> Error {
    Error::new(ErrorKind::Invalid, what)
}

/// Builds a client. HTTP/1 only: ranges of one object are fetched in parallel over connections of
/// their own, which one HTTP/2 connection's flow control would throttle together.
fn build(settings: &ClientSettings, made_of: &Materials) -> Result<reqwest::Client> {
    crate::tls::install();
    let mut builder = reqwest::Client::builder()
        .http1_only()
        .connect_timeout(CONNECT_TIMEOUT)
        .pool_idle_timeout(POOL_IDLE)
        .tcp_nodelay(true)
        .tcp_keepalive(Duration::from_secs(20))
        .redirect(redirects(settings.redirects))
        .referer(false)
        .user_agent(concat!("svol/", env!("CARGO_PKG_VERSION")))
        .no_proxy();
    if let (Some(path), Some(pem)) = (&settings.tls.ca_bundle, &made_of.authorities) {
        let bad = |why: &str| invalid(format!("the CA bundle {}: {why}", path.display()));
        let certificates =
            reqwest::Certificate::from_pem_bundle(pem).map_err(|e| bad(&causes(&e)))?;
        if certificates.is_empty() {
            return Err(bad("holds no PEM certificate"));
        }
        builder = builder.tls_certs_merge(certificates);
    }
    if let (Some(client), Some(pem)) = (&settings.tls.client, &made_of.identity) {
        let identity = reqwest::Identity::from_pem(pem).map_err(|e| {
            invalid(format!(
                "the client certificate {} or its key {}: {} (PEM is wanted, and a key without a \
                 passphrase)",
                client.certificate.display(),
                client.key.display(),
                causes(&e)
            ))
        })?;
        builder = builder.identity(identity);
    }
    for proxy in proxies(settings.proxy.as_ref(), &made_of.passwords)? {
        builder = builder.proxy(proxy);
    }
    builder
        .build()
        .map_err(|e| invalid(format!("cannot set up an HTTP client: {}", causes(&e))))
}

fn redirects(limit: usize) -> reqwest::redirect::Policy {
    reqwest::redirect::Policy::custom(move |attempt| {
        let downgrade = attempt.url().scheme() != "https"
            && attempt.previous().iter().any(|u| u.scheme() == "https");
        if downgrade {
            attempt.error(Refused::Downgrade)
        } else if limit > 0 && attempt.previous().len() > limit {
            attempt.error(Refused::TooMany)
        } else if limit == 0 {
            attempt.stop()
        } else {
            attempt.follow()
        }
    })
}

/// Returns the proxies, each for its scheme: the one that is set, or the environment's.
fn proxies(settings: Option<&ProxySettings>, passwords: &[String]) -> Result<Vec<Proxy>> {
    // The error may repeat a password.
    let bad = |_| invalid("the proxy's URL makes no sense; write http://host:port".into());
    let excepted = || NoProxy::from_string(&never_by_proxy());
    if let Some(ProxySettings { url, auth }) = settings {
        if !is_proxy(url) {
            return Err(invalid(format!(
                "a proxy is reached by http://, https:// or socks5://, not by {}://",
                url.scheme()
            )));
        }
        let mut proxy = Proxy::all(url.clone()).map_err(bad)?;
        if let (Some((user, _)), Some(password)) = (auth, passwords.first()) {
            proxy = proxy.basic_auth(user, password);
        }
        return Ok(vec![proxy.no_proxy(excepted())]);
    }
    let mut all = Vec::new();
    for (scheme, url) in env_proxies() {
        let proxy = match scheme {
            "https" => Proxy::https(url),
            _ => Proxy::http(url),
        };
        all.push(proxy.map_err(bad)?.no_proxy(excepted()));
    }
    Ok(all)
}

fn is_proxy(url: &Url) -> bool {
    matches!(url.scheme(), "http" | "https" | "socks5" | "socks5h") && url.has_host()
}

/// Returns what NO_PROXY names, and what is never reached by a proxy.
fn never_by_proxy() -> String {
    let named = variable(["NO_PROXY", "no_proxy"]).unwrap_or_default();
    format!("{named},{NEVER_BY_PROXY}")
}

/// Returns the proxies of the environment, each with the scheme of what is asked through it. As with
/// curl, one without a scheme is an http one; what makes no sense is left out with a warning that
/// does not repeat it.
fn env_proxies() -> Vec<(&'static str, Url)> {
    // A web server puts a request's `Proxy:` header where the variable is.
    if std::env::var_os("REQUEST_METHOD").is_some() {
        return Vec::new();
    }
    let names = [
        ("https", ["HTTPS_PROXY", "https_proxy"]),
        ("http", ["http_proxy", "HTTP_PROXY"]),
    ];
    let mut all = Vec::new();
    for (scheme, names) in names {
        let value = variable(names).or_else(|| variable(["ALL_PROXY", "all_proxy"]));
        let Some(value) = value else { continue };
        match proxy_url(&value) {
            Some(url) => all.push((scheme, url)),
            None => warn!(
                "{} or ALL_PROXY names no proxy that can be used; none is",
                names[0]
            ),
        }
    }
    all
}

fn proxy_url(text: &str) -> Option<Url> {
    let text = text.trim();
    let url = match text.contains("://") {
        true => Url::parse(text),
        false => Url::parse(&format!("http://{text}")),
    };
    url.ok().filter(is_proxy)
}

fn variable(names: [&str; 2]) -> Option<String> {
    let set = names.iter().filter_map(|name| std::env::var(name).ok());
    { set }.find(|value| !value.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn proxies_of_the_environment_may_lack_a_scheme() {
        let shown = |text| proxy_url(text).map(|url| url.to_string());
        assert_eq!(shown("proxy:3128").as_deref(), Some("http://proxy:3128/"));
        assert_eq!(shown("socks5h://p:1").as_deref(), Some("socks5h://p:1"));
        for bad in ["", "ftp://p", "http://", "a b"] {
            assert_eq!(shown(bad), None, "{bad}");
        }
    }

    #[test]
    fn files_that_make_no_sense_are_named() {
        let dir = tempfile::tempdir().unwrap();
        let odd = dir.path().join("odd.pem");
        std::fs::write(&odd, "hunter2").unwrap();
        let tls = |ca: Option<&Path>, own: Option<&Path>| TlsSettings {
            ca_bundle: ca.map(Into::into),
            client: own.map(|own| super::super::super::transport::ClientCertificate {
                certificate: own.into(),
                key: own.into(),
            }),
        };
        for (tls, part) in [
            (tls(Some(&odd), None), "the CA bundle"),
            (tls(Some(&dir.path().join("none")), None), "the CA bundle"),
            (tls(None, Some(&odd)), "passphrase"),
        ] {
            let error = Client::new(ClientSettings {
                tls,
                ..ClientSettings::default()
            });
            let error = error.map(|_| ()).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Invalid);
            let text = error.to_string();
            assert!(
                text.contains(part) && text.contains(".pem") || text.contains("none"),
                "{text}"
            );
            assert!(!text.contains("hunter2"), "{text}");
        }
    }

    #[tokio::test]
    async fn a_file_that_changes_makes_another_client_and_a_broken_one_does_not() {
        let dir = tempfile::tempdir().unwrap();
        let password = dir.path().join("password");
        std::fs::write(&password, "first-hunter2").unwrap();
        let path = password.clone();
        let secret = super::super::super::Secret::from_fn(move || {
            std::fs::read_to_string(&path).map_err(|e| e.to_string())
        });
        let settings = ClientSettings {
            proxy: Some(ProxySettings {
                url: Url::parse("http://proxy:3128").unwrap(),
                auth: Some(("me".into(), secret)),
            }),
            ..ClientSettings::default()
        };
        let client = Client::new(settings).unwrap();
        let confidences = Confidences::default();
        let now = |client: &Client| client.state().made_of.passwords.clone();
        std::fs::write(&password, "second-hunter2").unwrap();
        client.get(&confidences).await.unwrap();
        assert_eq!(now(&client), ["first-hunter2"], "not looked at yet");
        client.state().looked = None;
        client.get(&confidences).await.unwrap();
        assert_eq!(now(&client), ["second-hunter2"]);
        std::fs::remove_file(&password).unwrap();
        client.state().looked = None;
        client.get(&confidences).await.unwrap();
        assert_eq!(now(&client), ["second-hunter2"]);
        let said = confidences.conceal(Error::lied("the proxy says second-hunter2"));
        assert_eq!(said.to_string(), "the proxy says [secret]");
    }
}
