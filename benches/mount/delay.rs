//! A proxy that makes a distance: what goes in at one end comes out at the other after half a round
//! trip, in both directions, however much it is. There is no other limit, and no loss.
//!
//! The handshake of a connection is answered at once, as the kernel does that, so its round trip
//! is put before the first bytes.

use std::net::SocketAddr;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio::time::Instant;

/// Bytes read at a time.
const CHUNK: usize = 256 << 10;

/// Chunks on their way in one direction of a connection: 64 MiB, so 3 GB/s at 20 ms.
const UNDER_WAY: usize = 256;

/// A running proxy; gone when dropped.
pub struct Delay {
    /// Where it listens.
    pub at: SocketAddr,
    _runtime: tokio::runtime::Runtime,
}

impl Delay {
    /// Starts a proxy for the server at `to`, `round_trip` away.
    pub fn new(to: SocketAddr, round_trip: Duration) -> Delay {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .unwrap();
        let listener = runtime.block_on(TcpListener::bind("127.0.0.1:0")).unwrap();
        let at = listener.local_addr().unwrap();
        runtime.spawn(async move {
            while let Ok((near, _)) = listener.accept().await {
                tokio::spawn(carry(near, to, round_trip));
            }
        });
        Delay {
            at,
            _runtime: runtime,
        }
    }
}

async fn carry(near: TcpStream, to: SocketAddr, round_trip: Duration) {
    let open = Instant::now() + round_trip;
    let Ok(far) = TcpStream::connect(to).await else {
        return;
    };
    let _ = near.set_nodelay(true);
    let _ = far.set_nodelay(true);
    let (near_in, near_out) = near.into_split();
    let (far_in, far_out) = far.into_split();
    tokio::join!(
        one_way(near_in, far_out, round_trip / 2, open),
        one_way(far_in, near_out, round_trip / 2, open),
    );
}

async fn one_way(
    mut from: impl AsyncReadExt + Unpin,
    mut to: impl AsyncWriteExt + Unpin + Send + 'static,
    delay: Duration,
    open: Instant,
) {
    let (sender, mut under_way) = mpsc::channel::<(Instant, Vec<u8>)>(UNDER_WAY);
    let writing = tokio::spawn(async move {
        while let Some((due, bytes)) = under_way.recv().await {
            tokio::time::sleep_until(due).await;
            if to.write_all(&bytes).await.is_err() {
                return;
            }
        }
        let _ = to.shutdown().await;
    });
    loop {
        let mut bytes = Vec::with_capacity(CHUNK);
        match from.read_buf(&mut bytes).await {
            Ok(0) | Err(_) => break,
            Ok(_) => {}
        }
        let due = open.max(Instant::now()) + delay;
        if sender.send((due, bytes)).await.is_err() {
            break;
        }
    }
    drop(sender);
    let _ = writing.await;
}
