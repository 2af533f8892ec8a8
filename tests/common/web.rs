//! A real web server: nginx.

use std::path::{Path, PathBuf};
use std::process::Command;

use svol::source::ClientCertificate;
use svol::source::http::HttpSettings;
use url::Url;

use super::process::{Server, free_ports, listens, program, server_dir};
use super::wait_until;

/// The user name for `/auth/`.
pub const USER: &str = "tester";
/// The password of [`USER`].
pub const PASSWORD: &str = "web-hunter2";

/// A running nginx. One directory is served in several ways, by the first part of the path:
/// `html` and `json` (index pages), `noranges`, `auth` (as html, with a password), `plain` (no
/// index), `odd` (a page that is no listing, with status 200, for everything), `down` (a redirect to
/// http).
pub struct TestNginx {
    /// Its URL, without a slash at its end.
    pub url: String,
    /// The same over TLS, by a certificate that only [`TestNginx::ca`] vouches for.
    pub https: String,
    /// The same as `html`, for those who show the certificate [`TestNginx::client`].
    pub mutual: String,
    /// The directory that it serves.
    pub root: PathBuf,
    server: Server,
}

impl TestNginx {
    /// Starts a server.
    pub fn start() -> TestNginx {
        for _ in 0..3 {
            if let Some(server) = TestNginx::try_start() {
                return server;
            }
        }
        panic!("nginx does not start");
    }

    fn try_start() -> Option<TestNginx> {
        let dir = server_dir("nginx");
        let [port, tls_port, mutual_port] = free_ports();
        let root = dir.join("root");
        std::fs::create_dir(&root).unwrap();
        std::fs::write(dir.join("users"), format!("{USER}:{{PLAIN}}{PASSWORD}\n")).unwrap();
        std::fs::write(
            dir.join("nginx.conf"),
            config(&dir, [port, tls_port, mutual_port]),
        )
        .unwrap();
        for name in ["cert", "client", "stranger"] {
            certificate(&dir, name);
        }
        let mut command = Command::new(program("nginx"));
        command.arg("-e").arg(dir.join("errors"));
        command.arg("-c").arg(dir.join("nginx.conf"));
        let server = Server::start(command, dir);
        wait_until("nginx", || listens(port) || server.has_ended());
        if server.has_ended() {
            eprintln!("{}", server.output());
            return None;
        }
        Some(TestNginx {
            url: format!("http://127.0.0.1:{port}"),
            https: format!("https://127.0.0.1:{tls_port}"),
            mutual: format!("https://127.0.0.1:{mutual_port}"),
            root,
            server,
        })
    }

    /// Returns the file of the certificate that `https` shows.
    pub fn ca(&self) -> PathBuf {
        self.server.dir().join("cert.pem")
    }

    /// Kills the server and starts it again.
    pub fn restart(&self) {
        self.server.restart();
        let port = self.url.rsplit(':').next().unwrap().parse().unwrap();
        wait_until("nginx again", || listens(port));
    }

    /// Returns the certificate that `mutual` wants to see.
    pub fn client(&self) -> ClientCertificate {
        self.certificate("client")
    }

    /// Returns a certificate that it does not trust.
    pub fn stranger(&self) -> ClientCertificate {
        self.certificate("stranger")
    }

    fn certificate(&self, name: &str) -> ClientCertificate {
        ClientCertificate {
            certificate: self.server.dir().join(format!("{name}.pem")),
            key: self.server.dir().join(format!("{name}-key.pem")),
        }
    }

    /// Stops the server; connections are then refused.
    pub fn stop(&self) {
        self.server.stop();
    }

    /// Returns settings for a way of serving and a path, such as `html/some/dir/`.
    pub fn settings(&self, path: &str) -> HttpSettings {
        HttpSettings::new(Url::parse(&format!("{}/{path}", self.url)).unwrap())
    }
}

/// Makes a certificate for 127.0.0.1 and `files.test` that signs itself: `NAME.pem` and
/// `NAME-key.pem`.
pub fn certificate(dir: &Path, name: &str) {
    let made = Command::new(program("openssl"))
        .current_dir(dir)
        .args([
            "req",
            "-x509",
            "-newkey",
            "ec",
            "-pkeyopt",
            "ec_paramgen_curve:P-256",
        ])
        .args(["-nodes", "-days", "2", "-subj", "/CN=test", "-addext"])
        .args([
            "subjectAltName=IP:127.0.0.1,DNS:files.test",
            "-addext",
            "basicConstraints=critical,CA:FALSE",
            "-keyout",
            &format!("{name}-key.pem"),
            "-out",
            &format!("{name}.pem"),
        ])
        .output()
        .unwrap();
    assert!(made.status.success(), "openssl: {made:?}");
}

fn config(dir: &Path, [port, tls_port, mutual_port]: [u16; 3]) -> String {
    let dir = dir.display();
    // As root, nginx would serve as a user who cannot read our directories.
    let user = match rustix::process::getuid().is_root() {
        true => "user root;",
        false => "",
    };
    let temps: String = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"]
        .iter()
        .map(|kind| format!("{kind}_temp_path {dir}/temp-{kind};\n"))
        .collect();
    format!(
        r#"{user}
daemon off;
master_process off;
pid {dir}/pid;
error_log {dir}/errors;
events {{ worker_connections 1024; }}
http {{
    access_log off;
    {temps}
    default_type application/octet-stream;
    sendfile on;
    server {{
        listen 127.0.0.1:{port};
        listen 127.0.0.1:{tls_port} ssl;
        ssl_certificate {dir}/cert.pem;
        ssl_certificate_key {dir}/cert-key.pem;
        location /html/ {{ alias {dir}/root/; autoindex on; }}
        # Without a page of its own for a directory that has an index.html, as real trees do.
        location /json/ {{
            alias {dir}/root/;
            index .none;
            autoindex on;
            autoindex_format json;
        }}
        location /noranges/ {{ alias {dir}/root/; autoindex on; max_ranges 0; }}
        location /plain/ {{ alias {dir}/root/; }}
        location /auth/ {{
            alias {dir}/root/;
            autoindex on;
            auth_basic "tests";
            auth_basic_user_file {dir}/users;
        }}
        location /down/ {{ return 302 http://127.0.0.1:{port}/html/; }}
        location /odd/ {{
            default_type text/html;
            return 200 "<html><body>We will be <a href=back.html>back</a> soon.</body></html>";
        }}
    }}
    server {{
        listen 127.0.0.1:{mutual_port} ssl;
        ssl_certificate {dir}/cert.pem;
        ssl_certificate_key {dir}/cert-key.pem;
        ssl_client_certificate {dir}/client.pem;
        ssl_verify_client on;
        location / {{ alias {dir}/root/; autoindex on; }}
    }}
}}
"#
    )
}
