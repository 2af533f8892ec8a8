//! Documents of the original: `svol convert` against golden files, and mounted as they are.
//!
//! Each `tests/convert/NAME.yaml` comes to `NAME.volume` and `NAME.report`. `SVOL_GOLDEN=write`
//! writes them anew.

mod common;

use std::path::{Path, PathBuf};

use common::mount::Place;

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
