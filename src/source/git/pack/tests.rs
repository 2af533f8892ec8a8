//! Packs as git writes them, and as it does not.

use std::io::Write;
use std::process::{Command, Stdio};

use proptest::prelude::*;

use super::*;

const LIMITS: Limits = Limits {
    object: 100_000,
    objects: 10_000,
    total: 50_000_000,
};

/// Takes all, and checks what it is told.
#[derive(Default)]
struct Collect {
    all: Vec<(Kind, ObjectId, Vec<u8>)>,
    piece: Vec<u8>,
}

impl Sink for Collect {
    fn base(&mut self, id: &ObjectId) -> Result<Option<(Kind, Vec<u8>)>> {
        let found = self.all.iter().find(|(_, i, _)| i == id);
        Ok(found.map(|(kind, _, bytes)| (*kind, bytes.clone())))
    }
    fn object(&mut self, kind: Kind, id: ObjectId, bytes: Vec<u8>) -> Result<Flow> {
        self.all.push((kind, id, bytes));
        Ok(Flow::On)
    }
    fn begin(&mut self, _: u64) -> Result<Flow> {
        self.piece.clear();
        Ok(Flow::On)
    }
    fn piece(&mut self, bytes: &[u8]) -> Result<()> {
        self.piece.extend_from_slice(bytes);
        Ok(())
    }
    fn end(&mut self, id: ObjectId, size: u64) -> Result<Flow> {
        let bytes = std::mem::take(&mut self.piece);
        assert_eq!(bytes.len() as u64, size);
        self.all.push((Kind::Blob, id, bytes));
        Ok(Flow::On)
    }
    fn flush(&mut self) -> Result<()> {
        Ok(())
    }
}

fn git(dir: &std::path::Path, args: &[&str], input: &[u8]) -> Vec<u8> {
    let mut child = Command::new("git")
        .arg("-C")
        .arg(dir)
        .args(args)
        .envs([
            ("GIT_CONFIG_NOSYSTEM", "1"),
            ("GIT_CONFIG_GLOBAL", "/dev/null"),
        ])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(input).unwrap();
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success(), "git {args:?}");
    output.stdout
}

/// Returns a pack with deltas of three versions of a file and a blob that is large here; with the
/// number of its objects.
fn packed(format: &str, offsets: bool) -> (Vec<u8>, usize) {
    let dir = tempfile::tempdir().unwrap();
    let at = dir.path();
    git(
        at,
        &["init", "-q", "--bare", "--object-format", format],
        b"",
    );
    let mut input = Vec::new();
    for version in 0..3u32 {
        let mut text: Vec<u8> = Vec::new();
        for line in 0..2000u32 {
            // Text that deltas fit, and that does not shrink to nothing.
            let word = line.wrapping_mul(2_654_435_761) ^ (u32::from(line == 1000) * version);
            text.extend_from_slice(format!("{word:08x}\n").as_bytes());
        }
        let large: Vec<u8> = (0..150_000u32)
            .map(|i| (i.wrapping_mul(i) >> 7) as u8)
            .collect();
        input.extend_from_slice(
            b"commit refs/heads/main\ncommitter a <b> 1700000000 +0000\ndata 0\n",
        );
        for (name, bytes) in [("dir/file", &text), ("large", &large)] {
            input.extend_from_slice(
                format!("M 644 inline {name}\ndata {}\n", bytes.len()).as_bytes(),
            );
            input.extend_from_slice(bytes);
            input.push(b'\n');
        }
    }
    git(at, &["fast-import", "--quiet"], &input);
    let mut args = vec!["pack-objects", "--all", "--stdout", "-q", "--window=10"];
    if offsets {
        args.push("--delta-base-offset");
    }
    let pack = git(at, &args, b"");
    let all = git(at, &["rev-list", "--objects", "--all"], b"");
    let count = all.iter().filter(|b| **b == b'\n').count();
    (pack, count)
}

#[test]
fn what_git_packs_is_read() {
    for (name, format) in [
        ("sha1", gix_hash::Kind::Sha1),
        ("sha256", gix_hash::Kind::Sha256),
    ] {
        for offsets in [true, false] {
            let (pack, count) = packed(name, offsets);
            let mut sink = Collect::default();
            let outcome = read(&mut &pack[..], format, LIMITS, &mut sink).unwrap();
            assert_eq!((outcome.unresolved, outcome.complete), (0, true));
            assert_eq!(sink.all.len(), count);
            for (kind, id, bytes) in &sink.all {
                assert_eq!(id_of(format, *kind, bytes).unwrap(), *id);
            }
            let large = sink
                .all
                .iter()
                .filter(|(_, _, b)| b.len() == 150_000)
                .count();
            assert_eq!(large, 1);
            // Small enough to be deltas, or they were not tested.
            assert!(pack.len() < 200_000, "{}", pack.len());
        }
    }
}

#[test]
fn bounds_hold() {
    let (pack, _) = packed("sha1", true);
    let format = gix_hash::Kind::Sha1;
    for limits in [
        Limits {
            objects: 3,
            ..LIMITS
        },
        Limits {
            total: 10_000,
            ..LIMITS
        },
    ] {
        let error = read(&mut &pack[..], format, limits, &mut Collect::default()).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Lied, "{error}");
    }
    let small = Limits {
        object: 1000,
        ..LIMITS
    };
    // The file is told in pieces, and what builds on it cannot be made.
    let outcome = read(&mut &pack[..], format, small, &mut Collect::default()).unwrap();
    assert_eq!(outcome.unresolved, 2);
}

#[test]
fn a_truncated_pack_is_told() {
    let (pack, _) = packed("sha1", true);
    for len in [0, 3, 11, 12, 13, 100, pack.len() / 2, pack.len() - 1] {
        let got = read(
            &mut &pack[..len],
            gix_hash::Kind::Sha1,
            LIMITS,
            &mut Collect::default(),
        );
        assert_eq!(got.unwrap_err().kind(), ErrorKind::Interrupted, "{len}");
    }
}

fn sample() -> &'static [u8] {
    static SAMPLE: std::sync::OnceLock<Vec<u8>> = std::sync::OnceLock::new();
    SAMPLE.get_or_init(|| packed("sha1", true).0)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]

    /// With some bytes changed, whatever is handed on still has the id that it is handed on with.
    #[test]
    fn a_damaged_pack_gives_no_wrong_bytes(
        changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..4),
    ) {
        let mut pack = sample().to_vec();
        for (at, byte) in changes {
            let at = at.index(pack.len());
            pack[at] = byte;
        }
        let mut sink = Collect::default();
        let _ = read(&mut &pack[..], gix_hash::Kind::Sha1, LIMITS, &mut sink);
        for (kind, id, bytes) in &sink.all {
            prop_assert_eq!(id_of(gix_hash::Kind::Sha1, *kind, bytes).unwrap(), *id);
        }
    }

    #[test]
    fn any_bytes_are_taken(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        let pack = [b"PACK\0\0\0\x02\0\0\0\x05", &bytes[..]].concat();
        let _ = read(&mut &pack[..], gix_hash::Kind::Sha1, LIMITS, &mut Collect::default());
    }
}
