//! A web proxy that leads every host to this machine, and may want a password.

use std::sync::{Arc, Mutex};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::{JoinHandle, JoinSet};

/// A running proxy. Ends when dropped.
pub struct TestProxy {
    /// Its URL, without a slash at its end.
    pub url: String,
    known: Arc<Known>,
    task: JoinHandle<()>,
}

#[derive(Default)]
struct Known {
    /// The value of `Proxy-Authorization` that is wanted.
    wanted: Mutex<Option<String>>,
    /// The first line of each request.
    seen: Mutex<Vec<String>>,
}

impl TestProxy {
    /// Starts one that serves anybody.
    pub async fn start() -> TestProxy {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let known = Arc::new(Known::default());
        let task = tokio::spawn({
            let known = known.clone();
            async move {
                let mut connections = JoinSet::new();
                while let Ok((stream, _)) = listener.accept().await {
                    let known = known.clone();
                    connections.spawn(async move { serve(stream, &known).await });
                }
            }
        });
        TestProxy { url, known, task }
    }

    /// From now on serves only who sends this `Proxy-Authorization`.
    pub fn want(&self, value: &str) {
        *self.known.wanted.lock().unwrap() = Some(value.into());
    }

    /// Returns the first lines of the requests so far.
    pub fn seen(&self) -> Vec<String> {
        self.known.seen.lock().unwrap().clone()
    }
}

impl Drop for TestProxy {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn serve(mut client: TcpStream, known: &Known) -> Option<()> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(client.read_u8().await.ok()?);
    }
    let head = String::from_utf8(head).unwrap();
    let first = head.lines().next()?.to_owned();
    known.seen.lock().unwrap().push(first.clone());
    let sent = head
        .lines()
        .filter_map(|line| line.split_once(": "))
        .find(|(name, _)| name.eq_ignore_ascii_case("proxy-authorization"));
    let wanted = known.wanted.lock().unwrap().clone();
    if wanted.is_some_and(|wanted| sent.map(|s| s.1) != Some(&wanted)) {
        // As some do, it says what it was told.
        let said = format!("no: {}", sent.map_or("", |s| s.1));
        let refusal = format!(
            "HTTP/1.1 407 Proxy Authentication Required\r\nConnection: close\r\n\
             Content-Length: {}\r\n\r\n{said}",
            said.len()
        );
        client.write_all(refusal.as_bytes()).await.ok()?;
        return None;
    }
    let mut words = first.split(' ');
    let (method, target) = (words.next()?, words.next()?);
    let authority = target.trim_start_matches("http://").split('/').next()?;
    let port: u16 = authority.rsplit(':').next()?.parse().ok()?;
    let mut server = TcpStream::connect(("127.0.0.1", port)).await.ok()?;
    if method == "CONNECT" {
        client
            .write_all(b"HTTP/1.1 200 Connected\r\n\r\n")
            .await
            .ok()?;
    } else {
        let path = target
            .trim_start_matches("http://")
            .trim_start_matches(authority);
        // One request a connection: only the first would be rewritten.
        let head = head
            .replacen(target, path, 1)
            .replacen("\r\n", "\r\nConnection: close\r\n", 1);
        server.write_all(head.as_bytes()).await.ok()?;
    }
    tokio::io::copy_bidirectional(&mut client, &mut server)
        .await
        .ok()?;
    None
}
