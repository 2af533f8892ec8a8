use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use svol_cache::Cache;

use super::KEEP;
use crate::catalogue::{Catalogue, Db, Policy};
use crate::fetch::Fetcher;
use crate::namespace::{Layer, Namespace};
use crate::source::ErrorKind;
use crate::source::memory::MemorySource;
use crate::vfs::{Error, Ino, LayerPolicy, Owner, ROOT, Result, Vfs};

const SIZE: usize = 4000;

struct World {
    source: Arc<MemorySource>,
    vfs: Arc<Vfs>,
}

fn bytes(dir: usize, file: usize) -> Vec<u8> {
    let mut bytes = vec![0; SIZE];
    let mut hash = blake3::Hasher::new();
    hash.update(format!("{dir}/{file}").as_bytes());
    hash.finalize_xof().fill(&mut bytes);
    bytes
}

impl World {
    /// A volume of one source with `dirs` directories of `files` files, looked at after
    /// `revalidate`; nothing is kept on disk.
    fn new(dirs: usize, files: usize, weak: bool, revalidate: Duration) -> World {
        let source = MemorySource::new("ahead");
        for (dir, file) in (0..dirs).flat_map(|d| (0..files).map(move |f| (d, f))) {
            let path = format!("{dir:02}/{file:04}");
            match weak {
                false => source.put(&path, bytes(dir, file)),
                true => source.put_weak(&path, bytes(dir, file), "1"),
            }
        }
        let catalogue = Catalogue::new(Db::volatile(), source.clone(), Policy::default());
        let policy = LayerPolicy {
            strict: false,
            revalidate,
            deadline: Duration::from_secs(60),
        };
        let owner = Owner {
            uid: 0,
            gid: 0,
            umask: 0,
        };
        let vfs = Vfs::new(
            Arc::new(Namespace::new(vec![Layer::new("only", catalogue)])),
            Cache::in_memory(64 << 20),
            Fetcher::new(),
            tokio::runtime::Handle::current(),
            vec![policy],
            owner,
        );
        World {
            source,
            vfs: Arc::new(vfs),
        }
    }

    fn strong(dirs: usize, files: usize) -> World {
        World::new(dirs, files, false, Duration::from_secs(3600))
    }

    /// Lists a directory, and returns its inode.
    async fn list(&self, dir: usize) -> Ino {
        let name = format!("{dir:02}");
        let found = self.vfs.lookup(ROOT, name.as_bytes()).await.unwrap();
        let opened = self.vfs.opendir(found.attr.ino).await.unwrap();
        self.vfs.releasedir(opened.handle);
        found.attr.ino
    }

    async fn read(&self, dir: Ino, file: usize) -> Result<Vec<u8>> {
        let name = format!("{file:04}");
        let found = self.vfs.lookup(dir, name.as_bytes()).await?;
        let ino = found.attr.ino;
        let handle = self.vfs.open(ino).await?;
        let mut here = vec![0; 2 * SIZE];
        let read = match self.vfs.read_now(handle, 0, &mut here) {
            Some(read) => read.map(|n| here[..n].to_vec()),
            None => self.vfs.read(handle, ino, 0, 2 * SIZE).await,
        };
        self.vfs.release(handle);
        self.vfs.forget(ino, 1);
        read
    }

    /// Returns the files that were fetched ahead: those that were of use, and those in vain.
    fn prefetched(&self) -> (usize, usize) {
        let counters = self.vfs.counters(0).unwrap();
        let files = |counter: &std::sync::atomic::AtomicU64| {
            let bytes = counter.load(Ordering::Relaxed) as usize;
            assert_eq!(bytes % SIZE, 0);
            bytes / SIZE
        };
        (
            files(&counters.prefetch_used),
            files(&counters.prefetch_wasted),
        )
    }

    fn held(&self) -> usize {
        self.vfs.ahead.state().held.len()
    }
}

/// Lets others run until nothing is under way.
async fn settle() {
    tokio::time::sleep(Duration::from_millis(500)).await;
}

#[tokio::test(start_paused = true)]
async fn a_walk_waits_for_few_files_and_each_is_fetched_once() {
    let world = World::strong(4, 100);
    world.source.set_delay(Duration::from_millis(20));
    let started = tokio::time::Instant::now();
    for dir in 0..4 {
        let ino = world.list(dir).await;
        for file in 0..100 {
            assert_eq!(world.read(ino, file).await.unwrap(), bytes(dir, file));
        }
    }
    // One by one, it would be eight seconds.
    assert!(started.elapsed() < Duration::from_secs(2));
    assert_eq!(world.source.reads(), 400);
    let (used, wasted) = world.prefetched();
    assert!(used >= 390, "{used}");
    assert_eq!((wasted, world.held()), (0, 0));
}

#[tokio::test(start_paused = true)]
async fn a_walk_goes_on_into_directories_that_are_known() {
    let world = World::strong(8, 20);
    world.source.set_delay(Duration::from_millis(20));
    let mut inos = Vec::new();
    for dir in 0..8 {
        inos.push(world.list(dir).await);
    }
    for (dir, ino) in inos[..3].iter().enumerate() {
        for file in 0..20 {
            assert_eq!(world.read(*ino, file).await.unwrap(), bytes(dir, file));
        }
    }
    settle().await;
    // Nobody has opened anything of the fourth one.
    assert!(world.source.reads() > 60, "{}", world.source.reads());
    assert!(world.held() > 0 && world.held() <= 2 * 60);
}

