//! Objects in memory, served on loopback as a web tree (`/t/`, nginx's JSON index) and as an S3
//! bucket (`b`), by a server that misbehaves where it is told to.
//!
//! Real servers refuse to be slow, silent or wrong at a given moment; this one does it on request,
//! and remembers what it was asked.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, SystemTime};

use percent_encoding::{NON_ALPHANUMERIC, percent_decode_str, utf8_percent_encode};

/// How it answers requests for a part of its objects.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Mood {
    /// As it should.
    Serve,
    /// Never, with the connection open.
    Silent,
    /// With this status and no content.
    Status(u16),
    /// With other bytes than those asked for, and says so.
    OtherRange,
    /// With all of an object, whatever part was asked for.
    NoRanges,
    /// With a body that ends early.
    Short,
    /// With so many bytes of a body, then nothing more.
    Stall(usize),
}

#[derive(Debug, Clone)]
struct Object {
    bytes: Arc<Vec<u8>>,
    etag: String,
    mtime: SystemTime,
}

/// A request that came.
#[derive(Debug, Clone)]
pub struct Seen {
    pub method: String,
    /// Path and query.
    pub target: String,
    pub range: Option<String>,
}

struct State {
    objects: BTreeMap<String, Object>,
    moods: Vec<(String, Mood)>,
    seen: Vec<Seen>,
    /// Waits this long before each 64 KiB of a body.
    pace: Duration,
    /// Whether it tells ETags.
    etags: bool,
    versions: u64,
    connections: Vec<TcpStream>,
}

struct Shared {
    state: Mutex<State>,
    stopped: AtomicBool,
}

/// A running server. Ends when dropped.
pub struct Store {
    port: u16,
    shared: Arc<Shared>,
}

/// 2020-01-01, and what objects without a time of their own are dated from.
const EPOCH: u64 = 1_577_836_800;

impl Store {
    /// Starts an empty one.
    pub fn start() -> Store {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let shared = Arc::new(Shared {
            state: Mutex::new(State {
                objects: BTreeMap::new(),
                moods: Vec::new(),
                seen: Vec::new(),
                pace: Duration::ZERO,
                etags: true,
                versions: 0,
                connections: Vec::new(),
            }),
            stopped: AtomicBool::new(false),
        });
        accept(listener, shared.clone());
        Store { port, shared }
    }

    /// Starts one that holds `objects`.
    pub fn with<'a>(objects: impl IntoIterator<Item = (&'a str, Vec<u8>)>) -> Store {
        let store = Store::start();
        for (key, bytes) in objects {
            store.put(key, bytes);
        }
        store
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.shared.state.lock().unwrap()
    }

    /// The URL of all objects as a tree.
    pub fn tree(&self) -> String {
        format!("http://127.0.0.1:{}/t/", self.port)
    }

    /// The URL of the S3 service, whose only bucket is `b`.
    pub fn endpoint(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    /// Arguments that mount the bucket.
    pub fn s3_args(&self) -> Vec<String> {
        [
            "--no-sign-request",
            "--region",
            "us-east-1",
            "--endpoint-url",
            &self.endpoint(),
            "s3://b",
        ]
        .map(str::to_owned)
        .to_vec()
    }

    /// Stores an object; each time it is a second younger than whatever came before.
    pub fn put(&self, key: &str, bytes: impl Into<Vec<u8>>) {
        let age = self.state().versions;
        self.put_at(key, bytes, EPOCH + age);
    }

    /// Stores an object with a time in seconds since the epoch.
    pub fn put_at(&self, key: &str, bytes: impl Into<Vec<u8>>, secs: u64) {
        let mut state = self.state();
        state.versions += 1;
        let object = Object {
            bytes: Arc::new(bytes.into()),
            etag: format!("\"v{}\"", state.versions),
            mtime: SystemTime::UNIX_EPOCH + Duration::from_secs(secs),
        };
        state.objects.insert(key.to_owned(), object);
    }

    pub fn remove(&self, key: &str) {
        self.state().objects.remove(key);
    }

    /// Sets how it answers for all objects and directories whose key begins with `prefix`.
    pub fn mood(&self, prefix: &str, mood: Mood) {
        let mut state = self.state();
        state.moods.retain(|(p, _)| p != prefix);
        state.moods.push((prefix.to_owned(), mood));
    }

    /// Waits this long before each 64 KiB of a body.
    pub fn pace(&self, pace: Duration) {
        self.state().pace = pace;
    }

    /// Tells no ETags, only times.
    pub fn without_etags(&self) {
        self.state().etags = false;
    }

    /// What was asked so far.
    pub fn seen(&self) -> Vec<Seen> {
        self.state().seen.clone()
    }

    /// How many requests came so far.
    pub fn requests(&self) -> usize {
        self.state().seen.len()
    }

    /// How many bytes of bodies requests with a range asked for so far.
    pub fn asked_bytes(&self) -> u64 {
        let ranges = self.seen().into_iter().filter_map(|s| s.range);
        ranges
            .filter_map(|r| {
                let (a, b) = r.strip_prefix("bytes=")?.split_once('-')?;
                Some(b.parse::<u64>().ok()? + 1 - a.parse::<u64>().ok()?)
            })
            .sum()
    }

    /// Stops it: connections break and new ones are refused.
    pub fn stop(&self) {
        self.shared.stopped.store(true, Ordering::SeqCst);
        // Wakes the acceptor, which then closes its socket.
        let _ = TcpStream::connect(("127.0.0.1", self.port));
        super::wait_until("the end of a server", || {
            TcpStream::connect(("127.0.0.1", self.port)).is_err()
        });
        for connection in self.state().connections.drain(..) {
            let _ = connection.shutdown(Shutdown::Both);
        }
    }

    /// Starts it again at the same port.
    pub fn resume(&self) {
        self.shared.stopped.store(false, Ordering::SeqCst);
        let listener = TcpListener::bind(("127.0.0.1", self.port)).unwrap();
        accept(listener, self.shared.clone());
    }
}

