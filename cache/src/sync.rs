//! Threads, locks and atomics: those of the standard library, or those of a scheduler that tries
//! their orders (`tests/shuttle.rs`). All of the crate takes them from here.
//!
//! Under the scheduler nothing ever times out, since no time passes there.

#[cfg(not(feature = "shuttle"))]
pub(crate) use std::{
    sync::{Arc, Condvar, Mutex, MutexGuard, OnceLock, PoisonError, RwLock, Weak, atomic, mpsc},
    thread, thread_local,
};

#[cfg(feature = "shuttle")]
pub(crate) use shuttle::{
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, RwLock, Weak, atomic, mpsc},
    thread, thread_local,
};
// Only ever initialised with values, which nobody waits for.
#[cfg(feature = "shuttle")]
pub(crate) use std::sync::OnceLock;

/// Receives what comes within `left`.
#[cfg(not(feature = "shuttle"))]
pub(crate) fn receive_within<T>(from: &mpsc::Receiver<T>, left: std::time::Duration) -> Option<T> {
    from.recv_timeout(left).ok()
}

/// Receives what comes while others run for a little.
#[cfg(feature = "shuttle")]
pub(crate) fn receive_within<T>(from: &mpsc::Receiver<T>, _left: std::time::Duration) -> Option<T> {
    thread::yield_now();
    from.try_recv().ok()
}

/// Waits until threads have ended, but not beyond `deadline`.
#[cfg(not(feature = "shuttle"))]
pub(crate) fn join(mut threads: Vec<thread::JoinHandle<()>>, deadline: std::time::Instant) {
    while !threads.is_empty() && std::time::Instant::now() < deadline {
        threads.retain(|thread| !thread.is_finished());
        thread::sleep(std::time::Duration::from_millis(1));
    }
}

/// Waits until threads have ended.
#[cfg(feature = "shuttle")]
pub(crate) fn join(threads: Vec<thread::JoinHandle<()>>, _deadline: std::time::Instant) {
    for thread in threads {
        // One that panicked has ended the test.
        let _ = thread.join();
    }
}
