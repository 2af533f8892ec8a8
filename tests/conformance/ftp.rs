//! FTP and FTPS, on vsftpd and pyftpdlib.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use async_trait::async_trait;
use futures::StreamExt;
use svol::entry::Kind;
use svol::path::RelPath;
use svol::source::ftp::{FtpSettings, FtpSource, FtpTls};
use svol::source::{ErrorKind, Secret, Source};

use crate::common::ftp::{PASSWORD, TestFtp, USER, Way};
use crate::common::noise;
use crate::suite::*;

/// A server, and the tree in `root/` of it.
pub struct OnFtp {
    server: TestFtp,
    settings: FtpSettings,
    writes: std::sync::atomic::AtomicU64,
}

impl OnFtp {
    pub async fn new(way: Way) -> OnFtp {
        let start = move || TestFtp::start(way);
        let server = tokio::task::spawn_blocking(start).await.unwrap();
        std::fs::create_dir(server.root.join("root")).unwrap();
        let mut settings = server.settings();
        settings.path = "root".into();
        OnFtp {
            server,
            settings,
            writes: 0.into(),
        }
    }

    fn plain(&self) -> FtpSource {
        FtpSource::new(self.settings.clone()).unwrap()
    }
}

fn vsftpd(tls: FtpTls, reuse: bool) -> Way {
    Way {
        tls,
        reuse,
        ..Way::vsftpd()
    }
}

fn pyftpdlib(tls: FtpTls) -> Way {
    Way {
        tls,
        ..Way::pyftpdlib()
    }
}

/// pyftpdlib without what is newer than the seventies.
fn old() -> Way {
    Way {
        without: &["MLSD", "MLST", "EPSV", "EPRT", "REST", "FEAT", "OPTS"],
        ..Way::pyftpdlib()
    }
}

suite!(
    ftp_list,
    OnFtp::new(Way::vsftpd()),
    OnFtp::new(Way::vsftpd())
);
suite!(
    ftp_mlsd,
    OnFtp::new(Way::pyftpdlib()),
    OnFtp::new(Way::pyftpdlib())
);
suite!(
    ftps_explicit_list,
    OnFtp::new(vsftpd(FtpTls::Explicit, true)),
    OnFtp::new(vsftpd(FtpTls::Explicit, true))
);
suite!(
    ftps_explicit_mlsd,
    OnFtp::new(pyftpdlib(FtpTls::Explicit)),
    OnFtp::new(pyftpdlib(FtpTls::Explicit))
);
suite!(
    ftps_implicit_list,
    OnFtp::new(vsftpd(FtpTls::Implicit, false)),
    OnFtp::new(vsftpd(FtpTls::Implicit, false))
);
suite!(ftp_old, OnFtp::new(old()), OnFtp::new(old()));

#[async_trait]
impl World for OnFtp {
    fn source(&self) -> Arc<dyn Source> {
        guarded(self.plain())
    }
    async fn put(&self, path: &str, bytes: &[u8]) {
        let path = self.server.root.join("root").join(path);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(&path, bytes).unwrap();
        // Of minutes, LIST speaks only in the last half year.
        let add = std::sync::atomic::Ordering::Relaxed;
        let n = self.writes.fetch_add(1, add);
        let time =
            SystemTime::now() - Duration::from_secs(30 * 86_400) + Duration::from_secs(61 * n);
        let file = std::fs::File::options().write(true).open(&path).unwrap();
        file.set_modified(time).unwrap();
    }
    async fn delete(&self, path: &str) {
        std::fs::remove_file(self.server.root.join("root").join(path)).unwrap();
    }
    fn address(&self) -> Option<SocketAddr> {
        Some(([127, 0, 0, 1], self.settings.port?).into())
    }
    fn grafted(&self, server: Option<SocketAddr>) -> Grafted {
        let port = server.or(self.address()).unwrap().port();
        Grafted::new(format!(
            "ftp: {{host: 127.0.0.1, port: {port}, path: /root}}"
        ))
    }
    async fn stop(&self) {
        self.server.stop();
    }
    async fn restart(&self) -> bool {
        self.server.restart();
        true
    }
    fn takes(&self, name: &str) -> bool {
        // A line break ends a command, and an entry of a listing.
        !name.contains('\n')
    }
    fn with_wrong_credentials(&self) -> Option<Arc<dyn Source>> {
        let mut settings = self.settings.clone();
        settings.password.as_mut()?;
        settings.password = Some(Secret::fixed("wrong-hunter2"));
        Some(Arc::new(FtpSource::new(settings).unwrap()))
    }
}

/// Reads ranges of one file, several at once; returns the errors.
async fn ranges(source: &Arc<FtpSource>, size: u64, count: u64) -> Vec<svol::source::Error> {
    let entry = Arc::new(source.stat(&at("big")).await.unwrap());
    let reads = (0..count).map(|n| {
        let (source, entry) = (source.clone(), entry.clone());
        tokio::spawn(async move {
            let from = n * 7919 % size;
            let to = (from + 50_000).min(size);
            let bytes = read(&*source, "big", &entry, from, to).await?;
            let truth = noise(5, size as usize);
            assert!(bytes == truth[from as usize..to as usize], "{from}-{to}");
            Ok(())
        })
    });
    let mut errors = Vec::new();
    for read in reads.collect::<Vec<_>>() {
        errors.extend(read.await.unwrap().err());
    }
    errors
}

