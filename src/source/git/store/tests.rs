use super::*;

fn id(bytes: &[u8]) -> ObjectId {
    pack::id_of(gix_hash::Kind::Sha1, Kind::Blob, bytes).unwrap()
}

fn with_blob(store: &Store, bytes: &[u8]) -> ObjectId {
    let mut batch = Batch::default();
    let id = id(bytes);
    batch.object(id, Kind::Blob, bytes.to_vec());
    batch.keep(id, bytes.to_vec());
    batch.sizes.push((id, bytes.len() as u64));
    store.write(&mut batch).unwrap();
    id
}

#[test]
fn what_is_written_is_there_for_the_next() {
    let dir = tempfile::tempdir().unwrap();
    let a = with_blob(&Store::new(dir.path(), KEPT), b"hello");
    let store = Store::new(dir.path(), KEPT);
    assert_eq!(
        store.object(&a).unwrap(),
        Some((Kind::Blob, b"hello".to_vec()))
    );
    assert_eq!(store.kept(&a).unwrap().as_deref(), Some(&b"hello"[..]));
    assert_eq!(store.sizes(&[a, id(b"other")]).unwrap(), [Some(5), None]);
    assert!(store.has(&a).unwrap() && !store.has(&id(b"other")).unwrap());
}

#[test]
fn what_is_damaged_is_not_given_out() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::new(dir.path(), KEPT);
    let a = with_blob(&store, b"hello");
    for table in ["objects", "kept"] {
        let damage = format!("UPDATE {table} SET bytes = x'00'");
        store.db().unwrap().execute(&damage, []).unwrap();
    }
    assert_eq!(store.object(&a).unwrap(), None);
    assert_eq!(store.kept(&a).unwrap(), None);
    assert!(!store.has(&a).unwrap());
}

#[test]
fn the_oldest_blobs_make_room() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::new(dir.path(), 25);
    let ids: Vec<_> = (0..4u8).map(|n| with_blob(&store, &[n; 10])).collect();
    let kept: Vec<_> = ids
        .iter()
        .map(|i| store.kept(i).unwrap().is_some())
        .collect();
    assert_eq!(kept, [false, false, true, true]);
    assert_eq!(store.sizes(&ids).unwrap(), [Some(10); 4]);
}

#[test]
fn a_source_is_at_its_last_commit() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::new(dir.path(), KEPT);
    assert_eq!(store.commit("s").unwrap(), None);
    let commits: Vec<_> = (0..5u8).map(|n| id(&[n])).collect();
    let forgot: Vec<_> = commits
        .iter()
        .map(|c| store.note("s", c).unwrap())
        .collect();
    assert_eq!(forgot, [false, false, false, true, true]);
    assert_eq!(store.commit("s").unwrap(), Some(commits[4]));
    // Back to where it was.
    store.note("s", &commits[3]).unwrap();
    assert_eq!(store.commit("s").unwrap(), Some(commits[3]));
    assert_eq!(store.commit("other").unwrap(), None);
}

#[test]
fn only_what_is_old_and_out_of_reach_is_swept() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::new(dir.path(), KEPT);
    let (a, b) = (with_blob(&store, b"a"), with_blob(&store, b"b"));
    let reach = [a].into_iter().collect();
    assert_eq!(store.sweep(&reach).unwrap(), 0);
    store
        .db()
        .unwrap()
        .execute("UPDATE objects SET added = 0", [])
        .unwrap();
    assert_eq!(store.sweep(&reach).unwrap(), 1);
    assert!(store.has(&a).unwrap() && !store.has(&b).unwrap());
}

#[test]
fn a_file_that_is_not_ours_is_set_aside() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("objects.db"), vec![7; 10_000]).unwrap();
    let a = with_blob(&Store::new(dir.path(), KEPT), b"hello");
    assert!(Store::new(dir.path(), KEPT).has(&a).unwrap());
    assert!(dir.path().join("aside-objects.db").exists());
}

#[test]
fn without_a_directory_memory_serves() {
    let file = tempfile::NamedTempFile::new().unwrap();
    let store = Store::new(&file.path().join("below"), KEPT);
    let a = with_blob(&store, b"hello");
    assert!(store.has(&a).unwrap());
}
