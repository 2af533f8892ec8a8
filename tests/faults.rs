//! The fault laboratory itself, and what each of its faults becomes at a real mount of a real
//! server: this fault, this outcome.

mod common;

use std::io::{BufRead, BufReader, Error, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::time::{Duration, Instant};

use common::faults::http::HttpProxy;
use common::faults::tcp::{TcpFault, TcpProxy, Towards};
use common::faults::{Kind, Server, Tally};
use common::mount::{Mount, Place};
use common::s3::{ACCESS, SECRET, TestS3};
use common::web::TestNginx;
use common::{noise, wait_until};
use rustix::io::Errno;

/// A server of no protocol that the proxies know: it greets, and repeats each line in capitals.
fn echo() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        for client in listener.incoming().map_while(Result::ok) {
            std::thread::spawn(move || {
                let mut out = client.try_clone().unwrap();
                let _ = out.write_all(b"220 hello\n");
                for line in BufReader::new(client).lines().map_while(Result::ok) {
                    let _ = out.write_all(format!("{}\n", line.to_uppercase()).as_bytes());
                }
            });
        }
    });
    address
}

/// Connects, says a line of 100 bytes, ends, and returns all that comes.
fn talk(proxy: &TcpProxy) -> Result<Vec<u8>, Error> {
    let mut client = TcpStream::connect(proxy.address())?;
    client.set_read_timeout(Some(Duration::from_secs(2)))?;
    // A reset may come before all is said.
    let _ = client.write_all(&[&[b'a'; 99][..], b"\n"].concat());
    let _ = client.shutdown(std::net::Shutdown::Write);
    let mut heard = Vec::new();
    client.read_to_end(&mut heard)?;
    Ok(heard)
}

#[test]
fn the_lower_level_serves_any_protocol() {
    let tally = Tally::default();
    let proxy = TcpProxy::start(echo(), tally.clone());
    let all = [b"220 hello\n", &[b'A'; 99][..], b"\n"].concat();
    assert_eq!(talk(&proxy).unwrap(), all, "calm");

    let late = Duration::from_millis(300);
    proxy.plan(move |_| Some(TcpFault::Delay(late)));
    let started = Instant::now();
    assert_eq!(talk(&proxy).unwrap(), all, "delayed");
    assert!(started.elapsed() >= late);

    proxy.plan(|_| Some(TcpFault::Drip(10, Duration::from_millis(10))));
    let started = Instant::now();
    assert_eq!(talk(&proxy).unwrap(), all, "dripping");
    assert!(started.elapsed() >= Duration::from_millis(110));

    for n in [0, 5, 10, 60] {
        proxy.plan(move |_| Some(TcpFault::Cut(Towards::Client, n)));
        assert_eq!(talk(&proxy).unwrap(), all[..n as usize], "cut after {n}");
    }
    // What the server hears ends early, so it never sees the end of the line.
    proxy.plan(|_| Some(TcpFault::Cut(Towards::Server, 50)));
    let heard = talk(&proxy).unwrap();
    assert!(all.starts_with(&heard) && heard.len() <= 10, "{heard:?}");

    for towards in [Towards::Client, Towards::Server] {
        proxy.plan(move |_| Some(TcpFault::Reset(towards, 5)));
        let error = talk(&proxy).unwrap_err();
        assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset);
    }
    proxy.plan(|_| Some(TcpFault::Stall(Towards::Client, 10)));
    let error = talk(&proxy).unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::WouldBlock, "a time-out");
    // What hangs ends with the storm.
    let mut stuck = TcpStream::connect(proxy.address()).unwrap();
    let mut heard = [0; 10];
    stuck.read_exact(&mut heard).unwrap();
    let started = Instant::now();
    std::thread::scope(|scope| {
        scope.spawn(|| {
            std::thread::sleep(Duration::from_millis(200));
            proxy.calm();
        });
        assert!(!matches!(stuck.read(&mut heard), Ok(1..)));
    });
    assert!(started.elapsed() < Duration::from_secs(20));
    assert_eq!(talk(&proxy).unwrap(), all, "calm again");
    for name in TcpFault::NAMES {
        assert!(tally.of(name) > 0, "{name}: {:?}", tally.counts());
    }
    assert_eq!(tally.of("tcp cut"), 5);
}

