//! The control endpoint over TCP, for scrapers and probes: it tells, and takes no orders.
//!
//! On loopback anybody on the machine may ask, unless a token is set or certificates are asked for;
//! beyond loopback one of the two is a must, and the command line sees to that. Connections are bounded
//! in number and in time, the agreement on TLS included.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use axum::extract::{Request, State};
use axum::http::{StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use axum::serve::Listener;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{Sleep, sleep};
use tokio_rustls::server::TlsStream;

use super::tls::Tls;
use crate::config::SecretRef;

/// Connections at once: a scraper and a few probes, and room for people.
const CONNECTIONS: usize = 16;

/// How long a connection may last. A scraper connects again; one who sends nothing is gone.
const LIFETIME: Duration = Duration::from_secs(60);

/// A listening socket, and who may ask there.
#[derive(Debug)]
pub struct Door {
    /// The socket, bound before the sandbox.
    pub socket: std::net::TcpListener,
    /// Who may come in.
    pub rules: Rules,
}

/// Who may ask, and how.
#[derive(Debug, Clone, Default)]
pub struct Rules {
    /// The file that the token is in; nothing where none is asked for.
    pub token: Option<PathBuf>,
    /// What connections are secured with; nothing for plain HTTP.
    pub tls: Option<Arc<Tls>>,
}

impl Door {
    /// Listens at `address`.
    pub fn open(address: SocketAddr, rules: Rules) -> io::Result<Door> {
        let socket = std::net::TcpListener::bind(address)?;
        Door::at(socket, rules)
    }

    /// Returns one at a socket that listens already.
    pub fn at(socket: std::net::TcpListener, rules: Rules) -> io::Result<Door> {
        socket.set_nonblocking(true)?;
        Ok(Door { socket, rules })
    }
}

/// Lets those in who have the token, where there is one; else those that did not get here through a
/// web page whose name was made to stand for this machine. Over TLS no such page gets here: our
/// certificate is not one for its name.
pub(super) async fn admit(
    State(Rules { token, tls }): State<Rules>,
    request: Request,
    next: Next,
) -> Response {
    let refused = match token {
        Some(file) => {
            let given = bearer(&request).map(str::to_owned);
            let right = tokio::task::spawn_blocking(move || is_right(&file, given.as_deref()));
            match right.await {
                Ok(true) => None,
                _ => Some((StatusCode::UNAUTHORIZED, "a bearer token is wanted\n")),
            }
        }
        None if tls.is_some() || is_addressed_by_number(&request) => None,
        None => Some((StatusCode::FORBIDDEN, "ask by address, not by a name\n")),
    };
    match refused {
        None => next.run(request).await,
        Some((status, text)) => {
            (status, [(header::WWW_AUTHENTICATE, "Bearer")], text).into_response()
        }
    }
}

fn bearer(request: &Request) -> Option<&str> {
    let value = request.headers().get(header::AUTHORIZATION)?;
    let (scheme, token) = value.to_str().ok()?.split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then(|| token.trim())
}

/// Returns whether a token is the one in the file, which is read each time: it may be rotated.
fn is_right(file: &Path, given: Option<&str>) -> bool {
    match SecretRef::FromFile(file.to_owned()).read() {
        Ok(token) => given.is_some_and(|given| {
            // Hashes are compared in constant time.
            blake3::hash(given.as_bytes()) == blake3::hash(token.expose().as_bytes())
        }),
        Err(error) => {
            tracing::warn!(%error, "nobody is let in by TCP");
            false
        }
    }
}

fn is_addressed_by_number(request: &Request) -> bool {
    let host = request.headers().get(header::HOST);
    let Some(Ok(host)) = host.map(|host| host.to_str()) else {
        return false;
    };
    let name = match host.rsplit_once(':') {
        Some((name, port)) if port.bytes().all(|b| b.is_ascii_digit()) => name,
        _ => host,
    };
    let number = name.trim_start_matches('[').trim_end_matches(']');
    name == "localhost" || number.parse::<IpAddr>().is_ok()
}

/// A listener that bounds its connections.
pub(super) struct Bounded {
    listener: TcpListener,
    tls: Option<Arc<Tls>>,
    room: Arc<Semaphore>,
}

impl Bounded {
    /// Wraps a socket that is bound.
    pub(super) fn new(socket: std::net::TcpListener, tls: Option<Arc<Tls>>) -> io::Result<Bounded> {
        Ok(Bounded {
            listener: TcpListener::from_std(socket)?,
            tls,
            room: Arc::new(Semaphore::new(CONNECTIONS)),
        })
    }
}

impl Listener for Bounded {
    type Io = Connection;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (Connection, SocketAddr) {
        // Never closed; were it, nobody would get in any more.
        let Ok(room) = self.room.clone().acquire_owned().await else {
            return std::future::pending().await;
        };
        let (stream, address) = Listener::accept(&mut self.listener).await;
        let connection = Connection {
            stream: match &self.tls {
                None => Stream::Plain(stream),
                // By whoever reads first, so that one who is slow keeps nobody else out.
                Some(tls) => Stream::Agreeing(Box::pin(tls.clone().accept(stream))),
            },
            end: Box::pin(sleep(LIFETIME)),
            _room: room,
        };
        (connection, address)
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.listener.local_addr()
    }
}

/// A connection that ends in time.
pub(super) struct Connection {
    stream: Stream,
    end: Pin<Box<Sleep>>,
    _room: OwnedSemaphorePermit,
}

type Agreeing = Pin<Box<dyn Future<Output = io::Result<TlsStream<TcpStream>>> + Send>>;

enum Stream {
    Plain(TcpStream),
    Agreeing(Agreeing),
    Secured(Box<TlsStream<TcpStream>>),
}

/// A stream that bytes can go over.
trait Duplex: AsyncRead + AsyncWrite + Unpin {}

impl<T: AsyncRead + AsyncWrite + Unpin> Duplex for T {}

impl Connection {
    /// Returns the stream once both sides agree on how to secure it, and while there is time.
    fn poll_stream(&mut self, context: &mut Context<'_>) -> Poll<io::Result<Pin<&mut dyn Duplex>>> {
        self.check(context)?;
        if let Stream::Agreeing(agreeing) = &mut self.stream {
            let secured = std::task::ready!(agreeing.as_mut().poll(context))?;
            self.stream = Stream::Secured(Box::new(secured));
        }
        Poll::Ready(Ok(match &mut self.stream {
            Stream::Plain(stream) => Pin::new(stream),
            Stream::Secured(stream) => Pin::new(&mut **stream),
            Stream::Agreeing(_) => return Poll::Ready(Err(io::ErrorKind::NotConnected.into())),
        }))
    }

    fn check(&mut self, context: &mut Context<'_>) -> io::Result<()> {
        match self.end.as_mut().poll(context) {
            Poll::Ready(()) => Err(io::ErrorKind::TimedOut.into()),
            Poll::Pending => Ok(()),
        }
    }
}

impl AsyncRead for Connection {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        into: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let stream = std::task::ready!(self.poll_stream(context))?;
        stream.poll_read(context, into)
    }
}

