//! A real web server: nginx.

use std::path::{Path, PathBuf};
use std::process::Command;

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
        let [port, tls_port] = free_ports();
        let root = dir.join("root");
        std::fs::create_dir(&root).unwrap();
        std::fs::write(dir.join("users"), format!("{USER}:{{PLAIN}}{PASSWORD}\n")).unwrap();
        std::fs::write(dir.join("nginx.conf"), config(&dir, port, tls_port)).unwrap();
        certificate(&dir);
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
            root,
            server,
        })
    }

    /// Returns the file of the certificate that `https` shows.
    pub fn ca(&self) -> PathBuf {
        self.server.dir().join("cert.pem")
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

/// Makes a certificate for 127.0.0.1 that signs itself.
pub fn certificate(dir: &Path) {
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
            "subjectAltName=IP:127.0.0.1",
            "-addext",
            "basicConstraints=critical,CA:FALSE",
            "-keyout",
            "key.pem",
            "-out",
            "cert.pem",
        ])
        .output()
        .unwrap();
    assert!(made.status.success(), "openssl: {made:?}");
}

fn config(dir: &Path, port: u16, tls_port: u16) -> String {
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
        ssl_certificate_key {dir}/key.pem;
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
}}
"#
    )
}