#[test]
fn a_storm_is_the_same_for_the_same_seed() {
    let faults = |seed: u64| -> Vec<_> {
        let tally = Tally::default();
        let proxy = TcpProxy::start(echo(), tally.clone());
        proxy.storm(seed, 500, 100);
        (0..12).map(|_| talk(&proxy).ok()).collect()
    };
    assert_eq!(faults(7), faults(7));
    assert_ne!(faults(7), faults(8));
}

/// How long a reader waits at the mounts here.
const TIMEOUT: &str = "2s";

/// Larger than what one request brings, so that a part of it is asked for.
const SIZE: usize = 6 << 20;

/// A file that one request brings whole.
const SMALL: usize = 40_000;

/// How many mounts are tried at once.
const AT_ONCE: usize = 12;

/// What comes of a fault.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Outcome {
    /// The right bytes.
    Right,
    /// This error.
    Fails(Errno),
}

use Outcome::{Fails, Right};

const EIO: Outcome = Fails(Errno::IO);
const ESTALE: Outcome = Fails(Errno::STALE);
const EACCES: Outcome = Fails(Errno::ACCESS);
const ETIMEDOUT: Outcome = Fails(Errno::TIMEDOUT);

fn outcome<T: PartialEq>(got: Result<T, Error>, right: &T) -> Outcome {
    match got {
        Ok(got) => {
            assert!(got == *right, "wrong bytes");
            Right
        }
        Err(error) => Fails(Errno::from_raw_os_error(error.raw_os_error().unwrap())),
    }
}

/// Arguments for a URL.
type Source = dyn Fn(&str) -> Vec<String> + Sync;

/// A real server, with what is mounted of it through a proxy.
struct Lab {
    upstream: String,
    server: Server,
    /// Returns the arguments that mount it at a URL.
    source: Box<Source>,
    place: Place,
}

/// A fault of every request, and what it becomes: for a read, and for a directory that nobody knows
/// yet.
type Case = (Kind, Outcome, Outcome);

impl Lab {
    fn proxy(&self) -> (HttpProxy, Tally) {
        let tally = Tally::default();
        let proxy = HttpProxy::start(&self.upstream, self.server.clone(), tally.clone());
        (proxy, tally)
    }

    fn mount(&self, name: &str, url: &str) -> Mount {
        let mut args: Vec<String> = [
            "--timeout",
            TIMEOUT,
            "--refresh",
            "1s",
            "--revalidate",
            "1s",
        ]
        .map(str::to_owned)
        .to_vec();
        args.extend((self.source)(url));
        let args: Vec<&str> = args.iter().map(String::as_str).collect();
        self.place.mount_with(name, &args, |command| {
            command
                .env("AWS_ACCESS_KEY_ID", ACCESS)
                .env("AWS_SECRET_ACCESS_KEY", SECRET);
        })
    }

    fn check(&self, cases: &[Case]) {
        for cases in cases.chunks(AT_ONCE) {
            std::thread::scope(|scope| {
                for case in cases {
                    scope.spawn(|| self.check_one(*case));
                }
            });
        }
    }

