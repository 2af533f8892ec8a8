//! Whether a recursive listing gives the directories that plain listings give, for hostile keys.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Instant;

use proptest::prelude::*;

use super::page::{Object, Page};
use crate::entry::{Entry, Kind, Timestamp};
use crate::path::RelPath;
use crate::rows::Room;
use crate::source::sweep::{Start, Sweep};
use crate::source::{ErrorKind, HiddenWhy, ListingBuilder, PackedListing, Result};

type Bucket = BTreeMap<String, u64>;

/// A page as a store lists it.
fn page(bucket: &Bucket, prefix: &str, grouped: bool, after: &str, most: usize) -> Page {
    let mut items: BTreeMap<String, Option<u64>> = BTreeMap::new();
    for (key, size) in bucket.iter().filter(|(key, _)| key.starts_with(prefix)) {
        match key[prefix.len()..].find('/').filter(|_| grouped) {
            Some(at) => items.insert(key[..prefix.len() + at + 1].to_owned(), None),
            None => items.insert(key.clone(), Some(*size)),
        };
    }
    let rest: Vec<_> = items
        .iter()
        .filter(|(key, _)| key.as_str() > after)
        .collect();
    let mut page = Page {
        next: (rest.len() > most).then(|| most.to_string()),
        ..Page::default()
    };
    for (key, size) in rest.iter().take(most) {
        match size {
            None => page.prefixes.push((*key).clone()),
            Some(size) => page.objects.push(object(key, *size)),
        }
    }
    page
}

fn object(key: &str, size: u64) -> Object {
    Object {
        key: key.to_owned(),
        size,
        mtime: None,
        tag: Some("\"e\"".into()),
        is_dir: false,
    }
}

fn plain(bucket: &Bucket, dir: &RelPath) -> PackedListing {
    let prefix = match dir.is_root() {
        true => String::new(),
        false => format!("{}/", dir.as_str()),
    };
    let mut listing = ListingBuilder::default();
    let page = page(bucket, &prefix, true, "", usize::MAX);
    page.add_to(&prefix, &mut listing).unwrap();
    listing.pack().unwrap()
}

fn entries(listing: &PackedListing) -> Vec<Entry> {
    let rows = listing.rows.iter();
    rows.map(|row| row.unwrap().row().unwrap().entry).collect()
}

fn hidden(listing: &PackedListing) -> BTreeMap<String, u64> {
    let hidden = listing.hidden.iter();
    hidden.map(|h| (format!("{:?}", h.why), h.count)).collect()
}

/// Returns all directories that plain listings lead to from `root`.
fn reachable(bucket: &Bucket, root: &RelPath, into: &mut BTreeMap<RelPath, PackedListing>) {
    let listing = plain(bucket, root);
    for entry in entries(&listing) {
        if entry.kind == Kind::Dir {
            reachable(bucket, &root.join(&entry.name), into);
        }
    }
    into.insert(root.clone(), listing);
}

/// Sweeps to the end; returns what came and how many pages it took.
fn sweep(
    bucket: &Bucket,
    mut sweep: Sweep,
    most: usize,
) -> Result<(Vec<(RelPath, PackedListing)>, usize)> {
    let (mut swept, mut pages) = (Vec::new(), 0);
    let root = sweep.root().clone();
    let prefix = match root.is_root() {
        true => String::new(),
        false => format!("{}/", root.as_str()),
    };
    while let Some(start) = sweep.next() {
        let after = match start {
            Start::Key(key) if key.is_empty() => String::new(),
            Start::Key(key) => format!("{prefix}{key}"),
            Start::Token(_) => format!("{prefix}{}", sweep.last()),
        };
        pages += 1;
        let mut keys = page(bucket, &prefix, false, &after, most).into_keys(&prefix)?;
        // Each page has its own.
        keys.next = keys.next.map(|_| format!("token {pages}"));
        let done = sweep.take(keys, (Instant::now(), Timestamp(0)))?;
        swept.extend(done.into_iter().map(|swept| (swept.path, swept.listing)));
    }
    Ok((swept, pages))
}

