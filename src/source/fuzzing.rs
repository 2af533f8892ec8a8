//! What holds for every listing, whoever wrote it.

use super::{Error, Listing};
use crate::path::Name;

#[cfg(feature = "azure")]
pub use super::azure::fuzzing::{azure_error, azure_page};
#[cfg(feature = "gcs")]
pub use super::gcs::fuzzing::{gcs_error, gcs_page};
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

/// Checks that of what a server says only so much goes into a log, and nothing that a terminal
/// obeys.
pub(crate) fn check_error(error: &Error) {
    let said = error.to_string();
    assert!(said.len() < 16384, "a message of {} bytes", said.len());
    assert!(!said.contains(char::is_control), "{said:?}");
}
