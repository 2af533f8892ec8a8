//! How a worker ends for another's sake: told by its holder, or without one.

use std::sync::{Arc, Weak, mpsc};
use std::time::Duration;

use tokio::runtime::Handle as Runtime;
use tokio::sync::oneshot;
use tracing::{debug, error, info};

use super::View;
use super::reload::Succession;
use crate::catalogue::Db;
use crate::fuse::Gate;
use crate::fuse::mounter::Mounter;
use crate::holder::{Baggage, Hello, History, Leash, ORPHANED, Tell};
use svol_cache::Cache;

/// How long writing down what is pending may take while this process still serves.
const FLUSH: Duration = Duration::from_secs(1);

/// Starts to listen to the holder, on a thread of its own; what is returned hears of its end.
pub(super) fn listen(
    leash: Leash,
    mounter: Arc<Mounter>,
    gate: Gate,
    view: &View,
    runtime: &Runtime,
) -> std::io::Result<oneshot::Receiver<()>> {
    let (tell, told) = oneshot::channel();
    let (cache, db, runtime) = (view.cache.clone(), view.db.clone(), runtime.clone());
    let vfs = view.vfs.clone();
    let listening = move || match leash.hear() {
        Some(Tell::Leave(millis)) => {
            flush(&cache, &db, &runtime);
            mounter.leaving();
            let left = gate.close(Duration::from_millis(millis));
            vfs.settle();
            info!(left, "another worker takes over");
            // At once, and without a destructor: what the kernel was told to keep is the next one's.
            // SAFETY: ends the process, whatever its other threads do.
            unsafe { libc::_exit(0) }
        }
        None => {
            error!("the process that holds the mount is gone: ending");
            let _ = tell.send(());
            std::thread::sleep(ORPHANED);
            // SAFETY: as above.
            unsafe { libc::_exit(1) }
        }
    };
    std::thread::Builder::new()
        .name("svol-leash".into())
        .spawn(listening)?;
    Ok(told)
}

/// Writes down what is pending, within a bound: this process still serves.
fn flush(cache: &Cache, db: &Db, runtime: &Runtime) {
    let (done, flushed) = mpsc::channel();
    let (cache, db) = (cache.clone(), db.clone());
    runtime.spawn_blocking(move || {
        let cached = cache.flush();
        let _ = done.send((cached.is_ok(), db.close(FLUSH)));
    });
    let flushed = flushed.recv_timeout(FLUSH);
    debug!(?flushed, "written down");
}

/// Waits until the holder is gone; for ever where there is none.
pub(super) async fn lost(holder: &mut Option<oneshot::Receiver<()>>) {
    match holder {
        Some(holder) => drop(holder.await),
        None => std::future::pending().await,
    }
}

/// Asks the holder for a worker that takes this one's place.
pub(super) struct Successor {
    mounter: Weak<Mounter>,
    baggage: Baggage,
}

impl Successor {
    /// Returns one of the worker that was told `hello`.
    pub(super) fn new(hello: &Hello, mounter: &Arc<Mounter>) -> Successor {
        Successor {
            mounter: Arc::downgrade(mounter),
            baggage: hello.baggage(),
        }
    }

    fn mounter(&self) -> std::io::Result<Arc<Mounter>> {
        let ending = || std::io::Error::other("the mount is ending");
        self.mounter.upgrade().ok_or_else(ending)
    }
}

impl Succession for Successor {
    fn leave(&self, text: &str) -> std::io::Result<()> {
        self.baggage.leave(text)
    }

    fn replace(&self) -> std::io::Result<()> {
        self.mounter()?.replace()
    }

    fn refused(&self) -> Option<(String, String)> {
        let history: History = serde_json::from_str(&self.mounter().ok()?.history()?).ok()?;
        history.refused.map(|refusal| (refusal.at, refusal.message))
    }
}
