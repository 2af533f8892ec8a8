//! Telling a server who asks: keys that were given, the agent's, those that are there by custom, and
//! the password, in this order and only by methods that the server takes.
//!
//! A failure tells which were tried and which the server takes, and never a secret.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use russh::client::{AuthResult, Handle, KeyboardInteractiveAuthResponse as Interactive};
use russh::keys::agent::AgentIdentity;
use russh::keys::agent::client::AgentClient;
use russh::keys::{HashAlg, PrivateKey, PrivateKeyWithHashAlg, PublicKey};
use russh::{MethodKind, MethodSet};

use super::host_key::{Client, fingerprint};
use super::{Identity, KeyPlace, SshSettings};
use crate::source::confidence::Confidences;
use crate::source::{Error, ErrorKind, Result};

/// How many keys are offered: OpenSSH's server ends a connection at the sixth failure, and a password
/// may follow.
const MAX_KEYS: usize = 5;

/// How many keys of an agent are looked at.
const MAX_AGENT_KEYS: usize = 64;

/// The largest file of a key, in bytes.
const MAX_KEY_FILE: u64 = 64 * 1024;

/// How long an agent may take for each answer. It may ask its user first.
const AGENT: Duration = Duration::from_secs(10);

/// How many rounds of questions are answered.
const MAX_ROUNDS: usize = 4;

/// What is kept of a method's end.
enum Outcome {
    In,
    No,
}

struct Login<'a> {
    handle: &'a mut Handle<Client>,
    settings: &'a SshSettings,
    /// What the server takes next.
    takes: MethodSet,
    tried: Vec<String>,
    offered: HashSet<String>,
    rsa: Option<HashAlg>,
}

/// A private key that can be used, and what messages call it.
struct Key {
    key: Arc<PrivateKey>,
    name: String,
}

/// Logs in; [`ErrorKind::Denied`] if the server does not let us.
pub(super) async fn log_in(
    handle: &mut Handle<Client>,
    settings: &SshSettings,
    confidences: &Confidences,
) -> Result<()> {
    let first = handle.authenticate_none(settings.user.clone()).await;
    let takes = match first.map_err(super::connection::protocol)? {
        AuthResult::Success => return Ok(()),
        AuthResult::Failure {
            remaining_methods, ..
        } => remaining_methods,
    };
    let mut login = Login {
        handle,
        settings,
        takes,
        tried: Vec::new(),
        offered: HashSet::new(),
        rsa: None,
    };
    login.run(confidences).await
}

