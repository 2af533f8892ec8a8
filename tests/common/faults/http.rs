//! A proxy that lies in HTTP's terms, before a real S3 service or a real web server.

use std::collections::{HashMap, VecDeque};
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use tokio::io::AsyncReadExt;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

use super::lie::{Class, Kind, Server, list_page};
use super::wire::{Reply, Request, Then};
use super::{Dice, Runtime, Tally};

/// What a looping listing's next page is called.
const LOOP: &str = "round-and-round";

/// Of how many requests in 1,000 one is slow in a storm, beside all else.
const SLOW: u64 = 1;

/// Which requests are damaged, and how.
enum Plan {
    Calm,
    /// All that this fits.
    Always(Kind),
    /// The next one that this fits.
    Once(Kind),
    Storm {
        permille: u64,
        dice: Dice,
        kinds: Vec<Kind>,
        /// The kinds in the order of their turns.
        turns: VecDeque<Kind>,
    },
}

struct Shared {
    upstream: String,
    server: Server,
    plan: Mutex<Plan>,
    requests: AtomicU64,
    tally: Tally,
    client: reqwest::Client,
    /// The first page of each listing that goes round, by its prefix.
    loops: Mutex<HashMap<String, Bytes>>,
    /// Changes when all that is stuck has to end.
    calm: watch::Sender<u64>,
}

/// A running proxy. Ends when dropped.
pub struct HttpProxy {
    address: SocketAddr,
    shared: Arc<Shared>,
    _runtime: Runtime,
}

impl HttpProxy {
    /// Starts a calm proxy before the server at `upstream`, a URL of loopback without a path, and
    /// counts in `tally` what it does.
    pub fn start(upstream: &str, server: Server, tally: Tally) -> HttpProxy {
        assert!(upstream.starts_with("http://127.0.0.1:"));
        svol::tls::install();
        let runtime = Runtime::new();
        let listen = TcpListener::bind((Ipv4Addr::LOCALHOST, 0));
        let listener = runtime.get().block_on(listen).unwrap();
        let address = listener.local_addr().unwrap();
        let client = reqwest::Client::builder()
            .http1_only()
            .no_proxy()
            .redirect(reqwest::redirect::Policy::none())
            .build();
        let shared = Arc::new(Shared {
            upstream: upstream.to_owned(),
            server,
            plan: Mutex::new(Plan::Calm),
            requests: AtomicU64::new(0),
            tally,
            client: client.unwrap(),
            loops: Mutex::default(),
            calm: watch::Sender::new(0),
        });
        let accepting = shared.clone();
        runtime.get().spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                let _ = client.set_nodelay(true);
                tokio::spawn(serve(client, accepting.clone()));
            }
        });
        HttpProxy {
            address,
            shared,
            _runtime: runtime,
        }
    }

    /// Returns where clients connect to.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Returns its URL, without a slash at its end.
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Returns how many requests came so far.
    pub fn requests(&self) -> u64 {
        self.shared.requests.load(Ordering::Relaxed)
    }

    /// Damages all requests that the kind fits.
    pub fn always(&self, kind: Kind) {
        *self.shared.plan.lock().unwrap() = Plan::Always(kind);
    }

    /// Damages the next request that the kind fits.
    pub fn once(&self, kind: Kind) {
        *self.shared.plan.lock().unwrap() = Plan::Once(kind);
    }

    /// Damages so many of 1,000 requests, each of the kinds in its turn, as the seed has it.
    pub fn storm(&self, seed: u64, permille: u64, kinds: &[Kind]) {
        *self.shared.plan.lock().unwrap() = Plan::Storm {
            permille,
            dice: Dice::new(seed, &[]),
            kinds: kinds.to_vec(),
            turns: VecDeque::new(),
        };
    }

    /// Damages another share of requests from now on, in the same storm.
    pub fn strength(&self, of_1000: u64) {
        if let Plan::Storm { permille, .. } = &mut *self.shared.plan.lock().unwrap() {
            *permille = of_1000;
        }
    }

    /// Passes everything on as it is from now on; what stalls ends.
    pub fn calm(&self) {
        *self.shared.plan.lock().unwrap() = Plan::Calm;
        self.shared.calm.send_modify(|n| *n += 1);
    }

    /// Returns the kinds of a list that can strike before such a server.
    pub fn fitting(server: &Server, kinds: &[Kind]) -> Vec<Kind> {
        let fits = |kind: &Kind| Class::ALL.iter().any(|class| kind.fits(*class, server));
        kinds.iter().copied().filter(fits).collect()
    }
}

impl Shared {
    fn class(&self, request: &Request) -> Class {
        let is_list = match &self.server {
            Server::S3 => request.query("list-type").is_some(),
            Server::Web => request.path().ends_with('/'),
            Server::Manifest(path) => request.path() == path,
        };
        match request.method.as_str() {
            _ if is_list => Class::List,
            "HEAD" => Class::Head,
            _ => Class::Get,
        }
    }

