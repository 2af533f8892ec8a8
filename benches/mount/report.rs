//! Figures as tables: for the terminal, and for docs/benchmarks.

use std::fmt::Write as _;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, SystemTime};

use crate::Scale;
use crate::daemon::Usage;
use crate::world::SMALL_SIZE;

/// One kind of work, done by ours and by others in turn.
pub struct Row {
    /// What is done.
    pub title: String,
    /// What that means exactly.
    pub about: String,
    /// How much one run does, and of what.
    pub work: Work,
    /// Who did it: ours first.
    pub contestants: Vec<Contestant>,
}

/// How much one run does.
#[derive(Clone, Copy)]
pub enum Work {
    /// Reads so many bytes.
    Bytes(u64),
    /// Reads so many files.
    Files(usize),
}

/// One that does the work.
pub struct Contestant {
    /// Its name.
    pub name: &'static str,
    /// Its runs, in the order of the turns.
    pub runs: Vec<Run>,
}

/// One run.
pub struct Run {
    /// What it took.
    pub took: Duration,
    /// What its daemon used, if it has one.
    pub usage: Option<Usage>,
}

impl Contestant {
    /// Returns one without runs yet.
    pub fn new(name: &'static str) -> Contestant {
        Contestant {
            name,
            runs: Vec::new(),
        }
    }

    fn seconds(&self) -> Vec<f64> {
        self.runs.iter().map(|run| run.took.as_secs_f64()).collect()
    }
}

/// All that was measured.
pub struct Report {
    text: String,
}

impl Report {
    /// Returns a report without rows, which says where and how it was measured.
    pub fn new(scale: &Scale) -> Report {
        let mut text = String::from("# Benchmark\n\n");
        let _ = writeln!(
            text,
            "Measured {} by `make bench` on {}.\n\
             The large file has {} MiB; the {} small ones have {} KiB each, 100 a directory. S3 is\n\
             an nginx on loopback. All take turns, {} each; times are medians with the least and the\n\
             most. **svol is** how many times as fast svol is, the median of the ratios within a turn\n\
             (2.0: in half the time). All bytes were compared with the source's. Processor time and\n\
             peak memory are the daemon's. One noisy machine: compare ratios, not times.",
            httpdate::fmt_http_date(SystemTime::now()),
            machine(),
            scale.large >> 20,
            scale.small,
            SMALL_SIZE >> 10,
            scale.turns,
        );
        println!("{text}");
        Report { text }
    }

    /// Adds rows, and prints them.
    pub fn show(&mut self, rows: Vec<Row>) {
        for row in &rows {
            let table = table(row);
            println!("{table}");
            self.text.push('\n');
            self.text.push_str(&table);
        }
    }

    /// Writes all to a file.
    pub fn write(&self, file: &Path) {
        std::fs::create_dir_all(file.parent().unwrap()).unwrap();
        let text = format!("{}\n{}", self.text, BY_HAND);
        std::fs::write(file, text).unwrap();
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
    let mut lines =
        vec![["", "time", "rate", "svol is", "CPU", "peak", "fetched"].map(String::from)];
    let ours = row.contestants[0].seconds();
    for contestant in &row.contestants {
        let times = contestant.seconds();
        if times.is_empty() {
            continue;
        }
        let ratios: Vec<f64> = times.iter().zip(&ours).map(|(t, o)| t / o).collect();
        let usage = |of: fn(&Usage) -> f64| {
            let all: Vec<f64> = contestant
                .runs
                .iter()
                .filter_map(|r| Some(of(r.usage.as_ref()?)))
                .collect();
            (!all.is_empty()).then(|| median(&all))
        };
        let shown = |text: Option<String>| text.unwrap_or_else(|| "-".into());
        let wire = contestant
            .runs
            .iter()
            .all(|r| r.usage.is_some_and(|u| u.wire.is_some()));
        lines.push([
            contestant.name.into(),
            format!(
                "{} ({}-{})",
                time(median(&times)),
                time(least(&times)),
                time(most(&times))
            ),
            rate(row.work, median(&times)),
            match std::ptr::eq(contestant, &row.contestants[0]) {
                true => "1".into(),
                false => format!(
                    "x {:.2} ({:.2}-{:.2})",
                    median(&ratios),
                    least(&ratios),
                    most(&ratios)
                ),
            },
            shown(usage(|u| u.cpu.as_secs_f64()).map(time)),
            shown(usage(|u| u.peak as f64).map(|b| format!("{:.0} MiB", b / 1048576.0))),
            match wire {
                true => format!(
                    "{:.1} MiB, {:.0} requests",
                    usage(|u| u.wire.unwrap_or_default().0 as f64).unwrap_or(0.0) / 1048576.0,
                    usage(|u| u.wire.unwrap_or_default().1 as f64).unwrap_or(0.0),
                ),
                false => "-".into(),
            },
        ]);
    }
    let widths: Vec<usize> = (0..lines[0].len())
        .map(|i| lines.iter().map(|l| l[i].len()).max().unwrap_or(0))
        .collect();
    let mut out = format!("## {}\n\n{}\n\n", row.title, row.about);
    for (n, line) in lines.iter().enumerate() {
        for (cell, width) in line.iter().zip(&widths) {
            let _ = write!(out, "| {cell:width$} ");
        }
        out.push_str("|\n");
        if n == 0 {
            for width in &widths {
                let _ = write!(out, "|{}", "-".repeat(width + 2));
            }
            out.push_str("|\n");
        }
    }
    out
}

fn median(all: &[f64]) -> f64 {
    let mut all = all.to_vec();
    all.sort_by(f64::total_cmp);
    let middle = all.len() / 2;
    match all.len() % 2 {
        1 => all[middle],
        _ => (all[middle - 1] + all[middle]) / 2.0,
    }
}

fn least(all: &[f64]) -> f64 {
    all.iter().copied().fold(f64::INFINITY, f64::min)
}

fn most(all: &[f64]) -> f64 {
    all.iter().copied().fold(0.0, f64::max)
}

fn time(seconds: f64) -> String {
    match seconds {
        s if s < 1.0 => format!("{:.0} ms", s * 1000.0),
        s => format!("{s:.2} s"),
    }
}

fn rate(work: Work, seconds: f64) -> String {
    match work {
        Work::Bytes(n) => format!("{:.0} MB/s", n as f64 / 1e6 / seconds),
        Work::Files(n) => format!("{:.0} files/s", n as f64 / seconds),
    }
}

/// Returns what kind of machine this is.
fn machine() -> String {
    let cpus = std::thread::available_parallelism().map_or(0, usize::from);
    let info = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = info
        .lines()
        .find_map(|l| l.strip_prefix("model name")?.split_once(": "));
    let model = model.map_or("unknown processors", |(_, model)| model);
    let kernel = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    let kernel = kernel.trim();
    let version = |program: &Path, arg: &str| {
        let output = Command::new(program).arg(arg).output().ok();
        let text = output
            .map(|o| [o.stdout, o.stderr].concat())
            .unwrap_or_default();
        let text = String::from_utf8_lossy(&text).into_owned();
        text.lines().next().unwrap_or("unknown").to_owned()
    };
    // What else went on, in processes that wanted a processor.
    let load = std::fs::read_to_string("/proc/loadavg").unwrap_or_default();
    let load = load.split(' ').next().unwrap_or_default();
    format!(
        "{cpus} x {model} (load {load} before), Linux {kernel},\nwith {}, {}, {}",
        version(crate::daemon::SVOL.as_ref(), "--version"),
        version(&crate::daemon::rclone(), "version"),
        version("/usr/sbin/nginx".as_ref(), "-v"),
    )
}
