//! Asks a mount's daemon over its control socket.

use std::path::Path;
use std::time::Duration;

use serde::de::DeserializeOwned;

/// How long a daemon may take to say how it is.
pub const PROMPT: Duration = Duration::from_secs(5);

/// How long a daemon may take for a piece of work, such as a refresh of a large tree.
pub const PATIENT: Duration = Duration::from_secs(600);

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
