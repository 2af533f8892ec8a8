//! What is read: a bucket on an nginx that speaks the read side of S3 (see `nginx.conf` and
//! `s3.lua`), near and behind a proxy that delays; and the truth about it.

use std::fmt::Write as _;
use std::fs;
use std::io::{Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use crate::data::{self, LARGE, LISTED_SIZE, Tree, Truth};
use crate::delay::Delay;
use crate::juicefs;
use crate::settings::Settings;
use crate::sftp::Sftp;

/// The bucket's name.
pub const BUCKET: &str = "bench";

/// How far away the server is when it is far.
pub const ROUND_TRIP: Duration = Duration::from_millis(20);

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
    /// What the files hold.
    pub truth: Truth,
    juicefs: OnceLock<String>,
    sftp: OnceLock<Sftp>,
    archive: OnceLock<String>,
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
        let truth = data::make(&bucket, settings);
        write_index(&bucket, settings, &dir.path().join("index"));
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
            truth,
            juicefs: OnceLock::new(),
            sftp: OnceLock::new(),
            archive: OnceLock::new(),
        }
    }

    /// Returns the address of JuiceFS's metadata; its volume is filled when this is first called.
    pub fn juicefs(&self) -> &str {
        self.juicefs.get_or_init(|| juicefs::fill(self))
    }

    /// Returns the path on the server of an archive of the large and the small files; it is made
    /// when this is first called.
    pub fn archive(&self) -> &str {
        self.archive.get_or_init(|| {
            let path = "archive/all.tar";
            let file = self.dir.path().join("root").join(path);
            fs::create_dir_all(file.parent().unwrap()).unwrap();
            let mut tar = Command::new("tar");
            tar.arg("-C").arg(self.object("")).arg("-cf").arg(file);
            assert!(tar.args([LARGE, "small"]).status().unwrap().success());
            path.to_owned()
        })
    }

    /// Returns the SFTP server; it starts when this is first called.
    pub fn sftp(&self) -> &Sftp {
        self.sftp
            .get_or_init(|| Sftp::new(&self.dir.path().join("sftp")))
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
#[derive(Debug, Clone, Copy, Default, Serialize, Deserialize)]
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

/// Writes what the server knows of the bucket's keys, in their order.
fn write_index(bucket: &Path, settings: &Settings, to: &Path) {
    let mut keys = data::walk(bucket);
    for times in settings.growth.iter().chain([&1]) {
        keys.extend(Tree::new(*times).keys());
    }
    keys.sort_unstable();
    let mut index = String::new();
    for key in keys {
        // Those that are only listed have no file.
        let (size, time) = match fs::metadata(bucket.join(&key)) {
            Ok(meta) => (meta.len(), meta.mtime()),
            Err(_) => (LISTED_SIZE, 1_700_000_000),
        };
        writeln!(index, "{BUCKET} {key} {size} {time}").unwrap();
    }
    fs::write(to, index).unwrap();
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