#[tokio::test]
async fn data_connections_resume_the_session_of_their_own_control_connection() {
    for reuse in [true, false] {
        let world = OnFtp::new(vsftpd(FtpTls::Explicit, reuse)).await;
        let size = 2 * 1024 * 1024;
        world.put("big", &noise(5, size)).await;
        let errors = ranges(&Arc::new(world.plain()), size as u64, 24).await;
        assert!(errors.is_empty(), "{errors:?}");
    }
}

#[tokio::test]
async fn a_range_that_is_not_the_end_costs_no_connection() {
    // With room for one, each new connection would have to wait for the end of the one before.
    for way in [vsftpd(FtpTls::None, false), vsftpd(FtpTls::Explicit, true)] {
        let world = OnFtp::new(Way { most: 1, ..way }).await;
        let size = 8 * 1024 * 1024;
        world.put("big", &noise(5, size)).await;
        let mut settings = world.settings.clone();
        settings.connections = 1;
        let source = Arc::new(FtpSource::new(settings).unwrap());
        let errors = ranges(&source, size as u64, 30).await;
        assert!(errors.is_empty(), "{errors:?}");
    }
}

#[tokio::test]
async fn where_a_server_has_no_room_there_are_fewer_connections() {
    let world = OnFtp::new(Way {
        most: 2,
        ..Way::vsftpd()
    })
    .await;
    let size = 2 * 1024 * 1024;
    world.put("big", &noise(5, size)).await;
    let mut settings = world.settings.clone();
    settings.connections = 8;
    let source = Arc::new(FtpSource::new(settings.clone()).unwrap());
    let errors = ranges(&source, size as u64, 24).await;
    assert!(errors.is_empty(), "{errors:?}");

    // Others have all of them.
    let entry = source.stat(&at("big")).await.unwrap();
    let mut held = Vec::new();
    for _ in 0..2 {
        held.push(
            source
                .read(&at("big"), &entry, 0..size as u64)
                .await
                .unwrap(),
        );
    }
    let second = FtpSource::new(settings).unwrap();
    let error = second.list(&RelPath::root()).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Throttled, "{error}");
    assert!(error.to_string().contains("too many"), "{error}");
    drop(held);
    // The server notices when it wants to write.
    let guard = guarded(second);
    assert_eq!(guard.list(&RelPath::root()).await.unwrap().entries.len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_that_died_while_idle_is_replaced() {
    for machine in [true, false] {
        let world = OnFtp::new(Way {
            machine,
            idle: 1,
            ..Way::vsftpd()
        })
        .await;
        world.put("d/f", b"content").await;
        let source = world.plain();
        let entry = known(&source, "d/f").await;
        // Closed by the server, for its age.
        tokio::time::sleep(Duration::from_millis(2500)).await;
        let bytes = read(&source, "d/f", &entry, 0, 7).await.unwrap();
        assert_eq!(bytes, b"content");
        // And by a restart.
        tokio::task::block_in_place(|| world.server.restart());
        let again = source.stat(&at("d/f")).await.unwrap();
        assert!(source.same_version(&entry, &again));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_restarts_under_a_reader_is_an_interruption() {
    for way in [vsftpd(FtpTls::Explicit, true), pyftpdlib(FtpTls::None)] {
        let world = OnFtp::new(way).await;
        let size = 32 * 1024 * 1024;
        let truth = noise(3, size);
        world.put("big", &truth).await;
        let source = world.source();
        let entry = known(&*source, "big").await;
        let mut body = source
            .read(&at("big"), &entry, 0..size as u64)
            .await
            .unwrap();
        let first = body.stream.next().await.unwrap().unwrap();
        assert_eq!(first, truth[..first.len()]);
        tokio::task::block_in_place(|| world.server.restart());
        let error = collect(body).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Interrupted, "{error}");
        let from = size as u64 - 5000;
        let bytes = read(&*source, "big", &entry, from, size as u64)
            .await
            .unwrap();
        assert!(bytes == truth[from as usize..]);
    }
}

#[tokio::test]
async fn ftps_wants_a_certificate_that_is_trusted() {
    for tls in [FtpTls::Explicit, FtpTls::Implicit] {
        let world = OnFtp::new(pyftpdlib(tls)).await;
        world.put("f", b"x").await;
        let mut settings = world.settings.clone();
        settings.certificates.ca_bundle = None;
        let error = FtpSource::new(settings.clone()).unwrap();
        let error = error.list(&RelPath::root()).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Invalid, "{error}");
        assert!(error.to_string().contains("CA bundle"), "{error}");
        // Of the right authority, for another host.
        settings.certificates.ca_bundle = Some(world.server.ca());
        settings.host = "localhost".into();
        let error = FtpSource::new(settings.clone()).unwrap();
        let error = error.list(&RelPath::root()).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Invalid, "{error}");
        settings.certificates.ca_bundle = Some(world.server.root.join("root/f"));
        let error = FtpSource::new(settings).map(|_| ()).unwrap_err();
        assert!(error.to_string().contains("CA bundle"), "{error}");
    }
    // The server wants TLS, we do not: it says so, and we how it is set.
    let world = OnFtp::new(pyftpdlib(FtpTls::Explicit)).await;
    let mut settings = world.settings.clone();
    settings.tls = FtpTls::None;
    settings.clear_password = true;
    let source = FtpSource::new(settings).unwrap();
    let error = source.list(&RelPath::root()).await.unwrap_err();
    assert!(
        error.to_string().contains("encryption: explicit"),
        "{error}"
    );
}

