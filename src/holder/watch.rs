//! Asks the mount, through the kernel, whether its worker still answers.
//!
//! The question is one that a worker answers from memory, so that a source which stalls is no
//! reason to end anybody; and silence has to last, since a machine may be busy.

use std::path::Path;
use std::process::Stdio;
use std::time::{Duration, Instant};

use tracing::{debug, warn};

use super::knobs;
use crate::fuse::probe::{Answer, Prober};
use crate::notify;

/// Between questions.
const PERIOD: Duration = Duration::from_secs(10);

/// How long the mount may take to answer one.
const LIMIT: Duration = Duration::from_secs(5);

/// Questions in a row without an answer after which the worker counts as wedged.
const SILENCES: u32 = 3;

/// Between looks at whether there is an answer: at first, and once it is late.
const LOOKS: [Duration; 2] = [Duration::from_millis(5), Duration::from_millis(100)];

/// What a look came to.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Sign {
    /// It is not time, or there is no answer yet.
    None,
    /// It answered.
    Alive,
    /// It has not answered for long.
    Wedged,
}

/// Watches one mount.
#[derive(Debug)]
pub(super) struct Watch {
    prober: Prober,
    period: Duration,
    due: Instant,
    asked: Option<Instant>,
    silences: u32,
}

impl Watch {
    /// Returns one for the mount at `mountpoint`, which is absolute.
    pub(super) fn new(mountpoint: &Path) -> Watch {
        Watch {
            prober: Prober::new(mountpoint),
            // A service manager's watchdog is to hear twice before it loses patience.
            period: notify::patience()
                .map_or(PERIOD, |patience| PERIOD.min(patience / 2))
                .min(knobs::time("period", PERIOD)),
            due: Instant::now(),
            asked: None,
            silences: 0,
        }
    }

    /// Begins anew, with a worker that just began.
    pub(super) fn reset(&mut self) {
        self.asked = None;
        self.silences = 0;
        self.due = Instant::now() + self.period;
    }

    /// Returns when to look next.
    pub(super) fn next(&self) -> Instant {
        match self.asked {
            None => self.due,
            Some(since) => {
                let late = since.elapsed() > 20 * LOOKS[0];
                Instant::now() + LOOKS[usize::from(late)]
            }
        }
    }

    /// Asks if it is time, and looks whether there is an answer.
    pub(super) fn look(&mut self) -> Sign {
        let now = Instant::now();
        let limit = knobs::time("limit", LIMIT);
        let anew = match self.asked {
            None if now < self.due => return Sign::None,
            None => true,
            Some(_) => false,
        };
        let since = *self.asked.get_or_insert(now);
        let answer = self.prober.step(anew, limit, Stdio::null());
        let over = now.duration_since(since) > limit;
        match answer {
            Ok(Answer::Waiting) if !over => return Sign::None,
            Ok(Answer::Waiting) => {
                self.silences += 1;
                notify::status("the mount does not answer");
                warn!(
                    in_a_row = self.silences,
                    ?limit,
                    "the mount does not answer"
                );
            }
            Ok(Answer::Serves) => {
                self.silences = 0;
                notify::watchdog();
            }
            // It is unmounted, say, while files are open.
            Ok(Answer::Fails(why)) => debug!(why, "the mount cannot be asked"),
            Err(error) => debug!(%error, "the mount cannot be asked"),
        }
        self.asked = None;
        self.due = now + self.period;
        match self.silences {
            0 => Sign::Alive,
            SILENCES.. => Sign::Wedged,
            _ => Sign::None,
        }
    }

    /// Returns the number of the process that asks, if there is one.
    pub(super) fn child(&self) -> Option<u32> {
        self.prober.pid()
    }

    /// Ends what still asks.
    pub(super) fn give_up(&mut self) {
        self.prober.give_up();
    }
}
