//! Who does what at once.

use std::cell::Cell;
use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::fs::File;
use std::mem::MaybeUninit;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::Ordering;
use std::thread::Scope;
use std::time::{Duration, Instant};

use rustix::fs::{Advice, RawDir, SeekFrom};
use rustix::io::Errno;

use crate::common::mount::{Place, xattr};
use crate::truth::{self, Candidates};
use crate::world::{
    BIG, BIG_SIZE, FICKLE, HOT, VIEWS, World, errno, hot_name, hot_names, many_names,
};

/// Random numbers, each thread's its own.
struct Dice(u64);

impl Dice {
    fn below(&mut self, limit: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut word = self.0;
        word = (word ^ (word >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        word = (word ^ (word >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (word ^ (word >> 31)) % limit
    }

    fn index(&mut self, limit: usize) -> usize {
        self.below(limit as u64) as usize
    }
}

impl World {
    /// One of everything, so that what is open then is what is open at rest.
    pub fn warm_up(&self) {
        let mut dice = Dice(1);
        for view in 0..VIEWS.len() {
            self.walk(&mut dice, &self.hot_dir(view), &hot_names());
        }
        self.read(&mut dice);
        self.execute(&mut dice);
        self.judge();
    }

    fn open_hot(&self, file: usize, view: usize) -> Option<(File, Candidates, u64)> {
        let hot = &self.hot[file];
        let path = self.hot_dir(view).join(hot_name(file));
        let oldest = hot.surely[view].load(Ordering::SeqCst);
        let mut doing = self.watch.begin("open");
        let opened = File::open(&path).and_then(|f| Ok((f.metadata()?.len(), f)));
        let (len, opened) = match opened {
            Ok(opened) => opened,
            Err(error) => {
                self.failed(&mut doing, &path, true, &error);
                return None;
            }
        };
        let newest = hot.begun.load(Ordering::SeqCst);
        let candidates = Candidates::new(file, oldest, newest, len);
        if candidates.none() {
            let what = format!("{}: {len} bytes, of {oldest}..={newest}", path.display());
            self.watch.complain("wrong version", what);
            return None;
        }
        Some((opened, candidates, len))
    }

    /// Reads a random part; returns whether there is more to be had of the file.
    fn read_part(
        &self,
        kind: &'static str,
        dice: &mut Dice,
        (file, candidates, len): &mut (File, Candidates, u64),
    ) -> bool {
        let at = dice.below(*len);
        let most = [1, 4096, 40_000, 300_000, 1 << 20][dice.index(5)];
        let most = most.min((*len - at) as usize);
        let mut buf = vec![0; most];
        let mut doing = self.watch.begin(kind);
        let mut n = 0;
        let mut end = None;
        // Where a version went in the middle of a read, that ends early, and the next one says why.
        while n < most && end.is_none() {
            match file.read_at(&mut buf[n..], at + n as u64) {
                Ok(0) => {
                    let what = format!("{n} of {most} bytes at {at} of {len}");
                    self.watch.complain("early end", what);
                    return false;
                }
                Ok(more) => n += more,
                Err(error) => end = Some(error),
            }
        }
        doing.bytes += n as u64;
        if let Some(error) = &end {
            self.failed(&mut doing, Path::new("an open file"), true, error);
        }
        drop(doing);
        if !candidates.fit(at, &buf[..n]) {
            let what = format!("{n} bytes at {at} of {len}: {candidates:?}");
            self.watch.complain("wrong bytes", what);
            return false;
        }
        end.is_none()
    }

    fn read(&self, dice: &mut Dice) {
        let (file, view) = (dice.index(HOT), dice.index(VIEWS.len()));
        let Some(mut opened) = self.open_hot(file, view) else {
            return;
        };
        for _ in 0..1 + dice.below(6) {
            if !self.read_part("read", dice, &mut opened) {
                return;
            }
        }
    }

    /// Keeps a file open for long, over changes and deletions.
    fn hold(&self, dice: &mut Dice) {
        let mut held: Vec<_> = (0..6)
            .filter_map(|_| self.open_hot(dice.index(HOT), dice.index(VIEWS.len())))
            .collect();
        let until = Instant::now() + Duration::from_millis(500 + dice.below(2500));
        while Instant::now() < until && !held.is_empty() && !self.stopped() {
            // Not to take the processor from the others.
            std::thread::sleep(Duration::from_millis(1));
            let i = dice.index(held.len());
            if !self.read_part("read of held", dice, &mut held[i]) {
                held.swap_remove(i);
            }
        }
    }

    /// Compares random parts of a mapped file, much of which is not here.
    fn map(&self, dice: &mut Dice) {
        let i = dice.index(BIG);
        let mut doing = self.watch.begin("map");
        let path = self.path(format!("static/big/m{i}"));
        let file = match File::open(&path) {
            Ok(file) => file,
            Err(error) => return self.failed(&mut doing, &path, false, &error),
        };
        let (read, private) = (rustix::mm::ProtFlags::READ, rustix::mm::MapFlags::PRIVATE);
        // SAFETY: a new mapping, unmapped below after its last use.
        let map = unsafe {
            rustix::mm::mmap(std::ptr::null_mut(), BIG_SIZE, read, private, &file, 0).unwrap()
        };
        // SAFETY: so many bytes are mapped, and the file does not shrink.
        let mapped = unsafe { std::slice::from_raw_parts(map.cast::<u8>(), BIG_SIZE) };
        for _ in 0..8 {
            let at = dice.index(BIG_SIZE);
            let end = (at + 1 + dice.index(200_000)).min(BIG_SIZE);
            if mapped[at..end] != self.big[i][at..end] {
                let what = format!("{} bytes mapped at {at} of m{i}", end - at);
                self.watch.complain("wrong bytes", what);
            }
            doing.bytes += (end - at) as u64;
        }
        // SAFETY: mapped above, not used any more.
        unsafe { rustix::mm::munmap(map, BIG_SIZE) }.unwrap();
    }

    /// Lists a directory in which `names` are all the time.
    fn walk(&self, dice: &mut Dice, path: &Path, names: &BTreeSet<String>) {
        let mut doing = self.watch.begin("readdir");
        let dir = match File::open(path) {
            Ok(dir) => dir,
            Err(error) => return self.failed(&mut doing, path, false, &error),
        };
        let buffer = [100, 300, 1500, 8000, 40_000][dice.index(5)];
        let mut space = vec![MaybeUninit::uninit(); buffer];
        let mut found = Vec::new();
        let mut entries = RawDir::new(&dir, &mut space);
        while let Some(entry) = entries.next() {
            match entry {
                Ok(e) => found.push((
                    e.file_name().to_string_lossy().into_owned(),
                    e.next_entry_cookie(),
                )),
                Err(error) => return self.failed(&mut doing, path, false, &error.into()),
            }
        }
        self.compare_names(path, names, found.iter().map(|f| &f.0));
        // From somewhere in the middle on: what came after it then comes now, but for what changed.
        let middle = dice.index(found.len());
        rustix::fs::seek(&dir, SeekFrom::Start(found[middle].1)).unwrap();
        let mut rest: Vec<String> = found[..=middle].iter().map(|f| f.0.clone()).collect();
        let mut entries = RawDir::new(&dir, &mut space);
        while let Some(entry) = entries.next() {
            match entry {
                Ok(e) => rest.push(e.file_name().to_string_lossy().into_owned()),
                Err(error) => return self.failed(&mut doing, path, false, &error.into()),
            }
        }
        self.compare_names(path, names, rest.iter());
    }

    fn walk_changing(&self, dice: &mut Dice) {
        let view = dice.index(VIEWS.len());
        self.walk(dice, &self.hot_dir(view), &hot_names());
        let fickle = self.at.join(VIEWS[view]).join("fickle");
        self.walk(dice, &fickle, &BTreeSet::from(["stays".to_owned()]));
    }

    fn compare_names<'a>(
        &self,
        path: &Path,
        names: &BTreeSet<String>,
        found: impl Iterator<Item = &'a String>,
    ) {
        let mut unique = BTreeSet::new();
        for name in found {
            if !unique.insert(name.clone()) {
                let what = format!("{name} twice in {}", path.display());
                self.watch.complain("wrong listing", what);
            }
        }
        if let Some(name) = names.iter().find(|n| !unique.contains(*n)) {
            let what = format!("no {name} in {}", path.display());
            self.watch.complain("wrong listing", what);
        }
    }

    /// Asks for attributes, links, extended attributes and sizes.
    fn look(&self, dice: &mut Dice) {
        let (number, view) = (dice.index(HOT), dice.index(VIEWS.len()));
        let path = self.hot_dir(view).join(hot_name(number));
        let oldest = self.hot[number].surely[view].load(Ordering::SeqCst);
        let mut doing = self.watch.begin("stat");
        match path.symlink_metadata() {
            Ok(found) => {
                let newest = self.hot[number].begun.load(Ordering::SeqCst);
                if Candidates::new(number, oldest, newest, found.len()).none() {
                    let (path, len) = (path.display(), found.len());
                    let what = format!("stat {path}: {len} bytes, of {oldest}..={newest}");
                    self.watch.complain("wrong version", what);
                }
            }
            Err(error) => self.failed(&mut doing, &path, true, &error),
        }
        drop(doing);
        let mut doing = self.watch.begin("getxattr");
        match xattr(&path, "user.svol.source") {
            Ok(source) if source.contains("hot") => {}
            Ok(source) => self.watch.complain("wrong xattr", source),
            Err(error) => self.failed(&mut doing, &path, true, &error),
        }
        drop(doing);
        let doing = self.watch.begin("readlink");
        let target = std::fs::read_link(self.path("local/link")).unwrap();
        assert_eq!(target, Path::new("file"));
        assert_eq!(std::fs::read(self.path("local/link")).unwrap(), b"local");
        drop(doing);
        let _doing = self.watch.begin("statfs");
        rustix::fs::statvfs(&self.at).unwrap();
    }

    /// Lists the names that come and go: those that are there or not for longer than the last
    /// refresh are listed or not.
    fn list_fickle(&self, dice: &mut Dice) {
        let view = dice.index(VIEWS.len());
        let path = self.at.join(VIEWS[view]).join("fickle");
        let settled = || -> Vec<_> { self.fickle.iter().map(|f| f.settled(view)).collect() };
        let before = settled();
        let mut doing = self.watch.begin("list of fickle");
        let listed = std::fs::read_dir(&path).and_then(|all| {
            let names = all.map(|e| Ok(e?.file_name().to_string_lossy().into_owned()));
            names.collect::<Result<BTreeSet<String>, std::io::Error>>()
        });
        let listed = match listed {
            Ok(listed) => listed,
            Err(error) => return self.failed(&mut doing, &path, false, &error),
        };
        for (i, (before, after)) in before.into_iter().zip(settled()).enumerate() {
            let Some(state) = before.filter(|_| before == after) else {
                continue;
            };
            if listed.contains(&format!("c{i}")) != (state % 2 == 1) {
                let what = format!("c{i} of state {state} in {}: {listed:?}", path.display());
                self.watch.complain("wrong listing", what);
            }
        }
    }

    /// Asks for a name that comes and goes.
    fn look_for_fickle(&self, dice: &mut Dice) {
        let (i, view) = (dice.index(FICKLE), dice.index(VIEWS.len()));
        let fickle = &self.fickle[i];
        let path = self.at.join(VIEWS[view]).join(format!("fickle/c{i}"));
        let before = fickle.settled(view);
        if dice.below(2) == 0 {
            let mut doing = self.watch.begin("stat of fickle");
            let got = path.symlink_metadata();
            let settled = before.filter(|_| before == fickle.settled(view));
            match (got, settled.map(|s| s % 2 == 1)) {
                (Ok(_), Some(false)) => {
                    let what = format!("c{i} in {}, {settled:?}", VIEWS[view]);
                    self.watch.complain("ghost", what);
                }
                (Err(error), None) if errno(&error) == Some(Errno::NOENT) => {}
                (Err(error), Some(false)) if errno(&error) == Some(Errno::NOENT) => {}
                (Err(error), _) => self.failed(&mut doing, &path, true, &error),
                (Ok(_), _) => {}
            }
            return;
        }
        let mut doing = self.watch.begin("read of fickle");
        let got = std::fs::read(&path);
        let after = fickle.settled(view);
        let settled = before.filter(|_| before == after);
        match got {
            Ok(bytes) => {
                doing.bytes += bytes.len() as u64;
                let state = String::from_utf8(bytes)
                    .ok()
                    .and_then(|t| t.trim().parse::<u64>().ok());
                if state.is_none_or(|s| s % 2 == 0 || settled.is_some_and(|t| s < t)) {
                    self.watch
                        .complain("wrong bytes", format!("{state:?} in c{i}, {settled:?}"));
                } else if settled.is_some_and(|t| t % 2 == 0) {
                    self.watch.complain("ghost", format!("c{i}, {settled:?}"));
                }
            }
            Err(error) if errno(&error) == Some(Errno::NOENT) => {
                if settled.is_some_and(|t| t % 2 == 1) {
                    let what = format!("c{i} in {}, {settled:?}", VIEWS[view]);
                    self.watch.complain("false ENOENT", what);
                }
            }
            Err(error) => self.failed(&mut doing, &path, true, &error),
        }
    }

    fn execute(&self, dice: &mut Dice) {
        let (kind, expected, mut command) = match dice.below(3) {
            0 => {
                let mut command = Command::new(self.path("static/bin/echo"));
                command.arg("hi");
                ("exec of a program", "hi\n", command)
            }
            1 => {
                let command = Command::new(self.path("static/bin/script"));
                ("exec of a script", "from a script\n", command)
            }
            _ => {
                let mut command = Command::new("python3");
                let code = "import pkg; print(pkg.TOTAL)";
                command.args(["-S", "-B", "-c", code]);
                command.env("PYTHONPATH", self.path("static/py"));
                ("import", "10\n", command)
            }
        };
        let mut doing = self.watch.begin(kind);
        match command.stdin(Stdio::null()).output() {
            Ok(output) if output.stdout == expected.as_bytes() => {}
            Ok(output) => self
                .watch
                .complain("wrong output", format!("{kind}: {output:?}")),
            Err(error) => self.failed(&mut doing, Path::new(kind), false, &error),
        }
    }

    /// Kills a reader in the middle.
    fn kill(&self, dice: &mut Dice) {
        let path = self.path(format!("static/big/m{}", dice.index(BIG)));
        self.forget_pages(&path);
        let mut reader = Command::new("cat")
            .arg(path)
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        std::thread::sleep(Duration::from_millis(dice.below(60)));
        let _doing = self.watch.begin("kill of a reader");
        reader.kill().unwrap();
        reader.wait().unwrap();
    }

    fn forget_pages(&self, path: &Path) {
        if let Ok(file) = File::open(path) {
            let _ = rustix::fs::fadvise(&file, 0, None, Advice::DontNeed);
        }
    }

    /// Binds a directory and a file elsewhere, and reads through that.
    fn bind(&self, dice: &mut Dice, place: &Place) {
        let (dir, file) = (place.path("bound-dir"), place.path("bound-file"));
        let mut doing = self.watch.begin("bind");
        let _dir = Bound::new(&self.path("static/many"), &dir);
        self.walk(dice, &dir, &many_names());
        let number = dice.index(HOT);
        let view = dice.index(VIEWS.len());
        let hot = &self.hot[number];
        let oldest = hot.surely[view].load(Ordering::SeqCst);
        let Some(_file) = Bound::new(&self.hot_dir(view).join(hot_name(number)), &file) else {
            return;
        };
        for _ in 0..3 {
            let opened = File::open(&file).and_then(|f| Ok((f.metadata()?.len(), f)));
            match opened {
                Ok((len, opened)) => {
                    let newest = hot.begun.load(Ordering::SeqCst);
                    let candidates = Candidates::new(number, oldest, newest, len);
                    self.read_part("read of bound", dice, &mut (opened, candidates, len));
                }
                Err(error) => self.failed(&mut doing, &file, true, &error),
            }
        }
    }

    /// Changes every `half`th of the files at the source.
    fn rewrite(&self, dice: &mut Dice, half: usize) {
        std::thread::sleep(Duration::from_millis(dice.below(30)));
        let _doing = self.watch.begin("change of a source");
        if dice.below(3) == 0 {
            let i = dice.index(FICKLE / 2) * 2 + half;
            let fickle = &self.fickle[i];
            let state = fickle.begun.fetch_add(1, Ordering::SeqCst) + 1;
            let key = format!("fickle/c{i}");
            if state % 2 == 1 {
                self.store.put(&key, format!("{state}\n"));
            } else {
                self.store.remove(&key);
            }
            fickle.stored.store(state, Ordering::SeqCst);
        } else {
            let file = dice.index(HOT / 2) * 2 + half;
            let version = self.hot[file].begun.fetch_add(1, Ordering::SeqCst) + 1;
            let bytes = truth::bytes(file, version, 0, truth::size(file, version) as usize);
            self.store.put(&format!("hot/{}", hot_name(file)), bytes);
            self.hot[file].stored.store(version, Ordering::SeqCst);
        }
    }

    fn refresh(&self, dice: &mut Dice, place: &Place) {
        std::thread::sleep(Duration::from_millis(100 + dice.below(300)));
        let view = dice.index(VIEWS.len());
        let hot: Vec<u64> = self
            .hot
            .iter()
            .map(|f| f.stored.load(Ordering::SeqCst))
            .collect();
        let fickle: Vec<u64> = self
            .fickle
            .iter()
            .map(|f| f.stored.load(Ordering::SeqCst))
            .collect();
        let dir = self.at.join(VIEWS[view]);
        let doing = self.watch.begin("refresh");
        let output = place.svol([OsStr::new("refresh"), dir.as_os_str()]);
        drop(doing);
        if !output.status.success() {
            return self
                .watch
                .complain("failed command", format!("refresh: {output:?}"));
        }
        for (file, version) in self.hot.iter().zip(hot) {
            file.surely[view].fetch_max(version, Ordering::SeqCst);
        }
        for (file, state) in self.fickle.iter().zip(fickle) {
            file.surely[view].fetch_max(state, Ordering::SeqCst);
        }
    }

    fn evict(&self, dice: &mut Dice, place: &Place) {
        std::thread::sleep(Duration::from_millis(200 + dice.below(600)));
        let _doing = self.watch.begin("gc");
        let output = place.svol(["cache", "gc", "--cache-size", "4MiB"]);
        if !output.status.success() {
            self.watch
                .complain("failed command", format!("gc: {output:?}"));
        }
    }

    /// Takes pages, and now and then all names, from the kernel's caches.
    fn drop_caches(&self, dice: &mut Dice) {
        std::thread::sleep(Duration::from_millis(20));
        let _doing = self.watch.begin("drop of pages");
        self.forget_pages(&self.path(format!("static/big/m{}", dice.index(BIG))));
        let hot = self
            .hot_dir(dice.index(VIEWS.len()))
            .join(hot_name(dice.index(HOT)));
        self.forget_pages(&hot);
        if dice.below(100) == 0 && rustix::process::geteuid().is_root() {
            let _ = std::fs::write("/proc/sys/vm/drop_caches", "2");
        }
    }
}

/// A bind mount, undone when dropped.
struct Bound(PathBuf);

impl Bound {
    fn new(what: &Path, at: &Path) -> Option<Bound> {
        if what.is_dir() {
            std::fs::create_dir_all(at).unwrap();
        } else if !at.exists() {
            std::fs::write(at, "").unwrap();
        }
        // A file may be replaced between its lookup and this.
        rustix::mount::mount_bind(what, at).ok()?;
        Some(Bound(at.to_owned()))
    }
}

impl Drop for Bound {
    fn drop(&mut self) {
        let flags = rustix::mount::UnmountFlags::DETACH;
        if let Err(error) = rustix::mount::unmount(&self.0, flags) {
            eprintln!("{}: {error}", self.0.display());
        }
    }
}

/// Those who act, each on a thread of its own.
struct Crew<'scope, 'env> {
    scope: &'scope Scope<'scope, 'env>,
    world: &'scope World,
    seeds: Cell<u64>,
}

impl<'scope> Crew<'scope, '_> {
    /// Lets so many do something again and again, until the world is stopped.
    fn spawn(&self, count: usize, act: impl Fn(&mut Dice) + Copy + Send + 'scope) {
        for _ in 0..count {
            self.seeds.set(self.seeds.get() + 1);
            let (world, mut dice) = (self.world, Dice(self.seeds.get() << 32));
            self.scope.spawn(move || {
                while !world.stopped() {
                    act(&mut dice);
                }
            });
        }
    }
}

/// Starts all of them; they end when the world is stopped.
pub fn start<'scope>(scope: &'scope Scope<'scope, '_>, world: &'scope World, place: &'scope Place) {
    let crew = Crew {
        scope,
        world,
        seeds: Cell::new(0),
    };
    crew.spawn(8, |d| world.read(d));
    crew.spawn(2, |d| world.hold(d));
    crew.spawn(3, |d| world.map(d));
    crew.spawn(2, |d| world.walk_changing(d));
    crew.spawn(1, |d| {
        world.walk(d, &world.path("static/many"), &many_names())
    });
    crew.spawn(2, |d| world.look(d));
    crew.spawn(2, |d| world.look_for_fickle(d));
    crew.spawn(1, |d| world.list_fickle(d));
    crew.spawn(2, |d| world.execute(d));
    crew.spawn(1, |d| world.kill(d));
    if rustix::process::geteuid().is_root() {
        crew.spawn(1, |d| world.bind(d, place));
    } else {
        println!("NOT RUN: bind mounts, which need root");
    }
    crew.spawn(1, |d| world.rewrite(d, 0));
    crew.spawn(1, |d| world.rewrite(d, 1));
    crew.spawn(1, |d| world.refresh(d, place));
    crew.spawn(1, |d| world.evict(d, place));
    crew.spawn(1, |d| world.drop_caches(d));
}
