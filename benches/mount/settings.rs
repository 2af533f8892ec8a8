//! What the environment says of how much is measured:
//!
//! - `SVOL_BENCH_QUICK=1`: less of everything, of the peers only rclone, and no report is written.
//! - `SVOL_BENCH_ROWS`: which rows, such as `large,find` ([`crate::rows::ALL`]; all). A name may
//!   say where the server is to be: `large@far`, `large@near`.
//! - `SVOL_BENCH_PEERS`: which peers ([`crate::peers`]; all, or rclone), `none` for none.
//! - `SVOL_BENCH_SIZE`: the large file's size in MiB. `SVOL_BENCH_FILES`: how many small files.
//! - `SVOL_BENCH_TURNS`: how often each is measured.
//! - `SVOL_BENCH_GROWTH`: how many times as many entries the row `growth` lists, such as `10,100`
//!   (10; the short form: none). Bytes grow by `SVOL_BENCH_SIZE`.
//! - `SVOL_BENCH_OTHER`: another build of svol, which takes turns with this one: before and after.
//! - `SVOL_BENCH_OUT`: the directory that the report is written to (docs/benchmarks, after a run of
//!   everything only). Rows that are in the report there and are not measured now stay in it.
//! - `SVOL_BENCH_SERVE=1`: nothing is measured: the world is served until the input ends, for
//!   experiments by hand.

use std::path::PathBuf;
use std::time::Duration;

/// How much is measured.
#[derive(Clone)]
pub struct Settings {
    /// The large file's size in bytes.
    pub large: u64,
    /// The medium files' size in bytes.
    pub medium: u64,
    /// How many small files there are.
    pub small: usize,
    /// How often everything is measured.
    pub turns: usize,
    /// Whether this is the short form.
    pub quick: bool,
    /// After how long a run is ended. What it did not finish by then is shown as longer.
    pub limit: Duration,
    /// After how long a row has no more turns.
    pub budget: Duration,
    /// Another build of the program, to be compared with ours.
    pub other: Option<PathBuf>,
    /// How many times as many entries the growing rows list.
    pub growth: Vec<usize>,
    rows: Vec<String>,
    peers: Option<Vec<String>>,
}

impl Settings {
    /// Returns what the environment says.
    pub fn from_env() -> Settings {
        let number = |name: &str| std::env::var(name).ok().and_then(|text| text.parse().ok());
        let list = |name: &str| -> Option<Vec<String>> {
            let text = std::env::var(name).ok().filter(|text| !text.is_empty())?;
            Some(text.split(',').map(|name| name.trim().to_owned()).collect())
        };
        let quick = std::env::var("SVOL_BENCH_QUICK").is_ok_and(|value| value != "0");
        let (large, small, turns, limit) = if quick {
            (256, 500, 3, 20)
        } else {
            (2048, 2000, 5, 45)
        };
        let growth = if quick { vec![] } else { vec![10] };
        let only_rclone = || quick.then(|| vec!["rclone".to_owned()]);
        Settings {
            large: number("SVOL_BENCH_SIZE").unwrap_or(large) << 20,
            medium: if quick { 2 << 20 } else { 8 << 20 },
            small: number("SVOL_BENCH_FILES").map_or(small, |n| n as usize),
            turns: number("SVOL_BENCH_TURNS").map_or(turns, |n: u64| n.max(1) as usize),
            quick,
            limit: Duration::from_secs(limit),
            budget: Duration::from_secs(if quick { 10 } else { 60 }),
            other: std::env::var_os("SVOL_BENCH_OTHER").map(PathBuf::from),
            growth: list("SVOL_BENCH_GROWTH").map_or(growth, |list| {
                list.iter().filter_map(|n| n.parse().ok()).collect()
            }),
            rows: list("SVOL_BENCH_ROWS").unwrap_or_default(),
            peers: list("SVOL_BENCH_PEERS").or_else(only_rclone),
        }
    }

    /// Returns the same with fewer turns, for rows that no goal is set for.
    pub fn minor(&self) -> Settings {
        Settings {
            turns: self.turns.min(3),
            budget: self.budget / 4,
            ..self.clone()
        }
    }

    /// Returns whether a row is wanted, wherever the server is.
    pub fn wants(&self, row: &str) -> bool {
        let name = |asked: &String| asked.split('@').next() == Some(row);
        self.rows.is_empty() || self.rows.iter().any(name)
    }

    /// Returns whether a row is asked for by its name.
    pub fn names(&self, row: &str) -> bool {
        !self.rows.is_empty() && self.wants(row)
    }

    /// Returns whether a row is wanted with the server at `place` (`near`, `far`).
    pub fn wants_at(&self, row: &str, place: &str) -> bool {
        let named = |asked: &String| match asked.split_once('@') {
            Some((name, at)) => name == row && at == place,
            None => asked == row,
        };
        self.rows.is_empty() || self.rows.iter().any(named)
    }

    /// Returns whether a peer takes part.
    pub fn has_peer(&self, name: &str) -> bool {
        let peers = self.peers.as_ref();
        peers.is_none_or(|peers| peers.iter().any(|peer| peer == name))
    }

    /// Returns whether all is measured, so that the report may be written.
    pub fn is_full(&self) -> bool {
        !self.quick && self.rows.is_empty() && self.peers.is_none() && self.other.is_none()
    }
}