impl AsyncWrite for Connection {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let stream = std::task::ready!(self.poll_stream(context))?;
        stream.poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let stream = std::task::ready!(self.poll_stream(context))?;
        stream.poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.stream {
            Stream::Plain(stream) => Pin::new(stream).poll_shutdown(context),
            Stream::Secured(stream) => Pin::new(stream).poll_shutdown(context),
            // Nothing was said yet.
            Stream::Agreeing(_) => Poll::Ready(Ok(())),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(name: &str, value: &str) -> Request {
        Request::builder()
            .header(name, value)
            .body(axum::body::Body::empty())
            .unwrap()
    }

    #[test]
    fn only_addresses_are_hosts() {
        for host in ["127.0.0.1:9100", "localhost:1", "[::1]:9100", "10.0.0.1"] {
            assert!(is_addressed_by_number(&request("host", host)), "{host}");
        }
        for host in ["evil.example:9100", "localhost.evil.example", "", "a:b:c"] {
            assert!(!is_addressed_by_number(&request("host", host)), "{host}");
        }
    }

    #[test]
    fn the_token_is_compared_whole() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("token");
        std::fs::write(&file, "hunter2\n").unwrap();
        assert!(is_right(&file, Some("hunter2")));
        for wrong in [None, Some(""), Some("hunter"), Some("hunter22")] {
            assert!(!is_right(&file, wrong), "{wrong:?}");
        }
        std::fs::write(&file, "\n").unwrap();
        assert!(!is_right(&file, Some("")), "an empty file lets nobody in");
        assert!(!is_right(&dir.path().join("none"), Some("hunter2")));
        assert_eq!(bearer(&request("authorization", "bearer x")), Some("x"));
        assert_eq!(bearer(&request("authorization", "Basic x")), None);
    }
}
