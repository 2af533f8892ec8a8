//! Documents of the original: `svol convert` against golden files, and mounted as they are.
//!
//! Each `tests/convert/NAME.yaml` comes to `NAME.volume` and `NAME.report`. `SVOL_GOLDEN=write`
//! writes them anew.

mod common;

use std::path::{Path, PathBuf};

use common::mount::Place;
use common::noise;
use common::s3::{ACCESS, SECRET, TestS3};
use common::web::{PASSWORD, TestNginx, USER};

fn golden(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/convert")
        .join(name)
}

/// Runs a command in the directory of the golden files.
fn svol(place: &Place, args: &[&str]) -> (Option<i32>, String, String) {
    let output = place
        .command(args)
        .current_dir(golden(""))
        .output()
        .unwrap();
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    (
        output.status.code(),
        text(output.stdout),
        text(output.stderr),
    )
}

fn compare(name: &str, found: &str) {
    if std::env::var_os("SVOL_GOLDEN").is_some_and(|what| what == "write") {
        std::fs::write(golden(name), found).unwrap();
    }
    let expected = std::fs::read_to_string(golden(name)).unwrap_or_default();
    assert_eq!(found, expected, "{name}");
}

fn convert(name: &str, code: i32) {
    let place = Place::new();
    let document = format!("{name}.yaml");
    let (ended, volume, report) =
        svol(&place, &["convert", &document, "--secrets-dir", "/secrets"]);
    assert_eq!(ended, Some(code), "{volume}\n{report}");
    compare(&format!("{name}.report"), &report);
    for text in [&volume, &report] {
        assert!(!text.contains("hunter2"), "{text}");
        // Of the key that is in base64.
        assert!(!text.contains("aHVudGVyMg"), "{text}");
    }
    if code == 2 {
        assert_eq!(volume, "");
        return;
    }
    compare(&format!("{name}.volume"), &volume);

    // Each as a file of its own is a volume file.
    let out = place.path("out");
    let target = format!("{}/", out.display());
    svol(
        &place,
        &[
            "convert",
            &document,
            "--secrets-dir",
            "/secrets",
            "-o",
            &target,
        ],
    );
    let files: Vec<PathBuf> = std::fs::read_dir(&out)
        .unwrap()
        .map(|f| f.unwrap().path())
        .collect();
    assert_eq!(files.len(), volume.split("\n---\n").count(), "{files:?}");
    let mut args = vec!["validate"];
    args.extend(files.iter().map(|file| file.to_str().unwrap()));
    let (ended, _, said) = svol(&place, &args);
    assert_eq!((ended, said.as_str()), (Some(0), ""));
    // And nothing is overwritten.
    let (ended, _, said) = svol(&place, &["convert", &document, "-o", &target]);
    assert_eq!(ended, Some(1), "{said}");
    assert!(said.contains("is not overwritten"), "{said}");
}

macro_rules! golden {
    ($($test:ident $name:literal $code:literal,)*) => {$(
        #[test]
        fn $test() {
            convert($name, $code);
        }
    )*};
}

golden! {
    git_with_a_token_of_a_secret "git-token" 3,
    git_with_a_key_in_the_document "git-key" 3,
    buckets "s3" 3,
    a_file_of_a_web_server "http" 3,
    a_web_server_with_a_login "http-login" 3,
    a_list_of_machines "ssh" 3,
    what_is_wrong_is_said "wrong" 2,
}

#[test]
fn a_document_of_fields_that_all_have_an_equivalent_ends_with_0() {
    let place = Place::new();
    let file = place.path("sv.yaml");
    let text = "apiVersion: sv.sharedvolume.io/v1alpha1\nkind: SharedVolume\nmetadata: {name: a}\n\
                spec: {mountPath: /mnt, source: {http: {url: 'https://a/b'}}}\n";
    std::fs::write(&file, text).unwrap();
    let out = place.path("v.yaml");
    let (ended, _, said) = svol(
        &place,
        &[
            "convert",
            file.to_str().unwrap(),
            "-o",
            out.to_str().unwrap(),
        ],
    );
    assert_eq!(ended, Some(0), "{said}");
    assert!(
        said.contains("spec.mountPath: is said at the command line"),
        "{said}"
    );
    assert!(out.is_file());

    std::fs::write(&file, "kind: Pod\n").unwrap();
    let (ended, _, said) = svol(&place, &["convert", file.to_str().unwrap()]);
    assert_eq!(ended, Some(2), "{said}");
    assert!(said.contains("holds no SharedVolume"), "{said}");
}

