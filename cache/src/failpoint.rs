//! Named stops at which a crash test kills the process.
//!
//! Compiled in with the feature `failpoints` only: `SVOL_FAILPOINT=name` aborts at the first pass
//! of that stop, `name:3` after three passes.

#[cfg(feature = "failpoints")]
pub(crate) fn pass(name: &str) {
    use std::sync::OnceLock;
    use std::sync::atomic::{AtomicI64, Ordering};

    static STOP: OnceLock<Option<(String, AtomicI64)>> = OnceLock::new();
    let stop = STOP.get_or_init(|| {
        let spec = std::env::var("SVOL_FAILPOINT").ok()?;
        let (name, skip) = spec.split_once(':').unwrap_or((&spec, "0"));
        Some((name.to_owned(), AtomicI64::new(skip.parse().unwrap_or(0))))
    });
    if let Some((wanted, skip)) = stop
        && wanted == name
        && skip.fetch_sub(1, Ordering::SeqCst) <= 0
    {
        std::process::abort();
    }
}

#[cfg(not(feature = "failpoints"))]
pub(crate) fn pass(_name: &str) {}
