//! How a request reaches `git-upload-pack`, and how its reply comes back: over HTTP, or through a
//! pipe (TCP, SSH).
//!
//! Only version 2 of the protocol is spoken: there each request stands alone, so that one that is
//! given up leaves nothing behind but its connection, which is closed.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use futures::StreamExt;
use futures::stream::BoxStream;

use super::super::{Error, ErrorKind, Result, progress};
use super::pkt::{self, Pkt};

mod http;
mod pipe;
mod ssh;
mod tcp;

pub(super) use http::Http;
pub(super) use pipe::{Dial, Duplex, Pipes};
pub(super) use ssh::Ssh;
pub(super) use tcp::Tcp;

/// How long a server may be silent in the middle of a reply. As long as a deadline is: what waits
/// with one gives up sooner, and what has none ends all the same.
const SILENCE: Duration = Duration::from_secs(30);

/// The most lines of what a server says it can do; git says six.
const MAX_CAPABILITIES: usize = 1000;

/// What a server can do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Capabilities {
    /// What its `fetch` knows: `filter`, `shallow`.
    pub(super) fetch: HashSet<String>,
    /// Whether it tells sizes.
    pub(super) object_info: bool,
    /// How objects are named.
    pub(super) format: gix_hash::Kind,
}

impl Capabilities {
    /// Reads what a server says first, up to and with its last line.
    async fn read(reply: &mut Reply) -> Result<Capabilities> {
        let mut first = reply.next().await?;
        if first
            .text()
            .is_some_and(|t| t.starts_with("# service=git-upload-pack"))
        {
            first = reply.next().await?;
            if first == Pkt::Flush {
                first = reply.next().await?;
            }
        }
        if first.text().as_deref() != Some("version 2") {
            return Err(too_old());
        }
        let mut lines = Vec::new();
        loop {
            match reply.next().await? {
                Pkt::Flush => break,
                line => lines.extend(line.text()),
            }
            if lines.len() > MAX_CAPABILITIES {
                return Err(Error::lied("a list of capabilities that does not end"));
            }
        }
        Capabilities::parse(&lines)
    }

    fn parse(lines: &[String]) -> Result<Capabilities> {
        let value = |key: &str| {
            lines.iter().find_map(|line| match line.split_once('=') {
                Some((name, value)) => (name == key).then_some(value),
                None => (line == key).then_some(""),
            })
        };
        if value("ls-refs").is_none() {
            return Err(Error::lied("a Git server that lists no refs"));
        }
        let Some(fetch) = value("fetch") else {
            return Err(Error::lied("a Git server that gives no objects"));
        };
        let format = match value("object-format") {
            None | Some("sha1") => gix_hash::Kind::Sha1,
            Some("sha256") => gix_hash::Kind::Sha256,
            Some(other) => {
                let message = format!("the repository names its objects by {other:?}");
                return Err(Error::new(ErrorKind::Invalid, message));
            }
        };
        Ok(Capabilities {
            fetch: fetch.split(' ').map(str::to_owned).collect(),
            object_info: value("object-info").is_some(),
            format,
        })
    }
}

/// Returns the error for a server that speaks only the older versions of the protocol.
fn too_old() -> Error {
    let message = "the server does not speak version 2 of Git's protocol: it needs Git 2.18 or later, \
        `protocol.version` not set to 0 or 1, and must pass on GIT_PROTOCOL (Apache: `SetEnvIf \
        Git-Protocol \".*\" GIT_PROTOCOL=$0`; sshd: `AcceptEnv GIT_PROTOCOL`)";
    Error::new(ErrorKind::Invalid, message)
}

/// A way to a server.
pub(super) enum Transport {
    /// Smart HTTP.
    Http(Box<Http>),
    /// A connection that commands go through one after another.
    Pipes(Pipes),
}

impl Transport {
    /// Returns what the server can do.
    pub(super) async fn capabilities(&self) -> Result<Arc<Capabilities>> {
        match self {
            Transport::Http(http) => http.capabilities().await,
            Transport::Pipes(pipes) => pipes.capabilities().await,
        }
    }

    /// Sends a request and returns the reply, of which nothing may have come yet.
    pub(super) async fn send(&self, request: Bytes) -> Result<Reply> {
        match self {
            Transport::Http(http) => http.send(request).await,
            Transport::Pipes(pipes) => pipes.send(request).await,
        }
    }

    /// As [`Transport::send`], to a process at the server that was just started: one that has
    /// served before remembers refs as they were.
    pub(super) async fn send_anew(&self, request: Bytes) -> Result<Reply> {
        match self {
            Transport::Http(http) => http.send(request).await,
            Transport::Pipes(pipes) => pipes.send_anew(request).await,
        }
    }

