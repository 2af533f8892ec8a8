//! What there is: files whose every byte follows from seed, path and version, on real servers
//! behind proxies, and who changes them.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime};

use crate::common::faults::http::HttpProxy;
use crate::common::faults::tcp::{TcpFault, TcpProxy, Towards};
use crate::common::faults::{Dice, Kind, Server, Tally};
use crate::common::s3::TestS3;
use crate::common::web::TestNginx;

/// The sizes of files: around the bounds of grains, packed objects, requests and blocks.
const SIZES: [u64; 11] = [
    0,
    1,
    100,
    4096,
    16_384,
    65_536,
    65_537,
    300_000,
    (1 << 20) + 1,
    3 << 20,
    9_000_000,
];

/// The directories of each tree.
const DIRS: [&str; 4] = ["", "a", "a/b", "c d"];

/// Where a file is kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Layer {
    S3,
    Web,
    /// With digests.
    Sums,
    /// Whose server also denies what it has: no client can tell.
    Told,
    /// The control: nothing stands before it.
    Local,
}

impl Layer {
    const ALL: [Layer; 5] = [
        Layer::S3,
        Layer::Web,
        Layer::Sums,
        Layer::Told,
        Layer::Local,
    ];

    /// Returns where it is grafted.
    pub fn graft(self) -> &'static str {
        match self {
            Layer::S3 => "s3",
            Layer::Web => "web",
            Layer::Sums => "sums",
            Layer::Told => "told",
            Layer::Local => "local",
        }
    }
}

/// A file, with all versions that it had.
#[derive(Debug)]
pub struct File {
    pub layer: Layer,
    /// Its path in the volume.
    pub path: String,
    /// Its path in its layer's own place.
    key: String,
    base: u64,
    seed: u64,
    /// The newest version that a reader may see.
    newest: AtomicU64,
    /// The newest one that has surely been stored.
    stored: AtomicU64,
    pub changes: bool,
}

impl File {
    pub fn newest(&self) -> u64 {
        self.newest.load(Ordering::SeqCst)
    }

    pub fn stored(&self) -> u64 {
        self.stored.load(Ordering::SeqCst)
    }

    /// Returns the size of a version: every other file keeps its size when it changes.
    pub fn size(&self, version: u64) -> u64 {
        match self.seed % 2 {
            0 => self.base,
            _ => self.base + (version * 37) % 1000,
        }
    }

    /// Returns the bytes of a version from `offset` on, as many as `len` or as there are.
    pub fn bytes(&self, version: u64, offset: u64, len: usize) -> Vec<u8> {
        let left = self.size(version).saturating_sub(offset);
        let mut bytes = vec![0; len.min(left as usize)];
        let mut hasher = blake3::Hasher::new();
        for part in [self.seed, version] {
            hasher.update(&part.to_le_bytes());
        }
        let mut stream = hasher.update(self.path.as_bytes()).finalize_xof();
        stream.set_position(offset);
        stream.fill(&mut bytes);
        bytes
    }

    fn whole(&self, version: u64) -> Vec<u8> {
        self.bytes(version, 0, usize::MAX)
    }
}

/// A real server with both levels of proxy before it.
pub struct Remote {
    pub name: &'static str,
    pub http: HttpProxy,
    pub tcp: TcpProxy,
    pub tally: Tally,
    server: Server,
    lies: bool,
}

impl Remote {
    fn start(name: &'static str, upstream: &str, server: Server, lies: bool) -> Remote {
        let tally = Tally::default();
        let http = HttpProxy::start(upstream, server.clone(), tally.clone());
        let tcp = TcpProxy::start(http.address(), tally.clone());
        Remote {
            name,
            http,
            tcp,
            tally,
            server,
            lies,
        }
    }

    fn address(&self) -> SocketAddr {
        self.tcp.address()
    }

