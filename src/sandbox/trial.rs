//! What a test makes the daemon try, to see that it is refused. Never in a release.

use std::fs::File;
use std::io;
use std::path::Path;

/// Tries something; returns the number of the error that it failed with, 0 where it did not.
/// `path` is what it is tried on.
pub fn attempt(what: &str, path: &Path) -> Option<i32> {
    let done = match what {
        "write" => std::fs::write(path, "written").map(drop),
        "append" => File::options().append(true).open(path).map(drop),
        "truncate" => File::options()
            .write(true)
            .truncate(true)
            .open(path)
            .map(drop),
        "read" => std::fs::read(path).map(drop),
        "list" => std::fs::read_dir(path).map(drop),
        "remove" => std::fs::remove_file(path),
        "mkdir" => std::fs::create_dir(path),
        "link" => std::os::unix::fs::symlink("/etc/passwd", path),
        "execute" => std::process::Command::new(path).spawn().map(drop),
        "listen" => std::net::TcpListener::bind("127.0.0.1:0").map(drop),
        "chown" => std::os::unix::fs::chown(path, Some(1), Some(1)),
        "unmount" => unmount(path),
        "mount" => mount(path),
        "unshare" => call(|| unsafe { libc::unshare(libc::CLONE_NEWNS) }.into()),
        "trace" => call(|| unsafe { libc::ptrace(libc::PTRACE_ATTACH, parent(), 0, 0) }),
        "signal" => call(|| unsafe { libc::kill(parent(), 0) }.into()),
        "packets" => call(|| unsafe { libc::socket(libc::AF_PACKET, libc::SOCK_RAW, 0) }.into()),
        "bpf" => call(|| unsafe { libc::syscall(libc::SYS_bpf, 0, 0, 0) }),
        "become" => call(|| unsafe { libc::setuid(65534) }.into()),
        "environment" => std::fs::read(format!("/proc/{}/environ", parent())).map(drop),
        _ => return None,
    };
    Some(match done {
        Ok(()) => 0,
        Err(error) => error.raw_os_error().unwrap_or(-1),
    })
}

// SAFETY of what is below: the calls take numbers, no memory of ours.

fn parent() -> i32 {
    unsafe { libc::getppid() }
}

fn call(call: impl FnOnce() -> i64) -> io::Result<()> {
    match call() {
        -1 => Err(io::Error::last_os_error()),
        _ => Ok(()),
    }
}

fn unmount(path: &Path) -> io::Result<()> {
    let flags = rustix::mount::UnmountFlags::DETACH;
    Ok(rustix::mount::unmount(path, flags)?)
}

fn mount(path: &Path) -> io::Result<()> {
    let flags = rustix::mount::MountFlags::empty();
    Ok(rustix::mount::mount("none", path, "tmpfs", flags, None)?)
}
