//! Readers that were killed while they waited.
//!
//! The kernel asks once to interrupt a request; fuser answers that it cannot, and from then on a
//! killed reader sits in uninterruptible sleep until the reply comes. So a request that waits long
//! looks for itself whether its caller still wants the answer.
//!
//! A caller in a PID namespace below ours is seen under our number for it. One that is neither in
//! ours nor below has the number 0: it cannot be looked at, and its requests end when they are
//! answered, at the latest by the source's deadline.

use std::future::Future;
use std::sync::OnceLock;
use std::time::Duration;

use tracing::warn;

use crate::vfs::{Error, Result};

/// How long a request waits before it looks after its caller: longer than almost any fetch.
const PATIENCE: Duration = Duration::from_millis(500);

/// How often it looks then.
const INTERVAL: Duration = Duration::from_millis(250);

/// Signals that end a wait: INT, QUIT, ABRT, KILL, TERM, as bits of `/proc/PID/status`.
///
/// Of those that end a process without a core file, caught ones apart, the kernel makes a KILL for
/// each of its threads. HUP is not among them: caught, it says "read your settings again".
const ENDING: u64 = 1 << 1 | 1 << 2 | 1 << 5 | 1 << 8 | 1 << 14;

/// Waits for `work`, or until the thread `pid` has a pending signal that ends waits.
pub(super) async fn unless_killed<T>(pid: u32, work: impl Future<Output = Result<T>>) -> Result<T> {
    tokio::pin!(work);
    if pid == 0 {
        return work.await;
    }
    if let Ok(result) = tokio::time::timeout(PATIENCE, &mut work).await {
        return result;
    }
    if !sees_callers() {
        return work.await;
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

/// Returns whether /proc is that of our PID namespace. In another one our numbers are other
/// processes'.
fn sees_callers() -> bool {
    static SEES: OnceLock<bool> = OnceLock::new();
    *SEES.get_or_init(|| {
        let ours = std::process::id().to_string();
        let sees = std::fs::read_link("/proc/self").is_ok_and(|me| me.as_os_str() == &*ours);
        if !sees {
            warn!(
                "/proc is not of this PID namespace: killed readers are not noticed before their \
                 request ends"
            );
        }
        sees
    })
}

/// Returns whether the thread has a signal pending that it would act on. A thread that cannot be
/// looked at wants its answer.
fn wants_out(pid: u32) -> bool {
    let Ok(status) = std::fs::read_to_string(format!("/proc/{pid}/status")) else {
        return false;
    };
    match pending(&status) {
        Pending::Nothing => false,
        Pending::Fatal => true,
        // An access to mapped memory cannot fail with EINTR: it would become a SIGBUS.
        Pending::Caught => !touches_memory(pid),
    }
}

/// Returns whether the thread waits in no system call, but for a page of mapped memory.
fn touches_memory(pid: u32) -> bool {
    std::fs::read_to_string(format!("/proc/{pid}/syscall"))
        .is_ok_and(|call| call.starts_with("-1 "))
}

/// What is pending of the signals that end a wait.
#[derive(Debug, PartialEq, Eq)]
enum Pending {
    /// None that is neither blocked nor ignored.
    Nothing,
    /// One that the program handles.
    Caught,
    /// One that ends the program.
    Fatal,
}

/// Reads a `/proc/PID/status`.
fn pending(status: &str) -> Pending {
    let mask = |field: &str| {
        status
            .lines()
            .find_map(|line| line.strip_prefix(field)?.strip_prefix(':'))
            .and_then(|hex| u64::from_str_radix(hex.trim(), 16).ok())
            .unwrap_or(0)
    };
    let pending = (mask("SigPnd") | mask("ShdPnd")) & !mask("SigBlk") & !mask("SigIgn") & ENDING;
    match (pending, pending & !mask("SigCgt")) {
        (0, _) => Pending::Nothing,
        (_, 0) => Pending::Caught,
        _ => Pending::Fatal,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pending_signals_are_seen() {
        const INT: u64 = 1 << 1;
        const QUIT: u64 = 1 << 2;
        const KILL: u64 = 1 << 8;
        let look = |fields: &[(&str, u64)]| {
            let line = |(name, mask): &(&str, u64)| format!("{name}:\t{mask:016x}\n");
            let lines: String = fields.iter().map(line).collect();
            pending(&format!("Name:\tcat\n{lines}Cpus_allowed:\t3\n"))
        };
        assert_eq!(look(&[("SigPnd", 0), ("ShdPnd", 0)]), Pending::Nothing);
        assert_eq!(look(&[("SigPnd", KILL)]), Pending::Fatal);
        assert_eq!(look(&[("ShdPnd", QUIT)]), Pending::Fatal);
        assert_eq!(look(&[("ShdPnd", INT), ("SigBlk", INT)]), Pending::Nothing);
        assert_eq!(look(&[("ShdPnd", INT), ("SigIgn", INT)]), Pending::Nothing);
        assert_eq!(look(&[("ShdPnd", INT), ("SigCgt", INT)]), Pending::Caught);
        assert_eq!(
            look(&[("SigPnd", KILL), ("ShdPnd", INT), ("SigCgt", INT)]),
            Pending::Fatal
        );
        // A child's end ends no wait, nor does a hangup.
        assert_eq!(look(&[("SigPnd", 1 << 16 | 1)]), Pending::Nothing);
        assert_eq!(pending(""), Pending::Nothing);
    }

    #[test]
    fn our_own_proc_is_seen_to_be_ours() {
        assert!(sees_callers());
    }
}
