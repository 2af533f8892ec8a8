//! What mounts do when their cache's disk fills up, breaks, becomes read-only, is deleted or taken
//! away under them: readers get the right bytes all the same, `svol status` and the log say what is
//! wrong, and a new mount works at once, as soon as there is a disk again with what it held.
//!
//! `SVOL_DISK_ROUNDS` asks for more rounds of random faults.

mod common;

use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use common::chaos::{CacheCommand, Compared, Dice, File, disk_usage, files, number};
use common::disk::{Call, Disk, Faults, in_own_mounts, make_image};
use common::mount::{Mount, Place};
use common::store::Store;
use common::wait_until;
use rustix::io::Errno;

/// How long a mount may take on a machine that is busy with other things.
const AT_ONCE: Duration = Duration::from_secs(20);

/// How the system and SQLite say what is wrong with a disk.
const BROKEN: &[&str] = &["Input/output error", "disk I/O error"];
const FULL: &[&str] = &["No space left", "disk is full"];
const READ_ONLY: &[&str] = &[
    "Read-only file system",
    "readonly database",
    "disk I/O error",
];

const EXT4: &[&str] = &["mkfs.ext4", "-q", "-E", "lazy_itable_init=0"];

/// A volume and where its cache is.
struct World {
    place: Place,
    store: Store,
    files: Vec<File>,
    compared: Compared,
    cache: PathBuf,
}

impl World {
    /// `disk` makes the disk in a place, and the cache is on it.
    fn new(name: &str, disk: impl FnOnce(&Place, &Path) -> Disk) -> (World, Disk) {
        let place = Place::new();
        let mut dice = Dice::seeded(name);
        let files = files("d", 4, &mut dice);
        let objects = files.iter().map(|f| (f.path.as_str(), f.bytes.clone()));
        let store = Store::with(objects);
        let at = place.path("disk");
        let disk = disk(&place, &at);
        let world = World {
            cache: at.join("cache"),
            place,
            store,
            files,
            compared: Compared::default(),
        };
        (world, disk)
    }

    fn image(name: &str, bytes: u64, options: &str) -> (World, Disk) {
        World::new(name, |place, at| {
            let image = place.path("disk.img");
            make_image(&image, bytes, EXT4);
            Disk::image(&image, at, options)
        })
    }

    fn mount(&self) -> Mount {
        self.mount_with(|_| {})
    }

    fn mount_with(&self, adjust: impl FnOnce(&mut std::process::Command)) -> Mount {
        let begun = Instant::now();
        let mount = self
            .place
            .mount_with("mnt", &[&self.store.tree()], |command| {
                command.env("SVOL_CACHE_DIR", &self.cache);
                command.env("SVOL_CACHE_SIZE", "1GiB");
                adjust(command);
            });
        let took = begun.elapsed();
        assert!(took < AT_ONCE, "{took:?}");
        mount
    }

    fn read_all(&self, mount: &Mount) {
        self.compared.all(mount, &self.files);
        forget_pages(mount.at());
    }

    fn status(&self, what: &str) -> serde_json::Value {
        self.place.status()["cache"][what].clone()
    }

    /// The trouble is counted, shown and logged.
    fn expect_told(&self, mount: &Mount, parts: &[&str]) {
        let troubles = self.status("troubles").as_u64().unwrap();
        assert!(troubles > 0, "{}", mount.log());
        let last = self.status("lastTrouble");
        assert!(
            last.as_str()
                .is_some_and(|l| l.contains("the cache cannot")),
            "{last}"
        );
        let text = self.place.ok(["status"]);
        assert!(text.contains("the cache cannot"), "{text}");
        let log = mount.log();
        let said = |line: &str| parts.iter().any(|part| line.contains(part));
        let mut lines = log.lines().filter(|line| line.contains("the cache cannot"));
        assert!(lines.any(said), "none of {parts:?} in\n{log}");
    }