    /// Returns the error without what was sent in confidence.
    pub(super) fn conceal(&self, error: Error) -> Error {
        match self {
            Transport::Http(http) => http.conceal(error),
            Transport::Pipes(_) => error,
        }
    }
}

/// What a server sends back.
pub(super) struct Reply {
    input: Input,
    buffer: BytesMut,
}

enum Input {
    Body(BoxStream<'static, Result<Bytes>>),
    Pipe(pipe::Lent),
}

impl Reply {
    fn of_body(body: BoxStream<'static, Result<Bytes>>) -> Reply {
        Reply {
            input: Input::Body(body),
            buffer: BytesMut::new(),
        }
    }

    fn of_pipe(pipe: pipe::Lent, buffer: BytesMut) -> Reply {
        Reply {
            input: Input::Pipe(pipe),
            buffer,
        }
    }

    /// Returns the next line. A server's own `ERR` is an error, as is the end.
    pub(super) async fn next(&mut self) -> Result<Pkt> {
        loop {
            if let Some(pkt) = pkt::take(&mut self.buffer)? {
                if let Pkt::Line(line) = &pkt
                    && let Some(why) = line.strip_prefix(b"ERR ")
                {
                    return Err(refused(&String::from_utf8_lossy(why)));
                }
                return Ok(pkt);
            }
            let more = tokio::time::timeout(SILENCE, self.more());
            let silent = |_| Error::new(ErrorKind::Timeout, "the server has fallen silent");
            if !more.await.map_err(silent)?? {
                let message = match self.buffer.starts_with(b"<") {
                    true => "a web page where a Git server was expected",
                    false => "the server's reply ended early",
                };
                return Err(Error::new(ErrorKind::Interrupted, message));
            }
            progress::note();
        }
    }

    /// Waits for more; returns false at the end.
    async fn more(&mut self) -> Result<bool> {
        match &mut self.input {
            Input::Body(body) => match body.next().await {
                None => Ok(false),
                Some(chunk) => {
                    self.buffer.extend_from_slice(&chunk?);
                    Ok(true)
                }
            },
            Input::Pipe(pipe) => pipe.read(&mut self.buffer).await,
        }
    }

    /// Says that the reply was read to its end, so that the connection may serve again.
    pub(super) async fn finish(mut self) {
        match self.input {
            // The end of the body, which is all that is left.
            Input::Body(ref mut body) => {
                let _ = tokio::time::timeout(SILENCE, body.next()).await;
            }
            Input::Pipe(pipe) if self.buffer.is_empty() => pipe.give_back(),
            Input::Pipe(_) => {}
        }
    }
}

/// Translates a server's refusal.
pub(super) fn refused(why: &str) -> Error {
    let why = why.trim();
    let has = |text: &str| why.contains(text);
    let kind = if has("not our ref") || has("not found") && has("object") {
        ErrorKind::Changed
    } else if has("access denied") || has("Permission denied") || has("not allowed") {
        ErrorKind::Denied
    } else if has("internal") || has("out of memory") || has("timed out") {
        ErrorKind::Server
    } else {
        ErrorKind::Invalid
    };
    Error::new(kind, format!("the server says: {why}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reply(parts: &[&'static [u8]]) -> Reply {
        let parts: Vec<Result<Bytes>> = parts
            .iter()
            .map(|part| Ok(Bytes::from_static(part)))
            .collect();
        Reply::of_body(futures::stream::iter(parts).boxed())
    }

    #[tokio::test]
    async fn capabilities_are_read() {
        let said: &[&[u8]] = &[
            b"001e# service=git-upload-pack\n0000",
            b"000eversion 2\n000cls-refs\n001afet",
            b"ch=shallow filter \n0011object-info=\n0000",
        ];
        let got = Capabilities::read(&mut reply(said)).await;
        let got = got.unwrap();
        assert!(got.fetch.contains("filter") && got.object_info);
        assert_eq!(got.format, gix_hash::Kind::Sha1);
    }

    #[tokio::test]
    async fn what_is_no_server_of_ours_is_told() {
        let cases: &[(&[u8], ErrorKind, &str)] = &[
            (
                b"003e95dcfa3633004da0049d3d0fa03f80589cbcaf31 refs/heads/maint\n",
                ErrorKind::Invalid,
                "version 2",
            ),
            (b"<html>hello", ErrorKind::Lied, "protocol"),
            (b"0015ERR access denied", ErrorKind::Denied, "access denied"),
            (b"000eversion 2\n", ErrorKind::Interrupted, "ended"),
            (b"000eversion 2\n0000", ErrorKind::Lied, "refs"),
        ];
        for (said, kind, words) in cases {
            let error = Capabilities::read(&mut reply(&[said])).await.unwrap_err();
            assert_eq!(error.kind(), *kind, "{error}");
            assert!(error.to_string().contains(words), "{error}");
        }
    }
}
