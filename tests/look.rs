//! `svol ls` and `svol cat`: looking into a volume without mounting it; `svol demo`.

mod common;

use common::mount::{Place, is_mounted};
use common::noise;
use common::store::{Mood, Store};

/// A bucket and a local directory over it.
fn world() -> (Place, Store, Vec<String>) {
    let place = Place::new();
    let store = Store::with([
        ("big.bin", noise(1, 3 << 20)),
        ("shared", b"from the bucket".to_vec()),
        ("d/e/deep", b"deep".to_vec()),
    ]);
    let local = place.path("local");
    std::fs::create_dir(&local).unwrap();
    std::fs::write(local.join("shared"), "from the directory").unwrap();
    let mut sources = store.s3_args();
    sources.push(format!("file://{}", local.display()));
    (place, store, sources)
}

#[test]
fn ls_shows_the_merged_tree() {
    let (place, store, sources) = world();
    let ls = |options: &[&str]| {
        let mut args = vec!["ls".to_owned()];
        args.extend(options.iter().map(|o| o.to_string()));
        args.extend(sources.clone());
        place.ok(args)
    };
    assert_eq!(ls(&[]), "big.bin\nd/\nshared\n");
    assert_eq!(ls(&["-R"]), "big.bin\nd/\nd/e/\nd/e/deep\nshared\n");
    assert_eq!(ls(&["--path", "/d/e"]), "deep\n");
    assert_eq!(ls(&["--path", "big.bin"]), "big.bin\n");
    let long = ls(&["-l"]);
    let line = |name: &str| {
        let mut lines = long.lines();
        let found = lines.find(|l| l.split_whitespace().nth(3) == Some(name));
        found.unwrap_or_else(|| panic!("no {name} in\n{long}"))
    };
    assert!(line("big.bin").contains("3145728") && line("big.bin").ends_with("s3://b/big.bin"));
    assert!(line("shared").contains("file://"), "{long}");
    assert!(line("d/").starts_with('d'));
    // Known from the first time: no request.
    let before = store.requests();
    ls(&["-R"]);
    assert_eq!(store.requests(), before);
    assert!(!is_mounted(&place.path("mnt")));
}

#[test]
fn cat_prints_files_and_says_what_failed() {
    let (place, store, sources) = world();
    let cat = |paths: &[&str]| {
        let mut args = vec!["cat".to_owned()];
        for path in paths {
            args.extend(["--path".to_owned(), path.to_string()]);
        }
        args.extend(sources.clone());
        place.svol(args)
    };
    let output = cat(&["/big.bin", "/shared"]);
    assert_eq!(output.status.code(), Some(0));
    assert!(output.stdout == [noise(1, 3 << 20), b"from the directory".to_vec()].concat());

    let output = cat(&["/none"]);
    assert_eq!(output.status.code(), Some(1));
    let said = String::from_utf8(output.stderr).unwrap();
    assert_eq!(said, "svol: /none: no such file or directory\n");

    // Cached: served without the source; not cached: an error with words.
    store.mood("d/", Mood::Status(403));
    let output = cat(&["/big.bin", "/d/e/deep"]);
    assert_eq!(output.status.code(), Some(3), "{output:?}");
    assert!(output.stdout == noise(1, 3 << 20));
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(said.contains("/d/e/deep") && said.contains("403"), "{said}");

    let output = cat(&["/d"]);
    assert_eq!(output.status.code(), Some(1));
    assert!(
        String::from_utf8(output.stderr)
            .unwrap()
            .contains("is a directory")
    );
}

#[test]
fn the_demonstration_shows_what_it_measured_and_cleans_up() {
    let place = Place::new();
    let temp = place.path("tmp");
    std::fs::create_dir(&temp).unwrap();
    let output = place
        .command(["demo"])
        .env("TMPDIR", &temp)
        .output()
        .unwrap();
    let said = String::from_utf8(output.stdout).unwrap();
    let err = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(0), "{said}\n{err}");
    // Which layer each file comes from: the later one wins, the filter hides.
    let line = |start: &str| {
        let mut lines = said.lines();
        let found = lines.find(|l| l.trim_start().starts_with(start));
        found.unwrap_or_else(|| panic!("no {start} in\n{said}"))
    };
    assert!(line("README.md").contains("file://"));
    assert!(line("model.bin ").contains("s3://models/llama/model.bin"));
    assert!(line("data/train/part-0.csv").contains("http://"));
    assert!(!said.contains("scratch.tmp") && !said.contains("not-ours"));
    assert!(line("cold").contains("67108864 bytes fetched"));
    assert!(line("warm ").contains(" 0 bytes fetched"));
    assert!(line("warm, from the disk").contains(" 0 bytes fetched"));
    // A commit moved both files of the repository.
    assert!(line("release/VERSION ").contains("git+file://"));
    assert!(
        said.contains("release/VERSION      1            -> 2"),
        "{said}"
    );
    assert!(said.contains("none of half a commit"), "{said}");
    assert_eq!(std::fs::read_dir(&temp).unwrap().count(), 0, "left behind");
}
