use std::os::unix::fs::DirBuilderExt;
use std::sync::atomic::AtomicBool;

use svol_cache::Cache;

use super::*;
use crate::catalogue::{Catalogue, Db, Policy};
use crate::fetch::Fetcher;
use crate::namespace::{Layer, Namespace};
use crate::source::local::LocalSource;
use crate::source::memory::MemorySource;
use crate::source::{ErrorKind, Source};
use crate::vfs::{Attr, Caller, LayerPolicy, Owner, ROOT};

/// What outlives a process.
struct World {
    dir: tempfile::TempDir,
}

impl World {
    fn new() -> World {
        let dir = tempfile::tempdir().unwrap();
        for name in ["cache", "journal"] {
            let mut builder = std::fs::DirBuilder::new();
            builder.mode(0o700).create(dir.path().join(name)).unwrap();
        }
        World { dir }
    }

    /// Starts a process over these layers, lowest first.
    fn start(&self, layers: &[(&str, Arc<dyn Source>)]) -> (Arc<Vfs>, Vec<OpenInode>) {
        let mut config = svol_cache::Config::new(self.dir.path().join("cache"));
        (config.limit, config.min_free) = (Some(1 << 30), Some(0));
        let policy = LayerPolicy {
            strict: false,
            revalidate: Duration::from_secs(3600),
            deadline: Duration::from_secs(60),
        };
        let owner = Owner {
            uid: 0,
            gid: 0,
            umask: 0,
        };
        let policies = layers.iter().map(|_| policy).collect();
        let layer = |(name, source): &(&str, Arc<dyn Source>)| {
            let catalogue = Catalogue::new(Db::volatile(), source.clone(), Policy::default());
            Layer::new(*name, catalogue)
        };
        let vfs = Arc::new(Vfs::new(
            Arc::new(Namespace::new(layers.iter().map(layer).collect())),
            Cache::open(config).unwrap(),
            Fetcher::new(),
            tokio::runtime::Handle::current(),
            policies,
            owner,
        ));
        let open = vfs.keep_in(&self.dir.path().join("journal")).unwrap();
        (vfs, open)
    }
}

fn bytes(seed: u8, len: usize) -> Vec<u8> {
    let mut bytes = vec![0; len];
    blake3::Hasher::new()
        .update(&[seed])
        .finalize_xof()
        .fill(&mut bytes);
    bytes
}

async fn look_up(vfs: &Arc<Vfs>, path: &str) -> Attr {
    let mut attr = None;
    let mut dir = ROOT;
    for name in path.split('/') {
        let looked = vfs.lookup(dir, name.as_bytes()).await.unwrap();
        (dir, attr) = (looked.attr.ino, Some(looked.attr));
    }
    attr.unwrap()
}

async fn read(vfs: &Arc<Vfs>, handle: u64, ino: Ino, at: u64, len: usize) -> Result<Vec<u8>> {
    let mut here = vec![0; len];
    match vfs.read_now(handle, at, &mut here) {
        Some(read) => read.map(|n| here[..n].to_vec()),
        None => vfs.read(handle, ino, at, len).await,
    }
}

fn is_gone<T: std::fmt::Debug>(result: Result<T>) -> bool {
    let Err(Error::Source(error)) = &result else {
        panic!("{result:?}")
    };
    matches!(error.kind(), ErrorKind::Changed | ErrorKind::NotFound)
}

const BIG: usize = 300_000;

