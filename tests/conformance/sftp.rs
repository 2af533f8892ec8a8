//! SFTP, on OpenSSH's server.

use std::net::SocketAddr;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, UNIX_EPOCH};

use async_trait::async_trait;
use futures::StreamExt;
use futures::future::join_all;
use svol::entry::{Entry, Kind};
use svol::path::RelPath;
use svol::source::sftp::{SftpSettings, SftpSource};
use svol::source::ssh::HostKeys;
use svol::source::{ErrorKind, HiddenWhy, Source};

use crate::common::noise;
use crate::common::sshd::TestSshd;
use crate::suite::*;

suite!(sftp, OverSsh::new(false), OverSsh::new(true));

pub struct OverSsh {
    server: Server,
    disk: OnDisk,
}

/// A server that is shared, or this world's own, to be stopped.
enum Server {
    Shared(&'static TestSshd),
    Own(Box<TestSshd>),
}

impl OverSsh {
    pub async fn new(own: bool) -> OverSsh {
        let server = match own {
            true => Server::Own(Box::new(blocking(TestSshd::start).await)),
            false => Server::Shared(blocking(TestSshd::shared).await),
        };
        OverSsh::on(server)
    }

    async fn with(more: &'static str) -> OverSsh {
        let start = tokio::task::spawn_blocking(move || TestSshd::start_with(more));
        OverSsh::on(Server::Own(Box::new(start.await.unwrap())))
    }

    fn on(server: Server) -> OverSsh {
        let of = match &server {
            Server::Shared(server) => server,
            Server::Own(server) => &**server,
        };
        static NEXT: std::sync::atomic::AtomicU32 = std::sync::atomic::AtomicU32::new(0);
        let n = NEXT.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        let disk = OnDisk::new(&of.root.join(format!("tree-{n}")));
        OverSsh { server, disk }
    }

    fn server(&self) -> &TestSshd {
        match &self.server {
            Server::Shared(server) => server,
            Server::Own(server) => server,
        }
    }

    fn settings(&self) -> SftpSettings {
        self.server().serves(&self.disk.root)
    }

