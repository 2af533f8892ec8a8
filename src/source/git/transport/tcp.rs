//! `git://`: TCP to a `git daemon`, without encryption or passwords.

use std::time::Duration;

use async_trait::async_trait;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;

use super::super::super::{Error, ErrorKind, Result};
use super::{Dial, Duplex};

/// The port of `git daemon`.
const PORT: u16 = 9418;

/// How long a connection may take to be made.
const CONNECT: Duration = Duration::from_secs(5);

/// A repository behind a `git daemon`.
pub(in super::super) struct Tcp {
    host: String,
    port: u16,
    /// With the slash that it begins with.
    path: String,
}

impl Tcp {
    /// Returns the place; connects to nothing.
    pub(in super::super) fn new(host: &str, port: Option<u16>, path: &str) -> Result<Tcp> {
        if path.contains('\0') || !path.starts_with('/') || host.contains('\0') {
            let message = format!("{path:?} cannot be the path of a repository");
            return Err(Error::new(ErrorKind::Invalid, message));
        }
        Ok(Tcp {
            // The brackets of an IPv6 address belong to URLs.
            host: host.trim_start_matches('[').trim_end_matches(']').into(),
            port: port.unwrap_or(PORT),
            path: path.into(),
        })
    }
}

impl Duplex for TcpStream {}

#[async_trait]
impl Dial for Tcp {
    async fn dial(&self) -> Result<Box<dyn Duplex>> {
        let unreachable = |why: String| Error::new(ErrorKind::Unreachable, why);
        let connect = TcpStream::connect((self.host.as_str(), self.port));
        let mut stream = tokio::time::timeout(CONNECT, connect)
            .await
            .map_err(|_| unreachable("no answer to an attempt to connect".into()))?
            .map_err(|e| unreachable(format!("cannot connect: {e}")))?;
        let _ = stream.set_nodelay(true);
        let request = format!(
            "git-upload-pack {}\0host={}:{}\0\0version=2\0",
            self.path, self.host, self.port
        );
        let request = format!("{:04x}{request}", request.len() + 4);
        let sent = stream.write_all(request.as_bytes()).await;
        sent.map_err(|e| unreachable(format!("the connection broke: {e}")))?;
        Ok(Box::new(stream))
    }
}
