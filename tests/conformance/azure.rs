//! Azure Blob Storage, on Azurite; what that does not do, on a server that follows a script.

use std::net::SocketAddr;
use std::sync::Arc;

use async_trait::async_trait;
use svol::entry::Kind;
use svol::path::RelPath;
use svol::source::azure::{AzureKeys, AzureSettings, AzureSource};
use svol::source::sweep::Start;
use svol::source::{Env, ErrorKind, Secret, Source};

use crate::common::azure::{ACCOUNT, ACCOUNT_KEY, TestAzure, WRONG_KEY, signature};
use crate::common::s3::no_env;
use crate::common::scripted::{Reply, Request, Scripted, reply};
use crate::suite::*;

suite!(
    azure_container,
    InContainer::new(false),
    InContainer::new(true)
);

/// A signature that does not end while the tests run.
const LATER: &str = "2999-01-01T00:00:00Z";

pub struct InContainer {
    own: Option<Box<TestAzure>>,
    container: String,
}

impl InContainer {
    pub async fn new(own: bool) -> InContainer {
        let mut world = InContainer {
            own: None,
            container: String::new(),
        };
        match own {
            true => world.own = Some(Box::new(blocking(TestAzure::start).await)),
            false => drop(blocking(TestAzure::shared).await),
        }
        world.container = world.server().container("conformance").await;
        // A neighbour whose name begins alike must never show.
        world
            .server()
            .put(&world.container, "rooted/wrong", "x")
            .await;
        world
    }

    fn server(&self) -> &TestAzure {
        match &self.own {
            Some(server) => server,
            None => TestAzure::shared(),
        }
    }

    fn settings(&self) -> AzureSettings {
        let mut settings = self.server().settings(&self.container);
        settings.prefix = "root/".into();
        settings
    }
}

#[async_trait]
impl World for InContainer {
    fn source(&self) -> Arc<dyn Source> {
        guarded(AzureSource::new(self.settings(), &no_env()).unwrap())
    }
    async fn put(&self, path: &str, bytes: &[u8]) {
        let key = format!("root/{path}");
        self.server().put(&self.container, &key, bytes).await;
    }
    async fn put_all(&self, all: Vec<(String, Vec<u8>)>) {
        let all = all.into_iter().map(|(p, b)| (format!("root/{p}"), b));
        self.server().put_all(&self.container, all).await;
    }
    async fn delete(&self, path: &str) {
        let key = format!("root/{path}");
        self.server().delete(&self.container, &key).await;
    }
    fn address(&self) -> Option<SocketAddr> {
        let (address, _) = self
            .server()
            .endpoint
            .strip_prefix("http://")?
            .split_once('/')?;
        Some(address.parse().unwrap())
    }
    fn grafted(&self, server: Option<SocketAddr>) -> Grafted {
        let (container, at) = (&self.container, server.or(self.address()).unwrap());
        Grafted {
            yaml: format!(
                "azure: {{account: {ACCOUNT}, container: {container}, prefix: root, endpointUrl: \
                 'http://{at}/{ACCOUNT}', credentials: {{accountKey: {{fromEnv: AZURE_KEY}}}}}}"
            ),
            env: vec![("AZURE_KEY", ACCOUNT_KEY.into())],
        }
    }
    async fn stop(&self) {
        // It may be started again.
        self.server().save().await;
        self.server().stop();
    }
    async fn restart(&self) -> bool {
        self.server().restart().await;
        true
    }
    fn takes(&self, name: &str) -> bool {
        // Azurite stores a backslash as a slash.
        !name.contains('\\')
    }
    fn with_wrong_credentials(&self) -> Option<Arc<dyn Source>> {
        let mut settings = self.settings();
        settings.credentials = Some(AzureKeys::AccountKey(Secret::fixed(WRONG_KEY)));
        Some(Arc::new(AzureSource::new(settings, &no_env()).unwrap()))
    }
}

fn source(settings: AzureSettings) -> AzureSource {
    AzureSource::new(settings, &no_env()).unwrap()
}

