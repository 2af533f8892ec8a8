//! What a fuzzer throws at the parsers of web servers' replies. Never in a release.

use reqwest::header::{HeaderMap, HeaderName, HeaderValue};
use url::Url;

use super::super::fuzzing::check_listing;
use super::super::wire;
use super::{IndexFormat, ManifestFormat, index, manifest, validate};
use crate::path::{Name, RelPath};

/// A directory's page, in every format.
pub fn web_index(data: &[u8]) {
    // Cannot fail: a constant.
    let Ok(page) = Url::parse("http://host/t/some%20dir/") else {
        return;
    };
    for format in [IndexFormat::Auto, IndexFormat::Html, IndexFormat::Json] {
        for kind in [None, Some("text/html"), Some("application/json")] {
            if let Ok(listing) = index::parse(&page, kind, data, format) {
                check_listing(&listing);
            }
        }
    }
}

/// A manifest.
pub fn web_manifest(data: &[u8]) {
    for format in [ManifestFormat::List, ManifestFormat::Sha256sum] {
        let Ok(tree) = manifest::Tree::parse(data, format) else {
            continue;
        };
        let mut dirs = vec![RelPath::root()];
        while let Some(dir) = dirs.pop() {
            let listing = tree.dir(&dir);
            let listing = listing.unwrap_or_else(|| panic!("{dir} is listed and not there"));
            check_listing(listing);
            for entry in &listing.entries {
                let path = dir.join(&entry.name);
                match entry.kind {
                    crate::entry::Kind::Dir => dirs.push(path),
                    _ => assert!(tree.file(&path).is_some(), "{path} is listed and not there"),
                }
            }
        }
    }
}

/// The headers of a reply: each line is one.
pub fn web_headers(data: &[u8]) {
    let mut headers = HeaderMap::new();
    for line in data.split(|b| *b == b'\n') {
        let Some(at) = line.iter().position(|b| *b == b':') else {
            continue;
        };
        let (name, value) = (&line[..at], line[at + 1..].trim_ascii());
        if let (Ok(name), Ok(value)) =
            (HeaderName::from_bytes(name), HeaderValue::from_bytes(value))
        {
            headers.append(name, value);
        }
    }
    let size = wire::content_length(&headers);
    if let Ok((range, size)) = wire::content_range(&headers) {
        assert!(range.start < range.end && range.end <= size);
    }
    assert!(wire::retry_after(&headers).is_none_or(|p| p.as_secs() <= 3600));
    let _ = wire::check_encoding(&headers);
    let _ = wire::last_modified(&headers);
    let Ok(name) = Name::new("f") else { return };
    let entry = validate::described(name, size, &headers);
    assert!(validate::agree(&entry, &entry));
    if let Some(validator) = entry.validator.as_deref() {
        let _ = validate::condition(validator);
        // What a reply says of itself is what was pinned of it.
        assert_ne!(
            validate::is_pinned(validator, &headers),
            Some(false),
            "{validator}"
        );
    }
}
