//! A mount that a privileged process made, served by one without any privilege.

mod common;

use std::io::{IoSlice, Write};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd, OwnedFd, RawFd};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use common::mount::{Place, is_mounted};
use common::podman::install;
use common::wait_until;
use rustix::mount::{MountFlags, UnmountFlags};
use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags};
use rustix::process::{Pid, Signal, kill_process};

/// The user that serves.
const NOBODY: &str = "65534";

/// A place whose mount points and processes go with it, even on panic.
struct World {
    place: Place,
    children: Vec<Child>,
}

impl World {
    fn new() -> World {
        let place = Place::new();
        let public = std::fs::Permissions::from_mode(0o755);
        std::fs::set_permissions(place.dir.path(), public).unwrap();
        for dir in ["source", "mnt", "socket", "home"] {
            std::fs::create_dir(place.path(dir)).unwrap();
        }
        std::fs::write(place.path("source/hello"), "hello").unwrap();
        // Where tests are built may be closed to others.
        install(env!("CARGO_BIN_EXE_svol").as_ref(), &place.path("svol"));
        for dir in ["home", "socket"] {
            std::os::unix::fs::chown(place.path(dir), Some(65534), Some(65534)).unwrap();
        }
        World {
            place,
            children: Vec::new(),
        }
    }

    fn at(&self) -> PathBuf {
        self.place.path("mnt/v")
    }

    fn socket(&self) -> PathBuf {
        self.place.path("socket/fuse")
    }

    /// A command without any privilege, and no way to get one.
    fn nobody(&self, args: &[&str]) -> Command {
        let mut command = Command::new("setpriv");
        command
            .args(["--reuid", NOBODY, "--regid", NOBODY, "--clear-groups"])
            .args(["--bounding-set=-all", "--inh-caps=-all", "--no-new-privs"])
            .arg(self.place.path("svol"))
            .args(args)
            .env("SVOL_RUNTIME_DIR", self.place.path("home/run"))
            .env("SVOL_CACHE_DIR", self.place.path("home/cache"))
            .env("HOME", self.place.path("home"))
            .stdin(Stdio::null());
        command
    }

    fn start(&mut self, mut command: Command, log: &str) -> u32 {
        let log = std::fs::File::options()
            .create(true)
            .append(true)
            .open(self.place.path(log))
            .unwrap();
        command.stdout(log.try_clone().unwrap()).stderr(log);
        self.children.push(command.spawn().unwrap());
        self.children.last().unwrap().id()
    }

    fn start_helper(&mut self) -> u32 {
        let (socket, at) = (self.socket(), self.at());
        let mut command = Command::new(self.place.path("svol"));
        command.arg("fuse-helper").arg("--socket").arg(&socket);
        command.arg("--noexec").args(["--name", "demo"]).arg(&at);
        self.start(command, "helper.log")
    }

    fn start_server(&mut self, from: &[&str]) -> u32 {
        let (source, at) = (self.place.path("source"), self.at());
        let around = [source.to_str().unwrap(), at.to_str().unwrap()];
        let args = [&["mount", "--foreground", "-v"], from, &around].concat();
        let command = self.nobody(&args);
        self.start(command, "server.log")
    }

    /// Reads a file of the mount by another process: it may wait for ever.
    fn reads(&self) -> Result<String, String> {
        let output = Command::new("timeout")
            .args(["-s", "KILL", "20", "cat"])
            .arg(self.at().join("hello"))
            .output()
            .unwrap();
        match output.status.success() {
            true => Ok(text(&output.stdout)),
            false => Err(text(&output.stderr)),
        }
    }

    fn wait_for_service(&self) {
        wait_until(&format!("the mount\n{}", self.logs()), || {
            self.reads() == Ok("hello".into())
        });
    }

    /// Waits for a child's end; returns its status and how long it took.
    fn ends(&mut self, pid: u32) -> (Option<i32>, Duration) {
        let began = Instant::now();
        let child = self.children.iter_mut().find(|c| c.id() == pid).unwrap();
        let mut status = None;
        wait_until("the end", || {
            status = child.try_wait().unwrap();
            status.is_some()
        });
        (status.and_then(|s| s.code()), began.elapsed())
    }

    fn logs(&self) -> String {
        let read = |name| std::fs::read_to_string(self.place.path(name)).unwrap_or_default();
        read("helper.log") + &read("server.log")
    }
}

impl Drop for World {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("{}", self.logs());
        }
        for child in &mut self.children {
            let _ = child.kill();
            let _ = child.wait();
        }
        let here = self.place.path("mnt");
        for mount in svol::fuse::mount::mounts().unwrap().iter().rev() {
            if mount.mountpoint.starts_with(&here) {
                let _ = rustix::mount::unmount(&mount.mountpoint, UnmountFlags::DETACH);
            }
        }
    }
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

fn signal(pid: u32, signal: Signal) {
    kill_process(Pid::from_raw(pid as i32).unwrap(), signal).unwrap();
}

