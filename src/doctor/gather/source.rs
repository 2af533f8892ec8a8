//! The sources: all at once, each within its own deadline.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime};

use tokio::net::TcpStream;
use tokio::time::timeout;

use super::super::Finding;
use super::super::place::{self, Server};
use super::super::source::{self, Visit, Way, Went};
use crate::app;
use crate::config::Volume;
use crate::path::RelPath;
use crate::source::{ErrorKind, Source};

/// How long a server may take to be found and to take a connection.
const CONNECT: Duration = Duration::from_secs(5);

/// What a source may take beyond its deadline, to say so itself.
const SLACK: Duration = Duration::from_secs(2);

pub(super) async fn look_all(volume: &Volume, cache: &Path) -> Vec<Finding> {
    let scratch = Scratch::beside(cache);
    let all = (0..volume.spec.layers.len()).map(|index| visit(volume, index, &scratch.dir));
    let visits = futures::future::join_all(all).await;
    visits.iter().flat_map(source::judge).collect()
}

/// Where sources may keep what they know meanwhile.
struct Scratch {
    dir: PathBuf,
    is_ours: bool,
}

impl Scratch {
    /// The cache's own directory, so that what is there is not fetched again; one that is not there
    /// is not made for a question.
    fn beside(cache: &Path) -> Scratch {
        match cache.join("CACHEDIR.TAG").exists() {
            true => Scratch {
                dir: cache.to_owned(),
                is_ours: false,
            },
            false => Scratch {
                dir: std::env::temp_dir().join(format!("svol-doctor-{}", std::process::id())),
                is_ours: true,
            },
        }
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        if self.is_ours {
            let _ = std::fs::remove_dir_all(&self.dir);
        }
    }
}

async fn visit(volume: &Volume, index: usize, dir: &Path) -> Visit {
    let layer = &volume.spec.layers[index];
    let mut visit = Visit {
        layer: volume.layer_name(index),
        url: layer.source.to_string(),
        unusable: None,
        signs: place::signs(&layer.source),
        way: None,
        ahead: None,
        listed: None,
    };
    let (whole, dir) = (volume.clone(), dir.to_owned());
    let opened = super::bounded("source", move || app::open_source(&whole, index, &dir)).await;
    let guard = match opened {
        Ok(Ok(guard)) => guard,
        Ok(Err(error)) => {
            visit.unusable = Some(crate::control::causes(&error));
            return visit;
        }
        Err(finding) => {
            visit.unusable = Some(finding.saw);
            return visit;
        }
    };
    let server = place::server(&layer.source, &super::variable);
    if let Some(server) = &server
        && !place::is_proxied(&layer.source, &super::variable)
    {
        let way = go(server).await;
        let arrived = way.went == Went::Connected;
        visit.way = Some(way);
        // The source would try again and again, up to its deadline, and say no more than this.
        if !arrived && server.is_certain {
            return visit;
        }
    }
    let limit = layer.timeout() + SLACK;
    let listed = async {
        let began = Instant::now();
        match timeout(limit, guard.list(&RelPath::root())).await {
            Ok(Ok(listing)) => Ok((listing.entries.len(), began.elapsed())),
            Ok(Err(error)) => Err((error.kind(), error.to_string())),
            Err(_) => Err((
                ErrorKind::Timeout,
                format!("the listing of its root did not end within {limit:?}"),
            )),
        }
    };
    let ahead = async {
        let url = server.and_then(|server| server.http)?;
        // What keeps it from answering is said by the listing.
        let date = app::server_clock(layer, url).await.ok()??;
        Some(seconds_ahead(date))
    };
    let (listed, ahead) = tokio::join!(listed, ahead);
    visit.listed = Some(listed);
    visit.ahead = ahead;
    visit
}

fn seconds_ahead(date: SystemTime) -> i64 {
    let seconds = |difference: Duration| i64::try_from(difference.as_secs()).unwrap_or(i64::MAX);
    match date.duration_since(SystemTime::now()) {
        Ok(ahead) => seconds(ahead),
        Err(behind) => -seconds(behind.duration()),
    }
}

async fn go(server: &Server) -> Way {
    let to = match server.host.contains(':') {
        true => format!("[{}]:{}", server.host, server.port),
        false => format!("{}:{}", server.host, server.port),
    };
    let name = (server.host.as_str(), server.port);
    let addresses: Vec<_> = match timeout(CONNECT, tokio::net::lookup_host(name)).await {
        Ok(Ok(addresses)) => addresses.collect(),
        Ok(Err(error)) => {
            let went = Went::Unresolved(error.to_string());
            return Way { to, went };
        }
        Err(_) => {
            let went = Went::Unresolved(format!("no answer within {CONNECT:?}"));
            return Way { to, went };
        }
    };
    let went = match timeout(CONNECT, TcpStream::connect(&addresses[..])).await {
        Ok(Ok(_)) => Went::Connected,
        Ok(Err(error)) => Went::Refused(error.to_string()),
        Err(_) => Went::Silent(CONNECT),
    };
    Way { to, went }
}
