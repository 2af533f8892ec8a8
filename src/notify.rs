//! What the service manager is told of a mount: systemd's notification protocol.
//!
//! The messages come from the main process of a service, as `NotifyAccess=main` wants it: whoever is
//! started and stays. Where there is no service manager (`NOTIFY_SOCKET` is not set) nothing happens.
//! The watchdog is told only what the mount answered *through the kernel*, so that a process which
//! lives but does not serve is restarted.

use std::io;
use std::sync::mpsc::{self, RecvTimeoutError, Sender};
use std::time::Duration;

use sd_notify::NotifyState;
use tracing::warn;

/// After a failed probe the mount is asked again at least this often: it may answer before the
/// service manager's patience ends.
const AGAIN: Duration = Duration::from_secs(1);

/// Says that the mount serves, and what it is.
pub fn ready(status: &str) {
    tell(&[NotifyState::Ready, NotifyState::Status(&in_a_line(status))]);
}

/// Says in a line what goes on; `systemctl status` shows it.
pub fn status(status: &str) {
    tell(&[NotifyState::Status(&in_a_line(status))]);
}

/// Says that the mount is about to end.
pub fn stopping() {
    tell(&[NotifyState::Stopping, NotifyState::Status("ending")]);
}

/// Says that the mount answered a probe through the kernel just now.
pub fn watchdog() {
    tell(&[NotifyState::Watchdog]);
}

/// Returns how long the service manager waits for a [`watchdog`] before it ends this process;
/// nothing where it does not.
pub fn patience() -> Option<Duration> {
    sd_notify::watchdog_enabled()
}

/// Each line is a message of its own, and what a mount or a server is called might hold one.
fn in_a_line(text: &str) -> String {
    text.replace(char::is_control, " ")
}

fn tell(messages: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(messages) {
        warn!(%error, "the service manager cannot be told");
    }
}

/// A thread that keeps the watchdog quiet while the mount answers, where no holder does it (see
/// `holder`, which calls the functions above). It ends when this is dropped.
#[derive(Debug)]
pub struct Watch(#[expect(dead_code, reason = "its end is what the thread waits for")] Sender<()>);

impl Watch {
    /// Starts to ask the mount by `probe`, which takes a bounded time and says why the mount does not
    /// serve. Returns nothing where no watchdog waits.
    pub fn start(
        probe: impl Fn() -> Result<Duration, String> + Send + 'static,
    ) -> io::Result<Option<Watch>> {
        let Some(patience) = patience() else {
            return Ok(None);
        };
        let (end, ended) = mpsc::channel();
        std::thread::Builder::new()
            .name("svol-watchdog".into())
            .spawn(move || {
                let mut is_well = true;
                loop {
                    let said = probe();
                    let pause = match &said {
                        Ok(_) => patience / 2,
                        Err(_) => AGAIN.min(patience / 2),
                    };
                    match said {
                        Ok(_) if is_well => watchdog(),
                        Ok(_) => tell(&[NotifyState::Watchdog, NotifyState::Status("serving")]),
                        Err(ref why) if is_well => {
                            warn!(why, "the watchdog is not told");
                            status(&format!("does not serve: {why}"));
                        }
                        Err(_) => {}
                    }
                    is_well = said.is_ok();
                    if ended.recv_timeout(pause) != Err(RecvTimeoutError::Timeout) {
                        return;
                    }
                }
            })?;
        Ok(Some(Watch(end)))
    }
}
