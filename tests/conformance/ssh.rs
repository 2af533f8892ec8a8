//! Connections over SSH, to OpenSSH's server: who it is, who asks, what runs there.

use std::sync::Arc;

use svol::source::ssh::{Connection, HostKeys, Identity, KeyPlace, SshSettings};
use svol::source::{Error, ErrorKind, Result, Secret};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::common::sshd::{PASSPHRASE, TestAgent, TestSshd};
use crate::suite::blocking;

async fn sshd() -> TestSshd {
    blocking(TestSshd::start).await
}

/// Connects, runs a command, and returns what it prints.
async fn greet(settings: &SshSettings) -> Result<String> {
    let connection = Arc::new(Connection::connect(settings).await?);
    let mut exec = connection.exec("echo hello", &[]).await?;
    let mut said = String::new();
    exec.read_to_string(&mut said).await.unwrap();
    assert_eq!(exec.wait().await, Some(0));
    Ok(said)
}

fn denied(result: Result<String>) -> String {
    let error: Error = result.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Denied, "{error}");
    let text = format!("{error} {error:?}");
    assert!(!text.contains("hunter2"), "{text}");
    text
}

#[tokio::test]
async fn commands_run() {
    let server = sshd().await;
    let connection = Connection::connect(&server.settings()).await.unwrap();
    let connection = Arc::new(connection);
    let env = [("GIT_PROTOCOL", "version=2")];
    let mut exec = connection
        .exec("cat; echo told >&2; exit 3", &env)
        .await
        .unwrap();
    assert_eq!(exec.env_refused(), ["GIT_PROTOCOL"]);
    let sent = crate::common::noise(1, 3 << 20);
    let (mut reader, mut writer) = tokio::io::split(&mut exec);
    let (mut got, len) = (Vec::new(), sent.len());
    let write = async {
        writer.write_all(&sent).await.unwrap();
        writer.shutdown().await.unwrap();
    };
    let (read, ()) = tokio::join!(reader.read_to_end(&mut got), write);
    assert_eq!(read.unwrap(), len);
    assert!(got == sent);
    assert_eq!(exec.wait().await, Some(3));
    assert_eq!(exec.stderr(), "told");
    // The connection serves on, and closes once a command is left in the middle.
    let exec = connection.exec("sleep 100", &[]).await.unwrap();
    assert!(!connection.is_closed());
    drop(exec);
    while !connection.is_closed() {
        tokio::time::sleep(std::time::Duration::from_millis(5)).await;
    }
    let error = connection.exec("true", &[]).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unreachable, "{error}");
}

#[tokio::test]
async fn environment_is_set_where_the_server_takes_it() {
    let server = blocking(|| TestSshd::start_with("AcceptEnv GIT_PROTOCOL")).await;
    let connection = Connection::connect(&server.settings()).await.unwrap();
    let connection = Arc::new(connection);
    let env = [("GIT_PROTOCOL", "version=2")];
    let mut exec = connection.exec("echo $GIT_PROTOCOL", &env).await.unwrap();
    assert!(exec.env_refused().is_empty());
    let mut said = String::new();
    exec.read_to_string(&mut said).await.unwrap();
    assert_eq!(said, "version=2\n");
}

#[tokio::test]
async fn only_the_server_that_was_meant() {
    let server = sshd().await;
    let shown = server.fingerprint("host_ed25519");
    let known = server.file("known_hosts");

    let mut settings = server.settings();
    settings.host_keys = HostKeys::Known(vec![server.file("none")]);
    let text = denied(greet(&settings).await);
    assert!(
        text.contains(&shown) && text.contains("ssh-keyscan -p"),
        "{text}"
    );

    // Another key of the same kind, and one of another kind only.
    let place = format!("[127.0.0.1]:{}", server.port);
    let wrong = std::fs::read_to_string(server.file("wrong.pub")).unwrap();
    let list = server.file("list");
    std::fs::write(&list, format!("# mine\n{place} {wrong}")).unwrap();
    settings.host_keys = HostKeys::Known(vec![list.clone()]);
    let text = denied(greet(&settings).await);
    assert!(text.contains("list:2 has another"), "{text}");
    assert!(text.contains(&shown), "{text}");

    // Revoked, though known.
    let key = std::fs::read_to_string(server.file("host_ed25519.pub")).unwrap();
    std::fs::write(&list, format!("@revoked * {key}")).unwrap();
    settings.host_keys = HostKeys::Known(vec![known.clone(), list.clone()]);
    let text = denied(greet(&settings).await);
    assert!(text.contains("revoked"), "{text}");

    // Of several kinds of keys the server is asked for the one that is known.
    for kind in ["rsa", "ecdsa", "ed25519"] {
        let key = std::fs::read_to_string(server.file(&format!("host_{kind}.pub"))).unwrap();
        std::fs::write(&list, format!("{place} {key}")).unwrap();
        settings.host_keys = HostKeys::Known(vec![server.file("none"), list.clone()]);
        assert_eq!(greet(&settings).await.unwrap(), "hello\n", "{kind}");
        let print = server.fingerprint(&format!("host_{kind}"));
        settings.host_keys = HostKeys::Pinned(vec!["SHA256:other".into(), print]);
        assert_eq!(greet(&settings).await.unwrap(), "hello\n", "{kind}");
    }
    settings.host_keys = HostKeys::Pinned(vec![server.fingerprint("wrong")]);
    let text = denied(greet(&settings).await);
    assert!(text.contains(&shown) && text.contains("pin"), "{text}");

    // Hashed by OpenSSH's own tool, and looked at anew for each connection.
    std::fs::copy(&known, &list).unwrap();
    let hashed = std::process::Command::new("ssh-keygen")
        .args(["-q", "-H", "-f"])
        .arg(&list)
        .output();
    assert!(hashed.unwrap().status.success());
    assert!(std::fs::read_to_string(&list).unwrap().contains("|1|"));
    settings.host_keys = HostKeys::Known(vec![list]);
    assert_eq!(greet(&settings).await.unwrap(), "hello\n");
}