    /// A mount anew works at once, and after it all is kept again, clean and accounted for.
    fn expect_well_after(&self) {
        let mut mount = self.mount();
        self.read_all(&mount);
        // In time nothing is asked of the source any more.
        wait_until("all is kept", || {
            let asked = self.store.asked_bytes();
            self.read_all(&mount);
            asked == self.store.asked_bytes()
        });
        mount.signal(rustix::process::Signal::TERM);
        drop(mount);
        let cached = CacheCommand {
            place: &self.place,
            dir: &self.cache,
            limit: "1GiB",
        };
        // What was written badly may be there still, where nobody has read it.
        cached.verify();
        let (clean, said) = cached.verify();
        assert!(clean, "{said}");
        cached.gc();
        assert_eq!(cached.used(), disk_usage(&self.cache));
    }

    fn report(&self, what: &str) {
        println!(
            "{what}: {} MiB compared, 0 wrong",
            self.compared.bytes.load(Ordering::Relaxed) >> 20
        );
    }
}

/// Has the kernel drop what it holds of the mount, so that the daemon is asked again.
fn forget_pages(at: &Path) {
    for path in common::chaos::files_below(at) {
        if let Ok(file) = std::fs::File::open(path) {
            let _ = rustix::fs::fadvise(&file, 0, None, rustix::fs::Advice::DontNeed);
        }
    }
}

/// Fills a disk to its last byte.
fn fill_up(at: &Path) -> PathBuf {
    let hog = at.join("hog");
    let mut file = std::fs::File::options()
        .create(true)
        .append(true)
        .open(&hog)
        .unwrap();
    for size in [1 << 20, 4096, 512] {
        while file.write_all(&vec![1; size]).is_ok() {}
    }
    hog
}

fn full(name: &str, make: impl FnOnce(&Place, &Path) -> Disk) {
    let (world, disk) = World::new(name, make);
    let mount = world.mount();
    world.compared.all(&mount, &world.files[..20]);
    let hog = fill_up(disk.at());
    let began = Instant::now();
    for _ in 0..3 {
        world.read_all(&mount);
    }
    assert!(world.status("unkeptBytes").as_u64().unwrap() > 1 << 20);
    let text = world.place.ok(["status"]);
    assert!(text.contains("served but not kept"), "{text}");
    // Even a mount anew works, keeping nothing.
    drop(mount);
    let mount = world.mount();
    world.read_all(&mount);
    println!("{name}: three and one readings in {:?}", began.elapsed());
    // Room again: kept again, by a mount that was there before.
    drop(mount);
    std::fs::remove_file(hog).unwrap();
    world.expect_well_after();
    world.report(name);
}

#[test]
fn an_ext4_that_is_full() {
    if in_own_mounts("an_ext4_that_is_full") {
        full("an ext4 that is full", |place, at| {
            let image = place.path("disk.img");
            make_image(&image, 48 << 20, EXT4);
            Disk::image(&image, at, "noatime")
        });
    }
}

#[test]
fn a_tmpfs_that_is_full() {
    if in_own_mounts("a_tmpfs_that_is_full") {
        full("a tmpfs that is full", |_, at| Disk::memory(at, 48 << 20));
    }
}

#[test]
fn calls_that_fail_now_and_then() {
    if !in_own_mounts("calls_that_fail_now_and_then") {
        return;
    }
    let rounds = number("SVOL_DISK_ROUNDS").unwrap_or(4);
    let (world, disk) = World::image("calls that fail", 96 << 20, "noatime");
    let mut dice = Dice::seeded("calls that fail");
    std::fs::create_dir(&world.cache).unwrap();
    use std::os::unix::fs::PermissionsExt;
    std::fs::set_permissions(&world.cache, PermissionsExt::from_mode(0o700)).unwrap();
    let faults = Faults::new(world.place.dir.path(), disk.at());
    for round in 0..rounds {
        let mount = world.mount_with(|command| faults.preload(command));
        let mut said = Vec::new();
        for call in Call::ALL {
            // All of them fail, or some, or none.
            let one_in = *dice.one_of(&[0, 1, 2, 5, 30]);
            let error = *dice.one_of(&[Errno::IO, Errno::IO, Errno::NOSPC]);
            faults.one_in(call, one_in, error);
            if one_in > 0 {
                said.push(format!("1 in {one_in} {call:?} {error}"));
            }
        }
        world.read_all(&mount);
        world.read_all(&mount);
        let broken = Call::ALL.map(|call| faults.failed(call));
        if !said.is_empty() {
            wait_until("a fault", || {
                world.read_all(&mount);
                Call::ALL.iter().any(|call| faults.failed(*call) > 0)
            });
        }
        for call in Call::ALL {
            faults.one_in(call, 0, Errno::IO);
        }
        world.read_all(&mount);
        let troubles = world.status("troubles");
        println!(
            "round {round}: {}: {broken:?} failed so far, {troubles} troubles",
            said.join(", ")
        );
        drop(mount);
        if round % 2 == 0 {
            world.expect_well_after();
            std::fs::remove_dir_all(world.cache.join("v1")).unwrap();
        }
    }
    let failed: u32 = Call::ALL.map(|call| faults.failed(call)).iter().sum();
    assert!(failed > 10, "{failed}");
    world.report(&format!("{failed} calls that failed"));
}

