//! What this process may take: memory, open files; and where its records go.

use std::path::{Path, PathBuf};

use super::Finding;
use crate::config::ByteSize;

/// With fewer open files than this the daemon has too few for its index, its threads' connections
/// and a handful of readers.
const FEW: u64 = 128;

/// With fewer than this it works, and closes and opens cached files again and again.
const ENOUGH: u64 = 1024;

/// The longest path that a unix socket can have, in bytes.
const SOCKET: usize = 107;

/// What a socket's name takes after the directory: 16 digits, a process's number, the ending.
const SOCKET_NAME: usize = "/0123456789abcdef-4194304.sock".len();

/// What counts of a process's limits.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Limits {
    /// How many files may be open; nothing for no limit.
    pub open_files: Option<u64>,
    /// How far that may be raised without a privilege; nothing for no limit.
    pub open_files_most: Option<u64>,
    /// The ceiling on memory, with where it comes from; or why there can be none.
    pub memory: Result<(u64, String), String>,
    /// The directory of records and sockets, or why there is none.
    pub runtime: Result<PathBuf, String>,
}

/// Judges the limits.
pub fn judge(limits: &Limits) -> Vec<Finding> {
    vec![open_files(limits), memory(limits), runtime(limits)]
}

fn open_files(limits: &Limits) -> Finding {
    let check = "limits/open-files";
    let Some(most) = limits.open_files else {
        return Finding::ok(check, "no limit");
    };
    let raise = match limits.open_files_most {
        Some(hard) if hard < ENOUGH => format!(
            "raise it to {ENOUGH} (systemd: LimitNOFILE={ENOUGH}; podman: --ulimit \
             nofile={ENOUGH}; else /etc/security/limits.conf)"
        ),
        _ => format!("run `ulimit -n {ENOUGH}` first (systemd: LimitNOFILE={ENOUGH})"),
    };
    let saw = format!("{most} files may be open at once");
    if most < FEW {
        return Finding::fail(check, format!("{saw}, too few to serve"), raise);
    }
    if most < ENOUGH {
        let saw = format!("{saw}: cached files are closed and opened again more often");
        return Finding::warn(check, saw, raise);
    }
    Finding::ok(check, saw)
}

fn memory(limits: &Limits) -> Finding {
    let check = "limits/memory";
    match &limits.memory {
        Ok((bytes, origin)) => {
            let saw = format!("a daemon takes {} at most, {origin}", ByteSize(*bytes));
            Finding::ok(check, saw)
        }
        Err(why) => Finding::fail(
            check,
            why,
            "raise the limit (systemd: MemoryMax=; Kubernetes: resources.limits.memory), or give \
             --memory more",
        ),
    }
}

fn runtime(limits: &Limits) -> Finding {
    let check = "limits/runtime-dir";
    let set = "set SVOL_RUNTIME_DIR to a short path of a directory of this user's own";
    match &limits.runtime {
        Err(why) => Finding::fail(check, why, set),
        Ok(dir) if socket_length(dir) > SOCKET => {
            let dir = dir.display();
            let saw = format!("{dir}: too long a path for a socket in it ({SOCKET} bytes at most)");
            Finding::fail(check, saw, set)
        }
        Ok(dir) => Finding::ok(check, dir.display().to_string()),
    }
}

fn socket_length(dir: &Path) -> usize {
    dir.as_os_str().len() + SOCKET_NAME
}

#[cfg(test)]
mod tests {
    use super::super::Level;
    use super::*;

    fn good() -> Limits {
        Limits {
            open_files: Some(1024),
            open_files_most: Some(1 << 20),
            memory: Ok((1 << 30, "as asked".into())),
            runtime: Ok("/run/svol".into()),
        }
    }

    fn find(limits: &Limits, check: &str) -> Finding {
        let found = judge(limits).into_iter().find(|f| f.check == check);
        found.unwrap()
    }

    #[test]
    fn good_limits_are_well() {
        assert!(judge(&good()).iter().all(|f| f.level == Level::Ok));
    }

    #[test]
    fn few_files_are_raised_by_who_can() {
        for (soft, hard, expected, remedy) in [
            (None, None, Level::Ok, ""),
            (Some(1024), Some(1024), Level::Ok, ""),
            (Some(1023), Some(4096), Level::Warn, "ulimit -n 1024"),
            (Some(1023), None, Level::Warn, "ulimit -n 1024"),
            (Some(128), Some(128), Level::Warn, "LimitNOFILE=1024"),
            (Some(127), Some(1 << 20), Level::Fail, "ulimit -n 1024"),
            (Some(127), Some(127), Level::Fail, "limits.conf"),
        ] {
            let limits = Limits {
                open_files: soft,
                open_files_most: hard,
                ..good()
            };
            let found = find(&limits, "limits/open-files");
            assert_eq!(found.level, expected, "{soft:?}");
            let said = found.remedy.unwrap_or_default();
            assert!(said.contains(remedy), "{soft:?} {hard:?}: {said}");
        }
    }

    #[test]
    fn what_cannot_be_had_fails() {
        let limits = Limits {
            memory: Err("too little".into()),
            runtime: Err("not yours".into()),
            ..good()
        };
        assert_eq!(find(&limits, "limits/memory").level, Level::Fail);
        assert_eq!(find(&limits, "limits/runtime-dir").level, Level::Fail);
        let longest = SOCKET - SOCKET_NAME;
        for (length, expected) in [(longest, Level::Ok), (longest + 1, Level::Fail)] {
            let limits = Limits {
                runtime: Ok(format!("/{}", "x".repeat(length - 1)).into()),
                ..good()
            };
            let found = find(&limits, "limits/runtime-dir");
            assert_eq!(found.level, expected, "{length}");
        }
    }
}