const HEAD: &str = "apiVersion: sv.sharedvolume.io/v1alpha1\nkind: SharedVolume\nmetadata: {name: a, \
                    namespace: ns}\nspec:\n  mountPath: /mnt\n  syncInterval: 30s\n  storage: \
                    {capacity: 1Gi}\n";

#[test]
fn a_web_document_is_mounted_as_it_is() {
    let web = TestNginx::start();
    std::fs::write(web.root.join("README.md"), "# read me\n").unwrap();
    let place = Place::new();
    let file = place.path("sv.yaml");
    let text = format!(
        "{HEAD}  source: {{http: {{url: '{}/plain/README.md'}}}}\n",
        web.url
    );
    std::fs::write(&file, text).unwrap();
    let file = file.to_str().unwrap();
    assert_eq!(place.ok(["validate", file]), format!("{file}: ok\n"));
    assert_eq!(place.ok(["ls", "-c", file]), "README.md\n");
    assert_eq!(
        place.ok(["cat", "-c", file, "--path", "/README.md"]),
        "# read me\n"
    );
    let mount = place.mount(&["-c", file]);
    assert_eq!(mount.read("README.md"), b"# read me\n");
    assert!(!mount.log().contains("WARN"), "{}", mount.log());
}

#[test]
fn a_password_in_a_document_mounts_with_a_warning_that_does_not_show_it() {
    let web = TestNginx::start();
    std::fs::create_dir(web.root.join("d")).unwrap();
    std::fs::write(web.root.join("d/f"), "behind a password").unwrap();
    let place = Place::new();
    let file = place.path("sv.yaml");
    let url = web
        .url
        .replace("http://", &format!("http://{USER}:{PASSWORD}@"));
    std::fs::write(
        &file,
        format!("{HEAD}  source: {{http: {{url: '{url}/auth/d/'}}}}\n"),
    )
    .unwrap();
    let mount = place.mount(&["-c", file.to_str().unwrap()]);
    assert_eq!(mount.read("f"), b"behind a password");
    let log = mount.log();
    assert!(
        log.contains("spec.source.http.url: a secret in plain text"),
        "{log}"
    );
    let status = place.ok(["status", "--json"]);
    for text in [&log, &status] {
        assert!(!text.contains(PASSWORD), "{text}");
    }
    drop(mount);

    // In the background the warning is on the terminal.
    let at = place.path("mnt");
    let output = place.svol([
        "mount".as_ref(),
        "-c".as_ref(),
        file.as_os_str(),
        at.as_os_str(),
    ]);
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(output.status.success(), "{said}");
    place.ok(["unmount".as_ref(), at.as_os_str()]);
    assert!(
        said.contains("spec.source.http.url: a secret in plain text"),
        "{said}"
    );
    assert!(!said.contains(PASSWORD), "{said}");
}

