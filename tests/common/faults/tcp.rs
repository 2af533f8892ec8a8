//! Faults of a connection, whatever is spoken on it: it is delayed, stalls, is reset, is cut after
//! some bytes, or drips.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{ReadHalf, WriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

use super::{Dice, Runtime, Tally};

/// Which way bytes go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Towards {
    Client,
    Server,
}

/// What happens to a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TcpFault {
    /// Whatever the server says comes so much later.
    Delay(Duration),
    /// After so many bytes nothing passes any more, in that direction; the connection stays.
    Stall(Towards, u64),
    /// After so many bytes in that direction both ends get a reset.
    Reset(Towards, u64),
    /// After so many bytes in that direction both ends get an orderly end.
    Cut(Towards, u64),
    /// The server's bytes pass in pieces of so many, with a pause after each.
    Drip(usize, Duration),
}

impl TcpFault {
    /// The names of all faults, as they are counted.
    pub const NAMES: [&'static str; 5] =
        ["tcp delay", "tcp stall", "tcp reset", "tcp cut", "tcp drip"];

    /// Returns the name by which it is counted.
    pub fn name(self) -> &'static str {
        let at = match self {
            TcpFault::Delay(_) => 0,
            TcpFault::Stall(..) => 1,
            TcpFault::Reset(..) => 2,
            TcpFault::Cut(..) => 3,
            TcpFault::Drip(..) => 4,
        };
        TcpFault::NAMES[at]
    }

    /// Returns a fault for a storm, by dice; `at` is the number of the bytes after which it strikes
    /// at most.
    pub fn random(dice: &mut Dice, at: u64) -> TcpFault {
        let towards = *dice.pick(&[Towards::Client, Towards::Client, Towards::Server]);
        let after = match dice.below(3) {
            // Before anything was said, in the middle of a head, somewhere.
            0 => 0,
            1 => dice.below(300),
            _ => dice.below(at),
        };
        match dice.below(5) {
            0 => TcpFault::Delay(Duration::from_millis(50 + dice.below(400))),
            1 => TcpFault::Stall(towards, after),
            2 => TcpFault::Reset(towards, after),
            3 => TcpFault::Cut(towards, after),
            // Some seconds for a MiB: as long as bytes come, nobody gives up.
            _ => TcpFault::Drip(
                4_000 + dice.below(32_000) as usize,
                Duration::from_millis(1 + dice.below(20)),
            ),
        }
    }
}

/// Says what happens to the connection of a number.
pub type Plan = Arc<dyn Fn(u64) -> Option<TcpFault> + Send + Sync>;

struct Shared {
    server: SocketAddr,
    plan: Mutex<Option<Plan>>,
    connections: AtomicU64,
    tally: Tally,
    /// Changes when all that is stuck has to end.
    calm: watch::Sender<u64>,
}

/// A running proxy. Ends when dropped.
pub struct TcpProxy {
    address: SocketAddr,
    shared: Arc<Shared>,
    _runtime: Runtime,
}

impl TcpProxy {
    /// Starts a calm proxy before a server on loopback, and counts in `tally` what it does.
    pub fn start(server: SocketAddr, tally: Tally) -> TcpProxy {
        assert!(server.ip().is_loopback());
        let runtime = Runtime::new();
        let listen = TcpListener::bind((Ipv4Addr::LOCALHOST, 0));
        let listener = runtime.get().block_on(listen).unwrap();
        let address = listener.local_addr().unwrap();
        let shared = Arc::new(Shared {
            server,
            plan: Mutex::default(),
            connections: AtomicU64::new(0),
            tally,
            calm: watch::Sender::new(0),
        });
        let accepting = shared.clone();
        runtime.get().spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                let number = accepting.connections.fetch_add(1, Ordering::Relaxed);
                let plan = accepting.plan.lock().unwrap().clone();
                let fault = plan.and_then(|plan| plan(number));
                tokio::spawn(pass(client, fault, accepting.clone()));
            }
        });
        TcpProxy {
            address,
            shared,
            _runtime: runtime,
        }
    }

    /// Returns where clients connect to.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Lets a plan decide over new connections.
    pub fn plan(&self, plan: impl Fn(u64) -> Option<TcpFault> + Send + Sync + 'static) {
        *self.shared.plan.lock().unwrap() = Some(Arc::new(plan));
    }

    /// Lets so many of 1,000 new connections have a fault, as the seed has it.
    pub fn storm(&self, seed: u64, permille: u64, at: u64) {
        self.plan(move |number| {
            let mut dice = Dice::new(seed, &[number]);
            dice.permille(permille)
                .then(|| TcpFault::random(&mut dice, at))
        });
    }

    /// Passes everything on as it is from now on; connections with a fault are closed.
    pub fn calm(&self) {
        *self.shared.plan.lock().unwrap() = None;
        self.shared.calm.send_modify(|n| *n += 1);
    }
}

