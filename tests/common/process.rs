//! Child processes that never outlive the tests, and directories that go with them.

use std::net::{TcpListener, TcpStream};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Mutex, OnceLock, mpsc};
use std::time::Duration;

type Spawned = (Command, std::io::Result<Child>);
type Job = (Command, mpsc::Sender<Spawned>);

/// A server's process. Killed when dropped, and by the kernel when the tests end without that.
pub struct Server {
    child: Mutex<Option<Child>>,
    command: Mutex<Option<Command>>,
    dir: PathBuf,
}

impl Server {
    /// Starts `command` for a server that lives in `dir`.
    pub fn start(mut command: Command, dir: PathBuf) -> Server {
        let log = std::fs::File::create(dir.join("output")).unwrap();
        command.stdin(std::process::Stdio::null());
        command.stdout(log.try_clone().unwrap()).stderr(log);
        die_with_the_tests(&mut command);
        let server = Server {
            child: Mutex::new(None),
            command: Mutex::new(Some(command)),
            dir,
        };
        server.restart();
        server
    }

    /// Kills the server if it runs, and starts it as it was started. It may not listen yet.
    pub fn restart(&self) {
        self.stop();
        let mut command = self.command.lock().unwrap();
        let (same, child) = spawn(command.take().unwrap());
        *command = Some(same);
        let child = child.unwrap_or_else(|e| panic!("cannot start a server: {e}"));
        *self.child.lock().unwrap() = Some(child);
    }

    /// Kills the server and waits for its end; its ports then refuse connections.
    pub fn stop(&self) {
        if let Some(mut child) = self.child.lock().unwrap().take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }

    /// Kills the processes that the server started for its connections.
    pub fn stop_children(&self) {
        let child = self.child.lock().unwrap();
        if let Some(child) = &*child {
            kill_children(child.id());
        }
    }

    /// Returns the server's process, while it runs.
    pub fn id(&self) -> Option<u32> {
        self.child.lock().unwrap().as_ref().map(Child::id)
    }

    /// Returns whether the server has ended by itself.
    pub fn has_ended(&self) -> bool {
        let mut child = self.child.lock().unwrap();
        child
            .as_mut()
            .is_none_or(|c| !matches!(c.try_wait(), Ok(None)))
    }

    /// Returns the end of what the server wrote.
    pub fn output(&self) -> String {
        let all = std::fs::read(self.dir.join("output")).unwrap_or_default();
        String::from_utf8_lossy(&all[all.len().saturating_sub(4096)..]).into_owned()
    }

    /// Returns the server's directory.
    pub fn dir(&self) -> &Path {
        &self.dir
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.stop();
        remove(&self.dir);
    }
}

fn kill_children(pid: u32) {
    let children = std::fs::read_to_string(format!("/proc/{pid}/task/{pid}/children"));
    for child in children.unwrap_or_default().split_whitespace() {
        if let Ok(child) = child.parse::<u32>() {
            kill_children(child);
            let pid = i32::try_from(child)
                .ok()
                .and_then(rustix::process::Pid::from_raw);
            if let Some(pid) = pid {
                let _ = rustix::process::kill_process(pid, rustix::process::Signal::KILL);
            }
        }
    }
}

/// Starts a process. The kernel's death signal follows the *thread* that started the process, so all
/// are started by one thread that lives as long as the tests.
fn spawn(command: Command) -> Spawned {
    static JOBS: OnceLock<mpsc::Sender<Job>> = OnceLock::new();
    let jobs = JOBS.get_or_init(|| {
        let (send, receive) = mpsc::channel::<Job>();
        std::thread::spawn(move || {
            for (mut command, reply) in receive {
                let child = command.spawn();
                let _ = reply.send((command, child));
            }
        });
        send
    });
    let (send, receive) = mpsc::channel();
    jobs.send((command, send)).unwrap();
    receive.recv().unwrap()
}

fn die_with_the_tests(command: &mut Command) {
    // SAFETY: prctl is async-signal-safe, and nothing is allocated between fork and exec.
    unsafe {
        command.pre_exec(|| {
            let signal = rustix::process::Signal::KILL;
            rustix::process::set_parent_process_death_signal(Some(signal))?;
            Ok(())
        });
    }
}

/// Removes a server's directory, and the files elsewhere that its `elsewhere` names.
fn remove(dir: &Path) {
    let elsewhere = std::fs::read_to_string(dir.join("elsewhere")).unwrap_or_default();
    for file in elsewhere.lines() {
        let _ = std::fs::remove_file(file);
    }
    let _ = std::fs::remove_dir_all(dir);
}

/// Returns a new directory for a server. Those of test processes that have ended (statics are
/// never dropped) are removed first.
pub fn server_dir(what: &str) -> PathBuf {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let base = Path::new(env!("CARGO_TARGET_TMPDIR")).join("servers");
    std::fs::create_dir_all(&base).unwrap();
    for old in std::fs::read_dir(&base).unwrap().flatten() {
        let name = old.file_name().to_string_lossy().into_owned();
        let pid = name.split('-').next().unwrap_or("0");
        if !Path::new("/proc").join(pid).exists() {
            remove(&old.path());
        }
    }
    let n = NEXT.fetch_add(1, Ordering::Relaxed);
    let dir = base.join(format!("{}-{n}-{what}", std::process::id()));
    std::fs::create_dir(&dir).unwrap();
    dir
}

/// Returns ports that are free now, all different. They lie below those that the kernel gives to
/// outgoing connections, of which tests make thousands, and which would take ours before the
/// server does.
pub fn free_ports<const N: usize>() -> [u16; N] {
    use std::hash::{BuildHasher, RandomState};
    let random = RandomState::new();
    let mut seed = 0u32;
    let held: [TcpListener; N] = std::array::from_fn(|_| {
        loop {
            seed += 1;
            let port = 10_000 + (random.hash_one(seed) % 22_000) as u16;
            if let Ok(listener) = TcpListener::bind(("127.0.0.1", port)) {
                return listener;
            }
            assert!(seed < 10_000, "no free port");
        }
    });
    held.map(|listener| listener.local_addr().unwrap().port())
}

/// Returns whether something listens on a port of this machine.
pub fn listens(port: u16) -> bool {
    let address = ([127, 0, 0, 1], port).into();
    TcpStream::connect_timeout(&address, Duration::from_millis(200)).is_ok()
}

/// Returns the path of a program, or says how it is installed.
pub fn program(name: &str) -> PathBuf {
    let own = Path::new(env!("CARGO_MANIFEST_DIR")).join("target/test-env/bin");
    let path = std::env::var_os("PATH").unwrap_or_default();
    let dirs = std::env::split_paths(&path).chain(["/usr/sbin".into(), own]);
    dirs.map(|dir| dir.join(name))
        .find(|file| file.exists())
        .unwrap_or_else(|| panic!("{name} is not installed: run tests/setup.sh"))
}
