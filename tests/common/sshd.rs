//! A real SSH server: OpenSSH's.

use std::path::{Path, PathBuf};
use std::process::Command;

use svol::source::Secret;
use svol::source::ssh::{Env, HostKeys, Identity, KeyPlace, SshSettings};

use super::process::{Server, free_ports, listens, program, server_dir};
use super::wait_until;

/// What the key `encrypted` is encrypted with.
pub const PASSPHRASE: &str = "phrase-hunter2";

/// A running sshd on loopback, with host keys of three kinds, which lets this process's user in by
/// the keys `user`, `user_rsa` and `encrypted`, and not by `wrong`.
pub struct TestSshd {
    /// Its port on 127.0.0.1.
    pub port: u16,
    /// A directory for what it serves.
    pub root: PathBuf,
    server: Server,
    dir: PathBuf,
}

impl TestSshd {
    /// Starts a server.
    pub fn start() -> TestSshd {
        TestSshd::start_with("")
    }

    /// Returns a server that all tests of a process share. It may not be stopped.
    pub fn shared() -> &'static TestSshd {
        static SHARED: std::sync::OnceLock<TestSshd> = std::sync::OnceLock::new();
        SHARED.get_or_init(TestSshd::start)
    }

    /// Starts a server with more lines in its configuration; of two lines the first counts.
    pub fn start_with(more: &str) -> TestSshd {
        for _ in 0..3 {
            if let Some(server) = TestSshd::try_start(more) {
                return server;
            }
        }
        panic!("sshd does not start");
    }

    fn try_start(more: &str) -> Option<TestSshd> {
        // The server's own directory goes with it; ours stays over its restarts.
        let dir = server_dir("ssh");
        let [port] = free_ports();
        for kind in ["ed25519", "ecdsa", "rsa"] {
            keygen(&dir.join(format!("host_{kind}")), kind, "");
        }
        keygen(&dir.join("user"), "ed25519", "");
        keygen(&dir.join("user_rsa"), "rsa", "");
        keygen(&dir.join("encrypted"), "ed25519", PASSPHRASE);
        keygen(&dir.join("wrong"), "ed25519", "");
        let public = |name: &str| std::fs::read_to_string(dir.join(format!("{name}.pub"))).unwrap();
        let allowed = [public("user"), public("user_rsa"), public("encrypted")].concat();
        std::fs::write(dir.join("authorized"), allowed).unwrap();
        let known = format!("[127.0.0.1]:{port} {}", public("host_ed25519"));
        std::fs::write(dir.join("known_hosts"), known).unwrap();
        let root = dir.join("root");
        std::fs::create_dir(&root).unwrap();
        std::fs::write(dir.join("config"), config(&dir, port, more)).unwrap();
        let server = run(&dir, port)?;
        Some(TestSshd {
            port,
            root,
            server,
            dir,
        })
    }

    /// Kills the server and all of its sessions; connections are then refused.
    pub fn stop(&self) {
        // First the listener, so that no session is started meanwhile; they are looked for before, as
        // orphans are nobody's.
        let server = self.server.id();
        if let Some(pid) = server.and_then(|pid| rustix::process::Pid::from_raw(pid as i32)) {
            let _ = rustix::process::kill_process(pid, rustix::process::Signal::STOP);
        }
        self.kill_sessions();
        self.server.stop();
    }

    /// Starts it again after [`TestSshd::stop`], on the same port.
    pub fn start_again(&self) {
        self.server.restart();
        wait_until("sshd", || listens(self.port));
    }

    /// Kills all sessions, and leaves the server there.
    pub fn kill_sessions(&self) {
        for pid in sessions(&self.server) {
            kill(pid);
        }
    }

    /// Returns how many processes serve somebody now.
    pub fn sessions(&self) -> usize {
        sessions(&self.server).len()
    }

    /// Returns how many processes serve SFTP now.
    pub fn sftp_servers(&self) -> usize {
        sftp_servers(&self.server).len()
    }

    /// Returns how many files of the root the processes that serve SFTP have open now.
    pub fn open_files(&self) -> usize {
        let fds = |pid| std::fs::read_dir(format!("/proc/{pid}/fd")).ok();
        sftp_servers(&self.server)
            .into_iter()
            .filter_map(fds)
            .flat_map(|fds| fds.flatten())
            .filter_map(|fd| std::fs::read_link(fd.path()).ok())
            .filter(|to| to.starts_with(&self.root))
            .count()
    }

    /// Returns a file of the server's directory: a key (`user`), `known_hosts`.
    pub fn file(&self, name: &str) -> PathBuf {
        self.dir.join(name)
    }

    /// Returns settings that are let in.
    pub fn settings(&self) -> SshSettings {
        SshSettings {
            port: self.port,
            user: user(),
            host_keys: HostKeys::Known(vec![self.file("known_hosts")]),
            identities: vec![self.identity("user")],
            ..SshSettings::new("127.0.0.1", &Env::default())
        }
    }

    /// Returns settings for a directory of this machine.
    #[cfg(feature = "sftp")]
    pub fn serves(&self, path: &Path) -> svol::source::sftp::SftpSettings {
        svol::source::sftp::SftpSettings {
            ssh: self.settings(),
            path: path.to_str().unwrap().to_owned(),
        }
    }

    /// Returns a key of the server's directory as one that was given.
    pub fn identity(&self, name: &str) -> Identity {
        let file = self.file(name);
        let read = move || std::fs::read_to_string(&file).map_err(|e| e.to_string());
        Identity {
            key: KeyPlace::Given(Secret::from_fn(read)),
            passphrase: None,
        }
    }

    /// Returns the fingerprint of a key, as `ssh-keygen -l` prints it.
    pub fn fingerprint(&self, name: &str) -> String {
        let key = self.file(&format!("{name}.pub"));
        let out = Command::new(program("ssh-keygen"))
            .arg("-lf")
            .arg(key)
            .output();
        let out = String::from_utf8(out.unwrap().stdout).unwrap();
        out.split(' ').nth(1).unwrap().to_owned()
    }

    /// Returns what the server wrote.
    pub fn output(&self) -> String {
        self.server.output()
    }
}

