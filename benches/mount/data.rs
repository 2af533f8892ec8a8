//! The data: the same bytes in every run.

use std::fmt::Write as _;
use std::fs::{self, File};
use std::io::Write as _;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, SystemTime};

use crate::load::{CHUNK, sum};
use crate::settings::Settings;

/// The large object's key.
pub const LARGE: &str = "large.bin";

/// How many files of a medium size there are.
pub const MEDIUM: usize = 64;

/// The size of a small file in bytes.
pub const SMALL_SIZE: usize = 16 << 10;

/// Small files in each directory.
const PER_DIRECTORY: usize = 100;

/// A tree of objects that are listed and not read, `NAME/PREFIX/NUMBER`.
pub struct Tree {
    /// The name of its root.
    pub name: String,
    /// In how many prefixes they are.
    pub prefixes: usize,
}

/// Objects in each prefix of a tree.
pub const EACH: usize = 100;

/// The size that they are listed with, in bytes.
pub const LISTED_SIZE: u64 = 4096;

impl Tree {
    /// Returns a tree of `times` times 20,000 objects.
    pub fn new(times: usize) -> Tree {
        Tree {
            // The server knows by the name that they have no bytes.
            name: format!("many{times}"),
            prefixes: 200 * times,
        }
    }

    /// Returns how many objects there are.
    pub fn count(&self) -> usize {
        self.prefixes * EACH
    }

    /// Returns their keys, sorted.
    pub fn keys(&self) -> impl Iterator<Item = String> {
        let of = move |p| (0..EACH).map(move |o| format!("{}/{p:05}/{o:05}", self.name));
        (0..self.prefixes).flat_map(of)
    }
}

/// Returns the key of a file of a medium size.
pub fn medium(n: usize) -> String {
    format!("medium/{n:02}.bin")
}

/// What the files hold: the sum of each chunk.
pub struct Truth {
    /// The large file's.
    pub large: Vec<u64>,
    /// The medium files', in order.
    pub medium: Vec<Vec<u64>>,
    /// The small files' keys, sorted, with their sums.
    pub small: Vec<(String, u64)>,
}

/// Makes all files below the directory `bucket`.
pub fn make(bucket: &Path, settings: &Settings) -> Truth {
    fs::create_dir_all(bucket.join("medium")).unwrap();
    let medium = (0..MEDIUM).map(|n| {
        let seed = (n as u64 + 1) << 48;
        make_large(&bucket.join(medium(n)), seed, settings.medium)
    });
    let truth = Truth {
        large: make_large(&bucket.join(LARGE), 0, settings.large),
        medium: medium.collect(),
        small: make_small(bucket, settings.small),
    };
    make_repository(&bucket.join("repo"));
    make_package(&bucket.join("python"));
    fs::create_dir_all(bucket.join("bin")).unwrap();
    fs::copy(crate::mounts::SVOL, bucket.join("bin/svol")).unwrap();
    truth
}

/// Returns all files below `dir` but for links, by their keys.
pub fn walk(dir: &Path) -> Vec<String> {
    let mut found = Vec::new();
    let mut left = vec![String::new()];
    while let Some(prefix) = left.pop() {
        for entry in fs::read_dir(dir.join(&prefix)).unwrap() {
            let entry = entry.unwrap();
            let key = format!("{prefix}{}", entry.file_name().to_str().unwrap());
            match entry.file_type().unwrap().is_dir() {
                true => left.push(key + "/"),
                false => found.push(key),
            }
        }
    }
    found.sort_unstable();
    found
}

/// Fills `bytes` with what no compression shortens; the same for the same seed.
fn noise(seed: u64, bytes: &mut [u8]) {
    let mut hasher = blake3::Hasher::new();
    hasher.update(&seed.to_le_bytes());
    hasher.finalize_xof().fill(bytes);
}

fn make_large(path: &Path, seed: u64, size: u64) -> Vec<u64> {
    let mut file = File::create(path).unwrap();
    let mut chunk = vec![0; CHUNK];
    (0..size.div_ceil(CHUNK as u64))
        .map(|at| {
            noise(seed + at, &mut chunk);
            file.write_all(&chunk).unwrap();
            sum(&chunk)
        })
        .collect()
}

