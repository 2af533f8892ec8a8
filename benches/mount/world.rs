//! What is read: a bucket with one large file and many small ones, on an nginx that speaks the read
//! side of S3 (see `nginx.conf` and `s3.lua`), and the truth about it.

use std::fmt::Write as _;
use std::fs::{self, File};
use std::io::{Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use crate::delay::Delay;
use crate::load::{CHUNK, sum};
use crate::settings::Settings;

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
pub const MANY: (usize, usize) = (200, 100);

/// The size that they are listed with, in bytes.
pub const MANY_SIZE: u64 = 4096;

/// Returns the keys of the objects that are listed and not read, sorted.
pub fn many() -> impl Iterator<Item = String> {
    (0..MANY.0).flat_map(|p| (0..MANY.1).map(move |o| format!("many/{p:03}/{o:05}")))
}

/// Where the server is.
#[derive(Clone, Copy, PartialEq)]
pub enum Place {
    /// On this machine.
    Near,
    /// [`ROUND_TRIP`] away.
    Far,
}

impl Place {
    /// All places.
    pub const ALL: [Place; 2] = [Place::Near, Place::Far];

    /// Returns its name in settings.
    pub fn name(self) -> &'static str {
        match self {
            Place::Near => "near",
            Place::Far => "far",
        }
    }

    /// Returns its round trip, as titles have it.
    pub fn distance(self) -> &'static str {
        match self {
            Place::Near => "0 ms",
            Place::Far => "20 ms",
        }
    }
}

/// The server and what it serves; gone when dropped.
pub struct World {
    server: Child,
    /// Where everything is; on the disk that `target` is on.
    pub dir: tempfile::TempDir,
    /// The server's URL.
    pub near: String,
    /// The same server, [`ROUND_TRIP`] away.
    pub far: String,
    _delay: Delay,
    port: u16,
    /// Another build of the program, to be compared with ours.
    pub other: Option<PathBuf>,
    /// The sums of the large file's chunks.
    pub large: Vec<u64>,
    /// The small files' keys below the bucket, sorted, with their sums.
    pub small: Vec<(String, u64)>,
}

impl World {
    /// Makes the data and starts the server.
    pub fn new(settings: &Settings) -> World {
        let dir = tempfile::Builder::new()
            .prefix("bench-")
            .tempdir_in(env!("CARGO_TARGET_TMPDIR"))
            .unwrap();
        let bucket = dir.path().join("root").join(BUCKET);
        fs::create_dir_all(&bucket).unwrap();
        println!("making data ...");
        let large = make_large(&bucket.join(LARGE), settings.large);
        let small = make_small(&bucket, settings.small);
        let mut index = String::new();
        let line = |index: &mut String, key: &str| {
            let meta = fs::metadata(bucket.join(key)).unwrap();
            writeln!(index, "{BUCKET} {key} {} {}", meta.len(), meta.mtime()).unwrap();
        };
        // In the order of keys.
        line(&mut index, LARGE);
        for key in many() {
            writeln!(index, "{BUCKET} {key} {MANY_SIZE} 1700000000").unwrap();
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
            near: format!("http://127.0.0.1:{port}"),
            port,
            other: settings.other.clone(),
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

    /// Returns the server's URL from a place.
    pub fn at(&self, place: Place) -> &str {
        match place {
            Place::Near => &self.near,
            Place::Far => &self.far,
        }
    }

    /// Returns the URL of an object.
    pub fn url(&self, place: Place, key: &str) -> String {
        format!("{}/{BUCKET}/{key}", self.at(place))
    }

    /// Returns where the server has an object's bytes.
    pub fn object(&self, key: &str) -> PathBuf {
        self.dir.path().join("root").join(BUCKET).join(key)
    }

    /// Returns the bytes that the server sent and the requests that it answered so far, without
    /// those of this kind.
    pub fn wire(&self) -> Wire {
        let mut stream = TcpStream::connect(("127.0.0.1", self.port)).unwrap();
        let request = b"GET /.count HTTP/1.0\r\n\r\n";
        stream.write_all(request).unwrap();
        let mut reply = String::new();
        stream.read_to_string(&mut reply).unwrap();
        let counts = reply.rsplit("\r\n\r\n").next().unwrap_or_default();
        let mut counts = counts.split_whitespace().map(|n| n.parse().unwrap());
        Wire {
            bytes: counts.next().unwrap(),
            requests: counts.next().unwrap(),
        }
    }
}

/// What went over the wire, as the server counts it: heads and bodies of replies.
#[derive(Debug, Clone, Copy, Default)]
pub struct Wire {
    /// Bytes sent.
    pub bytes: u64,
    /// Requests answered.
    pub requests: u64,
}

impl Wire {
    /// Returns what went over it since.
    pub fn since(self, before: Wire) -> Wire {
        Wire {
            bytes: self.bytes - before.bytes,
            requests: self.requests - before.requests,
        }
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