    fn check_one(&self, (kind, read, list): Case) {
        let what = kind.name();
        let (proxy, tally) = self.proxy();
        let mount = self.mount(&what.replace(' ', "-"), &proxy.url());
        let names = |dir: &str| -> Result<usize, Error> {
            let entries: Result<Vec<_>, _> = std::fs::read_dir(mount.path(dir))?.collect();
            Ok(entries?.len())
        };
        let bytes = |path: &str| std::fs::read(mount.path(path));
        // Once enough requests had no answer, the source is not asked for a while.
        // And what is asked for again may be at its reader's deadline first, on a busy machine.
        let or_unasked = |got: Outcome, want: Outcome| {
            got == want
                || (want == ETIMEDOUT && got == Fails(Errno::HOSTUNREACH))
                || (want == EIO && got == ETIMEDOUT && mount.log().contains("retrying"))
        };
        let (big, small) = (noise(1, SIZE), noise(2, SMALL));
        assert_eq!(names("d").unwrap(), 2, "{what}\n{}", mount.log());
        proxy.always(kind);
        let got = outcome(bytes("d/big"), &big);
        assert!(
            or_unasked(got, read),
            "{what}: read, {got:?}\n{}",
            mount.log()
        );
        let got = outcome(bytes("d/small"), &small);
        let fits = match kind {
            // It comes whole, and perhaps before anybody knows its ETag.
            Kind::Whole | Kind::OtherETag => or_unasked(got, read) || got == Right,
            Kind::SorryPage => got == read || got == ESTALE,
            _ => or_unasked(got, read),
        };
        assert!(fits, "{what}: small: {got:?}\n{}", mount.log());
        let got = outcome(names("e"), &1);
        assert!(or_unasked(got, list), "{what}: list: {got:?}");
        let got = outcome(mount.path("e/f").metadata().map(|m| m.len()), &1);
        assert!(or_unasked(got, list), "{what}: lookup: {got:?}");
        // What was known before still is.
        assert_eq!(names("d").unwrap(), 2, "{what}\n{}", mount.log());
        assert!(tally.of(&what) > 0, "{what} was never injected");
        proxy.calm();
        wait_until("the end of a fault", || {
            bytes("d/big").is_ok_and(|got| got == big)
                && bytes("d/small").is_ok_and(|got| got == small)
                && names("e").is_ok_and(|n| n == 1)
                && bytes("e/f").is_ok_and(|got| got == b"f")
        });
    }

    /// Reads a file under each fault of a single reply.
    fn check_once(&self, kinds: &[Kind]) {
        let (proxy, tally) = self.proxy();
        let mount = self.mount("once", &proxy.url());
        assert_eq!(mount.read("e/f"), b"f");
        for (i, kind) in kinds.iter().enumerate() {
            // Asked for already, so that it is the bytes that the fault strikes.
            mount.path(&format!("once-{i}/f")).metadata().unwrap();
            proxy.once(*kind);
            let got = mount.read(&format!("once-{i}/f"));
            assert!(got == noise(3 + i as u64, SMALL), "{}", kind.name());
            assert_eq!(tally.of(&kind.name()), 1, "{}", kind.name());
        }
    }
}

/// A transient failure of one reply, which a repetition mends.
const ONCE: &[Kind] = &[
    Kind::Reset,
    Kind::ResetInBody,
    Kind::Close,
    Kind::Cut,
    Kind::Status(429, None),
    Kind::Status(429, Some(1)),
    Kind::Status(500, None),
    Kind::Status(502, None),
    Kind::Status(503, None),
    Kind::Status(503, Some(1)),
    Kind::Status(504, None),
];

fn content() -> Vec<(String, Vec<u8>)> {
    let mut content = vec![
        ("d/big".to_owned(), noise(1, SIZE)),
        ("d/small".to_owned(), noise(2, SMALL)),
        ("e/f".to_owned(), b"f".to_vec()),
    ];
    // A directory each: of one that is read in order, the next would have come before its fault.
    let once = (0..ONCE.len()).map(|i| (format!("once-{i}/f"), noise(3 + i as u64, SMALL)));
    content.extend(once);
    content
}

fn s3() -> Lab {
    let s3 = TestS3::shared();
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let bucket = runtime.block_on(async {
        let bucket = s3.bucket("faults").await;
        s3.put_all(&bucket, content()).await;
        bucket
    });
    let source = move |url: &str| {
        let bucket = format!("s3://{bucket}");
        ["--region", "us-east-1", "--endpoint-url", url, &bucket]
            .map(str::to_owned)
            .to_vec()
    };
    Lab {
        upstream: s3.endpoint.clone(),
        server: Server::S3,
        source: Box::new(source),
        place: Place::new(),
    }
}

