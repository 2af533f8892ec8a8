//! The privileged side of a mount that is served by a process without privileges.
//!
//! It opens /dev/fuse, mounts, and gives the descriptor to whoever connects to its socket and may:
//! see [`super::device`] for what goes over it. It reads nothing from a network and nothing that a
//! source sent, and has one mount at a time.
//!
//! The mount is made when a server asks for it. One that dies leaves it dead, and readers with an
//! error that says so, until the next one comes and gets a new mount in its place: an empty
//! directory would be a lie. At its own end it unmounts.

use std::io;
use std::os::fd::AsFd;
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags};
use tokio::io::{AsyncBufReadExt, BufReader, Lines};
use tokio::net::{UnixListener, UnixStream};
use tokio::signal::unix::{SignalKind, signal};
use tracing::{info, warn};

use super::device::{self, Short};
use super::mount::{self, MountSettings};

/// The pause after a connection that could not be accepted.
const RETRY: Duration = Duration::from_secs(1);

/// How a helper works.
#[derive(Debug, Clone)]
pub struct HelperSettings {
    /// Where to mount, absolute; made if it is not there.
    pub mountpoint: PathBuf,
    /// Where to listen, absolute. A socket that is there is replaced.
    pub socket: PathBuf,
    /// The user that may connect, beside root, as a number.
    pub uid: u32,
    /// The group of the socket, as a number.
    pub gid: u32,
    /// What is mounted, and how.
    pub kernel: MountSettings,
}

/// The connection of who serves the mount at present.
type Server = Lines<BufReader<UnixStream>>;

/// Listens, mounts and gives until a signal ends it; then unmounts.
pub async fn run(settings: &HelperSettings) -> io::Result<()> {
    let mut term = signal(SignalKind::terminate())?;
    let mut int = signal(SignalKind::interrupt())?;
    let mountpoint = &settings.mountpoint;
    detach_dead(mountpoint)?;
    mount::make(mountpoint)?;
    let listener = listen(settings)?;
    let socket = settings.socket.display();
    info!(mountpoint = %mountpoint.display(), %socket, "listening");
    let mut server: Option<Server> = None;
    loop {
        tokio::select! {
            _ = term.recv() => break,
            _ = int.recv() => break,
            // One at a time: two that read one mount's requests would each lack half of them.
            connected = listener.accept(), if server.is_none() => match connected {
                Ok((stream, _)) => match give(stream, settings) {
                    Ok(given) => server = Some(given),
                    Err(error) => warn!(%error, "not given"),
                },
                Err(error) => {
                    warn!(%error, "cannot accept");
                    tokio::time::sleep(RETRY).await;
                }
            },
            said = hear(&mut server), if server.is_some() => match said {
                Some(line) if line == device::SERVES => {
                    info!("served");
                    if let Err(error) = mount::set_read_ahead(mountpoint) {
                        info!(%error, "the kernel's read-ahead stays as it is");
                    }
                }
                Some(_) => {}
                None => {
                    warn!("who served is gone; the mount fails until the next one comes");
                    server = None;
                }
            },
        }
    }
    info!("ending");
    let ended = detach_all(mountpoint);
    let _ = std::fs::remove_file(&settings.socket);
    ended
}

/// Returns what the server says next; nothing once it is gone.
async fn hear(server: &mut Option<Server>) -> Option<String> {
    match server {
        Some(lines) => lines.next_line().await.ok().flatten(),
        None => None,
    }
}

fn listen(settings: &HelperSettings) -> io::Result<UnixListener> {
    let at = settings.socket.display();
    let say = |error: io::Error| io::Error::other(format!("{at}: {error}"));
    let short = Short::of(&settings.socket).map_err(say)?;
    match std::fs::symlink_metadata(&short.path) {
        Ok(there) if there.file_type().is_socket() => std::fs::remove_file(&short.path)?,
        Ok(_) => return Err(say(io::Error::other("in the way, and not a socket"))),
        Err(_) => {}
    }
    let listener = UnixListener::bind(&short.path).map_err(say)?;
    std::fs::set_permissions(&short.path, PermissionsExt::from_mode(0o600)).map_err(say)?;
    std::os::unix::fs::chown(&short.path, Some(settings.uid), Some(settings.gid)).map_err(say)?;
    Ok(listener)
}

/// Mounts anew, and gives the device to who has connected.
fn give(stream: UnixStream, settings: &HelperSettings) -> io::Result<Server> {
    let uid = stream.peer_cred()?.uid();
    if uid != settings.uid && uid != 0 {
        let why = format!("user {uid} connected, but only {} may", settings.uid);
        return Err(io::Error::other(why));
    }
    let mountpoint = &settings.mountpoint;
    detach_all(mountpoint)?;
    let at = mountpoint.display();
    let device = mount::mount_device(mountpoint, &settings.kernel)
        .map_err(|e| io::Error::other(format!("cannot mount at {at}: {e}")))?;
    let text = serde_json::json!({ "volumeName": settings.kernel.name }).to_string();
    let files = [device.as_fd()];
    let mut space = [std::mem::MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut extra = SendAncillaryBuffer::new(&mut space);
    extra.push(SendAncillaryMessage::ScmRights(&files));
    let text = [io::IoSlice::new(text.as_bytes())];
    // A connection of this moment has room for it.
    rustix::net::sendmsg(&stream, &text, &mut extra, SendFlags::NOSIGNAL)?;
    info!(mountpoint = %at, uid, "mounted, and given");
    Ok(BufReader::new(stream).lines())
}

/// Detaches our mounts at `mountpoint` whose server is gone. One that is alive goes on: its server
/// outlived another helper.
fn detach_dead(mountpoint: &Path) -> io::Result<()> {
    while mount::is_ours(mountpoint)? && !matches!(mount::answers(mountpoint), Some(Ok(()))) {
        info!(mountpoint = %mountpoint.display(), "removing a dead mount");
        mount::unmount(mountpoint, true)?;
    }
    Ok(())
}

fn detach_all(mountpoint: &Path) -> io::Result<()> {
    while mount::is_ours(mountpoint)? {
        mount::end(mountpoint)?;
    }
    Ok(())
}
