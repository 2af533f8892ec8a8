//! Whether a server is the one that was meant: its key, against `known_hosts` or pinned fingerprints.

use russh::client::{DisconnectReason, Handler};
use russh::keys::{Algorithm, EcdsaCurve, HashAlg, PublicKey, PublicKeyOrCertificate};

use super::known_hosts::{self, Known};
use super::{HostKeys, LastWords, PORT, SshSettings};
use crate::source::{Error, ErrorKind, Result};

/// Who is at the other end, as far as it is known before.
#[derive(Debug, Clone)]
pub(super) enum Expected {
    Known(Known),
    Pinned(Vec<String>),
}

impl Expected {
    /// Reads what is known of the server. Blocks on the local disk.
    pub(super) fn read(settings: &SshSettings) -> Result<Expected> {
        match &settings.host_keys {
            HostKeys::Pinned(all) => Ok(Expected::Pinned(all.clone())),
            HostKeys::Known(files) => known_hosts::read_all(files, &settings.place())
                .map(Expected::Known)
                .map_err(|why| Error::new(ErrorKind::Denied, format!("host keys: {why}"))),
        }
    }

    /// Returns the kinds of keys to ask the server for, those that are known first: a server that
    /// has several shows the one that we can check.
    pub(super) fn algorithms(&self) -> Vec<Algorithm> {
        let mut first = match self {
            Expected::Known(known) => known.algorithms(),
            Expected::Pinned(_) => Vec::new(),
        };
        first.extend(kinds().into_iter().flatten());
        let mut all = Vec::new();
        for algorithm in first {
            // A key of RSA says nothing of the hash that is signed; never SHA-1.
            let forms = match algorithm {
                Algorithm::Rsa { .. } => rsa(),
                other => vec![other],
            };
            for form in forms {
                if !all.contains(&form) {
                    all.push(form);
                }
            }
        }
        all
    }

    fn verdict(&self, key: &PublicKey, place: &SshSettings) -> Result<()> {
        let shown = fingerprint(key);
        let kind = key.algorithm();
        let host = place.place();
        let denied = |what: String| Err(Error::new(ErrorKind::Denied, what));
        match self {
            Expected::Pinned(all) if all.iter().any(|pinned| same(pinned, &shown)) => Ok(()),
            Expected::Pinned(_) => denied(format!(
                "the host key of {host} is not one of those pinned: it shows {kind} {shown}; \
                 either this is not the server that was meant, or its key was changed: ask who \
                 runs it, and then pin the new fingerprint"
            )),
            Expected::Known(known) => {
                let is_it = |known: &PublicKey| known.key_data() == key.key_data();
                if known.revoked.iter().any(is_it) {
                    return denied(format!(
                        "the host key of {host}, {kind} {shown}, is marked @revoked in known_hosts"
                    ));
                }
                if known.keys.iter().any(|(key, _)| is_it(key)) {
                    return Ok(());
                }
                let scan = match place.port {
                    PORT => format!("ssh-keyscan {}", place.host),
                    port => format!("ssh-keyscan -p {port} {}", place.host),
                };
                match known.keys.first() {
                    Some((_, at)) => denied(format!(
                        "the host key of {host} is not the known one: it shows {kind} {shown}, and \
                         {at} has another; either this is not the server that was meant, or its key \
                         was changed: ask who runs it, and then replace that line by what `{scan}` \
                         prints"
                    )),
                    None => denied(format!(
                        "the host key of {host} is not known: it shows {kind} {shown}; if who runs \
                         it confirms that, add it by `{scan} >> ~/.ssh/known_hosts`, or pin the \
                         fingerprint (hostKeyFingerprints)"
                    )),
                }
            }
        }
    }
}

/// The kinds of keys that a server may show, in families: of each a server has one key at most.
pub(super) fn kinds() -> [Vec<Algorithm>; 5] {
    let ecdsa = |curve| vec![Algorithm::Ecdsa { curve }];
    [
        vec![Algorithm::Ed25519],
        ecdsa(EcdsaCurve::NistP256),
        ecdsa(EcdsaCurve::NistP384),
        ecdsa(EcdsaCurve::NistP521),
        rsa(),
    ]
}

fn rsa() -> Vec<Algorithm> {
    [HashAlg::Sha512, HashAlg::Sha256]
        .map(|hash| Algorithm::Rsa { hash: Some(hash) })
        .to_vec()
}

/// Returns a key's fingerprint as `ssh-keygen -l` writes it.
pub(super) fn fingerprint(key: &PublicKey) -> String {
    key.fingerprint(HashAlg::Sha256).to_string()
}

/// Compares fingerprints; some tools write base64's padding.
fn same(pinned: &str, shown: &str) -> bool {
    pinned.trim().trim_end_matches('=') == shown.trim_end_matches('=')
}

/// What a connection's task asks of us.
pub(super) struct Client {
    pub(super) settings: SshSettings,
    pub(super) expected: Expected,
    pub(super) last_words: LastWords,
}

/// A failure inside the connection's task.
#[derive(Debug)]
pub(super) enum Failure {
    /// The server is not the one that was meant.
    Stranger(Error),
    /// Anything else.
    Protocol(russh::Error),
}

impl From<russh::Error> for Failure {
    fn from(error: russh::Error) -> Failure {
        Failure::Protocol(error)
    }
}

impl Handler for Client {
    type Error = Failure;

    async fn check_server_key(
        &mut self,
        shown: &PublicKeyOrCertificate,
    ) -> std::result::Result<bool, Failure> {
        let PublicKeyOrCertificate::PublicKey { key, .. } = shown else {
            let what = "the server shows a certificate, which was not asked for";
            return Err(Failure::Stranger(Error::lied(what)));
        };
        match self.expected.verdict(key, &self.settings) {
            Ok(()) => Ok(true),
            Err(error) => Err(Failure::Stranger(error)),
        }
    }

    async fn disconnected(
        &mut self,
        reason: DisconnectReason<Failure>,
    ) -> std::result::Result<(), Failure> {
        let error = match reason {
            DisconnectReason::ReceivedDisconnect(said) => Error::new(
                ErrorKind::Unreachable,
                format!("the server ended the connection: {}", said.message),
            ),
            DisconnectReason::Error(failure) => super::connection::failure(failure),
        };
        let mut last = self
            .last_words
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner);
        last.get_or_insert(error);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn known_kinds_are_asked_for_first_and_sha1_never() {
        let mut known = Known::default();
        let key = "ecdsa-sha2-nistp256 AAAAE2VjZHNhLXNoYTItbmlzdHAyNTYAAAAIbmlzdHAyNTYAAABBBMxBTpMI\
                   Pvys9QhQhSeq0wtnLxLFBMNV5rhHTJ2yG7bsPMUo0sBcUHPRSGcEdkPqkBT2wZOOqlLtzwcg0WfoYrA=";
        if let Ok(key) = PublicKey::from_openssh(key) {
            known.keys.push((key, "here".into()));
            let all = Expected::Known(known).algorithms();
            assert!(matches!(all[0], Algorithm::Ecdsa { .. }), "{all:?}");
        }
        let all = Expected::Pinned(vec![]).algorithms();
        assert_eq!(all.len(), 6);
        assert!(!all.contains(&Algorithm::Rsa { hash: None }));
    }

    #[test]
    fn padding_makes_no_other_fingerprint() {
        assert!(same("SHA256:abc=", "SHA256:abc"));
        assert!(!same("SHA256:abd", "SHA256:abc"));
    }
}