fn make_small(bucket: &Path, count: usize) -> Vec<(String, u64)> {
    let mut bytes = vec![0; SMALL_SIZE];
    (0..count)
        .map(|n| {
            let dir = format!("small/{:03}", n / PER_DIRECTORY);
            if n % PER_DIRECTORY == 0 {
                fs::create_dir_all(bucket.join(&dir)).unwrap();
            }
            let key = format!("{dir}/{n:06}");
            noise(1 << 40 | n as u64, &mut bytes);
            fs::write(bucket.join(&key), &bytes).unwrap();
            (key, sum(&bytes))
        })
        .collect()
}

/// Returns lines of words; the same for the same seed.
fn text(seed: u64, lines: usize) -> String {
    const WORDS: [&str; 16] = [
        "volume", "layer", "source", "entry", "object", "block", "grain", "blob", "fetch", "read",
        "cache", "let", "match", "return", "self", "needle",
    ];
    let mut numbers = vec![0; lines * 8];
    noise(seed, &mut numbers);
    let mut text = String::new();
    for line in numbers.chunks(8) {
        for n in line {
            // The last word is rare.
            let word = WORDS[usize::from(n % 15) + usize::from(*n == 29)];
            let _ = write!(text, "{word} ");
        }
        text.push('\n');
    }
    text
}

/// A Git repository of a thousand files, with its work tree, packed as a clone is.
fn make_repository(at: &Path) {
    for n in 0..1000u64 {
        let dir = at.join(format!("src/{:02}", n / 25));
        fs::create_dir_all(&dir).unwrap();
        let lines = 60 + (n * 7 % 120) as usize;
        fs::write(dir.join(format!("file{n:04}.txt")), text(n, lines)).unwrap();
    }
    let git = |args: &[&str]| {
        let mut command = Command::new("git");
        command.arg("-C").arg(at).args(args);
        command.env("GIT_CONFIG_GLOBAL", "/dev/null");
        command.env("GIT_CONFIG_SYSTEM", "/dev/null");
        for who in ["AUTHOR", "COMMITTER"] {
            command.env(format!("GIT_{who}_NAME"), "Bench");
            command.env(format!("GIT_{who}_EMAIL"), "bench@localhost");
            command.env(format!("GIT_{who}_DATE"), "1700000000 +0000");
        }
        let output = command.output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "git {args:?}: {said}");
    };
    git(&["init", "-q", "-b", "main"]);
    // An object store keeps no modes, and times in whole seconds.
    git(&["config", "core.fileMode", "false"]);
    git(&["config", "core.checkStat", "minimal"]);
    for key in walk(&at.join("src")) {
        // Older than the index, or git would look into each file.
        let then = SystemTime::UNIX_EPOCH + Duration::from_secs(1_700_000_000);
        let file = File::options().write(true).open(at.join("src").join(key));
        file.unwrap().set_modified(then).unwrap();
    }
    git(&["add", "."]);
    git(&["commit", "-q", "-m", "All"]);
    // Not `gc`: it would empty the directory of branches, and object stores know no empty one.
    git(&["repack", "-a", "-d", "-q"]);
}

/// A Python package of five hundred modules that import each other, compiled as an installed one.
fn make_package(at: &Path) {
    let mut first = String::new();
    for part in 0..20 {
        let dir = at.join(format!("large/part{part:02}"));
        fs::create_dir_all(&dir).unwrap();
        let _ = writeln!(first, "from . import part{part:02}");
        let mut init = String::new();
        for module in 0..25 {
            let _ = writeln!(init, "from .m{module:02} import f0 as f{module}");
            let mut code = String::new();
            for f in 0..40 {
                let _ = writeln!(
                    code,
                    "def f{f}(a, b={part}):\n    \"\"\"Adds {module}.\"\"\"\n    return a + b + {module}\n"
                );
            }
            fs::write(dir.join(format!("m{module:02}.py")), code).unwrap();
        }
        fs::write(dir.join("__init__.py"), init).unwrap();
    }
    first.push_str("TOTAL = sum(p.f3(1) for p in (part00, part19))\n");
    fs::write(at.join("large/__init__.py"), first).unwrap();
    let mut command = Command::new("python3");
    command.args([
        "-m",
        "compileall",
        "-q",
        "--invalidation-mode",
        "unchecked-hash",
    ]);
    assert!(command.arg(at).status().unwrap().success());
}
