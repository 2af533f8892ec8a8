//! What is mounted and what is known of it; the report.

use std::collections::BTreeSet;
use std::io::Error;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use rustix::io::Errno;

use crate::common::mount::Place;
use crate::common::noise;
use crate::common::store::Store;
use crate::common::web::TestNginx;
use crate::truth::{self, Fickle, Hot};
use crate::watch::{Doing, Peak, Watch};

/// Files that change, seen through each of the views.
pub const HOT: usize = 24;

/// Files that come and go.
pub const FICKLE: usize = 10;

/// Names in the directory that never changes.
pub const MANY: usize = 1200;

/// Large files that never change, and their size.
pub const BIG: usize = 4;
pub const BIG_SIZE: usize = (6 << 20) + 123;

/// Ways in which the changing source is mounted.
pub const VIEWS: [&str; 2] = ["tree", "bucket"];

/// Everything that the actors share.
pub struct World {
    pub store: Store,
    pub nginx: TestNginx,
    pub local: PathBuf,
    pub at: PathBuf,
    pub hot: Vec<Hot>,
    pub fickle: Vec<Fickle>,
    pub big: Vec<Vec<u8>>,
    pub watch: Watch,
    pub stop: AtomicBool,
}

pub fn errno(error: &Error) -> Option<Errno> {
    error.raw_os_error().map(Errno::from_raw_os_error)
}

pub fn hot_name(file: usize) -> String {
    format!("f{file:02}")
}

impl World {
    pub fn new(place: &Place) -> World {
        let store = Store::start();
        let hot: Vec<Hot> = (0..HOT).map(|_| Hot::default()).collect();
        let fickle: Vec<Fickle> = (0..FICKLE).map(|_| Fickle::default()).collect();
        for file in 0..HOT {
            let bytes = truth::bytes(file, 0, 0, truth::size(file, 0) as usize);
            store.put(&format!("hot/{}", hot_name(file)), bytes);
        }
        // So that the directory never goes.
        store.put("fickle/stays", b"stays".to_vec());

        let nginx = TestNginx::start();
        let root = &nginx.root;
        for dir in ["big", "bin", "many", "py/pkg"] {
            std::fs::create_dir_all(root.join(dir)).unwrap();
        }
        let big: Vec<Vec<u8>> = (0..BIG).map(|i| noise(1000 + i as u64, BIG_SIZE)).collect();
        for (i, bytes) in big.iter().enumerate() {
            std::fs::write(root.join(format!("big/m{i}")), bytes).unwrap();
        }
        for i in 0..MANY {
            std::fs::write(root.join(format!("many/a-name-of-some-length-{i:05}")), "").unwrap();
        }
        std::fs::copy("/bin/echo", root.join("bin/echo")).unwrap();
        std::fs::write(root.join("bin/script"), "#!/bin/sh\necho from a script\n").unwrap();
        let mut init = String::new();
        for i in 0..8 {
            let module = format!("VALUE = {i}\nTEXT = '{}'\n", "x".repeat(3000));
            std::fs::write(root.join(format!("py/pkg/m{i}.py")), module).unwrap();
            init += &format!("from . import m{i}\n");
        }
        init += "TOTAL = m0.VALUE + m3.VALUE + m7.VALUE\n";
        std::fs::write(root.join("py/pkg/__init__.py"), init).unwrap();

        let local = place.path("local");
        std::fs::create_dir(&local).unwrap();
        std::fs::write(local.join("file"), "local").unwrap();
        std::os::unix::fs::symlink("file", local.join("link")).unwrap();
        World {
            store,
            nginx,
            local,
            at: PathBuf::new(),
            hot,
            fickle,
            big,
            watch: Watch::default(),
            stop: AtomicBool::new(false),
        }
    }

    pub fn mount_args(&self) -> Vec<String> {
        let mut args = self.store.s3_args();
        args.last_mut().unwrap().push_str("=/bucket");
        args.push(format!("{}=/tree", self.store.tree()));
        args.push(format!("{}/json/=/static", self.nginx.url));
        args.push(format!("{}=/local", self.local.display()));
        args
    }

    pub fn mounted(mut self, at: &Path) -> World {
        self.at = at.to_owned();
        self
    }

    pub fn hot_dir(&self, view: usize) -> PathBuf {
        self.at.join(VIEWS[view]).join("hot")
    }

    pub fn path(&self, inside: impl AsRef<Path>) -> PathBuf {
        self.at.join(inside)
    }

    pub fn stopped(&self) -> bool {
        self.stop.load(Ordering::SeqCst)
    }

    /// Takes note of an error: a file that changes may tell so, anything else is wrong.
    pub fn failed(&self, doing: &mut Doing<'_>, path: &Path, changes: bool, error: &Error) {
        match errno(error) {
            Some(Errno::STALE) if changes => doing.stale += 1,
            Some(Errno::NOENT) => {
                let what = format!("{} {}", doing.kind, path.display());
                self.watch.complain("false ENOENT", what);
            }
            _ => {
                let what = format!("{} {}: {error}", doing.kind, path.display());
                self.watch.complain("wrong error", what);
            }
        }
    }

    pub fn report(&self, took: Duration, peak: &Peak) {
        println!("\nstress for {:.1} s:", took.as_secs_f64());
        println!(
            "{:22} {:>9} {:>9} {:>8} {:>9}",
            "", "times", "MiB", "stale", "longest"
        );
        let (mut times, mut bytes) = (0, 0);
        for (kind, tally) in self.watch.tallies() {
            let longest = tally.longest.as_secs_f64();
            let (done, mib, stale) = (tally.done, tally.bytes >> 20, tally.stale);
            println!("{kind:22} {done:>9} {mib:>9} {stale:>8} {longest:>7.2} s");
            times += done;
            bytes += tally.bytes;
        }
        let complaints = self.watch.complaints();
        let count = |sort: &str| complaints.get(sort).copied().unwrap_or(0);
        println!(
            "{times} operations, {} MiB compared; wrong bytes {}, wrong versions {}, false ENOENT {}, \
             wrong listings {}, hangs 0, other complaints {}",
            bytes >> 20,
            count("wrong bytes"),
            count("wrong version"),
            count("false ENOENT"),
            count("wrong listing"),
            complaints.values().sum::<usize>()
                - [
                    "wrong bytes",
                    "wrong version",
                    "false ENOENT",
                    "wrong listing"
                ]
                .map(count)
                .iter()
                .sum::<usize>(),
        );
        println!(
            "the daemon at most: {} threads, {} open files, {} MiB resident",
            peak.threads,
            peak.fds,
            peak.memory >> 20
        );
    }

    pub fn judge(&self) {
        assert!(
            self.watch.complaints().is_empty(),
            "{:?}",
            self.watch.complaints()
        );
    }
}

pub fn hot_names() -> BTreeSet<String> {
    (0..HOT).map(hot_name).collect()
}

pub fn many_names() -> BTreeSet<String> {
    (0..MANY)
        .map(|i| format!("a-name-of-some-length-{i:05}"))
        .collect()
}
