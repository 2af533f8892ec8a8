//! Comparing an object with the digest that its source promises.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use tokio::time::Instant;
use tracing::warn;

use super::super::pour::BATCH;
use super::{Remote, blocking};
use crate::entry::Digest;
use crate::source::{Error, ErrorKind, Result};

impl Remote {
    /// As [`Remote::check_digest`], once all of the object is here.
    pub(super) async fn check_if_complete(self: &Arc<Self>, began: Instant) -> Result<()> {
        if let Some(error) = self.broken_promise.get() {
            return Err(error.clone());
        }
        match self.object.is_complete() {
            true => self.check_digest(began).await,
            false => Ok(()),
        }
    }

    /// Reads the whole object and compares it with the digest that its source promises, unless that
    /// was done and no byte came since.
    pub(super) async fn check_digest(self: &Arc<Self>, began: Instant) -> Result<()> {
        let Some(Digest::Sha256(want)) = self.pin.entry.digest else {
            return Ok(());
        };
        for _ in 0..3 {
            if let Some(error) = self.broken_promise.get() {
                return Err(error.clone());
            }
            if self.is_as_promised() {
                return Ok(());
            }
            self.ensure(0..self.size(), began).await?;
            let asked = self.asked.load(Ordering::Acquire);
            let this = self.clone();
            let got = blocking(move || {
                let mut hash = ring::digest::Context::new(&ring::digest::SHA256);
                let mut buf = vec![0; BATCH];
                let mut at = 0;
                while at < this.size() {
                    let n = this.object.read_at(at, &mut buf)?;
                    hash.update(&buf[..n]);
                    at += n as u64;
                }
                Some(hash.finish())
            });
            match got.await? {
                Some(got) if got.as_ref() == want => {
                    self.promised.store(asked, Ordering::Release);
                    self.fetcher.quarantine.remove(self.object.key());
                }
                Some(got) => {
                    // The next to open it fetches it anew: the server may be mended by then.
                    let object = self.object.clone();
                    blocking(move || object.discard()).await?;
                    let error = Error::lied(format!(
                        "{}: its SHA-256 is {} and not the one that the manifest promises, {}; none \
                         of it is served",
                        self.url(),
                        hex(got.as_ref()),
                        hex(&want)
                    ));
                    warn!(%error, "quarantined");
                    self.counters.quarantined();
                    let quarantine = &self.fetcher.quarantine;
                    quarantine.add(*self.object.key(), error.clone());
                    return Err(self.broken_promise.get_or_init(|| error).clone());
                }
                // Some of it was lost meanwhile.
                None => {}
            }
        }
        if self.is_as_promised() {
            return Ok(());
        }
        Err(Error::new(
            ErrorKind::Server,
            format!(
                "{}: could not be kept whole, so its digest cannot be checked",
                self.url()
            ),
        ))
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