#[test]
fn a_bucket_document_takes_its_keys_from_mounted_secrets() {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let s3 = TestS3::shared();
    let bucket = runtime.block_on(async {
        let bucket = s3.bucket("original").await;
        s3.put(&bucket, "data/v1/model.bin", noise(1, 3 << 20))
            .await;
        s3.put(&bucket, "data/v10/other", "not ours").await;
        bucket
    });
    let place = Place::new();
    let file = place.path("sv.yaml");
    let text = format!(
        "{HEAD}  source:\n    s3:\n      endpointUrl: {}\n      bucketName: {bucket}\n      path: \
         data/v1\n      region: us-east-1\n      accessKeyFromSecret: {{name: s3, key: id}}\n      \
         secretKeyFromSecret: {{name: s3, key: key}}\n",
        s3.endpoint
    );
    std::fs::write(&file, text).unwrap();
    let secrets = place.path("secrets");
    let put = |dir: &str, name: &str, value: &str| {
        let dir = secrets.join(dir);
        std::fs::create_dir_all(&dir).unwrap();
        std::fs::write(dir.join(name), value).unwrap();
    };
    // The namespace's own win.
    put("s3", "id", "another");
    put("s3", "key", "another");
    put("ns/s3", "id", ACCESS);
    put("ns/s3", "key", SECRET);
    let args = [
        "-c",
        file.to_str().unwrap(),
        "--secrets-dir",
        secrets.to_str().unwrap(),
    ];
    let mount = place.mount(&args);
    assert!(mount.read("model.bin") == noise(1, 3 << 20));
    assert_eq!(std::fs::read_dir(mount.at()).unwrap().count(), 1);
    let explained = place.ok(["explain".as_ref(), mount.path("model.bin").as_os_str()]);
    assert!(
        explained.contains(&format!("s3://{bucket}/data/v1")),
        "{explained}"
    );
    drop(mount);

    // What convert makes of it shows the same.
    let out = place.path("v.yaml");
    let out = out.to_str().unwrap();
    let converted = place.svol(["convert", "-o", out].iter().chain(&args[1..]));
    assert_eq!(converted.status.code(), Some(3), "{converted:?}");
    assert_eq!(place.ok(["ls", "-c", out]), "model.bin\n");
}

#[test]
fn the_guide_tells_the_truth() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let guide = std::fs::read_to_string(root.join("docs/MIGRATION.md")).unwrap();
    let blocks: Vec<&str> = guide
        .split("```yaml\n")
        .skip(1)
        .map(|block| block.split("```").next().unwrap())
        .collect();
    let [old, new] = blocks[..] else {
        panic!("{blocks:?}")
    };
    let place = Place::new();
    let file = place.path("sv.yaml");
    std::fs::write(&file, old).unwrap();
    let file = file.to_str().unwrap();
    let (ended, volume, _) = svol(&place, &["convert", file]);
    assert_eq!(ended, Some(3));
    let without_comments: String = volume
        .lines()
        .filter(|line| !line.trim_start().starts_with('#'))
        .map(|line| format!("{line}\n"))
        .collect();
    assert_eq!(without_comments, new);

    // The commands, as they stand there, on what they name.
    let out = place.path("volumes");
    std::fs::write(place.path("sharedvolume.yaml"), old).unwrap();
    let run = |line: &str, stdin: &str| {
        let mut command = place.command(line.split(' ').skip(1));
        let input = place.path(stdin);
        command.current_dir(place.path(""));
        command.stdin(std::fs::File::open(input).unwrap());
        command.output().unwrap().status.code()
    };
    for (line, code) in [
        ("svol validate sharedvolume.yaml", 0),
        ("svol convert sharedvolume.yaml -o volume.yaml", 3),
        ("svol convert - -o volumes/", 3),
    ] {
        assert!(guide.contains(line), "{line}");
        assert_eq!(run(line, "sharedvolume.yaml"), Some(code), "{line}");
    }
    assert!(out.join("charts.yaml").is_file() && place.path("volume.yaml").is_file());

    // Each field of the original is in the table.
    for field in [
        "spec.mountPath",
        "syncInterval",
        "syncTimeout",
        "source.git",
        "source.s3",
        "source.http",
        "source.ssh",
        "storage.accessMode",
        "storage.capacity",
        "storageClassName",
        "nfsServer",
        "resourceNamespace",
        "referenceValue",
        "passwordFromSecret",
        "privateKeyFromSecret",
        "accessKeyFromSecret",
        "secretKeyFromSecret",
    ] {
        assert!(guide.contains(&format!("`{field}")), "{field}");
    }
}