fn fill(web: &TestNginx) {
    for (path, bytes) in content() {
        let path = web.root.join(path);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(&path, bytes).unwrap();
        // Old enough for its time to count.
        let file = std::fs::File::options().append(true).open(&path).unwrap();
        let old = std::time::SystemTime::now() - Duration::from_secs(3600);
        file.set_modified(old).unwrap();
    }
}

fn web(nginx: &TestNginx) -> Lab {
    fill(nginx);
    Lab {
        upstream: nginx.url.clone(),
        server: Server::Web,
        source: Box::new(|url| vec![format!("{url}/json/")]),
        place: Place::new(),
    }
}

#[test]
fn each_fault_of_an_s3_service_has_its_outcome() {
    s3().check(&[
        // These take as long as a reader waits.
        (Kind::Stall, ETIMEDOUT, ETIMEDOUT),
        (Kind::StallInBody, ETIMEDOUT, ETIMEDOUT),
        (Kind::Reset, EIO, EIO),
        (Kind::Close, EIO, EIO),
        (Kind::Status(429, Some(1)), EIO, EIO),
        (Kind::Slow, Right, Right),
        (Kind::Delay, Right, Right),
        (Kind::Drip, Right, Right),
        (Kind::Tail, Right, Right),
        (Kind::Status(503, Some(600)), EIO, EIO),
        (Kind::Status(401, None), EACCES, EACCES),
        (Kind::Expired, EACCES, EACCES),
        (Kind::Status(412, None), ESTALE, Right),
        (Kind::Status(416, None), ESTALE, Right),
        (Kind::Gone, ESTALE, Right),
        (Kind::OtherETag, ESTALE, Right),
        (Kind::StrangersNotFound, EIO, EIO),
        (Kind::OtherRange, EIO, Right),
        (Kind::Whole, ESTALE, Right),
        (Kind::Short, EIO, EIO),
        (Kind::Long, EIO, Right),
        (Kind::SorryPage, EIO, EIO),
        (Kind::EmptyBody, Right, EIO),
        (Kind::EmptyPages, Right, EIO),
        (Kind::LoopingPages, Right, EIO),
    ]);
}

#[test]
fn each_fault_of_a_web_server_has_its_outcome() {
    let nginx = TestNginx::start();
    web(&nginx).check(&[
        (Kind::StallInBody, ETIMEDOUT, ETIMEDOUT),
        (Kind::Tail, Right, Right),
        (Kind::Status(412, None), ESTALE, Right),
        (Kind::Gone, ESTALE, Right),
        (Kind::OtherETag, ESTALE, Right),
        (Kind::OtherRange, EIO, Right),
        // It may not know ranges.
        (Kind::Whole, Right, Right),
        (Kind::Short, EIO, EIO),
        (Kind::Long, EIO, Right),
        (Kind::SorryPage, EIO, EIO),
        (Kind::EmptyBody, Right, EIO),
    ]);
}

#[test]
fn one_reply_that_fails_is_asked_for_again() {
    s3().check_once(ONCE);
    let nginx = TestNginx::start();
    web(&nginx).check_once(ONCE);
}

