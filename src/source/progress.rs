//! A sign of life from a long operation to whoever watches its deadline.
//!
//! A directory of a million keys takes a thousand requests, which no single deadline fits. A
//! source says [`note`] after each page, and the guard's deadline then starts anew.

use std::sync::Arc;

use tokio::sync::Notify;

tokio::task_local! {
    static WATCHER: Arc<Notify>;
}

/// Says that the operation of this task has made progress. Does nothing where nobody watches.
pub(crate) fn note() {
    let _ = WATCHER.try_with(|watcher| watcher.notify_one());
}

/// Runs `work` so that its [`note`]s wake `watcher`.
pub(crate) async fn watched<F: Future>(watcher: Arc<Notify>, work: F) -> F::Output {
    WATCHER.scope(watcher, work).await
}
