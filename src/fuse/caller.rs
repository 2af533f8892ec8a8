//! Readers that were killed while they waited.
//!
//! The kernel asks once to interrupt a request; fuser answers that it cannot, and from then on a
//! killed reader sits in uninterruptible sleep until the reply comes. So a request that waits long
//! looks for itself whether its caller still wants the answer.

use std::future::Future;
use std::time::Duration;

use crate::vfs::{Error, Result};

/// How long a request waits before it looks after its caller: longer than almost any fetch.
const PATIENCE: Duration = Duration::from_millis(500);

/// How often it looks then.
const INTERVAL: Duration = Duration::from_millis(250);

/// Signals that end a wait: HUP, INT, QUIT, KILL, TERM, as bits of `/proc/PID/status`.
const ENDING: u64 = 1 << 0 | 1 << 1 | 1 << 2 | 1 << 8 | 1 << 14;

/// Waits for `work`, or until the thread `pid` has a pending signal that ends waits.
pub(super) async fn unless_killed<T>(pid: u32, work: impl Future<Output = Result<T>>) -> Result<T> {
    tokio::pin!(work);
    if let Ok(result) = tokio::time::timeout(PATIENCE, &mut work).await {
        return result;
    }
    loop {
        if wants_out(pid) {
            return Err(Error::Interrupted);
        }
        if let Ok(result) = tokio::time::timeout(INTERVAL, &mut work).await {
            return result;
        }
    }
}

/// Returns whether the thread has a signal pending that it would act on. A thread that cannot be
/// looked at (another PID namespace: 0) wants its answer.
fn wants_out(pid: u32) -> bool {
    if pid == 0 {
        return false;
    }
    std::fs::read_to_string(format!("/proc/{pid}/status"))
        .is_ok_and(|status| ending_signal_pending(&status))
}

fn ending_signal_pending(status: &str) -> bool {
    let mask = |field: &str| {
        status
            .lines()
            .find_map(|line| line.strip_prefix(field)?.strip_prefix(':'))
            .and_then(|hex| u64::from_str_radix(hex.trim(), 16).ok())
            .unwrap_or(0)
    };
    let pending = mask("SigPnd") | mask("ShdPnd");
    pending & ENDING & !mask("SigBlk") & !mask("SigIgn") != 0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pending_signals_are_seen() {
        let status = |pnd: &str, shd: &str, blk: &str, ign: &str| {
            format!("Name:\tcat\nSigPnd:\t{pnd}\nShdPnd:\t{shd}\nSigBlk:\t{blk}\nSigIgn:\t{ign}\n")
        };
        let none = "0000000000000000";
        assert!(!ending_signal_pending(&status(none, none, none, none)));
        assert!(ending_signal_pending(&status(
            "0000000000000100",
            none,
            none,
            none
        )));
        assert!(ending_signal_pending(&status(
            none,
            "0000000000000002",
            none,
            none
        )));
        assert!(!ending_signal_pending(&status(
            none,
            "0000000000000002",
            "0000000000000002",
            none
        )));
        assert!(!ending_signal_pending(&status(
            none,
            "0000000000000002",
            none,
            "0000000000000002"
        )));
        // A child's end ends no wait.
        assert!(!ending_signal_pending(&status(
            none,
            "0000000000010000",
            none,
            none
        )));
        assert!(!ending_signal_pending(""));
    }
}
