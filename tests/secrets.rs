//! Secrets: planted wherever one can be given, and looked for wherever one could come out.

mod common;

use std::ffi::OsStr;
use std::path::{Path, PathBuf};

use common::mount::{Place, is_mounted};
use common::scripted::{Reply, Request, Scripted, reply};
use common::wait_until;
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};

/// What every secret has in it. Its characters are such that each encoding shows.
const MARK: &str = "hunter2/&+<x>";

/// The secrets, by what they are.
const SECRETS: [&str; 10] = [
    "bearer",
    "basic",
    "key",
    "session",
    "profile",
    "profiletoken",
    "web",
    "container",
    "proxy",
    "presigned",
];

/// A secret of a kind. A token in a header may not hold everything.
fn secret(what: &str) -> String {
    assert!(SECRETS.contains(&what));
    format!("{what}-{MARK}")
}

fn base64(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::new();
    for three in bytes.chunks(3) {
        let at = |i: usize| u32::from(three.get(i).copied().unwrap_or(0));
        let bits = at(0) << 16 | at(1) << 8 | at(2);
        for shift in [18, 12, 6, 0] {
            text.push(char::from(DIGITS[(bits >> shift & 63) as usize]));
        }
    }
    text
}

/// The ways in which a secret may be written. `MARK` alone, so that a part of a secret is found too.
fn forms() -> Vec<(&'static str, Vec<u8>)> {
    let mut forms = vec![
        ("plain", b"hunter2".to_vec()),
        (
            "percent",
            utf8_percent_encode(MARK, NON_ALPHANUMERIC)
                .to_string()
                .into_bytes(),
        ),
        (
            "hex",
            MARK.bytes()
                .flat_map(|b| format!("{b:02x}").into_bytes())
                .collect(),
        ),
    ];
    // Base64 of a text looks in three ways, by where it begins; its ends mix with what is around.
    for shift in 0..3 {
        let text = base64(&[&b"xx"[..shift], MARK.as_bytes()].concat());
        let inner = &text.as_bytes()[if shift == 0 { 0 } else { 4 }..text.len() - 4];
        forms.push(("base64", inner.to_vec()));
        let safe: Vec<u8> = inner
            .iter()
            .map(|b| match b {
                b'+' => b'-',
                b'/' => b'_',
                other => *other,
            })
            .collect();
        forms.push(("base64url", safe));
    }
    forms
}

/// Returns how and where a secret shows in `bytes`, if one does.
fn leak(bytes: &[u8]) -> Option<String> {
    forms().into_iter().find_map(|(how, form)| {
        let at = bytes.windows(form.len()).position(|w| w == form)?;
        let around = &bytes[at.saturating_sub(200)..(at + 200).min(bytes.len())];
        Some(format!("{how}: …{}…", String::from_utf8_lossy(around)))
    })
}

fn assert_silent(what: &str, bytes: &[u8]) {
    if let Some(leak) = leak(bytes) {
        panic!("{what} shows a secret, {leak}");
    }
}

#[test]
fn the_search_finds_a_secret_in_every_form() {
    let secret = secret("web");
    assert!(leak(secret.as_bytes()).is_some());
    assert!(
        leak(
            utf8_percent_encode(&secret, NON_ALPHANUMERIC)
                .to_string()
                .as_bytes()
        )
        .is_some()
    );
    for before in ["", "m", "me", "me:"] {
        assert!(leak(base64(format!("{before}{secret}").as_bytes()).as_bytes()).is_some());
    }
    assert_eq!(leak(b"bearer-hunter and others"), None);
}

