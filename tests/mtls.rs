//! The control address over TLS: who has no certificate, or the wrong one, is not let in, and what is
//! rotated holds at once.

mod common;

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use common::mount::{Mount, Place};
use common::process::program;

/// Certificates of one authority in a directory.
struct Authority<'a> {
    place: &'a Place,
    name: &'a str,
}

impl Authority<'_> {
    fn new<'a>(place: &'a Place, name: &'a str) -> Authority<'a> {
        let authority = Authority { place, name };
        authority.openssl(
            "ca",
            &["-addext", "keyUsage=critical,keyCertSign,digitalSignature"],
        );
        for (leaf, usage, alternative) in [
            ("server", "serverAuth", "IP:127.0.0.1,DNS:svol.test"),
            ("client", "clientAuth", "DNS:prober.test"),
        ] {
            let (ca, key) = (authority.cert("ca"), authority.key("ca"));
            authority.openssl(
                leaf,
                &[
                    "-CA",
                    ca.to_str().unwrap(),
                    "-CAkey",
                    key.to_str().unwrap(),
                    "-addext",
                    "basicConstraints=critical,CA:FALSE",
                    "-addext",
                    &format!("extendedKeyUsage={usage}"),
                    "-addext",
                    &format!("subjectAltName={alternative}"),
                ],
            );
        }
        authority
    }

    fn cert(&self, leaf: &str) -> PathBuf {
        self.place.path(&format!("{}-{leaf}.pem", self.name))
    }

    fn key(&self, leaf: &str) -> PathBuf {
        self.place.path(&format!("{}-{leaf}-key.pem", self.name))
    }

    fn openssl(&self, leaf: &str, more: &[&str]) {
        let made = Command::new(program("openssl"))
            .args([
                "req",
                "-x509",
                "-newkey",
                "ec",
                "-pkeyopt",
                "ec_paramgen_curve:P-256",
            ])
            .args([
                "-nodes",
                "-days",
                "2",
                "-subj",
                &format!("/CN={} {leaf}", self.name),
            ])
            .args(more)
            .arg("-keyout")
            .arg(self.key(leaf))
            .arg("-out")
            .arg(self.cert(leaf))
            .output()
            .unwrap();
        assert!(made.status.success(), "openssl: {made:?}");
    }
}

/// Asks with curl, trusting `trusted`; returns what came, nothing where no reply did.
fn curl(
    url: &str,
    trusted: &Authority,
    client: Option<&Authority>,
    more: &[&str],
) -> Option<String> {
    let mut command = Command::new(program("curl"));
    command.args([
        "-sS",
        "--noproxy",
        "*",
        "-w",
        "%{http_code}",
        "-o",
        "/dev/null",
    ]);
    command
        .args(["--max-time", "60", "--cacert"])
        .arg(trusted.cert("ca"));
    if let Some(client) = client {
        command.arg("--cert").arg(client.cert("client"));
        command.arg("--key").arg(client.key("client"));
    }
    let Output { status, stdout, .. } = command.args(more).arg(url).output().unwrap();
    status.success().then(|| String::from_utf8(stdout).unwrap())
}

fn port(place: &Place) -> u16 {
    let status = place.status();
    let at = status["mounts"][0]["listen"].as_str().unwrap().to_owned();
    at.rsplit_once(':').unwrap().1.parse().unwrap()
}

/// Puts the file in place as those do who rotate: in one step.
fn put(from: &Path, to: &Path) {
    let aside = to.with_extension("aside");
    std::fs::copy(from, &aside).unwrap();
    std::fs::rename(aside, to).unwrap();
}

struct World {
    place: Place,
    source: String,
}

impl World {
    fn new() -> World {
        let place = Place::new();
        let dir = place.path("src");
        std::fs::create_dir(&dir).unwrap();
        std::fs::write(dir.join("f"), "x").unwrap();
        std::fs::create_dir(place.path("tls")).unwrap();
        let source = dir.to_str().unwrap().to_owned();
        World { place, source }
    }

    fn file(&self, name: &str) -> PathBuf {
        self.place.path("tls").join(name)
    }

    fn install(&self, server: &Authority, clients: &Authority) {
        put(&server.cert("server"), &self.file("cert.pem"));
        put(&server.key("server"), &self.file("key.pem"));
        put(&clients.cert("ca"), &self.file("ca.pem"));
    }

    fn args(&self, listen: &str, flags: &[(&str, &str)]) -> Vec<String> {
        let mut args = vec!["--listen".to_owned(), listen.to_owned()];
        for (flag, name) in flags {
            args.push((*flag).to_owned());
            args.push(self.file(name).to_str().unwrap().to_owned());
        }
        args.push(self.source.clone());
        args
    }

    fn mount(&self, listen: &str, flags: &[(&str, &str)]) -> Mount {
        let args = self.args(listen, flags);
        let args: Vec<&str> = args.iter().map(String::as_str).collect();
        self.place.mount(&args)
    }

    /// Why a mount is refused, and with which status.
    fn refused(&self, listen: &str, flags: &[(&str, &str)]) -> (Option<i32>, String) {
        let at = self.place.path("refused");
        std::fs::create_dir_all(&at).unwrap();
        let mut args = vec!["mount".to_owned()];
        args.extend(self.args(listen, flags));
        args.push(at.to_str().unwrap().to_owned());
        let output = self.place.svol(args);
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        (output.status.code(), said)
    }
}