async fn names(source: &dyn Source, dir: &RelPath) -> Vec<(String, Kind)> {
    let listing = source.list(dir).await.unwrap();
    let entries = listing.entries.iter();
    entries
        .map(|e| (e.name.as_str().to_owned(), e.kind))
        .collect()
}

#[tokio::test]
async fn hostile_names_are_hidden_and_counted() {
    let server = blocking(TestAzure::shared).await;
    let container = server.container("hostile").await;
    let long = format!("k/{}", "x".repeat(1022));
    for key in [
        "k/a",
        "k/a/b",
        "k/plain",
        "k/sub/x/y",
        "k//z",
        "kk/wrong",
        "k",
        &long,
    ] {
        server.put(&container, key, "x").await;
    }
    // As the tools for Hadoop mark directories: one with something in it, one empty.
    let folder = [("x-ms-meta-hdi_isfolder", "true")];
    for key in ["k/sub", "k/empty"] {
        server.put_with(&container, key, "", &folder).await;
    }
    let mut settings = server.settings(&container);
    settings.prefix = "/k/".into();
    let whole = source(settings.clone());
    let want = [
        ("a", Kind::Dir),
        ("empty", Kind::Dir),
        ("plain", Kind::File),
        ("sub", Kind::Dir),
    ];
    let want: Vec<_> = want.map(|(name, kind)| (name.to_owned(), kind)).into();
    assert_eq!(names(&whole, &RelPath::root()).await, want);
    let hidden = whole.list(&RelPath::root()).await.unwrap().hidden;
    let counts: u64 = hidden.iter().map(|h| h.count).sum();
    assert_eq!(
        counts, 3,
        "`a` beside `a/`, `k//`, the long name: {hidden:?}"
    );
    assert!(names(&whole, &at("empty")).await.is_empty());
    assert_eq!(kind(whole.stat(&at("empty")).await), ErrorKind::NotFound);
    assert_eq!(kind(whole.list(&at("plain")).await), ErrorKind::NotFound);

    // The name of a blob as prefix: a directory of it alone.
    settings.prefix = "k/plain".into();
    for ask_first in [true, false] {
        let single = source(settings.clone());
        if ask_first {
            let shown = names(&single, &RelPath::root()).await;
            assert_eq!(shown, [("plain".to_owned(), Kind::File)]);
        }
        let entry = single.stat(&at("plain")).await.unwrap();
        assert_eq!(read(&single, "plain", &entry, 0, 1).await.unwrap(), b"x");
    }
    // A prefix that nothing begins with is an empty directory; a container that is not there is not.
    settings.prefix = "nothing/here".into();
    let empty = source(settings.clone());
    assert!(names(&empty, &RelPath::root()).await.is_empty());
    settings.container = "no-such-container".into();
    let none = source(settings);
    for error in [
        none.list(&RelPath::root()).await.map(|_| ()).unwrap_err(),
        none.stat(&at("f")).await.map(|_| ()).unwrap_err(),
    ] {
        assert_eq!(error.kind(), ErrorKind::Invalid, "{error}");
        assert!(error.to_string().contains("no-such-container"), "{error}");
    }
}

#[tokio::test]
async fn a_walk_lists_many_directories_at_once() {
    let server = blocking(TestAzure::shared).await;
    let container = server.container("walk").await;
    let files = (0..50).map(|n| (format!("w/d{:02}/f{n:02}", n / 5), vec![1]));
    server.put_all(&container, files).await;
    let mut settings = server.settings(&container);
    settings.prefix = "w".into();
    let source = source(settings);
    let recursive = source.recursive().unwrap();
    let (root, start) = (RelPath::root(), Start::Key(String::new()));
    let all = recursive.keys(&root, &start).await.unwrap();
    assert_eq!((all.keys.len(), all.next), (50, None));
    // From the middle on, whether the place is there or not.
    for from in ["d04/f22", "d04/f22x"] {
        let start = Start::Key(from.into());
        let rest = recursive.keys(&root, &start).await.unwrap();
        assert_eq!(rest.keys[0].key, "d04/f23");
        assert_eq!(rest.keys.len(), 27);
    }
}