#[test]
fn a_page_that_says_sorry_to_everything_is_no_files_content() {
    let nginx = TestNginx::start();
    let lab = web(&nginx);
    let (proxy, tally) = lab.proxy();
    let mount = lab.mount("sorry", &proxy.url());
    let right = noise(2, SMALL);
    assert_eq!(mount.read("e/f"), b"f");
    assert_eq!(std::fs::read_dir(mount.path("d")).unwrap().count(), 2);
    // HEAD too: it tells another size, and neither ETag nor time, as the page itself does.
    proxy.answer_all(Kind::SorryPage);
    for _ in 0..30 {
        for path in ["d/small", "d/big", "e/f"] {
            match std::fs::read(mount.path(path)) {
                // From the cache.
                Ok(bytes) => assert!(path == "e/f" && bytes == b"f", "{path}: {bytes:?}"),
                Err(error) => {
                    let got = Errno::from_raw_os_error(error.raw_os_error().unwrap());
                    assert!(
                        got == Errno::IO || got == Errno::STALE,
                        "{path}: {error}\n{}",
                        mount.log()
                    );
                }
            }
        }
        assert_eq!(
            mount.path("d/small").metadata().map(|m| m.len()).unwrap(),
            SMALL as u64
        );
        std::thread::sleep(Duration::from_millis(100));
    }
    assert!(tally.of("http sorry page") > 10);
    proxy.calm();
    wait_until("the end of the page", || {
        std::fs::read(mount.path("d/small")).is_ok_and(|got| got == right)
    });
}

#[test]
fn what_was_lost_and_comes_again_is_compared_again() {
    let nginx = TestNginx::start();
    let root = &nginx.root;
    let (kept, promised, other) = (noise(1, 7 << 20), noise(2, 3 << 20), noise(3, 40 << 20));
    let mut sums = String::new();
    for (name, bytes) in [("kept", &kept), ("promised", &promised)] {
        std::fs::write(root.join(name), bytes).unwrap();
        let digest = ring::digest::digest(&ring::digest::SHA256, bytes);
        let hex: String = digest.as_ref().iter().map(|b| format!("{b:02x}")).collect();
        sums += &format!("{hex}  {name}\n");
    }
    std::fs::write(root.join("SHA256SUMS"), sums).unwrap();
    std::fs::create_dir(root.join("other")).unwrap();
    std::fs::write(root.join("other/f"), &other).unwrap();
    let tally = Tally::default();
    let server = Server::Manifest("/plain/SHA256SUMS".into());
    let proxy = HttpProxy::start(&nginx.url, server, tally.clone());
    let place = Place::new();
    let volume = format!(
        "apiVersion: sharedvolume.io/v1\nkind: Volume\nmetadata: {{name: v}}\nspec:\n  layers:\n\
         \x20 - http:\n      url: {0}/plain/\n\
         \x20     manifest: {{url: {0}/plain/SHA256SUMS, format: sha256sum}}\n\
         \x20 - path: /other\n    http: {{url: {1}/json/other/}}\n",
        proxy.url(),
        nginx.url
    );
    std::fs::write(place.path("v.yaml"), volume).unwrap();
    let config = place.path("v.yaml");
    let config = config.to_str().unwrap();
    // Room for one file on disk; the other one passes through a little memory.
    let mount = place.mount(&["--cache-size", "8MiB", "--memory", "64MiB", "-c", config]);
    let mut holds = std::fs::File::open(mount.path("kept")).unwrap();
    let mut bytes = Vec::new();
    holds.read_to_end(&mut bytes).unwrap();
    assert!(bytes == kept);
    let read = |file: &std::fs::File| {
        let _ = rustix::fs::fadvise(file, 0, None, rustix::fs::Advice::DontNeed);
        let mut bytes = vec![0; 3 << 20];
        std::os::unix::fs::FileExt::read_exact_at(file, &mut bytes, 0).map(|()| bytes)
    };
    let file = std::fs::File::open(mount.path("promised")).unwrap();
    assert!(read(&file).unwrap() == promised, "{}", mount.log());
    assert!(mount.read("other/f") == other, "drives it out of memory");
    proxy.always(Kind::WrongByte);
    let got = outcome(read(&file), &promised);
    assert_eq!(got, EIO, "{}", mount.log());
    assert!(tally.of("http wrong byte") > 0);
    drop(file);
    proxy.calm();
    wait_until("the right bytes", || {
        std::fs::read(mount.path("promised")).is_ok_and(|got| got == promised)
    });
}