#[tokio::test(start_paused = true)]
async fn files_read_far_from_each_other_bring_no_others() {
    let world = World::strong(1, 1000);
    let ino = world.list(0).await;
    for n in 0..60 {
        let file = n * 377 % 1000;
        assert_eq!(world.read(ino, file).await.unwrap(), bytes(0, file));
    }
    settle().await;
    assert_eq!(world.source.reads(), 60);
    assert_eq!(world.prefetched(), (0, 0));
}

#[tokio::test(start_paused = true)]
async fn what_nobody_comes_for_is_let_go_of_and_counted() {
    let world = World::strong(1, 100);
    let ino = world.list(0).await;
    for file in 0..10 {
        assert_eq!(world.read(ino, file).await.unwrap(), bytes(0, file));
    }
    settle().await;
    let ahead = world.source.reads() as usize - 10;
    assert!((1..=20).contains(&ahead), "{ahead}");
    assert_eq!(world.held(), ahead);
    tokio::time::sleep(3 * KEEP).await;
    assert_eq!(world.held(), 0);
    assert_eq!(world.prefetched().1, ahead);
    assert_eq!(world.vfs.ahead.runs.load(Ordering::Relaxed), 0);
}

#[tokio::test(start_paused = true)]
async fn what_could_not_be_fetched_ahead_is_asked_for_by_its_reader() {
    let world = World::strong(1, 100);
    let ino = world.list(0).await;
    world.source.set_broken("00/0050", Some(ErrorKind::Server));
    for file in 0..49 {
        assert_eq!(world.read(ino, file).await.unwrap(), bytes(0, file));
        settle().await;
    }
    assert!(world.held() > 0);
    world.source.set_broken("00/0050", None);
    for file in 49..100 {
        assert_eq!(world.read(ino, file).await.unwrap(), bytes(0, file));
    }
    // While it lasts, the error is that of its own reader alone.
    world.source.put("00/0200", "after");
    world.source.set_broken("00/0200", Some(ErrorKind::Denied));
    assert_eq!(world.read(ino, 60).await.unwrap(), bytes(0, 60));
}

#[tokio::test(start_paused = true)]
async fn a_broken_file_among_others_fails_its_reader_alone() {
    let world = World::strong(1, 60);
    let ino = world.list(0).await;
    world.source.set_broken("00/0030", Some(ErrorKind::Denied));
    for file in 0..60 {
        match world.read(ino, file).await {
            Ok(read) => assert_eq!((read, file == 30), (bytes(0, file), false)),
            Err(Error::Source(error)) => {
                assert_eq!((error.kind(), file), (ErrorKind::Denied, 30));
            }
            Err(other) => panic!("{other}"),
        }
    }
}

#[tokio::test(start_paused = true)]
async fn versions_that_have_to_be_asked_for_first_are_not_fetched_ahead() {
    let world = World::new(1, 50, true, Duration::ZERO);
    let ino = world.list(0).await;
    for file in 0..30 {
        assert_eq!(world.read(ino, file).await.unwrap(), bytes(0, file));
    }
    settle().await;
    assert_eq!(world.source.reads(), 30);
    let world = World::new(1, 50, true, Duration::from_secs(3600));
    let ino = world.list(0).await;
    for file in 0..30 {
        assert_eq!(world.read(ino, file).await.unwrap(), bytes(0, file));
    }
    settle().await;
    assert_eq!(world.source.reads(), 50);
}

#[tokio::test(start_paused = true)]
async fn a_file_that_changed_after_it_was_fetched_ahead_is_read_as_it_is_now() {
    let world = World::strong(1, 40);
    let ino = world.list(0).await;
    for file in 0..10 {
        assert_eq!(world.read(ino, file).await.unwrap(), bytes(0, file));
    }
    settle().await;
    assert!(world.held() > 0);
    world.source.put("00/0012", bytes(7, 7));
    let path = crate::path::RelPath::new("00").unwrap();
    world.vfs.namespace().refresh(&path, false).await;
    assert_eq!(world.read(ino, 12).await.unwrap(), bytes(7, 7));
    assert_eq!(world.read(ino, 13).await.unwrap(), bytes(0, 13));
}

#[tokio::test(start_paused = true)]
async fn a_walk_with_an_order_of_its_own_is_followed() {
    let world = World::strong(10, 50);
    world.source.set_delay(Duration::from_millis(20));
    for dir in 0..10 {
        world.list(dir).await;
    }
    let started = tokio::time::Instant::now();
    for dir in [0, 1, 7, 4, 9, 2, 5, 8, 3, 6] {
        let ino = world.list(dir).await;
        for file in 0..50 {
            assert_eq!(world.read(ino, file).await.unwrap(), bytes(dir, file));
        }
    }
    // One by one, it would be ten seconds.
    assert!(started.elapsed() < Duration::from_secs(2));
    assert_eq!(world.source.reads(), 500);
}
