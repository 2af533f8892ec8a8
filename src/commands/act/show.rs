//! What is printed of acting on the cache: lines, a bar on a terminal, or one document.

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use super::*;

/// How the bar looks.
const BAR: &str =
    "{bar:30} {binary_bytes} of {binary_total_bytes}, {binary_bytes_per_sec}, {eta} left  {msg}";

pub(super) struct Show<'a> {
    action: Action,
    json: bool,
    out: &'a mut dyn Write,
    err: &'a mut dyn Write,
    bar: Option<ProgressBar>,
    /// Of the volumes that are done.
    total: Summary,
    /// Of the one that is being worked on, as far as it told.
    now: Summary,
    failures: Vec<Value>,
    failed: u64,
    trees: Vec<Value>,
}

impl<'a> Show<'a> {
    pub(super) fn new(
        action: Action,
        json: bool,
        out: &'a mut dyn Write,
        err: &'a mut dyn Write,
    ) -> Show<'a> {
        let is_bar = matches!(action, Action::Warm { .. }) && !json && io::stderr().is_terminal();
        let bar = is_bar.then(|| {
            let bar = ProgressBar::with_draw_target(Some(0), ProgressDrawTarget::stderr());
            match ProgressStyle::with_template(BAR) {
                Ok(style) => bar.with_style(style),
                Err(_) => bar,
            }
        });
        Show {
            action,
            json,
            out,
            err,
            bar,
            total: Summary::default(),
            now: Summary::default(),
            failures: Vec::new(),
            failed: 0,
            trees: Vec::new(),
        }
    }

    pub(super) fn failed(&mut self, path: &str, why: &str) -> io::Result<()> {
        self.failed += 1;
        if self.failures.len() < FAILURES {
            self.failures.push(json!({"path": path, "message": why}));
        }
        let colon = if path.is_empty() { "" } else { ": " };
        let (bar, err) = (&self.bar, &mut self.err);
        beside(bar, || writeln!(err, "svol: {path}{colon}{why}"))
    }

    pub(super) fn take(&mut self, event: Event, shown: impl Fn(&str) -> String) -> io::Result<()> {
        match event {
            Event::Progress { summary, done } => {
                if let Some(bar) = &self.bar {
                    bar.set_length(summary.bytes.max(done));
                    bar.set_position(done);
                    bar.set_message(format!("({} files)", summary.files));
                }
                self.now = summary;
            }
            Event::File {
                path,
                outcome,
                bytes,
            } => self.file(&shown(&path), outcome, bytes)?,
            Event::Tree { path, summary } => self.tree(shown(&path), &summary)?,
            Event::Failed { path, message } => self.failed(&shown(&path), &message)?,
            Event::Done { summary } => {
                self.now = summary;
                self.add_up();
            }
        }
        Ok(())
    }

    fn file(&mut self, path: &str, outcome: Outcome, bytes: u64) -> io::Result<()> {
        let line = match outcome {
            // The bar says how far it is, and the end how much it was.
            Outcome::Fetched if self.bar.is_none() => {
                format!("{path}: {} fetched", size(bytes))
            }
            Outcome::Missing => format!("{path}: {} missing", size(bytes)),
            Outcome::KeptPinned => format!("{path}: stays, since it is pinned (svol unpin)"),
            Outcome::KeptOpen => format!("{path}: stays, since somebody has it open"),
            Outcome::Shared => {
                format!("{path}: gone, but its room on the disk serves other files too")
            }
            _ => return Ok(()),
        };
        if self.json {
            return Ok(());
        }
        let (bar, out) = (&self.bar, &mut self.out);
        beside(bar, || writeln!(out, "{line}"))
    }

    fn tree(&mut self, path: String, summary: &Summary) -> io::Result<()> {
        if self.json {
            let mut document = document(summary);
            if let Some(map) = document.as_object_mut() {
                map.insert("path".into(), path.into());
            }
            self.trees.push(document);
            return Ok(());
        }
        writeln!(self.out, "{path}")?;
        let bytes = summary.bytes - summary.of(Outcome::Local).bytes.min(summary.bytes);
        let percent = match bytes {
            0 => "-".to_owned(),
            _ => format!(
                "{:.0} %",
                summary.cached_bytes as f64 * 100.0 / bytes as f64
            ),
        };
        writeln!(
            self.out,
            "  Files   {}, {}",
            summary.files,
            size(summary.bytes)
        )?;
        writeln!(
            self.out,
            "  Cached  {} ({percent}): {} whole, {} in part, {} not at all",
            size(summary.cached_bytes),
            summary.of(Outcome::Here).files,
            summary.of(Outcome::Missing).files,
            summary.of(Outcome::Absent).files,
        )?;
        let local = summary.of(Outcome::Local);
        if local.files > 0 {
            writeln!(
                self.out,
                "  Local   {}, {}, read where they are",
                local.files,
                size(local.bytes)
            )?;
        }
        let pinned = summary.pinned;
        writeln!(
            self.out,
            "  Pinned  {}, {}",
            pinned.files,
            size(pinned.bytes)
        )
    }

    fn add_up(&mut self) {
        let now = std::mem::take(&mut self.now);
        let total = &mut self.total;
        total.files += now.files;
        total.bytes += now.bytes;
        total.cached_bytes += now.cached_bytes;
        total.links += now.links;
        total.pinned.files += now.pinned.files;
        total.pinned.bytes += now.pinned.bytes;
        for (outcome, count) in now.outcomes {
            let sum: &mut Count = total.outcomes.entry(outcome).or_default();
            sum.files += count.files;
            sum.bytes += count.bytes;
        }
    }

    /// Prints what it came to, and says how the command ends.
    pub(super) fn end(&mut self, is_interrupted: bool) -> io::Result<ExitStatus> {
        // Of one that was cut off, what it told last.
        self.add_up();
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
        if self.json {
            let mut document = document(&self.total);
            if let Some(map) = document.as_object_mut() {
                map.insert("interrupted".into(), is_interrupted.into());
                map.insert("failed".into(), self.failed.into());
                map.insert("failures".into(), std::mem::take(&mut self.failures).into());
                if self.action == Action::Stats {
                    map.insert("trees".into(), std::mem::take(&mut self.trees).into());
                }
            }
            writeln!(self.out, "{}", crate::control::server::pretty(&document))?;
        } else {
            self.last_line()?;
        }
        if is_interrupted {
            writeln!(
                self.err,
                "svol: interrupted; what is done stays, and the same command goes on from there"
            )?;
            return Ok(ExitStatus::Partial);
        }
        let undone = match self.action {
            Action::Check => self.total.of(Outcome::Missing).files,
            Action::Evict => {
                self.total.of(Outcome::KeptPinned).files + self.total.of(Outcome::KeptOpen).files
            }
            _ => 0,
        };
        let done: u64 = self.total.outcomes.values().map(|count| count.files).sum();
        Ok(match undone {
            0 => ExitStatus::of_several(done as usize, self.failed as usize),
            _ => ExitStatus::Partial,
        })
    }

    fn last_line(&mut self) -> io::Result<()> {
        let total = &self.total;
        let count = |outcome| total.of(outcome);
        let said = |outcome, words: &str| {
            let Count { files, bytes } = count(outcome);
            (files > 0).then(|| format!("{files} ({}) {words}", size(bytes)))
        };
        let parts = match self.action {
            Action::Stats => return Ok(()),
            Action::Warm { .. } | Action::Check => vec![
                said(Outcome::Fetched, "fetched"),
                said(Outcome::Missing, "missing"),
                said(Outcome::Here, "here"),
            ],
            Action::Evict => vec![
                said(Outcome::Evicted, "freed"),
                said(Outcome::Shared, "gone, their room shared"),
                said(Outcome::KeptPinned, "kept, pinned"),
                said(Outcome::KeptOpen, "kept, open"),
            ],
            Action::Pin => vec![said(Outcome::Pinned, "pinned")],
            Action::Unpin => vec![
                said(Outcome::Unpinned, "not pinned any more"),
                said(Outcome::Absent, "not pinned before"),
            ],
        };
        let mut parts: Vec<String> = parts.into_iter().flatten().collect();
        parts.extend(said(Outcome::Local, "local, read where they are"));
        if total.links > 0 {
            parts.push(format!("{} symbolic links not followed", total.links));
        }
        if self.failed > 0 {
            parts.push(format!("{} failed", self.failed));
        }
        if self.action == Action::Pin && total.cached_bytes < count(Outcome::Pinned).bytes {
            let here = size(total.cached_bytes);
            parts.push(format!("{here} of it here (svol warm fetches the rest)"));
        }
        let files = total.files;
        let colon = if parts.is_empty() { "" } else { ": " };
        writeln!(self.out, "{files} files{colon}{}", parts.join(", "))
    }
}

/// Prints a line beside the bar.
fn beside(bar: &Option<ProgressBar>, print: impl FnOnce() -> io::Result<()>) -> io::Result<()> {
    match bar {
        Some(bar) => bar.suspend(print),
        None => print(),
    }
}

fn document(summary: &Summary) -> Value {
    serde_json::to_value(summary).unwrap_or_default()
}