#[test]
fn a_disk_of_which_every_write_fails_is_told() {
    if !in_own_mounts("a_disk_of_which_every_write_fails_is_told") {
        return;
    }
    for (error, parts) in [(Errno::IO, BROKEN), (Errno::NOSPC, FULL)] {
        let (world, disk) = World::image("every write fails", 96 << 20, "noatime");
        let faults = Faults::new(world.place.dir.path(), disk.at());
        let mount = world.mount_with(|command| faults.preload(command));
        world.compared.all(&mount, &world.files[..1]);
        faults.one_in(Call::Write, 1, error);
        world.read_all(&mount);
        wait_until("trouble", || {
            world.read_all(&mount);
            mount.log().contains("the cache cannot")
        });
        world.expect_told(&mount, parts);
        assert!(world.status("unkeptBytes").as_u64().unwrap() > 1 << 20);
        faults.one_in(Call::Write, 0, error);
        drop(mount);
        world.expect_well_after();
        world.report("every write fails");
    }
}

/// Shuts a file system down as it would itself after an error of its journal: every call on it is
/// an I/O error from then on. What was not written back is lost.
fn shut_down(at: &Path) {
    use rustix::ioctl;
    /// `FS_IOC_SHUTDOWN`.
    const SHUTDOWN: ioctl::Opcode = ioctl::opcode::read::<u32>(b'X', 125);
    const WITHOUT_FLUSHING: u32 = 2;
    let top = std::fs::File::open(at).unwrap();
    // SAFETY: takes a pointer to a u32, which lives long enough.
    unsafe {
        let how = ioctl::Setter::<SHUTDOWN, u32>::new(WITHOUT_FLUSHING);
        ioctl::ioctl(&top, how).unwrap();
    }
}

#[test]
fn a_disk_that_breaks() {
    if !in_own_mounts("a_disk_that_breaks") {
        return;
    }
    let (world, disk) = World::image("a disk that breaks", 96 << 20, "noatime,commit=1");
    let mount = world.mount();
    world.compared.all(&mount, &world.files[..20]);
    let over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        for _ in 0..2 {
            // What the kernel reads itself fails with the disk, until the first trouble is known.
            scope.spawn(|| {
                while !over.load(Ordering::Relaxed) {
                    world.compared.what_there_is(&mount, &world.files);
                    forget_pages(mount.at());
                }
            });
        }
        std::thread::sleep(Duration::from_millis(100));
        shut_down(disk.at());
        let told = || mount.log().contains("the cache cannot");
        let by = Instant::now() + Duration::from_secs(60);
        while !told() && Instant::now() < by {
            std::thread::sleep(Duration::from_millis(20));
        }
        over.store(true, Ordering::Relaxed);
    });
    world.read_all(&mount);
    world.expect_told(&mount, BROKEN);
    // A mount anew works, keeping nothing, and says so.
    drop(mount);
    let mount = world.mount();
    world.read_all(&mount);
    world.expect_told(&mount, &["on disk"]);
    drop(mount);
    // The disk is replaced by itself: what its journal holds is there.
    drop(disk);
    let image = world.place.path("disk.img");
    let _disk = Disk::image(&image, &world.place.path("disk"), "noatime");
    world.expect_well_after();
    world.report("a disk that breaks");
}

