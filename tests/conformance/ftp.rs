//! FTP and FTPS, on vsftpd and pyftpdlib.

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
struct OnFtp {
    server: TestFtp,
    settings: FtpSettings,
    writes: std::sync::atomic::AtomicU64,
}

impl OnFtp {
    async fn new(way: Way) -> OnFtp {
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
    async fn stop(&self) {
        self.server.stop();
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
