//! Exit statuses, the same for every command.

use std::process::{ExitCode, Termination};

/// How a command ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[must_use]
pub enum ExitStatus {
    /// Everything that was asked for was done: 0.
    Done,
    /// It failed: 1.
    Failed,
    /// The command line, the environment or the volume file is wrong, and nothing was done: 2.
    Usage,
    /// Some of it was done and some failed: 3.
    Partial,
}

impl ExitStatus {
    /// Returns the number that the process ends with.
    pub fn code(self) -> u8 {
        match self {
            Self::Done => 0,
            Self::Failed => 1,
            Self::Usage => 2,
            Self::Partial => 3,
        }
    }

    /// Returns the status of a command that was to do several things alike: done, failed, or done
    /// in part.
    pub fn of_several(done: usize, failed: usize) -> Self {
        match (done, failed) {
            (_, 0) => Self::Done,
            (0, _) => Self::Failed,
            _ => Self::Partial,
        }
    }
}

impl Termination for ExitStatus {
    fn report(self) -> ExitCode {
        ExitCode::from(self.code())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn several_things_alike() {
        assert_eq!(ExitStatus::of_several(0, 0).code(), 0);
        assert_eq!(ExitStatus::of_several(2, 0).code(), 0);
        assert_eq!(ExitStatus::of_several(0, 1).code(), 1);
        assert_eq!(ExitStatus::of_several(1, 1).code(), 3);
        assert_eq!(ExitStatus::Usage.code(), 2);
    }
}
