//! JuiceFS's volume. It keeps blocks of its own in a bucket, so it is filled with copies of the
//! same files; through the disk, whose layout is a bucket's, and then told that it is in S3.

use std::fs::{self, File};
use std::process::Command;

use crate::daemon::Daemon;
use crate::data::{self, LISTED_SIZE, Tree};
use crate::peers::installed;
use crate::world::World;

/// The bucket that it keeps its blocks in.
const BUCKET: &str = "jfs";

/// Fills a new volume; returns the address of its metadata.
pub fn fill(world: &World) -> String {
    println!("filling JuiceFS ...");
    let address = format!(
        "sqlite3://{}",
        world.dir.path().join("juicefs.db").display()
    );
    let bucket = world.dir.path().join("root").join(BUCKET);
    let run = |args: &[&str]| {
        let mut command = Command::new(installed("juicefs"));
        command.arg(args[0]).arg(&address).args(&args[1..]);
        let output = command.output().expect("juicefs: run tests/setup.sh bench");
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{command:?}: {said}");
    };
    let bucket_on_disk = format!("{}/", bucket.display());
    run(&[
        "format",
        "volume",
        "--storage",
        "file",
        "--bucket",
        &bucket_on_disk,
        "--trash-days",
        "0",
    ]);

    let at = world.fresh("juicefs");
    let mut mount = Command::new(installed("juicefs"));
    mount.arg("mount").arg(&address).arg(&at);
    mount.args([
        "--cache-size",
        "0",
        "--no-usage-report",
        "--backup-meta",
        "0",
    ]);
    let daemon = Daemon::spawn(mount, at).wait();
    let source = world.object("");
    let real = data::walk(&source).into_iter().map(|key| (key, true));
    let keys: Vec<_> = real
        .chain(Tree::new(1).keys().map(|key| (key, false)))
        .collect();
    let next = std::sync::atomic::AtomicUsize::new(0);
    let copy = || {
        while let Some((key, real)) =
            keys.get(next.fetch_add(1, std::sync::atomic::Ordering::Relaxed))
        {
            let to = daemon.at.join(key);
            fs::create_dir_all(to.parent().unwrap()).unwrap();
            let mut file = File::create(&to).unwrap();
            match real {
                true => {
                    let mut from = File::open(source.join(key)).unwrap();
                    std::io::copy(&mut from, &mut file).unwrap();
                    let time = from.metadata().unwrap().modified().unwrap();
                    file.set_modified(time).unwrap();
                }
                false => file.set_len(LISTED_SIZE).unwrap(),
            }
        }
    };
    std::thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(copy);
        }
    });
    drop(daemon);
    run(&[
        "config",
        "--storage",
        "s3",
        "--bucket",
        &format!("{}/{BUCKET}", world.near),
        "--access-key",
        "anonymous",
        "--secret-key",
        "none",
        "--force",
        "--yes",
    ]);
    address
}
