//! Documents to volumes: what each field comes to, where secrets end up, and hostile input.

use std::path::{Path, PathBuf};

use proptest::prelude::*;

use super::{Converted, Inline, Secrets, parse, write};
use crate::config::error::ConfigError;
use crate::config::note::NoteKind;
use crate::config::secret::SecretRef;
use crate::config::source::{HttpAuth, Source};
use crate::config::volume::Volume;

const FILE: &str = "sv.yaml";

fn document(kind: &str, metadata: &str, spec: &str) -> String {
    format!(
        "apiVersion: sv.sharedvolume.io/v1alpha1\nkind: {kind}\nmetadata: {{{metadata}}}\nspec:\n  \
         mountPath: /mnt\n{spec}"
    )
}

/// A namespaced document with a source.
fn with_source(source: &str) -> String {
    document(
        "SharedVolume",
        "name: v, namespace: ns",
        &format!("  source: {{{source}}}\n"),
    )
}

fn run_with(text: &str, inline: Inline, there: &[&str]) -> Result<Converted, ConfigError> {
    let there = |file: &Path| there.iter().any(|known| Path::new(known) == file);
    let secrets = Secrets {
        dir: Path::new("/secrets"),
        there: &there,
        inline,
    };
    let file = Path::new(FILE);
    let documents = parse(text, file)?.expect("a document of the original");
    documents.into_only(file)?.convert(file, &secrets)
}

fn run(text: &str) -> Converted {
    run_with(text, Inline::Keep, &[]).unwrap_or_else(|error| panic!("{error}\n{text}"))
}

fn refused(text: &str) -> String {
    run_with(text, Inline::Keep, &[]).unwrap_err().to_string()
}

fn source(text: &str) -> Source {
    run(&with_source(text)).volume.spec.layers.remove(0).source
}

fn notes(converted: &Converted, kind: NoteKind) -> Vec<String> {
    let notes = converted.notes.iter().filter(|note| note.kind == kind);
    notes.map(ToString::to_string).collect()
}

fn expose(secret: &Option<SecretRef>) -> String {
    secret.as_ref().unwrap().read().unwrap().expose().to_owned()
}

#[test]
fn secrets_in_plain_text_are_kept_in_memory_and_named() {
    let git = run(&with_source(
        "git: {url: https://h/a.git, user: jo, password: hunter2}",
    ));
    let Source::Git(found) = &git.volume.spec.layers[0].source else {
        panic!("{git:?}")
    };
    let Some(HttpAuth::Basic(basic)) = &found.auth else {
        panic!("{found:?}")
    };
    assert_eq!(basic.username, "jo");
    assert_eq!(basic.password.read().unwrap().expose(), "hunter2");
    let [decide] = notes(&git, NoteKind::Decide).try_into().unwrap();
    assert!(
        decide.starts_with("sv.yaml:6:60: spec.source.git.password: a secret in plain text"),
        "{decide}"
    );
    assert!(decide.contains("passwordFromSecret"), "{decide}");
    assert!(!format!("{git:?}").contains("hunter2"));
    // What holds a secret cannot be written.
    assert!(write(&git).is_err());
    assert!(serde_json::to_string(&git.volume).is_err());

    let Source::S3(s3) = source(
        "s3: {endpointUrl: 'http://h:1', bucketName: b, region: r, accessKey: id, secretKey: hunter2}",
    ) else {
        panic!()
    };
    let keys = s3.credentials.unwrap();
    assert_eq!(keys.access_key_id.read().unwrap().expose(), "id");
    assert_eq!(keys.secret_access_key.read().unwrap().expose(), "hunter2");

    let Source::Sftp(ssh) = source("ssh: {host: h, user: u, path: /d, password: hunter2}") else {
        panic!()
    };
    assert_eq!(expose(&ssh.ssh.password), "hunter2");
}

