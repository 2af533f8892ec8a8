//! What holds for every listing, whoever wrote it.

use super::Listing;
use crate::path::Name;

pub use super::http::fuzzing::{web_headers, web_index, web_manifest};
pub use super::s3::fuzzing::{aws_profile, s3_error, s3_page};

/// Checks that each name is one that may be shown, and there once.
pub(crate) fn check_listing(listing: &Listing) {
    for entry in &listing.entries {
        let name = entry.name.as_str();
        assert!(Name::new(name).is_ok(), "{name:?}");
    }
    for pair in listing.entries.windows(2) {
        assert!(pair[0].name < pair[1].name, "{:?}", pair[1].name);
    }
    for hidden in &listing.hidden {
        assert!(hidden.count > 0);
        let odd = |c: char| c.is_control();
        assert!(!hidden.example.contains(odd), "{:?}", hidden.example);
    }
}
