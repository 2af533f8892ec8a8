//! Volume files, right and wrong: what is read, and every message with its place.

use std::path::Path;
use std::time::Duration;

use proptest::prelude::*;

use super::*;

/// A file with one layer at line 7, column 7.
const HEAD: &str = "\
apiVersion: sharedvolume.io/v1
kind: Volume
metadata:
  name: demo
spec:
  layers:
";

/// A document that uses every field.
pub(super) const EVERYTHING: &str = "\
apiVersion: sharedvolume.io/v1
kind: Volume
metadata:
  name: demo
  labels: {team: ml}
  annotations: {note: all fields}
spec:
  refresh: 10m
  revalidate: 30s
  timeout: 20s
  cache: {dir: cache, size: 20GiB}
  mount: {uid: 1000, gid: 1000, umask: 022, allowOther: true, bwlimit: 10MiB/s, memory: 128MiB}
  onChange:
    command: [bin/tell, --quickly]
    webhook:
      url: https://hooks.example.org/changed?key=5
      auth: {bearer: {token: {fromFile: token}}}
      headers: {X-Team: {fromEnv: TEAM}}
      tls: {caFile: ca.pem}
      proxy: {url: 'http://proxy:3128'}
    timeout: 10s
  layers:
    - name: models
      s3:
        bucket: models
        prefix: /llama/
        region: eu-central-1
        endpointUrl: http://127.0.0.1:9000
        pathStyle: true
        noSignRequest: false
        profile: work
        requesterPays: true
        credentials:
          accessKeyId: {fromEnv: KEY_ID}
          secretAccessKey: {fromFile: keys/secret}
          sessionToken: {fromFile: /run/token}
      path: /models/llama
      include: ['*.safetensors', docs/**]
      exclude: [tmp/]
      refresh: never
      required: true
      strict: true
      revalidate: 1m
      timeout: 5s
    - http:
        url: https://host/data/
        index: json
        auth: {basic: {username: joe, password: {fromEnv: PASSWORD}}}
        manifest: {file: sums, format: sha256sum}
    - http:
        url: https://host/other/
        manifest: {url: https://host/list, format: list}
        auth: {bearer: {token: {fromFile: token}}}
    - local: {path: site}
    - gcs:
        bucket: photos
        prefix: y2026
        endpointUrl: http://127.0.0.1:4443
        noSignRequest: false
        serviceAccountKey: {fromFile: keys/gcs.json}
        userProject: team
        tls: {caFile: ca.pem}
        proxy: {url: 'http://proxy:3128', auth: {username: joe, password: {fromEnv: PROXY}}}
    - azure:
        account: acme
        container: logs
        prefix: a/b
        endpointUrl: http://127.0.0.1:10000/acme
        credentials: {clientSecret: {tenantId: t, clientId: c, clientSecret: {fromFile: keys/azure}}}
        tls: {client: {certFile: me.pem, keyFile: me.key}}
    - azure: {container: logs, credentials: {sasToken: {fromEnv: SAS}}}
    - webdav: {url: 'https://cloud/remote.php/dav/files/joe/', auth: {bearer: {token: {fromFile: token}}}}
    - git:
        url: https://host/team/repo.git
        ref: v1.2
        subdirectory: docs
        auth: {basic: {username: joe, password: {fromEnv: PASSWORD}}}
    - git: {url: 'git@host:team/repo.git', ref: main, ssh: {privateKey: {fromFile: keys/ssh}}}
    - git: {url: ./repo}
    - sftp:
        host: files.example.org
        port: 2222
        user: joe
        path: /srv/data
        ssh:
          privateKey: {fromFile: keys/ssh}
          passphrase: {fromEnv: PASSPHRASE}
          password: {fromFile: keys/password}
          agent: false
          knownHosts: hosts
    - sftp: {host: '::1', path: /srv, ssh: {hostKeyFingerprints: ['SHA256:aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa']}}
    - ftp:
        host: ftp.example.org
        port: 2121
        path: /pub
        encryption: explicit
        user: joe
        password: {fromFile: keys/password}
        tls: {caFile: ca.pem}
    - ftp: {host: ftp.example.org}
";

fn parse(text: &str) -> Result<Volume, ConfigError> {
    Volume::parse(text, Path::new("v.yaml"))
}

/// Returns the messages for a file whose layers are `layers`.
fn wrong(layers: &str) -> Vec<String> {
    complaints(&format!("{HEAD}{layers}"))
}

fn complaints(text: &str) -> Vec<String> {
    let error = parse(text).expect_err("a problem");
    for problem in error.problems() {
        assert!(
            !problem.to_string().contains("hunter2"),
            "a secret is shown: {problem}"
        );
    }
    error.to_string().lines().map(str::to_owned).collect()
}

#[test]
fn everything_is_read() {
    let mut volume = parse(EVERYTHING).unwrap();
    volume.resolve_paths(Path::new("/etc/svol"));
    let spec = &volume.spec;
    assert_eq!(
        spec.cache.dir.as_deref(),
        Some(Path::new("/etc/svol/cache"))
    );
    assert_eq!(spec.mount.umask.map(Umask::bits), Some(0o022));
    assert_eq!(
        spec.mount.bwlimit.map(ByteRate::bytes_per_second),
        Some(10 << 20)
    );
    assert_eq!(spec.mount.memory.map(|size| size.0), Some(128 << 20));

    let hook = &spec.on_change;
    assert_eq!(hook.command, ["/etc/svol/bin/tell", "--quickly"]);
    assert_eq!(hook.timeout(), Duration::from_secs(10));
    let webhook = hook.webhook.as_ref().unwrap();
    assert_eq!(webhook.shown(), "https://hooks.example.org");
    let token = SecretRef::FromFile("/etc/svol/token".into());
    assert_eq!(webhook.auth, Some(HttpAuth::Bearer(BearerAuth { token })));

    let models = &spec.layers[0];
    let Source::S3(s3) = &models.source else {
        panic!("{models:?}")
    };
    assert_eq!(s3.key_prefix(), "llama");
    assert_eq!(models.source.to_string(), "s3://models/llama");
    let keys = s3.credentials.as_ref().unwrap();
    assert_eq!(keys.access_key_id, SecretRef::FromEnv("KEY_ID".into()));
    assert_eq!(
        keys.secret_access_key,
        SecretRef::FromFile("/etc/svol/keys/secret".into())
    );
    assert_eq!(
        keys.session_token,
        Some(SecretRef::FromFile("/run/token".into()))
    );
    assert_eq!(models.path.to_string(), "/models/llama");
    assert_eq!(models.refresh(), Refresh::Never);
    assert_eq!(models.timeout(), Duration::from_secs(5));

    let Source::Http(http) = &spec.layers[1].source else {
        panic!("{spec:?}")
    };
    let manifest = http.manifest.as_ref().unwrap();
    assert_eq!(
        manifest.location,
        ManifestLocation::File("/etc/svol/sums".into())
    );
    assert_eq!(manifest.format, ManifestFormat::Sha256sum);
    assert_eq!(spec.layers[3].source.to_string(), "file:///etc/svol/site");
    let urls: Vec<String> = spec.layers[4..]
        .iter()
        .map(|layer| layer.source.to_string())
        .collect();
    assert_eq!(
        urls,
        [
            "gs://photos/y2026",
            "az://logs/a/b",
            "az://logs",
            "dav+https://cloud/remote.php/dav/files/joe/",
            "git+https://host/team/repo.git#v1.2:docs",
            "git+ssh://git@host/team/repo.git#main",
            "git+file:///etc/svol/repo",
            "sftp://joe@files.example.org:2222/srv/data",
            "sftp://[::1]/srv",
            "ftps://joe@ftp.example.org:2121/pub",
            "ftp://ftp.example.org/",
        ]
    );
    let mut files = Vec::new();
    for layer in &spec.layers[4..] {
        let mut source = layer.source.clone();
        source.each_file(&mut |file| files.push(file.to_string_lossy().into_owned()));
    }
    let inside: Vec<_> = files
        .iter()
        .map(|file| file.strip_prefix("/etc/svol/").unwrap())
        .collect();
    assert_eq!(
        inside,
        [
            "keys/gcs.json",
            "ca.pem",
            "keys/azure",
            "me.pem",
            "me.key",
            "token",
            "keys/ssh",
            "keys/ssh",
            "keys/password",
            "hosts",
            "keys/password",
            "ca.pem",
        ]
    );
    let names: Vec<String> = (0..4).map(|index| volume.layer_name(index)).collect();
    assert_eq!(names, ["models", "http-1", "http-2", "local-3"]);
}

#[test]
fn what_is_read_prints_as_what_is_read() {
    let volume = parse(EVERYTHING).unwrap();
    // JSON is YAML.
    let json = serde_json::to_string_pretty(&volume).unwrap();
    assert_eq!(parse(&json).unwrap(), volume);
}

#[test]
fn the_smallest_file_has_the_defaults() {
    let volume = parse(&format!("{HEAD}    - local: {{path: /x}}\n")).unwrap();
    let layer = &volume.spec.layers[0];
    assert!(layer.path.is_root() && !layer.required && !layer.strict);
    assert_eq!(layer.timeout(), Duration::from_secs(30));
    assert_eq!(layer.revalidate(), Duration::from_secs(60));
    assert_eq!(layer.refresh().interval(), Some(Duration::from_secs(300)));
}

#[test]
fn yaml_itself() {
    for (text, message) in [
        ("", "v.yaml:1:1: the file is empty; write a volume"),
        (
            "# nothing\n",
            "v.yaml:2:1: the file is empty; write a volume",
        ),
        ("--- ~\n", "v.yaml:1:5: the file is empty; write a volume"),
        ("hello", "v.yaml:1:1: expected a map of fields, found text"),
        (
            "a:\n\t- b",
            "v.yaml:2:2: not YAML: tabs disallowed within this context (block indentation)",
        ),
        (
            "a: *x",
            "v.yaml:1:4: not YAML: alias references unknown anchor",
        ),
        (
            "a: 1\na: 2",
            "v.yaml:2:1: the field `a` is there twice; keep one",
        ),
    ] {
        assert_eq!(complaints(text), [message], "{text:?}");
    }
    let two = format!("{HEAD}    - local: {{path: /x}}\n---\nkind: Volume\n");
    let message = complaints(&two).remove(0);
    assert!(
        message.contains("a second document begins here"),
        "{message}"
    );
    // A bracket more than the parser nests is a problem, not a crash.
    assert!(parse(&"[".repeat(100_000)).is_err());
    assert!(parse(&format!("a: {}1{}", "[".repeat(1000), "]".repeat(1000))).is_err());
}

#[test]
fn the_header_comes_first() {
    assert_eq!(
        complaints("apiVersion: v2\nkind: Pod\nfoo: bar\n"),
        [
            "v.yaml:1:13: apiVersion: `v2` is not supported; write sharedvolume.io/v1",
            "v.yaml:2:7: kind: `Pod` is not supported; write Volume",
        ]
    );
    assert_eq!(
        complaints("kind: Volume\n"),
        ["v.yaml:1:1: the field `apiVersion` is missing; add it"]
    );
    let bad_name = EVERYTHING.replace("name: demo", "name: My Demo");
    let message = complaints(&bad_name).remove(0);
    assert!(
        message.starts_with("v.yaml:4:9: metadata.name: not a name; "),
        "{message}"
    );
    assert!(message.ends_with("such as `my-demo`"), "{message}");
}

#[test]
fn unknown_fields() {
    let messages = wrong(
        "    - s3: {buckt: b}
    - s3: {bucket: b, endpoint: x}
      colour: blue
    - s4: {bucket: b}
",
    );
    assert_eq!(
        messages[0],
        "v.yaml:7:12: spec.layers[0].s3.buckt: unknown field; did you mean `bucket`? (known here: \
         bucket, prefix, region, endpointUrl, pathStyle, noSignRequest, profile, requesterPays, \
         credentials, tls, proxy)"
    );
    assert!(
        messages[1].starts_with(
            "v.yaml:8:23: spec.layers[1].s3.endpoint: unknown field; write `endpointUrl` (known"
        ),
        "{messages:#?}"
    );
    assert!(
        messages[2]
            .starts_with("v.yaml:9:7: spec.layers[1].colour: unknown field (known here: name"),
        "{messages:#?}"
    );
    assert!(messages[3].contains("spec.layers[2].s4: unknown field; did you mean `s3`?"));
    // Neither the bucket nor the source that the slips leave missing is reported as well.
    assert_eq!(messages.len(), 4, "{messages:#?}");
}

#[test]
fn wrong_types_and_values() {
    let messages = wrong(
        "    - s3: {bucket: 12}
      strict: yes
      timeout: 30
      refresh: 0s
      include: '*.csv'
    - http: https://host/
    - local: {path: [a]}
    - text
    - http: {url: https://h/, index: xml}
    - local: {path: /x}
      path: /a/../b
      exclude: ['a[']
  mount: {uid: -1, umask: 22}
  cache: {size: lots}
",
    );
    for (at, message) in [
        "v.yaml:7:20: spec.layers[0].s3.bucket: expected text, found a number; put it in quotes",
        "v.yaml:8:15: spec.layers[0].strict: expected true or false, found text",
        "v.yaml:9:16: spec.layers[0].timeout: a duration needs a unit; write it as 500ms, 30s, 5m or 1h30m",
        "v.yaml:10:16: spec.layers[0].refresh: `0s` is less than a second; write 1s or more, or never",
        "v.yaml:11:16: spec.layers[0].include: expected a list, found text",
        "v.yaml:12:13: spec.layers[1].http: expected a map of fields, found text",
        "v.yaml:13:21: spec.layers[2].local.path: expected text, found a list",
        "v.yaml:14:7: spec.layers[3]: expected a map of fields, found text",
        "v.yaml:15:38: spec.layers[4].http.index: `xml` is not supported; write auto or html or json",
        "v.yaml:17:13: spec.layers[5].path: not a path of the volume: `.` or `..` as a name; write it out, such as /data/v2",
        "v.yaml:18:17: spec.layers[5].exclude[0]: not a glob: unclosed character class; missing ']'; write a pattern such as *.csv, docs/** or {a,b}/*.json",
        "v.yaml:19:16: spec.mount.uid: expected a whole number from 0 to 4294967295, found another number",
        "v.yaml:19:27: spec.mount.umask: a umask is octal; write all its digits in quotes, such as \"022\"",
        "v.yaml:20:17: spec.cache.size: `lots` is not a size; write a size such as 512MiB (1024-based), 10G (1000-based) or 4096, or a share of the disk such as 10%",
    ]
    .into_iter()
    .enumerate()
    {
        assert_eq!(messages.get(at).map(String::as_str), Some(message), "{messages:#?}");
    }
    assert_eq!(messages.len(), 14, "{messages:#?}");
}

#[test]
fn not_exactly_one_source() {
    let messages = wrong(
        "    - s3: {bucket: b}
      http: {url: https://h/}
    - path: /x
    - local: {path: /x}
      http: {url: https://h/}
      s3: {bucket: b}
",
    );
    assert_eq!(
        messages,
        [
            "v.yaml:8:7: spec.layers[0]: two sources (s3 and http); write exactly one, make it two layers",
            "v.yaml:9:7: spec.layers[1]: no source; write exactly one of s3, gcs, azure, http, webdav, git, sftp, ftp, local",
            "v.yaml:11:7: spec.layers[2]: three sources (local and http and s3); write exactly one, make it three layers",
        ]
    );
    assert_eq!(
        wrong("    []\n"),
        ["v.yaml:7:5: spec.layers: no layer; write at least one"]
    );
}

#[test]
fn secrets_stand_elsewhere_and_are_never_shown() {
    let messages = wrong(
        "    - s3:
        bucket: b
        credentials:
          accessKeyId: hunter2
          secretAccessKey: {fromEnv: 'hunter2 as it is'}
          sessionToken: {fromEnv: A, fromFile: b}
    - s3: {bucket: b, secretAccessKey: hunter2}
    - http: {url: 'https://joe:hunter2@host/', auth: hunter2}
    - http: {url: https://h/, auth: {bearer: {token: hunter2}}}
    - http: {url: https://h/, auth: {basic: {username: 'joe:hunter2', password: {fromEnv: A}}}}
    - s3: {bucket: 'key:hunter2@b', credentials: hunter2}
    - http: {url: https://h/, manifest: hunter2, index: [hunter2]}
",
    );
    let by_reference = "a secret in plain text does not belong in a volume file; write where it \
                        is: `{fromEnv: VARIABLE}` or `{fromFile: /path/to/file}`";
    assert_eq!(
        messages[0],
        format!("v.yaml:10:24: spec.layers[0].s3.credentials.accessKeyId: {by_reference}")
    );
    assert_eq!(
        messages[1],
        "v.yaml:11:28: spec.layers[0].s3.credentials.secretAccessKey: `fromEnv` takes the name of \
         an environment variable (letters, digits and `_`), not its value"
    );
    assert!(messages[2].contains("sessionToken: two places (fromEnv and fromFile)"));
    assert!(messages[3].contains("secretAccessKey: unknown field; write `credentials`"));
    assert!(messages[4].starts_with("v.yaml:14:19: spec.layers[2].http.url: a user name or"));
    assert!(messages[4].contains("{fromEnv: VARIABLE}"), "{messages:#?}");
    assert!(messages[5].contains("http.auth: expected bearer or basic, found text"));
    assert!(messages[6].ends_with(&format!("bearer.token: {by_reference}")));
    assert!(messages[7].contains("a bucket's name holds no `@`"));
    assert!(messages[8].contains("s3.credentials: expected a map of fields, found text"));
    assert!(messages[9].contains("http.manifest: expected a map of fields, found text"));
    assert!(messages[10].contains("http.index: expected auto or html or json, found a list"));
    assert_eq!(messages.len(), 11, "{messages:#?}");
}

#[test]
fn what_fields_say_together() {
    let messages = wrong(
        "    - name: a
      local: {path: ''}
    - name: a
      local: {path: /x}
    - name: s3-3
      local: {path: /x}
    - s3:
        bucket: b
        prefix: a/../b
        noSignRequest: true
        credentials: {accessKeyId: {fromEnv: A}, secretAccessKey: {fromEnv: B}}
    - http: {url: https://h/, auth: {basic: {username: 'a:b', password: {fromEnv: A}}}}
    - http: {url: https://h/, manifest: {url: https://h/, file: x, format: list}}
    - http: {url: https://h/, manifest: {format: list}}
    - ftp: {host: h, user: u, password: {fromEnv: A}}
",
    );
    for (message, rest) in [
        (
            "v.yaml:21:41: spec.layers[7].ftp.password: the password would be sent in the clear",
            "`clearPassword: true` where the network is trusted",
        ),
        (
            "v.yaml:8:21: spec.layers[0].local.path: the path is empty",
            "write that of a directory",
        ),
        (
            "v.yaml:9:13: spec.layers[1].name: `a` is the name of spec.layers[0] too",
            "its own",
        ),
        (
            "v.yaml:11:13: spec.layers[2].name: `s3-3` is the name of spec.layers[3] too",
            "its own",
        ),
        (
            "v.yaml:15:17: spec.layers[3].s3.prefix: `..` leads nowhere",
            "out",
        ),
        (
            "v.yaml:17:22: spec.layers[3].s3.credentials: noSignRequest sends no",
            "out",
        ),
        (
            "v.yaml:19:41: spec.layers[5].http.manifest: the manifest has two places",
            "exactly one",
        ),
        (
            "v.yaml:20:41: spec.layers[6].http.manifest: the manifest has no place",
            "`file`",
        ),
        (
            "spec.layers[4].http.auth.basic.username: a user name cannot hold `:`",
            "by reference",
        ),
    ] {
        assert!(
            messages
                .iter()
                .any(|m| m.contains(message) && m.ends_with(rest)),
            "{message}\n{messages:#?}"
        );
    }
    assert_eq!(messages.len(), 9, "{messages:#?}");
}

#[test]
fn many_problems_are_cut_and_none_steers_the_terminal() {
    let layers = "    - colour: red\n".repeat(100);
    assert_eq!(wrong(&layers).len(), 20);
    let escape = wrong("    - local: {path: /x}\n      \"\\e[31m\": 1\n").remove(0);
    assert!(
        escape.contains("\\u{1b}[31m") && !escape.contains('\x1b'),
        "{escape}"
    );
}

#[test]
fn files_that_cannot_be_read() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("v.yaml");
    let load = |path: &Path| Loaded::read(path, path, Path::new("/s"));
    let why = || load(&path).unwrap_err().to_string();
    assert!(
        why().contains("v.yaml: cannot read the volume file"),
        "{}",
        why()
    );
    std::fs::write(&path, b"\xff").unwrap();
    assert!(why().contains("not UTF-8"), "{}", why());
    std::fs::write(&path, " ".repeat(2 << 20)).unwrap();
    assert!(why().contains("too large"), "{}", why());
    assert!(load(dir.path()).is_err());
    std::fs::write(&path, EVERYTHING).unwrap();
    let volume = load(&path).unwrap().volume;
    assert_eq!(volume.spec.cache.dir.unwrap(), dir.path().join("cache"));
}

proptest! {
    #[test]
    fn any_text_is_read_or_refused(text in "(?s).{0,200}") {
        let _ = parse(&text);
    }

    /// Cuts and replaces bytes of a right file: what comes out is read or refused with a place.
    #[test]
    fn a_spoilt_file_is_read_or_refused(
        cut in 0..EVERYTHING.len(), length in 0..60_usize, with in "[ \\-:{}\\[\\]'\"#&*!|>%@a-z0-9\n\t~]{0,6}"
    ) {
        let end = (cut + length).min(EVERYTHING.len());
        let text = format!("{}{with}{}", &EVERYTHING[..cut], &EVERYTHING[end..]);
        if let Err(error) = parse(&text) {
            prop_assert!(!error.problems().is_empty());
            for problem in error.problems() {
                let Place::File { line, column, .. } = problem.place else {
                    return Err(TestCaseError::fail("not in the file"));
                };
                prop_assert!(line >= 1 && column >= 1, "{problem}\n{text}");
            }
        }
    }
}
