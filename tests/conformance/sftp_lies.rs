//! SSH servers that OpenSSH's cannot play without changing this machine: one that takes passwords,
//! and those that lie. They are scripted, on russh's own server.

use std::sync::{Arc, Mutex};

use proptest::prelude::*;
use russh::keys::{HashAlg, PrivateKey};
use russh::server::{Auth, ChannelOpenHandle, Config, Handler, Msg, Response, Session};
use russh::{Channel, ChannelId};
use svol::entry::{Entry, Version};
use svol::path::{Name, RelPath};
use svol::source::sftp::{SftpSettings, SftpSource};
use svol::source::ssh::{Connection, Env, HostKeys, SshSettings};
use svol::source::{ErrorKind, Secret, Source};

use crate::suite::*;

const PASSWORD: &str = "open-hunter2";

/// What a scripted server replies to a request of a kind and a number, without the packet's length.
type Script = Arc<dyn Fn(u8, u32) -> Vec<u8> + Send + Sync>;

/// How a scripted server takes the password.
#[derive(Clone, Copy, PartialEq)]
enum Asks {
    Nothing,
    Password,
    Questions,
}

struct Scripted {
    port: u16,
    key: PrivateKey,
}

#[derive(Clone)]
struct Talk {
    asks: Asks,
    script: Script,
    buffer: Vec<u8>,
}

impl Handler for Talk {
    type Error = russh::Error;

    async fn auth_none(&mut self, _: &str) -> Result<Auth, Self::Error> {
        match self.asks {
            Asks::Nothing => Ok(Auth::Accept),
            _ => Ok(Auth::reject()),
        }
    }
    async fn auth_password(&mut self, _: &str, password: &str) -> Result<Auth, Self::Error> {
        match self.asks == Asks::Password && password == PASSWORD {
            true => Ok(Auth::Accept),
            false => Ok(Auth::reject()),
        }
    }
    async fn auth_keyboard_interactive<'a>(
        &'a mut self,
        _: &str,
        _: &str,
        response: Option<Response<'a>>,
    ) -> Result<Auth, Self::Error> {
        if self.asks != Asks::Questions {
            return Ok(Auth::reject());
        }
        match response.map(|mut all| all.next()) {
            None => Ok(Auth::Partial {
                name: "".into(),
                instructions: "".into(),
                prompts: vec![("Password: ".into(), false)].into(),
            }),
            Some(Some(answer)) if answer == PASSWORD.as_bytes() => Ok(Auth::Accept),
            Some(_) => Ok(Auth::reject()),
        }
    }
    async fn channel_open_session(
        &mut self,
        _: Channel<Msg>,
        reply: ChannelOpenHandle,
        _: &mut Session,
    ) -> Result<(), Self::Error> {
        reply.accept().await;
        Ok(())
    }
    async fn subsystem_request(
        &mut self,
        channel: ChannelId,
        _: &str,
        session: &mut Session,
    ) -> Result<(), Self::Error> {
        session.channel_success(channel)
    }
    async fn data(
        &mut self,
        channel: ChannelId,
        data: &[u8],
        session: &mut Session,
    ) -> Result<(), Self::Error> {
        self.buffer.extend_from_slice(data);
        while self.buffer.len() >= 9 {
            let number =
                |at: usize| u32::from_be_bytes(self.buffer[at..at + 4].try_into().unwrap());
            let (len, kind, id) = (number(0) as usize, self.buffer[4], number(5));
            if self.buffer.len() < 4 + len {
                break;
            }
            self.buffer.drain(..4 + len);
            let reply = (self.script)(kind, id);
            let len = (reply.len() as u32).to_be_bytes();
            session.data(channel, [&len[..], &reply].concat())?;
        }
        Ok(())
    }
}

impl Scripted {
    async fn start(asks: Asks, script: Script) -> Scripted {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("key");
        crate::common::sshd::keygen(&file, "ed25519", "");
        let text = std::fs::read_to_string(&file).unwrap();
        let key = russh::keys::decode_secret_key(&text, None).unwrap();
        let config = Arc::new(Config {
            keys: vec![key.clone()],
            auth_rejection_time: std::time::Duration::ZERO,
            ..Config::default()
        });
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        tokio::spawn(async move {
            while let Ok((socket, _)) = listener.accept().await {
                let talk = Talk {
                    asks,
                    script: script.clone(),
                    buffer: Vec::new(),
                };
                let config = config.clone();
                tokio::spawn(async move {
                    if let Ok(session) = russh::server::run_stream(config, socket, talk).await {
                        let _ = session.await;
                    }
                });
            }
        });
        Scripted { port, key }
    }

