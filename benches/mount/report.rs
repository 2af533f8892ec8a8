//! Figures as tables: for the terminal, and for docs/benchmarks.

use std::borrow::Cow;
use std::fmt::Write as _;
use std::path::Path;
use std::time::SystemTime;

use serde::{Deserialize, Serialize};

use crate::machine;
use crate::mounts::Role;
use crate::plot;
use crate::rows::Run;
use crate::settings::Settings;

/// One kind of work, done by ours and by others in turn.
#[derive(Clone, Serialize, Deserialize)]
pub struct Row {
    /// Its name, the same in every report.
    pub id: String,
    /// What is done.
    pub title: String,
    /// What that means exactly.
    pub about: String,
    /// How much one run does, and of what.
    pub work: Work,
    /// What is to be reached.
    pub goals: Vec<Goal>,
    /// Who did it: ours first.
    pub contestants: Vec<Contestant>,
}

/// How much one run does.
#[derive(Clone, Copy, Serialize, Deserialize)]
pub enum Work {
    /// Reads so many bytes.
    Bytes(u64),
    /// Reads so many files.
    Files(usize),
    /// Lists so many entries.
    Entries(usize),
    /// Makes so many reads.
    Reads(usize),
    /// Does something of which only the time counts.
    Once,
}

/// What is to be reached.
#[derive(Clone, Serialize, Deserialize)]
pub enum Goal {
    /// At most so many seconds.
    Seconds(f64),
    /// At least so many times as fast as the best peer of the turn.
    BestPeer(f64),
    /// At least so many times as fast as the floor of the turn.
    Floor(f64),
    /// At most so many seconds of processor time.
    Cpu(f64),
    /// At most so many MiB of memory.
    Peak(f64),
    /// At most so much of what else is told.
    Extra(Cow<'static, str>, f64),
}

/// One that does the work.
#[derive(Clone, Serialize, Deserialize)]
pub struct Contestant {
    /// Its name.
    pub name: Cow<'static, str>,
    /// What it is beside the others.
    pub role: Role,
    /// Its runs, in the order of the turns; fewer where it is slow.
    pub runs: Vec<Run>,
    /// Why it could not do the work.
    pub failed: Option<String>,
}

impl Contestant {
    /// Returns one without runs yet.
    pub fn new(name: &'static str, role: Role) -> Contestant {
        Contestant {
            name: name.into(),
            role,
            runs: Vec::new(),
            failed: None,
        }
    }

    /// Returns its times in seconds.
    pub fn seconds(&self) -> Vec<f64> {
        self.runs.iter().map(|run| run.took.as_secs_f64()).collect()
    }

    /// Returns the median of what is known of each run; none where it is not known.
    fn typical(&self, of: impl Fn(&Run) -> Option<f64>) -> Option<f64> {
        let all: Vec<f64> = self.runs.iter().filter_map(of).collect();
        (!all.is_empty()).then(|| median(&all))
    }

    fn cpu(&self) -> Option<f64> {
        self.typical(|run| Some(run.usage?.cpu.as_secs_f64()))
    }

    /// Its memory in MiB.
    fn peak(&self) -> Option<f64> {
        self.typical(|run| Some(run.usage?.peak as f64 / MIB))
    }
}

const MIB: f64 = 1048576.0;

impl Row {
    /// Returns, for each turn, how many times as fast ours is as a contestant.
    fn ratios(&self, contestant: &Contestant) -> Vec<f64> {
        let ours = self.contestants[0].seconds();
        let pairs = contestant.seconds().into_iter().zip(ours);
        pairs.map(|(other, ours)| other / ours).collect()
    }

    /// Returns, for each turn, how many times as fast ours is as the best of those in a role.
    fn against(&self, role: Role) -> Vec<f64> {
        let ours = self.contestants[0].seconds();
        let best = |turn: usize| {
            let those = self.contestants.iter().filter(|c| c.role == role);
            let times = those.filter_map(|c| c.runs.get(turn).or(c.runs.first()));
            times
                .map(|run| run.took.as_secs_f64())
                .min_by(f64::total_cmp)
        };
        let ratio = |(turn, ours): (usize, &f64)| Some(best(turn)? / ours);
        ours.iter().enumerate().filter_map(ratio).collect()
    }