#[tokio::test]
async fn keys_of_all_kinds_log_in() {
    let server = sshd().await;
    let mut settings = server.settings();
    settings.identities = vec![server.identity("user_rsa")];
    assert_eq!(greet(&settings).await.unwrap(), "hello\n");

    let mut encrypted = server.identity("encrypted");
    settings.identities = vec![encrypted.clone()];
    let text = denied(greet(&settings).await);
    assert!(text.contains("no passphrase is given"), "{text}");
    encrypted.passphrase = Some(Secret::fixed("wrong-hunter2"));
    settings.identities = vec![encrypted.clone()];
    let text = denied(greet(&settings).await);
    assert!(text.contains("passphrase is wrong"), "{text}");
    encrypted.passphrase = Some(Secret::fixed(PASSPHRASE));
    settings.identities = vec![encrypted];
    assert_eq!(greet(&settings).await.unwrap(), "hello\n");

    // Those by custom are passed over where they are of no use.
    let usual = |name| Identity {
        key: KeyPlace::Usual(server.file(name)),
        passphrase: None,
    };
    let some = ["none", "config", "encrypted", "wrong", "user"];
    settings.identities = some.map(usual).to_vec();
    assert_eq!(greet(&settings).await.unwrap(), "hello\n");

    let agent = server.file("user_rsa");
    let agent = tokio::task::spawn_blocking(move || TestAgent::start(&agent));
    let agent = agent.await.unwrap();
    settings.identities = vec![];
    settings.agent = Some(agent.socket.clone());
    assert_eq!(greet(&settings).await.unwrap(), "hello\n");
    drop(agent);
    let text = denied(greet(&settings).await);
    assert!(text.contains("the agent (not usable"), "{text}");
}

#[tokio::test]
async fn a_refusal_tells_what_was_tried() {
    let server = sshd().await;
    let mut settings = server.settings();
    settings.identities = vec![server.identity("wrong")];
    settings.password = Some(Secret::fixed("word-hunter2"));
    let text = denied(greet(&settings).await);
    assert!(text.contains(&server.fingerprint("wrong")), "{text}");
    assert!(text.contains("it takes publickey"), "{text}");
    assert!(!text.contains("password"), "it takes none: {text}");

    settings.identities = vec![];
    let text = denied(greet(&settings).await);
    assert!(text.contains("tried nothing"), "{text}");

    settings.user = String::new();
    let error = greet(&settings).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Invalid, "{error}");
    settings.user = "-oProxyCommand=x".into();
    let error = greet(&settings).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Invalid, "{error}");

    // A key that is replaced needs no new start.
    let mut settings = server.settings();
    std::fs::copy(server.file("wrong"), server.file("mine")).unwrap();
    settings.identities = vec![server.identity("mine")];
    denied(greet(&settings).await);
    std::fs::copy(server.file("user"), server.file("mine")).unwrap();
    assert_eq!(greet(&settings).await.unwrap(), "hello\n");
}

#[tokio::test]
async fn what_is_no_ssh_server_is_told() {
    let nginx = blocking(crate::common::web::TestNginx::start).await;
    let mut settings = sshd().await.settings();
    let refused = greet(&settings).await.unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::Unreachable, "{refused}");
    settings.port = nginx.url.rsplit(':').next().unwrap().parse().unwrap();
    let error = greet(&settings).await.unwrap_err();
    assert_ne!(error.kind(), ErrorKind::NotFound, "{error}");
    settings.host = "no-such-host.invalid".into();
    let error = greet(&settings).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unreachable, "{error}");
    assert!(error.to_string().contains("no-such-host"), "{error}");
}