    /// Returns the kinds that strike here.
    pub fn kinds(&self) -> Vec<Kind> {
        let mut kinds = HttpProxy::fitting(&self.server, Kind::TELLABLE);
        if self.lies {
            kinds.extend_from_slice(Kind::LIES);
        }
        if kinds.contains(&Kind::WrongByte) {
            // Only this server's files have digests, and few of its requests are for bytes.
            kinds.extend([Kind::WrongByte; 5]);
        }
        kinds
    }

    /// Lets a storm begin.
    pub fn storm(&self, seed: u64) {
        self.http.storm(seed, 200, &self.kinds());
    }

    /// Lets the storm be as strong as the dice have it; with `busy`, strong and never silent.
    pub fn weather(&self, dice: &mut Dice, busy: bool) {
        let seed = dice.next();
        match dice.below(8) {
            _ if busy => {
                self.http.strength(400);
                self.tcp.storm(seed, 100, 2 << 20);
            }
            // Nothing answers.
            0 => self.tcp.plan(move |n| {
                Some(match Dice::new(seed, &[n]).below(2) {
                    0 => TcpFault::Stall(Towards::Client, 0),
                    _ => TcpFault::Reset(Towards::Client, 0),
                })
            }),
            1..=3 => {
                self.http.strength(400);
                self.tcp.storm(seed, 100, 2 << 20);
            }
            4..=6 => {
                self.http.strength(150);
                self.tcp.storm(seed, 50, 2 << 20);
            }
            _ => {
                self.http.strength(30);
                self.tcp.storm(seed, 10, 2 << 20);
            }
        }
    }

    pub fn calm(&self) {
        self.http.calm();
        self.tcp.calm();
    }
}

/// All of it.
pub struct World {
    pub files: Vec<File>,
    /// The names in each directory of the volume, and whether a dead layer may hide some.
    pub dirs: BTreeMap<String, BTreeSet<String>>,
    pub remotes: Vec<Remote>,
    local: PathBuf,
    nginx: TestNginx,
    s3: &'static TestS3,
    bucket: String,
    runtime: tokio::runtime::Runtime,
}

/// The directory that a local layer and an S3 one share.
pub const MIX: &str = "mix";

impl World {
    /// Fills the servers; `local` is an empty directory.
    pub fn new(seed: u64, local: &Path) -> World {
        let mut files = Vec::new();
        let mut add = |layer: Layer, path: String, key: String, base: u64, n: usize| {
            let mut dice = Dice::new(seed, &[layer as u64, n as u64]);
            files.push(File {
                changes: !matches!(layer, Layer::Local | Layer::Sums)
                    && base >= 100
                    && n.is_multiple_of(2),
                layer,
                path,
                key,
                base,
                seed: dice.next(),
                newest: AtomicU64::new(0),
                stored: AtomicU64::new(0),
            });
        };
        for layer in Layer::ALL {
            for (n, size) in SIZES.iter().chain(&SIZES[2..8]).enumerate() {
                let dir = DIRS[n % DIRS.len()];
                let inner = format!("{dir}/f {n}.bin");
                let inner = inner.trim_start_matches('/');
                let graft = layer.graft();
                let path = format!("{graft}/{inner}");
                add(layer, path.clone(), path, *size, n);
            }
        }
        for n in 0..6 {
            let sub = if n % 2 == 0 { "" } else { "sub/" };
            for layer in [Layer::Local, Layer::S3] {
                let path = format!("{MIX}/{sub}{}-{n}", layer.graft());
                add(layer, path.clone(), path, SIZES[2 + n], 100 + n);
            }
        }
        let mut dirs: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
        for file in &files {
            let mut path = file.path.as_str();
            while !path.is_empty() {
                let (dir, name) = path.rsplit_once('/').unwrap_or(("", path));
                dirs.entry(dir.to_owned()).or_default().insert(name.into());
                path = dir;
            }
        }
        let s3 = TestS3::shared();
        let nginx = TestNginx::start();
        let runtime = tokio::runtime::Builder::new_current_thread();
        let runtime = { runtime }.enable_all().build().unwrap();
        let manifest = "/plain/sums/SHA256SUMS";
        let remotes = vec![
            Remote::start("s3", &s3.endpoint, Server::S3, false),
            Remote::start("web", &nginx.url, Server::Web, false),
            Remote::start("sums", &nginx.url, Server::Manifest(manifest.into()), false),
            Remote::start("told", &nginx.url, Server::Web, true),
        ];
        let world = World {
            bucket: runtime.block_on(s3.bucket("soak")),
            files,
            dirs,
            remotes,
            local: local.to_owned(),
            nginx,
            s3,
            runtime,
        };
        let mut sums = String::new();
        for file in &world.files {
            world.store(file, 0);
            if file.layer == Layer::Sums {
                let digest = ring::digest::digest(&ring::digest::SHA256, &file.whole(0));
                let hex: String = digest.as_ref().iter().map(|b| format!("{b:02x}")).collect();
                let path = file.key.strip_prefix("sums/").unwrap();
                sums += &format!("{hex}  {path}\n");
            }
        }
        std::fs::write(world.nginx.root.join("sums/SHA256SUMS"), sums).unwrap();
        world
    }