/// A server for all of it: what it does is the first part of the path, and whatever it says repeats
/// the whole request, headers and all, in plain, escaped and encoded again.
fn script(elsewhere: String) -> impl Fn(&Request) -> Reply + Send + Sync + 'static {
    move |request| {
        let mut said = format!("{} {}\n", request.method, request.target);
        for (name, value) in &request.headers {
            let escaped = utf8_percent_encode(value, NON_ALPHANUMERIC);
            said += &format!("{name}: {value} {escaped} {}\n", base64(value.as_bytes()));
        }
        let markup = said.replace('&', "&amp;").replace('<', "&lt;");
        let line = said.replace('\n', " ");
        let path = request.target.split('?').next().unwrap_or_default();
        let (how, rest) = path[1..].split_once('/').unwrap_or((&path[1..], ""));
        let page = |status: &str| reply(status, &[("Content-Type", "text/html")], said.as_bytes());
        let xml = |status: &str, code: &str| {
            let text = format!(
                "<?xml version=\"1.0\"?><Error><Code>{code}</Code><Message>{markup}</Message>\
                 <Region>{markup}</Region></Error>"
            );
            reply(
                status,
                &[("Content-Type", "application/xml")],
                text.as_bytes(),
            )
        };
        let file = || {
            let headers = [("ETag", "\"1\""), ("Accept-Ranges", "bytes")];
            match request.header("range") {
                Some(_) if request.method == "GET" => reply(
                    "206 Partial Content",
                    &[("ETag", "\"1\""), ("Content-Range", "bytes 0-4/5")],
                    b"hello",
                ),
                _ if request.method == "HEAD" => reply(
                    "200 OK",
                    &[headers[0], headers[1], ("Content-Length", "5")],
                    b"",
                ),
                _ => reply("200 OK", &headers, b"hello"),
            }
        };
        match (how, rest) {
            ("b", "") if request.target.contains("list-type") => {
                let keys = [
                    "f",
                    "403",
                    "400",
                    "500",
                    "malformed",
                    "token",
                    "range",
                    "moved",
                ];
                let items: String = keys
                    .iter()
                    .map(|key| {
                        format!(
                            "<Contents><Key>{key}</Key><LastModified>2024-01-01T00:00:00Z\
                             </LastModified><ETag>&quot;1&quot;</ETag><Size>5</Size></Contents>"
                        )
                    })
                    .collect();
                let text = format!(
                    "<ListBucketResult><IsTruncated>false</IsTruncated>{items}</ListBucketResult>"
                );
                reply(
                    "200 OK",
                    &[("Content-Type", "application/xml")],
                    text.as_bytes(),
                )
            }
            ("b", "403") => xml("403 Forbidden", "AccessDenied"),
            ("b", "400") => xml("400 Bad Request", "Whatever"),
            ("b", "500") => xml("500 Oops", "InternalError"),
            ("b", "malformed") => xml("400 Bad Request", "AuthorizationHeaderMalformed"),
            ("b", "token") => xml("400 Bad Request", "InvalidToken"),
            ("b", "moved") => xml("301 Moved Permanently", "PermanentRedirect"),
            ("b", "range") | ("range", "f") => reply(
                "206 Partial Content",
                &[("Content-Range", &line), ("ETag", "\"1\"")],
                b"",
            ),
            ("b", _) => file(),
            ("denied", _) => page("403 Forbidden"),
            ("unknown", _) => page("401 Unauthorized"),
            ("broken", _) => page("500 Internal Server Error"),
            ("odd", _) => page("200 OK"),
            ("json", _) => reply(
                "200 OK",
                &[("Content-Type", "application/json")],
                said.as_bytes(),
            ),
            ("notjson", _) => {
                let text =
                    format!("[{{\"name\": {line:?}, \"type\": {line:?}, \"size\": {line:?}}}]");
                reply(
                    "200 OK",
                    &[("Content-Type", "application/json")],
                    text.as_bytes(),
                )
            }
            ("away", _) => {
                let to = format!("{elsewhere}/ok/{rest}");
                reply("302 Found", &[("Location", &to)], said.as_bytes())
            }
            ("loop", _) => reply("302 Found", &[("Location", &format!("/loop/{rest}x"))], b""),
            ("status", _) => Reply::Raw(format!("HTTP/1.1 {line}\r\n\r\n").into_bytes()),
            ("sts" | "container", _) => page("403 Forbidden"),
            ("ok" | "range", "") => {
                let item = r#"[{"name":"f","type":"file","size":5,"mtime":"Mon, 01 Jan 2024 00:00:00 GMT"}]"#;
                reply(
                    "200 OK",
                    &[("Content-Type", "application/json")],
                    item.as_bytes(),
                )
            }
            ("ok" | "signed", _) => file(),
            _ => page("404 Not Found"),
        }
    }
}

/// A mount in the background, with a log of its own; ends when dropped.
struct Daemon<'a> {
    place: &'a Place,
    at: PathBuf,
}

impl Drop for Daemon<'_> {
    fn drop(&mut self) {
        if is_mounted(&self.at) {
            let _ = self
                .place
                .svol([OsStr::new("unmount"), self.at.as_os_str()]);
        }
        if is_mounted(&self.at) {
            let _ = rustix::mount::unmount(&self.at, rustix::mount::UnmountFlags::DETACH);
        }
    }
}