impl Drop for Store {
    fn drop(&mut self) {
        if !self.shared.stopped.load(Ordering::SeqCst) {
            self.stop();
        }
    }
}

fn accept(listener: TcpListener, shared: Arc<Shared>) {
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            if shared.stopped.load(Ordering::SeqCst) {
                return;
            }
            let Ok(stream) = stream else { continue };
            let _ = stream.set_nodelay(true);
            shared
                .state
                .lock()
                .unwrap()
                .connections
                .push(stream.try_clone().unwrap());
            let shared = shared.clone();
            std::thread::spawn(move || {
                let _ = converse(&stream, &shared);
                let _ = stream.shutdown(Shutdown::Both);
            });
        }
    });
}

struct Request {
    method: String,
    path: String,
    query: BTreeMap<String, String>,
    headers: BTreeMap<String, String>,
}

fn converse(stream: &TcpStream, shared: &Shared) -> std::io::Result<()> {
    let mut lines = BufReader::new(stream.try_clone()?);
    loop {
        let mut first = String::new();
        if lines.read_line(&mut first)? == 0 {
            return Ok(());
        }
        let mut headers = BTreeMap::new();
        loop {
            let mut line = String::new();
            lines.read_line(&mut line)?;
            match line.trim_end().split_once(": ") {
                Some((name, value)) => {
                    headers.insert(name.to_ascii_lowercase(), value.to_owned());
                }
                None => break,
            }
        }
        let mut words = first.split_whitespace();
        let method = words.next().unwrap_or_default().to_owned();
        let target = words.next().unwrap_or_default().to_owned();
        shared.state.lock().unwrap().seen.push(Seen {
            method: method.clone(),
            target: target.clone(),
            range: headers.get("range").cloned(),
        });
        let (path, query) = target.split_once('?').unwrap_or((&target, ""));
        let plain = |text: &str| percent_decode_str(text).decode_utf8_lossy().into_owned();
        let request = Request {
            method,
            path: plain(path),
            query: query
                .split('&')
                .filter_map(|pair| pair.split_once('='))
                .map(|(k, v)| (plain(k), plain(&v.replace('+', " "))))
                .collect(),
            headers,
        };
        answer(stream, shared, &request)?;
    }
}

