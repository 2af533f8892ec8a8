//! Bits that flip, files that vanish or shrink, directories that are not what they should be:
//! never a wrong byte, never a failed reader, and it heals.
#![allow(missing_docs, clippy::single_range_in_vec_init)]

mod common;

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};

use common::*;
use svol_cache::{BLOCK, Cache, Error, GRAIN, Object};

const SIZE: u64 = 2 * BLOCK + 3_000;

/// A directory with one partial (its second block is missing), one blob and one packed object.
struct Fixture {
    dir: tempfile::TempDir,
    cache: Option<Cache>,
}

impl Fixture {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let cache = open(dir.path());
        let fixture = Self {
            dir,
            cache: Some(cache),
        };
        let partial = fixture.object(1);
        for range in [0..BLOCK, 2 * BLOCK..SIZE] {
            let mut fill = partial.try_claim(range.clone()).unwrap();
            fill.push(&content(1, SIZE)[range.start as usize..range.end as usize])
                .unwrap();
        }
        let blob = fixture.object(2);
        fill(&blob, &content(2, SIZE));
        wait_for("seal", || blob.sealed_file().is_some());
        fill(&fixture.object(3), &content(3, 5_000));
        fixture.cache().flush().unwrap();
        fixture
    }

    fn cache(&self) -> &Cache {
        self.cache.as_ref().unwrap()
    }

    fn object(&self, number: u64) -> Object {
        let size = if number == 3 { 5_000 } else { SIZE };
        self.cache().object(key(number), size)
    }

    fn path(&self) -> &Path {
        self.dir.path()
    }

    /// Returns the data file or the sidecar of a kind.
    fn file(&self, kind: &str, sidecar: bool) -> PathBuf {
        let is_sidecar = |path: &PathBuf| path.extension().is_some();
        let mut files = files_of(self.path(), kind);
        files.retain(|path| is_sidecar(path) == sidecar);
        assert_eq!(files.len(), 1, "{kind}");
        files.remove(0)
    }

    fn closed(mut self) -> Self {
        self.cache = None;
        self
    }

    fn reopened(mut self) -> Self {
        self.cache = None;
        self.cache = Some(open(self.dir.path()));
        self
    }

    /// Everything can be had, right, whatever happened, and is then kept again.
    fn expect_healthy(&self) {
        for number in 1..=3 {
            let object = self.object(number);
            let data = content(number, object.size());
            assert_eq!(read_or_fill(&object, &data), data, "object {number}");
        }
        self.cache().flush().unwrap();
        for number in 1..=2 {
            let object = self.object(number);
            wait_for("seal", || object.sealed_file().is_some());
        }
        let report = self.cache().gc(None).unwrap();
        assert_eq!(report.used, really_used(self.path()));
        assert!(self.cache().verify(|_| {}).unwrap().is_clean());
    }
}

fn truncate(path: &Path, len: u64) {
    let mode = fs::metadata(path).unwrap().permissions();
    fs::set_permissions(path, fs::Permissions::from_mode(0o600)).unwrap();
    let file = fs::File::options().write(true).open(path).unwrap();
    file.set_len(len).unwrap();
    fs::set_permissions(path, mode).unwrap();
}

#[test]
fn a_flipped_bit_anywhere_is_found_before_it_is_served() {
    for (kind, sidecar, at) in [
        ("partial", false, 0),
        ("partial", false, GRAIN + 17),
        ("partial", false, SIZE - 1),
        ("partial", true, 3),
        ("partial", true, 100),
        ("partial", true, 128 + 5),
        ("blob", false, 0),
        ("blob", false, BLOCK + 17),
        ("blob", true, 9),
        ("blob", true, 70),
        ("blob", true, 128 + 32 * 7),
        ("pack", false, 4_999),
    ] {
        let fixture = Fixture::new().closed();
        flip(&fixture.file(kind, sidecar), at);
        let fixture = fixture.reopened();
        fixture.expect_healthy();
        // A partial whose sidecar is no sidecar is only begun anew: nothing was served.
        let silent = kind == "partial" && sidecar && at < 128;
        let healed = fixture.cache().stats().healed;
        assert!(silent || healed > 0, "{kind} {sidecar} {at}");
    }
}