fn a_key() -> impl Strategy<Value = String> {
    let component = prop::sample::select(vec![
        "a", "a", "b", "a-", "a.", "a0", "a!", "c", "", ".", "..", "\n", "ü", "a\u{0}", "LONG",
    ]);
    let name = component.prop_map(|name| match name {
        "LONG" => "x".repeat(256),
        name => name.to_owned(),
    });
    (
        prop::collection::vec(name, 1..5),
        prop::bool::weighted(0.15),
    )
        .prop_map(|(names, marker)| names.join("/") + if marker { "/" } else { "" })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    /// Wherever it begins and however pages are cut: a directory that a sweep hands on is what its
    /// plain listing gives, and those that begin behind its start are all handed on.
    #[test]
    fn a_sweep_gives_the_directories_that_plain_listings_give(
        keys in prop::collection::btree_map(a_key(), 0..2u64, 0..60),
        root in prop::sample::select(vec!["", "a", "a/a", "b"]),
        start in prop_oneof![Just(String::new()), a_key()],
        most in 1..20usize,
        large in prop_oneof![Just(usize::MAX), 1..8usize],
    ) {
        let bucket: Bucket = keys.into_iter().filter(|(key, _)| !key.is_empty()).collect();
        let root = RelPath::new(root).unwrap();
        let mut known = BTreeMap::new();
        reachable(&bucket, &root, &mut known);
        let begun = Sweep::new(root.clone(), start.clone(), Room::default()).with_large(large);
        let (swept, pages) = sweep(&bucket, begun, most).unwrap();
        prop_assert!(pages <= 2 * bucket.len() / most + bucket.len() + 1);
        let mut came = BTreeSet::new();
        for (path, listing) in &swept {
            let Some(plain) = known.get(path) else {
                return Err(TestCaseError::fail(format!("{path} is no directory")));
            };
            prop_assert_eq!(entries(listing), entries(plain), "{}", path);
            prop_assert_eq!(hidden(listing), hidden(plain), "{}", path);
            prop_assert!(came.insert(path.clone()), "{} twice", path);
        }
        if large == usize::MAX {
            let behind = |path: &RelPath| {
                let below = path.strip_prefix(&root).unwrap();
                let prefix = if below.is_root() { String::new() } else { format!("{}/", below.as_str()) };
                start.is_empty() || prefix > start
            };
            let all: BTreeSet<RelPath> = known.keys().filter(|path| behind(path)).cloned().collect();
            prop_assert_eq!(came, all);
        }
    }
}

fn bucket(keys: &[&str]) -> Bucket {
    keys.iter().map(|key| ((*key).to_owned(), 1)).collect()
}

#[test]
fn keys_out_of_order_or_elsewhere_end_it() {
    let unordered = |keys: &[&str], start: &str| {
        let page = Page {
            objects: keys.iter().map(|key| object(key, 1)).collect(),
            ..Page::default()
        };
        let mut sweep = Sweep::new(RelPath::root(), start.into(), Room::default());
        let taken = page
            .into_keys("")
            .and_then(|keys| sweep.take(keys, (Instant::now(), Timestamp(0))));
        taken.map(|swept| swept.len())
    };
    assert_eq!(unordered(&["a/x", "b/x"], "").unwrap(), 3);
    // As a server lists that goes through directories, or that sorts without case.
    for keys in [&["a/x", "a-b"][..], &["a", "B"], &["a", "a"]] {
        assert_eq!(
            unordered(keys, "").unwrap_err().kind(),
            ErrorKind::Lied,
            "{keys:?}"
        );
    }
    // A server that does not know `start-after`.
    assert_eq!(
        unordered(&["a/x", "b/x"], "a0").unwrap_err().kind(),
        ErrorKind::Lied
    );
    let long = "x/".repeat(3000);
    assert_eq!(
        unordered(&[long.as_str()], "").unwrap_err().kind(),
        ErrorKind::Lied
    );
    let elsewhere = page(&bucket(&["q/a"]), "q/", false, "", 9).into_keys("p/");
    assert_eq!(elsewhere.unwrap_err().kind(), ErrorKind::Lied);
    let grouped = page(&bucket(&["p/q/a"]), "p/", true, "", 9).into_keys("p/");
    assert_eq!(grouped.unwrap_err().kind(), ErrorKind::Lied);
}

#[test]
fn what_has_no_end_is_passed_over() {
    let mut all: Bucket = (0..10_000).map(|n| (format!("b/{n:05}"), 1)).collect();
    all.extend(bucket(&["a/1", "a/2", "c/d/1", "e"]));
    let begun = Sweep::new(RelPath::root(), String::new(), Room::default()).with_large(100);
    let (swept, pages) = sweep(&all, begun, 50).unwrap();
    let paths: Vec<&str> = swept.iter().map(|(path, _)| path.as_str()).collect();
    assert_eq!(paths, ["a", "c/d", "c"]);
    assert!(pages <= 5, "{pages} pages");
    assert_eq!(swept[0].1.rows.len(), 2);
    assert!(
        !swept
            .iter()
            .any(|(_, l)| l.hidden.iter().any(|h| h.why == HiddenWhy::Shadowed))
    );
}