    /// Returns the volume: a layer for each tree, and a directory of two layers.
    pub fn volume(&self) -> String {
        let url = |name: &str| {
            let remote = self.remotes.iter().find(|r| r.name == name).unwrap();
            format!("http://{}", remote.address())
        };
        let s3 = |prefix: &str| {
            format!(
                "s3: {{bucket: {}, prefix: {prefix}, region: us-east-1, endpointUrl: '{}'}}",
                self.bucket,
                url("s3")
            )
        };
        let local = |dir: &str| format!("local: {{path: '{}'}}", self.local.join(dir).display());
        let layers = [
            ("s3", s3("s3")),
            (
                "web",
                format!("http: {{url: '{}/json/web/', index: json}}", url("web")),
            ),
            (
                "sums",
                format!(
                    "http: {{url: '{0}/plain/sums/', manifest: {{url: '{0}/plain/sums/SHA256SUMS', \
                     format: sha256sum}}}}",
                    url("sums")
                ),
            ),
            (
                "told",
                format!("http: {{url: '{}/json/told/', index: json}}", url("told")),
            ),
            ("local", local("local")),
            (MIX, local(MIX)),
            (MIX, s3(MIX)),
        ];
        let mut volume = "apiVersion: sharedvolume.io/v1\nkind: Volume\nmetadata: {name: soak}\n\
                          spec:\n  layers:\n"
            .to_owned();
        for (path, source) in layers {
            volume += &format!("  - path: /{path}\n    {source}\n");
        }
        volume
    }

    /// Changes a file at its server, past the proxies.
    pub fn overwrite(&self, file: &File) {
        let version = file.newest.fetch_add(1, Ordering::SeqCst) + 1;
        self.store(file, version);
        file.stored.store(version, Ordering::SeqCst);
    }

    fn store(&self, file: &File, version: u64) {
        let bytes = file.whole(version);
        let place = match file.layer {
            Layer::S3 => {
                let put = self.s3.put(&self.bucket, &file.key, bytes);
                return self.runtime.block_on(put);
            }
            Layer::Local => self.local.join(&file.key),
            _ => self.nginx.root.join(&file.key),
        };
        std::fs::create_dir_all(place.parent().unwrap()).unwrap();
        // Whole, and with a time of its own: nginx's ETags are made of time and size.
        let new = self.nginx.root.join(".new");
        std::fs::write(&new, bytes).unwrap();
        let time = SystemTime::UNIX_EPOCH + Duration::from_secs(1_600_000_000 + version * 10);
        let opened = std::fs::File::options().append(true).open(&new).unwrap();
        opened.set_modified(time).unwrap();
        if std::fs::rename(&new, &place).is_err() {
            // On another file system.
            std::fs::copy(&new, &place).unwrap();
        }
    }
}