#[test]
fn a_truncated_file_is_found_before_it_is_served() {
    for (kind, sidecar) in [
        ("partial", false),
        ("partial", true),
        ("blob", false),
        ("blob", true),
        ("pack", false),
    ] {
        for len in [0, 100, 300] {
            let fixture = Fixture::new().closed();
            truncate(&fixture.file(kind, sidecar), len);
            fixture.reopened().expect_healthy();
        }
    }
}

#[test]
fn a_truncated_partial_that_is_open_never_reads_as_zeros() {
    let fixture = Fixture::new();
    let object = fixture.object(1);
    let data = content(1, SIZE);
    let mut buf = vec![0; GRAIN as usize];
    assert!(object.read_at(0, &mut buf).is_some());
    truncate(&fixture.file("partial", false), GRAIN);
    // The hole at its end is filled by somebody who has not noticed: the file must not grow back.
    if let Some(mut fill) = object.try_claim(BLOCK..2 * BLOCK) {
        fill.push(&data[BLOCK as usize..2 * BLOCK as usize])
            .unwrap();
    }
    for at in (0..SIZE).step_by(GRAIN as usize) {
        if let Some(read) = object.read_at(at, &mut buf) {
            assert_eq!(buf[..read], data[at as usize..at as usize + read]);
        }
    }
    fixture.expect_healthy();
}

#[test]
fn a_missing_file_is_fetched_again() {
    for kind in ["partial", "blob", "pack"] {
        for sidecar in [false, true] {
            if (kind, sidecar) == ("pack", true) {
                continue;
            }
            let fixture = Fixture::new().closed();
            fs::remove_file(fixture.file(kind, sidecar)).unwrap();
            fixture.reopened().expect_healthy();
        }
    }
}

#[test]
fn verify_finds_what_nobody_has_read() {
    for (kind, at) in [("partial", 5), ("blob", BLOCK), ("pack", 1_000)] {
        let fixture = Fixture::new().closed();
        flip(&fixture.file(kind, false), at);
        let fixture = fixture.reopened();
        let mut told = 0;
        let report = fixture
            .cache()
            .verify(|progress| told = progress.done_bytes);
        let report = report.unwrap();
        assert!(!report.is_clean(), "{kind}");
        assert_eq!(report.bytes, told);
        assert_eq!(report.bad_blobs, u64::from(kind == "blob"));
        assert_eq!(report.bad_grains, u64::from(kind == "partial"));
        assert_eq!(report.bad_packed, u64::from(kind == "pack"));
        assert!(fixture.cache().verify(|_| {}).unwrap().is_clean());
        fixture.expect_healthy();
    }
}

#[test]
fn a_damaged_index_is_set_aside_and_partials_are_found_without_it() {
    for damage in [0, 1, 2] {
        let fixture = Fixture::new().closed();
        let index = fixture.path().join("v1/index.db");
        match damage {
            0 => fs::write(
                &index,
                "this is not a database, and long enough to say so".repeat(99),
            ),
            1 => fs::write(&index, ""),
            _ => fs::remove_file(&index),
        }
        .unwrap();
        let _ = fs::remove_file(fixture.path().join("v1/index.db-wal"));
        let fixture = fixture.reopened();
        assert_eq!(fixture.object(1).missing(0..SIZE), [BLOCK..2 * BLOCK]);
        let aside = files(fixture.path())
            .iter()
            .any(|path| path.to_string_lossy().contains("set-aside"));
        assert_eq!(aside, damage == 0);
        // The blob has lost its name, and is brought again; gc sees to what is left.
        fixture.expect_healthy();
    }
}