    /// Returns the source without its guard.
    fn plain(&self) -> SftpSource {
        SftpSource::new(self.settings()).unwrap()
    }
}

#[async_trait]
impl World for OverSsh {
    fn source(&self) -> Arc<dyn Source> {
        guarded(self.plain())
    }
    async fn put(&self, path: &str, bytes: &[u8]) {
        self.disk.put(path, bytes);
    }
    async fn delete(&self, path: &str) {
        std::fs::remove_file(self.disk.root.join(path)).unwrap();
    }
    fn address(&self) -> Option<SocketAddr> {
        Some(([127, 0, 0, 1], self.server().port).into())
    }
    fn grafted(&self, server: Option<SocketAddr>) -> Grafted {
        let own = self.server();
        let port = server.or(self.address()).unwrap().port();
        let (key, print) = (own.file("user"), own.fingerprint("host_ed25519"));
        Grafted::new(format!(
            "sftp: {{host: 127.0.0.1, port: {port}, user: {}, path: {:?}, ssh: {{privateKey: \
             {{fromFile: {key:?}}}, hostKeyFingerprints: [{print:?}]}}}}",
            crate::common::sshd::user(),
            self.disk.root,
        ))
    }
    async fn stop(&self) {
        self.server().stop();
    }
    async fn restart(&self) -> bool {
        self.server().stop();
        self.server().start_again();
        true
    }
    fn with_wrong_credentials(&self) -> Option<Arc<dyn Source>> {
        let mut settings = self.settings();
        settings.ssh.identities = vec![self.server().identity("wrong")];
        Some(Arc::new(SftpSource::new(settings).unwrap()))
    }
}

fn old(entry: &Entry) -> bool {
    !entry.version.token.contains('~')
}

/// Waits without holding up what goes on in this thread.
async fn until(ready: impl Fn() -> bool) {
    let start = std::time::Instant::now();
    while !ready() {
        assert!(start.elapsed() < crate::common::START, "it does not happen");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

#[tokio::test]
async fn an_unknown_server_is_not_asked() {
    let world = OverSsh::new(false).await;
    let mut settings = world.settings();
    settings.ssh.host_keys = HostKeys::Known(vec![]);
    let source = SftpSource::new(settings).unwrap();
    let error = source.list(&RelPath::root()).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Denied, "{error}");
    assert!(error.to_string().contains("SHA256:"), "{error}");
}

#[tokio::test]
async fn links_are_shown_verbatim_and_special_files_are_hidden() {
    let world = OverSsh::new(false).await;
    let root = &world.disk.root;
    world.put("d/f", b"f").await;
    world.put("run.sh", b"#!").await;
    std::fs::set_permissions(root.join("run.sh"), PermissionsExt::from_mode(0o755)).unwrap();
    symlink("d/f", root.join("ok")).unwrap();
    symlink("missing", root.join("dangling")).unwrap();
    symlink("../../secret", root.join("out")).unwrap();
    for i in 0..200 {
        symlink(format!("d/{i}"), root.join(format!("link-{i:03}"))).unwrap();
    }
    let odd = std::ffi::OsStr::from_bytes(b"odd-\xff");
    std::fs::write(root.join(odd), "").unwrap();
    symlink(odd, root.join("to-odd")).unwrap();
    let (fifo, mode) = (rustix::fs::FileType::Fifo, rustix::fs::Mode::RUSR);
    rustix::fs::mknodat(rustix::fs::CWD, root.join("pipe"), fifo, mode, 0).unwrap();

    let source = world.source();
    let listing = source.list(&RelPath::root()).await.unwrap();
    let names: Vec<_> = listing.entries.iter().map(|e| e.name.as_str()).collect();
    assert_eq!(names.len(), 205, "{names:?}");
    let entry = |name: &str| {
        let found = listing.entries.iter().find(|e| e.name.as_str() == name);
        found.unwrap_or_else(|| panic!("{name}")).clone()
    };
    for (name, target) in [
        ("ok", "d/f"),
        ("dangling", "missing"),
        ("out", "../../secret"),
        ("link-123", "d/123"),
    ] {
        let listed = entry(name);
        assert_eq!(listed.kind, Kind::Symlink, "{name}");
        assert_eq!(listed.target.as_deref(), Some(target));
        let stat = source.stat(&at(name)).await.unwrap();
        assert_eq!(stat, listed);
    }
    assert_eq!(entry("run.sh").executable, Some(true));
    assert!(old(&entry("run.sh")));
    assert_eq!(entry("d").kind, Kind::Dir);
    let inside = source.list(&at("d")).await.unwrap();
    assert_eq!(inside.entries[0].executable, Some(false));
    let hidden = |why: HiddenWhy| {
        let found = listing.hidden.iter().find(|h| h.why == why);
        found.map_or(0, |h| h.count)
    };
    assert_eq!(hidden(HiddenWhy::Special), 1, "{:?}", listing.hidden);
    assert_eq!(hidden(svol::path::BadName::NotUtf8.into()), 2);
    for name in ["pipe", "to-odd"] {
        assert_eq!(kind(source.stat(&at(name)).await), ErrorKind::NotFound);
    }
}

#[tokio::test]
async fn the_servers_links_are_not_followed() {
    let world = OverSsh::new(false).await;
    world.put("d/f", b"inside").await;
    world.put("x/f", b"beside").await;
    let source = world.plain();
    let entry = source.stat(&at("d/f")).await.unwrap();
    // What was a directory becomes a link, out of the root or not.
    let outside = world.server().root.join("outside");
    std::fs::create_dir_all(&outside).unwrap();
    std::fs::write(outside.join("f"), "secret").unwrap();
    let d = world.disk.root.join("d");
    for to in [outside, PathBuf::from("x")] {
        let _ = std::fs::remove_dir_all(&d).or_else(|_| std::fs::remove_file(&d));
        symlink(to, &d).unwrap();
        assert_eq!(kind(source.list(&at("d")).await), ErrorKind::NotFound);
        assert_eq!(kind(source.stat(&at("d/f")).await), ErrorKind::NotFound);
        let read = source.read(&at("d/f"), &entry, 0..6).await;
        assert_eq!(kind(read), ErrorKind::NotFound);
    }
    // A file that becomes a link.
    let f = world.disk.root.join("x/f");
    let entry = source.stat(&at("x/f")).await.unwrap();
    std::fs::rename(&f, world.disk.root.join("real")).unwrap();
    symlink("../real", &f).unwrap();
    let got = source.read(&at("x/f"), &entry, 0..6).await;
    assert_eq!(kind(got), ErrorKind::NotFound);

    // The root itself may be one, and lead elsewhere later.
    let (one, two) = (OverSsh::new(false).await, OverSsh::new(false).await);
    one.put("d/f", b"one").await;
    two.put("d/f", b"two").await;
    let root = world.server().root.join("current");
    symlink(&one.disk.root, &root).unwrap();
    let source = SftpSource::new(world.server().serves(&root)).unwrap();
    for (at_last, want) in [(&one, b"one"), (&two, b"two")] {
        std::fs::remove_file(&root).unwrap();
        symlink(&at_last.disk.root, &root).unwrap();
        let entry = known(&source, "d/f").await;
        let bytes = read(&source, "d/f", &entry, 0, 3).await.unwrap();
        assert_eq!(bytes, want);
    }
    std::fs::remove_file(&root).unwrap();
}

#[tokio::test]
async fn a_root_that_is_not_there_is_no_empty_one() {
    let world = OverSsh::new(false).await;
    world.put("d/f", b"x").await;
    let source = world.plain();
    let entry = source.stat(&at("d/f")).await.unwrap();
    let gone = world.disk.root.with_extension("gone");
    std::fs::rename(&world.disk.root, &gone).unwrap();
    let root = RelPath::root();
    for error in [
        source.list(&root).await.map(|_| ()).unwrap_err(),
        source.list(&at("d")).await.map(|_| ()).unwrap_err(),
        source.stat(&at("d/f")).await.map(|_| ()).unwrap_err(),
        source
            .read(&at("d/f"), &entry, 0..1)
            .await
            .map(|_| ())
            .unwrap_err(),
    ] {
        assert_eq!(error.kind(), ErrorKind::Invalid, "{error}");
        assert!(error.to_string().contains("check the path"), "{error}");
    }
    std::fs::write(&world.disk.root, "").unwrap();
    let error = source.list(&root).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Invalid, "{error}");
    assert!(error.to_string().contains("no directory"), "{error}");
}

#[tokio::test]
async fn a_file_that_is_written_over_is_noticed_in_the_middle() {
    let world = OverSsh::new(false).await;
    let len = 12 << 20;
    let truth = noise(1, len);
    world.put("f", &truth).await;
    let source = world.plain();
    let entry = known(&source, "f").await;
    let body = source.read(&at("f"), &entry, 0..len as u64).await.unwrap();
    let mut stream = body.stream;
    let mut got = stream.next().await.unwrap().unwrap().to_vec();
    // In place, with the same size.
    std::fs::write(world.disk.root.join("f"), noise(2, len)).unwrap();
    let error = loop {
        match stream.next().await.expect("an end that is no error") {
            Ok(bytes) => got.extend_from_slice(&bytes),
            Err(error) => break error,
        }
    };
    assert_eq!(error.kind(), ErrorKind::Changed, "{error}");
    assert!(got == truth[..got.len()], "bytes of another version");

    // Just written, its time may stay while its bytes change.
    let now = known(&source, "f").await;
    assert!(!old(&now), "{now:?}");
    assert!(!source.same_version(&entry, &now));
    let file = std::fs::File::options()
        .write(true)
        .open(world.disk.root.join("f"));
    file.unwrap()
        .set_modified(UNIX_EPOCH + Duration::from_secs(1_000_000))
        .unwrap();
    assert!(old(&known(&source, "f").await));
}

#[tokio::test]
async fn a_server_that_is_started_again_serves_on() {
    let world = OverSsh::new(true).await;
    let len: usize = 24 << 20;
    let truth = noise(3, len);
    world.put("f", &truth).await;
    let source = world.plain();
    let entry = known(&source, "f").await;
    let body = source.read(&at("f"), &entry, 0..len as u64).await.unwrap();
    let mut stream = body.stream;
    let mut got = stream.next().await.unwrap().unwrap().to_vec();
    world.server().stop();
    let error = loop {
        match stream.next().await.expect("an end that is no error") {
            Ok(bytes) => got.extend_from_slice(&bytes),
            Err(error) => break error,
        }
    };
    assert!(error.kind().is_transient(), "{error:?}");
    assert!(got.len() < len && got == truth[..got.len()]);
    assert_eq!(kind(source.stat(&at("f")).await), ErrorKind::Unreachable);
    world.server().start_again();
    let rest = read(&source, "f", &entry, got.len() as u64, len as u64);
    got.extend(rest.await.unwrap());
    assert!(got == truth);
}

#[tokio::test]
async fn a_server_that_kills_its_sessions_is_connected_to_again() {
    let world = OverSsh::new(true).await;
    world.put("f", b"x").await;
    let source = world.source();
    for _ in 0..5 {
        let entry = known(&*source, "f").await;
        assert_eq!(read(&*source, "f", &entry, 0, 1).await.unwrap(), b"x");
        world.server().kill_sessions();
    }
}

#[tokio::test]
async fn one_session_a_connection_is_enough() {
    let world = OverSsh::with("MaxSessions 1").await;
    let truth = noise(4, 2 << 20);
    world.put("f", &truth).await;
    let source = Arc::new(world.plain());
    let entry = known(&*source, "f").await;
    let reads = (0..64).map(|_| read(&*source, "f", &entry, 0, truth.len() as u64));
    for got in join_all(reads).await {
        assert!(got.unwrap() == truth);
    }
    assert!((1..=4).contains(&world.server().sftp_servers()));
}

#[tokio::test]
async fn connections_are_bounded_and_shared() {
    let world = OverSsh::new(true).await;
    let truth = noise(5, 1 << 20);
    for i in 0..40 {
        world.put(&format!("d/{i}"), &truth).await;
    }
    let source = Arc::new(world.plain());
    let listing = source.list(&at("d")).await.unwrap();
    let reads = listing.entries.iter().flat_map(|entry| {
        let path = format!("d/{}", entry.name.as_str());
        let source = source.clone();
        (0..4).map(move |_| {
            let (source, path) = (source.clone(), path.clone());
            async move { read(&*source, &path, entry, 0, 1 << 20).await.unwrap() }
        })
    });
    for got in join_all(reads).await {
        assert!(got == truth);
    }
    let servers = world.server().sftp_servers();
    assert!((2..=16).contains(&servers), "{servers}");
    drop(source);
    until(|| world.server().sftp_servers() == 0).await;
}

#[tokio::test]
async fn too_many_logins_are_a_reason_to_wait() {
    let world = OverSsh::with("MaxStartups 1:100:1").await;
    world.put("f", b"x").await;
    let source = world.plain();
    let place = ("127.0.0.1", world.server().port);
    // The server's own look whether it listens may still count.
    until(|| world.server().sessions() == 0).await;
    let held = std::net::TcpStream::connect(place).unwrap();
    // The server counts it once it has taken it.
    let mut first = [0; 4];
    std::io::Read::read_exact(&mut &held, &mut first).unwrap();
    let error = source.list(&RelPath::root()).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Throttled, "{error}");
    assert!(error.to_string().contains("MaxStartups"), "{error}");
    drop(held);
    // Behind its guard it waits.
    let source = world.source();
    assert_eq!(
        source.list(&RelPath::root()).await.unwrap().entries.len(),
        1
    );
}

