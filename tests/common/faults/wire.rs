//! Heads and bodies on the wire: read with a library, written by hand, since no library writes a
//! reply that is wrong.

use std::time::Duration;

use bytes::Bytes;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// The longest head of a request, in bytes and in lines.
const HEAD: (usize, usize) = (64 << 10, 64);

/// A request without a body: those of readers have none.
#[derive(Debug, Clone)]
pub(super) struct Request {
    pub(super) method: String,
    /// Path and query.
    pub(super) target: String,
    pub(super) headers: Vec<(String, String)>,
}

impl Request {
    /// Returns the path, without the query.
    pub(super) fn path(&self) -> &str {
        self.target.split('?').next().unwrap_or_default()
    }

    /// Returns a value of the query, as it is written.
    pub(super) fn query(&self, name: &str) -> Option<&str> {
        let (_, query) = self.target.split_once('?')?;
        let mut pairs = query.split('&').filter_map(|pair| pair.split_once('='));
        pairs.find(|(n, _)| *n == name).map(|(_, value)| value)
    }

    /// Reads the next request; nothing if the client is gone or speaks no HTTP. `buffer` holds
    /// what was read beyond the last one.
    pub(super) async fn read(client: &mut TcpStream, buffer: &mut Vec<u8>) -> Option<Request> {
        loop {
            let mut lines = [httparse::EMPTY_HEADER; HEAD.1];
            let mut head = httparse::Request::new(&mut lines);
            if let httparse::Status::Complete(length) = head.parse(buffer).ok()? {
                let headers = head.headers.iter().map(|header| {
                    let value = String::from_utf8_lossy(header.value).into_owned();
                    (header.name.to_owned(), value)
                });
                let request = Request {
                    method: head.method?.to_owned(),
                    target: head.path?.to_owned(),
                    headers: headers.collect(),
                };
                buffer.drain(..length);
                return Some(request);
            }
            if buffer.len() > HEAD.0 || client.read_buf(buffer).await.ok()? == 0 {
                return None;
            }
        }
    }
}

/// What becomes of the connection after the reply.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Then {
    /// It serves the next request.
    Keep,
    Close,
    Reset,
    /// It stays open, and nothing more is said.
    Stall,
}

/// A reply as it will be sent.
#[derive(Debug, Clone)]
pub(super) struct Reply {
    pub(super) status: u16,
    /// Without those that say how the body is framed.
    pub(super) headers: Vec<(String, String)>,
    /// What `Content-Length` says, whatever the body is.
    pub(super) announced: u64,
    pub(super) body: Bytes,
    /// How much of head and body is sent; all if nothing.
    pub(super) sent: Sent,
    /// Sent after the body, beyond its end.
    pub(super) tail: Bytes,
    /// The body goes in pieces of so many bytes, with a pause after each.
    pub(super) pace: Option<(usize, Duration)>,
    pub(super) then: Then,
}

/// How much of a reply is sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Sent {
    All,
    Nothing,
    /// The head and so many bytes of the body.
    Body(usize),
}

impl Reply {
    /// Returns an honest reply.
    pub(super) fn new(status: u16, headers: Vec<(String, String)>, body: Bytes) -> Reply {
        Reply {
            status,
            headers,
            announced: body.len() as u64,
            body,
            sent: Sent::All,
            tail: Bytes::new(),
            pace: None,
            then: Then::Keep,
        }
    }

    /// Returns a reply with a page of its own.
    pub(super) fn page(status: u16, kind: &str, body: impl Into<Bytes>) -> Reply {
        let headers = vec![("Content-Type".into(), kind.into())];
        Reply::new(status, headers, body.into())
    }

    /// Returns a header's value.
    pub(super) fn header(&self, name: &str) -> Option<&str> {
        let mut headers = self.headers.iter();
        let found = headers.find(|h| h.0.eq_ignore_ascii_case(name));
        found.map(|h| h.1.as_str())
    }

    /// Sets a header; with nothing, removes it.
    pub(super) fn set(&mut self, name: &str, value: Option<String>) {
        self.headers.retain(|h| !h.0.eq_ignore_ascii_case(name));
        self.headers
            .extend(value.map(|value| (name.to_owned(), value)));
    }

    /// Sends what is to be sent.
    pub(super) async fn send(&self, client: &mut TcpStream, is_head: bool) -> std::io::Result<()> {
        let body = match self.sent {
            Sent::Nothing => return Ok(()),
            _ if is_head => &[][..],
            Sent::All => &self.body[..],
            Sent::Body(n) => &self.body[..n.min(self.body.len())],
        };
        let mut head = format!("HTTP/1.1 {} As It Is\r\n", self.status);
        for (name, value) in &self.headers {
            head += &format!("{name}: {value}\r\n");
        }
        if self.status != 304 {
            head += &format!("Content-Length: {}\r\n", self.announced);
        }
        head += "\r\n";
        client.write_all(head.as_bytes()).await?;
        let (piece, pause) = self.pace.unwrap_or((body.len().max(1), Duration::ZERO));
        for piece in body.chunks(piece) {
            client.write_all(piece).await?;
            tokio::time::sleep(pause).await;
        }
        client.write_all(&self.tail).await
    }
}