/// Everything that a mount shows, to whomever: reads all that is there, asks all that can be asked,
/// and asserts that no secret is in any of it.
fn look_everywhere(place: &Place, variables: &[(&str, String)], format: &str) {
    let volume = place.path("volume.yaml");
    let at = place.path("mnt");
    let log = place.path(&format!("log-{format}"));
    let svol = |args: &[&OsStr]| {
        let mut command = place.command(args);
        let variables = variables
            .iter()
            .map(|(name, value)| (*name, value.as_str()));
        command.envs(variables).env("SVOL_LOG", "trace");
        command.output().unwrap()
    };
    let os = |text: &'static str| OsStr::new(text);
    std::fs::create_dir_all(&at).unwrap();
    // With a holder, and without.
    let alone = (format == "json").then_some("--no-takeover");
    let mount = [Some("mount"), alone].into_iter().flatten().map(OsStr::new);
    let arguments = [
        os("--log-file"),
        log.as_os_str(),
        os("--log-format"),
        OsStr::new(format),
        os("--timeout"),
        os("3s"),
        os("-c"),
        volume.as_os_str(),
        at.as_os_str(),
    ];
    let mounted = svol(&mount.chain(arguments).collect::<Vec<_>>());
    assert_silent("the terminal", &mounted.stderr);
    assert!(
        mounted.status.success(),
        "{}",
        String::from_utf8_lossy(&mounted.stderr)
    );
    let daemon = Daemon {
        place,
        at: at.clone(),
    };

    let mut paths = vec![at.clone()];
    for layer in std::fs::read_dir(&at).unwrap() {
        let layer = layer.unwrap().path();
        paths.push(layer.clone());
        match std::fs::read_dir(&layer) {
            Ok(names) => paths.extend(names.filter_map(|name| Some(name.ok()?.path()))),
            Err(_) => paths.push(layer.join("f")),
        }
    }
    std::thread::scope(|scope| {
        for path in &paths {
            scope.spawn(move || {
                let _ = std::fs::read(path);
            });
        }
    });
    for path in &paths {
        let mut names = vec![0; 65536];
        let n = rustix::fs::llistxattr(path, &mut names).unwrap_or(0);
        assert_silent("attributes' names", &names[..n]);
        let known = [
            "source", "stale", "error", "errors", "layers", "hidden", "version", "digest",
        ];
        let listed = names[..n]
            .split(|b| *b == 0)
            .map(|name| String::from_utf8_lossy(name).into());
        let named = known.iter().map(|name| format!("user.svol.{name}"));
        for name in listed.chain(named).filter(|name: &String| !name.is_empty()) {
            if let Ok(value) = common::mount::xattr(path, &name) {
                assert_silent(&name, value.as_bytes());
            }
        }
    }
    for form in [&[os("explain")][..], &[os("explain"), os("--json")]] {
        let paths: Vec<&OsStr> = paths.iter().map(|path| path.as_os_str()).collect();
        let told = svol(&[form, &paths].concat());
        assert!(!told.stdout.is_empty());
        assert_silent("explain", &[told.stdout, told.stderr].concat());
    }
    for args in [
        vec![os("status")],
        vec![os("status"), os("--json")],
        vec![os("refresh"), at.as_os_str()],
        vec![os("validate"), volume.as_os_str()],
        vec![
            os("ls"),
            os("-lR"),
            os("--timeout"),
            os("3s"),
            os("-c"),
            volume.as_os_str(),
        ],
        vec![
            os("cat"),
            os("--path"),
            os("/denied/f"),
            os("-c"),
            volume.as_os_str(),
        ],
        vec![os("cache"), os("stats")],
    ] {
        let told = svol(&args);
        assert!(
            told.stdout.len() + told.stderr.len() > 0,
            "{args:?} says nothing"
        );
        assert_silent(&format!("{args:?}"), &[told.stdout, told.stderr].concat());
    }

    let status = place.status();
    let mount = &status["mounts"][0];
    let pid = mount["pid"].as_u64().unwrap();
    let holder = mount["takeover"]["holder"].as_u64();
    assert_eq!(holder.is_none(), format == "json");
    for pid in [pid].into_iter().chain(holder) {
        for file in ["cmdline", "comm", "mountinfo", "maps", "limits"] {
            assert_silent(file, &std::fs::read(format!("/proc/{pid}/{file}")).unwrap());
        }
    }
    if holder.is_none() {
        let children = format!("/proc/{pid}/task/{pid}/children");
        let mounter = std::fs::read_to_string(children).unwrap();
        for file in ["cmdline", "environ"] {
            let file = format!("/proc/{}/{file}", mounter.trim());
            assert_silent("the mounter", &std::fs::read(file).unwrap());
        }
    }
    // With what a worker leaves to the next one, which goes with the mount.
    search(&place.path("run"));
    drop(daemon);
    // What the catalogue writes last it writes at its end.
    wait_until("the end of the daemon", || {
        !Path::new(&format!("/proc/{pid}")).exists()
    });
    let text = std::fs::read(&log).unwrap();
    assert!(String::from_utf8_lossy(&text).contains("serving"));
    assert_silent("the log", &text);
    for dir in [place.cache(), place.path("run")] {
        search(&dir);
    }
}