    /// Returns what is to be reached, and what was.
    fn reached(&self) -> Vec<String> {
        let ours = &self.contestants[0];
        let at_least = |ratios: Vec<f64>, goal: f64, whom: &str| {
            let now = (!ratios.is_empty()).then(|| median(&ratios))?;
            let mark = if now >= goal { "reached" } else { "**missed**" };
            Some(format!("{goal} x {whom}: {now:.2}, {mark}"))
        };
        let at_most = |now: Option<f64>, goal: f64, show: &dyn Fn(f64) -> String| {
            let now = now?;
            let mark = if now <= goal { "reached" } else { "**missed**" };
            Some(format!("{}: {}, {mark}", show(goal), show(now)))
        };
        let goal = |goal: &Goal| match goal {
            &Goal::BestPeer(x) => at_least(self.against(Role::Peer), x, "the best peer"),
            &Goal::Floor(x) => at_least(self.against(Role::Floor), x, "the floor"),
            &Goal::Seconds(s) => at_most(Some(median(&ours.seconds())), s, &time),
            &Goal::Cpu(s) => at_most(ours.cpu(), s, &|s| format!("{} of CPU", time(s))),
            &Goal::Peak(m) => at_most(ours.peak(), m, &|m| format!("{m:.0} MiB")),
            Goal::Extra(what, most) => {
                let now = ours.typical(|run| Some(run.extra.as_ref()?.1));
                at_most(now, *most, &|n| format!("{n:.2} {what}"))
            }
        };
        self.goals.iter().filter_map(goal).collect()
    }
}

/// All that was measured.
pub struct Report {
    head: String,
    rows: Vec<Measured>,
}

/// A row, and when it was measured.
#[derive(Serialize, Deserialize)]
struct Measured {
    when: String,
    #[serde(flatten)]
    row: Row,
}

impl Report {
    /// Returns a report without rows, which says where and how it was measured.
    pub fn new(settings: &Settings) -> Report {
        let head = format!(
            "# Benchmark\n\n\
             Measured by `make bench` on {}.\n\
             S3 is an nginx on loopback, for 20 ms behind a proxy that delays. All take turns, at\n\
             most {} each; times are medians with the least and the most. **svol is** how many times\n\
             as fast svol is, the median of the ratios within a turn (2.0: in half the time). All\n\
             bytes were compared with the source's. CPU and peak memory are those of the daemon and\n\
             all its children, the wire what the server sent. Peers have the settings that their\n\
             manuals advise for reading (benches/mount/peers.rs); JuiceFS reads blocks of its own\n\
             from the same server, and has its metadata on this machine. One noisy machine: compare\n\
             ratios, not times.\n\n\
             ![Times](times.svg)\n\n![Ratios](ratios.svg)\n\n\
             The figures of every run are in [latest.json](latest.json).\n",
            machine::machine(settings),
            settings.turns,
        );
        println!("{head}");
        Report {
            head,
            rows: Vec::new(),
        }
    }

    /// Adds rows, and prints them.
    pub fn show(&mut self, rows: Vec<Row>) {
        for row in rows {
            println!("{}", table(&row));
            let when = httpdate::fmt_http_date(SystemTime::now());
            self.rows.push(Measured { when, row });
        }
    }

    /// Writes all to a directory: tables, plots, and the figures of all runs. With `add`, the rows
    /// that are there and were not measured now are kept: so a report can be made in pieces.
    pub fn write(mut self, to: &Path, add: bool) {
        std::fs::create_dir_all(to).unwrap();
        let figures = to.join("latest.json");
        if let Some(text) = add.then(|| std::fs::read(&figures).ok()).flatten() {
            let mut all: Vec<Measured> = serde_json::from_slice(&text).unwrap();
            for new in self.rows {
                match all.iter_mut().find(|old| old.row.id == new.row.id) {
                    Some(old) => *old = new,
                    None => all.push(new),
                }
            }
            self.rows = all;
        }
        let write = |name: &str, text: &str| std::fs::write(to.join(name), text).unwrap();
        let text = serde_json::to_string_pretty(&self.rows).unwrap();
        write("latest.json", &(text + "\n"));
        let mut tables = self.head;
        for measured in &self.rows {
            let _ = write!(tables, "\n{}\n{}.\n", table(&measured.row), measured.when);
        }
        write("latest.md", &format!("{tables}\n{BY_HAND}"));
        let rows: Vec<Row> = self.rows.into_iter().map(|measured| measured.row).collect();
        let times = plot::draw(
            &rows,
            "Time: svol blue, peers orange, floors green; the median, the least and the most",
            |_, contestant| contestant.seconds(),
            &[0.001, 0.01, 0.1, 1.0, 10.0, 100.0],
            time,
        );
        write("times.svg", &times);
        let ratios = plot::draw(
            &rows,
            "How many times as fast svol is: peers orange, floors green; right of 1 svol is faster",
            |row, contestant| match contestant.role {
                Role::Ours => Vec::new(),
                _ => row.ratios(contestant),
            },
            &[0.01, 0.1, 1.0, 10.0, 100.0],
            |x| format!("{x:.2}"),
        );
        write("ratios.svg", &ratios);
    }
}

const BY_HAND: &str = "\
## With public tools

`make bench` measures anew. By hand, on any S3 endpoint, with `$U` its URL:

    export AWS_ENDPOINT_URL=$U SVOL_CACHE_DIR=$(mktemp -d)
    svol mount --no-sign-request s3://bench /mnt/v
    dd if=/mnt/v/large.bin of=/dev/null bs=1M                   # cold
    sync; echo 1 >/proc/sys/vm/drop_caches                      # again: drop the pages, read
    dd if=/mnt/v/large.bin of=/dev/null bs=1M
    aria2c -x8 -s8 -k8M $U/bench/large.bin                      # the floor of the cold read
    time tar -C /mnt/v/small -cf - . | wc -c                    # small files, one reader
    find /mnt/v/small -type f | time xargs -P8 -n50 cat | wc -c # eight readers
    rclone mount :s3:bench /mnt/r --config /dev/null --s3-provider Other --s3-endpoint $U \\
      --read-only --vfs-cache-mode full --vfs-fast-fingerprint --use-server-modtime \\
      --dir-cache-time 1h --attr-timeout 1h
";

fn table(row: &Row) -> String {
    let heads = ["", "time", "rate", "svol is", "CPU", "peak", "wire", ""];
    let mut lines = vec![heads.map(String::from)];
    let shown = |text: Option<String>| text.unwrap_or_else(|| "-".into());
    for contestant in row.contestants.iter().filter(|c| !c.runs.is_empty()) {
        let times = contestant.seconds();
        let cut = contestant.runs.iter().any(|run| run.cut);
        let over = if cut { "over " } else { "" };
        let ratios = row.ratios(contestant);
        let bytes = contestant.typical(|run| Some(run.wire?.bytes as f64));
        let requests = contestant.typical(|run| Some(run.wire?.requests as f64));
        let what = contestant.runs[0].extra.as_ref();
        let what = what.map_or("", |(what, _)| what);
        let extra = contestant.typical(|run| Some(run.extra.as_ref()?.1));
        lines.push([
            contestant.name.to_string(),
            format!("{over}{}", spread(&times, time)),
            rate(row.work, median(&times)),
            match contestant.role {
                Role::Ours => "1".into(),
                _ => format!("x {}", spread(&ratios, |x| format!("{x:.2}"))),
            },
            shown(contestant.cpu().map(time)),
            shown(contestant.peak().map(|mib| format!("{mib:.0} MiB"))),
            shown(bytes.zip(requests).map(|(bytes, requests)| {
                format!("{:.1} MiB, {requests:.0} requests", bytes / MIB)
            })),
            extra.map_or(String::new(), |n| format!("{n:.2} {what}")),
        ]);
    }
    // A column that says nothing is left out.
    let widths: Vec<usize> = (0..heads.len())
        .map(|i| {
            lines
                .iter()
                .map(|l| l[i].chars().count())
                .max()
                .unwrap_or(0)
        })
        .collect();
    let mut out = format!("## {} (`{}`)\n\n{}\n\n", row.title, row.id, row.about);
    for (n, line) in lines.iter().enumerate() {
        for (cell, width) in line.iter().zip(&widths).filter(|(_, width)| **width > 0) {
            let _ = write!(out, "| {cell:width$} ");
        }
        out.push_str("|\n");
        if n == 0 {
            for width in widths.iter().filter(|width| **width > 0) {
                let _ = write!(out, "|{}", "-".repeat(width + 2));
            }
            out.push_str("|\n");
        }
    }
    for contestant in &row.contestants {
        if let Some(why) = &contestant.failed {
            let _ = write!(out, "\n{} could not do it: {why}\n", contestant.name);
        }
    }
    let reached = row.reached();
    if !reached.is_empty() {
        let _ = write!(out, "\nGoals: {}.\n", reached.join("; "));
    }
    out
}

/// Shows the median, with the least and the most if there are several.
fn spread(all: &[f64], show: impl Fn(f64) -> String) -> String {
    match all {
        [] => "-".into(),
        [one] => show(*one),
        _ => format!(
            "{} ({}-{})",
            show(median(all)),
            show(least(all)),
            show(most(all))
        ),
    }
}

/// Returns the median of some values.
pub fn median(all: &[f64]) -> f64 {
    let mut all = all.to_vec();
    all.sort_by(f64::total_cmp);
    let middle = all.len() / 2;
    match all.len() % 2 {
        1 => all[middle],
        _ => (all[middle - 1] + all[middle]) / 2.0,
    }
}

/// Returns the least of some values.
pub fn least(all: &[f64]) -> f64 {
    all.iter().copied().fold(f64::INFINITY, f64::min)
}

/// Returns the most of some values.
pub fn most(all: &[f64]) -> f64 {
    all.iter().copied().fold(0.0, f64::max)
}

fn time(seconds: f64) -> String {
    match seconds {
        s if s < 0.01 => format!("{:.1} ms", s * 1000.0),
        s if s < 1.0 => format!("{:.0} ms", s * 1000.0),
        s => format!("{s:.2} s"),
    }
}

fn rate(work: Work, seconds: f64) -> String {
    match work {
        Work::Bytes(n) => format!("{:.0} MB/s", n as f64 / 1e6 / seconds),
        Work::Files(n) => format!("{:.0} files/s", n as f64 / seconds),
        Work::Entries(n) => format!("{:.0} entries/s", n as f64 / seconds),
        Work::Reads(n) => format!("{:.0} reads/s", n as f64 / seconds),
        Work::Once => String::new(),
    }
}