const TLS: [(&str, &str); 2] = [
    ("--listen-tls-cert", "cert.pem"),
    ("--listen-tls-key", "key.pem"),
];

const MUTUAL: [(&str, &str); 3] = [TLS[0], TLS[1], ("--listen-client-ca", "ca.pem")];

#[test]
fn only_those_with_a_certificate_of_the_authority_are_served() {
    let world = World::new();
    let (ours, others) = (
        Authority::new(&world.place, "ours"),
        Authority::new(&world.place, "others"),
    );
    world.install(&ours, &ours);
    // Certificates take a token's place beyond this machine.
    let mount = world.mount("0.0.0.0:0", &MUTUAL);
    let port = port(&world.place);
    let url = |path: &str| format!("https://127.0.0.1:{port}/{path}");
    let served = Some("200".to_owned());
    assert_eq!(curl(&url("metrics"), &ours, Some(&ours), &[]), served);
    assert_eq!(curl(&url("healthz"), &ours, Some(&ours), &[]), served);
    // By the name in the certificate too, which no page of the web has.
    let resolve = format!("svol.test:{port}:127.0.0.1");
    let named = format!("https://svol.test:{port}/metrics");
    assert_eq!(
        curl(&named, &ours, Some(&ours), &["--resolve", &resolve]),
        served
    );
    assert_eq!(curl(&url("metrics"), &ours, None, &[]), None);
    assert_eq!(curl(&url("metrics"), &ours, Some(&others), &[]), None);
    let plain = format!("http://127.0.0.1:{port}/metrics");
    assert_eq!(curl(&plain, &ours, None, &[]), None);
    // It takes no orders there, whoever asks.
    let order = curl(&url("refresh"), &ours, Some(&ours), &["-X", "POST"]);
    assert_eq!(order, Some("404".into()));

    // Rotated: the certificate shown, its key, and whom to trust.
    world.install(&others, &others);
    assert_eq!(curl(&url("metrics"), &others, Some(&others), &[]), served);
    assert_eq!(curl(&url("metrics"), &others, Some(&ours), &[]), None);
    assert_eq!(curl(&url("metrics"), &ours, Some(&others), &[]), None);

    // Half of a change: what was there before stays.
    put(&ours.key("server"), &world.file("key.pem"));
    assert_eq!(curl(&url("metrics"), &others, Some(&others), &[]), served);
    std::fs::write(world.file("ca.pem"), "nothing").unwrap();
    assert_eq!(curl(&url("metrics"), &others, Some(&others), &[]), served);
    std::fs::remove_file(world.file("cert.pem")).unwrap();
    assert_eq!(curl(&url("metrics"), &others, Some(&others), &[]), served);

    let log = mount.log();
    assert!(log.contains("those before stay"), "{log}");
    for key in [ours.key("server"), others.key("server")] {
        let key = std::fs::read_to_string(key).unwrap();
        assert!(!log.contains(key.lines().nth(1).unwrap()), "{log}");
    }
}

#[test]
fn tls_alone_asks_for_a_token_where_one_is_set() {
    let world = World::new();
    let ours = Authority::new(&world.place, "ours");
    world.install(&ours, &ours);
    std::fs::write(world.file("token"), "hunter2\n").unwrap();
    let _mount = world.mount(
        "0.0.0.0:0",
        &[TLS[0], TLS[1], ("--listen-token-file", "token")],
    );
    let url = format!("https://127.0.0.1:{}/metrics", port(&world.place));
    assert_eq!(curl(&url, &ours, None, &[]), Some("401".into()));
    let token = ["-H", "Authorization: Bearer hunter2"];
    assert_eq!(curl(&url, &ours, None, &token), Some("200".into()));
}

#[test]
fn what_would_let_anybody_in_or_cannot_work_is_refused() {
    let world = World::new();
    let (ours, others) = (
        Authority::new(&world.place, "ours"),
        Authority::new(&world.place, "others"),
    );
    world.install(&ours, &ours);
    // A certificate of ours alone keeps nobody out.
    let (status, said) = world.refused("0.0.0.0:0", &TLS);
    assert_eq!(status, Some(2), "{said}");
    assert!(said.contains("--listen-client-ca"), "{said}");
    let (status, said) = world.refused("127.0.0.1:0", &MUTUAL[2..]);
    assert_eq!(status, Some(2), "{said}");
    let (status, said) = world.refused("127.0.0.1:0", &TLS[..1]);
    assert_eq!(status, Some(2), "{said}");
    assert!(said.contains("--listen-tls-key"), "{said}");
    // Files that do not belong together, or are none, are said before anything is mounted.
    put(&others.key("server"), &world.file("key.pem"));
    let (status, said) = world.refused("127.0.0.1:0", &TLS);
    assert_eq!(status, Some(1), "{said}");
    assert!(said.contains("cert.pem"), "{said}");
    std::fs::write(world.file("ca.pem"), "nothing").unwrap();
    put(&ours.key("server"), &world.file("key.pem"));
    let (status, said) = world.refused("127.0.0.1:0", &MUTUAL);
    assert_eq!(status, Some(1), "{said}");
    assert!(said.contains("ca.pem"), "{said}");
}
