//! Everything that a fuzzer can throw bytes at, as plain functions. Never in a release.
//!
//! Each takes any bytes, and panics where what comes of them is wrong. `tests/fuzz` calls them.

use std::path::Path;

pub use crate::catalogue::fuzzing::catalogue_text;
use crate::config::{BucketName, GlobPattern, GraftPath, HttpUrl, Label, Volume, source_arg};
use crate::config::{ByteRate, ByteSize, CacheSize, HumanDuration, Refresh, Umask};
use crate::control::{registry, status};
use crate::entry::Kind;
use crate::filter::Filter;
use crate::fuse::orders;
use crate::namespace::fuzzing::stays_inside;
use crate::path::{Name, RelPath};
pub use crate::source::fuzzing::{
    aws_profile, s3_error, s3_page, web_headers, web_index, web_manifest,
};
#[cfg(feature = "azure")]
pub use crate::source::fuzzing::{azure_error, azure_page};
#[cfg(feature = "gcs")]
pub use crate::source::fuzzing::{gcs_error, gcs_page};
pub use svol_cache::fuzzing::{cache_directory, cache_sidecar};

/// A target: its name, which is that of its corpus, and the function.
pub type Target = (&'static str, fn(&[u8]));

/// All of them.
pub const TARGETS: &[Target] = &[
    ("aws_profile", aws_profile),
    #[cfg(feature = "azure")]
    ("azure_error", azure_error),
    #[cfg(feature = "azure")]
    ("azure_page", azure_page),
    ("cache_directory", cache_directory),
    ("cache_sidecar", cache_sidecar),
    ("catalogue_text", catalogue_text),
    ("control", control),
    #[cfg(feature = "gcs")]
    ("gcs_error", gcs_error),
    #[cfg(feature = "gcs")]
    ("gcs_page", gcs_page),
    ("glob", glob),
    ("path", path),
    ("s3_error", s3_error),
    ("s3_page", s3_page),
    ("volume", volume),
    ("web_headers", web_headers),
    ("web_index", web_index),
    ("web_manifest", web_manifest),
    ("words", words),
];

/// A volume file: it is taken, or refused with places and words.
pub fn volume(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    match Volume::parse(&text, Path::new("/v/volume.yaml")) {
        Ok(volume) => {
            assert!(!volume.spec.layers.is_empty());
            for layer in &volume.spec.layers {
                // What was validated can be used.
                assert!(layer.filter().is_ok());
            }
            // What is written is read again as the same.
            if let Ok(json) = serde_json::to_string(&volume) {
                let again = Volume::parse(&json, Path::new("/v/volume.yaml"));
                assert_eq!(again.ok().as_ref(), Some(&volume), "{json}");
            }
        }
        Err(error) => assert!(!error.problems().is_empty()),
    }
}

/// A word of the command line, as everything that one can be.
pub fn words(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    macro_rules! again {
        ($($kind:ty),*) => {$(
            if let Ok(value) = text.parse::<$kind>() {
                let written = value.to_string();
                assert_eq!(written.parse::<$kind>().ok(), Some(value), "{written}");
            }
        )*};
    }
    again!(ByteSize, ByteRate, CacheSize, HumanDuration, Refresh, Umask);
    again!(BucketName, GraftPath, Label, GlobPattern, HttpUrl);
    let _ = source_arg::parse(&text, Path::new("/d"));
    let label = Label::nearest(&text);
    assert_eq!(label.to_string().parse().ok(), Some(label));
}

/// A pattern, and after the first line break a path that it may match.
pub fn glob(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    let (pattern, path) = text.split_once('\n').unwrap_or((&text, "a/b.c"));
    if let Ok(filter) = Filter::new(&[pattern], &[pattern]) {
        for kind in [Kind::Dir, Kind::File] {
            // Excluding wins.
            let shown = filter.shows(path, kind);
            let alone = Filter::new(&[pattern], &[]).is_ok_and(|f| f.shows(path, kind));
            assert!(alone || !shown);
        }
    }
}

/// A path, and after the first line break a link's target.
pub fn path(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    let (path, target) = text.split_once('\n').unwrap_or((&text, "../x"));
    let _ = Name::from_bytes(data);
    let Ok(path) = RelPath::new(path) else { return };
    let mut again = RelPath::root();
    for name in path.components() {
        assert!(!matches!(name.as_str(), "" | "." | ".."));
        assert!(!name.as_str().contains(['/', '\0']));
        again = again.join(&name);
    }
    assert_eq!(again, path);
    if stays_inside(&path, target) {
        // Read as text it leads to a place of the volume.
        let mut depth = path.components().count() as i64;
        for part in target.split('/') {
            match part {
                ".." => depth -= 1,
                "" | "." => {}
                _ => depth += 1,
            }
            assert!(depth >= 0, "{target:?} leads out of {path}");
        }
    }
}

/// What programs of ours tell one another: records, the status, orders, queries.
pub fn control(data: &[u8]) {
    if let Ok(record) = serde_json::from_slice::<registry::Record>(data) {
        let _ = record.is_alive();
    }
    if let Ok(status) = serde_json::from_slice::<status::Status>(data) {
        assert!(serde_json::to_vec(&status).is_ok());
    }
    orders::understand(data);
    let query = String::from_utf8_lossy(data);
    if let Ok(uri) = format!("/explain?{query}").parse::<axum::http::Uri>() {
        use axum::extract::Query;
        let pairs = Query::<std::collections::BTreeMap<String, String>>::try_from_uri(&uri);
        if let Ok(Query(pairs)) = pairs
            && let Some(path) = pairs.get("path")
        {
            let _ = RelPath::new(path.trim_matches('/'));
        }
    }
}
