//! Noticing that the volume file is another one.

use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::time::Duration;

use crate::cli::MountSettings;
use crate::config::ConfigError;

/// Between looks at the file. A look is one system call; inotify would have to follow every link on
/// the way, as a ConfigMap's files are changed by another link's taking the place of one.
pub(super) const EVERY: Duration = Duration::from_secs(2);

/// For how long a file must not change to be read: editors and `cp` write in pieces.
const QUIET: Duration = Duration::from_millis(200);

/// How often a file that changes all the time is read before the last reading counts.
const TIMES: usize = 25;

/// What tells one state of a file from another: device, inode, size, and times in nanoseconds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Seal([i128; 4]);

impl Seal {
    /// Looks at the file that `path` leads to; nothing where there is none.
    pub(super) fn of(path: &Path) -> Option<Seal> {
        let meta = std::fs::metadata(path).ok()?;
        let nanos = |secs: i64, nanos: i64| i128::from(secs) * 1_000_000_000 + i128::from(nanos);
        Some(Seal([
            i128::from(meta.dev()) << 64 | i128::from(meta.ino()),
            i128::from(meta.size()),
            nanos(meta.mtime(), meta.mtime_nsec()),
            nanos(meta.ctime(), meta.ctime_nsec()),
        ]))
    }
}

/// Reads the settings anew once the file at `path` holds still. Blocks.
pub(super) fn settled(
    path: &Path,
    resolve: impl Fn() -> Result<MountSettings, ConfigError>,
) -> Result<MountSettings, ConfigError> {
    let mut read = (std::fs::read(path).ok(), Seal::of(path));
    for _ in 1..TIMES {
        std::thread::sleep(QUIET);
        let settings = resolve();
        let again = (std::fs::read(path).ok(), Seal::of(path));
        if again == read {
            return settings;
        }
        read = again;
    }
    resolve()
}
