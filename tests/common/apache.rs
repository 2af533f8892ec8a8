//! Real web servers beside nginx: Apache, with mod_dav, and Python's `http.server`.

use std::path::PathBuf;
use std::process::Command;

use super::process::{Server, free_ports, listens, program, server_dir};
use super::wait_until;
use super::web::{PASSWORD, USER};

/// A user who owns nothing else.
const NOBODY: u32 = 65534;

/// A running Apache. One directory is served in several ways, by the first part of the path:
/// `dav` and `davauth` (WebDAV, the second with a password), `list` and `fancy` (index pages).
pub struct TestApache {
    /// Its URL, without a slash at its end.
    pub url: String,
    /// The directory that it serves.
    pub root: PathBuf,
    server: Server,
}

impl TestApache {
    /// Starts a server.
    pub fn start() -> TestApache {
        let dir = server_dir("apache");
        let root = dir.join("root");
        std::fs::create_dir(&root).unwrap();
        let hash = Command::new(program("openssl"))
            .args(["passwd", "-apr1", PASSWORD])
            .output()
            .unwrap();
        let hash = String::from_utf8(hash.stdout).unwrap();
        std::fs::write(dir.join("users"), format!("{USER}:{hash}")).unwrap();
        let (url, server) = started("apache", |port| {
            std::fs::write(dir.join("apache.conf"), config(&dir, port)).unwrap();
            // It refuses to serve as root. One process of its own, which dies with the tests.
            let mut command = match rustix::process::getuid().is_root() {
                true => {
                    std::os::unix::fs::chown(&dir, Some(NOBODY), Some(NOBODY)).unwrap();
                    let mut command = Command::new(program("setpriv"));
                    command.args(["--reuid=65534", "--regid=65534", "--clear-groups"]);
                    command
                        .args(["--pdeathsig=KILL", "--"])
                        .arg(program("apache2"));
                    command
                }
                false => Command::new(program("apache2")),
            };
            command.arg("-X").arg("-f").arg(dir.join("apache.conf"));
            Server::start(command, dir.clone())
        });
        TestApache { url, root, server }
    }

    /// Kills the server and starts it again.
    pub fn restart(&self) {
        self.server.restart();
        let port = self.url.rsplit(':').next().unwrap().parse().unwrap();
        wait_until("the server again", || listens(port));
    }

    /// Stops the server; connections are then refused.
    pub fn stop(&self) {
        self.server.stop();
    }
}

/// Python's `http.server`, which knows no ranges and no ETags.
pub struct TestPython {
    /// Its URL, without a slash at its end.
    pub url: String,
    /// The directory that it serves.
    pub root: PathBuf,
    server: Server,
}

impl TestPython {
    /// Starts a server.
    pub fn start() -> TestPython {
        let dir = server_dir("python");
        let root = dir.join("root");
        std::fs::create_dir(&root).unwrap();
        let (url, server) = started("http.server", |port| {
            let mut command = Command::new("/usr/bin/python3");
            command.args(["-m", "http.server", &port.to_string()]);
            command
                .args(["--bind", "127.0.0.1", "--directory"])
                .arg(&root);
            Server::start(command, dir.clone())
        });
        TestPython { url, root, server }
    }

    /// Kills the server and starts it again.
    pub fn restart(&self) {
        self.server.restart();
        let port = self.url.rsplit(':').next().unwrap().parse().unwrap();
        wait_until("the server again", || listens(port));
    }

    /// Stops the server; connections are then refused.
    pub fn stop(&self) {
        self.server.stop();
    }
}

/// Starts a server on a port of its own, and waits until it listens.
fn started(what: &str, start: impl FnOnce(u16) -> Server) -> (String, Server) {
    let [port] = free_ports();
    let server = start(port);
    wait_until(what, || listens(port) || server.has_ended());
    assert!(!server.has_ended(), "{what}: {}", server.output());
    (format!("http://127.0.0.1:{port}"), server)
}

fn config(dir: &std::path::Path, port: u16) -> String {
    let dir = dir.display();
    let modules: String = [
        "mpm_event",
        "authz_core",
        "authn_core",
        "authn_file",
        "authz_user",
        "auth_basic",
        "alias",
        "dir",
        "autoindex",
        "dav",
        "dav_fs",
    ]
    .iter()
    .map(|m| format!("LoadModule {m}_module /usr/lib/apache2/modules/mod_{m}.so\n"))
    .collect();
    format!(
        r#"{modules}
ServerName localhost
Listen 127.0.0.1:{port}
PidFile {dir}/pid
DefaultRuntimeDir {dir}
ErrorLog {dir}/errors
DavLockDB {dir}/locks
EnableSendfile On
DirectoryIndex disabled
Alias /davauth/ {dir}/root/
Alias /dav/ {dir}/root/
Alias /list/ {dir}/root/
Alias /fancy/ {dir}/root/
<Directory {dir}/root>
    Require all granted
    Options Indexes
</Directory>
<Location /dav/>
    Dav On
</Location>
<Location /davauth/>
    Dav On
    AuthType Basic
    AuthName tests
    AuthUserFile {dir}/users
    Require valid-user
</Location>
<Location /fancy/>
    IndexOptions FancyIndexing HTMLTable NameWidth=20
</Location>
"#
    )
}