#[test]
fn an_index_damaged_deep_inside_heals_while_in_use() {
    let fixture = Fixture::new().closed();
    let index = fixture.path().join("v1/index.db");
    rusqlite::Connection::open(&index)
        .unwrap()
        .pragma_update(None, "wal_checkpoint", "TRUNCATE")
        .unwrap();
    let len = fs::metadata(&index).unwrap().len();
    assert!(len > 10 * 4096);
    let file = fs::File::options().write(true).open(&index).unwrap();
    for page in 1..len / 4096 {
        use std::os::unix::fs::FileExt;
        file.write_all_at(&[0x5a; 4096], page * 4096).unwrap();
    }
    drop(file);
    let mut fixture = fixture;
    fixture.cache = Some(open(fixture.path()));
    for number in 1..=3 {
        let object = fixture.object(number);
        let data = content(number, object.size());
        assert_eq!(read_or_fill(&object, &data), data);
    }
    wait_for("new index", || fixture.cache().flush().is_ok());
    fixture.reopened().expect_healthy();
}

#[test]
fn an_index_that_is_whole_but_nonsense_heals() {
    for sql in [
        "DELETE FROM meta",
        "UPDATE meta SET value = 'x'",
        "UPDATE meta SET value = 1 << 60",
        "UPDATE meta SET value = -5",
        "ALTER TABLE packs RENAME TO pucks",
        "UPDATE objects SET hash = x'00'",
        "UPDATE objects SET size = -1",
        "UPDATE blobs SET pack = 'x'",
        "UPDATE blobs SET offset = 1 << 50",
        "UPDATE blobs SET bytes = 1 << 50",
        "UPDATE objects SET last_use = 1 << 62",
        "DELETE FROM blobs",
    ] {
        let fixture = Fixture::new().closed();
        let index = rusqlite::Connection::open(fixture.path().join("v1/index.db")).unwrap();
        index.execute_batch(sql).unwrap();
        drop(index);
        let fixture = fixture.reopened();
        // Where it seems full, what is read meanwhile is held in memory alone.
        wait_for("account", || fixture.cache().stats().used < 1 << 40);
        for number in 1..=3 {
            let object = fixture.object(number);
            let data = content(number, object.size());
            assert_eq!(read_or_fill(&object, &data), data, "{sql}: object {number}");
        }
        // Noticed within seconds of being met.
        wait_for("an index that can be read", || {
            fixture.cache().verify(|_| {}).is_ok() && fixture.cache().gc(None).is_ok()
        });
        fixture.expect_healthy();
    }
}

#[test]
fn many_who_open_a_damaged_index_at_once_end_up_with_one_new_one() {
    for round in 0..12 {
        let fixture = Fixture::new().closed();
        let index = fixture.path().join("v1/index.db");
        let log = fixture.path().join("v1/index.db-wal");
        // With a log that is as good as before, without one, and with one that is no log.
        match round % 3 {
            0 => {}
            1 => {
                let _ = fs::remove_file(&log);
            }
            _ => fs::write(&log, "no log").unwrap(),
        }
        let file = fs::File::options().write(true).open(&index).unwrap();
        file.set_len(5_000).unwrap();
        use std::os::unix::fs::FileExt;
        file.write_all_at(&[0x5a; 5_000], 0).unwrap();
        drop(file);
        std::thread::scope(|scope| {
            for number in 10..16 {
                let path = fixture.path();
                scope.spawn(move || {
                    std::thread::sleep(std::time::Duration::from_micros(300 * (number - 10)));
                    let cache = open(path);
                    // Small: without its row it could not be found.
                    let object = cache.object(key(number), 5_000);
                    fill(&object, &content(number, 5_000));
                    cache.flush().unwrap();
                });
            }
        });
        let cache = open(fixture.path());
        for number in 10..16 {
            let present = cache.object(key(number), 5_000).present_bytes();
            assert_eq!(present, 5_000, "round {round}: {number} is lost");
        }
        let aside = fs::read_dir(fixture.path()).unwrap();
        let is_aside = |name: std::ffi::OsString| name.to_string_lossy().contains("set-aside");
        let aside = aside.filter(|entry| is_aside(entry.as_ref().unwrap().file_name()));
        assert!(aside.count() <= 1, "round {round}");
    }
}