    fn settings(&self) -> SshSettings {
        let print = self.key.public_key().fingerprint(HashAlg::Sha256);
        SshSettings {
            port: self.port,
            user: "tester".into(),
            host_keys: HostKeys::Pinned(vec![print.to_string()]),
            ..SshSettings::new("127.0.0.1", &Env::default())
        }
    }

    fn source(&self) -> SftpSource {
        let (ssh, path) = (self.settings(), "/srv".to_owned());
        SftpSource::new(SftpSettings { ssh, path }).unwrap()
    }
}

fn silent() -> Script {
    Arc::new(|_, _| Vec::new())
}

#[tokio::test]
async fn passwords_are_given_as_servers_ask_for_them() {
    for asks in [Asks::Password, Asks::Questions] {
        let server = Scripted::start(asks, silent()).await;
        let mut settings = server.settings();
        let written = Arc::new(Mutex::new("wrong-hunter2".to_owned()));
        let read = written.clone();
        settings.password = Some(Secret::from_fn(move || Ok(read.lock().unwrap().clone())));
        let error = Connection::connect(&settings).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Denied, "{error}");
        let text = format!("{error} {error:?}");
        assert!(text.contains("the password"), "{text}");
        assert!(!text.contains("hunter2"), "{text}");
        // Written anew, it needs no new start.
        *written.lock().unwrap() = PASSWORD.to_owned();
        Connection::connect(&settings).await.unwrap();
        settings.password = None;
        let error = Connection::connect(&settings).await.unwrap_err();
        assert!(error.to_string().contains("tried nothing"), "{error}");
    }
}

fn text(text: &[u8]) -> Vec<u8> {
    [&(text.len() as u32).to_be_bytes()[..], text].concat()
}

fn reply(kind: u8, id: u32, rest: &[u8]) -> Vec<u8> {
    [&[kind][..], &id.to_be_bytes(), rest].concat()
}

fn attrs(mode: u32, size: u64) -> Vec<u8> {
    let mut all = 13u32.to_be_bytes().to_vec();
    all.extend(size.to_be_bytes());
    all.extend(mode.to_be_bytes());
    all.extend([0, 0, 0, 1, 0, 0, 0, 2]);
    all
}

fn names(id: u32, all: &[&[u8]]) -> Vec<u8> {
    let mut rest = (all.len() as u32).to_be_bytes().to_vec();
    for name in all {
        rest.extend([text(name), text(b""), 0u32.to_be_bytes().to_vec()].concat());
    }
    reply(104, id, &rest)
}

const EOF: [u8; 4] = [0, 0, 0, 1];

/// What a server that means well replies, but that it does not tell attributes in listings.
fn honest(kind: u8, id: u32) -> Vec<u8> {
    match kind {
        1 => vec![2, 0, 0, 0, 3],
        3 | 11 => reply(102, id, &text(b"handle")),
        5 => reply(103, id, &text(&[7; 10])),
        7 | 8 => reply(105, id, &attrs(0o100_644, 10)),
        16 => names(id, &[b"/srv"]),
        17 => reply(105, id, &attrs(0o040_755, 0)),
        4 => reply(101, id, &[0, 0, 0, 0]),
        _ => reply(101, id, &EOF),
    }
}

fn entry() -> Entry {
    Entry::file(Name::new("f").unwrap(), 10, None, Version::weak("10@2"))
}

async fn scripted(
    script: impl Fn(u8, u32) -> Option<Vec<u8>> + Send + Sync + 'static,
) -> SftpSource {
    let script = move |kind, id| script(kind, id).unwrap_or_else(|| honest(kind, id));
    Scripted::start(Asks::Nothing, Arc::new(script))
        .await
        .source()
}

#[tokio::test]
async fn hostile_names_are_hidden_and_counted() {
    let listed = std::sync::atomic::AtomicBool::new(false);
    let source = scripted(move |kind, id| {
        let long = [b'x'; 300];
        let all: [&[u8]; 8] = [b".", b"..", b"", b"a/b", b"\xff", b"x\0", &long, b"ok"];
        let first = kind == 12 && !listed.swap(true, std::sync::atomic::Ordering::Relaxed);
        first.then(|| names(id, &all))
    })
    .await;
    let listing = source.list(&RelPath::root()).await.unwrap();
    let shown: Vec<_> = listing.entries.iter().map(|e| e.name.as_str()).collect();
    assert_eq!(shown, ["ok"]);
    assert_eq!(listing.entries[0].size, Some(10));
    let hidden: u64 = listing.hidden.iter().map(|h| h.count).sum();
    assert_eq!(hidden, 5, "{:?}", listing.hidden);
}

