//! `svol upgrade`: a program asks a mount's holder to put it in the worker's place.
//!
//! Nobody tells the holder which program to run, since its own worker can reach this socket too: it
//! runs the program that the asking process is of. A worker in its sandbox runs none but its own.

use std::io::{self, BufRead, BufReader, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::program::Program;

/// How long a new worker may take to get ready, an old one to leave, and some.
const PATIENCE: Duration = Duration::from_secs(120);

/// What came of it.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Outcome {
    /// Why nothing changed; nothing where the new worker serves.
    pub refused: Option<String>,
    /// The release and the program that served before.
    pub from: String,
    /// Those that serve now.
    pub to: String,
    /// For how long nobody served, in seconds.
    pub stall_seconds: f64,
}

/// Asks the holder behind `socket` to have this process's program serve, and waits for what comes of
/// it.
pub fn upgrade(socket: &Path) -> io::Result<Outcome> {
    let stream = UnixStream::connect(socket)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    let mut line = String::new();
    let read = BufReader::new(stream).read_line(&mut line);
    read.map_err(|error| match error.kind() {
        io::ErrorKind::WouldBlock => {
            io::Error::other(format!("the holder did not answer within {PATIENCE:?}"))
        }
        _ => error,
    })?;
    serde_json::from_str(&line)
        .map_err(|_| io::Error::other("the holder ended before it could answer"))
}

/// Somebody who asked, and waits.
#[derive(Debug)]
pub(super) struct Asker(UnixStream);

impl Asker {
    /// Takes the next one, with the program that is wanted.
    pub(super) fn accept(listener: &UnixListener) -> Option<(Asker, io::Result<Program>)> {
        let (stream, _) = listener.accept().ok()?;
        let program = rustix::net::sockopt::socket_peercred(&stream)
            .map_err(io::Error::from)
            .and_then(|peer| Program::of_process(peer.pid.as_raw_nonzero().get()));
        Some((Asker(stream), program))
    }

    /// Tells what came of it.
    pub(super) fn answer(mut self, outcome: &Outcome) {
        if let Ok(mut text) = serde_json::to_vec(outcome) {
            text.push(b'\n');
            // It may have gone. A few hundred bytes always find room.
            let _ = self.0.write_all(&text);
        }
    }

    /// Tells why nothing changes.
    pub(super) fn refuse(self, why: impl Into<String>) {
        self.answer(&Outcome {
            refused: Some(why.into()),
            ..Outcome::default()
        });
    }
}