#[tokio::test(flavor = "multi_thread")]
async fn open_files_are_of_the_version_that_they_were_opened_at() {
    let world = World::new();
    let source = MemorySource::new("s");
    for name in ["d/same", "d/replaced", "d/removed", "d/unread"] {
        source.put(name, bytes(1, BIG));
    }
    source.put("d/small", bytes(2, 1000));
    source.symlink("d/link", "small");
    let layers: [(&str, Arc<dyn Source>); 1] = [("a", source.clone())];
    let (old, open) = world.start(&layers);
    assert!(open.is_empty());
    let mut files = Vec::new();
    for name in ["same", "replaced", "removed", "unread", "small"] {
        let attr = look_up(&old, &format!("d/{name}")).await;
        let handle = old.open(attr.ino).await.unwrap();
        if name != "unread" {
            let all = read(&old, handle, attr.ino, 0, BIG).await.unwrap();
            assert_eq!(all.len() as u64, attr.size);
        }
        files.push((name, attr, handle));
    }
    let link = look_up(&old, "d/link").await;
    let held = look_up(&old, "d/same").await;
    source.put("d/replaced", bytes(3, BIG));
    source.put("d/unread", bytes(3, BIG));
    source.remove("d/removed");
    old.opener.cache.flush().unwrap();

    // The old one is not told that it ends.
    let (new, open) = world.start(&layers);
    assert_eq!(open.len(), files.len());
    assert!(open.iter().all(|o| o.handles == 1 && o.backing.is_none()));
    // The directory, five files and the link.
    assert_eq!(new.in_use(), (7, 5));
    for (name, attr, handle) in &files {
        assert_eq!(new.attr(attr.ino).unwrap(), *attr, "{name}");
        let got = read(&new, *handle, attr.ino, 7, BIG).await;
        match *name {
            // None of it was here, and it is not there any more.
            "unread" => assert!(is_gone(got)),
            "small" => assert_eq!(got.unwrap(), bytes(2, 1000)[7..]),
            _ => assert_eq!(got.unwrap(), bytes(1, BIG)[7..], "{name}"),
        }
    }
    assert_eq!(&*new.readlink(link.ino).unwrap(), "small");
    assert_eq!(look_up(&new, "d/same").await.ino, held.ino);
    // What is opened now is what is there now, and another inode; and its handle another number.
    let now = look_up(&new, "d/replaced").await;
    assert_ne!(now.ino, files[1].1.ino);
    let handle = new.open(now.ino).await.unwrap();
    assert!(files.iter().all(|(_, _, old)| *old != handle));
    let got = read(&new, handle, now.ino, 0, BIG).await.unwrap();
    assert_eq!(got, bytes(3, BIG));
    // Another opener of a held version shares it with those who have it open.
    let name = new.open(files[1].1.ino).await;
    assert!(matches!(name, Err(Error::Stale)));
    let again = new.open(files[1].1.ino).await.unwrap();
    let got = read(&new, again, files[1].1.ino, 0, BIG).await.unwrap();
    assert_eq!(got, bytes(1, BIG));

    // A third one knows what was closed, and what was opened by either.
    for (_, _, handle) in &files[..4] {
        assert!(new.release(*handle));
        assert!(!new.release(*handle));
    }
    assert!(new.release(handle));
    new.forget(link.ino, 1);
    new.settle();
    let (third, open) = world.start(&layers);
    let left: HashSet<Ino> = open.iter().map(|inode| inode.ino).collect();
    assert_eq!(left, HashSet::from([files[1].1.ino, files[4].1.ino]));
    assert_eq!(third.in_use().1, 2);
    assert!(matches!(third.attr(link.ino), Err(Error::Stale)));
    let got = read(&third, again, files[1].1.ino, 0, BIG).await.unwrap();
    assert_eq!(got, bytes(1, BIG));
    assert!(!third.release(files[0].2));
    assert!(third.release(files[4].2));
    drop(old);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_directory_that_is_half_read_goes_on() {
    let world = World::new();
    let source = MemorySource::new("s");
    for at in 0..100 {
        source.put(&format!("d/{at:03}"), bytes(1, 10));
    }
    let layers: [(&str, Arc<dyn Source>); 1] = [("a", source.clone())];
    let (old, _) = world.start(&layers);
    let dir = look_up(&old, "d").await.ino;
    let opened = old.opendir(dir).await.unwrap();
    let some = |vfs: &Vfs, offset: u64, most: usize| {
        let mut names = Vec::new();
        let mut next = offset;
        let taken = vfs.readdir(opened.handle, dir, offset, true, |entry| {
            if names.len() == most {
                return false;
            }
            names.push(entry.name.to_owned());
            next = entry.next;
            true
        });
        taken.map(|()| (names, next))
    };
    let (mut names, next) = some(&old, 0, 40).unwrap();
    let (known, _) = old.in_use();
    source.put("d/000a", bytes(1, 10));
    source.remove("d/070");

    let (new, _) = world.start(&layers);
    // What did not fit into the reply was taken back.
    assert_eq!(new.in_use().0, known);
    assert!(matches!(some(&new, next, 1), Err(Error::Stale)));
    assert!(new.reopen_dir_now(opened.handle, dir).is_none());
    new.reopen_dir(opened.handle, dir).await.unwrap();
    new.reopen_dir_now(opened.handle, dir).unwrap().unwrap();
    let (rest, _) = some(&new, next, 1000).unwrap();
    names.extend(rest);
    let expected: Vec<String> = [".".into(), "..".into()]
        .into_iter()
        .chain((0..100).filter(|n| *n != 70).map(|n| format!("{n:03}")))
        .collect();
    assert_eq!(names, expected);
    assert!(new.opendir(dir).await.unwrap().handle > opened.handle);
    new.releasedir(opened.handle);
    new.releasedir(opened.handle);
    let file = look_up(&new, "d/003").await.ino;
    let not = new.reopen_dir(77, file).await;
    assert!(matches!(not, Err(Error::NotDir)));
}

#[tokio::test(flavor = "multi_thread")]
async fn layers_are_found_again_wherever_they_are_and_those_that_are_gone_are_stale() {
    let world = World::new();
    let (a, b) = (MemorySource::new("a"), MemorySource::new("b"));
    a.put("x", bytes(1, 1000));
    b.put("y", bytes(2, 1000));
    let (a, b): (Arc<dyn Source>, Arc<dyn Source>) = (a, b);
    let (first, _) = world.start(&[("one", a.clone()), ("two", b.clone())]);
    let mut files = Vec::new();
    for (name, seed) in [("x", 1), ("y", 2)] {
        let attr = look_up(&first, name).await;
        files.push((attr, first.open(attr.ino).await.unwrap(), bytes(seed, 1000)));
    }
    // In another order, and one of them by another name; then one is gone, and then back.
    let orders: [&[(&str, Arc<dyn Source>)]; 3] = [
        &[("two", b.clone()), ("1", a.clone())],
        &[("two", b.clone())],
        &[("one", a.clone()), ("two", b.clone())],
    ];
    for (round, layers) in orders.into_iter().enumerate() {
        let (vfs, open) = world.start(layers);
        assert_eq!(open.len(), 2);
        for (at, (attr, handle, bytes)) in files.iter().enumerate() {
            let got = read(&vfs, *handle, attr.ino, 0, 1000).await;
            if round == 1 && at == 0 {
                assert!(matches!(got, Err(Error::Stale)));
                assert!(matches!(vfs.attr(attr.ino), Err(Error::Stale)));
                assert!(matches!(vfs.open(attr.ino).await, Err(Error::Stale)));
                assert!(vfs.xattr(attr.ino, "user.svol.source").is_err());
                // It is remembered all the same.
                vfs.compact().unwrap();
            } else {
                assert_eq!(got.unwrap(), *bytes);
                assert_eq!(vfs.attr(attr.ino).unwrap(), *attr);
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_open_that_comes_twice_is_one() {
    let world = World::new();
    let source = MemorySource::new("s");
    source.put("x", bytes(1, 1000));
    let layers: [(&str, Arc<dyn Source>); 1] = [("a", source)];
    let (old, _) = world.start(&layers);
    let ino = look_up(&old, "x").await.ino;
    let caller = |request| Caller { thread: 5, request };
    assert_eq!(old.opened_before(40, ino), None);
    let first = old.open_for(ino, caller(40)).await.unwrap();
    let second = old.open_for(ino, caller(42)).await.unwrap();
    old.backed(ino, Some(3));
    old.settle();
    // Twice, as the answer may be lost again.
    for _ in 0..2 {
        let (new, open) = world.start(&layers);
        let expected = OpenInode {
            ino,
            handles: 2,
            backing: Some(3),
        };
        assert_eq!(open, [expected]);
        assert_eq!(new.opened_before(42, ino), Some(second));
        assert_eq!(new.opened_before(42, ino + 1), None);
        assert_eq!(new.opened_before(44, ino), None);
        new.compact().unwrap();
    }
    let (new, _) = world.start(&layers);
    assert!(new.release(first));
    assert_eq!(new.opened_before(40, ino), None);
    new.backed(ino, None);
    assert!(new.release(second));
    let (third, open) = world.start(&layers);
    assert!(open.is_empty());
    assert_eq!(third.in_use(), (1, 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn files_that_are_read_in_place_are_opened_again_if_they_are_the_same() {
    let world = World::new();
    let place = tempfile::tempdir().unwrap();
    for name in ["same", "replaced", "removed"] {
        std::fs::write(place.path().join(name), bytes(1, 5000)).unwrap();
    }
    let source: Arc<dyn Source> = Arc::new(LocalSource::new(place.path()).unwrap());
    let layers = [("local", source)];
    let (old, _) = world.start(&layers);
    let mut files = Vec::new();
    for name in ["same", "replaced", "removed"] {
        let ino = look_up(&old, name).await.ino;
        files.push((name, ino, old.open(ino).await.unwrap()));
    }
    std::fs::write(place.path().join("other"), bytes(2, 5000)).unwrap();
    std::fs::rename(place.path().join("other"), place.path().join("replaced")).unwrap();
    std::fs::remove_file(place.path().join("removed")).unwrap();
    let (new, _) = world.start(&layers);
    for (name, ino, handle) in files {
        let got = read(&new, handle, ino, 0, 5000).await;
        if name == "same" {
            assert_eq!(got.unwrap(), bytes(1, 5000));
            assert_eq!(read(&new, handle, ino, 10, 10).await.unwrap().len(), 10);
        } else {
            assert!(is_gone(got), "{name}");
        }
        assert!(new.release(handle));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_validator_that_a_reply_taught_is_known_to_the_next() {
    let world = World::new();
    let source = MemorySource::new("s");
    source.put_weak("x", bytes(1, 1000), "t");
    source.set_coarse(true);
    let layers: [(&str, Arc<dyn Source>); 1] = [("a", source)];
    let (old, _) = world.start(&layers);
    let ino = look_up(&old, "x").await.ino;
    let handle = old.open(ino).await.unwrap();
    let got = read(&old, handle, ino, 0, 1000).await.unwrap();
    assert_eq!(got, bytes(1, 1000));
    let taught = old.handles.get(handle).unwrap().file.entry().clone();
    let (new, _) = world.start(&layers);
    let left = new.handles.get(handle).unwrap();
    assert_eq!(*left.file.entry(), taught);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_compaction_loses_nothing_of_what_goes_on() {
    let world = World::new();
    let source = MemorySource::new("s");
    for at in 0..64 {
        source.put(&format!("{at}"), bytes(1, 10));
    }
    let layers: [(&str, Arc<dyn Source>); 1] = [("a", source)];
    let (vfs, _) = world.start(&layers);
    look_up(&vfs, "0").await;
    let ended = Arc::new(AtomicBool::new(false));
    let busy = |seed: u64| {
        let (vfs, ended) = (vfs.clone(), ended.clone());
        std::thread::spawn(move || {
            // A generator of Knuth's; what comes of it only has to be mixed.
            let mut number = seed;
            let mut next = |below: u64| {
                number = number
                    .wrapping_mul(6_364_136_223_846_793_005)
                    .wrapping_add(1_442_695_040_888_963_407);
                (number >> 33) % below
            };
            let mut handles = Vec::new();
            while !ended.load(Ordering::Relaxed) {
                let name = next(64).to_string();
                let looked = vfs.lookup_now(ROOT, name.as_bytes()).unwrap().unwrap();
                let ino = looked.attr.ino;
                if next(3) == 0 {
                    handles.push(vfs.open_now(ino).unwrap().unwrap());
                } else {
                    vfs.forget(ino, 1);
                }
                if !handles.is_empty() && next(3) == 0 {
                    let at = next(handles.len() as u64) as usize;
                    assert!(vfs.release(handles.swap_remove(at)));
                }
            }
        })
    };
    let threads: Vec<_> = (0..3).map(busy).collect();
    for _ in 0..50 {
        vfs.compact().unwrap();
    }
    ended.store(true, Ordering::Relaxed);
    threads
        .into_iter()
        .for_each(|thread| thread.join().unwrap());
    vfs.settle();
    let told = |vfs: &Vfs| {
        let mut all: Vec<Vec<u8>> = Vec::new();
        for (_, node) in vfs.nodes.all().flatten() {
            let mut out = Vec::new();
            node.put(&mut out);
            all.push(out);
        }
        all.sort();
        all
    };
    let (new, _) = world.start(&layers);
    assert_eq!(told(&new), told(&vfs));
    let mut open: Vec<u64> = vfs.handles.all().flatten().map(|(n, _)| n).collect();
    let mut left: Vec<u64> = new.handles.all().flatten().map(|(n, _)| n).collect();
    open.sort_unstable();
    left.sort_unstable();
    assert_eq!(open, left);
    assert!(!open.is_empty());
}