#[test]
fn a_private_key_is_pem_or_pem_in_base64() {
    const PEM: &str =
        "-----BEGIN OPENSSH PRIVATE KEY-----\nhunter2\n-----END OPENSSH PRIVATE KEY-----";
    let packed = "LS0tLS1CRUdJTiBPUEVOU1NIIFBSSVZBVEUgS0VZLS0tLS0KaHVudGVyMgotLS0tLUVORCBPUEVOU1NIIFBSSVZBVEUgS0VZLS0tLS0K";
    let lines = format!("{} {}", &packed[..40], &packed[40..]);
    for key in [packed, &lines, &PEM.replace('\n', "\\n")] {
        let text = format!("ssh: {{host: h, user: u, path: /d, privateKey: \"{key}\"}}");
        let Source::Sftp(ssh) = source(&text) else {
            panic!()
        };
        assert_eq!(expose(&ssh.ssh.private_key), PEM);
        let text = format!("git: {{url: 'git@h:a.git', privateKey: \"{key}\"}}");
        let Source::Git(git) = source(&text) else {
            panic!()
        };
        assert_eq!(git.url.to_string(), "ssh://git@h/a.git");
        assert_eq!(expose(&git.ssh.unwrap().private_key), PEM);
    }
    for key in ["hunter2", "aHVudGVyMg==", "!!"] {
        let why = refused(&with_source(&format!(
            "ssh: {{host: h, path: /d, privateKey: '{key}'}}"
        )));
        assert!(
            why.contains("spec.source.ssh.privateKey: not a private key"),
            "{why}"
        );
        assert!(!why.contains(key), "{why}");
    }
}

#[test]
fn the_namespaces_directory_wins() {
    let own = with_source(
        "ssh: {host: h, path: /d, passwordFromSecret: {name: s, key: k, namespace: no}}",
    );
    let cluster = document(
        "ClusterSharedVolume",
        "name: v, namespace: no",
        "  source: {ssh: {host: h, path: /d, passwordFromSecret: {name: s, key: k, namespace: ns}}}\n",
    );
    for text in [own, cluster] {
        for (there, file, missing) in [
            (
                &["/secrets/ns/s/k", "/secrets/s/k"][..],
                "/secrets/ns/s/k",
                false,
            ),
            (&["/secrets/ns/s/k"], "/secrets/ns/s/k", false),
            (&["/secrets/s/k"], "/secrets/s/k", false),
            (&[], "/secrets/ns/s/k", true),
        ] {
            let converted = run_with(&text, Inline::Keep, there).unwrap();
            let Source::Sftp(ssh) = &converted.volume.spec.layers[0].source else {
                panic!("{converted:?}")
            };
            assert_eq!(
                ssh.ssh.password,
                Some(SecretRef::FromFile(PathBuf::from(file)))
            );
            let said = notes(&converted, NoteKind::Decide)
                .iter()
                .any(|note| note.contains("/secrets/ns/s/k or /secrets/s/k"));
            assert_eq!(said, missing);
        }
    }
    // Nothing leads out of the directory.
    for (field, value) in [
        ("name", ".."),
        ("name", "a/b"),
        ("name", ""),
        ("key", ".."),
        ("key", "..data"),
        ("key", "/etc/shadow"),
        ("namespace", "../x"),
    ] {
        let mut key = [("name", "s"), ("key", "k"), ("namespace", "n")];
        key.iter_mut()
            .filter(|pair| pair.0 == field)
            .for_each(|pair| pair.1 = value);
        let key: Vec<String> = key.iter().map(|(k, v)| format!("{k}: '{v}'")).collect();
        let why = refused(&with_source(&format!(
            "ssh: {{host: h, path: /d, passwordFromSecret: {{{}}}}}",
            key.join(", ")
        )));
        let field = format!("spec.source.ssh.passwordFromSecret.{field}: not a name");
        assert!(why.contains(&field), "{why}");
    }
    for metadata in [
        "name: .., namespace: n",
        "name: v, namespace: ../n",
        "name: a/b",
    ] {
        let text = document(
            "SharedVolume",
            metadata,
            "  source: {http: {url: 'http://h/'}}\n",
        );
        assert!(refused(&text).contains("not a name that Kubernetes takes"));
    }
}