/// How one direction ended.
#[derive(PartialEq)]
enum End {
    /// The sender has said all, or is gone.
    Said,
    Reset,
    Cut,
}

async fn pass(mut client: TcpStream, fault: Option<TcpFault>, shared: Arc<Shared>) {
    let mut calm = shared.calm.subscribe();
    let Ok(mut server) = TcpStream::connect(shared.server).await else {
        return;
    };
    let _ = client.set_nodelay(true);
    let _ = server.set_nodelay(true);
    let end = {
        let (from_client, mut to_client) = client.split();
        let (from_server, mut to_server) = server.split();
        let up = one_way(
            from_client,
            &mut to_server,
            fault,
            Towards::Server,
            &shared.tally,
        );
        let down = one_way(
            from_server,
            &mut to_client,
            fault,
            Towards::Client,
            &shared.tally,
        );
        tokio::pin!(up, down);
        let (mut up_said, mut down_said) = (false, false);
        loop {
            let end = tokio::select! {
                end = &mut up, if !up_said => { up_said = true; end }
                end = &mut down, if !down_said => { down_said = true; end }
                _ = calm.changed(), if fault.is_some() => End::Reset,
            };
            if end != End::Said || (up_said && down_said) {
                break end;
            }
        }
    };
    match end {
        End::Said => {}
        End::Reset => {
            // Closing then sends a reset at once.
            for stream in [&client, &server] {
                let _ = rustix::net::sockopt::set_socket_linger(stream, Some(Duration::ZERO));
            }
        }
        End::Cut => {
            // A socket that is closed with unread bytes sends a reset: read them.
            let _ = client.shutdown().await;
            let _ = server.shutdown().await;
            let mut rest = [0; 4096];
            while let Ok(1..) = tokio::select! {
                n = client.read(&mut rest) => n,
                _ = calm.changed() => return,
            } {}
        }
    }
}

async fn one_way(
    mut from: ReadHalf<'_>,
    to: &mut WriteHalf<'_>,
    fault: Option<TcpFault>,
    towards: Towards,
    tally: &Tally,
) -> End {
    let limit = match fault {
        Some(
            TcpFault::Stall(at, after) | TcpFault::Reset(at, after) | TcpFault::Cut(at, after),
        ) if at == towards => Some(after),
        _ => None,
    };
    let mut left = limit.unwrap_or(u64::MAX);
    let mut slowed = false;
    let mut buffer = vec![0; 64 << 10];
    loop {
        if left == 0 {
            let Some(fault) = fault else { return End::Said };
            tally.add(fault.name());
            match fault {
                TcpFault::Stall(..) => std::future::pending().await,
                TcpFault::Reset(..) => return End::Reset,
                _ => return End::Cut,
            }
        }
        let room = buffer
            .len()
            .min(usize::try_from(left).unwrap_or(usize::MAX));
        let Ok(n @ 1..) = from.read(&mut buffer[..room]).await else {
            let _ = to.shutdown().await;
            return End::Said;
        };
        let mut count = || {
            if !std::mem::replace(&mut slowed, true) {
                tally.add(fault.unwrap().name());
            }
        };
        let (piece, pause) = match fault {
            Some(TcpFault::Delay(pause)) if towards == Towards::Client => {
                count();
                tokio::time::sleep(pause).await;
                (n, Duration::ZERO)
            }
            Some(TcpFault::Drip(piece, pause)) if towards == Towards::Client => {
                count();
                (piece, pause)
            }
            _ => (n, Duration::ZERO),
        };
        for piece in buffer[..n].chunks(piece) {
            if to.write_all(piece).await.is_err() {
                return End::Said;
            }
            if !pause.is_zero() {
                tokio::time::sleep(pause).await;
            }
        }
        left -= n as u64;
    }
}
