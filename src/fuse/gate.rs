//! The gate at which requests wait for ever once this process is to be replaced.
//!
//! A worker that leaves answers what it has begun, within a bound, and begins nothing more. What
//! it took from the kernel and did not begin, the kernel sends again to its successor.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

/// Between looks at what is still under way.
const LOOK: Duration = Duration::from_millis(1);

/// Counts requests under way, and keeps out new ones when it is closed. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub struct Gate(Arc<State>);

#[derive(Debug, Default)]
struct State {
    is_closed: AtomicBool,
    under_way: AtomicUsize,
}

/// A request under way, until it is dropped.
#[derive(Debug)]
pub(super) struct UnderWay(Arc<State>);

impl Drop for UnderWay {
    fn drop(&mut self) {
        self.0.under_way.fetch_sub(1, Ordering::SeqCst);
    }
}

impl Gate {
    /// Begins a request; where the gate is closed, waits for the end of the process.
    pub(super) fn enter(&self) -> UnderWay {
        // Counted first: who closes sees it, or it sees that it is closed.
        let under_way = self.go_on();
        if self.0.is_closed.load(Ordering::SeqCst) {
            drop(under_way);
            loop {
                std::thread::park();
            }
        }
        under_way
    }

    /// Lets a request that has begun go on elsewhere, whether the gate is closed or not.
    pub(super) fn go_on(&self) -> UnderWay {
        self.0.under_way.fetch_add(1, Ordering::SeqCst);
        UnderWay(self.0.clone())
    }

    /// Lets nothing more begin, and waits for what did, for `limit` at most; returns how many are
    /// left. The process must end then.
    pub fn close(&self, limit: Duration) -> usize {
        let since = Instant::now();
        self.0.is_closed.store(true, Ordering::SeqCst);
        loop {
            let left = self.0.under_way.load(Ordering::SeqCst);
            if left == 0 || since.elapsed() > limit {
                return left;
            }
            std::thread::sleep(LOOK);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_has_begun_is_waited_for_and_nothing_more_begins() {
        let gate = Gate::default();
        let first = gate.enter();
        assert_eq!(gate.close(Duration::from_millis(5)), 1);
        let late = gate.clone();
        let (told, hear) = std::sync::mpsc::channel();
        // Lost with the process, as it would be.
        std::thread::spawn(move || {
            let _ = told.send("enters");
            let _under_way = late.enter();
            let _ = told.send("is in");
        });
        assert_eq!(hear.recv(), Ok("enters"));
        drop(first);
        assert_eq!(gate.close(Duration::from_secs(30)), 0);
        assert!(hear.recv_timeout(Duration::from_millis(20)).is_err());
    }
}
