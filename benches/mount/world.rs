//! What is read: a bucket with one large file and many small ones, on an nginx that speaks the read
//! side of S3 (see `nginx.conf` and `s3.lua`), and the truth about it.

use std::fmt::Write as _;
use std::fs::{self, File};
use std::io::Write as _;
use std::net::{TcpListener, TcpStream};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use crate::Scale;
use crate::delay::Delay;
use crate::load::{CHUNK, sum};

/// The bucket's name.
pub const BUCKET: &str = "bench";

/// The large object's key.
pub const LARGE: &str = "large.bin";

/// The size of a small file in bytes.
pub const SMALL_SIZE: usize = 16 << 10;

/// Small files in each directory.
const PER_DIRECTORY: usize = 100;

/// How far away the server is when it is far.
pub const ROUND_TRIP: Duration = Duration::from_millis(20);

/// The objects that are listed and not read, `many/PREFIX/NAME`: in how many prefixes, and how
/// many in each.
const MANY: (usize, usize) = (200, 100);

/// The server and what it serves; gone when dropped.
pub struct World {
    server: Child,
    /// Where everything is; on the disk that `target` is on.
    pub dir: tempfile::TempDir,
    /// The server's URL.
    pub endpoint: String,
    /// The same server, [`ROUND_TRIP`] away.
    pub far: String,
    _delay: Delay,
    /// Another build of the program, to be compared with ours.
    pub other: Option<PathBuf>,
    /// The sums of the large file's chunks.
    pub large: Vec<u64>,
    /// The small files' keys below the bucket, sorted, with their sums.
    pub small: Vec<(String, u64)>,
}

impl World {
    /// Makes the data and starts the server.
    pub fn new(scale: &Scale) -> World {
        let dir = tempfile::Builder::new()
            .prefix("bench-")
            .tempdir_in(env!("CARGO_TARGET_TMPDIR"))
            .unwrap();
        let bucket = dir.path().join("root").join(BUCKET);
        fs::create_dir_all(&bucket).unwrap();
        println!("making data ...");
        let large = make_large(&bucket.join(LARGE), scale.large);
        let small = make_small(&bucket, scale.small);
        let mut index = String::new();
        let line = |index: &mut String, key: &str| {
            let meta = fs::metadata(bucket.join(key)).unwrap();
            writeln!(index, "{BUCKET} {key} {} {}", meta.len(), meta.mtime()).unwrap();
        };
        // In the order of keys.
        line(&mut index, LARGE);
        for (prefix, object) in (0..MANY.0).flat_map(|p| (0..MANY.1).map(move |o| (p, o))) {
            writeln!(
                index,
                "{BUCKET} many/{prefix:03}/{object:05} 4096 1700000000"
            )
            .unwrap();
        }
        for (key, _) in &small {
            line(&mut index, key);
        }
        fs::write(dir.path().join("index"), index).unwrap();
        rustix::fs::sync();
        let (server, port) = serve(dir.path());
        let delay = Delay::new(([127, 0, 0, 1], port).into(), ROUND_TRIP);
        World {
            server,
            far: format!("http://{}", delay.at),
            _delay: delay,
            dir,
            endpoint: format!("http://127.0.0.1:{port}"),
            other: std::env::var_os("SVOL_BENCH_OTHER").map(PathBuf::from),
            large,
            small,
        }
    }

    /// Returns a path that nothing is at yet.
    pub fn fresh(&self, what: &str) -> PathBuf {
        use std::sync::atomic::{AtomicU32, Ordering};
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let n = NEXT.fetch_add(1, Ordering::Relaxed);
        self.dir.path().join(format!("{what}-{n}"))
    }

    /// Returns the URL of an object.
    pub fn url(&self, key: &str) -> String {
        format!("{}/{BUCKET}/{key}", self.endpoint)
    }
}

impl Drop for World {
    fn drop(&mut self) {
        let _ = self.server.kill();
        let _ = self.server.wait();
    }
}

/// Fills `bytes` with what no compression shortens; the same for the same seed.
fn noise(seed: u64, bytes: &mut [u8]) {
    let mut hasher = blake3::Hasher::new();
    hasher.update(&seed.to_le_bytes());
    hasher.finalize_xof().fill(bytes);
}

fn make_large(path: &Path, size: u64) -> Vec<u64> {
    let mut file = File::create(path).unwrap();
    let mut chunk = vec![0; CHUNK];
    (0..size.div_ceil(CHUNK as u64))
        .map(|seed| {
            noise(seed, &mut chunk);
            file.write_all(&chunk).unwrap();
            sum(&chunk)
        })
        .collect()
}

fn make_small(bucket: &Path, count: usize) -> Vec<(String, u64)> {
    let mut bytes = vec![0; SMALL_SIZE];
    (0..count)
        .map(|n| {
            let dir = format!("small/{:03}", n / PER_DIRECTORY);
            if n % PER_DIRECTORY == 0 {
                fs::create_dir_all(bucket.join(&dir)).unwrap();
            }
            let key = format!("{dir}/{n:06}");
            noise(1 << 40 | n as u64, &mut bytes);
            fs::write(bucket.join(&key), &bytes).unwrap();
            (key, sum(&bytes))
        })
        .collect()
}

fn serve(dir: &Path) -> (Child, u16) {
    fs::write(dir.join("s3.lua"), include_str!("s3.lua")).unwrap();
    for _ in 0..3 {
        let free = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = free.local_addr().unwrap().port();
        drop(free);
        // As root, nginx would serve as a user who cannot read our directories.
        let user = match rustix::process::geteuid().is_root() {
            true => "user root;",
            false => "",
        };
        let config = include_str!("nginx.conf")
            .replace("@DIR@", dir.to_str().unwrap())
            .replace("@PORT@", &port.to_string())
            .replace("@USER@", user);
        fs::write(dir.join("nginx.conf"), config).unwrap();
        let mut child = Command::new("/usr/sbin/nginx")
            .arg("-e")
            .arg(dir.join("errors"))
            .arg("-c")
            .arg(dir.join("nginx.conf"))
            .stdin(Stdio::null())
            .spawn()
            .expect("nginx is not installed: run tests/setup.sh bench");
        let started = Instant::now();
        while started.elapsed() < Duration::from_secs(30) {
            if let Ok(Some(_)) = child.try_wait() {
                break;
            }
            if TcpStream::connect(("127.0.0.1", port)).is_ok() {
                return (child, port);
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        let _ = child.kill();
        let _ = child.wait();
    }
    let errors = fs::read_to_string(dir.join("errors")).unwrap_or_default();
    panic!("nginx does not start: {errors}");
}
