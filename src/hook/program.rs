//! A command as a change hook.

use std::fs::File;
use std::io::{Seek, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::sync::{Arc, Weak};
use std::time::Duration;

use rustix::fs::MemfdFlags;
use tokio::io::AsyncReadExt;
use tokio::net::unix::pipe;

use super::Report;
use crate::fuse::mounter::Mounter;
use crate::fuse::runner::Run;

/// How much of what a command wrote goes into a message, in bytes; the last of it.
const WORDS: usize = 512;

/// The longest pause between looks at whether the command has ended.
const LOOK: Duration = Duration::from_millis(100);

/// A program that the mounter may run for us.
#[derive(Debug)]
pub struct Command {
    mounter: Weak<Mounter>,
    shown: String,
}

impl Command {
    /// Returns the command that `mounter` was told at its start, called `shown` in messages.
    pub fn new(mounter: &Arc<Mounter>, shown: String) -> Command {
        Command {
            mounter: Arc::downgrade(mounter),
            shown,
        }
    }

    pub(super) fn shown(&self) -> &str {
        &self.shown
    }

    /// Runs it once with `body` as its standard input, and waits for its end.
    pub(super) async fn run(&self, report: &Report, body: &[u8]) -> Result<(), String> {
        let failed = |error: std::io::Error| error.to_string();
        let input = written(body).map_err(failed)?;
        let (output, theirs) = std::io::pipe().map_err(failed)?;
        let theirs = OwnedFd::from(theirs);
        let output = pipe::Receiver::from_owned_fd(output.into()).map_err(failed)?;
        let variables = [
            ("SVOL_VOLUME", report.volume.clone()),
            ("SVOL_MOUNTPOINT", report.mountpoint.display().to_string()),
            ("SVOL_GENERATION", report.generation.to_string()),
        ];
        let variables = variables.map(|(name, value)| (name.to_owned(), value));
        self.ask(move |mounter| {
            mounter.run_hook(variables.to_vec(), input.as_fd(), theirs.as_fd())
        })
        .await?;
        let words = tokio::spawn(last_of(output));
        let mut pause = Duration::from_millis(2);
        let outcome = loop {
            match self.ask(Mounter::hook).await {
                Ok(Run::Runs) => tokio::time::sleep(pause).await,
                Ok(Run::Done) => break Ok(()),
                Ok(Run::Failed(why)) | Err(why) => break Err(why),
            }
            pause = (pause * 2).min(LOOK);
        };
        let Err(why) = outcome else {
            words.abort();
            return Ok(());
        };
        // What it left behind may keep its output open.
        let words = tokio::time::timeout(LOOK, words).await;
        match words.ok().and_then(Result::ok).filter(|w| !w.is_empty()) {
            Some(words) => Err(format!("{why}: {words}")),
            None => Err(why),
        }
    }

    /// Asks the mounter, which takes a moment, on a thread that may wait.
    async fn ask<T: Send + 'static>(
        &self,
        ask: impl FnOnce(&Mounter) -> std::io::Result<T> + Send + 'static,
    ) -> Result<T, String> {
        let mounter = self.mounter.upgrade().ok_or("the mount is ending")?;
        let asked = tokio::task::spawn_blocking(move || ask(&mounter));
        let answer = asked.await.map_err(|e| e.to_string())?;
        answer.map_err(|e| e.to_string())
    }
}

/// Returns a nameless file that holds `body`, to be read from its beginning.
fn written(body: &[u8]) -> std::io::Result<File> {
    let mut file = File::from(rustix::fs::memfd_create(
        "svol-change",
        MemfdFlags::CLOEXEC,
    )?);
    file.write_all(body)?;
    file.rewind()?;
    Ok(file)
}

/// Reads to the end, and returns the last words as one line.
async fn last_of(mut output: pipe::Receiver) -> String {
    let mut kept = Vec::new();
    let mut chunk = [0; 4096];
    while let Ok(length @ 1..) = output.read(&mut chunk).await {
        kept.extend_from_slice(&chunk[..length]);
        let excess = kept.len().saturating_sub(WORDS);
        kept.drain(..excess);
    }
    let text = String::from_utf8_lossy(&kept);
    let words: Vec<&str> = text.split(|c: char| c.is_control()).collect();
    words.join(" ").trim().to_owned()
}