/// Opens /dev/fuse and mounts it as CSI drivers do: of no type of ours.
fn mounted_by_a_driver(at: &Path) -> OwnedFd {
    std::fs::create_dir_all(at).unwrap();
    let device = std::fs::File::options()
        .read(true)
        .write(true)
        .open("/dev/fuse")
        .unwrap();
    let data = format!(
        "fd={},rootmode=40000,user_id=0,group_id=0,default_permissions,allow_other",
        device.as_raw_fd()
    );
    let data = std::ffi::CString::new(data).unwrap();
    let flags = MountFlags::NOSUID | MountFlags::NODEV;
    rustix::mount::mount("bucket", at, "fuse", flags, Some(data.as_c_str())).unwrap();
    device.into()
}

/// A command that inherits `file` as number 7.
fn inherits(mut command: Command, file: &OwnedFd) -> Command {
    let from = file.as_raw_fd();
    // SAFETY: two system calls, safe between fork and exec.
    unsafe {
        command.pre_exec(move || {
            // It may be number 7 itself, which is then closed at exec.
            match libc::dup2(from, 7) == -1 || libc::fcntl(7, libc::F_SETFD, 0) == -1 {
                true => Err(std::io::Error::last_os_error()),
                false => Ok(()),
            }
        });
    }
    command
}

/// Sends a message and a file as the drivers' `SendMsg` does.
fn send(to: &UnixStream, message: &str, file: &OwnedFd) {
    let files = [file.as_fd()];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut extra = SendAncillaryBuffer::new(&mut space);
    assert!(extra.push(SendAncillaryMessage::ScmRights(&files)));
    let message = [IoSlice::new(message.as_bytes())];
    rustix::net::sendmsg(to, &message, &mut extra, SendFlags::empty()).unwrap();
}

#[test]
fn a_helper_mounts_and_a_server_without_privileges_serves() {
    let mut world = World::new();
    let socket = world.socket();
    let from = ["--fuse-socket", socket.to_str().unwrap()];
    // In either order: the server waits for the helper.
    let server = world.start_server(&from);
    let helper = world.start_helper();
    world.wait_for_service();
    let at = world.at();
    let mounts = std::fs::read_to_string("/proc/self/mounts").unwrap();
    let line = mounts
        .lines()
        .find(|l| l.contains(at.to_str().unwrap()))
        .unwrap();
    for word in [
        "svol:demo ",
        " fuse.svol ro,nosuid,nodev,noexec",
        "allow_other",
        "default_permissions",
    ] {
        assert!(line.contains(word), "{line}");
    }
    let status = std::fs::read_to_string(format!("/proc/{server}/status")).unwrap();
    for none in ["CapPrm:\t0000000000000000", "CapBnd:\t0000000000000000"] {
        assert!(status.contains(none), "{status}");
    }
    // No privilege to look at itself either, but the mount is seen, and asked through the kernel.
    let at_text = at.to_str().unwrap();
    let run = |args: &[&str]| world.nobody(args).output().unwrap();
    let probe = run(&["probe", "--ready", "--timeout", "20s", at_text]);
    assert!(probe.status.success(), "{}", text(&probe.stderr));
    let status: serde_json::Value =
        serde_json::from_slice(&run(&["status", "--json"]).stdout).unwrap();
    let sandbox = &status["mounts"][0]["sandbox"];
    assert_eq!(sandbox["seccomp"], true, "{sandbox}");
    assert_eq!(sandbox["capabilities"], serde_json::json!([]), "{sandbox}");

    // Killed, it leaves an error and never an empty directory; the next one serves again.
    signal(server, Signal::KILL);
    world.ends(server);
    let gone = world.reads().unwrap_err();
    assert!(gone.contains("not connected"), "{gone}");
    let server = world.start_server(&from);
    world.wait_for_service();

    // Its end is its own: what it did not mount stays.
    signal(server, Signal::TERM);
    let (code, took) = world.ends(server);
    assert_eq!(code, Some(0), "{}", world.logs());
    println!("ended in {took:?}");
    assert!(is_mounted(&at));

    // A third is served too, and ends when the helper ends, which leaves nothing.
    let server = world.start_server(&from);
    world.wait_for_service();
    signal(helper, Signal::TERM);
    assert_eq!(world.ends(helper).0, Some(0), "{}", world.logs());
    assert!(!is_mounted(&at));
    assert!(!socket.exists());
    assert_eq!(world.ends(server).0, Some(0), "{}", world.logs());
}

#[test]
fn a_helper_that_was_killed_leaves_what_is_served_and_cleans_up_later() {
    let mut world = World::new();
    let socket = world.socket();
    let from = ["--fuse-socket", socket.to_str().unwrap()];
    let helper = world.start_helper();
    let server = world.start_server(&from);
    world.wait_for_service();
    signal(helper, Signal::KILL);
    world.ends(helper);
    assert_eq!(world.reads(), Ok("hello".into()));
    let helper = world.start_helper();
    wait_until("the second helper", || {
        world.logs().matches("listening").count() == 2
    });
    // Whom it has not mounted for is served on.
    assert_eq!(world.reads(), Ok("hello".into()));
    // A server that comes takes over the place.
    let second = world.start_server(&from);
    assert_eq!(world.ends(server).0, Some(0), "{}", world.logs());
    world.wait_for_service();
    signal(helper, Signal::TERM);
    assert_eq!(world.ends(helper).0, Some(0));
    world.ends(second);
    assert!(!is_mounted(&world.at()));
}