fn search(dir: &Path) {
    for item in std::fs::read_dir(dir).unwrap() {
        let path = item.unwrap().path();
        assert_silent("a file's name", path.as_os_str().as_encoded_bytes());
        match path.is_dir() {
            true => search(&path),
            false => assert_silent(
                &path.display().to_string(),
                &std::fs::read(&path).unwrap_or_default(),
            ),
        }
    }
}

/// A volume file of layers, given as what stands below each.
fn volume(place: &Place, layers: &[(&str, String)]) {
    let mut text = String::from(
        "apiVersion: sharedvolume.io/v1\nkind: Volume\nmetadata:\n  name: v\nspec:\n  layers:\n",
    );
    for (name, source) in layers {
        text += &format!("  - name: {name}\n    path: /{name}\n    {source}\n");
    }
    std::fs::write(place.path("volume.yaml"), text).unwrap();
}

fn servers(runtime: &tokio::runtime::Runtime) -> (Scripted, Scripted) {
    runtime.block_on(async {
        let other = Scripted::start(script(String::new())).await;
        let main = Scripted::start(script(other.url.clone())).await;
        (main, other)
    })
}

fn sent(server: &Scripted, header: &str) -> Vec<String> {
    let seen = server.seen();
    let values = seen.iter().filter_map(|r| r.header(header));
    values.map(str::to_owned).collect()
}

