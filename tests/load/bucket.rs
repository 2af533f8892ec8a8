//! An S3 bucket that nobody could fill in time: its keys and bytes are made up as they are asked
//! for, so a million of them cost nothing.
//!
//! `flat/` has files, `tree/` has directories with files, `big/` has files of one size.

use std::io::{BufRead, BufReader, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

/// What is in it.
#[derive(Debug, Clone, Copy)]
pub struct Shape {
    /// Files in `flat/`.
    pub flat: u64,
    /// Directories in `tree/`, and files in each.
    pub dirs: u64,
    pub files: u64,
    /// Files in `big/`, and the size of each.
    pub big: u64,
    pub big_size: u64,
}

struct Shared {
    shape: Shape,
    listings: AtomicU64,
    gets: AtomicU64,
    bytes: AtomicU64,
    /// Counts changes: of every thousandth file of `flat/`, the content.
    version: AtomicU64,
    stopped: AtomicBool,
}

/// A running server. Ends when dropped.
pub struct Bucket {
    port: u16,
    shared: Arc<Shared>,
}

/// Keys on a page, as everywhere.
const PAGE: u64 = 1000;

/// Of how many files of `flat/` one changes with the version.
const CHANGING: u64 = 1000;

pub fn flat_name(n: u64) -> String {
    format!("f{n:07}")
}

/// The size of a small file.
pub fn small_size(n: u64) -> u64 {
    n * 37 % 3000 + 1
}

/// The bytes of a file: no two files, and no two places of one, look alike.
pub fn content(seed: u64, range: std::ops::Range<u64>) -> Vec<u8> {
    let word = |at: u64| {
        let x = (at ^ seed.wrapping_mul(0x9E37_79B9_7F4A_7C15)).wrapping_mul(0xD6E8_FEB8_6659_FD93);
        (x ^ x >> 32).to_le_bytes()
    };
    let (first, last) = (range.start / 8, range.end.div_ceil(8));
    let mut bytes = Vec::with_capacity(((last - first) * 8) as usize);
    for at in first..last {
        bytes.extend_from_slice(&word(at));
    }
    let skipped = (range.start - first * 8) as usize;
    bytes.drain(..skipped);
    bytes.truncate((range.end - range.start) as usize);
    bytes
}

impl Bucket {
    pub fn start(shape: Shape) -> Bucket {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let shared = Arc::new(Shared {
            shape,
            listings: AtomicU64::new(0),
            gets: AtomicU64::new(0),
            bytes: AtomicU64::new(0),
            version: AtomicU64::new(0),
            stopped: AtomicBool::new(false),
        });
        let serving = shared.clone();
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                if serving.stopped.load(Ordering::SeqCst) {
                    return;
                }
                let Ok(stream) = stream else { continue };
                let _ = stream.set_nodelay(true);
                let shared = serving.clone();
                std::thread::spawn(move || {
                    let _ = converse(&stream, &shared);
                    let _ = stream.shutdown(Shutdown::Both);
                });
            }
        });
        Bucket { port, shared }
    }

    /// Arguments that mount a part of it.
    pub fn args(&self, prefix: &str) -> Vec<String> {
        let endpoint = format!("http://127.0.0.1:{}", self.port);
        [
            "--no-sign-request",
            "--region",
            "us-east-1",
            "--endpoint-url",
            &endpoint,
            &format!("s3://b/{prefix}"),
        ]
        .map(str::to_owned)
        .to_vec()
    }

    /// Pages listed so far.
    pub fn listings(&self) -> u64 {
        self.shared.listings.load(Ordering::SeqCst)
    }

    /// Requests for bytes so far.
    pub fn gets(&self) -> u64 {
        self.shared.gets.load(Ordering::SeqCst)
    }

    /// Bytes of files sent so far.
    pub fn bytes(&self) -> u64 {
        self.shared.bytes.load(Ordering::SeqCst)
    }

    /// Changes every thousandth file of `flat/`.
    pub fn change(&self) {
        self.shared.version.fetch_add(1, Ordering::SeqCst);
    }
}