#[test]
fn a_disk_that_becomes_read_only() {
    if !in_own_mounts("a_disk_that_becomes_read_only") {
        return;
    }
    // What ext4 does when it finds itself damaged.
    let options = "noatime,errors=remount-ro";
    let (world, disk) = World::image("a disk that becomes read-only", 96 << 20, options);
    let mount = world.mount();
    world.compared.all(&mount, &world.files[..20]);
    let device = std::fs::read_to_string("/proc/self/mountinfo").unwrap();
    let at = disk.at().to_str().unwrap();
    let line = device.lines().find(|l| l.contains(at)).unwrap();
    let name = line.split(" - ext4 /dev/").nth(1).unwrap();
    let name = name.split(' ').next().unwrap();
    while_read(&world, &mount, || {
        std::thread::sleep(Duration::from_millis(100));
        let trigger = format!("/sys/fs/ext4/{name}/trigger_fs_error");
        std::fs::write(trigger, "made by a test").unwrap();
    });
    let probe = std::fs::write(disk.at().join("probe"), "");
    assert_eq!(
        probe.unwrap_err().raw_os_error(),
        Some(Errno::ROFS.raw_os_error())
    );
    world.read_all(&mount);
    wait_until("trouble", || mount.log().contains("the cache cannot"));
    world.expect_told(&mount, READ_ONLY);
    drop(mount);
    let mount = world.mount();
    world.read_all(&mount);
    world.expect_told(&mount, &["on disk"]);
    drop(mount);
    drop(disk);
    let image = world.place.path("disk.img");
    std::process::Command::new(common::process::program("e2fsck"))
        .args(["-fy".as_ref(), image.as_os_str()])
        .output()
        .unwrap();
    let _disk = Disk::image(&image, &world.place.path("disk"), "noatime");
    world.expect_well_after();
    world.report("a disk that becomes read-only");
}

#[test]
fn a_cache_that_is_deleted() {
    if !in_own_mounts("a_cache_that_is_deleted") {
        return;
    }
    let (world, _disk) = World::image("a cache that is deleted", 96 << 20, "noatime");
    let mount = world.mount();
    for round in 0..3 {
        world.compared.all(&mount, &world.files[..20]);
        while_read(&world, &mount, || {
            std::thread::sleep(Duration::from_millis(50 * round));
            // Somebody may be making files in it.
            wait_until("it is gone", || {
                let _ = std::fs::remove_dir_all(&world.cache);
                !world.cache.exists() || round == 2
            });
        });
        world.read_all(&mount);
    }
    wait_until("it is told", || mount.log().contains("removed or replaced"));
    world.expect_told(&mount, &["removed or replaced"]);
    drop(mount);
    world.expect_well_after();
    world.report("a cache that is deleted");
}

#[test]
fn a_disk_that_is_taken_away() {
    if !in_own_mounts("a_disk_that_is_taken_away") {
        return;
    }
    let (world, disk) = World::image("a disk that is taken away", 96 << 20, "noatime");
    let mount = world.mount();
    world.compared.all(&mount, &world.files[..20]);
    while_read(&world, &mount, || {
        std::thread::sleep(Duration::from_millis(100));
        disk.detach();
    });
    world.read_all(&mount);
    wait_until("it is told", || {
        world.read_all(&mount);
        mount.log().contains("removed or replaced")
    });
    world.expect_told(&mount, &["removed or replaced"]);
    drop(mount);
    // What is at its place is used as any other directory.
    world.expect_well_after();
    // And the disk, when it is back, as it was.
    let image = world.place.path("disk.img");
    let _disk = Disk::image(&image, &world.place.path("disk"), "noatime");
    world.expect_well_after();
    world.report("a disk that is taken away");
}

/// Does something while everything is read, over and over.
fn while_read(world: &World, mount: &Mount, what: impl FnOnce()) {
    let over = &AtomicBool::new(false);
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(move || {
                while !over.load(Ordering::Relaxed) {
                    world.read_all(mount);
                }
            });
        }
        what();
        std::thread::sleep(Duration::from_millis(100));
        over.store(true, Ordering::Relaxed);
    });
}