#[test]
fn no_secret_of_a_volume_shows_anywhere() {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    for format in ["text", "json"] {
        let (server, other) = servers(&runtime);
        let place = Place::new();
        let file = |name: &str| {
            std::fs::write(place.path(name), format!("{}\n", secret(name))).unwrap();
            place.path(name).display().to_string()
        };
        let (bearer, key, session) = (file("bearer"), file("key"), file("session"));
        let url = &server.url;
        let with_bearer = |tree: String| {
            format!(
                "http: {{url: '{tree}', index: json, auth: {{bearer: {{token: {{fromFile: '{bearer}'}}}}}}}}"
            )
        };
        let with_basic = |tree: String| {
            format!(
                "http: {{url: '{tree}', auth: {{basic: {{username: me, password: {{fromEnv: TEST_BASIC}}}}}}}}"
            )
        };
        let mut layers: Vec<(String, String)> = Vec::new();
        let hows = [
            "ok", "denied", "unknown", "broken", "odd", "json", "notjson", "away", "loop",
            "status", "range",
        ];
        for how in hows {
            layers.push((how.into(), with_bearer(format!("{url}/{how}/"))));
            layers.push((format!("basic-{how}"), with_basic(format!("{url}/{how}/"))));
        }
        let tls = url.replace("http:", "https:");
        layers.push(("tls".into(), with_bearer(format!("{tls}/ok/"))));
        layers.push((
            "nobody".into(),
            with_bearer("http://127.0.0.1:1/ok/".into()),
        ));
        layers.push((
            "nowhere".into(),
            with_bearer("http://no-such-host.invalid/ok/".into()),
        ));
        let s3 = format!("s3: {{bucket: b, region: us-east-1, endpointUrl: '{url}'");
        layers.push((
            "named".into(),
            format!(
                "{s3}, credentials: {{accessKeyId: {{fromEnv: TEST_KEY_ID}}, secretAccessKey: \
                 {{fromFile: '{key}'}}, sessionToken: {{fromFile: '{session}'}}}}}}"
            ),
        ));
        layers.push(("profile".into(), format!("{s3}, profile: p}}")));
        let presigned = secret("presigned");
        let signature = utf8_percent_encode(&presigned, NON_ALPHANUMERIC);
        for how in ["signed", "denied", "broken"] {
            let url = format!("{url}/{how}/f?X-Amz-Credential=AKID&X-Amz-Signature={signature}");
            layers.push((
                format!("presigned-{how}"),
                format!("http: {{url: '{url}'}}"),
            ));
        }
        let layers: Vec<(&str, String)> = layers
            .iter()
            .map(|(n, s)| (n.as_str(), s.clone()))
            .collect();
        volume(&place, &layers);
        let profile = format!(
            "[p]\naws_access_key_id = AKIDP\naws_secret_access_key = {}\naws_session_token = {}\n",
            secret("profile"),
            secret("profiletoken")
        );
        std::fs::write(place.path("credentials"), profile).unwrap();
        let path = |name: &str| place.path(name).display().to_string();
        let variables = [
            ("TEST_BASIC", secret("basic")),
            ("TEST_KEY_ID", "AKIDEXAMPLE".into()),
            ("AWS_SHARED_CREDENTIALS_FILE", path("credentials")),
            ("AWS_CONFIG_FILE", path("config")),
        ];
        look_everywhere(&place, &variables, format);

        // All of them were really sent, and echoed.
        let authorization = sent(&server, "authorization");
        let basic = base64(format!("me:{}", secret("basic")).as_bytes());
        let has = |what: &str| authorization.iter().any(|a| a.contains(what));
        assert!(has(&secret("bearer")) && has(basic.trim_end_matches('A')) && has("AKIDP"));
        assert!(has("AKIDEXAMPLE"));
        let tokens = sent(&server, "x-amz-security-token");
        for what in ["session", "profiletoken"] {
            assert!(tokens.contains(&secret(what)), "{what}: {tokens:?}");
        }
        let signed = |r: &Request| r.target.contains("X-Amz-Signature=presigned");
        assert!(server.seen().iter().any(signed));
        // And none of them to the other server, to which one layer was sent on.
        assert!(!other.seen().is_empty());
        for request in other.seen() {
            assert_silent("a redirected request", format!("{request:?}").as_bytes());
            assert_eq!(request.header("authorization"), None);
        }
    }
}

#[test]
fn no_secret_of_the_environment_shows_anywhere() {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    for (round, format) in ["text", "json", "text", "json", "text"]
        .into_iter()
        .enumerate()
    {
        let (server, _other) = servers(&runtime);
        let url = &server.url;
        let place = Place::new();
        let file = |name: &str| {
            std::fs::write(place.path(name), secret(name)).unwrap();
            place.path(name).display().to_string()
        };
        let s3 = format!("s3: {{bucket: b, region: us-east-1, endpointUrl: '{url}'}}");
        let mut layers = vec![("s3", s3)];
        let none = place.path("none").display().to_string();
        let mut variables = vec![
            ("AWS_SHARED_CREDENTIALS_FILE", none.clone()),
            ("AWS_CONFIG_FILE", none),
        ];
        let sts = ["/sts", "127.0.0.1:1"];
        match round {
            0 => variables.extend([
                ("AWS_ACCESS_KEY_ID", "AKIDENV".into()),
                ("AWS_SECRET_ACCESS_KEY", secret("key")),
                ("AWS_SESSION_TOKEN", secret("session")),
            ]),
            // A service that refuses and repeats, and one that is not there.
            1 | 2 => variables.extend([
                ("AWS_WEB_IDENTITY_TOKEN_FILE", file("web")),
                ("AWS_ROLE_ARN", "arn:aws:iam::123456789012:role/r".into()),
                (
                    "AWS_ENDPOINT_URL_STS",
                    match round {
                        1 => format!("{url}{}", sts[0]),
                        _ => format!("http://{}", sts[1]),
                    },
                ),
            ]),
            3 => variables.extend([
                (
                    "AWS_CONTAINER_CREDENTIALS_FULL_URI",
                    format!("{url}/container/x"),
                ),
                ("AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE", file("container")),
            ]),
            _ => {
                // A proxy that refuses and repeats.
                let word = secret("proxy");
                let word = utf8_percent_encode(&word, NON_ALPHANUMERIC);
                let proxy = url.replace("http://", &format!("http://me:{word}@"));
                layers = vec![(
                    "denied",
                    "http: {url: 'http://somewhere.invalid/x/'}".into(),
                )];
                variables.extend([("HTTP_PROXY", proxy.clone()), ("http_proxy", proxy)]);
            }
        }
        volume(&place, &layers);
        look_everywhere(&place, &variables, format);
        // The token service is only spoken to over TLS, which ours does not.
        let seen = server.seen();
        let proven = match round {
            0 => seen
                .iter()
                .any(|r| r.header("x-amz-security-token").is_some()),
            3 => seen.iter().any(|r| {
                r.header("authorization")
                    .is_some_and(|a| leak(a.as_bytes()).is_some())
            }),
            4 => seen
                .iter()
                .any(|r| r.header("proxy-authorization").is_some()),
            _ => true,
        };
        assert!(proven, "round {round}: {seen:?}");
    }
}

