//! The program that a worker is of: a file that is kept, whatever takes its place on disk.

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};

/// A program that can be started.
#[derive(Debug)]
pub(super) struct Program {
    file: File,
    /// What it is called, for people.
    pub(super) name: String,
}

impl Program {
    /// Returns the program that this process is of.
    pub(super) fn own() -> io::Result<Program> {
        Program::of(Path::new("/proc/self/exe"))
    }

    /// Returns the program that another process is of.
    pub(super) fn of_process(pid: i32) -> io::Result<Program> {
        Program::of(Path::new(&format!("/proc/{pid}/exe")))
    }

    fn of(link: &Path) -> io::Result<Program> {
        let file = File::open(link)?;
        let name = std::fs::read_link(link)?.display().to_string();
        let name = name.trim_end_matches(" (deleted)").to_owned();
        Ok(Program { file, name })
    }

    /// Returns the path by which a child of this process can run it.
    pub(super) fn path(&self) -> PathBuf {
        format!("/proc/self/fd/{}", self.file.as_raw_fd()).into()
    }
}