#[tokio::test]
async fn lies_are_told_from_absences() {
    let path = RelPath::new("f").unwrap();
    // Straight paths, so that reads come as far as their bytes.
    let straight = |kind, id| (kind == 16).then(|| names(id, &[b"/"]));
    let wrong_id = scripted(|kind, id| (kind == 11).then(|| honest(11, id + 1))).await;
    assert_eq!(kind(wrong_id.list(&RelPath::root()).await), ErrorKind::Lied);
    let endless = scripted(|kind, id| (kind == 12).then(|| names(id, &[]))).await;
    assert_eq!(kind(endless.list(&RelPath::root()).await), ErrorKind::Lied);
    let other = scripted(|kind, id| (kind == 7).then(|| reply(102, id, &text(b"h")))).await;
    assert_eq!(kind(other.stat(&path).await), ErrorKind::Lied);
    let huge = scripted(|kind, _| (kind == 7).then(|| vec![9; 300 * 1024])).await;
    assert_eq!(kind(huge.stat(&path).await), ErrorKind::Lied);
    let links = scripted(straight).await;
    let below = RelPath::new("d/f").unwrap();
    assert_eq!(kind(links.stat(&below).await), ErrorKind::NotFound);

    // The root is `/srv` and the file `/srv/f`, by turns: REALPATH of the file comes first.
    let turn = Arc::new(std::sync::atomic::AtomicU32::new(0));
    let reads = move |data: &'static [u8]| {
        let turn = turn.clone();
        move |kind, id| match kind {
            5 => Some(reply(103, id, &text(data))),
            16 => {
                let n = turn.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
                Some(names(
                    id,
                    &[if n.is_multiple_of(2) {
                        b"/srv/f"
                    } else {
                        b"/srv"
                    }],
                ))
            }
            _ => None,
        }
    };
    let long = scripted(reads(&[1; 11])).await;
    let body = long.read(&path, &entry(), 0..10).await.unwrap();
    assert_eq!(kind(collect(body).await), ErrorKind::Lied);
    let nothing = scripted(reads(&[])).await;
    // The number of REALPATHs so far is even.
    let body = nothing.read(&path, &entry(), 0..10).await.unwrap();
    assert_eq!(kind(collect(body).await), ErrorKind::Interrupted);
    let drops = scripted(reads(&[7; 5])).await;
    let body = drops.read(&path, &entry(), 0..10).await.unwrap();
    assert_eq!(collect(body).await.unwrap().len(), 10, "piece by piece");
    let mut other = entry();
    other.version = Version::weak("10@3");
    let changed = scripted(reads(&[7; 10])).await;
    assert_eq!(
        kind(changed.read(&path, &other, 0..10).await),
        ErrorKind::Changed
    );
}

#[test]
fn no_reply_panics_or_hangs() {
    let runtime = tokio::runtime::Builder::new_multi_thread();
    let runtime = { runtime }.worker_threads(1).enable_all().build().unwrap();
    let kinds = prop::sample::select(vec![2u8, 101, 102, 103, 104, 105, 201, 0]);
    let reply = (
        kinds,
        any::<bool>(),
        prop::collection::vec(any::<u8>(), 0..40),
    );
    let config = ProptestConfig {
        cases: 24,
        fork: false,
        ..ProptestConfig::default()
    };
    proptest!(config, |(replies in prop::collection::vec(reply, 1..6))| {
        let done = runtime.block_on(async {
            let at = std::sync::atomic::AtomicUsize::new(0);
            let source = scripted(move |kind, id| {
                if kind == 1 {
                    return None;
                }
                let n = at.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
                let (kind, right, rest) = replies.get(n % (replies.len() + 1))?;
                let id = if *right { id } else { id ^ 1 };
                Some(reply_of(*kind, id, rest))
            })
            .await;
            let path = RelPath::new("d/f").unwrap();
            let all = async {
                let _ = source.list(&RelPath::root()).await;
                let _ = source.stat(&path).await;
                if let Ok(body) = source.read(&path, &entry(), 0..10).await {
                    let _ = collect(body).await;
                }
            };
            tokio::time::timeout(std::time::Duration::from_secs(20), all).await
        });
        prop_assert!(done.is_ok(), "it hangs");
    });
}

fn reply_of(kind: u8, id: u32, rest: &[u8]) -> Vec<u8> {
    reply(kind, id, rest)
}