#[tokio::test]
async fn every_way_to_ask_works_and_none_is_shown() {
    let server = blocking(TestAzure::shared).await;
    let container = server.container("ways").await;
    server.put(&container, "f", "x").await;
    let settings = server.settings(&container);
    let sas = signature(LATER);
    let secret = |text: &str| Some(Secret::fixed(text));
    let named = [
        secret(ACCOUNT_KEY).map(AzureKeys::AccountKey),
        secret(&sas).map(AzureKeys::SasToken),
        secret(&server.connection_string()).map(AzureKeys::ConnectionString),
    ];
    let mut identities = Vec::new();
    for credentials in named {
        let source = source(AzureSettings {
            credentials,
            ..settings.clone()
        });
        let entry = known(&source, "f").await;
        assert_eq!(read(&source, "f", &entry, 0, 1).await.unwrap(), b"x");
        for text in [source.identity().to_owned(), source.url(&at("f"))] {
            assert!(!text.contains("sig") && !text.contains('?'), "{text}");
        }
        identities.push(source.identity().to_owned());
    }
    // The same by the names of Azure's tools; a connection string says all but the container.
    let from = |pairs: &[(&str, &str)]| {
        let bare = AzureSettings {
            container: container.clone(),
            ..AzureSettings::default()
        };
        AzureSource::new(bare, &Env::from_pairs(pairs.iter().copied())).unwrap()
    };
    let (string, endpoint) = (server.connection_string(), server.endpoint.clone());
    let place = [
        ("AZURE_STORAGE_ACCOUNT", ACCOUNT),
        ("AZURE_STORAGE_SERVICE_ENDPOINT", &endpoint),
    ];
    for source in [
        from(&[("AZURE_STORAGE_CONNECTION_STRING", &string)]),
        from(&[&place[..], &[("AZURE_STORAGE_KEY", ACCOUNT_KEY)]].concat()),
        from(&[&place[..], &[("AZURE_STORAGE_SAS_TOKEN", &sas)]].concat()),
    ] {
        let entry = known(&source, "f").await;
        assert_eq!(read(&source, "f", &entry, 0, 1).await.unwrap(), b"x");
        identities.push(source.identity().to_owned());
    }
    identities.dedup();
    assert_eq!(identities.len(), 1, "{identities:?}");
}

#[tokio::test]
async fn an_expired_signature_is_said_and_not_shown() {
    let server = blocking(TestAzure::shared).await;
    let container = server.container("expired").await;
    let token = signature("2020-01-01T00:00:00Z");
    let mut settings = server.settings(&container);
    settings.credentials = Some(AzureKeys::SasToken(Secret::fixed(token.clone())));
    let source = source(settings);
    let sig = token.rsplit("sig=").next().unwrap();
    for error in [
        source.list(&RelPath::root()).await.map(|_| ()).unwrap_err(),
        source.stat(&at("f")).await.map(|_| ()).unwrap_err(),
    ] {
        assert_eq!(error.kind(), ErrorKind::Denied, "{error}");
        let text = error.to_string();
        assert!(text.contains("expired at 2020-01-01T00:00:00Z"), "{text}");
        assert!(!text.contains(sig), "{text}");
    }
}

#[tokio::test]
async fn a_rotated_key_file_is_read_anew() {
    let server = blocking(TestAzure::shared).await;
    let container = server.container("rotated").await;
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("key");
    std::fs::write(&file, WRONG_KEY).unwrap();
    let mut settings = server.settings(&container);
    let path = file.clone();
    let key = Secret::from_fn(move || std::fs::read_to_string(&path).map_err(|e| e.to_string()));
    settings.credentials = Some(AzureKeys::AccountKey(key));
    let source = source(settings);
    assert_eq!(kind(source.list(&RelPath::root()).await), ErrorKind::Denied);
    std::fs::write(&file, format!("{ACCOUNT_KEY}\n")).unwrap();
    source.list(&RelPath::root()).await.unwrap();
}

#[tokio::test]
async fn a_public_container_needs_no_key() {
    let server = blocking(TestAzure::shared).await;
    let container = server.container("public").await;
    server.put(&container, "f", "x").await;
    let mut settings = server.settings(&container);
    settings.credentials = None;
    settings.anonymous = true;
    let public = source(settings.clone());
    let entry = known(&public, "f").await;
    assert_eq!(read(&public, "f", &entry, 0, 1).await.unwrap(), b"x");
    settings.container = server.container("private").await;
    let error = source(settings).list(&RelPath::root()).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Denied, "{error}");
    assert!(error.to_string().contains("--no-sign-request"), "{error}");
}

