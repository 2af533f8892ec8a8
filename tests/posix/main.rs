//! What POSIX asks of a file system that is only read, by suites that others wrote and by a table of
//! our own. docs/POSIX.md says what is run and what is not; its lists are compared with these.

// Its own names are for the other modules here only.
#![allow(unreachable_pub)]

#[path = "../common/mod.rs"]
mod common;

mod calls;
mod excluded;
mod fio;
mod pjdfstest;

/// Set by `make stress`, which installs what takes long to build: what is missing is then an error.
const STRESS: &str = "SVOL_STRESS_SECONDS";

fn document() -> String {
    let file = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/POSIX.md");
    std::fs::read_to_string(file).unwrap()
}

#[test]
fn the_document_says_what_is_run_and_what_is_not() {
    let text = document();
    let mut rows: Vec<String> = Vec::new();
    for (call, result) in calls::TABLE {
        rows.push(format!("| {call} | {result} |"));
    }
    for (engine, pattern, direct) in fio::RUNS {
        let direct = if *direct { "O_DIRECT" } else { "cached" };
        rows.push(format!("| fio | {engine}, {pattern}, {direct} |"));
    }
    for case in excluded::APPLY {
        rows.push(format!("| pjdfstest | `{case}` |"));
    }
    for (group, cases, reason) in excluded::PJDFSTEST {
        rows.push(format!("| pjdfstest `{group}` | {cases} | {reason} |"));
    }
    for (what, reason) in excluded::OTHERS {
        rows.push(format!("| {what} | all | {reason} |"));
    }
    for row in &rows {
        assert!(
            text.lines().any(|line| line == row),
            "not in docs/POSIX.md: {row}"
        );
    }
    // And nothing more.
    let head =
        |l: &&str| l.starts_with("| ") && !l.starts_with("| what") && !l.starts_with("| call");
    for line in text.lines().filter(head) {
        assert!(
            rows.iter().any(|row| row == line),
            "only in docs/POSIX.md: {line}"
        );
    }
}
