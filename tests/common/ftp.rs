//! Real FTP servers: vsftpd, which lists as `ls` does, and pyftpdlib, which knows MLSD.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Mutex;

use svol::source::Secret;
use svol::source::ftp::{FtpSettings, FtpTls};

use super::process::{Server, free_ports, listens, program, server_dir};
use super::{wait_until, web};

/// The user name, where one is needed.
pub const USER: &str = "tester";
/// The password of [`USER`].
pub const PASSWORD: &str = "ftp-hunter2";

/// Which server, and what it knows.
#[derive(Debug, Clone)]
pub struct Way {
    /// pyftpdlib, or vsftpd.
    pub machine: bool,
    /// Whether it wants TLS, and a password with it.
    pub tls: FtpTls,
    /// Whether vsftpd wants the control connection's TLS session on data connections.
    pub reuse: bool,
    /// Commands that pyftpdlib does not know.
    pub without: &'static [&'static str],
    /// How many connections it takes.
    pub most: usize,
    /// After how many seconds it closes a connection that nothing is asked on.
    pub idle: usize,
    /// The address that it gives in reply to PASV.
    pub masquerade: Option<&'static str>,
}

impl Way {
    /// vsftpd, without TLS, for anyone.
    pub fn vsftpd() -> Way {
        Way {
            machine: false,
            tls: FtpTls::None,
            reuse: false,
            without: &[],
            most: 100,
            idle: 300,
            masquerade: None,
        }
    }

    /// pyftpdlib, without TLS, for [`USER`] and anyone.
    pub fn pyftpdlib() -> Way {
        Way {
            machine: true,
            ..Way::vsftpd()
        }
    }
}

/// A running server that serves one directory.
pub struct TestFtp {
    /// The directory that it serves.
    pub root: PathBuf,
    way: Way,
    port: u16,
    home: PathBuf,
    server: Mutex<Option<Server>>,
}

impl TestFtp {
    /// Starts a server.
    pub fn start(way: Way) -> TestFtp {
        for _ in 0..3 {
            let home = server_dir("ftp-root");
            let root = home.join("served");
            std::fs::create_dir(&root).unwrap();
            web::certificate(&home, "cert");
            let [port] = free_ports();
            let ftp = TestFtp {
                root,
                way: way.clone(),
                port,
                home,
                server: Mutex::new(None),
            };
            if ftp.run() {
                return ftp;
            }
        }
        panic!("the FTP server does not start");
    }

    fn run(&self) -> bool {
        let command = match self.way.machine {
            true => self.pyftpdlib(),
            false => self.vsftpd(),
        };
        let server = Server::start(command, server_dir("ftp"));
        wait_until("the FTP server", || {
            listens(self.port) || server.has_ended()
        });
        let runs = !server.has_ended();
        if !runs {
            eprintln!("{}", server.output());
        }
        *self.server.lock().unwrap() = Some(server);
        runs
    }

    /// Stops the server; connections are then refused.
    pub fn stop(&self) {
        self.server.lock().unwrap().take();
    }

    /// Stops the server, and starts it again on the same port.
    pub fn restart(&self) {
        self.stop();
        assert!(self.run(), "the server does not start again");
    }

    /// Returns the file of the certificate that it shows.
    pub fn ca(&self) -> PathBuf {
        self.home.join("cert.pem")
    }

    /// Returns settings that reach the server, for whoever it wants.
    pub fn settings(&self) -> FtpSettings {
        let mut settings = FtpSettings::new("127.0.0.1");
        settings.port = Some(self.port);
        settings.tls = self.way.tls;
        if self.way.tls != FtpTls::None {
            settings.certificates.ca_bundle = Some(self.ca());
            settings.password = Some(Secret::fixed(PASSWORD));
            if self.way.machine {
                settings.user = Some(USER.into());
            }
        }
        settings
    }

