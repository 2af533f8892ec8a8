//! Named stops at which a crash test kills the process, or holds it up.
//!
//! Compiled in with the feature `failpoints` only: `SVOL_FAILPOINT=name` aborts at the first pass
//! of that stop, `name:3` after three passes, and `name:3:200` sleeps there for 200 ms instead,
//! once.

#[cfg(feature = "failpoints")]
pub(crate) fn pass(name: &str) {
    use std::sync::OnceLock;
    use std::sync::atomic::{AtomicI64, Ordering};
    use std::time::Duration;

    struct Stop {
        name: String,
        skip: AtomicI64,
        stall: Option<Duration>,
    }

    static STOP: OnceLock<Option<Stop>> = OnceLock::new();
    let stop = STOP.get_or_init(|| {
        let spec = std::env::var("SVOL_FAILPOINT").ok()?;
        let mut parts = spec.split(':');
        let name = parts.next().unwrap_or_default().to_owned();
        let mut number = || parts.next()?.parse::<u32>().ok();
        Some(Stop {
            name,
            skip: AtomicI64::new(number().unwrap_or(0).into()),
            stall: number().map(|millis| Duration::from_millis(millis.into())),
        })
    });
    let Some(stop) = stop.as_ref().filter(|stop| stop.name == name) else {
        return;
    };
    let left = stop.skip.fetch_sub(1, Ordering::SeqCst);
    match stop.stall {
        Some(stall) if left == 0 => std::thread::sleep(stall),
        None if left <= 0 => std::process::abort(),
        _ => {}
    }
}

#[cfg(not(feature = "failpoints"))]
pub(crate) fn pass(_name: &str) {}
