//! A directory of this machine.

use std::net::SocketAddr;
use std::sync::Arc;

use async_trait::async_trait;
use svol::source::Source;
use svol::source::local::LocalSource;

use crate::suite::*;

suite!(local, Local::new(false), Local::new(true));

pub struct Local {
    dir: tempfile::TempDir,
    disk: OnDisk,
}

impl Local {
    pub async fn new(_: bool) -> Local {
        let dir = tempfile::tempdir().unwrap();
        let disk = OnDisk::new(&dir.path().join("root"));
        Local { dir, disk }
    }
}

#[async_trait]
impl World for Local {
    fn source(&self) -> Arc<dyn Source> {
        guarded(LocalSource::new(&self.disk.root).unwrap())
    }
    async fn put(&self, path: &str, bytes: &[u8]) {
        self.disk.put(path, bytes);
    }
    async fn delete(&self, path: &str) {
        std::fs::remove_file(self.disk.root.join(path)).unwrap();
    }
    fn grafted(&self, _: Option<SocketAddr>) -> Grafted {
        Grafted::new(format!("local: {{path: '{}'}}", self.disk.root.display()))
    }
    async fn stop(&self) {
        std::fs::rename(&self.disk.root, self.dir.path().join("gone")).unwrap();
    }
}
