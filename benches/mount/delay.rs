//! A proxy that makes a distance: what goes in at one end comes out at the other after half a round
//! trip, in both directions, however much it is. There is no other limit, and no loss.
//!
//! The handshake of a connection is answered at once, as the kernel does that, so its round trip
//! is put before the first bytes.

use std::collections::BinaryHeap;
use std::net::SocketAddr;
use std::sync::{Arc, Condvar, Mutex};
use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{mpsc, oneshot};

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
        let clock = Arc::new(Clock::default());
        let ticking = clock.clone();
        // It lives as long as this program, and does nothing while nobody waits.
        std::thread::spawn(move || ticking.tick());
        runtime.spawn(async move {
            while let Ok((near, _)) = listener.accept().await {
                tokio::spawn(carry(near, to, round_trip, clock.clone()));
            }
        });
        Delay {
            at,
            _runtime: runtime,
        }
    }
}

/// Wakes who waits for a time, to some 0.1 ms. tokio's own clock has whole milliseconds and rounds
/// up, which would make 20 ms two more.
#[derive(Default)]
struct Clock {
    waiting: Mutex<BinaryHeap<Waiting>>,
    earlier: Condvar,
}

/// One who waits; the first to be woken is the greatest.
struct Waiting(Instant, oneshot::Sender<()>);

impl Clock {
    async fn until(&self, due: Instant) {
        if due <= Instant::now() {
            return;
        }
        let (sender, woken) = oneshot::channel();
        {
            let mut waiting = self.waiting.lock().unwrap();
            if waiting.peek().is_none_or(|first| due < first.0) {
                self.earlier.notify_one();
            }
            waiting.push(Waiting(due, sender));
        }
        let _ = woken.await;
    }

    fn tick(&self) -> ! {
        let mut waiting = self.waiting.lock().unwrap();
        loop {
            let now = Instant::now();
            let left = waiting.peek().map(|first| first.0.duration_since(now));
            waiting = match left {
                None => self.earlier.wait(waiting).unwrap(),
                Some(Duration::ZERO) => {
                    // Whose connection is gone does not wait any more.
                    let _ = waiting.pop().map(|first| first.1.send(()));
                    waiting
                }
                Some(left) => self.earlier.wait_timeout(waiting, left).unwrap().0,
            };
        }
    }
}

impl Ord for Waiting {
    fn cmp(&self, other: &Waiting) -> std::cmp::Ordering {
        other.0.cmp(&self.0)
    }
}

impl PartialOrd for Waiting {
    fn partial_cmp(&self, other: &Waiting) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Waiting {
    fn eq(&self, other: &Waiting) -> bool {
        self.0 == other.0
    }
}

impl Eq for Waiting {}

async fn carry(near: TcpStream, to: SocketAddr, round_trip: Duration, clock: Arc<Clock>) {
    let open = Instant::now() + round_trip;
    let Ok(far) = TcpStream::connect(to).await else {
        return;
    };
    let _ = near.set_nodelay(true);
    let _ = far.set_nodelay(true);
    let (near_in, near_out) = near.into_split();
    let (far_in, far_out) = far.into_split();
    tokio::join!(
        one_way(near_in, far_out, round_trip / 2, open, clock.clone()),
        one_way(far_in, near_out, round_trip / 2, open, clock),
    );
}

async fn one_way(
    mut from: impl AsyncReadExt + Unpin,
    mut to: impl AsyncWriteExt + Unpin + Send + 'static,
    delay: Duration,
    open: Instant,
    clock: Arc<Clock>,
) {
    let (sender, mut under_way) = mpsc::channel::<(Instant, Vec<u8>)>(UNDER_WAY);
    let writing = tokio::spawn(async move {
        while let Some((due, bytes)) = under_way.recv().await {
            clock.until(due).await;
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