#[test]
fn a_password_on_the_command_line_is_refused_and_not_repeated() {
    let place = Place::new();
    std::fs::create_dir(place.path("mnt")).unwrap();
    let at = place.path("mnt").display().to_string();
    let word = "hunter2";
    for args in [
        vec![
            "mount".into(),
            format!("http://me:{word}@127.0.0.1:1/t/"),
            at.clone(),
        ],
        vec![
            "mount".into(),
            format!("https://{word}@127.0.0.1:1/t/"),
            at.clone(),
        ],
        vec!["ls".into(), format!("http://me:{word}@127.0.0.1:1/t/")],
        vec![
            "ls".into(),
            "--endpoint-url".into(),
            format!("http://me:{word}@h/"),
            "s3://b".into(),
        ],
        vec!["ls".into(), format!("s3://AKID:{word}@b/")],
    ] {
        let told = place.svol(&args);
        assert_eq!(told.status.code(), Some(2), "{args:?}");
        assert!(!told.stderr.is_empty());
        assert_silent(&format!("{args:?}"), &[told.stdout, told.stderr].concat());
    }
}

#[test]
fn rotated_secrets_are_taken_up() {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let server = runtime.block_on(Scripted::start(|request| {
        let told = request.header("authorization").unwrap_or_default();
        let body = told
            .strip_prefix("Bearer ")
            .unwrap_or_default()
            .as_bytes()
            .to_vec();
        let size = body.len();
        match request.target.as_str() {
            "/t/" => {
                let page = format!(
                    r#"[{{"name":"f-{}","type":"file","size":{size}}}]"#,
                    String::from_utf8_lossy(&body)
                );
                reply(
                    "200 OK",
                    &[("Content-Type", "application/json")],
                    page.as_bytes(),
                )
            }
            _ => reply("404 Not Found", &[], b""),
        }
    }));
    let place = Place::new();
    // As Kubernetes lays a secret out: a link to a link that is exchanged.
    let dir = place.path("secret");
    let put = |word: &str| {
        let data = dir.join(format!("..{word}"));
        std::fs::create_dir_all(&data).unwrap();
        std::fs::write(data.join("token"), word).unwrap();
        std::os::unix::fs::symlink(format!("..{word}"), dir.join("..new")).unwrap();
        std::fs::rename(dir.join("..new"), dir.join("..data")).unwrap();
    };
    put("one");
    std::os::unix::fs::symlink("..data/token", dir.join("token")).unwrap();
    let token = dir.join("token").display().to_string();
    let source = format!(
        "http: {{url: '{}/t/', index: json, auth: {{bearer: {{token: {{fromFile: '{token}'}}}}}}}}",
        server.url
    );
    volume(&place, &[("t", source)]);
    let file = place.path("volume.yaml").display().to_string();
    let mount = place.mount(&["--refresh", "1s", "-c", &file]);
    let shows = |name: &str| {
        let names = std::fs::read_dir(mount.path("t")).unwrap();
        names.map(|n| n.unwrap().file_name()).any(|n| n == name)
    };
    wait_until("the first token", || shows("f-one"));
    put("two");
    wait_until("the second token", || shows("f-two"));
    // As an editor does: another file of the same name.
    std::fs::write(dir.join("aside"), "three").unwrap();
    std::fs::rename(dir.join("aside"), dir.join("token")).unwrap();
    wait_until("the third token", || shows("f-three"));
}
