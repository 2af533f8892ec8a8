//! What is said about a mount and what it can be told: the status document, the registry of
//! mounts, the figures, and the control socket between `svol status` and its kin and the daemon.

pub mod client;
pub mod health;
pub mod metrics;
pub mod registry;
pub mod server;
pub mod status;
pub mod tcp;
pub mod tls;

/// Returns an error with all its causes, as one line.
pub(crate) fn causes(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        let more = cause.to_string();
        if !text.contains(&more) {
            text = format!("{text}: {more}");
        }
        next = cause.source();
    }
    text
}