    fn vsftpd(&self) -> Command {
        let yes = |is: bool| if is { "YES" } else { "NO" };
        let (home, way) = (self.home.display(), &self.way);
        // The user is `anonymous` in any case: others are the machine's. With TLS, it has a password.
        std::fs::write(self.home.join("passwords"), format!("{PASSWORD}\n")).unwrap();
        let tls = way.tls != FtpTls::None;
        let config = format!(
            "listen=YES\nlisten_address=127.0.0.1\nlisten_port={port}\nbackground=NO\n\
             anonymous_enable=YES\nlocal_enable=NO\nwrite_enable=NO\nanon_root={home}/served\n\
             run_as_launching_user=YES\nanon_world_readable_only=NO\nisolate=NO\n\
             isolate_network=NO\nseccomp_sandbox=NO\nxferlog_enable=NO\n\
             max_clients={most}\nmax_per_ip=0\nidle_session_timeout={idle}\n\
             pasv_address=127.0.0.1\npasv_enable=YES\n\
             secure_email_list_enable={password}\nemail_password_file={home}/passwords\n\
             ssl_enable={tls}\nallow_anon_ssl={tls}\nforce_anon_logins_ssl={tls}\n\
             force_anon_data_ssl={tls}\nimplicit_ssl={implicit}\nrequire_ssl_reuse={reuse}\n\
             ssl_ciphers=HIGH\nrsa_cert_file={home}/cert.pem\n\
             rsa_private_key_file={home}/cert-key.pem\nno_anon_password={open}\n\
             delay_failed_login=0\n",
            port = self.port,
            most = way.most,
            idle = way.idle,
            password = yes(tls),
            open = yes(!tls),
            tls = yes(tls),
            implicit = yes(way.tls == FtpTls::Implicit),
            reuse = yes(way.reuse),
        );
        let file = self.home.join("vsftpd.conf");
        std::fs::write(&file, config).unwrap();
        let mut command = Command::new(program("vsftpd"));
        command.arg(file);
        command
    }

    fn pyftpdlib(&self) -> Command {
        let way = &self.way;
        let file = self.home.join("server.py");
        std::fs::write(&file, PYFTPDLIB).unwrap();
        let mut command = Command::new(python());
        command.arg(file);
        for (name, value) in [
            ("PORT", self.port.to_string()),
            ("ROOT", self.root.display().to_string()),
            ("NAME", USER.into()),
            ("PASSWORD", PASSWORD.into()),
            ("CERT", self.ca().display().to_string()),
            ("KEY", self.home.join("cert-key.pem").display().to_string()),
            ("TLS", format!("{:?}", way.tls)),
            ("WITHOUT", way.without.join(" ")),
            ("MOST", way.most.to_string()),
            ("IDLE", way.idle.to_string()),
            ("MASQUERADE", way.masquerade.unwrap_or_default().into()),
        ] {
            command.env(format!("FTP_{name}"), value);
        }
        command
    }
}

impl Drop for TestFtp {
    fn drop(&mut self) {
        self.stop();
        let _ = std::fs::remove_dir_all(&self.home);
    }
}

/// The interpreter that has pyftpdlib.
fn python() -> PathBuf {
    let own = Path::new(env!("CARGO_MANIFEST_DIR")).join("target/test-env/bin/python");
    assert!(own.exists(), "run tests/setup.sh");
    own
}

const PYFTPDLIB: &str = r#"
import os
from pyftpdlib.authorizers import DummyAuthorizer
from pyftpdlib.handlers import FTPHandler, TLS_FTPHandler
from pyftpdlib.servers import FTPServer

of = lambda name: os.environ["FTP_" + name]
tls = of("TLS")
handler = FTPHandler if tls == "None" else TLS_FTPHandler
handler.authorizer = DummyAuthorizer()
handler.authorizer.add_user(of("NAME"), of("PASSWORD"), of("ROOT"), perm="elr")
if tls == "None":
    handler.authorizer.add_anonymous(of("ROOT"))
else:
    handler.certfile, handler.keyfile = of("CERT"), of("KEY")
    handler.tls_control_required = handler.tls_data_required = True
if tls == "Implicit":
    class handler(handler):
        def handle(self):
            self.secure_connection(self.ssl_context)
        def handle_ssl_established(self):
            FTPHandler.handle(self)
handler.proto_cmds = {k: v for k, v in handler.proto_cmds.items() if k not in of("WITHOUT").split()}
handler.timeout = int(of("IDLE"))
handler.auth_failed_timeout = 0.1
handler.masquerade_address = of("MASQUERADE") or None
server = FTPServer(("127.0.0.1", int(of("PORT"))), handler)
server.max_cons = int(of("MOST"))
server.serve_forever()
"#;