#[tokio::test]
async fn an_archived_blob_is_not_now() {
    let server = blocking(TestAzure::shared).await;
    let container = server.container("archive").await;
    server.put(&container, "cold", "x").await;
    server.set_tier(&container, "cold", "Archive").await;
    let source = source(server.settings(&container));
    let entry = known(&source, "cold").await;
    let error = source.read(&at("cold"), &entry, 0..1).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotNow, "{error}");
    assert!(error.to_string().contains("rehydrate"), "{error}");
}

#[tokio::test]
async fn a_label_of_compression_changes_nothing() {
    let server = blocking(TestAzure::shared).await;
    let container = server.container("labelled").await;
    let label = [("x-ms-blob-content-encoding", "gzip")];
    server.put_with(&container, "f", "as it is", &label).await;
    let source = source(server.settings(&container));
    let entry = known(&source, "f").await;
    let bytes = read(&source, "f", &entry, 0, 8).await.unwrap();
    assert_eq!(bytes, b"as it is");
}

/// Returns a source that asks a server which follows a script, and that server.
async fn scripted(
    script: impl Fn(&Request) -> Reply + Send + Sync + 'static,
) -> (Scripted, AzureSettings) {
    let server = Scripted::start(script).await;
    let settings = AzureSettings {
        account: Some("acc".into()),
        container: "c".into(),
        endpoint: Some(server.url.clone()),
        credentials: Some(AzureKeys::AccountKey(Secret::fixed(ACCOUNT_KEY))),
        ..AzureSettings::default()
    };
    (server, settings)
}

const LISTING: &[u8] = b"<EnumerationResults><Blobs><Blob><Name>f</Name><Properties><Etag>0x1</Etag>\
    <Content-Length>4</Content-Length></Properties></Blob></Blobs><NextMarker/></EnumerationResults>";

#[tokio::test]
async fn a_wrong_clock_and_a_busy_server_are_named() {
    let denied = b"<Error><Code>AuthenticationFailed</Code><Message>no</Message></Error>";
    let date = [("Date", "Sun, 06 Nov 1994 08:49:37 GMT")];
    let (_server, settings) = scripted(move |_| reply("403 Forbidden", &date, denied)).await;
    let error = source(settings).list(&RelPath::root()).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Denied);
    let text = error.to_string();
    assert!(
        text.contains("clock") && text.contains("06 Nov 1994"),
        "{text}"
    );

    let busy = b"<Error><Code>ServerBusy</Code><Message>later</Message></Error>";
    let pause = [("Retry-After", "7")];
    let (_server, settings) = scripted(move |_| reply("503 Busy", &pause, busy)).await;
    let error = source(settings).list(&RelPath::root()).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Throttled);
    assert_eq!(error.retry_after().unwrap().as_secs(), 7);
}

#[tokio::test]
async fn replies_are_compared_with_what_was_asked() {
    // A server that heeds no If-Match, and brings whatever the path's last letter says.
    let (_server, settings) = scripted(|request| {
        let path = request.target.split('?').next().unwrap();
        let partial = |headers: &[(&str, &str)], body: &[u8]| reply("206 Partial", headers, body);
        let (range, etag) = (("Content-Range", "bytes 0-3/4"), ("ETag", "\"0x1\""));
        match path.rsplit('/').next().unwrap() {
            "c" => reply("200 OK", &[], LISTING),
            "right" => partial(&[range, etag], b"1234"),
            "changed" => partial(&[range, ("ETag", "\"0x2\"")], b"1234"),
            "silent" => partial(&[range], b"1234"),
            "longer" => partial(&[("Content-Range", "bytes 0-3/5"), etag], b"1234"),
            "elsewhere" => partial(&[("Content-Range", "bytes 0-2/4"), etag], b"1234"),
            "page" => reply("404 Not Found", &[], b"<html>nothing</html>"),
            _ => reply("301 Moved", &[("Location", "http://127.0.0.1:1/")], b""),
        }
    })
    .await;
    let source = source(settings);
    let entry = known(&source, "f").await;
    assert_eq!(read(&source, "right", &entry, 0, 4).await.unwrap(), b"1234");
    for (path, want) in [
        ("changed", ErrorKind::Changed),
        ("silent", ErrorKind::Lied),
        ("longer", ErrorKind::Changed),
        ("elsewhere", ErrorKind::Lied),
        ("page", ErrorKind::Lied),
        ("moved", ErrorKind::Invalid),
    ] {
        let got = source.read(&at(path), &entry, 0..4).await;
        assert_eq!(kind(got), want, "{path}");
    }
}