fn answer(mut out: &TcpStream, shared: &Shared, request: &Request) -> std::io::Result<()> {
    let (is_tree, key) = match (
        request.path.strip_prefix("/t/"),
        request.path.strip_prefix("/b"),
    ) {
        (Some(key), _) => (true, key.to_owned()),
        (None, Some(key)) if request.query.contains_key("list-type") => (
            false,
            request.query.get("prefix").map_or(key, |p| p).to_owned(),
        ),
        (None, Some(key)) => (false, key.trim_start_matches('/').to_owned()),
        (None, None) => return status(out, 404),
    };
    let status = |out: &TcpStream, code: u16| match is_tree || request.method == "HEAD" {
        true => status(out, code),
        false => s3_error(out, code),
    };
    let (mood, object, pace, etags) = {
        let state = shared.state.lock().unwrap();
        let mood = state
            .moods
            .iter()
            .filter(|(prefix, _)| key.starts_with(prefix));
        let mood = mood
            .max_by_key(|(p, _)| p.len())
            .map_or(Mood::Serve, |m| m.1);
        (
            mood,
            state.objects.get(&key).cloned(),
            state.pace,
            state.etags,
        )
    };
    match mood {
        Mood::Silent => return silence(shared),
        Mood::Status(code) => return status(out, code),
        _ => {}
    }
    if request.query.contains_key("list-type") {
        let page = s3_page(&shared.state.lock().unwrap(), request);
        return page_reply(out, "application/xml", page.as_bytes());
    }
    if is_tree && (key.is_empty() || key.ends_with('/')) {
        return match index(&shared.state.lock().unwrap(), &key) {
            Some(page) => page_reply(out, "application/json", page.as_bytes()),
            None => status(out, 404),
        };
    }
    let Some(object) = object else {
        return status(out, 404);
    };
    let date = httpdate::fmt_http_date(object.mtime);
    let unmet = |name: &str, holds: &dyn Fn(&str) -> bool| {
        request.headers.get(name).is_some_and(|value| !holds(value))
    };
    if unmet("if-match", &|v| v == object.etag) || unmet("if-unmodified-since", &|v| v == date) {
        return status(out, 412);
    }
    let size = object.bytes.len();
    let range = request
        .headers
        .get("range")
        .filter(|_| mood != Mood::NoRanges);
    let range = range.and_then(|r| {
        let (from, to) = r.strip_prefix("bytes=")?.split_once('-')?;
        let from: usize = from.parse().ok()?;
        let to = to.parse::<usize>().map_or(size, |to| (to + 1).min(size));
        (from < to).then_some((from, to))
    });
    let (mut from, to) = range.unwrap_or((0, size));
    if mood == Mood::OtherRange && range.is_some() {
        from += 1;
    }
    let mut head = match range {
        Some(_) => format!(
            "HTTP/1.1 206 Partial Content\r\nContent-Range: bytes {from}-{}/{size}\r\n",
            to - 1
        ),
        None => "HTTP/1.1 200 OK\r\n".to_owned(),
    };
    head += &format!("Content-Length: {}\r\nLast-Modified: {date}\r\n", to - from);
    if mood != Mood::NoRanges {
        head += "Accept-Ranges: bytes\r\n";
    }
    if etags {
        head += &format!("ETag: {}\r\n", object.etag);
    }
    head += "\r\n";
    out.write_all(head.as_bytes())?;
    if request.method == "HEAD" {
        return Ok(());
    }
    let body = &object.bytes[from..to];
    let (body, then_close) = match mood {
        Mood::Short => (&body[..body.len() / 2], true),
        Mood::Stall(most) => (&body[..most.min(body.len())], false),
        _ => (body, false),
    };
    for piece in body.chunks(64 << 10) {
        std::thread::sleep(pace);
        out.write_all(piece)?;
    }
    if then_close {
        return Err(std::io::ErrorKind::ConnectionReset.into());
    }
    match mood {
        Mood::Stall(_) => silence(shared),
        _ => Ok(()),
    }
}

/// Says nothing for as long as the server runs.
fn silence(shared: &Shared) -> std::io::Result<()> {
    while !shared.stopped.load(Ordering::SeqCst) {
        std::thread::sleep(Duration::from_millis(50));
    }
    Err(std::io::ErrorKind::ConnectionReset.into())
}

