//! Repositories made by git, and the servers that show them: nginx with git-http-backend, and
//! `git daemon`.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU64, Ordering};

use super::process::{Server, free_ports, listens, program, server_dir};
use super::wait_until;

/// The user name for `/auth/`.
pub const USER: &str = "tester";
/// The password of [`USER`].
pub const PASSWORD: &str = "git-hunter2";

/// How many requests a web server's git answers at once.
const RUNNERS: usize = 4;

/// The time of the first commit; each one after it is a minute later.
pub const EPOCH: u64 = 1_700_000_000;

/// A bare repository.
pub struct Repo {
    /// Its directory.
    pub path: PathBuf,
    commits: AtomicU64,
}

/// One change of a commit.
pub enum Change<'a> {
    /// A file, with its mode (100644, 100755, 120000).
    Put(&'a str, &'a str, &'a [u8]),
    /// A submodule at a commit.
    Module(&'a str, &'a str),
    /// A file or directory that goes.
    Delete(&'a str),
}

/// Returns git without anybody's settings.
pub fn git(dir: &Path) -> Command {
    let mut git = Command::new(program("git"));
    git.arg("-C").arg(dir);
    own_settings(&mut git);
    git
}

/// Returns one of git's own programs.
fn helper(name: &str) -> PathBuf {
    let output = git(Path::new("/")).arg("--exec-path").output().unwrap();
    let own = PathBuf::from(String::from_utf8_lossy(&output.stdout).trim()).join(name);
    match own.exists() {
        true => own,
        false => Path::new("/usr/lib/git-core").join(name),
    }
}

fn own_settings(command: &mut Command) {
    command
        .env("GIT_CONFIG_NOSYSTEM", "1")
        .env("GIT_CONFIG_GLOBAL", "/dev/null")
        .env("GIT_TERMINAL_PROMPT", "0");
}

impl Repo {
    /// Makes an empty repository at `path`, whose objects are named by `format`.
    pub fn init(path: &Path, format: &str) -> Repo {
        std::fs::create_dir_all(path).unwrap();
        let repo = Repo {
            path: path.into(),
            commits: AtomicU64::new(0),
        };
        let format = format!("--object-format={format}");
        repo.run(&["init", "-q", "--bare", "-b", "main", &format]);
        // What one process packs or throws away must not be what another is counting.
        repo.run(&["config", "gc.auto", "0"]);
        repo
    }

    /// Runs git in the repository, and returns what it says.
    pub fn run(&self, args: &[&str]) -> String {
        let output = git(&self.path).args(args).output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "git {args:?}: {said}");
        String::from_utf8_lossy(&output.stdout).trim().to_owned()
    }

    /// Commits to a branch, on top of what it is at; returns the commit.
    pub fn commit(&self, branch: &str, changes: &[Change]) -> String {
        let name = format!("refs/heads/{branch}");
        let tip = git(&self.path)
            .args(["rev-parse", "-q", "--verify", &name])
            .output()
            .unwrap();
        let tip = String::from_utf8_lossy(&tip.stdout).trim().to_owned();
        self.commit_on(
            branch,
            Some(tip.as_str()).filter(|t| !t.is_empty()),
            changes,
        )
    }

    /// Commits to a branch, wherever it was, on top of `parent` alone; returns the commit.
    pub fn commit_on(&self, branch: &str, parent: Option<&str>, changes: &[Change]) -> String {
        let n = self.commits.fetch_add(1, Ordering::Relaxed);
        let time = EPOCH + 60 * n;
        let mut input = Vec::new();
        let mut say = |bytes: &[u8]| input.extend_from_slice(bytes);
        let head = format!("reset refs/heads/{branch}\ncommit refs/heads/{branch}\n");
        say(head.as_bytes());
        say(format!("committer t <t@t> {time} +0000\ndata 0\n").as_bytes());
        if let Some(parent) = parent {
            say(format!("from {parent}\n").as_bytes());
        }
        for change in changes {
            match change {
                Change::Put(mode, path, bytes) => {
                    say(format!("M {mode} inline {}\n", quoted(path)).as_bytes());
                    say(format!("data {}\n", bytes.len()).as_bytes());
                    say(bytes);
                    say(b"\n");
                }
                Change::Module(path, commit) => {
                    say(format!("M 160000 {commit} {}\n", quoted(path)).as_bytes());
                }
                Change::Delete(path) => say(format!("D {}\n", quoted(path)).as_bytes()),
            }
        }
        self.import(&input);
        self.run(&["rev-parse", &format!("refs/heads/{branch}")])
    }

    fn import(&self, input: &[u8]) {
        let mut child = git(&self.path)
            .args(["fast-import", "--quiet", "--force"])
            .stdin(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let written = child.stdin.take().unwrap().write_all(input);
        let output = child.wait_with_output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(
            output.status.success() && written.is_ok(),
            "fast-import: {said}"
        );
    }

    /// Puts a file on the branch `main`.
    pub fn put(&self, path: &str, bytes: &[u8]) -> String {
        self.commit("main", &[Change::Put("100644", path, bytes)])
    }

    /// Deletes a file on the branch `main`.
    pub fn delete(&self, path: &str) -> String {
        self.commit("main", &[Change::Delete(path)])
    }
}

/// A path as fast-import reads it.
fn quoted(path: &str) -> String {
    let mut quoted = String::from("\"");
    for byte in path.bytes() {
        match byte {
            b'"' | b'\\' => quoted.extend(['\\', char::from(byte)]),
            0x20..=0x7e => quoted.push(char::from(byte)),
            _ => quoted.push_str(&format!("\\{byte:03o}")),
        }
    }
    quoted.push('"');
    quoted
}

/// nginx with git-http-backend. The repositories of one directory are shown below `git`, `auth`
/// (with a password), `old` (only the protocol before version 2) and `dumb` (as plain files).
pub struct TestGitHttp {
    /// Its URL, without a slash at its end.
    pub url: String,
    /// The directory of the repositories.
    pub root: PathBuf,
    log: PathBuf,
    port: u16,
    nginx: Server,
    fcgi: Vec<Server>,
}

impl TestGitHttp {
    /// Starts a server.
    pub fn start() -> TestGitHttp {
        for _ in 0..3 {
            if let Some(server) = TestGitHttp::try_start() {
                return server;
            }
        }
        panic!("nginx does not start");
    }

    fn try_start() -> Option<TestGitHttp> {
        // One process each, since one that forks leaves its children behind when it is killed.
        let (mut fcgi, mut sockets) = (Vec::new(), String::new());
        for _ in 0..RUNNERS {
            let dir = server_dir("fcgiwrap");
            let socket = dir.join("s");
            let mut command = Command::new(program("fcgiwrap"));
            own_settings(&mut command);
            command.arg("-s").arg(format!("unix:{}", socket.display()));
            let server = Server::start(command, dir);
            wait_until("fcgiwrap", || socket.exists() || server.has_ended());
            assert!(!server.has_ended(), "fcgiwrap: {}", server.output());
            sockets.push_str(&format!("server unix:{};\n", socket.display()));
            fcgi.push(server);
        }

        let dir = server_dir("git-nginx");
        let [port] = free_ports();
        let root = dir.join("root");
        std::fs::create_dir(&root).unwrap();
        std::fs::write(dir.join("users"), format!("{USER}:{{PLAIN}}{PASSWORD}\n")).unwrap();
        std::fs::write(dir.join("nginx.conf"), config(&dir, port, &sockets)).unwrap();
        let mut command = Command::new(program("nginx"));
        command.arg("-e").arg(dir.join("errors"));
        command.arg("-c").arg(dir.join("nginx.conf"));
        let log = dir.join("access");
        let nginx = Server::start(command, dir);
        wait_until("nginx", || listens(port) || nginx.has_ended());
        if nginx.has_ended() {
            eprintln!("{}", nginx.output());
            return None;
        }
        Some(TestGitHttp {
            url: format!("http://127.0.0.1:{port}"),
            root,
            log,
            port,
            nginx,
            fcgi,
        })
    }

    /// Makes a repository that gives what partial clones need.
    pub fn repo(&self, name: &str) -> Repo {
        let repo = Repo::init(&self.root.join(name), "sha1");
        repo.run(&["config", "uploadpack.allowFilter", "true"]);
        repo.run(&["config", "uploadpack.allowAnySHA1InWant", "true"]);
        repo
    }

    /// Returns the bytes of all replies to POSTs so far.
    pub fn sent(&self) -> u64 {
        let log = std::fs::read_to_string(&self.log).unwrap();
        let posts = log.lines().filter_map(|line| line.strip_prefix("POST "));
        posts
            .map(|bytes| bytes.trim().parse::<u64>().unwrap())
            .sum()
    }

    /// Stops the server; connections are then refused.
    pub fn stop(&self) {
        self.nginx.stop();
    }

    /// Kills the server and starts it again.
    pub fn restart(&self) {
        self.nginx.restart();
        wait_until("nginx", || listens(self.port));
    }
}

fn config(dir: &Path, port: u16, sockets: &str) -> String {
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
    let http = helper("git-http-backend");
    let http = http.display();
    let backend = |path: &str, protocol: &str| {
        format!(
            r#"fastcgi_pass backend;
            fastcgi_buffering off;
            fastcgi_param SCRIPT_FILENAME {http};
            fastcgi_param GIT_PROJECT_ROOT {dir}/root;
            fastcgi_param GIT_HTTP_EXPORT_ALL 1;
            fastcgi_param PATH_INFO {path};
            fastcgi_param QUERY_STRING $query_string;
            fastcgi_param REQUEST_METHOD $request_method;
            fastcgi_param CONTENT_TYPE $content_type;
            fastcgi_param CONTENT_LENGTH $content_length;
            {protocol}"#
        )
    };
    let v2 = "fastcgi_param GIT_PROTOCOL $http_git_protocol;";
    let (plain, auth) = (backend("/$1", v2), backend("/$1", v2));
    // git-http-backend looks at the header, too.
    let old = backend("/$1", "fastcgi_param HTTP_GIT_PROTOCOL \"\";");
    format!(
        r#"{user}
daemon off;
master_process off;
pid {dir}/pid;
error_log {dir}/errors;
events {{ worker_connections 1024; }}
http {{
    log_format bytes '$request_method $body_bytes_sent';
    access_log {dir}/access bytes;
    {temps}
    client_max_body_size 100m;
    upstream backend {{ least_conn; {sockets} }}
    server {{
        listen 127.0.0.1:{port};
        location ~ ^/git/(.*)$ {{ {plain} }}
        location ~ ^/auth/(.*)$ {{
            auth_basic "tests";
            auth_basic_user_file {dir}/users;
            {auth}
        }}
        location ~ ^/old/(.*)$ {{ {old} }}
        location /dumb/ {{ alias {dir}/root/; default_type text/plain; }}
        location ~ ^/moved/(.*)$ {{ return 302 /git/$1$is_args$args; }}
    }}
}}
"#
    )
}

/// A `git daemon`.
pub struct TestGitDaemon {
    /// Its URL, without a slash at its end.
    pub url: String,
    /// The directory of the repositories.
    pub root: PathBuf,
    port: u16,
    server: Server,
}

impl TestGitDaemon {
    /// Starts a server.
    pub fn start() -> TestGitDaemon {
        let dir = server_dir("git-daemon");
        let root = dir.join("root");
        std::fs::create_dir(&root).unwrap();
        let [port] = free_ports();
        let mut command = Command::new(helper("git-daemon"));
        own_settings(&mut command);
        command.args(["--export-all", "--reuseaddr", "--listen=127.0.0.1"]);
        command.arg(format!("--port={port}"));
        command.arg(format!("--base-path={}", root.display()));
        let server = Server::start(command, dir);
        wait_until("git daemon", || listens(port) || server.has_ended());
        assert!(!server.has_ended(), "git daemon: {}", server.output());
        TestGitDaemon {
            url: format!("git://127.0.0.1:{port}"),
            root,
            port,
            server,
        }
    }

    /// Makes a repository that gives what partial clones need.
    pub fn repo(&self, name: &str) -> Repo {
        let repo = Repo::init(&self.root.join(name), "sha1");
        repo.run(&["config", "uploadpack.allowFilter", "true"]);
        repo.run(&["config", "uploadpack.allowAnySHA1InWant", "true"]);
        repo
    }

    /// Stops the server; connections are then refused.
    pub fn stop(&self) {
        self.server.stop_children();
        self.server.stop();
    }

    /// Kills the server with its connections, and starts it again.
    pub fn restart(&self) {
        self.server.stop_children();
        self.server.restart();
        wait_until("git daemon", || listens(self.port));
    }
}
