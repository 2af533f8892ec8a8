use proptest::prelude::*;

use super::*;
use crate::entry::{Digest, Entry, Timestamp, Version};
use crate::path::Name;

fn version() -> impl Strategy<Value = Version> {
    let token = prop_oneof![
        "[0-9a-f]{32}".prop_map(|hex| format!("\"{hex}\"")),
        "[0-9A-F]{32}".prop_map(|hex| format!("\"{hex}\"")),
        "\"[0-9a-f]{30,33}(-[0-9]{1,4})?\"",
        "\\PC{0,200}",
        Just(String::new()),
    ];
    (token, prop::bool::ANY).prop_map(|(token, strong)| Version {
        strong,
        token: token.into(),
    })
}

fn time() -> impl Strategy<Value = Timestamp> {
    prop_oneof![
        any::<i64>().prop_map(Timestamp),
        (-9_000_000_000_i64..9_000_000_000).prop_map(Timestamp::from_secs),
    ]
}

fn row() -> impl Strategy<Value = Row> {
    let kind = prop_oneof![Just(Kind::Dir), Just(Kind::File), Just(Kind::Symlink)];
    let text = || prop::option::of("\\PC{0,40}".prop_map(Into::into));
    let seen = prop::option::of(time());
    let more = (
        text(),
        text(),
        prop::option::of(any::<[u8; 32]>()),
        prop::bool::ANY,
    );
    let note = (prop::option::of(version()), seen);
    let facts = (
        any::<Option<u64>>(),
        prop::option::of(time()),
        any::<Option<bool>>(),
    );
    ("[a-zü .\n]{3,255}", kind, version(), facts, more, note).prop_map(
        |(
            name,
            kind,
            version,
            (size, mtime, executable),
            (target, validator, digest, same),
            note,
        )| {
            let (listed, seen) = note;
            let name: String = name.chars().take(100).collect();
            Row {
                entry: Entry {
                    name: Name::new(&name).unwrap(),
                    kind,
                    size,
                    mtime,
                    validator: if same {
                        Some(version.token.clone())
                    } else {
                        validator
                    },
                    version,
                    executable,
                    target,
                    digest: digest.map(Digest::Sha256),
                },
                note: (listed.is_some() || seen.is_some()).then(|| Box::new(Note { listed, seen })),
            }
        },
    )
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    #[test]
    fn a_row_reads_back_as_it_was(row in row()) {
        // `...` is a name, `..` is not.
        prop_assume!(Name::new(row.entry.name.as_str()).is_ok());
        let mut bytes = Vec::new();
        codec::encode(&row, &mut bytes);
        prop_assert_eq!(codec::decode(&bytes).unwrap(), row.clone());
        prop_assert_eq!(codec::name(&bytes).unwrap(), row.entry.name.as_str());
        prop_assert_eq!(codec::summary(&bytes).unwrap(), (row.entry.kind, row.entry.size));
        // Cut or spoilt, it is an error or another row, never a panic.
        for cut in 0..bytes.len() {
            prop_assert!(codec::decode(&bytes[..cut]).is_err());
        }
    }

    #[test]
    fn any_bytes_are_read_or_refused(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
        let _ = (codec::decode(&bytes), codec::name(&bytes), codec::summary(&bytes));
        let chunk: Arc<[u8]> = bytes.into();
        for index in 0..3 {
            let _ = packed(&chunk, 3, index).map(|row| row.row());
        }
    }
}

fn rows(count: usize, room: Room) -> Rows {
    let mut packer = Packer::new(room);
    for i in 0..count {
        packer.push(&Row::new(Entry::file(
            Name::new(&format!("f{i:07}")).unwrap(),
            i as u64,
            Some(Timestamp::from_secs(1_700_000_000 + i as i64)),
            Version::strong(format!("\"{:032x}\"", i * 7919)),
        )));
    }
    packer.finish()
}

#[test]
fn what_has_no_room_in_memory_is_found_on_disk() {
    let home = tempfile::tempdir().unwrap();
    let whole = rows(10_000, Room::default());
    let aside = rows(10_000, Room::new(home.path(), 100_000));
    assert!(
        whole.weight() > 300_000 && whole.weight() < 600_000,
        "{}",
        whole.weight()
    );
    assert!(aside.weight() < 10_000, "{}", aside.weight());
    assert_eq!(home.path().read_dir().unwrap().count(), 0, "it has no name");
    for rows in [&whole, &aside] {
        assert_eq!(rows.len(), 10_000);
        assert_eq!(rows.sums().files, 10_000);
        for i in [0, 1, 255, 256, 257, 5_000, 9_983, 9_984, 9_999] {
            let name = format!("f{i:07}");
            let row = rows.get(&name).unwrap().unwrap();
            assert_eq!(row.entry.size, Some(i as u64));
            assert_eq!(rows.nth(i).unwrap().unwrap(), row);
            assert_eq!(rows.position(&name).unwrap(), Ok(i));
            assert_eq!(rows.position(&format!("{name}x")).unwrap(), Err(i + 1));
        }
        assert_eq!(rows.position("a").unwrap(), Err(0));
        assert_eq!(rows.nth(10_000).unwrap(), None);
        assert_eq!(rows.iter().count(), 10_000);
        assert_eq!(rows.iter_from(9_990).count(), 10);
    }
    let same = whole.iter().zip(aside.iter());
    assert!(
        same.into_iter()
            .all(|(a, b)| a.unwrap().bytes() == b.unwrap().bytes())
    );
}

#[test]
fn a_replaced_row_leaves_the_others_and_the_old_rows_as_they_are() {
    let home = tempfile::tempdir().unwrap();
    for room in [Room::default(), Room::new(home.path(), 10_000)] {
        let old = rows(1_000, room);
        let mut row = old.get("f0000300").unwrap().unwrap();
        row.entry.size = None;
        row.entry.validator = Some("learnt".into());
        let new = old.patched(&row).unwrap().unwrap();
        assert_eq!(new.get("f0000300").unwrap().unwrap(), row);
        assert_eq!(old.get("f0000300").unwrap().unwrap().entry.size, Some(300));
        assert_eq!(new.sums().bytes, old.sums().bytes - 300);
        let differ = old.iter().zip(new.iter());
        let differ =
            differ.filter(|(a, b)| a.as_ref().unwrap().bytes() != b.as_ref().unwrap().bytes());
        assert_eq!(differ.count(), 1);
        row.entry.name = Name::new("absent").unwrap();
        assert!(old.patched(&row).unwrap().is_none());
    }
}

#[test]
fn without_a_place_on_disk_it_stays_in_memory() {
    let home = tempfile::tempdir().unwrap();
    let rows = rows(3_000, Room::new(home.path().join("missing"), 1_000));
    assert_eq!(rows.iter().filter(|row| row.is_ok()).count(), 3_000);
    assert!(rows.weight() > 100_000);
}