    /// Returns what is done to a request, and dice for how.
    fn choose(&self, class: Class, number: u64) -> (Option<Kind>, Dice) {
        let fits = |kind: &Kind| kind.fits(class, &self.server);
        let plan = &mut *self.plan.lock().unwrap();
        match plan {
            Plan::Calm => (None, Dice::new(0, &[number])),
            Plan::Always(kind) => (Some(*kind).filter(fits), Dice::new(0, &[number])),
            Plan::Once(kind) => {
                let kind = Some(*kind).filter(fits);
                if kind.is_some() {
                    *plan = Plan::Calm;
                }
                (kind, Dice::new(0, &[number]))
            }
            Plan::Storm {
                permille,
                dice,
                kinds,
                turns,
            } => {
                let own = Dice::new(dice.next(), &[]);
                if dice.permille(SLOW) {
                    return (Some(Kind::Slow), own);
                }
                if !dice.permille(*permille) {
                    return (None, own);
                }
                if !turns.iter().any(fits) {
                    let mut more = kinds.clone();
                    dice.shuffle(&mut more);
                    // What fits few requests must not wait for its turn behind what fits all.
                    more.sort_by_key(|kind| {
                        Class::ALL
                            .iter()
                            .filter(|c| kind.fits(**c, &self.server))
                            .count()
                    });
                    turns.extend(more.into_iter().filter(fits));
                }
                let next = turns.iter().position(fits);
                (next.and_then(|at| turns.remove(at)), own)
            }
        }
    }

    async fn ask(&self, request: &Request, whole: bool) -> Reply {
        match self.try_ask(request, whole).await {
            Ok(reply) => reply,
            Err(error) => {
                // The real server's own trouble, or a test that ends.
                self.tally.add("(the real server did not answer)");
                Reply::page(502, "text/plain", error.to_string())
            }
        }
    }

    async fn try_ask(&self, request: &Request, whole: bool) -> reqwest::Result<Reply> {
        let method = request.method.parse().unwrap_or(reqwest::Method::GET);
        let url = format!("{}{}", self.upstream, request.target);
        let mut asking = self.client.request(method, url);
        for (name, value) in &request.headers {
            let name = name.to_ascii_lowercase();
            if name != "connection" && !(whole && name == "range") {
                asking = asking.header(name, value);
            }
        }
        let answer = asking.send().await?;
        let status = answer.status().as_u16();
        let length = answer.headers().get("content-length");
        let length = length.and_then(|l| l.to_str().ok()?.parse().ok());
        let framing = [
            "connection",
            "content-length",
            "keep-alive",
            "transfer-encoding",
        ];
        let headers = answer.headers().iter();
        let headers = headers
            .filter(|(name, _)| !framing.contains(&name.as_str()))
            .map(|(name, value)| {
                let value = String::from_utf8_lossy(value.as_bytes()).into_owned();
                (name.as_str().to_owned(), value)
            })
            .collect();
        let mut reply = Reply::new(status, headers, answer.bytes().await?);
        if request.method == "HEAD" {
            reply.announced = length.unwrap_or(0);
        }
        Ok(reply)
    }

    /// Lets a listing go round: its page, with a next one that leads here again.
    fn looping(&self, request: &Request, reply: &mut Reply) {
        let prefix = request.query("prefix").unwrap_or_default().to_owned();
        let page = String::from_utf8_lossy(&reply.body);
        let entries: String = ["Contents", "CommonPrefixes"]
            .iter()
            .filter_map(|tag| {
                let (start, end) = (format!("<{tag}>"), format!("</{tag}>"));
                let from = page.find(&start)?;
                let to = page[from..].find(&end)? + from + end.len();
                Some(page[from..to].to_owned())
            })
            .collect();
        let page = list_page(&entries, Some(LOOP));
        self.loops.lock().unwrap().insert(prefix, page.body.clone());
        *reply = page;
    }

    /// Returns the page that follows one of a listing that we made up; the real server would not
    /// know it.
    fn follows(&self, request: &Request, number: u64) -> Option<Reply> {
        let token = request.query("continuation-token")?;
        if token.starts_with("empty-") {
            return Some(list_page("", Some(&format!("empty-{number}"))));
        }
        let prefix = request.query("prefix").unwrap_or_default();
        let pages = self.loops.lock().unwrap();
        let page = pages.get(prefix).filter(|_| token == LOOP)?;
        Some(Reply::page(200, "application/xml", page.clone()))
    }

    async fn reply(&self, request: &Request) -> (Option<Kind>, Reply) {
        let number = self.requests.fetch_add(1, Ordering::Relaxed);
        if let Some(page) = self.follows(request, number) {
            return (None, page);
        }
        let class = self.class(request);
        let (kind, mut dice) = self.choose(class, number);
        let Some(kind) = kind else {
            return (None, self.ask(request, false).await);
        };
        tokio::time::sleep(kind.late(&mut dice)).await;
        if !kind.needs_server() {
            return (Some(kind), kind.made_up(class, &self.server, number));
        }
        let whole = kind == Kind::Whole && self.server != Server::S3;
        let mut reply = self.ask(request, whole).await;
        if kind == Kind::LoopingPages && reply.status == 200 {
            self.looping(request, &mut reply);
        } else {
            kind.damage(&mut reply, &self.server, &mut dice);
        }
        (Some(kind), reply)
    }
}

async fn serve(mut client: TcpStream, shared: Arc<Shared>) {
    let mut buffer = Vec::new();
    while let Some(request) = Request::read(&mut client, &mut buffer).await {
        let mut calm = shared.calm.subscribe();
        let (kind, reply) = shared.reply(&request).await;
        if let Some(kind) = kind {
            shared.tally.add(kind.name());
        }
        let is_head = request.method == "HEAD";
        if reply.send(&mut client, is_head).await.is_err() {
            return;
        }
        match reply.then {
            Then::Keep => {}
            Then::Close => return,
            Then::Reset => {
                let none = Some(Duration::ZERO);
                let _ = rustix::net::sockopt::set_socket_linger(&client, none);
                return;
            }
            Then::Stall => {
                // Until the client gives up, or the storm is over.
                tokio::select! {
                    _ = calm.changed() => {}
                    _ = client.read_u8() => {}
                }
                return;
            }
        }
    }
}