#[tokio::test]
async fn what_is_forbidden_is_no_absence() {
    let world = OverSsh::with("Subsystem sftp internal-sftp -P open,opendir").await;
    world.put("f", b"x").await;
    let source = world.plain();
    let entry = source.stat(&at("f")).await.unwrap();
    let read = source.read(&at("f"), &entry, 0..1).await;
    assert_eq!(kind(read), ErrorKind::Denied);
    let list = source.list(&RelPath::root()).await;
    assert_eq!(kind(list), ErrorKind::Denied);

    let world = OverSsh::with("Subsystem other internal-sftp\nForceCommand echo hello there").await;
    let error = world.plain().list(&RelPath::root()).await.unwrap_err();
    assert_ne!(error.kind(), ErrorKind::NotFound, "{error}");
}

#[tokio::test]
async fn a_server_that_prints_at_login_is_told() {
    let world = OverSsh::with("ForceCommand echo Welcome to the machine").await;
    let error = world.plain().list(&RelPath::root()).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Lied, "{error}");
    assert!(error.to_string().contains("login script"), "{error}");
}

#[tokio::test]
async fn readers_that_are_gone_leave_nothing_open() {
    let world = OverSsh::new(true).await;
    let len: u64 = 8 << 20;
    world.put("f", &noise(6, len as usize)).await;
    let source = world.plain();
    let entry = known(&source, "f").await;
    let path = at("f");
    for turn in 0..60u64 {
        let reading = source.read(&path, &entry, 0..len);
        // In the middle of opening, of listing, of the body.
        match turn % 3 {
            0 => {
                let limit = Duration::from_micros(turn * 20);
                let _ = tokio::time::timeout(limit, reading).await;
            }
            1 => {
                let mut body = reading.await.unwrap();
                body.stream.next().await.unwrap().unwrap();
            }
            _ => {
                let limit = Duration::from_micros(turn * 20);
                let _ = tokio::time::timeout(limit, source.list(&RelPath::root())).await;
            }
        }
    }
    until(|| world.server().open_files() == 0).await;
    let bytes = read(&source, "f", &entry, len - 5, len).await.unwrap();
    assert_eq!(bytes, noise(6, len as usize)[len as usize - 5..]);
    assert!(world.server().sftp_servers() >= 1);
}

