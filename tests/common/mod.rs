//! What the integration tests share: real mounts, and servers on loopback.

// Each test binary uses a part of this.
#![allow(dead_code, unreachable_pub)]

pub mod apache;
#[cfg(feature = "azure")]
pub mod azure;
pub mod chaos;
pub mod disk;
pub mod faults;
#[cfg(feature = "ftp")]
pub mod ftp;
#[cfg(feature = "ftp")]
pub mod ftp_script;
#[cfg(feature = "gcs")]
pub mod gcs;
pub mod git;
pub mod machine;
pub mod mapping;
pub mod mount;
pub mod nobody;
pub mod podman;
pub mod process;
pub mod proxy;
pub mod s3;
pub mod scripted;
#[cfg(feature = "ssh")]
pub mod sshd;
pub mod store;
pub mod web;

use std::time::{Duration, Instant};

/// How long a server may take to start. Seconds on an idle machine; tests run on busy ones.
pub const START: Duration = Duration::from_secs(60);

/// Waits until `ready` says yes; panics with `what` after [`START`].
pub fn wait_until(what: &str, mut ready: impl FnMut() -> bool) {
    let start = Instant::now();
    while !ready() {
        assert!(start.elapsed() < START, "{what} did not get ready");
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// Returns bytes that are the same for the same seed, and that no compression shortens.
pub fn noise(seed: u64, len: usize) -> Vec<u8> {
    let mut bytes = vec![0; len];
    let mut hasher = blake3::Hasher::new();
    hasher.update(&seed.to_le_bytes());
    hasher.finalize_xof().fill(&mut bytes);
    bytes
}

/// A client for each thread: connections belong to the runtime of the test that made them.
pub fn client() -> reqwest::Client {
    thread_local! {
        static CLIENT: reqwest::Client = {
            svol::tls::install();
            reqwest::Client::new()
        };
    }
    CLIENT.with(Clone::clone)
}
