//! Bringing a small object: one request, and no other thread.

use std::sync::atomic::{AtomicBool, Ordering};

use futures::StreamExt;

use super::{Remote, blocking};
use crate::source::{Error, Result};

impl Remote {
    /// Brings all of a small object, if this process gets to; false where another way has to be
    /// found: others bring it, it is here, or its body broke off.
    ///
    /// A request for it takes some 100 us of a processor, so a hand-over to a thread that may block
    /// and back, twice, would be felt. What is done here instead waits for a look at the index,
    /// as every read of a small object does, and for the memory tier; the disk has its own thread.
    pub(super) async fn bring_small(&self, demanded: &AtomicBool) -> Result<bool> {
        let whole = 0..self.size();
        let Some(mut fill) = self.object.try_claim(whole.clone()) else {
            return Ok(false);
        };
        // Before any of it can be seen.
        self.asked.fetch_add(1, Ordering::AcqRel);
        let reading = self
            .source
            .read(&self.pin.path, self.entry(), whole.clone());
        let body = self.while_alive(reading).await?;
        self.learn(&body)?;
        if body.range != whole {
            return Err(Error::lied(format!(
                "{}: asked for bytes {whole:?}, got {:?}",
                self.url(),
                body.range
            )));
        }
        let size = self.size() as usize;
        let _share = self
            .fetcher
            .buffers
            .take(size, demanded.load(Ordering::Relaxed));
        let mut bytes = Vec::with_capacity(size);
        let mut body = body.checked().stream;
        while let Some(chunk) = body.next().await {
            match chunk {
                Ok(chunk) => bytes.extend_from_slice(&chunk),
                Err(error) if error.kind().is_transient() => return Ok(false),
                Err(error) => return Err(error),
            }
        }
        let push = move || {
            fill.push(&bytes)
                .and_then(|()| fill.finish())
                .map_err(|e| Error::lied(format!("the cache refused bytes: {e}")))
        };
        match self.object.is_behind() {
            false => push()?,
            true => blocking(push).await??,
        }
        Ok(true)
    }
}
