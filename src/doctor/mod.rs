//! What may keep a volume from being mounted, read or seen, and what to do about it.
//!
//! Each part of the machine has a module with the facts that count and a pure function from them to
//! findings; `gather` looks the facts up, each within a bound, and changes nothing that stays. A
//! finding names its check by a word that stays the same from release to release.

pub mod cache;
pub mod fuse;
pub mod gather;
pub mod kernel;
pub mod limits;
pub mod mountinfo;
pub mod mounts;
pub mod place;
pub mod secrets;
pub mod source;

use serde::{Deserialize, Serialize};

/// The version of the document. Fields and checks may be added without a new one.
pub const VERSION: u32 = 1;

/// How a check came out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Level {
    /// As it should be.
    Ok,
    /// It works, but not as well as it could, or not for everybody.
    Warn,
    /// Something does not work.
    Fail,
}

/// What one check found.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Finding {
    /// Which check, as `part/what`.
    pub check: String,
    /// What it is of, where there are several: a layer, a mount point, a file.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub subject: Option<String>,
    /// How it came out.
    pub level: Level,
    /// What was seen, for people. Never a secret.
    pub saw: String,
    /// What to do about it; nothing where all is well.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub remedy: Option<String>,
}

impl Finding {
    /// Returns a finding that all is well.
    pub fn ok(check: &str, saw: impl Into<String>) -> Finding {
        Finding {
            check: check.into(),
            subject: None,
            level: Level::Ok,
            saw: saw.into(),
            remedy: None,
        }
    }

    /// Returns a finding of something that could be better.
    pub fn warn(check: &str, saw: impl Into<String>, remedy: impl Into<String>) -> Finding {
        Finding {
            level: Level::Warn,
            remedy: Some(remedy.into()),
            ..Finding::ok(check, saw)
        }
    }

    /// Returns a finding of something that does not work.
    pub fn fail(check: &str, saw: impl Into<String>, remedy: impl Into<String>) -> Finding {
        Finding {
            level: Level::Fail,
            remedy: Some(remedy.into()),
            ..Finding::ok(check, saw)
        }
    }

    /// Returns the finding as one of `subject`.
    pub fn of(mut self, subject: impl Into<String>) -> Finding {
        self.subject = Some(subject.into());
        self
    }

    /// Returns the finding as no worse than a warning.
    pub fn at_most_warn(mut self) -> Finding {
        self.level = self.level.min(Level::Warn);
        self
    }
}

/// All that was found.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Report {
    /// [`VERSION`].
    pub version: u32,
    /// The worst of all levels.
    pub result: Level,
    /// How many checks failed.
    pub failures: usize,
    /// How many warned.
    pub warnings: usize,
    /// What each check found, in the order of a mount's life: the machine, the cache, the sources,
    /// the mounts.
    pub findings: Vec<Finding>,
}

impl Report {
    /// Sums findings up.
    pub fn of(findings: Vec<Finding>) -> Report {
        let count = |level| findings.iter().filter(|f| f.level == level).count();
        Report {
            version: VERSION,
            result: findings.iter().map(|f| f.level).max().unwrap_or(Level::Ok),
            failures: count(Level::Fail),
            warnings: count(Level::Warn),
            findings,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_worst_finding_is_the_result() {
        let ok = Finding::ok("a/b", "fine");
        let warn = Finding::warn("a/c", "so so", "better it").of("x");
        let fail = Finding::fail("a/d", "broken", "mend it");
        assert_eq!(Report::of(Vec::new()).result, Level::Ok);
        let so_so = Report::of(vec![ok.clone(), warn.clone()]);
        assert_eq!(so_so.result, Level::Warn);
        let report = Report::of(vec![fail.clone(), ok, warn]);
        let counts = (report.result, report.failures, report.warnings);
        assert_eq!(counts, (Level::Fail, 1, 1));
        assert_eq!(fail.at_most_warn().level, Level::Warn);
        assert_eq!(Finding::ok("a", "b").at_most_warn().level, Level::Ok);
    }

    #[test]
    fn the_document_has_stable_names() {
        let report = Report::of(vec![
            Finding::ok("kernel/version", "Linux 6.18"),
            Finding::fail("mount/serves", "dead", "umount -l /m").of("/m"),
        ]);
        let text = serde_json::to_string(&report).unwrap();
        assert_eq!(
            text,
            "{\"version\":1,\"result\":\"fail\",\"failures\":1,\"warnings\":0,\"findings\":[\
             {\"check\":\"kernel/version\",\"level\":\"ok\",\"saw\":\"Linux 6.18\"},\
             {\"check\":\"mount/serves\",\"subject\":\"/m\",\"level\":\"fail\",\"saw\":\"dead\",\
             \"remedy\":\"umount -l /m\"}]}"
        );
    }
}