impl Drop for TestSshd {
    fn drop(&mut self) {
        self.stop();
        let _ = std::fs::remove_dir_all(&self.dir);
    }
}

/// An agent with a key in it.
pub struct TestAgent {
    /// Its socket.
    pub socket: PathBuf,
    _server: Server,
    _dir: tempfile::TempDir,
}

impl TestAgent {
    /// Starts an agent that holds the key in `file`.
    pub fn start(file: &Path) -> TestAgent {
        // A socket's path is short.
        let dir = tempfile::Builder::new().prefix("svol-agent").tempdir();
        let dir = dir.unwrap();
        let socket = dir.path().join("socket");
        let mut command = Command::new(program("ssh-agent"));
        command.arg("-D").arg("-a").arg(&socket);
        let server = Server::start(command, server_dir("agent"));
        wait_until("ssh-agent", || socket.exists());
        let added = Command::new(program("ssh-add"))
            .arg("-q")
            .arg(file)
            .env("SSH_AUTH_SOCK", &socket)
            .status();
        assert!(added.unwrap().success(), "ssh-add");
        TestAgent {
            socket,
            _server: server,
            _dir: dir,
        }
    }
}

/// Returns this process's user, by whose name alone an sshd that is not root's lets in.
pub fn user() -> String {
    let out = Command::new("id").arg("-un").output().unwrap();
    String::from_utf8(out.stdout).unwrap().trim().to_owned()
}

/// Makes a key that is encrypted with `passphrase`, if that is not empty.
pub fn keygen(file: &Path, kind: &str, passphrase: &str) {
    let bits: &[&str] = match kind {
        "rsa" => &["-b", "2048"],
        _ => &[],
    };
    let made = Command::new(program("ssh-keygen"))
        .args(["-q", "-t", kind, "-C", "test", "-N", passphrase])
        .args(bits)
        .arg("-f")
        .arg(file)
        .output()
        .unwrap();
    assert!(made.status.success(), "ssh-keygen: {made:?}");
}

fn run(dir: &Path, port: u16) -> Option<Server> {
    if rustix::process::getuid().is_root() {
        // Where root's sshd locks its unprivileged half in. Debian's boot makes it.
        let _ = std::fs::create_dir("/run/sshd");
    }
    let mut command = Command::new(program("sshd"));
    command
        .arg("-D")
        .arg("-e")
        .arg("-f")
        .arg(dir.join("config"));
    let server = Server::start(command, server_dir("sshd"));
    wait_until("sshd", || listens(port) || server.has_ended());
    if server.has_ended() {
        eprintln!("{}", server.output());
        return None;
    }
    Some(server)
}

fn config(dir: &Path, port: u16, more: &str) -> String {
    let dir = dir.display();
    // Of most lines the first counts; two of these are an error.
    let sftp = match more.contains("Subsystem sftp") {
        true => "",
        false => "Subsystem sftp internal-sftp",
    };
    format!(
        "{more}\n\
         ListenAddress 127.0.0.1\n\
         Port {port}\n\
         HostKey {dir}/host_ed25519\n\
         HostKey {dir}/host_ecdsa\n\
         HostKey {dir}/host_rsa\n\
         AuthorizedKeysFile {dir}/authorized\n\
         PidFile none\n\
         UsePAM no\n\
         StrictModes no\n\
         PermitRootLogin yes\n\
         PasswordAuthentication no\n\
         KbdInteractiveAuthentication no\n\
         PrintMotd no\n\
         MaxStartups 100:30:200\n\
         {sftp}\n"
    )
}

/// Returns the processes that the server started: each session leads its own group, so that the
/// server's end is not theirs.
fn sessions(server: &Server) -> Vec<u32> {
    let Some(server) = server.id() else {
        return Vec::new();
    };
    let mut parents = Vec::new();
    for process in std::fs::read_dir("/proc").unwrap().flatten() {
        let Ok(pid) = process.file_name().to_string_lossy().parse::<u32>() else {
            continue;
        };
        let stat = std::fs::read_to_string(process.path().join("stat")).unwrap_or_default();
        // After the name, which may hold anything: the state, the parent.
        let parent = stat.rsplit(')').next().unwrap_or_default();
        let parent = parent
            .split_whitespace()
            .nth(1)
            .and_then(|p| p.parse().ok());
        parents.extend(parent.map(|parent: u32| (pid, parent)));
    }
    let mut all = Vec::new();
    let mut front = vec![server];
    while let Some(parent) = front.pop() {
        for (pid, _) in parents.iter().filter(|(_, p)| *p == parent) {
            all.push(*pid);
            front.push(*pid);
        }
    }
    all
}

fn sftp_servers(server: &Server) -> Vec<u32> {
    let is_sftp = |pid: &u32| {
        let line = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        String::from_utf8_lossy(&line).contains("internal-sftp")
    };
    sessions(server).into_iter().filter(is_sftp).collect()
}

fn kill(pid: u32) {
    if let Some(pid) = rustix::process::Pid::from_raw(pid as i32) {
        let _ = rustix::process::kill_process(pid, rustix::process::Signal::KILL);
    }
}
