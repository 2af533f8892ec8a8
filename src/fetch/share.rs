//! Who may hold how much memory on the way from the network to a reader. Nobody who holds a share
//! waits for more of it, so nobody waits for ever; and read-ahead leaves the last of it to readers.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::sync::{Semaphore, SemaphorePermit};
use tokio::time::Instant;

use crate::source::{Error, ErrorKind, Result};

/// Bodies between the network and the disk.
#[derive(Debug)]
pub(super) struct Buffers {
    /// A permit a KiB.
    free: Semaphore,
    kib: u32,
}

fn kib(bytes: u64) -> u32 {
    // Permits are counted in 32 bits, and no budget is larger than a TiB.
    u32::try_from(bytes >> 10).unwrap_or(u32::MAX >> 4).max(1)
}

impl Buffers {
    pub(super) fn new(bytes: u64) -> Buffers {
        let kib = kib(bytes);
        Buffers {
            free: Semaphore::new(kib as usize),
            kib,
        }
    }

    /// Takes a share of `bytes` if there is room, without waiting; nothing if there is not. For
    /// read-ahead (not `demanded`), the last quarter is no room.
    pub(super) fn take(&self, bytes: usize, demanded: bool) -> Option<SemaphorePermit<'_>> {
        let need = kib(bytes as u64);
        let left_alone = if demanded { 0 } else { self.kib / 4 };
        if self.free.available_permits() < (need + left_alone) as usize {
            return None;
        }
        self.free.try_acquire_many(need).ok()
    }

    /// Returns the bytes that are held now.
    pub(super) fn used(&self) -> u64 {
        let free = self.free.available_permits() as u64;
        u64::from(self.kib).saturating_sub(free) << 10
    }
}

/// Readers whose bytes cannot be kept on disk: these wait in the cache's memory tier until they
/// are read, and too many at once would drive each other's out.
#[derive(Debug)]
pub(super) struct Unkept {
    free: Semaphore,
    kib: u32,
    /// What the time is counted from.
    since: Instant,
    /// Until when readers take turns, in milliseconds: 0 if they never had to.
    until: AtomicU64,
}

/// For how long readers take turns after one found its bytes gone before it could read them.
const TURNS: Duration = Duration::from_secs(10);

impl Unkept {
    /// `tier` is what the memory tier holds, in bytes. A quarter of it is for those who wait: what
    /// one request brings may be more than was asked for, and others still read theirs.
    pub(super) fn new(tier: u64) -> Unkept {
        let kib = kib(tier / 4);
        Unkept {
            free: Semaphore::new(kib as usize),
            kib,
            since: Instant::now(),
            until: AtomicU64::new(0),
        }
    }

    fn now(&self) -> u64 {
        u64::try_from(self.since.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    /// Takes note that bytes were gone before their reader could read them.
    pub(super) fn crowded(&self) {
        let turns = TURNS.as_millis() as u64;
        self.until.fetch_max(self.now() + turns, Ordering::Relaxed);
    }

    /// Returns whether readers take turns now.
    pub(super) fn is_crowded(&self) -> bool {
        // Asked by every reader who waits: the clock is not looked at while there was no need.
        let until = self.until.load(Ordering::Relaxed);
        until > 0 && self.now() < until
    }

    /// Waits for a turn to read `len` bytes; one who asks for more than there is takes all. The
    /// caller holds nothing yet.
    pub(super) async fn turn(&self, len: u64, deadline: Duration) -> Result<SemaphorePermit<'_>> {
        let turn = self.free.acquire_many(kib(len).min(self.kib));
        match tokio::time::timeout(deadline, turn).await {
            Ok(Ok(turn)) => Ok(turn),
            _ => Err(Error::new(
                ErrorKind::Timeout,
                format!("no memory for it within {deadline:?}: the cache keeps nothing"),
            )),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn read_ahead_leaves_the_last_quarter_to_readers() {
        let buffers = Buffers::new(1 << 20);
        let ahead = buffers.take(768 << 10, false).unwrap();
        assert!(buffers.take(1 << 10, false).is_none());
        let demanded = buffers.take(256 << 10, true).unwrap();
        assert!(buffers.take(1, true).is_none());
        assert_eq!(buffers.used(), 1 << 20);
        drop(demanded);
        assert!(buffers.take(1, false).is_none());
        drop(ahead);
        assert!(buffers.take(1, false).is_some());
        assert_eq!(buffers.used(), 0);
    }

    #[tokio::test(start_paused = true)]
    async fn turns_are_given_to_all_and_more_than_there_is_can_be_asked_for() {
        let unkept = Unkept::new(4 << 20);
        assert!(!unkept.is_crowded());
        unkept.crowded();
        assert!(unkept.is_crowded());
        let second = Duration::from_secs(1);
        for _ in 0..3 {
            drop(unkept.turn(64 << 20, second).await.unwrap());
        }
        let all = unkept.turn(64 << 20, second).await.unwrap();
        let refused = unkept.turn(1, second).await.unwrap_err();
        assert_eq!(refused.kind(), ErrorKind::Timeout);
        drop(all);
        drop(unkept.turn(1, second).await.unwrap());
        tokio::time::advance(TURNS).await;
        assert!(!unkept.is_crowded());
    }
}