#[test]
fn a_descriptor_is_inherited() {
    // As an option, and as others write it for the mount point.
    for by_name in [false, true] {
        let mut world = World::new();
        let at = world.at();
        let device = mounted_by_a_driver(&at);
        let source = world.place.path("source");
        let source = source.to_str().unwrap();
        let args = match by_name {
            false => ["mount", "-f", "--fuse-fd=7", source, at.to_str().unwrap()],
            true => ["mount", "-f", "-v", source, "/dev/fd/7"],
        };
        let command = inherits(world.nobody(&args), &device);
        let server = world.start(command, "server.log");
        drop(device);
        world.wait_for_service();
        // No other process of ours keeps it: the mount goes with the server.
        signal(server, Signal::KILL);
        world.ends(server);
        wait_until("the end of the mount", || {
            world.reads().is_err_and(|e| e.contains("not connected"))
        });
    }
}

#[test]
fn csi_drivers_hand_it_over_in_their_ways() {
    // gcs-fuse-csi-driver mounts first; meta-fuse-csi-plugin when it is connected to. Both close
    // the connection at once. Their paths are longer than an address of a socket.
    for mounts_first in [true, false] {
        let mut world = World::new();
        let at = world.at();
        let long = "pods-0123456789abcdef-volumes-kubernetes.io~empty-dir-and-so-on";
        let dir = world.place.path(&format!("socket/{long}/{long}"));
        std::fs::create_dir_all(&dir).unwrap();
        let before = mounts_first.then(|| mounted_by_a_driver(&at));
        let open = std::fs::File::open(&dir).unwrap();
        let short = format!("/proc/self/fd/{}/socket", open.as_raw_fd());
        let listener = UnixListener::bind(&short).unwrap();
        std::os::unix::fs::chown(&short, Some(65534), Some(65534)).unwrap();
        let socket = dir.join("socket");
        assert!(socket.as_os_str().len() > 108);
        let server = world.start_server(&["--fuse-socket", socket.to_str().unwrap()]);
        let (connection, _) = listener.accept().unwrap();
        let (device, message) = match before {
            Some(device) => (device, r#"{"bucketName":"b","options":["implicit-dirs"]}"#),
            None => (mounted_by_a_driver(&at), r#"{"volumeName":"v"}"#),
        };
        send(&connection, message, &device);
        drop((connection, listener, device));
        std::fs::remove_file(&socket).unwrap();
        world.wait_for_service();
        signal(server, Signal::TERM);
        assert_eq!(world.ends(server).0, Some(0), "{}", world.logs());
    }
}

#[test]
fn what_cannot_be_served_is_refused_with_the_reason() {
    let world = World::new();
    let source = world.place.path("source");
    let source = source.to_str().unwrap();
    let refused = |output: Output, code: i32, why: &str| {
        let said = text(&output.stderr);
        assert_eq!(output.status.code(), Some(code), "{said}");
        assert!(said.contains(why), "{said}");
    };
    let mount = |number: RawFd, file: &str| {
        let option = format!("--fuse-fd={number}");
        let file = std::fs::File::options().read(true).write(true).open(file);
        let file = file.unwrap().into();
        let command = world.nobody(&["mount", "-f", &option, source, "/nowhere/v"]);
        inherits(command, &file).output().unwrap()
    };
    refused(mount(7, "/dev/null"), 2, "file 7 is not /dev/fuse");
    refused(mount(8, "/dev/null"), 2, "file 8 is not open here");
    refused(mount(1, "/dev/null"), 2, "standard input or output");
    refused(mount(7, "/dev/fuse"), 2, "nothing is mounted with it");
    let both = ["--fuse-fd=7", "--fuse-socket=/s", source, "/nowhere/v"];
    let both = [&["mount"][..], &both].concat();
    let both = world.nobody(&both).output().unwrap();
    refused(both, 2, "give one of --fuse-fd and --fuse-socket");

    // One that sends no file, or another than a mount's.
    let socket = world.socket();
    let listener = UnixListener::bind(&socket).unwrap();
    std::os::unix::fs::chown(&socket, Some(65534), Some(65534)).unwrap();
    let ask = |answer: &dyn Fn(UnixStream)| {
        let option = format!("--fuse-socket={}", socket.display());
        let child = world
            .nobody(&["mount", "-f", &option, source, "/nowhere/v"])
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        answer(listener.accept().unwrap().0);
        child.wait_with_output().unwrap()
    };
    refused(ask(&drop), 1, "closed without a device");
    let words = |mut stream: UnixStream| stream.write_all(b"{}").unwrap();
    refused(ask(&words), 1, "closed without a device");
    let null = |stream: UnixStream| {
        let null = std::fs::File::open("/dev/null").unwrap();
        send(&stream, "{}", &null.into());
    };
    refused(ask(&null), 1, "what was sent cannot be served");
}