impl Drop for Bucket {
    fn drop(&mut self) {
        self.shared.stopped.store(true, Ordering::SeqCst);
        let _ = TcpStream::connect(("127.0.0.1", self.port));
    }
}

fn converse(stream: &TcpStream, shared: &Shared) -> std::io::Result<()> {
    let mut lines = BufReader::new(stream.try_clone()?);
    loop {
        let mut first = String::new();
        if lines.read_line(&mut first)? == 0 {
            return Ok(());
        }
        let mut range = None;
        loop {
            let mut line = String::new();
            lines.read_line(&mut line)?;
            match line.trim_end().split_once(": ") {
                Some((name, value)) if name.eq_ignore_ascii_case("range") => {
                    range = value.strip_prefix("bytes=").map(str::to_owned);
                }
                Some(_) => {}
                None => break,
            }
        }
        let target = first.split_whitespace().nth(1).unwrap_or_default();
        let (path, query) = target.split_once('?').unwrap_or((target, ""));
        match path.strip_prefix("/b") {
            Some("" | "/") => list(stream, shared, query)?,
            Some(key) => get(stream, shared, key.trim_start_matches('/'), range)?,
            None => nothing(stream)?,
        }
    }
}

fn nothing(mut out: &TcpStream) -> std::io::Result<()> {
    let body = "<?xml version=\"1.0\"?><Error><Code>NoSuchKey</Code></Error>";
    let length = body.len();
    write!(
        out,
        "HTTP/1.1 404 Not Found\r\nContent-Length: {length}\r\n\r\n{body}"
    )
}

/// What a key stands for: a seed of its content, and its size.
fn object(shared: &Shared, key: &str) -> Option<(u64, u64)> {
    let Shape {
        flat,
        dirs,
        files,
        big,
        big_size,
    } = shared.shape;
    let number = |text: &str, before: char, below: u64| {
        let n: u64 = text.strip_prefix(before)?.parse().ok()?;
        (n < below).then_some(n)
    };
    match *key.split('/').collect::<Vec<_>>() {
        ["flat", name] => {
            let n = number(name, 'f', flat)?;
            let version = match n % CHANGING {
                0 => shared.version.load(Ordering::SeqCst),
                _ => 0,
            };
            Some((n + (version << 32), small_size(n)))
        }
        ["tree", dir, name] => {
            let (dir, file) = (number(dir, 'd', dirs)?, number(name, 'f', files)?);
            let n = dir * files + file;
            Some((n | 1 << 60, small_size(n)))
        }
        ["big", name] => Some((number(name, 'b', big)? | 1 << 61, big_size)),
        _ => None,
    }
}

fn etag(seed: u64) -> String {
    format!(
        "{seed:016x}{:016x}",
        seed.wrapping_mul(0x9E37_79B9_7F4A_7C15)
    )
}

