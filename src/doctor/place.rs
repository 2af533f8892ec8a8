//! Where a source's server is, as far as its settings tell.

use url::Url;

use crate::config::{FtpEncryption, Source};

/// The port of a server that speaks SSH.
const SSH: u16 = 22;

/// The port of a server that speaks Git's own protocol.
const GIT: u16 = 9418;

/// Where a source's server is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Server {
    /// Its name or address; an IPv6 address without brackets.
    pub host: String,
    /// Its port.
    pub port: u16,
    /// Its root, where it speaks HTTP.
    pub http: Option<Url>,
    /// Whether it is the one that is asked; else one of its kin that tells the time as well.
    pub is_certain: bool,
}

/// Returns the server that is asked; nothing for a source on this machine, and where a profile or a
/// connection string decides that only the source itself reads. `variable` reads the environment.
pub fn server(source: &Source, variable: &dyn Fn(&str) -> Option<String>) -> Option<Server> {
    let plain = |host: &str, port| Server {
        host: host.to_owned(),
        port,
        http: None,
        is_certain: true,
    };
    match source {
        Source::S3(s3) => {
            if let Some(url) = &s3.endpoint_url {
                return of_url(url.as_url());
            }
            let named = ["AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL"];
            let mut named = named.into_iter().filter_map(variable);
            if let Some(url) = named.next() {
                return of_url(&Url::parse(&url).ok()?);
            }
            // A profile may name anything; without one, bucket and region make the name.
            if s3.profile.is_some() {
                return None;
            }
            Some(Server {
                is_certain: false,
                ..of_url(&Url::parse("https://s3.amazonaws.com").ok()?)?
            })
        }
        Source::Gcs(gcs) => match &gcs.endpoint_url {
            Some(url) => of_url(url.as_url()),
            None => of_url(&Url::parse("https://storage.googleapis.com").ok()?),
        },
        Source::Azure(azure) => match (&azure.endpoint_url, &azure.account) {
            (Some(url), _) => of_url(url.as_url()),
            (None, Some(account)) => {
                of_url(&Url::parse(&format!("https://{account}.blob.core.windows.net")).ok()?)
            }
            (None, None) => None,
        },
        Source::Http(http) => of_url(http.url.as_url()),
        Source::Webdav(webdav) => of_url(webdav.url.as_url()),
        Source::Git(git) => of_url(git.url.as_url()?),
        Source::Sftp(sftp) => Some(plain(sftp.host.as_str(), sftp.port.unwrap_or(SSH))),
        Source::Ftp(ftp) => {
            let usual = match ftp.encryption {
                FtpEncryption::Implicit => 990,
                FtpEncryption::None | FtpEncryption::Explicit => 21,
            };
            Some(plain(ftp.host.as_str(), ftp.port.unwrap_or(usual)))
        }
        Source::Local(_) => None,
    }
}

fn of_url(url: &Url) -> Option<Server> {
    let port = match url.scheme() {
        "ssh" => url.port().unwrap_or(SSH),
        "git" => url.port().unwrap_or(GIT),
        _ => url.port_or_known_default()?,
    };
    let host = url.host_str()?;
    let host = host
        .trim_start_matches('[')
        .trim_end_matches(']')
        .to_owned();
    let http = matches!(url.scheme(), "http" | "https").then(|| {
        // Nothing of the path, and no name or password.
        let mut root = url.clone();
        root.set_path("/");
        root.set_query(None);
        root.set_fragment(None);
        let _ = root.set_username("");
        let _ = root.set_password(None);
        root
    });
    Some(Server {
        host,
        port,
        http,
        is_certain: true,
    })
}

/// Returns whether what the source is asked is signed with the time.
pub fn signs(source: &Source) -> bool {
    match source {
        Source::S3(s3) => !s3.no_sign_request,
        Source::Azure(azure) => !azure.no_sign_request,
        _ => false,
    }
}

/// Returns whether the source is asked by way of a proxy, so that the way to its server is not ours.
pub fn is_proxied(source: &Source, variable: &dyn Fn(&str) -> Option<String>) -> bool {
    let section = match source {
        Source::S3(it) => &it.proxy,
        Source::Gcs(it) => &it.proxy,
        Source::Azure(it) => &it.proxy,
        Source::Http(it) => &it.proxy,
        Source::Webdav(it) => &it.proxy,
        Source::Git(it) => &it.proxy,
        Source::Sftp(_) | Source::Ftp(_) | Source::Local(_) => return false,
    };
    // NO_PROXY may say otherwise of this host: then the way is not looked at, and nothing is lost.
    let names = ["HTTPS_PROXY", "https_proxy", "HTTP_PROXY", "http_proxy"];
    section.is_some() || names.iter().any(|name| variable(name).is_some())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::source_arg;

    fn source(text: &str) -> Source {
        let layer = source_arg::parse(text, std::path::Path::new("/"));
        layer.unwrap().source
    }

    fn none(_: &str) -> Option<String> {
        None
    }

    fn found(text: &str, variable: &dyn Fn(&str) -> Option<String>) -> Option<(String, u16)> {
        server(&source(text), variable).map(|server| (server.host, server.port))
    }

    #[test]
    fn servers_are_found_by_their_urls() {
        for (text, host, port) in [
            ("https://h/d/", "h", 443),
            ("http://[::1]:81/d/", "::1", 81),
            ("s3://b/p", "s3.amazonaws.com", 443),
            ("gs://bucket", "storage.googleapis.com", 443),
            ("sftp://u@h:2222/d", "h", 2222),
            ("sftp://h/d", "h", 22),
            ("ftp://h/d", "h", 21),
            ("git+ssh://git@h/r.git", "h", 22),
        ] {
            assert_eq!(found(text, &none), Some((host.into(), port)), "{text}");
        }
        assert_eq!(found("/srv", &none), None);
        let env = |name: &str| (name == "AWS_ENDPOINT_URL").then(|| "http://m:9000".to_owned());
        assert_eq!(found("s3://b", &env), Some(("m".into(), 9000)));
    }

    #[test]
    fn what_is_asked_of_the_clock_has_no_path() {
        let server = server(&source("https://h/secret/path/?q"), &none);
        let http = server.and_then(|server| server.http).unwrap();
        assert_eq!(http.as_str(), "https://h/");
    }

    #[test]
    fn proxies_and_signatures_are_noticed() {
        let env = |name: &str| (name == "https_proxy").then(|| "http://p".to_owned());
        assert!(is_proxied(&source("https://h/"), &env));
        assert!(!is_proxied(&source("https://h/"), &none));
        assert!(!is_proxied(&source("sftp://h/"), &env));
        assert!(signs(&source("s3://b")));
        assert!(!signs(&source("https://h/")));
    }
}