#[tokio::test]
async fn a_body_that_nobody_takes_does_not_hold_others_up() {
    let world = OverSsh::new(true).await;
    let len: u64 = 16 << 20;
    let truth = noise(7, len as usize);
    world.put("f", &truth).await;
    let source = world.plain();
    let entry = known(&source, "f").await;
    let mut held = Vec::new();
    for _ in 0..40 {
        held.push(source.read(&at("f"), &entry, 0..len).await.unwrap());
    }
    let got = read(&source, "f", &entry, 0, len).await.unwrap();
    assert!(got == truth);
    // And each of those still gives all of it.
    let last = collect(held.pop().unwrap()).await.unwrap();
    assert!(last == truth);
}

#[test]
fn a_place_has_one_name() {
    let ssh = svol::source::ssh::SshSettings::new(
        "Files.Example.ORG",
        &svol::source::ssh::Env {
            user: Some("me".into()),
            ..Default::default()
        },
    );
    let source = |path: &str, port| {
        let mut ssh = ssh.clone();
        ssh.port = port;
        let path = path.to_owned();
        SftpSource::new(SftpSettings { ssh, path })
    };
    let identity = |path, port| source(path, port).unwrap().identity().to_owned();
    assert_eq!(
        identity("/srv/a b", 22),
        "sftp://files.example.org/srv/a%20b"
    );
    assert_eq!(identity("/srv/", 2222), "sftp://files.example.org:2222/srv");
    assert_eq!(identity("/", 22), "sftp://files.example.org");
    let url = source("/", 22).unwrap().url(&at("x/y#"));
    assert_eq!(url, "sftp://files.example.org/x/y%23");
    for bad in ["", "srv", "/srv/../etc", "/srv//x", "/./x", "/\0"] {
        let error = source(bad, 22).map(|_| ()).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Invalid, "{bad:?}");
    }
}