#[test]
fn the_directory_deleted_under_us_costs_only_its_content() {
    let fixture = Fixture::new();
    let open_partial = fixture.object(1);
    let mut buf = [0; 100];
    assert!(open_partial.read_at(0, &mut buf).is_some());
    fs::remove_dir_all(fixture.path()).unwrap();
    // What is open stays readable; what is not can still be had.
    assert!(open_partial.read_at(0, &mut buf).is_some());
    for number in 1..=3 {
        let object = fixture.object(number);
        let data = content(number, object.size());
        assert_eq!(read_or_fill(&object, &data), data);
    }
    drop(open_partial);
    // The index notices within seconds, and then things are kept again.
    wait_for("new index", || {
        let object = fixture.object(2);
        let data = content(2, SIZE);
        read_or_fill(&object, &data);
        object.sealed_file().is_some()
    });
    fixture.expect_healthy();
}

#[test]
fn another_format_is_set_aside_and_not_deleted() {
    let fixture = Fixture::new().closed();
    fs::write(fixture.path().join("v1/format"), "svol-cache format 7\n").unwrap();
    fs::create_dir(fixture.path().join("v2")).unwrap();
    fs::write(fixture.path().join("v2/theirs"), [7; 5_000]).unwrap();
    let before = really_used(fixture.path());
    let fixture = fixture.reopened();
    assert_eq!(fixture.cache().stats().used, 0);
    let report = fixture.cache().gc(Some(0)).unwrap();
    assert!(report.foreign_bytes >= before, "{report:?}");
    assert!(fixture.path().join("v2/theirs").exists());
    fixture.expect_healthy();
}

#[test]
fn directories_that_cannot_be_a_cache_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    let refused = |path: &Path| match Cache::open(config(path)) {
        Err(Error::Refused { reason, .. }) => reason,
        Err(other) => panic!("{other}"),
        Ok(_) => panic!("not refused"),
    };
    // Open to others, with things of theirs in it.
    let shared = dir.path().join("shared");
    fs::create_dir(&shared).unwrap();
    fs::set_permissions(&shared, fs::Permissions::from_mode(0o755)).unwrap();
    fs::write(shared.join("something"), "").unwrap();
    assert!(refused(&shared).contains("others"));
    assert_eq!(
        fs::metadata(&shared).unwrap().permissions().mode() & 0o777,
        0o755
    );
    // Open to others, but empty: closed to them.
    fs::remove_file(shared.join("something")).unwrap();
    drop(Cache::open(config(&shared)).unwrap());
    assert_eq!(
        fs::metadata(&shared).unwrap().permissions().mode() & 0o777,
        0o700
    );
    // Through a link is fine.
    symlink(&shared, dir.path().join("link")).unwrap();
    drop(Cache::open(config(&dir.path().join("link"))).unwrap());
    // A file, a place below a file.
    let file = dir.path().join("file");
    fs::write(&file, "").unwrap();
    assert!(Cache::open(config(&file)).is_err());
    assert!(Cache::open(config(&file.join("below"))).is_err());
    // Somebody else's. Only root can make such a one.
    if rustix::process::geteuid().is_root() {
        std::os::unix::fs::chown(&shared, Some(12_345), None).unwrap();
        assert!(refused(&shared).contains("12345"));
        std::os::unix::fs::chown(&shared, Some(0), None).unwrap();
    }
    // No file system of the kernel's own making can be written to.
    assert!(Cache::open(config(Path::new("/proc/svol"))).is_err());
}