#[tokio::test]
async fn certificates_that_change_are_read_again() {
    let world = OnFtp::new(pyftpdlib(FtpTls::Explicit)).await;
    world.put("f", b"x").await;
    let other = TestFtp::start(Way::vsftpd());
    let file = world.server.root.join("ca");
    std::fs::copy(other.ca(), &file).unwrap();
    let mut settings = world.settings.clone();
    settings.certificates.ca_bundle = Some(file.clone());
    let source = FtpSource::new(settings).unwrap();
    let error = source.list(&RelPath::root()).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Invalid, "{error}");
    std::fs::remove_file(&file).unwrap();
    std::fs::copy(world.server.ca(), &file).unwrap();
    let listing = source.list(&RelPath::root()).await.unwrap();
    assert_eq!(listing.entries.len(), 1);
}

#[tokio::test]
async fn a_password_may_go_in_the_clear_where_that_is_wanted() {
    let world = OnFtp::new(Way::pyftpdlib()).await;
    world.put("f", b"x").await;
    let mut settings = world.settings.clone();
    settings.user = Some(USER.into());
    settings.password = Some(Secret::fixed(PASSWORD));
    settings.clear_password = true;
    let source = FtpSource::new(settings.clone()).unwrap();
    assert_eq!(
        source.list(&RelPath::root()).await.unwrap().entries.len(),
        1
    );
    settings.password = Some(Secret::fixed("wrong-hunter2"));
    let source = FtpSource::new(settings).unwrap();
    let error = source.list(&RelPath::root()).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Denied, "{error}");
}

#[tokio::test]
async fn a_foreign_address_in_reply_to_pasv_is_not_followed() {
    let world = OnFtp::new(Way {
        masquerade: Some("192.0.2.1"),
        without: &["EPSV"],
        ..Way::pyftpdlib()
    })
    .await;
    world.put("f", b"here").await;
    let source = world.plain();
    let entry = known(&source, "f").await;
    assert_eq!(read(&source, "f", &entry, 1, 4).await.unwrap(), b"ere");
}

#[tokio::test]
async fn kinds_of_entries() {
    for machine in [true, false] {
        let world = OnFtp::new(Way {
            machine,
            ..Way::vsftpd()
        })
        .await;
        world.put("d/f", b"x").await;
        world.put(".hidden", b"x").await;
        let root = world.server.root.join("root");
        std::os::unix::fs::symlink("d/f", root.join("link -> er")).unwrap();
        std::fs::write(root.join("two\nlines"), "x").unwrap();
        let made = std::process::Command::new("mkfifo")
            .arg(root.join("pipe"))
            .status();
        assert!(made.unwrap().success());
        let source = world.plain();
        let listing = source.list(&RelPath::root()).await.unwrap();
        let shown: Vec<_> = listing
            .entries
            .iter()
            .map(|e| (e.name.as_str(), e.kind))
            .collect();
        assert!(shown.contains(&("d", Kind::Dir)), "{shown:?}");
        assert!(shown.contains(&(".hidden", Kind::File)), "{shown:?}");
        // pyftpdlib says that a pipe is a file.
        let has_pipe = shown.iter().any(|(name, _)| *name == "pipe");
        assert_eq!(has_pipe, machine, "{shown:?}");
        assert!(listing.hidden.iter().map(|h| h.count).sum::<u64>() > 0);
        let link = listing
            .entries
            .iter()
            .find(|e| e.name.as_str() == "link -> er")
            .unwrap();
        // pyftpdlib shows what a link leads to.
        let want = if machine {
            (Kind::File, None)
        } else {
            (Kind::Symlink, Some("d/f"))
        };
        assert_eq!((link.kind, link.target.as_deref()), want);
        assert_eq!(kind(source.stat(&at("d")).await), ErrorKind::NotFound);
        assert_eq!(kind(source.list(&at("d/f")).await), ErrorKind::NotFound);
        // Neither an option nor a pattern.
        for name in ["-la", "*", "~"] {
            assert_eq!(
                kind(source.list(&at(name)).await),
                ErrorKind::NotFound,
                "{name}"
            );
        }
    }
}