#[test]
fn what_is_left_out_has_the_originals_defaults() {
    let converted = run(&with_source("http: {url: 'https://h/f'}"));
    let spec = &converted.volume.spec;
    assert_eq!(spec.refresh.unwrap().to_string(), "1m");
    assert_eq!(spec.timeout, None);
    assert_eq!(converted.volume.metadata.name.as_str(), "v");
    assert_eq!(
        notes(&converted, NoteKind::NoEquivalent),
        Vec::<String>::new()
    );

    // To Go, a text that is empty is not there.
    let empty = document(
        "SharedVolume",
        "name: v, namespace: ''",
        "  syncInterval: ''\n  syncTimeout: ''\n  storage: {accessMode: ''}\n  source: {ssh: {host: h, \
         path: /d, port: 0, user: '', password: '', privateKey: ''}}\n",
    );
    let Source::Sftp(ssh) = &run(&empty).volume.spec.layers[0].source else {
        panic!()
    };
    assert_eq!(
        (ssh.port, &ssh.user, &ssh.ssh.password),
        (None, &None, &None)
    );
}

#[test]
fn each_field_without_an_equivalent_is_named() {
    let text = document(
        "SharedVolume",
        "name: v",
        "  storage: {capacity: 1Gi, accessMode: ReadWrite, extra: 1}\n  storageClassName: s\n  \
         nfsServer: {name: n, namespace: m, url: u, image: i, path: p}\n  resourceNamespace: r\n  \
         referenceValue: r\n  resourcePolicy: {}\n  image: i\n  resources: {}\n  accessModes: []\n  \
         source: {http: {url: 'https://h/f'}}\nextra: 1\nstatus: {phase: Ready}\n",
    );
    let said = notes(&run(&text), NoteKind::NoEquivalent);
    let fields: Vec<&str> = said
        .iter()
        .map(|note| note.split(": ").nth(1).unwrap())
        .collect();
    assert_eq!(
        fields,
        [
            "spec.storage.capacity",
            "spec.storage.accessMode",
            "spec.storage.extra",
            "spec.storageClassName",
            "spec.nfsServer",
            "spec.resourceNamespace",
            "spec.referenceValue",
            "spec.resourcePolicy",
            "spec.image",
            "spec.resources",
            "spec.accessModes",
            "extra",
        ]
    );
}

#[test]
fn endpoints_of_amazon_are_left_to_the_region() {
    for (endpoint, url, path_style) in [
        ("https://s3.amazonaws.com", None, None),
        ("https://s3.eu-west-1.amazonaws.com", None, None),
        ("s3-us-west-2.amazonaws.com", None, None),
        (
            "https://bucket.vpce-1.s3.eu-west-1.vpce.amazonaws.com",
            Some("https://bucket.vpce-1.s3.eu-west-1.vpce.amazonaws.com/"),
            Some(false),
        ),
        ("minio:9000", Some("https://minio:9000/"), None),
        ("http://minio:9000", Some("http://minio:9000/"), None),
    ] {
        let Source::S3(s3) = source(&format!("s3: {{endpointUrl: '{endpoint}', bucketName: b}}"))
        else {
            panic!()
        };
        let found = s3.endpoint_url.as_ref().map(|url| url.as_str());
        assert_eq!((found, s3.path_style), (url, path_style), "{endpoint}");
    }
    let why = refused(&with_source(
        "s3: {endpointUrl: 'http://a:hunter2@h', bucketName: b}",
    ));
    assert!(
        why.contains("s3.endpointUrl") && !why.contains("hunter2"),
        "{why}"
    );
}

