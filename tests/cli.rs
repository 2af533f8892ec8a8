//! The built `svol` binary: what it prints and how it ends.

use std::path::Path;
use std::process::{Command, Output};

fn svol(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_svol"))
        .args(arguments)
        .output()
        .unwrap()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).unwrap()
}

/// Asserts the exit status, and returns both outputs.
fn ends_with(code: i32, arguments: &[&str]) -> (String, String) {
    let output = svol(arguments);
    let outputs = (text(&output.stdout), text(&output.stderr));
    assert_eq!(
        output.status.code(),
        Some(code),
        "{arguments:?}: {outputs:?}"
    );
    outputs
}

#[test]
fn every_command_has_help_with_examples() {
    let commands: [&[&str]; 29] = [
        &[],
        &["mount"],
        &["unmount"],
        &["umount"],
        &["status"],
        &["probe"],
        &["upgrade"],
        &["doctor"],
        &["validate"],
        &["convert"],
        &["explain"],
        &["refresh"],
        &["reload"],
        &["warm"],
        &["evict"],
        &["pin"],
        &["unpin"],
        &["stats"],
        &["schema"],
        &["ls"],
        &["cat"],
        &["cache"],
        &["cache", "stats"],
        &["cache", "verify"],
        &["cache", "gc"],
        &["completions"],
        &["man"],
        &["fuse-helper"],
        &["demo"],
    ];
    for command in commands {
        let (help, _) = ends_with(0, &[command, &["--help"][..]].concat());
        let examples = help
            .split("Examples:")
            .nth(1)
            .unwrap_or_else(|| panic!("{help}"));
        assert!(examples.contains("svol "), "{help}");
    }
    // None was forgotten above.
    let (help, _) = ends_with(0, &["--help"]);
    let listed = help
        .lines()
        .skip_while(|line| *line != "Commands:")
        .skip(1)
        .take_while(|line| !line.is_empty());
    for line in listed {
        let name = line.split_whitespace().next().unwrap();
        assert!(
            name == "help" || commands.iter().any(|c| c.first() == Some(&name)),
            "{line}"
        );
    }
    assert!(ends_with(0, &["--version"]).0.starts_with("svol "));
}

#[test]
fn a_wrong_command_line_ends_with_2() {
    for arguments in [
        &[][..],
        &["fly"],
        &["mount"],
        &["mount", "--cache-size", "lots", "s3://a", "/mnt"],
        &["mount", "--colour", "s3://a", "/mnt"],
        &["validate"],
        &["cat", "s3://a"],
    ] {
        ends_with(2, arguments);
    }
    let (_, why) = ends_with(2, &["mount", "--refresh", "5", "s3://a", "/mnt"]);
    assert!(
        why.contains("--refresh") && why.contains("1h30m, or never"),
        "{why}"
    );
}

#[test]
fn validate_says_ok_or_why() {
    let dir = tempfile::tempdir().unwrap();
    let write = |name: &str, text: &str| {
        let path = dir.path().join(name);
        std::fs::write(&path, text).unwrap();
        path.to_str().unwrap().to_owned()
    };
    let head =
        "apiVersion: sharedvolume.io/v1\nkind: Volume\nmetadata: {name: a}\nspec:\n  layers:\n";
    let good = write("good.yaml", &format!("{head}    - local: {{path: /x}}\n"));
    let bad = write(
        "bad.yaml",
        &format!("{head}    - s3: {{bucket: b}}\n      http: {{}}\n"),
    );

    assert_eq!(
        ends_with(0, &["validate", &good]),
        (format!("{good}: ok\n"), String::new())
    );
    let (out, err) = ends_with(2, &["validate", &bad, &good]);
    assert_eq!(out, format!("{good}: ok\n"));
    assert_eq!(
        err,
        format!(
            "{bad}:7:7: spec.layers[0]: two sources (s3 and http); write exactly one, make it two \
             layers\n"
        )
    );
    let (_, err) = ends_with(2, &["validate", "/nonexistent.yaml"]);
    assert!(err.starts_with("/nonexistent.yaml: cannot read"), "{err}");
}

#[test]
fn schema_is_json_and_says_so() {
    let (out, _) = ends_with(0, &["schema"]);
    let schema: serde_json::Value = serde_json::from_str(&out).unwrap();
    assert_eq!(
        schema["$schema"],
        "https://json-schema.org/draft/2020-12/schema"
    );
    let sources = &schema["$defs"]["Layer"]["oneOf"];
    assert_eq!(sources.as_array().unwrap().len(), 9, "{sources}");
}

#[test]
fn the_reference_tells_the_truth() {
    let docs = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/VOLUME.md");
    let docs = std::fs::read_to_string(docs).unwrap();
    let dir = tempfile::tempdir().unwrap();
    let mut examples = 0;
    for (at, block) in docs.split("```yaml\n").skip(1).enumerate() {
        let path = dir.path().join(format!("example-{at}.yaml"));
        std::fs::write(&path, block.split("```").next().unwrap()).unwrap();
        ends_with(0, &["validate", path.to_str().unwrap()]);
        examples += 1;
    }
    assert!(examples >= 2, "{examples} examples");

    // Each field of the schema and each long option of `mount` is in the reference.
    let (schema, _) = ends_with(0, &["schema"]);
    let schema: serde_json::Value = serde_json::from_str(&schema).unwrap();
    let types = schema["$defs"]
        .as_object()
        .unwrap()
        .values()
        .chain([&schema]);
    for name in types
        .flat_map(|schema| schema["properties"].as_object())
        .flat_map(|p| p.keys())
    {
        assert!(
            docs.contains(&format!("`{name}`")),
            "{name} is not in docs/VOLUME.md"
        );
    }
    let (help, _) = ends_with(0, &["mount", "--help"]);
    let words = help.split(|c: char| !c.is_ascii_alphanumeric() && c != '-' && c != '_');
    for word in words.filter(|word| word.starts_with("--") || word.starts_with("SVOL_")) {
        let known = docs.contains(word) || matches!(word, "--help" | "--version" | "--verbose");
        assert!(known, "{word} is not in docs/VOLUME.md");
    }
}