fn status(mut out: &TcpStream, code: u16) -> std::io::Result<()> {
    out.write_all(format!("HTTP/1.1 {code} As Told\r\nContent-Length: 0\r\n\r\n").as_bytes())
}

/// An error in S3's words.
fn s3_error(mut out: &TcpStream, code: u16) -> std::io::Result<()> {
    let name = match code {
        403 => "AccessDenied",
        404 => "NoSuchKey",
        412 => "PreconditionFailed",
        503 => "SlowDown",
        _ => "InternalError",
    };
    let body = format!("<?xml version=\"1.0\"?><Error><Code>{name}</Code></Error>");
    let length = body.len();
    let head = format!("HTTP/1.1 {code} As Told\r\nContent-Type: application/xml\r\n");
    out.write_all(format!("{head}Content-Length: {length}\r\n\r\n{body}").as_bytes())
}

fn page_reply(mut out: &TcpStream, kind: &str, page: &[u8]) -> std::io::Result<()> {
    let length = page.len();
    let head =
        format!("HTTP/1.1 200 OK\r\nContent-Type: {kind}\r\nContent-Length: {length}\r\n\r\n");
    out.write_all(head.as_bytes())?;
    out.write_all(page)
}

/// nginx's JSON listing of a directory; nothing if there is none.
fn index(state: &State, dir: &str) -> Option<String> {
    let mut items: BTreeMap<&str, serde_json::Value> = BTreeMap::new();
    for (key, object) in &state.objects {
        let Some(rest) = key.strip_prefix(dir) else {
            continue;
        };
        let mtime = httpdate::fmt_http_date(object.mtime);
        match rest.split_once('/') {
            Some((name, _)) => {
                let item = serde_json::json!({"name": name, "type": "directory", "mtime": mtime});
                items.entry(name).or_insert(item);
            }
            None => {
                let size = object.bytes.len();
                let item =
                    serde_json::json!({"name": rest, "type": "file", "mtime": mtime, "size": size});
                items.insert(rest, item);
            }
        }
    }
    if items.is_empty() && !dir.is_empty() {
        return None;
    }
    Some(serde_json::to_string(&items.into_values().collect::<Vec<_>>()).unwrap())
}

/// A page of ListObjectsV2.
fn s3_page(state: &State, request: &Request) -> String {
    const PAGE: usize = 1000;
    let get = |name: &str| request.query.get(name).map_or("", String::as_str);
    let (prefix, delimiter) = (get("prefix"), get("delimiter"));
    let after = get("continuation-token").max(get("start-after"));
    let encode = |key: &str| utf8_percent_encode(key, NON_ALPHANUMERIC).to_string();
    let mut items: BTreeMap<String, Option<&Object>> = BTreeMap::new();
    for (key, object) in &state.objects {
        let Some(rest) = key.strip_prefix(prefix) else {
            continue;
        };
        match rest.find(delimiter).filter(|_| !delimiter.is_empty()) {
            Some(at) => items.insert(format!("{prefix}{}", &rest[..=at]), None),
            None => items.insert(key.clone(), Some(object)),
        };
    }
    let mut left = items
        .into_iter()
        .filter(|(key, _)| key.as_str() > after)
        .peekable();
    let mut page = String::new();
    let mut last = String::new();
    for (key, object) in left.by_ref().take(PAGE) {
        page += &match object {
            Some(object) => format!(
                "<Contents><Key>{}</Key><LastModified>{}</LastModified>\
                 <ETag>{}</ETag><Size>{}</Size></Contents>",
                encode(&key),
                humantime::format_rfc3339_millis(object.mtime),
                object.etag.replace('"', "&quot;"),
                object.bytes.len()
            ),
            None => format!(
                "<CommonPrefixes><Prefix>{}</Prefix></CommonPrefixes>",
                encode(&key)
            ),
        };
        last = key;
    }
    let more = left.peek().is_some();
    let next = if more {
        format!("<NextContinuationToken>{last}</NextContinuationToken>")
    } else {
        String::new()
    };
    format!(
        "<?xml version=\"1.0\"?><ListBucketResult><Name>b</Name><EncodingType>url</EncodingType>\
         <IsTruncated>{more}</IsTruncated>{next}{page}</ListBucketResult>"
    )
}