#[test]
fn logins_in_urls() {
    let auth = |text: &str| {
        let (url, auth) = match source(text) {
            Source::Http(http) => (http.url.as_str().to_owned(), http.auth),
            Source::Git(git) => (git.url.to_string(), git.auth),
            other => panic!("{other:?}"),
        };
        let Some(HttpAuth::Basic(basic)) = auth else {
            return url;
        };
        let password = basic.password.read().unwrap();
        format!("{url} {} {}", basic.username, password.expose())
    };
    assert_eq!(
        auth("http: {url: 'http://jo:p%40s@h/f#x'}"),
        "http://h/f jo p@s"
    );
    assert_eq!(auth("http: {url: 'http://h/f#x'}"), "http://h/f");
    assert_eq!(
        auth("git: {url: 'https://jo:pw@h/a.git'}"),
        "https://h/a.git jo pw"
    );
    // The fields win.
    let text = "git: {url: 'https://jo:old@h/a.git', user: me, password: new}";
    assert_eq!(auth(text), "https://h/a.git me new");

    let Source::Git(git) = source("git: {url: 'ssh://h/a.git', user: me, password: pw}") else {
        panic!()
    };
    assert_eq!(git.url.to_string(), "ssh://me@h/a.git");
    assert_eq!(expose(&git.ssh.unwrap().password), "pw");
    let Source::Git(git) = source("git: {url: 'ssh://git:pw@h/a.git'}") else {
        panic!()
    };
    assert_eq!(git.url.to_string(), "ssh://git@h/a.git");
    assert_eq!(expose(&git.ssh.unwrap().password), "pw");

    for text in [
        "http: {url: 'https://hunter2@h/f'}",
        "git: {url: 'https://hunter2@h/a.git'}",
        "git: {url: 'https://h/a.git', password: hunter2}",
        "git: {url: 'https://h/a.git', user: hunter2}",
        "git: {url: 'https://h/a.git', branch: '-hunter2'}",
        "git: {url: '--hunter2:x'}",
    ] {
        let why = refused(&with_source(text));
        assert!(!why.contains("hunter2"), "{why}");
    }
}

#[test]
fn one_volume_is_mounted() {
    let two = format!(
        "{}---\n{}",
        with_source("http: {url: 'http://h/f'}"),
        with_source("http: {url: 'http://h/g'}")
    );
    let why = refused(&two);
    assert!(
        why.contains("2 volumes in one file") && why.contains("svol convert"),
        "{why}"
    );
    let beside = format!(
        "kind: Namespace\n---\n{}---\n",
        with_source("http: {url: 'http://h/f'}")
    );
    run(&beside);
    // Ours is not the original's, whatever it is called.
    let ours = "apiVersion: sharedvolume.io/v1\nkind: Volume\nmetadata: {name: a}\nspec: {layers: [{local: \
                {path: /SharedVolume}}]}\n";
    assert!(parse(ours, Path::new(FILE)).unwrap().is_none());
    let broken = "kind: SharedVolume\nspec: [\n";
    let why = parse(broken, Path::new(FILE)).unwrap_err().to_string();
    assert!(why.starts_with("sv.yaml:"), "{why}");
}

/// A kind, its fields, and those of them that are secrets.
type Fields = (
    &'static str,
    &'static [&'static str],
    &'static [&'static str],
);

