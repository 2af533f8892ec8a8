//! The format on disk, byte for byte. Where this test fails, the format has changed, and the name
//! of its directory (`v1`), docs/CACHE_FORMAT.md and this test must change with it.
#![allow(missing_docs)]

mod common;

use std::fs;

use blake3::hazmat::HasherExt;
use common::*;
use svol_cache::{GRAIN, ObjectKey};

fn hex(bytes: &[u8; 32]) -> String {
    blake3::Hash::from_bytes(*bytes).to_hex().to_string()
}

#[test]
fn a_known_partial_blob_and_pack() {
    let dir = tempfile::tempdir().unwrap();
    let size = 5 * GRAIN + 10;
    let data: Vec<u8> = (0..size).map(|at| (at / 251 + at) as u8).collect();
    let key = ObjectKey::from_bytes([0x5a; 32]);
    let cache = open(dir.path());
    let root = dir.path().join("v1");
    let object = cache.object(key, size);

    // Grains 1 and 2 of a partial.
    let part = GRAIN as usize..3 * GRAIN as usize;
    let mut fill_part = object.try_claim(GRAIN..3 * GRAIN).unwrap();
    fill_part.push(&data[part.clone()]).unwrap();
    fill_part.finish().unwrap();
    let hexkey = "5a".repeat(32);
    let partial = root.join("partial/5a").join(&hexkey);
    let written = fs::read(&partial).unwrap();
    assert_eq!(written.len() as u64, size);
    assert_eq!(written[part.clone()], data[part]);
    assert!(written[..GRAIN as usize].iter().all(|byte| *byte == 0));
    let cv = |index: u64| {
        let start = index * GRAIN;
        let end = size.min(start + GRAIN);
        blake3::Hasher::new()
            .set_input_offset(start)
            .update(&data[start as usize..end as usize])
            .finalize_non_root()
    };
    let sidecar = fs::read(root.join("partial/5a").join(format!("{hexkey}.grains"))).unwrap();
    assert_eq!(sidecar.len(), 128 + 6 * 32);
    assert_eq!(&sidecar[0..8], b"svolgrn1");
    assert_eq!(sidecar[8..16], size.to_le_bytes());
    assert_eq!(sidecar[16..24], [0, 0x40, 0, 0, 0, 0, 0, 0]);
    assert_eq!(sidecar[32..64], [0x5a; 32]);
    assert_eq!(sidecar[64..96], [0; 32]);
    assert_eq!(sidecar[96..128], *blake3::hash(&sidecar[..96]).as_bytes());
    let nonce = sidecar[24..32].to_vec();
    for (index, expected) in [[0; 32], cv(1), cv(2), [0; 32], [0; 32], [0; 32]]
        .iter()
        .enumerate()
    {
        assert_eq!(
            sidecar[128 + 32 * index..][..32],
            *expected,
            "grain {index}"
        );
    }

    // The blob.
    fill(&object, &data);
    wait_for("seal", || object.sealed_file().is_some());
    let hash = hex(blake3::hash(&data).as_bytes());
    let blob = root.join("blob").join(&hash[..2]).join(&hash);
    assert_eq!(fs::read(&blob).unwrap(), data);
    let sidecar = fs::read(blob.with_extension("grains")).unwrap();
    assert_eq!(sidecar[20..24], [1, 0, 0, 0]);
    assert_eq!(sidecar[24..32], nonce);
    assert_eq!(sidecar[64..96], *blake3::hash(&data).as_bytes());
    for index in 0..6 {
        assert_eq!(sidecar[128 + 32 * index..][..32], cv(index as u64));
    }

    // The pack: contents, one after the other, and nothing else.
    for (number, text) in ["first", "and second"].iter().enumerate() {
        let object = cache.object(common::key(number as u64), text.len() as u64);
        fill(&object, text.as_bytes());
    }
    cache.flush().unwrap();
    let packs = files_of(dir.path(), "pack");
    assert_eq!(packs.len(), 1);
    assert_eq!(fs::read(&packs[0]).unwrap(), b"firstand second");
    assert_eq!(packs[0].file_name().unwrap().len(), 16);

    // The rest of the directory.
    let mut names: Vec<_> = fs::read_dir(&root)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .filter(|name| !name.starts_with("index.db-"))
        .collect();
    names.sort();
    assert_eq!(
        names,
        ["blob", "format", "index.db", "locks", "pack", "partial"]
    );
    let format = fs::read_to_string(root.join("format")).unwrap();
    assert_eq!(format, "svol-cache format 1\ngrain 16384 blake3\n");
    let db = rusqlite::Connection::open(root.join("index.db")).unwrap();
    let tables: Vec<String> = db
        .prepare("SELECT sql FROM sqlite_schema WHERE type = 'table' ORDER BY name")
        .unwrap()
        .query_map([], |row| row.get(0))
        .unwrap()
        .map(Result::unwrap)
        .collect();
    let tables = tables
        .join("\n")
        .split_whitespace()
        .collect::<Vec<_>>()
        .join(" ");
    assert_eq!(
        tables,
        "CREATE TABLE blobs( hash BLOB PRIMARY KEY, size INTEGER NOT NULL, pack INTEGER, offset \
         INTEGER, bytes INTEGER NOT NULL, last_use INTEGER NOT NULL, dev INTEGER, ino INTEGER, \
         mtime INTEGER, ctime INTEGER) WITHOUT ROWID CREATE TABLE meta(name TEXT PRIMARY KEY, \
         value INTEGER NOT NULL) WITHOUT ROWID CREATE TABLE objects( key BLOB PRIMARY KEY, size \
         INTEGER NOT NULL, hash BLOB, bytes INTEGER NOT NULL, last_use INTEGER NOT NULL) WITHOUT \
         ROWID CREATE TABLE packs(id INTEGER PRIMARY KEY, bytes INTEGER NOT NULL, last_use \
         INTEGER NOT NULL) CREATE TABLE pin_notes( key BLOB PRIMARY KEY, size INTEGER NOT NULL, \
         note TEXT NOT NULL) WITHOUT ROWID CREATE TABLE pins(key BLOB PRIMARY KEY) WITHOUT ROWID"
    );
}