impl Login<'_> {
    async fn run(&mut self, confidences: &Confidences) -> Result<()> {
        if self.takes(MethodKind::PublicKey) {
            let (given, usual) = self.keys(confidences).await?;
            let is_rsa = |key: &Key| key.key.algorithm().is_rsa();
            if given.iter().chain(&usual).any(is_rsa) || self.settings.agent.is_some() {
                let best = self.handle.best_supported_rsa_hash().await;
                // A server that does not say takes SHA-2 for ten years now; SHA-1 is never signed.
                let best = best.map_err(super::connection::protocol)?.flatten();
                self.rsa = Some(best.unwrap_or(HashAlg::Sha512));
            }
            if let Outcome::In = self.offer(given).await? {
                return Ok(());
            }
            if let Outcome::In = self.agent().await? {
                return Ok(());
            }
            if let Outcome::In = self.offer(usual).await? {
                return Ok(());
            }
        }
        if let Outcome::In = self.password(confidences).await? {
            return Ok(());
        }
        Err(self.denied())
    }

    fn takes(&self, method: MethodKind) -> bool {
        self.takes.contains(&method)
    }

    fn denied(&self) -> Error {
        let tried = match self.tried.is_empty() {
            true => "nothing, as there is no key, agent or password that could be".to_owned(),
            false => self.tried.join(", "),
        };
        let names: Vec<&str> = self.takes.iter().map(<&str>::from).collect();
        let takes = match names.is_empty() {
            true => "no method that is known here".to_owned(),
            false => names.join(", "),
        };
        Error::new(
            ErrorKind::Denied,
            format!(
                "{} does not let {:?} in: tried {tried}; it takes {takes}",
                self.settings.place(),
                self.settings.user
            ),
        )
    }

    /// Notes how an attempt ended.
    fn settle(&mut self, name: &str, result: AuthResult) -> Result<Outcome> {
        match result {
            AuthResult::Success => Ok(Outcome::In),
            AuthResult::Failure {
                remaining_methods,
                partial_success,
            } => {
                let ending = match partial_success {
                    true => " (accepted, but not enough)",
                    false => "",
                };
                self.tried.push(format!("{name}{ending}"));
                if self.handle.is_closed() {
                    return Err(self.denied().context("the server ended the connection"));
                }
                self.takes = remaining_methods;
                Ok(Outcome::No)
            }
        }
    }

    /// Returns the keys that were given and those that are there by custom.
    async fn keys(&mut self, confidences: &Confidences) -> Result<(Vec<Key>, Vec<Key>)> {
        let identities = self.settings.identities.clone();
        // Reads files, and works for a while to decrypt what is in them.
        let read = tokio::task::spawn_blocking(move || {
            let (mut given, mut usual, mut notes) = (Vec::new(), Vec::new(), Vec::new());
            let mut secrets = Vec::new();
            for identity in &identities {
                match (&identity.key, load(identity, &mut secrets)) {
                    (KeyPlace::Given(_), Ok(key)) => given.extend(key),
                    (KeyPlace::Given(_), Err(why)) => {
                        let what = format!("the private key that was given: {why}");
                        return Err(Error::new(ErrorKind::Denied, what));
                    }
                    (KeyPlace::Usual(_), Ok(key)) => usual.extend(key),
                    (KeyPlace::Usual(_), Err(why)) => notes.push(why),
                }
            }
            Ok((given, usual, notes, secrets))
        });
        let stopped = |_| Error::new(ErrorKind::Unreachable, "the program is ending");
        let (given, usual, notes, secrets) = read.await.map_err(stopped)??;
        for secret in secrets {
            confidences.remember(secret);
        }
        self.tried.extend(notes);
        Ok((given, usual))
    }

    /// Returns whether a key was not offered yet and there is room for it.
    fn is_new(&mut self, key: &PublicKey) -> bool {
        self.takes(MethodKind::PublicKey)
            && self.offered.len() < MAX_KEYS
            && self.offered.insert(fingerprint(key))
    }

    async fn offer(&mut self, keys: Vec<Key>) -> Result<Outcome> {
        for Key { key, name } in keys {
            if !self.is_new(key.public_key()) {
                continue;
            }
            let name = format!("{name} ({})", fingerprint(key.public_key()));
            let signing = PrivateKeyWithHashAlg::new(key, self.rsa);
            let user = self.settings.user.clone();
            let result = self.handle.authenticate_publickey(user, signing).await;
            let result = result.map_err(super::connection::protocol)?;
            if let Outcome::In = self.settle(&name, result)? {
                return Ok(Outcome::In);
            }
        }
        Ok(Outcome::No)
    }

    async fn agent(&mut self) -> Result<Outcome> {
        let Some(socket) = self.settings.agent.clone() else {
            return Ok(Outcome::No);
        };
        let asked = async {
            let mut agent = AgentClient::connect_uds(&socket).await?;
            let all = agent.request_identities().await?;
            Ok::<_, russh::keys::Error>((agent, all))
        };
        let (mut agent, all) = match tokio::time::timeout(AGENT, asked).await {
            Ok(Ok(found)) => found,
            Ok(Err(why)) => {
                self.tried.push(format!("the agent (not usable: {why})"));
                return Ok(Outcome::No);
            }
            Err(_) => {
                self.tried.push("the agent (it does not answer)".to_owned());
                return Ok(Outcome::No);
            }
        };
        if all.is_empty() {
            self.tried.push("the agent (it has no keys)".to_owned());
        }
        for identity in all.into_iter().take(MAX_AGENT_KEYS) {
            // A user certificate names a key that comes alone too.
            let AgentIdentity::PublicKey { key, .. } = identity else {
                continue;
            };
            if !self.is_new(&key) {
                continue;
            }
            let name = format!("the agent's {}", fingerprint(&key));
            let hash = key.algorithm().is_rsa().then_some(self.rsa).flatten();
            let user = self.settings.user.clone();
            let signed = self
                .handle
                .authenticate_publickey_with(user, key, hash, &mut agent);
            match tokio::time::timeout(AGENT, signed).await {
                Ok(Ok(result)) => {
                    if let Outcome::In = self.settle(&name, result)? {
                        return Ok(Outcome::In);
                    }
                }
                Ok(Err(_)) => self.tried.push(format!("{name} (it does not sign)")),
                // The connection now waits for a signature that will not come.
                Err(_) => {
                    self.tried.push(format!("{name} (no signature in time)"));
                    return Err(self.denied());
                }
            }
        }
        Ok(Outcome::No)
    }

    async fn password(&mut self, confidences: &Confidences) -> Result<Outcome> {
        let Some(password) = self.settings.password.clone() else {
            return Ok(Outcome::No);
        };
        let stopped = |_| Error::new(ErrorKind::Unreachable, "the program is ending");
        let password = tokio::task::spawn_blocking(move || password.read())
            .await
            .map_err(stopped)??;
        confidences.remember(password.clone());
        if self.takes(MethodKind::Password) {
            let user = self.settings.user.clone();
            let result = self.handle.authenticate_password(user, password.clone());
            let result = result.await.map_err(super::connection::protocol)?;
            if let Outcome::In = self.settle("the password", result)? {
                return Ok(Outcome::In);
            }
        }
        match self.takes(MethodKind::KeyboardInteractive) {
            true => self.questions(&password).await,
            false => Ok(Outcome::No),
        }
    }

    /// Answers the one question that can only be for the password, as servers with PAM ask it.
    async fn questions(&mut self, password: &str) -> Result<Outcome> {
        let name = "the password, as an answer";
        let user = self.settings.user.clone();
        let started = self
            .handle
            .authenticate_keyboard_interactive_start(user, None::<String>);
        let mut reply = started.await.map_err(super::connection::protocol)?;
        for _ in 0..MAX_ROUNDS {
            let answers = match reply {
                Interactive::Success => return Ok(Outcome::In),
                Interactive::Failure {
                    remaining_methods,
                    partial_success,
                } => {
                    let result = AuthResult::Failure {
                        remaining_methods,
                        partial_success,
                    };
                    return self.settle(name, result);
                }
                Interactive::InfoRequest { prompts, .. } => match prompts.as_slice() {
                    [] => Vec::new(),
                    [only] if !only.echo => vec![password.to_owned()],
                    _ => {
                        let what = "an answer (the server asks for more than a password)";
                        self.tried.push(what.to_owned());
                        return Err(self.denied());
                    }
                },
            };
            let answered = self
                .handle
                .authenticate_keyboard_interactive_respond(answers);
            reply = answered.await.map_err(super::connection::protocol)?;
        }
        self.tried.push(format!("{name} (asked again and again)"));
        Err(self.denied())
    }
}

