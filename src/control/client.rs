//! Asks a mount's daemon over its control socket.

use std::path::Path;
use std::time::Duration;

use serde::Serialize;
use serde::de::DeserializeOwned;

/// How long a daemon may take to say how it is.
pub const PROMPT: Duration = Duration::from_secs(5);

/// How long a daemon may take for a piece of work, such as a refresh of a large tree.
pub const PATIENT: Duration = Duration::from_secs(600);

/// How long a daemon that tells of its work may say nothing: it does several times a second.
const SILENCE: Duration = Duration::from_secs(30);

/// The longest line of an answer, in bytes: a path, and an error's words.
const LINE: usize = 1 << 20;

/// Why a daemon could not be asked.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// It did not answer, or not in time.
    #[error("the daemon does not answer at {socket}: {cause}")]
    Silent {
        /// Its socket.
        socket: String,
        /// What happened.
        cause: String,
    },
    /// It refused.
    #[error("{0}")]
    Refused(String),
}

/// Sends a request (`GET` or, with `post`, `POST`) with query parameters, and returns the answer.
pub async fn ask<T: DeserializeOwned>(
    socket: &Path,
    post: bool,
    path: &str,
    query: &[(&str, &str)],
    within: Duration,
) -> Result<T, Error> {
    crate::tls::install();
    let silent = |e: reqwest::Error| Error::Silent {
        socket: socket.display().to_string(),
        cause: crate::control::causes(&e),
    };
    let client = reqwest::Client::builder()
        .unix_socket(socket)
        .timeout(within)
        .build()
        .map_err(silent)?;
    let url = format!("http://svol{path}");
    let request = if post {
        client.post(url)
    } else {
        client.get(url)
    };
    let response = request.query(query).send().await.map_err(silent)?;
    if response.status().is_success() {
        return response.json().await.map_err(silent);
    }
    Err(Error::Refused(response.text().await.map_err(silent)?))
}

/// Posts a document and hands each line of the answer to `take` as it comes, until it returns false
/// or the answer ends.
pub async fn follow<Q: Serialize, T: DeserializeOwned>(
    socket: &Path,
    path: &str,
    document: &Q,
    mut take: impl FnMut(T) -> bool,
) -> Result<(), Error> {
    crate::tls::install();
    let failed = |cause: String| Error::Silent {
        socket: socket.display().to_string(),
        cause,
    };
    let silent = |e: reqwest::Error| failed(crate::control::causes(&e));
    let client = reqwest::Client::builder()
        .unix_socket(socket)
        .read_timeout(SILENCE)
        .build()
        .map_err(silent)?;
    let request = client.post(format!("http://svol{path}")).json(document);
    let mut response = request.send().await.map_err(silent)?;
    if !response.status().is_success() {
        let status = response.status();
        let said = response.text().await.map_err(silent)?;
        return Err(Error::Refused(match status.as_u16() {
            404 => "the daemon is of an older release that cannot do this; mount again".into(),
            _ => said,
        }));
    }
    let mut pending: Vec<u8> = Vec::new();
    while let Some(chunk) = response.chunk().await.map_err(silent)? {
        let mut rest = &chunk[..];
        while let Some(end) = rest.iter().position(|byte| *byte == b'\n') {
            let (line, behind) = rest.split_at(end);
            pending.extend_from_slice(line);
            rest = behind.get(1..).unwrap_or_default();
            let event = serde_json::from_slice(&pending).map_err(|e| failed(e.to_string()))?;
            pending.clear();
            if !take(event) {
                return Ok(());
            }
        }
        pending.extend_from_slice(rest);
        if pending.len() > LINE {
            return Err(failed("a line of its answer is too long".into()));
        }
    }
    Ok(())
}