fn list(mut out: &TcpStream, shared: &Shared, query: &str) -> std::io::Result<()> {
    shared.listings.fetch_add(1, Ordering::SeqCst);
    let of = |name: &str| {
        let mut pairs = query.split('&').filter_map(|pair| pair.split_once('='));
        let value = pairs.find(|(key, _)| *key == name)?.1;
        let plain = percent_encoding::percent_decode_str(value).decode_utf8_lossy();
        Some(plain.into_owned())
    };
    let prefix = of("prefix").unwrap_or_default();
    let from: u64 = of("continuation-token").map_or(0, |token| token.parse().unwrap());
    let Shape {
        flat,
        dirs,
        files,
        big,
        ..
    } = shared.shape;
    let tree = prefix
        .strip_prefix("tree/")
        .and_then(|d| d.strip_suffix('/'));
    // How many there are, and the key of each; those that end in a slash are directories.
    type Key<'a> = Box<dyn Fn(u64) -> String + 'a>;
    let (count, key): (u64, Key) = match (prefix.as_str(), tree) {
        // All below it, at whatever depth.
        ("tree/", _) if of("delimiter").is_none() => (
            dirs * files,
            Box::new(move |n| format!("tree/d{:06}/f{}", n / files, n % files)),
        ),
        ("", _) => (
            3,
            Box::new(|n| ["big/", "flat/", "tree/"][n as usize].into()),
        ),
        ("flat/", _) => (flat, Box::new(|n| format!("flat/{}", flat_name(n)))),
        ("tree/", _) => (dirs, Box::new(|n| format!("tree/d{n:06}/"))),
        ("big/", _) => (big, Box::new(|n| format!("big/b{n:05}"))),
        (_, Some(dir)) => (files, Box::new(move |n| format!("tree/{dir}/f{n}"))),
        _ => (0, Box::new(|_| String::new())),
    };
    let from = match of("start-after") {
        // Keys are in order; this is the number of those up to that one.
        Some(after) if from == 0 => {
            let (mut low, mut high) = (0, count);
            while low < high {
                let middle = u64::midpoint(low, high);
                match key(middle) <= after {
                    true => low = middle + 1,
                    false => high = middle,
                }
            }
            low
        }
        _ => from,
    };
    let to = count.min(from + PAGE);
    let mut page = String::from(
        "<?xml version=\"1.0\"?><ListBucketResult xmlns=\"http://s3.amazonaws.com/doc/2006-03-01/\">",
    );
    for n in from..to {
        use std::fmt::Write;
        let key = key(n);
        if key.ends_with('/') {
            let _ = write!(
                page,
                "<CommonPrefixes><Prefix>{key}</Prefix></CommonPrefixes>"
            );
        } else if let Some((seed, size)) = object(shared, &key) {
            let _ = write!(
                page,
                "<Contents><Key>{key}</Key><LastModified>2026-11-22T11:20:16.000Z</LastModified>\
                 <ETag>&quot;{}&quot;</ETag><Size>{size}</Size>\
                 <StorageClass>STANDARD</StorageClass></Contents>",
                etag(seed)
            );
        }
    }
    page += &match to < count {
        true => format!(
            "<IsTruncated>true</IsTruncated><NextContinuationToken>{to}</NextContinuationToken>"
        ),
        false => "<IsTruncated>false</IsTruncated>".to_owned(),
    };
    page += "</ListBucketResult>";
    let length = page.len();
    let head = "HTTP/1.1 200 OK\r\nContent-Type: application/xml\r\n";
    out.write_all(format!("{head}Content-Length: {length}\r\n\r\n{page}").as_bytes())
}

fn get(
    mut out: &TcpStream,
    shared: &Shared,
    key: &str,
    range: Option<String>,
) -> std::io::Result<()> {
    let Some((seed, size)) = object(shared, key) else {
        return nothing(out);
    };
    shared.gets.fetch_add(1, Ordering::SeqCst);
    let asked = range.as_ref().and_then(|range| {
        let (from, to) = range.split_once('-')?;
        let to = to.parse::<u64>().map_or(size, |to| (to + 1).min(size));
        Some(from.parse::<u64>().ok()?..to)
    });
    let (status, range) = match asked {
        Some(range) => ("206 Partial Content", range),
        None => ("200 OK", 0..size),
    };
    let mut head = format!("HTTP/1.1 {status}\r\nETag: \"{}\"\r\n", etag(seed));
    head += "Accept-Ranges: bytes\r\nLast-Modified: Sun, 22 Nov 2026 11:20:16 GMT\r\n";
    if status.starts_with("206") {
        head += &format!(
            "Content-Range: bytes {}-{}/{size}\r\n",
            range.start,
            range.end - 1
        );
    }
    head += &format!("Content-Length: {}\r\n\r\n", range.end - range.start);
    out.write_all(head.as_bytes())?;
    shared
        .bytes
        .fetch_add(range.end - range.start, Ordering::SeqCst);
    let mut at = range.start;
    while at < range.end {
        let to = range.end.min(at + (64 << 10));
        out.write_all(&content(seed, at..to))?;
        at = to;
    }
    Ok(())
}

/// What a file of `big/` holds.
pub fn big_content(n: u64, range: std::ops::Range<u64>) -> Vec<u8> {
    content(n | 1 << 61, range)
}