/// Reads and decrypts a key; nothing where one by custom is not there. Blocks.
fn load(
    identity: &Identity,
    secrets: &mut Vec<String>,
) -> std::result::Result<Option<Key>, String> {
    let (mut text, name) = match &identity.key {
        KeyPlace::Given(secret) => {
            let text = secret.read().map_err(|e| e.to_string())?;
            (text, "the private key that was given".to_owned())
        }
        KeyPlace::Usual(file) => match read(file) {
            Ok(Some(text)) => (text, format!("the key {}", file.display())),
            Ok(None) => return Ok(None),
            Err(why) => return Err(format!("the key {} (not readable: {why})", file.display())),
        },
    };
    // A secret comes without its last line break, and a key's armour ends with one.
    text.push('\n');
    let passphrase = match &identity.passphrase {
        Some(secret) => Some(secret.read().map_err(|e| e.to_string())?),
        None => None,
    };
    secrets.extend(passphrase.clone());
    match russh::keys::decode_secret_key(&text, passphrase.as_deref()) {
        Ok(key) => Ok(Some(Key {
            key: Arc::new(key),
            name,
        })),
        Err(russh::keys::Error::KeyIsEncrypted) => Err(format!(
            "{name} (encrypted, and no passphrase is given: give it, or let an agent hold the key)"
        )),
        // What the decoder says may quote what it decodes.
        Err(_) if passphrase.is_some() => {
            Err(format!("{name} (no key, or the passphrase is wrong)"))
        }
        Err(_) => Err(format!("{name} (not a private key that is understood)")),
    }
}

fn read(file: &std::path::Path) -> std::io::Result<Option<String>> {
    use std::io::Read;
    let open = match std::fs::File::open(file) {
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        other => other?,
    };
    let mut text = String::new();
    open.take(MAX_KEY_FILE).read_to_string(&mut text)?;
    Ok(Some(text))
}