#[tokio::test]
async fn a_listing_that_goes_in_circles_ends() {
    let (server, settings) = scripted(|_| {
        let page =
            String::from_utf8_lossy(LISTING).replace("<NextMarker/>", "<NextMarker>m</NextMarker>");
        reply("200 OK", &[], page.as_bytes())
    })
    .await;
    let got = source(settings).list(&RelPath::root()).await;
    assert_eq!(kind(got), ErrorKind::Lied);
    assert_eq!(server.seen().len(), 2);
}

#[tokio::test]
async fn true_directories_are_walked_one_by_one() {
    let (_server, settings) = scripted(|_| {
        let page = String::from_utf8_lossy(LISTING)
            .replace("<Etag>", "<ResourceType>file</ResourceType><Etag>");
        reply("200 OK", &[], page.as_bytes())
    })
    .await;
    let source = source(settings);
    assert!(source.recursive().is_some());
    source.list(&RelPath::root()).await.unwrap();
    assert!(source.recursive().is_none(), "their order is another");
}

#[tokio::test]
async fn tokens_are_fetched_renewed_and_never_shown() {
    // Entra ID and the blob service in one: a token for each secret that is right.
    let (server, mut settings) = scripted(|request| match request.method.as_str() {
        "POST" if request.target.starts_with("/tenant/oauth2/") => {
            let token = br#"{"access_token":"tok-hunter2","expires_in":3600}"#;
            reply("200 OK", &[("Content-Type", "application/json")], token)
        }
        "POST" => reply("401 Unauthorized", &[], b"what is hunter2-wrong?"),
        _ => match request.header("authorization") {
            Some("Bearer tok-hunter2") => reply("200 OK", &[], LISTING),
            other => {
                let said = format!(
                    "<Error><Code>InvalidAuthenticationInfo</Code><Message>you sent \
                                    {other:?}</Message></Error>"
                );
                reply("401 Unauthorized", &[], said.as_bytes())
            }
        },
    })
    .await;
    settings.credentials = None;
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("token");
    std::fs::write(&file, "assertion-hunter2").unwrap();
    let file = file.to_string_lossy().into_owned();
    let authority = format!("{}/", server.url);
    let mut env = vec![
        ("AZURE_AUTHORITY_HOST", authority.as_str()),
        ("AZURE_TENANT_ID", "tenant"),
        ("AZURE_CLIENT_ID", "app"),
    ];
    for last in [
        ("AZURE_CLIENT_SECRET", "secret-hunter2"),
        ("AZURE_FEDERATED_TOKEN_FILE", file.as_str()),
    ] {
        env.push(last);
        let env_now = Env::from_pairs(env.iter().copied());
        let source = AzureSource::new(settings.clone(), &env_now).unwrap();
        for _ in 0..2 {
            source.list(&RelPath::root()).await.unwrap();
        }
        env.pop();
    }
    let posts = server.seen().iter().filter(|r| r.method == "POST").count();
    assert_eq!(posts, 2, "one token each");

    // A wrong one, which the service repeats.
    env[1].1 = "another";
    env.push(("AZURE_CLIENT_SECRET", "hunter2-wrong"));
    let source = AzureSource::new(settings, &Env::from_pairs(env)).unwrap();
    let error = source.list(&RelPath::root()).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Denied, "{error}");
    assert!(!error.to_string().contains("hunter2"), "{error}");
    assert!(error.to_string().contains("AZURE_CLIENT_SECRET"), "{error}");
}