/// A document whose fields have values of which some are right. `hunter2` is where secrets are.
fn any_source() -> impl Strategy<Value = String> {
    let word = prop_oneof![
        "[a-z0-9./:@#?%-]{0,20}",
        Just("https://h/a.git".to_owned()),
        Just("ssh://git@h/a".to_owned()),
        Just("/srv".to_owned()),
        Just("data".to_owned()),
        Just("1h".to_owned()),
        any::<String>(),
    ];
    let kinds: &'static [Fields] = &[
        (
            "git",
            &["url", "user", "branch"],
            &["password", "privateKey"],
        ),
        ("http", &["url"], &["url"]),
        (
            "ssh",
            &["host", "path", "user", "port"],
            &["password", "privateKey"],
        ),
        (
            "s3",
            &["endpointUrl", "bucketName", "region", "path"],
            &["accessKey", "secretKey"],
        ),
    ];
    let kind = proptest::sample::select(kinds);
    kind.prop_flat_map(move |(kind, plain, secrets)| {
        let plain = proptest::collection::btree_map(
            proptest::sample::select(plain),
            word.clone(),
            plain.len(),
        );
        let secret =
            proptest::collection::btree_set(proptest::sample::select(secrets), 0..=secrets.len());
        let by_secret = proptest::collection::btree_map(
            proptest::sample::select(secrets),
            (word.clone(), word.clone()),
            0..2,
        );
        (
            Just(kind),
            plain,
            secret,
            by_secret,
            "[a-z]{1,9}|.{0,9}",
            word.clone(),
        )
    })
    .prop_map(|(kind, plain, secret, by_secret, name, path)| {
        let mut source = serde_json::Map::new();
        for (field, value) in plain {
            let value = match (field, value.parse::<u32>()) {
                ("port", Ok(port)) => port.into(),
                _ => value.into(),
            };
            source.insert(field.into(), value);
        }
        for field in secret {
            let secret = match field {
                "url" => "https://jo:hunter2@h/f",
                _ => "-----BEGIN hunter2",
            };
            source.insert(field.into(), secret.into());
        }
        for (field, (name, key)) in by_secret {
            let selected = serde_json::json!({"name": name, "key": key});
            source.insert(format!("{field}FromSecret"), selected);
        }
        serde_json::json!({
            "apiVersion": "sv.sharedvolume.io/v1alpha1",
            "kind": "SharedVolume",
            "metadata": {"name": name, "namespace": "n"},
            "spec": {"mountPath": path, "source": {kind: source}},
        })
        .to_string()
    })
}

fn never_shown(text: &str) {
    for inline in [Inline::Keep, Inline::Refer] {
        match run_with(text, inline, &[]) {
            Err(error) => assert!(!error.to_string().contains("hunter2"), "{error}"),
            Ok(converted) => {
                assert!(
                    !format!("{converted:?}").contains("hunter2"),
                    "{converted:?}"
                );
                match write(&converted) {
                    Err(why) => {
                        assert!(inline == Inline::Keep && !why.contains("hunter2"), "{why}")
                    }
                    Ok(yaml) => {
                        assert!(!yaml.contains("hunter2"), "{yaml}");
                        let again = Volume::parse(&yaml, Path::new("v.yaml"));
                        assert_eq!(again.as_ref(), Ok(&converted.volume), "{yaml}");
                    }
                }
            }
        }
    }
}

#[test]
fn what_a_volume_file_may_not_say_is_refused() {
    let text = r#"{"apiVersion": "sv.sharedvolume.io/v1alpha1", "kind": "SharedVolume",
        "metadata": {"name": "a", "namespace": "n"}, "spec": {"source": {"git": {
            "url": "https://h/a.git", "user": ":", "password": "hunter2"}}}}"#;
    never_shown(text);
    let error = run_with(text, Inline::Refer, &[]).unwrap_err();
    assert!(error.to_string().contains("cannot hold `:`"), "{error}");
}

const WHOLE: &str = include_str!("../../../tests/convert/s3.yaml");

proptest! {
    #[test]
    fn a_secret_is_never_shown_and_what_is_written_is_read_again(text in any_source()) {
        never_shown(&text);
    }

    /// Cuts and replaces bytes of a right file.
    #[test]
    fn a_spoilt_document_is_converted_or_refused(
        cut in 0..WHOLE.len(), length in 0..60_usize, with in "[ \\-:{}\\[\\]'\"#&*!|>%@a-z0-9\n\t~]{0,6}"
    ) {
        let end = (cut + length).min(WHOLE.len());
        let text = format!("{}{with}{}", &WHOLE[..cut], &WHOLE[end..]);
        let file = Path::new(FILE);
        let there = |_: &Path| false;
        let secrets = Secrets { dir: Path::new("/s"), there: &there, inline: Inline::Refer };
        if let Ok(Some(documents)) = parse(&text, file) {
            for document in documents.volumes {
                match document.convert(file, &secrets) {
                    Ok(converted) => drop(write(&converted).unwrap()),
                    Err(error) => assert!(!error.problems().is_empty()),
                }
            }
        }
    }
}
