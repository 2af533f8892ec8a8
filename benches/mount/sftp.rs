//! An SFTP server for sshfs: OpenSSH's, on loopback, with keys of its own.

use std::fs;
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use crate::delay::Delay;
use crate::world::{Place, ROUND_TRIP};

/// The server; gone when dropped.
pub struct Sftp {
    server: Child,
    near: u16,
    delay: Delay,
    /// Who may log in: who runs this.
    pub user: String,
    /// With which key.
    pub key: PathBuf,
}

impl Sftp {
    /// Starts it; what it needs is kept in `dir`.
    pub fn new(dir: &Path) -> Sftp {
        fs::create_dir_all(dir).unwrap();
        for name in ["host", "user"] {
            let mut command = Command::new("ssh-keygen");
            command
                .args(["-q", "-t", "ed25519", "-N", "", "-f"])
                .arg(dir.join(name));
            assert!(command.status().unwrap().success(), "{command:?}");
        }
        let free = TcpListener::bind("127.0.0.1:0").unwrap();
        let near = free.local_addr().unwrap().port();
        drop(free);
        let at = dir.display();
        let config = format!(
            "Port {near}\nListenAddress 127.0.0.1\nHostKey {at}/host\nPidFile none\n\
             AuthorizedKeysFile {at}/user.pub\nStrictModes no\nUsePAM no\nUseDNS no\n\
             PermitRootLogin prohibit-password\nPasswordAuthentication no\nMaxStartups 100\n\
             Subsystem sftp internal-sftp\n"
        );
        fs::write(dir.join("config"), config).unwrap();
        if rustix::process::geteuid().is_root() {
            // Where it locks up those who are not logged in yet.
            let _ = fs::create_dir_all("/run/sshd");
        }
        // The name has to be absolute, as it starts itself anew for each connection.
        let mut server = Command::new("/usr/sbin/sshd")
            .arg("-D")
            .arg("-f")
            .arg(dir.join("config"))
            .arg("-E")
            .arg(dir.join("log"))
            .stdin(Stdio::null())
            .spawn()
            .expect("sshd is not installed: run tests/setup.sh bench");
        let started = Instant::now();
        while TcpStream::connect(("127.0.0.1", near)).is_err() {
            let said = || fs::read_to_string(dir.join("log")).unwrap_or_default();
            assert!(
                server.try_wait().unwrap().is_none(),
                "sshd ended: {}",
                said()
            );
            let late = started.elapsed() > Duration::from_secs(30);
            assert!(!late, "sshd does not start: {}", said());
            std::thread::sleep(Duration::from_millis(20));
        }
        let user = Command::new("id").arg("-un").output().unwrap();
        Sftp {
            server,
            near,
            delay: Delay::new(([127, 0, 0, 1], near).into(), ROUND_TRIP),
            user: String::from_utf8(user.stdout).unwrap().trim().to_owned(),
            key: dir.join("user"),
        }
    }

    /// Returns its port from a place.
    pub fn port(&self, place: Place) -> u16 {
        match place {
            Place::Near => self.near,
            Place::Far => self.delay.at.port(),
        }
    }
}

impl Drop for Sftp {
    fn drop(&mut self) {
        let _ = self.server.kill();
        let _ = self.server.wait();
    }
}
